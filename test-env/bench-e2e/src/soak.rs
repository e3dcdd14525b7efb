//! Translator and pool with thousands of connections each for a while, and a block every few seconds.

mod load;
mod sv2;
mod v1;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_sv2::keys::AuthorityPublicKey;
use adit_test_env::bitcoind::{Chain, spawn_tied, tied};
use adit_test_env::harness::{Role, Setup};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::de::DeserializeOwned;

use super::Item;
use super::sides::{Ground, Pool, Side, Terms, cpu_seconds, resident_kib};
use load::{ASK, Connected, Report};

/// Of a read of a load process.
const BUFFER: usize = 64 << 10;
/// Between two shares of a load process.
const SHARE_INTERVAL: Duration = Duration::from_millis(500);
/// Between two blocks.
const BLOCK_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at memory.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// For all connections of a load process to have work.
const CONNECT: Duration = Duration::from_secs(180);
/// For a load process to answer, and to end.
const ANSWER: Duration = Duration::from_secs(20);
/// For a role to be ready.
const READY: Duration = Duration::from_secs(30);
/// Of a process: its connections, and what it has open besides.
const OTHER_FILES: u64 = 200;
const SIDE: &str = "adit";

/// How many, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// One line of JSON on stdout instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// How long the connections are held once they are there.
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Stratum V1 connections to the translator, and as many of Stratum V2 to the pool.
    #[arg(long, value_name = "N", default_value_t = 18_000)]
    connections: usize,
}

/// The load processes: this program once more.
#[derive(Subcommand)]
pub(crate) enum Load {
    /// Holds Stratum V1 connections to a translator.
    #[command(hide = true)]
    LoadV1 { to: SocketAddr, count: usize },
    /// Holds Stratum V2 connections to a pool.
    #[command(hide = true)]
    LoadSv2 { to: SocketAddr, count: usize, key: AuthorityPublicKey },
}

impl Load {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::LoadV1 { to, count } => v1::run(to, count),
            Self::LoadSv2 { to, count, key } => sv2::run(to, key, count),
        }
    }
}

/// What was measured, and what is wrong with it.
pub(crate) struct Outcome {
    pub(crate) items: Vec<Item>,
    pub(crate) faults: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let Options { connections, minutes, .. } = *options;
    ensure!(connections > 0 && minutes > 0, "nothing to do");
    allow_files(connections)?;
    // Every hash is a share, so that shares can be sent which are no blocks.
    let more = [
        ("min_hashrate", 1.into()),
        ("start_hashrate", 1.into()),
        ("allow_above_network_difficulty", false.into()),
    ];
    let terms = Terms { chain: Chain::Regtest, shares_per_minute: 600, batch: 10, more: &more };
    let ground = Ground::start(&Side::Adit, &terms)?;
    let Pool::Adit(pool) = &ground.pool else { bail!("another pool") };
    let to_pool = pool.endpoint();
    let key = to_pool.key.context("the pool's key")?;
    let url = format!("stratum2+tcp://{}/{key}", to_pool.addr);
    let translator = Setup::translator(&to_pool)
        .clear("upstream")
        .push("upstream", &[("url", url.into()), ("user_identity", "farm".into())])
        .set("", "channels", "aggregated")
        .set("miners", "nominal_hash_rate", 1)
        .set("miners", "expected_shares_per_minute", 60)
        .start()?;
    translator.wait_ready(READY)?;

    let to_translator = translator.endpoint().addr.to_string();
    let (addr, count, key) = (to_pool.addr.to_string(), connections.to_string(), key.to_string());
    let v1 = ["load-v1", to_translator.as_str(), count.as_str()];
    let sv2 = ["load-sv2", addr.as_str(), count.as_str(), key.as_str()];
    let mut held = [
        Held::connect("V1 at the translator", &translator, connections, &v1)?,
        Held::connect("SV2 at the pool", pool, connections, &sv2)?,
    ];
    let blocks = hold(&ground, &mut held, minutes)?;

    let mut outcome = Outcome { items: Vec::new(), faults: Vec::new() };
    for (held, names) in held.iter_mut().zip([&V1_ITEMS, &SV2_ITEMS]) {
        held.conclude(&blocks, names, &mut outcome)?;
    }
    Ok(outcome)
}

