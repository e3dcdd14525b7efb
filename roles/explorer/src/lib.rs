//! Pages about a chain and the roles that mine on it.
//!
//! A task in the background (`watch`) asks the node and the roles, and keeps a [`World`] and an [`Index`] of the newest
//! blocks; `web` makes pages of them, and asks the node only for what a page is about. Nothing is written to disk.

pub mod attribution;
pub mod coinbase;
pub mod config;
pub mod exposition;
mod fetch;
pub mod index;
mod metrics;
pub mod rpc;
pub mod topology;
mod view;
mod watch;
mod web;
pub mod world;

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use adit_node::Node;
use adit_service::{ConfigError, Context, Limits, Role};
use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch as channel};

use crate::config::Config;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::topology::Topology;
use crate::world::World;

/// The role, for [`adit_service::main`] and [`adit_service::start`].
#[derive(Debug)]
pub struct Explorer;

impl Role for Explorer {
    const NAME: &'static str = "explorer";
    const ABOUT: &'static str = "Shows a chain and the roles that mine on it in a browser";
    const EXAMPLE: &'static str = config::EXAMPLE;
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.check()
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        run(config, cx).await
    }
}

/// Everything that the tasks and the pages share.
struct App {
    config: Config,
    node: Node,
    metrics: Metrics,
    world: RwLock<World>,
    index: RwLock<Index>,
    /// Counts what a page would show differently.
    version: channel::Sender<u64>,
    /// Woken by a new tip.
    new_tip: Notify,
    /// The node searches for one address at a time.
    scans: Semaphore,
}

impl App {
    fn new(config: Config, node: Node, metrics: Metrics, world: World, index: Index) -> Arc<Self> {
        Arc::new(Self {
            config,
            node,
            metrics,
            world: RwLock::new(world),
            index: RwLock::new(index),
            version: channel::Sender::new(0),
            new_tip: Notify::new(),
            scans: Semaphore::new(1),
        })
    }

    fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn world_mut(&self) -> RwLockWriteGuard<'_, World> {
        self.world.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Who found the newest blocks, by what is known now.
    fn attribute(&self) {
        let world = self.world();
        let topology = Topology::of(&world, &self.config.node.url);
        let mut index = self.index_mut();
        let blocks = index.newest_mut().take(ATTRIBUTED);
        if attribution::attribute(blocks, &world, &topology) {
            drop(index);
            self.changed();
        }
    }
}

/// Blocks whose finder is looked for again with every answer of a role: as many as a pool names.
const ATTRIBUTED: usize = 100;

/// The pages of a world that somebody made up.
#[doc(hidden)] // for a fuzzer
pub fn pages(config: Config, node: Node, world: World, index: Index) -> axum::Router {
    web::router(App::new(config, node, Metrics::default(), world, index))
}

async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    cx.metrics.register(|registry| metrics.register(registry));
    let node = {
        let metrics = metrics.clone();
        Node::with_observer(config.node.to_node("node")?, move |report| metrics.rpc(report))?
    };
    let listener = TcpListener::bind(config.listen.address)
        .await
        .with_context(|| format!("listen.address: cannot listen on {}", config.listen.address))?;
    let limits = Limits { connections: config.listen.max_connections, ..web::LIMITS };
    let world = World::new(&config.roles);
    let index = Index::new(config.index.blocks, config.index.transactions);
    let app = App::new(config, node, metrics, world, index);
    show_status(&cx, &app);

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(watch::chain(app.clone(), cx.readiness.clone()));
    tasks.spawn(watch::mempool(app.clone()));
    for role in 0..app.config.roles.len() {
        tasks.spawn(watch::role(app.clone(), role));
    }
    cx.listening("pages", listener.local_addr()?);
    let (router, metrics, stop) = (web::router(app), cx.metrics.clone(), cx.shutdown.clone());
    tasks.spawn(async move {
        adit_service::serve_router(listener, router, limits, (&metrics, "explorer"), stop).await;
    });
    cx.until_over(&mut tasks).await
}

fn show_status(cx: &Context, app: &Arc<App>) {
    let app = app.clone();
    cx.set_status(move || {
        let world = app.world();
        let roles: serde_json::Map<_, _> = (world.roles.iter())
            .map(|role| (role.name().to_owned(), role.problem().unwrap_or_else(|| "ready".into()).into()))
            .collect();
        serde_json::json!({
            "node": { "url": app.config.node.url, "up": world.node.health.is_up(), "chain": world.node.chain },
            "height": world.node.tip.as_ref().map(|tip| tip.height),
            "blocks_in_index": app.index().len(),
            "roles": roles,
            "live_pages": app.version.receiver_count(),
        })
    });
}
