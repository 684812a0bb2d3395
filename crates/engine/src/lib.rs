//! Where a replica keeps its pairs.
//!
//! An [`Engine`] maps (table, key) to value bytes. It knows nothing of Raft, revisions' meaning, the network or HTTP: what
//! it stores are opaque bytes, and the two numbers in a [`Batch`] are its caller's. Every engine passes the suite in
//! `conformance` (feature `testing`).
//!
//! Threads: one writer at a time calls [`Engine::apply`]; any number of readers hold [`View`]s meanwhile, without blocking it.

mod batch;
mod behind;
mod btree;
mod cache;
pub mod codec;
mod folder;
mod hash;
mod home;
mod key_hash;
mod lsm;
mod numbers;
mod ordered;
mod pair;
mod range;
mod registry;
mod release;
mod room;
mod trie;
mod unordered;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use batch::{Batch, Change, Table};
pub use behind::{BehindStats, StoreBehind};
pub use btree::Btree;
pub use cache::{Cache, CacheOptions};
pub use hash::Hash;
pub use home::{Engines, LocalEngines, Place};
pub use lsm::Lsm;
pub use range::KeyRange;
pub use registry::{BehindSpec, EngineSpec, KINDS, Kind, OptionSpec, PairForm, SpecError, Unit, kind};
pub use release::free_in_parts;
pub use trie::Trie;

/// The order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Greatest key first.
    Reverse,
}

/// What an engine can do. The API answers 422 for the rest, naming the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent capabilities, each asked for by name")]
pub struct Capabilities {
    /// Scans cost what they return; otherwise they read and sort everything.
    pub ordered: bool,
    /// Content is still there after a restart, from the durable point.
    pub durable: bool,
    /// A view stays as it was when it was made; otherwise it shows what is there when it is asked.
    pub pinned_views: bool,
    /// Pairs of [`Table::Current`] may go by themselves: to keep to a bound, or because they were not asked for. And
    /// [`Change::PutUntil`] is understood: they go when their time is up.
    pub evicts: bool,
}

/// What an engine holds, for metrics. May lag behind by one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys in [`Table::Current`].
    pub keys: u64,
    /// Bytes of keys and values in all tables that are [`Table::is_counted`], without the engine's overhead.
    pub data_bytes: u64,
}

impl Stats {
    /// Counts a pair of [`Table::Current`].
    fn add_pair(&mut self, data_bytes: usize) {
        self.keys += 1;
        self.data_bytes += data_bytes as u64;
    }

    /// Takes a pair of [`Table::Current`] out.
    fn remove_pair(&mut self, data_bytes: usize) {
        self.keys -= 1;
        self.data_bytes -= data_bytes as u64;
    }
}

/// How a cache fares, since it was opened; a rebuild counts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Gets of [`Table::Current`] that found a pair.
    pub hits: u64,
    /// Gets that found none.
    pub misses: u64,
    /// Of the hits, those of the last minute by [`Engine::advance`].
    pub recent_hits: u64,
    /// Of the misses, those of the last minute.
    pub recent_misses: u64,
    /// Pairs that made room for others.
    pub evicted: u64,
    /// New pairs that were not used often enough to be given room, or that are larger than all the room there is.
    pub rejected: u64,
    /// Pairs whose time was up.
    pub expired: u64,
    /// Pairs that were not used for the idle time.
    pub idled: u64,
    /// Values that another value took the place of.
    pub replaced: u64,
    /// Pairs that their owner removed.
    pub removed: u64,
    /// Pairs there are, with those whose time is up but which are not freed yet.
    pub pairs: u64,
    /// Bytes of these pairs with the engine's overhead: what counts towards the bound.
    pub weight_bytes: u64,
    /// The bound.
    pub max_bytes: u64,
}

impl CacheStats {
    /// The share of the gets that were hits, 0 to 1; none if there were no gets.
    pub fn hit_ratio(&self) -> Option<f64> {
        ratio(self.hits, self.misses)
    }

    /// The same of the last minute.
    pub fn recent_hit_ratio(&self) -> Option<f64> {
        ratio(self.recent_hits, self.recent_misses)
    }
}

