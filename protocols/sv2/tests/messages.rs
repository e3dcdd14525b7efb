//! Every message: what is read is written back to the letter, and no input breaks a reader.

mod common;

use adit_sv2::frame::{Header, encode_frame, encode_frame_with_tlvs};
use adit_sv2::messages::mining::SubmitSharesExtended;
use adit_sv2::messages::{AnyMessage, DecodeError, Message};
use adit_sv2::tlv::{Tlv, TlvError, Tlvs};
use common::Random;
use proptest::prelude::*;

const ROUNDS: u64 = 40;

#[test]
fn every_message_reads_back_as_written() {
    let mut count = 0;
    for info in AnyMessage::all() {
        for seed in 0..ROUNDS {
            let (header, payload) = common::frame(info, &mut Random(seed));
            let (message, tlvs) = AnyMessage::decode(&header, &payload)
                .unwrap_or_else(|error| panic!("{} seed {seed}: {error}", info.name));
            assert!(tlvs.is_empty(), "{} seed {seed}", info.name);
            assert_eq!(message.name(), info.name);
            assert!(message.to_string().starts_with(info.name));
            let mut frame = Vec::new();
            message.encode_frame(&mut frame);
            assert_eq!(frame[..Header::LEN], header.to_bytes(), "{} seed {seed}", info.name);
            assert_eq!(frame[Header::LEN..], payload, "{} seed {seed}", info.name);
            count += 1;
        }
    }
    assert_eq!(count, 44 * ROUNDS, "common 5, mining 21, declaration 8, templates 7, extensions 3");
}

#[test]
fn types_and_channel_bits_are_those_of_the_spec() {
    // Spec 8 at commit 0f38d51, and extension 0x0001 section 3.
    let channel: Vec<u8> =
        (AnyMessage::all()).filter(|m| m.channel_msg).map(|m| m.msg_type).collect();
    let spec = [
        0x03, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1f, 0x20, 0x21, 0x22, 0x23,
        0x24,
    ];
    assert_eq!(channel, spec);
    let core: Vec<u8> =
        (AnyMessage::all()).filter(|m| m.extension_type == 0).map(|m| m.msg_type).collect();
    let spec = (0x00..=0x04)
        .chain(0x10..=0x1d)
        .chain(0x1f..=0x25)
        .chain([0x50, 0x51, 0x55, 0x56, 0x57, 0x58, 0x59, 0x60])
        .chain(0x70..=0x76);
    assert_eq!(core, spec.collect::<Vec<_>>());
}

#[test]
fn every_truncation_names_message_field_and_offset() {
    for info in AnyMessage::all() {
        let (header, payload) = common::frame(info, &mut Random(7));
        for end in 0..payload.len().min(600) {
            match AnyMessage::decode(&header, &payload[..end]) {
                Err(DecodeError::Field { message, field, offset, .. }) => {
                    assert_eq!(message, info.name);
                    assert!(info.fields.iter().any(|(name, _)| *name == field), "{field}");
                    assert!(offset <= end);
                }
                other => panic!("{} cut at {end} of {}: {other:?}", info.name, payload.len()),
            }
        }
    }
}

#[test]
fn a_wrong_channel_bit_and_unknown_types_are_refused() {
    for info in AnyMessage::all() {
        let (mut header, payload) = common::frame(info, &mut Random(3));
        header.channel_msg = !header.channel_msg;
        assert_eq!(
            AnyMessage::decode(&header, &payload).map(|_| ()),
            Err(DecodeError::ChannelBit { message: info.name, found: header.channel_msg })
        );
    }
    let header = Header { extension_type: 0x4000, channel_msg: true, msg_type: 0, msg_length: 0 };
    let error = AnyMessage::decode(&header, &[]).unwrap_err();
    assert_eq!(error.to_string(), "no message of any protocol has type 0x00 (extension 0x4000)");
}

#[test]
fn tlvs_follow_the_fields_in_little_endian() {
    let share = SubmitSharesExtended {
        channel_id: 1,
        sequence_number: 2,
        job_id: 3,
        nonce: 4,
        ntime: 5,
        version: 6,
        extranonce: adit_sv2::codec::B032::new(&[9; 8]).unwrap(),
    };
    let (mut plain, mut frame) = (Vec::new(), Vec::new());
    encode_frame(&share, &mut plain);
    encode_frame_with_tlvs(&share, &[Tlv::user_identity(b"Worker_001").unwrap()], &mut frame);
    assert_eq!(frame[..2], [0x00, 0x80], "TLVs leave extension 0 and the channel bit alone");
    assert_eq!(frame[plain.len()..], *b"\x02\x00\x01\x0a\x00Worker_001");

    let (read, tlvs) = SubmitSharesExtended::decode(&frame[Header::LEN..]).unwrap();
    assert_eq!(read, share);
    assert_eq!(tlvs.user_identity(), Ok(Some(&b"Worker_001"[..])));
    assert_eq!(Tlv::user_identity(&[0; 33]), Err(TlvError::TooLong { length: 33, limit: 32 }));
    assert_eq!(Tlvs::new(&[2, 0, 1, 200, 0]).user_identity(), Err(TlvError::Truncated));
    let long = [&[2, 0, 1, 33, 0][..], &[b'x'; 33]].concat();
    assert!(Tlvs::new(&long).user_identity().is_err());
    assert_eq!(
        Tlvs::new(&[9, 0, 1, 0, 0]).user_identity(),
        Ok(None),
        "other extensions are passed by"
    );
}

proptest! {
    #[test]
    fn no_payload_breaks_a_reader(
        extension_type in 0_u16..3,
        channel_msg: bool,
        msg_type: u8,
        payload in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let header = Header { extension_type, channel_msg, msg_type, msg_length: payload.len() as u32 };
        if let Ok((message, tlvs)) = AnyMessage::decode(&header, &payload) {
            let _ = (message.to_string(), tlvs.iter().count(), tlvs.user_identity());
            let mut frame = Vec::new();
            message.encode_frame(&mut frame);
            prop_assert!(frame.len() <= Header::LEN + payload.len());
        }
    }

    #[test]
    fn a_mutated_message_never_breaks_a_reader(seed: u64, index: usize, at: usize, byte: u8) {
        let messages: Vec<_> = AnyMessage::all().collect();
        let (header, mut payload) = common::frame(messages[index % messages.len()], &mut Random(seed));
        let at = at % payload.len();
        payload[at] = byte;
        if let Ok((message, _)) = AnyMessage::decode(&header, &payload) {
            let _ = message.to_string();
        }
    }

    #[test]
    fn any_six_bytes_are_a_header(bytes: [u8; 6]) {
        prop_assert_eq!(Header::parse(&bytes).to_bytes(), bytes);
    }
}
