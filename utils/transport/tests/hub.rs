//! Hubs over loopback: what arrives, in which order, and what the engine hears.

mod common;

use std::sync::{Arc, Mutex};

use adit_transport::{ConnectionLimits, DialOptions, Dialed, Hub, HubOptions, ListenLimits};
use common::{
    Client, DEADLINE, Heard, Link, Recorder, Running, connect_small, frame, listener, until, within,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

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
            out.say(dialed.peer, |bytes| bytes.extend_from_slice(&frame(payload)));
        }
    });
    let heard = |engine: &mut Recorder| (engine.heard.len() == 4).then(|| engine.of(dialed.peer));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_connections() {
    let (server, clients) = (Running::new(), Running::new());
    // All handshakes at once, on a machine busy with other tests.
    let handshake_time = DEADLINE;
    let served = server.noise(ListenLimits { handshake_time, ..ListenLimits::default() }).await;
    let options = DialOptions { handshake_time, connect_time: DEADLINE, ..DialOptions::default() };
    let mut dials = JoinSet::new();
    for _ in 0..500 {
        dials.spawn(clients.hub.dial_noise(Link::Server, served.target(), options.clone()));
    }
    let dialed: Vec<_> =
        within(dials.join_all()).await.into_iter().map(|dialed| dialed.unwrap()).collect();
    server.until(|engine| (engine.open.len() == 500).then_some(())).await;
    clients.hub.with(|_, _, out| {
        for Dialed { peer, .. } in &dialed {
            let own = peer.to_string();
            out.say(*peer, |bytes| bytes.extend_from_slice(&frame(own.as_bytes())));
        }
    });
    clients.until(|engine| (engine.heard.len() == 1_000).then_some(())).await;
    clients.hub.with(|engine, _, _| {
        for Dialed { peer, .. } in &dialed {
            let own = Heard::Message(peer.to_string().into_bytes());
            assert_eq!(engine.of(*peer), [Heard::Opened, own]);
        }
    });
    // One write each, whatever was said: to all, and then again to all.
    server.hub.with(|engine, _, out| {
        for part in [&b"job"[..], b"prevhash"] {
            for peer in &engine.open {
                out.say(*peer, |bytes| bytes.extend_from_slice(&frame(part)));
            }
        }
    });
    clients.until(|engine| (engine.heard.len() == 2_000).then_some(())).await;
    let first = clients.hub.with(|engine, _, _| engine.of(dialed[0].peer));
    assert_eq!(first[2..], [b"job".to_vec(), b"prevhash".to_vec()].map(Heard::Message));
    // Written once, said to all, with something of their own before and after.
    server.hub.with(|engine, _, out| {
        let shared = out.share(|bytes| bytes.extend_from_slice(&frame(b"shared")));
        for (nth, peer) in engine.open.iter().enumerate() {
            if nth % 2 == 0 {
                out.say(*peer, |bytes| bytes.extend_from_slice(&frame(b"before")));
            }
            out.repeat(*peer, &shared);
            if nth % 3 == 0 {
                out.say(*peer, |bytes| bytes.extend_from_slice(&frame(b"after")));
            }
        }
    });
    clients.until(|engine| (engine.heard.len() == 2_917).then_some(())).await;
    let orders = clients.hub.with(|engine, _, _| {
        let of = |dialed: &Dialed| engine.of(dialed.peer).split_off(4);
        dialed.iter().map(of).collect::<Vec<_>>()
    });
    for heard in orders {
        let said = |text: &str| Heard::Message(text.as_bytes().to_vec());
        let expected = match heard.len() {
            3 => vec![said("before"), said("shared"), said("after")],
            2 if heard[0] == said("before") => vec![said("before"), said("shared")],
            2 => vec![said("shared"), said("after")],
            _ => vec![said("shared")],
        };
        assert_eq!(heard, expected);
    }
    assert_eq!(server.metric("connections{link=\"Client\"}"), 500.0);
    server.counts("messages_out_total{link=\"Client\"}", 2_417.0).await;
    served.stop().await;
    clients.until(|engine| engine.open.is_empty().then_some(())).await;
    assert_eq!(server.closed("shutdown"), 500.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_some_touch_nobody_else_where_many_are_told() {
    const PEERS: usize = 400;
    let running = Running::new();
    let served = running.lines(small_buffer(64 << 10)).await;
    let mut streams = Vec::new();
    for nth in 0..PEERS {
        // Peers are numbered as they come.
        streams.push(connect_small(served.addr).await);
        running.until(|engine| (engine.open.len() == nth + 1).then_some(())).await;
    }
    // One in ten is closed, one in ten is told more than it may leave unread, one in ten more than the kernel takes.
    let large = [b'x'; 40_000];
    let told = running.hub.with(|engine, _, out| {
        let shared = out.share(|lines| lines.extend_from_slice(b"job\n"));
        let peers = engine.open.clone();
        for (nth, peer) in peers.iter().enumerate() {
            out.repeat(*peer, &shared);
            match nth % 10 {
                3 => out.close(*peer, "as asked"),
                5 => (0..10).for_each(|_| out.line(*peer, &large)),
                7 => out.line(*peer, &large),
                _ => {}
            }
        }
        peers
    });
    // Of those at fault the engine hears; nothing is left of the delivery that they miss.
    let heard = |engine: &mut Recorder| {
        let lost = engine.heard.iter().filter(|(_, heard)| matches!(heard, Heard::Closed(_)));
        (lost.count() == PEERS / 10).then_some(())
    };
    running.until(heard).await;
    for (nth, (stream, peer)) in streams.iter_mut().zip(told).enumerate() {
        running.hub.with(|_, _, out| out.line(peer, b"next"));
        let mut stream = BufReader::new(stream);
        let mut read = async |expected: &str| {
            let mut line = String::new();
            within(stream.read_line(&mut line)).await.map(|_| line == expected)
        };
        if nth % 10 == 5 {
            continue;
        }
        assert!(read("job\n").await.unwrap());
        if nth % 10 == 7 {
            assert!(read(&format!("{}\n", "x".repeat(large.len()))).await.unwrap());
        }
        let next = if nth % 10 == 3 { "" } else { "next\n" };
        assert!(read(next).await.unwrap(), "{nth}");
    }
    for reason in ["slow-reader", "engine:as asked"] {
        until(|| (running.closed(reason) == (PEERS / 10) as f64).then_some(())).await;
    }
    running.counts("connections{link=\"Client\"}", (PEERS - PEERS / 5) as f64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_one_by_one_and_frames_all_at_once() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    let mut client = Client::connect(served.addr).await;
    client.stream.set_nodelay(true).unwrap();
    for byte in client.seal(&[b"slow", b"", b"quiet"]) {
        client.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.next().await.unwrap(), b"slow");
    assert_eq!(client.next().await.unwrap(), b"");
    let many: Vec<_> = (0..3_000u32).map(u32::to_le_bytes).collect();
    client.send(&many.iter().map(|payload| &payload[..]).collect::<Vec<_>>()).await;
    for payload in many {
        assert_eq!(client.next().await.unwrap(), payload);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_a_close_arrives() {
    let running = Running::new();
    let served = running.lines(small_buffer(8 << 20)).await;
    // Bytes that this end never reads would make the kernel reset the connection.
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    stream.write_all(&[&b"bye\n"[..], &[b'x'; 100_000]].concat()).await.unwrap();
    let mut read = Vec::new();
    within(stream.read_to_end(&mut read)).await.unwrap();
    assert_eq!(read, b"bye\n");
    running.until_closed("engine:as asked").await;
    assert_eq!(running.hub.with(|engine, _, _| engine.heard.len()), 2, "the engine hears no more");

    // More than the kernel takes at once.
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    let peer = running.until(|engine| engine.open.first().copied()).await;
    let said: Vec<u8> = (0..400_000u32).flat_map(|i| (i % 200).to_le_bytes()).collect();
    running.hub.with(|_, _, out| {
        out.say(peer, |bytes| bytes.extend_from_slice(&said));
        out.close(peer, "enough");
        out.line(peer, b"not said any more");
    });
    assert_eq!(running.closed("engine:enough"), 0.0);
    let mut read = Vec::new();
    within(stream.read_to_end(&mut read)).await.unwrap();
    assert!(read == said, "{} bytes", read.len());
    running.until_closed("engine:enough").await;
    assert_eq!(running.metric("spill_bytes{link=\"Client\"}"), 0.0);
}

#[tokio::test]
async fn what_follows_a_close_in_the_same_read_is_not_heard() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    let mut client = Client::connect(served.addr).await;
    client.send(&[b"one", b"bye", b"two"]).await;
    assert_eq!(client.next().await.unwrap(), b"one");
    assert_eq!(client.next().await.unwrap(), b"bye");
    assert_eq!(client.next().await, None);
    let heard = running.hub.with(|engine, _, _| engine.heard.len());
    assert_eq!(heard, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_swapped_where_the_kernel_takes_little() {
    let running = Running::new();
    let served = running.noise(small_buffer(8 << 20)).await;
    let mut client = Client::over(connect_small(served.addr).await).await;
    let peer = running.until(|engine| engine.open.first().copied()).await;
    // While the client reads, new frames come behind the spilled ones.
    let mut expected = 0..5_000u32;
    for _ in 0..10 {
        running.hub.with(|_, _, out| {
            for i in expected.by_ref().take(500) {
                let payload = [&i.to_le_bytes()[..], &vec![0; i as usize % 1_000]].concat();
                out.say(peer, |bytes| bytes.extend_from_slice(&frame(&payload)));
            }
        });
        tokio::task::yield_now().await;
    }
    assert!(running.metric("spill_bytes{link=\"Client\"}") > 0.0);
    for i in 0..5_000u32 {
        let payload = client.next().await.unwrap();
        assert_eq!(payload[..4], i.to_le_bytes());
        assert_eq!(payload.len(), 4 + i as usize % 1_000);
    }
    assert_eq!(running.metric("spills_total{link=\"Client\"}").min(1.0), 1.0);
    client.send(&[b"still here"]).await;
    assert_eq!(client.next().await.unwrap(), b"still here");
    assert_eq!(running.metric("spill_bytes{link=\"Client\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_without_reading_is_held_back() {
    let running = Running::new();
    let served = running.lines(small_buffer(256 << 10)).await;
    let (mut read, mut write) = connect_small(served.addr).await.into_split();
    let line = |i: u32| format!("{i:0>99}\n");
    let writer = tokio::spawn(async move {
        for i in 0..20_000 {
            write.write_all(line(i).as_bytes()).await.unwrap();
        }
        write
    });
    // The server has stopped reading: it takes in no more than it may keep.
    until(|| (running.metric("spill_bytes{link=\"Client\"}") > 0.0).then_some(())).await;
    let mut reader = BufReader::new(&mut read);
    for i in 0..20_000 {
        let mut got = String::new();
        within(reader.read_line(&mut got)).await.unwrap();
        assert_eq!(got, line(i));
    }
    within(writer).await.unwrap();
    assert_eq!(running.closed("slow-reader"), 0.0);
}

#[tokio::test]
async fn effects_are_handed_on_in_order() {
    let effects = Arc::new(Mutex::new(Vec::new()));
    let seen = effects.clone();
    let options = HubOptions::default();
    let on_effect = move |effect| seen.lock().unwrap().push(effect);
    let hub = Hub::new(Recorder::default(), on_effect, Arc::default(), options.clone());
    hub.with(|_, _, out| (0..3u8).for_each(|i| out.effect(vec![i])));
    assert_eq!(*effects.lock().unwrap(), [[0], [1], [2]]);
    until(|| hub.with(|engine, _, _| (engine.ticks > 1).then_some(()))).await;
    options.cancel.cancel();
    let (listener, _) = listener().await;
    let serving = hub.serve_lines(listener, Link::Client, ListenLimits::default(), options.cancel);
    within(serving).await;
}

#[tokio::test]
async fn a_panic_of_the_engine_ends_the_hub_and_is_told() {
    let running = Running::new();
    let served = running.noise(ListenLimits::default()).await;
    let mut bystander = Client::connect(served.addr).await;
    let mut client = Client::connect(served.addr).await;
    client.send(&[b"panic"]).await;
    let failed = within(running.hub.failed()).await;
    assert!(failed.to_string().starts_with("the engine panicked: "), "{failed}");
    assert!(failed.to_string().contains("as asked"), "{failed}");
    assert_eq!(client.next().await, None);
    assert_eq!(bystander.next().await, None);
    until(|| (running.closed("engine-failed") == 2.0).then_some(())).await;
    assert_eq!(running.hub.try_with(|_, _, _| ()).unwrap_err(), failed);
    // The listener ends, too.
    within(served.task).await.unwrap();
}

/// Little of what is sent stays in the kernel.
fn small_buffer(spill_bytes: usize) -> ListenLimits {
    let connection =
        ConnectionLimits { send_buffer: Some(4 << 10), spill_bytes, ..ConnectionLimits::default() };
    ListenLimits { connection, ..ListenLimits::default() }
}
