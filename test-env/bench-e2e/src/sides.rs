//! Whose translator is measured, and what it stands between: a node without wallet, a template provider and a pool of Adit,
//! which are the same for both.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adit_test_env::bitcoind::{Bitcoind, Chain, Options};
use adit_test_env::harness::{self, Endpoint, Role, Setup, payout_address};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// Whose translator.
pub(crate) enum Side {
    Adit,
    /// The program.
    Sri(PathBuf),
}

impl Side {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Adit => "adit",
            Self::Sri(_) => "sri",
        }
    }
}

/// For a role to be ready.
const READY: Duration = Duration::from_secs(30);

/// What all of it stands on.
pub(crate) struct Ground {
    pub(crate) pool: Role,
    _provider: Role,
    pub(crate) node: Bitcoind,
}

impl Ground {
    /// `shares`: keys of the pool's `[shares]`.
    pub(crate) fn start(chain: Chain, shares: &[(&str, Value)]) -> Result<Self> {
        let args = ["-checkmempool=0", "-checkblockindex=0"].map(str::to_owned).to_vec();
        let node = harness::node(Options { chain, extra_args: args, ..Options::default() })?;
        if chain == Chain::Regtest {
            node.generate(harness::START_BLOCKS)?;
        }
        let provider = Setup::template_provider(&node)
            .set("templates", "fee_interval_seconds", 3_600)
            .start()?;
        let mut pool = Setup::pool(&provider.endpoint()).set("", "network", chain.name()).set(
            "coinbase",
            "output",
            payout_address(chain),
        );
        for (key, value) in shares {
            pool = pool.set("shares", key, value.clone());
        }
        let pool = pool.start()?;
        pool.wait_ready(READY)?;
        Ok(Self { pool, _provider: provider, node })
    }
}

/// A running translator.
pub(crate) struct Translator {
    pub(crate) addr: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) role: Option<Role>,
    child: Option<(Child, TempDir)>,
}

impl Translator {
    /// One channel for all miners, in front of `pool`, where each miner is taken for `hash_rate`.
    pub(crate) fn start(side: &Side, pool: &Endpoint, hash_rate: f64) -> Result<Self> {
        let key = pool.key.context("the pool's key")?;
        match side {
            Side::Adit => {
                let url = format!("stratum2+tcp://{}/{key}", pool.addr);
                let role = Setup::translator(pool)
                    .clear("upstream")
                    .push("upstream", &[("url", url.into()), ("user_identity", "farm".into())])
                    .set("", "channels", "aggregated")
                    .set("miners", "nominal_hash_rate", hash_rate)
                    .set("miners", "vardiff", false)
                    .set("miners", "max_lines_per_second", 1_000_000)
                    .start()?;
                role.wait_ready(READY)?;
                let pid = role.pid().context("a process")?;
                Ok(Self { addr: role.endpoint().addr, pid, role: Some(role), child: None })
            }
            Side::Sri(program) => {
                let addr: SocketAddr = format!("127.0.0.1:{}", harness::free_port()?).parse()?;
                let dir = tempfile::tempdir()?;
                let config = dir.path().join("translator.toml");
                fs::write(&config, sri_config(addr, pool, &key.to_string(), hash_rate))?;
                let log = fs::File::create(dir.path().join("log"))?;
                let mut child = Command::new(program)
                    .arg("-c")
                    .arg(&config)
                    .current_dir(dir.path())
                    .env("RUST_LOG", "warn")
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log)
                    .spawn()?;
                let pid = child.id();
                let deadline = Instant::now() + READY;
                while std::net::TcpStream::connect(addr).is_err() {
                    if let Some(status) = child.try_wait()? {
                        let log = fs::read_to_string(dir.path().join("log"))?;
                        anyhow::bail!("translator_sv2 ended with {status}:\n{log}");
                    }
                    ensure!(Instant::now() < deadline, "translator_sv2 does not listen");
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(Self { addr, pid, role: None, child: Some((child, dir)) })
            }
        }
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            // It holds nothing that is worth keeping.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The CPU time that a process has had, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

fn sri_config(addr: SocketAddr, pool: &Endpoint, key: &str, hash_rate: f64) -> String {
    format!(
        "downstream_address = \"{}\"\ndownstream_port = {}\n\
         max_supported_version = 2\nmin_supported_version = 2\ndownstream_extranonce2_size = 4\n\
         user_identity = \"farm\"\naggregate_channels = true\nsupported_extensions = [0x0002]\n\
         required_extensions = []\nverify_payout = false\n\
         [downstream_difficulty_config]\nmin_individual_miner_hashrate = {hash_rate:?}\n\
         shares_per_minute = 6.0\nenable_vardiff = false\njob_keepalive_interval_secs = 3600\n\
         [[upstreams]]\naddress = \"{}\"\nport = {}\nauthority_pubkey = \"{key}\"\nuser_identity = \"farm\"\n",
        addr.ip(),
        addr.port(),
        pool.addr.ip(),
        pool.addr.port()
    )
}
