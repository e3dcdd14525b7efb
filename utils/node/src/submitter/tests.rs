use std::path::Path;

use super::*;
use crate::blocks::tests::solved;

/// A chain of hashes; a block is taken if it is upon the tip.
#[derive(Default)]
struct Fake {
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    down: bool,
    chain: Vec<BlockHash>,
    submitted: Vec<BlockHash>,
}

impl Fake {
    fn with<R>(&self, with: impl FnOnce(&mut FakeState) -> R) -> R {
        with(&mut self.state.lock().unwrap())
    }

    fn genesis() -> Arc<Self> {
        let fake = Self::default();
        fake.with(|state| state.chain.push(GENESIS));
        Arc::new(fake)
    }
}

struct NoMetrics;

impl BlockMetrics for NoMetrics {
    fn solution(&self, _: &'static str) {}
    fn store_error(&self) {}
}

const GENESIS: BlockHash = BlockHash([1; 32]);

impl Chain for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    async fn submit(&self, block: &[u8]) -> Result<SubmitResult, NodeError> {
        let block: bitcoin::Block = bitcoin::consensus::deserialize(block).unwrap();
        let hash = BlockHash(block.block_hash().to_byte_array());
        let prev = BlockHash(block.header.prev_blockhash.to_byte_array());
        self.with(|state| {
            if state.down {
                return Err(NodeError::Unreachable("down".to_owned()));
            }
            state.submitted.push(hash);
            Ok(if state.chain.contains(&hash) {
                SubmitResult::Duplicate
            } else if state.chain.last() == Some(&prev) {
                state.chain.push(hash);
                SubmitResult::Accepted
            } else if state.chain.contains(&prev) {
                SubmitResult::Inconclusive
            } else {
                SubmitResult::Rejected("prev-blk-not-found".to_owned())
            })
        })
    }

    async fn standing(&self, hash: BlockHash) -> Result<Standing, NodeError> {
        self.with(|state| {
            if state.down {
                return Err(NodeError::Unreachable("down".to_owned()));
            }
            let length = state.chain.len();
            Ok(match state.chain.iter().position(|other| *other == hash) {
                Some(at) => Standing::InChain((length - at) as u32),
                None => Standing::Absent { tip: length as u32 - 1 },
            })
        })
    }
}

fn submitter(dir: &Path, nodes: &[&Arc<Fake>]) -> Arc<Submitter<Fake>> {
    let (store, blocks) = BlockStore::open(dir).unwrap();
    let nodes = nodes.iter().map(|node| (*node).clone()).collect();
    Arc::new(Submitter::new(nodes, store, blocks, 3, NoMetrics))
}

fn states(submitter: &Submitter<Fake>) -> Vec<State> {
    submitter.lock().values().map(|tracked| tracked.block.record.state).collect()
}

#[tokio::test]
async fn a_block_goes_to_every_node_and_is_forgotten_once_it_is_deep() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Fake::genesis(), Fake::genesis());
    let submitter = submitter(dir.path(), &[&a, &b]);
    let block = solved(1, GENESIS, 1);
    submitter.clone().found(block.clone()).await;
    submitter.clone().found(block.clone()).await;
    for node in [&a, &b] {
        assert_eq!(node.with(|state| state.submitted.clone()), [block.hash]);
    }
    assert!(!submitter.clone().round().await);
    assert_eq!(states(&submitter), [State::InChain]);
    a.with(|state| state.chain.extend([BlockHash([8; 32]), BlockHash([9; 32])]));
    assert!(!submitter.clone().round().await);
    assert_eq!(states(&submitter), []);
    assert!(BlockStore::open(dir.path()).unwrap().1.is_empty());
}

#[tokio::test]
async fn a_block_outlives_us_and_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Fake::genesis();
    node.with(|state| state.down = true);
    let block = solved(1, GENESIS, 1);
    let first = submitter(dir.path(), &[&node]);
    first.clone().found(block.clone()).await;
    assert!(first.clone().round().await);
    drop(first);

    let second = submitter(dir.path(), &[&node]);
    assert_eq!(states(&second), [State::Pending]);
    node.with(|state| state.down = false);
    assert!(!second.clone().round().await);
    assert_eq!(node.with(|state| state.chain.clone()), [GENESIS, block.hash]);
}

