//! The miner's side: what pools say, and minerd's manner of asking.

use adit_sv1::client::{
    Body, Configured, Manner, Message, Reply, Requester, Share, parse_message, pong, version,
};
use adit_sv1::{ParamsError, Repairs};

use super::{id, written};

fn message(line: &str) -> Message<'_> {
    parse_message(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn reply(line: &str) -> Reply<'_> {
    match message(line).body {
        Body::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn minerd_speaks_byte_by_byte() {
    // Recorded from pooler's cpuminer 2.5.1.
    let mut minerd = Requester::new(Manner::Minerd);
    let lines = [
        written(|out| assert_eq!(minerd.subscribe(out, "cpuminer/2.5.1", None), 1)),
        written(|out| assert_eq!(minerd.authorize(out, "", ""), 2)),
    ];
    assert_eq!(
        lines[0],
        r#"{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}"#
    );
    assert_eq!(lines[1], r#"{"id": 2, "method": "mining.authorize", "params": ["", ""]}"#);
    let share = Share {
        user: "",
        job_id: "1",
        extranonce2: &[0; 4],
        ntime: 0x6b00_f646,
        nonce: 0x3e2c_0900,
        version_bits: Some(0x2000),
    };
    for _ in 0..2 {
        assert_eq!(
            written(|out| assert_eq!(minerd.submit(out, &share), 4)),
            r#"{"method": "mining.submit", "params": ["", "1", "00000000", "6b00f646", "3e2c0900"], "id":4}"#
        );
    }
    assert_eq!(
        written(|out| assert_eq!(minerd.subscribe(out, "cpuminer/2.5.1", Some("5c04")), 1)),
        r#"{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1", "5c04"]}"#
    );
}

#[test]
fn others_count_and_roll_versions() {
    let mut miner = Requester::new(Manner::Counting);
    assert_eq!(
        written(|out| assert_eq!(miner.configure(out, u32::MAX, 2), 1)),
        r#"{"id": 1, "method": "mining.configure", "params": [["version-rolling"], {"version-rolling.mask": "ffffffff", "version-rolling.min-bit-count": 2}]}"#
    );
    written(|out| assert_eq!(miner.extranonce_subscribe(out), 2));
    assert_eq!(
        written(|out| assert_eq!(miner.suggest_difficulty(out, 0.5), 3)),
        r#"{"id": 3, "method": "mining.suggest_difficulty", "params": [0.5]}"#
    );
    let share = Share {
        user: "w",
        job_id: "1",
        extranonce2: &[1],
        ntime: 2,
        nonce: 3,
        version_bits: Some(0x2000),
    };
    assert_eq!(
        written(|out| assert_eq!(miner.submit(out, &share), 4)),
        r#"{"id": 4, "method": "mining.submit", "params": ["w", "1", "01", "00000002", "00000003", "00002000"]}"#
    );
}

#[test]
fn answers_to_the_pool() {
    let asked = message(r#"{"id":7,"method":"client.get_version","params":[]}"#);
    assert_eq!(asked.body, Body::GetVersion);
    assert_eq!(
        written(|out| version(out, asked.id.unwrap(), "a/1")),
        r#"{"id":7,"result":"a/1","error":null}"#
    );
    // ckpool's proxies.
    let asked = message(r#"{"id":42,"method":"mining.ping","params":[]}"#);
    assert_eq!((asked.id, asked.body), (Some(id("42")), Body::Ping));
    assert_eq!(written(|out| pong(out, id("42"))), r#"{"id":42,"result":"pong","error":null}"#);
}

#[test]
fn subscribe_results_in_any_order() {
    for pairs in [
        r#"[["mining.set_difficulty","x"],["mining.notify","5c04"]]"#,
        // ckpool.
        r#"[["mining.notify","5c04"]]"#,
        r#"[["mining.notify","5c04"],["mining.set_difficulty","x"]]"#,
        // One pair alone.
        r#"["mining.notify","5c04"]"#,
    ] {
        let line = format!(r#"{{"id":1,"result":[{pairs},"6351117f64",3],"error":null}}"#);
        let subscribed = reply(&line).subscribed().unwrap();
        assert_eq!(subscribed.session.as_deref(), Some("5c04"), "{pairs}");
        assert_eq!(subscribed.extranonce1, [0x63, 0x51, 0x11, 0x7f, 0x64]);
        assert_eq!(subscribed.extranonce2_size, 3);
    }
    let bare = reply(r#"{"id":1,"error":null,"result":[null,"","8"]}"#).subscribed().unwrap();
    assert_eq!((bare.session, bare.extranonce1, bare.extranonce2_size), (None, vec![], 8));
}

#[test]
fn subscribe_results_that_are_none() {
    for (result, error) in [
        ("null", ParamsError::Missing("result")),
        ("[[]]", ParamsError::Missing("extranonce1")),
        (r#"[[],"0",4]"#, ParamsError::Malformed("extranonce1")),
        (r#"[[],"00"]"#, ParamsError::Malformed("extranonce2_size")),
        (r#"[[],"00",-1]"#, ParamsError::Malformed("extranonce2_size")),
        (r#"[[],"00",1000000000]"#, ParamsError::Malformed("extranonce2_size")),
    ] {
        let line = format!(r#"{{"id":1,"result":{result},"error":null}}"#);
        assert_eq!(reply(&line).subscribed(), Err(error), "{result}");
    }
}

#[test]
fn configure_results() {
    let all = Configured {
        version_mask: Some(0x1fff_e000),
        minimum_difficulty: true,
        subscribe_extranonce: true,
    };
    for (result, expected) in [
        (
            r#"{"version-rolling":true,"version-rolling.mask":"1fffe000","minimum-difficulty":true,"subscribe-extranonce":true}"#,
            Ok(all),
        ),
        // p2poolv2 forgets the zeros.
        (
            r#"{"version-rolling":true,"version-rolling.mask":"6000"}"#,
            Ok(Configured { version_mask: Some(0x6000), ..Configured::default() }),
        ),
        (r#"{"version-rolling":false}"#, Ok(Configured::default())),
        (r#"{"version-rolling":"not here"}"#, Ok(Configured::default())),
        (r#"{"version-rolling":true}"#, Err(ParamsError::Missing("version-rolling.mask"))),
        ("null", Err(ParamsError::Missing("result"))),
    ] {
        let line = format!(r#"{{"id":1,"result":{result},"error":null}}"#);
        assert_eq!(reply(&line).configured(), expected, "{result}");
    }
}

#[test]
fn rejections_in_every_form() {
    for (line, code, text) in [
        // ckpool since 2026, and this crate.
        (r#"{"id":4,"result":null,"error":[23,"Above target",null]}"#, Some(23), "Above target"),
        // Older ckpool and its forks.
        (
            r#"{"reject-reason":"Above target","result":false,"error":null,"id":4}"#,
            None,
            "Above target",
        ),
        (
            r#"{"id":4,"result":null,"error":{"code":21,"message":"Job not found"}}"#,
            Some(21),
            "Job not found",
        ),
        (r#"{"id":4,"result":null,"error":"Stale"}"#, None, "Stale"),
        (r#"{"id":4,"result":false,"error":null}"#, None, ""),
        (r#"{"id":4,"result":null,"error":null}"#, None, ""),
        (r#"{"id":4,"result":true,"error":[-3,"x"]}"#, Some(-3), "x"),
    ] {
        let rejection = reply(line).accepted().unwrap_err();
        assert_eq!((rejection.code, &*rejection.message), (code, text), "{line}");
    }
    assert_eq!(
        reply(r#"{"id":4,"result":null,"error":[23,"low",null]}"#)
            .accepted()
            .unwrap_err()
            .to_string(),
        "low (23)"
    );
    assert_eq!(
        reply(r#"{"id":4,"result":false}"#).accepted().unwrap_err().to_string(),
        "no reason given"
    );
    for line in [
        r#"{"id":4,"result":true,"error":null}"#,
        r#"{"id":4,"result":true}"#,
        r#"{"id":4,"result":true,"error":[]}"#,
        r#"{"id":4,"result":true,"error":""}"#,
    ] {
        assert_eq!(reply(line).accepted(), Ok(()), "{line}");
    }
}

#[test]
fn jobs() {
    let prev_hash = "03020100070605040b0a09080f0e0d0c13121110171615141b1a19181f1e1d1c";
    let branch = "11".repeat(32);
    // ckpool's order of keys; a pool that adds a parameter before the last.
    for (tail, clean_jobs) in [("true", true), ("false", false), (r#""extra",true"#, true)] {
        let line = format!(
            r#"{{"params":["5c04","{prev_hash}","0100","FF",["{branch}"],"20000000","1d00ffff","66a1b2c3",{tail}],"id":null,"method":"mining.notify"}}"#
        );
        let Body::Notify(job) = message(&line).body else { panic!("{line}") };
        assert_eq!(job.job_id, "5c04");
        assert_eq!(job.prev_hash, std::array::from_fn(|place| place as u8));
        assert_eq!(
            (job.coinb1, job.coinb2, job.merkle_path),
            (vec![1, 0], vec![0xff], vec![[0x11; 32]])
        );
        assert_eq!((job.version, job.nbits, job.ntime), (0x2000_0000, 0x1d00_ffff, 0x66a1_b2c3));
        assert_eq!(job.clean_jobs, clean_jobs);
    }
}

#[test]
fn jobs_that_are_none() {
    let hash = "00".repeat(32);
    for (params, error) in [
        ("[]".to_owned(), ParamsError::Missing("prevhash")),
        (format!(r#"["1","{hash}","0","",[],"1","1","1",true]"#), ParamsError::Malformed("coinb1")),
        (
            format!(r#"["1","{hash}","","",null,"1","1","1",true]"#),
            ParamsError::Malformed("merkle_branch"),
        ),
        (
            format!(r#"["1","{hash}","","",["00"],"1","1","1",true]"#),
            ParamsError::Malformed("merkle_branch"),
        ),
        (
            format!(r#"["1","{hash}","","",[7 8],"1","1","1",true]"#),
            ParamsError::Malformed("merkle_branch"),
        ),
        (format!(r#"["1","{hash}","","",[],"1","1","1"]"#), ParamsError::Missing("clean_jobs")),
        (
            format!(r#"["1","{hash}","","",[],"1","1","1","yes"]"#),
            ParamsError::Malformed("clean_jobs"),
        ),
        (
            format!(r#"["1","{hash}","","",[],"200000000","1","1",true]"#),
            ParamsError::Malformed("version"),
        ),
        (format!(r#"["1","{hash}","","",[],"","1","1",true]"#), ParamsError::Malformed("version")),
        (format!(r#"["1","{hash}","","",[],"1","+1","1",true]"#), ParamsError::Malformed("nbits")),
        (format!(r#"["1","{hash}","","",[],"1","1",null,true]"#), ParamsError::Missing("ntime")),
        (format!(r#"[null,"{hash}","","",[],"1","1","1",true]"#), ParamsError::Missing("job_id")),
    ] {
        let line = format!(r#"{{"id":null,"method":"mining.notify","params":{params}}}"#);
        assert_eq!(
            message(&line).body,
            Body::Invalid { method: "mining.notify", error },
            "{params}"
        );
    }
}

#[test]
fn notifications() {
    let body = |method: &str, params: &str| -> Body<'static> {
        message(format!(r#"{{"id":null,"method":"{method}","params":{params}}}"#).leak()).body
    };
    assert_eq!(
        body("mining.set_difficulty", "[16383.75]"),
        Body::SetDifficulty { difficulty: 16383.75 }
    );
    assert_eq!(body("mining.set_difficulty", "[\"8\"]"), Body::SetDifficulty { difficulty: 8.0 });
    for bad in ["[]", "[0]", "[-1]", "[null]"] {
        let error = ParamsError::Malformed("difficulty");
        assert_eq!(
            body("mining.set_difficulty", bad),
            Body::Invalid { method: "mining.set_difficulty", error }
        );
    }
    assert_eq!(
        body("mining.set_version_mask", "[\"1fffe000\"]"),
        Body::SetVersionMask { mask: 0x1fff_e000 }
    );
    let extranonce = Body::SetExtranonce { extranonce1: vec![0x2a], extranonce2_size: 4 };
    assert_eq!(body("mining.set_extranonce", "[\"2a\",4]"), extranonce);
    let target = format!("[\"{}\"]", "0f".repeat(32));
    assert_eq!(body("mining.set_target", &target), Body::SetTarget { target: [0x0f; 32] });
    assert_eq!(body("client.show_message", "[\"hi\"]"), Body::ShowMessage { message: "hi".into() });
    assert_eq!(body("mining.hello", "[]"), Body::Unknown { method: "mining.hello".into() });
    assert_eq!(message("\r").body, Body::Blank);
}

#[test]
fn reconnects() {
    for (params, host, port, wait_seconds) in [
        ("[]", None, None, 0),
        (r#"["pool.example",3333,5]"#, Some("pool.example"), Some(3333), 5),
        // The port is a string as often as a number.
        (r#"["pool.example","3333"]"#, Some("pool.example"), Some(3333), 0),
        (r#"["",0,0]"#, None, Some(0), 0),
        (r#"[null,99999,"x"]"#, None, None, 0),
    ] {
        let line = format!(r#"{{"id":null,"method":"client.reconnect","params":{params}}}"#);
        let Body::Reconnect(reconnect) = message(&line).body else { panic!("{line}") };
        assert_eq!(
            (reconnect.host.as_deref(), reconnect.port, reconnect.wait_seconds),
            (host, port, wait_seconds)
        );
    }
}

#[test]
fn replies_with_string_ids() {
    let line = r#"{"id":"7","result":true,"error":null}"#;
    assert_eq!(message(line).id.and_then(|id| id.as_u64()), Some(7));
    assert_eq!(reply(line).result.to_text(&mut Repairs::default()), None);
}
