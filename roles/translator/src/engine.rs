//! The translator's logic: lines of miners and frames of an upstream in, lines and frames out. No sockets, no clock.
//!
//! Miners are answered here and at once; nothing they ask waits for the upstream. Each miner that has introduced itself
//! gets an extended channel upstream. Its `extranonce1` is the translator's own, and the upstream's prefix is hidden in
//! `coinb1` of every job: whatever becomes of the upstream, all a miner sees of it is a clean job.

mod acks;
mod aggregate;
mod channel;
mod conduct;
mod connection;
mod extranonce;
mod job;
mod list;
mod login;
mod miner;
mod opening;
mod payout;
mod rate;
mod reload;
mod session;
mod share;
mod status;
mod switching;
#[cfg(test)]
mod tests;
mod upstream;
mod verdicts;
mod window;
mod wishes;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use adit_mining::BlockHash;
use adit_transport::{Engine, Event, Now, Outbox, PeerId};

use crate::config::{AuthMode, Channels, Config, Failover, FirmwareTable, Suggested};
use crate::metrics::Metrics;

use acks::Acknowledgements;
use aggregate::{Aggregate, fan_out};
use channel::Channel;
use extranonce::Slices;
use list::Upstreams;
pub use list::{Dial, DialId};
pub use login::Login;
use miner::{Miner, Opening};
use session::Next;
use upstream::{Retiring, Upstream};

/// What a connection is for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Link {
    /// A miner that speaks Stratum V1, on the listener of this place in the configuration.
    Miner(u8),
    /// An upstream, by the attempt to connect to it.
    Upstream(DialId),
}

impl fmt::Debug for Link {
    // A label in metrics: of few words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Miner(listener) => write!(f, "Miner({listener})"),
            Self::Upstream(_) => f.write_str("Upstream"),
        }
    }
}

/// What the engine asks of its driver besides bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Work on a new previous hash was written to a miner or to several; the hash had come at this time.
    FannedOut(Instant),
    /// Verify this, and say so by [`TranslatorEngine::verified`].
    Verify(Login),
    /// Connect to an upstream.
    Dial(Dial),
}

/// How often each miner is looked at for deadlines.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Blocks that are remembered.
const MAX_BLOCKS: usize = 64;

/// The translator.
#[derive(Debug)]
pub struct TranslatorEngine {
    miners: BTreeMap<PeerId, Miner>,
    upstreams: Upstreams,
    /// The one that is worked for.
    upstream: Upstream,
    /// A better one, that must show that it is well.
    candidate: Option<Upstream>,
    /// One that was left.
    retiring: Option<Retiring>,
    core: Core,
    next_scan: Option<Instant>,
}

