//! Shares: judged and acknowledged here, sent to the pool where they count there, kept while it has not accepted the job.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use adit_mining::{BlockHash, Extranonce, Share, ShareError};
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{SubmitSharesError, SubmitSharesExtended};
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::claim::ForWhom;
use super::downstream::Miner;
use super::{Core, Effect, JdcEngine};

/// A share as it is sent on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Onward {
    pub(super) hash: BlockHash,
    pub(super) nonce: u32,
    pub(super) ntime: u32,
    pub(super) version: u32,
    /// All that the upstream lets us roll.
    pub(super) extranonce: Extranonce,
    pub(super) is_block: bool,
    /// Who found it: account and name.
    pub(super) worker: Arc<str>,
}

impl Onward {
    /// As a number.
    fn value(&self) -> impl Iterator<Item = &u8> {
        self.hash.0.iter().rev()
    }
}

impl Ord for Onward {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value().cmp(other.value())
    }
}

impl PartialOrd for Onward {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best shares on a job that the pool has not accepted yet.
#[derive(Debug, Default)]
pub(super) struct Cache(BinaryHeap<Onward>);

impl Cache {
    /// Keeps a share; where there are `most` already, the worst of all goes. Says whether one went.
    fn keep(&mut self, share: Onward, most: usize) -> bool {
        self.0.push(share);
        self.0.len() > most && self.0.pop().is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, the best first.
    pub(super) fn take(&mut self) -> Vec<Onward> {
        std::mem::take(&mut self.0).into_sorted_vec()
    }
}

/// A share as it was submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submission<'a> {
    pub(super) channel_id: u32,
    pub(super) share: Share<'a>,
    /// The worker's name that came with it.
    pub(super) name: Option<&'a [u8]>,
}

/// A share that counts, or is a block whatever else is wrong with it.
struct Found {
    hash: BlockHash,
    is_block: bool,
    worker: Arc<str>,
}

/// When which channel has to be acknowledged, soonest first.
pub(super) type Due = VecDeque<(Instant, PeerId, u32)>;

impl Miner {
    /// Judges a share and sends it on.
    pub(super) fn share(
        &mut self,
        peer: PeerId,
        submission: &Submission<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Submission { channel_id, share, name } = submission;
        let channel_id = *channel_id;
        let Some(channel) = self.channels.get_mut(channel_id) else {
            core.metrics.share_rejected(ShareError::InvalidChannelId.code());
            return refuse(
                peer,
                channel_id,
                share.sequence_number,
                ShareError::InvalidChannelId.code(),
                out,
            );
        };
        let (hash, is_block, refused) = match channel.server.check_share(share, now.unix_secs()) {
            Ok(accepted) => {
                core.metrics.share_accepted();
                channel.credit(share.sequence_number, accepted.work, now);
                (Some(accepted.hash), accepted.is_block, None)
            }
            Err(rejected) => {
                core.metrics.share_rejected(rejected.error.code());
                channel.rejected += 1;
                (rejected.block, rejected.block.is_some(), Some(rejected.error))
            }
        };
        let good = refused.is_none();
        let worker = channel.names.worker(*name, &channel.identity, good, &mut core.names);
        core.history.share(&worker, hash.as_ref().filter(|_| good), now);
        if let Some(hash) = hash {
            core.pass_on(channel, share, Found { hash, is_block, worker }, now, out);
        }
        if let Some(error) = refused {
            return refuse(peer, channel_id, share.sequence_number, error.code(), out);
        }
        // After what must not be late.
        if channel.server.unacknowledged() >= core.settings.ack_batch {
            if let Some(message) = channel.server.take_success() {
                out.send(peer, &message);
            }
        } else if channel.server.unacknowledged() == 1 {
            core.desk.due.push_back((now.instant + core.settings.ack_interval, peer, channel_id));
        }
    }

