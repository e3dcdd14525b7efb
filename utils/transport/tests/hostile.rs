//! Peers that do what they should not: their own connection ends for a counted reason, and nothing else does.

mod common;

use std::time::{Duration, Instant};

use adit_sv2::frame::Header;
use adit_sv2::noise::ACT2_LEN;
use adit_transport::{AddressLimits, ConnectionLimits, ListenLimits};
use common::{Client, Heard, Running, connect_small, frame, is_closed_silently, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn garbage_instead_of_a_handshake() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    let mut bystander = Client::connect(served.addr).await;
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    // Any 64 bytes are a first message, so they are answered; what follows does not decrypt.
    stream.write_all(&[0xa5; 200]).await.unwrap();
    let mut act2 = [0; ACT2_LEN];
    within(stream.read_exact(&mut act2)).await.unwrap();
    assert!(is_closed_silently(&mut stream).await);
    running.until_closed("bad-frame").await;
    bystander.send(&[b"well"]).await;
    assert_eq!(bystander.next().await.unwrap(), b"well");
}

#[tokio::test]
async fn a_handshake_that_never_ends() {
    let limits = ListenLimits { handshake_time: Duration::from_millis(50), ..Default::default() };
    let running = Running::new();
    let served = running.noise(limits).await;
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    stream.write_all(&[1; 63]).await.unwrap();
    assert!(is_closed_silently(&mut stream).await);
    running.until_closed("handshake-timeout").await;
    let result = "handshakes_total{side=\"responder\",result=\"handshake-timeout\"}";
    assert_eq!(running.metric(result), 1.0);
    assert!(running.hub.with(|engine, _, _| engine.heard.is_empty()), "it never was a connection");
}

#[tokio::test]
async fn handshakes_at_once_are_limited() {
    let handshake_time = Duration::from_millis(200);
    let limits = ListenLimits { handshakes: 2, handshake_time, ..Default::default() };
    let running = Running::new();
    let served = running.noise(limits).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(served.addr).await.unwrap());
    }
    // Has to wait until the silent ones are thrown out, but gets in.
    let mut client = Client::connect(served.addr).await;
    assert!(running.closed("handshake-timeout") >= 1.0);
    client.send(&[b"here"]).await;
    assert_eq!(client.next().await.unwrap(), b"here");
}

#[tokio::test]
async fn one_address_does_not_take_the_handshakes_of_all() {
    let handshake_time = Duration::from_secs(3_600);
    let running = Running::new();
    let limits = ListenLimits { handshakes: 8, handshake_time, ..Default::default() };
    let served = running.noise(limits).await;
    let from = async |host: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, host], 0).into()).unwrap();
        socket.connect(served.addr).await.unwrap()
    };
    // They never speak, and are there before the others.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(from(1).await);
    }
    let mut other = Client::over(from(2).await).await;
    other.send(&[b"here"]).await;
    assert_eq!(other.next().await.unwrap(), b"here");
    // A quarter of them, and the other.
    running.counts("accepted_total{link=\"Client\"}", 3.0).await;
    // Its own wait, and are not forgotten.
    let own = from(1).await;
    drop(silent);
    let mut own = Client::over(own).await;
    own.send(&[b"here"]).await;
    assert_eq!(own.next().await.unwrap(), b"here");
}

#[tokio::test]
async fn a_frame_that_is_too_large_or_damaged() {
    let connection = ConnectionLimits { max_payload: 1_000, ..Default::default() };
    let limits = ListenLimits { connection, ..Default::default() };
    let running = Running::new();
    let served = running.noise(limits).await;

    let mut client = Client::connect(served.addr).await;
    let mut sealed = client.seal(&[b"before"]);
    // The header alone is enough.
    sealed.extend(client.seal(&[&[0; 1_001]]).drain(..22));
    client.stream.write_all(&sealed).await.unwrap();
    assert_eq!(client.next().await.unwrap(), b"before");
    assert_eq!(client.next().await, None);
    running.until_closed("frame-too-large").await;

    let mut client = Client::connect(served.addr).await;
    let mut sealed = client.seal(&[b"damaged"]);
    sealed[25] ^= 1;
    client.stream.write_all(&sealed).await.unwrap();
    assert_eq!(client.next().await, None);
    running.until_closed("bad-frame").await;
    let told = running.hub.with(|engine, _, _| engine.heard.last().unwrap().1.clone());
    assert_eq!(told, Heard::Closed("a sealed block does not decrypt".into()));
}

