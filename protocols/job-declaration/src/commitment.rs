//! What a token says about a declared job.

use adit_sv2::keys::tagged_hash;
use adit_sv2::messages::mining::SetCustomMiningJob;

use crate::coinbase::DeclaredCoinbase;

/// Version bits that miners may roll (BIP323): no part of what was declared.
const ROLLABLE: u32 = 0x1fff_ffe0;

/// Binds every field of a job that decides which blocks can come of it; not its least nTime and its nBits, which the
/// pool knows from its own tip.
///
/// The hash binds; the hints, a few bytes of each field's hash, only tell which field differs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Commitment {
    pub(crate) hash: [u8; 32],
    pub(crate) hints: [[u8; HINT]; FIELDS],
}

/// A field of `SetCustomMiningJob` that a [`Commitment`] binds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Field {
    Version,
    PrevHash,
    CoinbaseTxVersion,
    CoinbasePrefix,
    CoinbaseTxInputSequence,
    CoinbaseTxOutputs,
    CoinbaseTxLocktime,
    MerklePath,
    /// The hints agree and the hash does not: a forger met all hints.
    Unnamed,
}

impl Field {
    /// `SetCustomMiningJob.Error.error_code` that the reference implementation gives for it.
    pub fn error_code(self) -> &'static str {
        match self {
            Self::Version => "invalid-version",
            Self::PrevHash => "stale-chain-tip",
            Self::CoinbaseTxVersion => "invalid-coinbase-tx-version",
            Self::CoinbasePrefix => "invalid-coinbase-prefix",
            Self::CoinbaseTxInputSequence => "invalid-coinbase-tx-input-n-sequence",
            Self::CoinbaseTxOutputs => "invalid-coinbase-tx-outputs",
            Self::CoinbaseTxLocktime => "invalid-coinbase-tx-locktime",
            Self::MerklePath => "invalid-merkle-path",
            Self::Unnamed => "invalid-mining-job-token",
        }
    }
}

impl Commitment {
    /// To what a client wants to mine on: the pool's side.
    pub fn of(job: &SetCustomMiningJob<'_>) -> Self {
        let path: Vec<_> = job.merkle_path.iter().collect();
        Self::new(&Fields {
            version: job.version,
            prev_hash: &job.prev_hash,
            coinbase_tx_version: job.coinbase_tx_version,
            coinbase_prefix: job.coinbase_prefix.as_bytes(),
            coinbase_tx_input_sequence: job.coinbase_tx_input_sequence,
            coinbase_tx_outputs: job.coinbase_tx_outputs.as_bytes(),
            coinbase_tx_locktime: job.coinbase_tx_locktime,
            merkle_path: &path,
        })
    }

    /// To what was declared: the JDS's side. `prev_hash` is the tip that the job was held against, `merkle_path` that of
    /// the declared transactions ([`DeclaredJob::merkle_path`](crate::DeclaredJob::merkle_path)).
    pub fn declared(
        version: u32,
        coinbase: &DeclaredCoinbase<'_>,
        merkle_path: &[[u8; 32]],
        prev_hash: &[u8; 32],
    ) -> Self {
        Self::new(&Fields {
            version,
            prev_hash,
            coinbase_tx_version: coinbase.version,
            coinbase_prefix: coinbase.script_sig_prefix,
            coinbase_tx_input_sequence: coinbase.sequence,
            coinbase_tx_outputs: coinbase.outputs_bytes,
            coinbase_tx_locktime: coinbase.locktime,
            merkle_path,
        })
    }

    /// Holds `said` against what was committed to.
    ///
    /// # Errors
    /// The first field that differs.
    pub fn check(&self, said: &Self) -> Result<(), Field> {
        if self.hash == said.hash {
            return Ok(());
        }
        let named = [
            Field::Version,
            Field::PrevHash,
            Field::CoinbaseTxVersion,
            Field::CoinbasePrefix,
            Field::CoinbaseTxInputSequence,
            Field::CoinbaseTxOutputs,
            Field::CoinbaseTxLocktime,
            Field::MerklePath,
        ];
        let pairs = self.hints.iter().zip(&said.hints);
        let differs = named.into_iter().zip(pairs).find(|(_, (ours, theirs))| ours != theirs);
        Err(differs.map_or(Field::Unnamed, |(field, _)| field))
    }

