//! Claims: what miners work on, and how far it is on its way to be paid for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use adit_mining::job::{JobError, JobParts};
use adit_mining::{
    Coinbase, CustomJob, Extranonce, Job, JobFactory, JobIds, Payouts, Target, Template, Tip,
    sha256d,
};
use adit_sv2::messages::template_distribution::RequestTransactionDataSuccess;

use super::shares::{Cache, Due, Onward};
use super::upstream::Layout;

/// All claims on the present tip, and the one that miners work on.
#[derive(Debug, Default)]
pub(super) struct Desk {
    ids: JobIds,
    /// Oldest first.
    pub(super) claims: VecDeque<Claim>,
    /// The claim that miners work on: the newest, or the one before it that the pool has accepted.
    worked_on: Option<u32>,
    /// Hashes per second of all miners.
    pub(super) hash_rate: f64,
    /// What no job could be made of.
    unusable: Option<Key>,
    /// When which channel has to be acknowledged, soonest first.
    pub(super) due: Due,
}

/// What makes one job another than the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key {
    pub(super) for_whom: ForWhom,
    pub(super) prev_hash: [u8; 32],
    /// Provider and its id of the template; none for a pool's own job.
    pub(super) template: Option<(usize, u64)>,
}

/// Who pays for a job, in terms that change where the job must.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ForWhom {
    /// A job of ours for this upstream.
    Upstream { index: usize, generation: u32 },
    /// A job of its own.
    Own { index: usize, session: u64, job_id: u32 },
    /// The network alone.
    Solo,
}

impl ForWhom {
    pub(super) fn upstream(self) -> Option<usize> {
        match self {
            Self::Upstream { index, .. } | Self::Own { index, .. } => Some(index),
            Self::Solo => None,
        }
    }
}

/// What a claim is made of.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: Key,
    pub(super) tip: Arc<Tip>,
    pub(super) layout: Layout,
    pub(super) version_rolling: bool,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A template with these outputs.
    Template(Arc<Template>, Payouts),
    /// A job that the pool made.
    Own(Arc<Job>),
}

/// A job for all miners.
#[derive(Debug)]
pub(super) struct Claim {
    /// The id that miners know it by.
    pub(super) id: u32,
    pub(super) key: Key,
    pub(super) tip: Arc<Tip>,
    pub(super) template: Option<Arc<Template>>,
    pub(super) layout: Layout,
    version: u32,
    version_rolling: bool,
    merkle_path: Box<[[u8; 32]]>,
    /// With the upstream's whole extranonce.
    pub(super) coinbase: Coinbase,
    /// What is set at the pool; none for a job of its own.
    pub(super) custom: Option<CustomJob>,
    /// By the full extranonce size of miners' channels.
    jobs: Vec<(usize, Arc<Job>)>,
    pub(super) step: Step,
    /// Since when it is on its way.
    pub(super) since: Instant,
    /// When it was made.
    pub(super) made: Instant,
    pub(super) accepted: Option<Accepted>,
    /// The JDS has said that it has it.
    pub(super) declared: bool,
    pub(super) data: Option<Arc<TxData>>,
    pub(super) cache: Cache,
    /// Blocks to be pushed once the JDS has the claim.
    pub(super) pushes: Vec<Onward>,
    /// Times that it was refused as stale or for its token.
    pub(super) retries: u32,
}

/// What a claim waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing.
    Rest,
    /// The template's transactions; whether they were asked for.
    Data { asked: bool },
    /// A token, and this time.
    Token { not_before: Option<Instant> },
    /// An answer to `DeclareMiningJob`.
    Declared { request_id: u32 },
    /// The pool's channel, to set it there with this token.
    Pool { token: Vec<u8> },
    /// An answer to `SetCustomMiningJob`.
    Proposed { request_id: u32 },
}

/// The pool's word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// Of the channel that it is for.
    pub(super) session: u64,
    /// The pool's id of the job.
    pub(super) job_id: u32,
    /// The target in force for it.
    pub(super) target: Target,
    pub(super) at: Instant,
}

/// The transactions of a template, coinbase excluded.
#[derive(Debug)]
pub(super) struct TxData {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    pub(super) wtxids: Vec<[u8; 32]>,
    pub(super) excess_data: Vec<u8>,
}

