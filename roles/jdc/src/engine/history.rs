//! What is remembered: the last blocks and what became of them, and each worker's best share.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::{BlockHash, Target};
use adit_transport::{Now, Outbox};

use super::{Effect, JdcEngine};
use crate::store::{BestShare, BlockRecord, BlockState, FoundBlock, Past};

/// Kept over restarts, within [`KEEP_INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct History {
    /// Oldest first.
    blocks: VecDeque<BlockRecord>,
    workers: HashMap<Arc<str>, Tally>,
    /// There is something that is not kept yet.
    changed: bool,
    kept: Option<Instant>,
    swept: Option<Instant>,
}

/// One worker's shares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    /// Since our start.
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// Difficulty of the best share ever.
    pub(super) best: f64,
    /// Milliseconds since 1970.
    pub(super) best_unix_ms: u64,
    pub(super) last_unix_ms: u64,
}

/// Blocks that are remembered.
const MAX_BLOCKS: usize = 100;
/// Workers that are remembered; those that come beyond that are not told about.
const MAX_WORKERS: usize = 10_000;
/// Where there are too many, those go that were not heard of for so long.
const FORGOTTEN_AFTER_MS: u64 = 24 * 3_600 * 1_000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// What changed is kept at this interval.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);

impl History {
    /// A share was judged. No allocation but at a worker's first.
    pub(super) fn share(&mut self, worker: &Arc<str>, hash: Option<&BlockHash>, now: Now) {
        if !self.workers.contains_key(worker) {
            // Work makes a place.
            if hash.is_none() || !self.has_room(now) {
                return;
            }
            self.workers.insert(worker.clone(), Tally::new(0.0, 0));
        }
        let Some(tally) = self.workers.get_mut(worker) else { return };
        let Some(hash) = hash else {
            tally.rejected += 1;
            return;
        };
        tally.accepted += 1;
        tally.last_unix_ms = now.unix_ms;
        let difficulty = Target::from_le_bytes(hash.0).difficulty();
        if difficulty > tally.best {
            (tally.best, tally.best_unix_ms) = (difficulty, now.unix_ms);
            self.changed = true;
        }
    }

    fn has_room(&mut self, now: Now) -> bool {
        if self.workers.len() < MAX_WORKERS {
            return true;
        }
        let swept = |at: Instant| now.instant.duration_since(at) < SWEEP_INTERVAL;
        if !self.swept.is_some_and(swept) {
            self.swept = Some(now.instant);
            let since = now.unix_ms.saturating_sub(FORGOTTEN_AFTER_MS);
            self.workers.retain(|_, tally| tally.last_unix_ms >= since);
        }
        self.workers.len() < MAX_WORKERS
    }

    pub(super) fn block(&mut self, block: BlockRecord) {
        // A share that is sent again is no other block.
        if self.blocks.iter().any(|known| known.hash == block.hash) {
            return;
        }
        if self.blocks.len() == MAX_BLOCKS {
            self.blocks.pop_front();
        }
        self.blocks.push_back(block);
        self.changed = true;
    }

    /// Whether a block is among the last ones.
    pub(super) fn has_block(&self, hash: &BlockHash) -> bool {
        let hash = hash.to_string();
        self.blocks.iter().any(|known| known.hash == hash)
    }

    /// What became of a block.
    pub(super) fn settle(&mut self, hash: &str, state: BlockState) {
        let block = self.blocks.iter_mut().rev().find(|block| block.hash == hash);
        if let Some(block) = block.filter(|block| block.state != state) {
            block.state = state;
            self.changed = true;
        }
    }

