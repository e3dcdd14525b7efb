//! The channels of one connection, and their groups (spec 5.2.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_sv2::frame::encode_frame;

use super::jobs::JobTableError;
use super::{ChannelKind, ServerChannel};
use crate::coinbase::ends_with_push_of;
use crate::custom::{CustomJob, Portion};
use crate::job::{Job, JobError};
use crate::template::Tip;

mod groups;

pub use groups::Retargeted;

/// The channels that a server has on one connection: their ids and groups, and the shortest way to
/// give all of them new work.
///
/// `C` is whatever a role keeps for a channel. Methods that take `out` append the frames that tell
/// the client; all go to this one connection, in that order. `job_of` yields the job for a full
/// extranonce size, say [`JobSet::job`](crate::JobSet::job); jobs are shared, and a group is sent
/// one frame. Job ids are the caller's: with [`JobIds`](crate::JobIds) none meets a live one.
///
/// # Who is sent what
///
/// Where several channels of a group can take a message, and all of its members, it is addressed to
/// the group. Otherwise those who need something else first get it on their own channels: a client
/// must not be told a previous hash for a job that it does not have on that channel (spec 5.3.17),
/// and a group none for a job that was not addressed to it. A group of one is never addressed: it
/// saves nothing, and some clients do not listen to groups.
///
/// Channels whose clients work on jobs of their own
/// ([`set_own_work`](ServerChannel::set_own_work)) are given none of ours. In a group with others
/// they would hear theirs, so that those are addressed one by one until
/// [`regroup`](Self::regroup) has parted them.
#[derive(Debug)]
pub struct Channels<C> {
    grouping: Grouping,
    last_id: u32,
    /// Boxed, since a node of the map has room for eleven.
    channels: BTreeMap<u32, Box<C>>,
    /// At most one per extranonce size, and those that a caller made.
    groups: Vec<Group>,
    /// Group and job: future jobs that were addressed to the group. A client may keep a group's jobs
    /// by that address, and know no other job when the group is told a previous hash.
    sent: Vec<(u32, u32)>,
}

/// Of one group; more cannot wait on a channel.
const MAX_SENT: usize = super::jobs::MAX_LIVE_JOBS;

/// How a connection uses groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// There are none: the client has `REQUIRES_STANDARD_JOBS` (spec 5.3.22).
    None,
    /// Channels belong to groups, but each is sent its own messages: for clients that ignore those
    /// of a group.
    Named,
    /// One message per group.
    Broadcast,
}

/// Channels with one full extranonce size, addressed by one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id, in one space with those of channels.
    pub id: u32,
    /// Bytes of each member's whole extranonce.
    pub full_extranonce_size: usize,
}

/// Channels cannot be grouped so; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The connection has no groups.
    #[error("a connection without groups")]
    NoGroups,
    /// No such group.
    #[error("no group {0}")]
    UnknownGroup(u32),
    /// No such channel, or none at all.
    #[error("no channel {0}")]
    UnknownChannel(u32),
    /// All members have one full extranonce size.
    #[error("channel {0} has another extranonce size")]
    ExtranonceSize(u32),
    /// More members than one message can name.
    #[error("a group of {0} channels, at most 65535 can be named")]
    TooManyMembers(usize),
}

/// A custom job cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CustomError {
    /// No such extended channel, or no group with one.
    #[error("no extended channel or group {0}")]
    UnknownChannel(u32),
    /// The fields make no job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Another channel could have the same coinbases: see [`ends_with_push_of`].
    #[error("the extranonce is not what the last push of the coinbase's script pushes")]
    ExtranoncePlace,
    /// A channel does not take it.
    #[error(transparent)]
    Table(#[from] JobTableError),
}

impl<C: AsRef<ServerChannel> + AsMut<ServerChannel>> Channels<C> {
    /// A connection without channels.
    pub fn new(grouping: Grouping) -> Self {
        Self {
            grouping,
            last_id: 0,
            channels: BTreeMap::new(),
            groups: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// The group for a channel that is about to be opened, made where there is none; 0 where the
    /// connection has no groups. Asked before [`allocate_id`](Self::allocate_id), so that the first
    /// group is 1 and its first channel 2.
    pub fn group_for(&mut self, full_extranonce_size: usize) -> u32 {
        let fits = |group: &&Group| group.full_extranonce_size == full_extranonce_size;
        match self.groups.iter().find(fits) {
            _ if self.grouping == Grouping::None => 0,
            Some(group) => group.id,
            None => self.make_group(full_extranonce_size),
        }
    }

    /// An id that no channel or group has; never 0, which clients take for "none".
    pub fn allocate_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.channels.contains_key(&self.last_id) && self.group(self.last_id).is_none() {
                return self.last_id;
            }
        }
    }

