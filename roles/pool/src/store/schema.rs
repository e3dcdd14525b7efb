//! The tables of the store.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use redb::{Database, Error, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;

use super::record::{FoundBlock, Identity, Record, ShareOutcome};

/// The format of the tables below.
pub(super) const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
const LAST_BATCH: &str = "last_batch";
const RUNS: &str = "runs";
/// Rejects of workers that never had a share accepted are summed up under `("", "")`, which no worker is called: a row
/// for everybody who sends nonsense would fill the disk.
///
/// (account, worker) -> (shares accepted, work in expected hashes, last accepted in unix ms, shares rejected).
const WORK: TableDefinition<'_, (&str, &str), (u64, u128, u64, u64)> = TableDefinition::new("work");
/// (found in unix ms, hash) -> the block as JSON: few and worth reading by eye.
const BLOCKS: TableDefinition<'_, (u64, [u8; 32]), &[u8]> = TableDefinition::new("blocks");

/// Makes the tables where they are missing; returns the file's format.
pub(super) fn prepare(database: &Database) -> Result<u64, Error> {
    let write = database.begin_write()?;
    let format = {
        let mut meta = write.open_table(META)?;
        let format = meta.get(FORMAT_KEY)?.map(|format| format.value());
        if format.is_none() {
            meta.insert(FORMAT_KEY, FORMAT)?;
        }
        format.unwrap_or(FORMAT)
    };
    if format == FORMAT {
        write.open_table(WORK)?;
        write.open_table(BLOCKS)?;
        write.commit()?;
    }
    Ok(format)
}

/// Counts a run of the pool; returns how many there were before.
pub(super) fn begin_run(database: &Database) -> Result<u64, Error> {
    let write = database.begin_write()?;
    let before = {
        let mut meta = write.open_table(META)?;
        let before = meta.get(RUNS)?.map_or(0, |runs| runs.value());
        meta.insert(RUNS, before.wrapping_add(1))?;
        before
    };
    write.commit()?;
    Ok(before)
}

/// Records summed up for one commit. Kept from commit to commit for its memory.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// One more than that of the batch before.
    pub(super) number: u64,
    work: HashMap<Arc<Identity>, Delta>,
    blocks: Vec<Arc<FoundBlock>>,
    /// Number of the last accepted share.
    pub(super) last_share: Option<u64>,
    /// Hashes of the blocks.
    pub(super) new_blocks: Vec<[u8; 32]>,
}

#[derive(Debug, Default)]
struct Delta {
    accepted: u64,
    work: u128,
    last_unix_ms: u64,
    rejected: u64,
}

impl Batch {
    pub(super) fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    pub(super) fn add(&mut self, record: Record) {
        match record {
            Record::Share { identity, outcome, unix_ms } => {
                let delta = self.work.entry(identity).or_default();
                match outcome {
                    ShareOutcome::Accepted { number, work } => {
                        delta.accepted += 1;
                        delta.work = delta.work.saturating_add(work);
                        delta.last_unix_ms = delta.last_unix_ms.max(unix_ms);
                        self.last_share = self.last_share.max(Some(number));
                    }
                    ShareOutcome::Rejected => delta.rejected += 1,
                }
            }
            Record::Block(block) => {
                self.new_blocks.push(block.hash_bytes());
                self.blocks.push(block);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.work.clear();
        self.blocks.clear();
        self.new_blocks.clear();
        self.last_share = None;
    }
}

/// Number of the last batch that was committed.
pub(super) fn last_batch(database: &Database) -> Result<u64, Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(LAST_BATCH)?.map_or(0, |number| number.value()))
}

