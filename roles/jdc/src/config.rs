//! The job declarator client's configuration.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use adit_service::{Authority, CommonConfig, ConfigError, ConfigPath, Http, Log};
use adit_sv2::keys::{AuthorityPublicKey, Sv2Url};
use serde::{Deserialize, Deserializer, de::Error as _};

use adit_payout::Payout;

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The chain that is mined: `mainnet`, `testnet4`, `testnet3`, `signet` or `regtest`.
    pub network: Network,
    /// How blocks are chosen and declared.
    #[serde(default)]
    pub mode: Mode,
    /// What is done where an upstream does not take a job.
    #[serde(default)]
    pub on_declaration_failure: OnFailure,
    /// `[[upstreams]]`, in order of preference.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    /// `[[template_provider]]`, in order of preference.
    #[serde(default)]
    pub template_provider: Vec<TemplateProvider>,
    /// `[coinbase]`
    #[serde(default)]
    pub coinbase: Coinbase,
    /// `[declaration]`
    #[serde(default)]
    pub declaration: Declaration,
    /// `[fallback]`
    #[serde(default)]
    pub fallback: Fallback,
    /// `[listen]`
    #[serde(default)]
    pub listen: Listen,
    /// `[authority]`
    #[serde(default)]
    pub authority: Authority,
    /// `[shares]`
    #[serde(default)]
    pub shares: Shares,
    /// `[channels]`
    #[serde(default)]
    pub channels: Channels,
    /// `[blocks]`
    #[serde(default)]
    pub blocks: Blocks,
    /// `[http]`
    #[serde(default)]
    pub http: Http,
    /// `[log]`
    #[serde(default)]
    pub log: Log,
}

/// A chain.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The one with value.
    #[serde(alias = "bitcoin", alias = "main")]
    Mainnet,
    /// The old public test chain.
    #[serde(alias = "testnet")]
    Testnet3,
    /// The present public test chain.
    Testnet4,
    /// A signet, public or private.
    Signet,
    /// A private chain.
    Regtest,
}

impl From<Network> for bitcoin::Network {
    fn from(network: Network) -> Self {
        match network {
            Network::Mainnet => Self::Bitcoin,
            Network::Testnet3 => Self::Testnet,
            Network::Testnet4 => Self::Testnet4,
            Network::Signet => Self::Signet,
            Network::Regtest => Self::Regtest,
        }
    }
}

/// How blocks are chosen and declared (spec 6.3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The whole template is declared to the JDS before it is set at the pool.
    #[default]
    FullTemplate,
    /// The pool sees the coinbase alone.
    CoinbaseOnly,
    /// No pool: whole blocks for `coinbase.solo_output`.
    Solo,
}

/// What is done where an upstream does not take a job: it refuses, does not answer, or is gone.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The next upstream; after the last one solo, where there is a `coinbase.solo_output`.
    #[default]
    Next,
    /// The jobs that this pool makes itself, as long as it gives any; else the next upstream.
    Pool,
    /// Solo, at once.
    Solo,
}

/// One `[[upstreams]]`: a pool and its Job Declarator Server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The pool: `stratum2+tcp://host:port/KEY`.
    #[serde(deserialize_with = "url")]
    pub pool: Sv2Url,
    /// Its JDS: `stratum2+tcp://host:port/KEY`.
    #[serde(deserialize_with = "url")]
    pub jds: Sv2Url,
    /// Who is credited there.
    pub user_identity: String,
    /// Whether shares name their worker where the pool takes that (extension 0x0002).
    #[serde(default = "yes")]
    pub worker_names: bool,
}

fn yes() -> bool {
    true
}

/// One `[[template_provider]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateProvider {
    /// `host:port`.
    pub address: String,
    /// The authority key that its certificate must be signed with. Without it the connection is encrypted, but to whom
    /// is unknown.
    #[serde(default, deserialize_with = "optional_key")]
    pub authority_key: Option<AuthorityPublicKey>,
}

impl TemplateProvider {
    /// The address in parts.
    ///
    /// # Errors
    /// What is wrong with `address`.
    pub fn url(&self) -> Result<Sv2Url, String> {
        let mut url: Sv2Url =
            format!("stratum2+tcp://{}", self.address).parse().map_err(|e| format!("{e}"))?;
        if !self.address.ends_with(&format!(":{}", url.port)) {
            return Err("needs a port, for example 127.0.0.1:8442".to_owned());
        }
        url.authority = self.authority_key;
        Ok(url)
    }
}

