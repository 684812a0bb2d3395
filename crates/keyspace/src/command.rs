//! Commands: what a log entry asks of the shard, and how it is written down.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::KeyRange;

use crate::Revision;
use crate::lease::LeaseId;
use crate::limits::{Limits, Settings};
use crate::once::Fingerprint;
use crate::patch::Patch;
use crate::record::{encode_user_meta, read_user_meta, user_meta_bytes};
use crate::transaction::{Listing, MAX_TRANSACTION_DEPTH, Transaction};
use quorate_engine::codec::{DecodeError, Reader, Writer};

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

    /// A transaction alone.
    pub fn transaction(transaction: Transaction) -> Self {
        Self { guards: Vec::new(), ops: vec![Op::Transaction(Box::new(transaction))] }
    }

    /// Whether what it does depends on what is there.
    pub fn is_conditional(&self) -> bool {
        !self.guards.is_empty() || self.ops.iter().any(Op::is_conditional)
    }

    /// What its client asked for: without the bounds that the node which took it lets values grow to. They may be others at the
    /// next node, and the request is still the same.
    #[must_use]
    pub fn without_bounds(&self) -> Self {
        let mut write = self.clone();
        write.ops.iter_mut().for_each(Op::forget_bounds);
        write
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
    /// Not about a key of the shard: the guard's key is one that the client made up for this request, so that it is done once. If
    /// a request was done under it before, the write does nothing, and comes to what that one came to, provided that it had the
    /// same fingerprint.
    Once(Fingerprint),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Put),
    /// Changes a key by what it holds.
    Patch(Box<Patch>),
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
    /// Reads a key, as those before left it.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Reads pairs of a range, as those before left them.
    List(Listing),
    /// Does one of two things.
    Transaction(Box<Transaction>),
    /// Changes what the keyspace sets for the shard. No pair changes, and no revision. What the same write does besides is
    /// still measured by the limits before.
    Configure(Settings),
    /// Makes a revision the oldest that can be read, and lets go of what only older ones need. No pair changes, and no revision.
    Compact {
        /// The revision.
        revision: Revision,
    },
    /// Makes a lease; refused if there is one of this name. No pair changes, and no revision.
    LeaseGrant {
        /// Its name, not 0.
        id: LeaseId,
        /// How long it lives without a word from its client, in milliseconds.
        ttl_ms: u64,
    },
    /// Ends a lease, and removes all keys that hang on it, in order; refused if it is not there.
    LeaseRevoke {
        /// Its name.
        id: LeaseId,
    },
    /// The same of all those leases whose time is up by their leader's clock. One that is not there, or not from this grant, is
    /// passed by, and so are those at the end with which more than [`crate::MAX_LEASE_KEYS`] keys would go.
    LeaseExpire {
        /// Each with the index of its grant.
        leases: Vec<(LeaseId, u64)>,
    },
}

impl Op {
    fn forget_bounds(&mut self) {
        match self {
            Self::Patch(patch) => patch.max_value_bytes = 0,
            Self::Transaction(within) => within.then.iter_mut().chain(&mut within.otherwise).for_each(Self::forget_bounds),
            _ => {}
        }
    }

    /// Whether it changes nothing, whatever it finds.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Get { .. } | Self::List(_) => true,
            Self::Transaction(transaction) => transaction.is_read_only(),
            _ => false,
        }
    }

    /// Whether what it does depends on what is there.
    pub(crate) fn is_conditional(&self) -> bool {
        match self {
            Self::Patch(_) => true,
            Self::Transaction(transaction) => transaction.is_conditional(),
            _ => false,
        }
    }

    pub(crate) fn as_transaction(&self) -> Option<&Transaction> {
        match self {
            Self::Transaction(transaction) => Some(transaction),
            _ => None,
        }
    }
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
    /// After how many milliseconds it goes by itself, if not after the keyspace's own time. In a keyspace that is a node's alone
    /// only an engine that evicts lets it go: who asks for it sees to it that this one does.
    pub ttl_ms: Option<u64>,
    /// The lease that it hangs on from now on, and with which it goes. It must be there.
    pub lease: Option<LeaseId>,
}

