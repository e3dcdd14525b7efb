//! Blocks found: on disk before they are submitted, submitted until they are in the chain or overtaken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::{BlockHash, Share};
use adit_sv2::codec::B064K;
use adit_sv2::messages::template_distribution::SubmitSolution;
use adit_transport::{Now, Outbox};

use super::channel::Channel;
use super::upstream::Provider;
use super::work::Origin;
use super::{Core, Effect};
use crate::metrics::Metrics;
use crate::store::{BlockState, FoundBlock, Identity, JobOrigin, Record};

/// The protocol has no answer to `SubmitSolution`, so it is repeated; a template provider that has it takes no harm.
const RESEND_INTERVAL: Duration = Duration::from_secs(10);
/// A disk that does not take a block for so long is not waited for any longer.
const STORE_DEADLINE: Duration = Duration::from_secs(2);
/// Tips that came and were not the block, after which it is given up: a chain of six does not turn around.
const OVERTAKEN_AFTER: u32 = 6;
/// Blocks that are submitted again and again. There are more only on a chain whose blocks are easier than shares; then
/// the oldest are overtaken anyway.
const MAX_PENDING: usize = 4_096;

/// Where a coinbase without BIP141 fields has its scriptSig: behind version, input count, outpoint and length.
const SCRIPT_SIG_AT: usize = 4 + 1 + 36 + 1;

/// Blocks whose fate is not known.
#[derive(Debug)]
pub(super) struct Solutions {
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    block: Arc<FoundBlock>,
    hash: [u8; 32],
    /// When it was found; none for one of a former run.
    found: Option<Instant>,
    stored: bool,
    sent: Option<Instant>,
    tips_since: u32,
    /// Another block was seen as the tip at its height.
    rival: bool,
}

impl Core {
    /// A share meets the network's target. One that was refused may come again, and again: it is found once.
    pub(super) fn block_found(
        &mut self,
        channel: &Channel,
        finder: &Identity,
        share: &Share<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let server = &channel.server;
        let job = server.job(share.job_id);
        let origin = job.and_then(|job| match job.template_id() {
            Some(_) => self.bench.origin(job.id()),
            None => Some(Origin::custom(job.coinbase()?.prefix().get(SCRIPT_SIG_AT..)?)),
        });
        let (Some(solution), Some(origin)) = (server.solution(share), origin) else {
            // A job lives on a channel no longer than its origin is kept.
            tracing::error!(identity = %finder, job_id = share.job_id, "block found on a job that is gone");
            return;
        };
        if self.solutions.has(&solution.hash) {
            return;
        }
        let (template_provider, job) = match origin.provider {
            Some(provider) => (self.provider_names[provider].clone(), JobOrigin::Template),
            None => (String::new(), JobOrigin::Custom),
        };
        let block = Arc::new(FoundBlock {
            hash: solution.hash.0.to_vec(),
            state: BlockState::Pending,
            found_unix_ms: now.unix_ms,
            height: origin.height,
            prev_hash: solution.header.prev_hash.to_vec(),
            account: finder.account.clone(),
            worker: finder.worker.clone(),
            channel_id: server.id(),
            extranonce_prefix: server.extranonce_prefix().to_vec(),
            job,
            template_provider,
            template_id: origin.template_id,
            version: solution.header.version,
            header_timestamp: solution.header.ntime,
            header_nonce: solution.header.nonce,
            coinbase_tx: solution.coinbase_tx,
        });
        tracing::info!(hash = %solution.hash, height = origin.height, identity = %finder, ?job, "block found");
        self.metrics.block("found");
        if job == JobOrigin::Custom {
            self.metrics.block("custom");
        }
        out.effect(Effect::Store(Record::Block(block.clone())));
        self.solutions.add(block, Some(now.instant), false);
    }
}

impl Solutions {
    /// With the blocks of former runs, which are on disk.
    pub(super) fn new(pending: Vec<FoundBlock>) -> Self {
        let mut solutions = Self { pending: Vec::new() };
        pending.into_iter().for_each(|block| solutions.add(Arc::new(block), None, true));
        solutions
    }

