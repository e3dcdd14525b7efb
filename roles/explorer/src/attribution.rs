//! Who found a block: read from what the roles say about their blocks and from the extranonce in the coinbase.

use serde_json::Value;

use crate::coinbase::unhex;
use crate::config::{Kind, NODE};
use crate::index::BlockSummary;
use crate::topology::Topology;
use crate::world::{RoleView, World, list, text};

#[cfg(test)]
mod tests;

/// Who found a block, as far as is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundBy {
    /// Names of the roles on its way, the one next to the node first. Empty: nobody that is known here.
    pub path: Vec<String>,
    /// Account and worker, as the miner named itself.
    pub worker: Option<String>,
    /// The block's transactions were chosen by the miner's side.
    pub declared: bool,
    /// How much is known: grows, so that a later look with less at hand takes nothing away.
    rank: u8,
}

impl FoundBy {
    /// Whether anybody is known.
    pub fn is_known(&self) -> bool {
        self.rank > 0
    }
}

/// Everything that a block can be recognised by.
#[derive(Debug, Default)]
pub struct Signs {
    prefixes: Vec<Prefix>,
    records: Vec<Record>,
}

/// A start of an extranonce that was given to somebody.
#[derive(Debug)]
struct Prefix {
    bytes: Vec<u8>,
    role: usize,
    worker: String,
}

/// A block that a role says it found.
#[derive(Debug)]
struct Record {
    hash: String,
    role: usize,
    worker: String,
    declared: bool,
}

impl Signs {
    /// Collects them from what the roles say.
    pub fn of(world: &World) -> Self {
        let mut signs = Self::default();
        for (role, view) in world.roles.iter().enumerate() {
            let state = view.state();
            match view.kind() {
                Kind::Pool | Kind::Jdc => {
                    for block in list(&state["blocks"]) {
                        signs.records.push(Record {
                            hash: text(&block["hash"]).to_owned(),
                            role,
                            worker: worker_of(block),
                            declared: text(&block["job"]) == "custom",
                        });
                    }
                    for channel in channels(state) {
                        signs.prefix(
                            role,
                            text(&channel["extranonce_prefix"]),
                            "",
                            &worker_of(channel),
                        );
                    }
                }
                Kind::Translator => {
                    for miner in list(&state["miners"]) {
                        let prefix = text(&miner["channel"]["extranonce_prefix"]);
                        let own = text(&miner["extranonce1"]);
                        signs.prefix(role, prefix, own, &worker_of(miner));
                    }
                }
                Kind::MiningDevice => {
                    for connection in list(&state["connections"]) {
                        for prefix in list(&connection["extranonce_prefixes"]) {
                            signs.prefix(role, text(prefix), "", &worker_of(connection));
                        }
                    }
                }
                // They submitted it, and know no worker.
                Kind::TemplateProvider | Kind::Jds => {
                    for block in list(&state["unsettled_blocks"]) {
                        signs.records.push(Record {
                            hash: text(&block["hash"]).to_owned(),
                            role,
                            worker: String::new(),
                            declared: view.kind() == Kind::Jds,
                        });
                    }
                }
            }
        }
        signs
    }

    fn prefix(&mut self, role: usize, start: &str, more: &str, worker: &str) {
        let bytes = unhex(&format!("{start}{more}")).unwrap_or_default();
        if !bytes.is_empty() {
            self.prefixes.push(Prefix { bytes, role, worker: worker.to_owned() });
        }
    }

    /// What they say of a block.
    pub fn judge(&self, block: &BlockSummary, world: &World, topology: &Topology) -> FoundBy {
        let records: Vec<&Record> = self.records.iter().filter(|r| r.hash == block.hash).collect();
        // The record nearest to the miner says most: a JDC's before its pool's.
        let record = records.iter().max_by_key(|record| world.roles[record.role].kind());
        // A prefix alone proves nothing: other pools give out the same small numbers. It says who, once a role that
        // watches its blocks says it was here.
        let Some(record) = record else { return FoundBy::default() };
        let extranonce = block.coinbase.extranonce();
        let matching = self.prefixes.iter().filter(|prefix| {
            let below = prefix.role == record.role || topology.is_below(prefix.role, record.role);
            extranonce.starts_with(&prefix.bytes) && below
        });
        // Of equally long ones the role nearest to the miner, which is the last kind.
        let leaf = matching.max_by_key(|p| (p.bytes.len(), world.roles[p.role].kind()));
        let end = leaf.map_or(record.role, |leaf| leaf.role);
        let mut path = topology.path(end);
        if path.is_empty() {
            path.push(world.roles[end].name().to_owned());
        }
        // Nobody mines at a node or at a template provider.
        let mines = |name: &String| {
            name != NODE
                && world.role(name).is_some_and(|role| role.kind() != Kind::TemplateProvider)
        };
        path.retain(mines);
        // Without a pool's word the miner's side submitted it alone.
        let kind = |name: &String| world.role(name).map(RoleView::kind);
        let pooled = records.iter().any(|record| world.roles[record.role].kind() == Kind::Pool);
        if !pooled && path.iter().any(|name| kind(name) == Some(Kind::Jdc)) {
            path.retain(|name| kind(name) != Some(Kind::Pool));
        }
        if path.is_empty() {
            return FoundBy::default();
        }
        let worker = leaf.map_or("", |leaf| &leaf.worker);
        let worker = if worker.is_empty() { &record.worker } else { worker };
        let leaf_rank = leaf.map_or(0, |leaf| 1 + world.roles[leaf.role].kind() as u8);
        FoundBy {
            worker: Some(worker.to_owned()).filter(|worker| !worker.is_empty()),
            declared: records.iter().any(|record| record.declared),
            // Who it was counts before who says so.
            rank: 1 + world.roles[record.role].kind() as u8 + 8 * leaf_rank,
            path,
        }
    }
}

/// Looks at the newest blocks again.
pub fn attribute<'b>(
    blocks: impl Iterator<Item = &'b mut BlockSummary>,
    world: &World,
    topology: &Topology,
) -> bool {
    let signs = Signs::of(world);
    let mut changed = false;
    for block in blocks {
        let found = signs.judge(block, world, topology);
        if found.rank > block.found_by.rank {
            block.found_by = found;
            changed = true;
        }
    }
    changed
}

/// The channels or connections that a pool, a JDC or a translator has with miners.
pub fn channels(state: &Value) -> &[Value] {
    match list(&state["channels"]) {
        [] => list(&state["miners"]),
        channels => channels,
    }
}

/// Account and worker in any of the words that roles use.
pub fn worker_of(value: &Value) -> String {
    for key in ["identity", "user_identity", "user"] {
        if let Some(name) = value[key].as_str() {
            return name.to_owned();
        }
    }
    match (text(&value["account"]), text(&value["worker"])) {
        (account, "") => account.to_owned(),
        (account, worker) => format!("{account}.{worker}"),
    }
}
