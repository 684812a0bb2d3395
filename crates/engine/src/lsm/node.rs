//! What the LSM engines of a node share: a block cache, open files, memory for what is not yet in files, threads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lsm_tree::{Cache, DescriptorTable};

use super::store::Store;
use super::workers::{Work, Workers};
use crate::EngineError;

/// Blocks of files that were read and may be read again, over all engines. Behind it is the system's page cache.
const CACHE_BYTES: u64 = 128 << 20;

/// Files that are kept open, over all engines. Others are opened for each read.
const OPEN_FILES: usize = 256;

/// Memtables of all engines together: beyond it the largest is written to a file. It may be exceeded while that is done, by each
/// engine up to its own limit.
const MEMTABLES_BYTES: u64 = 256 << 20;

/// A memtable is sealed at this part of what is in files, within limits: small keyspaces take little memory, large ones merge
/// less.
const MEMTABLE_SHARE: u64 = 16;

/// How large what an engine makes becomes. Small in tests, so that little data has many files.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units come last and are never left out")]
pub(crate) struct Sizes {
    /// Memtables are sealed at no less, whatever is in files.
    pub(super) min_memtable_bytes: u64,
    /// And at no more.
    pub(super) max_memtable_bytes: u64,
    /// Files that are merged are cut at this size.
    pub(super) file_bytes: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { min_memtable_bytes: 8 << 20, max_memtable_bytes: 64 << 20, file_bytes: 64 << 20 }
    }
}

impl Sizes {
    /// When to seal a memtable of an engine with so much in files.
    pub(super) fn memtable_bytes(&self, in_files_bytes: u64) -> u64 {
        (in_files_bytes / MEMTABLE_SHARE).clamp(self.min_memtable_bytes, self.max_memtable_bytes)
    }
}

/// One for all LSM engines of a node.
pub(crate) struct LsmNode {
    pub(super) sizes: Sizes,
    pub(super) cache: Arc<Cache>,
    pub(super) open_files: Arc<DescriptorTable>,
    pub(super) workers: Workers,
    memtables_bytes: AtomicU64,
    /// A memtable is being written because they are too large together.
    is_relieved: AtomicBool,
    stores: Mutex<BTreeMap<u64, Weak<Store>>>,
}

impl Default for LsmNode {
    fn default() -> Self {
        Self::new(Sizes::default())
    }
}

impl LsmNode {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            cache: Arc::new(Cache::with_capacity_bytes(CACHE_BYTES)),
            open_files: Arc::new(DescriptorTable::new(OPEN_FILES)),
            workers: Workers::default(),
            memtables_bytes: AtomicU64::new(0),
            is_relieved: AtomicBool::new(false),
            stores: Mutex::default(),
        }
    }

    pub(super) fn enter(&self, store: &Arc<Store>) {
        self.lock_stores().insert(store.id(), Arc::downgrade(store));
    }

    /// Forgets a store and waits until no thread works for it.
    pub(super) fn leave(&self, store: &Store) {
        self.lock_stores().remove(&store.id());
        self.workers.forget(store.id());
        self.shrink(store.memtables_bytes());
    }

    /// Memtables grew.
    pub(super) fn grow(&self, added_bytes: u64) {
        self.memtables_bytes.fetch_add(added_bytes, Ordering::Relaxed);
    }

    /// Has the largest memtable written if they are too large together.
    pub(super) fn keep_within_bounds(&self) -> Result<(), EngineError> {
        let is_too_much = self.memtables_bytes.load(Ordering::Relaxed) > MEMTABLES_BYTES;
        if !is_too_much || self.is_relieved.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let stores: Vec<Arc<Store>> = self.lock_stores().values().filter_map(Weak::upgrade).collect();
        match stores.iter().max_by_key(|store| store.active_bytes()) {
            Some(largest) => {
                largest.want_seal();
                Ok(self.workers.ask(Work::Flush, largest)?)
            }
            None => Ok(()),
        }
    }

    /// Memtables are in files now, or gone.
    pub(super) fn shrink(&self, removed_bytes: u64) {
        self.memtables_bytes.fetch_sub(removed_bytes, Ordering::Relaxed);
        self.is_relieved.store(false, Ordering::Release);
    }

    fn lock_stores(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Store>>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LsmNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache, memtables_bytes, .. } = self;
        f.debug_struct("LsmNode")
            .field("cached_bytes", &cache.size())
            .field("memtables_bytes", memtables_bytes)
            .finish_non_exhaustive()
    }
}
