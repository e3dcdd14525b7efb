//! The pages, on a node and roles that say what they want.

mod common;

use std::time::{Duration, Instant};

use common::{ADDRESS, Fake, Running, SCRIPT, SOON, hash};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

fn every_page() -> Vec<String> {
    let mut pages: Vec<String> = [
        "/",
        "/blocks",
        "/blocks?from=7",
        "/mempool",
        "/mining",
        "/roles",
        "/role/node",
        "/block/0",
        "/block/20",
    ]
    .map(str::to_owned)
    .into();
    pages.extend(
        ["provider", "jds", "pool", "translator", "miner"].map(|role| format!("/role/{role}")),
    );
    pages.push(format!("/block/{}", hash(20)));
    pages.push(format!("/tx/{}", hash(1_020)));
    pages.push(format!("/tx/{}", hash(7_777)));
    pages.push(format!("/address/{ADDRESS}"));
    pages
}

#[tokio::test]
async fn scripts_in_names_and_tags_are_text() {
    let (explorer, _node, _roles) = Running::hostile().await;
    // They are there, as text.
    for path in ["/", "/mining", "/block/20", "/role/pool"] {
        explorer.eventually(path, |page| page.text.contains("&lt;script&gt;alert(")).await;
    }
    for path in every_page() {
        let page = explorer.get(&path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        assert_safe(&path, &page);
    }
}

/// Nothing in it runs, loads from elsewhere or is styled by what a peer can name.
fn assert_safe(path: &str, page: &common::Page) {
    assert!(!page.text.contains("<script>"), "{path}: {}", page.text);
    assert_eq!(page.text.matches("<script").count(), 1, "{path}: {}", page.text);
    for inline in [" style=", " onerror=", " onclick=", "javascript:", "src=\"http", "href=\"http"]
    {
        assert!(!page.text.contains(inline), "{path} has {inline}: {}", page.text);
    }
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn what_is_not_there_is_said_with_the_right_status() {
    let (explorer, _node, _roles) = Running::hostile().await;
    let long = "f".repeat(5_000);
    let cases = [
        ("/nowhere".to_owned(), 404),
        ("/block/21".to_owned(), 404),
        ("/block/99999999".to_owned(), 404),
        (format!("/block/{}", hash(99)), 404),
        (format!("/block/{}", "f".repeat(64)), 404),
        ("/block/x".to_owned(), 400),
        ("/block/-1".to_owned(), 400),
        ("/block/%00%ff".to_owned(), 400),
        (format!("/block/{long}"), 400),
        ("/block/20?from=x".to_owned(), 400),
        ("/blocks?from=-1".to_owned(), 400),
        ("/mempool?from=99999999999999999999999".to_owned(), 400),
        (format!("/tx/{}", hash(5)), 404),
        (format!("/tx/{}", "F".repeat(64)), 404),
        ("/tx/abc".to_owned(), 400),
        ("/tx/%3Cscript%3E".to_owned(), 400),
        ("/address/garbage".to_owned(), 400),
        ("/address/%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(), 400),
        // Of the main chain.
        ("/address/bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq".to_owned(), 400),
        ("/role/nobody".to_owned(), 404),
        ("/role/%3Cscript%3E".to_owned(), 404),
        ("/static/nothing".to_owned(), 404),
        ("/static/..%2Fstyle.css".to_owned(), 404),
        ("/search?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(), 404),
        ("/search?q=9999999999".to_owned(), 404),
    ];
    for (path, status) in cases {
        let page = explorer.get(&path).await;
        assert_eq!(page.status, status, "{path}: {}", page.text);
        // Also what is refused before it comes to a page of ours.
        assert!(!page.text.contains("<script>"), "{path}: {}", page.text);
        assert!(page.header("content-security-policy").is_some(), "{path}");
    }
    // Far beyond the end of a list is its end.
    assert_eq!(explorer.get("/block/20?from=99999").await.status, 200);
    assert_eq!(explorer.get("/mempool?from=99999").await.status, 200);
    assert_eq!(explorer.get("/blocks?from=4294967295").await.status, 200);
}

#[tokio::test]
async fn the_search_leads_on() {
    let (explorer, _node, _roles) = Running::hostile().await;
    let (block, tx) = (hash(20), hash(7_777));
    let cases = [
        ("20".to_owned(), "/block/20".to_owned()),
        (format!("+{block}+"), format!("/block/{block}")),
        (block.to_uppercase(), format!("/block/{block}")),
        (tx.clone(), format!("/tx/{tx}")),
        (ADDRESS.to_owned(), format!("/address/{ADDRESS}")),
        (String::new(), "/".to_owned()),
    ];
    for (text, wanted) in cases {
        let page = explorer.get(&format!("/search?q={text}")).await;
        assert_eq!((page.status, page.header("location")), (303, Some(&*wanted)), "{text}");
    }
}

#[tokio::test]
async fn a_node_that_goes_away_takes_only_its_answers_along() {
    let (explorer, node, _roles) = Running::hostile().await;
    node.set(|said| said.up = false);
    let gone = |page: &common::Page| {
        page.text.contains("The node does not answer") && page.text.contains("data-since=")
    };
    let home = explorer.eventually("/", gone).await;
    assert_eq!(home.status, 200);
    assert!(home.text.contains("/block/20") && home.text.contains("Work queue depth exceeded"));
    for path in ["/blocks", "/mining", "/roles", "/role/node", "/mempool"] {
        assert_eq!(explorer.get(path).await.status, 200, "{path}");
    }
    for path in
        [format!("/block/{}", hash(20)), "/block/3".to_owned(), format!("/tx/{}", hash(7_777))]
    {
        let page = explorer.get(&path).await;
        assert_eq!(page.status, 503, "{path}");
        assert!(page.text.contains("Work queue depth exceeded"), "{path}: {}", page.text);
        assert_safe(&path, &page);
    }
    // What is known without the node is shown.
    let address = explorer.get(&format!("/address/{ADDRESS}")).await;
    assert_eq!(address.status, 200);
    assert!(address.text.contains("does not give the coins") && address.text.contains("/block/20"));
    assert_eq!(explorer.get(&format!("/search?q={}", hash(20))).await.status, 503);

    node.set(|said| (said.up, said.height) = (true, 21));
    let back = |page: &common::Page| {
        !page.text.contains("does not answer") && page.text.contains("/block/21")
    };
    explorer.eventually("/", back).await;
}

/// While its blocks are still asked for; and it comes back with the tip that it had.
#[tokio::test]
async fn a_node_that_goes_away_before_its_blocks_are_known() {
    let node = Fake::node().await;
    node.set(|said| said.blocks = false);
    let explorer = Running::start(&node, &[]).await;
    explorer.ready().await;
    node.set(|said| said.up = false);
    explorer.eventually("/", |page| page.text.contains("The node does not answer")).await;
    node.set(|said| (said.up, said.blocks) = (true, true));
    let back = |page: &common::Page| {
        !page.text.contains("does not answer") && page.text.contains("/block/20")
    };
    explorer.eventually("/", back).await;
}

#[tokio::test]
async fn a_role_that_goes_away_is_named_and_the_rest_stays() {
    let (explorer, _node, roles) = Running::hostile().await;
    let pool = &roles.iter().find(|(name, _)| *name == "pool").unwrap().1;
    pool.set(|said| said.up = false);
    let gone = |page: &common::Page| {
        page.text
            .contains("href=\"/role/pool\">pool</a> does not answer</strong> for <time data-since=")
    };
    let home = explorer.eventually("/", gone).await;
    assert!(home.text.contains("/status answers with HTTP 500"), "{}", home.text);
    assert!(home.text.contains("/block/20"));
    // The translator still says who mines.
    explorer.eventually("/mining", |page| page.text.contains("translator")).await;
    pool.set(|said| said.up = true);
    explorer.eventually("/", |page| !page.text.contains("does not answer")).await;

    // It says that it waits: that is not being away.
    pool.set(|said| {
        said.status["ready"] = json!(false);
        said.status["waiting_for"] =
            json!([{ "condition": "template", "reason": SCRIPT, "seconds": 3 }]);
    });
    let waits = |page: &common::Page| page.text.contains("data-state=\"waiting\"");
    let page = explorer.eventually("/", waits).await;
    assert_safe("/", &page);
    let says = |page: &common::Page| page.text.contains("It waits. template: &lt;script&gt;");
    explorer.eventually("/role/pool", says).await;
}

/// Asks for the first page until it once comes within this time: on a busy machine it may be held up by others.
async fn quick_enough(explorer: &Running, within: Duration) -> common::Page {
    let (began, mut quickest) = (Instant::now(), Duration::MAX);
    while began.elapsed() < SOON {
        let started = Instant::now();
        let page = explorer.get("/").await;
        quickest = quickest.min(started.elapsed());
        assert_eq!(page.status, 200);
        if quickest < within {
            return page;
        }
    }
    panic!("{quickest:?}");
}

#[tokio::test]
async fn roles_that_hang_or_talk_nonsense_hold_up_nobody() {
    let node = Fake::node().await;
    let hangs = Fake::role(json!({})).await;
    hangs.set(|said| said.delay = Duration::from_secs(3_600));
    let nonsense = Fake::role(json!([1, "two", null])).await;
    nonsense.set(|said| said.metrics = "a{\nb b b\n\u{0}\nc{x=\"\\\"} 1\n".repeat(1_000));
    // Nobody there at all.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = held.local_addr().unwrap();
    let roles = [
        ("hangs", "pool", hangs.addr),
        ("nonsense", "translator", nonsense.addr),
        ("closed", "jds", closed),
    ];
    let explorer = Running::start(&node, &roles).await;
    explorer.ready().await;
    quick_enough(&explorer, Duration::from_secs(2)).await;
    explorer.eventually("/roles", |page| page.text.contains("connection refused")).await;
    explorer.eventually("/roles", |page| page.text.contains("no answer within 3 s")).await;
    for path in ["/", "/mining", "/roles", "/role/nonsense", "/role/hangs"] {
        assert_eq!(explorer.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_first_page_is_small_and_quick_in_a_full_lab() {
    let (explorer, _node, roles) = Running::hostile().await;
    let pool = &roles.iter().find(|(name, _)| *name == "pool").unwrap().1;
    pool.set(|said| {
        let channel = said.status["state"]["channels"][0].clone();
        let channels = (0..500).map(|at| {
            let mut channel = channel.clone();
            channel["identity"] = json!(format!("account-{at}.{SCRIPT}"));
            channel
        });
        said.status["state"]["channels"] = channels.collect();
    });
    explorer.eventually("/", |page| page.text.contains("account-")).await;
    let page = quick_enough(&explorer, Duration::from_millis(100)).await;
    assert!(page.text.len() < 100 * 1024, "{} bytes", page.text.len());
    assert!(explorer.get("/mining").await.text.contains("more"));
}

#[tokio::test]
async fn an_open_page_hears_of_a_new_block() {
    let (explorer, node, _roles) = Running::hostile().await;
    let stream = TcpStream::connect(explorer.pages).await.unwrap();
    let mut lines = BufReader::new(stream);
    lines.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut hears = async |wanted: &str| {
        let heard = timeout(SOON, async {
            let mut line = String::new();
            while !line.contains(wanted) {
                line.clear();
                assert!(lines.read_line(&mut line).await.unwrap() > 0, "it was closed");
            }
        });
        heard.await.expect(wanted);
    };
    // From here on it is told of everything.
    hears("retry: ").await;
    node.set(|said| said.height = 21);
    hears(&hash(21)).await;
    assert!(explorer.metrics().contains("adit_explorer_live_pages 1"), "{}", explorer.metrics());
    drop(lines);
    let deadline = Instant::now() + SOON;
    while !explorer.metrics().contains("adit_explorer_live_pages 0") {
        assert!(Instant::now() < deadline, "an open page is counted for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn files_are_served_with_their_types() {
    let node = Fake::node().await;
    let explorer = Running::start(&node, &[]).await;
    for (name, kind) in
        [("style.css", "text/css"), ("app.js", "text/javascript"), ("icon.svg", "image/svg")]
    {
        let page = explorer.get(&format!("/static/{name}")).await;
        assert_eq!(page.status, 200);
        assert!(page.header("content-type").unwrap().starts_with(kind), "{}", page.head);
        assert!(page.header("cache-control").unwrap().contains("max-age"));
        // Nothing in them is from elsewhere.
        assert!(!page.text.replace("http://www.w3.org/2000/svg", "").contains("://"), "{name}");
    }
    // Without roles there is still a chain to look at.
    explorer.eventually("/", |page| page.text.contains("/block/20")).await;
    assert!(explorer.get("/roles").await.text.contains("No role is configured"));
}
