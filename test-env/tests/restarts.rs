//! `kill -9` of any part in the middle of mining: it comes back at the same place, and mining goes on without anything
//! else being restarted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, and figures to look at"
)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use adit_test_env::bitcoind::Bitcoind;
use adit_test_env::harness::{self, Blocks, Role, Setup, Stack, eventually};
use adit_test_env::sniffer::{Action, Direction, Sniffer};
use bitcoin::BlockHash;
use bitcoincore_rpc::RpcApi;
use serde_json::Value;

/// On a machine busy with other tests. With nothing else running, mining goes on within 15 seconds: each test says when.
const SOON: Duration = Duration::from_secs(60);
/// Every kind of miner, and its place in [`Stack::miners`].
const MODES: [&str; 3] = ["sv2-standard", "sv2-extended", "sv1"];
const SV1: usize = 2;
/// The head of an extranonce that the pool gives.
const POOL_PREFIX: usize = 4;

/// Processes by name, for a look at which is another one than before.
fn pids(stack: &Stack) -> Vec<(&'static str, Option<u32>)> {
    let mut pids: Vec<_> = stack.roles().map(|role| (role.name(), role.pid())).collect();
    pids.push(("bitcoind", stack.node.pid()));
    assert!(pids.iter().all(|(_, pid)| pid.is_some()), "{pids:?}");
    pids
}

