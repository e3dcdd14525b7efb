//! What is counted: `adit_transport_*`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::CloseReason;

/// The counters of all hubs of a process. Each link's are looked up once and then only added to.
#[derive(Debug)]
pub struct TransportMetrics {
    connections: Family<LinkLabel, Gauge>,
    accepted: Family<LinkLabel, Counter>,
    dialed: Family<LinkLabel, Counter>,
    closed: Family<ClosedLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    handshake_seconds: Family<SideLabel, Histogram, fn() -> Histogram>,
    bytes_in: Family<LinkLabel, Counter>,
    bytes_out: Family<LinkLabel, Counter>,
    messages_in: Family<LinkLabel, Counter>,
    messages_out: Family<LinkLabel, Counter>,
    spill_bytes: Family<LinkLabel, Gauge>,
    spills: Family<LinkLabel, Counter>,
}

impl Default for TransportMetrics {
    fn default() -> Self {
        // 0.1 ms to 6.5 s.
        let histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 17));
        Self {
            connections: Family::default(),
            accepted: Family::default(),
            dialed: Family::default(),
            closed: Family::default(),
            handshakes: Family::default(),
            handshake_seconds: Family::new_with_constructor(histogram),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
            messages_in: Family::default(),
            messages_out: Family::default(),
            spill_bytes: Family::default(),
            spills: Family::default(),
        }
    }
}

impl TransportMetrics {
    /// Registers the metrics in a registry that puts `adit_` before every name, as that of `adit-service` does.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Arc::new(Self::default());
        let m = &*metrics;
        let r = registry.sub_registry_with_prefix("transport");
        r.register("connections", "Open connections", m.connections.clone());
        r.register("accepted", "Connections taken in", m.accepted.clone());
        r.register("dialed", "Connections made", m.dialed.clone());
        r.register("closed", "Connections that ended or were refused", m.closed.clone());
        r.register("handshakes", "Handshakes of Noise and TLS", m.handshakes.clone());
        r.register_with_unit(
            "handshake",
            "Time from the first to the last byte of good handshakes",
            Unit::Seconds,
            m.handshake_seconds.clone(),
        );
        r.register_with_unit("in", "Received from the network", Unit::Bytes, m.bytes_in.clone());
        r.register_with_unit("out", "Given to the network", Unit::Bytes, m.bytes_out.clone());
        r.register("messages_in", "Frames or lines received", m.messages_in.clone());
        r.register("messages_out", "Frames or lines sent", m.messages_out.clone());
        r.register_with_unit(
            "spill",
            "Kept for peers that do not read as fast as they are sent to",
            Unit::Bytes,
            m.spill_bytes.clone(),
        );
        r.register("spills", "Times a connection could not take all at once", m.spills.clone());
        metrics
    }

    pub(crate) fn link(&self, link: String) -> LinkMetrics {
        let label = LinkLabel { link };
        LinkMetrics {
            connections: self.connections.get_or_create_owned(&label),
            accepted: self.accepted.get_or_create_owned(&label),
            dialed: self.dialed.get_or_create_owned(&label),
            bytes_in: self.bytes_in.get_or_create_owned(&label),
            bytes_out: self.bytes_out.get_or_create_owned(&label),
            messages_in: self.messages_in.get_or_create_owned(&label),
            messages_out: self.messages_out.get_or_create_owned(&label),
            spill_bytes: self.spill_bytes.get_or_create_owned(&label),
            spills: self.spills.get_or_create_owned(&label),
            closed: self.closed.clone(),
            label: label.link,
        }
    }

    pub(crate) fn handshake(&self, side: Side, took: Duration, error: Option<&CloseReason>) {
        let side = side.label();
        let result = error.map_or(Cow::Borrowed("ok"), CloseReason::label);
        self.handshakes.get_or_create(&HandshakeLabels { side, result }).inc();
        if error.is_none() {
            self.handshake_seconds.get_or_create(&SideLabel { side }).observe(took.as_secs_f64());
        }
    }
}

/// The ends of a handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Initiator,
    Responder,
    /// The server's, of TLS.
    Tls,
}

impl Side {
    fn label(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Responder => "responder",
            Self::Tls => "tls",
        }
    }
}

/// The counters of one link.
#[derive(Debug)]
pub(crate) struct LinkMetrics {
    pub(crate) connections: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) dialed: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) messages_out: Counter,
    pub(crate) spill_bytes: Gauge,
    pub(crate) spills: Counter,
    closed: Family<ClosedLabels, Counter>,
    label: String,
}

impl LinkMetrics {
    pub(crate) fn closed(&self, reason: &CloseReason) {
        let labels = ClosedLabels { link: self.label.clone(), reason: reason.label() };
        self.closed.get_or_create(&labels).inc();
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct LinkLabel {
    link: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ClosedLabels {
    link: String,
    reason: Cow<'static, str>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HandshakeLabels {
    side: &'static str,
    result: Cow<'static, str>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct SideLabel {
    side: &'static str,
}
