use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn served(cx: &Context, limits: Limits) -> (SocketAddr, tokio_util::sync::DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, cx.clone(), stop.clone(), limits));
    (addr, stop.drop_guard())
}

/// Sends and reads until the server closes.
async fn exchange(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may close in the middle of a bad request.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = timeout(Duration::from_secs(20), reading).await.expect("the connection is closed");
    String::from_utf8(answer).unwrap()
}

/// Waits until at least so many connections were closed for this reason.
async fn counted(addr: SocketAddr, reason: &str, least: u64) {
    let name = format!("adit_http_closed_total{{reason=\"{reason}\"}} ");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (_, text) = get_page(addr, "/metrics").await;
        let count = text.lines().find_map(|line| line.strip_prefix(&name));
        if count.is_some_and(|count| count.parse::<u64>().unwrap() >= least) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not {least} {reason}: {text}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn get_page(addr: SocketAddr, path: &str) -> (String, String) {
    let answer = exchange(addr, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn code(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let cx = Context::new("test");
    let (addr, _stop) = served(&cx, Limits::default()).await;
    let readyz = || async {
        let (head, body) = get_page(addr, "/readyz").await;
        // However long the machine takes.
        let body: Vec<&str> =
            body.lines().map(|line| line.split(" (for ").next().unwrap()).collect();
        (code(&head).to_owned(), body.join("\n"))
    };
    assert_eq!(readyz().await, ("503".into(), "not ready\nstart: starting".into()));

    cx.readiness.waiting_for("node", "node is warming up: loading blocks");
    cx.readiness.ok("store");
    let expected = "not ready\nnode: node is warming up: loading blocks";
    assert_eq!(readyz().await, ("503".into(), expected.into()));
    assert!(!cx.readiness.is_ready());

    cx.readiness.waiting_for("store", "disk full");
    assert!(readyz().await.1.ends_with("\nstore: disk full"));

    cx.readiness.ok("node");
    cx.readiness.set("store", Ok(()));
    cx.readiness.ready().await;
    assert_eq!(readyz().await, ("200".into(), "ready".into()));
    assert_eq!(code(&get_page(addr, "/healthz").await.0), "200");
}

#[tokio::test]
async fn status_is_one_document() {
    let cx = Context::new("test");
    let (addr, _stop) = served(&cx, Limits::default()).await;
    cx.listening("miners", "127.0.0.1:5".parse().unwrap());
    cx.readiness.waiting_for("node", "away");
    let status = || async {
        let (head, body) = get_page(addr, "/status").await;
        assert!(head.contains("content-type: application/json"), "{head}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let expected = serde_json::json!({
        "role": "test", "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": null, "ready": false,
        "waiting_for": [{"condition": "node", "reason": "away", "seconds": null}],
        "listeners": {"miners": "127.0.0.1:5"}, "state": null,
    });
    let mut first = status().await;
    assert!(
        first["uptime_seconds"].take().is_u64()
            && first["waiting_for"][0]["seconds"].take().is_u64()
    );
    assert_eq!(first, expected);
    cx.set_status(|| serde_json::json!({"channels": 3}));
    cx.readiness.ok("node");
    let now = status().await;
    assert_eq!((&now["state"]["channels"], &now["ready"]), (&3.into(), &true.into()));

    // A role that cannot say how it is doing takes nothing else with it.
    cx.set_status(|| panic!("on purpose"));
    assert_eq!(exchange(addr, b"GET /status HTTP/1.0\r\n\r\n").await, "");
    assert_eq!(code(&get_page(addr, "/healthz").await.0), "200");
}

#[tokio::test]
async fn metrics_in_both_formats() {
    use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

    let cx = Context::new("test");
    let (addr, _stop) = served(&cx, Limits::default()).await;
    let shares = Counter::<u64>::default();
    let latency = Histogram::new([0.1, 1.0]);
    cx.metrics.register(|registry| {
        registry.register("shares", "Shares \"seen\"", shares.clone());
        registry.register("latency", "Latency", latency.clone());
    });
    shares.inc_by(3);
    latency.observe(0.5);
    cx.readiness.ok("all");

    let asked = "GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n\r\n";
    let answer = exchange(addr, asked.as_bytes()).await;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let mut samples = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap_or_default());
            assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&kind), "{line}");
            assert!(kind == "EOF" || name.starts_with("adit_"), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("adit_"), "{line}");
        samples.insert(name.to_owned(), value.parse::<f64>().unwrap());
    }
    let sample = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    assert_eq!(sample("adit_shares_total"), 3.0);
    assert_eq!(sample("adit_latency_bucket{le=\"1.0\"}"), 1.0);
    assert_eq!(sample("adit_ready"), 1.0);
    let build =
        format!("adit_build_info{{role=\"test\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(sample(&build), 1.0);
    assert!((0.0..60.0).contains(&sample("adit_uptime_seconds")));
    if cfg!(target_os = "linux") {
        assert!(sample("adit_process_resident_memory_bytes") > 1e6);
        assert!(sample("adit_process_cpu_seconds_total") >= 0.0);
        assert!(sample("adit_process_open_fds") >= 3.0);
    }

    let (head, classic) = get_page(addr, "/metrics").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(classic.contains(
        "# HELP adit_shares_total Shares \"seen\".\n# TYPE adit_shares_total counter\nadit_shares_total 3\n"
    ), "{classic}");
    assert!(classic.contains("# TYPE adit_latency histogram\nadit_latency_sum 0.5\n"), "{classic}");
    assert!(!classic.contains("# UNIT") && !classic.contains("# EOF"), "{classic}");
    let of = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(of(&classic), of(text));
}

