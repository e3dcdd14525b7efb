//! Shares per second from Stratum V1 miners to the pool's store.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use adit_mining::{NonceScan, Target};
use adit_test_env::bitcoind::Chain;
use anyhow::{Context, Result, anyhow, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{UsageWho, getrusage};

use super::Item;
use super::miners::{Miner, connect, wait_for_jobs};
use super::sides::{Ground, Miners, Pool, Side, Terms, Translator, cpu_seconds};

/// Shares that wait for an answer, of all miners together.
const IN_FLIGHT: u64 = 4_096;
/// Shares in one write, at most.
const BATCH: u64 = 64;
/// For the last answers, all the way.
const SETTLE: Duration = Duration::from_secs(20);
/// Without another share at the pool there will be none. Longer than what SRI's pool says of itself is old.
const QUIET: Duration = Duration::from_secs(4);
/// Accepted shares after which it is enough: pool and translator take 2^20 on one job, and there is no other.
const ENOUGH: u64 = 900_000;
/// Shares per minute that are wanted, the most that Adit's pool can be told.
const SHARES_PER_MINUTE: u32 = 600;
/// Hashes per second that all miners together are taken for at least. More where there are more connections: Adit's
/// translator takes each for one.
const HASH_RATE: usize = 10;

/// Shares are so much better than they are said to have to be.
const MARGIN: f64 = 1.1;

struct Load {
    miner: Miner,
    sent: u64,
    accepted: u64,
    refused: u64,
    out: Vec<u8>,
    written: usize,
    window: u64,
    /// With which nonces its job's header meets the target.
    nonces: Vec<u32>,
    /// Jobs that it had been told of by then.
    jobs: u64,
}

/// Of so many V1 connections.
pub(crate) fn measure(
    side: &Side,
    seconds: u64,
    name: &'static str,
    connections: usize,
) -> Result<Vec<Item>> {
    // On a signet, where a share is no block; at a target that is met by many hashes, and which stays.
    let hash_rate = connections.max(HASH_RATE);
    let more = [
        ("min_hashrate", HASH_RATE.into()),
        ("start_hashrate", HASH_RATE.into()),
        ("vardiff", false.into()),
        ("ack_interval_ms", 1_000.into()),
    ];
    let terms = Terms {
        chain: Chain::Signet,
        shares_per_minute: SHARES_PER_MINUTE,
        batch: 1_000,
        more: &more,
    };
    let mut ground = Ground::start(side, &terms)?;
    let terms = Miners {
        count: connections,
        hash_rate: hash_rate as f64,
        shares_per_minute: SHARES_PER_MINUTE,
    };
    let translator = Translator::start(side, &ground.pool.endpoint(), &terms)?;
    let (mut miners, _) = connect(translator.addr, connections)?;
    wait_for_jobs(&mut miners)?;
    // Until the upstream has heard of all of them and no target changes any more.
    thread::sleep(Duration::from_secs(8));

    let mut poll = Poll::new()?;
    let mut loads = Vec::new();
    let window = (IN_FLIGHT / connections as u64).max(2);
    let each = (ENOUGH / connections as u64 + window) as usize;
    for miner in &mut miners {
        // What came of the others' coming.
        miner.read(|_| {})?;
    }
    let nonces = all_nonces(&miners, each)?;
    for (number, (miner, nonces)) in miners.into_iter().zip(nonces).enumerate() {
        let jobs = miner.jobs;
        let fd = miner.stream.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut SourceFd(&fd), Token(number), interest)?;
        let (out, written) = (Vec::new(), 0);
        loads.push(Load {
            miner,
            sent: 0,
            accepted: 0,
            refused: 0,
            out,
            written,
            window,
            nonces,
            jobs,
        });
    }
    let pool_pid = ground.pool.pid()?;
    let cpu = |pid| cpu_seconds(pid);
    let before = (own_cpu()?, cpu(translator.pid)?, cpu(pool_pid)?);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut events = Events::with_capacity(1_024);
    let mut reasons = HashMap::new();
    let mut ready: Vec<usize> = (0..loads.len()).collect();
    let mut so_far = 0;
    loop {
        let more = Instant::now() < end && so_far < ENOUGH;
        for number in ready.drain(..) {
            let load = &mut loads[number];
            let before = load.accepted;
            load.work(more, &mut reasons)?;
            so_far += load.accepted - before;
        }
        if !more && loads.iter().all(|load| load.sent == load.accepted + load.refused) {
            break;
        }
        ensure!(Instant::now() < end + SETTLE, "shares were not answered: {:?}", totals(&loads));
        poll.poll(&mut events, Some(Duration::from_millis(10)))?;
        ready.extend(events.iter().map(|event| event.token().0));
    }
    let took = begun.elapsed();
    let after = (own_cpu()?, cpu(translator.pid)?, cpu(pool_pid)?);
    let (sent, accepted, refused) = totals(&loads);
    ensure!(sent == accepted + refused, "{sent} sent, {accepted} accepted, {refused} refused");

    let mut note = format!(
        "{connections} connections, {:.1} s: {sent} submitted = {accepted} accepted + {refused} refused {reasons:?}; CPU seconds per second: generator {:.2}, translator {:.2}, pool {:.2}",
        took.as_secs_f64(),
        (after.0 - before.0) / took.as_secs_f64(),
        (after.1 - before.1) / took.as_secs_f64(),
        (after.2 - before.2) / took.as_secs_f64(),
    );
    // At the other end, once the last batch is there.
    let deadline = Instant::now() + SETTLE;
    let (mut counted, mut since) = (ground.pool.shares()?, Instant::now());
    while counted.0 + counted.1 < accepted as f64
        && since.elapsed() < QUIET
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(100));
        let now = ground.pool.shares()?;
        if now.0 + now.1 < counted.0 + counted.1 {
            note += "; then the pool and its translator parted";
            break;
        }
        if now != counted {
            (counted, since) = (now, Instant::now());
        }
    }
    let _ = write!(
        note,
        "; pool: {} accepted, {} rejected, the last {:.1} s after the miners' last answer",
        counted.0,
        counted.1,
        since.saturating_duration_since(begun + took).as_secs_f64()
    );
    if let Some(role) = &translator.role {
        let count = |result: &str| -> Result<f64> {
            let labels = [("side", "onward"), ("result", result)];
            Ok(role.metrics()?.sum("adit_translator_shares_total", &labels))
        };
        let (onward, below) = (count("sent")?, count("below-target")?);
        ensure!(
            onward + below == accepted as f64,
            "{onward} sent on and {below} below of {accepted}"
        );
        ensure!(counted.0 + counted.1 == onward, "{onward} sent on, at the pool {counted:?}");
    }
    if let Pool::Adit(role) = &mut ground.pool {
        role.stop()?;
        let store = adit_pool::store::Store::open(&role.dir().join("pool.redb"))?;
        let stored = store.totals(1)?;
        let (accepted, rejected) = (stored.accepted, stored.rejected);
        ensure!(accepted as f64 == counted.0, "{} accepted, {accepted} stored", counted.0);
        let _ = write!(note, "; store: {accepted} accepted, {rejected} rejected");
    }
    Ok(vec![Item {
        name,
        side: side.name(),
        value: counted.0 / took.as_secs_f64(),
        unit: "per_second",
        note,
    }])
}

