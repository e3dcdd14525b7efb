use std::collections::VecDeque;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const RUNS: u64 = 200;
const PER_MINUTE: f64 = 6.0;
const HASH_RATE: f64 = 1e14;

const OPTIONS: VardiffOptions =
    VardiffOptions { shares_per_minute: PER_MINUTE, harder_than_network: false };

const NO_LIMITS: TargetLimits =
    TargetLimits { max_target: Target::MAX, network_target: Target::MIN };

/// A miner whose shares are a Poisson process, on simulated time.
struct Miner {
    rng: SmallRng,
    hash_rate: f64,
    vardiff: Vardiff,
    now: Instant,
    limits: TargetLimits,
    /// Seconds between a `SetTarget` and the job that it counts for.
    job_delay: u64,
    /// Works of one share: in force, and to come with the second at which they do.
    work: u128,
    coming: VecDeque<(u64, u128)>,
    second: u64,
    set_targets: u32,
    first_share: Option<u64>,
}

impl Miner {
    /// Started at a target `ratio` times too hard.
    fn new(seed: u64, ratio: f64) -> Self {
        let now = Instant::now();
        let target = Target::from_hash_rate(HASH_RATE * ratio, PER_MINUTE);
        Self {
            rng: SmallRng::seed_from_u64(seed),
            hash_rate: HASH_RATE,
            vardiff: Vardiff::new(OPTIONS, target, now),
            now,
            limits: NO_LIMITS,
            job_delay: 0,
            work: target.expected_hashes(),
            coming: VecDeque::new(),
            second: 0,
            set_targets: 0,
            first_share: None,
        }
    }

    fn run(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.second += 1;
            self.now += Duration::from_secs(1);
            if let Some((_, work)) = self.coming.pop_front_if(|(at, _)| *at <= self.second) {
                self.work = work;
            }
            // Arrivals within this second.
            let rate = self.hash_rate / self.work as f64;
            let mut time = 0.0;
            loop {
                time -= (1.0 - self.rng.random::<f64>()).ln() / rate;
                if time >= 1.0 {
                    break;
                }
                self.first_share.get_or_insert(self.second);
                self.vardiff.on_share(self.work);
            }
            if let Some(target) = self.vardiff.poll(self.now, &self.limits) {
                self.set_targets += 1;
                self.coming.push_back((self.second + self.job_delay, target.expected_hashes()));
                if self.job_delay == 0 {
                    self.coming.clear();
                    self.work = target.expected_hashes();
                }
            }
        }
        self
    }

    /// Expected share interval at the current target, in units of the wanted one.
    fn interval(&self) -> f64 {
        let work = self.vardiff.target().expected_hashes() as f64;
        work / self.hash_rate / (60.0 / PER_MINUTE)
    }

    fn error(&self) -> f64 {
        (self.interval() - 1.0).abs()
    }
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q) as usize]
}

/// After a step in a miner's hashrate, ten minutes later.
fn step(factor: f64, job_delay: u64) -> Vec<(f64, u32)> {
    let run = |seed| {
        let mut miner = Miner::new(seed, 1.0);
        miner.job_delay = job_delay;
        miner.run(3_600);
        miner.hash_rate *= factor;
        let before = miner.set_targets;
        miner.run(600);
        (miner.error(), miner.set_targets - before)
    };
    (0..RUNS).map(run).collect()
}

/// The promise: after ten times more or less hashrate the expected share interval is within a quarter
/// of what is wanted after ten minutes, or five `SetTarget`s where those came first.
#[test]
fn ten_times_more_or_less_takes_five_targets_and_ten_minutes() {
    for factor in [10.0, 0.1] {
        let errors: Vec<f64> = (0..RUNS)
            .map(|seed| {
                let mut miner = Miner::new(seed, 1.0);
                miner.run(3_600);
                miner.hash_rate *= factor;
                let last = (miner.set_targets + 5, miner.second + 600);
                while miner.set_targets < last.0 && miner.second < last.1 {
                    miner.run(1);
                }
                miner.error()
            })
            .collect();
        println!("x{factor}: median error {:.3}", median(errors.clone()));
        assert!(median(errors) <= 0.25, "x{factor}");
    }
}

#[test]
fn settles_after_a_step() {
    for (factor, job_delay) in [(10.0, 0), (0.1, 0), (10.0, 15), (0.1, 15), (100.0, 0), (3.0, 0)] {
        let runs = step(factor, job_delay);
        let (errors, counts): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
        let good = errors.iter().filter(|e| **e <= 0.25).count();
        println!(
            "x{factor} delay {job_delay}: median error {:.3}, {good} of {RUNS} within 25 %, SetTargets median {} max {}",
            median(errors.clone()),
            median(counts.clone()),
            counts.iter().max().unwrap()
        );
        assert!(median(errors) <= 0.25, "x{factor}");
        assert!(median(counts) <= 5, "x{factor}");
    }
}

