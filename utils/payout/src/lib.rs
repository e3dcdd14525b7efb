//! Where the reward goes: an address or a definite output descriptor, as one script. Pool and job declarators read it with
//! the same parser, since they must mean the same output.

use std::str::FromStr;

use bitcoin::address::NetworkUnchecked;
use bitcoin::hex::FromHex;
use bitcoin::{Address, Network, NetworkKind, ScriptBuf};
use miniscript::descriptor::DescriptorPublicKey;
use miniscript::descriptor::checksum::desc_checksum;
use miniscript::{Descriptor, ForEachKey};

/// The coinbase output that rewards are paid to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payout {
    script: ScriptBuf,
}

/// Why a text names no output.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PayoutError {
    /// Nothing is given.
    #[error("required: the address or output descriptor that rewards are paid to")]
    Missing,
    /// Made for another chain: its coins would be lost.
    #[error("{what} belongs to another network than {network}")]
    OtherNetwork {
        /// What belongs elsewhere.
        what: String,
        /// The configured network.
        network: Network,
    },
    /// Neither an address nor a descriptor.
    #[error("not an address and not a descriptor: {0}")]
    NotAnAddress(String),
    /// A descriptor that cannot be read.
    #[error("not a descriptor: {0}")]
    BadDescriptor(String),
    /// `raw(..)` without a script in hexadecimal digits.
    #[error("raw(..) needs a script in hexadecimal digits")]
    BadScript,
    /// A descriptor of many scripts.
    #[error(
        "describes many scripts (it has a `*` or `<..;..>`); give a single one, for example ../0/0"
    )]
    NotDefinite,
    /// A private key where a public one belongs.
    #[error("holds a private key; give the public descriptor only")]
    PrivateKey,
    /// An output that nobody can spend.
    #[error("an output with this script can never be spent")]
    Unspendable,
}

impl Payout {
    /// Reads an address, `addr(ADDRESS)`, `raw(HEX)` or a definite output descriptor such as `wpkh(KEY)`, with or
    /// without checksum. What belongs to another network is refused; a bare public key belongs to all.
    ///
    /// # Errors
    /// [`PayoutError`], fit to be shown beside the configuration key.
    pub fn parse(text: &str, network: Network) -> Result<Self, PayoutError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(PayoutError::Missing);
        }
        let script =
            if text.contains('(') { descriptor(text, network)? } else { address(text, network)? };
        if script.is_empty() || script.is_op_return() || script.len() > MAX_SCRIPT_SIZE {
            return Err(PayoutError::Unspendable);
        }
        Ok(Self { script })
    }

    /// The output's script.
    pub fn script(&self) -> &ScriptBuf {
        &self.script
    }

    /// The output as consensus serializes it, paying `value` satoshis.
    pub fn output(&self, value: u64) -> Vec<u8> {
        bitcoin::consensus::serialize(&bitcoin::TxOut {
            value: bitcoin::Amount::from_sat(value),
            script_pubkey: self.script.clone(),
        })
    }

    /// `coinbase_output_max_additional_size`: bytes that the output adds to the coinbase (spec 7.1).
    pub fn size(&self) -> u32 {
        self.output(0).len() as u32
    }

    /// `coinbase_output_max_additional_sigops`: what the output costs of the block's 80,000, so each legacy operation
    /// counts four times, as in the node's own limit.
    pub fn sigops(&self) -> u16 {
        (self.script.count_sigops_legacy() * 4).try_into().unwrap_or(u16::MAX)
    }

    /// The script as an address of `network`, where it has one, else in hexadecimal digits: for people.
    pub fn describe(&self, network: Network) -> String {
        Address::from_script(&self.script, network).map_or_else(
            |_| format!("raw({})", self.script.to_hex_string()),
            |address| address.to_string(),
        )
    }
}

/// Consensus: a longer script fails whatever is done.
const MAX_SCRIPT_SIZE: usize = 10_000;

fn address(text: &str, network: Network) -> Result<ScriptBuf, PayoutError> {
    let address = Address::<NetworkUnchecked>::from_str(text)
        .map_err(|e| PayoutError::NotAnAddress(e.to_string()))?;
    let address = address
        .require_network(network)
        .map_err(|_| PayoutError::OtherNetwork { what: format!("address {text}"), network })?;
    Ok(address.script_pubkey())
}

fn descriptor(text: &str, network: Network) -> Result<ScriptBuf, PayoutError> {
    if text.contains("prv") {
        return Err(PayoutError::PrivateKey); // and is not repeated in an error message
    }
    if let Some(inner) = call("addr", text)? {
        return address(inner, network);
    }
    if let Some(inner) = call("raw", text)? {
        return Vec::from_hex(inner).map(ScriptBuf::from_bytes).map_err(|_| PayoutError::BadScript);
    }
    let bad = |e: &dyn std::fmt::Display| PayoutError::BadDescriptor(e.to_string());
    let descriptor = Descriptor::<DescriptorPublicKey>::from_str(text).map_err(|e| bad(&e))?;
    descriptor.sanity_check().map_err(|e| bad(&e))?;
    if descriptor.has_wildcard() || descriptor.is_multipath() {
        return Err(PayoutError::NotDefinite);
    }
    let kind = NetworkKind::from(network);
    let at_home = descriptor.for_each_key(|key| match key {
        DescriptorPublicKey::XPub(xpub) => xpub.xkey.network == kind,
        DescriptorPublicKey::Single(_) | DescriptorPublicKey::MultiXPub(_) => true,
    });
    if !at_home {
        return Err(PayoutError::OtherNetwork { what: "an extended key".to_owned(), network });
    }
    Ok(descriptor.at_derivation_index(0).map_err(|e| bad(&e))?.script_pubkey())
}

