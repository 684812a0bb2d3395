//! Reads of the past, from a view alone.

use std::iter::Peekable;

use bytes::Bytes;
use quorate_engine::{Direction, KeyRange, ScanItem, Table, View};

use super::rows::{
    ChangesRow, EXTENT_KEY, KeyChange, Old, changes_from, changes_key, parse_version_key, read_extent, revision_of_changes,
    version_key, versions_of, versions_until,
};
use crate::event::{Cause, Changes, Event};
use crate::read::{ListQuery, Page, get, page_of};
use crate::shard::ShardError;
use crate::{DecodeError, Record, Revision};

/// How far the history of a view reaches. Where none is recorded, nothing but the present can be read: all are its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The compact revision: the oldest that can be read.
    pub compacted: Revision,
    /// The revision at which recording began. The changes of those after it are known, from the compact revision's own on.
    pub begun: Revision,
    /// What only revisions before this one need takes no room any more.
    pub swept: Revision,
}

/// Why the past cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// It is not there any more.
    #[error("it was compacted; the oldest revision that can be read is {0}")]
    Compacted(Revision),
    /// It is not the past.
    #[error("it is to come; the present revision is {0}")]
    Future(Revision),
    /// The engine failed, or holds what cannot be read.
    #[error(transparent)]
    Failed(#[from] ShardError),
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision that made it.
    pub revision: Revision,
    /// The record; or why the key was removed at this revision.
    pub record: Result<Record, Cause>,
}

/// Rows of one key that are read over before its version is looked up, and a new scan is begun behind them: about what beginning
/// one costs.
const MAX_READ_OVER: usize = 16;

type Scan<'a> = Box<dyn Iterator<Item = ScanItem> + Send + 'a>;

/// How far a view's history reaches.
pub fn extent(view: &dyn View) -> Result<Extent, ShardError> {
    let Some(row) = view.peek(Table::History, EXTENT_KEY)? else {
        let present = Revision(view.revision());
        return Ok(Extent { compacted: present, begun: present, swept: present });
    };
    let [compacted, begun, swept] = read_extent(row)?;
    Ok(Extent { compacted, begun, swept })
}

/// The oldest revision that can be read.
pub fn compacted(view: &dyn View) -> Result<Revision, ShardError> {
    Ok(extent(view)?.compacted)
}

/// The record that a key had at a revision.
pub fn get_at(view: &dyn View, key: &[u8], revision: Revision) -> Result<Option<Record>, PastError> {
    check_revision(view, revision)?;
    match get(view, key)? {
        Some(record) if record.meta.mod_revision <= revision => Ok(Some(record)),
        _ => match version_at(view, key, revision)? {
            Some(old) => Ok(old.into_record().map_err(ShardError::from)?),
            None => Ok(None),
        },
    }
}

/// A page of a range as it was at a revision.
pub fn list_at(view: &dyn View, query: &ListQuery, revision: Revision) -> Result<Page, PastError> {
    check_revision(view, revision)?;
    Ok(page_of(|range, direction| scan_at(view, range, direction, revision), query)?)
}

/// All pairs of a range as they were at a revision, one by one. Costs what is taken, and what was changed since of it.
pub fn pairs_at<'a>(
    view: &'a dyn View,
    range: &KeyRange,
    direction: Direction,
    revision: Revision,
) -> Result<impl Iterator<Item = Result<(Bytes, Record), ShardError>> + 'a, PastError> {
    check_revision(view, revision)?;
    let pairs = (!range.is_empty()).then(|| scan_at(view, range, direction, revision));
    let decode = |item: Result<(Bytes, Bytes), ShardError>| {
        let (key, record) = item?;
        Ok((key, Record::decode(record)?))
    };
    Ok(pairs.into_iter().flatten().map(decode))
}

/// All keys of a range as they were at a revision, in order, one by one; at the cost of [`pairs_at`].
pub fn keys_at<'a>(
    view: &'a dyn View,
    range: &KeyRange,
    revision: Revision,
) -> Result<impl Iterator<Item = Result<Bytes, ShardError>> + 'a, PastError> {
    check_revision(view, revision)?;
    let pairs = (!range.is_empty()).then(|| scan_at(view, range, Direction::Forward, revision));
    Ok(pairs.into_iter().flatten().map(|item| Ok(item?.0)))
}

