//! Writes a first corpus: valid messages, lines and transactions, for targets that read bytes as they are.
//!
//!     cargo run --example seeds -- corpus
#![allow(clippy::unwrap_used)] // a tool for whoever works on the targets

use std::path::Path;
use std::{env, fs};

use adit_fuzz::{factory, template, tip};
use adit_sv2::frame::encode_frame;
use adit_sv2::messages::AnyMessage;
use adit_sv2::tlv::Tlv;
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use serde_json::json;

#[path = "../../../protocols/sv2/tests/common/mod.rs"]
mod common;

/// What miners and pools send.
const LINES: [&str; 16] = [
    r#"{"method": "mining.submit", "params": ["", "1", "00000000", "6b00f646", "3e2c0900"], "id":4}"#,
    r#"{"id":5,"method":"mining.submit","params":["w","1","  1","6b00f646","3e2c09","1fffe000"]}"#,
    r#"{"id":1,"method":"mining.configure","params":[["version-rolling","minimum-difficulty","info","subscribe-extranonce"],{"version-rolling.mask":"1fffe000","version-rolling.min-bit-count":16,"minimum-difficulty.value":2048,"info.hw-id":"x"}]}"#,
    r#"{"id":2,"method":"mining.subscribe","params":["bmminer/2.0","s",null,3333]}"#,
    r#"{"id":"auth","method":"mining.authorize","params":["wo\"rker\t","x,d=1024;th=5"]}"#,
    r#"{"id":3,"method":"mining.suggest_difficulty","params":[0.5]}"#,
    r#"{"id":3,"method":"mining.suggest_difficulty(1024)","params":[]}"#,
    r#"{"id":null,"method":"mining.suggest_target","params":["00000000ffff"]}"#,
    r#"{"id":1,"result":[[["mining.set_difficulty","x"],["mining.notify","y"]],"0000002a",8],"error":null}"#,
    r#"{"id":1,"result":{"version-rolling":true,"version-rolling.mask":"1fffe000"},"error":null}"#,
    r#"{"id":4,"result":null,"error":[23,"Above target",null],"reject-reason":"x"}"#,
    r#"{"id":null,"method":"mining.notify","params":["1","0000000000000000000000000000000000000000000000000000000000000000","01","02",["1111111111111111111111111111111111111111111111111111111111111111"],"20000000","1d00ffff","66a1b2c3",true]}"#,
    r#"{"id":null,"method":"mining.set_extranonce","params":["0badc0de",4]}"#,
    r#"{"id":null,"method":"mining.set_difficulty","params":[1024.5]}"#,
    r#"{"id":null,"method":"client.reconnect","params":["pool.example",3333,5]}"#,
    r#"{"id":7,"method":"client.show_message","params":["Schönes Gerät 😀"]}"#,
];