impl Put {
    /// A key and a value, and nothing that goes with them.
    pub fn new(key: Bytes, value: Bytes) -> Self {
        Self { key, value, content_type: None, user_meta: Vec::new(), ttl_ms: None, lease: None }
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
const OP_GET: u8 = 7;
const OP_LIST: u8 = 8;
const OP_TRANSACTION: u8 = 9;
const OP_CONFIGURE_ALL: u8 = 10;
const OP_PATCH: u8 = 11;
const OP_COMPACT: u8 = 16;
const OP_PUT_WITH_LEASE: u8 = 32;
const OP_LEASE_GRANT: u8 = 33;
const OP_LEASE_REVOKE: u8 = 34;
const OP_LEASE_EXPIRE: u8 = 35;

const BOUND_NONE: u8 = 0;
const BOUND_INCLUDED: u8 = 1;
const BOUND_EXCLUDED: u8 = 2;

const CONDITION_EXISTS: u8 = 1;
const CONDITION_ABSENT: u8 = 2;
const CONDITION_REVISION_IN: u8 = 3;
const CONDITION_REVISION_NOT_IN: u8 = 4;
const CONDITION_ONCE: u8 = 5;

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
        let ops = reader.list(|reader| read_op(reader, MAX_TRANSACTION_DEPTH))?;
        Ok(Self { id: RequestId { origin, sequence }, floor, write: Write { guards, ops } })
    }
}

pub(crate) fn op_bytes_hint(op: &Op) -> usize {
    match op {
        Op::Put(put) => {
            let content_type_bytes = put.content_type.as_ref().map_or(0, Bytes::len);
            put.key.len() + put.value.len() + content_type_bytes + user_meta_bytes(&put.user_meta) + 34
        }
        Op::Patch(patch) => patch.key.len() + patch.edit.bytes() + 28,
        Op::Delete { key } | Op::Get { key } => key.len() + 8,
        Op::DeleteRange { range, .. } | Op::List(Listing { range, .. }) => {
            bound_bytes_hint(&range.start) + bound_bytes_hint(&range.end) + 13
        }
        Op::Transaction(transaction) => transaction.bytes_hint(),
        Op::Configure(_) => 64,
        Op::Compact { .. } => 11,
        Op::LeaseGrant { .. } | Op::LeaseRevoke { .. } => 20,
        Op::LeaseExpire { leases } => 8 + 15 * leases.len(),
    }
}

pub(crate) fn bound_bytes_hint(bound: &Bound<Bytes>) -> usize {
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
        Condition::Once(fingerprint) => {
            out.put_u8(CONDITION_ONCE);
            out.put_slice(fingerprint);
        }
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
        CONDITION_ONCE => Condition::Once(reader.array()?),
        tag => return Err(DecodeError::UnknownTag { what: "condition", tag }),
    };
    Ok(Guard { key, condition })
}

fn read_revision(reader: &mut Reader) -> Result<Revision, DecodeError> {
    reader.varint().map(Revision)
}

