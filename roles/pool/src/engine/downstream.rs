//! Connections of miners and proxies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use adit_mining::{Share, Target};
use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{
    PROTOCOL_MINING, PROTOCOL_VERSION, SetupConnection, SetupConnectionError,
    SetupConnectionSuccess,
};
use adit_sv2::messages::extensions::{
    RequestExtensions, RequestExtensionsError, RequestExtensionsSuccess,
};
use adit_sv2::messages::mining::{
    CloseChannel, Mining, REQUIRES_STANDARD_JOBS, REQUIRES_VERSION_ROLLING,
    SetCustomMiningJobError, SubmitSharesExtended, SubmitSharesStandard, UpdateChannel,
    UpdateChannelError,
};
use adit_sv2::messages::{DecodeError, Message};
use adit_sv2::tlv::EXTENSIONS_NEGOTIATION;
use adit_transport::{Event, Now, Outbox, PeerId};

use super::channel::Channel;
use super::open::OpenRequest;
use super::{Core, Effect, PoolEngine};

/// Features of `SetupConnection` that the pool has; others are refused.
const SUPPORTED_FLAGS: u32 = REQUIRES_STANDARD_JOBS | REQUIRES_VERSION_ROLLING;

/// Why a miner's connection is closed; the transport counts them.
mod reason {
    pub(super) const LINE: &str = "line-on-a-frame-connection";
    pub(super) const MALFORMED: &str = "malformed-frame";
    pub(super) const UNEXPECTED: &str = "unexpected-message";
    pub(super) const NO_SETUP: &str = "message-before-setup-connection";
    pub(super) const SECOND_SETUP: &str = "second-setup-connection";
    pub(super) const REFUSED: &str = "setup-connection-refused";
    pub(super) const IDLE: &str = "no-channel-in-time";
}

/// One connection.
#[derive(Debug)]
pub(super) struct Miner {
    pub(super) remote: SocketAddr,
    /// When it was opened, or lost its last channel.
    idle_since: Instant,
    set_up: bool,
    pub(super) standard_jobs: bool,
    /// What the client says that it is.
    pub(super) vendor: String,
    /// Channel and group ids share one space (spec 5.2.3).
    next_id: u32,
    /// The group that its channels are said to belong to. Jobs are sent to each channel.
    pub(super) group_channel_id: u32,
    /// Boxed, since a node of the map has room for eleven.
    pub(super) channels: BTreeMap<u32, Box<Channel>>,
    /// Requests that wait for a first template.
    pub(super) held: Vec<OpenRequest>,
}

impl PoolEngine {
    pub(super) fn miner_event(
        &mut self,
        peer: PeerId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        match event {
            Event::Opened { remote } => {
                self.miners.insert(peer, Miner::new(remote, now));
            }
            Event::Frame(header, payload) => {
                let Some(miner) = self.miners.get_mut(&peer) else { return };
                if let Err(reason) = miner.frame(peer, &header, payload, &mut self.core, now, out) {
                    self.close_miner(peer, reason, out);
                }
            }
            Event::Line(_) => self.close_miner(peer, reason::LINE, out),
            Event::Closed(reason) => {
                tracing::debug!(%peer, reason, "miner disconnected");
                self.forget_miner(peer);
            }
        }
    }

    /// Deadlines and difficulty of every connection.
    pub(super) fn scan_miners(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let mut idle = Vec::new();
        for (peer, miner) in &mut self.miners {
            if miner.is_idle()
                && now.instant.duration_since(miner.idle_since) >= self.core.settings.open_deadline
            {
                idle.push(*peer);
            }
            for channel in miner.channels.values_mut() {
                channel.adjust(*peer, &mut self.core, now, out);
            }
        }
        idle.into_iter().for_each(|peer| self.close_miner(peer, reason::IDLE, out));
    }

    fn close_miner(&mut self, peer: PeerId, reason: &'static str, out: &mut Outbox<Effect>) {
        tracing::debug!(%peer, reason, "miner's connection closed");
        out.close(peer, reason);
        self.forget_miner(peer);
    }

