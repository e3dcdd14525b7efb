//! The template provider on a real node, with the test in the place of the pool.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use adit_sv2::codec::B064K;
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::common::PROTOCOL_TEMPLATE_DISTRIBUTION;
use adit_sv2::messages::template_distribution::{
    CoinbaseOutputConstraints, RequestTransactionData, SetNewPrevHash, SubmitSolution,
    TemplateDistribution,
};
use adit_test_env::bitcoind::{
    Bitcoind, Chain, Options, coins_of, op_true_address, op_true_script, split,
};
use adit_test_env::harness::{self, Role, Setup, Sv2Peer, eventually, program};
use bitcoin::block::{Header, Version};
use bitcoin::consensus::encode::{deserialize, deserialize_partial, serialize};
use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::opcodes::all::OP_CHECKSIG;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, OutPoint, ScriptBuf, Sequence, Target, Transaction,
    TxIn, TxMerkleNode, TxOut, Txid, Witness, absolute, transaction,
};
use bitcoincore_rpc::RpcApi;
use serde_json::{Value, json};

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// What a client reserves that adds one ordinary output.
const USUAL: CoinbaseOutputConstraints = CoinbaseOutputConstraints {
    coinbase_output_max_additional_size: 100,
    coinbase_output_max_additional_sigops: 4,
};

/// A `NewTemplate` that outlives its message.
#[derive(Clone, Debug)]
struct Template {
    id: u64,
    future: bool,
    version: u32,
    coinbase_version: u32,
    coinbase_prefix: Vec<u8>,
    coinbase_sequence: u32,
    value: u64,
    coinbase_outputs: Vec<u8>,
    coinbase_locktime: u32,
    merkle_path: Vec<[u8; 32]>,
}

/// What a template provider says unasked.
#[derive(Debug)]
enum Said {
    Template(Template),
    Prev(SetNewPrevHash),
}

/// A pool's end.
struct Client(Sv2Peer);

impl Client {
    fn connect(provider: &Role, constraints: &CoinbaseOutputConstraints) -> Self {
        let server = provider.endpoint();
        let mut peer = Sv2Peer::set_up(&server, PROTOCOL_TEMPLATE_DISTRIBUTION, 0).unwrap();
        peer.send(constraints).unwrap();
        Self(peer)
    }

    fn next(&mut self) -> Said {
        let record = self.0.receive(SOON).unwrap().unwrap();
        let (AnyMessage::TemplateDistribution(message), _) = record.message().unwrap() else {
            panic!("{record}")
        };
        match message {
            TemplateDistribution::NewTemplate(m) => Said::Template(Template {
                id: m.template_id,
                future: m.future_template,
                version: m.version,
                coinbase_version: m.coinbase_tx_version,
                coinbase_prefix: m.coinbase_prefix.as_bytes().to_vec(),
                coinbase_sequence: m.coinbase_tx_input_sequence,
                value: m.coinbase_tx_value_remaining,
                coinbase_outputs: m.coinbase_tx_outputs.as_bytes().to_vec(),
                coinbase_locktime: m.coinbase_tx_locktime,
                merkle_path: m.merkle_path.iter().collect(),
            }),
            TemplateDistribution::SetNewPrevHash(m) => Said::Prev(m),
            _ => panic!("{record}"),
        }
    }

    fn template(&mut self) -> Template {
        match self.next() {
            Said::Template(template) => template,
            other => panic!("{other:?} is no template"),
        }
    }

    /// A future template and the prevhash that makes it active, which belong together.
    fn future(&mut self) -> (Template, SetNewPrevHash) {
        let template = self.template();
        match self.next() {
            Said::Prev(prev) if prev.template_id == template.id && template.future => {
                (template, prev)
            }
            other => panic!("{other:?} after {template:?}"),
        }
    }

