//! What a full keyspace takes, and what it refuses.

use bytes::Bytes;
use quorate_keyspace::{Limits, Op, Outcome, Put, Settings, Shard, Write};

use crate::writes::{Entry, apply, counted_bytes, records, shard};

/// Key of one byte; version, three counters and no media type take a byte each.
const EMPTY_PAIR_BYTES: u64 = 6;

fn put(key: &'static str, value_bytes: usize) -> Op {
    Op::Put(Put::new(Bytes::from_static(key.as_bytes()), vec![b'v'; value_bytes].into()))
}

fn delete(key: &'static str) -> Op {
    Op::Delete { key: Bytes::from_static(key.as_bytes()) }
}

fn full_at(max_bytes: u64) -> Shard {
    shard(Limits { max_bytes, ..Limits::default() })
}

fn configure(limits: Limits) -> Op {
    Op::Configure(Settings::of(limits))
}

/// Applies one write, and tells whether it was refused because the keyspace is full.
fn is_refused(shard: &mut Shard, ops: impl Into<Vec<Op>>) -> bool {
    let before = (shard.header().revision, counted_bytes(shard));
    let write = Write { guards: Vec::new(), ops: ops.into() };
    let outcome = apply(shard, &[Entry::of([write])]).outcomes.remove(0).1;
    assert_eq!(shard.header().data_bytes, counted_bytes(shard));
    let is_refused = outcome == Outcome::Full { max_bytes: shard.header().settings.limits.max_bytes };
    assert!(!is_refused || before == (shard.header().revision, counted_bytes(shard)), "what is refused changes nothing");
    is_refused
}

#[test]
fn a_keyspace_takes_exactly_its_limit() {
    assert!(!is_refused(&mut full_at(EMPTY_PAIR_BYTES + 10), [put("a", 10)]));
    assert!(is_refused(&mut full_at(EMPTY_PAIR_BYTES + 10), [put("a", 11)]));
}

#[test]
fn what_does_not_grow_a_full_keyspace_is_taken() {
    let mut shard = full_at(2 * EMPTY_PAIR_BYTES + 20);
    assert!(!is_refused(&mut shard, [put("a", 10), put("b", 10)]));
    assert!(is_refused(&mut shard, [put("a", 11)]));
    assert!(is_refused(&mut shard, [put("c", 0)]));
    assert!(!is_refused(&mut shard, [put("a", 10)]));
    assert!(!is_refused(&mut shard, [put("c", 10), delete("a")]));
    assert!(!is_refused(&mut shard, [delete("nothing")]));
    assert!(!is_refused(&mut shard, [delete("b"), delete("c")]));
    assert_eq!(shard.header().data_bytes, 0);
}

#[test]
fn a_key_that_one_write_sets_twice_counts_once() {
    let mut shard = full_at(EMPTY_PAIR_BYTES + 10);
    assert!(!is_refused(&mut shard, [put("a", 10), put("a", 10)]));
    assert!(is_refused(&mut shard, [put("a", 1), put("a", 11)]));
    assert_eq!(records(&shard)[0].1.meta.version, 2);
}

#[test]
fn a_key_that_one_write_removes_twice_makes_room_once() {
    let mut shard = full_at(2 * EMPTY_PAIR_BYTES + 10);
    assert!(!is_refused(&mut shard, [put("a", 10)]));
    assert!(is_refused(&mut shard, [delete("a"), delete("a"), put("b", 20)]));
    assert!(!is_refused(&mut shard, [delete("a"), put("b", 16)]));
}

#[test]
fn a_key_that_one_write_sets_and_removes_counts_for_nothing() {
    let mut shard = full_at(EMPTY_PAIR_BYTES);
    assert!(!is_refused(&mut shard, [put("a", 100), delete("a"), put("b", 0)]));
}

#[test]
fn writes_of_one_batch_see_the_room_that_those_before_left() {
    let mut shard = full_at(EMPTY_PAIR_BYTES + 10);
    let writes = [vec![put("a", 10)], vec![put("b", 10)], vec![delete("a")], vec![put("b", 10)]];
    let entry = Entry::of(writes.map(|ops| Write { guards: Vec::new(), ops }));
    let outcomes = apply(&mut shard, &[entry]).outcomes;
    let refused: Vec<bool> = outcomes.iter().map(|(_, outcome)| matches!(outcome, Outcome::Full { .. })).collect();
    assert_eq!(refused, [false, true, false, false]);
}

#[test]
fn limits_change_by_command_and_without_a_revision() {
    let mut shard = full_at(0);
    assert!(is_refused(&mut shard, [put("a", 1)]));
    let limits = Limits { max_bytes: 3 * EMPTY_PAIR_BYTES, max_key_bytes: 2, max_value_bytes: 5 };
    // What goes with the change is still measured by the old limits.
    assert!(is_refused(&mut shard, [configure(limits), put("a", 1)]));
    assert_eq!(shard.header().settings.limits, Limits::default());
    let revision = shard.header().revision;
    assert!(!is_refused(&mut shard, [configure(limits)]));
    assert_eq!((shard.header().settings.limits, shard.header().revision), (limits, revision));
    assert!(!is_refused(&mut shard, [put("a", 5)]));
}

#[test]
fn a_keyspace_that_holds_more_than_a_new_limit_shrinks_only() {
    let mut shard = full_at(1000);
    assert!(!is_refused(&mut shard, [put("a", 100), put("b", 100)]));
    assert!(!is_refused(&mut shard, [configure(Limits { max_bytes: 50, ..Limits::default() })]));
    assert!(is_refused(&mut shard, [put("a", 101)]));
    assert!(!is_refused(&mut shard, [put("a", 99)]));
    assert!(!is_refused(&mut shard, [delete("b")]));
}

#[test]
fn keys_and_values_over_their_limits_are_refused_with_the_limit() {
    let limits = Limits { max_bytes: 1000, max_key_bytes: 2, max_value_bytes: 5 };
    let mut shard = shard(limits);
    let mut outcome = |ops: Vec<Op>| apply(&mut shard, &[Entry::of([Write { guards: Vec::new(), ops }])]).outcomes.remove(0).1;
    assert!(matches!(outcome(vec![put("ab", 5)]), Outcome::Applied { .. }));
    assert_eq!(outcome(vec![put("abc", 0)]), Outcome::KeyTooLong { max_bytes: 2 });
    assert_eq!(outcome(vec![put("ab", 6)]), Outcome::ValueTooLarge { max_bytes: 5 });
    assert_eq!(outcome(vec![put("a", 0), put("b", 6)]), Outcome::ValueTooLarge { max_bytes: 5 });
    // What is there already can go, whatever its size.
    assert!(matches!(outcome(vec![delete("abc")]), Outcome::Applied { .. }));
}
