//! `quorate txn`.

use std::io::Write as _;

use quorate_api::problem::{Code, WriteOutcome};
use serde_json::json;

use crate::calls::{CannedNode, call, canned};

fn answering(body: serde_json::Value) -> CannedNode {
    CannedNode::start(move || canned(200, &[], body.to_string()))
}

#[test]
fn it_is_made_of_words_or_read_from_a_file_or_from_standard_input() {
    let node = answering(json!({"succeeded": true, "revision": 7, "results": []}));
    let words = ["--if", "a exists", "--if", "version(\"b\") > 3", "--then", "put c \"1 2\"", "--else", "get a"];
    assert_eq!(node.call(&[&["txn"], &words[..]].concat()).exit, 0);
    let json = r#"{"if": [{"key": "a", "exists": true}], "else": [{"op": "get", "key64": "_w"}]}"#;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(json.as_bytes()).unwrap();
    assert_eq!(node.call(&["txn", file.path().to_str().unwrap(), "-k", "orders"]).exit, 0);
    for arguments in [&["txn"][..], &["txn", "-"]] {
        assert_eq!(call(&[arguments, &["-e", &node.url]].concat(), json.as_bytes()).exit, 0);
    }
    let compares = r#""if":[{"key":"a","exists":true},{"key":"b","version":{">":3}}]"#;
    let sides = r#""then":[{"op":"put","key":"c","value":"1 2"}],"else":[{"op":"get","key":"a"}]"#;
    let sent = r#"{"if":[{"key":"a","exists":true}],"else":[{"op":"get","key64":"_w"}]}"#;
    let seen = node.seen();
    assert_eq!(seen[0], format!("POST /v1/txn?ks=default {{{compares},{sides}}}"));
    assert_eq!(seen[1], format!("POST /v1/txn?ks=orders {sent}"));
    assert_eq!(seen[2..], vec![format!("POST /v1/txn?ks=default {sent}"); 2]);
}

#[test]
fn results_come_as_a_table_or_as_they_are() {
    let entry = json!({"key": "a", "value": "x\n", "create_revision": 2, "mod_revision": 3, "version": 4});
    let body = json!({"succeeded": true, "revision": 7, "results": [
        {"status": 200, "entry": entry},
        {"status": 404},
        {"status": 204, "deleted": 1},
        {"status": 200, "items": [entry], "more": true},
        {"status": 200, "succeeded": false, "failed_if": 0, "results": [{"status": 200, "deleted": 5}]},
    ]});
    let asked = r#"{"then": [{"op": "get", "key": "a"}, {"op": "get", "key": "b"}, {"op": "delete", "key": "c"},
        {"op": "list", "start": "a", "end": "d", "limit": 1, "values": true},
        {"op": "txn", "if": [{"prefix": "", "exists": true}], "else": [{"op": "delete_range", "all": true}]}]}"#;
    let node = answering(body.clone());
    let table = call(&["txn", "-e", &node.url], asked.as_bytes());
    let lines: Vec<Vec<&str>> = table.text().lines().map(|line| line.split_whitespace().collect()).collect();
    let words = |line: &'static str| line.split_whitespace().collect::<Vec<_>>();
    let expected = [
        "then, at revision 7:",
        "OPERATION KEY RESULT",
        "get a x\\n",
        "get b not there",
        "delete c deleted",
        "list * from a before d 1 keys, and more",
        "a x\\n",
        "txn else: if[0] does not hold",
        "delete_range every key 5 deleted",
    ];
    assert_eq!((table.exit, lines), (0, expected.map(words).to_vec()));
    assert_eq!(call(&["txn", "-o", "json", "-e", &node.url], asked.as_bytes()).json(), body);
}

#[test]
fn what_was_not_done_is_exit_code_4() {
    let node = answering(json!({"succeeded": false, "failed_if": 1, "revision": 7, "results": []}));
    let words = ["txn", "--if", "a exists", "--if", "mod_revision(b) = 3", "--then", "del a"];
    let called = node.call(&words);
    assert_eq!(called.exit, 4);
    assert_eq!(called.text(), "else, at revision 7: `mod_revision(b) = 3` does not hold\n");
    assert_eq!(called.stderr, "quorate: nothing was done: `mod_revision(b) = 3` does not hold\n");
    assert_eq!(node.call(&[&words[..], &["--else", "del c"]].concat()).exit, 0, "something else was done");
    let unknown = CannedNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown), None);
    assert_eq!(unknown.call(&words).exit, 5);
    let twice = CannedNode::refusing(Code::DuplicateKey, Some(WriteOutcome::NotApplied), None);
    assert!(twice.call(&words).stderr.starts_with("quorate: cannot do the transaction: Key written twice"));
}

#[test]
fn what_is_no_transaction_is_wrong_usage() {
    for (arguments, input, told) in [
        (&["txn", "--if", "a is there"][..], "", "--if: `a is there`: "),
        (&["txn", "--then", "watch a"], "", "--then: `watch a`: none of put KEY VALUE"),
        (&["txn", "--else", "put a \"1"], "", "--else: `put a \"1`: a double quote"),
        (&["txn", "-"], "{\"then\": [{\"op\": \"put\"}]}", "standard input is no transaction: then[0]: exactly one of key"),
        (&["txn", "file", "--then", "get a"], "", "cannot be used with"),
        (&["txn", "-o", "raw"], "", "raw output"),
    ] {
        let called = call(arguments, input.as_bytes());
        assert!(called.exit == 2 && called.stderr.contains(told), "{arguments:?} {called:?}");
    }
    assert_eq!(call(&["txn", "/no/such/file"], b"").exit, 1);
}
