//! The record of a key, as it lies in the engine.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Writer, varint_bytes};
use crate::{KeyMeta, Revision};

/// A key's value and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key's counters.
    pub meta: KeyMeta,
    /// The media type it was stored with.
    pub content_type: Option<Bytes>,
    /// The value; a slice of what was decoded.
    pub value: Bytes,
}

const RECORD_VERSION: u8 = 1;

impl Record {
    /// The encoded form: version, counters, media type, and the value as the rest.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        out.put_u8(RECORD_VERSION);
        out.put_varint(self.meta.create_revision.0);
        out.put_varint(self.meta.mod_revision.0);
        out.put_varint(self.meta.version);
        out.put_optional_bytes(self.content_type.as_deref());
        out.put_slice(&self.value);
        out.freeze()
    }

    /// How long [`Record::to_bytes`] is.
    fn encoded_bytes(&self) -> usize {
        let counters = [self.meta.create_revision.0, self.meta.mod_revision.0, self.meta.version];
        let counters_bytes: usize = counters.into_iter().map(varint_bytes).sum();
        let content_type_bytes = match &self.content_type {
            None => varint_bytes(0),
            Some(content_type) => varint_bytes(content_type.len() as u64 + 1) + content_type.len(),
        };
        1 + counters_bytes + content_type_bytes + self.value.len()
    }

    /// Decodes what [`Record::to_bytes`] made.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != RECORD_VERSION {
            return Err(DecodeError::UnknownTag { what: "record version", tag: version });
        }
        let meta = KeyMeta {
            create_revision: Revision(reader.varint()?),
            mod_revision: Revision(reader.varint()?),
            version: reader.varint()?,
        };
        let content_type = reader.optional_bytes()?;
        Ok(Self { meta, content_type, value: reader.into_rest() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    /// Numbers of every encoded length.
    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
    }

    fn record() -> impl Strategy<Value = Record> {
        let meta = (number(), number(), number()).prop_map(|(create, modified, version)| KeyMeta {
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            version,
        });
        (meta, prop::option::of(bytes()), bytes()).prop_map(|(meta, content_type, value)| Record { meta, content_type, value })
    }

    proptest! {
        #[test]
        fn records_round_trip(record in record()) {
            prop_assert_eq!(Record::decode(record.to_bytes()), Ok(record));
        }

        #[test]
        fn the_length_is_known_without_encoding(record in record()) {
            prop_assert_eq!(record.encoded_bytes(), record.to_bytes().len());
        }

        #[test]
        fn any_bytes_decode_without_panic(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Record::decode(noise.into());
        }
    }

    #[test]
    fn no_media_type_and_an_empty_one_differ() {
        let meta = KeyMeta { create_revision: Revision(2), mod_revision: Revision(1 << 33), version: 4 };
        let without = Record { meta, content_type: None, value: Bytes::from_static(b"x") };
        let with_empty = Record { content_type: Some(Bytes::new()), ..without.clone() };
        assert_ne!(without.to_bytes(), with_empty.to_bytes());
        assert_eq!(Record::decode(with_empty.to_bytes()), Ok(with_empty));
    }

    #[test]
    fn a_record_that_is_cut_in_its_header_is_refused() {
        let meta = KeyMeta { create_revision: Revision(2), mod_revision: Revision(3), version: 4 };
        let record = Record { meta, content_type: Some(Bytes::from_static(b"text/plain")), value: Bytes::new() };
        let encoded = record.to_bytes();
        for len in 0..encoded.len() {
            assert_eq!(Record::decode(encoded.slice(..len)), Err(DecodeError::Truncated), "{len} bytes");
        }
    }
}
