//! The translator's configuration.

mod auth;
mod firmware;
mod listen;
mod upstream;

use std::fmt;

use adit_mining::job::VERSION_ROLLING_MASK;
use adit_service::{CommonConfig, ConfigError, Http, Log, Reloaded};
use serde::{Deserialize, Deserializer, de::Error as _};

pub use auth::{Auth, AuthMode};
pub use firmware::{Firmware, FirmwareTable};
pub use listen::{Listen, Suggested};
pub use upstream::{Channels, Failover, Payout, Upstream};

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How miners are presented to the upstream.
    #[serde(default)]
    pub channels: Channels,
    /// `[[listen]]`
    #[serde(default = "one_listener")]
    pub listen: Vec<Listen>,
    /// `[[upstream]]`, in order of preference.
    #[serde(default)]
    pub upstream: Vec<Upstream>,
    /// `[failover]`
    #[serde(default)]
    pub failover: Failover,
    /// `[miners]`
    #[serde(default)]
    pub miners: Miners,
    /// `[auth]`
    #[serde(default)]
    pub auth: Auth,
    /// `[[firmware]]`, before what is known of firmware without it.
    #[serde(default)]
    pub firmware: Vec<Firmware>,
    /// `[http]`
    #[serde(default)]
    pub http: Http,
    /// `[log]`
    #[serde(default)]
    pub log: Log,
}

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
    /// Time without a line of a miner that has, in seconds. Against the same.
    pub idle_timeout_seconds: u64,
    /// Lines within one second after which a connection is closed. Against floods.
    pub max_lines_per_second: u32,
    /// Shares a minute that the upstream aims at for each miner: turns the difficulty that a miner asks for into the
    /// hashrate that the upstream is told.
    pub expected_shares_per_minute: f64,
    /// On an aggregated channel: whether each miner gets a difficulty of its own, at which it finds so many shares. If
    /// not, all have the upstream's.
    pub vardiff: bool,
    /// Miners that have a series of their own in the metrics, the fastest first; 0 for none. Each costs the one that
    /// collects them as much as anything else.
    pub worker_metrics: usize,
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
            idle_timeout_seconds: 1_800,
            max_lines_per_second: 1_000,
            expected_shares_per_minute: 6.0,
            vardiff: true,
            worker_metrics: 0,
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
        listen::check(&self.listen)?;
        let local = |listen: &Listen| listen.auth.unwrap_or(self.auth.mode) == AuthMode::Local;
        auth::check(&self.auth, self.listen.iter().any(local))?;
        firmware::check(&self.firmware)?;
        upstream::check(&self.upstream, self.channels)?;
        self.failover.check()?;
        let miners = &self.miners;
        between("miners.extranonce2_size", miners.extranonce2_size, MIN_EXTRANONCE2_SIZE, 8)?;
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
        between("miners.hello_timeout_seconds", miners.hello_timeout_seconds, 1, 3_600)?;
        between("miners.idle_timeout_seconds", miners.idle_timeout_seconds, 60, 86_400)?;
        between("miners.max_lines_per_second", miners.max_lines_per_second, 10, 1_000_000)?;
        let expected = miners.expected_shares_per_minute;
        between("miners.expected_shares_per_minute", expected, 0.01, 1e4)?;
        between("miners.worker_metrics", miners.worker_metrics, 0, 1_000)
    }
}

impl Config {
    /// Takes in from a changed configuration what a running translator can, and says what that is and what must wait for
    /// a restart. Each key must be in one of the two.
    pub fn take_in(&mut self, new: &Self) -> Reloaded {
        let Self { channels, listen, upstream, failover, miners, auth, firmware, http, log } = self;
        let mut reloaded = Reloaded::default();
        reloaded.note("channels", *channels != new.channels, false);
        // Of listeners, what is agreed on difficulty; where they are the same ones.
        if listen.len() == new.listen.len() {
            let pairs = listen.iter_mut().zip(&new.listen);
            let changed = pairs.fold(false, |changed, (old, new)| old.take_terms(new) | changed);
            reloaded.note("listen: difficulty", changed, true);
        }
        reloaded.note("listen", differ(listen, &new.listen), false);
        reloaded.note("auth.mode", auth.mode != new.auth.mode, false);
        // None at all is for when nobody is asked any more.
        let users = !new.auth.users.is_empty();
        reloaded.note("auth.users", auth.users != new.auth.users, users);
        if users {
            auth.users.clone_from(&new.auth.users);
        }
        reloaded.note("firmware", *firmware != new.firmware, false);
        reloaded.note("http", differ(http, &new.http), false);
        reloaded.note("log", differ(log, &new.log), false);
        let workers = miners.worker_metrics;
        reloaded.note("miners.worker_metrics", workers != new.miners.worker_metrics, false);
        let new_miners = Miners { worker_metrics: workers, ..new.miners.clone() };
        reloaded.note("miners", differ(miners, &new_miners), true);
        reloaded.note("upstream", *upstream != new.upstream, true);
        reloaded.note("failover", *failover != new.failover, true);
        *miners = new_miners;
        upstream.clone_from(&new.upstream);
        *failover = new.failover;
        reloaded
    }
}

/// Whether two parts of a configuration say something else.
fn differ<T: fmt::Debug>(a: &T, b: &T) -> bool {
    format!("{a:?}") != format!("{b:?}")
}

/// Highest difficulty that anybody may ask for: several times that of the network.
pub const MAX_DIFFICULTY: f64 = 1e15;

/// Fewest bytes of `extranonce2` that miners can work with: Avalons need 3.
pub const MIN_EXTRANONCE2_SIZE: u8 = 3;

/// Longest user name of a miner, in bytes: with a template around it, it must fit in a `user_identity` of 255 bytes.
pub const MAX_USER: usize = 191;

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
