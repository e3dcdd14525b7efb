//! Groups: one message for all channels of a connection that have one extranonce size.

use adit_mining::{Change, ClientChannel, ClientChannels, Job, NonceScan, Target};
use adit_sv2::codec::{B032, Str0255};
use adit_sv2::messages::mining::{
    CloseChannel, Mining, OpenExtendedMiningChannel, OpenStandardMiningChannel,
    SubmitSharesExtended, SubmitSharesStandard, UpdateChannel,
};
use adit_transport::PeerId;
use proptest::prelude::*;

use super::sim::{Sim, open_extended, open_standard};
use crate::engine::Link;

/// A proxy with several channels on one connection.
struct Proxy {
    peer: PeerId,
    channels: ClientChannels,
    next_request: u32,
    /// What is said of the next channels.
    hash_rate: f32,
    heard: Vec<(&'static str, u32)>,
}

impl Proxy {
    fn new(sim: &mut Sim, flags: u32) -> Self {
        Self {
            peer: sim.miner(flags),
            channels: ClientChannels::default(),
            next_request: 1,
            hash_rate: 10.0,
            heard: Vec::new(),
        }
    }

    /// Opens a channel with so many bytes of extranonce, a standard one with none; returns its id.
    fn open(&mut self, sim: &mut Sim, extranonce_size: u16) -> u32 {
        self.collect(sim);
        let request_id = self.next_request;
        self.next_request += 1;
        let nominal_hash_rate = self.hash_rate;
        match extranonce_size {
            0 => {
                let open = open_standard(request_id, "a.b");
                let open = OpenStandardMiningChannel { nominal_hash_rate, ..open };
                sim.send(self.peer, Link::Miner, &open);
            }
            size => {
                let open = open_extended(request_id, "a.b");
                let open = OpenExtendedMiningChannel {
                    min_extranonce_size: size,
                    nominal_hash_rate,
                    ..open
                };
                sim.send(self.peer, Link::Miner, &open);
            }
        }
        let (header, payload) = sim.take_frame(self.peer).unwrap();
        let channel = match Mining::decode(&header, &payload).unwrap().0 {
            Mining::OpenExtendedMiningChannelSuccess(m) => ClientChannel::extended(&m).unwrap(),
            Mining::OpenStandardMiningChannelSuccess(m) => ClientChannel::standard(&m).unwrap(),
            other => panic!("{other}"),
        };
        let id = channel.id();
        assert!(self.channels.insert(channel).is_none());
        id
    }

    /// Takes what was said; returns each message's name and whom it is addressed to.
    fn listen(&mut self, sim: &mut Sim) -> Vec<(&'static str, u32)> {
        self.collect(sim);
        std::mem::take(&mut self.heard)
    }

    fn collect(&mut self, sim: &mut Sim) {
        while let Some((header, payload)) = sim.take_frame(self.peer) {
            let message = Mining::decode(&header, &payload).unwrap().0;
            let mut changed = Vec::new();
            self.channels
                .receive(&message, |c, change: Change| changed.push((c.id(), change)))
                .unwrap();
            let id = u32::from_le_bytes(*payload.first_chunk().unwrap());
            self.heard.push((message.name(), id));
        }
    }

    fn group(&self, id: u32) -> u32 {
        self.channels.get(id).unwrap().group_channel_id()
    }

