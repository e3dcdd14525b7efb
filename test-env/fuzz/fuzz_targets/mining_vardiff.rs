//! Difficulty in any use: whatever shares come and however limits move, the target is within them, and the hashrate a
//! number.
#![no_main]

use std::time::{Duration, Instant};

use adit_mining::Target;
use adit_mining::vardiff::{TargetLimits, Vardiff, VardiffOptions};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    /// In the range that roles allow.
    shares_per_minute: u16,
    harder_than_network: bool,
    start: Hardness,
    limits: (Hardness, Hardness),
    steps: Vec<Step>,
}

/// A target.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Hardness {
    /// Work of so many bits, and a little more.
    Bits(u8, u16),
    /// Whatever this is.
    Bytes([u8; 32]),
    Easiest,
    Hardest,
}

impl Hardness {
    fn target(self) -> Target {
        match self {
            Self::Bits(bits, more) => {
                let hashes = 2_f64.powi(i32::from(bits % 130)) * (1.0 + f64::from(more) / 65_536.0);
                Target::from_expected_hashes(hashes)
            }
            Self::Bytes(bytes) => Target::from_le_bytes(bytes),
            Self::Easiest => Target::MAX,
            Self::Hardest => Target::MIN,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// So many shares of the current target.
    Shares(u8),
    /// A share of this work.
    Share(u128),
    /// A share of the current target's work, as many bits easier or harder.
    Relative(i8),
    Milliseconds(u16),
    Hours(u8),
    /// As a driver does: one a second.
    Seconds(u8),
    Poll,
    /// A poll whose clock went back.
    Back(u16),
    MaxTarget(Hardness),
    NetworkTarget(Hardness),
    Restart(Hardness),
}

/// After this no share can be counted on to matter, and nobody finds so many.
const MAX_STEPS: usize = 300;

fuzz_target!(|input: Input| {
    let options = VardiffOptions {
        shares_per_minute: 0.1 + f64::from(input.shares_per_minute) * (599.9 / 65_535.0),
        harder_than_network: input.harder_than_network,
    };
    let mut now = Instant::now();
    let (max_target, network_target) = input.limits;
    let mut limits =
        TargetLimits { max_target: max_target.target(), network_target: network_target.target() };
    let mut vardiff = Vardiff::new(options, input.start.target(), now);
    for step in input.steps.iter().take(MAX_STEPS) {
        let work = vardiff.target().expected_hashes();
        match *step {
            Step::Shares(count) => (0..count).for_each(|_| vardiff.on_share(work)),
            Step::Share(work) => vardiff.on_share(work),
            Step::Relative(bits) if bits >= 0 => {
                vardiff.on_share(work.saturating_mul(1 << (bits as u32).min(100)));
            }
            Step::Relative(bits) => vardiff.on_share(work >> (bits.unsigned_abs() & 0x7f)),
            Step::Milliseconds(time) => now += Duration::from_millis(time.into()),
            Step::Hours(time) => now += Duration::from_secs(u64::from(time) * 3_600),
            Step::Seconds(count) => (0..count).for_each(|_| {
                now += Duration::from_secs(1);
                poll(&mut vardiff, options, now, &limits);
            }),
            Step::Poll => poll(&mut vardiff, options, now, &limits),
            Step::Back(time) => {
                let before = now.checked_sub(Duration::from_millis(time.into()));
                poll(&mut vardiff, options, before.unwrap_or(now), &limits);
            }
            Step::MaxTarget(target) => limits.max_target = target.target(),
            Step::NetworkTarget(target) => limits.network_target = target.target(),
            Step::Restart(target) => {
                vardiff.restart(target.target(), now);
                assert_eq!(vardiff.target(), target.target());
            }
        }
        rate(&vardiff);
    }
});

fn poll(vardiff: &mut Vardiff, options: VardiffOptions, now: Instant, limits: &TargetLimits) {
    let before = vardiff.target();
    match vardiff.poll(now, limits) {
        Some(target) => assert!(target != before && target == vardiff.target()),
        None => assert_eq!(vardiff.target(), before),
    }
    let target = vardiff.target();
    assert!(target <= limits.max_target, "easier than the client takes");
    let hardest = if options.harder_than_network { Target::MIN } else { limits.network_target };
    assert!(target >= hardest.min(limits.max_target), "harder than blocks");
    rate(vardiff);
    // With nothing new there is nothing to say.
    let mut again = vardiff.clone();
    again.poll(now, limits);
    rate(&again);
}

fn rate(vardiff: &Vardiff) {
    let rate = vardiff.hash_rate();
    assert!(rate.is_finite() && rate >= 0.0, "{rate} in {vardiff:?}");
}
