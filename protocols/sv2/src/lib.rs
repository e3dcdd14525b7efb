//! Stratum V2 on the wire: data types, messages, framing, TLVs, the Noise handshake and transport, authority keys.
//!
//! Bytes in, bytes out: no sockets, no clock, no random numbers; time and entropy are arguments. The spec is
//! `stratum-mining/sv2-spec`; each item names its section.
//!
//! ```
//! use adit_sv2::frame::{Header, encode_frame};
//! use adit_sv2::messages::{AnyMessage, mining::SubmitSharesSuccess};
//!
//! let mut out = Vec::new();
//! let ack = SubmitSharesSuccess { channel_id: 7, last_sequence_number: 3, new_submits_accepted_count: 4, new_shares_sum: 9 };
//! encode_frame(&ack, &mut out);
//!
//! let (header, payload) = out.split_first_chunk().expect("a frame begins with its header");
//! let (message, tlvs) = AnyMessage::decode(&Header::parse(header), payload)?;
//! assert_eq!(message.name(), "SubmitShares.Success");
//! assert!(tlvs.is_empty());
//! # Ok::<(), adit_sv2::messages::DecodeError>(())
//! ```

pub mod codec;
pub mod frame;
pub mod keys;
pub mod messages;
pub mod noise;
pub mod tlv;
