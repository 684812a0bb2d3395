//! What imports and exports make of a node's answers.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_api::problem::{Code, Problem, WriteOutcome};
use serde_json::json;

use crate::calls::{CannedNode, call, canned};

/// A node that takes every operation of a batch but the first one on a `refused` key, which it has a problem with each time.
fn refusing(refused: &'static str, code: Code, outcome: WriteOutcome) -> CannedNode {
    let key = format!("\"key\":\"{refused}\"");
    CannedNode::reacting(move |_, body| {
        let problem = Problem { outcome: Some(outcome), ..Problem::new(code, "as the test says") };
        results(body, |_, op| op.contains(&key).then(|| problem.clone()))
    })
}

/// One that takes everything.
fn taking_all() -> CannedNode {
    CannedNode::reacting(|_, body| results(body, |_, _| None))
}

/// What a node answers to operations as lines.
fn results(
    body: &str,
    problem: impl Fn(usize, &str) -> Option<Problem>,
) -> http::Response<http_body_util::Full<hyper::body::Bytes>> {
    let result = |(at, op): (usize, &str)| match problem(at, op) {
        None => json!({ "line": at + 1, "status": 201, "revision": 9, "version": 1 }),
        Some(problem) => json!({ "line": at + 1, "status": problem.status, "problem": problem }),
    };
    let lines: String = body.lines().enumerate().map(|line| result(line).to_string() + "\n").collect();
    canned(200, &[], lines + &json!({ "ops": body.lines().count(), "failed": 0 }).to_string() + "\n")
}

/// The batches that a node has seen, without the words around the operations.
fn batches(node: &CannedNode) -> Vec<String> {
    let batch = |asked: String| asked.strip_prefix("POST /v1/batch/default ").map(|body| body.replace("\"op\":\"put\",", ""));
    node.seen().into_iter().filter_map(batch).collect()
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
    let node = taking_all();
    let (_file, name) = file("{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key64\":\"_w\",\"json\":[2],\"mod_revision\":7}");
    let called = node.call(&["import", &name, "-k", "orders"]);
    assert_eq!((called.exit, called.text(), called.stderr.as_str()), (0, "imported 3 lines, 67 B\n", ""));
    let ops = r#"{"op":"put","key":"a","value":"1"}
{"op":"put","key64":"_w","value":"[2]","content_type":"application/json"}"#;
    assert_eq!(node.seen(), ["GET /v1/node", &format!("POST /v1/batch/orders {ops}")]);
    let piped = call(&["import", "-o", "json", "-e", &node.url], lines(2).as_bytes());
    assert_eq!(piped.json(), json!({ "lines": 2, "bytes": lines(2).len(), "failed": 0 }));
    let nothing = call(&["import", "-e", &node.url], b"\n");
    assert_eq!((nothing.exit, nothing.text()), (0, "imported 1 lines, 1 B\n"), "{nothing:?}");
}

#[test]
fn the_first_bad_line_ends_an_import_and_is_named() {
    let node = taking_all();
    let (_file, name) = file(&format!("{}no pair\n{}", lines(3), lines(1)));
    let called = node.call(&["import", &name]);
    assert_eq!((called.exit, called.text()), (1, ""), "{called:?}");
    assert!(called.stderr.starts_with("quorate: line 4: no pair in JSON: "), "{called:?}");
    let way_on = format!("quorate: the first 3 lines are in; go on with {name} and --skip 3\n");
    assert!(called.stderr.ends_with(&way_on), "{called:?}");
    assert_eq!(batches(&node), [lines(3).trim_end()], "what came before is written");
    // The rest, once the line is mended.
    let (_file, name) = file(&lines(5));
    assert_eq!(node.call(&["import", &name, "--skip", "3"]).text(), format!("imported 2 lines, {} B\n", lines(2).len()));
    assert_eq!(batches(&node)[1], lines(5).strip_prefix(&lines(3)).unwrap().trim_end());
}

#[test]
fn a_refused_line_is_named_with_the_exit_code_that_it_has_elsewhere() {
    for (code, exit, told) in [
        (Code::ValueTooLarge, 1, "quorate: cannot put `k3` of line 3: Value too large: "),
        (Code::KeyspaceFull, 1, "quorate: cannot write line 3: Keyspace full: "),
        (Code::KeyspaceReadOnly, 1, "quorate: cannot write line 3: Keyspace is read-only: "),
        (Code::KeyspaceNotFound, 3, "quorate: cannot write line 3: Keyspace not found: "),
    ] {
        let node = refusing("k3", code, WriteOutcome::NotApplied);
        let called = call(&["import", "-e", &node.url], lines(5).as_bytes());
        assert_eq!(called.exit, exit, "{called:?}");
        assert!(called.stderr.starts_with(told), "{called:?}");
        assert!(called.stderr.ends_with("the first 2 lines are in; go on with the same lines and --skip 2\n"), "{called:?}");
        assert_eq!(batches(&node).len(), 1, "it would not go better a second time");
    }
}

#[test]
fn an_import_goes_on_after_lines_that_cannot_be_written_if_asked_to() {
    let node = refusing("k2", Code::ValueTooLarge, WriteOutcome::NotApplied);
    let text = format!("{}{{\n{}", lines(3), lines(1));
    let called = call(&["import", "--continue-on-error", "-o", "json", "-e", &node.url], text.as_bytes());
    assert_eq!((called.exit, called.json()["failed"].as_u64(), called.json()["lines"].as_u64()), (1, Some(2), Some(5)));
    for told in ["cannot put `k2` of line 2: ", "line 4: no pair", "2 of 5 lines were not written"] {
        assert!(called.stderr.contains(told), "{told}: {called:?}");
    }
    assert_eq!(batches(&node), [(lines(3) + &lines(1)).trim_end()]);
}

