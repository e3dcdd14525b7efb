//! Transactions of a declared job, one behind the other, each behind its two-byte length: a block of them is what
//! rust-bitcoin reads.
#![no_main]

use std::sync::Arc;

use adit_fuzz::{EASY, split};
use adit_job_declaration::{DeclaredCoinbase, DeclaredJob, Transaction};
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::hashes::Hash;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (mut rest, mut transactions) = (data, Vec::new());
    while rest.len() > 2 {
        let (raw, after) = split(rest);
        rest = after;
        let Ok((transaction, read)) = Transaction::parse(raw) else { continue };
        assert_eq!(*transaction.raw, *raw);
        assert_eq!(serialize(&read), raw);
        assert_eq!(transaction.txid, read.compute_txid().to_byte_array());
        transactions.push(Arc::new(transaction));
    }
    let prefix = [&[2, 0, 0, 0, 1][..], &[0; 32], &[0xff; 4], &[8, 2, 0x11, 0x22, 4]].concat();
    let suffix = [&[0xff; 4][..], &[1], &[0; 8], &[1, 0x51], &[0; 4]].concat();
    let coinbase = DeclaredCoinbase::parse(&prefix, &suffix).expect("a good coinbase");
    let count = transactions.len();
    let job = DeclaredJob::new(2, &coinbase, transactions.clone(), [9; 32], EASY);
    let block: bitcoin::Block = deserialize(&job.proposal(7).raw).expect("a block");
    assert_eq!(block.txdata.len(), count + 1);
    assert!(block.check_merkle_root());
    for (read, transaction) in block.txdata[1..].iter().zip(&transactions) {
        assert_eq!(read.compute_wtxid().to_byte_array(), transaction.wtxid);
    }
});
