//! One connection that speaks Stratum V2: one miner on each of its standard or extended channels.

use std::collections::HashMap;
use std::time::Duration;

use adit_mining::channel::ClientError;
use adit_mining::{ActiveWork, Change, ChannelKind, ClientChannel, ClientChannels, Target};
use adit_sv2::codec::{B032, Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{
    self, Common, PROTOCOL_MINING, PROTOCOL_VERSION, SetupConnection,
};
use adit_sv2::messages::extensions::{Extensions, RequestExtensions};
use adit_sv2::messages::mining::{
    self, CloseChannel, Mining, OpenExtendedMiningChannel, OpenStandardMiningChannel,
    REQUIRES_STANDARD_JOBS, SubmitSharesExtended, SubmitSharesStandard,
};
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, Tlv, WORKER_HASHRATE_TRACKING, worker_name};
use adit_transport::{Now, Outbox, PeerId};

use crate::engine::{Effect, News};
use crate::hasher::{Found, Root, Work};
use crate::requests::Requests;

/// How to speak.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The identity of each miner: one channel each.
    pub(crate) users: Vec<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Bytes of extranonce to ask for; none opens standard channels.
    pub(crate) extranonce_size: Option<u16>,
    /// Whether the server is to give standard channels a job of their own each.
    pub(crate) standard_jobs: bool,
    /// Of each channel.
    pub(crate) hash_rate: f64,
    /// Whether shares are to name their worker, where the server takes that.
    pub(crate) worker_tlv: bool,
    /// Spreads what would otherwise come at one time.
    pub(crate) seed: u64,
}

/// The miners' side of a connection.
pub(crate) struct Sv2 {
    options: Options,
    stage: Stage,
    channels: ClientChannels,
    miners: Vec<Miner>,
    requests: Requests,
    /// Index of the miner by channel id.
    by_channel: HashMap<u32, usize>,
    /// Last number given to a piece of work.
    generation: u64,
    /// When the last tip came, to keep nTime with the clock.
    tip_seen: Option<([u8; 32], Now)>,
    /// The last request for extensions.
    extensions_request: u16,
    /// Whether extension 0x0002 is in force.
    names_workers: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    SettingUp,
    /// Extensions were asked for; not waited for in vain (0x0001, 4.3).
    Negotiating(Now),
    /// Channels were asked for.
    Running,
    Closed,
}

#[derive(Default)]
struct Miner {
    channel: Option<u32>,
    generation: u64,
    /// What the current generation works on: the job's id on the channel and the tip below it.
    current: Option<(u32, [u8; 32])>,
}

/// For an answer to `RequestExtensions`: a server that does not know it says nothing.
const NEGOTIATION_TIME: Duration = Duration::from_secs(2);

