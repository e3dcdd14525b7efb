//! Data types of the wire (spec 3.1): nom readers over a whole frame, writers into a `Vec<u8>`.
//!
//! Everything is borrowed from the frame it was read from. All integers are little-endian. A length that the wire
//! cannot carry is refused when the value is made, so that encoding cannot fail.

use std::fmt;
use std::marker::PhantomData;

use nom::bytes::complete::take;
use nom::error::ErrorKind;
use nom::number::complete as number;

/// What a reader of one field returns: the rest of the input and the value.
pub type FieldResult<'a, T> = nom::IResult<&'a [u8], T, FieldError>;

/// One field of a message.
pub trait Field<'a>: Sized {
    /// Reads the field from the start of `input`.
    fn read(input: &'a [u8]) -> FieldResult<'a, Self>;
    /// Appends the encoded field.
    fn write(&self, out: &mut Vec<u8>);
    /// Bytes that [`write`](Field::write) appends.
    fn encoded_len(&self) -> usize;
    /// Prints the value for logs: numbers plain, bytes as hex, text cleaned of control characters.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Why a field could not be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FieldError {
    /// The payload ends inside the field.
    #[error("payload ends inside the field")]
    Truncated,
    /// The length prefix is above what the type allows.
    #[error("length {length} is above the type's limit of {limit}")]
    TooLong {
        /// The length as announced.
        length: usize,
        /// The most that the type allows.
        limit: usize,
    },
}

