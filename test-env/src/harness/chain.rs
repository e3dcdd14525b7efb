//! The blocks that a node has, and whose they are.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;
use bitcoin::{BlockHash, Txid};
use bitcoincore_rpc::{Client, RpcApi};

use crate::bitcoind::{Bitcoind, Chain};
use crate::lab::CoinbaseView;

/// A block of the best chain.
#[derive(Clone, Debug)]
pub struct FoundBlock {
    /// Its hash.
    pub hash: BlockHash,
    /// Its height.
    pub height: u64,
    /// The block before it.
    pub parent: BlockHash,
    /// What its coinbase says and pays.
    pub coinbase: CoinbaseView,
    /// Its transactions, the coinbase included.
    pub txids: Vec<Txid>,
}

impl FoundBlock {
    /// Whether it pays the address and carries the tag, and its extranonce begins with one of these.
    pub fn is_by(&self, address: &str, tag: &str, prefixes: &[Vec<u8>]) -> bool {
        let extranonce = self.coinbase.extranonce();
        self.coinbase.is_of(address, tag)
            && prefixes.iter().any(|prefix| !prefix.is_empty() && extranonce.starts_with(prefix))
    }
}

/// The best chain above a height, each block fetched once.
#[derive(Debug)]
pub struct Blocks {
    above: u64,
    seen: BTreeMap<BlockHash, FoundBlock>,
    best: Vec<BlockHash>,
}

impl Blocks {
    /// Looks at blocks higher than what `node` has now.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn above_tip(node: &Bitcoind) -> Result<Self> {
        Ok(Self {
            above: node.client()?.get_block_count()?,
            seen: BTreeMap::new(),
            best: Vec::new(),
        })
    }

    /// Brings it up to what the node has now.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn update(&mut self, node: &Bitcoind) -> Result<()> {
        let client = node.client()?;
        self.best.clear();
        // Walked from the tip, so that it is one chain whatever happens meanwhile.
        let mut hash = client.get_best_block_hash()?;
        loop {
            let block = match self.seen.entry(hash) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(read(&client, hash, node.chain())?),
            };
            if block.height <= self.above {
                break;
            }
            self.best.push(hash);
            hash = block.parent;
        }
        self.best.reverse();
        Ok(())
    }

    /// The blocks, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &FoundBlock> {
        self.best.iter().map(|hash| &self.seen[hash])
    }
}

fn read(client: &Client, hash: BlockHash, chain: Chain) -> Result<FoundBlock> {
    let block = client.get_block(&hash)?;
    Ok(FoundBlock {
        hash,
        height: client.get_block_header_info(&hash)?.height as u64,
        parent: block.header.prev_blockhash,
        coinbase: CoinbaseView::of(&block, chain.network())?,
        txids: block.txdata.iter().map(|tx| tx.compute_txid()).collect(),
    })
}
