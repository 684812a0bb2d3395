use proptest::prelude::*;

use super::*;
use crate::entry::Entry;
use crate::patch::{BatchPatch, KeyPatch};
use crate::user_meta::UserMeta;

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = TxnRange> {
    (bytes(), bytes(), bytes()).prop_map(|(prefix, start, end)| TxnRange { prefix, start, end })
}

fn compare() -> impl Strategy<Value = TxnCompare> {
    let keys = prop_oneof![bytes().prop_map(TxnKeys::One), range().prop_map(TxnKeys::Range)];
    let relation = proptest::sample::select(Relation::ALL.map(|(relation, _)| relation).to_vec());
    (keys, relation, any::<u64>(), bytes(), 0..5_u8).prop_map(|(keys, relation, number, value, which)| {
        let test = match which {
            0 => TxnTest::Exists(number % 2 == 0),
            1 => TxnTest::Version(relation, number),
            2 => TxnTest::CreateRevision(relation, number),
            3 => TxnTest::ModRevision(relation, number),
            _ => TxnTest::Value(relation, value),
        };
        TxnCompare { keys, test }
    })
}

fn op() -> impl Strategy<Value = TxnOp> {
    let list = (range(), proptest::option::of(any::<u64>()), any::<bool>(), any::<bool>());
    let leaf = prop_oneof![
        bytes().prop_map(|key| TxnOp::Get { key }),
        bytes().prop_map(|key| TxnOp::Delete { key }),
        (bytes(), bytes()).prop_map(|(key, value)| TxnOp::Put(Box::new(BatchPut { key, value, ..BatchPut::default() }))),
        (bytes(), any::<i64>()).prop_map(|(key, by)| {
            let patch = KeyPatch::Increment { by, initial: 0 };
            TxnOp::Patch(Box::new(BatchPatch { key, patch, cas: None, ttl: None }))
        }),
        range().prop_map(TxnOp::DeleteRange),
        list.prop_map(|(range, limit, is_reverse, is_with_values)| {
            TxnOp::List(TxnList { range, limit, is_reverse, is_with_values })
        }),
    ];
    leaf.prop_recursive(3, 10, 3, |within| txn_of(within).prop_map(TxnOp::Txn))
}

fn txn_of(op: impl Strategy<Value = TxnOp> + Clone) -> impl Strategy<Value = Txn> {
    let ops = || proptest::collection::vec(op.clone(), 0..3);
    (proptest::collection::vec(compare(), 0..3), ops(), ops()).prop_map(|(compares, then, otherwise)| Txn {
        compares,
        then,
        otherwise,
    })
}

proptest! {
    #[test]
    fn transactions_round_trip(txn in txn_of(op().boxed())) {
        let json = serde_json::to_vec(&txn.to_body()).unwrap();
        prop_assert_eq!(Txn::parse(&json).map_err(|error| error.to_string()), Ok(txn));
    }
}

fn parse(json: &str) -> Result<Txn, String> {
    Txn::parse(json.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn compares_are_written_as_people_would() {
    let json = r#"{"if": [
        {"key": "a", "mod_revision": 12}, {"key": "b", "exists": false}, {"key": "c", "value": "x"},
        {"key": "c", "lease": "0"}, {"key": "c", "lease": {"!=": "ABC"}},
        {"key": "d", "version": {">": 3}}, {"key64": "_w", "value64": {"!=": "_w"}}, {"prefix": "p/", "create_revision": {"<": 9}}
    ]}"#;
    let one = |key: &'static str| TxnKeys::One(Bytes::from_static(key.as_bytes()));
    let ff = Bytes::from_static(b"\xff");
    let range = TxnRange { prefix: Bytes::from_static(b"p/"), ..TxnRange::default() };
    let expected = [
        (one("a"), TxnTest::ModRevision(Relation::Equal, 12)),
        (one("b"), TxnTest::Exists(false)),
        (one("c"), TxnTest::Value(Relation::Equal, Bytes::from_static(b"x"))),
        (one("c"), TxnTest::Lease(Relation::Equal, 0)),
        (one("c"), TxnTest::Lease(Relation::NotEqual, 0xabc)),
        (one("d"), TxnTest::Version(Relation::Greater, 3)),
        (TxnKeys::One(ff.clone()), TxnTest::Value(Relation::NotEqual, ff)),
        (TxnKeys::Range(range), TxnTest::CreateRevision(Relation::Less, 9)),
    ];
    let compares = expected.map(|(keys, test)| TxnCompare { keys, test }).to_vec();
    assert_eq!(parse(json), Ok(Txn { compares, ..Txn::default() }));
    assert_eq!(parse("{}"), Ok(Txn::default()));
}

