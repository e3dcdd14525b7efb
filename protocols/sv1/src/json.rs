//! A JSON reader for lines that were printed rather than serialised.
//!
//! Every valid JSON text reads as what it is. Beyond that, strings may hold control characters, bytes that are not
//! UTF-8, backslashes that begin no escape, and quotes that were not escaped: a quote ends a string only if a comma,
//! a colon, a closing bracket or the end of the line follows, which after the end of a string is always so.
//!
//! Values borrow from the line and are read when asked for; nothing is allocated unless a string has to be changed.
//! Brackets are matched with a counter, not by recursion.

use std::borrow::Cow;

use crate::{LineError, Repairs};

/// Brackets inside brackets; the deepest message known (`mining.subscribe`'s result) has 4.
const MAX_DEPTH: u32 = 64;

/// A value somewhere in a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `null`, or nothing at all between two commas.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// The text of a number. Not checked beyond the characters it may have.
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// An array.
    Array(Array<'a>),
    /// An object.
    Object(Object<'a>),
    /// A bare word JSON does not know, or the rest of an array that makes no sense.
    Invalid,
}

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(&'a [u8]);

/// What stands between the brackets of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Array<'a>(&'a [u8]);

/// What stands between the braces of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<'a>(&'a [u8]);

/// Reads a line that is one object.
pub(crate) fn read_object(line: &[u8]) -> Result<Object<'_>, LineError> {
    let mut cursor = Cursor::new(line);
    if cursor.peek() != Some(b'{') {
        return Err(LineError::NotAnObject);
    }
    let (value, _) = cursor.value()?;
    match (value, cursor.peek()) {
        (Value::Object(object), None) => Ok(object),
        _ => Err(cursor.unexpected()),
    }
}

/// Whether a line holds nothing but blanks and control characters.
pub(crate) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| *byte <= b' ')
}

impl<'a> Value<'a> {
    /// Whether the value is `null` or absent.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value as text; a number is taken as its digits.
    pub fn to_text(self, repairs: &mut Repairs) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text.decode(repairs)),
            Self::Number(digits) => {
                repairs.insert(Repairs::NUMBER_FOR_TEXT);
                Some(Cow::Borrowed(digits))
            }
            _ => None,
        }
    }

    /// The value as a finite number, written as a number or as a string.
    pub fn to_f64(self, repairs: &mut Repairs) -> Option<f64> {
        self.number_text(repairs).and_then(|text| parse_number(&text))
    }

    /// The value as an unsigned whole number, written as a number (`1024`, `1024.0`) or as a string.
    pub fn to_u64(self, repairs: &mut Repairs) -> Option<u64> {
        let text = self.number_text(repairs)?;
        text.trim().parse().ok().or_else(|| {
            let number = parse_number(&text)?;
            let whole = number.fract() == 0.0 && (0.0..1e15).contains(&number);
            whole.then_some(number as u64)
        })
    }

    fn number_text(self, repairs: &mut Repairs) -> Option<Cow<'a, str>> {
        match self {
            Self::Number(digits) => Some(Cow::Borrowed(digits)),
            Self::Text(text) => {
                repairs.insert(Repairs::TEXT_FOR_NUMBER);
                Some(text.decode(repairs))
            }
            _ => None,
        }
    }
}

impl<'a> Text<'a> {
    /// The bytes between the quotes, as they came.
    pub const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The text meant: escapes resolved, control characters dropped. Borrowed unless something had to change.
    pub fn decode(self, repairs: &mut Repairs) -> Cow<'a, str> {
        let text = String::from_utf8_lossy(self.0);
        if matches!(text, Cow::Owned(_)) {
            repairs.insert(Repairs::NOT_UTF8);
        }
        if text.chars().any(|c| c.is_control() || matches!(c, '\\' | '"')) {
            return Cow::Owned(unescape(&text, repairs));
        }
        text
    }
}

