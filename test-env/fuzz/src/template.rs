//! What a node offers for a block, short in a fuzzer's input.

use adit_node::{BlockTemplate, TemplateTransaction};
use arbitrary::Arbitrary;
use bitcoin::absolute::LockTime;
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, BlockHash, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut,
    Txid, Witness,
};

/// An offer.
#[derive(Arbitrary, Debug)]
pub struct Offer {
    /// Hash of the tip, in each byte.
    pub tip: u8,
    height: u32,
    value: u64,
    weight_limit: Option<u32>,
    sigop_limit: u32,
    transactions: Vec<Offered>,
}

#[derive(Arbitrary, Debug)]
struct Offered {
    /// In its witness, so many times.
    filling: (u8, u8),
    fee: u64,
    sigops: u32,
    /// A node that says of it what is not so.
    weight: Option<u32>,
    /// Counted back from it.
    parents: Vec<u8>,
}

impl Offer {
    /// As the node's client hands it on; every second hash is a block.
    pub fn template(&self) -> BlockTemplate {
        let mut transactions: Vec<TemplateTransaction> = Vec::new();
        for (index, offered) in self.transactions.iter().take(200).enumerate() {
            let mut depends: Vec<u32> = (offered.parents.iter().take(4))
                .filter_map(|back| Some(index.checked_sub(usize::from(*back))? as u32))
                .filter(|parent| *parent > 0)
                .collect();
            depends.sort_unstable();
            depends.dedup();
            let spent = depends.iter().map(|parent| transactions[*parent as usize - 1].txid);
            let inputs = spent.map(|txid| OutPoint::new(txid, index as u32));
            let other = OutPoint::new(Txid::from_byte_array([9; 32]), index as u32);
            let (byte, times) = offered.filling;
            let transaction = Transaction {
                version: Version::TWO,
                lock_time: LockTime::ZERO,
                input: (inputs.chain([other]))
                    .map(|previous_output| TxIn {
                        previous_output,
                        script_sig: ScriptBuf::new(),
                        sequence: Sequence::MAX,
                        witness: Witness::from_slice(&[vec![byte; usize::from(times)]]),
                    })
                    .collect(),
                output: vec![TxOut { value: Amount::ONE_SAT, script_pubkey: ScriptBuf::new() }],
            };
            transactions.push(TemplateTransaction {
                data: serialize(&transaction),
                txid: transaction.compute_txid(),
                wtxid: transaction.compute_wtxid(),
                fee: offered.fee,
                sigops: offered.sigops,
                weight: offered.weight.unwrap_or(transaction.weight().to_wu() as u32),
                depends,
            });
        }
        BlockTemplate {
            version: 0x2000_0000,
            rules: vec!["!segwit".to_owned()],
            previous_block_hash: BlockHash::from_byte_array([self.tip; 32]),
            transactions,
            coinbase_value: self.value,
            long_poll_id: String::new(),
            target: bitcoin::Target::MAX_ATTAINABLE_REGTEST,
            min_time: crate::MIN_NTIME,
            current_time: crate::MIN_NTIME,
            bits: CompactTarget::from_consensus(crate::EASY),
            height: self.height,
            sigop_limit: self.sigop_limit,
            size_limit: None,
            weight_limit: self.weight_limit,
            default_witness_commitment: None,
            signet_challenge: None,
        }
    }
}
