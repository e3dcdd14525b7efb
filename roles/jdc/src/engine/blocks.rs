//! Blocks found: submitted at once, and again until they are in the chain or overtaken.

use std::time::{Duration, Instant};

use adit_mining::{BlockHash, Share, Solution};
use adit_sv2::codec::B064K;
use adit_sv2::messages::template_distribution::SubmitSolution;
use adit_transport::{Now, Outbox};

use super::channel::Channel;
use super::history::History;
use super::provider::Provider;
use super::{Core, Effect};
use crate::metrics::Metrics;
use crate::store::{BlockRecord, BlockState, FoundBlock, JobOrigin, coinbase_height};

/// The protocol has no answer to `SubmitSolution`, so it is repeated; a template provider that has it takes no harm.
const RESEND_INTERVAL: Duration = Duration::from_secs(10);
/// Tips that came and were not the block, after which it is given up: a chain of six does not turn around.
const OVERTAKEN_AFTER: u32 = 6;
/// Blocks on one tip that are submitted again: only one of them can be in the chain. There are more only on a chain whose
/// blocks are as easy as shares, while nobody takes them; those are submitted once.
const MAX_RIVALS: usize = 16;
/// Blocks that are submitted again at all.
const MAX_PENDING: usize = 1_024;

/// Blocks whose fate is not known.
#[derive(Debug)]
pub(super) struct Solutions {
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    block: FoundBlock,
    sent: Option<Instant>,
    tips_since: u32,
    /// Where its coinbase says it.
    height: Option<u32>,
    /// Another block was seen as the tip at its height.
    rival: bool,
}

impl Core {
    /// A share meets the network's target: to our template provider and to the JDS. The pool gets it as a share.
    pub(super) fn block_found(
        &mut self,
        channel: &Channel,
        worker: &str,
        share: &Share<'_>,
        solution: &Solution,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.metrics.block("found");
        let (hash, identity) = (solution.hash, worker);
        let key = channel.set_id(share).and_then(|id| self.desk.key_of(id));
        let pool = key.and_then(|key| key.for_whom.upstream());
        let pool = pool.map(|index| self.upstreams[index].name().to_owned());
        let Some((provider, template_id)) = key.and_then(|key| key.template) else {
            // A job of the pool's own, which submits it.
            tracing::info!(%hash, identity, "block found on a job of the pool");
            return self.history.block(BlockRecord {
                hash: hash.to_string(),
                height: coinbase_height(&solution.coinbase_tx),
                found_unix_ms: now.unix_ms,
                identity: identity.to_owned(),
                for_whom: pool.unwrap_or_default(),
                job: JobOrigin::Template,
                state: BlockState::Pool,
            });
        };
        tracing::info!(%hash, identity, "block found");
        let block = FoundBlock {
            hash: hash.0.to_vec(),
            prev_hash: solution.header.prev_hash.to_vec(),
            found_unix_ms: now.unix_ms,
            identity: identity.to_owned(),
            pool,
            template_provider: self.providers[provider].name.clone(),
            template_id,
            version: solution.header.version,
            ntime: solution.header.ntime,
            nonce: solution.header.nonce,
            coinbase_tx: solution.coinbase_tx.clone(),
        };
        let mut pending = Pending::new(block.clone());
        pending.submit(&self.providers, now, out);
        let mut record = BlockRecord::submitted(&block);
        if self.solutions.add(pending) {
            // After what must not be late.
            out.effect(Effect::Keep(Box::new(block)));
        } else {
            self.metrics.block("rival");
            record.state = BlockState::Rival;
        }
        self.history.block(record);
    }
}

impl Solutions {
    /// With the blocks of former runs.
    pub(super) fn new(blocks: Vec<FoundBlock>) -> Self {
        Self { pending: blocks.into_iter().map(Pending::new).collect() }
    }

    /// Says whether the block is looked after.
    fn add(&mut self, pending: Pending) -> bool {
        let rival = |other: &&Pending| other.block.prev_hash == pending.block.prev_hash;
        if self.pending.len() >= MAX_PENDING
            || self.pending.iter().filter(rival).count() >= MAX_RIVALS
        {
            let hash = pending.block.display_hash();
            tracing::debug!(hash, "one of many blocks on one tip: submitted once");
            return false;
        }
        self.pending.push(pending);
        true
    }

    /// Blocks whose fate is not known.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Submits what is due.
    pub(super) fn tick(&mut self, providers: &[Provider], now: Now, out: &mut Outbox<Effect>) {
        let due = |sent: Instant| now.instant.duration_since(sent) >= RESEND_INTERVAL;
        for pending in self.pending.iter_mut().filter(|pending| pending.sent.is_none_or(due)) {
            pending.submit(providers, now, out);
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
        history: &mut History,
        metrics: &Metrics,
        out: &mut Outbox<Effect>,
    ) {
        // One of those that nobody looks after.
        history.settle(&BlockHash(*hash).to_string(), BlockState::Accepted);
        self.pending.retain_mut(|pending| {
            let name = pending.block.display_hash();
            if pending.block.hash == hash {
                tracing::info!(hash = name, "block is in the chain");
                metrics.block("accepted");
            } else {
                // The tip that it builds on, told again, takes nothing from it.
                pending.tips_since += u32::from(counts && pending.block.prev_hash != hash);
                let above = pending.height.and_then(|height| height.checked_add(1));
                pending.rival |= counts && above.is_some() && above == next;
                if pending.tips_since < OVERTAKEN_AFTER {
                    return true;
                }
                // The first tip that was told may have been built on it already.
                if pending.rival {
                    tracing::warn!(hash = name, "block was overtaken");
                    metrics.block("overtaken");
                    history.settle(&name, BlockState::Overtaken);
                } else {
                    tracing::warn!(hash = name, "block was not seen as a tip: look it up");
                    metrics.block("unknown");
                    history.settle(&name, BlockState::Unknown);
                }
            }
            out.effect(Effect::Settled(pending.hash()));
            false
        });
    }
}

impl Pending {
    fn new(block: FoundBlock) -> Self {
        let height = coinbase_height(&block.coinbase_tx);
        Self { block, sent: None, tips_since: 0, height, rival: false }
    }

    fn hash(&self) -> [u8; 32] {
        self.block.hash.as_slice().try_into().unwrap_or_default()
    }

    fn submit(&mut self, providers: &[Provider], now: Now, out: &mut Outbox<Effect>) {
        let block = &self.block;
        // Template ids mean nothing to another provider.
        let provider = providers.iter().find(|provider| provider.name == block.template_provider);
        let peer = provider.and_then(Provider::ready);
        let (Some(peer), Ok(coinbase_tx)) = (peer, B064K::new(&block.coinbase_tx)) else { return };
        let message = SubmitSolution {
            template_id: block.template_id,
            version: block.version,
            header_timestamp: block.ntime,
            header_nonce: block.nonce,
            coinbase_tx,
        };
        out.send(peer, &message);
        let again = self.sent.replace(now.instant).is_some();
        tracing::info!(hash = %block.display_hash(), again, to = block.template_provider, "block submitted");
    }
}
