//! What the bench makes of a node's answers.

use std::time::Duration;

use quorate_api::problem::{Code, WriteOutcome};
use serde_json::Value;

use crate::calls::{Called, CannedNode, canned};

/// What was measured: the first row is the whole.
fn rows(report: &Called) -> Vec<Value> {
    assert_eq!(report.exit, 0, "{report:?}");
    let mut report = report.json();
    let Value::Array(rows) = report["items"].take() else { panic!("a report without items: {report}") };
    rows
}

#[test]
fn the_bench_counts_what_comes_back() {
    let node = CannedNode::start(|| canned(200, &[], "v"));
    let arguments = ["bench", "get", "--seconds", "1", "--clients", "2", "--keys", "10", "-o", "json"];
    let report = node.call(&arguments);
    let measured = &report.json()["items"][0];
    assert_eq!((report.exit, measured["what"].as_str(), measured["clients"].as_u64()), (0, Some("get"), Some(2)));
    let seen = node.seen();
    assert_eq!(seen.iter().filter(|asked| asked.starts_with("PUT ")).count(), 10, "each key is written once");
    let gets = (seen.len() - 10) as u64;
    assert!((1..=gets).contains(&measured["requests"].as_u64().unwrap()), "{measured}");
    assert!(measured["p50_ms"].as_f64() <= measured["max_ms"].as_f64(), "{measured}");
}

#[test]
fn a_bench_that_only_fails_says_so() {
    let node = CannedNode::refusing(Code::NoLeader, Some(WriteOutcome::NotApplied), None);
    let report = node.call(&["bench", "put", "--seconds", "1", "--clients", "1", "-o", "json"]);
    assert_eq!(report.exit, 1);
    assert!(report.json()["items"][0]["errors"]["status 503"].as_u64().unwrap() > 0, "{report:?}");
    assert!(report.stderr.contains("no request of `put` succeeded"), "{report:?}");
}

#[test]
fn an_open_loop_counts_from_when_requests_were_due() {
    // One answer after the other, each after 20 ms, is half of the rate that is offered: request number k is due after 10 k ms
    // and is answered after 20 (k + 1) ms at the earliest, so that half of the 100 measured ones are more than 600 ms late.
    let node = CannedNode::start(|| {
        std::thread::sleep(Duration::from_millis(20));
        canned(204, &[], "")
    });
    let load = ["bench", "put", "--seconds", "1", "--clients", "1", "--keys", "10", "-o", "json"];
    let open = rows(&node.call(&[load.as_slice(), &["--rate", "100"]].concat()));
    assert_eq!((open[0]["requests"].as_u64(), open[0]["offered_rate_per_s"].as_u64()), (Some(100), Some(100)), "{open:?}");
    assert!(open[0]["p50_ms"].as_f64().unwrap() > 600.0, "{open:?}");
    assert!(open[0]["rate_per_s"].as_f64().unwrap() < 100.0, "the last answer came late: {open:?}");
    assert!(open[0]["seconds"][0]["overdue"].as_u64().unwrap() > 10, "{open:?}");
    // The same node in a closed loop hides it.
    let closed = rows(&node.call(&load));
    assert!(closed[0]["p50_ms"].as_f64() < open[0]["p50_ms"].as_f64(), "{closed:?}");
}

#[test]
fn a_mix_reads_and_writes_the_keyspace_it_is_given() {
    let node = CannedNode::start(|| canned(200, &[], "v"));
    let mix = ["bench", "mix", "--reads-percent", "50", "--no-fill", "--local", "--pick", "sequential", "-k", "sessions"];
    let report =
        node.call(&[mix.as_slice(), &["--seconds", "1", "--clients", "2", "--keys", "20", "-o", "json", "--live"]].concat());
    let rows = rows(&report);
    let names: Vec<&str> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["50 % local get, 50 % put", "  local get", "  put"]);
    let requests: Vec<u64> = rows.iter().map(|row| row["requests"].as_u64().unwrap()).collect();
    assert_eq!(requests[0], requests[1] + requests[2], "{rows:?}");
    assert!(report.stderr.contains(" 1 s ") && report.stderr.contains("p99.9"), "a line each second: {report:?}");
    let seen = node.seen();
    for form in ["GET /v1/kv/sessions/bench/0000000019?consistency=local", "PUT /v1/kv/sessions/bench/0000000019 "] {
        assert!(seen.iter().any(|asked| asked.starts_with(form)), "{form} among {} requests", seen.len());
    }
}

#[test]
fn the_bare_server_is_measured_beside_a_node() {
    let node = CannedNode::start(|| canned(204, &[], ""));
    let pid = std::process::id().to_string();
    let load = ["bench", "put", "--bare", "--seconds", "1", "--clients", "2", "--value-bytes", "1-100", "-o", "json"];
    let rows = rows(&node.call(&[load.as_slice(), &["--pids", &pid]].concat()));
    assert_eq!((rows.len(), rows[0]["what"].as_str(), rows[1]["what"].as_str()), (2, Some("bare put"), Some("put")));
    let ratio = rows[1]["rate_per_s"].as_f64().unwrap() / rows[0]["rate_per_s"].as_f64().unwrap();
    assert!((rows[1]["ratio_to_bare"].as_f64().unwrap() - ratio).abs() < 1e-9, "{rows:?}");
    assert!(rows.iter().all(|row| row["server_cpu_s_per_100k"].is_number()), "{rows:?}");
    let puts = node.seen();
    assert!(puts.iter().all(|asked| asked.starts_with("PUT /v1/kv/default/bench/")), "{}", puts.len());
}
