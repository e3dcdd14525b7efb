//! A miner's channel: the protocol's channel, whose work it is, and its difficulty.

use std::sync::Arc;
use std::time::Instant;

use adit_mining::vardiff::{TargetLimits, Vardiff, VardiffOptions};
use adit_mining::{ServerChannel, Share, Target};
use adit_sv2::messages::mining::SetTarget;
use adit_transport::{Now, Outbox, PeerId};

use super::names::Names;
use super::source::Source;
use super::{Core, Effect};

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) server: ServerChannel,
    /// As the miner gave it.
    pub(super) identity: Arc<str>,
    /// Who is behind it, where it says so in its shares.
    pub(super) names: Names,
    pub(super) vardiff: Vardiff,
    /// What the miner said last; 0 if nothing.
    nominal_hash_rate: f64,
    /// Hashes per second that it is assumed to do while it has found little; 0 where nothing is known.
    assumed: f64,
    /// The most that is believed of that before there is any share.
    unseen: f64,
    /// Shares since something was assumed.
    shown: u64,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    pub(super) last_share: Option<Instant>,
    /// Frames of extensions that we do not know went to it or came from it, since it works for whom it works for.
    pub(super) speaks_extensions: bool,
}

/// A miner's new hashrate is followed at once where it differs by this factor from what was followed last.
const HINT_FACTOR: f64 = 1.25;
/// Shares after which what a miner finds says more than what it claims.
const TRUSTED_SHARES: u64 = 10;
/// Before that it is believed to be so many times as fast as they say: the first ones say little.
const BELIEVED: f64 = 4.0;

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

impl Channel {
    pub(super) fn new(
        server: ServerChannel,
        identity: Arc<str>,
        hash_rate: f64,
        core: &Core,
        now: Now,
    ) -> Self {
        // The hardest target, a pool's or the network's, is in the limits.
        let options = VardiffOptions {
            shares_per_minute: core.settings.shares_per_minute,
            harder_than_network: false,
        };
        Self {
            vardiff: Vardiff::new(options, server.target(), now.instant),
            server,
            identity,
            names: Names::default(),
            nominal_hash_rate: hash_rate,
            assumed: hash_rate,
            unseen: core.settings.start_hashrate,
            shown: 0,
            accepted: 0,
            rejected: 0,
            last_share: None,
            speaks_extensions: false,
        }
    }

    /// Hashes per second: what it finds, and before that what it says, within reason: the pool makes the one channel of
    /// all miners as hard as their sum asks for.
    pub(super) fn hash_rate(&self) -> f64 {
        let found = self.vardiff.hash_rate();
        match self.shown {
            _ if self.assumed <= 0.0 => found,
            0 => self.assumed.min(self.unseen),
            1..TRUSTED_SHARES => self.assumed.min(BELIEVED * found),
            _ => found,
        }
    }

    /// Counts an accepted share.
    pub(super) fn credit(&mut self, sequence_number: u32, work: u128, now: Now) {
        (self.accepted, self.shown) = (self.accepted + 1, self.shown + 1);
        self.last_share = Some(now.instant);
        self.vardiff.on_share(work);
        self.server.credit(sequence_number, work);
    }

    /// The id of the claim that a share is on, while that is live.
    pub(super) fn set_id(&self, share: &Share<'_>) -> Option<u32> {
        self.server.job(share.job_id).map(|job| job.id())
    }

    /// About once a second: lets difficulty follow what the channel finds, and what the pool asks for.
    pub(super) fn adjust(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let limits = core.target_limits(self.server.max_target());
        if let Some(target) = self.vardiff.poll(now.instant, &limits) {
            let change = self.server.set_target(target);
            self.announce(peer, change, core, now, out);
        }
    }

    /// The miner's `UpdateChannel`, whose values are in range.
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
            if self.shown > 0 {
                let found = self.vardiff.hash_rate();
                self.unseen = core.settings.start_hashrate.max(BELIEVED * found);
            }
            (self.assumed, self.shown) = (hash_rate, 0);
            let target = core.target_for(hash_rate, max_target);
            self.vardiff.restart(target, now.instant);
            self.server.set_target(target)
        });
        self.announce(peer, hinted.or(smaller), core, now, out);
    }

    /// The hashrate that a miner's new number suggests, if it is news. One that always names twice its hashrate must not
    /// undo each time what was learnt from its shares: where it named one before, the change is what counts.
    fn hint(&mut self, hash_rate: f64) -> Option<f64> {
        let before = self.nominal_hash_rate;
        let same = |ratio: f64| (1.0 / HINT_FACTOR..=HINT_FACTOR).contains(&ratio);
        // With no miner behind the channel there is nothing to adapt to.
        if hash_rate <= 0.0 || same(hash_rate / before) {
            return None;
        }
        let hinted = if before > 0.0 && self.accepted >= TRUSTED_SHARES {
            self.vardiff.hash_rate() * hash_rate / before
        } else {
            hash_rate
        };
        self.nominal_hash_rate = hash_rate;
        Some(hinted)
    }

    /// Sends a new target, and the live job again under a new id and from a later time on: a target does not count for
    /// jobs that are active already (spec 5.3.21).
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
        core.metrics.set_target();
        let id = core.desk.allocate_id();
        if self.server.renew_job(id, now.unix_secs()).is_some() {
            out.say(peer, |bytes| self.server.write_job(id, bytes));
        }
    }

    /// Gives back what the channel holds.
    pub(super) fn close(self, peer: PeerId, core: &mut Core) {
        core.talks.closed(peer, self.server.id());
        core.extranonces.release(self.server.extranonce_prefix());
        core.metrics.channel_closed(self.server.kind());
        core.channels -= 1;
        core.names -= self.names.len();
        core.rates_changed = true;
    }
}

impl Core {
    /// The target for a hashrate; 0 for an unknown one.
    pub(super) fn target_for(&self, hash_rate: f64, max_target: Target) -> Target {
        let hash_rate = if hash_rate > 0.0 { hash_rate } else { self.settings.start_hashrate };
        Target::from_hash_rate(hash_rate, self.settings.shares_per_minute)
            .max(self.hardest())
            .min(max_target)
    }

    /// Whether shares of a channel with this maximum are possible.
    pub(super) fn accepts_max_target(&self, max_target: Target) -> bool {
        max_target > Target::MIN
    }

    /// Between what a channel's target must stay: what the miner takes, our own floor, and what the pool asks for, since
    /// a share that is easier for the pool than for the miner would not be found.
    fn target_limits(&self, max_target: Target) -> TargetLimits {
        let hardest = self.hardest();
        let floor =
            Target::from_hash_rate(self.settings.min_hashrate, self.settings.shares_per_minute);
        TargetLimits { max_target: floor.max(hardest).min(max_target), network_target: hardest }
    }

    /// The hardest target that a miner may have.
    fn hardest(&self) -> Target {
        let network = match self.desk.tip() {
            Some(tip) if !self.settings.allow_above_network_difficulty => tip.network_target,
            _ => Target::MIN,
        };
        match self.source.and_then(Source::upstream) {
            Some(index) => match &self.upstreams[index].pool.channel {
                Some(channel) => channel.target,
                // What it asked for last is not known to hold: whatever is found is kept.
                None => self
                    .desk
                    .current()
                    .and_then(|claim| claim.accepted)
                    .map_or(network, |a| a.target),
            },
            None => network,
        }
    }
}
