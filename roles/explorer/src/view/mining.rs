//! The mining side: workers, channels, latencies, declared jobs.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::Value;

use super::format::{cut, difficulty, grouped, hashrate, latency, span};
use super::parts::tile;
use super::{Live, layout};
use crate::App;
use crate::attribution::{channels, worker_of};
use crate::config::Kind;
use crate::world::{RoleView, World, list, text};

/// Workers and channels shown of each.
const SHOWN: usize = 200;

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
    pub difficulty: f64,
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
        self.rejected.values().sum()
    }
}

/// Everybody who mines: at the pools, and behind the roles in front of them, where the pool sees only a channel.
pub fn workers(world: &World) -> Vec<Worker> {
    let mut workers = BTreeMap::<(String, String), Worker>::new();
    // Nearest to the miner first: what it says of a worker is more than what the next one up can say.
    let mut roles: Vec<&RoleView> = world.roles.iter().filter(|role| role.health.is_up()).collect();
    roles.sort_by_key(|role| std::cmp::Reverse(role.kind()));
    let mut told: BTreeMap<String, Kind> = BTreeMap::new();
    for role in roles {
        if !matches!(role.kind(), Kind::Pool | Kind::Jdc | Kind::Translator) {
            continue;
        }
        for channel in channels(role.state()) {
            let name = worker_of(channel);
            let nearest = *told.entry(name.clone()).or_insert(role.kind());
            if nearest != role.kind() {
                continue;
            }
            let key = (name.clone(), role.name().to_owned());
            let worker = workers.entry(key).or_insert_with(|| Worker {
                name,
                at: role.name().to_owned(),
                ..Worker::default()
            });
            add(worker, channel);
        }
    }
    let mut workers: Vec<_> = workers.into_values().collect();
    workers.sort_by(|a, b| b.hashrate.total_cmp(&a.hashrate).then_with(|| a.name.cmp(&b.name)));
    workers
}

fn add(worker: &mut Worker, channel: &Value) {
    worker.channels += 1;
    worker.hashrate += channel["hashrate"].as_f64().unwrap_or(0.0);
    worker.difficulty = channel["difficulty"].as_f64().unwrap_or(worker.difficulty);
    let accepted = ["accepted", "shares_accepted"].iter().find_map(|key| channel[*key].as_u64());
    worker.accepted += accepted.unwrap_or(0);
    let rejected = ["rejected", "shares_rejected"].iter().map(|key| &channel[*key]);
    for (reason, count) in rejected.filter_map(Value::as_object).flatten() {
        *worker.rejected.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
    }
    for key in ["best_share", "best_difficulty", "best_share_difficulty"] {
        if let Some(best) = channel[key].as_f64() {
            worker.best = Some(worker.best.unwrap_or(0.0).max(best));
        }
    }
    let last = ["last_share_age_seconds", "last_share_seconds"];
    if let Some(age) = last.iter().find_map(|key| channel[*key].as_u64()) {
        worker.last_share = Some(worker.last_share.map_or(age, |known| known.min(age)));
    }
    let agent = ["user_agent", "vendor"].iter().map(|key| text(&channel[*key]));
    if let Some(agent) = agent.into_iter().find(|agent| !agent.is_empty())
        && !worker.agents.iter().any(|known| known == agent)
    {
        worker.agents.push(agent.to_owned());
    }
}

