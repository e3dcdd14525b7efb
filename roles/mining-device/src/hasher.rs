//! The hashing threads: real double SHA-256 over the search space of each miner's current work.
//!
//! Threads are shared by all miners of the process. Each takes a short run of consecutive hashes from a miner that has
//! work and allowance, so that new work is seen within milliseconds and a throttle holds to the hash.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adit_mining::merkle::merkle_root;
use adit_mining::{BlockHash, Header, NonceScan, Target, sha256d};

/// What a miner works on.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The engine's own number for this work, told back with each find.
    pub generation: u64,
    /// Header version before rolling.
    pub version: u32,
    /// Version bits that may be rolled.
    pub version_mask: u32,
    /// Header field, internal byte order.
    pub prev_hash: [u8; 32],
    /// First nTime, unix seconds.
    pub ntime: u32,
    /// Header field, compact target.
    pub nbits: u32,
    /// A hash at or below it is a share.
    pub target: Target,
    /// Where the merkle root comes from.
    pub root: Root,
}

/// The part of the search space above nonce and version.
#[derive(Clone, Debug, PartialEq)]
pub enum Root {
    /// A standard job: the root is given.
    Fixed([u8; 32]),
    /// An extended job: the root follows from an extranonce that is counted up.
    Rolled {
        /// Coinbase up to and with the extranonce prefix.
        coinbase_prefix: Vec<u8>,
        /// Bytes that are counted up, 1 to 32.
        extranonce_size: usize,
        /// Coinbase after the extranonce.
        coinbase_suffix: Vec<u8>,
        /// Merkle path, deepest first.
        merkle_path: Vec<[u8; 32]>,
    },
}

/// A hash at or below the target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// Index of the miner.
    pub miner: usize,
    /// From the work.
    pub generation: u64,
    /// Header field.
    pub nonce: u32,
    /// Header field, unix seconds.
    pub ntime: u32,
    /// Whole header version.
    pub version: u32,
    /// The counted bytes; empty for a fixed root.
    pub extranonce: Vec<u8>,
    /// The hash.
    pub hash: BlockHash,
}

impl Found {
    /// Whether the hash meets a network target as well.
    pub fn is_block(&self, nbits: u32) -> bool {
        Target::from_nbits(nbits).is_some_and(|target| target.is_met_by(&self.hash))
    }
}

/// How much to hash.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Hashing threads.
    pub threads: usize,
    /// Hashes per second of each miner; none is as fast as it goes.
    pub hash_rate: Option<f64>,
}

