//! The pages' addresses, and what every answer has in common.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_node::NodeError;
use adit_service::Limits;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;
use futures_util::stream;
use maud::Markup;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use crate::view::{self, Trouble};
use crate::{App, rpc};

/// For the connections of browsers. Each open page holds one for what is new; a browser makes it anew after `life`.
pub(crate) const LIMITS: Limits =
    Limits { connections: 256, header: Duration::from_secs(75), life: Duration::from_secs(3_600) };

/// Between two notes to an open page.
const LIVE_INTERVAL: Duration = Duration::from_millis(900);
/// An open page hears at least so often, so that both sides notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A search of the node's coins for an address.
const SCAN_WAIT: Duration = Duration::from_secs(2);

/// Nothing runs or loads in a page but what comes from here as a file of its own.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/blocks", get(blocks))
        .route("/block/{id}", get(block))
        .route("/tx/{txid}", get(transaction))
        .route("/address/{address}", get(address))
        .route("/mempool", get(mempool))
        .route("/mining", get(mining))
        .route("/roles", get(roles))
        .route("/role/{name}", get(role))
        .route("/search", get(search))
        .route("/live", get(live))
        .route("/static/{name}", get(file))
        .route("/favicon.ico", get(|| async { Redirect::permanent("/static/icon.svg") }))
        .fallback(|State(app): State<Arc<App>>| async move {
            Trouble::not_found("There is no such page.").page(&app)
        })
        .layer(from_fn_with_state(app.clone(), finish))
        .with_state(app)
}

/// Counts and measures a page, and adds the headers that all have.
async fn finish(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let kind = kind_of(request.uri().path());
    let mut response = next.run(request).await;
    app.metrics.page(kind, response.status().as_u16(), started.elapsed());
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A page's kind for counters: their number is bounded, that of addresses is not.
fn kind_of(path: &str) -> &'static str {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let kinds = [
        "blocks", "block", "tx", "address", "mempool", "mining", "roles", "role", "search", "live",
        "static",
    ];
    match first {
        "" => "home",
        first => kinds.into_iter().find(|kind| *kind == first).unwrap_or("other"),
    }
}

type Page = Result<Markup, Box<Trouble>>;

fn finished(app: &App, page: Page) -> Response {
    match page {
        Ok(markup) => html(StatusCode::OK, markup),
        Err(trouble) => trouble.page(app),
    }
}

/// A page as an answer.
pub(crate) fn html(status: StatusCode, markup: Markup) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (status, kind, markup.into_string()).into_response()
}

async fn home(State(app): State<Arc<App>>) -> Response {
    finished(&app, Ok(view::home::page(&app)))
}

#[derive(Deserialize)]
struct Pages {
    #[serde(default)]
    from: Option<String>,
}

impl Pages {
    /// Where the list begins; garbage in an address is worth a word.
    fn from<T: std::str::FromStr>(&self) -> Result<Option<T>, Box<Trouble>> {
        let Some(text) = self.from.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| Trouble::bad_request("“from” is not a number.").into())
    }
}

async fn blocks(State(app): State<Arc<App>>, pages: Query<Pages>) -> Response {
    let page = view::blocks::page(&app, pages.from());
    finished(&app, page)
}

async fn block(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    pages: Query<Pages>,
) -> Response {
    let page = async {
        let from = pages.from()?.unwrap_or(0);
        let hash = match id.len() {
            1..=8 => {
                let height: u32 = id.parse().map_err(|_| not_a_block(&id))?;
                let hash = rpc::block_hash(&app.node, height).await;
                hash.map_err(|e| Trouble::of(e, format!("The chain has no block {height} yet.")))?
            }
            64 if is_hex(&id) => id.to_ascii_lowercase(),
            _ => return Err(not_a_block(&id).into()),
        };
        let block = rpc::block(&app.node, &hash).await;
        let block = block.map_err(|e| Trouble::of(e, "The node knows no block of this hash."))?;
        Ok(view::block::page(&app, &block, from))
    };
    let page = page.await;
    finished(&app, page)
}

fn not_a_block(id: &str) -> Trouble {
    Trouble::bad_request(format!(
        "“{}” is neither a height nor the hash of a block.",
        view::format::cut(id, 80)
    ))
}

async fn transaction(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let page = async {
        if id.len() != 64 || !is_hex(&id) {
            let id = view::format::cut(&id, 80);
            return Err(
                Trouble::bad_request(format!("“{id}” is not the id of a transaction.")).into()
            );
        }
        let txid = id.to_ascii_lowercase();
        let block = app.index().block_of(&txid).map(|block| block.hash.clone());
        let tx = match rpc::transaction(&app.node, &txid, block.as_deref()).await {
            Err(error) if rpc::is_not_found(&error) && block.is_some() => {
                rpc::transaction(&app.node, &txid, None).await
            }
            tx => tx,
        };
        let missing = "The node finds no such transaction, neither in its mempool nor in a block. Without an index of \
                       all transactions (txindex=1) it finds only those of the newest blocks.";
        let mut tx = tx.map_err(|e| Trouble::of(e, missing))?;
        rpc::add_prevouts(&app.node, &mut tx).await;
        let unspent = rpc::unspent(&app.node, &tx).await;
        Ok(view::transaction::page(&app, &tx, &unspent))
    };
    let page = page.await;
    finished(&app, page)
}

