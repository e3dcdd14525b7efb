//! Follows the best of the nodes: which one is in use, and its tip.

use std::time::Duration;

use adit_mining::BlockHash;
use adit_node::{Board, Network, Node, NodeError, NodeState, Rules, choose};
use adit_service::Readiness;
use adit_transport::Hub;
use bitcoin::hashes::Hash;
use tokio::sync::watch;

use crate::engine::{Jds, Tip};

/// What it works with.
pub struct Follow {
    /// The chain of all nodes.
    pub network: Network,
    /// In order of preference.
    pub nodes: Vec<Node>,
    /// How these are doing.
    pub board: Board,
    /// The engine.
    pub hub: Hub<Jds>,
    /// The condition `node`.
    pub readiness: Readiness,
    /// Told which node is in use, and its tip.
    pub current: watch::Sender<Option<(usize, BlockHash)>>,
}

impl Follow {
    /// Follows until dropped.
    pub async fn run(self) {
        let mut board = self.board.subscribe();
        loop {
            let states = board.borrow_and_update().clone();
            let before = *self.current.borrow();
            let node = choose(&states, before.map(|(index, _)| index));
            self.report(&states, node);
            let now = node.and_then(|index| Some((index, states[index].tip?.0)));
            let mut late = false;
            if let Some((index, hash)) = now
                && now != before
            {
                if before.is_none_or(|(before, _)| before != index) {
                    tracing::info!(
                        node = states[index].url,
                        "declared jobs are judged by this node"
                    );
                }
                match self.next_block(index, hash).await {
                    Ok(tip) => {
                        tracing::info!(height = tip.height, %hash, "new tip");
                        self.hub.with(|engine, now, out| engine.set_tip(tip, now, out));
                        self.current.send_replace(now);
                    }
                    Err(error) => {
                        tracing::warn!(node = states[index].url, %error, "the new tip cannot be looked at");
                        late = true;
                    }
                }
            }
            tokio::select! {
                changed = board.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if late => {}
            }
        }
    }

    fn report(&self, states: &[NodeState], node: Option<usize>) {
        let well = node.is_some_and(|index| states[index].problem().is_none());
        let problems = || {
            let problem = |state: &NodeState| {
                format!("{}: {}", state.url, state.problem().unwrap_or("no tip yet"))
            };
            states.iter().map(problem).collect::<Vec<_>>().join("; ")
        };
        self.readiness.set("node", if well { Ok(()) } else { Err(problems()) });
    }

    /// What a block upon `hash` has to look like.
    async fn next_block(&self, index: usize, hash: BlockHash) -> Result<Tip, NodeError> {
        let node = &self.nodes[index];
        let header = node.getblockheader(&bitcoin::BlockHash::from_byte_array(hash.0)).await?;
        let mut tip = Tip {
            hash,
            height: header.height,
            nbits: header.bits.to_consensus(),
            min_time: header.median_time + 1,
        };
        if !self.network.keeps_n_bits(tip.height + 1) {
            let template = node.getblocktemplate(Rules::for_chain(self.network.name())).await?;
            if template.previous_block_hash.to_byte_array() == hash.0 {
                tip.nbits = template.bits.to_consensus();
            }
        }
        Ok(tip)
    }
}

/// After a node did not tell about its tip.
const RETRY: Duration = Duration::from_millis(250);
