//! Any engine does what a sorted map does, whatever is done to it, and its views stay as they were.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::{Pairs, assert_stats, delete, pairs_of, put};
use crate::{Batch, Change, Direction, Engine, KeyRange, Table, View};

/// Runs random steps against engine and model.
pub(super) fn check(cases: u32, make: &dyn Fn() -> Arc<dyn Engine>) {
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 1_024, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&vec(step(), 1..24), |steps| run(&*make(), steps));
    if let Err(failure) = outcome {
        panic!("engine and model differ: {failure}");
    }
}

/// What one can do.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Change>),
    Flush,
    /// Replaces everything.
    Rebuild(Vec<(Table, Bytes, Bytes)>),
    /// Begins to replace everything, and gives up.
    AbandonRebuild(Vec<(Table, Bytes, Bytes)>),
    /// Keeps the view of now.
    Pin,
    Get(Table, Bytes),
    Scan(Table, KeyRange, Direction),
}

/// A view, and what it must hold for good.
struct Pinned {
    view: Arc<dyn View>,
    numbers: (u64, u64),
    pairs: Pairs,
}

fn run(engine: &dyn Engine, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut pairs = Pairs::new();
    let mut numbers = (0, 0);
    let mut pinned = Vec::new();
    for step in steps {
        match step {
            Step::Apply(changes) => {
                numbers = (numbers.0 + 1, numbers.1 + changes.len() as u64);
                check_peeks(&*engine.view(), &pairs, &changes)?;
                change_model(&mut pairs, &changes);
                engine.apply(Batch { applied: numbers.0, revision: numbers.1, changes }).map_err(fail)?;
            }
            Step::Flush => {
                let durable_point = if engine.capabilities().durable { numbers.0 } else { 0 };
                prop_assert_eq!(engine.flush().map_err(fail)?, durable_point);
                prop_assert_eq!(engine.durable_applied(), durable_point);
            }
            Step::Rebuild(source) => {
                let mut rebuild = engine.rebuild().map_err(fail)?;
                pairs = source.iter().map(|(table, key, value)| ((*table, key.clone()), value.clone())).collect();
                source.into_iter().try_for_each(|(table, key, value)| rebuild.put(table, key, value)).map_err(fail)?;
                numbers = (numbers.0 / 2, numbers.1 / 2);
                rebuild.commit(numbers.0, numbers.1).map_err(fail)?;
            }
            Step::AbandonRebuild(source) => {
                let mut rebuild = engine.rebuild().map_err(fail)?;
                source.into_iter().try_for_each(|(table, key, value)| rebuild.put(table, key, value)).map_err(fail)?;
            }
            Step::Pin if !engine.capabilities().pinned_views => {}
            Step::Pin => pinned.push(Pinned { view: engine.view(), numbers, pairs: pairs.clone() }),
            Step::Get(table, key) => {
                let found = engine.view().get(table, &key).map_err(fail)?;
                prop_assert_eq!(found.as_ref(), pairs.get(&(table, key)));
            }
            Step::Scan(table, range, direction) => {
                for old in &pinned {
                    check_scan(&*old.view, &old.pairs, table, &range, direction)?;
                }
                check_scan(&*engine.view(), &pairs, table, &range, direction)?;
            }
        }
        check_view(&*engine.view(), numbers, &pairs)?;
    }
    for old in &pinned {
        check_view(&*old.view, old.numbers, &old.pairs)?;
    }
    assert_stats(engine, &pairs);
    Ok(())
}

fn change_model(pairs: &mut Pairs, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put { table, key, value } | Change::PutUntil { table, key, value, .. } => {
                pairs.insert((*table, key.clone()), value.clone())
            }
            Change::Delete { table, key } => pairs.remove(&(*table, key.clone())),
        };
    }
}

