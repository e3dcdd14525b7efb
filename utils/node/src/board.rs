//! How the nodes of a role are doing, and which of them it works with.

use std::time::{Duration, Instant};

use adit_mining::BlockHash;
use bitcoin::hashes::Hash;
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::{BlockchainInfo, Network, NetworkInfo, Node, NodeError, TipEvent, TipWatch};

/// What is known of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeState {
    /// Its RPC.
    pub url: String,
    /// Its name for itself.
    pub version: String,
    /// Height of its tip when it was last looked at.
    pub height: u32,
    /// Peers, in and out, at that time.
    pub peers: u32,
    /// The tip, and when it was heard of.
    pub tip: Option<(BlockHash, Instant)>,
    /// Why it does not answer.
    pub unreachable: Option<String>,
    /// Why its templates would be of no use.
    pub unfit: Option<String>,
    /// Why it gave no template when it was asked last, and when that was.
    pub refusal: Option<(String, Instant)>,
}

impl NodeState {
    fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            version: String::new(),
            height: 0,
            peers: 0,
            tip: None,
            unreachable: None,
            unfit: Some("not asked yet".to_owned()),
            refusal: None,
        }
    }

    /// What keeps it from giving templates.
    pub fn problem(&self) -> Option<&str> {
        let refusal = self.refusal.as_ref().map(|(reason, _)| reason.as_str());
        self.unreachable.as_deref().or(self.unfit.as_deref()).or(refusal)
    }

    /// For `/status`.
    pub fn status(&self) -> serde_json::Value {
        json!({
            "url": self.url,
            "version": self.version,
            "height": self.height,
            "peers": self.peers,
            "tip": self.tip.map(|(hash, _)| hash.to_string()),
            "problem": self.problem(),
        })
    }
}

/// The states of all nodes, in the order of preference. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Board(watch::Sender<Vec<NodeState>>);

impl Board {
    /// Nothing is known yet.
    pub fn new(nodes: &[Node]) -> Self {
        Self(watch::Sender::new(nodes.iter().map(|node| NodeState::new(node.url())).collect()))
    }

    /// Tells of changes.
    pub fn subscribe(&self) -> watch::Receiver<Vec<NodeState>> {
        self.0.subscribe()
    }

    /// Changes what is known of the node at `index`.
    pub fn update(&self, index: usize, change: impl FnOnce(&mut NodeState)) {
        self.0.send_if_modified(|states| {
            let Some(state) = states.get_mut(index) else { return false };
            let before = state.clone();
            change(state);
            *state != before
        });
    }
}

/// Keeps the board true about one node until it is dropped.
pub async fn monitor(index: usize, node: Node, network: Network, board: Board) {
    let look_now = Notify::new();
    tokio::join!(
        watch_tip(index, &node, &board, &look_now),
        watch_health(index, &node, network, &board, &look_now)
    );
}

async fn watch_tip(index: usize, node: &Node, board: &Board, look_now: &Notify) {
    let mut watch = TipWatch::spawn(node.clone());
    while let Some(event) = watch.recv().await {
        match event {
            TipEvent::New { hash } => {
                let tip = (BlockHash(hash.to_byte_array()), Instant::now());
                board.update(index, |state| state.tip = Some(tip));
                look_now.notify_one();
            }
            TipEvent::Up => {
                board.update(index, |state| (state.unreachable, state.refusal) = (None, None));
                look_now.notify_one();
            }
            TipEvent::Down(error) => {
                board.update(index, |state| state.unreachable = Some(error.to_string()))
            }
        }
    }
}

async fn watch_health(
    index: usize,
    node: &Node,
    network: Network,
    board: &Board,
    look_now: &Notify,
) {
    loop {
        let looked = async {
            let chain = node.getblockchaininfo().await?;
            Ok::<_, NodeError>((chain, node.getnetworkinfo().await?))
        };
        match looked.await {
            Ok((chain, peers)) => board.update(index, |state| {
                state.height = chain.blocks;
                state.peers = peers.connections;
                state.unfit = unfit(network, &chain, &peers);
                state.version = peers.subversion;
                // While others are asked, nobody would find out that it has changed its mind.
                state.refusal.take_if(|(_, at)| at.elapsed() >= REFUSAL_STANDS);
            }),
            // The tip watch notices first that a node does not answer, and that it does again.
            Err(error) => board.update(index, |state| state.unfit = Some(error.to_string())),
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
            // Not in the way of what is to be done first then.
            () = look_now.notified() => tokio::time::sleep(LOOK_DELAY).await,
        }
    }
}

