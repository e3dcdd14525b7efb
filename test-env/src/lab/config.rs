//! What each process of the lab is told.

use std::path::Path;

use adit_sv2::keys::AuthorityPublicKey;

use super::state::{NodeState, RoleState};
use crate::bitcoind::Chain;

/// A way from a template to a miner and back into the chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MinerPath {
    /// Stratum V1 through the translator.
    Sv1,
    /// Stratum V2, standard channel.
    Sv2Standard,
    /// Stratum V2, extended channel.
    Sv2Extended,
    /// Blocks of the miner's own node, declared with their transactions: Stratum V1 through a translator and the JDC.
    JdFullTemplate,
    /// Blocks of the miner's own node, of which the pool sees the coinbase: Stratum V2 to the JDC.
    JdCoinbaseOnly,
}

impl MinerPath {
    pub(crate) const ALL: [Self; 5] = [
        Self::Sv1,
        Self::Sv2Standard,
        Self::Sv2Extended,
        Self::JdFullTemplate,
        Self::JdCoinbaseOnly,
    ];

    /// As the report calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sv1 => "sv1",
            Self::Sv2Standard => "sv2-standard",
            Self::Sv2Extended => "sv2-extended",
            Self::JdFullTemplate => "jd-full-template",
            Self::JdCoinbaseOnly => "jd-coinbase-only",
        }
    }

    /// The miner's name in the lab.
    pub(crate) fn miner(self) -> String {
        format!("{}-miner", self.name())
    }

    /// What the coinbase says behind the lab's tag: whose job it is.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Sv1 | Self::Sv2Standard | Self::Sv2Extended => "",
            Self::JdFullTemplate => JDC,
            Self::JdCoinbaseOnly => JDC_COINBASE_ONLY,
        }
    }

    /// Whether the miner's own node chooses the transactions.
    pub(crate) fn declares(self) -> bool {
        matches!(self, Self::JdFullTemplate | Self::JdCoinbaseOnly)
    }

    /// As the mining device calls the way in which it mines.
    fn mode(self) -> &'static str {
        match self {
            Self::Sv1 | Self::JdFullTemplate => "sv1",
            Self::Sv2Standard => "sv2-standard",
            Self::Sv2Extended | Self::JdCoinbaseOnly => "sv2-extended",
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
            Chain::Regtest => Self { hash_rate: 1_000, shares_per_minute: 3 },
            // A block is 4.9 million hashes.
            Chain::Signet => Self { hash_rate: 150_000, shares_per_minute: 20 },
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
    pub(super) jds: u16,
    pub(super) miner_template_provider: u16,
    pub(super) jdc: u16,
    pub(super) jdc_translator: u16,
    pub(super) jdc_coinbase_only: u16,
    pub(super) explorer: u16,
}

/// The authority keys that clients pin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) template_provider: AuthorityPublicKey,
    pub(super) pool: AuthorityPublicKey,
    pub(super) jds: AuthorityPublicKey,
    pub(super) miner_template_provider: AuthorityPublicKey,
    pub(super) jdc: AuthorityPublicKey,
    pub(super) jdc_coinbase_only: AuthorityPublicKey,
}

/// Everything the configurations are made from.
pub(super) struct Plan<'a> {
    pub(super) chain: Chain,
    /// The pool's node.
    pub(super) node: &'a NodeState,
    /// The node of a miner who declares jobs.
    pub(super) miner_node: &'a NodeState,
    pub(super) payout_address: &'a str,
    pub(super) tag: &'a str,
    pub(super) dir: &'a Path,
    pub(super) ports: Ports,
    pub(super) keys: Keys,
    pub(super) miners: Miners,
}

