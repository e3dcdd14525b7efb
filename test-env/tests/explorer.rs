//! The explorer on a real node and real roles, and in a real browser where there is one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_test_env::bitcoind::split;
use adit_test_env::harness::{Role, Setup, Stack, eventually, payout_address, regtest};
use bitcoin::Amount;
use bitcoincore_rpc::RpcApi;

const SOON: Duration = Duration::from_secs(60);

/// What a miner may call itself, and a pool its blocks.
const WORKER: &str = "<script>alert(1)</script>.\"><img src=x onerror=alert(2)>";
const TAG: &str = "<script>alert(3)</script>";

/// An explorer of everything in a stack.
fn explore(stack: &Stack) -> Role {
    let mut setup = Setup::explorer(&stack.node);
    let mut miners = 0;
    for role in stack.roles() {
        let name = match role.name() {
            "mining-device" => {
                miners += 1;
                format!("miner-{miners}")
            }
            name => name.to_owned(),
        };
        setup = setup.watch(&name, role);
    }
    let explorer = setup.start().unwrap();
    explorer.wait_ready(SOON).unwrap();
    explorer
}

fn page(explorer: &Role, path: &str) -> (i32, String) {
    let url = format!("http://{}{path}", explorer.endpoint().addr);
    let request = minreq::get(url).with_timeout(SOON.as_secs()).with_follow_redirects(true);
    let answer = request.send().unwrap();
    (answer.status_code, answer.as_str().unwrap().to_owned())
}

/// Waits until a page has all of these.
#[track_caller]
fn shows(explorer: &Role, path: &str, wanted: &[&str]) -> String {
    let mut last = String::new();
    eventually(SOON, &format!("{path} with {wanted:?}"), || {
        last = page(explorer, path).1;
        wanted.iter().all(|text| last.contains(text))
    });
    last
}

/// A stack whose names are scripts, with a block of each way and a transaction that waits.
fn hostile_stack() -> Stack {
    let node = regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint()).set("coinbase", "tag", TAG).start().unwrap();
    let translator = Setup::translator(&pool.endpoint()).start().unwrap();
    let mut stack = Stack::of(node, provider, pool).unwrap();
    for (mode, server) in [
        ("sv1", translator.endpoint()),
        ("sv2-standard", stack.pool.endpoint()),
        ("sv2-extended", stack.pool.endpoint()),
    ] {
        // Two words around the dot, so that every part of a name is hostile.
        let user = format!("{mode}{WORKER}");
        let device = Setup::device(mode, &server).arg("--user", &user).arg("--hashrate", "3k");
        stack.miners.push(device.start().unwrap());
    }
    stack.translator = Some(translator);
    stack.wait_ready().unwrap();
    stack
}

#[test]
fn a_lab_of_hostile_names_in_a_browser() {
    let stack = hostile_stack();
    let explorer = explore(&stack);

    // Blocks of every way are traced to their miner.
    for way in [
        &["href=\"/role/translator\"", "href=\"/role/miner-1\""][..],
        &["href=\"/role/miner-2\""],
        &["href=\"/role/miner-3\""],
    ] {
        shows(&explorer, "/blocks", way);
    }
    let home = shows(&explorer, "/", &["&lt;script&gt;alert(1)", "&lt;script&gt;alert(3)"]);
    assert!(home.len() < 100 * 1024, "{} bytes", home.len());

    // The tip is the node's.
    let client = stack.node.client().unwrap();
    let tip = client.get_best_block_hash().unwrap().to_string();
    shows(&explorer, &format!("/block/{tip}"), &[&tip, "&lt;script&gt;alert(3)"]);

    // A transaction waits, and is in a block a little later.
    let coin = &stack.node.coins().unwrap()[0];
    let tx = split(coin, 2, Amount::from_sat(20_000)).unwrap();
    let txid = tx.compute_txid().to_string();
    stack.node.send(&[tx]).unwrap();
    shows(&explorer, &format!("/search?q={txid}"), &[&txid, "20\u{202f}000 sat"]);
    shows(&explorer, &format!("/tx/{txid}"), &["confirmations"]);

    let address = payout_address(stack.node.chain());
    shows(&explorer, &format!("/search?q={address}"), &[&address, "Balance", "mined"]);

    for path in [
        "/",
        "/blocks",
        "/mempool",
        "/mining",
        "/roles",
        "/role/pool",
        "/role/translator",
        "/role/miner-1",
    ] {
        let (status, text) = page(&explorer, path);
        assert_eq!(status, 200, "{path}");
        assert!(!text.contains("<script>") && !text.contains("<img"), "{path}: {text}");
    }
    in_a_browser(
        &explorer,
        &[&format!("/tx/{txid}"), &format!("/address/{address}"), &format!("/block/{tip}")],
    );
}

#[test]
fn what_goes_away_is_named_and_comes_back() {
    let mut stack = Stack::start(&["sv2-extended"]).unwrap();
    let explorer = explore(&stack);
    shows(&explorer, "/blocks", &["href=\"/role/miner-1\""]);

    stack.pool.kill9().unwrap();
    let gone = "href=\"/role/pool\">pool</a> does not answer</strong> for <time data-since=";
    shows(&explorer, "/", &[gone, "connection refused", "Latest blocks"]);
    stack.pool.restart().unwrap();
    eventually(SOON, "no alarm", || !page(&explorer, "/").1.contains("does not answer"));

    stack.node.stop().unwrap();
    // All heights here begin with a 1.
    shows(&explorer, "/", &["The node does not answer", "href=\"/block/1"]);
    eventually(SOON, "readiness says so", || {
        explorer.ready().is_err_and(|missing| missing.contains("node"))
    });
    assert_eq!(page(&explorer, "/block/1").0, 503);
    stack.node.restart().unwrap();
    eventually(SOON, "no alarm", || !page(&explorer, "/").1.contains("does not answer"));
    assert_eq!(page(&explorer, "/block/1").0, 200);
}

/// Every page and every link one level deep, by `scripts/test-pages`; it says so where there is no browser. With
/// `ADIT_SCREENSHOTS` set to a folder, screenshots are written there.
fn in_a_browser(explorer: &Role, also: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-pages");
    let mut command = Command::new(script);
    command.arg(format!("http://{}", explorer.endpoint().addr)).arg("--also").args(also);
    if let Some(folder) = std::env::var_os("ADIT_SCREENSHOTS").filter(|folder| !folder.is_empty()) {
        command.arg("--shots").arg(folder);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: no browser test without Python: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    // `env` says 127 where there is no python3.
    if output.status.code() == Some(127) {
        println!("skipped: no browser test without Python: {errors}");
        return;
    }
    assert!(output.status.success(), "{said}{errors}");
}
