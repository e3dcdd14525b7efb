//! Delivery of what one call of the engine says: one write for each connection that is spoken to.
//!
//! A write to a socket is nearly all that a delivery costs (8 to 10 µs each on loopback), and writes to different sockets
//! need nothing of each other: where many connections are told something, each core writes to a part of them.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use crate::engine::Order;
use crate::slot::{After, Scratch, Slot};
use crate::{CloseReason, PeerId};

/// Connections above which a delivery is shared out: with fewer it is over before another thread would help.
pub(crate) const MANY: usize = 256;
/// Connections that a thread takes at once, so that a thread whose core is busy with other things does not delay many.
const AT_ONCE: usize = 32;
/// More threads would wait for each other in the kernel.
const MAX_THREADS: usize = 8;
/// No order.
const NONE: u32 = u32::MAX;

/// What is said, and which orders are about the same connection.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    pub(crate) orders: &'a [Order],
    pub(crate) bytes: &'a [u8],
    /// For each order the next one about the same connection.
    pub(crate) next: &'a [u32],
}

impl<'a> Said<'a> {
    /// The orders of one connection, in order.
    pub(crate) fn of(&self, chain: Chain) -> impl Iterator<Item = &'a Order> + use<'a> {
        let (orders, next) = (self.orders, self.next);
        let mut at = chain.first;
        std::iter::from_fn(move || {
            let order = orders.get(at as usize)?;
            at = next[at as usize];
            Some(order)
        })
    }
}

/// First and last order about one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    pub(crate) const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(crate) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// Puts an order at the end; `next` has a place for each order.
    pub(crate) fn push(&mut self, order: u32, next: &mut [u32]) {
        next[order as usize] = NONE;
        if self.is_empty() {
            self.first = order;
        } else {
            next[self.last as usize] = order;
        }
        self.last = order;
    }

    /// What sorts connections by when they are first spoken to.
    pub(crate) fn begin(self) -> u32 {
        self.first
    }
}

/// Delivers to all of `told`, on several threads. What is to be done about some of them afterwards.
pub(crate) fn fan_out<L: Send>(
    told: &mut [(PeerId, &mut Slot<L>)],
    said: &Said<'_>,
    now: Instant,
) -> Vec<(PeerId, Result<After, CloseReason>)> {
    let threads = cores().min(MAX_THREADS).min(told.len().div_ceil(AT_ONCE));
    let parts = Mutex::new(told.chunks_mut(AT_ONCE));
    let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let (mut scratch, mut notable) = (Scratch::default(), Vec::new());
        while let Some(part) = next() {
            for (peer, slot) in part {
                match slot.deliver(said, &mut scratch, now) {
                    Ok(After::Nothing) => {}
                    after => notable.push((*peer, after)),
                }
            }
        }
        notable
    };
    thread::scope(|scope| {
        // Where the system gives no thread, the others do its part.
        let spawn = |_| thread::Builder::new().name("fan-out".into()).spawn_scoped(scope, work);
        let others: Vec<_> = (1..threads).map(spawn).collect();
        let mut notable = work();
        for other in others.into_iter().flatten() {
            notable.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        notable
    })
}

/// Cores that this process may use; asked once, since the answer takes reading files.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get))
}
