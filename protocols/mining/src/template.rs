//! Templates and tips: the client side of the Template Distribution stream (spec 7).

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_sv2::messages::{mining, template_distribution as td};

use crate::target::Target;

/// Future templates that are kept while no `SetNewPrevHash` comes; the lowest id goes first. A
/// template provider that never sends one would otherwise take all memory.
pub const MAX_FUTURE_TEMPLATES: usize = 64;

/// A `NewTemplate` message, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `template_id`.
    pub id: u64,
    /// Whether it was sent ahead of its tip.
    pub future: bool,
    /// Header version.
    pub version: u32,
    /// Coinbase nVersion.
    pub coinbase_tx_version: u32,
    /// First bytes of the scriptSig: the BIP34 height.
    pub coinbase_prefix: Vec<u8>,
    /// nSequence of the coinbase input.
    pub coinbase_tx_input_sequence: u32,
    /// Satoshis for the client's outputs.
    pub coinbase_tx_value_remaining: u64,
    /// Outputs in the next field.
    pub coinbase_tx_outputs_count: u32,
    /// Outputs that end the coinbase, serialized, without a count.
    pub coinbase_tx_outputs: Vec<u8>,
    /// Coinbase nLockTime.
    pub coinbase_tx_locktime: u32,
    /// Deepest first, internal byte order.
    pub merkle_path: Vec<[u8; 32]>,
}

impl Template {
    /// The height of its block, where the coinbase begins with it (BIP34).
    pub fn height(&self) -> Option<u32> {
        bip34_height(&self.coinbase_prefix)
    }
}

/// The height that a coinbase's scriptSig begins with (BIP34).
pub fn bip34_height(script_sig: &[u8]) -> Option<u32> {
    match *script_sig {
        [op @ 0x51..=0x60, ..] => Some(u32::from(op - 0x50)),
        [len @ 1..=4, ref rest @ ..] => {
            let bytes = rest.get(..usize::from(len))?;
            Some(bytes.iter().rev().fold(0, |height, byte| height << 8 | u32::from(*byte)))
        }
        _ => None,
    }
}

impl From<&td::NewTemplate<'_>> for Template {
    fn from(message: &td::NewTemplate<'_>) -> Self {
        Self {
            id: message.template_id,
            future: message.future_template,
            version: message.version,
            coinbase_tx_version: message.coinbase_tx_version,
            coinbase_prefix: message.coinbase_prefix.as_bytes().to_vec(),
            coinbase_tx_input_sequence: message.coinbase_tx_input_sequence,
            coinbase_tx_value_remaining: message.coinbase_tx_value_remaining,
            coinbase_tx_outputs_count: message.coinbase_tx_outputs_count,
            coinbase_tx_outputs: message.coinbase_tx_outputs.as_bytes().to_vec(),
            coinbase_tx_locktime: message.coinbase_tx_locktime,
            merkle_path: message.merkle_path.iter().collect(),
        }
    }
}

/// What a block is built on: the previous hash and what comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Header field, internal byte order.
    pub prev_hash: [u8; 32],
    /// Smallest nTime for work on this tip, unix seconds (a template provider's
    /// `header_timestamp`).
    pub min_ntime: u32,
    /// Header field, compact target.
    pub nbits: u32,
    /// A hash at or below is a block.
    pub network_target: Target,
    /// Hashes that a block takes on average.
    pub network_work: u128,
}

impl Tip {
    /// From the parts.
    pub fn new(prev_hash: [u8; 32], min_ntime: u32, nbits: u32, network_target: Target) -> Self {
        let network_work = network_target.expected_hashes();
        Self { prev_hash, min_ntime, nbits, network_target, network_work }
    }

    /// As an upstream of the Mining Protocol told it; `None` where `nbits` is no target.
    pub fn from_mining(message: &mining::SetNewPrevHash) -> Option<Self> {
        let target = Target::from_nbits(message.nbits)?;
        Some(Self::new(message.prev_hash, message.min_ntime, message.nbits, target))
    }

    /// The message that tells a channel or group.
    pub fn set_new_prev_hash(&self, channel_id: u32, job_id: u32) -> mining::SetNewPrevHash {
        mining::SetNewPrevHash {
            channel_id,
            job_id,
            prev_hash: self.prev_hash,
            min_ntime: self.min_ntime,
            nbits: self.nbits,
        }
    }
}

