use std::collections::{BTreeMap, BTreeSet};

use adit_sv2::codec::B032;
use adit_sv2::frame::Header as FrameHeader;
use adit_sv2::messages::Message;
use adit_sv2::messages::mining::{
    Mining, NewExtendedMiningJob, OpenExtendedMiningChannelSuccess,
    OpenStandardMiningChannelSuccess, SetNewPrevHash,
};
use proptest::prelude::*;

use super::*;
use crate::channel::{ChannelOptions, ClientChannel, ClientError};
use crate::extranonce::Extranonce;
use crate::job::JobIds;
use crate::share::Share;
use crate::target::Target;
use crate::testing::{EASY, factory, job, template, tip};

const MIN_NTIME: u32 = 1_700_000_000;
const HARD: u32 = 0x1d00_ffff;

mod groups;

/// A connection with a server's and a client's end of each channel.
struct Net {
    server: Channels<ServerChannel>,
    clients: Vec<ClientChannel>,
    /// As a client may keep them: members as the last message about them said, and future jobs by
    /// the group that they were addressed to.
    groups: BTreeMap<u32, (BTreeSet<u32>, BTreeSet<u32>)>,
    slices: u8,
    ids: JobIds,
    jobs: Vec<(u32, Arc<Job>)>,
    tip: Option<Arc<Tip>>,
    out: Vec<u8>,
}

impl Net {
    fn new(grouping: Grouping) -> Self {
        Self {
            server: Channels::new(grouping),
            clients: Vec::new(),
            groups: BTreeMap::new(),
            slices: 0,
            ids: JobIds::default(),
            jobs: Vec::new(),
            tip: None,
            out: Vec::new(),
        }
    }

    /// Opens a channel whose full extranonce has `size` bytes, without giving it work.
    fn open(&mut self, kind: ChannelKind, size: usize) -> u32 {
        self.slices = self.slices.wrapping_add(1);
        let own = if kind == ChannelKind::Extended { size - 4 } else { 0 };
        let prefix = Extranonce::new(&[1, 0, 0, self.slices]).unwrap();
        let extranonce_prefix = if own == 0 { prefix.padded(size) } else { prefix };
        let group_channel_id = self.server.group_for(size);
        let channel_id = self.server.allocate_id();
        let target = Target::from_expected_hashes(2.0);
        let replaced = self.server.insert(ServerChannel::new(ChannelOptions {
            id: channel_id,
            kind,
            extranonce_prefix,
            extranonce_size: own,
            target,
            max_target: Target::MAX,
            max_shares_per_job: 1_000,
        }));
        assert!(replaced.is_none());
        let (target, extranonce_prefix) = (target.to_le_bytes(), extranonce_prefix.as_field());
        let client = match kind {
            ChannelKind::Standard => ClientChannel::standard(&OpenStandardMiningChannelSuccess {
                request_id: 0,
                channel_id,
                target,
                extranonce_prefix,
                group_channel_id,
            }),
            ChannelKind::Extended => ClientChannel::extended(&OpenExtendedMiningChannelSuccess {
                request_id: 0,
                channel_id,
                target,
                extranonce_size: own as u16,
                extranonce_prefix,
                group_channel_id,
            }),
        };
        self.clients.push(client.unwrap());
        if group_channel_id != 0 {
            self.groups.entry(group_channel_id).or_default().0.insert(channel_id);
        }
        channel_id
    }

    /// Closes a channel at both ends.
    fn close(&mut self, id: u32) {
        assert_eq!(self.server.close(id).len(), 1);
        self.clients.retain(|client| client.id() != id);
        self.groups.values_mut().for_each(|(members, _)| _ = members.remove(&id));
    }

    /// A new job: its id.
    fn make(&mut self) -> u32 {
        let id = self.ids.allocate();
        self.jobs.push((id, job(id, 20)));
        id
    }

    fn future(&mut self, id: u32) {
        let left = self.server.future_job(id, sized(id), &mut self.out);
        assert_eq!(left, 0);
    }

    fn tip(&mut self, id: u32, mark: u8) -> bool {
        let tip = tip(mark, MIN_NTIME, HARD);
        let done = self.server.activate(id, &tip, &mut self.out);
        self.tip = Some(tip.clone());
        if !done {
            assert_eq!(self.server.new_tip(id, sized(id), &tip, &mut self.out), 0);
        }
        done
    }

