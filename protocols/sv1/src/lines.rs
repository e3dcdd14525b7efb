//! Cutting a receive buffer into lines.

use thiserror::Error;

/// The longest line accepted by default, in bytes without its line feed.
///
/// Miners and pools read lines of 1 to 49 KiB; everything a miner says fits many times over. Without a limit one
/// connection that never sends a line feed would hold as much memory as it likes.
pub const MAX_LINE: usize = 16 * 1024;

/// A line longer than the limit. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("line longer than {limit} bytes")]
pub struct LineTooLong {
    /// The limit in bytes.
    pub limit: usize,
}

/// One complete line at the head of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'b> {
    /// The line without its line feed and without carriage returns before that.
    pub bytes: &'b [u8],
    /// How many bytes of the buffer it took, line feed included.
    pub consumed: usize,
}

/// Finds lines in a receive buffer that the caller owns and fills.
///
/// Bytes already looked at are not looked at again, so a peer that sends its line byte by byte costs no more than one
/// that sends it whole.
#[derive(Debug, Clone)]
pub struct Lines {
    limit: usize,
    scanned: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

impl Lines {
    /// A splitter for lines of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { limit, scanned: 0 }
    }

    /// The first line of `buffer`, or `None` while it is incomplete.
    ///
    /// `buffer` begins with the first byte not yet consumed: after a line the caller passes what follows it, after
    /// `None` the same bytes with more appended.
    pub fn next<'b>(&mut self, buffer: &'b [u8]) -> Result<Option<Line<'b>>, LineTooLong> {
        let from = self.scanned.min(buffer.len());
        let end = buffer[from..].iter().position(|byte| *byte == b'\n').map(|found| from + found);
        if end.unwrap_or(buffer.len()) > self.limit {
            return Err(LineTooLong { limit: self.limit });
        }
        let Some(end) = end else {
            self.scanned = buffer.len();
            return Ok(None);
        };
        self.scanned = 0;
        let mut bytes = &buffer[..end];
        while let [head @ .., b'\r'] = bytes {
            bytes = head;
        }
        Ok(Some(Line { bytes, consumed: end + 1 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `segments` one after the other, as reads from a socket would.
    fn split(segments: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut buffer, mut found) = (Lines::default(), Vec::new(), Vec::new());
        for segment in segments {
            buffer.extend_from_slice(segment);
            while let Some(line) = lines.next(&buffer).unwrap() {
                found.push(line.bytes.to_vec());
                let consumed = line.consumed;
                buffer.drain(..consumed);
            }
        }
        found
    }

    #[test]
    fn several_messages_in_one_segment() {
        assert_eq!(split(&[b"{\"id\":1}\n{\"id\":2}\r\n{\"id\""]), [b"{\"id\":1}", b"{\"id\":2}"]);
    }

    #[test]
    fn one_message_in_many_segments() {
        let bytes = b"{\"id\":1}\n{\"id\":2}\n";
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(split(&single), [b"{\"id\":1}", b"{\"id\":2}"]);
    }

    #[test]
    fn blank_lines_are_lines() {
        assert_eq!(split(&[b"\n\r\n{}\n"]), [b"".as_slice(), b"", b"{}"]);
    }

    #[test]
    fn incomplete_is_not_an_error_up_to_the_limit() {
        let mut lines = Lines::new(4);
        assert_eq!(lines.next(b""), Ok(None));
        assert_eq!(lines.next(b"1234"), Ok(None));
        assert_eq!(lines.next(b"1234\n"), Ok(Some(Line { bytes: b"1234", consumed: 5 })));
        assert_eq!(lines.next(b"12345"), Err(LineTooLong { limit: 4 }));
        assert_eq!(Lines::new(4).next(b"12345\n"), Err(LineTooLong { limit: 4 }));
    }

    #[test]
    fn a_full_line_of_the_default_limit_is_taken() {
        let mut buffer = vec![b'x'; MAX_LINE];
        buffer.push(b'\n');
        assert_eq!(Lines::default().next(&buffer).unwrap().unwrap().bytes.len(), MAX_LINE);
        buffer.insert(0, b'x');
        assert!(Lines::default().next(&buffer).is_err());
    }
}
