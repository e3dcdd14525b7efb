//! The sending side of one connection: what is said to it is sealed and written, and what the kernel does not take is kept
//! within bounds.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::frame::Header;
use adit_sv2::noise::Sealer;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::oneshot;
use tracing::error;

use crate::connection::{Mode, Shared};
use crate::deliver::{Chain, Said};
use crate::engine::Order;
use crate::metrics::LinkMetrics;
use crate::tls::TlsSession;
use crate::{CloseReason, ConnectionLimits, PeerId};

/// Bytes per second that a peer must take while something is kept for it, on average.
const SLOWEST: f64 = 16_384.0;
/// Bytes of a spill that are written at once, so that the lock is not held for long.
const FLUSH_AT_ONCE: usize = 256 << 10;
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
    pub(crate) link: L,
    pub(crate) remote: SocketAddr,
    write: OwnedWriteHalf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) common: Arc<LinkShared>,
    wrap: Wrap,
    /// What the kernel did not take. While there is something, nothing is read from the peer.
    pub(crate) spill: Option<Box<Spill>>,
    pub(crate) incomplete_since: Option<Instant>,
    /// The engine is done with it; what is spilled is still sent, until the time given.
    pub(crate) closing: Option<(CloseReason, Instant)>,
    closed: Option<oneshot::Sender<CloseReason>>,
    /// Something was said to it.
    spoken_to: bool,
    /// Its deadlines are looked at.
    pub(crate) watched: bool,
    /// The orders about it in the delivery at hand.
    pub(crate) chain: Chain,
}

/// Memory that is used from connection to connection, in one delivery.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    sealed: Vec<u8>,
    /// Where the last thing said lies, whether it was frames, and the number of messages in it.
    counted: (Range<usize>, bool, u64),
}

impl Scratch {
    /// Ready for the next delivery, with so many bytes of memory at most.
    pub(crate) fn clear(&mut self, kept: usize) {
        self.sealed.clear();
        self.sealed.shrink_to(kept);
        self.counted = Default::default();
    }
}

/// What is to be done about a connection that was spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum After {
    Nothing,
    /// It has something with a deadline.
    Watch,
    /// The engine is done with it, for this reason, and so is the kernel.
    Remove(CloseReason),
}

pub(crate) struct Spill {
    bytes: Vec<u8>,
    sent: usize,
    /// From when the peer's time to take it counts.
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

impl<L> Slot<L> {
    pub(crate) fn new(joining: Joining<L>) -> Self {
        let Joining { link, remote, write, shared, common, wrap, closed } = joining;
        Self {
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
            spoken_to: false,
            watched: false,
            chain: Chain::EMPTY,
        }
    }

    /// Says what the orders of its [`chain`](Self::chain) are, unless it is closing already.
    pub(crate) fn deliver(
        &mut self,
        said: &Said<'_>,
        scratch: &mut Scratch,
        now: Instant,
    ) -> Result<After, CloseReason> {
        let chain = mem::replace(&mut self.chain, Chain::EMPTY);
        if self.closing.is_some() {
            return Ok(After::Nothing);
        }
        self.say(said.of(chain), said.bytes, scratch, now)?;
        Ok(match self.closing {
            Some((reason, _)) if self.spill.is_none() => After::Remove(reason),
            _ if self.has_deadline() => After::Watch,
            _ => After::Nothing,
        })
    }

    /// Writes all that is said to this connection; what the kernel does not take is kept.
    pub(crate) fn say<'o>(
        &mut self,
        orders: impl Iterator<Item = &'o Order>,
        bytes: &[u8],
        scratch: &mut Scratch,
        now: Instant,
    ) -> Result<(), CloseReason> {
        let Scratch { sealed, counted } = scratch;
        sealed.clear();
        let limits = &self.common.limits;
        // Lines that are said in one piece are written from where they are: a job to thousands of miners is not copied.
        let mut in_place: &[u8] = &[];
        for order in orders {
            match order {
                Order::Say(_, range) => {
                    if !mem::replace(&mut self.spoken_to, true) {
                        self.shared.set_spoken_to();
                    }
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
                    // What is said to many is counted once.
                    if (&counted.0, counted.1) != (range, frames) {
                        *counted = (range.clone(), frames, count_messages(said, frames));
                    }
                    self.common.metrics.messages_out.inc_by(counted.2);
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
    pub(crate) fn flush(&mut self, now: Instant) -> Result<bool, CloseReason> {
        let Some(spill) = &mut self.spill else { return Ok(true) };
        let rest = &spill.bytes[spill.sent..];
        let rest = &rest[..rest.len().min(FLUSH_AT_ONCE)];
        let written = write(&self.write, rest)?;
        spill.sent += written;
        // Who takes much takes its time: a block over a slow line.
        spill.since += Duration::from_secs_f64(written as f64 / SLOWEST);
        spill.since = spill.since.min(now);
        self.common.metrics.bytes_out.inc_by(written as u64);
        self.common.metrics.spill_bytes.dec_by(written as i64);
        if spill.sent == spill.bytes.len() {
            self.spill = None;
            // From here on it is read again: only now can the peer finish what it began.
            self.incomplete_since = self.incomplete_since.map(|_| now);
            return Ok(true);
        }
        if spill.sent >= spill.bytes.len() / 2 {
            spill.bytes.drain(..spill.sent);
            spill.sent = 0;
        }
        Ok(false)
    }

    pub(crate) fn has_deadline(&self) -> bool {
        self.spill.is_some() || self.incomplete_since.is_some() || self.closing.is_some()
    }

    pub(crate) fn overdue(&self, now: Instant) -> Option<CloseReason> {
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

    pub(crate) fn watch(&mut self, peer: PeerId, watched: &mut Vec<PeerId>) {
        if !mem::replace(&mut self.watched, true) {
            watched.push(peer);
        }
    }

    pub(crate) fn leave(mut self, reason: CloseReason, mode: Mode) {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::TransportMetrics;

    /// While nothing is read from a peer it cannot finish a message: that time is not held against it afterwards.
    #[tokio::test]
    async fn a_message_begun_before_a_stall_has_its_time_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4 << 10).unwrap();
        let mut client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        let limits = ConnectionLimits {
            spill_bytes: 64 << 20,
            spill_time: Duration::from_secs(3_600),
            ..ConnectionLimits::default()
        };
        let metrics = TransportMetrics::default().link("Client".to_owned());
        let (_read, write) = stream.into_split();
        let mut slot = Slot::new(Joining {
            link: (),
            remote,
            write,
            shared: Shared::new(),
            common: Arc::new(LinkShared { group: 0, limits: limits.clone(), metrics }),
            wrap: Wrap::Plain,
            closed: None,
        });
        let start = Instant::now();
        slot.incomplete_since = Some(start);
        let said = vec![b'a'; 16 << 20];
        let order = Order::Say(PeerId(1), 0..said.len());
        slot.say([&order].into_iter(), &said, &mut Scratch::default(), start).unwrap();
        assert!(slot.spill.is_some(), "the kernel takes it all");
        let later = start + limits.incomplete_time * 3;
        assert_eq!(slot.overdue(later), None);
        let drain = tokio::spawn(async move {
            let mut all = vec![0; 16 << 20];
            client.read_exact(&mut all).await.unwrap();
        });
        while !slot.flush(later).unwrap() {
            slot.write.writable().await.unwrap();
        }
        drain.await.unwrap();
        assert_eq!(slot.overdue(later), None);
        assert_eq!(slot.overdue(later + limits.incomplete_time), Some(CloseReason::Incomplete));
    }
}
