//! Changes of a key by what it holds, in the state machine.

use bytes::Bytes;
use quorate_keyspace::{
    Condition, Detail, Edit, KeyMeta, Limits, Op, OpResult, Outcome, Patch, Put, Record, Revision, Shard, Transaction, Unfit,
    Write,
};

use crate::writes::{Entry, ROOMY, apply, records, shard};

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn patch(key: &'static str, edit: Edit) -> Patch {
    Patch { key: bytes(key), edit, ttl_ms: None, max_value_bytes: 1 << 20, is_told: true }
}

fn write(patch: Patch) -> Write {
    Write { ops: vec![Op::Patch(Box::new(patch))], ..Write::default() }
}

fn done(shard: &mut Shard, write: Write) -> Outcome {
    apply(shard, &[Entry::of([write])]).outcomes.remove(0).1
}

fn increment(by: i64) -> Edit {
    Edit::Increment { by, initial: 0 }
}

fn append(value: &'static str) -> Edit {
    Edit::Append { value: bytes(value) }
}

fn merge(patch: &'static str) -> Edit {
    Edit::Merge { patch: bytes(patch) }
}

/// The revision, and what the only result tells.
fn told(outcome: Outcome) -> (u64, OpResult, Option<Record>) {
    let Outcome::Applied { revision, mut results } = outcome else { panic!("{outcome:?}") };
    let result = results.remove(0);
    let record = match result.detail.as_deref() {
        Some(Detail::Read(pairs)) => Some(pairs.items[0].1.clone()),
        None => None,
        detail => panic!("{detail:?}"),
    };
    (revision.0, result, record)
}

fn meta(create: u64, modified: u64, version: u64) -> KeyMeta {
    KeyMeta { create_revision: Revision(create), mod_revision: Revision(modified), version }
}

#[test]
fn what_goes_with_a_value_stays_and_what_comes_to_be_has_its_type() {
    let mut shard = shard(ROOMY);
    let user_meta = vec![(bytes("owner"), bytes("me"))];
    let put = Put { content_type: Some(bytes("a/b")), user_meta: user_meta.clone(), ..Put::new(bytes("k"), bytes("1")) };
    done(&mut shard, Write { ops: vec![Op::Put(put)], ..Write::default() });
    for (position, (edit, value)) in
        [(increment(41), "42"), (append("0"), "420"), (Edit::Touch, "420"), (merge("\"x\""), "\"x\"")].into_iter().enumerate()
    {
        let revision = position as u64 + 3;
        let (at, result, record) = told(done(&mut shard, write(patch("k", edit))));
        let after = meta(2, revision, revision - 1);
        assert_eq!((at, result.before, result.after), (revision, Some(meta(2, revision - 1, revision - 2)), Some(after)));
        let expected = Record {
            meta: after,
            content_type: Some(bytes("a/b")),
            user_meta: user_meta.clone(),
            expires_at_ms: None,
            lease: None,
            value: bytes(value),
        };
        assert_eq!(record.as_ref(), Some(&expected));
        assert_eq!(records(&shard), [(bytes("k"), expected)]);
    }
    for (key, edit, value, content_type) in [
        ("n", Edit::Increment { by: -1, initial: 10 }, "9", Some("text/plain")),
        ("a", append("x"), "x", None),
        ("m", merge("{\"a\": null, \"b\": 1}"), "{\"b\":1}", Some("application/json")),
    ] {
        let (_, result, record) = told(done(&mut shard, write(patch(key, edit))));
        let record = record.unwrap();
        assert_eq!((result.before, record.meta.version), (None, 1), "{key}");
        assert_eq!((record.value, record.content_type), (bytes(value), content_type.map(bytes)), "{key}");
    }
}

#[test]
fn a_touch_of_nothing_is_nothing() {
    let mut shard = shard(ROOMY);
    assert_eq!(told(done(&mut shard, write(patch("k", Edit::Touch)))), (1, OpResult::default(), None));
    assert!(records(&shard).is_empty());
}

#[test]
fn the_new_value_is_told_only_if_it_is_wanted() {
    let mut shard = shard(ROOMY);
    let (_, result, record) = told(done(&mut shard, write(Patch { is_told: false, ..patch("k", append("x")) })));
    assert_eq!((result.after, record), (Some(meta(2, 2, 1)), None));
}

