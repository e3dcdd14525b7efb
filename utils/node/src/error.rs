//! What can go wrong with a node, by who has to mend it.

use std::time::Duration;

use thiserror::Error;

/// Why a call brought no result. The text names the cause for an operator: it is what a role's `/readyz` shows.
///
/// Text that came from the node is free of control characters and cut to 300 characters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NodeError {
    /// No connection, or one that broke before the answer was whole.
    #[error("node unreachable: {0}")]
    Unreachable(String),
    /// Wrong user, password or cookie (401), or an address the node does not allow (403).
    #[error("wrong credentials: {0}")]
    Credentials(String),
    /// The node has just started (-28), with its word on what it does.
    #[error("node warming up: {0}")]
    WarmingUp(String),
    /// Initial block download (-10): a template would be stale.
    #[error("node syncing: {0}")]
    Syncing(String),
    /// The node is connected to nobody (-9): its block would reach nobody.
    #[error("node has no peers: {0}")]
    NoPeers(String),
    /// The node's work queue is full, or it is shutting down (503).
    #[error("node busy: {0}")]
    Busy(String),
    /// Any other error the node gave.
    #[error("node error {code}: {message}")]
    Rpc {
        /// One of Core's `RPCErrorCode`.
        code: i64,
        /// The node's words.
        message: String,
    },
    /// No whole answer within the deadline.
    #[error("node gave no answer to {method} within {:.1} s", .after.as_secs_f64())]
    Timeout {
        /// What was asked.
        method: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// An answer that is no JSON-RPC, lacks a field, or is too large.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

const RPC_CLIENT_NOT_CONNECTED: i64 = -9;
const RPC_CLIENT_IN_INITIAL_DOWNLOAD: i64 = -10;
const RPC_IN_WARMUP: i64 = -28;

impl NodeError {
    /// A short name for a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Credentials(_) => "credentials",
            Self::WarmingUp(_) => "warming_up",
            Self::Syncing(_) => "syncing",
            Self::NoPeers(_) => "no_peers",
            Self::Busy(_) => "busy",
            Self::Rpc { .. } => "rpc",
            Self::Timeout { .. } => "timeout",
            Self::Malformed(_) => "malformed",
        }
    }

    pub(crate) fn from_rpc(code: i64, message: &str) -> Self {
        let message = clean(message);
        match code {
            RPC_IN_WARMUP => Self::WarmingUp(message),
            RPC_CLIENT_IN_INITIAL_DOWNLOAD => Self::Syncing(message),
            RPC_CLIENT_NOT_CONNECTED => Self::NoPeers(message),
            _ => Self::Rpc { code, message },
        }
    }
}

/// Text of a node as it may stand in a log line or in a message to a peer.
pub(crate) fn clean(text: &str) -> String {
    const LIMIT: usize = 300;
    text.trim().chars().take(LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
