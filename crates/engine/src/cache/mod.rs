//! `cache`: pairs in memory that may go by themselves.
//!
//! The module, from the outside in: `parts` leads from a key to its part, `part` holds pairs and knows when their time is up,
//! `queues` says which pair goes when there is no room, by what `sketch` remembers and with the window that `rehearsal` found
//! best, `recent` counts the last minute.
//!
//! Time is what [`Engine::advance`] was told last. A pair whose time is up is not there any more from then on, whatever asks for
//! it; its memory is given back by that call and the next ones, a bounded number of pairs each, and before others make room for
//! a new pair.
//!
//! A view shows what is there when it is asked: a batch holds the parts that it touches until it is published, so who saw some of
//! it sees all. [`Table::Meta`] is kept whole, ordered, and outside of the bound.
//!
//! # Why the policy is our own
//!
//! Hits in percent of 4 million requests on seeded traces, with room for 10,000 and for 100,000 pairs. All but the foyer-memory
//! column (which needs tokio, so that the core could not have it anyway) come from `cache_bench`, which takes 20 minutes:
//!
//! | trace | room | ours | moka 0.12 | `quick_cache` 0.6 | foyer S3-FIFO | foyer LFU | LRU |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | Zipf 0.8 | 10,000 | 33.4 | 31.8 | 34.0 | 33.5 | 32.5 | 23.2 |
//! | Zipf 1.0 | 10,000 | 65.9 | 65.6 | 66.5 | 65.9 | 65.3 | 58.4 |
//! | Zipf 1.2 | 10,000 | 89.8 | 90.0 | 90.2 | 90.0 | 89.7 | 87.5 |
//! | loop of 1.2 rooms | 10,000 | 82.3 | 80.6 | 67.2 | 15.9 | 0.0 | 0.0 |
//! | scans between Zipf 1.0 | 10,000 | 43.3 | 42.4 | 44.1 | 43.9 | 42.8 | 34.3 |
//! | shifting hot set | 10,000 | 59.3 | 59.3 | 60.1 | 61.8 | 56.6 | 58.2 |
//! | Zipf, loop and new keys | 10,000 | 33.6 | 35.3 | 26.3 | 19.6 | 18.1 | 25.2 |
//! | new keys, soon again | 10,000 | 49.8 | 6.5 | 19.0 | 27.6 | 23.0 | 50.0 |
//! | Zipf 0.8 | 100,000 | 54.2 | 54.8 | 55.1 | 54.8 | 53.4 | 48.3 |
//! | Zipf 1.0 | 100,000 | 79.6 | 79.9 | 80.1 | 80.1 | 79.4 | 77.3 |
//! | Zipf 1.2 | 100,000 | 94.3 | 94.3 | 94.4 | - | - | 94.2 |
//! | loop of 1.2 rooms | 100,000 | 80.2 | 75.4 | 68.6 | - | - | 0.0 |
//! | scans between Zipf 1.0 | 100,000 | 51.2 | 51.3 | 51.8 | - | - | 45.3 |
//! | shifting hot set | 100,000 | 71.5 | 60.0 | 67.0 | - | - | 72.4 |
//! | Zipf, loop and new keys | 100,000 | 34.3 | 35.2 | 31.5 | - | - | 31.9 |
//! | new keys, soon again | 100,000 | 48.0 | 9.0 | 23.0 | - | - | 50.0 |
//!
//! Each of the packages loses more than 5 points somewhere: those that remember what they dropped in a loop, moka where hot keys
//! change. Other settings of `quick_cache` (its share of hot pairs, its memory of dropped ones) trade one for the other. moka
//! besides reads a clock of its own, and keeps to its bound only when somebody runs its tasks. With room for 100,000 pairs, on
//! Zipf 1.0 and beside other loads on two cores, ours takes 0.7 to 1.0 million requests a second by one thread and 0.5 to 0.8 by
//! two (a put for each miss, one writer at a time), moka 0.2 to 0.3 by either, `quick_cache` 1.3 to 1.8 and 1.1 to 1.7. A pair
//! takes 127 bytes beyond key and value, 467 in moka, about 240 in `quick_cache`.

