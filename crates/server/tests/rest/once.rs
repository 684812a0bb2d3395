//! `Idempotency-Key`, and batches that are one write.

use serde_json::{Value, json};

use crate::server::{Headers, Reply, Server};

const KEY_OP: (&str, &str) = ("Content-Type", "application/vnd.quorate.op+json");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const INCREMENT: &[u8] = b"{\"op\":\"increment\"}";

fn is_replayed(reply: &Reply) -> bool {
    reply.find("idempotency-replayed") == Some("true")
}

async fn send(server: &Server, method: &str, target: &str, key: &str, headers: Headers<'_>, body: &[u8]) -> Reply {
    let headers = [&[("Idempotency-Key", key)], headers].concat();
    server.send(method, target, &headers, body).await
}

#[tokio::test]
async fn a_repetition_is_answered_as_the_first_was() {
    let server = Server::start().await;
    let target = "/v1/kv/default/n";
    let first = send(&server, "PATCH", target, "a-1", &[KEY_OP], INCREMENT).await;
    assert_eq!((first.status, first.text().as_str(), is_replayed(&first)), (200, "1", false));
    server.send("PATCH", target, &[KEY_OP], INCREMENT).await;
    // With quotes it is the same key.
    for key in ["a-1", "\"a-1\""] {
        let again = send(&server, "PATCH", target, key, &[KEY_OP], INCREMENT).await;
        assert_eq!((again.status, again.text().as_str(), is_replayed(&again)), (200, "1", true));
        assert_eq!((again.header("etag"), again.header("quorate-revision")), (first.header("etag"), "2"));
    }
    assert_eq!(server.get(target).await.text(), "2");

    let put = || send(&server, "PUT", "/v1/kv/default/k", "b", &[("If-None-Match", "*")], b"v");
    let (created, again) = (put().await, put().await);
    assert_eq!([(created.status, is_replayed(&created)), (again.status, is_replayed(&again))], [(201, false), (201, true)]);
    let delete = || send(&server, "DELETE", "/v1/kv/default/k", "c", &[], b"");
    let (deleted, again) = (delete().await, delete().await);
    assert_eq!((deleted.header("quorate-deleted"), again.header("quorate-deleted")), ("1", "1"));
    assert_eq!((is_replayed(&deleted), is_replayed(&again)), (false, true));
    let failing = || send(&server, "PUT", "/v1/kv/default/k?cas=1", "d", &[], b"v");
    let (failed, again) = (failing().await, failing().await);
    assert_eq!((failed.refusal(), is_replayed(&failed)), ((412, "precondition_failed".to_owned()), false));
    assert_eq!((again.refusal(), is_replayed(&again)), ((412, "precondition_failed".to_owned()), true));
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let server = Server::start().await;
    send(&server, "PUT", "/v1/kv/default/k", "a", &[], b"1").await;
    for (method, target, headers, body) in [
        ("PUT", "/v1/kv/default/k", &[][..], &b"2"[..]),
        ("PUT", "/v1/kv/default/other", &[], b"1"),
        ("PUT", "/v1/kv/default/k?cas=2", &[], b"1"),
        ("PUT", "/v1/kv/default/k", &[("Quorate-Meta-Owner", "me")], b"1"),
        ("DELETE", "/v1/kv/default/k", &[], b""),
        ("PATCH", "/v1/kv/default/k", &[KEY_OP], INCREMENT),
    ] {
        let refused = send(&server, method, target, "a", headers, body).await;
        assert_eq!(refused.refusal(), (422, "idempotency_key_reused".to_owned()), "{method} {target}");
    }
    // Each keyspace has keys of its own; and how long one waits does not matter.
    assert_eq!(send(&server, "PUT", "/v1/kv/orders/k", "a", &[], b"2").await.status, 201);
    assert!(is_replayed(&send(&server, "PUT", "/v1/kv/default/k?timeout=1s", "a", &[], b"1").await));
    let long = "x".repeat(256);
    for key in ["", "\"\"", "a\"b", &long] {
        let refused = send(&server, "PUT", "/v1/kv/default/k", key, &[], b"1").await;
        assert_eq!(refused.refusal(), (400, "bad_header".to_owned()), "{key:?}");
    }
    let many = send(&server, "DELETE", "/v1/kv/default?all=true", "b", &[], b"").await;
    assert_eq!(many.refusal(), (400, "bad_header".to_owned()));
    let batch = send(&server, "POST", "/v1/batch/default", "b", &[JSON], b"{\"ops\":[]}").await;
    assert_eq!(batch.refusal(), (400, "bad_header".to_owned()));
}

