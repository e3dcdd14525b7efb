//! Jobs that miners chose themselves: at the JDC that makes them, the JDS that judges them, the pool that pays them.

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::format::{btc, cut, grouped, short, span};
use super::parts::badge;
use crate::config::Kind;
use crate::world::{RoleView, World, list, text};

/// Entries shown of each list.
const SHOWN: usize = 50;

/// A section for each role that has to do with such jobs.
pub fn sections(world: &World) -> Markup {
    html! {
        @for role in &world.roles {
            @match role.kind() {
                Kind::Jdc => (section(role, "Own jobs of", &of_client(role))),
                Kind::Jds => (section(role, "Declared jobs at", &of_server(role))),
                Kind::Pool if !role.state()["custom_jobs"].is_null() => (section(role, "Miners' own jobs at", &of_pool(role))),
                _ => (PreEscaped("")),
            }
        }
    }
}

fn section(role: &RoleView, title: &str, content: &Markup) -> Markup {
    html! {
        section id={ "jobs-" (role.name()) } {
            div.head { h2 { (title) " " a href={ "/role/" (role.name()) } { (role.name()) } } }
            (content)
        }
    }
}

/// A table of texts, with numbers to the right.
fn table(columns: &[(&str, bool)], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { @for (name, number) in columns { th.num[*number] { (name) } } } }
                tbody {
                    @for row in rows {
                        tr { @for ((_, number), cell) in columns.iter().zip(row) { td.num[*number] { (cell) } } }
                    }
                }
            }
        }
    }
}

fn of_client(role: &RoleView) -> Markup {
    let state = role.state();
    let job = &state["job"];
    let upstreams = list(&state["upstreams"]).iter().take(SHOWN).map(|upstream| {
        let used = upstream["in_use"] == Value::Bool(true);
        let usable = upstream["usable"] == Value::Bool(true);
        vec![
            html! { @if used { (badge("good", "in use")) } @else if usable { (badge("", "well")) } @else { (badge("waiting", "not usable")) } },
            html! { span.mono { (cut(text(&upstream["pool"]), 40)) } " " span.dim { (cut(text(&upstream["pool_state"]), 60)) } },
            html! { span.mono { (cut(text(&upstream["jds"]), 40)) } " " span.dim { (cut(text(&upstream["jds_state"]), 60)) } },
            html! { (number(&upstream["tokens"])) },
            html! { (cut(text(&upstream["trouble"]), 80)) },
        ]
    });
    let upstreams: Vec<_> = upstreams.collect();
    html! {
        p {
            "Miners work on "
            strong { (match text(&state["source"]) {
                "declared" => "own jobs that the pool has accepted",
                "kept" => "the last jobs, while a new one is declared",
                "pool-jobs" => "the pool's own jobs",
                "solo" => "own jobs for nobody else: solo",
                _ => "nothing yet",
            }) }
            @if !job.is_null() {
                ". The newest job is " strong { (cut(text(&job["state"]), 40)) }
                @if let Some(age) = job["age_seconds"].as_u64() { ", begun " (span(age)) " ago" }
                @if let Some(value) = job["coinbase_value_sats"].as_u64() { ", and is worth " (btc(value)) }
            }
            "."
        }
        @if !upstreams.is_empty() {
            (table(&[("", false), ("Pool", false), ("Job declarator server", false), ("Tokens", true), ("Trouble", false)], &upstreams))
        }
    }
}

fn of_server(role: &RoleView) -> Markup {
    let state = role.state();
    let clients: Vec<_> = list(&state["clients"])
        .iter()
        .take(SHOWN)
        .map(|client| {
            vec![
                html! { span.mono { (cut(text(&client["remote"]), 40)) } },
                html! { (cut(text(&client["vendor"]), 40)) },
                html! { (cut(text(&client["mode"]), 30)) },
                html! { (number(&client["pending"])) },
                html! { (number(&client["accepted"])) },
                html! { (number(&client["refused"])) },
            ]
        })
        .collect();
    let refusals: Vec<_> = list(&state["refusals"])
        .iter()
        .take(10)
        .map(|refusal| {
            vec![
                html! { span.mono { (cut(text(&refusal["remote"]), 40)) } },
                html! { span.reject { (cut(text(&refusal["code"]), 40)) } },
                html! { (cut(text(&refusal["details"]), 120)) },
            ]
        })
        .collect();
    html! {
        p {
            (number(&state["jobs"])) " declared jobs are held, "
            (number(&state["checks"])) " wait for a check, "
            (number(&state["mempool"]["transactions"])) " transactions are known."
        }
        @if clients.is_empty() { p.empty { "Nobody is connected." } } @else {
            (table(&[("Client", false), ("Software", false), ("Mode", false), ("Pending", true), ("Accepted", true), ("Refused", true)], &clients))
        }
        @if !refusals.is_empty() {
            h3 { "Refused lately" }
            (table(&[("Client", false), ("Code", false), ("Details", false)], &refusals))
        }
    }
}

fn of_pool(role: &RoleView) -> Markup {
    let jobs: Vec<_> = list(&role.state()["custom_jobs"]["live"]).iter().take(SHOWN).map(|job| vec![
        html! { span.worker { (cut(text(&job["identity"]), 40)) } },
        html! { (number(&job["job_id"])) },
        html! { (cut(text(&job["mode"]), 30)) },
        html! { span.mono { (short(&cut(text(&job["prev_hash"]), 64))) } },
        html! { @match job["value_sats"].as_u64() { Some(value) => (btc(value)), None => "–" } },
        html! { @match job["paid_to_pool_sats"].as_u64() { Some(value) => (btc(value)), None => "–" } },
        html! { (number(&job["merkle_steps"])) },
        html! { @match job["age_seconds"].as_u64() { Some(age) => { (span(age)) " ago" } None => "–" } },
    ]).collect();
    html! {
        @if jobs.is_empty() { p.empty { "No channel works on a job of its own." } } @else {
            (table(&[("Worker", false), ("Job", true), ("Mode", false), ("On", false), ("Worth", true), ("To the pool", true), ("Merkle steps", true), ("Set", true)], &jobs))
        }
    }
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("–".to_owned(), grouped)
}
