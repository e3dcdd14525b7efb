use std::sync::mpsc;

use super::*;

fn identity(account: &str, worker: &str) -> Arc<Identity> {
    Arc::new(Identity { account: account.to_owned(), worker: worker.to_owned() })
}

fn accepted(identity: &Arc<Identity>, number: u64, work: u128) -> Record {
    let outcome = ShareOutcome::Accepted { number, work };
    Record::Share { identity: identity.clone(), outcome, unix_ms: 1_000 + number }
}

fn block(seed: u8, state: BlockState) -> Arc<FoundBlock> {
    Arc::new(FoundBlock {
        hash: vec![seed; 32],
        state,
        found_unix_ms: u64::from(seed),
        height: Some(7),
        prev_hash: vec![1; 32],
        account: "a".to_owned(),
        worker: String::new(),
        channel_id: 3,
        job: JobOrigin::Template,
        extranonce_prefix: vec![1, 0, 0, 9],
        template_provider: "127.0.0.1:8442".to_owned(),
        template_id: 5,
        version: 0x2000_0000,
        header_timestamp: 6,
        header_nonce: 7,
        coinbase_tx: vec![0xab; 120],
    })
}

/// A running store whose reports come out of a channel.
struct Running {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
    reports: mpsc::Receiver<(Option<u64>, Vec<[u8; 32]>)>,
}

impl Running {
    fn start(path: &Path) -> Self {
        let store = Arc::new(Store::open(path).unwrap());
        let queue = Arc::new(Queue::default());
        let (sender, reports) = mpsc::channel();
        let report = move |progress: Progress<'_>| match progress {
            Progress::Stored { shares, blocks, .. } => {
                sender.send((shares, blocks.to_vec())).unwrap()
            }
            Progress::Failing(error) => panic!("{error}"),
        };
        let thread = spawn(store, queue.clone(), report).unwrap();
        Self { queue, thread, reports }
    }

    fn wait_for(&self, number: u64) {
        let deadline = Duration::from_secs(20);
        while self.reports.recv_timeout(deadline).unwrap().0.is_none_or(|stored| stored < number) {}
    }

    fn stop(self) {
        self.queue.close();
        self.thread.join().unwrap();
    }
}

#[test]
fn work_survives_a_restart_and_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/pool.redb");
    let (rig1, rig2) = (identity("alice", "rig1"), identity("alice", "rig2"));
    for round in 0..3 {
        let running = Running::start(&path);
        let numbers = 1..=1_000u64;
        assert!(numbers.clone().all(|number| running.queue.push(accepted(&rig1, number, 1 << 70))));
        running.queue.push(accepted(&rig2, 1_001, 5));
        let outcome = ShareOutcome::Rejected;
        for nobody in ["bob", "mallory"] {
            running.queue.push(Record::Share {
                identity: identity(nobody, "x"),
                outcome,
                unix_ms: 9,
            });
        }
        running.queue.push(Record::Share { identity: rig1.clone(), outcome, unix_ms: 9 });
        running.wait_for(1_001);
        running.stop();
        let totals = Store::open(&path).unwrap().totals(1).unwrap();
        let times = round + 1;
        // Those who only ever sent nonsense share a row.
        assert_eq!((totals.accounts, totals.workers), (2, 3));
        assert_eq!((totals.accepted, totals.rejected), (1_001 * times, 3 * times));
        assert_eq!(totals.work, ((1_000 << 70) + 5) * u128::from(times));
        let all = running_totals(&path);
        assert_eq!(
            all.iter().map(|w| (w.account.as_str(), w.rejected)).collect::<Vec<_>>(),
            [("alice", 0), ("alice", times), ("", 2 * times)]
        );
        let [last] = &totals.latest[..] else { panic!("limit") };
        assert_eq!(
            (last.worker.as_str(), last.accepted, last.last_share_unix_ms),
            ("rig2", times, 2_001)
        );
    }
}

fn running_totals(path: &Path) -> Vec<WorkerTotals> {
    Store::open(path).unwrap().totals(10).unwrap().latest
}

#[test]
fn refused_shares_have_no_place_above_the_limit_and_blocks_always_do() {
    let queue = Queue::default();
    let nobody = identity("a", "");
    let outcome = ShareOutcome::Rejected;
    let refused = || Record::Share { identity: nobody.clone(), outcome, unix_ms: 0 };
    assert!((0..QUEUE_LIMIT).all(|_| queue.push(refused())));
    assert!(!queue.push(refused()));
    assert!(queue.push(Record::Block(block(1, BlockState::Pending))));
    let mut records = Vec::new();
    assert!(queue.take(&mut records));
    assert_eq!(records.len(), QUEUE_LIMIT + 1);
    assert!(queue.push(refused()));
}

