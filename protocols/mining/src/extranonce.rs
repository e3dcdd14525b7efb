//! Extranonce bytes, and who gets which.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::mem;
use std::ops::Deref;

use adit_sv2::codec::B032;

/// The longest `extranonce_prefix` or `extranonce` (`B0_32`).
pub const MAX_EXTRANONCE_LEN: usize = 32;

/// Up to 32 bytes of extranonce, kept in place: a channel's `extranonce_prefix`, or a part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Extranonce {
    len: u8,
    bytes: [u8; MAX_EXTRANONCE_LEN],
}

impl Extranonce {
    /// Copies `bytes`.
    ///
    /// # Errors
    /// [`ExtranonceTooLong`] above 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, ExtranonceTooLong> {
        Self::concat(bytes, &[])
    }

    /// Copies `head` and then `tail`.
    ///
    /// # Errors
    /// [`ExtranonceTooLong`] above 32 bytes.
    pub fn concat(head: &[u8], tail: &[u8]) -> Result<Self, ExtranonceTooLong> {
        let len = head.len() + tail.len();
        if len > MAX_EXTRANONCE_LEN {
            return Err(ExtranonceTooLong { len });
        }
        let mut bytes = [0; MAX_EXTRANONCE_LEN];
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..len].copy_from_slice(tail);
        Ok(Self { len: len as u8, bytes })
    }

    /// The same with zeroes behind it, up to `len` bytes: the whole extranonce of a standard channel
    /// in a group. At most 32; never shorter than it is.
    #[must_use]
    pub fn padded(mut self, len: usize) -> Self {
        // What is behind the end is zero by construction.
        self.len = self.len.max(len.min(MAX_EXTRANONCE_LEN) as u8);
        self
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// As a message field.
    pub fn as_field(&self) -> B032<'_> {
        B032::new(self.as_bytes()).expect("at most 32 bytes by construction")
    }
}

impl Deref for Extranonce {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<B032<'_>> for Extranonce {
    fn from(field: B032<'_>) -> Self {
        Self::new(field.as_bytes()).expect("the wire type has at most 32 bytes")
    }
}

impl fmt::Display for Extranonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Extranonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extranonce({self})")
    }
}

/// More than 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an extranonce of {len} bytes, at most 32 are possible")]
pub struct ExtranonceTooLong {
    /// The length that was asked for.
    pub len: usize,
}

/// Hands out unique slices of an extranonce space: `head ‖ slice`, the slice big-endian.
///
/// The lowest free slice goes first, counted from [a start](Self::starting_at). A released slice is
/// not handed out again before the next [`new_prev_hash`](Self::new_prev_hash): until then its last
/// owner may still have work on it, and two channels would search the same space.
///
/// That also keeps a share from being paid twice, on the channel it was found for and on the next
/// one with the same slice. Where no share was ever accepted
/// ([`release_unused`](Self::release_unused)) there is none to be paid twice: such slices may be
/// handed out again within a tip, though only those beyond the first [`MAX_UNUSED`], or when there
/// is no other. So opening and closing channels exhausts neither space nor memory; what does has to
/// find a share for each slice.
///
/// Shares may also have been found for previous hashes that were yet to come
/// ([`release_ahead`](Self::release_ahead)): such slices rest until [`TIPS_AHEAD`] more have come.
///
/// A pool puts its `server_id` into the head; a translator divides its upstream's space with an
/// empty head.
#[derive(Clone, Debug)]
pub struct ExtranonceAllocator {
    head: Extranonce,
    slice_len: usize,
    /// The slice that is number 0. All below are such numbers.
    start: u32,
    /// Slices from here on were never handed out.
    next: u64,
    free: BTreeSet<u32>,
    quarantine: BTreeSet<u32>,
    /// In quarantine too, but without a share.
    unused: BTreeSet<u32>,
    /// In quarantine from the next previous hash on, from the one after that, and so on.
    ahead: VecDeque<BTreeSet<u32>>,
    /// Of tips whose grace is not over, oldest first.
    resting: VecDeque<BTreeSet<u32>>,
}

/// Slices without a share that wait for the next previous hash whatever happens.
pub const MAX_UNUSED: usize = 1 << 16;

/// Previous hashes that an owner of slices may have been ahead of.
pub const TIPS_AHEAD: usize = 3;

impl ExtranonceAllocator {
    /// A space of `256^slice_len` slices behind `head`.
    ///
    /// # Errors
    /// [`AllocatorError::SliceLen`] unless `slice_len` is 1 to 4, [`AllocatorError::TooLong`] where
    /// head and slice exceed 32 bytes.
    pub fn new(head: &[u8], slice_len: usize) -> Result<Self, AllocatorError> {
        if !(1..=4).contains(&slice_len) {
            return Err(AllocatorError::SliceLen(slice_len));
        }
        Extranonce::concat(head, &[0; 4][..slice_len])?;
        let head = Extranonce::new(head)?;
        let [free, quarantine, unused] = [(); 3].map(|()| BTreeSet::new());
        let [ahead, resting] = [(); 2].map(|()| VecDeque::new());
        Ok(Self { head, slice_len, start: 0, next: 0, free, quarantine, unused, ahead, resting })
    }

