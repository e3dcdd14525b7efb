//! The Job Declarator Server on a real node, with the test in the place of the client.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use adit_job_declaration::{Grant, Token};
use adit_sv2::messages::common::{
    PROTOCOL_JOB_DECLARATION, PROTOCOL_MINING, PROTOCOL_TEMPLATE_DISTRIBUTION, SetupConnection,
};
use adit_test_env::bitcoind::{Bitcoind, Chain, Options};
use adit_test_env::harness::{
    self, Declarer, Job, Role, Setup, Sv2Peer, eventually, payout_address,
};
use bitcoin::consensus::encode::deserialize;
use bitcoin::{Address, Amount, Block, ScriptBuf, Transaction, TxOut};
use bitcoincore_rpc::RpcApi;

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn pool_script() -> ScriptBuf {
    payout_address(Chain::Regtest).parse::<Address<_>>().unwrap().assume_checked().script_pubkey()
}

fn tip(node: &Bitcoind) -> bitcoin::BlockHash {
    node.client().unwrap().get_best_block_hash().unwrap()
}

fn fees(node: &Bitcoind, transactions: &[Transaction]) -> Amount {
    let client = node.client().unwrap();
    let fee = |t: &Transaction| client.get_mempool_entry(&t.compute_txid()).unwrap().fees.base;
    transactions.iter().map(fee).sum()
}

struct Scene {
    jds: Role,
    client: Declarer,
    node: Bitcoind,
}

impl Scene {
    fn start() -> Self {
        Self::on(harness::regtest().unwrap())
    }

    /// With time enough to wait for a node, and for clients, on a machine busy with other tests.
    fn on(node: Bitcoind) -> Self {
        Self::with(node, |jds| {
            jds.set("declarations", "grace_seconds", SOON.as_secs()).set(
                "declarations",
                "answer_seconds",
                SOON.as_secs(),
            )
        })
    }

    fn with(node: Bitcoind, configure: impl FnOnce(Setup) -> Setup) -> Self {
        let jds = configure(Setup::jds(&node)).start().unwrap();
        jds.wait_ready(SOON).unwrap();
        let client = Declarer::connect(&jds.endpoint()).unwrap();
        Self { jds, client, node }
    }

    /// Waits until the JDS knows the node's tip and mempool.
    fn wait_mirrored(&self) {
        let client = self.node.client().unwrap();
        eventually(SOON, "the JDS has the node's mempool", || {
            let status = self.jds.status().unwrap();
            status["state"]["tip"]["hash"] == tip(&self.node).to_string()
                && status["state"]["mempool"]["transactions"]
                    == client.get_raw_mempool().unwrap().len()
        });
    }

    fn job(&self, transactions: Vec<Transaction>, fees: Amount, tag: u32) -> Job {
        Job::new(&self.node, transactions, fees, pool_script(), tag).unwrap()
    }

    fn wait_tip(&self, block: &Block) {
        eventually(SOON, "the block is the node's tip", || tip(&self.node) == block.block_hash());
    }
}

#[test]
fn a_declared_job_becomes_a_block() {
    let mut scene = Scene::start();
    let transactions = scene.node.fill_mempool(30).unwrap();
    scene.wait_mirrored();
    let fees = fees(&scene.node, &transactions);
    let job = scene.job(transactions, fees, 1);
    let allocated = scene.client.token().unwrap();
    let outputs: Vec<TxOut> = deserialize(&allocated.outputs).unwrap();
    assert_eq!(outputs, [TxOut { value: Amount::ZERO, script_pubkey: pool_script() }]);
    scene.client.declare(5, &allocated.token, &job).unwrap();
    let answer = scene.client.answer(&job).unwrap();
    assert_eq!(answer.asked, 0);
    let keys = [scene.jds.endpoint().key.unwrap()];
    let token = Token::verify(&answer.result.unwrap(), &keys, 0).unwrap();
    token.check_account(b"alice").unwrap();
    assert!(matches!(token.grant, Grant::Declared(_)));

    let block = job.solve([7; 8]).unwrap();
    scene.client.push(&block).unwrap();
    scene.wait_tip(&block);
    eventually(SOON, "it is counted", || {
        let metrics = scene.jds.metrics().unwrap();
        metrics.sum("adit_jds_solutions_total", &[("result", "found")]) == 1.0
    });
    // The job is that of an old tip now.
    let answer = scene.client.run(6, &job).unwrap();
    assert_eq!(answer.result.unwrap_err().0, "stale-chain-tip");
}

