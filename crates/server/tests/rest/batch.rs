//! Batches as one JSON object.

use std::time::Duration;

use quorate_server::rest::StoreError;
use serde_json::{Value, json};

use crate::server::{Reply, Server};

async fn post(server: &Server, ops: Value) -> Value {
    let reply = server.post_json("/v1/batch/default", &json!({ "ops": ops }).to_string()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// Status and code of each result.
fn outcomes(body: &Value) -> Vec<(u64, &str)> {
    let results = body["results"].as_array().unwrap().iter();
    results.map(|result| (result["status"].as_u64().unwrap(), result["problem"]["code"].as_str().unwrap_or("ok"))).collect()
}

#[tokio::test]
async fn each_operation_has_its_result_in_order() {
    let server = Server::start().await;
    let body = post(
        &server,
        json!([
            {"op": "put", "key": "a", "value": "1", "content_type": "text/plain", "meta": {"owner": "me"}},
            {"op": "put", "key": "a", "value64": "_w"},
            {"op": "get", "key": "a"},
            {"op": "put", "key64": "_w", "json": {"x": [1, 2]}},
            {"op": "get", "key": "nothing"},
            {"op": "delete", "key": "a"},
            {"op": "delete", "key": "a"},
            {"op": "put", "key": "a", "value": "", "cas": 0},
            {"op": "put", "key": "a", "value": "x", "cas": "e1.3"},
            {"op": "delete", "key": "a", "cas": "e1.6"},
        ]),
    )
    .await;
    let results = body["results"].as_array().unwrap();
    assert_eq!(results[0], json!({"status": 201, "revision": 2, "version": 1}));
    assert_eq!((&results[1]["status"], &results[1]["version"]), (&json!(204), &json!(2)));
    assert_eq!((&results[2]["status"], &results[2]["entry"]["value64"]), (&json!(200), &json!("_w")));
    assert_eq!((&results[5]["deleted"], &results[6]["deleted"]), (&json!(1), &json!(0)));
    let expected = [
        (201, "ok"),
        (204, "ok"),
        (200, "ok"),
        (201, "ok"),
        (404, "key_not_found"),
        (204, "ok"),
        (204, "ok"),
        (201, "ok"),
        (412, "precondition_failed"),
        (204, "ok"),
    ];
    assert_eq!((outcomes(&body), &body["failed"]), (expected.to_vec(), &json!(2)));
    assert_eq!(results[8]["problem"]["outcome"], json!("not_applied"));
    assert_eq!(results[4]["problem"].get("outcome"), None);
    let entry = server.get("/v1/kv/default?key64=_w&format=json").await.json();
    assert_eq!((&entry["value"], &entry["content_type"]), (&json!("{\"x\":[1,2]}"), &json!("application/json")));
}

#[tokio::test]
async fn a_bad_operation_fails_alone() {
    let server = Server::start().await;
    let long = "k".repeat(4097);
    let large = "v".repeat((3 << 19) + 1);
    let body = post(
        &server,
        json!([
            {"op": "incr", "key": "a"},
            {"op": "put", "key": "a"},
            {"op": "put", "key": "a", "value": "1", "by": 2},
            7,
            {"op": "put", "key": "", "value": "1"},
            {"op": "get", "key": long},
            {"op": "put", "key": "a", "value": large},
            {"op": "put", "key": "a", "value": "1", "content_type": "a\nb"},
            {"op": "put", "key": "a", "value": "1", "meta": {"a b": "c"}},
            {"op": "put", "key": "a", "value": "1", "cas": "x"},
            {"op": "put", "key": "good", "value": "1"},
        ]),
    )
    .await;
    let expected = [
        (422, "unknown_operation"),
        (400, "bad_operation"),
        (400, "bad_operation"),
        (400, "bad_operation"),
        (400, "empty_key"),
        (400, "key_too_long"),
        (413, "value_too_large"),
        (400, "bad_operation"),
        (400, "bad_operation"),
        (400, "bad_operation"),
        (201, "ok"),
    ];
    assert_eq!((outcomes(&body), &body["failed"]), (expected.to_vec(), &json!(10)));
    assert!(body["results"][0]["problem"]["detail"].as_str().unwrap().contains("get, put, delete, increment"));
    assert_eq!(server.store.revision("default"), 2);
}

#[tokio::test]
async fn limits_of_the_keyspace_are_told_for_each() {
    let server = Server::start().await;
    let ops = json!({"ops": [
        {"op": "put", "key": "123456789", "value": ""},
        {"op": "put", "key": "1", "value": "12345678901234567"},
        {"op": "put", "key": "1", "value": "1234567890123456"},
    ]});
    let reply = server.post_json("/v1/batch/narrow", &ops.to_string()).await.json();
    assert_eq!(outcomes(&reply), [(400, "key_too_long"), (413, "value_too_large"), (201, "ok")]);
    let full = json!({"ops": [{"op": "put", "key": "k", "value": "x".repeat(200)}]}).to_string();
    let full = server.post_json("/v1/batch/tiny", &full).await.json();
    assert_eq!(outcomes(&full), [(507, "keyspace_full")]);
}

#[tokio::test]
async fn what_is_no_batch_does_nothing() {
    let server = Server::start().await;
    let put = r#"{"op":"put","key":"k","value":"v"}"#;
    let many = format!(r#"{{"ops":[{}]}}"#, vec![put; 10_001].join(","));
    for (body, refusal) in [
        ("", (400, "bad_body")),
        ("[]", (400, "bad_body")),
        ("{}", (400, "bad_body")),
        (r#"{"ops":{}}"#, (400, "bad_body")),
        (r#"{"ops":[],"atomic":true}"#, (400, "bad_body")),
        (many.as_str(), (413, "body_too_large")),
    ] {
        let reply = server.post_json("/v1/batch/default", body).await;
        assert_eq!(reply.refusal(), (refusal.0, refusal.1.to_owned()), "{}", &body[..body.len().min(40)]);
    }
    let refused = |reply: Reply| reply.refusal();
    let send = |method: &'static str, target: &'static str, kind: &'static str| {
        let server = &server;
        async move { refused(server.send(method, target, &[("Content-Type", kind)], br#"{"ops":[]}"#).await) }
    };
    let json = "application/json";
    assert_eq!(send("POST", "/v1/batch/default", "text/plain").await, (415, "unsupported_media_type".to_owned()));
    assert_eq!(send("PUT", "/v1/batch/default", json).await, (405, "method_not_allowed".to_owned()));
    assert_eq!(send("POST", "/v1/batch/_system", json).await, (403, "keyspace_read_only".to_owned()));
    assert_eq!(send("POST", "/v1/batch/Bad", json).await, (400, "bad_keyspace_name".to_owned()));
    assert_eq!(send("POST", "/v1/batch/default?results=failed", json).await, (400, "bad_parameter".to_owned()));
    assert_eq!(send("POST", "/v1/batch/default?x=1", json).await, (400, "unknown_parameter".to_owned()));
    let coded = [("Content-Type", json), ("Content-Encoding", "gzip")];
    assert_eq!(refused(server.send("POST", "/v1/batch/default", &coded, b"{}").await).0, 415);
    assert_eq!(server.store.revision("default"), 1);
    assert_eq!(post(&server, json!([])).await, json!({"results": [], "failed": 0}));
}

#[tokio::test]
async fn failures_of_the_store_are_told_for_each() {
    let server = Server::start().await;
    server.store.fail_with(StoreError::Unknown);
    let body = post(&server, json!([{"op": "put", "key": "a", "value": "1"}, {"op": "get", "key": "b"}])).await;
    assert_eq!(outcomes(&body), [(504, "outcome_unknown"), (504, "timed_out")]);
    assert_eq!(body["results"][0]["problem"]["outcome"], json!("unknown"));
    server.store.fail_with(StoreError::KeyspaceNotFound("default".to_owned()));
    assert_eq!(outcomes(&post(&server, json!([{"op": "get", "key": "b"}])).await), [(404, "keyspace_not_found")]);
}

#[tokio::test]
async fn time_that_ends_leaves_the_rest_undone() {
    let server = Server::start().await;
    server.store.stall(Duration::from_millis(60));
    let ops: Vec<Value> = (0..3).map(|number| json!({"op": "put", "key": "same", "value": number.to_string()})).collect();
    let reply = server.post_json("/v1/batch/default?timeout=50ms", &json!({ "ops": ops }).to_string()).await;
    assert_eq!(outcomes(&reply.json()), [(201, "ok"), (504, "incomplete"), (504, "incomplete")]);
    assert_eq!(reply.json()["results"][1]["problem"]["outcome"], json!("not_applied"));
    assert_eq!(server.store.revision("default"), 2);
}

#[tokio::test]
async fn what_is_read_has_a_bound() {
    let server = Server::start().await;
    server.put("/v1/kv/default/large", &vec![b'x'; 1 << 20]).await;
    let gets = vec![json!({"op": "get", "key": "large"}); 40];
    let body = post(&server, json!(gets)).await;
    let told = outcomes(&body);
    let read = told.iter().filter(|(status, _)| *status == 200).count();
    assert!((9..=30).contains(&read), "{read} of 40");
    assert!(told[read..].iter().all(|outcome| *outcome == (413, "answer_too_large")), "{told:?}");
}

#[tokio::test]
async fn many_operations_on_few_keys_keep_their_order() {
    let server = Server::start().await;
    let ops: Vec<Value> =
        (0..2000).map(|number| json!({"op": "put", "key": format!("k{}", number % 7), "value": number.to_string()})).collect();
    let body = post(&server, json!(ops)).await;
    assert_eq!(body["failed"], json!(0));
    for key in 0..7 {
        let last = (0..2000).rev().find(|number| number % 7 == key).unwrap();
        assert_eq!(server.get(&format!("/v1/kv/default/k{key}")).await.text(), last.to_string());
    }
}
