//! A channel as the server sees it.

use std::sync::Arc;

use adit_sv2::frame::encode_frame;
use adit_sv2::messages::mining::{
    NewMiningJob, OpenExtendedMiningChannelSuccess, OpenStandardMiningChannelSuccess,
    SetExtranoncePrefix, SetTarget, SubmitSharesSuccess,
};

use super::jobs::{Active, JobTable, JobTableError, Solution};
use super::{Acceptance, ChannelKind};
use crate::custom::Portion;
use crate::extranonce::Extranonce;
use crate::header::BlockHash;
use crate::job::Job;
use crate::share::{AcceptedShare, MAX_NTIME_AHEAD, RejectedShare, Share};
use crate::target::Target;
use crate::template::Tip;

/// What a channel is opened with.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// Its id on the connection.
    pub id: u32,
    /// Standard or extended.
    pub kind: ChannelKind,
    /// The whole extranonce of a standard channel, the fixed part of an extended one.
    pub extranonce_prefix: Extranonce,
    /// Bytes that the client rolls; 0 on a standard channel, and on an extended one that asked for none.
    pub extranonce_size: usize,
    /// First share target.
    pub target: Target,
    /// The easiest target that the client asked for.
    pub max_target: Target,
    /// Accepted shares per job above which further ones are refused: 8 to 16 bytes each.
    pub max_shares_per_job: usize,
}

/// One mining channel of a server: its jobs, and the judgement of its shares.
///
/// Allocation-free in the steady state: [`check_share`](Self::check_share),
/// [`credit`](Self::credit), [`take_success`](Self::take_success). The memory for telling
/// duplicates is set aside when a job comes, and grows only where it sees more than twice the shares
/// of the one before.
#[derive(Debug)]
pub struct ServerChannel {
    options: ChannelOptions,
    group_channel_id: u32,
    own_work: bool,
    /// Expected hashes of the target in `options`.
    work: u128,
    tip: Option<Arc<Tip>>,
    jobs: JobTable,
    acceptance: Acceptance,
    /// Former prefixes that jobs may still have, or that nobody asked back.
    old_prefixes: Vec<Extranonce>,
}

impl ServerChannel {
    /// A channel without work. `target` is made no easier than `max_target`.
    pub fn new(mut options: ChannelOptions) -> Self {
        options.target = options.target.min(options.max_target);
        Self {
            work: options.target.expected_hashes(),
            options,
            group_channel_id: 0,
            own_work: false,
            tip: None,
            jobs: JobTable::default(),
            acceptance: Acceptance::default(),
            old_prefixes: Vec::new(),
        }
    }

    /// Takes a job that waits for its tip. Send it as `NewMiningJob`
    /// ([`new_mining_job`](Self::new_mining_job)) or as the job's
    /// [`future_frame`](Job::future_frame).
    ///
    /// # Errors
    /// [`JobTableError::IdInUse`], [`JobTableError::ExtranonceSize`].
    pub fn add_future_job(&mut self, job_id: u32, job: Arc<Job>) -> Result<(), JobTableError> {
        self.insert(job_id, job, None)
    }

    /// Takes a job that is to be worked on at once, on the tip of the last
    /// [`set_new_prev_hash`](Self::set_new_prev_hash), with the current target.
    ///
    /// # Errors
    /// [`JobTableError::NoPrevHash`] where the client was told no, or another, previous hash;
    /// [`JobTableError::IdInUse`], [`JobTableError::ExtranonceSize`].
    pub fn add_active_job(
        &mut self,
        job_id: u32,
        job: Arc<Job>,
        tip: &Arc<Tip>,
    ) -> Result<(), JobTableError> {
        if !self.is_on(tip) {
            return Err(JobTableError::NoPrevHash);
        }
        let active = self.activation(tip.clone());
        self.insert(job_id, job, Some(active))
    }

