//! The two handshake messages (spec 4.5).

use noise_protocol::patterns::noise_nx;
use noise_protocol::{ErrorKind, HandshakeState, U8Array};

use super::certificate::{Certificate, CertificateError};
use super::primitives::{AsInitiator, AsResponder, ChaChaPoly, EllSwift, KeyPair, Sha256, x_only};
use super::transport::{Opener, Sealer};
use super::{ACT1_LEN, ACT2_LEN, ResponderIdentity};
use crate::keys::AuthorityPublicKey;

/// Why a handshake failed. The connection is of no use any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// The second message was not made in answer to our first: damaged, or the other end speaks something else.
    #[error("the server's handshake message does not decrypt")]
    Decrypt,
    /// The key agreement yielded no key. No message can cause it.
    #[error("the key agreement failed")]
    KeyAgreement,
    /// The server is not who it should be.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The end that dialled, waiting for the second message.
pub struct Initiator {
    state: HandshakeState<EllSwift<AsInitiator>, ChaChaPoly, Sha256>,
    expected: Option<AuthorityPublicKey>,
}

/// Who answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerInfo {
    /// The authority that signed the certificate; none if none was expected, and then nothing is known about the server.
    pub authority: Option<AuthorityPublicKey>,
    /// The server's x-only static key.
    pub static_key: [u8; 32],
    /// The certificate; without an authority only its version was looked at.
    pub certificate: Certificate,
}

impl Initiator {
    /// Begins a handshake: returns what to send first.
    ///
    /// Without an `expected` authority any server is accepted. `entropy` comes from a cryptographic random generator
    /// and serves one handshake: the ephemeral secret, its encoding's choice.
    pub fn new(
        expected: Option<AuthorityPublicKey>,
        entropy: [[u8; 32]; 2],
    ) -> (Self, [u8; ACT1_LEN]) {
        let ephemeral = ephemeral(entropy);
        let mut state =
            HandshakeState::new(noise_nx(), true, [], None, Some(ephemeral), None, None);
        let mut act1 = [0; ACT1_LEN];
        state.write_message(&[], &mut act1).expect("the first message takes no key agreement");
        (Self { state, expected }, act1)
    }

    /// Reads the second message and checks the certificate at `now` (unix seconds), give or take `tolerance` seconds.
    pub fn finish(
        mut self,
        act2: &[u8; ACT2_LEN],
        now: u32,
        tolerance: u32,
    ) -> Result<(Sealer, Opener, ServerInfo), HandshakeError> {
        let mut certificate = [0; Certificate::LEN];
        self.state.read_message(act2, &mut certificate).map_err(from_noise)?;
        let static_key = x_only(&self.state.get_rs().ok_or(HandshakeError::Decrypt)?);
        let certificate = Certificate::parse(&certificate);
        match &self.expected {
            Some(authority) => certificate.verify(authority, &static_key, now, tolerance)?,
            None => certificate.verify_version()?,
        }
        let (sends, receives) = self.state.get_ciphers();
        let server = ServerInfo { authority: self.expected, static_key, certificate };
        Ok((Sealer::new(sends.extract().0), Opener::new(receives.extract().0), server))
    }
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// The end that was dialled. It answers at once, so it keeps no state.
#[derive(Clone, Copy, Debug)]
pub struct Responder;

impl Responder {
    /// Answers a first message: returns what to send back, and the connection's two directions.
    ///
    /// Any 64 bytes are a key (BIP324), so an answer to garbage goes out and the peer's next bytes will not decrypt.
    /// `entropy` comes from a cryptographic random generator and serves one handshake: the ephemeral secret, its
    /// encoding's choice.
    pub fn respond(
        identity: &ResponderIdentity,
        act1: &[u8; ACT1_LEN],
        entropy: [[u8; 32]; 2],
    ) -> Result<([u8; ACT2_LEN], Sealer, Opener), HandshakeError> {
        let ephemeral = ephemeral(entropy);
        let static_key = U8Array::clone(identity.static_key());
        let mut state = HandshakeState::<EllSwift<AsResponder>, ChaChaPoly, Sha256>::new(
            noise_nx(),
            false,
            [],
            Some(static_key),
            Some(ephemeral),
            None,
            None,
        );
        state.read_message(act1, &mut []).map_err(from_noise)?;
        let mut act2 = [0; ACT2_LEN];
        state.write_message(&identity.certificate().to_bytes(), &mut act2).map_err(from_noise)?;
        let (receives, sends) = state.get_ciphers();
        Ok((act2, Sealer::new(sends.extract().0), Opener::new(receives.extract().0)))
    }
}

fn ephemeral([secret, encoding]: [[u8; 32]; 2]) -> KeyPair {
    KeyPair::from_entropy(secret, encoding)
}

fn from_noise(error: noise_protocol::Error) -> HandshakeError {
    match error.kind() {
        ErrorKind::Decryption | ErrorKind::TooShort => HandshakeError::Decrypt,
        ErrorKind::DH | ErrorKind::NeedPSK => HandshakeError::KeyAgreement,
    }
}
