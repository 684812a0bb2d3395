//! What became of a command.

use bytes::{BufMut, Bytes, BytesMut};

use crate::patch::Unfit;
use crate::transaction::MAX_TRANSACTION_DEPTH;
use crate::{LeaseId, Record, Revision};
use quorate_engine::codec::{DecodeError, Reader, Writer};

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
    /// The write would look at more of the keyspace than one may; nothing was done.
    TooMuch {
        /// Most keys of ranges.
        max_keys: u64,
        /// Most bytes that are read.
        max_bytes: u64,
    },
    /// A compaction asks for what was done before; nothing was done.
    Compacted {
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// A compaction asks for a revision that is to come; nothing was done.
    FutureRevision {
        /// The shard's revision.
        present: Revision,
    },
    /// There is no such lease; nothing was done.
    LeaseNotFound {
        /// Which.
        lease: LeaseId,
    },
    /// There is a lease of this name already; nothing was done.
    LeaseExists {
        /// Which.
        lease: LeaseId,
    },
    /// No more keys can hang on the lease; nothing was done.
    LeaseFull {
        /// The limit.
        max_keys: u64,
    },
    /// What a key holds cannot be changed as asked; nothing was done.
    Unfit {
        /// The key.
        key: Bytes,
        /// Why not.
        why: Unfit,
    },
    /// A write that is done once was done before, and came to this. Never one of these within.
    Repeated(Box<Self>),
    /// Another request was done under the key of a write that is done once; nothing was done.
    OtherRequest,
    /// As many keys are remembered as can be, of writes that are done once; nothing was done.
    TooManyOnce,
    /// The request was seen before, and its outcome is forgotten: it may have been done.
    Forgotten,
}

/// What an operation found and left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpResult {
    /// The key before, of an operation that changes one.
    pub before: Option<KeyMeta>,
    /// The key after.
    pub after: Option<KeyMeta>,
    /// What there is to tell of other operations.
    pub detail: Option<Box<Detail>>,
}

/// What there is to tell of an operation that is not about changing one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Keys of a range were removed.
    Removed(Removed),
    /// Pairs were read, or one was changed and is told.
    Read(Pairs),
    /// Of a transaction.
    Transaction(TransactionResult),
}

/// What an operation on a range of keys did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many keys were removed.
    pub keys: u64,
    /// The first key of the range that is still there.
    pub next: Option<Bytes>,
}

/// What an operation read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// In the order asked for; of one key, none if it is not there. Values that were not asked for are empty.
    pub items: Vec<(Bytes, Record)>,
    /// Whether the range has more than were asked for.
    pub has_more: bool,
}

/// What a transaction came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionResult {
    /// The first compare that did not hold, from 0; none if all did.
    pub failed: Option<u64>,
    /// One per operation that was done.
    pub results: Vec<OpResult>,
}

impl OpResult {
    /// That of an operation that has this to tell.
    pub fn of(detail: Detail) -> Self {
        Self { before: None, after: None, detail: Some(Box::new(detail)) }
    }

    /// Whether anything was changed.
    pub fn is_change(&self) -> bool {
        let is_change = |detail: &Detail| match detail {
            Detail::Removed(removed) => removed.keys > 0,
            Detail::Read(_) => false,
            Detail::Transaction(within) => within.results.iter().any(Self::is_change),
        };
        self.before.is_some() || self.after.is_some() || self.detail.as_deref().is_some_and(is_change)
    }

