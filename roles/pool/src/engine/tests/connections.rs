//! Connections before and beside their channels.

use std::time::Duration;

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::mining::{CloseChannel, SubmitSharesSuccess};
use adit_sv2::messages::template_distribution::RequestTransactionData;
use adit_transport::{Event, PeerId};

use super::sim::{Sim, Wanted, open_extended, open_standard, setup_connection};
use crate::engine::Link;

fn refused(protocol: u8, min: u16, max: u16, flags: u32) -> String {
    let mut sim = Sim::new("");
    let peer = sim.open(Link::Miner);
    sim.send(peer, Link::Miner, &setup_connection(protocol, min, max, flags));
    let heard = sim.heard(peer);
    assert_eq!(sim.closed(peer), Some("setup-connection-refused"));
    assert_eq!(heard.len(), 1);
    heard[0].clone()
}

#[test]
fn setup_connection_is_answered_by_the_rules() {
    let error = |flags: u32, code: &str| {
        format!("SetupConnection.Error {{ flags: {flags}, error_code: \"{code}\" }}")
    };
    assert_eq!(refused(1, 2, 2, 0), error(0, "unsupported-protocol"));
    assert_eq!(refused(9, 2, 2, 2), error(0, "unsupported-protocol"));
    assert_eq!(refused(0, 3, 9, 0), error(0, "protocol-version-mismatch"));
    assert_eq!(refused(0, 1, 1, 2), error(2, "protocol-version-mismatch"));
    assert_eq!(refused(0, 3, 1, 0), error(0, "protocol-version-mismatch"));
    // Exactly the flags that are not supported.
    assert_eq!(refused(0, 2, 2, 0b0111), error(0b0010, "unsupported-feature-flags"));
    assert_eq!(refused(0, 2, 2, 1 << 31), error(1 << 31, "unsupported-feature-flags"));
    assert_eq!(refused(0, 2, 2, u32::MAX), error(!0b0101, "unsupported-feature-flags"));
    let mut sim = Sim::new("");
    for flags in [0b000, 0b001, 0b100, 0b101] {
        sim.miner(flags);
    }
    let peer = sim.open(Link::Miner);
    sim.send(peer, Link::Miner, &setup_connection(0, 1, 5, 0));
    sim.heard_only(peer, "SetupConnection.Success { used_version: 2, flags: 0 }");
}

#[test]
fn nothing_is_heard_before_setup_connection_and_only_one_of_them() {
    let (mut sim, _) = Sim::working("");
    let early = sim.open(Link::Miner);
    sim.send(early, Link::Miner, &open_standard(1, "a"));
    assert_eq!(sim.closed(early), Some("message-before-setup-connection"));
    let early = sim.open(Link::Miner);
    sim.send(
        early,
        Link::Miner,
        &RequestExtensions { request_id: 1, requested_extensions: Seq064K::default() },
    );
    assert_eq!(sim.closed(early), Some("message-before-setup-connection"));
    let twice = sim.miner(0);
    sim.send(twice, Link::Miner, &setup_connection(0, 2, 2, 0));
    assert_eq!(sim.closed(twice), Some("second-setup-connection"));
    assert!(sim.heard(early).is_empty() && sim.heard(twice).is_empty());
}

#[test]
fn what_is_no_message_of_a_client_closes_that_connection_alone() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("a");
    let frame = |sim: &mut Sim, peer: PeerId, msg_type: u8, channel_msg: bool, payload: &[u8]| {
        let header =
            Header { extension_type: 0, channel_msg, msg_type, msg_length: payload.len() as u32 };
        sim.event(peer, Link::Miner, Event::Frame(header, payload));
        sim.closed(peer)
    };
    for (msg_type, channel_msg, payload, reason) in [
        (RequestTransactionData::TYPE, false, &[0; 8][..], "unexpected-message"),
        (SubmitSharesSuccess::TYPE, true, &[0; 20], "unexpected-message"),
        (0xfe, false, &[], "unexpected-message"),
        (0x1b, true, &[0; 10], "malformed-frame"),
        (0x1b, false, &[0; 30], "malformed-frame"),
    ] {
        let peer = sim.miner(0);
        assert_eq!(
            frame(&mut sim, peer, msg_type, channel_msg, payload),
            Some(reason),
            "{msg_type:#x}"
        );
    }
    let peer = sim.miner(0);
    sim.event(peer, Link::Miner, Event::Line(b"{}"));
    assert_eq!(sim.closed(peer), Some("line-on-a-frame-connection"));
    let peer = sim.open(Link::Miner);
    assert_eq!(frame(&mut sim, peer, 0, false, &[0; 5]), Some("malformed-frame"));
    rig.mine(&mut sim, 1);
    assert_eq!(sim.closed(rig.peer), None);
}

