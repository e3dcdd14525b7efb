//! A channel as the client sees it.

use std::sync::Arc;

use adit_sv2::messages::mining::{
    NewExtendedMiningJob, NewMiningJob, OpenExtendedMiningChannelSuccess,
    OpenStandardMiningChannelSuccess, SetExtranoncePrefix, SetNewPrevHash, SetTarget,
};

use super::ChannelKind;
use super::jobs::{Active, JobTable, JobTableError};
use super::server::PrefixError;
use crate::custom::{CustomJob, Portion};
use crate::extranonce::{Extranonce, MAX_EXTRANONCE_LEN};
use crate::job::{Job, JobError};
use crate::share::{AcceptedShare, RejectedShare, Share};
use crate::target::Target;
use crate::template::Tip;

/// Accepted shares per job that a client remembers.
const MAX_SHARES_PER_JOB: usize = 1 << 20;

pub(super) mod connection;

/// One mining channel of a client: follows the server's messages, says what to work on, and judges
/// own shares as the server will.
#[derive(Debug)]
pub struct ClientChannel {
    id: u32,
    group_channel_id: u32,
    kind: ChannelKind,
    extranonce_prefix: Extranonce,
    extranonce_size: usize,
    target: Target,
    /// Expected hashes of `target`.
    work: u128,
    tip: Option<Arc<Tip>>,
    jobs: JobTable,
    next_sequence_number: u32,
}

/// What a job means to the miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobNews {
    /// Keep it; it waits for a `SetNewPrevHash`.
    Future,
    /// Work on it now.
    Active,
}

/// What to work on.
#[derive(Clone, Copy, Debug)]
pub struct ActiveWork<'a> {
    /// The server's id of the job.
    pub job_id: u32,
    /// The job.
    pub job: &'a Arc<Job>,
    /// The prefix that belongs to it.
    pub extranonce_prefix: &'a Extranonce,
    /// The merkle root, where the client rolls nothing below it.
    pub merkle_root: Option<[u8; 32]>,
    /// What it builds on.
    pub tip: &'a Arc<Tip>,
    /// Smallest nTime, unix seconds.
    pub min_ntime: u32,
    /// Share target that the server judges this job by.
    pub target: Target,
}

/// What a message changed for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A job came.
    Job(JobNews),
    /// There is a new tip, and a job on it to work on now.
    Tip,
    /// A target for jobs to come and those that wait.
    Target,
    /// A prefix for jobs to come.
    Prefix,
    /// It belongs to another group.
    Group,
    /// It is gone.
    Closed,
}

/// The server contradicts itself or the spec: its work cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A job cannot be taken.
    #[error(transparent)]
    Table(#[from] JobTableError),
    /// A job cannot be built.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Another length than before.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A standard job on an extended channel.
    #[error("a standard job on an extended channel")]
    StandardJob,
    /// `nBits` that are no target.
    #[error("nbits {0:08x} are no target")]
    Nbits(u32),
    /// No hash meets a target of zero.
    #[error("a share target of zero")]
    ZeroTarget,
    /// "Channel reinterpretation is not allowed" (spec 5.3.22).
    #[error("group id {0} is that of a channel")]
    GroupIsChannel(u32),
    /// More than a share can carry.
    #[error("an extranonce size of {0}, it must be at most 32")]
    ExtranonceSize(usize),
}

impl ClientChannel {
    /// A standard channel that was just opened.
    ///
    /// # Errors
    /// [`ClientError::ZeroTarget`].
    pub fn standard(opened: &OpenStandardMiningChannelSuccess<'_>) -> Result<Self, ClientError> {
        let (id, group) = (opened.channel_id, opened.group_channel_id);
        Self::new(
            id,
            group,
            ChannelKind::Standard,
            opened.extranonce_prefix.into(),
            0,
            opened.target,
        )
    }

    /// An extended channel that was just opened.
    ///
    /// # Errors
    /// [`ClientError::ZeroTarget`], [`ClientError::ExtranonceSize`].
    pub fn extended(opened: &OpenExtendedMiningChannelSuccess<'_>) -> Result<Self, ClientError> {
        let size = usize::from(opened.extranonce_size);
        if size > MAX_EXTRANONCE_LEN {
            return Err(ClientError::ExtranonceSize(size));
        }
        let (id, group) = (opened.channel_id, opened.group_channel_id);
        let prefix = opened.extranonce_prefix.into();
        Self::new(id, group, ChannelKind::Extended, prefix, size, opened.target)
    }

