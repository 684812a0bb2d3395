//! Readers beside the writer see whole batches, each with its numbers, and never an earlier one again. Where views are not
//! pinned, each look finds the batch of the one before or a later one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;

use super::{Pairs, delete, pairs_of, put};
use crate::{Batch, Change, Engine, Table, View};

const ROUNDS: u64 = 400;
/// At rounds that are multiples of this, everything is replaced by a rebuild instead.
const REBUILD_INTERVAL: u64 = 32;
const READER_COUNT: usize = 3;
const KEY_COUNT: u64 = 48;

pub(super) fn check(make: &dyn Fn() -> Arc<dyn Engine>) {
    let engine = make();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&is_over);
        for _ in 0..READER_COUNT {
            scope.spawn(|| read_until(&is_over, &*engine));
        }
        for round in 1..=ROUNDS {
            write(&*engine, round);
        }
    });
    assert_round(&*engine.view());
    assert_eq!(engine.view().applied(), ROUNDS);
}

/// Ends what waits for it, also when its owner panics.
pub(super) struct RaiseOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn write(engine: &dyn Engine, round: u64) {
    if round.is_multiple_of(REBUILD_INTERVAL) {
        let mut rebuild = engine.rebuild().expect("a healthy engine");
        for ((table, key), value) in content(round) {
            rebuild.put(table, key, value).expect("a healthy rebuild");
        }
        rebuild.commit(round, revision(round)).expect("a healthy rebuild");
        return;
    }
    engine.apply(Batch { applied: round, revision: revision(round), changes: changes(round) }).expect("a healthy engine applies");
}

fn read_until(is_over: &AtomicBool, engine: &dyn Engine) {
    let mut last_applied = 0;
    loop {
        let was_over = is_over.load(Ordering::Acquire);
        let view = engine.view();
        let applied = view.applied();
        assert!(applied >= last_applied, "published {applied} after {last_applied}");
        last_applied = applied;
        if engine.capabilities().pinned_views {
            assert_round(&*view);
        } else {
            assert_rounds_from(&*view, applied, engine.capabilities().evicts);
        }
        if was_over {
            return;
        }
    }
}

/// A view holds exactly what the round that it names wrote.
fn assert_round(view: &dyn View) {
    let round = view.applied();
    assert_eq!(view.revision(), revision(round), "numbers of different batches");
    let expected = content(round);
    assert_eq!(pairs_of(view), expected, "a scan at round {round}");
    for at in 0..KEY_COUNT {
        let (table, key) = key(at);
        let found = view.get(table, &key).expect("a healthy engine reads");
        assert_eq!(found.as_ref(), expected.get(&(table, key)), "key {at} at round {round}");
    }
}

/// Each look finds a round no earlier than the look before, and none that is not published by then. An engine that evicts may
/// have nothing at all.
fn assert_rounds_from(view: &dyn View, mut round: u64, evicts: bool) {
    for at in 0..KEY_COUNT {
        let (table, key) = key(at);
        let found = view.get(table, &key).expect("a healthy engine reads");
        let last = view.applied();
        let is_of = |round: &u64| match &found {
            Some(found) => is_present(at, *round) && *found == value(*round),
            None => !is_present(at, *round) || evicts && table == Table::Current,
        };
        let fitting = (round..=last).find(is_of);
        round = fitting.unwrap_or_else(|| panic!("key {at} is {found:?}, of no round from {round} to {last}"));
    }
}

/// Changes every key: its value names the round, and which keys there are depends on the round.
fn changes(round: u64) -> Vec<Change> {
    let mut changes = vec![put(Table::Current, "only within a batch", "x")];
    changes.extend((0..KEY_COUNT).map(|at| {
        let (table, key) = key(at);
        if is_present(at, round) { put(table, key, value(round)) } else { delete(table, key) }
    }));
    changes.push(delete(Table::Current, "only within a batch"));
    changes
}

fn content(round: u64) -> Pairs {
    (0..KEY_COUNT).filter(|at| is_present(*at, round)).map(|at| (key(at), value(round))).collect()
}

fn key(at: u64) -> (Table, Bytes) {
    let table = Table::ALL[at as usize % Table::ALL.len()];
    (table, format!("round/{}/{at}", at % 5).into())
}

fn value(round: u64) -> Bytes {
    Bytes::copy_from_slice(&round.to_be_bytes())
}

/// Nothing is there before the first round.
fn is_present(at: u64, round: u64) -> bool {
    round > 0 && !(at + round).is_multiple_of(4)
}

fn revision(round: u64) -> u64 {
    round * 3
}