/// Older claims whose transactions are kept while they are declared.
const MAX_DATA: usize = 4;
/// Claims that are kept; more than a channel has live jobs.
const MAX_CLAIMS: usize = 32;

impl Desk {
    /// What miners are told to build on.
    pub(super) fn tip(&self) -> Option<&Arc<Tip>> {
        self.claims.back().map(|claim| &claim.tip)
    }

    /// What miners work on.
    pub(super) fn current(&self) -> Option<&Claim> {
        let id = self.worked_on?;
        self.claims.iter().rev().find(|claim| claim.id == id)
    }

    /// What miners work on.
    pub(super) fn current_mut(&mut self) -> Option<&mut Claim> {
        self.get_mut(self.worked_on?)
    }

    /// The newest claim, where miners do not work on it yet.
    pub(super) fn next(&self) -> Option<&Claim> {
        self.claims.back().filter(|claim| Some(claim.id) != self.worked_on)
    }

    /// Whether miners are better off with what they have until the pool has accepted this: it has accepted that, in this
    /// session, and only the template is newer. A server that falls silent, or refuses, costs no share then.
    fn waits(&self, plan: &Plan, session: Option<u64>) -> bool {
        self.current().is_some_and(|claim| {
            claim.accepted.is_some_and(|accepted| Some(accepted.session) == session)
                && claim.key.for_whom == plan.key.for_whom
                && matches!(plan.key.for_whom, ForWhom::Upstream { .. })
                && (claim.tip.prev_hash, claim.tip.nbits) == (plan.tip.prev_hash, plan.tip.nbits)
        })
    }

    /// Has miners work on the newest claim that was accepted meanwhile. Says whether that is another one.
    pub(super) fn move_on(&mut self) -> bool {
        let later = |claim: &&Claim| Some(claim.id) != self.worked_on;
        let accepted = self.claims.iter().rev().take_while(later).find(|c| c.accepted.is_some());
        let Some(id) = accepted.map(|claim| claim.id) else { return false };
        self.worked_on = Some(id);
        true
    }

    /// Makes a claim, which is the current one unless it waits for the pool, whose channel is of this `session`. Returns
    /// how many cached shares are lost with older ones.
    ///
    /// # Errors
    /// The template cannot be made a job of; nothing changes.
    pub(super) fn begin(
        &mut self,
        plan: Plan,
        tag: &[u8],
        first_step: Step,
        session: Option<u64>,
        now: Instant,
    ) -> Result<usize, JobError> {
        let waits = self.waits(&plan, session);
        let claim = Claim::new(self.ids.allocate(), plan, tag, first_step, now)?;
        let mut lost = 0;
        let same_tip = |old: &Claim| old.tip.prev_hash == claim.tip.prev_hash;
        self.claims.retain_mut(|old| {
            lost += if same_tip(old) { 0 } else { old.cache.len() };
            same_tip(old)
        });
        for old in &mut self.claims {
            let for_another = old.key.for_whom.upstream() != claim.key.for_whom.upstream();
            let unsent = matches!(old.step, Step::Data { .. } | Step::Token { .. });
            if for_another {
                lost += old.abandon();
            } else if unsent && old.cache.len() == 0 {
                old.step = Step::Rest;
            }
            if old.step == Step::Rest {
                old.data = None;
            }
        }
        // Transactions are the largest part of memory by far: a block's worth each.
        let with_data =
            |claims: &VecDeque<Claim>| claims.iter().filter(|c| c.data.is_some()).count();
        while with_data(&self.claims) > MAX_DATA {
            let Some(old) = self.claims.iter_mut().find(|claim| claim.data.is_some()) else {
                break;
            };
            lost += old.abandon();
        }
        if self.claims.len() == MAX_CLAIMS
            && let Some(oldest) = self.claims.iter().position(|c| Some(c.id) != self.worked_on)
        {
            lost += self.claims.remove(oldest).map_or(0, |mut old| old.abandon());
        }
        if !waits {
            self.worked_on = Some(claim.id);
        }
        self.claims.push_back(claim);
        Ok(lost)
    }

