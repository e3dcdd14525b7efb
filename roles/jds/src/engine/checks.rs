//! Judging declared jobs: one at the node at a time, identical ones once, clients in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use adit_job_declaration::{Commitment, DeclaredJob};
use adit_node::ProposalResult;
use adit_sv2::keys::tagged_hash;
use adit_transport::{Now, Outbox, PeerId};
use bitcoin::OutPoint;

use super::declare::{Declaration, Known, Stage};
use super::fees::Fees;
use super::mempool::Entry;
use super::{Effect, Jds, Job, Refusal, Tip};

/// A block for the node to judge.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// For [`Jds::checked`].
    pub id: u64,
    /// What to judge.
    pub job: Arc<Job>,
    /// nTime of the proposal, unix seconds.
    pub ntime: u32,
    /// Outputs in the chain whose values are needed.
    pub lookups: Vec<OutPoint>,
}

/// What the node made of it.
#[derive(Clone, Debug)]
pub struct CheckAnswer {
    /// Its verdict, or why there is none.
    pub verdict: Result<ProposalResult, String>,
    /// Satoshis of the lookups, in order; `None` for an output that it does not know.
    pub values: Vec<Option<u64>>,
}

/// Same previous block, same coinbase, same transactions.
type Key = [u8; 32];

#[derive(Debug, Default)]
pub(super) struct Checks {
    checks: HashMap<u64, Check>,
    by_key: HashMap<Key, u64>,
    /// Clients with queued checks, next first.
    turns: VecDeque<PeerId>,
    queues: HashMap<PeerId, VecDeque<u64>>,
    in_flight: Option<u64>,
    last_id: u64,
    /// On this tip, oldest first.
    results: VecDeque<(Key, Result<Arc<Job>, Refusal>)>,
}

#[derive(Debug)]
struct Check {
    key: Key,
    job: Arc<Job>,
    transactions: Vec<Known>,
    fees: Fees,
    coinbase_total: u64,
    pool_paid: u64,
    waiting: Vec<(PeerId, u32)>,
    queued: Instant,
}

impl Checks {
    /// Where a declaration waits for an answer that is not there yet.
    fn join(&mut self, key: &Key, peer: PeerId, request_id: u32) -> Option<u64> {
        let id = *self.by_key.get(key)?;
        self.checks.get_mut(&id)?.waiting.push((peer, request_id));
        Some(id)
    }

    fn result(&self, key: &Key) -> Option<&Result<Arc<Job>, Refusal>> {
        self.results.iter().rev().find(|(known, _)| known == key).map(|(_, result)| result)
    }

    fn push(&mut self, peer: PeerId, check: Check) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.by_key.insert(check.key, id);
        self.checks.insert(id, check);
        let queue = self.queues.entry(peer).or_default();
        if queue.is_empty() {
            self.turns.push_back(peer);
        }
        queue.push_back(id);
        id
    }

    /// The next that somebody still waits for, if none is at the node.
    fn next(&mut self) -> Option<u64> {
        if self.in_flight.is_some() {
            return None;
        }
        while let Some(peer) = self.turns.pop_front() {
            let Some(queue) = self.queues.get_mut(&peer) else { continue };
            let id = queue.pop_front();
            if queue.is_empty() {
                self.queues.remove(&peer);
            } else {
                self.turns.push_back(peer);
            }
            let Some(id) = id else { continue };
            match self.checks.get(&id) {
                Some(check) if check.waiting.is_empty() => drop(self.remove(id)),
                Some(_) => {
                    self.in_flight = Some(id);
                    return Some(id);
                }
                None => {}
            }
        }
        None
    }

    fn remove(&mut self, id: u64) -> Option<Check> {
        let check = self.checks.remove(&id)?;
        self.by_key.remove(&check.key);
        Some(check)
    }

    /// Takes back what is not at the node yet, and says who waits for it.
    pub(super) fn withdraw_queued(&mut self) -> Vec<(PeerId, u32)> {
        self.turns.clear();
        let mut waiting = Vec::new();
        let queues = std::mem::take(&mut self.queues);
        let mut ids: Vec<u64> = queues.into_values().flatten().collect();
        ids.sort_unstable();
        for id in ids {
            waiting.extend(self.remove(id).into_iter().flat_map(|check| check.waiting));
        }
        waiting
    }

    /// A job that is not kept any more: declared again, it is judged again.
    fn forget_job(&mut self, job: &Arc<Job>) {
        let is_it = |result: &Result<Arc<Job>, Refusal>| {
            result.as_ref().is_ok_and(|its| Arc::ptr_eq(its, job))
        };
        self.results.retain(|(_, result)| !is_it(result));
    }

    pub(super) fn forget_results(&mut self) {
        self.results.clear();
    }

    pub(super) fn forget_client(&mut self, peer: PeerId) {
        for check in self.checks.values_mut() {
            check.waiting.retain(|(waiting, _)| *waiting != peer);
        }
    }

    /// Checks queued or at the node.
    pub(super) fn len(&self) -> usize {
        self.checks.len()
    }
}

