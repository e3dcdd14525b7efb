//! The role as a program runs it: sockets, pages, and an upstream that is not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use adit_service::{Handle, Role, parse_config, start};
use adit_translator::TranslatorRole;
use adit_translator::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn translator(upstream: SocketAddr) -> (Handle, SocketAddr) {
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[upstream]]\nurl = \"stratum2+tcp://{upstream}\"\n"
    );
    let config: Config = parse_config(&text, Path::new("/nowhere")).unwrap();
    let handle = start::<TranslatorRole>(config).await.unwrap();
    let address = timeout(SOON, handle.listener("miners")).await.unwrap().unwrap();
    (handle, address)
}

/// A port where nobody listens: taken, and given back.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[test]
fn the_example_passes_the_check_of_the_command_line() {
    let config = parse_config(TranslatorRole::EXAMPLE, Path::new("/nowhere")).unwrap();
    TranslatorRole::check(&config).unwrap();
}

#[tokio::test]
async fn miners_are_answered_without_an_upstream_and_readiness_says_what_is_missing() {
    let upstream = nobody().await;
    let (handle, address) = translator(upstream).await;
    let mut miner = BufReader::new(TcpStream::connect(address).await.unwrap());
    // In one segment, as ESP-Miner sends it.
    let hello = concat!(
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}"#,
        "\r\n",
        r#"{"id":2,"method":"mining.subscribe","params":["bitaxe/v2"]}"#,
        "\n\n",
        r#"{"id":3,"method":"mining.authorize","params":["a.b","x"]}"#,
        "\n"
    );
    miner.write_all(hello.as_bytes()).await.unwrap();
    for id in 1..=3 {
        let mut line = String::new();
        timeout(SOON, miner.read_line(&mut line)).await.unwrap().unwrap();
        assert!(line.starts_with(&format!("{{\"id\":{id},")), "{line}");
        assert!(line.contains("\"error\":null"), "{line}");
    }

    let readiness = &handle.context().readiness;
    let refused = async {
        loop {
            let waiting = readiness.waiting();
            if waiting.iter().any(|w| {
                w.condition == "upstream"
                    && w.reason.starts_with(&format!("{upstream}: cannot connect"))
            }) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, refused).await.expect("readiness names the upstream and what is wrong");
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
    let mut rest = String::new();
    timeout(SOON, miner.read_line(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty(), "the connection is closed when the role ends: {rest}");
}

#[tokio::test]
async fn a_line_without_end_costs_its_own_connection() {
    let (handle, address) = translator(nobody().await).await;
    let mut other = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut flood = TcpStream::connect(address).await.unwrap();
    // More than any line may have. The write may fail when the other end has had enough.
    let _ = flood.write_all(&[b'x'; 64 << 10]).await;
    let mut byte = [0];
    let read = timeout(SOON, tokio::io::AsyncReadExt::read(&mut flood, &mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed: {read:?}");
    other.write_all(b"{\"id\":7,\"method\":\"mining.ping\",\"params\":[]}\n").await.unwrap();
    let mut line = String::new();
    timeout(SOON, other.read_line(&mut line)).await.unwrap().unwrap();
    assert_eq!(line, "{\"id\":7,\"result\":\"pong\",\"error\":null}\n");
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}
