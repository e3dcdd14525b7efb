//! Memory, connections and jobs with thousands of miners that send no shares.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use adit_test_env::bitcoind::Chain;
use adit_test_env::harness::Endpoint;
use anyhow::{Context, Result, ensure};

use super::Item;
use super::miners::{self, connect, wait_for_jobs};
use super::relay::Relay;
use super::sides::{Ground, Side, Translator};

/// Nobody finds a share in this time: each miner is taken for this.
const HASH_RATE: f64 = 1e9;
/// From a block to when the last miner has its job, many times over.
const SETTLED: Duration = Duration::from_millis(400);
/// The same on a machine that is busy with other things.
const LATEST: Duration = Duration::from_secs(20);

pub(crate) fn measure(
    side: &Side,
    count: usize,
    name: &'static str,
    blocks: usize,
) -> Result<Vec<Item>> {
    let shares = [("per_minute", 6.into()), ("allow_above_network_difficulty", true.into())];
    let ground = Ground::start(Chain::Regtest, &shares)?;
    let relay = Relay::start(ground.pool.endpoint().addr)?;
    let pool = Endpoint { addr: relay.addr, ..ground.pool.endpoint() };
    let translator = Translator::start(side, &pool, HASH_RATE)?;
    // One first, so that there is a channel, and what the process needs anyway does not count.
    let (mut first, _) = connect(translator.addr, 1)?;
    wait_for_jobs(&mut first)?;
    thread::sleep(Duration::from_secs(1));
    let empty = translator.resident_kib()?;

    let (mut miners, took) = connect(translator.addr, count)?;
    let rate = count as f64 / took.as_secs_f64();
    wait_for_jobs(&mut miners)?;
    let mut lasts = Vec::new();
    let mut medians = Vec::new();
    let mut several = 0;
    for _ in 0..blocks {
        thread::sleep(SETTLED);
        for miner in &mut miners {
            while miner.read_stamped()?.is_some() {}
        }
        let begun = SystemTime::now();
        ground.node.generate(1)?;
        // Asleep, so that the machine is the translator's; the kernel notes when each line came.
        thread::sleep(SETTLED);
        let mut times = Vec::with_capacity(count);
        for miner in &mut miners {
            let mut first = None;
            let deadline = Instant::now() + LATEST;
            loop {
                while let Some((time, is_job)) = miner.read_stamped()? {
                    if is_job && first.replace(time).is_some() {
                        several += 1;
                    }
                }
                if let Some(first) = first {
                    times.push(first);
                    break;
                }
                ensure!(Instant::now() < deadline, "a miner was told nothing of a block");
                thread::sleep(Duration::from_millis(20));
            }
        }
        let from_pool = relay.first_since(begun).context("the pool said nothing of a block")?;
        times.sort_unstable();
        let since = |time: &SystemTime| {
            time.duration_since(from_pool).unwrap_or_default().as_secs_f64() * 1e3
        };
        lasts.push(since(times.last().context("no miners")?));
        medians.push(since(&times[times.len() / 2]));
    }
    ensure!(several == 0, "{several} jobs came in more than one piece: their times are not known");
    let rss = (translator.resident_kib()? - empty) / count as f64;
    let _ = first.iter_mut().try_for_each(|miner| miner.read(|_| {}).map(drop));
    lasts.sort_unstable_by(f64::total_cmp);
    medians.sort_unstable_by(f64::total_cmp);
    let side = side.name();
    let mut items = vec![Item {
        name,
        side,
        value: lasts[lasts.len() / 2],
        unit: "ms",
        note: format!(
            "{blocks} blocks; best {:.2}, worst {:.2}; the median miner {:.2}",
            lasts[0],
            lasts[lasts.len() - 1],
            medians[medians.len() / 2]
        ),
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
