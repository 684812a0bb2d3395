//! The byte forms of rows; the table in [`super`] describes them.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::KeyRange;

use crate::event::Cause;
use crate::{Record, Revision};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// The key of the row that tells how far history reaches.
pub(super) const EXTENT_KEY: &[u8] = &[0];

const CHANGES_TAG: u8 = 1;
const VERSION_TAG: u8 = 2;

/// Of the rows that begin with it.
const FORM: u8 = 1;

const ESCAPE: u8 = 0;
const ESCAPED_ZERO: u8 = 0xff;
const END_OF_KEY: u8 = 1;

/// Where a removal stands in place of a record. No record begins with it.
const REMOVED: u8 = 0;

const REVISION_BYTES: usize = 8;

/// What a revision changed, as its row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChangesRow {
    pub(super) log_time_ms: u64,
    pub(super) changes: Vec<KeyChange>,
}

/// What it changed about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyChange {
    pub(super) cause: Cause,
    pub(super) key: Bytes,
    /// The version before, and the bytes of its record.
    pub(super) before: Option<(Revision, u64)>,
}

/// What a version row holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// A record, encoded.
    Record(Bytes),
    /// Nothing: the key was removed.
    Removed(Cause),
}

/// The key of a revision's row of changes.
pub(super) fn changes_key(revision: Revision) -> Bytes {
    let mut key = [CHANGES_TAG; 1 + REVISION_BYTES];
    key[1..].copy_from_slice(&revision.0.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The rows of changes from a revision on.
pub(super) fn changes_from(revision: Revision) -> KeyRange {
    KeyRange { start: Bound::Included(changes_key(revision)), end: Bound::Excluded(Bytes::from_static(&[VERSION_TAG])) }
}

/// The revision whose row of changes has this key.
pub(super) fn revision_of_changes(key: &[u8]) -> Result<Revision, DecodeError> {
    match key.split_first() {
        Some((&CHANGES_TAG, revision)) => revision_of(revision),
        _ => Err(DecodeError::Malformed("key of a row of changes")),
    }
}

fn revision_of(bytes: &[u8]) -> Result<Revision, DecodeError> {
    let bytes = bytes.try_into().map_err(|_| DecodeError::Malformed("revision in a key of history"))?;
    Ok(Revision(u64::from_be_bytes(bytes)))
}

/// What the rows of all versions of a key begin with.
pub(super) fn versions_prefix(key: &[u8]) -> BytesMut {
    let mut prefix = BytesMut::with_capacity(key.len() + 3 + REVISION_BYTES);
    prefix.put_u8(VERSION_TAG);
    for part in key.split_inclusive(|byte| *byte == ESCAPE) {
        prefix.put_slice(part);
        if part.last() == Some(&ESCAPE) {
            prefix.put_u8(ESCAPED_ZERO);
        }
    }
    prefix.put_slice(&[ESCAPE, END_OF_KEY]);
    prefix
}

/// The key of one version's row.
pub(super) fn version_key(key: &[u8], revision: Revision) -> Bytes {
    let mut out = versions_prefix(key);
    out.put_u64(revision.0);
    out.freeze()
}

/// How long [`version_key`] is.
pub(super) fn version_key_bytes(key: &[u8]) -> u64 {
    let zeros = key.split(|byte| *byte == ESCAPE).count() - 1;
    (key.len() + zeros + 3 + REVISION_BYTES) as u64
}

/// A version's key and revision, from its row's key.
pub(super) fn parse_version_key(row_key: &[u8]) -> Result<(Bytes, Revision), DecodeError> {
    let malformed = || DecodeError::Malformed("key of a version");
    let (&tag, rest) = row_key.split_first().ok_or_else(malformed)?;
    let (escaped, revision) = rest.split_last_chunk::<REVISION_BYTES>().ok_or_else(malformed)?;
    let escaped = escaped.strip_suffix(&[ESCAPE, END_OF_KEY]).ok_or_else(malformed)?;
    if tag != VERSION_TAG {
        return Err(malformed());
    }
    let mut key = BytesMut::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        if byte == ESCAPE && bytes.next() != Some(&ESCAPED_ZERO) {
            return Err(malformed());
        }
        key.put_u8(byte);
    }
    Ok((key.freeze(), Revision(u64::from_be_bytes(*revision))))
}

/// The versions of all keys of a range.
pub(super) fn versions_of(range: &KeyRange) -> KeyRange {
    let first = |key: &Bytes| versions_prefix(key).freeze();
    let start = match &range.start {
        Bound::Unbounded => Bound::Included(Bytes::from_static(&[VERSION_TAG])),
        Bound::Included(key) => Bound::Included(first(key)),
        Bound::Excluded(key) => Bound::Included(behind_versions(key)),
    };
    let end = match &range.end {
        Bound::Unbounded => Bound::Excluded(Bytes::from_static(&[VERSION_TAG + 1])),
        Bound::Included(key) => Bound::Excluded(behind_versions(key)),
        Bound::Excluded(key) => Bound::Excluded(first(key)),
    };
    KeyRange { start, end }
}

/// Behind all versions of a key, and before those of every greater one.
fn behind_versions(key: &[u8]) -> Bytes {
    let mut prefix = versions_prefix(key);
    let last = prefix.len() - 1;
    prefix[last] = END_OF_KEY + 1;
    prefix.freeze()
}

/// The versions of a key up to a revision.
pub(super) fn versions_until(key: &[u8], revision: Revision) -> KeyRange {
    KeyRange { start: Bound::Included(versions_prefix(key).freeze()), end: Bound::Included(version_key(key, revision)) }
}

impl ChangesRow {
    pub(super) fn to_bytes(&self) -> Bytes {
        let keys_bytes: usize = self.changes.iter().map(|change| change.key.len() + 16).sum();
        let mut out = BytesMut::with_capacity(16 + keys_bytes);
        out.put_u8(FORM);
        out.put_varint(self.log_time_ms);
        out.put_varint(self.changes.len() as u64);
        for KeyChange { cause, key, before } in &self.changes {
            out.put_u8(cause.tag());
            out.put_bytes_with_len(key);
            let (revision, record_bytes) = before.unwrap_or_default();
            out.put_varint(revision.0);
            out.put_varint(record_bytes);
        }
        out.freeze()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = begin(bytes)?;
        let log_time_ms = reader.varint()?;
        let changes = reader.list(|reader| {
            let cause = Cause::of_tag(reader.u8()?)?;
            let key = reader.bytes()?;
            let (revision, record_bytes) = (Revision(reader.varint()?), reader.varint()?);
            Ok(KeyChange { cause, key, before: (revision.0 > 0).then_some((revision, record_bytes)) })
        })?;
        reader.finish()?;
        Ok(Self { log_time_ms, changes })
    }

    /// The log time alone.
    pub(super) fn log_time_ms(bytes: Bytes) -> Result<u64, DecodeError> {
        begin(bytes)?.varint()
    }
}

impl Old {
    pub(super) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Record(record) => record.clone(),
            Self::Removed(cause) => Bytes::copy_from_slice(&[REMOVED, cause.tag()]),
        }
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        match bytes[..] {
            [REMOVED, cause] => Ok(Self::Removed(Cause::of_tag(cause)?)),
            [] | [REMOVED, ..] => Err(DecodeError::Malformed("a version that is neither a record nor a removal")),
            _ => Ok(Self::Record(bytes)),
        }
    }

    /// The record, decoded.
    pub(super) fn into_record(self) -> Result<Option<Record>, DecodeError> {
        match self {
            Self::Record(record) => Record::decode(record).map(Some),
            Self::Removed(_) => Ok(None),
        }
    }
}

