//! The lab: the whole stack as plain processes on a private chain, kept in one folder.
//!
//! [`up`](Lab::up) writes keys and configurations, starts everything and records it in `lab.json`; the other commands
//! work from that record. Processes outlive the command that started them; each is known by its id and start time, so
//! that an id used again by the system is never taken for ours.

mod attribution;
mod config;
mod demo;
mod hand;
mod process;
mod state;
mod up;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
pub use attribution::{CoinbaseView, Path as MiningPath};
pub use config::Miners;
pub use demo::{DemoOptions, DemoReport};
pub use hand::{FEE, Hand, NewAddress, addresses_of};
pub use state::{NodeState, RoleState, State};

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
        for node in &state.nodes {
            process::stop(&node.process).with_context(|| format!("stopping {}", node.name))?;
        }
        std::fs::remove_file(self.dir.join(STATE_FILE)).context("removing the lab's record")
    }

    /// The tail of a role's log, or of all.
    ///
    /// # Errors
    /// Where there is no such role or no log.
    pub fn log_files(&self, role: Option<&str>) -> Result<Vec<(String, PathBuf)>> {
        let state = self.running()?;
        let nodes = state.nodes.iter().map(|node| &*node.name);
        let names = nodes.chain(state.roles.iter().map(|role| &*role.name));
        let wanted: Vec<_> = names.filter(|name| role.is_none_or(|role| role == *name)).collect();
        if wanted.is_empty() {
            let nodes = state.nodes.iter().map(|node| &*node.name);
            let known: Vec<_> = nodes.chain(state.roles.iter().map(|role| &*role.name)).collect();
            bail!("nothing is called {}; there are {}", role.unwrap_or(""), known.join(", "));
        }
        Ok(wanted.iter().map(|name| ((*name).to_owned(), self.log_file(name))).collect())
    }

    /// Somebody at a node of the lab, by its name or else the pool's.
    ///
    /// # Errors
    /// Where there is no such node or it does not answer.
    pub fn hand(&self, state: &State, node: Option<&str>) -> Result<Hand> {
        let node = match node {
            None => state.node(),
            Some(name) => state.nodes.iter().find(|node| node.name == name).with_context(|| {
                let known: Vec<_> = state.nodes.iter().map(|node| &*node.name).collect();
                format!("no node is called {name}; there are {}", known.join(", "))
            })?,
        };
        Hand::with_cookie(&node.rpc.url, &node.rpc.cookie)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }
}

const STATE_FILE: &str = "lab.json";
