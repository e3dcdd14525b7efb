//! Whether a job's coinbase pays whom it should (`verify_payout`).

use adit_mining::Job;
use bitcoin::Transaction;
use bitcoin::consensus::deserialize;

use crate::config::Payout;

/// What each job of an upstream must pay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verify<'a> {
    pub(super) payout: &'a Payout,
    pub(super) percent: f64,
}

impl Verify<'_> {
    /// Whether enough of the coinbase goes there. One that cannot be read pays nobody.
    pub(super) fn pays(&self, job: &Job) -> bool {
        let Some(coinbase) = job.coinbase() else { return false };
        let extranonce = vec![0; coinbase.full_extranonce_size()];
        let bytes = [coinbase.prefix(), &extranonce, coinbase.suffix()].concat();
        let Ok(transaction) = deserialize::<Transaction>(&bytes) else { return false };
        let mut paid = 0.0;
        let mut all = 0.0;
        for output in &transaction.output {
            let value = output.value.to_sat() as f64;
            all += value;
            if output.script_pubkey.as_bytes() == self.payout.script {
                paid += value;
            }
        }
        // A block without reward pays nobody, which is not the upstream's doing.
        let none = all == 0.0
            && transaction
                .output
                .iter()
                .any(|output| output.script_pubkey.as_bytes() == self.payout.script);
        none || paid > 0.0 && paid >= all * self.percent / 100.0
    }
}

#[cfg(test)]
mod tests {
    use adit_mining::coinbase::Coinbase;
    use adit_mining::job::JobParts;
    use bitcoin::absolute::LockTime;
    use bitcoin::consensus::serialize;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, TxIn, TxOut, Witness};

    use super::*;

    fn job(outputs: &[(u8, u64)]) -> Job {
        let script = |tag: u8| ScriptBuf::from_bytes(vec![0, 20, tag]);
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: ScriptBuf::from_bytes([&[3, 1, 1, 1, 8][..], &[0; 8]].concat()),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: (outputs.iter())
                .map(|(tag, value)| TxOut {
                    value: Amount::from_sat(*value),
                    script_pubkey: script(*tag),
                })
                .collect(),
        };
        let bytes = serialize(&transaction);
        // Version, count, outpoint, length, and five bytes of script before the extranonce.
        let (prefix, rest) = bytes.split_at(4 + 1 + 36 + 1 + 5);
        Job::extended(JobParts {
            id: 1,
            template_id: None,
            version: 0x2000_0000,
            version_rolling_allowed: true,
            merkle_path: Box::default(),
            coinbase: Coinbase::from_parts(prefix, &rest[8..], 8).unwrap(),
        })
        .unwrap()
    }

    #[test]
    fn most_must_go_to_the_address() {
        let payout = Payout { address: "a".to_owned(), script: vec![0, 20, 7] };
        let verify = Verify { payout: &payout, percent: 90.0 };
        assert!(verify.pays(&job(&[(7, 100)])));
        assert!(verify.pays(&job(&[(7, 90), (8, 10), (9, 0)])));
        assert!(verify.pays(&job(&[(7, 50), (8, 10), (7, 40)])));
        assert!(!verify.pays(&job(&[(7, 89), (8, 11)])));
        assert!(!verify.pays(&job(&[(8, 100)])));
        assert!(!verify.pays(&job(&[(8, 0)])));
        assert!(
            verify.pays(&job(&[(7, 0), (9, 0)])),
            "after the last subsidy there may be nothing"
        );
        let unreadable = Coinbase::from_parts(&b"no"[..], &b"coinbase"[..], 8).unwrap();
        let parts = JobParts {
            id: 1,
            template_id: None,
            version: 0,
            version_rolling_allowed: true,
            merkle_path: Box::default(),
            coinbase: unreadable,
        };
        assert!(!verify.pays(&Job::extended(parts).unwrap()));
    }
}