#[cfg(test)]
mod hit_ratios;
mod part;
mod parts;
mod queues;
mod recent;
mod rehearsal;
mod sketch;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod traces;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

use self::part::{NEVER, Time};
use self::parts::{KeyChange, Parts};
use self::queues::Bound;
use self::recent::Recent;
use crate::ordered::{OrderedScan, OrderedTables};
use crate::registry::{Kind, OptionSpec, Unit};
use crate::unordered::{NearKeys, Scan, Unordered};
use crate::{
    Batch, CacheStats, Capabilities, Change, Direction, Engine, EngineError, KeyRange, Rebuild, ScanItem, Stats, Table, View,
};

/// Of the pairs whose time is up, one call of `advance` frees this many in each part at most; the rest is hidden, and freed by
/// the next calls.
const MAX_FREED_BY_ADVANCE: usize = 64;

const MAX_BYTES: OptionSpec = OptionSpec {
    name: "max_bytes",
    unit: Unit::Bytes,
    default: Some(64 << 20),
    min: 64 << 10,
    max: 1 << 40,
    is_alterable: true,
    help: "room for pairs, the engine's overhead of about 128 bytes each included; least wanted pairs go when it is full",
};

const MAX_ENTRIES: OptionSpec = OptionSpec {
    name: "max_entries",
    unit: Unit::Count,
    default: None,
    min: 1,
    max: u32::MAX as u64,
    is_alterable: true,
    help: "at most this many pairs",
};

const IDLE: OptionSpec = OptionSpec {
    name: "idle",
    unit: Unit::Milliseconds,
    default: None,
    min: 1,
    max: 366 * 24 * 60 * 60 * 1000,
    is_alterable: true,
    help: "pairs that nobody asked for in this time go; lists do not count as asking",
};

/// How a cache is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Room for pairs, the engine's overhead included.
    pub max_bytes: u64,
    /// At most this many pairs, if that is set.
    pub max_entries: Option<u64>,
    /// Pairs that were not asked for in so many milliseconds go, if that is set.
    pub idle_ms: Option<u64>,
}

impl CacheOptions {
    fn of(value: impl Fn(&OptionSpec) -> Option<u64>) -> Self {
        let max_bytes = value(&MAX_BYTES).unwrap_or(MAX_BYTES.min);
        Self { max_bytes, max_entries: value(&MAX_ENTRIES), idle_ms: value(&IDLE) }
    }

    fn bound(&self) -> Bound {
        let max_len = self.max_entries.map_or(u32::MAX as usize, |max_entries| max_entries as usize);
        Bound { max_weight: self.max_bytes, max_len }
    }
}

/// A bounded engine in memory.
#[derive(Debug)]
pub struct Cache {
    shared: Arc<Shared>,
}

/// The engine, which is the one view of itself: a view shows what is there when it is asked.
struct Shared {
    options: ArcSwap<CacheOptions>,
    seed: u64,
    /// As it was last told.
    time: ArcSwap<Time>,
    parts: ArcSwap<Parts>,
    published: ArcSwap<Published>,
    /// Held from reading what is published to replacing it.
    writer: Mutex<()>,
    recent: Mutex<Recent>,
    /// Held by the one who makes pairs fit other options.
    fitting: Mutex<()>,
}

/// What changes with each batch as a whole.
#[derive(Clone, Default)]
struct Published {
    applied: u64,
    revision: u64,
    ordered: OrderedTables,
    /// Of the ordered tables.
    stats: Stats,
}

impl Cache {
    /// How it is listed.
    pub(crate) const KIND_OF_ENGINE: Kind = Kind {
        name: "cache",
        summary: "in memory, bounded: pairs go when their time is up, when nobody asks for them, or when others are wanted more",
        capabilities: Capabilities { ordered: false, durable: false, pinned_views: false, evicts: true },
        options: &[MAX_BYTES, MAX_ENTRIES, IDLE],
        open: |opening| {
            let options = CacheOptions::of(|option| opening.option(option));
            Ok(Arc::new(Self::new(options, opening.hash_seed)))
        },
    };

