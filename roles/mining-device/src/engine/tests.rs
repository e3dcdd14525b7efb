use std::net::SocketAddr;

use adit_mining::{BlockHash, Target};
use adit_sv2::codec::{B032, B064K, Seq064K, Seq0255, Str0255};
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::messages::common::{
    ChannelEndpointChanged, Reconnect, SetupConnectionError, SetupConnectionSuccess,
};
use adit_sv2::messages::extensions::{RequestExtensionsError, RequestExtensionsSuccess};
use adit_sv2::messages::mining::{
    CloseChannel, NewExtendedMiningJob, NewMiningJob, OpenExtendedMiningChannelSuccess,
    OpenMiningChannelError, OpenStandardMiningChannelSuccess, SetExtranoncePrefix, SetGroupChannel,
    SetNewPrevHash, SetTarget, SubmitSharesError, SubmitSharesExtended, SubmitSharesSuccess,
};
use adit_sv2::messages::{AnyMessage, Message};
use adit_transport::Delivery;
use clap::Parser;

use super::*;
use crate::hasher::Root;

const PEER: PeerId = PeerId(7);

/// One miner at a scripted server.
struct Bench {
    device: Device,
    out: Outbox<Effect>,
    now: Now,
}

impl Bench {
    fn new(flags: &[&str]) -> Self {
        Self::at("stratum2+tcp://127.0.0.1:1", flags)
    }

    fn at(url: &str, flags: &[&str]) -> Self {
        let base = ["x", "--connect", url, "--user", "a.b"];
        let config = Config::parse_from([&base, flags].concat());
        let upstream = config.upstream().unwrap();
        let now = Now::read();
        let mut bench = Self {
            device: Device::new(config, &upstream, now.instant, 1),
            out: Outbox::default(),
            now,
        };
        let remote: SocketAddr = "127.0.0.1:1".parse().unwrap();
        bench.event(Event::Opened { remote });
        bench
    }

    fn event(&mut self, event: Event<'_>) {
        self.device.handle(PEER, Link(0), event, self.now, &mut self.out);
    }

    fn receive<'m>(&mut self, message: &impl Message<'m>) {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        let (header, payload) = frame.split_first_chunk().unwrap();
        self.event(Event::Frame(Header::parse(header), payload));
    }

    /// What it said since the last look, as text.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        self.out.deliver(|delivery| match delivery {
            Delivery::Bytes(_, mut bytes) => {
                while let Some((header, rest)) = bytes.split_first_chunk() {
                    let header = Header::parse(header);
                    let (payload, rest) = rest.split_at(header.msg_length as usize);
                    said.push(AnyMessage::decode(&header, payload).unwrap().0.to_string());
                    bytes = rest;
                }
            }
            Delivery::Close(_, reason) => said.push(format!("close: {reason}")),
        });
        said
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.out.take_effects().collect()
    }

    fn work(&mut self) -> Work {
        match &self.effects()[..] {
            [Effect::Work(0, Some(work))] => work.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, extended: bool) {
        self.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        let target = Target::from_expected_hashes(1000.0).to_le_bytes();
        let extranonce_prefix = B032::new(&[1, 2, 3, 4]).unwrap();
        let (request_id, channel_id, group_channel_id) = (1, 5, 9);
        match extended {
            true => self.receive(&OpenExtendedMiningChannelSuccess {
                request_id,
                channel_id,
                target,
                extranonce_size: 4,
                extranonce_prefix,
                group_channel_id,
            }),
            false => self.receive(&OpenStandardMiningChannelSuccess {
                request_id,
                channel_id,
                target,
                extranonce_prefix,
                group_channel_id,
            }),
        }
    }

    /// Opens extended channels 5, 6, ... in group 9 for the first `count` requests.
    fn open_many(&mut self, count: u32) {
        self.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        (1..=count).for_each(|request_id| self.grant(request_id, 4 + request_id));
    }

    fn grant(&mut self, request_id: u32, channel_id: u32) {
        self.receive(&OpenExtendedMiningChannelSuccess {
            request_id,
            channel_id,
            target: Target::from_expected_hashes(1000.0).to_le_bytes(),
            extranonce_size: 4,
            extranonce_prefix: B032::new(&[1, 2, 3, channel_id as u8]).unwrap(),
            group_channel_id: 99,
        });
    }

    fn extended_job(&mut self, channel_id: u32, job_id: u32, min_ntime: Option<u32>) {
        self.receive(&NewExtendedMiningJob {
            channel_id,
            job_id,
            min_ntime,
            version: 0x2000_0000,
            version_rolling_allowed: true,
            merkle_path: Seq0255::new(&[[8; 32]]).unwrap(),
            coinbase_tx_prefix: B064K::new(&coinbase_prefix(8)).unwrap(),
            coinbase_tx_suffix: B064K::new(&COINBASE_SUFFIX).unwrap(),
        });
    }

    fn tip(&mut self, channel_id: u32, job_id: u32) {
        let (prev_hash, min_ntime, nbits) = ([6; 32], 1_700_000_000, 0x207f_ffff);
        self.receive(&SetNewPrevHash { channel_id, job_id, prev_hash, min_ntime, nbits });
    }

    fn find(&mut self, work: &Work, extranonce: &[u8]) {
        self.find_on(0, work, extranonce);
    }

    fn find_on(&mut self, miner: usize, work: &Work, extranonce: &[u8]) {
        let found = Found {
            miner,
            generation: work.generation,
            nonce: 11,
            ntime: work.ntime,
            version: work.version,
            extranonce: extranonce.to_vec(),
            hash: BlockHash([0; 32]),
        };
        self.device.found(&found, &mut self.out);
    }
}

