//! What is counted: per channel and, where its client names its workers (extension 0x0002), per worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::{BlockHash, Target};
use adit_sv2::codec::Str0255;

use crate::metrics::Refusal;
use crate::store::Identity;

/// Shares of one channel, or of one worker on it.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) identity: Arc<Identity>,
    pub(super) accepted: u64,
    /// Made at the first refusal.
    rejected: Option<Box<[u32; Refusal::COUNT]>>,
    /// The smallest hash, as a number.
    best: Target,
    pub(super) last_share: Option<Instant>,
}

impl Tally {
    pub(super) fn new(identity: Arc<Identity>) -> Self {
        Self { identity, accepted: 0, rejected: None, best: Target::MAX, last_share: None }
    }

    pub(super) fn accept(&mut self, hash: &BlockHash, now: Instant) {
        self.accepted += 1;
        self.best = self.best.min(Target::from_le_bytes(hash.0));
        self.last_share = Some(now);
    }

    pub(super) fn reject(&mut self, refusal: Refusal) {
        let counts = self.rejected.get_or_insert_with(|| Box::new([0; Refusal::COUNT]));
        counts[refusal.index()] = counts[refusal.index()].saturating_add(1);
    }

    /// Refused shares by reason, where there are any.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (Refusal, u32)> {
        let count = |refusal: Refusal| self.rejected.as_ref().map_or(0, |c| c[refusal.index()]);
        Refusal::all().map(move |refusal| (refusal, count(refusal))).filter(|(_, count)| *count > 0)
    }

    /// Difficulty of the best share; 0 before the first.
    pub(super) fn best_difficulty(&self) -> f64 {
        if self.accepted == 0 { 0.0 } else { self.best.difficulty() }
    }
}

/// The workers of one channel, by the name that their shares carry.
#[derive(Debug, Default)]
pub(super) struct Workers {
    by_name: HashMap<Box<[u8]>, Worker>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) tally: Tally,
    pub(super) hash_rate: HashRate,
}

/// Workers of one channel that are told apart: as many as a translator has miners on a channel.
const MAX_PER_CHANNEL: usize = 1 << 16;
/// A worker that was not heard of for so long is no longer one of the channel's.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Workers {
    /// The worker of a share that is refused, where it had one accepted before.
    pub(super) fn known(&mut self, name: &[u8]) -> Option<&mut Worker> {
        let name = if self.by_name.contains_key(name) { name } else { &[] };
        self.by_name.get_mut(name)
    }

    /// The worker of a share that is good: only work makes a place, or names made up would fill memory. Where there is
    /// none, and for an empty name, it is the channel's own identity. `in_all` counts the places of every channel.
    pub(super) fn place(
        &mut self,
        name: &[u8],
        channel: &Arc<Identity>,
        in_all: &mut u32,
        limit: u32,
        now: Instant,
    ) -> &mut Worker {
        let full = self.by_name.len() >= MAX_PER_CHANNEL || *in_all >= limit;
        let name = if full && !self.by_name.contains_key(name) { &[] } else { name };
        // Looked up by reference first, since an entry needs a name of its own.
        if !self.by_name.contains_key(name) {
            let identity = match name {
                [] => channel.clone(),
                name => Arc::new(worker_identity(name, channel)),
            };
            let worker = Worker { tally: Tally::new(identity), hash_rate: HashRate::new(now) };
            self.by_name.insert(name.into(), worker);
            *in_all += 1;
        }
        self.by_name.get_mut(name).expect("was there or was put there")
    }

    /// Forgets who is gone for long.
    pub(super) fn sweep(&mut self, in_all: &mut u32, now: Instant) {
        let before = self.by_name.len();
        self.by_name.retain(|_, worker| {
            worker.tally.last_share.is_some_and(|at| now.duration_since(at) < FORGOTTEN_AFTER)
        });
        *in_all -= (before - self.by_name.len()) as u32;
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.by_name.values()
    }
}