    /// The newest work on `tip` that has transactions or not, whatever comes before it.
    fn work_on(&mut self, tip: BlockHash, full: bool) -> (Template, SetNewPrevHash) {
        let mut templates = HashMap::new();
        let mut current: Option<SetNewPrevHash> = None;
        loop {
            match self.next() {
                Said::Template(template) => {
                    let fits = full != template.merkle_path.is_empty() && !template.future;
                    match current {
                        Some(prev) if prev.prev_hash == tip.to_byte_array() && fits => {
                            return (template, prev);
                        }
                        _ => drop(templates.insert(template.id, template)),
                    }
                }
                Said::Prev(prev) => {
                    let template = templates[&prev.template_id].clone();
                    if prev.prev_hash == tip.to_byte_array()
                        && full != template.merkle_path.is_empty()
                    {
                        return (template, prev);
                    }
                    current = Some(prev);
                }
            }
        }
    }

    /// The transactions of a template, or the error code.
    fn transactions(&mut self, template_id: u64) -> Result<Vec<Transaction>, String> {
        self.0.send(&RequestTransactionData { template_id }).unwrap();
        let answer = |name: &str| name.starts_with("RequestTransactionData");
        let record = loop {
            // A new template may come in between.
            let record = self.0.receive(SOON).unwrap().unwrap();
            if answer(&record.name) {
                break record;
            }
        };
        match record.message().unwrap().0 {
            AnyMessage::TemplateDistribution(
                TemplateDistribution::RequestTransactionDataSuccess(m),
            ) => {
                assert_eq!(m.template_id, template_id);
                Ok(m.transaction_list
                    .iter()
                    .map(|tx| deserialize(tx.as_bytes()).unwrap())
                    .collect())
            }
            AnyMessage::TemplateDistribution(
                TemplateDistribution::RequestTransactionDataError(m),
            ) => {
                assert_eq!(m.template_id, template_id);
                Err(m.error_code.to_clean_string())
            }
            other => panic!("{other}"),
        }
    }

    fn submit(&mut self, template: &Template, block: &(Header, Transaction)) {
        let (header, coinbase) = block;
        let coinbase = serialize(coinbase);
        let solution = SubmitSolution {
            template_id: template.id,
            version: header.version.to_consensus() as u32,
            header_timestamp: header.time,
            header_nonce: header.nonce,
            coinbase_tx: B064K::new(&coinbase).unwrap(),
        };
        self.0.send(&solution).unwrap();
    }
}

impl Template {
    /// The coinbase that pays everything to anybody, with these outputs besides.
    fn coinbase(&self, outputs: &[TxOut]) -> Transaction {
        let reward = TxOut { value: Amount::from_sat(self.value), script_pubkey: op_true_script() };
        let mut output = [&[reward], outputs].concat();
        let mut rest = &self.coinbase_outputs[..];
        while !rest.is_empty() {
            let (last, used) = deserialize_partial(rest).unwrap();
            output.push(last);
            rest = &rest[used..];
        }
        let script_sig = [&self.coinbase_prefix[..], b"\x04test"].concat();
        Transaction {
            version: transaction::Version(self.coinbase_version as i32),
            lock_time: absolute::LockTime::from_consensus(self.coinbase_locktime),
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: ScriptBuf::from(script_sig),
                sequence: Sequence(self.coinbase_sequence),
                witness: Witness::from_slice(&[[0; 32]]),
            }],
            output,
        }
    }

    /// A block with that coinbase.
    fn solve(&self, prev: &SetNewPrevHash, outputs: &[TxOut]) -> (Header, Transaction) {
        let coinbase = self.coinbase(outputs);
        let mut root = coinbase.compute_txid().to_byte_array();
        for step in &self.merkle_path {
            let mut engine = sha256d::Hash::engine();
            engine.input(&root);
            engine.input(step);
            root = sha256d::Hash::from_engine(engine).to_byte_array();
        }
        let mut header = Header {
            version: Version::from_consensus(self.version as i32),
            prev_blockhash: BlockHash::from_byte_array(prev.prev_hash),
            merkle_root: TxMerkleNode::from_byte_array(root),
            time: prev.header_timestamp,
            bits: CompactTarget::from_consensus(prev.n_bits),
            nonce: 0,
        };
        let target = Target::from_le_bytes(prev.target);
        assert_eq!(target, Target::from_compact(header.bits));
        while !target.is_met_by(header.block_hash()) {
            header.nonce += 1;
        }
        (header, coinbase)
    }
}

