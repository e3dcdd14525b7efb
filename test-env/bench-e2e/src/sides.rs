//! Whose programs are measured, and what they stand on: a node without wallet and a template provider of Adit, which are
//! the same for all.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use adit_sv2::keys::AuthoritySecretKey;
use adit_test_env::bitcoind::{Bitcoind, Chain, Options, spawn_tied, tied};
use adit_test_env::harness::{self, Endpoint, Role, Setup, payout_address};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::relay::Relay;

/// Whose pool and translator.
pub(crate) enum Side {
    Adit,
    /// SRI's translator on Adit's pool.
    Sri {
        translator: PathBuf,
    },
    /// Both of SRI.
    SriBoth {
        translator: PathBuf,
        pool: PathBuf,
    },
}

impl Side {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Adit => "adit",
            Self::Sri { .. } => "sri",
            Self::SriBoth { .. } => "sri-both",
        }
    }
}

/// For a role to be ready.
const READY: Duration = Duration::from_secs(30);

/// What a pool is told.
pub(crate) struct Terms<'a> {
    pub(crate) chain: Chain,
    pub(crate) shares_per_minute: u32,
    /// Shares that are acknowledged together.
    pub(crate) batch: u32,
    /// Further keys of `[shares]` of Adit's.
    pub(crate) more: &'a [(&'a str, Value)],
}

/// What all of it stands on.
pub(crate) struct Ground {
    pub(crate) pool: Pool,
    /// Between template provider and pool.
    pub(crate) templates: Relay,
    _provider: Role,
    pub(crate) node: Bitcoind,
}

/// A running pool.
pub(crate) enum Pool {
    Adit(Role),
    Sri { program: Program, endpoint: Endpoint, monitoring: SocketAddr },
}

impl Ground {
    pub(crate) fn start(side: &Side, terms: &Terms<'_>) -> Result<Self> {
        let chain = terms.chain;
        let args = ["-checkmempool=0", "-checkblockindex=0"].map(str::to_owned).to_vec();
        let node = harness::node(Options { chain, extra_args: args, ..Options::default() })?;
        if chain == Chain::Regtest {
            node.generate(harness::START_BLOCKS)?;
        }
        let provider = Setup::template_provider(&node)
            .set("templates", "fee_interval_seconds", 3_600)
            .start()?;
        provider.wait_ready(READY)?;
        let templates = Relay::start(provider.endpoint().addr)?;
        let from = Endpoint { addr: templates.addr, ..provider.endpoint() };
        let pool = match side {
            Side::Adit | Side::Sri { .. } => Pool::adit(&from, terms)?,
            Side::SriBoth { pool, .. } => Pool::sri(pool, &from, terms)?,
        };
        Ok(Self { pool, templates, _provider: provider, node })
    }
}

impl Pool {
    fn adit(templates: &Endpoint, terms: &Terms<'_>) -> Result<Self> {
        let mut pool = Setup::pool(templates)
            .set("", "network", terms.chain.name())
            .set("coinbase", "output", payout_address(terms.chain))
            .set("shares", "per_minute", terms.shares_per_minute)
            .set("shares", "ack_batch", terms.batch);
        for (key, value) in terms.more {
            pool = pool.set("shares", key, value.clone());
        }
        let pool = pool.start()?;
        pool.wait_ready(READY)?;
        Ok(Self::Adit(pool))
    }

    fn sri(program: &Path, templates: &Endpoint, terms: &Terms<'_>) -> Result<Self> {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).context("entropy")?;
        let key = AuthoritySecretKey::from_entropy(entropy).context("an unusable key")?;
        let addr: SocketAddr = ([127, 0, 0, 1], harness::free_port()?).into();
        let monitoring: SocketAddr = ([127, 0, 0, 1], harness::free_port()?).into();
        let config = format!(
            "authority_public_key = \"{}\"\nauthority_secret_key = \"{}\"\ncert_validity_sec = 3600\n\
             listen_address = \"{addr}\"\ncoinbase_reward_script = \"addr({})\"\nserver_id = 1\n\
             pool_signature = \"bench\"\nshares_per_minute = {}.0\nshare_batch_size = {}\n\
             supported_extensions = [0x0002]\nmonitoring_address = \"{monitoring}\"\n\
             monitoring_cache_refresh_secs = 1\n\
             [template_provider_type.Sv2Tp]\naddress = \"{}\"\npublic_key = \"{}\"\n",
            key.public(),
            *key.to_text(),
            payout_address(terms.chain),
            terms.shares_per_minute,
            terms.batch,
            templates.addr,
            templates.key.context("the template provider's key")?,
        );
        let program = Program::start(program, &config, addr)?;
        let endpoint = Endpoint { addr, key: Some(key.public()) };
        Ok(Self::Sri { program, endpoint, monitoring })
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Adit(role) => role.endpoint(),
            Self::Sri { endpoint, .. } => *endpoint,
        }
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        match self {
            Self::Adit(role) => role.pid().context("a process"),
            Self::Sri { program, .. } => Ok(program.pid()),
        }
    }

    /// Shares that it has accepted and refused; of SRI's as of a second ago.
    pub(crate) fn shares(&self) -> Result<(f64, f64)> {
        match self {
            Self::Adit(role) => {
                let metrics = role.metrics()?;
                let count = |result| metrics.sum("adit_pool_shares_total", &[("result", result)]);
                Ok((count("accepted"), count("rejected")))
            }
            Self::Sri { monitoring, .. } => {
                let page = minreq::get(format!("http://{monitoring}/metrics")).with_timeout(5);
                let page = page.send()?;
                let text = page.as_str()?;
                let sum = |name| {
                    let samples = text.lines().filter(|line| line.starts_with(name));
                    let values =
                        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
                    values.sum::<f64>()
                };
                let [accepted, refused] =
                    ["sv2_client_shares_accepted_total", "sv2_client_shares_rejected_total"];
                Ok((sum(accepted), sum(refused)))
            }
        }
    }
}