impl Jds {
    /// The next block for the node, if none is there now.
    pub fn take_check(&mut self, now: Now) -> Option<CheckRequest> {
        let id = self.checks.next()?;
        let check = self.checks.checks.get(&id)?;
        let min_time = self.tip.map_or(0, |tip| tip.min_time);
        self.metrics.check_waited(now.instant.saturating_duration_since(check.queued));
        Some(CheckRequest {
            id,
            job: check.job.clone(),
            ntime: now.unix_secs().max(min_time),
            lookups: check.fees.lookups.clone(),
        })
    }

    /// The answer to a check.
    pub fn checked(&mut self, id: u64, answer: CheckAnswer, now: Now, out: &mut Outbox<Effect>) {
        if self.checks.in_flight != Some(id) {
            return;
        }
        self.checks.in_flight = None;
        out.effect(Effect::Check);
        let Some(mut check) = self.checks.remove(id) else { return };
        let waiting = std::mem::take(&mut check.waiting);
        if self.tip.is_none_or(|tip| tip.hash.0 != *check.job.declared.prev_hash()) {
            // True of another tip; what it is on ours is not known.
            return self.advance_all(waiting, now, out);
        }
        let result = match answer.verdict {
            Ok(ProposalResult::Valid | ProposalResult::Duplicate) => {
                self.judge_value(&check, &answer.values)
            }
            Ok(ProposalResult::Rejected(reason)) => Err(Refusal::new(code_of(&reason), reason)),
            Ok(ProposalResult::NotOnTip) => {
                let trouble = Refusal::new("stale-chain-tip", "our node has another tip");
                return self.all_wait_for_node(waiting, &trouble, now);
            }
            Err(error) => {
                tracing::warn!(error, "a declared job could not be checked");
                let trouble = Refusal::new("internal-error", "the node does not answer");
                return self.all_wait_for_node(waiting, &trouble, now);
            }
        };
        self.metrics.checked(result.is_ok(), waiting.len());
        let result = result.map(|fees| {
            self.keep_supplied(&check, fees);
            self.keep_job(&check.job);
            check.job.clone()
        });
        self.checks.results.push_back((check.key, result.clone()));
        if self.checks.results.len() > MAX_RESULTS {
            self.checks.results.pop_front();
        }
        for (peer, request_id) in waiting {
            let Some(declaration) = self.take(peer, |d| d.request_id == request_id) else {
                continue;
            };
            match &result {
                Ok(job) => self.accept(peer, declaration, job, now, out),
                Err(refusal) => self.fail(peer, declaration, refusal.clone(), out),
            }
        }
    }

