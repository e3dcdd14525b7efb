//! The translator's upstream side on real parts: one channel for all miners up to blocks in the chain, pools that take over
//! from one another under miners that notice nothing, and a configuration that changes while it runs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use adit_test_env::harness::{self, Endpoint, Metrics, Role, Setup, Stack, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// For a better pool to be worked for again.
const RETURN_SECONDS: u64 = 2;

fn url(server: &Endpoint) -> String {
    format!("stratum2+tcp://{}/{}", server.addr, server.key.unwrap())
}

/// A translator at these pools.
fn translator(channels: &str, pools: &[&Role]) -> Setup {
    let identity = if channels == "aggregated" { "farm.all" } else { "farm.{worker}" };
    let mut setup = Setup::translator(&pools[0].endpoint()).clear("upstream");
    for pool in pools {
        let entries: [(&str, Value); 2] =
            [("url", url(&pool.endpoint()).into()), ("user_identity", identity.into())];
        setup = setup.push("upstream", &entries);
    }
    setup.set("", "channels", channels).set("failover", "return_after_seconds", RETURN_SECONDS).set(
        "miners",
        "expected_shares_per_minute",
        60,
    )
}

fn state(role: &Role) -> Value {
    role.status().unwrap()["state"].clone()
}

fn works_for(translator: &Role, pool: &Role) -> bool {
    let upstream = &state(translator)["upstream"];
    upstream["address"] == pool.endpoint().addr.to_string() && upstream["state"] == "ready"
}

fn reconnects(miner: &Role) -> u64 {
    let connections = state(miner)["connections"].as_array().unwrap().clone();
    connections.iter().map(|one| one["reconnects"].as_u64().unwrap()).sum()
}

#[test]
fn one_channel_for_all_miners_up_to_blocks_of_each() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    let mut stack = Stack::of(node, provider, pool).unwrap();
    stack.translator = Some(translator("aggregated", &[&stack.pool]).start().unwrap());
    let server = stack.translator.as_ref().unwrap().endpoint();
    for user in ["anna.rig1", "bert.rig2", "carl.rig3"] {
        stack.miners.push(Setup::device("sv1", &server).arg("--user", user).start().unwrap());
    }
    stack.wait_ready().unwrap();
    stack.mine(2, SOON);
    let translator = stack.translator.as_ref().unwrap();
    let upstream = &state(translator)["upstream"];
    assert_eq!((&upstream["channels"], &upstream["worker_names"]), (&json!(1), &json!(true)));
    assert_eq!(state(&stack.pool)["channels_open"], 1);
    // What differs between the miners is their own slice, behind the one prefix of the channel.
    let prefixes: Vec<_> =
        stack.miners.iter().flat_map(|miner| miner.extranonce_prefixes().unwrap()).collect();
    let channel = state(translator)["aggregate"]["extranonce_prefix"].as_str().unwrap().to_owned();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(prefixes.iter().all(|prefix| hex(prefix).starts_with(&channel)), "{prefixes:02x?}");
    // The pool knows who found what.
    let named = |text: &str| state(&stack.pool)["workers"].to_string().contains(text);
    eventually(SOON, "the workers by name at the pool", || {
        ["rig1", "rig2", "rig3"].iter().all(|worker| named(worker))
    });
    for miner in &stack.miners {
        assert!(miner.only_stale_rejects().unwrap());
    }
}

fn takes_over_and_gives_back(channels: &str) {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = |id: u8| {
        Setup::pool(&provider.endpoint()).set("coinbase", "server_id", id).start().unwrap()
    };
    let (first, second) = (pool(1), pool(2));
    let translator = translator(channels, &[&first, &second]).start().unwrap();
    let mut stack = Stack::of(node, provider, first).unwrap();
    stack.translator = Some(translator);
    stack.add_miner("sv1").unwrap();
    stack.add_miner("sv1").unwrap();
    stack.wait_ready().unwrap();
    // Whichever pool happened to be up first.
    let translator = || stack.translator.as_ref().unwrap();
    eventually(SOON, "work for the first pool", || works_for(translator(), &stack.pool));
    let begun = translator().metrics().unwrap();
    stack.mine(1, SOON);

    stack.pool.kill9().unwrap();
    let translator = || stack.translator.as_ref().unwrap();
    eventually(SOON, "work for the second pool", || works_for(translator(), &second));
    eventually(SOON, "its shares", || state(&second)["workers"].to_string().contains("farm"));
    stack.mine(1, SOON);

    stack.pool.restart().unwrap();
    let translator = || stack.translator.as_ref().unwrap();
    eventually(SOON, "work for the first pool", || works_for(translator(), &stack.pool));
    stack.mine(1, SOON);
    let metrics = stack.translator.as_ref().unwrap().metrics().unwrap();
    for reason in ["lost", "returned"] {
        let count = |at: &Metrics| at.sum("adit_translator_failovers_total", &[("reason", reason)]);
        assert_eq!(count(&metrics) - count(&begun), 1.0, "{reason}");
    }
    for miner in &stack.miners {
        assert_eq!(reconnects(miner), 0, "no miner was dropped");
        assert!(miner.only_stale_rejects().unwrap(), "and each of its shares was answered");
    }
}

#[test]
fn a_second_pool_takes_over_and_gives_back() {
    takes_over_and_gives_back("per-miner");
}

#[test]
fn a_second_pool_takes_over_and_gives_back_the_channel_of_all() {
    takes_over_and_gives_back("aggregated");
}

#[test]
fn a_configuration_changes_while_miners_mine() {
    let mut stack = Stack::start(&["sv1"]).unwrap();
    stack.mine(1, SOON);
    let translator = stack.translator.as_ref().unwrap();
    let file = translator.dir().join("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    let program = harness::program("translator").unwrap();
    let reload = || {
        let mut command = Command::new(&program);
        let output = command.args(["reload", "-c"]).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    assert_eq!(reload(), (Some(0), "nothing has changed\n".to_owned()));
    let changed = format!("{config}\n[failover]\nsilence_seconds = 77\n[log]\nlevel = \"debug\"\n");
    fs::write(&file, &changed).unwrap();
    let expected = "applied: failover; needs a restart: log\n";
    assert_eq!(reload(), (Some(0), expected.to_owned()));

    // By the signal: a broken file changes nothing, and a good one is taken in.
    let signal = || {
        let pid = Pid::from_raw(translator.pid().unwrap() as i32).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    };
    fs::write(&file, changed.replace("silence_seconds = 77", "silence_seconds = 1")).unwrap();
    signal();
    eventually(SOON, "the broken key in the log", || {
        let log = translator.log();
        log.contains("not taken in") && log.contains("failover.silence_seconds")
    });
    fs::write(&file, changed.replace("silence_seconds = 77", "silence_seconds = 88")).unwrap();
    signal();
    let applied = || translator.log().matches("applied: failover").count();
    eventually(SOON, "the good one in the log", || applied() == 2);
    assert_eq!(reconnects(&stack.miners[0]), 0);
    stack.mine(1, SOON);
}
