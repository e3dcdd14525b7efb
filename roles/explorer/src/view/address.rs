//! An address.

use maud::{Markup, html};

use super::format::{ago, btc, count, grouped, signed_btc};
use super::parts::{tile, tx_link};
use super::{Live, layout};
use crate::App;
use crate::rpc::Scan;

/// Coins and transactions shown of each.
const SHOWN: usize = 200;
/// Blocks until mined coins can be spent.
const MATURITY: u32 = 100;

/// The page. `coins` are the unspent ones, or why they are not shown.
pub fn page(app: &App, address: &str, coins: Result<Scan, String>) -> Markup {
    let world = app.world();
    let index = app.index();
    let events = index.events(address);
    let mined = index.newest().filter(|block| block.paid_to.as_deref() == Some(address)).count();
    let lowest = index.lowest().unwrap_or(0);
    let main = html! {
        section id="address" {
            div.head { h1 { "Address" } }
            p.mono.break.lead { (address) }
            @match &coins {
                Ok(scan) => {
                    @let young = |height: u32| scan.height.saturating_sub(height) < MATURITY - 1;
                    @let immature: u64 = scan.unspents.iter().filter(|c| c.coinbase && young(c.height)).map(|c| c.amount).fold(0, u64::saturating_add);
                    div.tiles {
                        (tile("Balance", &html! { (btc(scan.total_amount)) }, &html! { span { "at height " (grouped(scan.height.into())) } }))
                        (tile("Coins", &html! { (grouped(scan.unspents.len() as u64)) }, &html! {
                            @if immature > 0 { span { (btc(immature)) " mined lately, to be spent after " (MATURITY) " blocks" } }
                        }))
                        (tile("Blocks", &html! { (grouped(mined as u64)) }, &html! { span { "paid it, of the newest " (grouped(index.len() as u64)) } }))
                    }
                }
                Err(reason) => p.alarm.mild { (reason) },
            }
        }
        section id="events" {
            div.head {
                h2 { "Transactions" }
                span.dim { "in the newest blocks, from height " (grouped(lowest.into())) }
            }
            @if events.is_empty() {
                p.empty { "None of the newest blocks has a transaction of this address." }
            } @else {
                div.scroll {
                    table {
                        thead { tr { th { "Block" } th { "Age" } th { "Transaction" } th.num { "Change" } } }
                        tbody {
                            @for event in events.iter().take(SHOWN) {
                                tr {
                                    td { a href={ "/block/" (event.height) } { (grouped(event.height.into())) } }
                                    td { (ago(event.time)) }
                                    td { (tx_link(&event.txid)) }
                                    td.num { (signed_btc(event.received as i64 - event.spent as i64)) }
                                }
                            }
                        }
                    }
                }
                @if events.len() > SHOWN { p.dim { "and " (count((events.len() - SHOWN) as u64, "transaction")) " more" } }
            }
        }
        @if let Ok(scan) = &coins {
            @if !scan.unspents.is_empty() {
                section id="coins" {
                    div.head { h2 { "Unspent coins" } }
                    div.scroll {
                        table {
                            thead { tr { th { "Block" } th { "Output" } th.num { "Value" } } }
                            tbody {
                                @for coin in newest(scan) {
                                    tr {
                                        td { a href={ "/block/" (coin.height) } { (grouped(coin.height.into())) } }
                                        td { (tx_link(&coin.txid)) ":" (coin.vout) @if coin.coinbase { " " span.badge { "mined" } } }
                                        td.num { (btc(coin.amount)) }
                                    }
                                }
                            }
                        }
                    }
                    @if scan.unspents.len() > SHOWN { p.dim { "and " (count((scan.unspents.len() - SHOWN) as u64, "coin")) " more" } }
                }
            }
        }
    };
    layout(&world, "Address", "", Live::Tip, &main)
}

fn newest(scan: &Scan) -> Vec<&crate::rpc::Unspent> {
    let mut coins: Vec<_> = scan.unspents.iter().collect();
    coins.sort_by_key(|coin| std::cmp::Reverse(coin.height));
    coins.truncate(SHOWN);
    coins
}
