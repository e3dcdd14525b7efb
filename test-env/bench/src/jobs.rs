//! From a template to what a channel is sent.

use std::hint::black_box;
use std::sync::Arc;

use adit_mining::ServerChannel;
use adit_mining::job::CHANNEL_ID_AT;
use anyhow::Context;
use channels_sv2::server::extended::ExtendedChannel;
use codec_sv2::{Encoder, MessageFrame};
use mining_sv2::{CHANNEL_BIT_NEW_EXTENDED_MINING_JOB, MESSAGE_TYPE_NEW_EXTENDED_MINING_JOB};

use crate::measure::{Item, Side, Timed, compare, timed};
use crate::wire::peer_error;
use crate::world::{self, CHANNEL_ID, Channels};

/// Templates per round.
const TEMPLATES: usize = 500;

/// A template for the current tip becomes a job that the channel judges shares by, and the plaintext
/// `NewExtendedMiningJob` frame for the channel.
///
/// Adit: `JobFactory::job`, `ServerChannel::add_active_job`, `Job::write_frame`, the channel id
/// patched in. SRI: `ExtendedChannel::on_new_template` with the owned template and outputs (made
/// beforehand), then its message cloned out of the channel and encoded by `Encoder`, as for a
/// downstream. Both decoded the template before. For the further channels of a group either side
/// only copies. Check: the frames are the same bytes.
pub(crate) fn job_from_template_merkle12(rounds: usize) -> anyhow::Result<Item> {
    let Channels { mut ours, mut peer } = world::extended()?;
    let first = world::template(0, true);
    let tip = world::tip(0)?;
    ours.add_future_job(1, world::job(&ours, 1, &first)?)?;
    ours.set_new_prev_hash(1, &tip)?;
    peer.on_new_template(world::peer_template(&first)?, world::peer_outputs()?)
        .map_err(peer_error)?;
    peer.on_set_new_prev_hash(world::peer_tip(&tip, 0)).map_err(peer_error)?;
    compare(
        "job_from_template_merkle12",
        rounds,
        &mut Ours { channel: ours },
        &mut Peer { channel: peer },
    )
}

struct Ours {
    channel: ServerChannel,
}

impl Side for Ours {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let templates: Vec<_> = ids(round).map(|id| world::template(id, false)).collect();
        let factory = world::factory()?;
        let tip = world::tip(0)?;
        let size = self.channel.full_extranonce_size();
        let mut out = Vec::with_capacity(TEMPLATES * 1024);
        let (time, result) = timed(TEMPLATES, || {
            for template in &templates {
                let job_id = template.id as u32;
                let job = Arc::new(factory.job(job_id, black_box(template), size)?);
                let frame = out.len();
                job.write_frame(job_id, Some(tip.min_ntime), &mut out);
                out[frame + CHANNEL_ID_AT..frame + CHANNEL_ID_AT + 4]
                    .copy_from_slice(&CHANNEL_ID.to_le_bytes());
                self.channel.add_active_job(job_id, job, &tip)?;
            }
            anyhow::Ok(())
        });
        result?;
        Ok((time, out))
    }
}

struct Peer {
    channel: ExtendedChannel,
}

impl Side for Peer {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let outputs = world::peer_outputs()?;
        let inputs = ids(round)
            .map(|id| Ok((world::peer_template(&world::template(id, false))?, outputs.clone())));
        let inputs = inputs.collect::<anyhow::Result<Vec<_>>>()?;
        let mut encoder = Encoder::new();
        let mut out = Vec::with_capacity(TEMPLATES * 1024);
        let (time, result) = timed(TEMPLATES, || {
            for (template, outputs) in inputs {
                self.channel.on_new_template(black_box(template), outputs).map_err(peer_error)?;
                let job = self.channel.get_active_job().context("no active job")?;
                let frame = MessageFrame::from_message(
                    job.get_job_message().clone(),
                    MESSAGE_TYPE_NEW_EXTENDED_MINING_JOB,
                    0,
                    CHANNEL_BIT_NEW_EXTENDED_MINING_JOB,
                )
                .map_err(peer_error)?;
                out.extend_from_slice(encoder.encode(frame).map_err(peer_error)?.as_ref());
            }
            anyhow::Ok(())
        });
        result?;
        Ok((time, out))
    }
}

/// Of both the templates and the jobs: SRI counts its jobs from 1, which the first one had.
fn ids(round: usize) -> impl Iterator<Item = u64> {
    let first = (round * TEMPLATES) as u64 + 2;
    first..first + TEMPLATES as u64
}