/// A block now and then, with looks at memory in between; the blocks.
fn hold(ground: &Ground, held: &mut [Held<'_>], minutes: u64) -> Result<Vec<Block>> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs(60 * minutes);
    let (mut next_block, mut next_sample, mut next_line) = (begun, begun, begun);
    let mut blocks = Vec::new();
    for held in &mut *held {
        held.cpu_before = held.cpu()?;
    }
    while Instant::now() < end {
        if Instant::now() >= next_sample {
            next_sample += SAMPLE_INTERVAL;
            for held in &mut *held {
                let minute = begun.elapsed().as_secs_f64() / 60.0;
                held.samples.push((minute, resident_kib(held.pid)?));
            }
        }
        if Instant::now() >= next_line {
            next_line += Duration::from_secs(60);
            for held in &mut *held {
                held.tell(begun.elapsed())?;
            }
        }
        if Instant::now() >= next_block {
            next_block += BLOCK_INTERVAL;
            let asked = SystemTime::now();
            let hash = ground.node.generate(1)?;
            let hash = hash.first().context("no block")?.to_string();
            blocks.push(Block { hash, asked });
        }
        let next = next_block.min(next_sample).min(next_line).min(end);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    for held in &mut *held {
        held.cpu_after = held.cpu()?;
        held.seconds = begun.elapsed().as_secs_f64();
        held.samples.push((held.seconds / 60.0, resident_kib(held.pid)?));
        held.tell(begun.elapsed())?;
    }
    // The last block came a whole interval ago, since the soak ends where the next would have come.
    let blocks = blocks.into_iter().map(|block| {
        let asked = ground.templates.first_since(block.asked);
        Ok(Block { asked: asked.context("no template of a block")?, ..block })
    });
    blocks.collect()
}

/// A block, and when its template came from the template provider.
struct Block {
    hash: String,
    asked: SystemTime,
}

/// A role with the connections that a load process holds to it.
struct Held<'a> {
    what: &'static str,
    role: &'a Role,
    pid: u32,
    load: LoadProcess,
    connections: usize,
    connected: f64,
    /// Resident memory in KiB, before the connections came.
    empty: f64,
    /// Minutes, and resident memory in KiB.
    samples: Vec<(f64, f64)>,
    /// CPU seconds of role and load process, before and after.
    cpu_before: [f64; 2],
    cpu_after: [f64; 2],
    seconds: f64,
}

/// Names of what is measured of one role.
struct Names {
    lost: &'static str,
    missed: &'static str,
    memory: &'static str,
    slope: &'static str,
    last: &'static str,
    cpu: &'static str,
}

const V1_ITEMS: Names = Names {
    lost: "soak_v1_lost",
    missed: "soak_v1_jobs_missed",
    memory: "soak_v1_rss_per_connection_kib",
    slope: "soak_translator_rss_slope",
    last: "soak_v1_last_job_ms",
    cpu: "soak_translator_cpu",
};
const SV2_ITEMS: Names = Names {
    lost: "soak_sv2_lost",
    missed: "soak_sv2_jobs_missed",
    memory: "soak_sv2_rss_per_connection_kib",
    slope: "soak_pool_rss_slope",
    last: "soak_sv2_last_job_ms",
    cpu: "soak_pool_cpu",
};

impl<'a> Held<'a> {
    fn connect(
        what: &'static str,
        role: &'a Role,
        connections: usize,
        arguments: &[&str],
    ) -> Result<Self> {
        let pid = role.pid().context("a process")?;
        let empty = resident_kib(pid)?;
        let mut load = LoadProcess::start(arguments)?;
        let connected: Connected = load.answer(CONNECT + ANSWER).context(what)?;
        let connected = connected.seconds;
        progress(format_args!("{connections} {what}, after {connected:.1} s"));
        Ok(Self {
            what,
            role,
            pid,
            load,
            connections,
            connected,
            empty,
            samples: Vec::new(),
            cpu_before: [0.0; 2],
            cpu_after: [0.0; 2],
            seconds: 0.0,
        })
    }

    fn cpu(&self) -> Result<[f64; 2]> {
        Ok([cpu_seconds(self.pid)?, cpu_seconds(self.load.child.id())?])
    }

    /// One line on stderr.
    fn tell(&self, elapsed: Duration) -> Result<()> {
        let resident = resident_kib(self.pid)?;
        let open = self.role.metrics()?.sum("adit_transport_connections", &MINERS);
        progress(format_args!(
            "{:5.1} min: {open} {}, {resident:.0} KiB resident",
            elapsed.as_secs_f64() / 60.0,
            self.what
        ));
        Ok(())
    }

    fn conclude(&mut self, blocks: &[Block], names: &Names, outcome: &mut Outcome) -> Result<()> {
        let report: Report = self.load.ask().context(self.what)?;
        let metrics = self.role.metrics()?;
        let open = metrics.sum("adit_transport_connections", &MINERS);
        let ended = metrics.sum("adit_transport_closed_total", &MINERS) as u64;
        // The translator is one of the pool's.
        let others = if self.role.name() == "pool" { 1 } else { 0 };
        let missing = (self.connections + others) as f64 - open;
        let lost = (report.lost as f64).max(missing).max(ended as f64).max(0.0);
        if lost != 0.0 {
            outcome.faults.push(format!(
                "{}: {} ended at the load process ({}), {ended} at the role, which has {open}",
                self.what,
                report.lost,
                report.reason.as_deref().unwrap_or("none")
            ));
        }
        let (mut missed, mut least, mut lasts) = (0, self.connections, Vec::new());
        for block in blocks {
            let tip = report.tips.iter().find(|tip| tip.hash == block.hash);
            let told = tip.map_or(0, |tip| tip.told);
            missed += self.connections - told;
            least = least.min(told);
            if let Some(tip) = tip {
                let asked = block.asked.duration_since(UNIX_EPOCH)?.as_micros() as u64;
                lasts.push(tip.last.saturating_sub(asked) as f64 / 1e3);
            }
        }
        if missed > 0 {
            outcome.faults.push(format!("{}: {missed} jobs were not told", self.what));
        }
        if report.shares_accepted == 0 {
            outcome.faults.push(format!("{}: no share was accepted", self.what));
        }
        lasts.sort_unstable_by(f64::total_cmp);
        let mut add = |name, value, unit, note| {
            outcome.items.push(Item { name, side: SIDE, value, unit, note });
        };
        let reason = report.reason.unwrap_or_default();
        add(
            names.lost,
            lost,
            "connections",
            format!(
                "{} {}, held for {:.1} min, there after {:.1} s; {ended} ended at the role; {reason}",
                self.connections,
                self.what,
                self.seconds / 60.0,
                self.connected
            ),
        );
        add(
            names.missed,
            missed as f64,
            "jobs",
            format!(
                "{} blocks, each told to at least {least}; shares: {} sent, {} accepted, refused {:?}",
                blocks.len(),
                report.shares_sent,
                report.shares_accepted,
                report.shares_refused
            ),
        );
        let resident = |at: Option<&(f64, f64)>| at.map_or(f64::NAN, |(_, kib)| *kib);
        let (first, last) = (resident(self.samples.first()), resident(self.samples.last()));
        let each = |kib: f64| (kib - self.empty) / self.connections as f64;
        let highest = self.samples.iter().map(|(_, kib)| *kib).fold(0.0, f64::max);
        add(
            names.memory,
            each(last),
            "kib",
            format!(
                "{:.0} KiB without connections, {first:.0} with them ({:.1} each), {highest:.0} at most, {last:.0} at the end",
                self.empty,
                each(first)
            ),
        );
        let settled = self.seconds / 60.0 * UNSETTLED;
        let late: Vec<_> = self.samples.iter().copied().filter(|at| at.0 >= settled).collect();
        add(
            names.slope,
            slope(&late),
            "kib_per_minute",
            format!("from minute {settled:.1} on, {} looks", late.len()),
        );
        let median = lasts.get(lasts.len() / 2).copied().unwrap_or(f64::NAN);
        add(
            names.last,
            median,
            "ms",
            format!(
                "from the template provider's word to the last; median of {} blocks, worst {:.1}",
                lasts.len(),
                lasts.last().copied().unwrap_or(f64::NAN)
            ),
        );
        let cpu = |at: usize| (self.cpu_after[at] - self.cpu_before[at]) / self.seconds;
        let note = format!("{} of the load process", (cpu(1) * 1e3).round() / 1e3);
        add(names.cpu, cpu(0), "cpu_per_second", note);
        Ok(())
    }
}

/// The part of the time after which memory should be as it stays.
const UNSETTLED: f64 = 0.2;

/// Of the listener, in a role's metrics.
const MINERS: [(&str, &str); 1] = [("link", "Miner")];

/// What a straight line through these grows by.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

/// As many files as may be; an error where that is too few.
fn allow_files(connections: usize) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = connections as u64 + OTHER_FILES;
    ensure!(
        hard >= needed,
        "a process may have {hard} open files here (ulimit -Hn), and {needed} are needed: --connections {} would do",
        hard.saturating_sub(OTHER_FILES)
    );
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn progress(line: std::fmt::Arguments<'_>) {
    // That nobody reads it is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// This program once more, as a load. Dropped, it is killed.
struct LoadProcess {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl LoadProcess {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = tied(env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_tied(command)?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, stdin, lines })
    }

    fn ask<T: DeserializeOwned>(&mut self) -> Result<T> {
        writeln!(self.stdin, "{ASK}")?;
        self.answer(ANSWER)
    }

    fn answer<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T> {
        let line = self.lines.recv_timeout(within).context("no answer of the load process")?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for LoadProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
