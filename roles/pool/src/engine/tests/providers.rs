//! Template providers: work, its order, its loss, and who gives it.

use std::time::Duration;

use adit_sv2::codec::Str0255;
use adit_sv2::messages::common::{Reconnect, SetupConnectionError};
use adit_sv2::messages::template_distribution::{
    RequestTransactionData, RequestTransactionDataError,
};
use adit_transport::Event;

use super::sim::{Rig, Sim, Wanted, open_extended};
use crate::engine::Link;

const FIRST: Link = Link::TemplateProvider(0);

fn tip_of(rig: &Rig) -> [u8; 32] {
    rig.client.active().unwrap().tip.prev_hash
}

#[test]
fn a_channel_between_a_future_template_and_its_tip_gets_work_that_fits() {
    let (mut sim, tp) = Sim::working("");
    sim.template(tp, 0, 2, true, 2);
    // It has to be on the old tip and template, and follow to the new one.
    let mut between = sim.extended("a");
    assert_eq!(
        (tip_of(&between), between.client.active().unwrap().job.merkle_path()[0]),
        ([1; 32], [1; 32])
    );
    between.mine(&mut sim, 1);
    // The same once the template was announced to those who were there.
    let mut early = sim.extended("b");
    sim.pass(Duration::from_millis(300));
    assert_eq!(early.listen(&mut sim), ["NewExtendedMiningJob"]);
    assert_eq!(between.listen(&mut sim), ["NewExtendedMiningJob"]);
    assert_eq!(tip_of(&early), [1; 32]);
    let mut late = sim.standard("c");
    sim.prev_hash(tp, 0, 2, 2);
    // Those who have the job are told the tip before anybody is told anything else.
    for rig in [&mut between, &mut early] {
        assert_eq!(rig.listen(&mut sim), ["SetNewPrevHash"]);
    }
    assert_eq!(late.listen(&mut sim), ["NewMiningJob", "SetNewPrevHash"]);
    for rig in [&mut between, &mut early, &mut late] {
        assert_eq!(tip_of(rig), [2; 32]);
        rig.mine(&mut sim, 1);
        assert!(rig.listen(&mut sim).is_empty());
    }
    assert_eq!(between.client.active().unwrap().job.merkle_path()[0], [2; 32]);
}

#[test]
fn several_future_templates_and_the_tip_names_one() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    for template in 2..=4 {
        sim.template(tp, 0, template, true, template as u8);
    }
    sim.prev_hash(tp, 0, 3, 2);
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    assert_eq!(rig.client.active().unwrap().job.merkle_path()[0], [3; 32]);
    sim.pass(Duration::from_secs(1));
    assert!(rig.listen(&mut sim).is_empty(), "the others are void");
}

#[test]
fn a_newer_template_is_sent_as_an_active_job_and_an_equal_one_not() {
    let (mut sim, tp) = Sim::working("");
    let (mut extended, mut standard) = (sim.extended("a"), sim.standard("b"));
    let old = extended.search(Wanted::Share);
    sim.template(tp, 0, 2, false, 2);
    assert_eq!(extended.listen(&mut sim), ["NewExtendedMiningJob"]);
    assert_eq!(standard.listen(&mut sim), ["NewMiningJob"]);
    assert_ne!(extended.client.active().unwrap().job_id, old.job_id);
    // The older job still counts.
    extended.submit(&mut sim, &old);
    extended.mine(&mut sim, 1);
    standard.mine(&mut sim, 1);
    sim.template(tp, 0, 3, false, 2);
    assert!(extended.listen(&mut sim).is_empty() && standard.listen(&mut sim).is_empty());
}

#[test]
fn a_tip_lower_than_the_last_is_a_tip() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    sim.tip(tp, 0, 2, 2);
    sim.event(tp, FIRST, Event::Closed("closed by the peer"));
    let tp = sim.provider(0);
    // The node lost its last block: template ids begin anew, the tip is the one before.
    sim.tip(tp, 0, 1, 1);
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [1; 32]);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
}

