//! Handshakes and sealed frames against two implementations that are not ours: the reference implementation's
//! `noise_sv2` and `codec_sv2`, and the general Noise library `snow` with the curve plugged in.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_sv2::frame::Header;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Certificate, Initiator, MAX_BLOCK, Opened, Opener, Responder,
    ResponderIdentity, Sealer, Validity, sealed_len,
};
use sha2::{Digest, Sha256};

/// Handshakes in each of the four combinations.
const HANDSHAKES: u64 = 200;

/// Reproducible stand-in for random bytes.
fn entropy<const N: usize>(seed: u64) -> [[u8; 32]; N] {
    std::array::from_fn(|i| {
        let seed = Sha256::new().chain_update(seed.to_le_bytes());
        seed.chain_update([i as u8]).finalize().into()
    })
}

fn authority() -> AuthoritySecretKey {
    authority_bytes().1
}

/// The secret in the clear too, for the other implementations.
fn authority_bytes() -> ([u8; 32], AuthoritySecretKey) {
    let [secret] = entropy(77);
    (secret, AuthoritySecretKey::from_entropy(secret).unwrap())
}

fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32
}

fn frame(payload_len: usize, seed: u64) -> Vec<u8> {
    let header = Header {
        extension_type: 0,
        channel_msg: true,
        msg_type: 0x1f,
        msg_length: payload_len as u32,
    };
    let payload = (0..payload_len).map(|i| (i as u64 * 31 + seed) as u8);
    header.to_bytes().into_iter().chain(payload).collect()
}

fn open(opener: &mut Opener, wire: &mut [u8]) -> Vec<u8> {
    let len = wire.len();
    match opener.next(wire, |_| usize::MAX).unwrap() {
        Opened::Frame { header, payload, consumed } => {
            assert_eq!(consumed, len);
            [&header.to_bytes()[..], payload].concat()
        }
        incomplete => panic!("{incomplete:?} of {len}"),
    }
}

/// The reference implementation's end of a connection.
mod reference {
    use codec_sv2::{
        Decrypted, Handshake, InitiatorSent, NoiseDecoder, NoiseEncoder, SerializedFrame,
        Transport, TransportDecryptState, TransportEncryptState,
    };

    use super::*;

    pub(super) struct End {
        encoder: NoiseEncoder,
        decoder: NoiseDecoder,
        encrypt: TransportEncryptState,
        decrypt: Option<TransportDecryptState>,
    }

    impl End {
        fn new(transport: Transport) -> Self {
            let (encrypt, decrypt) = transport.split();
            Self {
                encoder: NoiseEncoder::new(),
                decoder: NoiseDecoder::new(),
                encrypt,
                decrypt: Some(decrypt),
            }
        }

        pub(super) fn seal(&mut self, frame: &[u8]) -> Vec<u8> {
            let frame = SerializedFrame::from_bytes(frame.to_vec()).unwrap();
            self.encoder.encode_transport(frame, &mut self.encrypt).unwrap()
        }

        /// Opens the one frame that `wire` is.
        pub(super) fn open(&mut self, mut wire: &[u8]) -> Vec<u8> {
            loop {
                let part = self.decoder.writable_len().min(wire.len());
                self.decoder.writable()[..part].copy_from_slice(&wire[..part]);
                wire = &wire[part..];
                let state = self.decrypt.take().expect("given back while frames decrypt");
                match self.decoder.next_transport_frame(state).unwrap() {
                    Decrypted::Frame(frame, state) => {
                        assert!(wire.is_empty());
                        self.decrypt = Some(state);
                        return frame.into_bytes();
                    }
                    Decrypted::Incomplete(_, state) => self.decrypt = Some(state),
                }
            }
        }
    }

    pub(super) fn respond(act1: [u8; ACT1_LEN]) -> ([u8; ACT2_LEN], End) {
        let (secret, authority) = authority_bytes();
        let public = *authority.public().as_bytes();
        let validity = Duration::from_secs(3600);
        let responder =
            noise_sv2::Responder::from_authority_kp(&public, &secret, validity).unwrap();
        let (act2, transport) = Handshake::responder(responder).step_1(act1).unwrap();
        (act2.payload().try_into().unwrap(), End::new(transport))
    }