impl Sv2 {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            requests: Requests::new(options.seed),
            options,
            stage: Stage::Closed,
            channels: ClientChannels::default(),
            miners: Vec::new(),
            by_channel: HashMap::new(),
            generation: 0,
            tip_seen: None,
            extensions_request: 0,
            names_workers: false,
        }
    }

    /// The connection stands: says hello.
    pub(crate) fn opened(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        self.stage = Stage::SettingUp;
        self.channels = ClientChannels::default();
        self.miners = self.options.users.iter().map(|_| Miner::default()).collect();
        self.requests.begin(self.miners.len());
        self.by_channel.clear();
        self.names_workers = false;
        out.send(
            peer,
            &SetupConnection {
                protocol: PROTOCOL_MINING,
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
                flags: if self.options.standard_jobs { REQUIRES_STANDARD_JOBS } else { 0 },
                endpoint_host: Str0255::cut(&self.options.host),
                endpoint_port: self.options.port,
                vendor: Str0255::cut("adit"),
                hardware_version: Str0255::cut("adit-mining-device"),
                firmware: Str0255::cut(env!("CARGO_PKG_VERSION")),
                device_id: Str0255::default(),
            },
        );
    }

    /// A frame of the server.
    pub(crate) fn received(
        &mut self,
        header: &Header,
        payload: &[u8],
        peer: PeerId,
        now: Now,
        out: &mut Outbox<Effect>,
        news: &mut Vec<News>,
    ) {
        let outcome = match (self.stage, header.extension_type) {
            (Stage::Closed, _) => Ok(()),
            (Stage::SettingUp, 0) => self.set_up(header, payload, peer, now, out),
            (_, 0) if is_common(header) => self.common(header, payload, peer, out, news),
            (_, 0) => self.mining(header, payload, now, news),
            (_, EXTENSIONS_NEGOTIATION) if self.options.worker_tlv => {
                self.extensions(header, payload, peer, out, news)
            }
            // An extension that was never asked for is none of a device's business (spec 3.4.1).
            _ => Ok(()),
        };
        if let Err(reason) = outcome {
            self.stage = Stage::Closed;
            news.push(News::Failed(reason));
        }
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, peer: PeerId, now: Now, out: &mut Outbox<Effect>) {
        if let Stage::Negotiating(since) = self.stage
            && now.instant.saturating_duration_since(since.instant) >= NEGOTIATION_TIME
        {
            tracing::info!("the server does not negotiate extensions");
            self.open_channels(peer, out);
        }
        if let Stage::Running = self.stage {
            while let Some(miner) = self.requests.due(now) {
                self.open_channel(miner, peer, out);
            }
        }
    }

    /// Sends the share of one of the miners, if its job still is the current one.
    pub(crate) fn found(
        &mut self,
        miner: usize,
        found: &Found,
        peer: PeerId,
        out: &mut Outbox<Effect>,
    ) -> bool {
        let Some(Miner {
            channel: Some(channel_id), generation, current: Some((job_id, _)), ..
        }) = self.miners.get(miner)
        else {
            return false;
        };
        let (channel_id, job_id) = (*channel_id, *job_id);
        let Some(channel) = self.channels.get_mut(channel_id) else { return false };
        if found.generation != *generation || channel.work_on(job_id).is_none() {
            return false;
        }
        let sequence_number = channel.next_sequence_number();
        let Found { nonce, ntime, version, ref extranonce, .. } = *found;
        match (channel.kind(), B032::new(extranonce)) {
            (ChannelKind::Extended, Ok(extranonce)) => {
                let share = SubmitSharesExtended {
                    channel_id,
                    sequence_number,
                    job_id,
                    nonce,
                    ntime,
                    version,
                    extranonce,
                };
                let worker = worker_name(&self.options.users[miner]);
                match Tlv::user_identity(worker.as_bytes()) {
                    Ok(tlv) if self.names_workers => out.send_tlv(peer, &share, &[tlv]),
                    _ => out.send(peer, &share),
                }
            }
            _ => out.send(
                peer,
                &SubmitSharesStandard {
                    channel_id,
                    sequence_number,
                    job_id,
                    nonce,
                    ntime,
                    version,
                },
            ),
        }
        true
    }

    /// Says that it is going.
    pub(crate) fn leave(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        self.stage = Stage::Closed;
        for channel in std::mem::take(&mut self.channels).iter() {
            let reason_code = Str0255::cut("client-shutdown");
            out.send(peer, &CloseChannel { channel_id: channel.id(), reason_code });
        }
    }

    fn set_up(
        &mut self,
        header: &Header,
        payload: &[u8],
        peer: PeerId,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), String> {
        match decode_common(header, payload)? {
            Common::SetupConnectionSuccess(success) => {
                let standard = self.options.extranonce_size.is_none();
                if standard && success.flags & mining::REQUIRES_EXTENDED_CHANNELS != 0 {
                    return Err("the server opens no standard channels".into());
                }
                if self.options.worker_tlv {
                    self.stage = Stage::Negotiating(now);
                    self.request_extensions(peer, out);
                } else {
                    self.open_channels(peer, out);
                }
                Ok(())
            }
            Common::SetupConnectionError(error) => Err(format!(
                "connection refused: {} (flags {:#x})",
                error.error_code.to_clean_string(),
                error.flags
            )),
            other => Err(format!("{} before the answer to SetupConnection", other.name())),
        }
    }

    fn request_extensions(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        self.extensions_request = self.extensions_request.wrapping_add(1);
        let wanted = [WORKER_HASHRATE_TRACKING];
        if let Ok(requested_extensions) = Seq064K::new(&wanted) {
            let request_id = self.extensions_request;
            out.send(peer, &RequestExtensions { request_id, requested_extensions });
        }
    }

    fn extensions(
        &mut self,
        header: &Header,
        payload: &[u8],
        peer: PeerId,
        out: &mut Outbox<Effect>,
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        let (message, _) =
            Extensions::decode(header, payload).map_err(|error| error.to_string())?;
        let supported = match message {
            Extensions::RequestExtensionsSuccess(m) if m.request_id == self.extensions_request => {
                m.supported_extensions.iter().any(|id| id == WORKER_HASHRATE_TRACKING)
            }
            Extensions::RequestExtensionsError(m) if m.request_id == self.extensions_request => {
                tracing::info!(answer = %m, "the server does not take workers' names");
                false
            }
            _ => return Ok(()),
        };
        self.names_workers = supported;
        news.push(News::NamesWorkers(supported));
        if let Stage::Negotiating(_) = self.stage {
            self.open_channels(peer, out);
        }
        Ok(())
    }

    fn open_channels(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        self.stage = Stage::Running;
        for miner in 0..self.miners.len() {
            self.open_channel(miner, peer, out);
        }
    }

    fn open_channel(&mut self, miner: usize, peer: PeerId, out: &mut Outbox<Effect>) {
        let Some(user) = self.options.users.get(miner) else { return };
        let user_identity = Str0255::cut(user);
        let request_id = self.requests.ask(miner);
        let max_target = Target::MAX.to_le_bytes();
        let nominal_hash_rate = self.options.hash_rate as f32;
        match self.options.extranonce_size {
            Some(min_extranonce_size) => out.send(
                peer,
                &OpenExtendedMiningChannel {
                    request_id,
                    user_identity,
                    nominal_hash_rate,
                    max_target,
                    min_extranonce_size,
                },
            ),
            None => out.send(
                peer,
                &OpenStandardMiningChannel {
                    request_id,
                    user_identity,
                    nominal_hash_rate,
                    max_target,
                },
            ),
        }
    }

    fn mining(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Now,
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        let (message, _) = Mining::decode(header, payload).map_err(|error| error.to_string())?;
        match &message {
            Mining::OpenStandardMiningChannelSuccess(opened) => {
                self.channel_opened(opened.request_id, ClientChannel::standard(opened), now, news)
            }
            Mining::OpenExtendedMiningChannelSuccess(opened) => {
                let (granted, asked) =
                    (opened.extranonce_size, self.options.extranonce_size.unwrap_or(0));
                if granted < asked {
                    return Err(format!("{granted} bytes of extranonce granted, {asked} needed"));
                }
                self.channel_opened(opened.request_id, ClientChannel::extended(opened), now, news)
            }
            Mining::OpenMiningChannelError(error) => {
                let miner = self.asked(error.request_id)?;
                self.requests.again(miner, now);
                self.trouble(
                    format!("channel refused: {}", error.error_code.to_clean_string()),
                    news,
                )
            }
            Mining::SubmitSharesSuccess(success) => {
                if self.channels.get(success.channel_id).is_some() {
                    news.push(News::Accepted(success.new_submits_accepted_count.into()));
                }
                Ok(())
            }
            Mining::SubmitSharesError(error) => {
                if self.channels.get(error.channel_id).is_some() {
                    news.push(News::Rejected(error.error_code.to_clean_string()));
                }
                Ok(())
            }
            _ => self.changed(&message, now, news),
        }
    }

    /// Whose request it was that is answered.
    fn asked(&mut self, request_id: u32) -> Result<usize, String> {
        self.requests.answered(request_id).ok_or_else(|| "an answer to no request".to_owned())
    }

    fn channel_opened(
        &mut self,
        request_id: u32,
        channel: Result<ClientChannel, ClientError>,
        now: Now,
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        let index = self.asked(request_id)?;
        let channel = channel.map_err(|error| format!("an unusable channel: {error}"))?;
        let kind = match self.options.extranonce_size {
            Some(_) => ChannelKind::Extended,
            None => ChannelKind::Standard,
        };
        if channel.kind() != kind {
            return Err("a channel of the wrong kind".into());
        }
        let id = channel.id();
        news.push(News::ExtranoncePrefix(channel.extranonce_prefix().to_vec()));
        news.push(News::Difficulty(channel.target().difficulty()));
        if self.channels.insert(channel).is_some() {
            return Err(format!("a second channel {id}"));
        }
        self.by_channel.insert(id, index);
        self.miners[index] = Miner { channel: Some(id), ..Miner::default() };
        if self.requests.opened(index, now) {
            news.push(News::Reopened);
        }
        news.push(News::Channels(self.channels.len()));
        Ok(())
    }

    /// A message about jobs, tips, targets, prefixes, groups and closing.
    fn changed(
        &mut self,
        message: &Mining<'_>,
        now: Now,
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        let to_group = addressee(message).is_some_and(|id| self.channels.get(id).is_none());
        let mut changes = Vec::new();
        let outcome = self.channels.receive(message, |channel, change| {
            changes.push((channel.id(), change));
        });
        outcome.map_err(|error| format!("{}: {error}", message.name()))?;
        if to_group && !changes.is_empty() {
            news.push(News::GroupMessage);
        }
        if let (Mining::SetNewPrevHash(tip), false) = (message, changes.is_empty()) {
            self.tip_seen = Some((tip.prev_hash, now));
        }
        let mut closed = false;
        for (id, change) in changes {
            let Some(miner) = self.by_channel.get(&id).copied() else { continue };
            match (change, self.channels.get(id)) {
                (Change::Job(_) | Change::Tip, _) => self.update_work(miner, now, news),
                (Change::Target, Some(channel)) => {
                    news.push(News::Difficulty(channel.target().difficulty()));
                }
                (Change::Prefix, Some(channel)) => {
                    news.push(News::ExtranoncePrefix(channel.extranonce_prefix().to_vec()));
                }
                (Change::Closed, _) => {
                    self.by_channel.remove(&id);
                    self.miners[miner] = Miner::default();
                    self.requests.again(miner, now);
                    news.push(News::Work(miner, None));
                    closed = true;
                }
                _ => {}
            }
        }
        if let (Mining::CloseChannel(close), true) = (message, closed) {
            news.push(News::Channels(self.channels.len()));
            let reason = format!("channel closed: {}", close.reason_code.to_clean_string());
            return self.trouble(reason, news);
        }
        Ok(())
    }

    /// A miner has no channel and will ask again. Where none has one any more the connection is of no use: whatever is
    /// the matter, the next one begins anew.
    fn trouble(&self, reason: String, news: &mut Vec<News>) -> Result<(), String> {
        if self.channels.is_empty() && self.requests.are_answered() {
            return Err(reason);
        }
        news.push(News::Trouble(reason));
        Ok(())
    }

    /// Hands the hashing threads a miner's newest job, if it is not the one that they have.
    fn update_work(&mut self, index: usize, now: Now, news: &mut Vec<News>) {
        let miner = &mut self.miners[index];
        let Some(channel) = miner.channel.and_then(|id| self.channels.get(id)) else { return };
        let Some(active) = channel.active() else { return };
        if miner.current == Some((active.job_id, active.tip.prev_hash)) {
            return;
        }
        let tip_age = match self.tip_seen {
            Some((prev_hash, seen)) if prev_hash == active.tip.prev_hash => {
                now.instant.saturating_duration_since(seen.instant)
            }
            _ => Duration::ZERO,
        };
        let Some(root) = root(&active, channel.extranonce_size()) else { return };
        self.generation += 1;
        miner.generation = self.generation;
        miner.current = Some((active.job_id, active.tip.prev_hash));
        let rolls = active.job.version_rolling_allowed();
        news.push(News::Difficulty(active.target.difficulty()));
        let work = Work {
            generation: self.generation,
            version: active.job.version(),
            version_mask: if rolls { adit_mining::job::VERSION_ROLLING_MASK } else { 0 },
            prev_hash: active.tip.prev_hash,
            // The clock of whoever made the job goes on (spec 5.3.11): start no lower than the job says.
            ntime: active
                .min_ntime
                .max(active.tip.min_ntime.saturating_add(tip_age.as_secs() as u32)),
            nbits: active.tip.nbits,
            target: active.target,
            root,
        };
        news.push(News::Work(index, Some(work)));
    }

    fn common(
        &mut self,
        header: &Header,
        payload: &[u8],
        peer: PeerId,
        out: &mut Outbox<Effect>,
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        match decode_common(header, payload)? {
            Common::Reconnect(reconnect) => {
                self.stage = Stage::Closed;
                news.push(News::Reconnect {
                    host: reconnect.new_host.to_clean_string(),
                    port: reconnect.new_port,
                });
                Ok(())
            }
            // What was negotiated is void, and negotiation begins again (spec 3.6.4).
            Common::ChannelEndpointChanged(changed) => {
                let ours = self.channels.get(changed.channel_id).is_some();
                if ours && self.options.worker_tlv {
                    self.names_workers = false;
                    news.push(News::NamesWorkers(false));
                    self.request_extensions(peer, out);
                }
                Ok(())
            }
            other => Err(format!("{} on a connection that is set up", other.name())),
        }
    }
}

