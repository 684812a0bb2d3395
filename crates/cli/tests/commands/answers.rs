//! What the commands make of a node's answers.

use std::io::Write as _;

use quorate_api::problem::{Code, Current, MEDIA_TYPE, Problem, WriteOutcome};
use serde_json::json;

use crate::calls::{Called, CannedNode, call, canned};

const FOUND: &[(&str, &str)] = &[
    ("etag", "\"1.5\""),
    ("content-type", "text/plain"),
    ("quorate-revision", "9"),
    ("quorate-mod-revision", "5"),
    ("quorate-create-revision", "4"),
    ("quorate-version", "2"),
    ("quorate-deleted", "1"),
];

fn one_line(called: &Called, exit: i32, words: &str) {
    assert_eq!(called.exit, exit, "{called:?}");
    assert!(called.stderr.starts_with("quorate: ") && called.stderr.contains(words), "{called:?}");
    assert_eq!(called.stderr.matches('\n').count(), 1, "{called:?}");
    assert!(called.stdout.is_empty(), "{called:?}");
}

#[test]
fn get_writes_the_value_and_nothing_else() {
    let value: Vec<u8> = (0..=255).collect();
    let node = CannedNode::start({
        let value = value.clone();
        move || canned(200, FOUND, value.clone())
    });
    let called = node.call(&["get", "k", "--local", "--min-revision", "7"]);
    assert_eq!((called.exit, called.stdout, called.stderr.as_str()), (0, value, ""));
    assert_eq!(node.seen(), ["GET /v1/kv/default/k?consistency=local&min_revision=7"]);
}

#[test]
fn get_shows_what_goes_with_the_key() {
    let node = CannedNode::start(|| canned(200, FOUND, "a\x1bb"));
    let entry = json!({
        "key": "k", "value": "a\u{1b}b", "content_type": "text/plain", "create_revision": 4, "mod_revision": 5, "version": 2,
    });
    assert_eq!(node.call(&["get", "k", "-o", "json"]).json(), entry);
    let table = node.call(&["get", "k", "-o", "table"]);
    assert!(table.text().contains("a\\u{1b}b") && table.text().contains("text/plain"), "{table:?}");
}

#[test]
fn what_is_not_there_is_exit_code_3() {
    let keyless = CannedNode::refusing(Code::KeyNotFound, None, None);
    one_line(&keyless.call(&["get", "k"]), 3, "keyspace default holds no key `k`");
    let spaceless = CannedNode::refusing(Code::KeyspaceNotFound, None, None);
    one_line(&spaceless.call(&["get", "k", "-k", "ks"]), 3, "Keyspace not found");
    one_line(&spaceless.call(&["ls", "-k", "ks"]), 3, "Keyspace not found");
    let nodeless = CannedNode::refusing(Code::NodeNotFound, Some(WriteOutcome::NotApplied), None);
    one_line(&nodeless.call(&["cluster", "remove", "n9"]), 3, "cannot remove n9: Node not found");
    let nothing = CannedNode::start(|| canned(204, &[("quorate-deleted", "0"), ("quorate-revision", "9")], ""));
    one_line(&nothing.call(&["del", "k"]), 3, "holds no key `k`");
}

#[test]
fn a_failed_condition_is_exit_code_4() {
    let current = Current { exists: true, mod_revision: Some(13), etag: None };
    let node = CannedNode::refusing(Code::PreconditionFailed, Some(WriteOutcome::NotApplied), Some(current));
    one_line(&node.call(&["put", "k", "v", "--cas", "12"]), 4, "now --cas 13 would hold");
    one_line(&node.call(&["del", "k", "--cas", "12"]), 4, "now --cas 13 would hold");
    assert_eq!(node.seen(), ["PUT /v1/kv/default/k?cas=12 v", "DELETE /v1/kv/default/k?cas=12"]);
}

#[test]
fn an_unknown_outcome_is_exit_code_5() {
    let node = CannedNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown), None);
    one_line(&node.call(&["put", "k", "v"]), 5, "look before you try again");
    assert_eq!(node.seen().len(), 1, "not sent twice");
}

#[test]
fn everything_else_that_fails_is_exit_code_1() {
    let node = CannedNode::refusing(Code::NoLeader, Some(WriteOutcome::NotApplied), None);
    one_line(&node.call(&["put", "k", "v"]), 1, "cannot put `k`: No leader");
    let foreign = CannedNode::start(|| canned(404, &[("content-type", "text/html")], "<h1>no</h1>"));
    one_line(&foreign.call(&["cluster", "status"]), 1, "does not answer like a Quorate node");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    one_line(&call(&["get", "k", "-e", &unused], b""), 1, "no node could be reached");
    one_line(&node.call(&["put", "k", "@/no/such/file"]), 1, "cannot open /no/such/file");
}

