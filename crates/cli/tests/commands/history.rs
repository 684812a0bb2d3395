//! `quorate history`, `diff` and `keyspace compact`.

use quorate_api::problem::{Code, MEDIA_TYPE, Problem, WriteOutcome};
use serde_json::{Value, json};

use crate::calls::{Called, CannedNode, canned};

fn entry(key: &str, revision: u64, value: &str) -> Value {
    json!({"key": key, "value": value, "create_revision": 2, "mod_revision": revision, "version": revision - 1})
}

/// Columns of each line.
fn rows(called: &Called) -> Vec<Vec<&str>> {
    called.text().lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn versions_are_shown_newest_first_and_asked_for_by_pages() {
    let node = CannedNode::reacting(|asked, _| {
        let body = if asked.contains("before=") {
            json!({"items": [{"revision": 2, "type": "put", "age": 7300.0, "entry": entry("a", 2, "old")}],
                "revision": 9, "compacted_revision": 1})
        } else {
            json!({"items": [
                {"revision": 8, "type": "put", "age": 1.5, "entry": entry("a", 8, "new")},
                {"revision": 5, "type": "delete", "age": 90.0},
                {"revision": 4, "type": "expire"},
            ], "revision": 9, "compacted_revision": 1, "next_before": 4})
        };
        canned(200, &[], body.to_string())
    });
    let table = node.call(&["history", "a"]);
    let expected = [
        &["REVISION", "WHAT", "VERSION", "TYPE", "VALUE", "AGE"][..],
        &["8", "put", "7", "new", "just", "now"],
        &["5", "deleted", "1m"],
        &["4", "expired"],
        &["2", "put", "1", "old", "2h"],
    ];
    assert_eq!((table.exit, rows(&table)), (0, expected.iter().map(|row| row.to_vec()).collect()));
    let path = "GET /v1/kv/default/a?history=true";
    assert_eq!(node.seen(), [format!("{path}&limit=100&values=true"), format!("{path}&before=4&limit=97&values=true")]);
    let json = node.call(&["history", "a", "--limit", "3", "-o", "json"]).json();
    assert_eq!((json["items"].as_array().unwrap().len(), &json["has_more"]), (3, &json!(true)));
    assert_eq!(json["items"][1], json!({"revision": 5, "type": "delete", "age": 90.0}));
    assert!(node.call(&["history", "a", "--limit", "3"]).stderr.contains("more than 3 versions"));
    let nothing = CannedNode::start(|| canned(200, &[], r#"{"items":[],"revision":9,"compacted_revision":7}"#));
    let called = nothing.call(&["history", "a", "-k", "orders"]);
    assert_eq!((called.exit, called.stderr.as_str()), (3, "quorate: keyspace orders knows no version of `a` since revision 7\n"));
}

#[test]
fn two_revisions_are_compared_key_by_key() {
    let node = CannedNode::reacting(|asked, _| {
        let body = match (asked.contains("revision=4"), asked.contains("cursor=")) {
            (true, false) => json!({"items": [entry("a", 2, "1"), entry("b", 3, "1")], "revision": 4, "next_cursor": "x"}),
            (true, true) => json!({"items": [entry("d", 4, "1")], "revision": 4}),
            (false, false) => json!({"items": [entry("a", 2, "1")], "revision": 9, "next_cursor": "x"}),
            (false, true) => json!({"items": [entry("c", 8, "2"), entry("d", 9, "2"), entry("e", 5, "2")], "revision": 9}),
        };
        canned(200, &[], body.to_string())
    });
    let called = node.call(&["diff", "4"]);
    assert_eq!((called.exit, called.text()), (0, "- b\n+ c\n~ d\n+ e\n"));
    assert_eq!(called.stderr, "quorate: revision 4 to 9: 2 added, 1 removed, 1 changed\n");
    let asked = "GET /v1/kv/default?limit=1000";
    assert_eq!(node.seen()[..2], [format!("{asked}&revision=4"), asked.to_owned()]);
    assert_eq!(node.call(&["diff", "4", "--values"]).text(), "- b  1\n+ c  2\n~ d  1 -> 2\n+ e  2\n");
    let json = node.call(&["diff", "4", "-o", "json"]).json();
    assert_eq!((&json["from"], &json["to"], &json["added"]), (&json!(4), &json!(9), &json!(2)));
    let changed = json!({"change": "changed", "key": "d", "before": entry("d", 4, "1"), "after": entry("d", 9, "2")});
    assert_eq!(json["items"][2], changed);
    let before = node.seen().len();
    node.call(&["diff", "4", "7", "--key", "a"]);
    assert_eq!(node.seen()[before + 1], "GET /v1/kv/default?start64=YQ&end64=YQA&limit=1000&revision=7");
    assert_eq!(node.call(&["diff", "0"]).exit, 2);
    let gone = CannedNode::refusing(Code::Compacted, None, None);
    assert!(gone.call(&["diff", "4"]).stderr.starts_with("quorate: cannot compare revisions: Compacted"));
}

#[test]
fn a_keyspace_is_compacted_to_a_revision_or_to_the_present() {
    let node = CannedNode::reacting(|asked, _| {
        let body = if asked.starts_with("GET") {
            json!({"count": 0, "revision": 9})
        } else {
            json!({"compacted_revision": 9, "revision": 9, "is_swept": true})
        };
        canned(200, &[], body.to_string())
    });
    assert_eq!(node.call(&["keyspace", "compact", "orders"]).text(), "keyspace orders compacted to revision 9\n");
    assert_eq!(node.seen()[1], r#"POST /v1/keyspaces/orders/compact {"revision":9}"#);
    let waited = node.call(&["keyspace", "compact", "orders", "7", "--physical"]);
    assert!(waited.text().ends_with("is gone\n"), "{waited:?}");
    assert_eq!(node.seen()[2], r#"POST /v1/keyspaces/orders/compact {"revision":7,"physical":true}"#);
    let json = node.call(&["keyspace", "compact", "orders", "7", "-o", "json"]).json();
    assert_eq!(json, json!({"compacted_revision": 9, "revision": 9, "is_swept": true}));

    let done = CannedNode::reacting(|asked, _| {
        if asked.starts_with("GET") {
            return canned(200, &[], r#"{"count":0,"revision":9}"#);
        }
        let problem = Problem {
            outcome: Some(WriteOutcome::NotApplied),
            compacted_revision: Some(9),
            ..Problem::new(Code::Compacted, "the oldest revision that can be read is 9")
        };
        canned(410, &[("content-type", MEDIA_TYPE)], serde_json::to_vec(&problem).unwrap())
    });
    assert_eq!(done.call(&["keyspace", "compact", "orders"]).exit, 0, "nothing older is there");
    let again = done.call(&["keyspace", "compact", "orders", "9"]);
    assert!(again.exit == 1 && again.stderr.contains("the oldest revision that can be read is 9"), "{again:?}");
}
