//! Lines inside TLS, and behind proxies.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_transport::{AddressLimits, LineOptions, ListenLimits, TlsServer};
use common::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

struct Certified {
    server: Arc<TlsServer>,
    der: CertificateDer<'static>,
}

fn certificate() -> Certified {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["pool.example".to_owned()]).unwrap();
    let server = TlsServer::new(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes());
    Certified { server: Arc::new(server.unwrap()), der: cert.der().clone() }
}

async fn serve(running: &Running, options: LineOptions, limits: ListenLimits) -> SocketAddr {
    let (listener, address) = listener().await;
    let cancel = running.cancel.child_token();
    tokio::spawn(running.hub.serve_lines_with(listener, Link::Client, options, limits, cancel));
    address
}

type TlsStream = StreamOwned<ClientConnection, std::net::TcpStream>;

/// A client that has said nothing yet: its first line goes out with the end of the handshake.
fn client(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    first: &[u8],
) -> TlsStream {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "pool.example".try_into().unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(first).unwrap();
    StreamOwned::new(connection, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_in_tls_are_echoed() {
    for version in [&TLS12, &TLS13] {
        let running = Running::new();
        let Certified { server, der } = certificate();
        let options = LineOptions { tls: Some(server), ..LineOptions::default() };
        let address = serve(&running, options, ListenLimits::default()).await;
        let talk = tokio::task::spawn_blocking(move || {
            let mut stream = BufReader::new(client(address, &der, version, b""));
            for line in ["one\n", "two\n"] {
                stream.get_mut().write_all(line.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_line(&mut answer).unwrap();
                assert_eq!(answer, line);
            }
            // More than fits in a record, in a socket's buffer, and in one read.
            stream.get_mut().write_all(b"much\n").unwrap();
            let mut answer = Vec::new();
            stream.read_until(b'\n', &mut answer).unwrap();
            assert_eq!(answer.len(), (1 << 20) + 1);
            let lines = "many lines at once\n".repeat(5_000);
            stream.get_mut().write_all(lines.as_bytes()).unwrap();
            let mut answers = vec![0; lines.len()];
            stream.read_exact(&mut answers).unwrap();
            assert!(answers == lines.as_bytes());
            stream.get_mut().write_all(b"bye\n").unwrap();
            let mut rest = String::new();
            // Without its closing message this would be an error.
            stream.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "bye\n");
        });
        within(talk).await.unwrap();
        running.until(|engine| engine.open.is_empty().then_some(())).await;
        assert_eq!(running.metric("handshakes_total{side=\"tls\",result=\"ok\"}"), 1.0);
    }
}

#[tokio::test]
async fn what_is_not_tls_costs_its_own_connection() {
    let running = Running::new();
    let Certified { server, der } = certificate();
    let options = LineOptions { tls: Some(server), ..LineOptions::default() };
    let within_time = async |time| {
        serve(
            &running,
            options.clone(),
            ListenLimits { handshake_time: time, ..ListenLimits::default() },
        )
        .await
    };
    let address = within_time(DEADLINE).await;
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within(plain.read_to_end(&mut said)).await;
    assert!(said.len() <= 7, "an alert at most: {said:?}");
    running.until_closed("tls-failed").await;
    // One that says nothing.
    let impatient = within_time(Duration::from_millis(100)).await;
    let mut silent = TcpStream::connect(impatient).await.unwrap();
    assert!(is_closed_silently(&mut silent).await);
    running.until_closed("handshake-timeout").await;
    // Garbage behind a good handshake.
    let broken = tokio::task::spawn_blocking(move || {
        let mut stream = client(address, &der, &TLS13, b"");
        stream.write_all(b"hello\n").unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        stream.sock.write_all(&[0x17, 3, 3, 0, 20]).unwrap();
        stream.sock.write_all(&[0; 20]).unwrap();
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_err() && rest.is_empty());
    });
    within(broken).await.unwrap();
    until(|| (running.closed("tls-failed") == 2.0).then_some(())).await;
}

#[tokio::test]
async fn a_certificate_is_replaced() {
    let running = Running::new();
    let (old, new) =
        (certificate(), generate_simple_self_signed(["pool.example".to_owned()]).unwrap());
    let options = LineOptions { tls: Some(old.server.clone()), ..LineOptions::default() };
    let address = serve(&running, options, ListenLimits::default()).await;
    let key = new.signing_key.serialize_pem();
    assert!(old.server.replace(b"nonsense", key.as_bytes()).is_err());
    old.server.replace(new.cert.pem().as_bytes(), key.as_bytes()).unwrap();
    let trusted = new.cert.der().clone();
    let talk = tokio::task::spawn_blocking(move || {
        let mut stream = client(address, &trusted, &TLS13, b"");
        stream.write_all(b"hello\n").unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
    });
    within(talk).await.unwrap();
}

#[tokio::test]
async fn a_proxy_says_whom_a_connection_comes_from() {
    let running = Running::new();
    let proxies = Some(["127.0.0.0/8".parse().unwrap()].into());
    let options = LineOptions { proxies, label: Some("farm".to_owned()), ..LineOptions::default() };
    let one = AddressLimits { connections: 1, burst: 100, per_second: 1.0 };
    let limits = ListenLimits { address: one, loopback: one, ..ListenLimits::default() };
    let address = serve(&running, options, limits).await;
    let connect = async |header: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[header, b"hello\n"].concat()).await.unwrap();
        let mut answer = Vec::new();
        let read = within(stream.read_buf(&mut answer)).await;
        (read.is_ok_and(|read| read == 6), stream)
    };
    let (admitted, _first) = connect(b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 34255\r\n").await;
    assert!(admitted);
    let (again, _) = connect(b"PROXY TCP4 192.0.2.1 198.51.100.1 5001 34255\r\n").await;
    assert!(!again, "the limit is that of the address in the header");
    let v2 =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &[192, 0, 2, 2, 198, 51, 100, 1, 1, 2, 3, 4][..]];
    let (other, _second) = connect(&v2.concat()).await;
    assert!(other, "another address has its own");
    let (without, _) = connect(b"{\"id\":1,\"method\":\"mining.subscribe\"}\n").await;
    assert!(!without, "without a header it is refused");
    let closed = |reason| format!("closed_total{{link=\"farm\",reason=\"{reason}\"}}");
    until(|| (running.metric(&closed("bad-proxy-header")) == 1.0).then_some(())).await;
    running.counts(&closed("too-many-connections"), 1.0).await;
    running.counts("connections{link=\"farm\"}", 2.0).await;
}

