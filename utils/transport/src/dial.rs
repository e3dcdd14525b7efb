//! Dialling, once or for ever.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::listen::{Security, set_up};
use crate::slot::LinkShared;
use crate::{CloseReason, DialOptions, DialTarget, Engine, Hub, PeerId};

/// What is spoken on a dialled connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Stratum V2 frames over Noise.
    Noise,
    /// Lines in plaintext.
    Lines,
}

/// A connection that was made. Dropping it does not close it.
#[derive(Debug)]
pub struct Dialed {
    /// Its id, which the engine has heard already.
    pub peer: PeerId,
    /// The address that was reached.
    pub remote: SocketAddr,
    closed: oneshot::Receiver<CloseReason>,
}

impl Dialed {
    /// Resolves when the connection has ended.
    pub async fn closed(self) -> CloseReason {
        // The sender lives as long as the connection is known to the hub.
        self.closed.await.unwrap_or(CloseReason::Shutdown)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host's name has no address.
    #[error("cannot resolve {host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        error: io::Error,
    },
    /// Nobody listens there, or the network is in the way.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No answer in time.
    #[error("cannot connect: no answer within {} s", .0.as_secs_f32())]
    ConnectTimeout(Duration),
    /// The handshake failed.
    #[error("{0}")]
    Handshake(CloseReason),
    /// The hub has ended.
    #[error("this process is ending")]
    Ended,
}

/// What [`Hub::keep_dialed`] is doing.
#[derive(Debug)]
pub enum DialState<'a> {
    /// The connection stands.
    Connected {
        /// To whom.
        target: &'a DialTarget,
        /// Its id.
        peer: PeerId,
    },
    /// There is no connection.
    Waiting {
        /// To whom the last one was, or was tried.
        target: &'a DialTarget,
        /// Why it ended or was not made.
        reason: &'a str,
        /// Time until the next attempt.
        retry_in: Duration,
    },
}

