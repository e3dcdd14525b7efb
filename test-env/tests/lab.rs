//! The lab as a user runs it: `adit-lab`, which `scripts/lab` builds and calls.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use adit_test_env::harness::eventually;
use serde_json::Value;

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Runs the lab of the folder `dir`.
fn lab(dir: &Path, args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_adit-lab");
    Command::new(program).arg("--dir").arg(dir).args(args).output().expect("the lab starts")
}

/// The same where it must go well; what it answers.
#[track_caller]
fn answer(dir: &Path, args: &[&str]) -> String {
    let output = lab(dir, args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "lab {args:?}: {}\n{out}\n{err}", output.status);
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ends a lab when its test does, however it does.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        lab(self.0, &["down"]);
    }
}

/// Processes whose command line names the folder.
fn processes_of(dir: &Path) -> Vec<String> {
    let name = dir.to_str().expect("temporary folders have plain names");
    let entries = std::fs::read_dir("/proc").expect("a Linux machine").flatten();
    let pids =
        entries.filter_map(|entry| entry.file_name().into_string().ok()?.parse::<u32>().ok());
    let lines = pids.filter_map(|pid| {
        Some(text(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " "))
    });
    lines.filter(|line| line.contains(name)).collect()
}

fn demo(network: &str) {
    let dir = tempfile::Builder::new().prefix("adit-lab-").tempdir().unwrap();
    let dir = dir.path();
    let _down = Down(dir);
    let out = answer(dir, &["demo", "--network", network, "--json", "--timeout", "600"]);
    assert_eq!(out.lines().count(), 1, "one line: {out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["network"], network);
    for field in ["node", "payout_address", "tag"] {
        assert!(report[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {report}");
    }
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let height = report["height"].as_u64().unwrap();
    let paths = report["paths"].as_array().unwrap();
    let names: Vec<_> = paths.iter().map(|path| path["name"].as_str().unwrap()).collect();
    let declaring = ["jd-full-template", "jd-coinbase-only"];
    assert_eq!(names, ["sv1", "sv2-standard", "sv2-extended", declaring[0], declaring[1]]);
    let mut hashes = Vec::new();
    for path in paths {
        assert!(path["shares_accepted"].as_u64().unwrap() >= 3, "{path}");
        assert!(path["shares_rejected"].as_u64().is_some(), "{path}");
        let found = path["block_hashes"].as_array().unwrap();
        assert!(found.len() >= 2 && found.len() as u64 == path["blocks"], "{path}");
        let chosen = path["miner_transactions"].as_array();
        let must = network == "regtest" && declaring.contains(&path["name"].as_str().unwrap());
        assert_eq!(chosen.is_some_and(|chosen| !chosen.is_empty()), must, "{path}");
        hashes.extend(found.iter().map(|hash| hash.as_str().unwrap().to_owned()));
    }
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count, "no block counts for two paths");
    assert!(height >= count as u64);

    assert_eq!(processes_of(dir), Vec::<String>::new(), "nothing is left running");
    let again = lab(dir, &["status"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("scripts/lab up"), "it says what to do");
}

#[test]
fn a_demo_on_regtest() {
    demo("regtest");
}

/// Here shares and blocks are different things.
#[test]
fn a_demo_on_signet() {
    demo("signet");
}

#[test]
fn a_lab_that_is_left_running() {
    let dir = tempfile::Builder::new().prefix("adit-lab-").tempdir().unwrap();
    let dir = dir.path();
    let _down = Down(dir);
    let shown = answer(dir, &["up"]);
    assert!(shown.contains("payout address") && shown.contains("scripts/lab down"), "{shown}");

    let mut status = Value::Null;
    eventually(SOON, "all are ready", || {
        status = serde_json::from_str(&answer(dir, &["status", "--json"])).unwrap();
        status["roles"].as_array().unwrap().iter().all(|role| role["ready"] == true)
    });
    assert_eq!(status["network"], "regtest");
    assert!(status["rpc"]["url"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    assert!(Path::new(status["rpc"]["cookie"].as_str().unwrap()).exists());
    let roles = status["roles"].as_array().unwrap();
    for role in roles {
        assert!(role["pid"].as_u64().is_some() && role["http"].as_str().is_some(), "{role}");
    }
    let named = |name: &str| roles.iter().find(|role| role["name"] == name).unwrap();
    for server in ["template-provider", "pool", "jds", "jdc", "jdc-coinbase-only"] {
        assert!(named(server)["addr"].as_str().is_some(), "{server}");
        let key = named(server)["authority_key"].as_str().unwrap();
        assert!(key.parse::<adit_sv2::keys::AuthorityPublicKey>().is_ok(), "{key}");
    }
    for server in ["translator", "jdc-translator", "explorer"] {
        assert!(named(server)["addr"].as_str().is_some(), "{server}");
    }
    let table = answer(dir, &["status"]);
    assert!(
        table.lines().any(|line| line.starts_with("jdc ") && line.ends_with("ready")),
        "{table}"
    );

    let height = || answer(dir, &["cli", "getblockcount"]).trim().parse::<u64>().unwrap();
    let before = height();
    assert_eq!(answer(dir, &["generate", "2"]).lines().count(), 2);
    assert!(height() >= before + 2);

    let payout = status["payout_address"].as_str().unwrap();
    let sent = answer(dir, &["send", payout, "--count", "2"]);
    let txids: Vec<_> = sent.lines().collect();
    assert_eq!(txids.len(), 2);
    for txid in txids {
        // In the mempool or in a block already: the node has an index of all.
        let transaction = answer(dir, &["cli", "getrawtransaction", txid, "true"]);
        assert!(transaction.contains(payout), "{transaction}");
    }
    // One that only the miner's node takes.
    let cheap = ["send", "--node", "miner-bitcoind", "--fee", "400", payout];
    assert_eq!(answer(dir, &cheap).lines().count(), 1);
    let refused = lab(dir, &["send", "--fee", "400", payout]);
    assert!(text(&refused.stderr).contains("min relay fee not met"), "{}", text(&refused.stderr));

    let new = answer(dir, &["new-address"]);
    let address = new.split_whitespace().nth(1).unwrap();
    assert!(address.starts_with("bcrt1q"), "{new}");
    assert_eq!(answer(dir, &["send", address]).lines().count(), 1);
    let key = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let addresses = answer(dir, &["address", key]);
    assert!(addresses.contains("bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"), "{addresses}");
    let url = status["rpc"]["url"].as_str().unwrap();
    let cookie = status["rpc"]["cookie"].as_str().unwrap();
    let there = ["--rpc", url, "--cookie", cookie, "generate", "1"];
    assert_eq!(answer(dir, &there).lines().count(), 1, "at any node of a private chain");

    let mainnet = lab(dir, &["send", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"]);
    assert_eq!(mainnet.status.code(), Some(1));
    assert!(text(&mainnet.stderr).contains("another chain than regtest"));

    assert!(answer(dir, &["logs", "pool"]).contains("adit-pool starts"));
    let unknown = lab(dir, &["logs", "pol"]);
    assert!(
        text(&unknown.stderr)
            .contains("there are bitcoind, miner-bitcoind, template-provider, pool")
    );
    let twice = lab(dir, &["up"]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(text(&twice.stderr).contains("up already"));

    answer(dir, &["down"]);
    assert_eq!(processes_of(dir), Vec::<String>::new());
    answer(dir, &["down"]);
}
