//! Transactions.

use quorate_server::rest::StoreError;
use serde_json::{Value, json};

use crate::server::{Reply, Server};

async fn send(server: &Server, txn: Value) -> Reply {
    server.post_json("/v1/txn", &txn.to_string()).await
}

async fn done(server: &Server, txn: Value) -> Value {
    let reply = send(server, txn).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("quorate-revision"), reply.json()["revision"].to_string());
    reply.json()
}

#[tokio::test]
async fn one_side_is_done_as_a_whole_with_results_in_order() {
    let server = Server::start().await;
    let body = done(
        &server,
        json!({"if": [{"key": "a", "exists": false}], "then": [
            {"op": "put", "key": "a", "value": "1", "content_type": "text/plain", "meta": {"owner": "me"}},
            {"op": "put", "key64": "_w", "json": {"x": [1, 2]}},
            {"op": "get", "key": "a"},
            {"op": "get", "key": "nothing"},
            {"op": "delete", "key": "nothing"},
            {"op": "list", "limit": 1, "reverse": true, "values": true},
            {"op": "list"},
        ]}),
    )
    .await;
    let entry = json!({"key": "a", "value": "1", "content_type": "text/plain", "meta": {"owner": "me"},
        "create_revision": 2, "mod_revision": 2, "version": 1});
    let other = json!({"key64": "_w", "value": "{\"x\":[1,2]}", "content_type": "application/json",
        "create_revision": 2, "mod_revision": 2, "version": 1});
    let without_value = |entry: &Value| {
        let mut entry = entry.clone();
        entry.as_object_mut().unwrap().remove("value");
        entry
    };
    let results = json!([
        {"status": 201, "version": 1},
        {"status": 201, "version": 1},
        {"status": 200, "entry": entry},
        {"status": 404},
        {"status": 204, "deleted": 0},
        {"status": 200, "items": [other], "more": true},
        {"status": 200, "items": [without_value(&entry), without_value(&other)]},
    ]);
    assert_eq!(body, json!({"succeeded": true, "revision": 2, "results": results}));

    let again = json!({"if": [{"key": "a", "value": "1"}, {"key": "a", "version": {">": 1}}], "then": [],
        "else": [{"op": "put", "key": "a", "value": "2"}, {"op": "delete_range", "start": "b"}]});
    let results = json!([{"status": 204, "version": 2}, {"status": 200, "deleted": 1}]);
    assert_eq!(done(&server, again).await, json!({"succeeded": false, "failed_if": 1, "revision": 3, "results": results}));
    assert_eq!(server.get("/v1/kv/default/a").await.text(), "2");
}

#[tokio::test]
async fn transactions_lie_in_each_other() {
    let server = Server::start().await;
    let inner = json!({"op": "txn", "if": [{"prefix": "", "exists": true}], "then": [], "else": [{"op": "get", "key": "a"}]});
    let body = done(&server, json!({"then": [{"op": "put", "key": "a", "value": "1"}, inner]})).await;
    let nested = &body["results"][1];
    // Its compare looks at what was before all of it, its get at what the put before it did.
    assert_eq!((&nested["status"], &nested["succeeded"], &nested["failed_if"]), (&json!(200), &json!(false), &json!(0)));
    assert_eq!(nested["results"][0]["entry"]["value"], json!("1"));
}

#[tokio::test]
async fn compares_are_made_of_all_that_a_key_has() {
    let server = Server::start().await;
    for value in ["m", "n"] {
        server.put("/v1/kv/default/a", value.as_bytes()).await;
    }
    let cases = [
        (json!({"key": "a", "mod_revision": 3}), true),
        (json!({"key": "a", "mod_revision": {"<": 3}}), false),
        (json!({"key": "a", "create_revision": {"=": 2}}), true),
        (json!({"key": "a", "create_revision": {"!=": 2}}), false),
        (json!({"key": "a", "version": {">": 1}}), true),
        (json!({"key64": "YQ", "value64": "bg"}), true),
        (json!({"key": "a", "value": {">": "m"}}), true),
        (json!({"key": "a", "value": {"<": "n"}}), false),
        (json!({"key": "b", "version": 0}), true),
        (json!({"key": "b", "mod_revision": {"<": 1}}), true),
        (json!({"key": "b", "value": {"!=": "n"}}), false),
        (json!({"key": "b", "exists": false}), true),
        (json!({"prefix": "a", "version": 2}), true),
        (json!({"start": "b", "end": "c", "version": 0}), true),
        (json!({"start": "a", "end": "b", "value": {"!=": "n"}}), false),
    ];
    let written = server.store.calls().len();
    for (compare, holds) in cases {
        let body = done(&server, json!({"if": [compare], "then": [{"op": "get", "key": "a"}]})).await;
        assert_eq!(body["succeeded"], json!(holds), "{compare}");
    }
    assert_eq!(server.store.calls().len(), written, "what only reads does not go through the log");
}