fn encode_put(put: &Put, out: &mut BytesMut) {
    let tag = match put.ttl_ms {
        _ if put.lease.is_some() => OP_PUT_WITH_LEASE,
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
    match put.lease {
        Some(lease) => {
            // A time to live of 0 is none: nothing lives so short.
            out.put_varint(put.ttl_ms.unwrap_or(0));
            out.put_varint(lease.0);
        }
        None => put.ttl_ms.into_iter().for_each(|ttl_ms| out.put_varint(ttl_ms)),
    }
    out.put_bytes_with_len(&put.value);
}

pub(crate) fn encode_op(op: &Op, out: &mut BytesMut) {
    match op {
        Op::Put(put) => encode_put(put, out),
        Op::Patch(patch) => {
            out.put_u8(OP_PATCH);
            patch.encode(out);
        }
        Op::Delete { key } => {
            out.put_u8(OP_DELETE);
            out.put_bytes_with_len(key);
        }
        Op::DeleteRange { range, max_keys } => {
            out.put_u8(OP_DELETE_RANGE);
            encode_range(range, out);
            out.put_varint(*max_keys);
        }
        Op::Get { key } => {
            out.put_u8(OP_GET);
            out.put_bytes_with_len(key);
        }
        Op::List(listing) => {
            out.put_u8(OP_LIST);
            listing.encode(out);
        }
        Op::Transaction(transaction) => {
            out.put_u8(OP_TRANSACTION);
            transaction.encode(out);
        }
        Op::Configure(settings) => {
            out.put_u8(OP_CONFIGURE_ALL);
            settings.encode(out);
        }
        Op::Compact { revision } => {
            out.put_u8(OP_COMPACT);
            out.put_varint(revision.0);
        }
        Op::LeaseGrant { id, ttl_ms } => {
            out.put_u8(OP_LEASE_GRANT);
            out.put_varint(id.0);
            out.put_varint(*ttl_ms);
        }
        Op::LeaseRevoke { id } => {
            out.put_u8(OP_LEASE_REVOKE);
            out.put_varint(id.0);
        }
        Op::LeaseExpire { leases } => {
            out.put_u8(OP_LEASE_EXPIRE);
            out.put_varint(leases.len() as u64);
            for (id, granted_at) in leases {
                out.put_varint(id.0);
                out.put_varint(*granted_at);
            }
        }
    }
}

/// Reads an operation; transactions in it may lie `max_depth` deep.
pub(crate) fn read_op(reader: &mut Reader, max_depth: usize) -> Result<Op, DecodeError> {
    match reader.u8()? {
        tag @ (OP_PUT | OP_PUT_WITH_META | OP_PUT_FOR_A_TIME | OP_PUT_WITH_LEASE) => {
            let key = reader.bytes()?;
            let content_type = reader.optional_bytes()?;
            let user_meta = if tag == OP_PUT { Vec::new() } else { read_user_meta(reader)? };
            let (ttl_ms, lease) = match tag {
                OP_PUT_FOR_A_TIME => (Some(reader.varint()?), None),
                OP_PUT_WITH_LEASE => (Some(reader.varint()?).filter(|ttl_ms| *ttl_ms > 0), Some(LeaseId(reader.varint()?))),
                _ => (None, None),
            };
            let value = reader.bytes()?;
            Ok(Op::Put(Put { key, value, content_type, user_meta, ttl_ms, lease }))
        }
        OP_PATCH => Ok(Op::Patch(Box::new(Patch::read(reader)?))),
        OP_DELETE => Ok(Op::Delete { key: reader.bytes()? }),
        OP_DELETE_RANGE => {
            let range = read_range(reader)?;
            Ok(Op::DeleteRange { range, max_keys: reader.varint()? })
        }
        OP_GET => Ok(Op::Get { key: reader.bytes()? }),
        OP_LIST => Ok(Op::List(Listing::read(reader)?)),
        OP_TRANSACTION => Ok(Op::Transaction(Box::new(Transaction::read(reader, max_depth)?))),
        OP_CONFIGURE => Ok(Op::Configure(Settings::of(Limits::read(reader)?))),
        OP_CONFIGURE_ALL => Ok(Op::Configure(Settings::read(reader)?)),
        OP_COMPACT => Ok(Op::Compact { revision: read_revision(reader)? }),
        OP_LEASE_GRANT => Ok(Op::LeaseGrant { id: LeaseId(reader.varint()?), ttl_ms: reader.varint()? }),
        OP_LEASE_REVOKE => Ok(Op::LeaseRevoke { id: LeaseId(reader.varint()?) }),
        OP_LEASE_EXPIRE => {
            Ok(Op::LeaseExpire { leases: reader.list(|reader| Ok((LeaseId(reader.varint()?), reader.varint()?)))? })
        }
        tag => Err(DecodeError::UnknownTag { what: "operation", tag }),
    }
}

pub(crate) fn encode_range(range: &KeyRange, out: &mut BytesMut) {
    encode_bound(&range.start, out);
    encode_bound(&range.end, out);
}

pub(crate) fn read_range(reader: &mut Reader) -> Result<KeyRange, DecodeError> {
    Ok(KeyRange { start: read_bound(reader)?, end: read_bound(reader)? })
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
    use quorate_engine::Direction;

    use super::*;
    use crate::limits::Retention;
    use crate::patch::Edit;
    use crate::transaction::{Compare, Keys, Relation, Target};

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
            any::<[u8; 16]>().prop_map(Condition::Once),
        ]
    }

    fn bound() -> impl Strategy<Value = Bound<Bytes>> {
        prop_oneof![Just(Bound::Unbounded), bytes().prop_map(Bound::Included), bytes().prop_map(Bound::Excluded)]
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        (bound(), bound()).prop_map(|(start, end)| KeyRange { start, end })
    }

    fn compare() -> impl Strategy<Value = Compare> {
        let keys = prop_oneof![bytes().prop_map(Keys::One), range().prop_map(Keys::Range)];
        let relation = prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
        let target = prop_oneof![
            any::<u64>().prop_map(|number| Target::CreateRevision(Revision(number))),
            any::<u64>().prop_map(|number| Target::ModRevision(Revision(number))),
            any::<u64>().prop_map(Target::Version),
            bytes().prop_map(Target::Value),
            any::<u64>().prop_map(|id| Target::Lease(LeaseId(id))),
        ];
        (keys, relation, target).prop_map(|(keys, relation, target)| Compare { keys, relation, target })
    }

    fn op() -> impl Strategy<Value = Op> {
        leaf_op().prop_recursive(4, 20, 3, |within| {
            let ops = || proptest::collection::vec(within.clone(), 0..3);
            (proptest::collection::vec(compare(), 0..3), ops(), ops())
                .prop_map(|(compares, then, otherwise)| Op::Transaction(Box::new(Transaction { compares, then, otherwise })))
        })
    }

    fn leaf_op() -> impl Strategy<Value = Op> {
        let user_meta = proptest::collection::vec((bytes(), bytes()), 0..3);
        let lease = proptest::option::of(any::<u64>().prop_map(LeaseId));
        prop_oneof![
            (bytes(), bytes(), proptest::option::of(bytes()), user_meta, proptest::option::of(1_u64..), lease).prop_map(
                |(key, value, content_type, user_meta, ttl_ms, lease)| {
                    Op::Put(Put { key, value, content_type, user_meta, ttl_ms, lease })
                }
            ),
            (any::<u64>(), any::<u64>()).prop_map(|(id, ttl_ms)| Op::LeaseGrant { id: LeaseId(id), ttl_ms }),
            any::<u64>().prop_map(|id| Op::LeaseRevoke { id: LeaseId(id) }),
            proptest::collection::vec((any::<u64>().prop_map(LeaseId), any::<u64>()), 0..3)
                .prop_map(|leases| Op::LeaseExpire { leases }),
            (bytes(), edit(), proptest::option::of(0..u64::MAX), any::<u64>(), any::<bool>()).prop_map(
                |(key, edit, ttl_ms, max_value_bytes, is_told)| {
                    Op::Patch(Box::new(Patch { key, edit, ttl_ms, max_value_bytes, is_told }))
                }
            ),
            bytes().prop_map(|key| Op::Delete { key }),
            bytes().prop_map(|key| Op::Get { key }),
            any::<u64>().prop_map(|revision| Op::Compact { revision: Revision(revision) }),
            (range(), any::<u64>()).prop_map(|(range, max_keys)| Op::DeleteRange { range, max_keys }),
            (range(), any::<u64>(), any::<bool>(), any::<bool>()).prop_map(|(range, max_pairs, is_reverse, is_with_values)| {
                let direction = if is_reverse { Direction::Reverse } else { Direction::Forward };
                Op::List(Listing { range, max_pairs, direction, is_with_values })
            }),
            proptest::array::uniform7(any::<u64>()).prop_map(|[a, b, c, ttl_ms, d, e, f]| {
                Op::Configure(Settings {
                    limits: Limits { max_bytes: a, max_key_bytes: b, max_value_bytes: c },
                    ttl_ms: Some(ttl_ms).filter(|ttl_ms| *ttl_ms > 0),
                    retention: Retention { max_revisions: d, max_age_ms: e, max_bytes: f },
                })
            }),
        ]
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (any::<i64>(), any::<i64>()).prop_map(|(by, initial)| Edit::Increment { by, initial }),
            bytes().prop_map(|value| Edit::Append { value }),
            Just(Edit::Touch),
            bytes().prop_map(|patch| Edit::Merge { patch }),
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

    fn nested(depth: usize) -> Write {
        let around = |within| Transaction { then: vec![Op::Transaction(Box::new(within))], ..Transaction::default() };
        Write::transaction((1..depth).fold(Transaction::default(), |within, _| around(within)))
    }

    #[test]
    fn transactions_that_lie_too_deep_are_refused() {
        let decoded = |depth| {
            let command = Command { id: RequestId::default(), floor: 0, write: nested(depth) };
            Command::decode(command.to_bytes())
        };
        assert!(decoded(MAX_TRANSACTION_DEPTH).is_ok());
        assert!(decoded(MAX_TRANSACTION_DEPTH + 1).is_err());
    }

    /// Written out, so that they stay readable whatever is written in future.
    #[test]
    fn forms_are_as_they_were() {
        let k = || Bytes::from_static(b"k");
        let range = || KeyRange { start: Bound::Included(k()), end: Bound::Excluded(Bytes::from_static(b"l")) };
        let compare = |keys, relation, target| Compare { keys, relation, target };
        let transaction = Transaction {
            compares: vec![
                compare(Keys::One(k()), Relation::Equal, Target::Value(k())),
                compare(Keys::Range(range()), Relation::Greater, Target::Version(300)),
                compare(Keys::One(k()), Relation::Less, Target::ModRevision(Revision(3))),
                compare(Keys::One(k()), Relation::NotEqual, Target::CreateRevision(Revision(3))),
            ],
            then: vec![
                Op::Get { key: k() },
                Op::List(Listing { range: range(), max_pairs: 5, direction: Direction::Reverse, is_with_values: true }),
            ],
            otherwise: vec![Op::Transaction(Box::default())],
        };
        let touch = Patch { key: k(), edit: Edit::Touch, ttl_ms: None, max_value_bytes: 9, is_told: true };
        let settings = Settings {
            limits: Limits { max_bytes: 1, max_key_bytes: 2, max_value_bytes: 3 },
            ttl_ms: Some(4),
            retention: Retention { max_revisions: 5, max_age_ms: 6, max_bytes: 7 },
        };
        let cases = [
            (Write::put(k(), k()), &b"\x00\x01\x01\x01k\x00\x01k"[..]),
            (Write::delete(k()), b"\x00\x01\x02\x01k"),
            (Write { ops: vec![Op::Compact { revision: Revision(300) }], ..Write::default() }, b"\x00\x01\x10\xac\x02"),
            (
                Write::delete(k()).only_if(k(), Condition::Once(*b"0123456789abcdef")),
                b"\x01\x01k\x050123456789abcdef\x01\x02\x01k",
            ),
            (
                Write { ops: vec![Op::Put(Put { lease: Some(LeaseId(5)), ..Put::new(k(), k()) })], ..Write::default() },
                b"\x00\x01\x20\x01k\x00\x00\x00\x05\x01k",
            ),
            (
                Write {
                    ops: vec![
                        Op::LeaseGrant { id: LeaseId(5), ttl_ms: 300 },
                        Op::LeaseRevoke { id: LeaseId(5) },
                        Op::LeaseExpire { leases: vec![(LeaseId(5), 6), (LeaseId(7), 8)] },
                    ],
                    ..Write::default()
                },
                b"\x00\x03\x21\x05\xac\x02\x22\x05\x23\x02\x05\x06\x07\x08",
            ),
            (Write { ops: vec![Op::Patch(Box::new(touch))], ..Write::default() }, b"\x00\x01\x0b\x83\x01k\x00\x09"),
            (Write { ops: vec![Op::Configure(settings)], ..Write::default() }, b"\x00\x01\x0a\x01\x02\x03\x04\x05\x06\x07"),
            (
                Write::transaction(transaction),
                b"\x00\x01\x09\x04\x04\x00\x01k\x01k\x83\x03\x01\x01k\x02\x01l\xac\x02\x02\x02\x01k\x03\
                  \x01\x01\x01k\x03\x02\x07\x01k\x08\x03\x01\x01k\x02\x01l\x05\x01\x09\x00\x00\x00",
            ),
        ];
        for (write, bytes) in cases {
            assert_eq!(write.to_bytes(), bytes);
            let command = [&b"\x00\x00\x00\x00"[..], bytes].concat();
            assert_eq!(Command::decode(command.into()).map(|command| command.write), Ok(write));
        }
    }

    #[test]
    fn what_was_asked_for_does_not_depend_on_what_a_node_lets_values_grow_to() {
        let asked = |max_value_bytes| {
            let touch = |key| {
                let key = Bytes::from_static(key);
                Op::Patch(Box::new(Patch { key, edit: Edit::Touch, ttl_ms: None, max_value_bytes, is_told: true }))
            };
            let within = Transaction { then: vec![touch(b"a")], otherwise: vec![touch(b"b")], ..Transaction::default() };
            Write { ops: vec![Op::Transaction(Box::new(within)), touch(b"c")], ..Write::default() }
        };
        assert_ne!(asked(9).to_bytes(), asked(8).to_bytes());
        assert_eq!(asked(9).without_bounds().to_bytes(), asked(8).without_bounds().to_bytes());
        assert_ne!(asked(9).without_bounds().to_bytes(), Write::delete(Bytes::from_static(b"c")).without_bounds().to_bytes());
    }
}
