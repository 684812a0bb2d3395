//! The tables that every engine in memory keeps in order, whatever it does with [`Table::Current`].

use bytes::Bytes;

use crate::trie::Tree;
use crate::{Stats, Table};

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

    /// Sets a value, and counts it. The table must be one of these.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: Bytes, stats: &mut Stats) {
        stats.data_bytes += (key.len() + value.len()) as u64;
        let replaced = self.tree_mut(table).insert(key, value);
        stats.data_bytes -= replaced.map_or(0, |value| key.len() + value.len()) as u64;
    }

    /// Removes a key, and takes it out of the figures. The table must be one of these.
    pub(crate) fn delete(&mut self, table: Table, key: &[u8], stats: &mut Stats) {
        let removed = self.tree_mut(table).remove(key);
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
