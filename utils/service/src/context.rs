//! What a running role is given: the shutdown signal, and the places where it says how it is doing.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::reload::{Reload, Reloaded};

/// Shared by a role's tasks and by the pages about it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// Cancelled when the role is to stop. Children of it may be given to tasks.
    pub shutdown: CancellationToken,
    /// Metrics, served as `/metrics`.
    pub metrics: Metrics,
    /// What the role still waits for, served as `/readyz`.
    pub readiness: Readiness,
    role: &'static str,
    started: Instant,
    listeners: watch::Sender<BTreeMap<&'static str, SocketAddr>>,
    status: StatusSlot,
    pub(crate) reload: Reload,
}

type StatusFn = dyn Fn() -> Value + Send + Sync;

#[derive(Clone, Default)]
struct StatusSlot(Arc<RwLock<Option<Arc<StatusFn>>>>);

impl fmt::Debug for StatusSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusSlot")
    }
}

impl Context {
    /// A context of its own, not connected to any page; [`start`](crate::start) makes one for its role.
    pub fn new(role: &'static str) -> Self {
        let readiness = Readiness::default();
        Self {
            shutdown: CancellationToken::new(),
            metrics: Metrics::new(role, readiness.clone()),
            readiness,
            role,
            started: Instant::now(),
            listeners: watch::Sender::default(),
            status: StatusSlot::default(),
            reload: Reload::default(),
        }
    }

    /// Sets what `/status` shows under `state`. Called for each request: it must be quick and must not block.
    pub fn set_status(&self, status: impl Fn() -> Value + Send + Sync + 'static) {
        *self.status.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some(Arc::new(status));
    }

    /// Sets what is done with a configuration that has changed, `C` being the role's. It was checked as the first one was.
    /// For roles with [`Role::RELOADS`](crate::Role::RELOADS).
    pub fn on_reload<C: 'static>(&self, apply: impl Fn(C) -> Reloaded + Send + Sync + 'static) {
        self.reload.set_apply(apply);
    }

    /// Says where the role listens, by a short name such as `miners`: logged, shown in `/status`, and found by
    /// [`Handle::listener`](crate::Handle::listener).
    pub fn listening(&self, name: &'static str, addr: SocketAddr) {
        tracing::info!(name, %addr, "listening");
        self.listeners.send_modify(|listeners| {
            listeners.insert(name, addr);
        });
    }

    /// Waits for the shutdown beside a role's tasks, none of which ends before by itself.
    ///
    /// # Errors
    /// A task panicked or ended.
    pub async fn until_over(&self, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ended = tasks.join_next() => match ended {
                Some(Err(error)) => Err(error).context("a task failed"),
                _ if self.shutdown.is_cancelled() => Ok(()),
                _ => anyhow::bail!("a task ended"),
            },
        }
    }

    /// The address of a listener, as soon as there is one.
    pub(crate) async fn listener(&self, name: &str) -> SocketAddr {
        let mut listeners = self.listeners.subscribe();
        loop {
            if let Some(addr) = listeners.borrow_and_update().get(name) {
                return *addr;
            }
            // Cannot fail: `self` holds the sender.
            let _ = listeners.changed().await;
        }
    }

    /// The document of `/status`.
    pub(crate) fn status(&self) -> Value {
        let waiting = self.readiness.waiting();
        let status = self.status.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        json!({
            "role": self.role,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": waiting.is_empty(),
            "waiting_for": waiting,
            "listeners": *self.listeners.borrow(),
            "state": status.map_or(Value::Null, |status| status()),
        })
    }
}

/// Named conditions, all of which must hold for the role to count as ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<watch::Sender<BTreeMap<&'static str, Condition>>>,
}

#[derive(Debug, Clone)]
struct Condition {
    unmet: Option<String>,
    since: Instant,
    logged: Instant,
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The name of the condition.
    pub condition: &'static str,
    /// What is missing.
    pub reason: String,
    /// For how long it has not held, in seconds.
    pub seconds: u64,
}

impl Readiness {
    /// A reason that keeps changing, such as a progress, is logged no more often than this.
    const LOG_INTERVAL: Duration = Duration::from_secs(10);

    /// Says whether a condition holds, and if not, what is missing. Logged when it changes. Cheap when nothing changes.
    pub fn set(&self, condition: &'static str, state: Result<(), String>) {
        let unmet = state.err();
        self.conditions.send_if_modified(|conditions| {
            let now = Instant::now();
            let Some(known) = conditions.get_mut(condition) else {
                log_change(condition, unmet.as_deref());
                conditions.insert(condition, Condition { unmet, since: now, logged: now });
                return true;
            };
            if known.unmet == unmet {
                return false;
            }
            let turned = known.unmet.is_some() != unmet.is_some();
            if turned {
                known.since = now;
            }
            if turned || now.duration_since(known.logged) >= Self::LOG_INTERVAL {
                log_change(condition, unmet.as_deref());
                known.logged = now;
            }
            known.unmet = unmet;
            true
        });
    }

    /// The condition holds.
    pub fn ok(&self, condition: &'static str) {
        self.set(condition, Ok(()));
    }

    /// The condition does not hold, for this reason.
    pub fn waiting_for(&self, condition: &'static str, reason: impl Into<String>) {
        self.set(condition, Err(reason.into()));
    }

    /// The conditions that do not hold, by name. Empty: the role is ready.
    pub fn waiting(&self) -> Vec<Waiting> {
        let conditions = self.conditions.borrow();
        if conditions.is_empty() {
            return vec![Waiting { condition: "start", reason: "starting".to_owned(), seconds: 0 }];
        }
        let unmet = conditions.iter().filter_map(|(name, condition)| {
            let reason = condition.unmet.clone()?;
            Some(Waiting { condition: name, reason, seconds: condition.since.elapsed().as_secs() })
        });
        unmet.collect()
    }

    /// Whether every condition holds, of which there must be one.
    pub fn is_ready(&self) -> bool {
        is_ready(&self.conditions.borrow())
    }

    /// Returns once the role is ready.
    pub async fn ready(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.conditions.subscribe().wait_for(is_ready).await;
    }
}

fn is_ready(conditions: &BTreeMap<&'static str, Condition>) -> bool {
    !conditions.is_empty() && conditions.values().all(|condition| condition.unmet.is_none())
}

fn log_change(condition: &str, unmet: Option<&str>) {
    match unmet {
        None => tracing::info!(condition, "ready"),
        Some(reason) => tracing::warn!(condition, reason, "not ready"),
    }
}
