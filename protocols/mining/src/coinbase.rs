//! The coinbase transaction: built from a template, cut in two around the extranonce, hashed.

use crate::sha256::{self, Block, State};

/// Longest scriptSig of a coinbase (consensus).
pub const MAX_SCRIPT_SIG_LEN: usize = 100;

/// Longest full extranonce: prefix and rolled part are `B0_32` each.
pub const MAX_FULL_EXTRANONCE_SIZE: usize = 64;

/// What a coinbase is made of.
#[derive(Clone, Copy, Debug)]
pub struct CoinbaseFields<'a> {
    /// nVersion.
    pub version: u32,
    /// The scriptSig up to the extranonce, which ends it; see [`script_sig_prefix`].
    pub script_sig_prefix: &'a [u8],
    /// Bytes of the whole extranonce, the server's prefix included.
    pub full_extranonce_size: usize,
    /// nSequence of the input.
    pub sequence: u32,
    /// Consensus-serialized outputs, in order, without a count.
    pub outputs: &'a [u8],
    /// Outputs in `outputs`.
    pub outputs_count: u64,
    /// nLockTime.
    pub locktime: u32,
}

/// A coinbase with a hole for the extranonce, prepared for hashing.
///
/// `prefix` and `suffix` are as in `NewExtendedMiningJob`: stripped of BIP141 fields (spec 3.7), so
/// that their hash is the txid.
#[derive(Clone, Debug)]
pub struct Coinbase {
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
    full_extranonce_size: usize,
    has_witness: bool,
    /// Over all blocks of 64 bytes that end before the extranonce.
    midstate: State,
    /// The rest of the message, padded, with zeroes where the extranonce goes.
    tail: Box<[Block]>,
    /// Where in `tail` that is; below 64.
    extranonce_at: usize,
}

impl Coinbase {
    /// Serializes the parts. There is a witness exactly where the outputs hold a witness
    /// commitment, since consensus refuses one without the other.
    ///
    /// # Errors
    /// [`CoinbaseError`] where the result could not be a coinbase.
    pub fn new(fields: &CoinbaseFields<'_>) -> Result<Self, CoinbaseError> {
        let script_sig_len = fields.script_sig_prefix.len() + fields.full_extranonce_size;
        if script_sig_len > MAX_SCRIPT_SIG_LEN {
            return Err(CoinbaseError::ScriptSigTooLong { len: script_sig_len });
        }
        let mut count = 0;
        for output in Outputs::new(fields.outputs) {
            output?;
            count += 1;
        }
        if count != fields.outputs_count {
            return Err(CoinbaseError::OutputCount { said: fields.outputs_count, found: count });
        }
        let mut prefix = Vec::with_capacity(42 + fields.script_sig_prefix.len());
        prefix.extend(fields.version.to_le_bytes());
        prefix.push(1);
        prefix.extend([0; 32]);
        prefix.extend([0xff; 4]);
        prefix.push(script_sig_len as u8);
        prefix.extend(fields.script_sig_prefix);
        let mut suffix = Vec::with_capacity(17 + fields.outputs.len());
        suffix.extend(fields.sequence.to_le_bytes());
        write_compact_size(count, &mut suffix);
        suffix.extend(fields.outputs);
        suffix.extend(fields.locktime.to_le_bytes());
        let full_len = prefix.len() + fields.full_extranonce_size + suffix.len() + WITNESS_LEN;
        if full_len > 0xffff {
            return Err(CoinbaseError::TooLong { len: full_len });
        }
        Self::from_parts(prefix, suffix, fields.full_extranonce_size)
    }

    /// From the two parts as they are in `NewExtendedMiningJob`.
    ///
    /// # Errors
    /// [`CoinbaseError`] where the extranonce size is out of range or a part exceeds its wire type.
    /// That the parts make sense is not checked.
    pub fn from_parts(
        prefix: impl Into<Box<[u8]>>,
        suffix: impl Into<Box<[u8]>>,
        full_extranonce_size: usize,
    ) -> Result<Self, CoinbaseError> {
        let (prefix, suffix) = (prefix.into(), suffix.into());
        if !(1..=MAX_FULL_EXTRANONCE_SIZE).contains(&full_extranonce_size) {
            return Err(CoinbaseError::ExtranonceSize { size: full_extranonce_size });
        }
        if let Some(len) = [prefix.len(), suffix.len()].into_iter().find(|len| *len > 0xffff) {
            return Err(CoinbaseError::TooLong { len });
        }
        let mut midstate = sha256::INITIAL;
        let (blocks, rest) = prefix.as_chunks::<64>();
        sha256::compress(&mut midstate, blocks);
        let total = prefix.len() + full_extranonce_size + suffix.len();
        let mut tail = Vec::with_capacity(rest.len() + full_extranonce_size + suffix.len() + 72);
        tail.extend(rest);
        tail.resize(rest.len() + full_extranonce_size, 0);
        tail.extend(&suffix);
        tail.push(0x80);
        tail.resize((tail.len() + 8).next_multiple_of(64) - 8, 0);
        tail.extend(((total as u64) << 3).to_be_bytes());
        let has_witness = outputs_of_suffix(&suffix).is_some_and(|outputs| {
            outputs.flatten().any(|output| is_witness_commitment(output.script_pubkey))
        });
        Ok(Self {
            extranonce_at: rest.len(),
            tail: tail.as_chunks().0.into(),
            midstate,
            prefix,
            suffix,
            full_extranonce_size,
            has_witness,
        })
    }

