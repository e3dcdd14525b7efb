//! The pool as a program: the engine between sockets, the store and the pages about it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use adit_service::{ConfigError, Context, Role};
use adit_sv2::noise::Validity;
use adit_transport::{
    AddressLimits, ConnectionLimits, DialOptions, DialState, DialTarget, Hub, HubOptions,
    ListenLimits, NoiseServer, Protocol, TransportMetrics,
};
use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EXAMPLE, Listen};
use crate::engine::{Effect, Link, PoolEngine};
use crate::metrics::{Metrics, Summary};
use crate::store::{self, JobOrigin, Progress, Queue, Store, StoreError};

/// The role, for the binary and for programs that run a pool inside.
#[derive(Debug)]
pub struct Pool;

/// How often the log tells how it goes.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// How often readiness is asked for.
const READINESS_INTERVAL: Duration = Duration::from_millis(200);
/// How often a pool that sends its miners away looks whether they are gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Blocks and workers that `/status` lists.
const MAX_SHOWN: usize = 100;
/// How often the totals of `/status` are read from the store at most: with many workers that takes a while.
const TOTALS_AGE: Duration = Duration::from_secs(1);
/// How often the engine is asked about all channels at most: it does nothing else meanwhile.
const STATUS_AGE: Duration = Duration::from_millis(250);
/// Certificates are valid from so long before they are made, in seconds: for clients whose clock is behind.
const CERTIFICATE_BACKDATE: u32 = 300;

impl Role for Pool {
    const NAME: &'static str = "pool";
    const ABOUT: &'static str = "Stratum V2 pool";
    const EXAMPLE: &'static str = EXAMPLE;
    const RELOADS: bool = true;
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }
}

/// Works until `cx.shutdown`. The readiness conditions are `template provider`, `template` and `store`; the listener is
/// named `miners`.
///
/// # Errors
/// The store cannot be opened, the address cannot be listened on, or the engine failed.
pub async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let transport = cx.metrics.register(TransportMetrics::register);

    let path = config.store.path.to_path_buf();
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await??;
    let pending = store.pending_blocks()?;
    if !pending.is_empty() {
        tracing::info!(blocks = pending.len(), "blocks of former runs are submitted again");
    }
    let store = Arc::new(store);
    let queue = Arc::new(Queue::default());

    let run = store.begin_run()?;
    let engine = PoolEngine::new(&config, metrics.clone(), pending, run)?;
    let fan_outs = Arc::new(FanOuts::default());
    let on_effect = {
        let (queue, metrics, fan_outs) = (queue.clone(), metrics.clone(), fan_outs.clone());
        move |effect| match effect {
            Effect::Store(record) => {
                if !queue.push(record) {
                    metrics.reject_not_stored();
                }
            }
            Effect::FannedOut(since) => {
                let took = since.elapsed();
                metrics.fanned_out(took);
                fan_outs.add(took);
            }
        }
    };
    let mut drain = unix::signal(unix::SignalKind::user_defined1())?;
    let mut renew = unix::signal(unix::SignalKind::user_defined2())?;
    // Ends last: connections are closed by the tokens of their listeners and dialers.
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let hub =
        Hub::new(engine, on_effect, transport, HubOptions { cancel: end, ..HubOptions::default() });
    let writer = spawn_writer(&store, &queue, &hub, &metrics, &cx)?;

    let listener = TcpListener::bind(config.listen.address)
        .await
        .with_context(|| format!("listen.address: cannot listen on {}", config.listen.address))?;
    let validity = Validity {
        seconds: config.authority.cert_validity_hours * 3_600,
        backdate: CERTIFICATE_BACKDATE,
    };
    let server = Arc::new(NoiseServer::new(config.authority.load()?, validity)?);
    let payout = config.payout()?.describe(config.network.into());
    tracing::info!(payout, authority_key = %server.authority(), "miners connect with this authority key");
    cx.listening("miners", listener.local_addr()?);
    let about = About { payout, authority_key: server.authority().to_string(), fan_outs };
    set_status(&cx, &hub, &store, about);

    let running = Arc::new(Mutex::new(config.clone()));
    cx.on_reload({
        let (hub, running) = (hub.clone(), running.clone());
        move |new: Config| {
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            let changes = running.take_in(&new);
            // An engine that failed takes nothing in, and the pool ends.
            let _ = hub.try_with(|engine, _, out| engine.reload(&running, out));
            changes
        }
    });
    // Ends after `cx.shutdown` where miners are sent elsewhere first.
    let serving = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for (index, provider) in config.template_provider.iter().enumerate() {
        let url = provider.url().map_err(anyhow::Error::msg)?;
        if url.authority.is_none() {
            tracing::warn!(
                provider = provider.address,
                "no authority_key: anybody could answer in its place"
            );
        }
        tasks.spawn(keep_provider(hub.clone(), index, DialTarget::from(&url), serving.clone()));
    }
    let limits = listen_limits(&config.listen);
    tasks.spawn(hub.serve_noise(listener, Link::Miner, server, limits, serving.clone()));
    tasks.spawn(watch(hub.clone(), metrics, cx.clone()));

    loop {
        tokio::select! {
            () = cx.shutdown.cancelled() => break,
            failed = hub.failed() => return Err(failed.into()),
            () = writer.ended.cancelled() => return Err(writer_ended()),
            _ = drain.recv() => hub.try_with(|engine, _, _| engine.drain())?,
            _ = renew.recv() => {
                hub.try_with(|engine, _, out| engine.renew_prefixes(None, out))?;
            }
        }
    }
    let drain = running.lock().unwrap_or_else(PoisonError::into_inner).drain.clone();
    if drain.at_the_end() {
        send_miners_away(&hub, Duration::from_secs(drain.seconds)).await?;
    }
    serving.cancel();
    while let Some(joined) = tasks.join_next().await {
        joined?;
    }
    if writer.ended.is_cancelled() { Err(writer_ended()) } else { Ok(()) }
}

