//! The state machine: committed entries in, an engine batch and outcomes out.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Batch, Change, Engine, EngineError, Table, View};

use crate::Revision;
use crate::codec::{DecodeError, Reader, Writer};
use crate::command::{Command, Condition, Op, Put, RequestId, Write, decode_entry};
use crate::outcome::{KeyMeta, OpResult, Outcome};
use crate::record::{MAX_RECORD_HEADER_BYTES, Record};
use crate::session::Sessions;
use crate::stored_state::{SessionChange, StoredState};

/// One replica's state machine: an engine and the few numbers beside it.
///
/// *Life cycle*: made empty by [`Shard::found`], from a snapshot by [`Shard::restore`], or from a durable engine by
/// [`Shard::open`]; changed by [`Shard::apply`] and
/// [`Shard::set_membership`] alone; read through the engine's views, by anybody, at any time.
///
/// *Invariants*: two shards that applied the same entries have equal [`Shard::state_bytes`] and equal `Current` tables. The
/// applied index grows by every call of `apply`.
///
/// *Durability*: none of its own; a durable engine gets the state with each batch, others are restored from a snapshot.
#[derive(Debug)]
pub struct Shard {
    engine: Arc<dyn Engine>,
    header: ShardHeader,
    sessions: Sessions,
    /// The state beside the pairs, in a durable engine.
    stored: Option<StoredState>,
    collects_changes: bool,
}

/// The numbers of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardHeader {
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// The revision.
    pub revision: Revision,
    /// The group's time, in milliseconds since it was founded. Advances by entries alone.
    pub log_time_ms: u64,
    /// Keys and records in `Current`, in bytes, exactly.
    pub data_bytes: u64,
    /// Limits of the keyspace.
    pub limits: Limits,
    /// The group's membership at the applied index; opaque here.
    pub membership: Bytes,
}

/// Limits of a keyspace. They change by log entry alone, or replicas would disagree about what was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of keys and records. A write is refused if, as a whole, it would grow the shard beyond this.
    pub max_bytes: u64,
}

/// What became of the entries.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<(RequestId, Outcome)>,
    /// What changed, if the shard collects changes.
    pub changes: Vec<KeyChange>,
}

/// A key that was set or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: Bytes,
    /// Its record, or none if it was removed.
    pub record: Option<Record>,
}

/// Why a shard cannot go on. Never an outcome: the replica stops.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An entry or a record cannot be read.
    #[error("entry or record: {0}")]
    Decode(#[from] DecodeError),
}

const STATE_VERSION: u8 = 1;

impl Shard {
    /// A new, empty shard over an empty engine, standing at a log position with a membership.
    pub fn found(engine: Arc<dyn Engine>, header: ShardHeader) -> Result<Self, ShardError> {
        let header = ShardHeader { revision: Revision::FIRST, ..header };
        let stored = engine.capabilities().durable.then(StoredState::default);
        let mut shard = Self { engine, header, sessions: Sessions::default(), stored, collects_changes: false };
        shard.commit(Vec::new(), &[])?;
        Ok(shard)
    }

    /// A shard over an engine that was filled with the pairs and, if it is durable, the [`Shard::state_rows`] which go with
    /// `state`.
    pub fn restore(engine: Arc<dyn Engine>, state: Bytes) -> Result<Self, ShardError> {
        if engine.capabilities().durable {
            return Self::open(engine)?.ok_or(ShardError::Decode(DecodeError::Malformed("the engine holds no state")));
        }
        let (header, sessions) = decode_state(state)?;
        Ok(Self { engine, header, sessions, stored: None, collects_changes: false })
    }

