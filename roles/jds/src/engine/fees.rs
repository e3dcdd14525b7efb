//! What the transactions of a job pay.

use std::collections::HashMap;

use adit_job_declaration::Transaction;
use bitcoin::OutPoint;
use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;

use super::declare::Known;

/// The fees of a job, as far as they are known before unspent outputs are looked up.
#[derive(Clone, Debug, Default)]
pub(super) struct Fees {
    /// Satoshis of transactions whose fee is known.
    known: u64,
    /// Those that a client supplied.
    supplied: Vec<Supplied>,
    /// Outputs to look up in the chain, in the order of `supplied`.
    pub(super) lookups: Vec<OutPoint>,
}

#[derive(Clone, Debug)]
struct Supplied {
    /// Position among the job's transactions.
    position: usize,
    /// Inputs whose value is known, less all outputs; satoshis.
    balance: i128,
    /// Inputs to look up.
    lookups: usize,
}

impl Fees {
    /// Of transactions in the order of the block. Inputs of supplied ones are spent from others of the block or from the
    /// chain, else the block is invalid, which the node notices.
    pub(super) fn of(transactions: &[Known]) -> Self {
        let mut fees = Self::default();
        // Only where something was supplied.
        let mut parents: Option<HashMap<[u8; 32], usize>> = None;
        for (position, known) in transactions.iter().enumerate() {
            let Some(fee) = known.fee else {
                let parents = parents.get_or_insert_with(|| {
                    let positions = transactions.iter().enumerate();
                    positions.map(|(at, known)| (known.transaction.txid, at)).collect()
                });
                fees.add_supplied(position, &known.transaction, transactions, parents);
                continue;
            };
            fees.known = fees.known.saturating_add(fee);
        }
        fees
    }

    fn add_supplied(
        &mut self,
        position: usize,
        transaction: &Transaction,
        transactions: &[Known],
        parents: &HashMap<[u8; 32], usize>,
    ) {
        // It was read once already.
        let Ok(read) = encode::deserialize::<bitcoin::Transaction>(&transaction.raw) else {
            return;
        };
        let paid: i128 = read.output.iter().map(|output| i128::from(output.value.to_sat())).sum();
        let mut supplied = Supplied { position, balance: -paid, lookups: 0 };
        for input in &read.input {
            let outpoint = input.previous_output;
            match parents.get(&outpoint.txid.to_byte_array()) {
                Some(parent) => {
                    let value = output_value(&transactions[*parent].transaction, outpoint.vout);
                    supplied.balance += i128::from(value.unwrap_or(0));
                }
                None => {
                    supplied.lookups += 1;
                    self.lookups.push(outpoint);
                }
            }
        }
        self.supplied.push(supplied);
    }

    /// With the values of the lookups: all fees together, and each supplied transaction's by position. `None` where an
    /// output was not found, which on a valid block means that the node has moved on.
    pub(super) fn resolve(&self, values: &[Option<u64>]) -> Option<(u64, Vec<(usize, u64)>)> {
        let mut total = self.known;
        let mut each = Vec::with_capacity(self.supplied.len());
        let mut values = values.iter();
        for supplied in &self.supplied {
            let mut fee = supplied.balance;
            for _ in 0..supplied.lookups {
                fee += i128::from((*values.next()?)?);
            }
            let fee = u64::try_from(fee).ok()?;
            total = total.checked_add(fee)?;
            each.push((supplied.position, fee));
        }
        Some((total, each))
    }
}

fn output_value(transaction: &Transaction, vout: u32) -> Option<u64> {
    let read: bitcoin::Transaction = encode::deserialize(&transaction.raw).ok()?;
    read.output.get(vout as usize).map(|output| output.value.to_sat())
}