#[test]
fn what_cannot_be_done_leaves_everything_and_names_the_key() {
    let mut shard = shard(ROOMY);
    done(&mut shard, Write::put(bytes("text"), bytes("hello")));
    done(&mut shard, Write::put(bytes("max"), bytes("9223372036854775807")));
    for (key, edit, expected) in [
        ("text", increment(1), Unfit::NotANumber),
        ("max", increment(1), Unfit::Overflow),
        ("text", merge("{}"), Unfit::Target(quorate_keyspace::JsonError::Malformed { at: 0 })),
        ("new", merge("{"), Unfit::Patch(quorate_keyspace::JsonError::Malformed { at: 1 })),
    ] {
        let before = records(&shard);
        let ops = vec![Op::Put(Put::new(bytes("other"), bytes("x"))), Op::Patch(Box::new(patch(key, edit)))];
        let refused = done(&mut shard, Write { ops, ..Write::default() });
        assert_eq!(refused, Outcome::Unfit { key: bytes(key), why: expected });
        assert_eq!((records(&shard), shard.header().revision), (before, Revision(3)));
    }
}

#[test]
fn conditions_come_first() {
    let mut shard = shard(ROOMY);
    done(&mut shard, Write::put(bytes("k"), bytes("text")));
    let stale = write(patch("k", increment(1))).only_if(bytes("k"), Condition::ModRevisionIn(vec![Revision(7)]));
    assert!(matches!(done(&mut shard, stale), Outcome::ConditionFailed { .. }));
    assert!(write(patch("k", increment(1))).is_conditional(), "a write that is repeated elsewhere would do something else");
}

#[test]
fn values_grow_up_to_the_smaller_of_both_limits() {
    for (limit, of_write, holds) in [(0, 4, true), (4, 100, true), (3, 100, false), (100, 3, false), (0, 3, false)] {
        let mut shard = shard(Limits { max_value_bytes: limit, ..ROOMY });
        done(&mut shard, Write::put(bytes("k"), bytes("ab")));
        let outcome = done(&mut shard, write(Patch { max_value_bytes: of_write, ..patch("k", append("cd")) }));
        match outcome {
            Outcome::Applied { .. } => assert!(holds, "{limit} {of_write}"),
            Outcome::ValueTooLarge { max_bytes } => assert_eq!((holds, max_bytes), (false, 3), "{limit} {of_write}"),
            other => panic!("{other:?}"),
        }
    }
    let mut small = shard(Limits { max_key_bytes: 1, max_bytes: 12, ..ROOMY });
    assert_eq!(done(&mut small, write(patch("kk", increment(1)))), Outcome::KeyTooLong { max_bytes: 1 });
    assert!(matches!(done(&mut small, write(patch("k", append("x")))), Outcome::Applied { .. }));
    assert_eq!(done(&mut small, write(patch("k", append("0123456789")))), Outcome::Full { max_bytes: 12 });
}

#[test]
fn each_sees_what_those_before_it_left() {
    let mut shard = shard(ROOMY);
    let within = Transaction { then: vec![Op::Patch(Box::new(patch("b", append("!"))))], ..Transaction::default() };
    let ops = vec![
        Op::Put(Put::new(bytes("a"), bytes("1"))),
        Op::Patch(Box::new(patch("a", increment(1)))),
        Op::Patch(Box::new(patch("a", increment(1)))),
        Op::Transaction(Box::new(within)),
    ];
    done(&mut shard, Write { ops, ..Write::default() });
    let values: Vec<_> = records(&shard).into_iter().map(|(_, record)| (record.value, record.meta)).collect();
    assert_eq!(values, [(bytes("3"), meta(2, 2, 3)), (bytes("!"), meta(2, 2, 1))]);
    let twice = |key| vec![Op::Patch(Box::new(patch("a", increment(1)))), Op::Patch(Box::new(patch(key, Edit::Touch)))];
    assert!(Transaction { then: twice("a"), ..Transaction::default() }.check().is_err());
    assert!(Transaction { then: twice("b"), ..Transaction::default() }.check().is_ok());
}

#[test]
fn a_write_changes_no_more_than_it_may_read() {
    let mut shard = shard(Limits { max_bytes: 1 << 30, ..ROOMY });
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    let roomy = |key, edit| Op::Patch(Box::new(Patch { max_value_bytes: 8 << 20, ..patch(key, edit) }));
    let ops = |keys: &[&'static str]| keys.iter().map(|key| roomy(key, Edit::Append { value: large.clone() })).collect();
    assert!(matches!(done(&mut shard, Write { ops: ops(&["a", "b"]), ..Write::default() }), Outcome::Applied { .. }));
    let touches = vec![roomy("a", Edit::Touch), roomy("b", Edit::Touch), roomy("a", Edit::Touch), roomy("b", Edit::Touch)];
    assert!(matches!(done(&mut shard, Write { ops: touches, ..Write::default() }), Outcome::TooMuch { .. }));
}
