//! What a replica has for a key.

use bytes::{BufMut, Bytes, BytesMut};

use crate::version::Version;
use quorate_engine::codec::{DecodeError, Reader, Writer, varint_bytes};

/// A value with its version, or the note that there is none any more.
///
/// Of two entries for one key the one with the greater version stays ([`Entry::beats`]). That is all that merging is: it makes
/// no difference in which order entries come, or how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Decides.
    pub version: Version,
    /// When the value is not served any more, in milliseconds since 1970 by each replica's own clock; 0: never.
    pub deadline_ms: u64,
    /// What is there.
    pub body: Body,
}

/// The content of an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A value.
    Value {
        /// The media type it was stored with.
        content_type: Option<Bytes>,
        /// What users noted beside it, by name.
        user_meta: Vec<(Bytes, Bytes)>,
        /// The value.
        value: Bytes,
    },
    /// The key was deleted.
    Tombstone,
    /// A value was here whose time is up. It has the value's version: whether a replica still holds the one or already the other
    /// makes no difference to what replicas compare.
    Expired,
}

impl Body {
    /// A value and nothing beside it.
    pub fn plain(value: Bytes) -> Self {
        Self::Value { content_type: None, user_meta: Vec::new(), value }
    }

    /// Bytes of what is there, without overhead.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Value { content_type, user_meta, value } => {
                let noted: usize = user_meta.iter().map(|(name, value)| name.len() + value.len()).sum();
                value.len() + noted + content_type.as_ref().map_or(0, Bytes::len)
            }
            Self::Tombstone | Self::Expired => 0,
        }
    }
}

/// The first byte of each entry.
const ENTRY_VERSION: u8 = 1;

const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;
const EXPIRED: u8 = 2;

impl Entry {
    /// Whether this one stays when the other is there.
    pub fn beats(&self, other: Option<&Version>) -> bool {
        other.is_none_or(|other| self.version > *other)
    }

    /// Whether it is served at this time.
    pub fn is_live(&self, now_ms: u64) -> bool {
        matches!(self.body, Body::Value { .. }) && (self.deadline_ms == 0 || now_ms < self.deadline_ms)
    }

    /// Whether nothing is to be served of it ever again: it goes once all replicas have it.
    pub fn is_dead(&self) -> bool {
        !matches!(self.body, Body::Value { .. })
    }

