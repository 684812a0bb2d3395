//! What `quorate keyspace` and `quorate engines` ask for, and what they make of the answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_api::keyspace::{
    Amount, Capabilities, EngineBody, EngineCapabilities, EngineInfo, EngineOption, JobBody, JobState, KeyspaceBody,
    KeyspaceState, LimitsBody, MoveBody, MoveState, OutsideInfo, ReplicaMove, ReplicationBody, RetentionBody,
};
use quorate_api::problem::{Code, MEDIA_TYPE, Problem, WriteOutcome};
use serde::Serialize;
use serde_json::{Value, json};

use crate::calls::{Called, CannedNode, canned};

fn engine(kind: &str) -> EngineBody {
    EngineBody { kind: kind.to_owned(), ..EngineBody::default() }
}

fn keyspace() -> KeyspaceBody {
    KeyspaceBody {
        name: "orders".to_owned(),
        engine: EngineBody { options: [("max_bytes".to_owned(), Amount::Number(64 << 20).into())].into(), ..engine("cache") },
        replication: ReplicationBody { mode: "none".to_owned(), options: [].into() },
        ttl: Some(Amount::Text("30m".to_owned())),
        limits: LimitsBody { max_bytes: Some(Amount::Number(1 << 30)), ..LimitsBody::default() },
        retention: None,
        state: KeyspaceState::Ready,
        capabilities: Capabilities::of(|_| true, 4096, 3 << 19),
        epoch: 7,
        created_at: Some("2027-01-15T08:00:00.000Z".to_owned()),
        running_move: None,
    }
}

fn moving() -> KeyspaceBody {
    let running = MoveBody { job: 3, from: engine("trie"), to: engine("lsm"), replicas: 3, done_replicas: 1 };
    KeyspaceBody { running_move: Some(running), ..keyspace() }
}

fn job(state: JobState) -> JobBody {
    let replica = |node: &str, state| ReplicaMove { node: node.to_owned(), state, phase: None, copied: None, last_error: None };
    let last = if state == JobState::Done { MoveState::Done } else { MoveState::Moving };
    JobBody {
        id: 3,
        kind: "move".to_owned(),
        keyspace: "orders".to_owned(),
        state,
        progress: 0.5,
        from: engine("trie"),
        to: engine("lsm"),
        started_at: None,
        replicas: vec![replica("n1", MoveState::Done), replica("n2", last)],
    }
}

/// A node that gives these answers, one after the other, and the last one from then on.
fn node(answers: &[(u16, Value)]) -> CannedNode {
    let answers = answers.to_vec();
    let next = AtomicUsize::new(0);
    CannedNode::start(move || {
        let (status, body) = &answers[next.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
        let media_type = if *status < 400 { "application/json" } else { MEDIA_TYPE };
        canned(*status, &[("content-type", media_type)], if body.is_null() { String::new() } else { body.to_string() })
    })
}

fn value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).expect("bodies are plain data")
}

fn refusal(code: Code, detail: &str) -> (u16, Value) {
    let problem = Problem { outcome: Some(WriteOutcome::NotApplied), ..Problem::new(code, detail) };
    (problem.status, value(&problem))
}

#[track_caller]
fn told(called: &Called, exit: i32, words: &str) {
    assert_eq!((called.exit, called.stdout.len()), (exit, 0), "{called:?}");
    assert!(called.stderr.contains(words) && called.stderr.lines().count() == 1, "{called:?}");
}

