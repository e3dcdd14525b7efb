//! The server's judgement of a share.

use std::hint::black_box;

use adit_mining::{RejectedShare, ServerChannel, Share, ShareError};
use adit_sv2::codec::B032;
use adit_sv2::messages::mining::{SubmitSharesExtended, SubmitSharesStandard};
use anyhow::{Context, bail, ensure};
use bitcoin::hashes::Hash;
use channels_sv2::server::extended::ExtendedChannel;
use channels_sv2::server::share_accounting::{ShareValidationError, ShareValidationResult};
use channels_sv2::server::standard::StandardChannel;

use crate::measure::{Item, Side, Timed, compare, timed};
use crate::wire::peer_error;
use crate::world::{self, CHANNEL_ID, Channels, EXTRANONCE_SIZE, MIN_NTIME, VERSION};

/// Shares per round, all on one job. Hundreds of times what a real job sees, so that the clock's
/// resolution does not count; duplicate detection is as full as that.
const SHARES: usize = 8_192;

/// A share of an extended channel: coinbase of about 250 bytes, 12 merkle steps, header, target,
/// duplicates, accounting.
///
/// Adit: `ServerChannel::check_share` of the decoded message, and `credit`. SRI:
/// `ExtendedChannel::validate_share` of the owned message (made beforehand; its applications pay a
/// copy for that). Every share is distinct and accepted. Each round is a new tip; the channel lives
/// on, with the memory it has. Check: the hash of every share, and that one sent again is refused.
pub(crate) fn check_share_merkle12(rounds: usize) -> anyhow::Result<Item> {
    let Channels { ours, peer } = world::extended()?;
    compare("check_share_merkle12", rounds, &mut Extended(ours), &mut PeerExtended(peer))
}

/// A share of a standard channel, the job's merkle root being known: header, target, duplicates,
/// accounting. The rest is as in [`check_share_merkle12`], with SRI's `StandardChannel`.
pub(crate) fn check_share_standard(rounds: usize) -> anyhow::Result<Item> {
    let Channels { ours, peer } = world::standard()?;
    compare("check_share_standard", rounds, &mut Standard(ours), &mut PeerStandard(peer))
}

struct Extended(ServerChannel);

impl Side for Extended {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let job_id = next_tip(&mut self.0, round)?;
        let fields = fields(round);
        let messages: Vec<_> = fields.iter().map(|fields| fields.extended(job_id)).collect();
        let mut hashes = Vec::with_capacity(SHARES * 32);
        let channel = &mut self.0;
        let (time, result) = timed(SHARES, || {
            for message in &messages {
                let accepted = channel.check_share(&Share::from(black_box(message)), MIN_NTIME)?;
                channel.credit(message.sequence_number, accepted.work);
                hashes.extend_from_slice(&accepted.hash.0);
            }
            Ok(())
        });
        finish(channel, result, &Share::from(&messages[SHARES / 2]))?;
        Ok((time, hashes))
    }
}

struct Standard(ServerChannel);

impl Side for Standard {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let job_id = next_tip(&mut self.0, round)?;
        let fields = fields(round);
        let messages: Vec<_> = fields.iter().map(|fields| fields.standard(job_id)).collect();
        let mut hashes = Vec::with_capacity(SHARES * 32);
        let channel = &mut self.0;
        let (time, result) = timed(SHARES, || {
            for message in &messages {
                let accepted = channel.check_share(&Share::from(black_box(message)), MIN_NTIME)?;
                channel.credit(message.sequence_number, accepted.work);
                hashes.extend_from_slice(&accepted.hash.0);
            }
            Ok(())
        });
        finish(channel, result, &Share::from(&messages[SHARES / 2]))?;
        Ok((time, hashes))
    }
}

/// Everything was accepted and counted, and what was accepted once is not again.
fn finish(
    channel: &mut ServerChannel,
    result: Result<(), RejectedShare>,
    again: &Share<'_>,
) -> anyhow::Result<()> {
    if let Err(rejected) = result {
        bail!("a share was refused: {}", rejected.error);
    }
    let success = channel.take_success().map(|message| message.new_submits_accepted_count);
    ensure!(success == Some(SHARES as u32), "{success:?} shares were counted");
    let refused = channel.check_share(again, MIN_NTIME).err().map(|refused| refused.error);
    ensure!(refused == Some(ShareError::DuplicateShare), "sent again: {refused:?}");
    Ok(())
}

/// Every round's job, on a new tip. Returns its id.
fn next_tip(channel: &mut ServerChannel, round: usize) -> anyhow::Result<u32> {
    let id = round as u64 + 1;
    let template = world::template(id, true);
    let job_id = id as u32;
    let job = world::job(channel, job_id, &template)?;
    channel.add_future_job(job_id, job)?;
    channel.set_new_prev_hash(job_id, &world::tip(id)?)?;
    Ok(job_id)
}

struct PeerExtended(ExtendedChannel);

