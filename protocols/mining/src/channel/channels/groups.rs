//! What groups are told about themselves: their members, and their targets.

use std::sync::Arc;

use adit_sv2::codec::Seq064K;
use adit_sv2::frame::encode_frame;
use adit_sv2::messages::mining::{SetGroupChannel, SetTarget};

use super::{Channels, Group, GroupError, Grouping, Server};
use crate::channel::ServerChannel;
use crate::channel::server::renewed_at;
use crate::job::Job;
use crate::target::Target;
use crate::template::Tip;

/// Who was told a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retargeted {
    /// The group or channel that the message was addressed to.
    pub id: u32,
    /// How many channels have another target now.
    pub channels: usize,
}

impl<C: AsRef<ServerChannel> + AsMut<ServerChannel>> Channels<C> {
    /// Uses groups in another way from now on. Channels know their groups from their opening, so
    /// nothing is to be said; a connection without groups ([`Grouping::None`]) stays one, and none
    /// becomes one.
    pub fn set_grouping(&mut self, grouping: Grouping) {
        if self.grouping != Grouping::None && grouping != Grouping::None {
            self.grouping = grouping;
            self.sent.clear();
        }
    }

    /// Puts channels together in a group, a new one where none is named, and appends the
    /// `SetGroupChannel`; returns the group's id. Their jobs stay what they are.
    ///
    /// The message names all members of the group, those included that it had before: the spec
    /// (5.3.22) can be read as adding channels to the group or as saying anew who is in it.
    ///
    /// # Errors
    /// [`GroupError`]; nothing changes then.
    pub fn set_group(
        &mut self,
        group_id: Option<u32>,
        channel_ids: &[u32],
        out: &mut Vec<u8>,
    ) -> Result<u32, GroupError> {
        if self.grouping == Grouping::None {
            return Err(GroupError::NoGroups);
        }
        let group = match group_id {
            Some(id) => Some(self.group(id).ok_or(GroupError::UnknownGroup(id))?),
            None => None,
        };
        let mut size = group.map(|group| group.full_extranonce_size);
        for id in channel_ids {
            let channel = self.channels.get(id).ok_or(GroupError::UnknownChannel(*id))?;
            let its = channel.server().full_extranonce_size();
            if *size.get_or_insert(its) != its {
                return Err(GroupError::ExtranonceSize(*id));
            }
        }
        let size = size.filter(|_| !channel_ids.is_empty()).ok_or(GroupError::UnknownChannel(0))?;
        let present = group.iter().flat_map(|group| self.members(group.id));
        let mut members: Vec<u32> = present
            .map(|channel| channel.server().id())
            .chain(channel_ids.iter().copied())
            .collect();
        members.sort_unstable();
        members.dedup();
        let count = members.len();
        let named = Seq064K::new(&members).map_err(|_| GroupError::TooManyMembers(count))?;
        let group_channel_id = group.map_or_else(|| self.make_group(size), |group| group.id);
        for id in channel_ids {
            if let Some(channel) = self.channels.get_mut(id) {
                channel.server_mut().set_group_channel_id(group_channel_id);
            }
        }
        encode_frame(&SetGroupChannel { group_channel_id, channel_ids: named }, out);
        // A client may make the group anew, and forget one that nobody is in.
        let kept = |group: u32| {
            group != group_channel_id
                && self.channels.values().any(|c| c.server().group_channel_id() == group)
        };
        self.sent.retain(|(group, _)| kept(*group));
        Ok(group_channel_id)
    }

    /// Parts channels whose clients work on jobs of their own
    /// ([`set_own_work`](ServerChannel::set_own_work)) from those that are given ours, and brings
    /// them back (`SetGroupChannel`, spec 5.3.22): a message to a group must reach nobody whom it
    /// is not for. Nothing is said where nobody would hear too much: a group whose members all do
    /// the same stays. Returns how many channels changed their group.
    ///
    /// The first group of a size is for our work; any other is taken to be one made here.
    pub fn regroup(&mut self, out: &mut Vec<u8>) -> usize {
        if self.grouping != Grouping::Broadcast {
            return 0;
        }
        let mut moved = 0;
        for at in 0..self.groups.len() {
            let Group { id: main, full_extranonce_size: size } = self.groups[at];
            let same = |group: &Group| group.full_extranonce_size == size;
            if self.groups[..at].iter().any(same) {
                continue;
            }
            let of_size =
                || self.iter().map(C::as_ref).filter(|c| c.full_extranonce_size() == size);
            let ids = |own_work: bool, in_main: bool| -> Vec<u32> {
                let is = |c: &&ServerChannel| {
                    c.has_own_work() == own_work && (c.group_channel_id() == main) == in_main
                };
                of_size().filter(is).map(ServerChannel::id).collect()
            };
            let (back, away) = (ids(false, false), ids(true, true));
            let shared = of_size().any(|channel| !channel.has_own_work());
            let apart = self.groups.iter().find(|group| same(group) && group.id != main);
            let apart = apart.map(|group| group.id);
            for (group, channels) in [(apart, away), (Some(main), back)] {
                if shared && self.set_group(group, &channels, out).is_ok() {
                    moved += channels.len();
                }
            }
        }
        moved
    }

