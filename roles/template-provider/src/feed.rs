//! From the nodes to the engine: new tips, new fees, templates for new clients.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adit_mining::BlockHash;
use adit_node::{BlockTemplate, Board, Network, Node, NodeError, NodeState, Rules, choose};
use adit_service::Readiness;
use adit_transport::Hub;
use bitcoin::hashes::Hash;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::config::Future as FutureTemplates;
use crate::engine::TemplateProvider;
use crate::metrics::Metrics;

use crate::store::TemplateStore;
use crate::template::{Constraints, Snapshot, Template, Tip};

/// What a feed works with.
pub struct Feed {
    /// The chain of all nodes.
    pub network: Network,
    /// What is sent at a new tip.
    pub future: FutureTemplates,
    /// Between two looks at the fees.
    pub fee_interval: Duration,
    /// In order of preference.
    pub nodes: Vec<Node>,
    /// How these are doing.
    pub board: Board,
    /// The engine.
    pub hub: Hub<TemplateProvider>,
    /// Where templates are kept.
    pub store: Arc<Mutex<TemplateStore>>,
    /// Told when the engine wants a template.
    pub wanted: Arc<Notify>,
    /// Conditions `node` and `template`.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: Metrics,
}

/// A `getblocktemplate` under way.
type Asking = Pin<Box<dyn Future<Output = Result<Offer, NodeError>> + Send>>;

struct Offer {
    template: BlockTemplate,
    /// Virtual bytes in the node's mempool, where the template is suspiciously small.
    backlog: Option<u64>,
}

/// What the feed remembers.
struct Memory {
    /// The node in use.
    node: Option<usize>,
    /// Its last tip that was acted upon.
    seen: Option<BlockHash>,
    /// The tip that clients work on.
    tip: Option<BlockHash>,
    /// When that was heard of, until it is told.
    heard: Option<Instant>,
    /// Header version of the node's last template.
    version: u32,
    /// The node's last offer with transactions.
    full: Option<Arc<Snapshot>>,
    next_look: Instant,
    light: LightOffers,
}

impl Feed {
    /// Feeds until dropped.
    pub async fn run(self) {
        let mut board = self.board.subscribe();
        let mut pulse = tokio::time::interval(PULSE);
        let mut asking: Option<Asking> = None;
        let mut memory = Memory {
            node: None,
            seen: None,
            tip: None,
            heard: None,
            version: VERSION,
            full: None,
            next_look: Instant::now(),
            light: LightOffers::default(),
        };
        self.readiness.waiting_for("template", "no template yet");
        loop {
            let states = board.borrow_and_update().clone();
            let node = choose(&states, memory.node);
            self.report(&states, node);
            if node != memory.node {
                if let Some(index) = node {
                    tracing::info!(node = states[index].url, "templates come from this node");
                }
                memory.node = node;
                memory.seen = None;
                asking = None;
            }
            if let Some(index) = node
                && let Some((hash, heard)) = states[index].tip
                && memory.seen != Some(hash)
            {
                // An answer under way is for the tip before, and keeps the node busy.
                drop(asking.take());
                memory.seen = Some(hash);
                self.on_tip(index, hash, heard, &mut memory).await;
                asking = Some(self.ask(index));
            }
            tokio::select! {
                biased;
                changed = board.changed() => if changed.is_err() { return },
                answer = answer(&mut asking) => {
                    asking = None;
                    if let Some(index) = node {
                        self.on_answer(index, answer, &mut memory).await;
                    }
                }
                () = self.wanted.notified() => self.supply().await,
                _ = pulse.tick() => {
                    if asking.is_none() && Instant::now() >= memory.next_look {
                        asking = node.map(|index| self.ask(index));
                    }
                }
            }
        }
    }

    fn report(&self, states: &[NodeState], node: Option<usize>) {
        let well = node.is_some_and(|index| states[index].problem().is_none());
        let problems = || {
            let problem = |state: &NodeState| {
                format!("{}: {}", state.url, state.problem().unwrap_or("no tip yet"))
            };
            states.iter().map(problem).collect::<Vec<_>>().join("; ")
        };
        self.readiness.set("node", if well { Ok(()) } else { Err(problems()) });
    }

