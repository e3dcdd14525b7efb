//! Miners who choose their own blocks: two nodes that do not share transactions, a pool with its JDS at the one, a JDC at
//! the other.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, and figures to look at"
)]

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use adit_test_env::bitcoind::{Bitcoind, Options};
use adit_test_env::harness::{
    self, Blocks, Endpoint, FoundBlock, Role, Setup, eventually, eventually_some,
};
use bitcoincore_rpc::RpcApi;
use serde_json::{Value, json};

/// For what takes a moment, on a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// Where solo rewards go: an address of nobody.
const SOLO: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
/// Only the miners' node takes transactions.
const NO_TRANSACTIONS: &str = "-blocksonly=1";

/// The pool's node and the miners', at the same height.
struct Nodes {
    pools: Bitcoind,
    miners: Bitcoind,
}

impl Nodes {
    fn start() -> Self {
        let extra_args = vec![NO_TRANSACTIONS.to_owned()];
        let pools =
            harness::node(Options { listen: true, extra_args, ..Options::default() }).unwrap();
        let connect = vec![pools.p2p_addr().unwrap()];
        let miners = harness::node(Options { connect, ..Options::default() }).unwrap();
        pools.generate(harness::START_BLOCKS).unwrap();
        let nodes = Self { pools, miners };
        nodes.wait_same();
        nodes
    }

    fn wait_same(&self) {
        let tip = |node: &Bitcoind| node.client().unwrap().get_best_block_hash().unwrap();
        eventually(SOON, "both nodes have one tip", || tip(&self.pools) == tip(&self.miners));
    }

    /// A transaction that the pool's node does not know.
    fn secret_transaction(&self) -> bitcoin::Txid {
        let sent = self.miners.fill_mempool(1).unwrap();
        self.wait_same();
        let txid = sent[0].compute_txid();
        let known = self.pools.client().unwrap().get_raw_mempool().unwrap();
        assert!(!known.contains(&txid));
        txid
    }
}

/// A pool, its JDS and the template provider that it takes its own work from.
struct Operator {
    pool: Role,
    jds: Role,
    _provider: Role,
}

impl Operator {
    fn start(node: &Bitcoind, server_id: u8) -> Self {
        let provider = Setup::template_provider(node).start().unwrap();
        let jds = Setup::jds(node).start().unwrap();
        let pool = Setup::pool(&provider.endpoint())
            .declared_by(&[&jds.endpoint()])
            .set("coinbase", "server_id", server_id)
            .start()
            .unwrap();
        for role in [&provider, &jds, &pool] {
            role.wait_ready(SOON).unwrap();
        }
        Self { pool, jds, _provider: provider }
    }
}

/// All of it, mining.
struct Scene {
    // Roles go before what they talk to.
    miners: Vec<Role>,
    jdc: Role,
    provider: Role,
    operators: Vec<Operator>,
    blocks: Blocks,
    nodes: Nodes,
}

impl Scene {
    fn start(operators: u8, configure: impl FnOnce(Setup) -> Setup) -> Self {
        let nodes = Nodes::start();
        let operators: Vec<_> =
            (1..=operators).map(|id| Operator::start(&nodes.pools, id)).collect();
        let provider = Setup::template_provider(&nodes.miners).start().unwrap();
        provider.wait_ready(SOON).unwrap();
        let mut setup = configure(Setup::jdc(&provider.endpoint()));
        for operator in &operators {
            setup = setup.upstream(&operator.pool.endpoint(), &operator.jds.endpoint());
        }
        let jdc = setup.start().unwrap();
        jdc.wait_ready(SOON).unwrap();
        let blocks = Blocks::above_tip(&nodes.pools).unwrap();
        Self { miners: Vec::new(), jdc, provider, operators, blocks, nodes }
    }

    fn add_miner(&mut self, mode: &str) {
        let miner = Setup::device(mode, &self.jdc.endpoint()).start().unwrap();
        miner.wait_ready(SOON).unwrap();
        self.miners.push(miner);
    }

    /// Waits for a block in the chain of the pool's node.
    #[track_caller]
    fn block(&mut self, what: &str, wanted: impl Fn(&FoundBlock) -> bool) -> FoundBlock {
        eventually_some(SOON, what, || {
            self.blocks.update(&self.nodes.pools).ok()?;
            self.blocks.iter().find(|block| wanted(block)).cloned()
        })
    }

    /// Waits for a block that was found after this and pays this pool.
    #[track_caller]
    fn new_block_for(&mut self, server_id: u8, what: &str) {
        let before = self.height();
        self.block(what, |block| block.height > before && is_for(block, server_id));
    }

    fn height(&self) -> u64 {
        self.nodes.pools.client().unwrap().get_block_count().unwrap()
    }

