use proptest::prelude::*;

use super::*;

const ANY: fn(&Header) -> usize = |_| usize::MAX;

/// The two ends of one direction.
fn direction() -> (Sealer, Opener) {
    (Sealer::new(Secret32([7; 32])), Opener::new(Secret32([7; 32])))
}

fn frame(msg_type: u8, payload: &[u8]) -> Vec<u8> {
    let header =
        Header { extension_type: 2, channel_msg: true, msg_type, msg_length: payload.len() as u32 };
    [&header.to_bytes()[..], payload].concat()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Opens all frames of `wire`, which comes in pieces of the given sizes (the last one again and again).
fn open_in_pieces(opener: &mut Opener, mut wire: &[u8], pieces: &[usize]) -> Vec<Vec<u8>> {
    let (mut frames, mut buf, mut pieces) = (Vec::new(), Vec::new(), pieces.iter().copied());
    let mut size = 1;
    while !wire.is_empty() {
        size = pieces.next().unwrap_or(size).clamp(1, wire.len());
        let (piece, rest) = wire.split_at(size);
        buf.extend_from_slice(piece);
        wire = rest;
        loop {
            match opener.next(&mut buf, ANY).unwrap() {
                Opened::Frame { header, payload, consumed } => {
                    frames.push([&header.to_bytes()[..], payload].concat());
                    buf.drain(..consumed);
                }
                Opened::Incomplete { need } => {
                    assert!(need > buf.len(), "asked for {need} bytes, has {}", buf.len());
                    break;
                }
            }
        }
    }
    assert!(buf.is_empty());
    frames
}

#[test]
fn payloads_around_the_block_sizes() {
    let (mut sealer, mut opener) = direction();
    let wire_lengths = [
        (0, 22),
        (1, 22 + 17),
        (65_518, 22 + 65_534),
        (65_519, 22 + 65_535),
        (65_520, 22 + 65_535 + 17),
        (131_037, 22 + 65_535 + 65_534),
        (131_038, 22 + 2 * 65_535),
        (131_039, 22 + 2 * 65_535 + 17),
    ];
    for (len, sealed) in wire_lengths {
        let (plain, mut wire) = (frame(9, &bytes(len)), Vec::new());
        sealer.seal(&plain, &mut wire).unwrap();
        assert_eq!(wire.len(), sealed, "{len}");
        assert_eq!(sealed_len(len), sealed, "{len}");
        wire.push(0xee);
        match opener.next(&mut wire, ANY).unwrap() {
            Opened::Frame { header, payload, consumed } => {
                assert_eq!(header.to_bytes(), plain[..6]);
                assert!(payload == &plain[6..], "{len}");
                assert_eq!(consumed, sealed);
            }
            Opened::Incomplete { need } => panic!("{len}: asks for {need}"),
        }
    }
}

#[test]
fn largest_payload() {
    let (mut sealer, mut opener) = direction();
    let (plain, mut wire) = (frame(9, &bytes(0xff_ffff)), Vec::new());
    sealer.seal(&plain, &mut wire).unwrap();
    assert!(open_in_pieces(&mut opener, &wire, &[wire.len()]) == [plain]);
}

#[test]
fn byte_by_byte() {
    let (mut sealer, mut opener) = direction();
    let frames = [frame(1, &[]), frame(2, &bytes(1)), frame(3, &bytes(300)), frame(4, &[])];
    let mut wire = Vec::new();
    sealer.seal_all(&frames.concat(), &mut wire).unwrap();
    assert_eq!(open_in_pieces(&mut opener, &wire, &[1]), frames);
}

#[test]
fn says_how_much_it_needs_and_asks_for_the_limit_once() {
    let (mut sealer, mut opener) = direction();
    let mut wire = Vec::new();
    sealer.seal(&frame(1, &bytes(100)), &mut wire).unwrap();
    let asked = std::cell::Cell::new(0);
    let limit = |header: &Header| {
        asked.set(asked.get() + 1);
        header.msg_length as usize
    };
    for (have, expected) in [(0, 22), (21, 22), (22, 22 + 116), (137, 22 + 116)] {
        // A fresh copy as well as the buffer whose header was opened in place will do.
        match opener.next(&mut wire.clone()[..have], limit).unwrap() {
            Opened::Incomplete { need } => assert_eq!(need, expected),
            frame => panic!("{frame:?}"),
        }
    }
    assert!(matches!(opener.next(&mut wire, limit), Ok(Opened::Frame { .. })));
    assert_eq!(asked.get(), 1);
}

#[test]
fn too_large_is_refused_by_the_header_alone() {
    let (mut sealer, mut opener) = direction();
    let mut wire = Vec::new();
    sealer.seal(&frame(0x1a, &bytes(1001)), &mut wire).unwrap();
    let error = opener.next(&mut wire[..22], |_| 1000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a frame of 1001 bytes, type 0x1a, extension 0x0002: at most 1000 are accepted"
    );
    assert_eq!(opener.next(&mut wire, ANY).unwrap_err(), error);
}

#[test]
fn every_damaged_byte_is_noticed() {
    let (mut sealer, _) = direction();
    let mut wire = Vec::new();
    sealer.seal(&frame(1, &bytes(20)), &mut wire).unwrap();
    for at in 0..wire.len() {
        let mut damaged = wire.clone();
        damaged[at] ^= 0x80;
        let (_, mut opener) = direction();
        assert_eq!(opener.next(&mut damaged, ANY).unwrap_err(), OpenError::Decrypt, "{at}");
        // The genuine bytes, sent again, do not heal it.
        assert_eq!(opener.next(&mut wire.clone(), ANY).unwrap_err(), OpenError::Decrypt, "{at}");
    }
}

#[test]
fn damage_in_a_later_block_is_noticed() {
    let (mut sealer, mut opener) = direction();
    let mut wire = Vec::new();
    sealer.seal(&frame(1, &bytes(140_000)), &mut wire).unwrap();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    assert_eq!(opener.next(&mut wire, ANY).unwrap_err(), OpenError::Decrypt);
}

#[test]
fn frames_out_of_order_do_not_open() {
    let (mut sealer, mut opener) = direction();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    sealer.seal(&frame(1, &[]), &mut first).unwrap();
    sealer.seal(&frame(2, &[]), &mut second).unwrap();
    assert_eq!(opener.next(&mut second, ANY).unwrap_err(), OpenError::Decrypt);
}

#[test]
fn refuses_to_seal_what_is_not_a_frame() {
    let (mut sealer, mut opener) = direction();
    let good = frame(1, &bytes(10));
    let mut wire = Vec::new();
    let length = |have, announced| Err(SealError::Length { have, announced });
    assert_eq!(sealer.seal(&[], &mut wire), length(0, 6));
    assert_eq!(sealer.seal(&good[..5], &mut wire), length(5, 6));
    assert_eq!(sealer.seal(&good[..15], &mut wire), length(15, 16));
    assert_eq!(sealer.seal(&[&good[..], &[0]].concat(), &mut wire), length(17, 16));
    assert!(wire.is_empty());
    // The frames before a bad one go out, and the connection lives on.
    assert_eq!(sealer.seal_all(&[&good[..], &good[..9]].concat(), &mut wire), length(9, 16));
    sealer.seal_all(&[], &mut wire).unwrap();
    sealer.seal(&good, &mut wire).unwrap();
    assert_eq!(open_in_pieces(&mut opener, &wire, &[1000]), [good.clone(), good]);
}

#[test]
fn nonces_run_out_before_a_frame_not_within_it() {
    let (mut sealer, mut opener) = direction();
    (sealer.nonce, opener.nonce) = (u64::MAX - 3, u64::MAX - 3);
    let mut wire = Vec::new();
    sealer.seal(&frame(1, &[1]), &mut wire).unwrap();
    assert_eq!(sealer.seal(&frame(1, &[1]), &mut wire), Err(SealError::Exhausted));
    sealer.seal(&frame(1, &[]), &mut wire).unwrap();
    assert_eq!(sealer.seal(&frame(1, &[]), &mut wire), Err(SealError::Exhausted));
    assert_eq!(open_in_pieces(&mut opener, &wire, &[1000]).len(), 2);
    assert_eq!(opener.next(&mut wire, ANY).unwrap_err(), OpenError::Exhausted);
}

/// Sealing into a buffer with room must not touch the allocator.
#[test]
fn a_buffer_with_room_is_kept() {
    let (mut sealer, _) = direction();
    let mut wire = Vec::with_capacity(sealed_len(140_000));
    let (start, room) = (wire.as_ptr(), wire.capacity());
    sealer.seal(&frame(1, &bytes(140_000)), &mut wire).unwrap();
    assert_eq!((wire.as_ptr(), wire.capacity()), (start, room));
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0usize..200).prop_map(bytes),
        1 => (65_500usize..65_540).prop_map(bytes),
        1 => (131_020usize..131_060).prop_map(bytes),
    ]
}

