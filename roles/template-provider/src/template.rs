//! Block templates: from what the node offers to what a client may mine on.
//!
//! A [`Snapshot`] is the node's offer (`getblocktemplate`), or an empty block at a tip of which only the header is known.
//! A [`Template`] is a snapshot cut down to a client's [`Constraints`], with coinbase value, witness commitment and merkle
//! path computed for what is left.

use std::collections::HashMap;
use std::sync::Arc;

use adit_mining::merkle::{merkle_path, merkle_root};
use adit_mining::{BlockHash, Target, sha256d};
use adit_node::{BlockTemplate, TemplateTransaction};
use adit_sv2::codec::{B064K, B0255, Seq0255, TooLong};
use adit_sv2::messages::template_distribution::{NewTemplate, SetNewPrevHash};

use bitcoin::hashes::Hash;

use adit_node::Network;

/// What the next block stands on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tip {
    /// Hash of the block at the tip.
    pub prev_hash: BlockHash,
    /// Height of the block to be mined: the tip's plus one.
    pub height: u32,
    /// Compact target of the block to be mined.
    pub n_bits: u32,
    /// Smallest valid nTime, unix seconds: one above the median of the last eleven blocks.
    pub min_time: u32,
}

/// A transaction's bytes, shared by all templates that hold it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RawTransaction {
    /// The double SHA-256 of `bytes`, internal byte order.
    pub wtxid: [u8; 32],
    /// Consensus serialization, witness included.
    pub bytes: Arc<[u8]>,
}

/// A transaction that the node offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transaction {
    /// The transaction itself.
    pub raw: RawTransaction,
    /// Internal byte order.
    pub txid: [u8; 32],
    /// Weight units.
    pub weight: u64,
    /// Sigop cost, as counted against the block's limit of 80,000.
    pub sigops: u64,
    /// Satoshis.
    pub fee: u64,
    /// Positions in [`Snapshot::transactions`] of the transactions that this one spends from; all are before it.
    pub depends: Vec<u32>,
}

/// What a node offers for the next block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// What the block stands on.
    pub tip: Tip,
    /// Header version.
    pub version: u32,
    /// Subsidy and the fees of all transactions, satoshis.
    pub coinbase_value: u64,
    /// Most weight units of a block.
    pub weight_limit: u64,
    /// Most sigop cost of a block.
    pub sigop_limit: u64,
    /// In block order, without a coinbase.
    pub transactions: Vec<Transaction>,
}

impl Snapshot {
    /// The offer of a node of which only the tip's header is known: no transactions.
    pub fn empty(network: Network, tip: Tip, version: u32) -> Self {
        Self {
            tip,
            version,
            coinbase_value: network.subsidy(tip.height),
            weight_limit: CONSENSUS_WEIGHT_LIMIT,
            sigop_limit: CONSENSUS_SIGOP_LIMIT,
            transactions: Vec::new(),
        }
    }

    /// What the node at a tip offers.
    pub fn from_node(offer: BlockTemplate) -> Self {
        let transaction = |t: TemplateTransaction| Transaction {
            raw: RawTransaction { wtxid: t.wtxid.to_byte_array(), bytes: t.data.into() },
            txid: t.txid.to_byte_array(),
            weight: t.weight.into(),
            sigops: t.sigops.into(),
            fee: t.fee,
            // The node counts from 1.
            depends: t.depends.into_iter().map(|parent| parent.saturating_sub(1)).collect(),
        };
        Self {
            tip: Tip {
                prev_hash: BlockHash(offer.previous_block_hash.to_byte_array()),
                height: offer.height,
                n_bits: offer.bits.to_consensus(),
                min_time: offer.min_time,
            },
            version: offer.version as u32,
            coinbase_value: offer.coinbase_value,
            weight_limit: offer.weight_limit.map_or(CONSENSUS_WEIGHT_LIMIT, u64::from),
            sigop_limit: offer.sigop_limit.into(),
            transactions: offer.transactions.into_iter().map(transaction).collect(),
        }
    }

    /// Takes the bytes of the transactions that `earlier` has too from there, so that each is in memory once.
    pub fn share_with(&mut self, earlier: &Self) {
        let known: HashMap<&[u8; 32], &Arc<[u8]>> =
            earlier.transactions.iter().map(|t| (&t.raw.wtxid, &t.raw.bytes)).collect();
        for transaction in &mut self.transactions {
            if let Some(bytes) = known.get(&transaction.raw.wtxid) {
                transaction.raw.bytes = Arc::clone(bytes);
            }
        }
    }

