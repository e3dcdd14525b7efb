//! Template Distribution Protocol server (spec 7) for any bitcoind with JSON-RPC.
//!
//! [`engine`] speaks the protocol, [`template`] makes templates of what a node offers, [`feed`] keeps both supplied,
//! [`Submitter`] brings solved blocks into the chain. This module puts them together.

pub mod config;
pub mod engine;
pub mod feed;
pub mod metrics;
pub mod solution;
pub mod store;
pub mod template;
pub mod watch;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_node::{
    BlockMetrics, BlockStore, Board, Node, NodeState, SolvedBlock, Submitter, lock_dir,
};
use adit_service::{ConfigError, Context, Role, clap};
use adit_sv2::noise::Validity;
use adit_transport::{ConnectionLimits, ListenLimits, NoiseServer};
use anyhow::Context as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Listen};
use crate::engine::{Effect, TemplateProvider};
use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::solution::Found;
use crate::store::TemplateStore;

type Hub = adit_transport::Hub<TemplateProvider>;

/// The whole program. Here and not in the binary, so that the role is compiled once.
pub fn program() -> std::process::ExitCode {
    adit_service::main::<TemplateProviderRole>()
}

/// The role, for [`adit_service::main`] and [`adit_service::start`].
#[derive(Debug)]
pub struct TemplateProviderRole;

impl Role for TemplateProviderRole {
    const NAME: &'static str = "template-provider";
    const ABOUT: &'static str =
        "Gives block templates of any bitcoind to Stratum V2 pools and job declarators";
    const EXAMPLE: &'static str = config::EXAMPLE;
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }

    fn extra_commands() -> Vec<clap::Command> {
        vec![watch::command()]
    }

    async fn run_extra(_: &str, args: &clap::ArgMatches) -> anyhow::Result<ExitCode> {
        watch::run(args).await
    }
}

/// Runs until `cx.shutdown`.
async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let nodes = metrics.calls.clients(config.nodes()?)?;
    let board = Board::new(&nodes);

    let dir = &config.data_dir;
    let _lock = lock_dir(dir).with_context(|| format!("data_dir {}", dir.display()))?;
    let opened = TemplateStore::open(&dir.join("templates"), unix_ms())
        .with_context(|| format!("folder for templates in {}", dir.display()))?;
    let (templates, earlier) = opened;
    let (blocks, unsettled) = BlockStore::open(&dir.join("solutions"))
        .with_context(|| format!("folder for solved blocks in {}", dir.display()))?;
    let mut engine = TemplateProvider::new(config.templates.fee_threshold_sats, metrics.clone());
    engine.restore(earlier);

    let (wanted, found) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hub = {
        let (wanted, found) = (wanted.clone(), found.clone());
        let on_effect = move |effect| match effect {
            Effect::Wanted => wanted.notify_one(),
            Effect::Found => found.notify_one(),
        };
        let options =
            adit_transport::HubOptions { cancel: cx.shutdown.clone(), ..Default::default() };
        let transport = cx.metrics.register(adit_transport::TransportMetrics::register);
        Hub::new(engine, on_effect, transport, options)
    };
    let submitter = Arc::new(Submitter::new(
        nodes.iter().cloned().map(Arc::new).collect(),
        blocks,
        unsettled,
        config.solutions.kept_confirmations,
        metrics.clone(),
    ));
    show_status(&cx, &hub, &board, &submitter, &metrics);

    let mut tasks = tokio::task::JoinSet::new();
    for (index, node) in nodes.iter().enumerate() {
        tasks.spawn(adit_node::monitor(index, node.clone(), config.network, board.clone()));
    }
    let submissions = TaskTracker::new();
    tasks.spawn(take_found(hub.clone(), found, submitter.clone(), submissions.clone()));
    tasks.spawn(adit_node::look_after(board.clone(), submitter.clone()));
    let feed = Feed {
        network: config.network,
        future: config.templates.future,
        fee_interval: Duration::from_secs(config.templates.fee_interval_seconds),
        nodes,
        board,
        hub: hub.clone(),
        store: Arc::new(Mutex::new(templates)),
        wanted,
        readiness: cx.readiness.clone(),
        metrics,
    };
    tasks.spawn(feed.run());
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
    hub: &Hub,
    tasks: &mut tokio::task::JoinSet<()>,
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
        connection: ConnectionLimits { max_payload: MAX_PAYLOAD, ..ConnectionLimits::bulk() },
        ..ListenLimits::places(max_connections, max_connections_per_address)
    };
    tracing::info!(authority_key = %server.authority(), "clients are to expect this key");
    let address = listener.local_addr()?;
    tasks.spawn(hub.serve_noise(listener, engine::Client, server, limits, cx.shutdown.clone()));
    cx.listening("clients", address);
    Ok(())
}

fn show_status(
    cx: &Context,
    hub: &Hub,
    board: &Board,
    submitter: &Arc<Submitter<Node>>,
    metrics: &Metrics,
) {
    let (hub, states, submitter, metrics) =
        (hub.clone(), board.subscribe(), submitter.clone(), metrics.clone());
    cx.set_status(move || {
        let (work, clients) =
            hub.with(|engine, _, _| (engine.snapshot().cloned(), engine.clients()));
        let work = work.map(|snapshot| {
            json!({
                "prev_hash": snapshot.tip.prev_hash.to_string(),
                "height": snapshot.tip.height,
                "transactions": snapshot.transactions.len(),
                "weight": snapshot.weight(),
                "coinbase_value_sats": snapshot.coinbase_value,
                "age_seconds": metrics.template_age().map(|age| age.as_secs()),
            })
        });
        json!({
            "nodes": states.borrow().iter().map(NodeState::status).collect::<Vec<_>>(),
            "template": work,
            "clients": clients,
            "templates_sent": metrics.templates_sent_total(),
            "solutions": metrics.solutions_by_result(),
            "unsettled_blocks": submitter.status(),
        })
    });
}

/// Takes solved blocks from the engine to the submitter.
async fn take_found(
    hub: Hub,
    found: Arc<Notify>,
    submitter: Arc<Submitter<Node>>,
    submissions: TaskTracker,
) {
    loop {
        found.notified().await;
        hand_in_found(&hub, &submitter, &submissions);
    }
}

fn hand_in_found(hub: &Hub, submitter: &Arc<Submitter<Node>>, submissions: &TaskTracker) {
    for found in hub.with(|engine, _, _| engine.take_found()) {
        for remark in &found.remarks {
            tracing::warn!(hash = %found.hash, template_id = found.template.id, "{remark}");
        }
        // Side by side: a node that hangs with one block must not delay the next.
        submissions.spawn(submitter.clone().found(solved(&found)));
    }
}

fn solved(found: &Found) -> SolvedBlock {
    let Found { hash, template, .. } = found;
    SolvedBlock::new(*hash, template.tip.height, template.id, found.to_block(), unix_ms())
}

impl BlockMetrics for Metrics {
    fn solution(&self, result: &'static str) {
        self.solution(result);
    }

    fn store_error(&self) {
        self.store_error("block");
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Of a client's frame: `SubmitSolution` with the largest coinbase.
const MAX_PAYLOAD: usize = 80_000;
/// What is under way when the process is to end.
const LAST_SUBMISSIONS: Duration = Duration::from_secs(3);
