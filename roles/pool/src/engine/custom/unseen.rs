//! Tips to come that clients were ahead on.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// One that had its time gets no more for so long: until no share of then can be in time. Its nTime may
/// be two hours ahead, a later job's two hours behind the pool's tip, and that some hours old.
const UNSEEN_FOR: Duration = Duration::from_secs(8 * 3_600);
/// Those that are remembered, 80 bytes each. With more there would be no more jobs on tips to come for a while.
const MAX_UNSEEN: usize = 1 << 14;

/// Previous hashes that clients had jobs on before the pool had seen them.
///
/// One that is made up could be claimed time and again, on another channel with the same extranonce if need be, and all
/// its shares would be paid each time: it is the pool that gives it its time, once.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    until: BTreeMap<[u8; 32], Instant>,
    /// Oldest first.
    order: VecDeque<[u8; 32]>,
}

impl Unseen {
    /// Until when jobs on this one count, or would count, at this time; none where they do not.
    pub(super) fn until(
        &mut self,
        prev_hash: &[u8; 32],
        grace: Duration,
        now: Instant,
    ) -> Option<Instant> {
        while let Some(oldest) = self.order.front()
            && self.until.get(oldest).is_none_or(|until| *until + UNSEEN_FOR <= now)
        {
            self.until.remove(oldest);
            self.order.pop_front();
        }
        let room = self.order.len() < MAX_UNSEEN;
        let until = match self.until.get(prev_hash) {
            Some(until) => Some(*until),
            None => room.then_some(now + grace),
        };
        until.filter(|until| *until > now)
    }

    /// The first job on this one came.
    pub(super) fn begin(&mut self, prev_hash: [u8; 32], until: Instant) {
        if let Entry::Vacant(entry) = self.until.entry(prev_hash) {
            entry.insert(until);
            self.order.push_back(prev_hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tips_to_come_that_had_their_time_are_remembered_until_no_share_of_theirs_is_in_time() {
        let (grace, start) = (Duration::from_secs(5), Instant::now());
        let hash = |n: usize| [[n as u8, (n >> 8) as u8]; 16].as_flattened().try_into().unwrap();
        let mut unseen = Unseen::default();
        for n in 0..MAX_UNSEEN {
            assert_eq!(unseen.until(&hash(n), grace, start), Some(start + grace));
            unseen.begin(hash(n), start + grace);
            unseen.begin(hash(n), start + 2 * grace);
        }
        let more = hash(MAX_UNSEEN);
        let at =
            |unseen: &mut Unseen, hash: &[u8; 32], time| unseen.until(hash, grace, start + time);
        assert_eq!(at(&mut unseen, &hash(0), grace - Duration::from_secs(1)), Some(start + grace));
        assert_eq!(at(&mut unseen, &more, grace), None, "no room");
        for time in [grace, UNSEEN_FOR] {
            assert_eq!(at(&mut unseen, &hash(0), time), None);
        }
        let later = UNSEEN_FOR + grace;
        for hash in [more, hash(0)] {
            assert_eq!(at(&mut unseen, &hash, later), Some(start + later + grace));
        }
        assert!(unseen.until.is_empty() && unseen.order.is_empty());
        assert_eq!(unseen.until(&more, Duration::ZERO, start), None);
    }
}