    /// Finds and submits a share on each channel; all must be good.
    fn mine(&mut self, sim: &mut Sim) {
        let ids: Vec<u32> = self.channels.iter().map(ClientChannel::id).collect();
        for channel_id in ids {
            let channel = self.channels.get_mut(channel_id).unwrap();
            let sequence_number = channel.next_sequence_number();
            let work = channel.active().expect("work");
            let extranonce = vec![0x5a; channel.extranonce_size()];
            let root = work.job.merkle_root(work.extranonce_prefix, &extranonce).unwrap();
            let (job_id, version) = (work.job_id, work.job.version());
            // Not the same twice: every share has a time of its own.
            let ntime = work.min_ntime + self.next_request;
            let mut scan = NonceScan::new(&Job::header(work.tip, root, version, ntime, 0));
            let nonce = (0..).find(|nonce| work.target.is_met_by(&scan.hash(*nonce))).unwrap();
            if extranonce.is_empty() {
                let share = SubmitSharesStandard {
                    channel_id,
                    sequence_number,
                    job_id,
                    nonce,
                    ntime,
                    version,
                };
                sim.send(self.peer, Link::Miner, &share);
            } else {
                let extranonce = B032::new(&extranonce).unwrap();
                let share = SubmitSharesExtended {
                    channel_id,
                    sequence_number,
                    job_id,
                    nonce,
                    ntime,
                    version,
                    extranonce,
                };
                sim.send(self.peer, Link::Miner, &share);
            }
            let heard = sim.heard(self.peer);
            assert!(heard.is_empty(), "channel {channel_id}: {heard:?}");
        }
        self.next_request += 1;
    }
}

const NEW: &str = "NewExtendedMiningJob";
const TIP: &str = "SetNewPrevHash";

#[test]
fn a_group_is_told_once() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut proxy = Proxy::new(&mut sim, 0);
    let first = proxy.open(&mut sim, 8);
    let group = proxy.group(first);
    // A new channel is told its work alone, whatever its kind.
    assert_eq!(proxy.listen(&mut sim), [(NEW, first), (TIP, first)]);
    let second = proxy.open(&mut sim, 8);
    assert_eq!(proxy.listen(&mut sim), [(NEW, second), (TIP, second)]);
    let standard = proxy.open(&mut sim, 0);
    assert_eq!(proxy.listen(&mut sim), [("NewMiningJob", standard), (TIP, standard)]);
    assert_eq!((proxy.group(second), proxy.group(standard)), (group, group));
    assert!([first, second, standard].iter().all(|id| *id != group));
    // The standard channel's extranonce is as long as the others': its own four bytes, and zeroes.
    assert_eq!(
        **proxy.channels.get(standard).unwrap().extranonce_prefix(),
        [7, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    proxy.mine(&mut sim);
    // A future job, its tip, and newer work on it.
    sim.template(tp, 0, 2, true, 2);
    sim.prev_hash(tp, 0, 2, 2);
    assert_eq!(proxy.listen(&mut sim), [(NEW, group), (TIP, group)]);
    proxy.mine(&mut sim);
    sim.template(tp, 0, 3, false, 3);
    assert_eq!(proxy.listen(&mut sim), [(NEW, group)]);
    proxy.mine(&mut sim);
    sim.template(tp, 0, 4, true, 4);
    sim.pass(std::time::Duration::from_millis(300));
    assert_eq!(proxy.listen(&mut sim), [(NEW, group)]);
    sim.prev_hash(tp, 0, 4, 3);
    assert_eq!(proxy.listen(&mut sim), [(TIP, group)]);
    proxy.mine(&mut sim);
    assert_eq!(sim.store(), 3 * 4);
}

#[test]
fn each_extranonce_size_has_its_group() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut proxy = Proxy::new(&mut sim, 0);
    let ids: Vec<u32> = [8, 4, 8, 4, 16].iter().map(|size| proxy.open(&mut sim, *size)).collect();
    let groups: Vec<u32> = ids.iter().map(|id| proxy.group(*id)).collect();
    assert_eq!((groups[0], groups[1]), (groups[2], groups[3]));
    let mut distinct = groups.clone();
    distinct.extend(&ids);
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 3 + 5, "one space of ids");
    proxy.listen(&mut sim);
    sim.tip(tp, 0, 2, 2);
    let heard = proxy.listen(&mut sim);
    assert_eq!(heard.len(), 2 * 3);
    // The only member of a group is addressed itself: it may be one that does not listen to groups.
    assert!(heard.iter().all(|(_, id)| groups[..2].contains(id) || *id == ids[4]));
    proxy.mine(&mut sim);
}

#[test]
fn a_member_that_differs_is_told_alone_until_the_next_tip() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false");
    let mut proxy = Proxy::new(&mut sim, 0);
    let ids = [8, 8, 0].map(|size| proxy.open(&mut sim, size));
    let group = proxy.group(ids[0]);
    proxy.listen(&mut sim);
    // A target for one of them: for it alone, as is the job that brings it into force.
    for (id, job) in [(ids[1], NEW), (ids[2], "NewMiningJob")] {
        let smaller = Target::from_expected_hashes(400.0);
        let update = UpdateChannel {
            channel_id: id,
            nominal_hash_rate: 10.0,
            maximum_target: smaller.to_le_bytes(),
        };
        sim.send(proxy.peer, Link::Miner, &update);
        assert_eq!(proxy.listen(&mut sim), [("SetTarget", id), (job, id)]);
        assert_eq!(proxy.channels.get(id).unwrap().active().unwrap().target, smaller);
    }
    proxy.mine(&mut sim);
    sim.tip(tp, 0, 2, 2);
    assert_eq!(proxy.listen(&mut sim), [(NEW, group), (TIP, group)]);
    assert_eq!(proxy.channels.get(ids[1]).unwrap().active().unwrap().target.expected_hashes(), 400);
    proxy.mine(&mut sim);
    // One that comes between a future job and its tip.
    sim.template(tp, 0, 3, true, 3);
    sim.pass(std::time::Duration::from_millis(300));
    assert_eq!(proxy.listen(&mut sim), [(NEW, group)]);
    let late = proxy.open(&mut sim, 8);
    assert_eq!(proxy.listen(&mut sim), [(NEW, late), (TIP, late)]);
    sim.prev_hash(tp, 0, 3, 3);
    proxy.listen(&mut sim);
    proxy.mine(&mut sim);
    sim.tip(tp, 0, 4, 4);
    assert_eq!(proxy.listen(&mut sim), [(NEW, group), (TIP, group)]);
    proxy.mine(&mut sim);
}

