//! One miner that speaks Stratum V2: a connection with one standard or one extended channel.

use std::time::Duration;

use adit_mining::{ClientChannel, Target};
use adit_sv2::codec::{B032, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{
    self, Common, PROTOCOL_MINING, PROTOCOL_VERSION, SetupConnection,
};
use adit_sv2::messages::mining::{
    self, CloseChannel, Mining, OpenExtendedMiningChannel, OpenStandardMiningChannel,
    REQUIRES_STANDARD_JOBS, SubmitSharesExtended, SubmitSharesStandard,
};
use adit_transport::{Now, Outbox, PeerId};

use crate::engine::{Effect, News};
use crate::hasher::{Found, Root, Work};

/// The miner's side of a connection.
pub(crate) struct Sv2 {
    user: String,
    host: String,
    port: u16,
    /// Bytes of extranonce to ask for; none opens a standard channel.
    extranonce_size: Option<u16>,
    hash_rate: f64,
    stage: Stage,
    generation: u64,
    /// What the current generation works on: the job's id on the channel and the tip below it.
    current: Option<(u32, [u8; 32])>,
    /// When the tip of the current work came, to keep nTime with the clock.
    tip_seen: Option<([u8; 32], Now)>,
}

enum Stage {
    SettingUp,
    Opening,
    Open(Box<ClientChannel>),
    Closed,
}

impl Sv2 {
    pub(crate) fn new(
        user: String,
        host: String,
        port: u16,
        extranonce_size: Option<u16>,
        hash_rate: f64,
    ) -> Self {
        let stage = Stage::Closed;
        let (generation, current, tip_seen) = (0, None, None);
        Self { user, host, port, extranonce_size, hash_rate, stage, generation, current, tip_seen }
    }

    /// The connection stands: says hello.
    pub(crate) fn opened(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        self.stage = Stage::SettingUp;
        self.current = None;
        let standard = self.extranonce_size.is_none();
        out.send(
            peer,
            &SetupConnection {
                protocol: PROTOCOL_MINING,
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
                flags: if standard { REQUIRES_STANDARD_JOBS } else { 0 },
                endpoint_host: Str0255::cut(&self.host),
                endpoint_port: self.port,
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
        // An extension that was never asked for is none of a device's business (spec 3.4.1).
        if header.extension_type != 0 {
            return;
        }
        let outcome = match self.stage {
            Stage::Closed => Ok(()),
            Stage::SettingUp => self.set_up(header, payload, peer, out),
            Stage::Opening | Stage::Open(_) if is_common(header) => self.common(header, payload),
            Stage::Opening => self.opening(header, payload, news),
            Stage::Open(_) => self.mining(header, payload, now, news),
        };
        if let Err(reason) = outcome {
            self.stage = Stage::Closed;
            news.push(News::Failed(reason));
        }
    }

    /// Sends the share, if its job still is the current one.
    pub(crate) fn found(&mut self, found: &Found, peer: PeerId, out: &mut Outbox<Effect>) -> bool {
        let (Stage::Open(channel), Some((job_id, _))) = (&mut self.stage, self.current) else {
            return false;
        };
        if found.generation != self.generation || channel.work_on(job_id).is_none() {
            return false;
        }
        let channel_id = channel.id();
        let sequence_number = channel.next_sequence_number();
        let Found { nonce, ntime, version, ref extranonce, .. } = *found;
        match (self.extranonce_size, B032::new(extranonce)) {
            (Some(_), Ok(extranonce)) => out.send(
                peer,
                &SubmitSharesExtended {
                    channel_id,
                    sequence_number,
                    job_id,
                    nonce,
                    ntime,
                    version,
                    extranonce,
                },
            ),
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
        if let Stage::Open(channel) = std::mem::replace(&mut self.stage, Stage::Closed) {
            let reason_code = Str0255::cut("client-shutdown");
            out.send(peer, &CloseChannel { channel_id: channel.id(), reason_code });
        }
    }

    fn set_up(
        &mut self,
        header: &Header,
        payload: &[u8],
        peer: PeerId,
        out: &mut Outbox<Effect>,
    ) -> Result<(), String> {
        match decode_common(header, payload)? {
            Common::SetupConnectionSuccess(success) => {
                let standard = self.extranonce_size.is_none();
                if standard && success.flags & mining::REQUIRES_EXTENDED_CHANNELS != 0 {
                    return Err("the server opens no standard channels".into());
                }
                self.open_channel(peer, out);
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

    fn open_channel(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        let user_identity = Str0255::cut(&self.user);
        let (request_id, max_target) = (1, Target::MAX.to_le_bytes());
        let nominal_hash_rate = self.hash_rate as f32;
        match self.extranonce_size {
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
        self.stage = Stage::Opening;
    }

    fn opening(
        &mut self,
        header: &Header,
        payload: &[u8],
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        let channel = match (decode_mining(header, payload)?, self.extranonce_size) {
            (Mining::OpenStandardMiningChannelSuccess(opened), None) => {
                ClientChannel::standard(&opened)
            }
            (Mining::OpenExtendedMiningChannelSuccess(opened), Some(asked)) => {
                if opened.extranonce_size < asked {
                    let granted = opened.extranonce_size;
                    return Err(format!("{granted} bytes of extranonce granted, {asked} needed"));
                }
                ClientChannel::extended(&opened)
            }
            (Mining::OpenMiningChannelError(error), _) => {
                return Err(format!("channel refused: {}", error.error_code.to_clean_string()));
            }
            (other, _) => return Err(format!("{} while a channel opens", other.name())),
        };
        let channel = channel.map_err(|error| format!("an unusable channel: {error}"))?;
        news.push(News::ExtranoncePrefix(channel.extranonce_prefix().to_vec()));
        news.push(News::Difficulty(channel.target().difficulty()));
        self.stage = Stage::Open(Box::new(channel));
        Ok(())
    }

    fn mining(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Now,
        news: &mut Vec<News>,
    ) -> Result<(), String> {
        let Stage::Open(channel) = &mut self.stage else { return Ok(()) };
        let message = decode_mining(header, payload)?;
        let unusable =
            |error: adit_mining::channel::ClientError| format!("{}: {error}", message.name());
        let ours = |channel_id: u32| channel.is_addressed_by(channel_id);
        match &message {
            Mining::NewMiningJob(job) if ours(job.channel_id) => {
                channel.new_mining_job(job).map_err(unusable)?;
            }
            Mining::NewExtendedMiningJob(job) if ours(job.channel_id) => {
                channel.new_extended_mining_job(job).map_err(unusable)?;
            }
            Mining::SetNewPrevHash(tip) if ours(tip.channel_id) => {
                channel.set_new_prev_hash(tip).map_err(unusable)?;
                self.tip_seen = Some((tip.prev_hash, now));
            }
            Mining::SetTarget(target) if ours(target.channel_id) => {
                channel.set_target(target).map_err(unusable)?;
                news.push(News::Difficulty(channel.target().difficulty()));
            }
            Mining::SetExtranoncePrefix(prefix) if ours(prefix.channel_id) => {
                channel.set_extranonce_prefix(prefix).map_err(unusable)?;
                news.push(News::ExtranoncePrefix(channel.extranonce_prefix().to_vec()));
            }
            Mining::SetGroupChannel(group)
                if group.channel_ids.iter().any(|id| id == channel.id()) =>
            {
                channel.set_group_channel_id(group.group_channel_id);
            }
            Mining::SubmitSharesSuccess(success) if ours(success.channel_id) => {
                news.push(News::Accepted(success.new_submits_accepted_count.into()));
            }
            Mining::SubmitSharesError(error) if ours(error.channel_id) => {
                news.push(News::Rejected(error.error_code.to_clean_string()));
            }
            Mining::CloseChannel(close) if ours(close.channel_id) => {
                return Err(format!("channel closed: {}", close.reason_code.to_clean_string()));
            }
            // For another channel, or nothing that a device waits for.
            _ => return Ok(()),
        }
        self.update_work(now, news);
        Ok(())
    }

    /// Hands the hashing threads the newest job, if it is not the one that they have.
    fn update_work(&mut self, now: Now, news: &mut Vec<News>) {
        let Stage::Open(channel) = &self.stage else { return };
        let Some(active) = channel.active() else { return };
        if self.current == Some((active.job_id, active.tip.prev_hash)) {
            return;
        }
        let tip_age = match self.tip_seen {
            Some((prev_hash, seen)) if prev_hash == active.tip.prev_hash => {
                now.instant.saturating_duration_since(seen.instant)
            }
            _ => Duration::ZERO,
        };
        // The clock of whoever made the job goes on (spec 5.3.11): start no lower than the job says.
        let ntime =
            active.min_ntime.max(active.tip.min_ntime.saturating_add(tip_age.as_secs() as u32));
        let root = match (active.merkle_root, active.job.coinbase()) {
            (Some(root), _) => Root::Fixed(root),
            (None, Some(coinbase)) => Root::Rolled {
                coinbase_prefix: [coinbase.prefix(), active.extranonce_prefix].concat(),
                extranonce_size: channel.extranonce_size(),
                coinbase_suffix: coinbase.suffix().to_vec(),
                merkle_path: active.job.merkle_path().to_vec(),
            },
            (None, None) => return,
        };
        self.generation += 1;
        self.current = Some((active.job_id, active.tip.prev_hash));
        let rolls = active.job.version_rolling_allowed();
        news.push(News::Difficulty(active.target.difficulty()));
        news.push(News::Work(Some(Work {
            generation: self.generation,
            version: active.job.version(),
            version_mask: if rolls { adit_mining::job::VERSION_ROLLING_MASK } else { 0 },
            prev_hash: active.tip.prev_hash,
            ntime,
            nbits: active.tip.nbits,
            target: active.target,
            root,
        })));
    }

    fn common(&mut self, header: &Header, payload: &[u8]) -> Result<(), String> {
        match decode_common(header, payload)? {
            Common::Reconnect(_) => Err("the server asked to reconnect".into()),
            Common::ChannelEndpointChanged(_) => Ok(()),
            other => Err(format!("{} on a connection that is set up", other.name())),
        }
    }
}

fn is_common(header: &Header) -> bool {
    Common::ALL.iter().any(|message| message.msg_type == header.msg_type)
}

fn decode_common<'p>(header: &Header, payload: &'p [u8]) -> Result<common::Common<'p>, String> {
    Common::decode(header, payload).map(|(message, _)| message).map_err(|error| error.to_string())
}

fn decode_mining<'p>(header: &Header, payload: &'p [u8]) -> Result<Mining<'p>, String> {
    Mining::decode(header, payload).map(|(message, _)| message).map_err(|error| error.to_string())
}
