//! Extranonce prefixes that change under open channels.

use super::sim::{Rig, Sim, Wanted, open_extended, open_standard};
use crate::engine::Link;

fn renew(sim: &mut Sim, server_id: u8) {
    let mut out = sim.take_outbox();
    sim.engine.renew_prefixes(Some(server_id), &mut out);
    sim.give_outbox(out);
}

fn prefix(rig: &Rig) -> Vec<u8> {
    rig.client.extranonce_prefix().to_vec()
}

#[test]
fn channels_get_another_prefix_and_old_jobs_keep_theirs() {
    for more in ["mining.group_channels = true", "mining.group_channels = false"] {
        let (mut sim, tp) = Sim::working(&format!("shares.vardiff = false\n{more}"));
        let mut rig = sim.extended("a");
        let old = rig.search(Wanted::Share);
        let before = prefix(&rig);
        renew(&mut sim, 9);
        // First the prefix, then a job that has it.
        assert_eq!(rig.listen(&mut sim), ["SetExtranoncePrefix", "NewExtendedMiningJob"]);
        assert_eq!((prefix(&rig), before), (vec![9, 0, 0, 0], vec![7, 0, 0, 0]));
        rig.submit(&mut sim, &old);
        rig.mine(&mut sim, 3);
        assert!(rig.listen(&mut sim).is_empty(), "on either job");
        sim.tip(tp, 0, 2, 2);
        rig.listen(&mut sim);
        rig.mine(&mut sim, 1);
        assert!(rig.listen(&mut sim).is_empty());
        // Blocks found on a job that was sent again are submitted for its template.
        renew(&mut sim, 9);
        rig.listen(&mut sim);
        let block = rig.search(Wanted::Block);
        rig.submit(&mut sim, &block);
        sim.store();
        assert_eq!(sim.solutions(tp)[0].0, 2);
    }
}

#[test]
fn former_prefixes_are_free_when_no_job_has_them() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut rig = sim.extended("a");
    rig.mine(&mut sim, 1);
    renew(&mut sim, 7);
    rig.listen(&mut sim);
    assert_eq!(prefix(&rig), [7, 0, 0, 1]);
    assert_eq!(prefix(&sim.extended("b")), [7, 0, 0, 2], "the former one has jobs still");
    sim.tip(tp, 0, 2, 2);
    assert_eq!(prefix(&sim.extended("c")), [7, 0, 0, 3], "it has had its last a moment ago");
    sim.tip(tp, 0, 3, 3);
    assert_eq!(prefix(&sim.extended("d")), [7, 0, 0, 0]);
    // A channel that closes gives back all that it holds.
    renew(&mut sim, 7);
    let event = adit_transport::Event::Closed("closed by the peer");
    sim.event(rig.peer, Link::Miner, event);
    sim.tip(tp, 0, 4, 4);
    sim.tip(tp, 0, 5, 5);
    assert_eq!(sim.engine.core.extranonces.in_use(), 3);
}

#[test]
fn a_changed_configuration_is_taken_in_under_open_channels() {
    use adit_job_declaration::{AccountTag, Grant, Token, TokenId};
    let (mut sim, _) = super::custom::working("job_declaration.coinbase_only = true");
    let mut rig = sim.extended("a");
    let mut config = sim.config.clone();
    config.coinbase.server_id = 42;
    config.channels.max = 1;
    config.job_declaration.token_keys.clear();
    let used = Token {
        expiry: u32::MAX,
        id: TokenId([1; 8]),
        account: AccountTag::of(b"a"),
        grant: Grant::Allocated { outputs: [0; 32] },
    };
    let mut out = sim.take_outbox();
    sim.engine.reload(&config, &mut out);
    sim.give_outbox(out);
    assert_eq!(rig.listen(&mut sim), ["SetExtranoncePrefix", "NewExtendedMiningJob"]);
    assert_eq!(prefix(&rig), [42, 0, 0, 0]);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
    // The new limit, and no custom jobs any more.
    let other = sim.miner(0);
    sim.send(other, Link::Miner, &open_extended(1, "b"));
    sim.heard_only(other, "channel-capacity-exhausted");
    let peer = sim.open(Link::Miner);
    sim.send(peer, Link::Miner, &super::sim::setup_connection(0, 2, 2, 0b010));
    sim.heard_only(peer, "flags: 2, error_code: \"unsupported-feature-flags\"");
    // With other rules tokens that were used stay used.
    let (mut sim, _) = super::custom::working("");
    assert!(sim.engine.core.declarations.as_mut().unwrap().use_up(&used, 0));
    let config = sim.config.clone();
    let mut out = sim.take_outbox();
    sim.engine.reload(&config, &mut out);
    sim.give_outbox(out);
    assert!(!sim.engine.core.declarations.as_mut().unwrap().use_up(&used, 0));
}

#[test]
fn a_server_id_that_comes_back_remembers_who_has_its_slices() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let rig = sim.extended("a");
    for server_id in [8, 7, 8, 7] {
        renew(&mut sim, server_id);
    }
    sim.drop_frames_of(rig.peer);
    let mut prefixes = vec![prefix(&sim.extended("b"))];
    for tip in 2..5 {
        sim.tip(tp, 0, tip.into(), tip);
        prefixes.push(prefix(&sim.extended("c")));
    }
    let status = sim.engine.status(sim.now);
    let shown =
        |channel: &serde_json::Value| channel["extranonce_prefix"].as_str().unwrap().to_owned();
    let mut all: Vec<String> = status["channels"].as_array().unwrap().iter().map(shown).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5, "{all:?}");
}

#[test]
fn a_device_that_takes_standard_jobs_only_is_just_given_another() {
    let (mut sim, _) = Sim::working("shares.vardiff = false");
    let mut rig = sim.standard("a");
    let old = rig.search(Wanted::Share);
    renew(&mut sim, 9);
    assert_eq!(rig.listen(&mut sim), ["NewMiningJob"]);
    rig.submit(&mut sim, &old);
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
    let status = sim.engine.status(sim.now);
    assert_eq!(status["channels"][0]["extranonce_prefix"], "09000000");
    // In a group a standard channel is told, and keeps the group's length.
    let peer = sim.miner(0);
    sim.send(peer, Link::Miner, &open_extended(1, "b"));
    sim.send(peer, Link::Miner, &open_standard(2, "b"));
    sim.drop_frames();
    renew(&mut sim, 10);
    let names = sim.heard_names(peer);
    assert_eq!(names, ["SetExtranoncePrefix", "SetExtranoncePrefix", "NewExtendedMiningJob"]);
    let channel = &sim.engine.status(sim.now)["channels"][2];
    assert_eq!(channel["extranonce_prefix"].as_str().unwrap().len(), 2 * 12);
}
