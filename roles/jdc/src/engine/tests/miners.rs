//! What miners see: groups, limits, extensions, and what bad input gets.

use std::time::Duration;

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{ChannelEndpointChanged, SetupConnection};
use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::mining::*;
use adit_transport::Event;

use super::sim::Sim;
use crate::engine::Link;

#[test]
fn one_message_for_a_group_and_standard_channels_share_it() {
    let mut sim = Sim::working("", 1);
    let peer = sim.miner_connection(0);
    sim.open_extended(peer, 8);
    let mut extended = sim.opened(peer);
    sim.open_standard(peer);
    let mut standard = sim.opened(peer);
    assert_eq!(extended.channel.group_channel_id(), standard.channel.group_channel_id());
    assert_eq!(standard.channel.full_extranonce_size(), 11);
    let from = sim.said.len();
    sim.tip(2, 2);
    let names: Vec<_> = sim.heard_by(peer, from);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with("NewExtendedMiningJob") && names[1].starts_with("SetNewPrevHash"));
    extended.share(&mut sim);
    standard.share(&mut sim);
    let shares = sim.shares(0, from);
    assert_eq!(shares.len(), 2);
    assert_eq!(shares[0].1[5..8], [0, 0, 1]);
    assert_eq!(shares[1].1[5..8], [0, 0, 2]);
    assert_eq!(shares[1].1[8..], [0; 8]);
}

#[test]
fn a_device_that_requires_standard_jobs_gets_no_group() {
    let mut sim = Sim::working("", 1);
    let peer = sim.miner_connection(REQUIRES_STANDARD_JOBS);
    sim.open_standard(peer);
    let mut miner = sim.opened(peer);
    assert_eq!(miner.channel.group_channel_id(), 0);
    let from = sim.said.len();
    sim.tip(2, 2);
    assert!(sim.heard_by(peer, from)[0].starts_with("NewMiningJob"));
    miner.share(&mut sim);
    let shares = sim.shares(0, from);
    assert_eq!(shares[0].1, [vec![0; 15], vec![1]].concat());
    sim.open_extended(peer, 4);
    let refusal = sim.heard_by(peer, from).pop().unwrap();
    assert!(refusal.contains("extended-channels-not-supported-for-standard-jobs"), "{refusal}");
}

#[test]
fn without_groups_every_channel_is_spoken_to() {
    let mut sim = Sim::working("channels.group_channels = false", 1);
    let peer = sim.miner_connection(0);
    sim.open_extended(peer, 8);
    sim.open_extended(peer, 8);
    let from = sim.said.len();
    sim.tip(2, 2);
    assert_eq!(sim.heard_by(peer, from).len(), 4);
}

#[test]
fn requests_wait_for_work_and_count_towards_the_limits() {
    let mut sim = Sim::new("channels.max_per_connection = 2\nchannels.max = 3", 1);
    let peer = sim.miner_connection(0);
    let from = sim.said.len();
    sim.open_extended(peer, 8);
    sim.open_standard(peer);
    assert!(sim.heard_by(peer, from).is_empty());
    sim.open_standard(peer);
    assert!(sim.heard_by(peer, from)[0].contains("channel-capacity-exhausted"));
    for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0)] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let opened = sim.heard_by(peer, from);
    assert_eq!(opened.iter().filter(|m| m.contains("Channel.Success")).count(), 2, "{opened:?}");
    let other = sim.miner_connection(0);
    sim.open_standard(other);
    let from = sim.said.len();
    sim.open_standard(other);
    assert!(sim.heard_by(other, from)[0].contains("channel-capacity-exhausted"));
    // And those who open none do not take a place for ever.
    let idle = sim.miner_connection(0);
    sim.pass(Duration::from_secs(62));
    assert!(sim.closed.contains(&(idle, "no-channel-in-time")));
}

#[test]
fn the_pool_hears_the_real_sum() {
    let mut sim = Sim::working("", 1);
    let rates = |sim: &Sim, from| -> Vec<f32> {
        let updates = sim.payloads(Link::Pool(0), UpdateChannel::TYPE, from);
        use adit_sv2::messages::Message as _;
        updates.iter().map(|p| UpdateChannel::decode(p).unwrap().0.nominal_hash_rate).collect()
    };
    let first = sim.extended(8);
    assert_eq!(rates(&sim, 0), [10.0]);
    let second = sim.extended(8);
    sim.pass(Duration::from_secs(2));
    assert_eq!(rates(&sim, 0), [10.0, 20.0]);
    let reason_code = Str0255::cut("done");
    sim.send(first.peer, &CloseChannel { channel_id: first.channel.id(), reason_code });
    sim.pass(Duration::from_millis(1_200));
    assert_eq!(rates(&sim, 0), [10.0, 20.0, 10.0]);
    sim.event(second.peer, Event::Closed("gone"));
    assert_eq!(rates(&sim, 0), [10.0, 20.0, 10.0, 0.0]);
    // Whoever is gone costs nobody a declaration.
    let from = sim.said.len();
    sim.tip(2, 2);
    assert!(sim.names(Link::Pool(0), from).is_empty());
}

