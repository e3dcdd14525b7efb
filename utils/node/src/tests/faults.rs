use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bitcoin::BlockHash;
use serde_json::{Value, json};

use super::fake::{Call, Fake, HASH, Reaction};
use crate::{Auth, Node, NodeConfig, NodeError, ProposalResult, SubmitResult};

#[tokio::test]
async fn a_new_cookie_is_read_after_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let cookie = dir.path().join(".cookie");
    let wanted = Arc::new(Mutex::new("Basic X19jb29raWVfXzpvbmU=")); // __cookie__:one
    let fake = Fake::start({
        let wanted = wanted.clone();
        move |call| match call.authorization == *wanted.lock().unwrap() {
            true => call.result(json!(HASH)),
            false => Reaction::Http(401, String::new()),
        }
    })
    .await;
    let config = NodeConfig::new(fake.url(), Auth::Cookie(cookie.clone()));
    let node = Node::new(config).unwrap();

    let error = node.getbestblockhash().await.unwrap_err();
    assert!(
        matches!(&error, NodeError::Credentials(text) if text.contains("cannot read cookie_file"))
    );

    fs::write(&cookie, "__cookie__:one").unwrap();
    assert_eq!(node.getbestblockhash().await.unwrap().to_string(), HASH);

    *wanted.lock().unwrap() = "Basic X19jb29raWVfXzp0d28="; // __cookie__:two
    let error = node.getbestblockhash().await.unwrap_err();
    assert!(matches!(&error, NodeError::Credentials(text) if text.contains(".cookie")), "{error}");
    assert!(!error.to_string().contains("one"));

    fs::write(&cookie, "__cookie__:two\n").unwrap();
    assert_eq!(node.getbestblockhash().await.unwrap().to_string(), HASH);
}

#[tokio::test]
async fn a_lost_connection_is_replaced_where_a_repeat_does_no_harm() {
    // Each connection serves one call and dies in the middle of its second answer.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fake = Fake::start({
        let seen = seen.clone();
        move |call: &Call| {
            let mut seen = seen.lock().unwrap();
            let first = !seen.iter().any(|(connection, _)| *connection == call.connection);
            seen.push((call.connection, call.method.clone()));
            match first {
                true if call.method == "submitblock" => call.result(json!("duplicate")),
                true => call.result(json!(HASH)),
                false => {
                    Reaction::Break(b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{\"re".to_vec())
                }
            }
        }
    })
    .await;
    let node = fake.node();
    node.getbestblockhash().await.unwrap();
    node.getbestblockhash().await.unwrap();
    assert_eq!(node.submitblock(&[0; 80]).await.unwrap(), SubmitResult::Duplicate);
    // What may have been carried out is not asked for a second time.
    let error = node.call::<Value>("generatetoaddress", ("x",)).await.unwrap_err();
    assert!(matches!(&error, NodeError::Unreachable(text) if text.contains("connection lost")));

    let seen: Vec<_> = seen.lock().unwrap().iter().map(|(c, m)| (*c, m.clone())).collect();
    let best = "getbestblockhash".to_owned();
    let submit = "submitblock".to_owned();
    assert_eq!(
        seen,
        [
            (0, best.clone()),
            (0, best.clone()),
            (1, best),
            (1, submit.clone()),
            (2, submit),
            (2, "generatetoaddress".to_owned()),
        ]
    );
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_not_tried_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let calls = calls.clone();
        move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
            Reaction::Break(Vec::new())
        }
    })
    .await;
    let error = fake.node().getbestblockhash().await.unwrap_err();
    assert!(matches!(error, NodeError::Unreachable(_)), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let auth = Auth::UserPass { user: "u".into(), password: "p".into() };
    let error =
        Node::new(NodeConfig::new(url, auth)).unwrap().getbestblockhash().await.unwrap_err();
    assert!(matches!(&error, NodeError::Unreachable(text) if text.contains("refused")), "{error}");
}

