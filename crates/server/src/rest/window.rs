//! Operations of a batch that are under way at the same time: so many, never two on one key, and their results in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use quorate_api::batch::BatchOp;
use quorate_api::problem::{Code, Problem};
use tokio::task::JoinSet;

use super::batch::{Finished, Shared, weight_of};
use super::refusal::Refusal;
use super::store::Store;

/// Operations that are under way or whose results wait for those before them.
const MAX_PLACES: usize = 256;

/// Bytes of keys and values of operations under way, unless it is a single one.
const MAX_BYTES: usize = 4 << 20;

/// What an operation takes of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    pub(super) places: usize,
    pub(super) bytes: usize,
}

/// Operations under way, and results that wait.
pub(super) struct Window<S> {
    shared: Arc<Shared<S>>,
    under_way: JoinSet<Ended>,
    /// The next operation on one of these waits, or it might overtake the one before.
    keys: BTreeSet<Bytes>,
    /// By position.
    finished: BTreeMap<u64, (Weight, Finished)>,
    weight: Weight,
    begun: u64,
    taken: u64,
}

struct Ended {
    position: u64,
    key: Bytes,
    weight: Weight,
    finished: Finished,
}

impl<S: Store> Window<S> {
    pub(super) fn new(shared: Shared<S>) -> Self {
        Self {
            shared: Arc::new(shared),
            under_way: JoinSet::new(),
            keys: BTreeSet::new(),
            finished: BTreeMap::new(),
            weight: Weight::default(),
            begun: 0,
            taken: 0,
        }
    }

    /// Begins an operation, or gives it back if it has to wait for others.
    pub(super) fn begin(&mut self, op: BatchOp) -> Result<(), BatchOp> {
        let weight = weight_of(&op);
        let is_full = self.weight.places + weight.places > MAX_PLACES
            || (self.weight.bytes > 0 && self.weight.bytes + weight.bytes > MAX_BYTES);
        if is_full || self.keys.contains(op.key()) {
            return Err(op);
        }
        let (position, key) = (self.position(weight), op.key().clone());
        self.keys.insert(key.clone());
        let shared = Arc::clone(&self.shared);
        self.under_way.spawn(async move { Ended { position, key, weight, finished: shared.execute(op).await } });
        Ok(())
    }

    /// Takes in what cannot be begun.
    pub(super) fn refuse(&mut self, problem: Problem) {
        let weight = Weight { places: 1, bytes: 0 };
        let position = self.position(weight);
        self.finished.insert(position, (weight, Finished::failed(problem)));
    }

    fn position(&mut self, weight: Weight) -> u64 {
        self.weight = Weight { places: self.weight.places + weight.places, bytes: self.weight.bytes + weight.bytes };
        self.begun += 1;
        self.begun - 1
    }

    /// Waits until one more operation has ended. Nothing is lost if the future is dropped before it is done.
    pub(super) async fn wait(&mut self) -> Result<(), Refusal> {
        let Some(ended) = self.under_way.join_next().await else {
            return Ok(());
        };
        let ended = ended.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        self.keys.remove(&ended.key);
        self.weight.bytes -= ended.weight.bytes;
        self.finished.insert(ended.position, (Weight { bytes: 0, ..ended.weight }, ended.finished));
        Ok(())
    }

    /// Whether an operation is under way.
    pub(super) fn is_waiting(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// The next result in order.
    pub(super) fn take(&mut self) -> Option<Finished> {
        let (weight, finished) = self.finished.remove(&self.taken)?;
        self.taken += 1;
        self.weight.places -= weight.places;
        Some(finished)
    }

    /// Whether every operation has ended, and its result was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.begun
    }

    /// Whether there is room for one more small operation.
    pub(super) fn has_room(&self) -> bool {
        self.weight.places < MAX_PLACES
    }
}
