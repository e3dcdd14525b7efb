//! Adit with the programs of the reference implementation (SRI), until blocks are in a real node's chain.
//!
//! `scripts/interop` installs those programs and runs these tests; `docs/interop.md` says what came of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_test_env::bitcoind::{Bitcoind, Chain, spawn_tied, tied};
use adit_test_env::harness::{
    self, Blocks, Endpoint, Role, Setup, eventually, free_port, payout_address,
};

/// The peer's programs give up after three tries a second apart, and poll some things every 10 s.
const SOON: Duration = Duration::from_secs(90);
/// How the peer's pool begins what it writes into its coinbases.
const THEIR_TAG: &str = "Sv2/their-pool/";

/// One of the peer's programs, ended when dropped.
struct Theirs {
    name: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl Theirs {
    /// Runs a program with a configuration file.
    fn configured(name: &str, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("adit-interop-").tempdir().unwrap();
        let file = dir.path().join("config.toml");
        fs::write(&file, config).unwrap();
        Self::run(name, &["-c", file.to_str().unwrap()], dir)
    }

    fn with_arguments(name: &str, arguments: &[&str]) -> Self {
        Self::run(name, arguments, tempfile::tempdir().unwrap())
    }

    fn run(name: &str, arguments: &[&str], dir: tempfile::TempDir) -> Self {
        let folder = std::env::var_os("ADIT_INTEROP_BIN").expect(
            "ADIT_INTEROP_BIN names the folder of the peer's programs: run scripts/interop",
        );
        let program = PathBuf::from(folder).join(name);
        assert!(program.is_file(), "{} is not installed: scripts/interop", program.display());
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = tied(program);
        command.args(arguments).current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self { name: name.to_owned(), child: spawn_tied(command).unwrap(), dir }
    }

    /// Waits until it takes connections.
    #[track_caller]
    fn wait_listening(&mut self, port: u16) {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(SOON, &format!("{} listens", self.name), || TcpStream::connect(addr).is_ok());
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<_> = log.lines().collect();
            let from = lines.len().saturating_sub(60);
            eprintln!("--- {}\n{}", self.name, lines[from..].join("\n"));
        }
    }
}

struct Keys {
    secret: String,
    public: AuthorityPublicKey,
}

impl Keys {
    fn new() -> Self {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).unwrap();
        let secret = AuthoritySecretKey::from_entropy(entropy).unwrap();
        Self { secret: secret.to_text().to_string(), public: secret.public() }
    }
}

fn reward() -> String {
    format!("addr({})", payout_address(Chain::Regtest))
}

/// The peer's pool at our template provider.
fn their_pool(provider: &Endpoint) -> (Theirs, Endpoint) {
    let (keys, port) = (Keys::new(), free_port().unwrap());
    let config = format!(
        r#"
authority_public_key = "{public}"
authority_secret_key = "{secret}"
cert_validity_sec = 3600
listen_address = "127.0.0.1:{port}"
coinbase_reward_script = "{reward}"
server_id = 1
pool_signature = "their-pool"
shares_per_minute = 60.0
share_batch_size = 1

[template_provider_type.Sv2Tp]
address = "{provider}"
public_key = "{provider_key}"
"#,
        public = keys.public,
        secret = keys.secret,
        reward = reward(),
        provider = provider.addr,
        provider_key = provider.key.unwrap(),
    );
    let mut pool = Theirs::configured("pool_sv2", &config);
    pool.wait_listening(port);
    (pool, Endpoint { addr: ([127, 0, 0, 1], port).into(), key: Some(keys.public) })
}

/// The peer's translator in front of a pool of ours.
fn their_translator(pool: &Endpoint, aggregated: bool) -> (Theirs, Endpoint) {
    let port = free_port().unwrap();
    let config = format!(
        r#"
downstream_address = "127.0.0.1"
downstream_port = {port}
max_supported_version = 2
min_supported_version = 2
downstream_extranonce2_size = 4
verify_payout = false
aggregate_channels = {aggregated}
supported_extensions = [0x0002]

[downstream_difficulty_config]
min_individual_miner_hashrate = 5000.0
shares_per_minute = 60.0
enable_vardiff = true
job_keepalive_interval_secs = 60

[[upstreams]]
address = "127.0.0.1"
port = {pool_port}
authority_pubkey = "{key}"
user_identity = "interop"
"#,
        pool_port = pool.addr.port(),
        key = pool.key.unwrap(),
    );
    let mut translator = Theirs::configured("translator_sv2", &config);
    translator.wait_listening(port);
    (translator, Endpoint { addr: ([127, 0, 0, 1], port).into(), key: None })
}

