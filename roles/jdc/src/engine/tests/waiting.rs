//! Newer templates on a tip for which the pool has accepted a job: miners stay on that until the next is accepted.

use std::time::Duration;

use adit_mining::Target;
use adit_sv2::codec::B032;
use adit_sv2::messages::Message as _;
use adit_sv2::messages::mining::*;
use adit_transport::Event;
use prometheus_client::registry::Registry;

use super::sim::Sim;
use crate::engine::Link;

fn jobs(sim: &Sim, index: usize, from: usize) -> Vec<u32> {
    sim.shares(index, from).into_iter().map(|(job, _)| job).collect()
}

/// Shares that no pool will pay, as the metrics have it.
fn lost(sim: &Sim) -> u64 {
    let mut registry = Registry::default();
    sim.engine.core.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let name = "jdc_upstream_shares_total{result=\"lost\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// Accepts the job that was set last.
fn accept(sim: &mut Sim) {
    let job = sim.payloads(Link::Pool(0), SetCustomMiningJob::TYPE, 0).pop().unwrap();
    sim.accept_job(0, SetCustomMiningJob::decode(&job).unwrap().0.request_id);
}

#[test]
fn on_the_same_tip_miners_move_on_once_the_pool_has_accepted() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.manners[0].answers_jobs = false;
    let from = sim.said.len();
    sim.template(2, false);
    assert!(!miner.read(&sim));
    assert_eq!(sim.status()["job"]["state"], "accepted");
    assert_eq!(sim.status()["next_job"]["state"], "waiting for the pool");
    miner.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from), [101], "paid at once");
    // Who comes meanwhile works on what is accepted, too.
    let mut other = sim.extended(4);
    other.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from), [101, 101]);
    accept(&mut sim);
    assert!(miner.read(&sim) && other.read(&sim));
    assert!(sim.status()["next_job"].is_null());
    miner.share(&mut sim);
    other.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from), [101, 101, 102, 102]);
    // A tip waits for nobody.
    sim.tip(3, 3);
    assert!(miner.read(&sim));
    // And what is not accepted is nothing to stay on.
    sim.template(4, false);
    assert!(miner.read(&sim));
}

#[test]
fn of_several_that_wait_the_newest_that_is_accepted_is_mined() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.manners[0].answers_jobs = false;
    sim.template(2, false);
    sim.template(3, false);
    let asked = sim.payloads(Link::Pool(0), SetCustomMiningJob::TYPE, 0);
    let id = |payload: &[u8]| SetCustomMiningJob::decode(payload).unwrap().0.request_id;
    let (second, third) = (id(&asked[1]), id(&asked[2]));
    let from = sim.said.len();
    sim.accept_job(0, third);
    assert!(miner.read(&sim));
    sim.accept_job(0, second);
    assert!(!miner.read(&sim), "it is older");
    miner.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from), [102]);
}

#[test]
fn servers_that_fall_silent_or_refuse_on_a_tip_cost_no_share() {
    type Break = fn(&mut Sim);
    let breaks: [(&str, Break); 4] = [
        ("JDS silent", |sim| sim.manners[0].answers_declarations = false),
        ("pool silent", |sim| sim.manners[0].answers_jobs = false),
        ("JDS refuses", |sim| sim.manners[0].refuses_declarations = Some("invalid-job")),
        ("pool refuses", |sim| sim.manners[0].refuses_jobs = Some("invalid-merkle-path")),
    ];
    for (what, break_it) in breaks {
        let mut sim = Sim::working("", 2);
        let mut miner = sim.extended(8);
        break_it(&mut sim);
        let from = sim.said.len();
        sim.template(2, false);
        let mut found = 0;
        for _ in 0..11 {
            miner.share(&mut sim);
            found += 1;
            sim.pass(Duration::from_secs(1));
        }
        assert_eq!(sim.upstream(), Some(1), "{what}");
        let paid = jobs(&sim, 0, from).len() + jobs(&sim, 1, from).len();
        assert_eq!(paid, found, "{what}");
    }
}

#[test]
fn a_pool_that_is_lost_while_a_job_waits_gets_both_when_it_is_back() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.manners[0].answers_jobs = false;
    sim.template(2, false);
    sim.lose(Link::Pool(0));
    assert_eq!(sim.source(), "kept");
    let from = sim.said.len();
    miner.share(&mut sim);
    assert!(jobs(&sim, 0, from).is_empty());
    sim.manners[0].answers_jobs = true;
    sim.connect(Link::Pool(0));
    sim.pass(Duration::from_secs(2));
    assert_eq!(jobs(&sim, 0, from).len(), 1, "what waited");
    assert!(miner.read(&sim));
    miner.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from).len(), 2);
    assert_eq!(sim.status()["job"]["template_id"], 2);
}

