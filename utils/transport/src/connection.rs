//! The task of one connection: reads while the connection can take what it is sent, else sends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use adit_sv2::noise::sealed_len;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Notify;

use crate::hub::Inner;
use crate::reader::{Batch, Reader};
use crate::slot::LinkShared;
use crate::tls::TlsSession;
use crate::{CloseReason, Engine, PeerId};

/// Bytes read at once. One buffer for each thread of the runtime, none for a connection.
const READ_AT_ONCE: usize = 64 << 10;
/// How long and how much is read from a peer after this end has said its last, so that the kernel does not throw away
/// what the peer has not read yet.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// What the lock's holder tells the connection's task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Reading.
    Open,
    /// Something is spilled: send it, do not read.
    Stalled,
    /// Closed by this end: let the peer read what is on its way.
    Lingers,
    /// Closed.
    Dropped,
}

/// What the lock's holder and the connection's task share.
#[derive(Debug)]
pub(crate) struct Shared {
    mode: AtomicU8,
    changed: Notify,
    /// Something was said on the connection.
    spoken_to: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            mode: AtomicU8::new(Mode::Open as u8),
            changed: Notify::new(),
            spoken_to: AtomicBool::new(false),
        })
    }

    /// For the lock's holder only.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
        self.changed.notify_one();
    }

    pub(crate) fn set_spoken_to(&self) {
        self.spoken_to.store(true, Ordering::Release);
    }

    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Open,
            1 => Mode::Stalled,
            2 => Mode::Lingers,
            _ => Mode::Dropped,
        }
    }
}

/// The receiving side of one connection.
pub(crate) struct Connection<E: Engine> {
    pub(crate) inner: Arc<Inner<E>>,
    pub(crate) peer: PeerId,
    pub(crate) read: OwnedReadHalf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) common: Arc<LinkShared>,
    pub(crate) reader: Reader,
    /// What lines are sealed with, if they are.
    pub(crate) tls: Option<Arc<TlsSession>>,
    /// The client may have been refused by us without a word, if it leaves before its first frame.
    pub(crate) unspoken: bool,
    /// It is a client that was not answered yet, as far as is known here.
    pub(crate) unanswered: bool,
}

impl<E: Engine> Connection<E> {
    pub(crate) async fn run(mut self) {
        if self.tls.is_some() {
            // What came in one segment with the end of the handshake.
            self.take(&mut [], None, &mut Batch::default(), &mut Vec::new());
        }
        loop {
            match self.shared.mode() {
                Mode::Open => self.read().await,
                Mode::Stalled => tokio::select! {
                    () = self.shared.changed.notified() => {}
                    // Errors show when written to.
                    _ = self.read.ready(Interest::WRITABLE) => self.inner.flush(self.peer),
                },
                Mode::Lingers => {
                    let _ = tokio::time::timeout(LINGER, discard(&mut self.read)).await;
                    return;
                }
                Mode::Dropped => return,
            }
        }
    }

    /// Reads until the mode changes.
    async fn read(&mut self) {
        let shared = self.shared.clone();
        let mut changed = pin!(shared.changed.notified());
        poll_fn(|cx| {
            if changed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            while shared.mode() == Mode::Open {
                ready!(self.poll_batch(cx));
            }
            Poll::Ready(())
        })
        .await;
    }

    /// One read, and all messages in it.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        thread_local! {
            static SCRATCH: RefCell<(Vec<u8>, Batch, Vec<u8>)> =
                RefCell::new((vec![0; READ_AT_ONCE], Batch::default(), Vec::new()));
        }
        SCRATCH.with_borrow_mut(|(scratch, batch, plain)| {
            let mut buf = ReadBuf::new(scratch);
            let result = ready!(Pin::new(&mut self.read).poll_read(cx, &mut buf));
            let received = buf.filled().len();
            let fault = match result {
                Err(error) => Some(CloseReason::from(error)),
                Ok(()) if received == 0 && self.unspoken => {
                    Some(CloseReason::PeerClosedAfterHandshake)
                }
                Ok(()) if received == 0 => Some(CloseReason::PeerClosed),
                Ok(()) => None,
            };
            self.take(&mut scratch[..received], fault, batch, plain);
            if received < READ_AT_ONCE {
                return Poll::Ready(());
            }
            // There may be more for a long time; the thread's other connections come first.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// What was received, and what is wrong with the connection if something is. `batch` and `plain` are memory, empty
    /// before and after.
    fn take(
        &mut self,
        chunk: &mut [u8],
        mut fault: Option<CloseReason>,
        batch: &mut Batch,
        plain: &mut Vec<u8>,
    ) {
        self.common.metrics.bytes_in.inc_by(chunk.len() as u64);
        let mut chunk = chunk;
        if let Some(tls) = &self.tls {
            match tls.open(chunk, plain) {
                Ok(false) => {}
                Ok(true) => self.inner.nudge(self.peer),
                Err(reason) => {
                    self.inner.nudge(self.peer);
                    fault = fault.or(Some(reason));
                }
            }
            chunk = plain;
        }
        let was_incomplete = self.reader.is_incomplete();
        if !chunk.is_empty() {
            let wrong = self.reader.feed(chunk, batch).err();
            fault = wrong.or(fault);
        }
        let incomplete = self.reader.is_incomplete();
        self.common.metrics.messages_in.inc_by(batch.len() as u64);
        self.unspoken &= batch.is_empty();
        if !batch.is_empty() || fault.is_some() || incomplete != was_incomplete {
            self.inner.receive(self.peer, batch, chunk, incomplete, fault);
        }
        batch.clear();
        plain.clear();
        if self.unanswered {
            self.check_unanswered();
        }
    }

    /// What a client may begin before it is answered is bounded: of those who have not even set up their connection there
    /// may be many.
    fn check_unanswered(&mut self) {
        if self.shared.spoken_to.load(Ordering::Acquire) {
            self.unanswered = false;
            return;
        }
        let (limit, begun) = (self.common.limits.before_answer, self.reader.begun());
        let reason = match self.reader {
            Reader::Frames(_) if begun > sealed_len(limit) => {
                CloseReason::LargeBeforeSetup { limit }
            }
            Reader::Lines(_) if begun > limit => CloseReason::LineTooLong { limit },
            _ => return,
        };
        self.inner.receive(self.peer, &Batch::default(), &[], true, Some(reason));
    }
}

/// Reads to nowhere until the peer has closed, too.
async fn discard(read: &mut OwnedReadHalf) {
    use tokio::io::AsyncReadExt;
    let mut nowhere = [0; 512];
    let mut total = 0;
    while let Ok(received @ 1..) = read.read(&mut nowhere).await {
        total += received;
        if total > LINGER_BYTES {
            return;
        }
    }
}
