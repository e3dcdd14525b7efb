//! The Job Declarator Server's configuration.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use adit_node::{Network, NodeConfig, NodeKeys, Solutions};
use adit_payout::Payout;
use adit_service::{Authority, CommonConfig, ConfigError, ConfigPath, Http, Log};
use serde::Deserialize;

use crate::engine::{Rate, Settings};

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The chain; a node of another one is not used.
    pub network: Network,
    /// Folder for solved blocks.
    #[serde(default = "default_data_dir")]
    pub data_dir: ConfigPath,
    /// `[[node]]`, in order of preference.
    #[serde(default)]
    pub node: Vec<NodeKeys>,
    /// `[coinbase]`
    #[serde(default)]
    pub coinbase: Coinbase,
    /// `[listen]`
    #[serde(default)]
    pub listen: Listen,
    /// `[authority]`
    #[serde(default)]
    pub authority: Authority,
    /// `[tokens]`
    #[serde(default)]
    pub tokens: Tokens,
    /// `[declarations]`
    #[serde(default)]
    pub declarations: Declarations,
    /// `[mempool]`
    #[serde(default)]
    pub mempool: Mempool,
    /// `[solutions]`
    #[serde(default)]
    pub solutions: Solutions,
    /// `[http]`
    #[serde(default)]
    pub http: Http,
    /// `[log]`
    #[serde(default)]
    pub log: Log,
}

fn default_data_dir() -> ConfigPath {
    ConfigPath::by_default("jds-data")
}

impl CommonConfig for Config {
    fn http(&self) -> &Http {
        &self.http
    }

    fn log(&self) -> &Log {
        &self.log
    }
}

/// `[coinbase]`: what declared blocks have to pay.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Coinbase {
    /// The pool's payout output: an address or a descriptor of one script, the same as in the pool's configuration.
    pub output: String,
    /// Least part of a block's value that must go there, percent. Something has to in any case; at 0 the pool decides.
    pub min_pool_percent: u8,
}

/// `[listen]`: where job declarators connect.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Open connections; more are closed at once. Each may be about to send 4 MB of transactions.
    pub max_connections: usize,
    /// Open connections from one address: one machine cannot take all places. Loopback addresses are not held to it.
    pub max_connections_per_address: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 34264)),
            max_connections: 500,
            max_connections_per_address: 20,
        }
    }
}

/// `[tokens]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// How long a token holds.
    pub lifetime_seconds: u32,
    /// Tokens that a client may take at once.
    pub burst: u32,
    /// Tokens that it may take in a minute after that; requests beyond are answered later.
    pub per_minute: u32,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { lifetime_seconds: 7_200, burst: 20, per_minute: 120 }
    }
}

/// `[declarations]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Declarations {
    /// Whether clients that do not reveal their transactions get tokens.
    pub coinbase_only: bool,
    /// How long a declaration may be ahead of the node, or wait for it.
    pub grace_seconds: u64,
    /// How long a client may take to provide transactions.
    pub answer_seconds: u64,
    /// Declarations that a client may make at once.
    pub burst: u32,
    /// Declarations that it may make in a minute after that; those beyond are refused.
    pub per_minute: u32,
    /// Declarations of one client that are not answered yet.
    pub pending_per_client: usize,
    /// Memory that all declarations not answered yet may take.
    pub pending_megabytes: usize,
}

impl Default for Declarations {
    fn default() -> Self {
        Self {
            coinbase_only: true,
            grace_seconds: 10,
            answer_seconds: 10,
            burst: 20,
            per_minute: 120,
            pending_per_client: 4,
            pending_megabytes: 256,
        }
    }
}

/// `[mempool]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Mempool {
    /// Between two looks at the node's mempool.
    pub poll_milliseconds: u64,
    /// Memory for the node's transactions; those beyond are asked of clients.
    pub max_megabytes: usize,
    /// Memory for transactions that clients supplied.
    pub supplied_megabytes: usize,
}

