//! The jobs of one channel, and the share check.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use adit_sv2::codec::{B032, B064K};
use adit_sv2::messages::job_declaration::PushSolution;
use adit_sv2::messages::template_distribution::SubmitSolution;

use crate::custom::Portion;
use crate::extranonce::Extranonce;
use crate::header::{BlockHash, Header};
use crate::job::{Job, VERSION_ROLLING_MASK};
use crate::share::{AcceptedShare, RejectedShare, Seen, SeenShares, Share, ShareError};
use crate::target::Target;
use crate::template::Tip;

/// Jobs that a channel keeps live at once; the oldest active one makes room, but never the newest that the server gave.
/// At a template every 30 seconds a share may be 8 minutes late. Memory per channel is bounded by it.
pub const MAX_LIVE_JOBS: usize = 16;

/// Ids of dead jobs that are kept, to tell a late share from nonsense.
const MAX_STALE_IDS: usize = 16;

/// Live jobs, oldest first, and the ids of dead ones.
///
/// Ids are looked up by a scan over at most 16 adjacent words, one cache line: they come from a
/// counter that many channels share or, at a client, from somebody else, so no bits of theirs could
/// be a slot; and the order of arrival decides which job makes room, never a collision.
#[derive(Debug, Default)]
pub(crate) struct JobTable {
    ids: Vec<u32>,
    slots: Vec<Slot>,
    stale: Vec<u32>,
    seen: Vec<SharedSet>,
    spent: SpentJobs,
    /// Whether custom jobs may come: which of their tips still count, only the caller knows then.
    custom: bool,
    /// Shares that the last finished job saw: room for the next.
    expected_shares: usize,
}

/// A live job on this channel.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) job: Arc<Job>,
    /// The prefix that was in force when the job was sent (spec 5.3.10).
    pub(crate) extranonce_prefix: Extranonce,
    /// Known where nothing below it is rolled.
    pub(crate) merkle_root: Option<[u8; 32]>,
    /// None while the job waits for its tip.
    pub(crate) active: Option<Active>,
    /// Index into `JobTable::seen`.
    seen: usize,
}

/// What a job got when it became active.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) tip: Arc<Tip>,
    pub(crate) min_ntime: u32,
    pub(crate) target: Target,
    /// Expected hashes of `target`.
    pub(crate) work: u128,
    /// None for a job that the server gave; what of a custom job is paid.
    pub(crate) custom: Option<Portion>,
}

impl Active {
    #[inline]
    fn credit(&self, work: u128) -> u128 {
        self.custom.map_or(work, |portion| portion.of(work))
    }
}

/// One set per header space, since a template that is sent again, or a job under a second id, must
/// not pay the same header twice.
#[derive(Debug, Default)]
struct SharedSet {
    users: usize,
    set: SeenShares,
}

/// Jobs with shares that are dead: were one to come again on its tip as a custom job, all its shares would be paid again.
/// It is the client who sends those, so nothing else keeps it from doing so.
#[derive(Debug, Default)]
struct SpentJobs(Vec<(u64, u64)>);

/// Jobs with shares that may die on one tip; further custom ones are refused then. 16 bytes each.
const MAX_SPENT_JOBS: usize = 1_024;

/// The same on all tips that still count, of which a client may claim some that will never be.
const MAX_SPENT_JOBS_IN_ALL: usize = 4 * MAX_SPENT_JOBS;

impl SpentJobs {
    fn admit(&self, tip: &Tip, job: &Job) -> Result<(), JobTableError> {
        let tip = digest(&tip.prev_hash);
        let job = digest(&job.header_space());
        if self.0.contains(&(tip, job)) {
            return Err(JobTableError::Repeated);
        }
        let on_tip = self.0.iter().filter(|(other, _)| *other == tip).count();
        if on_tip >= MAX_SPENT_JOBS || self.0.len() >= MAX_SPENT_JOBS_IN_ALL {
            return Err(JobTableError::TooManyJobs);
        }
        Ok(())
    }

    /// Forgets jobs of all tips but these.
    fn keep(&mut self, counts: impl Fn(u64) -> bool) {
        self.0.retain(|(tip, _)| counts(*tip));
    }

