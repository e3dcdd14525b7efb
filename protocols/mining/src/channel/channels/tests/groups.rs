//! Who is in which group, and what groups are told.

use super::*;

/// A group's previous hash names a job that was addressed to the group, not one that each member
/// happens to have: SRI's translator leaves an upstream that does otherwise.
#[test]
fn a_group_is_told_a_tip_only_for_a_job_that_was_addressed_to_it() {
    // A job for the only member of a group is addressed to that channel.
    let mut net = Net::new(Grouping::Broadcast);
    let a = net.open(ChannelKind::Extended, 20);
    let first = net.make();
    net.future(first);
    assert_eq!(net.deliver(), [("NewExtendedMiningJob", a)]);
    let b = net.open(ChannelKind::Extended, 20);
    assert!(!net.tip(first, 1));
    let alone = [("NewExtendedMiningJob", b), ("SetNewPrevHash", a), ("SetNewPrevHash", b)];
    assert_eq!(net.deliver(), alone);
    // Members that come from another group have the job by that one's address.
    let second = net.make();
    net.future(second);
    assert_eq!(net.deliver(), [("NewExtendedMiningJob", 1)]);
    let new = net.server.set_group(None, &[a, b], &mut net.out).unwrap();
    assert!(net.tip(second, 2), "everybody had it");
    assert_eq!(
        net.deliver(),
        [("SetGroupChannel", new), ("SetNewPrevHash", a), ("SetNewPrevHash", b)]
    );
    net.agree(1);
    let third = net.make();
    net.tip(third, 3);
    assert_eq!(net.deliver(), [("NewExtendedMiningJob", new), ("SetNewPrevHash", new)]);
    net.agree(2);
    // However many wait, the oldest is forgotten at both ends.
    let ids: Vec<u32> = (0..MAX_SENT + 2).map(|_| net.make()).collect();
    ids.iter().for_each(|id| net.future(*id));
    assert_eq!(net.server.sent.len(), MAX_SENT);
    net.tip(ids[MAX_SENT], 4);
    assert!(net.server.sent.is_empty());
    net.deliver();
}

/// Whoever works on jobs of its own hears nothing of ours, nor does anybody go without them.
#[test]
fn channels_with_work_of_their_own_are_parted_from_the_others() {
    let mut net = Net::new(Grouping::Broadcast);
    let [a, b, c] = [(); 3].map(|()| net.open(ChannelKind::Extended, 20));
    let small = net.open(ChannelKind::Extended, 12);
    let first = net.make();
    net.tip(first, 1);
    net.deliver();
    net.server.get_mut(a).unwrap().set_own_work(true);
    // In one group still: the others are told one by one.
    let next = net.make();
    net.active(next);
    let job = |id| ("NewExtendedMiningJob", id);
    assert_eq!(net.deliver(), [job(b), job(c), job(small)]);
    assert!(!net.server.get(a).unwrap().works_on(next));
    assert_eq!(net.server.regroup(&mut net.out), 1);
    let [("SetGroupChannel", apart)] = net.deliver()[..] else { panic!() };
    assert_eq!(net.server.regroup(&mut net.out), 0);
    let next = net.make();
    net.active(next);
    assert_eq!(net.deliver(), [job(1), job(small)]);
    // Another one joins the first, and the message names both.
    net.server.get_mut(b).unwrap().set_own_work(true);
    assert_eq!(net.server.regroup(&mut net.out), 1);
    assert_eq!(net.deliver(), [("SetGroupChannel", apart)]);
    assert_eq!(net.server.members(apart).map(ServerChannel::id).collect::<Vec<_>>(), [a, b]);
    // A tip reaches those who are given our work.
    let next = net.make();
    net.tip(next, 2);
    assert_eq!(
        net.deliver(),
        [job(c), ("SetNewPrevHash", c), job(small), ("SetNewPrevHash", small)]
    );
    // One that comes back is where it was.
    net.server.get_mut(a).unwrap().set_own_work(false);
    assert_eq!(net.server.regroup(&mut net.out), 1);
    let tip_2 = net.tip.clone().unwrap();
    assert_eq!(net.server.new_tip(next, sized(next), &tip_2, &mut net.out), 0);
    assert_eq!(net.deliver(), [("SetGroupChannel", 1), job(a), ("SetNewPrevHash", a)]);
    net.agree(1);
    // Where all of a group work on their own nobody hears too much, and nothing is said.
    for id in [a, c] {
        net.server.get_mut(id).unwrap().set_own_work(true);
    }
    assert_eq!(net.server.regroup(&mut net.out), 0);
    let next = net.make();
    net.active(next);
    assert_eq!(net.deliver(), [job(small)]);
    // Until somebody joins it.
    let d = net.open(ChannelKind::Extended, 20);
    assert_eq!(net.server.regroup(&mut net.out), 2);
    assert_eq!(net.deliver(), [("SetGroupChannel", apart)]);
    assert_eq!(net.server.members(1).map(ServerChannel::id).collect::<Vec<_>>(), [d]);
    // Nothing is ever said of groups to clients that do not listen to them.
    for grouping in [Grouping::None, Grouping::Named] {
        let mut net = Net::new(grouping);
        let [a, b] = [(); 2].map(|()| net.open(ChannelKind::Extended, 20));
        net.server.get_mut(a).unwrap().set_own_work(true);
        assert_eq!((net.server.regroup(&mut net.out), net.out.len()), (0, 0));
        let id = net.make();
        net.tip(id, 1);
        assert_eq!(net.deliver(), [job(b), ("SetNewPrevHash", b)]);
    }
}