    /// Whether a plan is another job than the current one. A template that only has another id is none, but blocks are
    /// submitted for the newer id from now on, which is the one that the provider surely knows.
    pub(super) fn is_news(&mut self, plan: &Plan) -> bool {
        if self.unusable == Some(plan.key) {
            return false;
        }
        // Without a current one, what there is only waits to be paid for.
        let newest = self.claims.back_mut().filter(|_| self.worked_on.is_some());
        let Some(claim) = newest else { return true };
        if claim.key == plan.key {
            return false;
        }
        let same_template = match (&claim.template, &plan.content) {
            (Some(old), Content::Template(new, _)) => {
                Template { id: old.id, future: old.future, ..(**new).clone() } == **old
            }
            _ => false,
        };
        let same = same_template
            && claim.key.for_whom == plan.key.for_whom
            && claim.layout == plan.layout
            && (claim.tip.prev_hash, claim.tip.nbits) == (plan.tip.prev_hash, plan.tip.nbits);
        // One that was given up, say since its provider had no transactions of it any more, gets another chance.
        let given_up = claim.custom.is_some()
            && claim.key.for_whom != ForWhom::Solo
            && claim.step == Step::Rest
            && claim.accepted.is_none();
        if !same || given_up {
            return true;
        }
        claim.key = plan.key;
        if let Step::Data { asked } = &mut claim.step {
            *asked = false;
        }
        false
    }

    /// No job can be made of this.
    pub(super) fn refused(&mut self, key: Key) {
        self.unusable = Some(key);
    }

    /// An id for a job that is sent once more.
    pub(super) fn allocate_id(&mut self) -> u32 {
        self.ids.allocate()
    }

    /// Nobody is there to work: what no share waits for ends, and what is not on this tip. Returns how many shares are
    /// lost.
    pub(super) fn rest(&mut self, tip: Option<[u8; 32]>) -> usize {
        let mut lost = 0;
        self.claims.retain(|claim| {
            let on_tip = tip == Some(claim.tip.prev_hash);
            lost += if on_tip { 0 } else { claim.cache.len() };
            on_tip && claim.cache.len() > 0
        });
        self.worked_on = self.worked_on.filter(|id| self.key_of(*id).is_some());
        lost
    }

    /// By the id that miners know.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Claim> {
        self.claims.iter_mut().rev().find(|claim| claim.id == id)
    }

    /// Whose a claim is.
    pub(super) fn key_of(&self, id: u32) -> Option<Key> {
        Some(self.claims.iter().rev().find(|claim| claim.id == id)?.key)
    }

    /// The claim that is being declared to this upstream with this request.
    pub(super) fn declaring(&mut self, index: usize, request_id: u32) -> Option<&mut Claim> {
        self.waiting(index, &Step::Declared { request_id })
    }

    /// The claim that is being set at this upstream with this request.
    pub(super) fn proposing(&mut self, index: usize, request_id: u32) -> Option<&mut Claim> {
        self.waiting(index, &Step::Proposed { request_id })
    }

    fn waiting(&mut self, index: usize, step: &Step) -> Option<&mut Claim> {
        let ours = |claim: &&mut Claim| {
            claim.step == *step && claim.key.for_whom.upstream() == Some(index)
        };
        self.claims.iter_mut().find(ours)
    }

    /// The transactions of a job that is being declared.
    pub(super) fn declared_data(&mut self, index: usize, request_id: u32) -> Option<Arc<TxData>> {
        self.declaring(index, request_id)?.data.clone()
    }

    /// What this pool had accepted it does not know any more, and what it was asked it will not answer.
    pub(super) fn pool_lost(&mut self, index: usize) {
        for claim in self.of_upstream(index) {
            let lost = claim.accepted.take().is_some();
            if lost || matches!(claim.step, Step::Proposed { .. }) {
                claim.step = claim.restart();
            }
        }
    }

    /// What this JDS was asked it will not answer.
    pub(super) fn jds_lost(&mut self, index: usize) {
        for claim in self.of_upstream(index) {
            if matches!(claim.step, Step::Declared { .. }) {
                claim.step = claim.restart();
            }
        }
    }

    /// Claims of ours for this upstream.
    pub(super) fn of_upstream(&mut self, index: usize) -> impl Iterator<Item = &mut Claim> {
        let ours = move |claim: &&mut Claim| matches!(claim.key.for_whom, ForWhom::Upstream { index: its, .. } if its == index);
        self.claims.iter_mut().filter(ours)
    }
}

