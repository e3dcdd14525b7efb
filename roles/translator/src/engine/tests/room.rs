//! Upstreams with more and with less room in the extranonce, most often with one channel for all miners.

use std::collections::HashSet;

use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::OpenMiningChannelError;

use super::aggregated::config;
use super::*;

const PREFIX: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];
const OTHER: [u8; 6] = [0xb0; 6];
/// Firmware that takes every `extranonce2` for one of 4 bytes.
const OLD: &str = "cgminer/3.7.2";
const TOO_SMALL: &str = "upstream-extranonce-too-small";

impl Net {
    /// The next upstream is reached, and asked for a channel by the miners that are there.
    fn next(&mut self) -> String {
        self.frames.clear();
        self.aggregated(&[])
    }

    fn arrive(&mut self, miner: PeerId, user_agent: &str) -> Vec<String> {
        let told = self.subscribe(miner, user_agent);
        self.authorize(miner, "x");
        told
    }

    fn work_for(&mut self, channel: u32, prefix: &[u8], grant: u16) {
        self.open(channel, prefix, grant);
        self.work(channel, 1, 0x11);
    }

    /// Bytes of `extranonce1` and of `extranonce2`, as the miner was told.
    fn sizes(&self, miner: PeerId) -> (usize, u8) {
        let miner = &self.engine.miners[&miner];
        (miner.extranonce1.unwrap().len(), miner.extranonce2_size)
    }

    /// What the upstream gets of a miner's share on a job: the extranonce behind its prefix. Both hash the same.
    fn mined(&mut self, miner: PeerId, job: &Notified, prefix: &[u8]) -> Vec<u8> {
        self.frames.clear();
        let share = self.share(miner, job, |hash| meets(hash, &EASY));
        assert_eq!(self.line(miner, &share.submit()), [ACCEPTED]);
        let [(header, payload)] = &self.frames[..] else { panic!("not one share") };
        let Mining::SubmitSharesExtended(sent) = Mining::decode(header, payload).unwrap().0 else {
            panic!()
        };
        assert_eq!(upstream_header(&sent, prefix, 0x11, HARD), share.header);
        sent.extranonce.as_bytes().to_vec()
    }

    fn asked_for(&self) -> String {
        let (header, payload) = self.frames.last().expect("a request");
        let text = Mining::decode(header, payload).unwrap().0.to_string();
        text.rsplit_once("min_extranonce_size: ").unwrap().1.trim_end_matches(" }").to_owned()
    }

    fn refuse(&mut self, code: &str) {
        let (request_id, error_code) = (self.request_id(), Str0255::cut(code));
        self.say(&OpenMiningChannelError { request_id, error_code });
    }
}

#[test]
fn what_is_granted_is_enough_from_5_bytes_on() {
    for (grant, sizes) in [
        (5, (2, 3)),
        (6, (2, 4)),
        (7, (2, 4)),
        (8, (4, 4)),
        (11, (4, 4)),
        (12, (4, 8)),
        (16, (4, 8)),
        (32, (4, 8)),
    ] {
        let mut net = Net::of(&config("vardiff = false"));
        net.aggregated(&[]);
        net.arrive(MINER, "test/1");
        assert_eq!(net.asked_for(), "12", "the usual sizes");
        net.open(7, &PREFIX, grant);
        net.job(7, 1, None);
        assert!(net.closed.is_empty(), "perhaps it gives no work");
        net.tip(7, 1, 0x11, HARD);
        if grant < 12 {
            // Its sizes were said when it subscribed and cannot change.
            assert_eq!(net.closed, [(MINER, TOO_SMALL)], "{grant}");
            net.arrive(MINER, "test/1");
        }
        let second = PeerId(2);
        let told = net.arrive(second, "test/1");
        net.told(MINER);
        net.job(7, 2, Some(NTIME));
        for miner in [MINER, second] {
            assert_eq!(net.sizes(miner), sizes, "{grant}");
            let job = Notified::last(&net.told(miner));
            let extranonce = net.mined(miner, &job, &PREFIX);
            let extranonce1 = net.engine.miners[&miner].extranonce1.unwrap();
            let mut expected = [&extranonce1[..], &[7; 8][..sizes.1.into()]].concat();
            expected.resize(grant.into(), 0);
            assert_eq!(extranonce, expected, "{grant}");
        }
        let said: Value = serde_json::from_str(&told[0]).unwrap();
        let extranonce1 = said["result"][1].as_str().unwrap();
        assert_eq!((extranonce1.len(), &said["result"][2]), (2 * sizes.0, &sizes.1.into()));
        assert_ne!(extranonce1.trim_start_matches('0'), "", "none of zeroes");
    }
}

