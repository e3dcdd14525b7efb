//! Upstreams that do not answer, answer in circles, or want to be asked first.

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::messages::common::Reconnect;
use adit_sv2::messages::extensions::{
    Extensions, RequestExtensionsError, RequestExtensionsSuccess,
};
use adit_sv2::messages::mining::{CloseChannel, OpenMiningChannelError};

use super::aggregated::config;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PREFIX: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];

impl Net {
    fn opened(&mut self, request_id: u32, channel_id: u32) {
        self.say(&OpenExtendedMiningChannelSuccess {
            request_id,
            channel_id,
            target: EASY,
            extranonce_size: 12,
            extranonce_prefix: B032::new(&PREFIX).unwrap(),
            group_channel_id: 1,
        });
    }

    /// Every request for a channel since this was last called.
    fn requests(&mut self) -> Vec<u32> {
        let id = |(header, payload): &(Header, Vec<u8>)| match Mining::decode(header, payload) {
            Ok((Mining::OpenExtendedMiningChannel(m), _)) => Some(m.request_id),
            _ => None,
        };
        self.sent().iter().filter_map(id).collect()
    }

    /// The upstream is asked for extensions, and answers with those.
    fn grant(&mut self, supported: &[u16]) {
        let (header, payload) = self.frames.pop().expect("a question about extensions");
        let Ok((Extensions::RequestExtensions(asked), _)) = Extensions::decode(&header, &payload)
        else {
            panic!()
        };
        assert_eq!(asked.requested_extensions.iter().collect::<Vec<_>>(), [2]);
        let supported_extensions = Seq064K::new(supported).unwrap();
        self.say(&RequestExtensionsSuccess { request_id: asked.request_id, supported_extensions });
    }
}

