//! One key: `GET`, `HEAD`, `PUT`, `DELETE`.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use quorate_api::key::encode_percent;
use quorate_api::text64;
use serde_json::json;

use crate::server::{Headers, Server};

#[tokio::test]
async fn a_value_comes_back_as_it_was_put() {
    let server = Server::start().await;
    let created = server.send("PUT", "/v1/kv/default/a/b", &[("Content-Type", "text/x-test; q=1")], b"hello\0\xff").await;
    assert_eq!((created.status, created.header("etag"), created.body.len()), (201, "\"e1.2\"", 0));
    assert_eq!((created.header("quorate-revision"), created.header("quorate-version")), ("2", "1"));

    let read = server.get("/v1/kv/default/a/b").await;
    assert_eq!((read.status, read.body.as_slice()), (200, b"hello\0\xff".as_slice()));
    let expected = [
        ("content-type", "text/x-test; q=1"),
        ("content-length", "7"),
        ("etag", "\"e1.2\""),
        ("quorate-revision", "2"),
        ("quorate-mod-revision", "2"),
        ("quorate-create-revision", "2"),
        ("quorate-version", "1"),
        ("quorate-node", "n1"),
        ("quorate-consistency", "linearizable"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
    ];
    for (name, value) in expected {
        assert_eq!(read.header(name), value, "{name}");
    }

    let replaced = server.put("/v1/kv/default/a/b", b"").await;
    assert_eq!((replaced.status, replaced.header("etag"), replaced.header("quorate-version")), (204, "\"e1.3\"", "2"));
    let read = server.get("/v1/kv/default/a/b").await;
    assert_eq!((read.status, read.body.len(), read.header("content-type")), (200, 0, "application/octet-stream"));
    assert_eq!((read.header("quorate-create-revision"), read.header("quorate-mod-revision")), ("2", "3"));
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start().await;
    server.put("/v1/kv/default/k", b"12345").await;
    let (get, head) = (server.get("/v1/kv/default/k").await, server.send("HEAD", "/v1/kv/default/k", &[], b"").await);
    let without_date = |headers: &[(String, String)]| -> Vec<(String, String)> {
        headers.iter().filter(|(name, _)| name != "date").cloned().collect()
    };
    assert_eq!((head.status, without_date(&head.headers)), (200, without_date(&get.headers)));
    assert_eq!(head.header("content-length"), "5");
    assert_eq!(server.send("HEAD", "/v1/kv/default/missing", &[], b"").await.status, 404);
}

#[tokio::test]
async fn a_deleted_key_is_gone_and_deleting_it_again_changes_nothing() {
    let server = Server::start().await;
    server.put("/v1/kv/default/k", b"v").await;
    let deleted = server.delete("/v1/kv/default/k").await;
    assert_eq!((deleted.status, deleted.header("quorate-deleted"), deleted.header("quorate-revision")), (204, "1", "3"));
    let again = server.delete("/v1/kv/default/k").await;
    assert_eq!((again.status, again.header("quorate-deleted"), again.header("quorate-revision")), (204, "0", "3"));
    let missing = server.get("/v1/kv/default/k").await;
    assert_eq!(missing.refusal(), (404, "key_not_found".to_owned()));
    assert_eq!((missing.header("quorate-revision"), missing.problem().outcome), ("3", None));
    assert_eq!(server.put("/v1/kv/default/k", b"v").await.status, 201);
}

fn percent_encode_all(key: &[u8]) -> String {
    key.iter().fold(String::new(), |encoded, byte| encoded + &format!("%{byte:02x}"))
}

#[tokio::test]
async fn every_key_comes_back_whatever_its_bytes() {
    let server = Server::start().await;
    let long = vec![0xfe; 4096];
    let keys: [&[u8]; 9] = [b"/", b"//", b"a//b/", b"..", b"../../etc", b"\0", b"\xff\xfe", b"_batch", long.as_slice()];
    for key in keys {
        let encoded = percent_encode_all(key);
        let (path, key64) = (format!("/v1/kv/default/{encoded}"), format!("/v1/kv/default?key64={}", text64::encode(key)));
        assert_eq!(server.put(&path, key).await.status, 201, "{path}");
        assert_eq!(server.get(&key64).await.body, key, "{key64}");
        assert_eq!(server.put(&key64, b"").await.status, 204, "{key64}");
        assert_eq!(server.delete(&path).await.header("quorate-deleted"), "1", "{path}");
    }
}

#[tokio::test]
async fn paths_mean_bytes() {
    let server = Server::start().await;
    for (first, second) in [("a/b", "a%2Fb"), ("a//b", "a%2f/b"), ("a+b", "a%2Bb"), ("a%20b", "%61%20%62"), ("..", "%2e%2E")] {
        server.put(&format!("/v1/kv/default/{first}"), first.as_bytes()).await;
        assert_eq!(server.get(&format!("/v1/kv/default/{second}")).await.text(), first, "{first} and {second}");
    }
    let server = Server::start().await;
    for key in ["a/b", "a//b", "a/b/", "/a/b", "a+b", "a%20b", "a%252Fb", "./a/b", "a/../b"] {
        assert_eq!(server.put(&format!("/v1/kv/default/{key}"), b"").await.status, 201, "{key} is a key of its own");
    }
}

#[test]
fn any_key_and_value_round_trip() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, mut connection) = runtime.block_on(async {
        let server = Server::start().await;
        let connection = server.connect().await;
        (server, connection)
    });
    let bytes = |range| proptest::collection::vec(any::<u8>(), range);
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let round_trip = |(key, value, goes_in_by_path): (Vec<u8>, Vec<u8>, bool)| {
        let path = format!("/v1/kv/orders/{}", encode_percent(&key));
        let key64 = format!("/v1/kv/orders?key64={}", text64::encode(&key));
        let (write, read) = if goes_in_by_path { (path, key64) } else { (key64, path) };
        runtime.block_on(async {
            let put = connection.send("PUT", &write, &[], &value).await;
            prop_assert!(matches!(put.status, 201 | 204));
            let got = connection.send("GET", &read, &[], b"").await;
            prop_assert_eq!((got.status, &got.body, got.header("etag")), (200, &value, put.header("etag")));
            Ok(())
        })
    };
    let round_trip = std::cell::RefCell::new(round_trip);
    runner.run(&(bytes(1..60), bytes(0..3000), any::<bool>()), |case| (round_trip.borrow_mut())(case)).unwrap();
    drop(server);
}

