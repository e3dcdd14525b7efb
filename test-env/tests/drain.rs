//! A pool that is told to end sends its miners to another one, which a translator follows with all its miners: only to
//! where the same authority key is.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use adit_sv2::keys::AuthoritySecretKey;
use adit_test_env::harness::{self, Role, Setup, Stack, eventually};
use serde_json::Value;

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// The `server_id` of the pool that ends, and of the one to go to: prefixes begin with it.
const FIRST: u8 = 1;
const SECOND: u8 = 2;

fn key(number: u8) -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy([number; 32]).unwrap()
}

/// A chain of roles at a pool that sends its miners to the other pool when it ends. Nobody but the first pool knows of the
/// second: two V1 miners behind a translator, and a device at the pool itself.
fn at_a_pool_that_drains(channels: &str, keys: [AuthoritySecretKey; 2]) -> (Stack, Role) {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = |server_id: u8, key: &AuthoritySecretKey| {
        Setup::pool(&provider.endpoint()).set("coinbase", "server_id", server_id).authority(key)
    };
    let second = pool(SECOND, &keys[1]).start().unwrap();
    let there = second.endpoint().addr;
    let first = pool(FIRST, &keys[0])
        .set("drain", "host", there.ip().to_string())
        .set("drain", "port", there.port())
        .start()
        .unwrap();
    let url = format!("stratum2+tcp://{}/{}", first.endpoint().addr, keys[0].public());
    let translator = Setup::translator(&first.endpoint())
        .clear("upstream")
        .push("upstream", &[("url", url.into()), ("user_identity", "farm.all".into())])
        .set("", "channels", channels)
        .set("miners", "expected_shares_per_minute", 60)
        .start()
        .unwrap();
    let mut stack = Stack::of(node, provider, first).unwrap();
    stack.translator = Some(translator);
    for mode in ["sv1", "sv1", "sv2-extended"] {
        stack.add_miner(mode).unwrap();
    }
    stack.wait_ready().unwrap();
    // Who finds nobody there goes elsewhere.
    second.wait_ready(SOON).unwrap();
    (stack, second)
}

/// Blocks of the chain that this miner found for the pool with this `server_id`.
fn blocks_for(stack: &mut Stack, miner: usize, server_id: u8) -> usize {
    let blocks = stack.blocks_of(miner).unwrap();
    blocks.iter().filter(|block| block.coinbase.extranonce()[0] == server_id).count()
}

fn reconnects(miner: &Role) -> u64 {
    let status = miner.status().unwrap();
    let connections = status["state"]["connections"].as_array().unwrap();
    connections.iter().map(|one| one["reconnects"].as_u64().unwrap()).sum()
}

fn upstream(translator: &Role) -> Value {
    translator.status().unwrap()["state"]["upstream"].clone()
}

/// `SIGTERM` and nothing before it.
fn goes_on_at_the_second(channels: &str) {
    let (mut stack, second) = at_a_pool_that_drains(channels, [key(1), key(1)]);
    stack.mine(1, SOON);
    assert!((0..3).all(|miner| blocks_for(&mut stack, miner, SECOND) == 0));

    stack.pool.stop().unwrap();
    eventually(SOON, "two blocks of every miner for the second pool", || {
        (0..3).all(|miner| blocks_for(&mut stack, miner, SECOND) >= 2)
    });
    let upstream = upstream(stack.translator.as_ref().unwrap());
    assert_eq!(upstream["address"], second.endpoint().addr.to_string());
    let times: Vec<_> = stack.miners.iter().map(reconnects).collect();
    assert_eq!(times, [0, 0, 1], "V1 miners notice nothing, and the device was sent once");
    for miner in &stack.miners {
        assert!(miner.only_stale_rejects().unwrap());
    }
    eventually(SOON, "the translator and the device at the second pool", || {
        second.status().unwrap()["state"]["connections"] == 2
    });
}

#[test]
fn miners_go_on_at_another_pool_when_theirs_is_ended() {
    goes_on_at_the_second("per-miner");
}

#[test]
fn the_channel_of_all_goes_on_at_another_pool_when_its_own_is_ended() {
    goes_on_at_the_second("aggregated");
}

/// Who answers there cannot prove to be the same pool: nobody mines for it, and everybody comes back.
#[test]
fn nobody_follows_to_another_key() {
    let (mut stack, foreign) = at_a_pool_that_drains("per-miner", [key(1), key(2)]);
    stack.mine(1, SOON);
    stack.pool.stop().unwrap();
    let tried = || foreign.metrics().unwrap().sum("adit_transport_accepted_total", &[]);
    eventually(SOON, "a try of the translator and one of the device", || tried() >= 2.0);
    stack.pool.restart().unwrap();
    stack.mine(1, SOON);
    assert!((0..3).all(|miner| blocks_for(&mut stack, miner, SECOND) == 0));
    let opened = foreign.metrics().unwrap().sum("adit_pool_channel_opens_total", &[]);
    assert_eq!(opened, 0.0, "and nobody opened a channel there");
}
