//! What a hub's lock guards: the engine, its outbox, and the sending side of every connection.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use adit_sv2::frame::Header;
use adit_sv2::noise::Sealer;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use crate::connection::{Mode, Shared};
use crate::engine::Order;
use crate::metrics::LinkMetrics;
use crate::reader::Batch;
use crate::tls::TlsSession;
use crate::{CloseReason, ConnectionLimits, Engine, Event, Now, Outbox, PeerId};

/// Bytes of the sealing buffer that are kept from peer to peer.
const KEPT_SEALED: usize = 1 << 20;
/// Bytes of a spill that are written at once, so that the lock is not held for long.
const FLUSH_AT_ONCE: usize = 256 << 10;
/// Said to one peer in answer to one read, above which it is delivered before the next message is looked at. Against
/// small requests with large answers, of which one read holds a thousand: what is kept for a peer must have a bound.
const ANSWERED_AT_ONCE: usize = 1 << 20;
/// No order.
const NONE: u32 = u32::MAX;

/// What all connections of a listener or dialer share.
#[derive(Debug)]
pub(crate) struct LinkShared {
    /// The listener or dialer: what is closed together.
    pub(crate) group: u64,
    pub(crate) limits: ConnectionLimits,
    pub(crate) metrics: LinkMetrics,
}

/// The sending side of one connection.
pub(crate) struct Slot<L> {
    link: L,
    remote: SocketAddr,
    write: OwnedWriteHalf,
    shared: Arc<Shared>,
    common: Arc<LinkShared>,
    wrap: Wrap,
    /// What the kernel did not take. While there is something, nothing is read from the peer.
    spill: Option<Box<Spill>>,
    incomplete_since: Option<Instant>,
    /// The engine is done with it; what is spilled is still sent, until the time given.
    closing: Option<(CloseReason, Instant)>,
    closed: Option<oneshot::Sender<CloseReason>>,
    /// In [`State::watched`].
    watched: bool,
    /// First and last order about this connection in the delivery at hand.
    head: u32,
    tail: u32,
}

struct Spill {
    bytes: Vec<u8>,
    sent: usize,
    since: Instant,
}

/// What is around what is said.
pub(crate) enum Wrap {
    /// Lines as they are.
    Plain,
    /// Frames, sealed.
    Noise(Box<Sealer>),
    /// Lines, sealed.
    Tls(Arc<TlsSession>),
}

/// A new connection.
pub(crate) struct Joining<L> {
    pub(crate) link: L,
    pub(crate) remote: SocketAddr,
    pub(crate) write: OwnedWriteHalf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) common: Arc<LinkShared>,
    pub(crate) wrap: Wrap,
    pub(crate) closed: Option<oneshot::Sender<CloseReason>>,
}

pub(crate) struct State<E: Engine> {
    pub(crate) engine: E,
    pub(crate) outbox: Outbox<E::Effect>,
    on_effect: Box<dyn FnMut(E::Effect) + Send>,
    // Ids are ours, but a keyed hash costs little beside a write.
    slots: HashMap<PeerId, Box<Slot<E::Link>>, RandomState>,
    /// Connections that are at fault and not yet reported to the engine. Bounded by the number of connections.
    lost: Vec<(PeerId, CloseReason)>,
    /// Connections with something that has a deadline.
    watched: Vec<PeerId>,
    /// No more connections are taken.
    ended: bool,
    pub(crate) failed: Option<Arc<str>>,
    // Memory that is kept from delivery to delivery.
    chain: Vec<u32>,
    touched: Vec<PeerId>,
    sealed: Vec<u8>,
}

