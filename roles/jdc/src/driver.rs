//! The job declarator client as a program: the engine between sockets, the folder of blocks and the pages about it.

use std::sync::Arc;
use std::time::Duration;

use adit_service::{ConfigError, Context, Role};
use adit_sv2::noise::Validity;
use adit_transport::{
    AddressLimits, ConnectionLimits, DialOptions, DialState, DialTarget, Hub, HubOptions,
    ListenLimits, NoiseServer, Protocol, TransportMetrics,
};
use anyhow::Context as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EXAMPLE, Listen, Mode};
use crate::engine::{Effect, JdcEngine, Link};
use crate::metrics::{Metrics, Summary};
use crate::store::Folder;

/// The role, for the binary and for programs that run a job declarator client inside.
#[derive(Debug)]
pub struct Jdc;

/// How often the log tells how it goes.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// How often readiness is asked for.
const READINESS_INTERVAL: Duration = Duration::from_millis(200);
/// Certificates are valid from so long before they are made, in seconds: for miners whose clock is behind.
const CERTIFICATE_BACKDATE: u32 = 300;
/// Bytes of the largest frame that a miner sends: a list of extensions.
const MINER_PAYLOAD: usize = 140_000;
/// Bytes of the largest frame that a pool sends: a job with two coinbase parts of 64 KiB.
const POOL_PAYLOAD: usize = 160_000;
/// Kept for a pool that does not read: thousands of shares.
const POOL_SPILL: usize = 4 << 20;

impl Role for Jdc {
    const NAME: &'static str = "jdc";
    const ABOUT: &'static str = "Job Declarator Client: own blocks, paid by a pool";
    const EXAMPLE: &'static str = EXAMPLE;
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }
}

/// Blocks that may wait for the disk, about 1 KB each.
const MAX_ORDERS: usize = 1_024;

/// Works until `cx.shutdown`. The readiness conditions are `template` and `upstream`; the listener is named `miners`.
///
/// # Errors
/// The folder of blocks cannot be used, the address cannot be listened on, or the engine failed.
pub async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let transport = cx.metrics.register(TransportMetrics::register);

    let path = config.blocks.path.to_path_buf();
    let (folder, pending, past) = tokio::task::spawn_blocking(move || {
        let folder = Folder::open(&path)?;
        let (pending, past) = (folder.pending()?, folder.past());
        anyhow::Ok((folder, pending, past))
    })
    .await?
    .context("blocks.path")?;
    if !pending.is_empty() {
        tracing::info!(blocks = pending.len(), "blocks of former runs are submitted again");
    }
    let mut entropy = [0; 4];
    getrandom::fill(&mut entropy).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let mut engine = JdcEngine::new(&config, metrics.clone(), pending.clone(), entropy)?;
    engine.recall(past, &pending);

    // Blocks are rare, and each is to be written. Beyond this many the disk hangs: blocks are submitted all the same, and
    // only not kept for another run.
    let (to_folder, orders) = mpsc::channel(MAX_ORDERS);
    let on_effect = {
        let metrics = metrics.clone();
        move |effect| match effect {
            Effect::FannedOut(since) => metrics.fanned_out(since.elapsed()),
            // Its receiver lives as long as the role.
            order => {
                if to_folder.try_send(order).is_err() {
                    tracing::error!("what was found is not kept: too much waits for the disk");
                }
            }
        }
    };
    // Ends last: connections are closed by the tokens of their listeners and dialers.
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let options = HubOptions { cancel: end, ..HubOptions::default() };
    let hub = Hub::new(engine, on_effect, transport, options);
    let status = hub.clone();
    cx.set_status(move || {
        status.try_with(|engine, now, _| engine.status(now)).unwrap_or(Value::Null)
    });

    let listener = TcpListener::bind(config.listen.address)
        .await
        .with_context(|| format!("listen.address: cannot listen on {}", config.listen.address))?;
    let validity = Validity {
        seconds: config.authority.cert_validity_hours * 3_600,
        backdate: CERTIFICATE_BACKDATE,
    };
    let server = Arc::new(NoiseServer::new(config.authority.load()?, validity)?);
    let solo = config.payout()?.map(|payout| payout.describe(config.network.into()));
    tracing::info!(solo, authority_key = %server.authority(), "miners connect with this authority key");
    cx.listening("miners", listener.local_addr()?);

    let mut tasks = JoinSet::new();
    let quiet = CancellationToken::new();
    let blocks = tokio::spawn(keep_blocks(folder, orders, quiet.clone()));
    dial_all(&config, &hub, &cx, &mut tasks)?;
    let limits = listen_limits(&config.listen);
    tasks.spawn(hub.serve_noise(listener, Link::Miner, server, limits, cx.shutdown.clone()));
    tasks.spawn(watch(hub.clone(), metrics, cx.clone()));

    tokio::select! {
        () = cx.shutdown.cancelled() => {}
        failed = hub.failed() => return Err(failed.into()),
    }
    while let Some(joined) = tasks.join_next().await {
        joined?;
    }
    // No connection is left to find a block on.
    let _ = hub.try_with(|engine, _, out| engine.remember(out));
    quiet.cancel();
    Ok(blocks.await?)
}

