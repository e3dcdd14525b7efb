//! What is done where servers fail: miners always have work, and lose no connection.

use std::time::{Duration, Instant};

use adit_mining::Target;
use adit_sv2::codec::{B0255, Str0255};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::common::Reconnect;
use adit_sv2::messages::job_declaration::*;
use adit_sv2::messages::mining::*;
use adit_sv2::messages::template_distribution as td;
use adit_transport::PeerId;

use super::sim::{Miner, NBITS, SOLO, Sim};
use crate::engine::Link;

fn with_solo() -> String {
    format!("coinbase.solo_output = \"raw({SOLO})\"")
}

/// The miner has work on which a share is accepted, its connection stands.
fn mines(sim: &mut Sim, miner: &mut Miner) {
    let from = sim.said.len();
    miner.share(sim);
    sim.pass(Duration::from_secs(2));
    let heard = sim.heard_by(miner.peer, from);
    assert!(heard.iter().any(|m| m.contains("SubmitShares.Success")), "{heard:?}");
    assert!(sim.closed.iter().all(|(peer, _)| *peer != miner.peer));
}

/// Time until the pool of this upstream got a custom job, said after this place.
fn time_to_job(sim: &Sim, index: usize, begun: Instant, from: usize) -> Duration {
    let job = sim.said[from..].iter().find(|said| {
        said.header.msg_type == SetCustomMiningJob::TYPE && said.to == sim.peer(Link::Pool(index))
    });
    job.expect("no job").at.duration_since(begun)
}

#[test]
fn a_lost_pool_is_followed_by_the_next_at_once_and_come_back_to_when_it_is_well() {
    let mut sim = Sim::working("fallback.well_after_ms = 5000", 2);
    let mut miner = sim.extended(8);
    assert_eq!((sim.source(), sim.upstream()), ("declared", Some(0)));
    mines(&mut sim, &mut miner);
    let from = sim.said.len();
    sim.lose(Link::Pool(0));
    // In the same instant: another job, on the same connection and for the same extranonces.
    assert_eq!(sim.upstream(), Some(1));
    assert!(miner.read(&sim));
    assert_eq!(time_to_job(&sim, 1, sim.now.instant, from), Duration::ZERO);
    miner.share(&mut sim);
    assert_eq!(sim.shares(1, from).len(), 1);
    assert!(sim.heard(Link::Pool(1), from)[0].starts_with("UpdateChannel"));
    mines(&mut sim, &mut miner);
    // The first comes back, is watched for a while, and taken again.
    sim.connect(Link::Pool(0));
    sim.pass(Duration::from_secs(4));
    assert_eq!(sim.upstream(), Some(1));
    let from = sim.said.len();
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.upstream(), Some(0));
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
    // The second is told that nobody is there any more.
    let told = sim.heard(Link::Pool(1), from);
    assert!(
        told[0].starts_with("UpdateChannel") && told[0].contains("nominal_hash_rate: 0"),
        "{told:?}"
    );
    mines(&mut sim, &mut miner);
}

#[test]
fn shares_before_a_switch_are_answered() {
    let mut sim = Sim::working("", 2);
    let mut miner = sim.extended(8);
    for _ in 0..3 {
        miner.share(&mut sim);
    }
    sim.lose(Link::Pool(0));
    // Found before the miner reads its new job.
    let (from, read) = (sim.said.len(), sim.heard_by(miner.peer, 0).len());
    assert!(read > 0);
    sim.pass(Duration::from_secs(2));
    let heard = sim.heard_by(miner.peer, from);
    assert!(
        heard.iter().any(|m| m.contains("SubmitShares.Success") && m.contains("count: 3")),
        "{heard:?}"
    );
}