#[test]
fn put_takes_its_value_from_three_places() {
    let node = CannedNode::start(|| canned(201, FOUND, ""));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"from a file").unwrap();
    let at_file = format!("@{}", file.path().display());
    assert_eq!(node.call(&["put", "k", "from an argument"]).text(), "created `k` at revision 9\n");
    assert_eq!(node.call(&["put", "k", &at_file]).exit, 0);
    assert_eq!(call(&["put", "k", "-", "-e", &node.url], b"from a pipe").exit, 0);
    let put = |value: &str| format!("PUT /v1/kv/default/k {value}");
    assert_eq!(node.seen(), [put("from an argument"), put("from a file"), put("from a pipe")]);
}

#[test]
fn writes_report_in_json() {
    let node = CannedNode::start(|| canned(204, FOUND, ""));
    let put = node.call(&["put", "k", "v", "--if-absent", "-o", "json"]).json();
    assert_eq!(put, json!({ "created": false, "revision": 9, "version": 2, "etag": "\"1.5\"" }));
    assert_eq!(node.call(&["del", "--key64", "_w", "-o", "json"]).json(), json!({ "deleted": 1, "revision": 9 }));
    assert_eq!(node.seen()[1], "DELETE /v1/kv/default?key64=_w");
}

fn three_keys(value: Option<&str>) -> CannedNode {
    let item = |key: &str| {
        let mut item = json!({ "key": key, "create_revision": 1, "mod_revision": 2, "version": 3 });
        if let Some(value) = value {
            item["value"] = value.into();
        }
        item
    };
    let page = json!({ "items": [item("a"), item("b\n"), item("c")], "revision": 7, "next_cursor": "more" }).to_string();
    CannedNode::start(move || canned(200, &[("content-type", "application/json")], page.clone()))
}

#[test]
fn ls_prints_lines_tables_and_json() {
    let raw = three_keys(Some("v")).call(&["ls", "-o", "raw", "--limit", "3", "--values"]);
    assert_eq!((raw.exit, raw.text()), (0, "a\tv\nb\n\tv\nc\tv\n"));
    assert!(raw.stderr.contains("more than 3 keys"), "{raw:?}");
    let node = three_keys(None);
    let table = node.call(&["ls", "--limit", "3"]);
    let lines: Vec<Vec<&str>> = table.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines,
        [["KEY", "REVISION", "VERSION", "TYPE"].as_slice(), &["a", "2", "3"], &["b\\n", "2", "3"], &["c", "2", "3"]]
    );
    let json = node.call(&["ls", "p/", "--limit", "3", "--reverse", "-o", "json"]);
    assert_eq!((json.json()["items"][2]["key"].as_str(), json.json()["has_more"].as_bool()), (Some("c"), Some(true)));
    assert_eq!((json.json()["revision"].as_u64(), json.stderr.as_str()), (Some(7), ""));
    assert_eq!(node.seen()[1], "GET /v1/kv/default?prefix64=cC8&limit=3&reverse=true");
}

#[test]
fn ls_shows_folders_among_the_keys() {
    let item = |key| json!({ "key": key, "create_revision": 1, "mod_revision": 2, "version": 3 });
    let page = json!({ "items": [item("a"), item("d")], "prefixes": ["b/", "e/"], "revision": 7 }).to_string();
    let node = CannedNode::start(move || canned(200, &[], page.clone()));
    assert_eq!(node.call(&["ls", "--delimiter", "/", "-o", "raw"]).text(), "a\nb/\nd\ne/\n");
    assert_eq!(node.call(&["ls", "--delimiter", "/", "-o", "raw", "--reverse"]).text(), "e/\nd\nb/\na\n");
    let table = node.call(&["ls", "--delimiter", "/"]);
    let second: Vec<&str> = table.text().lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(second, ["b/", "folder"]);
    let json = node.call(&["ls", "--delimiter", "/", "-o", "json"]).json();
    assert_eq!(
        (&json["prefixes"], json.get("prefixes64"), json["items"].as_array().unwrap().len()),
        (&json!(["b/", "e/"]), None, 2)
    );
    assert_eq!(node.seen()[0], "GET /v1/kv/default?delimiter64=Lw&limit=100");
    assert_eq!(node.call(&["ls", "--delimiter", ""]).exit, 2);
}

