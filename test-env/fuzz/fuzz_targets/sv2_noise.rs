//! Handshakes with damaged or invented messages, in both roles; sealed frames in pieces, damaged or not.
#![no_main]

use adit_fuzz::wire::{Damaged, Frame, IDENTITY, NOW, answer};
use adit_sv2::noise::{ACT1_LEN, ACT2_LEN, Initiator, OpenError, Opened, Opener, Sealer, Validity};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    entropy: [u8; 4],
    case: Case,
}

#[derive(Arbitrary, Debug)]
enum Case {
    /// The first message is whatever this is, and so is all that follows.
    InventedAct1([u8; ACT1_LEN], Vec<u8>),
    /// The answer is whatever this is.
    InventedAct2(Box<[u8; ACT2_LEN]>),
    /// One byte of a message differs.
    DamagedAct1 { at: u8, flip: u8 },
    /// The same of the answer.
    DamagedAct2 { at: u8, flip: u8 },
    /// The clocks of the two ends differ by this.
    Clocks { now: u32, tolerance: u32 },
    /// Frames, sealed, then damaged in places, then opened in pieces.
    Frames { frames: Vec<Frame>, limit: Option<u16>, damage: Vec<(u16, u8)>, pieces: Vec<u16> },
}

fuzz_target!(|input: Input| {
    let [a, b, c, d] = input.entropy.map(|byte| [byte.max(1); 32]);
    let initiator = || Initiator::new(Some(IDENTITY.authority()), [a, b]);
    let respond = |act1: &[u8; ACT1_LEN]| answer(act1, [c, d]);
    match input.case {
        Case::InventedAct1(act1, mut garbage) => {
            let (_, _, mut opener) = respond(&act1);
            let short = garbage.len() < 22;
            for _ in 0..2 {
                assert_eq!(opener.next(&mut garbage, |_| usize::MAX).is_ok(), short);
            }
        }
        Case::InventedAct2(act2) => {
            let (initiator, _) = initiator();
            assert!(initiator.finish(&act2, NOW, u32::MAX).is_err());
        }
        Case::DamagedAct1 { at, flip } => {
            let (initiator, mut act1) = initiator();
            act1[usize::from(at) % ACT1_LEN] ^= flip;
            let (act2, ..) = respond(&act1);
            assert_eq!(initiator.finish(&act2, NOW, 0).is_ok(), flip == 0);
        }
        Case::DamagedAct2 { at, flip } => {
            let (initiator, act1) = initiator();
            let (mut act2, ..) = respond(&act1);
            act2[usize::from(at) % ACT2_LEN] ^= flip;
            assert_eq!(initiator.finish(&act2, NOW, 0).is_ok(), flip == 0);
        }
        Case::Clocks { now, tolerance } => {
            let (initiator, act1) = initiator();
            let (act2, ..) = respond(&act1);
            let Validity { seconds, backdate } = Validity::default();
            let valid = (i64::from(NOW - backdate) - i64::from(tolerance))
                ..=(i64::from(NOW + seconds) + i64::from(tolerance));
            let expected = valid.contains(&i64::from(now));
            assert_eq!(initiator.finish(&act2, now, tolerance).is_ok(), expected);
        }
        Case::Frames { frames, limit, damage, pieces } => {
            let (initiator, act1) = initiator();
            let (act2, _, opener) = respond(&act1);
            let (sealer, ..) = initiator.finish(&act2, NOW, 0).expect("a good answer");
            transport(sealer, opener, &frames, limit, &damage, &pieces);
        }
    }
});

fn transport(
    mut sealer: Sealer,
    mut opener: Opener,
    frames: &[Frame],
    limit: Option<u16>,
    damage: &[(u16, u8)],
    pieces: &[u16],
) {
    // Frames that end before the first damage must come out; nothing may come out of what follows.
    let Damaged { frames, sealed, wire, intact } = Damaged::new(&mut sealer, frames, damage);
    let limit = limit.map_or(usize::MAX, usize::from);

    let (mut rest, mut buffer, mut opened, mut taken) = (&wire[..], Vec::new(), 0, 0);
    let mut pieces = pieces.iter().map(|piece| usize::from(*piece) + 1);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(pieces.next().unwrap_or(rest.len()).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = after;
        loop {
            match opener.next(&mut buffer, |_| limit) {
                Ok(Opened::Frame { header, payload, consumed }) => {
                    assert!([&header.to_bytes()[..], payload].concat() == frames[opened]);
                    assert!(payload.len() <= limit);
                    taken += consumed;
                    assert!(taken <= intact);
                    buffer.drain(..consumed);
                    opened += 1;
                }
                Ok(Opened::Incomplete { need }) => {
                    assert!(need > buffer.len());
                    break;
                }
                Err(error) => {
                    match error {
                        OpenError::TooLarge { header, .. } => {
                            assert!(header.msg_length as usize > limit);
                        }
                        _ => assert!(intact < wire.len(), "an intact frame does not open"),
                    }
                    // Once is enough: the genuine bytes do not heal it.
                    let again = opener.next(&mut sealed.clone(), |_| limit).expect_err("failed");
                    return assert_eq!(again, error);
                }
            }
        }
    }
    assert!(opened == frames.len() || intact < wire.len());
}
