//! Requests for channels (spec 5.3.2 and 5.3.4).

use adit_mining::{ChannelKind, Target};
use adit_sv2::messages::mining::{OpenExtendedMiningChannel, OpenStandardMiningChannel};

/// A request that is in order.
#[derive(Clone, Debug)]
pub struct ChannelRequest {
    /// As the client gave it.
    pub request_id: u32,
    /// Standard or extended.
    pub kind: ChannelKind,
    /// A text without control characters; may be empty.
    pub identity: String,
    /// Hashes per second; 0 if not known.
    pub hash_rate: f64,
    /// The easiest target that the client takes.
    pub max_target: Target,
    /// What the client rolls, in bytes.
    pub extranonce_size: usize,
}

impl ChannelRequest {
    /// Checks a request; an error is its code.
    pub fn standard(message: &OpenStandardMiningChannel<'_>) -> Result<Self, &'static str> {
        let identity = std::str::from_utf8(message.user_identity.as_bytes()).ok();
        let identity = identity.filter(|text| !text.contains(char::is_control));
        let identity = identity.ok_or("invalid-user-identity")?.to_owned();
        let hash_rate = f64::from(message.nominal_hash_rate);
        if !is_hash_rate(hash_rate) {
            return Err("invalid-nominal-hashrate");
        }
        Ok(Self {
            request_id: message.request_id,
            kind: ChannelKind::Standard,
            identity,
            hash_rate,
            max_target: Target::from_le_bytes(message.max_target),
            extranonce_size: 0,
        })
    }

    /// Checks a request of a client that may have said that it takes `standard_jobs` only; an error is its code. Whether
    /// so large an extranonce can be given is the caller's to say.
    pub fn extended(
        message: &OpenExtendedMiningChannel<'_>,
        standard_jobs: bool,
    ) -> Result<Self, &'static str> {
        let OpenExtendedMiningChannel {
            request_id,
            user_identity,
            nominal_hash_rate,
            max_target,
            min_extranonce_size,
        } = *message;
        if standard_jobs {
            return Err("extended-channels-not-supported-for-standard-jobs");
        }
        let common =
            OpenStandardMiningChannel { request_id, user_identity, nominal_hash_rate, max_target };
        let extranonce_size = usize::from(min_extranonce_size);
        Ok(Self { kind: ChannelKind::Extended, extranonce_size, ..Self::standard(&common)? })
    }
}

/// Whether a hashrate is a number that a device can have.
pub fn is_hash_rate(hash_rate: f64) -> bool {
    hash_rate.is_finite() && hash_rate >= 0.0
}

#[cfg(test)]
mod tests {
    use adit_sv2::codec::Str0255;

    use super::*;

    fn open(user_identity: &str, nominal_hash_rate: f32) -> OpenExtendedMiningChannel<'_> {
        OpenExtendedMiningChannel {
            request_id: 3,
            user_identity: Str0255::cut(user_identity),
            nominal_hash_rate,
            max_target: [0xff; 32],
            min_extranonce_size: 8,
        }
    }

    #[test]
    fn what_is_wrong_has_its_code() {
        let code = |identity: &str, hash_rate: f32, standard_jobs: bool| {
            ChannelRequest::extended(&open(identity, hash_rate), standard_jobs).err()
        };
        assert_eq!(code("a", 1.0, true), Some("extended-channels-not-supported-for-standard-jobs"));
        assert_eq!(code("a\n", 1.0, false), Some("invalid-user-identity"));
        for wrong in [-1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(code("a", wrong, false), Some("invalid-nominal-hashrate"));
        }
        let request = ChannelRequest::extended(&open("", 0.0), false).unwrap();
        assert_eq!((request.kind, request.extranonce_size), (ChannelKind::Extended, 8));
        assert_eq!((request.identity.as_str(), request.hash_rate), ("", 0.0));
    }
}
