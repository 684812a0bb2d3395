//! Times to live and leases: nothing goes early, all of it goes at once, and the rows beside the pairs say what the pairs say.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use quorate_engine::testing::SimulatedEngines;
use quorate_engine::{Direction, Engine, EngineSpec, Engines, KeyRange, Place, Table, Trie};
use quorate_keyspace::{
    Cause, Changes, Compare, Detail, Keys, LeaseChange, LeaseId, Limits, MAX_LEASE_KEYS, Op, OpResult, Outcome, Put, Relation,
    Removed, Revision, Settings, Shard, Target, Transaction, Write, lease, lease_keys, leases,
};

use crate::writes::{Entry, ROOMY, apply, counted_bytes, key, limits, pairs, records, shard};

const ONE: LeaseId = LeaseId(1);
const TWO: LeaseId = LeaseId(2);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn plain(key: &str) -> Put {
    Put::new(bytes(key), bytes("v"))
}

fn for_a_time(key: &str, ttl_ms: u64) -> Op {
    Op::Put(Put { ttl_ms: Some(ttl_ms), ..plain(key) })
}

fn with_lease(key: &str, lease: LeaseId) -> Op {
    Op::Put(Put { lease: Some(lease), ..plain(key) })
}

fn grant(id: LeaseId) -> Op {
    Op::LeaseGrant { id, ttl_ms: 5000 }
}

fn write(ops: impl Into<Vec<Op>>) -> Write {
    Write { ops: ops.into(), ..Write::default() }
}

/// What becomes of operations at a log time, and what they change.
fn at(shard: &mut Shard, log_time_ms: u64, ops: impl Into<Vec<Op>>) -> (Outcome, Vec<Changes>) {
    let mut applied = apply(shard, &[Entry { log_time_ms, ..Entry::of([write(ops)]) }]);
    (applied.outcomes.remove(0).1, applied.changes)
}

fn keys(shard: &Shard) -> Vec<String> {
    pairs(shard).into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect()
}

/// Each change as `revision cause key...`.
fn told(changes: &[Changes]) -> Vec<String> {
    let line = |change: &Changes| {
        let event = |event: &quorate_keyspace::Event| format!("{:?} {}", event.cause, String::from_utf8_lossy(&event.key));
        format!("{}: {}", change.revision, change.events.iter().map(event).collect::<Vec<_>>().join(", "))
    };
    changes.iter().map(line).collect()
}

/// Rows of the `Meta` table; in this engine there are no others than those beside pairs.
fn rows(shard: &Shard) -> Vec<(Bytes, Bytes)> {
    let view = shard.engine().view();
    let all: Vec<(Bytes, Bytes)> =
        view.scan(Table::Meta, &KeyRange::all(), Direction::Forward).collect::<Result<_, _>>().unwrap();
    all.into_iter().filter(|(row, _)| Shard::is_snapshot_row(row)).collect()
}

fn row_bytes(shard: &Shard) -> u64 {
    rows(shard).iter().map(|(row, value)| (row.len() + value.len()) as u64).sum()
}

#[test]
fn a_pair_goes_with_the_first_entry_after_its_time() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1000, [for_a_time("a", 100), for_a_time("b", 50), Op::Put(plain("c"))]);
    assert_eq!(shard.due_at_ms(), Some(1050));
    assert_eq!(records(&shard)[0].1.expires_at_ms, NonZeroU64::new(1100));
    let (_, changes) = at(&mut shard, 1049, []);
    assert_eq!((keys(&shard), changes.len()), (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 0));
    let (_, changes) = at(&mut shard, 1050, [for_a_time("b", 1)]);
    assert_eq!(told(&changes), ["3: Expire b", "4: Put b"]);
    assert_eq!(records(&shard)[1].1.meta.version, 1, "what comes after is another one");
    let (_, changes) = at(&mut shard, 2000, []);
    assert_eq!(told(&changes), ["5: Expire b, Expire a"]);
    assert_eq!((keys(&shard), shard.due_at_ms(), rows(&shard).len()), (vec!["c".to_owned()], None, 0));
}

