//! A transaction.

use maud::{Markup, html};

use super::format::{ago, btc, bytes, cut, grouped, sats};
use super::parts::{block_link, facts, output_note, script, tag};
use super::{Live, layout};
use crate::App;
use crate::coinbase::Coinbase;
use crate::rpc::{Input, Tx};

/// Inputs and outputs shown of each.
const SHOWN: usize = 200;

/// The page. `unspent` are the outputs that can still be spent.
pub fn page(app: &App, tx: &Tx, unspent: &[u32]) -> Markup {
    let world = app.world();
    let next = world.node.next.as_ref().and_then(|next| next.as_ref().ok());
    let place =
        next.and_then(|next| next.transactions.iter().position(|known| known.txid == tx.txid));
    let main = html! {
        section id="transaction" {
            div.head { h1 { @if tx.is_coinbase() { "Coinbase transaction" } @else { "Transaction" } } }
            p.mono.break.lead { (tx.txid) }
            div.columns {
                (facts(&[
                    ("In", html! {
                        @match (&tx.block_hash, tx.confirmations) {
                            (Some(hash), Some(confirmations)) => {
                                (block_link(hash)) @if let Some(time) = tx.block_time { ", " (ago(time)) }
                                " · " (grouped(confirmations.max(0) as u64)) " confirmations"
                            }
                            (Some(hash), None) => (block_link(hash)),
                            (None, _) => {
                                a href="/mempool" { "the mempool" }
                                @if let Some(place) = place { ": number " (grouped(place as u64 + 1)) " of the next block" }
                            }
                        }
                    }),
                    ("Value", html! { (btc(tx.value())) }),
                    ("Fee", html! {
                        @if tx.is_coinbase() { "none: this creates coins" } @else {
                            @match tx.fee() {
                                Some(fee) => { (sats(fee)) " · " (format!("{:.1}", fee as f64 / tx.vsize.max(1) as f64)) " sat/vB" }
                                None => "not known",
                            }
                        }
                    }),
                ]))
                (facts(&[
                    ("Size", html! { (bytes(tx.size)) ", " (grouped(tx.vsize)) " vB, " (grouped(tx.weight)) " weight units" }),
                    ("Version, lock time", html! { (tx.version) ", " (tx.locktime) }),
                    ("Hash with witness", html! { span.mono.break { (tx.wtxid) } }),
                ]))
            }
        }
        section id="ends" {
            div.columns {
                div {
                    h2 { "Inputs " small { (tx.vin.len()) } }
                    ul.outputs {
                        @for input in tx.vin.iter().take(SHOWN) { (input_row(input)) }
                        @if tx.vin.len() > SHOWN { li.dim { "and " (tx.vin.len() - SHOWN) " more" } }
                    }
                }
                div {
                    h2 { "Outputs " small { (tx.vout.len()) } }
                    ul.outputs {
                        @for out in tx.vout.iter().take(SHOWN) {
                            li { span.num { (btc(out.value)) } (script(&out.script))
                                span.dim {
                                    (output_note(out))
                                    @if unspent.contains(&out.n) { " " span.badge data-state="good" { "unspent" } }
                                } }
                        }
                        @if tx.vout.len() > SHOWN { li.dim { "and " (tx.vout.len() - SHOWN) " more" } }
                    }
                }
            }
        }
    };
    layout(&world, "Transaction", "", Live::Tip, &main)
}

fn input_row(input: &Input) -> Markup {
    html! {
        li {
            @if let Some(coinbase) = &input.coinbase {
                span.num { "new coins" }
                (tag(&Coinbase::parse(coinbase).tag()))
                span.mono.break.dim { (cut(coinbase, 200)) }
            } @else {
                @if let Some(prevout) = &input.prevout { span.num { (btc(prevout.value)) } (script(&prevout.script)) }
                @if let (Some(txid), Some(vout)) = (&input.txid, input.vout) {
                    a.mono.dim href={ "/tx/" (txid) } title="The transaction that it comes from" { (cut(txid, 12)) ":" (vout) }
                }
            }
        }
    }
}
