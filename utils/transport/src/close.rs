//! Why a connection ended: one list for logs, metrics, engines and dialers.

use std::borrow::Cow;
use std::fmt;
use std::io;

use adit_sv2::noise::{CertificateError, HandshakeError, OpenError};

/// Why a connection ended or did not come about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended it.
    PeerClosed,
    /// The peer ended it after the handshake and before its first frame.
    PeerClosedAfterHandshake,
    /// The handshake did not end in time.
    HandshakeTimeout,
    /// The handshake was not one.
    HandshakeFailed(HandshakeError),
    /// The server's certificate is not signed by the authority that was configured.
    WrongAuthorityKey(CertificateError),
    /// The server's certificate is over, or not valid yet.
    CertificateExpired(CertificateError),
    /// A frame announced more than its message type may have.
    FrameTooLarge(OpenError),
    /// A client began a frame of more than this before it was answered.
    LargeBeforeSetup {
        /// Payload bytes that were allowed.
        limit: usize,
    },
    /// A frame did not decrypt.
    BadFrame(OpenError),
    /// A line without end.
    LineTooLong {
        /// Bytes that were allowed.
        limit: usize,
    },
    /// More waits to be sent than is kept for a peer, or it waits for too long.
    SlowReader,
    /// A frame or line was begun and not finished in time.
    Incomplete,
    /// The listener has as many connections as it may, in all or of one address.
    TooManyConnections,
    /// The address connects too often.
    RateLimited,
    /// The address has connected too often, and is refused for a while.
    Banned,
    /// It came past the proxy that the listener is for.
    UntrustedProxy,
    /// It does not begin with a PROXY header.
    BadProxyHeader,
    /// What it sent is no TLS, or of a kind that is not spoken here.
    TlsFailed,
    /// The engine closed it.
    Engine(&'static str),
    /// The operating system reported an error.
    Io(io::ErrorKind),
    /// This process is ending or stops listening.
    Shutdown,
    /// The engine panicked, so all of its connections end.
    EngineFailed,
}

impl CloseReason {
    /// The metric label; the set of labels is bounded, since engines' reasons are constants.
    pub fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::PeerClosed => "peer-closed",
            Self::PeerClosedAfterHandshake => "peer-closed-after-handshake",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::HandshakeFailed(_) => "handshake-failed",
            Self::WrongAuthorityKey(_) => "wrong-authority-key",
            Self::CertificateExpired(_) => "certificate-expired",
            Self::FrameTooLarge(_) => "frame-too-large",
            Self::LargeBeforeSetup { .. } => "large-frame-before-setup",
            Self::BadFrame(_) => "bad-frame",
            Self::LineTooLong { .. } => "line-too-long",
            Self::SlowReader => "slow-reader",
            Self::Incomplete => "incomplete-timeout",
            Self::TooManyConnections => "too-many-connections",
            Self::RateLimited => "rate-limited",
            Self::Banned => "banned",
            Self::UntrustedProxy => "untrusted-proxy",
            Self::BadProxyHeader => "bad-proxy-header",
            Self::TlsFailed => "tls-failed",
            Self::Engine(reason) => return Cow::Owned(format!("engine:{reason}")),
            Self::Io(_) => "io-error",
            Self::Shutdown => "shutdown",
            Self::EngineFailed => "engine-failed",
        })
    }

    /// Whether an operator may want to act on it, so that it is logged at `info`; the others are at `debug`.
    ///
    /// What anybody can cause without having passed a handshake is not among them: it would fill the log.
    pub(crate) fn is_notable(&self) -> bool {
        matches!(
            self,
            Self::PeerClosedAfterHandshake
                | Self::WrongAuthorityKey(_)
                | Self::CertificateExpired(_)
                | Self::FrameTooLarge(_)
                | Self::LargeBeforeSetup { .. }
                | Self::SlowReader
                | Self::Engine(_)
        )
    }

    /// Whether the peer should still get what is on its way.
    pub(crate) fn is_gentle(&self) -> bool {
        matches!(self, Self::Engine(_) | Self::Shutdown)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::PeerClosedAfterHandshake => f.write_str(
                "closed by the peer right after the handshake: it may expect another authority key, or disagree about the time",
            ),
            Self::HandshakeTimeout => f.write_str("the handshake did not end in time"),
            Self::HandshakeFailed(error) => error.fmt(f),
            Self::WrongAuthorityKey(error) | Self::CertificateExpired(error) => error.fmt(f),
            Self::FrameTooLarge(error) | Self::BadFrame(error) => error.fmt(f),
            Self::LargeBeforeSetup { limit } => {
                write!(f, "a frame of more than {limit} bytes before the connection is set up")
            }
            Self::LineTooLong { limit } => write!(f, "a line of more than {limit} bytes"),
            Self::SlowReader => f.write_str("the peer does not read what is sent to it"),
            Self::Incomplete => f.write_str("a message was begun and not finished in time"),
            Self::TooManyConnections => f.write_str("too many connections"),
            Self::RateLimited => f.write_str("its address connects too often"),
            Self::Banned => f.write_str("its address has connected too often and is refused for a while"),
            Self::UntrustedProxy => f.write_str("not from a proxy that is trusted"),
            Self::BadProxyHeader => f.write_str("no PROXY header"),
            Self::TlsFailed => f.write_str("not TLS, or of a kind that is not spoken here"),
            Self::Engine(reason) => f.write_str(reason),
            Self::Io(kind) => kind.fmt(f),
            Self::Shutdown => f.write_str("shutdown"),
            Self::EngineFailed => f.write_str("the engine failed"),
        }
    }
}

impl From<HandshakeError> for CloseReason {
    fn from(error: HandshakeError) -> Self {
        use CertificateError::{Expired, NotYetValid, WrongAuthority};
        match error {
            HandshakeError::Certificate(e @ WrongAuthority { .. }) => Self::WrongAuthorityKey(e),
            HandshakeError::Certificate(e @ (NotYetValid { .. } | Expired { .. })) => {
                Self::CertificateExpired(e)
            }
            other => Self::HandshakeFailed(other),
        }
    }
}

impl From<OpenError> for CloseReason {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::TooLarge { .. } => Self::FrameTooLarge(error),
            _ => Self::BadFrame(error),
        }
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            // A process that dies with unread bytes resets its connections: nothing that an error would tell more of.
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::PeerClosed,
            kind => Self::Io(kind),
        }
    }
}
