//! Limits and times, each with what it is against.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_sv2::frame::MAX_PAYLOAD;
use adit_sv2::keys::{AuthorityPublicKey, Sv2Url};
use tokio_util::sync::CancellationToken;

use crate::{Network, TlsServer};

/// What holds for each connection of a link.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Payload bytes of a received frame, where this is less than [`payload_limit`](adit_sv2::frame::payload_limit)
    /// allows its type: against peers that announce 16 MB frames of a protocol that the link does not speak.
    pub max_payload: usize,
    /// Bytes of a received line: against peers that never end one.
    pub max_line: usize,
    /// Payload bytes of a frame, or bytes of a line, that a client may begin before it was answered, where this is less
    /// than the two above: what comes first is small, a `SetupConnection` has at most 1,291 bytes. Against many
    /// connections that begin a large frame each and do nothing else.
    pub before_answer: usize,
    /// Bytes kept for a peer that does not read as fast as it is sent to, beyond what the kernel keeps. Must hold the
    /// largest message that is sent on the link. Against peers that stop reading to use up memory.
    pub spill_bytes: usize,
    /// How long bytes may be kept before the peer is dropped, longer by a second for each 16 KiB that it takes: against
    /// the same.
    pub spill_time: Duration,
    /// How long a frame or line may take from its first to its last byte: against a byte now and then, which would
    /// hold a connection for ever.
    pub incomplete_time: Duration,
    /// How long a connection that this end closes may take to read what it was sent.
    pub linger: Duration,
    /// The kernel's send buffer in bytes (Linux doubles it); the system's default if none. Less of it means that a peer
    /// that does not read costs less memory and is noticed earlier.
    pub send_buffer: Option<usize>,
    /// Silence after which the kernel asks whether the peer's host is still there; it gives up about a minute later.
    /// Against connections whose other end lost its power.
    pub keepalive: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_payload: MAX_PAYLOAD,
            max_line: 16 << 10,
            before_answer: 4 << 10,
            spill_bytes: 256 << 10,
            spill_time: Duration::from_secs(30),
            incomplete_time: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            send_buffer: None,
            keepalive: Duration::from_secs(60),
        }
    }
}

impl ConnectionLimits {
    /// For links with messages as large as a block: template distribution, job declaration.
    pub fn bulk() -> Self {
        Self { spill_bytes: 24 << 20, incomplete_time: Duration::from_secs(300), ..Self::default() }
    }
}

/// What holds for a listener.
#[derive(Clone, Debug)]
pub struct ListenLimits {
    /// Connections at once, handshakes included: against running out of files and memory.
    pub max_connections: usize,
    /// What one address may do (IPv6: one /64).
    pub address: AddressLimits,
    /// The same for loopback addresses, behind which are local roles, proxies and tests.
    pub loopback: AddressLimits,
    /// How long an address that connects more often than it may is refused; zero for only while it does. Against storms
    /// that do not end.
    pub ban: Duration,
    /// Handshakes at once, a quarter of them of one address; further connections wait. Against connections that never
    /// speak.
    pub handshakes: usize,
    /// Time for a handshake, of Noise, TLS or a proxy: against the same.
    pub handshake_time: Duration,
    /// What holds for each connection.
    pub connection: ConnectionLimits,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            address: AddressLimits { connections: 5_000, burst: 1_000, per_second: 200.0 },
            loopback: AddressLimits { connections: 20_000, burst: 20_000, per_second: 5_000.0 },
            ban: Duration::ZERO,
            handshakes: 1_000,
            handshake_time: Duration::from_secs(5),
            connection: ConnectionLimits::default(),
        }
    }
}

/// What a listener for lines has beyond limits.
#[derive(Clone, Debug, Default)]
pub struct LineOptions {
    /// The link's name in metrics; by default what its `Debug` says.
    pub label: Option<String>,
    /// Connections are TLS.
    pub tls: Option<Arc<TlsServer>>,
    /// Connections come through proxies of these networks, begin with a PROXY header (before TLS), and count as those of
    /// the address in it. Others are refused.
    pub proxies: Option<Arc<[Network]>>,
}

impl ListenLimits {
    /// The defaults with room for so many connections at once, and for so many of one address. All may come from
    /// loopback.
    pub fn places(connections: usize, of_one_address: u32) -> Self {
        let all = u32::try_from(connections).unwrap_or(u32::MAX);
        let defaults = Self::default();
        Self {
            max_connections: connections,
            address: AddressLimits { connections: of_one_address, ..defaults.address },
            loopback: AddressLimits { connections: all, ..defaults.loopback },
            ..defaults
        }
    }

    pub(crate) fn of(&self, address: IpAddr) -> &AddressLimits {
        if address.is_loopback() { &self.loopback } else { &self.address }
    }
}

/// What one address may do. A farm behind address translation is one address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddressLimits {
    /// Connections at once: against one host taking all places.
    pub connections: u32,
    /// Connections that may come at once.
    pub burst: u32,
    /// Connections per second once the burst is used up: against storms of connections, each of which costs a handshake.
    pub per_second: f32,
}

/// Where to connect to, and whom to expect there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DialTarget {
    /// A name or an address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who must have signed the server's certificate; anybody if none. Not looked at on lines.
    pub authority_key: Option<AuthorityPublicKey>,
}

impl From<&Sv2Url> for DialTarget {
    fn from(url: &Sv2Url) -> Self {
        Self { host: url.host.clone(), port: url.port, authority_key: url.authority }
    }
}

impl From<SocketAddr> for DialTarget {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), authority_key: None }
    }
}

impl std::fmt::Display for DialTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// Time to resolve the name and connect.
    pub connect_time: Duration,
    /// Time for the Noise handshake.
    pub handshake_time: Duration,
    /// How far the server's clock may be off before its certificate is refused.
    pub clock_tolerance: Duration,
    /// What holds for the connection.
    pub connection: ConnectionLimits,
    /// Waits between attempts of [`Hub::keep_dialed`](crate::Hub::keep_dialed).
    pub backoff: Backoff,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            connect_time: Duration::from_secs(5),
            handshake_time: Duration::from_secs(5),
            clock_tolerance: Duration::from_secs(10),
            connection: ConnectionLimits::default(),
            backoff: Backoff::default(),
        }
    }
}

/// Waits that double from attempt to attempt, each shortened at random by up to half, so that the clients of a server
/// that comes back do not come all at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// No wait is longer.
    pub cap: Duration,
    /// A connection that lived this long was a good one: the next wait is the first again.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            cap: Duration::from_secs(5),
            reset_after: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The wait before attempt number `failures` after the first; `random` in 0..=`u16::MAX` decides how much shorter it is.
    pub fn wait(&self, failures: u32, random: u16) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.min(16)).min(self.cap);
        doubled - doubled / 2 * u32::from(random) / (1 << 16)
    }
}

/// What holds for a hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Ends the ticks and every connection.
    pub cancel: CancellationToken,
    /// Time between ticks of the engine.
    pub tick: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { cancel: CancellationToken::new(), tick: Duration::from_millis(100) }
    }
}
