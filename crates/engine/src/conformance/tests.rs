//! The suite finds what it is there to find: a good engine, made faulty in one way at a time.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::{atomicity, check, check_copies, model, order, promises, rebuild};
use crate::{Batch, Capabilities, Change, Direction, Engine, EngineError, KeyRange, Rebuild, ScanItem, Stats, Table, Trie, View};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Nothing: the views follow the engine, and it says so.
    HasUnpinnedViews,
    ShowsHalfBatches,
    PublishesHalfBatches,
    PublishesNumbersLate,
    LosesDeletes,
    LosesEmptyKeys,
    ViewsFollowTheEngine,
    IgnoresDirection,
    IncludesExcludedEnds,
    RebuildKeepsOldPairs,
    RebuildWritesAtOnce,
    CountsTablesAlike,
    ClaimsToBeDurable,
    /// Scans begin at the first pair.
    ClaimsToBeOrdered,
    LosesPairsOfCopies,
}

#[test]
fn a_good_engine_passes() {
    check(|| faulty(Fault::None));
}

#[test]
fn random_steps_find_wrong_content() {
    for fault in [
        Fault::LosesDeletes,
        Fault::LosesEmptyKeys,
        Fault::PublishesNumbersLate,
        Fault::ViewsFollowTheEngine,
        Fault::IgnoresDirection,
        Fault::IncludesExcludedEnds,
        Fault::RebuildKeepsOldPairs,
        Fault::RebuildWritesAtOnce,
        Fault::CountsTablesAlike,
    ] {
        assert_found(fault, |make| model::check(256, make));
    }
}

#[test]
fn views_that_follow_the_engine_pass_if_it_says_so() {
    atomicity::check(&|| faulty(Fault::HasUnpinnedViews));
}

#[test]
fn readers_find_half_batches() {
    assert_found(Fault::ShowsHalfBatches, atomicity::check);
    assert_found(Fault::PublishesHalfBatches, atomicity::check);
    assert_found(Fault::PublishesNumbersLate, atomicity::check);
    assert_found(Fault::RebuildWritesAtOnce, atomicity::check);
}

#[test]
fn a_rebuild_that_is_not_atomic_is_found() {
    assert_found(Fault::RebuildKeepsOldPairs, rebuild::check);
    assert_found(Fault::RebuildWritesAtOnce, rebuild::check);
    assert_found(Fault::ViewsFollowTheEngine, rebuild::check);
}

#[test]
fn a_broken_promise_is_found() {
    assert_found(Fault::ClaimsToBeDurable, promises::check);
    assert_found(Fault::CountsTablesAlike, promises::check);
    assert_found(Fault::PublishesNumbersLate, promises::check);
}

#[test]
fn an_order_that_costs_a_look_at_everything_is_found() {
    order::check(&|| faulty(Fault::None));
    assert_found(Fault::ClaimsToBeOrdered, order::check);
}

#[test]
fn a_copy_that_is_another_is_found() {
    let good = || faulty(Fault::None);
    check_copies(&good, &good);
    for fault in [Fault::LosesPairsOfCopies, Fault::ViewsFollowTheEngine] {
        assert_found(fault, |make| check_copies(make, &good));
    }
    for fault in [Fault::RebuildKeepsOldPairs, Fault::LosesDeletes] {
        assert_found(fault, |make| check_copies(&good, make));
    }
}

fn assert_found(fault: Fault, check: impl Fn(&dyn Fn() -> Arc<dyn Engine>)) {
    let outcome = catch_unwind(AssertUnwindSafe(|| check(&|| faulty(fault))));
    assert!(outcome.is_err(), "{fault:?} went unnoticed");
}

/// Where readers get no processor at the wrong moment, nobody sees what is wrong.
fn leave_readers_time() {
    std::thread::sleep(std::time::Duration::from_micros(100));
}

fn faulty(fault: Fault) -> Arc<dyn Engine> {
    Arc::new(Faulty { inner: Arc::new(Trie::new()), fault })
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<Trie>,
    fault: Fault,
}

#[derive(Debug)]
struct FaultyView {
    engine: Arc<Trie>,
    pinned: Arc<dyn View>,
    fault: Fault,
}

#[derive(Debug)]
struct FaultyRebuild {
    engine: Arc<Trie>,
    inner: Box<dyn Rebuild>,
    fault: Fault,
}

