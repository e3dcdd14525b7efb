use proptest::prelude::*;

use super::*;

/// Spec 4.7.1.
const SPEC_TEXT: &str = "9bXiEd8boQVhq7WddEcERUL5tyyJVFYdU8th3HfbNXK3Yw6GRXh";
const SPEC_BYTES: [u8; 32] = [
    118, 99, 112, 0, 151, 156, 28, 17, 175, 12, 48, 11, 205, 140, 127, 228, 134, 16, 252, 233, 185,
    193, 30, 61, 174, 227, 90, 224, 176, 138, 116, 85,
];
/// The key pair of the reference implementation's example configurations.
const EXAMPLE_SECRET: &str = "mkDLTBBRxdBv998612qipDYoTK3YUrqLe8uWw7gu3iXbSrn2n";
const EXAMPLE_PUBLIC: &str = "9auqWEzQDVyd2oe1JVGFLMLHZtCo2FFqZwtKA5gd9xbuEu7PH72";

fn with_version(version: [u8; 2], key: &[u8]) -> String {
    encode_check(&[&version[..], key].concat())
}

#[test]
fn vector_of_the_spec() {
    let key: AuthorityPublicKey = SPEC_TEXT.parse().unwrap();
    assert_eq!(key.as_bytes(), &SPEC_BYTES);
    assert_eq!(key.to_string(), SPEC_TEXT);
    assert_eq!(format!("{key:?}"), format!("AuthorityPublicKey({SPEC_TEXT})"));
}

#[test]
fn secret_key_of_the_reference_implementation() {
    let secret: AuthoritySecretKey = EXAMPLE_SECRET.parse().unwrap();
    assert_eq!(secret.public().to_string(), EXAMPLE_PUBLIC);
    assert_eq!(secret.to_text().as_str(), EXAMPLE_SECRET);
    let hex: String = secret.0.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex.parse::<AuthoritySecretKey>().unwrap().public(), secret.public());
    assert_eq!(hex.to_uppercase().parse::<AuthoritySecretKey>().unwrap().public(), secret.public());
}

#[test]
fn refused_public_keys() {
    let parse = |text: &str| text.parse::<AuthorityPublicKey>().unwrap_err();
    assert_eq!(parse(""), KeyError::Base58);
    assert_eq!(parse(&SPEC_TEXT.replace('9', "8")), KeyError::Base58);
    assert_eq!(parse(&SPEC_TEXT.replace('9', "0")), KeyError::Base58);
    assert_eq!(parse(&"9".repeat(100_000)), KeyError::Base58);
    assert_eq!(parse(&with_version([2, 0], &SPEC_BYTES)), KeyError::Version(2));
    assert_eq!(parse(&with_version([1, 0], &SPEC_BYTES[1..])), KeyError::Length(33));
    assert_eq!(parse(&with_version([1, 0], &[0xff; 32])), KeyError::NotAPoint);
    assert_eq!(parse(EXAMPLE_SECRET), KeyError::SecretForPublic);
}

#[test]
fn refused_secret_keys() {
    let parse = |text: &str| text.parse::<AuthoritySecretKey>().unwrap_err();
    assert_eq!(parse(EXAMPLE_PUBLIC), KeyError::PublicForSecret);
    assert_eq!(parse(&"0".repeat(64)), KeyError::InvalidSecret);
    assert_eq!(parse(&"f".repeat(64)), KeyError::InvalidSecret);
    assert_eq!(parse(&"g".repeat(64)), KeyError::Hex);
    assert_eq!(parse(&"é".repeat(32)), KeyError::Hex);
    assert_eq!(parse(&encode_check(&[1; 31])), KeyError::Length(31));
    assert_eq!(parse(&encode_check(&[0; 32])), KeyError::InvalidSecret);
}

#[test]
fn debug_hides_the_secret() {
    let secret = AuthoritySecretKey::from_entropy([7; 32]).unwrap();
    assert_eq!(format!("{secret:?}"), "AuthoritySecretKey(..)");
}

