//! Opening channels for miners (spec 5.3.2 to 5.3.6).
//!
//! A request that comes before there is a job is held, not answered: with an open channel and no work a miner could not
//! tell us from a broken pool, and with an error it would go away though work is a moment off. Held requests count as
//! channels towards every limit.

use adit_mining::channel::ChannelOptions;
use adit_mining::{ChannelKind, Grouping, ServerChannel, Target};
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{
    OpenExtendedMiningChannel, OpenExtendedMiningChannelSuccess, OpenMiningChannelError,
    OpenStandardMiningChannel, OpenStandardMiningChannelSuccess,
};
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::{Core, Effect, SLICE_LEN};

/// Accepted shares per job and channel above which further ones are refused: at 16 bytes each, and each paid for with
/// work, 16 MiB.
const MAX_SHARES_PER_JOB: usize = 1 << 20;

/// A request that is in order.
#[derive(Clone, Debug)]
pub(super) struct OpenRequest {
    request_id: u32,
    kind: ChannelKind,
    identity: String,
    /// Hashes per second; 0 if not known.
    pub(super) hash_rate: f64,
    max_target: Target,
    /// What the miner rolls.
    extranonce_size: usize,
}

impl OpenRequest {
    /// Checks a request; an error is its code.
    pub(super) fn standard(message: &OpenStandardMiningChannel<'_>) -> Result<Self, &'static str> {
        let identity = std::str::from_utf8(message.user_identity.as_bytes()).ok();
        let identity = identity.filter(|text| !text.contains(char::is_control));
        let hash_rate = f64::from(message.nominal_hash_rate);
        if !Self::is_hash_rate(hash_rate) {
            return Err("invalid-nominal-hashrate");
        }
        Ok(Self {
            request_id: message.request_id,
            kind: ChannelKind::Standard,
            identity: identity.ok_or("invalid-user-identity")?.to_owned(),
            hash_rate,
            max_target: Target::from_le_bytes(message.max_target),
            extranonce_size: 0,
        })
    }

    /// Checks a request; an error is its code.
    pub(super) fn extended(
        message: &OpenExtendedMiningChannel<'_>,
        standard_jobs: bool,
    ) -> Result<Self, &'static str> {
        let OpenExtendedMiningChannel {
            request_id,
            user_identity,
            nominal_hash_rate,
            max_target,
            min_extranonce_size,
        } = *message;
        if standard_jobs {
            return Err("extended-channels-not-supported-for-standard-jobs");
        }
        let common =
            OpenStandardMiningChannel { request_id, user_identity, nominal_hash_rate, max_target };
        let extranonce_size = usize::from(min_extranonce_size);
        let request = Self::standard(&common)?;
        Ok(Self { kind: ChannelKind::Extended, extranonce_size, ..request })
    }

    /// Whether a hashrate is a number that a device can have.
    pub(super) fn is_hash_rate(hash_rate: f64) -> bool {
        hash_rate.is_finite() && hash_rate >= 0.0
    }
}

impl Miner {
    /// Answers a request, or holds it until there is work.
    pub(super) fn open(
        &mut self,
        peer: PeerId,
        request_id: u32,
        request: Result<OpenRequest, &'static str>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let full = self.channels.len() + self.held.len()
            >= core.settings.max_channels_per_connection
            || core.channels >= core.settings.max_channels;
        let request = request
            .and_then(|request| if full { Err("channel-capacity-exhausted") } else { Ok(request) });
        match request {
            Err(code) => core.refuse_open(peer, request_id, code, out),
            Ok(request) => {
                core.channels += 1;
                core.rates_changed = true;
                self.held.push(request);
                if core.desk.current().is_some() {
                    self.open_held(peer, core, now, out);
                }
            }
        }
    }

    /// Answers what was held: there is work.
    pub(super) fn open_held(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        for request in std::mem::take(&mut self.held) {
            if let Err(code) = self.open_now(peer, &request, core, now, out) {
                core.channels -= 1;
                core.rates_changed = true;
                core.refuse_open(peer, request.request_id, code, out);
            }
        }
    }

    /// Answers a request that is counted in `core.channels`, and sends the newest work right behind it.
    fn open_now(
        &mut self,
        peer: PeerId,
        request: &OpenRequest,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if !core.accepts_max_target(request.max_target) {
            return Err("max-target-out-of-range");
        }
        let room = core.desk.current().map_or(0, |claim| claim.layout.size);
        if SLICE_LEN + request.extranonce_size > room {
            return Err("min-extranonce-size-too-large");
        }
        let slice = core.extranonces.allocate().map_err(|_| "channel-capacity-exhausted")?;
        let extranonce_prefix = match request.kind {
            ChannelKind::Extended => slice,
            // Made as long as the extranonces of a group that is there, it shares their jobs.
            ChannelKind::Standard => {
                let groups = self.channels.groups();
                let group = groups.iter().find(|_| self.channels.grouping() != Grouping::None);
                slice.padded(group.map_or(SLICE_LEN, |group| group.full_extranonce_size))
            }
        };
        let full_size = extranonce_prefix.len() + request.extranonce_size;
        let group_channel_id = self.channels.group_for(full_size);
        let id = self.channels.allocate_id();
        let mut server = ServerChannel::new(ChannelOptions {
            id,
            kind: request.kind,
            extranonce_prefix,
            extranonce_size: request.extranonce_size,
            target: core.target_for(request.hash_rate, request.max_target),
            max_target: request.max_target,
            max_shares_per_job: MAX_SHARES_PER_JOB,
        });
        let target = server.target().to_le_bytes();
        let (request_id, channel_id) = (request.request_id, id);
        let prefix = extranonce_prefix.as_field();
        match request.kind {
            ChannelKind::Standard => out.send(
                peer,
                &OpenStandardMiningChannelSuccess {
                    request_id,
                    channel_id,
                    target,
                    extranonce_prefix: prefix,
                    group_channel_id,
                },
            ),
            ChannelKind::Extended => out.send(
                peer,
                &OpenExtendedMiningChannelSuccess {
                    request_id,
                    channel_id,
                    target,
                    extranonce_size: request.extranonce_size as u16,
                    extranonce_prefix: prefix,
                    group_channel_id,
                },
            ),
        }
        if let Some(claim) = core.desk.current_mut()
            && let Some(job) = claim.job(full_size)
        {
            let (job_id, tip) = (claim.id, claim.tip.clone());
            out.say(peer, |bytes| {
                if let Err(error) = server.start_work(job_id, job, &tip, bytes) {
                    tracing::error!(%peer, %error, "no work for a new channel");
                }
            });
        }
        tracing::debug!(%peer, id, identity = request.identity, kind = ?request.kind, "channel opened");
        core.metrics.channel_opened(request.kind);
        let identity = request.identity.as_str().into();
        self.channels.insert(Channel::new(server, identity, request.hash_rate, core, now));
        Ok(())
    }
}

impl Core {
    fn refuse_open(
        &self,
        peer: PeerId,
        request_id: u32,
        code: &'static str,
        out: &mut Outbox<Effect>,
    ) {
        tracing::debug!(%peer, request_id, code, "channel refused");
        self.metrics.channel_refused(code);
        out.send(peer, &OpenMiningChannelError { request_id, error_code: Str0255::cut(code) });
    }
}
