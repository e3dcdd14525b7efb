use std::time::Duration;

use adit_node::ProposalResult::Valid;
use adit_sv2::messages::job_declaration::PushSolution;

use super::sim::*;
use crate::engine::Tip;

/// A nonce that solves, or does not solve, the only accepted job.
fn nonce(sim: &Sim, prev: u8, solves: bool) -> u32 {
    let job = sim.engine.jobs.back().unwrap();
    (0..)
        .find(|nonce| job.declared.solve(&solution(prev, *nonce, &[5; 8])).is_ok() == solves)
        .unwrap()
}

#[test]
fn a_solution_of_the_last_accepted_job_is_a_block() {
    let mut sim = Sim::new();
    sim.client(1);
    let transactions = [transaction(1), transaction(2)];
    sim.mempool(&transactions);
    let job = sim.job(1, 1, &transactions);
    sim.accepted(1, &job);
    let nonce = nonce(&sim, 1, true);
    sim.push(1, 1, nonce);
    let found = sim.engine.take_found();
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!(found.height, HEIGHT + 1);
    let block: bitcoin::Block = bitcoin::consensus::deserialize(&found.block.raw).unwrap();
    assert!(block.check_merkle_root());
    assert!(block.header.validate_pow(block.header.target()).is_ok());
    assert_eq!(block.txdata.len(), 3);
    assert!(sim.engine.take_found().is_empty());
    // The transactions may have left the mempool since.
    let txids = transactions.each_ref().map(|t| t.txid);
    sim.engine.update_mempool(vec![], &txids);
    sim.push(1, 1, nonce);
    assert_eq!(sim.engine.take_found().len(), 1);
}

#[test]
fn older_jobs_are_tried_as_long_as_they_may_win() {
    let mut sim = Sim::new();
    sim.client(1);
    let job = sim.job(1, 1, &[]);
    sim.accepted(1, &job);
    let nonce = nonce(&sim, 1, true);
    for height in 1..=4 {
        sim.push(1, 1, nonce);
        assert_eq!(sim.engine.take_found().len(), usize::from(height < 4), "{height}");
        sim.set_tip(tip(HEIGHT + height, 1 + height as u8));
    }
    // So is one of a client that reconnected.
    let job = sim.job(1, 2, &[]);
    sim.accepted(1, &job);
    let solving = self::nonce(&sim, 5, true);
    sim.leave(1);
    sim.client(2);
    sim.push(2, 5, solving);
    assert_eq!(sim.engine.take_found().len(), 1);
}

#[test]
fn a_solution_may_come_before_the_answer_and_before_the_declaration_is_complete() {
    // Found out on a job that went the usual way.
    let mut sim = Sim::new();
    sim.client(1);
    let transactions = [transaction(1)];
    let job = sim.job(1, 1, &transactions);
    sim.declare(1, &job);
    sim.provide(1, 1, &[&transactions[0].raw]);
    sim.judge(Valid);
    let solving = nonce(&sim, 1, true);

    let mut sim = Sim::new();
    sim.client(1);
    let job = sim.job(1, 1, &transactions);
    sim.push(1, 1, solving);
    sim.declare(1, &job);
    sim.pass(Duration::from_secs(2));
    assert!(sim.engine.take_found().is_empty());
    sim.provide(1, 1, &[&transactions[0].raw]);
    assert_eq!(sim.engine.take_found().len(), 1, "the transactions are there");
    sim.push(1, 1, solving);
    assert_eq!(sim.engine.take_found().len(), 1, "it is being judged");
    sim.judge(Valid);
    assert_eq!(sim.count("jds_solutions_total{result=\"invalid\"}"), 0);
}

#[test]
fn what_is_no_block_is_forgotten() {
    let mut sim = Sim::new();
    sim.client(1);
    let job = sim.job(1, 1, &[]);
    sim.accepted(1, &job);
    let nonce = nonce(&sim, 1, false);
    sim.push(1, 1, nonce);
    sim.push(1, 77, nonce);
    sim.say(1, &solution(1, nonce, &[5; 32]));
    sim.say(1, &solution(1, nonce, &[]));
    // An easier target than the chain's.
    let easier = solution(1, nonce, &[5; 8]);
    sim.say(1, &PushSolution { nbits: 0x2100_ffff, ..easier });
    assert!(sim.engine.take_found().is_empty());
    sim.pass(Duration::from_secs(11));
    assert_eq!(sim.count("jds_solutions_total{result=\"invalid\"}"), 5);
    for _ in 0..1000 {
        sim.push(1, 1, nonce);
    }
    assert!(sim.count("jds_solutions_total{result=\"rate-limited\"}") >= 700);
    assert_eq!(sim.said(1), []);
}

#[test]
fn what_is_no_block_costs_as_many_jobs_as_it_is_tried_on() {
    const HARD: u32 = 0x1d00_ffff;
    let mut sim = Sim::new();
    sim.set_tip(Tip { nbits: HARD, ..tip(HEIGHT, 2) });
    sim.client(1);
    for n in 0..80 {
        let job = sim.job(1, n, &[]);
        sim.accepted(1, &Job { tag: n as u8, ..job });
        sim.pass(Duration::from_secs(1));
    }
    let push = |sim: &mut Sim, peer, prev| {
        sim.say(peer, &PushSolution { nbits: HARD, ..solution(prev, 1, &[5; 8]) });
        sim.count("jds_solutions_total{result=\"rate-limited\"}")
    };
    // Of a tip that no job is on, none is hashed.
    sim.client(2);
    assert_eq!((0..200).map(|_| push(&mut sim, 2, 77)).last(), Some(0));
    sim.client(3);
    assert_eq!((0..200).map(|_| push(&mut sim, 3, 2)).last(), Some(200 - 19));
    // Others do not pay for it, and neither does this one for long.
    assert_eq!(push(&mut sim, 1, 2), 200 - 19);
    sim.pass(Duration::from_secs(1));
    assert_eq!(push(&mut sim, 3, 2), 200 - 19);
}
