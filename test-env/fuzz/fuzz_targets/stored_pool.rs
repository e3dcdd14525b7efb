//! The pool's store: credited work and blocks are there again, once each, as a model has them; rows that another program
//! wrote, or a damaged file, are told of or left out, and never the end of the pool.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::panic;
use std::path::Path;
use std::sync::{Arc, Once, mpsc};

use adit_fuzz::split;
use adit_pool::store::{
    BlockState, FoundBlock, Identity, JobOrigin, Progress, Queue, Record, ShareOutcome, Store,
    spawn,
};
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use redb::{Database, TableDefinition};

#[derive(Arbitrary, Debug)]
enum Stored {
    Accepted { who: u8, work: u64 },
    Rejected { who: u8 },
    Block { hash: u8, state: bool, coinbase: Vec<u8>, height: Option<u32> },
}

const WORK: TableDefinition<'_, (&str, &str), (u64, u128, u64, u64)> = TableDefinition::new("work");
const BLOCKS: TableDefinition<'_, (u64, [u8; 32]), &[u8]> = TableDefinition::new("blocks");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool.redb");
    let mut input = Unstructured::new(rest);
    match kind % 4 {
        // Runs of the pool.
        0 => store(&path, &<Vec<Vec<Stored>>>::arbitrary_take_rest(input).unwrap_or_default()),
        // Rows of blocks.
        1 => {
            let (first, second) = split(rest);
            rows(&path, &[(1, first.to_vec()), (u64::MAX, second.to_vec())], Vec::new(), None);
        }
        // Rows of work, maybe of another format.
        2 => {
            let work = Arbitrary::arbitrary(&mut input).unwrap_or_default();
            rows(&path, &[], work, Arbitrary::arbitrary(&mut input).unwrap_or_default());
        }
        // A store with some bytes changed, and cut off.
        _ => {
            let cut = Arbitrary::arbitrary(&mut input).unwrap_or_default();
            damaged(&path, &<Vec<_>>::arbitrary_take_rest(input).unwrap_or_default(), cut);
        }
    }
});

fn store(path: &Path, runs: &[Vec<Stored>]) {
    let mut work: BTreeMap<(String, String), (u64, u128, u64)> = BTreeMap::new();
    let mut blocks: BTreeMap<(u64, [u8; 32]), FoundBlock> = BTreeMap::new();
    let mut number = 0;
    for (run, records) in runs.iter().take(3).enumerate() {
        let store = Arc::new(Store::open(path).expect("a store"));
        let (queue, (sender, stored)) = (Arc::new(Queue::default()), mpsc::channel());
        let writer = spawn(store.clone(), queue.clone(), move |progress| match progress {
            Progress::Stored { shares, .. } => drop(sender.send(shares)),
            Progress::Failing(error) => panic!("{error}"),
        });
        let writer = writer.expect("a thread");
        for record in records.iter().take(50) {
            let identity = |who: &u8| {
                let worker = if who & 1 == 0 { String::new() } else { format!("w{}", who >> 4) };
                Identity { account: format!("a{}", who & 3), worker }
            };
            let (who, outcome) = match record {
                Stored::Accepted { who, work } => {
                    number += 1;
                    (who, ShareOutcome::Accepted { number, work: u128::from(*work) << 40 })
                }
                Stored::Rejected { who } => (who, ShareOutcome::Rejected),
                Stored::Block { hash, state, coinbase, height } => {
                    let block = block(*hash, *state, coinbase, *height);
                    blocks.insert((block.found_unix_ms, block.hash_bytes()), block.clone());
                    assert!(queue.push(Record::Block(Arc::new(block))));
                    continue;
                }
            };
            let identity = identity(who);
            let mut key = (identity.account.clone(), identity.worker.clone());
            if outcome == ShareOutcome::Rejected {
                // Within a batch it counts for whoever has work in it; which batch it is in is the thread's business.
                key = (String::new(), String::new());
            }
            let row = work.entry(key).or_default();
            match outcome {
                ShareOutcome::Accepted { work, .. } => {
                    (row.0, row.1) = (row.0 + 1, row.1.saturating_add(work));
                }
                ShareOutcome::Rejected => row.2 += 1,
            }
            let identity = Arc::new(identity);
            assert!(queue.push(Record::Share { identity, outcome, unix_ms: run as u64 }));
        }
        queue.close();
        writer.join().expect("it ends well");
        let last = stored.try_iter().flatten().max();
        let accepted = records.iter().take(50).any(|r| matches!(r, Stored::Accepted { .. }));
        assert_eq!(last, accepted.then_some(number), "what is told to be stored");
    }
    let store = Store::open(path).expect("a store");
    let totals = store.totals(usize::MAX).expect("totals");
    assert_eq!(totals.accepted, work.values().map(|row| row.0).sum::<u64>());
    assert_eq!(totals.work, work.values().map(|row| row.1).sum::<u128>());
    assert_eq!(totals.rejected, work.values().map(|row| row.2).sum::<u64>());
    for worker in &totals.latest {
        let row = work.get(&(worker.account.clone(), worker.worker.clone())).copied();
        let (accepted, hashes, _) = row.unwrap_or_default();
        assert_eq!((worker.accepted, worker.work), (accepted, hashes));
    }
    let newest: Vec<_> = blocks.into_values().rev().collect();
    assert_eq!(store.blocks(usize::MAX).expect("blocks"), newest);
    let mut pending = store.pending_blocks().expect("blocks");
    pending.reverse();
    assert!(newest.iter().filter(|b| b.state == BlockState::Pending).eq(&pending));
}

