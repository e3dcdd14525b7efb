//! The contract between a role's engine and its driver. Nothing here knows sockets, tasks or clocks.
//!
//! An [`Engine`] is a plain struct: the driver calls it with an event, the engine appends what should be said to an
//! [`Outbox`], the driver delivers it. The engine never waits, and a test calls it in the same way as the driver does.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use adit_sv2::frame::{Header, encode_frame, encode_frame_with_tlvs};
use adit_sv2::messages::Message;
use adit_sv2::tlv::Tlv;

/// One connection, for as long as the process lives: never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The time of an event, from both clocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For headers and certificates: milliseconds since 1970.
    pub unix_ms: u64,
}

impl Now {
    /// Reads both clocks; only drivers do.
    pub fn read() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { instant: Instant::now(), unix_ms: unix.map_or(0, |d| d.as_millis() as u64) }
    }

    /// Seconds since 1970, as block headers carry them.
    pub fn unix_secs(&self) -> u32 {
        (self.unix_ms / 1000) as u32
    }

    /// The same clocks `by` later: simulated time in tests.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self { instant: self.instant + by, unix_ms: self.unix_ms + by.as_millis() as u64 }
    }
}

/// What happens on a connection.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The connection stands; on a Noise connection the handshake is done.
    Opened {
        /// The other end.
        remote: SocketAddr,
    },
    /// A whole frame, decrypted.
    Frame(Header, &'a [u8]),
    /// A whole line, without its line end (LF or CR LF). Blank lines are not reported.
    Line(&'a [u8]),
    /// The connection is gone and its id will not be seen again. Not sent for what the engine closed itself.
    Closed(&'a str),
}

/// A role's logic.
pub trait Engine: Send + 'static {
    /// What a connection is for: tells a miner from an upstream.
    type Link: Copy + Send + Sync + fmt::Debug + 'static;
    /// What the engine asks of its driver besides bytes: store this, submit that.
    type Effect: Send + 'static;

    /// One event of one connection.
    fn handle(
        &mut self,
        peer: PeerId,
        link: Self::Link,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Self::Effect>,
    );

    /// Time passes: called every 100 ms.
    fn tick(&mut self, now: Now, out: &mut Outbox<Self::Effect>);
}

/// What an engine wants said and done, in order. Reused from call to call, so that nothing is allocated in steady state.
#[derive(Debug)]
pub struct Outbox<E> {
    bytes: Vec<u8>,
    orders: Vec<Order>,
    effects: Vec<E>,
    /// How often `bytes` was cleared: what was shared before is not there any more.
    cleared: u64,
}

/// Bytes in an [`Outbox`] that are said to many, made by [`Outbox::share`]. Of use only until that call of the engine
/// ends.
#[derive(Clone, Debug)]
pub struct Shared {
    range: Range<usize>,
    cleared: u64,
}

/// One order of an engine about one connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Say these bytes: whole frames in plaintext, or whole lines.
    Say(PeerId, Range<usize>),
    /// Close once everything said before is delivered.
    Close(PeerId, &'static str),
}

impl Order {
    pub(crate) fn peer(&self) -> PeerId {
        match self {
            Self::Say(peer, _) | Self::Close(peer, _) => *peer,
        }
    }
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self { bytes: Vec::new(), orders: Vec::new(), effects: Vec::new(), cleared: 0 }
    }
}

impl<E> Outbox<E> {
    /// Sends a message.
    #[inline]
    pub fn send<'m, M: Message<'m>>(&mut self, to: PeerId, message: &M) {
        self.say(to, |bytes| encode_frame(message, bytes));
    }

