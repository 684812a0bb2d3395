//! One bin of a hash table: the pairs whose hashes end alike, and what open views still need of the past.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashTable;

use super::span::Span;
use crate::key_hash::{KeyHash, KeyHasher};
use crate::pair::Pair;
use crate::release::freeing;

/// A bin that holds this many is split before another pair goes in: as many as fit into 4,096 places of a hash table. Few
/// enough that a split, which moves them all, holds up a batch for well under a millisecond.
pub(super) const MAX_BIN_LEN: usize = 3_584;

/// Tables with fewer places than this are never made smaller.
const MIN_SHRINK_CAPACITY: usize = 64;

/// The pairs of a span.
pub(super) struct Bin {
    pub(super) span: Span,
    table: HashTable<Pair>,
    /// Earlier values by key, for the open views that need them.
    past: BTreeMap<Box<[u8]>, Vec<Image>>,
    /// For the one who closes views: a change that no image is older than, if there are images.
    pub(super) noted: Option<u64>,
}

/// A before-image: what a key's value was before change `died`, and since the image before this one.
struct Image {
    died: u64,
    /// None if there was no such key.
    pair: Option<Pair>,
}

/// When a change is made: its number, and the numbers of the open views that must not notice, in order.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) seq: u64,
    pub(super) older: &'a [u64],
}

impl Drop for Bin {
    fn drop(&mut self) {
        for pair in self.table.drain() {
            freeing(1);
            drop(pair);
        }
    }
}

impl Bin {
    pub(super) fn new(span: Span) -> Self {
        Self { span, table: HashTable::new(), past: BTreeMap::new(), noted: None }
    }

    /// Whether it is to be split before anything is added. Also if removals left marks in the table, so that it would have to
    /// grow for what it holds.
    pub(super) fn is_full(&self) -> bool {
        let len = self.table.len();
        let would_grow = len == self.table.capacity() && self.table.num_buckets() > MAX_BIN_LEN;
        len >= MAX_BIN_LEN || would_grow && len > MAX_BIN_LEN / 2
    }

    /// The value as a view of this sequence number has it.
    pub(super) fn get(&self, hash: KeyHash, key: &[u8], seq: u64) -> Option<Bytes> {
        match self.image(key, seq) {
            Some(image) => image.pair.as_ref().map(Pair::value),
            None => self.table.find(hash.0, |pair| pair.key() == key).map(Pair::value),
        }
    }

    /// What a view of this sequence number has in place of what the table says.
    fn image(&self, key: &[u8], seq: u64) -> Option<&Image> {
        if self.past.is_empty() {
            return None;
        }
        self.past.get(key)?.iter().find(|image| image.died > seq)
    }

    /// Sets a value, and returns the bytes of the pair that was there.
    pub(super) fn put(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        value: Bytes,
        moment: Moment<'_>,
        hasher: &KeyHasher,
    ) -> Option<usize> {
        let pair = Pair::new(key, value);
        let replaced = match self.table.find_mut(hash.0, |pair| pair.key() == key) {
            Some(found) => Some(std::mem::replace(found, pair)),
            None => {
                self.table.insert_unique(hash.0, pair, |pair| hasher.hash(pair.key()).0);
                None
            }
        };
        let replaced_bytes = replaced.as_ref().map(Pair::data_bytes);
        self.keep(key, replaced, moment);
        replaced_bytes
    }

    /// Removes a key, and returns the bytes of the pair that was there.
    pub(super) fn delete(&mut self, hash: KeyHash, key: &[u8], moment: Moment<'_>, hasher: &KeyHasher) -> Option<usize> {
        let entry = self.table.find_entry(hash.0, |pair| pair.key() == key).ok()?;
        let (removed, _) = entry.remove();
        let removed_bytes = removed.data_bytes();
        self.keep(key, Some(removed), moment);
        if self.table.capacity() > MIN_SHRINK_CAPACITY && self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |pair| hasher.hash(pair.key()).0);
        }
        Some(removed_bytes)
    }

    /// Keeps what was there before a change, if an open view may ask for it: one at or after the last image of the key.
    /// Images between which no view is open any more go, so a key has at most one for each open view.
    fn keep(&mut self, key: &[u8], pair: Option<Pair>, Moment { seq, older }: Moment<'_>) {
        let Some(newest) = older.last() else { return };
        let image = Image { died: seq, pair };
        let Some(images) = self.past.get_mut(key) else {
            self.past.insert(key.into(), vec![image]);
            return;
        };
        if images.last().is_some_and(|last| last.died > *newest) {
            return;
        }
        images.push(image);
        let mut born = 0;
        images.retain(|image| {
            let after_born = older.partition_point(|view| *view < born);
            born = image.died;
            older.get(after_born).is_some_and(|view| *view < image.died)
        });
    }

    pub(super) fn has_images(&self) -> bool {
        !self.past.is_empty()
    }

    /// Drops the images that no view from `oldest` on can ask for, and returns the change of the oldest that is left.
    pub(super) fn forget_before(&mut self, oldest: u64) -> Option<u64> {
        let mut first = None;
        self.past.retain(|_, images| {
            images.retain(|image| image.died > oldest);
            let oldest_left = images.first().map(|image| image.died);
            first = [first, oldest_left].into_iter().flatten().min();
            oldest_left.is_some()
        });
        first
    }

    /// The pairs that a view of this sequence number has, in no order.
    pub(super) fn pairs(&self, seq: u64) -> Vec<(Bytes, Bytes)> {
        let unchanged = self.table.iter().filter(|pair| self.image(pair.key(), seq).is_none());
        let changed = self.past.keys().filter_map(|key| self.image(key, seq)?.pair.as_ref());
        unchanged.chain(changed).map(|pair| (Bytes::copy_from_slice(pair.key()), pair.value())).collect()
    }

    /// The keys that are there or were, in no order; each at least once.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.table.iter().map(Pair::key).chain(self.past.keys().map(|key| &**key))
    }

    /// Takes the pairs of the span's upper half out, into a bin of their own; what is left has the lower half.
    pub(super) fn split_off(&mut self, hasher: &KeyHasher) -> Self {
        let [lower, upper] = self.span.halves();
        let place = |bin: &mut Self, pair: Pair, hash: KeyHash| {
            bin.table.insert_unique(hash.0, pair, |pair| hasher.hash(pair.key()).0);
        };
        let halves = [lower, upper].map(|span| Self {
            span,
            // Both will be full before they are split again: no need to grow on the way.
            table: HashTable::with_capacity(MAX_BIN_LEN),
            past: BTreeMap::new(),
            noted: None,
        });
        let [mut left, mut right] = halves;
        let mut whole = std::mem::replace(self, Self::new(lower));
        for pair in std::mem::take(&mut whole.table) {
            let hash = hasher.hash(pair.key());
            place(if lower.covers(hash.route()) { &mut left } else { &mut right }, pair, hash);
        }
        for (key, images) in std::mem::take(&mut whole.past) {
            let half = if lower.covers(hasher.hash(&key).route()) { &mut left } else { &mut right };
            half.past.insert(key, images);
        }
        for half in [&mut left, &mut right] {
            half.noted = whole.noted.filter(|_| half.has_images());
        }
        *self = left;
        right
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(super) fn place_count(&self) -> usize {
        self.table.num_buckets()
    }

    #[cfg(test)]
    pub(super) fn image_count(&self) -> usize {
        self.past.values().map(Vec::len).sum()
    }
}
