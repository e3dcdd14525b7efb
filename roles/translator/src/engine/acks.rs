//! Shares that were sent upstream and not answered yet.

use std::time::{Duration, Instant};

/// Of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledgements {
    outstanding: u64,
    /// Since when there is something outstanding and nothing was answered.
    since: Option<Instant>,
}

impl Acknowledgements {
    /// A share was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.outstanding += 1;
        self.since.get_or_insert(now);
    }

    /// So many were answered.
    pub(super) fn answered(&mut self, shares: u64, now: Instant) {
        self.outstanding = self.outstanding.saturating_sub(shares);
        self.since = (self.outstanding > 0).then_some(now);
    }

    /// So many will not be answered any more: their channel is gone.
    pub(super) fn forget(&mut self, shares: u64) {
        self.outstanding = self.outstanding.saturating_sub(shares);
        self.since = self.since.filter(|_| self.outstanding > 0);
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// How long nothing was answered while something should have been.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}
