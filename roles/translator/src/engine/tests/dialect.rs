//! What the reference on real miners asks of a translator beyond the hello, with the bytes they send.

use super::*;

/// A job whose coinbase has this many bytes in all, with the channel's extranonce of 16.
fn long_work(net: &mut Net, channel: u32, tip: u8, coinbase: usize) {
    let suffix = vec![0; coinbase - COINBASE_PREFIX.len() - 16];
    net.job_with(channel, 1, None, &suffix);
    net.tip(channel, 1, tip, HARD);
}

#[test]
fn a_coinbase_that_firmware_would_cut_is_refused_with_a_reason() {
    let firmware = [
        ("cgminer/4.11.1", 750, true),
        ("Antminer S19/1.0", 750, false),
        ("Antminer S21/1.0", 2_250, false),
        ("whatsminer/v1.0", 6_500, false),
        ("NiceHash/1.0.0", 500, false),
        ("", 750, false),
    ];
    for (mode, case) in MODES.into_iter().flat_map(|mode| firmware.map(|case| (mode, case))) {
        let (user_agent, most, shows) = case;
        let mut net = Net::in_mode(mode, "", "");
        net.connect();
        net.subscribe(MINER, user_agent);
        net.authorize(MINER, "x");
        net.open(7, &[1, 2, 3, 4], 12);
        long_work(&mut net, 7, 0x11, most);
        let job = Notified::last(&net.told(MINER));
        assert_eq!(
            job.coinb1.len() + 4 + 8 + job.coinb2.len(),
            most,
            "whole, and as long as it is"
        );
        long_work(&mut net, 7, 0x22, most + 1);
        net.pass(Duration::from_secs(1));
        let told = net.told(MINER);
        assert!(!told.iter().any(|line| line.contains("mining.notify")), "{told:?}");
        let text = format!("The pool's coinbase of {} bytes is longer than the {most}", most + 1);
        assert_eq!(told.iter().any(|line| line.contains(&text)), shows, "{told:?}");
        assert_eq!(net.closed, [(MINER, "coinbase-too-long")], "{user_agent}");
        let counted = "translator_coinbase_too_long_total{firmware=";
        let metrics = net.metrics();
        let lines: Vec<_> = metrics.lines().filter(|line| line.contains(counted)).collect();
        assert!(matches!(lines[..], [line] if line.ends_with("} 1")), "{lines:?}");
        // Back at once, it is told why it gets nothing, and does not get as far as a channel.
        net.sent();
        net.subscribe(MINER, user_agent);
        let told = net.authorize(MINER, "x");
        assert!(told[0].contains(&format!("\"error\":[24,\"{text}")), "{told:?}");
        assert!(net.sent().is_empty());
        // Coinbases may have become shorter: it is tried again after a while.
        net.pass(Duration::from_secs(61));
        net.closed.clear();
        net.subscribe(MINER, user_agent);
        assert_eq!(net.authorize(MINER, "x")[0], r#"{"id":2,"result":true,"error":null}"#);
    }
}

#[test]
fn a_long_coinbase_is_no_matter_to_who_takes_it() {
    let mut net = Net::connected();
    for (peer, channel, user_agent) in [(1, 7, "cgminer/4.11.1"), (2, 8, "bitaxe/BM1370/v2")] {
        net.subscribe(PeerId(peer), user_agent);
        net.authorize(PeerId(peer), "x");
        net.open(channel, &[peer as u8; 4], 12);
        long_work(&mut net, channel, 0x11, 4_000);
    }
    net.pass(Duration::from_secs(1));
    assert_eq!(net.closed, [(PeerId(1), "coinbase-too-long")]);
    Notified::last(&net.told(PeerId(2)));
}

#[test]
fn the_size_of_extranonce2_is_that_of_the_firmware() {
    for (user_agent, size) in [("cgminer/3.7.2", 4), ("cgminer/4.11.1", 8), ("NiceHash/1.0.0", 8)] {
        let mut net = Net::connected();
        let told = net.subscribe(MINER, user_agent);
        assert!(told[0].contains(&format!("\"00000001\",{size}]")), "{told:?}");
        net.authorize(MINER, "x");
        let [open] = &net.sent_text()[..] else { panic!() };
        assert!(open.contains(&format!("min_extranonce_size: {}", 4 + size)), "{open}");
    }
}

#[test]
fn subscribe_in_the_shapes_that_are_sent() {
    for params in [
        "[]",
        r#"["cgminer/4.11.1"]"#,
        r#"["cgminer/4.11.1", null]"#,
        r#"["bfgminer/5.4.2", "00000009", "pool.example", 3333]"#,
        r#"["NiceHash/1.0.0", 1700000000, "5f1d…not hex"]"#,
        r#"["NiceHash/1.0.0", "1700000000", "5f1dd2"]"#,
        "[null]",
        "[7]",
        "{}",
    ] {
        let mut net = Net::connected();
        net.join(MINER);
        let line = format!(r#"{{"id":1,"method":"mining.subscribe","params":{params}}}"#);
        let told = net.line(MINER, &line);
        assert!(told[0].starts_with(r#"{"id":1,"result":[[["mining.set_difficulty""#), "{params}");
    }
}

#[test]
fn users_in_the_shapes_that_are_sent() {
    for (params, user) in [
        (r#"["farm.rig1"]"#, "farm.rig1"),
        (r#"["farm.rig1", null]"#, "farm.rig1"),
        (r#"[" farm.rig1 ", ""]"#, "farm.rig1"),
        ("[null, null]", "anonymous"),
        ("[]", "anonymous"),
        (r#"["", ""]"#, "anonymous"),
        (r#"["a"b", "x"]"#, "a\"b"),
        ("[\"a\tb\", \"x\"]", "ab"),
    ] {
        let mut net = Net::connected();
        net.subscribe(MINER, "test/1");
        let line = format!(r#"{{"id":2,"method":"mining.authorize","params":{params}}}"#);
        assert_eq!(net.line(MINER, &line), [r#"{"id":2,"result":true,"error":null}"#], "{params}");
        assert_eq!(net.engine.miners[&MINER].user.as_deref(), Some(user), "{params}");
    }
}

#[test]
fn configure_with_any_subset_of_extensions_before_and_after_subscribe() {
    let all = [
        ("version-rolling", r#""version-rolling":true,"version-rolling.mask":"1fffe000""#),
        ("minimum-difficulty", r#""minimum-difficulty":false"#),
        ("subscribe-extranonce", r#""subscribe-extranonce":true"#),
        ("info", r#""info":true"#),
        ("unheard-of", r#""unheard-of":false"#),
    ];
    for subset in 1..32_u8 {
        let chosen = all.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1);
        let (names, answers): (Vec<_>, Vec<_>) =
            chosen.map(|(_, (n, a))| (format!("\"{n}\""), *a)).unzip();
        let line = format!(
            r#"{{"id":5,"method":"mining.configure","params":[[{}],{{}}]}}"#,
            names.join(",")
        );
        let answer = format!(r#"{{"id":5,"result":{{{}}},"error":null}}"#, answers.join(","));
        let mut net = Net::connected();
        net.join(MINER);
        assert_eq!(net.line(MINER, &line)[..], *std::slice::from_ref(&answer));
        net.line(MINER, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
        assert_eq!(net.line(MINER, &line)[..], *std::slice::from_ref(&answer));
        net.authorize(MINER, "x");
        assert_eq!(net.line(MINER, &line), [answer]);
    }
    // No options at all, as some send it; less of a mask than is allowed.
    let mut net = Net::connected();
    net.join(MINER);
    let bare = r#"{"id":5,"method":"mining.configure","params":[["version-rolling"]]}"#;
    assert!(net.line(MINER, bare)[0].contains("1fffe000"));
    let some = r#"{"id":5,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"00c00f"}]}"#;
    assert!(net.line(MINER, some)[0].contains(r#""version-rolling.mask":"0000c000""#));
    let none = r#"{"id":5,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"e0000000"}]}"#;
    assert_eq!(
        net.line(MINER, none),
        [r#"{"id":5,"result":{"version-rolling":false},"error":null}"#]
    );
}

#[test]
fn versions_as_they_are_rolled_and_sent() {
    for (bits, rolled) in [
        (Some("00406000"), 0x2040_6000),
        // The whole version instead of the bits.
        (Some("20406000"), 0x2040_6000),
        // Without leading zeros, and in upper case.
        (Some("4a6000"), 0x204a_6000),
        (Some("004A6000"), 0x204a_6000),
        // Not rolled, with and without a sixth parameter.
        (Some("00000000"), 0x2000_0000),
        (None, 0x2000_0000),
        (Some("20000000"), 0x2000_0000),
    ] {
        let mut net = Net::connected();
        net.subscribe(MINER, "bitaxe/BM1370/v2");
        net.line(MINER, r#"{"id":0,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}"#);
        net.authorize(MINER, "x");
        net.open(7, &[1, 2, 3, 4], 12);
        net.work(7, 1, 0x11);
        let mut job = Notified::last(&net.told(MINER));
        job.version = rolled;
        let share = net.share(MINER, &job, |hash| meets(hash, &EASY));
        let sixth = bits.map_or(String::new(), |bits| format!(", \"{bits}\""));
        let line = share.submit().replace("], \"id\"", &format!("{sixth}], \"id\""));
        assert_eq!(net.line(MINER, &line), [ACCEPTED], "{bits:?}");
        let (header, payload) = &net.sent()[0];
        let Mining::SubmitSharesExtended(sent) = Mining::decode(header, payload).unwrap().0 else {
            panic!()
        };
        assert_eq!(sent.version, rolled, "{bits:?}");
    }
}

#[test]
fn hex_as_firmware_writes_it() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
    let mut extranonce2 = 0_u8;
    // Extranonce2, time and nonce as they are written, and the extranonce2 that is meant.
    let mut submit = |written: &dyn Fn(&str, u32, u32) -> [String; 3],
                      meant: &dyn Fn(u8) -> [u8; 8]| {
        extranonce2 += 1;
        let meant = meant(extranonce2);
        let mut shares =
            (0..0x1000_0000).map(|n| Found::new(&job, &extranonce1, &meant, NTIME, n, job.version));
        let share = shares.find(|share| meets(&share.hash, &EASY)).unwrap();
        let digits: String = meant.iter().map(|b| format!("{b:02x}")).collect();
        let [e, t, n] = written(&digits, share.ntime, share.nonce);
        let line = format!(
            r#"{{"params": ["w", "{}", "{e}", "{t}", "{n}"], "id": 4, "method": "mining.submit"}}"#,
            share.job_id
        );
        assert_eq!(net.line(MINER, &line), [ACCEPTED], "{line}");
    };
    let full = |n: u8| [n, 0xab, 3, 4, 5, 6, 7, 0xcd];
    let usual = |e: &str, t: u32, n: u32| [e.to_owned(), format!("{t:08x}"), format!("{n:08x}")];
    submit(&usual, &full);
    submit(&|e, t, n| [e.to_uppercase(), format!("{t:08X}"), format!("{n:08X}")], &full);
    // NerdMiner: no leading zeros; blanks for them.
    submit(&|e, t, n| [e.to_owned(), format!("{t:x}"), format!("{n:x}")], &full);
    submit(&|e, t, n| [format!("  {}", &e[2..]), format!("{t:x}"), format!("{n:x}")], &|n| {
        [0, n, 3, 4, 5, 6, 7, 8]
    });
    submit(&|e, t, n| [e.to_owned(), format!(" {t:08x}"), format!("{n:08x} ")], &full);
    submit(&|e, t, n| [e.to_owned(), format!("0x{t:08x}"), format!("0x{n:08x}")], &full);
    // Too long is cut and too short is filled on the right, as ckpool does.
    submit(&|e, t, n| [format!("{e}ffff"), format!("{t:08x}"), format!("{n:08x}00")], &full);
    submit(&|e, t, n| [e[..8].to_owned(), format!("{t:08x}"), format!("{n:08x}")], &|n| {
        [n, 2, 3, 4, 0, 0, 0, 0]
    });
    assert_eq!(net.sent().len(), 8);
}

#[test]
fn methods_that_are_of_no_use_are_answered_and_the_connection_stays() {
    let mut net = Net::mining();
    net.told(MINER);
    for (method, answer) in [
        ("mining.extranonce.subscribe", r#"{"id":8,"result":true,"error":null}"#),
        ("mining.capabilities", r#"{"id":8,"result":true,"error":null}"#),
        (
            "mining.multi_version",
            r#"{"id":8,"result":null,"error":[20,"Use mining.configure",null]}"#,
        ),
        ("mining.get_transactions", r#"{"id":8,"result":[],"error":null}"#),
        ("mining.get_txnhashes", r#"{"id":8,"result":[],"error":null}"#),
        ("mining.ping", r#"{"id":8,"result":"pong","error":null}"#),
        ("mining.term", r#"{"id":8,"result":null,"error":[-3,"Method not found",null]}"#),
        ("mining.set_goal", r#"{"id":8,"result":null,"error":[-3,"Method not found",null]}"#),
        ("eth_submitHashrate", r#"{"id":8,"result":null,"error":[-3,"Method not found",null]}"#),
        ("", r#"{"id":8,"result":null,"error":[-3,"Method not found",null]}"#),
    ] {
        let line = format!(r#"{{"id":8,"method":"{method}","params":[1]}}"#);
        assert_eq!(net.line(MINER, &line), [answer], "{method}");
        let silent = format!(r#"{{"id":null,"method":"{method}","params":[1]}}"#);
        assert!(net.line(MINER, &silent).is_empty(), "{method}");
    }
    assert!(net.closed.is_empty());
}

#[test]
fn a_miner_is_never_silent_to_for_longer_than_a_minute() {
    for mode in MODES {
        let mut net = Net::in_mode(mode, "", "vardiff = false\n");
        net.connect();
        net.hello(MINER);
        net.open(7, &[1, 2, 3, 4], 12);
        net.work(7, 1, 0x11);
        net.told(MINER);
        let mut silence = 0;
        for _ in 0..600 {
            net.pass(Duration::from_secs(1));
            let told = net.told(MINER);
            silence += 1;
            if let Some(job) = told.first() {
                assert!((30..=55).contains(&silence), "{mode:?}: {silence}");
                assert!(!Notified::parse(job).clean, "what it works on is not thrown away");
                silence = 0;
            }
        }
        assert!(silence < 55);
    }
}

#[test]
fn a_slice_that_was_freed_rests_until_the_next_clean_job() {
    for mode in MODES {
        let mut net = Net::mining_in(mode);
        let slice = |net: &Net, miner| net.engine.miners[&PeerId(miner)].extranonce1.unwrap();
        let first = slice(&net, 1);
        net.event(MINER, Link::Miner(0), Event::Closed("gone"));
        net.frames.clear();
        net.hello(PeerId(2));
        assert_ne!(slice(&net, 2), first, "{mode:?}");
        let channel = if mode == Channels::PerMiner { 8 } else { 7 };
        if mode == Channels::PerMiner {
            net.open(channel, &[2; 4], 12);
        }
        net.work(channel, 2, 0x11);
        net.hello(PeerId(3));
        assert_ne!(slice(&net, 3), first, "{mode:?}: the same tip");
        net.work(channel, 3, 0x22);
        net.hello(PeerId(4));
        assert_eq!(slice(&net, 4), first, "{mode:?}");
    }
}

#[test]
fn a_miner_that_did_not_authorise_is_asked_to_begin_anew() {
    // cgminer that took a refused user for a good one.
    let mut net = Net::connected();
    net.subscribe(MINER, "cgminer/4.11.1");
    let share = r#"{"params": ["farm.rig1", "1", "00000000", "6b00f646", "3e2c0900"], "id": 4, "method": "mining.submit"}"#;
    let reconnect = r#"{"id":null,"method":"client.reconnect","params":[]}"#.to_owned();
    let told = net.line(MINER, share);
    assert_eq!(told, [refused(24, "Unauthorized worker"), vec![reconnect]].concat());
    assert_eq!(net.line(MINER, share), refused(24, "Unauthorized worker"), "asked once");
}