/// The inside of `NAME(..)`, with its checksum verified if there is one; `None` if `text` is another function.
fn call<'t>(name: &str, text: &'t str) -> Result<Option<&'t str>, PayoutError> {
    let (body, checksum) =
        text.split_once('#').map_or((text, None), |(body, sum)| (body, Some(sum)));
    let Some(inside) = body.strip_prefix(name).and_then(|rest| rest.strip_prefix('(')) else {
        return Ok(None);
    };
    if let Some(checksum) = checksum {
        let expected =
            desc_checksum(body).map_err(|e| PayoutError::BadDescriptor(e.to_string()))?;
        if checksum != expected {
            return Err(PayoutError::BadDescriptor(format!(
                "checksum is {checksum}, must be {expected}"
            )));
        }
    }
    inside
        .strip_suffix(')')
        .map(Some)
        .ok_or_else(|| PayoutError::BadDescriptor("`)` expected at the end".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGTEST: &str = "bcrt1q6rhpng9evdsfnn833a4f4vej0asu6dk5srld6x";
    const MAINNET: &str = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
    const KEY: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    const TPUB: &str = "tpubD6NzVbkrYhZ4XgiXtGrdW5XDAPFCL9h7we1vwNCpn8tGbBcgfVYjXyhWo4E1xkh56hjod1RhGjxbaTLV3X4FyWuejifB9jusQ46QzG87VKp";

    fn parse(text: &str) -> Result<Payout, PayoutError> {
        Payout::parse(text, Network::Regtest)
    }

    #[test]
    fn addresses_and_their_descriptors_are_the_same_output() {
        let plain = parse(REGTEST).unwrap();
        assert_eq!(parse(&format!("addr({REGTEST})")).unwrap(), plain);
        let raw = format!("raw({})", plain.script().to_hex_string());
        assert_eq!(parse(&raw).unwrap(), plain);
        let checksum = desc_checksum(&raw).unwrap();
        assert_eq!(parse(&format!("{raw}#{checksum}")).unwrap(), plain);
        assert_eq!(plain.describe(Network::Regtest), REGTEST);
        assert_eq!((plain.size(), plain.sigops()), (8 + 1 + 22, 0));
    }

    #[test]
    fn descriptors_of_one_script() {
        assert_eq!(
            Payout::parse(&format!("wpkh({KEY})"), Network::Bitcoin).unwrap(),
            Payout::parse(MAINNET, Network::Bitcoin).unwrap(),
        );
        assert!(parse(&format!("tr({KEY})")).unwrap().script().is_p2tr());
        assert!(parse(&format!("wpkh({TPUB}/0/3)")).unwrap().script().is_p2wpkh());
        let old = parse(&format!("pkh({KEY})")).unwrap();
        assert_eq!((old.size(), old.sigops()), (8 + 1 + 25, 4));
        assert_eq!(old.output(0x0102)[..9], [2, 1, 0, 0, 0, 0, 0, 0, 25]);
    }

    #[test]
    fn another_network_is_refused() {
        let error = parse(MAINNET).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("address {MAINNET} belongs to another network than regtest")
        );
        assert!(matches!(
            parse(&format!("addr({MAINNET})")),
            Err(PayoutError::OtherNetwork { .. })
        ));
        let error = Payout::parse(&format!("wpkh({TPUB}/0)"), Network::Bitcoin).unwrap_err();
        assert_eq!(error.to_string(), "an extended key belongs to another network than bitcoin");
        assert!(matches!(
            Payout::parse(REGTEST, Network::Signet),
            Err(PayoutError::OtherNetwork { .. })
        ));
    }

    #[test]
    fn what_is_not_one_spendable_output_is_refused() {
        assert_eq!(parse(" "), Err(PayoutError::Missing));
        assert!(matches!(parse("nonsense"), Err(PayoutError::NotAnAddress(_))));
        assert!(matches!(parse("wpkh(nonsense)"), Err(PayoutError::BadDescriptor(_))));
        assert!(matches!(parse("addr("), Err(PayoutError::BadDescriptor(_))));
        assert!(matches!(parse("raw(00#"), Err(PayoutError::BadDescriptor(_))));
        assert!(matches!(
            parse(&format!("addr({REGTEST})#aaaaaaaa")),
            Err(PayoutError::BadDescriptor(_))
        ));
        assert_eq!(parse("raw(xyz)"), Err(PayoutError::BadScript));
        assert_eq!(parse("raw()"), Err(PayoutError::Unspendable));
        assert_eq!(parse("raw(6a00)"), Err(PayoutError::Unspendable));
        assert_eq!(parse(&format!("wpkh({TPUB}/0/*)")), Err(PayoutError::NotDefinite));
        assert_eq!(parse(&format!("wpkh({TPUB}/<0;1>/1)")), Err(PayoutError::NotDefinite));
        assert_eq!(
            parse(&format!("wpkh({}/0)", TPUB.replace("tpub", "tprv"))),
            Err(PayoutError::PrivateKey)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9()#<>;/* ]{0,40}") {
            let _ = parse(&text);
            let _ = parse(&format!("addr({text}"));
            let _ = parse(&format!("raw({text}"));
        }
    }
}
