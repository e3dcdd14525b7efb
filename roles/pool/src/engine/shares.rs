//! Shares: judged, put on their way to the disk, and acknowledged once they are there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adit_mining::{Share, ShareError};
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::SubmitSharesError;
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::{Core, Effect, PoolEngine};
use crate::metrics::{Metrics, Refusal};
use crate::store::{QUEUE_LIMIT, Record, ShareOutcome};

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

impl Miner {
    /// Judges a share. No allocation here in the steady state.
    pub(super) fn share(
        &mut self,
        peer: PeerId,
        channel_id: u32,
        share: &Share<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let sequence_number = share.sequence_number;
        let Some(channel) = self.channels.get_mut(&channel_id) else {
            let refusal = Refusal::Share(ShareError::InvalidChannelId);
            return refuse(peer, channel_id, sequence_number, refusal, &core.metrics, out);
        };
        if core.ledger.unstored.len() >= QUEUE_LIMIT {
            // Before it is judged: a miner may send it again.
            let refusal = Refusal::StoreUnavailable;
            channel.rejected[refusal.index()] += 1;
            return refuse(peer, channel_id, sequence_number, refusal, &core.metrics, out);
        }
        let identity = || channel.identity.clone();
        let is_block = match channel.server.check_share(share, now.unix_secs()) {
            Ok(accepted) => {
                core.metrics.share_accepted();
                channel.accepted += 1;
                channel.last_share = Some(now.instant);
                channel.vardiff.on_share(accepted.work);
                let number = core.ledger.add(peer, channel_id, sequence_number, accepted.work, now);
                let outcome = ShareOutcome::Accepted { number, work: accepted.work };
                let identity = channel.identity.clone();
                out.effect(Effect::Store(Record::Share {
                    identity,
                    outcome,
                    unix_ms: now.unix_ms,
                }));
                accepted.is_block
            }
            Err(rejected) => {
                let refusal = Refusal::Share(rejected.error);
                channel.rejected[refusal.index()] += 1;
                let record = Record::Share {
                    identity: identity(),
                    outcome: ShareOutcome::Rejected,
                    unix_ms: now.unix_ms,
                };
                out.effect(Effect::Store(record));
                refuse(peer, channel_id, sequence_number, refusal, &core.metrics, out);
                rejected.block.is_some()
            }
        };
        if is_block {
            core.block_found(channel, share, now, out);
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
            let Some(channel) = self
                .miners
                .get_mut(&entry.peer)
                .and_then(|m| m.channels.get_mut(&entry.channel_id))
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
                self.miners.get_mut(&peer).and_then(|m| m.channels.get_mut(&channel_id))
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
