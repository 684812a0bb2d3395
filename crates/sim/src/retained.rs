//! What of the past must be there, and is: compaction hides no revision that is retained, and what is retained is as it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_engine::{Batch, Change, Direction, Engine, KeyRange, Table, View};
use quorate_keyspace::{Extent, Retention, Revision, changes_after, extent, pairs_at};
use quorate_node::DEFAULT_RETENTION;

use crate::model::Model;

/// What is kept for longer is there to the end of a run.
const SOON_MS: u64 = 10_000;

/// How far back the history of one group's shard must reach.
///
/// Bounds of bytes are not followed: those of a run are never reached.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    retention: Retention,
    /// Whether history is kept, as of the end of the last entry.
    is_on: bool,
    compacted: u64,
    log_time_ms: u64,
    /// When each revision came to be.
    times: BTreeMap<u64, u64>,
}

impl Retained {
    /// Of a shard that was founded, and nothing more.
    pub(crate) fn of(view: &dyn View) -> Result<Self, String> {
        let compacted = extent(view).map_err(|error| error.to_string())?.compacted.0;
        let has_rows = view.pairs(Table::History).next().is_some();
        let retention = Retention {
            max_revisions: DEFAULT_RETENTION.max_revisions,
            max_age_ms: DEFAULT_RETENTION.max_age_ms,
            max_bytes: DEFAULT_RETENTION.max_bytes,
        };
        Ok(Self {
            retention: if has_rows { retention } else { Retention::default() },
            is_on: has_rows,
            compacted,
            ..Self::default()
        })
    }

    pub(crate) fn begin_entry(&mut self, log_time_ms: u64) {
        self.log_time_ms = self.log_time_ms.max(log_time_ms);
    }

    pub(crate) fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// There is this revision.
    pub(crate) fn note(&mut self, revision: u64) {
        self.times.entry(revision).or_insert(self.log_time_ms);
    }

    pub(crate) fn compact(&mut self, revision: u64, present: u64) {
        if self.is_on && revision <= present {
            self.compacted = self.compacted.max(revision);
        }
    }

    pub(crate) fn end_entry(&mut self, present: u64) {
        let Retention { max_revisions, max_age_ms, max_bytes } = self.retention;
        let was_on = std::mem::replace(&mut self.is_on, max_revisions + max_age_ms + max_bytes > 0);
        if !self.is_on {
            return;
        }
        if !was_on {
            self.compacted = present;
        }
        if max_revisions > 0 && present - self.compacted > max_revisions + max_revisions / 16 {
            self.compacted = self.compacted.max(present.saturating_sub(max_revisions));
        }
        while max_age_ms > 0
            && self.compacted < present
            && self.times.get(&(self.compacted + 1)).is_some_and(|at_ms| at_ms + max_age_ms <= self.log_time_ms)
        {
            self.compacted += 1;
        }
    }

    /// Whether there is something that will be too old soon.
    pub(crate) fn is_ageing(&self, present: u64) -> bool {
        self.is_on && (1..=SOON_MS).contains(&self.retention.max_age_ms) && self.compacted < present
    }

    /// The oldest revision that can be read.
    pub(crate) fn compacted(&self, present: u64) -> u64 {
        if self.is_on { self.compacted } else { present }
    }
}

/// Compares two revisions that a view retains with what was: the oldest, and another one.
pub(crate) fn check_past(view: &dyn View, model: &Model) -> Result<(), String> {
    let (compacted, present) = (extent(view).map_err(|error| error.to_string())?.compacted.0, view.revision());
    let other = compacted + view.applied().wrapping_mul(0x9e37_79b9) % (present - compacted + 1);
    for revision in [compacted, other].map(|revision| revision.max(model.first_revision())) {
        check_pairs(view, model, revision)?;
        if revision > model.first_revision() {
            check_changes(view, model, revision)?;
        }
    }
    let gone = pairs_at(view, &KeyRange::all(), Direction::Forward, Revision(compacted - 1)).is_ok();
    if gone { Err(format!("revision {} can be read, the oldest is {compacted}", compacted - 1)) } else { Ok(()) }
}

fn check_pairs(view: &dyn View, model: &Model, revision: u64) -> Result<(), String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("revision {revision} cannot be read: {error}");
    let direction = if revision.is_multiple_of(2) { Direction::Forward } else { Direction::Reverse };
    let pairs = pairs_at(view, &KeyRange::all(), direction, Revision(revision)).map_err(|error| unreadable(&error))?;
    let mut found = BTreeMap::new();
    for pair in pairs {
        let (key, record) = pair.map_err(|error| unreadable(&error))?;
        found.insert(key, (record.meta, record.value));
    }
    let expected = model.content_at(revision);
    if found == expected {
        return Ok(());
    }
    Err(format!("revision {revision} holds {found:?} now, it held {expected:?}"))
}

/// What a revision changed, and that it is the first of those that follow.
fn check_changes(view: &dyn View, model: &Model, revision: u64) -> Result<(), String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("the changes of revision {revision} cannot be read: {error}");
    let Extent { begun, .. } = extent(view).map_err(|error| unreadable(&error))?;
    if Revision(revision) <= begun {
        return Ok(());
    }
    let mut after = changes_after(view, Revision(revision - 1)).map_err(|error| unreadable(&error))?;
    let changes = after.next().ok_or_else(|| unreadable(&"there are none"))?.map_err(|error| unreadable(&error))?;
    let expected: BTreeSet<&Bytes> = model.changes(revision).iter().map(|change| &change.key).collect();
    for event in &changes.events {
        let record = event.record().map_err(|error| unreadable(&error))?;
        let expected = model.get(&event.key, revision);
        if record.as_ref().map(|record| (record.meta, &record.value)) != expected.map(|(meta, value)| (*meta, value)) {
            return Err(format!("revision {revision} is said to have made {:?} {record:?}, it made {expected:?}", event.key));
        }
    }
    // What a revision made and took back itself is no change.
    let is_kept = |key: &&&Bytes| model.get(key, revision).is_some() || model.get(key, revision - 1).is_some();
    let found: BTreeSet<&Bytes> = changes.events.iter().map(|event| &event.key).collect();
    if (changes.revision.0, &found) == (revision, &expected.iter().filter(is_kept).copied().collect()) {
        return Ok(());
    }
    Err(format!("revision {revision} is said to have changed {found:?} at {}, it changed {expected:?}", changes.revision))
}

/// The row of the version that was replaced last, if there is one: what the planted bugs lose, or misplace.
fn last_version(view: &dyn View) -> Option<(Bytes, Bytes)> {
    view.scan(Table::History, &KeyRange::prefix(&[2]), Direction::Reverse).next()?.ok()
}

/// The planted bug of [`crate::Mutation::VersionLost`]; and, with a row to put in its place, of
/// [`crate::Mutation::VersionMisplaced`].
pub(crate) fn lose_version(engine: &dyn Engine, is_misplaced: bool) {
    let view = engine.view();
    let Some((key, value)) = last_version(view.as_ref()) else { return };
    let mut changes = vec![Change::Delete { table: Table::History, key: key.clone() }];
    if is_misplaced && let Some((prefix, revision)) = key.split_last_chunk::<8>() {
        let wrong = u64::from_be_bytes(*revision) + 1;
        let key = [prefix, &wrong.to_be_bytes()].concat().into();
        changes.push(Change::Put { table: Table::History, key, value });
    }
    // The planted bug is in the engine's content; that the engine takes the batch is no part of it.
    let batch = Batch { applied: view.applied(), revision: view.revision(), changes };
    engine.apply(batch).expect("a simulated engine takes any batch");
}
