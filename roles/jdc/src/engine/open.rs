//! Opening channels for miners (spec 5.3.2 to 5.3.6).
//!
//! A request that comes before there is a job is held, not answered: with an open channel and no work a miner could not
//! tell us from a broken pool, and with an error it would go away though work is a moment off. Held requests count as
//! channels towards every limit.

use adit_mining::channel::ChannelOptions;
use adit_mining::{ChannelKind, Grouping, ServerChannel};
use adit_mining_server::ChannelRequest;
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::OpenMiningChannelError;
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::{Core, Effect, SLICE_LEN};

/// Accepted shares per job and channel above which further ones are refused: at 16 bytes each, and each paid for with
/// work, 16 MiB.
const MAX_SHARES_PER_JOB: usize = 1 << 20;

impl Miner {
    /// Answers a request, or holds it until there is work.
    pub(super) fn open(
        &mut self,
        peer: PeerId,
        request_id: u32,
        request: Result<ChannelRequest, &'static str>,
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
        request: &ChannelRequest,
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
        server.set_group_channel_id(group_channel_id);
        out.say(peer, |bytes| server.write_opened(request.request_id, bytes));
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