    /// `coinbase_tx_prefix`: everything before the extranonce, without BIP141 fields.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// `coinbase_tx_suffix`: everything after the extranonce, without BIP141 fields.
    pub fn suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// Bytes that go between the two.
    pub fn full_extranonce_size(&self) -> usize {
        self.full_extranonce_size
    }

    /// The txid with this extranonce, given in two parts; `None` unless they have the right length
    /// together. Does not allocate.
    #[inline]
    pub fn txid(&self, extranonce_prefix: &[u8], extranonce: &[u8]) -> Option<[u8; 32]> {
        let middle = self.extranonce_at + extranonce_prefix.len();
        let end = self.extranonce_at + self.full_extranonce_size;
        if middle + extranonce.len() != end {
            return None;
        }
        // At most 63 bytes of prefix and 64 of extranonce: two blocks. The rest is shared.
        let own = end.div_ceil(64);
        let mut blocks = [[0; 64]; 2];
        blocks[..own].copy_from_slice(&self.tail[..own]);
        blocks.as_flattened_mut()[self.extranonce_at..middle].copy_from_slice(extranonce_prefix);
        blocks.as_flattened_mut()[middle..end].copy_from_slice(extranonce);
        let mut state = self.midstate;
        sha256::compress(&mut state, &blocks[..own]);
        sha256::compress(&mut state, &self.tail[own..]);
        Some(sha256::second(&state))
    }

    /// The whole transaction as a block contains it, BIP141 fields included (`SubmitSolution`,
    /// spec 3.7); `None` unless the extranonce has the right length.
    pub fn full(&self, extranonce_prefix: &[u8], extranonce: &[u8]) -> Option<Vec<u8>> {
        let size = extranonce_prefix.len() + extranonce.len();
        let (version, inputs) = self.prefix.split_first_chunk::<4>()?;
        let (outputs, locktime) = self.suffix.split_last_chunk::<4>()?;
        if size != self.full_extranonce_size {
            return None;
        }
        let mut tx = Vec::with_capacity(self.prefix.len() + size + self.suffix.len() + WITNESS_LEN);
        tx.extend(version);
        if self.has_witness {
            tx.extend(MARKER_AND_FLAG);
        }
        tx.extend(inputs);
        tx.extend(extranonce_prefix);
        tx.extend(extranonce);
        tx.extend(outputs);
        if self.has_witness {
            tx.extend([1, 32]);
            tx.extend(WITNESS_RESERVED_VALUE);
        }
        tx.extend(locktime);
        Some(tx)
    }

    /// `DeclareMiningJob.coinbase_tx_prefix`: [`prefix`](Self::prefix) with the BIP141 fields of a
    /// coinbase that has a witness (spec 6.4.4).
    pub fn declared_prefix(&self) -> Vec<u8> {
        let at = self.prefix.len().min(4);
        let marker: &[u8] = if self.has_witness { &MARKER_AND_FLAG } else { &[] };
        [&self.prefix[..at], marker, &self.prefix[at..]].concat()
    }

    /// `DeclareMiningJob.coinbase_tx_suffix`: [`suffix`](Self::suffix) with the BIP141 fields of a
    /// coinbase that has a witness (spec 6.4.4).
    pub fn declared_suffix(&self) -> Vec<u8> {
        let (head, locktime) = self.suffix.split_at(self.suffix.len().saturating_sub(4));
        let witness = [&[1, 32], &WITNESS_RESERVED_VALUE[..]].concat();
        [head, if self.has_witness { &witness } else { &[] }, locktime].concat()
    }

    /// The outputs, where the suffix is well-formed.
    pub fn outputs(&self) -> Option<Outputs<'_>> {
        outputs_of_suffix(&self.suffix)
    }
}

