//! From `SubmitSolution` (spec 7.7) to a block.

use std::sync::Arc;

use adit_mining::merkle::merkle_root;
use adit_mining::{BlockHash, Header};
use adit_sv2::messages::template_distribution::SubmitSolution;
use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, VarInt, Witness};

use crate::template::{COINBASE_SEQUENCE, COINBASE_VERSION, Template};

/// A solved block.
#[derive(Clone, Debug)]
pub struct Found {
    /// The block's hash.
    pub hash: BlockHash,
    /// What it was mined from.
    pub template: Arc<Template>,
    /// Rules of the protocol that the solution breaks although its work is done. Not ours to judge: the node does.
    pub remarks: Vec<&'static str>,
    header: [u8; 80],
    coinbase: Vec<u8>,
}

/// A solution that no block comes from.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SolutionError {
    /// The coinbase is not one transaction and nothing else.
    #[error("the coinbase cannot be read: {0}")]
    Coinbase(String),
    /// The work is not done: other bytes were mined on than were submitted, or none.
    #[error("the hash {hash} is above the target")]
    AboveTarget {
        /// What the solution hashes to.
        hash: BlockHash,
    },
}

impl Found {
    /// Checks a solution of `template`.
    ///
    /// # Errors
    /// [`SolutionError`] where no valid block can come of it.
    pub fn check(
        template: &Arc<Template>,
        solution: &SubmitSolution<'_>,
    ) -> Result<Self, SolutionError> {
        let mut coinbase: bitcoin::Transaction =
            encode::deserialize(solution.coinbase_tx.as_bytes())
                .map_err(|error| SolutionError::Coinbase(error.to_string()))?;
        let header = Header {
            version: solution.version,
            prev_hash: template.tip.prev_hash.0,
            merkle_root: merkle_root(
                coinbase.compute_txid().to_byte_array(),
                &template.merkle_path,
            ),
            ntime: solution.header_timestamp,
            nbits: template.tip.n_bits,
            nonce: solution.header_nonce,
        };
        let hash = header.hash();
        if !template.target().is_met_by(&hash) {
            return Err(SolutionError::AboveTarget { hash });
        }
        let mut remarks = broken_rules(template, solution.version, &coinbase);
        if let [input] = coinbase.input.as_mut_slice()
            && input.witness.is_empty()
        {
            // Without it the block is invalid, and it is known; the txid does not change.
            input.witness = Witness::from_slice(&[[0; 32]]);
            remarks.push("the coinbase came without its witness");
        }
        Ok(Self {
            hash,
            template: template.clone(),
            remarks,
            header: header.to_bytes(),
            coinbase: encode::serialize(&coinbase),
        })
    }

    /// The consensus serialization of the whole block.
    pub fn to_block(&self) -> Vec<u8> {
        let transactions = &self.template.transactions;
        let length: usize = transactions.iter().map(|t| t.bytes.len()).sum();
        let mut block = Vec::with_capacity(length + self.coinbase.len() + 128);
        block.extend_from_slice(&self.header);
        block.extend(encode::serialize(&VarInt::from(transactions.len() + 1)));
        block.extend_from_slice(&self.coinbase);
        transactions.iter().for_each(|t| block.extend_from_slice(&t.bytes));
        block
    }
}

fn broken_rules(
    template: &Template,
    version: u32,
    coinbase: &bitcoin::Transaction,
) -> Vec<&'static str> {
    let outputs = template.coinbase_outputs();
    let input = coinbase.input.first();
    let paid =
        coinbase.output.iter().try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value));
    [
        (
            (version ^ template.version) & !BIP323_MASK == 0,
            "version bits outside of BIP323 differ from the template's",
        ),
        (
            coinbase.version.0 == COINBASE_VERSION as i32,
            "the coinbase's version differs from the template's",
        ),
        (
            coinbase.lock_time.to_consensus_u32() == template.coinbase_locktime(),
            "the coinbase's locktime differs from the template's",
        ),
        (
            input.is_some_and(|input| input.sequence.0 == COINBASE_SEQUENCE),
            "the coinbase's sequence differs from the template's",
        ),
        (
            input.is_some_and(|input| {
                input.script_sig.as_bytes().starts_with(&template.coinbase_prefix())
            }),
            "the coinbase does not begin with the template's prefix",
        ),
        (
            coinbase.output.last().is_some_and(|output| encode::serialize(output) == outputs),
            "the coinbase does not end with the template's outputs",
        ),
        (
            paid.is_some_and(|paid| paid.to_sat() <= template.coinbase_value),
            "the coinbase pays more than the template's value",
        ),
    ]
    .into_iter()
    .filter_map(|(kept, rule)| (!kept).then_some(rule))
    .collect()
}

