//! The mining side: workers, channels, latencies, declared jobs.

use maud::{Markup, html};
use serde_json::Value;

use super::format::{cut, difficulty, grouped, hashrate, latency, span};
use super::parts::tile;
use super::workers::{Worker, rejects, share_note, worker_table, workers};
use super::{Live, jobs, layout};
use crate::App;
use crate::attribution::{channels, worker_of};
use crate::config::Kind;
use crate::world::{RoleView, World, text};

/// Workers and channels shown of each.
const SHOWN: usize = 200;

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
        (jobs::sections(&world))
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

/// What is measured, and what it means.
const LATENCIES: [(&str, &str); 11] = [
    (
        "adit_template_provider_tip_latency_seconds",
        "New tip to its SetNewPrevHash handed to every client",
    ),
    ("adit_pool_job_fan_out_seconds", "New previous hash to the last miner written to"),
    ("adit_jdc_job_fan_out_seconds", "New previous hash to the last miner written to"),
    ("adit_translator_notify_fan_out_seconds", "New previous hash to a V1 miner's notify written"),
    ("adit_pool_share_ack_seconds", "Share to its acknowledgement"),
    ("adit_pool_store_commit_seconds", "A batch of shares to the disk"),
    ("adit_jdc_job_acceptance_seconds", "Own job begun to its acceptance by the pool"),
    ("adit_jds_declaration_duration_seconds", "Declaration to its success"),
    ("adit_jds_check_wait_seconds", "Declared block waiting for its check"),
    ("adit_template_provider_rpc_duration_seconds", "Call to the node"),
    ("adit_jds_rpc_duration_seconds", "Call to the node"),
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
    one.add(channel);
    let inner = &channel["channel"];
    let id = channel["id"].as_u64().or(inner["id"].as_u64());
    let group = channel["group_channel_id"]
        .as_u64()
        .or(inner["group_channel_id"].as_u64())
        .or(channel["group"].as_u64());
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
            td.num { (difficulty(one.difficulty.unwrap_or(0.0))) }
            td.num { (grouped(one.accepted)) }
            td { (rejects(&one.rejected)) }
            td.num { @match one.last_share { Some(age) => { (span(age)) " ago" } None => "none yet" } }
        }
    }
}
