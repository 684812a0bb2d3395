//! What a shard does for history: it records what its writes replace, and lets go of what is older than it must be kept.
//!
//! All of it follows from the entries alone: revisions, log times, and bytes that are counted as they are written.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use quorate_engine::{Change, Direction, ScanItem, Table, View};

use super::rows::{
    ChangesRow, EXTENT_KEY, KeyChange, Old, REMOVED_BYTES, changes_from, changes_key, extent_row, version_key, version_key_bytes,
};
use crate::event::{Cause, Changes, Event};
use crate::limits::Retention;
use crate::outcome::Outcome;
use crate::shard::{ShardError, ShardHeader};
use crate::{Record, Revision};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// Changes that an entry sweeps, beside those that it pays for with its own: so that a backlog goes although little is written.
const SWEPT_PER_ENTRY: u64 = 256;

/// Each change that is recorded pays for so many that are swept.
const SWEPT_PER_CHANGE: u64 = 2;

/// The same for bytes that are recorded: large values that take the place of small ones make for many changes to be swept.
const BYTES_PER_SWEPT: u64 = 128;

/// Revisions that are swept at once: it costs less than one by one. Fewer wait, unless a compaction was asked for, or nothing
/// older than the present is to be kept.
const SWEPT_AT_ONCE: u64 = 64;

/// Where a bound is exceeded, this part of it more is let go of, or let be before: so that it happens now and then, not with
/// every entry.
const SLACK: u64 = 16;

/// What is too old goes with the next entry, whatever that is for; if there is none, after this part of the age more: seldom,
/// or a shard at rest would be woken for each of its revisions.
const LATE_BY: u64 = 8;

/// How far a shard's history reaches.
///
/// *Invariants*: while history is recorded, `begun <= compacted` and `swept <= compacted`, and there is a row of changes for each
/// revision after `swept`, and one for `swept` itself if `last_row_bytes` is not 0. While it is not, all rows that there are
/// belong to revisions up to `compacted`, and all numbers are 0 once they are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryHeader {
    /// The revision at which recording began; none while nothing is recorded.
    pub begun: Option<Revision>,
    /// The compact revision: the oldest that can be read.
    pub compacted: Revision,
    /// What only revisions before this one need is gone from the table.
    pub swept: Revision,
    /// Bytes of the row of changes of `swept`; 0 if there is none.
    pub last_row_bytes: u64,
    /// Keys and values of all rows but the one that tells the reach, in bytes.
    pub bytes: u64,
    /// No change after the compact revision is older than this log time; none if there is no such change.
    pub next_at_ms: Option<u64>,
    /// Whether somebody asked for a compaction that is not swept yet.
    pub is_pressing: bool,
}

/// What one call of [`crate::Shard::apply`] does to history, on top of what the engine holds.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// How many of what was applied in this call were looked at.
    seen: usize,
    /// Rows of changes that it wrote.
    rows: BTreeMap<Revision, Bytes>,
    /// Changes that the entry under way recorded, and their bytes: what it pays with.
    changes: u64,
    bytes: u64,
}

/// Where rows of changes are found.
struct Source<'a> {
    rows: &'a BTreeMap<Revision, Bytes>,
    view: &'a dyn View,
    /// Those of the view, one after the other, once some were asked for.
    in_view: Option<Box<dyn Iterator<Item = ScanItem> + Send + 'a>>,
}

impl HistoryHeader {
    /// Of a shard that is founded with this retention.
    pub(crate) fn found(retention: Retention) -> Self {
        let mut header = Self::default();
        header.follow(retention, Revision::FIRST);
        header
    }

    /// Begins to record, once nothing is left from before, or ends.
    fn follow(&mut self, retention: Retention, present: Revision) {
        match (self.begun, retention.is_on()) {
            (Some(_), false) => (self.begun, self.compacted, self.next_at_ms) = (None, present, None),
            (None, true) if self.bytes == 0 => {
                *self = Self { begun: Some(present), compacted: present, swept: present, ..Self::default() };
            }
            (None, false) if self.bytes == 0 => *self = Self::default(),
            _ => {}
        }
    }

    /// Makes a revision the oldest that can be read, or says why not. `present` is the shard's.
    pub(crate) fn compact(&mut self, revision: Revision, present: Revision) -> Result<(), Outcome> {
        let compacted = if self.begun.is_some() { self.compacted } else { present };
        if revision <= compacted {
            return Err(Outcome::Compacted { compacted });
        }
        if revision > present {
            return Err(Outcome::FutureRevision { present });
        }
        self.move_to(revision, present);
        self.is_pressing = true;
        Ok(())
    }

    fn move_to(&mut self, revision: Revision, present: Revision) {
        self.compacted = self.compacted.max(revision);
        if self.compacted == present {
            self.next_at_ms = None;
        }
    }

    fn move_by_count(&mut self, retention: Retention, present: Revision) {
        let kept = present.0.saturating_sub(self.compacted.0);
        if retention.max_revisions > 0 && kept > retention.max_revisions.saturating_add(retention.max_revisions / SLACK) {
            self.move_to(Revision(present.0.saturating_sub(retention.max_revisions)), present);
        }
    }