/// `[coinbase]`: what every block looks like.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coinbase {
    /// Text in every block's coinbase: printable ASCII, at most [`TAG_LIMIT`] characters.
    pub tag: String,
    /// Who is paid when mining solo: an address, `addr(..)`, `raw(..)` or a definite output descriptor. Empty: there is
    /// no solo mining.
    pub solo_output: String,
}

/// Longest tag, in bytes: height, tag and the longest extranonce stay below the 100 bytes of a coinbase scriptSig.
pub const TAG_LIMIT: usize = 54;

impl Default for Coinbase {
    fn default() -> Self {
        Self { tag: "adit-jdc".to_owned(), solo_output: String::new() }
    }
}

/// `[declaration]`: how jobs are declared.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Declaration {
    /// Tokens that are kept in stock for each upstream, 1 to 16: a new tip takes two within moments.
    pub tokens: usize,
    /// Age in seconds at which a token in stock is replaced; servers let them expire.
    pub token_max_age_secs: u64,
    /// Time from a job's first step to its acceptance by the pool, in milliseconds: what takes longer is a failure.
    pub timeout_ms: u64,
    /// Shares kept for each job that the pool has not accepted yet, the best ones, about 100 bytes each.
    pub cached_shares_per_job: usize,
}

impl Default for Declaration {
    fn default() -> Self {
        Self {
            tokens: 2,
            token_max_age_secs: 600,
            timeout_ms: 10_000,
            cached_shares_per_job: 1_000,
        }
    }
}

/// `[fallback]`: when an upstream is left, and when it is trusted again.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fallback {
    /// An upstream that is preferred to the one in use is taken again once it has been well for this time, in
    /// milliseconds.
    pub well_after_ms: u64,
    /// Valid shares that a pool may refuse in a row before it is left.
    pub rejected_shares: u32,
    /// A share that a pool has not answered after this time, in seconds, is a failure.
    pub share_timeout_secs: u64,
}

impl Default for Fallback {
    fn default() -> Self {
        Self { well_after_ms: 30_000, rejected_shares: 3, share_timeout_secs: 60 }
    }
}

/// `[listen]`: where miners connect.
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
            address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 34265)),
            max_connections: 20_000,
            max_connections_per_address: 5_000,
        }
    }
}

/// `[shares]`: how hard miners' shares are and how they are acknowledged.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// Shares per minute and channel that difficulty is adjusted towards, 0.1 to 600. Never harder than the pool's.
    pub per_minute: f64,
    /// Hashes per second assumed of a channel that names no hashrate (0.0) when it opens.
    pub start_hashrate: f64,
    /// The easiest difficulty is the one at which so many hashes per second find `per_minute`.
    pub min_hashrate: f64,
    /// Accepted shares that are acknowledged together.
    pub ack_batch: u32,
    /// An accepted share is acknowledged after this time at the latest, in milliseconds.
    pub ack_interval_ms: u64,
    /// Whether shares may be harder than blocks when mining solo. Default: only on regtest, where blocks are so easy
    /// that an unthrottled miner would send millions of shares a second.
    pub allow_above_network_difficulty: Option<bool>,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            per_minute: 6.0,
            start_hashrate: 1e12,
            min_hashrate: 1e6,
            ack_batch: 10,
            ack_interval_ms: 1_000,
            allow_above_network_difficulty: None,
        }
    }
}

/// `[channels]`: how many there may be, and their extranonces.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Open channels in all; further ones are refused. Bounds memory, about 1 KiB each.
    pub max: u32,
    /// Open channels of one connection. Bounds what one peer makes us compute at each new job.
    pub max_per_connection: u32,
    /// A connection without a channel is closed after this time, in seconds.
    pub open_deadline_secs: u64,
    /// Whether jobs are sent once to a group of channels (spec 5.2.3) rather than to each channel.
    pub group_channels: bool,
    /// Bytes of extranonce that are asked of a pool, 4 to 16: three tell channels apart, the others are theirs. An
    /// upstream that has less is asked again for 12 and for 8.
    pub extranonce_size: u16,
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            max: 65_536,
            max_per_connection: 20_000,
            open_deadline_secs: 60,
            group_channels: true,
            extranonce_size: 16,
        }
    }
}

