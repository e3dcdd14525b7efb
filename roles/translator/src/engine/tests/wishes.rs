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

/// Above all that miners of these tests wish for: on the channel of all none is told more.
const HARDEST: f64 = 1e15;

fn floor(difficulty: f64) -> [u8; 32] {
    target(difficulty)
}

impl Net {
    fn connected_in(mode: Channels, more: &str) -> Self {
        let mut net = Self::in_mode(mode, more, "");
        net.connect();
        net
    }

    /// The difficulty that the miner begins with, and the lowest that it gets. With a channel of its own it is what the
    /// upstream is asked for; on the channel of all, what the miner is told in the course of a silent hour.
    fn wished(&mut self, mode: Channels) -> (f64, f64) {
        if mode == Channels::PerMiner {
            let (rate, max_target) = self.asked();
            let free = max_target == [0xff; 32];
            let floor = if free { 0.0 } else { Target::from_le_bytes(max_target).difficulty() };
            return (f64::from(rate / PER_DIFFICULTY).max(floor), floor);
        }
        self.open(7, &[1, 2, 3, 4], 12);
        let maximum_target = target(HARDEST);
        self.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target });
        self.work(7, 1, 0x11);
        let begins = self.told_difficulty().expect("a difficulty");
        let mut lowest = begins;
        for _ in 0..6 {
            self.pass(Duration::from_secs(600));
            lowest = self.told_difficulty().unwrap_or(lowest);
            self.line(MINER, r#"{"id":null,"method":"mining.ping","params":[]}"#);
        }
        (begins, if lowest < begins / 1_000.0 && lowest < 1.0 { 0.0 } else { lowest })
    }

    fn told_difficulty(&mut self) -> Option<f64> {
        let told = self.told(MINER);
        let line = told.iter().rev().find(|line| line.contains("set_difficulty"))?;
        let message: Value = serde_json::from_str(line).unwrap();
        message["params"][0].as_f64()
    }

    /// Fails unless the miner begins with such a difficulty and gets none below another.
    fn assert_wished(&mut self, mode: Channels, begins: f64, floor: f64, what: &str) {
        let wished = self.wished(mode);
        let close = |a: f64, b: f64| (a - b).abs() <= b * 1e-3;
        let right = close(wished.0, begins) && close(wished.1, floor);
        assert!(right, "{mode:?} {what}: {wished:?}, not {:?}", (begins, floor));
    }
}

#[test]
fn nothing_asked_is_what_the_configuration_says() {
    for mode in MODES {
        let mut net = Net::connected_in(mode, "");
        net.subscribe(MINER, "cpuminer/2.5.1");
        net.authorize(MINER, "x");
        assert_eq!(net.asked(), (1e6, [0xff; 32]));
        net.assert_wished(mode, 1e6 / f64::from(PER_DIFFICULTY), 0.0, "nothing");
    }
}

