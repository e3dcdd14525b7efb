//! Request ids: any JSON value, echoed byte by byte.

use serde_json::value::RawValue;

use crate::LineError;

/// The id of a request that wants an answer: the JSON text as it came.
///
/// Ids are numbers, strings (BFGMiner: `"auth"`, `"txlist1"`) or anything else, and need not differ from each other
/// (minerd gives every share the id 4). A request without an id, or with a null one, must never be answered: BFGMiner
/// takes the next line for the answer to something else. Hence such a request has no `Id`, and no reply can be written
/// without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id<'a>(&'a str);

impl<'a> Id<'a> {
    /// The id whose JSON text is `json`; `None` for null.
    pub(crate) fn read(json: &'a [u8]) -> Result<Option<Self>, LineError> {
        if json == b"null" {
            return Ok(None);
        }
        // An id is echoed into a line of our own: it may not break that line, wherever it came from.
        let valid = is_plain(json)
            || json.iter().all(|byte| *byte >= b' ')
                && serde_json::from_slice::<&RawValue>(json).is_ok();
        match std::str::from_utf8(json) {
            Ok(text) if valid => Ok(Some(Self(text))),
            _ => Err(LineError::Id),
        }
    }

    /// The JSON text, exactly as it came.
    pub const fn as_json(self) -> &'a str {
        self.0
    }

    /// The id as a number, where it is one (or a string of digits, as some peers send back).
    pub fn as_u64(self) -> Option<u64> {
        self.0.trim_matches('"').parse().ok()
    }

    /// A copy that outlives the line, for requests that are answered later.
    pub fn to_buf(self) -> IdBuf {
        IdBuf(self.0.into())
    }
}

/// An [`Id`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdBuf(Box<str>);

impl IdBuf {
    /// The id, borrowed.
    pub fn as_id(&self) -> Id<'_> {
        Id(&self.0)
    }
}

/// Whether `json` is one of the ids almost everyone sends, without asking a parser.
fn is_plain(json: &[u8]) -> bool {
    match json {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        [b'"', text @ .., b'"'] => {
            text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_json_type_is_kept_as_it_is() {
        for json in [
            "0",
            "4",
            "-1",
            "1.50",
            "1e3",
            r#""auth""#,
            r#""a\u0041\"""#,
            "true",
            "[1, 2]",
            r#"{"a":[null]}"#,
        ] {
            assert_eq!(Id::read(json.as_bytes()), Ok(Some(Id(json))), "{json}");
        }
        assert_eq!(Id::read(b"null"), Ok(None));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let bad: [&[u8]; 8] =
            [b"", b"01", b"nil", b"\"a\"b\"", b"\"a\tb\"", b"\"\xff\"", b"[1,]", b"[1,\n2]"];
        for json in bad {
            assert_eq!(Id::read(json), Err(LineError::Id), "{}", json.escape_ascii());
        }
    }

    #[test]
    fn numbers_and_strings_of_digits() {
        assert_eq!(Id("7").as_u64(), Some(7));
        assert_eq!(Id("\"7\"").as_u64(), Some(7));
        assert_eq!(Id("\"auth\"").as_u64(), None);
        assert_eq!(Id("7").to_buf().as_id(), Id("7"));
    }
}
