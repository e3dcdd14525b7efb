//! Keeps the engine's mirror of the node's mempool true.
//!
//! By looking: the list of txids with its sequence number takes the node a few milliseconds, new transactions come in
//! batches. A transaction that enters between two looks is asked of the client that declares it, which is what the
//! protocol has `ProvideMissingTransactions` for; so being told of each at once would gain a round trip now and then.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_job_declaration::Transaction;
use adit_mining::BlockHash;
use adit_node::{Node, NodeError};
use adit_service::Readiness;
use adit_transport::Hub;
use bitcoin::Txid;
use bitcoin::hashes::Hash;
use tokio::sync::watch;

use crate::engine::{Entry, Jds};

/// What it works with.
pub struct Mirror {
    /// In order of preference.
    pub nodes: Vec<Node>,
    /// Which one is in use, and its tip.
    pub current: watch::Receiver<Option<(usize, BlockHash)>>,
    /// The engine.
    pub hub: Hub<Jds>,
    /// Between two looks.
    pub interval: Duration,
    /// The condition `mempool`.
    pub readiness: Readiness,
}

/// What was seen at a node.
#[derive(Default)]
struct Seen {
    txids: HashSet<Txid>,
    sequence: Option<u64>,
}

impl Mirror {
    /// Mirrors until dropped.
    pub async fn run(mut self) {
        self.readiness.waiting_for("mempool", "not read yet");
        let mut node = None;
        let mut seen = Seen::default();
        loop {
            let current = self.current.borrow_and_update().map(|(index, _)| index);
            if current != node {
                node = current;
                seen = Seen::default();
                self.hub.with(|engine, _, _| engine.clear_mempool());
            }
            let started = Instant::now();
            if let Some(index) = node {
                match self.look(&self.nodes[index], &mut seen).await {
                    Ok(()) => self.readiness.ok("mempool"),
                    Err(error) => {
                        // A node that was started anew counts from the beginning.
                        seen.sequence = None;
                        tracing::debug!(%error, "mempool not read");
                        self.readiness.waiting_for("mempool", error.to_string());
                    }
                }
            }
            // A big mempool is looked at less often: a tenth of the time at most goes into that.
            let wait = self.interval.max(started.elapsed() * 9);
            tokio::select! {
                changed = self.current.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn look(&self, node: &Node, seen: &mut Seen) -> Result<(), NodeError> {
        let mempool = node.getrawmempool().await?;
        if seen.sequence == Some(mempool.mempool_sequence) {
            return Ok(());
        }
        let now: HashSet<Txid> = mempool.txids.into_iter().collect();
        let gone: Vec<_> = seen.txids.difference(&now).map(|txid| txid.to_byte_array()).collect();
        if !gone.is_empty() {
            self.hub.with(|engine, _, _| engine.update_mempool(Vec::new(), &gone));
        }
        let new: Vec<Txid> = now.difference(&seen.txids).copied().collect();
        seen.txids.retain(|txid| now.contains(txid));
        for txids in new.chunks(BATCH) {
            let (raw, entries) =
                tokio::try_join!(node.getrawtransactions(txids), node.getmempoolentries(txids))?;
            let entries: Vec<_> = raw.into_iter().zip(entries).filter_map(read).collect();
            seen.txids.extend(txids);
            self.hub.with(|engine, _, _| engine.update_mempool(entries, &[]));
        }
        seen.sequence = Some(mempool.mempool_sequence);
        Ok(())
    }
}

/// `None` for one that left in the meantime.
fn read((raw, entry): (Option<Vec<u8>>, Option<adit_node::MempoolEntry>)) -> Option<Entry> {
    let (transaction, _) = Transaction::parse(&raw?).ok()?;
    Some(Entry { transaction: Arc::new(transaction), fee: entry?.fees.base })
}

/// Transactions asked for at a time: the node runs them one after the other and has to keep the answer in memory.
const BATCH: usize = 64;
