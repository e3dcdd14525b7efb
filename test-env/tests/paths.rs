//! Every way from a miner to the chain: shares acknowledged at the miner, blocks in the node's best chain that are its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use adit_test_env::harness::{self, Blocks, Setup, Stack, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Mines until the miner of `mode` has 5 shares acknowledged and 3 blocks in the chain.
fn mines(mode: &str, prefix_len: std::ops::RangeInclusive<usize>) {
    let mut stack = Stack::start(&[mode]).unwrap();
    stack.mine(3, SOON);
    let shares = || stack.miners[0].shares().unwrap();
    eventually(SOON, "5 acknowledged shares", || shares().0 >= 5);
    assert!(stack.miners[0].only_stale_rejects().unwrap());

    let prefixes = stack.miners[0].extranonce_prefixes().unwrap();
    assert_eq!(prefixes.len(), 1, "one channel, one prefix: {prefixes:02x?}");
    assert!(prefix_len.contains(&prefixes[0].len()), "{prefixes:02x?}");
    let blocks = stack.blocks_of(0).unwrap();
    let mut extranonces: Vec<_> = blocks.iter().map(|b| b.coinbase.extranonce()).collect();
    extranonces.sort_unstable();
    extranonces.dedup();
    // A standard channel searches versions and nonces alone.
    let expected = if mode == "sv2-standard" { 1..=1 } else { 1..=blocks.len() };
    assert!(expected.contains(&extranonces.len()), "{extranonces:02x?}");
    for block in &blocks {
        let [height, tag, _extranonce] = &block.coinbase.pushes[..] else {
            panic!("{:02x?} is not height, tag, extranonce", block.coinbase.pushes)
        };
        assert!(!height.is_empty() && tag == Setup::TAG.as_bytes());
        assert_eq!(block.coinbase.paid.len(), 1, "the whole reward goes to one address");
    }

    // What is in the mempool gets into a block of this miner.
    let coins = stack.node.coins().unwrap();
    let fee = bitcoin::Amount::from_sat(50_000);
    let sent: Vec<_> = coins[..3]
        .iter()
        .map(|coin| adit_test_env::bitcoind::split(coin, 2, fee).unwrap())
        .collect();
    stack.node.send(&sent).unwrap();
    eventually(SOON, "the mempool's transactions in blocks of the miner", || {
        let blocks = stack.blocks_of(0).unwrap();
        let mined = |txid: bitcoin::Txid| blocks.iter().any(|block| block.txids.contains(&txid));
        sent.iter().all(|tx| mined(tx.compute_txid()))
    });
    let worth = |tx: &bitcoin::Transaction| -> u64 {
        let paid: bitcoin::Amount = tx.output.iter().map(|output| output.value).sum();
        let coin = coins.iter().find(|coin| coin.outpoint == tx.input[0].previous_output);
        (coin.unwrap().value - paid).to_sat()
    };
    for block in stack.blocks_of(0).unwrap() {
        let own = sent.iter().filter(|tx| block.txids.contains(&tx.compute_txid()));
        let fees: u64 = own.map(worth).sum();
        let subsidy = 5_000_000_000 >> (block.height / 150);
        assert_eq!(block.coinbase.paid[0].1, subsidy + fees, "at height {}", block.height);
    }
}

#[test]
fn sv2_standard() {
    mines("sv2-standard", 4..=4);
}

#[test]
fn sv2_extended() {
    mines("sv2-extended", 4..=4);
}

#[test]
fn sv1_through_the_translator() {
    mines("sv1", 5..=20);
}

/// All three at once at one pool, with several connections in one process, and each block is somebody's.
#[test]
fn all_paths_side_by_side() {
    let mut stack = Stack::start(&["sv2-standard", "sv2-extended", "sv1"]).unwrap();
    let many = Setup::device("sv2-standard", &stack.pool.endpoint()).arg("--connections", "5");
    stack.miners.push(many.start().unwrap());
    stack.wait_ready().unwrap();
    stack.mine(2, SOON);

    let many = stack.miners[3].extranonce_prefixes().unwrap();
    assert_eq!(many.len(), 5, "each connection has a prefix of its own: {many:02x?}");
    let mut chain = Blocks::above_tip(&stack.node).unwrap();
    stack.mine(1, SOON);
    chain.update(&stack.node).unwrap();
    let address = harness::payout_address(stack.node.chain());
    let all: Vec<_> =
        stack.miners.iter().map(|miner| miner.extranonce_prefixes().unwrap()).collect();
    for block in chain.iter() {
        let finders = all.iter().filter(|own| block.is_by(&address, Setup::TAG, own)).count();
        assert_eq!(finders, 1, "{block:02x?} of {all:02x?}");
    }
    for miner in &stack.miners {
        assert!(miner.only_stale_rejects().unwrap());
    }
}

/// The roles as libraries, in this process.
#[test]
fn roles_run_inside_a_program() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start_in_process().unwrap();
    let pool = Setup::pool(&provider.endpoint()).start_in_process().unwrap();
    let mut stack = Stack::of(node, provider, pool).unwrap();
    stack.translator = Some(Setup::translator(&stack.pool.endpoint()).start_in_process().unwrap());
    stack.add_miner("sv1").unwrap();
    stack.add_miner("sv2-extended").unwrap();
    stack.wait_ready().unwrap();
    stack.mine(2, SOON);
    stack.pool.stop().unwrap();
    stack.pool.restart().unwrap();
    stack.wait_ready().unwrap();
    stack.mine(1, SOON);
    stack.provider.stop().unwrap();
    stack.translator.take().unwrap().stop().unwrap();
}
