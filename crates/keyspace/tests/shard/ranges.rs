//! Range deletes: what they take, in which order, and what they say is left.

use bytes::Bytes;
use quorate_engine::KeyRange;
use quorate_keyspace::{Detail, Op, OpResult, Outcome, Put, Removed, Revision, Shard, Write};

use crate::writes::{Entry, ROOMY, apply, counted_bytes, records, shard};

fn put(key: &'static str) -> Op {
    Op::Put(Put::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(b"value")))
}

fn delete_range(prefix: &str, max_keys: u64) -> Op {
    Op::DeleteRange { range: KeyRange::prefix(prefix.as_bytes()), max_keys }
}

fn write(ops: impl Into<Vec<Op>>) -> Write {
    Write { guards: Vec::new(), ops: ops.into() }
}

fn keys(shard: &Shard) -> Vec<String> {
    records(shard).iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
}

/// What the last operation of a write removed, and the first key that it left.
fn removed(outcome: &Outcome) -> (u64, Option<&str>) {
    let Outcome::Applied { results, .. } = outcome else { panic!("{outcome:?}") };
    let Some(OpResult { before: None, after: None, detail: Some(detail) }) = results.last() else { panic!("{results:?}") };
    let Detail::Removed(Removed { keys, next }) = &**detail else { panic!("{detail:?}") };
    (*keys, next.as_deref().map(|key| std::str::from_utf8(key).unwrap()))
}

fn filled() -> Shard {
    let mut shard = shard(ROOMY);
    apply(&mut shard, &[Entry::of([write(["a", "b/1", "b/2", "b/3", "c"].map(put))])]);
    shard
}

#[test]
fn the_smallest_keys_go_first_and_the_next_is_named() {
    let mut shard = filled();
    let writes = [delete_range("b/", 2), delete_range("b/", 0), delete_range("b/", 2), delete_range("b/", 2)];
    let applied = apply(&mut shard, &[Entry::of(writes.map(|op| write([op])))]);
    let told: Vec<_> = applied.outcomes.iter().map(|(_, outcome)| removed(outcome)).collect();
    assert_eq!(told, [(2, Some("b/3")), (0, Some("b/3")), (1, None), (0, None)]);
    assert_eq!(keys(&shard), ["a", "c"]);
    // Two of the four changed something.
    assert_eq!(shard.header().revision, Revision(4));
    assert_eq!(shard.header().data_bytes, counted_bytes(&shard));
}

#[test]
fn what_was_written_a_moment_before_is_taken_and_what_was_removed_is_not() {
    let mut shard = filled();
    let before = [write([put("b/0"), put("b/2")]), write([Op::Delete { key: Bytes::from_static(b"b/3") }]), write([put("b/4")])];
    let delete = write([put("b/5"), delete_range("b/", 10)]);
    let applied = apply(&mut shard, &[Entry::of(before), Entry::of([delete])]);
    assert_eq!(removed(&applied.outcomes[3].1), (5, None));
    assert_eq!(keys(&shard), ["a", "c"]);
}

#[test]
fn a_range_that_holds_no_key_changes_nothing() {
    let mut shard = filled();
    let upside_down = KeyRange { start: KeyRange::prefix(b"c").start, end: KeyRange::prefix(b"a").end };
    let nothing = Op::DeleteRange { range: upside_down, max_keys: 10 };
    let applied =
        apply(&mut shard, &[Entry::of([write([put("d")])]), Entry::of([write([nothing]), write([delete_range("x", 1)])])]);
    assert_eq!([removed(&applied.outcomes[1].1), removed(&applied.outcomes[2].1)], [(0, None), (0, None)]);
    assert_eq!(shard.header().revision, Revision(3));
}

#[test]
fn a_write_that_is_refused_in_the_end_has_removed_nothing() {
    let mut shard = filled();
    let before = keys(&shard);
    let too_large = Op::Put(Put::new(Bytes::from_static(b"x"), vec![0; ROOMY.max_bytes as usize].into()));
    let applied = apply(&mut shard, &[Entry::of([write([delete_range("b/", 2), too_large.clone()])])]);
    assert_eq!(applied.outcomes[0].1, Outcome::Full { max_bytes: ROOMY.max_bytes });
    assert_eq!((shard.header().data_bytes, keys(&shard)), (counted_bytes(&shard), before));
    // Within one batch too: what follows finds the keys there.
    let entry = Entry::of([write([delete_range("b/", 2), too_large]), write([delete_range("b/", 9)])]);
    assert_eq!(removed(&apply(&mut shard, &[entry]).outcomes[1].1), (3, None));
}
