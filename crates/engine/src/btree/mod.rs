//! `btree`: pairs on disk, in a copy-on-write B-tree: redb.
//!
//! A batch is a transaction that is not synced; a flush is one that is. After a crash redb is at the last synced transaction,
//! or at one that it synced on its own account, and its numbers are in the same transaction as its pairs. Views are redb's read
//! transactions: they never wait for the writer, nor it for them.
//!
//! The module, from the outside in: `mod` is the engine, with its flushes and rebuilds; `store` is one redb file and what is
//! written into it; `record` is the bytes of values. FORMAT.md has the formats.
//!
//! # Memory
//!
//! One redb file per place, each with its own small cache (option `cache_bytes`). The budget that all places share is the
//! system's page cache, which redb reads through: what a small cache misses costs a system call and a copy, not a disk read.
//! redb's cache cannot be shared or resized, and one file for all places would let their writers wait for each other.
//!
//! # What is checked
//!
//! Each value carries a checksum over its table, key and value: a wrong value is an error whenever it is read. redb checks its
//! own pages only when it is told to at opening, which reads the whole file. That is done up to the option `checked_bytes`. A
//! larger file is trusted: if an inner page of it was damaged while it was closed, pairs may be hidden, or redb may panic.

mod record;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

use self::store::{Content, Durability, Store};
use crate::folder::Folder;
use crate::numbers::Numbers;
use crate::registry::{Kind, Opening, OptionSpec, Unit};
use crate::room::Room;
use crate::{Batch, Capabilities, Change, Engine, EngineError, Rebuild, Stats, Table, View};

/// Changes since the durable point after which a batch is synced without being asked: pages that were durable are not used
/// again before the next sync, so the file would grow without a bound.
const MAX_UNSYNCED_BYTES: u64 = 256 << 20;

/// A flush syncs beside `apply` so often at most, and until no more than so many bytes of changes came meanwhile.
const MAX_SYNCS_AHEAD: u32 = 6;
const ENOUGH_SYNCED_BYTES: u64 = 512 << 10;

/// redb does nothing more after a page that it could not write. A file that is opened on a full disk gets a cache in which what
/// is not synced can stay: as a rule that is little, for a disk that fills up is noticed, and flushed, before it is full.
const FULL_DISK_CACHE_BYTES: usize = 64 << 20;

/// A rebuild's transactions are of about this size.
const REBUILD_BATCH_BYTES: u64 = 8 << 20;

const CACHE_BYTES: OptionSpec = OptionSpec {
    name: "cache_bytes",
    unit: Unit::Bytes,
    default: Some(16 << 20),
    min: 1 << 20,
    max: 64 << 30,
    is_alterable: false,
    help: "pages kept in memory on each node, beside the system's page cache; half of it takes what is not yet synced",
};

const CHECKED_BYTES: OptionSpec = OptionSpec {
    name: "checked_bytes",
    unit: Unit::Bytes,
    default: Some(1 << 30),
    min: 0,
    max: 1 << 50,
    is_alterable: false,
    help: "a file up to this size is read and checked whole when it is opened (2 seconds per GiB), a larger one is trusted",
};

/// An ordered engine on disk.
///
/// Cost: a get reads a page per level. `apply` copies the pages on its keys' paths. `flush` writes and syncs what changed since
/// the last one, and holds up `apply` for the last part of that.
#[derive(Debug)]
pub struct Btree {
    shared: Arc<Shared>,
}

/// What an engine and its rebuilds have in common.
struct Shared {
    folder: Folder,
    room: Room,
    cache_bytes: usize,
    published: ArcSwap<Content>,
    /// Of the content in force.
    durable_applied: AtomicU64,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    store: Arc<Store>,
    /// Bytes of changes since the durable point.
    unsynced_bytes: u64,
}

impl Btree {
    /// How it is listed.
    pub(crate) const KIND_OF_ENGINE: Kind = Kind {
        name: "btree",
        summary: "on disk, ordered: reads, small and medium data",
        capabilities: Capabilities { ordered: true, durable: true, pinned_views: true, evicts: false },
        options: &[CACHE_BYTES, CHECKED_BYTES],
        open: |opening| Ok(Arc::new(Self::open(opening)?)),
    };

