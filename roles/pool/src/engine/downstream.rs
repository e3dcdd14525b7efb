//! Connections of miners and proxies.

use std::net::SocketAddr;
use std::time::Instant;

use adit_mining::channel::Retargeted;
use adit_mining::{Channels, Grouping, Share, Target};
use adit_mining_server::{ChannelRequest, Session, is_hash_rate, mining_message, reason};
use adit_sv2::codec::Str0255;
use adit_sv2::frame::Header;
use adit_sv2::messages::mining::{
    CloseChannel, Mining, SubmitSharesExtended, UpdateChannel, UpdateChannelError,
};
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, Tlvs, WORKER_HASHRATE_TRACKING};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::channel::Channel;
use super::custom::Custom;
use super::open;
use super::shares::Submission;
use super::{Core, Effect, PoolEngine};
use crate::metrics::Census;

/// One connection.
#[derive(Debug)]
pub(super) struct Miner {
    pub(super) remote: SocketAddr,
    /// When it was opened, or lost its last channel.
    idle_since: Instant,
    pub(super) session: Session,
    /// It was told to reconnect elsewhere.
    pub(super) sent_away: bool,
    pub(super) channels: Channels<Channel>,
    pub(super) custom: Custom,
    /// Requests that wait for a first template.
    pub(super) held: Vec<ChannelRequest>,
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
        let mut census = Census::default();
        for (peer, miner) in &mut self.miners {
            if miner.is_idle()
                && now.instant.duration_since(miner.idle_since) >= self.core.settings.open_deadline
            {
                idle.push(*peer);
            }
            if miner.session.work_selection {
                miner.expire_custom_jobs(*peer, &mut self.core, now, out);
            }
            let mut wanted = Vec::new();
            for channel in miner.channels.iter_mut() {
                if let Some(target) = channel.adjust(&self.core, now) {
                    wanted.push((channel.server.id(), target));
                }
                census.hash_rate += channel.hash_rate();
            }
            if !wanted.is_empty() {
                miner.retarget(*peer, &wanted, &mut self.core, now, out);
            }
            *match (miner.session.is_set_up(), miner.is_idle()) {
                (false, _) => &mut census.setting_up,
                (true, true) => &mut census.idle,
                (true, false) => &mut census.mining,
            } += 1;
        }
        self.core.metrics.census(&census);
        idle.into_iter().for_each(|peer| self.close_miner(peer, reason::IDLE, out));
    }

    /// Forgets workers that are gone for long.
    pub(super) fn sweep_workers(&mut self, now: Now) {
        for channel in self.miners.values_mut().flat_map(|miner| miner.channels.iter_mut()) {
            channel.workers.sweep(&mut self.core.workers, now.instant);
        }
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
            session: Session::default(),
            sent_away: false,
            channels: Channels::new(Grouping::None),
            custom: Custom::default(),
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
            self.channels = Channels::new(match self.session.standard_jobs {
                true => Grouping::None,
                false => core.settings.grouping,
            });
            return Ok(());
        }
        match header.extension_type {
            0 => {}
            EXTENSIONS_NEGOTIATION => {
                return self.session.request_extensions(peer, (header, payload), offer, out);
            }
            // Messages of extensions that were not negotiated are dropped (spec 3.4).
            _ => return Ok(()),
        }
        if !self.session.has_required(offer) {
            // It was told, or did not ask, and goes on all the same (extension 0x0001, section 4).
            return Err(reason::NO_EXTENSION);
        }
        let (message, tlvs) = mining_message(peer, header, payload)?;
        match message {
            Mining::SubmitSharesExtended(m) => {
                let submission = self.submission(&m, tlvs);
                self.share(peer, &submission, core, now, out);
            }
            Mining::SubmitSharesStandard(m) => {
                let share = Share::from(&m);
                let submission = Submission { channel_id: m.channel_id, share, worker: Ok(None) };
                self.share(peer, &submission, core, now, out);
            }
            Mining::OpenStandardMiningChannel(m) => {
                let request = open::standard(&m, self.session.work_selection);
                self.open(peer, m.request_id, request, core, now, out);
            }
            Mining::OpenExtendedMiningChannel(m) => {
                let request = open::extended(&m, self.session.standard_jobs);
                self.open(peer, m.request_id, request, core, now, out);
            }
            Mining::UpdateChannel(m) => self.update_channel(peer, &m, core, now, out),
            Mining::CloseChannel(m) => self.close_channel(peer, &m, core, now),
            Mining::SetCustomMiningJob(m) => self.set_custom_job(peer, &m, core, now, out),
            other => {
                tracing::debug!(%peer, message = other.name(), "message that only servers send");
                return Err(reason::UNEXPECTED);
            }
        }
        Ok(())
    }

    /// A share, and whose it is: TLVs mean something only where their extension was negotiated.
    fn submission<'a>(&self, message: &SubmitSharesExtended<'a>, tlvs: Tlvs<'a>) -> Submission<'a> {
        let worker = match self.session.has_extension(WORKER_HASHRATE_TRACKING) {
            true => tlvs.user_identity().map(|name| Some(name.unwrap_or_default())),
            false => Ok(None),
        };
        Submission { channel_id: message.channel_id, share: Share::from(message), worker }
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
        let code = match self.channels.get_mut(channel_id) {
            None => "invalid-channel-id",
            Some(_) if !is_hash_rate(hash_rate) => "invalid-nominal-hashrate",
            Some(_) if !core.accepts_max_target(max_target) => "max-target-out-of-range",
            Some(channel) => {
                return channel.update(peer, hash_rate, max_target, core, now, out);
            }
        };
        out.send(peer, &UpdateChannelError { channel_id, error_code: Str0255::cut(code) });
    }

    /// Other targets at one time, and the live jobs anew, so that they count at once. A group whose members all get the
    /// same hears it once: where the network's difficulty, or the configuration, moved the limit that they are at.
    fn retarget(
        &mut self,
        peer: PeerId,
        wanted: &[(u32, Target)],
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let mut told = Vec::new();
        out.say(peer, |bytes| told = self.channels.set_targets(wanted, bytes));
        for Retargeted { id, channels } in told {
            core.metrics.set_targets(channels);
            let job_id = core.bench.allocate_id();
            let now = now.unix_secs();
            out.say(peer, |bytes| self.channels.renew_jobs(id, job_id, now, bytes));
        }
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
        let closed = self.channels.close(message.channel_id);
        if !closed.is_empty() {
            self.idle_since = now.instant;
        }
        closed.into_iter().for_each(|channel| channel.close(core));
    }

    fn close_channels(&mut self, core: &mut Core) {
        core.channels -= self.held.len() as u32;
        self.held.clear();
        self.channels.close_all().for_each(|channel| channel.close(core));
    }

    fn is_idle(&self) -> bool {
        self.channels.is_empty() && self.held.is_empty()
    }
}
