//! Whom a coinbase pays.

use adit_mining::coinbase::Output;

use crate::read::Reader;

/// There will never be more satoshis (consensus).
pub const MAX_MONEY: u64 = 21_000_000 * 100_000_000;

/// Outputs as in `coinbase_tx_outputs`, checked when read: as many as announced, nothing behind them, amounts that can
/// exist.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CoinbaseOutputs<'a> {
    /// Without the count.
    bytes: &'a [u8],
    count: usize,
    total: u64,
}

/// The bytes are not a list of outputs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OutputsError {
    /// They end within an output, or a length is absurd.
    #[error("cut off, or a length that is not there")]
    CutOff,
    /// There is more than was announced.
    #[error("{0} bytes follow the outputs")]
    Trailing(usize),
    /// More than there will ever be.
    #[error("amounts above 21 million coins")]
    TooMuch,
}

impl<'a> CoinbaseOutputs<'a> {
    /// Reads a CompactSize-prefixed array of consensus-serialized outputs, to the end of `bytes`.
    ///
    /// # Errors
    /// [`OutputsError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OutputsError> {
        let mut reader = Reader(bytes);
        let outputs = Self::read(&mut reader)?;
        match reader.0.len() {
            0 => Ok(outputs),
            more => Err(OutputsError::Trailing(more)),
        }
    }

    /// Reads the same from the front of `reader`.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, OutputsError> {
        let count = reader.compact_size().ok_or(OutputsError::CutOff)?;
        let start = reader.0;
        let mut total = 0;
        // An absurd count ends with the bytes, each output takes nine at least.
        for _ in 0..count {
            let value = reader.u64().ok_or(OutputsError::CutOff)?;
            reader.bytes().ok_or(OutputsError::CutOff)?;
            total = (value <= MAX_MONEY)
                .then(|| total + value)
                .filter(|total| *total <= MAX_MONEY)
                .ok_or(OutputsError::TooMuch)?;
        }
        let bytes = &start[..start.len() - reader.0.len()];
        Ok(Self { bytes, count: count as usize, total })
    }

    /// The outputs in order.
    pub fn iter(&self) -> impl Iterator<Item = Output<'a>> + use<'a> {
        let mut reader = Reader(self.bytes);
        // Checked when it was read.
        std::iter::from_fn(move || {
            Some(Output { value: reader.u64()?, script_pubkey: reader.bytes()? })
        })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Satoshis of all outputs together; what is above subsidy and fees makes a block invalid.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Satoshis that go to one of `scripts`, over all outputs that pay it.
    pub fn paid_to<S: AsRef<[u8]>>(&self, scripts: &[S]) -> u64 {
        let ours = |output: &Output<'_>| scripts.iter().any(|s| s.as_ref() == output.script_pubkey);
        self.iter().filter(ours).map(|output| output.value).sum()
    }

    /// Whether an output has this script, with whatever amount.
    pub fn contains(&self, script: &[u8]) -> bool {
        self.iter().any(|output| output.script_pubkey == script)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn serialized(outputs: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(value, script)| bitcoin::TxOut {
                value: bitcoin::Amount::from_sat(*value),
                script_pubkey: script.clone().into(),
            })
            .collect();
        bitcoin::consensus::serialize(&outputs)
    }

    #[test]
    fn payments_are_summed_over_all_outputs_of_the_scripts() {
        let bytes = serialized(&[(5, vec![1]), (7, vec![2]), (11, vec![1]), (0, vec![0x6a])]);
        let outputs = CoinbaseOutputs::parse(&bytes).unwrap();
        assert_eq!((outputs.count(), outputs.total()), (4, 23));
        assert_eq!(outputs.paid_to(&[[1u8]]), 16);
        assert_eq!(outputs.paid_to(&[[1u8], [2u8]]), 23);
        assert_eq!(outputs.paid_to(&[[3u8]]), 0);
        assert!(outputs.contains(&[0x6a]) && !outputs.contains(&[]));
    }

    #[test]
    fn malformed_lists_are_refused() {
        let parse = |bytes: &[u8]| CoinbaseOutputs::parse(bytes).map(|outputs| outputs.count());
        let good = serialized(&[(5, vec![1, 2, 3]), (7, vec![])]);
        assert_eq!(parse(&good), Ok(2));
        assert_eq!(parse(&[0]), Ok(0));
        for end in 0..good.len() {
            assert_eq!(parse(&good[..end]), Err(OutputsError::CutOff), "{end}");
        }
        assert_eq!(parse(&[&good[..], &[0]].concat()), Err(OutputsError::Trailing(1)));
        // Counts and script lengths beyond any memory.
        assert_eq!(parse(&[0xff; 40]), Err(OutputsError::CutOff));
        let mut absurd = vec![1];
        absurd.extend([0; 8]);
        absurd.extend([0xff; 9]);
        assert_eq!(parse(&absurd), Err(OutputsError::CutOff));
        // Not the shortest form of 1.
        assert_eq!(parse(&[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(OutputsError::CutOff));
        for values in [&[MAX_MONEY, 1][..], &[u64::MAX], &[u64::MAX, u64::MAX]] {
            let outputs: Vec<_> = values.iter().map(|value| (*value, vec![1])).collect();
            let bytes: Vec<u8> = std::iter::once(outputs.len() as u8)
                .chain(
                    outputs
                        .iter()
                        .flat_map(|(value, _)| value.to_le_bytes().into_iter().chain([1, 1])),
                )
                .collect();
            assert_eq!(parse(&bytes), Err(OutputsError::TooMuch));
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(outputs) = CoinbaseOutputs::parse(&bytes) {
                prop_assert_eq!(outputs.iter().count(), outputs.count());
            }
        }

        #[test]
        fn any_outputs(outputs in prop::collection::vec((0..1_000_000u64, prop::collection::vec(any::<u8>(), 0..300)), 0..8)) {
            let bytes = serialized(&outputs);
            let parsed = CoinbaseOutputs::parse(&bytes).unwrap();
            let read: Vec<_> = parsed.iter().map(|o| (o.value, o.script_pubkey.to_vec())).collect();
            prop_assert_eq!(&read, &outputs);
            prop_assert_eq!(parsed.total(), outputs.iter().map(|(value, _)| value).sum::<u64>());
        }
    }
}
