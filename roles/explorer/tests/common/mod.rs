//! A node and roles that say what a test wants, and a reader of pages.
#![allow(missing_docs, clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adit_explorer::{Explorer, config::Config};
use adit_service::Handle;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// What a peer might call itself.
pub const SCRIPT: &str = "<script>alert('mine')</script>\"'&";

/// For anything to happen, on a machine busy with other tests.
pub const SOON: Duration = Duration::from_secs(60);

/// A hash for a name.
pub fn hash(name: u32) -> String {
    format!("{name:064x}")
}

/// The address that is paid.
pub const ADDRESS: &str = "bcrt1qpawhy9t8sk68qks5se9gjtcgnc3u7tpdnh6cfa";

/// What a fake says; tests change it.
#[derive(Debug)]
pub struct Said {
    /// Whether it answers.
    pub up: bool,
    /// Of a node: its height.
    pub height: u32,
    /// Of a node: whether it gives blocks.
    pub blocks: bool,
    /// Of a role: its `/status`.
    pub status: Value,
    /// Of a role: its `/metrics`.
    pub metrics: String,
    /// Before each answer.
    pub delay: Duration,
}

#[derive(Clone)]
pub struct Fake {
    pub addr: SocketAddr,
    said: Arc<Mutex<Said>>,
}

impl Fake {
    pub async fn node() -> Self {
        Self::start(|router| router.route("/", post(rpc))).await
    }

    pub async fn role(status: Value) -> Self {
        let fake = Self::start(|router| {
            router.route("/status", get(status_page)).route("/metrics", get(metrics_page))
        });
        let fake = fake.await;
        fake.set(|said| said.status = status);
        fake
    }

    pub fn set(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock().unwrap());
    }

    async fn start(routes: impl FnOnce(Router<Self>) -> Router<Self>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (status, metrics) = (json!({}), String::new());
        let said =
            Said { up: true, height: 20, blocks: true, status, metrics, delay: Duration::ZERO };
        let fake = Self { addr: listener.local_addr().unwrap(), said: Arc::new(Mutex::new(said)) };
        let router = routes(Router::new()).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        fake
    }
}

