//! A real bitcoind as a child process: found or fetched by `scripts/node`, on free ports, gone with its owner.
//!
//! Everything here blocks; async callers go through `spawn_blocking`.

mod child;
mod coins;

pub use child::{spawn_tied, tied};
pub use coins::{Coin, coins_of, op_true_address, op_true_script, spendable_coins, split};

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use adit_node::{Auth, Node, NodeConfig};
use anyhow::{Context, Result, bail, ensure};
use bitcoin::{Address, BlockHash, Network};
use bitcoincore_rpc::{Client, RpcApi};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

/// From the start of the process to its first answer, on a machine busy with compiling.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// From `stop` to the end of the process.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a process that starts or ends.
const POLL: Duration = Duration::from_millis(10);
/// A port that was free may be taken before the node binds it.
const PORT_ATTEMPTS: usize = 3;

/// The chains a lab can mine on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Chain {
    /// Every second hash is a block; the subsidy halves every 150 blocks.
    #[default]
    Regtest,
    /// A private signet whose challenge is `OP_TRUE`: blocks need work (4.9 million hashes at first), no signature.
    Signet,
}

impl Chain {
    /// For addresses.
    pub fn network(self) -> Network {
        match self {
            Self::Regtest => Network::Regtest,
            Self::Signet => Network::Signet,
        }
    }

    /// The node's name of it, also its folder in the data directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regtest => "regtest",
            Self::Signet => "signet",
        }
    }
}

/// What kind of node to start. The default is a regtest node without peers in a folder that goes with it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The chain.
    pub chain: Chain,
    /// Kept when the node goes; a temporary one if `None`.
    pub data_dir: Option<PathBuf>,
    /// The RPC port; a free one if `None`.
    pub rpc_port: Option<u16>,
    /// Takes connections of other nodes, on a free port of the loopback.
    pub listen: bool,
    /// Nodes to connect to.
    pub connect: Vec<SocketAddr>,
    /// Keeps an index of all transactions.
    pub txindex: bool,
    /// The node's program, in place of [`binary`].
    pub program: Option<PathBuf>,
    /// Further arguments; of one given twice the node heeds the first, so these come first.
    pub extra_args: Vec<String>,
}

/// A node process. Dropped, it is killed; when this process is killed, the node dies too where the host has `setpriv`.
#[derive(Debug)]
pub struct Bitcoind {
    chain: Chain,
    program: Option<PathBuf>,
    arguments: Vec<String>,
    data_dir: PathBuf,
    rpc_addr: SocketAddr,
    p2p_addr: Option<SocketAddr>,
    child: Option<Child>,
    /// Last, so that the process is gone when the folder goes.
    _temp: Option<TempDir>,
}

impl Bitcoind {
    /// Starts a node and waits until it answers.
    pub fn start(options: Options) -> Result<Self> {
        let temp = match &options.data_dir {
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
                None
            }
            None => Some(crate::temp::folder("adit-node-")?),
        };
        let data_dir = match (&options.data_dir, &temp) {
            (Some(dir), _) => dir.canonicalize()?,
            (None, Some(temp)) => temp.path().to_owned(),
            (None, None) => unreachable!("one of them was made above"),
        };
        let mut node = Self {
            chain: options.chain,
            program: options.program.clone(),
            arguments: Vec::new(),
            data_dir,
            rpc_addr: (Ipv4Addr::LOCALHOST, 0).into(),
            p2p_addr: None,
            child: None,
            _temp: temp,
        };
        for attempt in 1.. {
            node.rpc_addr.set_port(match options.rpc_port {
                Some(port) => port,
                None => crate::ports::free_port()?,
            });
            node.p2p_addr = match options.listen {
                true => Some((Ipv4Addr::LOCALHOST, crate::ports::free_port()?).into()),
                false => None,
            };
            node.arguments =
                arguments(&options, &node.data_dir, node.rpc_addr.port(), node.p2p_addr)?;
            match node.run() {
                Err(e)
                    if attempt < PORT_ATTEMPTS
                        && options.rpc_port.is_none()
                        && e.to_string().contains("Unable to bind") => {}
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        Ok(node)
    }

    /// The chain it is on.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Where its RPC listens, stable over restarts.
    pub fn rpc_addr(&self) -> SocketAddr {
        self.rpc_addr
    }

    /// Where other nodes reach it, if it listens.
    pub fn p2p_addr(&self) -> Option<SocketAddr> {
        self.p2p_addr
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.rpc_addr)
    }

