//! Writes that are done once.

use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Direction, Engine, KeyRange, Table, Trie};
use quorate_keyspace::{
    Command, Condition, Edit, Fingerprint, Guard, Limits, MAX_ONCE_BYTES, ONCE_MS, Op, Outcome, Patch, Put, RequestId, Shard,
    Write,
};

use crate::writes::{Entry, ROOMY, apply, records, shard};

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn fingerprint(number: u8) -> Fingerprint {
    [number; 16]
}

fn increment() -> Write {
    let edit = Edit::Increment { by: 1, initial: 0 };
    let patch = Patch { key: bytes("n"), edit, ttl_ms: None, max_value_bytes: 100, is_told: true };
    Write { ops: vec![Op::Patch(Box::new(patch))], ..Write::default() }
}

/// The write, under a client's key, with its request's fingerprint.
fn once(mut write: Write, key: &'static str, request: u8) -> Write {
    write.guards.insert(0, Guard { key: bytes(key), condition: Condition::Once(fingerprint(request)) });
    write
}

fn done_at(shard: &mut Shard, log_time_ms: u64, write: Write) -> Outcome {
    let command = Command { id: RequestId::default(), floor: 0, write };
    apply(shard, &[Entry { log_time_ms, commands: vec![command] }]).outcomes.remove(0).1
}

fn value(shard: &Shard) -> Bytes {
    records(shard).remove(0).1.value
}

fn rows(shard: &Shard) -> Vec<Bytes> {
    let view = shard.engine().view();
    view.scan(Table::Meta, &KeyRange::prefix(b"once/"), Direction::Forward).map(|row| row.unwrap().0).collect()
}

#[test]
fn a_repetition_is_answered_and_not_done() {
    let mut shard = shard(ROOMY);
    let first = done_at(&mut shard, 0, once(increment(), "a", 1));
    assert!(matches!(first, Outcome::Applied { .. }), "{first:?}");
    let repeated = Outcome::Repeated(Box::new(first.clone()));
    assert_eq!(done_at(&mut shard, 5, once(increment(), "a", 1)), repeated);
    assert_eq!(done_at(&mut shard, 5, once(increment(), "a", 2)), Outcome::OtherRequest);
    assert_eq!((value(&shard), shard.header().revision.0), (bytes("1"), 2));
    assert!(matches!(done_at(&mut shard, 5, once(increment(), "b", 1)), Outcome::Applied { .. }));
    assert_eq!(done_at(&mut shard, 5, once(increment(), "a", 1)), repeated);
    assert_eq!(value(&shard), bytes("2"));
}

#[test]
fn one_entry_may_hold_both() {
    let mut shard = shard(ROOMY);
    let applied = apply(&mut shard, &[Entry::of([once(increment(), "a", 1), once(increment(), "a", 1)])]);
    let outcomes: Vec<Outcome> = applied.outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes[1], Outcome::Repeated(Box::new(outcomes[0].clone())));
    assert_eq!(value(&shard), bytes("1"));
}

#[test]
fn conditions_are_looked_at_the_first_time_alone() {
    let mut shard = shard(ROOMY);
    let created = || once(increment().only_if(bytes("n"), Condition::Absent), "a", 1);
    let first = done_at(&mut shard, 0, created());
    assert!(matches!(first, Outcome::Applied { .. }));
    assert_eq!(done_at(&mut shard, 0, created()), Outcome::Repeated(Box::new(first)));
    let failing = || once(increment().only_if(bytes("m"), Condition::Exists), "b", 1);
    let failed = done_at(&mut shard, 0, failing());
    assert!(matches!(failed, Outcome::ConditionFailed { guard: 1, .. }), "{failed:?}");
    done_at(&mut shard, 0, Write::put(bytes("m"), bytes("1")));
    assert_eq!(done_at(&mut shard, 0, failing()), Outcome::Repeated(Box::new(failed)));
}