    /// Bytes of keys and values within.
    fn read_bytes(&self) -> u64 {
        match self.detail.as_deref() {
            Some(Detail::Read(pairs)) => {
                pairs.items.iter().map(|(key, record)| (key.len() + record.encoded_bytes()) as u64).sum()
            }
            Some(Detail::Transaction(within)) => within.results.iter().map(Self::read_bytes).sum(),
            Some(Detail::Removed(_)) | None => 0,
        }
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
/// As [`APPLIED`], each result followed by what was removed. Written by earlier versions.
const APPLIED_TO_RANGES: u8 = 5;
const KEY_TOO_LONG: u8 = 6;
const VALUE_TOO_LARGE: u8 = 7;
const TOO_MUCH: u8 = 8;
/// As [`APPLIED`], each result followed by its detail.
const APPLIED_WITH_DETAILS: u8 = 9;
const UNFIT: u8 = 10;
const REPEATED: u8 = 11;
const OTHER_REQUEST: u8 = 12;
const TOO_MANY_ONCE: u8 = 13;

const COMPACTED: u8 = 16;
const FUTURE_REVISION: u8 = 17;
const LEASE_NOT_FOUND: u8 = 32;
const LEASE_EXISTS: u8 = 33;
const LEASE_FULL: u8 = 34;

const DETAIL_NONE: u8 = 0;
const DETAIL_REMOVED: u8 = 1;
const DETAIL_READ: u8 = 2;
const DETAIL_TRANSACTION: u8 = 3;

impl Outcome {
    /// The encoded form.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(48);
        match self {
            Self::Applied { revision, results } => {
                let has_details = results.iter().any(|result| result.detail.is_some());
                out.put_u8(if has_details { APPLIED_WITH_DETAILS } else { APPLIED });
                out.put_varint(revision.0);
                encode_results(results, has_details, &mut out);
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
            Self::TooMuch { max_keys, max_bytes } => {
                out.put_u8(TOO_MUCH);
                out.put_varint(*max_keys);
                out.put_varint(*max_bytes);
            }
            Self::Compacted { compacted } => {
                out.put_u8(COMPACTED);
                out.put_varint(compacted.0);
            }
            Self::FutureRevision { present } => {
                out.put_u8(FUTURE_REVISION);
                out.put_varint(present.0);
            }
            Self::LeaseNotFound { lease } => {
                out.put_u8(LEASE_NOT_FOUND);
                out.put_varint(lease.0);
            }
            Self::LeaseExists { lease } => {
                out.put_u8(LEASE_EXISTS);
                out.put_varint(lease.0);
            }
            Self::LeaseFull { max_keys } => {
                out.put_u8(LEASE_FULL);
                out.put_varint(*max_keys);
            }
            Self::Unfit { key, why } => {
                out.put_u8(UNFIT);
                out.put_bytes_with_len(key);
                why.encode(&mut out);
            }
            Self::Repeated(earlier) => {
                out.put_u8(REPEATED);
                out.put_slice(&earlier.to_bytes());
            }
            Self::OtherRequest => out.put_u8(OTHER_REQUEST),
            Self::TooManyOnce => out.put_u8(TOO_MANY_ONCE),
            Self::Forgotten => out.put_u8(FORGOTTEN),
        }
        out.freeze()
    }

    /// Bytes of keys and values that it carries.
    pub(crate) fn read_bytes(&self) -> u64 {
        match self {
            Self::Applied { results, .. } => results.iter().map(OpResult::read_bytes).sum(),
            Self::Repeated(earlier) => earlier.read_bytes(),
            _ => 0,
        }
    }

    /// Decodes what [`Outcome::to_bytes`] made.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let outcome = match reader.u8()? {
            APPLIED_TO_RANGES => {
                Self::Applied { revision: Revision(reader.varint()?), results: reader.list(read_result_with_removed)? }
            }
            APPLIED => Self::Applied { revision: Revision(reader.varint()?), results: reader.list(read_result)? },
            APPLIED_WITH_DETAILS => {
                Self::Applied { revision: Revision(reader.varint()?), results: read_results(&mut reader, MAX_TRANSACTION_DEPTH)? }
            }
            TOO_MUCH => Self::TooMuch { max_keys: reader.varint()?, max_bytes: reader.varint()? },
            CONDITION_FAILED => Self::ConditionFailed {
                revision: Revision(reader.varint()?),
                guard: reader.varint()?,
                current: read_meta(&mut reader)?,
            },
            LEASE_NOT_FOUND => Self::LeaseNotFound { lease: LeaseId(reader.varint()?) },
            LEASE_EXISTS => Self::LeaseExists { lease: LeaseId(reader.varint()?) },
            LEASE_FULL => Self::LeaseFull { max_keys: reader.varint()? },
            FULL => Self::Full { max_bytes: reader.varint()? },
            FORGOTTEN => Self::Forgotten,
            COMPACTED => Self::Compacted { compacted: Revision(reader.varint()?) },
            FUTURE_REVISION => Self::FutureRevision { present: Revision(reader.varint()?) },
            REPEATED => {
                let earlier = reader.into_rest();
                if earlier.first() == Some(&REPEATED) {
                    return Err(DecodeError::Malformed("a repetition of a repetition"));
                }
                return Ok(Self::Repeated(Box::new(Self::decode(earlier)?)));
            }
            OTHER_REQUEST => Self::OtherRequest,
            TOO_MANY_ONCE => Self::TooManyOnce,
            UNFIT => Self::Unfit { key: reader.bytes()?, why: Unfit::read(&mut reader)? },
            KEY_TOO_LONG => Self::KeyTooLong { max_bytes: reader.varint()? },
            VALUE_TOO_LARGE => Self::ValueTooLarge { max_bytes: reader.varint()? },
            tag => return Err(DecodeError::UnknownTag { what: "outcome", tag }),
        };
        reader.finish()?;
        Ok(outcome)
    }
}