#[test]
fn a_miner_started_1000_times_too_hard_is_soon_heard() {
    let firsts: Vec<f64> = (0..RUNS)
        .map(|seed| Miner::new(seed, 1_000.0).run(600).first_share.unwrap_or(600) as f64)
        .collect();
    println!(
        "first share: median {}, 95 % {}",
        median(firsts.clone()),
        quantile(firsts.clone(), 0.95)
    );
    assert!(median(firsts.clone()) <= 180.0);
    assert!(quantile(firsts, 0.95) <= 180.0);
}

#[test]
fn a_wrong_start_settles_too() {
    for ratio in [1_000.0, 300.0, 10.0, 0.1, 0.001] {
        let errors: Vec<f64> =
            (0..RUNS).map(|seed| Miner::new(seed, ratio).run(720).error()).collect();
        println!("start x{ratio}: median error {:.3}", median(errors.clone()));
        assert!(median(errors) <= 0.25, "x{ratio}");
    }
}

#[test]
fn a_steady_miner_is_left_alone() {
    let mut worst = Vec::new();
    let mut total = 0;
    for seed in 0..RUNS {
        let mut miner = Miner::new(seed, 1.0);
        let hours: Vec<u32> = (0..24)
            .map(|_| {
                let before = miner.set_targets;
                miner.run(3_600);
                miner.set_targets - before
            })
            .collect();
        total += hours.iter().sum::<u32>();
        worst.push(*hours.iter().max().unwrap());
    }
    let above = worst.iter().filter(|w| **w > 1).count();
    println!(
        "SetTargets a day: {}, runs with more than one in an hour: {above} of {RUNS}",
        f64::from(total) / RUNS as f64
    );
    assert!(median(worst) <= 1);
    assert!(above as u64 * 20 <= RUNS);
    assert!(f64::from(total) / (RUNS as f64) < 0.5);
}

#[test]
fn small_changes_are_followed_in_time() {
    for (factor, minutes) in [(0.5, 60), (2.0, 60), (0.65, 180), (1.5, 180)] {
        let errors: Vec<f64> = (0..RUNS)
            .map(|seed| {
                let mut miner = Miner::new(seed, 1.0);
                miner.run(6 * 3_600);
                miner.hash_rate *= factor;
                miner.run(minutes * 60).error()
            })
            .collect();
        println!("x{factor} after {minutes} min: median error {:.3}", median(errors.clone()));
        assert!(median(errors) <= 0.25, "x{factor}");
    }
}

#[test]
fn limits_are_kept() {
    let network_target = Target::from_hash_rate(HASH_RATE * 5.0, PER_MINUTE);
    let max_target = Target::from_hash_rate(HASH_RATE / 5.0, PER_MINUTE);
    let mut miner = Miner::new(1, 1.0);
    miner.limits = TargetLimits { max_target, network_target };
    miner.run(600);
    miner.hash_rate = HASH_RATE * 100.0;
    miner.run(1_200);
    assert_eq!(miner.vardiff.target(), network_target);
    // Found out once, not again every few seconds.
    let before = miner.set_targets;
    miner.run(1_200);
    assert_eq!(miner.set_targets, before);
    assert!((miner.vardiff.hash_rate() / miner.hash_rate - 1.0).abs() < 0.1);
    miner.hash_rate = HASH_RATE / 100.0;
    miner.run(3_600);
    assert_eq!(miner.vardiff.target(), max_target);

    // Harder than the network where that is allowed, never easier than the client's maximum.
    let mut miner = Miner::new(1, 1.0);
    miner.vardiff.options.harder_than_network = true;
    miner.limits = TargetLimits { max_target, network_target };
    miner.hash_rate = HASH_RATE * 100.0;
    assert!(miner.run(1_200).error() < 0.4);
}

#[test]
fn moved_limits_are_followed_at_once() {
    let mut miner = Miner::new(1, 1.0);
    assert_eq!(miner.run(60).set_targets, 0);
    let target = miner.vardiff.target();
    let harder = Target::from_hash_rate(HASH_RATE * 2.0, PER_MINUTE);
    miner.limits.max_target = harder;
    assert_eq!(miner.run(1).vardiff.target(), harder);
    // The client's maximum counts even where the network is easier.
    miner.limits.network_target = target;
    assert_eq!(miner.run(1).vardiff.target(), harder);
}

