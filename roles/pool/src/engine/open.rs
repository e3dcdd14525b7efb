//! Opening channels (spec 5.3.2 to 5.3.6).
//!
//! A request that comes before the first template is held, not answered: with an open channel and no work a client could
//! not tell the pool from a broken one, and with an error it would go away though work is a moment off. Held requests
//! count as channels towards every limit, and are answered as soon as there is work.

use std::sync::Arc;

use adit_mining::channel::ChannelOptions;
use adit_mining::extranonce::MAX_EXTRANONCE_LEN;
use adit_mining::{ChannelKind, Grouping, ServerChannel};
use adit_mining_server::ChannelRequest;
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{
    OpenExtendedMiningChannel, OpenMiningChannelError, OpenStandardMiningChannel,
};
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::{Core, Effect};
use crate::store::Identity;

/// Largest extranonce that an extended channel is granted, in bytes: what is asked is what is given, since some firmware
/// cannot take more. Together with the prefix it must leave room for height and tag in the scriptSig.
const MAX_EXTRANONCE_SIZE: u16 = 16;

/// Accepted shares per job and channel above which further ones are refused: at 16 bytes each, and each paid for with
/// work, 16 MiB. At 30,000 shares a second on one channel, 35 seconds.
const MAX_SHARES_PER_JOB: usize = 1 << 20;

/// Checks a request; an error is its code.
pub(super) fn standard(
    message: &OpenStandardMiningChannel<'_>,
    work_selection: bool,
) -> Result<ChannelRequest, &'static str> {
    if work_selection {
        return Err("standard-channels-not-supported-for-custom-work");
    }
    of_an_account(ChannelRequest::standard(message)?)
}

/// Checks a request; an error is its code.
pub(super) fn extended(
    message: &OpenExtendedMiningChannel<'_>,
    standard_jobs: bool,
) -> Result<ChannelRequest, &'static str> {
    let request = ChannelRequest::extended(message, standard_jobs)?;
    if message.min_extranonce_size > MAX_EXTRANONCE_SIZE {
        return Err("min-extranonce-size-too-large");
    }
    of_an_account(request)
}

/// Somebody must be credited.
fn of_an_account(request: ChannelRequest) -> Result<ChannelRequest, &'static str> {
    match identity(&request.identity).account.is_empty() {
        true => Err("invalid-user-identity"),
        false => Ok(request),
    }
}

/// `account` or `account.worker`.
fn identity(user_identity: &str) -> Identity {
    let (account, worker) = user_identity.split_once('.').unwrap_or((user_identity, ""));
    Identity { account: account.to_owned(), worker: worker.to_owned() }
}

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
                if core.bench.has_work() {
                    self.open_now(peer, &request, core, now, out);
                } else {
                    self.held.push(request);
                }
            }
        }
    }

    /// Answers what was held: there is work now.
    pub(super) fn open_held(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        for request in std::mem::take(&mut self.held) {
            self.open_now(peer, &request, core, now, out);
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
    ) {
        let prefix = if core.accepts_max_target(request.max_target) {
            core.extranonces.allocate().ok_or("channel-capacity-exhausted")
        } else {
            Err("max-target-out-of-range")
        };
        let extranonce_prefix = match prefix {
            Ok(prefix) => prefix,
            Err(code) => {
                core.channels -= 1;
                return core.refuse_open(peer, request.request_id, code, out);
            }
        };
        let full_size = match request.kind {
            ChannelKind::Extended => extranonce_prefix.len() + request.extranonce_size,
            ChannelKind::Standard => self.full_size_of_standard(extranonce_prefix.len()),
        };
        let extranonce_prefix = match request.kind {
            ChannelKind::Extended => extranonce_prefix,
            ChannelKind::Standard => extranonce_prefix.padded(full_size),
        };
        let group_channel_id = self.channels.group_for(full_size);
        let id = self.channels.allocate_id();
        let target = core.target_for(request.hash_rate, request.max_target);
        let mut server = ServerChannel::new(ChannelOptions {
            id,
            kind: request.kind,
            extranonce_prefix,
            extranonce_size: request.extranonce_size,
            target,
            max_target: request.max_target,
            max_shares_per_job: MAX_SHARES_PER_JOB,
        });
        server.set_group_channel_id(group_channel_id);
        if self.session.work_selection {
            server.expect_custom_jobs();
        }
        out.say(peer, |bytes| server.write_opened(request.request_id, bytes));
        core.bench.send_newest(peer, &mut server, out);
        let identity = identity(&request.identity);
        tracing::debug!(%peer, id, %identity, kind = ?request.kind, "channel opened");
        core.metrics.channel_opened(request.kind);
        let channel = Channel::new(server, Arc::new(identity), request.hash_rate, core, now);
        self.channels.insert(channel);
        self.regroup_opened(peer, out);
    }

    /// Bytes of a standard channel's whole extranonce: as many as the connection's first group has, so that one job is
    /// for all of them (spec 5.1.2.1), where jobs are sent to groups.
    fn full_size_of_standard(&self, least: usize) -> usize {
        let first =
            self.channels.groups().first().map_or(least, |group| group.full_extranonce_size);
        let grouped = self.channels.grouping() == Grouping::Broadcast;
        if grouped && (least..=MAX_EXTRANONCE_LEN).contains(&first) { first } else { least }
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