#[test]
fn shares_for_a_prefix_that_the_pool_takes_back_are_lost_and_the_pool_is_not() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.lose(Link::Pool(0));
    for _ in 0..3 {
        miner.share(&mut sim);
    }
    sim.manners[0].prefix = [1, 2, 3, 4];
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    assert_eq!(lost(&sim), 3);
    for _ in 0..12 {
        sim.pass(Duration::from_secs(5));
        assert_eq!(sim.source(), "declared");
        miner.share(&mut sim);
    }
    assert!(sim.engine.core.upstreams[0].trouble.is_none());
    assert_eq!(jobs(&sim, 0, from), [102; 12]);
}

#[test]
fn a_prefix_that_changes_while_a_job_is_declared_ends_that_job_alone() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.manners[0].answers_declarations = false;
    sim.tip(2, 2);
    miner.share(&mut sim);
    sim.manners[0].answers_declarations = true;
    let extranonce_prefix = B032::new(&[1, 2, 3, 4]).unwrap();
    let pool = sim.peer(Link::Pool(0));
    let from = sim.said.len();
    sim.send(pool, &SetExtranoncePrefix { channel_id: 7, extranonce_prefix });
    assert_eq!(lost(&sim), 1);
    sim.pass(Duration::from_secs(12));
    assert_eq!(sim.source(), "declared");
    miner.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from), [102]);
}

#[test]
fn a_jds_that_is_away_is_not_missed_where_the_target_moves() {
    let mut sim = Sim::working("", 2);
    let mut miner = sim.extended(8);
    sim.pass(Duration::from_secs(10));
    sim.lose(Link::Jds(0));
    let maximum_target = Target::from_expected_hashes(32.0).to_le_bytes();
    let pool = sim.peer(Link::Pool(0));
    sim.send(pool, &SetTarget { channel_id: 7, maximum_target });
    let from = sim.said.len();
    for _ in 0..6 {
        sim.pass(Duration::from_secs(5));
        assert_eq!((sim.source(), sim.upstream()), ("declared", Some(0)));
        miner.share(&mut sim);
    }
    assert_eq!(jobs(&sim, 0, from), [101; 6]);
    // The job is set for the new target once the JDS is back.
    sim.connect(Link::Jds(0));
    sim.pass(Duration::from_secs(1));
    miner.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from).last(), Some(&102));
}

#[test]
fn a_jds_that_goes_in_the_midst_of_a_declaration_is_waited_for_from_its_return() {
    let mut sim = Sim::working("", 2);
    let mut miner = sim.extended(8);
    sim.manners[0].answers_declarations = false;
    sim.template(2, false);
    sim.lose(Link::Jds(0));
    let from = sim.said.len();
    sim.pass(Duration::from_secs(60));
    miner.share(&mut sim);
    assert_eq!(jobs(&sim, 0, from), [101], "paid all the while");
    sim.connect(Link::Jds(0));
    sim.pass(Duration::from_secs(9));
    assert_eq!(sim.upstream(), Some(0));
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.upstream(), Some(1), "it does not answer");
}

#[test]
fn shares_that_wait_outlast_the_channels_they_were_found_on() {
    for back_in_time in [true, false] {
        let mut sim = Sim::working("", 1);
        let mut miner = sim.extended(8);
        sim.manners[0].answers_jobs = false;
        sim.tip(2, 2);
        for _ in 0..5 {
            miner.share(&mut sim);
        }
        let from = sim.said.len();
        sim.event(miner.peer, Event::Closed("reconnects"));
        if back_in_time {
            miner = sim.extended(8);
            miner.share(&mut sim);
        }
        accept(&mut sim);
        assert_eq!(jobs(&sim, 0, from), vec![102; if back_in_time { 6 } else { 5 }]);
        // What nobody works on is not set again, and whoever comes has work.
        sim.manners[0].answers_jobs = true;
        let from = sim.said.len();
        sim.pass(Duration::from_secs(5));
        assert!(sim.payloads(Link::Pool(0), SetCustomMiningJob::TYPE, from).is_empty());
        sim.extended(8).share(&mut sim);
        assert_eq!(jobs(&sim, 0, from).len(), 1);
    }
}

#[test]
fn shares_that_wait_for_a_pool_that_is_away_outlast_their_channels_until_the_next_tip() {
    for tip in [1, 2] {
        let mut sim = Sim::working("", 1);
        let mut miner = sim.extended(8);
        sim.lose(Link::Pool(0));
        miner.share(&mut sim);
        sim.event(miner.peer, Event::Closed("gone"));
        let from = sim.said.len();
        sim.tip(2, tip);
        assert_eq!(sim.engine.core.desk.claims.len(), if tip == 1 { 1 } else { 0 });
        sim.connect(Link::Pool(0));
        sim.pass(Duration::from_secs(2));
        assert_eq!(jobs(&sim, 0, from).len(), if tip == 1 { 1 } else { 0 });
        sim.extended(8).share(&mut sim);
        assert_eq!(sim.status()["job"]["template_id"], 2);
    }
}
