//! What became of a command.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Revision;
use crate::codec::{DecodeError, Reader, Writer};

/// What became of a command. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Applied {
        /// The shard's revision after it; the one before, if nothing changed.
        revision: Revision,
        /// One per operation.
        results: Vec<OpResult>,
    },
    /// A guard did not hold; nothing was done.
    ConditionFailed {
        /// The shard's revision.
        revision: Revision,
        /// Which guard, from 0.
        guard: u64,
        /// What its key is like.
        current: Option<KeyMeta>,
    },
    /// The keyspace is full; nothing was done.
    Full {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// A key that the write sets is longer than the keyspace takes; nothing was done.
    KeyTooLong {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// A value is larger than the keyspace takes; nothing was done.
    ValueTooLarge {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// The request was seen before, and its outcome is forgotten: it may have been done.
    Forgotten,
}

/// What an operation found and left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpResult {
    /// The key before.
    pub before: Option<KeyMeta>,
    /// The key after.
    pub after: Option<KeyMeta>,
    /// What became of a range of keys.
    pub removed: Option<Box<Removed>>,
}

/// What an operation on a range of keys did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many keys were removed.
    pub keys: u64,
    /// The first key of the range that is still there.
    pub next: Option<Bytes>,
}

impl OpResult {
    /// Whether anything was changed.
    pub fn is_change(&self) -> bool {
        self.before.is_some() || self.after.is_some() || self.removed.as_ref().is_some_and(|removed| removed.keys > 0)
    }
}

/// A key's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// The revision at which the key came to be.
    pub create_revision: Revision,
    /// The revision of its last change.
    pub mod_revision: Revision,
    /// How many times it was set since it came to be.
    pub version: u64,
}

const APPLIED: u8 = 1;
const CONDITION_FAILED: u8 = 2;
const FULL: u8 = 3;
const FORGOTTEN: u8 = 4;
/// As [`APPLIED`], each result followed by what was removed.
const APPLIED_TO_RANGES: u8 = 5;
const KEY_TOO_LONG: u8 = 6;
const VALUE_TOO_LARGE: u8 = 7;

impl Outcome {
    /// The encoded form.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(48);
        match self {
            Self::Applied { revision, results } => {
                let has_removed = results.iter().any(|result| result.removed.is_some());
                out.put_u8(if has_removed { APPLIED_TO_RANGES } else { APPLIED });
                out.put_varint(revision.0);
                out.put_varint(results.len() as u64);
                for result in results {
                    encode_meta(result.before, &mut out);
                    encode_meta(result.after, &mut out);
                    if has_removed {
                        encode_removed(result.removed.as_deref(), &mut out);
                    }
                }
            }
            Self::ConditionFailed { revision, guard, current } => {
                out.put_u8(CONDITION_FAILED);
                out.put_varint(revision.0);
                out.put_varint(*guard);
                encode_meta(*current, &mut out);
            }
            Self::Full { max_bytes } => {
                out.put_u8(FULL);
                out.put_varint(*max_bytes);
            }
            Self::KeyTooLong { max_bytes } => {
                out.put_u8(KEY_TOO_LONG);
                out.put_varint(*max_bytes);
            }
            Self::ValueTooLarge { max_bytes } => {
                out.put_u8(VALUE_TOO_LARGE);
                out.put_varint(*max_bytes);
            }
            Self::Forgotten => out.put_u8(FORGOTTEN),
        }
        out.freeze()
    }

    /// Decodes what [`Outcome::to_bytes`] made.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let outcome = match reader.u8()? {
            APPLIED_TO_RANGES => {
                Self::Applied { revision: Revision(reader.varint()?), results: reader.list(read_result_with_removed)? }
            }
            APPLIED => Self::Applied { revision: Revision(reader.varint()?), results: reader.list(read_result)? },
            CONDITION_FAILED => Self::ConditionFailed {
                revision: Revision(reader.varint()?),
                guard: reader.varint()?,
                current: read_meta(&mut reader)?,
            },
            FULL => Self::Full { max_bytes: reader.varint()? },
            FORGOTTEN => Self::Forgotten,
            KEY_TOO_LONG => Self::KeyTooLong { max_bytes: reader.varint()? },
            VALUE_TOO_LARGE => Self::ValueTooLarge { max_bytes: reader.varint()? },
            tag => return Err(DecodeError::UnknownTag { what: "outcome", tag }),
        };
        reader.finish()?;
        Ok(outcome)
    }
}

