//! Every message both ways against SRI's `parsers_sv2`: our frames in their parser, theirs in ours.
//!
//! Known divergences (each has its own test below):
//! 1. `protocol`: a `SetupConnection` for a protocol that does not exist is read by us, so that it can be answered with
//!    `SetupConnection.Error` as spec 3.6.1 demands; they cannot read it.
//! 2. `channel_bit`: a frame whose channel bit contradicts the message is refused by us; they ignore the bit.

mod common;

use adit_sv2::frame::Header;
use adit_sv2::messages::{AnyMessage, DecodeError, Message, mining};
use adit_sv2::tlv::{Tlv, WORKER_HASHRATE_TRACKING};
use common::Random;
use parsers_sv2::IsSv2Message;

const ROUNDS: u64 = 40;

fn their_header(header: &Header) -> framing_sv2::header::Header {
    framing_sv2::header::Header::from_bytes(&header.to_bytes()).expect("six bytes are a header")
}

#[test]
fn every_message_both_ways() {
    let mut count = 0;
    for info in AnyMessage::all() {
        for seed in 0..ROUNDS {
            let (header, mut payload) = common::frame(info, &mut Random(seed));
            if info.name == "SetupConnection" {
                payload[0] %= 3; // divergence `protocol`
            }
            let what = format!("{} seed {seed}", info.name);

            // Ours to them.
            let (ours, _) = AnyMessage::decode(&header, &payload).unwrap();
            let mut frame = Vec::new();
            ours.encode_frame(&mut frame);
            let mut received = frame[Header::LEN..].to_vec();
            let (theirs, tlvs) = parsers_sv2::parse_message_frame_with_tlvs(
                their_header(&header),
                &mut received,
                &[],
            )
            .unwrap_or_else(|error| panic!("{what}: they refuse ours: {error:?}"));
            assert!(tlvs.is_none(), "{what}");

            // Theirs to us.
            assert_eq!(theirs.message_type(), info.msg_type, "{what}");
            assert_eq!(theirs.channel_bit(), info.channel_msg, "{what}");
            assert_eq!(theirs.extension_type(), info.extension_type, "{what}");
            let written = binary_sv2::to_bytes(theirs).unwrap_or_else(|e| panic!("{what}: {e:?}"));
            assert_eq!(written, payload, "{what}: the same bytes");
            let (back, _) = AnyMessage::decode(&header, &written).unwrap();
            assert_eq!(back, ours, "{what}");
            count += 1;
        }
    }
    assert_eq!(count, 44 * ROUNDS);
}

#[test]
fn a_worker_name_both_ways() {
    let info = AnyMessage::all().find(|m| m.name == "SubmitSharesExtended").unwrap();
    let (header, payload) = common::frame(info, &mut Random(1));
    let (share, _) = mining::SubmitSharesExtended::decode(&payload).unwrap();
    let mut frame = Vec::new();
    let tlv = Tlv::user_identity(b"Worker_001").unwrap();
    adit_sv2::frame::encode_frame_with_tlvs(&share, &[tlv], &mut frame);

    let mut received = frame[Header::LEN..].to_vec();
    let negotiated = [WORKER_HASHRATE_TRACKING];
    let (_, tlvs) = parsers_sv2::parse_message_frame_with_tlvs(
        their_header(&header),
        &mut received,
        &negotiated,
    )
    .unwrap();
    let tlvs = tlvs.expect("they find the field");
    assert_eq!((tlvs.len(), &tlvs[0].value[..]), (1, &b"Worker_001"[..]));

    let theirs = parsers_sv2::Tlv::new(WORKER_HASHRATE_TRACKING, 1, b"Worker_001".to_vec());
    let written = [&payload[..], &theirs.encode().unwrap()].concat();
    let (_, tlvs) = mining::SubmitSharesExtended::decode(&written).unwrap();
    assert_eq!(tlvs.user_identity(), Ok(Some(&b"Worker_001"[..])));
}

#[test]
fn divergence_protocol() {
    let info = AnyMessage::all().find(|m| m.name == "SetupConnection").unwrap();
    let (header, mut payload) = common::frame(info, &mut Random(5));
    payload[0] = 3;
    assert!(AnyMessage::decode(&header, &payload).is_ok());
    let theirs =
        parsers_sv2::parse_message_frame_with_tlvs(their_header(&header), &mut payload, &[]);
    assert!(theirs.is_err(), "they know only 0 to 2");
}

#[test]
fn both_ignore_the_padding_of_a_bool() {
    let info = AnyMessage::all().find(|m| m.name == "NewExtendedMiningJob").unwrap();
    let (header, mut payload) = common::frame(info, &mut Random(5));
    let flag = payload.len() - {
        let (job, _) = mining::NewExtendedMiningJob::decode(&payload).unwrap();
        let (prefix, suffix) = (job.coinbase_tx_prefix, job.coinbase_tx_suffix);
        4 + prefix.as_bytes().len() + suffix.as_bytes().len() + 1 + 32 * job.merkle_path.len() + 1
    };
    payload[flag] = 0b1111_1110;
    let (job, _) = mining::NewExtendedMiningJob::decode(&payload).unwrap();
    assert!(!job.version_rolling_allowed, "only the lowest bit counts");
    match parsers_sv2::parse_message_frame_with_tlvs(their_header(&header), &mut payload, &[]) {
        Ok((
            parsers_sv2::AnyMessage::Mining(parsers_sv2::Mining::NewExtendedMiningJob(job)),
            _,
        )) => {
            assert!(!job.version_rolling_allowed);
        }
        other => panic!("they read something else: {other:?}"),
    }
}

#[test]
fn divergence_channel_bit() {
    let info = AnyMessage::all().find(|m| m.name == "SetTarget").unwrap();
    let (mut header, mut payload) = common::frame(info, &mut Random(5));
    header.channel_msg = false;
    assert!(matches!(AnyMessage::decode(&header, &payload), Err(DecodeError::ChannelBit { .. })));
    let theirs =
        parsers_sv2::parse_message_frame_with_tlvs(their_header(&header), &mut payload, &[]);
    assert!(theirs.is_ok(), "they do not look at the bit");
}