fn encode_results(results: &[OpResult], has_details: bool, out: &mut BytesMut) {
    out.put_varint(results.len() as u64);
    for result in results {
        encode_meta(result.before, out);
        encode_meta(result.after, out);
        if has_details {
            encode_detail(result.detail.as_deref(), out);
        }
    }
}

fn read_result(reader: &mut Reader) -> Result<OpResult, DecodeError> {
    Ok(OpResult { before: read_meta(reader)?, after: read_meta(reader)?, detail: None })
}

/// The number of keys plus one, so that none and no key differ.
fn read_result_with_removed(reader: &mut Reader) -> Result<OpResult, DecodeError> {
    let result = read_result(reader)?;
    let detail = match reader.varint()? {
        0 => None,
        keys => Some(Box::new(Detail::Removed(Removed { keys: keys - 1, next: reader.optional_bytes()? }))),
    };
    Ok(OpResult { detail, ..result })
}

/// Results with details, in which transactions may lie `max_depth` deep.
fn read_results(reader: &mut Reader, max_depth: usize) -> Result<Vec<OpResult>, DecodeError> {
    reader.list(|reader| {
        let result = read_result(reader)?;
        Ok(OpResult { detail: read_detail(reader, max_depth)?, ..result })
    })
}

fn encode_detail(detail: Option<&Detail>, out: &mut BytesMut) {
    match detail {
        None => out.put_u8(DETAIL_NONE),
        Some(Detail::Removed(Removed { keys, next })) => {
            out.put_u8(DETAIL_REMOVED);
            out.put_varint(*keys);
            out.put_optional_bytes(next.as_deref());
        }
        Some(Detail::Read(Pairs { items, has_more })) => {
            out.put_u8(DETAIL_READ);
            out.put_u8(u8::from(*has_more));
            out.put_varint(items.len() as u64);
            for (key, record) in items {
                out.put_bytes_with_len(key);
                out.put_bytes_with_len(&record.to_bytes());
            }
        }
        Some(Detail::Transaction(TransactionResult { failed, results })) => {
            out.put_u8(DETAIL_TRANSACTION);
            out.put_varint(failed.map_or(0, |compare| compare.saturating_add(1)));
            encode_results(results, true, out);
        }
    }
}

