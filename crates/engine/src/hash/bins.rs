//! The hash table: bins by hash, which split one at a time as it grows, and the views that are open.
//!
//! A directory leads from the lowest bits of a hash to its bin; several entries lead to one bin where it has split less often
//! than others (extendible hashing). Growth costs one split of one bin at a time, never a pass over all.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::bin::{Bin, Moment};
use super::span::{MAX_DEPTH, Span};
use crate::key_hash::{KeyHash, KeyHasher};

/// Pairs by key, with the past that open views need.
///
/// One writer at a time; readers hold up each other not at all, and the writer only at the bin that they read, for as long as
/// one read takes.
///
/// Views are numbers that grow. One that was opened with [`Bins::open_view`] reads what was there then, until it is closed.
pub(super) struct Bins {
    hasher: KeyHasher,
    /// A power of two of bins' indexes. Entries change, and the whole is replaced by one twice as long.
    directory: ArcSwap<Vec<AtomicU32>>,
    list: BinList,
    views: Mutex<Views>,
}

#[derive(Default)]
struct Views {
    open: BTreeSet<u64>,
    /// The bins that keep images, each with a change that none of its images is older than.
    keeping: BTreeSet<(u64, u32)>,
}

impl Bins {
    pub(super) fn new(seed: u64) -> Self {
        let list = BinList::default();
        let first = list.push(Bin::new(Span::ALL));
        let directory = ArcSwap::from_pointee(vec![AtomicU32::new(first)]);
        Self { hasher: KeyHasher::new(seed), directory, list, views: Mutex::default() }
    }

    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        self.hasher.hash(key)
    }

    /// The value of a key as the view has it.
    pub(super) fn get(&self, hash: KeyHash, key: &[u8], view: u64) -> Option<Bytes> {
        self.read_bin(hash.route()).get(hash, key, view)
    }

    /// Sets a value, and returns the bytes of the pair that was there. The writer's.
    pub(super) fn put(&self, hash: KeyHash, key: &[u8], value: Bytes, moment: Moment<'_>) -> Option<usize> {
        loop {
            let index = self.index_of(hash.route());
            let mut bin = write(self.list.at(index));
            if bin.is_full() && bin.span.depth < MAX_DEPTH {
                self.split(index, bin);
                continue;
            }
            let replaced_bytes = bin.put(hash, key, value, moment, &self.hasher);
            self.note_images(index, &mut bin, moment.seq);
            return replaced_bytes;
        }
    }

    /// Removes a key, and returns the bytes of the pair that was there. The writer's.
    pub(super) fn delete(&self, hash: KeyHash, key: &[u8], moment: Moment<'_>) -> Option<usize> {
        let index = self.index_of(hash.route());
        let mut bin = write(self.list.at(index));
        let removed_bytes = bin.delete(hash, key, moment, &self.hasher);
        self.note_images(index, &mut bin, moment.seq);
        removed_bytes
    }

    /// Opens a view that sees all changes up to its number. The writer's: numbers grow.
    pub(super) fn open_view(&self, seq: u64) {
        let is_new = self.views().open.insert(seq);
        assert!(is_new, "two views with the number {seq}");
    }

    /// Closes a view, and drops what was kept for it alone.
    pub(super) fn close_view(&self, seq: u64) {
        let mut views = self.views();
        views.open.remove(&seq);
        let oldest = views.open.first().copied().unwrap_or(u64::MAX);
        let still_needed = views.keeping.split_off(&(oldest.saturating_add(1), 0));
        let idle = std::mem::replace(&mut views.keeping, still_needed);
        drop(views);
        for (_, index) in idle {
            let mut bin = write(self.list.at(index));
            bin.noted = bin.forget_before(oldest);
            self.views().keeping.extend(bin.noted.map(|died| (died, index)));
        }
    }

    /// The open views before this one, in order.
    pub(super) fn views_before(&self, seq: u64) -> Vec<u64> {
        self.views().open.range(..seq).copied().collect()
    }

    fn read_bin(&self, route: u64) -> RwLockReadGuard<'_, Bin> {
        loop {
            let index = self.index_of(route);
            let bin = self.list.at(index).read().unwrap_or_else(PoisonError::into_inner);
            // It may have split between the look at the directory and the lock; the directory is right by now.
            if bin.span.covers(route) {
                return bin;
            }
        }
    }

    fn index_of(&self, route: u64) -> u32 {
        let directory = self.directory.load();
        directory[route as usize & (directory.len() - 1)].load(Ordering::Acquire)
    }

    /// Splits a bin in two. Readers that wait for it look into the directory again.
    fn split(&self, index: u32, mut bin: RwLockWriteGuard<'_, Bin>) {
        let upper = bin.split_off(&self.hasher);
        let (span, noted) = (upper.span, upper.noted);
        let upper_index = self.list.push(upper);
        self.views().keeping.extend(noted.map(|died| (died, upper_index)));
        let present = self.directory.load();
        if present.len() < 1 << span.depth {
            let entries = present.iter().chain(present.iter());
            let doubled: Vec<AtomicU32> = entries.map(|entry| AtomicU32::new(entry.load(Ordering::Acquire))).collect();
            self.directory.store(Arc::new(doubled));
        }
        let directory = self.directory.load();
        for entry in directory.iter().skip(span.bits as usize).step_by(1 << span.depth) {
            let before = entry.swap(upper_index, Ordering::AcqRel);
            debug_assert_eq!(before, index, "the directory led elsewhere");
        }
    }

    /// Remembers that a bin keeps images, the first of them of this change.
    fn note_images(&self, index: u32, bin: &mut Bin, seq: u64) {
        if bin.noted.is_none() && bin.has_images() {
            bin.noted = Some(seq);
            self.views().keeping.insert((seq, index));
        }
    }

    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(bin: &RwLock<Bin>) -> RwLockWriteGuard<'_, Bin> {
    bin.write().unwrap_or_else(PoisonError::into_inner)
}

