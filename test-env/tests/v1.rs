//! Stratum V1 miners, by hand, in front of a whole stack.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use adit_test_env::harness::{self, LinePeer, Setup};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// Whether a line is a notification with these parameters.
fn says(line: &Value, method: &str, params: &Value) -> bool {
    line["method"] == method && line["params"] == *params
}

#[test]
fn a_difficulty_that_a_miner_asks_for_is_what_the_pool_gives() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    let translator = Setup::translator(&pool.endpoint()).start().unwrap();
    translator.wait_ready(SOON).unwrap();
    let mut miner = LinePeer::connect(&translator.endpoint()).unwrap();
    // As cgminer, which takes an answer to a suggestion for one to a share.
    miner.send(r#"{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11.1"]}"#).unwrap();
    miner.wait_until(SOON, |line| line["id"] == 1).unwrap();
    miner.send(r#"{"id": 2, "method": "mining.authorize", "params": ["a.b", "x"]}"#).unwrap();
    miner.wait_until(SOON, |line| line["id"] == 2 && line["result"] == true).unwrap();
    miner.wait_until(SOON, |line| line["method"] == "mining.notify").unwrap();
    // While it mines: through UpdateChannel, the pool's SetTarget and its job.
    miner.send(r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [64]}"#).unwrap();
    let asked = json!([64]);
    miner
        .wait_until(SOON, |line| {
            assert_ne!(line["id"], 3, "no answer");
            says(line, "mining.set_difficulty", &asked)
        })
        .unwrap();
    miner.wait_until(SOON, |line| line["method"] == "mining.notify").unwrap();
    // From the beginning: through OpenExtendedMiningChannel.
    let mut other = LinePeer::connect(&translator.endpoint()).unwrap();
    other
        .send(r#"{"id": 1, "method": "mining.subscribe", "params": ["bitaxe/BM1370/v2"]}"#)
        .unwrap();
    other.send(r#"{"id": 2, "method": "mining.authorize", "params": ["a.c", "d=1024"]}"#).unwrap();
    let asked = json!([1024]);
    other.wait_until(SOON, |line| says(line, "mining.set_difficulty", &asked)).unwrap();
    other.wait_until(SOON, |line| line["method"] == "mining.notify").unwrap();
    let status = translator.status().unwrap();
    let miners = status["state"]["miners"].as_array().unwrap();
    let difficulties: Vec<_> = miners.iter().map(|miner| miner["difficulty"].clone()).collect();
    assert_eq!(difficulties, [json!(64.0), json!(1024.0)]);
}
