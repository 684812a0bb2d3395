//! Transactions: what they look at and when, what is refused as a whole, and what cannot be.

use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::{Direction, KeyRange};
use quorate_keyspace::{
    Compare, Detail, Keys, Limits, Listing, MAX_TRANSACTION_DEPTH, MAX_TRANSACTION_KEYS, MAX_TRANSACTION_OPS,
    MAX_TRANSACTION_READ_BYTES, Op, OpResult, Outcome, Pairs, Put, Relation, Removed, Revision, Shard, Target, Transaction,
    TransactionError, TransactionResult, Write, read_only,
};

use crate::writes::{Entry, ROOMY, apply, compare, counted_bytes, op, records, shard};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(Put::new(bytes(key), bytes(value)))
}

fn get(key: &str) -> Op {
    Op::Get { key: bytes(key) }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: bytes(key) }
}

fn delete_range(prefix: &str) -> Op {
    Op::DeleteRange { range: KeyRange::prefix(prefix.as_bytes()), max_keys: u64::MAX }
}

fn list(prefix: &str) -> Op {
    let range = KeyRange::prefix(prefix.as_bytes());
    Op::List(Listing { range, max_pairs: u64::MAX, direction: Direction::Forward, is_with_values: true })
}

fn within(transaction: Transaction) -> Op {
    Op::Transaction(Box::new(transaction))
}

fn value_is(key: &str, value: &str) -> Compare {
    Compare { keys: Keys::One(bytes(key)), relation: Relation::Equal, target: Target::Value(bytes(value)) }
}

fn transaction(compares: &[Compare], then: &[Op], otherwise: &[Op]) -> Transaction {
    Transaction { compares: compares.to_vec(), then: then.to_vec(), otherwise: otherwise.to_vec() }
}

fn outcome(shard: &mut Shard, transaction: Transaction) -> Outcome {
    apply(shard, &[Entry::of([Write::transaction(transaction)])]).outcomes.remove(0).1
}

/// The revision, and what the transaction came to.
fn done(shard: &mut Shard, transaction: Transaction) -> (u64, TransactionResult) {
    let outcome = outcome(shard, transaction);
    let Outcome::Applied { revision, mut results } = outcome else { panic!("{outcome:?}") };
    (revision.0, transaction_in(results.remove(0)))
}

fn transaction_in(result: OpResult) -> TransactionResult {
    match result.detail.map(|detail| *detail) {
        Some(Detail::Transaction(result)) => result,
        detail => panic!("{detail:?}"),
    }
}

/// Keys and values that an operation read.
fn read(result: &OpResult) -> Vec<(String, String)> {
    let Some(Detail::Read(Pairs { items, .. })) = result.detail.as_deref() else { panic!("{result:?}") };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    items.iter().map(|(key, record)| (text(key), text(&record.value))).collect()
}

#[test]
fn all_writes_have_one_revision_and_results_come_in_order() {
    let mut shard = shard(ROOMY);
    let then = [put("a", "1"), put("b", "2"), get("a"), delete("b"), delete("nothing"), list(""), delete_range("a")];
    let (revision, result) = done(&mut shard, transaction(&[], &then, &[]));
    assert_eq!((revision, result.failed, result.results.len()), (2, None, 7));
    assert_eq!(result.results[0].after.map(|meta| (meta.mod_revision, meta.version)), Some((Revision(2), 1)));
    assert_eq!(read(&result.results[2]), [("a".to_owned(), "1".to_owned())]);
    assert_eq!(result.results[3].before.map(|meta| meta.mod_revision), Some(Revision(2)));
    assert_eq!(result.results[4], OpResult::default());
    assert_eq!(read(&result.results[5]), [("a".to_owned(), "1".to_owned())]);
    assert_eq!(result.results[6], OpResult::of(Detail::Removed(Removed { keys: 1, next: None })));
    assert_eq!((shard.header().data_bytes, records(&shard).len()), (0, 0));
}

#[test]
fn what_changes_nothing_raises_no_revision() {
    let mut shard = shard(ROOMY);
    let nothing = transaction(&[value_is("a", "1")], &[put("a", "2")], &[get("a"), delete("a"), delete_range("")]);
    let (revision, result) = done(&mut shard, nothing);
    assert_eq!((revision, result.failed, read(&result.results[0])), (1, Some(0), vec![]));
    assert_eq!(shard.header().revision, Revision(1));
}

#[test]
fn compares_of_transactions_within_look_at_what_was_before() {
    let mut shard = shard(ROOMY);
    done(&mut shard, transaction(&[], &[put("a", "old")], &[]));
    let inner = transaction(&[value_is("a", "old")], &[get("a"), put("b", "then")], &[put("b", "else")]);
    let (_, result) = done(&mut shard, transaction(&[], &[put("a", "new"), within(inner)], &[]));
    let inner = transaction_in(result.results[1].clone());
    assert_eq!((inner.failed, read(&inner.results[0])), (None, vec![("a".to_owned(), "new".to_owned())]));
    assert_eq!(records(&shard)[1].1.value, "then");
}

