//! Sealed frames (spec 4.6): a sealed header, then the payload in sealed blocks, none where it is empty.

use ring::aead::{Aad, LessSafeKey};

use super::primitives::{Secret32, aead, nonce};
use super::{MAX_BLOCK, MAX_SEALED_BLOCK, SEALED_HEADER_LEN, TAG_LEN};
use crate::frame::Header;

/// Bytes on the wire of a frame with `payload` bytes of plaintext payload.
pub const fn sealed_len(payload: usize) -> usize {
    SEALED_HEADER_LEN + payload + payload.div_ceil(MAX_BLOCK) * TAG_LEN
}

/// Seals the frames that this end sends.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    /// Counts sealed blocks; the last value is not used (Noise 5.1).
    nonce: u64,
}

/// Why a frame was not sealed. The fault is on this side; what was sealed before stays good.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// The bytes are not whole frames.
    #[error("{have} bytes to seal where the frame header announces {announced}")]
    Length {
        /// Bytes there are, header included.
        have: usize,
        /// Bytes there should be, header included.
        announced: usize,
    },
    /// Nearly 2^64 blocks were sealed; the connection must be made anew.
    #[error("the connection's nonces are used up")]
    Exhausted,
}

impl Sealer {
    pub(super) fn new(key: Secret32) -> Self {
        Self { key: aead(&key), nonce: 0 }
    }

    /// Appends one plaintext frame, header and payload, to `out` in sealed form; nothing on an error.
    #[inline]
    pub fn seal(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let split = Split::first(frame)?;
        if !split.rest.is_empty() {
            let announced = frame.len() - split.rest.len();
            return Err(SealError::Length { have: frame.len(), announced });
        }
        self.seal_parts(split.header, split.payload, out)
    }

    /// Appends several plaintext frames, one behind the other, to `out` in sealed form.
    ///
    /// On an error the frames before the faulty one are in `out` and must still be sent: their nonces are used.
    #[inline]
    pub fn seal_all(&mut self, mut frames: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while !frames.is_empty() {
            let split = Split::first(frames)?;
            self.seal_parts(split.header, split.payload, out)?;
            frames = split.rest;
        }
        Ok(())
    }

    #[inline]
    fn seal_parts(
        &mut self,
        header: &[u8; Header::LEN],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        // Beforehand, so that there is never half a frame.
        let blocks = 1 + payload.len().div_ceil(MAX_BLOCK) as u64;
        if u64::MAX - self.nonce < blocks {
            return Err(SealError::Exhausted);
        }
        out.reserve(sealed_len(payload.len()));
        for block in std::iter::once(&header[..]).chain(payload.chunks(MAX_BLOCK)) {
            let start = out.len();
            out.extend_from_slice(block);
            let tag = self
                .key
                .seal_in_place_separate_tag(nonce(self.nonce), Aad::empty(), &mut out[start..])
                .expect("a block is far below the cipher's 256 GB");
            out.extend_from_slice(tag.as_ref());
            self.nonce += 1;
        }
        Ok(())
    }
}

/// The first of several frames, and what follows it.
struct Split<'a> {
    header: &'a [u8; Header::LEN],
    payload: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Split<'a> {
    #[inline]
    fn first(frames: &'a [u8]) -> Result<Self, SealError> {
        let short = |announced| SealError::Length { have: frames.len(), announced };
        let (header, rest) = frames.split_first_chunk().ok_or(short(Header::LEN))?;
        let length = Header::parse(header).msg_length as usize;
        let (payload, rest) = rest.split_at_checked(length).ok_or(short(Header::LEN + length))?;
        Ok(Self { header, payload, rest })
    }
}

/// Opens the frames that the other end sends.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    /// Counts opened blocks; the last value is not used (Noise 5.1).
    nonce: u64,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A sealed header comes next.
    Header,
    /// This header was opened, its payload is not complete yet.
    Payload(Header),
    /// An error was returned: what follows cannot be trusted to be where it seems to be.
    Failed(OpenError),
}