#[test]
fn a_keyspace_is_made_as_asked() {
    let made = node(&[(201, value(&keyspace()))]);
    let arguments = [
        "keyspace",
        "create",
        "orders",
        "--engine",
        "cache",
        "--option",
        "max_bytes=64MiB",
        "--option",
        "max_entries=1000",
        "--mode",
        "none",
        "--ttl",
        "30m",
        "--max-value-bytes",
        "64KiB",
        "--max-key-bytes",
        "100",
    ];
    let called = made.call(&arguments);
    let line = "keyspace orders created (engine cache max_bytes=64MiB, replication none)\n";
    assert_eq!((called.exit, called.text(), called.stderr.as_str()), (0, line, ""));
    let asked = json!({
        "engine": {"type": "cache", "max_bytes": "64MiB", "max_entries": 1000}, "replication": {"mode": "none"}, "ttl": "30m",
        "limits": {"max_key_bytes": 100, "max_value_bytes": "64KiB"},
    });
    let seen = made.seen();
    let body = seen[0].strip_prefix("PUT /v1/keyspaces/orders ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), asked);
    assert_eq!(made.call(&["keyspace", "create", "orders", "-o", "json"]).json(), value(&keyspace()));
    assert_eq!(made.seen()[1], "PUT /v1/keyspaces/orders {}");
    let same = node(&[(200, value(&keyspace()))]).call(&["keyspace", "create", "orders"]);
    assert!(same.text().contains("unchanged"), "{same:?}");
    let starting = KeyspaceBody { state: KeyspaceState::Starting, ..keyspace() };
    let starting = node(&[(201, value(&starting))]).call(&["keyspace", "create", "orders"]);
    assert!(starting.text().contains("not ready yet"), "{starting:?}");
}

#[test]
fn refusals_say_what_is_possible() {
    let invalid = node(&[refusal(Code::InvalidSettings, "there is no engine \"x\"; known: trie, lsm")]);
    told(&invalid.call(&["keyspace", "create", "a", "--engine", "x"]), 1, "known: trie, lsm");
    let taken = node(&[refusal(Code::Conflict, "keyspace a is there with other settings: engine differ")]);
    told(&taken.call(&["keyspace", "create", "a"]), 1, "cannot make keyspace a: Conflict: keyspace a is there");
    let missing = node(&[refusal(Code::KeyspaceNotFound, "keyspace a not found")]);
    for arguments in [
        ["keyspace", "show", "a"].as_slice(),
        &["keyspace", "stats", "a"],
        &["keyspace", "alter", "a", "--ttl", "none"],
        &["keyspace", "delete", "a", "--yes"],
    ] {
        told(&missing.call(arguments), 3, "keyspace a not found");
    }
    let silent = CannedNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown), None);
    told(&silent.call(&["keyspace", "delete", "a", "--yes"]), 5, "look before you try again");
}

#[test]
fn keyspaces_are_shown_to_people_and_programs() {
    let listed = json!({"items": [keyspace(), moving()]});
    let all = node(&[(200, listed.clone())]);
    assert_eq!(all.call(&["keyspace", "list", "-o", "json"]).json(), listed);
    let table = all.call(&["keyspace", "ls"]);
    let lines: Vec<&str> = table.text().lines().collect();
    assert_eq!(lines.len(), 3, "{table:?}");
    for words in ["cache max_bytes=64MiB", "none", "1 GiB", "30m", "ready"] {
        assert!(lines[1].contains(words), "{words}: {table:?}");
    }
    assert!(lines[2].contains("ready, moving from trie (1 of 3 replicas)"), "{table:?}");
    let one = node(&[(200, value(&keyspace()))]);
    assert_eq!(one.call(&["keyspace", "show", "orders", "-o", "json"]).json(), value(&keyspace()));
    let table = one.call(&["keyspace", "show", "orders"]);
    assert!(table.text().lines().any(|line| line.starts_with("history") && line.ends_with("none")), "{table:?}");
    let retention = RetentionBody {
        revisions: Some(Amount::Number(500)),
        age: Some(Amount::Text("2h".to_owned())),
        bytes: Some(Amount::Number(1 << 20)),
    };
    let kept = node(&[(200, value(&KeyspaceBody { retention: Some(retention), ..keyspace() }))]);
    let kept = kept.call(&["keyspace", "show", "orders"]);
    assert!(kept.text().contains("500 revisions, 2h, 1 MiB; whichever is less"), "{kept:?}");
    for words in ["2027-01-15", "linearizable, local", "1.5 MiB", "4 KiB", "ttl_per_key"] {
        assert!(table.text().contains(words), "{words}: {table:?}");
    }
}