/// Where the merkle root comes from.
fn root(active: &ActiveWork<'_>, extranonce_size: usize) -> Option<Root> {
    if let Some(root) = active.merkle_root {
        return Some(Root::Fixed(root));
    }
    let coinbase = active.job.coinbase()?;
    Some(Root::Rolled {
        coinbase_prefix: [coinbase.prefix(), active.extranonce_prefix].concat(),
        extranonce_size,
        coinbase_suffix: coinbase.suffix().to_vec(),
        merkle_path: active.job.merkle_path().to_vec(),
    })
}

/// The channel or group that a message is for, of those that groups are sent.
fn addressee(message: &Mining<'_>) -> Option<u32> {
    match message {
        Mining::NewExtendedMiningJob(m) => Some(m.channel_id),
        Mining::SetNewPrevHash(m) => Some(m.channel_id),
        Mining::SetTarget(m) => Some(m.channel_id),
        Mining::CloseChannel(m) => Some(m.channel_id),
        _ => None,
    }
}

fn is_common(header: &Header) -> bool {
    Common::ALL.iter().any(|message| message.msg_type == header.msg_type)
}

fn decode_common<'p>(header: &Header, payload: &'p [u8]) -> Result<common::Common<'p>, String> {
    Common::decode(header, payload).map(|(message, _)| message).map_err(|error| error.to_string())
}
