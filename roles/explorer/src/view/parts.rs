//! Pieces that several pages share.

use maud::{Markup, html};

use super::format::{ago, btc, count, cut, grouped, sats, short};
use crate::attribution::FoundBy;
use crate::config::Kind;
use crate::index::BlockSummary;
use crate::rpc::{Output, Script};
use crate::world::World;

/// A hash that leads to its block.
pub fn block_link(hash: &str) -> Markup {
    html! { a.mono href={ "/block/" (hash) } title=(hash) { (short(hash)) } }
}

/// An id that leads to its transaction.
pub fn tx_link(txid: &str) -> Markup {
    html! { a.mono href={ "/tx/" (txid) } title=(txid) { (short(txid)) } }
}

/// To whom an output is.
pub fn script(script: &Script) -> Markup {
    html! {
        @match &script.address {
            Some(address) => a.mono.break href={ "/address/" (address) } { (address) },
            None if script.form == "nulldata" => span.mono.dim title=(script.asm) { "data: " (cut(&script.hex, 60)) },
            None => span.mono.dim title=(script.asm) { (cut(&script.asm, 60)) },
        }
    }
}

/// Where an output is spendable by anybody, or not at all, a word on it.
pub fn output_note(out: &Output) -> &'static str {
    match (out.script.form.as_str(), out.script.hex.starts_with("6a24aa21a9ed")) {
        ("nulldata", true) => "witness commitment",
        ("nulldata", false) => "data",
        (_, _) if out.script.hex == "51" => "anybody can spend",
        _ => "",
    }
}

/// Who found a block.
pub fn found_by(world: &World, found: &FoundBy) -> Markup {
    html! {
        @if found.is_known() {
            span.path {
                @for name in &found.path {
                    @let kind = world.role(name).map_or("", |role| role.kind().name());
                    a.hop data-kind=(kind) href={ "/role/" (name) } { (name) }
                }
                @if found.declared { span.own title="The miner's side chose the transactions" { "own job" } }
            }
        } @else {
            span.dim title="None of the roles that are watched says that it found this block" { "unknown" }
        }
    }
}

/// The worker of a block.
pub fn worker(found: &FoundBy) -> Markup {
    html! { @if let Some(worker) = &found.worker { span.worker title=(worker) { (cut(worker, 32)) } } }
}

/// A list of blocks.
pub fn block_table<'b>(world: &World, blocks: impl Iterator<Item = &'b BlockSummary>) -> Markup {
    html! {
        div.scroll {
            table.blocks {
                thead {
                    tr {
                        th { "Height" } th { "Age" } th { "Found by" } th { "Coinbase tag" }
                        th.num { "Tx" } th.num { "Reward" } th.num { "Fees" } th { "Hash" }
                    }
                }
                tbody {
                    @for block in blocks {
                        tr {
                            td { a.height href={ "/block/" (block.height) } { (grouped(block.height.into())) } }
                            td { (ago(block.time)) }
                            td { (found_by(world, &block.found_by)) div.by { (worker(&block.found_by)) } }
                            td { (tag(&block.coinbase.tag())) }
                            td.num { (grouped(block.transactions as u64)) }
                            td.num { (btc(block.reward)) }
                            td.num { @match block.fees { Some(fees) => (sats(fees)), None => "–" } }
                            td { (block_link(&block.hash)) }
                        }
                    }
                }
            }
        }
    }
}

/// What a coinbase says.
pub fn tag(tag: &str) -> Markup {
    html! {
        @if tag.is_empty() { span.dim { "none" } } @else { span.tag title=(tag) { (cut(tag, 28)) } }
    }
}

/// A number with its name.
pub fn tile(name: &str, value: &Markup, note: &Markup) -> Markup {
    html! { div.tile { h2 { (name) } p.value { (value) } div.note { (note) } } }
}

/// A word on a role's state: good, waiting or gone.
pub fn badge(class: &str, text: &str) -> Markup {
    html! { span.badge data-state=(class) { (text) } }
}

/// How full something is, 0 to 1.
pub fn meter(share: f64, title: &str) -> Markup {
    let width = (share.clamp(0.0, 1.0) * 100.0 * 10.0).round() / 10.0;
    html! {
        svg.meter viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label=(title) {
            title { (title) }
            rect.all width="100" height="4" rx="2" {}
            rect.part width=(width) height="4" rx="2" {}
        }
    }
}

/// Further pages of a list of `total`, `per_page` at a time.
pub fn pager(base: &str, from: usize, per_page: usize, total: usize, one: &str) -> Markup {
    let last = (from + per_page).min(total);
    html! {
        @if total > per_page {
            p.pager {
                @if from > 0 { a.button href={ (base) "?from=" (from.saturating_sub(per_page)) } { "Before" } }
                span { (grouped(from as u64 + 1)) " to " (grouped(last as u64)) " of " (count(total as u64, one)) }
                @if last < total { a.button href={ (base) "?from=" (last) } { "Next" } }
            }
        }
    }
}

/// Pairs of a name and what it is.
pub fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in rows { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// Of a kind of role, its figure in the picture.
pub fn kind_mark(kind: Kind) -> &'static str {
    match kind {
        Kind::TemplateProvider => "TP",
        Kind::Jds => "JDS",
        Kind::Pool => "POOL",
        Kind::Jdc => "JDC",
        Kind::Translator => "V1↔V2",
        Kind::MiningDevice => "MINER",
    }
}