fn writer_ended() -> anyhow::Error {
    anyhow::anyhow!("the thread that stores shares has ended")
}

/// Sends every miner to the place of `[drain]` and serves them until they are gone, but no longer than this.
async fn send_miners_away(hub: &Hub<PoolEngine>, at_most: Duration) -> anyhow::Result<()> {
    hub.try_with(|engine, _, _| engine.drain())?;
    let gone = async {
        while !hub.try_with(|engine, _, _| engine.is_drained())? {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        anyhow::Ok(())
    };
    match timeout(at_most, gone).await {
        Ok(gone) => gone,
        Err(_) => {
            let (connections, _) = hub.try_with(|engine, _, _| engine.counts())?;
            tracing::info!(connections, "miners that did not go are left");
            Ok(())
        }
    }
}

/// The thread that stores, and what it reports.
fn spawn_writer(
    store: &Arc<Store>,
    queue: &Arc<Queue>,
    hub: &Hub<PoolEngine>,
    metrics: &Metrics,
    cx: &Context,
) -> anyhow::Result<Writer> {
    let (hub, metrics, readiness) = (hub.clone(), metrics.clone(), cx.readiness.clone());
    readiness.ok("store");
    let report = move |progress: Progress<'_>| match progress {
        Progress::Stored { shares, blocks, took } => {
            metrics.committed(took);
            readiness.ok("store");
            // An engine that failed has nobody to tell.
            let _ = hub.try_with(|engine, now, out| engine.stored(shares, blocks, now, out));
        }
        Progress::Failing(error) => readiness.waiting_for("store", error.to_string()),
    };
    Ok(Writer::start(store, queue, report)?)
}

/// The thread that stores. Dropped, it stores what there is before that returns, also where the pool ends with an error.
struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
    /// It is gone: nothing is acknowledged any more, and no block is stored.
    ended: CancellationToken,
}

impl Writer {
    fn start(
        store: &Arc<Store>,
        queue: &Arc<Queue>,
        mut report: impl FnMut(Progress<'_>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let ended = CancellationToken::new();
        // Goes with the thread, whatever ends that.
        let guard = ended.clone().drop_guard();
        let report = move |progress: Progress<'_>| {
            let _guard = &guard;
            report(progress);
        };
        let thread = store::spawn(store.clone(), queue.clone(), report)?;
        Ok(Self { queue: queue.clone(), thread: Some(thread), ended })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that stores shares has failed");
        }
    }
}

fn keep_provider(
    hub: Hub<PoolEngine>,
    index: usize,
    target: DialTarget,
    serving: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let options = DialOptions { connection: ConnectionLimits::bulk(), ..DialOptions::default() };
    let link = Link::TemplateProvider(index);
    let on_state = {
        let hub = hub.clone();
        move |state: DialState<'_>| {
            if let DialState::Waiting { reason, .. } = state {
                let _ = hub
                    .try_with(|engine, _, _| engine.provider_unreachable(index, reason.to_owned()));
            }
        }
    };
    hub.keep_dialed(link, Protocol::Noise, move || target.clone(), options, serving, on_state)
}

