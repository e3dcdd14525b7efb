//! Framing (spec 3.2): the six bytes before every message, and how large a message of each type may be.

use crate::messages::Message;
use crate::tlv::Tlv;

/// Bit 15 of `extension_type`: the payload begins with a channel id (spec 3.2.1).
const CHANNEL_MSG: u16 = 0x8000;

/// The largest `msg_length` that a frame can announce.
pub const MAX_PAYLOAD: usize = 0xff_ffff;

/// The frame header.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Header {
    /// The extension that defined the message, without the channel bit; 0 for the core protocols.
    pub extension_type: u16,
    /// Whether the first four payload bytes are a channel id.
    pub channel_msg: bool,
    /// Message type within the extension.
    pub msg_type: u8,
    /// Payload bytes in plaintext, at most 2^24 - 1.
    pub msg_length: u32,
}

impl Header {
    /// Bytes of an encoded header.
    pub const LEN: usize = 6;

    /// Reads a header; every six bytes are one.
    #[inline]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [e0, e1, msg_type, l0, l1, l2] = *bytes;
        let extension = u16::from_le_bytes([e0, e1]);
        Self {
            extension_type: extension & !CHANNEL_MSG,
            channel_msg: extension & CHANNEL_MSG != 0,
            msg_type,
            msg_length: u32::from_le_bytes([l0, l1, l2, 0]),
        }
    }

    /// Encodes the header; `msg_length` is cut to 24 bits.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [e0, e1] =
            (self.extension_type | if self.channel_msg { CHANNEL_MSG } else { 0 }).to_le_bytes();
        let [l0, l1, l2, _] = self.msg_length.to_le_bytes();
        [e0, e1, self.msg_type, l0, l1, l2]
    }
}

/// Appends the frame of `message`: header and payload, in plaintext.
#[inline]
pub fn encode_frame<'m, M: Message<'m>>(message: &M, out: &mut Vec<u8>) {
    encode_frame_with_tlvs(message, &[], out);
}

/// Appends the frame of `message` with `tlvs` behind its fields (spec 3.4.3). The caller orders them by extension.
#[inline]
pub fn encode_frame_with_tlvs<'m, M: Message<'m>>(
    message: &M,
    tlvs: &[Tlv<'_>],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&[0; Header::LEN]);
    message.encode(out);
    tlvs.iter().for_each(|tlv| tlv.write(out));
    let msg_length = out.len() - start - Header::LEN;
    debug_assert!(msg_length <= MAX_PAYLOAD, "{} of {msg_length} bytes", M::NAME);
    let header = Header {
        extension_type: M::EXTENSION,
        channel_msg: M::CHANNEL,
        msg_type: M::TYPE,
        msg_length: msg_length as u32,
    };
    out[start..start + Header::LEN].copy_from_slice(&header.to_bytes());
}

/// The largest payload that a well-meaning peer sends with this header.
///
/// A frame is refused by its header alone, so that a peer cannot make us hold 16 MB by announcing them.
pub fn payload_limit(header: &Header) -> usize {
    use crate::messages::{job_declaration as jd, mining, template_distribution as td};
    if header.extension_type != 0 {
        return EXTENSION_PAYLOAD;
    }
    match header.msg_type {
        jd::DeclareMiningJob::TYPE
        | jd::ProvideMissingTransactions::TYPE
        | jd::ProvideMissingTransactionsSuccess::TYPE
        | td::RequestTransactionDataSuccess::TYPE => MAX_PAYLOAD,
        mining::NewExtendedMiningJob::TYPE => 150_000, // two coinbase parts and 255 merkle steps
        mining::SetCustomMiningJob::TYPE
        | jd::AllocateMiningJobTokenSuccess::TYPE
        | jd::DeclareMiningJobError::TYPE
        | td::NewTemplate::TYPE
        | td::SubmitSolution::TYPE => 80_000, // one B0_64K, 255 merkle steps, small fields
        mining::SetGroupChannel::TYPE => 262_200,      // 65,535 channel ids
        _ => SMALL_PAYLOAD,
    }
}

/// Messages without large fields, the five strings of `SetupConnection` and TLVs included.
const SMALL_PAYLOAD: usize = 4_096;
/// Extension messages: `RequestExtensions` lists up to 65,535 ids twice; unknown ones are forwarded or dropped.
const EXTENSION_PAYLOAD: usize = 262_200;
