//! The load process with Stratum V2 connections, each with one channel: by turns an extended and a standard one.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_mining::{Header, Target};
use adit_sv2::codec::Str0255;
use adit_sv2::frame::{self, encode_frame, payload_limit};
use adit_sv2::keys::AuthorityPublicKey;
use adit_sv2::messages::common::{Common, PROTOCOL_MINING, PROTOCOL_VERSION, SetupConnection};
use adit_sv2::messages::mining::{
    Mining, OpenExtendedMiningChannel, OpenStandardMiningChannel, REQUIRES_STANDARD_JOBS,
    SubmitSharesStandard,
};
use adit_sv2::messages::{AnyMessage, Message};
use adit_sv2::noise::{ACT2_LEN, Initiator, Opened, Opener, Sealer};
use anyhow::{Context, Result, bail, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::load::{Books, Connected, Parent, is_no_block, say};
use super::{BUFFER, CONNECT, SHARE_INTERVAL};
use crate::miners::{note_times, receive};

/// Connections that are being set up at once.
const AT_ONCE: usize = 256;
/// Future jobs that are remembered.
const FUTURES: usize = 4;
/// Of the server's certificate, in seconds.
const CLOCK_TOLERANCE: u32 = 10;

struct Connection {
    stream: TcpStream,
    noise: Noise,
    /// What is not a whole message yet.
    partial: Vec<u8>,
    is_standard: bool,
    channel: u32,
    futures: Vec<Job>,
    /// Once it has work.
    work: Option<Work>,
    tip: Option<usize>,
    sequence_number: u32,
}

enum Noise {
    Begun(Option<Box<Initiator>>),
    Up(Box<(Sealer, Opener)>),
}

#[derive(Clone, Copy)]
struct Job {
    id: u32,
    version: u32,
    /// Of a standard channel.
    merkle_root: [u8; 32],
}

struct Work {
    job: Job,
    prev_hash: [u8; 32],
    min_ntime: u32,
    nbits: u32,
}

/// Holds so many connections to a pool until stdin ends.
pub(crate) fn run(to: SocketAddr, key: AuthorityPublicKey, count: usize) -> Result<()> {
    let parent = Parent::listen();
    let mut poll = Poll::new()?;
    let begun = Instant::now();
    let mut connections = Vec::with_capacity(count);
    let mut books = Books::default();
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; BUFFER];
    let mut working = 0;
    while working < count {
        while connections.len() < count && connections.len() - working < AT_ONCE {
            let number = connections.len();
            let begun = Connection::begin(to, key, number);
            let connection = begun.with_context(|| format!("connection {number}"))?;
            let fd = connection.stream.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
            connections.push(Some(connection));
        }
        ensure!(begun.elapsed() < CONNECT, "{working} of {count} connections have work");
        poll.poll(&mut events, Some(Duration::from_millis(50)))?;
        for event in &events {
            if let Some(connection) = &mut connections[event.token().0] {
                let had_work = connection.work.is_some();
                connection.read(&mut buffer, &mut books)?;
                working += usize::from(connection.work.is_some() && !had_work);
            }
        }
    }
    say(&Connected { seconds: begun.elapsed().as_secs_f64() })?;

    let (mut share_due, mut finder) = (Instant::now() + SHARE_INTERVAL, 0);
    while parent.answer(&books)? {
        poll.poll(&mut events, Some(Duration::from_millis(50)))?;
        for event in &events {
            let place = &mut connections[event.token().0];
            if let Some(connection) = place
                && let Err(error) = connection.read(&mut buffer, &mut books)
            {
                books.lost(format!("{error:#}"));
                *place = None;
            }
        }
        if Instant::now() >= share_due {
            share_due += SHARE_INTERVAL;
            // Standard ones only: nothing but the nonce is to be rolled there.
            finder = (finder + 2) % count.next_multiple_of(2);
            if let Some(place) = connections.get_mut(finder)
                && let Some(connection) = place
            {
                books.report.shares_sent += 1;
                if let Err(error) = connection.share() {
                    books.lost(format!("{error:#}"));
                    *place = None;
                }
            }
        }
    }
    Ok(())
}

