//! What a miner sends, line by line: every line can be read or refused, what is valid JSON reads as what it is, and a
//! share comes out as it went in.
#![no_main]

use std::collections::BTreeMap;

use adit_sv1::client::{Requester, Share};
use adit_sv1::server::{Method, Request, Submit, parse_request, write};
use adit_sv1::{ErrorCode, LineError, Lines, Repairs};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

/// Small, so that the fuzzer finds it.
const LIMIT: usize = 4_096;

fuzz_target!(|data: &[u8]| {
    // The first byte says in what pieces the rest comes.
    let Some((piece, bytes)) = data.split_first() else { return };
    let (mut lines, mut buffer) = (Lines::new(LIMIT), Vec::new());
    let mut found = Vec::new();
    let mut too_long = false;
    'pieces: for piece in bytes.chunks(usize::from(*piece) + 1) {
        buffer.extend_from_slice(piece);
        loop {
            match lines.next(&buffer) {
                Ok(Some(line)) => {
                    found.push(line.bytes.to_vec());
                    let consumed = line.consumed;
                    buffer.drain(..consumed);
                }
                Ok(None) => break,
                Err(_) => {
                    too_long = true;
                    break 'pieces;
                }
            }
        }
    }
    let expected = bytes.split(|byte| *byte == b'\n').map(|line| {
        line.iter().rposition(|byte| *byte != b'\r').map_or(&[][..], |last| &line[..=last])
    });
    assert!(expected.zip(&found).all(|(expected, found)| expected == found));
    assert!(too_long || found.len() == bytes.iter().filter(|byte| **byte == b'\n').count());
    found.push(buffer);
    found.iter().for_each(|line| check(line));
});

fn check(line: &[u8]) {
    let parsed = parse_request(line);
    if let Ok(Value::Object(json)) = serde_json::from_slice(line) {
        match &parsed {
            Ok(request) => as_json(request, &json, line),
            // An id with blanks that would break our line, or deeper than any message.
            Err(error) => assert!(matches!(error, LineError::Id | LineError::TooDeep), "{error}"),
        }
    }
    let Ok(request) = parsed else { return };
    assert!(request.repairs.names().count() <= 32 && !request.method.label().is_empty());
    match &request.method {
        Method::Submit(submit) => again(submit),
        Method::Authorize(authorize) => {
            let options = authorize.options();
            let wanted = [options.difficulty, options.terahashes];
            assert!(wanted.into_iter().flatten().all(|n| n.is_finite() && n > 0.0));
            assert!(!authorize.user.contains(char::is_control));
        }
        Method::Subscribe(subscribe) => assert!(subscribe.params.iter().count() <= line.len()),
        Method::SuggestDifficulty { difficulty } => {
            let announced = write::announced_difficulty(*difficulty);
            assert!(announced <= difficulty.max(write::LOWEST_DIFFICULTY));
        }
        Method::Answer(answer) => drop(answer.text()),
        Method::Configure(configure) => {
            let names: Vec<_> = configure.extensions.iter().map(|e| e.name()).collect();
            assert!(names.len() <= 16);
            assert!((1..names.len()).all(|at| !names[..at].contains(&names[at])));
        }
        _ => {}
    }
    if let Some(id) = request.id {
        one_line(|out| write::result_bool(out, id, true));
        one_line(|out| write::result_empty_list(out, id));
        one_line(|out| write::error(out, id, ErrorCode::Other, ErrorCode::Other.text()));
        assert_eq!(id.to_buf().as_id(), id);
    }
}

/// Valid JSON means here what it means to any other reader.
fn as_json(request: &Request<'_>, json: &serde_json::Map<String, Value>, line: &[u8]) {
    // Member names are not unescaped: no miner escapes any.
    if line.contains(&b'\\') {
        return;
    }
    let null = Value::Null;
    let id = json.get("id").unwrap_or(&null);
    let echoed = request.id.map(|id| serde_json::from_str(id.as_json()).expect("valid JSON"));
    assert_eq!(echoed.as_ref().unwrap_or(&null), id);
    if let Method::Unknown { method } = &request.method {
        let said = json.get("method").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(*method, said.chars().filter(|c| !c.is_control()).collect::<String>());
    }
    if let (Method::Authorize(authorize), Some([Value::String(user), ..])) =
        (&request.method, json.get("params").and_then(Value::as_array).map(Vec::as_slice))
    {
        let said: String = user.chars().filter(|c| !c.is_control()).collect();
        assert_eq!(authorize.user, said);
    }
}

/// A share as it is passed on reads as it was read.
fn again(submit: &Submit<'_>) {
    for size in [0, 1, 4, 8, 32] {
        let mut extranonce2 = vec![0xee; size];
        submit.extranonce2.write_to(&mut extranonce2);
        if size == 0 {
            continue;
        }
        let share = Share {
            user: &submit.user,
            job_id: &submit.job_id,
            extranonce2: &extranonce2,
            ntime: submit.ntime,
            nonce: submit.nonce,
            version_bits: submit.version_bits,
        };
        let line = one_line(|out| _ = Requester::default().submit(out, &share));
        let request = parse_request(&line).expect("our own line");
        assert_eq!(request.repairs, Repairs::NONE);
        let Method::Submit(read) = request.method else { panic!("another method") };
        let mut bytes = vec![0; size];
        assert_eq!(read.extranonce2.write_to(&mut bytes), Repairs::NONE);
        assert_eq!(bytes, extranonce2);
        assert_eq!((&read.user, &read.job_id), (&submit.user, &submit.job_id));
        assert_eq!((read.ntime, read.nonce), (submit.ntime, submit.nonce));
        assert_eq!(read.version_bits, submit.version_bits);
    }
}

/// What a writer appends, which must be one JSON object on one line.
fn one_line(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
    // As raw values: an id may be a number that fits into no type.
    serde_json::from_slice::<BTreeMap<String, &RawValue>>(&out).expect("valid JSON");
    out
}
