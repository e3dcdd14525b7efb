//! Sections and value types that every role's configuration shares.

use std::{
    cell::RefCell,
    fmt,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
};

use adit_sv2::keys::AuthoritySecretKey;
use serde::{Deserialize, Deserializer};

use super::ConfigError;

/// Access to the sections that [`main`](crate::main) itself needs.
pub trait CommonConfig {
    /// `[http]`
    fn http(&self) -> &Http;
    /// `[log]`
    fn log(&self) -> &Log;
}

/// `[http]`: health, status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port to serve `/healthz`, `/readyz`, `/status` and `/metrics` on. Port 0 takes a free one, which is
    /// logged. Not given: nothing is served. Nobody is asked for a password: keep it on a private address.
    pub listen: Option<SocketAddr>,
}

/// `[log]`: what is written to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, or a list of those for parts: `info,adit_pool=debug`. The
    /// variable `RUST_LOG` goes before it.
    pub level: String,
    /// One line of text or one JSON object per event.
    pub format: LogFormat,
}

/// How log events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// `[authority]`: the key that a server proves itself with, for roles that accept Noise connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authority {
    /// The file with the secret key, as written by `keys --out FILE`.
    pub secret_key_file: Option<ConfigPath>,
    /// The secret key itself; made for the environment (`ADIT_<ROLE>__AUTHORITY__SECRET_KEY`).
    pub secret_key: Option<Secret>,
    /// How long a certificate shown to a client is valid, in hours, 1 to 87600 (ten years). A new one is signed
    /// every minute, so it only has to outlast the difference between two clocks.
    pub cert_validity_hours: u32,
}

impl Authority {
    /// The longest certificate: the protocol counts time in 32 bit seconds.
    const MAX_VALIDITY_HOURS: u32 = 10 * 365 * 24;

    /// Reads the secret key.
    ///
    /// # Errors
    /// About the key `authority.*` at fault: none or both given, file not readable, not a key, validity out of range.
    pub fn load(&self) -> Result<AuthoritySecretKey, ConfigError> {
        if !(1..=Self::MAX_VALIDITY_HOURS).contains(&self.cert_validity_hours) {
            let message = format!("expected 1 to {} hours", Self::MAX_VALIDITY_HOURS);
            return Err(ConfigError::new("authority.cert_validity_hours", message));
        }
        let secret = Secret::read(
            "authority.secret_key",
            self.secret_key.as_ref(),
            self.secret_key_file.as_deref(),
        )?
        .ok_or_else(|| {
            ConfigError::new(
                "authority.secret_key_file",
                "required: make a key with the command `keys --out FILE`",
            )
        })?;
        let key = if self.secret_key.is_some() {
            "authority.secret_key"
        } else {
            "authority.secret_key_file"
        };
        secret
            .expose()
            .parse()
            .map_err(|e| ConfigError::new(key, format!("not an authority secret key: {e}")))
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self { secret_key_file: None, secret_key: None, cert_validity_hours: 24 }
    }
}

/// A text that no log, error or status may show. `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Longest secret read from a file, in bytes; more is not a secret but the wrong file.
    const MAX_FILE: u64 = 64 * 1024;

    /// Wraps a secret that comes from elsewhere than the configuration.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret of a pair of keys `KEY` and `KEY_file`: at most one of them is given. A file's last line break is not
    /// part of the secret.
    ///
    /// # Errors
    /// Both given, the file unreadable or too large, or the secret empty.
    pub fn read(
        key: &str,
        value: Option<&Self>,
        file: Option<&Path>,
    ) -> Result<Option<Self>, ConfigError> {
        let (key, secret) = match (value, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(ConfigError::new(key, format!("given twice: also as {key}_file")));
            }
            (Some(value), None) => (key.to_owned(), value.clone()),
            (None, Some(path)) => {
                let key = format!("{key}_file");
                let secret = read_secret_file(path, Self::MAX_FILE).map_err(|e| {
                    ConfigError::new(key.as_str(), format!("{}: {e}", path.display()))
                })?;
                (key, Self(secret))
            }
        };
        if secret.0.is_empty() { Err(ConfigError::new(key, "empty")) } else { Ok(Some(secret)) }
    }
}

fn read_secret_file(path: &Path, limit: u64) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};

    let mut text = String::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(Error::new(ErrorKind::InvalidData, "too large for a secret"));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A path; a relative one written in a configuration file is meant from that file's folder, one from the environment or
/// a flag from the working folder. A default is meant as if it stood in the file ([`ConfigPath::by_default`]).
///
/// The reader of the file, which alone knows the folder, does this for every newtype struct of this name.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct ConfigPath(PathBuf);

thread_local! {
    /// The folder of the file that is being read.
    static FOLDER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

impl ConfigPath {
    /// What a key that is not given means: the same as if the file said it. For the functions that serde asks for
    /// defaults, which are told nothing; outside of the reading of a configuration it is the path as it stands.
    pub fn by_default(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self(FOLDER.with_borrow(|folder| match folder {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }))
    }

    /// Reads something; its defaults start at this folder.
    pub(super) fn reading<T>(folder: &Path, read: impl FnOnce() -> T) -> T {
        /// Back to what it was, whatever happens.
        struct Former(Option<PathBuf>);

        impl Drop for Former {
            fn drop(&mut self) {
                FOLDER.set(self.0.take());
            }
        }
        let _former = Former(FOLDER.replace(Some(folder.to_owned())));
        read()
    }
}

impl<P: Into<PathBuf>> From<P> for ConfigPath {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

impl Deref for ConfigPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for ConfigPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Debug for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
