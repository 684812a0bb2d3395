//! What imports and exports make of a node's answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_api::problem::{Code, MEDIA_TYPE, Problem, WriteOutcome};
use serde_json::json;

use crate::calls::{CannedNode, call, canned};

const WRITTEN: &[(&str, &str)] = &[("etag", "\"1.5\""), ("quorate-revision", "9"), ("quorate-version", "1")];

/// A node that takes every write but one, counted from 0.
fn refusing_one(refused: usize, code: Code, outcome: WriteOutcome) -> CannedNode {
    let count = AtomicUsize::new(0);
    CannedNode::start(move || {
        if count.fetch_add(1, Ordering::SeqCst) != refused {
            return canned(201, WRITTEN, "");
        }
        let problem = Problem { outcome: Some(outcome), ..Problem::new(code, "as the test says") };
        canned(problem.status, &[("content-type", MEDIA_TYPE)], serde_json::to_vec(&problem).expect("a problem is plain data"))
    })
}

/// A file of lines, and its name.
fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), text).expect("a file of the test can be written");
    let name = file.path().to_str().expect("its name is text").to_owned();
    (file, name)
}

fn lines(count: usize) -> String {
    let line = |number| json!({ "key": format!("k{number}"), "value": format!("v{number}") }).to_string() + "\n";
    (1..=count).map(line).collect()
}

#[test]
fn lines_from_a_file_or_a_pipe_are_written() {
    let node = CannedNode::start(|| canned(201, WRITTEN, ""));
    let (_file, name) = file("{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key64\":\"_w\",\"json\":[2]}");
    let called = node.call(&["import", &name, "-k", "orders"]);
    assert_eq!((called.exit, called.text(), called.stderr.as_str()), (0, "imported 3 lines, 50 B\n", ""));
    let mut seen = node.seen();
    seen.sort();
    assert_eq!(seen, ["PUT /v1/kv/orders/a 1", "PUT /v1/kv/orders?key64=_w [2]"]);
    let piped = call(&["import", "-o", "json", "-e", &node.url], lines(2).as_bytes());
    assert_eq!(piped.json(), json!({ "lines": 2, "bytes": lines(2).len(), "failed": 0 }));
}

#[test]
fn lines_of_one_key_are_written_in_their_order() {
    let node = CannedNode::start(|| canned(201, WRITTEN, ""));
    let line = |number: usize| json!({ "key": format!("k{}", number % 3), "value": number.to_string() }).to_string() + "\n";
    let text: String = (0..200).map(line).collect();
    assert_eq!(call(&["import", "-e", &node.url], text.as_bytes()).exit, 0);
    for key in 0..3_usize {
        let path = format!("PUT /v1/kv/default/k{key} ");
        let values: Vec<usize> =
            node.seen().iter().filter_map(|asked| asked.strip_prefix(&path)).map(|value| value.parse().unwrap()).collect();
        assert_eq!(values.len(), (200 - key).div_ceil(3));
        assert!(values.is_sorted(), "{values:?}");
    }
}

#[test]
fn the_first_bad_line_ends_an_import_and_is_named() {
    let node = CannedNode::start(|| canned(201, WRITTEN, ""));
    let (_file, name) = file(&format!("{}no pair\n{}", lines(3), lines(1)));
    let called = node.call(&["import", &name]);
    assert_eq!((called.exit, called.text()), (1, ""), "{called:?}");
    assert!(called.stderr.starts_with("quorate: line 4: no pair in JSON: "), "{called:?}");
    let way_on = format!("quorate: the first 3 lines are in; go on with {name} and --skip 3\n");
    assert!(called.stderr.ends_with(&way_on), "{called:?}");
    let first = node.seen().len();
    assert_eq!(first, 3, "what was sent was waited for");
    // The rest, once the line is mended.
    let (_file, name) = file(&lines(5));
    assert_eq!(node.call(&["import", &name, "--skip", "3"]).text(), format!("imported 2 lines, {} B\n", lines(5).len()));
    assert!(node.seen()[first..].iter().all(|asked| asked.ends_with(" v4") || asked.ends_with(" v5")), "{:?}", node.seen());
}

#[test]
fn a_refused_line_is_named_with_the_exit_code_that_it_has_elsewhere() {
    for (code, outcome, exit) in [
        (Code::KeyspaceFull, WriteOutcome::NotApplied, 1),
        (Code::OutcomeUnknown, WriteOutcome::Unknown, 5),
        (Code::KeyspaceNotFound, WriteOutcome::NotApplied, 3),
    ] {
        let node = refusing_one(2, code, outcome);
        let called = call(&["import", "--clients", "1", "--continue-on-error", "-e", &node.url], lines(5).as_bytes());
        assert_eq!(called.exit, exit, "{called:?}");
        assert!(called.stderr.starts_with("quorate: cannot put `k3` of line 3: "), "{called:?}");
        assert!(called.stderr.ends_with("the first 2 lines are in; go on with the same lines and --skip 2\n"), "{called:?}");
    }
}

#[test]
fn an_import_goes_on_after_lines_that_cannot_be_written_if_asked_to() {
    let node = refusing_one(1, Code::ValueTooLarge, WriteOutcome::NotApplied);
    let text = format!("{}{{\n{}", lines(3), lines(2));
    let called = call(&["import", "--continue-on-error", "--clients", "1", "-o", "json", "-e", &node.url], text.as_bytes());
    assert_eq!((called.exit, called.json()["failed"].as_u64(), called.json()["lines"].as_u64()), (1, Some(2), Some(6)));
    for told in ["cannot put `k2` of line 2: ", "line 4: no pair", "2 of 6 lines were not written"] {
        assert!(called.stderr.contains(told), "{told}: {called:?}");
    }
    assert_eq!(node.seen().len(), 5);
}

#[test]
fn an_export_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.ndjson");
    std::fs::write(&path, "from before").unwrap();
    let failing = CannedNode::refusing(Code::NoLeader, None, None);
    let called = failing.call(&["export", path.to_str().unwrap()]);
    assert!(called.exit == 1 && called.stderr.contains("cannot export: No leader"), "{called:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"from before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    let called = failing.call(&["export", "-o", "json"]);
    assert!(called.exit == 2 && called.stderr.contains("give a FILE"), "{called:?}");

    let page = r#"{"items":[{"key":"a","value":"1","create_revision":2,"mod_revision":2,"version":1}],"revision":7}"#;
    let node = CannedNode::start(move || canned(200, &[], page));
    let line = "{\"key\":\"a\",\"value\":\"1\",\"create_revision\":2,\"mod_revision\":2,\"version\":1}\n";
    assert_eq!(node.call(&["export", "--prefix", "a"]).text(), line);
    assert_eq!(node.seen(), ["GET /v1/kv/default?prefix64=YQ&limit=1000&values=true"]);
    let called = node.call(&["export", path.to_str().unwrap(), "-o", "json"]);
    assert_eq!(called.json(), json!({ "pairs": 1, "bytes": line.len(), "revision": 7 }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
}