#[test]
fn miners_keep_their_work_while_the_provider_is_away() {
    let (mut sim, tp) = Sim::working("shares.ack_batch = 1\nshares.vardiff = false");
    let mut rig = sim.extended("a");
    sim.template(tp, 0, 2, true, 2);
    sim.event(tp, FIRST, Event::Closed("closed by the peer"));
    let reason = "waiting for template provider tp:1: closed by the peer".to_owned();
    assert_eq!(sim.engine.readiness().template_provider, Err(reason));
    sim.engine.provider_unreachable(0, "cannot connect: refused".to_owned());
    let reason = "waiting for template provider tp:1: cannot connect: refused".to_owned();
    assert_eq!(sim.engine.readiness().template_provider, Err(reason));
    sim.pass(Duration::from_secs(60));
    assert!(rig.listen(&mut sim).is_empty(), "a future job of a lost provider is not announced");
    rig.mine(&mut sim, 1);
    sim.store();
    assert_eq!(rig.listen(&mut sim), ["SubmitShares.Success"]);
    let mut newcomer = sim.extended("b");
    newcomer.mine(&mut sim, 1);
    sim.store();
    assert_eq!(newcomer.listen(&mut sim), ["SubmitShares.Success"]);
    // Back with the same tip and template: nothing to say. With a newer one: a job.
    let tp = sim.provider(0);
    sim.template(tp, 0, 11, true, 1);
    sim.prev_hash(tp, 0, 11, 1);
    assert!(rig.listen(&mut sim).is_empty());
    sim.template(tp, 0, 12, false, 12);
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob"]);
    assert_eq!(sim.engine.readiness().template_provider, Ok(()));
}

#[test]
fn the_next_provider_takes_over_and_the_first_comes_back() {
    let mut sim = Sim::with_providers("", 2, Vec::new());
    let second = sim.provider(1);
    sim.tip(second, 1, 100, 1);
    let mut rig = sim.extended("a");
    let first = sim.provider(0);
    sim.tip(first, 0, 5, 2);
    sim.pass(Duration::from_secs(8));
    assert_eq!(tip_of(&rig), [1; 32], "not well for long enough");
    assert!(rig.listen(&mut sim).is_empty());
    sim.pass(Duration::from_secs(3));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    assert_eq!(tip_of(&rig), [2; 32]);
    // The other one's news are not sent.
    sim.tip(second, 1, 101, 3);
    sim.template(second, 1, 102, false, 99);
    assert!(rig.listen(&mut sim).is_empty());
    sim.event(first, FIRST, Event::Closed("closed by the peer"));
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [3; 32], "at once");
    assert_eq!(rig.client.active().unwrap().job.merkle_path()[0], [99; 32]);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
}

/// Its connection stands and its node does not move: what miners do is void, and nobody says so.
#[test]
fn a_provider_that_stays_a_block_behind_is_left() {
    let mut sim = Sim::with_providers("shares.vardiff = false", 2, Vec::new());
    let (first, second) = (sim.provider(0), sim.provider(1));
    sim.tip(first, 0, 1, 1);
    sim.tip(second, 1, 100, 1);
    let mut rig = sim.extended("a");
    sim.tip_at(second, 1, 101, 2, 301);
    sim.pass(Duration::from_secs(14));
    assert_eq!(tip_of(&rig), [1; 32], "blocks take their time from node to node");
    assert!(rig.listen(&mut sim).is_empty());
    sim.pass(Duration::from_secs(2));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    assert_eq!(tip_of(&rig), [2; 32]);
    // Nor is it gone back to for being further up.
    sim.pass(Duration::from_secs(60));
    sim.tip_at(second, 1, 102, 3, 302);
    sim.pass(Duration::from_secs(60));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    assert_eq!(tip_of(&rig), [3; 32]);
    // Before it has kept up for a while.
    sim.tip_at(first, 0, 2, 3, 302);
    sim.pass(Duration::from_secs(9));
    assert!(rig.listen(&mut sim).is_empty());
    sim.pass(Duration::from_secs(2));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob"]);
    sim.tip_at(first, 0, 3, 4, 303);
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [4; 32]);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
}

/// Blocks that come faster than that do not keep it in use for ever.
#[test]
fn a_provider_that_falls_further_behind_is_left_as_soon() {
    let mut sim = Sim::with_providers("", 2, Vec::new());
    let (first, second) = (sim.provider(0), sim.provider(1));
    sim.tip(first, 0, 1, 1);
    sim.tip(second, 1, 100, 1);
    let mut rig = sim.extended("a");
    for block in 2..=6 {
        sim.tip_at(second, 1, 100 + u64::from(block), block, 299 + u32::from(block));
        sim.pass(Duration::from_secs(4));
    }
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [6; 32]);
}

#[test]
fn a_provider_that_gives_no_template_for_its_tip_is_left() {
    let mut sim = Sim::with_providers("", 2, Vec::new());
    let (first, second) = (sim.provider(0), sim.provider(1));
    sim.tip(first, 0, 1, 1);
    sim.tip(second, 1, 100, 1);
    let mut rig = sim.extended("a");
    sim.prev_hash(first, 0, 77, 2);
    sim.tip_at(second, 1, 101, 2, 301);
    sim.pass(Duration::from_secs(16));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
}