impl Connection {
    fn begin(to: SocketAddr, key: AuthorityPublicKey, number: usize) -> Result<Self> {
        let mut entropy = [[0; 32]; 2];
        for part in &mut entropy {
            getrandom::fill(part)?;
        }
        let (initiator, act1) = Initiator::new(Some(key), entropy);
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        note_times(&stream)?;
        stream.write_all(&act1)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            noise: Noise::Begun(Some(Box::new(initiator))),
            partial: Vec::new(),
            is_standard: number.is_multiple_of(2),
            channel: 0,
            futures: Vec::new(),
            work: None,
            tip: None,
            sequence_number: 0,
        })
    }

    fn read(&mut self, buffer: &mut [u8], books: &mut Books) -> Result<()> {
        while let Some((read, at)) = receive(&self.stream, buffer)? {
            ensure!(read > 0, "the pool has closed a connection");
            self.partial.extend_from_slice(&buffer[..read]);
            self.take(at, books)?;
        }
        Ok(())
    }

    fn take(&mut self, at: SystemTime, books: &mut Books) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.partial);
        let mut done = 0;
        if let Noise::Begun(initiator) = &mut self.noise
            && let Some(act2) = bytes.first_chunk::<ACT2_LEN>()
        {
            let initiator = initiator.take().context("two answers to a handshake")?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as u32;
            let (sealer, opener, _) = initiator.finish(act2, now, CLOCK_TOLERANCE)?;
            self.noise = Noise::Up(Box::new((sealer, opener)));
            done = ACT2_LEN;
            self.set_up()?;
        }
        while let Noise::Up(noise) = &mut self.noise {
            match noise.1.next(&mut bytes[done..], payload_limit)? {
                Opened::Frame { header, payload, consumed } => {
                    done += consumed;
                    self.hear(&header, payload, at, books)?;
                }
                Opened::Incomplete { .. } => break,
            }
        }
        bytes.drain(..done);
        if !bytes.is_empty() {
            self.partial = bytes;
        }
        Ok(())
    }

    fn hear(
        &mut self,
        header: &frame::Header,
        payload: &[u8],
        at: SystemTime,
        books: &mut Books,
    ) -> Result<()> {
        let (message, _) = AnyMessage::decode(header, payload)?;
        match &message {
            AnyMessage::Common(Common::SetupConnectionSuccess(_)) => self.open()?,
            AnyMessage::Mining(message) => match message {
                Mining::OpenStandardMiningChannelSuccess(m) => self.channel = m.channel_id,
                Mining::OpenExtendedMiningChannelSuccess(m) => self.channel = m.channel_id,
                Mining::NewMiningJob(m) => {
                    let (id, version, merkle_root) = (m.job_id, m.version, m.merkle_root);
                    self.job(Job { id, version, merkle_root }, m.min_ntime);
                }
                Mining::NewExtendedMiningJob(m) => {
                    let (id, version, merkle_root) = (m.job_id, m.version, [0; 32]);
                    self.job(Job { id, version, merkle_root }, m.min_ntime);
                }
                Mining::SetNewPrevHash(m) => {
                    // A previous hash is only of use with its job.
                    let job = self.futures.iter().find(|job| job.id == m.job_id);
                    let job = *job.context("a previous hash for a job that was not sent")?;
                    self.futures.clear();
                    let (prev_hash, min_ntime, nbits) = (m.prev_hash, m.min_ntime, m.nbits);
                    self.work = Some(Work { job, prev_hash, min_ntime, nbits });
                    books.told(prev_hash, &mut self.tip, at);
                }
                Mining::SubmitSharesSuccess(m) => {
                    books.report.shares_accepted += u64::from(m.new_submits_accepted_count);
                }
                Mining::SubmitSharesError(m) => {
                    books.refused(String::from_utf8_lossy(m.error_code.as_bytes()))
                }
                Mining::SetTarget(_) | Mining::SetGroupChannel(_) => {}
                other => bail!("the pool says {other}"),
            },
            other => bail!("the pool says {other}"),
        }
        Ok(())
    }

    fn job(&mut self, job: Job, min_ntime: Option<u32>) {
        match (min_ntime, &mut self.work) {
            (Some(min_ntime), Some(work)) => {
                work.job = job;
                work.min_ntime = min_ntime;
            }
            (Some(_), None) => {}
            (None, _) => {
                if self.futures.len() == FUTURES {
                    self.futures.remove(0);
                }
                self.futures.push(job);
            }
        }
    }

    fn set_up(&mut self) -> Result<()> {
        let flags = if self.is_standard { REQUIRES_STANDARD_JOBS } else { 0 };
        self.send(&SetupConnection {
            protocol: PROTOCOL_MINING,
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            flags,
            endpoint_host: Str0255::cut("127.0.0.1"),
            endpoint_port: 0,
            vendor: Str0255::cut("bench"),
            hardware_version: Str0255::default(),
            firmware: Str0255::default(),
            device_id: Str0255::default(),
        })
    }

    fn open(&mut self) -> Result<()> {
        let user_identity = Str0255::cut("farm.rig");
        // Every hash is a share, so that those which are no block can be sent.
        let (nominal_hash_rate, max_target) = (1.0, Target::MAX.to_le_bytes());
        if self.is_standard {
            return self.send(&OpenStandardMiningChannel {
                request_id: 1,
                user_identity,
                nominal_hash_rate,
                max_target,
            });
        }
        self.send(&OpenExtendedMiningChannel {
            request_id: 1,
            user_identity,
            nominal_hash_rate,
            max_target,
            min_extranonce_size: 8,
        })
    }

    /// Sends a share that is no block.
    fn share(&mut self) -> Result<()> {
        let Some(Work { job, prev_hash, min_ntime, nbits }) = &self.work else { return Ok(()) };
        let mut header = Header {
            version: job.version,
            prev_hash: *prev_hash,
            merkle_root: job.merkle_root,
            ntime: *min_ntime,
            nbits: *nbits,
            nonce: self.sequence_number << 8,
        };
        while !is_no_block(&header.hash().0) {
            header.nonce += 1;
        }
        let share = SubmitSharesStandard {
            channel_id: self.channel,
            sequence_number: self.sequence_number,
            job_id: job.id,
            nonce: header.nonce,
            ntime: header.ntime,
            version: header.version,
        };
        self.sequence_number += 1;
        self.send(&share)
    }

    fn send<'m, M: Message<'m>>(&mut self, message: &M) -> Result<()> {
        let Noise::Up(noise) = &mut self.noise else { bail!("not connected") };
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        encode_frame(message, &mut plain);
        noise.0.seal(&plain, &mut sealed)?;
        // A few bytes now and then: a socket that does not take them is not read from.
        Ok(self.stream.write_all(&sealed)?)
    }
}
