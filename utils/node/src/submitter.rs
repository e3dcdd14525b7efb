//! Brings solved blocks into the best chain, and back into it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use adit_mining::BlockHash;
use bitcoin::hashes::Hash;
use tokio::task::JoinSet;

use crate::blocks::{BlockStore, SolvedBlock, State};
use crate::{Board, Node, NodeError, SubmitResult};

/// Who counts what becomes of blocks.
pub trait BlockMetrics: Send + Sync + 'static {
    /// `found` for each block, `repeated` for one that is known, then once for each answer of a node that is another
    /// than its last (`accepted`, `duplicate` is among them, `inconclusive`, `rejected`, `unreachable`), and once when
    /// the chain has settled about it (`confirmed`, `overtaken`).
    fn solution(&self, result: &'static str);
    /// A block, or what is kept about it, could not be written to disk.
    fn store_error(&self);
}

/// A node, as far as blocks are handed to it.
pub trait Chain: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &str;
    /// Hands a block in.
    fn submit(&self, block: &[u8]) -> impl Future<Output = Result<SubmitResult, NodeError>> + Send;
    /// Where a block is.
    fn standing(&self, hash: BlockHash)
    -> impl Future<Output = Result<Standing, NodeError>> + Send;
}

/// Where a block is at a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// In the best chain, with so many confirmations, itself included.
    InChain(u32),
    /// Not there; the best chain has this height.
    Absent {
        /// Height of the tip.
        tip: u32,
    },
}

impl Chain for Node {
    fn name(&self) -> &str {
        self.url()
    }

    async fn submit(&self, block: &[u8]) -> Result<SubmitResult, NodeError> {
        self.submitblock(block).await
    }

    async fn standing(&self, hash: BlockHash) -> Result<Standing, NodeError> {
        match self.getblockheader(&bitcoin::BlockHash::from_byte_array(hash.0)).await {
            Ok(header) if header.confirmations > 0 => {
                return Ok(Standing::InChain(
                    u32::try_from(header.confirmations).unwrap_or(u32::MAX),
                ));
            }
            // In another branch, or not known.
            Ok(_) | Err(NodeError::Rpc { code: RPC_INVALID_ADDRESS_OR_KEY, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Standing::Absent { tip: self.getblockchaininfo().await?.blocks })
    }
}

/// All blocks that the chain has not settled about.
pub struct Submitter<C> {
    nodes: Vec<Arc<C>>,
    store: Arc<BlockStore>,
    /// By height, so that parents come before children: a node that was killed may have lost both.
    blocks: Mutex<BTreeMap<(u32, BlockHash), Tracked>>,
    /// A block so deep is forgotten.
    kept_confirmations: u32,
    metrics: Box<dyn BlockMetrics>,
}

struct Tracked {
    block: SolvedBlock,
    /// Not handed in before it is.
    on_disk: bool,
    /// Nodes that are just being handed it.
    busy: BTreeSet<usize>,
    /// The last reply of each node, so that only news are logged.
    replies: HashMap<usize, Reply>,
}

impl Tracked {
    fn new(block: SolvedBlock, on_disk: bool) -> Self {
        Self { block, on_disk, busy: BTreeSet::new(), replies: HashMap::new() }
    }
}

/// What came of handing in a block.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Reply {
    Node(SubmitResult),
    Failed(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(SubmitResult::Accepted) => f.write_str("accepted"),
            Self::Node(SubmitResult::Duplicate) => f.write_str("duplicate"),
            Self::Node(SubmitResult::DuplicateInconclusive) => {
                f.write_str("duplicate-inconclusive")
            }
            Self::Node(SubmitResult::Inconclusive) => f.write_str("inconclusive"),
            Self::Node(SubmitResult::Rejected(reason)) | Self::Failed(reason) => {
                f.write_str(reason)
            }
        }
    }
}

impl<C: Chain> Submitter<C> {
    /// A submitter that goes on with the `blocks` of an earlier run.
    pub fn new(
        nodes: Vec<Arc<C>>,
        store: BlockStore,
        blocks: Vec<SolvedBlock>,
        kept_confirmations: u32,
        metrics: impl BlockMetrics,
    ) -> Self {
        let track = |block: SolvedBlock| {
            tracing::info!(hash = %block.hash, height = block.record.height, "block of an earlier run is taken up");
            ((block.record.height, block.hash), Tracked::new(block, true))
        };
        Self {
            nodes,
            store: Arc::new(store),
            blocks: Mutex::new(blocks.into_iter().map(track).collect()),
            kept_confirmations,
            metrics: Box::new(metrics),
        }
    }

