mod channels;
mod servers;

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
