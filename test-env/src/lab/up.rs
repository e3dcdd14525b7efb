//! Bringing the lab up: keys, configurations, node, roles, in the order in which people would.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use anyhow::{Context, Result, anyhow, bail};
use bitcoincore_rpc::RpcApi;

use super::config::{self, MinerPath, Miners};
use super::process::{self, Process};
use super::state::Rpc;
use super::{Hand, Lab, NewAddress, NodeState, RoleState, STATE_FILE, State};
use crate::bitcoind::{self, Chain};
use crate::ports::{NODE_RPC, free_port, is_free};

impl Lab {
    /// Brings a new lab up and waits until every role is ready. `say` hears of the progress.
    ///
    /// # Errors
    /// Where a lab is up already or something does not start; what was started is stopped again.
    pub fn up(&self, network: Chain, miners: Miners, say: &dyn Fn(&str)) -> Result<State> {
        if self.state()?.is_some() {
            bail!("the lab is up already; see scripts/lab status, or end it with scripts/lab down");
        }
        for folder in ["logs", "config", "data"] {
            let folder = self.dir.join(folder);
            if folder.exists() {
                std::fs::remove_dir_all(&folder)
                    .with_context(|| format!("clearing {}", folder.display()))?;
            }
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        // Two labs that start at once would both see the default ports free.
        let turn = std::env::temp_dir()
            .join(format!("adit-lab-{}.lock", rustix::process::getuid().as_raw()));
        let turn =
            std::fs::File::create(&turn).with_context(|| format!("opening {}", turn.display()))?;
        turn.lock().context("waiting for another lab to start")?;
        let done = self.bring_up(network, miners, say);
        if done.is_err() {
            self.down().context("after a failed start")?;
        }
        done
    }

    fn bring_up(&self, network: Chain, miners: Miners, say: &dyn Fn(&str)) -> Result<State> {
        say("finding a bitcoind (the first time one may be fetched, about 20 MB)");
        bitcoind::binary()?;
        let payout = NewAddress::new(network.network())?;
        write_secret(&self.dir.join("config/payout.wif"), &payout.key.to_wif())?;
        let mut state = State {
            network,
            nodes: Vec::new(),
            payout_address: payout.address.to_string(),
            tag: TAG.to_owned(),
            start_height: 0,
            roles: Vec::new(),
        };
        self.start_nodes(&mut state, say)?;

        let keys = config::Keys {
            template_provider: self.new_key("template-provider")?,
            pool: self.new_key("pool")?,
            jds: self.new_key("jds")?,
            miner_template_provider: self.new_key("miner-template-provider")?,
            jdc: self.new_key("jdc")?,
            jdc_coinbase_only: self.new_key("jdc-coinbase-only")?,
        };
        let ports = config::Ports {
            template_provider: port_or_free(8442)?,
            pool: port_or_free(34254)?,
            translator: port_or_free(34255)?,
            jds: port_or_free(34264)?,
            miner_template_provider: free_port()?,
            jdc: port_or_free(34265)?,
            jdc_translator: free_port()?,
            jdc_coinbase_only: free_port()?,
            explorer: port_or_free(3002)?,
        };
        let nodes = state.nodes.clone();
        let (payout_address, tag) = (state.payout_address.clone(), state.tag.clone());
        let plan = config::Plan {
            chain: network,
            node: &nodes[0],
            miner_node: &nodes[1],
            payout_address: &payout_address,
            tag: &tag,
            dir: &self.dir,
            ports,
            keys,
            miners,
        };
        let servers = [
            Server {
                program: "template-provider",
                port: ports.template_provider,
                key: Some(keys.template_provider),
                ..Server::new("template-provider", plan.template_provider())
            },
            Server { port: ports.pool, key: Some(keys.pool), ..Server::new("pool", plan.pool()) },
            Server { port: ports.jds, key: Some(keys.jds), ..Server::new("jds", plan.jds()) },
            Server { port: ports.translator, ..Server::new("translator", plan.translator()) },
            Server {
                program: "template-provider",
                port: ports.miner_template_provider,
                key: Some(keys.miner_template_provider),
                ..Server::new("miner-template-provider", plan.miner_template_provider())
            },
            Server { port: ports.jdc, key: Some(keys.jdc), ..Server::new("jdc", plan.jdc()) },
            Server {
                program: "translator",
                port: ports.jdc_translator,
                ..Server::new("jdc-translator", plan.jdc_translator())
            },
            Server {
                program: "jdc",
                port: ports.jdc_coinbase_only,
                key: Some(keys.jdc_coinbase_only),
                ..Server::new("jdc-coinbase-only", plan.jdc_coinbase_only())
            },
        ];
        for server in servers {
            self.start_server(&mut state, server, say)?;
        }
        for path in MinerPath::ALL {
            let (name, http) = (path.miner(), free_http()?);
            let arguments = plan.miner(path, &http);
            let role = RoleState {
                program: "mining-device".to_owned(),
                addr: None,
                authority_key: None,
                process: self.start_role(&name, "mining-device", arguments, say)?,
                name,
                http,
            };
            self.record(&mut state, role)?;
        }
        // Last, since it is told of all the others.
        let explorer = Server::new("explorer", plan.explorer(&state.roles));
        self.start_server(&mut state, Server { port: ports.explorer, ..explorer }, say)?;
        self.wait_ready(&state, say)?;
        Ok(state)
    }

    fn start_server(&self, state: &mut State, server: Server, say: &dyn Fn(&str)) -> Result<()> {
        let (name, http) = (server.name, free_http()?);
        let path = self.dir.join("config").join(format!("{name}.toml"));
        std::fs::write(&path, format!("{}\n[http]\nlisten = \"{http}\"\n", server.config))
            .with_context(|| format!("writing {}", path.display()))?;
        let arguments = vec!["run".to_owned(), "-c".to_owned(), path.display().to_string()];
        let role = RoleState {
            name: name.to_owned(),
            program: server.program.to_owned(),
            addr: Some(format!("127.0.0.1:{}", server.port)),
            authority_key: server.key.map(|key| key.to_string()),
            http,
            process: self.start_role(name, server.program, arguments, say)?,
        };
        self.record(state, role)
    }

    fn record(&self, state: &mut State, role: RoleState) -> Result<()> {
        state.roles.push(role);
        state.write(&self.dir.join(STATE_FILE))
    }

    /// The pool's node with the chain's first blocks, then the miner's node beside it. The pool's node takes cheap
    /// transactions from nobody, so that a block with one is a block whose transactions the miner's node chose.
    fn start_nodes(&self, state: &mut State, say: &dyn Fn(&str)) -> Result<()> {
        let p2p = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let dear = bitcoind::Options {
            extra_args: vec![format!("-minrelaytxfee={POOL_RELAY_FEE}")],
            ..Default::default()
        };
        self.start_node(state, NODE, port_or_free(NODE_RPC)?, dear, Some(p2p), say)?;
        self.prepare_chain(state, say)?;
        let beside = bitcoind::Options { connect: vec![p2p], ..Default::default() };
        self.start_node(state, MINER_NODE, free_port()?, beside, None, say)?;
        let height = self.hand(state, None)?.rpc().get_block_count()?;
        let miner = self.hand(state, Some(MINER_NODE))?;
        let deadline = Instant::now() + NODE_START;
        while miner.rpc().get_block_count()? < height {
            if Instant::now() > deadline {
                bail!("{MINER_NODE} does not get the chain from {NODE}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn start_node(
        &self,
        state: &mut State,
        name: &str,
        rpc_port: u16,
        options: bitcoind::Options,
        p2p: Option<SocketAddr>,
        say: &dyn Fn(&str),
    ) -> Result<()> {
        let data = self.dir.join("data").join(name);
        std::fs::create_dir_all(&data)?;
        let options = bitcoind::Options { chain: state.network, txindex: true, ..options };
        let program = bitcoind::binary()?;
        let mut command = Command::new(program);
        command.args(bitcoind::arguments(&options, &data, rpc_port, p2p)?);
        say(&format!("starting {name}, {} on {}", program.display(), state.network.name()));
        let process = process::start(command, &self.log_file(name))?;
        let cookie = data.join(state.network.name()).join(".cookie");
        let rpc = Rpc { url: format!("http://127.0.0.1:{rpc_port}"), cookie };
        let node = NodeState { name: name.to_owned(), rpc, version: String::new(), process };
        state.nodes.push(node.clone());
        state.write(&self.dir.join(STATE_FILE))?;
        let version = self.wait_for_node(&node)?;
        if let Some(node) = state.nodes.last_mut() {
            node.version = version;
        }
        state.write(&self.dir.join(STATE_FILE))
    }

    /// Waits for the node's RPC and returns its version text.
    fn wait_for_node(&self, node: &NodeState) -> Result<String> {
        let deadline = Instant::now() + NODE_START;
        loop {
            let info = Hand::with_cookie(&node.rpc.url, &node.rpc.cookie).and_then(|hand| {
                Ok(hand.rpc().call::<serde_json::Value>("getnetworkinfo", &[])?)
            });
            match info {
                Ok(info) => {
                    return Ok(info["subversion"]
                        .as_str()
                        .unwrap_or("")
                        .trim_matches('/')
                        .to_owned());
                }
                Err(error) if !node.process.is_alive() => {
                    let log = self.log_file(&node.name);
                    return Err(error).with_context(|| {
                        format!("{} has ended; see {}", node.name, log.display())
                    });
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("{} does not answer", node.name));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Gives the chain a recent tip and, on regtest, mature coins that anybody can spend.
    fn prepare_chain(&self, state: &mut State, say: &dyn Fn(&str)) -> Result<()> {
        let hand = self.hand(state, None)?;
        match state.network {
            Chain::Regtest => {
                say(&format!("making the first {} blocks", REGTEST_BLOCKS + 1));
                hand.generate(REGTEST_BLOCKS)?;
                hand.fan_out(COINS)?;
            }
            // Each is about 5 million hashes of the node's own search: one, so that the node leaves its initial download.
            Chain::Signet => {
                say("making the first block");
                hand.generate(1)?;
            }
        }
        state.start_height = hand.rpc().get_block_count()?;
        Ok(())
    }

    fn start_role(
        &self,
        name: &str,
        program: &str,
        arguments: Vec<String>,
        say: &dyn Fn(&str),
    ) -> Result<Process> {
        say(&format!("starting {name}"));
        let path = self.programs.join(format!("adit-{program}"));
        if !path.exists() {
            bail!("{} is not there; build it with: cargo build --bins", path.display());
        }
        let mut command = Command::new(path);
        command.args(arguments);
        process::start(command, &self.log_file(name))
    }

    fn wait_ready(&self, state: &State, say: &dyn Fn(&str)) -> Result<()> {
        let started = Instant::now();
        for role in &state.roles {
            let mut said = String::new();
            while let Err(missing) = role.ready() {
                let log = self.log_file(&role.name);
                if !role.process.is_alive() {
                    bail!("{} has ended; see {}", role.name, log.display());
                }
                if started.elapsed() > ROLES_START {
                    bail!("{} is not ready: {missing}; see {}", role.name, log.display());
                }
                // Most waits are over at once and not worth a word.
                if said != missing && started.elapsed() > PATIENCE {
                    say(&format!("waiting for {}: {missing}", role.name));
                    said = missing;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            say(&format!("{} is ready", role.name));
        }
        Ok(())
    }

    fn new_key(&self, role: &str) -> Result<AuthorityPublicKey> {
        let key = AuthoritySecretKey::from_entropy(entropy()?).context("an unusable key")?;
        write_secret(&self.dir.join("config").join(format!("{role}.key")), &key.to_text())?;
        Ok(key.public())
    }
}

/// A role that is configured by a file.
struct Server {
    name: &'static str,
    program: &'static str,
    port: u16,
    key: Option<AuthorityPublicKey>,
    config: String,
}

impl Server {
    fn new(name: &'static str, config: String) -> Self {
        Self { name, program: name, port: 0, key: None, config }
    }
}

/// The pool's node.
pub(super) const NODE: &str = "bitcoind";
/// The node on the miner's side of job declaration.
pub(super) const MINER_NODE: &str = "miner-bitcoind";
/// What the pool's node wants for a transaction, in BTC per 1000 virtual bytes: ten times the usual least.
const POOL_RELAY_FEE: &str = "0.0001";
/// So that the first blocks' coins can be spent at once.
const REGTEST_BLOCKS: u64 = 110;
/// To be spent by `send` and by the demo.
const COINS: usize = 100;
/// What every coinbase of the lab begins with, behind the height.
const TAG: &str = "/adit-lab/";
/// A cold start from a slow disk.
const NODE_START: Duration = Duration::from_secs(60);
/// All roles together; they wait for one another, and back-off is at most 5 s.
const ROLES_START: Duration = Duration::from_secs(180);
/// Waits longer than this are told.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn entropy() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no entropy: {error}"))?;
    Ok(bytes)
}

/// The wanted port if it is free, else any free one.
fn port_or_free(wanted: u16) -> Result<u16> {
    if is_free(wanted) { Ok(wanted) } else { free_port() }
}

fn free_http() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{text}"))
        .with_context(|| format!("writing {}", path.display()))
}