#[test]
fn a_put_without_an_end_takes_the_old_one_away() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1, [for_a_time("a", 10), for_a_time("b", 10), for_a_time("c", 10)]);
    at(&mut shard, 2, [Op::Put(plain("a")), Op::Delete { key: bytes("b") }, for_a_time("c", 500)]);
    assert!(at(&mut shard, 400, []).1.is_empty());
    assert_eq!(keys(&shard), ["a", "c"]);
    assert_eq!(shard.due_at_ms(), Some(502));
}

#[test]
fn the_keyspace_may_have_a_time_of_its_own() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1, [Op::Configure(Settings { ttl_ms: Some(100), ..Settings::of(ROOMY) })]);
    at(&mut shard, 10, [Op::Put(plain("default")), for_a_time("long", 500), grant(ONE), with_lease("leased", ONE)]);
    let ends: Vec<Option<u64>> = records(&shard).into_iter().map(|(_, record)| record.expires_at_ms.map(Into::into)).collect();
    assert_eq!(ends, [Some(110), None, Some(510)]);
    at(&mut shard, 20, [Op::Configure(Settings::of(ROOMY))]);
    at(&mut shard, 30, [Op::Put(plain("default"))]);
    at(&mut shard, 1000, []);
    assert_eq!(keys(&shard), ["default", "leased"]);
}

#[test]
fn many_pairs_go_in_steps() {
    let mut shard = shard(ROOMY);
    let ops: Vec<Op> = (0..2500).map(|number| for_a_time(&format!("{number:04}"), 1)).collect();
    at(&mut shard, 1, ops);
    let mut left = Vec::new();
    for _ in 0..4 {
        let (_, changes) = at(&mut shard, 10, []);
        left.push((keys(&shard).len(), changes.len(), shard.due_at_ms()));
    }
    assert_eq!(left, [(1500, 1, Some(2)), (500, 1, Some(2)), (0, 1, None), (0, 0, None)]);
    assert_eq!(shard.header().data_bytes, 0);
}

#[test]
fn a_lease_goes_with_its_keys_under_one_revision() {
    let mut shard = shard(ROOMY);
    let (outcome, changes) = at(&mut shard, 1, [grant(ONE)]);
    assert_eq!(outcome, Outcome::Applied { revision: Revision(1), results: vec![OpResult::default()] });
    assert!(changes.is_empty(), "a grant changes no pair");
    at(&mut shard, 1, [with_lease("b", ONE), with_lease("a", ONE), Op::Put(plain("c"))]);
    let view = shard.engine().view();
    assert_eq!(lease(view.as_ref(), ONE).unwrap().map(|lease| (lease.ttl_ms, lease.granted_at, lease.keys)), Some((5000, 1, 2)));
    assert_eq!(lease_keys(view.as_ref(), ONE, None, 9).unwrap(), ["a", "b"]);
    assert_eq!(lease_keys(view.as_ref(), ONE, Some(b"a"), 9).unwrap(), ["b"]);
    let (outcome, changes) = at(&mut shard, 1, [Op::LeaseRevoke { id: ONE }]);
    let removed = OpResult::of(Detail::Removed(Removed { keys: 2, next: None }));
    assert_eq!(outcome, Outcome::Applied { revision: Revision(3), results: vec![removed] });
    assert_eq!(told(&changes), ["3: Delete a, Delete b"]);
    assert_eq!((keys(&shard), rows(&shard).len()), (vec!["c".to_owned()], 0));
    assert_eq!(at(&mut shard, 1, [Op::LeaseRevoke { id: ONE }]).0, Outcome::LeaseNotFound { lease: ONE });
}

#[test]
fn a_put_hangs_a_key_on_another_lease_or_on_none() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1, [grant(ONE), grant(TWO), with_lease("a", ONE), with_lease("b", ONE), with_lease("c", ONE)]);
    at(&mut shard, 1, [with_lease("a", TWO), Op::Put(plain("b")), with_lease("c", ONE)]);
    let held = |shard: &Shard, id| lease_keys(shard.engine().view().as_ref(), id, None, 9).unwrap();
    assert_eq!((held(&shard, ONE), held(&shard, TWO)), (vec![bytes("c")], vec![bytes("a")]));
    at(&mut shard, 1, [Op::LeaseRevoke { id: ONE }]);
    assert_eq!(keys(&shard), ["a", "b"]);
    at(&mut shard, 1, [Op::Delete { key: bytes("a") }]);
    assert_eq!(held(&shard, TWO).len(), 0);
    assert_eq!(leases(shard.engine().view().as_ref(), None, 9).unwrap().len(), 1);
    assert_eq!(leases(shard.engine().view().as_ref(), Some(TWO), 9).unwrap().len(), 0);
}