fn main() {
    let target = env::args().nth(1).expect("the folder to write to");
    let write = |target_name: &str, name: &str, bytes: &[u8]| {
        let folder = Path::new(&target).join(target_name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    };

    for info in AnyMessage::all() {
        for seed in 1..3 {
            let (header, mut payload) = common::frame(info, &mut common::Random(seed));
            if payload.len() > 1_500 {
                continue;
            }
            let name = format!("{}-{seed}", info.name);
            if seed == 2 {
                Tlv::user_identity(b"worker_1").unwrap().write(&mut payload);
            }
            let frame = [&header.to_bytes()[..], &payload].concat();
            write("sv2_frame", &name, &frame);
        }
    }

    for (at, line) in LINES.iter().enumerate() {
        write("sv1_message", &format!("line-{at}"), line.as_bytes());
        write("sv1_request", &format!("line-{at}"), &[b"\x20", line.as_bytes(), b"\r\n"].concat());
    }
    let all = LINES.join("\n");
    write("sv1_request", "all", &[b"\xff", all.as_bytes()].concat());

    let job = factory().job(1, &template(1), 20).unwrap();
    let coinbase = job.coinbase().unwrap();
    let parts = |prefix: &[u8], suffix: &[u8]| {
        [&(prefix.len() as u16).to_le_bytes(), prefix, suffix].concat()
    };
    let stripped = parts(coinbase.prefix(), coinbase.suffix());
    write("jd_coinbase", "stripped", &stripped);
    let declared = parts(&coinbase.declared_prefix(), &coinbase.declared_suffix());
    write("jd_coinbase", "declared", &declared);
    let custom = factory().custom_job(&template(1), &tip(1, adit_fuzz::HARD), 20).unwrap();
    write("jd_outputs", "two", &custom.coinbase_tx_outputs);

    let mut frame = Vec::new();
    job.write_frame_to(1, 1, None, &mut frame);
    write("mining_job", "extended", &[&[0, 20], &frame[6..]].concat());
    frame.clear();
    encode_frame(&custom.message(1, 2, Default::default()).unwrap(), &mut frame);
    write("mining_job", "custom", &[&[1, 20], &frame[6..]].concat());
    frame.clear();
    let template = template(1);
    let message = adit_sv2::messages::template_distribution::NewTemplate {
        template_id: 1,
        future_template: true,
        version: template.version,
        coinbase_tx_version: 2,
        coinbase_prefix: adit_sv2::codec::B0255::new(&template.coinbase_prefix).unwrap(),
        coinbase_tx_input_sequence: 1,
        coinbase_tx_value_remaining: 5_000_000_000,
        coinbase_tx_outputs_count: 1,
        coinbase_tx_outputs: adit_sv2::codec::B064K::new(&template.coinbase_tx_outputs).unwrap(),
        coinbase_tx_locktime: 0,
        merkle_path: adit_sv2::codec::Seq0255::new(&template.merkle_path).unwrap(),
    };
    encode_frame(&message, &mut frame);
    let mut tip = 1u64.to_le_bytes().to_vec();
    tip.extend([9; 32]);
    tip.extend([0, 0xe1, 0xf5, 0x65, 0xff, 0xff, 0x7f, 0x20]);
    tip.extend([0xff; 32]);
    write("mining_job", "template", &[&[2, 20], &frame[6..], &tip].concat());

    let transactions = [false, true].map(|witness| {
        serialize(&bitcoin::Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![bitcoin::TxIn {
                previous_output: bitcoin::OutPoint::new(bitcoin::Txid::from_byte_array([8; 32]), 1),
                witness: bitcoin::Witness::from_slice(&vec![[1; 3]; usize::from(witness)]),
                ..Default::default()
            }],
            output: vec![bitcoin::TxOut {
                value: bitcoin::Amount::ONE_SAT,
                script_pubkey: bitcoin::ScriptBuf::new(),
            }],
        })
    });
    let listed: Vec<u8> = transactions.iter().flat_map(|raw| parts(raw, &[])).collect();
    write("jd_transaction", "two", &listed);

    // The first byte says in what pieces the rest comes; behind each header is something else.
    for (at, line) in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 34255\r\n",
        "PROXY TCP6 2001:db8::7 2001:db8::1 5 65535\r\n",
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 056324 70000\r\n",
        "10.0.0.0/8",
        "2001:db8::/32",
        "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n",
    ]
    .into_iter()
    .enumerate()
    {
        let behind = if line.ends_with('\n') { "{\"id\":1" } else { "" };
        let bytes = [&[at as u8 * 5], line.as_bytes(), behind.as_bytes()].concat();
        write("transport_proxy", &format!("line-{at}"), &bytes);
    }
    // Version and command, family, length of the body.
    for (at, [version_command, family, length]) in [
        [0x21, 0x11, 12],
        [0x21, 0x11, 19],
        [0x21, 0x11, 11],
        [0x21, 0x12, 12],
        [0x21, 0x21, 36],
        [0x21, 0x31, 216],
        [0x20, 0x00, 0],
        [0x11, 0x11, 12],
    ]
    .into_iter()
    .enumerate()
    {
        let mut bytes = vec![0xff];
        bytes.extend(b"\r\n\r\n\0\r\nQUIT\n");
        bytes.extend([version_command, family, 0, length]);
        let mut body: Vec<u8> = (0..length).collect();
        if length == 19 {
            // A field of four bytes behind the addresses.
            body[12..].copy_from_slice(&[4, 0, 4, 0, 0, 0, 0]);
        }
        bytes.extend(body);
        bytes.extend(b"{");
        write("transport_proxy", &format!("binary-{at}"), &bytes);
    }

    // Roles in the order of the target; with the highest bit the rest is the file as it is, with the next one the
    // environment has it.
    for (role, name) in ["pool", "translator", "jds", "jdc", "template-provider", "explorer"]
        .into_iter()
        .enumerate()
    {
        let example =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../roles/{name}/example.toml"));
        let keys: String = fs::read_to_string(example)
            .unwrap()
            .lines()
            .filter(|line| !line.is_empty() && (!line.starts_with('#') || line.contains(" = ")))
            .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
            .collect();
        write("config", &format!("{name}-file"), &[&[0x80 | role as u8], keys.as_bytes()].concat());
        write("config", name, &[role as u8]);
        write("config", &format!("{name}-environment"), &[0x40 | role as u8]);
    }

    let key = adit_sv2::keys::AuthoritySecretKey::from_entropy([1; 32]).unwrap();
    let public = key.public().to_string();
    write("sv2_keys", "public", public.as_bytes());
    write("sv2_keys", "secret", key.to_text().as_bytes());
    write("sv2_keys", "hex", "01".repeat(32).as_bytes());
    for host in ["pool.example:34254", "[::1]:34254", "10.0.0.1", "[fe80::1]"] {
        let name = format!("url-{}", host.replace(['[', ']', ':', '.'], "-"));
        write("sv2_keys", &name, format!("stratum2+tcp://{host}/{public}").as_bytes());
    }

    let coinbase = job.coinbase().unwrap().full(&[7; 20], &[]).unwrap();
    nodes(&write, &coinbase);
    stored(&write, &coinbase);
    texts(&write);
}

