//! The difficulty that miners ask for, and what the upstream is told.

use super::*;

const FAMILIES: [(&str, bool); 4] = [
    ("cgminer/4.11.1", false),
    ("bmminer/2.0.0", false),
    ("bitaxe/BM1370/v2.6.0", true),
    ("NerdMinerV2", true),
];

/// Hashes per second at which difficulty 1 gives the 6 shares a minute that are expected.
const PER_DIFFICULTY: f32 = 4_294_967_296.0 / 10.0;

fn floor(difficulty: f64) -> [u8; 32] {
    target(difficulty)
}

#[test]
fn nothing_asked_is_what_the_configuration_says() {
    let mut net = Net::connected();
    net.subscribe(MINER, "cpuminer/2.5.1");
    net.authorize(MINER, "x");
    assert_eq!(net.asked(), (1e6, [0xff; 32]));
}

#[test]
fn options_in_the_password() {
    for (password, rate, max_target) in [
        ("d=1024", 1_024.0 * PER_DIFFICULTY, floor(1_024.0)),
        ("x,diff=2048", 2_048.0 * PER_DIFFICULTY, floor(2_048.0)),
        ("D=500000;stats", 500_000.0 * PER_DIFFICULTY, floor(500_000.0)),
        ("th=100", 1e14, [0xff; 32]),
        ("x th=0.5 d=16", 5e11, floor(16.0)),
        ("d=0.001", 0.001 * PER_DIFFICULTY, floor(0.001)),
        ("d=nan,th=-1", 1e6, [0xff; 32]),
    ] {
        let mut net = Net::connected();
        net.subscribe(MINER, "Antminer S19/1.0");
        assert_eq!(net.authorize(MINER, password), [r#"{"id":2,"result":true,"error":null}"#]);
        let (asked, asked_target) = net.asked();
        assert!((asked / rate - 1.0).abs() < 1e-6, "{password}: {asked} for {rate}");
        assert_eq!(asked_target, max_target, "{password}");
    }
}

#[test]
fn a_suggestion_before_the_hello_is_what_the_channel_begins_with() {
    // BFGMiner before it subscribes, with an id that wants no answer; ckpool's way of writing it.
    for line in [
        r#"{"id": null, "method": "mining.suggest_target", "params": ["000000000003fffc000000000000000000000000000000000000000000000000"]}"#,
        r#"{"id": null, "method": "mining.suggest_difficulty", "params": [16384]}"#,
        r#"{"id": null, "method": "mining.suggest_difficulty(16384)", "params": []}"#,
        r#"{"id": null, "method": "mining.suggest_difficulty", "params": ["16384"]}"#,
    ] {
        let mut net = Net::connected();
        net.join(MINER);
        assert!(net.line(MINER, line).is_empty(), "{line}");
        net.line(MINER, r#"{"id": 0, "method": "mining.subscribe", "params": ["bfgminer/5.4.2"]}"#);
        net.line(MINER, r#"{"id": "auth", "method": "mining.authorize", "params": ["a", "b"]}"#);
        assert_eq!(net.asked(), (16_384.0 * PER_DIFFICULTY, floor(16_384.0)), "{line}");
    }
}

#[test]
fn a_suggestion_of_a_miner_at_work_reaches_the_upstream_and_comes_back_with_a_job() {
    for (user_agent, answered) in FAMILIES {
        let mut net = Net::connected();
        net.subscribe(MINER, user_agent);
        net.authorize(MINER, "x");
        net.open(7, &[1, 2, 3, 4], 12);
        net.work(7, 1, 0x11);
        net.told(MINER);
        let line = r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [1000]}"#;
        let told = net.line(MINER, line);
        let answer = r#"{"id":3,"result":true,"error":null}"#;
        assert_eq!(told.iter().any(|line| line == answer), answered, "{user_agent}: {told:?}");
        assert!(!told.iter().any(|line| line.contains(r#""id":3"#)) || answered);
        if !answered {
            // Its difficulty as it is, and a job from which on it counts.
            assert!(told[0].contains("mining.set_difficulty") && told[1].contains("mining.notify"));
        }
        // Not more often than every few seconds, and only what is new.
        net.pass(Duration::from_secs(10));
        let (header, payload) = &net.frames[..][0];
        let update = Mining::decode(header, payload).unwrap().0.to_string();
        assert!(
            update.starts_with("UpdateChannel {") && update.contains("channel_id: 7"),
            "{update}"
        );
        assert_eq!(net.asked(), (1_000.0 * PER_DIFFICULTY, floor(1_000.0)));
        assert_eq!(net.sent().len(), 1);
        net.line(MINER, line);
        net.pass(Duration::from_secs(20));
        assert!(net.sent().is_empty(), "repeated as a keepalive it is no news");
        // The upstream follows.
        let maximum_target = floor(1_000.0);
        net.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target });
        net.told(MINER);
        net.job(7, 2, Some(NTIME + 1));
        let told = net.told(MINER);
        assert_eq!(told[0], r#"{"id":null,"method":"mining.set_difficulty","params":[1000]}"#);
        assert!(told[1].contains("mining.notify"));
    }
}

#[test]
fn one_that_changes_its_mind_all_the_time_is_no_reason_to_talk_all_the_time() {
    let mut net = Net::mining();
    net.sent();
    for second in 0..30 {
        let line = format!(
            r#"{{"id":3,"method":"mining.suggest_difficulty","params":[{}]}}"#,
            100 + second
        );
        net.line(MINER, &line);
        net.pass(Duration::from_secs(1));
    }
    let updates = net.sent().len();
    assert!((2..=7).contains(&updates), "{updates}");
}

#[test]
fn minimum_difficulty_as_vnish_asks_for_it() {
    let line = r#"{"id":1,"method":"mining.configure","params":[["version-rolling","minimum-difficulty","subscribe-extranonce"],{"version-rolling.mask":"1fffe000","version-rolling.min-bit-count":16,"minimum-difficulty.value":2048}]}"#;
    let granted = r#"{"id":1,"result":{"version-rolling":true,"version-rolling.mask":"1fffe000","minimum-difficulty":true,"subscribe-extranonce":true},"error":null}"#;
    let mut net = Net::connected();
    net.join(MINER);
    assert_eq!(net.line(MINER, line), [granted]);
    net.line(MINER, r#"{"id":2,"method":"mining.subscribe","params":["bmminer/2.0.0"]}"#);
    net.authorize(MINER, "x,d=512");
    // Both are lowest difficulties: the higher one counts.
    assert_eq!(net.asked(), (512.0 * PER_DIFFICULTY, floor(2_048.0)));
    // Without a number there is nothing to keep to, and it is said.
    let bare = r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"]]}"#;
    let refused = r#"{"id":1,"result":{"minimum-difficulty":false},"error":null}"#;
    assert_eq!(net.line(MINER, bare), [refused]);
}

#[test]
fn what_the_owner_wrote_goes_before_what_the_firmware_suggests() {
    let mut net = Net::connected();
    net.subscribe(MINER, "bitaxe/BM1370/v2.6.0");
    net.line(MINER, r#"{"id":3,"method":"mining.suggest_difficulty","params":[1000]}"#);
    net.authorize(MINER, "d=64");
    assert_eq!(net.asked(), (64.0 * PER_DIFFICULTY, floor(64.0)));
}

#[test]
fn listeners_make_of_it_what_they_say() {
    let listeners = "[[listen]]\nsuggested_difficulty = \"hint\"\n\
        [[listen]]\naddress = \"127.0.0.1:1\"\nsuggested_difficulty = \"ignore\"\nnominal_hash_rate = 5e12\n\
        [[listen]]\naddress = \"127.0.0.1:2\"\nmin_difficulty = 4096";
    let ask = |listener, suggestion: &str| {
        let mut net = Net::new(listeners);
        net.connect();
        let remote = "10.1.0.1:5000".parse().unwrap();
        let link = Link::Miner(listener);
        net.event(MINER, link, Event::Opened { remote });
        let minimum = r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":32}]}"#;
        for line in [minimum, r#"{"id":2,"method":"mining.subscribe","params":[]}"#, suggestion] {
            net.event(MINER, link, Event::Line(line.as_bytes()));
        }
        let kept = net.told(MINER)[0].contains(r#""minimum-difficulty":true"#);
        net.authorize(MINER, "x");
        let (rate, max_target) = net.asked();
        (rate, max_target, kept)
    };
    let suggestion = r#"{"id":null,"method":"mining.suggest_difficulty","params":[1000]}"#;
    assert_eq!(ask(0, suggestion), (1_000.0 * PER_DIFFICULTY, floor(32.0), true));
    assert_eq!(ask(1, suggestion), (5e12, [0xff; 32], false));
    assert_eq!(ask(2, suggestion), (1_000.0 * PER_DIFFICULTY, floor(4_096.0), true));
}

#[test]
fn a_lie_about_its_speed_is_its_own_trouble() {
    for (password, limit) in [("th=1e300", f32::MAX), ("d=1e300", f32::MAX), ("th=1e-300", 1.0)] {
        let mut net = Net::connected();
        net.subscribe(MINER, "liar/1");
        net.authorize(MINER, password);
        let (rate, max_target) = net.asked();
        assert!(rate.is_finite() && (1.0..=limit).contains(&rate), "{password}: {rate}");
        assert_ne!(max_target, [0; 32], "{password}");
    }
    // And a suggestion that is none is an error, not a difficulty.
    let mut net = Net::mining();
    for difficulty in ["0", "-1", "null", "1e999", "{}"] {
        let line =
            format!(r#"{{"id":4,"method":"mining.suggest_difficulty","params":[{difficulty}]}}"#);
        net.told(MINER);
        assert!(net.line(MINER, &line)[0].contains("\"error\":[20,"), "{line}");
    }
}

#[test]
fn a_miner_much_slower_than_was_assumed_is_found_out_by_its_silence() {
    // Assumed to be at 10^9 hashes a second; difficulty 1 is then a share every 4 seconds.
    let mut net = Net::with_miners("", "");
    net.connect();
    net.subscribe(MINER, "cpuminer/2.5.1");
    net.authorize(MINER, "th=0.001");
    net.open(7, &[1, 2, 3, 4], 12);
    net.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target: target(1.0) });
    net.work(7, 1, 0x11);
    net.sent();
    net.pass(Duration::from_secs(58));
    assert!(net.sent().is_empty());
    net.pass(Duration::from_secs(4));
    assert_eq!(net.asked(), (5e8, [0xff; 32]), "half of what was assumed");
    net.sent();
    net.pass(Duration::from_secs(60));
    assert_eq!(net.asked().0, 2.5e8);
    // The upstream makes it easier: one share is now expected in 17 minutes, so that silence says nothing any more.
    net.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target: target(64.0) });
    net.sent();
    net.pass(Duration::from_secs(180));
    assert!(net.sent().is_empty());
}

#[test]
fn a_miner_with_shares_is_left_to_the_upstream() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &job, |hash| meets(hash, &EASY));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    net.sent();
    net.pass(Duration::from_secs(600));
    assert!(net.sent().is_empty());
}

#[test]
fn firmware_has_a_lowest_difficulty_of_its_own() {
    let mut net = Net::new(
        "[[firmware]]\nname = \"big\"\nuser_agent = \"^bigminer\"\nmin_difficulty = 8192.0",
    );
    net.connect();
    net.subscribe(MINER, "BigMiner/1");
    net.authorize(MINER, "d=1");
    assert_eq!(net.asked().1, floor(8_192.0));
}