    /// The file that holds the RPC's user and password; there while the node runs.
    pub fn cookie_file(&self) -> PathBuf {
        self.data_dir.join(self.chain.name()).join(".cookie")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// For a role's configuration.
    pub fn node_config(&self) -> NodeConfig {
        NodeConfig::new(self.url(), Auth::Cookie(self.cookie_file()))
    }

    /// The async client that roles use.
    pub fn node(&self) -> Node {
        Node::new(self.node_config()).expect("url is of the right form")
    }

    /// A blocking client with the cookie of now: after a restart, take another.
    pub fn client(&self) -> Result<Client> {
        let auth = bitcoincore_rpc::Auth::CookieFile(self.cookie_file());
        Ok(Client::new(&self.url(), auth)?)
    }

    /// Mines blocks that pay to [`op_true_address`] (regtest only).
    pub fn generate(&self, blocks: usize) -> Result<Vec<BlockHash>> {
        self.generate_to(blocks, &op_true_address(self.chain))
    }

    /// Mines blocks that pay to `address` (regtest only).
    pub fn generate_to(&self, blocks: usize, address: &Address) -> Result<Vec<BlockHash>> {
        let descriptor = format!("raw({:x})", address.script_pubkey());
        Ok(self.client()?.call("generatetodescriptor", &[json!(blocks), json!(descriptor)])?)
    }

    /// Has the node write all blocks and coins to disk, so that a later [`Self::kill9`] loses none of them.
    pub fn flush(&self) -> Result<()> {
        self.client()?.call::<Value>("gettxoutsetinfo", &[json!("none")])?;
        Ok(())
    }

    /// SIGKILL, as from a power failure: blocks not flushed are lost.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// An orderly end.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.client()?.call::<Value>("stop", &[])?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.ended()?.is_none() {
            ensure!(Instant::now() < deadline, "bitcoind still runs {STOP_DEADLINE:?} after stop");
            sleep(POLL);
        }
        Ok(())
    }

    /// Starts it again after [`Self::kill9`] or in an orderly way, on the same ports and data, until it answers.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// The same without waiting until it answers: for looking at a node that warms up.
    pub fn launch(&mut self) -> Result<()> {
        self.stop()?;
        // A cookie of before would be refused.
        let _ = fs::remove_file(self.cookie_file());
        let out = File::create(self.out_file())?;
        let program = match &self.program {
            Some(program) => program,
            None => binary()?,
        };
        let mut command = tied(program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        self.child = Some(spawn_tied(command).context("starting bitcoind")?);
        Ok(())
    }

    /// The same, and it warms up for as long as [`WarmUp::end`] is not called: what it takes for a file of its own nobody
    /// writes to.
    pub fn launch_held(&mut self) -> Result<WarmUp> {
        self.stop()?;
        let peers = self.data_dir.join(self.chain.name()).join("peers.dat");
        let known = fs::read(&peers).with_context(|| format!("reading {}", peers.display()))?;
        fs::remove_file(&peers)?;
        mknodat(CWD, &peers, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        self.launch()?;
        Ok(WarmUp { peers, known })
    }

    /// Waits until the node answers.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.ended()? {
                let said = fs::read_to_string(self.out_file()).unwrap_or_default();
                bail!("bitcoind ended at its start ({status}): {}", said.trim());
            }
            let error = match self.client().and_then(|client| Ok(client.get_block_count()?)) {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            ensure!(
                Instant::now() < deadline,
                "bitcoind does not answer after {START_DEADLINE:?}: {error:#}; see {}",
                self.data_dir.join(self.chain.name()).join("debug.log").display()
            );
            sleep(POLL);
        }
    }

    fn run(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        };
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// What the process prints, which is little and only when something is wrong.
    fn out_file(&self) -> PathBuf {
        self.data_dir.join("bitcoind.out")
    }
}

