//! The pool's configuration.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use adit_service::{
    Authority, CommonConfig, ConfigError, ConfigPath, Http, Log, Reloaded, SHUTDOWN_GRACE,
};
use adit_sv2::keys::{AuthorityPublicKey, Sv2Url};
use adit_sv2::tlv::WORKER_HASHRATE_TRACKING;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::payout::Payout;

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The chain that is mined: `mainnet`, `testnet4`, `testnet3`, `signet` or `regtest`.
    pub network: Network,
    /// `[listen]`
    #[serde(default)]
    pub listen: Listen,
    /// `[authority]`
    #[serde(default)]
    pub authority: Authority,
    /// `[[template_provider]]`, in order of preference.
    #[serde(default)]
    pub template_provider: Vec<TemplateProvider>,
    /// `[coinbase]`
    #[serde(default)]
    pub coinbase: Coinbase,
    /// `[shares]`
    #[serde(default)]
    pub shares: Shares,
    /// `[channels]`
    #[serde(default)]
    pub channels: Channels,
    /// `[mining]`
    #[serde(default)]
    pub mining: Mining,
    /// `[job_declaration]`
    #[serde(default)]
    pub job_declaration: JobDeclaration,
    /// `[drain]`
    #[serde(default)]
    pub drain: Drain,
    /// `[store]`
    #[serde(default)]
    pub store: StoreConfig,
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

/// `[listen]`: where miners connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Open connections; more are closed at once. Holds memory and file descriptors within what the machine has.
    pub max_connections: usize,
    /// Open connections from one address (IPv6: one /64): one machine cannot take all places. A farm behind one address
    /// needs as many as it has devices and proxies. Loopback addresses are not held to it.
    pub max_connections_per_address: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 34254)),
            max_connections: 20_000,
            max_connections_per_address: 5_000,
        }
    }
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
    /// Who is paid: an address, `addr(..)`, `raw(..)` or a definite output descriptor.
    pub output: String,
    /// Text in every block's coinbase: printable ASCII, at most [`TAG_LIMIT`] characters.
    pub tag: String,
    /// First byte of every extranonce that this process hands out: no two pool processes with the same payout may
    /// share it, or their miners search the same space.
    pub server_id: u8,
}

/// Longest tag, in bytes: height, tag and the longest extranonce stay below the 100 bytes of a coinbase scriptSig.
pub const TAG_LIMIT: usize = 64;

impl Default for Coinbase {
    fn default() -> Self {
        Self { output: String::new(), tag: "adit".to_owned(), server_id: 1 }
    }
}

/// `[shares]`: how hard they are and how they are acknowledged.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// Shares per minute and channel that difficulty is adjusted towards, 0.1 to 600.
    pub per_minute: f64,
    /// Hashes per second assumed of a channel that names no hashrate (0.0) when it opens.
    pub start_hashrate: f64,
    /// The easiest difficulty is the one at which so many hashes per second find `per_minute`: bounds how many shares a
    /// channel can send before its difficulty has adapted.
    pub min_hashrate: f64,
    /// Whether difficulty follows what a channel finds. If not, it stays what the hashrate given at its opening asks for.
    pub vardiff: bool,
    /// Accepted shares that are acknowledged together.
    pub ack_batch: u32,
    /// An accepted share is acknowledged after this time at the latest, in milliseconds, once it is stored.
    pub ack_interval_ms: u64,
    /// Whether shares may be harder than blocks; otherwise difficulty stops at the network's. Default: only on regtest,
    /// where it is so low that an unthrottled miner would send millions of shares a second.
    pub allow_above_network_difficulty: Option<bool>,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            per_minute: 6.0,
            start_hashrate: 1e12,
            min_hashrate: 1e6,
            vardiff: true,
            ack_batch: 10,
            ack_interval_ms: 1_000,
            allow_above_network_difficulty: None,
        }
    }
}

/// `[channels]`: how many there may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Open channels in all; further ones are refused. Bounds memory, about 1 KiB each.
    pub max: u32,
    /// Open channels of one connection. Bounds what one peer makes the pool compute at each new job.
    pub max_per_connection: u32,
    /// A connection without a channel is closed after this time, in seconds.
    pub open_deadline_secs: u64,
    /// Workers that are told apart by the names in their shares (extension 0x0002), in all. Bounds memory, about 300
    /// bytes each; shares of further ones are credited to their channel's own identity.
    pub max_workers: u32,
    /// Workers whose hashrate is a metric of its own, the strongest first. Each is a time series in what collects them.
    pub worker_metrics: u32,
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            max: 200_000,
            max_per_connection: 20_000,
            open_deadline_secs: 60,
            max_workers: 200_000,
            worker_metrics: 0,
        }
    }
}

