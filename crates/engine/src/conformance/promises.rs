//! What an engine says of itself is so, but for its order.

use std::sync::Arc;

use bytes::Bytes;

use super::{Pairs, apply_next, assert_stats, delete, pairs_of, put};
use crate::{Engine, Table};

pub(super) fn check(make: &dyn Fn() -> Arc<dyn Engine>) {
    begins_empty(make);
    keeps_to_its_numbers(&*make());
    says_what_is_durable(&*make());
    counts_what_it_holds(&*make());
}

fn begins_empty(make: &dyn Fn() -> Arc<dyn Engine>) {
    let (first, second) = (make(), make());
    apply_next(&*first, vec![put(Table::Current, "key", "value")]);
    let view = second.view();
    assert_eq!((view.applied(), view.revision()), (0, 0));
    assert!(pairs_of(&*view).is_empty(), "a new engine is not empty");
    assert_eq!(second.stats(), crate::Stats::default());
    assert_eq!((first.kind(), first.capabilities()), (second.kind(), second.capabilities()));
    assert!(!first.kind().is_empty(), "an engine has a name");
}

/// Numbers are published with the content, also by a batch without changes, and may stay the same.
fn keeps_to_its_numbers(engine: &dyn Engine) {
    for (applied, revision) in [(3, 2), (4, 2), (4, 2), (9, 100), (u64::MAX, u64::MAX)] {
        let batch = crate::Batch { applied, revision, changes: Vec::new() };
        engine.apply(batch).expect("a healthy engine applies");
        let view = engine.view();
        assert_eq!((view.applied(), view.revision()), (applied, revision));
    }
}

fn says_what_is_durable(engine: &dyn Engine) {
    apply_next(engine, vec![put(Table::Current, "key", "value")]);
    assert!(engine.durable_applied() <= 1, "what was never applied is not durable");
    let flushed = engine.flush().expect("a healthy engine flushes");
    let expected = u64::from(engine.capabilities().durable);
    assert_eq!(flushed, expected, "flush returns the durable point");
    assert_eq!(engine.durable_applied(), expected, "the durable point after a flush");
}

fn counts_what_it_holds(engine: &dyn Engine) {
    let mut expected = Pairs::new();
    let mut keep = |table, key: &'static str, value: &'static str| {
        apply_next(engine, vec![put(table, key, value)]);
        expected.insert((table, key.into()), value.into());
        assert_stats(engine, &expected);
    };
    keep(Table::Current, "", "");
    keep(Table::Current, "key", "value");
    keep(Table::Current, "key", "another value");
    keep(Table::Current, "key", "");
    keep(Table::History, "key", "value");
    keep(Table::Meta, "header", "12345");
    for table in [Table::Current, Table::Current, Table::History, Table::Meta] {
        apply_next(engine, vec![delete(table, "key"), delete(table, "absent")]);
        expected.remove(&(table, Bytes::from("key")));
        assert_stats(engine, &expected);
    }
}
