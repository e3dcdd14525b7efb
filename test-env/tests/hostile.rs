//! What bad input gets: the connection that it came on is closed, with a reason that is counted, and everything else
//! goes on mining.

#![allow(clippy::unwrap_used)] // a test's helpers may panic as the test itself may

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_sv2::codec::Str0255;
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::Message;
use adit_sv2::messages::common::{
    PROTOCOL_MINING, PROTOCOL_TEMPLATE_DISTRIBUTION, SetupConnection, SetupConnectionError,
};
use adit_sv2::messages::mining::{
    OpenExtendedMiningChannel, OpenStandardMiningChannel, OpenStandardMiningChannelSuccess,
    REQUIRES_WORK_SELECTION, UpdateChannel,
};
use adit_sv2::messages::template_distribution::{
    CoinbaseOutputConstraints, NewTemplate, RequestTransactionData,
};
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Initiator, Responder, ResponderIdentity, SEALED_HEADER_LEN, Sealer,
    Validity,
};
use adit_test_env::bitcoind::{coins_of, spawn_tied, split, tied};
use adit_test_env::harness::{
    self, Endpoint, LinePeer, Role, Setup, Stack, Sv2Peer, eventually, program, read_to_end,
};
use adit_test_env::sniffer::{Action, Direction, Sniffer};

/// For what takes a moment, on a machine busy with other tests.
const SOON: Duration = Duration::from_secs(30);
/// For what takes as long as the longest deadline of a connection, half a minute.
const LATER: Duration = Duration::from_secs(60);

/// A translator's miners and a pool's clients have this many seconds to say what they want.
const HELLO_SECONDS: u64 = 3;

/// A whole stack at work, and what of it must not change whatever others do.
struct Works {
    stack: Stack,
    pids: Vec<Option<u32>>,
}