#[tokio::test]
async fn only_proxies_that_are_trusted_are_believed() {
    let running = Running::new();
    let proxies = Some(["127.0.0.9".parse().unwrap()].into());
    let options = LineOptions { proxies, ..LineOptions::default() };
    let address = serve(&running, options, ListenLimits::default()).await;
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 34255\r\nhello\n";
    let mut other = TcpStream::connect(address).await.unwrap();
    let _ = other.write_all(header).await;
    assert!(is_closed_silently(&mut other).await);
    running.until_closed("untrusted-proxy").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 9), 0).into()).unwrap();
    let mut trusted = socket.connect(address).await.unwrap();
    trusted.write_all(header).await.unwrap();
    let mut answer = [0; 6];
    within(trusted.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"hello\n");
}

#[tokio::test]
async fn tls_behind_a_proxy() {
    let running = Running::new();
    let Certified { server, der } = certificate();
    let proxies = Some(["127.0.0.1".parse().unwrap()].into());
    let options = LineOptions { tls: Some(server), proxies, label: None };
    let address = serve(&running, options, ListenLimits::default()).await;
    let talk = tokio::task::spawn_blocking(move || {
        let mut stream = client(address, &der, &TLS13, b"PROXY UNKNOWN\r\n");
        stream.write_all(b"hello\n").unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello\n");
    });
    within(talk).await.unwrap();
}

#[tokio::test]
async fn a_storm_of_one_address_is_banned() {
    let running = Running::new();
    let loopback = AddressLimits { connections: 100, burst: 2, per_second: 1_000.0 };
    let ban = Duration::from_secs(300);
    let limits = ListenLimits { loopback, ban, ..ListenLimits::default() };
    let address = serve(&running, LineOptions::default(), limits).await;
    let connect = async |from: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let _ = stream.write_all(b"hello\n").await;
        within(stream.read_exact(&mut [0; 6])).await.is_ok()
    };
    // Without end: it comes until it is refused once, and then it is for good.
    let storm = async { while connect(2).await {} };
    let many = (0..8).map(|_| connect(2));
    let all = async {
        for one in many {
            one.await;
        }
    };
    // One after the other a bucket of 1000 a second never empties: at once it does.
    let mut at_once = Vec::new();
    for _ in 0..64 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
        at_once.push(socket.connect(address).await.unwrap());
    }
    within(storm).await;
    within(all).await;
    assert!(running.closed("banned") >= 8.0, "{}", running.closed("banned"));
    assert!(connect(3).await, "another address is not concerned");
}
