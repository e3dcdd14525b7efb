//! The newest blocks in short, and the addresses and transactions in them: what the node has no index for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::attribution::FoundBy;
use crate::coinbase::Coinbase;
use crate::rpc::{Block, Tx};

#[cfg(test)]
mod tests;

/// One block.
#[derive(Debug, Clone)]
pub struct BlockSummary {
    /// Hash of the header.
    pub hash: String,
    /// Hash of the one below; empty for the genesis block.
    pub previous: String,
    /// Its height.
    pub height: u32,
    /// nTime, seconds since 1970.
    pub time: u64,
    /// Transactions, the coinbase included.
    pub transactions: usize,
    /// Serialized bytes.
    pub size: u64,
    /// Weight units.
    pub weight: u64,
    /// Fees of its transactions, satoshis, where the node knows them all.
    pub fees: Option<u64>,
    /// What the coinbase takes, satoshis.
    pub reward: u64,
    /// What the coinbase says.
    pub coinbase: Coinbase,
    /// The address that the coinbase pays most to.
    pub paid_to: Option<String>,
    /// Who found it, as far as is known.
    pub found_by: FoundBy,
    txids: Vec<String>,
    addresses: Vec<String>,
}

impl BlockSummary {
    fn of(block: &Block) -> Self {
        let coinbase = block.tx.first();
        let script = coinbase.and_then(|tx| tx.vin.first()?.coinbase.as_deref());
        let paid = coinbase
            .and_then(|tx| tx.vout.iter().max_by_key(|out| out.value).filter(|out| out.value > 0));
        Self {
            hash: block.hash.clone(),
            previous: block.previous.clone().unwrap_or_default(),
            height: block.height,
            time: block.time,
            transactions: block.tx.len(),
            size: block.size,
            weight: block.weight,
            fees: fees(block),
            reward: coinbase.map_or(0, Tx::value),
            coinbase: Coinbase::parse(script.unwrap_or_default()),
            paid_to: paid.and_then(|out| out.script.address.clone()),
            found_by: FoundBy::default(),
            txids: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

/// Fees of a block's transactions, satoshis, where the node knows them all.
pub fn fees(block: &Block) -> Option<u64> {
    block.tx.iter().skip(1).map(Tx::fee).sum()
}

/// A transaction's meaning for one address.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressEvent {
    /// The transaction.
    pub txid: Arc<str>,
    /// Its block.
    pub height: u32,
    /// That block's time.
    pub time: u64,
    /// Satoshis.
    pub received: u64,
    /// Satoshis.
    pub spent: u64,
}

/// The newest blocks of the best chain, without a gap, bounded in blocks and in transactions.
#[derive(Debug)]
pub struct Index {
    max_blocks: u32,
    max_transactions: usize,
    blocks: BTreeMap<u32, BlockSummary>,
    transactions: HashMap<Arc<str>, u32>,
    addresses: HashMap<String, Vec<AddressEvent>>,
}

impl Index {
    /// Nothing yet.
    pub fn new(max_blocks: u32, max_transactions: usize) -> Self {
        Self {
            max_blocks,
            max_transactions,
            blocks: BTreeMap::new(),
            transactions: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// The next block that is missing below the tip, if it fits: the tip itself first.
    pub fn missing(&mut self, tip_height: u32, tip_hash: &str) -> Option<String> {
        // What is above the tip is no longer in the chain.
        while let Some(height) = self.blocks.keys().next_back().copied().filter(|h| *h > tip_height)
        {
            self.remove(height);
        }
        let lowest = tip_height.saturating_sub(self.max_blocks - 1);
        while let Some(height) = self.blocks.keys().next().copied().filter(|h| *h < lowest) {
            self.remove(height);
        }
        let mut expected = tip_hash.to_owned();
        let mut room = self.max_transactions;
        for height in (lowest..=tip_height).rev() {
            match self.blocks.get(&height) {
                Some(block) if block.hash == expected => {
                    room = room.saturating_sub(block.transactions);
                    if room == 0 {
                        self.drop_below(height);
                        return None;
                    }
                    expected.clone_from(&block.previous);
                }
                _ => return Some(expected),
            }
        }
        None
    }

    /// Takes in a block in the place of the one at its height.
    pub fn insert(&mut self, block: &Block) {
        self.remove(block.height);
        let mut summary = BlockSummary::of(block);
        for tx in &block.tx {
            let txid: Arc<str> = tx.txid.as_str().into();
            self.transactions.insert(txid.clone(), block.height);
            summary.txids.push(tx.txid.clone());
            for (address, received, spent) in touched(tx) {
                let events = self.addresses.entry(address.to_owned()).or_default();
                if events.last().is_none_or(|event| event.height != block.height) {
                    summary.addresses.push(address.to_owned());
                }
                let (height, time) = (block.height, block.time);
                events.push(AddressEvent { txid: txid.clone(), height, time, received, spent });
            }
        }
        self.blocks.insert(block.height, summary);
    }

    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = &BlockSummary> {
        self.blocks.values().rev()
    }

    /// From `height` down.
    pub fn down_from(&self, height: u32) -> impl Iterator<Item = &BlockSummary> {
        self.blocks.range(..=height).rev().map(|(_, block)| block)
    }

    /// Newest first, to note who found them.
    pub fn newest_mut(&mut self) -> impl Iterator<Item = &mut BlockSummary> {
        self.blocks.values_mut().rev()
    }

    /// The block at a height.
    pub fn at(&self, height: u32) -> Option<&BlockSummary> {
        self.blocks.get(&height)
    }

    /// The block of a transaction.
    pub fn block_of(&self, txid: &str) -> Option<&BlockSummary> {
        self.blocks.get(self.transactions.get(txid)?)
    }

    /// Transactions of an address, newest first.
    pub fn events(&self, address: &str) -> Vec<&AddressEvent> {
        let mut events: Vec<_> = self.addresses.get(address).into_iter().flatten().collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.height));
        events
    }

    /// Blocks kept.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The lowest height kept.
    pub fn lowest(&self) -> Option<u32> {
        self.blocks.keys().next().copied()
    }

    fn drop_below(&mut self, lowest: u32) {
        while let Some(height) = self.blocks.keys().next().copied().filter(|h| *h < lowest) {
            self.remove(height);
        }
    }

    fn remove(&mut self, height: u32) {
        let Some(block) = self.blocks.remove(&height) else { return };
        for txid in block.txids {
            // It may have been mined again at another height.
            if self.transactions.get(&*txid) == Some(&height) {
                self.transactions.remove(&*txid);
            }
        }
        for address in block.addresses {
            if let Some(events) = self.addresses.get_mut(&address) {
                events.retain(|event| event.height != height);
                if events.is_empty() {
                    self.addresses.remove(&address);
                }
            }
        }
    }
}

/// Every address that a transaction pays or spends from, with satoshis received and spent.
fn touched(tx: &Tx) -> impl Iterator<Item = (&str, u64, u64)> {
    let mut touched = BTreeMap::<&str, (u64, u64)>::new();
    for out in &tx.vout {
        if let Some(address) = &out.script.address {
            touched.entry(address).or_default().0 += out.value;
        }
    }
    for prevout in tx.vin.iter().filter_map(|input| input.prevout.as_ref()) {
        if let Some(address) = &prevout.script.address {
            touched.entry(address).or_default().1 += prevout.value;
        }
    }
    touched.into_iter().map(|(address, (received, spent))| (address, received, spent))
}
