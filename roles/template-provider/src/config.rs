//! The template provider's configuration.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use adit_node::{Network, NodeConfig, NodeKeys, Solutions};
use adit_service::{Authority, CommonConfig, ConfigError, ConfigPath, Http, Log};
use serde::Deserialize;

/// What `init` prints: every key, with its default where it has one.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The chain; a node of another one is not used.
    pub network: Network,
    /// Folder for templates and solved blocks.
    #[serde(default = "default_data_dir")]
    pub data_dir: ConfigPath,
    /// `[[node]]`, in order of preference.
    #[serde(default)]
    pub node: Vec<NodeKeys>,
    /// `[listen]`
    #[serde(default)]
    pub listen: Listen,
    /// `[authority]`
    #[serde(default)]
    pub authority: Authority,
    /// `[templates]`
    #[serde(default)]
    pub templates: Templates,
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
    ConfigPath::by_default("template-provider-data")
}

impl CommonConfig for Config {
    fn http(&self) -> &Http {
        &self.http
    }

    fn log(&self) -> &Log {
        &self.log
    }
}

/// `[listen]`: where pools and job declarators connect.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Open connections; more are closed at once. Each may ask for 4 MB of transactions.
    pub max_connections: usize,
    /// Open connections from one address: one machine cannot take all places.
    pub max_connections_per_address: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8442)),
            max_connections: 1_000,
            max_connections_per_address: 100,
        }
    }
}

/// `[templates]`: when there is a new one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Templates {
    /// Seconds between two looks at what the node's mempool pays.
    pub fee_interval_seconds: u64,
    /// Satoshis that a template must pay more than the last one to be sent.
    pub fee_threshold_sats: u64,
    /// What is sent at a new tip.
    pub future: Future,
}

impl Default for Templates {
    fn default() -> Self {
        Self { fee_interval_seconds: 30, fee_threshold_sats: 1_000, future: Future::AtTip }
    }
}

/// What is sent at a new tip.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Future {
    /// A coinbase-only template made from the new header at once, and the full one when the node has it ready.
    AtTip,
    /// Only the full one. Miners work on the old tip meanwhile: 20 to 60 ms with a full mempool.
    FullOnly,
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.nodes()?;
        self.authority.load()?;
        let positive = [
            ("listen.max_connections", self.listen.max_connections as u64),
            ("listen.max_connections_per_address", self.listen.max_connections_per_address.into()),
            ("templates.fee_interval_seconds", self.templates.fee_interval_seconds),
            ("solutions.kept_confirmations", self.solutions.kept_confirmations.into()),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(ConfigError::new(key, "at least 1")),
            None => Ok(()),
        }
    }

    /// The nodes as the client wants them.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn nodes(&self) -> Result<Vec<NodeConfig>, ConfigError> {
        NodeKeys::all(&self.node)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use adit_node::Auth;
    use adit_service::parse_config;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        parse_config(text, Path::new("/etc/adit")).map_err(|error| error.to_string())
    }

    fn with_nodes(nodes: &str) -> Config {
        parse(&format!("network = \"regtest\"\n{nodes}")).unwrap()
    }

    #[test]
    fn the_example_is_the_default() {
        let example = parse(EXAMPLE).unwrap();
        let default = with_nodes("");
        assert_eq!(example.network, Network::Mainnet);
        assert_eq!(example.listen, default.listen);
        assert_eq!(example.templates, default.templates);
        assert_eq!(example.solutions, default.solutions);
        assert_eq!(example.log, default.log);
        // Beside the file, whether that says it or not.
        assert_eq!(example.data_dir, ConfigPath::from("/etc/adit/template-provider-data"));
        assert_eq!(example.data_dir, default.data_dir);
        assert_eq!(example.authority.cert_validity_hours, default.authority.cert_validity_hours);
        assert_eq!(example.node.len(), 1);
        assert!(example.nodes().is_ok());
        // A key must be made before it can run.
        assert_eq!(example.check().unwrap_err().key, "authority.secret_key_file");
    }

    #[test]
    fn nodes() {
        let config = with_nodes(
            "[[node]]\nurl = \"http://a:1\"\ncookie_file = \".cookie\"\n\
             [[node]]\nurl = \"http://b:2\"\nuser = \"u\"\npassword = \"p\"\ntimeout_seconds = 3\n\
             [[node]]\nurl = \"http://c:3\"\nuser = \"u\"\npassword_file = \"/run/secret\"\n",
        );
        let nodes = config.nodes().unwrap();
        assert_eq!(nodes[0].auth, Auth::Cookie("/etc/adit/.cookie".into()));
        assert_eq!(
            nodes[1].auth,
            Auth::UserPass { user: "u".to_owned(), password: "p".to_owned() }
        );
        assert_eq!(nodes[1].timeout, Duration::from_secs(3));
        assert!(!format!("{config:?}").contains("\"p\""));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        for (nodes, key) in [
            ("", "node"),
            ("[[node]]\nurl = \"http://a:1\"\n", "node[0].cookie_file"),
            ("[[node]]\nurl = \"a:1\"\ncookie_file = \"c\"\n", "node[0].url"),
            ("[[node]]\nurl = \"http://a:1\"\nuser = \"u\"\n", "node[0].user"),
            (
                "[[node]]\nurl = \"http://a:1\"\nuser = \"u\"\npassword = \"p\"\npassword_file = \"f\"\n",
                "node[0].password_file",
            ),
            (
                "[[node]]\nurl = \"http://a:1\"\ncookie_file = \"c\"\nuser = \"u\"\n",
                "node[0].cookie_file",
            ),
            (
                "[[node]]\nurl = \"http://a:1\"\ncookie_file = \"c\"\ntimeout_seconds = 0\n",
                "node[0].timeout_seconds",
            ),
            (
                "[[node]]\nurl = \"http://a:1\"\ncookie_file = \"c\"\n[[node]]\nurl = \"http://a:1\"\ncookie_file = \"c\"\n",
                "node[1].url",
            ),
        ] {
            assert_eq!(with_nodes(nodes).check().unwrap_err().key, key, "{nodes}");
        }
        let unknown =
            parse("network = \"regtest\"\n[listen]\nadress = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(unknown.starts_with("config:3: listen.adress: unknown key"), "{unknown}");
    }
}
