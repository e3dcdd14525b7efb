//! The translator as a program: the engine between sockets and the pages about it.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_service::clap::{ArgMatches, Command};
use adit_service::{ConfigError, Context, Role};
use adit_transport::{
    AddressLimits, ConnectionLimits, DialOptions, Hub, HubOptions, LineOptions, ListenLimits, Now,
    TransportMetrics,
};
use anyhow::{Context as _, Error};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::auth::{Verifier, hash_password};
use crate::config::{Config, EXAMPLE, Listen};
use crate::engine::{Dial, DialId, Effect, Link, Login, TranslatorEngine};
use crate::metrics::Metrics;

/// The role, for the binary and for programs that run a translator inside.
#[derive(Debug)]
pub struct TranslatorRole;

/// For an upstream to be reached, before the next is tried.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Connections that wait to be taken in; the kernel takes the lower of this and its own limit, mostly 4,096.
const BACKLOG: u32 = 16_384;
/// How often readiness is asked for.
const READINESS_INTERVAL: Duration = Duration::from_millis(200);
/// Between two measurements of hashrates.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two summaries in the log.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// Kept for an upstream that does not read: what thousands of miners say when it comes back.
const UPSTREAM_SPILL: usize = 4 << 20;
/// Kept for a miner that does not read: dozens of jobs, all but the last of no use.
const MINER_SPILL: usize = 64 << 10;
/// Bytes of the largest frame that an upstream sends: a job with two coinbase parts of 64 KiB.
const MAX_PAYLOAD: usize = 160_000;

impl Role for TranslatorRole {
    const NAME: &'static str = "translator";
    const ABOUT: &'static str = "Stratum V1 miners in, Stratum V2 extended channels out";
    const EXAMPLE: &'static str = EXAMPLE;
    const RELOADS: bool = true;
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }

    fn extra_commands() -> Vec<Command> {
        let about = "Hash a password, read from standard input, for [auth.users]";
        vec![Command::new("hash-password").about(about)]
    }

    async fn run_extra(name: &str, _: &ArgMatches) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(name == "hash-password", "no command `{name}`");
        let mut password = String::new();
        std::io::stdin().read_line(&mut password)?;
        let hash = hash_password(password.trim_end_matches(['\r', '\n'])).map_err(Error::msg)?;
        writeln!(std::io::stdout(), "{hash}")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Attempts that may wait for the one under way. The engine makes one at a time and waits for what becomes of it; only a
/// configuration that changes meanwhile begins another.
const MAX_DIALS: usize = 16;

/// Works until `cx.shutdown`. The readiness condition is `upstream`; listeners have their configured names, the first
/// `miners` where it has none.
///
/// # Errors
/// An address cannot be listened on, or the engine failed.
pub async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let transport = cx.metrics.register(TransportMetrics::register);

    let verifier = Verifier::new(&config.auth.users)?;
    let users = verifier.clone();
    // The hub owns what is done about effects, and that needs the hub.
    let later: Arc<Mutex<Option<Hub<TranslatorEngine>>>> = Arc::default();
    let (dials, mut wanted) = mpsc::channel(MAX_DIALS);
    let on_effect = {
        let (metrics, later) = (metrics.clone(), later.clone());
        move |effect| match effect {
            Effect::FannedOut(since) => metrics.fanned_out(since.elapsed()),
            Effect::Verify(login) => {
                // One for each connection at most: until it is answered a miner is not listened to.
                let hub = later.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tokio::spawn(verify(login, verifier.clone(), hub));
            }
            Effect::Dial(dial) => {
                if let Err(error) = dials.try_send(dial) {
                    // The engine waits for what becomes of it, and is not to be entered from here.
                    let hub = later.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    tokio::spawn(not_dialled(error.into_inner().id, hub));
                }
            }
        }
    };
    // Ends last: connections are closed by the tokens of their listeners and of the dialer.
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let mut entropy = [0; 8];
    // Without it translators merely come all at once.
    let _ = getrandom::fill(&mut entropy);
    let entropy = u64::from_ne_bytes(entropy);
    let engine = TranslatorEngine::new(&config, metrics.clone(), Now::read(), entropy);
    let options = HubOptions { cancel: end, ..HubOptions::default() };
    let hub = Hub::new(engine, on_effect, transport, options);
    *later.lock().unwrap_or_else(PoisonError::into_inner) = Some(hub.clone());
    let status = hub.clone();
    cx.set_status(move || {
        status.try_with(|engine, now, _| engine.status(now)).unwrap_or(Value::Null)
    });

    let mut tasks = JoinSet::new();
    let mut certificates = Vec::new();
    for (index, listen) in config.listen.iter().enumerate() {
        let address = listen.address;
        let listener = listen_on(address)
            .with_context(|| format!("listen[{index}].address: cannot listen on {address}"))?;
        let name = listen.label(index);
        // As many as the configuration has, once for a run.
        cx.listening(String::leak(name.clone()), listener.local_addr()?);
        let tls = listen.tls(index)?.map(Arc::new);
        certificates.extend(tls.clone().map(|server| (index, listen.clone(), server)));
        let options = LineOptions {
            // The one that everybody has is simply that of the miners.
            label: Some(match (index, &listen.name) {
                (0, None) => "Miner".to_owned(),
                _ => format!("Miner:{name}"),
            }),
            tls,
            proxies: listen.proxy_protocol.then(|| listen.trusted_proxies.clone().into()),
        };
        let (link, limits) = (Link::Miner(index as u8), listen_limits(listen));
        tasks.spawn(hub.serve_lines_with(listener, link, options, limits, cx.shutdown.clone()));
    }
    let (reloaded, running) = (hub.clone(), Mutex::new(config.clone()));
    cx.on_reload(move |new: Config| {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = running.take_in(&new);
        users.set_users(&running.auth.users);
        // Certificates are renewed under the same names.
        for (index, listen, server) in &certificates {
            if let Err(error) = listen.renew_tls(*index, server) {
                tracing::warn!(%error, "the certificate there was is shown on");
            }
        }
        let _ = reloaded.try_with(|engine, now, out| engine.reload(&running, now, out));
        changes
    });
    for upstream in config.upstream.iter().filter(|upstream| upstream.url.authority.is_none()) {
        tracing::warn!(url = %upstream.url, "no authority key: anybody could answer in its place");
    }
    let (dialler, stop) = (hub.clone(), cx.shutdown.clone());
    tasks.spawn(async move {
        while let Some(Some(wanted)) = stop.run_until_cancelled(wanted.recv()).await {
            let _ = stop.run_until_cancelled(dial(&dialler, wanted)).await;
        }
    });
    tasks.spawn(watch(hub.clone(), metrics, config.miners.worker_metrics, cx.clone()));

    let failed = hub.failed();
    let ended = tokio::select! {
        () = cx.shutdown.cancelled() => Ok(()),
        failed = failed => Err(failed),
    };
    *later.lock().unwrap_or_else(PoisonError::into_inner) = None;
    ended?;
    let _ = hub.try_with(|engine, _, out| engine.close_upstreams(out));
    while let Some(joined) = tasks.join_next().await {
        joined?;
    }
    Ok(())
}

