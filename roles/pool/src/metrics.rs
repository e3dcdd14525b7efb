//! What the pool counts: `adit_pool_*`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use adit_mining::{ChannelKind, ShareError};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::store::{Identity, QUEUE_LIMIT};

type Label = [(&'static str, &'static str); 1];
type FloatGauge = Gauge<f64, AtomicU64>;

/// Why a share is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It does not count.
    Share(ShareError),
    /// It might, but the disk takes no more: the miner may go elsewhere.
    StoreUnavailable,
    /// The worker's name in it is longer than extension 0x0002 allows, or cut off.
    UserIdentity,
}

impl Refusal {
    /// Number of refusals that are told apart.
    pub const COUNT: usize = ShareError::ALL.len() + 2;

    /// `error_code` of `SubmitShares.Error`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Share(error) => error.code(),
            Self::StoreUnavailable => "store-unavailable",
            Self::UserIdentity => "invalid-user-identity",
        }
    }

    /// Name for counters: tells apart what shares an error code.
    pub fn label(self) -> &'static str {
        match self {
            Self::Share(ShareError::NtimeTooOld) => "ntime-too-old",
            Self::Share(ShareError::NtimeTooNew) => "ntime-too-new",
            other => other.code(),
        }
    }

    /// Place in an array of [`COUNT`](Self::COUNT) counters.
    pub fn index(self) -> usize {
        match self {
            Self::Share(error) => {
                ShareError::ALL.iter().position(|e| *e == error).unwrap_or_default()
            }
            Self::StoreUnavailable => Self::COUNT - 2,
            Self::UserIdentity => Self::COUNT - 1,
        }
    }

    /// All of them, in the order of [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = Self> {
        ShareError::ALL
            .into_iter()
            .map(Self::Share)
            .chain([Self::StoreUnavailable, Self::UserIdentity])
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) blocks: u64,
}

/// Connections by what they do, and what their channels find together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    /// `SetupConnection` has not come yet.
    pub(crate) setting_up: usize,
    /// Without a channel.
    pub(crate) idle: usize,
    /// With one, or waiting for one.
    pub(crate) mining: usize,
    /// Hashes per second, estimated.
    pub(crate) hash_rate: f64,
}

