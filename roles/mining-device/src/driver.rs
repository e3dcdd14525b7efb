//! The threads and tasks around the engine.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use adit_service::Context;
use adit_transport::{
    DialOptions, DialState, DialTarget, Hub, HubOptions, Protocol, TransportMetrics,
};
use anyhow::{Context as _, Result, bail};
use prometheus_client::metrics::counter::Counter;
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Upstream};
use crate::engine::{Device, Effect, Link, Outcome};
use crate::hasher::{Effort, Hasher};
use crate::report::Report;

/// Mines until the run is over or the process is told to stop.
///
/// # Errors
/// Where the run ended badly: the reason that `--strict` asks for, or too few shares before the end.
pub async fn run(config: Config, cx: Context) -> Result<()> {
    let upstream = config.upstream().map_err(anyhow::Error::msg).context("--connect")?;
    let (target, protocol) = match &upstream {
        Upstream::Sv2(url) => (DialTarget::from(url), Protocol::Noise),
        Upstream::Sv1 { host, port } => {
            (DialTarget { host: host.clone(), port: *port, authority_key: None }, Protocol::Lines)
        }
    };
    let metrics = cx.metrics.register(TransportMetrics::register);
    let counters = cx.metrics.register(Counters::register);
    let (connections_wanted, miners) = (config.connections as usize, config.miners());

    let hub_of_hasher: Arc<OnceLock<Hub<Device>>> = Arc::default();
    let effort = Effort { threads: config.threads.into(), hash_rate: config.hash_rate_of_miner() };
    let found = Arc::clone(&hub_of_hasher);
    let hasher = Hasher::start(miners, effort, move |find| {
        if let Some(hub) = found.get() {
            // Where the engine has failed the run ends by itself.
            let _ = hub.try_with(|device, _, out| device.found(&find, out));
        }
    })
    .context("starting the hashing threads")?;

    let (finished, mut outcomes) = mpsc::channel::<Outcome>(1);
    let slots = hasher.slots();
    let routes: Arc<[Mutex<Route>]> =
        (0..connections_wanted).map(|_| Mutex::new(Route::new(target.clone()))).collect();
    let redirected = Arc::clone(&routes);
    let on_effect = move |effect| match effect {
        Effect::Work(miner, work) => slots.set(miner, work),
        Effect::Redirect { connection, host, port } => {
            if let Some(route) = redirected.get(connection) {
                lock(route).redirect(host, port);
            }
        }
        // Only the first outcome counts, and the engine has only one.
        Effect::Finished(outcome) => drop(finished.try_send(outcome)),
    };
    let connections = CancellationToken::new();
    // Not the process's own signal: the engine has the last word before its connections end.
    let options = HubOptions { cancel: connections.clone(), ..HubOptions::default() };
    // Without randomness miners merely come together.
    let seed = OsRng.try_next_u64().unwrap_or_default();
    let device = Device::new(config.clone(), &upstream, Instant::now(), seed);
    let hub = Hub::new(device, on_effect, metrics, options);
    let _ = hub_of_hasher.set(hub.clone());

    let report = {
        let (hub, slots) = (hub.clone(), hasher.slots());
        move || -> Option<Report> {
            hub.try_with(|device, now, _| device.report(slots.hashes(), now.instant)).ok()
        }
    };
    let status = report.clone();
    cx.set_status(move || serde_json::to_value(status()).unwrap_or_default());

    let mut dialing = JoinSet::new();
    for connection in 0..connections_wanted {
        let told = hub.clone();
        let (asked, seen) = (Arc::clone(&routes), Arc::clone(&routes));
        dialing.spawn(hub.keep_dialed(
            Link(connection),
            protocol,
            move || lock(&asked[connection]).target.clone(),
            DialOptions::default(),
            connections.clone(),
            move |state| match state {
                DialState::Connected { .. } => lock(&seen[connection]).connected = true,
                // Of a connection that ended the engine has heard.
                DialState::Waiting { reason, .. } => {
                    if !lock(&seen[connection]).ended() {
                        let _ = told.try_with(|device, _, out| {
                            device.not_connected(connection, reason, out)
                        });
                    }
                }
            },
        ));
    }

    let mut looks = tokio::time::interval(LOOK);
    let outcome = loop {
        tokio::select! {
            Some(outcome) = outcomes.recv() => break outcome,
            () = cx.shutdown.cancelled() => {
                hub.with(|device, _, out| device.stop(out));
            }
            failed = hub.failed() => return Err(failed.into()),
            _ = looks.tick() => {
                let (mining, shares) = hub.with(|device, _, _| (device.mining(), device.shares()));
                counters.update(shares, hasher.slots().hashes());
                let missing = format!("{mining} of {miners} miners have work");
                cx.readiness.set("work", if mining == miners { Ok(()) } else { Err(missing) });
            }
        }
    };

    let last = report().context("the engine has failed")?;
    // What was said last, such as CloseChannel, is still delivered.
    connections.cancel();
    let _ = timeout(FAREWELL, dialing.join_all()).await;
    drop(hasher);
    if config.json {
        let mut line = serde_json::to_vec(&last)?;
        line.push(b'\n');
        std::io::stdout().write_all(&line).context("writing the report")?;
    }
    tracing::info!(
        shares_accepted = last.shares_accepted,
        shares_rejected = last.shares_rejected,
        hashrate = last.hashrate,
        "{}",
        outcome.reason
    );
    if !outcome.ok {
        bail!("{}", outcome.reason);
    }
    Ok(())
}