/// The versions of a key that can be read, the newest first; those of revisions before `before` alone, if that is given.
pub fn history_of<'a>(
    view: &'a dyn View,
    key: &'a [u8],
    before: Option<Revision>,
) -> Result<impl Iterator<Item = Result<Version, ShardError>> + 'a, ShardError> {
    let compacted = extent(view)?.compacted;
    let present = get(view, key)?;
    // The version of the compact revision is the last. Those before it may just not be swept yet.
    let mut is_over = false;
    if let Some(before) = before.filter(|before| *before <= compacted) {
        let is_last = |revision: Revision| (before..=compacted).contains(&revision);
        let old = view.scan(Table::History, &versions_until(key, compacted), Direction::Reverse).next().transpose()?;
        let old = old.map(|(row_key, _)| parse_version_key(&row_key)).transpose()?;
        is_over = present.as_ref().is_some_and(|record| is_last(record.meta.mod_revision))
            || old.is_some_and(|(_, revision)| is_last(revision));
    }
    let present = present.filter(|record| before.is_none_or(|before| record.meta.mod_revision < before));
    let until = before.map_or(Revision(u64::MAX), |before| Revision(before.0.saturating_sub(1)));
    let old = view.scan(Table::History, &versions_until(key, until), Direction::Reverse).map(|item| {
        let (row_key, value) = item?;
        let (_, revision) = parse_version_key(&row_key)?;
        let record = match Old::decode(value)? {
            Old::Record(record) => Ok(Record::decode(record)?),
            Old::Removed(cause) => Err(cause),
        };
        Ok(Version { revision, record })
    });
    let present = present.map(|record| Ok(Version { revision: record.meta.mod_revision, record: Ok(record) }));
    Ok(present.into_iter().chain(old).take_while(move |version| {
        let Ok(version) = version else { return true };
        // What was removed by the compact revision is not there, and leaves nothing behind.
        let is_shown = !is_over && (version.record.is_ok() || version.revision > compacted);
        is_over = version.revision <= compacted;
        is_shown
    }))
}

/// The log time of a revision, if its changes are known.
pub fn log_time_of(view: &dyn View, revision: Revision) -> Result<Option<u64>, ShardError> {
    let Extent { compacted, begun, .. } = extent(view)?;
    if revision < compacted || revision <= begun {
        return Ok(None);
    }
    let row = view.peek(Table::History, &changes_key(revision))?;
    Ok(row.map(ChangesRow::log_time_ms).transpose()?)
}

/// What the revisions after this one changed, in order, each as a whole. [`PastError::Compacted`] if that is not known any more
/// of the first of them; nothing if there is none.
///
/// What the compact revision itself changed is known, and not what was there before.
pub fn changes_after(view: &dyn View, after: Revision) -> Result<ChangesAfter<'_>, PastError> {
    let Extent { compacted, begun, .. } = extent(view)?;
    if after.next() < compacted || after < begun {
        // What changed at the revision at which recording began is not known.
        return Err(PastError::Compacted(compacted.max(begun.next())));
    }
    Ok(ChangesAfter { view, compacted, rows: view.scan(Table::History, &changes_from(after.next()), Direction::Forward) })
}

/// The changes of some revisions; see [`changes_after`].
pub struct ChangesAfter<'a> {
    view: &'a dyn View,
    compacted: Revision,
    rows: Scan<'a>,
}

impl ChangesAfter<'_> {
    fn changes(&self, (row_key, row): (Bytes, Bytes)) -> Result<Changes, ShardError> {
        let revision = revision_of_changes(&row_key)?;
        let changes = ChangesRow::decode(row)?.changes;
        let events = changes.into_iter().map(|change| self.event(change, revision)).collect::<Result<_, _>>()?;
        Ok(Changes { revision, events })
    }

    fn event(&self, change: KeyChange, revision: Revision) -> Result<Event, ShardError> {
        let KeyChange { cause, key, before } = change;
        let before = match before {
            Some((before, _)) if revision > self.compacted => Some(self.old_record(&key, before)?),
            _ => None,
        };
        if cause != Cause::Put {
            return Ok(Event { key, cause, after: None, before });
        }
        let present = self.view.peek(Table::Current, &key)?;
        let after = match present {
            Some(record) if Record::mod_revision_of(&record)? == revision => record,
            _ => self.old_record(&key, revision)?,
        };
        Ok(Event { key, cause, after: Some(after), before })
    }

    /// A record that was replaced or removed since.
    fn old_record(&self, key: &[u8], revision: Revision) -> Result<Bytes, ShardError> {
        let row = self.view.peek(Table::History, &version_key(key, revision))?;
        match row.map(Old::decode).transpose()? {
            Some(Old::Record(record)) => Ok(record),
            _ => Err(ShardError::Decode(DecodeError::Malformed("a version is missing"))),
        }
    }
}

impl Iterator for ChangesAfter<'_> {
    type Item = Result<Changes, ShardError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.rows.next()?;
        Some(item.map_err(Into::into).and_then(|row| self.changes(row)))
    }
}

impl std::fmt::Debug for ChangesAfter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangesAfter").field("compacted", &self.compacted).finish_non_exhaustive()
    }
}

