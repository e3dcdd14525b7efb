//! What the translator counts: `adit_translator_*`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use adit_mining::ShareError;
use adit_sv1::{ErrorCode, Repairs};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RepairLabels {
    kind: &'static str,
    firmware: Arc<str>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FirmwareLabel {
    firmware: Arc<str>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WorkerLabel {
    worker: String,
}

type Label = [(&'static str, &'static str); 1];
type ShareLabels = [(&'static str, &'static str); 3];

/// Why a miner's share is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reject {
    /// Its parameters cannot be read.
    Malformed,
    /// The connection has not subscribed.
    NotSubscribed,
    /// The connection has not authorised.
    Unauthorized,
    /// No job of this translator.
    UnknownJob,
    /// A job that is over.
    StaleJob,
    /// Its time is outside what the upstream takes.
    Ntime,
    /// It does not meet the difficulty that the miner was told.
    LowDifficulty,
    /// It was sent before.
    Duplicate,
    /// So many shares on one tip that duplicates could no longer be told.
    TooMany,
}

impl Reject {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::NotSubscribed,
        Self::Unauthorized,
        Self::UnknownJob,
        Self::StaleJob,
        Self::Ntime,
        Self::LowDifficulty,
        Self::Duplicate,
        Self::TooMany,
    ];

    /// Name for counters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotSubscribed => "not-subscribed",
            Self::Unauthorized => "unauthorized",
            Self::UnknownJob => "unknown-job",
            Self::StaleJob => "stale-job",
            Self::Ntime => "ntime-out-of-range",
            Self::LowDifficulty => "low-difficulty",
            Self::Duplicate => "duplicate",
            Self::TooMany => "too-many-shares",
        }
    }

    /// What the miner is told.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Malformed | Self::Ntime | Self::TooMany => ErrorCode::Other,
            Self::NotSubscribed => ErrorCode::NotSubscribed,
            Self::Unauthorized => ErrorCode::Unauthorized,
            Self::UnknownJob | Self::StaleJob => ErrorCode::JobNotFound,
            Self::LowDifficulty => ErrorCode::LowDifficulty,
            Self::Duplicate => ErrorCode::DuplicateShare,
        }
    }

    /// The text beside the code.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed share",
            Self::Ntime => "Time out of range",
            Self::TooMany => "Too many shares",
            Self::StaleJob => "Stale job",
            other => other.code().text(),
        }
    }

    /// Place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What becomes of a share that was accepted from a miner.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Onward {
    /// Sent upstream.
    Sent,
    /// It meets what the miner was told, which is rounded down, but not the upstream's target. Nothing is lost: the
    /// upstream pays the shares that do meet its target for the others as well.
    BelowTarget,
    /// Its channel is gone: found on the last job while there was no upstream. Nobody pays for it.
    NoUpstream,
    /// Sent, and the channel was gone before there was an answer.
    Unanswered,
}

impl Onward {
    const ALL: [Self; 4] = [Self::Sent, Self::BelowTarget, Self::NoUpstream, Self::Unanswered];

    const fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::BelowTarget => "below-target",
            Self::NoUpstream => "no-upstream",
            Self::Unanswered => "unanswered",
        }
    }
}

