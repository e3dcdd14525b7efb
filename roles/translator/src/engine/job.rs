//! Jobs as one miner knows them.

use std::sync::Arc;

use adit_mining::share::{Seen, SeenShares};
use adit_mining::{BlockHash, Target};
use adit_sv1::server::write::{self, Notify};
use adit_transport::PeerId;

use super::channel::Work;

/// Jobs of a miner that it may still send shares for; the oldest makes room. At a job every 30 seconds, 8 minutes.
pub(super) const MAX_JOBS: usize = 16;

/// Jobs before those on the same tip, on which nothing but blocks counts; the oldest makes room.
const MAX_OVER: usize = 64;

/// Shares of one miner on one tip above which further ones are refused: 16 bytes each, paid for with work.
const MAX_SHARES: usize = 1 << 20;

/// Most bytes that an upstream grants behind its prefix (`B0_32`).
const MAX_GRANTED: usize = 32;

/// What a miner was told once: a `mining.notify` and the difficulty before it.
#[derive(Clone, Debug)]
pub(super) struct V1Job {
    pub(super) id: u64,
    pub(super) work: Arc<Work>,
    /// What the miner was told to meet: at most one unit of difficulty easier than the upstream's target.
    pub(super) announced: Target,
    /// Header time that it was told.
    pub(super) ntime: u32,
    /// Whether a share of it can be sent upstream: not once its channel is gone.
    pub(super) live: bool,
}

/// The jobs of one miner, or of the channel of all.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// Oldest first.
    jobs: Vec<V1Job>,
    /// Those that made room or were taken back, oldest first: a device may still be at them, and to the network a block is
    /// a block. On the tip of the newest, or of an upstream that was left and still listens.
    over: Vec<Over>,
}

/// What is left of a job that is over.
#[derive(Debug)]
struct Over {
    id: u64,
    live: bool,
    work: Arc<Work>,
}

impl Over {
    fn new(job: V1Job) -> Self {
        let V1Job { id, live, work, .. } = job;
        Self { id, live, work }
    }

    /// Whether a block of it would be worth something beside this newest job.
    fn counts(&self, newest: &Work) -> bool {
        let left = self.work.via != newest.via;
        self.work.tip.prev_hash == newest.tip.prev_hash || left && self.live
    }
}

impl Jobs {
    /// Adds the newest; it may replace all others.
    pub(super) fn push(&mut self, job: V1Job, replace: bool) {
        let length = self.jobs.len();
        let end = if replace { length } else { (length + 1).saturating_sub(MAX_JOBS) };
        self.over.retain(|over| over.counts(&job.work));
        let over = self.jobs.drain(..end).map(Over::new).filter(|over| over.counts(&job.work));
        keep_over(&mut self.over, over);
        self.jobs.push(job);
    }

    /// The jobs of a channel that was left for that of these are over.
    pub(super) fn inherit(&mut self, left: Self) {
        let Some(newest) = self.newest().map(|job| job.work.clone()) else { return };
        let left = left.over.into_iter().chain(left.jobs.into_iter().map(Over::new));
        keep_over(&mut self.over, left.filter(|over| over.counts(&newest)));
    }

    pub(super) fn get(&self, id: u64) -> Option<&V1Job> {
        self.jobs.iter().rev().find(|job| job.id == id)
    }

    /// One that is over, on which nothing but blocks counts.
    pub(super) fn get_over(&self, id: u64) -> Option<V1Job> {
        let Over { live, work, .. } = self.over.iter().rev().find(|job| job.id == id)?;
        let (announced, ntime) = (work.target, work.min_ntime);
        Some(V1Job { id, work: work.clone(), announced, ntime, live: *live })
    }

    pub(super) fn newest(&self) -> Option<&V1Job> {
        self.jobs.last()
    }

    /// The channel on this connection is gone.
    pub(super) fn orphan(&mut self, via: PeerId) {
        let jobs = self.jobs.iter_mut().map(|job| (&job.work, &mut job.live));
        let over = self.over.iter_mut().map(|job| (&job.work, &mut job.live));
        for (_, live) in jobs.chain(over).filter(|(work, _)| work.via == via) {
            *live = false;
        }
    }

