//! All miners of the process: one connection each, nothing shared but the count of shares that ends the run.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use adit_transport::{Engine, Event, Now, Outbox, PeerId};

use crate::config::{Config, Mode, Upstream};
use crate::hasher::{Found, Work};
use crate::report::{ConnectionReport, Report};
use crate::sv1::Sv1;
use crate::sv2::Sv2;

/// What a miner's protocol side has to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    /// Hash this from now on; none: rest.
    Work(Option<Work>),
    /// The fixed part of the coinbase's extranonce.
    ExtranoncePrefix(Vec<u8>),
    /// Difficulty of a share.
    Difficulty(f64),
    /// So many shares are acknowledged.
    Accepted(u64),
    /// A share is rejected for this reason.
    Rejected(String),
    /// The connection is of no use any more.
    Failed(String),
}

/// What the driver does for the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Give a miner this work; none lets it rest.
    Work(usize, Option<Work>),
    /// The run is over.
    Finished(Outcome),
}

/// The connection of the miner with this index.
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
    miners: Vec<Miner>,
    by_peer: HashMap<PeerId, usize>,
    started: Instant,
    accepted: u64,
    rejected: u64,
    outcome: Option<Outcome>,
}

struct Miner {
    speech: Speech,
    peer: Option<PeerId>,
    mining: bool,
    /// nBits of the current work, to know a block by.
    nbits: u32,
    report: ConnectionReport,
}

enum Speech {
    Sv1(Sv1),
    Sv2(Box<Sv2>),
}

impl Device {
    /// A device that has yet to connect.
    pub fn new(config: Config, upstream: &Upstream, started: Instant) -> Self {
        let miner = |index| {
            let user = config.user_of(index);
            let speech = match upstream {
                Upstream::Sv1 { .. } => {
                    Speech::Sv1(Sv1::new(user.clone(), config.password.clone()))
                }
                Upstream::Sv2(url) => Speech::Sv2(Box::new(Sv2::new(
                    user.clone(),
                    url.host.clone(),
                    url.port,
                    (config.mode == Mode::Sv2Extended).then_some(config.extranonce_size),
                    config.hashrate.map_or(DEFAULT_HASH_RATE, |rate| rate.0),
                ))),
            };
            let report =
                ConnectionReport { user, state: "connecting".into(), ..Default::default() };
            Miner { speech, peer: None, mining: false, nbits: 0, report }
        };
        let miners = (0..config.connections as usize).map(miner).collect();
        let by_peer = HashMap::new();
        Self { config, miners, by_peer, started, accepted: 0, rejected: 0, outcome: None }
    }

    /// A hash at or below a miner's target: sends the share, if its job still is the one to work on.
    pub fn found(&mut self, found: &Found, out: &mut Outbox<Effect>) {
        let Some(miner) = self.miners.get_mut(found.miner) else { return };
        let (Some(peer), None) = (miner.peer, &self.outcome) else { return };
        let sent = match &mut miner.speech {
            Speech::Sv1(sv1) => {
                let mut line = Vec::new();
                let sent = sv1.found(found, &mut line);
                if sent {
                    out.line(peer, &line);
                }
                sent
            }
            Speech::Sv2(sv2) => sv2.found(found, peer, out),
        };
        if sent {
            miner.report.shares_submitted += 1;
            miner.report.blocks_found += u64::from(found.is_block(miner.nbits));
        }
    }

