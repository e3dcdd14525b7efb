//! What miners say first, with their own bytes.

use super::*;

#[test]
fn minerd() {
    let mut net = Net::connected();
    net.join(MINER);
    let told =
        net.line(MINER, r#"{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}"#);
    assert_eq!(
        told,
        [
            r#"{"id":1,"result":[[["mining.set_difficulty","00000001"],["mining.notify","00000001"]],"00000001",8],"error":null}"#
        ]
    );
    assert!(net.frames.is_empty(), "no channel before the user is known");
    let told = net.line(MINER, r#"{"id": 2, "method": "mining.authorize", "params": ["", ""]}"#);
    assert_eq!(told, [r#"{"id":2,"result":true,"error":null}"#], "answered without the upstream");
    let [open] = &net.sent_text()[..] else { panic!() };
    assert!(open.starts_with("OpenExtendedMiningChannel {"), "{open}");
    assert!(open.contains("anonymous") && open.contains("min_extranonce_size: 12"), "{open}");
    // Its answer to client.get_version, which nobody asked.
    let version = r#"{"id": 7, "error": null, "result": "cpuminer/2.5.1"}"#;
    assert!(net.line(MINER, version).is_empty());
    // A share for a job of the pool it was at before.
    let share = r#"{"method": "mining.submit", "params": ["", "1", "00000000", "6b00f646", "3e2c0900"], "id":4}"#;
    assert_eq!(net.line(MINER, share), refused(21, "Job not found"));
}

#[test]
fn minerd_comes_back_with_its_old_session() {
    let mut net = Net::connected();
    net.join(MINER);
    let line =
        r#"{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1", "00000009"]}"#;
    assert!(net.line(MINER, line)[0].contains(r#""00000001",8]"#));
}

#[test]
fn cgminer_configures_first_and_gets_work_right_after_its_authorisation() {
    let mut net = Net::connected();
    net.join(MINER);
    let line = r#"{"id": 0, "method": "mining.configure", "params": [["version-rolling"], {"version-rolling.mask": "ffffffff"}]}"#;
    let configured = r#"{"id":0,"result":{"version-rolling":true,"version-rolling.mask":"1fffe000"},"error":null}"#;
    assert_eq!(net.line(MINER, line), [configured]);
    let line = r#"{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11.1"]}"#;
    assert_eq!(net.line(MINER, line).len(), 1);
    let line = r#"{"id": 2, "method": "mining.authorize", "params": ["farm.rig1", "x"]}"#;
    assert_eq!(net.line(MINER, line), [r#"{"id":2,"result":true,"error":null}"#]);
    net.open(7, &[1, 2, 3, 4], 12);
    assert!(net.told(MINER).is_empty(), "nothing to say before there is work");
    net.work(7, 1, 0x11);
    let told = net.told(MINER);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("mining.set_difficulty"));
    let job = Notified::parse(&told[1]);
    assert!(job.clean);
    assert_eq!((job.version, job.nbits, job.ntime), (0x2000_0000, HARD, NTIME));
    // cgminer counts answers as those to shares: it hears its difficulty instead, and a job from which on it counts.
    let line = r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [64]}"#;
    let told = net.line(MINER, line);
    assert!(told.len() == 2 && told[0].contains("mining.set_difficulty"), "{told:?}");
    let again = Notified::parse(&told[1]);
    assert!(again.job_id != job.job_id && !again.clean);
    // Again and again, as firmware that keeps its connection alive with it: that is no news.
    assert!(net.line(MINER, line).is_empty());
}

#[test]
fn esp_miner_does_not_wait_for_answers() {
    let mut net = Net::connected();
    net.join(MINER);
    let hello = [
        r#"{"id": 1, "method": "mining.configure", "params": [["version-rolling"], {"version-rolling.mask": "ffffffff"}]}"#,
        r#"{"id": 2, "method": "mining.subscribe", "params": ["bitaxe/BM1368/v2.4.1"]}"#,
        r#"{"id": 3, "method": "mining.authorize", "params": ["bc1q.bitaxe", "x"]}"#,
        r#"{"id": 4, "method": "mining.suggest_difficulty", "params": [1000]}"#,
        r#"{"id": 5, "method": "mining.extranonce.subscribe", "params": []}"#,
    ];
    for line in hello {
        net.event(MINER, Link::Miner(0), Event::Line(line.as_bytes()));
    }
    let told = net.told(MINER);
    assert_eq!(told.len(), 5, "{told:?}");
    for (id, line) in told.iter().enumerate() {
        assert!(line.starts_with(&format!(r#"{{"id":{},"#, id + 1)), "{line}");
    }
    net.open(7, &[1, 2, 3, 4], 12);
    net.work(7, 1, 0x11);
    assert!(net.told(MINER)[1].contains("mining.notify"));
}

#[test]
fn authorize_before_subscribe_and_configure_last() {
    let mut net = Net::connected();
    net.join(MINER);
    let authorize = r#"{"id":"auth","method":"mining.authorize","params":["a"]}"#;
    assert_eq!(net.line(MINER, authorize), [r#"{"id":"auth","result":true,"error":null}"#]);
    assert!(net.frames.is_empty());
    net.line(MINER, r#"{"id":2,"method":"mining.subscribe","params":[]}"#);
    net.open(7, &[1, 2, 3, 4], 12);
    let configure = r#"{"id":3,"method":"mining.configure","params":[["version-rolling","minimum-difficulty","info","x"],{"version-rolling.mask":"1fffffff","minimum-difficulty.value":2048}]}"#;
    let answer = r#"{"id":3,"result":{"version-rolling":true,"version-rolling.mask":"1fffe000","minimum-difficulty":true,"info":true,"x":false},"error":null}"#;
    assert_eq!(net.line(MINER, configure), [answer]);
    // A second user is welcome, and a second subscription is the first one.
    let again = r#"{"id":4,"method":"mining.authorize","params":["b","x"]}"#;
    assert_eq!(net.line(MINER, again), [r#"{"id":4,"result":true,"error":null}"#]);
    let again = net.line(MINER, r#"{"id":5,"method":"mining.subscribe","params":[]}"#);
    assert!(again[0].contains(r#""00000001",8]"#), "{again:?}");
    assert!(net.frames.is_empty(), "still one channel");
    assert_eq!(net.engine.miners[&MINER].user.as_deref(), Some("a"));
}

#[test]
fn ids_are_echoed_and_their_absence_is_silence() {
    let mut net = Net::connected();
    net.join(MINER);
    for (line, answer) in [
        (
            r#"{"id":"txlist1","method":"mining.get_transactions","params":["1"]}"#,
            r#"{"id":"txlist1","result":[],"error":null}"#,
        ),
        (r#"{"id":[1],"method":"mining.ping"}"#, r#"{"id":[1],"result":"pong","error":null}"#),
        (
            r#"{"id":1,"method":"mining.multi_version","params":[4]}"#,
            r#"{"id":1,"result":null,"error":[20,"Use mining.configure",null]}"#,
        ),
        (
            r#"{"id":9,"method":"mining.what","params":[]}"#,
            r#"{"id":9,"result":null,"error":[-3,"Method not found",null]}"#,
        ),
        (
            r#"{"id":9,"method":"mining.suggest_difficulty","params":[0.00015]}"#,
            r#"{"id":9,"result":true,"error":null}"#,
        ),
        (
            r#"{"id":9,"method":"mining.suggest_difficulty","params":["x"]}"#,
            r#"{"id":9,"result":null,"error":[20,"malformed difficulty",null]}"#,
        ),
    ] {
        assert_eq!(net.line(MINER, line), [answer], "{line}");
    }
    // BFGMiner, before it subscribes.
    for line in [
        r#"{"id":null,"method":"mining.suggest_target","params":["00000000ffff0000000000000000000000000000000000000000000000000000"]}"#,
        r#"{"id":null,"method":"mining.capabilities","params":[{}]}"#,
        r#"{"method":"mining.what","params":[]}"#,
        r#"{"id":null,"method":"mining.subscribe","params":[]}"#,
        r#"{"id":5,"method":"pong","params":[]}"#,
        "",
    ] {
        assert!(net.line(MINER, line).is_empty(), "{line}");
    }
    assert!(net.closed.is_empty());
}

#[test]
fn users_that_cannot_be_passed_on() {
    let mut net = Net::connected();
    net.join(MINER);
    net.line(MINER, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
    let long =
        format!(r#"{{"id":4,"method":"mining.authorize","params":["{}"]}}"#, "u".repeat(192));
    assert_eq!(net.line(MINER, &long), refused(24, "User name too long"));
    assert!(net.frames.is_empty());
    let fits = format!(
        r#"{{"id":4,"method":"mining.authorize","params":["{}","th=100"]}}"#,
        "u".repeat(191)
    );
    assert_eq!(net.line(MINER, &fits), [ACCEPTED]);
    let [open] = &net.sent_text()[..] else { panic!() };
    assert!(open.contains("nominal_hash_rate: 100000000000000"), "as the password says: {open}");
}

#[test]
fn garbage_costs_the_connection_and_nothing_else() {
    let mut net = Net::mining();
    for (peer, line) in [(PeerId(2), "GET / HTTP/1.1"), (PeerId(3), "\u{16}\u{3}\u{1}hello")] {
        net.join(peer);
        assert!(net.line(peer, line).is_empty());
        assert_eq!(net.closed.pop(), Some((peer, "not-stratum")));
    }
    net.told(MINER);
    // One broken line of a miner that is known is forgiven, many are not.
    for bad in 1..=10 {
        assert_eq!(net.closed.len(), 0, "{bad}");
        assert!(net.line(MINER, r#"{"id":01,"method":"mining.ping","params":[]}"#).is_empty());
    }
    assert_eq!(net.closed, [(MINER, "too-many-bad-lines")]);
    assert_eq!(net.engine.miner_count(), 0);
}

#[test]
fn silence_is_not_waited_for_for_ever() {
    let mut net = Net::connected();
    net.join(MINER);
    net.join(PeerId(2));
    net.line(MINER, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
    net.pass(Duration::from_secs(59));
    assert!(net.closed.is_empty());
    net.pass(Duration::from_secs(2));
    net.closed.sort_unstable();
    assert_eq!(net.closed, [(MINER, "no-hello"), (PeerId(2), "no-hello")]);
    assert_eq!(net.engine.miner_count(), 0);
}
