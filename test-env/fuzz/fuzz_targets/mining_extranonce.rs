//! An allocator of extranonce slices in any use: no slice is with two owners, none comes again before it may.
#![no_main]

use std::collections::BTreeSet;

use adit_mining::{Extranonce, ExtranonceAllocator};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    head: Vec<u8>,
    slice_len: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// So many, so that a small space is used up.
    Allocate(u8),
    /// One of those in use, padded to a size.
    Release {
        which: u8,
        unused: bool,
        pad: u8,
    },
    /// Whatever this is.
    ReleaseOther(Vec<u8>, bool),
    NewPrevHash,
}

fuzz_target!(|input: Input| {
    let slice_len = usize::from(input.slice_len % 6);
    let Ok(mut allocator) = ExtranonceAllocator::new(&input.head, slice_len) else {
        return assert!(!(1..=4).contains(&slice_len) || input.head.len() + slice_len > 32);
    };
    let mut owned: Vec<Extranonce> = Vec::new();
    let mut quarantine: BTreeSet<Vec<u8>> = BTreeSet::new();
    for step in input.steps.iter().take(200) {
        match step {
            Step::Allocate(count) => {
                for _ in 0..=*count {
                    let Ok(prefix) = allocator.allocate() else {
                        let idle = allocator.capacity() - allocator.in_use();
                        assert_eq!(idle, quarantine.len() as u64, "used up too early");
                        break;
                    };
                    assert_eq!(prefix.len(), allocator.prefix_len());
                    assert!(prefix.as_bytes().starts_with(&input.head));
                    assert!(!quarantine.contains(prefix.as_bytes()), "given out within a tip");
                    assert!(!owned.contains(&prefix), "two owners");
                    owned.push(prefix);
                }
            }
            Step::Release { which, unused, pad } if !owned.is_empty() => {
                let prefix = owned.swap_remove(usize::from(*which) % owned.len());
                let padded = prefix.padded(usize::from(*pad % 40));
                if *unused {
                    assert!(allocator.release_unused(&padded));
                } else {
                    assert!(allocator.release(&padded));
                    quarantine.insert(prefix.as_bytes().to_vec());
                }
                assert!(!allocator.release(&padded) && !allocator.release_unused(&padded));
            }
            Step::Release { .. } => {}
            Step::ReleaseOther(bytes, unused) => {
                let Ok(prefix) = Extranonce::new(bytes) else { continue };
                let size = allocator.prefix_len();
                let mine = |own: &&Extranonce| prefix.as_bytes().starts_with(own.as_bytes());
                let padding = bytes.get(size..).is_some_and(|pad| pad.iter().all(|b| *b == 0));
                let at = owned.iter().position(|own| mine(&own)).filter(|_| padding);
                let released = if *unused {
                    allocator.release_unused(&prefix)
                } else {
                    allocator.release(&prefix)
                };
                assert_eq!(released, at.is_some());
                if let Some(at) = at {
                    let own = owned.swap_remove(at);
                    if !*unused {
                        quarantine.insert(own.as_bytes().to_vec());
                    }
                }
            }
            Step::NewPrevHash => {
                allocator.new_prev_hash();
                quarantine.clear();
            }
        }
        assert_eq!(allocator.in_use(), owned.len() as u64);
    }
});
