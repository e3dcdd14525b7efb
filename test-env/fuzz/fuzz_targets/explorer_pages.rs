//! Pages of whatever a node and the roles say, asked for by whoever: each is a page, in which nothing that was said is
//! more than text; and what is counted and kept of it stays within bounds.
#![no_main]

use adit_explorer::attribution::attribute;
use adit_explorer::coinbase::{Coinbase, hex, unhex};
use adit_explorer::config::{Config, Kind, RoleKeys};
use adit_explorer::exposition::Samples;
use adit_explorer::index::Index;
use adit_explorer::rpc::Block;
use adit_explorer::topology::Topology;
use adit_explorer::world::{NextBlock, NextTransaction, Point, Tip, World};
use adit_fuzz::node::{Answer, Asked, asking};
use adit_fuzz::split;
use adit_node::Auth;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tower::ServiceExt;

const KINDS: [Kind; 6] = [
    Kind::TemplateProvider,
    Kind::Jds,
    Kind::Pool,
    Kind::Jdc,
    Kind::Translator,
    Kind::MiningDevice,
];

// What is asked for; what each role tells of itself, as a list; what all of them count; what the node answers, by call.
fuzz_target!(|data: &[u8]| {
    let (asked, rest) = split(data);
    let (states, rest) = split(rest);
    let (metrics, node) = split(rest);
    let Ok(asked) = std::str::from_utf8(asked) else { return };
    let states = serde_json::from_slice(states).unwrap_or(Value::Null);
    let metrics = String::from_utf8_lossy(metrics);
    let node: Value = serde_json::from_slice(node).unwrap_or(Value::Null);

    let mut index = Index::new(5, 50);
    let mut world = world(&states, &metrics, &node);
    for block in node["blocks"].as_array().into_iter().flatten().take(20) {
        let Ok(block) = serde_json::from_value::<Block>(block.clone()) else { continue };
        index.insert(&block);
        let mut missing = index.missing(block.height, &block.hash);
        for _ in 0..6 {
            missing = missing.and_then(|_| index.missing(block.height, &block.hash));
        }
        assert!(index.len() <= 5 && index.is_empty() == (index.len() == 0));
        assert!(index.newest().all(|kept| kept.height <= block.height));
        coinbase(&block);
    }
    world.node.tip = index.newest().next().map(|b| Tip { hash: b.hash.clone(), height: b.height });
    let topology = Topology::of(&world, "http://127.0.0.1:1");
    for _ in 0..2 {
        // What is known of a block is not taken away.
        attribute(index.newest_mut(), &world, &topology);
    }
    assert!(!attribute(index.newest_mut(), &world, &topology), "the same again is no news");

    let config = toml();
    let auth = Auth::UserPass { user: String::new(), password: String::new() };
    let (status, kind, page) = asking(
        auth,
        move |asked| answer(&node, asked),
        async |client| {
            let router = adit_explorer::pages(config, client, world, index);
            let uri = asked.trim_start_matches('/');
            let Ok(request) = Request::get(format!("/{uri}")).body(Body::empty()) else {
                return (404, String::new(), Vec::new());
            };
            let Ok(answer) = router.oneshot(request).await;
            let header = |name| {
                let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let (status, kind) = (answer.status().as_u16(), header("content-type"));
            assert!(header("content-security-policy").starts_with("default-src 'none'"));
            if kind == "text/event-stream" {
                // It has no end.
                return (status, kind, Vec::new());
            }
            let body = answer.into_body().collect().await.expect("a whole page");
            (status, kind, body.to_bytes().to_vec())
        },
    );
    assert!(matches!(status, 200 | 303 | 308 | 400 | 404 | 405 | 502 | 503 | 504), "{status}");
    if kind.starts_with("text/html") {
        let page = String::from_utf8(page).expect("text");
        let lower = page.to_ascii_lowercase();
        assert_eq!(lower.matches("<script").count(), 1, "the page's own: {page}");
        assert!(!lower.contains("javascript:") && !lower.contains("<img"), "{page}");
        assert!(page.len() < 4 << 20);
    }
});

/// The configuration that comes with the program, for regtest.
fn toml() -> Config {
    let text = "[node]\nurl = \"http://127.0.0.1:1\"\nuser = \"a\"\npassword = \"b\"\n[index]\nscan_coins = true\n";
    adit_service::parse_config(text, std::path::Path::new("")).expect("a configuration")
}

fn world(states: &Value, metrics: &str, node: &Value) -> World {
    let keys = |kind: &Kind| RoleKeys {
        name: kind.name().to_owned(),
        kind: *kind,
        url: "http://127.0.0.1:1".to_owned(),
        upstream: None,
    };
    let mut world = World::new(&KINDS.each_ref().map(keys));
    for (role, state) in world.roles.iter_mut().zip(states.as_array().into_iter().flatten()) {
        match state {
            Value::String(reason) => drop(role.health.down(reason)),
            Value::Null => {}
            _ => drop(role.health.up()),
        }
        role.status = json!({ "ready": state["ready"], "waiting_for": state["waiting_for"],
                              "listeners": state["listeners"], "state": state });
        role.samples = Samples::parse(metrics);
        let _ = (role.problem(), role.samples.quantile("a", 0.5), role.samples.count("a"));
    }
    world.remember();
    let started = world.started;
    world.history.extend(
        (node["history"].as_array().into_iter().flatten().take(10))
            .filter_map(Value::as_f64)
            .zip(1..)
            .map(|(hashrate, step)| Point { at: started + 10 * step, hashrate }),
    );
    world.node.health.up();
    world.node.chain = node["chain"].as_str().unwrap_or("regtest").to_owned();
    world.node.facts.version = node["version"].as_str().unwrap_or_default().to_owned();
    world.node.facts.difficulty = node["difficulty"].as_f64().unwrap_or_default();
    world.node.mempool = serde_json::from_value(node["getmempoolinfo"].clone()).ok();
    world.node.next = node["next"].as_array().map(|list| {
        let number = |tx: &Value, key: &str| tx[key].as_u64().unwrap_or_default();
        let transactions: Vec<_> = (list.iter().take(2_000))
            .map(|tx| NextTransaction {
                txid: tx["txid"].as_str().unwrap_or_default().to_owned(),
                fee: number(tx, "fee"),
                weight: number(tx, "weight"),
            })
            .collect();
        let next = NextBlock { height: 1, transactions, ..NextBlock::default() };
        if list.is_empty() { Err(world.node.chain.clone()) } else { Ok(next) }
    });
    world
}

/// What is under the call's name, or that there is no such thing.
fn answer(node: &Value, asked: &Asked) -> Answer {
    let call: Value = serde_json::from_slice(&asked.body).expect("our own call");
    let id = &call["id"];
    let body = match node.get(call["method"].as_str().expect("a name")) {
        Some(result) => json!({ "result": result, "error": null, "id": id }),
        None => {
            json!({ "error": { "code": -5, "message": node["refusal"].as_str().unwrap_or("no") }, "id": id })
        }
    };
    Answer::http(200, &serde_json::to_vec(&body).expect("JSON"))
}

fn coinbase(block: &Block) {
    for input in block.tx.iter().flat_map(|tx| &tx.vin) {
        let text = input.coinbase.as_deref().unwrap_or_default();
        let coinbase = Coinbase::parse(text);
        assert_eq!(unhex(&hex(&coinbase.script)).as_ref(), Some(&coinbase.script));
        assert!(coinbase.extranonce().len() <= coinbase.script.len());
        assert!(!coinbase.tag().contains(char::is_control));
    }
}
