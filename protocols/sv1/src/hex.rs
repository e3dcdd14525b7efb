//! Hexadecimal text, read in either case, written in lower case.

/// Appends the lower-case hex digits of `bytes`.
pub fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 0x0f)]);
    }
}

/// Appends `word` as 8 lower-case hex digits, the most significant first.
pub fn push_u32(out: &mut Vec<u8>, word: u32) {
    push(out, &word.to_be_bytes());
}

/// Reads an even number of hex digits, nothing else.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

/// Reads exactly `2 * N` hex digits.
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// The value of one hex digit.
pub(crate) const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cases_are_read_and_lower_case_is_written() {
        assert_eq!(decode("00fFA5"), Some(vec![0x00, 0xff, 0xa5]));
        assert_eq!(decode_array("DEADbeef"), Some([0xde, 0xad, 0xbe, 0xef]));
        let mut out = Vec::new();
        push(&mut out, &[0x00, 0xff, 0xa5]);
        push_u32(&mut out, 0x1fff_e000);
        assert_eq!(out, b"00ffa51fffe000");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["0", "0g", "+1", " 1", "é"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode_array::<2>("00"), None);
        assert_eq!(decode_array::<1>("0000"), None);
    }
}
