//! The record of a key, as it lies in the engine.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Writer};
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
    /// The encoded form: version, counters, media type, a place for fields to come, and the value as the rest.
    pub fn to_bytes(&self) -> Bytes {
        let extra = self.content_type.as_ref().map_or(0, Bytes::len);
        let mut out = BytesMut::with_capacity(self.value.len() + extra + 34);
        out.put_u8(RECORD_VERSION);
        out.put_varint(self.meta.create_revision.0);
        out.put_varint(self.meta.mod_revision.0);
        out.put_varint(self.meta.version);
        out.put_optional_bytes(self.content_type.as_deref());
        out.put_slice(&self.value);
        out.freeze()
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
    use super::*;

    #[test]
    fn records_round_trip() {
        for (content_type, value) in [(None, ""), (Some(""), "x"), (Some("text/plain"), "hello")] {
            let record = Record {
                meta: KeyMeta { create_revision: Revision(2), mod_revision: Revision(1 << 33), version: 4 },
                content_type: content_type.map(|text: &str| Bytes::copy_from_slice(text.as_bytes())),
                value: Bytes::copy_from_slice(value.as_bytes()),
            };
            assert_eq!(Record::decode(record.to_bytes()), Ok(record));
        }
    }
}