fn read_detail(reader: &mut Reader, max_depth: usize) -> Result<Option<Box<Detail>>, DecodeError> {
    let detail = match reader.u8()? {
        DETAIL_NONE => return Ok(None),
        DETAIL_REMOVED => Detail::Removed(Removed { keys: reader.varint()?, next: reader.optional_bytes()? }),
        DETAIL_READ => {
            let has_more = reader.u8()? != 0;
            let items = reader.list(|reader| Ok((reader.bytes()?, Record::decode(reader.bytes()?)?)))?;
            Detail::Read(Pairs { items, has_more })
        }
        DETAIL_TRANSACTION => {
            let max_depth = max_depth.checked_sub(1).ok_or(DecodeError::Malformed("transactions too deep"))?;
            let failed = reader.varint()?.checked_sub(1);
            Detail::Transaction(TransactionResult { failed, results: read_results(reader, max_depth)? })
        }
        tag => return Err(DecodeError::UnknownTag { what: "detail", tag }),
    };
    Ok(Some(Box::new(detail)))
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

    const META: KeyMeta = KeyMeta { create_revision: Revision(3), mod_revision: Revision(900), version: 77 };

    fn removed(keys: u64, next: Option<&'static [u8]>) -> OpResult {
        OpResult::of(Detail::Removed(Removed { keys, next: next.map(Bytes::from_static) }))
    }

    fn read(value: &'static [u8], has_more: bool) -> OpResult {
        let value = Bytes::from_static(value);
        let record = Record { meta: META, content_type: None, user_meta: Vec::new(), expires_at_ms: None, lease: None, value };
        OpResult::of(Detail::Read(Pairs { items: vec![(Bytes::from_static(b"k"), record)], has_more }))
    }

    fn transaction(failed: Option<u64>, results: Vec<OpResult>) -> OpResult {
        OpResult::of(Detail::Transaction(TransactionResult { failed, results }))
    }

    #[test]
    fn outcomes_round_trip() {
        let meta = META;
        let outcomes = [
            Outcome::Applied { revision: Revision(5), results: vec![OpResult { after: Some(meta), ..OpResult::default() }] },
            Outcome::Applied {
                revision: Revision(5),
                results: vec![OpResult::default(), removed(0, None), removed(9, Some(b"k"))],
            },
            Outcome::Applied { revision: Revision(1), results: vec![] },
            Outcome::Applied {
                revision: Revision(5),
                results: vec![
                    OpResult { after: Some(meta), ..OpResult::default() },
                    transaction(Some(0), vec![]),
                    transaction(None, vec![read(b"v", true), transaction(Some(7), vec![removed(1, None), read(b"", false)])]),
                    OpResult::of(Detail::Read(Pairs::default())),
                ],
            },
            Outcome::TooMuch { max_keys: 10, max_bytes: 1 << 20 },
            Outcome::ConditionFailed { revision: Revision(9), guard: 2, current: Some(meta) },
            Outcome::ConditionFailed { revision: Revision(9), guard: 0, current: None },
            Outcome::Full { max_bytes: 1 << 40 },
            Outcome::KeyTooLong { max_bytes: 300 },
            Outcome::ValueTooLarge { max_bytes: 0 },
            Outcome::LeaseNotFound { lease: LeaseId(1 << 62) },
            Outcome::LeaseExists { lease: LeaseId(5) },
            Outcome::LeaseFull { max_keys: 300 },
            Outcome::Unfit { key: Bytes::from_static(b"k"), why: Unfit::NotANumber },
            Outcome::Repeated(Box::new(Outcome::Applied { revision: Revision(5), results: vec![] })),
            Outcome::OtherRequest,
            Outcome::TooManyOnce,
            Outcome::Unfit { key: Bytes::new(), why: Unfit::Target(crate::JsonError::Malformed { at: 700 }) },
            Outcome::Forgotten,
            Outcome::Compacted { compacted: Revision(300) },
            Outcome::FutureRevision { present: Revision(3) },
        ];
        for outcome in outcomes {
            assert_eq!(Outcome::decode(outcome.to_bytes()), Ok(outcome));
        }
        assert!(Outcome::decode(Bytes::from_static(b"\x1f")).is_err());
        assert!(Outcome::decode(Bytes::from(vec![REPEATED; 100_000])).is_err());
    }

    /// Written out, so that they stay readable whatever is written in future.
    #[test]
    fn forms_are_as_they_were() {
        let applied = |results| Outcome::Applied { revision: Revision(5), results };
        let put = || OpResult { after: Some(META), ..OpResult::default() };
        let cases = [
            (applied(vec![put()]), &b"\x01\x05\x01\x00\x4d\x03\x84\x07"[..]),
            (
                applied(vec![put(), removed(2, Some(b"k")), transaction(Some(0), vec![read(b"v", true)])]),
                b"\x09\x05\x03\x00\x4d\x03\x84\x07\x00\x00\x00\x01\x02\x02k\x00\x00\x03\x01\x01\x00\x00\
                  \x02\x01\x01\x01k\x07\x01\x03\x84\x07\x4d\x00v",
            ),
            (Outcome::TooMuch { max_keys: 3, max_bytes: 4 }, b"\x08\x03\x04"),
            (Outcome::Compacted { compacted: Revision(3) }, b"\x10\x03"),
            (Outcome::FutureRevision { present: Revision(3) }, b"\x11\x03"),
            (Outcome::LeaseNotFound { lease: LeaseId(5) }, b"\x20\x05"),
            (Outcome::LeaseExists { lease: LeaseId(5) }, b"\x21\x05"),
            (Outcome::LeaseFull { max_keys: 300 }, b"\x22\xac\x02"),
            (Outcome::Unfit { key: Bytes::from_static(b"k"), why: Unfit::Overflow }, b"\x0a\x01k\x02"),
            (Outcome::Repeated(Box::new(Outcome::Full { max_bytes: 3 })), b"\x0b\x03\x03"),
            (Outcome::OtherRequest, b"\x0c"),
            (Outcome::TooManyOnce, b"\x0d"),
        ];
        for (outcome, bytes) in cases {
            assert_eq!(outcome.to_bytes(), bytes);
            assert_eq!(Outcome::decode(Bytes::from_static(bytes)), Ok(outcome));
        }
        let before_details = Outcome::decode(Bytes::from_static(b"\x05\x05\x02\x00\x00\x00\x00\x00\x03\x02k"));
        assert_eq!(before_details, Ok(applied(vec![OpResult::default(), removed(2, Some(b"k"))])));
    }

    #[test]
    fn results_that_lie_too_deep_are_refused() {
        let nested = |depth| (0..depth).fold(OpResult::default(), |within, _| transaction(None, vec![within]));
        let decoded =
            |depth| Outcome::decode(Outcome::Applied { revision: Revision(5), results: vec![nested(depth)] }.to_bytes());
        assert!(decoded(MAX_TRANSACTION_DEPTH).is_ok());
        assert!(decoded(MAX_TRANSACTION_DEPTH + 1).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Outcome::decode(noise.into());
        }
    }

    #[test]
    fn an_outcome_that_is_cut_or_goes_on_is_refused() {
        let meta = META;
        let of_keys = vec![OpResult { before: Some(meta), after: Some(meta), detail: None }, OpResult::default()];
        let of_pairs = vec![read(b"", true), transaction(Some(1), vec![removed(3, Some(b"k"))])];
        for results in [of_keys, vec![removed(9, Some(b"k"))], of_pairs] {
            let encoded = Outcome::Applied { revision: Revision(5), results }.to_bytes();
            for len in 0..encoded.len() {
                assert_eq!(Outcome::decode(encoded.slice(..len)), Err(DecodeError::Truncated), "{len} bytes");
            }
            assert_eq!(Outcome::decode([&encoded[..], b"x"].concat().into()), Err(DecodeError::Trailing(1)));
        }
    }
}
