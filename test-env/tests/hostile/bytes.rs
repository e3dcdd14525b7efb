//! Bytes that mean nothing, connections that say nothing, and pages.

use adit_sv2::messages::common::{PROTOCOL_MINING, SetupConnection};
use adit_sv2::noise::{ACT1_LEN, SEALED_HEADER_LEN};
use adit_test_env::harness::{LinePeer, Sv2Peer, eventually, read_to_end};

use super::*;

/// Long enough for whoever means to say something, on a machine busy with other tests.
const PATIENCE_SECONDS: u64 = 10;

#[test]
fn bytes_that_mean_nothing() {
    let mut works = Works::impatient(PATIENCE_SECONDS);
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
        works.closes(role, link, "bad-frame", 5);

        // A good handshake, and then nonsense.
        let (mut stream, _) = shaken(&server);
        stream.write_all(&random.bytes(SEALED_HEADER_LEN)).unwrap();
        assert!(read_to_end(&mut stream, SOON).unwrap().is_empty());
        works.closes(role, link, "bad-frame", 6);

        // More than a message of its type may have, refused by its header.
        for (msg_type, length) in [(SetupConnection::TYPE, 5_000), (0x57, 0xff_ffff)] {
            let (mut stream, mut sealer) = shaken(&server);
            let mut sealed = Vec::new();
            sealer.seal(&frame(0, false, msg_type, &vec![0; length]), &mut sealed).unwrap();
            stream.write_all(&sealed[..SEALED_HEADER_LEN]).unwrap();
            assert!(read_to_end(&mut stream, SOON).unwrap().is_empty());
        }
        works.closes(role, link, "frame-too-large", 2);

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
    works.closes(role, "Miner", "engine:not-stratum", 4);
    for length in [16 << 10, 1 << 20] {
        let mut line = b"{\"id\":1,\"method\":\"".to_vec();
        line.resize(length + 1, b'a');
        assert!(read_to_end(&mut says(server.addr, &line), SOON).unwrap().is_empty());
    }
    works.closes(role, "Miner", "line-too-long", 2);
    // One who is known is forgiven some, but not all.
    let mut miner = LinePeer::connect(&server).unwrap();
    miner.send("{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"hostile\"]}").unwrap();
    miner.wait_until(SOON, |line| line["id"] == 1).unwrap();
    for _ in 0..10 {
        miner.send("{\"id\":2,\"method\":").unwrap();
    }
    assert!(miner.wait_until(SOON, |_| false).unwrap_err().to_string().contains("closed"));
    works.closes(role, "Miner", "engine:too-many-bad-lines", 1);
    drop(says(server.addr, b"{\"id\":1"));
    works.closes(role, "Miner", "peer-closed", 1);
    works.closes(role, "Miner", "engine:no-hello", 2);

    // And those that waited.
    for (role, link) in [(works.provider(), "Client"), (works.pool(), "Miner")] {
        works.closes(role, link, "handshake-timeout", 2);
    }
    // Each gives up on the frame that never ends, or sooner on who sends it.
    works.closes(works.provider(), "Client", "engine:no CoinbaseOutputConstraints in time", 1);
    works.closes(works.pool(), "Miner", "engine:no-channel-in-time", 1);
    for stream in &mut open {
        read_to_end(stream, SOON).unwrap();
    }
    works.are_unharmed();
}

/// Connections by the hundred, that say nothing, or shake hands and say nothing.
#[test]
fn storms_of_connections() {
    const STORM: usize = 300;
    let mut works = Works::impatient(PATIENCE_SECONDS);
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
            let [refused, late] =
                ["too-many-connections", "request-timeout"].map(|why| http(role, why));
            refused >= 1.0 && late >= 60.0 && refused + late >= 102.0
        });
    }
    works.are_unharmed();
}
