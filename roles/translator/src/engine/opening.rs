//! Channels upstream: asking for them, getting them, losing them.

use std::time::{Duration, Instant};

use adit_mining::Target;
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{
    CloseChannel, OpenExtendedMiningChannel, OpenExtendedMiningChannelSuccess,
    OpenMiningChannelError,
};
use adit_transport::{Now, Outbox, PeerId};

use super::aggregate::Aggregate;
use super::channel::{Channel, Violation};
use super::connection::Place;
use super::miner::{Miner, Opening};
use super::upstream::Stage;
use super::{Effect, TranslatorEngine, window};
use crate::config::Channels;
use crate::metrics::Onward;

/// Requests for channels that are not answered yet: when an upstream comes back, thousands of miners want one at once.
const MAX_OPENING: usize = 512;
/// Time for the answer to a request for a channel.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Waits of a miner whose channel was refused or closed: the first, doubling up to the second.
const REOPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl TranslatorEngine {
    /// Asks for channels for those who wait.
    pub(super) fn open_channels(&mut self, now: Now, out: &mut Outbox<Effect>) {
        if self.core.settings.channels == Channels::Aggregated {
            return self.open_of_all(Place::Active, now, out);
        }
        let upstream = &mut self.upstream;
        let Stage::Ready { peer: to } = upstream.stage else { return };
        while upstream.requests.len() < MAX_OPENING {
            let Some(peer) = upstream.waiting.pop_front() else { return };
            let Some(miner) = self.miners.get_mut(&peer) else { continue };
            let (Some(user), Opening::Queued) = (miner.user.as_deref(), miner.opening) else {
                continue;
            };
            let configured = &self.upstreams.get(upstream.index).config;
            let identity = configured.identity(user, miner.remote.ip());
            let terms = miner.terms(&self.core);
            miner.told.terms = Some(terms);
            let request_id = upstream.asks(Some(peer), now.instant);
            out.send(
                to,
                &OpenExtendedMiningChannel {
                    request_id,
                    user_identity: Str0255::cut(&identity),
                    nominal_hash_rate: terms.nominal_hash_rate,
                    max_target: terms.max_target.to_le_bytes(),
                    min_extranonce_size: miner.own_extranonce_size() as u16,
                },
            );
            miner.opening = Opening::Requested(request_id);
        }
    }

    /// Asks for the one channel of all miners; of an upstream that is only looked at, to see whether it gives work.
    pub(super) fn open_of_all(&mut self, place: Place, now: Now, out: &mut Outbox<Effect>) {
        let upstream = self.at(place);
        let (index, peer) = (upstream.index, upstream.stage.peer());
        let Stage::Ready { peer: to } = upstream.stage else { return };
        let has_one = upstream.request_of_all.is_some() || upstream.of_all.is_some();
        let works = self.core.aggregate.as_ref().is_some_and(|all| Some(all.channel.via) == peer);
        // Asked for each miner that comes: most often there is one.
        if has_one || works {
            return;
        }
        let introduced = || self.miners.values().filter(|miner| miner.is_introduced());
        let aggregated = self.core.settings.channels == Channels::Aggregated;
        let hash_rate: f64 = introduced().map(|miner| miner.assumed_hash_rate(&self.core)).sum();
        let nobody = introduced().next().is_none();
        let user = introduced().find_map(|miner| Some((miner.user.as_deref()?, miner.remote.ip())));
        let user = user.map(|(user, ip)| (user.to_owned(), ip));
        let (user, ip) = user.unwrap_or_else(|| {
            let anonymous = self.core.settings.anonymous_user.to_string();
            (anonymous, std::net::Ipv4Addr::LOCALHOST.into())
        });
        if nobody && place == Place::Active {
            return;
        }
        let nominal = self.core.nominal_hash_rate();
        let asks = self.core.settings.asks(self.upstreams.get(index).grants_most);
        let identity = self.upstreams.get(index).config.identity(&user, ip);
        let request_id = self.at(place).asks(None, now.instant);
        let hash_rate = if aggregated && hash_rate > 0.0 { hash_rate } else { nominal };
        out.send(
            to,
            &OpenExtendedMiningChannel {
                request_id,
                user_identity: Str0255::cut(&identity),
                nominal_hash_rate: (hash_rate as f32).clamp(1.0, f32::MAX),
                max_target: Target::MAX.to_le_bytes(),
                min_extranonce_size: asks as u16,
            },
        );
    }

    /// Requests that the upstream will not answer any more: their miners ask again.
    pub(super) fn look_at_requests(&mut self, now: Now, out: &mut Outbox<Effect>) {
        // Those that have left meanwhile.
        if self.upstream.waiting.len() > self.miners.len() {
            let miners = &self.miners;
            let waits = |peer: &PeerId| {
                miners.get(peer).is_some_and(|miner| miner.opening == Opening::Queued)
            };
            self.upstream.waiting.retain(waits);
        }
        let over = self.upstream.give_up_requests(ANSWER_TIME, now.instant);
        if over.is_empty() {
            return;
        }
        let upstream = &self.upstream.target;
        tracing::warn!(%upstream, requests = over.len(), "requests for channels are not answered");
        for peer in over {
            self.core.metrics.channel_error("unanswered");
            if let Some(miner) = self.miners.get_mut(&peer) {
                miner.retry_later(now.instant);
            }
        }
        self.open_channels(now, out);
    }

    /// The upstream closed a channel, or all of a group. Its miners ask for new ones.
    pub(super) fn channel_closed(
        &mut self,
        place: Place,
        peer: PeerId,
        message: &CloseChannel<'_>,
        now: Now,
    ) -> Result<(), Violation> {
        let reason = message.reason_code.to_clean_string();
        if self.of_all(peer).is_some_and(|all| all.is_addressed_by(message.channel_id)) {
            tracing::warn!(reason, "the upstream closed the channel of all miners");
            self.core.metrics.channel_error("closed");
            return Err(Violation("channel-of-all-closed"));
        }
        if place == Place::Candidate {
            return Ok(());
        }
        for peer in self.upstream.addressed(message.channel_id) {
            let Some(miner) = self.miners.get_mut(&peer) else { continue };
            let Some(channel) = miner.lose_channel() else { continue };
            let user = miner.user.as_deref();
            tracing::warn!(%peer, user, reason, "the upstream closed a channel");
            self.core.metrics.channel_error("closed");
            self.core.lose_shares(channel.unacknowledged);
            self.upstream.remove_channel(&channel);
            miner.retry_later(now.instant);
        }
        self.core.metrics.channels(self.upstream.channels.len());
        Ok(())
    }

    pub(super) fn channel_opened(
        &mut self,
        place: Place,
        via: PeerId,
        opened: &OpenExtendedMiningChannelSuccess<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let id = opened.channel_id;
        let asked_by = self.at(place).answered(opened.request_id, now.instant);
        let taken = self.of_all(via).is_some_and(|all| all.channel.id == id);
        if taken || self.at(place).is_used(id) {
            return Err(Violation("channel-id-twice"));
        }
        let upstream = self.at(place);
        upstream.refuses_since = None;
        if upstream.channels.is_empty() && upstream.of_all.is_none() {
            upstream.opened = now.instant;
        }
        if self.at(place).request_of_all == Some(opened.request_id) {
            self.at(place).request_of_all = None;
            let shares = match self.core.settings.channels {
                Channels::Aggregated => window::OF_ALL,
                Channels::PerMiner => window::OF_ONE,
            };
            let fixed_version = self.at(place).fixed_version;
            let channel = Channel::new(opened, via, fixed_version, shares, now.instant)?;
            return self.opened_of_all(place, channel, now);
        }
        let Some((peer, miner)) =
            asked_by.and_then(|peer| self.miners.get_mut(&peer).map(|miner| (peer, miner)))
        else {
            // The miner did not wait for it.
            self.at(place).say_closed(id, "miner-left", out);
            return Ok(());
        };
        let fixed_version = self.upstream.fixed_version;
        let channel = Channel::new(opened, via, fixed_version, window::OF_ONE, now.instant)?;
        if channel.size < miner.own_extranonce_size() {
            let granted = channel.size;
            self.upstream.say_closed(id, "extranonce-too-small", out);
            self.too_small(peer, Some(granted), now, out);
            return Ok(());
        }
        miner.opening = Opening::Idle;
        miner.failed_opens = 0;
        self.upstream.add_channel(&channel, peer);
        miner.channel = Some(Box::new(channel));
        self.core.metrics.channels(self.upstream.channels.len());
        self.open_channels(now, out);
        Ok(())
    }

    pub(super) fn open_refused(
        &mut self,
        place: Place,
        message: &OpenMiningChannelError<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let code = message.error_code.to_clean_string();
        let asked_by = self.at(place).answered(message.request_id, now.instant);
        let too_small = code == "min-extranonce-size-too-large";
        if self.at(place).request_of_all.take_if(|id| *id == message.request_id).is_some() {
            self.core.metrics.channel_error(if too_small {
                "extranonce-too-small"
            } else {
                "refused"
            });
            let (index, settings) = (self.at(place).index, &self.core.settings);
            let asked = settings.asks(self.upstreams.get(index).grants_most);
            let fewer = settings.asks_below(asked).filter(|_| too_small);
            if let Some(fewer) = fewer {
                self.upstreams.get_mut(index).grants_most = Some(fewer);
                self.open_of_all(place, now, out);
                return Ok(());
            }
            let upstream = &self.at(place).target;
            if too_small {
                tracing::error!(%upstream, needed = asked, "too little extranonce for miners");
                return Err(Violation("extranonce-too-small"));
            }
            tracing::warn!(%upstream, code, "the upstream refused a channel");
            return Err(Violation("channel-refused"));
        }
        let Some(peer) = asked_by else { return Ok(()) };
        if too_small {
            self.too_small(peer, None, now, out);
            return Ok(());
        }
        self.core.metrics.channel_error("refused");
        let upstream = self.at(place);
        if upstream.channels.is_empty() {
            upstream.refuses_since.get_or_insert(now.instant);
        }
        if let Some(miner) = self.miners.get_mut(&peer) {
            tracing::warn!(%peer, user = miner.user.as_deref(), code, "the upstream refused a channel");
            miner.retry_later(now.instant);
        }
        self.open_channels(now, out);
        Ok(())
    }

    /// The channel of all is open.
    fn opened_of_all(&mut self, place: Place, channel: Channel, now: Now) -> Result<(), Violation> {
        let least = self.core.settings.least();
        if channel.size < least {
            let (granted, target) = (channel.size, &self.at(place).target);
            tracing::error!(upstream = %target, granted, needed = least, "too little extranonce for miners");
            self.core.metrics.channel_error("extranonce-too-small");
            return Err(Violation("extranonce-too-small"));
        }
        if self.core.settings.channels == Channels::Aggregated {
            let index = self.at(place).index;
            self.upstreams.get_mut(index).granted = Some(channel.size);
        }
        let rate = self.core.nominal_hash_rate();
        let target = self.at(place).target.to_string();
        tracing::info!(upstream = target, channel_id = channel.id, prefix = %channel.prefix, size = channel.size, "channel of all miners open");
        self.at(place).of_all = Some(Aggregate::new(channel, rate, now.instant));
        if place == Place::Active {
            self.core.metrics.channels(1);
        }
        Ok(())
    }

    /// On the channel of all there is not enough room for some miners: their size was said when they subscribed and cannot
    /// change, so they must connect anew.
    pub(super) fn drop_too_large(&mut self, size: usize, out: &mut Outbox<Effect>) {
        let too_large =
            |miner: &Miner| miner.extranonce1.is_some() && miner.own_extranonce_size() > size;
        let peers: Vec<_> =
            self.miners.iter().filter(|(_, m)| too_large(m)).map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.core.metrics.channel_error("extranonce-too-small");
            self.close_miner(peer, "upstream-extranonce-too-small", out);
        }
    }

    /// The upstream has too little room for a miner's extranonce. Its size was said when it subscribed and cannot change,
    /// so it must connect anew, and gets what was `granted` or the next smaller one; unless it has the smallest already.
    fn too_small(
        &mut self,
        peer: PeerId,
        granted: Option<usize>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.core.metrics.channel_error("extranonce-too-small");
        let Some(miner) = self.miners.get_mut(&peer) else { return };
        let (needed, settings) = (miner.own_extranonce_size(), &self.core.settings);
        let granted = granted.filter(|granted| *granted >= settings.least());
        if let Some(fewer) = granted.or_else(|| settings.asks_below(needed)) {
            let configured = self.upstreams.get_mut(self.upstream.index);
            // Others may have been refused less already.
            let most = configured.grants_most.map_or(fewer, |most| most.min(fewer));
            configured.grants_most = Some(most);
            self.core.room = Some(most);
            self.close_miner(peer, "upstream-extranonce-too-small", out);
        } else {
            tracing::error!(upstream = %self.upstream.target, needed, "too little extranonce for a miner");
            miner.retry_later(now.instant);
        }
        self.open_channels(now, out);
    }

    /// The channel of all of a connection, whether it is worked on or not.
    pub(super) fn of_all(&mut self, via: PeerId) -> Option<&mut Aggregate> {
        let worked_on = |all: &Aggregate| all.live && all.channel.via == via;
        if self.core.aggregate.as_ref().is_some_and(worked_on) {
            return self.core.aggregate.as_mut();
        }
        let place = self.place(via)?;
        self.at(place).of_all.as_mut()
    }
}

impl super::Core {
    /// Shares on a channel that is gone: nobody says what became of them.
    pub(super) fn lose_shares(&mut self, shares: u64) {
        self.metrics.onward(Onward::Unanswered, shares);
        self.acks.forget(shares);
    }
}

impl Miner {
    /// Its channel was refused or closed: it asks again after a while.
    pub(super) fn retry_later(&mut self, now: Instant) {
        let wait = REOPEN.0.saturating_mul(1 << self.failed_opens.min(5)).min(REOPEN.1);
        self.failed_opens = self.failed_opens.saturating_add(1);
        self.opening = Opening::RetryAt(now + wait);
    }
}