#[test]
fn compares_see_what_writes_of_the_same_round_did() {
    let mut shard = shard(ROOMY);
    let swap = |from, to| Write::transaction(transaction(&[value_is("a", from)], &[put("a", to)], &[put("lost", to)]));
    let writes = [Write::put(bytes("a"), bytes("1")), swap("1", "2"), swap("1", "3"), swap("2", "4")];
    let outcomes = apply(&mut shard, &[Entry::of(writes)]).outcomes;
    let succeeded = outcomes[1..].iter().map(|(_, outcome)| match outcome {
        Outcome::Applied { results, .. } => transaction_in(results[0].clone()).failed.is_none(),
        outcome => panic!("{outcome:?}"),
    });
    assert_eq!(succeeded.collect::<Vec<_>>(), [true, false, true]);
    let values: Vec<Bytes> = records(&shard).into_iter().map(|(_, record)| record.value).collect();
    assert_eq!(values, ["4", "3"]);
}

#[test]
fn what_is_too_much_is_refused_as_a_whole() {
    let limits = Limits { max_bytes: 59, max_key_bytes: 3, max_value_bytes: 40 };
    let mut shard = shard(limits);
    let big = "v".repeat(40);
    done(&mut shard, transaction(&[], &[put("a", "1")], &[]));
    let before = (records(&shard), shard.header().clone());
    let cases = [
        (vec![put("b", &big), put("c", "x"), delete("a"), put("d", "x")], Outcome::Full { max_bytes: 59 }),
        (
            vec![put("b", "1"), within(transaction(&[], &[delete("a"), put("long", "1")], &[]))],
            Outcome::KeyTooLong { max_bytes: 3 },
        ),
        (vec![delete_range(""), put("b", &(big + "v"))], Outcome::ValueTooLarge { max_bytes: 40 }),
    ];
    for (then, refused) in cases {
        assert_eq!(outcome(&mut shard, transaction(&[], &then, &[])), refused);
        assert_eq!(records(&shard), before.0);
        assert_eq!((shard.header().revision, shard.header().data_bytes), (before.1.revision, counted_bytes(&shard)));
    }
    // What is not on the path is not measured.
    let (_, result) = done(&mut shard, transaction(&[value_is("a", "2")], &[put("long", "1")], &[get("a")]));
    assert_eq!(result.failed, Some(0));
}

#[test]
fn keys_of_ranges_and_bytes_that_are_read_have_a_bound() {
    let mut shard = shard(Limits { max_bytes: 1 << 30, ..ROOMY });
    let half = MAX_TRANSACTION_KEYS / 2;
    let fill = |prefix| (0..half).map(move |number| put(&format!("{prefix}{number:05}"), "")).collect();
    for prefix in ["a", "b"] {
        apply(&mut shard, &[Entry::of([Write { guards: Vec::new(), ops: fill(prefix) }])]);
    }
    let too_much = Outcome::TooMuch { max_keys: MAX_TRANSACTION_KEYS, max_bytes: MAX_TRANSACTION_READ_BYTES };
    let every = Compare { keys: Keys::Range(KeyRange::prefix(b"a")), relation: Relation::Equal, target: Target::Version(1) };
    assert_eq!(done(&mut shard, transaction(std::slice::from_ref(&every), &[list("b")], &[])).1.failed, None);
    done(&mut shard, transaction(&[], &[put("b~", "")], &[]));
    assert_eq!(outcome(&mut shard, transaction(&[every], &[list("b")], &[])), too_much);
    assert_eq!(outcome(&mut shard, transaction(&[], &[put("c", "1"), delete_range("a"), delete_range("b")], &[])), too_much);
    assert_eq!(records(&shard).len() as u64, MAX_TRANSACTION_KEYS + 1);

    let third = "v".repeat(3 << 20);
    done(&mut shard, transaction(&[], &[put("x", &third)], &[]));
    let get_twice = [get("x"), get("x")];
    assert_eq!(done(&mut shard, transaction(&[], &get_twice, &[])).1.results.len(), 2);
    let read_four = [&get_twice[..], &[list("x"), put("c", "1"), get("x")]].concat();
    assert_eq!(outcome(&mut shard, transaction(&[], &read_four, &[])), too_much);
    assert!(records(&shard).iter().all(|(key, _)| key != "c"));
}

