//! The roles: how they are, and what each says of itself.

use maud::{Markup, html};

use super::format::{bytes, cut, grouped, since, span};
use super::parts::{badge, facts};
use super::{Live, flow, layout};
use crate::App;
use crate::topology::{Place, Topology};
use crate::world::{Health, RoleView, World, text};

/// Characters of a role's own status that are shown.
const STATUS: usize = 60_000;

/// All of them.
pub fn page(app: &App) -> Markup {
    let world = app.world();
    let main = html! {
        section id="flow" {
            div.head { h1 { "Roles" } }
            (flow::picture(&world, &app.config.node.url))
        }
        section id="roles" {
            @if world.roles.is_empty() {
                p.empty { "No role is configured: name them in [[roles]]." }
            } @else {
                div.scroll {
                    table {
                        thead { tr { th { "Role" } th { "Kind" } th { "State" } th.num { "Running for" } th.num { "Memory" } th.num { "CPU" } th { "Version" } } }
                        tbody { @for role in &world.roles { (row(role)) } }
                    }
                }
            }
        }
    };
    layout(&world, "Roles", "/roles", Live::Always, &main)
}

fn row(role: &RoleView) -> Markup {
    html! {
        tr {
            td { a.hop data-kind=(role.kind().name()) href={ "/role/" (role.name()) } { (role.name()) } }
            td { (role.kind().title()) }
            td { (state(role)) @if let Some(problem) = role.problem() { " " span.dim { (cut(&problem, 120)) } } }
            td.num { (uptime(role)) }
            td.num { (memory(role)) }
            td.num { (cpu(role)) }
            td { (cut(text(&role.status["version"]), 20)) }
        }
    }
}

fn state(role: &RoleView) -> Markup {
    match (&role.health, role.problem()) {
        (Health::Up { .. }, None) => badge("good", "ready"),
        (Health::Up { .. }, Some(_)) => badge("waiting", "waiting"),
        (Health::Down { .. }, _) => badge("gone", "gone"),
        (Health::Unknown, _) => badge("waiting", "unknown"),
    }
}

fn uptime(role: &RoleView) -> Markup {
    let seconds = role.status["uptime_seconds"].as_u64().filter(|_| role.health.is_up());
    html! { @match seconds { Some(seconds) => (span(seconds)), None => "–" } }
}

fn memory(role: &RoleView) -> Markup {
    let memory = role.samples.sum("adit_process_resident_memory_bytes");
    html! { @match memory { Some(memory) => (bytes(memory as u64)), None => "–" } }
}

/// CPU seconds per second since the role's start.
fn cpu(role: &RoleView) -> Markup {
    let used = role.samples.sum("adit_process_cpu_seconds_total");
    let up = role.samples.sum("adit_uptime_seconds").filter(|up| *up > 0.0);
    html! { @match used.zip(up) { Some((used, up)) => { (format!("{:.1} %", used / up * 100.0)) } None => "–" } }
}

/// One of them; none if there is none of that name.
pub fn one(app: &App, name: &str) -> Option<Markup> {
    let world = app.world();
    if name == crate::config::NODE {
        return Some(node(app, &world));
    }
    let index = world.roles.iter().position(|role| role.name() == name)?;
    let role = &world.roles[index];
    let topology = Topology::of(&world, &app.config.node.url);
    let upstreams = topology.upstreams(Place::Role(index));
    let upstreams: Vec<String> = upstreams.map(|place| place_name(&world, place)).collect();
    let status = serde_json::to_string_pretty(&role.status).unwrap_or_default();
    let listeners = role.status["listeners"].as_object();
    let main = html! {
        section id="role" {
            div.head { h1 { (role.name()) } (state(role)) }
            @for waiting in role.waiting_for() { p.alarm.mild { "It waits. " (cut(&waiting, 400)) } }
            div.columns {
                (facts(&[
                    ("Kind", html! { (role.kind().title()) }),
                    ("Pages", html! { span.mono { (role.keys.url) } }),
                    ("Works for", html! {
                        @if upstreams.is_empty() { span.dim { "not known" } }
                        @for name in &upstreams { a.hop href={ "/role/" (name) } { (name) } " " }
                    }),
                    ("Listens", html! {
                        @for (name, address) in listeners.into_iter().flatten() {
                            div { (cut(name, 20)) " " span.mono { (cut(text(address), 60)) } }
                        }
                    }),
                ]))
                (facts(&[
                    ("Running for", uptime(role)),
                    ("Memory", memory(role)),
                    ("CPU since start", cpu(role)),
                    ("Version", html! { (cut(text(&role.status["version"]), 40)) }),
                    ("Answers for", html! {
                        @match &role.health {
                            Health::Up { since: at } => (since(*at)),
                            Health::Down { since: at, .. } => { "gone for " (since(*at)) }
                            Health::Unknown => "not asked yet",
                        }
                    }),
                ]))
            }
        }
        section id="status" {
            div.head { h2 { "What it says of itself" } span.dim { "/status" } }
            pre { (cut(&status, STATUS)) }
        }
    };
    Some(layout(&world, role.name(), "/roles", Live::Always, &main))
}

fn place_name(world: &World, place: Place) -> String {
    match place {
        Place::Role(index) => world.roles[index].name().to_owned(),
        Place::Node | Place::OtherNode(_) => crate::config::NODE.to_owned(),
    }
}

fn node(app: &App, world: &World) -> Markup {
    let node = &world.node;
    let main = html! {
        section id="role" {
            div.head {
                h1 { "Node" }
                @match &node.health {
                    Health::Up { .. } => (badge("good", "answers")),
                    Health::Down { .. } => (badge("gone", "gone")),
                    Health::Unknown => (badge("waiting", "unknown")),
                }
            }
            (facts(&[
                ("RPC", html! { span.mono { (app.config.node.url) } }),
                ("Version", html! { (node.facts.version) }),
                ("Chain", html! { (node.chain) }),
                ("Height", html! { @match &node.tip { Some(tip) => (grouped(tip.height.into())), None => "–" } }),
                ("Peers", html! { (node.facts.peers) }),
                ("Blocks in the index", html! { (grouped(app.index().len() as u64)) }),
            ]))
        }
    };
    layout(world, "Node", "/roles", Live::Always, &main)
}
