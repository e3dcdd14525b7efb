//! Connections of miners and proxies.

use std::net::SocketAddr;
use std::time::Instant;

use adit_mining::{Channels, Grouping, Share, Target};
use adit_mining_server::{ChannelRequest, Session, is_hash_rate, mining_message, reason};
use adit_sv2::codec::Str0255;
use adit_sv2::frame::Header;
use adit_sv2::messages::mining::{
    CloseChannel, Mining, SetCustomMiningJobError, UpdateChannel, UpdateChannelError,
};
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, WORKER_HASHRATE_TRACKING};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::channel::Channel;
use super::shares::Submission;
use super::{Core, Effect, JdcEngine};

/// One connection.
#[derive(Debug)]
pub(super) struct Miner {
    pub(super) remote: SocketAddr,
    /// When it was opened, or lost its last channel.
    pub(super) idle_since: Instant,
    pub(super) session: Session,
    pub(super) channels: Channels<Channel>,
    /// Requests that wait for a first job.
    pub(super) held: Vec<ChannelRequest>,
}

impl JdcEngine {
    /// Returns whether more than a share has happened.
    pub(super) fn miner_event(
        &mut self,
        peer: PeerId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> bool {
        match event {
            Event::Opened { remote } => {
                self.miners.insert(peer, Miner::new(remote, now));
                self.core.metrics.connections(self.miners.len());
                return false;
            }
            Event::Frame(header, payload) => {
                let Some(miner) = self.miners.get_mut(&peer) else { return false };
                let channels = self.core.channels;
                match miner.frame(peer, &header, payload, &mut self.core, now, out) {
                    Ok(()) => return self.core.channels != channels || self.core.rates_changed,
                    Err(reason) => self.close_miner(peer, reason, out),
                }
            }
            Event::Line(_) => self.close_miner(peer, reason::LINE, out),
            Event::Closed(reason) => {
                tracing::debug!(%peer, reason, "miner disconnected");
                self.forget_miner(peer);
            }
        }
        true
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
            for channel in miner.channels.iter_mut() {
                channel.adjust(*peer, &mut self.core, now, out);
            }
        }
        idle.into_iter().for_each(|peer| self.close_miner(peer, reason::IDLE, out));
        self.measure_hash_rate();
        self.core.tell_hash_rates(now, out);
    }

    /// Adds up what miners do.
    pub(super) fn measure_hash_rate(&mut self) {
        let each = self.miners.values().map(|miner| {
            let open: f64 = miner.channels.iter().map(Channel::hash_rate).sum();
            let most = self.core.settings.start_hashrate;
            open + miner.held.iter().map(|request| request.hash_rate.min(most)).sum::<f64>()
        });
        // As pools are told it.
        self.core.desk.hash_rate = each.sum::<f64>().min(f32::MAX.into());
        self.core.metrics.hash_rate(self.core.desk.hash_rate);
    }

    fn close_miner(&mut self, peer: PeerId, reason: &'static str, out: &mut Outbox<Effect>) {
        tracing::debug!(%peer, reason, "miner's connection closed");
        out.close(peer, reason);
        self.forget_miner(peer);
    }

    fn forget_miner(&mut self, peer: PeerId) {
        if let Some(mut miner) = self.miners.remove(&peer) {
            miner.close_channels(peer, &mut self.core);
        }
        self.core.metrics.connections(self.miners.len());
    }
}

impl Miner {
    fn new(remote: SocketAddr, now: Now) -> Self {
        Self {
            remote,
            idle_since: now.instant,
            session: Session::default(),
            channels: Channels::new(Grouping::None),
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
        let offer = &core.settings.offer;
        if !self.session.is_set_up() {
            self.session.set_up(peer, self.remote, (header, payload), offer, out)?;
            let grouping = match (self.session.standard_jobs, core.settings.group_channels) {
                (true, _) => Grouping::None,
                (false, true) => Grouping::Broadcast,
                (false, false) => Grouping::Named,
            };
            self.channels = Channels::new(grouping);
            return Ok(());
        }
        match header.extension_type {
            0 => {}
            EXTENSIONS_NEGOTIATION => {
                return self.session.request_extensions(peer, (header, payload), offer, out);
            }
            _ => {
                self.forward_up(peer, header, payload, core, now, out);
                return Ok(());
            }
        }
        let (message, tlvs) = mining_message(peer, header, payload)?;
        match message {
            Mining::SubmitSharesExtended(m) => {
                // TLVs mean something only where their extension was negotiated (spec 3.4.3).
                let named = self.session.has_extension(WORKER_HASHRATE_TRACKING).then_some(tlvs);
                match named.map_or(Ok(None), |tlvs| tlvs.user_identity()) {
                    Ok(name) => {
                        let (channel_id, share) = (m.channel_id, Share::from(&m));
                        let submission = Submission { channel_id, share, name };
                        self.share(peer, &submission, core, now, out);
                    }
                    Err(_) => self.void_share(peer, &m, core, now, out),
                }
            }
            Mining::SubmitSharesStandard(m) => {
                let (channel_id, share) = (m.channel_id, Share::from(&m));
                let submission = Submission { channel_id, share, name: None };
                self.share(peer, &submission, core, now, out);
            }
            Mining::OpenStandardMiningChannel(m) => {
                let request = ChannelRequest::standard(&m);
                self.open(peer, m.request_id, request, core, now, out);
            }
            Mining::OpenExtendedMiningChannel(m) => {
                let request = ChannelRequest::extended(&m, self.session.standard_jobs);
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

    /// The miner's circumstances changed (spec 5.3.7). Answered only where it is invalid, or where it changes the target.
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
        let code = match self.channels.get_mut(channel_id) {
            None => "invalid-channel-id",
            Some(_) if !is_hash_rate(hash_rate) => "invalid-nominal-hashrate",
            Some(_) if !core.accepts_max_target(max_target) => "max-target-out-of-range",
            Some(channel) => {
                core.rates_changed = true;
                return channel.update(peer, hash_rate, max_target, core, now, out);
            }
        };
        out.send(peer, &UpdateChannelError { channel_id, error_code: Str0255::cut(code) });
    }

    /// A channel, or a group with all its members, ends (spec 5.3.9). One that is closed already is no error: both sides
    /// may close at once.
    fn close_channel(
        &mut self,
        peer: PeerId,
        message: &CloseChannel<'_>,
        core: &mut Core,
        now: Now,
    ) {
        let reason = message.reason_code.to_clean_string();
        tracing::debug!(%peer, channel_id = message.channel_id, reason, "channel closed by the miner");
        for channel in self.channels.close(message.channel_id) {
            channel.close(peer, core);
            self.idle_since = now.instant;
        }
    }

    fn close_channels(&mut self, peer: PeerId, core: &mut Core) {
        core.channels -= self.held.len() as u32;
        core.rates_changed = true;
        self.held.clear();
        self.channels.close_all().for_each(|channel| channel.close(peer, core));
    }

    fn is_idle(&self) -> bool {
        self.channels.is_empty() && self.held.is_empty()
    }
}
