//! What the authority says about a server's static key (spec 4.5.3).

use secp256k1::schnorr::Signature;
use secp256k1::{Message, SECP256K1, XOnlyPublicKey};
use sha2::{Digest, Sha256};

use crate::keys::{AuthorityPublicKey, AuthoritySecretKey};

/// `SIGNATURE_NOISE_MESSAGE`: the server sends it sealed in the handshake's second message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// Format of the certificate; [`Certificate::VERSION`] is the only one.
    pub version: u16,
    /// Unix time in seconds.
    pub valid_from: u32,
    /// Unix time in seconds, itself still valid.
    pub not_valid_after: u32,
    /// BIP340, by the authority, over the SHA-256 of the fields above and the server's x-only static key.
    pub signature: [u8; 64],
}

/// Why a server's certificate is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// The format is not known, so neither is what was signed.
    #[error("the server's certificate has version {0}; only version 0 is known")]
    Version(u16),
    /// The signature is not that of the expected authority: another server, or another operator's key was configured.
    #[error("the server's certificate is not signed by the expected authority {expected}")]
    WrongAuthority {
        /// The key that should have signed.
        expected: AuthorityPublicKey,
    },
    /// `valid_from` is to come: the server's clock is ahead or ours is behind.
    #[error(
        "the server's certificate is not valid before another {by} s (clock tolerance {tolerance} s): compare the clocks"
    )]
    NotYetValid {
        /// Seconds from now to `valid_from`.
        by: u32,
        /// Seconds that were allowed.
        tolerance: u32,
    },
    /// `not_valid_after` is over.
    #[error(
        "the server's certificate expired {by} s ago (clock tolerance {tolerance} s): compare the clocks"
    )]
    Expired {
        /// Seconds from `not_valid_after` to now.
        by: u32,
        /// Seconds that were allowed.
        tolerance: u32,
    },
}

impl Certificate {
    /// The only format there is.
    pub const VERSION: u16 = 0;
    /// Bytes on the wire.
    pub const LEN: usize = 10 + 64;

    /// Certifies the server's x-only static key. `entropy` is BIP340's auxiliary randomness.
    pub fn sign(
        authority: &AuthoritySecretKey,
        static_key: &[u8; 32],
        valid_from: u32,
        not_valid_after: u32,
        entropy: &[u8; 32],
    ) -> Self {
        let version = Self::VERSION;
        let mut certificate = Self { version, valid_from, not_valid_after, signature: [0; 64] };
        let mut keypair = authority.keypair();
        let digest = certificate.signed_digest(static_key);
        certificate.signature =
            SECP256K1.sign_schnorr_with_aux_rand(&digest, &keypair, entropy).serialize();
        keypair.non_secure_erase();
        certificate
    }

    /// Whether `authority` vouches for this x-only static key at `now` (unix seconds), give or take `tolerance` seconds.
    ///
    /// Times are looked at only once they are known to be signed.
    pub fn verify(
        &self,
        authority: &AuthorityPublicKey,
        static_key: &[u8; 32],
        now: u32,
        tolerance: u32,
    ) -> Result<(), CertificateError> {
        self.verify_version()?;
        let wrong = |_| CertificateError::WrongAuthority { expected: *authority };
        let key = XOnlyPublicKey::from_slice(authority.as_bytes()).map_err(wrong)?;
        let signature = Signature::from_slice(&self.signature).map_err(wrong)?;
        SECP256K1
            .verify_schnorr(&signature, &self.signed_digest(static_key), &key)
            .map_err(wrong)?;
        let early = self.valid_from.saturating_sub(now);
        let late = now.saturating_sub(self.not_valid_after);
        if early > tolerance {
            return Err(CertificateError::NotYetValid { by: early, tolerance });
        }
        if late > tolerance {
            return Err(CertificateError::Expired { by: late, tolerance });
        }
        Ok(())
    }

    /// What can be checked without knowing the authority.
    pub(super) fn verify_version(&self) -> Result<(), CertificateError> {
        if self.version == Self::VERSION {
            Ok(())
        } else {
            Err(CertificateError::Version(self.version))
        }
    }

    /// Encodes the certificate, integers little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..10].copy_from_slice(&self.signed_fields());
        bytes[10..].copy_from_slice(&self.signature);
        bytes
    }

    /// Reads a certificate; all bytes are one, whether it is good is for [`Certificate::verify`].
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [v0, v1, f0, f1, f2, f3, a0, a1, a2, a3, signature @ ..] = *bytes;
        Self {
            version: u16::from_le_bytes([v0, v1]),
            valid_from: u32::from_le_bytes([f0, f1, f2, f3]),
            not_valid_after: u32::from_le_bytes([a0, a1, a2, a3]),
            signature,
        }
    }

    fn signed_fields(&self) -> [u8; 10] {
        let [v0, v1] = self.version.to_le_bytes();
        let [f0, f1, f2, f3] = self.valid_from.to_le_bytes();
        let [a0, a1, a2, a3] = self.not_valid_after.to_le_bytes();
        [v0, v1, f0, f1, f2, f3, a0, a1, a2, a3]
    }

    fn signed_digest(&self, static_key: &[u8; 32]) -> Message {
        let digest = Sha256::new().chain_update(self.signed_fields()).chain_update(static_key);
        Message::from_digest(digest.finalize().into())
    }
}