    fn add(&mut self, block: Arc<FoundBlock>, found: Option<Instant>, stored: bool) {
        if self.pending.len() == MAX_PENDING {
            let dropped = self.pending.remove(0);
            tracing::error!(hash = %dropped.block.display_hash(), "too many blocks wait for their fate; this one is left");
        }
        let hash = block.hash_bytes();
        let (sent, tips_since, rival) = (None, 0, false);
        self.pending.push(Pending { block, hash, found, stored, sent, tips_since, rival });
    }

    fn has(&self, hash: &BlockHash) -> bool {
        self.pending.iter().any(|pending| pending.hash == hash.0)
    }

    /// Blocks whose fate is not known.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// These are on disk now: off they go.
    pub(super) fn stored(
        &mut self,
        hashes: &[[u8; 32]],
        providers: &[Provider],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        for pending in &mut self.pending {
            if !pending.stored && hashes.contains(&pending.hash) {
                pending.stored = true;
                pending.submit(providers, now, out);
            }
        }
    }

    /// Submits what is due, and what the disk keeps waiting.
    pub(super) fn tick(&mut self, providers: &[Provider], now: Now, out: &mut Outbox<Effect>) {
        for pending in &mut self.pending {
            let since = |then: Instant| now.instant.duration_since(then);
            if !pending.stored && pending.found.is_some_and(|found| since(found) >= STORE_DEADLINE)
            {
                tracing::error!(hash = %pending.block.display_hash(), "block submitted before it could be stored");
                pending.stored = true;
            }
            if pending.stored && pending.sent.is_none_or(|sent| since(sent) >= RESEND_INTERVAL) {
                pending.submit(providers, now, out);
            }
        }
    }

    /// A provider takes messages from now on: what it should have is sent at the next tick.
    pub(super) fn provider_ready(&mut self, name: &str) {
        let of_it = |pending: &&mut Pending| pending.block.template_provider == name;
        self.pending.iter_mut().filter(of_it).for_each(|pending| pending.sent = None);
    }

    /// A provider's tip, on which the `next` height is mined: a block of ours, or one that `counts` as gone past ours.
    pub(super) fn new_tip(
        &mut self,
        hash: &[u8; 32],
        next: Option<u32>,
        counts: bool,
        metrics: &Metrics,
        out: &mut Outbox<Effect>,
    ) {
        self.pending.retain_mut(|pending| {
            let state = if pending.hash == *hash {
                BlockState::Accepted
            } else {
                // The tip that it builds on, told again, takes nothing from it.
                pending.tips_since += u32::from(counts && pending.block.prev_hash != hash);
                let above = pending.block.height.and_then(|height| height.checked_add(1));
                pending.rival |= counts && above.is_some() && above == next;
                if pending.tips_since < OVERTAKEN_AFTER {
                    return true;
                }
                // The first tip that was told may have been built on it already.
                if pending.rival { BlockState::Overtaken } else { BlockState::Unknown }
            };
            let block = FoundBlock { state, ..(*pending.block).clone() };
            let (hash, height) = (block.display_hash(), block.height);
            let account = &block.account;
            match state {
                BlockState::Accepted => {
                    tracing::info!(hash, height, "block is in the chain");
                    metrics.block("accepted");
                }
                BlockState::Overtaken => {
                    tracing::warn!(hash, height, account, "block was overtaken");
                    metrics.block("overtaken");
                }
                _ => {
                    tracing::warn!(
                        hash,
                        height,
                        account,
                        "block was not seen as a tip: look it up"
                    );
                    metrics.block("unknown");
                }
            }
            out.effect(Effect::Store(Record::Block(Arc::new(block))));
            false
        });
    }
}

impl Pending {
    fn submit(&mut self, providers: &[Provider], now: Now, out: &mut Outbox<Effect>) {
        let block = &*self.block;
        // Template ids mean nothing to another provider.
        let peer = providers
            .iter()
            .find(|provider| provider.name == block.template_provider)
            .and_then(|provider| provider.state.ready());
        let (Some(peer), Ok(coinbase_tx)) = (peer, B064K::new(&block.coinbase_tx)) else { return };
        let message = SubmitSolution {
            template_id: block.template_id,
            version: block.version,
            header_timestamp: block.header_timestamp,
            header_nonce: block.header_nonce,
            coinbase_tx,
        };
        out.send(peer, &message);
        let again = self.sent.replace(now.instant).is_some() || self.found.is_none();
        tracing::info!(hash = %BlockHash(self.hash), again, to = block.template_provider, "block submitted");
    }
}
