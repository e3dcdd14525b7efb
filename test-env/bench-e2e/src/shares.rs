//! Shares per second from Stratum V1 miners to the pool's store.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use adit_test_env::bitcoind::Chain;
use anyhow::{Context, Result, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{UsageWho, getrusage};

use super::Item;
use super::miners::{Miner, connect, wait_for_jobs};
use super::sides::{Ground, Side, Translator, cpu_seconds};

/// Connections of the generator.
const MINERS: usize = 2;
/// Shares that wait for an answer, of each.
const WINDOW: u64 = 2_048;
/// Shares in one write.
const BATCH: u64 = 64;
/// For the last answers, all the way.
const SETTLE: Duration = Duration::from_secs(20);

struct Load {
    miner: Miner,
    sent: u64,
    accepted: u64,
    refused: u64,
    out: Vec<u8>,
    written: usize,
}

pub(crate) fn measure(side: &Side, seconds: u64) -> Result<Vec<Item>> {
    // On a signet, where a share is no block; at a target that nearly every hash meets, and which stays.
    let shares = [
        ("per_minute", 600.into()),
        ("min_hashrate", 10.into()),
        ("start_hashrate", 10.into()),
        ("vardiff", false.into()),
        ("ack_interval_ms", 1_000.into()),
        ("ack_batch", 1_000.into()),
    ];
    let mut ground = Ground::start(Chain::Signet, &shares)?;
    let translator = Translator::start(side, &ground.pool.endpoint(), 1.0)?;
    let (mut miners, _) = connect(translator.addr, MINERS)?;
    wait_for_jobs(&mut miners)?;
    // Until the upstream has heard of all of them and no target changes any more.
    thread::sleep(Duration::from_secs(8));

    let mut poll = Poll::new()?;
    let mut loads = Vec::new();
    for (number, miner) in miners.into_iter().enumerate() {
        let fd = miner.stream.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut SourceFd(&fd), Token(number), interest)?;
        let (out, written) = (Vec::new(), 0);
        loads.push(Load { miner, sent: 0, accepted: 0, refused: 0, out, written });
    }
    let pool_pid = ground.pool.pid().context("a process")?;
    let cpu = |pid| cpu_seconds(pid);
    let before = (own_cpu()?, cpu(translator.pid)?, cpu(pool_pid)?);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut events = Events::with_capacity(1_024);
    let mut reasons = HashMap::new();
    loop {
        let more = Instant::now() < end;
        for load in &mut loads {
            load.work(more, &mut reasons)?;
        }
        let done = loads.iter().all(|load| load.sent == load.accepted + load.refused);
        if !more && done {
            break;
        }
        ensure!(Instant::now() < end + SETTLE, "shares were not answered: {:?}", totals(&loads));
        poll.poll(&mut events, Some(Duration::from_millis(10)))?;
    }
    let took = begun.elapsed();
    let after = (own_cpu()?, cpu(translator.pid)?, cpu(pool_pid)?);
    let (sent, accepted, refused) = totals(&loads);
    ensure!(sent == accepted + refused, "{sent} sent, {accepted} accepted, {refused} refused");

    let name = side.name();
    let mut note = format!(
        "{sent} submitted = {accepted} accepted + {refused} refused {reasons:?}; CPU seconds per second: generator {:.2}, translator {:.2}, pool {:.2}",
        (after.0 - before.0) / took.as_secs_f64(),
        (after.1 - before.1) / took.as_secs_f64(),
        (after.2 - before.2) / took.as_secs_f64(),
    );
    // At the other end, once the last batch is stored.
    let at_pool = || -> Result<(f64, f64)> {
        let metrics = ground.pool.metrics()?;
        let count = |result| metrics.sum("adit_pool_shares_total", &[("result", result)]);
        Ok((count("accepted"), count("rejected")))
    };
    let deadline = Instant::now() + SETTLE;
    let mut pool = at_pool()?;
    if let Some(role) = &translator.role {
        let count = |result: &str| -> Result<f64> {
            let labels = [("side", "onward"), ("result", result)];
            Ok(role.metrics()?.sum("adit_translator_shares_total", &labels))
        };
        let (onward, below) = (count("sent")?, count("below-target")?);
        while pool.0 + pool.1 < onward && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
            pool = at_pool()?;
        }
        ensure!(
            onward + below == accepted as f64,
            "{onward} sent on and {below} below of {accepted}"
        );
        ensure!(pool.0 + pool.1 == onward, "{onward} sent on, at the pool {pool:?}");
    } else {
        thread::sleep(Duration::from_secs(3));
        pool = at_pool()?;
    }
    ground.pool.stop()?;
    let store = adit_pool::store::Store::open(&ground.pool.dir().join("pool.redb"))?;
    let stored = store.totals(1)?;
    ensure!(stored.accepted as f64 == pool.0, "{} accepted, {} stored", pool.0, stored.accepted);
    let _ = write!(
        note,
        "; pool: {} accepted, {} rejected; store: {} accepted, {} rejected",
        pool.0, pool.1, stored.accepted, stored.rejected
    );
    Ok(vec![Item {
        name: "e2e_shares_per_second",
        side: name,
        value: pool.0 / took.as_secs_f64(),
        unit: "per_second",
        note,
    }])
}

fn totals(loads: &[Load]) -> (u64, u64, u64) {
    loads.iter().fold((0, 0, 0), |(sent, accepted, refused), load| {
        (sent + load.sent, accepted + load.accepted, refused + load.refused)
    })
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
            if !more || waiting + BATCH > WINDOW {
                return Ok(());
            }
            self.out.clear();
            self.written = 0;
            let Some(job) = &self.miner.job else { return Ok(()) };
            let digits = 2 * self.miner.size();
            for number in self.sent..self.sent + BATCH {
                writeln!(
                    self.out,
                    "{{\"id\":{},\"method\":\"mining.submit\",\"params\":[\"{}\",\"{}\",\"{:0digits$x}\",\"{:08x}\",\"{:08x}\"]}}",
                    number + 10,
                    self.miner.user,
                    job.id,
                    number,
                    job.ntime,
                    number as u32
                )?;
            }
            self.sent += BATCH;
        }
    }
}
