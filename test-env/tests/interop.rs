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
use adit_test_env::bitcoind::{Bitcoind, Chain, Options, spawn_tied, tied};
use adit_test_env::harness::{
    self, Blocks, Endpoint, Role, Setup, eventually, free_port, payout_address,
};
use bitcoincore_rpc::RpcApi;

/// The peer's programs give up after three tries a second apart, and poll some things every 10 s.
const SOON: Duration = Duration::from_secs(90);
/// How the peer's pool begins what it writes into its coinbases.
const THEIR_TAG: &str = "Sv2/their-pool/";
/// What the peer's job declarator writes into them.
const THEIR_JDC_TAG: &str = "Sv2//their-jdc/";
/// Where solo rewards go: an address of nobody.
const SOLO: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";

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

fn new_key() -> AuthoritySecretKey {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy).unwrap();
    AuthoritySecretKey::from_entropy(entropy).unwrap()
}

/// The lines of the peer's configurations that say who it is.
fn identity(key: &AuthoritySecretKey) -> String {
    format!(
        r#"
authority_public_key = "{}"
authority_secret_key = "{}"
cert_validity_sec = 3600
"#,
        key.public(),
        *key.to_text()
    )
}

fn local(port: u16, key: Option<AuthorityPublicKey>) -> Endpoint {
    Endpoint { addr: ([127, 0, 0, 1], port).into(), key }
}

fn reward() -> String {
    format!("addr({})", payout_address(Chain::Regtest))
}

/// The table that has the peer take templates from our provider.
fn from_provider(provider: &Endpoint) -> String {
    format!(
        r#"
[template_provider_type.Sv2Tp]
address = "{}"
public_key = "{}"
"#,
        provider.addr,
        provider.key.unwrap()
    )
}

/// The peer's pool, whose templates are from where the table says.
fn their_pool_with(key: &AuthoritySecretKey, templates: &str) -> (Theirs, Endpoint) {
    let port = free_port().unwrap();
    let config = format!(
        r#"
{identity}
listen_address = "127.0.0.1:{port}"
coinbase_reward_script = "{reward}"
server_id = 1
pool_signature = "their-pool"
shares_per_minute = 60.0
share_batch_size = 1
{templates}
"#,
        identity = identity(key),
        reward = reward(),
    );
    let mut pool = Theirs::configured("pool_sv2", &config);
    pool.wait_listening(port);
    (pool, local(port, Some(key.public())))
}

/// The peer's pool at our template provider.
fn their_pool(provider: &Endpoint) -> (Theirs, Endpoint) {
    their_pool_with(&new_key(), &from_provider(provider))
}

/// The peer's pool with its Job Declarator Server, which it only has at a node with the IPC interface.
fn their_pool_and_jds(node: &Bitcoind) -> (Theirs, Endpoint, Endpoint) {
    let (key, port) = (new_key(), free_port().unwrap());
    let templates = format!(
        r#"
[template_provider_type.BitcoinCoreIpc]
version = 31
network = "regtest"
data_dir = "{}"
fee_threshold = 100
min_interval = 1

[jds]
listen_address = "127.0.0.1:{port}"
"#,
        node.data_dir().display()
    );
    let (mut pool, endpoint) = their_pool_with(&key, &templates);
    pool.wait_listening(port);
    (pool, endpoint, local(port, Some(key.public())))
}

