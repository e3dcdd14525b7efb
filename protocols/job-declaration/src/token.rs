//! Tokens: self-contained, signed statements of a Job Declarator Server.

use std::fmt;

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey, tagged_hash};

use crate::commitment::{Commitment, FIELDS, HINT};
use crate::read::Reader;

/// What a Job Declarator Server says, and to whom.
///
/// On the wire (at most 158 bytes): format (1), kind (1: allocated 1, declared 2), expiry (u32, unix seconds), id (8),
/// account tag (16), what is granted (allocated 32 bytes, declared 32 and eight hints of 4), BIP340 signature (64).
/// Integers are little-endian.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Token {
    /// Unix seconds; the token holds until then.
    pub expiry: u32,
    /// Tells it from every other.
    pub id: TokenId,
    /// Who may use it.
    pub account: AccountTag,
    /// What it is good for.
    pub grant: Grant,
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grant {
    /// From `AllocateMiningJobToken.Success`: to declare one job or, at a pool that takes coinbase-only clients, to set
    /// one.
    Allocated {
        /// [`outputs_hash`] of the `coinbase_tx_outputs` that came with it.
        outputs: [u8; 32],
    },
    /// From `DeclareMiningJob.Success`: to set this one job.
    Declared(Commitment),
}

/// Random; a token is used once.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Names an account without telling it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AccountTag([u8; 16]);

impl AccountTag {
    /// Of a `user_identifier` or `user_identity`: what follows its first `.` is the worker and does not count.
    pub fn of(identity: &[u8]) -> Self {
        let account = identity.split(|byte| *byte == b'.').next().unwrap_or_default();
        let mut tag = [0; 16];
        tag.copy_from_slice(&tagged_hash("adit/account", &[account])[..16]);
        Self(tag)
    }
}

/// Why a token does not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// Not the bytes of a token of any format.
    #[error("not a token: {0} bytes that make none")]
    Malformed(usize),
    /// Of a JDS that is newer, or not of this kind.
    #[error("token format {0} is not known, only format 1 is")]
    Format(u8),
    /// The same.
    #[error("token kind {0} is not known")]
    Kind(u8),
    /// Forged, altered, or of a JDS whose key is not among those that count here.
    #[error("not signed by a known key")]
    UnknownKey,
    /// Its time is over.
    #[error("expired {by} s ago")]
    Expired {
        /// Seconds.
        by: u32,
    },
    /// Given to another account.
    #[error("belongs to another account")]
    OtherAccount,
}

impl TokenError {
    /// The reference implementation's code for all of them, in `DeclareMiningJob.Error` as in
    /// `SetCustomMiningJob.Error`.
    pub const ERROR_CODE: &'static str = "invalid-mining-job-token";

    /// A short name, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Format(_) | Self::Kind(_) => "malformed",
            Self::UnknownKey => "unknown",
            Self::Expired { .. } => "expired",
            Self::OtherAccount => "foreign",
        }
    }
}

/// What a token says about the `coinbase_tx_outputs` of `AllocateMiningJobToken.Success`.
pub fn outputs_hash(coinbase_tx_outputs: &[u8]) -> [u8; 32] {
    tagged_hash("adit/allocated-outputs", &[coinbase_tx_outputs])
}

impl Token {
    /// The token's bytes. `entropy` is BIP340's auxiliary randomness.
    pub fn sign(&self, key: &AuthoritySecretKey, entropy: &[u8; 32]) -> Vec<u8> {
        let mut bytes = vec![FORMAT, self.kind()];
        bytes.extend(self.expiry.to_le_bytes());
        bytes.extend(self.id.0);
        bytes.extend(self.account.0);
        match &self.grant {
            Grant::Allocated { outputs } => bytes.extend(outputs),
            Grant::Declared(commitment) => {
                bytes.extend(commitment.hash);
                bytes.extend(commitment.hints.as_flattened());
            }
        }
        let signature = key.sign_tagged(SIGNATURE_TAG, &bytes, entropy);
        bytes.extend(signature);
        bytes
    }

