//! Custom jobs on connections with several channels.

use super::*;

#[test]
fn a_group_has_one_custom_job_for_all_its_members() {
    let (mut sim, tp) = working("mining.group_channels = true");
    let peer = connect(&mut sim);
    let mut rigs = Vec::new();
    for request_id in 1..=2 {
        sim.send(peer, Link::Miner, &open_extended(request_id, "alice.farm"));
        rigs.push(sim.rig(peer));
    }
    let group = rigs[0].client.group_channel_id();
    assert_eq!(group, rigs[1].client.group_channel_id());
    let job = job(1, 300);
    let signed = token(1, declared(&job)).sign(&key(1), &[0; 32]);
    ask(&mut sim, peer, group, &job, &signed);
    let id = job_id(&mut sim, peer, group);
    for rig in &mut rigs {
        assert_eq!(share(&mut sim, rig, &job, id, 0), None);
    }
    assert_eq!(sim.records.len(), 2);
    sim.tip_at(tp, 0, 2, 2, 301);
    assert!(sim.heard(peer).is_empty());
    // A channel that joins them has no part in it: it is given our work, and the group, which the others leave.
    sim.send(peer, Link::Miner, &open_extended(3, "bob"));
    let mut bob = sim.rig(peer);
    assert_eq!(bob.client.group_channel_id(), group);
    let ids: Vec<u32> = rigs.iter().map(|rig| rig.client.id()).collect();
    let apart = moved(&mut sim, &mut bob, &ids);
    bob.mine(&mut sim, 1);
    let next = self::job(2, 301);
    let signed = token(2, declared(&next)).sign(&key(1), &[0; 32]);
    ask(&mut sim, peer, group, &next, &signed);
    assert!(sim.heard(peer)[0].contains("invalid-mining-job-token"), "bob has another account");
    ask(&mut sim, peer, apart, &next, &signed);
    let id = job_id(&mut sim, peer, apart);
    for rig in &mut rigs {
        assert_eq!(share(&mut sim, rig, &next, id, 0), None);
    }
}

/// The `SetGroupChannel` at the end of what was said, whose other messages are for this rig: the group into which these
/// channels went.
fn moved(sim: &mut Sim, rig: &mut Rig, ids: &[u32]) -> u32 {
    let mut into = None;
    while let Some((header, payload)) = sim.take_frame(rig.peer) {
        let message = Mining::decode(&header, &payload).unwrap().0;
        match message {
            Mining::SetGroupChannel(m) => {
                assert_eq!(m.channel_ids.iter().collect::<Vec<_>>(), ids);
                assert_eq!(into.replace(m.group_channel_id), None);
            }
            other => rig.take(&other),
        }
    }
    into.expect("a SetGroupChannel")
}

#[test]
fn a_channel_on_its_own_jobs_leaves_its_group_and_the_others_their_work() {
    let (mut sim, tp) = working("");
    let peer = connect(&mut sim);
    let mut rigs = [(); 3].map(|()| {
        sim.send(peer, Link::Miner, &open_extended(1, "alice.farm"));
        sim.rig(peer)
    });
    let group = rigs[0].client.group_channel_id();
    let [own, x, y] = &mut rigs;
    let first = job(1, 300);
    let id = declare(&mut sim, own, &first, 1);
    let apart = moved(&mut sim, own, &[own.client.id()]);
    assert_ne!(apart, group);
    assert!(sim.engine.miners[&peer].custom.in_force);
    own.client.set_group_channel_id(apart);
    // The others are told together, as before, and what they are told does not reach it.
    sim.tip_at(tp, 0, 2, 2, 301);
    let heard = sim.heard(peer);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard.iter().all(|m| m.contains(&format!("channel_id: {group},"))), "{heard:?}");
    assert_eq!(share(&mut sim, own, &first, id, 0), None, "the grace");
    let next = job(2, 301);
    let id = declare(&mut sim, own, &next, 2);
    assert!(sim.heard(peer).is_empty(), "it is apart already");
    // Work of ours goes on for the others, however long the first works on its own.
    for tip in 3..9u8 {
        let height = 299 + u32::from(tip);
        sim.tip_at(tp, 0, tip.into(), tip, height);
        let (frame, tip_frame) = (sim.take_frame(peer).unwrap(), sim.take_frame(peer).unwrap());
        for rig in [&mut *x, &mut *y] {
            for (header, payload) in [&frame, &tip_frame] {
                rig.take(&Mining::decode(header, payload).unwrap().0);
            }
            rig.mine(&mut sim, 1);
        }
        let next = job(tip, height);
        let id = declare(&mut sim, own, &next, tip);
        sim.pass(Duration::from_secs(6));
        sim.heard(peer);
        assert_eq!(share(&mut sim, own, &next, id, 0), None);
        sim.store();
        sim.heard(peer);
        for rig in [&mut *x, &mut *y] {
            rig.mine(&mut sim, 1);
        }
        sim.store();
    }
    assert!(share(&mut sim, own, &next, id, 0).unwrap().contains("stale-share"));
    sim.heard(peer);
    // Its own work ends with the tip: it is back where it was, and has ours. Nothing is said to the others.
    sim.tip_at(tp, 0, 9, 9, 308);
    sim.heard(peer);
    sim.pass(Duration::from_secs(6));
    let ids = [own.client.id(), x.client.id(), y.client.id()];
    assert_eq!(moved(&mut sim, own, &ids), group);
    own.client.set_group_channel_id(group);
    assert!(
        !sim.engine.miners[&peer].custom.in_force,
        "nobody is to be parted from whom is opened"
    );
    own.mine(&mut sim, 1);
    sim.tip_at(tp, 0, 10, 10, 309);
    let heard = sim.heard(peer);
    let to_group = heard.iter().filter(|m| m.contains(&format!("channel_id: {group},"))).count();
    assert_eq!((heard.len(), to_group), (2, 2), "{heard:?}");
}
