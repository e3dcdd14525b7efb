//! Lines, ids, and strings that are hardly JSON.

use adit_sv1::server::{Method, Request, parse_request, write};
use adit_sv1::{ErrorCode, LineError, Lines, Repairs};

use super::{clean, id, parse, written};

#[test]
fn several_messages_in_one_segment_and_one_in_two() {
    // ESP-Miner does not wait between configure, subscribe and authorize.
    let hello = b"{\"id\": 1, \"method\": \"mining.configure\", \"params\": [[\"version-rolling\"], {\"version-rolling.mask\": \"ffffffff\"}]}\n\
        {\"id\": 2, \"method\": \"mining.subscribe\", \"params\": [\"bitaxe/BM1368/v2.9.0b3-24-gdd577d0\"]}\r\n\
        \r\n\
        {\"id\": 3, \"method\": \"mining.authorize\", \"params\": [\"bc1q.bitaxe\", \"x\"]}\n";
    for cut in 0..hello.len() {
        let (mut lines, mut buffer, mut methods) = (Lines::default(), Vec::new(), Vec::new());
        for segment in [&hello[..cut], &hello[cut..]] {
            buffer.extend_from_slice(segment);
            while let Some(line) = lines.next(&buffer).unwrap() {
                methods.push(parse(line.bytes).method.label());
                let consumed = line.consumed;
                buffer.drain(..consumed);
            }
        }
        assert_eq!(methods, ["mining.configure", "mining.subscribe", "blank", "mining.authorize"]);
    }
}

#[test]
fn blank_lines_and_carriage_returns() {
    for line in ["", "\r", " ", "\t \r", "\0"] {
        let blank = Request { id: None, method: Method::Blank, repairs: Repairs::NONE };
        assert_eq!(parse_request(line.as_bytes()), Ok(blank));
    }
    assert_eq!(clean("{\"id\":1,\"method\":\"mining.ping\",\"params\":[]}\r"), Method::Ping);
}

#[test]
fn tabs_in_strings() {
    // Goldshell.
    let request = parse(
        "{\"id\":1,\"method\":\"mining.authorize\",\"params\":[\"wallet.gold\tshell\t\",\"x\"]}",
    );
    let Method::Authorize(authorize) = &request.method else { panic!("{request:?}") };
    assert_eq!(authorize.user, "wallet.goldshell");
    assert_eq!(request.repairs, Repairs::CONTROL_CHARACTER);
}

#[test]
fn users_printed_without_escaping() {
    // cgminer, BFGMiner and ESP-Miner print the user with sprintf.
    let cases: [(&[u8], &str, Repairs); 3] = [
        (
            br#"{"id": 3, "method": "mining.authorize", "params": ["my"worker", "x"]}"#,
            "my\"worker",
            Repairs::UNESCAPED_QUOTE,
        ),
        (
            br#"{"id": 3, "method": "mining.authorize", "params": ["FARM\worker", "x"]}"#,
            "FARM\\worker",
            Repairs::BAD_ESCAPE,
        ),
        (
            b"{\"id\": 3, \"method\": \"mining.authorize\", \"params\": [\"J\xfcrgen\", \"x\"]}",
            "J\u{fffd}rgen",
            Repairs::NOT_UTF8,
        ),
    ];
    for (line, user, repairs) in cases {
        let request = parse(line);
        let Method::Authorize(authorize) = &request.method else { panic!("{request:?}") };
        assert_eq!((&*authorize.user, authorize.password.as_deref()), (user, Some("x")));
        assert_eq!(request.repairs, repairs);
    }
}

#[test]
fn ids_of_every_type_are_echoed_byte_by_byte() {
    // cgminer counts; BFGMiner names; "Random broken clients send something not an integer as the id" (ckpool).
    for json in [
        "0",
        "7",
        "-1",
        "1.0",
        "\"auth\"",
        "\"xnsub\"",
        "\"txlist5c04\"",
        "\"\\u0031\"",
        "true",
        "[1, 2]",
        "{\"a\": 1}",
    ] {
        assert_eq!(id(json).as_json(), json);
        assert_eq!(
            written(|out| write::result_bool(out, id(json), true)),
            format!("{{\"id\":{json},\"result\":true,\"error\":null}}")
        );
    }
}

