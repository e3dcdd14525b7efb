//! Jobs: built once, shared by every channel that works on them.

use std::hash::Hash;
use std::sync::Arc;

use adit_sv2::codec::{B064K, Seq0255};
use adit_sv2::frame::{Header as FrameHeader, encode_frame};
use adit_sv2::messages::mining::{NewExtendedMiningJob, NewMiningJob};

use crate::coinbase::{
    Coinbase, CoinbaseError, CoinbaseFields, Output, Payouts, script_sig_prefix,
};
use crate::header::Header;
use crate::merkle::merkle_root;
use crate::template::{Template, Tip};

/// The version bits that a miner may change where the job allows it (BIP323, 24 bits).
pub const VERSION_ROLLING_MASK: u32 = 0x1fff_ffe0;

/// Where a `NewExtendedMiningJob` frame has its channel id (4 bytes, little-endian).
pub const CHANNEL_ID_AT: usize = FrameHeader::LEN;
/// Where a `NewExtendedMiningJob` frame has its job id (4 bytes, little-endian).
pub const JOB_ID_AT: usize = CHANNEL_ID_AT + 4;
/// Where a `NewExtendedMiningJob` frame has its `min_ntime`: a byte 0 in a future job; a byte 1 and
/// 4 bytes little-endian in an active one, which is so much longer.
pub const MIN_NTIME_AT: usize = JOB_ID_AT + 4;

/// Unit of work: all of a block header but what the miner varies and the tip.
///
/// Immutable and shared by `Arc`; per channel there is only an id, an extranonce prefix and a
/// target. A server builds it from a template ([`JobFactory`]), a client from a message.
#[derive(Debug)]
pub struct Job {
    id: u32,
    template_id: Option<u64>,
    version: u32,
    version_rolling_allowed: bool,
    root: Root,
}

#[derive(Debug)]
enum Root {
    /// A standard job as received: nothing to vary below the root.
    Fixed([u8; 32]),
    Computed(Box<Extended>),
}

#[derive(Debug)]
struct Extended {
    coinbase: Coinbase,
    merkle_path: Box<[[u8; 32]]>,
    /// `NewExtendedMiningJob` as a future job with channel id 0.
    frame: Box<[u8]>,
}

/// What an extended job is made of.
#[derive(Debug)]
pub struct JobParts {
    /// The job's id.
    pub id: u32,
    /// The template it was made from; none for a job of an upstream or a custom job.
    pub template_id: Option<u64>,
    /// Header version.
    pub version: u32,
    /// Whether the bits of [`VERSION_ROLLING_MASK`] may be changed.
    pub version_rolling_allowed: bool,
    /// Deepest first.
    pub merkle_path: Box<[[u8; 32]]>,
    /// Both parts of the coinbase.
    pub coinbase: Coinbase,
}

impl Job {
    /// An extended job; encodes its frame.
    ///
    /// # Errors
    /// [`JobError::MerklePath`] above 255 steps.
    pub fn extended(parts: JobParts) -> Result<Self, JobError> {
        let JobParts { id, template_id, version, version_rolling_allowed, merkle_path, coinbase } =
            parts;
        let too_long = |_| JobError::MerklePath { steps: merkle_path.len() };
        let message = NewExtendedMiningJob {
            channel_id: 0,
            job_id: id,
            min_ntime: None,
            version,
            version_rolling_allowed,
            merkle_path: Seq0255::new(&merkle_path).map_err(too_long)?,
            coinbase_tx_prefix: part(coinbase.prefix())?,
            coinbase_tx_suffix: part(coinbase.suffix())?,
        };
        let mut frame = Vec::new();
        encode_frame(&message, &mut frame);
        let root =
            Root::Computed(Box::new(Extended { coinbase, merkle_path, frame: frame.into() }));
        Ok(Self { id, template_id, version, version_rolling_allowed, root })
    }

    /// The job of a `NewExtendedMiningJob`, for channels with this full extranonce size.
    ///
    /// # Errors
    /// [`JobError`] where the size is impossible.
    pub fn from_extended(
        message: &NewExtendedMiningJob<'_>,
        full_extranonce_size: usize,
    ) -> Result<Self, JobError> {
        Self::extended(JobParts {
            id: message.job_id,
            template_id: None,
            version: message.version,
            version_rolling_allowed: message.version_rolling_allowed,
            merkle_path: message.merkle_path.iter().collect(),
            coinbase: Coinbase::from_parts(
                message.coinbase_tx_prefix.as_bytes(),
                message.coinbase_tx_suffix.as_bytes(),
                full_extranonce_size,
            )?,
        })
    }