    /// The shard that a durable engine came back with; none if it is empty.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Option<Self>, ShardError> {
        let view = engine.view();
        let Some((stored, header, sessions)) = StoredState::read(view.as_ref())? else {
            return Ok(None);
        };
        if (header.applied_index, header.revision.0) != (view.applied(), view.revision()) {
            return Err(ShardError::Decode(DecodeError::Malformed("the engine's numbers are not those of its state")));
        }
        Ok(Some(Self { engine, header, sessions, stored: Some(stored), collects_changes: false }))
    }

    /// Pairs of the `Meta` table that go with an encoded state into a durable engine.
    pub fn state_rows(state: Bytes) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
        let (header, sessions) = decode_state(state)?;
        Ok(StoredState::rows(&header, &sessions).into())
    }

    /// From now on [`Applied::changes`] is filled.
    #[must_use]
    pub fn collecting_changes(mut self) -> Self {
        self.collects_changes = true;
        self
    }

    /// Applies committed entries in one batch. Entries are (index, term, payload), consecutive, the first right after the
    /// applied index.
    pub fn apply(&mut self, entries: &[(u64, u64, Bytes)]) -> Result<Applied, ShardError> {
        let mut step = Step {
            view: self.engine.view(),
            pending: HashMap::new(),
            changes: Vec::new(),
            session_changes: Vec::new(),
            applied: Applied::default(),
        };
        for (index, term, payload) in entries {
            assert_eq!(*index, self.header.applied_index + 1, "entries are applied in order, without gaps");
            let (entry, commands) = decode_entry(payload.clone())?;
            self.header.log_time_ms = self.header.log_time_ms.max(entry.log_time_ms);
            if self.sessions.sweep(self.header.log_time_ms) {
                step.session_changes.push(SessionChange::Swept(self.header.log_time_ms));
            }
            for command in commands {
                self.apply_command(&command, &mut step)?;
            }
            self.header.applied_index = *index;
            self.header.applied_term = *term;
        }
        self.commit(step.changes, &step.session_changes)?;
        Ok(step.applied)
    }

    /// Takes note of a membership change that stands in the log at this position.
    pub fn set_membership(&mut self, index: u64, term: u64, membership: Bytes) -> Result<(), ShardError> {
        assert_eq!(index, self.header.applied_index + 1, "entries are applied in order, without gaps");
        self.header.applied_index = index;
        self.header.applied_term = term;
        self.header.membership = membership;
        self.commit(Vec::new(), &[])
    }

    /// The numbers.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Where the pairs are.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The numbers and sessions, encoded: with the `Current` and `History` tables of the engine's present view, all there
    /// is to know about the shard.
    pub fn state_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(STATE_VERSION);
        write_header(&self.header, &mut out);
        self.sessions.encode(&mut out);
        out.freeze()
    }

    /// The numbers within an encoded state.
    pub fn decode_header(state: Bytes) -> Result<ShardHeader, DecodeError> {
        decode_state(state).map(|(header, _)| header)
    }

    /// Hands the engine what changed, with the state that goes with it.
    fn commit(&mut self, mut changes: Vec<Change>, session_changes: &[SessionChange]) -> Result<(), ShardError> {
        if let Some(stored) = &mut self.stored {
            stored.add_to(&mut changes, &self.header, &self.sessions, session_changes);
        }
        let batch = Batch { applied: self.header.applied_index, revision: self.header.revision.0, changes };
        Ok(self.engine.apply(batch)?)
    }

    fn apply_command(&mut self, command: &Command, step: &mut Step) -> Result<(), ShardError> {
        let outcome = match self.sessions.seen(command.id) {
            Some(outcome) => outcome,
            None => {
                let outcome = self.execute(&command.write, step)?;
                let remembered = self.sessions.remember(command, &outcome, self.header.log_time_ms);
                if self.stored.is_some() {
                    step.session_changes.extend(remembered.map(SessionChange::Remembered));
                }
                outcome
            }
        };
        step.applied.outcomes.push((command.id, outcome));
        Ok(())
    }

    fn execute(&mut self, write: &Write, step: &mut Step) -> Result<Outcome, ShardError> {
        let revision = self.header.revision;
        for (guard, position) in write.guards.iter().zip(0..) {
            let current = step.stored(&guard.key)?.map(|stored| stored.meta);
            if !holds(&guard.condition, current) {
                return Ok(Outcome::ConditionFailed { revision, guard: position, current });
            }
        }
        if let Some(max_bytes) = self.exceeded_limit(write, step)? {
            return Ok(Outcome::Full { max_bytes });
        }
        let mut results = Vec::with_capacity(write.ops.len());
        for op in &write.ops {
            results.push(self.execute_op(op, revision.next(), step)?);
        }
        if results.iter().any(|result| result.before.is_some() || result.after.is_some()) {
            self.header.revision = revision.next();
        }
        Ok(Outcome::Applied { revision: self.header.revision, results })
    }

    fn execute_op(&mut self, op: &Op, revision: Revision, step: &mut Step) -> Result<OpResult, ShardError> {
        match op {
            Op::Put(put) => self.execute_put(put, revision, step),
            Op::Delete { key } => self.execute_delete(key, step),
        }
    }

    fn execute_put(&mut self, put: &Put, revision: Revision, step: &mut Step) -> Result<OpResult, ShardError> {
        let before = step.stored(&put.key)?;
        let record = record_after(put, before, revision);
        let meta = record.meta;
        let value = record.to_bytes();
        // The entry's buffer may be large and shared by many keys: the engine gets a key of its own.
        let key = Bytes::copy_from_slice(&put.key);
        let after = Stored { meta, bytes: stored_bytes(&key, value.len()) };
        self.header.data_bytes = self.header.data_bytes + after.bytes - before.map_or(0, |stored| stored.bytes);
        step.pending.insert(key.clone(), Some(after));
        if self.collects_changes {
            step.applied.changes.push(KeyChange { key: key.clone(), record: Some(record) });
        }
        step.changes.push(Change::Put { table: Table::Current, key, value });
        Ok(OpResult { before: before.map(|stored| stored.meta), after: Some(meta) })
    }

    fn execute_delete(&mut self, key: &Bytes, step: &mut Step) -> Result<OpResult, ShardError> {
        let Some(before) = step.stored(key)? else {
            return Ok(OpResult::default());
        };
        let key = Bytes::copy_from_slice(key);
        self.header.data_bytes -= before.bytes;
        step.pending.insert(key.clone(), None);
        if self.collects_changes {
            step.applied.changes.push(KeyChange { key: key.clone(), record: None });
        }
        step.changes.push(Change::Delete { table: Table::Current, key });
        Ok(OpResult { before: Some(before.meta), after: None })
    }

    /// The limit, if the write as a whole would grow the shard beyond it.
    fn exceeded_limit(&self, write: &Write, step: &Step) -> Result<Option<u64>, ShardError> {
        let max_bytes = self.header.limits.max_bytes;
        let max_growth_bytes: u64 = write.ops.iter().map(max_growth_bytes).sum();
        if self.header.data_bytes + max_growth_bytes <= max_bytes {
            return Ok(None);
        }
        let revision = self.header.revision.next();
        // What the write's own operations leave of their keys: a later one finds what an earlier one left.
        let mut own: HashMap<&Bytes, Option<Stored>> = HashMap::new();
        let mut data_bytes = self.header.data_bytes;
        for op in &write.ops {
            let key = op.key();
            let before = match own.get(key) {
                Some(stored) => *stored,
                None => step.stored(key)?,
            };
            let after = match op {
                Op::Put(put) => Some(Stored::of(key, &record_after(put, before, revision))),
                Op::Delete { .. } => None,
            };
            data_bytes = data_bytes + after.map_or(0, |stored| stored.bytes) - before.map_or(0, |stored| stored.bytes);
            own.insert(key, after);
        }
        let is_exceeded = data_bytes > max_bytes && data_bytes > self.header.data_bytes;
        Ok(is_exceeded.then_some(max_bytes))
    }
}