impl<E: Engine> State<E> {
    pub(crate) fn new(engine: E, on_effect: Box<dyn FnMut(E::Effect) + Send>) -> Self {
        Self {
            engine,
            outbox: Outbox::default(),
            on_effect,
            slots: HashMap::default(),
            lost: Vec::new(),
            watched: Vec::new(),
            ended: false,
            failed: None,
            chain: Vec::new(),
            touched: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// Takes a connection in, unless the hub has ended.
    pub(crate) fn join(&mut self, joining: Joining<E::Link>, now: Now) -> Option<PeerId> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if self.ended {
            return None;
        }
        let peer = PeerId(NEXT.fetch_add(1, Ordering::Relaxed));
        let Joining { link, remote, write, shared, common, wrap, closed } = joining;
        common.metrics.connections.inc();
        debug!(%peer, ?link, %remote, "connection open");
        let slot = Slot {
            link,
            remote,
            write,
            shared,
            common,
            wrap,
            spill: None,
            incomplete_since: None,
            closing: None,
            closed,
            watched: false,
            head: NONE,
            tail: NONE,
        };
        self.slots.insert(peer, Box::new(slot));
        self.engine.handle(peer, link, Event::Opened { remote }, now, &mut self.outbox);
        self.settle(now);
        Some(peer)
    }

    /// Hands the engine what was read, then delivers what it has to say.
    pub(crate) fn receive(
        &mut self,
        peer: PeerId,
        batch: &Batch,
        chunk: &[u8],
        incomplete: bool,
        fault: Option<CloseReason>,
    ) {
        let now = Now::read();
        let Some(slot) = self.slots.get_mut(&peer) else { return };
        if slot.closing.is_none() {
            if !incomplete {
                slot.incomplete_since = None;
            } else if !batch.is_empty() || slot.incomplete_since.is_none() {
                slot.incomplete_since = Some(now.instant);
                slot.watch(peer, &mut self.watched);
            }
            let link = slot.link;
            for event in batch.events(chunk) {
                let place = self.outbox.place();
                self.engine.handle(peer, link, event, now, &mut self.outbox);
                if self.outbox.closes_since(place, peer) {
                    break;
                }
                if self.outbox.says_more_than(ANSWERED_AT_ONCE, peer) {
                    self.settle(now);
                    if self.slots.get(&peer).is_none_or(|slot| slot.closing.is_some()) {
                        break;
                    }
                }
            }
        }
        self.lost.extend(fault.map(|reason| (peer, reason)));
        self.settle(now);
    }

    /// Sends what TLS itself has to say.
    pub(crate) fn nudge(&mut self, peer: PeerId) {
        let now = Now::read();
        let Some(slot) = self.slots.get_mut(&peer) else { return };
        let nothing = std::iter::empty();
        match slot.say(nothing, &[], &mut self.sealed, now.instant) {
            Ok(()) if slot.has_deadline() => slot.watch(peer, &mut self.watched),
            Ok(()) => {}
            Err(reason) => self.lost.push((peer, reason)),
        }
        self.settle(now);
    }

    /// Sends more of what was spilled; the connection can take it.
    pub(crate) fn flush(&mut self, peer: PeerId) {
        let Some(slot) = self.slots.get_mut(&peer) else { return };
        match slot.flush() {
            Ok(false) => return,
            Ok(true) => match slot.closing {
                Some((reason, _)) => self.remove(peer, reason, Mode::Lingers),
                None => slot.shared.set(Mode::Open),
            },
            Err(reason) => self.lost.push((peer, reason)),
        }
        self.settle(Now::read());
    }

    /// Deadlines, then the engine's own time.
    pub(crate) fn tick(&mut self, now: Now) {
        let mut watched = mem::take(&mut self.watched);
        watched.retain(|peer| {
            let Some(slot) = self.slots.get_mut(peer) else { return false };
            match slot.overdue(now.instant) {
                Some(reason) => self.lost.push((*peer, reason)),
                None if slot.has_deadline() => return true,
                None => {}
            }
            slot.watched = false;
            false
        });
        watched.append(&mut self.watched);
        self.watched = watched;
        self.engine.tick(now, &mut self.outbox);
        self.settle(now);
    }

    /// Closes all connections of a group, or of all groups.
    pub(crate) fn close_group(&mut self, group: Option<u64>, reason: CloseReason) {
        let of_group = |slot: &Slot<E::Link>| group.is_none_or(|g| g == slot.common.group);
        let peers = self.slots.iter().filter(|(_, slot)| of_group(slot)).map(|(peer, _)| *peer);
        self.lost.extend(peers.map(|peer| (peer, reason)));
        self.settle(Now::read());
    }

    /// Takes no more connections and closes those there are.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.close_group(None, CloseReason::Shutdown);
    }

    /// Delivers what the engine wants said and done, and reports connections lost thereby, until nothing is left.
    pub(crate) fn settle(&mut self, now: Now) {
        loop {
            self.deliver(now);
            self.outbox.take_effects().for_each(&mut self.on_effect);
            let Some((peer, reason)) = self.lost.pop() else { return };
            let Some(slot) = self.slots.get(&peer) else { continue };
            let (link, known) = (slot.link, slot.closing.is_none());
            self.remove(
                peer,
                reason,
                if reason.is_gentle() { Mode::Lingers } else { Mode::Dropped },
            );
            if known {
                // The text lives no longer than the call.
                let text = reason.to_string();
                self.engine.handle(peer, link, Event::Closed(&text), now, &mut self.outbox);
            }
        }
    }