#[test]
fn a_stream_that_breaks_off_is_gone_on_with_at_the_first_line_that_is_not_in() {
    let count = AtomicUsize::new(0);
    let node = CannedNode::reacting(move |asked, body| {
        let unknown = || Problem { outcome: Some(WriteOutcome::Unknown), ..Problem::new(Code::OutcomeUnknown, "") };
        match asked {
            "GET /v1/node" => canned(200, &[], "{}"),
            _ => match count.fetch_add(1, Ordering::SeqCst) {
                0 => canned(200, &[], "{\"line\":1,\"status\":201}\n{\"line\":2,\"status\":201}\n"),
                1 => results(body, |at, _| (at == 1).then(unknown)),
                _ => results(body, |_, _| None),
            },
        }
    });
    let called = call(&["import", "-e", &node.url], lines(6).as_bytes());
    assert_eq!((called.exit, called.text()), (0, format!("imported 6 lines, {} B\n", lines(6).len()).as_str()), "{called:?}");
    let from = |number: usize| lines(6).strip_prefix(&lines(number - 1)).unwrap().trim_end().to_owned();
    assert_eq!(batches(&node), [from(1), from(3), from(4)]);
    let told: Vec<&str> = called.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{called:?}");
    assert!(
        told[0].starts_with("quorate: cannot write line 3: no answer from ") && told[0].ends_with("; trying again from there")
    );
    assert!(told[1].starts_with("quorate: cannot write line 4: Outcome unknown"), "{called:?}");
}

#[test]
fn a_node_that_never_answered_is_not_asked_for_long_and_one_that_did_is_given_some_time() {
    let silent = CannedNode::reacting(|asked, _| canned(200, &[], if asked == "GET /v1/node" { "{}" } else { "" }));
    let called = call(&["import", "-e", &silent.url], lines(3).as_bytes());
    assert_eq!((called.exit, batches(&silent).len()), (5, 1), "{called:?}");
    assert!(called.stderr.starts_with("quorate: cannot write line 1: no answer from "), "{called:?}");
    assert!(called.stderr.ends_with("quorate: no line is in for certain\n"), "{called:?}");

    let node = refusing("k2", Code::OutcomeUnknown, WriteOutcome::Unknown);
    let called = call(&["import", "-e", &node.url], lines(3).as_bytes());
    assert_eq!((called.exit, batches(&node).len()), (5, 5), "{called:?}");
    assert!(called.stderr.ends_with("the first line is in; go on with the same lines and --skip 1\n"), "{called:?}");
}

#[test]
fn an_export_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.ndjson");
    std::fs::write(&path, "from before").unwrap();
    let failing = CannedNode::refusing(Code::NoLeader, None, None);
    let called = failing.call(&["export", path.to_str().unwrap()]);
    assert!(called.exit == 1 && called.stderr.contains("cannot export keyspace default: No leader"), "{called:?}");
    assert!(called.stderr.ends_with("out.ndjson is as it was\n"), "{called:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"from before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    let called = failing.call(&["export", "-o", "json"]);
    assert!(called.exit == 2 && called.stderr.contains("give a FILE"), "{called:?}");

    let sent = "{\"key\":\"a\",\"value\":\"1\",\"create_revision\":2,\"mod_revision\":2,\"version\":1}\n";
    let line = "{\"key\":\"a\",\"value\":\"1\"}\n";
    let node =
        CannedNode::start(move || canned(200, &[("quorate-revision", "7")], format!("{sent}{{\"revision\":7,\"count\":1}}\n")));
    assert_eq!(node.call(&["export", "--prefix", "a"]).text(), line);
    assert_eq!(node.seen(), ["GET /v1/kv/default?prefix64=YQ&values=true"]);
    let called = node.call(&["export", path.to_str().unwrap(), "-o", "json"]);
    assert_eq!(called.json(), json!({ "pairs": 1, "bytes": line.len(), "revision": 7 }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line);

    let cut = CannedNode::start(move || canned(200, &[("quorate-revision", "7")], sent));
    let called = cut.call(&["export", path.to_str().unwrap()]);
    assert!(called.exit == 1 && called.stderr.contains("ended before the last one"), "{called:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line, "what was there stays");
}

#[test]
fn an_export_leaves_no_doubt_about_where_it_went() {
    let sent = "{\"key\":\"a\",\"value\":\"1\",\"create_revision\":2,\"mod_revision\":2,\"version\":1}\n";
    let node =
        CannedNode::start(move || canned(200, &[("quorate-revision", "7")], format!("{sent}{{\"revision\":7,\"count\":1}}\n")));
    let called = node.call(&["export", "/dev/full"]);
    assert!(called.exit == 1 && called.stderr.contains("cannot write /dev/full: No space left on device"), "{called:?}");
    assert!(called.stderr.ends_with("quorate: what went to /dev/full is not whole\n"), "{called:?}");
    let folder = tempfile::tempdir().unwrap();
    let called = node.call(&["export", folder.path().join("nowhere/out").to_str().unwrap()]);
    assert!(called.exit == 1 && called.stderr.contains("/nowhere/out: No such file or directory (os error 2)\n"), "{called:?}");
    let called = node.call(&["export", folder.path().to_str().unwrap()]);
    assert!(called.exit == 1 && called.stderr.contains("Is a directory"), "{called:?}");

    // Who may read a file may read the one that takes its place, and a link goes on to lead to it.
    let (path, link) = (folder.path().join("out"), folder.path().join("link"));
    std::fs::write(&path, "from before").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("out", &link).unwrap();
    assert_eq!(node.call(&["export", link.to_str().unwrap()]).exit, 0);
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"key\":\"a\",\"value\":\"1\"}\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}
