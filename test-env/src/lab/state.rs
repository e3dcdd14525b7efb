//! The lab's record of what runs where.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::bitcoind::Chain;

/// For an answer of a page.
const PAGE_SECONDS: u64 = 10;

/// Everything about a lab that is up.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct State {
    /// Which private chain.
    pub network: Chain,
    /// The pool's node, then the one on the miner's side of job declaration.
    pub nodes: Vec<NodeState>,
    /// What every block of the pool pays.
    pub payout_address: String,
    /// What every coinbase of the pool says.
    pub tag: String,
    /// The chain's height before anything was mined by the lab's miners.
    pub start_height: u64,
    /// The roles in the order of their start.
    pub roles: Vec<RoleState>,
}

/// A bitcoind.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeState {
    /// `bitcoind` or `miner-bitcoind`.
    pub name: String,
    /// Its RPC.
    pub rpc: Rpc,
    /// Its own version text.
    pub version: String,
    /// The process.
    pub process: Process,
}

/// How to reach a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rpc {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// The file with the credentials.
    pub cookie: PathBuf,
}

/// One process of the stack.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RoleState {
    /// Such as `miner-template-provider`.
    pub name: String,
    /// Which program it is: `template-provider`.
    pub program: String,
    /// Where it serves its protocol; none for miners.
    pub addr: Option<String>,
    /// The authority key its clients pin; none where it speaks no SV2 to clients.
    pub authority_key: Option<String>,
    /// Where `/status` and the others are.
    pub http: String,
    /// The process.
    pub process: Process,
}

impl RoleState {
    /// Asks the role whether it does its job; if not, what it says is missing.
    pub fn ready(&self) -> Result<(), String> {
        let url = format!("http://{}/readyz", self.http);
        match minreq::get(url).with_timeout(PAGE_SECONDS).send() {
            Ok(answer) if answer.status_code == 200 => Ok(()),
            Ok(answer) => Err(answer.as_str().unwrap_or("not ready").trim().to_owned()),
            Err(_) if !self.process.is_alive() => Err("has ended; see its log".to_owned()),
            Err(error) => Err(format!("does not answer: {error}")),
        }
    }

    /// The role's `/status`.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        let answer = minreq::get(format!("http://{}/status", self.http))
            .with_timeout(PAGE_SECONDS)
            .send()?;
        serde_json::from_slice(answer.as_bytes()).context("reading /status")
    }
}

impl State {
    /// Reads the record; none where there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text)
                    .with_context(|| format!("reading {}", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes the record so that a reader sees the old one or the new one.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&temporary, path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The pool's node, from which the lab reads the chain.
    pub fn node(&self) -> &NodeState {
        &self.nodes[0]
    }

    /// A role by name.
    pub fn role(&self, name: &str) -> Option<&RoleState> {
        self.roles.iter().find(|role| role.name == name)
    }

    /// What `status --json` prints.
    pub fn to_status(&self) -> serde_json::Value {
        let roles: Vec<_> = (self.roles.iter())
            .map(|role| {
                serde_json::json!({
                    "name": role.name,
                    "program": role.program,
                    "addr": role.addr,
                    "authority_key": role.authority_key,
                    "http": role.http,
                    "pid": role.process.pid,
                    "ready": role.ready().is_ok(),
                })
            })
            .collect();
        let nodes: Vec<_> = (self.nodes.iter())
            .map(|node| {
                serde_json::json!({
                    "name": node.name,
                    "url": node.rpc.url,
                    "cookie": node.rpc.cookie,
                    "version": node.version,
                    "pid": node.process.pid,
                })
            })
            .collect();
        let rpc = &self.node().rpc;
        serde_json::json!({
            "network": self.network.name(),
            "rpc": { "url": rpc.url, "cookie": rpc.cookie },
            "nodes": nodes,
            "payout_address": self.payout_address,
            "tag": self.tag,
            "roles": roles,
        })
    }
}
