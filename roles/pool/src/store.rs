//! What survives: credited work per worker, and every block found. One redb file, one thread that writes it.
//!
//! The engine pushes records into a bounded [`Queue`]; the thread commits them in batches and then reports which are on
//! disk, and only then are they acknowledged to miners. Nothing is dropped: while the disk does not take a batch it is
//! tried again, records pile up to [`QUEUE_LIMIT`], and above that the engine refuses further shares with an error
//! that the miner sees (`store-unavailable`). Blocks are never refused. What is lost above the limit are mere counts of
//! refused shares, which anybody can send without work; that is counted, too.

mod record;
mod schema;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use record::{BlockState, FoundBlock, Identity, JobOrigin, Record, ShareOutcome};
pub use schema::{Totals, WorkerTotals};

use schema::Batch;

/// Records that may wait for the disk: at 30,000 shares per second, 8 seconds of a disk that hangs; 16 MiB.
pub const QUEUE_LIMIT: usize = 1 << 18;
/// Shares wait at most this long for company before they are committed.
const COMMIT_INTERVAL: Duration = Duration::from_millis(50);
/// Shares that are company enough.
const COMMIT_RECORDS: usize = 8_192;
/// Between two attempts on a disk that fails.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Memory for the file's pages.
const CACHE_BYTES: usize = 32 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Two pools on one file would credit shares twice.
    #[error("store {0} is in use by another process")]
    InUse(PathBuf),
    /// The file is not a store, or was damaged.
    #[error(
        "store {path} is damaged or no store of a pool: {reason}; move it away to start a new one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Written by another version of this program.
    #[error("store {path} has format {found}, this program reads and writes format {expected}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// The file system does not let us.
    #[error("store {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: std::io::Error,
    },
    /// The database does not.
    #[error("store {path}: {error}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: Box<redb::Error>,
    },
}

/// What the thread reports after each commit, or attempt.
#[derive(Debug)]
pub enum Progress<'a> {
    /// These records are on disk.
    Stored {
        /// Every accepted share up to this number, if there was one.
        shares: Option<u64>,
        /// Hashes of the blocks.
        blocks: &'a [[u8; 32]],
        /// How long the commit took.
        took: Duration,
    },
    /// The disk did not take them; they are tried again.
    Failing(&'a StoreError),
}

/// An open store. Reading never waits for writing.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Empty only while a file that failed is opened again.
    database: RwLock<Option<redb::Database>>,
}

impl Store {
    /// Opens or makes the file. After a crash this checks it first.
    ///
    /// # Errors
    /// [`StoreError`] as its variants say.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
        }
        let database = open_database(path, Missing::Create)?;
        Ok(Self { path: path.to_owned(), database: RwLock::new(Some(database)) })
    }

    /// A pool begins to work with this store. Returns how many did before it: no two ever get the same number.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read or written.
    pub fn begin_run(&self) -> Result<u64, StoreError> {
        self.read(schema::begin_run)
    }

    /// Blocks found whose fate is not known, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read.
    pub fn pending_blocks(&self) -> Result<Vec<FoundBlock>, StoreError> {
        self.read(|database| {
            schema::blocks(database, usize::MAX, |block| block.state == BlockState::Pending)
        })
        .map(|mut blocks| {
            blocks.reverse();
            blocks
        })
    }

    /// The last `limit` blocks found, newest first.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read.
    pub fn blocks(&self, limit: usize) -> Result<Vec<FoundBlock>, StoreError> {
        self.read(|database| schema::blocks(database, limit, |_| true))
    }

    /// Sums over all workers, and the `limit` workers that were heard of last.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read.
    pub fn totals(&self, limit: usize) -> Result<Totals, StoreError> {
        self.read(|database| schema::totals(database, limit))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&redb::Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let guard = self.database.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let database = guard.as_ref().ok_or(redb::Error::PreviousIo);
        let result = unless_damaged(&self.path, || database.and_then(read))?;
        result.map_err(|error| database_error(&self.path, error))
    }

    /// Commits a batch; a file that failed before is opened anew, since the database refuses to go on after an error. One
    /// that is gone stays an error: its disk may come back, with all that was credited.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if self.database.read().unwrap_or_else(|poisoned| poisoned.into_inner()).is_none() {
            let database = open_database(&self.path, Missing::Fail)?;
            *self.database.write().unwrap_or_else(|poisoned| poisoned.into_inner()) =
                Some(database);
        }
        let result = self.read(|database| schema::commit(database, batch));
        if result.is_err() {
            let mut slot = self.database.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            let former = slot.take();
            let closed = unless_damaged(&self.path, || drop(former));
            *slot = closed.and_then(|()| open_database(&self.path, Missing::Fail)).ok();
        }
        result
    }
}

impl Drop for Store {
    /// The database writes to its file at its end, too.
    fn drop(&mut self) {
        let database = self.database.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let former = database.take();
        if let Err(error) = unless_damaged(&self.path, || drop(former)) {
            tracing::error!(%error, "the store does not close");
        }
    }
}