/// What a client without a set-up connection can make this end keep is little, whatever frame it begins.
#[tokio::test]
async fn a_large_frame_before_the_connection_is_set_up() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    // One of a sane size, which nothing answers, is nothing to end a connection for.
    let mut early = Client::connect(served.addr).await;
    let sane = early.seal(&[b"quiet", &[0; 4_096]]);
    early.stream.write_all(&sane[..sane.len() - 1]).await.unwrap();
    running.until(|engine| (engine.heard.len() == 2).then_some(())).await;
    // The header alone is enough.
    for before in [&[][..], &[&b"quiet"[..]]] {
        let mut client = Client::connect(served.addr).await;
        let mut sealed = client.seal(before);
        sealed.extend(client.seal(&[&[0; 4_097]]).drain(..22));
        client.stream.write_all(&sealed).await.unwrap();
        assert_eq!(client.next().await, None);
    }
    let reason = "large-frame-before-setup";
    until(|| (running.closed(reason) == 2.0).then_some(())).await;
    let told = running.hub.with(|engine, _, _| engine.heard.last().unwrap().1.clone());
    let text = "a frame of more than 4096 bytes before the connection is set up";
    assert_eq!(told, Heard::Closed(text.into()));
    // Who was answered may send what its protocol has, in one go with what is answered, too.
    early.stream.write_all(&sane[sane.len() - 1..]).await.unwrap();
    assert_eq!(early.next().await.unwrap().len(), 4_096);
    early.send(&[&[7; 200_000]]).await;
    assert_eq!(early.next().await.unwrap().len(), 200_000);
    let mut hasty = Client::connect(served.addr).await;
    hasty.send(&[b"hello", &[7; 200_000]]).await;
    assert_eq!(hasty.next().await.unwrap(), b"hello");
    assert_eq!(hasty.next().await.unwrap().len(), 200_000);
}

#[tokio::test]
async fn a_line_that_is_too_long() {
    let running = Running::new();
    let served = running.lines(ListenLimits::default()).await;
    // Less is kept of who was not answered yet.
    let mut early = TcpStream::connect(served.addr).await.unwrap();
    early.write_all(&vec![b'a'; (4 << 10) + 1]).await.unwrap();
    assert!(is_closed_silently(&mut early).await);
    running.until_closed("line-too-long").await;
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = vec![0; 16 << 10];
    write.write_all(b"hello\n").await.unwrap();
    within(read.read_exact(&mut answer[..6])).await.unwrap();
    write.write_all(&[&vec![b'a'; (16 << 10) - 1][..], b"\n"].concat()).await.unwrap();
    within(read.read_exact(&mut answer)).await.unwrap();
    write.write_all(&vec![b'a'; (16 << 10) + 1]).await.unwrap();
    assert!(is_closed_silently(&mut stream).await);
    until(|| (running.closed("line-too-long") == 2.0).then_some(())).await;
}

