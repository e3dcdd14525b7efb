//! Shares: judged, put on their way to the disk, and acknowledged once they are there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::{AcceptedShare, Share, ShareError};
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::SubmitSharesError;
use adit_sv2::tlv::TlvError;
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::{Core, Effect, PoolEngine};
use crate::metrics::{Metrics, Refusal};
use crate::store::{Identity, QUEUE_LIMIT, Record, ShareOutcome};

/// Accepted shares between their arrival and their acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Number of the last accepted share.
    last: u64,
    /// Not on disk yet, oldest first; at most [`QUEUE_LIMIT`], above which shares are refused.
    unstored: VecDeque<Unstored>,
    /// When which channel has to be acknowledged, soonest first. A channel is here from its first stored share on, and
    /// may have been acknowledged by count since. Never more than there were shares in the last interval.
    due: VecDeque<(Instant, PeerId, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Unstored {
    number: u64,
    peer: PeerId,
    channel_id: u32,
    sequence_number: u32,
    work: u128,
    arrived: Instant,
}

/// A share, as it was submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submission<'a> {
    pub(super) channel_id: u32,
    pub(super) share: Share<'a>,
    /// The worker's name that came with it; empty where it should have come, none without extension 0x0002.
    pub(super) worker: Result<Option<&'a [u8]>, TlvError>,
}

impl Miner {
    /// Judges a share. No allocation here in the steady state.
    pub(super) fn share(
        &mut self,
        peer: PeerId,
        submission: &Submission<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Submission { channel_id, share, worker } = submission;
        let refuse = |refusal, core: &Core, out: &mut _| {
            refuse(peer, *channel_id, share.sequence_number, refusal, &core.metrics, out);
        };
        let Some(channel) = self.channels.get_mut(*channel_id) else {
            return refuse(Refusal::Share(ShareError::InvalidChannelId), core, out);
        };
        if core.ledger.unstored.len() >= QUEUE_LIMIT {
            // Before it is judged: a miner may send it again.
            channel.refuse_unjudged(Refusal::StoreUnavailable, share, core, now, out);
            return refuse(Refusal::StoreUnavailable, core, out);
        }
        let Ok(worker) = *worker else {
            // A field beyond its limit makes the message void (spec 3.4.3).
            channel.refuse_unjudged(Refusal::UserIdentity, share, core, now, out);
            return refuse(Refusal::UserIdentity, core, out);
        };
        let judged = channel.server.check_share(share, now.unix_secs());
        let is_block = match &judged {
            Ok(accepted) => accepted.is_block,
            Err(rejected) => rejected.block.is_some(),
        };
        let (identity, outcome) = match judged {
            Ok(accepted) => {
                core.metrics.share_accepted();
                channel.vardiff.on_share(accepted.work);
                let sequence_number = share.sequence_number;
                let number =
                    core.ledger.add(peer, *channel_id, sequence_number, accepted.work, now);
                let outcome = ShareOutcome::Accepted { number, work: accepted.credit };
                (channel.credit(worker, &accepted, core, now), outcome)
            }
            Err(rejected) => {
                let refusal = Refusal::Share(rejected.error);
                refuse(refusal, core, out);
                (channel.charge(worker, refusal), ShareOutcome::Rejected)
            }
        };
        let finder = is_block.then(|| identity.clone());
        out.effect(Effect::Store(Record::Share { identity, outcome, unix_ms: now.unix_ms }));
        if let Some(finder) = finder {
            core.block_found(channel, &finder, share, now, out);
        }
    }
}

impl Channel {
    /// Counts an accepted share; returns whose it is.
    fn credit(
        &mut self,
        worker: Option<&[u8]>,
        share: &AcceptedShare,
        core: &mut Core,
        now: Now,
    ) -> Arc<Identity> {
        let now = now.instant;
        self.tally.accept(&share.hash, now);
        let (own, limit) = (&self.tally.identity, core.settings.max_workers);
        let Some(name) = worker else { return own.clone() };
        let worker = self.workers.place(name, own, &mut core.workers, limit, now);
        worker.tally.accept(&share.hash, now);
        worker.hash_rate.add(share.work, now);
        worker.tally.identity.clone()
    }

