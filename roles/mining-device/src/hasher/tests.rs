use std::collections::HashSet;
use std::sync::mpsc;

use super::*;

fn work(generation: u64, target: Target, root: Root) -> Work {
    Work {
        generation,
        version: 0x2000_0000,
        version_mask: 0x1fff_e000,
        prev_hash: [1; 32],
        ntime: 1_700_000_000,
        nbits: 0x207f_ffff,
        target,
        root,
    }
}

fn rolled() -> Root {
    Root::Rolled {
        coinbase_prefix: vec![7; 60],
        extranonce_size: 4,
        coinbase_suffix: vec![8; 40],
        merkle_path: vec![[9; 32]; 3],
    }
}

fn hash(work: &Work, found: &Found) -> adit_mining::BlockHash {
    let merkle_root = match &work.root {
        Root::Fixed(root) => *root,
        Root::Rolled { coinbase_prefix, coinbase_suffix, merkle_path, .. } => {
            let coinbase = [&coinbase_prefix[..], &found.extranonce, coinbase_suffix].concat();
            merkle_root(sha256d(&coinbase), merkle_path)
        }
    };
    let (version, ntime, nonce) = (found.version, found.ntime, found.nonce);
    Header { version, prev_hash: work.prev_hash, merkle_root, ntime, nbits: work.nbits, nonce }
        .hash()
}

#[test]
fn every_find_meets_the_target_and_none_comes_twice() {
    for root in [Root::Fixed([3; 32]), rolled()] {
        let (sender, finds) = mpsc::channel();
        let effort = Effort { threads: 2, hash_rate: None };
        let hasher = Hasher::start(2, effort, move |found| drop(sender.send(found))).unwrap();
        let target = Target::from_expected_hashes(2000.0);
        let works = [work(1, target, root.clone()), work(2, target, root)];
        works.iter().enumerate().for_each(|(i, w)| hasher.slots().set(i, Some(w.clone())));
        let mut seen = HashSet::new();
        for _ in 0..50 {
            let found = finds.recv_timeout(Duration::from_secs(20)).unwrap();
            let work = &works[found.miner];
            assert_eq!(found.generation, work.generation);
            assert_eq!(found.hash, hash(work, &found));
            assert!(target.is_met_by(&found.hash));
            assert!(seen.insert((found.miner, found.version, found.nonce, found.extranonce)));
        }
    }
}

#[test]
fn upper_parts_differ_in_version_then_time_or_in_extranonce() {
    let fixed = Arc::new(work(1, Target::MAX, Root::Fixed([3; 32])));
    let versions: HashSet<u32> =
        (0..65_536).step_by(97).map(|u| Prepared::new(Arc::clone(&fixed), u).version).collect();
    assert_eq!(versions.len(), 65_536_usize.div_ceil(97));
    assert!(versions.iter().all(|v| v & !0x1fff_e000 == 0x2000_0000));
    assert_eq!(Prepared::new(Arc::clone(&fixed), 65_536).ntime, fixed.ntime + 1);

    let rolled = Arc::new(work(1, Target::MAX, rolled()));
    assert_eq!(Prepared::new(Arc::clone(&rolled), 0x0102).extranonce, [0, 0, 1, 2]);
    assert_eq!(Prepared::new(rolled, 0x0102).version, 0x2000_0000);
}

#[test]
fn a_throttle_holds_to_the_hash() {
    let start = Instant::now();
    let mut search = Slot::new(start).search.into_inner().unwrap();
    search.work = Some(Arc::new(work(1, Target::MAX, Root::Fixed([0; 32]))));
    let mut hashes = 0;
    for ms in 1..=10_000 {
        let now = start + Duration::from_millis(ms);
        hashes += search.take(now, Some(123.0)).map_or(0, |(_, _, run)| run);
    }
    assert!((1229..=1230).contains(&hashes), "{hashes} in 10 s at 123 per second");
}

#[test]
fn a_run_never_crosses_an_upper_part() {
    let now = Instant::now();
    let mut search = Slot::new(now).search.into_inner().unwrap();
    search.work = Some(Arc::new(work(1, Target::MAX, Root::Fixed([0; 32]))));
    search.next = (1 << 32) - 5;
    assert_eq!(
        search.take(now, None).map(|(_, start, run)| (start, run)),
        Some(((1 << 32) - 5, 5))
    );
    assert_eq!(search.take(now, None).map(|(_, start, run)| (start, run)), Some((1 << 32, RUN)));
}

#[test]
fn without_work_nothing_is_hashed() {
    let effort = Effort { threads: 1, hash_rate: None };
    let hasher = Hasher::start(1, effort, |_| panic!("nothing to find")).unwrap();
    hasher.slots().set(0, None);
    hasher.slots().set(9, None);
    assert_eq!(hasher.slots().hashes(), 0);
}