#[test]
fn closing_a_group_closes_its_members_and_no_other() {
    let (mut sim, tp) = Sim::working("");
    let mut proxy = Proxy::new(&mut sim, 0);
    let ids = [8, 8, 4, 4].map(|size| proxy.open(&mut sim, size));
    proxy.listen(&mut sim);
    let group = proxy.group(ids[0]);
    let close = CloseChannel { channel_id: group, reason_code: Str0255::cut("done") };
    sim.send(proxy.peer, Link::Miner, &close);
    assert_eq!(sim.engine.core.channels, 2);
    sim.tip(tp, 0, 2, 2);
    let other = proxy.group(ids[2]);
    let heard: Vec<_> = {
        proxy.channels.remove(ids[0]);
        proxy.channels.remove(ids[1]);
        proxy.listen(&mut sim)
    };
    assert_eq!(heard, [(NEW, other), (TIP, other)]);
    proxy.mine(&mut sim);
    // Its id is not used again for something else.
    let again = proxy.open(&mut sim, 8);
    assert!(again != group && !ids.contains(&again));
}

#[test]
fn a_device_that_takes_standard_jobs_only_has_no_group() {
    let (mut sim, tp) = Sim::working("");
    let mut device = Proxy::new(&mut sim, 1);
    let ids = [0, 0].map(|size| device.open(&mut sim, size));
    assert_eq!(device.group(ids[0]), 0);
    device.listen(&mut sim);
    sim.tip(tp, 0, 2, 2);
    let mut heard = device.listen(&mut sim);
    heard.sort_unstable();
    let mut wanted: Vec<_> =
        ids.iter().flat_map(|id| [("NewMiningJob", *id), (TIP, *id)]).collect();
    wanted.sort_unstable();
    assert_eq!(heard, wanted);
    device.mine(&mut sim);
}

#[test]
fn clients_that_do_not_listen_to_groups_are_told_one_by_one() {
    let (mut sim, tp) = Sim::working("mining.group_channels = false");
    let mut proxy = Proxy::new(&mut sim, 0);
    let ids = [8, 8].map(|size| proxy.open(&mut sim, size));
    assert_eq!(proxy.group(ids[0]), proxy.group(ids[1]), "said all the same");
    proxy.listen(&mut sim);
    sim.tip(tp, 0, 2, 2);
    let heard = proxy.listen(&mut sim);
    assert!(heard.len() == 4 && heard.iter().all(|(_, id)| ids.contains(id)), "{heard:?}");
    proxy.mine(&mut sim);
}

/// A limit that moved is one message for all who are at it, and so is the job that brings it into force.
#[test]
fn a_limit_that_moves_is_told_to_the_group() {
    const SET: &str = "SetTarget";
    for grouped in [true, false] {
        let (mut sim, tp) = Sim::working(&format!("mining.group_channels = {grouped}"));
        let mut proxy = Proxy::new(&mut sim, 0);
        // As easy as the pool allows.
        proxy.hash_rate = 0.01;
        let ids = [8, 8, 0].map(|size| proxy.open(&mut sim, size));
        proxy.hash_rate = 100.0;
        let other = proxy.open(&mut sim, 4);
        proxy.listen(&mut sim);
        let group = proxy.group(ids[0]);
        sim.reload(|config| config.shares.min_hashrate = 5.0);
        sim.pass(std::time::Duration::from_secs(1));
        let heard = proxy.listen(&mut sim);
        match grouped {
            true => assert_eq!(heard, [(SET, group), (NEW, group)]),
            false => assert_eq!(heard.iter().filter(|(name, _)| *name == SET).count(), 3),
        }
        let hashes = |proxy: &Proxy, id| {
            proxy.channels.get(id).unwrap().active().unwrap().target.expected_hashes()
        };
        assert_eq!(ids.map(|id| hashes(&proxy, id)), [50; 3], "of the live job");
        assert_eq!(hashes(&proxy, other), 1_000);
        proxy.mine(&mut sim);
        assert_eq!(sim.engine.core.metrics.set_targets_count(), 3);

        // A tip whose blocks are easier: nobody's shares are harder than they.
        let mut strong = Proxy::new(&mut sim, 0);
        strong.hash_rate = 1e12;
        let ids = [8, 8].map(|size| strong.open(&mut sim, size));
        let group = strong.group(ids[0]);
        strong.listen(&mut sim);
        let block = |nbits| Target::from_nbits(nbits).unwrap().expected_hashes();
        assert_eq!(hashes(&strong, ids[0]), block(sim.nbits));
        sim.nbits = 0x1f03_ffff;
        sim.tip(tp, 0, 2, 2);
        strong.listen(&mut sim);
        sim.pass(std::time::Duration::from_secs(1));
        let heard = strong.listen(&mut sim);
        match grouped {
            true => assert_eq!(heard, [(SET, group), (NEW, group)]),
            false => assert_eq!(heard.len(), 4),
        }
        assert_eq!(ids.map(|id| hashes(&strong, id)), [block(sim.nbits); 2]);
        strong.mine(&mut sim);
    }
}

