//! The pool as a role inside this process, between a template provider and a miner on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use adit_pool::{Pool, store::Store};
use adit_service::parse_config;
use common::{DEADLINE, Miner, News, TemplateProvider, authority, config};
use tokio::time::{Instant, sleep};

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

async fn page(address: SocketAddr, path: &'static str) -> String {
    tokio::task::spawn_blocking(move || get(address, path)).await.unwrap()
}

/// Waits until a page is as wanted.
async fn page_with(
    address: SocketAddr,
    path: &'static str,
    wanted: impl Fn(&str) -> bool,
) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let text = page(address, path).await;
        if wanted(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{text}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn parse(text: &str) -> adit_pool::config::Config {
    parse_config(text, Path::new("")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_and_blocks_from_miner_to_store_and_provider() {
    let folder = tempfile::tempdir().unwrap();
    let mut provider = TemplateProvider::start().await;
    let text = config(
        folder.path(),
        "127.0.0.1:0".parse().unwrap(),
        &provider,
        "http.listen = \"127.0.0.1:0\"",
    );
    let pool = adit_service::start::<Pool>(parse(&text)).await.unwrap();
    let address = pool.listener("miners").await.unwrap();
    let mut miner = Miner::start(address, authority(1).public());
    miner.work().await;
    pool.ready().await.unwrap();

    miner.submit(25);
    miner.accepted(25).await;
    let block = miner.submit_block();
    provider.solution_with(block).await;
    miner.accepted(1).await;
    provider.new_tip(2);
    miner.work().await;
    miner.submit(1);
    miner.accepted(1).await;

    let http = pool.http_addr.unwrap();
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    // What all were told is measured when the last has been.
    let told = |text: &str| read(text)["state"]["job_fan_out"]["count"] == 1;
    let status = read(&page_with(http, "/status", told).await);
    let state = &status["state"];
    assert_eq!(state["template_providers"][0]["state"], "ready");
    assert_eq!(state["tip"]["prev_hash"], "02".repeat(32));
    let channel = &state["channels"][0];
    assert_eq!((&channel["kind"], &channel["identity"]), (&"extended".into(), &"alice.rig".into()));
    assert_eq!(
        (&channel["accepted"], &channel["extranonce_prefix"]),
        (&27.into(), &"01000000".into())
    );
    assert_eq!(state["work"]["accepted"], 27);
    assert_eq!(
        (&state["workers"][0]["worker"], &state["workers"][0]["accepted"]),
        (&"rig".into(), &27.into())
    );
    assert!(state["job_fan_out"]["last_ms"].is_f64());
    assert_eq!(state["custom_jobs"], serde_json::Value::Null);
    assert_eq!((&state["tip"]["height"], &state["draining"]), (&300.into(), &false.into()));
    assert_eq!(state["work"]["latest"][0]["worker"], "rig");
    let block = &state["blocks"][0];
    assert_eq!(
        (&block["state"], &block["height"], &block["account"]),
        (&"pending".into(), &300.into(), &"alice".into())
    );
    assert_eq!((&block["job"], &block["template_id"]), (&"template".into(), &1.into()));

    let lines = [
        "adit_pool_shares_total{result=\"accepted\",reason=\"none\"} 27",
        "adit_pool_shares_total{result=\"rejected\",reason=\"stale-share\"} 0",
        "adit_pool_channels{kind=\"extended\"} 1",
        "adit_pool_blocks_total{state=\"found\"} 1",
        "adit_pool_blocks_total{state=\"accepted\"} 0",
        "adit_pool_blocks_total{state=\"custom\"} 0",
        "adit_pool_custom_jobs_total{result=\"accepted\"} 0",
        "adit_pool_reconnects_sent_total 0",
        "adit_pool_store_queue_fill_ratios 0.0",
        "adit_pool_job_fan_out_seconds_count 1",
        "adit_pool_unstored_shares 0",
    ];
    let has = |metrics: &str, line: &str| metrics.contains(&format!("\n{line}\n"));
    let metrics =
        page_with(http, "/metrics", |text| lines.iter().all(|line| has(text, line))).await;
    assert!(!metrics.contains("adit_pool_share_ack_seconds_count 0\n"));

    drop(miner);
    pool.shutdown();
    pool.wait().await.unwrap();
    let store = Store::open(&folder.path().join("pool.redb")).unwrap();
    assert_eq!(store.totals(1).unwrap().accepted, 27);
    assert_eq!(store.pending_blocks().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_starts_before_its_provider_and_says_what_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut provider = TemplateProvider::start().await;
    // Bound and not listening: nobody answers, and nobody else gets the port.
    let away = tokio::net::TcpSocket::new_v4().unwrap();
    away.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = away.local_addr().unwrap();
    let text = config(
        folder.path(),
        "127.0.0.1:0".parse().unwrap(),
        &provider,
        "http.listen = \"127.0.0.1:0\"",
    );
    let text = text.replace(&format!("\"{}\"", provider.address), &format!("\"{gone}\""));
    let pool = adit_service::start::<Pool>(parse(&text)).await.unwrap();
    let wanted = format!("waiting for template provider {gone}: cannot connect");
    let says = |text: &str| text.contains(&wanted) && text.contains("no template yet");
    page_with(pool.http_addr.unwrap(), "/readyz", says).await;
    // A miner may come already; it is answered once there is work, which there never is.
    let _miner = Miner::start(pool.listener("miners").await.unwrap(), authority(1).public());
    pool.shutdown();
    pool.wait().await.unwrap();

    // The same file, now with a provider: the miner that waits is served.
    let text = config(folder.path(), "127.0.0.1:0".parse().unwrap(), &provider, "");
    let pool = adit_service::start::<Pool>(parse(&text)).await.unwrap();
    let mut miner = Miner::start(pool.listener("miners").await.unwrap(), authority(1).public());
    miner.work().await;
    let block = miner.submit_block();
    provider.solution_with(block).await;
    drop(pool);
    while !matches!(miner.next().await, News::Closed) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let provider = TemplateProvider::start().await;
    let _taken = Store::open(&folder.path().join("pool.redb")).unwrap();
    let text = config(folder.path(), "127.0.0.1:0".parse().unwrap(), &provider, "");
    let pool = adit_service::start::<Pool>(parse(&text)).await.unwrap();
    let error = pool.wait().await.unwrap_err().to_string();
    assert!(error.ends_with("pool.redb is in use by another process"), "{error}");
}
