//! From the first line to the first job.

use adit_sv1::server::write::{self, ExtensionAnswer, ReconnectTo};
use adit_sv1::server::{Extension, Info, Method};
use adit_sv1::{ErrorCode, ParamsError, Repairs};

use super::{clean, id, parse, written};

/// The extensions a line asks for, and what had to be repaired.
fn extensions(line: &str) -> (Vec<Extension<'_>>, Repairs) {
    let request = parse(line);
    match request.method {
        Method::Configure(configure) => (configure.extensions, request.repairs),
        other => panic!("{other:?}"),
    }
}

#[test]
fn configure_as_cgminer_and_esp_miner_ask() {
    let line = r#"{"id": 1, "method": "mining.configure", "params": [["version-rolling"], {"version-rolling.mask": "ffffffff"}]}"#;
    let rolling = Extension::VersionRolling { mask: 0xffff_ffff, min_bit_count: None };
    assert_eq!(extensions(line), (vec![rolling], Repairs::NONE));
}

#[test]
fn configure_as_vnish_asks() {
    let line = r#"{"id":1,"method":"mining.configure","params":[["version-rolling","minimum-difficulty","subscribe-extranonce"],{"version-rolling.mask":"1fffe000","version-rolling.min-bit-count":16,"minimum-difficulty.value":2048}]}"#;
    let expected = vec![
        Extension::VersionRolling { mask: 0x1fff_e000, min_bit_count: Some(16) },
        Extension::MinimumDifficulty { value: Some(2048.0) },
        Extension::SubscribeExtranonce,
    ];
    assert_eq!(extensions(line), (expected, Repairs::NONE));
}

#[test]
fn configure_with_the_info_extension() {
    // BIP310.
    let line = r#"{"id":1,"method":"mining.configure","params":[["info"],{"info.connection-url":"stratum+tcp://10.0.0.2:3333","info.hw-version":"Antminer S9","info.sw-version":"bmminer 2.0","info.hw-id":"f00"}]}"#;
    let info = Info {
        connection_url: Some("stratum+tcp://10.0.0.2:3333".into()),
        hw_version: Some("Antminer S9".into()),
        sw_version: Some("bmminer 2.0".into()),
        hw_id: Some("f00".into()),
    };
    assert_eq!(extensions(line), (vec![Extension::Info(info)], Repairs::NONE));
}

