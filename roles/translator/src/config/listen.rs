//! `[[listen]]`: where miners connect, and on what terms.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

use adit_service::{ConfigError, ConfigPath};
use adit_transport::{Network, TlsError, TlsServer};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{AuthMode, MAX_DIFFICULTY, between, wrong};

/// Most listeners: an index fits in a byte beside each connection.
const MAX_LISTENERS: usize = 200;

/// One `[[listen]]`: where miners connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Label in logs, metrics and status. By default `miners`, `miners-2` and so on.
    pub name: Option<String>,
    /// Address and port. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Open connections; more are closed at once. Holds memory and file descriptors within what the machine has.
    pub max_connections: usize,
    /// Open connections from one address (IPv6: one /64): one machine cannot take all places.
    pub max_connections_per_address: u32,
    /// Connections that one address may make at once: a farm behind one address, after a power failure.
    pub connection_burst_per_address: u32,
    /// Connections a second that one address may make when the burst is used up. Against storms of connections.
    pub connections_per_second_per_address: f32,
    /// How long an address that makes more is refused, in seconds; with 0 only what is too much is. Against storms that
    /// do not end; a whole farm behind one address would be refused with them.
    pub ban_seconds: u64,
    /// Whether addresses of this machine are held to the four limits above.
    pub limit_loopback: bool,
    /// Silence after which the kernel asks whether a miner's host is still there, in seconds.
    pub tcp_keepalive_seconds: u64,
    /// TLS: file with the certificate chain, PEM. With `tls_key`; without both connections are plain.
    pub tls_certificate: Option<ConfigPath>,
    /// TLS: file with the certificate's secret key, PEM.
    pub tls_key: Option<ConfigPath>,
    /// Whether connections begin with a header of the PROXY protocol (version 1 or 2), as a HAProxy with `send-proxy`
    /// sends it. Without one they are refused.
    pub proxy_protocol: bool,
    /// Networks whose PROXY header is believed. Others are refused, since they could name any address.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<Network>,
    /// Instead of `miners.nominal_hash_rate`.
    pub nominal_hash_rate: Option<f64>,
    /// Lowest difficulty for miners here, 0 for what the upstream decides: the upstream is asked for no easier one.
    pub min_difficulty: f64,
    /// What is made of a difficulty that a miner asks for.
    pub suggested_difficulty: Suggested,
    /// Instead of `auth.mode`.
    pub auth: Option<AuthMode>,
}

/// What is made of a difficulty that a miner asks for by `mining.suggest_difficulty`, `mining.suggest_target`, or `d=` in
/// its password. Its `minimum-difficulty` is kept to except with `ignore`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Suggested {
    /// It begins there, and is never given an easier one.
    #[default]
    Floor,
    /// It begins there; what follows is up to the upstream.
    Hint,
    /// Nothing.
    Ignore,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            name: None,
            address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 34255)),
            max_connections: 20_000,
            max_connections_per_address: 5_000,
            connection_burst_per_address: 1_000,
            connections_per_second_per_address: 200.0,
            ban_seconds: 0,
            limit_loopback: false,
            tcp_keepalive_seconds: 60,
            tls_certificate: None,
            tls_key: None,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            nominal_hash_rate: None,
            min_difficulty: 0.0,
            suggested_difficulty: Suggested::default(),
            auth: None,
        }
    }
}

impl Listen {
    /// Its name, where it is the one at `index`.
    pub fn label(&self, index: usize) -> String {
        match (&self.name, index) {
            (Some(name), _) => name.clone(),
            (None, 0) => "miners".to_owned(),
            (None, index) => format!("miners-{}", index + 1),
        }
    }

    /// The certificate that it shows, if it does; it is the listener at `index`.
    ///
    /// # Errors
    /// About the key at fault.
    pub fn tls(&self, index: usize) -> Result<Option<TlsServer>, ConfigError> {
        self.with_tls(index, TlsServer::new)
    }