    /// What was true so long ago can be read still.
    fn move_by_age(
        &mut self,
        retention: Retention,
        present: Revision,
        now_ms: u64,
        source: &Source<'_>,
    ) -> Result<(), ShardError> {
        let is_old = |at_ms: u64| at_ms.saturating_add(retention.max_age_ms) <= now_ms;
        if retention.max_age_ms == 0 || !self.next_at_ms.is_some_and(is_old) {
            return Ok(());
        }
        let (mut old, mut young) = (self.compacted.0, present.0 + 1);
        let (mut stride, mut is_near) = (1, true);
        while young - old > 1 {
            let probe = if is_near { (old + stride).min(young - 1) } else { old.midpoint(young) };
            if is_old(source.log_time_ms(Revision(probe))?) {
                old = probe;
                stride *= 2;
            } else {
                young = probe;
                is_near = false;
            }
        }
        self.compacted = Revision(old);
        self.next_at_ms = if young > present.0 { None } else { Some(source.log_time_ms(Revision(young))?) };
        Ok(())
    }

    /// Whether it is time to begin.
    fn has_to_sweep(&self, retention: Retention, present: Revision) -> bool {
        let waiting = self.compacted.0.saturating_sub(self.swept.0);
        let is_time = self.is_pressing || waiting >= SWEPT_AT_ONCE || self.compacted == present;
        let is_too_large = retention.max_bytes > 0 && self.bytes > retention.max_bytes;
        match self.begun {
            None => self.bytes > 0,
            Some(_) => waiting > 0 && is_time || is_too_large && self.swept < present,
        }
    }

    /// Whether there is anything to sweep, down to so many bytes.
    fn can_sweep(&self, max_bytes: u64, present: Revision) -> bool {
        match self.begun {
            None => self.bytes > 0,
            Some(_) => self.swept < self.compacted || self.bytes > max_bytes && self.swept < present,
        }
    }

    /// Sweeps one revision, which is compacted, or is from now on. Returns how much work it was, in changes.
    fn sweep_next(&mut self, source: &mut Source<'_>, out: &mut Vec<Change>) -> Result<u64, ShardError> {
        if self.last_row_bytes > 0 {
            self.bytes -= self.last_row_bytes;
            self.last_row_bytes = 0;
            out.push(Change::Delete { table: Table::History, key: changes_key(self.swept) });
        }
        if self.begun.is_none() && self.swept == self.compacted {
            return Ok(1);
        }
        let revision = self.swept.next();
        let row = source.next_row(revision)?;
        self.last_row_bytes = (changes_key(revision).len() + row.len()) as u64;
        let changes = ChangesRow::decode(row)?.changes;
        for KeyChange { cause, key, before } in &changes {
            if let Some((before, record_bytes)) = before {
                self.remove_version(key, *before, *record_bytes, out);
            }
            if *cause != Cause::Put {
                self.remove_version(key, revision, REMOVED_BYTES, out);
            }
        }
        self.swept = revision;
        self.compacted = self.compacted.max(revision);
        Ok(1 + changes.len() as u64)
    }

    fn put(&mut self, key: Bytes, value: Bytes, out: &mut Vec<Change>) {
        self.bytes += (key.len() + value.len()) as u64;
        out.push(Change::Put { table: Table::History, key, value });
    }

    fn remove_version(&mut self, key: &[u8], revision: Revision, record_bytes: u64, out: &mut Vec<Change>) {
        self.bytes -= version_key_bytes(key) + record_bytes;
        out.push(Change::Delete { table: Table::History, key: version_key(key, revision) });
    }

    /// From which log time on an entry would find something to do here, though it had no commands. `log_time_ms` is now.
    pub(crate) fn due_at_ms(&self, retention: Retention, present: Revision, log_time_ms: u64) -> Option<u64> {
        if self.has_to_sweep(retention, present) {
            return Some(log_time_ms);
        }
        let next_at_ms = self.next_at_ms.filter(|_| retention.max_age_ms > 0)?;
        Some(next_at_ms.saturating_add(retention.max_age_ms).saturating_add(retention.max_age_ms / LATE_BY))
    }

    /// The row that tells views how far history reaches, or its removal, if they were told something else.
    pub(crate) fn told_anew(&self, before: &Self) -> Option<Change> {
        let told = |header: &Self| header.begun.map(|begun| [header.compacted, begun, header.swept]);
        if told(self) == told(before) {
            return None;
        }
        let (table, key) = (Table::History, Bytes::from_static(EXTENT_KEY));
        Some(match told(self) {
            Some(numbers) => Change::Put { table, key, value: extent_row(numbers) },
            None => Change::Delete { table, key },
        })
    }