    fn add(&mut self, tip: &Tip, job: &Job) {
        // Never by custom jobs, but for those that are live now: see `admit`.
        if self.0.len() >= MAX_SPENT_JOBS_IN_ALL + MAX_LIVE_JOBS {
            self.0.remove(0);
        }
        self.0.push((digest(&tip.prev_hash), digest(&job.header_space())));
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A job cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobTableError {
    /// Spec 5.3.15: no id of a live job may be used again.
    #[error("job id {0} is that of a live job")]
    IdInUse(u32),
    /// No such future job was sent, or it had to make room.
    #[error("no future job {0}")]
    UnknownFutureJob(u32),
    /// An active job needs a previous hash that was sent before.
    #[error("no previous hash was sent for this job")]
    NoPrevHash,
    /// The job's coinbase has no hole for this channel's extranonce.
    #[error("the job is not made for this channel's extranonce size")]
    ExtranonceSize,
    /// A custom job whose shares are paid already and can no longer be told from new ones.
    #[error("the same custom job had its time on this tip")]
    Repeated,
    /// So many custom jobs on one tip that repetitions could no longer be told.
    #[error("too many custom jobs on one tip")]
    TooManyJobs,
}

impl JobTable {
    /// Adds a job.
    pub(crate) fn insert(
        &mut self,
        id: u32,
        job: Arc<Job>,
        extranonce_prefix: Extranonce,
        merkle_root: Option<[u8; 32]>,
        active: Option<Active>,
    ) -> Result<(), JobTableError> {
        if self.ids.contains(&id) {
            return Err(JobTableError::IdInUse(id));
        }
        if let Some(Active { tip, custom: Some(_), .. }) = &active {
            self.admit_custom(&job, tip)?;
            self.custom = true;
        }
        // By the root as well: a client may get one job as a standard and again as an extended one.
        let same = self.slots.iter().find(|slot| {
            slot.job.has_same_headers(&job)
                || merkle_root.is_some() && slot.merkle_root == merkle_root
        });
        let same = same.map(|slot| slot.seen);
        // Used before room is made, which may be by the end of that very job.
        let seen = same.unwrap_or_else(|| self.free_set());
        self.seen[seen].users += 1;
        if self.ids.len() == MAX_LIVE_JOBS {
            self.retire(self.makes_room());
        }
        self.stale.retain(|stale| *stale != id);
        self.ids.push(id);
        self.slots.push(Slot { job, extranonce_prefix, merkle_root, active, seen });
        Ok(())
    }

    /// The job that makes room for another one: the oldest active one, since one that waits for its tip has its best time
    /// before it. Never the newest of the server's own, which the server may send again: by as many custom jobs its
    /// client could have its shares forgotten, and be paid for them once more.
    fn makes_room(&self) -> usize {
        let newest = self.newest_given_at();
        let oldest = |active: bool| {
            let fits = |(at, slot): (usize, &Slot)| {
                Some(at) != newest && (slot.active.is_some() || !active)
            };
            self.slots.iter().enumerate().position(fits)
        };
        oldest(true).or_else(|| oldest(false)).unwrap_or(0)
    }

    /// Whether a custom job may come: it was not here before, or still is.
    pub(crate) fn admit_custom(&self, job: &Job, tip: &Tip) -> Result<(), JobTableError> {
        if self.is_live(job, tip) { Ok(()) } else { self.spent.admit(tip, job) }
    }

    /// Whether the same headers are worked on: what was paid of them is remembered.
    fn is_live(&self, job: &Job, tip: &Tip) -> bool {
        self.slots.iter().any(|slot| {
            let active = slot.active.as_ref();
            active.is_some_and(|active| active.tip.prev_hash == tip.prev_hash)
                && slot.job.has_same_headers(job)
        })
    }

    /// A new tip: `id`, a future job, becomes active; every other job dies, but for custom jobs of
    /// a client that knew this tip before us.
    pub(crate) fn activate(&mut self, id: u32, active: Active) -> Result<(), JobTableError> {
        let future = |at: &usize| self.slots[*at].active.is_none();
        let Some(at) = self.position(id).filter(future) else {
            return Err(JobTableError::UnknownFutureJob(id));
        };
        let prev_hash = active.tip.prev_hash;
        let before = self.newest_active().and_then(|(_, slot)| slot.active.as_ref());
        let before = before.map(|before| before.tip.prev_hash);
        self.slots[at].active = Some(active);
        self.retain(|other, slot| {
            let ahead = |a: &Active| a.custom.is_some() && a.tip.prev_hash == prev_hash;
            other == id || slot.active.as_ref().is_some_and(ahead)
        });
        // With custom jobs the newest may be on a tip that only its client has heard of.
        if let Some(before) = before.filter(|before| *before != prev_hash && !self.custom) {
            let tips = [digest(&prev_hash), digest(&before)];
            self.spent.keep(|tip| tips.contains(&tip));
        }
        // Room was made when the job came, and the job before it was not finished then.
        if let Some(slot) = self.position(id).map(|at| &self.slots[at])
            && self.seen[slot.seen].set.is_empty()
        {
            self.seen[slot.seen].set.reset(self.expected_shares);
        }
        Ok(())
    }

    /// Custom jobs may come, and be copies of jobs that were here before.
    pub(crate) fn expect_custom(&mut self) {
        self.custom = true;
    }

    /// No custom job will be taken on any tip but these: what was paid on others need not be known any more.
    pub(crate) fn forget_other_tips<'h>(&mut self, tips: impl Iterator<Item = &'h [u8; 32]>) {
        let tips: Vec<u64> = tips.map(digest).collect();
        self.spent.keep(|tip| tips.contains(&tip));
    }

    /// Every job dies of which `keep` says no.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32, &Slot) -> bool) {
        let dead =
            |table: &Self| (0..table.ids.len()).find(|at| !keep(table.ids[*at], &table.slots[*at]));
        while let Some(at) = dead(self) {
            self.retire(at);
        }
    }

