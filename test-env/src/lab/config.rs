//! What each process of the lab is told.

use std::path::Path;

use adit_sv2::keys::AuthorityPublicKey;

use super::state::Rpc;
use crate::bitcoind::Chain;

/// A way to mine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MinerMode {
    /// Stratum V1 through the translator.
    Sv1,
    /// Stratum V2, standard channel.
    Sv2Standard,
    /// Stratum V2, extended channel.
    Sv2Extended,
}

impl MinerMode {
    pub(crate) const ALL: [Self; 3] = [Self::Sv1, Self::Sv2Standard, Self::Sv2Extended];

    /// As the mining device calls it, and as the path is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sv1 => "sv1",
            Self::Sv2Standard => "sv2-standard",
            Self::Sv2Extended => "sv2-extended",
        }
    }

    /// The process's name in the lab.
    pub(crate) fn role_name(self) -> &'static str {
        match self {
            Self::Sv1 => "sv1-miner",
            Self::Sv2Standard => "sv2-standard-miner",
            Self::Sv2Extended => "sv2-extended-miner",
        }
    }
}

/// How hard the lab's miners work.
#[derive(Clone, Copy, Debug)]
pub struct Miners {
    /// Hashes per second of each.
    pub hash_rate: u32,
    /// Shares per minute that the pool's difficulty aims at.
    pub shares_per_minute: u32,
}

impl Miners {
    /// For a lab that is left running: blocks come often enough to be watched, and the machine stays usable.
    pub fn steady(chain: Chain) -> Self {
        match chain {
            // Every share is a block, and the subsidy halves every 150 of them.
            Chain::Regtest => Self { hash_rate: 1_000, shares_per_minute: 4 },
            // A block is 4.9 million hashes.
            Chain::Signet => Self { hash_rate: 200_000, shares_per_minute: 20 },
        }
    }

    /// For a demonstration: as soon as possible.
    pub fn quick(chain: Chain) -> Self {
        match chain {
            Chain::Regtest => Self { hash_rate: 20_000, shares_per_minute: 40 },
            Chain::Signet => Self { hash_rate: 3_000_000, shares_per_minute: 60 },
        }
    }
}

/// Where the roles listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) template_provider: u16,
    pub(super) pool: u16,
    pub(super) translator: u16,
}

/// Everything the configurations are made from.
pub(super) struct Plan<'a> {
    pub(super) chain: Chain,
    pub(super) rpc: &'a Rpc,
    pub(super) payout_address: &'a str,
    pub(super) tag: &'a str,
    pub(super) dir: &'a Path,
    pub(super) ports: Ports,
    pub(super) provider_key: AuthorityPublicKey,
    pub(super) pool_key: AuthorityPublicKey,
    pub(super) miners: Miners,
}

impl Plan<'_> {
    pub(super) fn template_provider(&self) -> String {
        format!(
            r#"network = "{network}"
data_dir = "{data}"

[[node]]
url = "{url}"
cookie_file = "{cookie}"

[listen]
address = "127.0.0.1:{port}"

[authority]
secret_key_file = "template-provider.key"

[templates]
fee_interval_seconds = 3
fee_threshold_sats = 1
"#,
            network = self.chain.name(),
            data = self.dir.join("data/template-provider").display(),
            url = self.rpc.url,
            cookie = self.rpc.cookie.display(),
            port = self.ports.template_provider,
        )
    }

    pub(super) fn pool(&self) -> String {
        format!(
            r#"network = "{network}"

[listen]
address = "127.0.0.1:{port}"

[authority]
secret_key_file = "pool.key"

[[template_provider]]
address = "127.0.0.1:{provider}"
authority_key = "{provider_key}"

[coinbase]
output = "{payout}"
tag = "{tag}"

[shares]
per_minute = {per_minute}
start_hashrate = {rate}
min_hashrate = 10
ack_interval_ms = 200

[store]
path = "{store}"
"#,
            network = self.chain.name(),
            port = self.ports.pool,
            provider = self.ports.template_provider,
            provider_key = self.provider_key,
            payout = self.payout_address,
            tag = self.tag,
            per_minute = self.miners.shares_per_minute,
            rate = self.miners.hash_rate,
            store = self.dir.join("data/pool.redb").display(),
        )
    }

    pub(super) fn translator(&self) -> String {
        format!(
            r#"[[listen]]
address = "127.0.0.1:{port}"

[[upstream]]
url = "stratum2+tcp://127.0.0.1:{pool}/{pool_key}"

[miners]
nominal_hash_rate = {rate}
"#,
            port = self.ports.translator,
            pool = self.ports.pool,
            pool_key = self.pool_key,
            rate = self.miners.hash_rate,
        )
    }

    /// Arguments of a mining device.
    pub(super) fn miner(&self, mode: MinerMode, http: &str) -> Vec<String> {
        let connect = match mode {
            MinerMode::Sv1 => format!("stratum+tcp://127.0.0.1:{}", self.ports.translator),
            _ => format!("stratum2+tcp://127.0.0.1:{}/{}", self.ports.pool, self.pool_key),
        };
        let flags = [
            ("--mode", mode.name()),
            ("--connect", &connect),
            ("--user", &format!("lab.{}", mode.name())),
            ("--hashrate", &self.miners.hash_rate.to_string()),
            ("--http", http),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    }
}