    /// The same space, its slices counted from this one on and around its end: for who does not know which ones it handed
    /// out when it last ran, and where shares of then may still count. To be said before the first one is handed out.
    #[must_use]
    pub fn starting_at(mut self, slice: u32) -> Self {
        self.start = slice;
        self
    }

    /// The lowest free slice, counted from the start, behind the head.
    ///
    /// # Errors
    /// [`AllocatorError::Exhausted`] while every slice is in use or in quarantine.
    pub fn allocate(&mut self) -> Result<Extranonce, AllocatorError> {
        let fresh = self.next < self.capacity();
        let number = if let Some(slice) = self.free.pop_first() {
            slice
        } else if fresh && self.unused.len() <= MAX_UNUSED {
            self.next += 1;
            (self.next - 1) as u32
        } else {
            self.unused.pop_first().ok_or(AllocatorError::Exhausted)?
        };
        // Bytes that a slice does not have are cut off.
        let bytes = self.start.wrapping_add(number).to_be_bytes();
        Ok(Extranonce::concat(&self.head, &bytes[4 - self.slice_len..])?)
    }

    /// Takes a slice back, into quarantine; what follows the slice is padding. Says whether it was
    /// one in use here; otherwise nothing happens.
    pub fn release(&mut self, prefix: &Extranonce) -> bool {
        self.in_use_slice(prefix).is_some_and(|slice| self.quarantine.insert(slice))
    }

    /// [`release`](Self::release) of a slice with which no share was accepted.
    pub fn release_unused(&mut self, prefix: &Extranonce) -> bool {
        self.in_use_slice(prefix).is_some_and(|slice| self.unused.insert(slice))
    }

    /// [`release`](Self::release) of a slice with which shares may have been accepted that are for one of the next
    /// [`TIPS_AHEAD`] previous hashes.
    pub fn release_ahead(&mut self, prefix: &Extranonce) -> bool {
        let Some(slice) = self.in_use_slice(prefix) else { return false };
        self.ahead.resize_with(TIPS_AHEAD, BTreeSet::new);
        self.ahead[TIPS_AHEAD - 1].insert(slice)
    }

    /// Work on the released slices is stale now: they may be handed out again.
    pub fn new_prev_hash(&mut self) {
        let mut slices = self.end_quarantine();
        self.free.append(&mut slices);
        self.free.append(&mut self.unused);
    }

    /// The same where jobs on the tip before still count for a while: slices with shares are free
    /// only with [`grace_over`](Self::grace_over), to be called once for each call of this.
    pub fn new_prev_hash_with_grace(&mut self) {
        let slices = self.end_quarantine();
        self.resting.push_back(slices);
        self.free.append(&mut self.unused);
    }

    /// Nothing on the oldest tip that was left with a grace counts any more.
    pub fn grace_over(&mut self) {
        if let Some(mut slices) = self.resting.pop_front() {
            self.free.append(&mut slices);
        }
    }

    /// What was in quarantine, which begins for those who were ahead of this previous hash.
    fn end_quarantine(&mut self) -> BTreeSet<u32> {
        let next = self.ahead.pop_front().unwrap_or_default();
        mem::replace(&mut self.quarantine, next)
    }

    /// Slices that exist.
    pub fn capacity(&self) -> u64 {
        1 << (8 * self.slice_len)
    }

    /// Slices that are handed out.
    pub fn in_use(&self) -> u64 {
        self.next - self.idle().map(|slices| slices.len() as u64).sum::<u64>()
    }

    /// Length of what [`allocate`](Self::allocate) returns, in bytes.
    pub fn prefix_len(&self) -> usize {
        self.head.len() + self.slice_len
    }

    /// The number of a slice that is in use.
    fn in_use_slice(&self, prefix: &Extranonce) -> Option<u32> {
        let slice = prefix.strip_prefix(self.head.as_bytes())?;
        let (slice, padding) = slice.split_at_checked(self.slice_len)?;
        let slice = slice.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let number = slice.wrapping_sub(self.start) & (self.capacity() - 1) as u32;
        let ours = padding.iter().all(|byte| *byte == 0) && u64::from(number) < self.next;
        (ours && !self.idle().any(|slices| slices.contains(&number))).then_some(number)
    }

    /// Slices that were given back.
    fn idle(&self) -> impl Iterator<Item = &BTreeSet<u32>> {
        let waiting = self.ahead.iter().chain(&self.resting);
        [&self.free, &self.quarantine, &self.unused].into_iter().chain(waiting)
    }
}

/// No slice, or no such allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocatorError {
    /// A slice has 1 to 4 bytes.
    #[error("a slice of {0} bytes, it must have 1 to 4")]
    SliceLen(usize),
    /// Head and slice together are too long.
    #[error(transparent)]
    TooLong(#[from] ExtranonceTooLong),
    /// Every slice is in use, or waits for the next previous hash.
    #[error("no free slice of the extranonce space")]
    Exhausted,
}

#[cfg(test)]
mod tests;