fn start(node: &Bitcoind) -> Role {
    let provider = Setup::template_provider(node).start().unwrap();
    provider.wait_ready(SOON).unwrap();
    provider
}

fn tip(node: &Bitcoind) -> BlockHash {
    node.client().unwrap().get_best_block_hash().unwrap()
}

/// A block with these transactions of the mempool and no others.
fn generate_with(node: &Bitcoind, transactions: &[&Transaction]) -> BlockHash {
    let txids: Vec<_> = transactions.iter().map(|tx| tx.compute_txid().to_string()).collect();
    let address = op_true_address(node.chain()).to_string();
    let made: Value =
        node.client().unwrap().call("generateblock", &[json!(address), json!(txids)]).unwrap();
    made["hash"].as_str().unwrap().parse().unwrap()
}

/// Spends a coin of the chain with this fee, and gives the transaction to the node.
fn send(node: &Bitcoind, coin: usize, fee: u64) -> Transaction {
    let transaction = split(&node.coins().unwrap()[coin], 2, Amount::from_sat(fee)).unwrap();
    node.send(std::slice::from_ref(&transaction)).unwrap();
    transaction
}

/// Transactions in what the node offers now.
fn offered(node: &Bitcoind) -> usize {
    let request = json!({ "rules": ["segwit"] });
    let offer: Value = node.client().unwrap().call("getblocktemplate", &[request]).unwrap();
    offer["transactions"].as_array().unwrap().len()
}

/// A script that counts as four sigops for each of its bytes. 34 is the most that every node takes.
fn checks(len: usize) -> ScriptBuf {
    ScriptBuf::from(vec![OP_CHECKSIG.to_u8(); len])
}

fn txids(transactions: &[Transaction]) -> Vec<Txid> {
    transactions.iter().map(Transaction::compute_txid).collect()
}

#[test]
fn a_new_tip_first_and_its_transactions_later() {
    let node = harness::regtest().unwrap();
    let waiting = send(&node, 0, 10_000);
    let provider = start(&node);
    let mut client = Client::connect(&provider, &USUAL);
    let (template, prev) = client.work_on(tip(&node), true);
    assert_eq!(prev.prev_hash, tip(&node).to_byte_array());
    let subsidy = template.value - 10_000;

    // An empty block, so that the transaction stays.
    let hash = generate_with(&node, &[]);
    let (empty, prev) = client.future();
    assert_eq!((prev.prev_hash, empty.merkle_path.len()), (hash.to_byte_array(), 0));
    assert_eq!(empty.value, subsidy);
    assert!(empty.id > template.id);
    let header = node.client().unwrap().get_block_header_info(&hash).unwrap();
    assert!(u64::from(prev.header_timestamp) > header.median_time.unwrap() as u64);
    let full = client.template();
    assert_eq!((full.future, full.merkle_path.len(), full.value), (false, 1, subsidy + 10_000));
    assert_eq!(txids(&client.transactions(full.id).unwrap()), [waiting.compute_txid()]);

    // Both kinds are good for blocks.
    let block = empty.solve(&prev, &[]);
    client.submit(&empty, &block);
    let hash = block.0.block_hash();
    eventually(SOON, "the empty block in the chain", || tip(&node) == hash);
    let (full, prev) = client.work_on(hash, true);
    let block = full.solve(&prev, &[]);
    client.submit(&full, &block);
    let hash = block.0.block_hash();
    eventually(SOON, "the full block in the chain", || tip(&node) == hash);
    let found: Block = node.client().unwrap().get_block(&hash).unwrap();
    assert_eq!(txids(&found.txdata), [block.1.compute_txid(), waiting.compute_txid()]);
    assert_eq!(found.txdata[0], block.1);
}