    pub(super) fn initiate(
        expected: Option<[u8; 32]>,
    ) -> ([u8; ACT1_LEN], Handshake<InitiatorSent>) {
        let initiator = match expected {
            Some(key) => noise_sv2::Initiator::from_raw_k(key).unwrap(),
            None => noise_sv2::Initiator::without_pk().unwrap(),
        };
        let (act1, sent) = Handshake::initiator(initiator).step_0().unwrap();
        (act1.payload().try_into().unwrap(), sent)
    }

    pub(super) fn finish(
        sent: Handshake<InitiatorSent>,
        act2: [u8; ACT2_LEN],
        now: u32,
    ) -> Result<End, codec_sv2::Error> {
        sent.step_2_with_now(act2, now).map(End::new)
    }
}

/// Sizes of payloads to exchange: every handshake takes the small ones, one takes all.
const SMALL: [usize; 4] = [0, 1, 40, 400];
const LARGE: [usize; 7] = [
    MAX_BLOCK - 1,
    MAX_BLOCK,
    MAX_BLOCK + 1,
    2 * MAX_BLOCK,
    2 * MAX_BLOCK + 1,
    1_000_000,
    0xff_ffff,
];

fn exchange_with_reference(
    sealer: &mut Sealer,
    opener: &mut Opener,
    theirs: &mut reference::End,
    seed: u64,
) {
    let large: &[usize] = if seed == 0 { &LARGE } else { &[] };
    for &len in SMALL.iter().chain(large) {
        let (plain, mut wire) = (frame(len, seed), Vec::new());
        sealer.seal(&plain, &mut wire).unwrap();
        assert!(theirs.open(&wire) == plain, "{len} bytes to them");
        let mut wire = theirs.seal(&plain);
        assert_eq!(wire.len(), sealed_len(len));
        assert!(open(opener, &mut wire) == plain, "{len} bytes from them");
    }
}

#[test]
fn initiator_against_the_reference() {
    let expected = Some(authority().public());
    for seed in 0..HANDSHAKES {
        let (initiator, act1) = Initiator::new(expected, entropy(seed));
        let (act2, mut theirs) = reference::respond(act1);
        let (mut sealer, mut opener, server) = initiator.finish(&act2, now(), 10).unwrap();
        assert_eq!(server.authority, expected);
        assert_eq!(server.certificate.not_valid_after - server.certificate.valid_from, 3600);
        exchange_with_reference(&mut sealer, &mut opener, &mut theirs, seed);
    }
}

#[test]
fn responder_against_the_reference() {
    let now = now();
    let identity = ResponderIdentity::new(authority(), Validity::default(), now, entropy(1));
    for seed in 0..HANDSHAKES {
        let expected = (seed % 2 == 0).then(|| *identity.authority().as_bytes());
        let (act1, sent) = reference::initiate(expected);
        let (act2, mut sealer, mut opener) =
            Responder::respond(&identity, &act1, entropy(seed)).unwrap();
        let mut theirs = reference::finish(sent, act2, now).unwrap();
        exchange_with_reference(&mut sealer, &mut opener, &mut theirs, seed);
    }
}

#[test]
fn the_reference_refuses_what_we_would_refuse() {
    let now = now();
    let identity = ResponderIdentity::new(authority(), Validity::default(), now, entropy(1));
    let finish = |expected, now| {
        let (act1, sent) = reference::initiate(Some(expected));
        let (act2, ..) = Responder::respond(&identity, &act1, entropy(2)).unwrap();
        reference::finish(sent, act2, now).is_ok()
    };
    let ours = *identity.authority().as_bytes();
    let other = AuthoritySecretKey::from_entropy(entropy::<1>(3)[0]).unwrap().public();
    assert!(finish(ours, now));
    assert!(!finish(*other.as_bytes(), now));
    // Its own tolerance is 10 s; the rest of a slow clock is covered by our backdating.
    assert!(finish(ours, now - 300));
    assert!(!finish(ours, now - 311));
    assert!(finish(ours, now + 3600));
    assert!(!finish(ours, now + 3611));
}

