//! What the upstream says of work: jobs, tips, targets, prefixes, and what became of shares.

use std::sync::Arc;

use adit_mining::Extranonce;
use adit_sv2::messages::mining::{
    Mining, NewExtendedMiningJob, SetExtranoncePrefix, SetGroupChannel, SetNewPrevHash,
};
use adit_transport::{Now, Outbox};

use super::channel::{Channel, FutureJob, Violation};
use super::miner::Miner;
use super::{Effect, TranslatorEngine};

impl TranslatorEngine {
    pub(super) fn mining(
        &mut self,
        message: Mining<'_>,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        match message {
            Mining::OpenExtendedMiningChannelSuccess(m) => {
                return self.channel_opened(&m, now, out);
            }
            Mining::NewExtendedMiningJob(m) => return self.new_job(&m, payload, now, out),
            Mining::SetNewPrevHash(m) => return self.new_prev_hash(&m, now, out),
            // Reaches a miner with its next job: that is from when on the upstream counts by it (spec 5.3.21).
            Mining::SetTarget(m) => {
                let target = m.maximum_target;
                return self.each_channel(m.channel_id, |channel, _| channel.set_target(target));
            }
            Mining::SetExtranoncePrefix(m) => return self.set_prefix(&m),
            Mining::SetGroupChannel(m) => self.set_group(&m),
            Mining::OpenMiningChannelError(m) => self.open_refused(&m, now, out),
            Mining::CloseChannel(m) => self.channel_closed(&m, now),
            Mining::SubmitSharesSuccess(m) => {
                let accepted = u64::from(m.new_submits_accepted_count);
                self.core.metrics.upstream_accepted(accepted);
                self.answered(m.channel_id, accepted, |miner| {
                    miner.stats.upstream_accepted += accepted;
                });
            }
            Mining::SubmitSharesError(m) => {
                let code = m.error_code.to_clean_string();
                tracing::debug!(channel_id = m.channel_id, code, "share rejected by the upstream");
                self.core.metrics.upstream_rejected(&code);
                self.answered(m.channel_id, 1, |miner| miner.stats.upstream_rejected += 1);
            }
            // About requests that are never made, or about standard channels, of which there are none.
            _ => {}
        }
        Ok(())
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
            let job = self.upstream.job(message, payload, channel.full_size())?;
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
        let tip = self.upstream.tip(message)?;
        if self.core.newest_tip.is_none_or(|(hash, _)| hash != tip.prev_hash) {
            self.core.newest_tip = Some((tip.prev_hash, now.instant));
            self.core.extranonces.new_prev_hash();
        }
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

    fn answered(&mut self, channel_id: u32, shares: u64, count: impl FnOnce(&mut Miner)) {
        let peer = self.upstream.channels.get(&channel_id);
        let Some(miner) = peer.and_then(|peer| self.miners.get_mut(peer)) else { return };
        if let Some(channel) = &mut miner.channel {
            channel.unacknowledged = channel.unacknowledged.saturating_sub(shares);
        }
        count(miner);
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
