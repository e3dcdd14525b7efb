use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

#[test]
fn slices_with_shares_rest_until_the_grace_is_over() {
    let mut space = ExtranonceAllocator::new(&[7], 1).unwrap();
    let all: Vec<_> = (0..3).map(|_| space.allocate().unwrap()).collect();
    assert!(space.release(&all[0]));
    assert!(space.release_unused(&all[1]));
    space.new_prev_hash_with_grace();
    assert!(!space.release(&all[0]), "it is not in use");
    assert_eq!(space.in_use(), 1);
    // What nobody found a share on is free at once.
    assert_eq!(space.allocate().unwrap(), all[1]);
    // The next tip comes within the grace of the first.
    assert!(space.release(&all[2]));
    space.new_prev_hash_with_grace();
    space.grace_over();
    assert_eq!(space.allocate().unwrap(), all[0]);
    assert_ne!(space.allocate().unwrap(), all[2]);
    space.grace_over();
    assert_eq!(space.allocate().unwrap(), all[2]);
    assert_eq!(space.in_use(), 4);
}

#[test]
fn slices_with_shares_of_tips_to_come_rest_until_those_are_over() {
    for grace in [false, true] {
        let mut space = ExtranonceAllocator::new(&[7], 1).unwrap();
        let slice = space.allocate().unwrap();
        assert!(space.release_ahead(&slice) && !space.release_ahead(&slice));
        for _ in 0..=TIPS_AHEAD {
            assert_ne!(space.allocate().unwrap(), slice);
            if grace {
                space.new_prev_hash_with_grace();
            } else {
                space.new_prev_hash();
            }
            if grace {
                assert_ne!(space.allocate().unwrap(), slice);
                space.grace_over();
            }
        }
        assert_eq!(space.allocate().unwrap(), slice);
    }
}

#[test]
fn lowest_free_first_and_quarantine_until_the_next_prev_hash() {
    let mut allocator = ExtranonceAllocator::new(&[9], 3).unwrap();
    let [a, b, c] = [(); 3].map(|()| allocator.allocate().unwrap());
    assert_eq!([&*a, &*b, &*c], [&[9, 0, 0, 0][..], &[9, 0, 0, 1], &[9, 0, 0, 2]]);
    assert!(allocator.release(&b));
    assert!(allocator.release(&a));
    assert_eq!(&*allocator.allocate().unwrap(), [9, 0, 0, 3]);
    allocator.new_prev_hash();
    assert_eq!(allocator.in_use(), 2);
    assert_eq!(allocator.allocate().unwrap(), a);
    assert_eq!(allocator.allocate().unwrap(), b);
    assert_eq!(&*allocator.allocate().unwrap(), [9, 0, 0, 4]);
}

#[test]
fn slices_are_counted_from_a_start_around_the_end() {
    let mut allocator = ExtranonceAllocator::new(&[9], 3).unwrap().starting_at(0xff_fffe);
    let all = [(); 4].map(|()| allocator.allocate().unwrap());
    let expected = [[9, 255, 255, 254], [9, 255, 255, 255], [9, 0, 0, 0], [9, 0, 0, 1]];
    assert_eq!(all.map(|slice| slice.to_vec()), expected.map(|slice| slice.to_vec()));
    let next = Extranonce::new(&[9, 0, 0, 2]).unwrap();
    assert!(!allocator.release(&next), "it was not handed out");
    assert!(allocator.release(&all[3]) && allocator.release(&all[0]));
    allocator.new_prev_hash();
    assert_eq!([(); 3].map(|()| allocator.allocate().unwrap()), [all[0], all[3], next]);

    for (slice_len, start) in [(1, 0), (1, 200), (1, 255), (2, 0xffff), (2, 77)] {
        let mut space = ExtranonceAllocator::new(&[], slice_len).unwrap().starting_at(start);
        let all: HashSet<_> = (0..space.capacity()).map(|_| space.allocate().unwrap()).collect();
        assert_eq!(all.len() as u64, space.capacity(), "all of it is usable");
        assert_eq!(space.allocate(), Err(AllocatorError::Exhausted));
        assert!(all.iter().all(|slice| space.release(slice)));
        assert_eq!(space.in_use(), 0);
    }
    let mut largest = ExtranonceAllocator::new(&[], 4).unwrap().starting_at(u32::MAX);
    assert_eq!(*largest.allocate().unwrap(), [255; 4]);
    assert_eq!(*largest.allocate().unwrap(), [0; 4]);
}