/// Writes and forgets blocks, in order, until there is quiet and nothing left to do.
async fn keep_blocks(folder: Folder, mut orders: mpsc::Receiver<Effect>, quiet: CancellationToken) {
    loop {
        let order = tokio::select! {
            biased;
            order = orders.recv() => order,
            () = quiet.cancelled() => None,
        };
        let Some(order) = order else { return };
        let folder = folder.clone();
        let done = tokio::task::spawn_blocking(move || match order {
            Effect::Keep(block) => folder.keep(&block),
            Effect::Settled(hash) => folder.forget(&hash),
            Effect::Remember(past) => folder.remember(&past),
            Effect::FannedOut(_) => Ok(()),
        });
        if let Ok(Err(error)) = done.await {
            tracing::error!(%error, "blocks.path: what was found would not survive our end now");
        }
    }
}

fn dial_all(
    config: &Config,
    hub: &Hub<JdcEngine>,
    cx: &Context,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let unproven = |url: &adit_sv2::keys::Sv2Url| {
        if url.authority.is_none() {
            tracing::warn!(%url, "no authority key: anybody could answer in its place");
        }
    };
    for (index, provider) in config.template_provider.iter().enumerate() {
        let url = provider.url().map_err(anyhow::Error::msg)?;
        unproven(&url);
        let target = DialTarget::from(&url);
        let link = Link::TemplateProvider(index);
        tasks.spawn(keep(hub, link, move || target.clone(), ConnectionLimits::bulk(), cx));
    }
    if config.mode == Mode::Solo {
        return Ok(());
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        unproven(&upstream.pool);
        unproven(&upstream.jds);
        let jds = DialTarget::from(&upstream.jds);
        tasks.spawn(keep(hub, Link::Jds(index), move || jds.clone(), ConnectionLimits::bulk(), cx));
        let limits = ConnectionLimits {
            max_payload: POOL_PAYLOAD,
            spill_bytes: POOL_SPILL,
            ..ConnectionLimits::default()
        };
        let (asked, configured) = (hub.clone(), DialTarget::from(&upstream.pool));
        // Where the engine has failed, the hub ends the dialling.
        let target = move || {
            let target = asked.try_with(|engine, _, _| engine.pool_target(index)).ok().flatten();
            target.unwrap_or_else(|| configured.clone())
        };
        tasks.spawn(keep(hub, Link::Pool(index), target, limits, cx));
    }
    Ok(())
}

fn keep<T: FnMut() -> DialTarget + Send + 'static>(
    hub: &Hub<JdcEngine>,
    link: Link,
    target: T,
    connection: ConnectionLimits,
    cx: &Context,
) -> impl Future<Output = ()> + Send + use<T> {
    let options = DialOptions { connection, ..DialOptions::default() };
    let told = hub.clone();
    let on_state = move |state: DialState<'_>| {
        if let DialState::Waiting { reason, .. } = state {
            let _ = told.try_with(|engine, _, _| engine.unreachable(link, reason));
        }
    };
    hub.keep_dialed(link, Protocol::Noise, target, options, cx.shutdown.clone(), on_state)
}

/// Says what is waited for, and once a minute how it goes.
async fn watch(hub: Hub<JdcEngine>, metrics: Metrics, cx: Context) {
    let mut last = Summary::default();
    let mut looks = interval(READINESS_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut summaries = interval(SUMMARY_INTERVAL);
    summaries.reset();
    loop {
        tokio::select! {
            () = cx.shutdown.cancelled() => return,
            _ = looks.tick() => {
                let Ok(readiness) = hub.try_with(|engine, _, _| engine.readiness()) else { return };
                cx.readiness.set("template", readiness.template);
                cx.readiness.set("upstream", readiness.upstream);
            }
            _ = summaries.tick() => {
                let Ok((connections, channels)) = hub.try_with(|engine, _, _| engine.counts()) else { return };
                let total = metrics.summary();
                tracing::info!(
                    connections,
                    channels,
                    accepted = total.accepted - last.accepted,
                    rejected = total.rejected - last.rejected,
                    sent = total.sent - last.sent,
                    blocks = total.blocks - last.blocks,
                    "last minute"
                );
                last = total;
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
        connection: ConnectionLimits { max_payload: MINER_PAYLOAD, ..limits.connection },
        ..limits
    }
}