#[test]
fn fees_above_the_threshold_bring_a_new_template() {
    let node = harness::regtest().unwrap();
    let setup = Setup::template_provider(&node).set("templates", "fee_threshold_sats", 1_000);
    let provider = setup.start().unwrap();
    provider.wait_ready(SOON).unwrap();
    let mut client = Client::connect(&provider, &USUAL);
    let (empty, prev) = client.future();
    // The first transactions of a tip count whatever they pay.
    send(&node, 0, 600);
    let first = client.template();
    assert_eq!((first.value, first.future), (empty.value + 600, false));
    let offers = || {
        let metrics = provider.metrics().unwrap();
        metrics.sum(
            "adit_template_provider_rpc_duration_seconds_count",
            &[("method", "getblocktemplate")],
        )
    };
    send(&node, 1, 500);
    // A node makes a new template for new transactions only when its last one is 5 seconds old.
    eventually(SOON, "the node offers both", || offered(&node) == 2);
    let asked = offers();
    eventually(SOON, "the node is asked twice more", || offers() >= asked + 2.0);
    let third = send(&node, 2, 500);
    let second = client.template();
    assert_eq!(second.value, empty.value + 1_600, "and none for 500 satoshis alone");

    // All of them are work on the same tip.
    assert_eq!(client.transactions(first.id).unwrap().len(), 1);
    let transactions = client.transactions(second.id).unwrap();
    assert_eq!(transactions.len(), 3);
    assert!(transactions.contains(&third));
    let block = second.solve(&prev, &[]);
    client.submit(&second, &block);
    eventually(SOON, "the block in the chain", || tip(&node) == block.0.block_hash());
}

#[test]
fn transaction_data_of_what_is_and_what_is_not_worked_on() {
    let node = harness::regtest().unwrap();
    let mut sent = node.fill_mempool(40).unwrap();
    let child = split(&coins_of(&sent[7])[0], 1, Amount::from_sat(40_000)).unwrap();
    node.send(std::slice::from_ref(&child)).unwrap();
    sent.push(child.clone());
    let provider = start(&node);
    let mut client = Client::connect(&provider, &USUAL);
    let (template, prev) = client.work_on(tip(&node), true);
    let transactions = client.transactions(template.id).unwrap();
    assert_eq!(transactions.len(), sent.len());
    let place = |tx: &Transaction| transactions.iter().position(|found| found == tx).unwrap();
    assert!(sent.iter().all(|tx| transactions[place(tx)] == *tx), "with their witnesses");
    assert!(place(&sent[7]) < place(&child), "parents first");

    // They are those of the merkle path and of the witness commitment.
    let (header, coinbase) = template.solve(&prev, &[]);
    let block = Block { header, txdata: [&[coinbase], &transactions[..]].concat() };
    assert!(block.check_merkle_root() && block.check_witness_commitment());

    assert_eq!(client.transactions(template.id + 1_000), Err("template-id-not-found".into()));
    let hash = generate_with(&node, &[]);
    client.work_on(hash, false);
    assert_eq!(client.transactions(template.id), Err("stale-template-id".into()));
}

