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
    /// Who names its miners how, by role.
    names: Vec<(usize, String)>,
}

/// A part of an extranonce that was given to somebody.
#[derive(Debug)]
struct Prefix {
    /// How it begins.
    start: Vec<u8>,
    /// What stands so many bytes before its end, behind what its owner's upstream put between: a JDC's.
    inner: Option<(Vec<u8>, usize)>,
    role: usize,
    worker: String,
}

impl Prefix {
    fn is_in(&self, extranonce: &[u8]) -> bool {
        let inner = self.inner.as_ref().is_none_or(|(inner, behind)| {
            let end = extranonce.len().checked_sub(*behind);
            let place = end.and_then(|end| Some(end.checked_sub(inner.len())?..end));
            place.is_some_and(|place| extranonce[place] == inner[..])
        });
        extranonce.starts_with(&self.start) && inner
    }

    fn len(&self) -> usize {
        self.start.len() + self.inner.as_ref().map_or(0, |(inner, _)| inner.len())
    }
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
            let miners = [channels(state), list(&state["connections"])].concat();
            signs.names.extend(miners.iter().map(|miner| (role, worker_of(miner))));
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
                    // A JDC's channels lie within the one that it has at its pool.
                    let mut upstreams = list(&state["upstreams"]).iter();
                    let used = |up: &&Value| up["in_use"] == Value::Bool(true);
                    let outer = upstreams.rfind(used).map(|up| text(&up["extranonce_prefix"]));
                    for channel in channels(state) {
                        let own = text(&channel["extranonce_prefix"]);
                        let behind = channel["extranonce_size"].as_u64().unwrap_or(0) as usize;
                        match outer {
                            Some(outer) => {
                                let inner = unhex(own).map(|inner| (inner, behind));
                                signs.prefix(role, outer, inner, &worker_of(channel));
                            }
                            None => signs.prefix(role, own, None, &worker_of(channel)),
                        }
                    }
                }
                Kind::Translator => {
                    for miner in list(&state["miners"]) {
                        let prefix = text(&miner["channel"]["extranonce_prefix"]);
                        let own = text(&miner["extranonce1"]);
                        signs.prefix(role, &format!("{prefix}{own}"), None, &worker_of(miner));
                    }
                }
                Kind::MiningDevice => {
                    for connection in list(&state["connections"]) {
                        for prefix in list(&connection["extranonce_prefixes"]) {
                            signs.prefix(role, text(prefix), None, &worker_of(connection));
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

    fn prefix(&mut self, role: usize, start: &str, inner: Option<(Vec<u8>, usize)>, worker: &str) {
        let start = unhex(start).unwrap_or_default();
        let prefix = Prefix { start, inner, role, worker: worker.to_owned() };
        if prefix.len() > 0 {
            self.prefixes.push(prefix);
        }
    }

    /// The role nearest to the miner of this name below another: where it connects, and the miner itself if there is
    /// only one.
    fn nearest(&self, worker: &str, above: usize, world: &World, topology: &Topology) -> usize {
        let named = self.names.iter().filter(|(role, name)| {
            name == worker && (*role == above || topology.is_below(*role, above))
        });
        let mut roles: Vec<usize> = named.map(|(role, _)| *role).collect();
        roles.sort_unstable();
        roles.dedup();
        let kind = |role: &usize| world.roles[*role].kind();
        let miners = roles.iter().filter(|role| kind(role) == Kind::MiningDevice).count();
        roles.retain(|role| miners < 2 || kind(role) != Kind::MiningDevice);
        roles.into_iter().max_by_key(kind).unwrap_or(above)
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
            below && prefix.is_in(extranonce)
        });
        // Of equally long ones the role nearest to the miner, which is the last kind.
        let leaf = matching.max_by_key(|p| (p.len(), world.roles[p.role].kind()));
        let (end, worker) = match leaf {
            Some(leaf) if !leaf.worker.is_empty() => (leaf.role, &leaf.worker),
            Some(leaf) => (leaf.role, &record.worker),
            None => (record.role, &record.worker),
        };
        // A prefix that only a server knows leads on by the miner's name, and so does a record whose prefix was another
        // then: a JDC's own, while it worked for another pool or for none.
        let end = match worker.is_empty() {
            false => self.nearest(worker, end, world, topology),
            true => end,
        };
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
        let leaf_rank = leaf.map_or(0, |_| 1 + world.roles[end].kind() as u8);
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