    /// Sends a message with TLV fields behind it.
    pub fn send_tlv<'m, M: Message<'m>>(&mut self, to: PeerId, message: &M, tlvs: &[Tlv<'_>]) {
        self.say(to, |bytes| encode_frame_with_tlvs(message, tlvs, bytes));
    }

    /// Sends a copy of an encoded frame that many share, addressed to `channel_id`: the first four payload bytes.
    #[inline]
    pub fn send_encoded(&mut self, to: PeerId, frame: &[u8], channel_id: u32) {
        self.say(to, |bytes| {
            let start = bytes.len();
            bytes.extend_from_slice(frame);
            bytes[start + Header::LEN..start + Header::LEN + 4]
                .copy_from_slice(&channel_id.to_le_bytes());
        });
    }

    /// Sends one frame as it is.
    pub fn send_frame(&mut self, to: PeerId, header: Header, payload: &[u8]) {
        self.say(to, |bytes| {
            bytes.extend_from_slice(&header.to_bytes());
            bytes.extend_from_slice(payload);
        });
    }

    /// Sends one line; the line end is added.
    pub fn line(&mut self, to: PeerId, line: &[u8]) {
        self.say(to, |bytes| {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        });
    }

    /// Lets `write` append whole frames or whole lines for a connection.
    #[inline]
    pub fn say(&mut self, to: PeerId, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let end = self.bytes.len();
        if start == end {
            return;
        }
        match self.orders.last_mut() {
            Some(Order::Say(peer, range)) if *peer == to && range.end == start => range.end = end,
            _ => self.orders.push(Order::Say(to, start..end)),
        }
    }

    /// Lets `write` append whole frames or whole lines that are then [repeated](Self::repeat) to many connections. They
    /// are written once, however many there are.
    #[must_use]
    pub fn share(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Shared {
        let start = self.bytes.len();
        write(&mut self.bytes);
        Shared { range: start..self.bytes.len(), cleared: self.cleared }
    }

    /// Says what is shared to a connection. What was shared in an earlier call of the engine is not said.
    #[inline]
    pub fn repeat(&mut self, to: PeerId, shared: &Shared) {
        debug_assert_eq!(shared.cleared, self.cleared, "shared in an earlier call");
        if shared.cleared == self.cleared && !shared.range.is_empty() {
            self.orders.push(Order::Say(to, shared.range.clone()));
        }
    }

    /// Closes a connection once what was said to it before is delivered. The engine hears no more of it.
    pub fn close(&mut self, peer: PeerId, reason: &'static str) {
        self.orders.push(Order::Close(peer, reason));
    }

    /// Asks something of the driver.
    #[inline]
    pub fn effect(&mut self, effect: E) {
        self.effects.push(effect);
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.effects.is_empty()
    }

    /// Takes the effects, for drivers and tests.
    pub fn take_effects(&mut self) -> impl Iterator<Item = E> + '_ {
        self.effects.drain(..)
    }

    /// Hands what is to be said to `visit` and forgets it: for tests that carry frames between engines by hand.
    pub fn deliver(&mut self, mut visit: impl FnMut(Delivery<'_>)) {
        for order in self.orders.drain(..) {
            match order {
                Order::Say(peer, range) => visit(Delivery::Bytes(peer, &self.bytes[range])),
                Order::Close(peer, reason) => visit(Delivery::Close(peer, reason)),
            }
        }
        self.clear_bytes();
    }

    /// Orders so far: a place for [`closes_since`](Self::closes_since).
    pub(crate) fn place(&self) -> usize {
        self.orders.len()
    }

    /// Whether a connection was closed since a place.
    pub(crate) fn closes_since(&self, place: usize, peer: PeerId) -> bool {
        self.orders[place..].iter().any(|o| matches!(o, Order::Close(p, _) if *p == peer))
    }

    /// Whether this much and more is to be said to a connection.
    pub(crate) fn says_more_than(&self, bytes: usize, peer: PeerId) -> bool {
        let to_peer = |order: &Order| match order {
            Order::Say(to, range) if *to == peer => range.len(),
            _ => 0,
        };
        // Looked through only where it may be: what is shared is there once, and said to each at most a few times.
        self.bytes.len() > bytes && self.orders.iter().map(to_peer).sum::<usize>() > bytes
    }

    /// Takes what is to be said; [`restore`](Self::restore) gives the memory back.
    pub(crate) fn take_orders(&mut self) -> (Vec<Order>, Vec<u8>) {
        (std::mem::take(&mut self.orders), std::mem::take(&mut self.bytes))
    }

    pub(crate) fn restore(&mut self, mut orders: Vec<Order>, bytes: Vec<u8>) {
        orders.clear();
        (self.orders, self.bytes) = (orders, bytes);
        self.clear_bytes();
    }

    fn clear_bytes(&mut self) {
        self.cleared += 1;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
    }
}

/// One delivery of [`Outbox::deliver`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery<'a> {
    /// Whole frames in plaintext, or whole lines.
    Bytes(PeerId, &'a [u8]),
    /// The connection is to be closed for this reason.
    Close(PeerId, &'static str),
}

/// Bytes of an outbox that are kept for the next call: one fan-out to a few thousand channels.
const KEPT_BYTES: usize = 4 << 20;