    /// A new tip: the coinbase-only template at once, if the header says enough.
    async fn on_tip(&self, index: usize, hash: BlockHash, heard: Instant, memory: &mut Memory) {
        if memory.tip == Some(hash) {
            return;
        }
        memory.heard = Some(heard);
        if self.future == FutureTemplates::FullOnly {
            return;
        }
        let hash = bitcoin::BlockHash::from_byte_array(hash.0);
        let header =
            tokio::time::timeout(HEADER_DEADLINE, self.nodes[index].getblockheader(&hash)).await;
        let header = match header {
            Ok(Ok(header)) => header,
            // The template that is asked for next will do.
            Ok(Err(error)) => {
                return tracing::warn!(node = self.nodes[index].url(), %error, "no header of the new tip");
            }
            Err(_) => {
                return tracing::warn!(
                    node = self.nodes[index].url(),
                    "header of the new tip is late"
                );
            }
        };
        let height = header.height + 1;
        if !self.network.keeps_n_bits(height) {
            return;
        }
        let tip = Tip {
            prev_hash: BlockHash(hash.to_byte_array()),
            height,
            n_bits: header.bits.to_consensus(),
            min_time: header.median_time + 1,
        };
        self.publish(Arc::new(Snapshot::empty(self.network, tip, memory.version)), memory).await;
    }

    fn ask(&self, index: usize) -> Asking {
        let node = self.nodes[index].clone();
        let rules = Rules::for_chain(self.network.name());
        Box::pin(async move {
            let template = node.getblocktemplate(rules).await?;
            let backlog = match is_light(&template) {
                true => node
                    .query::<Mempool>("getmempoolinfo", [(); 0])
                    .await
                    .ok()
                    .map(|mempool| mempool.bytes),
                false => None,
            };
            Ok(Offer { template, backlog })
        })
    }

    async fn on_answer(&self, index: usize, answer: Result<Offer, NodeError>, memory: &mut Memory) {
        let refusal = match &answer {
            Err(error) => Some(error.to_string()),
            Ok(offer) => useless(&offer.template),
        };
        self.board.update(index, |state| {
            state.refusal = refusal.clone().map(|reason| (reason, Instant::now()))
        });
        let (Ok(Offer { template, backlog }), None) = (answer, refusal) else {
            memory.next_look = Instant::now() + ASK_AGAIN;
            return;
        };
        memory.next_look = Instant::now() + self.fee_interval;
        memory.light.look(self.nodes[index].url(), &template, backlog);
        self.metrics.offered();
        memory.version = template.version as u32;
        let mut snapshot = Snapshot::from_node(template);
        if let Some(full) = &memory.full {
            snapshot.share_with(full);
        }
        let snapshot = Arc::new(snapshot);
        if self.hub.with(|engine, _, _| engine.is_news(&snapshot)) {
            if !snapshot.transactions.is_empty() {
                memory.full = Some(snapshot.clone());
            }
            self.publish(snapshot, memory).await;
        }
    }

    async fn publish(&self, snapshot: Arc<Snapshot>, memory: &mut Memory) {
        let demand = self.hub.with(|engine, _, _| engine.demand(&snapshot));
        let built = self.build(&snapshot, demand).await;
        let Tip { prev_hash, height, .. } = snapshot.tip;
        let (transactions, value) = (snapshot.transactions.len(), snapshot.coinbase_value);
        self.hub.with(|engine, now, out| {
            engine.publish(snapshot, built.templates, now, out);
            built.refused.iter().for_each(|constraints| engine.refuse(*constraints, out));
        });
        if memory.tip.replace(prev_hash) != Some(prev_hash) {
            let latency = memory.heard.take().map(|heard| heard.elapsed()).unwrap_or_default();
            self.metrics.tip_latency(latency);
            tracing::info!(height, %prev_hash, latency_us = latency.as_micros() as u64, "new tip");
        }
        tracing::debug!(height, transactions, value, "new template");
        self.readiness.ok("template");
        self.sync();
    }

    /// Builds what clients came to want in the meantime.
    async fn supply(&self) {
        let Some((snapshot, wanted)) = self.hub.with(|engine, _, _| engine.wanted()) else {
            return;
        };
        let built = self.build(&snapshot, wanted).await;
        self.hub.with(|engine, now, out| {
            engine.supply(&snapshot, built.templates, now, out);
            built.refused.iter().for_each(|constraints| engine.refuse(*constraints, out));
        });
        self.sync();
    }

