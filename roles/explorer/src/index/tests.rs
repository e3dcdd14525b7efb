use serde_json::{Value, json};

use super::*;

/// A block of a coinbase that pays `to`, and of one transaction that spends from there to `other`.
fn block(height: u32, hash: &str, previous: &str, to: &str, spends: bool) -> Block {
    let mut tx = vec![coinbase(height, hash, to)];
    if spends {
        tx.push(json!({
            "txid": format!("t{hash}"), "hash": "w", "version": 2, "size": 100, "vsize": 90, "weight": 360, "locktime": 0,
            "fee": 0.0001,
            "vin": [{ "txid": "p", "vout": 0, "sequence": 0, "prevout": { "value": 2.0, "scriptPubKey": { "address": to } } }],
            "vout": [{ "value": 1.9999, "n": 0, "scriptPubKey": { "address": "other" } }],
        }));
    }
    serde_json::from_value(json!({
        "hash": hash, "confirmations": 1, "height": height, "merkleroot": "m", "time": 1_000 + height, "nonce": 1,
        "bits": "207fffff", "difficulty": 1.0, "previousblockhash": previous, "size": 300, "weight": 900, "tx": tx,
    }))
    .unwrap()
}

fn coinbase(height: u32, hash: &str, to: &str) -> Value {
    json!({
        "txid": format!("c{hash}"), "hash": "w", "version": 2, "size": 100, "vsize": 90, "weight": 360, "locktime": height,
        "vin": [{ "coinbase": "01710a2f616469742d6c61622f0401000000", "sequence": 0 }],
        "vout": [{ "value": 50.0, "n": 0, "scriptPubKey": { "address": to } }],
    })
}

/// Takes in all that is missing from a chain given tip first.
fn fill(index: &mut Index, chain: &[Block]) -> usize {
    let tip = &chain[0];
    let mut asked = 0;
    while let Some(hash) = index.missing(tip.height, &tip.hash) {
        asked += 1;
        assert!(asked <= chain.len(), "asked again for {hash}");
        index.insert(chain.iter().find(|block| block.hash == hash).expect("a block of the chain"));
    }
    asked
}

fn chain(names: &str, to: &str) -> Vec<Block> {
    let names: Vec<char> = names.chars().collect();
    let blocks = names.iter().enumerate().map(|(height, name)| {
        let previous =
            height.checked_sub(1).map_or(String::new(), |below| names[below].to_string());
        block(height as u32, &name.to_string(), &previous, to, height % 2 == 1)
    });
    let mut blocks: Vec<_> = blocks.collect();
    blocks.reverse();
    blocks
}

#[test]
fn the_newest_blocks_are_kept_and_older_ones_go() {
    let mut index = Index::new(3, 1_000);
    assert_eq!(fill(&mut index, &chain("abcde", "miner")), 3);
    let hashes: Vec<_> = index.newest().map(|block| block.hash.as_str()).collect();
    assert_eq!(hashes, ["e", "d", "c"]);
    assert_eq!(index.missing(4, "e"), None);
    assert_eq!(fill(&mut index, &chain("abcdef", "miner")), 1);
    assert_eq!((index.lowest(), index.len()), (Some(3), 3));
    let d = index.at(3).unwrap();
    assert_eq!((d.fees, d.reward, d.transactions), (Some(10_000), 5_000_000_000, 2));
    assert_eq!(d.coinbase.tag(), "/adit-lab/");
    // d, e, f: a coinbase each; d and f spend as well.
    assert_eq!(index.events("miner").len(), 5);
    assert_eq!(index.events("miner")[0].height, 5);
    assert_eq!(index.events("other").len(), 2);
    assert_eq!(index.block_of("td").unwrap().height, 3);
    assert!(index.block_of("cc").is_none());
}

#[test]
fn a_reorganisation_replaces_blocks_and_what_was_in_them() {
    let mut index = Index::new(10, 1_000);
    fill(&mut index, &chain("abcd", "old"));
    assert_eq!(fill(&mut index, &chain("abxyz", "new")), 3);
    let hashes: String = index.newest().map(|block| block.hash.as_str()).collect();
    assert_eq!(hashes, "zyxba");
    assert!(index.events("old").iter().all(|event| event.height < 2));
    assert_eq!(index.block_of("cd").map(|block| block.height), None);
    // A node that lost blocks comes back lower.
    fill(&mut index, &chain("abx", "new"));
    assert_eq!(index.newest().map(|block| block.hash.as_str()).collect::<String>(), "xba");
}

#[test]
fn transactions_are_bounded_as_well() {
    let mut index = Index::new(100, 6);
    fill(&mut index, &chain("abcdefgh", "miner"));
    let transactions: usize = index.newest().map(|block| block.transactions).sum();
    assert!(transactions <= 7 && index.len() < 8, "{transactions} in {}", index.len());
    assert_eq!(index.missing(7, "h"), None);
}
