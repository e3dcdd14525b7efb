//! What people do by hand on a private chain: make blocks, send transactions, make and derive addresses.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use bitcoin::address::NetworkUnchecked;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::secp256k1::{All, Secp256k1, SecretKey};
use bitcoin::{
    Address, Amount, CompressedPublicKey, Network, PrivateKey, PublicKey, Transaction, Txid,
};
use bitcoincore_rpc::{Auth, Client, RpcApi};
use serde::Deserialize;

use super::up::entropy;
use crate::bitcoind::{op_true_script, spendable_coins, split};

/// What a transaction pays to the miner who takes it, unless somebody says otherwise.
pub const FEE: Amount = Amount::from_sat(10_000);

/// Somebody at a node of a private chain.
pub struct Hand {
    rpc: Client,
    network: Network,
}

impl Hand {
    /// At the node with this URL, which must be on regtest or a signet.
    ///
    /// # Errors
    /// Where the node does not answer, or its chain is one with real money.
    pub fn at(url: &str, auth: Auth) -> Result<Self> {
        #[derive(Deserialize)]
        struct Info {
            chain: String,
        }
        let rpc = Client::new(url, auth).with_context(|| format!("connecting to {url}"))?;
        let info: Info = rpc.call("getblockchaininfo", &[]).context("asking the node")?;
        let network = match &*info.chain {
            "regtest" => Network::Regtest,
            "signet" => Network::Signet,
            other => bail!("{url} is on {other}: these commands are for regtest and signet"),
        };
        Ok(Self { rpc, network })
    }

    /// The same with the node's cookie file.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn with_cookie(url: &str, cookie: &Path) -> Result<Self> {
        Self::at(url, Auth::CookieFile(cookie.to_owned()))
    }

    /// The node's RPC.
    pub fn rpc(&self) -> &Client {
        &self.rpc
    }

    /// The node's chain.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Has the node make blocks whose coins anybody can spend, one by one: on signet each takes seconds of the node's
    /// own, single-threaded search. Returns their hashes.
    ///
    /// # Errors
    /// Where the node refuses.
    pub fn generate(&self, blocks: u64) -> Result<Vec<String>> {
        let descriptor = format!("raw({:x})", op_true_script());
        let mut hashes = Vec::new();
        while (hashes.len() as u64) < blocks {
            let parameters = [1.into(), descriptor.clone().into(), i32::MAX.into()];
            let made: Vec<String> = (self.rpc.call("generatetodescriptor", &parameters))
                .context("generatetodescriptor")?;
            hashes.extend(made);
        }
        Ok(hashes)
    }

    /// Sends `count` transactions, each a whole coin that anybody can spend, to `address`. Returns their ids.
    ///
    /// # Errors
    /// Where the address is not of this chain, or too few coins are old enough to be spent.
    pub fn send(&self, address: &str, count: usize, fee: Amount) -> Result<Vec<Txid>> {
        let address = Address::<NetworkUnchecked>::from_str(address)
            .with_context(|| format!("{address} is not an address"))?
            .require_network(self.network)
            .with_context(|| format!("{address} is of another chain than {}", self.network))?;
        let coins = spendable_coins(&self.rpc)?;
        if coins.len() < count {
            bail!(
                "{} coins can be spent now; a block's coin can be 100 blocks later (generate N)",
                coins.len()
            );
        }
        let send = |coin| {
            let mut transaction = split(coin, 1, fee)?;
            transaction.output[0].script_pubkey = address.script_pubkey();
            self.publish(&transaction).map(|()| transaction.compute_txid())
        };
        coins.iter().take(count).map(send).collect()
    }

    /// Makes `count` coins that anybody can spend from one, and a block with them, so that there is something to send.
    pub(super) fn fan_out(&self, count: usize) -> Result<()> {
        let coins = spendable_coins(&self.rpc)?;
        let coin = coins.iter().max_by_key(|coin| coin.value).context("no coin to spend")?;
        self.publish(&split(coin, count, FEE * 10)?)?;
        self.generate(1).map(drop)
    }

    fn publish(&self, transaction: &Transaction) -> Result<()> {
        let sent: Txid = (self.rpc)
            .call("sendrawtransaction", &[serialize_hex(transaction).into()])
            .context("the node refuses the transaction")?;
        debug_assert_eq!(sent, transaction.compute_txid());
        Ok(())
    }
}

/// A new key and the address it can spend from.
pub struct NewAddress {
    /// Pays to the public key's hash, as a witness program.
    pub address: Address,
    /// The private key in wallet import format.
    pub key: PrivateKey,
}

impl NewAddress {
    /// Makes a key from the system's random numbers.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn new(network: Network) -> Result<Self> {
        let key = PrivateKey::new(SecretKey::from_slice(&entropy()?)?, network);
        let public = CompressedPublicKey::from_private_key(&Secp256k1::new(), &key)
            .map_err(|error| anyhow!("the new key: {error}"))?;
        Ok(Self { address: Address::p2wpkh(&public, network), key })
    }
}

/// The addresses of a public key in hex, newest kind first, with the name of each kind.
///
/// # Errors
/// Where the text is no public key.
pub fn addresses_of(public_key: &str, network: Network) -> Result<Vec<(&'static str, Address)>> {
    let key: PublicKey = public_key.parse().with_context(|| {
        format!("{public_key} is not a public key: 33 bytes in hex, beginning with 02 or 03")
    })?;
    let mut found = Vec::new();
    if let Ok(compressed) = CompressedPublicKey::try_from(key) {
        let secp: Secp256k1<All> = Secp256k1::new();
        let internal = compressed.0.x_only_public_key().0;
        found.push(("p2tr", Address::p2tr(&secp, internal, None, network)));
        found.push(("p2wpkh", Address::p2wpkh(&compressed, network)));
        found.push(("p2sh-p2wpkh", Address::p2shwpkh(&compressed, network)));
    }
    found.push(("p2pkh", Address::p2pkh(key, network)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator point: BIP 173 and BIP 341 wallets agree on these.
    #[test]
    fn the_addresses_of_a_public_key() {
        let key = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let found = addresses_of(key, Network::Bitcoin).unwrap();
        let text = |kind| found.iter().find(|(name, _)| *name == kind).unwrap().1.to_string();
        assert_eq!(text("p2wpkh"), "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4");
        assert_eq!(text("p2pkh"), "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH");
        assert_eq!(text("p2sh-p2wpkh"), "3JvL6Ymt8MVWiCNHC7oWU6nLeHNJKLZGLN");
        assert_eq!(text("p2tr"), "bc1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5sspknck9");
        assert!(addresses_of("02", Network::Bitcoin).is_err());
    }

    #[test]
    fn a_new_address_is_the_keys_own() {
        let new = NewAddress::new(Network::Regtest).unwrap();
        let public = new.key.public_key(&Secp256k1::new()).to_string();
        let derived = addresses_of(&public, Network::Regtest).unwrap();
        assert!(derived.iter().any(|(_, address)| *address == new.address));
        assert_ne!(NewAddress::new(Network::Regtest).unwrap().address, new.address);
    }
}