#[test]
fn every_kind_of_failure_is_followed_by_the_next() {
    type Break = fn(&mut Sim);
    let breaks: [(&str, Break); 7] = [
        ("declaration refused", |sim| {
            sim.manners[0].refuses_declarations = Some("invalid-job");
            sim.tip(2, 2);
        }),
        ("job refused", |sim| {
            sim.manners[0].refuses_jobs = Some("invalid-coinbase-tx-outputs");
            sim.tip(2, 2);
        }),
        ("declaration not answered", |sim| {
            sim.manners[0].answers_declarations = false;
            sim.tip(2, 2);
            sim.pass(Duration::from_millis(1_100));
        }),
        ("job not answered", |sim| {
            sim.manners[0].answers_jobs = false;
            sim.tip(2, 2);
            sim.pass(Duration::from_millis(1_100));
        }),
        ("no tokens", |sim| {
            sim.manners[0].gives_tokens = false;
            (2..5).for_each(|tip| sim.tip(u64::from(tip), tip));
            sim.pass(Duration::from_millis(1_200));
        }),
        ("JDS lost at a tip", |sim| {
            sim.lose(Link::Jds(0));
            assert_eq!(sim.upstream(), Some(0), "not missed before");
            sim.tip(2, 2);
        }),
        ("channel closed", |sim| {
            let reason_code = Str0255::cut("no reason");
            let pool = sim.peer(Link::Pool(0));
            sim.send(pool, &CloseChannel { channel_id: 7, reason_code });
        }),
    ];
    for (name, broken) in breaks {
        let mut sim = Sim::working("declaration.timeout_ms = 1000", 2);
        let mut miner = sim.extended(8);
        mines(&mut sim, &mut miner);
        let (from, begun) = (sim.said.len(), sim.now.instant);
        broken(&mut sim);
        assert_eq!((sim.source(), sim.upstream()), ("declared", Some(1)), "{name}");
        assert!(miner.read(&sim), "{name}");
        // From what was wrong, or the end of the patience with it, to a job that the other pool was given.
        let patience = if name.contains("not answered") || name == "no tokens" { 1_000 } else { 0 };
        let without =
            time_to_job(&sim, 1, begun, from).saturating_sub(Duration::from_millis(patience));
        assert!(without < Duration::from_secs(1), "{name}: {without:?}");
        mines(&mut sim, &mut miner);
        assert!(!sim.shares(1, from).is_empty(), "{name}");
    }
}

#[test]
fn refused_shares_are_a_failure_unless_they_are_stale() {
    let mut sim = Sim::working("", 2);
    let mut miner = sim.extended(8);
    sim.manners[0].refuses_shares = Some("stale-share");
    (0..5).for_each(|_| miner.share(&mut sim));
    assert_eq!(sim.upstream(), Some(0));
    sim.manners[0].refuses_shares = Some("difficulty-too-low");
    (0..2).for_each(|_| miner.share(&mut sim));
    assert_eq!(sim.upstream(), Some(0));
    miner.share(&mut sim);
    sim.pass(Duration::from_millis(100));
    assert_eq!(sim.upstream(), Some(1));
    mines(&mut sim, &mut miner);
}

#[test]
fn staleness_and_old_tokens_are_tried_again() {
    let mut sim = Sim::working("", 2);
    sim.extended(8);
    sim.manners[0].refuses_jobs = Some("stale-chain-tip");
    let from = sim.said.len();
    sim.tip(2, 2);
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.upstream(), Some(0));
    assert!(sim.payloads(Link::Pool(0), SetCustomMiningJob::TYPE, from).len() > 2);
    sim.manners[0].refuses_jobs = None;
    sim.pass(Duration::from_millis(400));
    assert!(sim.engine.core.desk.current().unwrap().accepted.is_some());
    // A JDS that does not know its tokens any more gives others.
    sim.manners[0].refuses_declarations = Some("invalid-mining-job-token");
    sim.tip(3, 3);
    sim.manners[0].refuses_declarations = None;
    sim.pass(Duration::from_millis(100));
    assert_eq!(sim.upstream(), Some(1), "twice is enough");
}