/// A coinbase up to an extranonce of `size` bytes.
fn coinbase_prefix(size: u8) -> Vec<u8> {
    let mut prefix = vec![1, 0, 0, 0, 1];
    prefix.extend([0; 32]);
    prefix.extend([0xff; 4]);
    prefix.extend([3 + size, 1, 0x65, size]);
    prefix
}

/// Sequence, no outputs, locktime.
const COINBASE_SUFFIX: [u8; 9] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0];

#[test]
fn an_extended_channel_from_hello_to_acknowledged_share() {
    let mut bench = Bench::new(&["--shares", "3"]);
    let said = bench.said();
    assert!(
        said[0].starts_with(
            "SetupConnection { protocol: 0, min_version: 2, max_version: 2, flags: 0,"
        )
    );
    bench.open(true);
    assert!(
        bench.said()[0]
            .contains("OpenExtendedMiningChannel { request_id: 1, user_identity: \"a.b\"")
    );

    bench.extended_job(5, 1, None);
    assert!(bench.effects().is_empty(), "a future job is no work yet");
    bench.tip(5, 1);
    let work = bench.work();
    let Root::Rolled { coinbase_prefix: prefix, extranonce_size: 4, .. } = &work.root else {
        panic!("{work:?}")
    };
    assert!(prefix.ends_with(&[8, 1, 2, 3, 4]), "the prefix of the channel ends the fixed part");
    assert_eq!((work.prev_hash, work.ntime, work.nbits), ([6; 32], 1_700_000_000, 0x207f_ffff));

    bench.find(&work, &[0, 0, 0, 9]);
    let said = bench.said();
    assert_eq!(
        said,
        ["SubmitSharesExtended { channel_id: 5, sequence_number: 0, job_id: 1, nonce: 11, \
          ntime: 1700000000, version: 536870912, extranonce: 00000009 }"]
    );
    bench.receive(&SubmitSharesSuccess {
        channel_id: 5,
        last_sequence_number: 0,
        new_submits_accepted_count: 3,
        new_shares_sum: 1,
    });
    let ok = Outcome { ok: true, reason: "3 shares acknowledged".into() };
    assert_eq!(bench.effects(), [Effect::Finished(ok)]);
    assert_eq!(bench.said(), ["CloseChannel { channel_id: 5, reason_code: \"client-shutdown\" }"]);

    let report = bench.device.report(500, bench.now.instant + std::time::Duration::from_secs(5));
    assert_eq!((report.ok, report.shares_accepted, report.hashrate), (true, 3, 100.0));
    let connection = &report.connections[0];
    assert_eq!((connection.shares_submitted, connection.blocks_found), (1, 1));
    assert_eq!(connection.extranonce_prefixes, ["01020304"]);
}

