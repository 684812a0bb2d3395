//! A view makes another engine, of whatever kind, the same as its own: as a snapshot does, which is how a replica moves to
//! another engine, or is filled from another node that has another. Also while its own is written to: then what was applied
//! since makes both the same again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;

use super::atomicity::RaiseOnDrop;
use super::{Pairs, assert_stats, delete, pairs_of, put};
use crate::{Batch, Change, Engine, Table, View};

const KEY_COUNT: u64 = 600;

/// So many keys a batch changes.
const BATCH_LEN: u64 = 60;

/// So many batches there are before a copy.
const ROUNDS_BEFORE: u64 = 40;

/// After so many more the writer waits until the view is there, so that some are written before and some after.
const ROUNDS_AROUND: u64 = 10;

/// So many batches are applied between the first half of a copy and the second, at least; and so many at most beside one.
const ROUNDS_BESIDE: u64 = 8;
const MAX_ROUNDS: u64 = 200;

/// Copies from engines that `source` makes to such that `target` makes. Either gives a new, empty engine at each call, large
/// enough never to evict.
pub fn check_copies(source: &dyn Fn() -> Arc<dyn Engine>, target: &dyn Fn() -> Arc<dyn Engine>) {
    copies_what_there_is(&*source(), &*target());
    copies_beside_the_writer(&*source(), &*target());
    copies_nothing(&*source(), &*target());
}

fn copies_what_there_is(source: &dyn Engine, target: &dyn Engine) {
    fill_otherwise(target);
    (1..ROUNDS_BEFORE).for_each(|round| write(source, round));
    // Some of it may lie in files, some not.
    source.flush().expect("a healthy engine flushes");
    write(source, ROUNDS_BEFORE);
    let view = source.view();
    copy(&*view, view.applied(), target, || {});
    assert_holds(target, ROUNDS_BEFORE);
    // The target goes on from there, and the source knows nothing of it.
    write(target, ROUNDS_BEFORE + 1);
    assert_holds(target, ROUNDS_BEFORE + 1);
    assert_holds(source, ROUNDS_BEFORE);
    assert_stats(target, &content(ROUNDS_BEFORE + 1));
}

fn copies_beside_the_writer(source: &dyn Engine, target: &dyn Engine) {
    fill_otherwise(target);
    (1..=ROUNDS_BEFORE).for_each(|round| write(source, round));
    let (is_taken, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let copied = thread::scope(|scope| {
        let (_taken, _over) = (RaiseOnDrop(&is_taken), RaiseOnDrop(&is_over));
        scope.spawn(|| write_until(&is_taken, &is_over, source));
        let view = source.view();
        let copied = view.applied();
        is_taken.store(true, Ordering::Release);
        let is_behind = || source.view().applied() < copied + ROUNDS_BESIDE;
        copy(&*view, copied, target, || {
            while is_behind() {
                thread::yield_now();
            }
        });
        copied
    });
    let last = source.view().applied();
    assert!(last >= copied + ROUNDS_BESIDE, "nothing was written beside the copy");
    if source.capabilities().pinned_views {
        assert_holds(target, copied);
    }
    // As from a log.
    (copied + 1..=last).for_each(|round| write(target, round));
    assert_holds(source, last);
    assert_holds(target, last);
    assert_stats(target, &content(last));
}

fn copies_nothing(source: &dyn Engine, target: &dyn Engine) {
    fill_otherwise(target);
    copy(&*source.view(), 0, target, || {});
    assert_holds(target, 0);
    assert_stats(target, &Pairs::new());
}

/// Copies everything, in the order that costs the source least, and does something else when some of it is copied.
fn copy(view: &dyn View, applied: u64, target: &dyn Engine, midway: impl Fn()) {
    let mut rebuild = target.rebuild().expect("a healthy engine");
    for table in Table::ALL {
        for (at, item) in view.pairs(table).enumerate() {
            let (key, value) = item.expect("a healthy engine reads");
            rebuild.put(table, key, value).expect("a healthy rebuild");
            if table == Table::Current && at == 50 {
                midway();
            }
        }
    }
    rebuild.commit(applied, revision(applied)).expect("a healthy rebuild");
}

fn write_until(is_taken: &AtomicBool, is_over: &AtomicBool, engine: &dyn Engine) {
    for round in ROUNDS_BEFORE + 1..ROUNDS_BEFORE + MAX_ROUNDS {
        while round == ROUNDS_BEFORE + ROUNDS_AROUND && !is_taken.load(Ordering::Acquire) {
            thread::yield_now();
        }
        if is_over.load(Ordering::Acquire) {
            return;
        }
        write(engine, round);
        if round.is_multiple_of(16) {
            engine.flush().expect("a healthy engine flushes");
        }
    }
}

fn assert_holds(engine: &dyn Engine, round: u64) {
    let (view, expected) = (engine.view(), content(round));
    assert_eq!((view.applied(), view.revision()), (round, revision(round)));
    assert!(pairs_of(&*view) == expected, "{} does not hold what it should at round {round}", engine.kind());
    for ((table, key), value) in &expected {
        let found = view.get(*table, key).expect("a healthy engine reads");
        assert_eq!(found.as_ref(), Some(value), "{key:?} of {table:?} in {} at round {round}", engine.kind());
    }
}

/// Other pairs, some of them with the same keys.
fn fill_otherwise(engine: &dyn Engine) {
    let changes = (0..KEY_COUNT).step_by(2).map(|at| {
        let (table, key) = key(at);
        put(table, if at % 3 == 0 { key } else { [&key[..], b"?"].concat().into() }, "old")
    });
    engine.apply(Batch { applied: 1, revision: 1, changes: changes.collect() }).expect("a healthy engine applies");
    engine.flush().expect("a healthy engine flushes");
}

fn write(engine: &dyn Engine, round: u64) {
    let batch = Batch { applied: round, revision: revision(round), changes: changes(round) };
    engine.apply(batch).expect("a healthy engine applies");
}

/// Each key is changed in one of ten rounds.
fn changes(round: u64) -> Vec<Change> {
    let change = |nth: u64| {
        let at = (round * 37 + nth * 7) % KEY_COUNT;
        let (table, key) = key(at);
        if (round + at).is_multiple_of(5) { delete(table, key) } else { put(table, key, value(at, round)) }
    };
    (0..BATCH_LEN).map(change).collect()
}

/// What all rounds up to this one have left.
fn content(round: u64) -> Pairs {
    let mut pairs = Pairs::new();
    for change in (1..=round).flat_map(changes) {
        match change {
            Change::Put { table, key, value } => pairs.insert((table, key), value),
            Change::Delete { table, key } => pairs.remove(&(table, key)),
            Change::PutUntil { .. } => unreachable!("no pair goes by itself here"),
        };
    }
    pairs
}

/// Of any length, in all tables.
fn key(at: u64) -> (Table, Bytes) {
    let table = Table::ALL[at as usize % Table::ALL.len()];
    (table, format!("{}{at}", "p".repeat(at as usize % 70)).into())
}

/// Some are empty, some so long that engines keep them elsewhere.
fn value(at: u64, round: u64) -> Bytes {
    match at % 13 {
        0 => Bytes::new(),
        1 => round.to_be_bytes().repeat(500).into(),
        _ => Bytes::copy_from_slice(&round.to_be_bytes()),
    }
}

fn revision(round: u64) -> u64 {
    round * 2
}
