//! A node in a role's configuration.

use std::collections::HashSet;
use std::time::Duration;

use adit_service::{ConfigError, ConfigPath, Secret};
use serde::Deserialize;

use crate::{Auth, NodeConfig};

/// One `[[node]]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NodeKeys {
    /// `http://HOST:PORT` of its RPC.
    pub url: String,
    /// The node's cookie, read again after each of its restarts.
    pub cookie_file: Option<ConfigPath>,
    /// User of `rpcauth` or `rpcuser`, where there is no cookie.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
    /// A file with the password.
    pub password_file: Option<ConfigPath>,
    /// Deadline of an ordinary call, seconds.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_timeout() -> u64 {
    10
}

impl NodeKeys {
    /// The same as the client wants it; `key` is the table's name for errors.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn to_node(&self, key: &str) -> Result<NodeConfig, ConfigError> {
        let wrong = |name: &str, what: &str| Err(ConfigError::new(format!("{key}.{name}"), what));
        let auth = match (&self.cookie_file, &self.user, &self.password, &self.password_file) {
            (Some(path), None, None, None) => Auth::Cookie(path.to_path_buf()),
            (None, Some(user), Some(password), None) => {
                Auth::UserPass { user: user.clone(), password: password.expose().to_owned() }
            }
            (None, Some(user), None, Some(file)) => {
                Auth::UserPasswordFile { user: user.clone(), password_file: file.to_path_buf() }
            }
            (None, Some(_), None, None) => return wrong("user", "needs password or password_file"),
            (None, Some(_), Some(_), Some(_)) => {
                return wrong("password_file", "password is given as well");
            }
            (None, None, _, _) => {
                return wrong("cookie_file", "required, or user with password_file");
            }
            (Some(_), _, _, _) => {
                return wrong("cookie_file", "not together with user and password");
            }
        };
        let mut config = NodeConfig::new(&self.url, auth);
        config.timeout = Duration::from_secs(self.timeout_seconds);
        if self.timeout_seconds == 0 {
            return wrong("timeout_seconds", "at least 1");
        }
        config.check().map_err(|error| ConfigError::new(format!("{key}.url"), error))?;
        Ok(config)
    }

    /// All of `[[node]]`, of which there must be one, and none twice.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it.
    pub fn all(node: &[Self]) -> Result<Vec<NodeConfig>, ConfigError> {
        if node.is_empty() {
            return Err(ConfigError::new("node", "required: a [[node]] with url and cookie_file"));
        }
        let mut urls = HashSet::new();
        let nodes = node.iter().enumerate().map(|(index, keys)| {
            let key = format!("node[{index}]");
            if !urls.insert(&keys.url) {
                return Err(ConfigError::new(format!("{key}.url"), "given twice"));
            }
            keys.to_node(&key)
        });
        nodes.collect()
    }
}

/// `[solutions]`: how long solved blocks are looked after.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Solutions {
    /// A block is kept, and brought back should the node lose it, until it has so many confirmations.
    pub kept_confirmations: u32,
}

impl Default for Solutions {
    fn default() -> Self {
        Self { kept_confirmations: 6 }
    }
}