    fn open(opening: &Opening<'_>) -> Result<Self, EngineError> {
        let cache_bytes = opening.option(&CACHE_BYTES).unwrap_or(CACHE_BYTES.min);
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let checked_bytes = opening.option(&CHECKED_BYTES).unwrap_or(CHECKED_BYTES.max);
        let (folder, in_force) = Folder::open(opening.in_use)?;
        let room = Room::under(folder.path());
        let store = match in_force {
            Some(number) => {
                let has_room = room.has(cache_bytes as u64);
                let cache_bytes = if has_room { cache_bytes } else { cache_bytes.max(FULL_DISK_CACHE_BYTES) };
                Store::open(folder.content(number), cache_bytes, checked_bytes)?
            }
            None => {
                let number = folder.next_number();
                let store = Store::create(folder.content(number), cache_bytes)?;
                folder.put_in_force(number)?;
                store
            }
        };
        let content = store.read()?;
        let shared = Shared {
            folder,
            room,
            cache_bytes,
            durable_applied: AtomicU64::new(content.applied()),
            published: ArcSwap::from_pointee(content),
            writer: Mutex::new(Writer { store, unsynced_bytes: 0 }),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Btree {
    /// Syncs what is in the file beside `apply`, again and again until little comes while it is done: it is what `apply` need not
    /// wait for at the durable point.
    fn sync_ahead(&self) -> Result<(), EngineError> {
        let mut before_bytes = None;
        for _ in 0..MAX_SYNCS_AHEAD {
            let (store, unsynced_bytes) = {
                let writer = self.shared.lock_writer();
                (Arc::clone(&writer.store), writer.unsynced_bytes)
            };
            if before_bytes.is_some_and(|before| unsynced_bytes.saturating_sub(before) < ENOUGH_SYNCED_BYTES) {
                break;
            }
            before_bytes = Some(unsynced_bytes);
            store.sync_ahead()?;
        }
        Ok(())
    }
}

impl Engine for Btree {
    fn kind(&self) -> &'static str {
        Self::KIND_OF_ENGINE.name
    }

    fn capabilities(&self) -> Capabilities {
        Self::KIND_OF_ENGINE.capabilities
    }

    fn view(&self) -> Arc<dyn View> {
        self.shared.published.load_full()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let mut writer = self.shared.lock_writer();
        let content = self.shared.published.load();
        let mut numbers = content.numbers();
        drop(content);
        numbers.advance_to(batch.applied, batch.revision);
        let batch_bytes: u64 = batch.changes.iter().map(|change| change.pair_bytes() as u64).sum();
        // Without room it stays in memory: the log takes no more either.
        let is_due = writer.unsynced_bytes + batch_bytes > MAX_UNSYNCED_BYTES && self.shared.has_room(&writer);
        let durability = if is_due { Durability::Synced } else { Durability::Later };
        let content = writer.store.write(&batch.changes, numbers, durability)?;
        if is_due {
            self.shared.durable_applied.store(batch.applied, Ordering::Release);
        }
        writer.unsynced_bytes = if is_due { 0 } else { writer.unsynced_bytes + batch_bytes };
        self.shared.published.store(Arc::new(content));
        Ok(())
    }

    fn durable_applied(&self) -> u64 {
        self.shared.durable_applied.load(Ordering::Acquire)
    }

    fn flush(&self) -> Result<u64, EngineError> {
        let has_room = self.shared.has_room(&self.shared.lock_writer());
        if !has_room {
            return Ok(self.durable_applied());
        }
        self.sync_ahead()?;
        let mut writer = self.shared.lock_writer();
        let applied = self.shared.published.load().applied();
        if writer.unsynced_bytes > 0 || self.durable_applied() != applied {
            writer.store.sync()?;
            writer.unsynced_bytes = 0;
            self.shared.durable_applied.store(applied, Ordering::Release);
        }
        Ok(applied)
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        let number = self.shared.folder.next_number();
        let store = Store::create(self.shared.folder.content(number), self.shared.cache_bytes)?;
        store.set_obsolete(true);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(BtreeRebuild { shared, number, store, stats: Stats::default(), waiting: Vec::new(), waiting_bytes: 0 }))
    }

    fn stats(&self) -> Stats {
        self.shared.published.load().numbers().stats
    }
}

impl Shared {
    /// Whether what redb has not written yet can be. After a sync that failed it does nothing more, not even for readers.
    fn has_room(&self, writer: &Writer) -> bool {
        self.room.has(writer.store.most_synced_bytes(writer.unsynced_bytes))
    }

    /// A writer that panicked committed nothing, so the content is whole and the lock's poison means nothing.
    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.published.load().fmt(f)
    }
}

/// Content in a file of its own that nobody sees yet.
#[derive(Debug)]
struct BtreeRebuild {
    shared: Arc<Shared>,
    number: u64,
    store: Arc<Store>,
    stats: Stats,
    waiting: Vec<Change>,
    waiting_bytes: u64,
}

impl BtreeRebuild {
    /// Writes what waits. Numbers stay 0 until the commit.
    fn write_waiting(&mut self, applied: u64, revision: u64, durability: Durability) -> Result<Content, EngineError> {
        let numbers = Numbers { applied, revision, stats: self.stats };
        let content = self.store.write(&self.waiting, numbers, durability)?;
        self.stats = content.numbers().stats;
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(content)
    }
}

impl Rebuild for BtreeRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        let change = Change::Put { table, key, value };
        self.waiting_bytes += change.pair_bytes() as u64;
        self.waiting.push(change);
        if self.waiting_bytes >= REBUILD_BATCH_BYTES {
            self.write_waiting(0, 0, Durability::Later)?;
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        let content = self.write_waiting(applied, revision, Durability::Synced)?;
        let mut writer = self.shared.lock_writer();
        self.shared.folder.put_in_force(self.number)?;
        self.store.set_obsolete(false);
        writer.store.set_obsolete(true);
        *writer = Writer { store: Arc::clone(&self.store), unsynced_bytes: 0 };
        self.shared.durable_applied.store(applied, Ordering::Release);
        self.shared.published.store(Arc::new(content));
        Ok(())
    }
}