/// The threads. They end when this is dropped.
pub struct Hasher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Hasher {
    /// Starts the threads for `miners` miners. `found` is called on a hashing thread and should be quick.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        miners: usize,
        effort: Effort,
        found: impl Fn(Found) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let now = Instant::now();
        let slots = (0..miners).map(|_| Slot::new(now)).collect();
        let shared = Arc::new(Shared {
            slots,
            hash_rate: effort.hash_rate,
            hashes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            news: (Mutex::new(0), Condvar::new()),
        });
        let found = Arc::new(found);
        let threads = (0..effort.threads.max(1)).map(|index| {
            let (shared, found) = (Arc::clone(&shared), Arc::clone(&found));
            std::thread::Builder::new()
                .name(format!("hash-{index}"))
                .spawn(move || shared.run(index, &*found))
        });
        let threads = threads.collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// The handle that gives work.
    pub fn slots(&self) -> Slots {
        Slots(Arc::clone(&self.shared))
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.announce();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

/// Gives miners their work.
#[derive(Clone)]
pub struct Slots(Arc<Shared>);

impl Slots {
    /// Replaces a miner's work; none lets it rest.
    pub fn set(&self, miner: usize, work: Option<Work>) {
        let Some(slot) = self.0.slots.get(miner) else { return };
        let mut search = lock(&slot.search);
        search.work = work.map(Arc::new);
        search.next = 0;
        drop(search);
        self.0.announce();
    }

    /// Hashes done since the start by all miners.
    pub fn hashes(&self) -> u64 {
        self.0.hashes.load(Ordering::Relaxed)
    }
}

/// Hashes taken at once: about 2 ms of one thread with SHA instructions.
const RUN: u64 = 1 << 14;
/// Allowance that a throttled miner may save up.
const SAVED: Duration = Duration::from_millis(250);
/// How long a thread rests where no miner has allowance left.
const REST: Duration = Duration::from_millis(2);

struct Shared {
    slots: Vec<Slot>,
    hash_rate: Option<f64>,
    hashes: AtomicU64,
    stop: AtomicBool,
    news: (Mutex<u64>, Condvar),
}

struct Slot {
    search: Mutex<Search>,
}

impl Slot {
    fn new(now: Instant) -> Self {
        Self { search: Mutex::new(Search { work: None, next: 0, allowance: 0.0, counted: now }) }
    }
}

/// One miner's place in its search space: the low 32 bits are the nonce, the rest is extranonce, version or time.
struct Search {
    work: Option<Arc<Work>>,
    next: u64,
    allowance: f64,
    counted: Instant,
}

impl Search {
    /// Takes the next run of hashes, all with one upper part.
    fn take(&mut self, now: Instant, hash_rate: Option<f64>) -> Option<(Arc<Work>, u64, u64)> {
        if let Some(rate) = hash_rate {
            let gained = now.saturating_duration_since(self.counted).as_secs_f64() * rate;
            self.allowance = (self.allowance + gained).min((rate * SAVED.as_secs_f64()).max(1.0));
            self.counted = now;
        }
        let work = Arc::clone(self.work.as_ref()?);
        let allowed = hash_rate.map_or(RUN, |_| (self.allowance as u64).min(RUN));
        let run = allowed.min((1 << 32) - (self.next & 0xffff_ffff));
        if run == 0 {
            return None;
        }
        let start = self.next;
        self.next += run;
        self.allowance -= run as f64;
        Some((work, start, run))
    }
}

impl Shared {
    fn announce(&self) {
        *lock(&self.news.0) += 1;
        self.news.1.notify_all();
    }

    fn run(&self, thread: usize, found: &dyn Fn(Found)) {
        let mut prepared: Option<Prepared> = None;
        let mut first = thread;
        while !self.stop.load(Ordering::Relaxed) {
            let seen = *lock(&self.news.0);
            let (mut idle, now) = (true, Instant::now());
            for step in 0..self.slots.len() {
                let miner = (first + step) % self.slots.len();
                let Some((work, start, run)) =
                    lock(&self.slots[miner].search).take(now, self.hash_rate)
                else {
                    continue;
                };
                idle = false;
                let upper = start >> 32;
                let fits = prepared.as_ref().is_some_and(|p| p.fits(&work, upper));
                let ready = match prepared.take() {
                    Some(ready) if fits => ready,
                    _ => Prepared::new(work, upper),
                };
                prepared.insert(ready).scan(miner, start as u32, run, found);
                self.hashes.fetch_add(run, Ordering::Relaxed);
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            first = (first + 1) % self.slots.len().max(1);
            if idle {
                let news = lock(&self.news.0);
                // Rest until there is news; with a throttle allowance grows by itself, so only briefly.
                let rest = if self.hash_rate.is_some() { REST } else { REST * 50 };
                let waited = self.news.1.wait_timeout_while(news, rest, |n| *n == seen);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// A header prepared for one upper part of the search space.
struct Prepared {
    work: Arc<Work>,
    upper: u64,
    version: u32,
    ntime: u32,
    extranonce: Vec<u8>,
    scan: NonceScan,
}

impl Prepared {
    fn new(work: Arc<Work>, upper: u64) -> Self {
        let (mut version, mut ntime, mut extranonce) = (work.version, work.ntime, Vec::new());
        let merkle_root = match &work.root {
            Root::Fixed(root) => {
                let versions = 1_u64 << work.version_mask.count_ones();
                version = with_bits(work.version, work.version_mask, (upper % versions) as u32);
                ntime = ntime.wrapping_add((upper / versions) as u32);
                *root
            }
            Root::Rolled { coinbase_prefix, extranonce_size, coinbase_suffix, merkle_path } => {
                extranonce = vec![0; *extranonce_size];
                let counted = upper.to_be_bytes();
                let shown = counted.len().min(*extranonce_size);
                extranonce[extranonce_size - shown..]
                    .copy_from_slice(&counted[counted.len() - shown..]);
                let coinbase = [&coinbase_prefix[..], &extranonce, coinbase_suffix].concat();
                merkle_root(sha256d(&coinbase), merkle_path)
            }
        };
        let (prev_hash, nbits) = (work.prev_hash, work.nbits);
        let header = Header { version, prev_hash, merkle_root, ntime, nbits, nonce: 0 };
        let scan = NonceScan::new(&header);
        Self { work, upper, version, ntime, extranonce, scan }
    }

    fn fits(&self, work: &Arc<Work>, upper: u64) -> bool {
        Arc::ptr_eq(&self.work, work) && self.upper == upper
    }

    fn scan(&mut self, miner: usize, first: u32, run: u64, found: &dyn Fn(Found)) {
        for offset in 0..run as u32 {
            let nonce = first.wrapping_add(offset);
            let hash = self.scan.hash(nonce);
            if self.work.target.is_met_by(&hash) {
                found(Found {
                    miner,
                    generation: self.work.generation,
                    nonce,
                    ntime: self.ntime,
                    version: self.version,
                    extranonce: self.extranonce.clone(),
                    hash,
                });
            }
        }
    }
}

/// `version` with the bits of `mask` replaced by those of `count`, lowest first.
fn with_bits(version: u32, mask: u32, count: u32) -> u32 {
    let rolled = (0..32)
        .filter(|bit| mask >> bit & 1 == 1)
        .enumerate()
        .fold(0, |rolled, (index, bit)| rolled | (count >> index & 1) << bit);
    version & !mask | rolled
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half done, so a panic elsewhere does no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