/// How many bytes a removal takes in place of a record.
pub(super) const REMOVED_BYTES: u64 = 2;

/// The row that tells how far history reaches: these numbers.
pub(super) fn extent_row(numbers: [Revision; 3]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 3 * 10);
    out.put_u8(FORM);
    numbers.into_iter().for_each(|number| out.put_varint(number.0));
    out.freeze()
}

/// What [`extent_row`] wrote.
pub(super) fn read_extent(bytes: Bytes) -> Result<[Revision; 3], DecodeError> {
    let mut reader = begin(bytes)?;
    let numbers = [Revision(reader.varint()?), Revision(reader.varint()?), Revision(reader.varint()?)];
    reader.finish()?;
    Ok(numbers)
}

fn begin(bytes: Bytes) -> Result<Reader, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        FORM => Ok(reader),
        tag => Err(DecodeError::UnknownTag { what: "row of history", tag }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that matter at the borders of keys.
    fn key() -> impl Strategy<Value = Bytes> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(2), Just(0xfe), Just(0xff), any::<u8>()];
        prop::collection::vec(byte, 0..5).prop_map(Bytes::from)
    }

    fn bound() -> impl Strategy<Value = Bound<Bytes>> {
        prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn versions_lie_in_the_order_of_keys_and_revisions(a in (key(), any::<u64>()), b in (key(), any::<u64>())) {
            let row = |(key, revision): &(Bytes, u64)| version_key(key, Revision(*revision));
            prop_assert_eq!(row(&a).cmp(&row(&b)), a.cmp(&b));
            prop_assert_eq!(parse_version_key(&row(&a)), Ok((a.0.clone(), Revision(a.1))));
            prop_assert_eq!(version_key_bytes(&a.0), row(&a).len() as u64);
        }

        #[test]
        fn a_range_has_the_versions_of_its_keys(start in bound(), end in bound(), key in key(), revision: u64) {
            let range = KeyRange { start, end };
            let row = version_key(&key, Revision(revision));
            prop_assert_eq!(versions_of(&range).contains(&row), range.contains(&key));
        }

        #[test]
        fn versions_up_to_a_revision_are_those_of_the_key(key in key(), other in key(), until: u64, revision: u64) {
            let row = version_key(&other, Revision(revision));
            prop_assert_eq!(versions_until(&key, Revision(until)).contains(&row), key == other && revision <= until);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(noise in prop::collection::vec(any::<u8>(), 0..40)) {
            let noise = Bytes::from(noise);
            let _ = (parse_version_key(&noise), revision_of_changes(&noise), ChangesRow::decode(noise.clone()));
            let _ = (Old::decode(noise.clone()), read_extent(noise));
        }
    }

    fn row() -> ChangesRow {
        let change = |cause, key: &'static [u8], before| KeyChange { cause, key: Bytes::from_static(key), before };
        ChangesRow {
            log_time_ms: 300,
            changes: vec![
                change(Cause::Put, b"a", Some((Revision(3), 9))),
                change(Cause::Delete, b"", Some((Revision(200), 8))),
                change(Cause::Expire, b"b\0", None),
            ],
        }
    }

    /// Written out, so that they stay readable whatever is written in future.
    #[test]
    fn forms_are_as_they_were() {
        let bytes: &[u8] = b"\x01\xac\x02\x03\x01\x01a\x03\x09\x02\x00\xc8\x01\x08\x03\x02b\x00\x00\x00";
        assert_eq!(row().to_bytes(), bytes);
        assert_eq!(ChangesRow::decode(Bytes::from_static(bytes)), Ok(row()));
        assert_eq!(ChangesRow::log_time_ms(Bytes::from_static(bytes)), Ok(300));
        assert_eq!(changes_key(Revision(258)), &b"\x01\0\0\0\0\0\0\x01\x02"[..]);
        assert_eq!(version_key(b"a\0", Revision(258)), &b"\x02a\0\xff\0\x01\0\0\0\0\0\0\x01\x02"[..]);
        assert_eq!(Old::Removed(Cause::Delete).to_bytes(), &b"\0\x02"[..]);
        assert_eq!(extent_row([Revision(3), Revision(1), Revision(2)]), &b"\x01\x03\x01\x02"[..]);
        assert_eq!(read_extent(Bytes::from_static(b"\x01\x03\x01\x02")), Ok([Revision(3), Revision(1), Revision(2)]));
    }

    #[test]
    fn a_row_that_is_cut_or_goes_on_is_refused() {
        let bytes = row().to_bytes();
        for len in 0..bytes.len() {
            assert!(ChangesRow::decode(bytes.slice(..len)).is_err(), "{len} bytes");
        }
        assert_eq!(ChangesRow::decode([&bytes[..], b"x"].concat().into()), Err(DecodeError::Trailing(1)));
        assert!(Old::decode(Bytes::new()).is_err() && Old::decode(Bytes::from_static(b"\0")).is_err());
    }
}
