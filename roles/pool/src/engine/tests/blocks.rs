//! Blocks: stored, then submitted until their fate is known.

use std::time::Duration;

use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{CloseChannel, UpdateChannel};
use adit_transport::Event;

use super::sim::{Found, START, Sim, Wanted};
use crate::engine::Link;
use crate::store::{BlockState, FoundBlock, Record};

const FIRST: Link = Link::TemplateProvider(0);

fn stored_blocks(sim: &Sim) -> Vec<FoundBlock> {
    let block = |record: &Record| match record {
        Record::Block(block) => Some((**block).clone()),
        Record::Share { .. } => None,
    };
    sim.records.iter().filter_map(block).collect()
}

#[test]
fn a_block_is_stored_then_submitted() {
    let (mut sim, tp) = Sim::working("");
    for mut rig in [sim.extended("alice.rig"), sim.standard("alice.rig")] {
        let found = rig.search(Wanted::Block);
        rig.submit(&mut sim, &found);
        assert!(sim.solutions(tp).is_empty(), "not on disk yet");
        let [block] = &stored_blocks(&sim)[..] else { panic!("one block") };
        assert_eq!((block.hash_bytes(), block.state), (found.hash.0, BlockState::Pending));
        assert_eq!((block.account.as_str(), block.worker.as_str()), ("alice", "rig"));
        assert_eq!(
            (block.height, block.template_id, block.prev_hash.as_slice()),
            (Some(300), 1, &[1; 32][..])
        );
        assert_eq!(
            (block.extranonce_prefix.as_slice(), block.channel_id),
            (&**rig.client.extranonce_prefix(), rig.client.id())
        );
        assert_eq!(block.found_unix_ms, u64::from(START) * 1_000);
        // The share is credited like any other.
        assert_eq!(sim.store(), 2);
        let [(1, coinbase)] = &sim.solutions(tp)[..] else { panic!("one solution") };
        let coinbase: bitcoin::Transaction = bitcoin::consensus::deserialize(coinbase).unwrap();
        let work = rig.client.active().unwrap();
        let txid =
            work.job.coinbase().and_then(|c| c.txid(work.extranonce_prefix, &found.extranonce));
        if let Some(txid) = txid {
            assert_eq!(*AsRef::<[u8; 32]>::as_ref(&coinbase.compute_txid()), txid);
        }
        assert_eq!(coinbase.input[0].witness.to_vec(), [[0; 32]]);
        let script_sig = coinbase.input[0].script_sig.as_bytes();
        assert!(script_sig.starts_with(&[2, 0x2c, 0x01, 4, b'a', b'd', b'i', b't']));
        let extranonce = [&**rig.client.extranonce_prefix(), &found.extranonce].concat();
        assert!(script_sig.ends_with(&extranonce));
        assert_eq!(coinbase.output[0].value.to_sat(), 5_000_000_000);
        assert_eq!(coinbase.output.len(), 2);
    }
}

#[test]
fn a_block_is_submitted_again_until_it_is_a_tip() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut rig = sim.extended("a");
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    sim.store();
    assert_eq!(sim.solutions(tp).len(), 1);
    sim.pass(Duration::from_secs(9));
    assert!(sim.solutions(tp).is_empty());
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.solutions(tp).len(), 1);
    // Once more to the provider's next connection, at once, but not before it takes messages.
    sim.event(tp, FIRST, Event::Closed("closed by the peer"));
    sim.pass(Duration::from_secs(20));
    let tp = sim.provider(0);
    sim.pass(Duration::from_millis(100));
    assert_eq!(sim.solutions(tp).len(), 1);
    assert!(stored_blocks(&sim).is_empty());
    // Other tips in between, and one it builds on.
    sim.tip(tp, 0, 2, 1);
    sim.tip(tp, 0, 3, 3);
    sim.template(tp, 0, 4, true, 4);
    sim.prev_hash_bytes(tp, 0, 4, found.hash.0);
    let [block] = &stored_blocks(&sim)[..] else { panic!("one change") };
    assert_eq!((block.hash_bytes(), block.state), (found.hash.0, BlockState::Accepted));
    sim.pass(Duration::from_secs(60));
    assert!(sim.solutions(tp).is_empty());
    assert_eq!(sim.engine.core.solutions.len(), 0);
}

