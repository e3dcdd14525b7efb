//! What the rules of a chain say about the next block, as far as it can be known from the last header alone.

use serde::Deserialize;

/// A chain.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The one with value.
    #[serde(alias = "main", alias = "bitcoin")]
    Mainnet,
    /// The old public test chain.
    #[serde(alias = "test", alias = "testnet")]
    Testnet3,
    /// The present public test chain (BIP94).
    Testnet4,
    /// A private signet whose challenge needs no signature.
    Signet,
    /// A private chain.
    Regtest,
}

impl Network {
    /// `chain` as `getblockchaininfo` gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mainnet => "main",
            Self::Testnet3 => "test",
            Self::Testnet4 => "testnet4",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }

    /// Satoshis that a block at `height` creates.
    pub fn subsidy(self, height: u32) -> u64 {
        let halvings = height / if self == Self::Regtest { 150 } else { 210_000 };
        (50 * 100_000_000u64).checked_shr(halvings).unwrap_or(0)
    }

    /// Whether a block at `height` has the nBits of its parent, whatever its time.
    ///
    /// Not at a retarget, and not on the public testnets, where a late block may be an easy one.
    pub fn keeps_n_bits(self, height: u32) -> bool {
        match self {
            Self::Regtest => true,
            Self::Mainnet | Self::Signet => !height.is_multiple_of(RETARGET_INTERVAL),
            Self::Testnet3 | Self::Testnet4 => false,
        }
    }

    /// Whether a chain of this kind is worked on by nodes without peers and with an old tip: a lab's.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Regtest | Self::Signet)
    }
}

/// Blocks between two changes of nBits.
const RETARGET_INTERVAL: u32 = 2016;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsidies() {
        const COIN: u64 = 100_000_000;
        assert_eq!(Network::Mainnet.subsidy(1), 50 * COIN);
        assert_eq!(Network::Mainnet.subsidy(209_999), 50 * COIN);
        assert_eq!(Network::Mainnet.subsidy(210_000), 25 * COIN);
        assert_eq!(Network::Mainnet.subsidy(840_000), 312_500_000);
        assert_eq!(Network::Mainnet.subsidy(64 * 210_000), 0);
        assert_eq!(Network::Signet.subsidy(150), 50 * COIN);
        assert_eq!(Network::Regtest.subsidy(149), 50 * COIN);
        assert_eq!(Network::Regtest.subsidy(150), 25 * COIN);
        assert_eq!(Network::Regtest.subsidy(33 * 150), 0);
        assert_eq!(Network::Regtest.subsidy(u32::MAX), 0);
    }

    #[test]
    fn n_bits() {
        assert!(Network::Mainnet.keeps_n_bits(2015) && Network::Mainnet.keeps_n_bits(2017));
        assert!(!Network::Mainnet.keeps_n_bits(2016) && !Network::Signet.keeps_n_bits(4032));
        assert!(Network::Regtest.keeps_n_bits(2016));
        assert!(!Network::Testnet4.keeps_n_bits(5));
    }
}
