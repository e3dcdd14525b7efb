//! The job declarator client's logic: frames of miners, pools, JDSs and template providers in, frames out. No sockets,
//! no disk, no clock.
//!
//! Miners see one server whose extranonces are its own: what a pool grants is hidden in front of them, in the coinbase
//! of every job. So whatever becomes of the pools, all a miner sees of it is another job.
//!
//! What miners work on follows from three choices, each made anew after every event ([`JdcEngine`]'s `settle`): which
//! template provider's work, for whom (an upstream, its own jobs, solo), and whether that is another job than the one
//! they have.

mod blocks;
mod channel;
mod claim;
mod declare;
mod downstream;
mod extensions;
mod history;
mod jds;
mod names;
mod open;
mod pool;
mod provider;
mod shares;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod upstream;
mod work;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_mining::{ExtranonceAllocator, Payouts, TemplateProviders};
use adit_mining_server::Offer;
use adit_service::ConfigError;
use adit_sv2::tlv::WORKER_HASHRATE_TRACKING;
use adit_transport::{Engine, Event, Now, Outbox, PeerId};

use crate::config::{Config, Mode, OnFailure};
use crate::metrics::Metrics;
use crate::store::{FoundBlock, Past};

pub(crate) use shares::INVALID_NAME;
pub use status::Readiness;

use blocks::Solutions;
use claim::Desk;
use downstream::Miner;
use extensions::Talks;
use history::History;
use provider::Provider;
use source::Source;
use upstream::Upstream;

/// What a connection is for. Indices are places in the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// A miner or proxy below us.
    Miner,
    /// A template provider.
    TemplateProvider(usize),
    /// The pool of an upstream.
    Pool(usize),
    /// The JDS of an upstream.
    Jds(usize),
}

/// What the engine asks of its driver besides bytes.
#[derive(Debug)]
pub enum Effect {
    /// A new previous hash was written to every miner; it had come at this time.
    FannedOut(Instant),
    /// Keep this block over a restart.
    Keep(Box<FoundBlock>),
    /// The block with this hash is in the chain or overtaken.
    Settled([u8; 32]),
    /// Keep this over a restart, instead of what was to be kept before.
    Remember(Box<Past>),
}

/// The job declarator client.
#[derive(Debug)]
pub struct JdcEngine {
    miners: BTreeMap<PeerId, Miner>,
    core: Core,
    next_scan: Option<Instant>,
}

/// What handling a single miner needs besides that miner.
#[derive(Debug)]
struct Core {
    settings: Settings,
    metrics: Metrics,
    extranonces: ExtranonceAllocator,
    providers: Vec<Provider>,
    /// What they gave, and whose work is in force.
    templates: TemplateProviders,
    upstreams: Vec<Upstream>,
    /// Whom miners work for.
    source: Option<Source>,
    source_since: Option<Instant>,
    desk: Desk,
    solutions: Solutions,
    history: History,
    talks: Talks,
    /// Workers that are told apart by the names in their shares.
    names: usize,
    /// Channels that are open or wait for a first job.
    channels: u32,
    started: Option<Instant>,
    /// Channels are to be looked at before the next scan is due: a pool's target moved.
    scan_now: bool,
    /// The sum of what miners do has changed beyond what is measured.
    rates_changed: bool,
}

#[derive(Clone, Debug)]
struct Settings {
    mode: Mode,
    on_failure: OnFailure,
    solo: Option<Payouts>,
    tag: Vec<u8>,
    /// In front of all extranonces when mining solo, so that two processes do not search the same space.
    solo_prefix: [u8; 4],
    shares_per_minute: f64,
    start_hashrate: f64,
    min_hashrate: f64,
    allow_above_network_difficulty: bool,
    ack_batch: u32,
    ack_interval: Duration,
    max_channels: u32,
    max_channels_per_connection: usize,
    open_deadline: Duration,
    group_channels: bool,
    offer: Offer,
    extranonce_size: u16,
    tokens: usize,
    token_max_age: Duration,
    answer_timeout: Duration,
    cached_shares: usize,
    well_after: Duration,
    rejected_shares: u32,
    share_timeout: Duration,
}

/// How often each connection and channel is looked at for deadlines and difficulty.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of an extranonce that tell channels apart: 16 million.
const SLICE_LEN: usize = 3;

