//! `hash`: pairs in memory, in a hash table that grows by small steps.
//!
//! The module, from the outside in: `version` is what a batch publishes and a view holds, `bins` leads from a hash to a bin and
//! knows which views are open, `bin` holds pairs and before-images, `span` says which hashes a bin covers.
//!
//! # How a batch is whole to its readers
//!
//! A batch is published as a version that has the batch's changes lying over the bins: who asks for a view from then on finds
//! them there. Only then do they go into the bins, one key at a time, each under its bin's lock for as long as that key takes;
//! and a version with nothing over the bins is published in its place.
//!
//! Views of earlier versions are known by number. If one is open when a key changes, what was there before is kept beside the
//! table as a before-image, marked with the number of the change. A view that asks for the key takes the first image whose
//! change came after it, and otherwise what is in the table. An image is dropped when no view is open any more that could ask for
//! it; the one who closes the last such view does that. Mostly no view is open for longer than it takes to read a key: then
//! nothing is kept at all.
//!
//! What is kept is bounded by what is there: for each open view, at most one image of each key that has changed since. There
//! is no other bound, and no view ever fails for want of one: who holds views for long, as a snapshot does, pays with memory for
//! what is overwritten meanwhile, as in any engine that has views.

mod bin;
mod bins;
mod span;
#[cfg(test)]
mod tests;
mod version;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

use self::bin::Moment;
use self::bins::Bins;
use self::version::{Overlay, Pending, Version};
use crate::registry::Kind;
use crate::{Batch, Capabilities, Change, Engine, EngineError, Rebuild, Stats, Table, View};

/// An engine in memory without order, for the fastest reads and writes of single keys.
#[derive(Debug)]
pub struct Hash {
    shared: Arc<Shared>,
}

/// What an engine and its rebuilds have in common.
struct Shared {
    seed: u64,
    published: ArcSwap<Version>,
    /// Held from reading the published version to replacing it.
    writer: Mutex<()>,
}

impl Hash {
    /// How it is listed.
    pub(crate) const KIND_OF_ENGINE: Kind = Kind {
        name: "hash",
        summary: "in memory, no order: the fastest reads and writes of single keys; a listing looks at every key",
        capabilities: Capabilities { ordered: false, durable: false, pinned_views: true, evicts: false },
        options: &[],
        open: |opening| Ok(Arc::new(Self::new(opening.hash_seed))),
    };

    /// An empty engine. The seed decides where keys lie; who does not know it cannot choose keys that get into each other's way.
    pub fn new(seed: u64) -> Self {
        let published = ArcSwap::from_pointee(Version::empty(Arc::new(Bins::new(seed))));
        Self { shared: Arc::new(Shared { seed, published, writer: Mutex::new(()) }) }
    }
}

impl Engine for Hash {
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
        let _writer = self.shared.lock_writer();
        let published = Arc::new(version_after(&self.shared.published.load(), batch));
        self.shared.published.store(Arc::clone(&published));
        if !published.overlay.is_empty() {
            // From here on nobody can get a view of what was before, so mostly there is none to be kept as it is.
            self.shared.published.store(Arc::new(settled(&published)));
        }
        Ok(())
    }

    fn durable_applied(&self) -> u64 {
        0
    }

    fn flush(&self) -> Result<u64, EngineError> {
        Ok(0)
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        let version = Version::empty(Arc::new(Bins::new(self.shared.seed)));
        Ok(Box::new(HashRebuild { shared: Arc::clone(&self.shared), version }))
    }

    fn stats(&self) -> Stats {
        self.shared.published.load().stats
    }
}

/// The version that a batch makes, before anything is in the bins.
fn version_after(before: &Version, batch: Batch) -> Version {
    assert!(batch.applied >= before.applied, "applied goes back from {} to {}", before.applied, batch.applied);
    assert!(batch.revision >= before.revision, "revision goes back from {} to {}", before.revision, batch.revision);
    let mut version = before.next();
    version.applied = batch.applied;
    version.revision = batch.revision;
    let mut overlay = Overlay::default();
    for change in batch.changes {
        let (table, key, value) = match change {
            Change::Put { table, key, value } => (table, key, Some(value)),
            Change::PutUntil { .. } => panic!("a hash table keeps what it is given"),
            Change::Delete { table, key } => (table, key, None),
        };
        match value {
            value if table == Table::Current => overlay.set(Pending { hash: version.bins().hash(&key), key, value }),
            Some(value) => version.ordered.put(table, &key, value, &mut version.stats),
            None => version.ordered.delete(table, &key, &mut version.stats),
        }
    }
    version.overlay = overlay;
    version
}

/// Brings what lies over the bins into them, and returns the version with nothing over them.
fn settled(version: &Version) -> Version {
    let mut settled = version.next();
    let older = version.bins().views_before(version.seq());
    let moment = Moment { seq: version.seq(), older: &older };
    for Pending { hash, key, value } in version.overlay.iter() {
        let replaced_bytes = match value {
            Some(value) => {
                settled.stats.add_pair(key.len() + value.len());
                version.bins().put(*hash, key, value.clone(), moment)
            }
            None => version.bins().delete(*hash, key, moment),
        };
        replaced_bytes.into_iter().for_each(|bytes| settled.stats.remove_pair(bytes));
    }
    settled
}

impl Shared {
    /// A writer that panicked does not write again, and what it published is whole: the lock's poison means nothing.
    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.published.load().fmt(f)
    }
}

/// Content that nobody sees yet.
#[derive(Debug)]
struct HashRebuild {
    shared: Arc<Shared>,
    version: Version,
}

impl Rebuild for HashRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        let version = &mut self.version;
        if table != Table::Current {
            version.ordered.put(table, &key, value, &mut version.stats);
            return Ok(());
        }
        version.stats.add_pair(key.len() + value.len());
        let moment = Moment { seq: version.seq(), older: &[] };
        let replaced_bytes = version.bins().put(version.bins().hash(&key), &key, value, moment);
        replaced_bytes.into_iter().for_each(|bytes| version.stats.remove_pair(bytes));
        Ok(())
    }

    fn commit(self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        let Self { shared, mut version } = *self;
        version.applied = applied;
        version.revision = revision;
        let _writer = shared.lock_writer();
        shared.published.store(Arc::new(version));
        Ok(())
    }
}
