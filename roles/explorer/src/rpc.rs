//! What the node is asked, typed: only fields that are shown.

use adit_node::{Node, NodeError};
use serde::{Deserialize, Deserializer};
use serde_json::json;

/// `RPC_INVALID_ADDRESS_OR_KEY`: no such block or transaction.
const NOT_FOUND: i64 = -5;
/// `RPC_INVALID_PARAMETER`: a height out of range, text that is no hash.
const INVALID_PARAMETER: i64 = -8;

/// `getblock` with everything about its transactions (verbosity 3).
#[derive(Debug, Clone, Deserialize)]
pub struct Block {
    /// Hash of the header.
    pub hash: String,
    /// Blocks on top of it and itself; -1 if it is not in the best chain.
    pub confirmations: i64,
    /// Its height.
    pub height: u32,
    /// nVersion in hex.
    #[serde(rename = "versionHex", default)]
    pub version_hex: String,
    /// Root of its transactions.
    #[serde(rename = "merkleroot")]
    pub merkle_root: String,
    /// nTime, seconds since 1970.
    pub time: u64,
    /// Median time of it and its ten predecessors.
    #[serde(rename = "mediantime", default)]
    pub median_time: u64,
    /// nNonce.
    pub nonce: u32,
    /// nBits in hex.
    pub bits: String,
    /// Expected hashes / 2^32.
    pub difficulty: f64,
    /// Absent for the genesis block.
    #[serde(rename = "previousblockhash", default)]
    pub previous: Option<String>,
    /// Absent for the tip.
    #[serde(rename = "nextblockhash", default)]
    pub next: Option<String>,
    /// Serialized bytes.
    pub size: u64,
    /// Weight units.
    pub weight: u64,
    /// Coinbase first.
    pub tx: Vec<Tx>,
}

/// A transaction, in a block or by itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Tx {
    /// Hash without the witness.
    pub txid: String,
    /// Hash with the witness.
    #[serde(rename = "hash")]
    pub wtxid: String,
    /// nVersion.
    pub version: i64,
    /// Serialized bytes.
    pub size: u64,
    /// Weight / 4, rounded up.
    pub vsize: u64,
    /// Weight units.
    pub weight: u64,
    /// nLockTime.
    pub locktime: u32,
    /// Inputs.
    pub vin: Vec<Input>,
    /// Outputs.
    pub vout: Vec<Output>,
    /// Satoshis, where the node knows its inputs.
    #[serde(default, deserialize_with = "some_sats")]
    pub fee: Option<u64>,
    /// The block it is in; by itself only.
    #[serde(rename = "blockhash", default)]
    pub block_hash: Option<String>,
    /// Blocks on top of that and itself; by itself only.
    #[serde(default)]
    pub confirmations: Option<i64>,
    /// nTime of that block.
    #[serde(rename = "blocktime", default)]
    pub block_time: Option<u64>,
}

impl Tx {
    /// Whether it creates the block's coins.
    pub fn is_coinbase(&self) -> bool {
        self.vin.first().is_some_and(|input| input.coinbase.is_some())
    }

    /// Sum of the outputs, satoshis.
    pub fn value(&self) -> u64 {
        self.vout.iter().fold(0, |sum, out| sum.saturating_add(out.value))
    }

    /// The fee, if the node gave it or all inputs are known.
    pub fn fee(&self) -> Option<u64> {
        let spent = || -> Option<u64> {
            self.vin.iter().map(|input| Some(input.prevout.as_ref()?.value)).sum()
        };
        self.fee.or_else(|| spent()?.checked_sub(self.value()))
    }
}

/// An input.
#[derive(Debug, Clone, Deserialize)]
pub struct Input {
    /// The scriptSig of a coinbase, hex.
    #[serde(default)]
    pub coinbase: Option<String>,
    /// The transaction whose output is spent.
    #[serde(default)]
    pub txid: Option<String>,
    /// Which output.
    #[serde(default)]
    pub vout: Option<u32>,
    /// Its script.
    #[serde(rename = "scriptSig", default)]
    pub script_sig: Option<ScriptSig>,
    /// Hex items.
    #[serde(rename = "txinwitness", default)]
    pub witness: Vec<String>,
    /// nSequence.
    #[serde(default)]
    pub sequence: u32,
    /// What is spent, where the node knows it.
    #[serde(default)]
    pub prevout: Option<Prevout>,
}