#[test]
fn the_way_groups_are_used_may_change() {
    let mut net = Net::new(Grouping::Named);
    let [a, b] = [(); 2].map(|()| net.open(ChannelKind::Extended, 20));
    let first = net.make();
    net.future(first);
    net.deliver();
    net.server.set_grouping(Grouping::Broadcast);
    net.tip(first, 1);
    // Its job was addressed to each.
    assert_eq!(net.deliver(), [("SetNewPrevHash", a), ("SetNewPrevHash", b)]);
    let second = net.make();
    net.future(second);
    assert_eq!(net.deliver(), [("NewExtendedMiningJob", 1)]);
    net.server.set_grouping(Grouping::Named);
    net.tip(second, 2);
    assert_eq!(net.deliver(), [("SetNewPrevHash", a), ("SetNewPrevHash", b)]);
    net.agree(1);
    net.server.set_grouping(Grouping::None);
    assert_eq!(net.server.grouping(), Grouping::Named, "channels have groups");
    let mut none: Channels<ServerChannel> = Channels::new(Grouping::None);
    none.set_grouping(Grouping::Broadcast);
    assert_eq!(none.grouping(), Grouping::None);
}

#[test]
fn groups_are_made_and_closed() {
    let mut net = Net::new(Grouping::Broadcast);
    let ids: Vec<u32> = (0..4).map(|_| net.open(ChannelKind::Extended, 20)).collect();
    let other = net.open(ChannelKind::Extended, 12);
    let id = net.make();
    net.tip(id, 1);
    net.deliver();
    let new = net.server.set_group(None, &ids[..2], &mut net.out).unwrap();
    assert_eq!(net.deliver(), [("SetGroupChannel", new)]);
    assert!(!ids.contains(&new) && new != 1 && new != other, "one space of ids");
    let id = net.make();
    net.active(id);
    assert_eq!(net.deliver().iter().filter(|(_, to)| [1, new].contains(to)).count(), 2);
    net.agree(1);
    // A new channel still joins the first group of its size.
    let e = net.open(ChannelKind::Extended, 20);
    assert_eq!(net.server.get(e).unwrap().group_channel_id(), 1);
    for (group, channels, error) in [
        (Some(99), &ids[..], GroupError::UnknownGroup(99)),
        (Some(new), &[99][..], GroupError::UnknownChannel(99)),
        (None, &[][..], GroupError::UnknownChannel(0)),
        (Some(new), &[ids[3], other][..], GroupError::ExtranonceSize(other)),
        (None, &[ids[3], other][..], GroupError::ExtranonceSize(other)),
    ] {
        assert_eq!(net.server.set_group(group, channels, &mut net.out), Err(error));
    }
    assert_eq!(net.server.get(ids[3]).unwrap().group_channel_id(), 1, "nothing changed");

    let closed: Vec<u32> = net.server.close(new).iter().map(ServerChannel::id).collect();
    assert_eq!(closed, ids[..2]);
    assert_eq!(net.server.group(new), None);
    assert_eq!(net.server.close(ids[2]).len(), 1);
    assert_eq!((net.server.close(ids[2]).len(), net.server.close(77).len()), (0, 0));
    assert_eq!(net.server.len(), 3);
    assert_eq!(net.server.close_all().count(), 3);
    assert!(net.server.is_empty() && net.server.groups().is_empty());
}

#[test]
fn a_target_for_a_group() {
    for (grouping, messages) in [(Grouping::Broadcast, 1), (Grouping::Named, 2)] {
        let mut net = Net::new(grouping);
        let a = net.open(ChannelKind::Extended, 20);
        net.open(ChannelKind::Standard, 20);
        let other = net.open(ChannelKind::Extended, 12);
        let limit = Target::from_expected_hashes(50.0);
        net.server.get_mut(a).unwrap().set_max_target(limit);
        net.server.get_mut(a).unwrap().set_target(Target::from_expected_hashes(70.0));
        net.out.clear();
        let hard = Target::from_expected_hashes(100.0);
        assert_eq!(net.server.set_group_target(1, hard, &mut net.out), Some(hard));
        assert_eq!(net.deliver().len(), messages);
        // No easier than the one that takes least.
        let easy = Target::from_expected_hashes(4.0);
        assert_eq!(net.server.set_group_target(1, easy, &mut net.out), Some(limit));
        assert_eq!(net.deliver().len(), messages);
        assert_eq!(net.server.set_group_target(1, easy, &mut net.out), Some(limit));
        assert!(net.out.is_empty());
        assert_eq!(net.server.set_group_target(99, easy, &mut net.out), None);
        assert_ne!(net.server.get(other).unwrap().target(), limit);
        net.agree(1);
    }
}

