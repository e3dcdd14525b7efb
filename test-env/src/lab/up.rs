//! Bringing the lab up: keys, configurations, node, roles, in the order in which people would.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use anyhow::{Context, Result, anyhow, bail};
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use bitcoin::{Address, CompressedPublicKey, PrivateKey};
use bitcoincore_rpc::RpcApi;

use super::config::{self, MinerMode, Miners};
use super::process::{self, Process};
use super::state::Rpc;
use super::{Lab, RoleState, STATE_FILE, State, generate};
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
        let mut state = self.start_node(network, say)?;
        state.write(&self.dir.join(STATE_FILE))?;
        self.prepare_chain(&mut state, say)?;

        let provider_key = self.new_key("template-provider")?;
        let pool_key = self.new_key("pool")?;
        let ports = config::Ports {
            template_provider: port_or_free(8442)?,
            pool: port_or_free(34254)?,
            translator: port_or_free(34255)?,
        };
        let (rpc, payout_address, tag) =
            (state.rpc.clone(), state.payout_address.clone(), state.tag.clone());
        let plan = config::Plan {
            chain: network,
            rpc: &rpc,
            payout_address: &payout_address,
            tag: &tag,
            dir: &self.dir,
            ports,
            provider_key,
            pool_key,
            miners,
        };
        let key = |key: AuthorityPublicKey| Some(key.to_string());
        let servers = [
            (
                "template-provider",
                ports.template_provider,
                key(provider_key),
                plan.template_provider(),
            ),
            ("pool", ports.pool, key(pool_key), plan.pool()),
            ("translator", ports.translator, None, plan.translator()),
        ];
        for (name, port, authority_key, config) in servers {
            let http = free_http()?;
            let path = self.dir.join("config").join(format!("{name}.toml"));
            std::fs::write(&path, format!("{config}\n[http]\nlisten = \"{http}\"\n"))
                .with_context(|| format!("writing {}", path.display()))?;
            let arguments = vec!["run".to_owned(), "-c".to_owned(), path.display().to_string()];
            say(&format!("starting {name}"));
            let process = self.start_role(name, name, arguments)?;
            let addr = Some(format!("127.0.0.1:{port}"));
            state.roles.push(RoleState { name: name.into(), addr, authority_key, http, process });
            state.write(&self.dir.join(STATE_FILE))?;
        }
        for mode in MinerMode::ALL {
            let (name, http) = (mode.role_name(), free_http()?);
            let arguments = plan.miner(mode, &http);
            say(&format!("starting {name}"));
            let process = self.start_role(name, "mining-device", arguments)?;
            let (addr, authority_key) = (None, None);
            state.roles.push(RoleState { name: name.into(), addr, authority_key, http, process });
            state.write(&self.dir.join(STATE_FILE))?;
        }
        self.wait_ready(&state, say)?;
        Ok(state)
    }

    fn start_node(&self, network: Chain, say: &dyn Fn(&str)) -> Result<State> {
        say("finding a bitcoind (the first time one may be fetched, about 20 MB)");
        let program = bitcoind::binary()?;

        let data = self.dir.join("data/bitcoind");
        std::fs::create_dir_all(&data)?;
        let port = port_or_free(NODE_RPC)?;
        let options = bitcoind::Options { chain: network, txindex: true, ..Default::default() };
        let mut command = Command::new(program);
        command.args(bitcoind::arguments(&options, &data, port, None)?);
        say(&format!("starting {} on {}", program.display(), network.name()));
        let node = process::start(command, &self.log_file("bitcoind"))?;
        let folder = network.name();
        let rpc = Rpc {
            url: format!("http://127.0.0.1:{port}"),
            cookie: data.join(folder).join(".cookie"),
        };
        let payout_address = self.new_payout_address(network)?.to_string();
        let mut state = State {
            network,
            rpc,
            node_version: String::new(),
            node,
            payout_address,
            tag: TAG.to_owned(),
            start_height: 0,
            roles: Vec::new(),
        };
        state.node_version = self.wait_for_node(&state)?;
        Ok(state)
    }

    /// Waits for the node's RPC and returns its version text.
    fn wait_for_node(&self, state: &State) -> Result<String> {
        let deadline = Instant::now() + NODE_START;
        loop {
            let info = self
                .rpc(state)
                .and_then(|rpc| Ok(rpc.call::<serde_json::Value>("getnetworkinfo", &[])?));
            match info {
                Ok(info) => {
                    return Ok(info["subversion"]
                        .as_str()
                        .unwrap_or("")
                        .trim_matches('/')
                        .to_owned());
                }
                Err(error) if !state.node.is_alive() => {
                    let log = self.log_file("bitcoind");
                    return Err(error)
                        .with_context(|| format!("bitcoind has ended; see {}", log.display()));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("bitcoind does not answer");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Gives the chain a recent tip and, on regtest, mature coins that anybody can spend.
    fn prepare_chain(&self, state: &mut State, say: &dyn Fn(&str)) -> Result<()> {
        let rpc = self.rpc(state)?;
        let blocks = match state.network {
            Chain::Regtest => 110,
            // Each is about 5 million hashes of the node's own search: one, so that the node leaves its initial download.
            Chain::Signet => 1,
        };
        say(&format!("making the first {blocks} blocks"));
        generate(&rpc, blocks)?;
        state.start_height = rpc.get_block_count()?;
        Ok(())
    }

    fn start_role(&self, name: &str, program: &str, arguments: Vec<String>) -> Result<Process> {
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

    /// A fresh address whose key is kept beside the lab's data, for those who want to spend what was mined.
    fn new_payout_address(&self, network: Chain) -> Result<Address> {
        let key = PrivateKey::new(SecretKey::from_slice(&entropy()?)?, network.network());
        write_secret(&self.dir.join("config/payout.wif"), &key.to_wif())?;
        let public = CompressedPublicKey::from_private_key(&Secp256k1::new(), &key)
            .map_err(|error| anyhow!("payout key: {error}"))?;
        Ok(Address::p2wpkh(&public, network.network()))
    }
}

/// What the lab's pool writes into every coinbase.
const TAG: &str = "/adit-lab/";
/// A cold start from a slow disk.
const NODE_START: Duration = Duration::from_secs(30);
/// All roles together; they wait for one another, and back-off is at most 5 s.
const ROLES_START: Duration = Duration::from_secs(60);
/// Waits longer than this are told.
const PATIENCE: Duration = Duration::from_secs(2);

fn entropy() -> Result<[u8; 32]> {
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