#[test]
fn what_the_node_does_not_have_is_asked_for_once() {
    let mut scene = Scene::start();
    let transactions = scene.node.fill_mempool(21).unwrap();
    let fees = fees(&scene.node, &transactions);
    scene.wait_mirrored();
    // Children of mempool transactions that no node has seen.
    let mut all = transactions.clone();
    for parent in transactions.iter().take(5) {
        let coin = adit_test_env::bitcoind::coins_of(parent)[0];
        all.push(adit_test_env::bitcoind::split(&coin, 1, Amount::from_sat(500)).unwrap());
    }
    let fees = fees + Amount::from_sat(2500);
    let job = scene.job(all.clone(), fees, 1);
    let answer = scene.client.run(1, &job).unwrap();
    assert_eq!((answer.asked, answer.result.is_ok()), (5, true), "{answer:?}");
    // At hand from now on.
    let again = scene.job(all.clone(), fees, 2);
    let answer = scene.client.run(2, &again).unwrap();
    assert_eq!((answer.asked, answer.result.is_ok()), (0, true), "{answer:?}");
    // Their fees are known, too.
    let short = scene.job(all, fees - Amount::ONE_SAT, 3);
    let (code, details) = scene.client.run(3, &short).unwrap().result.unwrap_err();
    assert_eq!(code, "invalid-coinbase-tx");
    assert!(details.starts_with("pays "), "{details}");
    let block = again.solve([9; 8]).unwrap();
    scene.client.push(&block).unwrap();
    scene.wait_tip(&block);
}

#[test]
fn what_makes_no_block_is_refused_with_the_reason() {
    let mut scene = Scene::start();
    let transactions = scene.node.fill_mempool(3).unwrap();
    scene.wait_mirrored();
    let fees = fees(&scene.node, &transactions);
    let job = scene.job(transactions.clone(), fees, 1);
    // A coin that is spent twice.
    let double = {
        let again = Transaction {
            lock_time: bitcoin::absolute::LockTime::from_consensus(1),
            ..transactions[0].clone()
        };
        scene.job([&transactions[..], &[again]].concat(), fees, 2)
    };
    let mut request_id = 0;
    let mut refusal = |job: &Job| {
        request_id += 1;
        scene.client.run(request_id, job).unwrap().result.unwrap_err()
    };
    let changed = |change: &dyn Fn(&mut Transaction)| {
        let mut job = job.clone();
        job.change(change);
        job
    };
    let coin = |n: u64| Amount::from_sat(n);
    let node_says = |code: &str, reason: &str| (code.to_owned(), reason.to_owned());
    let too_much = changed(&|coinbase| coinbase.output[0].value += coin(1));
    assert_eq!(refusal(&too_much), node_says("invalid-coinbase-tx", "bad-cb-amount"));
    let too_little = changed(&|coinbase| coinbase.output[0].value -= coin(1));
    assert_eq!(refusal(&too_little).0, "invalid-coinbase-tx");
    let no_commitment = changed(&|coinbase| drop(coinbase.output.pop()));
    assert_eq!(refusal(&no_commitment).0, "invalid-coinbase-tx");
    let not_the_pool = changed(&|coinbase| coinbase.output[0].script_pubkey = ScriptBuf::new());
    assert_eq!(refusal(&not_the_pool).0, "invalid-coinbase-tx-outputs");
    let locked = changed(&|coinbase| {
        coinbase.lock_time = bitcoin::absolute::LockTime::from_consensus(400_000);
        coinbase.input[0].sequence = bitcoin::Sequence::ZERO;
    });
    assert_eq!(refusal(&locked), node_says("invalid-job", "bad-txns-nonfinal"));
    let mut trailing = job.clone();
    trailing.suffix.push(0);
    assert_eq!(refusal(&trailing).0, "invalid-coinbase-tx");
    let said = node_says("invalid-job", "bad-txns-inputs-missingorspent");
    assert_eq!(refusal(&double), said);
    // None of them hurt the next.
    assert!(scene.client.run(100, &job).unwrap().result.is_ok());
    eventually(SOON, "the status tells of all", || {
        let state = &scene.jds.status().unwrap()["state"];
        state["clients"][0]["refused"] == 7 && state["refusals"][0]["code"] == "invalid-job"
    });
}

