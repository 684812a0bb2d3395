//! What a write does: to the pairs, to the numbers, and what its caller is told.

mod patch;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use quorate_engine::{Change, Direction, EngineError, KeyRange, Table, View};

use crate::Revision;
use crate::command::{Condition, Op, Put, Write};
use crate::event::{Cause, Changes, Event};
use crate::expiry;
use crate::history::{HistoryHeader, Recorder};
use crate::lease::{LeaseChange, LeaseId};
use crate::limits::Settings;
use crate::outcome::{Detail, KeyMeta, OpResult, Outcome, Pairs, Removed, TransactionResult};
use crate::record::Record;
use crate::rows::Rows;
use crate::shard::{Applied, ShardError, ShardHeader};
use crate::transaction::{
    Compare, Compared, Keys, Listing, MAX_TRANSACTION_KEYS, MAX_TRANSACTION_READ_BYTES, Target, Transaction,
};

/// What a write that only reads finds in a view: the same as in the log, where the view is of its place there.
///
/// # Panics
///
/// If the write has guards, or an operation that may change something: those must go through the log.
pub fn read_only(view: Arc<dyn View>, write: &Write) -> Result<Outcome, ShardError> {
    assert!(write.guards.is_empty() && write.ops.iter().all(Op::is_read_only), "what changes something goes through the log");
    let mut header = ShardHeader { revision: Revision(view.revision()), ..ShardHeader::default() };
    Step::new(view, Lifetime::default(), None).execute(write, &mut header)
}

/// What one call of [`crate::Shard::apply`] gathers, on top of what the engine holds.
pub(crate) struct Step {
    /// The engine's content before.
    pub(crate) view: Arc<dyn View>,
    /// Keys that commands of this step changed.
    pending: BTreeMap<Bytes, Pending>,
    /// What the write that is under way replaced in `pending`.
    undo: Vec<(Bytes, Option<Pending>)>,
    /// What stands beside the pairs.
    pub(crate) rows: Rows,
    lifetime: Lifetime,
    /// No pair goes before this log time, and none at all without it.
    pub(crate) next_expiry_ms: Option<u64>,
    /// Nothing that is remembered goes before this log time, and nothing at all without it.
    pub(crate) next_forget_ms: Option<u64>,
    changes: Vec<Change>,
    /// What the write that is under way did to keys.
    pub(crate) events: Vec<Event>,
    /// And to leases.
    pub(crate) leases: Vec<LeaseChange>,
    recorder: Recorder,
    pub(crate) applied: Applied,
}

/// Who lets pairs go whose time is up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Lifetime {
    /// Entries do, by their log time: so that replicas are alike.
    #[default]
    ByEntries,
    /// The engine, which evicts. Pairs that say nothing about it live for this long.
    ByEngine { ttl_ms: Option<u64> },
    /// Nobody: they stay.
    Never,
}

impl Lifetime {
    /// When a pair goes that is put now.
    fn end(self, ttl_ms: Option<u64>, has_lease: bool, header: &ShardHeader) -> Option<NonZeroU64> {
        let ttl_ms = match self {
            // What hangs on a lease lives as long as that, unless it says otherwise.
            Self::ByEntries => ttl_ms.or_else(|| header.settings.ttl_ms.filter(|_| !has_lease))?,
            Self::ByEngine { ttl_ms: default_ms } => ttl_ms.or(default_ms)?,
            Self::Never => return None,
        };
        NonZeroU64::new(header.log_time_ms.saturating_add(ttl_ms))
    }
}

/// What a key is like.
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    meta: KeyMeta,
    bytes: u64,
    expires_at_ms: Option<NonZeroU64>,
    lease: Option<LeaseId>,
}

/// What a command of this step left of a key.
#[derive(Clone, Copy)]
enum Pending {
    /// With the place of its record among the changes.
    Set(Stored, usize),
    Removed,
}

impl Pending {
    fn stored(self) -> Option<Stored> {
        match self {
            Self::Set(stored, _) => Some(stored),
            Self::Removed => None,
        }
    }
}