/// What to do where there is no file.
enum Missing {
    Create,
    Fail,
}

fn open_database(path: &Path, missing: Missing) -> Result<redb::Database, StoreError> {
    let opened = unless_damaged(path, || {
        let mut builder = redb::Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = match missing {
            Missing::Create => builder.create(path)?,
            Missing::Fail => builder.open(path)?,
        };
        schema::prepare(&database).map(|format| (database, format))
    });
    match opened? {
        Err(error) => Err(database_error(path, error)),
        Ok((database, schema::FORMAT)) => Ok(database),
        Ok((_, found)) => {
            Err(StoreError::Format { path: path.to_owned(), found, expected: schema::FORMAT })
        }
    }
}

/// The database asserts what it finds in the file's pages: a damaged file must be an error, not the end of whoever reads
/// or writes it.
fn unless_damaged<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    // After a panic nothing of the database is used: it is closed and opened again.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| StoreError::Damaged {
        path: path.to_owned(),
        reason: "its pages contradict each other".to_owned(),
    })
}

fn database_error(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path),
        redb::Error::Io(error)
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            StoreError::Damaged { path, reason: error.to_string() }
        }
        redb::Error::Io(error) => StoreError::Io { path, error },
        error @ (redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::RepairAborted) => StoreError::Damaged { path, reason: error.to_string() },
        error => StoreError::Database { path, error: Box::new(error) },
    }
}

/// Records on their way to the disk. Shared by the engine's driver and the thread; pushing never waits for the disk.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    /// When the first of them came.
    since: Option<Instant>,
    /// A block is among them.
    urgent: bool,
    closed: bool,
}

impl Queue {
    /// Adds a record. The engine keeps accepted shares below [`QUEUE_LIMIT`], since it knows how many are not stored yet.
    /// False if this was a refused share and there is no room.
    pub fn push(&self, record: Record) -> bool {
        let mut waiting = self.lock();
        let refused = matches!(record, Record::Share { outcome: ShareOutcome::Rejected, .. });
        if refused && waiting.records.len() >= QUEUE_LIMIT {
            return false;
        }
        let urgent = matches!(record, Record::Block(_));
        waiting.records.push(record);
        waiting.urgent |= urgent;
        let first = waiting.since.is_none();
        waiting.since.get_or_insert_with(Instant::now);
        if first || urgent || waiting.records.len() == COMMIT_RECORDS {
            self.wake.notify_one();
        }
        true
    }

    /// Lets the thread end once everything is stored.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for the next batch and puts it into `records`; false once the queue is closed and empty.
    pub(crate) fn take(&self, records: &mut Vec<Record>) -> bool {
        let mut waiting = self.lock();
        loop {
            let due = match waiting.since {
                None if waiting.closed => return false,
                None => None,
                Some(_)
                    if waiting.urgent
                        || waiting.closed
                        || waiting.records.len() >= COMMIT_RECORDS =>
                {
                    break;
                }
                Some(since) => match COMMIT_INTERVAL.checked_sub(since.elapsed()) {
                    None => break,
                    due => due,
                },
            };
            waiting = match due {
                None => self.wake.wait(waiting).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some(due) => {
                    self.wake
                        .wait_timeout(waiting, due)
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .0
                }
            };
        }
        std::mem::swap(&mut waiting.records, records);
        waiting.since = None;
        waiting.urgent = false;
        true
    }
}

/// Starts the thread that writes what is pushed into `queue`, and says after each batch how it went. It ends when the
/// queue is closed and everything is stored; on a disk that fails at that time it gives up after one more attempt.
///
/// # Errors
/// [`StoreError`] where the file cannot be read or the operating system gives no thread.
pub fn spawn(
    store: Arc<Store>,
    queue: Arc<Queue>,
    report: impl FnMut(Progress<'_>) + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let batch = Batch::new(store.read(schema::last_batch)?);
    let path = store.path.clone();
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || write(&store, &queue, batch, report))
        .map_err(|error| StoreError::Io { path, error })
}

fn write(store: &Store, queue: &Queue, mut batch: Batch, mut report: impl FnMut(Progress<'_>)) {
    let mut records = Vec::new();
    while queue.take(&mut records) {
        batch.number += 1;
        records.drain(..).for_each(|record| batch.add(record));
        records.shrink_to(COMMIT_RECORDS);
        loop {
            let started = Instant::now();
            match store.commit(&batch) {
                Ok(()) => {
                    let took = started.elapsed();
                    report(Progress::Stored {
                        shares: batch.last_share,
                        blocks: &batch.new_blocks,
                        took,
                    });
                    batch.clear();
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "work cannot be stored; shares are not acknowledged until it can");
                    report(Progress::Failing(&error));
                    let waiting = queue.lock();
                    if waiting.closed {
                        tracing::error!(
                            records = waiting.records.len(),
                            "stopped with work that was not stored"
                        );
                        return;
                    }
                    drop(waiting);
                    std::thread::sleep(RETRY_INTERVAL);
                }
            }
        }
    }
}