#[tokio::test]
async fn transactions_are_done_once_too() {
    let server = Server::start().await;
    let txn = json!({"if": [{"key": "n", "exists": false}], "then": [{"op": "increment", "key": "n"}], "else": []});
    let post = || async { send(&server, "POST", "/v1/txn", "t", &[JSON], txn.to_string().as_bytes()).await };
    let (first, again) = (post().await, post().await);
    assert_eq!((first.json()["succeeded"].clone(), is_replayed(&first)), (json!(true), false));
    assert_eq!((again.json(), is_replayed(&again)), (first.json(), true));
    let other = json!({"then": [{"op": "increment", "key": "n"}]});
    let refused = send(&server, "POST", "/v1/txn", "t", &[JSON], other.to_string().as_bytes()).await;
    assert_eq!(refused.refusal(), (422, "idempotency_key_reused".to_owned()));
}

#[expect(clippy::needless_pass_by_value, reason = "it reads like the body")]
fn ops(ops: Value) -> String {
    json!({ "ops": ops }).to_string()
}

#[tokio::test]
async fn an_atomic_batch_is_one_write() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a", b"1").await;
    let batch = ops(json!([
        {"op": "put", "key": "b", "value": "x", "cas": 0},
        {"op": "increment", "key": "a", "cas": 2},
        {"op": "get", "key": "a"},
        {"op": "get", "key": "nothing"},
        {"op": "touch", "key": "nothing"},
        {"op": "delete", "key": "b"},
        {"op": "append", "key": "c", "value": "y"},
    ]));
    let post = || async { send(&server, "POST", "/v1/batch/default?atomic=true", "a", &[JSON], batch.as_bytes()).await };
    let reply = post().await;
    assert_eq!((reply.status, reply.header("quorate-revision")), (200, "3"), "{reply:?}");
    let entry = json!({"key": "a", "value": "2", "create_revision": 2, "mod_revision": 3, "version": 2});
    let results = json!([
        {"status": 201, "revision": 3, "version": 1},
        {"status": 200, "revision": 3, "version": 2, "number": 2},
        {"status": 200, "revision": 3, "entry": entry},
        {"status": 404, "revision": 3},
        {"status": 404, "revision": 3},
        {"status": 204, "revision": 3, "deleted": 1},
        {"status": 200, "revision": 3, "version": 1},
    ]);
    assert_eq!(reply.json(), json!({"results": results, "failed": 0}));
    let again = post().await;
    assert_eq!((again.json(), is_replayed(&again)), (reply.json(), true));
}

#[tokio::test]
async fn an_atomic_batch_is_refused_as_a_whole() {
    let server = Server::start().await;
    server.put("/v1/kv/default/text", b"hello").await;
    let first = json!({"op": "put", "key": "first", "value": "x"});
    for (once, second, status, code, detail) in [
        ("a", json!({"op": "put", "key": "text", "value": "x", "cas": 7}), 412, "precondition_failed", "ops[1]: "),
        ("b", json!({"op": "increment", "key": "text"}), 409, "unfit_value", "`text`: "),
        ("c", json!({"op": "stroke", "key": "text"}), 422, "unknown_operation", "ops[1]: "),
        ("d", json!({"op": "put", "key": "", "value": "x"}), 400, "empty_key", "ops[1]: "),
        ("e", json!({"op": "delete", "key": "text", "cas": "x"}), 400, "bad_operation", "ops[1]: "),
    ] {
        for key in [None, Some(("Idempotency-Key", once))] {
            let headers: Vec<_> = [JSON].into_iter().chain(key).collect();
            let body = ops(json!([first, second]));
            let reply = server.send("POST", "/v1/batch/default?atomic=true", &headers, body.as_bytes()).await;
            let problem = reply.problem();
            assert_eq!((problem.status, &*problem.code), (status, code), "{second}");
            assert!(problem.detail.starts_with(detail), "{}", problem.detail);
        }
    }
    assert_eq!(server.get("/v1/kv/default/first").await.status, 404);
    let lines = [("Content-Type", "application/x-ndjson")];
    let reply = server.send("POST", "/v1/batch/default?atomic=true", &lines, b"{}").await;
    assert_eq!(reply.refusal(), (415, "unsupported_media_type".to_owned()));
    let reply = server.send("POST", "/v1/batch/default?atomic=true", &[JSON], b"[]").await;
    assert_eq!(reply.refusal(), (400, "bad_body".to_owned()));
}