/// What a node answers; the first byte says how, the second to what.
fn nodes(write: &dyn Fn(&str, &str, &[u8]), coinbase: &[u8]) {
    let hash = format!("{:064x}", 0xab);
    let template = json!({
        "version": 0x2000_0000, "rules": ["csv", "!segwit", "taproot"], "previousblockhash": hash,
        "transactions": [{ "data": "0100", "txid": hash, "hash": hash, "depends": [1], "fee": 141, "sigops": 1, "weight": 561 }],
        "coinbasevalue": 5_000_000_141_u64, "longpollid": "x7", "target": format!("7fffff{}", "00".repeat(29)),
        "mintime": 1_296_688_603, "curtime": 1_700_000_000, "sigoplimit": 80_000, "sizelimit": 4_000_000,
        "weightlimit": 4_000_000, "bits": "207fffff", "height": 1, "signet_challenge": "51",
        "default_witness_commitment": format!("6a24aa21a9ed{}", "e2".repeat(32)),
    });
    let results = [
        json!({ "chain": "regtest", "blocks": 1, "headers": 1, "bestblockhash": hash, "initialblockdownload": false }),
        json!({ "version": 290_400, "subversion": "/Satoshi:29.4.0/", "connections": 3 }),
        json!(hash),
        json!({ "hash": hash, "confirmations": 1, "height": 7, "time": 1, "mediantime": 1, "bits": "207fffff",
                "previousblockhash": hash }),
        template,
        json!({ "txids": [hash, hash], "mempool_sequence": 7 }),
        json!("0100ff"),
        json!({ "wtxid": hash, "fees": { "base": 0.000_001_41 } }),
        json!({ "value": 0.5 }),
        json!("bad-cb-amount"),
        json!("inconclusive"),
        json!({ "hash": hash, "height": 3 }),
    ];
    for (call, result) in (0..).zip(&results) {
        let bytes = [&[4, call][..], result.to_string().as_bytes()].concat();
        write("node_answer", &format!("result-{call}"), &bytes);
    }
    let long = format!(r#"{{"chain":"regtest","blocks":"{}"}}"#, "A".repeat(700));
    write("node_answer", "result-long", &[b"\x04\0", long.as_bytes()].concat());
    let error = r#"{"result":null,"error":{"code":-10,"message":"it syncs"},"id":0}"#;
    write("node_answer", "error", &[b"\x02\x04", error.as_bytes()].concat());
    let body = json!({ "result": hash, "error": null, "id": 0 }).to_string();
    for (name, head) in [
        ("whole", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())),
        (
            "chunked",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()),
        ),
        ("old", "HTTP/1.0 200 OK\r\n\r\n".to_owned()),
        ("refused", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_owned()),
    ] {
        let bytes = [b"\0\x02", head.as_bytes(), body.as_bytes(), b"\r\n0\r\n\r\n"].concat();
        write("node_answer", name, &bytes);
    }
    write("node_answer", "cookie", b"\x05\0__cookie__:0123456789abcdef\nmore");

    let address = "bcrt1q6rhpng9evdsfnn833a4f4vej0asu6dk5srld6x";
    let paid = json!({ "value": 50.0, "n": 0, "scriptPubKey": { "asm": "0 d0", "hex": "0014d0", "address": address,
                       "type": "witness_v0_keyhash" } });
    let tx = json!({
        "txid": hash, "hash": hash, "version": 2, "size": 200, "vsize": 150, "weight": 600, "locktime": 0,
        "vin": [{ "coinbase": "01710a2f616469742d6c61622f0401000000", "txinwitness": ["00"], "sequence": 0 }], "vout": [paid],
        "blockhash": hash, "confirmations": 2, "blocktime": 1_700_000_000,
    });
    let spend = json!({
        "txid": format!("{:064x}", 0xcd), "hash": hash, "version": 2, "size": 200, "vsize": 150, "weight": 600, "locktime": 0,
        "vin": [{ "txid": hash, "vout": 0, "scriptSig": { "asm": "" }, "sequence": 1,
                  "prevout": { "value": 50.0, "scriptPubKey": paid["scriptPubKey"] } }],
        "vout": [paid], "fee": 0.000_001_41,
    });
    let block = json!({
        "hash": hash, "confirmations": 2, "height": 1, "versionHex": "20000000", "merkleroot": hash, "time": 1_700_000_000,
        "mediantime": 1, "nonce": 1, "bits": "207fffff", "difficulty": 4.6e-10, "previousblockhash": hash, "size": 300,
        "weight": 1_200, "tx": [tx, spend],
    });
    let node = json!({
        "blocks": [block], "getblock": block, "getblockhash": hash, "getrawtransaction": spend, "gettxout": {},
        "getblockheader": {}, "getrawmempool": [hash, format!("{:064x}", 0xef)], "getmempoolinfo": { "size": 2, "bytes": 300,
        "usage": 1_000, "total_fee": 0.1 }, "next": [{ "txid": hash, "fee": 141, "weight": 600 }], "history": [1e3, 2e3],
        "chain": "regtest", "version": "Satoshi:29.4.0", "difficulty": 1.0,
        "scantxoutset": { "height": 7, "total_amount": 50.0, "unspents": [{ "txid": hash, "vout": 0, "amount": 50.0,
                          "height": 1, "coinbase": true }] },
    });
    let worker = json!({ "identity": "lab.v2", "user": "lab.v2", "user_agent": "x/1", "hashrate": 3e3, "accepted": 8,
                         "rejected": { "stale-share": 2 }, "best_difficulty": 5.0, "last_share_age_seconds": 4,
                         "extranonce_prefix": "01000000", "extranonce1": "00", "channel": { "extranonce_prefix": "01" } });
    let found = json!({ "hash": hash, "identity": "lab.v2", "job": "custom", "state": "accepted", "height": 1 });
    let states = json!([
        { "ready": true, "nodes": [{ "url": "http://n:1", "height": 7 }], "template": { "height": 8 }, "clients": [{}],
          "unsettled_blocks": [found], "listeners": { "sv2": "127.0.0.1:8442" } },
        "connection refused",
        { "ready": true, "channels": [worker], "workers": [worker], "blocks": [found], "hashrate": 3e3,
          "template_providers": [{ "address": "127.0.0.1:8442", "in_use": true }] },
        { "ready": false, "waiting_for": [{ "condition": "pool", "reason": "it is away" }], "blocks": [found],
          "upstreams": [{ "address": "127.0.0.1:34254", "in_use": true, "extranonce_prefix": "01" }] },
        { "miners": [worker], "upstream": { "user_identity": "farm" }, "shares": { "accepted": 5 } },
        { "mode": "sv1", "connections": [worker] },
    ]);
    let metrics = "# TYPE a histogram\na_bucket{le=\"0.1\"} 1\na_bucket{le=\"+Inf\"} 2\na_count 2\nb_total{c=\"d\\\"\"} 1 2\n";
    let pages = [
        "",
        "blocks?from=1",
        "block/1",
        "tx/",
        "address/",
        "mempool?from=1",
        "mining",
        "roles",
        "role/pool",
        "search?q=1",
        "search?q=",
        "live",
        "static/app.js",
        "role/jdc",
        "block/",
        "role/translator",
    ];
    for (at, page) in pages.into_iter().enumerate() {
        let page = match page {
            "tx/" | "block/" | "search?q=" => format!("{page}{hash}"),
            "address/" => format!("{page}{address}"),
            page => page.to_owned(),
        };
        let parts = [page.into_bytes(), states.to_string().into_bytes(), metrics.into()].map(part);
        let bytes = [&parts.concat(), node.to_string().as_bytes()].concat();
        write("explorer_pages", &format!("page-{at}"), &bytes);
    }
    write("stored_blocks", "coinbase", &[&[3][..], coinbase].concat());
}

