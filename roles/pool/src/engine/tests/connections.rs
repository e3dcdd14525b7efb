//! Connections before and beside their channels.

use std::time::Duration;

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::mining::{CloseChannel, SubmitSharesSuccess};
use adit_sv2::messages::template_distribution::RequestTransactionData;
use adit_transport::{Event, PeerId};

use super::sim::{Sim, open_extended, open_standard, setup_connection};
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
fn extensions_are_answered_and_unknown_ones_ignored() {
    let mut sim = Sim::new("");
    let peer = sim.miner(0);
    let none = RequestExtensions { request_id: 3, requested_extensions: Seq064K::default() };
    sim.send(peer, Link::Miner, &none);
    sim.heard_only(peer, "RequestExtensions.Success { request_id: 3, supported_extensions: [] }");
    let some = RequestExtensions {
        request_id: 4,
        requested_extensions: Seq064K::new(&[2, 0x4321]).unwrap(),
    };
    sim.send(peer, Link::Miner, &some);
    sim.heard_only(
        peer,
        "{ request_id: 4, unsupported_extensions: [2, 17185], required_extensions: [] }",
    );
    for channel_msg in [false, true] {
        let header = Header { extension_type: 0x4321, channel_msg, msg_type: 0, msg_length: 3 };
        sim.event(peer, Link::Miner, Event::Frame(header, &[1, 2, 3]));
    }
    assert!(sim.heard(peer).is_empty() && sim.closed(peer).is_none());
    let header = Header { extension_type: 1, channel_msg: false, msg_type: 0, msg_length: 1 };
    sim.event(peer, Link::Miner, Event::Frame(header, &[1]));
    assert_eq!(sim.closed(peer), Some("malformed-frame"));
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
