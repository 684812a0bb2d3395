//! Stores outside the nodes, as the catalog names them: opened when a keyspace on one is made, opened again while that fails, and
//! closed when the keyspace is gone. What is in a store stays there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quorate_external::{ErrorKind, Meter, Spec, Stamp, Store, StoreError, Surroundings};
use quorate_node::{Catalog, EngineSettings};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::rest::spec_in;

/// How long a store that could not be opened is left alone, and one that denies access, before it is opened again:
/// credentials may have been put right.
const OPEN_PAUSE: Duration = Duration::from_secs(3);

/// The stores of all keyspaces that are kept outside.
#[derive(Debug)]
pub(crate) struct OutsideStores {
    io: Handle,
    surroundings: Surroundings,
    keyspaces: ArcSwap<BTreeMap<String, OutsideKeyspace>>,
}

/// One keyspace with its store. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct OutsideKeyspace {
    pub(crate) epoch: u64,
    pub(crate) kind: String,
    /// Whether a cache is in front.
    pub(crate) is_cached: bool,
    /// Counts what this node asks of the store, as long as it knows the keyspace.
    pub(crate) meter: Arc<Meter>,
    keeper: Arc<Keeper>,
}

/// Opens a store, and goes with the last who knows the keyspace.
#[derive(Debug)]
struct Keeper {
    state: watch::Receiver<State>,
    /// Told when the store denies access.
    is_denied: Arc<Notify>,
    task: JoinHandle<()>,
}

/// How far a store is.
#[derive(Clone, Debug)]
enum State {
    Opening,
    Open(Arc<dyn Store>),
    Failed(StoreError),
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OutsideStores {
    /// No store yet. To be called within the runtime that is to do their input and output.
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self { io: Handle::current(), surroundings, keyspaces: ArcSwap::default() }
    }

    /// Opens what is new in the catalog, and lets go of what is gone. Blocks for nothing.
    pub(crate) fn follow(&self, catalog: &Catalog) {
        let present = self.keyspaces.load();
        let outside = catalog.keyspaces.iter().filter(|(_, record)| record.engine.outside.is_some());
        let next: BTreeMap<String, OutsideKeyspace> = outside
            .map(|(name, record)| match present.get(name).filter(|present| present.epoch == record.epoch) {
                Some(present) => (name.clone(), present.clone()),
                None => (name.clone(), self.keep(name, record.epoch, &record.engine)),
            })
            .collect();
        let is_same =
            next.len() == present.len() && next.iter().all(|(name, own)| present.get(name).map(|it| it.epoch) == Some(own.epoch));
        if !is_same {
            self.keyspaces.store(Arc::new(next));
        }
    }

    /// A keyspace that is kept outside.
    pub(crate) fn find(&self, keyspace: &str) -> Option<OutsideKeyspace> {
        self.keyspaces.load().get(keyspace).cloned()
    }

    /// Whether it is kept outside.
    pub(crate) fn has(&self, keyspace: &str) -> bool {
        self.keyspaces.load().contains_key(keyspace)
    }

    /// A name for a write of this node.
    pub(crate) fn stamp(&self) -> Stamp {
        self.surroundings.clock.stamp()
    }

    /// Opens a store, for who asks whether this node can, or has a question of his own. The store is not asked.
    pub(crate) async fn try_open(&self, spec: Spec) -> Result<Arc<dyn Store>, StoreError> {
        open(move || Ok(spec), self.surroundings.clone(), Arc::default()).await
    }

    /// All keyspaces that are kept outside, by name.
    pub(crate) fn all(&self) -> Arc<BTreeMap<String, OutsideKeyspace>> {
        self.keyspaces.load_full()
    }

    fn keep(&self, name: &str, epoch: u64, engine: &EngineSettings) -> OutsideKeyspace {
        let (sender, state) = watch::channel(State::Opening);
        let (is_denied, meter) = (Arc::new(Notify::new()), Arc::<Meter>::default());
        let (surroundings, told) = (self.surroundings.clone(), Arc::clone(&is_denied));
        let opening = Opening { engine: engine.clone(), surroundings, meter: Arc::clone(&meter) };
        let keeper = Keeper { state, is_denied, task: self.io.spawn(keep(name.to_owned(), opening, sender, told)) };
        let is_cached = engine.options.contains_key("cache");
        OutsideKeyspace { epoch, kind: engine.kind.clone(), is_cached, meter, keeper: Arc::new(keeper) }
    }
}

/// What a store is opened with, again and again.
struct Opening {
    engine: EngineSettings,
    surroundings: Surroundings,
    meter: Arc<Meter>,
}

async fn keep(name: String, with: Opening, state: watch::Sender<State>, is_denied: Arc<Notify>) {
    loop {
        let engine = with.engine.clone();
        let spec = move || spec_in(&engine.json()).map_err(|error| unusable(&error));
        match open(spec, with.surroundings.clone(), Arc::clone(&with.meter)).await {
            Ok(store) => {
                state.send_replace(State::Open(store));
                is_denied.notified().await;
            }
            Err(error) => {
                tracing::warn!(keyspace = name, %error, "a store outside cannot be opened; it is tried again");
                state.send_replace(State::Failed(error));
            }
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

/// Reads small files, and so is done where that may take a while.
async fn open(
    spec: impl FnOnce() -> Result<Spec, StoreError> + Send + 'static,
    surroundings: Surroundings,
    meter: Arc<Meter>,
) -> Result<Arc<dyn Store>, StoreError> {
    let opening = tokio::task::spawn_blocking(move || quorate_external::open_metered(&spec()?, &surroundings, &meter));
    opening.await.unwrap_or_else(|error| Err(unusable(&error)))
}

/// The catalog has settings that this version does not understand.
fn unusable(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::new("engine", ErrorKind::Unexpected, why)
}

impl OutsideKeyspace {
    /// Its store, once it is open; why it is not, if it cannot be.
    pub(crate) async fn store(&self, timeout: Duration) -> Result<Arc<dyn Store>, StoreError> {
        let mut state = self.keeper.state.clone();
        let known = tokio::time::timeout(timeout, state.wait_for(|state| !matches!(state, State::Opening))).await;
        match known.map(|known| known.map(|state| state.clone())) {
            Ok(Ok(State::Open(store))) => Ok(store),
            Ok(Ok(State::Failed(error))) => Err(error),
            Ok(Ok(State::Opening) | Err(_)) | Err(_) => Err(StoreError::new("engine", ErrorKind::Timeout, "it is not open yet")),
        }
    }

    /// Whether its store is open.
    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.keeper.state.borrow(), State::Open(_))
    }

    /// To be told when the store denies access: then credentials are read anew.
    pub(crate) fn watch_denials(&self) -> Arc<Notify> {
        Arc::clone(&self.keeper.is_denied)
    }
}