    /// Adds an opened channel, to the group for its extranonce size. One with the same id, which is
    /// a mistake of the caller, is replaced and returned.
    pub fn insert(&mut self, mut channel: C) -> Option<C> {
        let size = channel.as_ref().full_extranonce_size();
        let group = self.group_for(size);
        channel.as_mut().set_group_channel_id(group);
        let id = channel.as_ref().id();
        self.channels.insert(id, Box::new(channel)).map(|old| *old)
    }

    /// Takes a channel out, or with a group's id all its members and the group (spec 5.3.9).
    pub fn close(&mut self, id: u32) -> Vec<C> {
        if self.group(id).is_none() {
            return self.channels.remove(&id).map(|channel| *channel).into_iter().collect();
        }
        self.groups.retain(|group| group.id != id);
        self.sent.retain(|(group, _)| *group != id);
        let (closed, open): (BTreeMap<_, _>, _) = std::mem::take(&mut self.channels)
            .into_iter()
            .partition(|(_, channel)| channel.server().group_channel_id() == id);
        self.channels = open;
        closed.into_values().map(|channel| *channel).collect()
    }

    /// Takes all channels out.
    pub fn close_all(&mut self) -> impl Iterator<Item = C> + use<C> {
        self.groups.clear();
        self.sent.clear();
        std::mem::take(&mut self.channels).into_values().map(|channel| *channel)
    }

    /// A channel.
    pub fn get(&self, id: u32) -> Option<&C> {
        self.channels.get(&id).map(|channel| &**channel)
    }