    /// One write for each connection that is spoken to, in the order in which they are first spoken to.
    fn deliver(&mut self, now: Now) {
        if self.outbox.place() == 0 {
            return;
        }
        let (orders, bytes) = self.outbox.take_orders();
        self.chain.clear();
        self.chain.resize(orders.len(), NONE);
        for (at, order) in (0..).zip(&orders) {
            // Unknown ones are gone already, which the engine will learn.
            let Some(slot) = self.slots.get_mut(&order.peer()) else { continue };
            if slot.head == NONE {
                slot.head = at;
                self.touched.push(order.peer());
            } else {
                self.chain[slot.tail as usize] = at;
            }
            slot.tail = at;
        }
        let mut touched = mem::take(&mut self.touched);
        for peer in touched.drain(..) {
            let Some(slot) = self.slots.get_mut(&peer) else { continue };
            let mut next = mem::replace(&mut slot.head, NONE);
            if slot.closing.is_some() {
                continue;
            }
            let said = std::iter::from_fn(|| {
                let order = orders.get(next as usize)?;
                next = self.chain[next as usize];
                Some(order)
            });
            match slot.say(said, &bytes, &mut self.sealed, now.instant) {
                Ok(()) => match slot.closing {
                    Some((reason, _)) if slot.spill.is_none() => {
                        self.remove(peer, reason, Mode::Lingers);
                    }
                    _ if slot.has_deadline() => slot.watch(peer, &mut self.watched),
                    _ => {}
                },
                Err(reason) => self.lost.push((peer, reason)),
            }
        }
        self.touched = touched;
        self.sealed.clear();
        self.sealed.shrink_to(KEPT_SEALED);
        self.outbox.restore(orders, bytes);
    }

    fn remove(&mut self, peer: PeerId, reason: CloseReason, mode: Mode) {
        let Some(slot) = self.slots.remove(&peer) else { return };
        // If it was closing already, that is why it ends, unless it did not take what it was sent.
        let reason = match (reason, slot.closing) {
            (CloseReason::SlowReader, _) | (_, None) => reason,
            (_, Some((first, _))) => first,
        };
        let Slot { ref link, ref remote, .. } = *slot;
        if reason.is_notable() {
            info!(%peer, ?link, %remote, reason = %reason, "connection closed");
        } else {
            debug!(%peer, ?link, %remote, reason = %reason, "connection closed");
        }
        slot.leave(reason, mode);
    }

    /// The engine panicked: nothing can be asked of it any more.
    pub(crate) fn fail(&mut self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("without a text");
        error!(
            panic = text,
            connections = self.slots.len(),
            "the engine panicked; it is not called again"
        );
        self.failed = Some(Arc::from(text));
        self.ended = true;
        for (_, slot) in self.slots.drain() {
            slot.leave(CloseReason::EngineFailed, Mode::Dropped);
        }
    }
}

