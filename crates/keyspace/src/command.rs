//! Commands: what a log entry asks of the shard, and how it is written down.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::KeyRange;

use crate::Revision;
use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::{Limits, Settings};
use crate::record::{encode_user_meta, read_user_meta, user_meta_bytes};

/// Guards and operations that take effect together or not at all, under one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// All must hold, or nothing is done.
    pub guards: Vec<Guard>,
    /// Done in order.
    pub ops: Vec<Op>,
}

impl Write {
    /// Sets one key, whatever it held.
    pub fn put(key: Bytes, value: Bytes) -> Self {
        Self { guards: Vec::new(), ops: vec![Op::Put(Put::new(key, value))] }
    }

    /// Removes one key.
    pub fn delete(key: Bytes) -> Self {
        Self { guards: Vec::new(), ops: vec![Op::Delete { key }] }
    }

    /// The encoded form: guards, then operations.
    pub fn to_bytes(&self) -> Bytes {
        let guards: usize = self.guards.iter().map(|guard| guard.key.len() + 24).sum();
        let ops: usize = self.ops.iter().map(op_bytes_hint).sum();
        let mut out = BytesMut::with_capacity(guards + ops + 8);
        out.put_varint(self.guards.len() as u64);
        for guard in &self.guards {
            encode_guard(guard, &mut out);
        }
        out.put_varint(self.ops.len() as u64);
        for op in &self.ops {
            encode_op(op, &mut out);
        }
        out.freeze()
    }

    /// The same, if `condition` holds for `key`.
    #[must_use]
    pub fn only_if(mut self, key: Bytes, condition: Condition) -> Self {
        self.guards.push(Guard { key, condition });
        self
    }
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The key.
    pub key: Bytes,
    /// What must be true of it.
    pub condition: Condition,
}

/// What must be true of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
    /// It is there, and was last changed at one of these revisions. None of none: never holds.
    ModRevisionIn(Vec<Revision>),
    /// It is not there, or was last changed at another revision than these.
    ModRevisionNotIn(Vec<Revision>),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Put),
    /// Removes a key; nothing happens if it is not there.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Removes keys of a range, the smallest first.
    DeleteRange {
        /// The range.
        range: KeyRange,
        /// At most this many keys; what is left is named in the result.
        max_keys: u64,
    },
    /// Changes what the keyspace sets for the shard. No pair changes, and no revision. What the same write does besides is
    /// still measured by the limits before.
    Configure(Settings),
}

/// A key, its new value, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The media type it was stored with.
    pub content_type: Option<Bytes>,
    /// What users note beside the value, by name; see [`crate::Record::user_meta`].
    pub user_meta: Vec<(Bytes, Bytes)>,
    /// After how many milliseconds it goes by itself, if not after the keyspace's own time. Engines that do not evict keep it
    /// all the same: who asks for it sees to it that this one does.
    pub ttl_ms: Option<u64>,
}

impl Put {
    /// A key and a value, and nothing that goes with them.
    pub fn new(key: Bytes, value: Bytes) -> Self {
        Self { key, value, content_type: None, user_meta: Vec::new(), ttl_ms: None }
    }
}

/// Names a request for ever: one start of one node, and a counter there. A command that is proposed twice is applied once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// One start of one node.
    pub origin: u64,
    /// Counts that start's requests from 1; 0 stands for "not remembered".
    pub sequence: u64,
}

/// A write with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The name.
    pub id: RequestId,
    /// The origin waits for no request below this sequence: their outcomes may be forgotten.
    pub floor: u64,
    /// What to do.
    pub write: Write,
}

/// What stands before the commands of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryHeader {
    /// The group's log time when the leader packed the entry, in milliseconds.
    pub log_time_ms: u64,
}

/// Version of the entry's form. A node that meets a newer one stops rather than skip it.
const ENTRY_VERSION: u8 = 1;

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_DELETE_RANGE: u8 = 3;
const OP_CONFIGURE: u8 = 4;
const OP_PUT_WITH_META: u8 = 5;
const OP_PUT_FOR_A_TIME: u8 = 6;

const BOUND_NONE: u8 = 0;
const BOUND_INCLUDED: u8 = 1;
const BOUND_EXCLUDED: u8 = 2;

const CONDITION_EXISTS: u8 = 1;
const CONDITION_ABSENT: u8 = 2;
const CONDITION_REVISION_IN: u8 = 3;
const CONDITION_REVISION_NOT_IN: u8 = 4;

impl Command {
    /// Appends what stands before the encoded write: id, floor, and the principal's place, which is empty until there is
    /// authentication. A command is this and the write's bytes.
    pub fn encode_prefix(id: RequestId, floor: u64, out: &mut BytesMut) {
        out.put_varint(id.origin);
        out.put_varint(id.sequence);
        out.put_varint(id.sequence.saturating_sub(floor));
        out.put_bytes_with_len(b"");
    }

    /// The encoded command.
    pub fn to_bytes(&self) -> Bytes {
        let write = self.write.to_bytes();
        let mut out = BytesMut::with_capacity(write.len() + 32);
        Self::encode_prefix(self.id, self.floor, &mut out);
        out.put_slice(&write);
        out.freeze()
    }

