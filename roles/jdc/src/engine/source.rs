//! Whom miners work for: an upstream with jobs of ours, its own jobs, or nobody but the network.

use std::time::Duration;

use adit_transport::{Now, Outbox};

use super::{Core, Effect};
use crate::config::{Mode, OnFailure};

/// Whom miners work for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// An upstream that takes our jobs.
    Declared(usize),
    /// The same, though it fails: there is nobody else. Blocks are submitted; shares wait.
    Kept(usize),
    /// An upstream's own jobs.
    Own(usize),
    /// The network.
    Solo,
}

impl Source {
    /// The upstream, whatever jobs are worked on for it.
    pub(super) fn upstream(self) -> Option<usize> {
        match self {
            Self::Declared(index) | Self::Kept(index) | Self::Own(index) => Some(index),
            Self::Solo => None,
        }
    }

    /// Label for logs and metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Declared(_) => "declared",
            Self::Kept(_) => "kept",
            Self::Own(_) => "pool-jobs",
            Self::Solo => "solo",
        }
    }
}

/// At the start preferred upstreams are waited for so long, and outputs before templates are asked for.
const START_GRACE: Duration = Duration::from_secs(1);

impl Core {
    /// Whether the first moments are over.
    pub(super) fn has_started(&self, now: Now) -> bool {
        self.started.is_some_and(|started| now.instant.duration_since(started) >= START_GRACE)
    }

    /// Makes the choice anew.
    pub(super) fn choose_source(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for upstream in &mut self.upstreams {
            if !upstream.is_usable() {
                upstream.well_since = None;
            } else if upstream.well_since.is_none() {
                upstream.well_since = Some(now.instant);
            }
        }
        let wanted = self.wanted_source(now);
        if wanted == self.source {
            return self.ask_for_own_jobs(now, out);
        }
        self.source_since = Some(now.instant);
        let former = std::mem::replace(&mut self.source, wanted);
        let Some(source) = wanted else { return };
        let name = source.upstream().map_or("-", |index| self.upstreams[index].name());
        let reason = former
            .and_then(Source::upstream)
            .map(|index| self.upstreams[index].why_not())
            .filter(|_| former.is_some());
        tracing::info!(
            source = source.label(),
            upstream = name,
            former = former.map_or("none", Source::label),
            reason,
            "miners work for another"
        );
        self.metrics.switched(source.label());
        if let (Some(Source::Kept(old)), Source::Declared(new)) = (former, source)
            && old == new
        {
            self.restart_claims(new, now.instant);
        }
        self.scan_now = true;
        self.tell_hash_rates(now, out);
    }

    fn wanted_source(&self, now: Now) -> Option<Source> {
        if self.settings.mode == Mode::Solo {
            return Some(Source::Solo);
        }
        let well = |index: &usize| {
            let since = self.upstreams[*index].well_since;
            since.is_some_and(|since| now.instant.duration_since(since) >= self.settings.well_after)
        };
        match self.source {
            Some(Source::Declared(index)) if self.holds(index) => {
                (0..index).find(well).map(Source::Declared).or(self.source)
            }
            Some(Source::Declared(index)) => Some(self.after_failure(index, now)),
            Some(Source::Kept(index)) if self.upstreams[index].is_usable() => {
                Some(Source::Declared(index))
            }
            Some(Source::Kept(index)) => Some(self.after_failure(index, now)),
            Some(Source::Own(index)) => match (0..self.upstreams.len()).find(well) {
                Some(better) if better <= index => Some(Source::Declared(better)),
                _ if self.gives_own_jobs(index) => self.source,
                _ => Some(self.after_failure(index, now)),
            },
            Some(Source::Solo) => {
                (0..self.upstreams.len()).find(well).map(Source::Declared).or(self.source)
            }
            None => self.first_source(now),
        }
    }

    /// At the start.
    fn first_source(&self, now: Now) -> Option<Source> {
        let over = self.has_started(now);
        let settled = |index: usize| over || self.upstreams[index].is_known_bad();
        if let Some(index) = self.first_usable().filter(|index| (0..*index).all(settled)) {
            return Some(Source::Declared(index));
        }
        let nobody = over || (0..self.upstreams.len()).all(settled);
        (nobody && self.settings.solo.is_some()).then_some(Source::Solo)
    }

    /// The upstream that is worked for takes no jobs of ours any more.
    fn after_failure(&self, index: usize, now: Now) -> Source {
        let solo = self.settings.solo.is_some();
        match self.settings.on_failure {
            OnFailure::Solo if solo => return Source::Solo,
            OnFailure::Pool if self.gives_own_jobs(index) => return Source::Own(index),
            OnFailure::Pool if self.may_give_own_jobs(index, now) => return Source::Kept(index),
            _ => {}
        }
        match self.first_usable() {
            Some(usable) => Source::Declared(usable),
            None if solo => Source::Solo,
            None => Source::Kept(index),
        }
    }

    fn first_usable(&self) -> Option<usize> {
        self.upstreams.iter().position(|upstream| upstream.is_usable())
    }

    /// Whether an upstream goes on to be worked for: a JDS that is away is not missed before there is another tip.
    fn holds(&self, index: usize) -> bool {
        let upstream = &self.upstreams[index];
        upstream.is_usable() || upstream.can_be_mined_for() && self.needs_no_declaration(index)
    }

    /// Whether what miners do for an upstream is accepted there, and for the newest tip.
    pub(super) fn needs_no_declaration(&self, index: usize) -> bool {
        let tip = self.templates.work().map(|(_, work)| work.tip().prev_hash);
        self.desk.current().is_some_and(|claim| {
            claim.key.for_whom.upstream() == Some(index)
                && claim.accepted.is_some()
                && Some(claim.tip.prev_hash) == tip
        })
    }

    fn gives_own_jobs(&self, index: usize) -> bool {
        let channel = self.upstreams[index].pool.channel.as_ref();
        channel.is_some_and(|channel| channel.own.is_some())
    }

    /// Whether its own jobs may be on their way.
    fn may_give_own_jobs(&self, index: usize, now: Now) -> bool {
        match self.source {
            Some(Source::Kept(its)) if its == index => self.in_force_for(now) < OWN_JOBS_PATIENCE,
            Some(Source::Declared(_)) => self.upstreams[index].pool.state.ready().is_some(),
            _ => false,
        }
    }

    /// Some pools give jobs of their own only to those who do not say that they bring theirs: connects anew without
    /// that, where it is wanted and nothing came.
    fn ask_for_own_jobs(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(Source::Kept(index)) = self.source else { return };
        let asks = self.settings.on_failure == OnFailure::Pool
            && self.in_force_for(now) >= OWN_JOBS_DELAY
            && !self.upstreams[index].pool.plain
            && self.may_give_own_jobs(index, now);
        let Some(peer) = self.upstreams[index].pool.state.peer().filter(|_| asks) else { return };
        self.upstreams[index].pool.plain = true;
        self.upstreams[index].stay_in_trouble(now.instant + self.settings.well_after);
        out.close(peer, "own-jobs-of-the-pool");
        self.lose_pool(index, "its own jobs are asked for");
    }

    /// For how long miners have worked for whom they work.
    fn in_force_for(&self, now: Now) -> Duration {
        self.source_since.map_or(Duration::ZERO, |since| now.instant.duration_since(since))
    }
}

/// A pool that refuses a job may give one of its own right behind. Where it does not in this time, it is asked in
/// another way, and where that is no good either it has none. Meanwhile miners go on with what they have.
const OWN_JOBS_DELAY: Duration = Duration::from_millis(200);
const OWN_JOBS_PATIENCE: Duration = Duration::from_secs(3);
