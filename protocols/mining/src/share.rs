//! Shares: what was submitted, what became of it, and which were seen before.

use adit_sv2::messages::mining::{SubmitSharesExtended, SubmitSharesStandard};

use crate::header::BlockHash;

/// How far ahead of our clock a share's nTime may be, in seconds: consensus allows a block 2 hours
/// (`MAX_FUTURE_BLOCK_TIME`), less a margin for clocks that differ.
///
/// The spec (5.3.11) allows only the seconds that passed since the prevhash; V1 miners roll nTime
/// far, and the block is just as valid.
pub const MAX_NTIME_AHEAD: u32 = 2 * 60 * 60 - 120;

/// A submitted share, standard or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// Identifies the submission on its channel.
    pub sequence_number: u32,
    /// The job that it is for.
    pub job_id: u32,
    /// Header field.
    pub nonce: u32,
    /// Header field, unix seconds.
    pub ntime: u32,
    /// Whole header version.
    pub version: u32,
    /// The client's part of the extranonce; empty on a standard channel.
    pub extranonce: &'a [u8],
}

impl From<&SubmitSharesStandard> for Share<'static> {
    fn from(message: &SubmitSharesStandard) -> Self {
        Self {
            sequence_number: message.sequence_number,
            job_id: message.job_id,
            nonce: message.nonce,
            ntime: message.ntime,
            version: message.version,
            extranonce: &[],
        }
    }
}

impl<'a> From<&SubmitSharesExtended<'a>> for Share<'a> {
    fn from(message: &SubmitSharesExtended<'a>) -> Self {
        Self {
            sequence_number: message.sequence_number,
            job_id: message.job_id,
            nonce: message.nonce,
            ntime: message.ntime,
            version: message.version,
            extranonce: message.extranonce.as_bytes(),
        }
    }
}

/// A share that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedShare {
    /// Its block hash.
    pub hash: BlockHash,
    /// Expected hashes that it stands for: those of the target it was judged by, not of its own
    /// hash.
    pub work: u128,
    /// What of `work` is to be paid: all of it, but for a custom job that keeps a part of the block
    /// for its miner.
    pub credit: u128,
    /// Whether it meets the network's target.
    pub is_block: bool,
}

/// A share that does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedShare {
    /// Why.
    pub error: ShareError,
    /// It breaks a rule of ours and yet meets the network's target on a live job: submit it.
    pub block: Option<BlockHash>,
}

/// Why a share does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// No such channel on this connection. For the caller: a channel never says it of itself.
    #[error("no such channel")]
    InvalidChannelId,
    /// The job was never sent on this channel, is not active yet, or was forgotten long ago.
    #[error("no such job")]
    InvalidJobId,
    /// The job was live once: it is for an earlier tip, or too many newer ones came.
    #[error("the job is no longer valid")]
    StaleShare,
    /// The extranonce does not have the granted length.
    #[error("wrong extranonce size")]
    BadExtranonceSize,
    /// nTime is below the job's `min_ntime`.
    #[error("ntime is too old")]
    NtimeTooOld,
    /// nTime is too far in the future.
    #[error("ntime is too far ahead")]
    NtimeTooNew,
    /// The version differs from the job's, which forbids that.
    #[error("the job allows no version rolling")]
    VersionRollingNotAllowed,
    /// A version bit differs that is not for rolling.
    #[error("a version bit outside the rolling mask differs")]
    InvalidVersionBit,
    /// The hash does not meet the target.
    #[error("the hash does not meet the target")]
    DifficultyTooLow,
    /// The same header was accepted before.
    #[error("submitted before")]
    DuplicateShare,
    /// So many shares were accepted on one job that duplicates could no longer be told.
    #[error("too many shares on one job")]
    TooManyShares,
}

impl ShareError {
    /// All of them, for counters that begin at zero.
    pub const ALL: [Self; 11] = [
        Self::InvalidChannelId,
        Self::InvalidJobId,
        Self::StaleShare,
        Self::BadExtranonceSize,
        Self::NtimeTooOld,
        Self::NtimeTooNew,
        Self::VersionRollingNotAllowed,
        Self::InvalidVersionBit,
        Self::DifficultyTooLow,
        Self::DuplicateShare,
        Self::TooManyShares,
    ];

    /// `error_code` of `SubmitShares.Error`: free text in the spec; these are the words that SRI's
    /// clients know (the last one has no counterpart there).
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidChannelId => "invalid-channel-id",
            Self::InvalidJobId => "invalid-job-id",
            Self::StaleShare => "stale-share",
            Self::BadExtranonceSize => "bad-extranonce-size",
            Self::NtimeTooOld | Self::NtimeTooNew => "invalid-share",
            Self::VersionRollingNotAllowed => "version-rolling-not-allowed",
            Self::InvalidVersionBit => "invalid-non-rollable-version-bit",
            Self::DifficultyTooLow => "difficulty-too-low",
            Self::DuplicateShare => "duplicate-share",
            Self::TooManyShares => "too-many-shares",
        }
    }
}