#[tokio::test]
async fn bad_requests() {
    let cx = Context::new("test");
    let (addr, _stop) = served(&cx, Limits::default()).await;
    assert_eq!(get_page(addr, "/").await.1, PAGES);
    let (head, body) = get_page(addr, "/nothing/%3Cscript%3E").await;
    assert_eq!((code(&head), body.as_str()), ("404", PAGES));
    assert_eq!(
        code(&exchange(addr, b"POST /status HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc").await),
        "405"
    );
    assert_eq!(code(&exchange(addr, b"nonsense\r\n\r\n").await), "400");
    let large = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    // 414, 431, or reset before the answer is read.
    let answer = exchange(addr, large.as_bytes()).await;
    assert!(answer.is_empty() || code(&answer).starts_with('4'), "{answer}");
    assert_eq!(exchange(addr, &[0xff; 100]).await.split(' ').nth(1), Some("400"));
    assert_eq!(code(&get_page(addr, "/healthz").await.0), "200");
    counted(addr, "bad-request", 3).await;
}

#[tokio::test]
async fn silent_and_slow_clients_are_closed() {
    let cx = Context::new("test");
    let limits = Limits { header: Duration::from_millis(100), ..Limits::default() };
    let (addr, _stop) = served(&cx, limits).await;
    // Each returns only because the server closes.
    assert_eq!(exchange(addr, b"").await, "");
    assert_eq!(exchange(addr, b"GET /healthz HT").await, "");
    let idle_after_answer = exchange(addr, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(idle_after_answer.ends_with("ok\n"), "{idle_after_answer}");
    counted(addr, "request-timeout", 2).await;
}

#[tokio::test]
async fn clients_that_never_read_are_closed() {
    let cx = Context::new("test");
    cx.set_status(|| "a".repeat(8 << 20).into());
    let limits = Limits { life: Duration::from_millis(300), connections: 1, ..Limits::default() };
    let (addr, _stop) = served(&cx, limits).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // Its place is free again once it is closed, though it has read nothing.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while exchange(addr, b"GET /healthz HTTP/1.0\r\n\r\n").await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the place is never given back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn too_many_clients() {
    let cx = Context::new("test");
    let limits = Limits { connections: 2, ..Limits::default() };
    let (addr, _stop) = served(&cx, limits).await;
    // Answered, so accepted for certain, and kept open.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        held.push(stream);
    }
    assert_eq!(exchange(addr, b"GET /healthz HTTP/1.0\r\n\r\n").await, "");
    held.pop();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while exchange(addr, b"GET /healthz HTTP/1.0\r\n\r\n").await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the place is never given back");
        sleep(Duration::from_millis(20)).await;
    }
    let (_, text) = get_page(addr, "/metrics").await;
    assert!(text.contains("adit_http_closed_total{reason=\"too-many-connections\"} "), "{text}");
}
