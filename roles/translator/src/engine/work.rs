//! What the upstream says of work: jobs, tips, targets, prefixes, and what became of shares.

use std::sync::Arc;

use adit_mining::{Extranonce, Job, Tip};
use adit_sv2::messages::mining::{
    Mining, NewExtendedMiningJob, SetExtranoncePrefix, SetGroupChannel, SetNewPrevHash,
};
use adit_transport::{Now, Outbox, PeerId};

use super::aggregate::fan_out;
use super::channel::{Channel, FutureJob, Violation};
use super::connection::Place;
use super::payout::Verify;
use super::{Effect, TranslatorEngine};

impl TranslatorEngine {
    pub(super) fn mining(
        &mut self,
        place: Place,
        peer: PeerId,
        message: Mining<'_>,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        match message {
            Mining::OpenExtendedMiningChannelSuccess(m) => {
                return self.channel_opened(place, peer, &m, now, out);
            }
            Mining::OpenMiningChannelError(m) => return self.open_refused(place, &m, now, out),
            Mining::CloseChannel(m) => return self.channel_closed(place, peer, &m, now),
            message if self.is_for_all(peer, &message) => {
                return self.work_of_all(place, peer, &message, payload, now, out);
            }
            // For a channel that was closed a moment ago.
            _ if place == Place::Candidate => {}
            Mining::NewExtendedMiningJob(m) => return self.new_job(&m, payload, now, out),
            Mining::SetNewPrevHash(m) => return self.new_prev_hash(&m, now, out),
            // Reaches a miner with its next job: that is from when on the upstream counts by it (spec 5.3.21).
            Mining::SetTarget(m) => {
                let target = m.maximum_target;
                return self.each_channel(m.channel_id, |channel, _| channel.set_target(target));
            }
            Mining::SetExtranoncePrefix(m) => return self.set_prefix(&m),
            Mining::SetGroupChannel(m) => self.set_group(&m),
            Mining::SubmitSharesSuccess(m) => self.shares_accepted(peer, &m, now),
            Mining::SubmitSharesError(m) => self.share_rejected(peer, &m, now, out),
            // About requests that are never made, or about standard channels, of which there are none.
            _ => {}
        }
        Ok(())
    }

    /// Whether it is about work on the channel of all.
    fn is_for_all(&mut self, peer: PeerId, message: &Mining<'_>) -> bool {
        let channel_id = match message {
            Mining::NewExtendedMiningJob(m) => m.channel_id,
            Mining::SetNewPrevHash(m) => m.channel_id,
            Mining::SetTarget(m) => m.channel_id,
            Mining::SetExtranoncePrefix(m) => m.channel_id,
            Mining::SetGroupChannel(_) => return self.of_all(peer).is_some(),
            _ => return false,
        };
        self.of_all(peer).is_some_and(|all| all.is_addressed_by(channel_id))
    }

    /// Work on the channel of all: told to all miners, if they work on it.
    fn work_of_all(
        &mut self,
        place: Place,
        peer: PeerId,
        message: &Mining<'_>,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let Some(all) = self.of_all(peer) else { return Ok(()) };
        let channel = &mut all.channel;
        let mut void_others = false;
        let work = match message {
            Mining::NewExtendedMiningJob(m) => {
                let size = channel.full_size();
                let job = self.job(place, m, payload, size)?;
                let Some(all) = self.of_all(peer) else { return Ok(()) };
                let channel = &mut all.channel;
                match m.min_ntime {
                    None => {
                        channel.future_job(m.job_id, job);
                        return Ok(());
                    }
                    // Said to the group before its newest member was told the tip.
                    Some(_) if !channel.has_tip() && m.channel_id != channel.id => return Ok(()),
                    Some(min_ntime) => channel.active_job(m.job_id, job, min_ntime, now.instant)?,
                }
            }
            Mining::SetNewPrevHash(m) => {
                let is_new = channel.has_tip() || m.channel_id == channel.id;
                let tip = self.tip(place, m, now)?;
                let Some(all) = self.of_all(peer) else { return Ok(()) };
                void_others = true;
                match all.channel.new_prev_hash(m.job_id, &[], tip, now.instant) {
                    Ok(work) => work,
                    Err(_) if !is_new => return Ok(()),
                    Err(violation) => return Err(violation),
                }
            }
            // Reaches miners with the next job: that is from when on the upstream counts by it (spec 5.3.21).
            Mining::SetTarget(m) => return channel.set_target(m.maximum_target),
            Mining::SetExtranoncePrefix(m) => {
                return channel.set_prefix(Extranonce::from(m.extranonce_prefix), &[]);
            }
            Mining::SetGroupChannel(m) => {
                if m.channel_ids.iter().any(|id| id == channel.id) {
                    channel.set_group(m.group_channel_id, &[]);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.at(place).works_since.get_or_insert(now.instant);
        if self.core.aggregate.as_ref().is_none_or(|all| all.channel.via != peer) {
            if let Some(all) = &mut self.at(place).of_all {
                // Ids that no miner is told, unless the upstream is worked for one day.
                let mut ids = 0;
                all.push(Arc::new(work), void_others, &mut ids, now);
            }
            if place == Place::Active {
                self.install(now, out);
            }
            return Ok(());
        }
        if let Some(all) = &mut self.core.aggregate {
            all.push(Arc::new(work), void_others, &mut self.core.last_job_id, now);
        }
        fan_out(&mut self.miners, &mut self.core, now, out);
        if let Some((_, since)) = self.core.newest_tip.filter(|_| void_others) {
            out.effect(Effect::FannedOut(since));
        }
        Ok(())
    }

    /// The job of a message, if it pays whom it should.
    fn job(
        &mut self,
        place: Place,
        message: &NewExtendedMiningJob<'_>,
        payload: &[u8],
        full_extranonce_size: usize,
    ) -> Result<Arc<Job>, Violation> {
        let index = self.at(place).index;
        let config = &self.upstreams.get(index).config;
        let percent = config.verify_payout_percent;
        let verify = config.verify_payout.as_ref().map(|payout| Verify { payout, percent });
        let upstream = match (place, &mut self.candidate) {
            (Place::Candidate, Some(candidate)) => candidate,
            _ => &mut self.upstream,
        };
        upstream.job(message, payload, full_extranonce_size, verify.as_ref())
    }

    /// The tip of a message; released slices are free on a new one.
    fn tip(
        &mut self,
        place: Place,
        message: &SetNewPrevHash,
        now: Now,
    ) -> Result<Arc<Tip>, Violation> {
        let tip = self.at(place).tip(message)?;
        let known = self.core.newest_tip.is_some_and(|(hash, _)| hash == tip.prev_hash);
        if place == Place::Active && !known {
            self.core.newest_tip = Some((tip.prev_hash, now.instant));
            self.core.slices.new_prev_hash();
        }
        Ok(tip)
    }

    fn new_job(
        &mut self,
        message: &NewExtendedMiningJob<'_>,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let (id, group) = (message.job_id, self.upstream.is_group(message.channel_id));
        for peer in self.upstream.addressed(message.channel_id) {
            let Some(miner) = self.miners.get_mut(&peer) else { continue };
            let Some(channel) = &mut miner.channel else { continue };
            let size = channel.full_size();
            let job = self.job(Place::Active, message, payload, size)?;
            self.upstream.works_since.get_or_insert(now.instant);
            let Some(miner) = self.miners.get_mut(&peer) else { continue };
            let Some(channel) = &mut miner.channel else { continue };
            match message.min_ntime {
                None if group => {
                    // Members have extranonces of one size (spec 5.2.3): the job of the first is that of all.
                    let future = FutureJob { id, job, prefix: None };
                    self.upstream.keep_group_future(message.channel_id, future);
                    return Ok(());
                }
                None => channel.future_job(id, job),
                // A new member that was not told the tip yet: its own first job is on the way.
                Some(_) if group && !channel.has_tip() => {}
                Some(min_ntime) => {
                    let work = channel.active_job(id, job, min_ntime, now.instant)?;
                    miner.notify(peer, Arc::new(work), false, &mut self.core, now, out);
                }
            }
        }
        Ok(())
    }

    fn new_prev_hash(
        &mut self,
        message: &SetNewPrevHash,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let tip = self.tip(Place::Active, message, now)?;
        let group = self.upstream.is_group(message.channel_id);
        let peers = self.upstream.addressed(message.channel_id);
        for peer in &peers {
            let Some(miner) = self.miners.get_mut(peer) else { continue };
            let Some(channel) = &mut miner.channel else { continue };
            let futures = self.upstream.futures_of(channel.group);
            match channel.new_prev_hash(message.job_id, futures, tip.clone(), now.instant) {
                Ok(work) => miner.notify(*peer, Arc::new(work), true, &mut self.core, now, out),
                // A new member again.
                Err(_) if group && !channel.has_tip() => {}
                Err(violation) => return Err(violation),
            }
        }
        if group {
            self.upstream.clear_group_futures(message.channel_id);
        }
        if let Some((_, since)) = self.core.newest_tip.filter(|_| !peers.is_empty()) {
            out.effect(Effect::FannedOut(since));
        }
        Ok(())
    }

    fn set_prefix(&mut self, message: &SetExtranoncePrefix<'_>) -> Result<(), Violation> {
        let prefix = Extranonce::from(message.extranonce_prefix);
        self.each_channel(message.channel_id, |channel, of_group| {
            channel.set_prefix(prefix, of_group)
        })
    }

    fn set_group(&mut self, message: &SetGroupChannel<'_>) {
        let group = message.group_channel_id;
        for id in message.channel_ids.iter() {
            let peer = self.upstream.channels.get(&id);
            let miner = peer.and_then(|peer| self.miners.get_mut(peer));
            if let Some(channel) = miner.and_then(|miner| miner.channel.as_mut())
                && channel.group != group
            {
                self.upstream.move_channel(channel, group);
            }
        }
    }

    fn each_channel(
        &mut self,
        channel_id: u32,
        mut change: impl FnMut(&mut Channel, &[FutureJob]) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        for peer in self.upstream.addressed(channel_id) {
            let miner = self.miners.get_mut(&peer);
            if let Some(channel) = miner.and_then(|miner| miner.channel.as_mut()) {
                let group = channel.group;
                change(channel, self.upstream.futures_of(group))?;
            }
        }
        Ok(())
    }
}