/// `[mining]`: what is spoken with miners.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mining {
    /// Whether jobs are sent once to all channels of a connection that have the same extranonce size, and not to each.
    /// `false` is for clients that do not listen to groups. May be changed while miners are connected.
    pub group_channels: bool,
    /// Whether miners may change the version bits of BIP323. If not, clients that need it are refused, and the others
    /// are told so (`REQUIRES_FIXED_VERSION`).
    pub version_rolling: bool,
    /// Extensions that clients may ask for (0x0001), of those that this program knows: 2, names of workers.
    pub supported_extensions: Vec<u16>,
    /// Extensions without which a client is not served; a part of the supported ones.
    pub required_extensions: Vec<u16>,
}

/// Extensions that this program knows, beside the negotiation itself.
const KNOWN_EXTENSIONS: [u16; 1] = [WORKER_HASHRATE_TRACKING];

impl Default for Mining {
    fn default() -> Self {
        Self {
            group_channels: true,
            version_rolling: true,
            supported_extensions: KNOWN_EXTENSIONS.to_vec(),
            required_extensions: Vec::new(),
        }
    }
}

/// `[job_declaration]`: jobs that miners choose themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobDeclaration {
    /// The authority keys of the Job Declarator Servers whose tokens count. Without any, custom jobs are not taken.
    #[serde(deserialize_with = "keys")]
    pub token_keys: Vec<AuthorityPublicKey>,
    /// Whether jobs count that no Job Declarator Server has looked at, on the word of their coinbase.
    pub coinbase_only: bool,
    /// For how long, in seconds, a custom job may build on a block that the pool has not seen yet, or on the one before
    /// the newest.
    pub grace_secs: u64,
    /// Custom jobs of one connection in a minute; each costs a check of a signature.
    pub max_per_minute: u32,
}

impl Default for JobDeclaration {
    fn default() -> Self {
        Self { token_keys: Vec::new(), coinbase_only: false, grace_secs: 5, max_per_minute: 600 }
    }
}

/// `[drain]`: where miners are sent before the pool stops (`SIGTERM`), or on `SIGUSR1`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// The host that miners are told to go to; it must have the same authority key. Empty: the one that they dialled.
    pub host: String,
    /// Its port; 0: the one that they dialled.
    pub port: u16,
    /// How long a pool that is to stop serves miners that have not gone yet, in seconds. 0, or neither host nor port:
    /// it does not tell them to go, and stops at once.
    pub seconds: u64,
    /// Connections that are told to go in a second: they arrive at the other host at this rate.
    pub per_second: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self { host: String::new(), port: 0, seconds: 5, per_second: 5_000 }
    }
}

impl Drain {
    /// Whether a pool that is to stop sends its miners elsewhere first.
    pub fn at_the_end(&self) -> bool {
        self.seconds > 0 && (!self.host.is_empty() || self.port != 0)
    }
}

/// A second less than a role is given to stop.
const MAX_DRAIN_SECS: u64 = SHUTDOWN_GRACE.as_secs() - 1;