impl Default for Mempool {
    fn default() -> Self {
        Self { poll_milliseconds: 250, max_megabytes: 512, supplied_megabytes: 64 }
    }
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.nodes()?;
        self.payout()?;
        self.authority.load()?;
        let positive = [
            ("listen.max_connections", self.listen.max_connections as u64),
            ("listen.max_connections_per_address", self.listen.max_connections_per_address.into()),
            ("tokens.lifetime_seconds", self.tokens.lifetime_seconds.into()),
            ("tokens.burst", self.tokens.burst.into()),
            ("tokens.per_minute", self.tokens.per_minute.into()),
            ("declarations.grace_seconds", self.declarations.grace_seconds),
            ("declarations.answer_seconds", self.declarations.answer_seconds),
            ("declarations.burst", self.declarations.burst.into()),
            ("declarations.per_minute", self.declarations.per_minute.into()),
            ("declarations.pending_per_client", self.declarations.pending_per_client as u64),
            ("declarations.pending_megabytes", self.declarations.pending_megabytes as u64),
            ("mempool.poll_milliseconds", self.mempool.poll_milliseconds),
            ("mempool.max_megabytes", self.mempool.max_megabytes as u64),
            ("mempool.supplied_megabytes", self.mempool.supplied_megabytes as u64),
            ("solutions.kept_confirmations", self.solutions.kept_confirmations.into()),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::new(key, "at least 1"));
        }
        if self.coinbase.min_pool_percent > 100 {
            return Err(ConfigError::new("coinbase.min_pool_percent", "at most 100"));
        }
        Ok(())
    }

    /// The nodes as the client wants them.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn nodes(&self) -> Result<Vec<NodeConfig>, ConfigError> {
        NodeKeys::all(&self.node)
    }

    /// The pool's payout output.
    ///
    /// # Errors
    /// About `coinbase.output`.
    pub fn payout(&self) -> Result<Payout, ConfigError> {
        Payout::parse(&self.coinbase.output, self.chain())
            .map_err(|error| ConfigError::new("coinbase.output", error))
    }

    /// The chain as the `bitcoin` crate names it.
    pub fn chain(&self) -> bitcoin::Network {
        match self.network {
            Network::Mainnet => bitcoin::Network::Bitcoin,
            Network::Testnet3 => bitcoin::Network::Testnet,
            Network::Testnet4 => bitcoin::Network::Testnet4,
            Network::Signet => bitcoin::Network::Signet,
            Network::Regtest => bitcoin::Network::Regtest,
        }
    }

    /// What the engine needs of it; `seed` is secret and random.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn settings(&self, seed: [u8; 32]) -> Result<Settings, ConfigError> {
        let rate = |burst, per_minute| Rate { burst, per_second: f64::from(per_minute) / 60.0 };
        let (tokens, declarations) = (&self.tokens, &self.declarations);
        Ok(Settings {
            network: self.network,
            key: self.authority.load()?,
            seed,
            token_lifetime: tokens.lifetime_seconds,
            pool_script: self.payout()?.script().to_bytes(),
            min_pool_percent: self.coinbase.min_pool_percent,
            coinbase_only: declarations.coinbase_only,
            grace: Duration::from_secs(declarations.grace_seconds),
            answer_time: Duration::from_secs(declarations.answer_seconds),
            tokens: rate(tokens.burst, tokens.per_minute),
            declarations: rate(declarations.burst, declarations.per_minute),
            pending_per_client: declarations.pending_per_client,
            pending_bytes: declarations.pending_megabytes << 20,
            supplied_bytes: self.mempool.supplied_megabytes << 20,
            mempool_bytes: self.mempool.max_megabytes << 20,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use adit_service::parse_config;

    use super::*;

    const ADDRESS: &str = "bcrt1q6rhpng9evdsfnn833a4f4vej0asu6dk5srld6x";

    fn parse(text: &str) -> Result<Config, String> {
        parse_config(text, Path::new("/etc/adit")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_the_default() {
        let example = parse(EXAMPLE).unwrap();
        let default = parse("network = \"regtest\"").unwrap();
        assert_eq!(example.network, Network::Mainnet);
        assert_eq!(example.listen, default.listen);
        assert_eq!(example.coinbase, default.coinbase);
        assert_eq!(example.tokens, default.tokens);
        assert_eq!(example.declarations, default.declarations);
        assert_eq!(example.mempool, default.mempool);
        assert_eq!(example.solutions, default.solutions);
        assert_eq!(example.log, default.log);
        // Beside the file, whether that says it or not.
        assert_eq!(example.data_dir, ConfigPath::from("/etc/adit/jds-data"));
        assert_eq!(example.data_dir, default.data_dir);
        assert!(example.nodes().is_ok());
        // Whom to pay is for the operator to say.
        assert_eq!(example.check().unwrap_err().key, "coinbase.output");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let base = format!(
            "network = \"regtest\"\n[[node]]\nurl = \"http://a:1\"\ncookie_file = \"c\"\n\
             [coinbase]\noutput = \"{ADDRESS}\"\n"
        );
        let key = |text: &str| parse(text).unwrap().check().unwrap_err().key;
        assert_eq!(key("network = \"regtest\""), "node");
        assert_eq!(key(&base), "authority.secret_key_file");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "mkDLTBBRxdBv998612qipDYoTK3YUrqLe8uWw7gu3iXbSrn2n").unwrap();
        let base =
            format!("{base}min_pool_percent = PERCENT\n[authority]\nsecret_key_file = {file:?}\n");
        let percent = |percent: &str| base.replace("PERCENT", percent);
        assert_eq!(key(&percent("101")), "coinbase.min_pool_percent");
        let good = percent("100");
        parse(&good).unwrap().check().unwrap();
        let settings = parse(&good).unwrap().settings([1; 32]).unwrap();
        assert_eq!(settings.declarations, Rate { burst: 20, per_second: 2.0 });
        for (section, name) in [
            ("tokens", "lifetime_seconds"),
            ("declarations", "per_minute"),
            ("mempool", "poll_milliseconds"),
        ] {
            let text = format!("{good}[{section}]\n{name} = 0\n");
            assert_eq!(key(&text), format!("{section}.{name}"));
        }
        let other = good.replace(ADDRESS, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4");
        assert_eq!(key(&other), "coinbase.output");
        let unknown = parse("network = \"regtest\"\n[tokens]\nlifetime = 1\n").unwrap_err();
        assert!(unknown.starts_with("config:3: tokens.lifetime: unknown key"), "{unknown}");
    }
}