async fn status_page(State(fake): State<Fake>) -> Response {
    let delay = fake.said.lock().unwrap().delay;
    sleep(delay).await;
    let said = fake.said.lock().unwrap();
    match said.up {
        true => Json(said.status.clone()).into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn metrics_page(State(fake): State<Fake>) -> String {
    fake.said.lock().unwrap().metrics.clone()
}

async fn rpc(State(fake): State<Fake>, Json(call): Json<Value>) -> Response {
    let method = call["method"].as_str().unwrap();
    let (up, height) = {
        let said = fake.said.lock().unwrap();
        (said.up && (said.blocks || method != "getblock"), said.height)
    };
    if !up {
        return (StatusCode::SERVICE_UNAVAILABLE, "Work queue depth exceeded").into_response();
    }
    if method == "waitfornewblock" {
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until && fake.said.lock().unwrap().height == height {
            sleep(Duration::from_millis(10)).await;
        }
        let height = fake.said.lock().unwrap().height;
        let result = json!({ "hash": hash(height), "height": height });
        return Json(json!({ "result": result, "error": null, "id": call["id"] })).into_response();
    }
    match answer(method, &call["params"], height) {
        Ok(result) => {
            Json(json!({ "result": result, "error": null, "id": call["id"] })).into_response()
        }
        Err((code, message)) => {
            let error = json!({ "code": code, "message": message });
            Json(json!({ "result": null, "error": error, "id": call["id"] })).into_response()
        }
    }
}

fn answer(method: &str, params: &Value, height: u32) -> Result<Value, (i64, &'static str)> {
    let number = |text: &Value| {
        let text = text.as_str().unwrap_or_default();
        u32::from_str_radix(text.get(56..).unwrap_or("x"), 16)
            .ok()
            .filter(|_| text.starts_with("0000"))
    };
    let block_of =
        |text: &Value| number(text).filter(|known| *known <= height).ok_or((-5, "Block not found"));
    Ok(match method {
        "getbestblockhash" => json!(hash(height)),
        "getblockchaininfo" => json!({
            "chain": "regtest", "blocks": height, "headers": height, "bestblockhash": hash(height),
            "initialblockdownload": false,
        }),
        "getnetworkinfo" => {
            json!({ "version": 290000, "subversion": format!("/{SCRIPT}/"), "connections": 2 })
        }
        "getmininginfo" => json!({ "difficulty": 1.5 }),
        "getblockhash" => {
            let asked = params[0].as_u64().unwrap();
            if asked > u64::from(height) {
                return Err((-8, "Block height out of range"));
            }
            json!(hash(asked as u32))
        }
        "getblockheader" => json!({ "height": block_of(&params[0])? }),
        "getblock" => block(block_of(&params[0])?),
        "getmempoolinfo" => json!({ "size": 2, "bytes": 300, "usage": 4_000, "total_fee": 0.0002 }),
        "getrawmempool" => json!([hash(7_777), hash(7_778)]),
        "getblocktemplate" => json!({
            "version": 1, "previousblockhash": hash(height), "coinbasevalue": 5_000_020_000_u64, "target": "00".repeat(32),
            "mintime": 1, "curtime": 2, "bits": "207fffff", "height": height + 1, "sigoplimit": 80_000,
            "transactions": [{ "data": "00", "txid": hash(7_777), "hash": hash(7_777), "fee": 20_000, "sigops": 1,
                               "weight": 600, "depends": [] }],
        }),
        "getrawtransaction" => {
            let tx = number(&params[0]).ok_or((-5, "No such mempool or blockchain transaction"))?;
            match tx {
                7_777 => transaction(7_777),
                1_000..2_000 if tx - 1_000 <= height => block(tx - 1_000)["tx"][0].clone(),
                _ => return Err((-5, "No such mempool or blockchain transaction")),
            }
        }
        "gettxout" => json!({ "value": 1 }),
        "scantxoutset" => json!({
            "success": true, "height": height, "total_amount": 50.0,
            "unspents": [{ "txid": hash(1_001), "vout": 0, "amount": 50.0, "height": 1, "coinbase": true }],
        }),
        _ => return Err((-32_601, "Method not found")),
    })
}

fn block(height: u32) -> Value {
    let tag: String = SCRIPT.bytes().map(|byte| format!("{byte:02x}")).collect();
    let coinbase = format!("01{height:02x}{:02x}{tag}0401000000", SCRIPT.len());
    let out = json!({ "value": 50.0, "n": 0, "scriptPubKey": { "address": ADDRESS, "asm": SCRIPT, "hex": "00", "type": SCRIPT } });
    json!({
        "hash": hash(height), "confirmations": 1, "height": height, "versionHex": SCRIPT, "merkleroot": SCRIPT,
        "time": 1_700_000_000 + height, "mediantime": 1_700_000_000, "nonce": 1, "bits": SCRIPT, "difficulty": 1.0,
        "previousblockhash": height.checked_sub(1).map(hash), "size": 300, "weight": 900,
        "tx": [{
            "txid": hash(1_000 + height), "hash": hash(1), "version": 2, "size": 100, "vsize": 90, "weight": 360,
            "locktime": 0, "vin": [{ "coinbase": coinbase, "sequence": 0 }], "vout": [out],
        }],
    })
}

/// One of the mempool, without what it spends.
fn transaction(name: u32) -> Value {
    json!({
        "txid": hash(name), "hash": hash(name), "version": 2, "size": 150, "vsize": 150, "weight": 600, "locktime": 0,
        "vin": [{ "txid": hash(1_001), "vout": 0, "scriptSig": { "asm": SCRIPT }, "sequence": 1 }],
        "vout": [
            { "value": 49.9998, "n": 0, "scriptPubKey": { "asm": SCRIPT, "hex": "51", "type": "nonstandard" } },
            { "value": 0.0, "n": 1, "scriptPubKey": { "asm": SCRIPT, "hex": "6a", "type": "nulldata" } },
        ],
    })
}

/// The statuses of a pool, a translator and a miner whose names are scripts.
pub fn hostile_lab() -> Vec<(&'static str, &'static str, Value)> {
    let wrap = |state: Value| {
        json!({ "role": SCRIPT, "version": SCRIPT, "uptime_seconds": 5, "ready": true,
        "waiting_for": [], "listeners": { SCRIPT: SCRIPT }, "state": state })
    };
    let pool = json!({
        "blocks": [{ "hash": hash(20), "account": SCRIPT, "worker": SCRIPT, "extranonce_prefix": "01000000" }],
        "channels": [{ "id": 2, "kind": SCRIPT, "identity": SCRIPT, "vendor": SCRIPT, "remote": SCRIPT, "hashrate": 1e3,
                       "difficulty": 1e-6, "accepted": 4, "rejected": { SCRIPT: 2 }, "extranonce_prefix": "01000000" }],
        "template_providers": [{ "address": SCRIPT, "state": SCRIPT }],
    });
    let translator = json!({ "miners": [{ "user": SCRIPT, "user_agent": SCRIPT, "address": SCRIPT, "hashrate": 5.0,
                                          "shares_rejected": { SCRIPT: 1 } }],
                             "upstream": { "state": SCRIPT, "reason": SCRIPT } });
    let provider = json!({ "template": { "age_seconds": 3, "transactions": 1 }, "clients": [{ "vendor": SCRIPT }],
                           "nodes": [{ "url": SCRIPT, "problem": SCRIPT }] });
    let device = json!({ "mode": SCRIPT, "reason": SCRIPT, "connections": [{ "user": SCRIPT, "state": SCRIPT }] });
    let jds = json!({ "clients": [{ "vendor": SCRIPT }], "declared_jobs": [{ SCRIPT: SCRIPT, "id": 1 }] });
    vec![
        ("provider", "template-provider", wrap(provider)),
        ("jds", "jds", wrap(jds)),
        ("pool", "pool", wrap(pool)),
        ("translator", "translator", wrap(translator)),
        ("miner", "mining-device", wrap(device)),
    ]
}

/// An explorer in this process. Dropped, it stops.
pub struct Running {
    pub pages: SocketAddr,
    handle: Handle,
}

impl Running {
    pub async fn start(node: &Fake, roles: &[(&str, &str, SocketAddr)]) -> Self {
        let mut text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[node]\nurl = \"http://{}\"\nuser = \"u\"\npassword = \"p\"\n",
            node.addr
        );
        for (name, kind, addr) in roles {
            text.push_str(&format!(
                "[[roles]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"http://{addr}\"\n"
            ));
        }
        text.push_str("[http]\nlisten = \"127.0.0.1:0\"\n");
        let config: Config = adit_service::parse_config(&text, Path::new(".")).unwrap();
        let handle = adit_service::start::<Explorer>(config).await.unwrap();
        let pages = handle.listener("pages").await.unwrap();
        Self { pages, handle }
    }

    /// With the lab of [`hostile_lab`], once all of it is shown.
    pub async fn hostile() -> (Self, Fake, Vec<(&'static str, Fake)>) {
        let node = Fake::node().await;
        let mut fakes = Vec::new();
        let mut roles = Vec::new();
        for (name, kind, status) in hostile_lab() {
            let fake = Fake::role(status).await;
            roles.push((name, kind, fake.addr));
            fakes.push((name, fake));
        }
        let running = Self::start(&node, &roles).await;
        running.eventually("/", |page| page.text.contains("›") || page.text.contains("hop")).await;
        (running, node, fakes)
    }

    pub async fn ready(&self) {
        self.handle.ready().await.unwrap();
    }

    pub fn metrics(&self) -> String {
        self.handle.context().metrics.encode().unwrap()
    }

    pub async fn get(&self, path: &str) -> Page {
        let mut stream = TcpStream::connect(self.pages).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        Page::read(&answer)
    }

    /// Asks until a page is as wanted.
    pub async fn eventually(&self, path: &str, wanted: impl Fn(&Page) -> bool) -> Page {
        let deadline = Instant::now() + SOON;
        loop {
            let page = self.get(path).await;
            if wanted(&page) {
                return page;
            }
            assert!(Instant::now() < deadline, "{path} never is as wanted: {}", page.text);
            sleep(Duration::from_millis(30)).await;
        }
    }
}

#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub text: String,
}

impl Page {
    fn read(answer: &[u8]) -> Self {
        let answer = String::from_utf8(answer.to_vec()).expect("UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer in HTTP");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        // What has no length comes in chunks; their sizes do not disturb a search for words.
        Self { status, head: head.to_ascii_lowercase(), text: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}
