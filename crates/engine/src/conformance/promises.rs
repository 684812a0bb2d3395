//! What an engine says of itself is so.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Pairs, apply_next, assert_stats, delete, pairs_of, put};
use crate::{Direction, Engine, KeyRange, Table, View};

pub(super) fn check(make: &dyn Fn() -> Arc<dyn Engine>) {
    begins_empty(make);
    keeps_to_its_numbers(&*make());
    says_what_is_durable(&*make());
    counts_what_it_holds(&*make());
    scans_at_the_cost_it_promises(make);
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

/// An ordered engine's scans cost about the same among a hundred times as many pairs. The margin is wide: an engine that
/// reads everything is a hundred times slower, an honest one perhaps twice.
fn scans_at_the_cost_it_promises(make: &dyn Fn() -> Arc<dyn Engine>) {
    const SMALL_COUNT: u32 = 100;
    const LARGE_COUNT: u32 = 100 * SMALL_COUNT;
    const MAX_RATIO: u32 = 25;
    const TRIES: usize = 5;
    let (small, large) = (make(), make());
    if !small.capabilities().ordered {
        return;
    }
    fill(&*small, SMALL_COUNT);
    fill(&*large, LARGE_COUNT);
    let is_cheap = |_| time_of_scans(&*large.view(), SMALL_COUNT) < MAX_RATIO * time_of_scans(&*small.view(), SMALL_COUNT);
    assert!(
        (0..TRIES).any(is_cheap),
        "{} calls itself ordered, but a scan among {LARGE_COUNT} keys costs over {MAX_RATIO} times one among {SMALL_COUNT}",
        small.kind()
    );
}

fn fill(engine: &dyn Engine, count: u32) {
    apply_next(engine, (0..count).map(|at| put(Table::Current, numbered_key(at), "value")).collect());
}

fn numbered_key(at: u32) -> Bytes {
    format!("key/{at:08}").into()
}

#[expect(clippy::disallowed_methods, reason = "the time is what is checked, and no engine reads it")]
fn time_of_scans(view: &dyn View, count: u32) -> Duration {
    let began = Instant::now();
    for at in (0..count).step_by(4) {
        let from = KeyRange { start: Bound::Included(numbered_key(at)), end: Bound::Unbounded };
        let until = KeyRange { start: Bound::Unbounded, end: Bound::Excluded(numbered_key(at + 1)) };
        let among = KeyRange::prefix(&numbered_key(at));
        for (range, direction) in [(&from, Direction::Forward), (&until, Direction::Reverse), (&among, Direction::Forward)] {
            let first = view.scan(Table::Current, range, direction).next().expect("the key is there").expect("a healthy engine");
            assert_eq!(first.0, numbered_key(at));
        }
        assert!(view.scan(Table::Current, &KeyRange::prefix(b"absent"), Direction::Reverse).next().is_none());
    }
    began.elapsed()
}