impl<'a> Array<'a> {
    /// The elements in order.
    pub fn iter(self) -> Elements<'a> {
        Elements { cursor: Cursor::new(self.0) }
    }

    /// The element at `index`; null where there are fewer.
    pub fn get(self, index: usize) -> Value<'a> {
        self.iter().nth(index).map_or(Value::Null, |element| element.value)
    }
}

impl<'a> Object<'a> {
    /// The members in order, ending after the first that cannot be read.
    pub fn iter(self) -> Members<'a> {
        Members { cursor: Cursor::new(self.0), broken: false }
    }

    /// The value of the last member named `key`; null where there is none.
    pub fn get(self, key: &str) -> Value<'a> {
        let named =
            self.iter().map_while(Result::ok).filter(|member| member.key.raw() == key.as_bytes());
        named.last().map_or(Value::Null, |member| member.value)
    }
}

/// One element of an array.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    /// What it says.
    pub value: Value<'a>,
    /// Its JSON text.
    pub json: &'a [u8],
}

/// The elements of an [`Array`]. At the first place that is not a value, or where a comma is missing, there is one
/// last element, [`Value::Invalid`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Elements<'a> {
    fn broken(&mut self) -> Element<'a> {
        let rest = &self.cursor.bytes[self.cursor.at..];
        self.cursor.at = self.cursor.bytes.len();
        Element { value: Value::Invalid, json: rest }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let element = match self.cursor.peek()? {
            // Nothing between two commas still takes a place, or the parameters after it would move up.
            b',' => Element { value: Value::Null, json: b"null" },
            _ => match self.cursor.value() {
                Ok((value, json)) => Element { value, json },
                Err(_) => return Some(self.broken()),
            },
        };
        match self.cursor.peek() {
            None => {}
            Some(b',') => self.cursor.at += 1,
            Some(_) => return Some(self.broken()),
        }
        Some(element)
    }
}

/// One member of an object.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its name.
    pub key: Text<'a>,
    /// What it says.
    pub value: Value<'a>,
    /// The JSON text of the value.
    pub json: &'a [u8],
}

/// The members of an [`Object`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    cursor: Cursor<'a>,
    broken: bool,
}

impl<'a> Members<'a> {
    fn member(&mut self) -> Result<Member<'a>, LineError> {
        let cursor = &mut self.cursor;
        let (Value::Text(key), _) = cursor.value()? else {
            return Err(LineError::NotAnObject);
        };
        if cursor.peek() != Some(b':') {
            return Err(cursor.unexpected());
        }
        cursor.at += 1;
        let (value, json) = cursor.value()?;
        match cursor.peek() {
            None => {}
            Some(b',') => cursor.at += 1,
            Some(_) => return Err(cursor.unexpected()),
        }
        Ok(Member { key, value, json })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        self.cursor.peek()?;
        let member = self.member();
        self.broken = member.is_err();
        Some(member)
    }
}