#[test]
fn what_was_reported_is_on_disk_whatever_happens_then() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = (folder.path().join("pool.redb"), folder.path().join("image.redb"));
    let running = Running::start(&path);
    let rig = identity("alice", "rig");
    for number in 1..=20 {
        running.queue.push(accepted(&rig, number, 10));
        running.wait_for(number);
        // The file as a killed process leaves it: no clean close.
        std::fs::copy(&path, &image).unwrap();
        let totals = Store::open(&image).unwrap().totals(10).unwrap();
        assert_eq!((totals.accepted, totals.work), (number, 10 * u128::from(number)));
    }
    running.stop();
}

#[test]
fn blocks_are_stored_at_once_and_keep_their_fate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    let running = Running::start(&path);
    for seed in 1..=3 {
        running.queue.push(Record::Block(block(seed, BlockState::Pending)));
        assert_eq!(
            running.reports.recv_timeout(Duration::from_secs(20)).unwrap(),
            (None, vec![[seed; 32]])
        );
    }
    running.queue.push(Record::Block(block(2, BlockState::Accepted)));
    running.queue.push(Record::Block(block(3, BlockState::Overtaken)));
    running.stop();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.pending_blocks().unwrap(), [(*block(1, BlockState::Pending)).clone()]);
    let states: Vec<BlockState> =
        store.blocks(2).unwrap().iter().map(|block| block.state).collect();
    assert_eq!(states, [BlockState::Overtaken, BlockState::Accepted]);
}

#[test]
fn a_batch_that_is_tried_again_is_credited_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("pool.redb")).unwrap();
    let mut batch = Batch::new(1);
    batch.add(accepted(&identity("alice", ""), 1, 10));
    store.commit(&batch).unwrap();
    store.commit(&batch).unwrap();
    assert_eq!(store.totals(0).unwrap().accepted, 1);
    batch.number = 2;
    store.commit(&batch).unwrap();
    assert_eq!(store.totals(0).unwrap().accepted, 2);
}

/// The database asserts what it finds in pages: neither who reads nor the thread that writes may end by that.
#[test]
fn a_panic_of_the_database_is_a_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("pool.redb")).unwrap();
    let error = store
        .read(|database| -> Result<(), redb::Error> {
            let _write = database.begin_write()?;
            panic!("assertion failed: page type")
        })
        .unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let mut batch = Batch::new(1);
    batch.add(accepted(&identity("alice", ""), 1, 10));
    store.commit(&batch).unwrap();
    assert_eq!(store.totals(0).unwrap().accepted, 1);
}

/// It writes to its file when it is closed, and asserts there as well.
/// An empty store in its place would take what is credited from then on, and hide it from the one that comes back.
#[test]
fn a_file_that_is_gone_is_not_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    let store = Store::open(&path).unwrap();
    // As after a commit that failed, and a file that could not be opened again.
    *store.database.write().unwrap() = None;
    let away = folder.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    let mut batch = Batch::new(1);
    batch.add(accepted(&identity("alice", "rig"), 1, 7));
    assert!(store.commit(&batch).is_err());
    assert!(!path.exists());
    std::fs::rename(&away, &path).unwrap();
    store.commit(&batch).unwrap();
}

#[test]
fn a_damaged_file_is_not_the_end_of_who_closes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    let store = Store::open(&path).unwrap();
    let mut batch = Batch::new(1);
    batch.add(accepted(&identity("alice", ""), 1, 10));
    store.commit(&batch).unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    // Of a small store all is here.
    for at in (400..12_000).step_by(97) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(store) = Store::open(&path) {
            let mut batch = Batch::new(2);
            batch.add(accepted(&identity("bob", ""), 1, 10));
            let _stored_or_not = (store.commit(&batch), store.totals(1));
        }
    }
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    let first = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("store {} is in use by another process", path.display()));
    drop(first);
    Store::open(&path).unwrap();
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    drop(Store::open(&path).unwrap());
    let good = std::fs::read(&path).unwrap();
    let garbage = b"shopping list: milk, bread".repeat(100);
    for bytes in [garbage, good[..100].to_vec(), good[..good.len() / 2].to_vec()] {
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{} bytes: {error}", bytes.len());
        assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len());
    }
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[test]
fn runs_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    for run in 0..3 {
        // To be looked at is not a run.
        drop(Store::open(&path).unwrap());
        assert_eq!(Store::open(&path).unwrap().begin_run().unwrap(), run);
    }
}

#[test]
fn another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(redb::TableDefinition::<&str, u64>::new("meta"))
        .unwrap()
        .insert("format", 9)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = Store::open(&path).unwrap_err();
    assert!(
        error.to_string().ends_with("has format 9, this program reads and writes format 1"),
        "{error}"
    );
}

#[test]
fn sums_of_a_forged_store_are_as_large_as_they_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.redb");
    drop(Store::open(&path).unwrap());
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let name = redb::TableDefinition::<(&str, &str), (u64, u128, u64, u64)>::new("work");
    for worker in ["a", "b"] {
        let row = (u64::MAX, u128::MAX, u64::MAX, u64::MAX);
        write.open_table(name).unwrap().insert(("lab", worker), row).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let totals = Store::open(&path).unwrap().totals(10).unwrap();
    assert_eq!((totals.workers, totals.accepted, totals.work), (2, u64::MAX, u128::MAX));
}
