//! What was promised outlives `kill -9`: acknowledged shares are stored, solved blocks reach the chain.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashSet;
use std::time::Duration;

use adit_test_env::bitcoind::Bitcoind;
use adit_test_env::harness::{
    self, Blocks, Endpoint, Role, Setup, Stack, eventually, eventually_some,
};
use adit_test_env::sniffer::{Action, Direction, Sniffer};
use bitcoincore_rpc::RpcApi;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "test";

/// What a role says of itself, once it does.
fn state(role: &Role) -> Value {
    eventually_some(SOON, "a state", || {
        let state = role.status().ok()?["state"].take();
        state.is_object().then_some(state)
    })
}

/// Hashes of the blocks that a pool lists, newest first.
fn listed_blocks(pool: &Role) -> Vec<String> {
    let state = state(pool);
    let blocks = state["blocks"].as_array().unwrap();
    blocks.iter().map(|block| block["hash"].as_str().unwrap().to_owned()).collect()
}

/// Expected hashes of all shares that a pool has stored.
fn stored_work(pool: &Role) -> u128 {
    state(pool)["work"]["work"].as_str().unwrap().parse().unwrap()
}

/// Accepted shares of a worker that a pool has stored.
fn stored_shares(state: &Value, worker: &str) -> u64 {
    let workers = state["work"]["latest"].as_array().unwrap();
    let own = |known: &&Value| known["account"] == ACCOUNT && known["worker"] == worker;
    workers.iter().find(own).map_or(0, |known| known["accepted"].as_u64().unwrap())
}

/// What a pool acknowledged to a translator.
fn acknowledged_upstream(translator: &Role) -> u64 {
    state(translator)["shares"]["upstream_accepted"].as_u64().unwrap()
}

#[test]
fn an_acknowledged_share_is_a_stored_share() {
    const MODES: [&str; 3] = ["sv2-standard", "sv2-extended", "sv1"];
    let node = harness::regtest().unwrap();
    let mut chain = Blocks::above_tip(&node).unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let mut pool =
        Setup::pool(&provider.endpoint()).set("shares", "per_minute", 120).start().unwrap();
    let mut translator = Setup::translator(&pool.endpoint()).start().unwrap();
    let mut miners = MODES.map(|mode| {
        let server = if mode == "sv1" { translator.endpoint() } else { pool.endpoint() };
        let user = format!("{ACCOUNT}.{mode}");
        Setup::device(mode, &server).arg("--user", &user).start().unwrap()
    });
    let mut acknowledged = [0; MODES.len()];

    for round in 0..3 {
        let mut now = [0; MODES.len()];
        let look = |miners: &[Role; 3], translator: &Role| {
            let count = |miner: &Role| miner.shares().map_or(0, |(accepted, _)| accepted);
            [count(&miners[0]), count(&miners[1]), acknowledged_upstream(translator)]
        };
        eventually(SOON, "shares of every miner are acknowledged", || {
            now = look(&miners, &translator);
            now.iter().all(|count| *count > 0)
        });
        let work = stored_work(&pool);
        let before: u64 = look(&miners, &translator).iter().sum();
        eventually(SOON, "one more", || look(&miners, &translator).iter().sum::<u64>() > before);
        pool.kill9().unwrap();

        // What was on its way has come when the end has.
        let lost = |miner: &Role| miner.ready().is_err();
        eventually(SOON, "everybody knows", || {
            lost(&miners[0]) && lost(&miners[1]) && lost(&translator)
        });
        now = look(&miners, &translator);
        for (sum, count) in acknowledged.iter_mut().zip(now) {
            *sum += count;
        }
        let shares = &state(&translator)["shares"];
        let count = |key: &str| shares[key].as_u64().unwrap();
        assert_eq!(
            count("sent"),
            count("upstream_accepted") + count("upstream_rejected") + count("unanswered"),
            "each share of a V1 miner is accounted for: {shares}"
        );
        let (accepted, _) = miners[2].shares().unwrap();
        eventually(SOON, "the translator has counted what its miner has", || {
            state(&translator)["shares"]["accepted"].as_u64().unwrap() >= accepted
        });

        // Nobody adds to what is there.
        miners.iter_mut().for_each(|miner| miner.kill9().unwrap());
        translator.kill9().unwrap();
        pool.restart().unwrap();
        pool.wait_ready(SOON).unwrap();
        let stored = state(&pool);
        for (mode, acknowledged) in MODES.into_iter().zip(acknowledged) {
            let stored = stored_shares(&stored, mode);
            assert!(stored >= acknowledged, "{mode}: {stored} of {acknowledged}, round {round}");
        }
        let all: u64 = acknowledged.iter().sum();
        assert!(stored["work"]["accepted"].as_u64().unwrap() >= all, "{}", stored["work"]);
        assert!(stored_work(&pool) >= work, "what was shown before is there");

        // Every block in the chain was stored before it was submitted; the oldest are not shown any more.
        let listed: HashSet<_> = listed_blocks(&pool).into_iter().collect();
        chain.update(&node).unwrap();
        let hashes: Vec<_> = chain.iter().map(|block| block.hash.to_string()).collect();
        assert!(!hashes.is_empty());
        for hash in hashes.iter().rev().take(20) {
            assert!(listed.contains(hash), "{hash} is one of {listed:?}");
        }

        translator.restart().unwrap();
        miners.iter_mut().for_each(|miner| miner.restart().unwrap());
    }
}