impl Plan<'_> {
    pub(super) fn template_provider(&self) -> String {
        self.provider("template-provider", self.node, self.ports.template_provider)
    }

    pub(super) fn miner_template_provider(&self) -> String {
        let port = self.ports.miner_template_provider;
        self.provider("miner-template-provider", self.miner_node, port)
    }

    fn provider(&self, name: &str, node: &NodeState, port: u16) -> String {
        format!(
            r#"network = "{network}"
data_dir = "{data}"

[[node]]
url = "{url}"
cookie_file = "{cookie}"

[listen]
address = "127.0.0.1:{port}"

[authority]
secret_key_file = "{name}.key"

[templates]
fee_interval_seconds = 3
fee_threshold_sats = 1
"#,
            network = self.chain.name(),
            data = self.dir.join("data").join(name).display(),
            url = node.rpc.url,
            cookie = node.rpc.cookie.display(),
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

[job_declaration]
token_keys = ["{jds_key}"]
coinbase_only = true
max_per_minute = {BRISK}

[store]
path = "{store}"
"#,
            network = self.chain.name(),
            port = self.ports.pool,
            provider = self.ports.template_provider,
            provider_key = self.keys.template_provider,
            payout = self.payout_address,
            tag = self.tag,
            per_minute = self.miners.shares_per_minute,
            rate = self.miners.hash_rate,
            jds_key = self.keys.jds,
            store = self.dir.join("data/pool.redb").display(),
        )
    }

    pub(super) fn translator(&self) -> String {
        self.translator_to(self.ports.translator, self.ports.pool, self.keys.pool)
    }

    pub(super) fn jdc_translator(&self) -> String {
        self.translator_to(self.ports.jdc_translator, self.ports.jdc, self.keys.jdc)
    }

    fn translator_to(&self, port: u16, upstream: u16, key: AuthorityPublicKey) -> String {
        format!(
            r#"[[listen]]
address = "127.0.0.1:{port}"

[[upstream]]
url = "stratum2+tcp://127.0.0.1:{upstream}/{key}"

[miners]
nominal_hash_rate = {rate}
"#,
            rate = self.miners.hash_rate,
        )
    }

    pub(super) fn jds(&self) -> String {
        format!(
            r#"network = "{network}"
data_dir = "{data}"

[listen]
address = "127.0.0.1:{port}"

[authority]
secret_key_file = "jds.key"

[[node]]
url = "{url}"
cookie_file = "{cookie}"

[coinbase]
output = "{payout}"

[tokens]
burst = {BRISK}
per_minute = {BRISK}

[declarations]
burst = {BRISK}
per_minute = {BRISK}
"#,
            network = self.chain.name(),
            port = self.ports.jds,
            url = self.node.rpc.url,
            cookie = self.node.rpc.cookie.display(),
            payout = self.payout_address,
            data = self.dir.join("data/jds").display(),
        )
    }

    pub(super) fn jdc(&self) -> String {
        self.declarator(JDC, self.ports.jdc, "full-template")
    }

    pub(super) fn jdc_coinbase_only(&self) -> String {
        self.declarator(JDC_COINBASE_ONLY, self.ports.jdc_coinbase_only, "coinbase-only")
    }

    fn declarator(&self, name: &str, port: u16, mode: &str) -> String {
        format!(
            r#"network = "{network}"
mode = "{mode}"

[[upstreams]]
pool = "stratum2+tcp://127.0.0.1:{pool}/{pool_key}"
jds = "stratum2+tcp://127.0.0.1:{jds}/{jds_key}"
user_identity = "lab.{name}"

[[template_provider]]
address = "127.0.0.1:{provider}"
authority_key = "{provider_key}"

[coinbase]
tag = "{tag}{name}"
solo_output = "{payout}"

[authority]
secret_key_file = "{name}.key"

[listen]
address = "127.0.0.1:{port}"

[shares]
per_minute = {per_minute}
start_hashrate = {rate}
min_hashrate = 10
ack_interval_ms = 200

[blocks]
path = "{blocks}"
"#,
            network = self.chain.name(),
            pool = self.ports.pool,
            pool_key = self.keys.pool,
            jds = self.ports.jds,
            jds_key = self.keys.jds,
            provider = self.ports.miner_template_provider,
            provider_key = self.keys.miner_template_provider,
            tag = self.tag,
            payout = self.payout_address,
            per_minute = self.miners.shares_per_minute,
            rate = self.miners.hash_rate,
            blocks = self.dir.join("data").join(name).display(),
        )
    }

    /// The explorer watches every role that runs by then, and reads the chain from the pool's node.
    pub(super) fn explorer(&self, roles: &[RoleState]) -> String {
        let mut text = format!(
            "[listen]\naddress = \"127.0.0.1:{}\"\n\n[node]\nurl = \"{}\"\ncookie_file = \"{}\"\n",
            self.ports.explorer,
            self.node.rpc.url,
            self.node.rpc.cookie.display(),
        );
        for role in roles {
            let (name, kind, http, upstream) =
                (&role.name, &role.program, &role.http, upstreams(&role.name));
            text.push_str(&format!(
                "\n[[roles]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"http://{http}\"\nupstream = {upstream:?}\n"
            ));
        }
        text
    }

    /// Arguments of a mining device.
    pub(super) fn miner(&self, path: MinerPath, http: &str) -> Vec<String> {
        let sv2 = |port, key| format!("stratum2+tcp://127.0.0.1:{port}/{key}");
        let connect = match path {
            MinerPath::Sv1 => format!("stratum+tcp://127.0.0.1:{}", self.ports.translator),
            MinerPath::JdFullTemplate => {
                format!("stratum+tcp://127.0.0.1:{}", self.ports.jdc_translator)
            }
            MinerPath::Sv2Standard | MinerPath::Sv2Extended => sv2(self.ports.pool, self.keys.pool),
            MinerPath::JdCoinbaseOnly => {
                sv2(self.ports.jdc_coinbase_only, self.keys.jdc_coinbase_only)
            }
        };
        let flags = [
            ("--mode", path.mode()),
            ("--connect", &connect),
            ("--user", &format!("lab.{}", path.name())),
            ("--hashrate", &self.miners.hash_rate.to_string()),
            ("--http", http),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    }
}

/// The names of the Job Declarator Clients, and the ends of their tags.
const JDC: &str = "jdc";
const JDC_COINBASE_ONLY: &str = "jdc-coinbase-only";

/// Tokens, declarations and custom jobs of a client in a minute: on a private chain blocks come several a second.
const BRISK: u32 = 6_000;

/// Whom a role of the lab works for, as the explorer draws it.
fn upstreams(role: &str) -> &'static [&'static str] {
    match role {
        "template-provider" => &["node"],
        "pool" => &["template-provider"],
        "jds" => &["node", "pool"],
        "translator" => &["pool"],
        "jdc" | "jdc-coinbase-only" => &["miner-template-provider", "jds", "pool"],
        "jdc-translator" => &["jdc"],
        "sv1-miner" => &["translator"],
        "sv2-standard-miner" | "sv2-extended-miner" => &["pool"],
        "jd-full-template-miner" => &["jdc-translator"],
        "jd-coinbase-only-miner" => &["jdc-coinbase-only"],
        // The miner's own node is not the one that the explorer asks.
        _ => &[],
    }
}
