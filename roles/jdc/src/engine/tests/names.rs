//! Names of workers in shares (extension 0x0002).

use std::time::Duration;

use adit_mining::Target;
use adit_sv2::codec::Seq064K;
use adit_sv2::messages::Message as _;
use adit_sv2::messages::common::ChannelEndpointChanged;
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::job_declaration::PushSolution;
use adit_sv2::messages::mining::*;
use adit_sv2::messages::template_distribution::SubmitSolution;
use adit_sv2::tlv::{Tlv, WORKER_HASHRATE_TRACKING};
use adit_transport::{Event, PeerId};

use super::sim::Sim;
use crate::engine::Link;

/// Pools that take names, everything connected, no miner yet.
fn naming(more: &str, upstreams: usize) -> Sim {
    let mut sim = Sim::new(more, upstreams);
    for index in 0..upstreams {
        sim.manners[index].extensions = Some(vec![WORKER_HASHRATE_TRACKING]);
        sim.connect(Link::Pool(index));
        sim.connect(Link::Jds(index));
    }
    sim.connect(Link::TemplateProvider(0));
    sim.tip(1, 1);
    sim
}

/// A proxy below us that names its workers.
fn proxy(sim: &mut Sim) -> PeerId {
    let peer = sim.miner_connection(0);
    let requested_extensions = Seq064K::new(&[WORKER_HASHRATE_TRACKING]).unwrap();
    sim.send(peer, &RequestExtensions { request_id: 1, requested_extensions });
    peer
}

fn field(name: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    Tlv { value: name, ..Tlv::user_identity(b"").unwrap() }.write(&mut bytes);
    Some(bytes)
}

fn names(sim: &Sim, index: usize, from: usize) -> Vec<String> {
    sim.names_of_shares(index, from).into_iter().map(|name| name.expect("no name")).collect()
}

#[test]
fn every_share_names_its_worker_where_the_pool_takes_names() {
    let mut sim = naming("", 1);
    let asked = sim.names(Link::Pool(0), 0);
    assert_eq!(asked, ["SetupConnection", "RequestExtensions", "OpenExtendedMiningChannel"]);
    // Of channels that are a worker each: what follows the account.
    let devices = sim.miner_connection(0);
    sim.open_as(devices, "farm.rig1", 8);
    let mut rig1 = sim.opened(devices);
    sim.open_standard(devices);
    let mut standard = sim.opened(devices);
    // Of one channel with many behind it.
    let peer = proxy(&mut sim);
    sim.open_as(peer, "farm.proxy", 8);
    let mut behind = sim.opened(peer);
    rig1.share(&mut sim);
    standard.share(&mut sim);
    for name in ["a", "b", "farm.c", ""] {
        behind.tlv = field(name.as_bytes());
        behind.share(&mut sim);
    }
    // A name that is none, and a name of one that did not say that it gives names.
    behind.tlv = None;
    behind.share(&mut sim);
    rig1.tlv = field(b"forged");
    rig1.share(&mut sim);
    let expected = ["rig1", "worker", "a", "b", "c", "proxy", "proxy", "rig1"];
    assert_eq!(names(&sim, 0, 0), expected);
}

