//! Extensions: negotiated (0x0001), and the names of workers in shares (0x0002).

use std::time::Duration;

use adit_sv2::codec::{B032, Seq064K};
use adit_sv2::frame::{Header, encode_frame_with_tlvs};
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::mining::SubmitSharesExtended;
use adit_sv2::tlv::Tlv;
use adit_transport::{Event, PeerId};

use super::sim::{Found, Rig, Sim, Wanted, open_extended, open_standard, setup_connection};
use crate::engine::Link;
use crate::store::{Record, ShareOutcome};

fn ask(sim: &mut Sim, peer: PeerId, ids: &[u16]) {
    let requested_extensions = Seq064K::new(ids).unwrap();
    sim.send(peer, Link::Miner, &RequestExtensions { request_id: 7, requested_extensions });
}

fn granted(sim: &mut Sim, peer: PeerId, asked: &[u16], supported: &str) {
    ask(sim, peer, asked);
    let wanted = "RequestExtensions.Success { request_id: 7, supported_extensions: ";
    sim.heard_only(peer, &format!("{wanted}{supported} }}"));
}

fn refused(sim: &mut Sim, peer: PeerId, asked: &[u16], unsupported: &str, required: &str) {
    ask(sim, peer, asked);
    sim.heard_only(
        peer,
        &format!(
            "RequestExtensions.Error {{ request_id: 7, unsupported_extensions: {unsupported}, required_extensions: {required} }}"
        ),
    );
}

#[test]
fn every_request_is_answered() {
    let (mut sim, _) = Sim::working("");
    let peer = sim.miner(0);
    granted(&mut sim, peer, &[], "[]");
    granted(&mut sim, peer, &[2], "[2]");
    granted(&mut sim, peer, &[2, 2, 1], "[2, 1]");
    granted(&mut sim, peer, &[0x4321, 2, 3], "[2]");
    refused(&mut sim, peer, &[0x4321, 3], "[17185, 3]", "[]");
    let many: Vec<u16> = (3..=u16::MAX).collect();
    ask(&mut sim, peer, &many);
    assert!(sim.heard(peer)[0].starts_with("RequestExtensions.Error"));
    // And it goes on without them.
    sim.send(peer, Link::Miner, &open_extended(1, "a"));
    sim.rig(peer);
    let (mut sim, _) = Sim::working("mining.supported_extensions = []");
    let peer = sim.miner(0);
    refused(&mut sim, peer, &[2], "[2]", "[]");
}

#[test]
fn what_is_not_negotiated_is_dropped_and_what_cannot_be_read_ends_the_connection() {
    let (mut sim, _) = Sim::working("");
    let peer = sim.miner(0);
    for channel_msg in [false, true] {
        let header = Header { extension_type: 0x4321, channel_msg, msg_type: 0, msg_length: 3 };
        sim.event(peer, Link::Miner, Event::Frame(header, &[1, 2, 3]));
    }
    assert!(sim.heard(peer).is_empty() && sim.closed(peer).is_none());
    for (msg_type, channel_msg, payload, reason) in [
        (0, false, &[1][..], "malformed-frame"),
        (0, false, &[7, 0, 2, 0, 2, 0], "malformed-frame"),
        (0, true, &[7, 0, 0, 0], "unexpected-message"),
        (1, false, &[7, 0, 0, 0], "unexpected-message"),
    ] {
        let peer = sim.miner(0);
        let msg_length = payload.len() as u32;
        let header = Header { extension_type: 1, channel_msg, msg_type, msg_length };
        sim.event(peer, Link::Miner, Event::Frame(header, payload));
        assert_eq!(sim.closed(peer), Some(reason));
    }
}

#[test]
fn a_required_extension_is_asked_for_again_or_the_client_goes() {
    let (mut sim, _) = Sim::working("mining.required_extensions = [2]");
    let peer = sim.miner(0);
    refused(&mut sim, peer, &[9], "[9]", "[2]");
    refused(&mut sim, peer, &[], "[]", "[2]");
    granted(&mut sim, peer, &[9, 2], "[2]");
    // What is refused later takes nothing away.
    refused(&mut sim, peer, &[9], "[9]", "[2]");
    sim.send(peer, Link::Miner, &open_extended(1, "a"));
    sim.rig(peer);
    for asks in [false, true] {
        let peer = sim.miner(1);
        if asks {
            refused(&mut sim, peer, &[9], "[9]", "[2]");
        }
        sim.send(peer, Link::Miner, &open_standard(1, "a"));
        assert_eq!(sim.closed(peer), Some("required-extension-missing"));
        assert!(sim.heard(peer).is_empty());
    }
    // One that stays silent is closed as any other without a channel.
    let silent = sim.miner(0);
    sim.pass(Duration::from_secs(62));
    assert_eq!(sim.closed(silent), Some("no-channel-in-time"));
}

/// A client whose shares name their workers.
fn proxy(sim: &mut Sim, user: &str) -> Rig {
    let peer = sim.miner(0);
    granted(sim, peer, &[2], "[2]");
    sim.send(peer, Link::Miner, &open_extended(1, user));
    sim.rig(peer)
}

