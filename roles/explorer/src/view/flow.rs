//! The picture of the lab: who works for whom, what each does, and what is wrong where something is.

use maud::{Markup, html};
use serde_json::Value;

use super::format::{cut, grouped, hashrate, span};
use super::parts::kind_mark;
use crate::attribution::channels;
use crate::config::Kind;
use crate::topology::{Place, Topology};
use crate::world::{Health, RoleView, World, list, text};

/// A box.
struct Figure {
    place: Place,
    name: String,
    href: Option<String>,
    mark: &'static str,
    state: &'static str,
    lines: Vec<String>,
    /// In full, for who points at it.
    title: String,
}

/// Sizes in the picture's own unit.
const WIDTH: f64 = 186.0;
const HEIGHT: f64 = 84.0;
const GAP_ALONG: f64 = 62.0;
const GAP_ACROSS: f64 = 20.0;
/// Characters that fit into a line of a box.
const LINE: usize = 27;
/// Boxes side by side on a narrow screen.
const NARROW: usize = 2;

/// The picture, from the nodes on the left to the miners on the right; on narrow screens from top to bottom.
pub fn picture(world: &World, node_url: &str) -> Markup {
    let topology = Topology::of(world, node_url);
    let layers = layers(world, &topology);
    html! {
        div.flow.wide { (drawn(&layers, &topology, false)) }
        div.flow.narrow { (drawn(&layers, &topology, true)) }
    }
}

