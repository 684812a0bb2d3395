//! What a write does: to the pairs, to the numbers, and what its caller is told.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Change, Direction, KeyRange, Table, View};

use crate::Revision;
use crate::command::{Condition, Op, Put, Write};
use crate::limits::Limits;
use crate::outcome::{KeyMeta, OpResult, Outcome, Removed};
use crate::record::Record;
use crate::shard::{Applied, KeyChange, ShardError, ShardHeader};

/// What one call of [`crate::Shard::apply`] gathers, on top of what the engine holds.
pub(crate) struct Step {
    /// The engine's content before.
    view: Arc<dyn View>,
    /// Keys that commands of this step changed.
    pending: BTreeMap<Bytes, Pending>,
    /// What the write that is under way replaced in `pending`.
    undo: Vec<(Bytes, Option<Pending>)>,
    lifetime: Lifetime,
    collects_changes: bool,
    changes: Vec<Change>,
    pub(crate) applied: Applied,
}

/// How long pairs live.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lifetime {
    /// The engine lets them go when their time is up; in others they stay.
    pub(crate) is_kept: bool,
    /// Those that say nothing about it.
    pub(crate) ttl_ms: Option<u64>,
}

impl Lifetime {
    /// When a pair goes that is put at a log time.
    fn end(self, put: &Put, log_time_ms: u64) -> Option<NonZeroU64> {
        let ttl_ms = put.ttl_ms.or(self.ttl_ms).filter(|_| self.is_kept)?;
        NonZeroU64::new(log_time_ms.saturating_add(ttl_ms))
    }
}

#[derive(Clone, Copy)]
struct Stored {
    meta: KeyMeta,
    bytes: u64,
}

/// What a command of this step left of a key.
#[derive(Clone, Copy)]
enum Pending {
    Set(Stored),
    Removed,
}

impl Pending {
    fn stored(self) -> Option<Stored> {
        match self {
            Self::Set(stored) => Some(stored),
            Self::Removed => None,
        }
    }
}

/// How things stood before a write.
struct Mark {
    data_bytes: u64,
    limits: Limits,
    changes: usize,
    key_changes: usize,
}

impl Step {
    pub(crate) fn new(view: Arc<dyn View>, lifetime: Lifetime, collects_changes: bool) -> Self {
        Self {
            view,
            pending: BTreeMap::new(),
            undo: Vec::new(),
            lifetime,
            collects_changes,
            changes: Vec::new(),
            applied: Applied::default(),
        }
    }

    /// What is to be written, and what became of it all.
    pub(crate) fn finish(self) -> (Vec<Change>, Applied) {
        (self.changes, self.applied)
    }

    /// Does what the write says, or nothing.
    pub(crate) fn execute(&mut self, write: &Write, header: &mut ShardHeader) -> Result<Outcome, ShardError> {
        let revision = header.revision;
        for (guard, position) in write.guards.iter().zip(0..) {
            let current = self.stored(&guard.key)?.map(|stored| stored.meta);
            if !holds(&guard.condition, current) {
                return Ok(Outcome::ConditionFailed { revision, guard: position, current });
            }
        }
        if let Some(refused) = header.limits.refusal(write) {
            return Ok(refused);
        }
        let before = self.mark(header);
        let mut results = Vec::with_capacity(write.ops.len());
        for op in &write.ops {
            results.push(self.execute_op(op, revision.next(), header)?);
        }
        let max_bytes = before.limits.max_bytes;
        if header.data_bytes > max_bytes && header.data_bytes > before.data_bytes {
            self.roll_back(&before, header);
            return Ok(Outcome::Full { max_bytes });
        }
        if results.iter().any(OpResult::is_change) {
            header.revision = revision.next();
        }
        Ok(Outcome::Applied { revision: header.revision, results })
    }

    fn execute_op(&mut self, op: &Op, revision: Revision, header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        match op {
            Op::Put(put) => self.put(put, revision, header),
            Op::Delete { key } => self.delete(key, header),
            Op::DeleteRange { range, max_keys } => self.delete_range(range, *max_keys, header),
            Op::Configure(settings) => {
                header.limits = settings.limits;
                Ok(OpResult::default())
            }
        }
    }

    fn put(&mut self, put: &Put, revision: Revision, header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        let before = self.stored(&put.key)?;
        let expires_at_ms = self.lifetime.end(put, header.log_time_ms);
        let record = Record { expires_at_ms, ..record_after(put, before, revision) };
        let meta = record.meta;
        let value = record.to_bytes();
        // The entry's buffer may be large and shared by many keys: the engine gets a key of its own.
        let key = Bytes::copy_from_slice(&put.key);
        let after = Stored { meta, bytes: stored_bytes(&key, value.len()) };
        header.data_bytes = header.data_bytes + after.bytes - before.map_or(0, |stored| stored.bytes);
        self.set(key.clone(), Pending::Set(after));
        if self.collects_changes {
            self.applied.changes.push(KeyChange { key: key.clone(), record: Some(record) });
        }
        self.changes.push(match expires_at_ms {
            None => Change::Put { table: Table::Current, key, value },
            Some(until_ms) => Change::PutUntil { table: Table::Current, key, value, until_ms: until_ms.get() },
        });
        Ok(OpResult { before: before.map(|stored| stored.meta), after: Some(meta), removed: None })
    }

