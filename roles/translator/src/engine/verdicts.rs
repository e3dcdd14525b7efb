//! What the upstream says of shares: counted, for the miners that found them as well.
//!
//! Miners have had their answer. One whose shares the upstream refuses, all of them, while it takes others', has something
//! wrong that is not seen here; it is treated as if its shares were refused here.

use adit_sv2::messages::mining::{SubmitSharesError, SubmitSharesSuccess};
use adit_transport::{Now, Outbox, PeerId};

use super::acks::Acknowledgements;
use super::channel::Channel;
use super::miner::Miner;
use super::window::Window;
use super::{Effect, TranslatorEngine};

impl TranslatorEngine {
    /// Shares were accepted.
    pub(super) fn shares_accepted(&mut self, via: PeerId, message: &SubmitSharesSuccess, now: Now) {
        let shares = u64::from(message.new_submits_accepted_count);
        self.core.metrics.upstream_accepted(shares);
        self.acks_of(via).answered(shares, now.instant);
        if shares > 0 && self.core.upstream == Some(via) {
            self.core.upstream_took = Some(now.instant);
        }
        let (id, last) = (message.channel_id, message.last_sequence_number);
        if let Some(mut window) = self.window_of_all(via, id, shares, now) {
            let Self { miners, core, .. } = self;
            window.accept(last, now.instant, |peer, took| {
                core.metrics.upstream_answered(took);
                if let Some(miner) = miners.get_mut(&peer) {
                    miner.accepted_upstream(1);
                }
            });
            self.put_back(via, id, window);
        } else if let Some(miner) = self.miner_of(via, id).and_then(|p| self.miners.get_mut(&p)) {
            miner.accepted_upstream(shares);
            if let Some(channel) = miner.channel_via(via, id) {
                channel.unacknowledged = channel.unacknowledged.saturating_sub(shares);
                let metrics = &self.core.metrics;
                let counted = |_, took| metrics.upstream_answered(took);
                channel.window.accept(last, now.instant, counted);
            }
        }
    }

    /// A share was rejected.
    pub(super) fn share_rejected(
        &mut self,
        via: PeerId,
        message: &SubmitSharesError<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let code = message.error_code.to_clean_string();
        let (id, number) = (message.channel_id, message.sequence_number);
        self.core.metrics.upstream_rejected(&code);
        self.acks_of(via).answered(1, now.instant);
        let mut taken_back = false;
        let mut took = None;
        let peer = if let Some(mut window) = self.window_of_all(via, id, 1, now) {
            let rejected = window.reject(number, now.instant);
            self.put_back(via, id, window);
            taken_back = rejected.is_some_and(|rejected| rejected.took.is_none());
            took = rejected.and_then(|rejected| rejected.took);
            rejected.map(|rejected| rejected.miner)
        } else {
            let peer = self.miner_of(via, id);
            let miner = peer.and_then(|peer| self.miners.get_mut(&peer));
            if let Some(channel) = miner.and_then(|miner| miner.channel_via(via, id)) {
                channel.unacknowledged = channel.unacknowledged.saturating_sub(1);
                took = channel.window.reject(number, now.instant).and_then(|r| r.took);
            }
            peer
        };
        if let Some(took) = took {
            self.core.metrics.upstream_answered(took);
        }
        let found = peer.and_then(|peer| Some((peer, self.miners.get_mut(&peer)?)));
        let Some((peer, miner)) = found else {
            return tracing::trace!(channel_id = id, code, "share of nobody rejected upstream");
        };
        let user = miner.user.as_deref();
        tracing::trace!(%peer, user, channel_id = id, code, "share rejected upstream");
        if taken_back {
            miner.stats.upstream_accepted = miner.stats.upstream_accepted.saturating_sub(1);
        }
        miner.stats.upstream_rejected += 1;
        let next = miner.refused_upstream(peer, &mut self.core, now, out);
        self.after(peer, next, now, out);
    }

    fn acks_of(&mut self, via: PeerId) -> &mut Acknowledgements {
        match self.core.upstream == Some(via) {
            true => &mut self.core.acks,
            false => &mut self.core.late_acks,
        }
    }

    /// The channel of all that has this id, whether it is worked on or was left.
    fn channel_of_all(&mut self, via: PeerId, id: u32) -> Option<&mut Channel> {
        let worked_on = self.core.aggregate.as_mut().map(|all| &mut all.channel);
        let left = self.core.left.as_deref_mut();
        let mut channels = worked_on.into_iter().chain(left);
        channels.find(|channel| channel.via == via && channel.id == id)
    }

    /// The shares on the channel of all, taken out so that miners can be looked at beside it.
    fn window_of_all(&mut self, via: PeerId, id: u32, answered: u64, now: Now) -> Option<Window> {
        let channel = self.channel_of_all(via, id)?;
        channel.unacknowledged = channel.unacknowledged.saturating_sub(answered);
        Some(std::mem::replace(&mut channel.window, Window::new(0, now.instant)))
    }

    fn put_back(&mut self, via: PeerId, id: u32, window: Window) {
        if let Some(channel) = self.channel_of_all(via, id) {
            channel.window = window;
        }
    }

    /// Whose channel it is, where each has its own.
    fn miner_of(&self, via: PeerId, id: u32) -> Option<PeerId> {
        let left = self.retiring.as_ref().filter(|retiring| retiring.peer == via);
        let channels = left.map_or(&self.upstream.channels, |retiring| &retiring.channels);
        channels.get(&id).copied()
    }
}

impl Miner {
    /// The upstream accepted shares of it.
    fn accepted_upstream(&mut self, shares: u64) {
        self.stats.upstream_accepted += shares;
        if shares > 0 {
            self.conduct.refused_upstream = Default::default();
        }
    }

    /// Its channel on this connection.
    fn channel_via(&mut self, via: PeerId, id: u32) -> Option<&mut Channel> {
        let mut channels = self.channel.iter_mut().chain(&mut self.leaving);
        channels
            .find(|channel| channel.via == via && channel.id == id)
            .map(|channel| &mut **channel)
    }
}
