use proptest::prelude::*;
use sha2::Digest;

use super::*;
use crate::frame::Header;
use crate::keys::{AuthorityPublicKey, AuthoritySecretKey};

const NOW: u32 = 1_800_000_000;
const VALIDITY: Validity = Validity { seconds: 3600, backdate: 300 };

fn entropy<const N: usize>(seed: u64) -> [[u8; 32]; N] {
    std::array::from_fn(|i| {
        let seed = sha2::Sha256::new().chain_update(seed.to_le_bytes());
        seed.chain_update([i as u8]).finalize().into()
    })
}

fn authority(seed: u64) -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy(entropy::<1>(seed)[0]).unwrap()
}

fn identity() -> ResponderIdentity {
    ResponderIdentity::new(authority(1), VALIDITY, NOW, entropy(2))
}

type Finished = Result<(Sealer, Opener, ServerInfo), HandshakeError>;

/// One handshake with the identity above, finished at `now` with what `damage` makes of the second message.
fn finish(
    expected: Option<AuthorityPublicKey>,
    now: u32,
    tolerance: u32,
    damage: impl Fn(&mut [u8; ACT2_LEN]),
) -> Finished {
    let (initiator, act1) = Initiator::new(expected, entropy(3));
    let (mut act2, ..) = Responder::respond(&identity(), &act1, entropy(4)).unwrap();
    damage(&mut act2);
    initiator.finish(&act2, now, tolerance)
}

fn exchange(from: &mut Sealer, to: &mut Opener, frame: &[u8]) {
    let mut wire = Vec::new();
    from.seal(frame, &mut wire).unwrap();
    match to.next(&mut wire, |_| 100_000).unwrap() {
        Opened::Frame { header, payload, .. } => {
            assert_eq!([&header.to_bytes()[..], payload].concat(), frame);
        }
        incomplete => panic!("{incomplete:?}"),
    }
}

#[test]
fn lengths_of_the_spec() {
    assert_eq!((ACT1_LEN, ACT2_LEN), (64, 234));
    assert_eq!((SEALED_HEADER_LEN, MAX_BLOCK, Certificate::LEN), (22, 65_519, 74));
}

#[test]
fn both_directions() {
    let identity = identity();
    for seed in 0..20 {
        let (initiator, act1) = Initiator::new(Some(identity.authority()), entropy(seed));
        let (act2, mut seal_b, mut open_b) =
            Responder::respond(&identity, &act1, entropy(seed + 1000)).unwrap();
        let (mut seal_a, mut open_a, server) = initiator.finish(&act2, NOW, 0).unwrap();
        assert_eq!(server.authority, Some(identity.authority()));
        assert_eq!(&server.certificate, identity.certificate());
        exchange(&mut seal_a, &mut open_b, &[0, 0, 1, 2, 0, 0, 3, 4]);
        exchange(&mut seal_b, &mut open_a, &[0, 0x80, 2, 0, 0, 0]);
    }
}

#[test]
fn entropy_decides_everything() {
    let identity = identity();
    let (_, act1) = Initiator::new(None, entropy(3));
    assert_eq!(Initiator::new(None, entropy(3)).1, act1);
    let [secret, encoding] = entropy(3);
    // The same key in another encoding, and another key: nothing in common on the wire.
    for other in [[secret, entropy::<1>(9)[0]], [entropy::<1>(9)[0], encoding]] {
        assert_ne!(Initiator::new(None, other).1, act1);
    }
    let act2 = |seed| Responder::respond(&identity, &act1, entropy(seed)).unwrap().0;
    assert_eq!(act2(4), act2(4));
    assert_ne!(act2(4), act2(5));
}

#[test]
fn entropy_outside_the_group_still_makes_a_key() {
    for bad in [[0; 32], [0xff; 32]] {
        let (initiator, act1) = Initiator::new(None, [bad, bad]);
        let (act2, ..) = Responder::respond(&identity(), &act1, [bad, bad]).unwrap();
        assert!(initiator.finish(&act2, NOW, 0).is_ok());
    }
}

