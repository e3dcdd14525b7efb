//! Shares: judged at once, acknowledged once they are stored.

use std::time::Duration;

use adit_sv2::messages::mining::SubmitSharesExtended;

use super::sim::{Found, START, Sim, Wanted};
use crate::engine::Link;
use crate::store::{QUEUE_LIMIT, Queue, Record, ShareOutcome};

#[test]
fn shares_are_acknowledged_by_count_once_stored() {
    let (mut sim, _) = Sim::working("shares.ack_batch = 5\nshares.vardiff = false");
    for mut rig in [sim.extended("alice.rig"), sim.standard("bob")] {
        rig.mine(&mut sim, 7);
        assert_eq!(sim.records.len(), 7);
        sim.pass(Duration::from_millis(500));
        assert!(sim.heard(rig.peer).is_empty(), "not stored yet");
        sim.store();
        let heard = sim.heard(rig.peer);
        // 7 shares of 100 expected hashes are far below difficulty 1; the sum carries its fraction on.
        let id = rig.client.id();
        let ack = format!(
            "SubmitShares.Success {{ channel_id: {id}, last_sequence_number: 4, new_submits_accepted_count: 5, new_shares_sum: 0 }}"
        );
        assert_eq!(heard, [ack]);
        rig.mine(&mut sim, 3);
        sim.store();
        sim.heard_only(rig.peer, "last_sequence_number: 9, new_submits_accepted_count: 5");
    }
}

#[test]
fn shares_are_acknowledged_in_time_once_stored() {
    let (mut sim, _) = Sim::working("shares.ack_interval_ms = 1000\nshares.vardiff = false");
    let mut rig = sim.extended("a");
    rig.mine(&mut sim, 2);
    sim.pass(Duration::from_secs(5));
    assert!(sim.heard(rig.peer).is_empty());
    sim.store();
    sim.pass(Duration::from_millis(900));
    assert!(sim.heard(rig.peer).is_empty());
    sim.pass(Duration::from_millis(200));
    sim.heard_only(rig.peer, "last_sequence_number: 1, new_submits_accepted_count: 2");
    sim.pass(Duration::from_secs(5));
    assert!(sim.heard(rig.peer).is_empty());
    rig.mine(&mut sim, 1);
    sim.store();
    sim.pass(Duration::from_millis(1_100));
    sim.heard_only(rig.peer, "last_sequence_number: 2, new_submits_accepted_count: 1");
}

#[test]
fn difficulty_is_summed() {
    let (mut sim, _) =
        Sim::working("shares.ack_batch = 2\nshares.allow_above_network_difficulty = true");
    let mut rig = sim.extended("a");
    // What only the network's target is met by counts as a block's work: 65,536 hashes, or 1/65536.
    let message = adit_sv2::messages::mining::UpdateChannel {
        channel_id: rig.client.id(),
        nominal_hash_rate: 1e15,
        maximum_target: [0xff; 32],
    };
    sim.send(rig.peer, Link::Miner, &message);
    rig.listen(&mut sim);
    for _ in 0..2 {
        let block = rig.search(Wanted::Block);
        rig.submit(&mut sim, &block);
    }
    let work: Vec<u128> = sim.records.iter().filter_map(work).collect();
    assert_eq!(work, [65_536 + 1; 2]);
    sim.store();
    assert!(sim.heard(rig.peer)[0].contains("new_submits_accepted_count: 2, new_shares_sum: 0"));
}

fn work(record: &Record) -> Option<u128> {
    match record {
        Record::Share { outcome: ShareOutcome::Accepted { work, .. }, .. } => Some(*work),
        _ => None,
    }
}

#[test]
fn what_is_stored_names_its_worker() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("alice.rig.1");
    rig.mine(&mut sim, 1);
    let bad = rig.search(Wanted::TooEasy);
    rig.submit(&mut sim, &bad);
    let [
        Record::Share { identity, outcome, unix_ms },
        Record::Share { identity: same, outcome: rejected, .. },
    ] = &sim.records[..]
    else {
        panic!("{:?}", sim.records)
    };
    assert_eq!((identity.account.as_str(), identity.worker.as_str()), ("alice", "rig.1"));
    assert_eq!(identity, same);
    assert_eq!(*outcome, ShareOutcome::Accepted { number: 1, work: 100 });
    assert_eq!((*rejected, *unix_ms), (ShareOutcome::Rejected, u64::from(START) * 1_000));
}