/// An address that says nothing costs a block seconds, not the minute that a node may take to judge it.
#[tokio::test(start_paused = true)]
async fn an_address_that_says_nothing_is_given_up_early() {
    // Where the places of a listener are taken, the kernel leaves newcomers without an answer.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(1).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the kernel takes them all");
    }
    let auth = Auth::UserPass { user: "u".into(), password: "p".into() };
    let node = Node::new(NodeConfig::new(format!("http://{address}"), auth)).unwrap();
    let started = tokio::time::Instant::now();
    let error = node.submitblock(&[1]).await.unwrap_err();
    let text = format!("{address}: cannot connect: no answer within 5 s");
    assert_eq!(error, NodeError::Unreachable(text));
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn each_refusal_has_its_name() {
    fn says(call: &Call) -> Reaction {
        let http = |status, body: &str| Reaction::Http(status, body.to_owned());
        match call.method.as_str() {
            "warming" => call.error(-28, "Loading block index\u{2026}"),
            "syncing" => call.error(-10, "is in initial sync"),
            "alone" => call.error(-9, "is not connected!"),
            "rude" => call.error(-8, "a\nb\u{1b}[31m"),
            "busy" => http(503, "Work queue depth exceeded"),
            "forbidden" => http(403, ""),
            "garbage" => http(200, "<html>"),
            "proxy" => http(502, "<html>bad gateway"),
            "other" => http(200, r#"{"result":1,"error":null,"id":"x"}"#),
            "nothing" => call.result(Value::Null),
            _ => call.result(json!("text")),
        }
    }
    let node = Fake::start(says).await;
    let node = node.node();
    let rpc = |code, message: &str| NodeError::Rpc { code, message: message.into() };
    for (method, expected) in [
        ("warming", NodeError::WarmingUp("Loading block index\u{2026}".into())),
        ("syncing", NodeError::Syncing("is in initial sync".into())),
        ("alone", NodeError::NoPeers("is not connected!".into())),
        ("rude", rpc(-8, "a b [31m")),
        ("busy", NodeError::Busy("Work queue depth exceeded".into())),
    ] {
        assert_eq!(node.query::<u32>(method, ()).await.unwrap_err(), expected);
    }
    let error = node.query::<u32>("forbidden", ()).await.unwrap_err();
    assert!(matches!(error, NodeError::Credentials(_)), "{error}");
    for method in ["garbage", "proxy", "other", "nothing", "wrong type"] {
        let error = node.query::<u32>(method, ()).await.unwrap_err();
        assert!(
            matches!(&error, NodeError::Malformed(text) if text.starts_with(method)),
            "{method}: {error}"
        );
    }
    assert_eq!(node.query::<Option<u32>>("nothing", ()).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_said_of_an_answer_is_short_whatever_is_in_it() {
    let text = format!("{}\u{1b}[31m", "A".repeat(10_000));
    let fake = Fake::start(move |call| match call.params.as_array().map(Vec::len) {
        // A batch.
        Some(2) => Reaction::Http(200, json!([{ "result": text, "id": 0 }]).to_string()),
        _ => call.result(json!(text)),
    })
    .await;
    let alone = fake.node().query::<u32>("wrong", ()).await.unwrap_err().to_string();
    let many = fake.node().query_many::<u32>("wrong", [1, 2]).await.unwrap_err().to_string();
    for error in [alone, many] {
        assert!(error.len() < 400 && error.contains("AAAA"), "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
}

#[tokio::test]
async fn an_answer_too_large_is_cut_off() {
    let fake = Fake::start(|call| match call.method.as_str() {
        "announced" => {
            Reaction::Break(b"HTTP/1.1 200 X\r\nContent-Length: 99000000000\r\n\r\n".to_vec())
        }
        _ => Reaction::Flood,
    })
    .await;
    for method in ["announced", "flood"] {
        let error = fake.node().query::<Value>(method, ()).await.unwrap_err();
        assert!(
            matches!(&error, NodeError::Malformed(text) if text.contains("64 MiB")),
            "{method}: {error}"
        );
    }
}

#[tokio::test]
async fn slow_calls_end_at_their_deadline_and_hold_up_no_block() {
    let fake = Fake::start(|call| match call.method.as_str() {
        "submitblock" => call.result(Value::Null),
        _ => Reaction::Hang,
    })
    .await;
    let config = NodeConfig { timeout: Duration::from_millis(300), ..fake.config() };
    let reports = Arc::new(Mutex::new(Vec::new()));
    let node = Node::with_observer(config, {
        let reports = reports.clone();
        move |report| {
            let kind = report.error.map(NodeError::kind);
            reports.lock().unwrap().push((report.method.to_owned(), report.duration, kind));
        }
    })
    .unwrap();

    // More than run at a time: the last ones wait for a place, and their deadline counts that.
    let slow: Vec<_> = (0..6)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.getbestblockhash().await.unwrap_err() })
        })
        .collect();
    assert_eq!(node.submitblock(&[1]).await.unwrap(), SubmitResult::Accepted);
    for call in slow {
        let expected = NodeError::Timeout {
            method: "getbestblockhash".into(),
            after: Duration::from_millis(300),
        };
        assert_eq!(call.await.unwrap(), expected);
    }
    let reports = reports.lock().unwrap();
    assert_eq!((reports[0].0.as_str(), reports[0].2), ("submitblock", None));
    assert_eq!(reports.len(), 7);
    for (method, duration, kind) in &reports[1..] {
        assert_eq!((method.as_str(), *kind), ("getbestblockhash", Some("timeout")));
        assert!(*duration >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn waitfornewblock_of_an_older_node() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fake = Fake::start({
        let seen = seen.clone();
        move |call| {
            seen.lock().unwrap().push(call.params.clone());
            match call.params.as_array().map(Vec::len) {
                Some(1) => call.result(json!({ "hash": HASH, "height": 7 })),
                _ => call.error(-1, "waitfornewblock ( timeout )\n\nWaits for any new block"),
            }
        }
    })
    .await;
    let node = fake.node();
    let tip: BlockHash = HASH.parse().unwrap();
    for _ in 0..2 {
        let wait = Duration::from_millis(1500);
        let answer = node.waitfornewblock(wait, &tip).await.unwrap();
        assert_eq!((answer.hash, answer.height), (tip, 7));
    }
    assert_eq!(*seen.lock().unwrap(), [json!([1500, HASH]), json!([1500]), json!([1500])]);
}

#[tokio::test]
async fn verdicts_on_blocks() {
    let verdicts = [
        json!(null),
        json!("duplicate"),
        json!("duplicate-inconclusive"),
        json!("inconclusive"),
        json!("inconclusive-not-best-prevblk"),
        json!("bad-cb-amount"),
        json!(-22),
    ];
    let mut next = verdicts.into_iter().cycle();
    let fake = Fake::start(move |call| match next.next().unwrap() {
        Value::Number(_) => call.error(-22, "Block decode failed"),
        verdict => call.result(verdict),
    })
    .await;
    let node = fake.node();

    let refused = |reason: &str| SubmitResult::Rejected(reason.into());
    for expected in [
        SubmitResult::Accepted,
        SubmitResult::Duplicate,
        SubmitResult::DuplicateInconclusive,
        SubmitResult::Inconclusive,
        refused("inconclusive-not-best-prevblk"),
        refused("bad-cb-amount"),
        refused("Block decode failed"),
    ] {
        assert_eq!(node.submitblock(b"x").await.unwrap(), expected);
        assert_eq!(
            expected.is_success(),
            matches!(expected, SubmitResult::Accepted | SubmitResult::Duplicate)
        );
    }
    let refused = |reason: &str| ProposalResult::Rejected(reason.into());
    for expected in [
        ProposalResult::Valid,
        ProposalResult::Duplicate,
        refused("duplicate-inconclusive"),
        refused("inconclusive"),
        ProposalResult::NotOnTip,
        refused("bad-cb-amount"),
        refused("Block decode failed"),
    ] {
        assert_eq!(node.propose_block(b"x", crate::Rules::Segwit).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn many_calls_in_one_exchange() {
    // Knows transactions whose hash begins with a 0, and answers `reversed` ones out of order.
    let reversed = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let reversed = reversed.clone();
        move |call| {
            let mut answers: Vec<Value> = call
                .params
                .as_array()
                .unwrap()
                .iter()
                .map(|call| match call["params"][0].as_str().unwrap().as_bytes()[0] {
                    b'0' => json!({ "result": "00ff", "error": null, "id": call["id"] }),
                    _ => json!({ "result": null, "error": { "code": -5, "message": "no" }, "id": call["id"] }),
                })
                .collect();
            if reversed.load(Ordering::Relaxed) == 1 {
                answers.reverse();
            }
            answers.truncate(answers.len() - reversed.load(Ordering::Relaxed) / 2);
            Reaction::Http(200, Value::Array(answers).to_string())
        }
    })
    .await;
    let node = fake.node();
    let txids = [HASH, &HASH.replace("000", "fff"), HASH].map(|hash| hash.parse().unwrap());
    let found = node.getrawtransactions(&txids).await.unwrap();
    assert_eq!(found, [Some(vec![0, 0xff]), None, Some(vec![0, 0xff])]);
    assert_eq!(node.getrawtransactions(&[]).await.unwrap(), [None; 0]);
    // Answers in another order are those to other questions; too few are none.
    reversed.store(1, Ordering::Relaxed);
    assert_eq!(node.getrawtransactions(&txids).await.unwrap()[0], None);
    reversed.store(2, Ordering::Relaxed);
    let error = node.getrawtransactions(&txids).await.unwrap_err();
    assert!(matches!(&error, NodeError::Malformed(text) if text.contains("2 answers to 3")));
}