impl Claim {
    fn new(id: u32, plan: Plan, tag: &[u8], step: Step, now: Instant) -> Result<Self, JobError> {
        let Plan { key, tip, layout, version_rolling, content } = plan;
        let (template, version, merkle_path, coinbase, custom) = match content {
            Content::Template(template, payouts) => {
                let factory = JobFactory {
                    tag: tag.to_vec(),
                    payouts,
                    version_rolling_allowed: version_rolling,
                };
                let custom = factory.custom_job(&template, &tip, layout.full_size())?;
                let coinbase = custom.coinbase(layout.full_size())?;
                let path = template.merkle_path.as_slice().into();
                (Some(template.clone()), template.version, path, coinbase, Some(custom))
            }
            Content::Own(job) => {
                let coinbase = job.coinbase().ok_or(JobError::MerklePath { steps: 0 })?.clone();
                (None, job.version(), job.merkle_path().into(), coinbase, None)
            }
        };
        Ok(Self {
            id,
            key,
            tip,
            template,
            layout,
            version,
            version_rolling,
            merkle_path,
            coinbase,
            custom,
            jobs: Vec::new(),
            step,
            since: now,
            made: now,
            accepted: None,
            declared: false,
            data: None,
            cache: Cache::default(),
            pushes: Vec::new(),
            retries: 0,
        })
    }

    /// The job for channels whose full extranonce has this size: the upstream's prefix, and zeroes where it has granted
    /// more than that, are a part of the coinbase. `None` where it has granted less.
    pub(super) fn job(&mut self, full_extranonce_size: usize) -> Option<Arc<Job>> {
        let size = |(size, _): &&(usize, Arc<Job>)| *size == full_extranonce_size;
        if let Some((_, job)) = self.jobs.iter().find(size) {
            return Some(job.clone());
        }
        let padding = self.layout.size.checked_sub(full_extranonce_size)?;
        let mut prefix = self.coinbase.prefix().to_vec();
        prefix.extend_from_slice(&self.layout.prefix);
        prefix.resize(prefix.len() + padding, 0);
        let coinbase =
            Coinbase::from_parts(prefix, self.coinbase.suffix(), full_extranonce_size).ok()?;
        let job = Job::extended(JobParts {
            id: self.id,
            template_id: self.template.as_ref().map(|template| template.id),
            version: self.version,
            version_rolling_allowed: self.version_rolling,
            merkle_path: self.merkle_path.clone(),
            coinbase,
        });
        let job = Arc::new(job.ok()?);
        self.jobs.push((full_extranonce_size, job.clone()));
        Some(job)
    }

    /// What the upstream calls the extranonce: all behind its prefix.
    pub(super) fn extranonce(&self, prefix: &[u8], rolled: &[u8]) -> Option<Extranonce> {
        let own = prefix.len() + rolled.len();
        let mut bytes = [0; adit_mining::extranonce::MAX_EXTRANONCE_LEN];
        let padding = self.layout.size.checked_sub(own)?;
        bytes.get_mut(padding..padding + prefix.len())?.copy_from_slice(prefix);
        bytes.get_mut(padding + prefix.len()..self.layout.size)?.copy_from_slice(rolled);
        Extranonce::new(bytes.get(..self.layout.size)?).ok()
    }

    /// The first step again: nothing of what was said before counts.
    pub(super) fn restart(&self) -> Step {
        match self.step {
            _ if self.custom.is_none() => Step::Rest,
            Step::Data { asked } => Step::Data { asked },
            _ => Step::Token { not_before: None },
        }
    }

    /// It will not be accepted. Returns how many cached shares are lost.
    pub(super) fn abandon(&mut self) -> usize {
        (self.step, self.data) = (Step::Rest, None);
        self.cache.take().len()
    }

    /// Whether shares on it are worth keeping.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.step != Step::Rest
    }
}

impl TxData {
    pub(super) fn new(message: &RequestTransactionDataSuccess<'_>) -> Self {
        let mut data = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(message.transaction_list.len()),
            wtxids: Vec::with_capacity(message.transaction_list.len()),
            excess_data: message.excess_data.as_bytes().to_vec(),
        };
        for transaction in message.transaction_list.iter() {
            data.bytes.extend_from_slice(transaction.as_bytes());
            data.ends.push(data.bytes.len());
            data.wtxids.push(sha256d(transaction.as_bytes()));
        }
        data
    }

    /// How many transactions.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// One of them.
    pub(super) fn transaction(&self, position: usize) -> Option<&[u8]> {
        let end = *self.ends.get(position)?;
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.bytes.get(start..end)
    }
}