async fn address(State(app): State<Arc<App>>, Path(text): Path<String>) -> Response {
    let page = async {
        let chain = app.world().node.chain.clone();
        let network = bitcoin::Network::from_core_arg(&chain).ok();
        let shown = view::format::cut(&text, 100);
        let address: Address<NetworkUnchecked> = text
            .parse()
            .map_err(|_| Trouble::bad_request(format!("“{shown}” is not an address.")))?;
        if network.is_some_and(|network| !address.is_valid_for_network(network)) {
            let text = format!("“{shown}” is an address of another chain than {chain}.");
            return Err(Trouble::bad_request(text).into());
        }
        // Upper case is allowed in QR codes.
        let address = address.assume_checked().to_string();
        let coins = coins(&app, &address, &chain).await;
        Ok(view::address::page(&app, &address, coins))
    };
    let page = page.await;
    finished(&app, page)
}

/// The address' unspent coins, or why they are not shown.
async fn coins(app: &App, address: &str, chain: &str) -> Result<rpc::Scan, String> {
    if !app.config.index.scan_coins.unwrap_or(chain != "main") {
        return Err(
            "The node's coins are not searched here, since that takes minutes on this chain."
                .into(),
        );
    }
    let Ok(Ok(_turn)) = timeout(SCAN_WAIT, app.scans.acquire()).await else {
        return Err(
            "The node is busy with a search for another address. Look again in a moment.".into()
        );
    };
    rpc::scan(&app.node, address).await.map_err(|error| match error {
        NodeError::Timeout { .. } => {
            let node = app.node.clone();
            tokio::spawn(async move { rpc::abort_scan(&node).await });
            "The node's search for coins took too long and was ended.".to_owned()
        }
        error => format!("The node does not give the coins: {error}"),
    })
}

async fn mempool(State(app): State<Arc<App>>, pages: Query<Pages>) -> Response {
    let page = async {
        let from = pages.from()?.unwrap_or(0);
        let ids = rpc::mempool_ids(&app.node).await.map_err(|error| error.to_string());
        Ok(view::mempool::page(&app, from, ids))
    };
    let page = page.await;
    finished(&app, page)
}

async fn mining(State(app): State<Arc<App>>) -> Response {
    finished(&app, Ok(view::mining::page(&app)))
}

async fn roles(State(app): State<Arc<App>>) -> Response {
    finished(&app, Ok(view::roles::page(&app)))
}

async fn role(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let page = view::roles::one(&app, &name);
    let missing = || Trouble::not_found("No role of this name is configured.").into();
    finished(&app, page.ok_or_else(missing))
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

async fn search(State(app): State<Arc<App>>, Query(search): Query<Search>) -> Response {
    let text = search.q.trim();
    let shown = view::format::cut(text, 100);
    if text.is_empty() {
        return Redirect::to("/").into_response();
    }
    if text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit()) {
        return Redirect::to(&format!("/block/{text}")).into_response();
    }
    if text.len() == 64 && is_hex(text) {
        let id = text.to_ascii_lowercase();
        // A hash may be either. The header is the quicker question.
        let header: Result<serde_json::Value, _> = app.node.query("getblockheader", [&id]).await;
        return match header {
            Ok(_) => Redirect::to(&format!("/block/{id}")).into_response(),
            Err(error) if rpc::is_not_found(&error) => {
                Redirect::to(&format!("/tx/{id}")).into_response()
            }
            Err(error) => Trouble::of(error, "").page(&app),
        };
    }
    if text.parse::<Address<NetworkUnchecked>>().is_ok() {
        return Redirect::to(&format!("/address/{text}")).into_response();
    }
    let text = format!("“{shown}” is no height, hash, transaction id or address.");
    Trouble::not_found(text).page(&app)
}

/// Tells an open page when there is something new to show: the browser then asks for the page again.
async fn live(State(app): State<Arc<App>>) -> Response {
    let tip = {
        let app = app.clone();
        move || app.world().node.tip.as_ref().map_or(String::new(), |tip| tip.hash.clone())
    };
    let versions = app.version.subscribe();
    let open = app.metrics.live();
    let first = "retry: 2000\n\n".to_owned();
    let start = (versions, open, Some(first), tip);
    let events = stream::unfold(start, |(mut versions, open, first, tip)| async move {
        let event = match first {
            Some(first) => {
                versions.mark_unchanged();
                first
            }
            None => {
                sleep(LIVE_INTERVAL).await;
                match timeout(KEEP_ALIVE, versions.changed()).await {
                    // Pages about what only a block changes heed the tip alone.
                    Ok(Ok(())) => {
                        versions.mark_unchanged();
                        format!("data: {}\n\n", tip())
                    }
                    // The explorer ends.
                    Ok(Err(_)) => return None,
                    Err(_) => ": still here\n\n".to_owned(),
                }
            }
        };
        Some((Ok::<_, Infallible>(event), (versions, open, None, tip)))
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(events)).into_response()
}

async fn file(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let (kind, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", include_str!("static/style.css")),
        "app.js" => ("text/javascript; charset=utf-8", include_str!("static/app.js")),
        "icon.svg" => ("image/svg+xml", include_str!("static/icon.svg")),
        _ => return Trouble::not_found("There is no such file.").page(&app),
    };
    // Their addresses carry the version.
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=86400")];
    (headers, text).into_response()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
