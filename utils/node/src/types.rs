//! Results of calls: only the fields that are used, hex already bytes.

use bitcoin::{BlockHash, CompactTarget, Network, Target, Txid, Wtxid};
use serde::{Deserialize, Deserializer};

use crate::{error::clean, hex};

/// `getblockchaininfo`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockchainInfo {
    /// `main`, `test`, `testnet4`, `signet` or `regtest`.
    pub chain: String,
    /// Height of the best validated block.
    pub blocks: u32,
    /// Height of the best header.
    pub headers: u32,
    /// The best block.
    #[serde(rename = "bestblockhash", deserialize_with = "hex::hash")]
    pub best_block_hash: BlockHash,
    /// The node is still catching up and gives no templates (test chains excepted).
    #[serde(rename = "initialblockdownload")]
    pub initial_block_download: bool,
}

impl BlockchainInfo {
    /// The chain as the `bitcoin` crate names it; `None` if it knows none of that name.
    pub fn network(&self) -> Option<Network> {
        Network::from_core_arg(&self.chain).ok()
    }
}

/// `getnetworkinfo`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NetworkInfo {
    /// For example 290400 for 29.4.
    pub version: u32,
    /// User agent, for example `/Satoshi:29.4.0/Knots:20260508/`.
    #[serde(deserialize_with = "cleaned")]
    pub subversion: String,
    /// Peers, in and out.
    pub connections: u32,
}

/// `getblockheader` in its verbose form.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockHeaderInfo {
    /// The block.
    #[serde(deserialize_with = "hex::hash")]
    pub hash: BlockHash,
    /// Blocks on top of it and itself; -1 if it is not in the best chain.
    pub confirmations: i64,
    /// Its height.
    pub height: u32,
    /// Its nTime, seconds since 1970.
    pub time: u32,
    /// Median time of it and its ten predecessors, seconds since 1970. The next block's nTime is above it.
    #[serde(rename = "mediantime")]
    pub median_time: u32,
    /// Its nBits.
    #[serde(deserialize_with = "compact_target")]
    pub bits: CompactTarget,
    /// `None` for the genesis block.
    #[serde(default, rename = "previousblockhash", deserialize_with = "hex::some_hash")]
    pub previous_block_hash: Option<BlockHash>,
}

/// A block and its height, as `waitfornewblock` names the tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Tip {
    /// The best block.
    #[serde(deserialize_with = "hex::hash")]
    pub hash: BlockHash,
    /// Its height.
    pub height: u32,
}

/// `getblocktemplate` (BIPs 22, 23, 9, 145).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockTemplate {
    /// nVersion that signals what the node signals.
    pub version: i32,
    /// Rules in force, `!` in front of those a client must understand.
    #[serde(default)]
    pub rules: Vec<String>,
    /// The tip this builds on.
    #[serde(rename = "previousblockhash", deserialize_with = "hex::hash")]
    pub previous_block_hash: BlockHash,
    /// All transactions but the coinbase, parents before children.
    pub transactions: Vec<TemplateTransaction>,
    /// Subsidy and fees, satoshis.
    #[serde(rename = "coinbasevalue")]
    pub coinbase_value: u64,
    /// Names tip and mempool state to a long poll.
    #[serde(default, rename = "longpollid")]
    pub long_poll_id: String,
    /// The block hash must not be above it.
    #[serde(deserialize_with = "target")]
    pub target: Target,
    /// Least nTime, seconds since 1970.
    #[serde(rename = "mintime")]
    pub min_time: u32,
    /// The node's clock, at least `min_time`, seconds since 1970.
    #[serde(rename = "curtime")]
    pub current_time: u32,
    /// nBits of the block to be.
    #[serde(deserialize_with = "compact_target")]
    pub bits: CompactTarget,
    /// Its height.
    pub height: u32,
    /// Most sigops, in units of 1/4 legacy sigop.
    #[serde(rename = "sigoplimit")]
    pub sigop_limit: u32,
    /// Most serialized bytes.
    #[serde(default, rename = "sizelimit")]
    pub size_limit: Option<u32>,
    /// Most weight units.
    #[serde(default, rename = "weightlimit")]
    pub weight_limit: Option<u32>,
    /// scriptPubKey of the witness commitment for exactly these transactions.
    #[serde(default, deserialize_with = "hex::some_bytes")]
    pub default_witness_commitment: Option<Vec<u8>>,
    /// On signet, the script that blocks have to satisfy.
    #[serde(default, deserialize_with = "hex::some_bytes")]
    pub signet_challenge: Option<Vec<u8>>,
}