/// Version bits that miners may roll.
const BIP323_MASK: u32 = 0x1fff_ffe0;

#[cfg(test)]
pub(crate) mod tests {
    use adit_sv2::codec::B064K;

    use super::*;
    use crate::template::Constraints;
    use crate::template::tests::{coinbase, snapshot, tip};

    /// Mines a coinbase on `template` and hands the solution to `with`.
    pub(crate) fn solve<R>(
        template: &Arc<Template>,
        coinbase: &bitcoin::Transaction,
        with: impl FnOnce(&SubmitSolution<'_>) -> R,
    ) -> R {
        let raw = encode::serialize(coinbase);
        let mut solution = SubmitSolution {
            template_id: template.id,
            version: template.version,
            header_timestamp: template.tip.min_time,
            header_nonce: 0,
            coinbase_tx: B064K::new(&raw).unwrap(),
        };
        while Found::check(template, &solution).is_err() {
            solution.header_nonce += 1;
        }
        with(&solution)
    }

    fn template(transactions: u64) -> Arc<Template> {
        Arc::new(
            Template::build(&snapshot(tip(7, 3), transactions, 50), Constraints::default(), 4)
                .unwrap(),
        )
    }

    #[test]
    fn a_solution_becomes_the_block() {
        let template = template(5);
        let coinbase = coinbase(&template, &[1, 2, 3]);
        let found =
            solve(&template, &coinbase, |solution| Found::check(&template, solution)).unwrap();
        assert_eq!(found.remarks, [""; 0]);
        let block: bitcoin::Block = encode::deserialize(&found.to_block()).unwrap();
        assert_eq!(block.block_hash().to_byte_array(), found.hash.0);
        assert!(block.check_merkle_root() && block.check_witness_commitment());
        assert_eq!((block.txdata.len(), &block.txdata[0]), (6, &coinbase));
        assert!(block.header.validate_pow(block.header.target()).is_ok());
    }

    #[test]
    fn work_that_is_not_done_is_refused() {
        let template = template(0);
        let raw = encode::serialize(&coinbase(&template, &[1]));
        let mut refused = 0;
        for header_nonce in 0..64 {
            let solution = SubmitSolution {
                template_id: 4,
                version: template.version,
                header_timestamp: 1,
                header_nonce,
                coinbase_tx: B064K::new(&raw).unwrap(),
            };
            match Found::check(&template, &solution) {
                Err(SolutionError::AboveTarget { hash }) => {
                    assert!(!template.target().is_met_by(&hash));
                    refused += 1;
                }
                other => assert!(template.target().is_met_by(&other.unwrap().hash)),
            }
        }
        // Half of all hashes are below the regtest target.
        assert!((10..54).contains(&refused), "{refused}");
    }

    #[test]
    fn a_coinbase_that_is_none_is_refused() {
        let template = template(0);
        let raw = encode::serialize(&coinbase(&template, &[1]));
        for bytes in [&[][..], &raw[..raw.len() - 1], &[&raw[..], &[0]].concat(), &[0xff; 90]] {
            let solution = SubmitSolution {
                template_id: 4,
                version: 0,
                header_timestamp: 0,
                header_nonce: 0,
                coinbase_tx: B064K::new(bytes).unwrap(),
            };
            assert!(matches!(Found::check(&template, &solution), Err(SolutionError::Coinbase(_))));
        }
    }

    #[test]
    fn done_work_is_kept_whatever_rule_it_breaks() {
        let template = template(2);
        let mut stripped = coinbase(&template, &[1, 2, 3]);
        stripped.input[0].witness.clear();
        let found =
            solve(&template, &stripped, |solution| Found::check(&template, solution)).unwrap();
        assert_eq!(found.remarks, ["the coinbase came without its witness"]);
        let block: bitcoin::Block = encode::deserialize(&found.to_block()).unwrap();
        assert!(block.check_witness_commitment());

        let mut odd = coinbase(&template, &[1, 2, 3]);
        odd.output[0].value += Amount::ONE_SAT;
        odd.output.reverse();
        odd.input[0].script_sig = bitcoin::ScriptBuf::from_bytes(vec![1, 2, 3]);
        let found = solve(&template, &odd, |solution| {
            // The same work under a foreign version bit is another hash: look for one that is done, too.
            let mut rolled = SubmitSolution { version: solution.version ^ 1, ..*solution };
            loop {
                match Found::check(&template, &rolled) {
                    Ok(found) => break found,
                    Err(_) => rolled.header_nonce += 1,
                }
            }
        });
        assert_eq!(found.remarks.len(), 4, "{:?}", found.remarks);
    }
}
