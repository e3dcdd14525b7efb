//! A declared job, ready to become a block.

use std::sync::Arc;

use adit_mining::merkle::{merkle_path, merkle_root};
use adit_mining::{BlockHash, Coinbase, Header, Target};
use adit_sv2::messages::job_declaration::PushSolution;
use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;

use crate::coinbase::DeclaredCoinbase;

/// A transaction other than the coinbase.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transaction {
    /// Hash with the witness, internal byte order.
    pub wtxid: [u8; 32],
    /// Hash without, internal byte order.
    pub txid: [u8; 32],
    /// Consensus serialization with the witness.
    pub raw: Box<[u8]>,
}

/// Bytes that are no transaction.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a transaction: {0}")]
pub struct TransactionError(String);

impl Transaction {
    /// Reads and hashes a transaction; nothing may follow it.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn parse(raw: &[u8]) -> Result<(Self, bitcoin::Transaction), TransactionError> {
        let read: bitcoin::Transaction =
            encode::deserialize(raw).map_err(|error| TransactionError(error.to_string()))?;
        let wtxid = read.compute_wtxid().to_byte_array();
        let txid = read.compute_txid().to_byte_array();
        Ok((Self { wtxid, txid, raw: raw.into() }, read))
    }
}

/// A `DeclareMiningJob` whose transactions are all there, on a tip.
#[derive(Clone, Debug)]
pub struct DeclaredJob {
    version: u32,
    prev_hash: [u8; 32],
    nbits: u32,
    coinbase_prefix: Box<[u8]>,
    coinbase_suffix: Box<[u8]>,
    stripped: Coinbase,
    merkle_path: Vec<[u8; 32]>,
    transactions: Vec<Arc<Transaction>>,
}

/// A block, serialized.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Block {
    /// Its hash.
    pub hash: BlockHash,
    /// Consensus serialization.
    pub raw: Vec<u8>,
}

/// Why a solution is none of a job.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SolutionError {
    /// Found on another tip than the job is for.
    #[error("is for another previous block")]
    PrevHash,
    /// An easier target than the chain's is no block.
    #[error("nbits {said:#010x}, the chain has {expected:#010x}")]
    Nbits {
        /// In the solution.
        said: u32,
        /// Of the tip.
        expected: u32,
    },
    /// Does not fit into the job's coinbase.
    #[error("an extranonce of {said} bytes, the coinbase has room for {expected}")]
    ExtranonceSize {
        /// In the solution.
        said: usize,
        /// In the job.
        expected: usize,
    },
    /// The work is not done, at least not on this job.
    #[error("the hash {0} is above the target")]
    AboveTarget(BlockHash),
}

impl DeclaredJob {
    /// Puts a job together. `prev_hash` and `nbits` are those of a block upon the tip.
    pub fn new(
        version: u32,
        coinbase: &DeclaredCoinbase<'_>,
        transactions: Vec<Arc<Transaction>>,
        prev_hash: [u8; 32],
        nbits: u32,
    ) -> Self {
        let txids: Vec<_> = transactions.iter().map(|transaction| transaction.txid).collect();
        let (coinbase_prefix, coinbase_suffix) = coinbase.parts();
        Self {
            version,
            prev_hash,
            nbits,
            coinbase_prefix: coinbase_prefix.into(),
            coinbase_suffix: coinbase_suffix.into(),
            stripped: coinbase.stripped(),
            merkle_path: merkle_path(&txids),
            transactions,
        }
    }

    /// Deepest first, internal byte order.
    pub fn merkle_path(&self) -> &[[u8; 32]] {
        &self.merkle_path
    }

    /// The previous block, internal byte order.
    pub fn prev_hash(&self) -> &[u8; 32] {
        &self.prev_hash
    }

    /// The transactions in order, without the coinbase.
    pub fn transactions(&self) -> &[Arc<Transaction>] {
        &self.transactions
    }