#[tokio::test]
async fn a_strict_one_that_does_nothing_is_412() {
    let server = Server::start().await;
    let never = json!([{"key": "b", "exists": false}, {"key": "a", "exists": true}]);
    let put = json!([{"op": "put", "key": "b", "value": "1"}]);
    let without = json!({"if": never, "then": put});
    let reply = server.post_json("/v1/txn?strict", &without.to_string()).await;
    assert_eq!(reply.refusal(), (412, "precondition_failed".to_owned()));
    let problem = reply.json();
    assert_eq!((&problem["detail"], &problem["outcome"]), (&json!("if[1] does not hold"), &json!("not_applied")));
    assert_eq!(reply.header("quorate-revision"), "1");
    assert_eq!(server.post_json("/v1/txn?strict=false", &without.to_string()).await.status, 200);
    let with = json!({"if": never, "then": [], "else": put});
    assert_eq!(server.post_json("/v1/txn?strict=true", &with.to_string()).await.status, 200);
    assert_eq!(server.store.revision("default"), 2);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_done() {
    let server = Server::start().await;
    let put = |key: &str| json!({"op": "put", "key": key, "value": "v"});
    let nested = |op: Value| json!({"then": [put("a"), {"op": "txn", "else": [op]}]});
    let large = "v".repeat((3 << 19) + 1);
    let many = vec![json!({"op": "get", "key": "a"}); 129];
    let deep = (0..16).fold(put("a"), |inner, _| json!({"op": "txn", "then": [inner]}));
    let cases = [
        (json!([]), (400, "bad_body"), "not a JSON object"),
        (json!({"then": {}}), (400, "bad_body"), "invalid type"),
        (json!({"then": [put("a"), 7]}), (400, "bad_transaction"), "then[1]: "),
        (json!({"if": [{"key": "a", "colour": 3}]}), (400, "bad_transaction"), "if[0]: unknown field `colour`"),
        (json!({"if": [{"key64": "=a", "exists": true}]}), (400, "bad_transaction"), "if[0]: key64: "),
        (json!({"if": [{"key": "", "exists": true}]}), (400, "empty_key"), "if[0]: "),
        (json!({"if": [{"prefix": "k".repeat(4097), "exists": true}]}), (400, "key_too_long"), "if[0]: prefix: "),
        (nested(json!({"op": "incr", "key": "b"})), (422, "unknown_operation"), "then[1].else[0]: there is no operation"),
        (nested(json!({"op": "put", "key": "b"})), (400, "bad_transaction"), "then[1].else[0]: exactly one of value"),
        (nested(json!({"op": "get", "key": ""})), (400, "empty_key"), "then[1].else[0]: "),
        (nested(json!({"op": "get", "key": "k".repeat(4097)})), (400, "key_too_long"), "then[1].else[0]: "),
        (nested(json!({"op": "put", "key": "b", "value": large})), (413, "value_too_large"), "then[1].else[0]: "),
        (nested(json!({"op": "put", "key": "b", "value": "", "lease": "0"})), (400, "bad_operation"), "then[1].else[0]: lease: "),
        (nested(json!({"op": "put", "key": "b", "value": "", "ttl": "soon"})), (400, "bad_operation"), "then[1].else[0]: ttl: "),
        (
            nested(json!({"op": "put", "key": "b", "value": "", "content_type": "a\nb"})),
            (400, "bad_operation"),
            "then[1].else[0]: content_type: ",
        ),
        (nested(json!({"op": "delete_range"})), (400, "empty_selection"), "then[1].else[0]: "),
        (nested(put("a")), (400, "duplicate_key"), "the key \"a\" is set twice"),
        (json!({"then": [put("ab"), {"op": "delete_range", "prefix": "a"}]}), (400, "duplicate_key"), "the key \"ab\""),
        (json!({"else": many}), (400, "too_many_operations"), "129 compares or operations"),
        (json!({"then": [deep]}), (400, "too_many_operations"), "then[0].then[0]"),
    ];
    for (txn, refusal, detail) in cases {
        let reply = send(&server, txn).await;
        assert_eq!(reply.refusal(), (refusal.0, refusal.1.to_owned()), "{detail}");
        let told = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(told.starts_with(detail), "{told} begins with {detail}");
        assert_eq!(reply.json()["outcome"], json!("not_applied"));
    }
    assert_eq!((server.store.revision("default"), server.store.reads()), (1, 0));
}

#[tokio::test]
async fn limits_refuse_the_whole() {
    let server = Server::start().await;
    let txn = |ops: Value| json!({"then": ops}).to_string();
    let put = |key: &str, value: String| json!({"op": "put", "key": key, "value": value});
    let small = put("small", "1".to_owned());
    for (keyspace, bad, refusal) in [
        ("narrow", put("123456789", String::new()), (400, "key_too_long")),
        ("narrow", put("1", "v".repeat(17)), (413, "value_too_large")),
        ("tiny", put("1", "v".repeat(200)), (507, "keyspace_full")),
    ] {
        let reply = server.post_json(&format!("/v1/txn?ks={keyspace}"), &txn(json!([small, bad]))).await;
        assert_eq!(reply.refusal(), (refusal.0, refusal.1.to_owned()));
        assert_eq!(server.store.revision(keyspace), 1);
    }
    server.store.fill("orders", 10_001);
    for ops in [json!([{"op": "list"}]), json!([small, {"op": "delete_range", "prefix": "k"}])] {
        let reply = server.post_json("/v1/txn?ks=orders", &txn(ops)).await;
        assert_eq!(reply.refusal(), (413, "transaction_too_large".to_owned()));
    }
    let some = server.post_json("/v1/txn?ks=orders", &txn(json!([{"op": "list", "limit": 10_000}]))).await.json();
    assert_eq!((some["results"][0]["items"].as_array().unwrap().len(), &some["results"][0]["more"]), (10_000, &json!(true)));
    assert_eq!(server.store.revision("orders"), 2);
}

#[tokio::test]
async fn what_is_no_request_for_one_is_refused() {
    let server = Server::start().await;
    let send = |method: &'static str, target: &'static str, headers: &'static [(&'static str, &'static str)]| {
        let server = &server;
        async move { server.send(method, target, headers, b"{}").await.refusal() }
    };
    let json: &[(&str, &str)] = &[("Content-Type", "application/json")];
    assert_eq!(send("POST", "/v1/txn", &[]).await, (415, "unsupported_media_type".to_owned()));
    assert_eq!(send("GET", "/v1/txn", json).await, (405, "method_not_allowed".to_owned()));
    assert_eq!(send("POST", "/v1/txn?ks=_system", json).await, (403, "keyspace_read_only".to_owned()));
    assert_eq!(send("POST", "/v1/txn?ks=Bad", json).await, (400, "bad_keyspace_name".to_owned()));
    assert_eq!(send("POST", "/v1/txn?ks=nowhere", json).await, (404, "keyspace_not_found".to_owned()));
    assert_eq!(send("POST", "/v1/txn?ks=a&ks=b", json).await, (400, "bad_parameter".to_owned()));
    assert_eq!(send("POST", "/v1/txn?strict=perhaps", json).await, (400, "bad_parameter".to_owned()));
    assert_eq!(send("POST", "/v1/txn?consistency=local", json).await, (400, "unknown_parameter".to_owned()));
    let coded: &[(&str, &str)] = &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")];
    assert_eq!(send("POST", "/v1/txn", coded).await, (415, "unsupported_media_type".to_owned()));
    assert_eq!(done(&server, json!({})).await, json!({"succeeded": true, "revision": 1, "results": []}));
}

