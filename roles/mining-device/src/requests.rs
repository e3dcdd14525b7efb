//! Which miners of a connection have asked for a channel, and when those that lost theirs or were refused ask again.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use adit_transport::{Backoff, Now};

/// Between two requests of one miner. Each miner has its own waits, so that channels which a server closed together do
/// not come back together; the longest is above that of connections, since a server that answers has said no on purpose.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(250),
    cap: Duration::from_secs(30),
    reset_after: Duration::from_secs(30),
};

/// The requests of one connection. Miners are known by their index.
#[derive(Debug)]
pub(crate) struct Requests {
    /// State of a small generator (xorshift64), never zero: it only spreads waits.
    random: u64,
    /// Of the last request: no two of a connection have the same (spec 5.3.2).
    last_id: u32,
    /// The answer is still to come, by the request's id.
    pending: HashMap<u32, usize>,
    /// Who asks again, and when.
    waiting: BTreeSet<(Instant, usize)>,
    miners: Vec<History>,
}

#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// Refusals and closings in a row, none followed by a channel that lived.
    failures: u32,
    opened: Option<Instant>,
}

impl Requests {
    /// Of a connection that has yet to be made.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: seed | 1,
            last_id: 0,
            pending: HashMap::new(),
            waiting: BTreeSet::new(),
            miners: Vec::new(),
        }
    }

    /// A new connection: nothing of the one before holds.
    pub(crate) fn begin(&mut self, miners: usize) {
        *self = Self { miners: vec![History::default(); miners], ..Self::new(self.random) };
    }

    /// The id for a miner's request.
    pub(crate) fn ask(&mut self, miner: usize) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.pending.insert(self.last_id, miner);
        self.last_id
    }

    /// An answer came: whose request it was, if it was one.
    pub(crate) fn answered(&mut self, request_id: u32) -> Option<usize> {
        self.pending.remove(&request_id)
    }

    /// Whether no answer is still to come.
    pub(crate) fn are_answered(&self) -> bool {
        self.pending.is_empty()
    }

    /// A miner has its channel; says whether it had to ask again.
    pub(crate) fn opened(&mut self, miner: usize, now: Now) -> bool {
        let Some(history) = self.miners.get_mut(miner) else { return false };
        history.opened = Some(now.instant);
        history.failures > 0
    }

    /// A miner was refused or its channel was closed: it asks again after this time.
    pub(crate) fn again(&mut self, miner: usize, now: Now) -> Duration {
        let random = self.random();
        let Some(history) = self.miners.get_mut(miner) else { return BACKOFF.cap };
        let lived = history.opened.take().map(|at| now.instant.saturating_duration_since(at));
        if lived.is_some_and(|lived| lived >= BACKOFF.reset_after) {
            history.failures = 0;
        }
        let wait = BACKOFF.wait(history.failures, random);
        history.failures = history.failures.saturating_add(1);
        self.waiting.insert((now.instant + wait, miner));
        wait
    }

    /// A miner whose wait is over.
    pub(crate) fn due(&mut self, now: Now) -> Option<usize> {
        let (at, miner) = *self.waiting.first()?;
        if at > now.instant {
            return None;
        }
        self.waiting.pop_first();
        Some(miner)
    }

    fn random(&mut self) -> u16 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(miners: usize) -> (Requests, Now) {
        let mut requests = Requests::new(7);
        requests.begin(miners);
        (requests, Now::read())
    }

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_after_a_good_channel() {
        let (mut requests, mut now) = requests(1);
        let mut longest = BACKOFF.first;
        for attempt in 0..40 {
            let wait = requests.again(0, now);
            assert!(wait > longest / 2 - Duration::from_millis(1) && wait <= longest, "{attempt}");
            longest = (longest * 2).min(BACKOFF.cap);
            assert_eq!(requests.due(now.later(wait - Duration::from_micros(1))), None);
            now = now.later(wait);
            assert_eq!(requests.due(now), Some(0));
            assert_eq!(requests.due(now), None, "once");
        }
        // A channel that is closed at once is no better than a refusal.
        assert!(requests.opened(0, now));
        assert!(requests.again(0, now) > BACKOFF.cap / 3);
        assert!(requests.opened(0, now));
        now = now.later(BACKOFF.reset_after);
        assert!(requests.again(0, now) <= BACKOFF.first);
    }

    #[test]
    fn miners_wait_each_for_themselves() {
        let (mut requests, now) = requests(100);
        let waits: BTreeSet<_> = (0..100).map(|miner| requests.again(miner, now)).collect();
        assert!(waits.len() > 90, "not at once: {waits:?}");
        requests.begin(100);
        assert_eq!(requests.due(now.later(BACKOFF.cap)), None, "a new connection");
        let others: BTreeSet<_> = (0..100).map(|miner| requests.again(miner, now)).collect();
        assert_ne!(waits, others);
    }

    #[test]
    fn each_request_has_an_id_and_one_answer() {
        let (mut requests, now) = requests(2);
        assert_eq!((requests.ask(0), requests.ask(1)), (1, 2));
        assert_eq!((requests.answered(2), requests.answered(2)), (Some(1), None));
        assert!(!requests.are_answered());
        assert_eq!(requests.answered(1), Some(0));
        assert!(requests.are_answered() && !requests.opened(0, now));
        assert_eq!(requests.ask(0), 3, "never used again");
    }
}
