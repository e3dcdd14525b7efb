//! Dialling: whom to trust, and coming back.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::{ACT1_LEN, Responder, ResponderIdentity, Validity};
use adit_transport::{
    Backoff, DialError, DialOptions, DialState, DialTarget, ListenLimits, Now, Protocol,
};
use common::{Heard, Link, Running, authority, listener, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_server_of_another_authority_is_refused_and_both_sides_say_so() {
    let (server, client) = (Running::new(), Running::new());
    let served = server.noise(ListenLimits::default()).await;
    let other = AuthoritySecretKey::from_entropy([8; 32]).unwrap().public();
    let target = DialTarget { authority_key: Some(other), ..served.target() };
    let error = client.hub.dial_noise(Link::Server, target, DialOptions::default()).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains(&other.to_string()), "{error}");
    assert_eq!(handshake_label(error), "wrong-authority-key");
    server.until_closed("peer-closed-after-handshake").await;
    let told = server.hub.with(|engine, _, _| engine.heard.last().unwrap().1.clone());
    assert!(matches!(told, Heard::Closed(text) if text.contains("another authority key")));
    assert!(client.hub.with(|engine, _, _| engine.heard.is_empty()));
    let result = "handshakes_total{side=\"initiator\",result=\"wrong-authority-key\"}";
    assert_eq!(client.metric(result), 1.0);

    // Without a key anybody is welcome.
    let target = DialTarget { authority_key: None, ..served.target() };
    client.hub.dial_noise(Link::Server, target, DialOptions::default()).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let client = Running::new();
    let (listener, addr) = listener().await;
    let validity = Validity { seconds: 100, backdate: 0 };
    let signed_at = Now::read().unix_secs() - 1_000;
    let identity = ResponderIdentity::new(authority(), validity, signed_at, [[9; 32]; 3]);
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut act1 = [0; ACT1_LEN];
            stream.read_exact(&mut act1).await.unwrap();
            let (act2, ..) = Responder::respond(&identity, &act1, [[1; 32]; 2]).unwrap();
            stream.write_all(&act2).await.unwrap();
        }
    });
    let target = DialTarget { authority_key: Some(authority().public()), ..addr.into() };
    let options = DialOptions::default();
    let error = client.hub.dial_noise(Link::Server, target.clone(), options.clone()).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("expired 9"), "900 s ago, and a few: {error}");
    assert_eq!(handshake_label(error), "certificate-expired");
    // With enough tolerance it is fine.
    let options = DialOptions { clock_tolerance: Duration::from_secs(3_600), ..options };
    client.hub.dial_noise(Link::Server, target, options).await.unwrap();
    within(server).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_none() {
    let client = Running::new();
    let (listener, addr) = listener().await;
    let target = DialTarget::from(addr);
    let options = DialOptions { handshake_time: Duration::from_millis(50), ..Default::default() };
    let error = client.hub.dial_noise(Link::Server, target.clone(), options.clone()).await;
    assert_eq!(handshake_label(error.unwrap_err()), "handshake-timeout");
    drop(listener);
    // Bound and not listening: nobody answers, and nobody else gets the port.
    let away = tokio::net::TcpSocket::new_v4().unwrap();
    away.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = DialTarget::from(away.local_addr().unwrap());
    let error = client.hub.dial_noise(Link::Server, gone, options.clone()).await.unwrap_err();
    assert!(matches!(error, DialError::Connect(_)), "{error}");
    let nowhere = DialTarget { host: "no.such.host.invalid".into(), ..target };
    let error = client.hub.dial_lines(Link::Server, nowhere, options).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot resolve no.such.host.invalid: "), "{error}");
}

#[tokio::test]
async fn a_connection_is_made_anew_after_a_restart_of_the_server() {
    let client = Running::new();
    let (listener, addr) = listener().await;
    let target = DialTarget { authority_key: Some(authority().public()), ..addr.into() };
    let expected = target.clone();
    let states = Arc::new(Mutex::new(Vec::new()));
    let (cancel, seen) = (CancellationToken::new(), states.clone());
    let first = Duration::from_millis(10);
    let backoff = Backoff { first, cap: first * 4, ..Backoff::default() };
    let keeping = tokio::spawn(client.hub.keep_dialed(
        Link::Server,
        Protocol::Noise,
        move || target.clone(),
        DialOptions { backoff, ..DialOptions::default() },
        cancel.clone(),
        move |state| {
            let mut states = seen.lock().unwrap();
            match state {
                DialState::Connected { target, .. } => {
                    assert_eq!(*target, expected);
                    states.push("connected".to_owned());
                }
                DialState::Waiting { reason, retry_in, .. } => {
                    assert!(retry_in <= backoff.cap);
                    states.push(reason.to_owned());
                }
            }
        },
    ));
    let connected = || client.until(|engine| (engine.open.len() == 1).then_some(()));
    let count = |what: &str| states.lock().unwrap().iter().filter(|s| s.contains(what)).count();

    let server = Running::new();
    let served = server.noise_on(listener, addr, ListenLimits::default());
    connected().await;
    served.stop().await;
    client.until(|engine| engine.open.is_empty().then_some(())).await;
    until(|| (count("refused") > 0).then_some(())).await;

    let server = Running::new();
    let listener = until(|| bind(addr)).await;
    let served = server.noise_on(listener, addr, ListenLimits::default());
    connected().await;
    until(|| (count("connected") == 2).then_some(())).await;
    assert_eq!(states.lock().unwrap()[1], "closed by the peer");

    cancel.cancel();
    within(keeping).await.unwrap();
    assert_eq!(client.metric("closed_total{link=\"Server\",reason=\"shutdown\"}"), 1.0);
    server.until(|engine| engine.open.is_empty().then_some(())).await;
    served.stop().await;
}

#[test]
fn waits_double_up_to_their_cap() {
    let backoff = Backoff::default();
    let longest = [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000].map(Duration::from_millis);
    for (failures, longest) in (0..).zip(longest) {
        assert_eq!(backoff.wait(failures, 0), longest);
        let shortest = backoff.wait(failures, u16::MAX);
        assert!(shortest >= longest / 2 && shortest < longest * 51 / 100, "{shortest:?}");
    }
    assert_eq!(backoff.wait(u32::MAX, 0), backoff.cap);
}

#[tokio::test]
async fn lines_are_dialled_and_ended_with_the_hub() {
    let (server, client) = (Running::new(), Running::new());
    let served = server.lines(ListenLimits::default()).await;
    let dialed = client
        .hub
        .dial_lines(Link::Server, served.addr.into(), DialOptions::default())
        .await
        .unwrap();
    client.hub.with(|_, _, out| out.line(dialed.peer, b"hello"));
    let message = |engine: &mut common::Recorder| engine.of(dialed.peer).get(1).cloned();
    assert_eq!(client.until(message).await, Heard::Message(b"hello".to_vec()));
    client.cancel.cancel();
    assert_eq!(within(dialed.closed()).await.label(), "shutdown");
    server.until_closed("peer-closed").await;
    let again = client.hub.dial_lines(Link::Server, served.addr.into(), DialOptions::default());
    assert!(matches!(again.await, Err(DialError::Ended)));
}

fn handshake_label(error: DialError) -> String {
    match error {
        DialError::Handshake(reason) => reason.label().into_owned(),
        other => panic!("{other}"),
    }
}

fn bind(addr: std::net::SocketAddr) -> Option<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4().ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.bind(addr).ok()?;
    socket.listen(64).ok()
}