#[test]
fn after_the_last_upstream_comes_solo_and_back() {
    let mut sim = Sim::working(&format!("{}\nfallback.well_after_ms = 3000", with_solo()), 2);
    let mut miner = sim.extended(8);
    sim.lose(Link::Pool(0));
    sim.lose(Link::Pool(1));
    assert_eq!(sim.source(), "solo");
    mines(&mut sim, &mut miner);
    let from = sim.said.len();
    miner.block(&mut sim);
    let tp = Link::TemplateProvider(0);
    assert_eq!(sim.names(tp, from), ["SubmitSolution"]);
    let coinbase = sim.said[from..].iter().find(|said| said.to == sim.peer(tp)).unwrap();
    let script: Vec<u8> =
        (0..22).map(|at| u8::from_str_radix(&SOLO[at * 2..at * 2 + 2], 16).unwrap()).collect();
    assert!(coinbase.payload.windows(22).any(|part| part == script));
    assert!(sim.names(Link::Jds(0), from).is_empty());
    sim.connect(Link::Pool(1));
    sim.pass(Duration::from_secs(4));
    assert_eq!((sim.source(), sim.upstream()), ("declared", Some(1)));
    sim.connect(Link::Pool(0));
    sim.pass(Duration::from_secs(4));
    assert_eq!(sim.upstream(), Some(0));
    mines(&mut sim, &mut miner);
}

#[test]
fn with_nobody_left_miners_go_on_and_what_they_found_is_paid_when_the_pool_is_back() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.lose(Link::Pool(0));
    assert_eq!(sim.source(), "kept");
    mines(&mut sim, &mut miner);
    sim.tip(2, 2);
    assert!(miner.read(&sim));
    mines(&mut sim, &mut miner);
    miner.block(&mut sim);
    // The pool grants the same extranonces again, so the jobs are good for it.
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    assert_eq!(sim.source(), "declared");
    assert_eq!(sim.shares(0, from).len(), 2, "found on the tip that is in force");
    mines(&mut sim, &mut miner);
}

#[test]
fn a_pool_that_is_back_with_other_extranonces_gets_another_job() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.lose(Link::Pool(0));
    miner.share(&mut sim);
    sim.manners[0].prefix = [1, 2, 3, 4];
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    assert!(miner.read(&sim));
    assert!(sim.shares(0, from).is_empty());
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
}

#[test]
fn a_jds_that_is_back_in_time_is_not_missed() {
    let mut sim = Sim::working("", 2);
    let mut miner = sim.extended(8);
    sim.lose(Link::Jds(0));
    let from = sim.said.len();
    // A newer template is not worth giving up what is accepted.
    sim.template(2, false);
    assert!(!miner.read(&sim));
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
    sim.connect(Link::Jds(0));
    assert!(miner.read(&sim));
    assert_eq!(sim.payloads(Link::Jds(0), DeclareMiningJob::TYPE, from).len(), 1);
    assert_eq!(sim.upstream(), Some(0));
}

#[test]
fn the_pools_own_jobs_where_that_is_wanted() {
    let mut sim =
        Sim::working("on_declaration_failure = \"pool\"\nfallback.well_after_ms = 3000", 2);
    let mut miner = sim.extended(8);
    own_job(&mut sim, 499);
    sim.manners[0].refuses_declarations = Some("invalid-job");
    let from = sim.said.len();
    sim.tip(2, 2);
    // What it gave before it took ours is old. New ones come right behind the refusal.
    assert_eq!((sim.source(), sim.upstream()), ("pool-jobs", Some(0)));
    own_job(&mut sim, 500);
    assert_eq!((sim.source(), sim.upstream()), ("pool-jobs", Some(0)));
    assert!(miner.read(&sim));
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).iter().map(|(job, _)| *job).collect::<Vec<_>>(), [500]);
    own_job(&mut sim, 501);
    assert!(miner.read(&sim));
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from)[1].0, 501);
    miner.block(&mut sim);
    let block = sim.status()["blocks"][0].clone();
    let said = ["state", "job", "for", "identity"].map(|key| block[key].as_str().unwrap());
    assert_eq!(said, ["pool", "template", "pool0:1", "worker"]);
    mines(&mut sim, &mut miner);
    sim.manners[0].refuses_declarations = None;
    sim.pass(Duration::from_secs(6));
    assert_eq!((sim.source(), sim.upstream()), ("declared", Some(0)));
    mines(&mut sim, &mut miner);
}

