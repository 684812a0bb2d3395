//! A rebuild replaces everything at once, or leaves nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::{Pairs, apply_next, assert_stats, delete, pairs_of, put};
use crate::{Engine, Rebuild, Table};

pub(super) fn check(make: &dyn Fn() -> Arc<dyn Engine>) {
    is_invisible_until_committed(&*make());
    replaces_everything_but_open_views(&*make());
    keeps_the_last_of_a_repeated_key(&*make());
    leaves_nothing_when_dropped(&*make());
    goes_on_after_a_rebuild(&*make());
}

fn is_invisible_until_committed(engine: &dyn Engine) {
    fill(engine, "old");
    let mut rebuild = begin(engine, "new");
    assert_holds(engine, "old");
    apply_next(engine, vec![put(Table::Current, "between", "1")]);
    let between = engine.view().get(Table::Current, b"between").expect("a healthy engine reads");
    assert_eq!(between.as_deref(), Some(&b"1"[..]), "a batch during a rebuild is visible until the rebuild is committed");
    rebuild.put(Table::Meta, "last".into(), "new".into()).expect("a healthy rebuild");
    rebuild.commit(9, 9).expect("a healthy rebuild");
    let mut expected = content("new");
    expected.insert((Table::Meta, "last".into()), "new".into());
    assert_eq!(pairs_of(&*engine.view()), expected);
    assert_stats(engine, &expected);
}

fn replaces_everything_but_open_views(engine: &dyn Engine) {
    fill(engine, "old");
    apply_next(engine, vec![put(Table::History, "only in the old one", "x")]);
    let old = engine.view();
    let (old_pairs, old_numbers) = (pairs_of(&*old), (old.applied(), old.revision()));
    begin(engine, "new").commit(1, 0).expect("a healthy rebuild");
    assert_holds(engine, "new");
    assert_eq!(engine.durable_applied(), u64::from(engine.capabilities().durable), "a rebuild is durable when it is committed");
    let view = engine.view();
    assert_eq!((view.applied(), view.revision()), (1, 0), "a rebuild's numbers may be smaller");
    if engine.capabilities().pinned_views {
        assert_eq!(pairs_of(&*old), old_pairs, "a view changed");
        assert_eq!((old.applied(), old.revision()), old_numbers, "a view changed");
    }
}

fn keeps_the_last_of_a_repeated_key(engine: &dyn Engine) {
    let mut rebuild = engine.rebuild().expect("a healthy engine");
    for value in ["first", "second", "3"] {
        rebuild.put(Table::Current, "key".into(), value.into()).expect("a healthy rebuild");
    }
    rebuild.commit(1, 1).expect("a healthy rebuild");
    let expected = Pairs::from([((Table::Current, Bytes::from("key")), Bytes::from("3"))]);
    assert_eq!(pairs_of(&*engine.view()), expected);
    assert_stats(engine, &expected);
}

fn leaves_nothing_when_dropped(engine: &dyn Engine) {
    fill(engine, "old");
    let numbers = (engine.view().applied(), engine.view().revision());
    drop(begin(engine, "abandoned"));
    assert_holds(engine, "old");
    assert_eq!((engine.view().applied(), engine.view().revision()), numbers);
    engine.rebuild().expect("a healthy engine").commit(2, 3).expect("a healthy rebuild");
    assert!(pairs_of(&*engine.view()).is_empty(), "an abandoned rebuild left pairs to the next one");
    assert_stats(engine, &Pairs::new());
}

fn goes_on_after_a_rebuild(engine: &dyn Engine) {
    fill(engine, "old");
    begin(engine, "new").commit(5, 5).expect("a healthy rebuild");
    apply_next(engine, vec![put(Table::Current, "after", "1"), delete(Table::Meta, "b")]);
    let mut expected = content("new");
    expected.insert((Table::Current, "after".into()), "1".into());
    expected.remove(&(Table::Meta, Bytes::from("b")));
    assert_eq!(pairs_of(&*engine.view()), expected);
    assert_stats(engine, &expected);
}

/// Some pairs in every table.
fn content(value: &'static str) -> Pairs {
    let keys = ["", "a", "ab", "b"];
    Table::ALL.into_iter().flat_map(|table| keys.map(|key| ((table, key.into()), value.into()))).collect()
}

fn fill(engine: &dyn Engine, value: &'static str) {
    apply_next(engine, content(value).into_iter().map(|((table, key), value)| put(table, key, value)).collect());
}

fn begin(engine: &dyn Engine, value: &'static str) -> Box<dyn Rebuild> {
    let mut rebuild = engine.rebuild().expect("a healthy engine");
    for ((table, key), value) in content(value).into_iter().rev() {
        rebuild.put(table, key, value).expect("a healthy rebuild");
    }
    rebuild
}

fn assert_holds(engine: &dyn Engine, value: &'static str) {
    assert_eq!(pairs_of(&*engine.view()), content(value));
}
