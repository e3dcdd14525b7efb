//! The proof that the lab works: shares acknowledged at the miner and blocks in the node's chain, on every path.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Amount, Block, Transaction, Txid};
use bitcoincore_rpc::{Client, RpcApi};
use serde::Serialize;

use super::attribution::{CoinbaseView, Path};
use super::config::{MinerPath, Miners};
use super::{Hand, Lab, State, up};
use crate::bitcoind::Chain;

/// What the demo should reach.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Which private chain.
    pub network: Chain,
    /// Shares acknowledged at the miner, on each path.
    pub shares: u64,
    /// Blocks in the best chain, on each path.
    pub blocks: usize,
    /// When to give up.
    pub within: Duration,
}

/// What the demo reached: the line that `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Whether every path reached what it should.
    pub ok: bool,
    /// Which private chain.
    pub network: &'static str,
    /// The node's version text.
    pub node: String,
    /// The chain's height at the end.
    pub height: u64,
    /// From the start of the node to the end, without compiling.
    pub seconds: f64,
    /// What every block pays.
    pub payout_address: String,
    /// What every coinbase says.
    pub tag: String,
    /// Each path.
    pub paths: Vec<PathReport>,
}

/// One path.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Such as `sv1` or `jd-full-template`.
    pub name: &'static str,
    /// Acknowledged at the miner.
    pub shares_accepted: u64,
    /// Rejected at the miner.
    pub shares_rejected: u64,
    /// In the best chain, paying the address and carrying the tag.
    pub blocks: usize,
    /// Their hashes, oldest first.
    pub block_hashes: Vec<String>,
    /// Of a path that declares its jobs: transactions in these blocks that only the miner's node had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub miner_transactions: Option<Vec<String>>,
}

impl DemoReport {
    /// What is missing, in words; empty where nothing is.
    pub fn missing(&self, options: &DemoOptions) -> Vec<String> {
        let lacks = |path: &PathReport| {
            let (shares, blocks) = (path.shares_accepted, path.blocks);
            let chose = path.miner_transactions.as_ref().is_none_or(|found| !found.is_empty());
            (shares < options.shares || blocks < options.blocks || !chose).then(|| {
                let none = ", and no transaction of the miner's node in them";
                format!(
                    "{}: {shares} of {} shares acknowledged, {blocks} of {} blocks in the chain{}",
                    path.name,
                    options.shares,
                    options.blocks,
                    if chose { "" } else { none }
                )
            })
        };
        self.paths.iter().filter_map(lacks).collect()
    }
}

