//! The encrypted connection (spec chapter 4): `Noise_NX_Secp256k1+EllSwift_ChaChaPoly_SHA256`, the server's
//! certificate, and sealed frames.
//!
//! ```
//! use adit_sv2::frame::Header;
//! use adit_sv2::keys::AuthoritySecretKey;
//! use adit_sv2::noise::{Initiator, Opened, Responder, ResponderIdentity, Validity};
//!
//! # let random = |seed: u8| -> [u8; 32] { [seed; 32] };
//! let now = 1_800_000_000;
//! let authority = AuthoritySecretKey::from_entropy(random(1))?;
//! let expected = authority.public();
//! let identity = ResponderIdentity::new(authority, Validity::default(), now, [random(2), random(3), random(4)]);
//!
//! let (initiator, act1) = Initiator::new(Some(expected), [random(5), random(6)]);
//! let (act2, mut to_client, _) = Responder::respond(&identity, &act1, [random(7), random(8)])?;
//! let (_, mut from_server, server) = initiator.finish(&act2, now, 10)?;
//! assert_eq!(server.authority, Some(expected));
//!
//! let mut wire = Vec::new();
//! to_client.seal(&[0, 0, 0x71, 2, 0, 0, 0xab, 0xcd], &mut wire)?;
//! match from_server.next(&mut wire, |_: &Header| 1024)? {
//!     Opened::Frame { payload, .. } => assert_eq!(payload, [0xab, 0xcd]),
//!     Opened::Incomplete { .. } => unreachable!(),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod certificate;
mod handshake;
mod identity;
mod primitives;
mod transport;

pub use certificate::{Certificate, CertificateError};
pub use handshake::{HandshakeError, Initiator, Responder, ServerInfo};
pub use identity::{ResponderIdentity, Validity};
pub use transport::{OpenError, Opened, Opener, SealError, Sealer, sealed_len};

/// Bytes of the first handshake message, initiator to responder: an ElligatorSwift key.
pub const ACT1_LEN: usize = ELLSWIFT_LEN;
/// Bytes of the second handshake message, responder to initiator: a key, a sealed key, a sealed certificate.
///
/// The sum in spec 4.5.2, 170, leaves out the first of them.
pub const ACT2_LEN: usize = ELLSWIFT_LEN + ELLSWIFT_LEN + TAG_LEN + Certificate::LEN + TAG_LEN;
/// Bytes of a public key in the handshake (BIP324).
pub const ELLSWIFT_LEN: usize = 64;
/// Bytes that sealing adds to a block.
pub const TAG_LEN: usize = 16;
/// Bytes of a sealed frame header.
pub const SEALED_HEADER_LEN: usize = crate::frame::Header::LEN + TAG_LEN;
/// Bytes of a full sealed block, the most a Noise message can have.
pub const MAX_SEALED_BLOCK: usize = 65_535;
/// Plaintext bytes of a full block; longer payloads take several blocks.
pub const MAX_BLOCK: usize = MAX_SEALED_BLOCK - TAG_LEN;

#[cfg(test)]
mod tests;
