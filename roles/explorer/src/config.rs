//! The explorer's configuration.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use adit_node::NodeKeys;
use adit_service::{CommonConfig, ConfigError, Http, Log};
use serde::Deserialize;

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[listen]`
    #[serde(default)]
    pub listen: Listen,
    /// `[node]`: the bitcoind that is asked.
    pub node: NodeKeys,
    /// `[[roles]]`, in the order in which they are shown.
    #[serde(default)]
    pub roles: Vec<RoleKeys>,
    /// `[index]`
    #[serde(default)]
    pub index: Index,
    /// `[http]`
    #[serde(default)]
    pub http: Http,
    /// `[log]`
    #[serde(default)]
    pub log: Log,
}

/// `[listen]`: where browsers connect.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port; port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Open connections; more are closed at once. Every open page holds one.
    pub max_connections: usize,
}

impl Default for Listen {
    fn default() -> Self {
        let address = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3002));
        Self { address, max_connections: 256 }
    }
}

/// What a role is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Templates from the node.
    TemplateProvider,
    /// Job declarator server.
    Jds,
    /// Mining server.
    Pool,
    /// Job declarator client.
    Jdc,
    /// Stratum V1 miners in, Stratum V2 out.
    Translator,
    /// A miner.
    MiningDevice,
}

impl Kind {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::TemplateProvider => "template-provider",
            Self::Jds => "jds",
            Self::Pool => "pool",
            Self::Jdc => "jdc",
            Self::Translator => "translator",
            Self::MiningDevice => "mining-device",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::TemplateProvider => "Template provider",
            Self::Jds => "Job declarator server",
            Self::Pool => "Pool",
            Self::Jdc => "Job declarator client",
            Self::Translator => "Translator",
            Self::MiningDevice => "Miner",
        }
    }
}

/// One of `[[roles]]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RoleKeys {
    /// What it is called on the pages and in their addresses: letters, digits and dashes.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// `http://HOST:PORT` of its pages.
    pub url: String,
    /// Names of the roles that it works for, `node` for the node. Not given: found from what the roles say.
    pub upstream: Option<Vec<String>>,
}

impl RoleKeys {
    /// Host and port of the URL.
    pub fn authority(&self) -> Option<(&str, u16)> {
        let rest = self.url.strip_prefix("http://")?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':')?;
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        let good = !host.is_empty() && host.chars().all(plain);
        Some((host, port.parse().ok().filter(|port| good && *port != 0)?))
    }
}

/// `[index]`: what is kept of the newest blocks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Index {
    /// Newest blocks kept.
    pub blocks: u32,
    /// Transactions in all of them.
    pub transactions: usize,
    /// Whether the node's coins are searched for an address. Not given: wherever the chain is not mainnet.
    pub scan_coins: Option<bool>,
}

impl Default for Index {
    fn default() -> Self {
        Self { blocks: 1_000, transactions: 200_000, scan_coins: None }
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

/// The name that stands for the node among the roles.
pub const NODE: &str = "node";

impl Config {
    /// Refuses what reads well but cannot work.
    ///
    /// # Errors
    /// The first key at fault.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.node.to_node("node")?;
        if !(1..=100_000).contains(&self.listen.max_connections) {
            return wrong("listen.max_connections", "expected 1 to 100000");
        }
        if !(1..=100_000).contains(&self.index.blocks) {
            return wrong("index.blocks", "expected 1 to 100000");
        }
        if !(1..=100_000_000).contains(&self.index.transactions) {
            return wrong("index.transactions", "expected 1 to 100000000");
        }
        for (index, role) in self.roles.iter().enumerate() {
            let key = |name: &str| format!("roles[{index}].{name}");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if role.name.is_empty() || role.name.len() > 40 || !role.name.chars().all(plain) {
                return wrong(&key("name"), "expected letters, digits and dashes, at most 40");
            }
            if role.name == NODE || self.roles[..index].iter().any(|other| other.name == role.name)
            {
                return wrong(&key("name"), "given twice");
            }
            if role.authority().is_none() {
                return wrong(&key("url"), "expected http://HOST:PORT");
            }
            for upstream in role.upstream.iter().flatten() {
                let known = upstream == NODE
                    || self
                        .roles
                        .iter()
                        .any(|other| other.name == *upstream && *upstream != role.name);
                if !known {
                    return wrong(&key("upstream"), format!("no other role is called {upstream}"));
                }
            }
        }
        Ok(())
    }
}

fn wrong<T>(key: &str, message: impl std::fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError::new(key, message))
}

#[cfg(test)]
mod tests;