    /// Decodes a command that fills `bytes` exactly. Keys and values are slices of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let command = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(command)
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let origin = reader.varint()?;
        let sequence = reader.varint()?;
        let floor = sequence.checked_sub(reader.varint()?).ok_or(DecodeError::Malformed("floor above sequence"))?;
        let _principal = reader.bytes()?;
        let guards = reader.list(read_guard)?;
        let ops = reader.list(read_op)?;
        Ok(Self { id: RequestId { origin, sequence }, floor, write: Write { guards, ops } })
    }
}

fn op_bytes_hint(op: &Op) -> usize {
    match op {
        Op::Put(put) => {
            let content_type_bytes = put.content_type.as_ref().map_or(0, Bytes::len);
            put.key.len() + put.value.len() + content_type_bytes + user_meta_bytes(&put.user_meta) + 24
        }
        Op::Delete { key } => key.len() + 8,
        Op::DeleteRange { range, .. } => bound_bytes_hint(&range.start) + bound_bytes_hint(&range.end) + 12,
        Op::Configure(_) => 32,
    }
}

fn bound_bytes_hint(bound: &Bound<Bytes>) -> usize {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => key.len() + 6,
        Bound::Unbounded => 1,
    }
}

fn encode_guard(guard: &Guard, out: &mut BytesMut) {
    out.put_bytes_with_len(&guard.key);
    match &guard.condition {
        Condition::Exists => out.put_u8(CONDITION_EXISTS),
        Condition::Absent => out.put_u8(CONDITION_ABSENT),
        Condition::ModRevisionIn(revisions) => encode_revisions(CONDITION_REVISION_IN, revisions, out),
        Condition::ModRevisionNotIn(revisions) => encode_revisions(CONDITION_REVISION_NOT_IN, revisions, out),
    }
}

fn encode_revisions(tag: u8, revisions: &[Revision], out: &mut BytesMut) {
    out.put_u8(tag);
    out.put_varint(revisions.len() as u64);
    for revision in revisions {
        out.put_varint(revision.0);
    }
}

fn read_guard(reader: &mut Reader) -> Result<Guard, DecodeError> {
    let key = reader.bytes()?;
    let condition = match reader.u8()? {
        CONDITION_EXISTS => Condition::Exists,
        CONDITION_ABSENT => Condition::Absent,
        CONDITION_REVISION_IN => Condition::ModRevisionIn(reader.list(read_revision)?),
        CONDITION_REVISION_NOT_IN => Condition::ModRevisionNotIn(reader.list(read_revision)?),
        tag => return Err(DecodeError::UnknownTag { what: "condition", tag }),
    };
    Ok(Guard { key, condition })
}

fn read_revision(reader: &mut Reader) -> Result<Revision, DecodeError> {
    reader.varint().map(Revision)
}

fn encode_op(op: &Op, out: &mut BytesMut) {
    match op {
        Op::Put(put) => {
            let tag = match put.ttl_ms {
                Some(_) => OP_PUT_FOR_A_TIME,
                None if put.user_meta.is_empty() => OP_PUT,
                None => OP_PUT_WITH_META,
            };
            out.put_u8(tag);
            out.put_bytes_with_len(&put.key);
            out.put_optional_bytes(put.content_type.as_deref());
            if tag != OP_PUT {
                encode_user_meta(&put.user_meta, out);
            }
            put.ttl_ms.into_iter().for_each(|ttl_ms| out.put_varint(ttl_ms));
            out.put_bytes_with_len(&put.value);
        }
        Op::Delete { key } => {
            out.put_u8(OP_DELETE);
            out.put_bytes_with_len(key);
        }
        Op::DeleteRange { range, max_keys } => {
            out.put_u8(OP_DELETE_RANGE);
            encode_bound(&range.start, out);
            encode_bound(&range.end, out);
            out.put_varint(*max_keys);
        }
        Op::Configure(Settings { limits }) => {
            out.put_u8(OP_CONFIGURE);
            limits.encode(out);
        }
    }
}

fn read_op(reader: &mut Reader) -> Result<Op, DecodeError> {
    match reader.u8()? {
        tag @ (OP_PUT | OP_PUT_WITH_META | OP_PUT_FOR_A_TIME) => {
            let key = reader.bytes()?;
            let content_type = reader.optional_bytes()?;
            let user_meta = if tag == OP_PUT { Vec::new() } else { read_user_meta(reader)? };
            let ttl_ms = if tag == OP_PUT_FOR_A_TIME { Some(reader.varint()?) } else { None };
            let value = reader.bytes()?;
            Ok(Op::Put(Put { key, value, content_type, user_meta, ttl_ms }))
        }
        OP_DELETE => Ok(Op::Delete { key: reader.bytes()? }),
        OP_DELETE_RANGE => {
            let range = KeyRange { start: read_bound(reader)?, end: read_bound(reader)? };
            Ok(Op::DeleteRange { range, max_keys: reader.varint()? })
        }
        OP_CONFIGURE => Ok(Op::Configure(Settings { limits: Limits::read(reader)? })),
        tag => Err(DecodeError::UnknownTag { what: "operation", tag }),
    }
}

