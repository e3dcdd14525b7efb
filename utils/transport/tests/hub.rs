//! Hubs over loopback: what arrives, in which order, and what the engine hears.

mod common;

use adit_transport::{DialOptions, ListenLimits};
use common::{Client, Heard, Link, Running, within};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test]
async fn lines_are_echoed() {
    let running = Running::new();
    let served = running.lines(ListenLimits::default()).await;
    let mut stream = BufReader::new(TcpStream::connect(served.addr).await.unwrap());
    stream.write_all(b"one\r\n\r\n\ntwo\nthr").await.unwrap();
    stream.write_all(b"ee\n").await.unwrap();
    let mut lines = stream.lines();
    for expected in ["one", "two", "three"] {
        assert_eq!(within(lines.next_line()).await.unwrap().unwrap(), expected);
    }
    assert_eq!(running.metric("messages_in_total{link=\"Client\"}"), 3.0);
    assert_eq!(running.metric("connections{link=\"Client\"}"), 1.0);
    drop(lines);
    running.until_closed("peer-closed").await;
    assert_eq!(running.metric("connections{link=\"Client\"}"), 0.0);
    assert_eq!(running.metric("out_bytes_total{link=\"Client\"}"), 14.0);
}

#[tokio::test]
async fn frames_are_echoed_between_hubs() {
    let (server, client) = (Running::new(), Running::new());
    let served = server.noise(ListenLimits::default()).await;
    let target = served.target();
    let dialed = client.hub.dial_noise(Link::Server, target, DialOptions::default()).await.unwrap();
    let large = vec![9; 200_000];
    client.hub.with(|_, _, out| {
        for payload in [&b"one"[..], b"", &large] {
            out.say(dialed.peer, |bytes| bytes.extend_from_slice(&common::frame(payload)));
        }
    });
    let heard =
        |engine: &mut common::Recorder| (engine.heard.len() == 4).then(|| engine.of(dialed.peer));
    let expected = [b"one".to_vec(), vec![], large].map(Heard::Message);
    assert_eq!(client.until(heard).await[1..], expected);
    let handshakes = "handshakes_total{side=\"responder\",result=\"ok\"}";
    assert_eq!(server.metric(handshakes), 1.0);
    served.stop().await;
    let reason = within(dialed.closed()).await;
    assert_eq!(reason.label(), "peer-closed");
    assert_eq!(server.closed("shutdown"), 1.0);
}

#[tokio::test]
async fn a_client_by_hand_is_answered() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    let mut client = Client::connect(served.addr).await;
    client.send(&[b"one", b"two"]).await;
    assert_eq!(client.next().await.unwrap(), b"one");
    assert_eq!(client.next().await.unwrap(), b"two");
}
