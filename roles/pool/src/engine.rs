//! The pool's logic: frames of miners and template providers in, frames and records to store out. No sockets, no disk.
//!
//! A share is answered when it is refused, or once it is stored: the driver calls [`PoolEngine::stored`] with what is on
//! disk. A block is stored before it is submitted, and submitted until it is in the chain or overtaken.

mod blocks;
mod channel;
mod custom;
mod downstream;
mod drain;
mod open;
mod prefixes;
mod shares;
mod status;
mod tally;
#[cfg(test)]
mod tests;
mod upstream;
mod work;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_mining::{Grouping, JobFactory, Payouts, TemplateProviders};
use adit_mining_server::Offer;
use adit_service::ConfigError;
use adit_transport::{Engine, Event, Now, Outbox, PeerId};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::{FoundBlock, Record};

pub use status::Readiness;

use blocks::Solutions;
use custom::Declarations;
use downstream::Miner;
use drain::{Destination, Draining};
use prefixes::Extranonces;
use shares::Ledger;
use upstream::Provider;
use work::Bench;

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// A miner or proxy below us.
    Miner,
    /// The template provider with this index in the configuration.
    TemplateProvider(usize),
}

/// What the engine asks of its driver besides bytes.
#[derive(Debug)]
pub enum Effect {
    /// Push this into the store's queue.
    Store(Record),
    /// A new previous hash was written to every miner; it had come at this time.
    FannedOut(Instant),
}

/// The pool.
#[derive(Debug)]
pub struct PoolEngine {
    miners: BTreeMap<PeerId, Miner>,
    providers: Vec<Provider>,
    /// What they gave, and whose work is in force.
    templates: TemplateProviders,
    core: Core,
    draining: Option<Draining>,
    next_scan: Option<Instant>,
    next_worker_metrics: Option<Instant>,
    next_sweep: Option<Instant>,
}

/// What handling a single miner needs besides that miner.
#[derive(Debug)]
struct Core {
    settings: Settings,
    metrics: Metrics,
    extranonces: Extranonces,
    /// Channels were given other prefixes since the start.
    renewed: bool,
    bench: Bench,
    ledger: Ledger,
    solutions: Solutions,
    /// None where custom jobs are not taken.
    declarations: Option<Declarations>,
    /// By index, as the store knows them.
    provider_names: Vec<String>,
    /// Channels that are open or wait for a first template.
    channels: u32,
    /// Workers that are told apart by name, of all channels.
    workers: u32,
}

#[derive(Clone, Debug)]
struct Settings {
    shares_per_minute: f64,
    start_hashrate: f64,
    min_hashrate: f64,
    vardiff: bool,
    allow_above_network_difficulty: bool,
    ack_batch: u32,
    ack_interval: Duration,
    max_channels: u32,
    max_channels_per_connection: usize,
    max_workers: u32,
    worker_metrics: usize,
    open_deadline: Duration,
    grouping: Grouping,
    offer: Offer,
    destination: Destination,
    output_size: u32,
    output_sigops: u16,
}

/// How often each connection and channel is looked at for deadlines and difficulty.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
/// How often the metrics of single workers are made anew.
const WORKER_METRICS_INTERVAL: Duration = Duration::from_secs(10);
/// How often workers that are gone for long are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// Bytes of an extranonce prefix behind the `server_id`: 16 million channels.
const SLICE_LEN: usize = 3;

impl PoolEngine {
    /// A pool without connections. `pending` are the blocks of former runs whose fate is not known, `run` how many there
    /// were: in each the extranonces begin elsewhere.
    ///
    /// # Errors
    /// The configuration cannot work; [`Config::check`] would have said so.
    pub fn new(
        config: &Config,
        metrics: Metrics,
        pending: Vec<FoundBlock>,
        run: u64,
    ) -> Result<Self, ConfigError> {
        let payout = config.payout()?;
        let payouts = Payouts::single(payout.script().to_bytes());
        let output = (payouts.serialized_len() as u32, payout.sigops());
        let settings = Settings::new(config, output);
        let scripts = payouts.scripts().map(<[u8]>::to_vec).collect();
        let declarations = Declarations::new(&config.job_declaration, config.network, scripts);
        let providers = config.template_provider.iter().enumerate().map(|(index, provider)| {
            let key = format!("template_provider[{index}].address");
            let url = provider.url().map_err(|message| ConfigError::new(key, message))?;
            metrics.template_provider(&provider.address, false);
            Ok(Provider::new(provider.address.clone(), url))
        });
        Ok(Self {
            miners: BTreeMap::new(),
            providers: providers.collect::<Result<_, _>>()?,
            templates: TemplateProviders::new(config.template_provider.len()),
            core: Core {
                settings,
                metrics,
                extranonces: Extranonces::new(config.coinbase.server_id, run),
                renewed: false,
                bench: Bench::new(JobFactory {
                    tag: config.coinbase.tag.clone().into_bytes(),
                    payouts,
                    version_rolling_allowed: config.mining.version_rolling,
                }),
                ledger: Ledger::default(),
                solutions: Solutions::new(pending),
                declarations,
                provider_names: config
                    .template_provider
                    .iter()
                    .map(|p| p.address.clone())
                    .collect(),
                channels: 0,
                workers: 0,
            },
            draining: None,
            next_scan: None,
            next_worker_metrics: None,
            next_sweep: None,
        })
    }
}