/// The metrics. Clones count into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    shares: Family<ShareLabels, Counter>,
    /// Of `shares`, without the look-up.
    accepted: Counter,
    rejected: [Counter; Reject::ALL.len()],
    onward: [Counter; Onward::ALL.len()],
    upstream_accepted: Counter,
    /// All reasons of `shares` together.
    upstream_rejected: Counter,
    blocks: Counter,
    repairs: Family<RepairLabels, Counter>,
    firmware: Family<FirmwareLabel, Gauge>,
    coinbase_too_long: Family<FirmwareLabel, Counter>,
    logins: Family<Label, Counter>,
    ladder: Family<Label, Counter>,
    hash_rate: Gauge<f64, AtomicU64>,
    workers: Family<WorkerLabel, Gauge<f64, AtomicU64>>,
    requests: Family<Label, Counter>,
    bad_lines: Counter,
    miners: Gauge,
    channels: Gauge,
    channel_errors: Family<Label, Counter>,
    upstream: Family<[(&'static str, String); 1], Gauge>,
    upstream_faults: Family<Label, Counter>,
    failovers: Family<Label, Counter>,
    blocks_lost: Counter,
    fan_out: Histogram,
    answers: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let shares = Family::<ShareLabels, Counter>::default();
        let share = |side, result, reason| {
            shares.get_or_create_owned(&[("side", side), ("result", result), ("reason", reason)])
        };
        Self {
            accepted: share("miner", "accepted", "none"),
            rejected: Reject::ALL.map(|reject| share("miner", "rejected", reject.label())),
            onward: Onward::ALL.map(|onward| share("onward", onward.label(), "none")),
            upstream_accepted: share("upstream", "accepted", "none"),
            upstream_rejected: Counter::default(),
            shares,
            blocks: Counter::default(),
            repairs: Family::default(),
            firmware: Family::default(),
            coinbase_too_long: Family::default(),
            logins: Family::default(),
            ladder: Family::default(),
            hash_rate: Gauge::default(),
            workers: Family::default(),
            requests: Family::default(),
            bad_lines: Counter::default(),
            miners: Gauge::default(),
            channels: Gauge::default(),
            channel_errors: Family::default(),
            upstream: Family::default(),
            upstream_faults: Family::default(),
            failovers: Family::default(),
            blocks_lost: Counter::default(),
            // 0.1 ms to 3.3 s.
            fan_out: Histogram::new(exponential_buckets(1e-4, 2.0, 16)),
            // 1 ms to 65 s.
            answers: Histogram::new(exponential_buckets(1e-3, 2.0, 17)),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("translator");
        let help = "Shares: judged for the miner, what became of the accepted ones, what the upstream said of those";
        r.register("shares", help, self.shares.clone());
        r.register("blocks", "Shares that met the network's target", self.blocks.clone());
        let help = "Liberties of miners that were understood, by firmware";
        r.register("repairs", help, self.repairs.clone());
        r.register("firmware", "Connected miners by firmware", self.firmware.clone());
        let help = "Miners refused since the upstream's coinbase is too long for their firmware";
        r.register("coinbase_too_long", help, self.coinbase_too_long.clone());
        r.register("logins", "Users of miners, by what became of them", self.logins.clone());
        let help = "What was done about miners that send only refused shares";
        r.register("ladder", help, self.ladder.clone());
        let help = "Hashes per second of all miners, by their shares";
        r.register("hash_rate", help, self.hash_rate.clone());
        let help = "Hashes per second of a user's miners, by their shares; the fastest ones alone";
        r.register("worker_hash_rate", help, self.workers.clone());
        r.register("requests", "Requests of miners by method", self.requests.clone());
        r.register("bad_lines", "Lines of miners that were no message", self.bad_lines.clone());
        r.register("miners", "Connected miners", self.miners.clone());
        r.register("channels", "Open channels upstream", self.channels.clone());
        let help = "Channels that were refused or closed by the upstream";
        r.register("channel_errors", help, self.channel_errors.clone());
        r.register("upstream", "Whether the upstream can be worked for", self.upstream.clone());
        let help = "What upstreams did against the protocol; the connection was dropped for it";
        r.register("upstream_faults", help, self.upstream_faults.clone());
        let help = "Times that the upstream worked for was lost or left, by why; returned: for a better one";
        r.register("failovers", help, self.failovers.clone());
        let help = "Blocks found while nobody was there who could complete them";
        r.register("blocks_lost", help, self.blocks_lost.clone());
        let help = "From the arrival of a new previous hash to a miner's notify being written";
        r.register_with_unit("notify_fan_out", help, Unit::Seconds, self.fan_out.clone());
        let help = "From a share being sent upstream to the answer to it, accepted or rejected";
        r.register_with_unit("upstream_ack", help, Unit::Seconds, self.answers.clone());
    }

    pub(crate) fn accepted(&self) {
        self.accepted.inc();
    }

    pub(crate) fn rejected(&self, reject: Reject) {
        self.rejected[reject.index()].inc();
    }

    pub(crate) fn onward(&self, onward: Onward, shares: u64) {
        self.onward[onward as usize].inc_by(shares);
    }

    pub(crate) fn upstream_accepted(&self, shares: u64) {
        self.upstream_accepted.inc_by(shares);
    }

    /// An upstream's error code is free text; only known ones become a label.
    pub(crate) fn upstream_rejected(&self, code: &str) {
        let known = ShareError::ALL.iter().map(|error| error.code()).find(|known| *known == code);
        let reason = known.unwrap_or("other");
        let labels = [("side", "upstream"), ("result", "rejected"), ("reason", reason)];
        self.shares.get_or_create(&labels).inc();
        self.upstream_rejected.inc();
    }

    pub(crate) fn block(&self) {
        self.blocks.inc();
    }

    /// `firmware` is a name of the firmware table.
    pub(crate) fn repairs(&self, repairs: Repairs, firmware: &Arc<str>) {
        for kind in repairs.names() {
            // On the way of each share of some firmware: nothing is allocated once the series is there.
            let labels = RepairLabels { kind, firmware: firmware.clone() };
            self.repairs.get_or_create(&labels).inc();
        }
    }

    /// `firmware` is a name of the firmware table.
    pub(crate) fn firmware(&self, firmware: &Arc<str>, more: i64) {
        let label = FirmwareLabel { firmware: firmware.clone() };
        self.firmware.get_or_create(&label).inc_by(more);
    }

    pub(crate) fn coinbase_too_long(&self, firmware: &Arc<str>) {
        let label = FirmwareLabel { firmware: firmware.clone() };
        self.coinbase_too_long.get_or_create(&label).inc();
    }

    pub(crate) fn login(&self, result: &'static str) {
        self.logins.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn ladder(&self, step: &'static str) {
        self.ladder.get_or_create(&[("step", step)]).inc();
    }

    /// Of all miners, and of the fastest users.
    pub(crate) fn hash_rates(&self, all: f64, users: &[(String, f64)]) {
        self.hash_rate.set(all);
        self.workers.clear();
        for (user, hash_rate) in users {
            let label = WorkerLabel { worker: user.clone() };
            self.workers.get_or_create(&label).set(*hash_rate);
        }
    }

    pub(crate) fn request(&self, method: &'static str) {
        self.requests.get_or_create(&[("method", method)]).inc();
    }

    pub(crate) fn bad_line(&self) {
        self.bad_lines.inc();
    }

    pub(crate) fn miners(&self, miners: usize) {
        self.miners.set(miners as i64);
    }

    pub(crate) fn channels(&self, channels: usize) {
        self.channels.set(channels as i64);
    }

    pub(crate) fn channel_error(&self, reason: &'static str) {
        self.channel_errors.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn upstream(&self, address: String, ready: bool) {
        self.upstream.get_or_create(&[("address", address)]).set(ready.into());
    }

    pub(crate) fn upstream_fault(&self, reason: &'static str) {
        self.upstream_faults.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn failover(&self, reason: &'static str) {
        self.failovers.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn block_lost(&self) {
        self.blocks_lost.inc();
    }

    pub(crate) fn fanned_out(&self, took: Duration) {
        self.fan_out.observe(took.as_secs_f64());
    }

    pub(crate) fn upstream_answered(&self, took: Duration) {
        self.answers.observe(took.as_secs_f64());
    }

    /// What was counted so far, in short.
    pub(crate) fn totals(&self) -> Totals {
        let onward = |onward: Onward| self.onward[onward as usize].get();
        Totals {
            accepted: self.accepted.get(),
            rejected: self.rejected.iter().map(Counter::get).sum(),
            blocks: self.blocks.get(),
            sent: onward(Onward::Sent),
            below_target: onward(Onward::BelowTarget),
            no_upstream: onward(Onward::NoUpstream),
            unanswered: onward(Onward::Unanswered),
            upstream_accepted: self.upstream_accepted.get(),
            upstream_rejected: self.upstream_rejected.get(),
        }
    }
}

/// Shares of all miners since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Totals {
    /// Accepted from miners.
    pub accepted: u64,
    /// Refused to miners.
    pub rejected: u64,
    /// Of the accepted: those that met the network's target.
    pub blocks: u64,
    /// Of the accepted: sent upstream.
    pub sent: u64,
    /// Of the accepted: easier than the upstream's target.
    pub below_target: u64,
    /// Of the accepted: there was no upstream.
    pub no_upstream: u64,
    /// Of the sent: the channel was gone before there was an answer.
    pub unanswered: u64,
    /// Of the sent: accepted.
    pub upstream_accepted: u64,
    /// Of the sent: rejected.
    pub upstream_rejected: u64,
}