#[test]
fn groups_may_be_addressed_from_one_moment_to_the_next() {
    let (mut sim, tp) = Sim::working("shares.vardiff = false\nmining.group_channels = false");
    let mut proxy = Proxy::new(&mut sim, 0);
    let mut device = Proxy::new(&mut sim, 1);
    let ids = [8, 8].map(|size| proxy.open(&mut sim, size));
    let group = proxy.group(ids[0]);
    let id = device.open(&mut sim, 0);
    proxy.listen(&mut sim);
    device.listen(&mut sim);
    // A job is on its way to each channel when the switch is turned.
    sim.template(tp, 0, 2, true, 2);
    sim.pass(std::time::Duration::from_millis(300));
    assert_eq!(proxy.listen(&mut sim), ids.map(|id| (NEW, id)));
    sim.reload(|config| config.mining.group_channels = true);
    assert!(proxy.listen(&mut sim).is_empty(), "they know their group");
    sim.prev_hash(tp, 0, 2, 2);
    assert_eq!(proxy.listen(&mut sim), ids.map(|id| (TIP, id)));
    sim.tip(tp, 0, 3, 3);
    assert_eq!(proxy.listen(&mut sim), [(NEW, group), (TIP, group)]);
    proxy.mine(&mut sim);
    sim.reload(|config| config.mining.group_channels = false);
    sim.tip(tp, 0, 4, 4);
    assert_eq!(proxy.listen(&mut sim).len(), 4);
    proxy.mine(&mut sim);
    // Who has no groups has none.
    device.listen(&mut sim);
    sim.reload(|config| config.mining.group_channels = true);
    sim.tip(tp, 0, 5, 5);
    assert_eq!(device.listen(&mut sim), [("NewMiningJob", id), (TIP, id)]);
    device.mine(&mut sim);
}

#[test]
fn opening_and_closing_for_ever_exhausts_nothing() {
    let (mut sim, tp) = Sim::working("");
    let peer = sim.miner(0);
    for round in 0..200_000u32 {
        sim.send(peer, Link::Miner, &open_extended(1, "a"));
        let channel_id = 2 + round;
        sim.drop_frames();
        let close = CloseChannel { channel_id, reason_code: Str0255::default() };
        sim.send(peer, Link::Miner, &close);
    }
    assert_eq!(sim.engine.core.channels, 0);
    // 65,536 slices wait for the next tip; no more of the space was used up than those.
    let rig = sim.extended("honest");
    assert!(rig.client.extranonce_prefix()[1] <= 1, "{:?}", rig.client.extranonce_prefix());
    sim.tip(tp, 0, 2, 2);
    let another = sim.extended("honest");
    assert_eq!(**rig.client.extranonce_prefix(), [7, 0, 0, 0]);
    assert_eq!(**another.client.extranonce_prefix(), [7, 0, 0, 1]);
}