    /// Another target for all members of a group, made no easier than any of them takes; `None`
    /// where there is nobody. As on a channel it counts for jobs to come and those that wait.
    pub fn set_group_target(
        &mut self,
        group_id: u32,
        target: Target,
        out: &mut Vec<u8>,
    ) -> Option<Target> {
        let hardest = self.members(group_id).map(|c| c.server().max_target()).min()?;
        let target = target.min(hardest);
        let members: Vec<(u32, Target)> =
            self.members(group_id).map(|c| (c.server().id(), target)).collect();
        self.set_targets(&members, out);
        Some(target)
    }

    /// Other targets for these channels, each made no easier than its client takes. Where all
    /// members of a group have the same one afterwards, and several of them did not before, the
    /// group is told, otherwise each channel. As on a channel they count for jobs to come and those
    /// that wait.
    pub fn set_targets(&mut self, wanted: &[(u32, Target)], out: &mut Vec<u8>) -> Vec<Retargeted> {
        let mut changed = Vec::with_capacity(wanted.len());
        for (id, target) in wanted {
            let Some(channel) = self.channels.get_mut(id) else { continue };
            let channel = channel.server_mut();
            if let Some(message) = channel.set_target(*target) {
                changed.push((channel.group_channel_id(), message));
            }
        }
        let mut told = Vec::with_capacity(changed.len());
        if self.grouping == Grouping::Broadcast {
            changed.sort_by_key(|(group, _)| *group);
            changed = changed
                .chunk_by(|(a, _), (b, _)| a == b)
                .flat_map(|of_group| {
                    let (id, message) = of_group[0];
                    let maximum_target = message.maximum_target;
                    let has_it =
                        |channel: &C| channel.as_ref().target().to_le_bytes() == maximum_target;
                    if of_group.len() < 2 || !self.members(id).all(has_it) {
                        return of_group;
                    }
                    encode_frame(&SetTarget { channel_id: id, maximum_target }, out);
                    told.push(Retargeted { id, channels: of_group.len() });
                    &[]
                })
                .copied()
                .collect();
        }
        for (_, message) in changed {
            encode_frame(&message, out);
            told.push(Retargeted { id: message.channel_id, channels: 1 });
        }
        told
    }

    /// The live job of a channel, or of the members of a group, once more under this id, so that a
    /// new target counts at once ([`ServerChannel::renew_job`]): one message where all members have
    /// the same job. Channels whose clients work on jobs of their own are left alone.
    pub fn renew_jobs(&mut self, id: u32, job_id: u32, now_unix: u32, out: &mut Vec<u8>) {
        let Some(group) = self.group(id) else {
            if let Some(channel) = self.channels.get_mut(&id) {
                renew(channel.server_mut(), job_id, now_unix, true, out);
            }
            return;
        };
        let broadcast = self.grouping == Grouping::Broadcast;
        let first = self.members(group.id).next().and_then(|c| c.server().active_job());
        let shared = first.map(|(_, job, tip)| (job.clone(), tip.prev_hash)).filter(|(job, on)| {
            let has_it = |c: &ServerChannel| {
                let same = |(_, its, tip): (u32, &Arc<Job>, &Arc<Tip>)| {
                    Arc::ptr_eq(its, job) && tip.prev_hash == *on
                };
                !c.has_own_work() && c.active_job().is_some_and(same)
            };
            broadcast && self.members(id).all(|c| has_it(c.server()))
        });
        // One time for all, later than that of any.
        let last = self.members(id).filter_map(|c| c.server().active_min_ntime()).max();
        let tip = self.members(id).filter_map(|c| Some(c.server().active_job()?.2.min_ntime)).max();
        let Some(at) = renewed_at(last.unwrap_or(0), tip.unwrap_or(0), now_unix) else { return };
        let members = self
            .channels
            .values_mut()
            .map(|c| c.server_mut())
            .filter(|c| c.group_channel_id() == id);
        for channel in members {
            renew(channel, job_id, at, shared.is_none(), out);
        }
        if let Some((job, _)) = shared {
            job.write_frame_to(id, job_id, Some(at), out);
        }
    }
}

fn renew(channel: &mut ServerChannel, job_id: u32, at: u32, alone: bool, out: &mut Vec<u8>) {
    if !channel.has_own_work() && channel.renew_job(job_id, at).is_some() && alone {
        channel.write_job(job_id, out);
    }
}
