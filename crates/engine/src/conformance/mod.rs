//! What every engine must pass: the obligations of [`Engine`], [`View`] and [`Rebuild`](crate::Rebuild) as checks.
//!
//! An engine's test is one line, `conformance::check(|| Arc::new(MyEngine::new()))`. Each check panics with what it found.
//! More thorough runs: `PROPTEST_CASES=10000`.
//!
//! What a durable engine holds after a crash is checked by [`check_durable`], which needs a process to crash; what becomes of a
//! copy in an engine of another kind, by [`check_copies`].

mod atomicity;
mod copies;
mod durable;
mod model;
mod order;
mod promises;
mod rebuild;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::ProptestConfig;

pub use self::copies::check_copies;
pub use self::durable::{Open, check_durable, run_script};
use crate::{Batch, Change, Direction, Engine, KeyRange, Table, View};

/// Runs every check. `make` gives a new, empty engine at each call, large enough never to evict.
pub fn check(make: impl Fn() -> Arc<dyn Engine>) {
    check_one_in(1, make);
}

/// The same with one in so many of the random runs: an engine on disk takes its time.
pub fn check_one_in(divisor: u32, make: impl Fn() -> Arc<dyn Engine>) {
    promises::check(&make);
    model::check((ProptestConfig::default().cases / divisor).max(1), &make);
    rebuild::check(&make);
    atomicity::check(&make);
    order::check(&make);
}

/// What an engine should hold.
type Pairs = BTreeMap<(Table, Bytes), Bytes>;

/// What a view holds, by scanning.
fn pairs_of(view: &dyn View) -> Pairs {
    let mut pairs = Pairs::new();
    for table in Table::ALL {
        for item in view.scan(table, &KeyRange::all(), Direction::Forward) {
            let (key, value) = item.expect("a scan of a healthy engine");
            let earlier = pairs.insert((table, key.clone()), value);
            assert!(earlier.is_none(), "a scan returned {key:?} twice");
        }
    }
    pairs
}

fn put(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Change {
    Change::Put { table, key: key.into(), value: value.into() }
}

fn delete(table: Table, key: impl Into<Bytes>) -> Change {
    Change::Delete { table, key: key.into() }
}

/// Applies changes as the batch after the published one.
fn apply_next(engine: &dyn Engine, changes: Vec<Change>) {
    let view = engine.view();
    let batch = Batch { applied: view.applied() + 1, revision: view.revision() + 1, changes };
    engine.apply(batch).expect("a healthy engine applies");
}

/// Asserts that figures are those of `pairs`. A further, empty batch is applied first: figures may lag behind by one.
fn assert_stats(engine: &dyn Engine, pairs: &Pairs) {
    apply_next(engine, Vec::new());
    let keys = pairs.keys().filter(|(table, _)| *table == Table::Current).count();
    let data_bytes: usize =
        pairs.iter().filter(|((table, _), _)| table.is_counted()).map(|((_, key), value)| key.len() + value.len()).sum();
    let stats = engine.stats();
    assert_eq!((stats.keys, stats.data_bytes), (keys as u64, data_bytes as u64), "keys and bytes in the figures");
}