#[test]
fn stats_are_those_of_one_node() {
    let stats = json!({"name": "orders", "served_by": "n2", "engine": "trie", "keys": 3, "data_bytes": 2048, "replicas": [{
        "group": 5, "role": "follower", "leader": "n1", "voters": ["n1", "n2"], "learners": [], "is_caught_up": true, "term": 4,
        "revision": 9, "commit_index": 12, "applied_index": 11, "first_index": 1, "last_index": 12, "data_bytes": 2048,
        "history_bytes": 3072, "compacted_revision": 4,
        "applied_entries": 1, "applied_commands": 1, "snapshots_cut": 0, "snapshots_sent": 0, "snapshots_loaded": 0,
    }]});
    let node = node(&[(200, stats.clone())]);
    assert_eq!(node.call(&["keyspace", "stats", "orders", "-o", "json"]).json(), stats);
    let table = node.call(&["keyspace", "stats", "orders"]);
    for words in ["n2", "2 KiB", "n1, n2", "11 of 12", "follower", "3 KiB, since revision 4"] {
        assert!(table.text().contains(words), "{words}: {table:?}");
    }
    assert_eq!(node.seen()[0], "GET /v1/keyspaces/orders/stats");
}

#[test]
fn a_cache_shows_how_it_fares() {
    let gone = json!({"explicit": 1, "replaced": 2, "expired": 3, "idle": 4, "size": 5, "rejected": 6});
    let cache = json!({"hits": 9, "misses": 1, "hit_ratio": 0.9, "recent_hit_ratio": null, "gone": gone, "weight_bytes": 2048,
        "max_bytes": 1 << 20});
    let stats = json!({"name": "s", "served_by": "n2", "engine": "cache", "keys": 3, "data_bytes": 9, "replicas": [],
        "cache": cache});
    let node = node(&[(200, stats.clone())]);
    assert_eq!(node.call(&["keyspace", "stats", "s", "-o", "json"]).json(), stats);
    let table = node.call(&["keyspace", "stats", "s"]);
    for words in ["90.0 %", "explicit 1, replaced 2, expired 3, idle 4, size 5, rejected 6", "2 KiB of 1 MiB"] {
        assert!(table.text().contains(words), "{words}: {table:?}");
    }
}