#[test]
fn less_than_5_bytes_are_of_no_use_to_anybody() {
    for grant in 0..5 {
        let mut net = Net::of(&config(""));
        net.aggregated(&[]);
        net.arrive(MINER, "test/1");
        net.open(7, &PREFIX, grant);
        assert_eq!(net.closed, [(net.upstream, "extranonce-too-small")], "{grant}");
        assert_eq!(net.next(), "backup.example");
        net.work_for(9, &OTHER, 12);
        assert_eq!(net.sizes(MINER), (4, 8), "miners stay for the next one");
        let job = Notified::last(&net.told(MINER));
        assert!(job.coinb1.ends_with(&OTHER));
        let metrics = net.metrics();
        let counted = r#"channel_errors_total{reason="extranonce-too-small"} 1"#;
        assert!(metrics.contains(counted), "{metrics}");
    }
}

#[test]
fn an_upstream_that_refuses_is_asked_for_less() {
    let mut net = Net::of(&config(""));
    net.aggregated(&[]);
    net.arrive(MINER, "test/1");
    for asked in ["12", "8", "6", "5"] {
        assert_eq!(net.asked_for(), asked);
        assert!(net.closed.is_empty());
        net.refuse("min-extranonce-size-too-large");
    }
    assert_eq!(net.closed, [(net.upstream, "extranonce-too-small")]);
    // Another reason is no matter of sizes.
    assert_eq!(net.next(), "backup.example");
    net.refuse("unknown-user");
    assert_eq!(net.closed[1], (net.upstream, "channel-refused"));

    // What it granted is remembered: who comes meanwhile has sizes that fit from the beginning.
    let mut net = Net::of(
        "channels = \"aggregated\"\n[miners]\nnominal_hash_rate = 1e6\nvardiff = false\n\
         [[upstream]]\nurl = \"stratum2+tcp://pool.example:34254\"\nuser_identity = \"farm\"",
    );
    net.aggregated(&[]);
    net.arrive(MINER, "test/1");
    net.refuse("min-extranonce-size-too-large");
    net.refuse("min-extranonce-size-too-large");
    net.work_for(7, &PREFIX, 6);
    assert_eq!(net.closed, [(MINER, TOO_SMALL)]);
    net.arrive(MINER, "test/1");
    net.lose();
    net.next();
    assert_eq!(net.asked_for(), "6");
    net.arrive(PeerId(2), "test/1");
    assert_eq!((net.sizes(MINER), net.sizes(PeerId(2))), ((2, 4), (2, 4)));
    net.told(MINER);
    net.work_for(8, &OTHER, 6);
    let job = Notified::last(&net.told(MINER));
    assert_eq!(net.mined(MINER, &job, &OTHER), [0, 2, 7, 7, 7, 7]);
    assert_eq!(net.closed.len(), 1);
}

