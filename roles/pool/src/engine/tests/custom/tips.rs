//! Custom jobs where the client is ahead of the pool, or behind it.

use super::*;

#[test]
fn the_client_may_be_ahead_for_a_moment() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let (mut rig, mut other) = (client(&mut sim), client(&mut sim));
    let ahead = job(2, 301);
    let id = declare(&mut sim, &rig, &ahead, 1);
    assert_eq!(share(&mut sim, &mut rig, &ahead, id, 0), None);
    let lost = job(3, 301);
    let lost_id = declare(&mut sim, &other, &lost, 2);
    sim.pass(Duration::from_secs(2));
    sim.tip_at(tp, 0, 2, 2, 301);
    sim.pass(Duration::from_secs(20));
    // What came true lives on, what did not is stale, and gets no more time.
    let from = 1_000;
    assert_eq!(share(&mut sim, &mut rig, &ahead, id, from), None);
    assert!(rig.listen(&mut sim).is_empty());
    let names = other.listen(&mut sim);
    assert_eq!(names, ["NewExtendedMiningJob", "SetNewPrevHash"], "our work again");
    let stale = share(&mut sim, &mut other, &lost, lost_id, 0).unwrap();
    assert!(stale.contains("stale-share"), "{stale}");
    let again = token(3, declared(&lost)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &other, &lost, &again, "stale-chain-tip");
    other.mine(&mut sim, 1);
    assert!(sim.heard(other.peer).is_empty());
    // A target that no period's change explains is nobody's tip.
    let easy = CustomJob { nbits: 0x207f_ffff, ..job(9, 302) };
    let signed = token(4, declared(&easy)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &easy, &signed, "invalid-nbits");
}

#[test]
fn what_the_client_says_of_a_tip_that_we_do_not_know_must_come_true() {
    let (mut sim, tp) = working("");
    let mut rig = client(&mut sim);
    let easier = Target::from_expected_hashes(40_000.0).to_nbits();
    let ahead = CustomJob { nbits: easier, ..job(2, 301) };
    let id = declare(&mut sim, &rig, &ahead, 1);
    sim.tip_at(tp, 0, 2, 2, 301);
    let stale = share(&mut sim, &mut rig, &ahead, id, 0).unwrap();
    assert!(stale.contains("stale-share"), "{stale}");
}

#[test]
fn a_client_says_one_thing_of_a_tip_to_come() {
    let (mut sim, _) = working("");
    let rig = client(&mut sim);
    let ahead = job(2, 301);
    declare(&mut sim, &rig, &ahead, 1);
    let other = CustomJob { nbits: 0x1f01_ffff, ..ahead };
    let signed = token(2, declared(&other)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &other, &signed, "invalid-nbits");
}

#[test]
fn the_pool_may_be_ahead_for_a_moment() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let mut rig = client(&mut sim);
    let old = job(1, 300);
    let id = declare(&mut sim, &rig, &old, 1);
    sim.tip_at(tp, 0, 2, 2, 301);
    sim.pass(Duration::from_secs(2));
    assert_eq!(share(&mut sim, &mut rig, &old, id, 0), None, "for a little while");
    // One more on the old tip, from a client that has not seen the block.
    let more = CustomJob { merkle_path: vec![], ..job(1, 300) };
    let more_id = declare(&mut sim, &rig, &more, 2);
    assert_eq!(share(&mut sim, &mut rig, &more, more_id, 0), None);
    let new = job(2, 301);
    let new_id = declare(&mut sim, &rig, &new, 3);
    sim.pass(Duration::from_secs(5));
    for (job, id) in [(&old, id), (&more, more_id)] {
        let stale = share(&mut sim, &mut rig, job, id, 1_000_000).unwrap();
        assert!(stale.contains("stale-share"), "{stale}");
    }
    let late = token(4, declared(&old)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &old, &late, "stale-chain-tip");
    assert_eq!(share(&mut sim, &mut rig, &new, new_id, 0), None);
    // It has its own work, so none of ours.
    sim.template(tp, 0, 9, false, 9);
    assert!(rig.listen(&mut sim).is_empty());
}