/// Every client gets what fits with its own outputs, and can use all it reserved.
#[test]
fn full_templates_are_trimmed_for_each_client() {
    let extra_args = vec!["-acceptnonstdtxn=1".into()];
    let node = harness::node(Options { extra_args, ..Options::default() }).unwrap();
    node.generate(harness::START_BLOCKS).unwrap();
    // Coins for what follows, in the chain so that nothing depends on anything.
    let fan = split(&node.coins().unwrap()[0], 200, Amount::from_sat(100_000)).unwrap();
    node.send(std::slice::from_ref(&fan)).unwrap();
    node.generate(1).unwrap();
    let mut coins = coins_of(&fan).into_iter();
    let mut fees = HashMap::new();
    let mut pays = |transaction: &Transaction, coin: u64| {
        let paid: u64 = transaction.output.iter().map(|out| out.value.to_sat()).sum();
        fees.insert(transaction.compute_txid(), coin - paid);
    };
    let mut sent = Vec::new();
    // 15,912 sigops of the 80,000 that a block may have, each: they pay the most for their size.
    for _ in 0..2 {
        let coin = coins.next().unwrap();
        let mut transaction = split(&coin, 117, Amount::from_sat(1_000_000)).unwrap();
        for output in &mut transaction.output {
            output.script_pubkey = checks(34);
        }
        pays(&transaction, coin.value.to_sat());
        sent.push(transaction);
    }
    let sigops = txids(&sent);
    // 155,000 weight units each, more than a block's worth of them, and some small ones that pay less.
    for index in 0..180 {
        let coin = coins.next().unwrap();
        let (outputs, fee) = if index < 26 { (900, 100_000 + index) } else { (1, 150 + index) };
        let transaction = split(&coin, outputs, Amount::from_sat(fee)).unwrap();
        pays(&transaction, coin.value.to_sat());
        sent.push(transaction);
    }
    node.send(&sent).unwrap();
    let provider = start(&node);

    let usual = Client::connect(&provider, &USUAL);
    let size = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 60_000,
        coinbase_output_max_additional_sigops: 4,
    };
    let large = Client::connect(&provider, &size);
    let ops = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 21_000,
        coinbase_output_max_additional_sigops: 65_532,
    };
    let many_sigops = Client::connect(&provider, &ops);
    // What each adds to its coinbase besides the reward, as much as it said it may. Every output has 43 bytes.
    let output = |script_pubkey| TxOut { value: Amount::ZERO, script_pubkey };
    let padding = vec![output(op_true_script()); 60_000 / 43 - 1];
    let counted = [vec![output(checks(34)); 65_532 / 136], vec![output(checks(29))]].concat();
    let base = tip(&node);
    let (mut weights, mut last) = (Vec::new(), None);
    for (mut client, outputs) in [(many_sigops, counted), (large, padding), (usual, vec![])] {
        let (template, prev) = client.work_on(base, true);
        let transactions = client.transactions(template.id).unwrap();
        let paid: u64 = transactions.iter().map(|tx| fees[&tx.compute_txid()]).sum();
        assert_eq!(template.value, 5_000_000_000 + paid, "the fees of what is left in it");
        let solved = template.solve(&prev, &outputs);
        let (header, coinbase) = solved.clone();
        let block = Block { header, txdata: [&[coinbase], &transactions[..]].concat() };
        assert!(block.check_merkle_root() && block.check_witness_commitment());
        let weight = block.weight().to_wu();
        assert!((3_800_000..=4_000_000).contains(&weight), "{weight} is a full block");
        let found = txids(&transactions);
        let with_sigops = sigops.iter().filter(|txid| found.contains(txid)).count();
        weights.push((found.len(), with_sigops));

        // The node has the last word.
        let proposal = json!({
            "mode": "proposal",
            "rules": ["segwit"],
            "data": bitcoin::consensus::encode::serialize_hex(&block),
        });
        let refused: Value = node.client().unwrap().call("getblocktemplate", &[proposal]).unwrap();
        assert_eq!(refused, Value::Null);
        last = Some((client, template, solved));
    }
    let (mut client, template, solved) = last.unwrap();
    client.submit(&template, &solved);
    eventually(SOON, "the block in the chain", || tip(&node) == solved.0.block_hash());
    let [by_sigops, by_size, usual] = weights[..] else { unreachable!() };
    assert_eq!((by_sigops.1, by_size.1, usual.1), (0, 2, 2));
    assert!(by_size.0 < usual.0, "{weights:?}");
}

#[test]
fn a_solution_outlives_the_template_provider() {
    let node = harness::regtest().unwrap();
    let waiting = send(&node, 0, 10_000);
    let mut provider = start(&node);
    let mut client = Client::connect(&provider, &USUAL);
    let (template, prev) = client.work_on(tip(&node), true);
    let block = template.solve(&prev, &[]);
    provider.kill9().unwrap();
    assert!(client.0.wait_closed(SOON).is_ok());
    provider.restart().unwrap();
    provider.wait_ready(SOON).unwrap();

    let mut client = Client::connect(&provider, &USUAL);
    let (newer, _) = client.work_on(tip(&node), true);
    assert!(newer.id > template.id, "ids go on");
    client.submit(&template, &block);
    let hash = block.0.block_hash();
    eventually(SOON, "the block in the chain", || tip(&node) == hash);
    let found: Block = node.client().unwrap().get_block(&hash).unwrap();
    assert!(found.txdata.contains(&waiting));

    // Told twice, and of what it never gave out, it goes on.
    client.submit(&template, &block);
    client.submit(&Template { id: newer.id + 1_000, ..template }, &block);
    let solutions = |result: &str| {
        let metrics = provider.metrics().unwrap();
        metrics.sum("adit_template_provider_solutions_total", &[("result", result)])
    };
    eventually(SOON, "both are counted", || {
        solutions("repeated") == 1.0 && solutions("unknown-template") == 1.0
    });
    let hash = generate_with(&node, &[]);
    client.work_on(hash, false);
}