#[test]
fn a_client_of_a_faster_node_is_waited_for() {
    let pools = harness::node(Options { listen: true, ..Options::default() }).unwrap();
    pools.generate(harness::START_BLOCKS).unwrap();
    let mut scene = Scene::on(pools);
    let connect = vec![scene.node.p2p_addr().unwrap()];
    let mut miners = harness::node(Options { connect, ..Options::default() }).unwrap();
    eventually(SOON, "one tip", || tip(&miners) == tip(&scene.node));
    scene
        .node
        .client()
        .unwrap()
        .call::<serde_json::Value>("setnetworkactive", &[false.into()])
        .unwrap();
    miners.generate(1).unwrap();
    let ahead = Job::new(&miners, vec![], Amount::ZERO, pool_script(), 1).unwrap();
    let token = scene.client.token().unwrap().token;
    scene.client.declare(1, &token, &ahead).unwrap();
    // Another is not kept waiting by that.
    let mut other = Declarer::connect(&scene.jds.endpoint()).unwrap();
    let job = scene.job(vec![], Amount::ZERO, 2);
    assert!(other.run(1, &job).unwrap().result.is_ok());
    let client = miners.client().unwrap();
    let raw = client.get_block_hex(&tip(&miners)).unwrap();
    scene.node.client().unwrap().call::<serde_json::Value>("submitblock", &[raw.into()]).unwrap();
    assert!(scene.client.answer(&ahead).unwrap().result.is_ok());
    let block = ahead.solve([1; 8]).unwrap();
    scene.client.push(&block).unwrap();
    scene.wait_tip(&block);
    miners.stop().unwrap();
}

#[test]
fn no_restart_loses_a_block() {
    let mut scene = Scene::start();
    scene.wait_mirrored();
    let job = scene.job(vec![], Amount::ZERO, 1);
    assert!(scene.client.run(1, &job).unwrap().result.is_ok());
    // Found while the node is down; then the JDS is killed.
    scene.node.stop().unwrap();
    let block = job.solve([3; 8]).unwrap();
    scene.client.push(&block).unwrap();
    eventually(SOON, "the block is on disk", || {
        let file = format!("data/solutions/{}.block", block.block_hash());
        scene.jds.dir().join(file).is_file()
    });
    scene.jds.kill9().unwrap();
    scene.jds.restart().unwrap();
    scene.node.restart().unwrap();
    scene.wait_tip(&block);
    // Tokens outlive the restart, and the next job goes the same way.
    scene.jds.wait_ready(SOON).unwrap();
    scene.client = Declarer::connect(&scene.jds.endpoint()).unwrap();
    let token = scene.client.token().unwrap().token;
    scene.jds.kill9().unwrap();
    scene.jds.restart().unwrap();
    scene.jds.wait_ready(SOON).unwrap();
    scene.client = Declarer::connect(&scene.jds.endpoint()).unwrap();
    let job = scene.job(vec![], Amount::ZERO, 2);
    scene.client.declare(2, &token, &job).unwrap();
    assert!(scene.client.answer(&job).unwrap().result.is_ok());
    // A node that is restarted in the middle is waited for.
    scene.node.flush().unwrap();
    scene.node.kill9().unwrap();
    let other = {
        let mut other = job.clone();
        other
            .change(|coinbase| coinbase.lock_time = bitcoin::absolute::LockTime::from_consensus(1));
        other
    };
    let token = scene.client.token().unwrap().token;
    scene.client.declare(3, &token, &other).unwrap();
    scene.node.restart().unwrap();
    assert!(scene.client.answer(&other).unwrap().result.is_ok());
}

