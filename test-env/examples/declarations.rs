//! Measures a JDS on a real node with a full block: how long a declaration takes beyond the node's own check, what
//! unknown transactions add, 200 clients at once, and a solution's way into the chain.
//!
//! `cargo build --bins && cargo run -p adit-test-env --example declarations`. It runs the `adit-jds` that lies in its
//! own folder or one of the two above.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for developers")]

use std::time::{Duration, Instant};

use adit_test_env::bitcoind::{Bitcoind, Chain, Coin, coins_of, op_true_address, split};
use adit_test_env::harness::{self, Declarer, Job, Role, Setup, eventually, payout_address};
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Address, Amount, ScriptBuf, Transaction};
use bitcoincore_rpc::RpcApi;
use serde_json::{Value, json};

/// A full block's.
const TRANSACTIONS: usize = 3_700;
/// Outputs of each, for 4 million weight units in all.
const OUTPUTS: usize = 5;
/// Per transaction.
const FEE: u64 = 2_000;
/// Of each single measurement.
const ROUNDS: usize = 9;
/// Clients at once.
const CLIENTS: usize = 200;
const SOON: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    let node = harness::regtest()?;
    let (known, spare) = transactions(&node)?;
    let jds = Setup::jds(&node).start()?;
    jds.wait_ready(SOON)?;
    eventually(SOON, "the mempool is mirrored", || {
        jds.status().unwrap()["state"]["mempool"]["transactions"] == known.len()
    });
    let weight: u64 = known.iter().map(|t| t.weight().to_wu()).sum();
    println!("{} transactions, {weight} weight units", known.len());

    let mut tag = 0;
    let mut job = |transactions: &[Transaction]| {
        tag += 1;
        let fees = Amount::from_sat(FEE) * transactions.len() as u64;
        Job::new(&node, transactions.to_vec(), fees, pool_script(), tag).unwrap()
    };
    let mut client = Declarer::connect(&jds.endpoint())?;
    // In turn, so that other load on the machine falls on all of them.
    let (mut nodes_own, mut all_known) = (Vec::new(), Vec::new());
    let (mut own, mut some_unknown) = (Vec::new(), Vec::new());
    for spare in spare.iter().cycle().take(ROUNDS) {
        nodes_own.push(propose(&node, &job(&known)));
        let before = beside_the_node(&jds);
        all_known.push(declare(&mut client, &job(&known), Some(0)));
        own.push(Duration::from_secs_f64(beside_the_node(&jds) - before));
        let transactions = [&known[spare.len()..], spare].concat();
        let first = some_unknown.len() < 5;
        let took = declare(&mut client, &job(&transactions), first.then_some(spare.len()));
        if first {
            some_unknown.push(took);
        }
    }
    let nodes_own = median(nodes_own);
    let more = |took: Duration| (took.as_secs_f64() - nodes_own.as_secs_f64()) * 1000.0;
    println!("node's own check        {nodes_own:>8.1?}");
    let took = median(all_known);
    println!("all known               {took:>8.1?}  ({:+.1} ms)", more(took));
    println!("  in the JDS, less its call to the node {:.1?}", median(own));
    let took = median(some_unknown);
    println!("10 % unknown            {took:>8.1?}  ({:+.1} ms)", more(took));

    // A block without transactions: the mempool stays as it is.
    empty_block(&node)?;
    wait_tip(&jds, &node);
    let jobs = vec![job(&known); CLIENTS];
    let (last, checks) = at_once(&jds, &jobs);
    println!("{CLIENTS} clients, one job     {last:>8.1?}  ({checks} check)");
    let jobs: Vec<_> = (0..20).map(|_| job(&known)).collect();
    let (last, checks) = at_once(&jds, &jobs);
    println!("20 clients, 20 jobs     {last:>8.1?}  ({checks} checks)");
    println!("memory of the JDS       {:>8} MB", memory(&jds));

    // Without other jobs: on regtest half of all hashes solve any.
    let job = {
        empty_block(&node)?;
        wait_tip(&jds, &node);
        job(&known)
    };
    declare(&mut client, &job, Some(0));
    let block = job.solve([1; 8])?;
    let rpc = node.client()?;
    let since = Instant::now();
    client.push(&block)?;
    while rpc.get_best_block_hash()? != block.block_hash() {
        anyhow::ensure!(since.elapsed() < SOON, "the block is not in the chain");
    }
    println!("solution to node's tip  {:>8.1?}", since.elapsed());
    Ok(())
}