fn read_result(reader: &mut Reader) -> Result<OpResult, DecodeError> {
    Ok(OpResult { before: read_meta(reader)?, after: read_meta(reader)?, removed: None })
}

fn read_result_with_removed(reader: &mut Reader) -> Result<OpResult, DecodeError> {
    let result = read_result(reader)?;
    let removed = match reader.varint()? {
        0 => None,
        keys => Some(Box::new(Removed { keys: keys - 1, next: reader.optional_bytes()? })),
    };
    Ok(OpResult { removed, ..result })
}

/// The number of keys plus one, so that none and no key differ.
fn encode_removed(removed: Option<&Removed>, out: &mut BytesMut) {
    let Some(removed) = removed else {
        return out.put_varint(0);
    };
    out.put_varint(removed.keys.saturating_add(1));
    out.put_optional_bytes(removed.next.as_deref());
}

/// Version 0 stands for "no such key": a key that is there was set at least once.
fn encode_meta(meta: Option<KeyMeta>, out: &mut BytesMut) {
    let Some(meta) = meta else {
        return out.put_varint(0);
    };
    out.put_varint(meta.version);
    out.put_varint(meta.create_revision.0);
    out.put_varint(meta.mod_revision.0);
}

fn read_meta(reader: &mut Reader) -> Result<Option<KeyMeta>, DecodeError> {
    let version = reader.varint()?;
    if version == 0 {
        return Ok(None);
    }
    let create_revision = Revision(reader.varint()?);
    let mod_revision = Revision(reader.varint()?);
    Ok(Some(KeyMeta { create_revision, mod_revision, version }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn removed(keys: u64, next: Option<&'static [u8]>) -> OpResult {
        let next = next.map(Bytes::from_static);
        OpResult { removed: Some(Box::new(Removed { keys, next })), ..OpResult::default() }
    }

    #[test]
    fn outcomes_round_trip() {
        let meta = KeyMeta { create_revision: Revision(3), mod_revision: Revision(900), version: 77 };
        let outcomes = [
            Outcome::Applied { revision: Revision(5), results: vec![OpResult { after: Some(meta), ..OpResult::default() }] },
            Outcome::Applied {
                revision: Revision(5),
                results: vec![OpResult::default(), removed(0, None), removed(9, Some(b"k"))],
            },
            Outcome::Applied { revision: Revision(1), results: vec![] },
            Outcome::ConditionFailed { revision: Revision(9), guard: 2, current: Some(meta) },
            Outcome::ConditionFailed { revision: Revision(9), guard: 0, current: None },
            Outcome::Full { max_bytes: 1 << 40 },
            Outcome::KeyTooLong { max_bytes: 300 },
            Outcome::ValueTooLarge { max_bytes: 0 },
            Outcome::Forgotten,
        ];
        for outcome in outcomes {
            assert_eq!(Outcome::decode(outcome.to_bytes()), Ok(outcome));
        }
        assert!(Outcome::decode(Bytes::from_static(b"\x09")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Outcome::decode(noise.into());
        }
    }

    #[test]
    fn an_outcome_that_is_cut_or_goes_on_is_refused() {
        let meta = KeyMeta { create_revision: Revision(3), mod_revision: Revision(900), version: 77 };
        let of_keys = vec![OpResult { before: Some(meta), after: Some(meta), removed: None }, OpResult::default()];
        for results in [of_keys, vec![removed(9, Some(b"k"))]] {
            let encoded = Outcome::Applied { revision: Revision(5), results }.to_bytes();
            for len in 0..encoded.len() {
                assert_eq!(Outcome::decode(encoded.slice(..len)), Err(DecodeError::Truncated), "{len} bytes");
            }
            assert_eq!(Outcome::decode([&encoded[..], b"x"].concat().into()), Err(DecodeError::Trailing(1)));
        }
    }
}
