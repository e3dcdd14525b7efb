//! No share is paid twice, whatever a client does with jobs of its own or the pool with its process.

use super::*;

/// Opens a channel that rolls so many bytes.
fn sized(sim: &mut Sim, peer: PeerId, size: u16) -> Rig {
    let open =
        OpenExtendedMiningChannel { min_extranonce_size: size, ..open_extended(1, "alice.farm") };
    sim.send(peer, Link::Miner, &open);
    sim.rig(peer)
}

/// Shares paid since it was asked last.
fn paid(sim: &mut Sim) -> usize {
    let accepted = |record: &Record| {
        matches!(record, Record::Share { outcome: ShareOutcome::Accepted { .. }, .. })
    };
    sim.records.drain(..).filter(accepted).count()
}

/// One channel's extranonce may contain those of others, who would put theirs where it has them.
#[test]
fn a_share_of_one_channel_is_none_of_another_with_a_smaller_extranonce() {
    let (mut sim, _) = working("");
    let plain = sim.miner(0);
    let mut outer = sized(&mut sim, plain, 16);
    let inner = [12, 8, 4, 0].map(|size| {
        let peer = connect(&mut sim);
        sized(&mut sim, peer, size)
    });
    let extranonce: Vec<u8> =
        inner.iter().flat_map(|rig| rig.client.extranonce_prefix().to_vec()).collect();
    let found = outer.search_with(Wanted::Share, extranonce, 0);
    outer.submit(&mut sim, &found);
    assert_eq!(paid(&mut sim), 1);
    let ours = tips::copy_of_ours(&outer);
    let mut before = outer.client.extranonce_prefix().to_vec();
    for (id, rig) in (1..).zip(&inner) {
        let mut job = ours.clone();
        job.coinbase_prefix.extend(&before);
        before.extend(rig.client.extranonce_prefix().as_bytes());
        let signed = token(id, declared(&job)).sign(&key(1), &[0; 32]);
        refused(&mut sim, rig, &job, &signed, "invalid-coinbase-prefix");
    }
    assert_eq!(paid(&mut sim), 0);
}

/// As many jobs as a channel keeps, on the tip before, and then one that is refused: the channel has our job again.
#[test]
fn our_job_does_not_pay_its_shares_again_after_many_of_the_clients() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let mut rig = client(&mut sim);
    sim.tip_at(tp, 0, 2, 2, 301);
    rig.listen(&mut sim);
    let found = rig.search(Wanted::Share);
    rig.submit(&mut sim, &found);
    assert_eq!(paid(&mut sim), 1);
    for serial in 1..=32 {
        let mut old = job(1, 300);
        old.coinbase_prefix.splice(3.., [4, b'j', b'd', b'c', serial, 12]);
        declare(&mut sim, &rig, &old, serial);
        sim.drop_frames();
        if serial % 16 == 0 {
            let code = "invalid-mining-job-token";
            refused(&mut sim, &rig, &job(1, 300), &[1; 9], code);
            rig.submit(&mut sim, &found);
            assert!(sim.heard(rig.peer)[0].contains("duplicate-share"));
        }
    }
    assert_eq!(paid(&mut sim), 0);
}

/// A client that was ahead for a moment, works on ours and brings a job of its own again before that moment is over.
#[test]
fn our_job_does_not_pay_its_shares_again_where_the_client_was_ahead_of_it() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let mut rig = client(&mut sim);
    let mut ahead = job(2, 301);
    declare(&mut sim, &rig, &ahead, 1);
    refused(&mut sim, &rig, &ahead, &[1; 9], "invalid-mining-job-token");
    sim.tip_at(tp, 0, 2, 2, 301);
    rig.listen(&mut sim);
    let found = rig.search(Wanted::Share);
    rig.submit(&mut sim, &found);
    assert_eq!(paid(&mut sim), 1);
    ahead.merkle_path.pop();
    declare(&mut sim, &rig, &ahead, 2);
    for _ in 0..10 {
        sim.pass(Duration::from_secs(1));
    }
    rig.listen(&mut sim);
    rig.submit(&mut sim, &found);
    assert!(sim.heard(rig.peer)[0].contains("duplicate-share"));
    assert_eq!(paid(&mut sim), 0);
}