    /// Reads the files again, which may have changed.
    ///
    /// # Errors
    /// About the key at fault; what was shown so far still is.
    pub fn renew_tls(&self, index: usize, server: &TlsServer) -> Result<(), ConfigError> {
        self.with_tls(index, |certificate, key| server.replace(certificate, key)).map(drop)
    }

    fn with_tls<T>(
        &self,
        index: usize,
        make: impl FnOnce(&[u8], &[u8]) -> Result<T, TlsError>,
    ) -> Result<Option<T>, ConfigError> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else {
            return Ok(None);
        };
        let read = |name: &str, path: &Path| {
            std::fs::read(path).map_err(|error| {
                let message = format!("{}: {error}", path.display());
                ConfigError::new(format!("listen[{index}].{name}"), message)
            })
        };
        let certificate = read("tls_certificate", certificate)?;
        let key = read("tls_key", key)?;
        make(&certificate, &key).map(Some).map_err(|error| {
            let name =
                if matches!(error, TlsError::Key(_)) { "tls_key" } else { "tls_certificate" };
            ConfigError::new(format!("listen[{index}].{name}"), error)
        })
    }

    /// Takes in what holds without opening a socket anew; whether something did change.
    pub(super) fn take_terms(&mut self, new: &Self) -> bool {
        let terms = |listen: &Self| {
            (listen.nominal_hash_rate, listen.min_difficulty, listen.suggested_difficulty)
        };
        let changed = terms(self) != terms(new);
        self.nominal_hash_rate = new.nominal_hash_rate;
        self.min_difficulty = new.min_difficulty;
        self.suggested_difficulty = new.suggested_difficulty;
        changed
    }
}

pub(super) fn check(listeners: &[Listen]) -> Result<(), ConfigError> {
    if listeners.is_empty() {
        return wrong("listen", "required: at least one [[listen]]");
    }
    if listeners.len() > MAX_LISTENERS {
        return wrong("listen", format!("more than {MAX_LISTENERS}"));
    }
    for (index, listen) in listeners.iter().enumerate() {
        let key = |name| format!("listen[{index}].{name}");
        let others = &listeners[..index];
        let same = |other: &Listen| other.address == listen.address && listen.address.port() != 0;
        if others.iter().any(same) {
            return wrong(&key("address"), "given twice");
        }
        let label = listen.label(index);
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if label.is_empty() || label.len() > 32 || !label.chars().all(letters) {
            return wrong(&key("name"), "must be 1 to 32 letters, digits, dashes and underscores");
        }
        if others.iter().enumerate().any(|(index, other)| other.label(index) == label) {
            return wrong(&key("name"), "given twice");
        }
        let Listen { max_connections, max_connections_per_address, .. } = *listen;
        between(&key("max_connections"), max_connections, 1, usize::MAX)?;
        between(&key("max_connections_per_address"), max_connections_per_address, 1, u32::MAX)?;
        let burst = listen.connection_burst_per_address;
        between(&key("connection_burst_per_address"), burst, 1, 1_000_000)?;
        let rate = listen.connections_per_second_per_address;
        between(&key("connections_per_second_per_address"), rate, 0.001, 1e6)?;
        between(&key("ban_seconds"), listen.ban_seconds, 0, 86_400)?;
        between(&key("tcp_keepalive_seconds"), listen.tcp_keepalive_seconds, 5, 7_200)?;
        match (&listen.tls_certificate, &listen.tls_key) {
            (Some(_), None) => return wrong(&key("tls_key"), "required by tls_certificate"),
            (None, Some(_)) => return wrong(&key("tls_certificate"), "required by tls_key"),
            _ => {}
        }
        listen.tls(index)?;
        if listen.proxy_protocol && listen.trusted_proxies.is_empty() {
            let message = "required by proxy_protocol: whose header is believed";
            return wrong(&key("trusted_proxies"), message);
        }
        if let Some(rate) = listen.nominal_hash_rate {
            between(&key("nominal_hash_rate"), rate, 1.0, 1e30)?;
        }
        between(&key("min_difficulty"), listen.min_difficulty, 0.0, MAX_DIFFICULTY)?;
    }
    Ok(())
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}
