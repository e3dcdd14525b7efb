//! Frames of extensions that we do not know: with the channel bit they are passed on, with only the channel id changed;
//! without it they are dropped (spec 3.4).

use adit_sv2::frame::Header;
use adit_transport::{Outbox, PeerId};

use super::downstream::Miner;
use super::source::Source;
use super::{Core, Effect, JdcEngine};

/// A frame to be passed on.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

impl JdcEngine {
    /// A frame of a pool, to every channel that works for it: they are one channel to the pool.
    pub(super) fn forward_down(
        &mut self,
        index: usize,
        frame: &Forwarded,
        out: &mut Outbox<Effect>,
    ) {
        if self.core.source.and_then(Source::upstream) != Some(index) {
            return;
        }
        for (peer, miner) in &self.miners {
            for channel in miner.channels.iter() {
                send(*peer, channel.server.id(), &frame.header, &frame.payload, out);
            }
        }
    }
}

impl Miner {
    /// A frame of a miner, to the pool that it works for.
    pub(super) fn forward_up(
        &self,
        header: &Header,
        payload: &[u8],
        core: &Core,
        out: &mut Outbox<Effect>,
    ) {
        let Some(id) = payload.first_chunk().filter(|_| header.channel_msg) else { return };
        let id = u32::from_le_bytes(*id);
        if self.channels.get(id).is_none() && self.channels.group(id).is_none() {
            return;
        }
        let Some(index) = core.source.and_then(Source::upstream) else { return };
        let pool = &core.upstreams[index].pool;
        if let (Some(peer), Some(channel)) = (pool.state.ready(), &pool.channel) {
            send(peer, channel.id, header, payload, out);
        }
    }
}

fn send(peer: PeerId, channel_id: u32, header: &Header, payload: &[u8], out: &mut Outbox<Effect>) {
    out.say(peer, |bytes| {
        bytes.extend(header.to_bytes());
        bytes.extend(channel_id.to_le_bytes());
        bytes.extend(payload.iter().skip(4));
    });
}
