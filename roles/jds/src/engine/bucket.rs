//! How often somebody may ask for something.

use std::time::Instant;

/// So many at once, and so many per second in the long run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// After that.
    pub per_second: f64,
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: f64::from(rate.burst), at: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * self.rate.per_second).min(f64::from(self.rate.burst));
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }

    /// Takes what was not known to be asked for beforehand: the next wait for it.
    pub(super) fn charge(&mut self, more: f64) {
        self.left -= more;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(Rate { burst: 3, per_second: 2.0 }, now);
        let taken = |bucket: &mut Bucket, now| (0..10).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, now), 3);
        now += Duration::from_secs(1);
        assert_eq!(taken(&mut bucket, now), 2);
        now += Duration::from_secs(3600);
        assert_eq!(taken(&mut bucket, now), 3);
        bucket.charge(4.0);
        now += Duration::from_secs(2);
        assert_eq!(taken(&mut bucket, now), 0);
        now += Duration::from_secs(1);
        assert_eq!(taken(&mut bucket, now), 2);
    }
}