#[test]
fn settings_are_altered_and_taken_away() {
    let node = node(&[(200, value(&keyspace()))]);
    let arguments = ["keyspace", "alter", "orders", "--ttl", "none", "--max-bytes", "2GiB", "--max-key-bytes", "none"];
    assert_eq!(node.call(&arguments).text(), "keyspace orders altered\n");
    let patch = r#"{"limits":{"max_bytes":"2GiB","max_key_bytes":null},"ttl":null}"#;
    assert_eq!(node.seen(), [format!("PATCH /v1/keyspaces/orders {patch}")]);
    assert_eq!(node.call(&["keyspace", "alter", "orders", "--ttl", "5m", "-o", "json"]).json(), value(&keyspace()));
    node.call(&["keyspace", "alter", "orders", "--option", "max_entries=none"]);
    assert_eq!(node.seen()[2], r#"PATCH /v1/keyspaces/orders {"engine":{"max_entries":null}}"#);
    node.call(&["keyspace", "alter", "orders", "--retention-revisions", "0", "--retention-age", "none"]);
    assert_eq!(node.seen()[3], r#"PATCH /v1/keyspaces/orders {"retention":{"age":null,"revisions":"0"}}"#);
    node.call(&["keyspace", "create", "orders", "--retention-revisions", "7", "--retention-bytes", "1MiB"]);
    assert_eq!(node.seen()[4], r#"PUT /v1/keyspaces/orders {"retention":{"revisions":7,"bytes":"1MiB"}}"#);
}

#[test]
fn a_move_is_followed_to_its_end() {
    let running = (200, value(&job(JobState::Running)));
    let answers = [(200, value(&moving())), running.clone(), running, (200, value(&job(JobState::Done)))];
    let moved = node(&answers);
    let called = moved.call(&["keyspace", "alter", "orders", "--engine", "lsm"]);
    assert_eq!((called.exit, called.text(), called.stderr.as_str()), (0, "keyspace orders moved from trie to lsm\n", ""));
    let job = "GET /v1/jobs/3";
    assert_eq!(moved.seen(), [r#"PATCH /v1/keyspaces/orders {"engine":{"type":"lsm"}}"#, job, job, job]);
    let begun = node(&answers);
    let called = begun.call(&["keyspace", "alter", "orders", "--engine", "lsm", "--no-wait"]);
    assert_eq!((called.text(), begun.seen().len()), ("keyspace orders moves to lsm as job 3\n", 1));
}

#[test]
fn a_move_that_cannot_be_followed_goes_on() {
    let lost = node(&[(200, value(&moving())), refusal(Code::JobNotFound, "there is no job 3")]);
    let called = lost.call(&["keyspace", "alter", "orders", "--engine", "lsm"]);
    told(&called, 3, "cannot follow job 3, by which keyspace orders moves and goes on moving: Job not found");
}

#[test]
fn deleting_must_be_meant() {
    let node = node(&[(204, Value::Null)]);
    told(&node.call(&["keyspace", "delete", "orders"]), 2, "say --yes");
    assert!(node.seen().is_empty());
    assert_eq!(node.call(&["keyspace", "delete", "orders", "--yes"]).text(), "keyspace orders deleted\n");
    assert_eq!(node.call(&["keyspace", "delete", "orders", "-y", "-o", "json"]).json(), json!({"deleted": "orders"}));
    assert_eq!(node.seen(), ["DELETE /v1/keyspaces/orders"; 2]);
}

#[test]
fn engines_are_listed_with_their_options() {
    let option = EngineOption {
        name: "max_bytes".to_owned(),
        unit: "bytes".to_owned(),
        default: Some(Amount::Number(256 << 20)),
        min: Some(Amount::Number(1 << 20)),
        max: None,
        help: "how much it holds".to_owned(),
    };
    let info = EngineInfo {
        kind: "cache".to_owned(),
        summary: "values that may go".to_owned(),
        is_default: false,
        replication: vec!["none".to_owned()],
        capabilities: EngineCapabilities { ordered: false, durable: false, pinned_views: false, evicts: true },
        options: vec![option],
        outside: None,
    };
    let outside = OutsideInfo {
        writes: false,
        lists: false,
        conditions: "unconditional".to_owned(),
        expiry: "none".to_owned(),
        max_value_bytes: 1,
        max_key_bytes: 2,
        example: "{}".to_owned(),
    };
    let url = EngineOption {
        name: "url".to_owned(),
        unit: "text".to_owned(),
        default: None,
        min: None,
        max: None,
        help: "where it answers".to_owned(),
    };
    let far = EngineInfo { kind: "http".to_owned(), options: vec![url], outside: Some(outside), ..info.clone() };
    let engines = json!({ "items": [info, far] });
    let node = node(&[(200, engines.clone())]);
    assert_eq!(node.call(&["engines", "-o", "json"]).json(), engines);
    let table = node.call(&["engines"]);
    for words in [
        "cache",
        "evicts",
        "values that may go",
        "max_bytes",
        "256 MiB",
        "1 MiB",
        "how much it holds",
        "outside, read-only",
        "where it answers",
    ] {
        assert!(table.text().contains(words), "{words}: {table:?}");
    }
}