/// What one call of `apply` gathers.
struct Step {
    /// The pairs before.
    view: Arc<dyn View>,
    /// Keys that commands of this batch changed. Looked up, never iterated.
    pending: HashMap<Bytes, Option<Stored>>,
    changes: Vec<Change>,
    session_changes: Vec<SessionChange>,
    applied: Applied,
}

impl Step {
    /// What the key is like after the commands before, of this batch too.
    fn stored(&self, key: &Bytes) -> Result<Option<Stored>, ShardError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(*pending);
        }
        let Some(bytes) = self.view.get(Table::Current, key)? else {
            return Ok(None);
        };
        let size_bytes = stored_bytes(key, bytes.len());
        Ok(Some(Stored { meta: Record::decode(bytes)?.meta, bytes: size_bytes }))
    }
}

#[derive(Clone, Copy)]
struct Stored {
    meta: KeyMeta,
    bytes: u64,
}

impl Stored {
    fn of(key: &[u8], record: &Record) -> Self {
        Self { meta: record.meta, bytes: stored_bytes(key, record.encoded_bytes()) }
    }
}

/// The record that a put leaves where it found `before`.
fn record_after(put: &Put, before: Option<Stored>, revision: Revision) -> Record {
    let meta = match before {
        Some(stored) => KeyMeta { mod_revision: revision, version: stored.meta.version + 1, ..stored.meta },
        None => KeyMeta { create_revision: revision, mod_revision: revision, version: 1 },
    };
    Record { meta, content_type: put.content_type.clone(), value: put.value.clone() }
}