fn layers(world: &World, topology: &Topology) -> Vec<Vec<Figure>> {
    let mut layers: Vec<Vec<Figure>> = vec![vec![node(world)]];
    for (index, url) in topology.other_nodes.iter().enumerate() {
        layers[0].push(other_node(world, index, url));
    }
    let deepest = |kind: fn(&RoleView) -> bool| {
        let roles = world.roles.iter().enumerate().filter(move |(_, role)| kind(role));
        roles.map(|(index, _)| topology.layer(Place::Role(index))).max().unwrap_or(0)
    };
    // Miners stand in one row at the end, however short their way is.
    let last = deepest(|_| true).max(deepest(|role| role.kind() != Kind::MiningDevice) + 1);
    for (index, role) in world.roles.iter().enumerate() {
        let layer = match role.kind() {
            Kind::MiningDevice => last,
            _ => topology.layer(Place::Role(index)),
        };
        while layers.len() <= layer {
            layers.push(Vec::new());
        }
        layers[layer].push(figure(index, role));
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

fn drawn(layers: &[Vec<Figure>], topology: &Topology, narrow: bool) -> Markup {
    let mut placed: Vec<(&Figure, f64, f64)> = Vec::new();
    let (mut width, mut height) = (0.0_f64, 0.0_f64);
    if narrow {
        width = NARROW as f64 * (WIDTH + GAP_ACROSS) - GAP_ACROSS;
        for layer in layers {
            for row in layer.chunks(NARROW) {
                let used = row.len() as f64 * (WIDTH + GAP_ACROSS) - GAP_ACROSS;
                for (at, figure) in row.iter().enumerate() {
                    placed.push((
                        figure,
                        (width - used) / 2.0 + at as f64 * (WIDTH + GAP_ACROSS),
                        height,
                    ));
                }
                height += HEIGHT + GAP_ACROSS;
            }
            height += GAP_ALONG - GAP_ACROSS - 22.0;
        }
        height -= GAP_ALONG - 22.0;
    } else {
        for layer in layers {
            height = height.max(layer.len() as f64 * (HEIGHT + GAP_ACROSS) - GAP_ACROSS);
        }
        for layer in layers {
            let used = layer.len() as f64 * (HEIGHT + GAP_ACROSS) - GAP_ACROSS;
            for (at, figure) in layer.iter().enumerate() {
                placed.push((
                    figure,
                    width,
                    (height - used) / 2.0 + at as f64 * (HEIGHT + GAP_ACROSS),
                ));
            }
            width += WIDTH + GAP_ALONG;
        }
        width -= GAP_ALONG;
    }
    let at = |place: Place| placed.iter().find(|(figure, _, _)| figure.place == place);
    let edges = topology.edges.iter().filter_map(|(from, to)| {
        let ((below, x1, y1), (above, x2, y2)) = (at(*from)?, at(*to)?);
        let state = match (below.state, above.state) {
            ("good", "good") => "good",
            (a, b) if a == "gone" || b == "gone" => "gone",
            _ => "waiting",
        };
        Some((curve((*x2, *y2), (*x1, *y1), narrow), state))
    });
    let edges: Vec<_> = edges.collect();
    html! {
        svg viewBox={ "-2 -2 " (width + 4.0) " " (height + 4.0) } role="img" aria-label="The roles and their connections" {
            @for (path, state) in &edges { path.edge data-state=(state) d=(path) {} }
            @for (figure, x, y) in &placed { (drawn_figure(figure, *x, *y)) }
        }
    }
}

/// From the right side of the upstream to the left side of the one below, or from bottom to top.
fn curve((x1, y1): (f64, f64), (x2, y2): (f64, f64), narrow: bool) -> String {
    if narrow {
        let (x1, y1, x2) = (x1 + WIDTH / 2.0, y1 + HEIGHT, x2 + WIDTH / 2.0);
        let middle = (y1 + y2) / 2.0;
        return format!("M{x1} {y1} C{x1} {middle} {x2} {middle} {x2} {y2}");
    }
    let (x1, y1, y2) = (x1 + WIDTH, y1 + HEIGHT / 2.0, y2 + HEIGHT / 2.0);
    let middle = (x1 + x2) / 2.0;
    format!("M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}")
}

fn drawn_figure(figure: &Figure, x: f64, y: f64) -> Markup {
    let inner = html! {
        g.figure data-state=(figure.state) transform={ "translate(" (x) " " (y) ")" } {
            title { (figure.title) }
            rect.box width=(WIDTH) height=(HEIGHT) rx="12" {}
            circle.dot cx="17" cy="20" r="5" {}
            text.name x="30" y="25" { (cut(&figure.name, 17)) }
            text.mark x=(WIDTH - 12.0) y="24" text-anchor="end" { (figure.mark) }
            @for (at, line) in figure.lines.iter().take(2).enumerate() {
                text.line x="14" y=(48 + at * 19) { (cut(line, LINE)) }
            }
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
    Figure { place, name: "bitcoind".to_owned(), href, mark: "NODE", state, lines, title }
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
                format!("{} peers", node["peers"].as_u64().unwrap_or(0)),
            ],
        ),
    };
    let name = format!("bitcoind {}", index + 2);
    let title = format!("{url}: {}", lines.join(", "));
    Figure { place: Place::OtherNode(index), name, href: None, mark: "NODE", state, lines, title }
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
                format!("{clients} client{}", if clients == 1 { "" } else { "s" }),
            ]
        }
        Kind::Pool | Kind::Jdc => {
            let rate =
                channels(state).iter().filter_map(|channel| channel["hashrate"].as_f64()).sum();
            let blocks = list(&state["blocks"]).len();
            let open = state["channels_open"].as_u64().unwrap_or(channels(state).len() as u64);
            vec![
                format!("{open} channel{}, {}", if open == 1 { "" } else { "s" }, hashrate(rate)),
                match role.kind() {
                    Kind::Pool => {
                        format!("{blocks} block{} found", if blocks == 1 { "" } else { "s" })
                    }
                    _ => mode(state).unwrap_or_default(),
                },
            ]
        }
        Kind::Jds => {
            let clients = list(&state["clients"]).len().max(list(&state["connections"]).len());
            vec![format!("{clients} client{}", if clients == 1 { "" } else { "s" }), declared(role)]
        }
        Kind::Translator => {
            let miners = state["miners_total"].as_u64().unwrap_or(0);
            let rate = state["hashrate"].as_f64().unwrap_or(0.0);
            vec![
                format!("{miners} miner{}, {}", if miners == 1 { "" } else { "s" }, hashrate(rate)),
                format!("{} shares", number(&state["shares"]["accepted"])),
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

/// How a JDC works at present.
fn mode(state: &Value) -> Option<String> {
    ["mode", "state"].iter().find_map(|key| state[*key].as_str()).map(str::to_owned)
}

fn declared(role: &RoleView) -> String {
    let state = role.state();
    let known = ["declared_jobs", "jobs", "declarations"].iter().map(|key| &state[*key]);
    let count = known.filter_map(|value| match value {
        Value::Number(number) => number.as_u64(),
        Value::Array(jobs) => Some(jobs.len() as u64),
        _ => None,
    });
    count.max().map_or(String::new(), |count| format!("{} declared jobs", grouped(count)))
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