/// The headers that were accepted on one job, by the low 64 bits of their hash.
///
/// Those bits are as good as random in any hash that meets a target, so they need no mixing, and two
/// honest shares look alike once in 2^63 / n. Open addressing, at most half full; grows by doubling
/// up to the cap, which an unlimited flood of easy shares would otherwise turn into memory.
#[derive(Clone, Debug, Default)]
pub struct SeenShares {
    /// 0 marks a free place.
    table: Vec<u64>,
    len: usize,
}

/// What [`SeenShares::insert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not seen before; it is now.
    New,
    /// Seen before.
    Before,
    /// Not seen before, and there is no more room to remember it.
    Full,
}

impl SeenShares {
    /// An empty set that takes `shares` before it must grow.
    pub fn with_room_for(shares: usize) -> Self {
        let mut set = Self::default();
        set.reset(shares);
        set
    }

    /// Remembers a hash, unless there are `cap` already. Allocates only when it grows.
    #[inline]
    pub fn insert(&mut self, hash: &BlockHash, cap: usize) -> Seen {
        let [a, b, c, d, e, f, g, h, ..] = hash.0;
        let key = u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1);
        match self.find(key) {
            Some(at) if self.table[at] == key => return Seen::Before,
            _ if self.len >= cap => return Seen::Full,
            Some(at) if self.len * 2 < self.table.len() => self.table[at] = key,
            _ => self.grow_and_insert(key),
        }
        self.len += 1;
        Seen::New
    }

    /// Remembered hashes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Hashes that it holds before it must grow.
    pub fn room(&self) -> usize {
        self.table.len() / 2
    }

    /// Forgets everything and makes room for `shares`, within sensible bounds; keeps its memory
    /// where that is about right.
    pub fn reset(&mut self, shares: usize) {
        let wanted = (shares * 2).next_power_of_two().clamp(SMALLEST_TABLE, LARGEST_FIRST_TABLE);
        self.len = 0;
        if (wanted..=wanted * 4).contains(&self.table.len()) {
            self.table.fill(0);
        } else {
            self.table = vec![0; wanted];
        }
    }

    /// Where `key` is or would go; `None` in a table without places.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = key as usize & mask;
        while self.table[at] != 0 && self.table[at] != key {
            at = (at + 1) & mask;
        }
        Some(at)
    }

    #[cold]
    fn grow_and_insert(&mut self, key: u64) {
        let wanted = (self.table.len() * 2).max(SMALLEST_TABLE);
        let old = std::mem::replace(&mut self.table, vec![0; wanted]);
        for key in old.into_iter().chain([key]).filter(|key| *key != 0) {
            if let Some(at) = self.find(key) {
                self.table[at] = key;
            }
        }
    }
}

/// 128 bytes: room for 8 shares, more than most jobs see.
const SMALLEST_TABLE: usize = 16;

/// A new job is not expected to see more than 2^16 shares, whatever the last one saw.
const LARGEST_FIRST_TABLE: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn hash(low: u64) -> BlockHash {
        let mut bytes = [0xcc; 32];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        BlockHash(bytes)
    }

    #[test]
    fn every_error_has_a_clean_code() {
        for error in ShareError::ALL {
            assert!(error.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{error}");
        }
    }

    #[test]
    fn the_cap_holds_and_duplicates_are_still_told() {
        let mut seen = SeenShares::default();
        for key in 1..=100 {
            assert_eq!(seen.insert(&hash(key), 100), Seen::New);
        }
        assert_eq!(seen.insert(&hash(101), 100), Seen::Full);
        assert_eq!(seen.insert(&hash(50), 100), Seen::Before);
        assert_eq!(seen.len(), 100);
        seen.reset(0);
        assert!(seen.is_empty());
        assert_eq!(seen.insert(&hash(50), 100), Seen::New);
    }

    #[test]
    fn room_that_was_asked_for_is_there() {
        for room in [0, 1, 8, 9, 1_000, 65_536] {
            let mut seen = SeenShares::with_room_for(room);
            let table = seen.table.len();
            for key in 0..room as u64 {
                assert_eq!(seen.insert(&hash(key * 3 + 1), usize::MAX), Seen::New);
            }
            assert_eq!(seen.table.len(), table, "{room}");
        }
        let mut seen = SeenShares::with_room_for(usize::MAX / 4);
        assert_eq!(seen.table.len(), LARGEST_FIRST_TABLE);
        seen.reset(1);
        assert_eq!(seen.table.len(), SMALLEST_TABLE);
    }

    proptest! {
        /// Against a real set, with keys that collide in the table.
        #[test]
        fn agrees_with_a_hash_set(keys in prop::collection::vec((0u64..40, 0u64..20), 0..500)) {
            let mut seen = SeenShares::default();
            let mut oracle = HashSet::new();
            for (low, high) in keys {
                let key = high << 56 | low;
                // A zero key shares its place with 1.
                let fresh = oracle.insert(key.max(1));
                let expected = if fresh { Seen::New } else { Seen::Before };
                prop_assert_eq!(seen.insert(&hash(key), usize::MAX), expected);
            }
            prop_assert_eq!(seen.len(), oracle.len());
        }
    }
}