#[test]
fn a_list_ends_where_it_was_told_to() {
    let mut shard = shard(ROOMY);
    done(&mut shard, transaction(&[], &["a", "b", "c"].map(|key| put(key, key)), &[]));
    let list =
        |max_pairs, direction, is_with_values| Op::List(Listing { range: KeyRange::all(), max_pairs, direction, is_with_values });
    let lists = [list(2, Direction::Reverse, true), list(3, Direction::Forward, false), list(0, Direction::Forward, true)];
    // What was written in the same transaction lies among the rest.
    let then = [&[put("bb", "new"), delete("a")], &lists[..]].concat();
    let (_, result) = done(&mut shard, transaction(&[], &then, &[]));
    let told: Vec<_> = result.results[2..].iter().map(read).collect();
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let expected: [Vec<_>; 3] = [pairs(&[("c", "c"), ("bb", "new")]), pairs(&[("b", ""), ("bb", ""), ("c", "")]), pairs(&[])];
    assert_eq!(told, expected);
    let has_more = |result: &OpResult| matches!(result.detail.as_deref(), Some(Detail::Read(pairs)) if pairs.has_more);
    assert_eq!(result.results[2..].iter().map(has_more).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_key_may_be_written_once_on_each_path() {
    let check = |then: &[Op], otherwise: &[Op]| transaction(&[], then, otherwise).check();
    let twice = |key: &str| Err(TransactionError::DuplicateKey { key: bytes(key) });
    let alternatives = |a: Op, b: Op| within(transaction(&[], &[a], &[b]));
    assert_eq!(check(&[put("a", ""), put("b", ""), get("a"), list("")], &[put("a", "")]), Ok(()));
    assert_eq!(check(&[put("a", ""), put("a", "")], &[]), twice("a"));
    assert_eq!(check(&[], &[put("a", ""), delete("a")]), twice("a"));
    assert_eq!(check(&[delete_range("a"), put("ab", "")], &[]), twice("ab"));
    assert_eq!(check(&[put("ab", ""), delete_range("a")], &[]), twice("ab"));
    assert_eq!(check(&[put("b", ""), delete_range("a"), delete("c"), put("d", "")], &[]), Ok(()));
    let nothing = KeyRange { start: Bound::Included(bytes("z")), end: Bound::Excluded(bytes("a")) };
    assert_eq!(check(&[put("b", ""), Op::DeleteRange { range: nothing, max_keys: 1 }], &[]), Ok(()));
    assert_eq!(check(&[delete_range("a"), delete_range("ab"), delete("a")], &[]), Ok(()));
    assert_eq!(check(&[alternatives(put("a", ""), put("a", ""))], &[]), Ok(()));
    assert_eq!(check(&[alternatives(put("a", ""), delete("b")), put("a", "")], &[]), twice("a"));
    assert_eq!(check(&[put("b", ""), alternatives(put("a", ""), delete("b"))], &[]), twice("b"));
    assert_eq!(check(&[alternatives(put("a", ""), get("b")), alternatives(put("c", ""), put("a", ""))], &[]), twice("a"));
}

#[test]
fn operations_and_depth_have_a_bound() {
    let gets = |count: usize| vec![get("a"); count];
    let nested = |outer: usize, inner: usize| {
        let inner = within(transaction(&[], &gets(inner), &[]));
        transaction(&[], &[gets(outer - 1), vec![inner]].concat(), &[]).check()
    };
    let too_many = |ops, max_ops| Err(TransactionError::TooManyOps { ops, max_ops });
    assert_eq!(transaction(&[], &gets(MAX_TRANSACTION_OPS), &gets(MAX_TRANSACTION_OPS)).check(), Ok(()));
    assert_eq!(transaction(&[], &[], &gets(129)).check(), too_many(129, MAX_TRANSACTION_OPS));
    assert_eq!(transaction(&vec![value_is("a", ""); 129], &[], &[]).check(), too_many(129, MAX_TRANSACTION_OPS));
    assert_eq!((nested(100, 28), nested(100, 29)), (Ok(()), too_many(29, 28)));
    let deep = |depth| (1..depth).fold(Transaction::default(), |inner, _| transaction(&[], &[within(inner)], &[]));
    assert_eq!(deep(MAX_TRANSACTION_DEPTH).check(), Ok(()));
    assert_eq!(deep(MAX_TRANSACTION_DEPTH + 1).check(), Err(TransactionError::TooDeep));
}

fn transactions() -> impl Strategy<Value = Vec<Transaction>> {
    let ops = || proptest::collection::vec(op(), 0..4);
    let one = (proptest::collection::vec(compare(), 0..2), ops(), ops()).prop_map(|(compares, then, otherwise)| Transaction {
        compares,
        then,
        otherwise,
    });
    proptest::collection::vec(one, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What only reads finds in a view what it would find at that place of the log.
    #[test]
    fn a_view_is_read_like_the_log(transactions in transactions()) {
        let mut shard = shard(ROOMY);
        for transaction in transactions {
            let write = Write::transaction(transaction.clone());
            let found = transaction.is_read_only().then(|| read_only(shard.engine().view(), &write).unwrap());
            let revision = shard.header().revision;
            let outcome = outcome(&mut shard, transaction);
            if let Some(found) = found {
                prop_assert_eq!(&found, &outcome);
                prop_assert_eq!(shard.header().revision, revision);
            }
            prop_assert_eq!(shard.header().data_bytes, counted_bytes(&shard));
        }
    }
}
