//! From one upstream to the next, and back. Miners stay, and each of their shares is answered.

use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{OpenMiningChannelError, SubmitSharesSuccess};

use super::*;

const TWO: &str = "[[upstream]]\nurl = \"stratum2+tcp://backup.example:34254\"\n\
                   [failover]\nreturn_after_seconds = 60";
const BACKUP_PREFIX: &[u8] = &[0xb0, 0xb1, 0xb2, 0xb3];
const SECOND: Duration = Duration::from_secs(1);

fn easy(hash: &[u8; 32]) -> bool {
    meets(hash, &EASY)
}

/// A miner that works for the first of two upstreams.
fn two() -> Net {
    let mut net = Net::new(TWO);
    net.connect();
    net.hello(MINER);
    net.open(7, &[0xa0, 0xa1, 0xa2, 0xa3], 12);
    net.work(7, 1, 0x11);
    net
}

/// The same, with the first one lost and the second worked for.
fn on_the_second() -> Net {
    let mut net = two();
    net.lose();
    assert_eq!(net.dial_and_say_hello(), "backup.example");
    net.open(3, BACKUP_PREFIX, 12);
    net.work(3, 40, 0x11);
    net.told(MINER);
    net
}

impl Net {
    fn dial_and_say_hello(&mut self) -> String {
        let dial = self.reach();
        self.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        dial.target.host
    }

    fn found_on(&mut self, job: &Notified) -> Vec<String> {
        self.told(MINER);
        let share = self.share(MINER, job, easy);
        self.line(MINER, &share.submit())
    }

    fn works_for(&self) -> String {
        self.engine.status(self.now)["upstream"]["address"].as_str().unwrap().to_owned()
    }
}

#[test]
fn the_next_upstream_is_a_clean_job_and_the_first_is_gone_back_to_when_it_is_well() {
    let mut net = two();
    let first = Notified::last(&net.told(MINER));
    assert_eq!(net.found_on(&first), [ACCEPTED]);
    net.lose();
    // The next one is dialled at once.
    assert_eq!(net.dial_and_say_hello(), "backup.example");
    net.open(3, BACKUP_PREFIX, 12);
    net.work(3, 40, 0x11);
    let told = net.told(MINER);
    let second = Notified::last(&told);
    assert!(second.clean && second.coinb1.ends_with(BACKUP_PREFIX), "{told:?}");
    assert_eq!(net.found_on(&second), [ACCEPTED]);
    let backup = net.upstream;
    net.frames.clear();

    // Meanwhile the first is tried; once it is there it must show for a minute that it gives work.
    for _ in 0..3 {
        assert_eq!(net.fail_dial().target.host, "pool.example");
    }
    assert_eq!(net.dial_and_say_hello(), "pool.example");
    assert_eq!(net.frames.len(), 1, "a channel to look at");
    net.open(70, &[0xa0, 0xa1, 0xa2, 0xa4], 12);
    net.work(70, 5, 0x11);
    net.pass(40 * SECOND);
    net.job(70, 6, None);
    assert!(net.told(MINER).iter().all(|line| !line.contains("a0a1a2a4")));
    assert_eq!(net.works_for(), "backup.example:34254");
    let before = Notified { ntime: NTIME + 1, ..second };
    assert_eq!(net.found_on(&before), [ACCEPTED]);
    net.frames.clear();

    net.pass(21 * SECOND);
    assert_eq!(net.works_for(), "pool.example:34254");
    let told = net.sent_text();
    assert!(told[0].starts_with("CloseChannel { channel_id: 70"), "{told:?}");
    assert!(told[1].starts_with("OpenExtendedMiningChannel"), "{told:?}");
    // Until it gives work, shares go where the work came from.
    let before = Notified { ntime: NTIME + 2, ..before };
    assert_eq!(net.found_on(&before), [ACCEPTED]);
    let [share] = &net.sent_text()[..] else { panic!("not one share") };
    assert!(share.starts_with("SubmitSharesExtended { channel_id: 3"), "{share}");
    let request_id = net.engine.upstream.requests.keys().copied().next().unwrap();
    net.say(&OpenExtendedMiningChannelSuccess {
        request_id,
        channel_id: 71,
        target: EASY,
        extranonce_size: 12,
        extranonce_prefix: B032::new(&[0xa0, 0xa1, 0xa2, 0xa5]).unwrap(),
        group_channel_id: 1,
    });
    net.work(71, 7, 0x11);
    let third = Notified::last(&net.told(MINER));
    assert!(third.clean && third.coinb1.ends_with(&[0xa0, 0xa1, 0xa2, 0xa5]));
    assert_eq!(net.found_on(&before), refused(21, "Stale job"));
    assert_eq!(net.found_on(&third), [ACCEPTED]);
    // The backup is left once it has answered, or after a while.
    assert!(net.closed.is_empty());
    net.pass(11 * SECOND);
    assert_eq!(net.closed, [(backup, "left-for-another")]);
    assert_eq!(net.totals().no_upstream, 0, "every share had somewhere to go");
    assert_eq!(net.engine.miner_count(), 1);
}