#[test]
fn a_standard_channel_asks_for_standard_jobs_and_mines_their_root() {
    let mut bench = Bench::new(&["--mode", "sv2-standard"]);
    assert!(bench.said()[0].contains("flags: 1,"));
    bench.open(false);
    assert!(bench.said()[0].starts_with("OpenStandardMiningChannel {"));
    let merkle_root = [4; 32];
    let job = NewMiningJob { channel_id: 5, job_id: 1, min_ntime: None, version: 2, merkle_root };
    bench.receive(&job);
    bench.tip(5, 1);
    let work = bench.work();
    assert_eq!(work.root, Root::Fixed(merkle_root));
    bench.find(&work, &[]);
    assert!(bench.said()[0].starts_with("SubmitSharesStandard { channel_id: 5,"));
}

#[test]
fn only_the_newest_work_is_mined_and_submitted() {
    let mut bench = Bench::new(&[]);
    bench.open(true);
    bench.extended_job(5, 1, None);
    bench.tip(5, 1);
    let old = bench.work();
    // The group's frames count as the channel's; another channel's do not.
    bench.extended_job(77, 2, Some(1_700_000_001));
    assert!(bench.effects().is_empty());
    bench.extended_job(9, 2, Some(1_700_000_001));
    let new = bench.work();
    assert!(new.generation > old.generation);
    bench.said();
    bench.find(&old, &[0; 4]);
    assert!(bench.said().is_empty(), "a find of older work is not sent");
    // A target counts from the next job on, a prefix too.
    let target = Target::from_expected_hashes(5.0);
    bench.receive(&SetTarget { channel_id: 5, maximum_target: target.to_le_bytes() });
    let extranonce_prefix = B032::new(&[9, 9, 9, 9]).unwrap();
    bench.receive(&SetExtranoncePrefix { channel_id: 5, extranonce_prefix });
    assert!(bench.effects().is_empty());
    bench.extended_job(5, 3, Some(1_700_000_002));
    let work = bench.work();
    assert_eq!(work.target, target);
    let Root::Rolled { coinbase_prefix: prefix, .. } = &work.root else { panic!("{work:?}") };
    assert!(prefix.ends_with(&[9, 9, 9, 9]));
    let report = bench.device.report(0, bench.now.instant);
    assert_eq!(report.connections[0].extranonce_prefixes, ["01020304", "09090909"]);
}

#[test]
fn refusals_and_rejects_are_told_and_with_strict_they_end_the_run() {
    let code = |text| Str0255::new(text).unwrap();
    let refused = SetupConnectionError { flags: 0, error_code: code(b"unsupported-protocol") };
    let no_channel = OpenMiningChannelError { request_id: 1, error_code: code(b"no-capacity") };
    let reject =
        SubmitSharesError { channel_id: 5, sequence_number: 0, error_code: code(b"stale-share") };
    let closed = CloseChannel { channel_id: 5, reason_code: code(b"bye") };
    let outcome = |flags: &[&str], drive: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::new(flags);
        drive(&mut bench);
        let finished = bench.effects().into_iter().find_map(|effect| match effect {
            Effect::Finished(outcome) => Some((outcome.ok, outcome.reason)),
            Effect::Work(..) | Effect::Redirect { .. } => None,
        });
        (finished, bench)
    };
    type Drive<'a> = &'a dyn Fn(&mut Bench);
    let cases: [(&str, Drive<'_>); 5] = [
        ("upstream lost: connection refused: unsupported-protocol (flags 0x0)", &|b| {
            b.receive(&refused)
        }),
        ("upstream lost: channel refused: no-capacity", &|b| {
            b.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
            b.receive(&no_channel);
        }),
        ("share rejected: stale-share", &|b| {
            b.open(true);
            b.receive(&reject);
        }),
        ("upstream lost: channel closed: bye", &|b| {
            b.open(true);
            b.receive(&closed);
        }),
        ("upstream lost: gone", &|b| b.event(Event::Closed("gone"))),
    ];
    for (reason, drive) in cases {
        assert_eq!(outcome(&["--strict"], drive).0, Some((false, reason.to_owned())));
        let (finished, bench) = outcome(&[], drive);
        assert_eq!(finished, None, "{reason}: without --strict it carries on");
        let report = bench.device.report(0, bench.now.instant);
        let connection = &report.connections[0];
        assert_eq!(connection.reconnects + connection.shares_rejected, 1, "{reason}");
    }
}