/// The metrics. Clones count into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    shares: Family<[(&'static str, &'static str); 2], Counter>,
    /// Of `shares`, without the look-up.
    accepted: Counter,
    rejected: [Counter; Refusal::COUNT],
    channels: Family<Label, Gauge>,
    opens: Family<Label, Counter>,
    ack: Histogram,
    fan_out: Histogram,
    blocks: Family<Label, Counter>,
    set_targets: Counter,
    commit: Histogram,
    unstored: Gauge,
    rejects_not_stored: Counter,
    connected: Family<[(&'static str, String); 1], Gauge>,
    losses: Family<[(&'static str, String); 2], Counter>,
    template_age: FloatGauge,
    connections: Family<Label, Gauge>,
    hash_rate: FloatGauge,
    worker_hash_rate: Family<[(&'static str, String); 2], FloatGauge>,
    queue_fill: FloatGauge,
    sent_away: Counter,
    prefixes_renewed: Counter,
    custom_jobs: Family<Label, Counter>,
    templates: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 1.6 s, and to 13 minutes: an acknowledgement may wait for a disk.
        let short = || Histogram::new(exponential_buckets(1e-4, 2.0, 15));
        let shares = Family::<[(&'static str, &'static str); 2], Counter>::default();
        let accepted = shares.get_or_create_owned(&[("result", "accepted"), ("reason", "none")]);
        let mut refusals = Refusal::all();
        let rejected = std::array::from_fn(|_| {
            let reason = refusals.next().map_or("other", Refusal::label);
            shares.get_or_create_owned(&[("result", "rejected"), ("reason", reason)])
        });
        let channels = Family::<Label, Gauge>::default();
        for kind in ["standard", "extended"] {
            let _ = channels.get_or_create(&[("kind", kind)]);
        }
        Self {
            shares,
            accepted,
            rejected,
            channels,
            opens: Family::default(),
            ack: Histogram::new(exponential_buckets(1e-3, 2.0, 18)),
            fan_out: short(),
            blocks: Family::default(),
            set_targets: Counter::default(),
            commit: short(),
            unstored: Gauge::default(),
            rejects_not_stored: Counter::default(),
            connected: Family::default(),
            losses: Family::default(),
            template_age: FloatGauge::default(),
            connections: Family::default(),
            hash_rate: FloatGauge::default(),
            worker_hash_rate: Family::default(),
            queue_fill: FloatGauge::default(),
            sent_away: Counter::default(),
            prefixes_renewed: Counter::default(),
            custom_jobs: Family::default(),
            templates: Family::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("pool");
        registry.register("shares", "Shares by result and reason", self.shares.clone());
        registry.register("channels", "Open channels by kind", self.channels.clone());
        registry.register(
            "channel_opens",
            "Requests to open a channel by result",
            self.opens.clone(),
        );
        let help = "From a share's arrival to its acknowledgement, oldest of a batch";
        registry.register_with_unit("share_ack", help, Unit::Seconds, self.ack.clone());
        let help = "From a new previous hash's arrival to the last miner that was written to";
        registry.register_with_unit("job_fan_out", help, Unit::Seconds, self.fan_out.clone());
        for state in ["found", "custom", "accepted", "overtaken", "unknown"] {
            let _ = self.blocks.get_or_create(&[("state", state)]);
        }
        registry.register(
            "blocks",
            "Blocks found by miners, those among them on their own jobs, and what became of all",
            self.blocks.clone(),
        );
        registry.register("set_targets", "Changes of a channel's target", self.set_targets.clone());
        let help = "Time to write a batch of work to the disk";
        registry.register_with_unit("store_commit", help, Unit::Seconds, self.commit.clone());
        registry.register(
            "unstored_shares",
            "Accepted shares that are not on disk yet",
            self.unstored.clone(),
        );
        let help = "Part of the store's queue that is taken; at 1 shares are refused";
        registry.register_with_unit(
            "store_queue_fill",
            help,
            Unit::Ratios,
            self.queue_fill.clone(),
        );
        let help = "Refused shares that are missing in the store's counts, since the disk did not take them in time";
        registry.register("rejects_not_stored", help, self.rejects_not_stored.clone());
        let help = "1 where the template provider is connected";
        registry.register("template_provider_connected", help, self.connected.clone());
        let help = "Losses of a template provider by its address and the reason";
        registry.register("template_provider_losses", help, self.losses.clone());
        registry.register_with_unit(
            "template_age",
            "Since the last template of the provider in use",
            Unit::Seconds,
            self.template_age.clone(),
        );
        for state in ["setting-up", "idle", "mining"] {
            let _ = self.connections.get_or_create(&[("state", state)]);
        }
        registry.register(
            "connections",
            "Connections of miners by state",
            self.connections.clone(),
        );
        let help = "Estimated hashes per second of all channels";
        registry.register("hashrate", help, self.hash_rate.clone());
        let help = "Estimated hashes per second of the strongest workers, as many as the configuration says";
        registry.register("worker_hashrate", help, self.worker_hash_rate.clone());
        let _ = self.custom_jobs.get_or_create(&[("result", "accepted")]);
        let help = "Custom jobs of miners by result: accepted, or why not";
        registry.register("custom_jobs", help, self.custom_jobs.clone());
        let help = "Channels that were given another extranonce prefix";
        registry.register("prefixes_renewed", help, self.prefixes_renewed.clone());
        let help = "Connections that were told to go elsewhere";
        registry.register("reconnects_sent", help, self.sent_away.clone());
        for kind in ["future", "new-tip", "newer", "unchanged", "refused"] {
            let _ = self.templates.get_or_create(&[("kind", kind)]);
        }
        registry.register("templates", "Templates of the provider in use", self.templates.clone());
    }

    pub(crate) fn share_accepted(&self) {
        self.accepted.inc();
    }

    pub(crate) fn share_rejected(&self, refusal: Refusal) {
        self.rejected[refusal.index()].inc();
    }

    pub(crate) fn channel_opened(&self, kind: ChannelKind) {
        self.channels(kind).inc();
        self.opens.get_or_create(&[("result", "opened")]).inc();
    }

    pub(crate) fn channel_refused(&self, code: &'static str) {
        self.opens.get_or_create(&[("result", code)]).inc();
    }

    pub(crate) fn channel_closed(&self, kind: ChannelKind) {
        self.channels(kind).dec();
    }

    pub(crate) fn acknowledged(&self, took: Duration) {
        self.ack.observe(took.as_secs_f64());
    }

    pub(crate) fn block(&self, state: &'static str) {
        self.blocks.get_or_create(&[("state", state)]).inc();
    }

    pub(crate) fn template(&self, kind: &'static str) {
        self.templates.get_or_create(&[("kind", kind)]).inc();
    }

    #[cfg(test)]
    pub(crate) fn set_targets_count(&self) -> u64 {
        self.set_targets.get()
    }

    pub(crate) fn set_targets(&self, channels: usize) {
        self.set_targets.inc_by(channels as u64);
    }

    pub(crate) fn fanned_out(&self, took: Duration) {
        self.fan_out.observe(took.as_secs_f64());
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }

    pub(crate) fn unstored(&self, shares: usize) {
        self.unstored.set(shares as i64);
        self.queue_fill.set(shares as f64 / QUEUE_LIMIT as f64);
    }

    pub(crate) fn census(&self, census: &Census) {
        let states = [census.setting_up, census.idle, census.mining];
        for (state, count) in ["setting-up", "idle", "mining"].into_iter().zip(states) {
            self.connections.get_or_create(&[("state", state)]).set(count as i64);
        }
        self.hash_rate.set(census.hash_rate);
    }

    /// Replaces the series of single workers.
    pub(crate) fn worker_hash_rates<'a>(&self, workers: impl Iterator<Item = (&'a Identity, f64)>) {
        self.worker_hash_rate.clear();
        for (identity, hash_rate) in workers {
            let labels =
                [("account", identity.account.clone()), ("worker", identity.worker.clone())];
            self.worker_hash_rate.get_or_create(&labels).set(hash_rate);
        }
    }

    pub(crate) fn template_age(&self, age: Duration) {
        self.template_age.set(age.as_secs_f64());
    }

    pub(crate) fn prefixes_renewed(&self, channels: u64) {
        self.prefixes_renewed.inc_by(channels);
    }

    pub(crate) fn custom_job(&self, result: &'static str) {
        self.custom_jobs.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn sent_away(&self) {
        self.sent_away.inc();
    }

    pub(crate) fn reject_not_stored(&self) {
        self.rejects_not_stored.inc();
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            accepted: self.accepted.get(),
            rejected: self.rejected.iter().map(Counter::get).sum(),
            blocks: self.blocks.get_or_create(&[("state", "found")]).get(),
        }
    }

    pub(crate) fn template_provider(&self, address: &str, connected: bool) {
        self.connected.get_or_create(&[("address", address.to_owned())]).set(connected.into());
    }

    pub(crate) fn template_provider_lost(&self, address: &str, reason: &'static str) {
        let labels = [("address", address.to_owned()), ("reason", reason.to_owned())];
        self.losses.get_or_create(&labels).inc();
    }

    fn channels(&self, kind: ChannelKind) -> Gauge {
        let kind = match kind {
            ChannelKind::Standard => "standard",
            ChannelKind::Extended => "extended",
        };
        self.channels.get_or_create_owned(&[("kind", kind)])
    }
}