/// What [`Opener::next`] found at the start of its buffer.
#[derive(Debug)]
pub enum Opened<'b> {
    /// A whole frame.
    Frame {
        /// The frame's header.
        header: Header,
        /// Its payload in plaintext, `header.msg_length` bytes inside the buffer.
        payload: &'b [u8],
        /// Sealed bytes that the frame took; the next one begins behind them.
        consumed: usize,
    },
    /// Only a part of a frame.
    Incomplete {
        /// Bytes the buffer must hold from its start before there is more to open: those of the sealed header, or,
        /// that one being known, of the whole sealed frame.
        need: usize,
    },
}

/// Why a frame could not be opened. It is the peer's fault and the connection's end: every later call returns it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// The authentication tag is wrong: the bytes were damaged or not sealed for this connection.
    #[error("a sealed block does not decrypt")]
    Decrypt,
    /// The header announces more than is accepted.
    #[error(
        "a frame of {} bytes, type {:#04x}, extension {:#06x}: at most {limit} are accepted",
        .header.msg_length, .header.msg_type, .header.extension_type
    )]
    TooLarge {
        /// The header.
        header: Header,
        /// Payload bytes that were allowed.
        limit: usize,
    },
    /// Nearly 2^64 blocks were opened; the connection must be made anew.
    #[error("the connection's nonces are used up")]
    Exhausted,
}

impl Opener {
    pub(super) fn new(key: Secret32) -> Self {
        Self { key: aead(&key), nonce: 0, state: State::Header }
    }

    /// Opens the frame at the start of `buf`, in place.
    ///
    /// `limit` tells how many bytes of payload are accepted of a header; it is asked once for each frame, before any
    /// payload is awaited. As long as the frame is [`Incomplete`](Opened::Incomplete), call again with the same bytes
    /// and more behind them: an opened header is remembered and its bytes are skipped. Nothing is allocated.
    #[inline]
    pub fn next<'b>(
        &mut self,
        buf: &'b mut [u8],
        limit: impl FnOnce(&Header) -> usize,
    ) -> Result<Opened<'b>, OpenError> {
        let result = match self.state {
            State::Failed(error) => Err(error),
            State::Payload(header) => self.open_payload(header, buf),
            State::Header => match buf.first_chunk_mut() {
                None => return Ok(Opened::Incomplete { need: SEALED_HEADER_LEN }),
                Some(sealed) => match self.open_header(sealed, limit) {
                    Ok(header) => self.open_payload(header, buf),
                    Err(error) => Err(error),
                },
            },
        };
        if let Err(error) = result {
            self.state = State::Failed(error);
        }
        result
    }

    fn open_header(
        &mut self,
        sealed: &mut [u8; SEALED_HEADER_LEN],
        limit: impl FnOnce(&Header) -> usize,
    ) -> Result<Header, OpenError> {
        self.open_block(sealed, 0)?;
        let [e0, e1, msg_type, l0, l1, l2, ..] = *sealed;
        let header = Header::parse(&[e0, e1, msg_type, l0, l1, l2]);
        let limit = limit(&header);
        if header.msg_length as usize > limit {
            return Err(OpenError::TooLarge { header, limit });
        }
        Ok(header)
    }

    fn open_payload<'b>(
        &mut self,
        header: Header,
        buf: &'b mut [u8],
    ) -> Result<Opened<'b>, OpenError> {
        let length = header.msg_length as usize;
        let consumed = sealed_len(length);
        let Some(sealed) = buf.get_mut(SEALED_HEADER_LEN..consumed) else {
            self.state = State::Payload(header);
            return Ok(Opened::Incomplete { need: consumed });
        };
        // Each block's plaintext goes right behind the one before, over the tags.
        let (mut from, mut to) = (0, 0);
        while from < sealed.len() {
            let end = sealed.len().min(from + MAX_SEALED_BLOCK);
            self.open_block(&mut sealed[to..end], from - to)?;
            to += end - from - TAG_LEN;
            from = end;
        }
        self.state = State::Header;
        Ok(Opened::Frame { header, payload: &sealed[..length], consumed })
    }

    /// Opens the sealed block `area[skip..]`; its plaintext goes to the start of `area`.
    #[inline]
    fn open_block(&mut self, area: &mut [u8], skip: usize) -> Result<(), OpenError> {
        if self.nonce == u64::MAX {
            return Err(OpenError::Exhausted);
        }
        self.key
            .open_within(nonce(self.nonce), Aad::empty(), area, skip..)
            .map_err(|_| OpenError::Decrypt)?;
        self.nonce += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