    /// The job of a `NewMiningJob`. Its version may always be rolled (spec 5.3.15).
    pub fn from_standard(message: &NewMiningJob) -> Self {
        Self {
            id: message.job_id,
            template_id: None,
            version: message.version,
            version_rolling_allowed: true,
            root: Root::Fixed(message.merkle_root),
        }
    }

    /// The id that the job was made with. A channel may know the same job by another one too.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The template, for `SubmitSolution`.
    pub fn template_id(&self) -> Option<u64> {
        self.template_id
    }

    /// Header version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether the bits of [`VERSION_ROLLING_MASK`] may be changed.
    pub fn version_rolling_allowed(&self) -> bool {
        self.version_rolling_allowed
    }

    /// The coinbase, unless this is a standard job as received.
    pub fn coinbase(&self) -> Option<&Coinbase> {
        self.computed().map(|extended| &extended.coinbase)
    }

    /// Deepest first; empty for a standard job as received.
    pub fn merkle_path(&self) -> &[[u8; 32]] {
        self.computed().map_or(&[], |extended| &extended.merkle_path)
    }

    /// Whether the merkle root does not depend on an extranonce.
    pub fn has_fixed_root(&self) -> bool {
        matches!(self.root, Root::Fixed(_))
    }

    /// Whether a share of one job is a share of the other on the same tip and prefix: same coinbase,
    /// same transactions.
    pub fn has_same_headers(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Root::Fixed(a), Root::Fixed(b)) => a == b,
            (Root::Computed(a), Root::Computed(b)) => {
                std::ptr::eq(a, b)
                    || a.merkle_path == b.merkle_path
                        && a.coinbase.prefix() == b.coinbase.prefix()
                        && a.coinbase.suffix() == b.coinbase.suffix()
            }
            _ => false,
        }
    }

    /// What [`has_same_headers`](Self::has_same_headers) compares.
    pub(crate) fn header_space(&self) -> impl Hash {
        match &self.root {
            Root::Fixed(root) => (root.as_slice(), &[][..], &[][..]),
            Root::Computed(job) => {
                (job.coinbase.prefix(), job.coinbase.suffix(), &*job.merkle_path)
            }
        }
    }

    /// The merkle root with this extranonce, given in two parts; `None` unless they have the right
    /// length together. About 95 ns per step of the path; does not allocate.
    #[inline]
    pub fn merkle_root(&self, extranonce_prefix: &[u8], extranonce: &[u8]) -> Option<[u8; 32]> {
        match &self.root {
            Root::Fixed(root) => Some(*root),
            Root::Computed(extended) => {
                let txid = extended.coinbase.txid(extranonce_prefix, extranonce)?;
                Some(merkle_root(txid, &extended.merkle_path))
            }
        }
    }

    /// The header of one try on this job.
    #[inline]
    pub fn header(
        tip: &Tip,
        merkle_root: [u8; 32],
        version: u32,
        ntime: u32,
        nonce: u32,
    ) -> Header {
        Header { version, prev_hash: tip.prev_hash, merkle_root, ntime, nbits: tip.nbits, nonce }
    }

    /// The frame of `NewExtendedMiningJob` as a future job with the job's own id; channel id (at
    /// [`CHANNEL_ID_AT`]) still 0. Empty for a standard job as received.
    pub fn future_frame(&self) -> &[u8] {
        self.computed().map_or(&[], |extended| &extended.frame)
    }

    /// Appends the frame of `NewExtendedMiningJob` under any id, active where there is a
    /// `min_ntime`; channel id still 0. A copy, to be made once for a whole fan-out.
    pub fn write_frame(&self, job_id: u32, min_ntime: Option<u32>, out: &mut Vec<u8>) {
        let frame = self.future_frame();
        let Some((head, tail)) = frame.split_at_checked(MIN_NTIME_AT + 1) else { return };
        let start = out.len();
        out.extend_from_slice(head);
        out[start + JOB_ID_AT..start + MIN_NTIME_AT].copy_from_slice(&job_id.to_le_bytes());
        if let (Some(min_ntime), Some(header)) = (min_ntime, head.first_chunk()) {
            let mut header = FrameHeader::parse(header);
            header.msg_length += 4;
            out[start..start + FrameHeader::LEN].copy_from_slice(&header.to_bytes());
            out[start + MIN_NTIME_AT] = 1;
            out.extend(min_ntime.to_le_bytes());
        }
        out.extend_from_slice(tail);
    }

    /// Appends the frame of `NewExtendedMiningJob` as [`write_frame`](Self::write_frame) does,
    /// addressed to a channel or group.
    pub fn write_frame_to(
        &self,
        channel_id: u32,
        job_id: u32,
        min_ntime: Option<u32>,
        out: &mut Vec<u8>,
    ) {
        let at = out.len() + CHANNEL_ID_AT;
        self.write_frame(job_id, min_ntime, out);
        if let Some(field) = out.get_mut(at..at + 4) {
            field.copy_from_slice(&channel_id.to_le_bytes());
        }
    }

    fn computed(&self) -> Option<&Extended> {
        match &self.root {
            Root::Fixed(_) => None,
            Root::Computed(extended) => Some(extended),
        }
    }
}