/// A write that is under way.
struct UnderWay {
    /// The revision of what it changes.
    revision: Revision,
    /// Those that it is measured by: what it sets itself holds for those after it.
    settings: Settings,
    /// For each transaction that is done, in order, the first compare that did not hold.
    path: vec::IntoIter<Option<u64>>,
    budget: Budget,
}

/// How much of the keyspace a write may still look at, so that none keeps the others waiting for long.
struct Budget {
    keys: u64,
    read_bytes: u64,
}

/// Why a write ends before its end.
pub(crate) enum Stop {
    /// It is refused: nothing of it is done.
    Refused(Outcome),
    Failed(ShardError),
}

impl From<ShardError> for Stop {
    fn from(error: ShardError) -> Self {
        Self::Failed(error)
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

impl Budget {
    const WHOLE: Self = Self { keys: MAX_TRANSACTION_KEYS, read_bytes: MAX_TRANSACTION_READ_BYTES };

    fn take_key(&mut self) -> Result<(), Stop> {
        self.keys = self.keys.checked_sub(1).ok_or_else(Self::exceeded)?;
        Ok(())
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), Stop> {
        self.read_bytes = self.read_bytes.checked_sub(bytes as u64).ok_or_else(Self::exceeded)?;
        Ok(())
    }

    fn exceeded() -> Stop {
        Stop::Refused(Outcome::TooMuch { max_keys: MAX_TRANSACTION_KEYS, max_bytes: MAX_TRANSACTION_READ_BYTES })
    }
}

/// How things stood before a write.
pub(crate) struct Mark {
    data_bytes: u64,
    settings: Settings,
    history: HistoryHeader,
    changes: usize,
}

impl Step {
    pub(crate) fn new(view: Arc<dyn View>, lifetime: Lifetime, next_expiry_ms: Option<u64>) -> Self {
        Self {
            view,
            pending: BTreeMap::new(),
            undo: Vec::new(),
            rows: Rows::default(),
            lifetime,
            next_expiry_ms,
            next_forget_ms: None,
            changes: Vec::new(),
            events: Vec::new(),
            recorder: Recorder::default(),
            leases: Vec::new(),
            applied: Applied::default(),
        }
    }

    /// All commands of an entry were executed.
    pub(crate) fn end_entry(&mut self, header: &mut ShardHeader) -> Result<(), ShardError> {
        self.recorder.record(&self.applied.changes, header, &mut self.changes)?;
        self.recorder.end_entry(self.view.as_ref(), header, &mut self.changes)
    }

    /// What is to be written, and what became of it all.
    pub(crate) fn finish(self) -> (Vec<Change>, Applied) {
        let mut changes = self.changes;
        changes.extend(self.rows.into_changes());
        (changes, self.applied)
    }

    /// Does what the write says, or nothing, whether it was done before or not.
    pub(crate) fn execute_now(&mut self, write: &Write, header: &mut ShardHeader) -> Result<Outcome, ShardError> {
        let revision = header.revision;
        for (guard, position) in write.guards.iter().zip(0..) {
            if matches!(guard.condition, Condition::Once(_)) {
                continue;
            }
            let current = self.stored(&guard.key)?.map(|stored| stored.meta);
            if !holds(&guard.condition, current) {
                return Ok(Outcome::ConditionFailed { revision, guard: position, current });
            }
        }
        let before = self.mark(header);
        match self.attempt(write, &before, header) {
            Ok(results) => {
                if results.iter().any(OpResult::is_change) {
                    self.publish(header);
                }
                self.applied.leases.append(&mut self.leases);
                Ok(Outcome::Applied { revision: header.revision, results })
            }
            Err(Stop::Refused(outcome)) => {
                self.roll_back(&before, header);
                Ok(outcome)
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// What was done to keys is a revision.
    pub(crate) fn publish(&mut self, header: &mut ShardHeader) {
        header.revision = header.revision.next();
        self.applied.changes.push(Changes::of(header.revision, std::mem::take(&mut self.events)));
    }

    /// Does what the write says, perhaps in part if it is refused.
    fn attempt(&mut self, write: &Write, before: &Mark, header: &mut ShardHeader) -> Result<Vec<OpResult>, Stop> {
        let mut budget = Budget::WHOLE;
        let mut path = Vec::new();
        self.choose_all(&write.ops, &mut path, &mut budget)?;
        let mut under_way =
            UnderWay { revision: header.revision.next(), settings: before.settings, path: path.into_iter(), budget };
        let results = self.execute_all(&write.ops, &mut under_way, header)?;
        let max_bytes = before.settings.limits.max_bytes;
        if header.data_bytes > max_bytes && header.data_bytes > before.data_bytes {
            return Err(Stop::Refused(Outcome::Full { max_bytes }));
        }
        Ok(results)
    }

    /// Finds out what each transaction will do, before anything is done.
    fn choose_all(&self, ops: &[Op], path: &mut Vec<Option<u64>>, budget: &mut Budget) -> Result<(), Stop> {
        for transaction in ops.iter().filter_map(Op::as_transaction) {
            let mut failed = None;
            for (compare, position) in transaction.compares.iter().zip(0..) {
                if !self.holds(compare, budget)? {
                    failed = Some(position);
                    break;
                }
            }
            path.push(failed);
            self.choose_all(branch(transaction, failed), path, budget)?;
        }
        Ok(())
    }

    fn execute_all(&mut self, ops: &[Op], under_way: &mut UnderWay, header: &mut ShardHeader) -> Result<Vec<OpResult>, Stop> {
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(self.execute_op(op, under_way, header)?);
        }
        Ok(results)
    }

    fn execute_op(&mut self, op: &Op, under_way: &mut UnderWay, header: &mut ShardHeader) -> Result<OpResult, Stop> {
        match op {
            Op::Put(put) => match under_way.settings.limits.refusal(&put.key, &put.value) {
                None => self.put(put, under_way.revision, header),
                Some(refused) => Err(Stop::Refused(refused)),
            },
            Op::Patch(patch) => self.patch(patch, under_way, header),
            Op::Delete { key } => Ok(self.delete(key, header)?),
            Op::LeaseGrant { id, ttl_ms } => self.grant(*id, *ttl_ms, header),
            Op::LeaseRevoke { id } => self.revoke(*id, header),
            Op::LeaseExpire { leases } => Ok(self.expire_leases(leases, header)?),
            Op::DeleteRange { range, max_keys } => self.delete_range(range, *max_keys, &mut under_way.budget, header),
            Op::Get { key } => self.get(key, &mut under_way.budget),
            Op::List(listing) => self.list(listing, &mut under_way.budget),
            Op::Transaction(transaction) => {
                let failed = under_way.path.next().expect("every transaction on the path was looked at");
                let results = self.execute_all(branch(transaction, failed), under_way, header)?;
                Ok(OpResult::of(Detail::Transaction(TransactionResult { failed, results })))
            }
            Op::Configure(settings) => {
                header.settings = *settings;
                Ok(OpResult::default())
            }
            Op::Compact { revision } => match header.history.compact(*revision, header.revision) {
                Ok(()) => Ok(OpResult::default()),
                Err(refused) => Err(Stop::Refused(refused)),
            },
        }
    }

    fn put(&mut self, put: &Put, revision: Revision, header: &mut ShardHeader) -> Result<OpResult, Stop> {
        let (before, replaced) = self.found(&put.key)?.unzip();
        let expires_at_ms = self.lifetime.end(put.ttl_ms, put.lease.is_some(), header);
        let Put { content_type, user_meta, lease, value, .. } = put.clone();
        let record = Record { meta: meta_after(before, revision), content_type, user_meta, expires_at_ms, lease, value };
        self.set_record(&put.key, &record, before, replaced, header)
    }

    /// Gives a key another record than it has, if it has one.
    fn set_record(
        &mut self,
        key: &[u8],
        record: &Record,
        before: Option<Stored>,
        replaced: Option<Bytes>,
        header: &mut ShardHeader,
    ) -> Result<OpResult, Stop> {
        let Record { meta, expires_at_ms, lease, .. } = *record;
        let value = record.to_bytes();
        // The entry's buffer may be large and shared by many keys: the engine gets a key of its own.
        let key = Bytes::copy_from_slice(key);
        let after = Stored { meta, bytes: stored_bytes(&key, value.len()), expires_at_ms, lease };
        header.data_bytes = header.data_bytes + after.bytes - before.map_or(0, |stored| stored.bytes);
        self.change_expiry(&key, before.and_then(|stored| stored.expires_at_ms), expires_at_ms, header);
        self.change_lease(&key, before.and_then(|stored| stored.lease), lease, header)?;
        self.set(key.clone(), Pending::Set(after, self.changes.len()));
        self.events.push(Event { key: key.clone(), cause: Cause::Put, after: Some(value.clone()), before: replaced });
        self.changes.push(match (self.lifetime, expires_at_ms) {
            (Lifetime::ByEngine { .. }, Some(until_ms)) => {
                Change::PutUntil { table: Table::Current, key, value, until_ms: until_ms.get() }
            }
            _ => Change::Put { table: Table::Current, key, value },
        });
        Ok(OpResult { before: before.map(|stored| stored.meta), after: Some(meta), detail: None })
    }

    fn delete(&mut self, key: &Bytes, header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        let Some((before, record)) = self.found(key)? else {
            return Ok(OpResult::default());
        };
        self.remove(Bytes::copy_from_slice(key), (before, record), Cause::Delete, header)?;
        Ok(OpResult { before: Some(before.meta), after: None, detail: None })
    }

    fn delete_range(
        &mut self,
        range: &KeyRange,
        max_keys: u64,
        budget: &mut Budget,
        header: &mut ShardHeader,
    ) -> Result<OpResult, Stop> {
        let (mut found, mut next) = (Vec::new(), None);
        self.scan(range, Direction::Forward, |key, record| {
            if found.len() as u64 >= max_keys {
                next = Some(key.clone());
                return Ok(false);
            }
            budget.take_key()?;
            found.push((key.clone(), Stored::decode(key, record.clone())?, record.clone()));
            Ok(true)
        })?;
        let removed = Removed { keys: found.len() as u64, next };
        for (key, before, record) in found {
            self.remove(key, (before, record), Cause::Delete, header)?;
        }
        Ok(OpResult::of(Detail::Removed(removed)))
    }

    fn get(&self, key: &Bytes, budget: &mut Budget) -> Result<OpResult, Stop> {
        let mut items = Vec::new();
        if let Some(record) = self.record(key)? {
            budget.take_bytes(key.len() + record.len())?;
            items.push((Bytes::copy_from_slice(key), own(Record::decode(record).map_err(ShardError::from)?)));
        }
        Ok(OpResult::of(Detail::Read(Pairs { items, has_more: false })))
    }

    fn list(&self, listing: &Listing, budget: &mut Budget) -> Result<OpResult, Stop> {
        let mut pairs = Pairs::default();
        self.scan(&listing.range, listing.direction, |key, record| {
            if pairs.items.len() as u64 >= listing.max_pairs {
                pairs.has_more = true;
                return Ok(false);
            }
            budget.take_key()?;
            let mut record = Record::decode(record.clone()).map_err(ShardError::from)?;
            if !listing.is_with_values {
                record.value = Bytes::new();
            }
            budget.take_bytes(key.len() + record.encoded_bytes())?;
            pairs.items.push((Bytes::copy_from_slice(key), own(record)));
            Ok(true)
        })?;
        Ok(OpResult::of(Detail::Read(pairs)))
    }

    /// Whether a compare holds, as things are now.
    fn holds(&self, compare: &Compare, budget: &mut Budget) -> Result<bool, Stop> {
        let Compare { keys, relation, target } = compare;
        let range = match (keys, target) {
            (Keys::Range(range), _) => range,
            (Keys::One(key), Target::Value(_)) => {
                let found = self.record(key)?.map(Record::decode).transpose().map_err(ShardError::from)?;
                return Ok(target.holds(*relation, found.as_ref().map(Compared::of)));
            }
            (Keys::One(key), _) => {
                let found = self.stored(key)?;
                let found = found.map(|Stored { meta, lease, .. }| Compared { meta, lease, value: &[] });
                return Ok(target.holds(*relation, found));
            }
        };
        let (mut is_empty, mut holds) = (true, true);
        self.scan(range, Direction::Forward, |_, record| {
            budget.take_key()?;
            is_empty = false;
            let found = Record::decode(record.clone()).map_err(ShardError::from)?;
            holds = target.holds(*relation, Some(Compared::of(&found)));
            Ok(holds)
        })?;
        Ok(if is_empty { target.holds(*relation, None) } else { holds })
    }

    /// Goes over the pairs of a range after the commands before, of this step too, in order, until told not to go on.
    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        mut each: impl FnMut(&Bytes, &Bytes) -> Result<bool, Stop>,
    ) -> Result<(), Stop> {
        if range.is_empty() {
            return Ok(());
        }
        let mut pending = self.pending.range::<Bytes, _>((range.start.as_ref(), range.end.as_ref()));
        let mut next_pending = || if direction == Direction::Forward { pending.next() } else { pending.next_back() };
        let mut scan = self.view.scan(Table::Current, range, direction);
        let (mut is_pending, mut in_view) = (next_pending(), scan.next().transpose()?);
        loop {
            let is_first = |key: &Bytes| match &in_view {
                None => true,
                Some((other, _)) if direction == Direction::Forward => key <= other,
                Some((other, _)) => key >= other,
            };
            let goes_on = match is_pending {
                Some((key, pending)) if is_first(key) => {
                    // What is pending hides what the view has.
                    if in_view.as_ref().is_some_and(|(other, _)| other == key) {
                        in_view = scan.next().transpose()?;
                    }
                    is_pending = next_pending();
                    match pending {
                        Pending::Set(_, place) => each(key, self.changed(*place))?,
                        Pending::Removed => true,
                    }
                }
                _ => {
                    let Some((key, record)) = in_view else { return Ok(()) };
                    in_view = scan.next().transpose()?;
                    each(&key, &record)?
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Removes a key that is there, with this record.
    pub(crate) fn remove(
        &mut self,
        key: Bytes,
        found: (Stored, Bytes),
        cause: Cause,
        header: &mut ShardHeader,
    ) -> Result<(), ShardError> {
        if let Some(lease) = found.0.lease {
            self.detach(&key, lease, header)?;
        }
        self.remove_pair(key, found, cause, header);
        Ok(())
    }

    /// The same, and the lease that it may hang on is no concern.
    pub(crate) fn remove_pair(&mut self, key: Bytes, (before, record): (Stored, Bytes), cause: Cause, header: &mut ShardHeader) {
        header.data_bytes -= before.bytes;
        self.change_expiry(&key, before.expires_at_ms, None, header);
        self.set(key.clone(), Pending::Removed);
        self.events.push(Event { key: key.clone(), cause, after: None, before: Some(record) });
        self.changes.push(Change::Delete { table: Table::Current, key });
    }

    /// Takes note of when a pair goes.
    fn change_expiry(
        &mut self,
        key: &[u8],
        before_ms: Option<NonZeroU64>,
        after_ms: Option<NonZeroU64>,
        header: &mut ShardHeader,
    ) {
        if before_ms == after_ms || !matches!(self.lifetime, Lifetime::ByEntries) {
            return;
        }
        if let Some(before_ms) = before_ms {
            self.rows.remove(expiry::row_of(before_ms.get(), key));
            header.data_bytes -= expiry::row_bytes(key);
        }
        if let Some(after_ms) = after_ms.map(NonZeroU64::get) {
            self.rows.put(expiry::row_of(after_ms, key), Bytes::new());
            header.data_bytes += expiry::row_bytes(key);
            self.next_expiry_ms = Some(self.next_expiry_ms.map_or(after_ms, |next_ms| next_ms.min(after_ms)));
        }
    }

    fn set(&mut self, key: Bytes, pending: Pending) {
        let replaced = self.pending.insert(key.clone(), pending);
        self.undo.push((key, replaced));
    }

    /// The record that a change of this step writes.
    fn changed(&self, place: usize) -> &Bytes {
        match &self.changes[place] {
            Change::Put { value, .. } | Change::PutUntil { value, .. } => value,
            change @ Change::Delete { .. } => unreachable!("{change:?} sets nothing"),
        }
    }

    /// A key's record after the commands before, of this step too.
    fn record(&self, key: &Bytes) -> Result<Option<Bytes>, ShardError> {
        match self.pending.get(key) {
            Some(Pending::Set(_, place)) => Ok(Some(self.changed(*place).clone())),
            Some(Pending::Removed) => Ok(None),
            None => Ok(self.view.peek(Table::Current, key)?),
        }
    }

    /// What the key is like after the commands before, of this step too, and its record.
    pub(crate) fn found(&self, key: &Bytes) -> Result<Option<(Stored, Bytes)>, ShardError> {
        match self.pending.get(key) {
            Some(Pending::Set(stored, place)) => Ok(Some((*stored, self.changed(*place).clone()))),
            Some(Pending::Removed) => Ok(None),
            None => match self.view.peek(Table::Current, key)? {
                Some(record) => Ok(Some((Stored::decode(key, record.clone())?, record))),
                None => Ok(None),
            },
        }
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

    pub(crate) fn mark(&mut self, header: &ShardHeader) -> Mark {
        self.undo.clear();
        self.rows.mark();
        self.events.clear();
        self.leases.clear();
        let ShardHeader { data_bytes, settings, history, .. } = *header;
        Mark { data_bytes, settings, history, changes: self.changes.len() }
    }

    /// Takes back all that was done since.
    fn roll_back(&mut self, to: &Mark, header: &mut ShardHeader) {
        header.data_bytes = to.data_bytes;
        header.settings = to.settings;
        header.history = to.history;
        self.changes.truncate(to.changes);
        self.rows.roll_back();
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
        let Record { meta, expires_at_ms, lease, .. } = Record::decode(record)?;
        Ok(Self { meta, bytes, expires_at_ms, lease })
    }
}

/// What a transaction does.
fn branch(transaction: &Transaction, failed: Option<u64>) -> &[Op] {
    if failed.is_none() { &transaction.then } else { &transaction.otherwise }
}

/// A record that keeps no larger buffer alive: outcomes are remembered for a while.
fn own(mut record: Record) -> Record {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    record.content_type = record.content_type.as_ref().map(copy);
    record.user_meta = record.user_meta.iter().map(|(name, value)| (copy(name), copy(value))).collect();
    record.value = copy(&record.value);
    record
}

/// The counters of a key that is set where this was found.
fn meta_after(before: Option<Stored>, revision: Revision) -> KeyMeta {
    match before {
        Some(stored) => KeyMeta { mod_revision: revision, version: stored.meta.version + 1, ..stored.meta },
        None => KeyMeta { create_revision: revision, mod_revision: revision, version: 1 },
    }
}

fn stored_bytes(key: &[u8], record_bytes: usize) -> u64 {
    (key.len() + record_bytes) as u64
}

fn holds(condition: &Condition, current: Option<KeyMeta>) -> bool {
    match condition {
        Condition::Once(_) => unreachable!("it is about no key of the shard"),
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
        Condition::ModRevisionIn(revisions) => current.is_some_and(|meta| revisions.contains(&meta.mod_revision)),
        Condition::ModRevisionNotIn(revisions) => !current.is_some_and(|meta| revisions.contains(&meta.mod_revision)),
    }
}