    #[cfg(test)]
    pub(super) fn newest_mut(&mut self) -> &mut V1Job {
        self.jobs.last_mut().expect("a job")
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.jobs.len(), self.over.len())
    }
}

fn keep_over(all: &mut Vec<Over>, more: impl Iterator<Item = Over>) {
    for over in more {
        if all.len() == MAX_OVER {
            all.remove(0);
        }
        all.push(over);
    }
}

/// The jobs of one miner.
#[derive(Debug, Default)]
pub(super) struct V1Jobs {
    pub(super) jobs: Jobs,
    /// All headers accepted on this tip, whatever their job: a job that comes again under a new id pays none twice.
    seen: SeenShares,
    seen_on: [u8; 32],
}

impl V1Jobs {
    /// Adds the newest; it may replace all others.
    pub(super) fn push(&mut self, job: V1Job, replace: bool) {
        self.seen_from(&job.work.tip.prev_hash);
        self.jobs.push(job, replace);
    }

    pub(super) fn newest(&self) -> Option<&V1Job> {
        self.jobs.newest()
    }

    #[cfg(test)]
    pub(super) fn newest_mut(&mut self) -> &mut V1Job {
        self.jobs.newest_mut()
    }

    /// The channel on this connection is gone.
    pub(super) fn orphan(&mut self, via: PeerId) {
        self.jobs.orphan(via);
    }

    /// Remembers a share that is accepted on this tip.
    pub(super) fn see(&mut self, hash: &BlockHash, prev_hash: &[u8; 32]) -> Seen {
        self.seen_from(prev_hash);
        self.seen.insert(hash, MAX_SHARES)
    }

    fn seen_from(&mut self, prev_hash: &[u8; 32]) {
        if *prev_hash != self.seen_on {
            // The first shares allocate: most connections of a large farm find few on one tip.
            self.seen = SeenShares::default();
            self.seen_on = *prev_hash;
        }
    }
}

/// The text of a job id: process-wide unique, so that no proxy or firmware takes a job for another.
pub(super) fn job_id_text(id: u64) -> String {
    format!("{id:016x}")
}

/// Reads a job id as [`job_id_text`] writes it.
pub(super) fn parse_job_id(text: &str) -> Option<u64> {
    let digits = text.len() <= 16 && !text.starts_with('+');
    u64::from_str_radix(text, 16).ok().filter(|_| digits)
}

/// Appends the `mining.notify` of a job. `own` are the bytes of the extranonce that are the miner's: its `extranonce1`
/// and `extranonce2`. The upstream's prefix is hidden in `coinb1`, and what it granted beyond them, all zero, in `coinb2`.
pub(super) fn write_notify(line: &mut Vec<u8>, job: &V1Job, version: u32, own: usize, clean: bool) {
    let work = &*job.work;
    let Some(coinbase) = work.job.coinbase() else { return };
    let beyond = coinbase.full_extranonce_size().saturating_sub(work.prefix.len() + own);
    write::notify(
        line,
        &Notify {
            job_id: &job_id_text(job.id),
            prev_hash: &work.tip.prev_hash,
            coinb1: coinbase.prefix(),
            extranonce_prefix: &work.prefix,
            extranonce_suffix: &[0; MAX_GRANTED][..beyond.min(MAX_GRANTED)],
            coinb2: coinbase.suffix(),
            merkle_path: work.job.merkle_path(),
            version,
            nbits: work.tip.nbits,
            ntime: job.ntime,
            clean_jobs: clean,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_are_read_as_they_are_written() {
        for id in [0, 1, 0x1234_5678_9abc, u64::MAX] {
            let text = job_id_text(id);
            assert_eq!((text.len(), parse_job_id(&text)), (16, Some(id)));
        }
        for text in ["", "x", "+1", "00000000000000001", " 1"] {
            assert_eq!(parse_job_id(text), None, "{text}");
        }
    }
}
