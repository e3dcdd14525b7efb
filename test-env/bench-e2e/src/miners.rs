//! Stratum V1 miners, thousands of them on one thread.

use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_mining::{Header, sha256d};
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
    /// In hexadecimal.
    pub(crate) extranonce1: String,
    pub(crate) job: Option<Job>,
    /// By `mining.set_difficulty`.
    pub(crate) difficulty: f64,
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
    /// All of the `mining.notify`.
    pub(crate) params: serde_json::Value,
}

/// Connects so many, each with subscribe and authorise, and waits until all are answered. The time that took.
pub(crate) fn connect(to: SocketAddr, count: usize) -> Result<(Vec<Miner>, Duration)> {
    let begun = Instant::now();
    let mut miners = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(to).with_context(|| format!("connection {number}"))?;
        stream.set_nodelay(true)?;
        note_times(&stream)?;
        let user = format!("farm.rig{number}");
        let hello = format!(
            "{{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"bench/1\"]}}\n\
             {{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"{user}\",\"x\"]}}\n"
        );
        stream.write_all(hello.as_bytes())?;
        stream.set_nonblocking(true)?;
        let partial = Vec::new();
        let extranonce1 = String::new();
        let (extranonce2_size, job, jobs) = (0, None, 0);
        let difficulty = 0.0;
        miners.push(Miner {
            stream,
            user,
            partial,
            extranonce2_size,
            extranonce1,
            job,
            difficulty,
            jobs,
        });
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

    /// Reads what there is once, with the kernel's time of its arrival. `buffer` is of at least a few KiB; `other` as in
    /// [`read`](Self::read).
    pub(crate) fn read_stamped(
        &mut self,
        buffer: &mut [u8],
        mut other: impl FnMut(&[u8]),
    ) -> Result<Option<Stamped>> {
        let Some((read, time)) = receive(&self.stream, buffer)? else { return Ok(None) };
        ensure!(read > 0, "the translator has closed a connection");
        let before = self.jobs;
        self.take(&buffer[..read], &mut other);
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
        let Ok(mut message) = serde_json::from_slice::<serde_json::Value>(line) else { return };
        if message["method"] == "mining.notify" {
            let params = message["params"].take();
            let ntime = params[7].as_str().and_then(|text| u32::from_str_radix(text, 16).ok());
            if let (Some(id), Some(ntime)) = (params[0].as_str(), ntime) {
                self.job = Some(Job { id: id.to_owned(), ntime, params });
                self.jobs += 1;
            }
        } else if message["method"] == "mining.set_difficulty" {
            self.difficulty = message["params"][0].as_f64().unwrap_or_default();
        } else if message["id"] == 1 {
            let size = message["result"][2].as_u64().unwrap_or_default() as usize;
            self.extranonce2_size |= size;
            self.extranonce1 = message["result"][1].as_str().unwrap_or_default().to_owned();
        } else if message["id"] == 2 {
            self.extranonce2_size |= AUTHORISED;
        }
    }

    /// The header of its job with an `extranonce2` in hexadecimal; the nonce is 0.
    pub(crate) fn header(&self, extranonce2: &str) -> Result<Header> {
        let job = self.job.as_ref().context("no job")?;
        let text = |at: usize| job.params[at].as_str().context("no text");
        let coinbase = [text(2)?, &self.extranonce1, extranonce2, text(3)?].concat();
        let mut merkle_root = sha256d(&bytes(&coinbase)?);
        for step in job.params[4].as_array().context("no merkle steps")? {
            let step = bytes(step.as_str().context("no text")?)?;
            merkle_root = sha256d(&[&merkle_root[..], &step].concat());
        }
        Ok(Header {
            version: u32::from_str_radix(text(5)?, 16)?,
            prev_hash: job.prev_hash()?,
            merkle_root,
            ntime: job.ntime,
            nbits: u32::from_str_radix(text(6)?, 16)?,
            nonce: 0,
        })
    }

    /// Bytes of its `extranonce2`.
    pub(crate) fn size(&self) -> usize {
        self.extranonce2_size & !AUTHORISED
    }
}

impl Job {
    /// As in a header: in `mining.notify` the bytes of each word are the other way round.
    pub(crate) fn prev_hash(&self) -> Result<[u8; 32]> {
        let mut hash = bytes(self.params[1].as_str().context("no text")?)?;
        hash.chunks_mut(4).for_each(<[u8]>::reverse);
        hash.try_into().ok().context("a previous hash of another length")
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    pairs.map(byte).collect()
}

/// Has the kernel note when bytes come.
pub(crate) fn note_times(stream: &TcpStream) -> Result<()> {
    Ok(setsockopt(stream, sockopt::ReceiveTimestampns, &true)?)
}

/// Reads what there is once: how many bytes, none of which is the end, and when the last of them came.
pub(crate) fn receive(
    stream: &TcpStream,
    buffer: &mut [u8],
) -> Result<Option<(usize, SystemTime)>> {
    let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Ok(message) if message.bytes == 0 => Ok(Some((0, UNIX_EPOCH))),
        Ok(message) => {
            let stamp = message.cmsgs()?.find_map(|part| match part {
                ControlMessageOwned::ScmTimestampns(time) => {
                    Some(UNIX_EPOCH + Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32))
                }
                _ => None,
            });
            Ok(Some((message.bytes, stamp.context("no time from the kernel")?)))
        }
        Err(nix::errno::Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const AUTHORISED: usize = 1 << 16;
