//! What the device says about itself: `--json` at the end, `/status` at any time.

use std::collections::BTreeMap;

use serde::Serialize;

/// The whole process.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether it did what was asked.
    pub ok: bool,
    /// Why it stopped or, while it runs, what it does.
    pub reason: String,
    /// As on the command line.
    pub mode: &'static str,
    /// Since the start.
    pub seconds: f64,
    /// Hashes done.
    pub hashes: u64,
    /// Hashes per second since the start.
    pub hashrate: f64,
    /// Shares acknowledged, all connections.
    pub shares_accepted: u64,
    /// Shares rejected, all connections.
    pub shares_rejected: u64,
    /// Each connection.
    pub connections: Vec<ConnectionReport>,
}

/// One connection, with all its miners.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionReport {
    /// Account and worker of its first miner.
    pub user: String,
    /// What it does, e.g. `mining` or why not.
    pub state: String,
    /// Every fixed part of a coinbase extranonce that it was given, hex, newest last: the channel's
    /// `extranonce_prefix`; in `sv1` mode what precedes the miner's own bytes in the scriptSig, `extranonce1` included.
    pub extranonce_prefixes: Vec<String>,
    /// Difficulty of a share now.
    pub difficulty: f64,
    /// Shares sent.
    pub shares_submitted: u64,
    /// Shares acknowledged.
    pub shares_accepted: u64,
    /// Shares rejected.
    pub shares_rejected: u64,
    /// The same by error code or text.
    pub rejected_by_reason: BTreeMap<String, u64>,
    /// Shares that met the network's target as well.
    pub blocks_found: u64,
    /// Connections lost and made again.
    pub reconnects: u64,
    /// Stratum V2 channels that are open.
    pub channels: u64,
    /// Channels that were opened again after the server had refused or closed one.
    pub channels_reopened: u64,
    /// Jobs, tips, targets and closings that were for a group.
    pub group_messages: u64,
    /// Whether shares name their worker (extension 0x0002).
    pub names_workers: bool,
}

impl ConnectionReport {
    /// Prefixes kept: a long run with many reconnections must not grow.
    const MAX_PREFIXES: usize = 256;

    /// Notes a prefix unless it is the one noted last.
    pub(crate) fn add_prefix(&mut self, prefix: &[u8]) {
        let hex: String = prefix.iter().map(|byte| format!("{byte:02x}")).collect();
        if self.extranonce_prefixes.last() != Some(&hex) {
            self.extranonce_prefixes.retain(|known| *known != hex);
            self.extranonce_prefixes.push(hex);
            let excess = self.extranonce_prefixes.len().saturating_sub(Self::MAX_PREFIXES);
            self.extranonce_prefixes.drain(..excess);
        }
    }
}