/// A pool that goes away takes its limit with it, and brings it back: that is no news of the miner.
#[test]
fn what_a_limit_forbade_for_a_while_is_gone_back_to() {
    let mut miner = Miner::new(1, 1.0);
    assert_eq!(miner.run(60).set_targets, 0);
    let (target, limits) = (miner.vardiff.target(), miner.limits);
    miner.limits.network_target = Target::from_hash_rate(HASH_RATE / 1_000.0, PER_MINUTE);
    miner.limits.max_target = Target::MAX;
    assert_eq!(miner.run(30).vardiff.target(), miner.limits.network_target);
    miner.limits = limits;
    assert_eq!(miner.run(1).vardiff.target(), target);
    let rate = miner.vardiff.hash_rate() / HASH_RATE;
    assert!((0.8..1.25).contains(&rate), "{rate}");
}

#[test]
fn the_hashrate_is_the_miner_s() {
    let rates: Vec<f64> = (0..RUNS)
        .map(|seed| Miner::new(seed, 3.0).run(7_200).vardiff.hash_rate() / HASH_RATE)
        .collect();
    let mean = rates.iter().sum::<f64>() / RUNS as f64;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");
    let fresh = Miner::new(1, 1.0).vardiff.hash_rate() / HASH_RATE;
    assert!((fresh - 1.0).abs() < 1e-9);
}

#[test]
fn a_restart_forgets() {
    let mut miner = Miner::new(1, 0.01);
    miner.run(120);
    let target = Target::from_hash_rate(HASH_RATE, PER_MINUTE);
    let now = miner.now;
    miner.vardiff.restart(target, now);
    assert_eq!(miner.vardiff.target(), target);
    assert!((miner.vardiff.hash_rate() / HASH_RATE - 1.0).abs() < 1e-9);
}

/// A connection that stalls for two minutes and then delivers what it held back.
#[test]
fn a_burst_after_a_stall_does_not_silence_the_miner() {
    let mut miner = Miner::new(1, 1.0);
    miner.run(3_600);
    let work = miner.work;
    for _ in 0..120 {
        miner.now += Duration::from_secs(1);
        miner.vardiff.poll(miner.now, &NO_LIMITS);
    }
    for _ in 0..12 {
        miner.vardiff.on_share(work);
    }
    miner.now += Duration::from_secs(1);
    miner.vardiff.poll(miner.now, &NO_LIMITS);
    assert!(miner.interval() < 10.0, "{}", miner.interval());
    assert!(miner.run(900).error() <= 0.35, "{}", miner.interval());
}

#[test]
fn absurd_input_is_survived() {
    let now = Instant::now();
    for target in [Target::MAX, Target::MIN, Target::DIFFICULTY_1] {
        let mut vardiff = Vardiff::new(OPTIONS, target, now);
        for step in 0..1_000u64 {
            vardiff.on_share(if step % 3 == 0 { u128::MAX } else { 1 });
            // Time may stand still or go back.
            vardiff.poll(now + Duration::from_secs(step % 7), &NO_LIMITS);
            assert!(vardiff.hash_rate().is_finite(), "{step}");
            assert!(vardiff.target() >= Target::MIN);
        }
    }
}

proptest! {
    /// Whatever shares and limits come: never easier than the client takes, never harder than a
    /// block but where that is allowed.
    #[test]
    fn targets_stay_within_limits(
        harder_than_network in any::<bool>(),
        steps in prop::collection::vec((0u32..400, 0u32..90, 20u32..60, 20u32..60), 1..60),
    ) {
        let mut now = Instant::now();
        let options = VardiffOptions { harder_than_network, ..OPTIONS };
        let mut vardiff = Vardiff::new(options, Target::DIFFICULTY_1, now);
        for (shares, seconds, max, network) in steps {
            let work = vardiff.target().expected_hashes();
            (0..shares).for_each(|_| vardiff.on_share(work));
            now += Duration::from_secs(seconds.into());
            let target = |bits: u32| Target::from_expected_hashes(2f64.powi(bits as i32));
            let limits = TargetLimits { max_target: target(max), network_target: target(network) };
            if let Some(new) = vardiff.poll(now, &limits) {
                prop_assert_eq!(new, vardiff.target());
            }
            let now_in_force = vardiff.target();
            prop_assert!(now_in_force <= limits.max_target);
            if !harder_than_network && limits.network_target <= limits.max_target {
                prop_assert!(now_in_force >= limits.network_target);
            }
        }
    }
}
