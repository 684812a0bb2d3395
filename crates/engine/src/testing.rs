//! Engines for simulated machines: what a disk engine promises and no more, without a disk.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::folder::InUse;
use crate::registry::{Opening, Resources};
use crate::{
    Batch, Capabilities, Direction, Engine, EngineError, EngineSpec, Engines, KeyRange, Kind, Place, Rebuild, Stats, Table, Trie,
    View,
};

/// The engines of a simulated machine; it outlives the processes on it, as a disk does.
///
/// Memory engines are the real ones. In place of each durable kind there is a trie that comes back after a crash as it was at
/// its last flush: the least that [`Engine`] allows.
#[derive(Debug, Default)]
pub struct SimulatedEngines {
    places: Mutex<BTreeMap<Place, Arc<Stable>>>,
}

/// What is durable at a place.
#[derive(Debug, Default)]
struct Stable {
    state: Mutex<StableState>,
}

#[derive(Debug, Default)]
struct StableState {
    content: Option<Arc<dyn View>>,
    is_damaged: bool,
    /// The engine that is open does nothing more.
    is_failing: bool,
    /// So often it cannot be opened.
    failing_opens: u32,
    /// Held by the engine that is open.
    open: Weak<()>,
}

impl SimulatedEngines {
    /// Damages what is at a place: its engine does not open again.
    pub fn damage(&self, place: Place) {
        if let Some(stable) = self.places().get(&place) {
            stable.lock().is_damaged = true;
        }
    }

    /// Has the engine that is open at a place fail, and so many attempts to open it again.
    pub fn fail(&self, place: Place, failing_opens: u32) {
        if let Some(stable) = self.places().get(&place) {
            let mut state = stable.lock();
            (state.is_failing, state.failing_opens) = (true, failing_opens);
        }
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Place, Arc<Stable>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stable {
    fn lock(&self) -> MutexGuard<'_, StableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), EngineError> {
        if self.lock().is_failing { Err(io::Error::from(io::ErrorKind::StorageFull).into()) } else { Ok(()) }
    }

    fn applied(&self) -> u64 {
        self.lock().content.as_ref().map_or(0, |content| content.applied())
    }
}

impl Engines for SimulatedEngines {
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError> {
        let kind = spec.check().map_err(|error| EngineError::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        if !kind.capabilities.durable {
            let (in_use, resources) = (&Arc::new(InUse::of(PathBuf::new())), &Resources::default());
            return (kind.open)(&Opening { spec, in_use, resources, hash_seed: 0 });
        }
        let stable = Arc::clone(self.places().entry(place).or_default());
        let mut state = stable.lock();
        if state.open.strong_count() > 0 {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("the engine at {place} is open already")).into());
        }
        if state.failing_opens > 0 {
            state.failing_opens -= 1;
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        if state.is_damaged {
            return Err(EngineError::Corrupt(format!("{place} was damaged")));
        }
        let content = Trie::new();
        if let Some(saved) = &state.content {
            copy(saved.as_ref(), content.rebuild()?)?;
        }
        let open = Arc::new(());
        (state.open, state.is_failing) = (Arc::downgrade(&open), false);
        drop(state);
        Ok(Arc::new(StableEngine { kind, content: Arc::new(content), stable, _open: open }))
    }

    fn remove(&self, place: Place) -> io::Result<()> {
        self.places().remove(&place);
        Ok(())
    }

    fn places(&self) -> io::Result<Vec<Place>> {
        Ok(self.places().keys().copied().collect())
    }
}

fn copy(source: &dyn View, mut target: Box<dyn Rebuild>) -> Result<(), EngineError> {
    for table in Table::ALL {
        for item in source.scan(table, &KeyRange::all(), Direction::Forward) {
            let (key, value) = item?;
            target.put(table, key, value)?;
        }
    }
    target.commit(source.applied(), source.revision())
}

/// A durable engine as the simulator has it.
#[derive(Debug)]
struct StableEngine {
    kind: &'static Kind,
    content: Arc<Trie>,
    stable: Arc<Stable>,
    _open: Arc<()>,
}

impl Engine for StableEngine {
    fn kind(&self) -> &'static str {
        self.kind.name
    }

    fn capabilities(&self) -> Capabilities {
        self.kind.capabilities
    }

    fn view(&self) -> Arc<dyn View> {
        self.content.view()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.stable.check()?;
        self.content.apply(batch)
    }

    fn durable_applied(&self) -> u64 {
        self.stable.applied()
    }

    fn flush(&self) -> Result<u64, EngineError> {
        self.stable.check()?;
        let mut state = self.stable.lock();
        let view = self.content.view();
        let applied = view.applied();
        state.content = Some(view);
        Ok(applied)
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        self.stable.check()?;
        let (content, stable) = (Arc::clone(&self.content), Arc::clone(&self.stable));
        Ok(Box::new(StableRebuild { inner: content.rebuild()?, content, stable }))
    }

    fn stats(&self) -> Stats {
        self.content.stats()
    }
}

#[derive(Debug)]
struct StableRebuild {
    inner: Box<dyn Rebuild>,
    content: Arc<Trie>,
    stable: Arc<Stable>,
}

impl Rebuild for StableRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.inner.put(table, key, value)
    }

    fn commit(self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        let mut state = self.stable.lock();
        self.inner.commit(applied, revision)?;
        state.content = Some(self.content.view());
        Ok(())
    }
}
