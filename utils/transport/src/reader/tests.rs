use adit_sv2::frame::Header;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::{Initiator, OpenError, Responder, ResponderIdentity, Sealer, Validity};
use proptest::prelude::*;

use super::*;

fn pair() -> (Sealer, Opener) {
    let authority = AuthoritySecretKey::from_entropy([1; 32]).unwrap();
    let identity = ResponderIdentity::new(authority, Validity::default(), 0, [[2; 32]; 3]);
    let (initiator, act1) = Initiator::new(None, [[3; 32]; 2]);
    let (act2, sealer, _) = Responder::respond(&identity, &act1, [[4; 32]; 2]).unwrap();
    let (_, opener, _) = initiator.finish(&act2, 0, 0).unwrap();
    (sealer, opener)
}

fn frame(extension_type: u16, msg_type: u8, payload: &[u8]) -> Vec<u8> {
    let msg_length = payload.len() as u32;
    let header = Header { extension_type, channel_msg: false, msg_type, msg_length };
    [&header.to_bytes()[..], payload].concat()
}

/// The payloads or lines that come out when `wire` arrives in chunks of these sizes, again and again.
fn read_in_chunks(
    reader: &mut Reader,
    mut wire: &[u8],
    sizes: &[usize],
) -> Result<Vec<Vec<u8>>, CloseReason> {
    let mut read = Vec::new();
    let mut batch = Batch::default();
    for size in sizes.iter().cycle() {
        if wire.is_empty() {
            return Ok(read);
        }
        let (now, later) = wire.split_at((*size).min(wire.len()));
        let mut chunk = now.to_vec();
        let result = reader.feed(&mut chunk, &mut batch);
        read.extend(batch.events(&chunk).map(|event| match event {
            Event::Frame(_, bytes) | Event::Line(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }));
        batch.clear();
        result?;
        wire = later;
    }
    Ok(read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn frames_come_out_however_they_arrive(
        lengths in prop::collection::vec(prop_oneof![0usize..100, 60_000usize..140_000], 1..8),
        sizes in prop::collection::vec(prop_oneof![1usize..50, 1usize..70_000], 1..20),
    ) {
        let (mut sealer, opener) = pair();
        let mut reader = Reader::frames(opener, 1 << 20);
        let payloads: Vec<_> = (0u8..).zip(&lengths).map(|(i, length)| vec![i; *length]).collect();
        let mut wire = Vec::new();
        for payload in &payloads {
            sealer.seal(&frame(1, 0, payload), &mut wire).unwrap();
        }
        prop_assert_eq!(read_in_chunks(&mut reader, &wire, &sizes), Ok(payloads));
        prop_assert!(!reader.is_incomplete());
    }

    #[test]
    fn lines_come_out_however_they_arrive(
        text in "([a-z]{0,20}\r?\n){0,20}[a-z]{0,20}",
        sizes in prop::collection::vec(1usize..60, 1..20),
    ) {
        let mut expected: Vec<_> = text.split('\n').collect();
        let rest = expected.pop().unwrap();
        let expected = expected.iter().map(|line| line.trim_end_matches('\r').as_bytes().to_vec());
        let expected: Vec<_> = expected.filter(|line| !line.is_empty()).collect();
        let mut reader = Reader::lines(22);
        prop_assert_eq!(read_in_chunks(&mut reader, text.as_bytes(), &sizes), Ok(expected));
        prop_assert_eq!(reader.is_incomplete(), !rest.is_empty());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, sizes in prop::collection::vec(1usize..40, 1..5)) {
        let _ = read_in_chunks(&mut Reader::lines(30), &bytes, &sizes);
        let result = read_in_chunks(&mut Reader::frames(pair().1, 100), &bytes, &sizes);
        let refused = Err(CloseReason::BadFrame(OpenError::Decrypt));
        prop_assert_eq!(result, if bytes.len() < SEALED_HEADER_LEN { Ok(vec![]) } else { refused });
    }
}

#[test]
fn good_frames_before_a_bad_one_are_read() {
    let (mut sealer, opener) = pair();
    let mut wire = Vec::new();
    sealer
        .seal_all(&[frame(1, 0, b"a"), frame(1, 0, b"b"), frame(1, 0, b"c")].concat(), &mut wire)
        .unwrap();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    let (mut reader, mut batch) = (Reader::frames(opener, 100), Batch::default());
    assert_eq!(reader.feed(&mut wire, &mut batch), Err(CloseReason::BadFrame(OpenError::Decrypt)));
    assert_eq!(batch.len(), 2);
}

#[test]
fn a_frame_is_refused_by_its_header() {
    // Of the message's type, and of the link.
    for (frame, max_payload, limit) in
        [(frame(0, 0x1a, &[0; 5_000]), 1 << 24, 4_096), (frame(1, 0, &[0; 101]), 100, 100)]
    {
        let (mut sealer, opener) = pair();
        let mut reader = Reader::frames(opener, max_payload);
        let mut wire = Vec::new();
        sealer.seal(&frame, &mut wire).unwrap();
        let error = read_in_chunks(&mut reader, &wire[..SEALED_HEADER_LEN], &[7]).unwrap_err();
        match error {
            CloseReason::FrameTooLarge(OpenError::TooLarge { limit: l, .. }) => {
                assert_eq!(l, limit)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_line_is_refused_once_it_is_too_long() {
    let too_long = Err(CloseReason::LineTooLong { limit: 4 });
    for size in [1, 2, 5, 100] {
        let read = |bytes: &[u8]| read_in_chunks(&mut Reader::lines(4), bytes, &[size]);
        assert_eq!(read(b"abcd\nefgh\n"), Ok(vec![b"abcd".to_vec(), b"efgh".to_vec()]));
        assert_eq!(read(b"abcde"), too_long, "{size}");
        assert_eq!(read(b"ab\nabcde\n"), too_long, "{size}");
    }
}

#[test]
fn an_idle_reader_holds_no_memory() {
    let (mut sealer, opener) = pair();
    let mut reader = Reader::frames(opener, 100);
    let mut wire = Vec::new();
    sealer.seal(&frame(1, 0, &[5; 90]), &mut wire).unwrap();
    read_in_chunks(&mut reader, &wire, &[13]).unwrap();
    let Reader::Frames(reader) = reader else { panic!() };
    assert_eq!(reader.partial.capacity(), 0);
}
