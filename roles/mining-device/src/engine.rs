//! All connections of the process, with one or several miners each; nothing shared but the count of shares that ends the
//! run.

use std::fmt;
use std::time::{Duration, Instant};

use adit_transport::{Engine, Event, Now, Outbox, PeerId};

use crate::config::{Config, Mode, Upstream};
use crate::hasher::{Found, Work};
use crate::report::{ConnectionReport, Report};
use crate::sv1::Sv1;
use crate::sv2::{self, Sv2};

/// What a connection's protocol side has to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    /// The miner with this index on the connection is to hash this from now on; none: rest.
    Work(usize, Option<Work>),
    /// The fixed part of the coinbase's extranonce.
    ExtranoncePrefix(Vec<u8>),
    /// Difficulty of a share.
    Difficulty(f64),
    /// So many shares are acknowledged.
    Accepted(u64),
    /// A share is rejected for this reason.
    Rejected(String),
    /// So many channels are open.
    Channels(usize),
    /// A miner that had lost its channel, or was refused one, has one.
    Reopened,
    /// A message came that was for a group.
    GroupMessage,
    /// Whether shares name their worker.
    NamesWorkers(bool),
    /// One of several miners has no channel for now.
    Trouble(String),
    /// The server asks to go elsewhere; an empty host and port 0 are the present ones.
    Reconnect { host: String, port: u16 },
    /// The connection is of no use any more.
    Failed(String),
}

/// What the driver does for the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Give a miner, counted over all connections, this work; none lets it rest.
    Work(usize, Option<Work>),
    /// Dial this host and port for a connection from now on, under the same authority key; none is the one of before.
    Redirect {
        /// Which connection.
        connection: usize,
        /// Name or address.
        host: Option<String>,
        /// TCP port.
        port: Option<u16>,
    },
    /// The run is over.
    Finished(Outcome),
}

/// The connection with this index.
#[derive(Clone, Copy)]
pub struct Link(pub usize);

impl fmt::Debug for Link {
    /// The same for all: it is a metric's label.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstream")
    }
}

/// How the run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Whether it did what was asked.
    pub ok: bool,
    /// Why it ended.
    pub reason: String,
}

/// The engine.
pub struct Device {
    config: Config,
    connections: Vec<Connection>,
    started: Instant,
    accepted: u64,
    rejected: u64,
    outcome: Option<Outcome>,
}

struct Connection {
    speech: Speech,
    peer: Option<PeerId>,
    /// When the server last said something, or was connected to.
    heard: Option<Instant>,
    /// nBits of each miner's current work, to know a block by; none without work.
    working: Vec<Option<u32>>,
    report: ConnectionReport,
}

impl Connection {
    fn mining(&self) -> usize {
        self.working.iter().flatten().count()
    }
}

enum Speech {
    Sv1(Sv1),
    Sv2(Box<Sv2>),
}

impl Device {
    /// A device that has yet to connect. `seed` spreads what many devices, or many miners, would do at one time.
    pub fn new(config: Config, upstream: &Upstream, started: Instant, seed: u64) -> Self {
        let connection = |index| {
            let channels = config.channels as usize;
            let users: Vec<String> =
                (0..channels).map(|channel| config.user_of(index * channels + channel)).collect();
            let user = users.first().cloned().unwrap_or_default();
            let speech = match upstream {
                Upstream::Sv1 { .. } => {
                    Speech::Sv1(Sv1::new(user.clone(), config.password.clone()))
                }
                Upstream::Sv2(url) => Speech::Sv2(Box::new(Sv2::new(sv2::Options {
                    users,
                    host: url.host.clone(),
                    port: url.port,
                    extranonce_size: (config.mode == Mode::Sv2Extended)
                        .then_some(config.extranonce_size),
                    standard_jobs: config.mode == Mode::Sv2Standard && !config.group_jobs,
                    hash_rate: config.hash_rate_of_miner().unwrap_or(DEFAULT_HASH_RATE),
                    worker_tlv: config.worker_tlv,
                    seed: seed.wrapping_add(index as u64).wrapping_mul(SPREAD),
                }))),
            };
            let report =
                ConnectionReport { user, state: "connecting".into(), ..Default::default() };
            Connection { speech, peer: None, heard: None, working: vec![None; channels], report }
        };
        let connections = (0..config.connections as usize).map(connection).collect();
        Self { config, connections, started, accepted: 0, rejected: 0, outcome: None }
    }

