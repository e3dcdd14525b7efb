//! How fast a miner is, by its shares.

use std::time::{Duration, Instant};

/// Shares older than this count for little: long enough for a dozen shares, short enough to see a miner slow down.
const WINDOW: Duration = Duration::from_secs(300);

/// A moving average of hashes per second. A share loses 63 % of its weight in [`WINDOW`].
#[derive(Clone, Copy, Debug)]
pub(super) struct HashRate {
    /// Hashes, each weighted by its age at `at`.
    hashes: f64,
    at: Instant,
    since: Instant,
}

impl HashRate {
    pub(super) fn new(now: Instant) -> Self {
        Self { hashes: 0.0, at: now, since: now }
    }

    /// A share that stands for so many hashes.
    pub(super) fn add(&mut self, hashes: f64, now: Instant) {
        self.hashes = self.hashes * weight(now, self.at) + hashes;
        self.at = now;
    }

    /// Hashes per second.
    pub(super) fn get(&self, now: Instant) -> f64 {
        let whole = WINDOW.as_secs_f64() * (1.0 - weight(now, self.since));
        if whole > 0.0 { self.hashes * weight(now, self.at) / whole } else { 0.0 }
    }
}

fn weight(now: Instant, then: Instant) -> f64 {
    let age = now.saturating_duration_since(then);
    (-age.as_secs_f64() / WINDOW.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_miner_is_measured_and_a_silent_one_fades() {
        let start = Instant::now();
        let mut rate = HashRate::new(start);
        assert_eq!(rate.get(start), 0.0);
        for second in 1..=600 {
            rate.add(500.0, start + Duration::from_secs(second));
            if second == 60 {
                let early = rate.get(start + Duration::from_secs(60));
                assert!((early / 500.0 - 1.0).abs() < 0.05, "{early}");
            }
        }
        let end = start + Duration::from_secs(600);
        assert!((rate.get(end) / 500.0 - 1.0).abs() < 0.05);
        assert!(rate.get(end + 10 * WINDOW) < 0.1);
    }
}
