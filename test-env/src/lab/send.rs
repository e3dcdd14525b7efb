//! Transactions for the lab's mempool, from coins that need neither wallet nor key.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use bitcoin::address::NetworkUnchecked;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Address, Amount};
use bitcoincore_rpc::RpcApi;

use super::Lab;
use crate::bitcoind::{spendable_coins, split};

/// What each transaction pays to the miner who takes it.
const FEE: Amount = Amount::from_sat(10_000);

impl Lab {
    /// Sends `count` transactions, each a whole coin of the lab's first blocks, to `address` or else to the payout
    /// address. Returns their ids.
    ///
    /// # Errors
    /// Where the address is not of the lab's chain, or too few coins are old enough to be spent.
    pub fn send(&self, address: Option<&str>, count: usize) -> Result<Vec<String>> {
        let state = self.running()?;
        let text = address.unwrap_or(&state.payout_address);
        let address = Address::<NetworkUnchecked>::from_str(text)
            .with_context(|| format!("{text} is not an address"))?
            .require_network(state.network.network())
            .with_context(|| format!("{text} is of another chain than {}", state.network.name()))?;
        let rpc = self.rpc(&state)?;
        let coins = spendable_coins(&rpc)?;
        if coins.len() < count {
            bail!(
                "{} coins can be spent now; a block's coin can be 100 blocks later (scripts/lab generate N)",
                coins.len()
            );
        }
        let send = |coin| {
            let mut transaction = split(coin, 1, FEE)?;
            transaction.output[0].script_pubkey = address.script_pubkey();
            let txid = rpc.call("sendrawtransaction", &[serialize_hex(&transaction).into()]);
            txid.context("the node refuses the transaction")
        };
        coins.iter().take(count).map(send).collect()
    }
}
