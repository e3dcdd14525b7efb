//! What holds for every line, not only for those that miners send.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_sv1::client::{Body, Manner, Requester, Share, parse_message};
use adit_sv1::server::write::{self, ExtensionAnswer, Notify, ReconnectTo};
use adit_sv1::server::{Method, PasswordOptions, parse_request};
use adit_sv1::{ErrorCode, Id, LineError, Lines, MAX_LINE, Repairs};
use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;

/// Does with a line whatever a caller may do with it.
fn use_all(line: &[u8]) {
    if let Ok(request) = parse_request(line) {
        assert!(request.repairs.names().count() <= 32);
        match &request.method {
            Method::Submit(submit) => {
                for size in [0, 1, 4, 8, 32] {
                    submit.extranonce2.write_to(&mut vec![0; size]);
                }
            }
            Method::Authorize(authorize) => {
                authorize.options();
                assert!(!authorize.user.contains(char::is_control));
            }
            Method::Subscribe(subscribe) => assert!(subscribe.params.iter().count() <= line.len()),
            Method::Answer(answer) => drop(answer.text()),
            _ => assert!(!request.method.label().is_empty()),
        }
        if let Some(id) = request.id {
            one_line(|out| write::result_bool(out, id, true));
            one_line(|out| write::error(out, id, ErrorCode::Other, ErrorCode::Other.text()));
            assert_eq!(id.to_buf().as_id(), id);
        }
    }
    if let Ok(message) = parse_message(line)
        && let Body::Reply(reply) = message.body
    {
        let _ = (reply.accepted(), reply.subscribed(), reply.configured());
    }
}

/// What a writer appends, which must be one JSON object and nothing else.
fn one_line(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
    // As raw values: an id may be a number that fits into no type.
    serde_json::from_slice::<BTreeMap<String, &RawValue>>(&out).expect("valid JSON");
    String::from_utf8(out).expect("UTF-8")
}

/// Bits of JSON, well-formed or not, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", " ", "\t", "null", "true", "false", "0", "-1", "1.5", "1e9", "é",
            "\\u", "d83d", "\"id\":", "\"method\":", "\"params\":[", "\"result\":", "\"error\":", "\"mining.submit\"",
            "\"mining.configure\"", "\"mining.subscribe\"", "\"mining.authorize\"", "\"mining.suggest_difficulty(",
            "\"mining.notify\"", "\"mining.suggest_target\"", "\"version-rolling\"", "\"00000000\"", "x",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| {
        let mut line = b"{".to_vec();
        line.extend(pieces.concat());
        line
    })
}

/// Lines miners and pools send.
fn real_line() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        r#"{"method": "mining.submit", "params": ["", "1", "00000000", "6b00f646", "3e2c0900"], "id":4}"#,
        r#"{"id":5,"method":"mining.submit","params":["w","1","  1","6b00f646","3e2c09","1fffe000"]}"#,
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling","minimum-difficulty","info"],{"version-rolling.mask":"1fffe000","version-rolling.min-bit-count":16,"minimum-difficulty.value":2048,"info.hw-id":"x"}]}"#,
        r#"{"id":"auth","method":"mining.authorize","params":["wo"rker\t","x,d=1024"]}"#,
        r#"{"id":1,"result":[[["mining.set_difficulty","x"],["mining.notify","y"]],"0000002a",8],"error":null}"#,
        r#"{"id":4,"result":null,"error":[23,"Above target",null],"reject-reason":"x"}"#,
        r#"{"id":null,"method":"mining.notify","params":["1","0000000000000000000000000000000000000000000000000000000000000000","01","02",["1111111111111111111111111111111111111111111111111111111111111111"],"20000000","1d00ffff","66a1b2c3",true]}"#,
        r#"{"id":null,"method":"mining.suggest_target","params":["00000000ffff"]}"#,
    ])
    .prop_map(|line| line.as_bytes().to_vec())
}