#[test]
fn a_failover_to_less_room_drops_those_who_do_not_fit_and_no_one_else() {
    let (new, old) = (PeerId(1), PeerId(2));
    let mut net = Net::of(&config("vardiff = false"));
    net.aggregated(&[]);
    net.arrive(new, "test/1");
    net.arrive(old, OLD);
    net.work_for(7, &PREFIX, 12);
    assert_eq!((net.sizes(new), net.sizes(old)), ((4, 8), (4, 4)));
    assert!(net.closed.is_empty());
    net.lose();
    // Eight bytes: enough for one of the two.
    assert_eq!(net.next(), "backup.example");
    net.told(old);
    net.work_for(9, &OTHER, 8);
    assert_eq!(net.closed, [(new, TOO_SMALL)]);
    let job = Notified::last(&net.told(old));
    assert!(job.clean && job.coinb1.ends_with(&OTHER));
    assert_eq!(net.mined(old, &job, &OTHER).len(), 8);
    net.arrive(new, "test/1");
    assert_eq!(net.sizes(new), (4, 4));
    // Six: for none of them; both are back with less.
    net.lose();
    net.closed.clear();
    net.next();
    net.work_for(10, &PREFIX, 6);
    assert_eq!(net.closed, [(new, TOO_SMALL), (old, TOO_SMALL)]);
    net.arrive(new, "test/1");
    net.arrive(old, OLD);
    assert_eq!((net.sizes(new), net.sizes(old)), ((2, 4), (2, 4)));
    // Five: there is nothing for the old one, which is told so.
    net.lose();
    net.closed.clear();
    net.next();
    net.work_for(11, &OTHER, 5);
    net.arrive(new, "test/1");
    assert_eq!(net.sizes(new), (2, 3));
    net.closed.clear();
    let told = net.arrive(old, OLD);
    let text = "The pool grants too little extranonce for this firmware";
    assert_eq!(told, [format!(r#"{{"id":1,"result":null,"error":[20,"{text}",null]}}"#)]);
    assert_eq!(net.closed, [(old, TOO_SMALL)]);
    // More room again: whoever is there stays as it is, and shares the channel with those who come and have more.
    net.lose();
    net.closed.clear();
    net.next();
    net.told(new);
    net.work_for(12, &PREFIX, 16);
    net.arrive(old, OLD);
    net.arrive(PeerId(3), "test/1");
    net.told(old);
    net.job(12, 2, Some(NTIME));
    assert!(net.closed.is_empty());
    let mut extranonces = HashSet::new();
    for (miner, sizes) in [(new, (2, 3)), (old, (4, 4)), (PeerId(3), (4, 8))] {
        assert_eq!(net.sizes(miner), sizes);
        let job = Notified::last(&net.told(miner));
        let extranonce = net.mined(miner, &job, &PREFIX);
        assert_eq!(extranonce.len(), 16);
        assert!(extranonces.insert(extranonce[..2].to_vec()), "each has a number of its own");
    }
}

#[test]
fn a_better_upstream_with_less_room_is_gone_back_to_all_the_same() {
    let mut net = Net::of(&config("vardiff = false"));
    net.aggregated(&[]);
    net.arrive(MINER, "test/1");
    net.work_for(7, &PREFIX, 8);
    net.arrive(MINER, "test/1");
    net.lose();
    net.next();
    net.work_for(9, &OTHER, 12);
    net.closed.clear();
    net.arrive(PeerId(3), "test/1");
    assert_eq!((net.sizes(MINER), net.sizes(PeerId(3))), ((4, 4), (4, 8)));
    assert_eq!(net.next(), "pool.example");
    net.work_for(8, &PREFIX, 8);
    net.pass(Duration::from_secs(61));
    let dropped: Vec<_> = net.closed.iter().filter(|(_, reason)| *reason == TOO_SMALL).collect();
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert_eq!(dropped[0].0, PeerId(3));
    let job = Notified::last(&net.told(MINER));
    assert!(job.clean && job.coinb1.ends_with(&PREFIX));
}

#[test]
fn the_65_537th_miner_is_told_that_there_is_no_room() {
    let mut net = Net::of(&config("vardiff = false"));
    net.aggregated(&[]);
    net.arrive(MINER, "test/1");
    net.work_for(7, &PREFIX, 6);
    net.closed.clear();
    // As many as there can be, of which the first and the last one are looked at.
    net.arrive(MINER, "test/1");
    let first = net.engine.miners[&MINER].extranonce1.unwrap();
    let mut seen = HashSet::from([first.to_vec()]);
    while seen.len() < 65_535 {
        let slice = net.engine.core.slices.allocate(2).unwrap();
        assert!(seen.insert(slice.to_vec()));
    }
    let last = PeerId(2);
    net.arrive(last, "test/1");
    let slice = net.engine.miners[&last].extranonce1.unwrap();
    assert!(seen.insert(slice.to_vec()) && seen.len() == 65_536);
    net.told(last);
    net.job(7, 2, Some(NTIME));
    let job = Notified::last(&net.told(last));
    assert_eq!(
        net.mined(last, &job, &PREFIX),
        [0, 0, 7, 7, 7, 7],
        "the last one is that of zeroes"
    );
    assert!(net.closed.is_empty());

    let told = net.arrive(PeerId(3), "test/1");
    let text = "As many miners as can be are connected";
    assert_eq!(told, [format!(r#"{{"id":1,"result":null,"error":[20,"{text}",null]}}"#)]);
    assert_eq!(net.closed, [(PeerId(3), "no-extranonce-left")]);
    // When one leaves there is room, before the next tip.
    net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    net.arrive(PeerId(4), "test/1");
    assert_eq!(net.engine.miners[&PeerId(4)].extranonce1, Some(first));
    assert_eq!(net.closed.len(), 1);
}

#[test]
fn thousands_that_come_back_again_and_again_within_one_tip_use_up_nothing() {
    let mut net = Net::of(&config("vardiff = false"));
    net.aggregated(&[]);
    for _ in 0..70_000 {
        net.join(MINER);
        let told = net.line(MINER, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
        assert!(told[0].contains("mining.notify"), "{told:?}");
        net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    }
}

/// Hands in something, whatever it is worth.
fn hand_in(net: &mut Net, miner: PeerId) -> Vec<String> {
    let job = Notified::last(&net.told(miner));
    let id = u64::from_str_radix(&job.job_id, 16).unwrap();
    (0..3)
        .flat_map(|step| {
            let (id, ntime) = (id + 256 * step, job.ntime);
            net.line(miner, &format!(r#"{{"id":4,"method":"mining.submit","params":["w","{id:016x}","0000000000000000","{ntime:08x}","00000001"]}}"#))
        })
        .collect()
}

#[test]
fn a_miner_of_another_size_than_the_channel_was_asked_for_is_no_danger() {
    // A reload asks for larger sizes from now on: the channel there is has no room for them.
    let text = |size: u8| config(&format!("vardiff = false\nextranonce2_size = {size}"));
    let parse = |size| -> Config { parse_config(&text(size), Path::new("/nowhere")).unwrap() };
    let mut net = Net::of(&text(4));
    net.aggregated(&[]);
    net.arrive(MINER, "test/1");
    net.work_for(7, &PREFIX, 8);
    let mut running = parse(4);
    assert!(running.take_in(&parse(8)).to_string().contains("applied: miners"));
    net.engine.reload(&running, net.now, &mut net.out);
    net.drain();
    net.arrive(PeerId(2), "test/1");
    assert_eq!(net.sizes(PeerId(2)), (4, 4), "what there is room for");
    net.job(7, 2, Some(NTIME));
    assert_eq!(hand_in(&mut net, PeerId(2)).len(), 3);

    // The first upstream has room for less than the second, which is ready and has given no work yet.
    let mut net = Net::of(&text(8));
    net.aggregated(&[]);
    net.arrive(MINER, "test/1");
    net.refuse("min-extranonce-size-too-large");
    net.work_for(7, &PREFIX, 8);
    net.arrive(MINER, "test/1");
    net.arrive(PeerId(2), "test/1");
    net.job(7, 2, Some(NTIME));
    net.lose();
    assert_eq!(net.next(), "backup.example");
    net.arrive(PeerId(3), "test/1");
    assert_eq!(net.sizes(PeerId(3)), (4, 8));
    let job = Notified::last(&net.told(PeerId(2)));
    let id = job.job_id;
    for (miner, extranonce2) in [(2, "00000000"), (3, "0000000000000000")] {
        let line = format!(
            r#"{{"id":4,"method":"mining.submit","params":["w","{id}","{extranonce2}","{NTIME:08x}","00000001"]}}"#
        );
        assert_eq!(net.line(PeerId(miner), &line).len(), 1, "answered");
    }
    assert!(net.sent().iter().all(|(header, _)| header.msg_type != 0x1b), "no share goes anywhere");
}

/// Where each miner has a channel of its own: it comes anew until its sizes are what the upstream grants.
#[test]
fn a_miner_with_its_own_channel_is_served_from_5_bytes_on() {
    for (room, sizes) in [(5, (2, 3)), (6, (2, 4)), (7, (2, 4)), (8, (4, 4)), (11, (4, 4))] {
        for refuses in [true, false] {
            let mut net = Net::connected();
            let mut comes = 0;
            while net.engine.miners.get(&MINER).is_none_or(|miner| miner.channel.is_none()) {
                comes += 1;
                assert!(comes < 5, "{room}");
                net.frames.clear();
                net.arrive(MINER, "test/1");
                let asked: u16 = net.asked_for().parse().unwrap();
                match asked > room && refuses {
                    true => net.refuse("min-extranonce-size-too-large"),
                    false => net.open(7, &PREFIX, room),
                }
            }
            assert_eq!(net.sizes(MINER), sizes, "{room}");
            assert!(net.closed.iter().all(|closed| *closed == (MINER, TOO_SMALL)));
            net.work(7, 1, 0x11);
            let job = Notified::last(&net.told(MINER));
            let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
            assert!(extranonce1.iter().any(|byte| *byte != 0));
            let mut expected = [&extranonce1[..], &[7; 8][..sizes.1.into()]].concat();
            expected.resize(room.into(), 0);
            assert_eq!(net.mined(MINER, &job, &PREFIX), expected, "{room}");
        }
    }
    // Fewer are of no use, and it waits instead of coming and going.
    let mut net = Net::connected();
    for asked in ["12", "8", "6", "5"] {
        net.arrive(MINER, "test/1");
        assert_eq!(net.asked_for(), asked);
        net.refuse("min-extranonce-size-too-large");
    }
    assert_eq!(net.closed.len(), 3);
    assert_eq!(net.engine.miner_count(), 1);
}
