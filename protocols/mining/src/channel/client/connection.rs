//! The channels of one connection as the client sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_sv2::messages::mining::{Mining, NewExtendedMiningJob};

use super::{Change, ClientChannel, ClientError};
use crate::job::Job;

/// The channels that a client has on one connection: takes the server's messages to the channel or
/// the members of the group that they are addressed to.
///
/// A message for a channel that is not here, closed by us a moment ago perhaps, is for nobody.
#[derive(Debug, Default)]
pub struct ClientChannels {
    channels: BTreeMap<u32, Box<ClientChannel>>,
}

impl ClientChannels {
    /// Adds a channel that was just opened. A former one with its id, which the server may use again
    /// after it was closed, is replaced and returned.
    pub fn insert(&mut self, channel: ClientChannel) -> Option<ClientChannel> {
        self.channels.insert(channel.id(), Box::new(channel)).map(|old| *old)
    }

    /// Takes a channel out: we closed it.
    pub fn remove(&mut self, id: u32) -> Option<ClientChannel> {
        self.channels.remove(&id).map(|channel| *channel)
    }

    /// A channel.
    pub fn get(&self, id: u32) -> Option<&ClientChannel> {
        self.channels.get(&id).map(|channel| &**channel)
    }

    /// A channel.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut ClientChannel> {
        self.channels.get_mut(&id).map(|channel| &mut **channel)
    }

    /// All channels, lowest id first.
    pub fn iter(&self) -> impl Iterator<Item = &ClientChannel> {
        self.channels.values().map(|channel| &**channel)
    }

    /// How many channels.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Takes a message of the server about jobs, tips, targets, prefixes, groups and closing;
    /// others change nothing here. `changed` is told every channel that it changed.
    ///
    /// # Errors
    /// [`ClientError`] of the first channel that cannot take it. Other members of a group have
    /// taken it all the same.
    pub fn receive(
        &mut self,
        message: &Mining<'_>,
        mut changed: impl FnMut(&ClientChannel, Change),
    ) -> Result<(), ClientError> {
        let changed = &mut changed;
        match message {
            Mining::NewMiningJob(m) => self
                .alone(m.channel_id, changed, |channel| channel.new_mining_job(m).map(Change::Job)),
            Mining::NewExtendedMiningJob(m) => self.extended_job(m, changed),
            Mining::SetNewPrevHash(m) => self.addressed(m.channel_id, changed, |channel| {
                channel.set_new_prev_hash(m).map(|()| Change::Tip)
            }),
            Mining::SetTarget(m) => self.addressed(m.channel_id, changed, |channel| {
                channel.set_target(m).map(|()| Change::Target)
            }),
            // Not for groups (spec 5.3.10).
            Mining::SetExtranoncePrefix(m) => self.alone(m.channel_id, changed, |channel| {
                channel.set_extranonce_prefix(m).map(|()| Change::Prefix)
            }),
            Mining::SetGroupChannel(m) => {
                if self.channels.contains_key(&m.group_channel_id) {
                    return Err(ClientError::GroupIsChannel(m.group_channel_id));
                }
                for id in m.channel_ids.iter() {
                    if let Some(channel) = self.channels.get_mut(&id) {
                        channel.set_group_channel_id(m.group_channel_id);
                        changed(channel, Change::Group);
                    }
                }
                Ok(())
            }
            Mining::CloseChannel(m) => {
                self.channels.retain(|_, channel| {
                    let closed = channel.is_addressed_by(m.channel_id);
                    if closed {
                        changed(channel, Change::Closed);
                    }
                    !closed
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Members of a group share one job: they have one full extranonce size.
    fn extended_job(
        &mut self,
        message: &NewExtendedMiningJob<'_>,
        changed: &mut impl FnMut(&ClientChannel, Change),
    ) -> Result<(), ClientError> {
        let mut shared: Option<Arc<Job>> = None;
        self.addressed(message.channel_id, changed, |channel| {
            let job = match &shared {
                Some(job) => job.clone(),
                None => {
                    let job = Job::from_extended(message, channel.full_extranonce_size())?;
                    shared.insert(Arc::new(job)).clone()
                }
            };
            channel.insert(job, message.min_ntime).map(Change::Job)
        })
    }

    fn alone(
        &mut self,
        id: u32,
        changed: &mut impl FnMut(&ClientChannel, Change),
        take: impl FnOnce(&mut ClientChannel) -> Result<Change, ClientError>,
    ) -> Result<(), ClientError> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        let change = take(channel)?;
        changed(channel, change);
        Ok(())
    }

    fn addressed(
        &mut self,
        id: u32,
        changed: &mut impl FnMut(&ClientChannel, Change),
        mut take: impl FnMut(&mut ClientChannel) -> Result<Change, ClientError>,
    ) -> Result<(), ClientError> {
        if self.channels.contains_key(&id) {
            return self.alone(id, changed, take);
        }
        let mut outcome = Ok(());
        let members = self.channels.values_mut().filter(|c| c.group_channel_id() == id);
        for channel in members {
            match take(channel) {
                Ok(change) => changed(channel, change),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
