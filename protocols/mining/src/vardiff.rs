//! Variable difficulty: the target at which a miner finds so many shares a minute.
//!
//! The hashrate is a moving average of the work that shares stand for. A target moves for one of
//! three reasons:
//!
//! - **A change was detected**: two sequential tests (CUSUM) ask after every poll whether shares
//!   come at twice, or at 0.3 times, the expected rate. They are quick for a large change, and a
//!   steady miner sets one off less than once a week. The new estimate is taken from the moment
//!   where the test's evidence begins.
//! - **Settling**: that estimate is rough, so it is refined twice, when more shares are there.
//! - **Drift**: the long average is off by more than a quarter and more than its own uncertainty.
//!
//! Where a guess is followed by silence, it is made ten times easier after every four share intervals,
//! until the first share comes.

use std::time::{Duration, Instant};

use crate::target::Target;

/// How a target is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VardiffOptions {
    /// Shares that a channel is to find in a minute.
    pub shares_per_minute: f64,
    /// Whether a target may be harder than the network's: on regtest only, where an unthrottled
    /// miner would otherwise find millions of shares a second.
    pub harder_than_network: bool,
}

/// Between what a target must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetLimits {
    /// The easiest that the client asked for; always kept.
    pub max_target: Target,
    /// The network's.
    pub network_target: Target,
}

/// Chooses the target of one channel. About 150 bytes; does not allocate.
#[derive(Clone, Debug)]
pub struct Vardiff {
    options: VardiffOptions,
    target: Target,
    /// What the shares suggest, as far as the limits did not forbid it: `target` goes back to it when they move.
    wanted: Target,
    /// Expected hashes of `target`.
    work: f64,
    last_poll: Instant,
    /// Since the last poll.
    pending: Shares,
    /// Since the last detected change, with old data fading.
    average: Window,
    /// Rate assumed before `average` has anything to say, in shares per interval.
    prior: f64,
    faster: Detector,
    slower: Detector,
    phase: Phase,
}

/// Shares, counted in units of the current target's work.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    /// Sum of works.
    weight: f64,
    /// As `weight`, but no share above 1: what one late share of an older, harder target may say.
    count: f64,
}

/// Shares over time; time in share intervals.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    weight: f64,
    time: f64,
}

/// Evidence that the rate changed by a factor.
#[derive(Clone, Copy, Debug, Default)]
struct Detector {
    /// Logarithm of the likelihood ratio, kept from falling below zero.
    score: f64,
    /// Since the score last was zero.
    since: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The target was set from little data; so many refinements were made.
    Settling(usize),
    /// Nothing speaks against the target.
    Steady,
}

impl Vardiff {
    /// Begins with a target that was chosen from what the client said of itself.
    pub fn new(options: VardiffOptions, target: Target, now: Instant) -> Self {
        Self {
            options,
            target,
            wanted: target,
            work: target.expected_hashes() as f64,
            last_poll: now,
            pending: Shares::default(),
            average: Window::default(),
            prior: 1.0,
            faster: Detector::default(),
            slower: Detector::default(),
            phase: Phase::Steady,
        }
    }

    /// Counts an accepted share by its [`work`](crate::share::AcceptedShare::work).
    #[inline]
    pub fn on_share(&mut self, work: u128) {
        let weight = work as f64 / self.work;
        self.pending.weight += weight;
        self.pending.count += weight.min(1.0);
    }

    /// To be called about once a second; a new target is to be sent as `SetTarget`.
    pub fn poll(&mut self, now: Instant, limits: &TargetLimits) -> Option<Target> {
        let elapsed = now.saturating_duration_since(self.last_poll);
        self.last_poll = now;
        self.take_pending(self.intervals(elapsed));
        if let Some(rate) = self.decide() {
            self.wanted = Target::from_expected_hashes(self.work * rate);
        }
        let target = self.clamp(self.wanted, limits); // which may have moved
        if target == self.target {
            return None;
        }
        self.scale_to(target);
        Some(target)
    }

    /// The target was set elsewhere, say because the client told its hashrate: begin anew.
    pub fn restart(&mut self, target: Target, now: Instant) {
        *self = Self::new(self.options, target, now);
    }

    /// The current target.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The estimated hashrate, hashes per second; before any share, the one that fits the target.
    pub fn hash_rate(&self) -> f64 {
        self.rate() * self.work * self.options.shares_per_minute / 60.0
    }

    fn intervals(&self, time: Duration) -> f64 {
        time.as_secs_f64() * self.options.shares_per_minute / 60.0
    }

    /// Estimated shares per interval; 1 is what is wanted.
    fn rate(&self) -> f64 {
        (self.average.weight + PRIOR_WEIGHT * self.prior) / (self.average.time + PRIOR_WEIGHT)
    }