#[test]
fn what_cannot_be_is_refused_as_a_whole() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1, [grant(ONE)]);
    let before = (pairs(&shard), rows(&shard), shard.header().data_bytes);
    let cases: [(Vec<Op>, Outcome); 4] = [
        (vec![Op::Put(plain("a")), grant(ONE)], Outcome::LeaseExists { lease: ONE }),
        (vec![with_lease("a", ONE), with_lease("b", TWO)], Outcome::LeaseNotFound { lease: TWO }),
        (vec![grant(TWO), grant(TWO)], Outcome::LeaseExists { lease: TWO }),
        (vec![Op::LeaseRevoke { id: ONE }, with_lease("a", ONE)], Outcome::LeaseNotFound { lease: ONE }),
    ];
    for (ops, expected) in cases {
        let applied = apply(&mut shard, &[Entry::of([write(ops)])]);
        assert_eq!((&applied.outcomes[0].1, &applied.leases[..]), (&expected, &[][..]));
        assert_eq!((pairs(&shard), rows(&shard), shard.header().data_bytes), before);
    }
}

#[test]
fn one_lease_holds_so_many_keys_and_no_more() {
    let mut shard = shard(Limits { max_bytes: 1 << 30, ..Limits::default() });
    at(&mut shard, 1, [grant(ONE)]);
    let all: Vec<Op> = (0..MAX_LEASE_KEYS).map(|number| with_lease(&format!("{number:05}"), ONE)).collect();
    at(&mut shard, 1, all);
    assert_eq!(at(&mut shard, 1, [with_lease("one more", ONE)]).0, Outcome::LeaseFull { max_keys: MAX_LEASE_KEYS });
    assert!(matches!(at(&mut shard, 1, [with_lease("00000", ONE)]).0, Outcome::Applied { .. }), "it is there already");
    at(&mut shard, 1, [grant(TWO), with_lease("other", TWO)]);
    // More than goes at once: the second is left.
    let both = vec![(ONE, 1), (TWO, 5)];
    let (_, changes) = at(&mut shard, 1, [Op::LeaseExpire { leases: both.clone() }]);
    assert_eq!((changes.len(), changes[0].events.len()), (1, MAX_LEASE_KEYS as usize));
    assert_eq!(keys(&shard), ["other"]);
    at(&mut shard, 1, [Op::LeaseExpire { leases: both }]);
    assert!(keys(&shard).is_empty());
}

#[test]
fn an_expiry_means_one_grant() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1, [grant(ONE), with_lease("a", ONE)]);
    at(&mut shard, 1, [Op::LeaseRevoke { id: ONE }, grant(ONE), with_lease("a", ONE)]);
    let late = Op::LeaseExpire { leases: vec![(ONE, 1), (TWO, 1)] };
    let (outcome, changes) = at(&mut shard, 1, [late]);
    assert!(matches!(outcome, Outcome::Applied { revision: Revision(3), .. }), "{outcome:?}");
    assert_eq!((keys(&shard), changes.len()), (vec!["a".to_owned()], 0));
    let named_twice = Op::LeaseExpire { leases: vec![(ONE, 2), (ONE, 2)] };
    let applied = apply(&mut shard, &[Entry::of([write([named_twice])])]);
    assert_eq!(applied.leases, [LeaseChange::Ended(ONE)]);
    assert_eq!(told(&applied.changes), ["4: Expire a"]);
}