/// The scriptSig up to the extranonce: the template's `coinbase_prefix` (BIP34 height), a push of
/// `tag` unless it is empty, and the opcode that pushes the extranonce.
pub fn script_sig_prefix(
    coinbase_prefix: &[u8],
    tag: &[u8],
    full_extranonce_size: usize,
) -> Vec<u8> {
    let mut script = coinbase_prefix.to_vec();
    if !tag.is_empty() {
        push_opcode(tag.len(), &mut script);
        script.extend(tag);
    }
    push_opcode(full_extranonce_size, &mut script);
    script
}

/// Whether the extranonce, `full_extranonce_size` bytes behind this part of a scriptSig, is all that the last push of the
/// script pushes: the script, read from its first byte, ends with a push opcode of that size.
///
/// Then where it lies follows from the bytes of the script alone: equal scripts have equal extranonces, prefixes
/// included, however their makers had cut them.
pub fn ends_with_push_of(script_sig_prefix: &[u8], full_extranonce_size: usize) -> bool {
    let mut rest = script_sig_prefix;
    while let Some((size, after)) = split_push(rest) {
        if after.is_empty() {
            return size == full_extranonce_size;
        }
        let Some(next) = after.get(size..) else { return false };
        rest = next;
    }
    false
}

/// One transaction output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output<'a> {
    /// Satoshis.
    pub value: u64,
    /// Who may spend them.
    pub script_pubkey: &'a [u8],
}

impl Output<'_> {
    /// Appends the consensus serialization.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.value.to_le_bytes());
        write_compact_size(self.script_pubkey.len() as u64, out);
        out.extend(self.script_pubkey);
    }
}

/// Reads consensus-serialized outputs up to the end of a slice; ends after an error.
#[derive(Clone, Debug)]
pub struct Outputs<'a> {
    rest: &'a [u8],
}

impl<'a> Outputs<'a> {
    /// Over outputs without a count.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Outputs<'a> {
    type Item = Result<Output<'a>, CoinbaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            return None;
        }
        let read = || {
            let (value, rest) = bytes.split_first_chunk::<8>()?;
            let (len, rest) = read_compact_size(rest)?;
            let (script_pubkey, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            Some((Output { value: u64::from_le_bytes(*value), script_pubkey }, rest))
        };
        let Some((output, rest)) = read() else { return Some(Err(CoinbaseError::BadOutputs)) };
        self.rest = rest;
        Some(Ok(output))
    }
}

/// Reads the count in front of an array of outputs; those themselves are not looked at.
///
/// # Errors
/// [`CoinbaseError::BadOutputs`] where there is no count.
pub fn split_outputs(array: &[u8]) -> Result<(u64, &[u8]), CoinbaseError> {
    read_compact_size(array).ok_or(CoinbaseError::BadOutputs)
}

/// Signature operations in an output script as consensus counts them there ("legacy": a multisig
/// is 20); a block's limit counts each four times.
pub fn script_sigops(script_pubkey: &[u8]) -> u32 {
    let (mut rest, mut sigops) = (script_pubkey, 0);
    while let Some((size, after)) = split_push(rest) {
        match rest[0] {
            0xac | 0xad => sigops += 1,
            0xae | 0xaf => sigops += 20,
            _ => {}
        }
        let Some(next) = after.get(size..) else { break }; // cut off: nothing behind it counts
        rest = next;
    }
    sigops
}

/// Reads an opcode: the bytes that it pushes, none where it is no push, and what is behind it and its length. `None` at
/// the end, or where the length is cut off.
fn split_push(script: &[u8]) -> Option<(usize, &[u8])> {
    let (opcode, after) = script.split_first()?;
    match opcode {
        0x01..=0x4b => Some((usize::from(*opcode), after)),
        0x4c..=0x4e => {
            let (size, after) = after.split_at_checked(1 << (opcode - 0x4c))?;
            Some((size.iter().rev().fold(0, |size, byte| size << 8 | usize::from(*byte)), after))
        }
        _ => Some((0, after)),
    }
}

/// Where the block's value goes: scripts with weights.
///
/// `coinbase_tx_value_remaining` is split in proportion, rounded down; what rounding leaves goes to
/// the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payouts(Vec<(Box<[u8]>, u64)>);

impl Payouts {
    /// `(script_pubkey, weight)` pairs.
    ///
    /// # Errors
    /// [`CoinbaseError::NoPayout`] where the weights add up to nothing (the value would be burnt) or
    /// to more than 64 bits.
    pub fn new(outputs: impl IntoIterator<Item = (Vec<u8>, u64)>) -> Result<Self, CoinbaseError> {
        let outputs: Vec<_> =
            outputs.into_iter().map(|(script, weight)| (script.into(), weight)).collect();
        let total = outputs.iter().try_fold(0u64, |sum, (_, weight)| sum.checked_add(*weight));
        if total.is_none_or(|total| total == 0) {
            return Err(CoinbaseError::NoPayout);
        }
        Ok(Self(outputs))
    }