#[test]
fn configure_without_options_or_with_unusable_ones() {
    // para takes a list alone; p2poolv2 falls silent without a mask; Braiins OS sends a malformed min-bit-count.
    let all = |min_bit_count| vec![Extension::VersionRolling { mask: u32::MAX, min_bit_count }];
    for (params, expected, repairs) in [
        (r#"[["version-rolling"]]"#, all(None), Repairs::DEFAULT_MASK),
        (r#"[["version-rolling"],{}]"#, all(None), Repairs::DEFAULT_MASK),
        (r#"[["version-rolling"],null]"#, all(None), Repairs::DEFAULT_MASK),
        (r#"["version-rolling",{"version-rolling.mask":"ffffffff"}]"#, all(None), Repairs::NONE),
        (
            r#"[["version-rolling"],{"version-rolling.mask":"xyz"}]"#,
            all(None),
            Repairs::DEFAULT_MASK,
        ),
        (
            r#"[["version-rolling"],{"version-rolling.mask":"0xffffffff"}]"#,
            all(None),
            Repairs::NONE,
        ),
        (
            r#"[["version-rolling"],{"version-rolling.mask":"ffffffff","version-rolling.min-bit-count":"16"}]"#,
            all(Some(16)),
            Repairs::TEXT_FOR_NUMBER,
        ),
        (
            r#"[["version-rolling"],{"version-rolling.mask":"ffffffff","version-rolling.min-bit-count":{}}]"#,
            all(None),
            Repairs::CONFIGURE_OPTION,
        ),
        (
            r#"[["minimum-difficulty"],{"minimum-difficulty.value":-1}]"#,
            vec![Extension::MinimumDifficulty { value: None }],
            Repairs::CONFIGURE_OPTION,
        ),
        (r#"[[],{}]"#, vec![], Repairs::NONE),
    ] {
        let line = format!(r#"{{"id":1,"method":"mining.configure","params":{params}}}"#);
        assert_eq!(extensions(&line), (expected, repairs), "{params}");
    }
    let line = r#"{"id":1,"method":"mining.configure","params":[]}"#;
    let error = ParamsError::Missing("extensions");
    assert_eq!(parse(line).method, Method::Invalid { method: "mining.configure", error });
    assert_eq!(parse(line).id, Some(id("1")));
}

#[test]
fn configure_is_answered_for_each_extension_once_and_in_order() {
    let line = r#"{"id":1,"method":"mining.configure","params":[["zzz","version-rolling","zzz","a\"b"],{"version-rolling.mask":"00000001"}]}"#;
    let (asked, _) = extensions(line);
    let names: Vec<_> = asked.iter().map(Extension::name).collect();
    assert_eq!(names, ["zzz", "version-rolling", "a\"b"]);
    let answers = asked.iter().map(|extension| match extension {
        Extension::VersionRolling { mask, .. } => {
            ExtensionAnswer::VersionRolling(Some(mask & 0xff))
        }
        other => ExtensionAnswer::Unknown(other.name()),
    });
    assert_eq!(
        written(|out| write::configure(out, id("1"), answers)),
        r#"{"id":1,"result":{"zzz":false,"version-rolling":true,"version-rolling.mask":"00000001","a\"b":false},"error":null}"#
    );
}

#[test]
fn configure_answers_are_valid_for_any_subset() {
    // DATUM writes `{,"minimum-difficulty":false}`.
    let all = [
        (
            ExtensionAnswer::VersionRolling(Some(0x1fff_e000)),
            r#""version-rolling":true,"version-rolling.mask":"1fffe000""#,
        ),
        (ExtensionAnswer::VersionRolling(None), r#""version-rolling":false"#),
        (ExtensionAnswer::MinimumDifficulty(true), r#""minimum-difficulty":true"#),
        (ExtensionAnswer::MinimumDifficulty(false), r#""minimum-difficulty":false"#),
        (ExtensionAnswer::SubscribeExtranonce(true), r#""subscribe-extranonce":true"#),
        (ExtensionAnswer::Info(true), r#""info":true"#),
        (ExtensionAnswer::Unknown("x"), r#""x":false"#),
    ];
    for (answer, json) in all {
        let expected = format!("{{\"id\":1,\"result\":{{{json}}},\"error\":null}}");
        assert_eq!(written(|out| write::configure(out, id("1"), [answer])), expected);
    }
    assert_eq!(
        written(|out| write::configure(out, id("1"), [])),
        r#"{"id":1,"result":{},"error":null}"#
    );
}

#[test]
fn more_extensions_than_anyone_has_are_refused() {
    let names: Vec<_> = (0..17).map(|number| format!("\"x{number}\"")).collect();
    let line =
        format!(r#"{{"id":1,"method":"mining.configure","params":[[{}],{{}}]}}"#, names.join(","));
    let error = ParamsError::Malformed("extensions");
    assert_eq!(parse(&line).method, Method::Invalid { method: "mining.configure", error });
}

#[test]
fn version_mask_is_padded() {
    // BIP310; p2poolv2 forgets the zeros.
    assert_eq!(
        written(|out| write::set_version_mask(out, 0x6000)),
        r#"{"id":null,"method":"mining.set_version_mask","params":["00006000"]}"#
    );
}

#[test]
fn multi_version_is_recognised() {
    // bmminer before BIP310; it may wait for an answer for ever.
    let request = parse(r#"{"id":2,"method":"mining.multi_version","params":[4]}"#);
    assert_eq!((request.id, request.method), (Some(id("2")), Method::MultiVersion));
}

#[test]
fn subscribe_in_every_shape() {
    for (params, user_agent, session) in [
        // Braiins Hashpower's prober.
        ("[]", None, None),
        // pooler's cpuminer, new and returning.
        (r#"["cpuminer/2.5.1"]"#, Some("cpuminer/2.5.1"), None),
        (r#"["cpuminer/2.5.1", "5c04a1"]"#, Some("cpuminer/2.5.1"), Some("5c04a1")),
        // cgminer.
        (r#"["cgminer/4.11.1", null]"#, Some("cgminer/4.11.1"), None),
        (r#"["Antminer S19/1.0", null, "pool.example", "3333"]"#, Some("Antminer S19/1.0"), None),
        // NiceHash: time stamp and HMAC.
        (
            r#"["NiceHash/1.0.0", "1718000000", "c0ffee"]"#,
            Some("NiceHash/1.0.0"),
            Some("1718000000"),
        ),
        (r#"["NiceHash/1.0.0", 1718000000, "c0ffee"]"#, Some("NiceHash/1.0.0"), Some("1718000000")),
    ] {
        let line = format!(r#"{{"id": 1, "method": "mining.subscribe", "params": {params}}}"#);
        let Method::Subscribe(subscribe) = clean(&line) else { panic!("{line}") };
        assert_eq!(
            (subscribe.user_agent.as_deref(), subscribe.session.as_deref()),
            (user_agent, session)
        );
    }
    let missing = parse(r#"{"id": 1, "method": "mining.subscribe"}"#);
    let Method::Subscribe(subscribe) = missing.method else { panic!("{missing:?}") };
    assert_eq!(subscribe.user_agent, None);
    assert_eq!(missing.repairs, Repairs::NO_PARAMS);
}

#[test]
fn nicehash_parameters_stay_readable() {
    let line =
        r#"{"id":1,"method":"mining.subscribe","params":["NiceHash/1.0.0","1718000000","c0ffee"]}"#;
    let Method::Subscribe(subscribe) = clean(line) else { panic!("{line}") };
    assert_eq!(subscribe.params.get(2).to_text(&mut Repairs::default()).as_deref(), Some("c0ffee"));
}

#[test]
fn subscribe_result() {
    assert_eq!(
        written(|out| write::subscribe(out, id("1"), "5c04", &[0x00, 0x00, 0x00, 0x2a], 8)),
        r#"{"id":1,"result":[[["mining.set_difficulty","5c04"],["mining.notify","5c04"]],"0000002a",8],"error":null}"#
    );
}

#[test]
fn authorize_in_every_shape() {
    for (params, user, password) in [
        // minerd without -u and -p.
        (r#"["", ""]"#, "", Some("")),
        (r#"["bc1q.worker", "x"]"#, "bc1q.worker", Some("x")),
        // public-pool's optional password.
        (r#"["bc1q.worker"]"#, "bc1q.worker", None),
        (r#"["bc1q.worker", null]"#, "bc1q.worker", None),
        (r#"[null, null]"#, "", None),
        ("[]", "", None),
        // Firmware that percent-encodes: the name is the miner's own affair.
        (r#"["a%25b", "x", "extra"]"#, "a%25b", Some("x")),
    ] {
        let line = format!(r#"{{"id": 2, "method": "mining.authorize", "params": {params}}}"#);
        let Method::Authorize(authorize) = clean(&line) else { panic!("{line}") };
        assert_eq!((&*authorize.user, authorize.password.as_deref()), (user, password));
    }
    let request = parse(r#"{"id":2,"method":"mining.authorize","params":[12345,1]}"#);
    let Method::Authorize(authorize) = request.method else { panic!("{request:?}") };
    assert_eq!((&*authorize.user, authorize.password.as_deref()), ("12345", Some("1")));
    assert_eq!(request.repairs, Repairs::NUMBER_FOR_TEXT);
}

#[test]
fn password_options() {
    let line = r#"{"id":2,"method":"mining.authorize","params":["w","x,D=500000;th=100"]}"#;
    let Method::Authorize(authorize) = clean(line) else { panic!("{line}") };
    assert_eq!(authorize.options().difficulty, Some(500_000.0));
    assert_eq!(authorize.options().terahashes, Some(100.0));
    let Method::Authorize(authorize) =
        clean(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#)
    else {
        panic!("no authorize")
    };
    assert_eq!(authorize.options().difficulty, None);
}

#[test]
fn suggest_difficulty_in_every_shape() {
    for (line, difficulty, repairs) in [
        // ESP-Miner.
        (
            r#"{"id": 4, "method": "mining.suggest_difficulty", "params": [1000]}"#,
            1000.0,
            Repairs::NONE,
        ),
        // NerdMiner prints it with %.10g.
        (
            r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [0.00015]}"#,
            0.00015,
            Repairs::NONE,
        ),
        (
            r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [1.5e-05]}"#,
            0.000_015,
            Repairs::NONE,
        ),
        (
            r#"{"id":3,"method":"mining.suggest_difficulty","params":["512"]}"#,
            512.0,
            Repairs::TEXT_FOR_NUMBER,
        ),
        // The literal text ckpool knows.
        (
            r#"{"id":3,"method":"mining.suggest_difficulty(42)","params":[]}"#,
            42.0,
            Repairs::ARGUMENT_IN_METHOD,
        ),
        (
            r#"{"id":3,"method":"mining.suggest_difficulty(0.5)","params":[]}"#,
            0.5,
            Repairs::ARGUMENT_IN_METHOD,
        ),
    ] {
        let request = parse(line);
        assert_eq!(
            (request.method, request.repairs),
            (Method::SuggestDifficulty { difficulty }, repairs),
            "{line}"
        );
    }
    for (params, error) in [
        ("[]", ParamsError::Missing("difficulty")),
        ("[0]", ParamsError::Malformed("difficulty")),
        ("[-5]", ParamsError::Malformed("difficulty")),
        ("[1e999]", ParamsError::Malformed("difficulty")),
        ("[NaN]", ParamsError::Malformed("difficulty")),
        ("[[]]", ParamsError::Malformed("difficulty")),
    ] {
        let line = format!(r#"{{"id":3,"method":"mining.suggest_difficulty","params":{params}}}"#);
        assert_eq!(
            parse(&line).method,
            Method::Invalid { method: "mining.suggest_difficulty", error },
            "{params}"
        );
    }
}

#[test]
fn suggest_target() {
    // BFGMiner and btcpool's peers.
    let digits = format!("00000000ffff{}", "0".repeat(52));
    let line = format!(r#"{{"id":null,"method":"mining.suggest_target","params":["{digits}"]}}"#);
    let mut target = [0; 32];
    target[4..6].fill(0xff);
    assert_eq!(clean(&line), Method::SuggestTarget { target });
    for bad in [r#""""#, r#""xyz""#, "null", "[]", &format!("\"{}\"", "f".repeat(65))] {
        let line = format!(r#"{{"id":null,"method":"mining.suggest_target","params":[{bad}]}}"#);
        assert_eq!(parse(&line).method.label(), "mining.suggest_target", "{bad}");
        assert!(matches!(parse(&line).method, Method::Invalid { .. }), "{bad}");
    }
}

#[test]
fn extranonce_subscribe_and_what_follows() {
    // Bitmain firmware with `#xnsub`, ESP-Miner, and BFGMiner by name.
    for line in [
        r#"{"id": 3, "method": "mining.extranonce.subscribe", "params": []}"#,
        r#"{"id":"xnsub","method":"mining.extranonce.subscribe","params":[]}"#,
    ] {
        assert_eq!(clean(line), Method::ExtranonceSubscribe);
    }
    let refused = written(|out| write::error(out, id("3"), ErrorCode::Other, "Not supported."));
    assert_eq!(refused, r#"{"id":3,"result":null,"error":[20,"Not supported.",null]}"#);
    assert_eq!(
        written(|out| write::set_extranonce(out, &[0x2a, 0x00], 4)),
        r#"{"id":null,"method":"mining.set_extranonce","params":["2a00",4]}"#
    );
}

#[test]
fn get_transactions() {
    // BFGMiner, right after authorize.
    let request =
        parse(r#"{"id":"txlist5c04","method":"mining.get_transactions","params":["5c04"]}"#);
    assert_eq!(request.method, Method::GetTransactions);
    let reply = written(|out| write::result_empty_list(out, request.id.unwrap()));
    assert_eq!(reply, r#"{"id":"txlist5c04","result":[],"error":null}"#);
    assert_eq!(
        clean(r#"{"id":1,"method":"mining.get_txnhashes","params":["1"]}"#),
        Method::GetTransactions
    );
}

#[test]
fn what_a_miner_is_asked_and_told() {
    assert_eq!(
        written(|out| write::get_version(out, 7)),
        r#"{"id":7,"method":"client.get_version","params":[]}"#
    );
    assert_eq!(
        written(|out| write::ping(out, 42)),
        r#"{"id":42,"method":"mining.ping","params":[]}"#
    );
    assert_eq!(
        written(|out| write::show_message(out, "hello \"you\"\n")),
        r#"{"id":null,"method":"client.show_message","params":["hello \"you\"\n"]}"#
    );
    // Most firmware follows only an empty one.
    assert_eq!(
        written(|out| write::reconnect(out, None)),
        r#"{"id":null,"method":"client.reconnect","params":[]}"#
    );
    let to = ReconnectTo { host: "pool.example", port: 3333, wait_seconds: 2 };
    assert_eq!(
        written(|out| write::reconnect(out, Some(to))),
        r#"{"id":null,"method":"client.reconnect","params":["pool.example",3333,2]}"#
    );
}