    fn active(&mut self, id: u32) {
        let tip = self.tip.clone().unwrap();
        assert_eq!(self.server.active_job(id, sized(id), &tip, &mut self.out), 0);
    }

    /// Delivers what was written; returns names and addressees. A client that refuses a message is
    /// a failure.
    fn deliver(&mut self) -> Vec<(&'static str, u32)> {
        let out = std::mem::take(&mut self.out);
        let (mut rest, mut seen) = (&out[..], Vec::new());
        while let Some((header, after)) = rest.split_first_chunk() {
            let header = FrameHeader::parse(header);
            let (payload, after) = after.split_at(header.msg_length as usize);
            rest = after;
            let (message, _) = Mining::decode(&header, payload).unwrap();
            seen.push((message.name(), self.take(&message)));
        }
        seen
    }

    fn take(&mut self, message: &Mining<'_>) -> u32 {
        match message {
            Mining::NewExtendedMiningJob(m) if m.min_ntime.is_none() => {
                if let Some((_, jobs)) = self.groups.get_mut(&m.channel_id) {
                    jobs.insert(m.job_id);
                }
            }
            Mining::SetNewPrevHash(m) => {
                if let Some((_, jobs)) = self.groups.get_mut(&m.channel_id) {
                    assert!(jobs.contains(&m.job_id), "group {} knows no such job", m.channel_id);
                    jobs.clear();
                }
            }
            _ => {}
        }
        let mut each = |id: u32, take: &mut dyn FnMut(&mut ClientChannel)| {
            let mut heard = 0;
            for client in self.clients.iter_mut().filter(|client| client.is_addressed_by(id)) {
                take(client);
                heard += 1;
            }
            assert!(heard > 0, "nobody is {id}");
            id
        };
        let fine = |result: Result<(), ClientError>| result.unwrap();
        match message {
            Mining::NewMiningJob(m) => {
                each(m.channel_id, &mut |c| fine(c.new_mining_job(m).map(|_| ())))
            }
            Mining::NewExtendedMiningJob(m) => {
                each(m.channel_id, &mut |c| fine(c.new_extended_mining_job(m).map(|_| ())))
            }
            Mining::SetNewPrevHash(m) => each(m.channel_id, &mut |c| fine(c.set_new_prev_hash(m))),
            Mining::SetTarget(m) => each(m.channel_id, &mut |c| fine(c.set_target(m))),
            Mining::SetGroupChannel(m) => {
                let ids: BTreeSet<u32> = m.channel_ids.iter().collect();
                for id in &ids {
                    let client = self.clients.iter_mut().find(|client| client.id() == *id);
                    client.unwrap().set_group_channel_id(m.group_channel_id);
                }
                self.groups
                    .values_mut()
                    .for_each(|(members, _)| members.retain(|m| !ids.contains(m)));
                // A group without members is forgotten.
                self.groups
                    .retain(|id, (members, _)| *id == m.group_channel_id || !members.is_empty());
                self.groups.insert(m.group_channel_id, (ids, BTreeSet::new()));
                m.group_channel_id
            }
            other => panic!("unexpected {}", other.name()),
        }
    }

    /// Both ends of every channel agree on any share of any job there ever was.
    fn agree(&mut self, nonce: u32) {
        for client in &mut self.clients {
            let server = self.server.get_mut(client.id()).unwrap();
            for (job_id, _) in &self.jobs {
                let share = Share {
                    sequence_number: 0,
                    job_id: *job_id,
                    nonce,
                    ntime: MIN_NTIME + 5,
                    version: 0x2000_0000,
                    extranonce: &[3; 32][..client.extranonce_size()],
                };
                let judged = server.check_share(&share, MIN_NTIME + 5);
                assert_eq!(client.check_share(&share, MIN_NTIME + 7_085), judged);
            }
            assert_eq!(client.target(), server.target());
            assert_eq!(client.group_channel_id(), server.group_channel_id());
            let active = client.active().map(|work| work.job_id);
            assert_eq!(active, server.active_job().map(|(id, _, _)| id));
        }
        for group in self.server.groups() {
            let members: BTreeSet<u32> =
                self.server.members(group.id).map(ServerChannel::id).collect();
            let heard = self.groups.get(&group.id).map(|(members, _)| members.clone());
            assert_eq!(heard.unwrap_or_default(), members, "members of {}", group.id);
        }
    }
}

