//! Coins that anybody may spend, so that a mempool is filled without wallet and signature.

use anyhow::{Context, Result, ensure};
use bitcoin::{
    Address, Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
    absolute::LockTime, consensus::encode::serialize_hex, opcodes::all::OP_PUSHNUM_1,
    script::Builder, transaction::Version,
};
use bitcoincore_rpc::{Client, RpcApi};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use super::{Bitcoind, Chain};

const COINBASE_MATURITY: usize = 100;
/// Keeps a fan-out within the 400,000 weight units of a standard transaction.
const FAN_OUT_MOST: usize = 2_000;
/// Calls in one HTTP request.
const BATCH: usize = 500;
/// Above the node's least, 1 satoshi per virtual byte, for one input and a few outputs.
const FEE_LEAST: Amount = Amount::from_sat(1_000);
/// Fees differ, so that a template has an order.
const FEE_STEPS: u64 = 97;

/// An unspent output to [`op_true_script`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coin {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it is worth.
    pub value: Amount,
}

/// The scriptPubKey P2WSH(OP_TRUE): spent by a witness that is just the script, hence with segwit's rules and nobody's
/// key.
pub fn op_true_script() -> ScriptBuf {
    ScriptBuf::new_p2wsh(&witness_script().wscript_hash())
}

/// [`op_true_script`] as an address.
pub fn op_true_address(chain: Chain) -> Address {
    Address::p2wsh(&witness_script(), chain.network())
}

/// A transaction that spends `coin` into `outputs` equal coins of the same kind. They are worth `fee` less, and the
/// rest of the division.
pub fn split(coin: &Coin, outputs: usize, fee: Amount) -> Result<Transaction> {
    let share = coin.value.checked_sub(fee).and_then(|rest| rest.checked_div(outputs as u64));
    let value = share.with_context(|| format!("{} does not pay {fee}", coin.value))?;
    Ok(Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: coin.outpoint,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[witness_script().as_bytes()]),
        }],
        output: vec![TxOut { value, script_pubkey: op_true_script() }; outputs],
    })
}

/// The coins a transaction makes.
pub fn coins_of(transaction: &Transaction) -> Vec<Coin> {
    let txid = transaction.compute_txid();
    let script = op_true_script();
    let outputs = transaction.output.iter().enumerate();
    outputs
        .filter(|(_, output)| output.script_pubkey == script)
        .map(|(vout, output)| Coin {
            outpoint: OutPoint { txid, vout: vout as u32 },
            value: output.value,
        })
        .collect()
}

/// Coins to [`op_true_script`] in the chain that can be spent now: old enough if from a coinbase, and not spent in the
/// mempool.
pub fn spendable_coins(client: &Client) -> Result<Vec<Coin>> {
    #[derive(Deserialize)]
    struct Scan {
        height: usize,
        unspents: Vec<Unspent>,
    }
    #[derive(Deserialize)]
    struct Unspent {
        txid: Txid,
        vout: u32,
        #[serde(with = "bitcoin::amount::serde::as_btc")]
        amount: Amount,
        coinbase: bool,
        height: usize,
    }
    #[derive(Deserialize)]
    struct Spending {
        #[serde(rename = "spendingtxid")]
        by: Option<Txid>,
    }
    let descriptor = format!("raw({:x})", op_true_script());
    let scan: Scan = client.call("scantxoutset", &[json!("start"), json!([descriptor])])?;
    let mature = |unspent: &Unspent| {
        !unspent.coinbase || scan.height + 1 - unspent.height >= COINBASE_MATURITY
    };
    let unspents: Vec<_> = scan.unspents.iter().filter(|unspent| mature(unspent)).collect();
    if unspents.is_empty() {
        return Ok(Vec::new());
    }
    let outpoints: Vec<_> =
        unspents.iter().map(|u| json!({ "txid": u.txid, "vout": u.vout })).collect();
    let spending: Vec<Spending> = client.call("gettxspendingprevout", &[json!(outpoints)])?;
    Ok(unspents
        .iter()
        .zip(spending)
        .filter(|(_, spending)| spending.by.is_none())
        .map(|(unspent, _)| Coin {
            outpoint: OutPoint { txid: unspent.txid, vout: unspent.vout },
            value: unspent.amount,
        })
        .collect())
}

impl Bitcoind {
    /// Coins that can be spent now, see [`spendable_coins`].
    pub fn coins(&self) -> Result<Vec<Coin>> {
        spendable_coins(&self.client()?)
    }

    /// Puts transactions into the mempool. One that is refused fails the whole, with the node's reason.
    pub fn send(&self, transactions: &[Transaction]) -> Result<()> {
        let client = self.client()?;
        let client = client.get_jsonrpc_client();
        for batch in transactions.chunks(BATCH) {
            let parameters = batch
                .iter()
                .map(|transaction| to_raw_value(&[serialize_hex(transaction)]))
                .collect::<Result<Vec<_>, _>>()?;
            let requests: Vec<_> = parameters
                .iter()
                .map(|parameter| client.build_request("sendrawtransaction", Some(parameter)))
                .collect();
            for answer in client.send_batch(&requests)? {
                answer.context("no answer to sendrawtransaction")?.check_error()?;
            }
        }
        Ok(())
    }

    /// Puts `count` unrelated transactions of different fees into the mempool of a regtest node, and gives them. For
    /// that it mines as many blocks as it needs for coins to spend: 101 on a new chain, and always one.
    pub fn fill_mempool(&self, count: usize) -> Result<Vec<Transaction>> {
        // Unconfirmed outputs of one transaction could be spent by 25 only, so the fan-out is mined first.
        let fans = count.div_ceil(FAN_OUT_MOST);
        let mut coins = self.coins()?;
        if coins.len() < fans {
            self.generate(COINBASE_MATURITY + fans - coins.len())?;
            coins = self.coins()?;
        }
        ensure!(coins.len() >= fans, "{} coins to spend after mining, not {fans}", coins.len());
        coins.sort_by_key(|coin| std::cmp::Reverse(coin.value));
        let fan_fee = Amount::from_sat(200_000);
        let fan_outs = coins[..fans]
            .iter()
            .map(|coin| split(coin, count.min(FAN_OUT_MOST), fan_fee))
            .collect::<Result<Vec<_>>>()?;
        self.send(&fan_outs)?;
        self.generate(1)?;
        let transactions = fan_outs
            .iter()
            .flat_map(coins_of)
            .take(count)
            .zip(0..)
            .map(|(coin, i)| split(&coin, 1, FEE_LEAST + Amount::from_sat(i % FEE_STEPS)))
            .collect::<Result<Vec<_>>>()?;
        self.send(&transactions)?;
        Ok(transactions)
    }
}

fn witness_script() -> ScriptBuf {
    Builder::new().push_opcode(OP_PUSHNUM_1).into_script()
}