/// One message where it says all that there is to say.
#[test]
fn targets_are_told_together_where_they_are_the_same() {
    let mut net = Net::new(Grouping::Broadcast);
    let [a, b] = [(); 2].map(|()| net.open(ChannelKind::Extended, 20));
    let c = net.open(ChannelKind::Standard, 20);
    let d = net.open(ChannelKind::Extended, 12);
    let first = net.make();
    net.tip(first, 1);
    net.deliver();
    let of = |hashes: u32| Target::from_expected_hashes(f64::from(hashes));
    let told = |net: &mut Net, wanted: &[(u32, Target)]| {
        let told = net.server.set_targets(wanted, &mut net.out);
        assert_eq!(net.deliver().len(), told.len());
        net.agree(1);
        told.iter().map(|told| (told.id, told.channels)).collect::<Vec<_>>()
    };
    let all = |hashes| [a, b, c, d].map(|id| (id, of(hashes)));
    assert_eq!(told(&mut net, &all(8)), [(1, 3), (d, 1)]);
    assert_eq!(told(&mut net, &all(8)), []);
    // Some of them, one of them, and those who catch up with the rest.
    assert_eq!(told(&mut net, &[(a, of(9)), (b, of(9))]), [(a, 1), (b, 1)]);
    assert_eq!(told(&mut net, &[(c, of(9))]), [(c, 1)]);
    assert_eq!(told(&mut net, &[(a, of(5)), (b, of(6)), (c, of(5))]), [(a, 1), (b, 1), (c, 1)]);
    assert_eq!(told(&mut net, &[(a, of(6)), (c, of(6)), (99, of(6))]), [(1, 2)]);
    // No easier than one of them takes.
    net.server.get_mut(b).unwrap().set_max_target(of(6));
    assert_eq!(told(&mut net, &all(3)), [(a, 1), (c, 1), (d, 1)]);
    assert_eq!(told(&mut net, &all(7)), [(1, 3), (d, 1)]);
    net.server.set_grouping(Grouping::Named);
    assert_eq!(told(&mut net, &all(8)).len(), 4);

    // The live job once more, so that it counts: for the group under one id, at one time.
    net.server.set_grouping(Grouping::Broadcast);
    let renewed = net.make();
    net.server.renew_jobs(1, renewed, MIN_NTIME - 5, &mut net.out);
    let (job, _) = NewExtendedMiningJob::decode(&net.out[6..]).unwrap();
    assert_eq!((job.channel_id, job.job_id, job.min_ntime), (1, renewed, Some(MIN_NTIME + 1)));
    net.deliver();
    let targets = net.clients.iter().map(|client| client.active().unwrap().target);
    assert_eq!(targets.collect::<Vec<_>>()[..3], [of(8); 3]);
    net.agree(2);
    // One by one where they have not the same one, and not where they have their own.
    net.server.renew_jobs(b, net.ids.allocate(), MIN_NTIME + 9, &mut net.out);
    assert_eq!(net.deliver(), [("NewExtendedMiningJob", b)]);
    let other = net.make();
    let server = net.server.get_mut(c).unwrap();
    server.start_work(other, job_20(other), &tip(2, MIN_NTIME, HARD), &mut net.out).unwrap();
    net.deliver();
    let id = net.ids.allocate();
    net.server.renew_jobs(1, id, MIN_NTIME, &mut net.out);
    assert_eq!(
        net.deliver(),
        [("NewExtendedMiningJob", a), ("NewExtendedMiningJob", b), ("NewMiningJob", c)]
    );
    net.server.get_mut(a).unwrap().set_own_work(true);
    net.server.renew_jobs(a, net.ids.allocate(), MIN_NTIME, &mut net.out);
    net.server.renew_jobs(77, net.ids.allocate(), MIN_NTIME, &mut net.out);
    assert!(net.out.is_empty());
    let id = net.ids.allocate();
    net.server.renew_jobs(1, id, MIN_NTIME, &mut net.out);
    assert_eq!(net.deliver(), [("NewExtendedMiningJob", b), ("NewMiningJob", c)]);
    // Not for ever further into the future.
    let mut renewals = 0;
    while !net.deliver().is_empty() || renewals == 0 {
        renewals += 1;
        net.server.renew_jobs(1, net.ids.allocate(), MIN_NTIME, &mut net.out);
    }
    assert!((40..=60).contains(&renewals), "{renewals}");
}
