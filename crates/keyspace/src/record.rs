//! The record of a key, as it lies in the engine.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{KeyMeta, LeaseId, Revision};
use quorate_engine::codec::{DecodeError, Reader, Writer, varint_bytes};

/// A key's value and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key's counters.
    pub meta: KeyMeta,
    /// The media type it was stored with.
    pub content_type: Option<Bytes>,
    /// What users noted beside the value, by name, in the order they gave; each name once.
    pub user_meta: Vec<(Bytes, Bytes)>,
    /// When the key goes by itself, in milliseconds of log time.
    pub expires_at_ms: Option<NonZeroU64>,
    /// The lease that the key hangs on.
    pub lease: Option<LeaseId>,
    /// The value; a slice of what was decoded.
    pub value: Bytes,
}

/// Counters, media type, and the value as the rest.
const PLAIN_VERSION: u8 = 1;

/// The same with expiry (0 for none) and user metadata between media type and value.
const FULL_VERSION: u8 = 2;

/// The same with the lease between expiry and user metadata.
const LEASED_VERSION: u8 = 3;

impl Record {
    /// The encoded form: the version, what that one has, and the value as the rest. The lowest version that says all, so that a
    /// record pays only for what it holds.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        out.put_u8(self.version());
        out.put_varint(self.meta.create_revision.0);
        out.put_varint(self.meta.mod_revision.0);
        out.put_varint(self.meta.version);
        out.put_optional_bytes(self.content_type.as_deref());
        if self.version() != PLAIN_VERSION {
            out.put_varint(self.expires_at_ms.map_or(0, NonZeroU64::get));
            self.lease.into_iter().for_each(|lease| out.put_varint(lease.0));
            encode_user_meta(&self.user_meta, &mut out);
        }
        out.put_slice(&self.value);
        out.freeze()
    }

    fn version(&self) -> u8 {
        match self.lease {
            Some(_) => LEASED_VERSION,
            None if self.user_meta.is_empty() && self.expires_at_ms.is_none() => PLAIN_VERSION,
            None => FULL_VERSION,
        }
    }

    /// How long [`Record::to_bytes`] is.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let counters = [self.meta.create_revision.0, self.meta.mod_revision.0, self.meta.version];
        let counters_bytes: usize = counters.into_iter().map(varint_bytes).sum();
        let content_type_bytes = match &self.content_type {
            None => varint_bytes(0),
            Some(content_type) => varint_bytes(content_type.len() as u64 + 1) + content_type.len(),
        };
        let full_bytes = if self.version() == PLAIN_VERSION {
            0
        } else {
            let lease_bytes = self.lease.map_or(0, |lease| varint_bytes(lease.0));
            varint_bytes(self.expires_at_ms.map_or(0, NonZeroU64::get)) + lease_bytes + user_meta_bytes(&self.user_meta)
        };
        1 + counters_bytes + content_type_bytes + full_bytes + self.value.len()
    }

    /// The revision of the last change, out of what [`Record::to_bytes`] made: all versions begin with the counters.
    pub(crate) fn mod_revision_of(bytes: &Bytes) -> Result<Revision, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        reader.u8()?;
        reader.varint()?;
        reader.varint().map(Revision)
    }

    /// Decodes what [`Record::to_bytes`] made.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if !(PLAIN_VERSION..=LEASED_VERSION).contains(&version) {
            return Err(DecodeError::UnknownTag { what: "record version", tag: version });
        }
        let meta = KeyMeta {
            create_revision: Revision(reader.varint()?),
            mod_revision: Revision(reader.varint()?),
            version: reader.varint()?,
        };
        let content_type = reader.optional_bytes()?;
        let (mut expires_at_ms, mut lease, mut user_meta) = (None, None, Vec::new());
        if version != PLAIN_VERSION {
            expires_at_ms = NonZeroU64::new(reader.varint()?);
            lease = if version == LEASED_VERSION { Some(LeaseId(reader.varint()?)) } else { None };
            user_meta = read_user_meta(&mut reader)?;
        }
        Ok(Self { meta, content_type, user_meta, expires_at_ms, lease, value: reader.into_rest() })
    }
}

