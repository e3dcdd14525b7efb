//! From received bytes to whole frames and lines. No sockets here.
//!
//! Messages are opened and handed on where they were received; only what is left of an incomplete one is copied, into a
//! buffer that lives until it is complete. An idle connection has none.

use std::mem;
use std::ops::Range;

use adit_sv2::frame::{Header, payload_limit};
use adit_sv2::noise::{Opened, Opener, SEALED_HEADER_LEN};

use crate::{CloseReason, Event};

/// What a connection speaks, on the receiving side.
#[derive(Debug)]
pub(crate) enum Reader {
    Frames(Box<FrameReader>),
    Lines(LineReader),
}

impl Reader {
    pub(crate) fn frames(opener: Opener, max_payload: usize) -> Self {
        let need = SEALED_HEADER_LEN;
        Self::Frames(Box::new(FrameReader { opener, max_payload, partial: Vec::new(), need }))
    }

    pub(crate) fn lines(max_line: usize) -> Self {
        Self::Lines(LineReader { limit: max_line, partial: Vec::new() })
    }

    /// Takes received bytes; whole messages are then in `batch`, as places in itself and in `chunk`.
    ///
    /// On an error the messages before the faulty one are in `batch`, and the connection is to be closed.
    pub(crate) fn feed(&mut self, chunk: &mut [u8], batch: &mut Batch) -> Result<(), CloseReason> {
        match self {
            Self::Frames(reader) => reader.feed(chunk, batch),
            Self::Lines(reader) => reader.feed(chunk, batch),
        }
    }

    /// Bytes of the message that was begun, as far as is known yet; 0 if none was.
    pub(crate) fn begun(&self) -> usize {
        match self {
            Self::Frames(reader) if reader.partial.is_empty() => 0,
            Self::Frames(reader) => reader.need,
            Self::Lines(reader) => reader.partial.len(),
        }
    }

    /// Whether a message was begun and is not complete.
    pub(crate) fn is_incomplete(&self) -> bool {
        match self {
            Self::Frames(reader) => !reader.partial.is_empty(),
            Self::Lines(reader) => !reader.partial.is_empty(),
        }
    }
}

/// The messages of one read.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    items: Vec<Item>,
    /// Holds the first message, if it began in an earlier read.
    done: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Item {
    /// None for a line.
    header: Option<Header>,
    /// In `done`, else in the chunk.
    in_done: bool,
    range: Range<usize>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The messages; `chunk` is what was fed.
    pub(crate) fn events<'b>(&'b self, chunk: &'b [u8]) -> impl Iterator<Item = Event<'b>> {
        self.items.iter().map(move |item| {
            let bytes = if item.in_done { &self.done } else { chunk };
            let bytes = &bytes[item.range.clone()];
            item.header.map_or(Event::Line(bytes), |header| Event::Frame(header, bytes))
        })
    }

    /// Forgets the messages.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.done = Vec::new();
    }
}

#[derive(Debug)]
pub(crate) struct FrameReader {
    opener: Opener,
    max_payload: usize,
    /// The start of a sealed frame; its header is opened already where 22 bytes are here.
    partial: Vec<u8>,
    /// Bytes that `partial` must have before there is more to open.
    need: usize,
}

impl FrameReader {
    fn feed(&mut self, chunk: &mut [u8], batch: &mut Batch) -> Result<(), CloseReason> {
        let max_payload = self.max_payload;
        let limit = |header: &Header| payload_limit(header).min(max_payload);
        let mut at = 0;
        while !self.partial.is_empty() {
            let take = (chunk.len() - at).min(self.need - self.partial.len());
            self.partial.extend_from_slice(&chunk[at..at + take]);
            at += take;
            if self.partial.len() < self.need {
                return Ok(());
            }
            match self.opener.next(&mut self.partial, limit)? {
                Opened::Incomplete { need } => self.need = need,
                Opened::Frame { header, payload, .. } => {
                    let range = SEALED_HEADER_LEN..SEALED_HEADER_LEN + payload.len();
                    batch.items.push(Item { header: Some(header), in_done: true, range });
                    batch.done = mem::take(&mut self.partial);
                }
            }
        }
        while at < chunk.len() {
            match self.opener.next(&mut chunk[at..], limit)? {
                Opened::Incomplete { need } => {
                    self.need = need;
                    self.partial = chunk[at..].to_vec();
                    break;
                }
                Opened::Frame { header, payload, consumed } => {
                    let start = at + SEALED_HEADER_LEN;
                    let range = start..start + payload.len();
                    batch.items.push(Item { header: Some(header), in_done: false, range });
                    at += consumed;
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct LineReader {
    limit: usize,
    /// The start of a line.
    partial: Vec<u8>,
}

impl LineReader {
    fn feed(&mut self, chunk: &[u8], batch: &mut Batch) -> Result<(), CloseReason> {
        let mut at = 0;
        while let Some(length) = chunk[at..].iter().position(|byte| *byte == b'\n') {
            let end = at + length;
            self.check(length)?;
            if self.partial.is_empty() {
                batch.push_line(false, at, &chunk[at..end]);
            } else {
                self.partial.extend_from_slice(&chunk[at..end]);
                let done = mem::take(&mut self.partial);
                batch.push_line(true, 0, &done);
                batch.done = done;
            }
            at = end + 1;
        }
        self.check(chunk.len() - at)?;
        self.partial.extend_from_slice(&chunk[at..]);
        Ok(())
    }

    fn check(&self, more: usize) -> Result<(), CloseReason> {
        if self.partial.len() + more <= self.limit {
            return Ok(());
        }
        Err(CloseReason::LineTooLong { limit: self.limit })
    }
}

impl Batch {
    fn push_line(&mut self, in_done: bool, start: usize, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            let range = start..start + line.len();
            self.items.push(Item { header: None, in_done, range });
        }
    }
}

#[cfg(test)]
mod tests;