fn job_20(id: u32) -> Arc<Job> {
    job(id, 20)
}

fn sized(id: u32) -> impl FnMut(usize) -> Option<Arc<Job>> {
    move |size| Some(Arc::new(factory().job(id, &template(u64::from(id)), size).unwrap()))
}

#[test]
fn one_message_per_group() {
    let mut net = Net::new(Grouping::Broadcast);
    let [a, b] = [(); 2].map(|()| net.open(ChannelKind::Extended, 20));
    let c = net.open(ChannelKind::Standard, 20);
    let d = net.open(ChannelKind::Extended, 12);
    // The first group, its members; another size, another group.
    assert_eq!((a, b, c, d), (2, 3, 4, 6));
    let groups: Vec<_> =
        net.server.groups().iter().map(|g| (g.id, g.full_extranonce_size)).collect();
    assert_eq!(groups, [(1, 20), (5, 12)]);
    assert_eq!(net.server.members(1).map(ServerChannel::id).collect::<Vec<_>>(), [2, 3, 4]);

    let first = net.make();
    net.future(first);
    // A group of one is not worth an address of its own.
    let both = |name| [(name, 1), (name, d)];
    assert_eq!(net.deliver(), both("NewExtendedMiningJob"));
    assert!(net.tip(first, 1), "everybody had it");
    assert_eq!(net.deliver(), both("SetNewPrevHash"));
    let newer = net.make();
    net.active(newer);
    assert_eq!(net.deliver(), both("NewExtendedMiningJob"));
    net.agree(1);
    // Not told ahead: job and tip, one each.
    let next = net.make();
    assert!(!net.tip(next, 2));
    assert_eq!(
        net.deliver(),
        [
            ("NewExtendedMiningJob", 1),
            ("SetNewPrevHash", 1),
            ("NewExtendedMiningJob", d),
            ("SetNewPrevHash", d)
        ]
    );
    net.agree(2);
}

/// The bytes: the job's own frame with the group's id in it.
#[test]
fn a_group_s_frame_is_the_shared_one() {
    let mut net = Net::new(Grouping::Broadcast);
    net.open(ChannelKind::Extended, 20);
    net.open(ChannelKind::Standard, 20);
    let id = net.make();
    let mut built = 0;
    net.server.future_job(
        id,
        |size| {
            built += 1;
            sized(id)(size)
        },
        &mut net.out,
    );
    assert_eq!(built, 1);
    let mut expected = job(id, 20).future_frame().to_vec();
    expected[6..10].copy_from_slice(&1u32.to_le_bytes());
    assert_eq!(net.out, expected);
    let (message, _) = NewExtendedMiningJob::decode(&net.out[6..]).unwrap();
    assert_eq!((message.channel_id, message.job_id, message.min_ntime), (1, id, None));
    let channels: Vec<_> = net.server.iter().map(|c| c.job(id).unwrap()).collect();
    assert!(Arc::ptr_eq(channels[0], channels[1]), "built once");

    net.out.clear();
    net.server.activate(id, &tip(1, MIN_NTIME, EASY), &mut net.out);
    let (message, _) = SetNewPrevHash::decode(&net.out[6..]).unwrap();
    assert_eq!(message, tip(1, MIN_NTIME, EASY).set_new_prev_hash(1, id));
    net.out.clear();
    net.server.active_job(9, sized(9), &tip(1, MIN_NTIME, EASY), &mut net.out);
    let (message, _) = NewExtendedMiningJob::decode(&net.out[6..]).unwrap();
    assert_eq!((message.job_id, message.min_ntime), (9, Some(MIN_NTIME)));
}