impl Engine for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    fn capabilities(&self) -> Capabilities {
        let pinned_views = !matches!(self.fault, Fault::HasUnpinnedViews | Fault::ShowsHalfBatches);
        Capabilities { durable: self.fault == Fault::ClaimsToBeDurable, pinned_views, ..self.inner.capabilities() }
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(FaultyView { engine: Arc::clone(&self.inner), pinned: self.inner.view(), fault: self.fault })
    }

    fn apply(&self, mut batch: Batch) -> Result<(), EngineError> {
        match self.fault {
            Fault::PublishesHalfBatches | Fault::ShowsHalfBatches => {
                let second_half = batch.changes.split_off(batch.changes.len() / 2);
                let (applied, revision) = (batch.applied, batch.revision);
                self.inner.apply(batch)?;
                leave_readers_time();
                batch = Batch { applied, revision, changes: second_half };
            }
            Fault::LosesDeletes => batch.changes.retain(|change| matches!(change, Change::Put { .. })),
            Fault::LosesEmptyKeys => batch.changes.retain(|change| !key_of(change).is_empty()),
            _ => {}
        }
        self.inner.apply(batch)
    }

    fn durable_applied(&self) -> u64 {
        self.inner.durable_applied()
    }

    fn flush(&self) -> Result<u64, EngineError> {
        self.inner.flush()
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        Ok(Box::new(FaultyRebuild { engine: Arc::clone(&self.inner), inner: self.inner.rebuild()?, fault: self.fault }))
    }

    fn stats(&self) -> Stats {
        let view = self.inner.view();
        let count = |table| view.scan(table, &KeyRange::all(), Direction::Forward).count() as u64;
        match self.fault {
            Fault::CountsTablesAlike => Stats { keys: Table::ALL.map(count).iter().sum(), ..self.inner.stats() },
            _ => self.inner.stats(),
        }
    }
}

impl FaultyView {
    fn source(&self) -> Arc<dyn View> {
        match self.fault {
            Fault::ViewsFollowTheEngine | Fault::HasUnpinnedViews | Fault::ShowsHalfBatches => self.engine.view(),
            _ => Arc::clone(&self.pinned),
        }
    }
}

impl View for FaultyView {
    fn applied(&self) -> u64 {
        self.source().applied()
    }

    fn revision(&self) -> u64 {
        self.source().revision().saturating_sub(u64::from(self.fault == Fault::PublishesNumbersLate))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.source().get(table, key)
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        let mut range = range.clone();
        match (self.fault, &range.end) {
            (Fault::IncludesExcludedEnds, Bound::Excluded(end)) => range.end = Bound::Included(end.clone()),
            (Fault::ViewsFollowTheEngine, _) => {
                let items: Vec<_> = self.source().scan(table, &range, direction).collect();
                return Box::new(items.into_iter());
            }
            _ => {}
        }
        if self.fault == Fault::ClaimsToBeOrdered {
            let within = move |item: &ScanItem| item.as_ref().is_ok_and(|(key, _)| range.contains(key));
            return Box::new(self.pinned.scan(table, &KeyRange::all(), direction).filter(within));
        }
        let direction = if self.fault == Fault::IgnoresDirection { Direction::Forward } else { direction };
        self.pinned.scan(table, &range, direction)
    }

    fn pairs<'a>(&'a self, table: Table) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        let lost = usize::from(self.fault == Fault::LosesPairsOfCopies);
        Box::new(self.scan(table, &KeyRange::all(), Direction::Forward).skip(lost))
    }
}

impl Rebuild for FaultyRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        if self.fault != Fault::RebuildWritesAtOnce {
            return self.inner.put(table, key, value);
        }
        let view = self.engine.view();
        let changes = vec![Change::Put { table, key, value }];
        self.engine.apply(Batch { applied: view.applied(), revision: view.revision(), changes })?;
        leave_readers_time();
        Ok(())
    }

    fn commit(mut self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        if matches!(self.fault, Fault::RebuildKeepsOldPairs | Fault::RebuildWritesAtOnce) {
            let view = self.engine.view();
            for table in Table::ALL {
                for item in view.scan(table, &KeyRange::all(), Direction::Forward) {
                    let (key, value) = item?;
                    self.inner.put(table, key, value)?;
                }
            }
        }
        self.inner.commit(applied, revision)
    }
}

fn key_of(change: &Change) -> &[u8] {
    match change {
        Change::Put { key, .. } | Change::PutUntil { key, .. } | Change::Delete { key, .. } => key,
    }
}