    /// Takes a solved block: onto the disk, then to all nodes.
    pub async fn found(self: Arc<Self>, block: SolvedBlock) {
        let key = (block.record.height, block.hash);
        let tracked = Tracked::new(block.clone(), false);
        {
            let mut blocks = self.lock();
            if blocks.contains_key(&key) {
                tracing::debug!(hash = %block.hash, "solution repeated");
                return self.metrics.solution("repeated");
            }
            blocks.insert(key, tracked);
        }
        self.metrics.solution("found");
        tracing::info!(
            hash = %block.hash, height = block.record.height, template_id = block.record.template_id,
            bytes = block.raw.len(), "block found"
        );
        let (store, on_disk) = (self.store.clone(), block.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&on_disk)).await;
        if let Err(error) = saved.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            // Better in the chain alone than nowhere.
            tracing::error!(hash = %block.hash, %error, "a solved block could not be written to disk");
            self.metrics.store_error();
        }
        if let Some(tracked) = self.lock().get_mut(&key) {
            tracked.on_disk = true;
        }
        let mut nodes = JoinSet::new();
        for index in 0..self.nodes.len() {
            let (this, block) = (self.clone(), block.clone());
            nodes.spawn(async move { this.submit(index, &block).await });
        }
        nodes.join_all().await;
    }

    /// Looks for all blocks at all nodes, hands in again what is missing, forgets what is settled. True while some block
    /// is in no best chain.
    pub async fn round(self: Arc<Self>) -> bool {
        let mut blocks: Vec<SolvedBlock> = self
            .lock()
            .values()
            .filter(|tracked| tracked.on_disk)
            .map(|tracked| tracked.block.clone())
            .collect();
        if blocks.is_empty() {
            return false;
        }
        // Of blocks at one height a node keeps the first that it gets: let that be the one which it had.
        blocks.sort_by_key(|SolvedBlock { record, .. }| {
            (record.height, record.state != State::InChain, record.found_unix_ms)
        });
        let blocks = Arc::new(blocks);
        let mut nodes = JoinSet::new();
        for index in 0..self.nodes.len() {
            let (this, blocks) = (self.clone(), blocks.clone());
            nodes.spawn(async move { this.round_at(index, &blocks).await });
        }
        let views = nodes.join_all().await;
        for (at, block) in blocks.iter().enumerate() {
            let standings = views.iter().filter_map(|view| view.get(at).copied());
            if let Some(verdict) = judge(standings, block.record.height, self.kept_confirmations) {
                self.settle(block, verdict);
            }
        }
        self.lock().values().any(|tracked| tracked.block.record.state == State::Pending)
    }

    /// What is kept about the blocks not settled, by height.
    pub fn status(&self) -> Vec<serde_json::Value> {
        let show = |Tracked { block, replies, .. }: &Tracked| {
            let replies: BTreeMap<&str, String> = replies
                .iter()
                .map(|(node, reply)| (self.nodes[*node].name(), reply.to_string()))
                .collect();
            serde_json::json!({ "hash": block.hash.to_string(), "record": block.record, "replies": replies })
        };
        self.lock().values().map(show).collect()
    }

    /// Where `blocks` are at one node, parents first; ends where the node does.
    async fn round_at(&self, index: usize, blocks: &[SolvedBlock]) -> Vec<Standing> {
        let mut view = Vec::with_capacity(blocks.len());
        for block in blocks {
            let mut standing = self.nodes[index].standing(block.hash).await;
            if let Ok(Standing::Absent { tip }) = standing
                && !is_overtaken(block.record.height, tip)
                && self.submit(index, block).await
            {
                standing = self.nodes[index].standing(block.hash).await;
            }
            match standing {
                Ok(standing) => view.push(standing),
                Err(_) => break,
            }
        }
        view
    }

    /// Hands a block in. True if the node has it now.
    async fn submit(&self, index: usize, block: &SolvedBlock) -> bool {
        let node = &self.nodes[index];
        let key = (block.record.height, block.hash);
        let is_free = |tracked: &mut Tracked| tracked.busy.insert(index);
        if !self.lock().get_mut(&key).is_some_and(is_free) {
            return false;
        }
        let (reply, label) = match node.submit(&block.raw).await {
            Ok(result) => {
                let label = match &result {
                    SubmitResult::Accepted => "accepted",
                    SubmitResult::Duplicate => "duplicate",
                    SubmitResult::DuplicateInconclusive | SubmitResult::Inconclusive => {
                        "inconclusive"
                    }
                    SubmitResult::Rejected(_) => "rejected",
                };
                (Reply::Node(result), label)
            }
            Err(error) => (Reply::Failed(error.to_string()), "unreachable"),
        };
        let has_it = label != "rejected" && label != "unreachable";
        let mut blocks = self.lock();
        let Some(tracked) = blocks.get_mut(&key) else { return has_it };
        tracked.busy.remove(&index);
        if tracked.replies.get(&index) != Some(&reply) {
            let (hash, height, node) = (block.hash, block.record.height, node.name());
            if has_it {
                tracing::info!(%hash, height, node, %reply, "block submitted");
            } else {
                tracing::error!(%hash, height, node, %reply, "block not taken by the node: will be submitted again");
            }
            self.metrics.solution(label);
            tracked.replies.insert(index, reply);
        }
        has_it
    }

    fn settle(&self, block: &SolvedBlock, verdict: Verdict) {
        let key = (block.record.height, block.hash);
        let (hash, height) = (block.hash, block.record.height);
        let forget = match verdict {
            Verdict::Is(state) => {
                let mut blocks = self.lock();
                let Some(tracked) = blocks.get_mut(&key) else { return };
                if tracked.block.record.state == state {
                    return;
                }
                tracked.block.record.state = state;
                match state {
                    State::InChain => tracing::info!(%hash, height, "block is in the best chain"),
                    State::Pending => {
                        // The node lost it; its replies are those to another state of things.
                        tracked.replies.clear();
                        tracing::warn!(%hash, height, "block is not in the best chain any more");
                    }
                }
                self.store.update(&tracked.block)
            }
            Verdict::Confirmed => {
                tracing::info!(%hash, height, "block is deep in the best chain");
                self.metrics.solution("confirmed");
                self.lock().remove(&key);
                self.store.remove(hash)
            }
            Verdict::Overtaken => {
                tracing::warn!(%hash, height, "block lost: the best chain has gone on without it");
                self.metrics.solution("overtaken");
                self.lock().remove(&key);
                self.store.remove(hash)
            }
        };
        if let Err(error) = forget {
            tracing::error!(%hash, %error, "what is kept about a block cannot be written");
            self.metrics.store_error();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u32, BlockHash), Tracked>> {
        self.blocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Has the submitter look after its blocks whenever something happens at a node, and now and then. Never ends.
pub async fn look_after<C: Chain>(board: Board, submitter: Arc<Submitter<C>>) {
    let mut board = board.subscribe();
    let mut wait = LOOK_FIRST;
    loop {
        board.mark_unchanged();
        let pending = submitter.clone().round().await;
        tokio::select! {
            _ = board.changed() => {
                wait = LOOK_FIRST;
                // Not in the way of what is to be done first at a new tip.
                tokio::time::sleep(LOOK_DELAY).await;
            }
            () = tokio::time::sleep(if pending { wait } else { LOOK_LAST }) => wait = (wait * 2).min(LOOK_LAST),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Verdict {
    /// Lost for good.
    Overtaken,
    Is(State),
    /// So deep that it can be forgotten.
    Confirmed,
}

/// What the nodes that answered say together: the best for the block.
fn judge(
    standings: impl Iterator<Item = Standing>,
    height: u32,
    kept_confirmations: u32,
) -> Option<Verdict> {
    standings
        .map(|standing| match standing {
            Standing::Absent { tip } if is_overtaken(height, tip) => Verdict::Overtaken,
            Standing::Absent { .. } => Verdict::Is(State::Pending),
            Standing::InChain(confirmations) if confirmations >= kept_confirmations => {
                Verdict::Confirmed
            }
            Standing::InChain(_) => Verdict::Is(State::InChain),
        })
        .max()
}

/// Whether a chain that has another block at `height` has gone on too far to come back.
fn is_overtaken(height: u32, tip: u32) -> bool {
    tip >= height.saturating_add(OVERTAKEN_BY)
}

/// Blocks on top of another block at the same height after which a block is given up.
const OVERTAKEN_BY: u32 = 6;
/// From a change at a node to a look at the blocks there.
const LOOK_DELAY: Duration = Duration::from_millis(50);
/// Between two looks at blocks that are in no best chain, doubling.
const LOOK_FIRST: Duration = Duration::from_secs(1);
/// The most of that.
const LOOK_LAST: Duration = Duration::from_secs(30);
/// Of `getblockheader` for a block that is not known.
const RPC_INVALID_ADDRESS_OR_KEY: i64 = -5;

#[cfg(test)]
mod tests;