#[test]
fn without_broadcast_each_channel_is_addressed() {
    for grouping in [Grouping::None, Grouping::Named] {
        let mut net = Net::new(grouping);
        let a = net.open(ChannelKind::Extended, 20);
        let b = net.open(ChannelKind::Standard, 20);
        let named = grouping == Grouping::Named;
        assert_eq!(net.server.get(b).unwrap().group_channel_id(), u32::from(named));
        let id = net.make();
        net.future(id);
        assert_eq!(net.deliver(), [("NewExtendedMiningJob", a), ("NewMiningJob", b)]);
        assert!(net.tip(id, 1));
        assert_eq!(net.deliver(), [("SetNewPrevHash", a), ("SetNewPrevHash", b)]);
        let id = net.make();
        net.active(id);
        assert_eq!(net.deliver(), [("NewExtendedMiningJob", a), ("NewMiningJob", b)]);
        net.agree(1);
        let mut out = Vec::new();
        let group = net.server.set_group(None, &[a], &mut out);
        assert_eq!(group.is_ok(), named);
        if !named {
            assert_eq!(group, Err(GroupError::NoGroups));
        }
    }
}

/// One opened between a group's future job and its tip gets the job alone, and only it.
#[test]
fn a_member_that_lacks_the_job_gets_it_before_the_group_s_tip() {
    let mut net = Net::new(Grouping::Broadcast);
    let a = net.open(ChannelKind::Extended, 20);
    let x = net.open(ChannelKind::Extended, 20);
    let first = net.make();
    let tip_1 = tip(1, MIN_NTIME, HARD);
    net.tip(first, 1);
    net.deliver();
    let second = net.make();
    net.future(second);
    net.deliver();
    let b = net.open(ChannelKind::Standard, 20);
    let server = net.server.get_mut(b).unwrap();
    server.start_work(first, job(first, 20), &tip_1, &mut net.out).unwrap();
    assert_eq!(net.deliver(), [("NewMiningJob", b), ("SetNewPrevHash", b)]);
    net.agree(1);
    assert!(!net.tip(second, 2));
    assert_eq!(net.deliver(), [("NewMiningJob", b), ("SetNewPrevHash", 1)]);
    net.agree(2);
    // Opened on the newest work while the others are still to hear of it.
    let third = net.make();
    let c = net.open(ChannelKind::Extended, 20);
    let tip_3 = tip(3, MIN_NTIME, HARD);
    let server = net.server.get_mut(c).unwrap();
    server.start_work(third, job(third, 20), &tip_3, &mut net.out).unwrap();
    net.deliver();
    assert!(!net.tip(third, 3));
    assert_eq!(
        net.deliver(),
        [
            ("NewExtendedMiningJob", a),
            ("NewExtendedMiningJob", x),
            ("NewMiningJob", b),
            ("SetNewPrevHash", a),
            ("SetNewPrevHash", x),
            ("SetNewPrevHash", b)
        ]
    );
    assert!(net.server.activate(third, &tip_3, &mut net.out) && net.out.is_empty());
    net.agree(3);
}

#[test]
fn work_that_stopped_begins_again() {
    let mut net = Net::new(Grouping::Broadcast);
    let a = net.open(ChannelKind::Extended, 20);
    let b = net.open(ChannelKind::Extended, 20);
    let id = net.make();
    net.tip(id, 1);
    net.deliver();
    net.server.iter_mut().for_each(ServerChannel::stop_work);
    // Only b comes back by itself, on the next tip.
    let id = net.make();
    let tip_2 = tip(2, MIN_NTIME, HARD);
    let server = net.server.get_mut(b).unwrap();
    server.start_work(id, job(id, 20), &tip_2, &mut net.out).unwrap();
    net.deliver();
    net.tip = Some(tip_2);
    let newer = net.make();
    net.active(newer);
    assert_eq!(
        net.deliver(),
        [("NewExtendedMiningJob", a), ("SetNewPrevHash", a), ("NewExtendedMiningJob", b)]
    );
    // No job for a size: its channels have no work, the others do.
    let c = net.open(ChannelKind::Extended, 12);
    let last = net.make();
    let only_20 = |size| (size == 20).then(|| job(last, 20));
    let tip_3 = tip(3, MIN_NTIME, HARD);
    assert_eq!(net.server.new_tip(last, only_20, &tip_3, &mut net.out), 1);
    assert!(net.server.get(c).unwrap().active_job().is_none());
    assert!(net.server.get(a).unwrap().works_on(last));
}