impl Works {
    fn start() -> Self {
        let node = harness::regtest().unwrap();
        let provider = Setup::template_provider(&node).start().unwrap();
        let pool = Setup::pool(&provider.endpoint())
            .set("channels", "open_deadline_secs", HELLO_SECONDS)
            .start()
            .unwrap();
        let mut stack = Stack::of(node, provider, pool).unwrap();
        let translator = Setup::translator(&stack.pool.endpoint());
        let translator = translator
            .set("miners", "hello_timeout_seconds", HELLO_SECONDS)
            // One that asks and does not read is to be found out by that.
            .set("miners", "max_lines_per_second", 1_000_000);
        stack.translator = Some(translator.start().unwrap());
        for mode in ["sv1", "sv2-standard", "sv2-extended"] {
            stack.add_miner(mode).unwrap();
        }
        stack.wait_ready().unwrap();
        stack.mine(1, SOON);
        let pids = stack.roles().map(Role::pid).collect();
        Self { stack, pids }
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

    /// All go on: every miner finds more blocks, nobody was restarted, and no connection between them was lost.
    fn are_unharmed(&mut self) {
        self.stack.mine(1, SOON);
        assert_eq!(self.stack.roles().map(Role::pid).collect::<Vec<_>>(), self.pids);
        self.stack.wait_ready().unwrap();
        for miner in &self.stack.miners {
            let status = miner.status().unwrap();
            assert_eq!(status["state"]["connections"][0]["reconnects"], 0, "{status:#}");
        }
        for (role, link) in [(self.pool(), "TemplateProvider(0)"), (self.translator(), "Upstream")]
        {
            assert_eq!(closed(role, link, ""), 0.0, "{}", role.metrics().unwrap().text());
        }
    }
}

/// How many connections of a link a role has closed for a reason, `""` for any.
fn closed(role: &Role, link: &str, reason: &str) -> f64 {
    let labels = [("link", link), ("reason", reason)];
    let labels = if reason.is_empty() { &labels[..1] } else { &labels };
    role.metrics().unwrap().sum("adit_transport_closed_total", labels)
}

/// Waits until a role has closed this many connections of a link for a reason.
#[track_caller]
fn closes(role: &Role, link: &str, reason: &str, count: usize, within: Duration) {
    let end = Instant::now() + within;
    while closed(role, link, reason) < count as f64 {
        assert!(
            Instant::now() < end,
            "{} has not closed {count} for {reason}:\n{}",
            role.name(),
            role.metrics().unwrap().text()
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(closed(role, link, reason), count as f64, "{} for {reason}", role.name());
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

#[test]
fn bytes_that_mean_nothing() {
    let mut works = Works::start();
    let mut open = Vec::new();
    for (role, link) in [(works.provider(), "Client"), (works.pool(), "Miner")] {
        let server = role.endpoint();
        let mut random = Random(1);

        // Deadlines run while the rest is tried.
        open.push(tcp(server.addr)); // says nothing at all
        open.push(says(server.addr, &random.bytes(ACT1_LEN - 1))); // a handshake that never ends
        let (mut begun, mut sealer) = shaken(&server);
        let mut sealed = Vec::new();
        let setup = Sv2Peer::setup_connection(PROTOCOL_MINING, 0);
        sealer.seal(&frame_of(&setup), &mut sealed).unwrap();
        begun.write_all(&sealed[..sealed.len() - 1]).unwrap(); // a frame that never ends
        open.push(begun);

        // Any 64 bytes are a key, so that what is no handshake is seen behind them.
        for length in [ACT1_LEN + SEALED_HEADER_LEN, 1_000, 100_000] {
            let mut stream = says(server.addr, &random.bytes(length));
            let said = read_to_end(&mut stream, SOON).unwrap();
            assert!(said.len() <= ACT2_LEN, "{} bytes in answer to nonsense", said.len());
        }
        // What a V1 miner and a browser say first.
        let v1 = "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n".repeat(3);
        for hello in [v1, format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(90))] {
            read_to_end(&mut says(server.addr, hello.as_bytes()), SOON).unwrap();
        }
        closes(role, link, "bad-frame", 5, SOON);

        // A good handshake, and then nonsense.
        let (mut stream, _) = shaken(&server);
        stream.write_all(&random.bytes(SEALED_HEADER_LEN)).unwrap();
        assert!(read_to_end(&mut stream, SOON).unwrap().is_empty());
        closes(role, link, "bad-frame", 6, SOON);

        // More than a message of its type may have, refused by its header.
        for (msg_type, length) in [(SetupConnection::TYPE, 5_000), (0x57, 0xff_ffff)] {
            let (mut stream, mut sealer) = shaken(&server);
            let mut sealed = Vec::new();
            sealer.seal(&frame(0, false, msg_type, &vec![0; length]), &mut sealed).unwrap();
            stream.write_all(&sealed[..SEALED_HEADER_LEN]).unwrap();
            assert!(read_to_end(&mut stream, SOON).unwrap().is_empty());
        }
        closes(role, link, "frame-too-large", 2, SOON);

        // Whoever leaves in the middle is not waited for.
        let before = closed(role, link, "peer-closed");
        drop(says(server.addr, &random.bytes(10)));
        let (mut stream, mut sealer) = shaken(&server);
        let mut sealed = Vec::new();
        sealer.seal(&frame_of(&setup), &mut sealed).unwrap();
        stream.write_all(&sealed[..30]).unwrap();
        drop(stream);
        eventually(SOON, "two left", || {
            closed(role, link, "peer-closed") + closed(role, link, "peer-closed-after-handshake")
                >= before + 2.0
        });
    }

    // The translator, which speaks in lines.
    let (role, server) = (works.translator(), works.translator().endpoint());
    let mut random = Random(2);
    open.push(tcp(server.addr));
    open.push(says(server.addr, b"{\"id\":1,\"method\":\"mining.subscribe\"")); // a line that never ends
    let mut garbage = random.bytes(2_000);
    garbage.push(b'\n');
    for hello in [
        &garbage[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\xc0\xff\xee\n",
        b"[]\n",
    ] {
        assert!(read_to_end(&mut says(server.addr, hello), SOON).unwrap().is_empty());
    }
    closes(role, "Miner", "engine:not-stratum", 4, SOON);
    for length in [16 << 10, 1 << 20] {
        let mut line = b"{\"id\":1,\"method\":\"".to_vec();
        line.resize(length + 1, b'a');
        assert!(read_to_end(&mut says(server.addr, &line), SOON).unwrap().is_empty());
    }
    closes(role, "Miner", "line-too-long", 2, SOON);
    // One who is known is forgiven some, but not all.
    let mut miner = LinePeer::connect(&server).unwrap();
    miner.send("{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"hostile\"]}").unwrap();
    miner.wait_until(SOON, |line| line["id"] == 1).unwrap();
    for _ in 0..10 {
        miner.send("{\"id\":2,\"method\":").unwrap();
    }
    assert!(miner.wait_until(SOON, |_| false).unwrap_err().to_string().contains("closed"));
    closes(role, "Miner", "engine:too-many-bad-lines", 1, SOON);
    drop(says(server.addr, b"{\"id\":1"));
    closes(role, "Miner", "peer-closed", 1, SOON);
    closes(role, "Miner", "engine:no-hello", 2, SOON);

    // And those that waited.
    for (role, link) in [(works.provider(), "Client"), (works.pool(), "Miner")] {
        closes(role, link, "handshake-timeout", 2, SOON);
    }
    // Each gives up on the frame that never ends, or sooner on who sends it.
    closes(works.provider(), "Client", "engine:no CoinbaseOutputConstraints in time", 1, SOON);
    closes(works.pool(), "Miner", "engine:no-channel-in-time", 1, SOON);
    for stream in &mut open {
        read_to_end(stream, SOON).unwrap();
    }
    works.are_unharmed();
}

/// Connections by the hundred, that say nothing, or shake hands and say nothing.
#[test]
fn storms_of_connections() {
    const STORM: usize = 300;
    let mut works = Works::start();
    let storm = |role: &Role, link: &str| {
        let server = role.endpoint();
        let before = closed(role, link, "");
        let storm: Vec<_> = (0..STORM).map(|_| tcp(server.addr)).collect();
        // Others come in meanwhile.
        match server.key {
            Some(_) => drop(Sv2Peer::connect(&server).unwrap()),
            None => drop(LinePeer::connect(&server).unwrap()),
        }
        let mut stay: Vec<_> = match server.key {
            Some(_) => (0..STORM / 3).map(|_| shaken(&server).0).collect(),
            None => (0..STORM / 3).map(|_| tcp(server.addr)).collect(),
        };
        drop(storm);
        // Nor is anybody waited for who stays.
        for stream in &mut stay {
            assert!(read_to_end(stream, SOON).unwrap().is_empty());
        }
        let all = STORM + 1 + stay.len();
        eventually(SOON, "all of them are closed and counted", || {
            closed(role, link, "") >= before + all as f64
        });
    };
    thread::scope(|scope| {
        for (role, link) in works.servers() {
            scope.spawn(move || storm(role, link));
        }
    });
    works.are_unharmed();
}

/// What is said in order, and means something that nobody may say.
#[test]
fn messages_out_of_place() {
    let mut works = Works::start();
    let (provider, pool) = (works.provider().endpoint(), works.pool().endpoint());

    // Not what is spoken here, or not so: told why, then closed.
    let (mining, td) = (PROTOCOL_MINING, PROTOCOL_TEMPLATE_DISTRIBUTION);
    let newer = |setup| SetupConnection { min_version: 3, max_version: 9, ..setup };
    let older = |setup| SetupConnection { min_version: 0, max_version: 1, ..setup };
    let setup = Sv2Peer::setup_connection;
    let flag = 1 << 17;
    for (server, setup, code, flags) in [
        (&pool, setup(td, 0), "unsupported-protocol", 0),
        (&pool, setup(99, 0), "unsupported-protocol", 0),
        (&pool, newer(setup(mining, 0)), "protocol-version-mismatch", 0),
        (&pool, older(setup(mining, 0)), "protocol-version-mismatch", 0),
        (&pool, setup(mining, flag | 1), "unsupported-feature-flags", flag),
        (
            &pool,
            setup(mining, REQUIRES_WORK_SELECTION),
            "unsupported-feature-flags",
            REQUIRES_WORK_SELECTION,
        ),
        (&provider, setup(mining, 0), "unsupported-protocol", 0),
        (&provider, newer(setup(td, 0)), "protocol-version-mismatch", 0),
        (&provider, older(setup(td, 0)), "protocol-version-mismatch", 0),
        (&provider, setup(td, flag), "unsupported-feature-flags", flag),
    ] {
        let mut peer = Sv2Peer::connect(server).unwrap();
        peer.send(&setup).unwrap();
        let said = peer.wait_closed(SOON).unwrap();
        assert_eq!(said.len(), 1, "{setup}: {said:?}");
        assert_eq!(said[0].name, "SetupConnection.Error", "{setup}");
        let (error, _) = SetupConnectionError::decode(said[0].frame().1).unwrap();
        assert_eq!((error.error_code.to_clean_string().as_str(), error.flags), (code, flags));
    }
    closes(works.pool(), "Miner", "engine:setup-connection-refused", 6, SOON);
    for (reason, count) in [
        ("engine:unsupported-protocol", 1),
        ("engine:protocol-version-mismatch", 2),
        ("engine:unsupported-feature-flags", 1),
    ] {
        closes(works.provider(), "Client", reason, count, SOON);
    }

    // Before SetupConnection there is nothing to say, after it nothing twice, and never what a server says.
    let constraints = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 100,
        coinbase_output_max_additional_sigops: 0,
    };
    let cut = frame_of(&open_standard(1, 1.0));
    let cut = frame(0, false, OpenStandardMiningChannel::TYPE, &cut[6..20]);
    let mining_cases = [
        (false, frame_of(&open_standard(1, 1.0)), "message-before-setup-connection"),
        (false, frame(1, false, 0, &[1, 0, 0, 0]), "message-before-setup-connection"),
        (false, frame(0, false, 0, &[0; 3]), "malformed-frame"),
        (true, frame_of(&setup(mining, 0)), "second-setup-connection"),
        (true, frame_of(&constraints), "unexpected-message"),
        (true, frame(0, true, 0x15, &[0; 100]), "unexpected-message"), // NewMiningJob
        (true, cut, "malformed-frame"),
        (true, frame(0, false, 0xee, &[]), "unexpected-message"),
    ];
    for (set_up, bytes, reason) in mining_cases {
        refuses(works.pool(), "Miner", mining, set_up, &bytes, reason);
    }
    let td_cases = [
        (false, frame_of(&constraints), "not a SetupConnection"),
        (true, frame_of(&RequestTransactionData { template_id: 1 }), "message out of order"),
        (true, frame_of(&setup(td, 0)), "undecodable message"),
        (true, frame(0, false, 0x70, &[0; 3]), "undecodable message"),
        (true, frame_of(&open_standard(1, 1.0)), "undecodable message"),
    ];
    for (set_up, bytes, reason) in td_cases {
        refuses(works.provider(), "Client", td, set_up, &bytes, reason);
    }

    // Extensions that were not agreed on are passed over in silence, whatever is in them; requests are answered.
    let mut peer = Sv2Peer::set_up(&pool, mining, 0).unwrap();
    for (extension, channel_msg) in [(2, false), (2, true), (0x7fff, true), (0x4000, false)] {
        peer.send_frame(&frame(extension, channel_msg, 0xab, &Random(3).bytes(77))).unwrap();
    }
    for hash_rate in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        peer.send(&open_standard(7, hash_rate)).unwrap();
        let refused = peer.receive(SOON).unwrap().unwrap();
        assert!(refused.to_string().contains("invalid-nominal-hashrate"), "{refused}");
        let open = open_standard(7, hash_rate);
        let (request_id, user_identity) = (open.request_id, open.user_identity);
        peer.send(&OpenExtendedMiningChannel {
            request_id,
            user_identity,
            nominal_hash_rate: hash_rate,
            max_target: open.max_target,
            min_extranonce_size: 4,
        })
        .unwrap();
        let refused = peer.receive(SOON).unwrap().unwrap();
        assert!(refused.to_string().contains("invalid-nominal-hashrate"), "{refused}");
    }
    peer.send(&open_standard(8, 1.0)).unwrap();
    let opened = peer.wait_for("OpenStandardMiningChannel.Success", SOON).unwrap();
    let (opened, _) = OpenStandardMiningChannelSuccess::decode(opened.frame().1).unwrap();
    peer.send(&UpdateChannel {
        channel_id: opened.channel_id,
        nominal_hash_rate: f32::NAN,
        maximum_target: [0xff; 32],
    })
    .unwrap();
    let refused = peer.wait_for("UpdateChannel.Error", SOON).unwrap();
    assert!(refused.to_string().contains("invalid-nominal-hashrate"), "{refused}");

    let mut peer = Sv2Peer::set_up(&provider, td, 0).unwrap();
    peer.send_frame(&frame(0x1234, true, 0x72, &[1; 50])).unwrap();
    peer.send(&constraints).unwrap();
    peer.wait_for("NewTemplate", SOON).unwrap();
    peer.send(&RequestTransactionData { template_id: u64::MAX }).unwrap();
    let refused = peer.wait_for("RequestTransactionData.Error", SOON).unwrap();
    assert!(refused.to_string().contains("template-id-not-found"), "{refused}");
    works.are_unharmed();
}

/// Says `bytes` and is closed for `reason`, with nothing in answer.
#[track_caller]
fn refuses(role: &Role, link: &str, protocol: u8, set_up: bool, bytes: &[u8], reason: &str) {
    let server = role.endpoint();
    let reason = format!("engine:{reason}");
    let before = closed(role, link, &reason);
    let mut peer = match set_up {
        true => Sv2Peer::set_up(&server, protocol, 0).unwrap(),
        false => Sv2Peer::connect(&server).unwrap(),
    };
    peer.send_frame(bytes).unwrap();
    let said = peer.wait_closed(SOON).unwrap();
    assert!(said.is_empty(), "{said:?}");
    closes(role, link, &reason, before as usize + 1, SOON);
}

/// Frames of every known type and of others, with random payloads and cut and bent real messages, after a good start.
#[test]
fn random_frames() {
    const FRAMES: usize = 1_500;
    let mut works = Works::start();
    let protocols = [
        (works.provider(), "Client", PROTOCOL_TEMPLATE_DISTRIBUTION),
        (works.pool(), "Miner", PROTOCOL_MINING),
    ];
    for (role, link, protocol) in protocols {
        let server = role.endpoint();
        let before = closed(role, link, "");
        let mut random = Random(4 + u64::from(protocol));
        let constraints = CoinbaseOutputConstraints {
            coinbase_output_max_additional_size: 100,
            coinbase_output_max_additional_sigops: 0,
        };
        let real = [
            frame_of(&Sv2Peer::setup_connection(protocol, 0)),
            frame_of(&open_standard(1, 1e3)),
            frame_of(&RequestTransactionData { template_id: 1 }),
            frame_of(&constraints),
        ];
        let mut connections = 0;
        let mut said = 0;
        while said < FRAMES {
            let mut peer = Sv2Peer::set_up(&server, protocol, 0).unwrap();
            connections += 1;
            if random.below(2) == 0 {
                // From here on a template provider listens to more.
                peer.send(&constraints).unwrap();
            }
            for _ in 0..50 {
                let bytes = random_frame(&mut random, &real);
                said += 1;
                if peer.send_frame(&bytes).is_err() {
                    break;
                }
            }
            drop(peer);
        }
        eventually(SOON, "all of them are closed and counted", || {
            closed(role, link, "") >= before + f64::from(connections)
        });
        assert_eq!(closed(role, link, "engine-failed"), 0.0);
    }

    let translator = works.translator();
    let mut random = Random(5);
    let real = "{\"id\":1,\"method\":\"mining.submit\",\"params\":[\"a\",\"1\",\"00000000\",\"00000000\",\"00000000\"]}";
    let methods = ["subscribe", "authorize", "configure", "submit", "suggest_difficulty"];
    for _ in 0..30 {
        let mut stream = tcp(translator.endpoint().addr);
        for _ in 0..50 {
            let mut line = real.replace("submit", methods[random.below(5)]).into_bytes();
            for _ in 0..random.below(4) {
                let at = random.below(line.len());
                line[at] = random.next() as u8;
            }
            line.truncate(random.below(2 * line.len()).max(2));
            line.push(b'\n');
            if stream.write_all(&line).is_err() {
                break;
            }
        }
    }
    eventually(SOON, "all of them are closed and counted", || {
        closed(translator, "Miner", "") >= 30.0
    });
    works.are_unharmed();
}

fn random_frame(random: &mut Random, real: &[Vec<u8>]) -> Vec<u8> {
    let extension = match random.below(8) {
        0 => random.next() as u16 & 0x7fff,
        1 => 1,
        _ => 0,
    };
    if random.below(3) == 0 {
        let mut bent = real[random.below(real.len())].clone();
        for _ in 0..random.below(3) {
            let at = Header::LEN + random.below(bent.len() - Header::LEN);
            bent[at] = random.next() as u8;
        }
        return bent;
    }
    let types = [0..0x04, 0x10..0x28, 0x50..0x60, 0x70..0x78, 0..0x100];
    let types = types[random.below(types.len())].clone();
    let msg_type = types.start + random.below(types.len());
    let length = [0, 1, 8, 40, 100, 600][random.below(6)];
    let payload = random.bytes(length);
    frame(extension, random.below(2) == 0, msg_type as u8, &payload)
}

/// Clients that ask and ask and read no answer.
#[test]
fn peers_that_never_read() {
    let mut works = Works::start();
    let mut kept = Vec::new();

    // A V1 miner whose questions have long answers.
    let translator = works.translator();
    let hello = "{\"id\":1,\"method\":\"mining.authorize\",\"params\":[\"hostile\",\"x\"]}\n";
    let question = "{\"id\":2,\"method\":\"mining.subscribe\",\"params\":[]}\n".repeat(1_000);
    kept.push(floods(translator.endpoint().addr, [hello, &question].concat().into_bytes()));
    closes(translator, "Miner", "slow-reader", 1, LATER);

    // A miner that opens channels, each of which is told of every block: it requires standard jobs, so that none is for a
    // group.
    let pool = works.pool();
    let (mut stream, mut sealer) = shaken(&pool.endpoint());
    let mut sealed = Vec::new();
    sealer.seal(&frame_of(&Sv2Peer::setup_connection(PROTOCOL_MINING, 1)), &mut sealed).unwrap();
    for request_id in 0..15_000 {
        sealer.seal(&frame_of(&open_standard(request_id, 1.0)), &mut sealed).unwrap();
    }
    stream.set_write_timeout(Some(SOON)).unwrap();
    // Closed before or after all is said.
    let _ = stream.write_all(&sealed);
    closes(pool, "Miner", "slow-reader", 1, LATER);
    kept.push(stream);

    works.are_unharmed();
}

/// Says the same until the other end takes no more.
fn floods(addr: SocketAddr, bytes: Vec<u8>) -> TcpStream {
    let stream = tcp(addr);
    let mut writer = stream.try_clone().unwrap();
    // Bounded in any case: the socket's buffers are full long before that.
    writer.set_write_timeout(Some(LATER)).unwrap();
    thread::spawn(move || (0..1_000).all(|_| writer.write_all(&bytes).is_ok()));
    stream
}

/// A client of a template provider that asks for whole blocks and reads none costs it neither memory nor time.
#[test]
fn a_client_that_never_reads_blocks() {
    let node = harness::regtest().unwrap();
    // 600 KB of transactions.
    let fee = bitcoin::Amount::from_sat(1_000_000);
    let coins = node.coins().unwrap();
    let sent: Vec<_> = coins[..8].iter().map(|coin| split(coin, 1_700, fee).unwrap()).collect();
    node.send(&sent).unwrap();
    assert_eq!(coins_of(&sent[0]).len(), 1_700);
    let provider = Setup::template_provider(&node).start().unwrap();
    provider.wait_ready(SOON).unwrap();
    let server = provider.endpoint();
    let constraints = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 100,
        coinbase_output_max_additional_sigops: 0,
    };
    let mut reads = Sv2Peer::set_up(&server, PROTOCOL_TEMPLATE_DISTRIBUTION, 0).unwrap();
    reads.send(&constraints).unwrap();
    let template_id = loop {
        let template = reads.wait_for("NewTemplate", SOON).unwrap();
        let (template, _) = NewTemplate::decode(template.frame().1).unwrap();
        if !template.merkle_path.is_empty() {
            break template.template_id;
        }
    };
    reads.send(&RequestTransactionData { template_id }).unwrap();
    let data = reads.wait_for("RequestTransactionData.Success", SOON).unwrap();
    assert!(data.bytes.len() > 500_000, "{}", data.bytes.len());

    let before = provider.metrics().unwrap().sum("adit_process_resident_memory_bytes", &[]);
    let (mut stream, mut sealer) = shaken(&server);
    let mut sealed = Vec::new();
    let setup = Sv2Peer::setup_connection(PROTOCOL_TEMPLATE_DISTRIBUTION, 0);
    sealer.seal(&frame_of(&setup), &mut sealed).unwrap();
    sealer.seal(&frame_of(&constraints), &mut sealed).unwrap();
    let request = frame_of(&RequestTransactionData { template_id });
    (0..1_000).for_each(|_| sealer.seal(&request, &mut sealed).unwrap());
    stream.write_all(&sealed).unwrap();
    closes(&provider, "Client", "slow-reader", 1, LATER);
    let peak = peak_memory(provider.pid().unwrap());
    assert!(peak < before + 150e6, "{before} bytes became {peak}");

    node.generate(1).unwrap();
    reads.wait_for("SetNewPrevHash", SOON).unwrap();
}

/// The most bytes that a process has ever used.
fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
}

