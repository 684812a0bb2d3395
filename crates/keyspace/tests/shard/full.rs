//! What a full keyspace takes, and what it refuses.

use bytes::Bytes;
use quorate_keyspace::{Op, Outcome, Put, Shard, Write};

use crate::writes::{Entry, apply, counted_bytes, records, shard};

/// Key of one byte; version, three counters and no media type take a byte each.
const EMPTY_PAIR_BYTES: u64 = 6;

fn put(key: &'static str, value_bytes: usize) -> Op {
    Op::Put(Put { key: Bytes::from_static(key.as_bytes()), value: vec![b'v'; value_bytes].into(), content_type: None })
}

fn delete(key: &'static str) -> Op {
    Op::Delete { key: Bytes::from_static(key.as_bytes()) }
}

/// Applies one write, and tells whether it was refused because the keyspace is full.
fn is_refused(shard: &mut Shard, ops: impl Into<Vec<Op>>) -> bool {
    let before = (shard.header().revision, counted_bytes(shard));
    let write = Write { guards: Vec::new(), ops: ops.into() };
    let outcome = apply(shard, &[Entry::of([write])]).outcomes.remove(0).1;
    assert_eq!(shard.header().data_bytes, counted_bytes(shard));
    let is_refused = outcome == Outcome::Full { max_bytes: shard.header().limits.max_bytes };
    assert!(!is_refused || before == (shard.header().revision, counted_bytes(shard)), "what is refused changes nothing");
    is_refused
}

#[test]
fn a_keyspace_takes_exactly_its_limit() {
    assert!(!is_refused(&mut shard(EMPTY_PAIR_BYTES + 10), [put("a", 10)]));
    assert!(is_refused(&mut shard(EMPTY_PAIR_BYTES + 10), [put("a", 11)]));
}

#[test]
fn what_does_not_grow_a_full_keyspace_is_taken() {
    let mut shard = shard(2 * EMPTY_PAIR_BYTES + 20);
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
    let mut shard = shard(EMPTY_PAIR_BYTES + 10);
    assert!(!is_refused(&mut shard, [put("a", 10), put("a", 10)]));
    assert!(is_refused(&mut shard, [put("a", 1), put("a", 11)]));
    assert_eq!(records(&shard)[0].1.meta.version, 2);
}

#[test]
fn a_key_that_one_write_removes_twice_makes_room_once() {
    let mut shard = shard(2 * EMPTY_PAIR_BYTES + 10);
    assert!(!is_refused(&mut shard, [put("a", 10)]));
    assert!(is_refused(&mut shard, [delete("a"), delete("a"), put("b", 20)]));
    assert!(!is_refused(&mut shard, [delete("a"), put("b", 16)]));
}

#[test]
fn a_key_that_one_write_sets_and_removes_counts_for_nothing() {
    let mut shard = shard(EMPTY_PAIR_BYTES);
    assert!(!is_refused(&mut shard, [put("a", 100), delete("a"), put("b", 0)]));
}

#[test]
fn writes_of_one_batch_see_the_room_that_those_before_left() {
    let mut shard = shard(EMPTY_PAIR_BYTES + 10);
    let writes = [vec![put("a", 10)], vec![put("b", 10)], vec![delete("a")], vec![put("b", 10)]];
    let entry = Entry::of(writes.map(|ops| Write { guards: Vec::new(), ops }));
    let outcomes = apply(&mut shard, &[entry]).outcomes;
    let refused: Vec<bool> = outcomes.iter().map(|(_, outcome)| matches!(outcome, Outcome::Full { .. })).collect();
    assert_eq!(refused, [false, true, false, false]);
}
