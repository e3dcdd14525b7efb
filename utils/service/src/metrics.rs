//! The metrics of a role, and those that every process has.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use axum::http::{HeaderMap, HeaderValue, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::context::Readiness;
use crate::logs;

/// The registry of a role, shared. Every name registered in it gets `adit_` before it.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub(crate) fn new(role: &'static str, readiness: Readiness) -> Self {
        let mut registry = Registry::with_prefix("adit");
        registry.register_collector(Box::new(Process { role, readiness, started: Instant::now() }));
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Registers metrics.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.lock())
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.lock())?;
        Ok(text)
    }

    /// All metrics in the format that was asked for.
    pub(crate) fn encode_as(&self, format: Format) -> Result<String, fmt::Error> {
        let text = self.encode()?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Classic => classic(&text),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The two texts in which metrics are exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// What newer scrapers ask for.
    OpenMetrics,
    /// Prometheus' older text, given to everybody else: command line tools read only this.
    Classic,
}

impl Format {
    /// The format for a request with these headers.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let mut accepted = headers.get_all(header::ACCEPT).iter();
        let open = |value: &HeaderValue| {
            value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text"))
        };
        if accepted.any(open) { Self::OpenMetrics } else { Self::Classic }
    }

    /// For the answer.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics in the older words: a counter's family is named as its samples are, with `_total`; there are no units and
/// there is no end mark.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            // Whether it is a counter's stands on the next line.
            help = named.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|named| named.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "unknown" => ("", "untyped"),
                "gauge" | "histogram" | "summary" => ("", kind),
                _ => ("", "gauge"),
            };
            if let Some((_, help)) = help.take().filter(|(named, _)| *named == name) {
                out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// What the process itself can say, read when asked.
#[derive(Debug)]
struct Process {
    role: &'static str,
    readiness: Readiness,
    started: Instant,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = [("role", self.role), ("version", env!("CARGO_PKG_VERSION"))];
        let build = encoder.encode_descriptor(
            "build_info",
            "Role and version, value always 1",
            None,
            MetricType::Gauge,
        )?;
        let mut build = build;
        let one = ConstGauge::new(1_i64);
        one.encode(build.encode_family(&labels)?)?;

        let mut gauge = |name, help, unit: Option<&Unit>, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                unit,
                MetricType::Gauge,
            )?)
        };
        gauge(
            "ready",
            "1 if /readyz says yes",
            None,
            f64::from(u8::from(self.readiness.is_ready())),
        )?;
        gauge(
            "uptime",
            "Time since the role started",
            Some(&Unit::Seconds),
            self.started.elapsed().as_secs_f64(),
        )?;
        if let Some(bytes) = resident_bytes() {
            gauge(
                "process_resident_memory",
                "Resident memory of the process",
                Some(&Unit::Bytes),
                bytes as f64,
            )?;
        }
        if let Some(count) = open_fds() {
            gauge("process_open_fds", "Open file descriptors of the process", None, count as f64)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let help = "CPU time of the process, user and system";
            let counter = ConstCounter::new(seconds);
            counter.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                MetricType::Counter,
            )?)?;
        }
        let help = "Lines of the log that were dropped because its reader did not keep up";
        let counter = ConstCounter::new(logs::dropped());
        counter.encode(encoder.encode_descriptor(
            "log_lines_dropped",
            help,
            None,
            MetricType::Counter,
        )?)?;
        Ok(())
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kib * 1024)
}

fn open_fds() -> Option<usize> {
    // One of them is this very look.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

fn cpu_seconds() -> Option<f64> {
    /// What Linux shows to programs, whatever its own clock: USER_HZ, 100 on every architecture that Rust's standard
    /// library supports.
    const TICKS_PER_SECOND: f64 = 100.0;

    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}