/// `[store]`: credited work and found blocks.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The file; made if missing.
    pub path: ConfigPath,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: ConfigPath::by_default("pool.redb") }
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
        self.payout()?;
        let tag = &self.coinbase.tag;
        if tag.len() > TAG_LIMIT || !tag.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            return wrong(
                "coinbase.tag",
                format!("must be printable ASCII of at most {TAG_LIMIT} characters"),
            );
        }
        if self.template_provider.is_empty() {
            return wrong(
                "template_provider",
                "required: at least one [[template_provider]] with an `address`",
            );
        }
        for (index, provider) in self.template_provider.iter().enumerate() {
            let key = format!("template_provider[{index}].address");
            provider.url().map_err(|message| ConfigError::new(key, message))?;
            if self.template_provider[..index].iter().any(|other| other.address == provider.address)
            {
                return wrong(&format!("template_provider[{index}].address"), "given twice");
            }
        }
        between("listen.max_connections", self.listen.max_connections, 1, usize::MAX)?;
        between(
            "listen.max_connections_per_address",
            self.listen.max_connections_per_address,
            1,
            u32::MAX,
        )?;
        between("shares.per_minute", self.shares.per_minute, 0.1, 600.0)?;
        between("shares.start_hashrate", self.shares.start_hashrate, 1.0, 1e30)?;
        between("shares.min_hashrate", self.shares.min_hashrate, 1e-3, 1e30)?;
        between("shares.ack_batch", self.shares.ack_batch, 1, 100_000)?;
        between("shares.ack_interval_ms", self.shares.ack_interval_ms, 1, 60_000)?;
        between("channels.max", self.channels.max, 1, 1 << 24)?;
        between("channels.max_per_connection", self.channels.max_per_connection, 1, 1 << 24)?;
        between("channels.open_deadline_secs", self.channels.open_deadline_secs, 1, 86_400)?;
        between("channels.max_workers", self.channels.max_workers, 0, 1 << 24)?;
        between("channels.worker_metrics", self.channels.worker_metrics, 0, 10_000)?;
        between("job_declaration.grace_secs", self.job_declaration.grace_secs, 0, 60)?;
        between("job_declaration.max_per_minute", self.job_declaration.max_per_minute, 1, 60_000)?;
        self.check_extensions()?;
        self.check_drain()
    }

    fn check_extensions(&self) -> Result<(), ConfigError> {
        let Mining { supported_extensions: supported, required_extensions: required, .. } =
            &self.mining;
        if let Some(unknown) = supported.iter().find(|id| !KNOWN_EXTENSIONS.contains(id)) {
            let message = format!("{unknown} is not known here; known is {KNOWN_EXTENSIONS:?}");
            return wrong("mining.supported_extensions", message);
        }
        if let Some(missing) = required.iter().find(|id| !supported.contains(id)) {
            let message = format!("{missing} is not one of the supported_extensions");
            return wrong("mining.required_extensions", message);
        }
        Ok(())
    }

    fn check_drain(&self) -> Result<(), ConfigError> {
        let host = &self.drain.host;
        if host.len() > 255 || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("drain.host", "must be a host name or address of at most 255 characters");
        }
        between("drain.seconds", self.drain.seconds, 0, MAX_DRAIN_SECS)?;
        between("drain.per_second", self.drain.per_second, 1, 1_000_000)
    }

    /// Takes in from a changed configuration what a running pool can, and says what that is and what must wait for a
    /// restart. Each key must be in one of the two.
    pub fn take_in(&mut self, new: &Self) -> Reloaded {
        // All of them, so that none is forgotten.
        let Self {
            network,
            listen,
            authority,
            template_provider,
            coinbase,
            shares,
            channels,
            mining,
            job_declaration,
            drain,
            store,
            http,
            log,
        } = self;
        let mut reloaded = Reloaded::default();
        reloaded.note("network", *network != new.network, false);
        reloaded.note("listen", differ(listen, &new.listen), false);
        reloaded.note("authority", differ(authority, &new.authority), false);
        let providers = differ(template_provider, &new.template_provider);
        reloaded.note("template_provider", providers, false);
        reloaded.note("coinbase.output", coinbase.output != new.coinbase.output, false);
        reloaded.note("coinbase.tag", coinbase.tag != new.coinbase.tag, false);
        reloaded.note("coinbase.server_id", coinbase.server_id != new.coinbase.server_id, true);
        reloaded.note("shares", differ(shares, &new.shares), true);
        reloaded.note("channels", differ(channels, &new.channels), true);
        let groups = mining.group_channels != new.mining.group_channels;
        reloaded.note("mining.group_channels", groups, true);
        mining.group_channels = new.mining.group_channels;
        reloaded.note("mining", differ(mining, &new.mining), false);
        reloaded.note("job_declaration", differ(job_declaration, &new.job_declaration), true);
        reloaded.note("drain", differ(drain, &new.drain), true);
        reloaded.note("store", differ(store, &new.store), false);
        reloaded.note("http", differ(http, &new.http), false);
        reloaded.note("log", differ(log, &new.log), false);
        coinbase.server_id = new.coinbase.server_id;
        *shares = new.shares.clone();
        *channels = new.channels.clone();
        *job_declaration = new.job_declaration.clone();
        *drain = new.drain.clone();
        reloaded
    }

    /// The output that is paid.
    ///
    /// # Errors
    /// About `coinbase.output`.
    pub fn payout(&self) -> Result<Payout, ConfigError> {
        Payout::parse(&self.coinbase.output, self.network.into())
            .map_err(|e| ConfigError::new("coinbase.output", e))
    }

    /// Whether shares may be harder than blocks.
    pub fn allow_above_network_difficulty(&self) -> bool {
        self.shares.allow_above_network_difficulty.unwrap_or(self.network == Network::Regtest)
    }
}

/// Whether two parts of a configuration say something else.
fn differ<T: fmt::Debug>(a: &T, b: &T) -> bool {
    format!("{a:?}") != format!("{b:?}")
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

fn optional_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<AuthorityPublicKey>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AuthorityPublicKey>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

#[cfg(test)]
mod tests;