/// What `/readyz` says while something is wrong with the node, until it is put right.
#[test]
fn readiness_says_what_is_wrong_with_the_node() {
    let mut node = harness::regtest().unwrap();
    let says = |role: &Role, what: &str| {
        eventually(SOON, &format!("{what}: {:?}", role.ready()), || {
            role.ready().is_err_and(|said| said.contains("node: ") && said.contains(what))
        });
    };
    let base = Setup::template_provider(&node);
    let with = |credentials: &[(&str, Value)]| {
        let entries = [&[("url", node.url().into())], credentials].concat();
        base.clone().clear("node").push("node", &entries).start().unwrap()
    };
    let wrong_password = with(&[("user", "__cookie__".into()), ("password", "wrong".into())]);
    let mut no_cookie = with(&[("cookie_file", "later.cookie".into())]);
    let other_chain = base.clone().set("", "network", "signet").start().unwrap();
    let mut right = base.start().unwrap();
    says(&wrong_password, "wrong credentials");
    says(&no_cookie, "later.cookie");
    says(&other_chain, "node is on chain regtest, configured is signet");
    right.wait_ready(SOON).unwrap();
    // One of them only has to be given its cookie.
    fs::copy(node.cookie_file(), no_cookie.dir().join("later.cookie")).unwrap();
    no_cookie.wait_ready(SOON).unwrap();
    no_cookie.stop().unwrap();

    // A node that is away, and then warms up for as long as it is held.
    node.stop().unwrap();
    says(&right, "node unreachable");
    let held = node.launch_held().unwrap();
    says(&right, "node warming up: ");
    held.end().unwrap();
    node.wait_ready().unwrap();
    right.wait_ready(SOON).unwrap();
    let mut client = Client::connect(&right, &USUAL);
    client.work_on(tip(&node), false);
    right.stop().unwrap();
    assert!(wrong_password.ready().is_err() && other_chain.ready().is_err());
}

#[test]
fn watch_prints_what_is_said() {
    let node = harness::regtest().unwrap();
    let provider = start(&node);
    let server = provider.endpoint();
    let key = server.key.unwrap();
    let watch = |args: &[&str]| {
        Command::new(program("template-provider").unwrap())
            .arg("watch")
            .args(args)
            .output()
            .unwrap()
    };
    let url = format!("stratum2+tcp://{}/{key}", server.addr);
    let output = watch(&[&url, "--count", "3"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let [success, template, prev] = said.lines().collect::<Vec<_>>()[..] else {
        panic!("not three lines: {said}")
    };
    assert!(success.contains("SetupConnection.Success { used_version: 2"), "{said}");
    let height = harness::START_BLOCKS + 1;
    assert!(
        template.contains("NewTemplate")
            && template.contains(&format!("future, height {height}, value 50."))
    );
    assert!(prev.contains("SetNewPrevHash") && prev.contains(&tip(&node).to_string()), "{said}");

    let plain =
        watch(&[&server.addr.to_string(), "--authority-key", &key.to_string(), "--count", "1"]);
    assert!(plain.status.success());
    let other = "9bXiEd8boQVhq7WddEcERUL5tyyJVFYdU8th3HfbNXK3Yw6GRXh";
    let refused = watch(&[&server.addr.to_string(), "--authority-key", other]);
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.stdout.is_empty() && why.contains("authority"), "{why}");
    assert_eq!(Chain::Regtest, node.chain());
}
