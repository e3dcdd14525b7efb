//! A channel upstream: what the upstream says about the work of one miner.
//!
//! Not `adit_mining::ClientChannel`, which keeps a copy of every job for itself and judges by the upstream's target
//! alone: here one job is shared by all miners that are sent it, and a share is judged by what its miner was told.

use std::sync::Arc;
use std::time::Instant;

use adit_mining::{Extranonce, Job, Target, Tip};
use adit_sv2::messages::mining::OpenExtendedMiningChannelSuccess;
use adit_transport::PeerId;

use super::window::Window;

/// Future jobs that are kept for a channel or a group; the oldest makes room. Against upstreams that send no
/// `SetNewPrevHash`.
const MAX_FUTURE_JOBS: usize = 16;

/// Longest extranonce, prefix included: two `B0_32`.
const MAX_FULL_EXTRANONCE: usize = 64;

/// The upstream contradicts itself or the spec: what it says cannot be used. The text is log line and metric label.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Violation(pub(super) &'static str);

/// Work of an upstream for one miner.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// The connection that it came by: shares of it go there.
    pub(super) via: PeerId,
    /// The upstream's id of the job on the channel.
    pub(super) job_id: u32,
    pub(super) job: Arc<Job>,
    pub(super) tip: Arc<Tip>,
    /// The prefix that was in force when the job was sent (spec 5.3.10).
    pub(super) prefix: Extranonce,
    /// What the upstream judges this job by (spec 5.3.21).
    pub(super) target: Target,
    /// Unix seconds.
    pub(super) min_ntime: u32,
    /// When the job became active here.
    pub(super) since: Instant,
    /// Whether the upstream and the job allow version rolling.
    pub(super) version_rolling: bool,
}

impl Work {
    /// Seconds that the job has been active: so far nTime may be ahead of `min_ntime` by the spec (5.3.11).
    pub(super) fn age(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.since).as_secs().try_into().unwrap_or(u32::MAX)
    }
}

/// A job that waits for its previous hash.
#[derive(Clone, Debug)]
pub(super) struct FutureJob {
    pub(super) id: u32,
    pub(super) job: Arc<Job>,
    /// In a channel, the prefix that was in force. In a group, none: each member's own.
    pub(super) prefix: Option<Extranonce>,
}

/// Adds a job that waits for its previous hash.
pub(super) fn keep_future(futures: &mut Vec<FutureJob>, future: FutureJob) {
    futures.retain(|known| known.id != future.id);
    if futures.len() == MAX_FUTURE_JOBS {
        futures.remove(0);
    }
    futures.push(future);
}

/// A channel that is open.
#[derive(Debug)]
pub(super) struct Channel {
    /// The connection that it is on.
    pub(super) via: PeerId,
    pub(super) id: u32,
    pub(super) group: u32,
    /// The upstream allows no version rolling.
    fixed_version: bool,
    /// For jobs to come.
    pub(super) prefix: Extranonce,
    /// Bytes behind the prefix that were granted.
    pub(super) size: usize,
    /// For jobs to come and future jobs.
    pub(super) target: Target,
    tip: Option<Arc<Tip>>,
    futures: Vec<FutureJob>,
    /// Whose shares were sent on it.
    pub(super) window: Window,
    /// Shares sent and neither accepted nor rejected yet.
    pub(super) unacknowledged: u64,
}

impl Channel {
    /// One that was opened, with memory for so many shares.
    pub(super) fn new(
        opened: &OpenExtendedMiningChannelSuccess<'_>,
        via: PeerId,
        fixed_version: bool,
        shares: usize,
        now: Instant,
    ) -> Result<Self, Violation> {
        let prefix = Extranonce::from(opened.extranonce_prefix);
        let size = usize::from(opened.extranonce_size);
        if prefix.len() + size > MAX_FULL_EXTRANONCE || size > 32 {
            return Err(Violation("extranonce-too-long"));
        }
        Ok(Self {
            via,
            id: opened.channel_id,
            group: opened.group_channel_id,
            fixed_version,
            prefix,
            size,
            target: nonzero(opened.target)?,
            tip: None,
            futures: Vec::new(),
            window: Window::new(shares, now),
            unacknowledged: 0,
        })
    }

