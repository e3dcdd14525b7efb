//! A list of outputs: taken exactly where rust-bitcoin takes it and the amounts can exist.
#![no_main]

use adit_job_declaration::{CoinbaseOutputs, MAX_MONEY, OutputsError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let ours = CoinbaseOutputs::parse(bytes);
    let theirs = bitcoin::consensus::deserialize::<Vec<bitcoin::TxOut>>(bytes);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            let read: Vec<_> = ours.iter().map(|o| (o.value, o.script_pubkey)).collect();
            let expected: Vec<_> =
                theirs.iter().map(|o| (o.value.to_sat(), o.script_pubkey.as_bytes())).collect();
            assert_eq!(read, expected);
            assert_eq!(ours.count(), read.len());
            assert!(ours.total() <= MAX_MONEY);
            let scripts: Vec<_> = read.iter().map(|(_, script)| script).collect();
            assert_eq!(ours.paid_to(&scripts), ours.total());
            assert!(scripts.iter().all(|script| ours.contains(script)));
        }
        (Err(OutputsError::TooMuch), _) => {
            // Read up to the amount that is too much; what follows it may be anything.
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
});