#[test]
fn each_bad_share_has_its_code_at_once() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    let good = rig.search(Wanted::Share);
    rig.submit(&mut sim, &good);
    let too_easy = rig.search(Wanted::TooEasy);
    let cases: [(Found, &str); 9] = [
        (good.clone(), "duplicate-share"),
        (too_easy, "difficulty-too-low"),
        (Found { job_id: 4_000, ..good.clone() }, "invalid-job-id"),
        (Found { extranonce: vec![0; 7], ..good.clone() }, "bad-extranonce-size"),
        (Found { extranonce: vec![], ..good.clone() }, "bad-extranonce-size"),
        (Found { ntime: START - 1, ..good.clone() }, "invalid-share"),
        (Found { ntime: START + 7_200, ..good.clone() }, "invalid-share"),
        (Found { version: good.version ^ 1, ..good.clone() }, "invalid-non-rollable-version-bit"),
        (
            Found { version: good.version ^ 1 << 30, ..good.clone() },
            "invalid-non-rollable-version-bit",
        ),
    ];
    for (mut found, code) in cases {
        found.sequence_number += 100;
        rig.submit(&mut sim, &found);
        let error = format!(
            "SubmitShares.Error {{ channel_id: {}, sequence_number: {}, error_code: \"{code}\" }}",
            rig.client.id(),
            found.sequence_number
        );
        sim.heard_only(rig.peer, &error);
    }
    let nobody = SubmitSharesExtended {
        channel_id: 99,
        sequence_number: 1,
        job_id: 1,
        nonce: 0,
        ntime: 0,
        version: 0,
        extranonce: Default::default(),
    };
    sim.send(rig.peer, Link::Miner, &nobody);
    sim.heard_only(
        rig.peer,
        "{ channel_id: 99, sequence_number: 1, error_code: \"invalid-channel-id\" }",
    );
    let late = rig.search(Wanted::Share);
    sim.tip(tp, 0, 2, 2);
    rig.listen(&mut sim);
    rig.submit(&mut sim, &late);
    sim.heard_only(rig.peer, "stale-share");
    let channel = &sim.engine.status(sim.now)["channels"][0];
    assert_eq!(channel["accepted"], 1);
    assert_eq!(channel["rejected"]["ntime-too-old"], 1);
    assert_eq!(channel["rejected"]["stale-share"], 1);
    assert_eq!(channel["rejected"]["bad-extranonce-size"], 2);
}

#[test]
fn version_bits_may_be_rolled() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.standard("a");
    let mut found = rig.search(Wanted::Share);
    found.version ^= 0x1fff_ffe0 & 0x0123_4560;
    rig.submit(&mut sim, &found);
    // Another hash, but no complaint about the version.
    let heard = sim.heard(rig.peer);
    assert!(heard.is_empty() || heard[0].contains("difficulty-too-low"), "{heard:?}");
}

#[test]
fn a_share_of_a_closed_channel_is_credited_and_nobody_told() {
    let (mut sim, _) = Sim::working("shares.ack_batch = 1");
    let mut rig = sim.extended("a");
    rig.mine(&mut sim, 1);
    sim.event(rig.peer, Link::Miner, adit_transport::Event::Closed("closed by the peer"));
    assert_eq!(sim.store(), 1);
    assert!(sim.heard(rig.peer).is_empty());
    assert_eq!(sim.engine.core.ledger.unstored(), 0);
}

/// From a frame to the store's queue, and from the store's report to the acknowledgement.
#[test]
fn the_steady_path_does_not_allocate() {
    const SHARES: usize = 500;
    let (mut sim, tp) = Sim::working("shares.ack_batch = 10\nshares.vardiff = false");
    let queue = Queue::default();
    let mut batch = Vec::new();
    for (mut rig, tip) in [(sim.extended("a"), 2), (sim.standard("b"), 4)] {
        // The job before tells how many shares are to be expected, and buffers get their size.
        for round in 0..3 {
            sim.pass(Duration::from_secs(2));
            sim.tip(tp, 0, u64::from(tip) + round, tip + round as u8);
            rig.listen(&mut sim);
            let found: Vec<Found> = (0..SHARES).map(|_| rig.search(Wanted::Share)).collect();
            let frames: Vec<Vec<u8>> = found.iter().map(|found| rig.frame(found)).collect();
            let mut shares = 0;
            let measured = allocation_counter::measure(|| {
                for frame in &frames {
                    sim.event_quietly(rig.peer, frame, &queue);
                }
                queue.take(&mut batch);
                for record in batch.drain(..) {
                    shares += usize::from(work(&record).is_some());
                }
                sim.stored_quietly((SHARES as u64) * (round + 1) + 4_000_000);
            });
            assert_eq!(shares, SHARES);
            assert_eq!(sim.heard(rig.peer).len(), 0);
            if round == 2 {
                assert_eq!(
                    (measured.count_total, sim.said),
                    (0, SHARES / 10),
                    "allocations and acknowledgements"
                );
            }
        }
    }
}

#[test]
fn a_disk_that_hangs_is_back_pressure_that_miners_see() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false\nshares.ack_batch = 100000");
    let peer = sim.miner(0);
    // One hash in ten is a share.
    let open = adit_sv2::messages::mining::OpenExtendedMiningChannel {
        nominal_hash_rate: 1.0,
        ..super::sim::open_extended(1, "a")
    };
    sim.send(peer, Link::Miner, &open);
    let mut rig = sim.rig(peer);
    rig.mine(&mut sim, QUEUE_LIMIT);
    assert!(sim.heard(peer).is_empty());
    let one_more = rig.search(Wanted::Share);
    rig.submit(&mut sim, &one_more);
    sim.heard_only(peer, "store-unavailable");
    // A block is stored and submitted all the same, once, though it is no share before it comes again.
    let block = rig.search(Wanted::Block);
    for _ in 0..3 {
        rig.submit(&mut sim, &block);
        sim.heard_only(peer, "store-unavailable");
    }
    let blocks = |sim: &Sim| sim.records.iter().filter(|r| matches!(r, Record::Block(_))).count();
    assert_eq!(blocks(&sim), 1);
    sim.store();
    assert_eq!(sim.solutions(tp).len(), 1);
    sim.heard_names(peer);
    rig.submit(&mut sim, &block);
    assert_eq!((sim.records.iter().filter_map(work).count(), blocks(&sim)), (1, 0));
    // It was not judged, so it is no duplicate now.
    rig.submit(&mut sim, &one_more);
    assert!(sim.heard(peer).is_empty());
}