    /// The block with an extranonce of zeroes and without its work, for a node to judge (BIP 23). `ntime` is in unix
    /// seconds.
    pub fn proposal(&self, ntime: u32) -> Block {
        let extranonce = vec![0; self.stripped.full_extranonce_size()];
        let header = Header {
            version: self.version,
            prev_hash: self.prev_hash,
            merkle_root: self.merkle_root(&extranonce).unwrap_or_default(),
            ntime,
            nbits: self.nbits,
            nonce: 0,
        };
        self.block(&header, &extranonce)
    }

    /// The block that a solution makes of this job.
    ///
    /// # Errors
    /// [`SolutionError`] where it makes none.
    pub fn solve(&self, solution: &PushSolution<'_>) -> Result<Block, SolutionError> {
        let header = self.solved_header(solution)?;
        Ok(self.block(&header, solution.extranonce.as_bytes()))
    }

    /// Whether a solution makes a block of this job, without building it: a few microseconds.
    ///
    /// # Errors
    /// [`SolutionError`] where it makes none.
    pub fn solved_header(&self, solution: &PushSolution<'_>) -> Result<Header, SolutionError> {
        if solution.prev_hash != self.prev_hash {
            return Err(SolutionError::PrevHash);
        }
        if solution.nbits != self.nbits {
            return Err(SolutionError::Nbits { said: solution.nbits, expected: self.nbits });
        }
        let extranonce = solution.extranonce.as_bytes();
        let (said, expected) = (extranonce.len(), self.stripped.full_extranonce_size());
        let Some(merkle_root) = self.merkle_root(extranonce) else {
            return Err(SolutionError::ExtranonceSize { said, expected });
        };
        let header = Header {
            version: solution.version,
            prev_hash: self.prev_hash,
            merkle_root,
            ntime: solution.ntime,
            nbits: self.nbits,
            nonce: solution.nonce,
        };
        let hash = header.hash();
        match Target::from_nbits(self.nbits) {
            Some(target) if target.is_met_by(&hash) => Ok(header),
            _ => Err(SolutionError::AboveTarget(hash)),
        }
    }

    fn merkle_root(&self, extranonce: &[u8]) -> Option<[u8; 32]> {
        let txid = self.stripped.txid(&[], extranonce)?;
        Some(merkle_root(txid, &self.merkle_path))
    }

    fn block(&self, header: &Header, extranonce: &[u8]) -> Block {
        let transactions: usize = self.transactions.iter().map(|t| t.raw.len()).sum();
        let coinbase = self.coinbase_prefix.len() + extranonce.len() + self.coinbase_suffix.len();
        let mut raw = Vec::with_capacity(80 + 9 + coinbase + transactions);
        raw.extend(header.to_bytes());
        raw.extend(encode::serialize(&bitcoin::VarInt::from(self.transactions.len() + 1)));
        raw.extend(&self.coinbase_prefix);
        raw.extend(extranonce);
        raw.extend(&self.coinbase_suffix);
        self.transactions.iter().for_each(|transaction| raw.extend(&transaction.raw));
        Block { hash: header.hash(), raw }
    }
}

#[cfg(test)]
mod tests {
    use adit_sv2::codec::B032;
    use proptest::prelude::*;

    use super::*;
    use crate::coinbase::tests::{Parts, pool_output, witness_commitment_of};

    const EASY: u32 = 0x207f_ffff;