    /// Takes a job that the client made itself (`SetCustomMiningJob`), to be worked on at once with
    /// the current target. Which `tip` is good enough, the caller has decided: it need not be the
    /// channel's own, and lives on when that becomes the same
    /// ([`set_new_prev_hash`](Self::set_new_prev_hash)) or until
    /// [`retire_other_tips`](Self::retire_other_tips).
    ///
    /// # Errors
    /// [`JobTableError::IdInUse`], [`JobTableError::ExtranonceSize`]; [`JobTableError::Repeated`] and
    /// [`JobTableError::TooManyJobs`] where shares of a job that was here before could be paid twice.
    pub fn add_custom_job(
        &mut self,
        job_id: u32,
        job: Arc<Job>,
        min_ntime: u32,
        tip: &Arc<Tip>,
        paid: Portion,
    ) -> Result<(), JobTableError> {
        let active = Active { min_ntime, custom: Some(paid), ..self.activation(tip.clone()) };
        self.insert(job_id, job, Some(active))
    }

    /// Whether [`add_custom_job`](Self::add_custom_job) would take this job under this id.
    ///
    /// # Errors
    /// As there.
    pub fn admits_custom_job(
        &self,
        job_id: u32,
        job: &Job,
        tip: &Tip,
    ) -> Result<(), JobTableError> {
        if self.jobs.get(job_id).is_some() {
            return Err(JobTableError::IdInUse(job_id));
        }
        self.fits(job)?;
        self.jobs.admit_custom(job, tip)
    }

    /// Active jobs that build on anything but this previous hash are stale from now on: for custom
    /// jobs, whose tips the channel does not follow.
    pub fn retire_other_tips(&mut self, prev_hash: &[u8; 32]) {
        self.jobs.retain(|_, slot| {
            slot.active.as_ref().is_none_or(|active| active.tip.prev_hash == *prev_hash)
        });
    }

    /// Active jobs that build on this previous hash are stale from now on: for custom jobs whose tip
    /// has had its time.
    pub fn retire_tip(&mut self, prev_hash: &[u8; 32]) {
        self.jobs.retain(|_, slot| {
            slot.active.as_ref().is_none_or(|active| active.tip.prev_hash != *prev_hash)
        });
    }

    /// As [`retire_tip`](Self::retire_tip), but the server's own jobs on it live on.
    pub fn retire_custom_jobs_on(&mut self, prev_hash: &[u8; 32]) {
        self.jobs.retain(|_, slot| {
            slot.active
                .as_ref()
                .is_none_or(|active| active.custom.is_none() || active.tip.prev_hash != *prev_hash)
        });
    }

