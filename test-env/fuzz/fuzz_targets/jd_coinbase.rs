//! The two parts of a declared coinbase: what we take is one transaction that rust-bitcoin reads the same, and what
//! rust-bitcoin takes for a coinbase with the extranonce at its scriptSig's end we take too. Then the job of it.
#![no_main]

use adit_fuzz::{EASY, split};
use adit_job_declaration::{Commitment, DeclaredCoinbase, DeclaredJob, MAX_MONEY};
use adit_sv2::codec::{B032, B064K, B0255, Seq0255};
use adit_sv2::messages::job_declaration::PushSolution;
use adit_sv2::messages::mining::SetCustomMiningJob;
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::hashes::Hash;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (prefix, suffix) = split(data);
    match DeclaredCoinbase::parse(prefix, suffix) {
        Ok(coinbase) => accepted(&coinbase, prefix, suffix),
        Err(refused) => {
            assert!(!refused.to_string().is_empty() && !refused.error_code().is_empty());
            assert!(!is_declarable(prefix, suffix), "{refused}");
        }
    }
});

fn accepted(coinbase: &DeclaredCoinbase<'_>, prefix: &[u8], suffix: &[u8]) {
    let extranonce = vec![0xab; coinbase.full_extranonce_size];
    let raw = [prefix, &extranonce, suffix].concat();
    let read: bitcoin::Transaction = deserialize(&raw).expect("exactly one transaction");
    assert!(read.is_coinbase());
    assert_eq!(read.version.0 as u32, coinbase.version);
    assert_eq!(read.lock_time.to_consensus_u32(), coinbase.locktime);
    assert_eq!(read.input[0].sequence.0, coinbase.sequence);
    assert_eq!(!read.input[0].witness.is_empty(), coinbase.segwit);
    let script_sig = [coinbase.script_sig_prefix, &extranonce].concat();
    assert_eq!(read.input[0].script_sig.as_bytes(), script_sig);
    assert_eq!(serialize(&read.output), coinbase.outputs_bytes);
    let values: Vec<_> = coinbase.outputs.iter().map(|output| output.value).collect();
    assert_eq!(values.iter().sum::<u64>(), coinbase.outputs.total());
    assert!(coinbase.outputs.total() <= MAX_MONEY && values.len() == read.output.len());
    let _ = coinbase.height();
    job(coinbase, &read, &extranonce);
}

fn job(coinbase: &DeclaredCoinbase<'_>, read: &bitcoin::Transaction, extranonce: &[u8]) {
    let job = DeclaredJob::new(2, coinbase, Vec::new(), [9; 32], EASY);
    let proposal: bitcoin::Block = deserialize(&job.proposal(7).raw).expect("a block");
    assert!(proposal.check_merkle_root());
    let solution = PushSolution {
        extranonce: B032::new(extranonce).expect("at most 32 bytes"),
        prev_hash: [9; 32],
        nonce: 1,
        ntime: 7,
        nbits: EASY,
        version: 2,
    };
    if let Ok(block) = job.solve(&solution) {
        let solved: bitcoin::Block = deserialize(&block.raw).expect("a block");
        assert!(solved.check_merkle_root() && solved.txdata[0] == *read);
        assert_eq!(solved.block_hash().to_byte_array(), block.hash.0);
    }
    // The pool's side of the token says the same of the same job.
    let custom = SetCustomMiningJob {
        channel_id: 1,
        request_id: 2,
        mining_job_token: B0255::default(),
        version: 2,
        prev_hash: [9; 32],
        min_ntime: 1,
        nbits: EASY,
        coinbase_tx_version: coinbase.version,
        coinbase_prefix: B0255::new(coinbase.script_sig_prefix).expect("at most 99 bytes"),
        coinbase_tx_input_sequence: coinbase.sequence,
        coinbase_tx_outputs: B064K::new(coinbase.outputs_bytes).expect("a part of 64 KB"),
        coinbase_tx_locktime: coinbase.locktime,
        merkle_path: Seq0255::new(job.merkle_path()).expect("an empty path"),
    };
    let declared = Commitment::declared(2, coinbase, job.merkle_path(), &[9; 32]);
    assert_eq!(declared.check(&Commitment::of(&custom)), Ok(()));
}

/// Whether rust-bitcoin sees in the parts what a declared coinbase should be.
fn is_declarable(prefix: &[u8], suffix: &[u8]) -> bool {
    // The scriptSig's length stands behind version, marker and flag, input count, previous output.
    let at = if prefix.get(4) == Some(&0) { 43 } else { 41 };
    let Some(len) = prefix.get(at).filter(|len| (2..=100).contains(*len)) else { return false };
    let Some(size) = usize::from(*len).checked_sub(prefix.len() - at - 1) else { return false };
    if !(1..=32).contains(&size) {
        return false;
    }
    let raw = [prefix, &vec![0; size], suffix].concat();
    let Ok(read) = deserialize::<bitcoin::Transaction>(&raw) else { return false };
    let total = read.output.iter().try_fold(0u64, |sum, out| sum.checked_add(out.value.to_sat()));
    let witness: Vec<_> = read.input.iter().flat_map(|input| input.witness.iter()).collect();
    read.is_coinbase()
        && usize::from(*len) == read.input[0].script_sig.len()
        && !read.output.is_empty()
        && total.is_some_and(|total| total <= MAX_MONEY)
        && (at == 41 || witness.len() == 1 && witness[0].len() == 32)
}