/// The peer's job declarator in front of a pool and a Job Declarator Server, which have one key.
fn their_jdc(
    mode: &str,
    shares_per_minute: u32,
    provider: &Endpoint,
    pool: &Endpoint,
    jds: &Endpoint,
) -> (Theirs, Endpoint) {
    let (key, port) = (new_key(), free_port().unwrap());
    let config = format!(
        r#"
{identity}
listening_address = "127.0.0.1:{port}"
max_supported_version = 2
min_supported_version = 2
shares_per_minute = {shares_per_minute}.0
share_batch_size = 1
mode = "{mode}"
jdc_signature = "their-jdc"
# Of solo mining, so that its blocks are none of those that are waited for.
coinbase_reward_script = "addr({SOLO})"
supported_extensions = [0x0002]

[[upstreams]]
authority_pubkey = "{upstream_key}"
pool_address = "127.0.0.1"
pool_port = {pool_port}
jds_address = "127.0.0.1"
jds_port = {jds_port}
user_identity = "interop"
{templates}
"#,
        identity = identity(&key),
        upstream_key = pool.key.unwrap(),
        pool_port = pool.addr.port(),
        jds_port = jds.addr.port(),
        templates = from_provider(provider),
    );
    let mut jdc = Theirs::configured("jd_client_sv2", &config);
    jdc.wait_listening(port);
    (jdc, local(port, Some(key.public())))
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
    (translator, local(port, None))
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
        // One channel for all has one name.
        let upstream = [("url", url(&pool).into()), ("user_identity", "interop".into())];
        let translator = Setup::translator(&pool)
            .set("", "channels", channels)
            .clear("upstream")
            .push("upstream", &upstream)
            .start()
            .unwrap();
        let miners: Vec<_> =
            (0..2).map(|_| Setup::device("sv1", &translator.endpoint()).start().unwrap()).collect();
        for miner in &miners {
            eventually(SOON, &format!("shares, {channels}"), || accepted(miner, 3));
        }
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

/// The pool's node, and the miner's beside it.
fn two_nodes() -> (Bitcoind, Bitcoind) {
    let pools = harness::node(Options { listen: true, ..Options::default() }).unwrap();
    let connect = vec![pools.p2p_addr().unwrap()];
    let miners = harness::node(Options { connect, ..Options::default() }).unwrap();
    pools.generate(harness::START_BLOCKS).unwrap();
    let tip = |node: &Bitcoind| node.client().unwrap().get_best_block_hash().unwrap();
    eventually(SOON, "both nodes have one tip", || tip(&pools) == tip(&miners));
    (pools, miners)
}

/// Their job declarator on our pool, Job Declarator Server and template providers. Between two looks `meanwhile` is done
/// with the miner's node.
fn their_jdc_works(mode: &str, shares_per_minute: u32, mut meanwhile: impl FnMut(&Bitcoind)) {
    let (pools_node, miners_node) = two_nodes();
    let key = new_key();
    let jds = Setup::jds(&pools_node).authority(&key).start().unwrap();
    let pools_provider = Setup::template_provider(&pools_node).start().unwrap();
    let pool = Setup::pool(&pools_provider.endpoint())
        .authority(&key)
        .declared_by(&[&jds.endpoint()])
        .start()
        .unwrap();
    let provider = Setup::template_provider(&miners_node).start().unwrap();
    for role in [&jds, &pools_provider, &pool, &provider] {
        role.wait_ready(SOON).unwrap();
    }
    let mut blocks = Blocks::above_tip(&pools_node).unwrap();
    let (_jdc, jdc) =
        their_jdc(mode, shares_per_minute, &provider.endpoint(), &pool.endpoint(), &jds.endpoint());
    let miner = Setup::device("sv2-extended", &jdc).start().unwrap();
    eventually(SOON, "shares", || accepted(&miner, 1));
    let address = payout_address(Chain::Regtest);
    eventually(SOON, "blocks of theirs, and the pool's credit for them", || {
        meanwhile(&miners_node);
        blocks.update(&pools_node).unwrap();
        let theirs = blocks.iter().filter(|block| block.coinbase.is_of(&address, THEIR_JDC_TAG));
        let credited = pool.status().unwrap()["state"]["work"].to_string().contains("interop");
        theirs.count() >= 3 && credited
    });
    let metrics = pool.metrics().unwrap();
    assert!(metrics.sum("adit_pool_custom_jobs_total", &[("result", "accepted")]) > 0.0);
}

#[test]
#[ignore = "needs the peer's programs: scripts/interop installs them and runs this"]
fn their_full_template_jd_client_on_our_pool_and_jds() {
    their_jdc_works("FULLTEMPLATE", 60, |_| {});
}

#[test]
#[ignore = "needs the peer's programs: scripts/interop installs them and runs this"]
fn their_coinbase_only_jd_client_on_our_pool_and_jds() {
    // At a new tip it sends no custom job in this mode, only with a template that pays more than the tip's first one. And
    // tips before its channel is open use up its tokens for good.
    their_jdc_works("COINBASEONLY", 10, |node| {
        if node.client().unwrap().get_raw_mempool().unwrap().is_empty() {
            node.fill_mempool(1).unwrap();
        }
    });
}

#[test]
#[ignore = "needs the peer's programs and a node with IPC: scripts/interop installs those and runs this"]
fn our_jdc_on_their_pool_and_jds() {
    let program = std::env::var_os("ADIT_INTEROP_IPC_NODE")
        .expect("ADIT_INTEROP_IPC_NODE names a bitcoind with the IPC mining interface");
    let node = harness::node(Options {
        program: Some(program.into()),
        extra_args: vec!["-ipcbind=unix".to_owned()],
        ..Options::default()
    });
    let node = node.unwrap();
    node.generate(harness::START_BLOCKS).unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    provider.wait_ready(SOON).unwrap();
    let (_pool, pool, jds) = their_pool_and_jds(&node);
    let mut blocks = Blocks::above_tip(&node).unwrap();
    let jdc = Setup::jdc(&provider.endpoint()).upstream(&pool, &jds).start().unwrap();
    jdc.wait_ready(SOON).unwrap();
    let miner = Setup::device("sv2-extended", &jdc.endpoint()).start().unwrap();
    eventually(SOON, "shares", || accepted(&miner, 3));
    wait_for_blocks(&node, &mut blocks, Setup::JDC_TAG, 3);
    // At first blocks come faster than their pool takes jobs.
    eventually(SOON, "shares that their pool has accepted", || {
        let metrics = jdc.metrics().unwrap();
        metrics.sum("adit_jdc_upstream_shares_total", &[("result", "accepted")]) > 0.0
    });
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