/// A place in a text.
#[derive(Debug, Clone)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Skips blanks (control characters count as such) and shows the next byte.
    fn peek(&mut self) -> Option<u8> {
        let blanks = self.bytes[self.at..].iter().take_while(|byte| **byte <= b' ').count();
        self.at += blanks;
        self.bytes.get(self.at).copied()
    }

    fn unexpected(&self) -> LineError {
        match self.bytes.get(self.at) {
            Some(byte) => LineError::Unexpected { offset: self.at, byte: *byte },
            None => LineError::UnexpectedEnd,
        }
    }

    /// Reads one value and its JSON text.
    fn value(&mut self) -> Result<(Value<'a>, &'a [u8]), LineError> {
        let first = self.peek();
        let start = self.at;
        let value = match first {
            None => return Err(LineError::UnexpectedEnd),
            Some(b',' | b':' | b']' | b'}') => return Err(self.unexpected()),
            Some(b'"') => Value::Text(self.string()?),
            Some(b'[') => Value::Array(Array(self.bracketed()?)),
            Some(b'{') => Value::Object(Object(self.bracketed()?)),
            Some(_) => self.word(),
        };
        Ok((value, &self.bytes[start..self.at]))
    }

    /// Reads a string, from its opening quote to beyond its closing one.
    fn string(&mut self) -> Result<Text<'a>, LineError> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                None => {
                    self.at = self.bytes.len();
                    return Err(LineError::UnexpectedEnd);
                }
                Some(b'\\') => self.at += 2,
                Some(b'"') if self.closes(self.at) => {
                    let text = Text(&self.bytes[start..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Whether the quote at `quote` is followed by what may follow a string.
    fn closes(&self, quote: usize) -> bool {
        let next = self.bytes[quote + 1..].iter().find(|byte| **byte > b' ');
        matches!(next, None | Some(b',' | b':' | b']' | b'}'))
    }

    /// Reads an array or object, from its opening bracket to beyond its closing one; returns what is between them.
    fn bracketed(&mut self) -> Result<&'a [u8], LineError> {
        let start = self.at + 1;
        let (mut open, mut depth) = (0_u64, 0_u32); // one bit per open bracket: 1 for a brace
        loop {
            match self.bytes.get(self.at).copied() {
                None => return Err(LineError::UnexpectedEnd),
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(bracket @ (b'[' | b'{')) => {
                    if depth == MAX_DEPTH {
                        return Err(LineError::TooDeep);
                    }
                    open = open << 1 | u64::from(bracket == b'{');
                    depth += 1;
                }
                Some(bracket @ (b']' | b'}')) => {
                    if open & 1 != u64::from(bracket == b'}') {
                        return Err(self.unexpected());
                    }
                    open >>= 1;
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok(&self.bytes[start..self.at - 1]);
                    }
                }
                Some(_) => {}
            }
            self.at += 1;
        }
    }

    /// Reads a number or a word.
    fn word(&mut self) -> Value<'a> {
        let rest = &self.bytes[self.at..];
        let ends = |byte: &u8| {
            *byte <= b' ' || matches!(byte, b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"')
        };
        let word = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
        self.at += word.len();
        match word {
            b"null" => Value::Null,
            b"true" => Value::Bool(true),
            b"false" => Value::Bool(false),
            _ => match std::str::from_utf8(word) {
                Ok(digits) if digits.bytes().all(is_number_byte) => Value::Number(digits),
                _ => Value::Invalid,
            },
        }
    }
}

const fn is_number_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// Reads a finite decimal number; words such as `inf` are none.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let number: f64 = text.parse().ok()?;
    (text.bytes().all(is_number_byte) && number.is_finite()).then_some(number)
}

fn unescape(text: &str, repairs: &mut Repairs) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let meant = match c {
            '\\' => match escape(rest) {
                Some((meant, len)) => {
                    rest = &rest[len..];
                    meant
                }
                None => {
                    repairs.insert(Repairs::BAD_ESCAPE);
                    c
                }
            },
            '"' => {
                repairs.insert(Repairs::UNESCAPED_QUOTE);
                c
            }
            _ => c,
        };
        if meant.is_control() {
            repairs.insert(Repairs::CONTROL_CHARACTER);
        } else {
            out.push(meant);
        }
    }
    out
}

/// The character meant by what follows a backslash, and how many bytes it took.
fn escape(rest: &str) -> Option<(char, usize)> {
    let simple = |c| Some((c, 1));
    match rest.as_bytes().first()? {
        b'"' => simple('"'),
        b'\\' => simple('\\'),
        b'/' => simple('/'),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'n' => simple('\n'),
        b'r' => simple('\r'),
        b't' => simple('\t'),
        b'u' => {
            let high = u32::from(code_unit(rest.get(1..5)?)?);
            if let Some(c) = char::from_u32(high) {
                return Some((c, 5));
            }
            // A character beyond the first plane is written as two units.
            let low = u32::from(code_unit(rest.get(5..)?.strip_prefix("\\u")?.get(..4)?)?);
            if !(0xd800..0xdc00).contains(&high) || !(0xdc00..0xe000).contains(&low) {
                return None;
            }
            let c = char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?;
            Some((c, 11))
        }
        _ => None,
    }
}

fn code_unit(digits: &str) -> Option<u16> {
    crate::hex::decode_array(digits).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
