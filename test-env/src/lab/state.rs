//! The lab's record of what runs where.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::bitcoind::Chain;

/// Everything about a lab that is up.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct State {
    /// Which private chain.
    pub network: Chain,
    /// The node's RPC.
    pub rpc: Rpc,
    /// The node's own version text.
    pub node_version: String,
    /// The node.
    pub node: Process,
    /// What every block of the pool pays.
    pub payout_address: String,
    /// What every coinbase of the pool says.
    pub tag: String,
    /// The chain's height before anything was mined by the lab's miners.
    pub start_height: u64,
    /// The roles in the order of their start.
    pub roles: Vec<RoleState>,
}

/// How to reach the node.
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
    /// Such as `pool`.
    pub name: String,
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
        match minreq::get(url).with_timeout(2).send() {
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
        let answer = minreq::get(format!("http://{}/status", self.http)).with_timeout(2).send()?;
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
                    "addr": role.addr,
                    "authority_key": role.authority_key,
                    "http": role.http,
                    "pid": role.process.pid,
                    "ready": role.ready().is_ok(),
                })
            })
            .collect();
        serde_json::json!({
            "network": self.network.name(),
            "rpc": { "url": self.rpc.url, "cookie": self.rpc.cookie },
            "payout_address": self.payout_address,
            "tag": self.tag,
            "roles": roles,
        })
    }
}