#[tokio::test]
async fn keyspaces_without_transactions_say_so() {
    let server = Server::start().await;
    let settings = r#"{"engine": {"type": "hash"}, "replication": {"mode": "none"}}"#;
    server.send("PUT", "/v1/keyspaces/own", &[("Content-Type", "application/json")], settings.as_bytes()).await;
    let reply = server.post_json("/v1/txn?ks=own", r#"{"then": [{"op": "put", "key": "a", "value": "1"}]}"#).await;
    assert_eq!(reply.refusal(), (422, "unsupported_capability".to_owned()));
    assert!(reply.json()["detail"].as_str().unwrap().contains("the capability txn"));
    let can = |name: &'static str| {
        let server = &server;
        async move { server.get(&format!("/v1/keyspaces/{name}")).await.json()["capabilities"]["txn"].clone() }
    };
    assert_eq!((can("own").await, can("default").await), (json!(false), json!(true)));
}

#[tokio::test]
async fn failures_of_the_store_say_whether_it_may_have_happened() {
    let server = Server::start().await;
    server.store.fail_with(StoreError::Unknown);
    let write = send(&server, json!({"then": [{"op": "put", "key": "a", "value": "1"}]})).await;
    assert_eq!(write.refusal(), (504, "outcome_unknown".to_owned()));
    assert_eq!((&write.json()["outcome"], &write.json()["leader"]), (&json!("unknown"), &json!("n2")));
    let read = send(&server, json!({"then": [{"op": "get", "key": "a"}]})).await;
    assert_eq!(read.refusal(), (504, "timed_out".to_owned()));
    assert_eq!(read.json()["outcome"], json!("not_applied"));
}
