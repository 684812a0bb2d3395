//! The byte forms shared by entries, messages and what goes into the log: LEB128 varints and length-prefixed bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// They go on after the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A tag that this version does not know; a newer one may.
    #[error("unknown {what} {tag}: written by a newer version?")]
    UnknownTag {
        /// Of what.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// They contradict themselves.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// Appends the forms that [`Reader`] reads.
pub(crate) trait Writer: BufMut {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    fn put_bytes_with_len(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put_slice(bytes);
    }

    /// Length plus one, so that none and empty differ.
    fn put_optional_bytes(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.put_varint(0),
            Some(bytes) => {
                self.put_varint(bytes.len() as u64 + 1);
                self.put_slice(bytes);
            }
        }
    }
}

impl Writer for BytesMut {}

/// Reads forms off the front of a buffer; byte strings are slices of it, not copies.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        if self.rest.is_empty() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.get_u8())
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(DecodeError::Malformed("number too large"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("number too long"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Malformed("number too large"))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_be_bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N as u64)?;
        Ok(bytes[..].try_into().expect("so many were taken"))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.varint()?;
        self.take(length)
    }

    pub(crate) fn optional_bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        match self.varint()? {
            0 => Ok(None),
            length => self.take(length - 1).map(Some),
        }
    }

    /// A count and that many items. Nothing is allocated on the count's word alone.
    pub(crate) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        let count = self.varint()?;
        if count > self.rest.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        let mut items = Vec::with_capacity(count.min(1024) as usize);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// What is left, as it is.
    pub(crate) fn into_rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    fn take(&mut self, length: u64) -> Result<Bytes, DecodeError> {
        if length > self.rest.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.split_to(length as usize))
    }
}