#[test]
fn options_in_the_password() {
    let per_difficulty = f64::from(PER_DIFFICULTY);
    let passwords = [
        ("d=1024", 1_024.0, 1_024.0),
        ("x,diff=2048", 2_048.0, 2_048.0),
        ("D=500000;stats", 500_000.0, 500_000.0),
        ("th=100", 1e14 / per_difficulty, 0.0),
        ("x th=0.5 d=16", 5e11 / per_difficulty, 16.0),
        ("d=0.001", 0.001, 0.001),
        ("d=nan,th=-1", 1e6 / per_difficulty, 0.0),
    ];
    for (mode, wish) in MODES.into_iter().flat_map(|mode| passwords.map(|wish| (mode, wish))) {
        let (password, begins, floor) = wish;
        let mut net = Net::connected_in(mode, "");
        net.subscribe(MINER, "Antminer S19/1.0");
        assert_eq!(net.authorize(MINER, password), [r#"{"id":2,"result":true,"error":null}"#]);
        net.assert_wished(mode, begins, floor, password);
    }
}

#[test]
fn a_suggestion_before_the_hello_is_what_the_channel_begins_with() {
    // BFGMiner before it subscribes, with an id that wants no answer; ckpool's way of writing it.
    let lines = [
        r#"{"id": null, "method": "mining.suggest_target", "params": ["000000000003fffc000000000000000000000000000000000000000000000000"]}"#,
        r#"{"id": null, "method": "mining.suggest_difficulty", "params": [16384]}"#,
        r#"{"id": null, "method": "mining.suggest_difficulty(16384)", "params": []}"#,
        r#"{"id": null, "method": "mining.suggest_difficulty", "params": ["16384"]}"#,
    ];
    for (mode, line) in MODES.into_iter().flat_map(|mode| lines.map(|line| (mode, line))) {
        let mut net = Net::connected_in(mode, "");
        net.join(MINER);
        assert!(net.line(MINER, line).is_empty(), "{line}");
        net.line(MINER, r#"{"id": 0, "method": "mining.subscribe", "params": ["bfgminer/5.4.2"]}"#);
        net.line(MINER, r#"{"id": "auth", "method": "mining.authorize", "params": ["a", "b"]}"#);
        net.assert_wished(mode, 16_384.0, 16_384.0, line);
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

/// On the channel of all the upstream is not asked: the miner is told within a second, with a job.
#[test]
fn a_suggestion_of_a_miner_on_the_channel_of_all_comes_back_with_a_job() {
    for (user_agent, answered) in FAMILIES {
        let mut net = Net::connected_in(Channels::Aggregated, "");
        net.subscribe(MINER, user_agent);
        net.authorize(MINER, "x");
        net.open(7, &[1, 2, 3, 4], 12);
        let maximum_target = target(HARDEST);
        net.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target });
        net.work(7, 1, 0x11);
        net.told(MINER);
        let line = r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [1000]}"#;
        let told = net.line(MINER, line);
        let answer = r#"{"id":3,"result":true,"error":null}"#;
        assert_eq!(told.iter().any(|line| line == answer), answered, "{user_agent}: {told:?}");
        if !answered {
            assert!(told[0].contains("mining.set_difficulty") && told[1].contains("mining.notify"));
        }
        net.pass(Duration::from_secs(2));
        let told = net.told(MINER);
        assert_eq!(told[0], r#"{"id":null,"method":"mining.set_difficulty","params":[1000]}"#);
        assert!(!Notified::parse(&told[1]).clean, "what it has done still counts");
        assert_eq!(told.len(), 2);
        net.line(MINER, line);
        net.pass(Duration::from_secs(20));
        assert!(net.told_difficulty().is_none(), "repeated as a keepalive it is no news");
    }
}

#[test]
fn one_that_changes_its_mind_all_the_time_is_no_reason_to_talk_all_the_time() {
    for mode in MODES {
        changes_its_mind(mode);
    }
}

fn changes_its_mind(mode: Channels) {
    let mut net = Net::mining_in(mode);
    net.pass(Duration::from_secs(6));
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
    let least = if mode == Channels::PerMiner { 2 } else { 0 };
    assert!((least..=7).contains(&updates), "{updates}");
}

#[test]
fn minimum_difficulty_as_vnish_asks_for_it() {
    let line = r#"{"id":1,"method":"mining.configure","params":[["version-rolling","minimum-difficulty","subscribe-extranonce"],{"version-rolling.mask":"1fffe000","version-rolling.min-bit-count":16,"minimum-difficulty.value":2048}]}"#;
    let granted = r#"{"id":1,"result":{"version-rolling":true,"version-rolling.mask":"1fffe000","minimum-difficulty":true,"subscribe-extranonce":true},"error":null}"#;
    for mode in MODES {
        let mut net = Net::connected_in(mode, "");
        net.join(MINER);
        assert_eq!(net.line(MINER, line), [granted]);
        net.line(MINER, r#"{"id":2,"method":"mining.subscribe","params":["bmminer/2.0.0"]}"#);
        net.authorize(MINER, "x,d=512");
        // Both are lowest difficulties: the higher one counts.
        net.assert_wished(mode, 2_048.0, 2_048.0, "both");
    }
    let mut net = Net::connected();
    net.join(MINER);
    // Without a number there is nothing to keep to, and it is said.
    let bare = r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"]]}"#;
    let refused = r#"{"id":1,"result":{"minimum-difficulty":false},"error":null}"#;
    assert_eq!(net.line(MINER, bare), [refused]);
}

#[test]
fn what_the_owner_wrote_goes_before_what_the_firmware_suggests() {
    for mode in MODES {
        let mut net = Net::connected_in(mode, "");
        net.subscribe(MINER, "bitaxe/BM1370/v2.6.0");
        net.line(MINER, r#"{"id":3,"method":"mining.suggest_difficulty","params":[1000]}"#);
        net.authorize(MINER, "d=64");
        net.assert_wished(mode, 64.0, 64.0, "the owner's");
    }
}

#[test]
fn listeners_make_of_it_what_they_say() {
    let listeners = "[[listen]]\nsuggested_difficulty = \"hint\"\n\
        [[listen]]\naddress = \"127.0.0.1:1\"\nsuggested_difficulty = \"ignore\"\nnominal_hash_rate = 5e12\n\
        [[listen]]\naddress = \"127.0.0.1:2\"\nmin_difficulty = 4096";
    let ask = |mode, listener, suggestion: &str| {
        let mut net = Net::connected_in(mode, listeners);
        let remote = "10.1.0.1:5000".parse().unwrap();
        let link = Link::Miner(listener);
        net.event(MINER, link, Event::Opened { remote });
        let minimum = r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":32}]}"#;
        for line in [minimum, r#"{"id":2,"method":"mining.subscribe","params":[]}"#, suggestion] {
            net.event(MINER, link, Event::Line(line.as_bytes()));
        }
        let kept = net.told(MINER)[0].contains(r#""minimum-difficulty":true"#);
        net.authorize(MINER, "x");
        (net, kept)
    };
    let suggestion = r#"{"id":null,"method":"mining.suggest_difficulty","params":[1000]}"#;
    for mode in MODES {
        for (listener, begins, floor, kept) in [
            (0, 1_000.0, 32.0, true),
            (1, 5e12 / f64::from(PER_DIFFICULTY), 0.0, false),
            (2, 4_096.0, 4_096.0, true),
        ] {
            let (mut net, said) = ask(mode, listener, suggestion);
            assert_eq!(said, kept, "{listener}");
            net.assert_wished(mode, begins, floor, suggestion);
        }
    }
}

#[test]
fn a_lie_about_its_speed_is_its_own_trouble() {
    for (password, limit) in [("th=1e300", f32::MAX), ("d=1e300", f32::MAX), ("th=1e-300", 1.0)] {
        for mode in MODES {
            let mut net = Net::connected_in(mode, "");
            net.subscribe(MINER, "liar/1");
            net.authorize(MINER, password);
            let (rate, max_target) = net.asked();
            // All others would have to bear what the channel of all becomes by it: before there are shares it is taken
            // to be no faster than any other.
            let limit = if mode == Channels::Aggregated { limit.min(1e6) } else { limit };
            assert!(rate.is_finite() && (1.0..=limit).contains(&rate), "{password}: {rate}");
            assert_ne!(max_target, [0; 32], "{password}");
            let (begins, _) = net.wished(mode);
            assert!(begins.is_finite() && begins > 0.0, "{password}: {begins}");
        }
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
    let more = "[[firmware]]\nname = \"big\"\nuser_agent = \"^bigminer\"\nmin_difficulty = 8192.0";
    for mode in MODES {
        let mut net = Net::connected_in(mode, more);
        net.subscribe(MINER, "BigMiner/1");
        net.authorize(MINER, "d=1");
        net.assert_wished(mode, 8_192.0, 8_192.0, "firmware");
    }
}