fn frame(rig: &Rig, found: &Found, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let share = SubmitSharesExtended {
        channel_id: rig.client.id(),
        sequence_number: found.sequence_number,
        job_id: found.job_id,
        nonce: found.nonce,
        ntime: found.ntime,
        version: found.version,
        extranonce: B032::new(&found.extranonce).unwrap(),
    };
    let mut frame = Vec::new();
    encode_frame_with_tlvs(&share, tlvs, &mut frame);
    frame
}

fn submit(sim: &mut Sim, rig: &Rig, found: &Found, tlvs: &[Tlv<'_>]) {
    let frame = frame(rig, found, tlvs);
    let (header, payload) = frame.split_first_chunk().unwrap();
    sim.event(rig.peer, Link::Miner, Event::Frame(Header::parse(header), payload));
}

fn mine(sim: &mut Sim, rig: &mut Rig, name: &str) {
    let found = rig.search(Wanted::Share);
    submit(sim, rig, &found, &[Tlv::user_identity(name.as_bytes()).unwrap()]);
}

/// Whose shares were stored, and whether they were good.
fn stored(sim: &Sim) -> Vec<(String, bool)> {
    let share = |record: &Record| match record {
        Record::Share { identity, outcome, .. } => {
            (identity.to_string(), matches!(outcome, ShareOutcome::Accepted { .. }))
        }
        Record::Block(_) => panic!("no block"),
    };
    sim.records.iter().map(share).collect()
}

#[test]
fn shares_are_credited_to_the_workers_that_they_name() {
    let (mut sim, _) = Sim::working("shares.vardiff = false");
    let mut rig = proxy(&mut sim, "alice.farm");
    for name in ["rig1", "alice.rig1", "rig2", "bob.x", "12345678901234567890123456789012"] {
        mine(&mut sim, &mut rig, name);
    }
    // The spec's example bytes, in the byte order that peers use.
    let found = rig.search(Wanted::Share);
    let mut bytes = frame(&rig, &found, &[]);
    bytes.extend([2, 0, 1, 10, 0]);
    bytes.extend(b"Worker_001");
    let length = (bytes.len() - Header::LEN) as u32;
    bytes[3..6].copy_from_slice(&length.to_le_bytes()[..3]);
    let (header, payload) = bytes.split_first_chunk().unwrap();
    sim.event(rig.peer, Link::Miner, Event::Frame(Header::parse(header), payload));
    // Fields of other extensions around it are passed over, and where it is missing the channel's own name counts.
    let other = Tlv { extension_type: 1, field_type: 9, value: &[1; 40] };
    let found = rig.search(Wanted::Share);
    submit(&mut sim, &rig, &found, &[other, Tlv::user_identity(b"rig2").unwrap(), other]);
    let found = rig.search(Wanted::Share);
    submit(&mut sim, &rig, &found, &[]);
    let bad = rig.search(Wanted::TooEasy);
    submit(&mut sim, &rig, &bad, &[Tlv::user_identity(b"rig2").unwrap()]);
    sim.heard_only(rig.peer, "difficulty-too-low");
    let names = [
        "alice.rig1",
        "alice.rig1",
        "alice.rig2",
        "alice.bob.x",
        "alice.12345678901234567890123456789012",
        "alice.Worker_001",
        "alice.rig2",
        "alice.farm",
        "alice.rig2",
    ];
    let wanted: Vec<_> =
        names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), i < 8)).collect();
    assert_eq!(stored(&sim), wanted);
    // One acknowledgement for the channel, whoever they are.
    sim.store();
    sim.pass(Duration::from_millis(1_200));
    sim.heard_only(rig.peer, "last_sequence_number: 7, new_submits_accepted_count: 8");
    let status = sim.engine.status(sim.now);
    let worker = |name: &str| {
        let all = status["workers"].as_array().unwrap();
        all.iter().find(|worker| worker["identity"] == name).unwrap_or(&serde_json::Value::Null)
    };
    assert_eq!(
        (&worker("alice.rig2")["accepted"], &worker("alice.rig1")["accepted"]),
        (&2.into(), &2.into())
    );
    assert_eq!(worker("alice.rig2")["rejected"]["difficulty-too-low"], 1);
    assert_eq!(worker("alice.farm")["accepted"], 1);
    assert_eq!(status["workers_count"], 6);
    assert!(worker("alice.rig1")["best_difficulty"].as_f64().unwrap() > 0.0);
    assert!(worker("alice.rig1")["last_share_unix_ms"].as_u64().unwrap() > 1_800_000_000_000);
    let channel = &status["channels"][0];
    assert_eq!((&channel["accepted"], &channel["named_workers"]), (&8.into(), &7.into()));
    assert_eq!(channel["identity"], "alice.farm");
}

