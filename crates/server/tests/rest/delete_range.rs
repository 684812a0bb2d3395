//! Range deletes: what they select, what they tell, and what they tell when they are interrupted.

use quorate_api::problem::WriteOutcome;
use quorate_server::rest::StoreError;
use serde_json::json;

use crate::server::Server;

async fn server(keys: &[&str]) -> Server {
    let server = Server::start().await;
    for key in keys {
        assert_eq!(server.put(&format!("/v1/kv/default/{key}"), b"v").await.status, 201);
    }
    server
}

async fn keys(server: &Server) -> Vec<String> {
    let body = server.get("/v1/kv/default").await.json();
    body["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_selection_goes_and_the_rest_stays() {
    let all = ["a", "a/1", "a/2", "b", "c"];
    let cases: [(&str, u64, &[&str]); 8] = [
        ("prefix=a/", 2, &["a", "b", "c"]),
        ("prefix64=YS8", 2, &["a", "b", "c"]),
        ("start=a/2&end=c", 2, &["a", "a/1", "c"]),
        ("start=b", 2, &["a", "a/1", "a/2"]),
        ("end=b", 3, &["b", "c"]),
        ("prefix=a&start=a/1&end=a/2", 1, &["a", "a/2", "b", "c"]),
        ("prefix=x", 0, &all),
        ("all=true", 5, &[]),
    ];
    for (query, deleted, left) in cases {
        let server = server(&all).await;
        let reply = server.delete(&format!("/v1/kv/default?{query}")).await;
        let revision = if deleted > 0 { 7 } else { 6 };
        assert_eq!((reply.status, reply.json()), (200, json!({"deleted": deleted, "revision": revision})), "{query}");
        assert_eq!(reply.header("quorate-deleted"), deleted.to_string());
        assert_eq!(reply.header("quorate-revision"), revision.to_string());
        assert_eq!(keys(&server).await, left, "{query}");
    }
}

#[tokio::test]
async fn what_is_not_clear_deletes_nothing() {
    let server = server(&["a"]).await;
    let cases = [
        ("", "empty_selection"),
        ("?", "empty_selection"),
        ("?prefix=", "empty_selection"),
        ("?start=&end=", "empty_selection"),
        ("?all=false", "empty_selection"),
        ("?all=true&prefix=a", "bad_parameter"),
        ("?all=yes", "bad_parameter"),
        ("?prefix=a&prefix64=YQ", "bad_parameter"),
        ("?prefix=a&timeout=0s", "bad_parameter"),
        ("?prefix=%zz", "malformed_key"),
        ("?prefix=a&limit=5", "unknown_parameter"),
        ("?prefix=a&cas=2", "unknown_parameter"),
    ];
    for (query, code) in cases {
        let reply = server.delete(&format!("/v1/kv/default{query}")).await;
        assert_eq!(reply.refusal(), (400, code.to_owned()), "{query}");
    }
    let conditional = server.send("DELETE", "/v1/kv/default?prefix=a", &[("If-Match", "*")], b"").await;
    assert_eq!(conditional.refusal(), (400, "bad_header".to_owned()));
    assert_eq!(server.delete("/v1/kv/_system?all=true").await.refusal(), (403, "keyspace_read_only".to_owned()));
    assert_eq!(server.delete("/v1/kv/nowhere?all=true").await.refusal(), (404, "keyspace_not_found".to_owned()));
    assert_eq!((server.store.revision("default"), keys(&server).await), (2, vec!["a".to_owned()]));
}

#[tokio::test]
async fn a_large_range_goes_in_steps() {
    let server = Server::start().await;
    server.store.fill("default", 25_000);
    let reply = server.delete("/v1/kv/default?prefix=k").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"deleted": 25_000, "revision": 5})));
    assert_eq!(server.store.calls().len(), 3);
    assert!(keys(&server).await.is_empty());
}

#[tokio::test]
async fn an_interrupted_one_tells_what_is_gone() {
    let server = Server::start().await;
    server.store.fill("default", 25_000);
    server.store.fail_after(2, StoreError::NoLeader);
    let reply = server.delete("/v1/kv/default?all=true").await;
    let problem = reply.problem();
    assert_eq!((reply.refusal(), problem.deleted), ((503, "no_leader".to_owned()), Some(20_000)));
    // Not "not applied": a part was.
    assert_eq!(problem.outcome, Some(WriteOutcome::Unknown));
    let at_once = server.delete("/v1/kv/default?all=true").await.problem();
    assert_eq!((at_once.deleted, at_once.outcome), (None, Some(WriteOutcome::NotApplied)));
}

#[tokio::test]
async fn a_time_limit_ends_it_between_two_steps() {
    let server = Server::start().await;
    server.store.fill("default", 25_000);
    server.store.stall(std::time::Duration::from_millis(60));
    let reply = server.delete("/v1/kv/default?all=true&timeout=50ms").await;
    let problem = reply.problem();
    assert_eq!((reply.refusal(), problem.deleted), ((504, "incomplete".to_owned()), Some(10_000)));
    assert_eq!((problem.outcome, problem.retryable), (Some(WriteOutcome::Unknown), true));
    let again = server.delete("/v1/kv/default?all=true").await;
    assert_eq!(again.json()["deleted"], json!(15_000));
}
