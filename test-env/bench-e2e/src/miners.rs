//! Stratum V1 miners, thousands of them on one thread.

use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

/// For a translator to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub(crate) struct Miner {
    pub(crate) stream: TcpStream,
    pub(crate) user: String,
    /// A line that is not whole yet.
    partial: Vec<u8>,
    pub(crate) extranonce2_size: usize,
    pub(crate) job: Option<Job>,
    /// `mining.notify` that came.
    pub(crate) jobs: u64,
}

/// What came with one read.
pub(crate) struct Stamped {
    /// When the kernel had it; the last of it, where several lines came in pieces.
    pub(crate) time: SystemTime,
    /// `mining.notify` among it.
    pub(crate) jobs: u64,
}

/// What a share is made of.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) ntime: u32,
}

/// Connects so many, each with subscribe and authorise, and waits until all are answered. The time that took.
pub(crate) fn connect(to: SocketAddr, count: usize) -> Result<(Vec<Miner>, Duration)> {
    let begun = Instant::now();
    let mut miners = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(to).with_context(|| format!("connection {number}"))?;
        stream.set_nodelay(true)?;
        setsockopt(&stream, sockopt::ReceiveTimestampns, &true)?;
        let user = format!("farm.rig{number}");
        let hello = format!(
            "{{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"bench/1\"]}}\n\
             {{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"{user}\",\"x\"]}}\n"
        );
        stream.write_all(hello.as_bytes())?;
        stream.set_nonblocking(true)?;
        let partial = Vec::new();
        miners.push(Miner { stream, user, partial, extranonce2_size: 0, job: None, jobs: 0 });
    }
    let deadline = begun + PATIENCE;
    let mut answered = vec![false; count];
    let mut left = count;
    while left > 0 {
        ensure!(Instant::now() < deadline, "{left} of {count} miners have no answer");
        for (miner, answered) in miners.iter_mut().zip(&mut answered) {
            if !*answered {
                miner.read(|_| {})?;
                *answered = miner.extranonce2_size > 0 && miner.authorised();
                left -= usize::from(*answered);
            }
        }
    }
    Ok((miners, begun.elapsed()))
}

/// Waits until each has a job.
pub(crate) fn wait_for_jobs(miners: &mut [Miner]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for miner in miners {
        while miner.job.is_none() {
            ensure!(Instant::now() < deadline, "a miner has no job");
            if miner.read(|_| {})? == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Ok(())
}

impl Miner {
    /// Whether `mining.authorize` was answered: its answer leaves a mark here.
    fn authorised(&self) -> bool {
        self.extranonce2_size & AUTHORISED != 0
    }

    /// Reads what there is; `other` sees each line that is neither hello nor job. The number of bytes.
    pub(crate) fn read(&mut self, mut other: impl FnMut(&[u8])) -> Result<usize> {
        let mut buffer = [0; 16 << 10];
        let mut total = 0;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the translator has closed a connection"),
                Ok(read) => {
                    total += read;
                    self.take(&buffer[..read], &mut other);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(total),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what there is once, with the kernel's time of its arrival. `buffer` is of at least a few KiB.
    pub(crate) fn read_stamped(&mut self, buffer: &mut [u8]) -> Result<Option<Stamped>> {
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let (read, stamp) = {
            let mut parts = [IoSliceMut::new(buffer)];
            let fd = self.stream.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<()>(fd, &mut parts, Some(&mut space), flags) {
                Ok(message) => {
                    let stamp = message.cmsgs()?.find_map(|part| match part {
                        ControlMessageOwned::ScmTimestampns(time) => Some(
                            UNIX_EPOCH + Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32),
                        ),
                        _ => None,
                    });
                    (message.bytes, stamp)
                }
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        ensure!(read > 0, "the translator has closed a connection");
        let before = self.jobs;
        self.take(&buffer[..read], &mut |_| {});
        let time = stamp.context("no time from the kernel")?;
        Ok(Some(Stamped { time, jobs: self.jobs - before }))
    }

    fn take(&mut self, mut bytes: &[u8], other: &mut impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.partial.is_empty() {
                self.line(line, other);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, other);
            }
        }
        self.partial.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], other: &mut impl FnMut(&[u8])) {
        let is_short = line.len() < 150;
        if is_short && !line.windows(6).any(|part| part == b"mining") && self.authorised() {
            return other(line);
        }
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else { return };
        if message["method"] == "mining.notify" {
            let params = &message["params"];
            let ntime = params[7].as_str().and_then(|text| u32::from_str_radix(text, 16).ok());
            if let (Some(id), Some(ntime)) = (params[0].as_str(), ntime) {
                self.job = Some(Job { id: id.to_owned(), ntime });
                self.jobs += 1;
            }
        } else if message["id"] == 1 {
            let size = message["result"][2].as_u64().unwrap_or_default() as usize;
            self.extranonce2_size |= size;
        } else if message["id"] == 2 {
            self.extranonce2_size |= AUTHORISED;
        }
    }

    /// Bytes of its `extranonce2`.
    pub(crate) fn size(&self) -> usize {
        self.extranonce2_size & !AUTHORISED
    }
}

const AUTHORISED: usize = 1 << 16;