/// A scriptSig.
#[derive(Debug, Clone, Deserialize)]
pub struct ScriptSig {
    /// In words.
    #[serde(default)]
    pub asm: String,
}

/// An output that is spent.
#[derive(Debug, Clone, Deserialize)]
pub struct Prevout {
    /// Satoshis.
    #[serde(deserialize_with = "sats")]
    pub value: u64,
    /// To whom it was.
    #[serde(rename = "scriptPubKey")]
    pub script: Script,
}

/// An output.
#[derive(Debug, Clone, Deserialize)]
pub struct Output {
    /// Satoshis.
    #[serde(deserialize_with = "sats")]
    pub value: u64,
    /// Its place.
    pub n: u32,
    /// To whom.
    #[serde(rename = "scriptPubKey")]
    pub script: Script,
}

/// A scriptPubKey.
#[derive(Debug, Clone, Deserialize)]
pub struct Script {
    /// In words.
    #[serde(default)]
    pub asm: String,
    /// Bytes.
    #[serde(default)]
    pub hex: String,
    /// Where it has one.
    #[serde(default)]
    pub address: Option<String>,
    /// The node's name of its form.
    #[serde(rename = "type", default)]
    pub form: String,
}

/// `getmempoolinfo`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MempoolInfo {
    /// Transactions.
    pub size: u64,
    /// Their virtual bytes.
    pub bytes: u64,
    /// Memory, bytes.
    pub usage: u64,
    /// Fees in all, satoshis; older nodes do not say.
    #[serde(default, deserialize_with = "some_sats")]
    pub total_fee: Option<u64>,
}

/// `scantxoutset`.
#[derive(Debug, Clone, Deserialize)]
pub struct Scan {
    /// Height of the chain that was searched.
    pub height: u32,
    /// Satoshis in all.
    #[serde(deserialize_with = "sats")]
    pub total_amount: u64,
    /// Unspent coins.
    pub unspents: Vec<Unspent>,
}

/// A coin.
#[derive(Debug, Clone, Deserialize)]
pub struct Unspent {
    /// Where it comes from.
    pub txid: String,
    /// Which output.
    pub vout: u32,
    /// Satoshis.
    #[serde(deserialize_with = "sats")]
    pub amount: u64,
    /// Block of that transaction.
    pub height: u32,
    /// Whether it was mined; older nodes do not say.
    #[serde(default)]
    pub coinbase: bool,
}

/// `getnetworkinfo` and `getmininginfo`, what the pages show of them.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// User agent.
    pub version: String,
    /// Peers.
    pub peers: u32,
    /// Of the next block.
    pub difficulty: f64,
}

#[derive(Deserialize)]
struct MiningInfo {
    difficulty: f64,
}

/// A block by its hash.
///
/// # Errors
/// The node does not answer, or knows no such block.
pub async fn block(node: &Node, hash: &str) -> Result<Block, NodeError> {
    node.query("getblock", json!([hash, 3])).await
}

/// The hash of the block at `height`.
///
/// # Errors
/// The node does not answer, or its chain is shorter.
pub async fn block_hash(node: &Node, height: u32) -> Result<String, NodeError> {
    node.query("getblockhash", [height]).await
}

/// A transaction of the mempool, of the block named, or of any where the node has an index.
///
/// # Errors
/// The node does not answer, or finds none.
pub async fn transaction(node: &Node, txid: &str, block: Option<&str>) -> Result<Tx, NodeError> {
    let params = match block {
        Some(block) => json!([txid, 2, block]),
        None => json!([txid, 2]),
    };
    node.query("getrawtransaction", params).await
}

