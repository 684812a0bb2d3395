//! One key: `PATCH`; the same changes in batches and transactions.

use serde_json::{Value, json};

use crate::server::{Headers, Reply, Server};

const KEY_OP: &str = "application/vnd.quorate.op+json";
const MERGE: &str = "application/merge-patch+json";

async fn patch(server: &Server, target: &str, media_type: &str, headers: Headers<'_>, body: &str) -> Reply {
    let headers = [&[("Content-Type", media_type)], headers].concat();
    server.send("PATCH", target, &headers, body.as_bytes()).await
}

async fn op(server: &Server, key: &str, body: Value) -> Reply {
    patch(server, &format!("/v1/kv/default/{key}"), KEY_OP, &[], &body.to_string()).await
}

#[tokio::test]
async fn the_new_value_is_answered_with_what_goes_with_it() {
    let server = Server::start().await;
    let first = op(&server, "n", json!({"op": "increment", "initial": 10})).await;
    assert_eq!((first.status, first.text().as_str(), first.header("content-type")), (200, "11", "text/plain"));
    let expected = [
        ("etag", "\"e1.2\""),
        ("quorate-revision", "2"),
        ("quorate-mod-revision", "2"),
        ("quorate-create-revision", "2"),
        ("quorate-version", "1"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
    ];
    for (name, value) in expected {
        assert_eq!(first.header(name), value, "{name}");
    }
    let second = op(&server, "n", json!({"op": "increment", "by": -30})).await;
    assert_eq!((second.text().as_str(), second.header("quorate-version")), ("-19", "2"));

    let headers = [("Content-Type", "text/x"), ("Quorate-Meta-Owner", "me")];
    server.send("PUT", "/v1/kv/default/log", &headers, b"a").await;
    let appended = op(&server, "log", json!({"op": "append", "value64": "AP8"})).await;
    assert_eq!((appended.status, appended.body.as_slice()), (200, &b"a\0\xff"[..]));
    assert_eq!((appended.header("content-type"), appended.header("quorate-meta-owner")), ("text/x", "me"));
    let touched = op(&server, "log", json!({"op": "touch"})).await;
    assert_eq!((touched.body.as_slice(), touched.header("quorate-version")), (&b"a\0\xff"[..], "3"));

    let merged = patch(&server, "/v1/kv/default/doc", MERGE, &[], "{\"a\": {\"b\": 1.0, \"c\": null}}").await;
    assert_eq!((merged.text().as_str(), merged.header("content-type")), ("{\"a\":{\"b\":1.0}}", "application/json"));
    let merged = op(&server, "doc", json!({"op": "merge", "patch": {"d": 2}})).await;
    assert_eq!(merged.text(), "{\"a\":{\"b\":1.0},\"d\":2}");
    let by_key64 = patch(&server, "/v1/kv/default?key64=bg", KEY_OP, &[], "{\"op\":\"increment\"}").await;
    assert_eq!((by_key64.status, by_key64.text().as_str()), (200, "-18"));
}

#[tokio::test]
async fn what_is_answered_can_be_chosen() {
    let server = Server::start().await;
    let headers = [("Prefer", "return=minimal")];
    let minimal = patch(&server, "/v1/kv/default/m", KEY_OP, &headers, "{\"op\":\"increment\"}").await;
    assert_eq!((minimal.status, minimal.body.len(), minimal.header("quorate-version")), (204, 0, "1"));
    assert_eq!(minimal.header("preference-applied"), "return=minimal");
    server.put("/v1/kv/default/n", b"1").await;
    let headers = [("Prefer", "return=representation")];
    let whole = patch(&server, "/v1/kv/default/n", KEY_OP, &headers, "{\"op\":\"increment\"}").await;
    let entry = json!({"key": "n", "value": "2", "create_revision": 3, "mod_revision": 4, "version": 2});
    let prev = json!({"create_revision": 3, "mod_revision": 3, "version": 1});
    assert_eq!((whole.status, whole.json()), (200, json!({"entry": entry, "prev": prev})));
}

#[tokio::test]
async fn conditions_are_those_of_a_put() {
    let server = Server::start().await;
    server.put("/v1/kv/default/n", b"1").await;
    let increment = "{\"op\":\"increment\"}";
    for (target, headers) in [
        ("/v1/kv/default/n?cas=1", &[][..]),
        ("/v1/kv/default/n?cas=0", &[]),
        ("/v1/kv/default/n", &[("If-Match", "\"e1.9\"")]),
        ("/v1/kv/default/n", &[("If-None-Match", "*")]),
        ("/v1/kv/default/new", &[("If-Match", "*")]),
    ] {
        let refused = patch(&server, target, KEY_OP, headers, increment).await;
        assert_eq!(refused.refusal(), (412, "precondition_failed".to_owned()), "{target} {headers:?}");
    }
    assert_eq!(patch(&server, "/v1/kv/default/n?cas=2", KEY_OP, &[], increment).await.text(), "2");
    assert_eq!(patch(&server, "/v1/kv/default/n", KEY_OP, &[("If-Match", "\"e1.3\"")], increment).await.text(), "3");
}

#[tokio::test]
async fn what_a_value_cannot_become_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    server.put("/v1/kv/default/text", b"hello").await;
    server.put("/v1/kv/default/max", b"9223372036854775807").await;
    for (key, body, detail) in [
        ("text", json!({"op": "increment"}), "`text`: its value is no whole number"),
        ("max", json!({"op": "increment"}), "`max`: the sum is no whole number"),
        ("text", json!({"op": "merge", "patch": {}}), "`text`: its value cannot be patched: no JSON at byte 0"),
    ] {
        let problem = op(&server, key, body.clone()).await.problem();
        assert_eq!((problem.status, &*problem.code), (409, "unfit_value"), "{body}");
        assert!(problem.detail.starts_with(detail), "{}", problem.detail);
    }
    let missing = op(&server, "nothing", json!({"op": "touch"})).await;
    assert_eq!((missing.refusal(), missing.header("quorate-revision")), ((404, "key_not_found".to_owned()), "3"));
    assert_eq!(server.get("/v1/kv/default/text").await.text(), "hello");
    let target = "/v1/kv/narrow/k";
    server.put(target, b"0123456789").await;
    let grown = patch(&server, target, KEY_OP, &[], &json!({"op": "append", "value": "0123456"}).to_string()).await;
    assert_eq!(grown.refusal(), (413, "value_too_large".to_owned()));
}