/// The view holds these pairs, whether asked for all or one by one.
fn check_view(view: &dyn View, numbers: (u64, u64), pairs: &Pairs) -> Result<(), TestCaseError> {
    prop_assert_eq!((view.applied(), view.revision()), numbers);
    prop_assert_eq!(&pairs_of(view), pairs);
    for ((table, key), value) in pairs {
        let found = view.get(*table, key).map_err(fail)?;
        prop_assert_eq!(found.as_ref(), Some(value), "get of {:?} in {:?}", key, table);
    }
    Ok(())
}

/// As keyspaces do, looks at keys before they change; not at all of them.
fn check_peeks(view: &dyn View, pairs: &Pairs, changes: &[Change]) -> Result<(), TestCaseError> {
    for change in changes.iter().step_by(2) {
        let (Change::Put { table, key, .. } | Change::PutUntil { table, key, .. } | Change::Delete { table, key }) = change;
        let found = view.peek(*table, key).map_err(fail)?;
        prop_assert_eq!(found.as_ref(), pairs.get(&(*table, key.clone())), "peek at {:?} in {:?}", key, table);
    }
    Ok(())
}

fn check_scan(view: &dyn View, pairs: &Pairs, table: Table, range: &KeyRange, direction: Direction) -> Result<(), TestCaseError> {
    let found: Vec<(Bytes, Bytes)> = view.scan(table, range, direction).collect::<Result<_, _>>().map_err(fail)?;
    let inside = pairs.iter().filter(|((of, key), _)| *of == table && range.contains(key));
    let mut expected: Vec<(Bytes, Bytes)> = inside.map(|((_, key), value)| (key.clone(), value.clone())).collect();
    if direction == Direction::Reverse {
        expected.reverse();
    }
    prop_assert!(found == expected, "scan of {:?} {:?} {:?}: {:?} instead of {:?}", table, range, direction, found, expected);
    Ok(())
}

fn fail(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(change(), 0..40).prop_map(Step::Apply),
        1 => vec(change(), 200..600).prop_map(Step::Apply),
        3 => Just(Step::Flush),
        1 => vec((table(), key(), value()), 0..100).prop_map(Step::Rebuild),
        1 => vec((table(), key(), value()), 0..20).prop_map(Step::AbandonRebuild),
        2 => Just(Step::Pin),
        3 => (table(), key()).prop_map(|(table, key)| Step::Get(table, key)),
        6 => (table(), range(), select(vec![Direction::Forward, Direction::Reverse]))
            .prop_map(|(table, range, direction)| Step::Scan(table, range, direction)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (table(), key(), value()).prop_map(|(table, key, value)| put(table, key, value)),
        2 => (table(), key()).prop_map(|(table, key)| delete(table, key)),
    ]
}

fn table() -> impl Strategy<Value = Table> {
    select(Table::ALL.to_vec())
}

fn value() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..12).prop_map(Bytes::from)
}

/// Keys that meet: prefixes of each other, with the smallest and the greatest byte; many that differ in one byte; long ones
/// that differ at the end; and any others.
fn key() -> impl Strategy<Value = Bytes> {
    let few_bytes = || select(vec![0x00, 0x01, b'a', b'b', 0xfe, 0xff]);
    prop_oneof![
        6 => vec(few_bytes(), 0..6),
        6 => vec(any::<u8>(), 1..=1),
        2 => vec(any::<u8>(), 2..=2),
        2 => (18_usize..28, vec(few_bytes(), 0..3)).prop_map(|(len, tail)| [vec![b'p'; len], tail].concat()),
        1 => (select(vec![300_usize, 4_096]), vec(few_bytes(), 0..3)).prop_map(|(len, tail)| [vec![b'q'; len], tail].concat()),
        1 => vec(any::<u8>(), 0..40),
    ]
    .prop_map(Bytes::from)
}

/// Any range, also one that holds nothing.
fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => (bound(), bound()).prop_map(|(start, end)| KeyRange { start, end }),
        1 => key().prop_map(|key| KeyRange::prefix(&key)),
    ]
}

fn bound() -> impl Strategy<Value = Bound<Bytes>> {
    prop_oneof![
        1 => Just(Bound::Unbounded),
        3 => key().prop_map(Bound::Included),
        3 => key().prop_map(Bound::Excluded),
    ]
}