    fn delete(&mut self, key: &Bytes, header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        let Some(before) = self.stored(key)? else {
            return Ok(OpResult::default());
        };
        self.remove(Bytes::copy_from_slice(key), before, header);
        Ok(OpResult { before: Some(before.meta), after: None, removed: None })
    }

    fn delete_range(&mut self, range: &KeyRange, max_keys: u64, header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        let max_found = usize::try_from(max_keys).unwrap_or(usize::MAX).saturating_add(1);
        let mut found = self.first_keys(range, max_found)?;
        let next = if found.len() == max_found { found.pop().map(|(key, _)| key) } else { None };
        let removed = Removed { keys: found.len() as u64, next };
        for (key, before) in found {
            self.remove(key, before, header);
        }
        Ok(OpResult { removed: Some(Box::new(removed)), ..OpResult::default() })
    }

    /// The first keys of a range after the commands before, of this step too, in order.
    fn first_keys(&self, range: &KeyRange, max_keys: usize) -> Result<Vec<(Bytes, Stored)>, ShardError> {
        let mut found = Vec::new();
        if range.is_empty() {
            return Ok(found);
        }
        let mut pending = self.pending.range::<Bytes, _>((range.start.as_ref(), range.end.as_ref())).peekable();
        let mut scan = self.view.scan(Table::Current, range, Direction::Forward);
        let mut in_view = scan.next().transpose()?;
        while found.len() < max_keys {
            let is_pending_next = |key: &Bytes| in_view.as_ref().is_none_or(|(other, _)| key <= other);
            match pending.next_if(|(key, _)| is_pending_next(key)) {
                Some((key, pending)) => {
                    // What is pending hides what the view has.
                    if in_view.as_ref().is_some_and(|(other, _)| other == key) {
                        in_view = scan.next().transpose()?;
                    }
                    found.extend(pending.stored().map(|stored| (key.clone(), stored)));
                }
                None => {
                    let Some((key, record)) = in_view else { break };
                    in_view = scan.next().transpose()?;
                    let stored = Stored::decode(&key, record)?;
                    found.push((key, stored));
                }
            }
        }
        Ok(found)
    }

    /// Removes a key that is there.
    fn remove(&mut self, key: Bytes, before: Stored, header: &mut ShardHeader) {
        header.data_bytes -= before.bytes;
        self.set(key.clone(), Pending::Removed);
        if self.collects_changes {
            self.applied.changes.push(KeyChange { key: key.clone(), record: None });
        }
        self.changes.push(Change::Delete { table: Table::Current, key });
    }

    fn set(&mut self, key: Bytes, pending: Pending) {
        let replaced = self.pending.insert(key.clone(), pending);
        self.undo.push((key, replaced));
    }

    /// What the key is like after the commands before, of this step too.
    fn stored(&self, key: &Bytes) -> Result<Option<Stored>, ShardError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.stored());
        }
        match self.view.peek(Table::Current, key)? {
            Some(record) => Stored::decode(key, record).map(Some),
            None => Ok(None),
        }
    }

    fn mark(&mut self, header: &ShardHeader) -> Mark {
        self.undo.clear();
        Mark {
            data_bytes: header.data_bytes,
            limits: header.limits,
            changes: self.changes.len(),
            key_changes: self.applied.changes.len(),
        }
    }

    /// Takes back all that was done since.
    fn roll_back(&mut self, to: &Mark, header: &mut ShardHeader) {
        header.data_bytes = to.data_bytes;
        header.limits = to.limits;
        self.changes.truncate(to.changes);
        self.applied.changes.truncate(to.key_changes);
        while let Some((key, replaced)) = self.undo.pop() {
            match replaced {
                Some(pending) => self.pending.insert(key, pending),
                None => self.pending.remove(&key),
            };
        }
    }
}

impl Stored {
    fn decode(key: &[u8], record: Bytes) -> Result<Self, ShardError> {
        let bytes = stored_bytes(key, record.len());
        Ok(Self { meta: Record::decode(record)?.meta, bytes })
    }
}

/// The record that a put leaves where it found `before`.
fn record_after(put: &Put, before: Option<Stored>, revision: Revision) -> Record {
    let meta = match before {
        Some(stored) => KeyMeta { mod_revision: revision, version: stored.meta.version + 1, ..stored.meta },
        None => KeyMeta { create_revision: revision, mod_revision: revision, version: 1 },
    };
    let Put { content_type, user_meta, value, .. } = put.clone();
    Record { meta, content_type, user_meta, expires_at_ms: None, value }
}

fn stored_bytes(key: &[u8], record_bytes: usize) -> u64 {
    (key.len() + record_bytes) as u64
}

fn holds(condition: &Condition, current: Option<KeyMeta>) -> bool {
    match condition {
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
        Condition::ModRevisionIn(revisions) => current.is_some_and(|meta| revisions.contains(&meta.mod_revision)),
        Condition::ModRevisionNotIn(revisions) => !current.is_some_and(|meta| revisions.contains(&meta.mod_revision)),
    }
}