fn stored_bytes(key: &[u8], record_bytes: usize) -> u64 {
    (key.len() + record_bytes) as u64
}

/// What an operation adds at most, found out without a look at its key.
fn max_growth_bytes(op: &Op) -> u64 {
    match op {
        Op::Put(put) => {
            let content_type_bytes = put.content_type.as_ref().map_or(0, Bytes::len);
            stored_bytes(&put.key, MAX_RECORD_HEADER_BYTES + content_type_bytes + put.value.len())
        }
        Op::Delete { .. } => 0,
    }
}

fn holds(condition: &Condition, current: Option<KeyMeta>) -> bool {
    match condition {
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
        Condition::ModRevisionIn(revisions) => current.is_some_and(|meta| revisions.contains(&meta.mod_revision)),
        Condition::ModRevisionNotIn(revisions) => !current.is_some_and(|meta| revisions.contains(&meta.mod_revision)),
    }
}

pub(crate) fn write_header(header: &ShardHeader, out: &mut BytesMut) {
    out.put_varint(header.applied_index);
    out.put_varint(header.applied_term);
    out.put_varint(header.revision.0);
    out.put_varint(header.log_time_ms);
    out.put_varint(header.data_bytes);
    out.put_varint(header.limits.max_bytes);
    out.put_bytes_with_len(&header.membership);
}

pub(crate) fn read_header(reader: &mut Reader) -> Result<ShardHeader, DecodeError> {
    Ok(ShardHeader {
        applied_index: reader.varint()?,
        applied_term: reader.varint()?,
        revision: Revision(reader.varint()?),
        log_time_ms: reader.varint()?,
        data_bytes: reader.varint()?,
        limits: Limits { max_bytes: reader.varint()? },
        membership: reader.bytes()?,
    })
}

fn decode_state(state: Bytes) -> Result<(ShardHeader, Sessions), DecodeError> {
    let mut reader = Reader::new(state);
    let version = reader.u8()?;
    if version != STATE_VERSION {
        return Err(DecodeError::UnknownTag { what: "shard state version", tag: version });
    }
    let header = read_header(&mut reader)?;
    let sessions = Sessions::read(&mut reader)?;
    reader.finish()?;
    Ok((header, sessions))
}