/// `snow` as either end. Its cipher and hash are its own; the curve is libsecp256k1 again, but the transcript, the key
/// schedule and the order of things are not ours.
mod general {
    use secp256k1::ellswift::{ElligatorSwift, ElligatorSwiftParty};
    use secp256k1::{SECP256K1, SecretKey};
    use snow::params::{BaseChoice, CipherChoice, DHChoice, HashChoice, NoiseParams};
    use snow::resolvers::{CryptoResolver, DefaultResolver};
    use snow::types::{Cipher, Dh, Hash, Random};

    use super::*;

    const NAME: &str = "Noise_NX_Secp256k1+EllSwift_ChaChaPoly_SHA256";

    struct Resolver(ElligatorSwiftParty);

    impl CryptoResolver for Resolver {
        fn resolve_rng(&self) -> Option<Box<dyn Random>> {
            Some(Box::new(NoRandom))
        }

        fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
            Some(Box::new(EllSwift { party: self.0, secret: [0; 32], public: [0; 64] }))
        }

        fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
            DefaultResolver.resolve_hash(choice)
        }

        fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
            DefaultResolver.resolve_cipher(choice)
        }
    }

    struct NoRandom;

    impl Random for NoRandom {
        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), snow::Error> {
            panic!("all keys are given")
        }
    }

    struct EllSwift {
        party: ElligatorSwiftParty,
        secret: [u8; 32],
        public: [u8; 64],
    }

    impl Dh for EllSwift {
        fn name(&self) -> &'static str {
            "Secp256k1+EllSwift"
        }

        fn pub_len(&self) -> usize {
            64
        }

        fn priv_len(&self) -> usize {
            32
        }

        fn dh_len(&self) -> usize {
            32
        }

        fn set(&mut self, secret: &[u8]) {
            self.secret = secret.try_into().unwrap();
            let key = SecretKey::from_slice(secret).unwrap();
            self.public = ElligatorSwift::from_seckey(SECP256K1, key, None).to_array();
        }

        fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
            panic!("all keys are given")
        }

        fn pubkey(&self) -> &[u8] {
            &self.public
        }

        fn privkey(&self) -> &[u8] {
            &self.secret
        }

        fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
            let ours = ElligatorSwift::from_array(self.public);
            let theirs = ElligatorSwift::from_array(theirs[..64].try_into().unwrap());
            let (a, b) = match self.party {
                ElligatorSwiftParty::A => (ours, theirs),
                ElligatorSwiftParty::B => (theirs, ours),
            };
            let key = SecretKey::from_slice(&self.secret).unwrap();
            let shared = ElligatorSwift::shared_secret(a, b, key, self.party, None);
            out[..32].copy_from_slice(shared.as_secret_bytes());
            Ok(())
        }
    }

    fn builder<'k>(party: ElligatorSwiftParty) -> snow::Builder<'k> {
        let params = NoiseParams::new(
            NAME.into(),
            BaseChoice::Noise,
            "NX".parse().unwrap(),
            DHChoice::Curve25519, // not looked at: the resolver has one curve
            CipherChoice::ChaChaPoly,
            HashChoice::SHA256,
        );
        snow::Builder::with_resolver(params, Box::new(Resolver(party)))
    }

    pub(super) fn initiate(ephemeral: &[u8; 32]) -> ([u8; ACT1_LEN], snow::HandshakeState) {
        let mut state = builder(ElligatorSwiftParty::A)
            .fixed_ephemeral_key_for_testing_only(ephemeral)
            .build_initiator()
            .unwrap();
        // It wants room for a tag although this message has none.
        let mut act1 = [0; ACT1_LEN + 16];
        assert_eq!(state.write_message(&[], &mut act1).unwrap(), ACT1_LEN);
        (*act1.first_chunk().unwrap(), state)
    }

    /// The x-only static key, the certificate, and the connection.
    pub(super) fn finish(
        mut state: snow::HandshakeState,
        act2: &[u8; ACT2_LEN],
    ) -> ([u8; 32], Certificate, snow::TransportState) {
        let mut certificate = [0; Certificate::LEN];
        assert_eq!(state.read_message(act2, &mut certificate).unwrap(), Certificate::LEN);
        let key: [u8; 64] = state.get_remote_static().unwrap().try_into().unwrap();
        (
            x_only(&ElligatorSwift::from_array(key)),
            Certificate::parse(&certificate),
            state.into_transport_mode().unwrap(),
        )
    }

    pub(super) fn respond(
        act1: &[u8; ACT1_LEN],
        [ephemeral, static_key]: &[[u8; 32]; 2],
        now: u32,
    ) -> ([u8; ACT2_LEN], snow::TransportState) {
        let mut state = builder(ElligatorSwiftParty::B)
            .fixed_ephemeral_key_for_testing_only(ephemeral)
            .local_private_key(static_key)
            .unwrap()
            .build_responder()
            .unwrap();
        assert_eq!(state.read_message(act1, &mut []).unwrap(), 0);
        let public =
            SecretKey::from_slice(static_key).unwrap().x_only_public_key(SECP256K1).0.serialize();
        let certificate = Certificate::sign(&authority(), &public, now, now + 1, &[3; 32]);
        let mut act2 = [0; ACT2_LEN];
        let len = state.write_message(&certificate.to_bytes(), &mut act2).unwrap();
        assert_eq!(len, ACT2_LEN);
        (act2, state.into_transport_mode().unwrap())
    }

    fn x_only(ellswift: &ElligatorSwift) -> [u8; 32] {
        secp256k1::PublicKey::from_ellswift(*ellswift).x_only_public_key().0.serialize()
    }

    /// Seals as spec 4.6 says, in Noise messages of this library.
    pub(super) fn seal(state: &mut snow::TransportState, frame: &[u8]) -> Vec<u8> {
        let (header, payload) = frame.split_at(Header::LEN);
        let mut wire = Vec::new();
        for block in std::iter::once(header).chain(payload.chunks(65_519)) {
            let mut sealed = vec![0; block.len() + 16];
            assert_eq!(state.write_message(block, &mut sealed).unwrap(), sealed.len());
            wire.extend_from_slice(&sealed);
        }
        wire
    }

    pub(super) fn open(state: &mut snow::TransportState, wire: &[u8]) -> Vec<u8> {
        let (header, payload) = wire.split_at(22);
        let mut frame = Vec::new();
        for block in std::iter::once(header).chain(payload.chunks(65_535)) {
            let mut plain = vec![0; block.len()];
            let len = state.read_message(block, &mut plain).unwrap();
            frame.extend_from_slice(&plain[..len]);
        }
        frame
    }
}

