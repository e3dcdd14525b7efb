//! What a node answers, or somebody in its place: a client on a real socket reads it as another reader of JSON and hex
//! does, or says in one short line what is wrong with it; and it is asked with the credentials in its file.
#![no_main]

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use adit_fuzz::node::{Answer, asking};
use adit_node::{Auth, Node, NodeError, ProposalResult, Rules, SubmitResult};
use bitcoin::hashes::Hash;
use bitcoin::hex::FromHex;
use bitcoin::{Amount, BlockHash, CompactTarget, Denomination, OutPoint, Txid, Wtxid};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some(([manner, call], bytes)) = data.split_first_chunk() else { return };
    let (call, bytes) = (*call % CALLS, bytes.to_vec());
    let many = (6..=8).contains(&call);
    match manner % 6 {
        // All of the answer.
        0 => ask(call, None, move || Answer::Close(bytes.clone())),
        // Its body, with a status that says something.
        status @ 1..=3 => {
            let status = [200, 500, 503][usize::from(status) - 1];
            ask(call, None, move || Answer::http(status, &bytes));
        }
        // The result of the call.
        4 => {
            let value = serde_json::from_slice(&bytes).ok();
            let one = |id: u8| {
                [&br#"{"result":"#[..], &bytes, br#","error":null,"id":"#, &[b'0' + id], b"}"]
                    .concat()
            };
            let body = match many {
                true => [&b"["[..], &one(0), b",", &one(1), b"]"].concat(),
                false => one(0),
            };
            ask(call, value, move || Answer::http(200, &body));
        }
        _ => credentials(&bytes),
    }
});

const CALLS: u8 = 12;

/// Makes a call twice, the second time on the connection that is left of the first, if there is one.
fn ask(call: u8, result: Option<Value>, answer: impl Fn() -> Answer + 'static) {
    let auth = Auth::UserPass { user: "user".to_owned(), password: "secret".to_owned() };
    asking(
        auth,
        move |_| answer(),
        async |node| {
            let first = read(&node, call, result.as_ref()).await;
            if first.is_err() {
                drop(read(&node, call, None).await);
            }
        },
    );
}