impl Drop for Bitcoind {
    fn drop(&mut self) {
        // Nothing to be done about a failure here: the process is gone already.
        let _ = self.kill9();
    }
}

/// A node's start that is held up.
#[derive(Debug)]
pub struct WarmUp {
    peers: PathBuf,
    known: Vec<u8>,
}

impl WarmUp {
    /// Lets the node go on. Blocks until it has come to where it waits.
    pub fn end(self) -> Result<()> {
        Ok(fs::write(self.peers, self.known)?)
    }
}

/// A bitcoind command: `$BITCOIND`, or what `scripts/node` finds or fetches. Looked up once per process.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(binary) = BINARY.get() {
        return Ok(binary);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/node");
    let found = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(found.status.success(), "no bitcoind: scripts/node failed");
    let path = String::from_utf8(found.stdout)?;
    Ok(BINARY.get_or_init(|| PathBuf::from(path.trim_end())))
}

/// The arguments [`Bitcoind::start`] gives to the node, for who runs it otherwise.
pub fn arguments(
    options: &Options,
    data_dir: &Path,
    rpc_port: u16,
    p2p_addr: Option<SocketAddr>,
) -> Result<Vec<String>> {
    let mut arguments = options.extra_args.clone();
    let mut add = |text: &str| arguments.push(text.to_owned());
    add(&format!("-datadir={}", data_dir.display()));
    add(&format!("-chain={}", options.chain.name()));
    if options.chain == Chain::Signet {
        add("-signetchallenge=51");
    }
    add("-server=1");
    add("-rpcbind=127.0.0.1");
    add("-rpcallowip=127.0.0.1");
    add(&format!("-rpcport={rpc_port}"));
    add("-rpcthreads=8");
    add("-rpcworkqueue=64");
    // debug.log has it all.
    add("-printtoconsole=0");
    // A loaded wallet makes each generated block about 90 ms slow.
    add("-disablewallet=1");
    // Consistency checks that regtest runs at every transaction and block.
    add("-checkmempool=0");
    add("-checkblockindex=0");
    add("-blockmaxweight=4000000");
    let knots = match &options.program {
        Some(program) => names_knots(program)?,
        None => is_knots()?,
    };
    if knots {
        add("-blockmaxsize=4000000");
        // A build that is some years old would end itself.
        add("-softwareexpiry=0");
    }
    add("-dbcache=50");
    add(&format!("-txindex={}", u8::from(options.txindex)));
    add("-discover=0");
    add("-dnsseed=0");
    add("-fixedseeds=0");
    match p2p_addr {
        Some(addr) => {
            add("-listen=1");
            add("-listenonion=0");
            add(&format!("-bind={addr}"));
        }
        None => add("-listen=0"),
    }
    if options.connect.is_empty() {
        add("-connect=0");
    }
    for peer in &options.connect {
        add(&format!("-connect={peer}"));
    }
    Ok(arguments)
}

/// Knots has options that Core refuses to start with.
fn is_knots() -> Result<bool> {
    static KNOTS: OnceLock<bool> = OnceLock::new();
    if let Some(knots) = KNOTS.get() {
        return Ok(*knots);
    }
    let knots = names_knots(binary()?)?;
    Ok(*KNOTS.get_or_init(|| knots))
}

fn names_knots(program: &Path) -> Result<bool> {
    let output = Command::new(program).arg("-version").output().context("bitcoind -version")?;
    ensure!(output.status.success(), "{} -version failed", program.display());
    Ok(String::from_utf8_lossy(&output.stdout).contains("Knots"))
}
