//! The coinbase of a `DeclareMiningJob`: two parts around the extranonce, BIP141 fields kept (spec 3.7.2).

use adit_mining::Coinbase;
use adit_mining::coinbase::MAX_SCRIPT_SIG_LEN;

use crate::outputs::{CoinbaseOutputs, OutputsError};
use crate::read::Reader;

/// Longest full extranonce: `PushSolution` carries it as one `B0_32`.
pub const MAX_EXTRANONCE_SIZE: usize = 32;

/// A declared coinbase that was read whole: with an extranonce of the right size between its parts it is exactly one
/// transaction with exactly one input.
#[derive(Clone, Copy, Debug)]
pub struct DeclaredCoinbase<'a> {
    /// nVersion.
    pub version: u32,
    /// Whether it has BIP141 fields, hence a witness.
    pub segwit: bool,
    /// The scriptSig up to the extranonce, which ends it (`coinbase_prefix` of `SetCustomMiningJob`).
    pub script_sig_prefix: &'a [u8],
    /// Bytes of the extranonce.
    pub full_extranonce_size: usize,
    /// nSequence of the input.
    pub sequence: u32,
    /// The outputs as serialized, their CompactSize count included (`coinbase_tx_outputs` of `SetCustomMiningJob`).
    pub outputs_bytes: &'a [u8],
    /// The outputs, read.
    pub outputs: CoinbaseOutputs<'a>,
    /// nLockTime.
    pub locktime: u32,
    prefix: &'a [u8],
    suffix: &'a [u8],
}

/// Why two parts are not a declared coinbase. Offsets are not told: the parts are short and the field says enough.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CoinbaseRefused {
    /// `coinbase_tx_prefix` ends before the scriptSig does begin.
    #[error("coinbase_tx_prefix ends within {0}")]
    PrefixCutOff(&'static str),
    /// Marker and flag are neither absent nor those of BIP141.
    #[error("segwit flag {0:#04x}, only 0x01 is known")]
    Flag(u8),
    /// A coinbase has one input.
    #[error("{0} inputs, a coinbase has exactly one")]
    Inputs(u64),
    /// The input spends something.
    #[error("the input is not a coinbase input: its previous output is not null")]
    NotNull,
    /// Consensus.
    #[error("a scriptSig of {0} bytes, a coinbase has 2 to 100")]
    ScriptSigSize(u64),
    /// `coinbase_tx_prefix` goes on behind the scriptSig.
    #[error("coinbase_tx_prefix holds {found} bytes of a scriptSig of {len}")]
    PrefixTooLong {
        /// The scriptSig's length as announced.
        len: usize,
        /// What is there of it before the extranonce.
        found: usize,
    },
    /// What the scriptSig lacks is the extranonce.
    #[error("room for an extranonce of {0} bytes, it has 1 to 32")]
    ExtranonceSize(usize),
    /// `coinbase_tx_suffix` ends too early.
    #[error("coinbase_tx_suffix ends within {0}")]
    SuffixCutOff(&'static str),
    /// The outputs are malformed.
    #[error("coinbase outputs: {0}")]
    Outputs(OutputsError),
    /// Consensus.
    #[error("no outputs")]
    NoOutputs,
    /// BIP141: the coinbase's witness is one item of 32 bytes.
    #[error("the witness is not one item of 32 bytes")]
    Witness,
    /// Something follows nLockTime.
    #[error("{0} bytes follow the coinbase")]
    Trailing(usize),
}

impl CoinbaseRefused {
    /// `DeclareMiningJob.Error.error_code` that the reference implementation gives for it.
    pub fn error_code(&self) -> &'static str {
        match self {
            Self::Inputs(_) | Self::NotNull => "invalid-coinbase-tx-input",
            _ => "invalid-coinbase-tx",
        }
    }
}

