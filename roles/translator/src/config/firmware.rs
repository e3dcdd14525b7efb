//! What is known of mining firmware: a table, in `firmware.toml` and in the configuration.

use std::path::Path;
use std::sync::Arc;

use adit_service::{ConfigError, parse_config};
use serde::Deserialize;

use super::{between, wrong};

/// The table that comes with the program.
const BUILT_IN: &str = include_str!("../../firmware.toml");

/// Most entries, so that an index fits in a byte beside each connection.
const MAX_ENTRIES: usize = 200;

/// One `[[firmware]]`: what miners with a certain user agent are like.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// Label in metrics and status.
    pub name: String,
    /// Matches a user agent, in any case, that contains this; behind a `^`, that begins with it. Empty matches all.
    pub user_agent: String,
    /// Longest coinbase transaction in bytes, extranonce included, that it takes. A job with a longer one is never cut:
    /// the miner is refused.
    #[serde(default = "antminer_class")]
    pub max_coinbase_bytes: usize,
    /// Lowest difficulty that it may be given; 0 for no limit.
    #[serde(default)]
    pub min_difficulty: f64,
    /// Bytes of `extranonce2`, where it can do with no other size.
    #[serde(default)]
    pub extranonce2_size: Option<u8>,
    /// It takes each answer for one to a share: suggestions are not answered.
    #[serde(default)]
    pub counts_answers: bool,
    /// It follows `client.reconnect`.
    #[serde(default)]
    pub reconnects: bool,
    /// It answers `mining.ping`.
    #[serde(default)]
    pub pings: bool,
    /// It shows `client.show_message`.
    #[serde(default)]
    pub messages: bool,
}

/// Unknown firmware may be that of an old Antminer.
fn antminer_class() -> usize {
    750
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BuiltIn {
    firmware: Vec<Firmware>,
}

/// All entries, the operator's first and `unknown` last.
#[derive(Clone, Debug)]
pub struct FirmwareTable {
    entries: Vec<Firmware>,
    /// The names, for metrics.
    labels: Vec<Arc<str>>,
}

impl FirmwareTable {
    /// The operator's entries before those that come with the program.
    ///
    /// # Panics
    /// If the table of the program itself is not well-formed.
    pub fn new(own: &[Firmware]) -> Self {
        let built_in: BuiltIn = parse_config(BUILT_IN, Path::new("")).expect("the built-in table");
        let unknown = Firmware {
            name: "unknown".to_owned(),
            user_agent: String::new(),
            max_coinbase_bytes: antminer_class(),
            min_difficulty: 0.0,
            extranonce2_size: None,
            counts_answers: false,
            // Unknown ones may well be of the majority that follows or ignores it.
            reconnects: true,
            pings: false,
            messages: false,
        };
        let mut entries = own.to_vec();
        entries.truncate(MAX_ENTRIES);
        entries.extend(built_in.firmware);
        entries.push(unknown);
        let labels = entries.iter().map(|entry| entry.name.as_str().into()).collect();
        Self { entries, labels }
    }

    /// The entry for a user agent.
    pub fn find(&self, user_agent: &str) -> u8 {
        let name = user_agent.to_ascii_lowercase();
        let matches = |firmware: &Firmware| {
            let wanted = firmware.user_agent.to_ascii_lowercase();
            match wanted.strip_prefix('^') {
                Some(start) => name.starts_with(start),
                None => name.contains(&wanted),
            }
        };
        let index = self.entries.iter().position(matches).unwrap_or(self.entries.len() - 1);
        index as u8
    }

    /// What has not said its name yet.
    pub fn unknown(&self) -> u8 {
        (self.entries.len() - 1) as u8
    }

    /// An entry that was found.
    pub fn get(&self, index: u8) -> &Firmware {
        &self.entries[usize::from(index).min(self.entries.len() - 1)]
    }

    /// The name of an entry that was found.
    pub fn label(&self, index: u8) -> &Arc<str> {
        &self.labels[usize::from(index).min(self.labels.len() - 1)]
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &Firmware> {
        self.entries.iter()
    }
}

pub(super) fn check(firmware: &[Firmware]) -> Result<(), ConfigError> {
    if firmware.len() > MAX_ENTRIES {
        return wrong("firmware", format!("more than {MAX_ENTRIES} entries"));
    }
    for (index, entry) in firmware.iter().enumerate() {
        let key = |name| format!("firmware[{index}].{name}");
        let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if entry.name.is_empty() || entry.name.len() > 32 || !entry.name.chars().all(label) {
            return wrong(&key("name"), "must be 1 to 32 letters, digits and dashes");
        }
        between(&key("max_coinbase_bytes"), entry.max_coinbase_bytes, 100, 131_072)?;
        between(&key("min_difficulty"), entry.min_difficulty, 0.0, super::MAX_DIFFICULTY)?;
        if let Some(size) = entry.extranonce2_size {
            between(&key("extranonce2_size"), size, super::MIN_EXTRANONCE2_SIZE, 8)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_agents_as_devices_say_them() {
        let table = FirmwareTable::new(&[]);
        for (user_agent, name, coinbase) in [
            ("Antminer S21/1.0.0", "antminer-s21", 2_250),
            ("Antminer S19/1.0.0", "antminer", 750),
            ("bmminer/2.0.0", "bmminer", 750),
            ("bosminer-plus-tuner 0.2.0-c6f42dc", "braiins", 2_250),
            ("whatsminer/v1.0", "whatsminer", 6_500),
            ("PowerPlay-BM/1.0", "epic", 16_000),
            ("xminer-1.2.3", "xminer", 16_000),
            ("NiceHash/1.0.0", "nicehash", 500),
            ("bitaxe/BM1368/v2.4.1", "bitaxe", 6_500),
            ("NerdMinerV2", "nerdminer", 512),
            ("cgminer/3.7.2", "cgminer-3", 750),
            ("cgminer/4.11.1", "cgminer", 750),
            ("bfgminer/5.4.2", "bfgminer", 750),
            ("cpuminer/2.5.1", "cpuminer", 16_000),
            ("", "unknown", 750),
            ("something else/1", "unknown", 750),
        ] {
            let found = table.get(table.find(user_agent));
            assert_eq!((&*found.name, found.max_coinbase_bytes), (name, coinbase), "{user_agent}");
        }
        assert_eq!(table.get(table.find("cgminer/3.7.2")).extranonce2_size, Some(4));
        assert!(table.get(table.find("cgminer/4.11.1")).counts_answers);
        assert_eq!(table.get(table.unknown()).name, "unknown");
    }

    #[test]
    fn the_table_keeps_its_own_rules() {
        let built_in: BuiltIn = parse_config(BUILT_IN, Path::new("")).unwrap();
        check(&built_in.firmware).unwrap();
    }

    #[test]
    fn an_operators_entry_comes_first() {
        let own = Firmware {
            name: "mine".to_owned(),
            user_agent: "^cgminer/4.99".to_owned(),
            max_coinbase_bytes: 6_000,
            ..FirmwareTable::new(&[]).get(u8::MAX).clone()
        };
        let table = FirmwareTable::new(&[own]);
        assert_eq!(table.get(table.find("cgminer/4.99 avalon")).name, "mine");
        assert_eq!(table.get(table.find("cgminer/4.11.1")).name, "cgminer");
    }
}