#[tokio::test]
async fn bad_patches_are_refused() {
    let server = Server::start_with(|config| config.max_value_bytes = 100).await;
    let target = "/v1/kv/default/k";
    let long = "x".repeat(101);
    for (media_type, body, status, code) in [
        ("application/json", "{\"op\":\"touch\"}", 415, "unsupported_media_type"),
        ("", "", 415, "unsupported_media_type"),
        (KEY_OP, "", 400, "bad_body"),
        (KEY_OP, "{\"op\":\"touch\",\"by\":1}", 400, "bad_body"),
        (KEY_OP, "{\"op\":\"increment\",\"by\":9223372036854775808}", 400, "bad_body"),
        (KEY_OP, "{\"op\":\"incr\"}", 422, "unknown_operation"),
        (KEY_OP, "{\"op\":\"touch\",\"ttl\":\"soon\"}", 400, "bad_body"),
        (KEY_OP, &json!({"op": "append", "value": long}).to_string(), 413, "value_too_large"),
        (MERGE, "{\"a\": }", 400, "bad_body"),
        (MERGE, &"[".repeat(1000), 400, "bad_body"),
        (MERGE, &format!("\"{}\"", "x".repeat(1 << 20)), 413, "body_too_large"),
    ] {
        let refused = patch(&server, target, media_type, &[], body).await;
        assert_eq!(refused.refusal(), (status, code.to_owned()), "{media_type} {body:.40}");
        let accept = "application/merge-patch+json, application/vnd.quorate.op+json";
        assert_eq!(refused.find("accept-patch"), (status == 415).then_some(accept));
    }
    let coded = patch(&server, target, KEY_OP, &[("Content-Encoding", "gzip")], "{\"op\":\"touch\"}").await;
    assert_eq!(coded.refusal(), (415, "unsupported_media_type".to_owned()));
    let unknown = patch(&server, "/v1/kv/default/k?if=1", KEY_OP, &[], "{\"op\":\"touch\"}").await;
    assert_eq!(unknown.refusal(), (400, "unknown_parameter".to_owned()));
    let many = patch(&server, "/v1/kv/default", KEY_OP, &[], "{\"op\":\"touch\"}").await;
    assert_eq!((many.status, many.header("allow")), (405, "GET, HEAD, DELETE"));
    let allow = server.send("POST", target, &[], b"").await;
    assert_eq!((allow.status, allow.header("allow")), (405, "GET, HEAD, PUT, PATCH, DELETE"));
    let system = patch(&server, "/v1/kv/_system/k", KEY_OP, &[], "{\"op\":\"touch\"}").await;
    assert_eq!(system.refusal(), (403, "keyspace_read_only".to_owned()));
}

#[tokio::test]
async fn batches_and_transactions_take_the_same_changes() {
    let server = Server::start().await;
    let ops = json!({"ops": [
        {"op": "increment", "key": "n", "by": 5},
        {"op": "increment", "key": "n", "by": 5, "cas": 2},
        {"op": "increment", "key": "n", "cas": 2},
        {"op": "append", "key": "log", "value": "x"},
        {"op": "merge", "key": "doc", "patch": {"a": 1}},
        {"op": "merge", "key": "log", "patch": {}},
        {"op": "touch", "key": "nothing"},
    ]});
    let body = server.post_json("/v1/batch/default", &ops.to_string()).await.json();
    let results: Vec<Value> = body["results"].as_array().unwrap().clone();
    let of = |at: usize, name: &str| results[at][name].clone();
    assert_eq!([0, 1].map(|at| of(at, "number")), [json!(5), json!(10)], "{body}");
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 412, 200, 200, 409, 404], "{body}");
    assert_eq!((of(3, "version"), of(3, "entry"), of(3, "number")), (json!(1), Value::Null, Value::Null));

    let txn = json!({"then": [
        {"op": "increment", "key": "n", "by": -1},
        {"op": "append", "key": "log", "value": "y"},
        {"op": "touch", "key": "nothing"},
        {"op": "get", "key": "log"},
    ]});
    let body = server.post_json("/v1/txn", &txn.to_string()).await.json();
    assert_eq!(body["results"][0], json!({"status": 200, "version": 3, "number": 9}));
    assert_eq!(body["results"][1], json!({"status": 200, "version": 2}));
    assert_eq!((&body["results"][2], &body["results"][3]["entry"]["value"]), (&json!({"status": 404}), &json!("xy")));
    let unfit = json!({"then": [{"op": "put", "key": "z", "value": "1"}, {"op": "increment", "key": "log"}]});
    let refused = server.post_json("/v1/txn", &unfit.to_string()).await;
    assert_eq!(refused.refusal(), (409, "unfit_value".to_owned()));
    let bad = json!({"then": [{"op": "increment", "key": ""}]});
    assert_eq!(server.post_json("/v1/txn", &bad.to_string()).await.refusal(), (400, "empty_key".to_owned()));
    assert_eq!(server.get("/v1/kv/default/z").await.status, 404);
}