#[test]
fn without_an_authority_any_server_will_do() {
    let (.., server) = finish(None, u32::MAX, 0, |_| ()).unwrap();
    assert_eq!(server.authority, None);
}

#[test]
fn wrong_authority() {
    let expected = authority(99).public();
    let error = finish(Some(expected), NOW, 0, |_| ()).unwrap_err();
    assert_eq!(error, HandshakeError::Certificate(CertificateError::WrongAuthority { expected }));
    assert_eq!(
        error.to_string(),
        format!("the server's certificate is not signed by the expected authority {expected}")
    );
}

#[test]
fn certificate_times() {
    let expected = Some(authority(1).public());
    let at = |now, tolerance| finish(expected, now, tolerance, |_| ()).map(drop);
    let (from, until) = (NOW - 300, NOW + 3600);
    assert_eq!(at(from, 0), Ok(()));
    assert_eq!(at(until, 0), Ok(()));
    assert_eq!(at(from - 10, 10), Ok(()));
    assert_eq!(at(until + 10, 10), Ok(()));
    let early = CertificateError::NotYetValid { by: 11, tolerance: 10 };
    assert_eq!(at(from - 11, 10), Err(early.into()));
    let late = CertificateError::Expired { by: 11, tolerance: 10 };
    assert_eq!(at(until + 11, 10), Err(late.into()));
    assert_eq!(
        late.to_string(),
        "the server's certificate expired 11 s ago (clock tolerance 10 s): compare the clocks"
    );
    assert_eq!(at(0, u32::MAX), Ok(()));
    assert_eq!(at(u32::MAX, u32::MAX), Ok(()));
}

#[test]
fn certificate_details() {
    let (authority, other) = (authority(1), authority(2).public());
    let static_key = *other.as_bytes();
    let signed = Certificate::sign(&authority, &static_key, 10, 20, &[5; 32]);
    assert_eq!(Certificate::parse(&signed.to_bytes()), signed);
    assert_eq!(signed.to_bytes()[..10], [0, 0, 10, 0, 0, 0, 20, 0, 0, 0]);
    let verify = |c: Certificate| c.verify(&authority.public(), &static_key, 15, 0);
    assert_eq!(verify(signed), Ok(()));
    let wrong = Err(CertificateError::WrongAuthority { expected: authority.public() });
    assert_eq!(verify(Certificate { valid_from: 9, ..signed }), wrong);
    assert_eq!(verify(Certificate { not_valid_after: 21, ..signed }), wrong);
    assert_eq!(verify(Certificate { signature: [0xff; 64], ..signed }), wrong);
    assert_eq!(verify(Certificate { version: 1, ..signed }), Err(CertificateError::Version(1)));
    assert_eq!(signed.verify(&authority.public(), &[1; 32], 15, 0), wrong);
}

#[test]
fn every_damaged_byte_of_the_second_message_is_noticed() {
    let expected = Some(authority(1).public());
    for at in 0..ACT2_LEN {
        let error = finish(expected, NOW, 0, |act2| act2[at] ^= 0x40).unwrap_err();
        assert_eq!(error, HandshakeError::Decrypt, "{at}");
    }
}

#[test]
fn a_damaged_first_message_is_noticed_by_the_initiator() {
    let identity = identity();
    for at in 0..ACT1_LEN {
        let (initiator, mut act1) = Initiator::new(None, entropy(3));
        act1[at] ^= 1;
        let (act2, ..) = Responder::respond(&identity, &act1, entropy(4)).unwrap();
        assert_eq!(initiator.finish(&act2, NOW, 0).unwrap_err(), HandshakeError::Decrypt);
    }
}