fn exchange_with_general(
    sealer: &mut Sealer,
    opener: &mut Opener,
    theirs: &mut snow::TransportState,
    seed: u64,
) {
    let large: &[usize] = if seed == 0 { &LARGE[..6] } else { &[] };
    for &len in SMALL.iter().chain(large) {
        let (plain, mut wire) = (frame(len, seed), Vec::new());
        sealer.seal(&plain, &mut wire).unwrap();
        assert!(general::open(theirs, &wire) == plain, "{len} bytes to snow");
        assert!(open(opener, &mut general::seal(theirs, &plain)) == plain, "{len} bytes from snow");
    }
}

#[test]
fn initiator_against_snow() {
    let expected = authority().public();
    for seed in 0..HANDSHAKES {
        let (initiator, act1) = Initiator::new(Some(expected), entropy(seed));
        let (act2, mut theirs) = general::respond(&act1, &entropy(seed + 10_000), now());
        let (mut sealer, mut opener, _) = initiator.finish(&act2, now(), 10).unwrap();
        exchange_with_general(&mut sealer, &mut opener, &mut theirs, seed);
    }
}

#[test]
fn responder_against_snow() {
    let now = now();
    let identity = ResponderIdentity::new(authority(), Validity::default(), now, entropy(1));
    for seed in 0..HANDSHAKES {
        let (act1, state) = general::initiate(&entropy::<1>(seed + 10_000)[0]);
        let (act2, mut sealer, mut opener) =
            Responder::respond(&identity, &act1, entropy(seed)).unwrap();
        let (static_key, certificate, mut theirs) = general::finish(state, &act2);
        assert_eq!(&certificate, identity.certificate());
        certificate.verify(&identity.authority(), &static_key, now, 0).unwrap();
        exchange_with_general(&mut sealer, &mut opener, &mut theirs, seed);
    }
}