    /// Reads a token that one of `keys` signed and that holds at `now` (unix seconds), whoever has it.
    ///
    /// # Errors
    /// [`TokenError`]; what is not signed is believed in nothing.
    pub fn verify(bytes: &[u8], keys: &[AuthorityPublicKey], now: u32) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed(bytes.len());
        let (said, signature) = bytes.split_last_chunk::<64>().ok_or(malformed)?;
        let token = Self::read(said, malformed)?;
        if !keys.iter().any(|key| key.verify_tagged(SIGNATURE_TAG, said, signature)) {
            return Err(TokenError::UnknownKey);
        }
        match now.checked_sub(token.expiry) {
            None | Some(0) => Ok(token),
            Some(by) => Err(TokenError::Expired { by }),
        }
    }

    /// Whether `identity` may use it.
    ///
    /// # Errors
    /// [`TokenError::OtherAccount`].
    pub fn check_account(&self, identity: &[u8]) -> Result<(), TokenError> {
        if self.account == AccountTag::of(identity) {
            Ok(())
        } else {
            Err(TokenError::OtherAccount)
        }
    }

    fn kind(&self) -> u8 {
        match self.grant {
            Grant::Allocated { .. } => ALLOCATED,
            Grant::Declared(_) => DECLARED,
        }
    }

    fn read(said: &[u8], malformed: TokenError) -> Result<Self, TokenError> {
        let mut reader = Reader(said);
        let [format, kind] = reader.array().ok_or(malformed)?;
        if format != FORMAT {
            return Err(TokenError::Format(format));
        }
        let mut read = || {
            let expiry = reader.u32()?;
            let id = TokenId(reader.array()?);
            let account = AccountTag(reader.array()?);
            let hash = reader.array()?;
            let grant = match kind {
                ALLOCATED => Grant::Allocated { outputs: hash },
                _ => {
                    let mut hints = [[0; HINT]; FIELDS];
                    hints.as_flattened_mut().copy_from_slice(reader.take(FIELDS * HINT)?);
                    Grant::Declared(Commitment { hash, hints })
                }
            };
            reader.is_empty().then_some(Self { expiry, id, account, grant })
        };
        match kind {
            ALLOCATED | DECLARED => read().ok_or(malformed),
            other => Err(TokenError::Kind(other)),
        }
    }
}

const FORMAT: u8 = 1;
const ALLOCATED: u8 = 1;
const DECLARED: u8 = 2;
const SIGNATURE_TAG: &str = "adit/mining-job-token";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> AuthoritySecretKey {
        AuthoritySecretKey::from_entropy([byte; 32]).unwrap()
    }

    fn token(grant: Grant) -> Token {
        Token { expiry: 1000, id: TokenId([5; 8]), account: AccountTag::of(b"miner.1"), grant }
    }

    fn grants() -> [Grant; 2] {
        let commitment = Commitment { hash: [3; 32], hints: [[1, 2, 3, 4]; FIELDS] };
        [Grant::Allocated { outputs: [7; 32] }, Grant::Declared(commitment)]
    }

    #[test]
    fn what_is_signed_comes_back() {
        for grant in grants() {
            let bytes = token(grant).sign(&key(1), &[9; 32]);
            assert!(bytes.len() <= 158);
            let keys = [key(2).public(), key(1).public()];
            assert_eq!(Token::verify(&bytes, &keys, 1000), Ok(token(grant)));
            let expired = Err(TokenError::Expired { by: 7 });
            assert_eq!(Token::verify(&bytes, &keys, 1007), expired);
            assert_eq!(Token::verify(&bytes, &keys[..1], 0), Err(TokenError::UnknownKey));
            assert_eq!(Token::verify(&bytes, &[], 0), Err(TokenError::UnknownKey));
        }
    }

    #[test]
    fn no_bit_can_be_changed() {
        for grant in grants() {
            let bytes = token(grant).sign(&key(1), &[9; 32]);
            for bit in 0..bytes.len() * 8 {
                let mut altered = bytes.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert!(Token::verify(&altered, &[key(1).public()], 0).is_err(), "{bit}");
            }
            for end in 0..bytes.len() {
                assert!(Token::verify(&bytes[..end], &[key(1).public()], 0).is_err());
            }
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let keys = [key(1).public()];
        let verify = |bytes: &[u8]| Token::verify(bytes, &keys, 0).unwrap_err();
        let bytes = token(grants()[0]).sign(&key(1), &[9; 32]);
        assert_eq!(verify(&[]), TokenError::Malformed(0));
        assert_eq!(verify(&[1; 255]), TokenError::Malformed(255));
        assert_eq!(verify(&[&[2], &bytes[1..]].concat()), TokenError::Format(2));
        assert_eq!(verify(&[&[1, 3], &bytes[2..]].concat()), TokenError::Kind(3));
        assert_eq!(verify(&7u64.to_le_bytes()).label(), "malformed");
    }

    #[test]
    fn accounts_are_named_by_what_is_before_the_worker() {
        let token = token(grants()[0]);
        for identity in [&b"miner"[..], b"miner.", b"miner.2", b"miner.a.b"] {
            assert_eq!(token.check_account(identity), Ok(()));
        }
        for identity in [&b"other"[..], b"", b".miner", b"miner1", b"\xff\0"] {
            assert_eq!(token.check_account(identity), Err(TokenError::OtherAccount));
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..255), kind in 1..3u8) {
            let keys = [key(1).public()];
            prop_assert!(Token::verify(&bytes, &keys, 0).is_err());
            prop_assert!(Token::verify(&[&[1, kind][..], &bytes].concat(), &keys, 0).is_err());
        }

        #[test]
        fn any_token(expiry: u32, id: [u8; 8], who: Vec<u8>, outputs: [u8; 32], hints: [[u8; HINT]; FIELDS], declared: bool) {
            let grant = if declared {
                Grant::Declared(Commitment { hash: outputs, hints })
            } else {
                Grant::Allocated { outputs }
            };
            let token = Token { expiry, id: TokenId(id), account: AccountTag::of(&who), grant };
            let bytes = token.sign(&key(1), &outputs);
            prop_assert_eq!(Token::verify(&bytes, &[key(1).public()], expiry), Ok(token));
        }
    }
}