#[test]
fn garbage_for_a_first_message_is_answered_and_leads_nowhere() {
    let identity = identity();
    for byte in [0, 1, 0x7f, 0xff] {
        let (act2, _, mut opener) =
            Responder::respond(&identity, &[byte; ACT1_LEN], entropy(4)).unwrap();
        let (initiator, _) = Initiator::new(None, entropy(3));
        assert_eq!(initiator.finish(&act2, NOW, 0).unwrap_err(), HandshakeError::Decrypt);
        let error = opener.next(&mut [byte; 100], |_: &Header| 100).unwrap_err();
        assert_eq!(error, OpenError::Decrypt);
    }
}

#[test]
fn certificates_are_renewed_when_due() {
    let mut identity = identity();
    let first = *identity.certificate();
    assert_eq!((first.valid_from, first.not_valid_after), (NOW - 300, NOW + 3600));
    identity.renew(NOW + 59, &[1; 32]);
    assert_eq!(identity.certificate(), &first);
    assert!(!identity.is_due(NOW + 59) && identity.is_due(NOW + 60) && identity.is_due(NOW - 1));
    identity.renew(NOW + 60, &[1; 32]);
    let second = *identity.certificate();
    assert_eq!(second.not_valid_after, NOW + 3660);
    // The static key is the same, the new certificate good for it; a clock set back makes it due, too.
    let (initiator, act1) = Initiator::new(Some(identity.authority()), entropy(3));
    let (act2, ..) = Responder::respond(&identity, &act1, entropy(4)).unwrap();
    let (.., server) = initiator.finish(&act2, NOW + 3660, 0).unwrap();
    assert_eq!(server.certificate, second);
    identity.renew(NOW - 10_000, &[1; 32]);
    assert_eq!(identity.certificate().not_valid_after, NOW - 6400);
}

#[test]
fn short_validity_is_renewed_halfway() {
    let short = Validity { seconds: 20, backdate: 0 };
    let identity = ResponderIdentity::new(authority(1), short, NOW, entropy(2));
    assert!(!identity.is_due(NOW + 9) && identity.is_due(NOW + 10));
}

#[test]
fn validity_at_the_ends_of_time() {
    for now in [0, u32::MAX] {
        let identity = ResponderIdentity::new(authority(1), VALIDITY, now, entropy(2));
        let (initiator, act1) = Initiator::new(Some(identity.authority()), entropy(3));
        let (act2, ..) = Responder::respond(&identity, &act1, entropy(4)).unwrap();
        assert!(initiator.finish(&act2, now, 0).is_ok());
    }
}

#[test]
fn debug_hides_the_secrets() {
    let [secret, encoding, signing] = entropy(2);
    let identity = ResponderIdentity::new(authority(1), VALIDITY, NOW, [secret, encoding, signing]);
    let (initiator, act1) = Initiator::new(None, [secret, encoding]);
    let (_, sealer, opener) = Responder::respond(&identity, &act1, [secret, encoding]).unwrap();
    let shown = format!("{identity:?} {initiator:?} {sealer:?} {opener:?}");
    let list = |key: &[u8]| format!("{key:?}").trim_matches(['[', ']']).to_owned();
    assert!(!shown.contains(&list(&secret[..4])), "{shown}");
    assert!(shown.contains("ResponderIdentity { authority: AuthorityPublicKey("), "{shown}");
    assert!(shown.contains("Sealer { key: LessSafeKey { algorithm: "), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_second_message_is_refused_or_read(act2: [[u8; 26]; 9], seed: u64) {
        let mut bytes = [0; ACT2_LEN];
        bytes.copy_from_slice(act2.as_flattened());
        let (initiator, _) = Initiator::new(None, entropy(seed));
        prop_assert_eq!(initiator.finish(&bytes, NOW, 0).unwrap_err(), HandshakeError::Decrypt);
    }

    #[test]
    fn any_first_message_is_answered(act1: [[u8; 32]; 2], seed: u64) {
        let mut bytes = [0; ACT1_LEN];
        bytes.copy_from_slice(act1.as_flattened());
        prop_assert!(Responder::respond(&identity(), &bytes, entropy(seed)).is_ok());
    }
}