#[test]
fn a_tip_without_a_template_makes_old_work_stale_until_there_is_one() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    let late = rig.search(Wanted::Share);
    sim.prev_hash(tp, 0, 77, 2);
    assert!(rig.listen(&mut sim).is_empty());
    rig.submit(&mut sim, &late);
    sim.heard_only(rig.peer, "stale-share");
    let waiting = sim.miner(0);
    sim.send(waiting, Link::Miner, &open_extended(1, "b"));
    assert!(sim.heard(waiting).is_empty());
    sim.template(tp, 0, 78, false, 78);
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    assert_eq!(tip_of(&rig), [2; 32]);
    assert_eq!(tip_of(&sim.rig(waiting)), [2; 32]);
}

#[test]
fn a_template_that_cannot_be_mined_is_left_alone() {
    let (mut sim, tp) = Sim::working("");
    let mut rig = sim.extended("a");
    let message = adit_sv2::messages::template_distribution::NewTemplate {
        template_id: 2,
        future_template: false,
        version: 0x2000_0000,
        coinbase_tx_version: 2,
        coinbase_prefix: adit_sv2::codec::B0255::new(&[1; 90]).unwrap(),
        coinbase_tx_input_sequence: 0,
        coinbase_tx_value_remaining: 1,
        coinbase_tx_outputs_count: 3,
        coinbase_tx_outputs: Default::default(),
        coinbase_tx_locktime: 0,
        merkle_path: Default::default(),
    };
    sim.send(tp, FIRST, &message);
    assert!(rig.listen(&mut sim).is_empty());
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
}

#[test]
fn a_provider_that_refuses_is_silent_or_talks_nonsense_is_let_go() {
    let mut sim = Sim::new("");
    let refusing = sim.open(FIRST);
    sim.heard(refusing);
    let error = SetupConnectionError { flags: 0, error_code: Str0255::cut("unsupported-protocol") };
    sim.send(refusing, FIRST, &error);
    assert_eq!(sim.closed(refusing), Some("setup-connection-refused"));
    // What it said is still told when the driver has heard of the end.
    sim.engine.provider_unreachable(0, "setup-connection-refused".to_owned());
    let why = sim.engine.readiness().template_provider.unwrap_err();
    assert!(why.ends_with("tp:1: it refuses us: unsupported-protocol (flags 0x0)"), "{why}");
    let silent = sim.open(FIRST);
    sim.heard(silent);
    sim.pass(Duration::from_secs(11));
    assert_eq!(sim.closed(silent), Some("no-answer-to-setup-connection"));
    let nonsense = sim.provider(0);
    sim.event(
        nonsense,
        FIRST,
        Event::Frame(adit_sv2::frame::Header::parse(&[0, 0, 0x71, 1, 0, 0]), &[1]),
    );
    assert_eq!(sim.closed(nonsense), Some("malformed-frame"));
    let confused = sim.provider(0);
    sim.send(confused, FIRST, &RequestTransactionData { template_id: 1 });
    assert_eq!(sim.closed(confused), Some("unexpected-message"));
    let chatty = sim.provider(0);
    sim.send(
        chatty,
        FIRST,
        &RequestTransactionDataError { template_id: 1, error_code: Str0255::default() },
    );
    sim.send(chatty, FIRST, &Reconnect { new_host: Str0255::default(), new_port: 0 });
    assert_eq!(sim.closed(chatty), None);
    // A new connection while the old one looks alive: the new one counts.
    let again = sim.open(FIRST);
    assert_eq!(sim.closed(chatty), Some("replaced by a newer connection"));
    assert_eq!(sim.closed(again), None);
}

/// Its work is not void for its node being restarted.
#[test]
fn a_provider_that_is_behind_does_not_take_over_from_one_that_is_lost_for_a_moment() {
    let mut sim = Sim::with_providers("shares.vardiff = false", 2, Vec::new());
    let (first, second) = (sim.provider(0), sim.provider(1));
    sim.tip_at(first, 0, 1, 1, 300);
    sim.tip_at(second, 1, 1, 1, 300);
    let mut rig = sim.extended("a");
    sim.tip_at(first, 0, 2, 2, 301);
    rig.listen(&mut sim);
    sim.event(first, FIRST, Event::Closed("restart"));
    sim.pass(Duration::from_secs(10));
    rig.mine(&mut sim, 1);
    assert_eq!(tip_of(&rig), [2; 32]);
    let first = sim.provider(0);
    sim.tip_at(first, 0, 2, 2, 301);
    sim.pass(Duration::from_secs(60));
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [2; 32]);
    // Nobody waits for it for ever, and when it is back it is taken at once.
    sim.event(first, FIRST, Event::Closed("restart"));
    sim.pass(Duration::from_secs(14));
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [2; 32]);
    sim.pass(Duration::from_secs(2));
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [1; 32]);
    let first = sim.provider(0);
    sim.tip_at(first, 0, 2, 2, 301);
    rig.listen(&mut sim);
    assert_eq!(tip_of(&rig), [2; 32]);
}
