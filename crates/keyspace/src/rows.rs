//! Rows that stand beside the pairs, in the `Meta` table: what a step changes of them, on top of what the engine holds.
//!
//! | row | value | what it is |
//! |---|---|---|
//! | `ttl/` and a log time, 8 bytes, big-endian, and a key | empty | the pair's time is up then; see `expiry.rs` |
//! | `once/`... | see `once.rs` | outcomes of writes that are done once |
//! | `lease/`..., `held/`... | see `lease.rs` | leases, and the keys that hang on them |
//!
//! Rows like these go with the pairs wherever those go: into snapshots, and from one engine to another. Those of
//! `stored_state.rs` do not; they are made from the encoded state.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::{Change, Direction, KeyRange, Table, View};

use crate::shard::ShardError;

/// Rows that commands of a step changed.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pending: BTreeMap<Bytes, Pending>,
    /// What the write that is under way replaced in `pending`.
    undo: Vec<(Bytes, Option<Pending>)>,
}

/// What is left of a row.
#[derive(Clone, Debug)]
enum Pending {
    Set(Bytes),
    Removed,
}

impl Pending {
    fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Set(value) => Some(value),
            Self::Removed => None,
        }
    }
}

impl Rows {
    pub(crate) fn put(&mut self, row: Bytes, value: Bytes) {
        self.set(row, Pending::Set(value));
    }

    pub(crate) fn remove(&mut self, row: Bytes) {
        self.set(row, Pending::Removed);
    }

    fn set(&mut self, row: Bytes, pending: Pending) {
        let replaced = self.pending.insert(row.clone(), pending);
        self.undo.push((row, replaced));
    }

    /// A row's value.
    pub(crate) fn get(&self, view: &dyn View, row: &[u8]) -> Result<Option<Bytes>, ShardError> {
        match self.pending.get(row) {
            Some(pending) => Ok(pending.value().cloned()),
            None => Ok(view.get(Table::Meta, row)?),
        }
    }

    /// Goes over the rows of a range in order, until told not to go on.
    pub(crate) fn scan(
        &self,
        view: &dyn View,
        range: &KeyRange,
        mut each: impl FnMut(&Bytes, &Bytes) -> Result<bool, ShardError>,
    ) -> Result<(), ShardError> {
        let mut pending = self.pending.range::<Bytes, _>((range.start.as_ref(), range.end.as_ref())).peekable();
        for item in view.scan(Table::Meta, range, Direction::Forward) {
            let (row, value) = item?;
            while let Some((earlier, value)) = pending.next_if(|(other, _)| **other < row) {
                if let Some(value) = value.value()
                    && !each(earlier, value)?
                {
                    return Ok(());
                }
            }
            // What is pending hides what the view has.
            let value = match pending.next_if(|(other, _)| **other == row) {
                Some((_, pending)) => pending.value(),
                None => Some(&value),
            };
            if let Some(value) = value
                && !each(&row, value)?
            {
                return Ok(());
            }
        }
        for (row, value) in pending {
            if let Some(value) = value.value()
                && !each(row, value)?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What is done from here on can be taken back.
    pub(crate) fn mark(&mut self) {
        self.undo.clear();
    }

    /// Takes back all that was done since.
    pub(crate) fn roll_back(&mut self) {
        while let Some((row, replaced)) = self.undo.pop() {
            match replaced {
                Some(pending) => self.pending.insert(row, pending),
                None => self.pending.remove(&row),
            };
        }
    }

    /// What is to be written.
    pub(crate) fn into_changes(self) -> impl Iterator<Item = Change> {
        self.pending.into_iter().map(|(key, pending)| match pending {
            Pending::Set(value) => Change::Put { table: Table::Meta, key, value },
            Pending::Removed => Change::Delete { table: Table::Meta, key },
        })
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::{Batch, Engine, Trie};

    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn what_is_pending_hides_what_is_there() {
        let engine = Trie::new();
        let put = |row| Change::Put { table: Table::Meta, key: bytes(row), value: bytes("old") };
        engine.apply(Batch { applied: 1, revision: 1, changes: ["b", "c", "e"].map(put).into() }).unwrap();
        let view = engine.view();
        let found = |rows: &Rows, max: usize| {
            let mut found = Vec::new();
            rows.scan(
                view.as_ref(),
                &KeyRange { start: std::ops::Bound::Included(bytes("a")), ..KeyRange::all() },
                |row, value| {
                    found.push(format!("{}={}", String::from_utf8_lossy(row), String::from_utf8_lossy(value)));
                    Ok(found.len() < max)
                },
            )
            .unwrap();
            found
        };
        let mut rows = Rows::default();
        for row in ["a", "c", "d", "f"] {
            rows.put(bytes(row), bytes("new"));
        }
        rows.mark();
        rows.remove(bytes("b"));
        rows.remove(bytes("d"));
        rows.put(bytes("g"), bytes("new"));
        assert_eq!(found(&rows, 9), ["a=new", "c=new", "e=old", "f=new", "g=new"]);
        assert_eq!(found(&rows, 2), ["a=new", "c=new"]);
        rows.roll_back();
        assert_eq!(found(&rows, 9), ["a=new", "b=old", "c=new", "d=new", "e=old", "f=new"]);
        let changed: Vec<Change> = rows.into_changes().collect();
        assert_eq!(changed.len(), 4);
    }
}
