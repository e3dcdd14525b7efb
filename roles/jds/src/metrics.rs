//! What is counted and measured: `adit_jds_*`.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use adit_node::{BlockMetrics, CallMetrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type Count = Counter<u64, AtomicU64>;
type By = Family<[(&'static str, &'static str); 1], Count>;

/// Handles to all of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    clients: Gauge<i64, AtomicI64>,
    clients_refused: By,
    tokens: By,
    bad_tokens: By,
    declarations: By,
    declaration_duration: Histogram,
    checks: By,
    checks_shared: Count,
    check_wait: Histogram,
    values_unknown: Count,
    transactions_asked: Count,
    transactions_unasked: Count,
    solutions: By,
    store_errors: Count,
    mempool_transactions: Gauge<i64, AtomicI64>,
    mempool_bytes: Gauge<i64, AtomicI64>,
    pending_bytes: Gauge<i64, AtomicI64>,
    pub(crate) calls: CallMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 8 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self {
            clients: Gauge::default(),
            clients_refused: By::default(),
            tokens: By::default(),
            bad_tokens: By::default(),
            declarations: By::default(),
            declaration_duration: seconds(),
            checks: By::default(),
            checks_shared: Count::default(),
            check_wait: seconds(),
            values_unknown: Count::default(),
            transactions_asked: Count::default(),
            transactions_unasked: Count::default(),
            solutions: By::default(),
            store_errors: Count::default(),
            mempool_transactions: Gauge::default(),
            mempool_bytes: Gauge::default(),
            pending_bytes: Gauge::default(),
            calls: CallMetrics::default(),
        }
    }
}

impl Metrics {
    /// Makes them part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("jds");
        r.register("clients", "Job declarators connected", self.clients.clone());
        r.register(
            "clients_refused",
            "Connections closed by us, by reason",
            self.clients_refused.clone(),
        );
        r.register(
            "tokens",
            "Requests for tokens: allocated at once or later, delayed, or refused",
            self.tokens.clone(),
        );
        r.register(
            "bad_tokens",
            "Declarations with a token that does not hold, by what is wrong with it",
            self.bad_tokens.clone(),
        );
        r.register(
            "declarations",
            "Declarations answered: success, or the error code",
            self.declarations.clone(),
        );
        r.register_with_unit(
            "declaration_duration",
            "From DeclareMiningJob to its Success, the client's own answers included",
            Unit::Seconds,
            self.declaration_duration.clone(),
        );
        r.register("checks", "Blocks judged by the node", self.checks.clone());
        r.register(
            "checks_shared",
            "Declarations that needed no check of their own",
            self.checks_shared.clone(),
        );
        r.register_with_unit(
            "check_wait",
            "Time that a block waited for those ahead of it",
            Unit::Seconds,
            self.check_wait.clone(),
        );
        r.register(
            "values_unknown",
            "Jobs accepted without their fees being known",
            self.values_unknown.clone(),
        );
        r.register(
            "transactions_asked",
            "Transactions asked of clients",
            self.transactions_asked.clone(),
        );
        r.register(
            "transactions_unasked",
            "ProvideMissingTransactions.Success messages that nobody waited for",
            self.transactions_unasked.clone(),
        );
        r.register(
            "solutions",
            "PushSolution messages and what became of their blocks",
            self.solutions.clone(),
        );
        r.register(
            "store_errors",
            "Blocks that could not be written to disk",
            self.store_errors.clone(),
        );
        r.register(
            "mempool_transactions",
            "Transactions of the node that are mirrored",
            self.mempool_transactions.clone(),
        );
        r.register("mempool_bytes", "Memory that these take", self.mempool_bytes.clone());
        r.register(
            "pending_bytes",
            "Memory that declarations not answered yet take",
            self.pending_bytes.clone(),
        );
        self.calls.register(r);
    }

    pub(crate) fn clients(&self, count: usize) {
        self.clients.set(count as i64);
    }

    pub(crate) fn refused_client(&self, reason: &'static str) {
        self.clients_refused.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn token(&self, result: &'static str) {
        self.tokens.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn bad_token(&self, fault: &'static str) {
        self.bad_tokens.get_or_create(&[("fault", fault)]).inc();
    }

    pub(crate) fn accepted(&self, after: Duration) {
        self.declarations.get_or_create(&[("result", "success")]).inc();
        self.declaration_duration.observe(after.as_secs_f64());
    }

    pub(crate) fn refused(&self, code: &'static str) {
        self.declarations.get_or_create(&[("result", code)]).inc();
    }

    pub(crate) fn checked(&self, valid: bool, waiting: usize) {
        let result = if valid { "valid" } else { "invalid" };
        self.checks.get_or_create(&[("result", result)]).inc();
        tracing::trace!(result, waiting, "job checked");
    }

    pub(crate) fn shared_check(&self) {
        self.checks_shared.inc();
    }

    pub(crate) fn check_waited(&self, time: Duration) {
        self.check_wait.observe(time.as_secs_f64());
    }

    pub(crate) fn value_unknown(&self) {
        self.values_unknown.inc();
    }

    pub(crate) fn asked(&self, transactions: usize) {
        self.transactions_asked.inc_by(transactions as u64);
    }

    pub(crate) fn unasked(&self) {
        self.transactions_unasked.inc();
    }

    pub(crate) fn solution(&self, result: &'static str) {
        self.solutions.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn mempool(&self, transactions: usize, bytes: usize) {
        self.mempool_transactions.set(transactions as i64);
        self.mempool_bytes.set(bytes as i64);
    }

    pub(crate) fn pending(&self, bytes: usize) {
        self.pending_bytes.set(bytes as i64);
    }
}

impl BlockMetrics for Metrics {
    fn solution(&self, result: &'static str) {
        self.solution(result);
    }

    fn store_error(&self) {
        self.store_errors.inc();
    }
}
