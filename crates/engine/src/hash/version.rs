//! What is published: the content at the end of one batch, as readers see it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;

use super::bins::{Bins, Walk};
use crate::key_hash::KeyHash;
use crate::ordered::OrderedTables;
use crate::unordered::{NearKeys, Scan, Unordered};
use crate::{Direction, EngineError, KeyRange, ScanItem, Stats, Table, View};

/// The content at the end of one batch.
///
/// While a batch is on its way into the bins, its changes of [`Table::Current`] lie over them: a batch is published by
/// publishing a version, not by changing bins.
pub(super) struct Version {
    pub(super) applied: u64,
    pub(super) revision: u64,
    pub(super) stats: Stats,
    /// The tables that are kept in order.
    pub(super) ordered: OrderedTables,
    /// What is not in the bins yet.
    pub(super) overlay: Overlay,
    /// The number under which the bins know this version as an open view.
    seq: u64,
    bins: Arc<Bins>,
}

impl Version {
    /// A version without pairs, over empty bins.
    pub(super) fn empty(bins: Arc<Bins>) -> Self {
        let (stats, ordered, overlay) = Default::default();
        bins.open_view(0);
        Self { applied: 0, revision: 0, stats, ordered, overlay, seq: 0, bins }
    }

    /// The version that follows: as this one, with nothing over the bins.
    pub(super) fn next(&self) -> Self {
        let seq = self.seq + 1;
        self.bins.open_view(seq);
        let (ordered, overlay, bins) = (self.ordered.clone(), Overlay::default(), Arc::clone(&self.bins));
        Self { applied: self.applied, revision: self.revision, stats: self.stats, ordered, overlay, seq, bins }
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn bins(&self) -> &Bins {
        &self.bins
    }

    /// The pairs of [`Table::Current`] in no order, bin by bin.
    fn current_pairs(&self) -> impl Iterator<Item = (Bytes, Bytes)> {
        let mut walk = Walk::new(&self.bins);
        let bins = std::iter::from_fn(move || walk.next_bin().map(|bin| bin.pairs(self.seq)));
        let is_below = |key: &[u8]| self.overlay.is_empty() || self.overlay.get(self.bins.hash(key), key).is_none();
        let below = bins.flatten().filter(move |(key, _)| is_below(key));
        let above = self.overlay.iter().filter_map(|pending| Some((pending.key.clone(), pending.value.clone()?)));
        below.chain(above)
    }
}

/// [`Table::Current`].
impl Unordered for Version {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        let hash = self.bins.hash(key);
        match self.overlay.get(hash, key) {
            Some(pending) => pending.value.clone(),
            None => self.bins.get(hash, key, self.seq),
        }
    }

    /// The keys of all versions.
    fn offer_keys(&self, range: &KeyRange, keys: &mut NearKeys) {
        let mut walk = Walk::new(&self.bins);
        while let Some(bin) = walk.next_bin() {
            bin.keys().filter(|key| range.contains(key)).for_each(|key| keys.offer(key));
        }
        self.overlay.iter().filter(|pending| range.contains(&pending.key)).for_each(|pending| keys.offer(&pending.key));
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        self.bins.close_view(self.seq);
    }
}

impl View for Version {
    fn applied(&self) -> u64 {
        self.applied
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(match self.ordered.tree(table) {
            Some(tree) => tree.get(key).cloned(),
            None => self.value(key),
        })
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        match self.ordered.tree(table) {
            Some(tree) => Box::new(tree.scan(range, direction).map(Ok)),
            None => Box::new(Scan::new(self, range.clone(), direction).map(Ok)),
        }
    }

    fn pairs<'a>(&'a self, table: Table) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        match self.ordered.tree(table) {
            Some(tree) => Box::new(tree.scan(&KeyRange::all(), Direction::Forward).map(Ok)),
            None => Box::new(self.current_pairs().map(Ok)),
        }
    }
}

/// The numbers, not the pairs: there may be millions.
impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, revision, stats, seq, .. } = self;
        f.debug_struct("Version")
            .field("applied", applied)
            .field("revision", revision)
            .field("stats", stats)
            .field("seq", seq)
            .finish_non_exhaustive()
    }
}

/// The last change of each key of a batch.
#[derive(Default)]
pub(super) struct Overlay {
    changes: HashTable<Pending>,
}

/// A change that is not in the bins yet.
pub(super) struct Pending {
    pub(super) hash: KeyHash,
    pub(super) key: Bytes,
    /// None removes the key.
    pub(super) value: Option<Bytes>,
}

impl Overlay {
    /// Replaces an earlier change of the key.
    pub(super) fn set(&mut self, change: Pending) {
        match self.changes.find_mut(change.hash.0, |pending| pending.key == change.key) {
            Some(earlier) => *earlier = change,
            None => {
                self.changes.insert_unique(change.hash.0, change, |pending| pending.hash.0);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.changes.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn get(&self, hash: KeyHash, key: &[u8]) -> Option<&Pending> {
        self.changes.find(hash.0, |pending| pending.key == key)
    }
}
