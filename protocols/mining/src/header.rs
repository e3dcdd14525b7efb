//! The block header and its hash.

use std::fmt;

use crate::sha256::{self, State};

/// A block hash in internal byte order: as in a header's `prev_hash` and in a `U256` field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 32]);

impl fmt::Display for BlockHash {
    /// Reversed, as block hashes are printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({self})")
    }
}

/// The six fields of a block header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `nVersion`.
    pub version: u32,
    /// Hash of the previous block, internal byte order.
    pub prev_hash: [u8; 32],
    /// Merkle root, internal byte order.
    pub merkle_root: [u8; 32],
    /// `nTime`, seconds since 1970.
    pub ntime: u32,
    /// Compact target.
    pub nbits: u32,
    /// `nNonce`.
    pub nonce: u32,
}

impl Header {
    /// The consensus serialization.
    #[inline]
    pub fn to_bytes(&self) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[4..36].copy_from_slice(&self.prev_hash);
        bytes[36..68].copy_from_slice(&self.merkle_root);
        bytes[68..72].copy_from_slice(&self.ntime.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.nbits.to_le_bytes());
        bytes[76..].copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    /// The block hash.
    #[inline]
    pub fn hash(&self) -> BlockHash {
        BlockHash(sha256::sha256d_header(&self.to_bytes()))
    }
}

/// A header prepared for trying many nonces: two compressions each instead of three.
#[derive(Clone, Debug)]
pub struct NonceScan {
    first: State,
    tail: sha256::Block,
}

impl NonceScan {
    /// Hashes the first 64 bytes once.
    pub fn new(header: &Header) -> Self {
        let bytes = header.to_bytes();
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut first = sha256::INITIAL;
        sha256::compress(&mut first, blocks);
        let mut tail = sha256::padding(16, 80);
        tail[..16].copy_from_slice(rest);
        Self { first, tail }
    }

    /// The block hash with another `nNonce`.
    #[inline]
    pub fn hash(&mut self, nonce: u32) -> BlockHash {
        self.tail[12..16].copy_from_slice(&nonce.to_le_bytes());
        let mut state = self.first;
        sha256::compress(&mut state, std::slice::from_ref(&self.tail));
        BlockHash(sha256::second(&state))
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::consensus::encode::serialize;
    use bitcoin::constants::genesis_block;
    use bitcoin::hashes::Hash;

    use super::*;

    #[test]
    fn genesis_headers() {
        for network in [bitcoin::Network::Bitcoin, bitcoin::Network::Regtest] {
            let oracle = genesis_block(network).header;
            let header = Header {
                version: oracle.version.to_consensus() as u32,
                prev_hash: oracle.prev_blockhash.to_byte_array(),
                merkle_root: oracle.merkle_root.to_byte_array(),
                ntime: oracle.time,
                nbits: oracle.bits.to_consensus(),
                nonce: oracle.nonce,
            };
            assert_eq!(header.to_bytes().to_vec(), serialize(&oracle));
            assert_eq!(header.hash().0, oracle.block_hash().to_byte_array());
            assert_eq!(header.hash().to_string(), oracle.block_hash().to_string());
            let mut scan = NonceScan::new(&Header { nonce: 7, ..header });
            assert_eq!(scan.hash(header.nonce), header.hash());
            assert_ne!(scan.hash(8), header.hash());
        }
    }
}