    /// An empty cache. The seed decides where keys lie; who does not know it cannot choose keys that get into each other's way.
    pub fn new(options: CacheOptions, seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                options: ArcSwap::from_pointee(options),
                seed,
                time: ArcSwap::from_pointee(Time::new(options.idle_ms)),
                parts: ArcSwap::from_pointee(Parts::new(options, seed)),
                published: ArcSwap::default(),
                writer: Mutex::new(()),
                recent: Mutex::default(),
                fitting: Mutex::new(()),
            }),
        }
    }
}

impl Engine for Cache {
    fn kind(&self) -> &'static str {
        Self::KIND_OF_ENGINE.name
    }

    fn capabilities(&self) -> Capabilities {
        Self::KIND_OF_ENGINE.capabilities
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::<Shared>::clone(&self.shared)
    }

    fn advance(&self, now_ms: u64) {
        if self.shared.time().now_ms >= now_ms {
            return;
        }
        self.shared.time.rcu(|time| time.at(now_ms));
        let parts = self.shared.parts.load();
        parts.free_ended(self.shared.time(), MAX_FREED_BY_ADVANCE);
        self.shared.lock_recent().advance(now_ms, || parts.stats());
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let _writer = self.shared.lock_writer();
        let mut published = Published::clone(&self.shared.published.load());
        assert!(batch.applied >= published.applied, "applied goes back from {} to {}", published.applied, batch.applied);
        assert!(batch.revision >= published.revision, "revision goes back from {} to {}", published.revision, batch.revision);
        published.applied = batch.applied;
        published.revision = batch.revision;
        let mut changes = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            match change {
                Change::Put { table: Table::Current, key, value } => changes.push(KeyChange { key, value: Some((value, NEVER)) }),
                Change::PutUntil { table: Table::Current, key, value, until_ms } => {
                    changes.push(KeyChange { key, value: Some((value, until_ms)) });
                }
                Change::Delete { table: Table::Current, key } => changes.push(KeyChange { key, value: None }),
                Change::Put { table, key, value } => published.ordered.put(table, &key, value, &mut published.stats),
                Change::PutUntil { table, .. } => panic!("pairs of {table:?} do not go by themselves"),
                Change::Delete { table, key } => published.ordered.delete(table, &key, &mut published.stats),
            }
        }
        let publish = || self.shared.published.store(Arc::new(published));
        self.shared.parts.load().change(changes, self.shared.time(), publish);
        Ok(())
    }

    fn durable_applied(&self) -> u64 {
        0
    }

    fn flush(&self) -> Result<u64, EngineError> {
        Ok(0)
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        let parts = Parts::new(self.shared.options(), self.shared.seed);
        Ok(Box::new(CacheRebuild { shared: Arc::clone(&self.shared), parts, published: Published::default() }))
    }

    fn stats(&self) -> Stats {
        let (parts, ordered) = (self.shared.parts.load(), self.shared.published.load().stats);
        let stats = parts.stats();
        Stats { keys: stats.pairs, data_bytes: ordered.data_bytes + parts.data_bytes() }
    }

    fn cache_stats(&self) -> Option<CacheStats> {
        let stats = self.shared.parts.load().stats();
        let (recent_hits, recent_misses) = self.shared.lock_recent().since(&stats);
        Some(CacheStats { recent_hits, recent_misses, max_bytes: self.shared.options().max_bytes, ..stats })
    }

    fn alter(&self, options: &BTreeMap<String, u64>) -> bool {
        let options = CacheOptions::of(|option| options.get(option.name).copied().or(option.default));
        let before = self.shared.options.swap(Arc::new(options));
        self.shared.time.rcu(|time| time.with_idle(options.idle_ms));
        // What is idle by then may stand behind what is not by another idle time, and would be freed with that only.
        before.bound() != options.bound() || before.idle_ms != options.idle_ms
    }

    /// Parts stay as many as they are, unless there would be too little room in each of so many. Pairs go and move in small
    /// pieces, with pauses.
    fn fit(&self) {
        let _fitting = self.shared.fitting.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.parts.load().free_all_ended(self.shared.time());
        while !self.shared.fit() {}
    }
}