#[test]
fn an_upstream_that_never_opens_a_channel_is_left() {
    for text in [config(""), config("").replace("aggregated", "per-miner")] {
        let mut net = Net::of(&text);
        net.reach();
        net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        if text.contains("aggregated") {
            net.grant(&[]);
        }
        // As long as nobody wants one there is nothing to answer.
        net.pass(100 * SECOND);
        net.hello(MINER);
        assert_eq!(net.requests().len(), 1);
        net.pass(29 * SECOND);
        assert!(net.closed.is_empty());
        net.pass(2 * SECOND);
        assert_eq!(net.closed, [(net.upstream, "no-answer")]);
        assert!(net.counted(r#"upstream_faults_total{reason="no-answer"} 1"#));
        assert!(net.counted(r#"failovers_total{reason="no-answer"} 1"#));
        assert_eq!(net.dial().target.host, "backup.example");
        assert_eq!(net.engine.miner_count(), 1);
    }
}

#[test]
fn a_request_that_is_passed_over_is_made_again() {
    let mut net = Net::connected();
    for miner in 1..=3 {
        net.hello(PeerId(miner));
        net.pass(SECOND);
    }
    let requests = net.requests();
    net.opened(requests[0], 7);
    net.opened(requests[2], 8);
    net.work(7, 1, 0x11);
    net.pass(26 * SECOND);
    assert!(net.requests().is_empty());
    net.pass(5 * SECOND);
    let again = net.requests();
    assert_eq!(again.len(), 1);
    assert!(net.counted(r#"channel_errors_total{reason="unanswered"} 1"#));
    // The first one is answered after all: one channel is enough.
    net.opened(requests[1], 9);
    assert!(net.sent_text()[0].starts_with("CloseChannel { channel_id: 9"));
    net.opened(again[0], 10);
    assert_eq!(net.engine.status(net.now)["upstream"]["channels"], 3);
    // With channels that work, one that is not opened is no reason to go: it is asked for, each time later.
    net.hello(PeerId(4));
    for _ in 0..12 {
        net.pass(25 * SECOND);
        net.job(7, 2, Some(NTIME));
    }
    assert!(net.closed.is_empty());
    assert!((5..10).contains(&net.requests().len()));
}

#[test]
fn an_upstream_that_opens_channels_slowly_has_its_time() {
    let mut net = Net::connected();
    for miner in 1..=10 {
        net.hello(PeerId(miner));
    }
    let requests = net.requests();
    assert_eq!(requests.len(), 10);
    for (request_id, channel) in requests.into_iter().zip(10..) {
        net.pass(20 * SECOND);
        net.opened(request_id, channel);
        net.work(channel, 1, 0x11);
    }
    assert!(net.requests().is_empty());
    assert!(net.closed.is_empty());
}

#[test]
fn miners_that_come_and_go_leave_nothing_behind() {
    let mut net = Net::connected();
    for miner in 1..=600 {
        net.hello(PeerId(miner));
    }
    for miner in (601..900).cycle().take(1_500) {
        net.hello(PeerId(miner));
        net.event(PeerId(miner), Link::Miner(0), Event::Closed("gone"));
    }
    net.pass(SECOND);
    assert!(net.engine.upstream.waiting.len() <= 600, "{}", net.engine.upstream.waiting.len());
    assert_eq!(net.engine.upstream.requests.len(), 512);
}

#[test]
fn an_upstream_that_always_asks_to_reconnect_is_not_dialled_all_the_time() {
    for host in ["", "other.example"] {
        let mut net = Net::mining();
        let begun = net.now;
        for _ in 0..50 {
            net.say(&Reconnect { new_host: Str0255::cut(host), new_port: 0 });
            net.connect();
        }
        let took = net.now.instant - begun.instant;
        assert!((100..300).contains(&took.as_secs()), "{took:?}");
        assert!(net.counted(r#"failovers_total{reason="reconnect"} 50"#));
        let again = if host.is_empty() { 49 } else { 50 };
        assert!(net.counted(&format!(r#"upstream_faults_total{{reason="reconnect"}} {again}"#)));
    }
    // After a minute it is done at once again.
    let mut net = Net::mining();
    for _ in 0..3 {
        net.pass(61 * SECOND);
        let asked = net.now;
        net.say(&Reconnect { new_host: Str0255::cut(""), new_port: 0 });
        net.connect();
        assert_eq!(net.now.instant, asked.instant);
    }
    assert!(!net.metrics().contains("upstream_faults_total{reason=\"reconnect\"}"));
}

#[test]
fn a_better_upstream_that_asks_to_reconnect_all_the_time_does_no_harm() {
    let mut net = Net::of(&config("").replace("aggregated", "per-miner"));
    net.hello(MINER);
    net.fail_dial();
    net.connect();
    net.open(3, &PREFIX, 12);
    net.work(3, 1, 0x11);
    let backup = net.upstream;
    let begun = net.now;
    for _ in 0..20 {
        assert_eq!(net.reach().target.host, "pool.example");
        net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        net.say(&Reconnect { new_host: Str0255::cut(""), new_port: 0 });
    }
    assert!(net.now.instant - begun.instant > 40 * SECOND);
    assert_eq!(net.engine.upstream.stage.peer(), Some(backup));
    assert!(net.engine.miners[&MINER].channel.is_some());
}

#[test]
fn a_channel_of_nobody_is_not_left_for_its_silence() {
    let mut net = Net::of(&config("idle_timeout_seconds = 60000\nvardiff = false"));
    net.reach();
    net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
    net.grant(&[]);
    net.hello(MINER);
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    net.pass(4_000 * SECOND);
    assert!(net.closed.is_empty(), "{:?}", net.closed);
    // From when on there is somebody, it is expected to say something.
    net.hello(PeerId(2));
    net.pass(299 * SECOND);
    assert!(net.closed.is_empty(), "{:?}", net.closed);
    net.pass(2 * SECOND);
    assert_eq!(net.closed, [(net.upstream, "silent")]);
    assert!(net.counted(r#"upstream_faults_total{reason="silent"} 1"#));
}

#[test]
fn a_pool_that_serves_nobody_without_extensions_is_asked_for_them() {
    let mut net = Net::connected();
    net.hello(MINER);
    assert_eq!(net.requests().len(), 1);
    // That is all it does about it.
    net.lose();
    net.connect();
    net.grant(&[2]);
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    let job = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &job, |hash| meets(hash, &EASY));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let (header, payload) = net.frames.pop().unwrap();
    let (_, tlvs) = Mining::decode(&header, &payload).unwrap();
    assert_eq!(tlvs.user_identity(), Ok(Some(&b"1"[..])));
    // It is known from now on; another that does not know the question costs a second.
    net.lose();
    net.connect();
    assert_eq!(net.sent().len(), 1);
    net.pass(2 * SECOND);
    net.open(8, &PREFIX, 12);
    net.work(8, 1, 0x11);
    let job = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &job, |hash| meets(hash, &EASY));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let (header, payload) = net.frames.pop().unwrap();
    assert!(Mining::decode(&header, &payload).unwrap().1.is_empty());
}

#[test]
fn extensions_that_are_not_known_here_are_a_reason_to_go_on() {
    // It supports none, and wants none that there is not.
    for (unsupported, required, fault) in
        [(&[2_u16][..], &[][..], false), (&[][..], &[2][..], false), (&[2][..], &[9][..], true)]
    {
        let mut net = Net::of(&config(""));
        net.reach();
        net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        net.hello(MINER);
        net.frames.clear();
        net.say(&RequestExtensionsError {
            request_id: 1,
            unsupported_extensions: Seq064K::new(unsupported).unwrap(),
            required_extensions: Seq064K::new(required).unwrap(),
        });
        if fault {
            assert_eq!(net.closed, [(net.upstream, "unknown-extension-required")]);
            assert!(net.counted(r#"upstream_faults_total{reason="unknown-extension-required"} 1"#));
            assert_eq!(net.fail_dial().target.host, "backup.example");
        } else {
            assert_eq!(net.requests().len(), 1);
            assert_eq!(net.engine.status(net.now)["upstream"]["worker_names"], false);
        }
    }
}

#[test]
fn what_an_upstream_does_to_the_channel_of_all() {
    use adit_sv2::messages::mining::{SetExtranoncePrefix, SetTarget};
    type Step = fn(&mut Net);
    let cases: [(&str, Step); 5] = [
        ("channel-of-all-closed", |net| {
            net.say(&CloseChannel { channel_id: 7, reason_code: Str0255::cut("because") });
        }),
        ("channel-of-all-closed", |net| {
            net.say(&CloseChannel { channel_id: 1, reason_code: Str0255::cut("the whole group") });
        }),
        ("target-of-zero", |net| {
            net.say(&SetTarget { channel_id: 7, maximum_target: [0; 32] });
        }),
        ("prefix-of-another-length", |net| {
            let extranonce_prefix = B032::new(&[1; 5]).unwrap();
            net.say(&SetExtranoncePrefix { channel_id: 7, extranonce_prefix });
        }),
        ("prevhash-for-unknown-job", |net| net.tip(7, 99, 0x22, HARD)),
    ];
    for (reason, step) in cases {
        let mut net = Net::of(&config("vardiff = false"));
        net.aggregated(&[]);
        net.hello(MINER);
        net.open(7, &PREFIX, 12);
        net.work(7, 1, 0x11);
        let job = Notified::last(&net.told(MINER));
        step(&mut net);
        assert_eq!(net.closed, [(net.upstream, reason)]);
        assert!(net.counted(&format!(r#"upstream_faults_total{{reason="{reason}"}} 1"#)));
        let share = net.share(MINER, &job, |hash| meets(hash, &EASY));
        assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED], "answered meanwhile");
        assert_eq!(net.totals().no_upstream, 1);
        net.frames.clear();
        assert_eq!(net.aggregated(&[]), "backup.example");
        net.open(9, &[0xb0; 4], 12);
        net.work(9, 1, 0x11);
        let job = Notified::last(&net.told(MINER));
        assert!(job.clean && job.coinb1.ends_with(&[0xb0; 4]));
    }
    // One upstream alone is asked again.
    let text = config("").replace(
        "[[upstream]]\nurl = \"stratum2+tcp://backup.example:34254\"\nuser_identity = \"farm2\"\n",
        "",
    );
    let mut net = Net::of(&text);
    net.aggregated(&[]);
    net.hello(MINER);
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    net.told(MINER);
    net.say(&CloseChannel { channel_id: 7, reason_code: Str0255::cut("because") });
    assert_eq!(net.aggregated(&[]), "pool.example");
    net.open(8, &PREFIX, 12);
    net.work(8, 1, 0x11);
    assert!(Notified::last(&net.told(MINER)).clean);
    // A refusal of the only channel is one of the upstream.
    let mut net = Net::of(&config(""));
    net.aggregated(&[]);
    net.hello(MINER);
    let request_id = net.request_id();
    net.say(&OpenMiningChannelError { request_id, error_code: Str0255::cut("unknown-user") });
    assert_eq!(net.closed, [(net.upstream, "channel-refused")]);
}