    /// Puts a declaration on our tip into the queue: the number of its check, or `None` where its job was accepted
    /// already.
    pub(super) fn enqueue(
        &mut self,
        peer: PeerId,
        declaration: &Declaration,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<Option<u64>, Refusal> {
        let busy = || Refusal::new("internal-error", "no tip is known");
        let tip = self.tip.ok_or_else(busy)?;
        let key = key_of(&tip, declaration);
        if let Some(result) = self.checks.result(&key) {
            self.metrics.shared_check();
            return result.clone().map(|_| None);
        }
        if let Some(id) = self.checks.join(&key, peer, declaration.request_id) {
            self.metrics.shared_check();
            return Ok(Some(id));
        }
        let coinbase = declaration.coinbase()?;
        let transactions = declaration.known().ok_or_else(busy)?;
        let pool_paid = coinbase.outputs.paid_to(&[&self.settings.pool_script]);
        let coinbase_total = coinbase.outputs.total();
        let declared = DeclaredJob::new(
            declaration.version,
            &coinbase,
            transactions.iter().map(|known| known.transaction.clone()).collect(),
            tip.hash.0,
            tip.nbits,
        );
        let commitment = Commitment::declared(
            declaration.version,
            &coinbase,
            declared.merkle_path(),
            &tip.hash.0,
        );
        self.last_serial += 1;
        let job = Arc::new(Job {
            declared,
            height: declaration.height,
            serial: self.last_serial,
            extra_bytes: extra_bytes(&transactions),
            commitment,
        });
        // The client may have solved it before it was accepted.
        self.try_held_solutions(peer, &job, now, out);
        let check = Check {
            key,
            job,
            fees: Fees::of(&transactions),
            transactions,
            coinbase_total,
            pool_paid,
            waiting: vec![(peer, declaration.request_id)],
            queued: now.instant,
        };
        out.effect(Effect::Check);
        Ok(Some(self.checks.push(peer, check)))
    }

    /// A declaration whose job was accepted for somebody before.
    pub(super) fn accept_known(
        &mut self,
        peer: PeerId,
        declaration: Declaration,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let job = self.tip.and_then(|tip| {
            let result = self.checks.result(&key_of(&tip, &declaration))?;
            result.as_ref().ok().cloned()
        });
        if let Some(job) = job {
            self.try_held_solutions(peer, &job, now, out);
            self.accept(peer, declaration, &job, now, out);
        }
    }

    /// The job of a pending declaration that is in a check.
    pub(super) fn job_in_check(&self, declaration: &Declaration) -> Option<&Arc<Job>> {
        let Stage::Check(id) = declaration.stage else { return None };
        self.checks.checks.get(&id).map(|check| &check.job)
    }

    /// What the node does not look at: whether the coinbase takes all that it may, and pays the pool enough of it.
    /// Gives the fees of supplied transactions.
    fn judge_value(
        &self,
        check: &Check,
        values: &[Option<u64>],
    ) -> Result<Option<Vec<(usize, u64)>>, Refusal> {
        let Some((fees, each)) = check.fees.resolve(values) else {
            self.metrics.value_unknown();
            return self.judge_pool_part(check, check.coinbase_total).map(|()| None);
        };
        let value = self.settings.network.subsidy(check.job.height).saturating_add(fees);
        if check.coinbase_total < value {
            return Err(Refusal::new(
                "invalid-coinbase-tx",
                format_args!("pays {} of {value} satoshis", check.coinbase_total),
            ));
        }
        self.judge_pool_part(check, value).map(|()| Some(each))
    }

    fn judge_pool_part(&self, check: &Check, value: u64) -> Result<(), Refusal> {
        let least = u128::from(value) * u128::from(self.settings.min_pool_percent);
        if u128::from(check.pool_paid) * 100 < least {
            return Err(Refusal::new(
                "invalid-coinbase-tx-outputs",
                format_args!(
                    "pays the pool {} of {value} satoshis, it takes {} percent",
                    check.pool_paid, self.settings.min_pool_percent
                ),
            ));
        }
        Ok(())
    }

    /// Supplied transactions of a valid job are at hand for the next; of an invalid one nothing is kept.
    fn keep_supplied(&mut self, check: &Check, fees: Option<Vec<(usize, u64)>>) {
        for (position, fee) in fees.into_iter().flatten() {
            let transaction = check.transactions[position].transaction.clone();
            self.mempool.keep_supplied(Entry { transaction, fee });
        }
    }

    /// Keeps an accepted job for solutions. What such jobs hold beyond the mirror is bounded, wherever they are kept: the
    /// oldest are given up, never the new one.
    fn keep_job(&mut self, job: &Arc<Job>) {
        self.jobs.push_back(job.clone());
        if self.jobs.len() > MAX_JOBS {
            self.jobs.pop_front();
        }
        if job.extra_bytes == 0 {
            return;
        }
        self.extra.retain(|known| known.strong_count() > 0);
        let mut left = (self.settings.supplied_bytes * 2).saturating_sub(job.extra_bytes);
        let mut fitting = 0;
        for known in self.extra.iter().rev() {
            let bytes = known.upgrade().map_or(0, |known| known.extra_bytes);
            let Some(rest) = left.checked_sub(bytes) else { break };
            (left, fitting) = (rest, fitting + 1);
        }
        for old in self.extra.drain(..self.extra.len() - fitting).filter_map(|old| old.upgrade()) {
            tracing::debug!(job = old.serial, "job forgotten: too many bytes are kept for such");
            let is_another = |other: &Arc<Job>| !Arc::ptr_eq(other, &old);
            self.jobs.retain(is_another);
            self.clients.values_mut().for_each(|client| client.accepted.retain(is_another));
            self.checks.forget_job(&old);
        }
        self.extra.push_back(Arc::downgrade(job));
    }

    fn all_wait_for_node(&mut self, waiting: Vec<(PeerId, u32)>, trouble: &Refusal, now: Now) {
        for (peer, request_id) in waiting {
            self.wait_for_node(peer, request_id, trouble.clone(), now);
        }
    }
}

/// Of transactions that are kept for their job alone.
fn extra_bytes(transactions: &[Known]) -> usize {
    let extra = transactions.iter().filter(|known| known.is_extra);
    extra.map(|known| known.transaction.raw.len()).sum()
}

fn key_of(tip: &Tip, declaration: &Declaration) -> Key {
    let version = declaration.version.to_le_bytes();
    let prefix_len = (declaration.prefix.len() as u64).to_le_bytes();
    let suffix_len = (declaration.suffix.len() as u64).to_le_bytes();
    let parts: [&[u8]; 7] = [
        &tip.hash.0,
        &version,
        &prefix_len,
        &declaration.prefix,
        &suffix_len,
        &declaration.suffix,
        declaration.wtxids().as_flattened(),
    ];
    tagged_hash("adit/declaration", &parts)
}

/// The code for a node's reason.
fn code_of(reason: &str) -> &'static str {
    let coinbase = ["bad-cb-", "bad-witness-", "unexpected-witness"];
    if coinbase.iter().any(|prefix| reason.starts_with(prefix)) {
        "invalid-coinbase-tx"
    } else {
        "invalid-job"
    }
}

/// Results that are kept on a tip, accepted or refused.
const MAX_RESULTS: usize = 512;
/// Accepted jobs of all clients whose solutions are taken from anybody. Each is a list of pointers, 30 KB for a full
/// block, to transactions in the mirror and to extra ones, whose bytes are bounded.
const MAX_JOBS: usize = 512;