/// The job that a miner has, as its client would bring it.
pub(super) fn copy_of_ours(rig: &Rig) -> CustomJob {
    let work = rig.client.active().unwrap();
    let coinbase = work.job.coinbase().unwrap();
    let (sequence, rest) = coinbase.suffix().split_first_chunk().unwrap();
    let (outputs, locktime) = rest.split_last_chunk().unwrap();
    CustomJob {
        version: work.job.version(),
        prev_hash: work.tip.prev_hash,
        min_ntime: work.min_ntime,
        nbits: work.tip.nbits,
        coinbase_tx_version: 2,
        coinbase_prefix: coinbase.prefix()[42..].to_vec(),
        coinbase_tx_input_sequence: u32::from_le_bytes(*sequence),
        coinbase_tx_outputs: outputs.to_vec(),
        coinbase_tx_locktime: u32::from_le_bytes(*locktime),
        merkle_path: work.job.merkle_path().to_vec(),
    }
}

/// Two blocks within the grace: jobs on the tip before both are still taken, so what was paid there is still known.
#[test]
fn a_copy_of_our_job_two_blocks_ago_does_not_pay_its_shares_again() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let (mut paid, idle) = (client(&mut sim), client(&mut sim));
    let (copy, other) = (copy_of_ours(&paid), copy_of_ours(&idle));
    paid.mine(&mut sim, 1);
    sim.tip_at(tp, 0, 2, 2, 301);
    sim.pass(Duration::from_secs(1));
    sim.tip_at(tp, 0, 3, 3, 302);
    for rig in [&paid, &idle] {
        sim.drop_frames_of(rig.peer);
    }
    declare(&mut sim, &idle, &other, 1);
    let signed = token(2, declared(&copy)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &paid, &copy, &signed, "repeated-custom-job");
}

/// Who got it within the grace could bring the same jobs again and be paid for the same shares.
#[test]
fn an_extranonce_rests_while_jobs_on_its_tip_count() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let mut paid = client(&mut sim);
    let prefix = *paid.client.extranonce_prefix();
    paid.mine(&mut sim, 1);
    sim.event(paid.peer, Link::Miner, Event::Closed("gone"));
    sim.tip_at(tp, 0, 2, 2, 301);
    let within = client(&mut sim);
    assert_ne!(*within.client.extranonce_prefix(), prefix);
    sim.pass(Duration::from_secs(6));
    assert_eq!(*client(&mut sim).client.extranonce_prefix(), prefix);
}

#[test]
fn without_a_grace_the_old_tip_is_over_at_once() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 0");
    let mut rig = client(&mut sim);
    let old = job(1, 300);
    let id = declare(&mut sim, &rig, &old, 1);
    let ahead = job(2, 301);
    let signed = token(2, declared(&ahead)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &ahead, &signed, "stale-chain-tip");
    sim.tip_at(tp, 0, 2, 2, 301);
    let late = token(3, declared(&old)).sign(&key(1), &[0; 32]);
    ask(&mut sim, rig.peer, rig.client.id(), &old, &late);
    // And with none of its own left it gets our work at once.
    let names = rig.listen(&mut sim);
    assert_eq!(names, ["SetCustomMiningJob.Error", "NewExtendedMiningJob", "SetNewPrevHash"]);
    sim.pass(Duration::from_secs(2));
    assert!(share(&mut sim, &mut rig, &old, id, 0).unwrap().contains("stale-share"));
    set(&mut sim, &rig, &ahead, &signed);
}

#[test]
fn who_has_no_job_of_its_own_on_the_tip_gets_ours() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let mut rig = client(&mut sim);
    let old = job(1, 300);
    declare(&mut sim, &rig, &old, 1);
    sim.tip_at(tp, 0, 2, 2, 301);
    sim.pass(Duration::from_secs(4));
    assert!(rig.listen(&mut sim).is_empty());
    sim.pass(Duration::from_secs(3));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
    // Of its own again, and refused on the next tip: ours at once.
    declare(&mut sim, &rig, &job(2, 301), 2);
    sim.tip_at(tp, 0, 3, 3, 302);
    assert!(rig.listen(&mut sim).is_empty());
    let id = rig.client.id();
    ask(&mut sim, rig.peer, id, &job(3, 302), &[1, 2, 3]);
    assert_eq!(
        rig.listen(&mut sim),
        ["SetCustomMiningJob.Error", "NewExtendedMiningJob", "SetNewPrevHash"]
    );
    rig.mine(&mut sim, 1);
    sim.template(tp, 0, 9, false, 9);
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob"]);
}

