//! The upstream comes, goes, refuses and misbehaves. Miners stay.

use adit_sv2::codec::Str0255;
use adit_sv2::messages::common::{ChannelEndpointChanged, Reconnect, SetupConnectionError};
use adit_sv2::messages::mining::{
    CloseChannel, OpenMiningChannelError, SetTarget, SubmitSharesSuccess,
};

use super::*;

const SECOND: &str =
    "[[upstream]]\nurl = \"stratum2+tcp://backup.example:34254\"\nuser_identity = \"farm.{user}\"";

fn easy(hash: &[u8; 32]) -> bool {
    meets(hash, &EASY)
}

#[test]
fn an_upstream_that_goes_and_comes_back_is_a_clean_job_to_the_miner() {
    let mut net = Net::mining();
    let before = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &before, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    net.lose();
    assert_eq!(net.engine.readiness(), Err("pool.example:34254: closed by the peer".into()));
    assert_eq!(net.totals().unanswered, 1, "nobody said what became of it");
    // It mines on; what it finds is answered, and counted as paid by nobody.
    let job = Notified { ntime: NTIME + 1, ..before.clone() };
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    assert_eq!(net.line(MINER, &share.submit()), refused(22, "Duplicate share"));
    assert_eq!(net.totals().no_upstream, 1);
    assert!(net.frames.is_empty());
    // However long it takes, the line does not fall silent.
    net.pass(Duration::from_secs(100));
    let idle = net.told(MINER);
    assert_eq!(idle.iter().filter(|line| line.contains("mining.notify")).count(), 2);

    net.connect();
    let again = net.frames.last().cloned();
    assert!(again.is_some(), "a channel is asked for without a word of the miner");
    net.open(3, &[9, 8, 7, 6], 12);
    assert!(net.told(MINER).is_empty());
    // Until there is work, the old one's shares go nowhere.
    let job = Notified { ntime: NTIME + 2, ..before.clone() };
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    assert!(net.sent().is_empty());
    net.work(3, 40, 0x11);
    let told = net.told(MINER);
    let after = Notified::last(&told);
    assert!(after.clean && after.coinb1.ends_with(&[9, 8, 7, 6]));
    assert_eq!(net.line(MINER, &share.submit()), refused(21, "Stale job"));
    // The same extranonce1: the miner was told nothing of it.
    let share = net.share(MINER, &after, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let [frame] = &net.sent()[..] else { panic!("not one share") };
    let Mining::SubmitSharesExtended(sent) = Mining::decode(&frame.0, &frame.1).unwrap().0 else {
        panic!()
    };
    assert_eq!((sent.channel_id, sent.job_id, sent.sequence_number), (3, 40, 0));
    assert_eq!(upstream_header(&sent, &[9, 8, 7, 6], 0x11, HARD), share.header);
    assert!(net.closed.is_empty(), "nobody was dropped");
    assert_eq!(net.engine.readiness(), Ok(()));
}

#[test]
fn a_miner_that_leaves_takes_its_channel_with_it() {
    let mut net = Net::mining();
    net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    let [close] = &net.sent_text()[..] else { panic!() };
    assert!(close.starts_with("CloseChannel { channel_id: 7"), "{close}");
    // What the upstream still says to it hurts nobody.
    net.job(7, 2, Some(NTIME));
    net.tip(7, 9, 0x22, HARD);
    assert!(net.closed.is_empty());
    // It left before the channel was open: the same.
    net.hello(PeerId(2));
    let request_id = net.request_id();
    net.event(PeerId(2), Link::Miner(0), Event::Closed("gone"));
    assert!(net.frames.is_empty());
    net.say(&OpenExtendedMiningChannelSuccess {
        request_id,
        channel_id: 8,
        target: EASY,
        extranonce_size: 12,
        extranonce_prefix: B032::new(&[1; 4]).unwrap(),
        group_channel_id: 1,
    });
    let [close] = &net.sent_text()[..] else { panic!() };
    assert!(close.starts_with("CloseChannel { channel_id: 8"), "{close}");
}

#[test]
fn an_extranonce1_is_not_given_out_again_before_the_next_tip() {
    let mut net = Net::mining();
    let subscribe = r#"{"id":1,"method":"mining.subscribe","params":[]}"#;
    net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    net.join(PeerId(2));
    assert!(net.line(PeerId(2), subscribe)[0].contains("\"00000002\""));
    net.line(PeerId(2), r#"{"id":2,"method":"mining.authorize","params":["a"]}"#);
    net.open(8, &[1; 4], 12);
    net.work(8, 2, 0x22);
    net.join(PeerId(3));
    assert!(net.line(PeerId(3), subscribe)[0].contains("\"00000001\""));
}

#[test]
fn a_refused_connection_says_why_and_the_next_upstream_is_tried() {
    let mut net = Net::new(SECOND);
    net.hello(MINER);
    assert_eq!(net.reach().target.host, "pool.example");
    net.say(&SetupConnectionError { flags: 0, error_code: Str0255::cut("unsupported-protocol") });
    assert_eq!(net.closed, [(net.upstream, "refused")]);
    let reason = net.engine.readiness().unwrap_err();
    assert_eq!(reason, "pool.example:34254: refused: unsupported-protocol (flags 0x0)");
    // The second, then the first again, each later than before.
    assert_eq!(net.fail_dial().target.host, "backup.example");
    assert_eq!(net.engine.readiness().unwrap_err(), "backup.example:34254: cannot connect");
    net.pass(Duration::from_secs(1));
    assert_eq!(net.fail_dial().target.host, "pool.example");
    // The second goes by the name that its section says.
    assert_eq!(net.reach().target.host, "backup.example");
    net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
    assert!(net.sent_text()[0].contains("farm.w.1"));
}

#[test]
fn an_upstream_that_does_not_answer() {
    let mut net = Net::new("");
    net.reach();
    net.pass(Duration::from_secs(11));
    assert_eq!(net.closed, [(net.upstream, "setup-timeout")]);
}

#[test]
fn nonsense_of_an_upstream_costs_the_connection_and_no_miner() {
    type Nonsense = fn(&mut Net);
    let cases: [(&str, Nonsense); 8] = [
        ("target-of-zero", |net| {
            net.say(&SetTarget { channel_id: 7, maximum_target: [0; 32] });
        }),
        ("prevhash-for-unknown-job", |net| net.tip(7, 99, 0x22, HARD)),
        ("nbits-without-target", |net| net.tip(7, 1, 0x22, 0)),
        ("setup-twice", |net| net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 })),
        ("channel-id-twice", |net| {
            net.hello(PeerId(2));
            net.open(7, &[1; 4], 12);
        }),
        ("extranonce-too-long", |net| {
            net.hello(PeerId(2));
            net.open(8, &[1; 4], 33);
        }),
        ("job-without-prevhash", |net| {
            net.hello(PeerId(2));
            net.open(8, &[1; 4], 12);
            net.job(8, 1, Some(NTIME));
        }),
        ("malformed-frame", |net| {
            let header =
                Header { extension_type: 0, channel_msg: true, msg_type: 0x21, msg_length: 5 };
            net.upstream_event(Event::Frame(header, &[7, 0, 0, 0, 1]));
        }),
    ];
    for (reason, nonsense) in cases {
        let mut net = Net::mining();
        net.told(MINER);
        nonsense(&mut net);
        assert_eq!(net.closed, [(net.upstream, reason)]);
        assert!(net.engine.readiness().unwrap_err().contains(reason));
        assert!(net.engine.miners.contains_key(&MINER));
        // A frame that was on its way is not looked at any more.
        net.job(7, 5, Some(NTIME));
        assert!(net.told(MINER).is_empty());
    }
}