/// A walk over all bins that meets each hash exactly once, whatever splits meanwhile.
pub(super) struct Walk<'a> {
    bins: &'a Bins,
    due: Vec<Span>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bins: &'a Bins) -> Self {
        Self { bins, due: vec![Span::ALL] }
    }

    /// The next bin, locked for reading.
    pub(super) fn next_bin(&mut self) -> Option<RwLockReadGuard<'a, Bin>> {
        loop {
            let span = self.due.pop()?;
            let bin = self.bins.read_bin(span.bits);
            if bin.span == span {
                return Some(bin);
            }
            let [lower, upper] = span.halves();
            self.due.extend([upper, lower]);
        }
    }
}

/// A list that grows while others read it, and from which nothing is taken out: chunks that double.
#[derive(Default)]
struct BinList {
    len: AtomicU32,
    chunks: [OnceLock<Chunk>; MAX_DEPTH as usize],
}

type Chunk = Box<[OnceLock<RwLock<Bin>>]>;

impl BinList {
    /// Adds a bin and returns its index. The writer's.
    fn push(&self, bin: Bin) -> u32 {
        let index = self.len.fetch_add(1, Ordering::Relaxed);
        let (chunk, at) = place(index);
        let chunk = self.chunks[chunk].get_or_init(|| (0..1_usize << chunk).map(|_| OnceLock::new()).collect());
        let is_vacant = chunk[at].set(RwLock::new(bin)).is_ok();
        assert!(is_vacant, "two bins at index {index}");
        index
    }

    fn at(&self, index: u32) -> &RwLock<Bin> {
        let (chunk, at) = place(index);
        self.chunks[chunk].get().and_then(|chunk| chunk[at].get()).expect("the directory leads to bins that are there")
    }
}

/// Chunk 0 holds index 0, chunk 1 the next two, chunk 2 the next four, and so on.
fn place(index: u32) -> (usize, usize) {
    let number = u64::from(index) + 1;
    let chunk = number.ilog2();
    (chunk as usize, (number - (1 << chunk)) as usize)
}
