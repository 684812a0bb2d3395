//! An engine whose pairs are written to a store outside as well, behind the writer: so that each node keeps its part of a
//! replicated keyspace where other programs can read it, or where it outlives the node.
//!
//! The engine has everything, and is what is read: a store that is down, slow, or holds something else is no reason to wait, to
//! lose a pair, or to serve a wrong one. A change and the note that its key waits are in one batch of the engine, so a crash
//! loses neither. The carrier writes each key that waits as the engine has it when its turn comes; of many changes of a key the
//! store gets the last. Nothing here waits for the store, but who writes to a keyspace is to look at [`StoreBehind::stats`], and
//! waits while it is full.
//!
//! The module, from the outside in: `mod` is the engine; `carrier` writes to the store; `queue` is what waits, in memory and in
//! turn; `rows` is what waits, in the engine.
//!
//! # What the store has
//!
//! Once nothing waits, every pair, and no pair that was there once. Meanwhile each key as it was at some moment, in no order
//! among keys. After a crash keys may go back, before they are written again. Pairs that others write there are left alone, and
//! written over. A store is made ready once, when its carrier first has it open, and what has not been is not taken for it: so
//! that the empty folder where a disk was mounted is none.
//!
//! Nothing is written before the engine serves ([`StoreBehind::serve`]): one that is built may never come to that. A write whose
//! outcome is unknown may come about long after: so its key is written once more, when twice the store's timeout has passed, and
//! nothing is written for a second from when the engine serves. One that comes about later still stays until the key changes.

mod carrier;
mod queue;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{
    Batch, BehindStats, Capabilities, Change, Engine, EngineError, Rebuild, ScanItem, Stats, StoreBehind, Table, View,
};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::queue::{Bounds, Queue};
use self::rows::CallersView;
use crate::{Clock, ErrorKind, Store, StoreError};

/// The value in a pair of [`Table::Current`], as its writer encoded it; none if it says that there is none any more. Or why it
/// cannot be read, for people.
pub type ValueOf = fn(Bytes) -> Result<Option<Bytes>, String>;

/// Opens the store, again and again. May block for as long as small files take; called within a tokio runtime.
pub type OpenStore = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Tells a time without jumps, in milliseconds.
pub type SteadyMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Of the calls at once, one in so many at most is for keys that failed before.
const RETRIES_SHARE: usize = 4;

/// Makes something of the settings of a store, in JSON; or says why it cannot, for people.
pub type SetupOf = Arc<dyn Fn(&str) -> Result<Setup, String> + Send + Sync>;

/// How a store is used. May change while it is.
#[derive(Clone)]
pub struct Setup {
    /// Opens the store.
    pub open: OpenStore,
    /// How much waits before who writes must wait, too: in bytes of keys and values, and 256 for each key.
    pub max_bytes: u64,
    /// So many calls run at once.
    pub max_calls: usize,
    /// No call takes longer.
    pub timeout: Duration,
}

/// What stands behind an engine.
pub struct Behind {
    /// The kind of store, as the engine is called from now on.
    pub kind: &'static str,
    /// Its settings, until the engine serves with others.
    pub settings: String,
    /// What they come to.
    pub setup: Setup,
    /// What others come to.
    pub setup_of: SetupOf,
    /// Finds the value in a pair.
    pub value_of: ValueOf,
    /// Names writes.
    pub clock: Clock,
    /// A time without jumps, in milliseconds.
    pub steady_ms: SteadyMs,
}

/// An engine with a store behind it.
///
/// *Durability*: that of the engine.
#[derive(Debug)]
pub struct WriteBehind {
    shared: Arc<Shared>,
    kind: &'static str,
    carrier: JoinHandle<()>,
}