#[test]
fn a_claim_of_endless_hashrate_does_not_reach_the_pool() {
    use adit_sv2::messages::Message as _;
    let mut sim = Sim::working("", 1);
    let mut honest = sim.extended(8);
    honest.share(&mut sim);
    let peer = sim.miner_connection(0);
    let open = |request_id| OpenExtendedMiningChannel {
        request_id,
        user_identity: Str0255::cut("odd"),
        nominal_hash_rate: f32::MAX,
        max_target: [0xff; 32],
        min_extranonce_size: 8,
    };
    // Not by channels, not by changes, and not by both after a reconnect of the pool.
    for request_id in [5, 6] {
        sim.send(peer, &open(request_id));
        sim.pass(Duration::from_secs(2));
    }
    let odd = sim.opened(peer).channel.id();
    for nominal_hash_rate in [1.0, f32::MAX, 1e30, f32::MAX] {
        let maximum_target = [0xff; 32];
        sim.send(peer, &UpdateChannel { channel_id: odd, nominal_hash_rate, maximum_target });
        sim.pass(Duration::from_secs(2));
    }
    sim.lose(Link::Pool(0));
    sim.connect(Link::Pool(0));
    sim.pass(Duration::from_secs(3));
    let rate = |p: &Vec<u8>| UpdateChannel::decode(p).unwrap().0.nominal_hash_rate;
    let mut told: Vec<f32> =
        sim.payloads(Link::Pool(0), UpdateChannel::TYPE, 0).iter().map(rate).collect();
    let rate = |p: &Vec<u8>| OpenExtendedMiningChannel::decode(p).unwrap().0.nominal_hash_rate;
    told.extend(sim.payloads(Link::Pool(0), OpenExtendedMiningChannel::TYPE, 0).iter().map(rate));
    // 20 each is what is assumed of those that say nothing.
    assert!(told.iter().all(|rate| *rate <= 60.0), "{told:?}");
}

#[test]
fn a_claim_is_believed_as_far_as_shares_bear_it_out() {
    let mut sim = Sim::working("", 1);
    let peer = sim.miner_connection(0);
    let open = OpenExtendedMiningChannel {
        request_id: 5,
        user_identity: Str0255::cut("fast"),
        nominal_hash_rate: 1e6,
        max_target: [0xff; 32],
        min_extranonce_size: 8,
    };
    sim.send(peer, &open);
    let mut miner = sim.opened(peer);
    let mut seen = vec![sim.status()["hashrate"].as_f64().unwrap()];
    for shares in [1, 9] {
        (0..shares).for_each(|_| miner.share(&mut sim));
        sim.pass(Duration::from_secs(1));
        seen.push(sim.status()["hashrate"].as_f64().unwrap());
    }
    assert_eq!(seen[0], 20.0);
    assert!(seen[1] > 20.0 && seen[1] < 1_000.0, "{seen:?}");
}

#[test]
fn an_extranonce_of_no_bytes_is_granted_as_it_is_asked_for() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(0);
    assert_eq!(miner.channel.extranonce_size(), 0);
    let from = sim.said.len();
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
}

