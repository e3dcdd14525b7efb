//! What arrives on a connection, in pieces cut anywhere: the same messages and the same end as in one piece, and those
//! that were sent.
#![no_main]

use adit_fuzz::wire::{Damaged, Frame, connection};
use adit_sv2::frame::{Header, payload_limit};
use adit_transport::{CloseReason, Event};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// The module itself, which is nobody's business outside of its crate.
#[allow(dead_code)]
#[rustfmt::skip] // formatted where it lives
#[path = "../../../utils/transport/src/reader.rs"]
mod reader;

use reader::{Batch, Reader};

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
            same(|| Reader::frames(connection().1, limit), bytes, &input.pieces);
        }
        Sent::Frames { frames, damage, missing } => {
            let sent = Damaged::new(&mut connection().0, frames, damage);
            let Damaged { mut frames, mut wire, intact, .. } = sent;
            wire.truncate(wire.len() - usize::from(*missing).min(wire.len()));
            let (read, end) = same(|| Reader::frames(connection().1, limit), &wire, &input.pieces);
            assert!(frames.starts_with(&read), "what was not sent");
            if intact >= wire.len() {
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
