//! Requests that are refused: the answer tells why, and nothing is changed.

use quorate_api::problem::WriteOutcome;

use crate::server::{Headers, Server};

#[tokio::test]
async fn bad_keys_and_names() {
    let server = Server::start().await;
    let long = "x".repeat(4097);
    let long64 = quorate_api::text64::encode(long.as_bytes());
    let long_name = "n".repeat(64);
    let cases = [
        ("/v1/kv/default/".to_owned(), 400, "empty_key"),
        ("/v1/kv/default?key64=".to_owned(), 400, "empty_key"),
        (format!("/v1/kv/default/{long}"), 414, "key_too_long"),
        (format!("/v1/kv/default/{}", "%00".repeat(4097)), 414, "key_too_long"),
        (format!("/v1/kv/default?key64={long64}"), 400, "key_too_long"),
        ("/v1/kv/default/%".to_owned(), 400, "malformed_key"),
        ("/v1/kv/default/a%2".to_owned(), 400, "malformed_key"),
        ("/v1/kv/default/%zz".to_owned(), 400, "malformed_key"),
        ("/v1/kv/default?key64=%2B%2B".to_owned(), 400, "malformed_key"),
        ("/v1/kv/default?key64=YQ&key64=YQ".to_owned(), 400, "bad_parameter"),
        ("/v1/kv/default/a?key64=YQ".to_owned(), 400, "unknown_parameter"),
        ("/v1/kv//k".to_owned(), 400, "bad_keyspace_name"),
        ("/v1/kv/".to_owned(), 400, "bad_keyspace_name"),
        ("/v1/kv/Default/k".to_owned(), 400, "bad_keyspace_name"),
        ("/v1/kv/-a/k".to_owned(), 400, "bad_keyspace_name"),
        ("/v1/kv/_other/k".to_owned(), 400, "bad_keyspace_name"),
        ("/v1/kv/a%2Fb/k".to_owned(), 400, "bad_keyspace_name"),
        ("/v1/kv/a%/k".to_owned(), 400, "bad_keyspace_name"),
        (format!("/v1/kv/{long_name}/k"), 400, "bad_keyspace_name"),
        ("/v1/kv/unknown/k".to_owned(), 404, "keyspace_not_found"),
    ];
    for (target, status, code) in cases {
        for method in ["GET", "PUT", "DELETE"] {
            let reply = server.send(method, &target, &[], b"").await;
            assert_eq!(reply.refusal(), (status, code.to_owned()), "{method} {target}");
            let outcome = (method != "GET").then_some(WriteOutcome::NotApplied);
            assert_eq!(reply.problem().outcome, outcome, "{method} {target}");
        }
    }
    assert_eq!(server.get("/v1/kv/unknown").await.refusal(), (404, "keyspace_not_found".to_owned()));
    assert_eq!(server.put("/v1/kv/d%65fault/k", b"").await.status, 201);
}

