//! The first page.

use maud::{Markup, html};

use super::format::{ago, btc, bytes, count, difficulty, grouped, hashrate, sats};
use super::parts::{block_link, block_table, meter, tile};
use super::workers::{share_note, worker_table, workers};
use super::{Live, flow, layout};
use crate::App;
use crate::world::{Point, World};

/// Blocks shown.
const BLOCKS: usize = 8;
/// Workers shown.
const WORKERS: usize = 8;

/// The page.
pub fn page(app: &App) -> Markup {
    let world = app.world();
    let index = app.index();
    let workers = workers(&world);
    let main = html! {
        h1.hidden { "Overview" }
        section.tiles id="tiles" {
            (tip(&world))
            (next(&world))
            (hash_power(&world))
            (tile("Workers", &html! { (grouped(workers.len() as u64)) }, &share_note(&workers)))
        }
        section id="flow" {
            div.head { h2 { "The way of work and shares" } a href="/roles" { "All roles" } }
            (flow::picture(&world, &app.config.node.url))
        }
        section id="blocks" {
            div.head { h2 { "Latest blocks" } a href="/blocks" { "All blocks" } }
            @if index.is_empty() {
                p.empty { "No block is known yet." }
            } @else {
                (block_table(&world, index.newest().take(BLOCKS)))
            }
        }
        section id="workers" {
            div.head { h2 { "Workers" } a href="/mining" { "All about mining" } }
            (worker_table(&workers, WORKERS))
        }
    };
    layout(&world, "Overview", "/", Live::Always, &main)
}

fn tip(world: &World) -> Markup {
    let node = &world.node;
    let value = html! {
        @match &node.tip {
            Some(tip) => a href={ "/block/" (tip.height) } { (grouped(tip.height.into())) },
            None => "–",
        }
    };
    let note = html! {
        @if let Some(tip) = &node.tip {
            span { (block_link(&tip.hash)) " seen " (ago(node.tip_seen)) }
            span { "difficulty " (difficulty(node.facts.difficulty)) " · " (count(node.facts.peers.into(), "peer")) }
        }
    };
    tile("Tip", &value, &note)
}

fn next(world: &World) -> Markup {
    let (value, note) = match &world.node.next {
        Some(Ok(next)) => {
            let share = next.weight as f64 / next.weight_limit.max(1) as f64;
            let full = format!("{:.1} % of the block's weight", share * 100.0);
            let value = html! { (grouped(next.transactions.len() as u64)) small { " tx" } };
            let note = html! {
                (meter(share, &full))
                span { "fees " (sats(next.fees())) " · takes " (btc(next.value)) }
            };
            (value, note)
        }
        Some(Err(reason)) => (html! { "–" }, html! { span { (reason) } }),
        None => (html! { "…" }, html! {}),
    };
    let mempool = html! {
        (note)
        @if let Some(mempool) = &world.node.mempool {
            span { a href="/mempool" { "mempool" } " " (grouped(mempool.size)) " tx, " (bytes(mempool.bytes)) }
        }
    };
    tile("Next block", &value, &mempool)
}

fn hash_power(world: &World) -> Markup {
    let value = html! {
        @match world.hashrate() { Some(rate) => (hashrate(rate)), None => "–" }
    };
    let points: Vec<Point> = world.history.iter().copied().collect();
    tile("Pool hashrate", &value, &curve(&points))
}

/// The last hour.
fn curve(points: &[Point]) -> Markup {
    const WIDTH: f64 = 200.0;
    const HEIGHT: f64 = 36.0;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return html! {} };
    let most = points.iter().map(|point| point.hashrate).fold(1e-9, f64::max);
    let span = (last.at - first.at).max(1) as f64;
    let mut line = String::new();
    for (at, point) in points.iter().enumerate() {
        let x = (point.at - first.at) as f64 / span * WIDTH;
        let y = HEIGHT - point.hashrate / most * (HEIGHT - 3.0);
        line.push_str(&format!("{}{x:.1} {y:.1} ", if at == 0 { "M" } else { "L" }));
    }
    html! {
        @if points.len() > 1 {
            svg.curve viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label="Hashrate of the last hour" {
                title { "Since the explorer's start, an hour at most; at most " (hashrate(most)) }
                path.area d={ (line) "L" (WIDTH) " " (HEIGHT) " L0 " (HEIGHT) " Z" } {}
                path.line d=(line) vector-effect="non-scaling-stroke" {}
            }
        }
    }
}