/// The pages: nonsense, more than a page may be asked with, silence, too many.
#[test]
fn pages() {
    let mut works = Works::start();
    let roles = [works.provider(), works.pool(), works.translator()];
    let http = |role: &Role, reason: &str| {
        role.metrics().unwrap().sum("adit_http_closed_total", &[("reason", reason)])
    };
    let mut waits = Vec::new();
    for role in roles {
        let mut random = Random(6);
        let large = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
        for nonsense in [&random.bytes(3_000)[..], b"mining.subscribe\r\n\r\n", large.as_bytes()] {
            let answer = read_to_end(&mut says(role.http(), nonsense), SOON).unwrap();
            // Where there is more to read than is read, the answer is lost.
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        }
        eventually(SOON, "nonsense is counted", || http(role, "bad-request") >= 3.0);
        waits.push(tcp(role.http()));
        waits.push(says(role.http(), b"GET /status HT"));
    }
    // Nor can those who wait keep others out for long.
    for role in roles {
        waits.extend((0..100).map(|_| tcp(role.http())));
    }
    for stream in &mut waits {
        assert!(read_to_end(stream, SOON).unwrap().is_empty());
    }
    for role in roles {
        eventually(SOON, "the page is there again", || role.ready().is_ok());
        eventually(SOON, "all of them are counted", || {
            http(role, "too-many-connections") >= 30.0 && http(role, "request-timeout") >= 60.0
        });
    }
    works.are_unharmed();
}

