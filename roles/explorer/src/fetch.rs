//! Asking a role for a page.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Connecting, asking and the whole answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// More than any role's answer; whoever answers in its place must not fill our memory.
const MAX_ANSWER: usize = 16 << 20;

/// Gets `path` from `host:port`, or says in words for people why not.
///
/// # Errors
/// No connection, no whole answer in time, or another status than 200.
pub async fn get(host: &str, port: u16, path: &str) -> Result<Bytes, String> {
    match timeout(TIMEOUT, ask(host, port, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn ask(host: &str, port: u16, path: &str) -> Result<Bytes, String> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port)).await.map_err(|e| reason(&e))?;
    let (mut sender, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Its end is seen by the sender.
    let driver = tokio::spawn(async move { drop(driver.await) });
    let _driver = tokio_util::task::AbortOnDropHandle::new(driver);
    let request = Request::get(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(format!("{path} answers with HTTP {}", status.as_u16()));
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    Ok(body.map_err(|e| format!("{path}: {e}"))?.to_bytes())
}

/// Without the number that the system adds.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
