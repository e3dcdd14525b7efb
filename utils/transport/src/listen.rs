//! Listening, and who is let in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::noise::{Opener, Sealer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::admission::{Admission, Place};
use crate::connection::{Connection, Shared};
use crate::metrics::LinkMetrics;
use crate::proxy;
use crate::reader::Reader;
use crate::slot::{Joining, LinkShared, Wrap};
use crate::tls::TlsSession;
use crate::{
    CloseReason, ConnectionLimits, Engine, Hub, LineOptions, ListenLimits, Network, NoiseServer,
    Now, PeerId, TlsServer, TransportMetrics,
};

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
        let gate = Gate { noise: Some(server), ..Gate::default() };
        self.clone().serve(listener, link, gate, format!("{link:?}"), limits, cancel)
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
        self.serve_lines_with(listener, link, LineOptions::default(), limits, cancel)
    }

    /// As [`serve_lines`](Self::serve_lines), with TLS or behind proxies or with a name.
    pub fn serve_lines_with(
        &self,
        listener: TcpListener,
        link: E::Link,
        options: LineOptions,
        limits: ListenLimits,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<E> {
        let LineOptions { label, tls, proxies } = options;
        let label = label.unwrap_or_else(|| format!("{link:?}"));
        self.clone().serve(
            listener,
            link,
            Gate { noise: None, tls, proxies },
            label,
            limits,
            cancel,
        )
    }

    async fn serve(
        self,
        listener: TcpListener,
        link: E::Link,
        gate: Gate,
        label: String,
        limits: ListenLimits,
        cancel: CancellationToken,
    ) {
        let common = self.link_shared(label, limits.connection.clone());
        let group = common.group;
        let cancel = cancel.child_token();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.inner.over() => {}
            () = self.accept_all(&listener, link, gate, limits, common, &cancel) => {}
        }
        // Before the connections are closed, so that a handshake that ends now does not add one.
        cancel.cancel();
        self.inner.close_group(group, CloseReason::Shutdown);
    }

    async fn accept_all(
        &self,
        listener: &TcpListener,
        link: E::Link,
        gate: Gate,
        limits: ListenLimits,
        common: Arc<LinkShared>,
        cancel: &CancellationToken,
    ) {
        let handshakes = Arc::new(Semaphore::new(limits.handshakes));
        let handshake_time = limits.handshake_time;
        let admission = Admission::new(limits);
        let gate = Arc::new(gate);
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
            let place = match gate.let_in(&admission, remote) {
                Ok(place) => place,
                Err(reason) => {
                    common.metrics.closed(&reason);
                    refusals.note(&link, remote, &reason);
                    continue;
                }
            };
            let common = common.clone();
            // A connection that is gone already cannot be set up, and shows as closed when read.
            let _ = set_up(&stream, &common.limits);
            if gate.is_open() {
                common.metrics.accepted.inc();
                self.admit(stream, remote, link, common, Security::None, place);
                continue;
            }
            let visitor = Visitor { stream, remote, place };
            let (hub, gate, admission) = (self.clone(), gate.clone(), admission.clone());
            let (cancel, handshakes) = (cancel.clone(), handshakes.clone());
            tokio::spawn(async move {
                let turns = visitor.place.as_ref().map(|place| place.turns.clone());
                let Some(turn) = cancel.run_until_cancelled(turn(turns, permit, handshakes)).await
                else {
                    return;
                };
                let metrics = &hub.inner.metrics;
                let passes =
                    gate.pass(visitor, &admission, handshake_time, &common.metrics, metrics);
                // The handshake's state is large beside what a connection needs, and is not kept in its task.
                match cancel.run_until_cancelled(Box::pin(passes)).await {
                    Some(Ok((visitor, security))) if !cancel.is_cancelled() => {
                        let Visitor { stream, remote, place } = visitor;
                        hub.admit(stream, remote, link, common, security, place);
                    }
                    Some(Ok(_)) | None => {}
                    Some(Err(reason)) => {
                        debug!(?link, %remote, %reason, "handshake failed");
                        common.metrics.closed(&reason);
                    }
                }
                drop(turn);
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
        let connection = self.connect(stream, remote, link, common, security, None);
        if let Some((_, mut connection)) = connection {
            connection.unanswered = true;
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
        let lines = || Reader::lines(common.limits.max_line);
        let (wrap, reader, tls, unspoken) = match security {
            Security::None => (Wrap::Plain, lines(), None, false),
            Security::Tls(session) => (Wrap::Tls(session.clone()), lines(), Some(session), false),
            Security::Noise { sealer, opener, unspoken } => {
                let reader = Reader::frames(opener, common.limits.max_payload);
                (Wrap::Noise(Box::new(sealer)), reader, None, unspoken)
            }
        };
        let shared = Shared::new();
        let joining = Joining {
            link,
            remote,
            write,
            shared: shared.clone(),
            common: common.clone(),
            wrap,
            closed,
        };
        let inner = self.inner.clone();
        let peer = inner.guarded(|state| state.join(joining, Now::read())).ok()??;
        let unanswered = false;
        let connection =
            Connection { inner, peer, read, shared, common, reader, tls, unspoken, unanswered };
        Some((peer, connection))
    }
}

/// Waits until a connection's address may have another handshake, without taking the permit that another's could have.
async fn turn(
    turns: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
    handshakes: Arc<Semaphore>,
) -> [Option<OwnedSemaphorePermit>; 2] {
    // They are never closed, so they never fail.
    let Some(turns) = turns else { return [None, permit] };
    if let Ok(turn) = turns.clone().try_acquire_owned() {
        return [Some(turn), permit];
    }
    drop(permit);
    let turn = turns.acquire_owned().await.ok();
    [turn, handshakes.acquire_owned().await.ok()]
}

/// What a connection goes through before the engine hears of it.
#[derive(Debug, Default)]
struct Gate {
    noise: Option<Arc<NoiseServer>>,
    tls: Option<Arc<TlsServer>>,
    proxies: Option<Arc<[Network]>>,
}

/// A connection in the gate.
struct Visitor {
    stream: TcpStream,
    remote: SocketAddr,
    /// None while it is not known from where it comes.
    place: Option<Place>,
}

impl Gate {
    /// Whether there is nothing to go through.
    fn is_open(&self) -> bool {
        self.noise.is_none() && self.tls.is_none() && self.proxies.is_none()
    }

    /// Whether a connection may come as far as the gate, and its place in the limits unless a proxy is to say whose it
    /// is.
    fn let_in(
        &self,
        admission: &Admission,
        remote: SocketAddr,
    ) -> Result<Option<Place>, CloseReason> {
        match &self.proxies {
            Some(proxies) if proxies.iter().any(|proxy| proxy.contains(remote.ip())) => Ok(None),
            Some(_) => Err(CloseReason::UntrustedProxy),
            None => admission.admit(remote.ip(), Instant::now()).map(Some),
        }
    }

    /// Headers and handshakes.
    async fn pass(
        &self,
        mut visitor: Visitor,
        admission: &Admission,
        time: Duration,
        link: &LinkMetrics,
        metrics: &TransportMetrics,
    ) -> Result<(Visitor, Security), CloseReason> {
        if self.proxies.is_some() {
            let header = proxy::read_header(&mut visitor.stream);
            let source =
                timeout(time, header).await.map_err(|_| CloseReason::HandshakeTimeout)??;
            visitor.remote = source.unwrap_or(visitor.remote);
            visitor.place = Some(admission.admit(visitor.remote.ip(), Instant::now())?);
        }
        link.accepted.inc();
        let stream = &mut visitor.stream;
        let security = if let Some(server) = &self.noise {
            let (sealer, opener) = crate::noise::respond(stream, server, time, metrics).await?;
            Security::Noise { sealer, opener, unspoken: true }
        } else if let Some(server) = &self.tls {
            Security::Tls(server.accept(stream, time, metrics).await?)
        } else {
            Security::None
        };
        Ok((visitor, security))
    }
}

/// What a connection is wrapped in.
pub(crate) enum Security {
    None,
    Tls(Arc<TlsSession>),
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
    // The kernel does not ask while something it sent has no answer, and would go on sending for a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits.keepalive + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that is gone is noticed, whether something is on its way to it or not.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_gives_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&stream, &ConnectionLimits::default()).unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert!(socket.tcp_nodelay().unwrap());
    }
}