#[test]
fn frames_of_unknown_extensions_pass_with_only_the_channel_changed() {
    let mut sim = Sim::working("", 1);
    let (a, b) = (sim.extended(8), sim.extended(4));
    let frame = |channel: u32, channel_msg: bool| {
        let mut payload = channel.to_le_bytes().to_vec();
        payload.extend(b"hello");
        let header = Header { extension_type: 0x4321, channel_msg, msg_type: 0x1b, msg_length: 9 };
        (header, payload)
    };
    let pool = sim.peer(Link::Pool(0));
    let from = sim.said.len();
    let (header, payload) = frame(a.channel.id(), true);
    sim.event(a.peer, Event::Frame(header, &payload));
    let said = &sim.said[from];
    assert_eq!((said.to, said.header, &said.payload), (pool, header, &frame(7, true).1));
    // The answer goes to who has spoken, and to nobody else.
    let from = sim.said.len();
    let (header, payload) = frame(7, true);
    sim.event(pool, Event::Frame(header, &payload));
    let to = |sim: &Sim, from: usize| -> Vec<_> {
        sim.said[from..].iter().map(|said| (said.to, said.payload.clone())).collect()
    };
    assert_eq!(to(&sim, from), [(a.peer, frame(a.channel.id(), true).1)]);
    // What others say in this extension ends here: the pool could not tell them apart.
    let from = sim.said.len();
    let (header, payload) = frame(b.channel.id(), true);
    sim.event(b.peer, Event::Frame(header, &payload));
    assert_eq!(sim.said.len(), from);
    // Another extension is theirs.
    sim.event(b.peer, Event::Frame(Header { extension_type: 0x4322, ..header }, &payload));
    let header = Header { extension_type: 0x4322, ..header };
    sim.event(pool, Event::Frame(header, &frame(1, true).1));
    let expected = [(pool, frame(7, true).1), (b.peer, frame(b.channel.id(), true).1)];
    assert_eq!(to(&sim, from), expected);
    // Without the channel bit, or for a channel that is not theirs: dropped without a word.
    let from = sim.said.len();
    for (header, payload) in [frame(a.channel.id(), false), frame(99, true)] {
        sim.event(a.peer, Event::Frame(header, &payload));
    }
    sim.event(pool, Event::Frame(frame(7, false).0, &frame(7, false).1));
    sim.event(pool, Event::Frame(frame(8, true).0, &frame(8, true).1));
    // Of what nobody has spoken yet it is not known whose it is.
    let unspoken = Header { extension_type: 0x4323, ..header };
    sim.event(pool, Event::Frame(unspoken, &frame(7, true).1));
    assert_eq!(sim.said.len(), from);
    assert!(sim.closed.is_empty());
    // A channel that is alone is meant, and one that is gone has nothing any more.
    sim.event(a.peer, Event::Closed("gone"));
    for header in [unspoken, frame(7, true).0] {
        let from = sim.said.len();
        sim.event(pool, Event::Frame(header, &frame(7, true).1));
        assert_eq!(to(&sim, from), [(b.peer, frame(b.channel.id(), true).1)]);
    }
}

#[test]
fn what_miners_may_have_passed_on_is_bounded_for_all_together() {
    let mut sim = Sim::working("", 1);
    let miners = [sim.extended(8), sim.extended(8)];
    let speak = |sim: &mut Sim, len: u32, times: usize| {
        let from = sim.said.len();
        for time in 0..times {
            let miner = &miners[time % 2];
            let mut payload = miner.channel.id().to_le_bytes().to_vec();
            payload.resize(len as usize, 0);
            let extension_type = 0x4321 + (time % 2) as u16;
            let header = Header { extension_type, channel_msg: true, msg_type: 1, msg_length: len };
            sim.event(miner.peer, Event::Frame(header, &payload));
        }
        sim.said[from..].iter().map(|said| said.payload.len()).collect::<Vec<_>>()
    };
    assert!(speak(&mut sim, 100_000, 100).is_empty(), "too large a frame for any time");
    assert_eq!(speak(&mut sim, 10_000, 100), [10_000; 6]);
    assert!(speak(&mut sim, 10_000, 100).is_empty());
    sim.pass(Duration::from_secs(2));
    assert_eq!(speak(&mut sim, 10_000, 100), [10_000; 2]);
    sim.pass(Duration::from_secs(3_600));
    assert_eq!(speak(&mut sim, 10_000, 100), [10_000; 6]);
    assert!(sim.closed.is_empty());
}

#[test]
fn channels_that_speak_extensions_hear_when_their_end_is_another() {
    let mut sim =
        Sim::working("coinbase.solo_output = \"raw(51)\"\nfallback.well_after_ms = 1000", 2);
    let (a, b) = (sim.extended(8), sim.extended(8));
    let speak = |sim: &mut Sim| {
        let payload = a.channel.id().to_le_bytes();
        let header =
            Header { extension_type: 0x4321, channel_msg: true, msg_type: 1, msg_length: 4 };
        let from = sim.said.len();
        sim.event(a.peer, Event::Frame(header, &payload));
        sim.said[from..].iter().map(|said| said.to).collect::<Vec<_>>()
    };
    let told = |sim: &Sim, from| {
        let told = |peer| -> Vec<String> {
            let heard = sim.heard_by(peer, from);
            heard.into_iter().filter(|m| m.starts_with("ChannelEndpointChanged")).collect()
        };
        assert!(told(b.peer).is_empty(), "it spoke no extension");
        told(a.peer)
    };
    // Nothing was said yet that could be void.
    sim.lose(Link::Pool(0));
    assert_eq!(sim.upstream(), Some(1));
    assert!(told(&sim, 0).is_empty());
    assert_eq!(speak(&mut sim), [sim.peer(Link::Pool(1))]);
    // Another pool.
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.upstream(), Some(0));
    let expected = format!("channel_id: {}", a.channel.id());
    let heard = told(&sim, from);
    assert!(heard.len() == 1 && heard[0].contains(&expected), "{heard:?}");
    // What is told is told once, and not to who has said nothing since.
    let from = sim.said.len();
    sim.lose(Link::Pool(0));
    assert_eq!((told(&sim, from).len(), sim.upstream()), (0, Some(1)));
    // Solo.
    speak(&mut sim);
    let from = sim.said.len();
    sim.lose(Link::Pool(1));
    assert_eq!((told(&sim, from).len(), sim.source()), (1, "solo"));
    assert!(speak(&mut sim).is_empty(), "nobody is there to hear it");
    // And back: to a pool that may know what was said to nobody.
    let from = sim.said.len();
    sim.connect(Link::Pool(0));
    sim.pass(Duration::from_secs(2));
    assert_eq!((told(&sim, from).len(), sim.source()), (1, "declared"));
    // The same pool, on whose side somebody else is there.
    speak(&mut sim);
    let (from, pool) = (sim.said.len(), sim.peer(Link::Pool(0)));
    sim.send(pool, &ChannelEndpointChanged { channel_id: 8 });
    assert!(told(&sim, from).is_empty());
    sim.send(pool, &ChannelEndpointChanged { channel_id: 7 });
    assert_eq!(told(&sim, from).len(), 1);
    assert_eq!(speak(&mut sim), [pool]);
}