/// Adds what the inputs spend, where the node left it out as it does for the mempool. Inputs beyond the first
/// [`LOOKED_UP`] and those that the node does not find stay as they are.
pub async fn add_prevouts(node: &Node, tx: &mut Tx) {
    let missing = tx.vin.iter_mut().filter(|i| i.coinbase.is_none() && i.prevout.is_none());
    for input in missing.take(LOOKED_UP) {
        let (Some(txid), Some(place)) = (&input.txid, input.vout) else { continue };
        let Ok(from) = transaction(node, txid, None).await else { return };
        let out = from.vout.into_iter().find(|out| out.n == place);
        input.prevout = out.map(|out| Prevout { value: out.value, script: out.script });
    }
}

/// The places of the outputs, of the first [`LOOKED_UP`], that nothing has spent, the mempool included.
pub async fn unspent(node: &Node, tx: &Tx) -> Vec<u32> {
    let mut unspent = Vec::new();
    for out in tx.vout.iter().take(LOOKED_UP) {
        let coin: Result<Option<serde_json::Value>, _> =
            node.query("gettxout", json!([tx.txid, out.n, true])).await;
        if matches!(coin, Ok(Some(_))) {
            unspent.push(out.n);
        }
    }
    unspent
}

/// Inputs and outputs of a transaction that cost the node a question each.
pub const LOOKED_UP: usize = 20;

/// The mempool in short.
///
/// # Errors
/// The node does not answer.
pub async fn mempool(node: &Node) -> Result<MempoolInfo, NodeError> {
    node.query("getmempoolinfo", json!([])).await
}

/// Ids of the mempool's transactions.
///
/// # Errors
/// The node does not answer.
pub async fn mempool_ids(node: &Node) -> Result<Vec<String>, NodeError> {
    node.query("getrawmempool", json!([false])).await
}

/// Unspent coins of an address. The node searches all of its coins for it.
///
/// # Errors
/// The node does not answer in time or searches for somebody else.
pub async fn scan(node: &Node, address: &str) -> Result<Scan, NodeError> {
    node.query("scantxoutset", json!(["start", [format!("addr({address})")]])).await
}

/// Ends a search that takes too long.
///
/// # Errors
/// The node does not answer.
pub async fn abort_scan(node: &Node) -> Result<(), NodeError> {
    node.query::<serde_json::Value>("scantxoutset", json!(["abort"])).await.map(drop)
}

/// Version, peers and difficulty.
///
/// # Errors
/// The node does not answer.
pub async fn facts(node: &Node) -> Result<NodeFacts, NodeError> {
    let network = node.getnetworkinfo().await?;
    let mining: MiningInfo = node.query("getmininginfo", json!([])).await?;
    Ok(NodeFacts {
        version: network.subversion.trim_matches('/').to_owned(),
        peers: network.connections,
        difficulty: mining.difficulty,
    })
}

/// Whether the node answered that there is no such thing, as opposed to not answering.
pub fn is_not_found(error: &NodeError) -> bool {
    matches!(error, NodeError::Rpc { code: NOT_FOUND | INVALID_PARAMETER, .. })
}

/// Satoshis in a bitcoin.
pub const COIN: f64 = 1e8;

fn sats<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let btc = f64::deserialize(deserializer)?;
    if !(0.0..=21e6).contains(&btc) {
        return Err(serde::de::Error::custom("not an amount of coins"));
    }
    // Exact: 21 million coins in satoshis fit into the 53 bits of a double.
    Ok((btc * COIN).round() as u64)
}

fn some_sats<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    sats(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        let out = |value: &str| {
            let json = format!(r#"{{"value":{value},"n":0,"scriptPubKey":{{}}}}"#);
            serde_json::from_str::<Output>(&json).unwrap().value
        };
        assert_eq!(out("0.1"), 10_000_000);
        assert_eq!(out("0.00000001"), 1);
        assert_eq!(out("20999999.97690000"), 2_099_999_997_690_000);
        assert_eq!(out("1e-8"), 1);
        for none in ["-0.1", "21000001", "1e300"] {
            let json = format!(r#"{{"value":{none},"n":0,"scriptPubKey":{{}}}}"#);
            assert!(serde_json::from_str::<Output>(&json).is_err(), "{none}");
        }
    }
}
