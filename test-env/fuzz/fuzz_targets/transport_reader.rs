//! What arrives on a connection, in pieces cut anywhere: the same messages and the same end as in one piece, and those
//! that were sent.
#![no_main]

use std::sync::LazyLock;

use adit_sv2::frame::{Header, payload_limit};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::{Initiator, Opener, Responder, ResponderIdentity, Sealer, Validity};
use adit_transport::{CloseReason, Event};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// The module itself, which is nobody's business outside of its crate.
#[allow(dead_code)]
#[rustfmt::skip] // formatted where it lives
#[path = "../../../utils/transport/src/reader.rs"]
mod reader;

use reader::{Batch, Reader};

const NOW: u32 = 1_700_000_000;

static IDENTITY: LazyLock<ResponderIdentity> = LazyLock::new(|| {
    let authority = AuthoritySecretKey::from_entropy([1; 32]).expect("a secret key");
    ResponderIdentity::new(authority, Validity::default(), NOW, [[2; 32], [3; 32], [4; 32]])
});

#[derive(Arbitrary, Debug)]
struct Input {
    sent: Sent,
    /// Sizes of pieces, again and again.
    pieces: Vec<u16>,
    /// The largest payload or line.
    limit: u16,
}

#[derive(Arbitrary, Debug)]
enum Sent {
    /// Frames, sealed, then damaged in places, the last piece maybe missing.
    Frames { frames: Vec<Frame>, damage: Vec<(u16, u8)>, missing: u8 },
    /// Whatever this is, behind a handshake.
    Bytes(Vec<u8>),
    /// Lines, whatever is in them.
    Lines(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Frame {
    extension_type: u16,
    msg_type: u8,
    payload: Vec<u8>,
    /// The payload so many times, up to about three blocks.
    repeat: u8,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let most = 150_000 / self.payload.len().max(1);
        let payload = self.payload.repeat(most.min(usize::from(self.repeat) * 16 + 1));
        let msg_length = payload.len() as u32;
        let (extension_type, msg_type) = (self.extension_type & 0x7fff, self.msg_type);
        let header = Header { extension_type, channel_msg: false, msg_type, msg_length };
        [&header.to_bytes()[..], &payload].concat()
    }
}

/// A message as it was handed on: a frame with its header, or a line.
type Message = Vec<u8>;

fuzz_target!(|input: Input| {
    let limit = usize::from(input.limit);
    match &input.sent {
        Sent::Lines(bytes) => {
            let outcome = same(|| Reader::lines(limit), bytes, &input.pieces);
            assert_eq!(outcome, lines(bytes, limit));
        }
        Sent::Bytes(bytes) => {
            same(|| Reader::frames(pair().1, limit), bytes, &input.pieces);
        }
        Sent::Frames { frames, damage, missing } => {
            let mut frames: Vec<_> = frames.iter().take(6).map(Frame::bytes).collect();
            let mut wire = Vec::new();
            pair().0.seal_all(&frames.concat(), &mut wire).expect("whole frames");
            let mut first_damaged = wire.len();
            for (at, flip) in damage.iter().take(4).filter(|(_, flip)| *flip != 0) {
                if let Some(byte) = wire.get_mut(usize::from(*at)) {
                    *byte ^= flip;
                    first_damaged = first_damaged.min(usize::from(*at));
                }
            }
            wire.truncate(wire.len() - usize::from(*missing).min(wire.len()));
            let (read, end) = same(|| Reader::frames(pair().1, limit), &wire, &input.pieces);
            assert!(frames.starts_with(&read), "what was not sent");
            if first_damaged >= wire.len() {
                let allowed = |frame: &Message| {
                    let header = Header::parse(frame.first_chunk().expect("a header"));
                    header.msg_length as usize <= payload_limit(&header).min(limit)
                };
                let good = frames.iter().position(|frame| !allowed(frame));
                frames.truncate(good.unwrap_or(frames.len()));
                // What is missing at the end is at most one of the last few; what was refused is said to be.
                assert!(*missing > 0 || read.len() == frames.len());
                assert!(*missing > 0 || end.is_some() == good.is_some());
            }
        }
    }
});

/// The two ends of one and the same connection, each time.
fn pair() -> (Sealer, Opener) {
    let (initiator, act1) = Initiator::new(None, [[3; 32]; 2]);
    let (act2, sealer, _) =
        Responder::respond(&IDENTITY, &act1, [[4; 32]; 2]).expect("any 64 bytes are a key");
    let (_, opener, _) = initiator.finish(&act2, NOW, 0).expect("a good answer");
    (sealer, opener)
}

/// Reads bytes that arrive at once, byte by byte at their beginning and end, and in these pieces.
fn same(
    reader: impl Fn() -> Reader,
    bytes: &[u8],
    pieces: &[u16],
) -> (Vec<Message>, Option<CloseReason>) {
    let whole = read(reader(), bytes, [usize::MAX].into_iter().cycle());
    let cut = pieces.iter().map(|size| usize::from(*size).max(1)).cycle();
    let cut = cut.chain([usize::MAX].into_iter().cycle());
    assert_eq!(read(reader(), bytes, cut), whole, "in pieces");
    if bytes.len() < 2_000 {
        assert_eq!(read(reader(), bytes, [1].into_iter().cycle()), whole, "byte by byte");
    }
    whole
}

/// The messages, and why there are no more of them.
fn read(
    mut reader: Reader,
    mut bytes: &[u8],
    mut sizes: impl Iterator<Item = usize>,
) -> (Vec<Message>, Option<CloseReason>) {
    let (mut read, mut batch) = (Vec::new(), Batch::default());
    while !bytes.is_empty() {
        let size = sizes.next().expect("sizes without end");
        let (now, later) = bytes.split_at(size.min(bytes.len()));
        let mut chunk = now.to_vec();
        let outcome = reader.feed(&mut chunk, &mut batch);
        let before = read.len();
        read.extend(batch.events(&chunk).map(|event| match event {
            Event::Frame(header, payload) => [&header.to_bytes()[..], payload].concat(),
            Event::Line(line) => line.to_vec(),
            other => panic!("{other:?}"),
        }));
        assert_eq!(batch.len(), read.len() - before);
        assert_eq!(batch.is_empty(), read.len() == before);
        batch.clear();
        if let Err(reason) = outcome {
            return (read, Some(reason));
        }
        bytes = later;
    }
    (read, None)
}

/// What lines are, said shortly.
fn lines(bytes: &[u8], limit: usize) -> (Vec<Message>, Option<CloseReason>) {
    let mut read = Vec::new();
    let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = parts.next() {
        if line.len() > limit {
            return (read, Some(CloseReason::LineTooLong { limit }));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if parts.peek().is_some() && !line.is_empty() {
            read.push(line.to_vec());
        }
    }
    (read, None)
}