impl<'a> DeclaredCoinbase<'a> {
    /// Reads `coinbase_tx_prefix` and `coinbase_tx_suffix`. The extranonce must end the scriptSig: `SetCustomMiningJob`
    /// can say nothing else.
    ///
    /// # Errors
    /// [`CoinbaseRefused`]; nothing is allocated whatever lengths are announced.
    pub fn parse(prefix: &'a [u8], suffix: &'a [u8]) -> Result<Self, CoinbaseRefused> {
        use CoinbaseRefused as Refused;
        let mut reader = Reader(prefix);
        let cut_off = |what| move || Refused::PrefixCutOff(what);
        let version = reader.u32().ok_or_else(cut_off("nVersion"))?;
        let mut inputs = reader.compact_size().ok_or_else(cut_off("the input count"))?;
        // BIP141: no input can be meant, since the marker is where the count would be.
        let segwit = inputs == 0;
        if segwit {
            match reader.array::<1>().ok_or_else(cut_off("the segwit flag"))? {
                [1] => {}
                // Without a flag it is a transaction without inputs.
                [0] => return Err(Refused::Inputs(0)),
                [flag] => return Err(Refused::Flag(flag)),
            }
            inputs = reader.compact_size().ok_or_else(cut_off("the input count"))?;
        }
        if inputs != 1 {
            return Err(Refused::Inputs(inputs));
        }
        let previous = reader.array::<36>().ok_or_else(cut_off("the previous output"))?;
        if previous != NULL_OUTPOINT {
            return Err(Refused::NotNull);
        }
        let len = reader.compact_size().ok_or_else(cut_off("the scriptSig's length"))?;
        if !(2..=MAX_SCRIPT_SIG_LEN as u64).contains(&len) {
            return Err(Refused::ScriptSigSize(len));
        }
        let len = len as usize;
        let script_sig_prefix = reader.0;
        let found = script_sig_prefix.len();
        let full_extranonce_size =
            len.checked_sub(found).ok_or(Refused::PrefixTooLong { len, found })?;
        if !(1..=MAX_EXTRANONCE_SIZE).contains(&full_extranonce_size) {
            return Err(Refused::ExtranonceSize(full_extranonce_size));
        }

        let mut reader = Reader(suffix);
        let cut_off = |what| move || Refused::SuffixCutOff(what);
        let sequence = reader.u32().ok_or_else(cut_off("nSequence"))?;
        let outputs_at = reader.0;
        let outputs = CoinbaseOutputs::read(&mut reader).map_err(Refused::Outputs)?;
        let outputs_bytes = &outputs_at[..outputs_at.len() - reader.0.len()];
        if outputs.count() == 0 {
            return Err(Refused::NoOutputs);
        }
        if segwit {
            let witness = reader.array::<2>().ok_or_else(cut_off("the witness"))?;
            if witness != [1, 32] {
                return Err(Refused::Witness);
            }
            reader.array::<32>().ok_or_else(cut_off("the witness"))?;
        }
        let locktime = reader.u32().ok_or_else(cut_off("nLockTime"))?;
        if !reader.is_empty() {
            return Err(Refused::Trailing(reader.0.len()));
        }
        Ok(Self {
            version,
            segwit,
            script_sig_prefix,
            full_extranonce_size,
            sequence,
            outputs_bytes,
            outputs,
            locktime,
            prefix,
            suffix,
        })
    }

    /// The height that the scriptSig begins with (BIP34); `None` where it is no small number.
    pub fn height(&self) -> Option<u32> {
        const OP_1: u8 = 0x51;
        const OP_16: u8 = 0x60;
        let (opcode, rest) = self.script_sig_prefix.split_first()?;
        match *opcode {
            0 => Some(0),
            OP_1..=OP_16 => Some(u32::from(opcode - OP_1 + 1)),
            len @ 1..=4 => {
                let digits = rest.get(..usize::from(len))?;
                // The highest bit is the sign of a script number.
                if digits.last().is_some_and(|last| last & 0x80 != 0) {
                    return None;
                }
                Some(digits.iter().rev().fold(0, |sum, digit| sum << 8 | u32::from(*digit)))
            }
            _ => None,
        }
    }

    /// `coinbase_tx_prefix` and `coinbase_tx_suffix` as declared.
    pub(crate) fn parts(&self) -> (&'a [u8], &'a [u8]) {
        (self.prefix, self.suffix)
    }

    /// The coinbase without BIP141 fields, whose hash is the txid.
    pub(crate) fn stripped(&self) -> Coinbase {
        let mut prefix = self.prefix.to_vec();
        let mut suffix = self.suffix.to_vec();
        if self.segwit {
            // Marker and flag; witness.
            prefix.drain(4..6);
            let witness = 4 + self.outputs_bytes.len();
            suffix.drain(witness..witness + WITNESS_LEN);
        }
        Coinbase::from_parts(prefix, suffix, self.full_extranonce_size)
            .expect("parts of the wire's size, and an extranonce of at most 32 bytes")
    }
}

/// A previous output that is none: what marks a coinbase.
const NULL_OUTPOINT: [u8; 36] = {
    let mut outpoint = [0; 36];
    let mut i = 32;
    while i < 36 {
        outpoint[i] = 0xff;
        i += 1;
    }
    outpoint
};

/// BIP141: item count, item length, 32 bytes.
const WITNESS_LEN: usize = 34;

#[cfg(test)]
pub(crate) mod tests;
