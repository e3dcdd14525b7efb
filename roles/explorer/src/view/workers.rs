//! Who mines.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::Value;

use super::format::{cut, difficulty, grouped, hashrate, span};
use crate::attribution::{channels, worker_of};
use crate::config::Kind;
use crate::world::{RoleView, World, list, text};

/// One worker: all channels of a name at one role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    /// Account and worker.
    pub name: String,
    /// The role that it is connected to.
    pub at: String,
    /// What its software calls itself.
    pub agents: Vec<String>,
    /// Channels or connections.
    pub channels: usize,
    /// Hashes per second.
    pub hashrate: f64,
    /// Of the last channel.
    pub difficulty: Option<f64>,
    /// Shares.
    pub accepted: u64,
    /// Shares by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Highest difficulty of a share, where the role tells.
    pub best: Option<f64>,
    /// Seconds since the last share.
    pub last_share: Option<u64>,
}

impl Worker {
    fn rejects(&self) -> u64 {
        self.rejected.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds a channel, a connection, or a sum over those, in any of the words that roles use.
    pub fn add(&mut self, channel: &Value) {
        // A role may say anything.
        let channels = channel["channels"].as_u64().unwrap_or(1) as usize;
        self.channels = self.channels.saturating_add(channels);
        self.hashrate += channel["hashrate"].as_f64().unwrap_or(0.0);
        self.difficulty = channel["difficulty"].as_f64().or(self.difficulty);
        let accepted =
            ["accepted", "shares_accepted"].iter().find_map(|key| channel[*key].as_u64());
        self.accepted = self.accepted.saturating_add(accepted.unwrap_or(0));
        let rejected = ["rejected", "shares_rejected"].iter().map(|key| &channel[*key]);
        for (reason, count) in rejected.filter_map(Value::as_object).flatten() {
            let sum = self.rejected.entry(reason.clone()).or_default();
            *sum = sum.saturating_add(count.as_u64().unwrap_or(0));
        }
        for key in ["best_difficulty", "best_share_difficulty"] {
            if let Some(best) = channel[key].as_f64().filter(|best| *best > 0.0) {
                self.best = Some(self.best.unwrap_or(0.0).max(best));
            }
        }
        let last = ["last_share_age_seconds", "last_share_seconds"];
        if let Some(age) = last.iter().find_map(|key| channel[*key].as_u64()) {
            self.last_share = Some(self.last_share.map_or(age, |known| known.min(age)));
        }
    }

    /// Notes the software and the difficulty of a channel.
    fn software(&mut self, channel: &Value) {
        self.difficulty = channel["difficulty"].as_f64().or(self.difficulty);
        let agents = ["user_agent", "vendor"].map(|key| text(&channel[key]));
        if let Some(agent) = agents.into_iter().find(|agent| !agent.is_empty())
            && !self.agents.iter().any(|known| known == agent)
        {
            self.agents.push(agent.to_owned());
        }
    }
}

/// Everybody who mines, once each, by the role that it is connected to: those further up see only a part of it.
pub fn workers(world: &World) -> Vec<Worker> {
    let mut workers = BTreeMap::<(String, String), Worker>::new();
    // Nearest to the miner first.
    let mut roles: Vec<&RoleView> = world.roles.iter().filter(|role| role.health.is_up()).collect();
    roles.sort_by_key(|role| std::cmp::Reverse(role.kind()));
    let mut told: BTreeMap<String, Kind> = BTreeMap::new();
    let proxies: Vec<&str> = roles.iter().flat_map(|role| own_names(role)).collect();
    for role in roles {
        if !matches!(role.kind(), Kind::Pool | Kind::Jdc | Kind::Translator) {
            continue;
        }
        let state = role.state();
        // A pool knows the workers of a channel that names them in its shares.
        let summed = list(&state["workers"]);
        for channel in if summed.is_empty() { channels(state) } else { summed } {
            let name = worker_of(channel);
            let nearest = *told.entry(name.clone()).or_insert(role.kind());
            if nearest != role.kind()
                || (role.kind() != Kind::Translator && proxies.contains(&&*name))
            {
                continue;
            }
            let key = (name.clone(), role.name().to_owned());
            let at = role.name().to_owned();
            let new = || Worker { name, at, ..Worker::default() };
            workers.entry(key).or_insert_with(new).add(channel);
        }
        // What only single channels tell.
        for channel in channels(state) {
            let key = (worker_of(channel), role.name().to_owned());
            if let Some(worker) = workers.get_mut(&key) {
                worker.software(channel);
            }
        }
    }
    let mut workers: Vec<_> = workers.into_values().collect();
    workers.sort_by(|a, b| b.hashrate.total_cmp(&a.hashrate).then_with(|| a.name.cmp(&b.name)));
    workers
}

/// What a role in front of another calls itself there: its miners' work is counted under that name once more.
fn own_names(role: &RoleView) -> Vec<&str> {
    let state = role.state();
    match role.kind() {
        Kind::Jdc => {
            list(&state["upstreams"]).iter().map(|up| text(&up["user_identity"])).collect()
        }
        Kind::Translator => vec![text(&state["upstream"]["user_identity"])],
        _ => Vec::new(),
    }
}

/// Accepted and rejected shares of all.
pub fn share_note(workers: &[Worker]) -> Markup {
    let accepted = workers.iter().fold(0, |sum: u64, w| sum.saturating_add(w.accepted));
    let rejected = workers.iter().fold(0, |sum: u64, w| sum.saturating_add(w.rejects()));
    html! {
        span { (grouped(accepted)) " shares accepted" }
        span { (grouped(rejected)) " rejected" }
    }
}

/// The list of them.
pub fn worker_table(workers: &[Worker], shown: usize) -> Markup {
    html! {
        @if workers.is_empty() {
            p.empty { "Nobody mines, or no role that knows of miners answers." }
        } @else {
            div.scroll {
                table.workers {
                    thead {
                        tr {
                            th { "Worker" } th { "At" } th { "Software" } th.num { "Hashrate" } th.num { "Difficulty" }
                            th.num { "Accepted" } th { "Rejected" } th.num { "Best share" } th.num { "Last share" }
                        }
                    }
                    tbody {
                        @for worker in workers.iter().take(shown) {
                            tr {
                                td { span.worker title=(worker.name) { (cut(&worker.name, 40)) }
                                    @if worker.channels > 1 { " " span.dim { "×" (worker.channels) } } }
                                td { a.hop href={ "/role/" (worker.at) } { (worker.at) } }
                                td { span.dim { (cut(&worker.agents.join(", "), 40)) } }
                                td.num { (hashrate(worker.hashrate)) }
                                td.num { @match worker.difficulty { Some(now) => (difficulty(now)), None => "–" } }
                                td.num { (grouped(worker.accepted)) }
                                td { (rejects(&worker.rejected)) }
                                td.num { @match worker.best { Some(best) => (difficulty(best)), None => "–" } }
                                td.num { @match worker.last_share { Some(age) => { (span(age)) " ago" } None => "none yet" } }
                            }
                        }
                    }
                }
            }
            @if workers.len() > shown { p.dim { "and " (grouped((workers.len() - shown) as u64)) " more" } }
        }
    }
}

/// Refused shares by reason.
pub fn rejects(reasons: &BTreeMap<String, u64>) -> Markup {
    html! {
        @if reasons.is_empty() { span.dim { "none" } }
        @for (reason, count) in reasons.iter().take(6) { span.reject { (grouped(*count)) " " (cut(reason, 40)) } " " }
    }
}
