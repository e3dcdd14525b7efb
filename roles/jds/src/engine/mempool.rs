//! Transactions that are at hand with their raw bytes, by wtxid.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use adit_job_declaration::Transaction;

/// A transaction of the node's mempool.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Itself.
    pub transaction: Arc<Transaction>,
    /// Inputs less outputs, satoshis.
    pub fee: u64,
}

/// The mirror of the node's mempool, and what clients supplied for jobs that were accepted.
///
/// Both are bounded in bytes of raw transactions. A transaction beyond the bound of the mempool is not kept, and asked
/// for where it is declared; of the supplied ones the oldest go first.
#[derive(Debug)]
pub(super) struct Mempool {
    entries: HashMap<[u8; 32], Entry>,
    wtxids: HashMap<[u8; 32], [u8; 32]>,
    bytes: usize,
    max_bytes: usize,
    supplied: HashMap<[u8; 32], Entry>,
    supplied_order: VecDeque<[u8; 32]>,
    supplied_bytes: usize,
    max_supplied: usize,
}

impl Mempool {
    pub(super) fn new(max_bytes: usize, max_supplied: usize) -> Self {
        Self {
            entries: HashMap::new(),
            wtxids: HashMap::new(),
            bytes: 0,
            max_bytes,
            supplied: HashMap::new(),
            supplied_order: VecDeque::new(),
            supplied_bytes: 0,
            max_supplied,
        }
    }

    /// A transaction, and whether it is here only because a client supplied it.
    pub(super) fn find(&self, wtxid: &[u8; 32]) -> Option<(&Entry, bool)> {
        let mirrored = self.entries.get(wtxid).map(|entry| (entry, false));
        mirrored.or_else(|| self.supplied.get(wtxid).map(|entry| (entry, true)))
    }

    pub(super) fn update(&mut self, added: Vec<Entry>, removed: &[[u8; 32]]) {
        for txid in removed {
            let entry = self.wtxids.remove(txid).and_then(|wtxid| self.entries.remove(&wtxid));
            self.bytes -= entry.map_or(0, |entry| cost(&entry));
        }
        for entry in added {
            let cost = cost(&entry);
            if self.bytes + cost > self.max_bytes {
                continue;
            }
            let Transaction { txid, wtxid, .. } = *entry.transaction;
            if self.wtxids.insert(txid, wtxid).is_none() {
                self.bytes += cost;
                self.entries.insert(wtxid, entry);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.wtxids.clear();
        self.bytes = 0;
    }

    /// Keeps a transaction that a client supplied.
    pub(super) fn keep_supplied(&mut self, entry: Entry) {
        let wtxid = entry.transaction.wtxid;
        if self.find(&wtxid).is_some() {
            return;
        }
        self.supplied_bytes += cost(&entry);
        self.supplied.insert(wtxid, entry);
        self.supplied_order.push_back(wtxid);
        while self.supplied_bytes > self.max_supplied
            && let Some(oldest) = self.supplied_order.pop_front()
        {
            self.supplied_bytes -= self.supplied.remove(&oldest).map_or(0, |entry| cost(&entry));
        }
    }

    /// Transactions of the node's mempool.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that these take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Transactions that clients supplied, and their bytes.
    pub(super) fn supplied(&self) -> (usize, usize) {
        (self.supplied.len(), self.supplied_bytes)
    }
}

/// Bytes that an entry takes: its raw transaction, both hashes, and its places in the maps.
fn cost(entry: &Entry) -> usize {
    entry.transaction.raw.len() + OVERHEAD
}

/// Of an entry beside the raw bytes.
const OVERHEAD: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u8, len: usize) -> Entry {
        let transaction =
            Transaction { wtxid: [n; 32], txid: [n | 0x80; 32], raw: vec![n; len].into() };
        Entry { transaction: Arc::new(transaction), fee: 1 }
    }

    #[test]
    fn bytes_are_bounded() {
        let mut mempool = Mempool::new(1000, 900);
        mempool.update(vec![entry(1, 100), entry(2, 200), entry(3, 200)], &[]);
        assert_eq!((mempool.len(), mempool.bytes()), (2, 900));
        assert!(mempool.find(&[3; 32]).is_none());
        mempool.update(vec![entry(3, 200), entry(3, 200)], &[[0x81; 32], [0x99; 32]]);
        assert_eq!((mempool.len(), mempool.bytes()), (2, 1000));
        mempool.keep_supplied(entry(4, 100));
        mempool.keep_supplied(entry(4, 100));
        mempool.keep_supplied(entry(3, 100));
        mempool.keep_supplied(entry(5, 100));
        assert_eq!(mempool.supplied(), (2, 800));
        mempool.keep_supplied(entry(6, 100));
        assert_eq!(mempool.supplied(), (2, 800));
        assert!(mempool.find(&[4; 32]).is_none() && mempool.find(&[6; 32]).is_some());
        mempool.clear();
        assert_eq!((mempool.len(), mempool.bytes()), (0, 0));
    }
}
