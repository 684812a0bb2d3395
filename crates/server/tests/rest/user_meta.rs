//! User metadata: noted with a write, shown with every answer about the key.

use serde_json::json;

use crate::server::{Headers, Server};

const NOTED: Headers<'_> =
    &[("Quorate-Meta-Owner", "a team"), ("quorate-meta-x.1", ""), ("Prefer", "return=representation"), ("Content-Type", "a/b")];

#[tokio::test]
async fn metadata_is_kept_and_shown() {
    let server = Server::start().await;
    let noted = json!({"owner": "a team", "x.1": ""});
    assert_eq!(server.send("PUT", "/v1/kv/default/k", NOTED, b"v").await.json()["entry"]["meta"], noted);
    for method in ["GET", "HEAD"] {
        let reply = server.send(method, "/v1/kv/default/k", &[], b"").await;
        assert_eq!((reply.status, reply.header("quorate-meta-owner"), reply.header("quorate-meta-x.1")), (200, "a team", ""));
    }
    assert_eq!(server.get("/v1/kv/default/k?format=json").await.json()["meta"], noted);
    assert_eq!(server.get("/v1/kv/default").await.json()["items"][0]["meta"], noted);
    // A value takes the place of all that there was.
    server.put("/v1/kv/default/k", b"v2").await;
    let reply = server.get("/v1/kv/default/k").await;
    assert_eq!((reply.find("quorate-meta-owner"), reply.body.as_slice()), (None, &b"v2"[..]));
    assert_eq!(server.get("/v1/kv/default/k?format=json").await.json().get("meta"), None);
}

#[tokio::test]
async fn an_entry_can_be_had_without_its_value() {
    let server = Server::start().await;
    server.send("PUT", "/v1/kv/default/k", NOTED, b"v").await;
    let expected = json!({
        "key": "k", "content_type": "a/b", "create_revision": 2, "mod_revision": 2, "version": 1,
        "meta": {"owner": "a team", "x.1": ""},
    });
    let reply = server.get("/v1/kv/default/k?format=meta").await;
    assert_eq!((reply.status, reply.json(), reply.header("etag")), (200, expected, "\"e1.2\""));
    assert_eq!(server.get("/v1/kv/default/k?format=meta&encoding=base64").await.json()["key64"], json!("aw"));
    assert_eq!(server.get("/v1/kv/default/missing?format=meta").await.refusal(), (404, "key_not_found".to_owned()));
    for query in ["format=raw&encoding=base64", "format=yaml", "format=meta&format=json"] {
        assert_eq!(
            server.get(&format!("/v1/kv/default/k?{query}")).await.refusal(),
            (400, "bad_parameter".to_owned()),
            "{query}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_metadata_is_refused() {
    let server = Server::start().await;
    let long = "x".repeat(2048);
    let many: Vec<String> = (0..33).map(|number| format!("Quorate-Meta-{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    let cases: [(Headers<'_>, &str); 5] = [
        (&[("Quorate-Meta-", "a")], "is no name"),
        (&[("Quorate-Meta-A", "a"), ("quorate-meta-a", "b")], "twice"),
        (&[("Quorate-Meta-A", "\u{e4}")], "visible ASCII"),
        (&[("Quorate-Meta-A", &long)], "at most"),
        (&many, "at most"),
    ];
    for (headers, why) in cases {
        let reply = server.send("PUT", "/v1/kv/default/k", headers, b"v").await;
        assert_eq!(reply.refusal(), (400, "bad_meta".to_owned()), "{why}");
        assert!(reply.problem().detail.contains(why), "{}", reply.problem().detail);
    }
    assert_eq!(server.store.revision("default"), 1);
    assert_eq!(server.send("PUT", "/v1/kv/default/k", &many[..32], b"v").await.status, 201);
    let full = [("Quorate-Meta-A", &long[1..])];
    assert_eq!(server.send("PUT", "/v1/kv/default/k", &full, b"v").await.status, 204);
}