#[test]
fn each_worker_has_its_hashrate() {
    let (mut sim, _) = Sim::working("shares.vardiff = false\nchannels.worker_metrics = 1");
    let mut rig = proxy(&mut sim, "alice");
    // A share is worth 100 hashes: 20 and 5 of them a second.
    for second in 0..900 {
        if second % 5 == 0 {
            mine(&mut sim, &mut rig, "fast");
        }
        if second % 20 == 0 {
            mine(&mut sim, &mut rig, "slow");
        }
        sim.pass(Duration::from_secs(1));
        sim.store();
        rig.listen(&mut sim);
    }
    let status = sim.engine.status(sim.now);
    let workers = status["workers"].as_array().unwrap();
    let rates: Vec<_> =
        workers.iter().map(|w| (w["worker"].as_str(), w["hashrate"].as_f64())).collect();
    let [(Some("fast"), Some(fast)), (Some("slow"), Some(slow))] = rates[..] else {
        panic!("{rates:?}")
    };
    assert!((18.0..22.0).contains(&fast) && (4.5..5.5).contains(&slow), "{fast} {slow}");
}

#[test]
fn a_name_beyond_its_limit_voids_the_share() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = proxy(&mut sim, "alice");
    let found = rig.search(Wanted::Share);
    let long = Tlv { extension_type: 2, field_type: 1, value: &[b'x'; 33] };
    submit(&mut sim, &rig, &found, &[long]);
    let id = rig.client.id();
    let number = found.sequence_number;
    sim.heard_only(
        rig.peer,
        &format!("SubmitShares.Error {{ channel_id: {id}, sequence_number: {number}, error_code: \"invalid-user-identity\" }}"),
    );
    // Cut off.
    let mut bytes = frame(&rig, &found, &[Tlv::user_identity(b"rig1").unwrap()]);
    bytes.truncate(bytes.len() - 1);
    let (header, payload) = bytes.split_first_chunk().unwrap();
    let header = Header { msg_length: payload.len() as u32, ..Header::parse(header) };
    sim.event(rig.peer, Link::Miner, Event::Frame(header, payload));
    sim.heard_only(rig.peer, "invalid-user-identity");
    assert!(sim.records.is_empty());
    // It was not judged: with a proper name it counts.
    submit(&mut sim, &rig, &found, &[Tlv::user_identity(b"rig1").unwrap()]);
    assert_eq!(stored(&sim), [("alice.rig1".to_owned(), true)]);
    assert_eq!(sim.engine.status(sim.now)["channels"][0]["rejected"]["invalid-user-identity"], 2);
    // A block is the channel's own then.
    sim.store();
    let block = rig.search(Wanted::Block);
    for _ in 0..2 {
        submit(&mut sim, &rig, &block, &[long]);
        sim.heard_only(rig.peer, "invalid-user-identity");
    }
    let [Record::Block(stored)] = &sim.records[..] else { panic!("{:?}", sim.records) };
    assert_eq!((stored.account.as_str(), stored.worker.as_str()), ("alice", ""));
    assert_eq!(stored.hash_bytes(), block.hash.0);
    sim.store();
    assert_eq!(sim.solutions(tp).len(), 1);
}

#[test]
fn names_mean_nothing_where_they_were_not_negotiated() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("alice.farm");
    let found = rig.search(Wanted::Share);
    let long = Tlv { extension_type: 2, field_type: 1, value: &[b'x'; 400] };
    submit(&mut sim, &rig, &found, &[long]);
    assert_eq!(stored(&sim), [("alice.farm".to_owned(), true)]);
    assert!(sim.heard(rig.peer).is_empty());
}

#[test]
fn names_made_up_cost_work_and_places_are_given_back() {
    let (mut sim, _) = Sim::working("channels.max_workers = 3\nshares.vardiff = false");
    let mut rig = proxy(&mut sim, "alice");
    let bad = rig.search(Wanted::TooEasy);
    for name in 0..50u8 {
        submit(&mut sim, &rig, &bad, &[Tlv::user_identity(&[b'a', name + b'0']).unwrap()]);
    }
    assert_eq!(sim.engine.core.workers, 0);
    sim.records.clear();
    for name in ["a", "b", "c", "d", "e", "a"] {
        mine(&mut sim, &mut rig, name);
    }
    let names: Vec<String> = stored(&sim).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["alice.a", "alice.b", "alice.c", "alice", "alice", "alice.a"]);
    assert_eq!(sim.engine.core.workers, 4);
    sim.event(rig.peer, Link::Miner, Event::Closed("closed by the peer"));
    assert_eq!(sim.engine.core.workers, 0);
}

#[test]
fn nothing_of_it_before_setup_connection() {
    let mut sim = Sim::new("");
    let peer = sim.open(Link::Miner);
    ask(&mut sim, peer, &[2]);
    assert_eq!(sim.closed(peer), Some("message-before-setup-connection"));
    let peer = sim.open(Link::Miner);
    sim.send(peer, Link::Miner, &setup_connection(0, 2, 2, 0));
    ask(&mut sim, peer, &[2]);
    assert_eq!(sim.heard_names(peer), ["SetupConnection.Success", "RequestExtensions.Success"]);
}