/// Job ids of one server: every job gets the next one, whatever channel or connection it is for, so
/// that no id meets a live one again before 2^32 jobs.
#[derive(Clone, Debug, Default)]
pub struct JobIds {
    last: u32,
}

impl JobIds {
    /// The next id; the first is 1.
    pub fn allocate(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }
}

/// What a server adds to a template to get jobs.
#[derive(Clone, Debug)]
pub struct JobFactory {
    /// Pushed into the scriptSig behind the height; may be empty.
    pub tag: Vec<u8>,
    /// Who gets the block's value.
    pub payouts: Payouts,
    /// Whether jobs allow version rolling.
    pub version_rolling_allowed: bool,
}

impl JobFactory {
    /// The job of a template for channels with this full extranonce size.
    ///
    /// # Errors
    /// [`JobError`] where tag, extranonce or outputs do not fit, or the template is malformed.
    pub fn job(
        &self,
        id: u32,
        template: &Template,
        full_extranonce_size: usize,
    ) -> Result<Job, JobError> {
        let (outputs_count, outputs) = self.outputs(template);
        let coinbase = Coinbase::new(&CoinbaseFields {
            version: template.coinbase_tx_version,
            script_sig_prefix: &script_sig_prefix(
                &template.coinbase_prefix,
                &self.tag,
                full_extranonce_size,
            ),
            full_extranonce_size,
            sequence: template.coinbase_tx_input_sequence,
            outputs: &outputs,
            outputs_count,
            locktime: template.coinbase_tx_locktime,
        })?;
        Job::extended(JobParts {
            id,
            template_id: Some(template.id),
            version: template.version,
            version_rolling_allowed: self.version_rolling_allowed,
            merkle_path: template.merkle_path.as_slice().into(),
            coinbase,
        })
    }

    /// How many outputs the coinbase has, and their serialization: ours, then the template's.
    pub(crate) fn outputs(&self, template: &Template) -> (u64, Vec<u8>) {
        let mut outputs = Vec::with_capacity(256 + template.coinbase_tx_outputs.len());
        let split = self.payouts.split(template.coinbase_tx_value_remaining);
        split.for_each(|output: Output<'_>| output.write(&mut outputs));
        outputs.extend(&template.coinbase_tx_outputs);
        let own = self.payouts.count() as u64;
        (own + u64::from(template.coinbase_tx_outputs_count), outputs)
    }
}

/// All jobs of one template: one per full extranonce size, under one id, each built when it is first
/// asked for.
#[derive(Clone, Debug)]
pub struct JobSet {
    id: u32,
    template: Arc<Template>,
    jobs: Vec<Arc<Job>>,
}

impl JobSet {
    /// An empty set.
    pub fn new(id: u32, template: Arc<Template>) -> Self {
        Self { id, template, jobs: Vec::new() }
    }

    /// The id of all its jobs.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What they are made from.
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// The job for channels with this full extranonce size. Always the same factory, please.
    ///
    /// # Errors
    /// As [`JobFactory::job`].
    pub fn job(
        &mut self,
        factory: &JobFactory,
        full_extranonce_size: usize,
    ) -> Result<Arc<Job>, JobError> {
        let size = |job: &&Arc<Job>| {
            job.coinbase().is_some_and(|c| c.full_extranonce_size() == full_extranonce_size)
        };
        if let Some(job) = self.jobs.iter().find(size) {
            return Ok(job.clone());
        }
        let job = Arc::new(factory.job(self.id, &self.template, full_extranonce_size)?);
        self.jobs.push(job.clone());
        Ok(job)
    }
}

/// The parts do not make a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The coinbase is impossible.
    #[error(transparent)]
    Coinbase(#[from] CoinbaseError),
    /// The path does not fit its wire type.
    #[error("a merkle path of {steps} steps, at most 255 can be sent")]
    MerklePath {
        /// Its length.
        steps: usize,
    },
}

fn part(bytes: &[u8]) -> Result<B064K<'_>, CoinbaseError> {
    B064K::new(bytes).map_err(|error| CoinbaseError::TooLong { len: error.length })
}

#[cfg(test)]
mod tests;