#[test]
fn what_is_not_known_is_passed_over() {
    let mut net = Net::mining();
    net.told(MINER);
    for (extension_type, msg_type) in [(1, 0x00), (2, 0x21), (0, 0x7f)] {
        let header = Header { extension_type, channel_msg: false, msg_type, msg_length: 1 };
        net.upstream_event(Event::Frame(header, &[0]));
    }
    net.say(&ChannelEndpointChanged { channel_id: 7 });
    net.job(4_711, 1, Some(NTIME));
    assert!(net.closed.is_empty() && net.told(MINER).is_empty());
}

#[test]
fn a_refused_channel_is_asked_for_again_after_a_while() {
    let mut net = Net::connected();
    net.hello(MINER);
    let refuse = |net: &mut Net| {
        let request_id = net.request_id();
        let error_code = Str0255::cut("channel-capacity-exhausted");
        net.say(&OpenMiningChannelError { request_id, error_code });
        assert!(net.frames.is_empty());
    };
    refuse(&mut net);
    net.pass(Duration::from_secs(2));
    refuse(&mut net);
    net.pass(Duration::from_secs(1));
    assert!(net.frames.is_empty(), "each time later");
    net.pass(Duration::from_secs(2));
    net.open(7, &[1; 4], 12);
    net.work(7, 1, 0x11);
    assert!(Notified::last(&net.told(MINER)).clean);
    assert!(net.closed.is_empty());
}

#[test]
fn an_upstream_with_little_room_for_an_extranonce() {
    let mut net = Net::connected();
    net.hello(MINER);
    net.hello(PeerId(2));
    assert_eq!(net.frames.len(), 2);
    // One is refused, one is given less than it asked for: both were told 8 bytes and must come anew.
    net.open(8, &[1; 4], 8);
    let (_, close) = net.frames.pop().unwrap();
    assert_eq!(close[..4], 8_u32.to_le_bytes());
    let request_id = net.request_id();
    let error_code = Str0255::cut("min-extranonce-size-too-large");
    net.say(&OpenMiningChannelError { request_id, error_code });
    net.closed.sort_unstable();
    let reason = "upstream-extranonce-too-small";
    assert_eq!(net.closed, [(MINER, reason), (PeerId(2), reason)]);
    net.hello(PeerId(3));
    assert!(net.sent_text()[0].contains("min_extranonce_size: 8"));
    // It is remembered when that upstream comes back.
    net.lose();
    net.connect();
    net.hello(PeerId(4));
    assert!(net.sent_text().iter().all(|open| open.contains("min_extranonce_size: 8")));
}

