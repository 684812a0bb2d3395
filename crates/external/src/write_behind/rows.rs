//! Where the engine remembers which keys wait: among the rows of the past, of which the engine's caller sees his own alone.
//!
//! # Format
//!
//! In [`Table::History`]: a 0 and the caller's key, with the caller's value; or a 1 and the key of a pair, without a value, as
//! long as the store outside may not have it as [`Table::Current`] has it; or a 2, if the store was made ready once. The other
//! tables are as the caller wrote them.

use std::ops::Bound;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Change, Direction, EngineError, KeyRange, ScanItem, Table, View};

const CALLERS: u8 = 0;
const WAITING: u8 = 1;
const PREPARED: u8 = 2;

fn tagged(tag: u8, key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + key.len());
    row.put_u8(tag);
    row.put_slice(key);
    row.freeze()
}

/// Says that a key waits.
pub(super) fn waiting(key: &[u8]) -> Change {
    Change::Put { table: Table::History, key: tagged(WAITING, key), value: Bytes::new() }
}

/// Says that it does not any more.
pub(super) fn settled(key: &[u8]) -> Change {
    Change::Delete { table: Table::History, key: tagged(WAITING, key) }
}

/// Says whether the store was made ready.
pub(super) fn prepared(is_so: bool) -> Change {
    let (table, key) = (Table::History, Bytes::from_static(&[PREPARED]));
    if is_so { Change::Put { table, key, value: Bytes::new() } } else { Change::Delete { table, key } }
}

/// Whether it was.
pub(super) fn is_prepared(view: &dyn View) -> Result<bool, EngineError> {
    Ok(view.peek(Table::History, &[PREPARED])?.is_some())
}

/// The keys that wait, after one, in order.
pub(super) fn waiting_after(view: &dyn View, after: Option<&Bytes>) -> impl Iterator<Item = Result<Bytes, EngineError>> {
    let start = after.map_or(Bound::Included(Bytes::from_static(&[WAITING])), |key| Bound::Excluded(tagged(WAITING, key)));
    let range = KeyRange { start, end: Bound::Excluded(Bytes::from_static(&[WAITING + 1])) };
    let rows: Vec<_> = view.scan(Table::History, &range, Direction::Forward).take(MAX_ROWS).collect();
    rows.into_iter().map(|row| row.map(|(row, _)| row.slice(1..)))
}

/// Rows that are read at once.
pub(super) const MAX_ROWS: usize = 1_000;

/// The key of a caller's row as the engine has it.
pub(super) fn callers(table: Table, key: &[u8]) -> Option<Bytes> {
    (table == Table::History).then(|| tagged(CALLERS, key))
}

/// A change as the engine takes it.
pub(super) fn inside(change: Change) -> Change {
    match change {
        Change::Put { table: table @ Table::History, key, value } => Change::Put { table, key: tagged(CALLERS, &key), value },
        Change::Delete { table: table @ Table::History, key } => Change::Delete { table, key: tagged(CALLERS, &key) },
        change => change,
    }
}

/// A view of the engine without these rows.
#[derive(Debug)]
pub(super) struct CallersView(pub(super) Arc<dyn View>);

impl View for CallersView {
    fn applied(&self) -> u64 {
        self.0.applied()
    }

    fn revision(&self) -> u64 {
        self.0.revision()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match callers(table, key) {
            Some(row) => self.0.get(table, &row),
            None => self.0.get(table, key),
        }
    }

    fn peek(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match callers(table, key) {
            Some(row) => self.0.peek(table, &row),
            None => self.0.peek(table, key),
        }
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        if table != Table::History {
            return self.0.scan(table, range, direction);
        }
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let row = |bound: &Bound<Bytes>, open: Bound<Bytes>| match bound {
            Bound::Included(key) => Bound::Included(tagged(CALLERS, key)),
            Bound::Excluded(key) => Bound::Excluded(tagged(CALLERS, key)),
            Bound::Unbounded => open,
        };
        let start = row(&range.start, Bound::Included(Bytes::from_static(&[CALLERS])));
        let end = row(&range.end, Bound::Excluded(Bytes::from_static(&[CALLERS + 1])));
        let rows = self.0.scan(table, &KeyRange { start, end }, direction);
        Box::new(rows.map(|row| row.map(|(row, value)| (row.slice(1..), value))))
    }

    fn pairs<'a>(&'a self, table: Table) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        match table {
            Table::History => self.scan(table, &KeyRange::all(), Direction::Forward),
            _ => self.0.pairs(table),
        }
    }
}