#[test]
fn a_pool_that_is_back_is_another_end() {
    let mut sim = Sim::working("", 1);
    let a = sim.extended(8);
    let payload = a.channel.id().to_le_bytes();
    let header = Header { extension_type: 0x4321, channel_msg: true, msg_type: 1, msg_length: 4 };
    sim.event(a.peer, Event::Frame(header, &payload));
    let from = sim.said.len();
    let told = |sim: &Sim| -> usize {
        let heard = sim.heard_by(a.peer, from);
        heard.iter().filter(|m| m.starts_with("ChannelEndpointChanged")).count()
    };
    sim.lose(Link::Pool(0));
    assert_eq!((told(&sim), sim.source()), (0, "kept"), "it may come back");
    sim.connect(Link::Pool(0));
    assert_eq!(told(&sim), 1);
}

#[test]
fn extensions_are_answered() {
    let mut sim = Sim::working("", 1);
    let peer = sim.miner_connection(0);
    let from = sim.said.len();
    for asked in [&[3u16][..], &[1], &[1, 2, 3], &[2], &[]] {
        let requested_extensions = Seq064K::new(asked).unwrap();
        sim.send(peer, &RequestExtensions { request_id: 1, requested_extensions });
    }
    let heard = sim.heard_by(peer, from);
    let errors: Vec<bool> = heard.iter().map(|m| m.contains("Error")).collect();
    assert_eq!(errors, [true, false, false, false, false], "{heard:?}");
    assert!(heard[2].contains("supported_extensions: [1, 2]"), "{heard:?}");
}

#[test]
fn whom_we_do_not_serve() {
    for (protocol, versions, flags, code) in [
        (1, (2, 2), 0, "unsupported-protocol"),
        (0, (3, 4), 0, "protocol-version-mismatch"),
        (0, (2, 2), REQUIRES_WORK_SELECTION, "unsupported-feature-flags"),
    ] {
        let mut sim = Sim::working("", 1);
        let peer = sim.connect(Link::Miner);
        let setup = SetupConnection {
            protocol,
            min_version: versions.0,
            max_version: versions.1,
            flags,
            endpoint_host: Str0255::cut(""),
            endpoint_port: 0,
            vendor: Str0255::cut(""),
            hardware_version: Str0255::cut(""),
            firmware: Str0255::cut(""),
            device_id: Str0255::cut(""),
        };
        sim.send(peer, &setup);
        assert!(sim.heard_by(peer, 0)[0].contains(code));
        assert_eq!(sim.closed, [(peer, "setup-connection-refused")]);
    }
}

#[test]
fn wrong_shares_are_answered_and_not_passed_on() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    let share = SubmitSharesExtended {
        channel_id: miner.channel.id(),
        sequence_number: 4,
        job_id: 999,
        nonce: 0,
        ntime: 0,
        version: 0,
        extranonce: adit_sv2::codec::B032::new(&[0; 8]).unwrap(),
    };
    sim.send(miner.peer, &share);
    sim.send(miner.peer, &SubmitSharesExtended { channel_id: 77, ..share });
    sim.tip(2, 2);
    let old = miner.channel.active().unwrap().job_id;
    sim.send(miner.peer, &SubmitSharesExtended { job_id: old, ..share });
    let heard = sim.heard_by(miner.peer, from);
    for code in ["invalid-job-id", "invalid-channel-id", "stale-share"] {
        assert!(heard.iter().any(|m| m.contains(code)), "{code}: {heard:?}");
    }
    assert!(sim.shares(0, from).is_empty());
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
}