/// Behind its length.
fn part(bytes: Vec<u8>) -> Vec<u8> {
    [&(bytes.len() as u16).to_le_bytes()[..], &bytes].concat()
}

/// Files; the first byte says of what.
fn stored(write: &dyn Fn(&str, &str, &[u8]), coinbase: &[u8]) {
    let coinbase: bitcoin::Transaction = bitcoin::consensus::deserialize(coinbase).unwrap();
    let header = bitcoin::block::Header {
        version: bitcoin::block::Version::TWO,
        prev_blockhash: bitcoin::BlockHash::all_zeros(),
        merkle_root: coinbase.compute_txid().to_raw_hash().into(),
        time: 1,
        bits: bitcoin::CompactTarget::from_consensus(adit_fuzz::EASY),
        nonce: 1,
    };
    let hex = format!("{:064x}", 0xab);
    let raw = serialize(&bitcoin::Block { header, txdata: vec![coinbase.clone()] });
    let about = r#"{"height":1,"template_id":2,"found_unix_ms":3,"state":"pending"}"#;
    for kind in 0..2 {
        let bytes = [&[kind][..], &part(raw.clone()), about.as_bytes()].concat();
        write("stored_blocks", &format!("node-{kind}"), &bytes);
    }
    let mut found = json!({
        "hash": hex, "prev_hash": hex, "found_unix_ms": 1, "identity": "a.b", "pool": "p:1", "template_provider": "t:1",
        "template_id": 1, "version": 1, "ntime": 1, "nonce": 1, "coinbase_tx": bitcoin::consensus::encode::serialize_hex(&coinbase),
    });
    let record = json!({ "hash": hex, "height": 1, "found_unix_ms": 1, "identity": "a.b", "for": "solo", "job": "custom",
                         "state": "submitted" });
    let past = json!({ "blocks": [record],
                       "workers": [{ "identity": "a.b", "difficulty": 0.3333333333333333, "unix_ms": 5 }] });
    let bytes = [&[2][..], &part(found.to_string().into()), past.to_string().as_bytes()].concat();
    write("stored_blocks", "client", &bytes);

    for (key, value) in [
        ("state", json!("pending")),
        ("height", json!(1)),
        ("account", json!("a")),
        ("worker", json!("b")),
        ("channel_id", json!(1)),
        ("job", json!("template")),
        ("extranonce_prefix", json!("00ff")),
        ("header_timestamp", json!(1)),
        ("header_nonce", json!(1)),
    ] {
        found[key] = value;
    }
    let block = found.to_string();
    let bytes = [&[1][..], &part(block.clone().into()), block.as_bytes()].concat();
    write("stored_pool", "blocks", &bytes);
    for kind in [0, 2, 3] {
        let bytes: Vec<u8> =
            std::iter::once(kind).chain((0..200_u8).map(|at| at.wrapping_mul(73))).collect();
        write("stored_pool", &format!("other-{kind}"), &bytes);
    }
}

