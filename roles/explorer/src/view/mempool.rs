//! The mempool, and the block that the node would make of it.

use std::collections::HashSet;

use maud::{Markup, html};

use super::format::{btc, bytes, count, grouped, sats};
use super::parts::{meter, pager, tile, tx_link};
use super::{Live, layout};
use crate::App;

/// Transactions on a page.
const TRANSACTIONS: usize = 100;
/// Ids listed of those that are not in the next block.
const WAITING: usize = 100;

/// The page. `ids` are the mempool's transactions, or why they are not shown.
pub fn page(app: &App, from: usize, ids: Result<Vec<String>, String>) -> Markup {
    let world = app.world();
    let node = &world.node;
    let next = node.next.as_ref();
    let chosen: HashSet<&str> = match next {
        Some(Ok(next)) => next.transactions.iter().map(|tx| tx.txid.as_str()).collect(),
        _ => HashSet::new(),
    };
    let main = html! {
        section.tiles id="tiles" {
            (tile("In the mempool", &html! {
                @match &node.mempool { Some(mempool) => { (grouped(mempool.size)) small { " tx" } } None => "–" }
            }, &html! {
                @if let Some(mempool) = &node.mempool {
                    span { (bytes(mempool.bytes)) " of transactions" }
                    @if let Some(fee) = mempool.total_fee { span { (sats(fee)) " of fees" } }
                }
            }))
            @if let Some(Ok(next)) = next {
                @let share = next.weight as f64 / next.weight_limit.max(1) as f64;
                (tile("Next block", &html! { (grouped(next.height.into())) }, &html! {
                    (meter(share, "of the most weight"))
                    span { (grouped(next.weight)) " of " (grouped(next.weight_limit)) " weight units" }
                }))
                (tile("Takes", &html! { (btc(next.value)) }, &html! { span { (sats(next.fees())) " of it fees" } }))
            }
        }
        section id="next" {
            div.head {
                h1 { "The next block" }
                span.dim { "in the node's order, without the coinbase" }
            }
            @match next {
                None => p.empty { "The node has not been asked yet." },
                Some(Err(reason)) => p.alarm.mild { "The node makes no block: " (reason) },
                Some(Ok(next)) if next.transactions.is_empty() => p.empty { "It has no transaction yet." },
                Some(Ok(next)) => {
                    @let from = from.min(next.transactions.len() - 1);
                    div.scroll {
                        table {
                            thead { tr { th.num { "#" } th { "Transaction" } th.num { "Fee" } th.num { "Rate" } th.num { "Weight" } } }
                            tbody {
                                @for (at, tx) in next.transactions.iter().enumerate().skip(from).take(TRANSACTIONS) {
                                    tr {
                                        td.num { (at + 1) }
                                        td { (tx_link(&tx.txid)) }
                                        td.num { (sats(tx.fee)) }
                                        td.num { (format!("{:.1}", tx.fee as f64 * 4.0 / tx.weight.max(1) as f64)) " sat/vB" }
                                        td.num { (grouped(tx.weight)) }
                                    }
                                }
                            }
                        }
                    }
                    (pager("/mempool", from, TRANSACTIONS, next.transactions.len(), "transaction"))
                }
            }
        }
        @match &ids {
            Ok(ids) => {
                @let waiting: Vec<&String> = ids.iter().filter(|id| !chosen.contains(id.as_str())).collect();
                @if !waiting.is_empty() && node.next.is_some() {
                    section id="waiting" {
                        div.head { h2 { "Not in the next block" } span.dim { (count(waiting.len() as u64, "transaction")) } }
                        ul.ids { @for id in waiting.iter().take(WAITING) { li { (tx_link(id)) } } }
                        @if waiting.len() > WAITING { p.dim { "and " (grouped((waiting.len() - WAITING) as u64)) " more" } }
                    }
                }
            }
            Err(reason) => section id="waiting" { p.alarm.mild { "The node does not list its mempool: " (reason) } },
        }
    };
    layout(&world, "Mempool", "/mempool", Live::Always, &main)
}