    /// Weight units of all transactions.
    pub fn weight(&self) -> u64 {
        self.transactions.iter().map(|t| t.weight).sum()
    }
}

/// What a client adds to the coinbase (`CoinbaseOutputConstraints`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Constraints {
    /// Serialized bytes of its outputs.
    pub size: u32,
    /// Their sigop cost.
    pub sigops: u16,
}

impl Constraints {
    /// Weight units to be kept free of transactions (spec 7.1): 1,168 and four for each byte.
    pub fn reserved_weight(self) -> u64 {
        RESERVED_WEIGHT + 4 * u64::from(self.size)
    }
}

/// A client's outputs leave no room for any block.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("coinbase outputs of {} bytes and {} sigops do not fit into a block", .0.size, .0.sigops)]
pub struct DoesNotFit(pub Constraints);

/// What a client may mine on. Immutable, shared by all clients with equal constraints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    /// Strictly increasing, also across restarts.
    pub id: u64,
    /// What the block stands on.
    pub tip: Tip,
    /// Header version.
    pub version: u32,
    /// Subsidy and the fees of the transactions, satoshis.
    pub coinbase_value: u64,
    /// Path from the coinbase to the merkle root, deepest first.
    pub merkle_path: Vec<[u8; 32]>,
    /// Root of the witness merkle tree, hashed with the reserved value of zeros (BIP141).
    pub witness_commitment: [u8; 32],
    /// In block order, without the coinbase.
    pub transactions: Vec<RawTransaction>,
}

impl Template {
    /// Cuts `snapshot` down to `constraints`.
    ///
    /// # Errors
    /// [`DoesNotFit`] where not even an empty block has the room.
    pub fn build(
        snapshot: &Snapshot,
        constraints: Constraints,
        id: u64,
    ) -> Result<Self, DoesNotFit> {
        let kept = trim(snapshot, constraints)?;
        let txids: Vec<_> = kept.iter().map(|t| t.txid).collect();
        let wtxids: Vec<_> = kept.iter().map(|t| t.raw.wtxid).collect();
        // Wide enough for whatever a node says.
        let fees = |transactions: &mut dyn Iterator<Item = &Transaction>| -> u128 {
            transactions.map(|t| u128::from(t.fee)).sum()
        };
        let lost = fees(&mut snapshot.transactions.iter()) - fees(&mut kept.iter().copied());
        let lost_fees = u64::try_from(lost).unwrap_or(u64::MAX);
        Ok(Self {
            id,
            tip: snapshot.tip,
            version: snapshot.version,
            coinbase_value: snapshot.coinbase_value.saturating_sub(lost_fees),
            merkle_path: merkle_path(&txids),
            witness_commitment: witness_commitment(&wtxids),
            transactions: kept.iter().map(|t| t.raw.clone()).collect(),
        })
    }

    /// The first bytes of the scriptSig: the height (BIP34).
    pub fn coinbase_prefix(&self) -> Vec<u8> {
        bitcoin::script::Builder::new().push_int(self.tip.height.into()).into_bytes()
    }

    /// The one output that the coinbase must end with: value 0, `OP_RETURN` and the commitment (BIP141).
    pub fn coinbase_outputs(&self) -> [u8; COMMITMENT_OUTPUT_LEN] {
        let mut output = [0; COMMITMENT_OUTPUT_LEN];
        output[8..15].copy_from_slice(&[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed]);
        output[15..].copy_from_slice(&self.witness_commitment);
        output
    }

    /// The coinbase locktime: with [`COINBASE_SEQUENCE`], what BIP54 asks for; valid without it too.
    pub fn coinbase_locktime(&self) -> u32 {
        self.tip.height.saturating_sub(1)
    }