#[test]
fn a_channel_that_the_upstream_closes_is_opened_anew() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    net.say(&CloseChannel { channel_id: 7, reason_code: Str0255::cut("because") });
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    assert_eq!(net.totals().no_upstream, 1);
    net.pass(Duration::from_secs(2));
    net.open(8, &[5; 4], 12);
    net.work(8, 1, 0x11);
    let job = Notified::last(&net.told(MINER));
    assert!(job.clean && job.coinb1.ends_with(&[5; 4]));
    // All of a group.
    net.say(&CloseChannel { channel_id: 1, reason_code: Str0255::cut("because") });
    assert_eq!(net.engine.status(net.now)["upstream"]["channels"], 0);
    assert!(net.closed.is_empty());
}

#[test]
fn an_upstream_that_sends_us_elsewhere() {
    let elsewhere = |host, port| Reconnect { new_host: Str0255::cut(host), new_port: port };
    // Without an authority key, another host could be anybody's.
    let mut net = Net::mining();
    net.say(&elsewhere("evil.example", 1));
    let target = net.dial().target;
    assert_eq!((target.host.as_str(), target.port), ("pool.example", 34254));
    // Another port of the same host is fine, once.
    let mut net = Net::mining();
    net.say(&elsewhere("", 5));
    assert_eq!(net.fail_dial().target.port, 5);
    assert_eq!(net.fail_dial().target.port, 34254);
    // Under a key, any host: it has to prove itself.
    let mut net = Net::mining();
    let key = adit_sv2::keys::AuthoritySecretKey::from_entropy([7; 32]).unwrap().public();
    net.engine.upstream.target.authority_key = Some(key);
    net.say(&elsewhere("other.example", 0));
    let target = net.dial().target;
    assert_eq!((target.host.as_str(), target.port), ("other.example", 34254));
    assert_eq!(target.authority_key, Some(key));
    assert_eq!(net.engine.miner_count(), 1);
}

#[test]
fn shares_of_a_miner_that_is_sent_elsewhere_go_to_the_old_upstream_until_there_is_work_of_the_new()
{
    let mut net = Net::mining();
    let old = Notified::last(&net.told(MINER));
    let old_upstream = net.upstream;
    net.say(&Reconnect { new_host: Str0255::cut(""), new_port: 5 });
    assert!(net.closed.is_empty(), "it is left when its answers have come");
    net.connect();
    net.open(3, &[9, 8, 7, 6], 12);
    let share = net.share(MINER, &old, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let [share] = &net.sent_text()[..] else { panic!("not one share") };
    assert!(share.starts_with("SubmitSharesExtended { channel_id: 7"), "{share}");
    net.work(3, 40, 0x11);
    let new = Notified::last(&net.told(MINER));
    assert!(new.clean && new.coinb1.ends_with(&[9, 8, 7, 6]));
    let share = net.share(MINER, &new, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let [share] = &net.sent_text()[..] else { panic!("not one share") };
    assert!(share.starts_with("SubmitSharesExtended { channel_id: 3"), "{share}");
    // The old one's answer still counts, and then it is left.
    net.pass(Duration::from_secs(2));
    assert!(net.closed.is_empty());
    let new_upstream = std::mem::replace(&mut net.upstream, old_upstream);
    net.say(&SubmitSharesSuccess {
        channel_id: 7,
        last_sequence_number: 0,
        new_submits_accepted_count: 1,
        new_shares_sum: 1,
    });
    assert_eq!(net.totals().upstream_accepted, 1);
    net.pass(Duration::from_secs(4));
    assert_eq!(net.closed, [(old_upstream, "left-for-another")]);
    assert_eq!(net.engine.upstream.stage.peer(), Some(new_upstream));
    assert_eq!((net.totals().unanswered, net.totals().no_upstream), (0, 0));
}

#[test]
fn thousands_of_miners_ask_a_few_hundred_at_a_time() {
    let mut net = Net::new("");
    for miner in 1..=600 {
        net.hello(PeerId(miner));
    }
    net.connect();
    let requests = net.sent();
    assert_eq!(requests.len(), 512);
    net.frames.push(requests[0].clone());
    net.open(5_000, &[1; 4], 12);
    assert_eq!(net.frames.len(), 1, "an answer makes room for one more");
    net.event(PeerId(2), Link::Miner(0), Event::Closed("gone"));
    net.pass(Duration::from_secs(1));
    assert_eq!(net.frames.len(), 2, "and so does one that leaves");
}
