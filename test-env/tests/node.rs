//! The node client against a real node.
#![allow(clippy::unwrap_used)] // a test's helpers may panic as the test itself may

use std::{
    fs,
    time::{Duration, Instant},
};

use adit_node::{
    Auth, BlockTemplate, Node, NodeConfig, NodeError, ProposalResult, Rules, SubmitResult,
    TipEvent, TipWatch,
};
use adit_test_env::bitcoind::{
    Bitcoind, Chain, Options, coins_of, op_true_address, op_true_script, split,
};
use bitcoin::{
    Amount, Block, BlockHash, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut,
    Witness,
    absolute::LockTime,
    block::{Header, Version},
    consensus::encode::{deserialize, serialize},
    hashes::Hash,
    script::Builder,
    transaction,
};
use bitcoincore_rpc::RpcApi;
use serde_json::{Value, json};
use tokio::time::timeout;

/// On a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn regtest() -> Bitcoind {
    Bitcoind::start(Options::default()).unwrap()
}

/// The block of a template, with its work done (regtest). The coinbase takes `above` more than it may.
fn build(template: &BlockTemplate, above: u64) -> Block {
    let commitment = template.default_witness_commitment.clone().unwrap();
    let coinbase = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: Builder::new()
                .push_int(template.height.into())
                .push_slice([0; 4])
                .into_script(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0; 32]]),
        }],
        output: vec![
            TxOut {
                value: Amount::from_sat(template.coinbase_value + above),
                script_pubkey: op_true_script(),
            },
            TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::from_bytes(commitment) },
        ],
    };
    let mut txdata = vec![coinbase];
    txdata.extend(template.transactions.iter().map(|tx| deserialize(&tx.data).unwrap()));
    let mut block = Block {
        header: Header {
            version: Version::from_consensus(template.version),
            prev_blockhash: template.previous_block_hash,
            merkle_root: Hash::all_zeros(),
            time: template.current_time,
            bits: template.bits,
            nonce: 0,
        },
        txdata,
    };
    block.header.merkle_root = block.compute_merkle_root().unwrap();
    while !template.target.is_met_by(block.block_hash()) {
        block.header.nonce += 1;
    }
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_network_and_headers() {
    let bitcoind = regtest();
    let node = bitcoind.node();
    let genesis = bitcoin::constants::genesis_block(Network::Regtest);

    let chain = node.getblockchaininfo().await.unwrap();
    assert_eq!((chain.chain.as_str(), chain.network()), ("regtest", Some(Network::Regtest)));
    assert_eq!((chain.blocks, chain.headers), (0, 0));
    assert_eq!(chain.best_block_hash, genesis.block_hash());
    assert!(chain.initial_block_download);

    let network = node.getnetworkinfo().await.unwrap();
    let said: Value = bitcoind.client().unwrap().call("getnetworkinfo", &[]).unwrap();
    assert_eq!(json!(network.version), said["version"]);
    assert_eq!(json!(network.subversion), said["subversion"]);
    assert_eq!(network.connections, 0);

    let header = node.getblockheader(&genesis.block_hash()).await.unwrap();
    assert_eq!((header.height, header.confirmations), (0, 1));
    assert_eq!((header.time, header.median_time), (genesis.header.time, genesis.header.time));
    assert_eq!((header.bits, header.previous_block_hash), (genesis.header.bits, None));

    let hashes = bitcoind.generate(12).unwrap();
    let tip = hashes[11];
    assert_eq!(node.getbestblockhash().await.unwrap(), tip);
    let header = node.getblockheader(&tip).await.unwrap();
    assert_eq!((header.hash, header.height), (tip, 12));
    assert_eq!(header.previous_block_hash, Some(hashes[10]));
    let mut times = Vec::new();
    for hash in &hashes[1..] {
        times.push(node.getblockheader(hash).await.unwrap().time);
    }
    times.sort_unstable();
    assert_eq!(header.median_time, times[5]);
    assert!(!node.getblockchaininfo().await.unwrap().initial_block_download);

    let unknown = node.getblockheader(&BlockHash::all_zeros()).await.unwrap_err();
    assert!(matches!(unknown, NodeError::Rpc { code: -5, .. }), "{unknown}");

    // It waits only while the tip is the one named.
    let started = Instant::now();
    let wait = PATIENCE;
    assert_eq!(node.waitfornewblock(wait, &genesis.block_hash()).await.unwrap().hash, tip);
    assert!(started.elapsed() < wait);
    let waited = node.waitfornewblock(Duration::from_millis(50), &tip).await.unwrap();
    assert_eq!((waited.hash, waited.height), (tip, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_proposed_and_submitted() {
    let bitcoind = regtest();
    let node = bitcoind.node();
    let tip = bitcoind.generate(1).unwrap()[0];
    let template = node.getblocktemplate(Rules::Segwit).await.unwrap();
    assert_eq!((template.previous_block_hash, template.height), (tip, 2));
    assert_eq!(template.coinbase_value, 50 * 100_000_000);
    assert_eq!(template.target, bitcoin::Target::from_compact(template.bits));
    assert_eq!(template.sigop_limit, 80_000);
    assert_eq!((template.size_limit, template.weight_limit), (Some(4_000_000), Some(4_000_000)));
    assert_eq!(template.signet_challenge, None);
    assert!(template.min_time <= template.current_time);
    assert!(template.rules.iter().any(|rule| rule == "!segwit"), "{:?}", template.rules);
    assert!(template.long_poll_id.starts_with(&tip.to_string()));

    let good = serialize(&build(&template, 0));
    let greedy = serialize(&build(&template, 1));
    let too_much = "bad-cb-amount".to_owned();
    let proposed = node.propose_block(&good, Rules::Segwit).await.unwrap();
    assert_eq!(proposed, ProposalResult::Valid);
    let proposed = node.propose_block(&greedy, Rules::Segwit).await.unwrap();
    assert_eq!(proposed, ProposalResult::Rejected(too_much.clone()));
    let submitted = node.submitblock(&greedy).await.unwrap();
    assert_eq!(submitted, SubmitResult::Rejected(too_much));

    assert_eq!(node.submitblock(&good).await.unwrap(), SubmitResult::Accepted);
    let mut other = template.clone();
    other.current_time += 1;
    let other = serialize(&build(&other, 0));
    assert_eq!(node.submitblock(&good).await.unwrap(), SubmitResult::Duplicate);
    assert_eq!(node.submitblock(&other).await.unwrap(), SubmitResult::Inconclusive);
    let again = node.submitblock(&other).await.unwrap();
    assert_eq!(again, SubmitResult::Duplicate);
    let proposed = node.propose_block(&good, Rules::Segwit).await.unwrap();
    assert_eq!(proposed, ProposalResult::Duplicate);
    let mut stale = template.clone();
    stale.current_time += 2;
    let stale = serialize(&build(&stale, 0));
    let proposed = node.propose_block(&stale, Rules::Segwit).await.unwrap();
    assert_eq!(proposed, ProposalResult::NotOnTip);

    let submitted = node.submitblock(&good[..good.len() - 1]).await.unwrap();
    assert!(matches!(submitted, SubmitResult::Rejected(_)), "{submitted:?}");
    let proposed = node.propose_block(b"no block", Rules::Segwit).await.unwrap();
    assert!(matches!(proposed, ProposalResult::Rejected(_)), "{proposed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_full_of_transactions() {
    let bitcoind = regtest();
    let node = bitcoind.node();
    let mut sent = bitcoind.fill_mempool(230).unwrap();
    // A chain, so that there are parents.
    let child = split(&coins_of(&sent[0])[0], 2, Amount::from_sat(50_000)).unwrap();
    let grandchild = split(&coins_of(&child)[1], 1, Amount::from_sat(900)).unwrap();
    bitcoind.send(&[child.clone(), grandchild.clone()]).unwrap();
    sent.extend([child, grandchild]);

    let template = node.getblocktemplate(Rules::Segwit).await.unwrap();
    assert_eq!(template.transactions.len(), sent.len());
    let mut fees = 0;
    for (i, found) in template.transactions.iter().enumerate() {
        let transaction: Transaction = deserialize(&found.data).unwrap();
        assert_eq!(found.txid, transaction.compute_txid());
        assert_eq!(found.wtxid, transaction.compute_wtxid());
        assert_eq!(u64::from(found.weight), transaction.weight().to_wu());
        assert_eq!(found.sigops, 0);
        assert!(sent.contains(&transaction));
        fees += found.fee;
        let parents: Vec<u32> = template.transactions[..i]
            .iter()
            .zip(1..)
            .filter(|(parent, _)| parent.txid == transaction.input[0].previous_output.txid)
            .map(|(_, number)| number)
            .collect();
        assert_eq!(found.depends, parents);
    }
    assert_eq!(template.transactions.iter().filter(|tx| !tx.depends.is_empty()).count(), 2);
    let subsidy = (50 * 100_000_000) >> (template.height / 150);
    assert_eq!(template.coinbase_value, subsidy + fees);

    let block = build(&template, 0);
    assert!(block.check_witness_commitment());
    assert_eq!(node.submitblock(&serialize(&block)).await.unwrap(), SubmitResult::Accepted);
    assert_eq!(node.getbestblockhash().await.unwrap(), block.block_hash());
    assert!(node.getblocktemplate(Rules::Segwit).await.unwrap().transactions.is_empty());

    // A block that the node makes of chosen transactions is read the same way.
    let coin = bitcoind.coins().unwrap()[0];
    let spend = split(&coin, 3, Amount::from_sat(5_000)).unwrap();
    let to = op_true_address(Chain::Regtest).to_string();
    let raw = bitcoin::consensus::encode::serialize_hex(&spend);
    let made: Value = node.call("generateblock", json!([to, [raw]])).await.unwrap();
    assert_eq!(json!(node.getbestblockhash().await.unwrap().to_string()), made["hash"]);
    assert!(!bitcoind.coins().unwrap().contains(&coin));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_signet_starts() {
    let options = Options { chain: Chain::Signet, txindex: true, ..Options::default() };
    let bitcoind = Bitcoind::start(options).unwrap();
    let node = bitcoind.node();
    let chain = node.getblockchaininfo().await.unwrap();
    assert_eq!((chain.network(), chain.blocks), (Some(Network::Signet), 0));
    let refused = node.getblocktemplate(Rules::Segwit).await.unwrap_err();
    assert!(matches!(refused, NodeError::Rpc { code: -8, .. }), "{refused}");
    let template = node.getblocktemplate(Rules::for_chain(&chain.chain)).await.unwrap();
    assert_eq!(template.signet_challenge, Some(vec![0x51]));
    assert_eq!((template.bits.to_consensus(), template.height), (0x1e03_77ae, 1));
}

async fn next(watch: &mut TipWatch) -> TipEvent {
    timeout(PATIENCE, watch.recv()).await.expect("an event in time").expect("a live watch")
}

/// The next event but `Down`, which comes as often as the reason changes.
async fn next_up(watch: &mut TipWatch) -> TipEvent {
    loop {
        match next(watch).await {
            TipEvent::Down(_) => {}
            event => return event,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tip_is_followed_through_a_power_failure() {
    let mut bitcoind = regtest();
    let kept = bitcoind.generate(3).unwrap()[2];
    bitcoind.flush().unwrap();
    let node = bitcoind.node();
    let mut watch = TipWatch::spawn(node.clone());
    assert_eq!(next(&mut watch).await, TipEvent::Up);
    assert_eq!(next(&mut watch).await, TipEvent::New { hash: kept });

    for _ in 0..3 {
        let template = node.getblocktemplate(Rules::Segwit).await.unwrap();
        let block = build(&template, 0);
        let (node, bytes) = (node.clone(), serialize(&block));
        let submitted = Instant::now();
        let submit = tokio::spawn(async move {
            let result = node.submitblock(&bytes).await;
            (result, submitted.elapsed())
        });
        assert_eq!(next(&mut watch).await, TipEvent::New { hash: block.block_hash() });
        let seen = submitted.elapsed();
        let (result, answered) = submit.await.unwrap();
        assert_eq!(result, Ok(SubmitResult::Accepted));
        println!("block submitted: answered after {answered:?}, seen as the tip after {seen:?}");
    }

    let killed = Instant::now();
    bitcoind.kill9().unwrap();
    assert!(matches!(next(&mut watch).await, TipEvent::Down(NodeError::Unreachable(_))));
    println!("from kill -9 to the event: {:?}", killed.elapsed());
    bitcoind.restart().unwrap();
    let ready = Instant::now();
    assert_eq!(next_up(&mut watch).await, TipEvent::Up);
    assert_eq!(next(&mut watch).await, TipEvent::New { hash: kept });
    println!("from the node's return to the lower tip: {:?}", ready.elapsed());

    let hash = bitcoind.generate(1).unwrap()[0];
    assert_eq!(next(&mut watch).await, TipEvent::New { hash });
    // An orderly restart may be over before the watch asks again; then it is no event at all.
    bitcoind.restart().unwrap();
    let hash = bitcoind.generate(1).unwrap()[0];
    while next_up(&mut watch).await != (TipEvent::New { hash }) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_warm_up() {
    let mut bitcoind = regtest();
    let node = bitcoind.node();
    let height = 50;
    bitcoind.generate(height).unwrap();

    let login = |user: &str, password: &str| Auth::UserPass {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    let cookie = fs::read_to_string(bitcoind.cookie_file()).unwrap();
    let (user, password) = cookie.split_once(':').unwrap();
    let with = |auth| Node::new(NodeConfig::new(bitcoind.url(), auth)).unwrap();
    with(login(user, password)).getbestblockhash().await.unwrap();
    let refused = with(login(user, "wrong")).getbestblockhash().await.unwrap_err();
    assert!(
        matches!(&refused, NodeError::Credentials(text) if text.contains("__cookie__")),
        "{refused}"
    );
    let file = bitcoind.data_dir().join("stale.cookie");
    fs::write(&file, "__cookie__:stale").unwrap();
    let refused = with(Auth::Cookie(file)).getbestblockhash().await.unwrap_err();
    assert!(
        matches!(&refused, NodeError::Credentials(text) if text.contains("stale.cookie")),
        "{refused}"
    );

    // The same client over a restart: it finds the new cookie, and the node says what it is busy with meanwhile.
    assert_eq!(node.getblockchaininfo().await.unwrap().blocks, height as u32);
    let held = bitcoind.launch_held().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let busy_with = loop {
        match node.getblockchaininfo().await {
            Err(NodeError::WarmingUp(text)) => break text,
            // Not listening yet, or without its cookie file yet, or slow.
            Err(
                NodeError::Unreachable(_) | NodeError::Credentials(_) | NodeError::Timeout { .. },
            ) => {}
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "no word from the node while it warms up");
    };
    assert!(busy_with.len() > 3, "{busy_with:?}");
    held.end().unwrap();
    bitcoind.wait_ready().unwrap();
    assert_eq!(node.getblockchaininfo().await.unwrap().blocks, height as u32);
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let options = Options { extra_args: vec!["-nonsense=1".into()], ..Options::default() };
    let error = Bitcoind::start(options).unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
}

#[test]
fn two_nodes_share_a_chain() {
    let options = Options { listen: true, ..Options::default() };
    let first = Bitcoind::start(options).unwrap();
    let tip = first.generate(2).unwrap()[1];
    let options = Options { connect: vec![first.p2p_addr().unwrap()], ..Options::default() };
    let second = Bitcoind::start(options).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while second.client().unwrap().get_best_block_hash().unwrap() != tip {
        assert!(Instant::now() < deadline, "the second node does not follow");
        std::thread::sleep(Duration::from_millis(20));
    }
}
