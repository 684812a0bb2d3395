//! The byte forms of what lies in engines and logs: LEB128 varints and length-prefixed bytes.
//!
//! They are here, below all who store something, so that there is one reader that does not trust what it reads: it never panics,
//! and allocates nothing on the word of a length alone.

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

/// How many bytes [`Writer::put_varint`] appends.
pub fn varint_bytes(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends the forms that [`Reader`] reads.
pub trait Writer: BufMut {
    /// A number in as few bytes as it needs, seven bits in each.
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    /// Length as a varint, then the bytes.
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
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Begins at the first byte.
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        if self.rest.is_empty() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.get_u8())
    }

    /// What [`Writer::put_varint`] appended.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
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

    /// The same, of at most 32 bits.
    pub fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Malformed("number too large"))
    }

    /// Eight bytes, big-endian.
    pub fn u64_be(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Sixteen bytes, big-endian.
    pub fn u128_be(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_be_bytes)
    }

    /// Eight bytes, little-endian.
    pub fn i64_le(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    /// So many bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N as u64)?;
        Ok(bytes[..].try_into().expect("so many were taken"))
    }

    /// What [`Writer::put_bytes_with_len`] appended.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.varint()?;
        self.take(length)
    }

    /// What [`Writer::put_optional_bytes`] appended.
    pub fn optional_bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        match self.varint()? {
            0 => Ok(None),
            length => self.take(length - 1).map(Some),
        }
    }

    /// A count and that many items. Nothing is allocated on the count's word alone.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
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
    pub fn into_rest(self) -> Bytes {
        self.rest
    }

    /// Refuses bytes behind the end.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    fn take(&mut self, length: u64) -> Result<Bytes, DecodeError> {
        if length > self.rest.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.split_to(length as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers: Vec<u64>, optional: Option<Vec<u8>>, bytes: Vec<u8>) {
            let mut out = BytesMut::new();
            out.put_varint(numbers.len() as u64);
            numbers.iter().for_each(|number| out.put_varint(*number));
            out.put_optional_bytes(optional.as_deref());
            out.put_bytes_with_len(&bytes);
            let mut reader = Reader::new(out.freeze());
            prop_assert_eq!(reader.list(Reader::varint), Ok(numbers));
            prop_assert_eq!(reader.optional_bytes(), Ok(optional.map(Bytes::from)));
            prop_assert_eq!(reader.bytes(), Ok(Bytes::from(bytes)));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_number_takes_as_many_bytes_as_it_is_said_to(value: u64, shift in 0..64_u32) {
            let mut out = BytesMut::new();
            out.put_varint(value >> shift);
            prop_assert_eq!(out.len(), varint_bytes(value >> shift));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader::new(Bytes::from(bytes));
            let _ = reader.list(|reader| Ok((reader.optional_bytes()?, reader.varint_u32()?)));
            let _ = (reader.u64_be(), reader.u128_be(), reader.i64_le(), reader.bytes());
        }
    }

    #[test]
    fn numbers_of_more_than_64_bits_are_refused() {
        for bytes in [&[0xff; 10][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert!(matches!(Reader::new(Bytes::copy_from_slice(bytes)).varint(), Err(DecodeError::Malformed(_))), "{bytes:x?}");
        }
        assert_eq!(Reader::new(Bytes::from_static(&[0x80])).varint(), Err(DecodeError::Truncated));
    }
}