fn block(hash: u8, state: bool, coinbase: &[u8], height: Option<u32>) -> FoundBlock {
    FoundBlock {
        hash: vec![hash; 32],
        state: if state { BlockState::Pending } else { BlockState::Accepted },
        found_unix_ms: u64::from(hash >> 3),
        height,
        prev_hash: vec![1; 32],
        account: "a".to_owned(),
        worker: String::new(),
        channel_id: 1,
        job: JobOrigin::Custom,
        extranonce_prefix: coinbase.iter().take(32).copied().collect(),
        template_provider: "localhost:8442".to_owned(),
        template_id: u64::from(hash) << 56,
        version: 1,
        header_timestamp: 2,
        header_nonce: 3,
        coinbase_tx: coinbase[..coinbase.len().min(500)].to_vec(),
    }
}

fn rows(
    path: &Path,
    blocks: &[(u64, Vec<u8>)],
    work: Vec<(String, String, [u64; 4])>,
    format: Option<u64>,
) {
    drop(Store::open(path).expect("a store"));
    let database = Database::create(path).expect("a database");
    let write = database.begin_write().expect("a transaction");
    {
        let mut table = write.open_table(BLOCKS).expect("a table");
        for (at, (time, json)) in blocks.iter().enumerate().take(20) {
            table.insert((*time, [at as u8; 32]), json.as_slice()).expect("a row");
        }
        let mut table = write.open_table(WORK).expect("a table");
        for (account, worker, [accepted, hashes, last, rejected]) in &work {
            let row = (*accepted, u128::from(*hashes) << 64, *last, *rejected);
            table.insert((account.as_str(), worker.as_str()), row).expect("a row");
        }
        if let Some(format) = format {
            let mut table = write.open_table(META).expect("a table");
            table.insert("format", format).expect("a row");
        }
    }
    write.commit().expect("a commit");
    drop(database);
    let opened = Store::open(path);
    let Ok(store) = opened else { return assert!(format.is_some_and(|format| format != 1)) };
    assert!(format.is_none_or(|format| format == 1));
    let readable = |json: &Vec<u8>| serde_json::from_slice::<FoundBlock>(json).is_ok();
    let good = blocks.iter().take(20).filter(|(_, json)| readable(json)).count();
    let read = store.blocks(usize::MAX).expect("blocks");
    assert_eq!(read.len(), good);
    for block in &read {
        let _ = (block.display_hash(), block.hash_bytes());
        let json = serde_json::to_vec(block).expect("a form in JSON");
        assert_eq!(serde_json::from_slice::<FoundBlock>(&json).expect("our own"), *block);
    }
    assert!(store.pending_blocks().expect("blocks").len() <= good);
    assert!(store.blocks(1).expect("blocks").len() <= 1);
    let totals = store.totals(3).expect("totals");
    assert!(totals.latest.len() <= 3 && totals.accounts <= totals.workers);
}

/// The database asserts what it finds in a file, and the store catches that: here it must not be the fuzzer's end.
fn damaged(path: &Path, damage: &[(u32, u8)], cut: Option<u32>) {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let of_database = info.location().is_some_and(|at| at.file().contains("/redb-"));
            if !of_database {
                loud(info);
            }
        }));
    });
    store(
        path,
        &[vec![
            Stored::Accepted { who: 1, work: 5 },
            Stored::Block { hash: 2, state: true, coinbase: vec![1; 100], height: Some(1) },
        ]],
    );
    let mut bytes = fs::read(path).expect("a file");
    for (at, flip) in damage.iter().take(20) {
        // What is used of a new file is its beginning.
        let at = *at as usize % bytes.len().min(1 << 16);
        bytes[at] ^= flip;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut as usize % bytes.len());
    }
    fs::write(path, bytes).expect("a file");
    let Ok(store) = Store::open(path) else { return };
    if let Ok(totals) = store.totals(10) {
        assert!(totals.latest.len() <= 10);
    }
    drop(store.pending_blocks());
    drop(store.blocks(10));
    let (store, queue) = (Arc::new(store), Arc::new(Queue::default()));
    let identity = Arc::new(Identity { account: "b".to_owned(), worker: String::new() });
    let outcome = ShareOutcome::Accepted { number: 1, work: 1 };
    queue.push(Record::Share { identity, outcome, unix_ms: 1 });
    queue.close();
    // On a file that cannot be written it gives up after one attempt.
    if let Ok(writer) = spawn(store, queue, |_| {}) {
        writer.join().expect("it ends well");
    }
}
