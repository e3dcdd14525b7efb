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
}
