use std::time::Duration;

use adit_job_declaration::{Commitment, DeclaredCoinbase, Grant};
use adit_mining::merkle::merkle_path;
use adit_node::ProposalResult::{self, Valid};

use super::sim::*;
use crate::engine::{CheckAnswer, Settings};

fn rejected(reason: &str) -> ProposalResult {
    ProposalResult::Rejected(reason.to_owned())
}

#[test]
fn a_known_job_is_judged_and_committed_to() {
    let mut sim = Sim::new();
    sim.client(1);
    let transactions = [transaction(1), transaction(2), transaction(3)];
    sim.mempool(&transactions);
    let job = sim.job(1, 42, &transactions);
    sim.declare(1, &job);
    assert_eq!(sim.said(1), []);
    let check = sim.judge(Valid);
    assert!(check.lookups.is_empty());
    let block: bitcoin::Block =
        bitcoin::consensus::deserialize(&check.job.declared.proposal(check.ntime).raw).unwrap();
    assert!(block.check_merkle_root() && block.txdata.len() == 4);
    assert_eq!(block.header.time, 1_800_000_000);
    let Said::Success { request_id: 42, token } = sim.only_said(1) else { panic!() };
    let (prefix, suffix) = job.parts();
    let coinbase = DeclaredCoinbase::parse(&prefix, &suffix).unwrap();
    let path = merkle_path(&transactions.each_ref().map(|t| t.txid));
    let said = Commitment::declared(0x2000_0000, &coinbase, &path, &[1; 32]);
    let token = read_token(&token);
    assert_eq!(token.grant, Grant::Declared(said));
    assert_eq!(token.account, read_token(&job.token).account);
    assert_eq!(sim.count("jds_declarations_total{result=\"success\"}"), 1);
}

#[test]
fn missing_transactions_are_asked_for_once() {
    let mut sim = Sim::new();
    sim.client(1);
    let transactions: Vec<_> = (0..6).map(transaction).collect();
    sim.mempool(&transactions[..3]);
    let job = sim.job(1, 5, &transactions);
    sim.declare(1, &job);
    assert_eq!(sim.only_said(1), Said::Missing { request_id: 5, positions: vec![3, 4, 5] });
    assert!(sim.check().is_none());
    let raw: Vec<&[u8]> = transactions[3..].iter().map(|t| &*t.raw).collect();
    sim.provide(1, 5, &raw);
    let check = sim.judge(Valid);
    assert_eq!(check.lookups.len(), 3, "inputs of what was supplied");
    assert!(matches!(sim.only_said(1), Said::Success { .. }));
    // At hand from now on, for everybody, with their fees.
    sim.client(2);
    let mut again = sim.job(2, 6, &transactions);
    again.tag = 1;
    sim.declare(2, &again);
    assert!(sim.judge(Valid).lookups.is_empty());
    assert!(matches!(sim.only_said(2), Said::Success { .. }));
    // Nobody waits for these any more.
    sim.provide(1, 5, &raw);
    assert_eq!(sim.said(1), []);
    assert_eq!(sim.count("jds_transactions_unasked_total"), 1);
    assert_eq!(sim.count("jds_pending_bytes"), 0);
}

#[test]
fn fees_of_supplied_transactions_count_parents_in_the_block() {
    let mut sim = Sim::new();
    sim.client(1);
    let parent = transaction(1);
    let txid = bitcoin::hashes::Hash::from_byte_array(parent.txid);
    let child = child(txid, 0, 100_000 - FEE - FEE);
    let both = [parent, child];
    let job = sim.job(1, 5, &both);
    let provide = |sim: &mut Sim, job: &Job| {
        sim.declare(1, job);
        sim.said(1);
        sim.provide(1, job.request_id, &[&both[0].raw, &both[1].raw]);
    };
    provide(&mut sim, &job);
    assert_eq!(sim.judge(rejected("x")).lookups.len(), 1);
    sim.said(1);
    // A satoshi less than all there is.
    let mut short = sim.job(1, 6, &both);
    short.outputs[0].0 -= 1;
    provide(&mut sim, &short);
    sim.judge(Valid);
    let Said::Error { code, details, .. } = sim.only_said(1) else { panic!() };
    assert_eq!(code, "invalid-coinbase-tx");
    assert_eq!(details, format!("pays {} of {} satoshis", job.value() - 1, job.value()));
    // An input that the node does not know any more: the value cannot be told.
    let mut short = sim.job(1, 7, &both);
    short.outputs[0].0 -= 2;
    provide(&mut sim, &short);
    let check = sim.check().unwrap();
    let answer = CheckAnswer { verdict: Ok(Valid), values: vec![None] };
    sim.engine.checked(check.id, answer, sim.now, &mut sim.out);
    assert!(matches!(sim.only_said(1), Said::Success { .. }));
    assert_eq!(sim.count("jds_values_unknown_total"), 1);
}

