//! What is counted and measured: `adit_template_provider_*`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adit_node::CallMetrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type Labels<const N: usize> = [(&'static str, String); N];

/// Handles to all of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    clients: Gauge<i64, AtomicI64>,
    templates_sent: Family<Labels<2>, Counter<u64, AtomicU64>>,
    transaction_data_requests: Family<Labels<1>, Counter<u64, AtomicU64>>,
    solutions: Family<[(&'static str, &'static str); 1], Counter<u64, AtomicU64>>,
    store_errors: Family<Labels<1>, Counter<u64, AtomicU64>>,
    tip_latency: Histogram,
    pub(crate) calls: CallMetrics,
    offered: Offered,
    /// Templates sent in all, for `/status`.
    sent: Arc<AtomicU64>,
}

/// What can become of a `SubmitSolution` and its block. One that is a block counts as `found`, once for each answer of a
/// node that is another than its last, and once when the chain has settled about it.
const SOLUTION_RESULTS: [&str; 12] = [
    "found",
    "repeated",
    "invalid",
    "unknown-template",
    "dropped",
    "accepted",
    "duplicate",
    "inconclusive",
    "rejected",
    "unreachable",
    "confirmed",
    "overtaken",
];

/// When a node last made its offer.
#[derive(Clone, Debug, Default)]
struct Offered(Arc<Mutex<Option<Instant>>>);

impl Default for Metrics {
    fn default() -> Self {
        Self {
            clients: Gauge::default(),
            templates_sent: Family::default(),
            transaction_data_requests: Family::default(),
            solutions: Family::default(),
            store_errors: Family::default(),
            // 0.1 ms to 0.4 s.
            tip_latency: Histogram::new(exponential_buckets(0.0001, 2.0, 13)),
            calls: CallMetrics::default(),
            offered: Offered::default(),
            sent: Arc::default(),
        }
    }
}

impl Metrics {
    /// Makes them part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("template_provider");
        registry.register("clients", "Clients connected", self.clients.clone());
        registry.register(
            "templates_sent",
            "NewTemplate messages sent",
            self.templates_sent.clone(),
        );
        registry.register(
            "transaction_data_requests",
            "RequestTransactionData messages answered",
            self.transaction_data_requests.clone(),
        );
        registry.register(
            "solutions",
            "SubmitSolution messages and what became of their blocks",
            self.solutions.clone(),
        );
        registry.register(
            "store_errors",
            "Templates or blocks that could not be written to disk",
            self.store_errors.clone(),
        );
        registry.register_with_unit(
            "tip_latency",
            "From hearing of a new tip to its SetNewPrevHash being handed to every connection",
            Unit::Seconds,
            self.tip_latency.clone(),
        );
        self.calls.register(registry);
        registry.register_collector(Box::new(self.offered.clone()));
    }

    pub(crate) fn clients(&self, count: usize) {
        self.clients.set(count as i64);
    }

    pub(crate) fn template_sent(&self, future: bool, empty: bool) {
        let content = if empty { "coinbase-only" } else { "full" };
        let labels = [("future", future.to_string()), ("content", content.to_owned())];
        self.templates_sent.get_or_create(&labels).inc();
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn templates_sent_total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// For `/status`.
    pub(crate) fn solutions_by_result(&self) -> BTreeMap<&'static str, u64> {
        let count = |result| {
            self.solutions.get(&[("result", result)]).map(|counter| (result, counter.get()))
        };
        SOLUTION_RESULTS.into_iter().filter_map(count).collect()
    }

    pub(crate) fn transaction_data_requests(&self, result: &str) {
        self.transaction_data_requests.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// `result` is one of [`SOLUTION_RESULTS`].
    pub(crate) fn solution(&self, result: &'static str) {
        debug_assert!(SOLUTION_RESULTS.contains(&result), "{result}");
        self.solutions.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn store_error(&self, what: &str) {
        self.store_errors.get_or_create(&[("what", what.to_owned())]).inc();
    }

    pub(crate) fn tip_latency(&self, latency: Duration) {
        self.tip_latency.observe(latency.as_secs_f64());
    }

    pub(crate) fn offered(&self) {
        *self.offered.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some(Instant::now());
    }

    /// Time since a node last made its offer.
    pub(crate) fn template_age(&self) -> Option<Duration> {
        self.offered.age()
    }
}

impl Offered {
    fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).map(|at| at.elapsed())
    }
}

impl Collector for Offered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(age) = self.age() else { return Ok(()) };
        let help = "Time since a node last gave or confirmed the work that clients have";
        let encoder = encoder.encode_descriptor(
            "template_age",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(age.as_secs_f64()).encode(encoder)
    }
}