/// Says what the pool waits for, and once a minute how it goes.
async fn watch(hub: Hub<PoolEngine>, metrics: Metrics, cx: Context) {
    let mut summary = Summary::default();
    let mut next_summary = tokio::time::Instant::now() + SUMMARY_INTERVAL;
    let mut interval = interval(READINESS_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cx.shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        let Ok((readiness, counts)) =
            hub.try_with(|engine, _, _| (engine.readiness(), engine.counts()))
        else {
            return;
        };
        cx.readiness.set("template provider", readiness.template_provider);
        cx.readiness.set("template", readiness.template);
        cx.readiness.set("drain", readiness.drain);
        if next_summary <= tokio::time::Instant::now() {
            next_summary += SUMMARY_INTERVAL;
            let last = std::mem::replace(&mut summary, metrics.summary());
            let Summary { accepted, rejected, blocks } = summary;
            let (accepted, rejected) = (accepted - last.accepted, rejected - last.rejected);
            let (connections, channels) = counts;
            tracing::info!(
                connections,
                channels,
                accepted,
                rejected,
                blocks = blocks - last.blocks,
                "last minute"
            );
        }
    }
}

/// What `/status` says beside what engine and store know.
struct About {
    payout: String,
    authority_key: String,
    fan_outs: Arc<FanOuts>,
}

/// New previous hashes on their way to the miners.
#[derive(Debug, Default)]
struct FanOuts {
    count: AtomicU64,
    last_us: AtomicU64,
}

impl FanOuts {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last_us.store(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn status(&self) -> Value {
        let count = self.count.load(Ordering::Relaxed);
        let last_ms = self.last_us.load(Ordering::Relaxed) as f64 / 1_000.0;
        json!({ "count": count, "last_ms": (count > 0).then_some(last_ms) })
    }
}

fn set_status(cx: &Context, hub: &Hub<PoolEngine>, store: &Arc<Store>, about: About) {
    // The pages may outlive the pool, whose file must be free by then.
    let (hub, store) = (hub.clone(), Arc::downgrade(store));
    let (engine, totals) = (Cached::default(), Cached::default());
    cx.set_status(move || {
        let mut state = engine.get(STATUS_AGE, || {
            hub.try_with(|engine, now, _| engine.status(now)).unwrap_or(Value::Null)
        });
        if let Value::Object(state) = &mut state {
            state.insert("payout".to_owned(), about.payout.clone().into());
            state.insert("authority_key".to_owned(), about.authority_key.clone().into());
            state.insert("job_fan_out".to_owned(), about.fan_outs.status());
            if let Some(store) = store.upgrade() {
                let read = || match store.totals(MAX_SHOWN) {
                    Ok(totals) => json!(totals),
                    Err(error) => json!({ "error": error.to_string() }),
                };
                state.insert("work".to_owned(), totals.get(TOTALS_AGE, read));
                state.insert("blocks".to_owned(), blocks(&store));
            }
        }
        state
    });
}

/// A part of the status, and when it was made: who asks often costs no more.
#[derive(Debug, Default)]
struct Cached(Mutex<Option<(tokio::time::Instant, Value)>>);

impl Cached {
    fn get(&self, age: Duration, make: impl FnOnce() -> Value) -> Value {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((at, value)) if at.elapsed() < age => value.clone(),
            _ => cached.insert((tokio::time::Instant::now(), make())).1.clone(),
        }
    }
}

fn blocks(store: &Store) -> Value {
    let blocks = match store.blocks(MAX_SHOWN) {
        Ok(blocks) => blocks,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let blocks = blocks.iter().map(|block| {
        json!({
            "hash": block.display_hash(),
            "height": block.height,
            "state": block.state,
            "job": block.job,
            "found_unix_ms": block.found_unix_ms,
            "account": block.account,
            "worker": block.worker,
            "channel_id": block.channel_id,
            "extranonce_prefix": block.extranonce_prefix.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            "template_id": (block.job == JobOrigin::Template).then_some(block.template_id),
        })
    });
    blocks.collect()
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
        connection: ConnectionLimits { max_payload: MAX_PAYLOAD, ..limits.connection },
        ..limits
    }
}

/// Bytes of the largest frame that a miner sends: a custom job, or a list of extensions.
const MAX_PAYLOAD: usize = 300_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Identity, Record, ShareOutcome};

    /// Whatever ends it: the pool must not go on and take shares that nobody stores.
    #[tokio::test]
    async fn the_end_of_the_thread_that_stores_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&folder.path().join("pool.redb")).unwrap());
        let queue = Arc::new(Queue::default());
        let share = || Record::Share {
            identity: Arc::new(Identity { account: "a".to_owned(), worker: String::new() }),
            outcome: ShareOutcome::Rejected,
            unix_ms: 1,
        };
        let (sender, mut reports) = tokio::sync::mpsc::channel(1);
        let writer = Writer::start(&store, &queue, move |_| {
            sender.blocking_send(()).unwrap();
        });
        let writer = writer.unwrap();
        queue.push(share());
        timeout(Duration::from_secs(20), reports.recv()).await.unwrap().unwrap();
        assert!(!writer.ended.is_cancelled());
        drop(reports);
        queue.push(share());
        timeout(Duration::from_secs(20), writer.ended.cancelled()).await.unwrap();
    }
}