/// `[blocks]`: blocks found.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blocks {
    /// The folder they are kept in, a file each; made if missing.
    pub path: ConfigPath,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { path: ConfigPath::by_default("jdc-blocks") }
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
        self.authority.load()?;
        let tag = &self.coinbase.tag;
        if tag.len() > TAG_LIMIT || !tag.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            let message = format!("must be printable ASCII of at most {TAG_LIMIT} characters");
            return wrong("coinbase.tag", message);
        }
        if self.payout()?.is_none() {
            if self.mode == Mode::Solo {
                return wrong("coinbase.solo_output", "required where mode is \"solo\"");
            }
            if self.on_declaration_failure == OnFailure::Solo {
                let message = "required where on_declaration_failure is \"solo\"";
                return wrong("coinbase.solo_output", message);
            }
        }
        self.check_peers()?;
        let (listen, shares, channels) = (&self.listen, &self.shares, &self.channels);
        between("listen.max_connections", listen.max_connections, 1, usize::MAX)?;
        let per_address = listen.max_connections_per_address;
        between("listen.max_connections_per_address", per_address, 1, u32::MAX)?;
        between("declaration.tokens", self.declaration.tokens, 1, 16)?;
        between("declaration.token_max_age_secs", self.declaration.token_max_age_secs, 1, 86_400)?;
        between("declaration.timeout_ms", self.declaration.timeout_ms, 10, 600_000)?;
        let cached = self.declaration.cached_shares_per_job;
        between("declaration.cached_shares_per_job", cached, 1, 100_000)?;
        between("fallback.well_after_ms", self.fallback.well_after_ms, 1, 86_400_000)?;
        between("fallback.rejected_shares", self.fallback.rejected_shares, 1, u32::MAX)?;
        between("fallback.share_timeout_secs", self.fallback.share_timeout_secs, 1, 86_400)?;
        between("shares.per_minute", shares.per_minute, 0.1, 600.0)?;
        between("shares.start_hashrate", shares.start_hashrate, 1.0, 1e30)?;
        between("shares.min_hashrate", shares.min_hashrate, 1e-3, 1e30)?;
        between("shares.ack_batch", shares.ack_batch, 1, 100_000)?;
        between("shares.ack_interval_ms", shares.ack_interval_ms, 1, 60_000)?;
        between("channels.max", channels.max, 1, 1 << 24)?;
        between("channels.max_per_connection", channels.max_per_connection, 1, 1 << 24)?;
        between("channels.open_deadline_secs", channels.open_deadline_secs, 1, 86_400)?;
        between("channels.extranonce_size", channels.extranonce_size, 4, 16)
    }

    fn check_peers(&self) -> Result<(), ConfigError> {
        if self.upstreams.is_empty() && self.mode != Mode::Solo {
            return wrong(
                "upstreams",
                "required: at least one [[upstreams]] with `pool` and `jds`",
            );
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let identity = &upstream.user_identity;
            if identity.is_empty() || identity.len() > 255 || identity.contains(char::is_control) {
                let key = format!("upstreams[{index}].user_identity");
                return wrong(&key, "must have 1 to 255 bytes and no control character");
            }
            if self.upstreams[..index].iter().any(|other| other.pool == upstream.pool) {
                return wrong(&format!("upstreams[{index}].pool"), "given twice");
            }
        }
        if self.template_provider.is_empty() {
            let message = "required: at least one [[template_provider]] with an `address`";
            return wrong("template_provider", message);
        }
        for (index, provider) in self.template_provider.iter().enumerate() {
            let key = format!("template_provider[{index}].address");
            provider.url().map_err(|message| ConfigError::new(key.clone(), message))?;
            if self.template_provider[..index].iter().any(|other| other.address == provider.address)
            {
                return wrong(&key, "given twice");
            }
        }
        Ok(())
    }

    /// Who is paid when mining solo, if that is wanted.
    ///
    /// # Errors
    /// About `coinbase.solo_output`.
    pub fn payout(&self) -> Result<Option<Payout>, ConfigError> {
        let output = &self.coinbase.solo_output;
        if output.trim().is_empty() {
            return Ok(None);
        }
        Payout::parse(output, self.network.into())
            .map(Some)
            .map_err(|e| ConfigError::new("coinbase.solo_output", e))
    }

    /// Whether shares may be harder than blocks when mining solo.
    pub fn allow_above_network_difficulty(&self) -> bool {
        self.shares.allow_above_network_difficulty.unwrap_or(self.network == Network::Regtest)
    }
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

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sv2Url, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn optional_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<AuthorityPublicKey>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests;
