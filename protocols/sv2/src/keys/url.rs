//! `stratum2+tcp://host:port/KEY` (spec 4.7).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::{AuthorityPublicKey, KeyError};

const SCHEME: &str = "stratum2+tcp://";

/// The address of a Stratum V2 server and the authority that vouches for it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Sv2Url {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who must have signed the server's certificate. Without it the connection is encrypted, but to whom is unknown.
    pub authority: Option<AuthorityPublicKey>,
}

impl Sv2Url {
    /// The port of a URL that names none, the one of the spec's example.
    pub const DEFAULT_PORT: u16 = 34254;

    /// `host:port` as a resolver takes it, IPv6 addresses in brackets.
    pub fn host_port(&self) -> String {
        format!("{}:{}", BracketedHost(&self.host), self.port)
    }

    /// The authority key, or [`UrlError::MissingKey`] where a connection must be authenticated.
    pub fn require_authority(&self) -> Result<AuthorityPublicKey, UrlError> {
        self.authority.ok_or(UrlError::MissingKey)
    }
}

/// Why a text is not the URL of a Stratum V2 server.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with `stratum2+tcp://`.
    #[error("does not begin with {SCHEME}")]
    Scheme,
    /// Nothing between the scheme and the port.
    #[error("has no host")]
    MissingHost,
    /// The host is neither a name nor an IP address.
    #[error("`{0}` is neither a host name nor an IP address (IPv6 goes in brackets: [::1])")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// What follows the last slash is not an authority key.
    #[error("the authority key after the slash: {0}")]
    Key(#[from] KeyError),
    /// An authority key is needed and there is none.
    #[error("has no authority key: append /KEY, the key that the server's operator publishes")]
    MissingKey,
}

impl FromStr for Sv2Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(UrlError::Scheme),
        };
        let (address, key) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = if key.is_empty() { None } else { Some(key.parse()?) };
        let (host, port) = split_port(address)?;
        let port = match port {
            None => Self::DEFAULT_PORT,
            // A u16 would also be parsed from "+1".
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| UrlError::Port(digits.into()))?,
            Some(other) => return Err(UrlError::Port(other.into())),
        };
        Ok(Self { host: host.into(), port, authority })
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; the host is checked and without brackets.
fn split_port(address: &str) -> Result<(&str, Option<&str>), UrlError> {
    if let Some((host, after)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let malformed = || UrlError::Host(address.into());
        host.parse::<Ipv6Addr>().map_err(|_| malformed())?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(malformed()),
        };
    }
    if address.parse::<Ipv6Addr>().is_ok() {
        return Err(UrlError::Host(address.into()));
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    };
    if host.is_empty() {
        return Err(UrlError::MissingHost);
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(UrlError::Host(host.into()));
    }
    Ok((host, port))
}

impl fmt::Display for Sv2Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}:{}", BracketedHost(&self.host), self.port)?;
        match &self.authority {
            Some(key) => write!(f, "/{key}"),
            None => Ok(()),
        }
    }
}

struct BracketedHost<'a>(&'a str);

impl fmt::Display for BracketedHost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}
