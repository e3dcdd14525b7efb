//! What a hub's lock guards: the engine, its outbox, and the sending side of every connection.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{debug, error, info};

use crate::connection::Mode;
use crate::deliver::{MANY, Said, fan_out};
use crate::reader::Batch;
use crate::slot::{After, Joining, Scratch, Slot};
use crate::{CloseReason, Engine, Event, Now, Outbox, PeerId};

/// Bytes of the sealing buffer that are kept from peer to peer.
const KEPT_SEALED: usize = 1 << 20;
/// Said to one peer in answer to one read, above which it is delivered before the next message is looked at. Against
/// small requests with large answers, of which one read holds a thousand: what is kept for a peer must have a bound.
const ANSWERED_AT_ONCE: usize = 1 << 20;

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
    next: Vec<u32>,
    touched: Vec<PeerId>,
    scratch: Scratch,
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
            next: Vec::new(),
            touched: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Takes a connection in, unless the hub has ended.
    pub(crate) fn join(&mut self, joining: Joining<E::Link>, now: Now) -> Option<PeerId> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if self.ended {
            return None;
        }
        let peer = PeerId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (link, remote) = (joining.link, joining.remote);
        joining.common.metrics.connections.inc();
        debug!(%peer, ?link, %remote, "connection open");
        self.slots.insert(peer, Box::new(Slot::new(joining)));
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
        match slot.say(nothing, &[], &mut self.scratch, now.instant) {
            Ok(()) if slot.has_deadline() => slot.watch(peer, &mut self.watched),
            Ok(()) => {}
            Err(reason) => self.lost.push((peer, reason)),
        }
        self.settle(now);
    }

    /// Sends more of what was spilled; the connection can take it.
    pub(crate) fn flush(&mut self, peer: PeerId) {
        let Some(slot) = self.slots.get_mut(&peer) else { return };
        let now = Now::read();
        match slot.flush(now.instant) {
            Ok(false) => return,
            Ok(true) => match slot.closing {
                Some((reason, _)) => self.remove(peer, reason, Mode::Lingers),
                None => slot.shared.set(Mode::Open),
            },
            Err(reason) => self.lost.push((peer, reason)),
        }
        self.settle(now);
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

    /// One write for each connection that is spoken to, in the order in which they are first spoken to; where they are
    /// many, several at a time.
    fn deliver(&mut self, now: Now) {
        if self.outbox.place() == 0 {
            return;
        }
        let (orders, bytes) = self.outbox.take_orders();
        let mut next = mem::take(&mut self.next);
        next.resize(orders.len(), 0);
        let mut touched = mem::take(&mut self.touched);
        for (at, order) in (0..).zip(&orders) {
            // Unknown ones are gone already, which the engine will learn.
            let Some(slot) = self.slots.get_mut(&order.peer()) else { continue };
            if slot.chain.is_empty() {
                touched.push(order.peer());
            }
            slot.chain.push(at, &mut next);
        }
        let said = Said { orders: &orders, bytes: &bytes, next: &next };
        if touched.len() < MANY {
            for peer in &touched {
                let Some(slot) = self.slots.get_mut(peer) else { continue };
                let after = slot.deliver(&said, &mut self.scratch, now.instant);
                self.delivered(*peer, after);
            }
        } else {
            let told = self.slots.iter_mut().filter(|(_, slot)| !slot.chain.is_empty());
            let mut told: Vec<_> = told.map(|(peer, slot)| (*peer, &mut **slot)).collect();
            told.sort_unstable_by_key(|(_, slot)| slot.chain.begin());
            for (peer, after) in fan_out(&mut told, &said, now.instant) {
                self.delivered(peer, after);
            }
        }
        touched.clear();
        self.touched = touched;
        self.next = next;
        self.scratch.clear(KEPT_SEALED);
        self.outbox.restore(orders, bytes);
    }

    fn delivered(&mut self, peer: PeerId, after: Result<After, CloseReason>) {
        match after {
            Ok(After::Nothing) => {}
            Ok(After::Watch) => {
                if let Some(slot) = self.slots.get_mut(&peer) {
                    slot.watch(peer, &mut self.watched);
                }
            }
            Ok(After::Remove(reason)) => self.remove(peer, reason, Mode::Lingers),
            Err(reason) => self.lost.push((peer, reason)),
        }
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