#[test]
fn only_what_is_in_use_is_taken_back_and_only_once() {
    let mut allocator = ExtranonceAllocator::new(&[9], 3).unwrap();
    let a = allocator.allocate().unwrap();
    for foreign in [&[9u8, 0, 0, 1][..], &[8, 0, 0, 0], &[9, 0, 0], &[9, 0, 0, 0, 1], &[]] {
        let foreign = Extranonce::new(foreign).unwrap();
        assert!(!allocator.release(&foreign) && !allocator.release_unused(&foreign), "{foreign}");
    }
    assert!(allocator.release(&a.padded(20)), "what a standard channel of a group has");
    assert!(!allocator.release(&a) && !allocator.release_unused(&a));
    allocator.new_prev_hash();
    assert!(!allocator.release(&a));
    assert_eq!(allocator.in_use(), 0);
}

#[test]
fn a_full_space_says_so() {
    let mut allocator = ExtranonceAllocator::new(&[], 1).unwrap();
    let all: HashSet<_> = (0..256).map(|_| allocator.allocate().unwrap()).collect();
    assert_eq!(all.len(), 256);
    assert_eq!(allocator.allocate(), Err(AllocatorError::Exhausted));
    let one = Extranonce::new(&[77]).unwrap();
    assert!(allocator.release(&one));
    assert_eq!(allocator.allocate(), Err(AllocatorError::Exhausted));
    allocator.new_prev_hash();
    assert_eq!(allocator.allocate(), Ok(one));
}

/// Opening and closing channels as fast as can be takes neither all slices nor all memory, and no
/// slice with a paid share comes back within the tip.
#[test]
fn a_flood_exhausts_nothing() {
    let mut allocator = ExtranonceAllocator::new(&[1], 3).unwrap();
    let paid = allocator.allocate().unwrap();
    assert!(allocator.release(&paid));
    for round in 0..1_000_000 {
        let slice = allocator.allocate().unwrap();
        assert!(slice != paid, "round {round}");
        assert!(allocator.release_unused(&slice));
        assert!(allocator.next <= MAX_UNUSED as u64 + 2);
    }
    allocator.new_prev_hash();
    assert_eq!(allocator.in_use(), 0);
    assert_eq!(allocator.allocate(), Ok(paid));

    // A small space: one that was never worked with goes out again only when there is no other.
    let mut allocator = ExtranonceAllocator::new(&[], 1).unwrap();
    let first = allocator.allocate().unwrap();
    assert!(allocator.release_unused(&first));
    assert!((1..256).all(|_| allocator.allocate().is_ok_and(|slice| slice != first)));
    assert_eq!(allocator.allocate(), Ok(first));
    assert_eq!(allocator.allocate(), Err(AllocatorError::Exhausted));
}

#[test]
fn four_byte_slices_and_limits() {
    let mut allocator = ExtranonceAllocator::new(&[1; 28], 4).unwrap();
    assert_eq!(allocator.capacity(), 1 << 32);
    assert_eq!(allocator.allocate().unwrap().len(), 32);
    assert_eq!(
        ExtranonceAllocator::new(&[1; 29], 4).unwrap_err(),
        AllocatorError::TooLong(ExtranonceTooLong { len: 33 })
    );
    assert_eq!(ExtranonceAllocator::new(&[], 0).unwrap_err(), AllocatorError::SliceLen(0));
    assert_eq!(ExtranonceAllocator::new(&[], 5).unwrap_err(), AllocatorError::SliceLen(5));
}

proptest! {
    /// Whatever happens, no slice has two owners, and none is reused within one tip.
    #[test]
    fn never_two_owners(start: u32, steps in prop::collection::vec((0u8..11, any::<prop::sample::Index>()), 0..400)) {
        let mut allocator = ExtranonceAllocator::new(&[3], 1).unwrap().starting_at(start);
        let mut owned: Vec<Extranonce> = Vec::new();
        let mut resting = HashMap::new();
        for (step, index) in steps {
            match step {
                0..6 => if let Ok(slice) = allocator.allocate() {
                    prop_assert!(!owned.contains(&slice) && !resting.contains_key(&slice));
                    owned.push(slice);
                },
                6..9 => if !owned.is_empty() {
                    let slice = owned.swap_remove(index.index(owned.len()));
                    prop_assert!(allocator.release(&slice));
                    resting.insert(slice, 1);
                },
                9 => if !owned.is_empty() {
                    let slice = owned.swap_remove(index.index(owned.len()));
                    prop_assert!(allocator.release_ahead(&slice));
                    resting.insert(slice, 1 + TIPS_AHEAD);
                },
                _ => {
                    allocator.new_prev_hash();
                    resting.retain(|_, tips| { *tips -= 1; *tips > 0 });
                }
            }
            prop_assert_eq!(allocator.in_use(), owned.len() as u64);
        }
    }
}
