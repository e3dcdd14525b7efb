//! Whose share a sequence number was. An upstream names nothing else when it says what became of a share.

use std::time::{Duration, Instant};

use adit_transport::PeerId;

/// Shares that are remembered on the channel of all, answered ones included: 256 KiB. Of older ones it is not known any
/// more whose they were, and what the upstream says of them is counted for nobody.
pub(super) const OF_ALL: usize = 1 << 14;
/// On the channel of one miner, for the time that an answer takes.
pub(super) const OF_ONE: usize = 8;

/// The last shares on a channel, in a ring.
#[derive(Debug)]
pub(super) struct Window {
    /// As many as a power of two, so that each sequence number has its place.
    ring: Box<[Sent]>,
    /// The sequence number of the next share.
    next: u32,
    /// Every share before this one is answered or forgotten.
    oldest: u32,
    epoch: Instant,
}

/// A share that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    miner: PeerId,
    /// Microseconds since the epoch; they begin anew after 71 minutes, which no answer takes.
    at: u32,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    None,
    Accepted,
    Rejected,
}

/// A share that the upstream rejected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rejected {
    pub(super) miner: PeerId,
    /// How long the answer took. None where it is the second one: the share was accepted with others before.
    pub(super) took: Option<Duration>,
}

impl Window {
    /// For so many shares, a power of two.
    pub(super) fn new(shares: usize, now: Instant) -> Self {
        let none = Sent { miner: PeerId(0), at: 0, verdict: Verdict::Rejected };
        Self { ring: vec![none; shares].into(), next: 0, oldest: 0, epoch: now }
    }

    /// A share is sent: its sequence number.
    pub(super) fn sent(&mut self, miner: PeerId, now: Instant) -> u32 {
        let number = self.next;
        let at = self.micros(now);
        if let Some(place) = self.place(number) {
            self.ring[place] = Sent { miner, at, verdict: Verdict::None };
        }
        self.next = number.wrapping_add(1);
        // What was in its place is forgotten.
        let least = self.next.wrapping_sub(self.ring.len() as u32);
        if self.next.wrapping_sub(self.oldest) > self.ring.len() as u32 {
            self.oldest = least;
        }
        number
    }

    /// All shares up to this one are accepted, except those that were rejected: whose they are, and how long the answer
    /// took.
    pub(super) fn accept(
        &mut self,
        last: u32,
        now: Instant,
        mut each: impl FnMut(PeerId, Duration),
    ) {
        let answered = last.wrapping_sub(self.oldest).wrapping_add(1);
        let outstanding = self.next.wrapping_sub(self.oldest);
        // One that was never sent, or was answered before.
        if answered > outstanding {
            return;
        }
        for _ in 0..answered {
            if let Some(place) = self.place(self.oldest) {
                let took = self.since(self.ring[place].at, now);
                let sent = &mut self.ring[place];
                if sent.verdict == Verdict::None {
                    sent.verdict = Verdict::Accepted;
                    each(sent.miner, took);
                }
            }
            self.oldest = self.oldest.wrapping_add(1);
        }
    }

    /// This share is rejected. None where it is not known, or was rejected before.
    pub(super) fn reject(&mut self, number: u32, now: Instant) -> Option<Rejected> {
        let age = self.next.wrapping_sub(number) as usize;
        let place = self.place(number).filter(|_| (1..=self.ring.len()).contains(&age))?;
        let took = self.since(self.ring[place].at, now);
        let sent = &mut self.ring[place];
        let before = std::mem::replace(&mut sent.verdict, Verdict::Rejected);
        let miner = sent.miner;
        match before {
            Verdict::None => Some(Rejected { miner, took: Some(took) }),
            Verdict::Accepted => Some(Rejected { miner, took: None }),
            Verdict::Rejected => None,
        }
    }

    fn place(&self, number: u32) -> Option<usize> {
        let last = self.ring.len().checked_sub(1)?;
        Some(number as usize & last)
    }

    fn micros(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_micros() as u32
    }

    fn since(&self, at: u32, now: Instant) -> Duration {
        Duration::from_micros(self.micros(now).wrapping_sub(at).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);

    fn accepted(window: &mut Window, last: u32, now: Instant) -> Vec<(u64, u128)> {
        let mut all = Vec::new();
        window.accept(last, now, |miner, took| all.push((miner.0, took.as_millis())));
        all
    }

    #[test]
    fn each_share_is_answered_once() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(8, start);
        let numbers: Vec<u32> =
            [A, B, A, B].into_iter().zip(0..).map(|(m, n)| window.sent(m, later(n))).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        let took = Some(Duration::from_millis(9));
        assert_eq!(window.reject(1, later(10)), Some(Rejected { miner: B, took }));
        assert_eq!(window.reject(1, later(10)), None);
        assert_eq!(accepted(&mut window, 2, later(10)), [(1, 10), (1, 8)]);
        assert_eq!(accepted(&mut window, 2, later(10)), []);
        assert_eq!(accepted(&mut window, 1, later(10)), []);
        // Never sent.
        assert_eq!(accepted(&mut window, 4, later(10)), []);
        assert_eq!(window.reject(4, later(10)), None);
        // An upstream that takes back what it said.
        assert_eq!(window.reject(2, later(10)), Some(Rejected { miner: A, took: None }));
        assert_eq!(accepted(&mut window, 3, later(10)), [(2, 7)]);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let start = Instant::now();
        let mut window = Window::new(4, start);
        for number in 0..10 {
            window.sent(PeerId(number), start);
        }
        assert_eq!(window.reject(5, start), None);
        assert_eq!(window.reject(6, start).map(|rejected| rejected.miner), Some(PeerId(6)));
        assert_eq!(accepted(&mut window, 8, start), [(7, 0), (8, 0)]);
    }

    #[test]
    fn sequence_numbers_and_times_begin_anew() {
        let start = Instant::now();
        let mut window = Window::new(8, start);
        (window.next, window.oldest) = (u32::MAX - 1, u32::MAX - 1);
        let late = start + Duration::from_secs(4_294) + Duration::from_millis(967);
        let numbers: Vec<u32> = [A, B, A].into_iter().map(|m| window.sent(m, late)).collect();
        assert_eq!(numbers, [u32::MAX - 1, u32::MAX, 0]);
        let later = late + Duration::from_millis(2);
        assert_eq!(window.reject(u32::MAX, later).map(|rejected| rejected.miner), Some(B));
        assert_eq!(accepted(&mut window, 0, later), [(1, 2), (1, 2)]);
        assert_eq!(window.reject(u32::MAX - 9, later), None);
    }

    #[test]
    fn one_without_room_knows_nobody() {
        let start = Instant::now();
        let mut window = Window::new(0, start);
        assert_eq!((window.sent(A, start), window.sent(A, start)), (0, 1));
        assert_eq!(accepted(&mut window, 1, start), []);
        assert_eq!(window.reject(1, start), None);
    }
}
