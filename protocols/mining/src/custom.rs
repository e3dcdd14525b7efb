//! Custom jobs: made by the client (spec 5.1.4), told to the server with `SetCustomMiningJob`.

use adit_sv2::codec::{B064K, B0255, Seq0255};
use adit_sv2::messages::mining::SetCustomMiningJob;

use crate::coinbase::{
    Coinbase, CoinbaseError, CoinbaseFields, Outputs, script_sig_prefix, split_outputs,
    write_compact_size,
};
use crate::job::{Job, JobError, JobFactory, JobParts};
use crate::target::Target;
use crate::template::{Template, Tip};

/// The job of a `SetCustomMiningJob`, owned: its fields but for ids and token.
///
/// Nothing is checked before [`job`](Self::job) or [`coinbase`](Self::coinbase) is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomJob {
    /// Header version.
    pub version: u32,
    /// Header field, internal byte order.
    pub prev_hash: [u8; 32],
    /// Smallest nTime, unix seconds.
    pub min_ntime: u32,
    /// Header field, compact target.
    pub nbits: u32,
    /// Coinbase nVersion.
    pub coinbase_tx_version: u32,
    /// The scriptSig up to the extranonce.
    pub coinbase_prefix: Vec<u8>,
    /// nSequence of the coinbase input.
    pub coinbase_tx_input_sequence: u32,
    /// CompactSize-prefixed array of serialized outputs.
    pub coinbase_tx_outputs: Vec<u8>,
    /// Coinbase nLockTime.
    pub coinbase_tx_locktime: u32,
    /// Deepest first, internal byte order.
    pub merkle_path: Vec<[u8; 32]>,
}

impl From<&SetCustomMiningJob<'_>> for CustomJob {
    fn from(message: &SetCustomMiningJob<'_>) -> Self {
        Self {
            version: message.version,
            prev_hash: message.prev_hash,
            min_ntime: message.min_ntime,
            nbits: message.nbits,
            coinbase_tx_version: message.coinbase_tx_version,
            coinbase_prefix: message.coinbase_prefix.as_bytes().to_vec(),
            coinbase_tx_input_sequence: message.coinbase_tx_input_sequence,
            coinbase_tx_outputs: message.coinbase_tx_outputs.as_bytes().to_vec(),
            coinbase_tx_locktime: message.coinbase_tx_locktime,
            merkle_path: message.merkle_path.iter().collect(),
        }
    }
}

impl CustomJob {
    /// The message; `None` where a field does not fit its wire type.
    pub fn message<'a>(
        &'a self,
        channel_id: u32,
        request_id: u32,
        mining_job_token: B0255<'a>,
    ) -> Option<SetCustomMiningJob<'a>> {
        Some(SetCustomMiningJob {
            channel_id,
            request_id,
            mining_job_token,
            version: self.version,
            prev_hash: self.prev_hash,
            min_ntime: self.min_ntime,
            nbits: self.nbits,
            coinbase_tx_version: self.coinbase_tx_version,
            coinbase_prefix: B0255::new(&self.coinbase_prefix).ok()?,
            coinbase_tx_input_sequence: self.coinbase_tx_input_sequence,
            coinbase_tx_outputs: B064K::new(&self.coinbase_tx_outputs).ok()?,
            coinbase_tx_locktime: self.coinbase_tx_locktime,
            merkle_path: Seq0255::new(&self.merkle_path).ok()?,
        })
    }

    /// The job, for channels with this full extranonce size.
    ///
    /// # Errors
    /// [`JobError`] where the fields make no coinbase.
    pub fn job(
        &self,
        id: u32,
        full_extranonce_size: usize,
        version_rolling_allowed: bool,
    ) -> Result<Job, JobError> {
        Job::extended(JobParts {
            id,
            template_id: None,
            version: self.version,
            version_rolling_allowed,
            merkle_path: self.merkle_path.as_slice().into(),
            coinbase: self.coinbase(full_extranonce_size)?,
        })
    }

    /// The coinbase: version, one input whose scriptSig is `coinbase_prefix` and the extranonce,
    /// the outputs, locktime.
    ///
    /// # Errors
    /// [`CoinbaseError`] where the scriptSig would be too long or the outputs are malformed.
    pub fn coinbase(&self, full_extranonce_size: usize) -> Result<Coinbase, CoinbaseError> {
        let (outputs_count, outputs) = split_outputs(&self.coinbase_tx_outputs)?;
        Coinbase::new(&CoinbaseFields {
            version: self.coinbase_tx_version,
            script_sig_prefix: &self.coinbase_prefix,
            full_extranonce_size,
            sequence: self.coinbase_tx_input_sequence,
            outputs,
            outputs_count,
            locktime: self.coinbase_tx_locktime,
        })
    }

    /// The outputs of the coinbase.
    ///
    /// # Errors
    /// [`CoinbaseError::BadOutputs`] where not even their count can be read. The iterator has
    /// errors of its own, and does not compare with the count.
    pub fn outputs(&self) -> Result<Outputs<'_>, CoinbaseError> {
        split_outputs(&self.coinbase_tx_outputs).map(|(_, outputs)| Outputs::new(outputs))
    }

    /// What the job builds on, as the client says; `None` where `nbits` is no target. A server that
    /// knows this previous hash has a better one of its own.
    pub fn tip(&self) -> Option<Tip> {
        let target = Target::from_nbits(self.nbits)?;
        Some(Tip::new(self.prev_hash, self.min_ntime, self.nbits, target))
    }
}

impl JobFactory {
    /// The custom job of a template: what [`job`](Self::job) makes of it, as the fields that a
    /// server rebuilds it from.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub fn custom_job(
        &self,
        template: &Template,
        tip: &Tip,
        full_extranonce_size: usize,
    ) -> Result<CustomJob, JobError> {
        let (count, outputs) = self.outputs(template);
        let mut coinbase_tx_outputs = Vec::with_capacity(9 + outputs.len());
        write_compact_size(count, &mut coinbase_tx_outputs);
        coinbase_tx_outputs.extend(outputs);
        let custom = CustomJob {
            version: template.version,
            prev_hash: tip.prev_hash,
            min_ntime: tip.min_ntime,
            nbits: tip.nbits,
            coinbase_tx_version: template.coinbase_tx_version,
            coinbase_prefix: script_sig_prefix(
                &template.coinbase_prefix,
                &self.tag,
                full_extranonce_size,
            ),
            coinbase_tx_input_sequence: template.coinbase_tx_input_sequence,
            coinbase_tx_outputs,
            coinbase_tx_locktime: template.coinbase_tx_locktime,
            merkle_path: template.merkle_path.clone(),
        };
        custom.coinbase(full_extranonce_size)?;
        Ok(custom)
    }
}

/// What part of a share's work is paid: of a custom job that keeps some of the block for its miner,
/// less than all (spec 6.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion(u64);

impl Portion {
    /// All of it.
    pub const WHOLE: Self = Self(1 << 32);

    /// `paid` of `total`, rounded down to a 2^32nd; never more than all.
    pub fn new(paid: u64, total: u64) -> Self {
        match total {
            0 => Self(0),
            _ => Self(((u128::from(paid.min(total)) << 32) / u128::from(total)) as u64),
        }
    }

    /// That part of `work`, rounded down.
    #[inline]
    pub fn of(self, work: u128) -> u128 {
        let (high, low) = (work >> 32, work & 0xffff_ffff);
        high * u128::from(self.0) + ((low * u128::from(self.0)) >> 32)
    }
}

#[cfg(test)]
mod tests;
