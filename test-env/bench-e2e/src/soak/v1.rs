//! The load process with Stratum V1 connections.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::load::{Books, Connected, Parent, is_no_block, say};
use super::{BUFFER, SHARE_INTERVAL};
use crate::miners::{Miner, connect, wait_for_jobs};

/// Holds so many connections to a translator until stdin ends.
pub(crate) fn run(to: SocketAddr, count: usize) -> Result<()> {
    let parent = Parent::listen();
    let begun = Instant::now();
    let (mut miners, _) = connect(to, count)?;
    wait_for_jobs(&mut miners)?;
    let mut poll = Poll::new()?;
    for (number, miner) in miners.iter().enumerate() {
        let fd = miner.stream.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
    }
    let mut miners: Vec<_> = miners.into_iter().map(|miner| Some((miner, None))).collect();
    say(&Connected { seconds: begun.elapsed().as_secs_f64() })?;

    let mut books = Books::default();
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; BUFFER];
    let (mut share_due, mut finder) = (Instant::now() + SHARE_INTERVAL, 0);
    while parent.answer(&books)? {
        poll.poll(&mut events, Some(Duration::from_millis(50)))?;
        for event in &events {
            let place = &mut miners[event.token().0];
            if let Some((miner, tip)) = place
                && let Err(error) = read(miner, tip, &mut buffer, &mut books)
            {
                books.lost(format!("{error:#}"));
                *place = None;
            }
        }
        if Instant::now() >= share_due {
            share_due += SHARE_INTERVAL;
            finder = (finder + 1) % miners.len();
            if let Some((miner, _)) = &mut miners[finder] {
                books.report.shares_sent += 1;
                let share = share(miner, books.report.shares_sent)?;
                // What a full socket refuses shows as a share without an answer.
                let _ = miner.stream.write(share.as_bytes());
            }
        }
    }
    Ok(())
}

fn read(
    miner: &mut Miner,
    tip: &mut Option<usize>,
    buffer: &mut [u8],
    books: &mut Books,
) -> Result<()> {
    loop {
        let read = miner.read_stamped(buffer, |line| {
            if line.windows(13).any(|part| part == b"\"result\":true") {
                books.report.shares_accepted += 1;
            } else {
                books.refused(reason(line));
            }
        });
        let Some(read) = read? else { return Ok(()) };
        if read.jobs > 0
            && let Some(job) = &miner.job
        {
            books.told(job.prev_hash()?, tip, read.time);
        }
    }
}

/// What is said of a refused share: `[23,"Low difficulty share",null]`.
fn reason(line: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    answer["error"][1].as_str().unwrap_or("no reason").to_owned()
}

/// A share that is no block, as a line.
fn share(miner: &Miner, number: u64) -> Result<String> {
    let job = miner.job.as_ref().context("no job")?;
    let extranonce2 = format!("{number:0digits$x}", digits = 2 * miner.size());
    let mut header = miner.header(&extranonce2)?;
    while !is_no_block(&header.hash().0) {
        header.nonce += 1;
    }
    Ok(format!(
        "{{\"id\":{},\"method\":\"mining.submit\",\"params\":[\"{}\",\"{}\",\"{extranonce2}\",\"{:08x}\",\"{:08x}\"]}}\n",
        number + 10,
        miner.user,
        job.id,
        header.ntime,
        header.nonce
    ))
}