#[test]
fn an_inconsistent_server_is_left() {
    let mut bench = Bench::new(&[]);
    bench.open(true);
    bench.said();
    bench.tip(5, 1);
    assert_eq!(bench.said(), ["close: of no use to the miner"], "a tip for a job never sent");
    // What the old connection still has to say does not reach the next one.
    bench.extended_job(5, 1, None);
    assert_eq!(bench.said(), Vec::<String>::new());
}

#[test]
fn a_group_s_job_is_work_for_each_of_its_channels() {
    let mut bench = Bench::new(&["--channels", "3"]);
    bench.open_many(2);
    let said = bench.said();
    assert_eq!(said.len(), 4, "hello and three requests: {said:#?}");
    for (number, line) in said[1..].iter().enumerate() {
        assert!(line.contains(&format!("user_identity: \"a.b-{}\"", number + 1)), "{line}");
    }
    assert_eq!((bench.device.miners(), bench.device.mining()), (3, 0));
    bench.extended_job(99, 1, None);
    bench.tip(99, 1);
    let effects = bench.effects();
    let [Effect::Work(0, Some(first)), Effect::Work(1, Some(second))] = &effects[..] else {
        panic!("{effects:?}")
    };
    let prefix = |work: &Work| match &work.root {
        Root::Rolled { coinbase_prefix, .. } => {
            coinbase_prefix[coinbase_prefix.len() - 4..].to_vec()
        }
        Root::Fixed(_) => panic!("a standard job"),
    };
    assert_eq!((prefix(first), prefix(second)), (vec![1, 2, 3, 5], vec![1, 2, 3, 6]));
    bench.find_on(1, second, &[0; 4]);
    bench.find_on(1, first, &[0; 4]); // of another miner
    bench.find_on(2, second, &[0; 4]); // has no channel yet
    let said = bench.said();
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("SubmitSharesExtended { channel_id: 6, sequence_number: 0, job_id: 1")
    );

    // Another group: its messages are those of the channel that went over.
    let ids = [6];
    let channel_ids = Seq064K::new(&ids).unwrap();
    bench.receive(&SetGroupChannel { group_channel_id: 77, channel_ids });
    bench.extended_job(77, 2, Some(1_700_000_001));
    assert!(matches!(&bench.effects()[..], [Effect::Work(1, Some(_))]));

    // One closes and the other goes on; with the last the connection is of no use.
    let close = |channel_id| CloseChannel { channel_id, reason_code: Str0255::cut("bye") };
    bench.receive(&close(77));
    assert_eq!(bench.effects(), [Effect::Work(1, None)]);
    let report = bench.device.report(0, bench.now.instant);
    let connection = &report.connections[0];
    assert_eq!((connection.channels, connection.group_messages), (1, 4));
    assert_eq!((&*connection.state, bench.device.mining()), ("mining", 1));
    // Its answer is still to come, so the connection is.
    bench.receive(&close(5));
    assert!(bench.said().is_empty());
    bench.receive(&OpenMiningChannelError { request_id: 3, error_code: Str0255::cut("full") });
    assert_eq!(bench.said(), ["close: of no use to the miner"]);
}