    /// Bytes of the whole extranonce.
    pub(super) fn full_size(&self) -> usize {
        self.prefix.len() + self.size
    }

    /// Whether there was a `SetNewPrevHash` yet.
    pub(super) fn has_tip(&self) -> bool {
        self.tip.is_some()
    }

    /// A job for later.
    pub(super) fn future_job(&mut self, id: u32, job: Arc<Job>) {
        let prefix = Some(self.prefix);
        keep_future(&mut self.futures, FutureJob { id, job, prefix });
    }

    /// A job for now.
    pub(super) fn active_job(
        &self,
        id: u32,
        job: Arc<Job>,
        min_ntime: u32,
        now: Instant,
    ) -> Result<Work, Violation> {
        let tip = self.tip.clone().ok_or(Violation("job-without-prevhash"))?;
        self.work(FutureJob { id, job, prefix: None }, tip, min_ntime, now)
    }

    /// A new tip: the work on it. `of_group` are the future jobs that were sent to the channel's group.
    pub(super) fn new_prev_hash(
        &mut self,
        job_id: u32,
        of_group: &[FutureJob],
        tip: Arc<Tip>,
        now: Instant,
    ) -> Result<Work, Violation> {
        let mut known = self.futures.iter().chain(of_group);
        let future = known.find(|future| future.id == job_id).cloned();
        let future = future.ok_or(Violation("prevhash-for-unknown-job"))?;
        self.futures.clear();
        self.tip = Some(tip.clone());
        let min_ntime = tip.min_ntime;
        self.work(future, tip, min_ntime, now)
    }

    pub(super) fn set_target(&mut self, target: [u8; 32]) -> Result<(), Violation> {
        self.target = nonzero(target)?;
        Ok(())
    }

    /// A new prefix, for jobs sent from now on. Those that were sent to the group so far keep the old one.
    pub(super) fn set_prefix(
        &mut self,
        prefix: Extranonce,
        of_group: &[FutureJob],
    ) -> Result<(), Violation> {
        if prefix.len() != self.prefix.len() {
            return Err(Violation("prefix-of-another-length"));
        }
        self.adopt(of_group);
        self.prefix = prefix;
        Ok(())
    }

    /// Another group from now on; what was sent to the old one still counts.
    pub(super) fn set_group(&mut self, group: u32, of_old_group: &[FutureJob]) {
        self.adopt(of_old_group);
        self.group = group;
    }

    fn adopt(&mut self, of_group: &[FutureJob]) {
        for future in of_group {
            let prefix = Some(self.prefix);
            keep_future(&mut self.futures, FutureJob { prefix, ..future.clone() });
        }
    }

    fn work(
        &self,
        future: FutureJob,
        tip: Arc<Tip>,
        min_ntime: u32,
        now: Instant,
    ) -> Result<Work, Violation> {
        let FutureJob { id, job, prefix } = future;
        let fits = |size| size == self.full_size();
        if !job.coinbase().is_some_and(|coinbase| fits(coinbase.full_extranonce_size())) {
            return Err(Violation("job-for-another-extranonce-size"));
        }
        let prefix = prefix.unwrap_or(self.prefix);
        let version_rolling = job.version_rolling_allowed() && !self.fixed_version;
        Ok(Work {
            via: self.via,
            job_id: id,
            job,
            tip,
            prefix,
            target: self.target,
            min_ntime,
            since: now,
            version_rolling,
        })
    }
}

fn nonzero(target: [u8; 32]) -> Result<Target, Violation> {
    if target == [0; 32] {
        return Err(Violation("target-of-zero"));
    }
    Ok(Target::from_le_bytes(target))
}