#[test]
fn a_pool_that_gives_its_own_jobs_only_to_others_is_asked_as_one() {
    let more = "on_declaration_failure = \"pool\"\nfallback.well_after_ms = 3000";
    let mut sim = Sim::working(more, 2);
    let mut miner = sim.extended(8);
    sim.manners[0].refuses_declarations = Some("invalid-job");
    sim.tip(2, 2);
    assert_eq!((sim.source(), sim.upstream()), ("kept", Some(0)));
    mines_at_once(&mut sim, &mut miner);
    sim.pass(Duration::from_millis(300));
    assert!(sim.closed.iter().any(|(_, reason)| *reason == "own-jobs-of-the-pool"));
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    assert!(sim.heard(Link::Pool(0), from)[0].contains("flags: 0"));
    own_job(&mut sim, 500);
    assert_eq!(sim.source(), "pool-jobs");
    mines(&mut sim, &mut miner);
    // Then ours are tried again, on a connection that says so.
    sim.manners[0].refuses_declarations = None;
    sim.pass(Duration::from_secs(2));
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    assert!(sim.heard(Link::Pool(0), from)[0].contains("flags: 2"));
    sim.pass(Duration::from_secs(4));
    assert_eq!((sim.source(), sim.upstream()), ("declared", Some(0)));
    mines(&mut sim, &mut miner);
    // One that gives none at all is left after a while.
    sim.manners[0].refuses_declarations = Some("invalid-job");
    sim.tip(3, 3);
    sim.pass(Duration::from_secs(4));
    assert_eq!((sim.source(), sim.upstream()), ("declared", Some(1)));
}

fn mines_at_once(sim: &mut Sim, miner: &mut Miner) {
    assert!(miner.read(sim));
    miner.share(sim);
}

/// The pool gives a job of its own on tip 7.
fn own_job(sim: &mut Sim, job_id: u32) {
    let pool = sim.peer(Link::Pool(0));
    let mut prefix = vec![2, 0, 0, 0, 1];
    prefix.extend([0; 32]);
    prefix.extend([0xff; 4]);
    prefix.extend([23, 1, 0x65, 20]);
    let mut suffix = vec![0xff; 4];
    suffix.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x51, 0, 0, 0, 0]);
    let job = NewExtendedMiningJob {
        channel_id: 1,
        job_id,
        min_ntime: None,
        version: 0x2000_0000,
        version_rolling_allowed: true,
        merkle_path: adit_sv2::codec::Seq0255::default(),
        coinbase_tx_prefix: adit_sv2::codec::B064K::new(&prefix).unwrap(),
        coinbase_tx_suffix: adit_sv2::codec::B064K::new(&suffix).unwrap(),
    };
    sim.send(pool, &job);
    let tip = SetNewPrevHash {
        channel_id: 1,
        job_id,
        prev_hash: [7; 32],
        min_ntime: sim.now.unix_secs(),
        nbits: super::sim::NBITS,
    };
    sim.send(pool, &tip);
}