#[test]
fn an_answer_to_no_request_is_an_inconsistency() {
    for (request_id, channel_id) in [(2, 5), (0, 5), (1, 5)] {
        let mut bench = Bench::new(&[]);
        bench.open_many(1);
        bench.said();
        bench.grant(request_id, channel_id);
        assert_eq!(bench.said(), ["close: of no use to the miner"], "{request_id}");
    }
}

#[test]
fn a_channel_that_is_gone_ends_a_strict_run() {
    let mut bench = Bench::new(&["--channels", "2", "--strict"]);
    bench.open_many(2);
    bench.receive(&CloseChannel { channel_id: 5, reason_code: Str0255::cut("bye") });
    let reason = "channel closed: bye".to_owned();
    assert!(bench.effects().contains(&Effect::Finished(Outcome { ok: false, reason })));
}

/// Each of them by itself, while the others mine on; the one that was refused too.
#[test]
fn channels_that_are_gone_are_opened_again() {
    let mut bench = Bench::new(&["--channels", "4"]);
    bench.open_many(3);
    bench.receive(&OpenMiningChannelError { request_id: 4, error_code: Str0255::cut("full") });
    bench.extended_job(99, 1, None);
    bench.tip(99, 1);
    let works = bench.effects();
    assert_eq!((works.len(), bench.device.mining()), (3, 3));
    let Effect::Work(1, Some(stale)) = &works[1] else { panic!("{works:?}") };
    bench.receive(&CloseChannel { channel_id: 6, reason_code: Str0255::cut("bye") });
    assert_eq!(bench.effects(), [Effect::Work(1, None)]);
    bench.said();

    // Not at once, and not for long.
    bench.device.tick(bench.now, &mut bench.out);
    assert!(bench.said().is_empty());
    let mut asked = Vec::new();
    for _ in 0..3 {
        bench.now = bench.now.later(std::time::Duration::from_millis(100));
        bench.device.tick(bench.now, &mut bench.out);
        asked.extend(bench.said());
    }
    asked.sort_by_key(|line| line.contains("user_identity: \"a.b-4\""));
    let ids: Vec<u32> = asked
        .iter()
        .zip(["user_identity: \"a.b-2\"", "user_identity: \"a.b-4\""])
        .map(|(line, user)| {
            assert!(line.starts_with("OpenExtendedMiningChannel") && line.contains(user), "{line}");
            let id = line.split_once("request_id: ").unwrap().1;
            id.split_once(',').unwrap().0.parse().unwrap()
        })
        .collect();
    assert_eq!(ids.iter().copied().collect::<std::collections::BTreeSet<_>>(), [5, 6].into());

    // The server may use the id of the closed channel again; what was found on that one is not sent.
    bench.grant(ids[0], 6);
    bench.find_on(1, stale, &[0; 4]);
    assert!(bench.said().is_empty());
    bench.extended_job(6, 7, None);
    bench.tip(6, 7);
    let effects = bench.effects();
    let [Effect::Work(1, Some(work))] = &effects[..] else { panic!("{effects:?}") };
    bench.find_on(1, work, &[0; 4]);
    let said = bench.said();
    assert!(said[0].starts_with("SubmitSharesExtended { channel_id: 6, sequence_number: 0,"));

    // Refused again: asks again.
    bench.receive(&OpenMiningChannelError { request_id: ids[1], error_code: Str0255::cut("full") });
    bench.now = bench.now.later(std::time::Duration::from_secs(1));
    bench.device.tick(bench.now, &mut bench.out);
    assert!(bench.said()[0].starts_with("OpenExtendedMiningChannel { request_id: 7,"));
    bench.grant(7, 8);
    let report = bench.device.report(0, bench.now.instant);
    let connection = &report.connections[0];
    assert_eq!(
        (connection.channels, connection.channels_reopened, connection.reconnects),
        (4, 2, 0)
    );

    // A lost connection takes its requests with it.
    bench.receive(&CloseChannel { channel_id: 8, reason_code: Str0255::cut("bye") });
    bench.event(Event::Closed("gone"));
    bench.said();
    bench.event(Event::Opened { remote: "127.0.0.1:1".parse().unwrap() });
    bench.said();
    bench.now = bench.now.later(std::time::Duration::from_secs(60));
    bench.device.tick(bench.now, &mut bench.out);
    assert!(bench.said().is_empty(), "the answer to SetupConnection is still to come");
    bench.open_many(4);
    assert_eq!(bench.said().len(), 4, "one request of each");
}