    /// Custom jobs will be taken on these previous hashes only, or on new ones: to be called at each new tip, since what
    /// was paid on any other is remembered until then, for up to 4,096 jobs.
    pub fn forget_other_tips<'h>(&mut self, prev_hashes: impl Iterator<Item = &'h [u8; 32]>) {
        self.jobs.forget_other_tips(prev_hashes);
    }

    /// Whether there is a live custom job on this previous hash.
    pub fn has_custom_job_on(&self, prev_hash: &[u8; 32]) -> bool {
        self.jobs.any(|slot| {
            let on =
                |active: &Active| active.custom.is_some() && active.tip.prev_hash == *prev_hash;
            slot.active.as_ref().is_some_and(on)
        })
    }

    /// The newest active job once more under a new id, so that a new target counts at once; returns
    /// the `min_ntime` to send with it. Not a custom job, which only its client can send again.
    ///
    /// That is the present time, and always later than before: a miner that begins its search anew
    /// with every job would otherwise repeat all hashes that it has done, and find its shares again.
    /// Where jobs were sent again so often that this is far ahead of the clock, none is: the next
    /// one brings the target into force.
    pub fn renew_job(&mut self, job_id: u32, now_unix: u32) -> Option<u32> {
        let slot = self.jobs.newest_given().map(|(_, slot)| slot)?;
        let (job, last) = (slot.job.clone(), slot.active.as_ref()?);
        let min_ntime = renewed_at(last.min_ntime, last.tip.min_ntime, now_unix)?;
        let active = Active { min_ntime, ..self.activation(last.tip.clone()) };
        self.insert(job_id, job, Some(active)).ok()?;
        Some(min_ntime)
    }

    /// A new tip: the future job becomes active with the current target, every other job is stale,
    /// but for custom jobs that build on the same previous hash.
    ///
    /// # Errors
    /// [`JobTableError::UnknownFutureJob`]: the channel is as before, and is to be sent the job
    /// again as a future one first.
    pub fn set_new_prev_hash(&mut self, job_id: u32, tip: &Arc<Tip>) -> Result<(), JobTableError> {
        let active = self.activation(tip.clone());
        self.jobs.activate(job_id, active)?;
        self.tip = Some(tip.clone());
        Ok(())
    }

    /// There is a new tip and no work for it yet: every job is stale, custom ones included.
    pub fn stop_work(&mut self) {
        self.jobs.clear();
    }

    /// Judges a share (spec 5.3.11, 5.3.12); `now_unix` in seconds. An accepted share is not
    /// credited before [`credit`](Self::credit).
    ///
    /// # Errors
    /// [`RejectedShare`] with the reason, and with the hash where it is a block all the same.
    #[inline]
    pub fn check_share(
        &mut self,
        share: &Share<'_>,
        now_unix: u32,
    ) -> Result<AcceptedShare, RejectedShare> {
        self.jobs.check(
            share,
            self.options.extranonce_size,
            now_unix.saturating_add(MAX_NTIME_AHEAD),
            self.options.max_shares_per_job,
        )
    }

    /// The hash of a share that is not to be judged, where it is a block: it is not remembered, so
    /// that it may come again.
    pub fn block_of(&self, share: &Share<'_>) -> Option<BlockHash> {
        self.jobs.block_of(share, self.options.extranonce_size)
    }

    /// Counts an accepted share into the next acknowledgement: at once, or when it is stored.
    #[inline]
    pub fn credit(&mut self, sequence_number: u32, work: u128) {
        self.acceptance.add(sequence_number, work);
    }

    /// The acknowledgement of all credited shares since the last one.
    pub fn take_success(&mut self) -> Option<SubmitSharesSuccess> {
        self.acceptance.take(self.options.id)
    }

    /// Credited shares that are not acknowledged.
    pub fn unacknowledged(&self) -> u32 {
        self.acceptance.count()
    }

    /// Another target, made no easier than the client's maximum. It counts for jobs to come and for
    /// future jobs already sent, not for active ones (spec 5.3.21). `None` where nothing changes.
    pub fn set_target(&mut self, target: Target) -> Option<SetTarget> {
        let target = target.min(self.options.max_target);
        if target == self.options.target {
            return None;
        }
        self.options.target = target;
        self.work = target.expected_hashes();
        Some(SetTarget { channel_id: self.options.id, maximum_target: target.to_le_bytes() })
    }

    /// The client's new maximum (`UpdateChannel`); a smaller one than the target in force brings
    /// the `SetTarget` that the spec demands (5.3.7).
    pub fn set_max_target(&mut self, max_target: Target) -> Option<SetTarget> {
        self.options.max_target = max_target;
        self.set_target(self.options.target)
    }

    /// Another prefix for jobs to come; jobs that were sent keep theirs (spec 5.3.10). The former
    /// one is to be given back when [`take_unused_prefix`](Self::take_unused_prefix) says so.
    ///
    /// # Errors
    /// [`PrefixError`] where its length differs, which would change the coinbase's size.
    pub fn set_extranonce_prefix(
        &mut self,
        prefix: Extranonce,
    ) -> Result<SetExtranoncePrefix<'_>, PrefixError> {
        let (old, new) = (self.options.extranonce_prefix.len(), prefix.len());
        if old != new {
            return Err(PrefixError { old, new });
        }
        let former = std::mem::replace(&mut self.options.extranonce_prefix, prefix);
        self.old_prefixes.retain(|old| *old != prefix);
        if former != prefix && !self.old_prefixes.contains(&former) {
            self.old_prefixes.push(former);
        }
        let extranonce_prefix = self.options.extranonce_prefix.as_field();
        Ok(SetExtranoncePrefix { channel_id: self.options.id, extranonce_prefix })
    }

    /// A former prefix that no job has any more, once: to be asked for after every new tip until
    /// there is none. A job that waits for its tip keeps the prefix that it was sent with, so a
    /// former prefix may outlive a tip.
    pub fn take_unused_prefix(&mut self) -> Option<Extranonce> {
        let unused = |prefix: &Extranonce| !self.jobs.uses_prefix(prefix);
        let at = self.old_prefixes.iter().position(unused)?;
        Some(self.old_prefixes.swap_remove(at))
    }

    /// All prefixes that the channel holds, to be given back when it closes.
    pub fn prefixes(&self) -> impl Iterator<Item = &Extranonce> {
        std::iter::once(&self.options.extranonce_prefix).chain(&self.old_prefixes)
    }

    /// Appends the answer to the request that the channel was made for (spec 5.3.3 and 5.3.5). The
    /// group must be set by then.
    pub fn write_opened(&self, request_id: u32, out: &mut Vec<u8>) {
        let group_channel_id = self.group_channel_id;
        let (channel_id, target) = (self.options.id, self.options.target.to_le_bytes());
        let extranonce_prefix = self.options.extranonce_prefix.as_field();
        match self.options.kind {
            ChannelKind::Standard => encode_frame(
                &OpenStandardMiningChannelSuccess {
                    request_id,
                    channel_id,
                    target,
                    extranonce_prefix,
                    group_channel_id,
                },
                out,
            ),
            ChannelKind::Extended => encode_frame(
                &OpenExtendedMiningChannelSuccess {
                    request_id,
                    channel_id,
                    target,
                    extranonce_size: self.options.extranonce_size as u16,
                    extranonce_prefix,
                    group_channel_id,
                },
                out,
            ),
        }
    }

    /// Gives a channel its first work, or all work anew: appends the frames of a future job and of
    /// its `SetNewPrevHash`, both addressed to the channel (spec 5.3.15).
    ///
    /// # Errors
    /// As [`add_future_job`](Self::add_future_job); nothing changes then.
    pub fn start_work(
        &mut self,
        job_id: u32,
        job: Arc<Job>,
        tip: &Arc<Tip>,
        out: &mut Vec<u8>,
    ) -> Result<(), JobTableError> {
        self.add_future_job(job_id, job)?;
        self.write_job(job_id, out);
        self.set_new_prev_hash(job_id, tip)?;
        encode_frame(&tip.set_new_prev_hash(self.options.id, job_id), out);
        Ok(())
    }

    /// Appends the frame that sends a live job to this channel alone: `NewMiningJob` on a standard
    /// channel, `NewExtendedMiningJob` on an extended one. Nothing where there is no such job.
    pub fn write_job(&self, job_id: u32, out: &mut Vec<u8>) {
        if let Some(message) = self.new_mining_job(job_id) {
            encode_frame(&message, out);
        } else if let Some(slot) = self.jobs.get(job_id) {
            let min_ntime = slot.active.as_ref().map(|active| active.min_ntime);
            slot.job.write_frame_to(self.options.id, job_id, min_ntime, out);
        }
    }

    /// Whether this job was sent and waits for its tip.
    pub fn awaits(&self, job_id: u32) -> bool {
        self.jobs.get(job_id).is_some_and(|slot| slot.active.is_none())
    }

    /// Whether this job is active and shares on it count.
    pub fn works_on(&self, job_id: u32) -> bool {
        self.jobs.get(job_id).is_some_and(|slot| slot.active.is_some())
    }

    /// Whether the client was told this previous hash last.
    pub fn is_on(&self, tip: &Tip) -> bool {
        self.tip.as_ref().is_some_and(|current| current.prev_hash == tip.prev_hash)
    }

    /// The channel joins a group; 0 for none.
    pub fn set_group_channel_id(&mut self, group_channel_id: u32) {
        self.group_channel_id = group_channel_id;
    }

    /// The client may bring jobs of its own: what is paid of ours is remembered for them from the
    /// start, until [`forget_other_tips`](Self::forget_other_tips).
    pub fn expect_custom_jobs(&mut self) {
        self.jobs.expect_custom();
    }

    /// From now on the client works on jobs of its own and [`Channels`](super::Channels) gives it none
    /// of ours, or does so again.
    pub fn set_own_work(&mut self, own_work: bool) {
        self.own_work = own_work;
    }

    /// Whether the client works on jobs of its own.
    pub fn has_own_work(&self) -> bool {
        self.own_work
    }

    /// The message that sends a live job of a standard channel; `None` on an extended one.
    pub fn new_mining_job(&self, job_id: u32) -> Option<NewMiningJob> {
        if self.options.kind == ChannelKind::Extended {
            return None; // which may have a root all the same, where its client rolls nothing
        }
        let slot = self.jobs.get(job_id)?;
        Some(NewMiningJob {
            channel_id: self.options.id,
            job_id,
            min_ntime: slot.active.as_ref().map(|active| active.min_ntime),
            version: slot.job.version(),
            merkle_root: slot.merkle_root?,
        })
    }

    /// The share as a block, while its job is live.
    pub fn solution(&self, share: &Share<'_>) -> Option<Solution> {
        self.jobs.solution(share)
    }

    /// A live job, by the id that the channel knows it by.
    pub fn job(&self, job_id: u32) -> Option<&Arc<Job>> {
        self.jobs.get(job_id).map(|slot| &slot.job)
    }

    /// The newest active job, custom ones aside, its id and its tip.
    pub fn active_job(&self) -> Option<(u32, &Arc<Job>, &Arc<Tip>)> {
        let (id, slot) = self.jobs.newest_given()?;
        Some((id, &slot.job, &slot.active.as_ref()?.tip))
    }

    /// The least nTime of that job.
    pub fn active_min_ntime(&self) -> Option<u32> {
        let (_, slot) = self.jobs.newest_given()?;
        Some(slot.active.as_ref()?.min_ntime)
    }

    /// Its id on the connection.
    pub fn id(&self) -> u32 {
        self.options.id
    }

    /// The group it belongs to; 0 for none.
    pub fn group_channel_id(&self) -> u32 {
        self.group_channel_id
    }

    /// Standard or extended.
    pub fn kind(&self) -> ChannelKind {
        self.options.kind
    }

    /// The prefix for jobs to come.
    pub fn extranonce_prefix(&self) -> &Extranonce {
        &self.options.extranonce_prefix
    }

    /// Bytes that the client rolls.
    pub fn extranonce_size(&self) -> usize {
        self.options.extranonce_size
    }

    /// Bytes of the whole extranonce: which jobs fit.
    pub fn full_extranonce_size(&self) -> usize {
        self.options.extranonce_prefix.len() + self.options.extranonce_size
    }

    /// The target for jobs to come.
    pub fn target(&self) -> Target {
        self.options.target
    }

    /// The easiest target that the client takes.
    pub fn max_target(&self) -> Target {
        self.options.max_target
    }

    fn activation(&self, tip: Arc<Tip>) -> Active {
        let (target, work) = (self.options.target, self.work);
        Active { min_ntime: tip.min_ntime, tip, target, work, custom: None }
    }

    fn insert(
        &mut self,
        job_id: u32,
        job: Arc<Job>,
        active: Option<Active>,
    ) -> Result<(), JobTableError> {
        self.fits(&job)?;
        let prefix = self.options.extranonce_prefix;
        let root = match self.options.extranonce_size {
            0 => job.merkle_root(&prefix, &[]),
            _ => None,
        };
        self.jobs.insert(job_id, job, prefix, root, active)
    }

    fn fits(&self, job: &Job) -> Result<(), JobTableError> {
        let size = job.coinbase().map(|coinbase| coinbase.full_extranonce_size());
        let fits = size == Some(self.full_extranonce_size());
        if fits { Ok(()) } else { Err(JobTableError::ExtranonceSize) }
    }
}

/// From what time on a job is sent again; none where that is too far ahead of the clock. A tip may be ahead of it, too.
pub(super) fn renewed_at(last: u32, tip: u32, now_unix: u32) -> Option<u32> {
    let min_ntime = now_unix.max(last.saturating_add(1));
    let latest = now_unix.max(tip).saturating_add(MAX_RENEWAL_AHEAD);
    (min_ntime <= latest).then_some(min_ntime)
}

/// How far ahead of the clock a job that is sent again may begin, in seconds: devices do not start far in the future,
/// and what they roll on top must stay a valid block's time.
const MAX_RENEWAL_AHEAD: u32 = 60;

/// The new prefix has another length than the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an extranonce prefix of {new} bytes in place of one of {old}")]
pub struct PrefixError {
    /// Length of the prefix in force.
    pub old: usize,
    /// Length of the new one.
    pub new: usize,
}

#[cfg(test)]
mod tests;