    /// A hash at or below a miner's target: sends the share, if its job still is the one to work on.
    pub fn found(&mut self, found: &Found, out: &mut Outbox<Effect>) {
        let channels = self.config.channels as usize;
        let (index, miner) = (found.miner / channels, found.miner % channels);
        let Some(connection) = self.connections.get_mut(index) else { return };
        let (Some(peer), None) = (connection.peer, &self.outcome) else { return };
        let sent = match &mut connection.speech {
            Speech::Sv1(sv1) => {
                let mut line = Vec::new();
                let sent = sv1.found(found, &mut line);
                if sent {
                    out.line(peer, &line);
                }
                sent
            }
            Speech::Sv2(sv2) => sv2.found(miner, found, peer, out),
        };
        if sent {
            connection.report.shares_submitted += 1;
            let block = connection.working[miner].is_some_and(|nbits| found.is_block(nbits));
            connection.report.blocks_found += u64::from(block);
        }
    }

    /// A connection could not be made.
    pub fn not_connected(&mut self, connection: usize, reason: &str, out: &mut Outbox<Effect>) {
        let Some(known) = self.connections.get_mut(connection) else { return };
        known.report.state = format!("not connected: {reason}");
        if self.config.strict {
            self.finish(false, format!("not connected: {reason}"), out);
        }
    }

    /// Ends the run from outside, as a signal does.
    pub fn stop(&mut self, out: &mut Outbox<Effect>) {
        self.finish(self.config.shares.is_none(), "stopped".into(), out);
    }

    /// Miners that have work.
    pub fn mining(&self) -> usize {
        self.connections.iter().map(Connection::mining).sum()
    }

    /// Miners on all connections.
    pub fn miners(&self) -> usize {
        self.connections.iter().map(|connection| connection.working.len()).sum()
    }

    /// Shares acknowledged and rejected so far.
    pub fn shares(&self) -> (u64, u64) {
        (self.accepted, self.rejected)
    }

    /// What it has done so far.
    pub fn report(&self, hashes: u64, now: Instant) -> Report {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        let (ok, reason) = match &self.outcome {
            Some(outcome) => (outcome.ok, outcome.reason.clone()),
            None => (true, format!("{} of {} mining", self.mining(), self.miners())),
        };
        Report {
            ok,
            reason,
            mode: self.config.mode.name(),
            seconds,
            hashes,
            hashrate: if seconds > 0.0 { hashes as f64 / seconds } else { 0.0 },
            shares_accepted: self.accepted,
            shares_rejected: self.rejected,
            connections: self.connections.iter().map(|c| c.report.clone()).collect(),
        }
    }

    fn digest(&mut self, index: usize, peer: PeerId, news: Vec<News>, out: &mut Outbox<Effect>) {
        for item in news {
            let channels = self.config.channels as usize;
            let connection = &mut self.connections[index];
            let report = &mut connection.report;
            match item {
                News::Work(miner, work) => {
                    connection.working[miner] = work.as_ref().map(|work| work.nbits);
                    let mining = connection.mining() > 0;
                    let state = if mining { "mining" } else { "without work" };
                    connection.report.state = state.into();
                    out.effect(Effect::Work(index * channels + miner, work));
                }
                News::ExtranoncePrefix(prefix) => report.add_prefix(&prefix),
                News::Difficulty(difficulty) => report.difficulty = difficulty,
                News::Channels(count) => report.channels = count as u64,
                News::Reopened => report.channels_reopened += 1,
                News::GroupMessage => report.group_messages += 1,
                News::NamesWorkers(named) => report.names_workers = named,
                News::Accepted(count) => {
                    report.shares_accepted += count;
                    self.accepted += count;
                    if self.config.shares.is_some_and(|wanted| self.accepted >= wanted) {
                        self.finish(true, format!("{} shares acknowledged", self.accepted), out);
                    }
                }
                News::Rejected(reason) => {
                    tracing::debug!(user = report.user, reason, "share rejected");
                    report.shares_rejected += 1;
                    self.rejected += 1;
                    let known = report.rejected_by_reason.contains_key(&reason);
                    let counted = known || report.rejected_by_reason.len() < MAX_REASONS;
                    let counted = if counted { reason.clone() } else { "other".to_owned() };
                    *report.rejected_by_reason.entry(counted).or_default() += 1;
                    if self.config.strict {
                        self.finish(false, format!("share rejected: {reason}"), out);
                    }
                }
                News::Trouble(reason) => {
                    tracing::info!(
                        user = report.user,
                        reason,
                        "a miner is without channel, and asks again"
                    );
                    if self.config.strict {
                        self.finish(false, reason, out);
                    }
                }
                News::Reconnect { host, port } => {
                    out.close(peer, "the server asked to reconnect");
                    let host = Some(host).filter(|host| is_host(host));
                    let port = Some(port).filter(|port| *port != 0);
                    tracing::info!(?host, ?port, "the server asks to reconnect");
                    self.gone(index, "the server asked to reconnect", out);
                    out.effect(Effect::Redirect { connection: index, host, port });
                }
                News::Failed(reason) => {
                    out.close(peer, "of no use to the miner");
                    self.lost(index, &reason, out);
                }
            }
        }
    }

