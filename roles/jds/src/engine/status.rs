//! What `/status` shows.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Jds;

/// A declaration that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) remote: SocketAddr,
    pub(super) code: &'static str,
    pub(super) details: String,
}

/// How it goes, in a few numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Connected.
    pub clients: usize,
    /// Declarations accepted since the start.
    pub accepted: u64,
    /// Declarations refused since the start.
    pub refused: u64,
    /// Transactions of the node at hand.
    pub mempool: usize,
}

impl Jds {
    /// How it goes.
    pub fn summary(&self) -> Summary {
        Summary {
            clients: self.clients.len(),
            accepted: self.answered.0,
            refused: self.answered.1,
            mempool: self.mempool.len(),
        }
    }

    /// The state as JSON.
    pub fn status(&self) -> Value {
        let clients: Vec<_> = self
            .clients
            .values()
            .map(|client| {
                json!({
                    "remote": client.remote.to_string(),
                    "vendor": client.vendor,
                    "mode": if client.declares() { "full-template" } else { "coinbase-only" },
                    "pending": client.pending.len(),
                    "accepted": client.accepted_total,
                    "refused": client.refused_total,
                })
            })
            .collect();
        let refusals: Vec<_> = self
            .refusals
            .iter()
            .rev()
            .map(|refused| {
                json!({
                    "remote": refused.remote.to_string(),
                    "code": refused.code,
                    "details": refused.details,
                })
            })
            .collect();
        let (supplied, supplied_bytes) = self.mempool.supplied();
        json!({
            "tip": self.tip.map(|tip| json!({ "hash": tip.hash.to_string(), "height": tip.height })),
            "mempool": { "transactions": self.mempool.len(), "bytes": self.mempool.bytes() },
            "supplied": { "transactions": supplied, "bytes": supplied_bytes },
            "checks": self.checks.len(),
            "jobs": self.jobs.len(),
            "pending_bytes": self.pending_bytes,
            "clients": clients,
            "refusals": refusals,
        })
    }
}
