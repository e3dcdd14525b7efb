//! What the job declarator client counts: `adit_jdc_*`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use adit_mining::{ChannelKind, ShareError};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::engine::INVALID_NAME;

type Label = [(&'static str, &'static str); 1];
type FloatGauge = Gauge<f64, AtomicU64>;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) sent: u64,
    pub(crate) blocks: u64,
}

/// The metrics. Clones count into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    shares: Family<[(&'static str, &'static str); 2], Counter>,
    /// Of `shares`, without the look-up.
    accepted: Counter,
    onward: Family<Label, Counter>,
    channels: Family<Label, Gauge>,
    opens: Family<Label, Counter>,
    connections: Gauge,
    hash_rate: FloatGauge,
    set_targets: Counter,
    jobs: Family<Label, Counter>,
    fan_out: Histogram,
    declarations: Family<[(&'static str, String); 1], Counter>,
    acceptance: Histogram,
    provided: Counter,
    frames_dropped: Counter,
    connected: Family<[(&'static str, String); 2], Gauge>,
    failures: Family<[(&'static str, String); 1], Counter>,
    switches: Family<Label, Counter>,
    blocks: Family<Label, Counter>,
}

/// Refusals of servers that are told apart: their codes are free text.
const KNOWN_REFUSALS: [&str; 17] = [
    "invalid-mining-job-token",
    "stale-chain-tip",
    "job-not-yet-validated",
    "missing-txs",
    "invalid-job",
    "invalid-coinbase-tx",
    "invalid-coinbase-tx-input",
    "invalid-coinbase-tx-outputs",
    "invalid-coinbase-prefix",
    "invalid-coinbase-tx-version",
    "invalid-coinbase-tx-locktime",
    "invalid-merkle-path",
    "invalid-nbits",
    "invalid-version",
    "invalid-channel-id",
    "jd-not-supported",
    "internal-error",
];

/// Why a share may be refused.
fn refusals() -> impl Iterator<Item = &'static str> {
    ShareError::ALL.into_iter().map(ShareError::code).chain([INVALID_NAME])
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 1.6 s.
        let short = || Histogram::new(exponential_buckets(1e-4, 2.0, 15));
        let shares = Family::<[(&'static str, &'static str); 2], Counter>::default();
        let accepted = shares.get_or_create_owned(&[("result", "accepted"), ("reason", "none")]);
        for reason in refusals() {
            let _ = shares.get_or_create(&[("result", "rejected"), ("reason", reason)]);
        }
        Self {
            shares,
            accepted,
            onward: Family::default(),
            channels: Family::default(),
            opens: Family::default(),
            connections: Gauge::default(),
            hash_rate: FloatGauge::default(),
            set_targets: Counter::default(),
            jobs: Family::default(),
            fan_out: short(),
            declarations: Family::default(),
            acceptance: Histogram::new(exponential_buckets(1e-3, 2.0, 15)),
            provided: Counter::default(),
            frames_dropped: Counter::default(),
            connected: Family::default(),
            failures: Family::default(),
            switches: Family::default(),
            blocks: Family::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("jdc");
        registry.register("shares", "Miners' shares by result and reason", self.shares.clone());
        for result in [
            "sent",
            "accepted",
            "rejected",
            "below-target",
            "cached",
            "overflow",
            "lost",
            "unanswered",
            "solo",
        ] {
            let _ = self.onward.get_or_create(&[("result", result)]);
        }
        registry.register(
            "upstream_shares",
            "Accepted shares by what became of them at the pool",
            self.onward.clone(),
        );
        for kind in ["standard", "extended"] {
            let _ = self.channels.get_or_create(&[("kind", kind)]);
        }
        registry.register("channels", "Open channels by kind", self.channels.clone());
        let help = "Requests to open a channel by result";
        registry.register("channel_opens", help, self.opens.clone());
        registry.register("connections", "Connections of miners", self.connections.clone());
        let help = "Estimated hashes per second of all channels";
        registry.register("hashrate", help, self.hash_rate.clone());
        registry.register("set_targets", "Changes of a channel's target", self.set_targets.clone());
        for kind in ["new-tip", "same-tip"] {
            let _ = self.jobs.get_or_create(&[("kind", kind)]);
        }
        registry.register("jobs", "Jobs given to miners", self.jobs.clone());
        let help = "From a new previous hash's arrival to the last miner that was written to";
        registry.register_with_unit("job_fan_out", help, Unit::Seconds, self.fan_out.clone());
        let help = "Steps of declarations by result: declared (by the JDS), accepted (by the pool), or why not";
        registry.register("declarations", help, self.declarations.clone());
        let help = "From a job's beginning to the pool's acceptance";
        registry.register_with_unit("job_acceptance", help, Unit::Seconds, self.acceptance.clone());
        let help = "Transactions that a JDS asked for";
        registry.register("transactions_provided", help, self.provided.clone());
        let help = "Frames of extensions that were not passed on to the pool: miners sent too many";
        registry.register("extension_frames_dropped", help, self.frames_dropped.clone());
        let help = "1 where a pool, JDS or template provider is connected";
        registry.register("upstream_connected", help, self.connected.clone());
        let help = "Times that an upstream was found to fail, by its pool";
        registry.register("upstream_failures", help, self.failures.clone());
        for to in ["declared", "kept", "pool-jobs", "solo"] {
            let _ = self.switches.get_or_create(&[("to", to)]);
        }
        let help = "Times that miners began to work for another";
        registry.register("switches", help, self.switches.clone());
        for state in ["found", "accepted", "overtaken", "unknown", "rival"] {
            let _ = self.blocks.get_or_create(&[("state", state)]);
        }
        let help = "Blocks found by miners, and what became of them";
        registry.register("blocks", help, self.blocks.clone());
    }

    pub(crate) fn extension_frame_dropped(&self) {
        self.frames_dropped.inc();
    }

    pub(crate) fn share_accepted(&self) {
        self.accepted.inc();
    }

    pub(crate) fn share_rejected(&self, reason: &'static str) {
        self.shares.get_or_create(&[("result", "rejected"), ("reason", reason)]).inc();
    }

    pub(crate) fn onward(&self, result: &'static str, shares: u64) {
        if shares > 0 {
            self.onward.get_or_create(&[("result", result)]).inc_by(shares);
        }
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

    pub(crate) fn connections(&self, count: usize) {
        self.connections.set(count as i64);
    }

    pub(crate) fn hash_rate(&self, hash_rate: f64) {
        self.hash_rate.set(hash_rate);
    }

    pub(crate) fn set_target(&self) {
        self.set_targets.inc();
    }

    pub(crate) fn job(&self, kind: &'static str) {
        self.jobs.get_or_create(&[("kind", kind)]).inc();
    }

    pub(crate) fn fanned_out(&self, took: Duration) {
        self.fan_out.observe(took.as_secs_f64());
    }

    pub(crate) fn declaration(&self, result: &'static str) {
        self.declarations.get_or_create(&[("result", result.to_owned())]).inc();
    }

    pub(crate) fn declaration_refused(&self, code: &str) {
        let known = KNOWN_REFUSALS.into_iter().find(|known| *known == code);
        self.declaration(known.unwrap_or("other-refusal"));
    }

    pub(crate) fn accepted_after(&self, took: Duration) {
        self.acceptance.observe(took.as_secs_f64());
    }

    pub(crate) fn transactions_provided(&self, count: u64) {
        self.provided.inc_by(count);
    }

    pub(crate) fn connected(&self, part: &str, address: &str, connected: bool) {
        let labels = [("part", part.to_owned()), ("address", address.to_owned())];
        self.connected.get_or_create(&labels).set(connected.into());
    }

    pub(crate) fn upstream_failed(&self, address: &str) {
        self.failures.get_or_create(&[("address", address.to_owned())]).inc();
    }

    pub(crate) fn switched(&self, to: &'static str) {
        self.switches.get_or_create(&[("to", to)]).inc();
    }

    pub(crate) fn block(&self, state: &'static str) {
        self.blocks.get_or_create(&[("state", state)]).inc();
    }

    pub(crate) fn summary(&self) -> Summary {
        let rejected = refusals().map(|reason| {
            self.shares.get_or_create(&[("result", "rejected"), ("reason", reason)]).get()
        });
        Summary {
            accepted: self.accepted.get(),
            rejected: rejected.sum(),
            sent: self.onward.get_or_create(&[("result", "sent")]).get(),
            blocks: self.blocks.get_or_create(&[("state", "found")]).get(),
        }
    }

    fn channels(&self, kind: ChannelKind) -> Gauge {
        let kind = match kind {
            ChannelKind::Standard => "standard",
            ChannelKind::Extended => "extended",
        };
        self.channels.get_or_create_owned(&[("kind", kind)])
    }
}
