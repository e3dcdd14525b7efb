//! Which bytes of the extranonce are whose.
//!
//! What an upstream grants behind its prefix is `extranonce1`, then `extranonce2`, then zeroes where it granted more than
//! a miner was given. On the channel of all a miner has a number of two bytes to itself, with which its `extranonce1`
//! begins: as that is also where the upstream's grant begins, no two miners ever have work in common, whatever sizes they
//! were given.

use std::time::{Duration, Instant};

use adit_mining::{Extranonce, ExtranonceAllocator};

use super::{Core, Settings};
use crate::config::{Channels, MIN_EXTRANONCE2_SIZE};

/// Bytes of `extranonce1`, where there is room: what firmware has seen most often.
const USUAL_EXTRANONCE1: u8 = 4;
/// Bytes of a miner's number on the channel of all, and of its `extranonce1` where there is no room for more.
const NUMBER: u8 = 2;
/// What stands behind the number in an `extranonce1` of the usual size: one of zeroes is taken for none by some firmware.
const BEHIND_NUMBER: [u8; 2] = [0, 1];
/// What `extranonce2` shrinks to where an upstream has no room for more; older firmware expects nothing else.
const SMALL_EXTRANONCE2: u8 = 4;
/// How often it is logged that miners are refused.
const LOGGED: Duration = Duration::from_secs(60);

/// Bytes that a miner has to itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sizes {
    pub(super) extranonce1: u8,
    pub(super) extranonce2: u8,
}

impl Sizes {
    const fn new(extranonce1: u8, extranonce2: u8) -> Self {
        Self { extranonce1, extranonce2 }
    }

    pub(super) fn total(self) -> usize {
        usize::from(self.extranonce1) + usize::from(self.extranonce2)
    }
}

impl Settings {
    /// What miners may be given, the best first.
    fn sizes(&self) -> impl DoubleEndedIterator<Item = Sizes> + use<> {
        let wanted = self.extranonce2_size;
        let small = wanted.min(SMALL_EXTRANONCE2);
        let sizes = [
            Sizes::new(USUAL_EXTRANONCE1, wanted),
            Sizes::new(USUAL_EXTRANONCE1, small),
            Sizes::new(NUMBER, small),
            Sizes::new(NUMBER, MIN_EXTRANONCE2_SIZE),
        ];
        sizes.into_iter()
    }

    /// Bytes that an upstream is asked for, where it was seen to refuse more than `most`.
    pub(super) fn asks(&self, most: Option<usize>) -> usize {
        let fits = |total: &usize| most.is_none_or(|most| *total <= most);
        self.sizes().map(Sizes::total).find(fits).unwrap_or_else(|| self.least())
    }

    /// What to ask for where so many bytes were refused.
    pub(super) fn asks_below(&self, refused: usize) -> Option<usize> {
        self.sizes().map(Sizes::total).find(|total| *total < refused)
    }

    /// Fewer bytes are of no use.
    pub(super) fn least(&self) -> usize {
        self.sizes().next_back().map_or(0, Sizes::total)
    }

    /// What a miner is given where there is room for so many bytes. Firmware that needs a certain size of `extranonce2`
    /// cannot do with another. None where there is no room for it.
    fn sizes_in(&self, room: Option<usize>, needed: Option<u8>) -> Option<Sizes> {
        let fits = |sizes: &Sizes| room.is_none_or(|room| sizes.total() <= room);
        match needed {
            Some(needed) => self
                .sizes()
                .map(|sizes| Sizes { extranonce2: needed, ..sizes })
                .find(|sizes| fits(sizes)),
            None => self.sizes().find(fits),
        }
    }
}

/// Hands out what each `extranonce1` begins with.
#[derive(Debug)]
pub(super) struct Slices {
    numbers: ExtranonceAllocator,
    /// The slice of zeroes, which some firmware takes for none: for when there is no other.
    zeroes: Option<Extranonce>,
    /// The last `extranonce1` that is shorter than a number.
    short: u16,
    logged: Option<Instant>,
}

impl Slices {
    pub(super) fn new(channels: Channels) -> Self {
        let size = match channels {
            Channels::PerMiner => USUAL_EXTRANONCE1,
            Channels::Aggregated => NUMBER,
        };
        let numbers = ExtranonceAllocator::new(&[], size.into());
        let numbers = numbers.expect("a slice of at most four bytes behind nothing");
        Self { numbers, zeroes: None, short: 0, logged: None }
    }

    /// An `extranonce1` of so many bytes that no other miner has. None where all are in use.
    ///
    /// The slice of a miner that has left is not used again before the next previous hash, since another would do its
    /// hashes again; except where there is no other, since that is better than to do none.
    pub(super) fn allocate(&mut self, size: u8) -> Option<Extranonce> {
        if usize::from(size) < self.numbers.prefix_len() {
            // On a channel of its own, whose prefix no other miner has: it need not be unique.
            self.short = self.short.checked_add(1).unwrap_or(1);
            return Extranonce::new(&self.short.to_be_bytes()).ok();
        }
        let mut number = self.next();
        if number.is_none() {
            self.numbers.new_prev_hash();
            number = self.next();
        }
        let number = number.or_else(|| self.zeroes.take())?;
        let behind = usize::from(size).saturating_sub(number.len());
        Extranonce::concat(&number, BEHIND_NUMBER.get(..behind)?).ok()
    }