#[test]
fn the_pool_is_paid_what_policy_asks() {
    let mut sim = Sim::with(Settings { min_pool_percent: 90, ..settings() });
    sim.client(1);
    for (request_id, pool, code) in [
        (1, 0, Some("invalid-coinbase-tx-outputs")),
        (2, 89, Some("invalid-coinbase-tx-outputs")),
        (3, 90, None),
    ] {
        let mut job = sim.job(1, request_id, &[]);
        let paid = SUBSIDY / 100 * pool;
        job.outputs = vec![(SUBSIDY - paid, vec![0x52]), (paid, POOL_SCRIPT.to_vec())];
        sim.declare(1, &job);
        if let Some(check) = sim.check() {
            sim.answer(&check, Valid);
        }
        match code {
            Some(code) => assert_eq!(sim.only_said(1).code(), code),
            None => assert!(matches!(sim.only_said(1), Said::Success { .. })),
        }
    }
}

#[test]
fn what_the_node_refuses_is_refused_with_its_reason() {
    let mut sim = Sim::new();
    sim.client(1);
    for (request_id, reason, code) in [
        (1, "bad-cb-amount", "invalid-coinbase-tx"),
        (2, "bad-witness-merkle-match", "invalid-coinbase-tx"),
        (3, "bad-txns-inputs-missingorspent", "invalid-job"),
    ] {
        let mut job = sim.job(1, request_id, &[]);
        job.tag = request_id as u8;
        sim.declare(1, &job);
        sim.judge(rejected(reason));
        let error = Said::Error { request_id, code: code.into(), details: reason.into() };
        assert_eq!(sim.only_said(1), error);
    }
    assert_eq!(sim.count("jds_checks_total{result=\"invalid\"}"), 3);
}

#[test]
fn a_declaration_ahead_is_held_and_one_behind_refused() {
    let mut sim = Sim::new();
    sim.client(1);
    let mut ahead = sim.job(1, 1, &[]);
    ahead.height += 1;
    sim.declare(1, &ahead);
    let mut too_far = sim.job(1, 2, &[]);
    too_far.height += 5;
    sim.declare(1, &too_far);
    let mut behind = sim.job(1, 3, &[]);
    behind.height -= 1;
    sim.declare(1, &behind);
    let Said::Error { request_id: 3, code, details } = sim.only_said(1) else { panic!() };
    assert_eq!((&*code, &*details), ("stale-chain-tip", "height 100, our tip is at 100"));
    assert!(sim.check().is_none());
    sim.pass(Duration::from_secs(5));
    sim.set_tip(tip(101, 2));
    assert_eq!(*sim.judge(Valid).job.declared.prev_hash(), [2; 32]);
    assert!(matches!(sim.only_said(1), Said::Success { request_id: 1, .. }));
    sim.pass(Duration::from_secs(6));
    let Said::Error { request_id: 2, code, .. } = sim.only_said(1) else { panic!() };
    assert_eq!(code, "stale-chain-tip");
    // Its token was not used up by that.
    too_far.height = 102;
    too_far.tag = 1;
    sim.accepted(1, &too_far);
}

#[test]
fn a_new_tip_in_the_middle_of_a_check() {
    let mut sim = Sim::new();
    sim.client(1);
    sim.client(2);
    let job = sim.job(1, 1, &[]);
    sim.declare(1, &job);
    let mut queued = sim.job(2, 2, &[]);
    queued.tag = 2;
    sim.declare(2, &queued);
    let check = sim.check().unwrap();
    // Another block at the same height: both are good for it, too.
    sim.set_tip(tip(HEIGHT, 2));
    assert!(sim.check().is_none(), "one at a time");
    sim.answer(&check, Valid);
    assert_eq!(sim.said(1), []);
    assert_eq!(*sim.judge(Valid).job.declared.prev_hash(), [2; 32]);
    assert!(matches!(sim.only_said(2), Said::Success { .. }));
    let check = sim.check().unwrap();
    // And then one upon it: they are late.
    sim.set_tip(tip(HEIGHT + 1, 3));
    sim.answer(&check, Valid);
    assert_eq!(sim.only_said(1).code(), "stale-chain-tip");
}