#[test]
fn standard_channels_may_take_group_jobs() {
    let mut bench = Bench::new(&["--mode", "sv2-standard", "--group-jobs"]);
    assert!(bench.said()[0].contains("flags: 0,"));
    bench.open(false);
    bench.extended_job(9, 1, None);
    bench.tip(9, 1);
    assert!(matches!(bench.work().root, Root::Fixed(_)));
}

/// Sent on its way even with `--strict`: it is no loss.
#[test]
fn reconnect_goes_where_the_server_says() {
    for (host, port, expected) in [
        ("", 0, (None, None)),
        ("pool-2.example", 4444, (Some("pool-2.example".into()), Some(4444))),
        ("10.0.0.2", 0, (Some("10.0.0.2".into()), None)),
        ("no host/at all", 7, (None, Some(7))),
    ] {
        let mut bench = Bench::new(&["--strict"]);
        bench.open(true);
        bench.extended_job(5, 1, None);
        bench.tip(5, 1);
        let work = bench.work();
        bench.said();
        bench.receive(&Reconnect { new_host: Str0255::cut(host), new_port: port });
        assert_eq!(bench.said(), ["close: the server asked to reconnect"]);
        let (host, port) = expected;
        assert_eq!(
            bench.effects(),
            [Effect::Work(0, None), Effect::Redirect { connection: 0, host, port }]
        );
        bench.find(&work, &[0; 4]);
        assert!(bench.said().is_empty(), "nothing more is sent on the old connection");
        // The next connection begins anew.
        bench.event(Event::Opened { remote: "127.0.0.1:1".parse().unwrap() });
        assert!(bench.said()[0].starts_with("SetupConnection"));
        assert_eq!(bench.device.report(0, bench.now.instant).connections[0].reconnects, 1);
    }
}

/// The bytes of what was said last, behind the frame's header.
fn last_payload(bench: &mut Bench) -> Vec<u8> {
    let mut last = Vec::new();
    bench.out.deliver(|delivery| {
        if let Delivery::Bytes(_, bytes) = delivery {
            last = bytes[Header::LEN..].to_vec();
        }
    });
    last
}

#[test]
fn shares_name_their_worker_where_that_was_negotiated() {
    let mut bench = Bench::new(&["--worker-tlv"]);
    bench.said();
    bench.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
    assert_eq!(bench.said(), ["RequestExtensions { request_id: 1, requested_extensions: [2] }"]);
    let supported = [2];
    let supported_extensions = Seq064K::new(&supported).unwrap();
    bench.receive(&RequestExtensionsSuccess { request_id: 7, supported_extensions });
    assert!(bench.said().is_empty(), "an answer to something else");
    bench.receive(&RequestExtensionsSuccess { request_id: 1, supported_extensions });
    assert!(bench.said()[0].starts_with("OpenExtendedMiningChannel"));
    bench.grant(1, 5);
    bench.extended_job(5, 1, None);
    bench.tip(5, 1);
    let work = bench.work();
    let tlv = [2, 0, 1, 1, 0, b'b'];
    let share = |bench: &mut Bench| {
        bench.find(&work, &[0; 4]);
        last_payload(bench)
    };
    let payload = share(&mut bench);
    assert!(payload.ends_with(&tlv), "{payload:?}");
    let (_, tlvs) = SubmitSharesExtended::decode(&payload).unwrap();
    assert_eq!(tlvs.user_identity(), Ok(Some(&b"b"[..])));

    // Void until it is negotiated again.
    bench.receive(&ChannelEndpointChanged { channel_id: 77 });
    assert!(bench.said().is_empty(), "not ours");
    bench.receive(&ChannelEndpointChanged { channel_id: 5 });
    assert_eq!(bench.said(), ["RequestExtensions { request_id: 2, requested_extensions: [2] }"]);
    assert!(!share(&mut bench).ends_with(&tlv));
    bench.receive(&RequestExtensionsSuccess { request_id: 2, supported_extensions });
    assert!(bench.said().is_empty(), "the channel stays open");
    assert!(share(&mut bench).ends_with(&tlv));
    assert!(bench.device.report(0, bench.now.instant).connections[0].names_workers);
}