    /// A miner has left.
    pub(super) fn release(&mut self, extranonce1: &Extranonce) {
        let number = extranonce1.get(..self.numbers.prefix_len()).map(Extranonce::new);
        if let Some(Ok(number)) = number {
            self.numbers.release(&number);
        }
    }

    /// Work that was there before is over.
    pub(super) fn new_prev_hash(&mut self) {
        self.numbers.new_prev_hash();
    }

    /// The next one but the zeroes, which are kept.
    fn next(&mut self) -> Option<Extranonce> {
        let next = self.numbers.allocate().ok()?;
        if next.iter().any(|byte| *byte != 0) {
            return Some(next);
        }
        self.zeroes = Some(next);
        self.numbers.allocate().ok()
    }
}

impl Core {
    /// `extranonce1`, and the size of `extranonce2`, for a miner of such firmware; or why it cannot have any: a text for
    /// its owner and a word for counters.
    pub(super) fn give_extranonce(
        &mut self,
        firmware: u8,
        now: Instant,
    ) -> Result<(Extranonce, u8), (&'static str, &'static str)> {
        let firmware = self.firmware.get(firmware);
        let Some(sizes) = self.settings.sizes_in(self.room, firmware.extranonce2_size) else {
            let (firmware, needed) = (&*firmware.name, firmware.extranonce2_size);
            if self.slices.may_log(now) {
                tracing::warn!(
                    firmware,
                    needed,
                    room = self.room,
                    "miners are refused: the upstream grants too little extranonce for their firmware"
                );
            }
            return Err((
                "The pool grants too little extranonce for this firmware",
                "upstream-extranonce-too-small",
            ));
        };
        match self.slices.allocate(sizes.extranonce1) {
            Some(extranonce1) => Ok((extranonce1, sizes.extranonce2)),
            None => {
                if self.slices.may_log(now) {
                    tracing::warn!(
                        miners = self.slices.numbers.capacity(),
                        "miners are refused: every slice of the extranonce is in use"
                    );
                }
                Err(("As many miners as can be are connected", "no-extranonce-left"))
            }
        }
    }
}

impl Slices {
    fn may_log(&mut self, now: Instant) -> bool {
        let may = self.logged.is_none_or(|at| now >= at + LOGGED);
        if may {
            self.logged = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn two_bytes_are_65_536_slices_and_zeroes_are_the_last() {
        let mut slices = Slices::new(Channels::Aggregated);
        let all: Vec<_> = (0..65_536).map_while(|_| slices.allocate(2)).collect();
        let different: HashSet<_> = all.iter().map(|slice| slice.to_vec()).collect();
        assert_eq!((all.len(), different.len()), (65_536, 65_536));
        assert!(all.iter().all(|slice| slice.len() == 2));
        assert!(all[..65_535].iter().all(|slice| **slice != [0, 0]));
        assert_eq!(slices.allocate(2), None);
        // One that leaves makes room for one that comes, whose slice is another's no more.
        slices.release(&all[7]);
        assert_eq!(slices.allocate(2), Some(all[7]));
        assert_eq!(slices.allocate(2), None);
        // The zeroes go last again.
        slices.release(&all[65_535]);
        slices.release(&all[9]);
        assert_eq!([slices.allocate(2), slices.allocate(2)], [Some(all[9]), Some(all[65_535])]);
    }

    #[test]
    fn short_ones_on_channels_of_their_own_are_never_zeroes_and_take_nothing() {
        let mut slices = Slices::new(Channels::PerMiner);
        for _ in 0..70_000 {
            let slice = slices.allocate(2).unwrap();
            assert!(slice.len() == 2 && *slice != [0, 0]);
            slices.release(&slice);
        }
        assert_eq!(*slices.allocate(4).unwrap(), [0, 0, 0, 1]);
    }

    #[test]
    fn slices_of_both_sizes_have_no_number_in_common() {
        let mut slices = Slices::new(Channels::Aggregated);
        let mut numbers = HashSet::new();
        for miner in 0..65_536_u32 {
            let size = if miner % 3 == 0 { 2 } else { 4 };
            let slice = slices.allocate(size).unwrap();
            assert_eq!(slice.len(), usize::from(size));
            assert!(numbers.insert([slice[0], slice[1]]));
            assert!(size == 2 || slice.iter().any(|byte| *byte != 0));
        }
        assert_eq!(slices.allocate(4), None);
    }

    #[test]
    fn a_slice_rests_until_the_next_tip_while_there_are_others() {
        for (channels, size) in [(Channels::Aggregated, 2), (Channels::PerMiner, 4)] {
            let mut slices = Slices::new(channels);
            let first = slices.allocate(size).unwrap();
            slices.release(&first);
            assert_ne!(slices.allocate(size).unwrap(), first);
            slices.new_prev_hash();
            assert_eq!(slices.allocate(size).unwrap(), first);
        }
    }
}