    async fn build(&self, snapshot: &Arc<Snapshot>, demand: Vec<Constraints>) -> Built {
        let (snapshot, store, metrics) =
            (snapshot.clone(), self.store.clone(), self.metrics.clone());
        if snapshot.transactions.is_empty() {
            // A few hundred bytes, and what everybody waits for.
            return build(&snapshot, demand, &store, &metrics);
        }
        let work = move || build(&snapshot, demand, &store, &metrics);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
            tracing::error!(%panic, "building templates failed");
            Built::default()
        })
    }

    /// Has what was written reach the disk, beside the work.
    fn sync(&self) {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        tokio::task::spawn_blocking(move || {
            let unsynced = store.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).unsynced();
            if let Err(error) =
                unsynced.and_then(|unsynced| unsynced.map_or(Ok(()), |unsynced| unsynced.sync()))
            {
                tracing::error!(%error, "templates cannot be synced to disk");
                metrics.store_error("template");
            }
        });
    }
}

/// What came of building.
#[derive(Default)]
struct Built {
    templates: Vec<(Constraints, Arc<Template>)>,
    /// No block is large enough for these.
    refused: Vec<Constraints>,
}

/// Builds and stores a template for each of `demand`.
fn build(
    snapshot: &Snapshot,
    demand: Vec<Constraints>,
    store: &Mutex<TemplateStore>,
    metrics: &Metrics,
) -> Built {
    let mut built = Built::default();
    let mut store = store.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for constraints in demand {
        match Template::build(snapshot, constraints, store.next_id()) {
            Ok(template) => built.templates.push((constraints, Arc::new(template))),
            Err(error) => {
                tracing::warn!(%error, "no template for a client");
                built.refused.push(constraints);
            }
        }
    }
    let templates: Vec<_> = built.templates.iter().map(|(_, template)| template.clone()).collect();
    if let Err(error) = store.write(&templates) {
        // Mining goes on: only a restart would lose the solutions of these.
        tracing::error!(%error, "templates cannot be written to disk");
        metrics.store_error("template");
    }
    built
}

async fn answer(asking: &mut Option<Asking>) -> Result<Offer, NodeError> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// Why a template cannot be mined by this program.
fn useless(template: &BlockTemplate) -> Option<String> {
    let unknown = template
        .rules
        .iter()
        .find(|rule| rule.starts_with('!') && !KNOWN_RULES.contains(&rule.as_str()));
    if let Some(rule) = unknown {
        return Some(format!("node asks for rule {rule:?}, which this version does not know"));
    }
    let op_true = bitcoin::opcodes::OP_TRUE.to_u8();
    let signed =
        template.signet_challenge.as_ref().is_some_and(|challenge| *challenge != [op_true]);
    signed.then(|| "blocks of this signet have to be signed, which is not supported".to_owned())
}

/// A node that offers little while its mempool holds much has a limit in its own configuration.
#[derive(Default)]
struct LightOffers {
    in_a_row: u32,
    warned: Option<Instant>,
}

impl LightOffers {
    fn look(&mut self, node: &str, template: &BlockTemplate, backlog: Option<u64>) {
        let weight = template.transactions.iter().map(|t| u64::from(t.weight)).sum::<u64>();
        // What waits besides would fill a tenth of a block.
        let light = backlog.is_some_and(|vbytes| vbytes * 4 > weight + WEIGHT_LIMIT / 10);
        self.in_a_row = if light { self.in_a_row + 1 } else { 0 };
        let due = self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if self.in_a_row >= LIGHT_IN_A_ROW && due {
            self.warned = Some(Instant::now());
            tracing::warn!(
                node,
                weight,
                mempool_vbytes = backlog,
                "the node keeps giving small templates although much more waits: see its blockmaxweight and blockmaxsize"
            );
        }
    }
}

fn is_light(template: &BlockTemplate) -> bool {
    template.transactions.iter().map(|t| u64::from(t.weight)).sum::<u64>() < WEIGHT_LIMIT * 85 / 100
}

#[derive(Deserialize)]
struct Mempool {
    /// Virtual bytes.
    bytes: u64,
}

/// The header version of a chain on which nothing is signalled, until a node says better.
const VERSION: u32 = 0x2000_0000;
const KNOWN_RULES: [&str; 2] = ["!segwit", "!signet"];
/// Of every block.
const WEIGHT_LIMIT: u64 = 4_000_000;
const LIGHT_IN_A_ROW: u32 = 3;
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// How exactly the fee interval is kept.
const PULSE: Duration = Duration::from_millis(250);
/// After a template that was refused.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A node that needs longer for a header is asked for the template at once.
const HEADER_DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