impl Side for PeerExtended {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let id = round as u64 + 1;
        let channel = &mut self.0;
        let template = world::peer_template(&world::template(id, true))?;
        channel.on_new_template(template, world::peer_outputs()?).map_err(peer_error)?;
        let tip = world::peer_tip(&*world::tip(id)?, id);
        channel.on_set_new_prev_hash(tip).map_err(peer_error)?;
        let job_id = channel.get_active_job().context("no active job")?.get_job_id();
        let fields = fields(round);
        let messages: Vec<_> = fields.iter().map(|fields| fields.peer_extended(job_id)).collect();
        let again = fields[SHARES / 2].peer_extended(job_id);
        let mut hashes = Vec::with_capacity(SHARES * 32);
        let (time, result) = timed(SHARES, || {
            for message in messages {
                let hash = accepted(channel.validate_share(black_box(message)))?;
                hashes.extend_from_slice(&hash);
            }
            anyhow::Ok(())
        });
        result?;
        refused(channel.validate_share(again))?;
        Ok((time, hashes))
    }
}

struct PeerStandard(StandardChannel);

impl Side for PeerStandard {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let id = round as u64 + 1;
        let channel = &mut self.0;
        let template = world::peer_template(&world::template(id, true))?;
        channel.on_new_template(template, world::peer_outputs()?).map_err(peer_error)?;
        let tip = world::peer_tip(&*world::tip(id)?, id);
        channel.on_set_new_prev_hash(tip).map_err(peer_error)?;
        let job_id = channel.get_active_job().context("no active job")?.get_job_id();
        let fields = fields(round);
        let messages: Vec<_> = fields.iter().map(|fields| fields.peer_standard(job_id)).collect();
        let again = fields[SHARES / 2].peer_standard(job_id);
        let mut hashes = Vec::with_capacity(SHARES * 32);
        let (time, result) = timed(SHARES, || {
            for message in messages {
                let hash = accepted(channel.validate_share(black_box(message)))?;
                hashes.extend_from_slice(&hash);
            }
            anyhow::Ok(())
        });
        result?;
        refused(channel.validate_share(again))?;
        Ok((time, hashes))
    }
}

#[inline]
fn accepted(
    result: Result<ShareValidationResult, ShareValidationError>,
) -> anyhow::Result<[u8; 32]> {
    match result {
        Ok(ShareValidationResult::Valid(hash)) => Ok(hash.to_byte_array()),
        other => bail!("the peer said {other:?}"),
    }
}

fn refused(result: Result<ShareValidationResult, ShareValidationError>) -> anyhow::Result<()> {
    match result {
        Err(ShareValidationError::DuplicateShare(_)) => Ok(()),
        other => bail!("sent again, the peer said {other:?}"),
    }
}

/// What a miner varies.
struct Fields {
    sequence_number: u32,
    nonce: u32,
    ntime: u32,
    version: u32,
    extranonce: [u8; EXTRANONCE_SIZE],
}

/// Distinct shares.
fn fields(round: usize) -> Vec<Fields> {
    let base = (round * SHARES) as u32;
    (base..base + SHARES as u32)
        .map(|i| Fields {
            sequence_number: i,
            nonce: i.wrapping_mul(0x9e37_79b9),
            ntime: MIN_NTIME + i % 60,
            version: VERSION | (i << 13 & 0x1fff_e000),
            extranonce: u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(),
        })
        .collect()
}

impl Fields {
    fn extended(&self, job_id: u32) -> SubmitSharesExtended<'_> {
        SubmitSharesExtended {
            channel_id: CHANNEL_ID,
            sequence_number: self.sequence_number,
            job_id,
            nonce: self.nonce,
            ntime: self.ntime,
            version: self.version,
            extranonce: B032::new(&self.extranonce).expect("eight bytes"),
        }
    }

    fn standard(&self, job_id: u32) -> SubmitSharesStandard {
        SubmitSharesStandard {
            channel_id: CHANNEL_ID,
            sequence_number: self.sequence_number,
            job_id,
            nonce: self.nonce,
            ntime: self.ntime,
            version: self.version,
        }
    }

    fn peer_extended(&self, job_id: u32) -> mining_sv2::SubmitSharesExtendedOwned {
        mining_sv2::SubmitSharesExtendedOwned {
            channel_id: CHANNEL_ID,
            sequence_number: self.sequence_number,
            job_id,
            nonce: self.nonce,
            ntime: self.ntime,
            version: self.version,
            extranonce: self.extranonce.try_into().expect("eight bytes"),
        }
    }

    fn peer_standard(&self, job_id: u32) -> mining_sv2::SubmitSharesStandardOwned {
        mining_sv2::SubmitSharesStandardOwned {
            channel_id: CHANNEL_ID,
            sequence_number: self.sequence_number,
            job_id,
            nonce: self.nonce,
            ntime: self.ntime,
            version: self.version,
        }
    }
}
