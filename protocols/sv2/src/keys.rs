//! Authority keys and the URLs that carry them (spec 4.7).
//!
//! An authority signs the certificates of the servers it answers for. Its public key is what a user of a pool
//! configures; its secret key signs and never leaves the server.

mod url;

pub use url::{Sv2Url, UrlError};

use std::fmt;
use std::str::FromStr;

use base58ck::{decode_check, encode_check};
use secp256k1::schnorr::Signature;
use secp256k1::{Keypair, Message, SECP256K1, SecretKey, XOnlyPublicKey};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The `U16` before the key inside the text of a public key, little-endian (spec 4.7).
const KEY_VERSION: [u8; 2] = [1, 0];

/// No key's text is longer; base58 takes quadratic time, so longer ones are not even decoded.
const MAX_TEXT: usize = 64;

/// Why a text or some bytes are not a key. Never shows the key itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// Not base58, or the checksum is wrong.
    #[error("not a base58check text: a character is missing, wrong or too many")]
    Base58,
    /// 64 characters that are not all hex digits.
    #[error("64 characters, but not all of them hex digits")]
    Hex,
    /// Neither the size of a key nor that of a key with its version.
    #[error("holds {0} bytes instead of those of a key")]
    Length(usize),
    /// The version before the key is not the one of the spec.
    #[error("key version {0} is not known, only version 1 is")]
    Version(u16),
    /// The 32 bytes are not the x coordinate of a point on secp256k1.
    #[error("not a point of the curve secp256k1")]
    NotAPoint,
    /// The 32 bytes are zero or not below the group order.
    #[error("not a secret key of the curve secp256k1")]
    InvalidSecret,
    /// A secret key is called for and the text is that of a public one.
    #[error("this is a public key; a secret key is needed here")]
    PublicForSecret,
    /// A public key is called for and the text is that of a secret one.
    #[error(
        "this may be a secret key; a public key is needed here (if it was published, replace it)"
    )]
    SecretForPublic,
}

/// An authority's public key: a BIP340 x-only key.
///
/// Its text is base58check of the version `[1, 0]` and the 32 bytes (spec 4.7).
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AuthorityPublicKey([u8; 32]);

impl AuthorityPublicKey {
    /// Takes the big-endian x coordinate, if there is a point with it.
    pub fn from_bytes(x_only: [u8; 32]) -> Result<Self, KeyError> {
        XOnlyPublicKey::from_slice(&x_only).map_err(|_| KeyError::NotAPoint)?;
        Ok(Self(x_only))
    }

    /// The x coordinate, big-endian (BIP340).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the owner of the key signed `message` with [`AuthoritySecretKey::sign_tagged`].
    pub fn verify_tagged(&self, tag: &str, message: &[u8], signature: &[u8; 64]) -> bool {
        let (Ok(key), Ok(signature)) =
            (XOnlyPublicKey::from_slice(&self.0), Signature::from_slice(signature))
        else {
            return false;
        };
        let digest = Message::from_digest(tagged_hash(tag, &[message]));
        SECP256K1.verify_schnorr(&signature, &digest, &key).is_ok()
    }
}

impl FromStr for AuthorityPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text)?;
        match bytes.as_slice() {
            [v0, v1, key @ ..] if key.len() == 32 => {
                if [*v0, *v1] != KEY_VERSION {
                    return Err(KeyError::Version(u16::from_le_bytes([*v0, *v1])));
                }
                let mut x_only = [0; 32];
                x_only.copy_from_slice(key);
                Self::from_bytes(x_only)
            }
            other if other.len() == 32 => Err(KeyError::SecretForPublic),
            other => Err(KeyError::Length(other.len())),
        }
    }
}

impl fmt::Display for AuthorityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&KEY_VERSION);
        bytes[2..].copy_from_slice(&self.0);
        base58ck::encode_check_to_fmt(f, &bytes)
    }
}

impl fmt::Debug for AuthorityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityPublicKey({self})")
    }
}

/// An authority's secret key. Wiped from memory when dropped; neither `Debug` nor an error shows it.
///
/// Its text is base58check of the 32 bytes alone, without the version that public keys have: this is what the
/// reference implementation's configuration files hold, and the one cannot be taken for the other. 64 hex digits
/// are read too.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct AuthoritySecretKey([u8; 32]);

impl AuthoritySecretKey {
    /// Makes a key of 32 bytes from a cryptographic random generator.
    ///
    /// Fails with [`KeyError::InvalidSecret`] for values outside the group, once in 2^128 tries: draw again.
    pub fn from_entropy(entropy: [u8; 32]) -> Result<Self, KeyError> {
        let key = Self(entropy);
        SecretKey::from_slice(&key.0).map_err(|_| KeyError::InvalidSecret)?.non_secure_erase();
        Ok(key)
    }

    /// The public key, to be handed to whoever connects.
    pub fn public(&self) -> AuthorityPublicKey {
        let mut keypair = self.keypair();
        let public = AuthorityPublicKey(keypair.x_only_public_key().0.serialize());
        keypair.non_secure_erase();
        public
    }

    /// The text to write to a key file, wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_check(&self.0))
    }

    /// Signs the [`tagged_hash`] of `message` (BIP340), for statements other than certificates. `entropy` is BIP340's
    /// auxiliary randomness.
    pub fn sign_tagged(&self, tag: &str, message: &[u8], entropy: &[u8; 32]) -> [u8; 64] {
        let mut keypair = self.keypair();
        let digest = Message::from_digest(tagged_hash(tag, &[message]));
        let signature = SECP256K1.sign_schnorr_with_aux_rand(&digest, &keypair, entropy);
        keypair.non_secure_erase();
        signature.serialize()
    }

    /// For signing; the caller erases it.
    pub(crate) fn keypair(&self) -> Keypair {
        Keypair::from_seckey_slice(SECP256K1, &self.0).expect("checked when the key was made")
    }
}

impl FromStr for AuthoritySecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() == 64 {
            return Self::from_entropy(*decode_hex(text)?);
        }
        let bytes = decode(text)?;
        match bytes.len() {
            32 => {
                let mut secret = Zeroizing::new([0; 32]);
                secret.copy_from_slice(&bytes);
                Self::from_entropy(*secret)
            }
            34 if bytes.starts_with(&KEY_VERSION) => Err(KeyError::PublicForSecret),
            len => Err(KeyError::Length(len)),
        }
    }
}

impl fmt::Debug for AuthoritySecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthoritySecretKey(..)")
    }
}

/// SHA-256 of the concatenated `parts` in a domain of its own (BIP340's tagged hash), so that what was hashed for one
/// purpose can never stand for another.
pub fn tagged_hash(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag = Sha256::digest(tag);
    let start = Sha256::new().chain_update(tag).chain_update(tag);
    parts.iter().fold(start, |hash, part| hash.chain_update(part)).finalize().into()
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if text.len() > MAX_TEXT {
        return Err(KeyError::Base58);
    }
    // The library's error tells which character is wrong, which for a secret key is already too much.
    decode_check(text).map(Zeroizing::new).map_err(|_| KeyError::Base58)
}

fn decode_hex(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let digit = |c: u8| char::from(c).to_digit(16).ok_or(KeyError::Hex);
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