/// A stack without miners. What its pool finds is seen in the chain.
struct Scene {
    stack: Stack,
    height: u64,
}

impl Scene {
    fn start() -> Self {
        Self::through(|provider| provider.endpoint())
    }

    /// With a pool that reaches its template provider elsewhere.
    fn through(endpoint: impl FnOnce(&Role) -> Endpoint) -> Self {
        let node = harness::regtest().unwrap();
        let provider = Setup::template_provider(&node).start().unwrap();
        let pool = Setup::pool(&endpoint(&provider)).start().unwrap();
        pool.wait_ready(SOON).unwrap();
        let stack = Stack::of(node, provider, pool).unwrap();
        Self { height: height(&stack.node), stack }
    }

    /// Mines until a share is acknowledged, which on this chain is a block. Tells all blocks that were found.
    fn find_block(&self) -> Vec<String> {
        let device = Setup::device("sv2-extended", &self.stack.pool.endpoint());
        let mut device = device.arg("--shares", "1").start().unwrap();
        assert!(device.wait_exit(SOON).unwrap().success());
        // What the device sent after that share has come when its end has, and is stored.
        let mut blocks = Vec::new();
        eventually(SOON, "all blocks of the device", || {
            let metrics = self.stack.pool.metrics().unwrap();
            let found = metrics.sum("adit_pool_blocks_total", &[("state", "found")]);
            let gone = state(&self.stack.pool)["connections"] == 0;
            blocks = listed_blocks(&self.stack.pool);
            gone && !blocks.is_empty() && blocks.len() as f64 == found
        });
        blocks
    }

    /// Waits for one of these to be the block after what was there at first.
    fn in_chain(&self, blocks: &[String]) -> String {
        eventually(SOON, "a block more in the chain", || height(&self.stack.node) > self.height);
        let hash = self.stack.node.client().unwrap().get_block_hash(self.height + 1).unwrap();
        assert!(blocks.contains(&hash.to_string()), "{hash} is one of {blocks:?}");
        hash.to_string()
    }

    /// Waits for the pool to know it.
    fn accepted(&self, hash: &str) {
        eventually(SOON, "the pool knows that its block is in the chain", || {
            let state = state(&self.stack.pool);
            let blocks = state["blocks"].as_array().unwrap();
            blocks.iter().any(|block| block["hash"] == hash && block["state"] == "accepted")
        });
    }
}

fn height(node: &Bitcoind) -> u64 {
    node.client().unwrap().get_block_count().unwrap()
}

/// The template provider dies before it can be told of a block, and the pool as well.
#[test]
fn a_block_outlives_the_template_provider_and_the_pool() {
    let mut scene = Scene::start();
    scene.stack.provider.kill9().unwrap();
    eventually(SOON, "the pool knows", || scene.stack.pool.ready().is_err());
    let blocks = scene.find_block();
    scene.stack.pool.kill9().unwrap();
    assert_eq!(height(&scene.stack.node), scene.height);

    scene.stack.pool.restart().unwrap();
    assert_eq!(listed_blocks(&scene.stack.pool), blocks, "the pool knows them still");
    scene.stack.provider.restart().unwrap();
    let hash = scene.in_chain(&blocks);
    scene.accepted(&hash);
}

/// The pool dies between storing a block and its `SubmitSolution`.
#[test]
fn a_block_outlives_the_pool_that_was_about_to_submit_it() {
    let mut sniffer = None;
    let mut scene = Scene::through(|provider| {
        let Endpoint { addr, key } = provider.endpoint();
        (&*sniffer.insert(Sniffer::noise(addr, key.unwrap()).unwrap())).into()
    });
    let sniffer = sniffer.unwrap();
    let held = sniffer.intercept(Direction::ToServer, "SubmitSolution", Action::Hold);
    let blocks = scene.find_block();
    held.wait_hit(SOON).unwrap();
    scene.stack.pool.kill9().unwrap();
    sniffer.cut();
    held.end();
    let mut said = sniffer.from_now();
    assert_eq!(height(&scene.stack.node), scene.height);

    scene.stack.pool.restart().unwrap();
    said.wait_for(Direction::ToServer, "SubmitSolution", SOON).unwrap();
    let hash = scene.in_chain(&blocks);
    scene.accepted(&hash);
}

/// The template provider was told of a block, and dies before the node can be; the pool does not come back in time.
#[test]
fn a_block_outlives_the_node_and_the_template_provider() {
    let mut scene = Scene::start();
    scene.stack.node.kill9().unwrap();
    let blocks = scene.find_block();
    let kept = scene.stack.provider.dir().join("data/solutions");
    eventually(SOON, "the template provider has them on its disk", || {
        blocks.iter().all(|hash| kept.join(format!("{hash}.block")).is_file())
    });
    scene.stack.provider.kill9().unwrap();
    scene.stack.pool.kill9().unwrap();

    scene.stack.node.restart().unwrap();
    assert_eq!(height(&scene.stack.node), scene.height);
    scene.stack.provider.restart().unwrap();
    let hash = scene.in_chain(&blocks);
    scene.stack.pool.restart().unwrap();
    scene.accepted(&hash);
}