    /// Takes a job of a standard channel.
    ///
    /// # Errors
    /// [`ClientError`] where it does not fit the channel.
    pub fn new_mining_job(&mut self, message: &NewMiningJob) -> Result<JobNews, ClientError> {
        if self.kind == ChannelKind::Extended {
            return Err(ClientError::StandardJob);
        }
        self.insert(Arc::new(Job::from_standard(message)), message.min_ntime)
    }

    /// Takes an extended job, the channel's own or the group's. A standard channel turns it into a
    /// standard job (spec 5.2.1).
    ///
    /// # Errors
    /// [`ClientError`] where it does not fit the channel.
    pub fn new_extended_mining_job(
        &mut self,
        message: &NewExtendedMiningJob<'_>,
    ) -> Result<JobNews, ClientError> {
        let job = Job::from_extended(message, self.full_extranonce_size())?;
        self.insert(Arc::new(job), message.min_ntime)
    }

    /// Takes a job that the server acknowledged with `SetCustomMiningJob.Success` under this id: to
    /// be worked on at once, with the current target, on the tip that it names.
    ///
    /// # Errors
    /// [`ClientError`] where the fields make no job, or its id is in use.
    pub fn add_custom_job(&mut self, job_id: u32, custom: &CustomJob) -> Result<(), ClientError> {
        let job = custom.job(job_id, self.full_extranonce_size(), true)?;
        let tip = Arc::new(custom.tip().ok_or(ClientError::Nbits(custom.nbits))?);
        let active =
            Active { custom: Some(Portion::WHOLE), ..self.activation(tip, custom.min_ntime) };
        self.add(Arc::new(job), Some(active))
    }

    /// Active jobs that build on anything but this previous hash are of no use any more: for custom
    /// jobs, whose tips the server does not tell.
    pub fn retire_other_tips(&mut self, prev_hash: &[u8; 32]) {
        self.jobs.retain(|_, slot| {
            slot.active.as_ref().is_none_or(|active| active.tip.prev_hash == *prev_hash)
        });
    }

    /// Takes a new tip: its job is now the only valid one (spec 5.3.17).
    ///
    /// # Errors
    /// [`ClientError`] where the job was not sent as a future one, or there is no target; nothing
    /// changes then.
    pub fn set_new_prev_hash(&mut self, message: &SetNewPrevHash) -> Result<(), ClientError> {
        let tip = Tip::from_mining(message).ok_or(ClientError::Nbits(message.nbits))?;
        let tip = Arc::new(tip);
        let active = self.activation(tip.clone(), tip.min_ntime);
        self.jobs.activate(message.job_id, active)?;
        self.tip = Some(tip);
        Ok(())
    }

    /// Takes a new target, for jobs to come and for future jobs already sent (spec 5.3.21).
    ///
    /// # Errors
    /// [`ClientError::ZeroTarget`]; nothing changes then.
    pub fn set_target(&mut self, message: &SetTarget) -> Result<(), ClientError> {
        self.target = nonzero(message.maximum_target)?;
        self.work = self.target.expected_hashes();
        Ok(())
    }

    /// Takes a new prefix, for jobs to come (spec 5.3.10).
    ///
    /// # Errors
    /// [`ClientError::Prefix`] where the length differs; nothing changes then.
    pub fn set_extranonce_prefix(
        &mut self,
        message: &SetExtranoncePrefix<'_>,
    ) -> Result<(), ClientError> {
        let prefix = Extranonce::from(message.extranonce_prefix);
        let (old, new) = (self.extranonce_prefix.len(), prefix.len());
        if old != new {
            return Err(PrefixError { old, new }.into());
        }
        self.extranonce_prefix = prefix;
        Ok(())
    }

    /// The channel belongs to another group from now on (`SetGroupChannel`).
    pub fn set_group_channel_id(&mut self, group_channel_id: u32) {
        self.group_channel_id = group_channel_id;
    }

    /// Judges an own share as the server will, duplicates included; nTime may be up to `max_ntime`
    /// (spec 5.3.11: the tip's `min_ntime` plus the seconds since it came; a server may take more).
    ///
    /// # Errors
    /// [`RejectedShare`] with the reason.
    #[inline]
    pub fn check_share(
        &mut self,
        share: &Share<'_>,
        max_ntime: u32,
    ) -> Result<AcceptedShare, RejectedShare> {
        self.jobs.check(share, self.extranonce_size, max_ntime, MAX_SHARES_PER_JOB)
    }

