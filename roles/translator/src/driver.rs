//! The translator as a program: the engine between sockets and the pages about it.

use std::time::Duration;

use adit_service::{ConfigError, Context, Role};
use adit_transport::{
    AddressLimits, ConnectionLimits, DialOptions, DialState, Hub, HubOptions, ListenLimits,
    Protocol, TransportMetrics,
};
use anyhow::Context as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EXAMPLE, Listen};
use crate::engine::{Effect, Link, TranslatorEngine};
use crate::metrics::Metrics;

/// The role, for the binary and for programs that run a translator inside.
#[derive(Debug)]
pub struct TranslatorRole;

/// How often readiness is asked for.
const READINESS_INTERVAL: Duration = Duration::from_millis(200);
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
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }
}

/// Works until `cx.shutdown`. The readiness condition is `upstream`; the first listener is named `miners`.
///
/// # Errors
/// An address cannot be listened on, or the engine failed.
pub async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let transport = cx.metrics.register(TransportMetrics::register);

    let on_effect = {
        let metrics = metrics.clone();
        move |Effect::FannedOut(since)| metrics.fanned_out(since.elapsed())
    };
    // Ends last: connections are closed by the tokens of their listeners and of the dialer.
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let engine = TranslatorEngine::new(&config, metrics.clone());
    let options = HubOptions { cancel: end, ..HubOptions::default() };
    let hub = Hub::new(engine, on_effect, transport, options);
    let status = hub.clone();
    cx.set_status(move || {
        status.try_with(|engine, now, _| engine.status(now)).unwrap_or(Value::Null)
    });

    let mut tasks = JoinSet::new();
    for (index, listen) in config.listen.iter().enumerate() {
        let address = listen.address;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen[{index}].address: cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        if index == 0 {
            cx.listening("miners", address);
        } else {
            tracing::info!(%address, "listening for miners as well");
        }
        let limits = listen_limits(listen);
        tasks.spawn(hub.serve_lines(listener, Link::Miner, limits, cx.shutdown.clone()));
    }
    for upstream in config.upstream.iter().filter(|upstream| upstream.url.authority.is_none()) {
        tracing::warn!(url = %upstream.url, "no authority key: anybody could answer in its place");
    }
    tasks.spawn(keep_upstream(&hub, &cx));
    tasks.spawn(watch(hub.clone(), metrics, cx.clone()));

    let failed = hub.failed();
    tokio::select! {
        () = cx.shutdown.cancelled() => {}
        failed = failed => return Err(failed.into()),
    }
    while let Some(joined) = tasks.join_next().await {
        joined?;
    }
    Ok(())
}

fn keep_upstream(
    hub: &Hub<TranslatorEngine>,
    cx: &Context,
) -> impl Future<Output = ()> + Send + use<> {
    let connection = ConnectionLimits {
        max_payload: MAX_PAYLOAD,
        spill_bytes: UPSTREAM_SPILL,
        ..ConnectionLimits::default()
    };
    let options = DialOptions { connection, ..DialOptions::default() };
    let (targets, told) = (hub.clone(), hub.clone());
    let mut last = None;
    hub.keep_dialed(
        Link::Upstream,
        Protocol::Noise,
        // Where the engine has failed, the hub ends the dialling.
        move || {
            let target = targets.try_with(|engine, _, _| engine.next_target()).ok();
            last = target.or(last.take());
            last.clone().expect("asked for the first time right after the engine began")
        },
        options,
        cx.shutdown.clone(),
        move |state| {
            if let DialState::Waiting { reason, .. } = state {
                let _ = told.try_with(|engine, _, _| engine.unreachable(reason));
            }
        },
    )
}

/// Says what the translator waits for, and once a minute how it does.
async fn watch(hub: Hub<TranslatorEngine>, metrics: Metrics, cx: Context) {
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

fn listen_limits(listen: &Listen) -> ListenLimits {
    let limits = ListenLimits::default();
    let everyone = u32::try_from(listen.max_connections).unwrap_or(u32::MAX);
    ListenLimits {
        max_connections: listen.max_connections,
        address: AddressLimits {
            connections: listen.max_connections_per_address,
            ..limits.address
        },
        loopback: AddressLimits { connections: everyone, ..limits.loopback },
        connection: ConnectionLimits { spill_bytes: MINER_SPILL, ..limits.connection },
        ..limits
    }
}