impl<E: Engine> Hub<E> {
    /// Connects to a server that speaks Noise. The engine has heard of the connection when this resolves.
    ///
    /// Refuses a server whose certificate is not signed by `target.authority_key`, if there is one.
    pub fn dial_noise(
        &self,
        link: E::Link,
        target: DialTarget,
        options: DialOptions,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send + use<E> {
        self.clone().dial(link, Protocol::Noise, target, options)
    }

    /// Connects to a server that speaks lines. The engine has heard of the connection when this resolves.
    pub fn dial_lines(
        &self,
        link: E::Link,
        target: DialTarget,
        options: DialOptions,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send + use<E> {
        self.clone().dial(link, Protocol::Lines, target, options)
    }

    /// Keeps one connection up until `cancel`: dials what `targets` yields, waits until that ends, waits a little, dials
    /// what `targets` yields then. Closes the connection at last.
    ///
    /// Waits grow as [`Backoff`](crate::Backoff) says. `on_state` hears of every connection and every wait.
    pub fn keep_dialed<T, S>(
        &self,
        link: E::Link,
        protocol: Protocol,
        targets: T,
        options: DialOptions,
        cancel: CancellationToken,
        on_state: S,
    ) -> impl Future<Output = ()> + Send + use<E, T, S>
    where
        T: FnMut() -> DialTarget + Send,
        S: FnMut(DialState<'_>) + Send,
    {
        self.clone().keep(link, protocol, targets, options, cancel, on_state)
    }

    async fn dial(
        self,
        link: E::Link,
        protocol: Protocol,
        target: DialTarget,
        options: DialOptions,
    ) -> Result<Dialed, DialError> {
        let common = self.link_shared(format!("{link:?}"), options.connection.clone());
        self.dial_shared(link, protocol, &target, &options, common).await
    }

    async fn dial_shared(
        &self,
        link: E::Link,
        protocol: Protocol,
        target: &DialTarget,
        options: &DialOptions,
        common: Arc<LinkShared>,
    ) -> Result<Dialed, DialError> {
        let mut stream = reach(&target.host, target.port, options.connect_time).await?;
        let remote = stream.peer_addr().map_err(DialError::Connect)?;
        set_up(&stream, &common.limits).map_err(DialError::Connect)?;
        let security = match protocol {
            Protocol::Lines => Security::None,
            Protocol::Noise => {
                let (expected, metrics) = (target.authority_key, &self.inner.metrics);
                let (tolerance, time) = (options.clock_tolerance, options.handshake_time);
                let handshake =
                    crate::noise::initiate(&mut stream, expected, tolerance, time, metrics);
                let (sealer, opener) = Box::pin(handshake).await.map_err(|reason| {
                    common.metrics.closed(&reason);
                    DialError::Handshake(reason)
                })?;
                Security::Noise { sealer, opener, unspoken: false }
            }
        };
        let (sender, closed) = oneshot::channel();
        common.metrics.dialed.inc();
        let (peer, connection) = self
            .connect(stream, remote, link, common, security, Some(sender))
            .ok_or(DialError::Ended)?;
        tokio::spawn(connection.run());
        Ok(Dialed { peer, remote, closed })
    }

    async fn keep(
        self,
        link: E::Link,
        protocol: Protocol,
        targets: impl FnMut() -> DialTarget + Send,
        options: DialOptions,
        cancel: CancellationToken,
        on_state: impl FnMut(DialState<'_>) + Send,
    ) {
        let common = self.link_shared(format!("{link:?}"), options.connection.clone());
        let group = common.group;
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.inner.over() => {}
            () = self.keep_for_ever(link, protocol, targets, &options, &common, on_state) => {}
        }
        self.inner.close_group(group, CloseReason::Shutdown);
    }

    async fn keep_for_ever(
        &self,
        link: E::Link,
        protocol: Protocol,
        mut targets: impl FnMut() -> DialTarget + Send,
        options: &DialOptions,
        common: &Arc<LinkShared>,
        mut on_state: impl FnMut(DialState<'_>) + Send,
    ) {
        let mut failures = 0;
        let mut last_reason = String::new();
        loop {
            let target = targets();
            let dialed = self.dial_shared(link, protocol, &target, options, common.clone()).await;
            let reason = match dialed {
                Ok(dialed) => {
                    info!(?link, %target, peer = %dialed.peer, "connected");
                    on_state(DialState::Connected { target: &target, peer: dialed.peer });
                    let since = Instant::now();
                    let reason = dialed.closed().await;
                    if since.elapsed() >= options.backoff.reset_after {
                        failures = 0;
                    }
                    last_reason.clear();
                    reason.to_string()
                }
                Err(DialError::Ended) => return,
                Err(error) => error.to_string(),
            };
            let retry_in = options.backoff.wait(failures, random());
            // A server that stays away is not news.
            if reason != last_reason {
                warn!(?link, %target, %reason, "not connected, trying again");
            }
            on_state(DialState::Waiting { target: &target, reason: &reason, retry_in });
            last_reason = reason;
            failures += 1;
            sleep(retry_in).await;
        }
    }
}

/// Connects to the first address of a name that answers, within `time`.
///
/// # Errors
/// [`DialError`]; never about a handshake.
pub async fn reach(host: &str, port: u16, time: Duration) -> Result<TcpStream, DialError> {
    timeout(time, reach_any(host, port)).await.map_err(|_| DialError::ConnectTimeout(time))?
}

async fn reach_any(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let resolve = |error| DialError::Resolve { host: host.to_owned(), error };
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(resolve)?;
    match reach_one_of(addresses.take(MAX_ADDRESSES).collect()).await {
        Ok(stream) => Ok(stream),
        Err(Some(error)) => Err(DialError::Connect(error)),
        Err(None) => Err(resolve(io::Error::other("the name has no addresses"))),
    }
}

/// Connects to the first address that answers. The next one is tried when one refuses, or beside it when it says nothing
/// for a moment (as RFC 8305 has it): else a name whose first address is dead would never be reached.
async fn reach_one_of(addresses: Vec<SocketAddr>) -> Result<TcpStream, Option<io::Error>> {
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut last = None;
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        tokio::select! {
            attempt = attempts.join_next() => match attempt {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => last = Some(error),
                Some(Err(error)) => last = Some(error.into()),
                None => return Err(last),
            },
            () = sleep(ATTEMPT_DELAY), if addresses.len() > 0 => {}
        }
    }
}

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long an address may say nothing before the next one is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Spreads clients; without randomness they merely come together.
fn random() -> u16 {
    let mut bytes = [0; 2];
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn an_address_that_says_nothing_or_refuses_is_passed_over() {
        // Where the places of a listener are taken, the kernel leaves newcomers without an answer.
        let silent = TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let dead = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(ATTEMPT_DELAY, TcpStream::connect(dead)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 10, "the kernel takes them all");
        }
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = live.local_addr().unwrap();
        let reached = timeout(10 * ATTEMPT_DELAY, reach_one_of(vec![dead, refusing, alive]));
        assert_eq!(reached.await.unwrap().unwrap().peer_addr().unwrap(), alive);
        let error = reach_one_of(vec![refusing]).await.unwrap_err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(reach_one_of(vec![]).await.unwrap_err().is_none());
    }
}
