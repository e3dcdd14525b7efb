//! The connection to the upstream: setting it up, losing it, and opening channels on it.

use std::time::{Duration, Instant};

use adit_sv2::codec::Str0255;
use adit_sv2::frame::Header;
use adit_sv2::messages::DecodeError;
use adit_sv2::messages::common::{
    Common, PROTOCOL_MINING, PROTOCOL_VERSION, Reconnect, SetupConnection,
};
use adit_sv2::messages::mining::{
    CloseChannel, Mining, OpenExtendedMiningChannel, OpenExtendedMiningChannelSuccess,
    OpenMiningChannelError, REQUIRES_FIXED_VERSION,
};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::channel::{Channel, Violation};
use super::miner::{Miner, Opening};
use super::upstream::Stage;
use super::{EXTRANONCE1_SIZE, Effect, SMALL_EXTRANONCE2, TranslatorEngine};
use crate::metrics::Onward;

/// Requests for channels that are not answered yet: when an upstream comes back, thousands of miners want one at once.
const MAX_OPENING: usize = 512;
/// Time for the answer to `SetupConnection`.
const SETUP_TIME: Duration = Duration::from_secs(10);
/// Waits of a miner whose channel was refused or closed: the first, doubling up to the second.
const REOPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl TranslatorEngine {
    pub(super) fn upstream_event(
        &mut self,
        peer: PeerId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let current = self.upstream.stage.peer() == Some(peer);
        match event {
            Event::Opened { .. } => self.upstream_opened(peer, now, out),
            Event::Frame(header, payload) if current => {
                if let Err(Violation(reason)) = self.upstream_frame(&header, payload, now, out) {
                    tracing::warn!(upstream = %self.upstream.dialled, reason, "upstream dropped");
                    self.core.metrics.upstream_fault(reason);
                    self.drop_upstream(peer, reason, false, out);
                }
            }
            Event::Frame(..) => {}
            Event::Line(_) => out.close(peer, "line-on-a-frame-connection"),
            Event::Closed(reason) if current => {
                let was_of_use = matches!(self.upstream.stage, Stage::Ready { .. });
                self.upstream_lost(reason, was_of_use);
            }
            Event::Closed(_) => {}
        }
    }

    pub(super) fn upstream_tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        if let Stage::SettingUp { peer, since } = self.upstream.stage
            && now.instant.saturating_duration_since(since) >= SETUP_TIME
        {
            self.drop_upstream(peer, "setup-timeout", false, out);
        }
    }

    /// Asks for channels for those who wait.
    pub(super) fn open_channels(&mut self, out: &mut Outbox<Effect>) {
        let upstream = &mut self.upstream;
        let Stage::Ready { peer: to } = upstream.stage else { return };
        while upstream.requests.len() < MAX_OPENING {
            let Some(peer) = upstream.waiting.pop_front() else { return };
            let Some(miner) = self.miners.get_mut(&peer) else { continue };
            let (Some(user), Opening::Queued) = (miner.user.as_deref(), miner.opening) else {
                continue;
            };
            let request_id = upstream.next_request_id();
            let terms = miner.terms(&self.core);
            miner.told.terms = Some(terms);
            out.send(
                to,
                &OpenExtendedMiningChannel {
                    request_id,
                    user_identity: Str0255::cut(&upstream.current().config.identity(user)),
                    nominal_hash_rate: terms.nominal_hash_rate,
                    max_target: terms.max_target.to_le_bytes(),
                    min_extranonce_size: miner.own_extranonce_size() as u16,
                },
            );
            miner.opening = Opening::Requested(request_id);
            upstream.requests.insert(request_id, peer);
        }
    }

    /// The upstream closed a channel, or all of a group. Its miners ask for new ones.
    pub(super) fn channel_closed(&mut self, message: &CloseChannel<'_>, now: Now) {
        let reason = message.reason_code.to_clean_string();
        for peer in self.upstream.addressed(message.channel_id) {
            let Some(miner) = self.miners.get_mut(&peer) else { continue };
            let Some(channel) = miner.lose_channel() else { continue };
            let user = miner.user.as_deref();
            tracing::warn!(%peer, user, reason, "the upstream closed a channel");
            self.core.metrics.channel_error("closed");
            self.core.metrics.onward(Onward::Unanswered, channel.unacknowledged);
            self.upstream.remove_channel(&channel);
            miner.retry_later(now.instant);
        }
        self.core.metrics.channels(self.upstream.channels.len());
    }

    pub(super) fn channel_opened(
        &mut self,
        opened: &OpenExtendedMiningChannelSuccess<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let id = opened.channel_id;
        if self.upstream.is_used(id) {
            return Err(Violation("channel-id-twice"));
        }
        let peer = self.upstream.requests.remove(&opened.request_id);
        let Some((peer, miner)) =
            peer.and_then(|peer| self.miners.get_mut(&peer).map(|miner| (peer, miner)))
        else {
            // The miner did not wait for it.
            self.upstream.say_closed(id, "miner-left", out);
            return Ok(());
        };
        let channel = Channel::new(opened)?;
        if channel.size < miner.own_extranonce_size() {
            self.upstream.say_closed(id, "extranonce-too-small", out);
            self.too_small(peer, now, out);
            return Ok(());
        }
        miner.opening = Opening::Idle;
        miner.failed_opens = 0;
        self.upstream.add_channel(&channel, peer);
        miner.channel = Some(Box::new(channel));
        self.core.metrics.channels(self.upstream.channels.len());
        self.open_channels(out);
        Ok(())
    }

    pub(super) fn open_refused(
        &mut self,
        message: &OpenMiningChannelError<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(peer) = self.upstream.requests.remove(&message.request_id) else { return };
        let code = message.error_code.to_clean_string();
        if code == "min-extranonce-size-too-large" {
            return self.too_small(peer, now, out);
        }
        self.core.metrics.channel_error("refused");
        if let Some(miner) = self.miners.get_mut(&peer) {
            tracing::warn!(%peer, user = miner.user.as_deref(), code, "the upstream refused a channel");
            miner.retry_later(now.instant);
        }
        self.open_channels(out);
    }

    /// The upstream has too little room for a miner's extranonce. Its size was said when it subscribed and cannot change,
    /// so it must connect anew; unless it has the small one already.
    fn too_small(&mut self, peer: PeerId, now: Now, out: &mut Outbox<Effect>) {
        self.core.metrics.channel_error("extranonce-too-small");
        let Some(miner) = self.miners.get_mut(&peer) else { return };
        if miner.extranonce2_size <= SMALL_EXTRANONCE2 {
            let needed = EXTRANONCE1_SIZE + usize::from(miner.extranonce2_size);
            tracing::error!(upstream = %self.upstream.dialled, needed, "too little extranonce for a miner");
            miner.retry_later(now.instant);
        } else {
            self.upstream.current_mut().small = true;
            self.core.extranonce2_size = SMALL_EXTRANONCE2;
            self.close_miner(peer, "upstream-extranonce-too-small", out);
        }
        self.open_channels(out);
    }

    fn upstream_opened(&mut self, peer: PeerId, now: Now, out: &mut Outbox<Effect>) {
        if let Some(old) = self.upstream.stage.peer() {
            self.drop_upstream(old, "replaced", true, out);
        }
        self.upstream.opened(peer, now.instant);
        out.send(
            peer,
            &SetupConnection {
                protocol: PROTOCOL_MINING,
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
                // Version rolling is welcome and not required: miners mine without it.
                flags: 0,
                endpoint_host: Str0255::cut(&self.upstream.dialled.host),
                endpoint_port: self.upstream.dialled.port,
                vendor: Str0255::cut("adit"),
                hardware_version: Str0255::cut("adit-translator"),
                firmware: Str0255::cut(env!("CARGO_PKG_VERSION")),
                device_id: Str0255::default(),
            },
        );
    }

    /// Ends the connection. Where it was of use it is dialled `again`, and otherwise the next in the list is.
    fn drop_upstream(
        &mut self,
        peer: PeerId,
        reason: &'static str,
        again: bool,
        out: &mut Outbox<Effect>,
    ) {
        out.close(peer, reason);
        self.upstream_lost(reason, again);
    }

    /// The connection is gone, and with it all channels. Miners go on with what they have.
    fn upstream_lost(&mut self, reason: &str, again: bool) {
        self.core.metrics.upstream(self.upstream.current().config.url.host_port(), false);
        self.core.metrics.channels(0);
        self.core.upstream = None;
        self.upstream.lost(reason, again);
        for miner in self.miners.values_mut() {
            if let Some(channel) = miner.lose_channel() {
                self.core.metrics.onward(Onward::Unanswered, channel.unacknowledged);
            }
        }
    }

    fn upstream_frame(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        // Of extensions none was asked for (spec 3.4.1).
        if header.extension_type != 0 {
            return Ok(());
        }
        let common = Common::ALL.iter().any(|info| info.msg_type == header.msg_type);
        match self.upstream.stage {
            Stage::Down => Ok(()),
            Stage::SettingUp { peer, .. } => match read(Common::decode(header, payload))? {
                Some((message, _)) => self.set_up(peer, &message, now, out),
                None => Err(Violation("message-before-setup")),
            },
            Stage::Ready { peer } if common => match read(Common::decode(header, payload))? {
                Some((Common::Reconnect(message), _)) => {
                    self.reconnect(peer, &message, out);
                    Ok(())
                }
                Some((Common::ChannelEndpointChanged(_), _)) | None => Ok(()),
                Some(_) => Err(Violation("setup-twice")),
            },
            Stage::Ready { .. } => match read(Mining::decode(header, payload))? {
                Some((message, _)) => self.mining(message, payload, now, out),
                None => Ok(()),
            },
        }
    }

    fn set_up(
        &mut self,
        peer: PeerId,
        message: &Common<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let success = match message {
            Common::SetupConnectionSuccess(success) => success,
            Common::SetupConnectionError(error) => {
                let code = error.error_code.to_clean_string();
                self.upstream.explain(format!("refused: {code} (flags {:#x})", error.flags));
                return Err(Violation("refused"));
            }
            _ => return Err(Violation("message-before-setup")),
        };
        if success.used_version != PROTOCOL_VERSION {
            return Err(Violation("another-protocol-version"));
        }
        self.upstream.stage = Stage::Ready { peer };
        let current = self.upstream.current();
        let size = self.core.settings.extranonce2_size;
        self.core.extranonce2_size = if current.small { size.min(SMALL_EXTRANONCE2) } else { size };
        self.core.max_ntime_ahead = current.config.max_ntime_ahead_seconds;
        self.core.upstream = Some(peer);
        self.core.fixed_version = success.flags & REQUIRES_FIXED_VERSION != 0;
        self.core.metrics.upstream(current.config.url.host_port(), true);
        tracing::info!(upstream = %self.upstream.dialled, miners = self.miners.len(), "working for this upstream");
        for (peer, miner) in &mut self.miners {
            self.upstream.queue(*peer, miner, now.instant);
        }
        self.open_channels(out);
        Ok(())
    }

    /// It wants us elsewhere: followed under the same authority key, and where there is none, only on the same host.
    fn reconnect(&mut self, peer: PeerId, message: &Reconnect<'_>, out: &mut Outbox<Effect>) {
        let host = message.new_host.to_clean_string();
        let mut target = self.upstream.dialled.clone();
        let elsewhere = !host.is_empty() && host != target.host;
        if elsewhere && target.authority_key.is_none() {
            tracing::warn!(host, "not followed: no authority key is configured to know it by");
        } else {
            if elsewhere {
                target.host = host;
            }
            if message.new_port != 0 {
                target.port = message.new_port;
            }
            tracing::info!(%target, "the upstream asked to reconnect");
            self.upstream.redirect(target);
        }
        self.drop_upstream(peer, "asked-to-reconnect", true, out);
    }
}

impl Miner {
    /// Its channel was refused or closed: it asks again after a while.
    fn retry_later(&mut self, now: Instant) {
        let wait = REOPEN.0.saturating_mul(1 << self.failed_opens.min(5)).min(REOPEN.1);
        self.failed_opens = self.failed_opens.saturating_add(1);
        self.opening = Opening::RetryAt(now + wait);
    }
}

/// What was decoded; none if it is of a type that is not known, which may be newer than we are.
fn read<T>(decoded: Result<T, DecodeError>) -> Result<Option<T>, Violation> {
    match decoded {
        Ok(message) => Ok(Some(message)),
        Err(DecodeError::Unknown { .. }) => Ok(None),
        Err(error) => {
            tracing::warn!(%error, "malformed frame");
            Err(Violation("malformed-frame"))
        }
    }
}