/// What handling a single miner needs besides that miner.
#[derive(Debug)]
struct Core {
    settings: Settings,
    metrics: Metrics,
    slices: Slices,
    /// Bytes of extranonce that the present upstream grants, as far as is known.
    room: Option<usize>,
    /// Job ids so far are from `first_job_id` up to this one.
    last_job_id: u64,
    first_job_id: Option<u64>,
    /// The connection to the upstream, while shares can be sent on it.
    upstream: Option<PeerId>,
    /// Each share names its worker (extension 0x0002).
    worker_names: bool,
    /// The same at the one that was left.
    late_worker_names: bool,
    /// Shares that the upstream has not answered.
    acks: Acknowledgements,
    /// The same of the one that was left.
    late_acks: Acknowledgements,
    /// When the upstream last accepted a share, whosever it was.
    upstream_took: Option<Instant>,
    /// The channel of all miners, once there is work on it. It stays when its connection goes.
    aggregate: Option<Aggregate>,
    /// The channel of all on the connection that was left, once there is work on another.
    left: Option<Box<Channel>>,
    /// The blocks that were found last.
    blocks: VecDeque<BlockHash>,
    /// Seconds that the upstream allows between a job's `min_ntime` and a share's nTime.
    max_ntime_ahead: u32,
    /// The newest previous hash and when it came.
    newest_tip: Option<([u8; 32], Instant)>,
    firmware: FirmwareTable,
    /// Miners with answers that wait, and until when they do.
    waiting: VecDeque<(PeerId, Instant)>,
    /// Miners that are to be closed, which is not done while others are given work.
    doomed: Vec<(PeerId, &'static str)>,
    /// Length of the last job's coinbase, and when that was sent.
    coinbase_seen: Option<(usize, Instant)>,
    /// When it was last logged that one is too long.
    coinbase_logged: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Settings {
    channels: Channels,
    failover: Failover,
    vardiff: bool,
    version_mask: u32,
    extranonce2_size: u8,
    anonymous_user: Box<str>,
    keepalive: Duration,
    hello_timeout: Duration,
    idle_timeout: Duration,
    max_lines_per_second: u32,
    expected_shares_per_minute: f64,
    listeners: Vec<Listener>,
}

impl Settings {
    fn new(config: &Config) -> Self {
        let miners = &config.miners;
        Self {
            channels: config.channels,
            failover: config.failover,
            vardiff: miners.vardiff,
            version_mask: miners.version_mask,
            extranonce2_size: miners.extranonce2_size,
            anonymous_user: miners.anonymous_user.as_str().into(),
            keepalive: Duration::from_secs(miners.keepalive_notify_seconds),
            hello_timeout: Duration::from_secs(miners.hello_timeout_seconds),
            idle_timeout: Duration::from_secs(miners.idle_timeout_seconds),
            max_lines_per_second: miners.max_lines_per_second,
            expected_shares_per_minute: miners.expected_shares_per_minute,
            listeners: (config.listen.iter().enumerate())
                .map(|(index, listen)| Listener {
                    name: listen.label(index).into(),
                    nominal_hash_rate: listen.nominal_hash_rate.unwrap_or(miners.nominal_hash_rate),
                    min_difficulty: listen.min_difficulty,
                    suggested: listen.suggested_difficulty,
                    auth: listen.auth.unwrap_or(config.auth.mode),
                })
                .collect(),
        }
    }
}

/// What holds for miners that connect in one place.
#[derive(Clone, Debug)]
struct Listener {
    name: Box<str>,
    nominal_hash_rate: f64,
    min_difficulty: f64,
    suggested: Suggested,
    auth: AuthMode,
}

impl TranslatorEngine {
    /// A translator without connections. `entropy` spreads its attempts to connect.
    ///
    /// # Panics
    /// If the configuration has no upstream; [`Config::check`] refuses that.
    pub fn new(config: &Config, metrics: Metrics, now: Now, entropy: u64) -> Self {
        let upstreams = Upstreams::new(&config.upstream, entropy);
        let settings = Settings::new(config);
        for upstream in &config.upstream {
            metrics.upstream(upstream.url.host_port(), false);
        }
        Self {
            miners: BTreeMap::new(),
            upstream: Upstream::down(upstreams.first(), now.instant),
            upstreams,
            candidate: None,
            retiring: None,
            core: Core {
                slices: Slices::new(settings.channels),
                room: None,
                settings,
                metrics,
                last_job_id: 0,
                first_job_id: None,
                upstream: None,
                worker_names: false,
                late_worker_names: false,
                acks: Acknowledgements::default(),
                late_acks: Acknowledgements::default(),
                upstream_took: None,
                aggregate: None,
                left: None,
                blocks: VecDeque::new(),
                max_ntime_ahead: 0,
                newest_tip: None,
                firmware: FirmwareTable::new(&config.firmware),
                waiting: VecDeque::new(),
                doomed: Vec::new(),
                coinbase_seen: None,
                coinbase_logged: None,
            },
            next_scan: None,
        }
    }

    /// Connections of miners.
    pub fn miner_count(&self) -> usize {
        self.miners.len()
    }

    fn miner_event(
        &mut self,
        peer: PeerId,
        listener: u8,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        match event {
            Event::Opened { remote } => {
                let unknown = self.core.firmware.unknown();
                let miner = Miner::new(remote, listener, unknown, now.instant);
                self.miners.insert(peer, miner);
                self.core.metrics.miners(self.miners.len());
                self.core.metrics.firmware(self.core.firmware.label(unknown), 1);
            }
            Event::Line(line) => {
                let Some(miner) = self.miners.get_mut(&peer) else { return };
                if self.core.first_job_id.is_none() {
                    self.core.start_job_ids(now);
                }
                let next = miner.line(peer, line, &mut self.core, now, out);
                self.after(peer, next, now, out);
            }
            Event::Frame(..) => self.close_miner(peer, "frame-on-a-line-connection", out),
            Event::Closed(reason) => {
                tracing::debug!(%peer, reason, "miner left");
                self.forget_miner(peer, out);
            }
        }
    }

    /// Does what a miner's line asks for.
    fn after(&mut self, peer: PeerId, next: Next, now: Now, out: &mut Outbox<Effect>) {
        match next {
            Next::Stay => {}
            Next::Introduced => {
                let Some(miner) = self.miners.get_mut(&peer) else { return };
                tracing::debug!(%peer, user = miner.user.as_deref(), user_agent = &*miner.user_agent, "miner introduced itself");
                match self.core.settings.channels {
                    Channels::PerMiner => self.upstream.queue(peer, miner, now.instant),
                    Channels::Aggregated => miner.join_aggregate(peer, &mut self.core, now, out),
                }
                self.open_channels(now, out);
            }
            Next::Close(reason) => self.close_miner(peer, reason, out),
        }
    }

    /// Ends a miner's connection.
    fn close_miner(&mut self, peer: PeerId, reason: &'static str, out: &mut Outbox<Effect>) {
        out.close(peer, reason);
        self.forget_miner(peer, out);
    }

    /// A miner's connection has ended, and with it its channel.
    fn forget_miner(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        let Some(mut miner) = self.miners.remove(&peer) else { return };
        if let Opening::Requested(request_id) = miner.opening {
            self.upstream.requests.remove(&request_id);
        }
        if let Some(channel) = miner.lose_channel() {
            self.core.lose_shares(channel.unacknowledged);
            self.upstream.say_closed(channel.id, "miner-left", out);
            self.upstream.remove_channel(&channel);
            self.core.metrics.channels(self.upstream.channels.len());
        }
        if let Some(extranonce1) = miner.extranonce1 {
            self.core.slices.release(&extranonce1);
        }
        self.core.metrics.firmware(self.core.firmware.label(miner.firmware), -1);
        self.core.metrics.miners(self.miners.len());
    }

    /// What is due for the channel of all: another hashrate for the upstream, a line for miners that heard none for long.
    fn scan_aggregate(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let introduced = || self.miners.values().filter(|miner| miner.is_introduced());
        let hash_rate = introduced().map(|miner| miner.assumed_hash_rate(&self.core)).sum();
        let miners = introduced().count();
        let keepalive = self.core.settings.keepalive;
        let Some(all) = &mut self.core.aggregate else { return };
        all.update(hash_rate, miners, now.instant, out);
        if all.is_silent(keepalive, now.instant) {
            all.push_again(false, &mut self.core.last_job_id, now);
            fan_out(&mut self.miners, &mut self.core, now, out);
        }
    }

    fn scan_miners(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let aggregated = self.core.settings.channels == Channels::Aggregated;
        let mut late = Vec::new();
        for (peer, miner) in &mut self.miners {
            if !miner.is_introduced() {
                let waited = now.instant.saturating_duration_since(miner.connected);
                if waited >= self.core.settings.hello_timeout {
                    late.push((*peer, "no-hello"));
                }
                continue;
            }
            if miner.is_idle(*peer, &self.core, now, out) {
                late.push((*peer, "idle"));
                continue;
            }
            if aggregated {
                miner.poll_vardiff(*peer, &mut self.core, now, out);
                continue;
            }
            miner.update_channel(&self.core, now, out);
            let silence = now.instant.saturating_duration_since(miner.last_notify);
            if silence >= self.core.settings.keepalive {
                miner.notify_again(*peer, &mut self.core, now, out);
            }
            self.upstream.queue(*peer, miner, now.instant);
        }
        for (peer, reason) in late {
            self.close_miner(peer, reason, out);
        }
        self.open_channels(now, out);
    }
}

impl Engine for TranslatorEngine {
    type Link = Link;
    type Effect = Effect;

    fn handle(
        &mut self,
        peer: PeerId,
        link: Link,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        match link {
            Link::Miner(listener) => self.miner_event(peer, listener, event, now, out),
            Link::Upstream(dial) => self.upstream_event(peer, dial, event, now, out),
        }
    }

    fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.upstream_tick(now, out);
        for (peer, reason) in std::mem::take(&mut self.core.doomed) {
            self.close_miner(peer, reason, out);
        }
        self.say_waiting(now.instant, out);
        if self.next_scan.is_none_or(|due| now.instant >= due) {
            self.next_scan = Some(now.instant + SCAN_INTERVAL);
            self.scan_miners(now, out);
            self.scan_aggregate(now, out);
        }
    }
}

impl Core {
    /// What holds for the miners of a listener.
    fn listener(&self, index: u8) -> &Listener {
        // Indices are those of the configuration, which has at least one.
        &self.settings.listeners[usize::from(index).min(self.settings.listeners.len() - 1)]
    }

    /// What is assumed of a miner of which nothing is known.
    fn nominal_hash_rate(&self) -> f64 {
        self.listener(0).nominal_hash_rate
    }

    /// Says one line to a miner.
    fn answer(&self, peer: PeerId, out: &mut Outbox<Effect>, write: impl FnOnce(&mut Vec<u8>)) {
        out.say(peer, |line| {
            write(line);
            line.push(b'\n');
        });
    }

    /// Job ids begin with the clock, so that a restart gives out none that a miner may still work on.
    fn start_job_ids(&mut self, now: Now) {
        self.last_job_id = now.unix_ms << 16;
        self.first_job_id = Some(self.last_job_id + 1);
    }

    fn next_job_id(&mut self) -> u64 {
        self.last_job_id += 1;
        self.last_job_id
    }

    /// So that none is sent twice.
    fn remember_block(&mut self, hash: BlockHash) {
        if self.blocks.len() == MAX_BLOCKS {
            self.blocks.pop_front();
        }
        self.blocks.push_back(hash);
    }

    /// Whether some miner of this process had such a job.
    fn was_job_id(&self, id: u64) -> bool {
        self.first_job_id.is_some_and(|first| (first..=self.last_job_id).contains(&id))
    }
}