/// Those in the mempool, and lists of others that are not, a tenth of the first each.
fn transactions(node: &Bitcoind) -> anyhow::Result<(Vec<Transaction>, Vec<Vec<Transaction>>)> {
    let tenth = TRANSACTIONS / 10;
    let mut coins = node.coins()?;
    coins.sort_by_key(|coin| std::cmp::Reverse(coin.value));
    let fans: Vec<_> = coins[..3]
        .iter()
        .map(|coin| split(coin, 1_900, Amount::from_sat(200_000)))
        .collect::<Result<_, _>>()?;
    node.send(&fans)?;
    node.generate(1)?;
    let coins: Vec<_> = fans.iter().flat_map(coins_of).collect();
    let known = spend(&coins[..TRANSACTIONS])?;
    node.send(&known)?;
    let spare = coins[TRANSACTIONS..].chunks_exact(tenth).map(spend).collect::<Result<_, _>>()?;
    Ok((known, spare))
}

/// One transaction of each coin, that pays exactly [`FEE`].
fn spend(coins: &[Coin]) -> anyhow::Result<Vec<Transaction>> {
    let spend = |coin: &Coin| {
        let mut transaction = split(coin, OUTPUTS, Amount::from_sat(FEE))?;
        let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
        transaction.output[0].value += coin.value - paid - Amount::from_sat(FEE);
        Ok(transaction)
    };
    coins.iter().map(spend).collect()
}

/// The node's check alone, with everything prepared.
fn propose(node: &Bitcoind, job: &Job) -> Duration {
    let mut block = job.solve([0; 8]).unwrap();
    block.header.nonce = 0;
    let params =
        json!([{ "mode": "proposal", "rules": ["segwit"], "data": serialize_hex(&block) }]);
    let body = json!({ "id": 0, "method": "getblocktemplate", "params": params }).to_string();
    let cookie = std::fs::read_to_string(node.cookie_file()).unwrap();
    let authorization = format!("Basic {}", base64(cookie.as_bytes()));
    let request =
        minreq::post(node.url()).with_header("Authorization", authorization).with_body(body);
    let since = Instant::now();
    let answer = request.send().unwrap();
    let took = since.elapsed();
    let answer: Value = serde_json::from_slice(answer.as_bytes()).unwrap();
    assert_eq!(answer["result"], Value::Null, "{answer}");
    assert_eq!(answer["error"], Value::Null, "{answer}");
    took
}

/// From `DeclareMiningJob` to its answer, in which so many transactions were asked for.
fn declare(client: &mut Declarer, job: &Job, unknown: Option<usize>) -> Duration {
    let token = client.token().unwrap().token;
    let since = Instant::now();
    client.declare(1, &token, job).unwrap();
    let answer = client.answer(job).unwrap();
    let took = since.elapsed();
    assert!(answer.result.is_ok(), "{answer:?}");
    assert!(unknown.is_none_or(|unknown| unknown == answer.asked), "{} asked", answer.asked);
    took
}

/// Seconds that declarations took in the JDS, less what its calls for checks took.
fn beside_the_node(jds: &Role) -> f64 {
    let metrics = jds.metrics().unwrap();
    let check = [("method", "getblocktemplate")];
    metrics.sum("adit_jds_declaration_duration_seconds_sum", &[])
        - metrics.sum("adit_jds_rpc_duration_seconds_sum", &check)
}

/// One client per job, all at once: from the first declaration to the last answer, and how often the node was asked.
fn at_once(jds: &Role, jobs: &[Job]) -> (Duration, u64) {
    let checks = || jds.metrics().unwrap().sum("adit_jds_checks_total", &[]) as u64;
    let before = checks();
    let mut clients: Vec<_> = jobs
        .iter()
        .map(|_| {
            let mut client = Declarer::connect(&jds.endpoint()).unwrap();
            let token = client.token().unwrap().token;
            (client, token)
        })
        .collect();
    let since = Instant::now();
    for ((client, token), job) in clients.iter_mut().zip(jobs) {
        client.declare(1, token, job).unwrap();
    }
    for ((client, _), job) in clients.iter_mut().zip(jobs) {
        client.answer(job).unwrap().result.unwrap();
    }
    (since.elapsed(), checks() - before)
}

fn empty_block(node: &Bitcoind) -> anyhow::Result<()> {
    let address = op_true_address(Chain::Regtest).to_string();
    node.client()?.call::<Value>("generateblock", &[address.into(), json!([])])?;
    Ok(())
}

fn wait_tip(jds: &Role, node: &Bitcoind) {
    let tip = node.client().unwrap().get_best_block_hash().unwrap().to_string();
    eventually(SOON, "the JDS has the tip", || {
        jds.status().unwrap()["state"]["tip"]["hash"] == tip
    });
}

/// Resident, megabytes.
fn memory(role: &Role) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", role.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn pool_script() -> ScriptBuf {
    payout_address(Chain::Regtest).parse::<Address<_>>().unwrap().assume_checked().script_pubkey()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            let digit = move |at: usize| char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]);
            (0..4).map(move |at| if at <= chunk.len() { digit(at) } else { '=' })
        })
        .collect()
}