    /// The encoded form: format version, version, kind, deadline, and for values media type, notes, and the value as the rest.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        self.encode(&mut out);
        out.freeze()
    }

    /// The same in memory of its own: what was decoded is a part of what it came in.
    pub(crate) fn on_its_own(&self) -> Self {
        Self::decode(self.to_bytes()).expect("what was encoded can be decoded")
    }

    /// How many bytes that is.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let with_len = |bytes: &Bytes| varint_bytes(bytes.len() as u64) + bytes.len();
        let body = match &self.body {
            Body::Value { content_type, user_meta, value } => {
                let content_type = content_type.as_ref().map_or(1, |bytes| varint_bytes(bytes.len() as u64 + 1) + bytes.len());
                let noted: usize = user_meta.iter().map(|(name, value)| with_len(name) + with_len(value)).sum();
                content_type + varint_bytes(user_meta.len() as u64) + noted + value.len()
            }
            Body::Tombstone | Body::Expired => 0,
        };
        2 + Version::BYTES + varint_bytes(self.deadline_ms) + body
    }

    /// Appends it.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(ENTRY_VERSION);
        self.version.encode(out);
        let kind = match self.body {
            Body::Value { .. } => VALUE,
            Body::Tombstone => TOMBSTONE,
            Body::Expired => EXPIRED,
        };
        out.put_u8(kind);
        out.put_varint(self.deadline_ms);
        if let Body::Value { content_type, user_meta, value } = &self.body {
            out.put_optional_bytes(content_type.as_deref());
            out.put_varint(user_meta.len() as u64);
            for (name, value) in user_meta {
                out.put_bytes_with_len(name);
                out.put_bytes_with_len(value);
            }
            out.put_slice(value);
        }
    }

    /// Decodes what [`Entry::to_bytes`] made.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != ENTRY_VERSION {
            return Err(DecodeError::UnknownTag { what: "entry format", tag: format });
        }
        let version = Version::read(&mut reader)?;
        let kind = reader.u8()?;
        let deadline_ms = reader.varint()?;
        let body = match kind {
            VALUE => {
                let content_type = reader.optional_bytes()?;
                let user_meta = reader.list(|reader| Ok((reader.bytes()?, reader.bytes()?)))?;
                return Ok(Self {
                    version,
                    deadline_ms,
                    body: Body::Value { content_type, user_meta, value: reader.into_rest() },
                });
            }
            TOMBSTONE => Body::Tombstone,
            EXPIRED => Body::Expired,
            tag => return Err(DecodeError::UnknownTag { what: "entry kind", tag }),
        };
        reader.finish()?;
        Ok(Self { version, deadline_ms, body })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::version::{Hlc, InstanceId};

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    pub(crate) fn entry() -> impl Strategy<Value = Entry> {
        let value = (prop::option::of(bytes()), prop::collection::vec((bytes(), bytes()), 0..3), bytes())
            .prop_map(|(content_type, user_meta, value)| Body::Value { content_type, user_meta, value });
        let body = prop_oneof![value, Just(Body::Tombstone), Just(Body::Expired)];
        (any::<u64>(), any::<u32>(), any::<u64>(), body).prop_map(|(hlc, instance, deadline_ms, body)| Entry {
            version: Version { hlc: Hlc(hlc), instance: InstanceId(instance) },
            deadline_ms,
            body,
        })
    }

    proptest! {
        #[test]
        fn entries_round_trip(entry in entry()) {
            prop_assert_eq!(entry.to_bytes().len(), entry.encoded_bytes());
            prop_assert_eq!(Entry::decode(entry.to_bytes()), Ok(entry));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(entry) = Entry::decode(Bytes::from(bytes)) {
                prop_assert_eq!(Entry::decode(entry.to_bytes()), Ok(entry));
            }
        }
    }

    /// Written out, so that they stay readable whatever is written in future.
    #[test]
    fn entries_are_as_they_were() {
        let version = Version { hlc: Hlc(0x0102), instance: InstanceId(3) };
        let body = Body::Value {
            content_type: Some(Bytes::from_static(b"a/b")),
            user_meta: vec![(Bytes::from_static(b"k"), Bytes::from_static(b"v"))],
            value: Bytes::from_static(b"value"),
        };
        let value = Entry { version, deadline_ms: 300, body };
        let head = b"\x01\0\0\0\0\0\0\x01\x02\0\0\0\x03";
        assert_eq!(value.to_bytes(), [&head[..], b"\0\xac\x02\x04a/b\x01\x01k\x01vvalue"].concat());
        let tombstone = Entry { version, deadline_ms: 0, body: Body::Tombstone };
        assert_eq!(tombstone.to_bytes(), [&head[..], b"\x01\0"].concat());
        assert!(Entry::decode(Bytes::from([&head[..], b"\x01\0\0"].concat())).is_err());
        assert!(Entry::decode(Bytes::from_static(b"\x02")).is_err());
    }

    #[test]
    fn a_value_is_served_until_its_deadline() {
        let version = Version::default();
        let mut entry = Entry { version, deadline_ms: 10, body: Body::plain(Bytes::new()) };
        assert_eq!([9, 10, 11].map(|now| entry.is_live(now)), [true, false, false]);
        entry.deadline_ms = 0;
        assert!(entry.is_live(u64::MAX) && !entry.is_dead());
        entry.body = Body::Tombstone;
        assert!(!entry.is_live(0) && entry.is_dead());
    }
}
