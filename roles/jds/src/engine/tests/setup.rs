use std::time::Duration;

use adit_job_declaration::{AccountTag, Grant, outputs_hash};
use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::job_declaration::{AllocateMiningJobToken, DeclareMiningJobSuccess};

use super::sim::*;
use crate::engine::Settings;

fn answer_to(settings: Settings, protocol: u8, min: u16, max: u16, flags: u32) -> Vec<Said> {
    let mut sim = Sim::with(settings);
    sim.open(1);
    sim.say(1, &setup(protocol, min, max, flags));
    sim.said(1)
}

#[test]
fn setup_connection_is_answered_as_the_rules_say() {
    for flags in [0, 1] {
        let said = answer_to(settings(), 1, 2, 2, flags);
        let [Said::Other(text)] = &said[..] else { panic!("{said:?}") };
        assert!(text.starts_with("SetupConnection.Success"), "{text}");
        assert!(text.contains("flags: 0") || text.contains("flags=0"), "{text}");
    }
    assert_eq!(answer_to(settings(), 1, 1, 9, 1).len(), 1);
    let strict = || Settings { coinbase_only: false, ..settings() };
    for (settings, protocol, min, max, flags, code, refused) in [
        (settings(), 0, 2, 2, 1, "unsupported-protocol", 0),
        (settings(), 2, 2, 2, 1, "unsupported-protocol", 0),
        (settings(), 9, 2, 2, 1, "unsupported-protocol", 0),
        (settings(), 1, 3, 3, 1, "protocol-version-mismatch", 0),
        (settings(), 1, 0, 1, 1, "protocol-version-mismatch", 0),
        (settings(), 1, 3, 1, 1, "protocol-version-mismatch", 0),
        (settings(), 1, 2, 2, u32::MAX, "unsupported-feature-flags", u32::MAX - 1),
        (strict(), 1, 2, 2, 0, "missing-declare-tx-data-flag", 0),
    ] {
        let said = answer_to(settings, protocol, min, max, flags);
        let [Said::Other(text), Said::Close(reason)] = &said[..] else { panic!("{said:?}") };
        assert!(text.starts_with("SetupConnection.Error"), "{text}");
        assert!(text.contains(code) && text.contains(&refused.to_string()), "{text}");
        assert_eq!(*reason, code);
    }
}

#[test]
fn nothing_comes_before_the_setup_and_nobody_stays_silent() {
    let mut sim = Sim::new();
    sim.open(1);
    let user_identifier = Str0255::default();
    sim.say(1, &AllocateMiningJobToken { user_identifier, request_id: 7 });
    assert_eq!(sim.said(1), [Said::Close("not a SetupConnection")]);
    sim.open(2);
    sim.client(3);
    sim.pass(Duration::from_secs(11));
    assert_eq!(sim.said(2), [Said::Close("no SetupConnection in time")]);
    assert_eq!(sim.said(3), []);
    sim.say(3, &setup(1, 2, 2, 1));
    assert_eq!(sim.said(3), [Said::Close("undecodable message")]);
    sim.client(4);
    let new_mining_job_token = Default::default();
    sim.say(4, &DeclareMiningJobSuccess { request_id: 1, new_mining_job_token });
    assert_eq!(sim.said(4), [Said::Close("message that only a server sends")]);
}

#[test]
fn extensions_are_answered_and_unknown_ones_ignored() {
    let mut sim = Sim::new();
    sim.client(1);
    let requested_extensions = Seq064K::new(&[2, 77]).unwrap();
    sim.say(1, &RequestExtensions { request_id: 5, requested_extensions });
    let Said::Other(text) = sim.only_said(1) else { panic!() };
    assert!(text.starts_with("RequestExtensions.Error") && text.contains("77"), "{text}");
    sim.frame(1, &[0x55, 0, 0x50, 2, 0, 0, 1, 2]);
    assert_eq!(sim.said(1), []);
}

#[test]
fn tokens_carry_the_pools_output_and_the_account() {
    let mut sim = Sim::new();
    // With and without the flag.
    for (peer, flags) in [(1, 0), (2, 1)] {
        sim.open(peer);
        sim.say(peer, &setup(1, 2, 2, flags));
        sim.said(peer);
        let user_identifier = Str0255::new(b"alice.rig").unwrap();
        sim.say(peer, &AllocateMiningJobToken { user_identifier, request_id: 9 });
        let Said::Token { request_id, token, outputs } = sim.only_said(peer) else { panic!() };
        assert_eq!(request_id, 9);
        let expected = [&[1][..], &[0; 8], &[3], &POOL_SCRIPT].concat();
        assert_eq!(outputs, expected);
        let token = read_token(&token);
        assert_eq!(token.account, AccountTag::of(b"alice"));
        assert_eq!(token.expiry, 1_800_000_000 + 7200);
        assert_eq!(token.grant, Grant::Allocated { outputs: outputs_hash(&outputs) });
    }
    assert_ne!(sim.token(1), sim.token(1));
}

#[test]
fn tokens_are_given_out_slowly() {
    let mut sim = Sim::new();
    sim.client(1);
    sim.client(2);
    let ask = |sim: &mut Sim| {
        let user_identifier = Str0255::default();
        sim.say(1, &AllocateMiningJobToken { user_identifier, request_id: 1 });
    };
    (0..20).for_each(|_| ask(&mut sim));
    assert_eq!(sim.said(1).len(), 10);
    sim.token(2);
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.said(1).len(), 4);
    sim.pass(Duration::from_secs(10));
    assert_eq!(sim.said(1).len(), 6);
    (0..100).for_each(|_| ask(&mut sim));
    assert_eq!(sim.said(1).last(), Some(&Said::Close("too many requests for tokens")));
    assert_eq!(sim.count("jds_tokens_total{result=\"refused\"}"), 1);
    sim.token(2);
}
