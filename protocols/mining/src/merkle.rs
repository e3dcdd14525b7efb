//! The merkle tree, as mining sees it: a path from the coinbase to the root.

use crate::sha256::sha256d_pair;

/// The path that leads from the coinbase's txid to the merkle root (`merkle_path`, deepest first).
///
/// `txids` are the block's other transactions in order, internal byte order, without the coinbase.
pub fn merkle_path(txids: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let mut path = Vec::new();
    // Index 0 of each level is the unknown branch that the coinbase is in, and is left out.
    let mut level = txids.to_vec();
    while let Some(sibling) = level.first() {
        path.push(*sibling);
        level = level[1..]
            .chunks(2)
            .map(|pair| sha256d_pair(&pair[0], &pair[pair.len() - 1]))
            .collect();
    }
    path
}

/// Folds a `merkle_path` over the coinbase's txid. Does not allocate.
#[inline]
pub fn merkle_root(coinbase_txid: [u8; 32], path: &[[u8; 32]]) -> [u8; 32] {
    path.iter().fold(coinbase_txid, |hash, sibling| sha256d_pair(&hash, sibling))
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::{Hash, sha256d};
    use bitcoin::merkle_tree::calculate_root;
    use proptest::prelude::*;

    use super::*;

    fn txid(hex: &str) -> [u8; 32] {
        hex.parse::<bitcoin::Txid>().unwrap().to_byte_array()
    }

    #[test]
    fn mainnet_block_170() {
        // The first block with a payment: Satoshi to Hal Finney.
        let coinbase = txid("b1fea52486ce0c62bb442b530a3f0132b826c74e473d1f2c220bfa78111c5082");
        let payment = txid("f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16");
        let root = txid("7dac2c5666815c17a3b36427de37bb9d2e2c5ccec3f8633eb91a4205cb4c10ff");
        let path = merkle_path(&[payment]);
        assert_eq!(path, [payment]);
        assert_eq!(merkle_root(coinbase, &path), root);
        assert_eq!(merkle_root(coinbase, &[]), coinbase);
    }

    proptest! {
        #[test]
        fn any_tree(coinbase: [u8; 32], txids in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
            let path = merkle_path(&txids);
            prop_assert_eq!(path.len(), (txids.len() + 1).next_power_of_two().trailing_zeros() as usize);
            let all = std::iter::once(coinbase).chain(txids).map(sha256d::Hash::from_byte_array);
            prop_assert_eq!(merkle_root(coinbase, &path), calculate_root(all).unwrap().to_byte_array());
        }
    }
}