#[tokio::test]
async fn json_is_asked_for() {
    let server = Server::start().await;
    server.send("PUT", "/v1/kv/default/a", &[("Content-Type", "text/plain")], b"v\"1").await;
    let entry =
        json!({"key": "a", "value": "v\"1", "content_type": "text/plain", "create_revision": 2, "mod_revision": 2, "version": 1});
    let read = server.get("/v1/kv/default/a?format=json").await;
    assert_eq!((read.header("content-type"), read.header("etag"), read.json()), ("application/json", "\"e1.2\"", entry));
    let read = server.get("/v1/kv/default/a?format=json&encoding=base64").await.json();
    assert_eq!((&read["key64"], &read["value64"], read.get("key")), (&json!("YQ"), &json!("diIx"), None));
    server.put("/v1/kv/default/%ff", b"\xfe").await;
    let read = server.get("/v1/kv/default?key64=_w&format=json").await.json();
    assert_eq!((&read["key64"], &read["value64"]), (&json!("_w"), &json!("_g")));
    // A stored JSON document stays fetchable by a client that accepts JSON.
    let raw = server.send("GET", "/v1/kv/default/a?format=raw", &[("Accept", "application/json")], b"").await;
    assert_eq!((raw.text().as_str(), raw.header("content-type")), ("v\"1", "text/plain"));
}

#[tokio::test]
async fn a_put_returns_what_is_preferred() {
    let server = Server::start().await;
    let minimal = server.send("PUT", "/v1/kv/default/a", &[("Prefer", "wait=5, return=minimal")], b"1").await;
    assert_eq!((minimal.status, minimal.header("preference-applied")), (201, "return=minimal"));
    let prefer = [("Prefer", "Return=Representation; x"), ("Content-Type", "text/plain")];
    let whole = server.send("PUT", "/v1/kv/default/a", &prefer, b"2").await;
    assert_eq!((whole.status, whole.header("preference-applied")), (200, "return=representation"));
    let body = json!({
        "entry": {"key": "a", "value": "2", "content_type": "text/plain", "create_revision": 2, "mod_revision": 3, "version": 2},
        "prev": {"create_revision": 2, "mod_revision": 2, "version": 1},
    });
    assert_eq!((whole.json(), whole.header("etag")), (body, "\"e1.3\""));
    let first = server.send("PUT", "/v1/kv/default/b", &prefer, b"2").await;
    assert_eq!((first.status, first.json().get("prev")), (200, None));
}

#[tokio::test]
async fn reads_say_how_fresh_they_are() {
    let server = Server::start().await;
    server.put("/v1/kv/default/k", b"v").await;
    let cases: [(&str, Headers<'_>, &str); 8] = [
        ("", &[], "linearizable"),
        ("?consistency=linearizable", &[], "linearizable"),
        ("?consistency=consistent", &[], "linearizable"),
        ("?consistency=local", &[], "local"),
        ("?consistency=stale", &[], "local"),
        ("", &[("Quorate-Consistency", "local")], "local"),
        ("?consistency=linearizable", &[("Quorate-Consistency", "local")], "linearizable"),
        ("?min_revision=2", &[("Quorate-Timeout", "1m")], "linearizable"),
    ];
    for (query, headers, consistency) in cases {
        let reply = server.send("GET", &format!("/v1/kv/default/k{query}"), headers, b"").await;
        assert_eq!((reply.status, reply.header("quorate-consistency")), (200, consistency), "{query} {headers:?}");
    }
    for (query, headers) in [("?min_revision=3", [].as_slice()), ("", &[("Quorate-Min-Revision", "3")])] {
        let reply = server.send("GET", &format!("/v1/kv/default/k{query}"), headers, b"").await;
        assert_eq!(reply.refusal(), (503, "revision_not_reached".to_owned()));
    }
}

#[tokio::test]
async fn the_time_limit_reaches_the_store() {
    let server = Server::start().await;
    server.put("/v1/kv/default/k", b"").await;
    server.put("/v1/kv/default/k?timeout=500ms", b"").await;
    server.send("PUT", "/v1/kv/default/k", &[("Quorate-Timeout", "2s")], b"").await;
    server.delete("/v1/kv/default/k?timeout=1m").await;
    let expected = ["write default 5000ms", "write default 500ms", "write default 2000ms", "write default 60000ms"];
    assert_eq!(server.store.calls(), expected);
}

#[tokio::test]
async fn the_system_keyspace_is_read_only() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/kv/_system/k").await.refusal(), (404, "key_not_found".to_owned()));
    assert_eq!(server.get("/v1/kv/_system").await.status, 200);
    for method in ["PUT", "DELETE"] {
        let reply = server.send(method, "/v1/kv/_system/k", &[], b"").await;
        assert_eq!(reply.refusal(), (403, "keyspace_read_only".to_owned()), "{method}");
    }
    assert_eq!(server.send("PUT", "/v1/kv/%5Fsystem?key64=YQ", &[], b"").await.status, 403);
    assert_eq!(server.store.calls(), [""; 0]);
}