/// An extended channel whose client rolls no byte of the extranonce.
#[test]
fn an_extranonce_of_no_bytes() {
    for grouping in [Grouping::Broadcast, Grouping::Named] {
        let mut net = Net::new(grouping);
        let [a, b] = [(); 2].map(|()| net.open(ChannelKind::Extended, 4));
        let first = net.make();
        net.future(first);
        assert!(net.deliver().iter().all(|(name, _)| *name == "NewExtendedMiningJob"));
        net.tip(first, 1);
        let second = net.make();
        net.active(second);
        net.deliver();
        let server = net.server.get_mut(a).unwrap();
        let id = net.ids.allocate();
        server.renew_job(id, MIN_NTIME).unwrap();
        server.write_job(id, &mut net.out);
        assert_eq!(net.deliver(), [("NewExtendedMiningJob", a)]);
        let share = Share {
            sequence_number: 1,
            job_id: second,
            nonce: 0,
            ntime: MIN_NTIME,
            version: 0x2000_0000,
            extranonce: &[0],
        };
        let refused = net.server.get_mut(b).unwrap().check_share(&share, MIN_NTIME).unwrap_err();
        assert_eq!(refused.error, crate::share::ShareError::BadExtranonceSize);
        (0..20).for_each(|nonce| net.agree(nonce));
    }
}

#[test]
fn custom_jobs_of_groups() {
    let mut net = Net::new(Grouping::Broadcast);
    let a = net.open(ChannelKind::Extended, 20);
    let b = net.open(ChannelKind::Extended, 20);
    let standard = net.open(ChannelKind::Standard, 20);
    let tip = tip(1, MIN_NTIME, HARD);
    let custom = factory().custom_job(&template(5), &tip, 20).unwrap();
    let mut add = |to, id| net.server.add_custom_job(to, id, &custom, true, &tip, Portion::WHOLE);
    assert_eq!(add(1, 10), Ok(2), "standard members are ignored");
    assert_eq!(add(a, 11), Ok(1));
    assert_eq!(add(standard, 12), Err(CustomError::UnknownChannel(standard)));
    assert_eq!(add(99, 12), Err(CustomError::UnknownChannel(99)));
    assert_eq!(add(1, 11), Err(JobTableError::IdInUse(11).into()));
    let [a, b, c] = [a, b, standard].map(|id| net.server.get(id).unwrap());
    assert!(a.works_on(10) && b.works_on(10) && a.works_on(11) && c.job(10).is_none());
    assert!(!b.works_on(11), "nothing was half done");
    for prefix in
        [&custom.coinbase_prefix[..1], &[custom.coinbase_prefix.as_slice(), &[20]].concat()]
    {
        let bad = CustomJob { coinbase_prefix: prefix.to_vec(), ..custom.clone() };
        let added = net.server.add_custom_job(2, 13, &bad, true, &tip, Portion::WHOLE);
        assert_eq!(added, Err(CustomError::ExtranoncePlace));
    }
    let bad = CustomJob { coinbase_tx_outputs: vec![9], ..custom };
    let added = net.server.add_custom_job(2, 13, &bad, true, &tip, Portion::WHOLE);
    assert!(matches!(added, Err(CustomError::Job(_))));
}

#[test]
fn ids_wrap_around_past_those_in_use() {
    let mut channels: Channels<ServerChannel> = Channels::new(Grouping::Broadcast);
    assert_eq!((channels.group_for(20), channels.group_for(20)), (1, 1));
    channels.last_id = u32::MAX - 1;
    assert_eq!(channels.allocate_id(), u32::MAX);
    assert_eq!(channels.allocate_id(), 2, "0 is nobody, 1 the group");
}

