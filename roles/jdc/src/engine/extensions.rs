//! Frames of extensions that we do not know (spec 3.4): with the channel bit they are passed on, with only the channel id
//! changed; without it they are dropped.
//!
//! To a pool all miners are one channel, of which we are the end where there are several (spec 3.4.1). So an extension
//! can be spoken between a pool and one miner's channel only: the first that speaks it has it until it closes or the pool
//! is another. Whatever the pool says in that extension goes to this channel and nobody else; what other channels say in
//! it ends here.
//!
//! When a channel that has exchanged such frames comes to work for another end it is told, since what both sides had
//! agreed on is void then (spec 3.6.4).

use std::collections::BTreeMap;
use std::time::Instant;

use adit_sv2::frame::Header;
use adit_sv2::messages::common::ChannelEndpointChanged;
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, WORKER_HASHRATE_TRACKING};
use adit_transport::{Now, Outbox, PeerId};

use super::downstream::Miner;
use super::source::Source;
use super::{Core, Effect, JdcEngine};

/// A frame to be passed on.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

/// Who speaks which extension with the pool.
#[derive(Debug, Default)]
pub(super) struct Talks {
    /// With whom.
    end: Option<End>,
    /// The channel that has an extension.
    held_by: BTreeMap<u16, (PeerId, u32)>,
    /// How much of the bucket is taken, in bytes, and when that was so.
    taken: Option<(f64, Instant)>,
}

/// The other end of miners' channels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// A channel of ours at this upstream's pool, which may say that what is behind it has changed.
    Pool { index: usize, session: u64, changes: u32 },
    /// We are.
    Here,
}

/// Extensions that are spoken at a time; frames of more end here.
const MAX_EXTENSIONS: usize = 64;
/// Bytes that all miners together may have passed on at once, and in a second after that: the connection to the pool is
/// everybody's, and ends where the pool does not take what is sent.
const BUCKET: f64 = 65_536.0;
const BUCKET_PER_SECOND: f64 = 8_192.0;

impl Talks {
    /// Whether a channel may speak an extension: it has it, or nobody has.
    fn takes(&mut self, extension_type: u16, peer: PeerId, channel_id: u32) -> bool {
        let full = self.held_by.len() >= MAX_EXTENSIONS;
        match self.held_by.get(&extension_type) {
            Some(holder) => *holder == (peer, channel_id),
            None if full => false,
            None => self.held_by.insert(extension_type, (peer, channel_id)).is_none(),
        }
    }

    /// Whether a frame of this length may be passed on to the pool.
    fn has_room(&mut self, len: usize, now: Now) -> bool {
        let drained = |(taken, at): (f64, Instant)| {
            let time = now.instant.duration_since(at).as_secs_f64();
            (taken - time * BUCKET_PER_SECOND).max(0.0)
        };
        let taken = self.taken.map_or(0.0, drained) + len as f64;
        if taken > BUCKET {
            return false;
        }
        self.taken = Some((taken, now.instant));
        true
    }

    /// A channel is gone.
    pub(super) fn closed(&mut self, peer: PeerId, channel_id: u32) {
        self.held_by.retain(|_, holder| *holder != (peer, channel_id));
    }
}

impl JdcEngine {
    /// A frame of a pool, to the channel that speaks this extension or, where it is the only one, to that which there is.
    pub(super) fn forward_down(
        &mut self,
        index: usize,
        frame: &Forwarded,
        out: &mut Outbox<Effect>,
    ) {
        if self.core.source.and_then(Source::upstream) != Some(index) {
            return;
        }
        let extension_type = frame.header.extension_type;
        let holder = self.core.talks.held_by.get(&extension_type).copied();
        let Some((peer, id)) = holder.or_else(|| self.only_channel()) else { return };
        let channel = self.miners.get_mut(&peer).and_then(|miner| miner.channels.get_mut(id));
        if let Some(channel) = channel
            && self.core.talks.takes(extension_type, peer, id)
        {
            channel.speaks_extensions = true;
            send(peer, id, &frame.header, &frame.payload, out);
        }
    }

    fn only_channel(&self) -> Option<(PeerId, u32)> {
        let mut all = self.miners.iter().flat_map(|(peer, miner)| {
            miner.channels.iter().map(|channel| (*peer, channel.server.id()))
        });
        let only = all.next()?;
        all.next().is_none().then_some(only)
    }

    /// Tells channels that have exchanged frames of extensions that the other end is another one now.
    pub(super) fn tell_ends(&mut self, out: &mut Outbox<Effect>) {
        // A pool that is away may come back: that is when its end is another.
        let Some(end) = self.core.end() else { return };
        let talks = &mut self.core.talks;
        if talks.end.replace(end).is_none_or(|former| former == end) {
            return;
        }
        talks.held_by.clear();
        for (peer, miner) in &mut self.miners {
            for channel in miner.channels.iter_mut() {
                if std::mem::take(&mut channel.speaks_extensions) {
                    out.send(*peer, &ChannelEndpointChanged { channel_id: channel.server.id() });
                }
            }
        }
    }
}

impl Core {
    /// Who is at the other end of miners' channels, where that is clear.
    fn end(&self) -> Option<End> {
        let Some(index) = self.source?.upstream() else { return Some(End::Here) };
        let channel = self.upstreams[index].pool.channel.as_ref()?;
        Some(End::Pool { index, session: channel.session, changes: channel.end_changes })
    }
}

impl Miner {
    /// A frame of a miner, to the pool that it works for.
    pub(super) fn forward_up(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(id) = payload.first_chunk().filter(|_| header.channel_msg) else { return };
        let id = u32::from_le_bytes(*id);
        // Known, and without messages of their own for channels.
        if matches!(header.extension_type, EXTENSIONS_NEGOTIATION | WORKER_HASHRATE_TRACKING) {
            return;
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.speaks_extensions = true;
        let Some(index) = core.source.and_then(Source::upstream) else { return };
        let pool = &core.upstreams[index].pool;
        if let (Some(server), Some(up)) = (pool.state.ready(), &pool.channel)
            && core.talks.takes(header.extension_type, peer, id)
        {
            if !core.talks.has_room(Header::LEN + payload.len(), now) {
                return core.metrics.extension_frame_dropped();
            }
            send(server, up.id, header, payload, out);
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
