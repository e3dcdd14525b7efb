//! The lab: the whole stack as plain processes on a private chain, kept in one folder.
//!
//! [`up`](Lab::up) writes keys and configurations, starts everything and records it in `lab.json`; the other commands
//! work from that record. Processes outlive the command that started them; each is known by its id and start time, so
//! that an id used again by the system is never taken for ours.

mod attribution;
mod config;
mod demo;
mod process;
mod send;
mod state;
mod up;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitcoincore_rpc::{Auth, Client, RpcApi};

use crate::bitcoind::op_true_script;

pub use attribution::{CoinbaseView, Path as MiningPath};
pub use config::Miners;
pub use demo::{DemoOptions, DemoReport};
pub use state::{RoleState, State};

/// A lab in a folder.
#[derive(Clone, Debug)]
pub struct Lab {
    dir: PathBuf,
    programs: PathBuf,
}

impl Lab {
    /// The lab that lives in `dir`, run by the programs in the folder `programs`.
    pub fn new(dir: &Path, programs: &Path) -> Self {
        Self { dir: dir.to_owned(), programs: programs.to_owned() }
    }

    /// The record of what runs, if the lab was brought up.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn state(&self) -> Result<Option<State>> {
        State::read(&self.dir.join(STATE_FILE))
    }

    /// The record of what runs.
    ///
    /// # Errors
    /// Where the lab is not up.
    pub fn running(&self) -> Result<State> {
        match self.state()? {
            Some(state) => Ok(state),
            None => bail!("the lab is not up; start it with: scripts/lab up"),
        }
    }

    /// Stops everything, roles before the node, and forgets the record. Data stays for a look; `up` begins anew.
    ///
    /// # Errors
    /// Where a process cannot be stopped.
    pub fn down(&self) -> Result<()> {
        let Some(mut state) = self.state()? else { return Ok(()) };
        // Miners first, so that nothing that is still wanted is in flight.
        state.roles.reverse();
        for role in &state.roles {
            process::stop(&role.process).with_context(|| format!("stopping {}", role.name))?;
        }
        process::stop(&state.node).context("stopping bitcoind")?;
        std::fs::remove_file(self.dir.join(STATE_FILE)).context("removing the lab's record")
    }

    /// The tail of a role's log, or of all.
    ///
    /// # Errors
    /// Where there is no such role or no log.
    pub fn log_files(&self, role: Option<&str>) -> Result<Vec<(String, PathBuf)>> {
        let state = self.running()?;
        let names = std::iter::once("bitcoind").chain(state.roles.iter().map(|role| &*role.name));
        let wanted: Vec<_> = names.filter(|name| role.is_none_or(|role| role == *name)).collect();
        if wanted.is_empty() {
            let known: Vec<_> = state.roles.iter().map(|role| &*role.name).collect();
            bail!(
                "no role is called {}; there are bitcoind, {}",
                role.unwrap_or(""),
                known.join(", ")
            );
        }
        Ok(wanted.iter().map(|name| ((*name).to_owned(), self.log_file(name))).collect())
    }

    /// A client of the lab's node.
    ///
    /// # Errors
    /// Where the cookie cannot be read.
    pub fn rpc(&self, state: &State) -> Result<Client> {
        let auth = Auth::CookieFile(state.rpc.cookie.clone());
        Client::new(&state.rpc.url, auth).context("connecting to the lab's node")
    }

    /// Has the node make blocks whose coins anybody can spend.
    ///
    /// # Errors
    /// Where the node refuses.
    pub fn generate(&self, blocks: u64) -> Result<Vec<String>> {
        let state = self.running()?;
        generate(&self.rpc(&state)?, blocks)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }
}

/// Makes blocks one by one: on signet each takes seconds of the node's own, single-threaded search.
fn generate(rpc: &Client, blocks: u64) -> Result<Vec<String>> {
    let descriptor = format!("raw({:x})", op_true_script());
    let mut hashes = Vec::new();
    while (hashes.len() as u64) < blocks {
        let made: Vec<String> = rpc
            .call("generatetodescriptor", &[1.into(), descriptor.clone().into(), i32::MAX.into()])
            .context("generatetodescriptor")?;
        hashes.extend(made);
    }
    Ok(hashes)
}

const STATE_FILE: &str = "lab.json";