#[test]
fn what_is_no_transaction_says_where_and_why() {
    let cases = [
        ("[]", "not a JSON object"),
        ("", "EOF"),
        (r#"{"if": [["a"]]}"#, "if[0]: not a JSON object"),
        (r#"{"when": []}"#, "unknown field `when`"),
        (r#"{"op": "txn"}"#, "op: only a transaction within another has it"),
        (r#"{"if": [{"key": "a"}]}"#, "if[0]: exactly one of exists, version"),
        (r#"{"if": [{"key": "a", "exists": true, "version": 1}]}"#, "if[0]: exactly one of exists, version"),
        (r#"{"if": [{"exists": true}]}"#, "if[0]: exactly one of a key and a range"),
        (r#"{"if": [{"key": "a", "prefix": "b", "exists": true}]}"#, "if[0]: exactly one of a key and a range"),
        (r#"{"if": [{"key": "a", "exists": true}, {"key": "a", "colour": 1}]}"#, "if[1]: unknown field `colour`"),
        (r#"{"if": [{"key": "a", "lease": "x"}]}"#, "if[0]: lease: neither the id"),
        (r#"{"if": [{"key": "a", "version": {">=": 1}}]}"#, "if[0]: neither a number nor one of"),
        (r#"{"if": [{"key": "a", "value": 1}]}"#, "if[0]: neither a text nor one of"),
        (r#"{"if": [{"key64": "!", "exists": true}]}"#, "if[0]: key64: "),
        (r#"{"if": [{"key": "a", "value64": "!"}]}"#, "if[0]: value64: "),
        (r#"{"then": [{"key": "a"}]}"#, "then[0]: missing field `op`"),
        (
            r#"{"then": [{"op": "incr", "key": "a"}]}"#,
            "then[0]: there is no operation \"incr\"; there are get, put, delete, increment, append, touch, merge, list",
        ),
        (
            r#"{"then": [{"op": "get", "key": "a"}, {"op": "put", "key": "a"}]}"#,
            "then[1]: exactly one of value, value64 and json",
        ),
        (r#"{"else": [{"op": "put", "key": "a", "value": "", "cas": 0}]}"#, "else[0]: cas: a transaction compares in \"if\""),
        (r#"{"else": [{"op": "delete", "key": "a", "cas": 3}]}"#, "else[0]: cas: "),
        (r#"{"else": [{"op": "increment", "key": "a", "cas": 3}]}"#, "else[0]: cas: "),
        (r#"{"then": [{"op": "append", "key": "a"}]}"#, "then[0]: exactly one of value and value64"),
        (r#"{"then": [{"op": "delete_range"}]}"#, "then[0]: a range delete needs a selection"),
        (r#"{"then": [{"op": "delete_range", "prefix": "a", "all": true}]}"#, "then[0]: all: only without a selection"),
        (r#"{"then": [{"op": "delete_range", "prefix": "a", "limit": 3}]}"#, "then[0]: limit: delete_range does not take it"),
        (r#"{"then": [{"op": "list", "all": true}]}"#, "then[0]: all: "),
        (r#"{"then": [{"op": "list", "start": "a", "start64": "YQ"}]}"#, "then[0]: exactly one of start and start64"),
        (r#"{"then": [{"op": "txn", "else": [{"op": "txn", "if": [{}]}]}]}"#, "then[0].else[0].if[0]: exactly one of a key"),
    ];
    for (json, told) in cases {
        let error = parse(json).unwrap_err();
        assert!(error.starts_with(told), "{json}: {error}");
    }
    let nested =
        |depth: usize| format!("{{\"then\":[{}{}]}}", "{\"op\":\"txn\",\"then\":[".repeat(depth - 1), "]}".repeat(depth - 1));
    assert!(parse(&nested(MAX_TXN_DEPTH)).is_ok());
    for depth in [MAX_TXN_DEPTH + 1, 30, 100_000] {
        assert!(parse(&nested(depth)).is_err(), "{depth}");
    }
}

#[test]
fn results_round_trip() {
    let entry = Entry {
        key: Bytes::from_static(b"\xff"),
        value: Some(Bytes::from_static(b"v")),
        content_type: None,
        meta: UserMeta::default(),
        create_revision: 2,
        mod_revision: 3,
        version: 4,
        stamp: None,
        ttl_ms: None,
        lease: Some(5),
    };
    let result = TxnResult {
        revision: 7,
        failed_if: Some(2),
        results: vec![
            TxnDone::Put { is_new: true, version: 1 },
            TxnDone::Put { is_new: false, version: 9 },
            TxnDone::Patched { version: 9, number: Some(-5) },
            TxnDone::Patched { version: 1, number: None },
            TxnDone::Deleted { keys: 0 },
            TxnDone::DeletedRange { keys: 5 },
            TxnDone::Got(None),
            TxnDone::Got(Some(entry.clone())),
            TxnDone::Listed { items: vec![entry], has_more: true },
            TxnDone::Listed { items: vec![], has_more: false },
            TxnDone::Txn { failed_if: None, results: vec![TxnDone::Got(None)] },
        ],
    };
    let json = serde_json::to_string(&result.to_body()).unwrap();
    let body: TxnResultBody<'_> = serde_json::from_str(&json).unwrap();
    assert!(
        json.starts_with(r#"{"succeeded":false,"failed_if":2,"revision":7,"results":[{"status":201,"version":1},"#),
        "{json}"
    );
    assert_eq!(TxnResult::try_from(body), Ok(result));
    let unknown: TxnResultBody<'_> =
        serde_json::from_str(r#"{"succeeded":true,"revision":1,"results":[{"status":200}]}"#).unwrap();
    assert_eq!(TxnResult::try_from(unknown), Err(TxnResultError::Unknown(200)));
}
