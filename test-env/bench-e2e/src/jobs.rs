//! Memory, connections and jobs with thousands of miners that send no shares.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use adit_test_env::bitcoind::Chain;
use adit_test_env::harness::Endpoint;
use anyhow::{Context, Result, ensure};

use super::Item;
use super::miners::{self, connect, wait_for_jobs};
use super::relay::Relay;
use super::sides::{Ground, Miners, Side, Terms, Translator};

/// Nobody finds a share in this time: each miner is taken for this.
const HASH_RATE: f64 = 1e9;
const SHARES_PER_MINUTE: u32 = 6;
/// From a block to when the last miner has its job, many times over.
const SETTLED: Duration = Duration::from_millis(400);
/// The same on a machine that is busy with other things.
const LATEST: Duration = Duration::from_secs(20);
/// Longer than a translator puts off telling the pool of new miners, for which it gets another target.
const SILENCE: Duration = Duration::from_secs(6);
/// For that silence to come.
const SILENT_WITHIN: Duration = Duration::from_secs(40);
/// Of a read; some lines.
const BUFFER: usize = 64 << 10;

pub(crate) fn measure(
    side: &Side,
    count: usize,
    name: &'static str,
    blocks: usize,
) -> Result<Vec<Item>> {
    // A target that changes would have every miner told anew in the middle of a block.
    let more = [("allow_above_network_difficulty", true.into()), ("vardiff", false.into())];
    let terms = Terms {
        chain: Chain::Regtest,
        shares_per_minute: SHARES_PER_MINUTE,
        batch: 10,
        more: &more,
    };
    let ground = Ground::start(side, &terms)?;
    let relay = Relay::start(ground.pool.endpoint().addr)?;
    let pool = Endpoint { addr: relay.addr, ..ground.pool.endpoint() };
    let terms =
        Miners { count, hash_rate: HASH_RATE * count as f64, shares_per_minute: SHARES_PER_MINUTE };
    let translator = Translator::start(side, &pool, &terms)?;
    // One first, so that there is a channel, and what the process needs anyway does not count.
    let (mut first, _) = connect(translator.addr, 1)?;
    wait_for_jobs(&mut first)?;
    thread::sleep(Duration::from_secs(1));
    let empty = translator.resident_kib()?;

    let (mut miners, took) = connect(translator.addr, count)?;
    let rate = count as f64 / took.as_secs_f64();
    wait_for_jobs(&mut miners)?;
    let settled = relay.wait_silent(SILENCE, SILENT_WITHIN);
    let mut figures = Figures::default();
    let mut buffer = vec![0; BUFFER];
    for _ in 0..blocks {
        thread::sleep(SETTLED);
        for miner in &mut miners {
            while miner.read_stamped(&mut buffer, |_| {})?.is_some() {}
        }
        let begun = SystemTime::now();
        ground.node.generate(1)?;
        // Asleep, so that the machine is the translator's; the kernel notes when each line came.
        thread::sleep(SETTLED);
        let mut times = Vec::with_capacity(count);
        let mut several = false;
        for miner in &mut miners {
            let (mut came, mut jobs) = (None, 0);
            let deadline = Instant::now() + LATEST;
            loop {
                while let Some(read) = miner.read_stamped(&mut buffer, |_| {})? {
                    if read.jobs > 0 {
                        came.get_or_insert(read.time);
                        jobs += read.jobs;
                    }
                }
                if came.is_some() {
                    break;
                }
                ensure!(Instant::now() < deadline, "a miner was told nothing of a block");
                thread::sleep(Duration::from_millis(20));
            }
            several |= jobs > 1;
            times.extend(came);
        }
        let from_pool = relay.first_since(begun).context("the pool said nothing of a block")?;
        let from_provider = ground.templates.first_since(begun);
        let from_provider = from_provider.context("no template of a block")?;
        // Of two jobs in one read only the time of the second is known.
        if several {
            figures.left_out += 1;
        } else {
            figures.add(times, from_pool, from_provider)?;
        }
    }
    ensure!(
        figures.left_out * 5 <= blocks,
        "in {} of {blocks} blocks miners were told of more than one job: their times are not known",
        figures.left_out
    );
    let rss = (translator.resident_kib()? - empty) / count as f64;
    let _ = first.iter_mut().try_for_each(|miner| miner.read(|_| {}).map(drop));
    let side = side.name();
    let mut items = vec![Item {
        name,
        side,
        value: median(&mut figures.lasts),
        unit: "ms",
        note: figures.note(settled),
    }];
    if count >= 5_000 {
        items.push(Item {
            name: "v1_rss_per_connection_kib",
            side,
            value: rss,
            unit: "kib",
            note: format!("{count} connections after {blocks} blocks; {empty:.0} KiB with one"),
        });
        items.push(Item {
            name: "v1_connect_rate",
            side,
            value: rate,
            unit: "per_second",
            note: "connect, subscribe, authorize, all answered; one client thread".to_owned(),
        });
    }
    drop::<Vec<miners::Miner>>(miners);
    Ok(items)
}

/// Milliseconds from the pool's word to miners, one of each for each block.
#[derive(Default)]
struct Figures {
    firsts: Vec<f64>,
    medians: Vec<f64>,
    lasts: Vec<f64>,
    /// To the last miner from the template provider's word.
    whole: Vec<f64>,
    /// Blocks of which miners were told more than once.
    left_out: usize,
}

impl Figures {
    /// When each miner had the job of a block.
    fn add(
        &mut self,
        mut times: Vec<SystemTime>,
        from_pool: SystemTime,
        from_provider: SystemTime,
    ) -> Result<()> {
        times.sort_unstable();
        let between = |from: SystemTime, to: SystemTime| {
            to.duration_since(from).unwrap_or_default().as_secs_f64() * 1e3
        };
        let since = |time| between(from_pool, time);
        let (first, last) = times.first().zip(times.last()).context("no miners")?;
        self.firsts.push(since(*first));
        self.medians.push(since(times[times.len() / 2]));
        self.lasts.push(since(*last));
        self.whole.push(between(from_provider, *last));
        Ok(())
    }

    fn note(&mut self, settled: bool) -> String {
        let (first, middle) = (median(&mut self.firsts), median(&mut self.medians));
        let whole = median(&mut self.whole);
        // In order since its median was taken.
        let (best, worst) = (self.lasts.first().copied(), self.lasts.last().copied());
        format!(
            "{} blocks; best {:.2}, worst {:.2}; the first miner {first:.2}, the median one {middle:.2}; \
             from the template provider to the last {whole:.2}; \
             {} blocks left out, of which miners were told more than once{}",
            self.lasts.len(),
            best.unwrap_or_default(),
            worst.unwrap_or_default(),
            self.left_out,
            if settled { "" } else { "; translator and pool were never silent before it" },
        )
    }
}

/// Sorts them.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