/// Why a revision cannot be read, if it cannot.
pub fn check_revision(view: &dyn View, revision: Revision) -> Result<(), PastError> {
    let present = Revision(view.revision());
    if revision > present {
        return Err(PastError::Future(present));
    }
    if revision == present {
        return Ok(());
    }
    match compacted(view)? {
        compacted if revision < compacted => Err(PastError::Compacted(compacted)),
        _ => Ok(()),
    }
}

/// The last version of a key up to a revision that is not in `Current`.
fn version_at(view: &dyn View, key: &[u8], revision: Revision) -> Result<Option<Old>, ShardError> {
    match view.scan(Table::History, &versions_until(key, revision), Direction::Reverse).next() {
        Some(item) => Ok(Some(Old::decode(item?.1)?)),
        None => Ok(None),
    }
}

/// The keys and encoded records of a range as they were at a revision.
fn scan_at<'a>(
    view: &'a dyn View,
    range: &KeyRange,
    direction: Direction,
    revision: Revision,
) -> Box<dyn Iterator<Item = Result<(Bytes, Bytes), ShardError>> + Send + 'a> {
    let current = view.scan(Table::Current, range, direction);
    if revision.0 == view.revision() {
        return Box::new(current.map(|item| item.map_err(Into::into)));
    }
    let rows = view.scan(Table::History, &versions_of(range), direction);
    let versions = Versions { view, range: range.clone(), direction, revision, rows: rows.peekable() };
    Box::new(PairsAt { direction, revision, current: current.peekable(), versions: versions.peekable() })
}

/// Of each key that has old versions, in order, the last one up to a revision.
struct Versions<'a> {
    view: &'a dyn View,
    range: KeyRange,
    direction: Direction,
    revision: Revision,
    rows: Peekable<Scan<'a>>,
}

impl Versions<'_> {
    /// The version of the key whose first row this is.
    fn of_key(&mut self, row_key: &Bytes, value: Bytes) -> Result<(Bytes, Option<Old>), ShardError> {
        let (key, revision) = parse_version_key(row_key)?;
        let prefix = &row_key[..row_key.len() - size_of::<u64>()];
        let mut found = (revision <= self.revision).then_some(value);
        let mut read_over = 0;
        while let Some(item) = self.rows.next_if(|item| item.as_ref().is_ok_and(|(other, _)| other.starts_with(prefix))) {
            let (other, value) = item?;
            if read_over == MAX_READ_OVER {
                self.begin_behind(&key);
                return Ok((key.clone(), version_at(self.view, &key, self.revision)?));
            }
            read_over += 1;
            let is_later = self.direction == Direction::Forward || found.is_none();
            if is_later && parse_version_key(&other)?.1 <= self.revision {
                found = Some(value);
            }
        }
        Ok((key, found.map(Old::decode).transpose()?))
    }

    fn begin_behind(&mut self, key: &Bytes) {
        let rest = crate::read::Place::Key(key.clone()).rest_of(self.range.clone(), self.direction);
        self.rows = self.view.scan(Table::History, &versions_of(&rest), self.direction).peekable();
    }
}

impl Iterator for Versions<'_> {
    type Item = Result<(Bytes, Option<Old>), ShardError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.rows.next()?;
        Some(item.map_err(Into::into).and_then(|(row_key, value)| self.of_key(&row_key, value)))
    }
}

/// What `Current` and `History` come to at a revision.
struct PairsAt<'a> {
    direction: Direction,
    revision: Revision,
    current: Peekable<Scan<'a>>,
    versions: Peekable<Versions<'a>>,
}

impl PairsAt<'_> {
    /// The next key of either, and its record at the revision, if it had one.
    fn advance(&mut self) -> Result<Option<(Bytes, Option<Bytes>)>, ShardError> {
        let is_first = |key: &Bytes, other: &Bytes| match self.direction {
            Direction::Forward => key <= other,
            Direction::Reverse => key >= other,
        };
        let takes = match (self.current.peek(), self.versions.peek()) {
            (None, None) => return Ok(None),
            (Some(Ok((key, _))), Some(Ok((other, _)))) => (is_first(key, other), is_first(other, key)),
            (Some(Err(_)), _) | (Some(_), None) => (true, false),
            (_, Some(_)) => (false, true),
        };
        let current = if takes.0 { self.current.next().transpose()? } else { None };
        let version = if takes.1 { self.versions.next().transpose()? } else { None };
        let record = match (current, version) {
            (Some((key, record)), _) if Record::mod_revision_of(&record)? <= self.revision => (key, Some(record)),
            (_, Some((key, Some(Old::Record(record))))) => (key, Some(record)),
            (_, Some((key, _))) | (Some((key, _)), None) => (key, None),
            (None, None) => return Ok(None),
        };
        Ok(Some(record))
    }
}

impl Iterator for PairsAt<'_> {
    type Item = Result<(Bytes, Bytes), ShardError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.advance() {
                Ok(None) => return None,
                Ok(Some((key, Some(record)))) => return Some(Ok((key, record))),
                Ok(Some((_, None))) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