    /// Counts a share that is refused for what has nothing to do with its hash. A block is a block all the same.
    fn refuse_unjudged(
        &mut self,
        refusal: Refusal,
        share: &Share<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.tally.reject(refusal);
        if self.server.block_of(share).is_some() {
            let finder = self.tally.identity.clone();
            core.block_found(self, &finder, share, now, out);
        }
    }

    /// Counts a refused share; returns whose it is.
    fn charge(&mut self, worker: Option<&[u8]>, refusal: Refusal) -> Arc<Identity> {
        self.tally.reject(refusal);
        match worker.and_then(|name| self.workers.known(name)) {
            Some(worker) => {
                worker.tally.reject(refusal);
                worker.tally.identity.clone()
            }
            None => self.tally.identity.clone(),
        }
    }
}

fn refuse(
    peer: PeerId,
    channel_id: u32,
    sequence_number: u32,
    refusal: Refusal,
    metrics: &Metrics,
    out: &mut Outbox<Effect>,
) {
    metrics.share_rejected(refusal);
    let error_code = Str0255::cut(refusal.code());
    out.send(peer, &SubmitSharesError { channel_id, sequence_number, error_code });
}

impl Ledger {
    fn add(
        &mut self,
        peer: PeerId,
        channel_id: u32,
        sequence_number: u32,
        work: u128,
        now: Now,
    ) -> u64 {
        self.last += 1;
        let (number, arrived) = (self.last, now.instant);
        self.unstored.push_back(Unstored {
            number,
            peer,
            channel_id,
            sequence_number,
            work,
            arrived,
        });
        number
    }

    /// Shares that are not on disk yet.
    pub(super) fn unstored(&self) -> usize {
        self.unstored.len()
    }
}

impl PoolEngine {
    /// What is on disk now: every accepted share up to this number, and blocks by their hash.
    pub fn stored(
        &mut self,
        shares: Option<u64>,
        blocks: &[[u8; 32]],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        while let Some(entry) = self.core.ledger.unstored.front().copied() {
            if shares.is_none_or(|last| entry.number > last) {
                break;
            }
            self.core.ledger.unstored.pop_front();
            // Credited on disk even if the channel is gone; then there is nobody to tell.
            let Some(channel) =
                self.miners.get_mut(&entry.peer).and_then(|m| m.channels.get_mut(entry.channel_id))
            else {
                continue;
            };
            channel.server.credit(entry.sequence_number, entry.work);
            if channel.unacknowledged_since.is_none() {
                channel.unacknowledged_since = Some(entry.arrived);
                let due = now.instant + self.core.settings.ack_interval;
                self.core.ledger.due.push_back((due, entry.peer, entry.channel_id));
            }
            if channel.server.unacknowledged() >= self.core.settings.ack_batch {
                acknowledge(entry.peer, channel, &self.core.metrics, now, out);
            }
        }
        self.core.metrics.unstored(self.core.ledger.unstored.len());
        self.core.solutions.stored(blocks, &self.providers, now, out);
    }

    /// Acknowledges what has waited long enough for company.
    pub(super) fn acknowledge_due(&mut self, now: Now, out: &mut Outbox<Effect>) {
        while let Some((due, peer, channel_id)) = self.core.ledger.due.front().copied() {
            if due > now.instant {
                break;
            }
            self.core.ledger.due.pop_front();
            if let Some(channel) =
                self.miners.get_mut(&peer).and_then(|m| m.channels.get_mut(channel_id))
            {
                acknowledge(peer, channel, &self.core.metrics, now, out);
            }
        }
    }
}

fn acknowledge(
    peer: PeerId,
    channel: &mut Channel,
    metrics: &Metrics,
    now: Now,
    out: &mut Outbox<Effect>,
) {
    let Some(message) = channel.server.take_success() else { return };
    out.send(peer, &message);
    if let Some(since) = channel.unacknowledged_since.take() {
        metrics.acknowledged(now.instant.checked_duration_since(since).unwrap_or(Duration::ZERO));
    }
}