    /// A channel.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut C> {
        self.channels.get_mut(&id).map(|channel| &mut **channel)
    }

    /// All channels, lowest id first.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.channels.values().map(|channel| &**channel)
    }

    /// All channels, lowest id first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.channels.values_mut().map(|channel| &mut **channel)
    }

    /// How many channels.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// How the connection uses groups.
    pub fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// All groups, those included whose members are gone.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// A group.
    pub fn group(&self, id: u32) -> Option<Group> {
        self.groups.iter().find(|group| group.id == id).copied()
    }

    /// The members of a group, lowest id first.
    pub fn members(&self, group_id: u32) -> impl Iterator<Item = &C> {
        self.iter().filter(move |channel| channel.server().group_channel_id() == group_id)
    }

    /// Gives every channel a job that waits for its tip. Returns how many channels it is not for:
    /// `job_of` had none for their size.
    pub fn future_job(
        &mut self,
        job_id: u32,
        mut job_of: impl FnMut(usize) -> Option<Arc<Job>>,
        out: &mut Vec<u8>,
    ) -> usize {
        self.each_unit(|unit| {
            let Some(job) = job_of(unit.full_extranonce_size) else { return unit.len() };
            unit.send_future(job_id, &job, out);
            0
        })
    }

    /// The first half of a new tip, for all connections before anybody gets anything else: the
    /// small message to everyone who has the job. Says whether that was everyone; otherwise
    /// [`new_tip`](Self::new_tip) has work left.
    pub fn activate(&mut self, job_id: u32, tip: &Arc<Tip>, out: &mut Vec<u8>) -> bool {
        let left = self.each_unit(|unit| {
            if !unit.all(|channel| channel.awaits(job_id)) {
                return usize::from(!unit.all(|channel| channel.works_on(job_id)));
            }
            unit.send_tip(job_id, tip, out);
            0
        });
        left == 0
    }

    /// A new tip: every channel that does not work on this job is given it, where it has to be as a
    /// future job first, and the previous hash. Returns how many channels it is not for: `job_of`
    /// had none for their size; they have no work any more.
    pub fn new_tip(
        &mut self,
        job_id: u32,
        mut job_of: impl FnMut(usize) -> Option<Arc<Job>>,
        tip: &Arc<Tip>,
        out: &mut Vec<u8>,
    ) -> usize {
        self.each_unit(|unit| unit.new_tip(job_id, &mut job_of, tip, out))
    }

    /// Better work for the same tip, to be worked on at once. A channel that is not on the tip gets
    /// that as well. Returns how many channels it is not for, as [`new_tip`](Self::new_tip) does.
    pub fn active_job(
        &mut self,
        job_id: u32,
        mut job_of: impl FnMut(usize) -> Option<Arc<Job>>,
        tip: &Arc<Tip>,
        out: &mut Vec<u8>,
    ) -> usize {
        self.each_unit(|unit| {
            let ready = |channel: &ServerChannel| channel.is_on(tip);
            if !unit.any(ready) {
                return unit.new_tip(job_id, &mut job_of, tip, out);
            }
            let Some(job) = job_of(unit.full_extranonce_size) else { return unit.stop_work() };
            let whole = unit.all(|c| ready(c) && c.job(job_id).is_none());
            unit.visit(|channel| {
                if channel.job(job_id).is_some() {
                    return;
                }
                // Its size fits and the id is free.
                if channel.add_active_job(job_id, job.clone(), tip).is_err() {
                    let _ = channel.start_work(job_id, job.clone(), tip, out);
                } else if !whole {
                    channel.write_job(job_id, out);
                }
            });
            if let Some(group) = unit.address.filter(|_| whole) {
                job.write_frame_to(group, job_id, Some(tip.min_ntime), out);
            } else if whole {
                unit.visit(|channel| channel.write_job(job_id, out));
            }
            0
        })
    }

    /// Gives an extended channel, or all extended members of a group (spec 5.3.18), a custom job,
    /// to be worked on at once under this id. The tip is the caller's decision, as is all that the
    /// token is about. The extranonce must be the last push of the coinbase's script, alone and
    /// whole: no two channels then ever have a share in common. Returns how many channels have it
    /// now.
    ///
    /// # Errors
    /// [`CustomError`]; nothing changes then.
    pub fn add_custom_job(
        &mut self,
        channel_or_group: u32,
        job_id: u32,
        custom: &CustomJob,
        version_rolling_allowed: bool,
        tip: &Arc<Tip>,
        paid: Portion,
    ) -> Result<usize, CustomError> {
        let grouped = self.group(channel_or_group).is_some();
        let chosen = |channel: &ServerChannel| {
            let id = if grouped { channel.group_channel_id() } else { channel.id() };
            id == channel_or_group && channel.kind() == ChannelKind::Extended
        };
        let size = self.iter().map(C::as_ref).find(|channel| chosen(channel));
        let size =
            size.ok_or(CustomError::UnknownChannel(channel_or_group))?.full_extranonce_size();
        let job = Arc::new(custom.job(job_id, size, version_rolling_allowed)?);
        if !ends_with_push_of(&custom.coinbase_prefix, size) {
            return Err(CustomError::ExtranoncePlace);
        }
        for channel in self.iter().map(C::as_ref).filter(|channel| chosen(channel)) {
            channel.admits_custom_job(job_id, &job, tip)?;
        }
        let mut count = 0;
        for channel in self.iter_mut().map(C::as_mut).filter(|channel| chosen(channel)) {
            channel.add_custom_job(job_id, job.clone(), custom.min_ntime, tip, paid)?;
            count += 1;
        }
        Ok(count)
    }

    fn make_group(&mut self, full_extranonce_size: usize) -> u32 {
        let id = self.allocate_id();
        self.groups.push(Group { id, full_extranonce_size });
        id
    }

    /// Visits what a message can be addressed to, and adds up what the visits return.
    fn each_unit(&mut self, mut visit: impl FnMut(&mut Unit<'_, C>) -> usize) -> usize {
        let mut sum = 0;
        let sent = &mut self.sent;
        if self.grouping == Grouping::Broadcast {
            for Group { id, full_extranonce_size } in self.groups.iter().copied() {
                let channels = &mut self.channels;
                let group = Some(id);
                let mut unit =
                    Unit { channels, sent, group, address: None, single: 0, full_extranonce_size };
                let members = unit.len();
                if members > 0 {
                    unit.address = group.filter(|_| members > 1 && !unit.has_own_work());
                    sum += visit(&mut unit);
                }
            }
        } else {
            let mut next = 0;
            while let Some((id, channel)) = self.channels.range(next..).next() {
                let (single, full_extranonce_size) = (*id, channel.server().full_extranonce_size());
                let channels = &mut self.channels;
                let (group, address) = (None, None);
                let mut unit =
                    Unit { channels, sent, group, address, single, full_extranonce_size };
                if unit.len() > 0 {
                    sum += visit(&mut unit);
                }
                let Some(after) = single.checked_add(1) else { break };
                next = after;
            }
        }
        sum
    }
}

/// The members of a group, or one channel: those of them who are given our work.
struct Unit<'a, C> {
    channels: &'a mut BTreeMap<u32, Box<C>>,
    sent: &'a mut Vec<(u32, u32)>,
    group: Option<u32>,
    /// The group's id, where it reaches who it should and nobody else.
    address: Option<u32>,
    /// The channel where there is no group.
    single: u32,
    full_extranonce_size: usize,
}