impl JdcEngine {
    /// A client without connections. `pending` are the blocks of former runs whose fate is not known; `entropy` is fresh
    /// randomness.
    ///
    /// # Errors
    /// The configuration cannot work; [`Config::check`] would have said so.
    pub fn new(
        config: &Config,
        metrics: Metrics,
        pending: Vec<FoundBlock>,
        entropy: [u8; 4],
    ) -> Result<Self, ConfigError> {
        let solo = config.payout()?.map(|payout| Payouts::single(payout.script().to_bytes()));
        let settings = Settings {
            mode: config.mode,
            on_failure: config.on_declaration_failure,
            solo,
            tag: config.coinbase.tag.as_bytes().to_vec(),
            solo_prefix: entropy,
            shares_per_minute: config.shares.per_minute,
            start_hashrate: config.shares.start_hashrate,
            min_hashrate: config.shares.min_hashrate,
            allow_above_network_difficulty: config.allow_above_network_difficulty(),
            ack_batch: config.shares.ack_batch,
            ack_interval: Duration::from_millis(config.shares.ack_interval_ms),
            max_channels: config.channels.max,
            max_channels_per_connection: config.channels.max_per_connection as usize,
            open_deadline: Duration::from_secs(config.channels.open_deadline_secs),
            group_channels: config.channels.group_channels,
            // Miners below us do not bring their own jobs.
            offer: Offer {
                version_rolling: true,
                work_selection: false,
                supported_extensions: vec![WORKER_HASHRATE_TRACKING],
                required_extensions: Vec::new(),
            },
            extranonce_size: config.channels.extranonce_size,
            tokens: config.declaration.tokens,
            token_max_age: Duration::from_secs(config.declaration.token_max_age_secs),
            answer_timeout: Duration::from_millis(config.declaration.timeout_ms),
            cached_shares: config.declaration.cached_shares_per_job,
            well_after: Duration::from_millis(config.fallback.well_after_ms),
            rejected_shares: config.fallback.rejected_shares,
            share_timeout: Duration::from_secs(config.fallback.share_timeout_secs),
        };
        let providers = config.template_provider.iter().enumerate().map(|(index, provider)| {
            let key = format!("template_provider[{index}].address");
            let url = provider.url().map_err(|message| ConfigError::new(key, message))?;
            metrics.connected("template-provider", &provider.address, false);
            Ok(Provider::new(provider.address.clone(), url))
        });
        let providers = providers.collect::<Result<_, _>>()?;
        let mut extranonces =
            ExtranonceAllocator::new(&[], SLICE_LEN).expect("a slice of three bytes");
        // Some firmware takes an extranonce prefix of zeroes for none: that slice is never given back.
        let _ = extranonces.allocate();
        let upstreams = match config.mode {
            Mode::Solo => &[],
            Mode::FullTemplate | Mode::CoinbaseOnly => &config.upstreams[..],
        };
        for upstream in upstreams {
            metrics.connected("pool", &upstream.pool.host_port(), false);
            metrics.connected("jds", &upstream.jds.host_port(), false);
        }
        Ok(Self {
            miners: BTreeMap::new(),
            core: Core {
                settings,
                metrics,
                extranonces,
                providers,
                templates: TemplateProviders::new(config.template_provider.len()),
                upstreams: upstreams.iter().map(Upstream::new).collect(),
                source: None,
                source_since: None,
                desk: Desk::default(),
                solutions: Solutions::new(pending),
                history: History::default(),
                talks: Talks::default(),
                names: 0,
                channels: 0,
                started: None,
                scan_now: false,
                rates_changed: false,
            },
            next_scan: None,
        })
    }
}

impl Engine for JdcEngine {
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
        let core = &mut self.core;
        core.started.get_or_insert(now.instant);
        match link {
            Link::Miner => {
                // A share, by far the most frequent event, changes nothing that is to be settled.
                if self.miner_event(peer, event, now, out) {
                    self.settle(now, out);
                }
                return;
            }
            Link::TemplateProvider(index) if index < core.providers.len() => {
                core.provider_event(index, peer, event, now, out);
            }
            Link::Pool(index) if index < core.upstreams.len() => {
                if let Some(frame) = core.pool_event(index, peer, event, now, out) {
                    self.forward_down(index, &frame, out);
                }
            }
            Link::Jds(index) if index < core.upstreams.len() => {
                core.jds_event(index, peer, event, now, out);
            }
            Link::TemplateProvider(_) | Link::Pool(_) | Link::Jds(_) => {
                return out.close(peer, "no such peer in the configuration");
            }
        }
        self.settle(now, out);
    }

    fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.core.started.get_or_insert(now.instant);
        self.core.provider_tick(now, out);
        self.core.upstream_tick(now, out);
        self.settle(now, out);
        self.acknowledge_due(now, out);
        self.core.solutions.tick(&self.core.providers, now, out);
        self.core.history.tick(now, out);
        let due = self.next_scan.is_none_or(|due| now.instant >= due);
        if due || std::mem::take(&mut self.core.scan_now) {
            self.next_scan = Some(now.instant + SCAN_INTERVAL);
            self.scan_miners(now, out);
        }
    }
}
