//! The same frame to our decoder and to that of the reference implementation (`parsers_sv2`): both read it, or neither,
//! and write the same bytes. Where they may differ is named here, each with its reason.
#![no_main]

use adit_sv2::frame::Header;
use adit_sv2::messages::{AnyMessage, DecodeError};
use adit_sv2::tlv::WORKER_HASHRATE_TRACKING;
use libfuzzer_sys::fuzz_target;
use parsers_sv2::IsSv2Message;

/// A difference that is known.
#[derive(Debug)]
enum Divergence {
    /// We read a `SetupConnection` for a protocol that does not exist, so that it can be answered (spec 3.6.1).
    Protocol,
    /// A channel bit that contradicts the message is refused by us; they do not look at it.
    ChannelBit,
}

fuzz_target!(|data: &[u8]| {
    let Some((bytes, payload)) = data.split_first_chunk() else { return };
    let header = Header { msg_length: payload.len() as u32, ..Header::parse(bytes) };
    let ours = AnyMessage::decode(&header, payload);
    let their_header = framing_sv2::header::Header::from_bytes(&header.to_bytes());
    let mut received = payload.to_vec();
    let theirs = parsers_sv2::parse_message_frame_with_tlvs(
        their_header.expect("six bytes are a header"),
        &mut received,
        &[WORKER_HASHRATE_TRACKING],
    );
    match (ours, theirs) {
        (Ok((ours, tlvs)), Ok((theirs, their_tlvs))) => {
            assert_eq!(theirs.message_type(), header.msg_type);
            assert_eq!(theirs.channel_bit(), header.channel_msg);
            let mut frame = Vec::new();
            ours.encode_frame(&mut frame);
            let written = binary_sv2::to_bytes(theirs).expect("what they read they can write");
            assert_eq!(written, frame[Header::LEN..], "{ours}");
            // The fields before the first malformed one, as far as their extension was negotiated.
            let tlvs = tlvs.iter().map_while(Result::ok);
            let tlvs: Vec<_> =
                tlvs.filter(|tlv| tlv.extension_type == WORKER_HASHRATE_TRACKING).collect();
            let their_tlvs = their_tlvs.unwrap_or_default();
            assert_eq!(tlvs.len(), their_tlvs.len(), "{ours}");
            for (ours, theirs) in tlvs.iter().zip(&their_tlvs) {
                assert_eq!(ours.value, theirs.value);
            }
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => {
            let named = match &ours {
                Ok((message, _)) if message.name() == "SetupConnection" && payload[0] > 2 => {
                    Some(Divergence::Protocol)
                }
                Err(DecodeError::ChannelBit { .. }) => Some(Divergence::ChannelBit),
                _ => None,
            };
            assert!(named.is_some(), "ours {ours:?}, theirs {theirs:?}");
        }
    }
});
