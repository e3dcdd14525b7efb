//! What is known of the node and the roles right now, and since when.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::attribution::channels;
use crate::config::{Kind, RoleKeys};
use crate::exposition::Samples;
use crate::rpc::{MempoolInfo, NodeFacts};

/// Whether something answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Health {
    /// It has not been asked yet.
    #[default]
    Unknown,
    /// It answers.
    Up {
        /// Seconds since 1970.
        since: u64,
    },
    /// It does not.
    Down {
        /// Seconds since 1970.
        since: u64,
        /// In words for people.
        reason: String,
    },
}

impl Health {
    /// Notes an answer; true if that is news.
    pub fn up(&mut self) -> bool {
        let news = !self.is_up();
        if news {
            *self = Self::Up { since: unix() };
        }
        news
    }

    /// Notes that there is none; true if that is news. The time of the first such note stays.
    pub fn down(&mut self, why: &str) -> bool {
        match self {
            Self::Down { reason, .. } if reason == why => false,
            Self::Down { reason, .. } => {
                why.clone_into(reason);
                true
            }
            _ => {
                *self = Self::Down { since: unix(), reason: why.to_owned() };
                true
            }
        }
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// The best block.
#[derive(Debug, Clone, PartialEq)]
pub struct Tip {
    /// Its hash.
    pub hash: String,
    /// Its height.
    pub height: u32,
}

/// The block that the node would make now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NextBlock {
    /// Its height.
    pub height: u32,
    /// Satoshis, fees included.
    pub value: u64,
    /// Weight of the transactions.
    pub weight: u64,
    /// The most there may be.
    pub weight_limit: u64,
    /// In order, without the coinbase.
    pub transactions: Vec<NextTransaction>,
}

/// A transaction of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NextTransaction {
    /// Its id.
    pub txid: String,
    /// Satoshis.
    pub fee: u64,
    /// Weight units.
    pub weight: u64,
}

impl NextBlock {
    /// Satoshis.
    pub fn fees(&self) -> u64 {
        self.transactions.iter().map(|tx| tx.fee).sum()
    }
}

/// The node.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// Whether it answers.
    pub health: Health,
    /// Its chain by the node's name: `main`, `regtest`, ...
    pub chain: String,
    /// Whether it still catches up.
    pub syncing: bool,
    /// Version, peers, difficulty.
    pub facts: NodeFacts,
    /// The best block.
    pub tip: Option<Tip>,
    /// When that was first seen, seconds since 1970.
    pub tip_seen: u64,
    /// The mempool.
    pub mempool: Option<MempoolInfo>,
    /// The block to come, or why the node makes none.
    pub next: Option<Result<NextBlock, String>>,
}

/// A role.
#[derive(Debug, Clone)]
pub struct RoleView {
    /// As configured.
    pub keys: RoleKeys,
    /// Whether it answers.
    pub health: Health,
    /// The last `/status` that it gave.
    pub status: Value,
    /// When that was, seconds since 1970.
    pub status_at: u64,
    /// The last `/metrics`.
    pub samples: Samples,
}

impl RoleView {
    fn new(keys: RoleKeys) -> Self {
        let (health, samples) = (Health::Unknown, Samples::default());
        Self { keys, health, status: Value::Null, status_at: 0, samples }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.keys.name
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.keys.kind
    }

    /// What it tells of its own work.
    pub fn state(&self) -> &Value {
        &self.status["state"]
    }

    /// What keeps it from its job, by its own word.
    pub fn waiting_for(&self) -> Vec<String> {
        let waiting = self.status["waiting_for"].as_array().into_iter().flatten();
        waiting.map(|w| format!("{}: {}", text(&w["condition"]), text(&w["reason"]))).collect()
    }

    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        match &self.health {
            Health::Unknown => Some("not asked yet".to_owned()),
            Health::Down { reason, .. } => Some(format!("does not answer: {reason}")),
            Health::Up { .. } if self.status["ready"] == Value::Bool(true) => None,
            Health::Up { .. } => {
                let waiting = self.waiting_for();
                Some(match waiting.is_empty() {
                    true => "not ready".to_owned(),
                    false => waiting.join("; "),
                })
            }
        }
    }
}

/// One point of the history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Seconds since 1970.
    pub at: u64,
    /// Hashes per second of all pools.
    pub hashrate: f64,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct World {
    /// The node.
    pub node: NodeView,
    /// In the order of the configuration.
    pub roles: Vec<RoleView>,
    /// Oldest first.
    pub history: VecDeque<Point>,
    /// When the explorer started, seconds since 1970.
    pub started: u64,
}

impl World {
    /// Points of history kept: an hour.
    const HISTORY: usize = 360;
    /// Seconds between them.
    const HISTORY_STEP: u64 = 10;

    /// Nothing is known yet.
    pub fn new(roles: &[RoleKeys]) -> Self {
        Self {
            node: NodeView::default(),
            roles: roles.iter().cloned().map(RoleView::new).collect(),
            history: VecDeque::new(),
            started: unix(),
        }
    }

    /// Roles of a kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &RoleView> {
        self.roles.iter().filter(move |role| role.kind() == kind)
    }

    /// A role by its name.
    pub fn role(&self, name: &str) -> Option<&RoleView> {
        self.roles.iter().find(|role| role.name() == name)
    }

    /// Hashes per second of all pools' channels. `None` if no pool answers.
    pub fn hashrate(&self) -> Option<f64> {
        let pools = || self.of_kind(Kind::Pool).filter(|pool| pool.health.is_up());
        pools().next()?;
        Some(pools().map(hashrate_of).sum())
    }

    /// Notes the hashrate for the curve, if it is time to.
    pub fn remember(&mut self) {
        let now = unix();
        if self.history.back().is_some_and(|last| now < last.at + Self::HISTORY_STEP) {
            return;
        }
        if let Some(hashrate) = self.hashrate() {
            self.history.push_back(Point { at: now, hashrate });
            while self.history.len() > Self::HISTORY {
                self.history.pop_front();
            }
        }
    }
}

/// Hashes per second of a pool, JDC or translator: as it says, or of all channels that it lists.
pub fn hashrate_of(role: &RoleView) -> f64 {
    let state = role.state();
    let summed = || channels(state).iter().filter_map(|channel| channel["hashrate"].as_f64()).sum();
    state["hashrate"].as_f64().unwrap_or_else(summed)
}

/// The entries of a JSON list; none if it is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A JSON text; empty if it is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Seconds since 1970.
pub fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