proptest! {
    #[test]
    fn no_bytes_panic(line in prop::collection::vec(any::<u8>(), 0..400)) {
        use_all(&line);
    }

    #[test]
    fn no_json_soup_panics(line in soup()) {
        use_all(&line);
    }

    #[test]
    fn no_damaged_line_panics(
        mut line in real_line(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..6),
        cut in any::<prop::sample::Index>(),
        keep in any::<bool>(),
    ) {
        for (place, byte, how) in damage {
            let place = place.index(line.len());
            match how {
                0 => line[place] = byte,
                1 => line.insert(place, byte),
                _ => drop(line.remove(place)),
            }
        }
        if !keep {
            line.truncate(cut.index(line.len()));
        }
        use_all(&line);
    }

    #[test]
    fn no_password_panics(password in ".*") {
        PasswordOptions::parse(&password);
    }

    #[test]
    fn lines_come_out_as_they_went_in(
        lines in prop::collection::vec("[^\r\n]{0,40}", 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (mut splitter, mut buffer, mut found) = (Lines::default(), Vec::new(), Vec::new());
        for pair in cuts.windows(2) {
            buffer.extend_from_slice(&bytes[pair[0]..pair[1]]);
            let mut consumed = 0;
            while let Some(line) = splitter.next(&buffer[consumed..]).unwrap() {
                found.push(String::from_utf8(line.bytes.to_vec()).unwrap());
                consumed += line.consumed;
            }
            buffer.drain(..consumed);
        }
        prop_assert_eq!(found, lines);
        prop_assert!(buffer.is_empty());
    }

    /// Valid JSON means here what it means to any other reader: serde_json writes, this crate reads.
    #[test]
    fn valid_json_reads_as_what_it_is(
        user in "\\PC*",
        password in proptest::option::of("\\PC*"),
        id in prop_oneof![any::<u32>().prop_map(|id| json!(id)), "\\PC*".prop_map(|id| json!(id)), Just(json!(null)), Just(json!([{"a": 1}]))],
        pretty in any::<bool>(),
    ) {
        let request = json!({"id": id, "method": "mining.authorize", "params": [user, password], "jsonrpc": "2.0"});
        let line = if pretty { serde_json::to_vec_pretty(&request) } else { serde_json::to_vec(&request) }.unwrap();
        let parsed = match parse_request(&line) {
            Ok(parsed) => parsed,
            // An id over several lines cannot be echoed in one.
            Err(error) => {
                prop_assert!(pretty && id.is_array() && error == LineError::Id);
                return Ok(());
            }
        };
        prop_assert_eq!(parsed.repairs, Repairs::NONE);
        let echoed: serde_json::Value = parsed.id.map_or(json!(null), |id| serde_json::from_str(id.as_json()).unwrap());
        prop_assert_eq!(echoed, id);
        let Method::Authorize(authorize) = parsed.method else { panic!("{:?}", parsed.method) };
        prop_assert_eq!(&*authorize.user, user);
        prop_assert_eq!(authorize.password.as_deref(), password.as_deref());
    }

    #[test]
    fn shares_arrive_as_they_were_sent(
        user in "\\PC*",
        job_id in "[!-~]{1,20}",
        extranonce2 in prop::collection::vec(any::<u8>(), 1..33),
        (ntime, nonce, bits) in any::<(u32, u32, Option<u32>)>(),
        minerd in any::<bool>(),
    ) {
        let share = Share { user: &user, job_id: &job_id, extranonce2: &extranonce2, ntime, nonce, version_bits: bits };
        let manner = if minerd { Manner::Minerd } else { Manner::Counting };
        let mut sent = 0;
        let line = one_line(|out| sent = Requester::new(manner).submit(out, &share));
        let request = parse_request(line.as_bytes()).unwrap();
        prop_assert_eq!(request.id.and_then(Id::as_u64), Some(sent));
        prop_assert_eq!(request.repairs, Repairs::NONE);
        let Method::Submit(submit) = request.method else { panic!("{line}") };
        prop_assert_eq!((&*submit.user, &*submit.job_id), (&*user, &*job_id));
        let mut bytes = vec![0xee; extranonce2.len()];
        prop_assert_eq!(submit.extranonce2.write_to(&mut bytes), Repairs::NONE);
        prop_assert_eq!(bytes, extranonce2);
        prop_assert_eq!((submit.ntime, submit.nonce), (ntime, nonce));
        prop_assert_eq!(submit.version_bits, bits.filter(|_| !minerd));
    }

    #[test]
    fn jobs_arrive_as_they_were_sent(
        job_id in "[ -~]{1,20}",
        prev_hash in any::<[u8; 32]>(),
        (coinb1, prefix, suffix, coinb2) in any::<(Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>)>(),
        merkle_path in prop::collection::vec(any::<[u8; 32]>(), 0..16),
        (version, nbits, ntime, clean_jobs) in any::<(u32, u32, u32, bool)>(),
    ) {
        let sent = Notify {
            job_id: &job_id,
            prev_hash: &prev_hash,
            coinb1: &coinb1,
            extranonce_prefix: &prefix,
            extranonce_suffix: &suffix,
            coinb2: &coinb2,
            merkle_path: &merkle_path,
            version,
            nbits,
            ntime,
            clean_jobs,
        };
        let line = one_line(|out| write::notify(out, &sent));
        let Body::Notify(job) = parse_message(line.as_bytes()).unwrap().body else { panic!("{line}") };
        let (front, back) = ([&coinb1[..], &prefix].concat(), [&suffix[..], &coinb2].concat());
        let joined = Notify { coinb1: &front, coinb2: &back, extranonce_prefix: &[], extranonce_suffix: &[], ..sent };
        prop_assert_eq!(job.as_notify(), joined);
        prop_assert_eq!(one_line(|out| write::notify(out, &job.as_notify())), line);
    }

    #[test]
    fn hellos_arrive_as_they_were_sent(
        session in "\\PC*",
        extranonce1 in prop::collection::vec(any::<u8>(), 0..33),
        size in 0..256_usize,
        mask in proptest::option::of(any::<u32>()),
        unknown in "[^\\p{C}]{1,20}",
    ) {
        let line = format!("{{\"id\":{},\"method\":\"mining.ping\"}}", json!(session));
        let id = parse_request(line.as_bytes()).unwrap().id.unwrap();
        let line = one_line(|out| write::subscribe(out, id, &session, &extranonce1, size));
        let message = parse_message(line.as_bytes()).unwrap();
        prop_assert_eq!(message.id, Some(id));
        let Body::Reply(reply) = message.body else { panic!("{line}") };
        let subscribed = reply.subscribed().unwrap();
        prop_assert_eq!(subscribed.session, Some(session));
        prop_assert_eq!((subscribed.extranonce1, subscribed.extranonce2_size), (extranonce1, size));

        let answers = [ExtensionAnswer::Unknown(&unknown), ExtensionAnswer::VersionRolling(mask)];
        let line = one_line(|out| write::configure(out, id, answers));
        let Body::Reply(reply) = parse_message(line.as_bytes()).unwrap().body else { panic!("{line}") };
        prop_assert_eq!(reply.configured().unwrap().version_mask, mask);
    }

    #[test]
    fn every_text_that_is_written_stays_in_its_string(text in any::<String>(), port in any::<u16>()) {
        one_line(|out| write::show_message(out, &text));
        one_line(|out| write::reconnect(out, Some(ReconnectTo { host: &text, port, wait_seconds: 0 })));
        one_line(|out| assert_eq!(Requester::default().authorize(out, &text, &text), 1));
        let line = format!("{{\"id\":{},\"method\":\"mining.ping\"}}", json!("x"));
        let id = parse_request(line.as_bytes()).unwrap().id.unwrap();
        one_line(|out| write::result_text(out, id, &text));
        let line = one_line(|out| write::error(out, id, ErrorCode::Other, &text));
        let Body::Reply(reply) = parse_message(line.as_bytes()).unwrap().body else { panic!("{line}") };
        let shown: String = text.chars().filter(|c| !c.is_control()).collect();
        let rejection = reply.accepted().unwrap_err();
        prop_assert_eq!((rejection.code, &*rejection.message), (Some(20), &*shown));
    }

    #[test]
    fn difficulties_are_never_announced_too_high(difficulty in any::<f64>()) {
        let mut announced = f64::NAN;
        let line = one_line(|out| announced = write::set_difficulty(out, difficulty));
        prop_assert!((write::LOWEST_DIFFICULTY..=write::HIGHEST_DIFFICULTY).contains(&announced));
        if difficulty >= write::LOWEST_DIFFICULTY {
            prop_assert!(announced <= difficulty);
        }
        prop_assert_eq!(parse_message(line.as_bytes()).unwrap().body, Body::SetDifficulty { difficulty: announced });
    }
}

/// Lines made to be expensive: 64 times the default limit must still be read in no time. A reader that looks at every
/// byte a few times needs milliseconds for all of them, one that goes back over what it has read would need hours.
#[test]
fn the_cost_of_a_line_is_bounded() {
    let length = 64 * MAX_LINE;
    let filled = |head: &str, filling: &str, tail: &str| {
        format!(
            "{head}{}{tail}",
            filling.repeat((length - head.len() - tail.len()) / filling.len())
        )
        .into_bytes()
    };
    let configure = r#"{"id":1,"method":"mining.configure","params":[["#;
    let submit = r#"{"id":1,"method":"mining.submit","params":["#;
    let lines = [
        filled("", "{", ""),
        filled("", "[", ""),
        filled("{\"id\":", "[", ""),
        filled("{\"id\":1,\"params\":", "[{\"a\":", ""),
        filled("{\"id\":\"", "\" ", ""),
        filled("{\"id\":\"", " \"", "\"}"),
        filled("{\"id\":1,\"method\":\"", "\\", "\"}"),
        filled("{\"id\":1,\"method\":\"", "\\u", "\"}"),
        filled("{\"id\":1,\"method\":\"", "\" x", "\"}"),
        filled("{", "\"id\":1,", "\"method\":\"mining.ping\"}"),
        filled("{\"id\":", "9", ",\"method\":\"mining.ping\"}"),
        filled("{\"id\":", "[],", "}"),
        filled("{\"id\":1,", " ", "}"),
        filled(submit, ",", "]}"),
        filled(submit, "[],", "]}"),
        filled(submit, "1", "]}"),
        filled(&format!("{submit}\"\",\"\",\""), "0", "\",\"1\",\"1\"]}"),
        filled(&format!("{submit}\"\",\"\",\""), " ", "1\",\"1\",\"1\"]}"),
        filled(configure, "\"version-rolling\",", "]]}"),
        filled(configure, "\"info\",", "\"info\"],{\"info.hw-id\":[]}]}"),
        filled(&format!("{configure}\"info\"],{{"), "\"info.hw-id\":1,", "\"\":1}]}"),
        filled(r#"{"id":1,"method":"mining.suggest_difficulty("#, "1", r#")","params":[]}"#),
        filled(r#"{"id":1,"method":"mining.suggest_difficulty","params":["#, "1", "]}"),
        filled(r#"{"id":1,"method":"mining.suggest_target","params":[""#, "f", "\"]}"),
        filled(
            r#"{"id":1,"method":"mining.notify","params":["1","","","",["#,
            "\"\",",
            "],1,1,1,true]}",
        ),
        filled(r#"{"id":1,"result":[["#, "[],", "],\"\",1]}"),
    ];
    let started = Instant::now();
    for line in &lines {
        use_all(line);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn deep_nesting_is_refused_in_a_small_stack() {
    let deep = |head: &str, open: &str, close: &str| {
        format!("{head}{}{}}}", open.repeat(1 << 20), close.repeat(1 << 20)).into_bytes()
    };
    let lines = [
        deep("{\"id\":", "[", "]"),
        deep("{\"params\":", "[", "]"),
        deep("{\"x\":", "{\"a\":", "}"),
    ];
    let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
        lines.iter().all(|line| {
            parse_request(line) == Err(LineError::TooDeep)
                && parse_message(line) == Err(LineError::TooDeep)
        })
    });
    assert!(thread.unwrap().join().unwrap());
}

#[test]
fn ids_as_deep_as_lines_may_be_are_echoed() {
    let json = format!("{}{}", "[".repeat(63), "]".repeat(63));
    let line = format!("{{\"id\":{json},\"method\":\"mining.ping\"}}");
    let request = parse_request(line.as_bytes()).unwrap();
    assert_eq!(request.id.map(Id::as_json), Some(&*json));
    assert_eq!(request.method, Method::Ping);
}
