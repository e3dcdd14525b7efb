//! What is told of blocks and of workers' best shares, and what of it survives.

use std::time::Duration;

use adit_mining::Target;
use adit_sv2::codec::Seq064K;
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::tlv::{Tlv, WORKER_HASHRATE_TRACKING};
use serde_json::Value;

use super::sim::{NBITS, SOLO, Sim};
use crate::engine::{Effect, Link};
use crate::store::{FoundBlock, Past};

/// Bytes of a hash, of the hex that is shown.
fn hash(block: &Value) -> [u8; 32] {
    let mut hash: [u8; 32] =
        bitcoin::hex::FromHex::from_hex(block["hash"].as_str().unwrap()).unwrap();
    hash.reverse();
    hash
}

fn states(sim: &Sim) -> Vec<String> {
    let blocks = sim.status()["blocks"].as_array().unwrap().clone();
    blocks.iter().map(|block| block["state"].as_str().unwrap().to_owned()).collect()
}

fn worker(sim: &Sim, identity: &str) -> Value {
    let workers = sim.status()["workers"].as_array().unwrap().clone();
    workers.into_iter().find(|w| w["identity"] == identity).unwrap_or_default()
}

/// What was to be kept last.
fn remembered(sim: &Sim) -> Past {
    let kept = sim.effects.iter().rev().find_map(|effect| match effect {
        Effect::Remember(past) => Some(past),
        _ => None,
    });
    (**kept.expect("nothing is kept")).clone()
}

