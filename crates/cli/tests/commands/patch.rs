//! `quorate incr`, `append`, `touch`, `patch`.

use quorate_api::problem::{Code, WriteOutcome};
use serde_json::json;

use crate::calls::{CannedNode, call, canned};

const CHANGED: &[(&str, &str)] = &[("etag", "\"1.5\""), ("quorate-revision", "9"), ("quorate-version", "2")];

#[test]
fn a_sum_is_printed_alone() {
    let node = CannedNode::start(|| canned(200, CHANGED, "-7"));
    let called = node.call(&["incr", "a b", "--by", "-3", "--cas", "4"]);
    assert_eq!((called.exit, called.text(), called.stderr.as_str()), (0, "-7\n", ""));
    let json = json!({"number": -7, "revision": 9, "version": 2, "etag": "\"1.5\""});
    assert_eq!(node.call(&["incr", "n", "--initial", "10", "-o", "json"]).json(), json);
    let seen = [
        r#"PATCH /v1/kv/default/a%20b?cas=4 {"op":"increment","by":-3}"#,
        r#"PATCH /v1/kv/default/n {"op":"increment","by":1,"initial":10}"#,
    ];
    assert_eq!(node.seen(), seen);
}

#[test]
fn values_come_from_the_command_line_and_elsewhere() {
    let node = CannedNode::start(|| canned(200, CHANGED, "abc"));
    assert_eq!(node.call(&["append", "k", "-1"]).text(), "appended to `k` at revision 9\n");
    assert_eq!(call(&["append", "k", "-", "-e", &node.url], b"x\n").exit, 0);
    assert_eq!(node.call(&["touch", "k"]).text(), "touched `k` at revision 9\n");
    assert_eq!(node.call(&["patch", "k", "{\"a\":null}", "--key64"]).exit, 2, "`k` is no base64url");
    let patched = node.call(&["patch", "k", "{\"a\": null}", "-o", "json"]);
    assert_eq!(patched.json(), json!({"bytes": 3, "revision": 9, "version": 2, "etag": "\"1.5\""}));
    let seen = [
        r#"PATCH /v1/kv/default/k {"op":"append","value":"-1"}"#,
        r#"PATCH /v1/kv/default/k {"op":"append","value":"x\n"}"#,
        r#"PATCH /v1/kv/default/k {"op":"touch"}"#,
        r#"PATCH /v1/kv/default/k {"a": null}"#,
    ];
    assert_eq!(node.seen(), seen);
}

#[test]
fn what_is_not_done_has_its_exit_code() {
    let not_applied = Some(WriteOutcome::NotApplied);
    for (code, outcome, exit, words) in [
        (Code::KeyNotFound, not_applied, 3, "keyspace default holds no key `k`"),
        (Code::UnfitValue, not_applied, 1, "cannot touch `k`: Value cannot be changed so"),
        (Code::PreconditionFailed, not_applied, 4, "cannot touch `k`"),
        (Code::OutcomeUnknown, Some(WriteOutcome::Unknown), 5, "touch `k`"),
    ] {
        let called = CannedNode::refusing(code, outcome, None).call(&["touch", "k"]);
        assert_eq!(called.exit, exit, "{called:?}");
        assert!(called.stderr.contains(words), "{called:?}");
    }
    let refused = CannedNode::refusing(Code::UnfitValue, not_applied, None).call(&["incr", "n"]);
    assert!(refused.exit == 1 && refused.stderr.contains("cannot increment `n`"), "{refused:?}");
}