#[test]
fn a_transaction_compares_leases_and_hangs_keys_on_them() {
    let mut shard = shard(ROOMY);
    at(&mut shard, 1, [grant(ONE), with_lease("a", ONE), Op::Put(plain("b"))]);
    let compare = |key: &str, relation, id| Compare { keys: Keys::One(bytes(key)), relation, target: Target::Lease(id) };
    let range = Compare { keys: Keys::Range(KeyRange::all()), relation: Relation::Less, target: Target::Lease(TWO) };
    let transaction = Transaction {
        compares: vec![
            compare("a", Relation::Equal, ONE),
            compare("b", Relation::Equal, LeaseId(0)),
            compare("none", Relation::Equal, LeaseId(0)),
            compare("a", Relation::NotEqual, TWO),
            range,
        ],
        then: vec![with_lease("c", ONE)],
        otherwise: Vec::new(),
    };
    at(&mut shard, 1, [Op::Transaction(Box::new(transaction))]);
    assert_eq!(lease_keys(shard.engine().view().as_ref(), ONE, None, 9).unwrap(), ["a", "c"]);
}

#[test]
fn leases_and_ends_count_towards_the_limit() {
    let mut shard = shard(Limits { max_bytes: 60, ..Limits::default() });
    assert!(matches!(at(&mut shard, 1, [grant(ONE)]).0, Outcome::Applied { .. }));
    assert_eq!(at(&mut shard, 1, [grant(TWO)]).0, Outcome::Full { max_bytes: 60 });
    assert_eq!(at(&mut shard, 1, [for_a_time("a", 9), for_a_time("b", 9)]).0, Outcome::Full { max_bytes: 60 });
    assert!(matches!(at(&mut shard, 1, [Op::LeaseRevoke { id: ONE }]).0, Outcome::Applied { .. }));
    assert_eq!(shard.header().data_bytes, 0);
}

fn timed_op() -> impl Strategy<Value = Op> {
    let id = || select(vec![ONE, TWO, LeaseId(9)]);
    let put = (key(), prop::option::of(1..400_u64), prop::option::of(id()))
        .prop_map(|(key, ttl_ms, lease)| Op::Put(Put { ttl_ms, lease, ..Put::new(key, bytes("v")) }));
    prop_oneof![
        6 => put,
        2 => id().prop_map(grant),
        1 => id().prop_map(|id| Op::LeaseRevoke { id }),
        1 => prop::collection::vec((id(), 1..9_u64), 0..3).prop_map(|leases| Op::LeaseExpire { leases }),
        1 => key().prop_map(|key| Op::Delete { key }),
        1 => Just(Op::DeleteRange { range: KeyRange::all(), max_keys: 2 }),
        1 => (limits(), prop::option::of(1..300_u64)).prop_map(|(limits, ttl_ms)| {
            let limits = Limits { max_bytes: limits.max_bytes.max(200), ..Limits::default() };
            Op::Configure(Settings { ttl_ms, ..Settings::of(limits) })
        }),
    ]
}

fn timed_entries() -> impl Strategy<Value = Vec<Entry>> {
    let write = prop::collection::vec(timed_op(), 0..3).prop_map(write);
    let entry = (0..200_u64, prop::collection::vec(write, 0..3));
    prop::collection::vec(entry, 0..25).prop_map(|entries| {
        let mut now_ms = 0;
        let entry = |(pause_ms, writes): (u64, Vec<Write>)| {
            now_ms += pause_ms;
            Entry { log_time_ms: now_ms, ..Entry::of(writes) }
        };
        entries.into_iter().map(entry).collect()
    })
}