    /// Newest first.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &BlockRecord> {
        self.blocks.iter().rev()
    }

    pub(super) fn tally(&self, worker: &str) -> Option<&Tally> {
        self.workers.get(worker)
    }

    fn past(&self) -> Past {
        let workers = self.workers.iter().filter(|(_, tally)| tally.best > 0.0);
        let workers = workers.map(|(worker, tally)| BestShare {
            identity: worker.to_string(),
            difficulty: tally.best,
            unix_ms: tally.best_unix_ms,
        });
        Past { blocks: self.blocks.iter().cloned().collect(), workers: workers.collect() }
    }

    /// Has it kept where something changed, now and then.
    pub(super) fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let lately = |kept: Instant| now.instant.duration_since(kept) < KEEP_INTERVAL;
        if self.changed && !self.kept.is_some_and(lately) {
            self.keep(out);
            self.kept = Some(now.instant);
        }
    }

    fn keep(&mut self, out: &mut Outbox<Effect>) {
        if std::mem::take(&mut self.changed) {
            out.effect(Effect::Remember(Box::new(self.past())));
        }
    }
}

impl Tally {
    fn new(best: f64, unix_ms: u64) -> Self {
        Self { accepted: 0, rejected: 0, best, best_unix_ms: unix_ms, last_unix_ms: unix_ms }
    }
}

impl JdcEngine {
    /// What a former run remembered; `pending` are the blocks that it left, whose fate is not known.
    pub fn recall(&mut self, past: Past, pending: &[FoundBlock]) {
        let history = &mut self.core.history;
        history.blocks.extend(past.blocks.into_iter().rev().take(MAX_BLOCKS));
        history.blocks.make_contiguous().reverse();
        for share in past.workers.into_iter().take(MAX_WORKERS) {
            let tally = Tally::new(share.difficulty, share.unix_ms);
            history.workers.insert(share.identity.into(), tally);
        }
        let pending: Vec<_> = pending.iter().map(BlockRecord::submitted).collect();
        // It ended between what became of a block and keeping that.
        for block in &mut history.blocks {
            let known = pending.iter().any(|pending| pending.hash == block.hash);
            if block.state == BlockState::Submitted && !known {
                block.state = BlockState::Unknown;
            }
        }
        pending.into_iter().for_each(|block| history.block(block));
    }

    /// Has kept what is not kept yet: the end.
    pub fn remember(&mut self, out: &mut Outbox<Effect>) {
        self.core.history.keep(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(seconds: u64) -> Now {
        Now { instant: Instant::now(), unix_ms: 0 }.later(Duration::from_secs(seconds))
    }

    fn hash(high: u8) -> BlockHash {
        let mut hash = [0xff; 32];
        hash[31] = high;
        BlockHash(hash)
    }

    #[test]
    fn the_best_share_of_each_worker_stays() {
        let mut history = History::default();
        let (a, b): (Arc<str>, Arc<str>) = ("farm.a".into(), "farm.b".into());
        for (high, seconds) in [(9, 1), (3, 2), (5, 3)] {
            history.share(&a, Some(&hash(high)), now(seconds));
        }
        history.share(&b, None, now(4));
        assert!(history.tally("farm.b").is_none(), "it has done nothing");
        history.share(&a, None, now(4));
        let tally = history.tally("farm.a").unwrap();
        let best = Target::from_le_bytes(hash(3).0).difficulty();
        assert_eq!((tally.accepted, tally.rejected, tally.best), (3, 1, best));
        assert_eq!((tally.best_unix_ms, tally.last_unix_ms), (2_000, 3_000));
    }

    #[test]
    fn workers_beyond_the_limit_are_told_about_once_others_are_gone() {
        let mut history = History::default();
        let early = now(0);
        for worker in 0..=MAX_WORKERS {
            history.share(&worker.to_string().into(), Some(&hash(1)), early);
        }
        let last = MAX_WORKERS.to_string();
        assert!(history.tally(&last).is_none() && history.workers.len() == MAX_WORKERS);
        history.share(&"0".into(), Some(&hash(1)), early.later(Duration::from_secs(86_400)));
        let late = early.later(Duration::from_secs(86_500));
        history.share(&last.as_str().into(), Some(&hash(1)), late);
        assert!(history.tally(&last).is_some() && history.tally("0").is_some());
        assert_eq!(history.workers.len(), 2);
    }
}
