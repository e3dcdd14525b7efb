//! Rounds in which the two sides take turns.

use std::time::{Duration, Instant};

use anyhow::ensure;

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What was measured.
    pub name: &'static str,
    /// Adit, operations per second: the median round.
    pub ours: f64,
    /// SRI's crates, likewise; none where they have no counterpart.
    pub peer: Option<f64>,
    /// How many times faster Adit is: the median of the rounds' ratios.
    pub ratio: Option<f64>,
}

/// The time that some operations took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    operations: usize,
    elapsed: Duration,
}

/// Times `work`, which does `operations` operations.
pub(crate) fn timed<T>(operations: usize, work: impl FnOnce() -> T) -> (Timed, T) {
    let start = Instant::now();
    let result = work();
    (Timed { operations, elapsed: start.elapsed() }, result)
}

/// One side's operation.
pub(crate) trait Side {
    /// Prepares inputs, times, checks results. `round` tells inputs apart.
    ///
    /// Returned are the time and what both sides must agree on, byte for byte; nothing where the
    /// results are checked here already.
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)>;
}

/// Runs `rounds` rounds after one that warms up. A round is one measurement of each side, one right
/// behind the other, so that what else the machine does falls on both; who is first alternates.
pub(crate) fn compare(
    name: &'static str,
    rounds: usize,
    ours: &mut impl Side,
    peer: &mut impl Side,
) -> anyhow::Result<Item> {
    let (mut our_rates, mut peer_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let ((our_time, our_results), (peer_time, peer_results)) = if round % 2 == 0 {
            let our_round = ours.round(round)?;
            (our_round, peer.round(round)?)
        } else {
            let peer_round = peer.round(round)?;
            (ours.round(round)?, peer_round)
        };
        ensure!(our_results == peer_results, "{name}: the two sides' results differ");
        if round == 0 {
            continue;
        }
        our_rates.push(our_time.rate());
        peer_rates.push(peer_time.rate());
        ratios.push(our_time.rate() / peer_time.rate());
    }
    let (ours, peer, ratio) = (median(our_rates), median(peer_rates), median(ratios));
    Ok(Item { name, ours, peer: Some(peer), ratio: Some(ratio) })
}

impl Timed {
    fn rate(self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