fn unfit(network: Network, chain: &BlockchainInfo, peers: &NetworkInfo) -> Option<String> {
    if chain.chain != network.name() {
        return Some(format!("node is on chain {}, configured is {}", chain.chain, network.name()));
    }
    if network.is_private() {
        // Its tip may be years old and it may be alone.
        return None;
    }
    if chain.initial_block_download {
        return Some(format!("node syncing: block {} of {}", chain.blocks, chain.headers));
    }
    (peers.connections == 0).then(|| "node has no peers: its blocks would reach nobody".to_owned())
}

/// The node that is to give the templates: the first that is well and not blocks behind another that is. One that came
/// back but is behind the one in use is not switched to before it has caught up. Without any: the first that at least answers and may change its mind.
pub fn choose(states: &[NodeState], current: Option<usize>) -> Option<usize> {
    let is_well = |state: &&NodeState| state.problem().is_none() && state.tip.is_some();
    let highest = states.iter().filter(is_well).map(|state| state.height).max();
    // One block may be on its way; two are not.
    let keeps_up = |state: &NodeState| highest.is_some_and(|highest| state.height + 1 >= highest);
    let Some(first) = states.iter().position(|state| is_well(&state) && keeps_up(state)) else {
        return states
            .iter()
            .position(|s| s.unreachable.is_none() && s.unfit.is_none() && s.tip.is_some());
    };
    match current {
        Some(current)
            if states[current].problem().is_none()
                && states[first].height < states[current].height =>
        {
            Some(current)
        }
        _ => Some(first),
    }
}

/// Between two looks at a node's chain and peers.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// After this a node that gave no template is tried again.
const REFUSAL_STANDS: Duration = Duration::from_secs(60);
/// From a new tip or a node's return to a look at it.
const LOOK_DELAY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn state(height: u32) -> NodeState {
        NodeState {
            unfit: None,
            tip: Some((BlockHash([1; 32]), Instant::now())),
            height,
            ..NodeState::new("http://node:1")
        }
    }

    #[test]
    fn the_first_that_is_well_gives_templates() {
        let (mut a, mut b) = (state(10), state(10));
        assert_eq!(choose(&[NodeState::new("a")], None), None);
        assert_eq!(choose(&[a.clone(), b.clone()], None), Some(0));
        a.unreachable = Some("gone".to_owned());
        assert_eq!(choose(&[a.clone(), b.clone()], Some(0)), Some(1));
        // Back again, but it lost blocks.
        a.unreachable = None;
        a.height = 9;
        assert_eq!(choose(&[a.clone(), b.clone()], Some(1)), Some(1));
        a.height = 10;
        assert_eq!(choose(&[a.clone(), b.clone()], Some(1)), Some(0));
        // Behind, but the only one that is well.
        a.height = 9;
        b.unfit = Some("has no peers".to_owned());
        assert_eq!(choose(&[a.clone(), b.clone()], Some(1)), Some(0));
        a.refusal = Some(("no template".to_owned(), Instant::now()));
        assert_eq!(choose(&[a.clone(), b.clone()], Some(0)), Some(0));
        b.unfit = None;
        assert_eq!(choose(&[a, b], Some(0)), Some(1));
    }

    #[test]
    fn one_that_answers_but_has_stopped_is_left() {
        let (stopped, well) = (state(10), state(11));
        assert_eq!(choose(&[stopped.clone(), well], Some(0)), Some(0));
        assert_eq!(choose(&[stopped.clone(), state(12)], Some(0)), Some(1));
        // The other one is not well: it may be on a chain of its own.
        let unfit = NodeState { unfit: Some("has no peers".to_owned()), ..state(12) };
        assert_eq!(choose(&[stopped, unfit], Some(0)), Some(0));
    }

    #[test]
    fn fitness() {
        let chain = |chain: &str, ibd| BlockchainInfo {
            chain: chain.to_owned(),
            blocks: 5,
            headers: 9,
            best_block_hash: bitcoin::BlockHash::all_zeros(),
            initial_block_download: ibd,
        };
        let peers =
            |connections| NetworkInfo { version: 1, subversion: String::new(), connections };
        let reason = |network, info, peers| unfit(network, &info, &peers).unwrap_or_default();
        assert_eq!(reason(Network::Regtest, chain("regtest", true), peers(0)), "");
        assert_eq!(reason(Network::Mainnet, chain("main", false), peers(1)), "");
        assert_eq!(
            reason(Network::Mainnet, chain("main", true), peers(1)),
            "node syncing: block 5 of 9"
        );
        assert_eq!(
            reason(Network::Testnet4, chain("testnet4", false), peers(0)),
            "node has no peers: its blocks would reach nobody"
        );
        assert_eq!(
            reason(Network::Signet, chain("main", false), peers(1)),
            "node is on chain main, configured is signet"
        );
    }
}