fn totals(loads: &[Load]) -> (u64, u64, u64) {
    loads.iter().fold((0, 0, 0), |(sent, accepted, refused), load| {
        (sent + load.sent, accepted + load.accepted, refused + load.refused)
    })
}

/// Shares of all miners, made before anything is measured.
fn all_nonces(miners: &[Miner], each: usize) -> Result<Vec<Vec<u32>>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = miners.len().div_ceil(threads);
    thread::scope(|scope| {
        let make = |part: &[Miner]| part.iter().map(|miner| nonces(miner, each)).collect();
        let made: Vec<_> =
            miners.chunks(part).map(|part| scope.spawn(move || make(part))).collect();
        let mut all = Vec::new();
        for part in made {
            let part: Result<Vec<_>> = part.join().map_err(|_| anyhow!("a thread panicked"))?;
            all.extend(part?);
        }
        Ok(all)
    })
}

/// So many nonces with which this miner's job meets its difficulty. None is a block: that would bring another job.
fn nonces(miner: &Miner, count: usize) -> Result<Vec<u32>> {
    let header = miner.header(&"00".repeat(miner.size()))?;
    let network = Target::from_nbits(header.nbits).context("nbits")?;
    // Difficulties are rounded, and a share is to be one for the pool as well.
    let target = Target::from_difficulty(miner.difficulty * MARGIN);
    let mut scan = NonceScan::new(&header);
    let good = (0..=u32::MAX).filter(|nonce| {
        let hash = scan.hash(*nonce);
        target.is_met_by(&hash) && !network.is_met_by(&hash)
    });
    Ok(good.take(count).collect())
}

fn own_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

impl Load {
    /// Reads answers, and sends as many shares as may wait for theirs.
    fn work(&mut self, more: bool, reasons: &mut HashMap<String, u64>) -> Result<()> {
        let (accepted, refused) = (&mut self.accepted, &mut self.refused);
        self.miner.read(|line| {
            if line.windows(13).any(|part| part == b"\"result\":true") {
                *accepted += 1;
            } else {
                *refused += 1;
                let text = String::from_utf8_lossy(line);
                let reason = text.rsplit_once("error").map_or(&*text, |(_, reason)| reason);
                *reasons.entry(reason.to_owned()).or_default() += 1;
            }
        })?;
        loop {
            while self.written < self.out.len() {
                match self.miner.stream.write(&self.out[self.written..]) {
                    Ok(written) => self.written += written,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            let waiting = self.sent - self.accepted - self.refused;
            // A good part of the window at once: what a translator reads at once is what many miners' shares would be.
            let batch = (self.window / 2).clamp(1, BATCH);
            if !more || waiting + batch > self.window {
                return Ok(());
            }
            self.out.clear();
            self.written = 0;
            ensure!(
                self.miner.jobs == self.jobs,
                "after {} shares there was another job, whose own are not known: {:?}",
                self.sent,
                self.miner.job
            );
            let Some(job) = &self.miner.job else { return Ok(()) };
            let digits = 2 * self.miner.size();
            let from = self.sent as usize;
            let Some(nonces) = self.nonces.get(from..from + batch as usize) else { return Ok(()) };
            for (number, nonce) in (from + 10..).zip(nonces) {
                writeln!(
                    self.out,
                    "{{\"id\":{number},\"method\":\"mining.submit\",\"params\":[\"{}\",\"{}\",\"{:0digits$x}\",\"{:08x}\",\"{nonce:08x}\"]}}",
                    self.miner.user, job.id, 0, job.ntime,
                )?;
            }
            self.sent += batch;
        }
    }
}
