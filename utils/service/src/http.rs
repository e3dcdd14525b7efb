//! The pages of a role: `/healthz`, `/readyz`, `/status` and `/metrics`.
//!
//! Served straight on hyper's connections, since `axum::serve` sets no limit at all: a client may be slow, silent or many
//! and costs no more than [`Limits`] says.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Context,
    metrics::{Format, Metrics},
};

#[cfg(test)]
mod tests;

/// Largest header and read buffer of a connection, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// What there is, for people who try the address in a browser.
const PAGES: &str = "/healthz\n/readyz\n/status\n/metrics\n";

/// What clients of pages may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; more are closed at once. A monitoring system needs two or three.
    pub connections: usize,
    /// For a request's header to be complete, counted from the end of the answer before it: bounds clients that send a
    /// byte at a time as well as idle ones.
    pub header: Duration,
    /// A connection's whole life: bounds clients that never read their answers. One that means well connects anew.
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, header: Duration::from_secs(10), life: Duration::from_secs(120) }
    }
}

/// Serves a role's own pages until `stop` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    cx: Context,
    stop: CancellationToken,
    limits: Limits,
) {
    let metrics = cx.metrics.clone();
    serve_router(listener, router(cx), limits, (&metrics, "http"), stop).await;
}

/// Serves any pages in the same way until `stop` is cancelled. Connections that do not end well are counted in the
/// metrics as `NAME_closed` by reason.
pub async fn serve_router(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    (metrics, name): (&Metrics, &str),
    stop: CancellationToken,
) {
    let closed = Closed::default();
    metrics.register(|registry| {
        let help = "Connections to these pages that were refused or did not end well";
        registry.register(format!("{name}_closed"), help, closed.0.clone());
    });
    let permits = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Most often no file descriptor left: others must give some back first.
                tracing::warn!(error = %e, "http: cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            closed.count("too-many-connections");
            tracing::debug!(open = limits.connections, "http: connection refused");
            continue;
        };
        let (router, stop, closed) = (router.clone(), stop.clone(), closed.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                served = timeout(limits.life, serve_connection(stream, router, limits)) => {
                    match served {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => {
                            closed.count(reason_of(&e));
                            tracing::debug!(error = %e, "http: connection closed");
                        }
                        Err(_) => closed.count("life-over"),
                    }
                }
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Connections by the reason of their end.
#[derive(Clone, Default)]
struct Closed(Family<[(&'static str, &'static str); 1], Counter>);

impl Closed {
    fn count(&self, reason: &'static str) {
        self.0.get_or_create(&[("reason", reason)]).inc();
    }
}

fn reason_of(error: &hyper::Error) -> &'static str {
    if error.is_timeout() {
        "request-timeout"
    } else if error.is_parse() {
        "bad-request"
    } else {
        // It leaves in the middle of a request or an answer.
        "peer-closed"
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
) -> Result<(), hyper::Error> {
    // Answers are written in one piece; without this the last packet of one may wait for the client.
    let _: io::Result<()> = stream.set_nodelay(true);
    let service = tower_service(router);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn tower_service(
    router: Router,
) -> impl hyper::service::Service<
    hyper::Request<hyper::body::Incoming>,
    Response = Response,
    Error = std::convert::Infallible,
    Future: Send,
> {
    let service = TowerToHyperService::new(router);
    hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        hyper::service::Service::call(&service, request.map(Body::new))
    })
}

fn router(cx: Context) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/reload", post(reload))
        .route("/", get(PAGES))
        .fallback((StatusCode::NOT_FOUND, PAGES))
        .with_state(cx)
}

async fn readyz(State(cx): State<Context>) -> (StatusCode, String) {
    let waiting = cx.readiness.waiting();
    if waiting.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let reasons =
        waiting.iter().map(|w| format!("{}: {} (for {} s)\n", w.condition, w.reason, w.seconds));
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}", reasons.collect::<String>()))
}

async fn status(State(cx): State<Context>) -> Response {
    Json(cx.status()).into_response()
}

async fn metrics(State(cx): State<Context>, headers: HeaderMap) -> Response {
    let format = Format::accepted(&headers);
    match cx.metrics.encode_as(format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {e}\n"))
            .into_response(),
    }
}

/// Reads the configuration again: 200 and what has changed, 409 and why nothing has.
async fn reload(State(cx): State<Context>) -> (StatusCode, String) {
    if !cx.reload.is_possible() {
        return (StatusCode::NOT_FOUND, "this role takes in no changes while it runs\n".to_owned());
    }
    // It reads files.
    match tokio::task::spawn_blocking(move || cx.reload.run()).await {
        Ok(Ok(reloaded)) => (StatusCode::OK, format!("{reloaded}\n")),
        Ok(Err(error)) => (StatusCode::CONFLICT, format!("nothing has changed: {error}\n")),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed\n".to_owned()),
    }
}