impl From<&td::SetNewPrevHash> for Tip {
    fn from(message: &td::SetNewPrevHash) -> Self {
        Self::new(
            message.prev_hash,
            message.header_timestamp,
            message.n_bits,
            Target::from_le_bytes(message.target),
        )
    }
}

/// A template together with the tip that it is for.
///
/// Only [`TemplateTracker`] makes these, from messages that belong together.
#[derive(Clone, Debug)]
pub struct Work {
    template: Arc<Template>,
    tip: Arc<Tip>,
}

impl Work {
    /// The template.
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// Its tip.
    pub fn tip(&self) -> &Arc<Tip> {
        &self.tip
    }
}

/// What a message of the template provider means.
#[derive(Clone, Debug)]
pub enum TemplateEvent {
    /// A template for a tip to come: send it as a future job.
    Future(Arc<Template>),
    /// There is a new tip, and this is the work on it: activate the template's future job, or send
    /// job and tip where it was not sent before. All older work is void.
    NewTip(Work),
    /// A newer template for the same tip: send it as an active job.
    Newer(Work),
    /// There is a new tip but no template for it yet. All older work is void.
    TipAhead(Arc<Tip>),
    /// A template that is for no tip we know of: nothing to do before a tip is there.
    Ignored,
}

/// Follows a template provider: which templates wait, which tip and template are in force.
///
/// The two are handed out as one [`Work`], so that a channel opened between a future template and
/// its `SetNewPrevHash` cannot be given the one with the other's tip. Heights play no role: a tip
/// lower than the last one is a tip.
#[derive(Clone, Debug, Default)]
pub struct TemplateTracker {
    futures: BTreeMap<u64, Arc<Template>>,
    tip: Option<Arc<Tip>>,
    /// The newest template for `tip`.
    template: Option<Arc<Template>>,
    /// `tip` is from a former connection.
    outdated: bool,
}

impl TemplateTracker {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a `NewTemplate`.
    pub fn new_template(&mut self, message: &td::NewTemplate<'_>) -> TemplateEvent {
        let template = Arc::new(Template::from(message));
        if template.future {
            self.futures.insert(template.id, template.clone());
            if self.futures.len() > MAX_FUTURE_TEMPLATES {
                self.futures.pop_first();
            }
            return TemplateEvent::Future(template);
        }
        let tip = self.tip.as_ref().filter(|_| !self.outdated);
        let Some(tip) = tip else { return TemplateEvent::Ignored };
        let work = Work { template: template.clone(), tip: tip.clone() };
        match self.template.replace(template) {
            Some(_) => TemplateEvent::Newer(work),
            None => TemplateEvent::NewTip(work),
        }
    }

    /// Takes a `SetNewPrevHash`. The other future templates are discarded (spec 7.3).
    pub fn set_new_prev_hash(&mut self, message: &td::SetNewPrevHash) -> TemplateEvent {
        let tip = Arc::new(Tip::from(message));
        self.template = self.futures.remove(&message.template_id);
        self.futures.clear();
        self.tip = Some(tip.clone());
        self.outdated = false;
        match &self.template {
            Some(template) => TemplateEvent::NewTip(Work { template: template.clone(), tip }),
            None => TemplateEvent::TipAhead(tip),
        }
    }

    /// The connection ended. Templates that wait are gone with it, since ids begin anew; the work in
    /// force stays until the next connection brings a tip, before which its templates are for none
    /// that is known.
    pub fn disconnected(&mut self) {
        self.futures.clear();
        self.outdated = true;
    }

    /// The newest work on the current tip: what a new channel gets.
    pub fn work(&self) -> Option<Work> {
        Some(Work { template: self.template.clone()?, tip: self.tip.clone()? })
    }

    /// The current tip, with or without a template.
    pub fn tip(&self) -> Option<&Arc<Tip>> {
        self.tip.as_ref()
    }

    /// Templates that wait for their tip, lowest id first: a new channel may be given their jobs
    /// too.
    pub fn futures(&self) -> impl Iterator<Item = &Arc<Template>> {
        self.futures.values()
    }
}

#[cfg(test)]
mod tests;