#[test]
fn shares_that_waited_for_a_job_name_their_workers_too() {
    let mut sim = naming("", 1);
    sim.manners[0].answers_jobs = false;
    let peer = proxy(&mut sim);
    sim.open_as(peer, "farm", 8);
    let mut miner = sim.opened(peer);
    let from = sim.said.len();
    for name in ["a", "b"] {
        miner.tlv = field(name.as_bytes());
        miner.share(&mut sim);
    }
    assert!(names(&sim, 0, from).is_empty());
    let job = sim.payloads(Link::Pool(0), SetCustomMiningJob::TYPE, 0).pop().unwrap();
    sim.accept_job(0, SetCustomMiningJob::decode(&job).unwrap().0.request_id);
    let mut names = names(&sim, 0, from);
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_name_beyond_its_limit_voids_the_share() {
    let mut sim = naming("", 1);
    let peer = proxy(&mut sim);
    sim.open_as(peer, "farm", 8);
    let mut miner = sim.opened(peer);
    let from = sim.said.len();
    for wrong in [field(&[b'x'; 33]), Some(vec![2, 0, 1, 9, 0])] {
        miner.tlv = wrong;
        miner.submit(&mut sim, Target::from_expected_hashes(64.0), None);
    }
    let heard = sim.heard_by(peer, from);
    assert_eq!(heard.iter().filter(|m| m.contains("invalid-user-identity")).count(), 2);
    assert!(sim.names_of_shares(0, from).is_empty());
    miner.tlv = field(&[b'x'; 32]);
    miner.share(&mut sim);
    assert_eq!(names(&sim, 0, from), ["x".repeat(32)]);
    assert!(sim.closed.is_empty());
}

#[test]
fn a_block_is_no_less_one_for_a_name_beyond_its_limit() {
    let mut sim = naming("", 1);
    let peer = proxy(&mut sim);
    sim.open_as(peer, "farm.proxy", 8);
    let mut miner = sim.opened(peer);
    let from = sim.said.len();
    miner.tlv = field(&[b'x'; 33]);
    miner.block(&mut sim);
    assert!(sim.heard_by(peer, from)[0].contains("invalid-user-identity"));
    assert_eq!(sim.payloads(Link::TemplateProvider(0), SubmitSolution::TYPE, from).len(), 1);
    assert_eq!(sim.payloads(Link::Jds(0), PushSolution::TYPE, from).len(), 1);
    assert_eq!(names(&sim, 0, from), ["proxy"], "whose it is otherwise is not known");
    assert_eq!(sim.status()["blocks"][0]["identity"], "farm.proxy");
    // The same again is nothing new.
    let from = sim.said.len();
    miner.nonce -= 1;
    miner.block(&mut sim);
    assert_eq!(sim.said[from..].iter().map(|said| said.to).collect::<Vec<_>>(), [peer]);
}

#[test]
fn a_pool_without_names_gets_none() {
    // One that refuses, and one that would take them where we do not want to tell.
    let mut refused = Sim::working("", 1);
    let mut unwanted = Sim::new("", 1);
    unwanted.engine.core.upstreams[0].worker_names = false;
    unwanted.manners[0].extensions = Some(vec![WORKER_HASHRATE_TRACKING]);
    for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0)] {
        unwanted.connect(link);
    }
    unwanted.tip(1, 1);
    assert!(!unwanted.names(Link::Pool(0), 0).contains(&"RequestExtensions".to_owned()));
    // What was not asked for is not heard.
    let granted = adit_sv2::messages::extensions::RequestExtensionsSuccess {
        request_id: 1,
        supported_extensions: Seq064K::new(&[WORKER_HASHRATE_TRACKING]).unwrap(),
    };
    unwanted.send(unwanted.peer(Link::Pool(0)), &granted);
    for sim in [&mut refused, &mut unwanted] {
        let peer = proxy(sim);
        sim.open_as(peer, "farm", 8);
        let mut miner = sim.opened(peer);
        miner.tlv = field(b"a");
        miner.share(sim);
        assert_eq!(sim.names_of_shares(0, 0), [None]);
    }
}

#[test]
fn a_pool_that_knows_no_extensions_is_waited_for_once_and_not_for_long() {
    let mut sim = Sim::new("", 1);
    sim.manners[0].extensions = None;
    for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0)] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    assert_eq!(sim.names(Link::Pool(0), 0), ["SetupConnection", "RequestExtensions"]);
    sim.pass(Duration::from_millis(1_100));
    assert_eq!(sim.names(Link::Pool(0), 0)[2], "OpenExtendedMiningChannel");
    let mut miner = sim.extended(8);
    miner.share(&mut sim);
    assert_eq!(sim.names_of_shares(0, 0), [None]);
    // Not again.
    sim.lose(Link::Pool(0));
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    let said = sim.names(Link::Pool(0), from);
    assert_eq!(said[..3], ["SetupConnection", "RequestExtensions", "OpenExtendedMiningChannel"]);
    // Unless it has learnt to answer.
    sim.lose(Link::Pool(0));
    sim.manners[0].extensions = Some(vec![WORKER_HASHRATE_TRACKING]);
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    miner.share(&mut sim);
    assert_eq!(names(&sim, 0, from), ["worker"]);
}

#[test]
fn a_pool_with_somebody_else_behind_it_is_asked_again() {
    let mut sim = naming("", 1);
    let mut miner = sim.extended(8);
    let (pool, from) = (sim.peer(Link::Pool(0)), sim.said.len());
    sim.manners[0].extensions = Some(Vec::new());
    sim.send(pool, &ChannelEndpointChanged { channel_id: 7 });
    assert_eq!(sim.names(Link::Pool(0), from), ["RequestExtensions"]);
    miner.share(&mut sim);
    sim.manners[0].extensions = Some(vec![WORKER_HASHRATE_TRACKING]);
    sim.send(pool, &ChannelEndpointChanged { channel_id: 7 });
    miner.share(&mut sim);
    assert_eq!(sim.names_of_shares(0, from), [None, Some("worker".to_owned())]);
    assert!(sim.closed.is_empty());
}

#[test]
fn a_pool_that_requires_what_is_not_known_is_left() {
    let mut sim = naming("", 2);
    sim.extended(8);
    sim.lose(Link::Pool(0));
    sim.manners[0].requires = vec![0x0777];
    sim.connect(Link::Pool(0));
    assert!(sim.closed.iter().any(|(_, reason)| *reason == "unknown-extension-required"));
    assert_eq!(sim.upstream(), Some(1));
    // A frame of the extension that is none ends the connection, and nothing else.
    let pool = sim.peer(Link::Pool(1));
    let header = adit_sv2::frame::Header {
        extension_type: 1,
        channel_msg: false,
        msg_type: 1,
        msg_length: 1,
    };
    sim.event(pool, Event::Frame(header, &[1]));
    assert!(sim.closed.contains(&(pool, "malformed-frame")));
}
