//! An engine that records and echoes, and peers that speak by hand.
// Each test file uses a part; what fails here fails the test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_sv2::frame::Header;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::{ACT2_LEN, Initiator, Opened, Opener, Sealer, Validity};
use adit_transport::{
    DialTarget, Engine, Event, Hub, HubOptions, ListenLimits, NoiseServer, Now, Outbox, PeerId,
    TransportMetrics,
};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    Client,
    Server,
}

/// What the engine has heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard {
    Opened,
    Message(Vec<u8>),
    Closed(String),
}

/// Records everything; on [`Link::Client`] it also answers: a message that is `bye` with itself and a close, `panic` with
/// a panic, `quiet` not at all, the line `much` with a megabyte, others with themselves.
#[derive(Default)]
pub struct Recorder {
    pub heard: Vec<(PeerId, Heard)>,
    pub open: Vec<PeerId>,
    pub ticks: u64,
}

impl Recorder {
    pub fn of(&self, peer: PeerId) -> Vec<Heard> {
        self.heard.iter().filter(|(p, _)| *p == peer).map(|(_, heard)| heard.clone()).collect()
    }
}

impl Engine for Recorder {
    type Link = Link;
    type Effect = Vec<u8>;

    fn handle(
        &mut self,
        peer: PeerId,
        link: Link,
        event: Event<'_>,
        _: Now,
        out: &mut Outbox<Vec<u8>>,
    ) {
        let (heard, header) = match event {
            Event::Opened { .. } => {
                self.open.push(peer);
                (Heard::Opened, None)
            }
            Event::Frame(header, payload) => {
                assert_eq!(header.msg_length as usize, payload.len());
                (Heard::Message(payload.to_vec()), Some(header))
            }
            Event::Line(line) => (Heard::Message(line.to_vec()), None),
            Event::Closed(reason) => {
                self.open.retain(|open| *open != peer);
                (Heard::Closed(reason.to_owned()), None)
            }
        };
        if let (Heard::Message(message), Link::Client) = (&heard, link) {
            assert_ne!(message, b"panic", "as asked");
            out.effect(message.clone());
            if message != b"quiet" {
                match header {
                    Some(header) => out.send_frame(peer, header, message),
                    None if message == b"much" => out.line(peer, &[b'a'; 1 << 20]),
                    None => out.line(peer, message),
                }
            }
            if message == b"bye" {
                out.close(peer, "as asked");
                self.open.retain(|open| *open != peer);
            }
        }
        self.heard.push((peer, heard));
    }

    fn tick(&mut self, _: Now, _: &mut Outbox<Vec<u8>>) {
        self.ticks += 1;
    }
}

/// A hub with its metrics.
pub struct Running {
    pub hub: Hub<Recorder>,
    pub cancel: CancellationToken,
    pub registry: Registry,
}

impl Running {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("adit");
        let metrics = TransportMetrics::register(&mut registry);
        let cancel = CancellationToken::new();
        let options = HubOptions { cancel: cancel.clone(), tick: Duration::from_millis(10) };
        Self { hub: Hub::new(Recorder::default(), |_| {}, metrics, options), cancel, registry }
    }

    pub async fn lines(&self, limits: ListenLimits) -> Served {
        let (listener, addr) = listener().await;
        let cancel = self.cancel.child_token();
        let task = self.hub.serve_lines(listener, Link::Client, limits, cancel.clone());
        Served { addr, cancel, task: tokio::spawn(task) }
    }

    pub async fn noise(&self, limits: ListenLimits) -> Served {
        let (listener, addr) = listener().await;
        self.noise_on(listener, addr, limits)
    }

    pub fn noise_on(
        &self,
        listener: TcpListener,
        addr: SocketAddr,
        limits: ListenLimits,
    ) -> Served {
        let cancel = self.cancel.child_token();
        let server = Arc::new(NoiseServer::new(authority(), Validity::default()).unwrap());
        let task = self.hub.serve_noise(listener, Link::Client, server, limits, cancel.clone());
        Served { addr, cancel, task: tokio::spawn(task) }
    }

    /// The value of a sample, by the start of its line without `adit_transport_`; 0 if there is none.
    pub fn metric(&self, sample: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let start = format!("adit_transport_{sample} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub fn closed(&self, reason: &str) -> f64 {
        self.metric(&format!("closed_total{{link=\"Client\",reason=\"{reason}\"}}"))
    }

    /// Waits until `ready` of the engine.
    pub async fn until<T>(&self, mut ready: impl FnMut(&mut Recorder) -> Option<T>) -> T {
        until(|| self.hub.with(|engine, _, _| ready(engine))).await
    }

    /// Waits until a sample has this value.
    pub async fn counts(&self, sample: &str, value: f64) {
        until(|| (self.metric(sample) == value).then_some(())).await;
    }

    pub async fn until_closed(&self, reason: &str) {
        until(|| (self.closed(reason) == 1.0).then_some(())).await;
    }
}

pub struct Served {
    pub addr: SocketAddr,
    pub cancel: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Served {
    pub async fn stop(self) {
        self.cancel.cancel();
        within(self.task).await.unwrap();
    }

    pub fn target(&self) -> DialTarget {
        DialTarget { authority_key: Some(authority().public()), ..self.addr.into() }
    }
}

/// Waits until something is ready, looking every few milliseconds.
pub async fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    within(async {
        loop {
            if let Some(value) = ready() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("not within the deadline")
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A client whose kernel holds little of what it does not read.
pub async fn connect_small(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(addr).await.unwrap()
}

pub fn authority() -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy([7; 32]).unwrap()
}

/// A frame of extension 1, type 2.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let msg_length = payload.len() as u32;
    let header = Header { extension_type: 1, channel_msg: false, msg_type: 2, msg_length };
    [&header.to_bytes()[..], payload].concat()
}

/// A client by hand.
pub struct Client {
    pub stream: TcpStream,
    pub sealer: Sealer,
    opener: Opener,
    received: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap()).await
    }

    pub async fn over(mut stream: TcpStream) -> Self {
        let (initiator, act1) = Initiator::new(Some(authority().public()), [[3; 32], [4; 32]]);
        stream.write_all(&act1).await.unwrap();
        let mut act2 = [0; ACT2_LEN];
        within(stream.read_exact(&mut act2)).await.unwrap();
        let now = Now::read().unix_secs();
        let (sealer, opener, _) = initiator.finish(&act2, now, 10).unwrap();
        Self { stream, sealer, opener, received: Vec::new() }
    }

    pub fn seal(&mut self, payloads: &[&[u8]]) -> Vec<u8> {
        let mut sealed = Vec::new();
        for payload in payloads {
            self.sealer.seal(&frame(payload), &mut sealed).unwrap();
        }
        sealed
    }

    pub async fn send(&mut self, payloads: &[&[u8]]) {
        let sealed = self.seal(payloads);
        self.stream.write_all(&sealed).await.unwrap();
    }

    /// The next payload, none at the end of the connection.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Opened::Frame { payload, consumed, .. } =
                self.opener.next(&mut self.received, |_| 1 << 24).unwrap()
            {
                let payload = payload.to_vec();
                self.received.drain(..consumed);
                return Some(payload);
            }
            match within(self.stream.read_buf(&mut self.received)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// Whether the other end closes the connection without a word.
pub async fn is_closed_silently(stream: &mut TcpStream) -> bool {
    matches!(within(stream.read(&mut [0; 1])).await, Ok(0) | Err(_))
}
