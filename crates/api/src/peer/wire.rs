//! The primitives of which peer bytes are made.
//!
//! | primitive | layout |
//! |---|---|
//! | integer | LEB128: seven bits per byte, least significant first, in as few bytes as it takes |
//! | signed integer | the integer of its zigzag form |
//! | bytes | length as an integer, then the bytes |
//! | list | count as an integer, then the items |
//!
//! A value has exactly one encoding, so what decodes encodes to the same bytes again.

#![deny(clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};

use super::MAX_FRAME_ITEMS;

/// Why bytes from a peer are not what they should be. The connection that they came over is of no further use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not begin as a greeting does: something else dialled this port.
    #[error("not a Quorate peer: the greeting does not begin with its magic")]
    Magic,
    /// The format version is not one that this build reads.
    #[error("format version {0} is unknown")]
    Version(u8),
    /// A tag that this format version does not have.
    #[error("{what} {tag} is unknown")]
    Unknown {
        /// What the tag stands for.
        what: &'static str,
        /// The tag.
        tag: u64,
    },
    /// The bytes are not those that were sent.
    #[error("checksum mismatch")]
    Checksum,
    /// The whole would be longer than its limit.
    #[error("{bytes} bytes exceed the limit of {max_bytes}")]
    TooLarge {
        /// The length that was announced, header included.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// There are more list items than [`MAX_FRAME_ITEMS`], or than the bytes have room for.
    #[error("a list of {0} items exceeds what may follow")]
    TooManyItems(u64),
    /// A value goes on after the last byte.
    #[error("the bytes end inside a value")]
    Truncated,
    /// Bytes are left over after the last value.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// An integer that is longer than it has to be, or does not fit.
    #[error("an integer is not in its shortest form, or out of range")]
    Integer,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
}

/// Where an encoder writes: into a buffer, or into a [`Measure`] that only counts. One walk over the value serves both,
/// so a length that was measured is the length that is written.
pub(super) trait Sink {
    fn slice(&mut self, bytes: &[u8]);

    /// A list of `count` items follows.
    fn count(&mut self, count: usize);

    fn byte(&mut self, byte: u8) {
        self.slice(&[byte]);
    }

    fn integer(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn signed(&mut self, value: i64) {
        self.integer(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.integer(bytes.len() as u64);
        self.slice(bytes);
    }
}

impl Sink for BytesMut {
    fn slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn count(&mut self, count: usize) {
        self.integer(count as u64);
    }
}

/// What an encoding takes.
#[derive(Default)]
pub(super) struct Measure {
    pub(super) bytes: usize,
    pub(super) items: usize,
}

impl Sink for Measure {
    fn slice(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn count(&mut self, count: usize) {
        self.items += count;
        self.integer(count as u64);
    }
}

/// Takes values off the front of received bytes.
///
/// Invariants: nothing is allocated for bytes that are not there; lists of all depths together hold at most
/// [`MAX_FRAME_ITEMS`] items, which bounds what a frame takes in memory however small its items are on the wire.
pub(super) struct Reader {
    received: Bytes,
    at: usize,
    items_left: usize,
}

impl Reader {
    pub(super) fn new(received: Bytes) -> Self {
        Self { received, at: 0, items_left: MAX_FRAME_ITEMS }
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.received.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn integer(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(DecodeError::Integer);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let is_shortest = byte != 0 || shift == 0;
                return if is_shortest { Ok(value) } else { Err(DecodeError::Integer) };
            }
        }
        Err(DecodeError::Integer)
    }

    pub(super) fn signed(&mut self) -> Result<i64, DecodeError> {
        let zigzag = self.integer()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// A slice of what was received: nothing is copied.
    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(self.integer()?).map_err(|_| DecodeError::Truncated)?;
        if length > self.left() {
            return Err(DecodeError::Truncated);
        }
        let start = self.at;
        self.at += length;
        Ok(self.received.slice(start..self.at))
    }

    /// A list whose items take at least `min_item_bytes` each.
    pub(super) fn list<T>(
        &mut self,
        min_item_bytes: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let announced = self.integer()?;
        let max_count = (self.left() / min_item_bytes).min(self.items_left);
        let count = usize::try_from(announced).ok().filter(|count| *count <= max_count);
        let count = count.ok_or(DecodeError::TooManyItems(announced))?;
        self.items_left -= count;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Checks that nothing is left over.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    fn left(&self) -> usize {
        self.received.len() - self.at
    }
}