impl Lab {
    /// Brings a lab up and waits until every path has what it should, or the time is over.
    ///
    /// # Errors
    /// Where the lab does not come up or the node stops answering; not reaching the goal is told by the report.
    pub fn demo(&self, options: &DemoOptions, say: &dyn Fn(&str)) -> Result<DemoReport> {
        let started = Instant::now();
        let state = self.up(options.network, Miners::quick(options.network), say)?;
        say(&format!(
            "waiting for {} acknowledged shares and {} blocks on each path",
            options.shares, options.blocks
        ));
        let pool = self.hand(&state, Some(up::NODE))?;
        let mut cheap = match options.network {
            Chain::Regtest => {
                Some(CheapTransactions::new(self.hand(&state, Some(up::MINER_NODE))?))
            }
            // No coin of a chain so short can be spent.
            Chain::Signet => None,
        };
        let mut chain = BestChain::default();
        let mut said = String::new();
        loop {
            if let Some(cheap) = &mut cheap {
                cheap.keep_one_waiting(&pool, &state)?;
            }
            chain.update(pool.rpc(), &state)?;
            let mut report = observe(&state, &chain, cheap.as_ref())?;
            report.seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
            report.ok = report.missing(options).is_empty();
            let progress = progress(&report);
            if progress != said {
                say(&progress);
                said = progress;
            }
            if report.ok || started.elapsed() > options.within {
                return Ok(report);
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

fn progress(report: &DemoReport) -> String {
    let path =
        |path: &PathReport| format!("{} {}/{}", path.name, path.shares_accepted, path.blocks);
    let paths: Vec<_> = report.paths.iter().map(path).collect();
    format!("height {}, shares/blocks: {}", report.height, paths.join(", "))
}

/// Transactions that the miner's node takes and the pool's does not: a block with one shows who chose its transactions.
struct CheapTransactions {
    miner: Hand,
    sent: BTreeSet<Txid>,
}

impl CheapTransactions {
    fn new(miner: Hand) -> Self {
        Self { miner, sent: BTreeSet::new() }
    }

    /// Sends one where none waits for its block, and makes sure that the pool's node would not have it.
    fn keep_one_waiting(&mut self, pool: &Hand, state: &State) -> Result<()> {
        let waiting: Vec<Txid> = self.miner.rpc().call("getrawmempool", &[])?;
        if waiting.iter().any(|txid| self.sent.contains(txid)) {
            return Ok(());
        }
        let sent = self.miner.send(&state.payout_address, 1, CHEAP_FEE)?;
        for txid in &sent {
            let raw: String =
                self.miner.rpc().call("getrawtransaction", &[txid.to_string().into()])?;
            let judged: serde_json::Value =
                pool.rpc().call("testmempoolaccept", &[serde_json::json!([raw])])?;
            ensure!(judged[0]["allowed"] == false, "the pool's node takes {txid}: {judged}");
        }
        self.sent.extend(sent);
        Ok(())
    }
}

/// For about 100 virtual bytes: above the usual least of 1 satoshi for each, below what the pool's node asks.
const CHEAP_FEE: Amount = Amount::from_sat(400);

/// The best chain above the lab's start, as the node has it now.
#[derive(Default)]
struct BestChain {
    height: u64,
    /// Every block seen, by hash, so that each is fetched once.
    seen: BTreeMap<String, Seen>,
    /// The best chain's hashes, oldest first.
    best: Vec<String>,
}

/// A block, as far as it matters here.
struct Seen {
    coinbase: CoinbaseView,
    txids: Vec<Txid>,
}

impl BestChain {
    fn update(&mut self, rpc: &Client, state: &State) -> Result<()> {
        self.height = rpc.get_block_count().context("asking the node for its height")?;
        self.best.clear();
        for height in state.start_height + 1..=self.height {
            let hash: String = rpc.call("getblockhash", &[height.into()])?;
            if !self.seen.contains_key(&hash) {
                let block: String = rpc.call("getblock", &[hash.clone().into(), 0.into()])?;
                let block: Block = deserialize_hex(&block).context("reading a block")?;
                let coinbase = CoinbaseView::of(&block, state.network.network())?;
                let txids = block.txdata.iter().map(Transaction::compute_txid).collect();
                self.seen.insert(hash.clone(), Seen { coinbase, txids });
            }
            self.best.push(hash);
        }
        Ok(())
    }
}

fn observe(
    state: &State,
    chain: &BestChain,
    cheap: Option<&CheapTransactions>,
) -> Result<DemoReport> {
    let mut paths = Vec::new();
    let mut reports = Vec::new();
    for path in MinerPath::ALL {
        let role = state.role(&path.miner()).context("a miner that was not started")?;
        let status = role.status().with_context(|| format!("asking {}", role.name))?;
        let miner = &status["state"];
        let prefixes = miner["connections"].as_array().into_iter().flatten();
        let prefixes =
            prefixes.flat_map(|c| c["extranonce_prefixes"].as_array().into_iter().flatten());
        let prefixes = match path.declares() {
            true => Vec::new(),
            false => prefixes.filter_map(|prefix| unhex(prefix.as_str()?)).collect(),
        };
        paths.push(Path {
            name: path.name(),
            tag: format!("{}{}", state.tag, path.tag()),
            prefixes,
        });
        reports.push(PathReport {
            name: path.name(),
            shares_accepted: miner["shares_accepted"].as_u64().unwrap_or(0),
            shares_rejected: miner["shares_rejected"].as_u64().unwrap_or(0),
            blocks: 0,
            block_hashes: Vec::new(),
            miner_transactions: (path.declares() && cheap.is_some()).then(Vec::new),
        });
    }
    for hash in &chain.best {
        let Seen { coinbase, txids } = &chain.seen[hash];
        if !coinbase.is_of(&state.payout_address, &state.tag) {
            continue;
        }
        let Some(path) = coinbase.path(&paths) else { continue };
        let report = reports.iter_mut().find(|report| report.name == path.name);
        let report = report.context("a path without a report")?;
        report.blocks += 1;
        report.block_hashes.push(hash.clone());
        if let (Some(found), Some(cheap)) = (&mut report.miner_transactions, cheap) {
            let chosen = txids.iter().filter(|txid| cheap.sent.contains(*txid));
            found.extend(chosen.map(Txid::to_string));
        }
    }
    Ok(DemoReport {
        ok: false,
        network: state.network.name(),
        node: state.node().version.clone(),
        height: chain.height,
        seconds: 0.0,
        payout_address: state.payout_address.clone(),
        tag: state.tag.clone(),
        paths: reports,
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    bitcoin::hex::FromHex::from_hex(text).ok()
}