#[tokio::test]
async fn a_message_that_is_never_finished() {
    let connection =
        ConnectionLimits { incomplete_time: Duration::from_millis(100), ..Default::default() };
    let limits = ListenLimits { connection, ..Default::default() };
    let running = Running::new();
    let (noise, lines) = (running.noise(limits.clone()).await, running.lines(limits).await);
    let mut idle = Client::connect(noise.addr).await;

    let mut client = Client::connect(noise.addr).await;
    let sealed = client.seal(&[b"half"]);
    client.stream.write_all(&sealed[..sealed.len() - 1]).await.unwrap();
    assert_eq!(client.next().await, None);
    running.until_closed("incomplete-timeout").await;

    // A byte now and then does not help.
    let (mut read, mut write) = TcpStream::connect(lines.addr).await.unwrap().into_split();
    tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let _ = within(read.read(&mut [0; 1])).await;
    until(|| (running.closed("incomplete-timeout") == 2.0).then_some(())).await;

    // Nor does silence between messages harm.
    idle.send(&[b"still here"]).await;
    assert_eq!(idle.next().await.unwrap(), b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_dropped_and_others_get_everything() {
    let connection = ConnectionLimits {
        send_buffer: Some(4 << 10),
        spill_bytes: 64 << 10,
        ..Default::default()
    };
    let running = Running::new();
    let served = running.noise(ListenLimits { connection, ..Default::default() }).await;
    let mut readers = Vec::new();
    for _ in 0..10 {
        readers.push(Client::connect(served.addr).await);
    }
    let deaf = Client::over(connect_small(served.addr).await).await;
    running.until(|engine| (engine.open.len() == 11).then_some(())).await;
    let mut round = 0u32;
    while running.closed("slow-reader") == 0.0 {
        let message = frame(&round.to_le_bytes().repeat(1_000));
        running.hub.with(|engine, _, out| {
            for peer in &engine.open {
                out.say(*peer, |bytes| bytes.extend_from_slice(&message));
            }
        });
        for reader in &mut readers {
            assert_eq!(reader.next().await.unwrap()[..4], round.to_le_bytes());
        }
        round += 1;
        assert!(round < 1_000, "several MB are kept for one peer");
    }
    assert_eq!(running.hub.with(|engine, _, _| engine.open.len()), 10);
    assert_eq!(running.metric("spill_bytes{link=\"Client\"}"), 0.0);
    drop(deaf);
}

#[tokio::test]
async fn who_does_not_read_for_too_long_is_dropped() {
    let connection = ConnectionLimits {
        send_buffer: Some(4 << 10),
        spill_bytes: 64 << 20,
        spill_time: Duration::from_millis(100),
        ..Default::default()
    };
    let running = Running::new();
    let served = running.lines(ListenLimits { connection, ..Default::default() }).await;
    let deaf = connect_small(served.addr).await;
    let peer = running.until(|engine| engine.open.first().copied()).await;
    running.hub.with(|_, _, out| out.line(peer, &vec![b'a'; 8 << 20]));
    running.until_closed("slow-reader").await;
    assert_eq!(running.metric("spill_bytes{link=\"Client\"}"), 0.0);
    let told = running.hub.with(|engine, _, _| engine.of(peer));
    let reason = "the peer does not read what is sent to it";
    assert_eq!(told, [Heard::Opened, Heard::Closed(reason.into())]);
    drop(deaf);
}

#[tokio::test]
async fn who_reads_slowly_but_reads_is_kept() {
    // Many times what it reads in at once, on a machine busy with other tests too.
    const SPILL_TIME: Duration = Duration::from_secs(6);
    let connection = ConnectionLimits {
        send_buffer: Some(4 << 10),
        spill_bytes: 1 << 20,
        spill_time: SPILL_TIME,
        ..Default::default()
    };
    let running = Running::new();
    let served = running.lines(ListenLimits { connection, ..Default::default() }).await;
    let mut slow = connect_small(served.addr).await;
    let peer = running.until(|engine| engine.open.first().copied()).await;
    let said = vec![b'a'; 480 << 10];
    running.hub.with(|_, _, out| out.line(peer, &said));
    let begun = Instant::now();
    let mut chunk = vec![0; 16 << 10];
    let mut left = said.len() + 1;
    while left > 0 {
        let part = left.min(chunk.len());
        within(slow.read_exact(&mut chunk[..part])).await.unwrap();
        left -= part;
        // The pace of the line.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(begun.elapsed() > SPILL_TIME, "no slower than the deadline");
    assert_eq!(running.closed("slow-reader"), 0.0);
    assert_eq!(running.metric("spill_bytes{link=\"Client\"}"), 0.0);
}

#[tokio::test]
async fn many_requests_with_large_answers_at_once() {
    let connection = ConnectionLimits { send_buffer: Some(4 << 10), ..Default::default() };
    let running = Running::new();
    let served = running.lines(ListenLimits { connection, ..Default::default() }).await;
    let mut deaf = connect_small(served.addr).await;
    let peer = running.until(|engine| engine.open.first().copied()).await;
    // One read holds them all; answers to all of them would be half a gigabyte.
    deaf.write_all(&b"much\n".repeat(500)).await.unwrap();
    running.until_closed("slow-reader").await;
    let told = running.hub.with(|engine, _, _| engine.of(peer));
    let answered = told.iter().filter(|heard| **heard == Heard::Message(b"much".to_vec())).count();
    assert!((1..10).contains(&answered), "{answered} were answered before the first was delivered");
    assert!(matches!(told.last(), Some(Heard::Closed(_))), "nothing is heard after the end");
    drop(deaf);
}

#[tokio::test]
async fn a_closed_peer_has_only_so_long_to_read_the_rest() {
    let connection = ConnectionLimits {
        send_buffer: Some(4 << 10),
        spill_bytes: 64 << 20,
        linger: Duration::from_millis(100),
        ..Default::default()
    };
    let running = Running::new();
    let served = running.lines(ListenLimits { connection, ..Default::default() }).await;
    let deaf = connect_small(served.addr).await;
    let peer = running.until(|engine| engine.open.first().copied()).await;
    running.hub.with(|_, _, out| {
        out.line(peer, &vec![b'a'; 8 << 20]);
        out.close(peer, "enough");
    });
    running.until_closed("slow-reader").await;
    assert_eq!(running.hub.with(|engine, _, _| engine.of(peer)), [Heard::Opened]);
    drop(deaf);
}

#[tokio::test]
async fn places_are_limited_and_given_back() {
    let running = Running::new();
    let two = AddressLimits { connections: 2, burst: 10_000, per_second: 1.0 };
    let per_address = ListenLimits { loopback: two, ..Default::default() };
    let in_all = ListenLimits { max_connections: 2, ..Default::default() };
    for (before, limits) in [(0.0, per_address), (1.0, in_all)] {
        let served = running.lines(limits).await;
        let first = TcpStream::connect(served.addr).await.unwrap();
        let _second = TcpStream::connect(served.addr).await.unwrap();
        let mut third = TcpStream::connect(served.addr).await.unwrap();
        assert!(is_closed_silently(&mut third).await);
        until(|| (running.closed("too-many-connections") > before).then_some(())).await;
        drop(first);
        // Takes a moment to be noticed.
        within(async {
            loop {
                let mut next = TcpStream::connect(served.addr).await.unwrap();
                let _ = next.write_all(b"hello\n").await;
                if matches!(next.read(&mut [0; 6]).await, Ok(6)) {
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn addresses_that_come_too_often_are_refused() {
    let loopback = AddressLimits { connections: 100, burst: 4, per_second: 0.001 };
    let running = Running::new();
    let served = running.lines(ListenLimits { loopback, ..Default::default() }).await;
    let mut admitted = Vec::new();
    for _ in 0..4 {
        admitted.push(TcpStream::connect(served.addr).await.unwrap());
    }
    let mut fifth = TcpStream::connect(served.addr).await.unwrap();
    assert!(is_closed_silently(&mut fifth).await);
    running.until_closed("rate-limited").await;
    running.until(|engine| (engine.open.len() == 4).then_some(())).await;
}

#[tokio::test]
async fn bytes_that_are_no_frames_cost_the_engine_its_connection() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    let mut client = Client::connect(served.addr).await;
    let peer = running.until(|engine| engine.open.first().copied()).await;
    let header = Header { extension_type: 0, channel_msg: false, msg_type: 1, msg_length: 9 };
    running.hub.with(|_, _, out| out.send_frame(peer, header, b"short"));
    assert_eq!(client.next().await, None);
    running.until_closed("engine:bytes that are no frames").await;
}