    /// The sequence number for the next share.
    pub fn next_sequence_number(&mut self) -> u32 {
        let number = self.next_sequence_number;
        self.next_sequence_number = number.wrapping_add(1);
        number
    }

    /// What to work on: the newest active job.
    pub fn active(&self) -> Option<ActiveWork<'_>> {
        self.jobs.newest_active().and_then(|(job_id, _)| self.work_on(job_id))
    }

    /// A job that is active and on which shares still count.
    pub fn work_on(&self, job_id: u32) -> Option<ActiveWork<'_>> {
        let slot = self.jobs.get(job_id)?;
        let active = slot.active.as_ref()?;
        Some(ActiveWork {
            job_id,
            job: &slot.job,
            extranonce_prefix: &slot.extranonce_prefix,
            merkle_root: slot.merkle_root,
            tip: &active.tip,
            min_ntime: active.min_ntime,
            target: active.target,
        })
    }

    /// Whether a message with this channel id is for this channel: its own or its group's.
    pub fn is_addressed_by(&self, channel_id: u32) -> bool {
        channel_id == self.id || channel_id == self.group_channel_id
    }

    /// Its id on the connection.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The group it belongs to.
    pub fn group_channel_id(&self) -> u32 {
        self.group_channel_id
    }

    /// Standard or extended.
    pub fn kind(&self) -> ChannelKind {
        self.kind
    }

    /// The prefix for jobs to come.
    pub fn extranonce_prefix(&self) -> &Extranonce {
        &self.extranonce_prefix
    }

    /// Bytes that are ours to roll; 0 on a standard channel.
    pub fn extranonce_size(&self) -> usize {
        self.extranonce_size
    }

    /// Bytes of the whole extranonce.
    pub fn full_extranonce_size(&self) -> usize {
        self.extranonce_prefix.len() + self.extranonce_size
    }

    /// The target for jobs to come.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The tip of the last `SetNewPrevHash`.
    pub fn tip(&self) -> Option<&Arc<Tip>> {
        self.tip.as_ref()
    }

    fn new(
        id: u32,
        group_channel_id: u32,
        kind: ChannelKind,
        extranonce_prefix: Extranonce,
        extranonce_size: usize,
        target: [u8; 32],
    ) -> Result<Self, ClientError> {
        let target = nonzero(target)?;
        Ok(Self {
            id,
            group_channel_id,
            kind,
            extranonce_prefix,
            extranonce_size,
            target,
            work: target.expected_hashes(),
            tip: None,
            jobs: JobTable::default(),
            next_sequence_number: 0,
        })
    }

    fn insert(&mut self, job: Arc<Job>, min_ntime: Option<u32>) -> Result<JobNews, ClientError> {
        let active = match (min_ntime, &self.tip) {
            (None, _) => None,
            (Some(min_ntime), Some(tip)) => Some(self.activation(tip.clone(), min_ntime)),
            (Some(_), None) => return Err(JobTableError::NoPrevHash.into()),
        };
        let news = if active.is_some() { JobNews::Active } else { JobNews::Future };
        self.add(job, active)?;
        Ok(news)
    }

    fn add(&mut self, job: Arc<Job>, active: Option<Active>) -> Result<(), ClientError> {
        let size = job.coinbase().map(|coinbase| coinbase.full_extranonce_size());
        if size.is_some_and(|size| size != self.full_extranonce_size()) {
            return Err(JobTableError::ExtranonceSize.into());
        }
        let root = match self.kind {
            ChannelKind::Extended => None,
            ChannelKind::Standard => job.merkle_root(&self.extranonce_prefix, &[]),
        };
        Ok(self.jobs.insert(job.id(), job, self.extranonce_prefix, root, active)?)
    }

    fn activation(&self, tip: Arc<Tip>, min_ntime: u32) -> Active {
        Active { tip, min_ntime, target: self.target, work: self.work, custom: None }
    }
}

fn nonzero(target: [u8; 32]) -> Result<Target, ClientError> {
    if target == [0; 32] {
        return Err(ClientError::ZeroTarget);
    }
    Ok(Target::from_le_bytes(target))
}

#[cfg(test)]
mod tests;