/// Lines; four bytes before them say of what.
fn texts(write: &dyn Fn(&str, &str, &[u8])) {
    let kind = |at: u64, of: u64| ((at << 32).div_ceil(of) as u32).to_le_bytes();
    let key = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let address = "bcrt1q6rhpng9evdsfnn833a4f4vej0asu6dk5srld6x";
    for (at, text) in [
        address.to_owned(),
        format!("addr({address})"),
        format!("wpkh({key})"),
        format!("tr({key})"),
        format!("pkh({key})"),
        "raw(0014ff)".to_owned(),
        format!("sh(multi(1,{key}))"),
        "wpkh(tprv8/0/*)".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        write(
            "payout_script",
            &format!("text-{at}"),
            &[&kind(0, 2)[..], &[3], text.as_bytes()].concat(),
        );
    }
    for (at, (of, text)) in [
        (0, "http://127.0.0.1:18443"), (0, "http://user:secret@[::1]:8332/wallet/x"), (1, "http://[::1]:34254/"),
        (1, "http://pool:34254"), (2, "1.5M"), (2, "1e300T"), (4, "cgminer/4.11.1"), (4, "Antminer S21/1.0.0"),
        (5, "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        (6, "\x01\u{1}\0ready\n"), (6, "\0HTTP/1.1 503 X\r\n\r\nnot ready\n"),
    ]
    .into_iter()
    .enumerate()
    {
        write("texts", &format!("line-{at}"), &[&kind(of, 7)[..], text.as_bytes()].concat());
    }
}