impl nom::error::ParseError<&[u8]> for FieldError {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        // The only combinators used are `take` and fixed-width numbers: both fail for want of bytes alone.
        FieldError::Truncated
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// A value is longer than its wire type can carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{length} is above the limit of {limit} of {wire_type}")]
pub struct TooLong {
    /// Spec name of the type.
    pub wire_type: &'static str,
    /// Bytes or elements offered.
    pub length: usize,
    /// Bytes or elements allowed.
    pub limit: usize,
}

macro_rules! integer {
    ($($type:ty, $read:path, $len:literal;)*) => {$(
        impl<'a> Field<'a> for $type {
            #[inline]
            fn read(input: &'a [u8]) -> FieldResult<'a, Self> {
                $read(input)
            }
            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn encoded_len(&self) -> usize {
                $len
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}

integer! {
    u8, number::u8, 1;
    u16, number::le_u16, 2;
    u32, number::le_u32, 4;
    u64, number::le_u64, 8;
    f32, number::le_f32, 4;
}

/// BOOL: one byte of which only the lowest bit counts.
impl<'a> Field<'a> for bool {
    #[inline]
    fn read(input: &'a [u8]) -> FieldResult<'a, Self> {
        let (rest, byte) = number::u8(input)?;
        Ok((rest, byte & 1 == 1))
    }
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    #[inline]
    fn encoded_len(&self) -> usize {
        1
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// U256: 32 bytes, little-endian, shown as the big-endian number that people know hashes by.
impl<'a> Field<'a> for [u8; 32] {
    #[inline]
    fn read(input: &'a [u8]) -> FieldResult<'a, Self> {
        let Some((head, rest)) = input.split_first_chunk::<32>() else {
            return Err(nom::Err::Error(FieldError::Truncated));
        };
        Ok((rest, *head))
    }
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    #[inline]
    fn encoded_len(&self) -> usize {
        32
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().rev().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// OPTION\[T\]: a count byte of 0 or 1, then the value.
impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    #[inline]
    fn read(input: &'a [u8]) -> FieldResult<'a, Self> {
        let (rest, count) = number::u8(input)?;
        match count {
            0 => Ok((rest, None)),
            1 => T::read(rest).map(|(rest, value)| (rest, Some(value))),
            more => Err(nom::Err::Error(FieldError::TooLong { length: more.into(), limit: 1 })),
        }
    }
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.write(out);
        }
    }
    #[inline]
    fn encoded_len(&self) -> usize {
        1 + self.as_ref().map_or(0, Field::encoded_len)
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(value) => value.show(f),
            None => f.write_str("none"),
        }
    }
}

macro_rules! bytes {
    ($($(#[$doc:meta])* $name:ident, $spec:literal, $limit:expr, $prefix:literal, $show:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
        pub struct $name<'a>(&'a [u8]);

        impl<'a> $name<'a> {
            /// The most bytes that the type carries.
            pub const LIMIT: usize = $limit;

            /// Wraps `bytes`.
            ///
            /// # Errors
            /// [`TooLong`] above [`LIMIT`](Self::LIMIT) bytes.
            pub fn new(bytes: &'a [u8]) -> Result<Self, TooLong> {
                if bytes.len() > Self::LIMIT {
                    return Err(TooLong { wire_type: $spec, length: bytes.len(), limit: Self::LIMIT });
                }
                Ok(Self(bytes))
            }

            /// The bytes without their length prefix.
            #[inline]
            pub fn as_bytes(&self) -> &'a [u8] {
                self.0
            }
        }

        impl<'a> Field<'a> for $name<'a> {
            #[inline]
            fn read(input: &'a [u8]) -> FieldResult<'a, Self> {
                let (rest, length) = read_length::<$prefix>(input)?;
                if length > Self::LIMIT {
                    return Err(nom::Err::Error(FieldError::TooLong { length, limit: Self::LIMIT }));
                }
                let (rest, bytes) = take(length)(rest)?;
                Ok((rest, Self(bytes)))
            }
            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.0.len() as u32).to_le_bytes()[..$prefix]);
                out.extend_from_slice(self.0);
            }
            #[inline]
            fn encoded_len(&self) -> usize {
                $prefix + self.0.len()
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $show(self.0, f)
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.show(f)
            }
        }
    )*};
}

bytes! {
    /// STR0_255: up to 255 bytes of text, UTF-8 by custom but not by rule.
    Str0255, "STR0_255", 255, 1, show_text;
    /// B0_32: up to 32 bytes.
    B032, "B0_32", 32, 1, show_hex;
    /// B0_255: up to 255 bytes.
    B0255, "B0_255", 255, 1, show_hex;
    /// B0_64K: up to 65,535 bytes.
    B064K, "B0_64K", 0xffff, 2, show_hex;
    /// B0_16M: up to 2^24 - 1 bytes.
    B016M, "B0_16M", 0xff_ffff, 3, show_hex;
}

impl<'a> Str0255<'a> {
    /// The text as people may read it: invalid UTF-8 replaced, control characters dropped.
    pub fn to_clean_string(&self) -> String {
        String::from_utf8_lossy(self.0).chars().filter(|c| !c.is_control()).collect()
    }

    /// Wraps as much of `text` as fits, cut at a character boundary: for our own words about an error, which a peer's
    /// long text may be part of. Never used for what identifies somebody.
    pub fn cut(text: &'a str) -> Self {
        let mut end = text.len().min(Self::LIMIT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(&text.as_bytes()[..end])
    }
}

macro_rules! sequences {
    ($($(#[$doc:meta])* $name:ident, $spec:literal, $limit:expr, $prefix:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Holds either the bytes of the wire, checked when read and parsed on iteration, or a slice of values.
        #[derive(Clone, Copy)]
        pub struct $name<'a, T>(Repr<'a, T>);

        impl<'a, T: Field<'a> + Copy> $name<'a, T> {
            /// The most elements that the type carries.
            pub const LIMIT: usize = $limit;

            /// Wraps `values`.
            ///
            /// # Errors
            /// [`TooLong`] above [`LIMIT`](Self::LIMIT) elements.
            pub fn new(values: &'a [T]) -> Result<Self, TooLong> {
                if values.len() > Self::LIMIT {
                    return Err(TooLong { wire_type: $spec, length: values.len(), limit: Self::LIMIT });
                }
                Ok(Self(Repr::Values(values)))
            }

            /// Number of elements.
            #[inline]
            pub fn len(&self) -> usize {
                match &self.0 {
                    Repr::Values(values) => values.len(),
                    Repr::Wire { count, .. } => *count,
                }
            }

            /// Whether there is no element.
            #[inline]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The elements in order.
            pub fn iter(&self) -> SeqIter<'a, T> {
                SeqIter { repr: self.0 }
            }
        }

        impl<'a, T: Field<'a> + Copy> Field<'a> for $name<'a, T> {
            #[inline]
            fn read(input: &'a [u8]) -> FieldResult<'a, Self> {
                let (rest, count) = read_length::<$prefix>(input)?;
                let start = rest;
                let mut rest = rest;
                for _ in 0..count {
                    (rest, _) = T::read(rest)?;
                }
                let bytes = &start[..start.len() - rest.len()];
                Ok((rest, Self(Repr::Wire { bytes, count, element: PhantomData })))
            }
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.len() as u32).to_le_bytes()[..$prefix]);
                match &self.0 {
                    Repr::Values(values) => values.iter().for_each(|value| value.write(out)),
                    Repr::Wire { bytes, .. } => out.extend_from_slice(bytes),
                }
            }
            fn encoded_len(&self) -> usize {
                $prefix + match &self.0 {
                    Repr::Values(values) => values.iter().map(Field::encoded_len).sum(),
                    Repr::Wire { bytes, .. } => bytes.len(),
                }
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[")?;
                for (index, value) in self.iter().enumerate() {
                    if index == SHOWN_ELEMENTS {
                        return write!(f, ", … {} in all]", self.len());
                    }
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    value.show(f)?;
                }
                f.write_str("]")
            }
        }

        impl<'a, T: Field<'a> + Copy> Default for $name<'a, T> {
            fn default() -> Self {
                Self(Repr::Values(&[]))
            }
        }

        impl<'a, T: Field<'a> + Copy> fmt::Debug for $name<'a, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.show(f)
            }
        }

        impl<'a, T: Field<'a> + Copy + PartialEq> PartialEq for $name<'a, T> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }
    )*};
}