    fn forget_miner(&mut self, peer: PeerId) {
        if let Some(mut miner) = self.miners.remove(&peer) {
            miner.close_channels(&mut self.core);
        }
    }
}

impl Miner {
    fn new(remote: SocketAddr, now: Now) -> Self {
        Self {
            remote,
            idle_since: now.instant,
            set_up: false,
            standard_jobs: false,
            vendor: String::new(),
            next_id: FIRST_CHANNEL_ID,
            group_channel_id: FIRST_CHANNEL_ID - 1,
            channels: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    /// Handles a frame; an error is the reason to close the connection.
    fn frame(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if !self.set_up {
            return self.setup_connection(peer, header, payload, out);
        }
        match header.extension_type {
            0 => {}
            EXTENSIONS_NEGOTIATION => return request_extensions(peer, header, payload, out),
            // Messages of extensions that were not negotiated are dropped (spec 3.4).
            _ => return Ok(()),
        }
        let message = match Mining::decode(header, payload) {
            // TLVs belong to extensions, of which none is negotiated.
            Ok((message, _tlvs)) => message,
            Err(DecodeError::Unknown { msg_type: SetupConnection::TYPE, .. }) => {
                return Err(reason::SECOND_SETUP);
            }
            Err(error @ DecodeError::Unknown { .. }) => {
                tracing::debug!(%peer, %error, "message of another protocol");
                return Err(reason::UNEXPECTED);
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "frame cannot be read");
                return Err(reason::MALFORMED);
            }
        };
        match message {
            Mining::SubmitSharesExtended(m) => self.share_extended(peer, &m, core, now, out),
            Mining::SubmitSharesStandard(m) => self.share_standard(peer, &m, core, now, out),
            Mining::OpenStandardMiningChannel(m) => {
                let request = OpenRequest::standard(&m);
                self.open(peer, m.request_id, request, core, now, out);
            }
            Mining::OpenExtendedMiningChannel(m) => {
                let request = OpenRequest::extended(&m, self.standard_jobs);
                self.open(peer, m.request_id, request, core, now, out);
            }
            Mining::UpdateChannel(m) => self.update_channel(peer, &m, core, now, out),
            Mining::CloseChannel(m) => self.close_channel(peer, &m, core, now),
            Mining::SetCustomMiningJob(m) => {
                let (channel_id, request_id) = (m.channel_id, m.request_id);
                let error_code = Str0255::cut("jd-not-supported");
                out.send(peer, &SetCustomMiningJobError { channel_id, request_id, error_code });
            }
            other => {
                tracing::debug!(%peer, message = other.name(), "message that only servers send");
                return Err(reason::UNEXPECTED);
            }
        }
        Ok(())
    }

    /// The first message (spec 3.6.1).
    fn setup_connection(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if (header.extension_type, header.channel_msg, header.msg_type)
            != (0, false, SetupConnection::TYPE)
        {
            return Err(reason::NO_SETUP);
        }
        let (message, _) = SetupConnection::decode(payload).map_err(|error| {
            tracing::debug!(%peer, %error, "frame cannot be read");
            reason::MALFORMED
        })?;
        let unsupported = message.flags & !SUPPORTED_FLAGS;
        let versions = message.min_version..=message.max_version;
        let (flags, code) = if message.protocol != PROTOCOL_MINING {
            (0, "unsupported-protocol") // whose flags mean something else
        } else if !versions.contains(&PROTOCOL_VERSION) {
            (unsupported, "protocol-version-mismatch")
        } else if unsupported != 0 {
            (unsupported, "unsupported-feature-flags")
        } else {
            self.set_up = true;
            self.standard_jobs = message.flags & REQUIRES_STANDARD_JOBS != 0;
            self.vendor = message.vendor.to_clean_string();
            tracing::debug!(%peer, remote = %self.remote, message = %message, "miner connected");
            out.send(peer, &SetupConnectionSuccess { used_version: PROTOCOL_VERSION, flags: 0 });
            return Ok(());
        };
        tracing::info!(%peer, remote = %self.remote, code, message = %message, "connection refused");
        out.send(peer, &SetupConnectionError { flags, error_code: Str0255::cut(code) });
        Err(reason::REFUSED)
    }

    fn share_standard(
        &mut self,
        peer: PeerId,
        message: &SubmitSharesStandard,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.share(peer, message.channel_id, &Share::from(message), core, now, out);
    }

    fn share_extended(
        &mut self,
        peer: PeerId,
        message: &SubmitSharesExtended<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.share(peer, message.channel_id, &Share::from(message), core, now, out);
    }

    /// The client's circumstances changed (spec 5.3.7). Answered only where it is invalid, or where it changes the target.
    fn update_channel(
        &mut self,
        peer: PeerId,
        message: &UpdateChannel,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let channel_id = message.channel_id;
        let max_target = Target::from_le_bytes(message.maximum_target);
        let hash_rate = f64::from(message.nominal_hash_rate);
        let code = match self.channels.get_mut(&channel_id) {
            None => "invalid-channel-id",
            Some(_) if !OpenRequest::is_hash_rate(hash_rate) => "invalid-nominal-hashrate",
            Some(_) if !core.accepts_max_target(max_target) => "max-target-out-of-range",
            Some(channel) => return channel.update(peer, hash_rate, max_target, core, now, out),
        };
        out.send(peer, &UpdateChannelError { channel_id, error_code: Str0255::cut(code) });
    }

    /// A channel, or the group with all its members, ends (spec 5.3.9). One that is closed already is no error: both
    /// sides may close at once.
    fn close_channel(
        &mut self,
        peer: PeerId,
        message: &CloseChannel<'_>,
        core: &mut Core,
        now: Now,
    ) {
        let reason = message.reason_code.to_clean_string();
        tracing::debug!(%peer, channel_id = message.channel_id, reason, "channel closed by the client");
        if message.channel_id == self.group_channel_id {
            self.close_channels(core);
            self.idle_since = now.instant;
        } else if let Some(channel) = self.channels.remove(&message.channel_id) {
            channel.close(core);
            self.idle_since = now.instant;
        }
    }

    fn close_channels(&mut self, core: &mut Core) {
        core.channels -= self.held.len() as u32;
        self.held.clear();
        std::mem::take(&mut self.channels).into_values().for_each(|channel| channel.close(core));
    }

    fn is_idle(&self) -> bool {
        self.channels.is_empty() && self.held.is_empty()
    }

    /// An id that no channel or group of this connection has.
    pub(super) fn allocate_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = self.next_id.checked_add(1).unwrap_or(FIRST_CHANNEL_ID);
            if !self.channels.contains_key(&id) {
                return id;
            }
        }
    }
}

/// Behind 0, which clients take for "none", and the group.
const FIRST_CHANNEL_ID: u32 = 2;

/// Extension 0x0001: always answered. None is supported.
fn request_extensions(
    peer: PeerId,
    header: &Header,
    payload: &[u8],
    out: &mut Outbox<Effect>,
) -> Result<(), &'static str> {
    if (header.channel_msg, header.msg_type) != (false, RequestExtensions::TYPE) {
        return Err(reason::UNEXPECTED);
    }
    let (RequestExtensions { request_id, requested_extensions }, _) =
        RequestExtensions::decode(payload).map_err(|_| reason::MALFORMED)?;
    if requested_extensions.is_empty() {
        out.send(
            peer,
            &RequestExtensionsSuccess { request_id, supported_extensions: Seq064K::default() },
        );
    } else {
        let unsupported_extensions = requested_extensions;
        let required_extensions = Seq064K::default();
        out.send(
            peer,
            &RequestExtensionsError { request_id, unsupported_extensions, required_extensions },
        );
    }
    Ok(())
}