fn encode_bound(bound: &Bound<Bytes>, out: &mut BytesMut) {
    let (tag, key) = match bound {
        Bound::Unbounded => return out.put_u8(BOUND_NONE),
        Bound::Included(key) => (BOUND_INCLUDED, key),
        Bound::Excluded(key) => (BOUND_EXCLUDED, key),
    };
    out.put_u8(tag);
    out.put_bytes_with_len(key);
}

fn read_bound(reader: &mut Reader) -> Result<Bound<Bytes>, DecodeError> {
    match reader.u8()? {
        BOUND_NONE => Ok(Bound::Unbounded),
        BOUND_INCLUDED => Ok(Bound::Included(reader.bytes()?)),
        BOUND_EXCLUDED => Ok(Bound::Excluded(reader.bytes()?)),
        tag => Err(DecodeError::UnknownTag { what: "bound", tag }),
    }
}

/// Packs encoded commands into one entry.
pub fn encode_entry<'a>(header: EntryHeader, commands: impl ExactSizeIterator<Item = &'a Bytes> + Clone) -> Bytes {
    let length: usize = commands.clone().map(|command| command.len() + 5).sum();
    let mut out = BytesMut::with_capacity(length + 24);
    out.put_u8(ENTRY_VERSION);
    out.put_varint(header.log_time_ms);
    out.put_varint(commands.len() as u64);
    for command in commands {
        out.put_bytes_with_len(command);
    }
    out.freeze()
}

/// Unpacks an entry. An empty entry (a new leader's) has no commands.
pub fn decode_entry(bytes: Bytes) -> Result<(EntryHeader, Vec<Command>), DecodeError> {
    if bytes.is_empty() {
        return Ok((EntryHeader::default(), Vec::new()));
    }
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if version != ENTRY_VERSION {
        return Err(DecodeError::UnknownTag { what: "entry version", tag: version });
    }
    let log_time_ms = reader.varint()?;
    let commands = reader.list(|reader| Command::decode(reader.bytes()?))?;
    reader.finish()?;
    Ok((EntryHeader { log_time_ms }, commands))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let revisions = || proptest::collection::vec(any::<u64>().prop_map(Revision), 0..4);
        prop_oneof![
            Just(Condition::Exists),
            Just(Condition::Absent),
            revisions().prop_map(Condition::ModRevisionIn),
            revisions().prop_map(Condition::ModRevisionNotIn),
        ]
    }

    fn bound() -> impl Strategy<Value = Bound<Bytes>> {
        prop_oneof![Just(Bound::Unbounded), bytes().prop_map(Bound::Included), bytes().prop_map(Bound::Excluded)]
    }

    fn op() -> impl Strategy<Value = Op> {
        let user_meta = proptest::collection::vec((bytes(), bytes()), 0..3);
        prop_oneof![
            (bytes(), bytes(), proptest::option::of(bytes()), user_meta, proptest::option::of(any::<u64>())).prop_map(
                |(key, value, content_type, user_meta, ttl_ms)| Op::Put(Put { key, value, content_type, user_meta, ttl_ms })
            ),
            bytes().prop_map(|key| Op::Delete { key }),
            (bound(), bound(), any::<u64>())
                .prop_map(|(start, end, max_keys)| Op::DeleteRange { range: KeyRange { start, end }, max_keys }),
            (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(max_bytes, max_key_bytes, max_value_bytes)| {
                Op::Configure(Settings { limits: Limits { max_bytes, max_key_bytes, max_value_bytes } })
            }),
        ]
    }

    fn command() -> impl Strategy<Value = Command> {
        let guards = proptest::collection::vec((bytes(), condition()), 0..3)
            .prop_map(|guards| guards.into_iter().map(|(key, condition)| Guard { key, condition }).collect());
        let ops = proptest::collection::vec(op(), 0..4);
        (any::<u64>(), any::<u64>(), any::<u64>(), guards, ops).prop_map(|(origin, sequence, floor, guards, ops)| Command {
            id: RequestId { origin, sequence },
            floor: floor.min(sequence),
            write: Write { guards, ops },
        })
    }

    proptest! {
        #[test]
        fn entries_round_trip(commands in proptest::collection::vec(command(), 0..5), log_time_ms: u64) {
            let encoded: Vec<Bytes> = commands.iter().map(Command::to_bytes).collect();
            let entry = encode_entry(EntryHeader { log_time_ms }, encoded.iter());
            prop_assert_eq!(decode_entry(entry).unwrap(), (EntryHeader { log_time_ms }, commands));
        }

        #[test]
        fn a_cut_entry_is_refused(command in command(), cut: prop::sample::Index) {
            let entry = encode_entry(EntryHeader::default(), [command.to_bytes()].iter());
            let cut = 1 + cut.index(entry.len() - 1);
            prop_assert!(decode_entry(entry.slice(..cut)).is_err() || cut == entry.len());
        }

        #[test]
        fn any_bytes_decode_without_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_entry(noise.into());
        }
    }
}