/// Waits for blocks in the chain that pay the address all configurations name and carry the tag.
#[track_caller]
fn wait_for_blocks(node: &Bitcoind, blocks: &mut Blocks, tag: &str, wanted: usize) {
    let address = payout_address(Chain::Regtest);
    eventually(SOON, &format!("{wanted} blocks with the tag {tag}"), || {
        blocks.update(node).unwrap();
        blocks.iter().filter(|block| block.coinbase.is_of(&address, tag)).count() >= wanted
    });
}

fn node_and_provider() -> (Bitcoind, Role, Blocks) {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    provider.wait_ready(SOON).unwrap();
    let blocks = Blocks::above_tip(&node).unwrap();
    (node, provider, blocks)
}

fn accepted(miner: &Role, shares: u64) -> bool {
    miner.shares().is_ok_and(|(accepted, _)| accepted >= shares)
}

#[test]
#[ignore = "needs the peer's programs: scripts/interop installs them and runs this"]
fn their_pool_on_our_template_provider() {
    let (node, provider, mut blocks) = node_and_provider();
    let (_pool, pool) = their_pool(&provider.endpoint());
    for mode in ["sv2-extended", "sv2-standard"] {
        let miner = Setup::device(mode, &pool).start().unwrap();
        let before = blocks.iter().count();
        eventually(SOON, &format!("shares of a {mode} miner"), || accepted(&miner, 3));
        wait_for_blocks(&node, &mut blocks, THEIR_TAG, before + 2);
    }
}

#[test]
#[ignore = "needs the peer's programs: scripts/interop installs them and runs this"]
fn our_translator_on_their_pool() {
    for channels in ["per-miner", "aggregated"] {
        let (node, provider, mut blocks) = node_and_provider();
        let (_pool, pool) = their_pool(&provider.endpoint());
        let translator = Setup::translator(&pool)
            .clear("upstream")
            .push("upstream", &[("url", url(&pool).into()), ("channels", channels.into())]);
        let translator = translator.start().unwrap();
        let miner = Setup::device("sv1", &translator.endpoint()).start().unwrap();
        eventually(SOON, &format!("shares, {channels}"), || accepted(&miner, 3));
        wait_for_blocks(&node, &mut blocks, THEIR_TAG, 2);
    }
}

#[test]
#[ignore = "needs the peer's programs: scripts/interop installs them and runs this"]
fn their_translator_on_our_pool() {
    for aggregated in [false, true] {
        let (node, provider, mut blocks) = node_and_provider();
        let pool = Setup::pool(&provider.endpoint()).start().unwrap();
        pool.wait_ready(SOON).unwrap();
        let (_translator, translator) = their_translator(&pool.endpoint(), aggregated);
        let miners: Vec<_> =
            (0..2).map(|_| Setup::device("sv1", &translator).start().unwrap()).collect();
        for miner in &miners {
            eventually(SOON, &format!("shares, aggregated {aggregated}"), || accepted(miner, 3));
        }
        wait_for_blocks(&node, &mut blocks, Setup::TAG, 2);
    }
}

#[test]
#[ignore = "needs the peer's programs: scripts/interop installs them and runs this"]
fn their_mining_device_on_our_pool() {
    let (node, provider, mut blocks) = node_and_provider();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    pool.wait_ready(SOON).unwrap();
    let Endpoint { addr, key } = pool.endpoint();
    let (addr, key) = (addr.to_string(), key.unwrap().to_string());
    // 20 ms a batch: about 1,600 hashes a second.
    let slow = ["--handicap", "20000", "--cores", "1", "--nonces-per-call", "32"];
    let mut arguments =
        vec!["--address-pool", &addr, "--pubkey-pool", &key, "--id-user", "interop"];
    arguments.extend(slow);
    let _miner = Theirs::with_arguments("mining_device", &arguments);
    wait_for_blocks(&node, &mut blocks, Setup::TAG, 2);
}

fn url(server: &Endpoint) -> String {
    format!("stratum2+tcp://{}/{}", server.addr, server.key.unwrap())
}

/// So that the list of programs is in one place.
#[test]
fn the_script_installs_what_is_run_here() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/interop");
    let script = fs::read_to_string(script).unwrap();
    for program in ["pool_sv2", "translator_sv2", "jd_client_sv2", "mining_device"] {
        assert!(script.contains(program), "{program}");
    }
}