    /// Every job dies.
    pub(crate) fn clear(&mut self) {
        self.retain(|_, _| false);
    }

    /// Whether a live job, waiting or active, has or was sent with this prefix.
    pub(crate) fn uses_prefix(&self, prefix: &Extranonce) -> bool {
        self.slots.iter().any(|slot| slot.extranonce_prefix == *prefix)
    }

    /// Whether a live job is so.
    pub(crate) fn any(&self, is: impl FnMut(&Slot) -> bool) -> bool {
        self.slots.iter().any(is)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Slot> {
        self.position(id).map(|at| &self.slots[at])
    }

    /// The newest active job and its id.
    pub(crate) fn newest_active(&self) -> Option<(u32, &Slot)> {
        let at = self.slots.iter().rposition(|slot| slot.active.is_some())?;
        Some((self.ids[at], &self.slots[at]))
    }

    /// The newest active job that is not a custom one, and its id.
    pub(crate) fn newest_given(&self) -> Option<(u32, &Slot)> {
        let at = self.newest_given_at()?;
        Some((self.ids[at], &self.slots[at]))
    }

    fn newest_given_at(&self) -> Option<usize> {
        let given = |slot: &Slot| slot.active.as_ref().is_some_and(|a| a.custom.is_none());
        self.slots.iter().rposition(given)
    }

    /// Checks a share: cheap questions first. Allocates only when the set of seen shares grows.
    ///
    /// Duplicates are told by the hash itself and so asked for last: only shares that meet the
    /// target are remembered, and whoever floods could as well send new bad ones.
    #[inline]
    pub(crate) fn check(
        &mut self,
        share: &Share<'_>,
        extranonce_size: usize,
        max_ntime: u32,
        max_shares: usize,
    ) -> Result<AcceptedShare, RejectedShare> {
        let Some(at) = self.position(share.job_id) else {
            let known = self.stale.contains(&share.job_id);
            return Err(
                if known { ShareError::StaleShare } else { ShareError::InvalidJobId }.into()
            );
        };
        let slot = &self.slots[at];
        let Some(active) = &slot.active else { return Err(ShareError::InvalidJobId.into()) };
        if share.extranonce.len() != extranonce_size {
            return Err(ShareError::BadExtranonceSize.into());
        }
        let broken = broken_rule(share, &slot.job, active.min_ntime, max_ntime);
        let Some(header) = slot.header(active, share) else {
            return Err(ShareError::BadExtranonceSize.into());
        };
        let hash = header.hash();
        let is_block = active.tip.network_target.is_met_by(&hash);
        let seen = &mut self.seen[slot.seen].set;
        if let Some(error) = broken {
            // Hashed all the same: the network does not know our rules, and a block is a block.
            let block = is_block && seen.insert(&hash, max_shares) == Seen::New;
            return Err(RejectedShare { error, block: block.then_some(hash) });
        }
        // A target harder than the network's (regtest): what is only a block is paid as a block.
        let work = match active.target.is_met_by(&hash) {
            true => active.work,
            false if is_block => active.work.min(active.tip.network_work),
            false => return Err(ShareError::DifficultyTooLow.into()),
        };
        match seen.insert(&hash, max_shares) {
            Seen::New => Ok(AcceptedShare { hash, work, credit: active.credit(work), is_block }),
            Seen::Before => Err(ShareError::DuplicateShare.into()),
            Seen::Full => Err(RejectedShare {
                error: ShareError::TooManyShares,
                block: is_block.then_some(hash),
            }),
        }
    }

    /// The hash of a share that is a block on a live job, whatever else is wrong with it.
    pub(crate) fn block_of(&self, share: &Share<'_>, extranonce_size: usize) -> Option<BlockHash> {
        let slot = self.get(share.job_id)?;
        let active = slot.active.as_ref()?;
        if share.extranonce.len() != extranonce_size {
            return None;
        }
        let hash = slot.header(active, share)?.hash();
        active.tip.network_target.is_met_by(&hash).then_some(hash)
    }

    /// What a template provider needs of a share on a live job.
    pub(crate) fn solution(&self, share: &Share<'_>) -> Option<Solution> {
        let slot = self.get(share.job_id)?;
        let header = slot.header(slot.active.as_ref()?, share)?;
        let coinbase = slot.job.coinbase()?;
        Some(Solution {
            template_id: slot.job.template_id(),
            header,
            hash: header.hash(),
            coinbase_tx: coinbase.full(&slot.extranonce_prefix, share.extranonce)?,
            extranonce: [slot.extranonce_prefix.as_bytes(), share.extranonce].concat(),
        })
    }

    #[inline]
    fn position(&self, id: u32) -> Option<usize> {
        self.ids.iter().position(|live| *live == id)
    }

    fn retire(&mut self, at: usize) {
        let id = self.ids.remove(at);
        let slot = self.slots.remove(at);
        if self.stale.len() == MAX_STALE_IDS {
            self.stale.remove(0);
        }
        self.stale.push(id);
        let seen = &mut self.seen[slot.seen];
        seen.users -= 1;
        let (shares, last) = (seen.set.len(), seen.users == 0);
        let Some(active) = &slot.active else { return };
        if last {
            self.expected_shares = shares;
        }
        // The server's own jobs as well: a client could bring a copy of one.
        if shares > 0 && !self.is_live(&slot.job, &active.tip) {
            self.spent.add(&active.tip, &slot.job);
        }
    }

    /// A set that no job uses, emptied, with room for as many shares as the last job saw.
    fn free_set(&mut self) -> usize {
        let newest = self.newest_active().map_or(0, |(_, slot)| self.seen[slot.seen].set.len());
        let expected = self.expected_shares.max(newest);
        let free = self.seen.iter().position(|shared| shared.users == 0);
        let at = free.unwrap_or_else(|| {
            self.seen.push(SharedSet::default());
            self.seen.len() - 1
        });
        self.seen[at].set.reset(expected);
        at
    }
}

impl Slot {
    /// `None` where the extranonce has the wrong length.
    #[inline]
    fn header(&self, active: &Active, share: &Share<'_>) -> Option<Header> {
        let root = match self.merkle_root {
            Some(root) => root,
            None => self.job.merkle_root(&self.extranonce_prefix, share.extranonce)?,
        };
        Some(Job::header(&active.tip, root, share.version, share.ntime, share.nonce))
    }
}

/// The rule of ours that a share breaks, though it may still be a block.
#[inline]
fn broken_rule(share: &Share<'_>, job: &Job, min_ntime: u32, max_ntime: u32) -> Option<ShareError> {
    let changed = share.version ^ job.version();
    if share.ntime < min_ntime {
        Some(ShareError::NtimeTooOld)
    } else if share.ntime > max_ntime {
        Some(ShareError::NtimeTooNew)
    } else if changed != 0 && !job.version_rolling_allowed() {
        Some(ShareError::VersionRollingNotAllowed)
    } else if changed & !VERSION_ROLLING_MASK != 0 {
        Some(ShareError::InvalidVersionBit)
    } else {
        None
    }
}

impl From<ShareError> for RejectedShare {
    fn from(error: ShareError) -> Self {
        Self { error, block: None }
    }
}

/// A share as a block: header and coinbase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// The template, unless the job was a custom one.
    pub template_id: Option<u64>,
    /// The block header.
    pub header: Header,
    /// Its hash.
    pub hash: BlockHash,
    /// The whole coinbase transaction, BIP141 fields included.
    pub coinbase_tx: Vec<u8>,
    /// The full extranonce, the server's prefix included.
    pub extranonce: Vec<u8>,
}

impl Solution {
    /// The message for the template provider; `None` where there is no template.
    pub fn message(&self) -> Option<SubmitSolution<'_>> {
        Some(SubmitSolution {
            template_id: self.template_id?,
            version: self.header.version,
            header_timestamp: self.header.ntime,
            header_nonce: self.header.nonce,
            coinbase_tx: B064K::new(&self.coinbase_tx).ok()?,
        })
    }

    /// The message for a Job Declarator Server (spec 6.4.9); `None` where the full extranonce has
    /// more than the 32 bytes that it can carry.
    pub fn push_solution(&self) -> Option<PushSolution<'_>> {
        Some(PushSolution {
            extranonce: B032::new(&self.extranonce).ok()?,
            prev_hash: self.header.prev_hash,
            nonce: self.header.nonce,
            ntime: self.header.ntime,
            nbits: self.header.nbits,
            version: self.header.version,
        })
    }
}

#[cfg(test)]
mod tests;