/// What the engine and its carrier have in common.
struct Shared {
    engine: Arc<dyn Engine>,
    kind: &'static str,
    /// The settings of the store, and what they come to.
    setup: Mutex<(String, Arc<Setup>)>,
    setup_of: SetupOf,
    queue: Mutex<Queue>,
    /// Held by who writes to the engine: its caller, or the carrier, who takes out the rows of what is settled.
    writing: Mutex<()>,
    /// Something waits that did not, or the engine serves.
    wake: Arc<Notify>,
    is_serving: AtomicBool,
    /// The engine failed when a row was written of which its caller knows nothing.
    is_broken: AtomicBool,
    /// Everything is being noted again.
    rewriting: Mutex<()>,
    value_of: ValueOf,
    steady_ms: SteadyMs,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behind").field("kind", &self.kind).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

impl WriteBehind {
    /// Over an engine that nobody else writes to; it is the one that it was if it has been opened so before. The carrier runs in
    /// this runtime.
    pub fn new(engine: Arc<dyn Engine>, behind: Behind, io: &Handle) -> Self {
        let kind = behind.kind;
        let shared = Arc::new(Shared {
            engine,
            kind,
            queue: Mutex::new(Queue::new(bounds_of(&behind.setup))),
            setup: Mutex::new((behind.settings, Arc::new(behind.setup))),
            setup_of: behind.setup_of,
            writing: Mutex::default(),
            wake: Arc::default(),
            is_serving: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            rewriting: Mutex::default(),
            value_of: behind.value_of,
            steady_ms: behind.steady_ms,
        });
        let how = carrier::How { kind, value_of: behind.value_of, clock: behind.clock };
        let carrier = io.spawn(carrier::carry(Arc::downgrade(&shared), how));
        Self { shared, kind, carrier }
    }
}

fn bounds_of(setup: &Setup) -> Bounds {
    Bounds {
        max_bytes: setup.max_bytes,
        late_ms: u64::try_from(2 * setup.timeout.as_millis()).unwrap_or(u64::MAX),
        max_retries: (setup.max_calls / RETRIES_SHARE).max(1),
    }
}

impl Shared {
    fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.setup.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        (self.steady_ms)()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let _writing = self.writing();
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(EngineError::Io(std::io::Error::other("it failed while it noted what the store behind it has")));
        }
        let mut noted = Vec::new();
        let mut changes = Vec::with_capacity(batch.changes.len());
        {
            let queue = self.queue();
            for change in batch.changes {
                if let Some((key, value_bytes)) = pair_of(&change) {
                    if queue.needs_row(key) {
                        changes.push(rows::waiting(key));
                    }
                    noted.push((key.clone(), value_bytes));
                }
                changes.push(rows::inside(change));
            }
        }
        self.engine.apply(Batch { changes, ..batch })?;
        if !noted.is_empty() {
            let now_ms = self.now_ms();
            let mut queue = self.queue();
            noted.into_iter().for_each(|(key, value_bytes)| queue.note(&key, value_bytes, now_ms));
            drop(queue);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Writes rows that are none of the caller's. To be called by who holds `writing`.
    fn apply_own(&self, changes: Vec<Change>) -> Result<(), EngineError> {
        let view = self.engine.view();
        let (applied, revision) = (view.applied(), view.revision());
        drop(view);
        let applied = self.engine.apply(Batch { applied, revision, changes });
        // Nothing may be applied after a failure: its caller is to notice, and opens it again.
        self.is_broken.fetch_or(applied.is_err(), Ordering::Relaxed);
        applied
    }

    /// Whether the store has been made ready; if not, that is done before anything is written to it.
    fn is_prepared(&self) -> Result<bool, EngineError> {
        rows::is_prepared(self.engine.view().as_ref())
    }

    fn set_prepared(&self, is_so: bool) -> Result<(), EngineError> {
        let _writing = self.writing();
        self.apply_own(vec![rows::prepared(is_so)])?;
        self.queue().set_ready(is_so);
        self.wake.notify_one();
        Ok(())
    }

    /// Notes pairs that have not changed.
    fn note_again(&self, pairs: &[(Bytes, u64)]) -> Result<(), EngineError> {
        let _writing = self.writing();
        let changes = {
            let queue = self.queue();
            pairs.iter().filter(|(key, _)| queue.needs_row(key)).map(|(key, _)| rows::waiting(key)).collect()
        };
        self.apply_own(changes)?;
        let now_ms = self.now_ms();
        let mut queue = self.queue();
        pairs.iter().for_each(|(key, value_bytes)| queue.note(key, *value_bytes, now_ms));
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }
}

/// The pair that a change is of, and how long its value is.
fn pair_of(change: &Change) -> Option<(&Bytes, u64)> {
    match change {
        Change::Put { table: Table::Current, key, value } | Change::PutUntil { table: Table::Current, key, value, .. } => {
            Some((key, value.len() as u64))
        }
        Change::Delete { table: Table::Current, key } => Some((key, 0)),
        _ => None,
    }
}

impl Engine for WriteBehind {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.engine.capabilities()
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(CallersView(self.shared.engine.view()))
    }

