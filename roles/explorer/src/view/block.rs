//! A block.

use maud::{Markup, html};

use super::format::{ago, btc, bytes, count, date, difficulty, grouped, sats};
use super::parts::{
    block_link, facts, found_by, meter, output_note, pager, script, tag, tx_link, worker,
};
use super::{Live, layout};
use crate::App;
use crate::coinbase::{Coinbase, hex};
use crate::index;
use crate::rpc::{Block, Tx};

/// Transactions on a page.
const TRANSACTIONS: usize = 100;
/// The most weight of a block, where the node says nothing else.
const MAX_WEIGHT: u64 = 4_000_000;

/// The page.
pub fn page(app: &App, block: &Block, from: usize) -> Markup {
    let world = app.world();
    let index = app.index();
    let known = index.at(block.height).filter(|known| known.hash == block.hash);
    let coinbase = block.tx.first();
    let from = from.min(block.tx.len().saturating_sub(1));
    let base = format!("/block/{}", block.hash);
    let share = block.weight as f64 / MAX_WEIGHT as f64;
    let main = html! {
        section id="block" {
            div.head {
                h1 { "Block " (grouped(block.height.into())) }
                span.pager {
                    @if let Some(previous) = &block.previous { a.button href={ "/block/" (previous) } { "Previous" } }
                    @if let Some(next) = &block.next { a.button href={ "/block/" (next) } { "Next" } }
                }
            }
            @if block.confirmations < 0 {
                p.alarm { "This block is not in the best chain: another one took its place." }
            }
            p.mono.break.lead { (block.hash) }
            div.columns {
                (facts(&[
                    ("Found by", html! {
                        @match known {
                            Some(known) => { (found_by(&world, &known.found_by)) " " (worker(&known.found_by)) }
                            None => span.dim { "not among the blocks that are watched" },
                        }
                    }),
                    ("Time", html! { (date(block.time)) " (" (ago(block.time)) ")" }),
                    ("Confirmations", html! {
                        @if block.confirmations < 0 { "none" } @else { (grouped(block.confirmations.unsigned_abs())) }
                    }),
                    ("Transactions", html! { (count(block.tx.len() as u64, "transaction")) }),
                    ("Reward", html! { (btc(coinbase.map_or(0, Tx::value))) }),
                    ("Fees", html! { @match index::fees(block) { Some(fees) => (sats(fees)), None => "not known" } }),
                    ("Size", html! { (bytes(block.size)) ", " (grouped(block.weight)) " weight units" (meter(share, "of the most weight")) }),
                ]))
                (facts(&[
                    ("Difficulty", html! { (difficulty(block.difficulty)) }),
                    ("nBits", html! { span.mono { (block.bits) } }),
                    ("nVersion", html! { span.mono { (block.version_hex) } }),
                    ("nNonce", html! { span.mono { (grouped(block.nonce.into())) } }),
                    ("Median time", html! { (date(block.median_time)) }),
                    ("Merkle root", html! { span.mono.break { (block.merkle_root) } }),
                    ("Previous block", html! {
                        @match &block.previous { Some(hash) => (block_link(hash)), None => "none: this is the first" }
                    }),
                ]))
            }
        }
        @if let Some(coinbase) = coinbase { (coinbase_section(coinbase)) }
        section id="transactions" {
            div.head { h2 { (count(block.tx.len() as u64, "transaction")) } }
            div.scroll {
                table {
                    thead {
                        tr { th.num { "#" } th { "Transaction" } th.num { "Inputs" } th.num { "Outputs" } th.num { "Value" } th.num { "Fee" } th.num { "Rate" } th.num { "Weight" } }
                    }
                    tbody {
                        @for (at, tx) in block.tx.iter().enumerate().skip(from).take(TRANSACTIONS) {
                            tr {
                                td.num { (at) }
                                td { (tx_link(&tx.txid)) @if at == 0 { " " span.badge { "coinbase" } } }
                                td.num { (tx.vin.len()) }
                                td.num { (tx.vout.len()) }
                                td.num { (btc(tx.value())) }
                                td.num { (fee(tx)) }
                                td.num { (rate(tx)) }
                                td.num { (grouped(tx.weight)) }
                            }
                        }
                    }
                }
            }
            (pager(&base, from, TRANSACTIONS, block.tx.len(), "transaction"))
        }
    };
    layout(&world, &format!("Block {}", block.height), "/blocks", Live::Tip, &main)
}

fn fee(tx: &Tx) -> Markup {
    html! {
        @if tx.is_coinbase() { "–" } @else {
            @match tx.fee() { Some(fee) => (sats(fee)), None => "–" }
        }
    }
}

/// Satoshis per virtual byte.
fn rate(tx: &Tx) -> Markup {
    let fee = tx.fee().filter(|_| !tx.is_coinbase());
    html! { @match fee { Some(fee) => { (format!("{:.1}", fee as f64 / tx.vsize.max(1) as f64)) " sat/vB" } None => "–" } }
}

/// What the coinbase says and pays.
fn coinbase_section(tx: &Tx) -> Markup {
    let text = tx.vin.first().and_then(|input| input.coinbase.as_deref()).unwrap_or_default();
    let coinbase = Coinbase::parse(text);
    html! {
        section id="coinbase" {
            div.head { h2 { "Coinbase" } (tx_link(&tx.txid)) }
            (facts(&[
                ("Tag", tag(&coinbase.tag())),
                ("Extranonce", html! {
                    @if coinbase.extranonce().is_empty() { span.dim { "none" } }
                    @else { span.mono.break { (hex(coinbase.extranonce())) } " (" (count(coinbase.extranonce().len() as u64, "byte")) ")" }
                }),
                ("Script", html! { span.mono.break { (text) } }),
            ]))
            ul.outputs {
                @for out in &tx.vout {
                    li {
                        span.num { (btc(out.value)) }
                        (script(&out.script))
                        span.dim { (output_note(out)) }
                    }
                }
            }
        }
    }
}