#[test]
fn a_silent_client_delays_nobody() {
    let mut scene = Scene::with(harness::regtest().unwrap(), |jds| jds);
    let transactions = scene.node.fill_mempool(1).unwrap();
    let fee = fees(&scene.node, &transactions);
    scene.wait_mirrored();
    let coin = adit_test_env::bitcoind::coins_of(&transactions[0])[0];
    let unknown = adit_test_env::bitcoind::split(&coin, 1, Amount::from_sat(500)).unwrap();
    let asked = scene.job([&transactions[..], &[unknown]].concat(), fee + Amount::from_sat(500), 1);
    let mut silent: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Declarer::connect(&scene.jds.endpoint()).unwrap();
            let token = client.token().unwrap().token;
            client.declare(1, &token, &asked).unwrap();
            client
        })
        .collect();
    let job = scene.job(transactions, fee, 2);
    // One after the other they would be waited for longer than an answer is here.
    assert!(scene.client.run(1, &job).unwrap().result.is_ok());
    // Half of them vanish, the others are told in the end.
    silent.truncate(10);
    for client in &mut silent {
        client.peer().wait_for("DeclareMiningJob.Error", SOON).unwrap();
    }
    // Those that vanished may have been told as well, where all of this took long.
    eventually(SOON, "nothing is kept of them", || {
        let metrics = scene.jds.metrics().unwrap();
        let told = metrics.sum("adit_jds_declarations_total", &[("result", "missing-txs")]);
        (10.0..=20.0).contains(&told) && metrics.sum("adit_jds_pending_bytes", &[]) == 0.0
    });
}

#[test]
fn setup_connection_is_answered_as_the_rules_say() {
    let scene = Scene::start();
    let good = Sv2Peer::setup_connection(PROTOCOL_JOB_DECLARATION, 1);
    for (setup, code) in [
        (SetupConnection { protocol: PROTOCOL_MINING, ..good }, "unsupported-protocol"),
        (
            SetupConnection { protocol: PROTOCOL_TEMPLATE_DISTRIBUTION, ..good },
            "unsupported-protocol",
        ),
        (SetupConnection { min_version: 3, max_version: 3, ..good }, "protocol-version-mismatch"),
        (SetupConnection { flags: 3, ..good }, "unsupported-feature-flags"),
    ] {
        let mut peer = Sv2Peer::connect(&scene.jds.endpoint()).unwrap();
        peer.send(&setup).unwrap();
        let record = peer.wait_for("SetupConnection.Error", SOON).unwrap();
        assert!(record.to_string().contains(code), "{record}");
        peer.wait_closed(SOON).unwrap();
    }
    // Coinbase-only clients get tokens.
    let mut peer = Sv2Peer::set_up(&scene.jds.endpoint(), PROTOCOL_JOB_DECLARATION, 0).unwrap();
    let request = adit_sv2::messages::job_declaration::AllocateMiningJobToken {
        user_identifier: adit_sv2::codec::Str0255::cut("bob"),
        request_id: 3,
    };
    peer.send(&request).unwrap();
    peer.wait_for("AllocateMiningJobToken.Success", SOON).unwrap();
}