/// Servers that are not who they should be, or not as a client wants them: clients say so and do not work with them.
#[test]
fn servers_that_clients_refuse() {
    let expired = Expired::start();
    let stranger = Expired::start();
    let not_valid = expired.endpoint();
    // One that is well, with a key that is another's.
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    pool.wait_ready(SOON).unwrap();
    let with_wrong_key = |role: &Role| Endpoint { key: stranger.endpoint().key, ..role.endpoint() };

    let says = "expired 1000 s ago";
    let wrong = "not signed by the expected authority";
    // The scripted server's clock goes on.
    let says = &says[..says.len() - " 1000 s ago".len()];
    let cases = [
        (Setup::pool(&not_valid), says, "certificate-expired"),
        (Setup::translator(&not_valid), says, "certificate-expired"),
        (Setup::pool(&with_wrong_key(&provider)), wrong, "wrong-authority-key"),
        (Setup::translator(&with_wrong_key(&pool)), wrong, "wrong-authority-key"),
    ];
    for (setup, why, reason) in cases {
        let role = setup.start().unwrap();
        eventually(SOON, "the client says why", || {
            role.ready().is_err_and(|missing| missing.contains(why))
        });
        assert!(role.status().unwrap().to_string().contains(why));
        assert!(role.log().contains(why), "{}", role.log());
        let refused =
            role.metrics().unwrap().sum("adit_transport_closed_total", &[("reason", reason)]);
        assert!(refused >= 1.0, "{}", role.metrics().unwrap().text());
    }
    // The other side only sees that somebody leaves, which it guesses the meaning of.
    for (role, link) in [(&provider, "Client"), (&pool, "Miner")] {
        eventually(SOON, "the server counts it", || {
            closed(role, link, "peer-closed-after-handshake") >= 1.0
        });
        assert!(role.log().contains("it may expect another authority key"), "{}", role.log());
    }

    // A mining device has nothing else to do.
    for (server, why) in [(not_valid, says), (with_wrong_key(&pool), wrong)] {
        let url = format!("stratum2+tcp://{}/{}", server.addr, server.key.unwrap());
        let device = Command::new(program("mining-device").unwrap())
            .args(["--strict", "--connect", &url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&device.stderr);
        assert_eq!(device.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        let mut waits = Setup::device("sv2-extended", &server).start().unwrap();
        eventually(SOON, "the device says why", || waits.log().contains(why));
        assert!(waits.ready().is_err());
        waits.kill9().unwrap();
    }

    // And one that refuses the client: both sides say why.
    let sniffer = Sniffer::noise(pool.endpoint().addr, pool.endpoint().key.unwrap()).unwrap();
    let bent =
        SetupConnection { min_version: 7, max_version: 8, ..Sv2Peer::setup_connection(0, 0) };
    let bent = frame_of(&bent);
    let _bend = sniffer.intercept(
        Direction::ToServer,
        "SetupConnection",
        Action::Replace(Box::new(move |_| vec![bent.clone()])),
    );
    let translator = Setup::translator(&Endpoint::from(&sniffer)).start().unwrap();
    eventually(SOON, "the translator says why", || {
        translator.ready().is_err_and(|why| why.contains("protocol-version-mismatch"))
    });
    eventually(SOON, "the pool counts it", || {
        closed(&pool, "Miner", "engine:setup-connection-refused") >= 1.0
    });
    assert!(pool.log().contains("protocol-version-mismatch"), "{}", pool.log());
    pool.wait_ready(SOON).unwrap();

    let sniffer =
        Sniffer::noise(provider.endpoint().addr, provider.endpoint().key.unwrap()).unwrap();
    let bent = frame_of(&Sv2Peer::setup_connection(PROTOCOL_MINING, 0));
    let _bend = sniffer.intercept(
        Direction::ToServer,
        "SetupConnection",
        Action::Replace(Box::new(move |_| vec![bent.clone()])),
    );
    let refused = Setup::pool(&Endpoint::from(&sniffer)).start().unwrap();
    eventually(SOON, "the pool says why", || {
        refused.ready().is_err_and(|why| why.contains("unsupported-protocol"))
    });
    eventually(SOON, "the template provider counts it", || {
        closed(&provider, "Client", "engine:unsupported-protocol") >= 1.0
    });
    assert!(provider.log().contains("unsupported-protocol"), "{}", provider.log());
}

/// Servers that go mad: the client gives the connection up and comes back, and its own clients notice nothing.
#[test]
fn servers_that_say_nonsense() {
    let between = |role: &Role| {
        let Endpoint { addr, key } = role.endpoint();
        Sniffer::noise(addr, key.unwrap()).unwrap()
    };
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let templates = between(&provider);
    let pool = Setup::pool(&Endpoint::from(&templates)).start().unwrap();
    let jobs = between(&pool);
    let mut stack = Stack::of(node, provider, pool).unwrap();
    stack.translator = Some(Setup::translator(&Endpoint::from(&jobs)).start().unwrap());
    stack.add_miner("sv1").unwrap();
    stack.add_miner("sv2-extended").unwrap();
    stack.wait_ready().unwrap();
    stack.mine(1, SOON);

    // What is said instead of these messages, and how often who hears it has given up.
    let servers = [(&templates, "NewTemplate"), (&jobs, "NewExtendedMiningJob")];
    let instead = |at: usize, nonsense: fn(&[u8]) -> Vec<Vec<u8>>| {
        let (sniffer, name) = servers[at];
        let action = Action::Replace(Box::new(move |record| nonsense(&record.bytes)));
        sniffer.intercept(Direction::ToClient, name, action)
    };
    let given_up = |stack: &Stack, at: usize| match at {
        0 => closed(&stack.pool, "TemplateProvider(0)", ""),
        _ => closed(stack.translator.as_ref().unwrap(), "Upstream", ""),
    };

    // Messages of extensions that nobody agreed on are passed over.
    let before = [given_up(&stack, 0), given_up(&stack, 1)];
    let all_with_unknown = [0, 1].map(|at| {
        instead(at, |message| {
            let unknown = |extension, channel_msg| frame(extension, channel_msg, 0x1f, &[7; 60]);
            vec![unknown(0x7001, false), unknown(2, true), message.to_vec()]
        })
    });
    stack.mine(2, SOON);
    drop(all_with_unknown);
    assert_eq!([given_up(&stack, 0), given_up(&stack, 1)], before);

    // A message that is cut, and one that only clients send.
    let cut: fn(&[u8]) -> Vec<Vec<u8>> = |message| {
        let header = Header::parse(message[..Header::LEN].try_into().unwrap());
        let payload = &message[Header::LEN..Header::LEN + 9];
        vec![frame(0, header.channel_msg, header.msg_type, payload)]
    };
    let clients: fn(&[u8]) -> Vec<Vec<u8>> = |message| {
        let header = Header::parse(message[..Header::LEN].try_into().unwrap());
        let constraints = frame(0, false, CoinbaseOutputConstraints::TYPE, &[0; 6]);
        let template = header.msg_type == NewTemplate::TYPE;
        vec![if template { constraints } else { frame_of(&open_standard(1, 1.0)) }]
    };
    for nonsense in [cut, clients] {
        for at in [0, 1] {
            let before = given_up(&stack, at);
            let interception = instead(at, nonsense);
            eventually(SOON, "the connection is given up", || given_up(&stack, at) > before);
            drop(interception);
        }
        stack.mine(1, SOON);
        stack.wait_ready().unwrap();
    }
    for miner in &stack.miners {
        let status = miner.status().unwrap();
        assert_eq!(status["state"]["connections"][0]["reconnects"], 0, "{status:#}");
    }
}

/// The log goes to a pipe that nobody empties, of 64 KiB, which a few hundred connections fill.
#[test]
fn a_log_that_nobody_reads() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, harness::free_port().unwrap()));
    let nobody =
        Endpoint { addr, key: Some(AuthoritySecretKey::from_entropy([7; 32]).unwrap().public()) };
    let mut role = Setup::translator(&nobody).set("log", "level", "trace").start().unwrap();
    role.kill9().unwrap();
    let mut command = tied(program("translator").unwrap());
    command.args(["run", "-c"]).arg(role.dir().join("config.toml")).stderr(Stdio::piped());
    let mut translator = Ended(spawn_tied(command).unwrap());
    let _unread = translator.0.stderr.take().unwrap();
    let addr = role.endpoint().addr;
    eventually(SOON, "it listens", || TcpStream::connect(addr).is_ok());
    let dropped = || role.metrics().unwrap().sum("adit_log_lines_dropped_total", &[]) > 0.0;
    let mut miners = 0;
    while !dropped() {
        assert!(miners < 20_000, "nothing of the log was dropped");
        for _ in 0..500 {
            let mut miner = TcpStream::connect(addr).unwrap();
            miner.set_read_timeout(Some(SOON)).unwrap();
            miner
                .write_all(b"{\"id\":1,\"method\":\"mining.configure\",\"params\":[[],{}]}\n")
                .unwrap();
            // From under the lock that every connection needs.
            assert!(miner.read(&mut [0; 512]).unwrap() > 0);
            miners += 1;
        }
    }
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server whose certificate is over.
struct Expired(Endpoint);

impl Expired {
    fn start() -> Self {
        let mut random = Random(u64::from(std::process::id()));
        let authority = AuthoritySecretKey::from_entropy(random.key()).unwrap();
        let key = Some(authority.public());
        let validity = Validity { seconds: 10, backdate: 0 };
        let entropy = [random.key(), random.key(), random.key()];
        let identity = ResponderIdentity::new(authority, validity, unix_seconds() - 1_010, entropy);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut act1 = [0; ACT1_LEN];
                let mut stream = stream.unwrap();
                if stream.read_exact(&mut act1).is_ok() {
                    let keys = [random.key(), random.key()];
                    let (act2, _, _) = Responder::respond(&identity, &act1, keys).unwrap();
                    let _ = stream.write_all(&act2);
                    // Nobody says anything to such a server.
                    let said = read_to_end(&mut stream, SOON);
                    assert!(said.is_ok_and(|said| said.is_empty()));
                }
            }
        });
        Self(Endpoint { addr, key })
    }

    fn endpoint(&self) -> Endpoint {
        self.0
    }
}