#[test]
fn what_was_refused_for_lack_of_room_may_be_sent_again() {
    let mut shard = shard(Limits { max_value_bytes: 1, ..ROOMY });
    let large = || once(Write::put(bytes("k"), bytes("12")), "a", 1);
    assert_eq!(done_at(&mut shard, 0, large()), Outcome::ValueTooLarge { max_bytes: 1 });
    assert!(rows(&shard).is_empty());
    let settings = quorate_keyspace::Settings::of(ROOMY);
    done_at(&mut shard, 0, Write { ops: vec![Op::Configure(settings)], ..Write::default() });
    assert!(matches!(done_at(&mut shard, 0, large()), Outcome::Applied { .. }));
}

#[test]
fn outcomes_are_forgotten_when_their_time_is_up() {
    let mut shard = shard(ROOMY);
    for (at, key) in [(0, "a"), (10, "b"), (20, "c")] {
        done_at(&mut shard, at, once(increment(), key, 1));
    }
    assert_eq!(rows(&shard).len(), 7);
    assert!(matches!(done_at(&mut shard, ONCE_MS - 1, once(increment(), "a", 1)), Outcome::Repeated(_)));
    assert!(matches!(done_at(&mut shard, ONCE_MS, once(increment(), "a", 1)), Outcome::Applied { .. }));
    assert!(matches!(done_at(&mut shard, ONCE_MS, once(increment(), "b", 1)), Outcome::Repeated(_)));
    assert_eq!((value(&shard), rows(&shard).len()), (bytes("4"), 7));
    done_at(&mut shard, 3 * ONCE_MS, Write::default());
    assert!(rows(&shard).is_empty(), "{:?}", rows(&shard));
}

#[test]
fn many_are_forgotten_over_several_entries() {
    let mut shard = shard(ROOMY);
    let keys: Vec<&'static str> = (0..700).map(|number| &*Box::leak(number.to_string().into_boxed_str())).collect();
    apply(&mut shard, &[Entry::of(keys.iter().map(|key| once(increment(), key, 1)))]);
    let left: Vec<usize> = (0..3)
        .map(|_| {
            apply(&mut shard, &[Entry { log_time_ms: ONCE_MS, commands: Vec::new() }]);
            rows(&shard).len()
        })
        .collect();
    assert_eq!(left, [2 * (700 - 256) + 1, 2 * (700 - 512) + 1, 0]);
    // What is due and still there does not count any more.
    apply(&mut shard, &[Entry::of([once(increment(), "0", 1)])]);
    assert_eq!(value(&shard), bytes("701"));
}

#[test]
fn they_go_along_with_the_pairs() {
    let mut shard = shard(ROOMY);
    let first = done_at(&mut shard, 7, once(increment(), "a", 1));
    // As a snapshot carries them.
    let other: Arc<dyn Engine> = Arc::new(Trie::new());
    let view = shard.engine().view();
    let mut changes = Vec::new();
    for table in Table::ALL {
        for pair in view.pairs(table) {
            let (key, value) = pair.unwrap();
            if table != Table::Meta || Shard::is_snapshot_row(&key) {
                changes.push(quorate_engine::Change::Put { table, key, value });
            }
        }
    }
    other.apply(quorate_engine::Batch { applied: view.applied(), revision: view.revision(), changes }).unwrap();
    let mut restored = Shard::restore(other, shard.state_bytes()).unwrap();
    assert_eq!(done_at(&mut restored, 8, once(increment(), "a", 1)), Outcome::Repeated(Box::new(first)));
    done_at(&mut restored, 7 + ONCE_MS, Write::default());
    assert!(rows(&restored).is_empty());
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut shard = shard(Limits { max_bytes: 1 << 30, ..ROOMY });
    let large = Bytes::from(vec![b'x'; 8 << 20]);
    done_at(&mut shard, 0, Write { ops: vec![Op::Put(Put::new(bytes("k"), large))], ..Write::default() });
    let read = || Write { ops: vec![Op::Get { key: bytes("k") }], ..Write::default() };
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let refused = keys.iter().position(|key| done_at(&mut shard, 0, once(read(), key, 1)) == Outcome::TooManyOnce);
    assert_eq!(refused, Some(MAX_ONCE_BYTES as usize / (8 << 20)));
    assert!(matches!(done_at(&mut shard, 0, once(read(), "a", 1)), Outcome::Repeated(_)));
    assert!(matches!(done_at(&mut shard, ONCE_MS, once(increment(), "z", 1)), Outcome::Applied { .. }));
}
