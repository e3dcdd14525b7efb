//! What a role's `/metrics` says of its calls to nodes.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::{CallReport, ConfigError, Node, NodeConfig};

type Labels<const N: usize> = [(&'static str, String); N];

/// Calls to nodes: how long they took, and what went wrong. Clones are the same.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    duration: Family<Labels<1>, Histogram>,
    errors: Family<Labels<2>, Counter<u64, AtomicU64>>,
}

impl Default for CallMetrics {
    fn default() -> Self {
        // 1 ms to 8 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self { duration: Family::new_with_constructor(seconds), errors: Family::default() }
    }
}

impl CallMetrics {
    /// Makes them `rpc_duration_seconds` and `rpc_errors_total` behind the registry's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "rpc_duration",
            "Calls to nodes",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register(
            "rpc_errors",
            "Calls to nodes that brought no result",
            self.errors.clone(),
        );
    }

    /// Clients of the nodes whose calls are counted here.
    ///
    /// # Errors
    /// What is wrong with a node's configuration.
    pub fn clients(&self, nodes: Vec<NodeConfig>) -> Result<Vec<Node>, ConfigError> {
        let client = |config| {
            let metrics = self.clone();
            Node::with_observer(config, move |report| metrics.observe(report))
        };
        nodes.into_iter().map(client).collect::<Result<_, _>>()
    }

    fn observe(&self, report: &CallReport<'_>) {
        // How long this one takes is up to the next block.
        if report.method != "waitfornewblock" {
            let labels = [("method", report.method.to_owned())];
            self.duration.get_or_create(&labels).observe(report.duration.as_secs_f64());
        }
        if let Some(error) = report.error {
            let labels = [("method", report.method.to_owned()), ("kind", error.kind().to_owned())];
            self.errors.get_or_create(&labels).inc();
        }
    }
}
