//! Has declared blocks judged by the node, one at a time.

use std::sync::Arc;

use adit_mining::BlockHash;
use adit_node::{Network, Node, NodeError, Rules};
use adit_transport::Hub;
use tokio::sync::{Notify, watch};

use crate::engine::{CheckAnswer, CheckRequest, Jds};

/// What it works with.
pub struct Checker {
    /// The chain of all nodes.
    pub network: Network,
    /// In order of preference.
    pub nodes: Vec<Node>,
    /// Which one is in use.
    pub current: watch::Receiver<Option<(usize, BlockHash)>>,
    /// The engine.
    pub hub: Hub<Jds>,
    /// Told when there may be something to check.
    pub wanted: Arc<Notify>,
}

impl Checker {
    /// Checks until dropped.
    pub async fn run(self) {
        loop {
            self.wanted.notified().await;
            while let Some(request) = self.hub.with(|engine, now, _| engine.take_check(now)) {
                let id = request.id;
                let answer = self.check(request).await;
                self.hub.with(|engine, now, out| engine.checked(id, answer, now, out));
            }
        }
    }

    async fn check(&self, request: CheckRequest) -> CheckAnswer {
        let Some((index, _)) = *self.current.borrow() else {
            return CheckAnswer { verdict: Err("no node".to_owned()), values: Vec::new() };
        };
        let node = &self.nodes[index];
        let rules = Rules::for_chain(self.network.name());
        let CheckRequest { job, ntime, lookups, .. } = request;
        let propose = async {
            let proposal = job.declared.proposal(ntime);
            node.propose_block(&proposal.raw, rules).await
        };
        let look_up = async {
            let mut values = Vec::with_capacity(lookups.len());
            for outputs in lookups.chunks(BATCH) {
                values.extend(node.gettxouts(outputs).await?);
            }
            Ok::<_, NodeError>(values)
        };
        let (verdict, values) = tokio::join!(propose, look_up);
        if let Err(error) = &values {
            tracing::warn!(%error, "inputs of a declared job could not be looked up");
        }
        CheckAnswer {
            verdict: verdict.map_err(|error| error.to_string()),
            values: values.unwrap_or_default(),
        }
    }
}

/// Outputs asked for at a time.
const BATCH: usize = 500;