proptest! {
    /// Whatever a server does with its channels, no client is sent anything that it must refuse,
    /// and both ends judge every share alike.
    #[test]
    fn clients_follow(
        mode in 0u8..3,
        steps in prop::collection::vec((0u8..15, any::<u8>()), 0..60),
    ) {
        let grouping = [Grouping::None, Grouping::Named, Grouping::Broadcast][usize::from(mode)];
        let mut net = Net::new(grouping);
        let mut futures = Vec::new();
        let mut mark = 0u8;
        for (step, value) in steps {
            let client = (!net.clients.is_empty()).then(|| usize::from(value) % net.clients.len());
            match step {
                0 | 1 if net.clients.len() < 12 => {
                    let kind = [ChannelKind::Standard, ChannelKind::Extended][usize::from(step)];
                    let size = if value % 3 == 0 { 12 } else { 20 };
                    let id = net.open(kind, size);
                    if let (Some(tip), Some((job_id, _)), true) =
                        (net.tip.clone(), net.jobs.last().cloned(), value % 2 == 0)
                    {
                        let job = sized(job_id)(size).unwrap();
                        let server = net.server.get_mut(id).unwrap();
                        server.start_work(job_id, job, &tip, &mut net.out).unwrap();
                    }
                }
                2 | 3 => {
                    let id = net.make();
                    futures.push(id);
                    net.future(id);
                }
                4 | 5 => {
                    let known = futures.pop().filter(|_| value % 4 > 0);
                    futures.clear();
                    let id = known.unwrap_or_else(|| net.make());
                    mark = mark.wrapping_add(1);
                    net.tip(id, mark);
                }
                6 if net.tip.is_some() => {
                    let id = net.make();
                    net.active(id);
                }
                7 => if let Some(at) = client {
                    let id = net.clients[at].id();
                    let target = Target::from_expected_hashes(f64::from(value % 9 + 1));
                    if let Some(m) = net.server.get_mut(id).unwrap().set_target(target) {
                        encode_frame(&m, &mut net.out);
                    }
                },
                8 => if let Some(at) = client {
                    let group = net.clients[at].group_channel_id();
                    let target = Target::from_expected_hashes(f64::from(value % 9 + 1));
                    if group != 0 {
                        net.server.set_group_target(group, target, &mut net.out);
                    }
                },
                9 => if let Some(at) = client {
                    let ids: Vec<u32> = net.clients[at..].iter().map(ClientChannel::id).collect();
                    let _ = net.server.set_group(None, &ids, &mut net.out);
                },
                10 => if let Some(at) = client {
                    net.close(net.clients[at].id());
                },
                11 => if let Some(at) = client {
                    let id = net.clients[at].id();
                    let own_work = net.server.get(id).unwrap().has_own_work();
                    net.server.get_mut(id).unwrap().set_own_work(!own_work);
                    // As a role does it: who comes back is given the newest work.
                    if own_work && net.tip.is_some() {
                        let id = net.make();
                        net.active(id);
                    }
                    if value % 2 == 0 {
                        net.server.regroup(&mut net.out);
                    }
                },
                12 => {
                    let at = usize::from(value) % net.server.len().max(1);
                    let target = Target::from_expected_hashes(f64::from(value % 5 + 1));
                    let wanted: Vec<_> =
                        net.clients[..at].iter().map(|client| (client.id(), target)).collect();
                    for Retargeted { id, .. } in net.server.set_targets(&wanted, &mut net.out) {
                        let job_id = net.ids.allocate();
                        net.server.renew_jobs(id, job_id, MIN_NTIME, &mut net.out);
                        net.jobs.push((job_id, job(job_id, 20)));
                    }
                },
                13 => if grouping != Grouping::None {
                    net.server.set_grouping([Grouping::Named, Grouping::Broadcast][usize::from(value % 2)]);
                    net.server.regroup(&mut net.out);
                },
                _ => if let Some(at) = client {
                    let client = &mut net.clients[at];
                    let prefix = Extranonce::new(&vec![value; client.extranonce_prefix().len()]);
                    let server = net.server.get_mut(client.id()).unwrap();
                    let message = server.set_extranonce_prefix(prefix.unwrap()).unwrap();
                    client.set_extranonce_prefix(&message).unwrap();
                },
            }
            net.deliver();
            net.agree(u32::from(value));
        }
        // A group's id is nobody's channel.
        for group in net.server.groups() {
            prop_assert!(net.server.get(group.id).is_none());
            for member in net.server.members(group.id) {
                prop_assert_eq!(member.full_extranonce_size(), group.full_extranonce_size);
            }
        }
    }
}

/// The prefix in a message is the field's type.
#[test]
fn a_padded_prefix_is_a_field() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap().padded(20);
    assert_eq!(prefix.as_field(), B032::new(&[&[1, 2, 3, 4][..], &[0; 16]].concat()).unwrap());
    assert_eq!(prefix.padded(3), prefix);
    assert_eq!(prefix.padded(99).len(), 32);
}