sequences! {
    /// SEQ0_255\[T\]: up to 255 elements.
    Seq0255, "SEQ0_255", 255, 1;
    /// SEQ0_64K\[T\]: up to 65,535 elements.
    Seq064K, "SEQ0_64K", 0xffff, 2;
}

#[derive(Clone, Copy)]
enum Repr<'a, T> {
    Values(&'a [T]),
    Wire { bytes: &'a [u8], count: usize, element: PhantomData<T> },
}

/// The elements of a sequence.
pub struct SeqIter<'a, T> {
    repr: Repr<'a, T>,
}

impl<'a, T: Field<'a> + Copy> Iterator for SeqIter<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match &mut self.repr {
            Repr::Values(values) => {
                let (first, rest) = values.split_first()?;
                *values = rest;
                Some(*first)
            }
            Repr::Wire { bytes, count, .. } => {
                *count = count.checked_sub(1)?;
                // Every element was read once when the sequence was, so this cannot fail; if it could, the sequence ends.
                let (rest, value) = T::read(bytes).ok()?;
                *bytes = rest;
                Some(value)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = match &self.repr {
            Repr::Values(values) => values.len(),
            Repr::Wire { count, .. } => *count,
        };
        (len, Some(len))
    }
}

impl<'a, T: Field<'a> + Copy> ExactSizeIterator for SeqIter<'a, T> {}

/// Elements of a sequence that a log line shows before it is cut.
const SHOWN_ELEMENTS: usize = 16;
/// Bytes of a byte field that a log line shows before it is cut.
const SHOWN_BYTES: usize = 128;

#[inline]
fn read_length<const PREFIX: usize>(input: &[u8]) -> FieldResult<'_, usize> {
    let Some((prefix, rest)) = input.split_first_chunk::<PREFIX>() else {
        return Err(nom::Err::Error(FieldError::Truncated));
    };
    Ok((rest, prefix.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte))))
}

fn show_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().take(SHOWN_BYTES).try_for_each(|byte| write!(f, "{byte:02x}"))?;
    if bytes.len() > SHOWN_BYTES {
        write!(f, "… {} bytes in all", bytes.len())?;
    }
    Ok(())
}

fn show_text(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{:?}", Str0255(bytes).to_clean_string())
}

#[cfg(test)]
mod tests;
