//! The curve, the cipher and the hash, as `noise-protocol` wants them.

use std::marker::PhantomData;

use noise_protocol::{Cipher, DH, Hash, U8Array};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use secp256k1::ellswift::{ElligatorSwift, ElligatorSwiftParty};
use secp256k1::{SECP256K1, SecretKey};
use sha2::Digest;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{ELLSWIFT_LEN, TAG_LEN};

/// Builds the cipher of a key; done once per direction and connection.
pub(super) fn aead(key: &Secret32) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, &key.0).expect("the algorithm takes 32 bytes"),
    )
}

/// The nonce of message `n`: 32 zero bits, then `n` little-endian (spec 4.4.1).
#[inline]
pub(super) fn nonce(n: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&n.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// A key, hash or shared secret that is wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret32(pub(super) [u8; 32]);

/// A secret key and its ElligatorSwift encoding, 32 and 64 bytes, wiped when dropped.
///
/// A key has many encodings and both ends hash the one that was sent, so it is made once and stays with its key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct KeyPair([u8; KeyPair::LEN]);

impl KeyPair {
    const LEN: usize = 32 + ELLSWIFT_LEN;

    /// Makes a key of 32 random bytes, and its encoding with 32 others.
    ///
    /// Values that are no key, zero or not below the group order (once in 2^128), are hashed until they are.
    pub(super) fn from_entropy(mut secret: [u8; 32], mut encoding: [u8; 32]) -> Self {
        let mut key = loop {
            match SecretKey::from_slice(&secret) {
                Ok(key) => break key,
                Err(_) => secret = sha2::Sha256::digest(secret).into(),
            }
        };
        let ellswift = ElligatorSwift::from_seckey(SECP256K1, key, Some(encoding));
        let mut pair = Self::new();
        pair.0[..32].copy_from_slice(&secret);
        pair.0[32..].copy_from_slice(&ellswift.to_array());
        key.non_secure_erase();
        secret.zeroize();
        encoding.zeroize();
        pair
    }

    /// What is sent.
    pub(super) fn ellswift(&self) -> [u8; ELLSWIFT_LEN] {
        let mut bytes = [0; ELLSWIFT_LEN];
        bytes.copy_from_slice(&self.0[32..]);
        bytes
    }
}

/// The x coordinate that an ElligatorSwift encoding stands for; any 64 bytes stand for one (BIP324).
pub(super) fn x_only(ellswift: &[u8; ELLSWIFT_LEN]) -> [u8; 32] {
    let point = secp256k1::PublicKey::from_ellswift(ElligatorSwift::from_array(*ellswift));
    point.x_only_public_key().0.serialize()
}

/// Which end of the connection computes: BIP324 hashes the initiator's encoding first.
pub(super) trait Role {
    /// Party A is the initiator.
    const PARTY: ElligatorSwiftParty;
}

/// The end that dials.
pub(super) enum AsInitiator {}
/// The end that was dialled.
pub(super) enum AsResponder {}

impl Role for AsInitiator {
    const PARTY: ElligatorSwiftParty = ElligatorSwiftParty::A;
}

impl Role for AsResponder {
    const PARTY: ElligatorSwiftParty = ElligatorSwiftParty::B;
}

/// BIP324's x-only key agreement (spec 4.4.2, `ECDH`).
pub(super) struct EllSwift<R>(PhantomData<R>);

impl<R: Role> DH for EllSwift<R> {
    type Key = KeyPair;
    type Pubkey = [u8; ELLSWIFT_LEN];
    type Output = Secret32;

    fn name() -> &'static str {
        "Secp256k1+EllSwift"
    }

    fn genkey() -> KeyPair {
        unreachable!("every handshake is given its ephemeral key")
    }

    fn pubkey(key: &KeyPair) -> [u8; ELLSWIFT_LEN] {
        key.ellswift()
    }

    fn dh(ours: &KeyPair, theirs: &[u8; ELLSWIFT_LEN]) -> Result<Secret32, ()> {
        let mut secret = SecretKey::from_slice(&ours.0[..32]).map_err(drop)?;
        let ours = ElligatorSwift::from_array(ours.ellswift());
        let theirs = ElligatorSwift::from_array(*theirs);
        let (a, b) = match R::PARTY {
            ElligatorSwiftParty::A => (ours, theirs),
            ElligatorSwiftParty::B => (theirs, ours),
        };
        let shared = ElligatorSwift::shared_secret(a, b, secret, R::PARTY, None);
        secret.non_secure_erase();
        Ok(Secret32(shared.to_secret_bytes()))
    }
}

/// ChaCha20-Poly1305 (spec 4.3.3), for the handshake's two sealed fields.
pub(super) enum ChaChaPoly {}

impl Cipher for ChaChaPoly {
    type Key = Secret32;

    fn name() -> &'static str {
        "ChaChaPoly"
    }

    fn encrypt(key: &Secret32, n: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) {
        out[..plaintext.len()].copy_from_slice(plaintext);
        Self::encrypt_in_place(key, n, ad, out, plaintext.len());
    }

    fn encrypt_in_place(
        key: &Secret32,
        n: u64,
        ad: &[u8],
        in_out: &mut [u8],
        plaintext_len: usize,
    ) -> usize {
        let (text, rest) = in_out.split_at_mut(plaintext_len);
        let tag = aead(key)
            .seal_in_place_separate_tag(nonce(n), Aad::from(ad), text)
            .expect("a handshake field is far below the cipher's 256 GB");
        rest[..TAG_LEN].copy_from_slice(tag.as_ref());
        plaintext_len + TAG_LEN
    }

    fn decrypt(
        key: &Secret32,
        n: u64,
        ad: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<(), ()> {
        let mut buffer = [0; super::ACT2_LEN];
        let buffer = buffer.get_mut(..ciphertext.len()).ok_or(())?;
        buffer.copy_from_slice(ciphertext);
        let len = Self::decrypt_in_place(key, n, ad, buffer, ciphertext.len())?;
        out.copy_from_slice(&buffer[..len]);
        Ok(())
    }

    fn decrypt_in_place(
        key: &Secret32,
        n: u64,
        ad: &[u8],
        in_out: &mut [u8],
        ciphertext_len: usize,
    ) -> Result<usize, ()> {
        aead(key)
            .open_in_place(nonce(n), Aad::from(ad), &mut in_out[..ciphertext_len])
            .map(|plaintext| plaintext.len())
            .map_err(drop)
    }
}

/// SHA-256 (spec 4.3.2).
#[derive(Default)]
pub(super) struct Sha256(sha2::Sha256);

impl Hash for Sha256 {
    type Block = [u8; 64];
    type Output = Secret32;

    fn name() -> &'static str {
        "SHA256"
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self) -> Secret32 {
        Secret32(std::mem::take(&mut self.0).finalize().into())
    }
}

macro_rules! impl_u8_array {
    ($name:ident, $len:expr) => {
        impl U8Array for $name {
            fn new() -> Self {
                Self([0; $len])
            }

            fn new_with(byte: u8) -> Self {
                Self([byte; $len])
            }

            fn from_slice(bytes: &[u8]) -> Self {
                let mut array = Self::new();
                array.0.copy_from_slice(bytes);
                array
            }

            fn len() -> usize {
                $len
            }

            fn as_slice(&self) -> &[u8] {
                &self.0
            }

            fn as_mut(&mut self) -> &mut [u8] {
                &mut self.0
            }
        }
    };
}

impl_u8_array!(Secret32, 32);
impl_u8_array!(KeyPair, KeyPair::LEN);
