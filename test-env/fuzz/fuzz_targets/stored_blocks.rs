//! Found blocks on disk, those that a node is handed and those of a job declarator client, and what that remembers: what
//! was written is read again; whatever else is in the files, no block is made of it.
#![no_main]

use std::fs;
use std::path::Path;

use adit_fuzz::split;
use adit_jdc::store::{BestShare, BlockRecord, Folder, FoundBlock, Past};
use adit_mining::BlockHash;
use adit_node::{BlockStore, SolvedBlock, State};
use arbitrary::{Arbitrary, Unstructured};
use bitcoin::Block;
use bitcoin::consensus::deserialize;
use bitcoin::hashes::Hash;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Found {
    hash: [u8; 32],
    found_unix_ms: u64,
    identity: String,
    pool: Option<String>,
    template_id: u64,
    coinbase_tx: Vec<u8>,
    difficulty: f64,
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = split(rest);
    match kind % 4 {
        // Of a node's blocks: this, with what is said about it.
        0 => of_node(folder.path(), first, second, None),
        // The same under another name.
        1 => of_node(folder.path(), first, second, Some([7; 32])),
        // A job declarator client's block, and what it remembers.
        2 => of_client(folder.path(), first, second),
        // Blocks and shares as it writes them.
        _ => {
            let found = Vec::arbitrary_take_rest(Unstructured::new(rest));
            written(folder.path(), &found.unwrap_or_default());
        }
    }
});

fn of_node(folder: &Path, raw: &[u8], about: &[u8], named: Option<[u8; 32]>) {
    let block = deserialize::<Block>(raw).ok();
    let hash = block.as_ref().map(|block| block.block_hash().to_byte_array());
    let name = BlockHash(named.or(hash).unwrap_or_default());
    fs::write(folder.join(format!("{name}.block")), raw).expect("a file");
    fs::write(folder.join(format!("{name}.json")), about).expect("a file");
    let (store, blocks) = BlockStore::open(folder).expect("a folder");
    let [read] = &blocks[..] else {
        assert!(blocks.is_empty());
        // Set aside: it is in nobody's way, and not lost.
        let aside = folder.join(format!("{name}.broken"));
        assert_eq!(fs::read(aside).expect("the same file"), raw);
        let about = serde_json::from_slice::<adit_node::Record>(about);
        let good = block.is_some_and(|block| {
            block.check_merkle_root() && (about.is_ok() || block.bip34_block_height().is_ok())
        });
        assert!(!good || hash != Some(name.0), "it was a good block");
        return;
    };
    assert_eq!((Some(read.hash.0), &read.raw[..]), (hash, raw));
    assert!(read.hash == name && block.is_some_and(|block| block.check_merkle_root()));
    // As it is kept from now on.
    let mut kept = read.clone();
    kept.record.state = State::InChain;
    store.update(&kept).expect("it is written");
    store.save(&kept).expect("it is written");
    let (store, blocks) = BlockStore::open(folder).expect("a folder");
    assert_eq!(blocks, [kept]);
    store.remove(name).expect("it is there");
    let left: Vec<SolvedBlock> = BlockStore::open(folder).expect("a folder").1;
    assert!(left.is_empty() && fs::read_dir(folder).expect("a folder").next().is_none());
}

fn of_client(path: &Path, block: &[u8], past: &[u8]) {
    fs::write(path.join("00.json"), block).expect("a file");
    fs::write(path.join("history"), past).expect("a file");
    let folder = Folder::open(path).expect("a folder");
    for block in folder.pending().expect("a folder") {
        assert!(block.hash.len() == 32 && block.prev_hash.len() == 32);
        let told = BlockRecord::submitted(&block);
        assert_eq!(told.hash.len(), 64);
        again(&folder, &[block]);
    }
    // Read as it is told, or nothing.
    let read = folder.past();
    let as_json: Option<Past> = serde_json::from_slice(past).ok();
    assert_eq!(read, as_json.unwrap_or_default());
    folder.remember(&read).expect("it is written");
    same(&folder.past(), &read);
    assert_eq!(fs::read(path.join("00.json")).expect("not ours, left alone"), block);
}

fn written(path: &Path, found: &[Found]) {
    let blocks: Vec<_> = (found.iter().take(8))
        .map(|found| FoundBlock {
            hash: found.hash.to_vec(),
            prev_hash: found.hash.iter().rev().copied().collect(),
            found_unix_ms: found.found_unix_ms,
            identity: found.identity.clone(),
            pool: found.pool.clone(),
            template_provider: found.identity.clone(),
            template_id: found.template_id,
            version: 1,
            ntime: 2,
            nonce: 3,
            coinbase_tx: found.coinbase_tx[..found.coinbase_tx.len().min(2_000)].to_vec(),
        })
        .collect();
    let folder = Folder::open(path).expect("a folder");
    again(&folder, &blocks);
    let past = Past {
        blocks: blocks.iter().map(BlockRecord::submitted).collect(),
        workers: (found.iter())
            .map(|found| BestShare {
                identity: found.identity.clone(),
                // What a hash can be worth.
                difficulty: found.difficulty.abs().min(1e80),
                unix_ms: found.found_unix_ms,
            })
            .collect(),
    };
    folder.remember(&past).expect("it is written");
    same(&folder.past(), &past);
}

/// But for the last digit of a number.
fn same(read: &Past, written: &Past) {
    assert_eq!(read.blocks, written.blocks);
    assert_eq!(read.workers.len(), written.workers.len());
    for (read, written) in read.workers.iter().zip(&written.workers) {
        assert_eq!((&read.identity, read.unix_ms), (&written.identity, written.unix_ms));
        let off = (read.difficulty - written.difficulty).abs();
        assert!(off <= written.difficulty.abs() * 1e-14, "{read:?} {written:?}");
    }
}

/// Blocks as they are written are read again, until they are forgotten.
fn again(folder: &Folder, blocks: &[FoundBlock]) {
    let before = folder.pending().expect("a folder").len();
    for block in blocks {
        folder.keep(block).expect("it is written");
    }
    let read = folder.pending().expect("a folder");
    assert!(read.is_sorted_by_key(|block| block.found_unix_ms));
    for (at, block) in blocks.iter().enumerate() {
        let overwritten = blocks[at + 1..].iter().any(|later| later.hash == block.hash);
        assert!(overwritten || read.contains(block));
    }
    for block in blocks {
        folder.forget(&block.hash.as_slice().try_into().expect("32 bytes")).expect("it goes");
    }
    assert!(folder.pending().expect("a folder").len() <= before);
}
