//! Type-length-value fields behind a message (spec 3.4.3) and the ones of extension 0x0002.
//!
//! Type and length are little-endian, as the general rule of spec 3.1 says and as the reference implementation writes
//! them; the spec's own example shows them in reading order.

use std::fmt;

/// Extension 0x0001, negotiation of extensions.
pub const EXTENSIONS_NEGOTIATION: u16 = 0x0001;
/// Extension 0x0002, worker-specific hashrate tracking.
pub const WORKER_HASHRATE_TRACKING: u16 = 0x0002;
/// Field type of `user_identity` in extension 0x0002.
const USER_IDENTITY: u8 = 0x01;
/// The most bytes of a `user_identity` in extension 0x0002.
pub const USER_IDENTITY_LIMIT: usize = 32;

/// One field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tlv<'a> {
    /// The extension that defined the field.
    pub extension_type: u16,
    /// Which field of that extension.
    pub field_type: u8,
    /// The value, at most 65,535 bytes.
    pub value: &'a [u8],
}

impl<'a> Tlv<'a> {
    /// The worker's name of extension 0x0002.
    ///
    /// # Errors
    /// [`TlvError::TooLong`] above [`USER_IDENTITY_LIMIT`] bytes.
    pub fn user_identity(name: &'a [u8]) -> Result<Self, TlvError> {
        if name.len() > USER_IDENTITY_LIMIT {
            return Err(TlvError::TooLong { length: name.len(), limit: USER_IDENTITY_LIMIT });
        }
        Ok(Self {
            extension_type: WORKER_HASHRATE_TRACKING,
            field_type: USER_IDENTITY,
            value: name,
        })
    }

    /// Appends the encoded field; a value above 65,535 bytes is a mistake of the caller.
    pub fn write(&self, out: &mut Vec<u8>) {
        debug_assert!(self.value.len() <= 0xffff);
        out.extend_from_slice(&self.extension_type.to_le_bytes());
        out.push(self.field_type);
        out.extend_from_slice(&(self.value.len() as u16).to_le_bytes());
        out.extend_from_slice(self.value);
    }
}

/// A worker's name as extension 0x0002 carries it, of a `user_identity` or a V1 user name: what follows the account and
/// its `.`, or the whole where there is none, cut behind the last whole character that fits.
pub fn worker_name(user_identity: &str) -> &str {
    let name = user_identity.split_once('.').map_or(user_identity, |(_, worker)| worker);
    let mut end = name.len().min(USER_IDENTITY_LIMIT);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The bytes behind a message's fields. They mean something only where an extension was negotiated.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// Wraps what follows a message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing follows the message.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields in order; the first malformed one ends the walk with its error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Tlv<'a>, TlvError>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            match read(rest) {
                Some((tlv, after)) => {
                    rest = after;
                    Some(Ok(tlv))
                }
                None => {
                    rest = &[];
                    Some(Err(TlvError::Truncated))
                }
            }
        })
    }

    /// The worker's name, where extension 0x0002 was negotiated.
    ///
    /// # Errors
    /// [`TlvError`] where the fields are malformed or the name is longer than its extension allows, in which case the
    /// recipient must reject the message (spec 3.4.3).
    pub fn user_identity(&self) -> Result<Option<&'a [u8]>, TlvError> {
        for tlv in self.iter() {
            let tlv = tlv?;
            if (tlv.extension_type, tlv.field_type) == (WORKER_HASHRATE_TRACKING, USER_IDENTITY) {
                return Tlv::user_identity(tlv.value).map(|tlv| Some(tlv.value));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Tlvs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What is wrong with a TLV field.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TlvError {
    /// The message ends inside a field.
    #[error("message ends inside a TLV field")]
    Truncated,
    /// The value is longer than its extension allows.
    #[error("TLV value of {length} bytes is above the limit of {limit}")]
    TooLong {
        /// Bytes of the value.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

fn read(input: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let ([e0, e1, field_type, l0, l1], rest) = input.split_first_chunk::<5>()?;
    let (value, rest) = rest.split_at_checked(u16::from_le_bytes([*l0, *l1]).into())?;
    let extension_type = u16::from_le_bytes([*e0, *e1]);
    Some((Tlv { extension_type, field_type: *field_type, value }, rest))
}

#[cfg(test)]
mod tests {
    use super::worker_name;

    #[test]
    fn names_of_workers_fit_their_field() {
        assert_eq!(worker_name("farm.rig7"), "rig7");
        assert_eq!(worker_name("farm.a.b"), "a.b");
        assert_eq!(worker_name("solo"), "solo");
        assert_eq!(worker_name("farm."), "");
        assert_eq!(worker_name(&"x".repeat(40)).len(), 32);
        // 31 bytes and a character of two: the character goes as a whole.
        assert_eq!(worker_name(&format!("farm.{}\u{e9}", "x".repeat(31))), "x".repeat(31));
    }
}