    /// Calls `with` with the template as a message.
    ///
    /// # Errors
    /// [`TooLong`] for a merkle path of more than 255 steps, which only a forged file could hold.
    pub fn new_template<R>(
        &self,
        future: bool,
        with: impl FnOnce(&NewTemplate<'_>) -> R,
    ) -> Result<R, TooLong> {
        let prefix = self.coinbase_prefix();
        let outputs = self.coinbase_outputs();
        Ok(with(&NewTemplate {
            template_id: self.id,
            future_template: future,
            version: self.version,
            coinbase_tx_version: COINBASE_VERSION,
            coinbase_prefix: B0255::new(&prefix)?,
            coinbase_tx_input_sequence: COINBASE_SEQUENCE,
            coinbase_tx_value_remaining: self.coinbase_value,
            coinbase_tx_outputs_count: 1,
            coinbase_tx_outputs: B064K::new(&outputs)?,
            coinbase_tx_locktime: self.coinbase_locktime(),
            merkle_path: Seq0255::new(&self.merkle_path)?,
        }))
    }

    /// The message that makes this template the one to work on.
    pub fn set_new_prev_hash(&self, unix_secs: u32) -> SetNewPrevHash {
        SetNewPrevHash {
            template_id: self.id,
            prev_hash: self.tip.prev_hash.0,
            // After a burst of fast blocks the median is ahead of the clock.
            header_timestamp: unix_secs.max(self.tip.min_time),
            n_bits: self.tip.n_bits,
            target: self.target().to_le_bytes(),
        }
    }

    /// Largest hash that is a block.
    pub fn target(&self) -> Target {
        // What the node says of nBits is valid; were it not, nothing would be a block.
        Target::from_nbits(self.tip.n_bits).unwrap_or(Target::from_le_bytes([0; 32]))
    }
}

/// nVersion of the coinbase.
pub const COINBASE_VERSION: u32 = 2;
/// nSequence of the coinbase input: not final, so that the locktime counts (BIP54).
pub const COINBASE_SEQUENCE: u32 = 0xffff_fffe;

/// The transactions that may stay, in order.
///
/// Taken away from the tail, where the node put what pays least: whatever helps, and with it everything that depends on it.
fn trim(snapshot: &Snapshot, constraints: Constraints) -> Result<Vec<&Transaction>, DoesNotFit> {
    let room = snapshot.weight_limit.checked_sub(constraints.reserved_weight());
    let sigop_room = snapshot.sigop_limit.checked_sub(constraints.sigops.into());
    let (Some(room), Some(sigop_room)) = (room, sigop_room) else {
        return Err(DoesNotFit(constraints));
    };

    let transactions = &snapshot.transactions;
    let mut weight = snapshot.weight();
    let mut sigops: u64 = transactions.iter().map(|t| t.sigops).sum();
    if weight <= room && sigops <= sigop_room {
        return Ok(transactions.iter().collect());
    }

    let mut children = vec![Vec::new(); transactions.len()];
    for (index, transaction) in transactions.iter().enumerate() {
        for &parent in &transaction.depends {
            if let Some(of_parent) = children.get_mut(parent as usize) {
                of_parent.push(index);
            }
        }
    }
    let mut kept = vec![true; transactions.len()];
    for index in (0..transactions.len()).rev() {
        if weight <= room && sigops <= sigop_room {
            break;
        }
        let helps = weight > room || transactions[index].sigops > 0;
        let mut doomed = if helps { vec![index] } else { Vec::new() };
        while let Some(index) = doomed.pop() {
            if std::mem::replace(&mut kept[index], false) {
                weight -= transactions[index].weight;
                sigops -= transactions[index].sigops;
                doomed.extend(&children[index]);
            }
        }
    }
    Ok(transactions
        .iter()
        .zip(kept)
        .filter_map(|(transaction, kept)| kept.then_some(transaction))
        .collect())
}

/// The commitment of a block (BIP141) whose transactions besides the coinbase have these ids; the coinbase's counts as zero.
fn witness_commitment(wtxids: &[[u8; 32]]) -> [u8; 32] {
    let mut root_and_reserved = [0; 64];
    root_and_reserved[..32].copy_from_slice(&merkle_root([0; 32], &merkle_path(wtxids)));
    sha256d(&root_and_reserved)
}

/// Header, transaction count and the coinbase without the client's outputs, at their largest (spec 7.1).
const RESERVED_WEIGHT: u64 = 1168;
/// Of every block.
const CONSENSUS_WEIGHT_LIMIT: u64 = 4_000_000;
/// Of every block.
const CONSENSUS_SIGOP_LIMIT: u64 = 80_000;
/// Value, script length, `OP_RETURN`, push of 36 bytes: header and commitment.
const COMMITMENT_OUTPUT_LEN: usize = 8 + 1 + 38;

#[cfg(test)]
pub(crate) mod tests;