#[test]
fn a_null_or_missing_id_wants_no_answer() {
    // BFGMiner, before it subscribes.
    let target = "00000000ffff0000000000000000000000000000000000000000000000000000";
    let line = format!(r#"{{"id":null,"method":"mining.suggest_target","params":["{target}"]}}"#);
    assert_eq!(parse(&line).id, None);
    let capabilities = r#"{"id":null,"method":"mining.capabilities","params":[{"notify":[],"set_difficulty":{},"set_goal":[]}]}"#;
    let request = parse(capabilities);
    assert_eq!((request.id, request.method), (None, Method::Capabilities));
    assert_eq!(parse(r#"{"method":"mining.ping","params":[]}"#).id, None);
}

#[test]
fn repeated_ids() {
    // pooler's cpuminer: every share has the id 4.
    let line = r#"{"method": "mining.submit", "params": ["", "1", "00000000", "6b00f646", "3e2c0900"], "id":4}"#;
    assert_eq!(parse(line).id, Some(id("4")));
    assert_eq!(parse(line).id, Some(id("4")));
}

#[test]
fn unknown_methods_are_answered() {
    // sgminer and BFGMiner for other coins; a request that names no method at all.
    for (line, name) in [
        (r#"{"id":9,"method":"mining.set_goal","params":["scrypt"]}"#, "mining.set_goal"),
        (r#"{"id":9,"method":"mining.term","params":[]}"#, "mining.term"),
        (r#"{"id":9,"method":"eth_submitLogin"}"#, "eth_submitLogin"),
        (r#"{"id":9}"#, ""),
        (r#"{"id":9,"method":5,"params":{}}"#, ""),
    ] {
        let request = parse(line);
        assert_eq!(
            (request.id, request.method),
            (Some(id("9")), Method::Unknown { method: name.into() })
        );
    }
    let reply = written(|out| {
        write::error(out, id("9"), ErrorCode::MethodNotFound, ErrorCode::MethodNotFound.text())
    });
    assert_eq!(reply, r#"{"id":9,"result":null,"error":[-3,"Method not found",null]}"#);
}

#[test]
fn what_is_no_message() {
    for (line, error) in [
        ("GET / HTTP/1.1", LineError::NotAnObject),
        ("[]", LineError::NotAnObject),
        (r#"{"id":1,"method":"mining.subscribe","params":["#, LineError::UnexpectedEnd),
        (r#"{"id":0x1,"method":"mining.ping"}"#, LineError::Id),
        (r#"{"id":1 "method":"mining.ping"}"#, LineError::Unexpected { offset: 7, byte: b'"' }),
    ] {
        assert_eq!(parse_request(line.as_bytes()), Err(error), "{line}");
    }
}

#[test]
fn answers_to_our_requests() {
    // pooler's cpuminer to client.get_version.
    let request = parse(r#"{"id": 7, "error": null, "result": "cpuminer/2.5.1"}"#);
    assert_eq!(request.id.and_then(|id| id.as_u64()), Some(7));
    let Method::Answer(answer) = request.method else { panic!("{request:?}") };
    assert_eq!(answer.text().as_deref(), Some("cpuminer/2.5.1"));
    assert!(answer.error.is_null() && !answer.pong);

    // cgminer to mining.ping.
    let request = parse(r#"{"id": 42, "result": "pong", "error": null}"#);
    let Method::Answer(answer) = request.method else { panic!("{request:?}") };
    assert_eq!(answer.text().as_deref(), Some("pong"));

    // ESP-Miner to mining.ping: a request with the ping's id, which must not be answered.
    let request = parse(r#"{"id":42,"method":"pong","params":[]}"#);
    let Method::Answer(answer) = request.method else { panic!("{request:?}") };
    assert!(answer.pong);
    assert_eq!(request.id.and_then(|id| id.as_u64()), Some(42));

    // BFGMiner to a method it does not know.
    let request = parse(r#"{"error": [-3, "Method not found", null], "id": 8, "result": null}"#);
    let Method::Answer(answer) = request.method else { panic!("{request:?}") };
    assert!(!answer.error.is_null());
}

#[test]
fn pings_of_miners_are_answered() {
    assert_eq!(clean(r#"{"id":5,"method":"mining.ping","params":[]}"#), Method::Ping);
    assert_eq!(
        written(|out| write::result_text(out, id("5"), "pong")),
        r#"{"id":5,"result":"pong","error":null}"#
    );
}