    fn new(fields: &Fields<'_>) -> Self {
        let hash = |field: &[u8]| tagged_hash(FIELD_TAG, &[field]);
        let hashes = [
            hash(&(fields.version & !ROLLABLE).to_le_bytes()),
            hash(fields.prev_hash),
            hash(&fields.coinbase_tx_version.to_le_bytes()),
            hash(fields.coinbase_prefix),
            hash(&fields.coinbase_tx_input_sequence.to_le_bytes()),
            hash(fields.coinbase_tx_outputs),
            hash(&fields.coinbase_tx_locktime.to_le_bytes()),
            hash(fields.merkle_path.as_flattened()),
        ];
        Self {
            hash: tagged_hash(JOB_TAG, &[hashes.as_flattened()]),
            hints: hashes.map(|hash| {
                let mut hint = [0; HINT];
                hint.copy_from_slice(&hash[..HINT]);
                hint
            }),
        }
    }
}

struct Fields<'a> {
    version: u32,
    prev_hash: &'a [u8; 32],
    coinbase_tx_version: u32,
    coinbase_prefix: &'a [u8],
    coinbase_tx_input_sequence: u32,
    coinbase_tx_outputs: &'a [u8],
    coinbase_tx_locktime: u32,
    merkle_path: &'a [[u8; 32]],
}

/// Fields that are bound.
pub(crate) const FIELDS: usize = 8;
/// Bytes of a hint.
pub(crate) const HINT: usize = 4;

const FIELD_TAG: &str = "adit/custom-job-field";
const JOB_TAG: &str = "adit/custom-job";

#[cfg(test)]
mod tests {
    use adit_mining::merkle::merkle_path;
    use adit_sv2::codec::{B064K, B0255, Seq0255};

    use super::*;
    use crate::coinbase::tests::{Parts, pool_output, witness_commitment};

    fn same(
        coinbase: &DeclaredCoinbase<'_>,
        path: &[[u8; 32]],
        with: impl Fn(&mut SetCustomMiningJob<'_>),
    ) -> Commitment {
        let mut job = SetCustomMiningJob {
            channel_id: 1,
            request_id: 2,
            mining_job_token: B0255::default(),
            version: 0x2000_0000,
            prev_hash: [9; 32],
            min_ntime: 1,
            nbits: 2,
            coinbase_tx_version: coinbase.version,
            coinbase_prefix: B0255::new(coinbase.script_sig_prefix).unwrap(),
            coinbase_tx_input_sequence: coinbase.sequence,
            coinbase_tx_outputs: B064K::new(coinbase.outputs_bytes).unwrap(),
            coinbase_tx_locktime: coinbase.locktime,
            merkle_path: Seq0255::new(path).unwrap(),
        };
        with(&mut job);
        Commitment::of(&job)
    }

    #[test]
    fn both_sides_agree_and_every_difference_is_named() {
        let parts = Parts::new(&[pool_output(50), witness_commitment()]);
        let coinbase = parts.parse().unwrap();
        let path = merkle_path(&[[1; 32], [2; 32], [3; 32]]);
        let declared = Commitment::declared(0x2000_0000, &coinbase, &path, &[9; 32]);
        let said = |with: fn(&mut SetCustomMiningJob<'_>)| {
            declared.check(&same(&coinbase, &path, with)).err()
        };
        assert_eq!(said(|_| {}), None);
        assert_eq!(said(|job| (job.channel_id, job.min_ntime, job.nbits) = (7, 8, 9)), None);
        assert_eq!(said(|job| job.version ^= ROLLABLE), None);
        assert_eq!(said(|job| job.version ^= 1), Some(Field::Version));
        assert_eq!(said(|job| job.prev_hash[0] ^= 1), Some(Field::PrevHash));
        assert_eq!(said(|job| job.coinbase_tx_version ^= 1), Some(Field::CoinbaseTxVersion));
        assert_eq!(said(|job| job.coinbase_prefix = B0255::default()), Some(Field::CoinbasePrefix));
        let sequence = said(|job| job.coinbase_tx_input_sequence ^= 1);
        assert_eq!(sequence, Some(Field::CoinbaseTxInputSequence));
        let outputs = said(|job| job.coinbase_tx_outputs = B064K::new(&[0]).unwrap());
        assert_eq!(outputs, Some(Field::CoinbaseTxOutputs));
        let swapped = Parts::new(&[witness_commitment(), pool_output(50)]);
        let swapped = same(&swapped.parse().unwrap(), &path, |_| {});
        assert_eq!(declared.check(&swapped), Err(Field::CoinbaseTxOutputs), "in another order");
        assert_eq!(said(|job| job.coinbase_tx_locktime ^= 1), Some(Field::CoinbaseTxLocktime));
        assert_eq!(said(|job| job.merkle_path = Seq0255::default()), Some(Field::MerklePath));
        let forged = Commitment { hash: [0; 32], ..declared };
        assert_eq!(declared.check(&forged), Err(Field::Unnamed));
        assert_eq!(Field::PrevHash.error_code(), "stale-chain-tip");
    }
}