    /// A connection could not be made.
    pub fn not_connected(&mut self, miner: usize, reason: &str, out: &mut Outbox<Effect>) {
        let Some(known) = self.miners.get_mut(miner) else { return };
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
        self.miners.iter().filter(|miner| miner.mining).count()
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
            None => (true, format!("{} of {} mining", self.mining(), self.miners.len())),
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
            connections: self.miners.iter().map(|miner| miner.report.clone()).collect(),
        }
    }

    fn digest(&mut self, index: usize, peer: PeerId, news: Vec<News>, out: &mut Outbox<Effect>) {
        for item in news {
            let miner = &mut self.miners[index];
            match item {
                News::Work(work) => {
                    miner.mining = work.is_some();
                    miner.nbits = work.as_ref().map_or(0, |work| work.nbits);
                    miner.report.state =
                        if miner.mining { "mining" } else { "without work" }.into();
                    out.effect(Effect::Work(index, work));
                }
                News::ExtranoncePrefix(prefix) => miner.report.add_prefix(&prefix),
                News::Difficulty(difficulty) => miner.report.difficulty = difficulty,
                News::Accepted(count) => {
                    miner.report.shares_accepted += count;
                    self.accepted += count;
                    if self.config.shares.is_some_and(|wanted| self.accepted >= wanted) {
                        self.finish(true, format!("{} shares acknowledged", self.accepted), out);
                    }
                }
                News::Rejected(reason) => {
                    tracing::debug!(user = miner.report.user, reason, "share rejected");
                    miner.report.shares_rejected += 1;
                    self.rejected += 1;
                    if self.config.strict {
                        self.finish(false, format!("share rejected: {reason}"), out);
                    }
                    let miner = &mut self.miners[index];
                    *miner.report.rejected_by_reason.entry(reason).or_default() += 1;
                }
                News::Failed(reason) => {
                    out.close(peer, "of no use to the miner");
                    self.lost(index, &reason, out);
                }
            }
        }
    }

    /// The connection of a miner is gone.
    fn lost(&mut self, index: usize, reason: &str, out: &mut Outbox<Effect>) {
        let miner = &mut self.miners[index];
        let Some(peer) = miner.peer.take() else { return };
        self.by_peer.remove(&peer);
        miner.mining = false;
        miner.report.state = format!("lost: {reason}");
        miner.report.reconnects += 1;
        tracing::info!(user = miner.report.user, reason, "connection lost");
        out.effect(Effect::Work(index, None));
        if self.config.strict {
            self.finish(false, format!("upstream lost: {reason}"), out);
        }
    }

    fn finish(&mut self, ok: bool, reason: String, out: &mut Outbox<Effect>) {
        if self.outcome.is_some() {
            return;
        }
        for miner in &mut self.miners {
            if let (Speech::Sv2(sv2), Some(peer)) = (&mut miner.speech, miner.peer) {
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
        let Some(miner) = self.miners.get_mut(index) else { return };
        let mut news = Vec::new();
        match (event, &mut miner.speech) {
            (Event::Opened { .. }, speech) => {
                miner.peer = Some(peer);
                miner.report.state = "saying hello".into();
                self.by_peer.insert(peer, index);
                match speech {
                    Speech::Sv1(sv1) => {
                        let mut line = Vec::new();
                        sv1.opened(&mut line);
                        out.line(peer, &line);
                    }
                    Speech::Sv2(sv2) => sv2.opened(peer, out),
                }
            }
            (Event::Closed(reason), _) if miner.peer == Some(peer) => self.lost(index, reason, out),
            (Event::Line(line), Speech::Sv1(sv1)) if miner.peer == Some(peer) => {
                let mut answer = Vec::new();
                sv1.received(line, &mut answer, &mut news);
                if !answer.is_empty() {
                    out.line(peer, &answer);
                }
            }
            (Event::Frame(header, payload), Speech::Sv2(sv2)) if miner.peer == Some(peer) => {
                sv2.received(&header, payload, peer, now, out, &mut news);
            }
            // What a connection that was given up has left to say.
            (Event::Closed(_) | Event::Line(_) | Event::Frame(..), _) => {}
        }
        self.digest(index, peer, news, out);
    }

    fn tick(&mut self, _now: Now, _out: &mut Outbox<Effect>) {}
}

/// What an unthrottled miner says of itself before it has measured: one core with SHA instructions.
const DEFAULT_HASH_RATE: f64 = 5e6;

#[cfg(test)]
mod tests;