/// The names of the processes that are not the same ones.
fn replaced(
    before: &[(&'static str, Option<u32>)],
    after: &[(&'static str, Option<u32>)],
) -> Vec<&'static str> {
    let pairs = before.iter().zip(after);
    pairs.filter(|(before, after)| before != after).map(|(before, _)| before.0).collect()
}

/// A mining device's only connection.
fn connection(miner: &Role) -> Value {
    miner.status().unwrap()["state"]["connections"][0].clone()
}

fn reconnects(miner: &Role) -> u64 {
    connection(miner)["reconnects"].as_u64().unwrap()
}

/// What the coinbase extranonce of a block begins with that this miner finds now.
fn prefix_now(miner: &Role) -> Option<Vec<u8>> {
    (miner.status().ok()?["state"]["connections"][0]["state"] == "mining").then_some(())?;
    miner.extranonce_prefixes().ok()?.pop()
}

/// The best chain above what the node started with.
struct Chain(Blocks);

impl Chain {
    fn new(node: &Bitcoind) -> Self {
        Self(Blocks::above_tip(node).unwrap())
    }

    fn hashes(&mut self, node: &Bitcoind) -> Vec<BlockHash> {
        self.0.update(node).unwrap();
        self.0.iter().map(|block| block.hash).collect()
    }

    /// Whether each of these miners has a block whose parent is none of `before`: only a miner that works on what the
    /// node has found since has one. A miner is known by the prefix that it has now, which may have been another's.
    fn goes_on(&mut self, node: &Bitcoind, miners: &[&Role], before: &HashSet<BlockHash>) -> bool {
        let prefixes: Option<Vec<_>> = miners.iter().map(|miner| prefix_now(miner)).collect();
        let Some(prefixes) = prefixes else { return false };
        let heads: HashSet<_> = prefixes.iter().map(|prefix| &prefix[..POOL_PREFIX]).collect();
        if heads.len() < miners.len() || self.0.update(node).is_err() {
            return false;
        }
        let address = harness::payout_address(node.chain());
        prefixes.into_iter().all(|prefix| {
            let prefix = [prefix];
            self.0.iter().any(|block| {
                !before.contains(&block.parent) && block.is_by(&address, Setup::TAG, &prefix)
            })
        })
    }
}

/// All kinds of miners at work, and what is known before something is killed.
struct Scene {
    stack: Stack,
    chain: Chain,
    base: BlockHash,
    pids: Vec<(&'static str, Option<u32>)>,
    before: HashSet<BlockHash>,
}

impl Scene {
    fn start() -> Self {
        let mut stack = Stack::start(&MODES).unwrap();
        let base = stack.node.client().unwrap().get_block_hash(harness::START_BLOCKS as u64);
        // Blocks were found already, maybe.
        let chain = Chain::new(&stack.node);
        stack.mine(1, SOON);
        let pids = pids(&stack);
        Self { stack, chain, base: base.unwrap(), pids, before: HashSet::new() }
    }

    /// To be called right before something is killed.
    fn note(&mut self) -> Vec<BlockHash> {
        let blocks = self.chain.hashes(&self.stack.node);
        self.before = blocks.iter().copied().chain([self.base]).collect();
        // Also what was there when the miners began.
        let client = self.stack.node.client().unwrap();
        let height = client.get_block_count().unwrap() - blocks.len() as u64;
        for height in harness::START_BLOCKS as u64..=height {
            self.before.insert(client.get_block_hash(height).unwrap());
        }
        blocks
    }

    /// Waits until every miner has found a block on what was found after the return of what was killed.
    #[track_caller]
    fn goes_on(&mut self, what: &str, returned: Instant) {
        let miners: Vec<_> = self.stack.miners.iter().collect();
        eventually(SOON, &format!("every miner finds blocks after the kill of {what}"), || {
            self.chain.goes_on(&self.stack.node, &miners, &self.before)
        });
        println!("mining goes on {:?} after the return of the {what}", returned.elapsed());
    }

    /// That all is well, and nothing was restarted but these.
    #[track_caller]
    fn only_replaced(&self, names: &[&str]) {
        self.stack.wait_ready().unwrap();
        assert_eq!(replaced(&self.pids, &pids(&self.stack)), names);
    }
}

/// Everything that the node lost is brought back, by the template provider.
#[test]
fn bitcoind_comes_back_and_so_do_its_blocks() {
    let mut scene = Scene::start();
    // Few enough blocks since the node last wrote to disk that all of them are still looked after.
    let (mut flushed, mut blocks) = (0, Vec::new());
    eventually(SOON, "a block that is not on the node's disk", || {
        let client = scene.stack.node.client().unwrap();
        if client.get_block_count().unwrap() > flushed + 3 {
            scene.stack.node.flush().unwrap();
            flushed = client.get_block_count().unwrap();
        }
        blocks = scene.note();
        let newest = blocks.last().map(|hash| client.get_block_header_info(hash).unwrap().height);
        newest.is_some_and(|height| height as u64 > flushed)
    });
    scene.stack.node.kill9().unwrap();
    eventually(SOON, "readiness says that the node is away", || {
        scene.stack.provider.ready().is_err()
    });
    for miner in &scene.stack.miners {
        let found = connection(miner)["blocks_found"].as_u64().unwrap();
        eventually(SOON, "miners go on with what they have", || {
            connection(miner)["blocks_found"].as_u64().unwrap() > found
        });
    }
    scene.stack.node.restart().unwrap();
    let returned = Instant::now();
    scene.goes_on("node", returned);
    let after: HashSet<_> = scene.chain.hashes(&scene.stack.node).into_iter().collect();
    assert!(blocks.iter().all(|hash| after.contains(hash)), "{blocks:?} are among {after:?}");
    let log = scene.stack.node.data_dir().join("regtest/debug.log");
    let log = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let came = log.matches(&format!("UpdateTip: new best={}", blocks.last().unwrap())).count();
    assert_eq!(came, 2, "the last of them was lost, and came again");
    scene.only_replaced(&["bitcoind"]);
    assert!(scene.stack.miners.iter().all(|miner| reconnects(miner) == 0));
}

/// What the node lost is more than anybody can bring back: the chain goes on from a lower tip.
#[test]
fn bitcoind_comes_back_with_a_lower_tip() {
    let mut scene = Scene::start();
    // Nobody but the node knows this block, so what is found upon it is lost with it.
    let lost = scene.stack.node.generate(1).unwrap()[0];
    eventually(SOON, "a block upon the lost one", || scene.note().last() != Some(&lost));
    let height = scene.stack.node.client().unwrap().get_block_count().unwrap();
    scene.stack.node.kill9().unwrap();
    eventually(SOON, "readiness says that the node is away", || {
        scene.stack.provider.ready().is_err()
    });
    scene.stack.node.restart().unwrap();
    let returned = Instant::now();
    let back = scene.stack.node.client().unwrap().get_block_count().unwrap();
    scene.goes_on("node, its tip lower", returned);
    let after = scene.chain.hashes(&scene.stack.node);
    assert!(!after.contains(&lost), "nobody has it");
    println!("the tip was at height {height} and came back at {back}");
    scene.only_replaced(&["bitcoind"]);
    assert!(scene.stack.miners.iter().all(|miner| reconnects(miner) == 0));
}

#[test]
fn the_template_provider_comes_back() {
    let mut scene = Scene::start();
    let blocks = scene.note();
    scene.stack.provider.kill9().unwrap();
    eventually(SOON, "readiness says that it is away", || scene.stack.pool.ready().is_err());
    scene.stack.provider.restart().unwrap();
    scene.goes_on("template provider", Instant::now());
    let after = scene.chain.hashes(&scene.stack.node);
    assert_eq!(after[..blocks.len()], blocks, "the chain went on from where it was");
    scene.only_replaced(&["template-provider"]);
    assert!(scene.stack.miners.iter().all(|miner| reconnects(miner) == 0));
}

#[test]
fn the_pool_comes_back() {
    let mut scene = Scene::start();
    let blocks = scene.note();
    scene.stack.pool.kill9().unwrap();
    let translator = scene.stack.translator.as_ref().unwrap();
    eventually(SOON, "readiness says that it is away", || translator.ready().is_err());
    scene.stack.pool.restart().unwrap();
    scene.goes_on("pool", Instant::now());
    let after = scene.chain.hashes(&scene.stack.node);
    assert_eq!(after[..blocks.len()], blocks, "the chain went on from where it was");
    scene.only_replaced(&["pool"]);
    for (miner, mode) in scene.stack.miners.iter().zip(MODES) {
        // The translator holds its miners.
        let expected = if mode == MODES[SV1] { 0..=0 } else { 1..=u64::MAX };
        assert!(expected.contains(&reconnects(miner)), "{}", connection(miner));
    }
}

#[test]
fn the_translator_comes_back() {
    let mut scene = Scene::start();
    scene.note();
    let translator = scene.stack.translator.as_mut().unwrap();
    translator.kill9().unwrap();
    // Others have nothing to do with it.
    let others: Vec<_> = scene.stack.miners[..SV1].iter().collect();
    eventually(SOON, "the others find blocks meanwhile", || {
        scene.chain.goes_on(&scene.stack.node, &others, &scene.before)
    });
    eventually(SOON, "its miner has lost it", || {
        connection(&scene.stack.miners[SV1])["state"] != "mining"
    });
    scene.note();
    scene.stack.translator.as_mut().unwrap().restart().unwrap();
    scene.goes_on("translator", Instant::now());
    scene.only_replaced(&["translator"]);
    assert!(scene.stack.miners[..SV1].iter().all(|miner| reconnects(miner) == 0));
    assert!(reconnects(&scene.stack.miners[SV1]) > 0);
}

/// Whoever comes first waits for whom it needs.
#[test]
fn the_order_of_starts_does_not_matter() {
    let mut scene = Scene::start();
    scene.stack.node.flush().unwrap();
    let stack = &mut scene.stack;
    stack.miners.iter_mut().for_each(|miner| miner.kill9().unwrap());
    stack.translator.as_mut().unwrap().kill9().unwrap();
    stack.pool.kill9().unwrap();
    stack.provider.kill9().unwrap();
    scene.note();
    let stack = &mut scene.stack;
    stack.node.kill9().unwrap();

    let waits = |role: &Role| {
        // It has started, and says what it waits for.
        eventually(SOON, "it says what is missing", || {
            role.get("/readyz").is_ok_and(|(status, missing)| status == 503 && !missing.is_empty())
        });
    };
    for miner in &mut stack.miners {
        miner.restart().unwrap();
        waits(miner);
    }
    let translator = stack.translator.as_mut().unwrap();
    translator.restart().unwrap();
    waits(translator);
    stack.pool.restart().unwrap();
    waits(&stack.pool);
    stack.provider.restart().unwrap();
    waits(&stack.provider);
    scene.pids = [&stack.provider, &stack.pool]
        .into_iter()
        .chain(&stack.translator)
        .chain(&stack.miners)
        .map(|role| (role.name(), role.pid()))
        .chain([("bitcoind", None)])
        .collect();
    stack.node.restart().unwrap();
    scene.goes_on("node, all others before it", Instant::now());
    scene.only_replaced(&["bitcoind"]);
}

/// A channel that is opened between a future template and its `SetNewPrevHash` is given the future job with the others.
#[test]
fn a_channel_between_a_future_template_and_its_prevhash() {
    let node = harness::regtest().unwrap();
    let mut chain = Chain::new(&node);
    let provider = Setup::template_provider(&node).start().unwrap();
    let endpoint = provider.endpoint();
    let sniffer = Sniffer::noise(endpoint.addr, endpoint.key.unwrap()).unwrap();
    let pool = Setup::pool(&(&sniffer).into()).start().unwrap();
    let mut stack = Stack::of(node, provider, pool).unwrap();
    // One that is there before, of the kind that a job is new for again and again.
    stack.add_miner("sv1").unwrap();
    stack.wait_ready().unwrap();

    for (round, mode) in MODES.into_iter().enumerate() {
        let mut said = sniffer.from_now();
        let held = sniffer.intercept(Direction::ToClient, "SetNewPrevHash", Action::Hold);
        // The tip moves under everybody, if a miner has not just moved it.
        stack.node.generate(1).unwrap();
        held.wait_hit(SOON).unwrap();
        said.wait_for(Direction::ToClient, "NewTemplate", SOON).unwrap();
        stack.add_miner(mode).unwrap();
        let newcomer = &stack.miners[round + 1];
        eventually(SOON, "a channel and work for now", || prefix_now(newcomer).is_some());
        let pids = pids(&stack);
        // What the miner finds on the tip of before has its parent in here.
        let mut before: HashSet<_> = chain.hashes(&stack.node).into_iter().collect();
        before.insert(
            stack.node.client().unwrap().get_block_hash(harness::START_BLOCKS as u64).unwrap(),
        );
        let tip = stack.node.client().unwrap().get_best_block_hash().unwrap();
        before.remove(&tip);
        held.end();
        let newcomer = [&stack.miners[round + 1]];
        eventually(SOON, "the newcomer mines upon the new tip", || {
            chain.goes_on(&stack.node, &newcomer, &before)
        });
        assert_eq!(replaced(&pids, &self::pids(&stack)), [""; 0]);
    }
    for miner in &stack.miners {
        let connection = connection(miner);
        assert_eq!(connection["reconnects"], 0, "{connection}");
        assert!(miner.only_stale_rejects().unwrap(), "{connection}");
    }
    for role in stack.roles() {
        role.wait_ready(SOON).unwrap();
    }
    let connections: HashSet<_> = sniffer.records().iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1, "the pool stayed with its template provider");
}