#[test]
fn an_upstream_that_comes_and_goes_is_not_gone_back_to() {
    let mut net = on_the_second();
    for _ in 0..3 {
        assert_eq!(net.dial_and_say_hello(), "pool.example");
        net.open(70, &[1; 4], 12);
        net.work(70, 5, 0x11);
        net.pass(50 * SECOND);
        net.lose();
        assert_eq!(net.works_for(), "backup.example:34254");
    }
    // Nor is one that gives no work, or none that can be used.
    net.dial_and_say_hello();
    net.open(70, &[1; 4], 12);
    net.pass(31 * SECOND);
    assert_eq!(net.closed, [(net.upstream, "no-work")]);
    net.dial_and_say_hello();
    net.open(70, &[1; 4], 12);
    net.tip(70, 99, 0x22, HARD);
    assert_eq!(net.closed[1], (net.upstream, "prevhash-for-unknown-job"));
    assert_eq!(net.works_for(), "backup.example:34254");
    assert!(net.engine.miners[&MINER].channel.is_some());
}

#[test]
fn a_better_upstream_that_is_there_takes_over_when_the_other_is_lost() {
    let mut net = on_the_second();
    let backup = net.upstream;
    assert_eq!(net.dial_and_say_hello(), "pool.example");
    net.open(70, &[1; 4], 12);
    net.work(70, 5, 0x11);
    net.frames.clear();
    let first = std::mem::replace(&mut net.upstream, backup);
    net.upstream_event(Event::Closed("gone"));
    net.upstream = first;
    assert_eq!(net.works_for(), "pool.example:34254");
    let told = net.sent_text();
    assert!(told.iter().any(|frame| frame.starts_with("OpenExtendedMiningChannel")), "{told:?}");
}

#[test]
fn an_upstream_that_falls_silent_is_left() {
    let mut net = two();
    net.pass(299 * SECOND);
    assert!(net.closed.is_empty());
    net.job(7, 2, Some(NTIME));
    net.pass(299 * SECOND);
    assert!(net.closed.is_empty());
    net.pass(2 * SECOND);
    assert_eq!(net.closed, [(net.upstream, "silent")]);
    assert_eq!(net.dial_and_say_hello(), "backup.example");
    assert_eq!(net.engine.miner_count(), 1);
}

#[test]
fn an_upstream_that_does_not_acknowledge_shares_is_left() {
    let mut net = two();
    let job = Notified::last(&net.told(MINER));
    let mut ntime = NTIME;
    let mut find = |net: &mut Net| {
        ntime += 1;
        assert_eq!(net.found_on(&Notified { ntime, ..job.clone() }), [ACCEPTED]);
    };
    find(&mut net);
    find(&mut net);
    for step in 0..5 {
        net.pass(100 * SECOND);
        net.job(7, 10 + step, Some(NTIME));
        if step == 1 {
            // One answer is enough for the time to begin anew.
            net.say(&SubmitSharesSuccess {
                channel_id: 7,
                last_sequence_number: 0,
                new_submits_accepted_count: 1,
                new_shares_sum: 1,
            });
        }
        assert_eq!(net.closed.is_empty(), step < 4, "after {step}");
    }
    assert_eq!(net.closed, [(net.upstream, "no-acknowledgements")]);
    assert_eq!(net.totals().unanswered, 1);
    assert_eq!(net.dial_and_say_hello(), "backup.example");
}

#[test]
fn an_upstream_that_gives_no_work_or_no_channel_is_left() {
    let mut net = Net::new(TWO);
    net.connect();
    net.hello(MINER);
    net.open(7, &[1; 4], 12);
    net.pass(31 * SECOND);
    assert_eq!(net.closed, [(net.upstream, "no-work")]);

    let mut net = Net::new(TWO);
    net.connect();
    net.hello(MINER);
    for _ in 0..4 {
        if net.frames.is_empty() {
            break;
        }
        let request_id = net.request_id();
        let error_code = Str0255::cut("unknown-user");
        net.say(&OpenMiningChannelError { request_id, error_code });
        net.pass(5 * SECOND);
    }
    assert_eq!(net.closed, [(net.upstream, "refuses-channels")]);
    assert_eq!(net.dial_and_say_hello(), "backup.example");
}

#[test]
fn an_upstream_at_fault_is_left_alone_for_a_while() {
    let mut net = two();
    net.tip(7, 99, 0x22, HARD);
    assert_eq!(net.closed, [(net.upstream, "prevhash-for-unknown-job")]);
    assert_eq!(net.fail_dial().target.host, "backup.example");
    let begun = net.now;
    loop {
        let dial = net.fail_dial();
        if dial.target.host == "pool.example" {
            break;
        }
    }
    let waited = net.now.instant - begun.instant;
    assert!((55..65).contains(&waited.as_secs()), "{waited:?}");
}