impl Settings {
    /// `output` is the payout's size in bytes, and its signature operations.
    fn new(config: &Config, (output_size, output_sigops): (u32, u16)) -> Self {
        Self {
            shares_per_minute: config.shares.per_minute,
            start_hashrate: config.shares.start_hashrate,
            min_hashrate: config.shares.min_hashrate,
            vardiff: config.shares.vardiff,
            allow_above_network_difficulty: config.allow_above_network_difficulty(),
            ack_batch: config.shares.ack_batch,
            ack_interval: Duration::from_millis(config.shares.ack_interval_ms),
            max_channels: config.channels.max,
            max_channels_per_connection: config.channels.max_per_connection as usize,
            max_workers: config.channels.max_workers,
            worker_metrics: config.channels.worker_metrics as usize,
            open_deadline: Duration::from_secs(config.channels.open_deadline_secs),
            grouping: match config.mining.group_channels {
                true => Grouping::Broadcast,
                false => Grouping::Named,
            },
            offer: Offer {
                version_rolling: config.mining.version_rolling,
                work_selection: !config.job_declaration.token_keys.is_empty(),
                supported_extensions: config.mining.supported_extensions.clone(),
                required_extensions: config.mining.required_extensions.clone(),
            },
            destination: Destination::from(&config.drain),
            output_size,
            output_sigops,
        }
    }
}

impl PoolEngine {
    /// Takes in what [`Config::take_in`] says can be. Limits and difficulty hold for what comes from now on.
    pub fn reload(&mut self, config: &Config, out: &mut Outbox<Effect>) {
        let core = &mut self.core;
        let output = (core.settings.output_size, core.settings.output_sigops);
        core.settings = Settings::new(config, output);
        let scripts = core.bench.payout_scripts();
        let new = Declarations::new(&config.job_declaration, config.network, scripts);
        let old = core.declarations.take();
        core.declarations = new.map(|new| new.after(old));
        for (peer, miner) in &mut self.miners {
            miner.channels.set_grouping(core.settings.grouping);
            miner.regroup(*peer, out);
        }
        if core.extranonces.server_id() != config.coinbase.server_id {
            self.renew_prefixes(Some(config.coinbase.server_id), out);
        }
    }
}

impl Engine for PoolEngine {
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
            Link::Miner => self.miner_event(peer, event, now, out),
            Link::TemplateProvider(index) if index < self.providers.len() => {
                self.provider_event(index, peer, event, now, out);
            }
            Link::TemplateProvider(_) => out.close(peer, "no such template provider"),
        }
    }

    fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.provider_tick(now, out);
        self.announce_futures(now, out);
        self.acknowledge_due(now, out);
        self.core.solutions.tick(&self.providers, now, out);
        self.drain_tick(out);
        self.core.extranonces.tick(now.instant);
        if self.next_scan.is_none_or(|due| now.instant >= due) {
            self.next_scan = Some(now.instant + SCAN_INTERVAL);
            self.scan_miners(now, out);
        }
        if self.core.settings.worker_metrics > 0
            && self.next_worker_metrics.is_none_or(|due| now.instant >= due)
        {
            self.next_worker_metrics = Some(now.instant + WORKER_METRICS_INTERVAL);
            self.measure_workers(now);
        }
        if self.next_sweep.is_none_or(|due| now.instant >= due) {
            self.next_sweep = Some(now.instant + SWEEP_INTERVAL);
            self.sweep_workers(now);
        }
    }
}