/// Its connection stands and its node does not move: what miners do is void, and nobody says so.
#[test]
fn a_template_provider_that_stays_a_block_behind_is_left() {
    let more = "[[template_provider]]\naddress = \"tp:9\"";
    let mut sim = Sim::new(more, 1);
    for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(1)] {
        sim.connect(link);
    }
    let second = sim.peer(Link::TemplateProvider(1));
    let first = sim.connect(Link::TemplateProvider(0));
    let tip = |sim: &mut Sim, peer, id: u64, height: u8| {
        let prefix = [1, height];
        let template = td::NewTemplate {
            template_id: id,
            future_template: true,
            version: 0x2000_0000,
            coinbase_tx_version: 2,
            coinbase_prefix: B0255::new(&prefix).unwrap(),
            coinbase_tx_input_sequence: u32::MAX,
            coinbase_tx_value_remaining: 5_000_000_000,
            coinbase_tx_outputs_count: 0,
            coinbase_tx_outputs: Default::default(),
            coinbase_tx_locktime: 0,
            merkle_path: Default::default(),
        };
        sim.send(peer, &template);
        let prev_hash = td::SetNewPrevHash {
            template_id: id,
            prev_hash: [height; 32],
            header_timestamp: sim.now.unix_secs(),
            n_bits: NBITS,
            target: Target::from_nbits(NBITS).unwrap().to_le_bytes(),
        };
        sim.send(peer, &prev_hash);
    };
    let in_use = |sim: &Sim| {
        sim.engine.core.templates.work().map(|(index, work)| (index, work.tip().prev_hash[0]))
    };
    tip(&mut sim, first, 1, 100);
    tip(&mut sim, second, 1, 100);
    sim.pass(Duration::from_secs(60));
    assert_eq!(in_use(&sim), Some((0, 100)));
    tip(&mut sim, second, 2, 101);
    sim.pass(Duration::from_secs(14));
    assert_eq!(in_use(&sim), Some((0, 100)), "blocks take their time from node to node");
    sim.pass(Duration::from_secs(2));
    assert_eq!(in_use(&sim), Some((1, 101)));
    sim.pass(Duration::from_secs(60));
    assert_eq!(in_use(&sim), Some((1, 101)), "nor is it gone back to for being further up");
    tip(&mut sim, first, 2, 101);
    sim.pass(Duration::from_secs(9));
    assert_eq!(in_use(&sim), Some((1, 101)));
    sim.pass(Duration::from_secs(2));
    assert_eq!(in_use(&sim), Some((0, 101)), "before it has kept up for a while");
}

#[test]
fn solo_at_once_where_that_is_wanted() {
    let more = format!("on_declaration_failure = \"solo\"\n{}", with_solo());
    let mut sim = Sim::working(&more, 2);
    let mut miner = sim.extended(8);
    sim.lose(Link::Pool(0));
    assert_eq!(sim.source(), "solo");
    mines(&mut sim, &mut miner);
}

#[test]
fn solo_mode_knows_no_pool() {
    let mut sim = Sim::new(&format!("mode = \"solo\"\n{}", with_solo()), 0);
    let tp = Link::TemplateProvider(0);
    sim.connect(tp);
    sim.tip(1, 1);
    assert!(sim.heard(tp, 0)[1].starts_with("CoinbaseOutputConstraints"));
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    mines(&mut sim, &mut miner);
    miner.block(&mut sim);
    assert_eq!(sim.names(tp, from), ["SubmitSolution"]);
}

#[test]
fn the_first_upstream_is_waited_for_at_the_start_but_not_for_long() {
    let mut sim = Sim::new("", 2);
    sim.connect(Link::TemplateProvider(0));
    sim.connect(Link::Pool(1));
    sim.connect(Link::Jds(1));
    assert_eq!(sim.source(), "none");
    sim.pass(Duration::from_millis(1_100));
    assert_eq!(sim.upstream(), Some(1));
    let mut sim = Sim::new("", 2);
    sim.engine.unreachable(Link::Pool(0), "refused");
    sim.connect(Link::Pool(1));
    sim.connect(Link::Jds(1));
    assert_eq!(sim.upstream(), Some(1), "it is clear that the first is not there");
}

