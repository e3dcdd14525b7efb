//! What the explorer counts: `adit_explorer_*`.

use std::time::Duration;

use adit_node::CallReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type Histograms<const N: usize> = Family<[(&'static str, String); N], Histogram, fn() -> Histogram>;

/// The metrics. Clones count into the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pages: Family<[(&'static str, String); 2], Counter>,
    page: Histograms<1>,
    polls: Family<[(&'static str, String); 2], Counter>,
    rpc: Histograms<1>,
    rpc_errors: Family<[(&'static str, String); 2], Counter>,
    live: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 3.3 s.
        let short: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-4, 2.0, 16));
        // 1 ms to 16 s.
        let long: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-3, 2.0, 15));
        Self {
            pages: Family::default(),
            page: Family::new_with_constructor(short),
            polls: Family::default(),
            rpc: Family::new_with_constructor(long),
            rpc_errors: Family::default(),
            live: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("explorer");
        r.register("pages", "Pages given, by kind and HTTP status", self.pages.clone());
        let help = "From a request to its page";
        r.register_with_unit("page", help, Unit::Seconds, self.page.clone());
        r.register("polls", "Questions to roles by result", self.polls.clone());
        r.register_with_unit("rpc_duration", "Calls to the node", Unit::Seconds, self.rpc.clone());
        let help = "Calls to the node that brought no result";
        r.register("rpc_errors", help, self.rpc_errors.clone());
        r.register("live_pages", "Open pages that are kept up to date", self.live.clone());
    }

    /// `page` is the kind, not the address: its number is bounded.
    pub(crate) fn page(&self, page: &str, status: u16, took: Duration) {
        let (page, status) = (page.to_owned(), status.to_string());
        self.page.get_or_create(&[("page", page.clone())]).observe(took.as_secs_f64());
        self.pages.get_or_create(&[("page", page), ("status", status)]).inc();
    }

    pub(crate) fn poll(&self, role: &str, good: bool) {
        let result = if good { "ok" } else { "failed" };
        let labels = [("role", role.to_owned()), ("result", result.to_owned())];
        self.polls.get_or_create(&labels).inc();
    }

    pub(crate) fn rpc(&self, report: &CallReport<'_>) {
        if report.method != "waitfornewblock" {
            let labels = [("method", report.method.to_owned())];
            self.rpc.get_or_create(&labels).observe(report.duration.as_secs_f64());
        }
        if let Some(error) = report.error {
            let labels = [("method", report.method.to_owned()), ("kind", error.kind().to_owned())];
            self.rpc_errors.get_or_create(&labels).inc();
        }
    }

    /// Counts an open page until what it gives is dropped.
    pub(crate) fn live(&self) -> Live {
        self.live.inc();
        Live(self.live.clone())
    }
}

/// An open page.
#[derive(Debug)]
pub(crate) struct Live(Gauge);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.dec();
    }
}