/// Commits a batch once: one whose commit failed may be on disk all the same, and is not credited again.
pub(super) fn commit(database: &Database, batch: &Batch) -> Result<(), Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        if meta.insert(LAST_BATCH, batch.number)?.is_some_and(|last| last.value() == batch.number) {
            return Ok(());
        }
        let mut table = write.open_table(WORK)?;
        for (identity, delta) in &batch.work {
            let mut key = (identity.account.as_str(), identity.worker.as_str());
            if delta.accepted == 0 && table.get(key)?.is_none() {
                key = ("", "");
            }
            let (accepted, work, last, rejected) =
                table.get(key)?.map_or((0, 0, 0, 0), |row| row.value());
            let row = (
                accepted.saturating_add(delta.accepted),
                work.saturating_add(delta.work),
                last.max(delta.last_unix_ms),
                rejected.saturating_add(delta.rejected),
            );
            table.insert(key, row)?;
        }
        let mut table = write.open_table(BLOCKS)?;
        for block in &batch.blocks {
            // A struct of text and numbers always has a JSON form.
            let json = serde_json::to_vec(&**block).unwrap_or_default();
            table.insert((block.found_unix_ms, block.hash_bytes()), json.as_slice())?;
        }
    }
    write.commit()?;
    Ok(())
}

/// The newest `limit` blocks that `wanted` holds of, newest first. One that cannot be read is reported and skipped.
pub(super) fn blocks(
    database: &Database,
    limit: usize,
    wanted: impl Fn(&FoundBlock) -> bool,
) -> Result<Vec<FoundBlock>, Error> {
    let table = database.begin_read()?.open_table(BLOCKS)?;
    let mut found = Vec::new();
    for row in table.iter()?.rev() {
        if found.len() == limit {
            break;
        }
        let (key, json) = row?;
        match serde_json::from_slice::<FoundBlock>(json.value()) {
            Ok(block) if wanted(&block) => found.push(block),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, found_unix_ms = key.value().0, "a stored block cannot be read")
            }
        }
    }
    Ok(found)
}

/// Credited work, summed up.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Totals {
    /// Accounts with credited or refused shares.
    pub accounts: u64,
    /// Their workers.
    pub workers: u64,
    /// Shares accepted.
    pub accepted: u64,
    /// Shares refused.
    pub rejected: u64,
    /// Expected hashes of the accepted ones, decimal: more than a JSON number carries exactly.
    #[serde(serialize_with = "decimal")]
    pub work: u128,
    /// The workers heard of last, newest first.
    pub latest: Vec<WorkerTotals>,
}

/// Credited work of one worker.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct WorkerTotals {
    /// Last accepted share, milliseconds since 1970.
    pub last_share_unix_ms: u64,
    /// Who is paid.
    pub account: String,
    /// Which machine; may be empty.
    pub worker: String,
    /// Shares accepted.
    pub accepted: u64,
    /// Shares refused.
    pub rejected: u64,
    /// Expected hashes of the accepted ones, decimal.
    #[serde(serialize_with = "decimal")]
    pub work: u128,
}

fn decimal<S: serde::Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

pub(super) fn totals(database: &Database, limit: usize) -> Result<Totals, Error> {
    let table = database.begin_read()?.open_table(WORK)?;
    let mut totals = Totals::default();
    let mut account_before = String::new();
    let mut latest = BinaryHeap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let (account, worker) = key.value();
        let (accepted, work, last_share_unix_ms, rejected) = value.value();
        if totals.workers == 0 || account != account_before {
            totals.accounts += 1;
            account.clone_into(&mut account_before);
        }
        totals.workers += 1;
        totals.accepted = totals.accepted.saturating_add(accepted);
        totals.rejected = totals.rejected.saturating_add(rejected);
        totals.work = totals.work.saturating_add(work);
        let (account, worker) = (account.to_owned(), worker.to_owned());
        latest.push(Reverse(WorkerTotals {
            last_share_unix_ms,
            account,
            worker,
            accepted,
            rejected,
            work,
        }));
        if latest.len() > limit {
            latest.pop();
        }
    }
    totals.latest = latest.into_sorted_vec().into_iter().map(|Reverse(worker)| worker).collect();
    Ok(totals)
}