    /// Refuses a share whose name is no name: a field beyond its limit makes the message void (spec 3.4.3). A block is a
    /// block all the same.
    pub(super) fn void_share(
        &mut self,
        peer: PeerId,
        message: &SubmitSharesExtended<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if let Some(channel) = self.channels.get_mut(message.channel_id) {
            channel.rejected += 1;
            let share = Share::from(message);
            // It is not remembered by the channel, and may come again.
            if let Some(hash) = channel.server.block_of(&share)
                && !core.history.has_block(&hash)
            {
                let found = Found { hash, is_block: true, worker: channel.identity.clone() };
                core.pass_on(channel, &share, found, now, out);
            }
        }
        core.metrics.share_rejected(INVALID_NAME);
        refuse(peer, message.channel_id, message.sequence_number, INVALID_NAME, out);
    }
}

/// The name in a share is longer than its extension allows, or cut off.
pub(crate) const INVALID_NAME: &str = "invalid-user-identity";

fn refuse(
    peer: PeerId,
    channel_id: u32,
    sequence_number: u32,
    code: &str,
    out: &mut Outbox<Effect>,
) {
    let error_code = Str0255::cut(code);
    out.send(peer, &SubmitSharesError { channel_id, sequence_number, error_code });
}

impl Core {
    /// To whom it may concern, the template provider first.
    fn pass_on(
        &mut self,
        channel: &Channel,
        share: &Share<'_>,
        found: Found,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Found { hash, is_block, worker } = found;
        let solution = is_block.then(|| channel.server.solution(share)).flatten();
        if let Some(solution) = &solution {
            self.block_found(channel, &worker, share, solution, now, out);
        }
        let Some(claim_id) = channel.set_id(share) else { return };
        let onward = |extranonce| Onward {
            hash,
            nonce: share.nonce,
            ntime: share.ntime,
            version: share.version,
            extranonce,
            is_block,
            worker,
        };
        let prefix = channel.server.extranonce_prefix();
        self.share_onward(claim_id, prefix, share.extranonce, onward, now, out);
    }

    /// To the pool, into the cache, or nowhere; a block to the JDS as well.
    fn share_onward(
        &mut self,
        claim_id: u32,
        prefix: &[u8],
        rolled: &[u8],
        onward: impl FnOnce(Extranonce) -> Onward,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(claim) = self.desk.get_mut(claim_id) else {
            return self.metrics.onward("lost", 1);
        };
        let Some(extranonce) = claim.extranonce(prefix, rolled) else { return };
        let share = onward(extranonce);
        let index = match claim.key.for_whom {
            ForWhom::Solo => return self.metrics.onward("solo", 1),
            ForWhom::Upstream { index, .. } | ForWhom::Own { index, .. } => index,
        };
        let channel = self.upstreams[index].pool.channel.as_ref();
        let session = channel.map(|channel| channel.session);
        match claim.accepted {
            Some(accepted) if Some(accepted.session) == session => {
                if share.is_block || accepted.target.is_met_by(&share.hash) {
                    self.send_share(index, accepted.job_id, &share, now, out);
                } else {
                    self.metrics.onward("below-target", 1);
                }
            }
            _ if claim.is_on_its_way() => {
                self.metrics.onward("cached", 1);
                let lost = claim.cache.keep(share.clone(), self.settings.cached_shares);
                self.metrics.onward("overflow", lost.into());
            }
            _ => self.metrics.onward("lost", 1),
        }
        if share.is_block {
            self.push_solution(claim_id, &share, out);
        }
    }
}

impl JdcEngine {
    /// Acknowledges what has waited long enough for company.
    pub(super) fn acknowledge_due(&mut self, now: Now, out: &mut Outbox<Effect>) {
        while let Some((due, peer, channel_id)) = self.core.desk.due.front().copied() {
            if due > now.instant {
                break;
            }
            self.core.desk.due.pop_front();
            let channel =
                self.miners.get_mut(&peer).and_then(|miner| miner.channels.get_mut(channel_id));
            if let Some(message) = channel.and_then(|channel| channel.server.take_success()) {
                out.send(peer, &message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(high: u8) -> Onward {
        let mut hash = [0xff; 32];
        hash[31] = high;
        Onward {
            hash: BlockHash(hash),
            nonce: 0,
            ntime: 0,
            version: 0,
            extranonce: Extranonce::default(),
            is_block: false,
            worker: "".into(),
        }
    }

    #[test]
    fn the_best_shares_stay() {
        let mut cache = Cache::default();
        for high in [5, 1, 9, 3, 7] {
            cache.keep(share(high), 3);
        }
        let kept: Vec<u8> = cache.take().iter().map(|share| share.hash.0[31]).collect();
        assert_eq!(kept, [1, 3, 5]);
        assert_eq!(cache.len(), 0);
    }
}