/// Where a connection goes to.
struct Route {
    /// As configured.
    home: DialTarget,
    /// Now: another host where the server asked to reconnect there, always under the same authority key.
    target: DialTarget,
    /// Whether `target` was reached since it was tried last.
    connected: bool,
}

impl Route {
    fn new(home: DialTarget) -> Self {
        Self { target: home.clone(), home, connected: false }
    }

    /// The server's `Reconnect` (spec 3.6.5). Without an authority key nobody could tell where the new host belongs, so
    /// it is not followed.
    fn redirect(&mut self, host: Option<String>, port: Option<u16>) {
        let present = &self.target;
        let target = DialTarget {
            host: host.unwrap_or_else(|| present.host.clone()),
            port: port.unwrap_or(present.port),
            authority_key: present.authority_key,
        };
        if target != self.target && self.home.authority_key.is_none() {
            tracing::warn!(%target, "not followed: the upstream's authority key is not configured");
            return;
        }
        self.target = target;
    }

    /// The connection ended or was not made; says whether it was. A host that cannot be reached is not insisted on.
    fn ended(&mut self) -> bool {
        let was_connected = std::mem::take(&mut self.connected);
        if !was_connected && self.target != self.home {
            tracing::warn!(target = %self.target, "back to the configured upstream");
            self.target = self.home.clone();
        }
        was_connected
    }
}

fn lock(route: &Mutex<Route>) -> MutexGuard<'_, Route> {
    // Nothing under it can be left half done.
    route.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two looks at how it is doing.
const LOOK: Duration = Duration::from_millis(100);
/// For closing connections in an orderly way.
const FAREWELL: Duration = Duration::from_secs(3);

/// `adit_mining_device_*`.
#[derive(Clone, Default)]
struct Counters {
    accepted: Counter,
    rejected: Counter,
    hashes: Counter,
}

impl Counters {
    fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
        let counters = Self::default();
        let registry = registry.sub_registry_with_prefix("mining_device");
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone())
        };
        add("shares_accepted", "Shares acknowledged", &counters.accepted);
        add("shares_rejected", "Shares rejected", &counters.rejected);
        add("hashes", "Hashes done", &counters.hashes);
        counters
    }

    fn update(&self, (accepted, rejected): (u64, u64), hashes: u64) {
        let set = |counter: &Counter, total: u64| {
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        set(&self.accepted, accepted);
        set(&self.rejected, rejected);
        set(&self.hashes, hashes);
    }
}

#[cfg(test)]
mod tests {
    use adit_sv2::keys::AuthoritySecretKey;

    use super::*;

    fn route(key: bool) -> Route {
        let key = key.then(|| AuthoritySecretKey::from_entropy([1; 32]).unwrap().public());
        Route::new(DialTarget { host: "home".into(), port: 1, authority_key: key })
    }

    #[test]
    fn a_redirection_is_followed_under_the_same_key() {
        let mut route = route(true);
        let key = route.home.authority_key;
        route.redirect(Some("away".into()), None);
        assert_eq!(route.target, DialTarget { host: "away".into(), port: 1, authority_key: key });
        route.redirect(None, Some(2));
        assert_eq!((&*route.target.host, route.target.port), ("away", 2));
        // Lost there: there again. Not reached there: home.
        route.connected = true;
        assert!(route.ended());
        assert_eq!(route.target.host, "away");
        assert!(!route.ended());
        assert_eq!(route.target, route.home);
    }

    #[test]
    fn without_a_key_nobody_is_sent_away() {
        let mut route = route(false);
        route.redirect(Some("away".into()), None);
        route.redirect(None, Some(2));
        route.redirect(None, None);
        assert_eq!(route.target, route.home);
    }
}