    /// A connection broke off.
    fn lost(&mut self, index: usize, reason: &str, out: &mut Outbox<Effect>) {
        if self.gone(index, reason, out) && self.config.strict {
            self.finish(false, format!("upstream lost: {reason}"), out);
        }
    }

    /// A connection ended; says whether there was one.
    fn gone(&mut self, index: usize, reason: &str, out: &mut Outbox<Effect>) -> bool {
        let channels = self.config.channels as usize;
        let connection = &mut self.connections[index];
        if connection.peer.take().is_none() {
            return false;
        }
        connection.working.fill(None);
        let report = &mut connection.report;
        report.state = format!("lost: {reason}");
        report.channels = 0;
        report.names_workers = false;
        report.reconnects += 1;
        tracing::info!(user = report.user, reason, "connection lost");
        for miner in 0..channels {
            out.effect(Effect::Work(index * channels + miner, None));
        }
        true
    }

    fn finish(&mut self, ok: bool, reason: String, out: &mut Outbox<Effect>) {
        if self.outcome.is_some() {
            return;
        }
        for connection in &mut self.connections {
            if let (Speech::Sv2(sv2), Some(peer)) = (&mut connection.speech, connection.peer) {
                sv2.leave(peer, out);
            }
        }
        let outcome = Outcome { ok, reason };
        self.outcome = Some(outcome.clone());
        out.effect(Effect::Finished(outcome));
    }
}

impl Engine for Device {
    type Link = Link;
    type Effect = Effect;

    fn handle(
        &mut self,
        peer: PeerId,
        Link(index): Link,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let mut news = Vec::new();
        let known = connection.peer == Some(peer);
        connection.heard = Some(now.instant);
        match (event, &mut connection.speech) {
            (Event::Opened { .. }, speech) => {
                connection.peer = Some(peer);
                connection.report.state = "saying hello".into();
                match speech {
                    Speech::Sv1(sv1) => {
                        let mut line = Vec::new();
                        sv1.opened(&mut line);
                        out.line(peer, &line);
                    }
                    Speech::Sv2(sv2) => sv2.opened(peer, out),
                }
            }
            (Event::Closed(reason), _) if known => self.lost(index, reason, out),
            (Event::Line(line), Speech::Sv1(sv1)) if known => {
                let mut answer = Vec::new();
                sv1.received(line, &mut answer, &mut news);
                if !answer.is_empty() {
                    out.line(peer, &answer);
                }
            }
            (Event::Frame(header, payload), Speech::Sv2(sv2)) if known => {
                sv2.received(&header, payload, peer, now, out, &mut news);
            }
            // What a connection that was given up has left to say.
            (Event::Closed(_) | Event::Line(_) | Event::Frame(..), _) => {}
        }
        self.digest(index, peer, news, out);
    }

    fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let Some(peer) = connection.peer else { continue };
            if let Speech::Sv2(sv2) = &mut connection.speech {
                sv2.tick(peer, now, out);
            }
            let silent = connection.heard.map(|heard| now.instant.saturating_duration_since(heard));
            if connection.mining() == 0 && silent.is_some_and(|silent| silent >= SILENCE) {
                out.close(peer, "silent");
                self.lost(index, "the server gives no work and says nothing", out);
            }
        }
    }
}

/// How long a server may say nothing to a connection without work, before it is dialled anew: as long as V1 miners wait.
const SILENCE: Duration = Duration::from_secs(120);
/// Reasons of rejected shares that are counted apart: they are a server's words.
const MAX_REASONS: usize = 64;

/// Whether a host that a server names is one to dial.
fn is_host(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c))
}

/// Makes seeds that differ in all bits of those that differ by one (2^64 / golden ratio, odd).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What an unthrottled miner says of itself before it has measured: one core with SHA instructions.
const DEFAULT_HASH_RATE: f64 = 5e6;

#[cfg(test)]
mod tests;
