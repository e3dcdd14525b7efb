//! What a role is told.

use std::fmt::Write;

use adit_sv2::keys::AuthoritySecretKey;
use anyhow::{Context, Result};
use serde_json::Value;

use super::role::{Kind, Role};
use super::{Endpoint, free_port, payout_address};
use crate::bitcoind::Bitcoind;
use crate::sniffer::random;

/// How a role is to run, before it does. Defaults are those of a quick test: shares often, templates at once.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(super) kind: Kind,
    /// Tables in order, the one without a name first; of a repeated table the name has brackets.
    tables: Vec<(String, Vec<(String, Value)>)>,
    /// Command line behind the configuration's.
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    key: Option<AuthoritySecretKey>,
}

impl Setup {
    /// The tag in the coinbase of every block of a pool.
    pub const TAG: &'static str = "/adit-test/";
    /// The tag in the coinbase of every block of a [`jdc`](Self::jdc).
    pub const JDC_TAG: &'static str = "/adit-jdc-test/";
    /// The user of a [`device`](Self::device).
    pub const USER: &'static str = "test.rig";

    /// A template provider at `node`.
    pub fn template_provider(node: &Bitcoind) -> Self {
        Self::role(Kind::TemplateProvider)
            .set("", "network", node.chain().name())
            .set("", "data_dir", "data")
            .push(
                "node",
                &[
                    ("url", node.url().into()),
                    ("cookie_file", node.cookie_file().display().to_string().into()),
                ],
            )
            .set("authority", "secret_key_file", KEY_FILE)
            .set("templates", "fee_interval_seconds", 1)
            .set("templates", "fee_threshold_sats", 1)
    }

    /// A regtest pool that takes templates from `provider`.
    pub fn pool(provider: &Endpoint) -> Self {
        let mut template_provider = vec![("address", provider.addr.to_string().into())];
        template_provider.extend(provider.key.map(|key| ("authority_key", key.to_string().into())));
        Self::role(Kind::Pool)
            .set("", "network", "regtest")
            .set("coinbase", "output", payout_address(crate::bitcoind::Chain::Regtest))
            .set("coinbase", "tag", Self::TAG)
            .push("template_provider", &template_provider)
            .set("authority", "secret_key_file", KEY_FILE)
            .set("shares", "per_minute", 60)
            .set("shares", "start_hashrate", 5_000)
            .set("shares", "min_hashrate", 100)
            .set("shares", "ack_interval_ms", 100)
            .set("store", "path", "pool.redb")
    }

    /// A translator in front of `pool`.
    pub fn translator(pool: &Endpoint) -> Self {
        Self::role(Kind::Translator).push("upstream", &[("url", url(pool).into())]).set(
            "miners",
            "nominal_hash_rate",
            5_000,
        )
    }

    /// A regtest Job Declarator Server at `node`, whose tokens are for jobs that pay what [`pool`](Self::pool) pays.
    pub fn jds(node: &Bitcoind) -> Self {
        Self::role(Kind::Jds)
            .set("", "network", "regtest")
            .set("", "data_dir", "data")
            .push(
                "node",
                &[
                    ("url", node.url().into()),
                    ("cookie_file", node.cookie_file().display().to_string().into()),
                ],
            )
            .set("coinbase", "output", payout_address(crate::bitcoind::Chain::Regtest))
            .set("authority", "secret_key_file", KEY_FILE)
            .set("declarations", "burst", 1_000)
            .set("declarations", "per_minute", 10_000)
            .set("tokens", "burst", 1_000)
            .set("tokens", "per_minute", 10_000)
    }

    /// Lets a pool take jobs under the tokens of these.
    #[must_use]
    pub fn declared_by(self, jds: &[&Endpoint]) -> Self {
        let keys: Vec<_> = jds.iter().filter_map(|jds| Some(jds.key?.to_string())).collect();
        self.set("job_declaration", "token_keys", keys)
            .set("job_declaration", "coinbase_only", true)
            .set("job_declaration", "max_per_minute", 10_000)
    }

    /// A regtest Job Declarator Client that takes templates from `provider`.
    pub fn jdc(provider: &Endpoint) -> Self {
        let mut template_provider = vec![("address", provider.addr.to_string().into())];
        template_provider.extend(provider.key.map(|key| ("authority_key", key.to_string().into())));
        Self::role(Kind::Jdc)
            .set("", "network", "regtest")
            .push("template_provider", &template_provider)
            .set("coinbase", "tag", Self::JDC_TAG)
            .set("authority", "secret_key_file", KEY_FILE)
            .set("shares", "per_minute", 60)
            .set("shares", "start_hashrate", 5_000)
            .set("shares", "min_hashrate", 100)
            .set("shares", "ack_interval_ms", 100)
            .set("fallback", "well_after_ms", 1_000)
            .set("blocks", "path", "blocks")
    }

    /// One more pool and its Job Declarator Server of a [`jdc`](Self::jdc).
    #[must_use]
    pub fn upstream(self, pool: &Endpoint, jds: &Endpoint) -> Self {
        let entries = [
            ("pool", url(pool).into()),
            ("jds", url(jds).into()),
            ("user_identity", Self::USER.into()),
        ];
        self.push("upstreams", &entries)
    }

    /// A mining device of `mode` (`sv2-standard`, `sv2-extended`, `sv1`) at a pool or translator.
    pub fn device(mode: &str, server: &Endpoint) -> Self {
        let connect =
            if mode == "sv1" { format!("stratum+tcp://{}", server.addr) } else { url(server) };
        Self::role(Kind::Device)
            .arg("--mode", mode)
            .arg("--connect", &connect)
            .arg("--user", Self::USER)
            .arg("--hashrate", "5k")
    }

