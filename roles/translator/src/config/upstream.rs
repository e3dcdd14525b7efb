//! `[[upstream]]` and `[failover]`: whom to work for, under which name, and when to leave.

use std::net::IpAddr;
use std::str::FromStr;

use adit_service::ConfigError;
use adit_sv2::keys::Sv2Url;
use bitcoin::address::{Address, NetworkUnchecked};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{MAX_USER, between, wrong};

/// How miners are presented to an upstream.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// An extended channel for each miner, under its own name and with its own difficulty.
    #[default]
    PerMiner,
    /// One extended channel for all, under one name. Workers are named in each share where the upstream supports that
    /// (extension 0x0002).
    Aggregated,
}

/// One `[[upstream]]`: a pool or proxy that speaks Stratum V2.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `stratum2+tcp://host:port/KEY`.
    #[serde(deserialize_with = "url")]
    pub url: Sv2Url,
    /// The name of a miner there: `{user}` stands for the user name that the miner gives, `{account}` for the part of it
    /// before the first `.`, `{worker}` for the part behind it, `{ip}` for the miner's address. On an aggregated channel
    /// the name of all of them.
    #[serde(default = "whole_user")]
    pub user_identity: String,
    /// How far after a job's `min_ntime` a share's nTime may be, in seconds. The spec allows the seconds that passed
    /// since the job came, which are always allowed; SRI's pool and ours allow two hours.
    #[serde(default = "two_hours_less_a_margin")]
    pub max_ntime_ahead_seconds: u32,
    /// The address that each coinbase must pay. Against an upstream that turns the miners' work to its own account.
    #[serde(default, deserialize_with = "payout")]
    pub verify_payout: Option<Payout>,
    /// Percent of the coinbase that must go there.
    #[serde(default = "most_of_it")]
    pub verify_payout_percent: f64,
}

/// Where rewards must go.
#[derive(Clone, Debug, PartialEq)]
pub struct Payout {
    /// As it was given.
    pub address: String,
    /// The output's script.
    pub script: Vec<u8>,
}

/// `[failover]`: when an upstream is left for the next, and when the first is gone back to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    /// How long a better upstream must have been well before it is worked for again, in seconds. Against going to and fro.
    pub return_after_seconds: u64,
    /// Time without a word of the upstream, in seconds, after which it is left; 0 for never.
    pub silence_seconds: u64,
    /// Time without an answer to any share that waits for one, in seconds, after which the upstream is left; 0 for never.
    /// Upstreams may answer many shares at once: it must be longer than they wait for that.
    pub acknowledge_seconds: u64,
}

impl Default for Failover {
    fn default() -> Self {
        Self { return_after_seconds: 120, silence_seconds: 300, acknowledge_seconds: 300 }
    }
}

const USER: &str = "{user}";
const ACCOUNT: &str = "{account}";
const WORKER: &str = "{worker}";
const IP: &str = "{ip}";
/// Longest `{ip}`.
const MAX_IP: usize = 39;
/// Longest `user_identity` that can be sent.
const MAX_IDENTITY: usize = 255;

impl Upstream {
    /// The `user_identity` of a miner's channel.
    pub fn identity(&self, user: &str, ip: IpAddr) -> String {
        let (account, worker) = user.split_once('.').unwrap_or((user, ""));
        let mut identity = String::with_capacity(self.user_identity.len() + user.len());
        let mut rest = self.user_identity.as_str();
        // In one pass: what a miner calls itself is no template.
        while let Some(open) = rest.find('{') {
            identity.push_str(&rest[..open]);
            rest = &rest[open..];
            let known = [(USER, user), (ACCOUNT, account), (WORKER, worker)];
            if let Some((name, value)) = known.iter().find(|(name, _)| rest.starts_with(name)) {
                identity.push_str(value);
                rest = &rest[name.len()..];
            } else if let Some(after) = rest.strip_prefix(IP) {
                identity.push_str(&ip.to_canonical().to_string());
                rest = after;
            } else {
                break;
            }
        }
        identity.push_str(rest);
        identity
    }
}

/// Refuses what cannot work.
pub(super) fn check(upstreams: &[Upstream], channels: Channels) -> Result<(), ConfigError> {
    if upstreams.is_empty() {
        return wrong("upstream", "required: at least one [[upstream]] with a `url`");
    }
    for (index, upstream) in upstreams.iter().enumerate() {
        if upstreams[..index].iter().any(|other| other.url == upstream.url) {
            return wrong(&format!("upstream[{index}].url"), "given twice");
        }
        let key = format!("upstream[{index}].user_identity");
        check_identity(&key, &upstream.user_identity, channels)?;
        let key = format!("upstream[{index}].max_ntime_ahead_seconds");
        between(&key, upstream.max_ntime_ahead_seconds, 0, 7_200)?;
        let key = format!("upstream[{index}].verify_payout_percent");
        between(&key, upstream.verify_payout_percent, 0.001, 100.0)?;
    }
    Ok(())
}

impl Failover {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        between("failover.return_after_seconds", self.return_after_seconds, 1, 86_400)?;
        if self.silence_seconds != 0 {
            between("failover.silence_seconds", self.silence_seconds, 5, 86_400)?;
        }
        if self.acknowledge_seconds != 0 {
            between("failover.acknowledge_seconds", self.acknowledge_seconds, 5, 86_400)?;
        }
        Ok(())
    }
}

fn check_identity(key: &str, template: &str, channels: Channels) -> Result<(), ConfigError> {
    let mut fixed = template.to_owned();
    let mut count = |name: &str| {
        let times = fixed.matches(name).count();
        fixed = fixed.replace(name, "");
        times
    };
    let [users, accounts, workers, ips] = [USER, ACCOUNT, WORKER, IP].map(&mut count);
    if fixed.contains(['{', '}']) {
        let known = [USER, ACCOUNT, WORKER, IP].join(", ");
        return wrong(key, format!("a placeholder that is not known: there are {known}"));
    }
    if template.is_empty() || template.contains(char::is_control) {
        return wrong(key, "must have a character and no control character");
    }
    if channels == Channels::Aggregated && users + accounts + workers + ips > 0 {
        let message = "with channels = \"aggregated\" all miners are one to the upstream: give the one name, without {..}";
        return wrong(key, message);
    }
    // Account and worker are parts of one user name.
    let longest = fixed.len() + (users + accounts.max(workers)) * MAX_USER + ips * MAX_IP;
    if longest > MAX_IDENTITY {
        let message =
            format!("may become {longest} bytes long, at most {MAX_IDENTITY} can be sent");
        return wrong(key, message);
    }
    Ok(())
}

fn whole_user() -> String {
    USER.to_owned()
}

fn two_hours_less_a_margin() -> u32 {
    7_000
}

fn most_of_it() -> f64 {
    90.0
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sv2Url, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn payout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payout>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let address = Address::<NetworkUnchecked>::from_str(text.trim()).map_err(D::Error::custom)?;
    // Of whatever network: the script says all, and a job does not say its network.
    let script = address.assume_checked().script_pubkey().into_bytes();
    Ok(Some(Payout { address: text.trim().to_owned(), script }))
}
