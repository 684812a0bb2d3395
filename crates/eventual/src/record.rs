//! What a durable replica keeps in the node's log.
//!
//! Records are read back in the order in which they were written: then the replica is as it was. A record that says again what an
//! earlier one said changes nothing, which is what checkpoints are made of.

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::{Pair, encode_pairs, read_flag, read_pairs};
use crate::version::{Hlc, InstanceId};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// What was merged.
    Merged(Vec<Pair>),
    /// No stamp above this was made before the next such record.
    Bound(Hlc),
    /// What was dead at or below this was dropped.
    Fence(Hlc),
    /// All times of the schedule up to this one, in milliseconds since 1970, are done with.
    Scheduled(u64),
    /// A part of a copy that takes the place of what there was: nothing of it counts before its last part.
    Swapped {
        /// Which part, from 0.
        number: u64,
        /// If it is the last one, whose copy it is, and its stamp.
        last: Option<(InstanceId, Hlc)>,
        /// What takes the place of what there was.
        pairs: Vec<Pair>,
        /// Keys that went.
        gone: Vec<Bytes>,
    },
}

/// The first byte of each record.
const RECORD_VERSION: u8 = 1;

const MERGED: u8 = 1;
const BOUND: u8 = 2;
const FENCE: u8 = 3;
const SCHEDULED: u8 = 4;
const SWAPPED: u8 = 5;

impl Record {
    /// The encoded form: format version, tag, and pairs or stamp.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(RECORD_VERSION);
        match self {
            Self::Merged(pairs) => {
                out.put_u8(MERGED);
                encode_pairs(pairs, &mut out);
            }
            Self::Bound(hlc) => {
                out.put_u8(BOUND);
                out.put_varint(hlc.0);
            }
            Self::Fence(hlc) => {
                out.put_u8(FENCE);
                out.put_varint(hlc.0);
            }
            Self::Scheduled(ms) => {
                out.put_u8(SCHEDULED);
                out.put_varint(*ms);
            }
            Self::Swapped { number, last, pairs, gone } => {
                out.put_u8(SWAPPED);
                out.put_varint(*number);
                out.put_u8(u8::from(last.is_some()));
                if let Some((from, at)) = last {
                    out.put_varint(u64::from(from.0));
                    out.put_varint(at.0);
                }
                encode_pairs(pairs, &mut out);
                out.put_varint(gone.len() as u64);
                gone.iter().for_each(|key| out.put_bytes_with_len(key));
            }
        }
        out.freeze()
    }

    /// Decodes what [`Record::to_bytes`] made.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != RECORD_VERSION {
            return Err(DecodeError::UnknownTag { what: "record format", tag: format });
        }
        let record = match reader.u8()? {
            MERGED => Self::Merged(read_pairs(&mut reader)?),
            BOUND => Self::Bound(Hlc(reader.varint()?)),
            FENCE => Self::Fence(Hlc(reader.varint()?)),
            SCHEDULED => Self::Scheduled(reader.varint()?),
            SWAPPED => Self::Swapped {
                number: reader.varint()?,
                last: if read_flag(&mut reader)? {
                    Some((InstanceId(reader.varint_u32()?), Hlc(reader.varint()?)))
                } else {
                    None
                },
                pairs: read_pairs(&mut reader)?,
                gone: reader.list(Reader::bytes)?,
            },
            tag => return Err(DecodeError::UnknownTag { what: "record", tag }),
        };
        reader.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;
    use crate::entry::{Body, Entry};
    use crate::version::Version;

    fn record() -> impl Strategy<Value = Record> {
        let pair =
            || (prop::collection::vec(any::<u8>(), 0..9), entry()).prop_map(|(key, entry)| Pair { key: key.into(), entry });
        let pairs = || prop::collection::vec(pair(), 0..4);
        let key = prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let last = prop::option::of((any::<u32>().prop_map(InstanceId), any::<u64>().prop_map(Hlc)));
        prop_oneof![
            pairs().prop_map(Record::Merged),
            (any::<u64>(), last, pairs(), prop::collection::vec(key, 0..4))
                .prop_map(|(number, last, pairs, gone)| Record::Swapped { number, last, pairs, gone }),
            any::<u64>().prop_map(|at| Record::Bound(Hlc(at))),
            any::<u64>().prop_map(|at| Record::Fence(Hlc(at))),
            any::<u64>().prop_map(Record::Scheduled),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip_and_cut_ones_are_refused(record in record(), at in any::<prop::sample::Index>()) {
            let bytes = record.to_bytes();
            prop_assert!(Record::decode(bytes.slice(..at.index(bytes.len()))).is_err());
            prop_assert_eq!(Record::decode(bytes), Ok(record));
        }
    }

    #[test]
    fn records_are_as_they_were() {
        let entry = Entry { version: Version::default(), deadline_ms: 0, body: Body::Tombstone };
        let swapped = Record::Swapped {
            number: 1,
            last: Some((InstanceId(3), Hlc(5))),
            pairs: vec![Pair { key: Bytes::from_static(b"k"), entry: entry.clone() }],
            gone: vec![Bytes::from_static(b"g")],
        };
        let merged = Record::Merged(vec![Pair { key: Bytes::from_static(b"k"), entry }]);
        let cases = [
            (merged, &b"\x01\x01\x01\x01k\x0f\x01\0\0\0\0\0\0\0\0\0\0\0\0\x01\0"[..]),
            (Record::Bound(Hlc(300)), b"\x01\x02\xac\x02"),
            (Record::Fence(Hlc(5)), b"\x01\x03\x05"),
            (swapped, &b"\x01\x05\x01\x01\x03\x05\x01\x01k\x0f\x01\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\x01g"[..]),
            (Record::Scheduled(300), b"\x01\x04\xac\x02"),
        ];
        for (record, bytes) in cases {
            assert_eq!(record.to_bytes(), bytes);
            assert_eq!(Record::decode(Bytes::from_static(bytes)), Ok(record));
        }
    }
}