    /// A transaction with a witness, told from others by its locktime.
    fn transaction(n: u32) -> Arc<Transaction> {
        let transaction = bitcoin::Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::from_consensus(n),
            input: vec![bitcoin::TxIn {
                previous_output: bitcoin::OutPoint::new(bitcoin::Txid::from_byte_array([8; 32]), n),
                witness: bitcoin::Witness::from_slice(&[[n as u8; 3]]),
                ..Default::default()
            }],
            output: vec![bitcoin::TxOut {
                value: bitcoin::Amount::ONE_SAT,
                script_pubkey: bitcoin::ScriptBuf::new(),
            }],
        };
        Arc::new(Transaction::parse(&encode::serialize(&transaction)).unwrap().0)
    }

    fn solution<'a>(nonce: u32, extranonce: &'a [u8]) -> PushSolution<'a> {
        PushSolution {
            extranonce: B032::new(extranonce).unwrap(),
            prev_hash: [9; 32],
            nonce,
            ntime: 1_700_000_000,
            nbits: EASY,
            version: 0x2000_0020,
        }
    }

    fn job(parts: &Parts, transactions: Vec<Arc<Transaction>>) -> DeclaredJob {
        DeclaredJob::new(0x2000_0000, &parts.parse().unwrap(), transactions, [9; 32], EASY)
    }

    #[test]
    fn a_solution_becomes_the_block() {
        for count in [0, 1, 2, 5] {
            let transactions: Vec<_> = (0..count).map(transaction).collect();
            let wtxids: Vec<_> = transactions.iter().map(|t| t.wtxid).collect();
            let parts = Parts::new(&[pool_output(7), witness_commitment_of(&wtxids)]);
            let job = job(&parts, transactions);
            let extranonce = [3; 12];
            let nonce = (0..).find(|n| job.solve(&solution(*n, &extranonce)).is_ok()).unwrap();
            let built = job.solve(&solution(nonce, &extranonce)).unwrap();
            let block: bitcoin::Block = encode::deserialize(&built.raw).unwrap();
            assert_eq!(block.block_hash().to_byte_array(), built.hash.0);
            assert!(block.check_merkle_root() && block.check_witness_commitment());
            assert_eq!(block.txdata.len(), 1 + count as usize);
            assert!(block.txdata[0].is_coinbase());
            assert!(block.header.validate_pow(block.header.target()).is_ok());
            let script = block.txdata[0].input[0].script_sig.as_bytes();
            assert!(script.ends_with(&extranonce));

            let proposal: bitcoin::Block =
                encode::deserialize(&job.proposal(1_700_000_000).raw).unwrap();
            assert!(proposal.check_merkle_root() && proposal.check_witness_commitment());
            assert_eq!(proposal.header.nonce, 0);
        }
    }

    #[test]
    fn a_coinbase_without_witness_stays_without() {
        let parts = Parts::new(&[pool_output(7)]).without_witness();
        let job = job(&parts, vec![]);
        let raw = job.proposal(1).raw;
        let block: bitcoin::Block = encode::deserialize(&raw).unwrap();
        assert!(block.check_merkle_root() && block.txdata[0].input[0].witness.is_empty());
    }

    #[test]
    fn what_makes_no_block_is_refused() {
        let parts = Parts::new(&[pool_output(7)]);
        let job = job(&parts, vec![transaction(1)]);
        let right = solution(0, &[0; 12]);
        let other = PushSolution { prev_hash: [8; 32], ..right };
        assert_eq!(job.solve(&other), Err(SolutionError::PrevHash));
        let easier = PushSolution { nbits: EASY + 1, ..right };
        let refused = SolutionError::Nbits { said: EASY + 1, expected: EASY };
        assert_eq!(job.solve(&easier), Err(refused));
        let refused = SolutionError::ExtranonceSize { said: 11, expected: 12 };
        assert_eq!(job.solve(&solution(0, &[0; 11])), Err(refused));
        let above = (0..64)
            .filter(|nonce| {
                matches!(job.solve(&solution(*nonce, &[0; 12])), Err(SolutionError::AboveTarget(_)))
            })
            .count();
        assert!((10..54).contains(&above), "half of all hashes are below the target: {above}");
    }

    #[test]
    fn transactions_are_read_whole() {
        let raw = transaction(5).raw.clone();
        for end in 0..raw.len() {
            assert!(Transaction::parse(&raw[..end]).is_err());
        }
        assert!(Transaction::parse(&[&raw[..], &[0]].concat()).is_err());
        let (read, transaction) = Transaction::parse(&raw).unwrap();
        assert_eq!(read.txid, transaction.compute_txid().to_byte_array());
        assert_ne!(read.txid, read.wtxid);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Transaction::parse(&bytes);
        }
    }
}