    /// Everything to one script.
    pub fn single(script_pubkey: Vec<u8>) -> Self {
        Self(vec![(script_pubkey.into(), 1)])
    }

    /// The outputs for this value in satoshis.
    pub fn split(&self, value: u64) -> impl Iterator<Item = Output<'_>> {
        let total: u128 = self.0.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let part = move |weight: u64| (u128::from(value) * u128::from(weight) / total) as u64;
        let rest = value - self.0.iter().map(|(_, weight)| part(*weight)).sum::<u64>();
        self.0.iter().enumerate().map(move |(i, (script, weight))| Output {
            value: part(*weight) + if i == 0 { rest } else { 0 },
            script_pubkey: script,
        })
    }

    /// How many outputs.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The scripts, in order.
    pub fn scripts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(script, _)| &**script)
    }

    /// Serialized bytes of the outputs (`coinbase_output_max_additional_size`).
    pub fn serialized_len(&self) -> usize {
        let mut bytes = Vec::new();
        self.split(0).for_each(|output| output.write(&mut bytes));
        bytes.len()
    }
}

/// The parts do not make a coinbase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoinbaseError {
    /// Height, tag and extranonce are too much.
    #[error("a coinbase scriptSig of {len} bytes, at most 100 are valid")]
    ScriptSigTooLong {
        /// Its length.
        len: usize,
    },
    /// There is no such extranonce.
    #[error("a full extranonce of {size} bytes, it must have 1 to 64")]
    ExtranonceSize {
        /// Its size.
        size: usize,
    },
    /// A part, or the whole, does not fit its wire type.
    #[error("a coinbase of {len} bytes, at most 65535 can be sent")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The outputs are cut off or followed by something.
    #[error("malformed coinbase outputs")]
    BadOutputs,
    /// The outputs are not as many as announced.
    #[error("{found} coinbase outputs where {said} were announced")]
    OutputCount {
        /// Announced.
        said: u64,
        /// Counted.
        found: u64,
    },
    /// Nobody would be paid.
    #[error("no payout output has a weight")]
    NoPayout,
}

/// BIP141: a segwit serialization follows.
const MARKER_AND_FLAG: [u8; 2] = [0, 1];

/// BIP141: the coinbase's witness; consensus gives it no meaning yet (spec 7.2).
const WITNESS_RESERVED_VALUE: [u8; 32] = [0; 32];

/// BIP141 bytes around the stripped coinbase: marker, flag, item count, item length, the item.
const WITNESS_LEN: usize = 36;

/// BIP141: OP_RETURN, a push of 36 bytes, the commitment header.
fn is_witness_commitment(script_pubkey: &[u8]) -> bool {
    script_pubkey.len() >= 38 && script_pubkey.starts_with(&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed])
}

/// The outputs between nSequence and nLockTime; `None` where those are missing.
fn outputs_of_suffix(suffix: &[u8]) -> Option<Outputs<'_>> {
    let (_, rest) = suffix.split_first_chunk::<4>()?;
    let (rest, _) = rest.split_last_chunk::<4>()?;
    let (_, outputs) = read_compact_size(rest)?;
    Some(Outputs::new(outputs))
}

/// The opcode, and length byte where needed, that pushes `len` bytes; a script that long (below
/// 256) is refused elsewhere anyway.
fn push_opcode(len: usize, script: &mut Vec<u8>) {
    const OP_PUSHDATA1: u8 = 0x4c;
    if len >= usize::from(OP_PUSHDATA1) {
        script.push(OP_PUSHDATA1);
    }
    script.push(len as u8);
}

/// Appends a CompactSize.
pub(crate) fn write_compact_size(value: u64, out: &mut Vec<u8>) {
    match value {
        0..=0xfc => out.push(value as u8),
        0xfd..=0xffff => {
            out.push(0xfd);
            out.extend((value as u16).to_le_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xfe);
            out.extend((value as u32).to_le_bytes());
        }
        _ => {
            out.push(0xff);
            out.extend(value.to_le_bytes());
        }
    }
}

/// A CompactSize and what follows it.
fn read_compact_size(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    Some(match first {
        0xfd => rest.split_first_chunk().map(|(v, r)| (u64::from(u16::from_le_bytes(*v)), r))?,
        0xfe => rest.split_first_chunk().map(|(v, r)| (u64::from(u32::from_le_bytes(*v)), r))?,
        0xff => rest.split_first_chunk().map(|(v, r)| (u64::from_le_bytes(*v), r))?,
        small => (u64::from(*small), rest),
    })
}

#[cfg(test)]
mod tests;