    fn take_pending(&mut self, time: f64) {
        let shares = std::mem::take(&mut self.pending);
        let rate = self.rate();
        self.faster.update(FASTER, rate, shares, time);
        self.slower.update(SLOWER, rate, shares, time);
        self.average.add(shares.weight, time);
        if self.average.time > MEMORY {
            self.average.weight /= 2.0;
            self.average.time /= 2.0;
        }
    }

    /// The rate to correct for, if any.
    fn decide(&mut self) -> Option<f64> {
        let certain = if matches!(self.phase, Phase::Settling(_)) { LIKELY } else { CERTAIN };
        if self.average.weight == 0.0 && self.average.time >= SILENCE {
            return self.changed(self.average);
        }
        if self.faster.score >= certain {
            return self.changed(self.faster.since);
        }
        if self.slower.score >= certain {
            return self.changed(self.slower.since);
        }
        let Window { weight, time } = self.average;
        match self.phase {
            Phase::Settling(step) => {
                let (shares, intervals) = REFINEMENTS[step];
                if weight < shares && time < intervals {
                    return None;
                }
                let last = step + 1 == REFINEMENTS.len();
                self.phase = if last { Phase::Steady } else { Phase::Settling(step + 1) };
                let rate = self.average.rate(0.0);
                (rate.ln().abs() > REFINE_ABOVE).then_some(rate)
            }
            Phase::Steady if time >= DRIFT_TIME => {
                let rate = self.rate();
                let uncertain = DRIFT_SIGMAS / weight.max(1.0).sqrt();
                (rate.ln().abs() > DRIFT_ABOVE.max(uncertain)).then_some(rate)
            }
            _ => None,
        }
    }

    /// The miner is another one now: what was known of it before is void.
    fn changed(&mut self, since: Window) -> Option<f64> {
        let time = since.time.max(self.intervals(BURST));
        let rate = Window { time, ..since }.rate(UNSEEN);
        self.average = Window::default();
        self.prior = rate;
        self.faster = Detector::default();
        self.slower = Detector::default();
        self.phase = Phase::Settling(0);
        Some(rate)
    }

    /// Keeps what was learnt, in units of another target.
    fn scale_to(&mut self, target: Target) {
        let work = target.expected_hashes() as f64;
        let scale = self.work / work;
        self.average.weight *= scale;
        self.prior *= scale;
        self.faster = Detector::default();
        self.slower = Detector::default();
        self.target = target;
        self.work = work;
    }

    fn clamp(&self, target: Target, limits: &TargetLimits) -> Target {
        let hardest = match self.options.harder_than_network {
            true => Target::MIN,
            false => limits.network_target,
        };
        target.max(hardest).min(limits.max_target)
    }
}

impl Detector {
    fn update(&mut self, factor: f64, rate: f64, shares: Shares, time: f64) {
        // Of a Poisson process that has `factor` times the rate, against one that has the rate.
        self.score += shares.count * factor.ln() - (factor - 1.0) * rate * time;
        self.since.add(shares.weight, time);
        if self.score <= 0.0 {
            *self = Self::default();
        }
    }
}

impl Window {
    fn add(&mut self, weight: f64, time: f64) {
        self.weight += weight;
        self.time += time;
    }

    fn rate(&self, unseen: f64) -> f64 {
        (self.weight + unseen) / self.time
    }
}

/// Rate changes that are looked for. Larger ones are found too, and faster.
const FASTER: f64 = 2.0;
const SLOWER: f64 = 0.3;

/// Evidence (logarithm of a likelihood ratio) for a change in a steady miner.
const CERTAIN: f64 = 12.0;

/// The same shortly after a change, when the target is a guess.
const LIKELY: f64 = 5.0;

/// Intervals without the first share after which a target that is a guess is made easier.
const SILENCE: f64 = 4.0;

/// Added to the shares of a window that may have none: four silent intervals mean a tenth.
const UNSEEN: f64 = 0.4;

/// Shares or intervals, whichever is first, after which a settling target is refined.
const REFINEMENTS: [(f64, f64); 2] = [(12.0, 14.0), (36.0, 40.0)];

/// Logarithm of the error that a refinement corrects: 12 %.
const REFINE_ABOVE: f64 = 0.113;

/// Intervals of data before drift is asked for.
const DRIFT_TIME: f64 = 60.0;

/// Logarithm of the drift that is corrected: 25 %.
const DRIFT_ABOVE: f64 = 0.223;

/// Standard deviations of the average by which drift must exceed chance.
const DRIFT_SIGMAS: f64 = 4.5;

/// Intervals after which old data begins to fade (1.4 hours at 6 shares a minute).
const MEMORY: f64 = 500.0;

/// Intervals that the assumption weighs against data.
const PRIOR_WEIGHT: f64 = 10.0;

/// A rate is never concluded from less time: what a stalled connection held back comes all at once.
const BURST: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