/// Accepted and rejected shares of all.
pub fn share_note(workers: &[Worker]) -> Markup {
    let accepted: u64 = workers.iter().map(|worker| worker.accepted).sum();
    let rejected: u64 = workers.iter().map(Worker::rejects).sum();
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
                                td.num { (difficulty(worker.difficulty)) }
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

fn rejects(reasons: &BTreeMap<String, u64>) -> Markup {
    html! {
        @if reasons.is_empty() { span.dim { "none" } }
        @for (reason, count) in reasons.iter().take(6) { span.reject { (grouped(*count)) " " (cut(reason, 40)) } " " }
    }
}

/// The page.
pub fn page(app: &App) -> Markup {
    let world = app.world();
    let workers = workers(&world);
    let main = html! {
        h1.hidden { "Mining" }
        section.tiles id="tiles" {
            (tile("Pool hashrate", &html! { @match world.hashrate() { Some(rate) => (hashrate(rate)), None => "–" } }, &html! {}))
            (tile("Workers", &html! { (grouped(workers.len() as u64)) }, &share_note(&workers)))
            @for role in world.of_kind(Kind::TemplateProvider) { (template(role)) }
        }
        section id="workers" {
            div.head { h2 { "Workers" } span.dim { "as the role next to them counts them" } }
            (worker_table(&workers, SHOWN))
        }
        section id="latencies" {
            div.head { h2 { "How quick it is" } span.dim { "since each role's start; the upper end of a histogram's bucket" } }
            (latencies(&world))
        }
        @for role in world.roles.iter().filter(|role| matches!(role.kind(), Kind::Pool | Kind::Jdc | Kind::Translator)) {
            (role_channels(role))
        }
        (declared(&world))
    };
    layout(&world, "Mining", "/mining", Live::Always, &main)
}

fn template(role: &RoleView) -> Markup {
    let template = &role.state()["template"];
    let age = template["age_seconds"].as_u64();
    tile(
        "Template age",
        &html! { @match age { Some(age) if role.health.is_up() => (span(age)), _ => "–" } },
        &html! {
            span {
                a href={ "/role/" (role.name()) } { (role.name()) }
                @if let Some(count) = template["transactions"].as_u64() { ", " (grouped(count)) " transactions" }
            }
        },
    )
}

/// What is measured, by the end of a family's name.
const LATENCIES: [(&str, &str); 9] = [
    (
        "adit_template_provider_tip_latency_seconds",
        "New tip to its SetNewPrevHash handed to every client",
    ),
    ("adit_pool_job_fan_out_seconds", "New previous hash to the last miner written to"),
    ("adit_jdc_job_fan_out_seconds", "New previous hash to the last miner written to"),
    ("adit_translator_notify_fan_out_seconds", "New previous hash to a V1 miner's notify written"),
    ("adit_pool_share_ack_seconds", "Share to its acknowledgement"),
    ("adit_jdc_share_ack_seconds", "Share to its acknowledgement"),
    ("adit_pool_store_commit_seconds", "A batch of shares to the disk"),
    ("adit_jds_declaration_seconds", "Declaration to its answer"),
    ("adit_template_provider_rpc_duration_seconds", "Call to the node"),
];

fn latencies(world: &World) -> Markup {
    let measured = world.roles.iter().flat_map(|role| {
        LATENCIES
            .iter()
            .filter(|(family, _)| role.samples.count(family) > 0.0)
            .map(move |l| (role, l))
    });
    let rows: Vec<_> = measured.collect();
    let value = |role: &RoleView, family: &str, quantile: f64| {
        role.samples.quantile(family, quantile).map_or("–".to_owned(), latency)
    };
    html! {
        @if rows.is_empty() {
            p.empty { "Nothing has been measured yet." }
        } @else {
            div.scroll {
                table {
                    thead { tr { th { "Role" } th { "From … to" } th.num { "Half within" } th.num { "99 % within" } th.num { "Measured" } } }
                    tbody {
                        @for (role, (family, title)) in rows {
                            tr {
                                td { a.hop href={ "/role/" (role.name()) } { (role.name()) } }
                                td title=(family) { (title) }
                                td.num { (value(role, family, 0.5)) }
                                td.num { (value(role, family, 0.99)) }
                                td.num { (grouped(role.samples.count(family) as u64)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The channels of a pool, JDC or translator, one by one.
fn role_channels(role: &RoleView) -> Markup {
    let channels = channels(role.state());
    html! {
        section id={ "channels-" (role.name()) } {
            div.head {
                h2 { "Channels at " a href={ "/role/" (role.name()) } { (role.name()) } }
                span.dim { (grouped(channels.len() as u64)) }
            }
            @if channels.is_empty() {
                p.empty { @if role.health.is_up() { "No channel is open." } @else { "Nothing is known of its channels." } }
            } @else {
                div.scroll {
                    table {
                        thead { tr { th { "Kind" } th.num { "Id" } th { "Worker" } th { "From" } th { "Extranonce prefix" } th.num { "Hashrate" } th.num { "Difficulty" } th.num { "Accepted" } th { "Rejected" } th.num { "Last share" } } }
                        tbody {
                            @for channel in channels.iter().take(SHOWN) { (channel_row(channel)) }
                        }
                    }
                }
                @if channels.len() > SHOWN { p.dim { "and " (grouped((channels.len() - SHOWN) as u64)) " more" } }
            }
        }
    }
}

fn channel_row(channel: &Value) -> Markup {
    let mut one = Worker { name: worker_of(channel), ..Worker::default() };
    add(&mut one, channel);
    let inner = &channel["channel"];
    let id = channel["id"].as_u64().or(inner["id"].as_u64());
    let group = channel["group_channel_id"].as_u64().or(inner["group_channel_id"].as_u64());
    let prefix = match text(&channel["extranonce_prefix"]) {
        "" => format!("{}{}", text(&inner["extranonce_prefix"]), text(&channel["extranonce1"])),
        prefix => prefix.to_owned(),
    };
    let remote = ["remote", "address"].iter().map(|key| text(&channel[*key]));
    let remote = remote.into_iter().find(|remote| !remote.is_empty()).unwrap_or_default();
    let kind = if channel["user_agent"].is_null() { text(&channel["kind"]) } else { "V1 miner" };
    html! {
        tr {
            td { (cut(kind, 20)) }
            td.num { @match id { Some(id) => (id), None => "–" } @if let Some(group) = group { span.dim { " of " (group) } } }
            td { span.worker title=(one.name) { (cut(&one.name, 40)) } }
            td { span.mono.dim { (cut(remote, 40)) } }
            td { span.mono { (cut(&prefix, 40)) } }
            td.num { (hashrate(one.hashrate)) }
            td.num { (difficulty(one.difficulty)) }
            td.num { (grouped(one.accepted)) }
            td { (rejects(&one.rejected)) }
            td.num { @match one.last_share { Some(age) => { (span(age)) " ago" } None => "none yet" } }
        }
    }
}

/// Jobs that miners declared, where there are roles for it.
fn declared(world: &World) -> Markup {
    let roles: Vec<_> =
        world.roles.iter().filter(|role| matches!(role.kind(), Kind::Jds | Kind::Jdc)).collect();
    html! {
        @for role in roles {
            section id={ "declared-" (role.name()) } {
                div.head {
                    h2 { "Declared jobs at " a href={ "/role/" (role.name()) } { (role.name()) } }
                }
                (declarations(role))
            }
        }
    }
}

fn declarations(role: &RoleView) -> Markup {
    let state = role.state();
    let jobs = ["declared_jobs", "jobs", "declarations"].map(|key| list(&state[key]));
    let jobs = jobs.into_iter().find(|jobs| !jobs.is_empty()).unwrap_or_default();
    let columns = jobs.first().and_then(Value::as_object).map(|job| job.keys().collect::<Vec<_>>());
    html! {
        @match columns {
            None => p.empty { "None is listed." },
            Some(columns) => {
                div.scroll {
                    table {
                        thead { tr { @for column in &columns { th { (cut(&column.replace('_', " "), 30)) } } } }
                        tbody {
                            @for job in jobs.iter().take(50) {
                                tr { @for column in &columns { td { (plain(&job[column.as_str()])) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Any value in a cell.
fn plain(value: &Value) -> Markup {
    html! {
        @match value {
            Value::Null => "–",
            Value::String(text) => span.mono title=(text) { (super::format::short(&cut(text, 100))) },
            other => (cut(&other.to_string(), 60)),
        }
    }
}
