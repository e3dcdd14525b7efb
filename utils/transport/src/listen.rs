//! Listening, and who is let in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::noise::{Opener, Sealer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::admission::{Admission, Place};
use crate::connection::{Connection, Shared};
use crate::reader::Reader;
use crate::state::{Joining, LinkShared};
use crate::{CloseReason, ConnectionLimits, Engine, Hub, ListenLimits, NoiseServer, Now, PeerId};

/// Wait after the system had no file or memory for a connection, doubling up to the second: against a busy loop.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Refusals are counted one by one and logged at most this often.
const REFUSALS_LOGGED: Duration = Duration::from_secs(60);
/// Keepalive: time between questions, and how many unanswered ones end a connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

impl<E: Engine> Hub<E> {
    /// Takes in Noise connections until `cancel`, then closes those it took in. Resolves when that is done.
    ///
    /// The engine hears of a connection when its handshake is done.
    pub fn serve_noise(
        &self,
        listener: TcpListener,
        link: E::Link,
        server: Arc<NoiseServer>,
        limits: ListenLimits,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<E> {
        self.clone().serve(listener, link, Some(server), limits, cancel)
    }

    /// Takes in plain connections that speak in lines until `cancel`, then closes those it took in. Resolves when that is
    /// done.
    pub fn serve_lines(
        &self,
        listener: TcpListener,
        link: E::Link,
        limits: ListenLimits,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<E> {
        self.clone().serve(listener, link, None, limits, cancel)
    }

    async fn serve(
        self,
        listener: TcpListener,
        link: E::Link,
        server: Option<Arc<NoiseServer>>,
        limits: ListenLimits,
        cancel: CancellationToken,
    ) {
        let common = self.link_shared(&link, limits.connection.clone());
        let group = common.group;
        let cancel = cancel.child_token();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.inner.over() => {}
            () = self.accept_all(&listener, link, server.as_ref(), limits, common, &cancel) => {}
        }
        // Before the connections are closed, so that a handshake that ends now does not add one.
        cancel.cancel();
        self.inner.close_group(group, CloseReason::Shutdown);
    }

    async fn accept_all(
        &self,
        listener: &TcpListener,
        link: E::Link,
        server: Option<&Arc<NoiseServer>>,
        limits: ListenLimits,
        common: Arc<LinkShared>,
        cancel: &CancellationToken,
    ) {
        let handshakes = Arc::new(Semaphore::new(limits.handshakes));
        let handshake_time = limits.handshake_time;
        let admission = Admission::new(limits);
        let mut refusals = Refusals::default();
        let mut wait = ACCEPT_BACKOFF.0;
        loop {
            // Never closed, so it never fails.
            let permit = handshakes.clone().acquire_owned().await.ok();
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_connection(&error) => continue,
                Err(error) => {
                    warn!(%error, ?link, "cannot accept connections, trying again");
                    sleep(wait).await;
                    wait = (wait * 2).min(ACCEPT_BACKOFF.1);
                    continue;
                }
            };
            wait = ACCEPT_BACKOFF.0;
            let place = match admission.admit(remote.ip(), Instant::now()) {
                Ok(place) => place,
                Err(reason) => {
                    common.metrics.closed(&reason);
                    refusals.note(&link, remote, &reason);
                    continue;
                }
            };
            common.metrics.accepted.inc();
            let common = common.clone();
            let Some(server) = server else {
                // A connection that is gone already cannot be set up, and shows as closed when read.
                let _ = set_up(&stream, &common.limits);
                self.admit(stream, remote, link, common, Security::None, Some(place));
                continue;
            };
            let (hub, server, cancel) = (self.clone(), server.clone(), cancel.clone());
            tokio::spawn(async move {
                let mut stream = stream;
                let _ = set_up(&stream, &common.limits);
                let metrics = &hub.inner.metrics;
                let handshake =
                    crate::noise::respond(&mut stream, &server, handshake_time, metrics);
                // The handshake's state is large beside what a connection needs, and is not kept in its task.
                match cancel.run_until_cancelled(Box::pin(handshake)).await {
                    Some(Ok((sealer, opener))) if !cancel.is_cancelled() => {
                        let security = Security::Noise { sealer, opener, unspoken: true };
                        hub.admit(stream, remote, link, common, security, Some(place));
                    }
                    Some(Ok(_)) | None => {}
                    Some(Err(reason)) => {
                        debug!(?link, %remote, %reason, "handshake failed");
                        common.metrics.closed(&reason);
                    }
                }
                drop(permit);
            });
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        link: E::Link,
        common: Arc<LinkShared>,
        security: Security,
        place: Option<Place>,
    ) {
        if let Some((_, connection)) = self.connect(stream, remote, link, common, security, None) {
            tokio::spawn(async move {
                connection.run().await;
                drop(place);
            });
        }
    }

    /// Makes a connection known to the engine.
    pub(crate) fn connect(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        link: E::Link,
        common: Arc<LinkShared>,
        security: Security,
        closed: Option<tokio::sync::oneshot::Sender<CloseReason>>,
    ) -> Option<(PeerId, Connection<E>)> {
        let (read, write) = stream.into_split();
        let (sealer, reader, unspoken) = match security {
            Security::None => (None, Reader::lines(common.limits.max_line), false),
            Security::Noise { sealer, opener, unspoken } => {
                let reader = Reader::frames(opener, common.limits.max_payload);
                (Some(Box::new(sealer)), reader, unspoken)
            }
        };
        let shared = Shared::new();
        let joining = Joining {
            link,
            remote,
            write,
            shared: shared.clone(),
            common: common.clone(),
            sealer,
            closed,
        };
        let inner = self.inner.clone();
        let peer = inner.guarded(|state| state.join(joining, Now::read())).ok()??;
        Some((peer, Connection { inner, peer, read, shared, common, reader, unspoken }))
    }
}

/// What a connection is wrapped in.
pub(crate) enum Security {
    None,
    Noise { sealer: Sealer, opener: Opener, unspoken: bool },
}

/// Sets what all connections have.
pub(crate) fn set_up(stream: &TcpStream, limits: &ConnectionLimits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(limits.keepalive)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    limits.send_buffer.map_or(Ok(()), |bytes| socket.set_send_buffer_size(bytes))
}

/// Whether the error is of one connection that did not come about, and the next one may be fine.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Tells an operator that connections are refused, not of each.
#[derive(Debug, Default)]
struct Refusals {
    since_logged: u64,
    logged: Option<Instant>,
}

impl Refusals {
    fn note(&mut self, link: &impl std::fmt::Debug, remote: SocketAddr, reason: &CloseReason) {
        self.since_logged += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= REFUSALS_LOGGED) {
            warn!(?link, %remote, %reason, count = self.since_logged, "connections are refused");
            *self = Self { since_logged: 0, logged: Some(Instant::now()) };
        }
    }
}
