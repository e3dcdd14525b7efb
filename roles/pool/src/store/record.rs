//! What is stored.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Whom work is credited to: the part of a `user_identity` before the first dot, and the part behind it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Identity {
    /// Who is paid.
    pub account: String,
    /// Which of its machines; may be empty.
    pub worker: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.account)?;
        if self.worker.is_empty() { Ok(()) } else { write!(f, ".{}", self.worker) }
    }
}

/// One thing to store.
#[derive(Debug)]
pub enum Record {
    /// A share of a worker. Small and without allocation of its own.
    Share {
        /// Whose.
        identity: Arc<Identity>,
        /// How it went.
        outcome: ShareOutcome,
        /// When it came, milliseconds since 1970.
        unix_ms: u64,
    },
    /// A block found, or what is newly known about one.
    Block(Arc<FoundBlock>),
}

/// What became of a share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShareOutcome {
    /// Credited.
    Accepted {
        /// Number of the record; reported back once it is stored. They are pushed in order.
        number: u64,
        /// Expected hashes.
        work: u128,
    },
    /// Refused.
    Rejected,
}

/// What is known of a found block's fate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockState {
    /// Not seen in the chain yet; submitted again until it is.
    Pending,
    /// A template provider built on it.
    Accepted,
    /// Another block was the tip at its height, and six more came after it was found.
    Overtaken,
    /// Six tips came after it was found, of which none was at its height: it may have been the tip while nobody looked.
    Unknown,
}

/// Whose job a block was found on.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOrigin {
    /// Made by the pool of a template: the pool submits the block.
    #[default]
    Template,
    /// Brought by the miner, who submits the block: the pool does not know its transactions.
    Custom,
}

/// A block found by a miner: the record, and the solution as it is submitted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FoundBlock {
    /// Block hash, internal byte order.
    #[serde(with = "hex_bytes")]
    pub hash: Vec<u8>,
    /// What is known of its fate.
    pub state: BlockState,
    /// When it was found, milliseconds since 1970.
    pub found_unix_ms: u64,
    /// From the coinbase, where it says so.
    pub height: Option<u32>,
    /// Hash of the block before it, internal byte order.
    #[serde(with = "hex_bytes")]
    pub prev_hash: Vec<u8>,
    /// Who found it.
    pub account: String,
    /// With which machine.
    pub worker: String,
    /// On which channel of its connection.
    pub channel_id: u32,
    /// Whose job it was found on.
    #[serde(default)]
    pub job: JobOrigin,
    /// The channel's part of the coinbase.
    #[serde(with = "hex_bytes")]
    pub extranonce_prefix: Vec<u8>,
    /// The template provider that gave the template, `host:port`: its ids mean nothing to another. Empty for a custom job.
    pub template_provider: String,
    /// `SubmitSolution.template_id`.
    pub template_id: u64,
    /// `SubmitSolution.version`.
    pub version: u32,
    /// `SubmitSolution.header_timestamp`.
    pub header_timestamp: u32,
    /// `SubmitSolution.header_nonce`.
    pub header_nonce: u32,
    /// `SubmitSolution.coinbase_tx`.
    #[serde(with = "hex_bytes")]
    pub coinbase_tx: Vec<u8>,
}

impl FoundBlock {
    /// The hash as block hashes are printed.
    pub fn display_hash(&self) -> String {
        self.hash.iter().rev().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The hash as an array; zeroes if the stored one has another length.
    pub fn hash_bytes(&self) -> [u8; 32] {
        self.hash.as_slice().try_into().unwrap_or_default()
    }
}

/// Bytes as hexadecimal digits.
mod hex_bytes {
    use bitcoin::hex::{DisplayHex, FromHex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.to_lower_hex_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        Vec::from_hex(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
