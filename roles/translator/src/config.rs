//! The translator's configuration.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use adit_mining::job::VERSION_ROLLING_MASK;
use adit_service::{CommonConfig, ConfigError, Http, Log};
use adit_sv2::keys::Sv2Url;
use serde::{Deserialize, Deserializer, de::Error as _};

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[[listen]]`
    #[serde(default = "one_listener")]
    pub listen: Vec<Listen>,
    /// `[[upstream]]`, in order of preference.
    #[serde(default)]
    pub upstream: Vec<Upstream>,
    /// `[miners]`
    #[serde(default)]
    pub miners: Miners,
    /// `[http]`
    #[serde(default)]
    pub http: Http,
    /// `[log]`
    #[serde(default)]
    pub log: Log,
}

/// One `[[listen]]`: where miners connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Open connections; more are closed at once. Holds memory and file descriptors within what the machine has.
    pub max_connections: usize,
    /// Open connections from one address (IPv6: one /64): one machine cannot take all places. Loopback addresses are
    /// not held to it.
    pub max_connections_per_address: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 34255)),
            max_connections: 20_000,
            max_connections_per_address: 5_000,
        }
    }
}

/// One `[[upstream]]`: a pool or proxy that speaks Stratum V2.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `stratum2+tcp://host:port/KEY`.
    #[serde(deserialize_with = "url")]
    pub url: Sv2Url,
    /// The name of a miner there: `{user}` stands for the user name that the miner gives.
    #[serde(default = "whole_user")]
    pub user_identity: String,
    /// How far after a job's `min_ntime` a share's nTime may be, in seconds. The spec allows the seconds that passed
    /// since the job came, which are always allowed; SRI's pool and ours allow two hours.
    #[serde(default = "two_hours_less_a_margin")]
    pub max_ntime_ahead_seconds: u32,
}

impl Upstream {
    /// The `user_identity` of a miner's channel.
    pub fn identity(&self, user: &str) -> String {
        self.user_identity.replace(USER, user)
    }
}

/// Stands for the miner's user name in `user_identity`.
const USER: &str = "{user}";

/// `[miners]`: how all miners are treated.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Miners {
    /// Version bits that miners may roll, 8 hex digits.
    #[serde(deserialize_with = "mask")]
    pub version_mask: u32,
    /// Bytes of `extranonce2`, where the upstream has room for them.
    pub extranonce2_size: u8,
    /// The user name of miners that give none.
    pub anonymous_user: String,
    /// Hashes per second that are assumed of a new miner.
    pub nominal_hash_rate: f64,
    /// Longest time without a `mining.notify`, in seconds.
    pub keepalive_notify_seconds: u64,
    /// Time for a connection to subscribe and authorise, in seconds. Against connections that only take a place.
    pub hello_timeout_seconds: u64,
}

impl Default for Miners {
    fn default() -> Self {
        Self {
            version_mask: 0x1fff_e000,
            extranonce2_size: 8,
            anonymous_user: "anonymous".to_owned(),
            nominal_hash_rate: 1e13,
            keepalive_notify_seconds: 45,
            hello_timeout_seconds: 60,
        }
    }
}

impl CommonConfig for Config {
    fn http(&self) -> &Http {
        &self.http
    }

    fn log(&self) -> &Log {
        &self.log
    }
}

impl Config {
    /// Refuses what reads well but cannot work.
    ///
    /// # Errors
    /// The first key at fault.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            return wrong("listen", "required: at least one [[listen]]");
        }
        for (index, listen) in self.listen.iter().enumerate() {
            let same =
                |other: &Listen| other.address == listen.address && listen.address.port() != 0;
            if self.listen[..index].iter().any(same) {
                return wrong(&format!("listen[{index}].address"), "given twice");
            }
            let key = |name| format!("listen[{index}].{name}");
            between(&key("max_connections"), listen.max_connections, 1, usize::MAX)?;
            let per_address = listen.max_connections_per_address;
            between(&key("max_connections_per_address"), per_address, 1, u32::MAX)?;
        }
        if self.upstream.is_empty() {
            return wrong("upstream", "required: at least one [[upstream]] with a `url`");
        }
        for (index, upstream) in self.upstream.iter().enumerate() {
            if self.upstream[..index].iter().any(|other| other.url == upstream.url) {
                return wrong(&format!("upstream[{index}].url"), "given twice");
            }
            let key = format!("upstream[{index}].user_identity");
            check_identity(&key, &upstream.user_identity)?;
            let key = format!("upstream[{index}].max_ntime_ahead_seconds");
            between(&key, upstream.max_ntime_ahead_seconds, 0, 7_200)?;
        }
        let miners = &self.miners;
        between("miners.extranonce2_size", miners.extranonce2_size, 3, 8)?;
        if miners.anonymous_user.is_empty() || miners.anonymous_user.contains(char::is_control) {
            return wrong(
                "miners.anonymous_user",
                "must have a character and no control character",
            );
        }
        if miners.anonymous_user.len() > MAX_USER {
            return wrong("miners.anonymous_user", format!("longer than {MAX_USER} bytes"));
        }
        between("miners.nominal_hash_rate", miners.nominal_hash_rate, 1.0, 1e30)?;
        between("miners.keepalive_notify_seconds", miners.keepalive_notify_seconds, 30, 55)?;
        between("miners.hello_timeout_seconds", miners.hello_timeout_seconds, 1, 3_600)
    }
}

/// Longest user name of a miner, in bytes: with a template around it, it must fit in a `user_identity` of 255 bytes.
pub const MAX_USER: usize = 191;

fn check_identity(key: &str, template: &str) -> Result<(), ConfigError> {
    let fixed = template.replace(USER, "");
    if fixed.contains(['{', '}']) {
        return wrong(key, format!("a placeholder that is not known: there is {USER}"));
    }
    if template.is_empty() || template.contains(char::is_control) {
        return wrong(key, "must have a character and no control character");
    }
    let users = (template.len() - fixed.len()) / USER.len();
    let longest = fixed.len() + users * MAX_USER;
    if longest > 255 {
        let message = format!("may become {longest} bytes long, at most 255 can be sent");
        return wrong(key, message);
    }
    Ok(())
}

fn between<T: PartialOrd + fmt::Display>(
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    // Written so that NaN is refused as well.
    if value >= least && value <= most {
        return Ok(());
    }
    wrong(key, format!("{value} is not between {least} and {most}"))
}

fn wrong(key: &str, message: impl fmt::Display) -> Result<(), ConfigError> {
    Err(ConfigError::new(key, message))
}

fn one_listener() -> Vec<Listen> {
    vec![Listen::default()]
}

fn whole_user() -> String {
    USER.to_owned()
}

fn two_hours_less_a_margin() -> u32 {
    7_000
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sv2Url, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn mask<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mask = u32::from_str_radix(&text, 16).ok().filter(|_| digits);
    let mask =
        mask.ok_or_else(|| D::Error::custom("expected 8 hex digits, such as \"1fffe000\""))?;
    Ok(mask & VERSION_ROLLING_MASK)
}

#[cfg(test)]
mod tests;