#[test]
fn urls() {
    let key = Some(SPEC_TEXT.parse().unwrap());
    for (text, host, port, authority, shown) in [
        (
            format!("stratum2+tcp://thepool.com:34254/{SPEC_TEXT}"),
            "thepool.com",
            34254,
            key,
            format!("stratum2+tcp://thepool.com:34254/{SPEC_TEXT}"),
        ),
        (
            format!("STRATUM2+tcp://10.0.0.7/{SPEC_TEXT}"),
            "10.0.0.7",
            34254,
            key,
            format!("stratum2+tcp://10.0.0.7:34254/{SPEC_TEXT}"),
        ),
        (
            "stratum2+tcp://[2001:db8::1]:1/".into(),
            "2001:db8::1",
            1,
            None,
            "stratum2+tcp://[2001:db8::1]:1".into(),
        ),
        ("stratum2+tcp://[::1]".into(), "::1", 34254, None, "stratum2+tcp://[::1]:34254".into()),
        (
            "stratum2+tcp://pool_1:65535".into(),
            "pool_1",
            65535,
            None,
            "stratum2+tcp://pool_1:65535".into(),
        ),
    ] {
        let url: Sv2Url = text.parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.authority), (host, port, authority), "{text}");
        assert_eq!(url.to_string(), shown);
        assert_eq!(url.to_string().parse(), Ok(url));
    }
    let url: Sv2Url = "stratum2+tcp://[::1]:9".parse().unwrap();
    assert_eq!(url.host_port(), "[::1]:9");
    assert_eq!(url.require_authority(), Err(UrlError::MissingKey));
}

#[test]
fn refused_urls() {
    let parse = |rest: &str| format!("stratum2+tcp://{rest}").parse::<Sv2Url>().unwrap_err();
    assert_eq!("stratum+tcp://a:1".parse::<Sv2Url>(), Err(UrlError::Scheme));
    assert_eq!("".parse::<Sv2Url>(), Err(UrlError::Scheme));
    assert_eq!("stratum2+tcp:/é/".parse::<Sv2Url>(), Err(UrlError::Scheme));
    assert_eq!(parse(""), UrlError::MissingHost);
    assert_eq!(parse(":1"), UrlError::MissingHost);
    assert_eq!(parse("::1"), UrlError::Host("::1".into()));
    assert_eq!(parse("[::1"), UrlError::Host("[".into()));
    assert_eq!(parse("[pool]:1"), UrlError::Host("[pool]:1".into()));
    assert_eq!(parse("[::1]1"), UrlError::Host("[::1]1".into()));
    assert_eq!(parse("user@pool:1"), UrlError::Host("user@pool".into()));
    assert_eq!(parse("pool:"), UrlError::Port("".into()));
    assert_eq!(parse("pool:0"), UrlError::Port("0".into()));
    assert_eq!(parse("pool:+1"), UrlError::Port("+1".into()));
    assert_eq!(parse("pool:65536"), UrlError::Port("65536".into()));
    assert_eq!(parse("pool:1:2"), UrlError::Port("1:2".into()));
    assert_eq!(parse("pool:1/abc"), UrlError::Key(KeyError::Base58));
    assert_eq!(
        parse("pool:1/abc").to_string(),
        "the authority key after the slash: not a base58check text: a character is missing, wrong or too many"
    );
}

proptest! {
    #[test]
    fn keys_survive_their_texts(entropy: [u8; 32]) {
        if let Ok(secret) = AuthoritySecretKey::from_entropy(entropy) {
            let public = secret.public();
            prop_assert_eq!(public.to_string().parse(), Ok(public));
            prop_assert_eq!(secret.to_text().parse::<AuthoritySecretKey>().unwrap().public(), public);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,80}") {
        let _ = text.parse::<AuthorityPublicKey>();
        let _ = text.parse::<AuthoritySecretKey>();
        let url = format!("stratum2+tcp://{text}");
        if let Ok(url) = url.parse::<Sv2Url>() {
            prop_assert_eq!(url.to_string().parse(), Ok(url));
        }
    }
}

#[test]
fn statements_are_signed_in_a_domain() {
    let secret: AuthoritySecretKey = EXAMPLE_SECRET.parse().unwrap();
    let signature = secret.sign_tagged("one", b"statement", &[7; 32]);
    let public = secret.public();
    assert!(public.verify_tagged("one", b"statement", &signature));
    assert!(!public.verify_tagged("two", b"statement", &signature));
    assert!(!public.verify_tagged("one", b"statement.", &signature));
    assert!(!AuthorityPublicKey(SPEC_BYTES).verify_tagged("one", b"statement", &signature));
    assert!(!public.verify_tagged("one", b"statement", &[0xff; 64]));
    assert_eq!(tagged_hash("a", &[b"bc", b"d"]), tagged_hash("a", &[b"b", b"cd"]));
    assert_ne!(tagged_hash("a", &[]), tagged_hash("b", &[]));
}
