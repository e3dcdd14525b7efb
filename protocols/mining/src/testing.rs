//! Templates, tips and searched nonces for this crate's tests.

use std::sync::Arc;

use adit_sv2::codec::{B064K, B0255, Seq0255};
use adit_sv2::messages::template_distribution as td;

use crate::coinbase::Payouts;
use crate::header::{Header, NonceScan};
use crate::job::{Job, JobFactory};
use crate::target::Target;
use crate::template::{Template, Tip};

/// As easy as regtest's target: every second hash.
pub(crate) const EASY: u32 = 0x207f_ffff;

/// An output with a witness commitment.
pub(crate) fn commitment_output() -> Vec<u8> {
    [&[0; 8][..], &[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], &[7; 32]].concat()
}

pub(crate) fn template(id: u64) -> Template {
    Template {
        id,
        future: false,
        version: 0x2000_0000,
        coinbase_tx_version: 2,
        coinbase_prefix: vec![2, 0x11, 0x22],
        coinbase_tx_input_sequence: 0xffff_ffff,
        coinbase_tx_value_remaining: 5_000_000_000,
        coinbase_tx_outputs_count: 1,
        coinbase_tx_outputs: commitment_output(),
        coinbase_tx_locktime: 0,
        merkle_path: vec![[id as u8; 32], [2; 32], [3; 32]],
    }
}

/// The message that `template` comes from.
pub(crate) fn new_template(template: &Template) -> td::NewTemplate<'_> {
    td::NewTemplate {
        template_id: template.id,
        future_template: template.future,
        version: template.version,
        coinbase_tx_version: template.coinbase_tx_version,
        coinbase_prefix: B0255::new(&template.coinbase_prefix).unwrap(),
        coinbase_tx_input_sequence: template.coinbase_tx_input_sequence,
        coinbase_tx_value_remaining: template.coinbase_tx_value_remaining,
        coinbase_tx_outputs_count: template.coinbase_tx_outputs_count,
        coinbase_tx_outputs: B064K::new(&template.coinbase_tx_outputs).unwrap(),
        coinbase_tx_locktime: template.coinbase_tx_locktime,
        merkle_path: Seq0255::new(&template.merkle_path).unwrap(),
    }
}

pub(crate) fn factory() -> JobFactory {
    JobFactory {
        tag: b"/adit/".to_vec(),
        payouts: Payouts::new([(vec![0x51; 22], 3), (vec![0x52; 34], 1)]).unwrap(),
        version_rolling_allowed: true,
    }
}

pub(crate) fn job(id: u32, full_extranonce_size: usize) -> Arc<Job> {
    Arc::new(factory().job(id, &template(u64::from(id)), full_extranonce_size).unwrap())
}

/// A tip that is told apart by its first byte, with the target of `nbits`.
pub(crate) fn tip(mark: u8, min_ntime: u32, nbits: u32) -> Arc<Tip> {
    let mut prev_hash = [0x55; 32];
    prev_hash[0] = mark;
    Arc::new(Tip::new(prev_hash, min_ntime, nbits, Target::from_nbits(nbits).unwrap()))
}

/// The first nonce from `start` on whose hash is what `wanted` asks for.
pub(crate) fn find_nonce(
    header: Header,
    start: u32,
    wanted: impl Fn(&crate::BlockHash) -> bool,
) -> u32 {
    let mut scan = NonceScan::new(&header);
    (start..).find(|nonce| wanted(&scan.hash(*nonce))).expect("some nonce will do")
}