/// The account is always the channel's, whatever the name says: nobody is credited with another's work. A name that
/// repeats the account (`account.worker`) means the worker behind it.
fn worker_identity(name: &[u8], channel: &Identity) -> Identity {
    // At most 32 bytes, so nothing is lost.
    let name = Str0255::new(name).unwrap_or_default().to_clean_string();
    let worker = name
        .strip_prefix(&channel.account)
        .and_then(|rest| rest.strip_prefix('.'))
        .map_or_else(|| name.clone(), str::to_owned);
    Identity { account: channel.account.clone(), worker }
}

/// Hashes per second, as an average in which the past fades.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashRate {
    since: Instant,
    last: Instant,
    /// Expected hashes, faded up to `last`.
    work: f64,
}

/// A share counts by `1/e` after this time.
const FADES_IN: Duration = Duration::from_secs(600);
/// Nothing is concluded from less time.
const SHORTEST: Duration = Duration::from_secs(60);

impl HashRate {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, last: now, work: 0.0 }
    }

    pub(super) fn add(&mut self, work: u128, now: Instant) {
        self.work = self.faded(now) + work as f64;
        self.last = now;
    }

    pub(super) fn get(&self, now: Instant) -> f64 {
        let seen = now.saturating_duration_since(self.since).max(SHORTEST);
        let fades = FADES_IN.as_secs_f64();
        // What a steady miner's sum would be after so long, per hash per second.
        self.faded(now) / (fades * (1.0 - (-seen.as_secs_f64() / fades).exp()))
    }

    fn faded(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.last);
        self.work * (-passed.as_secs_f64() / FADES_IN.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_worker_is_measured_and_a_gone_one_fades() {
        let start = Instant::now();
        let mut rate = HashRate::new(start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for share in 1..=180 {
            rate.add(10_000, at(share * 10));
            if share >= 12 {
                let measured = rate.get(at(share * 10));
                assert!((measured / 1_000.0 - 1.0).abs() < 0.06, "{measured} after {share}");
            }
        }
        assert!(rate.get(at(1_800 + 3_600)) < 5.0);
        // One share says little in its first second.
        let mut rate = HashRate::new(start);
        rate.add(60_000, start);
        assert!(rate.get(start) < 1_100.0);
    }

    #[test]
    fn a_name_is_cleaned_and_never_another_account() {
        let channel = Identity { account: "alice".to_owned(), worker: "proxy".to_owned() };
        let worker = |name: &[u8]| worker_identity(name, &channel).to_string();
        assert_eq!(worker(b"Worker_001"), "alice.Worker_001");
        assert_eq!(worker(b"alice.rig1"), "alice.rig1");
        assert_eq!(worker(b"bob.rig1"), "alice.bob.rig1");
        assert_eq!(worker(b"alice"), "alice.alice");
        assert!(!worker(b"a\x07\xff").contains(char::is_control));
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let (start, mut in_all) = (Instant::now(), 0);
        let account = Arc::new(Identity { account: "a".to_owned(), worker: String::new() });
        let mut workers = Workers::default();
        for name in 0..10u8 {
            let worker = workers.place(&[b'0' + name], &account, &mut in_all, 5, start);
            assert_eq!(Arc::ptr_eq(&worker.tally.identity, &account), name >= 5);
            worker
                .tally
                .accept(&BlockHash([1; 32]), start + Duration::from_secs(3600) * name.into());
        }
        assert_eq!((in_all, workers.len()), (6, 6));
        assert_eq!(workers.known(b"7").unwrap().tally.accepted, 5);
        assert_eq!(workers.known(b"3").unwrap().tally.accepted, 1);
        workers.sweep(&mut in_all, start + FORGOTTEN_AFTER + Duration::from_secs(3600));
        assert_eq!((in_all, workers.len()), (4, 4));
    }
}