    /// Appends the encoded form.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let begun = self.begun.map_or(0, |begun| begun.0);
        let next_at = self.next_at_ms.map_or(0, |at_ms| at_ms.saturating_add(1));
        for number in [begun, self.compacted.0, self.swept.0, self.last_row_bytes, self.bytes, next_at] {
            out.put_varint(number);
        }
        out.put_varint(u64::from(self.is_pressing));
    }

    /// Reads what [`HistoryHeader::encode`] wrote.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            begun: Some(Revision(reader.varint()?)).filter(|begun| begun.0 > 0),
            compacted: Revision(reader.varint()?),
            swept: Revision(reader.varint()?),
            last_row_bytes: reader.varint()?,
            bytes: reader.varint()?,
            next_at_ms: reader.varint()?.checked_sub(1),
            is_pressing: reader.varint()? > 0,
        })
    }
}

impl Recorder {
    /// Records what was applied since the last time, if history is recorded.
    pub(crate) fn record(
        &mut self,
        applied: &[Changes],
        header: &mut ShardHeader,
        out: &mut Vec<Change>,
    ) -> Result<(), ShardError> {
        let new = &applied[self.seen..];
        self.seen = applied.len();
        if header.history.begun.is_some() {
            new.iter().try_for_each(|done| self.record_one(done, header, out))?;
        }
        Ok(())
    }

    /// Records the versions that a revision replaced, what it removed, and that it did.
    fn record_one(&mut self, done: &Changes, header: &mut ShardHeader, out: &mut Vec<Change>) -> Result<(), ShardError> {
        let history = &mut header.history;
        let bytes_before = history.bytes;
        let mut changes = Vec::with_capacity(done.events.len());
        for Event { key, cause, after, before } in &done.events {
            let mut change = KeyChange { cause: *cause, key: key.clone(), before: None };
            if let Some(record) = before {
                let revision = Record::mod_revision_of(record)?;
                change.before = Some((revision, record.len() as u64));
                history.put(version_key(key, revision), record.clone(), out);
            }
            if after.is_none() {
                history.put(version_key(key, done.revision), Old::Removed(*cause).to_bytes(), out);
            }
            changes.push(change);
        }
        self.changes += changes.len() as u64;
        let row = ChangesRow { log_time_ms: header.log_time_ms, changes }.to_bytes();
        history.put(changes_key(done.revision), row.clone(), out);
        self.rows.insert(done.revision, row);
        self.bytes += history.bytes - bytes_before;
        history.next_at_ms.get_or_insert(header.log_time_ms);
        Ok(())
    }

    /// After the commands of an entry: follows the settings, moves the compact revision, and sweeps.
    pub(crate) fn end_entry(
        &mut self,
        view: &dyn View,
        header: &mut ShardHeader,
        out: &mut Vec<Change>,
    ) -> Result<(), ShardError> {
        let (retention, present) = (header.settings.retention, header.revision);
        let (history, mut source) = (&mut header.history, Source { rows: &self.rows, view, in_view: None });
        history.follow(retention, present);
        if history.begun.is_some() {
            history.move_by_count(retention, present);
            history.move_by_age(retention, present, header.log_time_ms, &source)?;
        }
        let paid = std::mem::take(&mut self.changes) * SWEPT_PER_CHANGE + std::mem::take(&mut self.bytes) / BYTES_PER_SWEPT;
        let mut budget = if history.has_to_sweep(retention, present) { SWEPT_PER_ENTRY + paid } else { 0 };
        let is_too_large = retention.max_bytes > 0 && history.bytes > retention.max_bytes;
        let max_bytes = if is_too_large { retention.max_bytes - retention.max_bytes / SLACK } else { u64::MAX };
        while budget > 0 && history.can_sweep(max_bytes, present) {
            budget = budget.saturating_sub(history.sweep_next(&mut source, out)?);
        }
        history.is_pressing &= history.swept < history.compacted;
        if history.begun.is_some() && history.compacted == present {
            history.next_at_ms = None;
        }
        history.follow(retention, present);
        Ok(())
    }
}

impl Source<'_> {
    fn row(&self, revision: Revision) -> Result<Bytes, ShardError> {
        let row = match self.rows.get(&revision) {
            Some(row) => Some(row.clone()),
            None => self.view.peek(Table::History, &changes_key(revision))?,
        };
        row.ok_or(ShardError::Decode(DecodeError::Malformed("a row of changes is missing")))
    }

    /// The row of a revision, each one being asked for after the one before it.
    fn next_row(&mut self, revision: Revision) -> Result<Bytes, ShardError> {
        if let Some(row) = self.rows.get(&revision) {
            return Ok(row.clone());
        }
        let view = self.view;
        let in_view = self.in_view.get_or_insert_with(|| view.scan(Table::History, &changes_from(revision), Direction::Forward));
        match in_view.next().transpose()? {
            Some((key, row)) if key == changes_key(revision) => Ok(row),
            _ => Err(ShardError::Decode(DecodeError::Malformed("a row of changes is missing"))),
        }
    }

    fn log_time_ms(&self, revision: Revision) -> Result<u64, ShardError> {
        Ok(ChangesRow::log_time_ms(self.row(revision)?)?)
    }
}