#[test]
fn what_a_client_said_of_a_tip_does_not_touch_our_jobs_on_it() {
    let (mut sim, tp) = working("");
    let peer = connect(&mut sim);
    let [own, mut other] = [(); 2].map(|()| {
        sim.send(peer, Link::Miner, &open_extended(1, "alice.farm"));
        sim.rig(peer)
    });
    // Ahead of us, and wrong about the target there.
    let ahead = CustomJob { nbits: 0x1f01_ffff, ..job(2, 301) };
    let id = declare(&mut sim, &own, &ahead, 1);
    sim.heard(peer);
    sim.tip_at(tp, 0, 2, 2, 301);
    other.listen(&mut sim);
    other.mine(&mut sim, 1);
    sim.heard(peer);
    let mut own = own;
    assert!(share(&mut sim, &mut own, &ahead, id, 0).unwrap().contains("stale-share"));
}

#[test]
fn on_a_fast_chain_the_client_may_be_ahead_every_time() {
    let (mut sim, tp) = working("job_declaration.max_per_minute = 6000");
    let mut rig = client(&mut sim);
    for tip in 2..80u8 {
        let next = job(tip, 299 + u32::from(tip));
        let id = declare(&mut sim, &rig, &next, tip);
        assert_eq!(share(&mut sim, &mut rig, &next, id, 0), None);
        sim.store();
        // Of three tips the template provider leaves out one.
        if tip % 3 != 0 {
            sim.tip_at(tp, 0, tip.into(), tip, 299 + u32::from(tip));
        }
        sim.pass(Duration::from_millis(700));
        sim.heard(rig.peer);
    }
    assert_eq!(results(&sim)["accepted"], 78);
}

#[test]
fn previous_hashes_that_are_made_up_are_bounded() {
    let (mut sim, _) = working("job_declaration.max_per_minute = 1000");
    let mut rig = client(&mut sim);
    for tip in 10..18 {
        declare(&mut sim, &rig, &job(tip, 301), tip);
    }
    let more = job(18, 301);
    let signed = token(18, declared(&more)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &more, &signed, "stale-chain-tip");
    sim.pass(Duration::from_secs(20));
    // Its own miners alone were concerned; they have our work still.
    rig.mine(&mut sim, 1);
    assert!(sim.heard(rig.peer).is_empty());
    let again = token(19, declared(&job(10, 301))).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &job(10, 301), &again, "stale-chain-tip");
    set(&mut sim, &rig, &more, &signed);
    sim.pass(Duration::from_secs(620));
    refused(&mut sim, &rig, &job(10, 301), &again, "stale-chain-tip");
    let honest = client(&mut sim);
    declare(&mut sim, &honest, &job(1, 300), 99);
}

/// Its time begins with the first job on it, whoever brings it: nobody gets more by asking later, or elsewhere.
#[test]
fn a_tip_to_come_has_its_time_once() {
    let (mut sim, tp) = working("job_declaration.grace_secs = 5");
    let (first, mut second) = (client(&mut sim), client(&mut sim));
    declare(&mut sim, &first, &job(2, 301), 1);
    sim.pass(Duration::from_secs(3));
    let id = declare(&mut sim, &second, &job(2, 301), 2);
    assert_eq!(share(&mut sim, &mut second, &job(2, 301), id, 0), None);
    sim.pass(Duration::from_secs(3));
    let stale = share(&mut sim, &mut second, &job(2, 301), id, 1_000_000).unwrap();
    assert!(stale.contains("stale-share"), "{stale}");
    second.listen(&mut sim);
    let third = client(&mut sim);
    let signed = token(3, declared(&job(2, 301))).sign(&key(1), &[0; 32]);
    refused(&mut sim, &third, &job(2, 301), &signed, "stale-chain-tip");
    // It came after all.
    sim.tip_at(tp, 0, 2, 2, 301);
    sim.drop_frames();
    set(&mut sim, &third, &job(2, 301), &signed);
}

#[test]
fn a_job_on_a_tip_to_come_is_no_older_than_ours_allows() {
    let (mut sim, _) = working("");
    let rig = client(&mut sim);
    let old = CustomJob { min_ntime: START - 7_201, ..job(2, 301) };
    let signed = token(1, declared(&old)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &old, &signed, "invalid-min-ntime");
    set(&mut sim, &rig, &CustomJob { min_ntime: START - 7_200, ..old.clone() }, &signed);
}