proptest! {
    #[test]
    fn any_frames_in_any_pieces(
        payloads in prop::collection::vec(payload(), 1..6),
        pieces in prop::collection::vec(1usize..70_000, 0..8),
        last in 20usize..70_000,
    ) {
        let (mut sealer, mut opener) = direction();
        let frames: Vec<_> = payloads.iter().map(|payload| frame(3, payload)).collect();
        let mut wire = Vec::new();
        sealer.seal_all(&frames.concat(), &mut wire).unwrap();
        prop_assert_eq!(wire.len(), payloads.iter().map(|p| sealed_len(p.len())).sum::<usize>());
        let pieces = [&pieces[..], &[last]].concat();
        prop_assert!(open_in_pieces(&mut opener, &wire, &pieces) == frames);
    }

    #[test]
    fn garbage_is_an_error_or_incomplete(mut garbage: Vec<u8>, again: bool) {
        let (_, mut opener) = direction();
        let short = garbage.len() < SEALED_HEADER_LEN;
        prop_assert_eq!(opener.next(&mut garbage, ANY).is_ok(), short);
        if again {
            prop_assert_eq!(opener.next(&mut garbage, ANY).is_ok(), short);
        }
    }

    #[test]
    fn garbage_is_never_sealed_as_a_frame(garbage: Vec<u8>) {
        let (mut sealer, mut opener) = direction();
        let mut wire = Vec::new();
        if sealer.seal_all(&garbage, &mut wire).is_ok() {
            prop_assert_eq!(open_in_pieces(&mut opener, &wire, &[wire.len()]).concat(), garbage);
        }
    }
}