/// Verifies what a miner says, and tells the engine.
async fn verify(login: Login, verifier: Verifier, hub: Option<Hub<TranslatorEngine>>) {
    let verdict = verifier.verify(&login.user, &login.password).await;
    if let Some(hub) = hub {
        let _ = hub.try_with(|engine, now, out| engine.verified(login.peer, verdict, now, out));
    }
}

/// Too many attempts wait already.
async fn not_dialled(id: DialId, hub: Option<Hub<TranslatorEngine>>) {
    tracing::error!("an upstream is not dialled: too many attempts wait");
    if let Some(hub) = hub {
        let reason = "too many attempts wait";
        let _ = hub.try_with(|engine, now, _| engine.dial_failed(id, reason, now));
    }
}

/// Connects where the engine wants it, one attempt after the other.
async fn dial(hub: &Hub<TranslatorEngine>, dial: Dial) {
    let connection = ConnectionLimits {
        max_payload: MAX_PAYLOAD,
        spill_bytes: UPSTREAM_SPILL,
        ..ConnectionLimits::default()
    };
    let options = DialOptions { connection, connect_time: CONNECT_TIME, ..DialOptions::default() };
    let Dial { id, target } = dial;
    if let Err(error) = hub.dial_noise(Link::Upstream(id), target, options).await {
        let _ = hub.try_with(|engine, now, _| engine.dial_failed(id, &error.to_string(), now));
    }
}

/// Says what the translator waits for, and once a minute how it does.
async fn watch(hub: Hub<TranslatorEngine>, metrics: Metrics, workers: usize, cx: Context) {
    let mut measures = interval(MEASURE_INTERVAL);
    measures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval(READINESS_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut summaries = interval(SUMMARY_INTERVAL);
    summaries.reset();
    loop {
        tokio::select! {
            () = cx.shutdown.cancelled() => return,
            _ = looks.tick() => {
                let Ok(upstream) = hub.try_with(|engine, _, _| engine.readiness()) else { return };
                cx.readiness.set("upstream", upstream);
            }
            _ = measures.tick() => {
                let rates = hub.try_with(|engine, now, _| engine.hash_rates(workers, now));
                let Ok((all, users)) = rates else { return };
                metrics.hash_rates(all, &users);
            }
            _ = summaries.tick() => {
                let totals = metrics.totals();
                let Ok(miners) = hub.try_with(|engine, _, _| engine.miner_count()) else { return };
                tracing::info!(
                    miners,
                    accepted = totals.accepted,
                    rejected = totals.rejected,
                    sent = totals.sent,
                    upstream_accepted = totals.upstream_accepted,
                    upstream_rejected = totals.upstream_rejected,
                    blocks = totals.blocks,
                    "shares so far"
                );
            }
        }
    }
}

/// A listener with a long queue: when a farm has its power back, thousands of devices connect at once, and each one that
/// finds the queue full tries again a second later.
fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As `TcpListener::bind` does.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen_limits(listen: &Listen) -> ListenLimits {
    let limits = ListenLimits::default();
    let everyone = u32::try_from(listen.max_connections).unwrap_or(u32::MAX);
    let address = AddressLimits {
        connections: listen.max_connections_per_address,
        burst: listen.connection_burst_per_address,
        per_second: listen.connections_per_second_per_address,
    };
    let loopback = AddressLimits { connections: everyone, ..limits.loopback };
    ListenLimits {
        max_connections: listen.max_connections,
        address,
        loopback: if listen.limit_loopback { address } else { loopback },
        ban: Duration::from_secs(listen.ban_seconds),
        connection: ConnectionLimits {
            spill_bytes: MINER_SPILL,
            keepalive: Duration::from_secs(listen.tcp_keepalive_seconds),
            ..limits.connection
        },
        ..limits
    }
}
