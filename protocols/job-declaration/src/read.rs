//! A strict reader of consensus-serialized bytes: every length is checked against what is there before it is used.

/// What is left to read. Each method takes from the front, or gives `None` and leaves everything as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A CompactSize in its shortest form; consensus knows no other.
    pub(crate) fn compact_size(&mut self) -> Option<u64> {
        let mut reader = *self;
        let (value, least) = match reader.array::<1>()?[0] {
            0xfd => (u64::from(reader.array().map(u16::from_le_bytes)?), 0xfd),
            0xfe => (u64::from(reader.u32()?), 0x1_0000),
            0xff => (reader.u64()?, 0x1_0000_0000),
            small => (u64::from(small), 0),
        };
        if value < least {
            return None;
        }
        *self = reader;
        Some(value)
    }

    /// Bytes behind their CompactSize.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let mut reader = *self;
        let len = usize::try_from(reader.compact_size()?).ok()?;
        let bytes = reader.take(len)?;
        *self = reader;
        Some(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
