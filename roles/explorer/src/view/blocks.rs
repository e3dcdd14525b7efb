//! The list of blocks.

use maud::{Markup, html};

use super::format::{count, grouped};
use super::parts::block_table;
use super::{Live, Trouble, layout};
use crate::App;

/// Blocks on a page.
const BLOCKS: usize = 50;

/// The page, from a height down; the newest ones where none is given.
pub fn page(app: &App, from: Result<Option<u32>, Box<Trouble>>) -> Result<Markup, Box<Trouble>> {
    let from = from?;
    let world = app.world();
    let index = app.index();
    let tip = index.newest().next().map_or(0, |block| block.height);
    let start = from.unwrap_or(tip).min(tip);
    let shown: Vec<_> = index.down_from(start).take(BLOCKS).collect();
    let lowest = shown.last().map_or(0, |block| block.height);
    let main = html! {
        section id="list" {
            div.head {
                h1 { "Blocks" }
                span.dim { "the newest " (count(index.len() as u64, "block")) " are listed; any other by its height" }
            }
            @if shown.is_empty() {
                p.empty { "No block of this height is in the list." }
            } @else {
                (block_table(&world, shown.into_iter()))
            }
            p.pager {
                @if start < tip {
                    a.button href={ "/blocks?from=" (start.saturating_add(BLOCKS as u32).min(tip)) } { "Newer" }
                }
                @if index.lowest().is_some_and(|bottom| bottom < lowest) {
                    a.button href={ "/blocks?from=" (lowest - 1) } { "Older" }
                } @else if lowest > 0 {
                    a.button href={ "/block/" (lowest - 1) } { "Block " (grouped(u64::from(lowest) - 1)) }
                }
            }
        }
    };
    let live = if from.is_none() { Live::Always } else { Live::No };
    Ok(layout(&world, "Blocks", "/blocks", live, &main))
}