#[test]
fn a_node_that_does_not_answer_is_waited_for() {
    let mut sim = Sim::new();
    sim.client(1);
    let fail = |sim: &mut Sim| {
        let check = sim.check().unwrap();
        let answer = CheckAnswer { verdict: Err("down".to_owned()), values: vec![] };
        sim.engine.checked(check.id, answer, sim.now, &mut sim.out);
    };
    let job = sim.job(1, 1, &[]);
    sim.declare(1, &job);
    fail(&mut sim);
    sim.pass(Duration::from_millis(400));
    assert!(sim.check().is_none(), "not at once");
    sim.pass(Duration::from_millis(100));
    sim.judge(ProposalResult::NotOnTip);
    sim.pass(Duration::from_millis(500));
    sim.judge(Valid);
    assert!(matches!(sim.only_said(1), Said::Success { .. }));
    let mut job = sim.job(1, 2, &[]);
    job.tag = 1;
    sim.declare(1, &job);
    for _ in 0..20 {
        fail(&mut sim);
        sim.pass(Duration::from_millis(500));
    }
    assert_eq!(sim.only_said(1).code(), "internal-error");
    assert!(sim.check().is_none());
}

#[test]
fn identical_declarations_share_one_check_and_clients_take_turns() {
    let mut sim = Sim::new();
    let transactions = [transaction(1), transaction(2)];
    sim.mempool(&transactions);
    for peer in 1..=200 {
        sim.client(peer);
        let job = sim.job(peer, peer as u32, &transactions);
        sim.declare(peer, &job);
    }
    sim.judge(Valid);
    let tokens: std::collections::HashSet<_> = (1..=200)
        .map(|peer| match sim.only_said(peer) {
            Said::Success { request_id, token } if u64::from(request_id) == peer => token,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tokens.len(), 200);
    assert!(sim.check().is_none());
    // One who comes later needs none either.
    sim.client(201);
    let job = sim.job(201, 1, &transactions);
    sim.declare(201, &job);
    assert!(matches!(sim.only_said(201), Said::Success { .. }));
    assert_eq!(sim.count("jds_checks_total{result=\"valid\"}"), 1);
    assert_eq!(sim.count("jds_checks_shared_total"), 200);

    // Different ones: the first client's three do not go before another's first.
    let mut tag = 1;
    for (peer, jobs) in [(1, 3), (2, 1), (3, 2)] {
        for request_id in 0..jobs {
            let mut job = sim.job(peer, request_id, &[]);
            job.tag = tag;
            sim.declare(peer, &job);
            tag += 1;
        }
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        sim.judge(Valid);
        order.extend((1..=3).filter(|peer| !sim.said(*peer).is_empty()));
    }
    assert_eq!(order, [1, 2, 3, 1, 3, 1]);
}

#[test]
fn nobody_waits_for_a_client_that_does_not_answer() {
    let mut sim = Sim::new();
    sim.client(1);
    sim.client(2);
    let slow = sim.job(1, 1, &[transaction(9)]);
    sim.declare(1, &slow);
    assert!(matches!(sim.only_said(1), Said::Missing { .. }));
    let quick = sim.job(2, 1, &[]);
    sim.accepted(2, &quick);
    sim.pass(Duration::from_secs(6));
    assert_eq!(sim.only_said(1).code(), "missing-txs");
    assert_eq!(sim.count("jds_pending_bytes"), 0);
    // One that vanishes leaves nothing, whatever it waited for.
    let mut queued = sim.job(1, 2, &[]);
    queued.tag = 1;
    let slow = sim.job(1, 3, &[transaction(9)]);
    sim.declare(1, &slow);
    sim.declare(1, &queued);
    sim.leave(1);
    assert!(sim.check().is_none());
    assert_eq!(sim.count("jds_pending_bytes"), 0);
    assert_eq!(sim.count("jds_clients"), 1);
}

#[test]
fn declarations_wait_for_the_first_tip() {
    let mut sim = Sim::new();
    sim.engine.tip = None;
    sim.client(1);
    let token = sim.token(1);
    let job = Job {
        request_id: 1,
        token,
        height: HEIGHT + 1,
        outputs: vec![(SUBSIDY, POOL_SCRIPT.to_vec())],
        transactions: vec![],
        tag: 0,
    };
    sim.declare(1, &job);
    sim.pass(Duration::from_secs(3));
    sim.set_tip(tip(HEIGHT, 1));
    sim.judge(Valid);
    assert!(matches!(sim.only_said(1), Said::Success { .. }));
    // Without a node for too long.
    sim.engine.tip = None;
    let mut job = Job { request_id: 2, token: sim.token(1), ..job };
    job.tag = 1;
    sim.declare(1, &job);
    sim.pass(Duration::from_secs(11));
    assert_eq!(sim.only_said(1).code(), "internal-error");
}
