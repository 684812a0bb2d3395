//! The tables that every engine in memory keeps in order, whatever it does with [`Table::Current`].

use std::ops::Bound;
use std::vec;

use bytes::Bytes;

use crate::trie::Tree;
use crate::{Direction, KeyRange, Stats, Table};

/// [`Table::Meta`] and [`Table::History`]. Few pairs, so that a copy for each batch costs nothing worth mentioning: it shares
/// all that does not change.
#[derive(Clone, Default)]
pub(crate) struct OrderedTables {
    meta: Tree,
    history: Tree,
}

impl OrderedTables {
    /// The pairs of a table, if it is one of these.
    pub(crate) fn tree(&self, table: Table) -> Option<&Tree> {
        match table {
            Table::Meta => Some(&self.meta),
            Table::History => Some(&self.history),
            Table::Current => None,
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.tree(table)?.get(key).cloned()
    }

    /// Sets a value, and counts it. The table must be one of these.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: Bytes, stats: &mut Stats) {
        let added_bytes = (key.len() + value.len()) as u64;
        let replaced = self.tree_mut(table).insert(key, value);
        if table.is_counted() {
            stats.data_bytes += added_bytes;
            stats.data_bytes -= replaced.map_or(0, |value| key.len() + value.len()) as u64;
        }
    }

    /// Removes a key, and takes it out of the figures. The table must be one of these.
    pub(crate) fn delete(&mut self, table: Table, key: &[u8], stats: &mut Stats) {
        let removed = self.tree_mut(table).remove(key).filter(|_| table.is_counted());
        stats.data_bytes -= removed.map_or(0, |value| key.len() + value.len()) as u64;
    }

    fn tree_mut(&mut self, table: Table) -> &mut Tree {
        match table {
            Table::Meta => &mut self.meta,
            Table::History => &mut self.history,
            Table::Current => panic!("the current table has no order"),
        }
    }
}

/// The pairs of a range, a few at a time: it owns the tables that it reads.
pub(crate) struct OrderedScan {
    tables: OrderedTables,
    table: Table,
    direction: Direction,
    rest: Option<KeyRange>,
    found: vec::IntoIter<(Bytes, Bytes)>,
}

/// How many pairs are looked up at once.
const LOOK_LEN: usize = 64;

impl OrderedScan {
    pub(crate) fn new(tables: OrderedTables, table: Table, range: KeyRange, direction: Direction) -> Self {
        Self { tables, table, direction, rest: Some(range), found: Vec::new().into_iter() }
    }
}

impl Iterator for OrderedScan {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.found.next() {
            return Some(pair);
        }
        let range = self.rest.take()?;
        let found: Vec<_> = self.tables.tree(self.table)?.scan(&range, self.direction).take(LOOK_LEN).collect();
        if let (LOOK_LEN, Some((last, _))) = (found.len(), found.last()) {
            let last = Bound::Excluded(last.clone());
            self.rest = Some(match self.direction {
                Direction::Forward => KeyRange { start: last, ..range },
                Direction::Reverse => KeyRange { end: last, ..range },
            });
        }
        self.found = found.into_iter();
        self.found.next()
    }
}
