//! Where a server sends the device, extensions that it has or not, and what it may not do.

use super::*;

/// Sent on its way even with `--strict`: it is no loss.
#[test]
fn reconnect_goes_where_the_server_says() {
    for (host, port, expected) in [
        ("", 0, (None, None)),
        ("pool-2.example", 4444, (Some("pool-2.example".into()), Some(4444))),
        ("10.0.0.2", 0, (Some("10.0.0.2".into()), None)),
        ("no host/at all", 7, (None, Some(7))),
    ] {
        let mut bench = Bench::new(&["--strict"]);
        bench.open(true);
        bench.extended_job(5, 1, None);
        bench.tip(5, 1);
        let work = bench.work();
        bench.said();
        bench.receive(&Reconnect { new_host: Str0255::cut(host), new_port: port });
        assert_eq!(bench.said(), ["close: the server asked to reconnect"]);
        let (host, port) = expected;
        assert_eq!(
            bench.effects(),
            [Effect::Work(0, None), Effect::Redirect { connection: 0, host, port }]
        );
        bench.find(&work, &[0; 4]);
        assert!(bench.said().is_empty(), "nothing more is sent on the old connection");
        // The next connection begins anew.
        bench.event(Event::Opened { remote: "127.0.0.1:1".parse().unwrap() });
        assert!(bench.said()[0].starts_with("SetupConnection"));
        assert_eq!(bench.device.report(0, bench.now.instant).connections[0].reconnects, 1);
    }
}

/// The bytes of what was said last, behind the frame's header.
fn last_payload(bench: &mut Bench) -> Vec<u8> {
    let mut last = Vec::new();
    bench.out.deliver(|delivery| {
        if let Delivery::Bytes(_, bytes) = delivery {
            last = bytes[Header::LEN..].to_vec();
        }
    });
    last
}

#[test]
fn shares_name_their_worker_where_that_was_negotiated() {
    let mut bench = Bench::new(&["--worker-tlv"]);
    bench.said();
    bench.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
    assert_eq!(bench.said(), ["RequestExtensions { request_id: 1, requested_extensions: [2] }"]);
    let supported = [2];
    let supported_extensions = Seq064K::new(&supported).unwrap();
    bench.receive(&RequestExtensionsSuccess { request_id: 7, supported_extensions });
    assert!(bench.said().is_empty(), "an answer to something else");
    bench.receive(&RequestExtensionsSuccess { request_id: 1, supported_extensions });
    assert!(bench.said()[0].starts_with("OpenExtendedMiningChannel"));
    bench.grant(1, 5);
    bench.extended_job(5, 1, None);
    bench.tip(5, 1);
    let work = bench.work();
    let tlv = [2, 0, 1, 1, 0, b'b'];
    let share = |bench: &mut Bench| {
        bench.find(&work, &[0; 4]);
        last_payload(bench)
    };
    let payload = share(&mut bench);
    assert!(payload.ends_with(&tlv), "{payload:?}");
    let (_, tlvs) = SubmitSharesExtended::decode(&payload).unwrap();
    assert_eq!(tlvs.user_identity(), Ok(Some(&b"b"[..])));

    // Void until it is negotiated again.
    bench.receive(&ChannelEndpointChanged { channel_id: 77 });
    assert!(bench.said().is_empty(), "not ours");
    bench.receive(&ChannelEndpointChanged { channel_id: 5 });
    assert_eq!(bench.said(), ["RequestExtensions { request_id: 2, requested_extensions: [2] }"]);
    assert!(!share(&mut bench).ends_with(&tlv));
    bench.receive(&RequestExtensionsSuccess { request_id: 2, supported_extensions });
    assert!(bench.said().is_empty(), "the channel stays open");
    assert!(share(&mut bench).ends_with(&tlv));
    assert!(bench.device.report(0, bench.now.instant).connections[0].names_workers);
}

#[test]
fn without_the_extension_it_goes_on() {
    let unsupported = [2];
    let unsupported_extensions = Seq064K::new(&unsupported).unwrap();
    let required_extensions = Seq064K::default();
    let error =
        RequestExtensionsError { request_id: 1, unsupported_extensions, required_extensions };
    for silent in [false, true] {
        let mut bench = Bench::new(&["--worker-tlv"]);
        bench.receive(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        bench.said();
        if silent {
            for seconds in [1, 3] {
                assert!(bench.said().is_empty());
                let now = bench.now.later(std::time::Duration::from_secs(seconds));
                bench.device.tick(now, &mut bench.out);
            }
        } else {
            bench.receive(&error);
        }
        assert!(bench.said()[0].starts_with("OpenExtendedMiningChannel"), "silent: {silent}");
        bench.device.tick(bench.now, &mut bench.out);
        bench.grant(1, 5);
        bench.extended_job(5, 1, None);
        bench.tip(5, 1);
        let work = bench.work();
        bench.said();
        bench.find(&work, &[0; 4]);
        let payload = last_payload(&mut bench);
        assert!(SubmitSharesExtended::decode(&payload).unwrap().1.is_empty());
    }
    // Nobody asked: whatever comes is ignored.
    let mut bench = Bench::new(&[]);
    bench.open(true);
    bench.said();
    bench.receive(&error);
    bench.receive(&ChannelEndpointChanged { channel_id: 5 });
    assert!(bench.said().is_empty());
}

#[test]
fn a_server_that_says_nothing_and_gives_no_work_is_left() {
    let sv1 = ("stratum+tcp://127.0.0.1:1", &["--mode", "sv1"][..]);
    for (url, flags) in [("stratum2+tcp://127.0.0.1:1", &[][..]), sv1] {
        let mut bench = Bench::at(url, flags);
        bench.now = bench.now.later(SILENCE - Duration::from_secs(1));
        bench.device.tick(bench.now, &mut bench.out);
        assert!(bench.device.connections[0].peer.is_some());
        bench.now = bench.now.later(Duration::from_secs(1));
        bench.device.tick(bench.now, &mut bench.out);
        assert_eq!(bench.device.connections[0].peer, None);
        let mut closed = false;
        bench.out.deliver(|said| closed |= said == Delivery::Close(PEER, "silent"));
        assert!(closed);
    }
}

#[test]
fn reasons_of_rejects_are_a_servers_words_and_bounded() {
    let mut bench = Bench::new(&[]);
    let rejected = |number: u32| News::Rejected(format!("duplicate share {number:#x}"));
    let news = (0..1_000).chain(0..1).map(rejected).collect();
    bench.device.digest(0, PEER, news, &mut bench.out);
    let counted = &bench.device.connections[0].report.rejected_by_reason;
    assert_eq!(counted.len(), MAX_REASONS + 1);
    assert_eq!((counted["duplicate share 0x0"], counted["other"]), (2, 936));
}