/// Appends user metadata: how many, then each name and value. The same in records and commands.
pub(crate) fn encode_user_meta(user_meta: &[(Bytes, Bytes)], out: &mut BytesMut) {
    out.put_varint(user_meta.len() as u64);
    for (name, value) in user_meta {
        out.put_bytes_with_len(name);
        out.put_bytes_with_len(value);
    }
}

/// Reads what [`encode_user_meta`] wrote.
pub(crate) fn read_user_meta(reader: &mut Reader) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
    reader.list(|reader| Ok((reader.bytes()?, reader.bytes()?)))
}

/// How much [`encode_user_meta`] appends.
pub(crate) fn user_meta_bytes(user_meta: &[(Bytes, Bytes)]) -> usize {
    let with_len = |bytes: &Bytes| varint_bytes(bytes.len() as u64) + bytes.len();
    let pairs_bytes: usize = user_meta.iter().map(|(name, value)| with_len(name) + with_len(value)).sum();
    varint_bytes(user_meta.len() as u64) + pairs_bytes
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
        let user_meta = prop::collection::vec((bytes(), bytes()), 0..3);
        let lease = prop::option::of(number().prop_map(LeaseId));
        (meta, prop::option::of(bytes()), user_meta, number(), lease, bytes()).prop_map(
            |(meta, content_type, user_meta, expires_at_ms, lease, value)| Record {
                meta,
                content_type,
                user_meta,
                expires_at_ms: NonZeroU64::new(expires_at_ms),
                lease,
                value,
            },
        )
    }

    proptest! {
        #[test]
        fn records_round_trip(record in record()) {
            prop_assert_eq!(Record::mod_revision_of(&record.to_bytes()), Ok(record.meta.mod_revision));
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

    const META: KeyMeta = KeyMeta { create_revision: Revision(2), mod_revision: Revision(3), version: 4 };

    fn plain(content_type: Option<&'static [u8]>, value: &'static [u8]) -> Record {
        Record {
            meta: META,
            content_type: content_type.map(Bytes::from_static),
            user_meta: Vec::new(),
            expires_at_ms: None,
            lease: None,
            value: Bytes::from_static(value),
        }
    }

    #[test]
    fn no_media_type_and_an_empty_one_differ() {
        assert_ne!(plain(None, b"x").to_bytes(), plain(Some(b""), b"x").to_bytes());
        assert_eq!(Record::decode(plain(Some(b""), b"x").to_bytes()), Ok(plain(Some(b""), b"x")));
    }

    /// Written out, so that they stay readable whatever is written in future.
    #[test]
    fn versions_are_as_they_were() {
        let full = Record {
            user_meta: vec![(Bytes::from_static(b"owner"), Bytes::from_static(b"me"))],
            expires_at_ms: NonZeroU64::new(300),
            ..plain(Some(b"a/b"), b"value")
        };
        let cases = [
            (plain(Some(b"a/b"), b"value"), &b"\x01\x02\x03\x04\x04a/bvalue"[..]),
            (plain(None, b""), b"\x01\x02\x03\x04\x00"),
            (full.clone(), b"\x02\x02\x03\x04\x04a/b\xac\x02\x01\x05owner\x02mevalue"),
            (Record { lease: Some(LeaseId(5)), ..full }, b"\x03\x02\x03\x04\x04a/b\xac\x02\x05\x01\x05owner\x02mevalue"),
        ];
        for (record, bytes) in cases {
            assert_eq!(record.to_bytes(), bytes);
            assert_eq!(Record::decode(Bytes::from_static(bytes)), Ok(record));
        }
        assert!(Record::decode(Bytes::from_static(b"\x04\x02\x03\x04\x00")).is_err());
    }

    #[test]
    fn a_record_that_is_cut_in_its_header_is_refused() {
        let user_meta = vec![(Bytes::from_static(b"owner"), Bytes::from_static(b"me"))];
        for record in [plain(Some(b"text/plain"), b""), Record { user_meta, ..plain(Some(b"text/plain"), b"") }] {
            let encoded = record.to_bytes();
            for len in 0..encoded.len() {
                assert_eq!(Record::decode(encoded.slice(..len)), Err(DecodeError::Truncated), "{len} bytes");
            }
        }
    }
}