#[test]
fn without_the_extension_it_goes_on() {
    let unsupported = [2];
    let unsupported_extensions = Seq064K::new(&unsupported).unwrap();
    let required_extensions = Seq064K::default();
    let error =
        RequestExtensionsError { request_id: 1, unsupported_extensions, required_extensions };
    for silent in [false, true] {
        let mut bench = Bench::new(&["--worker-tlv"]);
        bench.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        bench.said();
        if silent {
            for seconds in [1, 3] {
                assert!(bench.said().is_empty());
                let now = bench.now.later(std::time::Duration::from_secs(seconds));
                bench.device.tick(now, &mut bench.out);
            }
        } else {
            bench.receive(&error);
        }
        assert!(bench.said()[0].starts_with("OpenExtendedMiningChannel"), "silent: {silent}");
        bench.device.tick(bench.now, &mut bench.out);
        bench.grant(1, 5);
        bench.extended_job(5, 1, None);
        bench.tip(5, 1);
        let work = bench.work();
        bench.said();
        bench.find(&work, &[0; 4]);
        let payload = last_payload(&mut bench);
        assert!(SubmitSharesExtended::decode(&payload).unwrap().1.is_empty());
    }
    // Nobody asked: whatever comes is ignored.
    let mut bench = Bench::new(&[]);
    bench.open(true);
    bench.said();
    bench.receive(&error);
    bench.receive(&ChannelEndpointChanged { channel_id: 5 });
    assert!(bench.said().is_empty());
}

#[test]
fn a_server_that_says_nothing_and_gives_no_work_is_left() {
    let sv1 = ("stratum+tcp://127.0.0.1:1", &["--mode", "sv1"][..]);
    for (url, flags) in [("stratum2+tcp://127.0.0.1:1", &[][..]), sv1] {
        let mut bench = Bench::at(url, flags);
        bench.now = bench.now.later(SILENCE - Duration::from_secs(1));
        bench.device.tick(bench.now, &mut bench.out);
        assert!(bench.device.connections[0].peer.is_some());
        bench.now = bench.now.later(Duration::from_secs(1));
        bench.device.tick(bench.now, &mut bench.out);
        assert_eq!(bench.device.connections[0].peer, None);
        let mut closed = false;
        bench.out.deliver(|said| closed |= said == Delivery::Close(PEER, "silent"));
        assert!(closed);
    }
}

#[test]
fn reasons_of_rejects_are_a_servers_words_and_bounded() {
    let mut bench = Bench::new(&[]);
    let rejected = |number: u32| News::Rejected(format!("duplicate share {number:#x}"));
    let news = (0..1_000).chain(0..1).map(rejected).collect();
    bench.device.digest(0, PEER, news, &mut bench.out);
    let counted = &bench.device.connections[0].report.rejected_by_reason;
    assert_eq!(counted.len(), MAX_REASONS + 1);
    assert_eq!((counted["duplicate share 0x0"], counted["other"]), (2, 936));
}