fn ratio(part: u64, rest: u64) -> Option<f64> {
    let whole = part + rest;
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Why an engine could not do something. Never an outcome of a command: the caller gives the engine up, and opens it again or
/// rebuilds it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system refused.
    #[error("engine I/O: {0}")]
    Io(#[from] std::io::Error),
    /// What was read is not what was written.
    #[error("engine is damaged: {0}")]
    Corrupt(String),
}

/// One (key, value) of a scan, or why the scan ended.
pub type ScanItem = Result<(Bytes, Bytes), EngineError>;

/// The whole content at one published batch, unaffected by later ones.
///
/// Cheap to make and to hold for a while; an open view may keep memory of replaced values alive.
pub trait View: Send + Sync + fmt::Debug {
    /// The caller's log position of the batch.
    fn applied(&self) -> u64;

    /// The caller's revision of the batch.
    fn revision(&self) -> u64;

    /// The value of one key. An engine that evicts takes it for a use of the pair, and counts it as a hit or a miss.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// As `get`, but no use: for those who look at a pair for reasons of their own, such as being about to change it. An engine
    /// may keep what it found, within bounds, for the batch that follows. Scans are no use either.
    fn peek(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.get(table, key)
    }

    /// The pairs of a range in key order. Lazily: costs what is taken, where the engine is ordered.
    fn scan<'a>(&'a self, table: Table, range: &KeyRange, direction: Direction)
    -> Box<dyn Iterator<Item = ScanItem> + Send + 'a>;

    /// All pairs of a table, each once, in whatever order costs least: for those who copy everything. An engine without order
    /// sorts nothing for it.
    fn pairs<'a>(&'a self, table: Table) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        self.scan(table, &KeyRange::all(), Direction::Forward)
    }
}

/// A store of pairs for one replica.
///
/// Obligations of an implementation:
/// 1. A batch is visible whole or not at all, and `apply` returns after it is published. Where views are not pinned, who found
///    a part of a batch finds no older pair and no older numbers in what is asked afterwards.
/// 2. A view never changes, where [`Capabilities::pinned_views`] says so.
/// 3. After a crash a durable engine comes back at the end of some batch at or after its durable point, with that batch's
///    `applied` and `revision`; one that is not durable comes back empty, at 0 and 0.
/// 4. `apply` after an error is never called again; readers may go on.
/// 5. [`Table::Meta`] is ordered and its scans cost what they return in every engine; an engine that evicts keeps it whole.
/// 6. `flush` may run beside `apply` and readers. It may hold up `apply`, never readers.
pub trait Engine: Send + Sync + fmt::Debug {
    /// The name in a keyspace's settings.
    fn kind(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The latest published state. Never blocks on the writer.
    fn view(&self) -> Arc<dyn View>;

    /// Tells the time, in milliseconds of the caller's clock; it never goes back. Pairs whose time is up are hidden when this
    /// returns. Does nothing in an engine that does not evict.
    fn advance(&self, now_ms: u64) {
        let _ = now_ms;
    }

    /// Applies and publishes a batch. One caller at a time.
    fn apply(&self, batch: Batch) -> Result<(), EngineError>;

    /// The log position that would survive a power loss now; 0 for an engine that is not durable.
    fn durable_applied(&self) -> u64;

    /// Makes all that was applied durable and returns the new durable point; the old one if the disk has no room for it now.
    /// Does nothing in an engine that is not durable.
    fn flush(&self) -> Result<u64, EngineError>;

    /// Begins to build new content beside the present one, which is served until the builder is committed.
    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError>;

    /// What it holds.
    fn stats(&self) -> Stats;

    /// How it fares, if it is a cache.
    fn cache_stats(&self) -> Option<CacheStats> {
        None
    }

    /// Keeps to other options from now on, where its kind says that they are alterable: those that are given by name, and the
    /// defaults of the others. Costs little, and may be told again. Whether [`Engine::fit`] is to be called: it may hold more
    /// than it should until then.
    fn alter(&self, options: &BTreeMap<String, u64>) -> bool {
        let _ = options;
        false
    }

    /// Lets go of what its options leave no room for any more. Blocks for as long as that takes, in proportion to what goes;
    /// readers and `apply` go on beside it, and may wait for moments.
    fn fit(&self) {}

    /// The store outside that its pairs are written to as well, if there is one.
    fn behind(&self) -> Option<&dyn StoreBehind> {
        None
    }
}

/// New content for an engine, from a snapshot. Dropped without [`Rebuild::commit`], it leaves nothing behind.
pub trait Rebuild: Send + fmt::Debug {
    /// Adds a pair. Pairs come in no particular order; a repeated key is the caller's fault, and the last one wins.
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError>;

    /// Replaces the engine's content at once, and durably in a durable engine: after a crash it comes back with the old content
    /// or with the new, whole. Views made before stay as they are. The numbers may go backwards here only.
    fn commit(self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError>;
}