/// Who had it next could bring the same job once the pool has the tip as well.
#[test]
fn an_extranonce_with_shares_of_a_tip_to_come_rests_while_that_counts() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let mut rig = client(&mut sim);
    let prefix = *rig.client.extranonce_prefix();
    let ahead = job(2, 301);
    let id = declare(&mut sim, &rig, &ahead, 1);
    assert_eq!(share(&mut sim, &mut rig, &ahead, id, 0), None);
    // The next job is on the tip that is known.
    declare(&mut sim, &rig, &job(1, 300), 2);
    sim.event(rig.peer, Link::Miner, Event::Closed("gone"));
    for tip in 2..=4 {
        sim.tip_at(tp, 0, u64::from(tip), tip, 299 + u32::from(tip));
        sim.pass(Duration::from_secs(6));
        assert_ne!(*client(&mut sim).client.extranonce_prefix(), prefix, "tip {tip}");
    }
    sim.tip_at(tp, 0, 5, 5, 304);
    assert_ne!(*client(&mut sim).client.extranonce_prefix(), prefix);
    sim.pass(Duration::from_secs(6));
    assert_eq!(*client(&mut sim).client.extranonce_prefix(), prefix);
}

/// The next run knows nothing of what was paid, so that its channels search elsewhere.
#[test]
fn extranonces_of_former_runs_are_not_given_out_again() {
    let mut seen = std::collections::HashSet::new();
    for run in [0, 1, 2, 3, 50, u64::MAX] {
        let mut sim = Sim::run("", 1, Vec::new(), run);
        let tp = sim.provider(0);
        sim.tip(tp, 0, 1, 1);
        for _ in 0..100 {
            let prefix = sim.extended("alice").client.extranonce_prefix().to_vec();
            assert!(prefix.len() == 4 && prefix[0] == 7, "the server's id");
            assert!(seen.insert(prefix), "run {run}");
        }
        assert_eq!(sim.engine.core.extranonces.in_use(), 100);
    }
    // As far from each other as the largest pool has channels.
    let starts: Vec<u32> = (0..16).map(|run| prefixes::start(run) & 0xff_ffff).collect();
    for (at, start) in starts.iter().enumerate() {
        let distance = |other: &u32| start.wrapping_sub(*other) & 0xff_ffff;
        assert!(
            starts[..at]
                .iter()
                .all(|other| distance(other).min(0x100_0000 - distance(other)) > 500_000)
        );
    }
}

/// Nobody has looked at what such a job builds on: its shares could be paid again each time that it is.
#[test]
fn a_previous_hash_that_is_made_up_pays_its_shares_once() {
    let more = "job_declaration.coinbase_only = true\njob_declaration.grace_secs = 5";
    let (mut sim, tp) = working(more);
    let mut rig = client(&mut sim);
    let made_up = job(10, 301);
    let id = set(&mut sim, &rig, &made_up, &token(1, allocated()).sign(&key(1), &[0; 32]));
    let later = CustomJob { min_ntime: START + 3_600, ..made_up.clone() };
    let found = search(&mut rig, &later, id, Wanted::Share, 0);
    rig.submit(&mut sim, &found);
    assert_eq!(paid(&mut sim), 1);
    for round in 2..=4 {
        sim.pass(Duration::from_secs(610));
        sim.tip_at(tp, 0, u64::from(round), round, 300);
        sim.drop_frames();
        let signed = token(round, allocated()).sign(&key(1), &[0; 32]);
        for asking in [rig.peer, connect(&mut sim)] {
            if asking != rig.peer {
                sim.send(asking, Link::Miner, &open_extended(1, "alice.farm"));
                rig = sim.rig(asking);
            }
            refused(&mut sim, &rig, &made_up, &signed, "stale-chain-tip");
        }
    }
}