/// Makes a call; where the result is known, what is read of it must be that.
async fn read(node: &Node, call: u8, result: Option<&Value>) -> Result<(), NodeError> {
    let null = &Value::Null;
    let value = result.unwrap_or(null);
    let known = result.is_some();
    let (hash, txid) = (BlockHash::all_zeros(), Txid::all_zeros());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let done = match call {
        0 => node.getblockchaininfo().await.map(|info| {
            let _ = info.network();
            assert!(!known || info.best_block_hash == hash_of(&value["bestblockhash"]));
            assert!(!known || value["blocks"] == info.blocks);
        }),
        1 => node.getnetworkinfo().await.map(|info| {
            assert!(!info.subversion.contains(char::is_control));
            assert!(!known || value["connections"] == info.connections);
        }),
        2 => {
            let read = node.getbestblockhash().await;
            let expected = value.as_str().and_then(|text| BlockHash::from_str(text).ok());
            assert!(!known || read.as_ref().ok() == expected.as_ref());
            read.map(drop)
        }
        3 => node.getblockheader(&hash).await.map(|header| {
            if known {
                assert_eq!(header.hash, hash_of(&value["hash"]));
                assert_eq!(header.bits, bits_of(&value["bits"]));
                let previous = &value["previousblockhash"];
                let expected = (!previous.is_null()).then(|| hash_of(previous));
                assert_eq!(header.previous_block_hash, expected);
            }
        }),
        4 => node.getblocktemplate(Rules::Segwit).await.map(|template| {
            if !known {
                return;
            }
            assert_eq!(template.previous_block_hash, hash_of(&value["previousblockhash"]));
            assert_eq!(template.bits, bits_of(&value["bits"]));
            let target = bytes_of(&value["target"]).expect("hex");
            assert_eq!(template.target.to_be_bytes()[..], target);
            assert_eq!(value["coinbasevalue"], template.coinbase_value);
            assert_eq!(value["height"], template.height);
            let commitment = bytes_of(&value["default_witness_commitment"]);
            assert_eq!(template.default_witness_commitment, commitment);
            let transactions = value["transactions"].as_array().expect("a list");
            assert_eq!(template.transactions.len(), transactions.len());
            for (read, value) in template.transactions.iter().zip(transactions) {
                assert_eq!(Some(&read.data), bytes_of(&value["data"]).as_ref());
                assert_eq!(read.txid.to_string().parse(), Ok(read.txid));
                assert_eq!(Txid::from_str(value["txid"].as_str().expect("text")), Ok(read.txid));
                assert_eq!(Wtxid::from_str(value["hash"].as_str().expect("text")), Ok(read.wtxid));
                assert_eq!(value["fee"], read.fee);
                assert_eq!(value["depends"].as_array().map(Vec::len), Some(read.depends.len()));
            }
        }),
        5 => node.getrawmempool().await.map(|mempool| {
            let listed = value["txids"].as_array().map(Vec::len);
            assert!(!known || listed == Some(mempool.txids.len()));
        }),
        6 => node.getrawtransactions(&[txid; 2]).await.map(|read| {
            assert!(!known || read == vec![bytes_of(value); 2]);
        }),
        7 => node.getmempoolentries(&[txid; 2]).await.map(|read| {
            for entry in read.into_iter().flatten().filter(|_| known) {
                amount(entry.fees.base, &value["fees"]["base"]);
            }
        }),
        8 => node.gettxouts(&[OutPoint::new(txid, 1); 2]).await.map(|read| {
            assert!(!known || read.iter().all(|coin| coin.is_none() == value.is_null()));
            for coin in read.into_iter().flatten().filter(|_| known) {
                amount(coin, &value["value"]);
            }
        }),
        9 => node.propose_block(&[1, 2], Rules::SegwitSignet).await.map(|read| match read {
            ProposalResult::Rejected(reason) => one_line(&reason),
            ProposalResult::Valid => assert!(!known || value.is_null()),
            ProposalResult::Duplicate | ProposalResult::NotOnTip => {}
        }),
        10 => node.submitblock(&[1, 2]).await.map(|read| {
            assert!(
                !known
                    || read.is_success()
                        == matches!(text(value).as_deref(), None | Some("duplicate"))
            );
            if let SubmitResult::Rejected(reason) = read {
                one_line(&reason);
            }
        }),
        _ => node.waitfornewblock(Duration::from_millis(1), &hash).await.map(|tip| {
            assert!(!known || tip.hash == hash_of(&value["hash"]));
            assert!(!known || value["height"] == tip.height);
        }),
    };
    if let Err(error) = &done {
        assert!(!matches!(error, NodeError::Timeout { .. }), "{error}");
        one_line(&error.to_string());
    }
    done
}

/// Fit for a log.
fn one_line(text: &str) {
    assert!(text.chars().count() <= 600 && !text.contains(char::is_control), "{text:?}");
}

fn hash_of(value: &Value) -> BlockHash {
    value.as_str().expect("a text that was read").parse().expect("a hash that was read")
}

fn bits_of(value: &Value) -> CompactTarget {
    let text = value.as_str().expect("a text that was read");
    CompactTarget::from_unprefixed_hex(text).expect("bits that were read")
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    Vec::from_hex(value.as_str()?).ok()
}

/// Where another reader takes the text of the amount, it reads the same.
fn amount(read: u64, value: &Value) {
    assert!(read <= Amount::MAX_MONEY.to_sat());
    if let Ok(amount) = Amount::from_str_in(&value.to_string(), Denomination::Bitcoin) {
        assert_eq!(amount.to_sat(), read);
    }
}

/// What stands in the first line of the cookie's file is what the node is asked with.
fn credentials(file: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cookie");
    fs::write(&path, file).expect("a file");
    let expected = std::str::from_utf8(file).ok();
    let expected = expected.map(|text| text.lines().next().unwrap_or_default().to_owned());
    let (sent, said) = std::sync::mpsc::channel();
    let asked = asking(
        Auth::Cookie(path),
        move |asked| {
            let _ = sent.send(asked.authorization.clone());
            Answer::http(200, br#"{"result":null,"id":0}"#)
        },
        async |node| node.submitblock(&[]).await,
    );
    let said = said.try_recv().ok();
    assert_eq!(said.map(|header| plain(&header)), expected.map(String::into_bytes));
    assert!(asked.is_ok() || std::str::from_utf8(file).is_err());
}

/// What is in a header of the basic scheme.
fn plain(header: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("no digit: {other}"),
    };
    let text = header.strip_prefix("Basic ").expect("the scheme");
    assert!(text.len().is_multiple_of(4));
    let digits = text.trim_end_matches('=').bytes().map(digit);
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits {
        (bits, count) = (bits << 6 | u32::from(digit), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
