//! From one upstream to another: when one is lost or left, and when a better one is back.
//!
//! To a miner all of this is a clean job. Shares of the work that it had are sent where the work came from until it has
//! other work, and blocks for as long as that connection stands.

use std::time::Duration;

use adit_sv2::frame::Header;
use adit_sv2::messages::mining::Mining;
use adit_transport::{Now, Outbox, PeerId};

use super::aggregate::{Aggregate, fan_out};
use super::connection::{Place, read};
use super::miner::Miner;
use super::opening::ANSWER_TIME;
use super::upstream::{Retiring, Stage, Upstream};
use super::{Effect, TranslatorEngine};
use crate::config::Channels;
use crate::metrics::Onward;

/// An upstream that takes channels and gives no work is of no use.
const WORK_TIME: Duration = Duration::from_secs(30);
/// One that refuses every channel is neither, where there is another.
const REFUSAL_TIME: Duration = Duration::from_secs(10);
/// For answers of an upstream that was left.
const RETIRING_TIME: Duration = Duration::from_secs(10);
/// For blocks on its work, once everybody has other work: devices take a moment to go over.
const LAST_BLOCKS_TIME: Duration = Duration::from_secs(5);

impl TranslatorEngine {
    pub(super) fn upstream_tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.connection_tick(Place::Active, now, out);
        if self.candidate.is_some() {
            self.connection_tick(Place::Candidate, now, out);
        }
        self.look_at_active(now, out);
        self.look_at_requests(now, out);
        self.look_at_candidate(now, out);
        self.look_at_retiring(now, out);
        self.dial(now, out);
    }

    /// Asks the driver to connect, where that is of use.
    pub(super) fn dial(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let among = match self.upstream.stage {
            Stage::Down => self.upstreams.len(),
            // Better ones, once this one works.
            Stage::Ready { .. } if self.candidate.is_none() => self.upstream.index,
            _ => 0,
        };
        if let Some(dial) = self.upstreams.dial(among, now.instant) {
            out.effect(Effect::Dial(dial));
        }
    }

    /// Everybody works for the active upstream from now on.
    pub(super) fn work_for_it(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Stage::Ready { peer } = self.upstream.stage else { return };
        let index = self.upstream.index;
        self.upstreams.is_good(index);
        let configured = self.upstreams.get(index);
        self.core.room = configured.room();
        self.core.max_ntime_ahead = configured.config.max_ntime_ahead_seconds;
        self.core.upstream = Some(peer);
        self.core.worker_names = self.upstream.worker_names;
        self.core.acks = Default::default();
        self.core.metrics.upstream(configured.config.url.host_port(), true);
        tracing::info!(upstream = %self.upstream.target, miners = self.miners.len(), "working for this upstream");
        if self.core.settings.channels == Channels::PerMiner {
            for (peer, miner) in &mut self.miners {
                self.upstream.queue(*peer, miner, now.instant);
            }
        }
        self.open_channels(now, out);
    }

    /// A connection is gone. Miners go on with what they have.
    pub(super) fn lost(
        &mut self,
        place: Place,
        reason: &str,
        at_fault: bool,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(upstream) = self.take(place, now) else { return };
        let (index, target) = (upstream.index, &upstream.target);
        if at_fault {
            self.upstreams.misbehaved(index, target, reason, now.instant);
        } else {
            self.upstreams.lost(index, target, reason, now.instant);
        }
        if place == Place::Active {
            self.core.metrics.failover(reason_label(reason, at_fault));
            self.core.metrics.onward(Onward::Unanswered, self.core.acks.outstanding());
            self.core.acks = Default::default();
            for miner in self.miners.values_mut() {
                miner.lose_channel();
            }
            self.core.orphan(upstream.stage.peer());
            // A better one is there already.
            if self.candidate.as_ref().is_some_and(Upstream::is_ready) {
                self.adopt_candidate(now, out);
            }
        }
        self.dial(now, out);
    }

    /// Leaves the active upstream without losing what is on its way.
    pub(super) fn retire(&mut self, now: Now, out: &mut Outbox<Effect>) {
        if let Some(old) = self.retiring.take() {
            out.close(old.peer, "left-for-another");
            self.end(&old);
        }
        let Some(old) = self.take(Place::Active, now) else { return };
        let Some(peer) = old.stage.peer() else { return };
        self.core.late_acks = std::mem::take(&mut self.core.acks);
        self.core.late_worker_names = self.core.worker_names;
        let (since, channels) = (now.instant, old.channels);
        self.retiring = Some(Retiring { peer, since, channels, unused: None });
        for miner in self.miners.values_mut() {
            miner.leave_channel();
        }
    }

    /// Says goodbye to every upstream: the process ends.
    pub fn close_upstreams(&mut self, out: &mut Outbox<Effect>) {
        let candidate = self.candidate.as_ref().and_then(|candidate| candidate.stage.peer());
        let retiring = self.retiring.as_ref().map(|retiring| retiring.peer);
        for peer in [self.upstream.stage.peer(), candidate, retiring].into_iter().flatten() {
            out.close(peer, "shutdown");
        }
    }

    /// What an upstream that was left still says: only what became of shares counts.
    pub(super) fn retiring_frame(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if self.retiring.as_ref().is_none_or(|retiring| retiring.peer != peer) {
            return;
        }
        match read(Mining::decode(header, payload)) {
            Ok(Some((Mining::SubmitSharesSuccess(m), _))) => self.shares_accepted(peer, &m, now),
            Ok(Some((Mining::SubmitSharesError(m), _))) => self.share_rejected(peer, &m, now, out),
            _ => {}
        }
    }

    /// An upstream that was left is gone.
    pub(super) fn end_retiring(&mut self, peer: PeerId) {
        if let Some(retiring) = self.retiring.take_if(|retiring| retiring.peer == peer) {
            self.end(&retiring);
        }
    }

    /// Where the active connection was there is none now; or where the candidate was.
    fn take(&mut self, place: Place, now: Now) -> Option<Upstream> {
        match place {
            Place::Candidate => self.candidate.take(),
            Place::Active if self.upstream.stage == Stage::Down => None,
            Place::Active => {
                let configured = self.upstreams.get(self.upstream.index);
                self.core.metrics.upstream(configured.config.url.host_port(), false);
                self.core.metrics.channels(0);
                self.core.upstream = None;
                let down = Upstream::down(self.upstream.target.clone(), now.instant);
                Some(std::mem::replace(&mut self.upstream, down))
            }
        }
    }

    fn look_at_active(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Stage::Ready { peer } = self.upstream.stage else { return };
        let since = |at| now.instant.saturating_duration_since(at);
        let limits = self.core.settings.failover;
        // Nobody waits for a word of one with nobody to work for it.
        if self.core.acks.outstanding() == 0 && !self.miners.values().any(Miner::is_introduced) {
            self.upstream.heard = now.instant;
        }
        let over = |time: Duration, limit: u64| limit > 0 && time >= Duration::from_secs(limit);
        let upstream = &self.upstream;
        let has_channels = !upstream.channels.is_empty()
            || upstream.of_all.is_some()
            || self.core.aggregate.as_ref().is_some_and(|all| all.channel.via == peer);
        let refuses = upstream.refuses_since.is_some_and(|at| since(at) >= REFUSAL_TIME);
        let reason = if has_channels && over(since(upstream.heard), limits.silence_seconds) {
            "silent"
        } else if over(self.core.acks.silence(now.instant), limits.acknowledge_seconds) {
            "no-acknowledgements"
        } else if has_channels
            && upstream.works_since.is_none()
            && since(upstream.opened) >= WORK_TIME
        {
            "no-work"
        } else if !has_channels && upstream.owes_answers(now.instant) >= ANSWER_TIME {
            "no-answer"
        } else if refuses && self.upstreams.len() > 1 {
            "refuses-channels"
        } else {
            return;
        };
        tracing::warn!(upstream = %upstream.target, reason, "upstream left");
        self.core.metrics.upstream_fault(reason);
        out.close(peer, reason);
        self.lost(Place::Active, reason, true, now, out);
    }

    fn look_at_candidate(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(candidate) = &self.candidate else { return };
        let Stage::Ready { peer } = candidate.stage else { return };
        let since = |at| now.instant.saturating_duration_since(at);
        let well = Duration::from_secs(self.core.settings.failover.return_after_seconds);
        match candidate.works_since {
            Some(at) if since(at) >= well || self.upstream.stage == Stage::Down => {
                tracing::info!(upstream = %candidate.target, "a better upstream is well again");
                self.core.metrics.failover("returned");
                self.retire(now, out);
                self.adopt_candidate(now, out);
            }
            None if since(candidate.ready) >= WORK_TIME => {
                out.close(peer, "no-work");
                self.lost(Place::Candidate, "no work", false, now, out);
            }
            _ => {}
        }
    }

    fn look_at_retiring(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(retiring) = &mut self.retiring else { return };
        let peer = retiring.peer;
        let since = |at| now.instant.saturating_duration_since(at);
        let late = since(retiring.since) >= RETIRING_TIME;
        let used = self.miners.values().any(|miner| miner.works_on_what_it_leaves())
            || self.core.aggregate.as_ref().is_some_and(|all| all.live && all.channel.via == peer);
        let ends = if used {
            late
        } else {
            let unused = *retiring.unused.get_or_insert(now.instant);
            let answered = self.core.late_acks.outstanding() == 0;
            since(unused) >= LAST_BLOCKS_TIME && (answered || late)
        };
        if ends {
            out.close(peer, "left-for-another");
            self.end_retiring(peer);
        }
    }

    /// The candidate is the active one now.
    fn adopt_candidate(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(candidate) = self.candidate.take() else { return };
        self.upstream = candidate;
        let mut looked_at = self.upstream.of_all.take();
        if self.core.settings.channels == Channels::Aggregated {
            self.upstream.of_all = looked_at.take();
        }
        if let Some(channel) = looked_at {
            self.upstream.say_closed(channel.channel.id, "was only looked at", out);
        }
        self.upstream.request_of_all = None;
        self.work_for_it(now, out);
        self.install(now, out);
    }

    /// Work of the channel of all goes to all, as soon as there is some.
    pub(super) fn install(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(mut all) = self.upstream.of_all.take_if(|all| all.has_work()) else { return };
        self.core.room = Some(all.channel.size);
        self.drop_too_large(all.channel.size, out);
        all.push_again(true, &mut self.core.last_job_id, now);
        if let Some(Aggregate { channel, jobs, .. }) = self.core.aggregate.take() {
            all.jobs.inherit(jobs);
            // What becomes of the shares on it is still to be heard, and it takes blocks.
            if self.retiring.as_ref().is_some_and(|retiring| retiring.peer == channel.via) {
                self.core.left = Some(Box::new(channel));
            }
        }
        self.core.aggregate = Some(all);
        self.core.metrics.channels(1);
        fan_out(&mut self.miners, &mut self.core, now, out);
    }

    fn end(&mut self, retiring: &Retiring) {
        let late = std::mem::take(&mut self.core.late_acks);
        self.core.metrics.onward(Onward::Unanswered, late.outstanding());
        for miner in self.miners.values_mut() {
            miner.end_leaving();
        }
        self.core.left = None;
        self.core.orphan(Some(retiring.peer));
    }
}

impl super::Core {
    /// The connection is gone: what was on it is of no use.
    fn orphan(&mut self, peer: Option<PeerId>) {
        if let (Some(all), Some(peer)) = (&mut self.aggregate, peer) {
            all.orphan(peer);
        }
    }
}

/// One of a few words for what may be any text.
fn reason_label(reason: &str, at_fault: bool) -> &'static str {
    match reason {
        "silent" => "silent",
        "no-acknowledgements" => "no-acknowledgements",
        "no-work" => "no-work",
        "no-answer" => "no-answer",
        "refuses-channels" => "refused",
        _ if reason.starts_with("refused") => "refused",
        _ if at_fault => "fault",
        _ => "lost",
    }
}
