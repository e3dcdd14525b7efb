//! The whole chain of roles, from the node to the miners.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Blocks, FoundBlock, Role, Setup, eventually, payout_address, regtest};
use crate::bitcoind::Bitcoind;

/// For roles to find one another, on a machine busy with other tests.
const READY: Duration = Duration::from_secs(60);

/// A regtest node, a template provider, a pool, a translator where one is needed, and the miners that a test starts.
pub struct Stack {
    /// Miners in the order of their start.
    pub miners: Vec<Role>,
    /// In front of the pool, if there are `sv1` miners.
    pub translator: Option<Role>,
    /// At the template provider.
    pub pool: Role,
    /// At the node.
    pub provider: Role,
    /// The node.
    pub node: Bitcoind,
    blocks: Blocks,
}

impl Stack {
    /// Starts all and a miner of each of these modes, and waits until they are ready.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(modes: &[&str]) -> Result<Self> {
        let node = regtest()?;
        let provider = Setup::template_provider(&node).start()?;
        let pool = Setup::pool(&provider.endpoint()).start()?;
        let mut stack = Self::of(node, provider, pool)?;
        for mode in modes {
            stack.add_miner(mode)?;
        }
        stack.wait_ready()?;
        Ok(stack)
    }

    /// Of roles that were started otherwise, still without miners.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn of(node: Bitcoind, provider: Role, pool: Role) -> Result<Self> {
        let blocks = Blocks::above_tip(&node)?;
        Ok(Self { miners: Vec::new(), translator: None, pool, provider, node, blocks })
    }

    /// Starts a miner of this mode where such miners connect.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn add_miner(&mut self, mode: &str) -> Result<()> {
        let server = match (mode, &mut self.translator) {
            ("sv1", Some(translator)) => translator.endpoint(),
            ("sv1", missing) => {
                missing.insert(Setup::translator(&self.pool.endpoint()).start()?).endpoint()
            }
            _ => self.pool.endpoint(),
        };
        self.miners.push(Setup::device(mode, &server).start()?);
        Ok(())
    }

    /// Every role, in the order in which work comes.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        [&self.provider, &self.pool].into_iter().chain(&self.translator).chain(&self.miners)
    }

    /// Waits until every role is ready.
    ///
    /// # Errors
    /// One is not in time.
    pub fn wait_ready(&self) -> Result<()> {
        self.roles().try_for_each(|role| role.wait_ready(READY))
    }

    /// The blocks of the best chain that this miner found: they pay the pool's address, carry its tag, and their
    /// extranonce begins with a prefix that the miner was given.
    ///
    /// # Errors
    /// Node or miner do not answer.
    pub fn blocks_of(&mut self, miner: usize) -> Result<Vec<FoundBlock>> {
        let prefixes = self.miners[miner].extranonce_prefixes()?;
        self.blocks.update(&self.node)?;
        let address = payout_address(self.node.chain());
        let found = self.blocks.iter().filter(|b| b.is_by(&address, Setup::TAG, &prefixes));
        Ok(found.cloned().collect())
    }

    /// Waits until every miner has found so many more blocks than now.
    ///
    /// # Panics
    /// If one has not within `deadline`.
    #[track_caller]
    pub fn mine(&mut self, more: usize, deadline: Duration) {
        let begun: Vec<_> = (0..self.miners.len())
            .map(|miner| self.blocks_of(miner).map_or(0, |blocks| blocks.len()))
            .collect();
        eventually(deadline, &format!("{more} more blocks of every miner"), || {
            // While the node or a miner does not answer, nothing is known.
            (0..begun.len()).all(|miner| {
                self.blocks_of(miner).is_ok_and(|blocks| blocks.len() >= begun[miner] + more)
            })
        });
    }
}

impl Role {
    /// Of a mining device: every fixed start of a coinbase extranonce that it was given.
    ///
    /// # Errors
    /// It does not answer.
    pub fn extranonce_prefixes(&self) -> Result<Vec<Vec<u8>>> {
        let status = self.status()?;
        let connections = status["state"]["connections"].as_array().context("no connections")?;
        let prefixes = connections
            .iter()
            .flat_map(|c| c["extranonce_prefixes"].as_array().into_iter().flatten());
        let unhex = |text: &str| bitcoin::hex::FromHex::from_hex(text).ok();
        Ok(prefixes.filter_map(|prefix| unhex(prefix.as_str()?)).collect())
    }

    /// Of a mining device: shares that were acknowledged, and rejected.
    ///
    /// # Errors
    /// It does not answer.
    pub fn shares(&self) -> Result<(u64, u64)> {
        let state = &self.status()?["state"];
        let count = |key: &str| state[key].as_u64().with_context(|| format!("no {key} in {state}"));
        Ok((count("shares_accepted")?, count("shares_rejected")?))
    }

    /// Of a mining device: whether no share was rejected but for coming just after a new tip, which no miner can help.
    ///
    /// # Errors
    /// It does not answer.
    pub fn only_stale_rejects(&self) -> Result<bool> {
        let status = self.status()?;
        let connections = status["state"]["connections"].as_array().context("no connections")?;
        let reasons = connections.iter().flat_map(|c| {
            c["rejected_by_reason"].as_object().into_iter().flat_map(|map| map.keys())
        });
        // Stratum V2's word and Stratum V1's number.
        let stale = |reason: &String| reason == "stale-share" || reason.contains("(21)");
        Ok(reasons.into_iter().all(stale))
    }
}
