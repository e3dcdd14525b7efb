//! The connection to a pool: one extended channel for all miners.

use std::sync::Arc;
use std::time::Instant;

use adit_mining::{Job, Target, Tip};
use adit_mining_server::{LinkState, REFUSED, SETUP_DEADLINE, setup_connection};
use adit_sv2::codec::{B032, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::keys::Sv2Url;
use adit_sv2::messages::common::{Common, PROTOCOL_MINING, Reconnect};
use adit_sv2::messages::mining::{
    Mining, NewExtendedMiningJob, OpenExtendedMiningChannel, OpenExtendedMiningChannelSuccess,
    REQUIRES_FIXED_VERSION, REQUIRES_WORK_SELECTION, SetNewPrevHash, SubmitSharesError,
    SubmitSharesExtended, SubmitSharesSuccess, UpdateChannel,
};
use adit_sv2::tlv::EXTENSIONS_NEGOTIATION;
use adit_transport::{DialTarget, Event, Now, Outbox, PeerId};

use super::extensions::Forwarded;
use super::names::Negotiation;
use super::provider::{PROGRAM, answer_to_setup};
use super::shares::Onward;
use super::source::Source;
use super::upstream::Layout;
use super::{Core, Effect, JdcEngine};

/// The pool of an upstream.
#[derive(Debug)]
pub(super) struct Pool {
    /// `host:port`.
    pub(super) name: String,
    pub(super) url: Sv2Url,
    /// Where it asked us to connect, once.
    redirect: Option<DialTarget>,
    pub(super) state: LinkState,
    /// It was tried to connect, or it was lost.
    pub(super) tried: bool,
    /// The connection does not say that we bring our own jobs: some pools give theirs only then.
    pub(super) plain: bool,
    /// Workers' names in shares.
    pub(super) names: Negotiation,
    /// Since when a request for a channel waits.
    opening: Option<Instant>,
    pub(super) channel: Option<UpChannel>,
    /// That of the last channel: work for a pool that is away is made as if it were there.
    pub(super) layout: Option<Layout>,
    /// Jobs for it must not allow version rolling.
    pub(super) fixed_version: bool,
    /// Bytes of extranonce to ask for, where it has refused more.
    ask_size: Option<u16>,
    sessions: u64,
}

/// Our channel.
#[derive(Debug)]
pub(super) struct UpChannel {
    /// Tells this channel from those before it.
    pub(super) session: u64,
    pub(super) id: u32,
    group: u32,
    /// Times that the pool said that somebody else is behind the channel now.
    pub(super) end_changes: u32,
    /// For jobs to come.
    pub(super) target: Target,
    /// When the target last changed.
    pub(super) retargeted: Option<Instant>,
    next_sequence_number: u32,
    /// Shares without an answer.
    pub(super) unanswered: u32,
    /// Since when there is no answer to any.
    waiting_since: Option<Instant>,
    refused_in_a_row: u32,
    /// The hashrate it was told, and when.
    told: (f32, Instant),
    /// The pool's own jobs.
    futures: Vec<Arc<Job>>,
    tip: Option<Arc<Tip>>,
    pub(super) own: Option<OwnWork>,
}

/// A job that the pool made, on its tip.
#[derive(Clone, Debug)]
pub(super) struct OwnWork {
    pub(super) job: Arc<Job>,
    pub(super) tip: Arc<Tip>,
}

/// Extranonce sizes that are asked for where more is refused.
const SMALLER_SIZES: [u16; 2] = [12, 8];
/// Future jobs of a pool that are kept.
const MAX_FUTURES: usize = 16;
/// A hashrate is told again where it differs by this part.
const RATE_STEP: f64 = 0.1;
/// No more often than this, in milliseconds (spec 5.3.7).
const RATE_INTERVAL_MS: u128 = 1_000;

impl Pool {
    pub(super) fn new(url: &Sv2Url) -> Self {
        Self {
            name: url.host_port(),
            url: url.clone(),
            redirect: None,
            state: LinkState::default(),
            tried: false,
            plain: false,
            names: Negotiation::default(),
            opening: None,
            channel: None,
            layout: None,
            fixed_version: false,
            ask_size: None,
            sessions: 0,
        }
    }
}

impl UpChannel {
    /// A share is without an answer since then.
    #[cfg(test)]
    pub(super) fn wait_since(&mut self, since: Instant) {
        self.waiting_since = Some(since);
    }

    fn is_addressed_by(&self, channel_id: u32) -> bool {
        channel_id == self.id || channel_id == self.group
    }
}

impl JdcEngine {
    /// Where to dial a pool next. A driver asks this before each attempt.
    pub fn pool_target(&mut self, index: usize) -> Option<DialTarget> {
        let pool = &mut self.core.upstreams.get_mut(index)?.pool;
        Some(pool.redirect.take().unwrap_or_else(|| DialTarget::from(&pool.url)))
    }
}

impl Core {
    /// Returns a frame that is to be passed on to miners.
    pub(super) fn pool_event(
        &mut self,
        index: usize,
        peer: PeerId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Option<Forwarded> {
        let pool = &mut self.upstreams[index].pool;
        match event {
            Event::Opened { .. } => {
                if let Some(old) = pool.state.peer() {
                    out.close(old, "replaced by a newer connection");
                    self.lose_pool(index, "replaced by a newer connection");
                }
                let pool = &mut self.upstreams[index].pool;
                pool.state = LinkState::SettingUp(peer, now.instant);
                let flags = if pool.plain { 0 } else { REQUIRES_WORK_SELECTION };
                out.send(peer, &setup_connection(PROGRAM, PROTOCOL_MINING, flags, &pool.url));
            }
            _ if pool.state.peer() != Some(peer) => {}
            Event::Frame(header, payload) if header.extension_type == EXTENSIONS_NEGOTIATION => {
                let done = self.extensions_answered(index, &header, payload, now, out);
                if let Err(reason) = done {
                    out.close(peer, reason);
                    self.lose_pool(index, reason);
                }
            }
            Event::Frame(header, payload) if header.extension_type != 0 => {
                let channel = pool.channel.as_ref()?;
                let id = header.channel_msg.then(|| payload.first_chunk()).flatten();
                let ours = id.is_some_and(|id| channel.is_addressed_by(u32::from_le_bytes(*id)));
                return ours.then(|| Forwarded { header, payload: payload.to_vec() });
            }
            Event::Frame(header, payload) => {
                if let Err(reason) = self.pool_frame(index, peer, &header, payload, now, out) {
                    out.close(peer, reason);
                    self.lose_pool(index, reason);
                }
            }
            Event::Line(_) => {
                out.close(peer, "line-on-a-frame-connection");
                self.lose_pool(index, "line-on-a-frame-connection");
            }
            Event::Closed(reason) => self.lose_pool(index, reason),
        }
        None
    }

    pub(super) fn pool_tick(&mut self, index: usize, now: Now, out: &mut Outbox<Effect>) {
        self.names_tick(index, now, out);
        let late = |since: Instant| now.instant.duration_since(since) >= SETUP_DEADLINE;
        let pool = &self.upstreams[index].pool;
        if let Some(peer) = pool.state.peer() {
            let reason = if pool.state.overdue(now).is_some() {
                Some("no-answer-to-setup-connection")
            } else if pool.opening.is_some_and(late) {
                Some("no-answer-to-open-channel")
            } else {
                None
            };
            if let Some(reason) = reason {
                out.close(peer, reason);
                self.lose_pool(index, reason);
            }
        }
        let timeout = self.settings.share_timeout;
        let waits = self.upstreams[index].pool.channel.as_ref().and_then(|c| c.waiting_since);
        if waits.is_some_and(|since| now.instant.duration_since(since) >= timeout) {
            self.fail_upstream(index, "it does not answer shares", now);
            if let Some(peer) = self.upstreams[index].pool.state.peer() {
                out.close(peer, "no-answer-to-shares");
                self.lose_pool(index, "it does not answer shares");
            }
        }
    }

    /// The connection is gone, and with it its channel and whatever the pool had accepted.
    pub(super) fn lose_pool(&mut self, index: usize, reason: &str) {
        let pool = &mut self.upstreams[index].pool;
        tracing::warn!(pool = pool.name, reason, "pool lost");
        self.metrics.connected("pool", &pool.name, false);
        pool.state = LinkState::Down(reason.to_owned());
        (pool.tried, pool.opening) = (true, None);
        pool.names.lost();
        if let Some(channel) = pool.channel.take() {
            self.metrics.onward("unanswered", channel.unanswered.into());
        }
        self.upstreams[index].well_since = None;
        self.desk.pool_lost(index);
    }

    /// Handles a frame; an error is the reason to close the connection.
    fn pool_frame(
        &mut self,
        index: usize,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        let pool = &mut self.upstreams[index].pool;
        if pool.state.ready().is_none() {
            match answer_to_setup(&pool.name, header, payload)? {
                Ok(flags) => {
                    pool.state = LinkState::Ready(peer);
                    pool.fixed_version = flags & REQUIRES_FIXED_VERSION != 0;
                    tracing::info!(pool = pool.name, "connected to the pool");
                    self.metrics.connected("pool", &pool.name, true);
                    self.negotiate(index, now, out);
                }
                Err(reason) => {
                    out.close(peer, REFUSED);
                    self.lose_pool(index, &reason);
                }
            }
            return Ok(());
        }
        match Common::decode(header, payload) {
            Ok((Common::Reconnect(message), _)) => {
                self.redirect(index, peer, &message, out);
                return Ok(());
            }
            Ok((Common::ChannelEndpointChanged(message), _)) => {
                if let Some(channel) = &mut pool.channel
                    && channel.is_addressed_by(message.channel_id)
                {
                    channel.end_changes = channel.end_changes.wrapping_add(1);
                    self.negotiate(index, now, out);
                }
                return Ok(());
            }
            _ => {}
        }
        let (message, _) = Mining::decode(header, payload).map_err(|error| {
            tracing::warn!(pool = pool.name, %error, "frame cannot be read");
            "malformed-frame"
        })?;
        match message {
            Mining::OpenExtendedMiningChannelSuccess(m) if pool.opening.is_some() => {
                return self.upstream_channel_opened(index, &m, now);
            }
            Mining::OpenMiningChannelError(m) if pool.opening.is_some() => {
                let code = m.error_code.to_clean_string();
                return self.upstream_channel_refused(index, &code, now, out);
            }
            Mining::SetCustomMiningJobSuccess(m) => {
                self.custom_job_accepted(index, m.request_id, m.job_id, now, out);
            }
            Mining::SetCustomMiningJobError(m) => {
                let code = m.error_code.to_clean_string();
                self.custom_job_refused(index, m.request_id, &code, now);
            }
            message => return self.channel_message(index, &message, now),
        }
        Ok(())
    }

    /// What is about the channel that is open.
    fn channel_message(
        &mut self,
        index: usize,
        message: &Mining<'_>,
        now: Now,
    ) -> Result<(), &'static str> {
        let upstream = &mut self.upstreams[index];
        let Some(channel) = &mut upstream.pool.channel else { return Ok(()) };
        match message {
            Mining::SubmitSharesSuccess(m) if m.channel_id == channel.id => {
                self.shares_accepted(index, m, now);
            }
            Mining::SubmitSharesError(m) if m.channel_id == channel.id => {
                self.share_refused(index, m, now);
            }
            Mining::SetTarget(m) if channel.is_addressed_by(m.channel_id) => {
                if m.maximum_target == [0; 32] {
                    return Err("target-of-zero");
                }
                channel.target = Target::from_le_bytes(m.maximum_target);
                channel.retargeted = Some(now.instant);
                self.scan_now = true;
            }
            Mining::SetExtranoncePrefix(m) if m.channel_id == channel.id => {
                let Some(layout) = &mut upstream.pool.layout else { return Ok(()) };
                // It would be another size of the whole (spec 5.3.10 knows no such change).
                if m.extranonce_prefix.as_bytes().len() != layout.prefix.len() {
                    return Err("prefix-of-another-length");
                }
                layout.prefix = m.extranonce_prefix.into();
                upstream.generation += 1;
            }
            Mining::SetGroupChannel(m) if m.channel_ids.iter().any(|id| id == channel.id) => {
                channel.group = m.group_channel_id;
            }
            Mining::CloseChannel(m) if channel.is_addressed_by(m.channel_id) => {
                let reason = m.reason_code.to_clean_string();
                self.fail_upstream(index, &format!("it closes our channel: {reason}"), now);
                return Err("channel-closed-by-the-pool");
            }
            Mining::NewExtendedMiningJob(m) if channel.is_addressed_by(m.channel_id) => {
                let Some(layout) = upstream.pool.layout else { return Ok(()) };
                return channel.new_job(m, layout);
            }
            Mining::SetNewPrevHash(m) if channel.is_addressed_by(m.channel_id) => {
                return channel.new_prev_hash(m);
            }
            // About another channel, or nothing that a server says to a client of ours.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn open_upstream_channel(
        &mut self,
        index: usize,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let in_use = self.source.is_some_and(|source| source.upstream() == Some(index));
        let nominal_hash_rate = if in_use { self.desk.hash_rate as f32 } else { 0.0 };
        let upstream = &mut self.upstreams[index];
        let (identity, pool) = (&upstream.identity, &mut upstream.pool);
        let Some(peer) = pool.state.ready() else { return };
        pool.opening = Some(now.instant);
        let size = pool.ask_size.unwrap_or(self.settings.extranonce_size);
        let request = OpenExtendedMiningChannel {
            request_id: 1,
            user_identity: Str0255::cut(identity),
            nominal_hash_rate,
            max_target: [0xff; 32],
            min_extranonce_size: size,
        };
        out.send(peer, &request);
    }

    fn upstream_channel_opened(
        &mut self,
        index: usize,
        message: &OpenExtendedMiningChannelSuccess<'_>,
        now: Now,
    ) -> Result<(), &'static str> {
        let upstream = &mut self.upstreams[index];
        let pool = &mut upstream.pool;
        let layout = Layout {
            prefix: message.extranonce_prefix.into(),
            size: usize::from(message.extranonce_size),
        };
        let asked = usize::from(pool.ask_size.unwrap_or(self.settings.extranonce_size));
        if layout.size < asked || layout.full_size() > MAX_FULL_SIZE {
            return Err("useless-extranonce-size");
        }
        if message.target == [0; 32] {
            return Err("target-of-zero");
        }
        pool.opening = None;
        if pool.layout != Some(layout) {
            pool.layout = Some(layout);
            upstream.generation += 1;
        }
        pool.sessions += 1;
        let in_use = self.source.is_some_and(|source| source.upstream() == Some(index));
        tracing::info!(pool = pool.name, channel_id = message.channel_id, prefix = %layout.prefix, size = layout.size, "channel open at the pool");
        pool.channel = Some(UpChannel {
            session: pool.sessions,
            id: message.channel_id,
            group: message.group_channel_id,
            end_changes: 0,
            target: Target::from_le_bytes(message.target),
            retargeted: None,
            next_sequence_number: 0,
            unanswered: 0,
            waiting_since: None,
            refused_in_a_row: 0,
            told: (if in_use { self.desk.hash_rate as f32 } else { 0.0 }, now.instant),
            futures: Vec::new(),
            tip: None,
            own: None,
        });
        self.scan_now = true;
        Ok(())
    }

    fn upstream_channel_refused(
        &mut self,
        index: usize,
        code: &str,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        let pool = &mut self.upstreams[index].pool;
        pool.opening = None;
        let asked = pool.ask_size.unwrap_or(self.settings.extranonce_size);
        let smaller = SMALLER_SIZES.into_iter().find(|size| *size < asked);
        if let Some(smaller) = smaller.filter(|_| code == "min-extranonce-size-too-large") {
            pool.ask_size = Some(smaller);
            self.open_upstream_channel(index, now, out);
            return Ok(());
        }
        self.fail_upstream(index, &format!("it opens no channel: {code}"), now);
        Err("no-channel-at-the-pool")
    }

    /// It wants us elsewhere: followed under the same authority key, and where there is none, only on the same host.
    fn redirect(
        &mut self,
        index: usize,
        peer: PeerId,
        message: &Reconnect<'_>,
        out: &mut Outbox<Effect>,
    ) {
        let pool = &mut self.upstreams[index].pool;
        let mut target = DialTarget::from(&pool.url);
        let host = message.new_host.to_clean_string();
        let elsewhere = !host.is_empty() && host != target.host;
        if elsewhere && target.authority_key.is_none() {
            tracing::warn!(
                pool = pool.name,
                host,
                "not followed: no authority key is configured to know it by"
            );
        } else {
            if elsewhere {
                target.host = host;
            }
            if message.new_port != 0 {
                target.port = message.new_port;
            }
            tracing::info!(pool = pool.name, to = %target, "the pool asks us to reconnect");
            pool.redirect = Some(target);
        }
        out.close(peer, "asked-to-reconnect");
        self.lose_pool(index, "it asked us to reconnect");
    }

    /// Sends a share on a job that the pool knows.
    pub(super) fn send_share(
        &mut self,
        index: usize,
        job_id: u32,
        share: &Onward,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let pool = &mut self.upstreams[index].pool;
        let (Some(peer), Some(channel)) = (pool.state.ready(), &mut pool.channel) else {
            return self.metrics.onward("no-pool", 1);
        };
        let Ok(extranonce) = B032::new(&share.extranonce) else { return };
        let sequence_number = channel.next_sequence_number;
        channel.next_sequence_number = sequence_number.wrapping_add(1);
        channel.unanswered += 1;
        channel.waiting_since.get_or_insert(now.instant);
        let message = SubmitSharesExtended {
            channel_id: channel.id,
            sequence_number,
            job_id,
            nonce: share.nonce,
            ntime: share.ntime,
            version: share.version,
            extranonce,
        };
        match pool.names.field(&share.worker) {
            Some(name) => out.send_tlv(peer, &message, &[name]),
            None => out.send(peer, &message),
        }
        self.metrics.onward("sent", 1);
    }

    fn shares_accepted(&mut self, index: usize, message: &SubmitSharesSuccess, now: Now) {
        let Some(channel) = &mut self.upstreams[index].pool.channel else { return };
        let count = message.new_submits_accepted_count;
        channel.unanswered = channel.unanswered.saturating_sub(count);
        channel.waiting_since = (channel.unanswered > 0).then_some(now.instant);
        channel.refused_in_a_row = 0;
        self.metrics.onward("accepted", count.into());
    }

    fn share_refused(&mut self, index: usize, message: &SubmitSharesError<'_>, now: Now) {
        let Some(channel) = &mut self.upstreams[index].pool.channel else { return };
        channel.unanswered = channel.unanswered.saturating_sub(1);
        channel.waiting_since = (channel.unanswered > 0).then_some(now.instant);
        let code = message.error_code.to_clean_string();
        self.metrics.onward("rejected", 1);
        // The pool may have heard of a new tip before us.
        if code == "stale-share" {
            return tracing::debug!(code, "share refused by the pool");
        }
        channel.refused_in_a_row += 1;
        let refused = channel.refused_in_a_row;
        tracing::warn!(
            pool = self.upstreams[index].name(),
            code,
            "valid share refused by the pool"
        );
        if refused >= self.settings.rejected_shares {
            self.fail_upstream(index, &format!("it refuses valid shares: {code}"), now);
        }
    }

    /// Tells pools what hashrate is behind their channels: all of it where it is used, none elsewhere (spec 5.3.7).
    pub(super) fn tell_hash_rates(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let in_use = self.source.and_then(Source::upstream);
        for (index, upstream) in self.upstreams.iter_mut().enumerate() {
            let (Some(peer), Some(channel)) =
                (upstream.pool.state.ready(), &mut upstream.pool.channel)
            else {
                continue;
            };
            let rate = if in_use == Some(index) { self.desk.hash_rate } else { 0.0 };
            let (told, at) = channel.told;
            let told = f64::from(told);
            let moved = (rate - told).abs() > told * RATE_STEP;
            // From or to nothing is news that does not wait.
            let at_once = (told == 0.0) != (rate == 0.0);
            let waited = now.instant.duration_since(at).as_millis() >= RATE_INTERVAL_MS;
            if moved && (at_once || waited) {
                channel.told = (rate as f32, now.instant);
                let update = UpdateChannel {
                    channel_id: channel.id,
                    nominal_hash_rate: rate as f32,
                    maximum_target: [0xff; 32],
                };
                out.send(peer, &update);
            }
        }
    }
}

/// What a `PushSolution` can carry.
const MAX_FULL_SIZE: usize = 32;

impl UpChannel {
    fn new_job(
        &mut self,
        message: &NewExtendedMiningJob<'_>,
        layout: Layout,
    ) -> Result<(), &'static str> {
        let job = Job::from_extended(message, layout.full_size());
        let job = Arc::new(job.map_err(|_| "impossible-job")?);
        match (message.min_ntime, &self.tip) {
            (None, _) => {
                if self.futures.len() == MAX_FUTURES {
                    self.futures.remove(0);
                }
                self.futures.push(job);
            }
            (Some(min_ntime), Some(tip)) => {
                let tip = Arc::new(Tip { min_ntime, ..**tip });
                self.own = Some(OwnWork { job, tip });
            }
            (Some(_), None) => return Err("job-without-previous-hash"),
        }
        Ok(())
    }

    fn new_prev_hash(&mut self, message: &SetNewPrevHash) -> Result<(), &'static str> {
        let tip = Arc::new(Tip::from_mining(message).ok_or("nbits-that-are-no-target")?);
        let job = self.futures.iter().find(|job| job.id() == message.job_id);
        self.own = job.map(|job| OwnWork { job: job.clone(), tip: tip.clone() });
        self.tip = Some(tip);
        self.futures.clear();
        Ok(())
    }
}