impl<L> Slot<L> {
    /// Writes all that is said to this connection; what the kernel does not take is kept.
    fn say<'o>(
        &mut self,
        orders: impl Iterator<Item = &'o Order>,
        bytes: &[u8],
        sealed: &mut Vec<u8>,
        now: Instant,
    ) -> Result<(), CloseReason> {
        sealed.clear();
        let limits = &self.common.limits;
        // Lines that are said in one piece are written from where they are: a job to thousands of miners is not copied.
        let mut in_place: &[u8] = &[];
        for order in orders {
            match order {
                Order::Say(_, range) => {
                    let said = &bytes[range.clone()];
                    match &mut self.wrap {
                        Wrap::Noise(sealer) => {
                            if let Err(error) = sealer.seal_all(said, sealed) {
                                error!(%error, "not sent");
                                return Err(CloseReason::Engine("bytes that are no frames"));
                            }
                        }
                        Wrap::Tls(session) => session.seal(said, sealed)?,
                        Wrap::Plain if sealed.is_empty() && in_place.is_empty() => in_place = said,
                        Wrap::Plain => {
                            sealed.extend_from_slice(mem::take(&mut in_place));
                            sealed.extend_from_slice(said);
                        }
                    }
                    let frames = matches!(self.wrap, Wrap::Noise(_));
                    let count = count_messages(said, frames);
                    self.common.metrics.messages_out.inc_by(count);
                }
                Order::Close(_, reason) => {
                    self.closing = Some((CloseReason::Engine(reason), now + limits.linger));
                    if let Wrap::Tls(session) = &self.wrap {
                        session.seal_close(sealed)?;
                    }
                    break;
                }
            }
        }
        if let Wrap::Tls(session) = &self.wrap {
            session.take_sealed(sealed)?;
        }
        let mut rest = if in_place.is_empty() { &sealed[..] } else { in_place };
        if self.spill.is_none() && !rest.is_empty() {
            let written = write(&self.write, rest)?;
            self.common.metrics.bytes_out.inc_by(written as u64);
            rest = &rest[written..];
        }
        if rest.is_empty() {
            return Ok(());
        }
        let kept = self.spill.as_ref().map_or(0, |spill| spill.bytes.len() - spill.sent);
        if kept + rest.len() > limits.spill_bytes {
            return Err(CloseReason::SlowReader);
        }
        let metrics = &self.common.metrics;
        metrics.spill_bytes.inc_by(rest.len() as i64);
        match &mut self.spill {
            Some(spill) => spill.bytes.extend_from_slice(rest),
            None => {
                metrics.spills.inc();
                self.spill = Some(Box::new(Spill { bytes: rest.to_vec(), sent: 0, since: now }));
                self.shared.set(Mode::Stalled);
            }
        }
        Ok(())
    }

    /// Writes what was kept; whether nothing is left.
    fn flush(&mut self) -> Result<bool, CloseReason> {
        let Some(spill) = &mut self.spill else { return Ok(true) };
        let rest = &spill.bytes[spill.sent..];
        let rest = &rest[..rest.len().min(FLUSH_AT_ONCE)];
        let written = write(&self.write, rest)?;
        spill.sent += written;
        self.common.metrics.bytes_out.inc_by(written as u64);
        self.common.metrics.spill_bytes.dec_by(written as i64);
        if spill.sent == spill.bytes.len() {
            self.spill = None;
            return Ok(true);
        }
        if spill.sent >= spill.bytes.len() / 2 {
            spill.bytes.drain(..spill.sent);
            spill.sent = 0;
        }
        Ok(false)
    }

    fn has_deadline(&self) -> bool {
        self.spill.is_some() || self.incomplete_since.is_some() || self.closing.is_some()
    }

    fn overdue(&self, now: Instant) -> Option<CloseReason> {
        let limits = &self.common.limits;
        let spilled = self.spill.as_ref().map(|spill| spill.since + limits.spill_time);
        let closing = self.closing.map(|(_, until)| until);
        if spilled.into_iter().chain(closing).any(|until| now >= until) {
            return Some(CloseReason::SlowReader);
        }
        // While nothing is read from it, it is not the peer's fault that a message is incomplete.
        let incomplete = self.incomplete_since.is_some_and(|s| now >= s + limits.incomplete_time);
        (incomplete && self.spill.is_none()).then_some(CloseReason::Incomplete)
    }

    fn watch(&mut self, peer: PeerId, watched: &mut Vec<PeerId>) {
        if !mem::replace(&mut self.watched, true) {
            watched.push(peer);
        }
    }

    fn leave(mut self, reason: CloseReason, mode: Mode) {
        let metrics = &self.common.metrics;
        metrics.connections.dec();
        metrics.closed(&reason);
        if let Some(spill) = &self.spill {
            metrics.spill_bytes.dec_by((spill.bytes.len() - spill.sent) as i64);
        }
        if reason == CloseReason::SlowReader {
            // Else the kernel would keep what it holds for the peer and go on trying.
            let _ = self.write.as_ref().set_zero_linger();
            self.write.forget();
            self.shared.set(Mode::Dropped);
        } else {
            // Dropping the sending half tells the peer that nothing more comes.
            drop(self.write);
            self.shared.set(mode);
        }
        if let Some(closed) = self.closed.take() {
            let _ = closed.send(reason);
        }
    }
}

/// Whole frames or whole lines in `said`.
fn count_messages(mut said: &[u8], frames: bool) -> u64 {
    if !frames {
        return said.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    let mut count = 0;
    while let Some((header, rest)) = said.split_first_chunk() {
        count += 1;
        said = rest.get(Header::parse(header).msg_length as usize..).unwrap_or_default();
    }
    count
}

/// Writes what the kernel takes without waiting.
fn write(to: &OwnedWriteHalf, bytes: &[u8]) -> Result<usize, CloseReason> {
    loop {
        match to.try_write(bytes) {
            Ok(written) => return Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
