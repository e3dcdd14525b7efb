//! The picture of the lab: who works for whom, what each does, and what is wrong where something is.

use maud::{Markup, html};
use serde_json::Value;

use super::format::{count, cut, grouped, hashrate, span};
use super::layout::Plan;
use super::parts::kind_mark;
use crate::attribution::channels;
use crate::config::Kind;
use crate::topology::{Place, Topology};
use crate::world::{Health, RoleView, World, hashrate_of, list, text};

/// A box.
struct Figure {
    place: Place,
    layer: usize,
    name: String,
    href: Option<String>,
    mark: &'static str,
    state: &'static str,
    lines: Vec<String>,
    /// In full, for who points at it.
    title: String,
}

/// Sizes in the picture's own unit.
const WIDTH: f64 = 194.0;
const HEIGHT: f64 = 92.0;
const GAP: f64 = 44.0;
/// Characters that fit into a line of a box.
const LINE: usize = 29;

/// The picture, from the nodes on the left to the miners on the right; on narrow screens a list that is read from top
/// to bottom.
pub fn picture(world: &World, node_url: &str) -> Markup {
    let topology = Topology::of(world, node_url);
    let figures = figures(world, &topology);
    html! {
        div.flow { (drawn(&figures, &topology)) }
        ol.chainlist {
            @for figure in &figures {
                li data-state=(figure.state) data-layer=(figure.layer.min(6)) {
                    strong { @match &figure.href { Some(href) => a href=(href) { (figure.name) }, None => (figure.name) } }
                    span.mark { (figure.mark) }
                    span.does { (figure.lines.join(" · ")) }
                }
            }
        }
    }
}

/// All boxes, the nodes first.
fn figures(world: &World, topology: &Topology) -> Vec<Figure> {
    let mut figures = vec![node(world)];
    for (index, url) in topology.other_nodes.iter().enumerate() {
        figures.push(other_node(world, index, url));
    }
    let layer = |index: usize| topology.layer(Place::Role(index));
    let servers = world.roles.iter().enumerate().filter(|(_, r)| r.kind() != Kind::MiningDevice);
    // Miners stand in one row at the end, however short their way is.
    let last = servers.map(|(index, _)| layer(index)).max().unwrap_or(0) + 1;
    for (index, role) in world.roles.iter().enumerate() {
        let layer = match role.kind() {
            Kind::MiningDevice => last,
            _ => layer(index),
        };
        figures.push(Figure { layer, ..figure(index, role) });
    }
    // Roles of a layer stay as configured.
    figures.sort_by_key(|figure| figure.layer);
    figures
}

fn drawn(figures: &[Figure], topology: &Topology) -> Markup {
    let position = |place: Place| figures.iter().position(|figure| figure.place == place);
    let edges =
        topology.edges.iter().filter_map(|(from, to)| Some((position(*to)?, position(*from)?)));
    let edges: Vec<(usize, usize)> = edges.collect();
    let layers: Vec<usize> = figures.iter().map(|figure| figure.layer).collect();
    let plan = Plan::new(&layers, &edges, HEIGHT);
    let left = |layer: usize| layer as f64 * (WIDTH + GAP);
    let deepest = layers.iter().copied().max().unwrap_or(0);
    let (width, height) = (left(deepest) + WIDTH, plan.height());
    let drawn = edges.iter().enumerate().map(|(edge, (above, below))| {
        let state = match (figures[*above].state, figures[*below].state) {
            ("good", "good") => "good",
            (a, b) if a == "gone" || b == "gone" => "gone",
            _ => "waiting",
        };
        let mut path = String::new();
        let mut last = (left(layers[*above]) + WIDTH, plan.middle(*above));
        path.push_str(&format!("M{:.0} {:.1}", last.0, last.1));
        for (layer, y) in plan.way(edge) {
            path.push_str(&bend(last, (left(layer), y)));
            path.push_str(&format!(" H{:.0}", left(layer) + WIDTH));
            last = (left(layer) + WIDTH, y);
        }
        path.push_str(&bend(last, (left(layers[*below]), plan.middle(*below))));
        (path, state)
    });
    html! {
        svg viewBox={ "-2 -2 " (width + 4.0) " " (height + 4.0) } role="img" aria-label="The roles and their connections" {
            @for (path, state) in drawn { path.edge data-state=(state) d=(path) {} }
            @for (at, figure) in figures.iter().enumerate() {
                (drawn_figure(figure, left(figure.layer), plan.middle(at) - HEIGHT / 2.0))
            }
        }
    }
}

