//! What both load processes have in common: what they are asked on stdin and answer on stdout, and what they count.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Line on stdin that asks for a [`Report`]. The end of stdin is the end of the load.
pub(super) const ASK: &str = "report";

/// First line on stdout: all connections are there and have work.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Connected {
    pub(super) seconds: f64,
}

/// What became of the connections.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Report {
    /// Connections that ended.
    pub(super) lost: usize,
    /// Why the first of them did.
    pub(super) reason: Option<String>,
    /// Previous hashes that miners were told.
    pub(super) tips: Vec<Tip>,
    pub(super) shares_sent: u64,
    pub(super) shares_accepted: u64,
    /// Count by what was said.
    pub(super) shares_refused: BTreeMap<String, u64>,
}

/// A previous hash, told with a job.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Tip {
    /// Hexadecimal, as hashes are printed.
    pub(super) hash: String,
    /// Connections that have heard of it.
    pub(super) told: usize,
    /// When the kernel had the first and the last of that, in microseconds since 1970.
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The connections' books.
#[derive(Default)]
pub(super) struct Books {
    pub(super) report: Report,
    known: HashMap<[u8; 32], usize>,
}

impl Books {
    /// A connection was told of a previous hash (as in a header); `last` is the one before, and is then this one.
    pub(super) fn told(&mut self, prev_hash: [u8; 32], last: &mut Option<usize>, at: SystemTime) {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let tips = &mut self.report.tips;
        let number = *self.known.entry(prev_hash).or_insert_with(|| {
            let hash = prev_hash.iter().rev().map(|byte| format!("{byte:02x}")).collect();
            tips.push(Tip { hash, told: 0, first: at, last: at });
            tips.len() - 1
        });
        if last.replace(number) != Some(number) {
            let tip = &mut tips[number];
            tip.told += 1;
            tip.first = tip.first.min(at);
            tip.last = tip.last.max(at);
        }
    }

    /// A share was refused.
    pub(super) fn refused(&mut self, why: impl Into<String>) {
        *self.report.shares_refused.entry(why.into()).or_default() += 1;
    }

    /// A connection has ended.
    pub(super) fn lost(&mut self, reason: impl ToString) {
        self.report.lost += 1;
        self.report.reason.get_or_insert_with(|| reason.to_string());
    }
}

/// Who started this process.
pub(super) struct Parent(Receiver<String>);

impl Parent {
    pub(super) fn listen() -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self(lines)
    }

    /// Answers what was asked; whether to go on.
    pub(super) fn answer(&self, books: &Books) -> Result<bool> {
        match self.0.try_recv() {
            Ok(line) if line == ASK => say(&books.report)?,
            Ok(line) => bail!("asked for {line:?}"),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }
}

/// One line on stdout.
pub(super) fn say(value: &impl Serialize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(value)?)?;
    Ok(stdout.flush()?)
}

/// Whether this hash is none of a block on regtest, whose target every other hash meets.
pub(super) fn is_no_block(hash: &[u8; 32]) -> bool {
    hash[31] & 0x80 != 0
}