#[test]
fn a_coinbase_that_does_not_pay_the_expected_address_is_not_mined() {
    let mut net = Net::new(&format!("verify_payout = \"{ADDRESS}\"\n{TWO}"));
    net.connect();
    net.hello(MINER);
    net.open(7, &[1; 4], 12);
    net.job(7, 1, None);
    assert_eq!(net.closed, [(net.upstream, "payout-not-ours")]);
    assert!(net.told(MINER).is_empty());
    assert_eq!(net.dial_and_say_hello(), "backup.example");
}

const ADDRESS: &str = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202";

#[test]
fn a_changed_configuration_does_not_touch_miners() {
    let parse = |upstreams: &[&str], keepalive: u8| -> Config {
        let upstreams: String = upstreams
            .iter()
            .map(|host| format!("[[upstream]]\nurl = \"stratum2+tcp://{host}.example:34254\"\n"))
            .collect();
        let more = format!("[miners]\nkeepalive_notify_seconds = {keepalive}\nworker_metrics = 3");
        parse_config(&format!("{upstreams}{more}"), Path::new("/nowhere")).unwrap()
    };
    let mut net = two();
    let mut running = parse(&["pool", "backup"], 45);
    let reload = |net: &mut Net, running: &mut Config, new: &Config| {
        let changes = running.take_in(new).to_string();
        net.engine.reload(running, net.now, &mut net.out);
        net.drain();
        changes
    };
    let unchanged = running.clone();
    assert_eq!(reload(&mut net, &mut running, &unchanged), "nothing has changed");
    let mut new = parse(&["pool", "backup", "third"], 30);
    new.listen.push(crate::config::Listen::default());
    new.miners.worker_metrics = 4;
    let changes = reload(&mut net, &mut running, &new);
    let expected = "applied: miners, upstream; needs a restart: listen, miners.worker_metrics";
    assert_eq!(changes, expected);
    assert!(net.closed.is_empty() && net.engine.miners[&MINER].channel.is_some());
    net.told(MINER);
    net.pass(31 * SECOND);
    assert_eq!(net.told(MINER).len(), 1, "the new keepalive");
    // What could not be taken in is said again.
    assert!(reload(&mut net, &mut running, &new).starts_with("needs a restart: listen"));

    // One that goes before the present one is tried and, when it is well, worked for.
    reload(&mut net, &mut running, &parse(&["new", "pool"], 30));
    assert_eq!(net.works_for(), "pool.example:34254");
    assert_eq!(net.fail_dial().target.host, "new.example");
    // One that is not in the list any more is left; shares go there until there is other work.
    reload(&mut net, &mut running, &parse(&["new"], 30));
    let leaving = net.engine.miners[&MINER].leaving.as_ref().map(|channel| channel.id);
    assert_eq!(leaving, Some(7));
    net.pass(11 * SECOND);
    assert_eq!(net.closed, [(net.upstream, "left-for-another")]);
    assert_eq!(net.engine.miner_count(), 1);
}

#[test]
fn an_upstream_that_is_only_looked_at_closes_no_channel_of_the_other() {
    let mut net = on_the_second();
    let backup = net.upstream;
    assert_eq!(net.dial_and_say_hello(), "pool.example");
    net.open(70, &[1; 4], 12);
    net.sent();
    // It opens one that nobody asked for, under the number of the one that is worked on.
    net.say(&OpenExtendedMiningChannelSuccess {
        request_id: 99,
        channel_id: 3,
        target: EASY,
        extranonce_size: 12,
        extranonce_prefix: B032::new(&[1; 4]).unwrap(),
        group_channel_id: 1,
    });
    let candidate = net.upstream;
    assert_ne!(candidate, backup);
    let [told] = &net.sent_text()[..] else { panic!("not one frame") };
    assert!(told.starts_with("CloseChannel { channel_id: 3"), "{told}");
    assert_eq!(net.sent_to, candidate, "the one that opened it");
}

#[test]
fn an_upstream_that_is_taken_out_of_the_configuration_is_not_shown_as_connected() {
    let mut net = two();
    assert!(net.counted(r#"upstream{address="pool.example:34254"} 1"#), "{}", net.metrics());
    let text = "[[upstream]]\nurl = \"stratum2+tcp://other.example:34254\"\n";
    let new: Config = parse_config(text, Path::new("/nowhere")).unwrap();
    net.engine.reload(&new, net.now, &mut net.out);
    net.drain();
    assert!(net.counted(r#"upstream{address="pool.example:34254"} 0"#), "{}", net.metrics());
    assert!(net.counted(r#"upstream{address="other.example:34254"} 0"#));
}