#[test]
fn ls_counts() {
    let node = CannedNode::start(|| canned(200, &[], r#"{"count":12,"revision":7}"#));
    assert_eq!(node.call(&["ls", "a/", "--count"]).text(), "12\n");
    assert_eq!(node.call(&["ls", "--count", "-o", "json"]).json(), json!({ "count": 12, "revision": 7 }));
    assert_eq!(node.seen(), ["GET /v1/kv/default?prefix64=YS8&count_only", "GET /v1/kv/default?count_only"]);
}

#[test]
fn del_of_many_goes_on_until_all_are_gone() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let node = CannedNode::start(move || {
        if asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1 {
            return canned(200, &[], r#"{"deleted":2,"revision":9}"#);
        }
        let outcome = Some(WriteOutcome::Unknown);
        let problem = Problem { outcome, deleted: Some(10_000), ..Problem::new(Code::Incomplete, "") };
        canned(504, &[("content-type", MEDIA_TYPE)], serde_json::to_vec(&problem).unwrap())
    });
    let called = node.call(&["del", "--prefix", "a/"]);
    assert_eq!((called.exit, called.text()), (0, "deleted 10002 keys at revision 9\n"), "{called:?}");
    assert_eq!(node.seen(), vec!["DELETE /v1/kv/default?prefix64=YS8"; 2]);
    let everything = CannedNode::start(|| canned(200, &[], r#"{"deleted":0,"revision":9}"#));
    assert_eq!(everything.call(&["del", "--all", "-o", "json"]).json(), json!({ "deleted": 0, "revision": 9 }));
    assert_eq!(everything.seen(), ["DELETE /v1/kv/default?all=true"]);
    assert_eq!(everything.call(&["del", "--prefix", ""]).exit, 2);
    let failing = CannedNode::refusing(Code::NoLeader, Some(WriteOutcome::NotApplied), None);
    one_line(&failing.call(&["del", "--start", "a"]), 1, "cannot delete keys: No leader");
}

#[test]
fn put_notes_metadata() {
    let node = CannedNode::start(|| canned(201, FOUND, ""));
    assert_eq!(node.call(&["put", "k", "v", "--meta", "Owner=a team", "--meta", "x="]).exit, 0);
    for (meta, words) in [("a b=c", "is no name"), ("a=\u{e4}", "visible ASCII")] {
        one_line(&node.call(&["put", "k", "v", "--meta", meta]), 2, words);
    }
    assert_eq!(node.seen().len(), 1);
}

#[test]
fn ls_stops_when_nobody_reads_on() {
    // The node's list never ends; the reader does after three lines.
    let node = three_keys(None);
    let program = env!("CARGO_BIN_EXE_quorate");
    let script = format!("'{program}' ls --all -o raw -e {} | head -n 3; exit ${{PIPESTATUS[0]}}", node.url);
    let called = crate::calls::call_with(std::process::Command::new("bash").args(["-c", &script]), b"");
    assert_eq!((called.exit, called.text(), called.stderr.as_str()), (0, "a\nb\n\n", ""));
}

#[test]
fn cluster_commands_show_who_is_who() {
    let node = json!({ "name": "n1", "client_address": "a:1", "peer_address": "a:2", "role": "voter", "is_connected": true });
    let shard = json!({
        "keyspace": "default", "group": 1, "leader": "n1", "role": "leader", "term": 2, "commit_index": 3, "applied_index": 3,
        "first_index": 1, "last_index": 3, "revision": 4, "data_bytes": 5, "voters": ["n1", "n2"], "learners": [],
    });
    let status = json!({ "id": "00000000000000ff", "served_by": "n1", "leader": "n1", "nodes": [node], "shards": [shard] });
    let cluster = CannedNode::start({
        let status = status.to_string();
        move || canned(200, &[], status.clone())
    });
    assert_eq!(cluster.call(&["cluster", "status", "-o", "json"]).json(), status);
    let table = cluster.call(&["cluster", "status"]);
    for words in ["cluster 00000000000000ff, leader n1, as seen by n1", "voter, leader", "n1,n2", "1-3"] {
        assert!(table.text().contains(words), "{}", table.text());
    }
    let members = CannedNode::start(move || canned(200, &[], json!({ "items": [node] }).to_string()));
    let members = members.call(&["cluster", "members"]);
    assert_eq!((members.exit, members.text().lines().count()), (0, 2), "{members:?}");
}

#[test]
fn leadership_is_handed_over_where_asked() {
    let answer = json!({ "items": [{ "keyspace": "orders", "leader": "n2" }] });
    let node = CannedNode::start(move || canned(200, &[], answer.to_string()));
    let called = node.call(&["cluster", "transfer-leader", "n2", "-k", "orders"]);
    assert!(called.exit == 0 && called.text().contains("orders"), "{called:?}");
    assert_eq!(node.call(&["cluster", "transfer-leader"]).exit, 0);
    let bodies = [r#"{"to":"n2","keyspace":"orders"}"#, r#"{"to":null,"keyspace":null}"#];
    assert_eq!(node.seen(), bodies.map(|body| format!("POST /v1/cluster/leader {body}")));
}