#[tokio::test]
async fn what_a_killed_node_lost_comes_back_parents_first() {
    let dir = tempfile::tempdir().unwrap();
    let node = Fake::genesis();
    let submitter = submitter(dir.path(), &[&node]);
    let parent = solved(1, GENESIS, 1);
    let child = solved(2, parent.hash, 1);
    submitter.clone().found(parent.clone()).await;
    submitter.clone().found(child.clone()).await;
    assert!(!submitter.clone().round().await);
    assert_eq!(states(&submitter), [State::InChain; 2]);
    node.with(|state| state.down = true);
    assert!(!submitter.clone().round().await);
    assert_eq!(states(&submitter), [State::InChain; 2], "a node that says nothing changes nothing");
    node.with(|state| state.down = false);
    node.with(|state| state.chain.truncate(1));
    assert!(!submitter.clone().round().await);
    assert_eq!(node.with(|state| state.chain.clone()), [GENESIS, parent.hash, child.hash]);
}

#[tokio::test]
async fn of_siblings_the_one_that_was_in_the_chain_comes_back() {
    for found_in_chain in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let node = Fake::genesis();
        let submitter = submitter(dir.path(), &[&node]);
        let mut first = solved(1, GENESIS, 1);
        let mut second = solved(1, GENESIS, 2);
        if first.hash < second.hash {
            std::mem::swap(&mut first, &mut second);
        }
        // Either the order in which they were found tells, or that it was seen in the chain.
        second.record.found_unix_ms += if found_in_chain { 0 } else { 1 };
        submitter.clone().found(first.clone()).await;
        submitter.clone().found(second.clone()).await;
        if found_in_chain {
            assert!(submitter.clone().round().await);
        }
        node.with(|state| state.chain.truncate(1));
        assert!(submitter.clone().round().await);
        assert_eq!(node.with(|state| state.chain.clone()), [GENESIS, first.hash]);
    }
}

#[tokio::test]
async fn a_block_is_tried_until_it_is_overtaken() {
    let dir = tempfile::tempdir().unwrap();
    let node = Fake::genesis();
    let submitter = submitter(dir.path(), &[&node]);
    node.with(|state| state.chain.push(BlockHash([7; 32])));
    let block = solved(1, GENESIS, 1);
    submitter.clone().found(block.clone()).await;
    for extra in 0..5 {
        assert!(submitter.clone().round().await);
        node.with(|state| state.chain.push(BlockHash([20 + extra; 32])));
    }
    assert_eq!(node.with(|state| state.submitted.len()), 6);
    assert!(submitter.clone().round().await);
    node.with(|state| state.chain.push(BlockHash([66; 32])));
    assert!(!submitter.clone().round().await);
    assert_eq!(states(&submitter), []);
    assert_eq!(node.with(|state| state.submitted.len()), 7);
}

#[test]
fn one_node_with_the_block_is_enough() {
    let judge = |standings: &[Standing]| judge(standings.iter().copied(), 10, 3);
    use Standing::{Absent, InChain};
    assert_eq!(judge(&[]), None);
    assert_eq!(judge(&[Absent { tip: 15 }]), Some(Verdict::Is(State::Pending)));
    assert_eq!(judge(&[Absent { tip: 16 }]), Some(Verdict::Overtaken));
    // A node that has not come so far may still take it.
    assert_eq!(judge(&[Absent { tip: 16 }, Absent { tip: 9 }]), Some(Verdict::Is(State::Pending)));
    assert_eq!(judge(&[Absent { tip: 16 }, InChain(1)]), Some(Verdict::Is(State::InChain)));
    assert_eq!(judge(&[InChain(1), Absent { tip: 16 }]), Some(Verdict::Is(State::InChain)));
    assert_eq!(judge(&[Absent { tip: 16 }, InChain(3)]), Some(Verdict::Confirmed));
}