#[tokio::test]
async fn bad_parameters_and_headers() {
    let server = Server::start().await;
    let long = "x".repeat(257);
    let cases: [(&str, &str, Headers<'_>, u16, &str); 29] = [
        ("GET", "?cas=1", &[], 400, "unknown_parameter"),
        ("GET", "?values=true", &[], 400, "unknown_parameter"),
        ("PUT", "?format=json", &[], 400, "unknown_parameter"),
        ("PUT", "?consistency=local", &[], 400, "unknown_parameter"),
        ("DELETE", "?prefix=a", &[], 400, "unknown_parameter"),
        ("GET", "?format=xml", &[], 400, "bad_parameter"),
        ("GET", "?encoding=base64", &[], 400, "bad_parameter"),
        ("GET", "?encoding=hex&format=json", &[], 400, "bad_parameter"),
        ("GET", "?consistency=lease", &[], 400, "bad_parameter"),
        ("GET", "?consistency=local&consistency=local", &[], 400, "bad_parameter"),
        ("GET", "?min_revision=-1", &[], 400, "bad_parameter"),
        ("GET", "", &[("Quorate-Consistency", "x")], 400, "bad_parameter"),
        ("GET", "", &[("Quorate-Min-Revision", "x")], 400, "bad_parameter"),
        ("PUT", "?timeout=5", &[], 400, "bad_parameter"),
        ("PUT", "?timeout=61s", &[], 400, "bad_parameter"),
        ("PUT", "", &[("Quorate-Timeout", "never")], 400, "bad_parameter"),
        ("PUT", "?timeout=5s", &[("Quorate-Timeout", "never")], 400, "bad_parameter"),
        ("GET", "?consistency=local", &[("Quorate-Consistency", "x")], 400, "bad_parameter"),
        ("GET", "?min_revision=0", &[("Quorate-Min-Revision", "x")], 400, "bad_parameter"),
        ("PUT", "?ttl=5", &[], 400, "bad_parameter"),
        ("PUT", "?ttl=0s", &[], 400, "bad_parameter"),
        ("PUT", "?ttl=36501d", &[], 400, "bad_parameter"),
        ("PUT", "?ttl=5s&ttl=5s", &[], 400, "bad_parameter"),
        ("PUT", "", &[("Quorate-TTL", "5")], 400, "bad_parameter"),
        ("PUT", "?lease=0", &[], 400, "bad_parameter"),
        ("PUT", "?lease=1&lease=1", &[], 400, "bad_parameter"),
        ("PUT", "", &[("Content-Type", &long)], 400, "bad_header"),
        ("PUT", "", &[("Content-Range", "bytes 0-1/2")], 400, "bad_header"),
        ("PUT", "", &[("Content-Encoding", "gzip")], 415, "unsupported_media_type"),
    ];
    for (method, query, headers, status, code) in cases {
        let reply = server.send(method, &format!("/v1/kv/default/k{query}"), headers, b"").await;
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{method} {query} {headers:?}");
    }
    let unknown = server.put("/v1/kv/default/k?tll=5s", b"").await.problem();
    assert!(unknown.detail.contains("tll") && unknown.detail.contains("cas, ttl, lease, ack, timeout"), "{}", unknown.detail);
    let unknown = server.delete("/v1/kv/default/k?ttl=5s").await.problem();
    assert!(unknown.detail.contains("ttl") && unknown.detail.contains("cas, ack, timeout"), "{}", unknown.detail);
    assert_eq!(server.store.calls(), [""; 0]);
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let server = Server::start().await;
    let cases = [
        ("POST", "/v1/kv/default/k", "GET, HEAD, PUT, PATCH, DELETE"),
        ("OPTIONS", "/v1/kv/default/k", "GET, HEAD, PUT, PATCH, DELETE"),
        ("BREW", "/v1/kv/default/k", "GET, HEAD, PUT, PATCH, DELETE"),
        ("POST", "/v1/kv/default?key64=YQ", "GET, HEAD, PUT, PATCH, DELETE"),
        ("POST", "/v1/kv/_system/k", "GET, HEAD, PUT, PATCH, DELETE"),
        ("POST", "/v1/kv/-/", "GET, HEAD, PUT, PATCH, DELETE"),
        ("TRACE", "/v1/kv/-?key64=!", "GET, HEAD, PUT, PATCH, DELETE"),
        ("POST", "/v1/kv/-", "GET, HEAD, DELETE"),
        ("PUT", "/v1/batch/_system", "POST"),
        ("GET", "/v1/batch/-", "POST"),
        ("POST", "/metrics", "GET,HEAD"),
        ("PUT", "/v1/cluster/nodes", "GET,HEAD,POST"),
        ("POST", "/v1/cluster/nodes/n1", "GET,HEAD,DELETE"),
    ];
    for (method, target, allow) in cases {
        let reply = server.send(method, target, &[], b"").await;
        assert_eq!(
            (reply.refusal(), reply.header("allow")),
            ((405, "method_not_allowed".to_owned()), allow),
            "{method} {target}"
        );
    }
}

#[tokio::test]
async fn unknown_paths() {
    let server = Server::start().await;
    for target in
        ["/v1", "/v1/kv", "/v2/kv/default/k", "/keys", "/problems/nothing", "/v1/cluster/nodes/", "//v1/node", "/v1/cluster/"]
    {
        assert_eq!(server.get(target).await.refusal(), (404, "not_found".to_owned()), "{target}");
    }
    let problem = server.send("GET", "/nothing?x", &[("X-Request-Id", "my-id")], b"").await.problem();
    assert_eq!((problem.instance.as_deref(), problem.request_id.as_deref()), (Some("/nothing"), Some("my-id")));
    assert_eq!(problem.type_path, "/problems/not-found");
}

#[tokio::test]
async fn values_have_a_limit() {
    let server = Server::start_with(|config| config.max_value_bytes = 100_000).await;
    let (fits, too_large) = (vec![7; 100_000], vec![7; 100_001]);
    assert_eq!(server.put("/v1/kv/default/k", &fits).await.status, 201);
    assert_eq!(server.get("/v1/kv/default/k").await.body, fits);
    let reply = server.put("/v1/kv/default/k", &too_large).await;
    assert_eq!((reply.refusal(), reply.problem().outcome), ((413, "value_too_large".to_owned()), Some(WriteOutcome::NotApplied)));
    assert_eq!(server.store.calls().len(), 1);
}

#[tokio::test]
async fn a_full_keyspace_takes_no_more() {
    let server = Server::start().await;
    let reply = server.put("/v1/kv/tiny/k", &[0; 200]).await;
    assert_eq!((reply.refusal(), reply.problem().outcome), ((507, "keyspace_full".to_owned()), Some(WriteOutcome::NotApplied)));
    assert_eq!(server.put("/v1/kv/tiny/k", &[0; 20]).await.status, 201);
    assert_eq!(server.delete("/v1/kv/tiny/k").await.status, 204);
}

#[tokio::test]
async fn a_keyspace_may_have_narrower_limits_than_the_server() {
    let server = Server::start().await;
    let not_applied = Some(WriteOutcome::NotApplied);
    let reply = server.put("/v1/kv/narrow/123456789", b"").await;
    assert_eq!((reply.refusal(), reply.problem().outcome), ((414, "key_too_long".to_owned()), not_applied));
    assert!(reply.problem().detail.contains("at most 8 bytes"));
    let reply = server.put("/v1/kv/narrow?key64=MTIzNDU2Nzg5", b"").await;
    assert_eq!((reply.refusal(), reply.problem().outcome), ((400, "key_too_long".to_owned()), not_applied));
    let reply = server.put("/v1/kv/narrow/12345678", &[0; 17]).await;
    assert_eq!((reply.refusal(), reply.problem().outcome), ((413, "value_too_large".to_owned()), not_applied));
    assert!(reply.problem().detail.contains("at most 16 bytes"));
    assert_eq!(server.put("/v1/kv/narrow/12345678", &[0; 16]).await.status, 201);
    assert_eq!(server.delete("/v1/kv/narrow/123456789").await.status, 204);
    assert_eq!(server.store.revision("narrow"), 2);
}
