//! A channel of ours: the protocol's channel, whose work it is, and its difficulty.

use std::sync::Arc;
use std::time::Instant;

use adit_mining::vardiff::{TargetLimits, Vardiff, VardiffOptions};
use adit_mining::{ServerChannel, Target};
use adit_sv2::messages::mining::SetTarget;
use adit_transport::{Now, Outbox, PeerId};

use super::prefixes::Found;
use super::tally::{Tally, Workers};
use super::{Core, Effect, custom};
use crate::store::Identity;

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) server: ServerChannel,
    /// All shares of the channel, and whose it is.
    pub(super) tally: Tally,
    /// Those of its shares that name their worker.
    pub(super) workers: Workers,
    pub(super) vardiff: Vardiff,
    /// The newest job that its client brought.
    pub(super) custom: Option<Box<custom::Current>>,
    /// What the client said last, of what was followed; 0 if nothing.
    nominal_hash_rate: f64,
    /// While the client says that no miner is behind the channel: what its shares had shown until then.
    rested_at: Option<f64>,
    /// Arrival of the oldest share that is stored and not acknowledged.
    pub(super) unacknowledged_since: Option<Instant>,
}

/// A client's new hashrate is followed at once where it differs by this factor from what was followed last.
const HINT_FACTOR: f64 = 1.25;

impl Channel {
    pub(super) fn new(
        server: ServerChannel,
        identity: Arc<Identity>,
        hash_rate: f64,
        core: &Core,
        now: Now,
    ) -> Self {
        let options = VardiffOptions {
            shares_per_minute: core.settings.shares_per_minute,
            harder_than_network: core.settings.allow_above_network_difficulty,
        };
        Self {
            vardiff: Vardiff::new(options, server.target(), now.instant),
            server,
            tally: Tally::new(identity),
            workers: Workers::default(),
            custom: None,
            nominal_hash_rate: hash_rate,
            rested_at: None,
            unacknowledged_since: None,
        }
    }

    /// The estimated hashrate, hashes per second.
    pub(super) fn hash_rate(&self) -> f64 {
        // Before the first share there is but what the client said.
        if self.tally.accepted == 0 {
            return self.nominal_hash_rate.min(self.vardiff.hash_rate());
        }
        self.vardiff.hash_rate()
    }

    /// About once a second: the target that what the channel finds asks for, or the limits, where it is another one.
    pub(super) fn adjust(&mut self, core: &Core, now: Now) -> Option<Target> {
        let limits = core.target_limits(self.server.max_target());
        core.settings.vardiff.then(|| self.vardiff.poll(now.instant, &limits)).flatten()
    }

    /// The client's `UpdateChannel`, whose values are in range.
    pub(super) fn update(
        &mut self,
        peer: PeerId,
        hash_rate: f64,
        max_target: Target,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let smaller = self.server.set_max_target(max_target);
        let hinted = self.hint(hash_rate).and_then(|hash_rate| {
            let target = core.target_for(hash_rate, max_target);
            self.vardiff.restart(target, now.instant);
            self.server.set_target(target)
        });
        self.announce(peer, hinted.or(smaller), core, now, out);
    }

    /// The hashrate that a client's new number suggests, if it is news. A client that always names twice its hashrate
    /// must not undo each time what was learnt from its shares: where it named one before, the change is what counts.
    fn hint(&mut self, hash_rate: f64) -> Option<f64> {
        let before = self.nominal_hash_rate;
        let same = |ratio: f64| (1.0 / HINT_FACTOR..=HINT_FACTOR).contains(&ratio);
        // With no miner behind the channel there is nothing to adapt to. Its silence makes the target easier, which must
        // not be met by the miners who come back: a farm's proxy that returns would flood us.
        if hash_rate <= 0.0 {
            self.rested_at.get_or_insert(self.hash_rate());
            return None;
        }
        let rested_at = self.rested_at.take();
        if rested_at.is_none() && same(hash_rate / before) {
            return None;
        }
        let learnt = rested_at.unwrap_or_else(|| self.hash_rate());
        self.nominal_hash_rate = hash_rate;
        Some(if before > 0.0 { learnt * hash_rate / before } else { hash_rate })
    }

    /// Sends a new target, and the live job again under a new id and from a later time on: a target does not count for
    /// jobs that are active already (spec 5.3.21), and the next one may be minutes away.
    fn announce(
        &mut self,
        peer: PeerId,
        change: Option<SetTarget>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(message) = change else { return };
        out.send(peer, &message);
        core.metrics.set_targets(1);
        if self.server.has_own_work() {
            return; // the client's next job brings it into force
        }
        let id = core.bench.allocate_id();
        if self.server.renew_job(id, now.unix_secs()).is_some() {
            out.say(peer, |bytes| self.server.write_job(id, bytes));
        }
    }

    /// What was found with its extranonce prefix.
    pub(super) fn found(&self) -> Found {
        match &self.custom {
            _ if self.tally.accepted == 0 => Found::Nothing,
            Some(custom) if custom.was_ahead => Found::Ahead,
            _ => Found::Some,
        }
    }

    /// Gives back what the channel holds.
    pub(super) fn close(self, core: &mut Core) {
        for prefix in self.server.prefixes() {
            core.extranonces.release(prefix, self.found());
        }
        core.metrics.channel_closed(self.server.kind());
        core.channels -= 1;
        core.workers -= self.workers.len() as u32;
    }
}

impl AsRef<ServerChannel> for Channel {
    fn as_ref(&self) -> &ServerChannel {
        &self.server
    }
}

impl AsMut<ServerChannel> for Channel {
    fn as_mut(&mut self) -> &mut ServerChannel {
        &mut self.server
    }
}

impl Core {
    /// The target for a hashrate; 0 for an unknown one.
    pub(super) fn target_for(&self, hash_rate: f64, max_target: Target) -> Target {
        let hash_rate = if hash_rate > 0.0 { hash_rate } else { self.settings.start_hashrate };
        let limits = self.target_limits(max_target);
        Target::from_hash_rate(hash_rate, self.settings.shares_per_minute)
            .max(self.hardest(limits.network_target))
            .min(limits.max_target)
    }

    /// Whether shares of a channel with this maximum can be anything but impossible, or harder than blocks.
    pub(super) fn accepts_max_target(&self, max_target: Target) -> bool {
        max_target > Target::MIN && max_target >= self.hardest(self.bench.network_target())
    }

    /// Between what a channel's target must stay: what the client takes, and the pool's own floor, which yields where
    /// it would make shares harder than blocks.
    fn target_limits(&self, max_target: Target) -> TargetLimits {
        let network_target = self.bench.network_target();
        let floor =
            Target::from_hash_rate(self.settings.min_hashrate, self.settings.shares_per_minute);
        TargetLimits {
            max_target: floor.max(self.hardest(network_target)).min(max_target),
            network_target,
        }
    }

    fn hardest(&self, network_target: Target) -> Target {
        if self.settings.allow_above_network_difficulty { Target::MIN } else { network_target }
    }
}