/// A shard made from what another one's snapshot would hold, in another kind of engine.
fn restored(shard: &Shard) -> Shard {
    let engine = SimulatedEngines::default().open(Place { group: 1, build: 0 }, &EngineSpec::of("btree")).unwrap();
    let mut rebuild = engine.rebuild().unwrap();
    for (table, rows) in [(Table::Current, pairs(shard)), (Table::Meta, rows(shard))] {
        for (key, value) in rows {
            rebuild.put(table, key, value).unwrap();
        }
    }
    for (key, value) in Shard::state_rows(shard.state_bytes()).unwrap() {
        rebuild.put(Table::Meta, key, value).unwrap();
    }
    rebuild.commit(shard.header().applied_index, shard.header().revision.0).unwrap();
    Shard::restore(engine, shard.state_bytes()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_say_what_the_pairs_say(entries in timed_entries()) {
        let mut shard = shard(ROOMY);
        let mut there = BTreeMap::new();
        for entry in entries {
            let now_ms = entry.log_time_ms;
            let applied = apply(&mut shard, &[entry]);
            for change in applied.leases {
                match change {
                    LeaseChange::Granted(lease) => drop(there.insert(lease.id, lease.granted_at)),
                    LeaseChange::Ended(id) => prop_assert!(there.remove(&id).is_some()),
                }
            }
            for change in &applied.changes {
                for event in change.events.iter().filter(|event| event.cause == Cause::Expire) {
                    let record = event.record_before().unwrap().unwrap();
                    prop_assert!(record.lease.is_some() || record.expires_at_ms.is_some_and(|end_ms| end_ms.get() <= now_ms));
                }
            }
            let view = shard.engine().view();
            let found = leases(view.as_ref(), None, usize::MAX).unwrap();
            prop_assert_eq!(&found.iter().map(|lease| (lease.id, lease.granted_at)).collect::<BTreeMap<_, _>>(), &there);
            let mut expected_rows = found.len();
            for (key, record) in records(&shard) {
                prop_assert!(record.expires_at_ms.is_none_or(|end_ms| end_ms.get() > now_ms), "{:?} is over", key);
                expected_rows += usize::from(record.expires_at_ms.is_some()) + usize::from(record.lease.is_some());
                if let Some(id) = record.lease {
                    prop_assert!(lease_keys(view.as_ref(), id, None, usize::MAX).unwrap().contains(&key));
                }
                prop_assert!(record.expires_at_ms.is_none_or(|end_ms| shard.due_at_ms().is_some_and(|due| due <= end_ms.get())));
            }
            for lease in found {
                prop_assert_eq!(lease.keys, lease_keys(view.as_ref(), lease.id, None, usize::MAX).unwrap().len() as u64);
            }
            prop_assert_eq!(rows(&shard).len(), expected_rows);
            prop_assert_eq!(shard.header().data_bytes, counted_bytes(&shard) + row_bytes(&shard));
        }
    }

    #[test]
    fn a_copy_in_another_engine_goes_on_alike_however_entries_are_batched(entries in timed_entries(), cut: Index) {
        let (before, after) = entries.split_at(cut.index(entries.len() + 1));
        let mut original = shard(ROOMY);
        before.iter().for_each(|entry| drop(apply(&mut original, std::slice::from_ref(entry))));
        let mut copy = restored(&original);
        let mut expected = Vec::new();
        after.iter().for_each(|entry| expected.extend(apply(&mut original, std::slice::from_ref(entry)).changes));
        prop_assert_eq!(apply(&mut copy, after).changes, expected);
        prop_assert_eq!(copy.state_bytes(), original.state_bytes());
        prop_assert_eq!((pairs(&copy), rows(&copy)), (pairs(&original), rows(&original)));
        let again = Shard::open(Arc::clone(copy.engine())).unwrap().unwrap();
        prop_assert_eq!(again.state_bytes(), original.state_bytes());
        // The other one may still think of a pair that is gone already.
        prop_assert!(again.due_at_ms().is_none_or(|due| copy.due_at_ms().is_some_and(|earlier| earlier <= due)));
    }
}

#[test]
fn an_engine_in_memory_is_restored_with_its_rows() {
    let mut original = shard(ROOMY);
    at(&mut original, 1, [grant(ONE), with_lease("a", ONE), for_a_time("b", 9)]);
    let engine: Arc<dyn Engine> = Arc::new(Trie::new());
    let mut rebuild = engine.rebuild().unwrap();
    for (table, all) in [(Table::Current, pairs(&original)), (Table::Meta, rows(&original))] {
        all.into_iter().for_each(|(key, value)| rebuild.put(table, key, value).unwrap());
    }
    rebuild.commit(original.header().applied_index, original.header().revision.0).unwrap();
    let mut copy = Shard::restore(engine, original.state_bytes()).unwrap();
    assert_eq!(copy.due_at_ms(), Some(10));
    at(&mut copy, 10, [Op::LeaseRevoke { id: ONE }]);
    assert!(keys(&copy).is_empty());
}
