//! Pairs that go by themselves: how long they live is asked for, and told.

use serde_json::json;

use crate::server::Server;

/// A server with a keyspace `sessions`, whose pairs live for half a minute unless they say otherwise.
async fn server() -> Server {
    let server = Server::start().await;
    let settings = json!({"engine": {"type": "cache"}, "replication": {"mode": "none"}, "ttl": "30s"});
    let reply = server.put_json("/v1/keyspaces/sessions", &settings).await;
    assert_eq!((reply.status, &reply.json()["capabilities"]["ttl_per_key"]), (201, &json!(true)));
    server
}

#[tokio::test]
async fn a_pair_lives_as_long_as_was_asked() {
    let server = server().await;
    server.store.advance(10_000);
    assert_eq!(server.put("/v1/kv/sessions/default", b"v").await.status, 201);
    assert_eq!(server.put("/v1/kv/sessions/short?ttl=1500ms", b"v").await.status, 201);
    assert_eq!(server.send("PUT", "/v1/kv/sessions/long", &[("Quorate-TTL", "1h")], b"v").await.status, 201);
    // The parameter wins over its twin.
    assert_eq!(server.send("PUT", "/v1/kv/sessions/both?ttl=2s", &[("Quorate-TTL", "1h")], b"v").await.status, 201);
    server.store.advance(10_600);
    for (key, left) in [("default", "29.4"), ("short", "0.9"), ("long", "3599.4"), ("both", "1.4")] {
        for method in ["GET", "HEAD"] {
            let reply = server.send(method, &format!("/v1/kv/sessions/{key}"), &[], b"").await;
            assert_eq!((reply.status, reply.header("quorate-ttl")), (200, left), "{method} {key}");
        }
    }
    assert_eq!(server.get("/v1/kv/sessions/short?format=meta").await.json()["ttl"], json!(0.9));
    server.store.advance(11_500);
    assert_eq!(server.get("/v1/kv/sessions/short").await.refusal(), (404, "key_not_found".to_owned()));
    server.store.advance(40_000);
    let listed = server.get("/v1/kv/sessions").await.json();
    assert_eq!((&listed["items"][0]["key"], &listed["items"][0]["ttl"]), (&json!("long"), &json!(3570.0)));
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_write_can_show_the_pair_with_its_time() {
    let server = server().await;
    let prefer = &[("Prefer", "return=representation")];
    let own = server.send("PUT", "/v1/kv/sessions/k?ttl=5s", prefer, b"v").await.json();
    let default = server.send("PUT", "/v1/kv/sessions/k", prefer, b"v").await.json();
    let none = server.send("PUT", "/v1/kv/default/k", prefer, b"v").await.json();
    assert_eq!((&own["entry"]["ttl"], &default["entry"]["ttl"]), (&json!(5.0), &json!(30.0)));
    assert_eq!(none["entry"].get("ttl"), None);
}

#[tokio::test]
async fn batches_set_and_show_it_too() {
    let server = server().await;
    let ops = json!({"ops": [
        {"op": "put", "key": "a", "value": "v", "ttl": "5s"},
        {"op": "put", "key": "b", "value": "v", "ttl": "soon"},
        {"op": "get", "key": "a"},
    ]});
    let results = server.post_json("/v1/batch/sessions", &ops.to_string()).await.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["problem"]["code"]), (&json!(201), &json!("bad_operation")));
    assert_eq!(results[2]["entry"]["ttl"], json!(5.0));
    let alone = json!({"engine": {"type": "trie"}, "replication": {"mode": "none"}});
    server.put_json("/v1/keyspaces/alone", &alone).await;
    assert_eq!(server.put("/v1/kv/alone/a?ttl=5s", b"v").await.refusal(), (422, "unsupported_capability".to_owned()));
    let refused = server.post_json("/v1/batch/alone", &ops.to_string()).await.json()["results"][0].clone();
    assert_eq!(refused["problem"]["code"], json!("unsupported_capability"));
}

#[tokio::test]
async fn what_goes_by_itself_does_not_go_with_raft() {
    let server = Server::start().await;
    let reply = server.put_json("/v1/keyspaces/sessions", &json!({"engine": {"type": "cache"}})).await;
    let problem = reply.problem();
    assert_eq!((reply.status, &*problem.code), (422, "unsupported_settings"));
    assert!(problem.detail.contains("evictions would have to be log entries"), "{}", problem.detail);
    assert!(problem.detail.contains("cache with none"), "{}", problem.detail);
    let moved = server.patch_json("/v1/keyspaces/default", &json!({"engine": {"type": "cache"}})).await;
    assert_eq!(moved.refusal(), (422, "unsupported_settings".to_owned()));
}