    fn advance(&self, now_ms: u64) {
        self.shared.engine.advance(now_ms);
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.shared.apply(batch)
    }

    fn durable_applied(&self) -> u64 {
        self.shared.engine.durable_applied()
    }

    fn flush(&self) -> Result<u64, EngineError> {
        self.shared.engine.flush()
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        let mut inner = self.shared.engine.rebuild()?;
        // What is not in the new content has to go from the store, and what was to go has to go yet.
        let view = self.shared.engine.view();
        let mut put = |row: Change| match row {
            Change::Put { table, key, value } => inner.put(table, key, value),
            _ => Ok(()),
        };
        let mut note = |key: &[u8]| put(rows::waiting(key));
        for pair in view.pairs(Table::Current) {
            note(&pair?.0)?;
        }
        let mut after = None;
        loop {
            let keys: Vec<_> = rows::waiting_after(view.as_ref(), after.as_ref()).collect::<Result<_, _>>()?;
            keys.iter().try_for_each(|key| note(key))?;
            match keys.last() {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        Ok(Box::new(Anew { inner, shared: Arc::clone(&self.shared) }))
    }

    fn stats(&self) -> Stats {
        self.shared.engine.stats()
    }

    fn behind(&self) -> Option<&dyn StoreBehind> {
        Some(self.shared.as_ref())
    }
}

impl StoreBehind for Shared {
    fn stats(&self) -> BehindStats {
        self.queue().stats(self.now_ms())
    }

    fn serve(&self, settings: &str) {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_news = !self.is_serving.swap(true, Ordering::Relaxed);
        if setup.0 != settings {
            is_news = true;
            match (self.setup_of)(settings) {
                Ok(next) => {
                    self.queue().bound(bounds_of(&next), self.now_ms());
                    *setup = (settings.to_owned(), Arc::new(next));
                }
                Err(why) => self.queue().fail(&StoreError::new(self.kind, ErrorKind::Unexpected, why), self.now_ms()),
            }
        }
        drop(setup);
        if is_news {
            self.wake.notify_one();
        }
    }

    fn rewrite(&self) -> Result<(), EngineError> {
        let Ok(_rewriting) = self.rewriting.try_lock() else {
            // Somebody does just that.
            return Ok(());
        };
        // It may be another disk by now.
        self.set_prepared(false)?;
        let view = self.engine.view();
        // Keys are slices of what is read from the disk, values and all.
        let noted = |pair: ScanItem| pair.map(|(key, pair)| (Bytes::copy_from_slice(&key), pair.len() as u64));
        let mut pairs = view.pairs(Table::Current).map(noted).peekable();
        while pairs.peek().is_some() {
            let next: Vec<_> = pairs.by_ref().take(rows::MAX_ROWS).collect::<Result<_, _>>()?;
            self.note_again(&next)?;
        }
        // No log knows of these rows.
        self.engine.flush().map(drop)
    }

    fn prune(&self, keys: &[Bytes]) -> Result<u64, EngineError> {
        let view = self.engine.view();
        let mut others = Vec::new();
        for key in keys {
            let value = view.peek(Table::Current, key)?.map_or(Ok(None), self.value_of);
            // One that cannot be read is somewhere, and nothing to be removed.
            if matches!(value, Ok(None)) {
                // What is written from here on waits by itself: what waits is written as the engine has it then.
                others.push((key.clone(), 0));
            }
        }
        drop(view);
        if others.is_empty() {
            return Ok(0);
        }
        self.note_again(&others)?;
        // No log knows of these rows.
        self.engine.flush()?;
        Ok(others.len() as u64)
    }
}

/// New content, all of which waits.
#[derive(Debug)]
struct Anew {
    inner: Box<dyn Rebuild>,
    shared: Arc<Shared>,
}

impl Rebuild for Anew {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        if table == Table::Current
            && let Change::Put { table, key, value } = rows::waiting(&key)
        {
            self.inner.put(table, key, value)?;
        }
        match rows::callers(table, &key) {
            Some(row) => self.inner.put(table, row, value),
            None => self.inner.put(table, key, value),
        }
    }

    fn commit(mut self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        let _writing = self.shared.writing();
        if self.shared.is_prepared()?
            && let Change::Put { table, key, value } = rows::prepared(true)
        {
            self.inner.put(table, key, value)?;
        }
        self.inner.commit(applied, revision)?;
        self.shared.queue().begin_anew(self.shared.now_ms());
        self.shared.wake.notify_one();
        Ok(())
    }
}