    fn source(&self) -> Option<(String, Option<u64>)> {
        let state = self.jdc.status().ok()?["state"].clone();
        let in_use = state["upstreams"].as_array()?.iter().position(|u| u["in_use"] == true);
        Some((state["source"].as_str()?.to_owned(), in_use.map(|index| index as u64)))
    }

    /// That no miner lost its connection, and none had a share refused but as stale.
    #[track_caller]
    fn miners_are_untouched(&self) {
        for miner in &self.miners {
            assert_eq!(connection(miner)["reconnects"], 0, "{}", connection(miner));
            assert!(miner.only_stale_rejects().unwrap(), "{}", connection(miner));
        }
    }
}

fn connection(miner: &Role) -> Value {
    miner.status().unwrap()["state"]["connections"][0].clone()
}

/// Whether a block came of a job of the JDC and pays the pool with this `server_id`.
fn is_for(block: &FoundBlock, server_id: u8) -> bool {
    let address = harness::payout_address(adit_test_env::bitcoind::Chain::Regtest);
    block.coinbase.is_of(&address, Setup::JDC_TAG)
        && block.coinbase.extranonce().first() == Some(&server_id)
}

fn blocks_carry_what_only_the_miners_node_has(mode: &str) -> Scene {
    let mut scene = Scene::start(1, |jdc| jdc.set("", "mode", mode));
    let secret = scene.nodes.secret_transaction();
    for mode in ["sv2-extended", "sv2-standard"] {
        scene.add_miner(mode);
    }
    let block = scene.block("a block with the secret transaction", |block| {
        block.txids.contains(&secret) && is_for(block, 1)
    });
    // The pool credits the shares on jobs that it did not make, and nobody else's.
    scene.new_block_for(1, "and one more");
    eventually(SOON, "the pool has credited shares", || {
        let work = scene.operators[0].pool.status().unwrap()["state"]["work"].to_string();
        work.contains("test")
    });
    eventually(SOON, "the pool has accepted shares", || {
        let metrics = scene.jdc.metrics().unwrap();
        metrics.sum("adit_jdc_upstream_shares_total", &[("result", "accepted")]) > 0.0
    });
    let metrics = scene.jdc.metrics().unwrap();
    assert_eq!(metrics.sum("adit_jdc_switches_total", &[("to", "declared")]), 1.0);
    scene.miners_are_untouched();
    assert!(block.txids.len() > 1);
    scene
}

#[test]
fn full_template_blocks_carry_what_only_the_miners_node_has() {
    let scene = blocks_carry_what_only_the_miners_node_has("full-template");
    let metrics = scene.jdc.metrics().unwrap();
    assert!(metrics.sum("adit_jdc_transactions_provided_total", &[]) >= 1.0);
}

#[test]
fn coinbase_only_blocks_carry_what_only_the_miners_node_has() {
    let scene = blocks_carry_what_only_the_miners_node_has("coinbase-only");
    let metrics = scene.jdc.metrics().unwrap();
    assert_eq!(metrics.sum("adit_jdc_transactions_provided_total", &[]), 0.0);
}

/// What the JDC submits to its own node it also pushes to the JDS, which submits it to the pool's.
#[test]
fn blocks_are_pushed_to_the_jds_and_both_nodes_have_them_at_once() {
    let mut scene = Scene::start(1, |jdc| jdc);
    scene.add_miner("sv2-extended");
    let clients = [&scene.nodes.miners, &scene.nodes.pools].map(|node| node.client().unwrap());
    // When each node first had a block, by its hash.
    let mut first = [HashMap::new(), HashMap::new()];
    let mut both = Vec::new();
    eventually(SOON, "ten blocks that both have", || {
        for _ in 0..5 {
            for (client, first) in clients.iter().zip(&mut first) {
                let tip = client.get_best_block_hash().unwrap();
                first.entry(tip).or_insert_with(Instant::now);
            }
            thread::sleep(Duration::from_millis(1));
        }
        let [miners, pools] = &first;
        let pairs = miners.iter().filter_map(|(hash, a)| Some((*a, *pools.get(hash)?)));
        both = pairs.map(|(a, b)| a.max(b) - a.min(b)).collect();
        both.len() > 10
    });
    both.sort();
    // With nothing else running, a tenth of a second at most.
    println!("from the one node to the other: median {:?}, most {:?}", both[5], both[10]);
    eventually(SOON, "the JDS has submitted a block that is in the chain", || {
        scene.blocks.update(&scene.nodes.pools).unwrap();
        let log = scene.operators[0].jds.log();
        scene.blocks.iter().any(|block| log.contains(&format!("block found hash={}", block.hash)))
    });
    scene.miners_are_untouched();
}