impl Shared {
    fn options(&self) -> CacheOptions {
        **self.options.load()
    }

    fn time(&self) -> Time {
        **self.time.load()
    }

    /// Makes the parts fit the options. Not if they are others by then.
    fn fit(&self) -> bool {
        let (parts, options) = (self.parts.load_full(), self.options());
        if !parts.are_within(options) {
            let writer = self.lock_writer();
            parts.set_bounds(options);
            drop(writer);
            parts.shrink();
        }
        let writer = self.lock_writer();
        if !Arc::ptr_eq(&parts, &self.parts.load()) || options != self.options() {
            return false;
        }
        parts.merge();
        drop(writer);
        parts.settle();
        true
    }

    /// A writer that panicked does not write again, and each pair is whole: the lock's poison means nothing.
    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View for Shared {
    fn applied(&self) -> u64 {
        self.published.load().applied
    }

    fn revision(&self) -> u64 {
        self.published.load().revision
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(match self.published_tree(table) {
            Some(ordered) => ordered.get(table, key),
            None => self.parts.load().get(key, self.time()),
        })
    }

    fn peek(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(match self.published_tree(table) {
            Some(ordered) => ordered.get(table, key),
            None => self.value(key),
        })
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        match self.published_tree(table) {
            Some(ordered) => Box::new(OrderedScan::new(ordered, table, range.clone(), direction).map(Ok)),
            None => Box::new(Scan::new(self, range.clone(), direction).map(Ok)),
        }
    }

    /// Also a pair that was there all the time may come twice if it is removed and put again meanwhile, or if bounds are altered.
    fn pairs<'a>(&'a self, table: Table) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        match self.published_tree(table) {
            Some(_) => self.scan(table, &KeyRange::all(), Direction::Forward),
            None => Box::new(self.parts.load_full().into_pairs(self.time()).map(Ok)),
        }
    }
}

impl Shared {
    fn published_tree(&self, table: Table) -> Option<OrderedTables> {
        (table != Table::Current).then(|| self.published.load().ordered.clone())
    }
}

/// [`Table::Current`].
impl Unordered for Shared {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.parts.load().peek(key, self.time())
    }

    fn offer_keys(&self, range: &KeyRange, keys: &mut NearKeys) {
        self.parts.load().offer_keys(range, keys, self.time());
    }
}

/// The numbers, not the pairs: there may be millions.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (options, applied, revision) = (self.options(), self.applied(), self.revision());
        f.debug_struct("Cache")
            .field("options", &options)
            .field("applied", &applied)
            .field("revision", &revision)
            .finish_non_exhaustive()
    }
}

/// Content that nobody sees yet.
struct CacheRebuild {
    shared: Arc<Shared>,
    parts: Parts,
    published: Published,
}

impl Rebuild for CacheRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        match table {
            Table::Current => {
                let change = KeyChange { key, value: Some((value, NEVER)) };
                self.parts.change(vec![change], self.shared.time(), || {});
            }
            _ => self.published.ordered.put(table, &key, value, &mut self.published.stats),
        }
        Ok(())
    }

    fn commit(self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        let Self { shared, parts, published } = *self;
        let _writer = shared.lock_writer();
        if !parts.are_within(shared.options()) {
            parts.set_bounds(shared.options());
            parts.shrink();
            parts.merge();
            parts.settle();
        }
        parts.count_on_from(&shared.parts.load());
        let parts = Arc::new(parts);
        let replaced = parts.hold_while(|| {
            let replaced = shared.parts.swap(Arc::clone(&parts));
            shared.published.store(Arc::new(Published { applied, revision, ..published }));
            replaced
        });
        // There may be millions of pairs to free: nobody waits for that but the writer.
        drop(replaced);
        Ok(())
    }
}

impl fmt::Debug for CacheRebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheRebuild").finish_non_exhaustive()
    }
}
