//! Batches of `SubmitShares.Success`.

use adit_sv2::messages::mining::SubmitSharesSuccess;

/// Shares that are accepted (and stored, where that is asked for) but not yet acknowledged.
///
/// Difficulties are summed as expected hashes; one unit of `new_shares_sum` is 2^32 of them, and the
/// fraction that a batch leaves is carried to the next one, so that nothing is lost or made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    count: u32,
    last_sequence_number: u32,
    work: u128,
}

impl Acceptance {
    /// Adds a share.
    #[inline]
    pub fn add(&mut self, sequence_number: u32, work: u128) {
        self.count += 1;
        self.last_sequence_number = sequence_number;
        self.work = self.work.saturating_add(work);
    }

    /// Shares that wait.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The message that acknowledges them; `None` where there are none.
    pub fn take(&mut self, channel_id: u32) -> Option<SubmitSharesSuccess> {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return None;
        }
        let sum = u64::try_from(self.work >> 32).unwrap_or(u64::MAX);
        self.work &= 0xffff_ffff;
        Some(SubmitSharesSuccess {
            channel_id,
            last_sequence_number: self.last_sequence_number,
            new_submits_accepted_count: count,
            new_shares_sum: sum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_counted_once_and_fractions_are_carried() {
        let mut batch = Acceptance::default();
        assert_eq!(batch.take(1), None);
        let one_and_a_half = (1 << 32) + (1 << 31);
        batch.add(10, one_and_a_half);
        batch.add(11, 1 << 33);
        let message = batch.take(5).unwrap();
        assert_eq!((message.channel_id, message.last_sequence_number), (5, 11));
        assert_eq!((message.new_submits_accepted_count, message.new_shares_sum), (2, 3));
        assert_eq!(batch.take(5), None);
        batch.add(12, one_and_a_half);
        let message = batch.take(5).unwrap();
        assert_eq!((message.new_submits_accepted_count, message.new_shares_sum), (1, 2));
    }

    #[test]
    fn easy_shares_add_up() {
        let mut batch = Acceptance::default();
        let mut sum = 0;
        for sequence in 0..1_000 {
            batch.add(sequence, (1 << 32) / 8);
            sum += batch.take(1).unwrap().new_shares_sum;
        }
        assert_eq!(sum, 125);
        batch.add(0, u128::MAX);
        batch.add(1, u128::MAX);
        assert_eq!(batch.take(1).unwrap().new_shares_sum, u64::MAX);
    }
}