impl<C: AsRef<ServerChannel> + AsMut<ServerChannel>> Unit<'_, C> {
    fn new_tip(
        &mut self,
        job_id: u32,
        job_of: &mut impl FnMut(usize) -> Option<Arc<Job>>,
        tip: &Arc<Tip>,
        out: &mut Vec<u8>,
    ) -> usize {
        if self.all(|channel| channel.works_on(job_id)) {
            return 0;
        }
        let Some(job) = job_of(self.full_extranonce_size) else { return self.stop_work() };
        self.send_future(job_id, &job, out);
        self.send_tip(job_id, tip, out);
        0
    }

    /// To those who do not have the job.
    fn send_future(&mut self, job_id: u32, job: &Arc<Job>, out: &mut Vec<u8>) {
        let nobody = !self.any(|channel| channel.job(job_id).is_some());
        let address = self.address.filter(|_| nobody);
        self.visit(|channel| {
            // Of a group's size, so it fails only where the id is in use: the job is there.
            if channel.add_future_job(job_id, job.clone()).is_ok() && address.is_none() {
                channel.write_job(job_id, out);
            }
        });
        if let Some(group) = address {
            job.write_frame_to(group, job_id, None, out);
            self.remember(group, job_id);
        }
    }

    /// To those who wait for it.
    fn send_tip(&mut self, job_id: u32, tip: &Arc<Tip>, out: &mut Vec<u8>) {
        let all = self.all(|channel| channel.awaits(job_id));
        let knows = |group: &u32| self.sent.contains(&(*group, job_id));
        let address = self.address.filter(|group| all && knows(group));
        self.visit(|channel| {
            if channel.set_new_prev_hash(job_id, tip).is_ok() && address.is_none() {
                encode_frame(&tip.set_new_prev_hash(channel.id(), job_id), out);
            }
        });
        if let Some(group) = address {
            encode_frame(&tip.set_new_prev_hash(group, job_id), out);
        }
        self.sent.retain(|(group, _)| Some(*group) != self.group);
    }

    fn remember(&mut self, group: u32, job_id: u32) {
        let of_group = |(its, _): &(u32, u32)| *its == group;
        if self.sent.iter().filter(|sent| of_group(sent)).count() == MAX_SENT
            && let Some(oldest) = self.sent.iter().position(of_group)
        {
            self.sent.remove(oldest);
        }
        self.sent.push((group, job_id));
    }

    fn stop_work(&mut self) -> usize {
        self.visit(ServerChannel::stop_work);
        self.len()
    }

    fn visit(&mut self, visit: impl FnMut(&mut ServerChannel)) {
        let (group, single) = (self.group, self.single);
        if let Some(group) = group {
            let servers = self.channels.values_mut().map(|channel| channel.server_mut());
            servers.filter(|c| c.group_channel_id() == group && !c.has_own_work()).for_each(visit);
        } else if let Some(channel) = self.channels.get_mut(&single) {
            Some(channel.server_mut()).filter(|c| !c.has_own_work()).into_iter().for_each(visit);
        }
    }

    fn count(&self, is: impl Fn(&ServerChannel) -> bool) -> usize {
        self.count_all(|channel| !channel.has_own_work() && is(channel))
    }

    fn has_own_work(&self) -> bool {
        self.count_all(ServerChannel::has_own_work) > 0
    }

    fn count_all(&self, is: impl Fn(&ServerChannel) -> bool) -> usize {
        if let Some(group) = self.group {
            let servers = self.channels.values().map(|channel| channel.server());
            return servers.filter(|c| c.group_channel_id() == group && is(c)).count();
        }
        usize::from(self.channels.get(&self.single).is_some_and(|channel| is(channel.server())))
    }

    fn all(&self, is: impl Fn(&ServerChannel) -> bool) -> bool {
        self.count(|channel| !is(channel)) == 0
    }

    fn any(&self, is: impl Fn(&ServerChannel) -> bool) -> bool {
        self.count(is) > 0
    }

    fn len(&self) -> usize {
        self.count(|_| true)
    }
}

/// `AsRef` through a box is ambiguous to write.
trait Server {
    fn server(&self) -> &ServerChannel;
    fn server_mut(&mut self) -> &mut ServerChannel;
}

impl<C: AsRef<ServerChannel> + AsMut<ServerChannel>> Server for C {
    fn server(&self) -> &ServerChannel {
        self.as_ref()
    }

    fn server_mut(&mut self) -> &mut ServerChannel {
        self.as_mut()
    }
}

impl AsRef<ServerChannel> for ServerChannel {
    fn as_ref(&self) -> &ServerChannel {
        self
    }
}

impl AsMut<ServerChannel> for ServerChannel {
    fn as_mut(&mut self) -> &mut ServerChannel {
        self
    }
}

#[cfg(test)]
mod tests;