#[test]
fn a_version_that_may_not_change_is_announced_and_held() {
    let (mut sim, _) = Sim::working("mining.version_rolling = false");
    // Who needs to roll it is refused with that very bit, whatever else it asks for.
    for (flags, refused) in [(0b100, 0b100), (0b101, 0b100), (u32::MAX, !1u32)] {
        let peer = sim.open(Link::Miner);
        sim.send(peer, Link::Miner, &setup_connection(0, 2, 2, flags));
        let error = format!("flags: {refused}, error_code: \"unsupported-feature-flags\"");
        sim.heard_only(peer, &error);
    }
    for standard in [false, true] {
        let peer = sim.open(Link::Miner);
        sim.send(peer, Link::Miner, &setup_connection(0, 2, 2, u32::from(standard)));
        sim.heard_only(peer, "SetupConnection.Success { used_version: 2, flags: 1 }");
        match standard {
            true => sim.send(peer, Link::Miner, &open_standard(1, "a")),
            false => sim.send(peer, Link::Miner, &open_extended(1, "a")),
        }
        let mut rig = sim.rig(peer);
        let allowed = rig.client.active().unwrap().job.version_rolling_allowed();
        assert_eq!(allowed, standard, "a standard job cannot say so");
        let mut found = rig.search(Wanted::Share);
        rig.submit(&mut sim, &found);
        assert!(sim.heard(peer).is_empty());
        found.version ^= 0x20;
        rig.submit(&mut sim, &found);
        sim.heard_only(peer, "version-rolling-not-allowed");
    }
}

#[test]
fn miners_are_sent_elsewhere_a_part_at_each_tick() {
    let (mut sim, tp) =
        Sim::working("drain.host = \"next.example\"\ndrain.port = 4321\ndrain.per_second = 20");
    let mut rigs: Vec<_> = (0..5).map(|_| sim.extended("a")).collect();
    let silent = sim.open(Link::Miner);
    assert_eq!(sim.engine.readiness().drain, Ok(()));
    sim.engine.drain();
    assert!(sim.engine.readiness().drain.is_err());
    let told = |sim: &mut Sim, peer: PeerId| {
        sim.heard(peer).iter().filter(|m| m.starts_with("Reconnect")).count()
    };
    sim.pass(Duration::from_millis(100));
    let first: Vec<usize> = rigs.iter().map(|rig| told(&mut sim, rig.peer)).collect();
    assert_eq!(first, [1, 1, 0, 0, 0]);
    sim.pass(Duration::from_millis(100));
    // Those that stay for now are served, and told once.
    sim.heard_only(rigs[2].peer, "Reconnect { new_host: \"next.example\", new_port: 4321 }");
    sim.tip(tp, 0, 2, 2);
    rigs[0].listen(&mut sim);
    rigs[0].mine(&mut sim, 1);
    assert!(rigs[0].listen(&mut sim).is_empty());
    // So are those that come now, once they can understand it.
    let late = sim.extended("late");
    sim.pass(Duration::from_secs(2));
    assert_eq!((told(&mut sim, rigs[0].peer), told(&mut sim, late.peer)), (0, 1));
    assert_eq!(told(&mut sim, silent), 0);
    for peer in rigs.iter().map(|rig| rig.peer).chain([late.peer, silent]) {
        assert!(!sim.engine.is_drained());
        sim.event(peer, Link::Miner, Event::Closed("closed by the peer"));
    }
    assert!(sim.engine.is_drained());
}

#[test]
fn miners_that_are_sent_back_to_where_they_came_from_are_told_once() {
    let (mut sim, _) = Sim::working("");
    let old = sim.extended("a");
    sim.engine.drain();
    sim.pass(Duration::from_millis(100));
    sim.heard_only(old.peer, "Reconnect { new_host: \"\", new_port: 0 }");
    let new = sim.extended("a");
    sim.pass(Duration::from_secs(2));
    assert!(sim.heard(new.peer).is_empty() && sim.heard(old.peer).is_empty());
    // Another order counts for both.
    sim.engine.drain();
    sim.pass(Duration::from_millis(100));
    for rig in [new, old] {
        sim.heard_only(rig.peer, "Reconnect {");
    }
}

#[test]
fn a_connection_without_a_channel_is_closed_in_time() {
    let (mut sim, _) = Sim::working("channels.open_deadline_secs = 5");
    let silent = sim.open(Link::Miner);
    let idle = sim.miner(0);
    let rig = sim.extended("a");
    sim.pass(Duration::from_secs(4));
    assert_eq!((sim.closed(silent), sim.closed(idle)), (None, None));
    sim.pass(Duration::from_secs(3));
    assert_eq!(sim.closed(silent), Some("no-channel-in-time"));
    assert_eq!(sim.closed(idle), Some("no-channel-in-time"));
    assert_eq!(sim.closed(rig.peer), None);
    let close = CloseChannel { channel_id: rig.client.id(), reason_code: Str0255::cut("done") };
    sim.send(rig.peer, Link::Miner, &close);
    sim.pass(Duration::from_secs(4));
    assert_eq!(sim.closed(rig.peer), None);
    sim.pass(Duration::from_secs(3));
    assert_eq!(sim.closed(rig.peer), Some("no-channel-in-time"));
}

#[test]
fn a_connection_that_ends_takes_its_channels_with_it() {
    let (mut sim, tp) = Sim::working("channels.max = 3");
    let rig = sim.extended("a");
    let peer = rig.peer;
    sim.send(peer, Link::Miner, &open_extended(2, "a"));
    sim.event(peer, Link::Miner, Event::Closed("closed by the peer"));
    assert_eq!(sim.engine.status(sim.now)["channels_open"], 0);
    assert_eq!(sim.engine.core.channels, 0);
    sim.heard(peer);
    sim.tip(tp, 0, 2, 2);
    assert!(sim.heard(peer).is_empty());
    // Ids that nobody knows any more do no harm.
    sim.event(peer, Link::Miner, Event::Closed("again"));
    sim.event(PeerId(999), Link::TemplateProvider(5), Event::Closed("never was"));
}