#[test]
fn a_block_that_six_tips_went_past_is_overtaken() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut rig = sim.extended("a");
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    sim.store();
    for tip in 2..=6 {
        sim.tip_at(tp, 0, tip.into(), tip, 299 + u32::from(tip));
        sim.tip(tp, 0, tip.into(), tip); // told twice, counted once
    }
    assert_eq!(sim.engine.core.solutions.len(), 1);
    sim.tip_at(tp, 0, 7, 7, 306);
    let [block] = &stored_blocks(&sim)[..] else { panic!("one change") };
    assert_eq!(block.state, BlockState::Overtaken);
    assert_eq!(sim.engine.core.solutions.len(), 0);
}

#[test]
fn a_block_that_may_have_been_the_tip_unseen_is_not_called_overtaken() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut rig = sim.extended("a");
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    sim.store();
    // What is told next is two blocks higher.
    for tip in 2..=7 {
        sim.tip_at(tp, 0, tip.into(), tip, 300 + u32::from(tip));
    }
    let [block] = &stored_blocks(&sim)[..] else { panic!("one change") };
    assert_eq!((block.state, block.height), (BlockState::Unknown, Some(300)));
    assert_eq!(sim.engine.core.solutions.len(), 0);
}

#[test]
fn a_block_of_a_former_run_is_submitted_to_its_provider_alone() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("a");
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    let block = stored_blocks(&sim);
    let mut sim = Sim::with_providers("", 2, block);
    let other = sim.provider(1);
    sim.tip(other, 1, 1, 1);
    sim.pass(Duration::from_secs(30));
    assert!(sim.solutions(other).is_empty());
    let its = sim.provider(0);
    sim.pass(Duration::from_millis(100));
    assert_eq!(sim.solutions(its).len(), 1);
    // Any provider may tell that it is in the chain.
    sim.template(other, 1, 2, true, 2);
    sim.prev_hash_bytes(other, 1, 2, found.hash.0);
    assert_eq!(stored_blocks(&sim)[0].state, BlockState::Accepted);
}

#[test]
fn a_disk_that_hangs_does_not_cost_a_block() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    sim.pass(Duration::from_millis(1_500));
    assert!(sim.solutions(tp).is_empty());
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.solutions(tp).len(), 1);
}

#[test]
fn a_block_is_a_block_whatever_our_own_rules_say() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut rig = sim.extended("a");
    // Below the job's min_ntime, which is our wish and not the network's.
    let found = (0..).find_map(|nonce| {
        let found = Found { nonce, ntime: START - 1, ..rig.search(Wanted::TooEasy) };
        let work = rig.client.active().unwrap();
        let root = work.job.merkle_root(work.extranonce_prefix, &found.extranonce).unwrap();
        let header = adit_mining::Job::header(work.tip, root, found.version, found.ntime, nonce);
        let hash = header.hash();
        work.tip.network_target.is_met_by(&hash).then_some(Found { hash, ..found })
    });
    let found = found.unwrap();
    assert_eq!(found.share().nonce, found.nonce);
    rig.submit(&mut sim, &found);
    sim.heard_only(rig.peer, "invalid-share");
    sim.store();
    assert_eq!(sim.solutions(tp).len(), 1);
}

#[test]
fn the_template_of_the_provider_in_use_is_named() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    // The same content under a newer id: no new job, but a block is for the newer one.
    sim.template(tp, 0, 9, false, 1);
    assert!(rig.listen(&mut sim).is_empty());
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    sim.store();
    assert_eq!(sim.solutions(tp)[0].0, 9);
    // A retargeted job is another id of the same one.
    let update = UpdateChannel {
        channel_id: rig.client.id(),
        nominal_hash_rate: 100.0,
        maximum_target: [0xff; 32],
    };
    sim.send(rig.peer, Link::Miner, &update);
    rig.listen(&mut sim);
    let found = rig.search(Wanted::Block);
    rig.submit(&mut sim, &found);
    sim.store();
    assert_eq!(sim.solutions(tp)[0].0, 9);
    let close = CloseChannel { channel_id: rig.client.id(), reason_code: Str0255::default() };
    sim.send(rig.peer, Link::Miner, &close);
    assert_eq!(sim.engine.core.solutions.len(), 2, "they outlive their channel");
}