fn bend((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    let middle = (x1 + x2) / 2.0;
    format!(" C{middle:.0} {y1:.1} {middle:.0} {y2:.1} {x2:.0} {y2:.1}")
}

fn drawn_figure(figure: &Figure, x: f64, y: f64) -> Markup {
    let inner = html! {
        g.figure data-state=(figure.state) transform=(format!("translate({x:.0} {y:.1})")) {
            title { (figure.title) }
            rect.box width=(WIDTH) height=(HEIGHT) rx="12" {}
            circle.dot cx="18" cy="21" r="5" {}
            text.name x="31" y="26" { (cut(&figure.name, 18)) }
            @for (at, line) in figure.lines.iter().take(2).enumerate() {
                text.line x="14" y=(49 + at * 18) { (cut(line, LINE)) }
            }
            text.mark x=(WIDTH - 12.0) y=(HEIGHT - 8.0) text-anchor="end" { (figure.mark) }
        }
    };
    html! { @match &figure.href { Some(href) => a href=(href) { (inner) }, None => (inner) } }
}

fn node(world: &World) -> Figure {
    let node = &world.node;
    let (state, lines) = match &node.health {
        Health::Up { .. } => {
            let height = node.tip.as_ref().map_or(0, |tip| tip.height);
            let mempool = node.mempool.as_ref().map_or(0, |mempool| mempool.size);
            (
                "good",
                vec![
                    format!("height {}", grouped(height.into())),
                    format!("mempool {} tx", grouped(mempool)),
                ],
            )
        }
        Health::Down { reason, .. } => ("gone", wrapped(reason)),
        Health::Unknown => ("waiting", vec!["not asked yet".to_owned()]),
    };
    let title = format!("node: {}", lines.join(", "));
    let (place, href) = (Place::Node, Some("/role/node".to_owned()));
    Figure { place, layer: 0, name: "bitcoind".to_owned(), href, mark: "NODE", state, lines, title }
}

/// A node that only template providers talk to: what they say of it.
fn other_node(world: &World, index: usize, url: &str) -> Figure {
    let nodes = world.roles.iter().filter(|role| role.health.is_up());
    let told =
        nodes.flat_map(|role| list(&role.state()["nodes"])).find(|node| text(&node["url"]) == url);
    let problem = told.and_then(|node| node["problem"].as_str());
    let (state, lines) = match (told, problem) {
        (None, _) => ("waiting", vec!["nothing is known of it".to_owned()]),
        (_, Some(problem)) => ("gone", wrapped(problem)),
        (Some(node), None) => (
            "good",
            vec![
                format!("height {}", grouped(node["height"].as_u64().unwrap_or(0))),
                count(node["peers"].as_u64().unwrap_or(0), "peer"),
            ],
        ),
    };
    let name = format!("bitcoind {}", index + 2);
    let title = format!("{url}: {}", lines.join(", "));
    Figure {
        place: Place::OtherNode(index),
        layer: 0,
        name,
        href: None,
        mark: "NODE",
        state,
        lines,
        title,
    }
}

fn figure(index: usize, role: &RoleView) -> Figure {
    let problem = role.problem();
    let state = match (&role.health, &problem) {
        (Health::Up { .. }, None) => "good",
        (Health::Down { .. }, _) => "gone",
        _ => "waiting",
    };
    let lines = match &problem {
        Some(problem) => wrapped(problem),
        None => activity(role),
    };
    Figure {
        place: Place::Role(index),
        layer: 0,
        name: role.name().to_owned(),
        href: Some(format!("/role/{}", role.name())),
        mark: kind_mark(role.kind()),
        state,
        title: format!(
            "{} ({}): {}",
            role.name(),
            role.kind().title(),
            problem.unwrap_or_else(|| lines.join(", "))
        ),
        lines,
    }
}

/// What it does, in two lines.
fn activity(role: &RoleView) -> Vec<String> {
    let state = role.state();
    let number = |value: &Value| grouped(value.as_u64().unwrap_or(0));
    match role.kind() {
        Kind::TemplateProvider => {
            let template = &state["template"];
            let age = template["age_seconds"].as_u64().map_or("none yet".to_owned(), span);
            let clients = list(&state["clients"]).len();
            vec![
                format!("template {age} old, {} tx", number(&template["transactions"])),
                count(clients as u64, "client"),
            ]
        }
        Kind::Pool | Kind::Jdc => {
            let rate = hashrate_of(role);
            let blocks = list(&state["blocks"]).len();
            let open = state["channels_open"].as_u64().unwrap_or(channels(state).len() as u64);
            vec![
                format!("{}, {}", count(open, "channel"), hashrate(rate)),
                match role.kind() {
                    Kind::Pool => {
                        format!("{} found", count(blocks as u64, "block"))
                    }
                    _ => match text(&state["source"]) {
                        "declared" => "own jobs, declared".to_owned(),
                        "kept" => "declaring a new job".to_owned(),
                        "pool-jobs" => "the pool's jobs".to_owned(),
                        "solo" => "own jobs, solo".to_owned(),
                        _ => "no work yet".to_owned(),
                    },
                },
            ]
        }
        Kind::Jds => {
            let clients = list(&state["clients"]).len();
            vec![
                count(clients as u64, "client"),
                count(state["jobs"].as_u64().unwrap_or(0), "declared job"),
            ]
        }
        Kind::Translator => {
            let miners = state["miners_total"].as_u64().unwrap_or(0);
            let rate = state["hashrate"].as_f64().unwrap_or(0.0);
            vec![
                format!("{}, {}", count(miners, "miner"), hashrate(rate)),
                count(state["shares"]["accepted"].as_u64().unwrap_or(0), "share"),
            ]
        }
        Kind::MiningDevice => vec![
            format!(
                "{}, {}",
                text(&state["mode"]),
                hashrate(state["hashrate"].as_f64().unwrap_or(0.0))
            ),
            format!(
                "{} shares, {} rejected",
                number(&state["shares_accepted"]),
                number(&state["shares_rejected"])
            ),
        ],
    }
}

/// A text over two lines, broken at a space where there is one.
fn wrapped(text: &str) -> Vec<String> {
    if text.chars().count() <= LINE {
        return vec![text.to_owned()];
    }
    let end = text.char_indices().nth(LINE).map_or(text.len(), |(at, _)| at);
    let at = text[..end].rfind(' ').filter(|at| *at > 8).unwrap_or(end);
    vec![text[..at].to_owned(), text[at..].trim_start().to_owned()]
}
