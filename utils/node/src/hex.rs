//! Hex to bytes while JSON is read: a template of 4 M weight must not become a tree of strings first.

use std::fmt;

use bitcoin::hashes::Hash;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// For `deserialize_with`: bytes in the order written.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes in hex")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
            let mut bytes = vec![0; text.len() / 2];
            if decode(text, &mut bytes) { Ok(bytes) } else { Err(E::custom("not bytes in hex")) }
        }
    }
    deserializer.deserialize_str(Bytes)
}

/// The same for a field that may be absent.
pub(crate) fn some_bytes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<u8>>, D::Error> {
    bytes(deserializer).map(Some)
}

/// `N` bytes in the order written.
pub(crate) fn array<'de, const N: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[u8; N], D::Error> {
    struct Array<const N: usize>;
    impl<const N: usize> Visitor<'_> for Array<N> {
        type Value = [u8; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{N} bytes in hex")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<[u8; N], E> {
            let mut bytes = [0; N];
            if decode(text, &mut bytes) {
                Ok(bytes)
            } else {
                Err(E::custom(format_args!("not {N} bytes in hex")))
            }
        }
    }
    deserializer.deserialize_str(Array)
}

/// A hash, written in reverse as Bitcoin does.
pub(crate) fn hash<'de, H, D>(deserializer: D) -> Result<H, D::Error>
where
    H: Hash<Bytes = [u8; 32]>,
    D: Deserializer<'de>,
{
    let mut bytes: [u8; 32] = array(deserializer)?;
    bytes.reverse();
    Ok(H::from_byte_array(bytes))
}

/// A list of hashes.
pub(crate) fn hashes<'de, H, D>(deserializer: D) -> Result<Vec<H>, D::Error>
where
    H: Hash<Bytes = [u8; 32]>,
    D: Deserializer<'de>,
{
    let hashes = Vec::<HashResult<H>>::deserialize(deserializer)?;
    Ok(hashes.into_iter().map(|hash| hash.0).collect())
}

/// The same for a field that may be absent.
pub(crate) fn some_hash<'de, H, D>(deserializer: D) -> Result<Option<H>, D::Error>
where
    H: Hash<Bytes = [u8; 32]>,
    D: Deserializer<'de>,
{
    hash(deserializer).map(Some)
}

/// A hash that is the whole result of a call.
pub(crate) struct HashResult<H>(pub(crate) H);

impl<'de, H: Hash<Bytes = [u8; 32]>> Deserialize<'de> for HashResult<H> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hash(deserializer).map(Self)
    }
}

/// Bytes that are the whole result of a call.
pub(crate) struct BytesResult(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for BytesResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes(deserializer).map(Self)
    }
}

/// Lower-case digits of `bytes`: a block has a few millions, and is waited for.
pub(crate) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = vec![0; bytes.len() * 2];
    for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    String::from_utf8(text).expect("digits")
}

/// True if `text` is exactly as many bytes as `out` takes.
fn decode(text: &str, out: &mut [u8]) -> bool {
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return false;
    }
    let mut bad = 0;
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        *byte = high << 4 | low;
        bad |= high | low;
    }
    bad & NOT_HEX == 0
}

/// Set in the table's value of what is no hex digit.
const NOT_HEX: u8 = 0x80;

const NIBBLES: [u8; 256] = {
    let mut table = [NOT_HEX; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn decodes_both_cases_and_nothing_else() {
        let mut out = [0; 4];
        assert!(decode("00fFAb90", &mut out));
        assert_eq!(out, [0x00, 0xff, 0xab, 0x90]);
        for wrong in ["00ff", "00ffab9", "00ffab9000", "00ffab9g", "0 ffab90", "00ffab\u{e9}"] {
            assert!(!decode(wrong, &mut out), "{wrong:?}");
        }
        assert!(decode("", &mut []));
        assert_eq!(encode(&[0x00, 0xff, 0xab, 0x90]), "00ffab90");
        assert_eq!(encode(&[]), "");
    }
}
