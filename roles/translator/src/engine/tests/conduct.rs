//! Miners that misbehave: each costs its own connection and nothing else.

use super::*;

/// A share that is refused: of no job that there ever was.
const NOTHING: &str = r#"{"id":4,"method":"mining.submit","params":["w","ffffffffffffffff","00","00000000","00000000"]}"#;

fn submits_nothing(net: &mut Net) -> Vec<String> {
    net.line(MINER, NOTHING)
}

#[test]
fn only_refused_shares_is_a_ladder() {
    for mode in MODES {
        climb(mode);
    }
}

fn climb(mode: Channels) {
    let mut net = Net::in_mode(mode, "", "");
    net.connect();
    net.subscribe(MINER, "cgminer/4.11.1");
    net.authorize(MINER, "x");
    net.open(7, &[1, 2, 3, 4], 12);
    net.work(7, 1, 0x11);
    let first = Notified::last(&net.told(MINER));
    let mut events = Vec::new();
    for second in (0..200).step_by(10) {
        for line in submits_nothing(&mut net) {
            if !line.contains("\"error\":[21,") {
                events.push((second, line));
            }
        }
        if !net.closed.is_empty() {
            events.push((second, net.closed[0].1.to_owned()));
            break;
        }
        net.pass(Duration::from_secs(10));
        net.told(MINER);
    }
    let [(60, job), (120, reconnect), (180, message), (180, closed)] = &events[..] else {
        panic!("{events:?}")
    };
    let job = Notified::parse(job);
    assert!(job.clean && job.job_id != first.job_id, "a fresh job, and none of the others");
    assert_eq!(reconnect, r#"{"id":null,"method":"client.reconnect","params":[]}"#);
    assert!(message.contains("client.show_message"));
    assert_eq!(closed, "only-refused-shares");
}

#[test]
fn one_good_share_ends_the_ladder() {
    for mode in MODES {
        stay_at_the_foot(mode);
    }
}

fn stay_at_the_foot(mode: Channels) {
    let mut net = Net::mining_in(mode);
    let mut job = Notified::last(&net.told(MINER));
    for second in 0..300 {
        submits_nothing(&mut net);
        net.pass(Duration::from_secs(1));
        if let Some(line) = net.told(MINER).iter().rev().find(|line| line.contains("notify")) {
            job = Notified::parse(line);
        }
        if second % 50 == 49 {
            let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
            let extranonce2 = [second as u8; 8];
            let mut shares = (0..)
                .map(|n| Found::new(&job, &extranonce1, &extranonce2, job.ntime, n, job.version));
            let share = shares.find(|share| meets(&share.hash, &EASY)).unwrap();
            assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
        }
    }
    assert!(net.closed.is_empty());
}

#[test]
fn each_rung_takes_its_time() {
    // A refused share, a long silence, and another: that is no reason to drop it at once.
    for mode in MODES {
        let mut net = Net::mining_in(mode);
        net.told(MINER);
        submits_nothing(&mut net);
        net.pass(Duration::from_secs(600));
        net.told(MINER);
        assert!(Notified::last(&submits_nothing(&mut net)).clean);
        assert_eq!(submits_nothing(&mut net).len(), 1);
        assert!(net.closed.is_empty());
    }
}

#[test]
fn a_flood_of_lines_costs_the_connection_that_floods() {
    for mode in MODES {
        let mut net = Net::mining_in(mode);
        let other = PeerId(2);
        net.join(other);
        let ping = r#"{"id":1,"method":"mining.ping","params":[]}"#;
        for _ in 0..1_000 {
            net.line(other, ping);
        }
        net.pass(Duration::from_secs(1));
        assert!(net.closed.is_empty(), "as much as is allowed");
        for _ in 0..1_001 {
            net.line(other, ping);
        }
        assert_eq!(net.closed, [(other, "too-many-lines")]);
        assert_eq!(net.engine.miner_count(), 1);
    }
}

#[test]
fn a_miner_that_says_nothing_any_more_is_let_go() {
    for mode in MODES {
        let mut net = Net::in_mode(mode, "", "idle_timeout_seconds = 600");
        net.connect();
        net.hello(MINER);
        net.open(7, &[1, 2, 3, 4], 12);
        net.work(7, 1, 0x11);
        net.pass(Duration::from_secs(595));
        assert!(net.closed.is_empty());
        net.line(MINER, r#"{"id":1,"method":"mining.ping","params":[]}"#);
        net.pass(Duration::from_secs(595));
        assert!(net.closed.is_empty(), "it said something");
        net.pass(Duration::from_secs(10));
        assert_eq!(net.closed, [(MINER, "idle")]);
    }
}

#[test]
fn firmware_that_answers_pings_is_asked_before_it_is_let_go() {
    let ping = r#"{"id":42,"method":"mining.ping","params":[]}"#;
    let cgminer = ("cgminer/4.11.1", r#"{"id": 42, "result": "pong", "error": null}"#);
    // ESP-Miner has its own idea of an answer.
    let bitaxe = ("bitaxe/BM1370/v2.6.0", r#"{"id": 42, "method": "pong", "params": []}"#);
    let cases = MODES.into_iter().flat_map(|mode| [(mode, cgminer), (mode, bitaxe)]);
    for (mode, (user_agent, pong)) in cases {
        let mut net = Net::in_mode(mode, "", "");
        net.connect();
        net.subscribe(MINER, user_agent);
        net.authorize(MINER, "x");
        net.open(7, &[1, 2, 3, 4], 12);
        net.work(7, 1, 0x11);
        for _ in 0..3 {
            net.told(MINER);
            net.pass(Duration::from_secs(905));
            let told = net.told(MINER);
            assert_eq!(told.iter().filter(|line| *line == ping).count(), 1, "{told:?}");
            assert!(net.line(MINER, pong).is_empty());
        }
        assert!(net.closed.is_empty());
        net.pass(Duration::from_secs(1_801));
        assert_eq!(net.closed, [(MINER, "idle")]);
    }
    // Others would not understand it.
    for mode in MODES {
        let mut net = Net::in_mode(mode, "", "");
        net.connect();
        net.subscribe(MINER, "NerdMinerV2");
        net.authorize(MINER, "x");
        net.pass(Duration::from_secs(1_000));
        assert!(net.told(MINER).is_empty());
    }
}

#[test]
fn job_ids_that_were_used_before_and_jobs_of_others() {
    let mut net = Net::mining();
    let mine = Notified::last(&net.told(MINER));
    let other = PeerId(2);
    net.hello(other);
    net.open(8, &[9, 9, 9, 9], 12);
    net.work(8, 1, 0x11);
    let theirs = Notified::last(&net.told(other));
    assert_ne!(mine.job_id, theirs.job_id, "no two jobs have one id, whosever they are");
    let share = net.share(MINER, &mine, |hash| meets(hash, &EASY));
    let stolen = Found { job_id: theirs.job_id, ..share.clone() };
    assert_eq!(net.line(MINER, &stolen.submit()), refused(21, "Stale job"));
    // The same work under a job of its own that came later: paid once.
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    net.pass(Duration::from_secs(50));
    let again = Notified::last(&net.told(MINER));
    let again = Found { job_id: again.job_id, ..share };
    assert_eq!(net.line(MINER, &again.submit()), refused(22, "Duplicate share"));
    assert_eq!(net.sent().len(), 1);
}

#[test]
fn repairs_are_counted_for_each_firmware() {
    let mut net = Net::connected();
    net.subscribe(MINER, "NerdMinerV2");
    net.authorize(MINER, "x");
    net.open(7, &[1, 2, 3, 4], 12);
    net.work(7, 1, 0x11);
    let job = Notified::last(&net.told(MINER));
    let line = format!(
        r#"{{"id":4,"method":"mining.submit","params":["w","{}"," 7070707070707070","{:x}","7"]}}"#,
        job.job_id, NTIME
    );
    net.line(MINER, &line);
    let text = net.metrics();
    for sample in [
        r#"translator_repairs_total{kind="short-nonce",firmware="nerdminer"} 1"#,
        r#"translator_firmware{firmware="nerdminer"} 1"#,
        r#"translator_firmware{firmware="unknown"} 0"#,
    ] {
        assert!(text.contains(sample), "{sample}\n{text}");
    }
}