    /// An explorer of `node`, whose pages are at its [`endpoint`](Role::endpoint).
    pub fn explorer(node: &Bitcoind) -> Self {
        let cookie = node.cookie_file().display().to_string();
        Self::role(Kind::Explorer).set("node", "url", node.url()).set("node", "cookie_file", cookie)
    }

    /// Of an explorer: one more role to watch, under a name of its own.
    #[must_use]
    pub fn watch(self, name: &str, role: &Role) -> Self {
        let url = format!("http://{}", role.http());
        self.push(
            "roles",
            &[("name", name.into()), ("kind", role.name().into()), ("url", url.into())],
        )
    }

    /// Sets a key of a table, `""` for the top of the file, in place of what it was.
    #[must_use]
    pub fn set(mut self, table: &str, key: &str, value: impl Into<Value>) -> Self {
        let entries = match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, entries)) => entries,
            None => {
                self.tables.push((table.to_owned(), Vec::new()));
                &mut self.tables.last_mut().expect("pushed above").1
            }
        };
        entries.retain(|(known, _)| known != key);
        entries.push((key.to_owned(), value.into()));
        self
    }

    /// Adds one more of a repeated table.
    #[must_use]
    pub fn push(mut self, table: &str, entries: &[(&str, Value)]) -> Self {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        self.tables.push((format!("[{table}]"), entries.collect()));
        self
    }

    /// Removes every repeated table of this name.
    #[must_use]
    pub fn clear(mut self, table: &str) -> Self {
        self.tables.retain(|(name, _)| *name != format!("[{table}]"));
        self
    }

    /// A flag of the command line and its value, in place of what it was; of a flag without value the value is empty.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        if let Some(place) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(place..(place + 2).min(self.args.len()));
        }
        self.args.push(flag.to_owned());
        if !value.is_empty() {
            self.args.push(value.to_owned());
        }
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The authority key of a role that has one, in place of one made up at each start: two roles can have the same.
    #[must_use]
    pub fn authority(mut self, key: &AuthoritySecretKey) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// Starts it as a process of its own.
    ///
    /// # Errors
    /// Its program was not built or cannot be started. That it does not work is only seen later.
    pub fn start(self) -> Result<Role> {
        Role::start(self, false)
    }

    /// Starts it in this process, on threads of its own. Mining devices have no such form.
    ///
    /// # Errors
    /// It refuses its configuration.
    pub fn start_in_process(self) -> Result<Role> {
        Role::start(self, true)
    }

    /// The configuration as text, and where it will listen.
    pub(super) fn write(&self) -> Result<Written> {
        let mut written = Written {
            text: String::new(),
            http: ([127, 0, 0, 1], free_port()?).into(),
            listen: match self.kind {
                Kind::Device => None,
                _ => Some(([127, 0, 0, 1], free_port()?).into()),
            },
            key: None,
        };
        let mut all = self.clone();
        if let Some(addr) = written.listen {
            all = match self.kind {
                Kind::Translator => all.push("listen", &[("address", addr.to_string().into())]),
                _ => all.set("listen", "address", addr.to_string()),
            };
        }
        all = all.set("http", "listen", written.http.to_string());
        if matches!(self.kind, Kind::TemplateProvider | Kind::Pool | Kind::Jds | Kind::Jdc) {
            written.key = Some(match &self.key {
                Some(key) => key.clone(),
                None => AuthoritySecretKey::from_entropy(random()).context("an unusable key")?,
            });
        }
        all.tables.sort_by_key(|(name, _)| !name.is_empty());
        for (name, entries) in &all.tables {
            if !name.is_empty() {
                writeln!(written.text, "\n[{name}]")?;
            }
            for (key, value) in entries {
                // Strings, numbers, booleans and lists of them are written alike in JSON and TOML.
                writeln!(written.text, "{key} = {value}")?;
            }
        }
        Ok(written)
    }

    fn role(kind: Kind) -> Self {
        Self { kind, tables: Vec::new(), args: Vec::new(), env: Vec::new(), key: None }
    }
}

/// A configuration that was made up.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) http: std::net::SocketAddr,
    pub(super) listen: Option<std::net::SocketAddr>,
    pub(super) key: Option<AuthoritySecretKey>,
}

/// Beside the configuration.
pub(super) const KEY_FILE: &str = "authority.key";

fn url(server: &Endpoint) -> String {
    let key = server.key.map(|key| format!("/{key}")).unwrap_or_default();
    format!("stratum2+tcp://{}{key}", server.addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_merged_and_repeated() {
        let endpoint = Endpoint { addr: ([127, 0, 0, 1], 1).into(), key: None };
        let setup = Setup::pool(&endpoint)
            .set("shares", "per_minute", 7)
            .push("template_provider", &[("address", "b:2".into())]);
        let written = setup.write().unwrap();
        assert_eq!(written.text.matches("[shares]").count(), 1);
        assert!(
            written.text.contains("per_minute = 7\n") && !written.text.contains("per_minute = 60")
        );
        assert_eq!(written.text.matches("[[template_provider]]").count(), 2);
        assert!(written.text.starts_with("network = \"regtest\"\n"), "{}", written.text);
        assert_eq!(setup.clear("template_provider").write().unwrap().text.matches("[[").count(), 0);
        let device = Setup::device("sv1", &endpoint).arg("--hashrate", "9").arg("--strict", "");
        assert_eq!(device.args.iter().filter(|arg| *arg == "--hashrate").count(), 1);
        assert_eq!(device.args.last().unwrap(), "--strict");
    }
}
