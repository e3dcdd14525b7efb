//! Where a node is and how to log in.

use std::{fmt, path::PathBuf, time::Duration};

use hyper::Uri;
use serde::Deserialize;
use thiserror::Error;

const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// One node: where it is and how to log in.
///
/// In TOML: `url = "http://127.0.0.1:18443"` and either `cookie_file` or `user` with `password` or `password_file`;
/// `timeout_seconds` may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct NodeConfig {
    /// `http://HOST:PORT`; the port is never guessed, since each chain has its own.
    pub url: String,
    /// How to log in.
    pub auth: Auth,
    /// Deadline of an ordinary call, connecting included. Waiting calls and `submitblock` have their own.
    pub timeout: Duration,
}

/// How to log in to a node. Files are read again when the node refuses what they held before.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// The node's `.cookie`, new at each of its starts.
    Cookie(PathBuf),
    /// A user of the node's `rpcauth` or `rpcuser`.
    UserPass {
        /// User name.
        user: String,
        /// Password in the clear.
        password: String,
    },
    /// The same with the password on the first line of a file.
    UserPasswordFile {
        /// User name.
        user: String,
        /// File that holds the password.
        password_file: PathBuf,
    },
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(path) => f.debug_tuple("Cookie").field(path).finish(),
            Self::UserPass { user, .. } => {
                f.debug_struct("UserPass").field("user", user).finish_non_exhaustive()
            }
            Self::UserPasswordFile { user, password_file } => f
                .debug_struct("UserPasswordFile")
                .field("user", user)
                .field("password_file", password_file)
                .finish(),
        }
    }
}

/// A [`NodeConfig`] that cannot be used. The operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The URL is not `http://HOST:PORT`.
    #[error("node url '{url}' is not http://HOST:PORT: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Neither, or more than one, way to log in.
    #[error("node needs either cookie_file, or user with one of password and password_file")]
    Auth,
    /// No time to answer.
    #[error("node timeout_seconds must be at least 1")]
    Timeout,
}

/// A [`NodeConfig`] as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    url: String,
    cookie_file: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    timeout_seconds: Option<u64>,
}

impl TryFrom<Keys> for NodeConfig {
    type Error = ConfigError;

    fn try_from(keys: Keys) -> Result<Self, ConfigError> {
        let auth = match (keys.cookie_file, keys.user, keys.password, keys.password_file) {
            (Some(path), None, None, None) => Auth::Cookie(path),
            (None, Some(user), Some(password), None) => Auth::UserPass { user, password },
            (None, Some(user), None, Some(password_file)) => {
                Auth::UserPasswordFile { user, password_file }
            }
            _ => return Err(ConfigError::Auth),
        };
        let seconds = keys.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        let config = Self { url: keys.url, auth, timeout: Duration::from_secs(seconds) };
        config.check()?;
        Ok(config)
    }
}

impl NodeConfig {
    /// A node with the usual timeout.
    pub fn new(url: impl Into<String>, auth: Auth) -> Self {
        Self { url: url.into(), auth, timeout: Duration::from_secs(DEFAULT_TIMEOUT_SECONDS) }
    }

    /// Says what is wrong without asking the node. A config from serde has been checked already.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.endpoint()?;
        if self.timeout.is_zero() { Err(ConfigError::Timeout) } else { Ok(()) }
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let wrong = |why| ConfigError::Url { url: without_userinfo(&self.url), why };
        let uri: Uri = self.url.parse().map_err(|_| wrong("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("a node speaks plain http"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user and password are keys of their own"));
        }
        let port = authority.port_u16().ok_or_else(|| wrong("no port"))?;
        if uri.query().is_some() || authority.host().is_empty() {
            return Err(wrong("no query is expected"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Endpoint { host, port, authority: authority.to_string(), path: uri.path().to_owned() })
    }
}

/// The URL's parts as connecting and asking need them.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// A name or an address, an IPv6 one without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// For the `Host` header and for messages.
    pub(crate) authority: String,
    pub(crate) path: String,
}

/// A password that was put into the URL does not belong into a log.
fn without_userinfo(url: &str) -> String {
    let Some(at) = url.rfind('@') else { return url.to_owned() };
    // Where the scheme was forgotten there is none to show.
    let start = url[..at].find("//").map_or(0, |start| start + 2);
    format!("{}***{}", &url[..start], &url[at..])
}
