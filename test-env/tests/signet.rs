//! A private signet, where blocks are rare among shares: what is acknowledged is mostly no block, and blocks come.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use adit_test_env::bitcoind::{Chain, Options};
use adit_test_env::harness::{self, Setup, Stack, eventually};
use bitcoincore_rpc::RpcApi;

/// The first block takes 4.9 million hashes on average, and more than ten times that once in 22,000 runs. On a machine
/// busy with other tests the miners may get a tenth of what they ask for.
const LONG: Duration = Duration::from_secs(600);
/// Hashes per second of each miner.
const HASHRATE: &str = "1.5M";

#[test]
fn shares_that_are_no_blocks_and_a_block() {
    // From its very beginning: the node has the genesis block and nothing else.
    let options = Options { chain: Chain::Signet, ..Options::default() };
    let node = harness::node(options).unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint())
        .set("", "network", "signet")
        .set("coinbase", "output", harness::payout_address(Chain::Signet))
        .set("shares", "per_minute", 120)
        .start()
        .unwrap();
    let mut stack = Stack::of(node, provider, pool).unwrap();
    // A twentieth of what they do, so that there are shares at once.
    let translator =
        Setup::translator(&stack.pool.endpoint()).set("miners", "nominal_hash_rate", 150_000);
    stack.translator = Some(translator.start().unwrap());
    for (mode, server) in [
        ("sv2-extended", stack.pool.endpoint()),
        ("sv1", stack.translator.as_ref().unwrap().endpoint()),
    ] {
        let device = Setup::device(mode, &server).arg("--hashrate", HASHRATE);
        stack.miners.push(device.start().unwrap());
    }
    stack.wait_ready().unwrap();

    for miner in &stack.miners {
        eventually(LONG, "10 acknowledged shares", || miner.shares().unwrap().0 >= 10);
    }
    let found = |stack: &mut Stack| [0, 1].map(|miner| stack.blocks_of(miner).unwrap().len());
    eventually(LONG, "a block of one of them", || found(&mut stack).iter().sum::<usize>() >= 1);

    let status = stack.pool.status().unwrap();
    let network = status["state"]["tip"]["network_difficulty"].as_f64().unwrap();
    assert!((0.001..0.0012).contains(&network), "{network}");
    for channel in status["state"]["channels"].as_array().unwrap() {
        assert!(channel["difficulty"].as_f64().unwrap() < network, "{channel}");
    }
    let blocks = found(&mut stack);
    for (miner, blocks) in stack.miners.iter().zip(blocks) {
        let (accepted, _) = miner.shares().unwrap();
        assert!(accepted > 2 * blocks as u64, "{accepted} shares, {blocks} blocks");
        assert!(miner.only_stale_rejects().unwrap());
    }
    let height = stack.node.client().unwrap().get_block_count().unwrap();
    assert!(height >= blocks.iter().sum::<usize>() as u64);
}
