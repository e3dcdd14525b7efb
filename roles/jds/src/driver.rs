//! The Job Declarator Server as a program: the engine between sockets, nodes, the disk and the pages about it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_node::{
    BlockStore, Board, Node, NodeState, SolvedBlock, Submitter, lock_dir, look_after, monitor,
};
use adit_service::{ConfigError, Context, Role};
use adit_sv2::noise::Validity;
use adit_transport::{
    ConnectionLimits, Hub, HubOptions, ListenLimits, NoiseServer, TransportMetrics,
};
use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::checker::Checker;
use crate::config::{Config, EXAMPLE, Listen};
use crate::engine::{Declarator, Effect, Found, Jds, Summary};
use crate::follow::Follow;
use crate::metrics::Metrics;
use crate::mirror::Mirror;

/// The role, for [`adit_service::main`] and [`adit_service::start`].
#[derive(Debug)]
pub struct JdsRole;

impl Role for JdsRole {
    const NAME: &'static str = "jds";
    const ABOUT: &'static str = "Stratum V2 Job Declarator Server: miners choose their own blocks";
    const EXAMPLE: &'static str = EXAMPLE;
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }
}

/// Works until `cx.shutdown`. The readiness conditions are `node` and `mempool`; the listener is named `declarators`.
///
/// # Errors
/// The folder cannot be used, the address cannot be listened on, or a part failed.
pub async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let nodes = metrics.calls.clients(config.nodes()?)?;
    let board = Board::new(&nodes);

    let dir = &config.data_dir;
    let _lock = lock_dir(dir).with_context(|| format!("data_dir {}", dir.display()))?;
    let (blocks, unsettled) = BlockStore::open(&dir.join("solutions"))
        .with_context(|| format!("folder for solved blocks in {}", dir.display()))?;
    let submitter = Arc::new(Submitter::new(
        nodes.iter().cloned().map(Arc::new).collect(),
        blocks,
        unsettled,
        config.solutions.kept_confirmations,
        metrics.clone(),
    ));

    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))?;
    let engine = Jds::new(config.settings(seed)?, metrics.clone());
    let (wanted, found) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hub = {
        let (wanted, found) = (wanted.clone(), found.clone());
        let on_effect = move |effect| match effect {
            Effect::Check => wanted.notify_one(),
            Effect::Found => found.notify_one(),
        };
        let options = HubOptions { cancel: cx.shutdown.clone(), ..Default::default() };
        Hub::new(engine, on_effect, cx.metrics.register(TransportMetrics::register), options)
    };
    show_status(&cx, &hub, &board, &submitter);

    let mut tasks = JoinSet::new();
    for (index, node) in nodes.iter().enumerate() {
        tasks.spawn(monitor(index, node.clone(), config.network, board.clone()));
    }
    let submissions = TaskTracker::new();
    tasks.spawn(take_found(hub.clone(), found, submitter.clone(), submissions.clone()));
    tasks.spawn(look_after(board.clone(), submitter.clone()));
    let (current, follower) = watch::channel(None);
    let follow = Follow {
        network: config.network,
        nodes: nodes.clone(),
        board,
        hub: hub.clone(),
        readiness: cx.readiness.clone(),
        current,
    };
    let mirror = Mirror {
        nodes: nodes.clone(),
        current: follower.clone(),
        hub: hub.clone(),
        interval: Duration::from_millis(config.mempool.poll_milliseconds),
        readiness: cx.readiness.clone(),
    };
    let checker =
        Checker { network: config.network, nodes, current: follower, hub: hub.clone(), wanted };
    tasks.spawn(follow.run());
    tasks.spawn(mirror.run());
    tasks.spawn(checker.run());
    tasks.spawn(summarise(hub.clone()));
    listen(&config, &cx, &hub, &mut tasks).await?;

    tokio::select! {
        over = cx.until_over(&mut tasks) => over?,
        failed = hub.failed() => return Err(failed.into()),
    }
    // A block that came with the last bytes is on disk at least; handing it in is tried again by the next run.
    hand_in_found(&hub, &submitter, &submissions);
    submissions.close();
    let _ = tokio::time::timeout(LAST_SUBMISSIONS, submissions.wait()).await;
    Ok(())
}

async fn listen(
    config: &Config,
    cx: &Context,
    hub: &Hub<Jds>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let validity = Validity {
        seconds: config.authority.cert_validity_hours.saturating_mul(3600),
        ..Validity::default()
    };
    let server = Arc::new(NoiseServer::new(config.authority.load()?, validity)?);
    let Listen { address, max_connections, max_connections_per_address } = config.listen;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen.address {address}"))?;
    let limits = ListenLimits {
        connection: ConnectionLimits {
            max_payload: MAX_PAYLOAD,
            // For a block's transactions over a slow line.
            incomplete_time: ConnectionLimits::bulk().incomplete_time,
            ..ConnectionLimits::default()
        },
        ..ListenLimits::places(max_connections, max_connections_per_address)
    };
    let payout = config.payout()?.describe(config.chain());
    tracing::info!(payout, authority_key = %server.authority(), "clients and the pool are to expect this key");
    let address = listener.local_addr()?;
    tasks.spawn(hub.serve_noise(listener, Declarator, server, limits, cx.shutdown.clone()));
    cx.listening("declarators", address);
    Ok(())
}

fn show_status(cx: &Context, hub: &Hub<Jds>, board: &Board, submitter: &Arc<Submitter<Node>>) {
    let (hub, states, submitter) = (hub.clone(), board.subscribe(), submitter.clone());
    cx.set_status(move || {
        let mut status = hub.with(|engine, _, _| engine.status());
        if let Some(status) = status.as_object_mut() {
            let nodes: Vec<_> = states.borrow().iter().map(NodeState::status).collect();
            status.insert("nodes".to_owned(), nodes.into());
            status.insert("unsettled_blocks".to_owned(), submitter.status().into());
        }
        status
    });
}

/// Takes solved blocks from the engine to the submitter.
async fn take_found(
    hub: Hub<Jds>,
    found: Arc<Notify>,
    submitter: Arc<Submitter<Node>>,
    submissions: TaskTracker,
) {
    loop {
        found.notified().await;
        hand_in_found(&hub, &submitter, &submissions);
    }
}

fn hand_in_found(hub: &Hub<Jds>, submitter: &Arc<Submitter<Node>>, submissions: &TaskTracker) {
    for Found { block, height, job } in hub.with(|engine, _, _| engine.take_found()) {
        let solved = SolvedBlock::new(block.hash, height, job, block.raw, unix_ms());
        // Side by side: a node that hangs with one block must not delay the next.
        submissions.spawn(submitter.clone().found(solved));
    }
}

/// Tells once a minute how it goes, where anything does.
async fn summarise(hub: Hub<Jds>) {
    let mut before: Option<Summary> = None;
    loop {
        tokio::time::sleep(SUMMARY_INTERVAL).await;
        let now = hub.with(|engine, _, _| engine.summary());
        let Summary { clients, accepted, refused, mempool } = now;
        if before.replace(now) != Some(now) {
            tracing::info!(clients, accepted, refused, mempool, "so far");
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Of a client's frame: `ProvideMissingTransactions.Success` with a whole block.
const MAX_PAYLOAD: usize = 4_200_000;
/// How often the log tells how it goes.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// What is under way when the process is to end.
const LAST_SUBMISSIONS: Duration = Duration::from_secs(3);