#[test]
fn v1_miners_behind_a_translator_choose_their_blocks_too() {
    let mut scene = Scene::start(1, |jdc| jdc);
    let translator = Setup::translator(&scene.jdc.endpoint()).start().unwrap();
    let endpoint = Endpoint { key: None, ..translator.endpoint() };
    let miner = Setup::device("sv1", &endpoint).start().unwrap();
    miner.wait_ready(SOON).unwrap();
    scene.new_block_for(1, "a block of a V1 miner");
    assert_eq!(connection(&miner)["reconnects"], 0);
}

/// To the pool all of them are one channel; it knows each by the name in its shares.
#[test]
fn the_pool_knows_the_workers_behind_a_jdc() {
    let mut scene = Scene::start(1, |jdc| jdc);
    let jdc = scene.jdc.endpoint();
    let url = format!("stratum2+tcp://{}/{}", jdc.addr, jdc.key.unwrap());
    let upstream = [("url", url.into()), ("user_identity", "farm.all".into())];
    let translator = Setup::translator(&jdc).clear("upstream").push("upstream", &upstream);
    let translator = translator.set("", "channels", "aggregated").start().unwrap();
    let v1 = Endpoint { key: None, ..translator.endpoint() };
    for (mode, server, user) in [
        ("sv2-extended", &jdc, "farm.alpha"),
        ("sv2-standard", &jdc, "farm.beta"),
        ("sv1", &v1, "farm.gamma"),
    ] {
        let miner = Setup::device(mode, server).arg("--user", user).start().unwrap();
        scene.miners.push(miner);
    }
    let pool = &scene.operators[0].pool;
    let account = Setup::USER.split('.').next().unwrap();
    eventually(SOON, "the pool has shares of every worker", || {
        let workers = pool.status().unwrap()["state"]["workers"].clone();
        let shares_of = |worker: &str| {
            let mut workers = workers.as_array().unwrap().iter();
            let found = workers.find(|w| w["account"] == account && w["worker"] == worker);
            found.and_then(|worker| worker["accepted"].as_u64())
        };
        ["alpha", "beta", "gamma"].iter().all(|name| shares_of(name) > Some(0))
    });
    let state = scene.jdc.status().unwrap()["state"].clone();
    assert_eq!(state["upstreams"][0]["worker_names"], true);
}

#[test]
fn solo_blocks_pay_the_miner() {
    let mut scene =
        Scene::start(0, |jdc| jdc.set("", "mode", "solo").set("coinbase", "solo_output", SOLO));
    scene.add_miner("sv2-extended");
    let block =
        scene.block("a block of its own", |block| block.coinbase.is_of(SOLO, Setup::JDC_TAG));
    scene.miners_are_untouched();
    // Whose it was is known, after a restart as well.
    let record = |jdc: &Role| -> Option<Value> {
        let blocks = jdc.status().ok()?["state"]["blocks"].as_array()?.clone();
        blocks.into_iter().find(|known| known["hash"] == block.hash.to_string())
    };
    let accepted = |jdc: &Role| record(jdc).is_some_and(|block| block["state"] == "accepted");
    eventually(SOON, "the JDC says that it is in the chain", || accepted(&scene.jdc));
    let told = record(&scene.jdc).unwrap();
    assert_eq!(
        (told["for"].as_str(), told["identity"].as_str()),
        (Some("solo"), Some(Setup::USER))
    );
    assert_eq!(told["height"], block.height);
    let best = |jdc: &Role| {
        let workers = jdc.status().ok()?["state"]["workers"].clone();
        let best = workers[0]["best_difficulty"].as_f64()?;
        (workers[0]["identity"] == Setup::USER).then_some(best)
    };
    let before = eventually_some(SOON, "the miner's best", || best(&scene.jdc));
    scene.jdc.stop().unwrap();
    scene.jdc.restart().unwrap();
    eventually(SOON, "it still knows", || accepted(&scene.jdc));
    assert!(eventually_some(SOON, "the miner is back", || best(&scene.jdc)) >= before);
}

#[test]
fn a_pool_that_dies_is_followed_by_the_next_and_come_back_to() {
    let mut scene = Scene::start(2, |jdc| jdc);
    for mode in ["sv2-extended", "sv2-standard"] {
        scene.add_miner(mode);
    }
    scene.new_block_for(1, "a block for the first pool");
    eventually(SOON, "work for the first", || {
        scene.source() == Some(("declared".to_owned(), Some(0)))
    });
    // Whichever happened to be taken at first.
    let switches =
        |jdc: &Role| jdc.metrics().unwrap().sum("adit_jdc_switches_total", &[("to", "declared")]);
    let begun = switches(&scene.jdc);
    scene.operators[0].pool.kill9().unwrap();
    eventually(SOON, "the second takes over", || {
        scene.source() == Some(("declared".to_owned(), Some(1)))
    });
    scene.new_block_for(2, "a block for the second pool");
    scene.operators[0].pool.restart().unwrap();
    eventually(SOON, "the first is gone back to", || {
        scene.source() == Some(("declared".to_owned(), Some(0)))
    });
    scene.new_block_for(1, "a block for the first pool again");
    scene.miners_are_untouched();
    assert_eq!(switches(&scene.jdc) - begun, 2.0);
}