/// What happens to a pool and its proxies.
#[derive(Clone, Debug)]
enum Step {
    Open(usize, u16),
    Close(usize, prop::sample::Index),
    CloseGroup(usize, prop::sample::Index),
    Retarget(usize, prop::sample::Index),
    Mine(usize),
    Tip,
    Newer,
    Future,
    Prefixes(u8),
    Gone(usize),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..3;
    let which = any::<prop::sample::Index>();
    prop_oneof![
        4 => (who.clone(), prop::sample::select(vec![0u16, 4, 8])).prop_map(|(w, s)| Step::Open(w, s)),
        1 => (who.clone(), which).prop_map(|(w, i)| Step::Close(w, i)),
        1 => (who.clone(), any::<prop::sample::Index>()).prop_map(|(w, i)| Step::CloseGroup(w, i)),
        1 => (who.clone(), any::<prop::sample::Index>()).prop_map(|(w, i)| Step::Retarget(w, i)),
        3 => who.clone().prop_map(Step::Mine),
        2 => Just(Step::Tip),
        1 => Just(Step::Newer),
        1 => Just(Step::Future),
        1 => (7u8..9).prop_map(Step::Prefixes),
        1 => who.prop_map(Step::Gone),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever the order: no client is told what it cannot make sense of, every share of its is good, no two channels
    /// have one prefix, and what is counted is right.
    #[test]
    fn any_order_of_events(steps in prop::collection::vec(step(), 1..50), grouped: bool) {
        let (mut sim, tp) = Sim::working(&format!("shares.vardiff = false\nmining.group_channels = {grouped}"));
        // The last takes standard jobs only.
        let flags = [0, 0, 1];
        let mut proxies: Vec<Proxy> = flags.iter().map(|flags| Proxy::new(&mut sim, *flags)).collect();
        let (mut template, mut tip) = (1, 1u8);
        let id_of = |proxy: &Proxy, index: prop::sample::Index| {
            let ids: Vec<u32> = proxy.channels.iter().map(ClientChannel::id).collect();
            (!ids.is_empty()).then(|| ids[index.index(ids.len())])
        };
        for step in steps {
            match step {
                Step::Open(who, size) => {
                    let size = if flags[who] == 1 { 0 } else { size };
                    proxies[who].open(&mut sim, size);
                }
                Step::Close(who, index) => {
                    let Some(id) = id_of(&proxies[who], index) else { continue };
                    let close = CloseChannel { channel_id: id, reason_code: Str0255::default() };
                    sim.send(proxies[who].peer, Link::Miner, &close);
                    proxies[who].channels.remove(id);
                }
                Step::CloseGroup(who, index) => {
                    let Some(id) = id_of(&proxies[who], index) else { continue };
                    let group = proxies[who].group(id);
                    let close = CloseChannel { channel_id: group, reason_code: Str0255::default() };
                    sim.send(proxies[who].peer, Link::Miner, &close);
                    if group != 0 {
                        let members: Vec<u32> = proxies[who].channels.iter().filter(|c| c.group_channel_id() == group).map(ClientChannel::id).collect();
                        members.into_iter().for_each(|id| _ = proxies[who].channels.remove(id));
                    }
                }
                Step::Retarget(who, index) => {
                    let Some(channel_id) = id_of(&proxies[who], index) else { continue };
                    let maximum_target = Target::from_expected_hashes(150.0).to_le_bytes();
                    let update = UpdateChannel { channel_id, nominal_hash_rate: 10.0, maximum_target };
                    sim.send(proxies[who].peer, Link::Miner, &update);
                }
                Step::Mine(who) => {
                    proxies[who].listen(&mut sim);
                    proxies[who].mine(&mut sim);
                }
                Step::Tip => {
                    (template, tip) = (template + 1, tip + 1);
                    sim.tip(tp, 0, template, tip);
                }
                Step::Newer => {
                    template += 1;
                    sim.template(tp, 0, template, false, template as u8);
                }
                Step::Future => {
                    template += 1;
                    sim.template(tp, 0, template, true, template as u8);
                }
                Step::Prefixes(server_id) => {
                    let mut out = sim.take_outbox();
                    sim.engine.renew_prefixes(Some(server_id), &mut out);
                    sim.give_outbox(out);
                }
                Step::Gone(who) => {
                    let gone = adit_transport::Event::Closed("closed by the peer");
                    sim.event(proxies[who].peer, Link::Miner, gone);
                    sim.drop_frames_of(proxies[who].peer);
                    proxies[who] = Proxy::new(&mut sim, flags[who]);
                }
                Step::Wait => sim.pass(std::time::Duration::from_millis(300)),
            }
            sim.store();
            for proxy in &mut proxies {
                proxy.listen(&mut sim);
            }
        }
        for proxy in &mut proxies {
            proxy.mine(&mut sim);
        }
        let open: usize = proxies.iter().map(|proxy| proxy.channels.len()).sum();
        prop_assert_eq!(sim.engine.core.channels as usize, open);
        let channels = sim.engine.status(sim.now)["channels"].as_array().unwrap().clone();
        let mut prefixes: Vec<String> =
            channels.iter().map(|c| c["extranonce_prefix"].as_str().unwrap()[..8].to_owned()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prop_assert_eq!(prefixes.len(), open);
    }
}
