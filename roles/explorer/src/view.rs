//! The pages. Everything that comes from a node, a role or a peer is escaped by the templates.

pub mod address;
pub mod block;
pub mod blocks;
pub mod flow;
pub mod format;
pub mod home;
pub mod jobs;
mod layout;
pub mod mempool;
pub mod mining;
pub mod parts;
pub mod roles;
#[cfg(test)]
mod tests;
pub mod transaction;
pub mod workers;

use adit_node::NodeError;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{DOCTYPE, Markup, html};

use self::format::since;
use crate::world::{Health, World};
use crate::{App, rpc, web};

/// When a page is to be looked at again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Live {
    /// Whenever anything is new.
    Always,
    /// When there is a new block.
    Tip,
    /// Never.
    No,
}

impl Live {
    fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Tip => "tip",
            Self::No => "no",
        }
    }
}

/// Places in the menu.
const MENU: [(&str, &str); 5] = [
    ("/", "Overview"),
    ("/blocks", "Blocks"),
    ("/mempool", "Mempool"),
    ("/mining", "Mining"),
    ("/roles", "Roles"),
];

/// A whole page. `here` is its place in the menu.
pub fn layout(world: &World, title: &str, here: &str, live: Live, main: &Markup) -> Markup {
    let chain = match world.node.chain.as_str() {
        "" => "no node yet",
        "main" => "mainnet",
        chain => chain,
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Adit explorer" }
                link rel="icon" href=(asset("icon.svg")) type="image/svg+xml";
                link rel="stylesheet" href=(asset("style.css"));
                script src=(asset("app.js")) defer {}
            }
            body data-live=(live.name()) {
                header.top {
                    div.bar {
                        a.brand href="/" title="Overview" {
                            (logo())
                            span { "Adit" } small { "explorer" }
                        }
                        nav aria-label="Pages" {
                            @for (href, name) in MENU {
                                a href=(href) aria-current=[(href == here).then_some("page")] { (name) }
                            }
                        }
                        form.search action="/search" role="search" {
                            input type="search" name="q" aria-label="Search" autocomplete="off" spellcheck="false"
                                placeholder="Height, hash, transaction, address";
                        }
                        span.chain title="The node's chain" { (chain) }
                        span.pulse id="pulse" title="Live: the page follows what happens" {}
                    }
                }
                main id="page" {
                    (alarms(world))
                    (main)
                }
                footer {
                    "Adit explorer " (env!("CARGO_PKG_VERSION"))
                    @if !world.node.facts.version.is_empty() { " · " (world.node.facts.version) }
                    " · times are UTC, amounts as the node gives them"
                }
            }
        }
    }
}

/// What does not answer, and since when.
fn alarms(world: &World) -> Markup {
    let away = |health: &Health| match health {
        Health::Down { since, reason } => Some((*since, reason.clone())),
        Health::Up { .. } | Health::Unknown => None,
    };
    let roles = world.roles.iter().filter_map(|role| Some((role.name(), away(&role.health)?)));
    html! {
        div id="alarms" {
            @if let Some((at, reason)) = away(&world.node.health) {
                p.alarm role="alert" {
                    strong { "The node does not answer" } " for " (since(at)) ": " (reason)
                    ". What is shown of the chain is from before."
                }
            } @else if world.node.health == Health::Unknown {
                p.alarm.mild { "The node has not answered yet." }
            }
            @for (name, (at, reason)) in roles {
                p.alarm role="alert" {
                    strong { a href={ "/role/" (name) } { (name) } " does not answer" }
                    " for " (since(at)) ": " (reason) ". What is shown of it is from before."
                }
            }
            @if world.node.syncing && world.node.chain == "main" {
                p.alarm.mild { "The node is still catching up with its chain." }
            }
        }
    }
}

/// A page that cannot be given.
#[derive(Debug)]
pub struct Trouble {
    status: StatusCode,
    title: &'static str,
    text: String,
}

impl Trouble {
    /// There is no such thing.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, title: "Not found", text: text.into() }
    }

    /// There cannot be such a thing.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, title: "That cannot be", text: text.into() }
    }

    /// The node's answer; `missing` says what it is when there is no such thing.
    pub fn of(error: NodeError, missing: impl Into<String>) -> Self {
        if rpc::is_not_found(&error) {
            return Self::not_found(missing);
        }
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "The node does not say",
            text: format!("This page needs the node, and it gave no answer: {error}."),
        }
    }

    /// The page that says so.
    pub fn page(&self, app: &App) -> Response {
        let live = if self.status == StatusCode::BAD_REQUEST { Live::No } else { Live::Tip };
        let main = html! {
            section.trouble id="trouble" {
                p.code { (self.status.as_u16()) }
                h1 { (self.title) }
                p { (self.text) }
                p { a.button href="/" { "To the overview" } }
            }
        };
        web::html(self.status, layout(&app.world(), self.title, "", live, &main))
    }
}

/// The address of a file, with a mark of its content so that a browser never keeps an old one.
fn asset(name: &str) -> String {
    format!("/static/{name}?{:08x}", ASSETS)
}

const ASSETS: u32 = {
    let files = [
        include_bytes!("static/style.css").as_slice(),
        include_bytes!("static/app.js").as_slice(),
        include_bytes!("static/icon.svg").as_slice(),
    ];
    // FNV-1a.
    let mut hash = 0x811c_9dc5_u32;
    let mut file = 0;
    while file < files.len() {
        let mut at = 0;
        while at < files[file].len() {
            hash = (hash ^ files[file][at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        file += 1;
    }
    hash
};

/// The way into the mine.
fn logo() -> Markup {
    html! {
        svg.logo viewBox="0 0 32 32" width="28" height="28" aria-hidden="true" {
            path.rock d="M2 28 L11 8 L16 13 L21 5 L30 28 Z" {}
            path.mouth d="M10 28 V21 a6 6 0 0 1 12 0 V28 Z" {}
            path.rail d="M13 28 L15 21 M19 28 L17 21" {}
            circle.lamp cx="16" cy="19" r="1.6" {}
        }
    }
}