#[test]
fn with_no_pool_left_miners_mine_solo_until_it_is_back() {
    let mut scene = Scene::start(1, |jdc| jdc.set("coinbase", "solo_output", SOLO));
    scene.add_miner("sv2-extended");
    scene.new_block_for(1, "a block for the pool");
    scene.operators[0].pool.kill9().unwrap();
    scene.block("a block of its own", |block| block.coinbase.is_of(SOLO, Setup::JDC_TAG));
    scene.operators[0].pool.restart().unwrap();
    eventually(SOON, "the pool is gone back to", || {
        scene.source() == Some(("declared".to_owned(), Some(0)))
    });
    scene.new_block_for(1, "a block for the pool again");
    scene.miners_are_untouched();
}

/// One after the other, in the middle of mining, and nothing else is restarted.
#[test]
fn whatever_dies_comes_back_and_no_miner_is_lost() {
    let mut scene = Scene::start(1, |jdc| jdc);
    for mode in ["sv2-extended", "sv2-standard"] {
        scene.add_miner(mode);
    }
    scene.new_block_for(1, "a first block");
    for what in ["jds", "pool", "template-provider"] {
        let role = match what {
            "jds" => &mut scene.operators[0].jds,
            "pool" => &mut scene.operators[0].pool,
            _ => &mut scene.provider,
        };
        role.kill9().unwrap();
        role.restart().unwrap();
        role.wait_ready(SOON).unwrap();
        eventually(SOON, &format!("work is accepted after the kill of the {what}"), || {
            let state = scene.jdc.status().unwrap()["state"].clone();
            state["source"] == "declared" && state["job"]["state"] == "accepted"
        });
        scene.new_block_for(1, &format!("a block after the kill of the {what}"));
        scene.miners_are_untouched();
    }
    // Every block that was found is in the chain, overtaken, still looked after, or one too many on its tip.
    eventually(SOON, "no block is forgotten", || {
        let state = scene.jdc.status().unwrap()["state"].clone();
        let metrics = scene.jdc.metrics().unwrap();
        let blocks = |state| metrics.sum("adit_jdc_blocks_total", &[("state", state)]);
        let pending = state["pending_blocks"].as_f64().unwrap();
        let settled = ["accepted", "overtaken", "unknown", "rival"].map(blocks).iter().sum::<f64>();
        blocks("found") == settled + pending
    });
    scene.jdc.kill9().unwrap();
    scene.jdc.restart().unwrap();
    scene.new_block_for(1, "a block after the kill of the JDC");
    scene.nodes.wait_same();
}

/// Found while no template provider was there to take it, and the JDC died before it came back.
#[test]
fn a_block_that_nobody_took_survives_the_end_of_the_jdc() {
    let mut scene =
        Scene::start(0, |jdc| jdc.set("", "mode", "solo").set("coinbase", "solo_output", SOLO));
    scene.add_miner("sv2-extended");
    scene.block("a first block", |block| block.coinbase.is_of(SOLO, Setup::JDC_TAG));
    // None is on its way when the template provider dies: the node would have it, and take no other of its height.
    scene.miners.clear();
    eventually(SOON, "the node has every block, and the JDC works on its tip", || {
        let state = scene.jdc.status().unwrap()["state"].clone();
        let node = scene.nodes.pools.client().unwrap();
        let best = json!(node.get_best_block_hash().unwrap());
        let blocks = state["blocks"].as_array().unwrap();
        let known = |block: &Value| {
            let hash = block["hash"].as_str().unwrap().parse().unwrap();
            node.get_block_header(&hash).is_ok()
        };
        let is_tip = |block: &Value| block["hash"] == best && block["state"] == "accepted";
        state["connections"] == 0 && blocks.iter().all(known) && blocks.iter().any(is_tip)
    });
    scene.provider.kill9().unwrap();
    let height = scene.height();
    scene.add_miner("sv2-extended");
    let folder = scene.jdc.dir().join("blocks");
    let waiting = || {
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".json")).collect::<Vec<_>>()
    };
    eventually(SOON, "blocks that wait on disk", || waiting().len() > 2);
    scene.jdc.kill9().unwrap();
    let files = waiting();
    // Nobody mines anything else meanwhile.
    scene.miners.clear();
    scene.provider.restart().unwrap();
    scene.jdc.restart().unwrap();
    let block = scene.block("one of them is in the chain", |block| block.height > height);
    assert!(files.contains(&format!("{}.json", block.hash)), "{} in {files:?}", block.hash);
}