/// A running translator.
pub(crate) struct Translator {
    pub(crate) addr: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) role: Option<Role>,
    _program: Option<Program>,
}

/// What miners are taken for: what the upstream is to make of all of them, and how many there will be.
pub(crate) struct Miners {
    pub(crate) count: usize,
    /// Hashes per second of all.
    pub(crate) hash_rate: f64,
    pub(crate) shares_per_minute: u32,
}

impl Translator {
    /// One channel for all miners, in front of `pool`, without a difficulty of their own.
    pub(crate) fn start(side: &Side, pool: &Endpoint, miners: &Miners) -> Result<Self> {
        let key = pool.key.context("the pool's key")?;
        match side {
            Side::Adit => {
                let url = format!("stratum2+tcp://{}/{key}", pool.addr);
                let role = Setup::translator(pool)
                    .clear("upstream")
                    .push("upstream", &[("url", url.into()), ("user_identity", "farm".into())])
                    .set("", "channels", "aggregated")
                    .set("miners", "nominal_hash_rate", miners.hash_rate / miners.count as f64)
                    .set("miners", "vardiff", false)
                    .set("miners", "max_lines_per_second", 1_000_000)
                    .start()?;
                role.wait_ready(READY)?;
                let pid = role.pid().context("a process")?;
                Ok(Self { addr: role.endpoint().addr, pid, role: Some(role), _program: None })
            }
            Side::Sri { translator } | Side::SriBoth { translator, .. } => {
                let addr: SocketAddr = ([127, 0, 0, 1], harness::free_port()?).into();
                let config = sri_config(addr, pool, &key.to_string(), miners);
                let program = Program::start(translator, &config, addr)?;
                Ok(Self { addr, pid: program.pid(), role: None, _program: Some(program) })
            }
        }
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        resident_kib(self.pid)
    }
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
}

/// The CPU time that a process has had, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

/// One of SRI's programs. Dropped, it is killed: it holds nothing that is worth keeping.
pub(crate) struct Program {
    child: Child,
    _dir: TempDir,
}

impl Program {
    /// Runs it until it listens.
    fn start(program: &Path, config: &str, listens: SocketAddr) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("config.toml");
        fs::write(&file, config)?;
        let log_file = dir.path().join("log");
        let log = fs::File::create(&log_file)?;
        let mut command = tied(program);
        command.arg("-c").arg(&file).current_dir(dir.path()).env("RUST_LOG", "warn");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut program = Self { child: spawn_tied(command)?, _dir: dir };
        let deadline = Instant::now() + READY;
        while std::net::TcpStream::connect(listens).is_err() {
            if let Some(status) = program.child.try_wait()? {
                anyhow::bail!("it ended with {status}:\n{}", fs::read_to_string(&log_file)?);
            }
            ensure!(
                Instant::now() < deadline,
                "nothing listens:\n{}",
                fs::read_to_string(&log_file)?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(program)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It gives the pool one miner's hashrate for that of all and leaves it at that, so it is told that of all for each.
fn sri_config(addr: SocketAddr, pool: &Endpoint, key: &str, miners: &Miners) -> String {
    format!(
        "downstream_address = \"{}\"\ndownstream_port = {}\n\
         max_supported_version = 2\nmin_supported_version = 2\ndownstream_extranonce2_size = 4\n\
         user_identity = \"farm\"\naggregate_channels = true\nsupported_extensions = [0x0002]\n\
         required_extensions = []\nverify_payout = false\n\
         [downstream_difficulty_config]\nmin_individual_miner_hashrate = {:?}\n\
         shares_per_minute = {}.0\nenable_vardiff = false\njob_keepalive_interval_secs = 3600\n\
         [[upstreams]]\naddress = \"{}\"\nport = {}\nauthority_pubkey = \"{key}\"\nuser_identity = \"farm\"\n",
        addr.ip(),
        addr.port(),
        miners.hash_rate,
        miners.shares_per_minute,
        pool.addr.ip(),
        pool.addr.port()
    )
}