fn kept(sim: &Sim) -> Vec<FoundBlock> {
    let kept = sim.effects.iter().filter_map(|effect| match effect {
        Effect::Keep(block) => Some((**block).clone()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn blocks_are_listed_with_whose_they_are_and_what_became_of_them() {
    let solo = format!("coinbase.solo_output = \"raw({SOLO})\"");
    let mut sim = Sim::working(&solo, 1);
    let mut miner = sim.extended(8);
    miner.block(&mut sim);
    let block = sim.status()["blocks"][0].clone();
    assert_eq!(block["hash"], kept(&sim)[0].display_hash());
    assert_eq!(
        (block["height"].as_u64(), block["found_unix_ms"].as_u64()),
        (Some(101), Some(sim.now.unix_ms))
    );
    let said = ["state", "job", "for", "identity"].map(|key| block[key].as_str().unwrap());
    assert_eq!(said, ["submitted", "custom", "pool0:1", "worker"]);
    // In the chain; the next one is nobody's but ours.
    sim.template(2, true);
    sim.prev_hash(2, hash(&block));
    assert_eq!(states(&sim), ["accepted"]);
    sim.lose(Link::Pool(0));
    miner.block(&mut sim);
    let block = sim.status()["blocks"][0].clone();
    assert_eq!((block["for"].as_str(), block["state"].as_str()), (Some("solo"), Some("submitted")));
    for tip in 10..16 {
        sim.height = 92 + tip;
        sim.tip(u64::from(tip), tip);
    }
    assert_eq!(states(&sim), ["overtaken", "accepted"]);
    // Too many on one tip to look after; the one that is taken is noticed all the same.
    (0..18).for_each(|_| miner.block(&mut sim));
    assert_eq!(states(&sim)[..3], ["rival", "rival", "submitted"]);
    let rival = sim.status()["blocks"][1].clone();
    sim.template(20, true);
    sim.prev_hash(20, hash(&rival));
    assert_eq!(states(&sim)[..3], ["rival", "accepted", "submitted"]);
    // Bounded.
    (0..100).for_each(|_| miner.block(&mut sim));
    assert_eq!(states(&sim).len(), 100);
}

#[test]
fn a_block_that_may_have_been_the_tip_unseen_is_not_called_overtaken() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    miner.block(&mut sim);
    // What is told next is two blocks higher; the block that is found then is overtaken in sight of all.
    sim.height = 103;
    sim.tip(2, 2);
    miner.block(&mut sim);
    for tip in 3..9 {
        sim.height = 101 + tip;
        sim.tip(u64::from(tip), tip);
    }
    assert_eq!(states(&sim), ["overtaken", "unknown"]);
    assert_eq!(sim.status()["pending_blocks"], 0);
}

#[test]
fn what_was_known_is_known_after_a_restart() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    miner.block(&mut sim);
    sim.pass(Duration::from_secs(6));
    let first = sim.status()["blocks"][0].clone();
    sim.template(2, true);
    sim.prev_hash(2, hash(&first));
    miner.block(&mut sim);
    // It ends before what came last is kept.
    let past = remembered(&sim);
    let pending = vec![kept(&sim)[1].clone()];
    assert_eq!(past.blocks.len(), 1);
    let best = worker(&sim, "worker")["best_difficulty"].as_f64().unwrap();

    let mut next = Sim::with_pending("", 1, pending.clone());
    next.engine.recall(past, &pending);
    assert_eq!(states(&next), ["submitted", "unknown"]);
    assert_eq!(next.status()["blocks"][1]["identity"], "worker");
    next.connect(Link::TemplateProvider(0));
    next.connect(Link::Pool(0));
    next.connect(Link::Jds(0));
    next.tip(1, 1);
    next.template(2, true);
    next.prev_hash(2, hash(&next.status()["blocks"][0]));
    assert_eq!(states(&next), ["accepted", "unknown"]);
    // Of workers that mine, and with what they had reached.
    assert!(worker(&next, "worker").is_null());
    let mut miner = next.extended(8);
    let told = worker(&next, "worker");
    let reached = told["best_difficulty"].as_f64().unwrap();
    assert!(reached > 0.0 && reached <= best && told["accepted"] == 0, "{told}");
    miner.submit(&mut next, Target::from_nbits(NBITS).unwrap(), None);
    assert_eq!(worker(&next, "worker")["accepted"], 1);
    // What is new is kept now and then, and at the end.
    next.pass(Duration::from_secs(6));
    let count = |sim: &Sim| {
        sim.effects.iter().filter(|effect| matches!(effect, Effect::Remember(_))).count()
    };
    let before = count(&next);
    next.pass(Duration::from_secs(20));
    assert_eq!(count(&next), before, "nothing is new");
    assert_eq!(remembered(&next).blocks.len(), 3);
}

#[test]
fn workers_are_told_by_channels_and_by_the_names_in_shares() {
    let mut sim = Sim::working("", 1);
    let mut alone = sim.extended(8);
    alone.share(&mut sim);
    let peer = sim.miner_connection(0);
    let requested_extensions = Seq064K::new(&[WORKER_HASHRATE_TRACKING]).unwrap();
    sim.send(peer, &RequestExtensions { request_id: 1, requested_extensions });
    sim.open_as(peer, "farm.proxy", 8);
    let mut behind = sim.opened(peer);
    for (name, shares) in [("a", 1), ("b", 2)] {
        let mut field = Vec::new();
        Tlv::user_identity(name.as_bytes()).unwrap().write(&mut field);
        behind.tlv = Some(field);
        (0..shares).for_each(|_| behind.share(&mut sim));
    }
    behind.block(&mut sim);
    assert_eq!(sim.status()["blocks"][0]["identity"], "farm.b");
    let told = |identity: &str| {
        let worker = worker(&sim, identity);
        assert!(worker["best_difficulty"].as_f64().unwrap() > 0.0);
        (worker["accepted"].as_u64().unwrap(), worker["channels"].as_u64().unwrap())
    };
    assert_eq!([told("worker"), told("farm.a"), told("farm.b")], [(1, 1), (1, 1), (3, 1)]);
    assert!(worker(&sim, "worker")["hashrate"].as_f64().unwrap() > 0.0);
    assert!(worker(&sim, "farm.a")["hashrate"].is_null());
    assert_eq!(sim.status()["workers_count"], 3);
}
