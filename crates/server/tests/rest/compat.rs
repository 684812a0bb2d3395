//! The routes of the programs that came before.

use quorate_server::rest::CompatPostKey;
use serde_json::json;

use crate::server::{Reply, Server};

async fn post(server: &Server, body: &str) -> Reply {
    // hraftd's client sends this as content type.
    server.send("POST", "/key", &[("Content-Type", "application-type/json")], body.as_bytes()).await
}

fn message(reply: &Reply) -> (u16, String) {
    let body = reply.json();
    assert_eq!(body.as_object().map_or(0, serde_json::Map::len), 1, "{body}");
    (reply.status, body["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn create_takes_one_new_pair() {
    let server = Server::start().await;
    let created = post(&server, r#"{"K": "V"}"#).await;
    assert_eq!((created.status, created.json()), (200, json!({"K": "V"})));
    assert_eq!(message(&post(&server, r#"{"K": "W"}"#).await), (409, "key K already exists".to_owned()));
    assert_eq!(server.get("/key/K").await.json(), json!({"K": "V"}));
    assert_eq!(server.send("POST", "/key?x=y", &[], br#"{"L": "1"}"#).await.status, 200);
    let refused = [
        ("", "empty request body"),
        ("{", "request is not a valid json"),
        (" ", "request is not a valid json"),
        ("[]", "request is not a valid json"),
        ("null", "request is not a valid json"),
        (r#"{"a": 1}"#, "request is not a valid json"),
        (r#"{"a": null}"#, "request is not a valid json"),
        (r#"{"a": "1"} x"#, "request is not a valid json"),
        ("{}", "no data provided"),
        (r#"{"a": "1", "b": "2"}"#, "only a single key can be accepted"),
        (r#"{"": "1"}"#, "a key must not be empty"),
        (r#"{"a": ""}"#, "a value must not be empty"),
    ];
    for (body, why) in refused {
        assert_eq!(message(&post(&server, body).await), (400, why.to_owned()), "{body}");
    }
    assert_eq!(server.store.revision("default"), 3);
}

#[tokio::test]
async fn upsert_takes_any_number_of_pairs_at_once() {
    let server = Server::start_with(|config| config.compat_post_key = CompatPostKey::Upsert).await;
    assert_eq!(post(&server, r#"{"a": "1", "b": "2"}"#).await.json(), json!({"a": "1", "b": "2"}));
    assert_eq!(post(&server, r#"{"a": "3", "c": ""}"#).await.status, 200);
    assert_eq!(post(&server, "{}").await.status, 200);
    assert_eq!(server.store.revision("default"), 3, "one revision per request that changed something");
    assert_eq!((server.get("/key/a").await.json(), server.get("/key/b").await.json()), (json!({"a": "3"}), json!({"b": "2"})));
    assert_eq!(message(&post(&server, r#"{"": "1", "d": "2"}"#).await).0, 400);
    assert_eq!(server.store.revision("default"), 3);
}

#[tokio::test]
async fn keys_are_read_and_deleted() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a/b%20c", b"V").await;
    for target in ["/key/a/b%20c", "/key/a%2Fb%20c?x=y"] {
        assert_eq!(server.get(target).await.json(), json!({"a/b c": "V"}), "{target}");
    }
    assert_eq!(message(&server.delete("/key/a/b%20c").await), (200, "key deleted successfully".to_owned()));
    assert_eq!(message(&server.delete("/key/a/b%20c").await), (404, "key a/b c not found".to_owned()));
    assert_eq!(message(&server.get("/key/K").await), (404, "key K not found".to_owned()));
    assert_eq!((server.get("/key/").await.status, server.delete("/key/").await.status), (404, 404));
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let server = Server::start_with(|config| config.max_value_bytes = 1000).await;
    server.put("/v1/kv/default/bin", b"\xff").await;
    server.put("/v1/kv/default/%ff", b"x").await;
    for target in ["/key/bin", "/key/%ff"] {
        let (status, why) = message(&server.get(target).await);
        assert!(status == 409 && why.contains("/v1/kv/default/"), "{status} {why}");
    }
    let long = "x".repeat(4097);
    assert_eq!(message(&post(&server, &format!(r#"{{"{long}": "v"}}"#)).await).0, 400);
    assert_eq!(server.get(&format!("/key/{long}")).await.status, 414);
    assert_eq!(message(&post(&server, &format!(r#"{{"k": "{}"}}"#, "x".repeat(1001))).await).0, 413);
    assert_eq!(message(&post(&server, &format!(r#"{{"k": "{}"}}"#, "x".repeat(20_000))).await).0, 413);
    assert_eq!(message(&server.get("/key/%zz").await).0, 400);
    for (method, target, allow) in [
        ("GET", "/key", "POST"),
        ("PUT", "/key/k", "GET, HEAD, DELETE"),
        ("GET", "/join", "POST"),
        ("POST", "/health", "GET,HEAD"),
    ] {
        let reply = server.send(method, target, &[], b"").await;
        assert_eq!((message(&reply).0, reply.header("allow")), (405, allow), "{method} {target}");
    }
}

#[tokio::test]
async fn status_and_health() {
    let server = Server::start().await;
    assert_eq!(server.get("/health").await.json(), json!({"status": "ok"}));
    let status = json!({
        "me": {"id": "n1", "address": "127.0.0.1:2379"},
        "leader": {"id": "n2", "address": "127.0.0.1:12379"},
        "followers": [{"id": "n1", "address": "127.0.0.1:2379"}, {"id": "n3", "address": "127.0.0.1:22379"}],
    });
    assert_eq!(server.get("/status").await.json(), status);
}

#[tokio::test]
async fn nodes_are_announced_in_either_programs_words() {
    let server = Server::start().await;
    for body in [r#"{"id": "n4", "addr": "127.0.0.1:1"}"#, r#"{"node_id": "n4", "address": "127.0.0.1:1"}"#] {
        let reply = server.send("POST", "/join", &[], body.as_bytes()).await;
        assert_eq!(message(&reply), (200, "Added node to cluster".to_owned()), "{body}");
    }
    assert_eq!(server.store.calls(), ["announce n4 127.0.0.1:1"; 2]);
    for body in [
        "",
        "{}",
        r#"{"id": "n4"}"#,
        r#"{"id": "n4", "addr": "x"}"#,
        r#"{"id": "", "addr": "a:1"}"#,
        r#"{"id": "a", "addr": "a:1", "x": 1}"#,
    ] {
        assert_eq!(message(&server.send("POST", "/join", &[], body.as_bytes()).await).0, 400, "{body}");
    }
    assert_eq!(server.store.calls().len(), 2);
}
