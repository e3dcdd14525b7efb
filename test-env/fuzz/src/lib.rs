//! What several fuzz targets need: work for channels, frames behind a handshake, a node that answers anything, and
//! cutting a file's bytes into parts.

pub mod node;
pub mod template;
pub mod wire;

use std::sync::Arc;

use adit_mining::{Job, JobFactory, Payouts, Target, Template, Tip};

/// Every second hash is a block.
pub const EASY: u32 = 0x207f_ffff;
/// Practically no hash is a block.
pub const HARD: u32 = 0x1d00_ffff;
/// The least nTime of all tips, unix seconds.
pub const MIN_NTIME: u32 = 1_700_000_000;
/// The version of all templates.
pub const VERSION: u32 = 0x2000_0000;

/// A template whose coinbase has a witness commitment; two with different ids have different headers.
pub fn template(id: u64) -> Template {
    let commitment = [&[0; 8][..], &[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], &[7; 32]].concat();
    let mut told_apart = [1; 32];
    told_apart[..8].copy_from_slice(&id.to_le_bytes());
    Template {
        id,
        future: false,
        version: VERSION,
        coinbase_tx_version: 2,
        coinbase_prefix: vec![2, 0x11, 0x22],
        coinbase_tx_input_sequence: 0xffff_ffff,
        coinbase_tx_value_remaining: 5_000_000_000,
        coinbase_tx_outputs_count: 1,
        coinbase_tx_outputs: commitment,
        coinbase_tx_locktime: 0,
        merkle_path: vec![told_apart, [2; 32]],
    }
}

/// Makes jobs that pay two scripts.
pub fn factory() -> JobFactory {
    let payouts = Payouts::new([(vec![0x51; 22], 3), (vec![0x52; 34], 1)]);
    JobFactory {
        tag: b"/adit/".to_vec(),
        payouts: payouts.expect("weights that add up to four"),
        version_rolling_allowed: true,
    }
}

/// The job of a [`template`].
pub fn job(id: u32, template_id: u64, full_extranonce_size: usize) -> Arc<Job> {
    let job = factory().job(id, &template(template_id), full_extranonce_size);
    Arc::new(job.expect("a template as good as any"))
}

/// A tip that is told apart by its first byte.
pub fn tip(mark: u8, nbits: u32) -> Arc<Tip> {
    let mut prev_hash = [0x55; 32];
    prev_hash[0] = mark;
    let target = Target::from_nbits(nbits).expect("bits that are a target");
    Arc::new(Tip::new(prev_hash, MIN_NTIME, nbits, target))
}

/// Cuts the bytes behind a two-byte length (little-endian) in two; a length beyond the end means the end.
pub fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let Some(([l0, l1], rest)) = data.split_first_chunk() else { return (data, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes([*l0, *l1])).min(rest.len()))
}