/// A transaction of a [`BlockTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TemplateTransaction {
    /// Serialized with its witness.
    #[serde(deserialize_with = "hex::bytes")]
    pub data: Vec<u8>,
    /// Hash without the witness.
    #[serde(deserialize_with = "hex::hash")]
    pub txid: Txid,
    /// Hash with the witness.
    #[serde(rename = "hash", deserialize_with = "hex::hash")]
    pub wtxid: Wtxid,
    /// Satoshis.
    pub fee: u64,
    /// In the unit of [`BlockTemplate::sigop_limit`].
    pub sigops: u32,
    /// Weight units.
    pub weight: u32,
    /// Parents within this template, counted from 1.
    pub depends: Vec<u32>,
}

/// `getrawmempool` with `mempool_sequence`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MempoolTxids {
    /// All transactions, in no order.
    #[serde(deserialize_with = "hex::hashes")]
    pub txids: Vec<Txid>,
    /// Counts what enters and leaves: the same number means the same mempool.
    pub mempool_sequence: u64,
}

/// `getmempoolentry`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MempoolEntry {
    /// Hash with the witness.
    #[serde(deserialize_with = "hex::hash")]
    pub wtxid: Wtxid,
    /// What the transaction pays.
    pub fees: MempoolFees,
}

/// `fees` of a [`MempoolEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MempoolFees {
    /// Inputs less outputs, satoshis.
    #[serde(deserialize_with = "satoshis")]
    pub base: u64,
}

/// `gettxout`.
#[derive(Debug, Deserialize)]
pub(crate) struct TxOutValue {
    /// Satoshis.
    #[serde(deserialize_with = "satoshis")]
    pub(crate) value: u64,
}

/// What the node makes of a block given to `submitblock` (BIP 22).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitResult {
    /// It is the new tip.
    Accepted,
    /// The node had it already and holds it not invalid. It may be the tip, or a block beside the best chain that was
    /// never judged in full.
    Duplicate,
    /// The node had it already, not yet judged (older nodes).
    DuplicateInconclusive,
    /// Stored but not judged: not on the best chain.
    Inconclusive,
    /// Refused, with the node's reason.
    Rejected(String),
}

impl SubmitResult {
    /// The node has the block and nothing against it. A repeat after a lost answer ends here too. Whether it is in the
    /// best chain is another question.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Accepted | Self::Duplicate)
    }

    pub(crate) fn from_node(reason: Option<&str>) -> Self {
        match reason {
            None => Self::Accepted,
            Some("duplicate") => Self::Duplicate,
            Some("duplicate-inconclusive") => Self::DuplicateInconclusive,
            Some("inconclusive") => Self::Inconclusive,
            Some(reason) => Self::Rejected(clean(reason)),
        }
    }
}

/// What the node makes of a block without its work (`getblocktemplate` in mode `proposal`, BIP 23).
///
/// The node does not mind a coinbase that takes less than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposalResult {
    /// Valid but for the work.
    Valid,
    /// The node has this very block, and it is valid.
    Duplicate,
    /// It does not build on the node's tip, so it was not judged.
    NotOnTip,
    /// Refused, with the node's reason, for example `bad-cb-amount`.
    Rejected(String),
}

impl ProposalResult {
    pub(crate) fn from_node(reason: Option<&str>) -> Self {
        match reason {
            None => Self::Valid,
            Some("duplicate") => Self::Duplicate,
            Some("inconclusive-not-best-prevblk") => Self::NotOnTip,
            Some(reason) => Self::Rejected(clean(reason)),
        }
    }
}

fn cleaned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clean(&String::deserialize(deserializer)?))
}

fn compact_target<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CompactTarget, D::Error> {
    hex::array(deserializer).map(|bytes| CompactTarget::from_consensus(u32::from_be_bytes(bytes)))
}

fn target<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
    hex::array(deserializer).map(Target::from_be_bytes)
}

/// Amounts come as a number of coins with eight decimals; below 21 million of them a double tells every satoshi.
fn satoshis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let coins = f64::deserialize(deserializer)?;
    if !(0.0..=21_000_000.0).contains(&coins) {
        return Err(serde::de::Error::custom("not an amount of coins"));
    }
    Ok((coins * 100_000_000.0).round() as u64)
}
