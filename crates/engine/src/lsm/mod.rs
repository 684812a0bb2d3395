//! `lsm`: pairs on disk, in a log-structured merge tree: the crate lsm-tree, without a journal. The node's log is the journal.
//!
//! A batch goes into a memtable, all of it under one sequence number; a view reads below the number of the next. When a memtable
//! is full, or at a flush, it is sealed: between two batches, and with the numbers of the last one in it. Sealed memtables are
//! written to files and synced beside the writer, in order; a list of files names them, and is replaced whole. So after a crash
//! the tree is as it was when some memtable was sealed: at the end of that batch. Files are merged in the background.
//!
//! The module, from the outside in: `mod` is the engine, with its rebuilds; `store` is one tree; `writing` is how a batch goes
//! into it, and `lookups` what need not be looked up again for that; `buffer` are memtables with filters; `pin` is how views read
//! it, and `fences` which files; `shape` is how large levels are; `workers` are the threads beside the writer; `node` is what all
//! engines share. FORMAT.md has the formats.
//!
//! # Memory
//!
//! What grows with the data is a few KiB per file of 64 MiB: the top of its index and of its filter. Blocks of data, indexes and
//! filters are in one cache for the whole node, memtables within one bound. An engine whose memtable is a sixteenth full or more
//! has filters besides, for memtables and level 0, of a sixteenth of a full memtable each at most.
//!
//! # Waiting
//!
//! Eight runs in level 0 are merged. `apply` pauses, more and more, from 16 on. It waits when there are 32, or three memtables
//! wait for the disk, until a flush or a merge is done. Views never wait. On a full disk both are tried again until there is
//! room: so long `apply` may wait, in the end. A flush that is asked for leaves the durable point where it is, and a rebuild
//! gives up.

mod buffer;
mod fences;
mod lookups;
mod node;
mod pin;
mod shape;
mod store;
#[cfg(test)]
mod tests;
mod workers;
mod writing;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

pub(crate) use self::node::LsmNode;
use self::store::Store;
use crate::folder::{Folder, InUse};
use crate::registry::Kind;
use crate::{Batch, Capabilities, Change, Engine, EngineError, Rebuild, Stats, Table, View};

/// A rebuild writes batches of about this size.
const REBUILD_BATCH_BYTES: usize = 1 << 20;

/// An ordered engine on disk.
///
/// Cost: a get asks, by filters in memory or cache, hardly more memtables and files than hold the key. `apply` needs to know what
/// it replaces in tables that are counted, to keep the figures exact, and reads keys that were not asked for by [`View::peek`]
/// just before. `flush` writes
/// and syncs what is in memtables, beside `apply`.
#[derive(Debug)]
pub struct Lsm {
    shared: Arc<Shared>,
}

/// What an engine and its rebuilds have in common.
#[derive(Debug)]
struct Shared {
    folder: Folder,
    node: Arc<LsmNode>,
    store: ArcSwap<OpenStore>,
    /// Held to replace the store.
    replacing: Mutex<()>,
}

/// Closes a store when it is dropped.
#[derive(Debug)]
struct OpenStore(Arc<Store>);

impl Drop for OpenStore {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Lsm {
    /// How it is listed.
    pub(crate) const KIND_OF_ENGINE: Kind = Kind {
        name: "lsm",
        summary: "on disk, ordered: large data, many writes",
        capabilities: Capabilities { ordered: true, durable: true, pinned_views: true, evicts: false },
        options: &[],
        open: |opening| Ok(Arc::new(Self::open(opening.in_use, opening.resources.lsm())?)),
    };

    fn open(in_use: &Arc<InUse>, node: &Arc<LsmNode>) -> Result<Self, EngineError> {
        let (folder, in_force) = Folder::open(in_use)?;
        let store = match in_force {
            Some(number) => Store::open(folder.content(number), false, node)?,
            None => {
                let number = folder.next_number();
                let store = Store::open(folder.content(number), true, node)?;
                folder.put_in_force(number)?;
                store
            }
        };
        let store = ArcSwap::from_pointee(OpenStore(store));
        Ok(Self { shared: Arc::new(Shared { folder, node: Arc::clone(node), store, replacing: Mutex::default() }) })
    }
}

impl Engine for Lsm {
    fn kind(&self) -> &'static str {
        Self::KIND_OF_ENGINE.name
    }

    fn capabilities(&self) -> Capabilities {
        Self::KIND_OF_ENGINE.capabilities
    }

    fn view(&self) -> Arc<dyn View> {
        self.shared.store.load().0.content()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.shared.store.load_full().0.write(batch.changes, batch.applied, batch.revision)
    }

    fn durable_applied(&self) -> u64 {
        self.shared.store.load().0.durable_applied()
    }

    fn flush(&self) -> Result<u64, EngineError> {
        self.shared.store.load_full().0.flush()
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        let number = self.shared.folder.next_number();
        let store = Store::open(self.shared.folder.content(number), true, &self.shared.node)?;
        store.set_obsolete(true);
        let (shared, store) = (Arc::clone(&self.shared), Arc::new(OpenStore(store)));
        Ok(Box::new(LsmRebuild { shared, number, store, waiting: Vec::new(), waiting_bytes: 0 }))
    }

    fn stats(&self) -> Stats {
        self.shared.store.load().0.content().numbers.stats
    }
}

/// Content in a tree of its own that nobody sees yet.
#[derive(Debug)]
struct LsmRebuild {
    shared: Arc<Shared>,
    number: u64,
    store: Arc<OpenStore>,
    waiting: Vec<Change>,
    waiting_bytes: usize,
}

impl LsmRebuild {
    fn write_waiting(&mut self, applied: u64, revision: u64) -> Result<(), EngineError> {
        self.waiting_bytes = 0;
        self.store.0.write(std::mem::take(&mut self.waiting), applied, revision)
    }
}

impl Rebuild for LsmRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.waiting_bytes += key.len() + value.len();
        self.waiting.push(Change::Put { table, key, value });
        if self.waiting_bytes >= REBUILD_BATCH_BYTES { self.write_waiting(0, 0) } else { Ok(()) }
    }

    fn commit(mut self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        self.write_waiting(applied, revision)?;
        if self.store.0.flush()? < applied {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        let _replacing = self.shared.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.folder.put_in_force(self.number)?;
        self.store.0.set_obsolete(false);
        let replaced = self.shared.store.swap(Arc::clone(&self.store));
        replaced.0.set_obsolete(true);
        Ok(())
    }
}