#[test]
fn a_failing_upstream_is_asked_less_and_less_often() {
    let mut sim = Sim::working("fallback.well_after_ms = 1", 2);
    sim.extended(8);
    sim.manners[0].refuses_declarations = Some("invalid-job");
    let from = sim.said.len();
    sim.tip(2, 2);
    sim.pass(Duration::from_secs(60));
    let asked = sim.payloads(Link::Jds(0), DeclareMiningJob::TYPE, from).len();
    // After 1, 2, 4, 8, 16 and 32 seconds.
    assert!((5..=7).contains(&asked), "{asked}");
}

#[test]
fn a_pool_may_send_us_elsewhere_where_its_key_is_known() {
    let elsewhere = Reconnect { new_host: Str0255::cut("other"), new_port: 9 };
    let key = AuthoritySecretKey::from_entropy([7; 32]).unwrap().public();
    for (key, expected) in [(None, "pool0:1"), (Some(key), "other:9")] {
        let mut sim = Sim::working("", 1);
        let pool = sim.peer(Link::Pool(0));
        sim.engine.core.upstreams[0].pool.url.authority = key;
        sim.send(pool, &elsewhere);
        assert_eq!(sim.closed, [(pool, "asked-to-reconnect")]);
        assert_eq!(sim.engine.pool_target(0).unwrap().to_string(), expected);
        assert_eq!(sim.engine.pool_target(0).unwrap().to_string(), "pool0:1", "once");
    }
}

#[test]
fn a_switch_to_less_room_ends_only_what_does_not_fit() {
    let mut sim = Sim::new("", 2);
    sim.manners[1].room = 8;
    for link in
        [Link::Pool(0), Link::Jds(0), Link::Pool(1), Link::Jds(1), Link::TemplateProvider(0)]
    {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let (large, mut small) = (sim.extended(12), sim.extended(4));
    let from = sim.said.len();
    sim.lose(Link::Pool(0));
    let heard = sim.heard_by(large.peer, from);
    assert!(heard.iter().any(|m| m.starts_with("CloseChannel")), "{heard:?}");
    assert!(small.read(&sim));
    mines(&mut sim, &mut small);
    assert!(sim.closed.iter().all(|(peer, _)| *peer != large.peer));
}

#[test]
fn shares_without_an_answer_are_a_failure() {
    let mut sim = Sim::working("fallback.share_timeout_secs = 5", 2);
    let mut miner = sim.extended(8);
    let pool = sim.peer(Link::Pool(0));
    // A pool that answers nothing: its answers are lost on the way.
    sim.manners[0].refuses_shares = Some("");
    miner.share(&mut sim);
    assert_eq!(sim.upstream(), Some(0));
    let channel = sim.engine.core.upstreams[0].pool.channel.as_mut().unwrap();
    channel.unanswered = 1;
    channel.wait_since(sim.now.instant);
    sim.pass(Duration::from_secs(6));
    assert_eq!(sim.upstream(), Some(1));
    assert!(sim.closed.contains(&(pool, "no-answer-to-shares")));
}

#[test]
fn a_target_of_the_pool_eases_miners_and_never_makes_them_harder_than_itself() {
    let mut sim = Sim::new("", 1);
    sim.manners[0].share_work = 64.0;
    for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0)] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let peer: PeerId = sim.miner_connection(0);
    let open = OpenExtendedMiningChannel {
        request_id: 5,
        user_identity: Str0255::cut("fast"),
        nominal_hash_rate: 1e9,
        max_target: [0xff; 32],
        min_extranonce_size: 8,
    };
    sim.send(peer, &open);
    let mut miner = sim.opened(peer);
    let pools = Target::from_expected_hashes(64.0);
    assert_eq!(miner.channel.target(), pools);
    let pool = sim.peer(Link::Pool(0));
    let easier = Target::from_expected_hashes(16.0);
    sim.send(pool, &SetTarget { channel_id: 7, maximum_target: easier.to_le_bytes() });
    sim.pass(Duration::from_millis(100));
    miner.read(&sim);
    assert!(miner.channel.target() >= easier);
}
