//! What bad input gets: the connection that it came on is closed, with a reason that is counted, and everything else
//! goes on mining.

#![allow(clippy::unwrap_used)] // a test's helpers may panic as the test itself may

mod bytes;
mod messages;
mod readers;
mod servers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_sv2::codec::Str0255;
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::messages::Message;
use adit_sv2::messages::mining::OpenStandardMiningChannel;
use adit_sv2::noise::{ACT2_LEN, Initiator, Sealer};
use adit_test_env::harness::{self, Endpoint, Metrics, Role, Setup, Stack};

/// For what takes a moment, on a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// For what takes as long as the longest deadline of a connection, half a minute.
const LATER: Duration = Duration::from_secs(120);

/// A whole stack at work, and what of it must not change whatever others do.
struct Works {
    stack: Stack,
    pids: Vec<Option<u32>>,
    /// What the roles had counted when all was at work: their start may have cost connections.
    begun: Vec<(&'static str, Metrics)>,
    reconnects: Vec<u64>,
}

impl Works {
    /// Whoever connects has time.
    fn start() -> Self {
        Self::with(None)
    }

    /// A translator's miners and a pool's clients have so many seconds to say what they want.
    fn impatient(seconds: u64) -> Self {
        Self::with(Some(seconds))
    }

    fn with(patience: Option<u64>) -> Self {
        let node = harness::regtest().unwrap();
        let provider = Setup::template_provider(&node).start().unwrap();
        let mut pool = Setup::pool(&provider.endpoint());
        if let Some(seconds) = patience {
            pool = pool.set("channels", "open_deadline_secs", seconds);
        }
        let mut stack = Stack::of(node, provider, pool.start().unwrap()).unwrap();
        // One that asks and does not read is to be found out by that.
        let mut translator = Setup::translator(&stack.pool.endpoint()).set(
            "miners",
            "max_lines_per_second",
            1_000_000,
        );
        if let Some(seconds) = patience {
            translator = translator.set("miners", "hello_timeout_seconds", seconds);
        }
        stack.translator = Some(translator.start().unwrap());
        for mode in ["sv1", "sv2-standard", "sv2-extended"] {
            stack.add_miner(mode).unwrap();
        }
        stack.wait_ready().unwrap();
        stack.mine(1, SOON);
        let pids = stack.roles().map(Role::pid).collect();
        let servers = [&stack.provider, &stack.pool, stack.translator.as_ref().unwrap()];
        let begun = servers.map(|role| (role.name(), role.metrics().unwrap())).into();
        let reconnects = stack.miners.iter().map(reconnects).collect();
        Self { stack, pids, begun, reconnects }
    }

    fn provider(&self) -> &Role {
        &self.stack.provider
    }

    fn pool(&self) -> &Role {
        &self.stack.pool
    }

    fn translator(&self) -> &Role {
        self.stack.translator.as_ref().unwrap()
    }

    /// The servers with the `link` label of those who connect to them.
    fn servers(&self) -> [(&Role, &'static str); 3] {
        [(self.provider(), "Client"), (self.pool(), "Miner"), (self.translator(), "Miner")]
    }

    /// How many connections of a link a role had closed when all was at work.
    fn before(&self, role: &Role, link: &str, reason: &str) -> f64 {
        let begun = self.begun.iter().find(|(name, _)| *name == role.name());
        closed_in(&begun.unwrap().1, link, reason)
    }

    /// Waits until a role has closed this many connections of a link for a reason, since all was at work.
    #[track_caller]
    fn closes(&self, role: &Role, link: &str, reason: &str, count: usize) {
        closes(role, link, reason, self.before(role, link, reason), count);
    }

    /// All go on: every miner finds more blocks, nobody was restarted, and no connection between them was lost.
    fn are_unharmed(&mut self) {
        self.stack.mine(1, SOON);
        assert_eq!(self.stack.roles().map(Role::pid).collect::<Vec<_>>(), self.pids);
        self.stack.wait_ready().unwrap();
        assert_eq!(self.stack.miners.iter().map(reconnects).collect::<Vec<_>>(), self.reconnects);
        for (role, link) in [(self.pool(), "TemplateProvider(0)"), (self.translator(), "Upstream")]
        {
            let before = self.before(role, link, "");
            assert_eq!(closed(role, link, ""), before, "{}", role.metrics().unwrap().text());
        }
    }
}

fn reconnects(miner: &Role) -> u64 {
    let status = miner.status().unwrap();
    status["state"]["connections"][0]["reconnects"].as_u64().unwrap()
}

/// How many connections of a link a role has closed for a reason, `""` for any.
fn closed(role: &Role, link: &str, reason: &str) -> f64 {
    closed_in(&role.metrics().unwrap(), link, reason)
}

fn closed_in(metrics: &Metrics, link: &str, reason: &str) -> f64 {
    let labels = [("link", link), ("reason", reason)];
    let labels = if reason.is_empty() { &labels[..1] } else { &labels };
    metrics.sum("adit_transport_closed_total", labels)
}

/// Waits until a role has closed this many connections of a link for a reason, beside those of before.
#[track_caller]
fn closes(role: &Role, link: &str, reason: &str, before: f64, count: usize) {
    let wanted = before + count as f64;
    let end = Instant::now() + LATER;
    while closed(role, link, reason) < wanted {
        assert!(
            Instant::now() < end,
            "{} has not closed {count} for {reason}:\n{}",
            role.name(),
            role.metrics().unwrap().text()
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(closed(role, link, reason), wanted, "{} for {reason}", role.name());
}

fn tcp(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// A connection on which these bytes were said.
fn says(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = tcp(addr);
    // The other end may have had enough before all is said.
    let _ = stream.write_all(bytes);
    stream
}

/// A connection with a good handshake, and what seals for it.
fn shaken(server: &Endpoint) -> (TcpStream, Sealer) {
    let mut random = Random(u64::from(server.addr.port()));
    let (initiator, act1) = Initiator::new(server.key, [random.key(), random.key()]);
    let mut stream = says(server.addr, &act1);
    let mut act2 = [0; ACT2_LEN];
    stream.read_exact(&mut act2).unwrap();
    let (sealer, _, _) = initiator.finish(&act2, unix_seconds(), 10).unwrap();
    (stream, sealer)
}

fn unix_seconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32
}

/// Bytes that look random and are the same in every run: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }

    fn key(&mut self) -> [u8; 32] {
        // A seed of 0 would give nothing else.
        self.0 |= 1;
        self.bytes(32).try_into().unwrap()
    }
}

fn frame(extension: u16, channel_msg: bool, msg_type: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        extension_type: extension,
        channel_msg,
        msg_type,
        msg_length: payload.len() as u32,
    };
    [&header.to_bytes(), payload].concat()
}

fn frame_of<'m, M: Message<'m>>(message: &M) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(message, &mut frame);
    frame
}

fn open_standard(request_id: u32, nominal_hash_rate: f32) -> OpenStandardMiningChannel<'static> {
    OpenStandardMiningChannel {
        request_id,
        user_identity: Str0255::cut("hostile"),
        nominal_hash_rate,
        max_target: [0xff; 32],
    }
}
