//! Lists with folders, counts, and lists as a stream of lines.

use serde_json::{Value, json};

use crate::server::Server;

const LINES: &[(&str, &str)] = &[("Accept", "application/x-ndjson")];

async fn server(keys: &[&str]) -> Server {
    let server = Server::start().await;
    for key in keys {
        assert_eq!(server.put(&format!("/v1/kv/default/{key}"), key.as_bytes()).await.status, 201);
    }
    server
}

fn keys(body: &Value) -> Vec<&str> {
    body["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_delimiter_makes_folders() {
    let server = server(&["a", "a/1", "a/2/x", "a/2/y", "b/", "b/1", "c", "d%ff/1"]).await;
    let cases: [(&str, &[&str], Value); 7] = [
        ("delimiter=/", &["a", "c"], json!(["a/", "b/"])),
        ("separator=/&reverse=true", &["c", "a"], json!(["b/", "a/"])),
        ("delimiter64=Lw&prefix=a/", &["a/1"], json!(["a/2/"])),
        ("delimiter=/&prefix=a", &["a"], json!(["a/"])),
        ("delimiter=/2/&end=b", &["a", "a/1"], json!(["a/2/"])),
        ("delimiter=/&start=a/2&end=c", &[], json!(["a/", "b/"])),
        ("delimiter=x&prefix=c", &["c"], json!([])),
    ];
    for (query, items, prefixes) in cases {
        let body = server.get(&format!("/v1/kv/default?{query}")).await.json();
        assert_eq!((keys(&body), &body["prefixes"]), (items.to_vec(), &prefixes), "{query}");
        assert_eq!(body.get("prefixes64").is_some(), query == "delimiter=/" || query.contains("separator"), "{query}");
    }
    assert_eq!(server.get("/v1/kv/default").await.json().get("prefixes"), None);
    let all64 = server.get("/v1/kv/default?delimiter=/&encoding=base64").await.json();
    assert_eq!((&all64["prefixes"], &all64["prefixes64"]), (&json!([]), &json!(["YS8", "Yi8", "ZP8v"])));
}

#[tokio::test]
async fn pages_go_on_behind_folders() {
    let server = Server::start().await;
    for folder in 0..7 {
        for key in 0..30 {
            server.put(&format!("/v1/kv/default/f{folder}/{key}"), b"").await;
        }
        server.put(&format!("/v1/kv/default/f{folder}x"), b"").await;
    }
    for order in ["", "&reverse"] {
        for limit in [1, 2, 3, 14, 15] {
            let (mut folders, mut items) = (Vec::new(), Vec::new());
            let mut target = format!("/v1/kv/default?delimiter=/&limit={limit}{order}");
            loop {
                let reply = server.get(&target).await;
                let body = reply.json();
                let page = [body["prefixes"].as_array().unwrap().clone(), body["items"].as_array().unwrap().clone()];
                assert!(page.concat().len() <= limit && !page.concat().is_empty(), "{target}");
                folders.extend(page[0].clone());
                items.extend(page[1].iter().map(|item| item["key"].clone()));
                let Some(link) = reply.find("link") else { break };
                target = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
            }
            let mut expected: Vec<Value> = (0..7).map(|folder| json!(format!("f{folder}/"))).collect();
            let mut expected_items: Vec<Value> = (0..7).map(|folder| json!(format!("f{folder}x"))).collect();
            if !order.is_empty() {
                expected.reverse();
                expected_items.reverse();
            }
            assert_eq!((folders, items), (expected, expected_items), "limit {limit}{order}");
        }
    }
    // A cursor of another delimiter is a foreign one.
    let cursor = server.get("/v1/kv/default?delimiter=/&limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    for query in [format!("cursor={cursor}"), format!("cursor={cursor}&delimiter=x")] {
        assert_eq!(server.get(&format!("/v1/kv/default?{query}")).await.refusal(), (400, "bad_cursor".to_owned()));
    }
}

#[tokio::test]
async fn a_count_is_all_that_is_sent() {
    let server = server(&["a", "a/1", "a/2", "b"]).await;
    server.store.fill("orders", 10_001);
    for (target, count, revision) in [
        ("default?count_only", 4, 5),
        ("default?prefix=a/&count_only=true", 2, 5),
        ("default?start=b&end=a&count_only", 0, 5),
        ("orders?count_only=1", 10_001, 2),
        ("orders?prefix=k00999&count_only&consistency=local", 10, 2),
    ] {
        let reply = server.get(&format!("/v1/kv/{target}")).await;
        assert_eq!((reply.status, reply.json()), (200, json!({"count": count, "revision": revision})), "{target}");
        assert_eq!(reply.header("quorate-revision"), revision.to_string());
    }
}

#[tokio::test]
async fn a_stream_has_every_pair_and_says_so_at_its_end() {
    let server = server(&["a", "a/1", "b", "%ff"]).await;
    let reply = server.send("GET", "/v1/kv/default?values=true", LINES, b"").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"));
    assert_eq!((reply.header("quorate-revision"), reply.header("x-content-type-options")), ("5", "nosniff"));
    let lines = reply.lines();
    let meta = json!({"key": "a", "value": "a", "create_revision": 2, "mod_revision": 2, "version": 1});
    assert_eq!((lines.len(), &lines[0], &lines[4]), (5, &meta, &json!({"revision": 5, "count": 4})));
    assert_eq!((&lines[3]["key64"], &lines[3]["value"]), (&json!("_w"), &json!("%ff")));

    let reply = server.send("GET", "/v1/kv/default?prefix=a&reverse&encoding=base64", LINES, b"").await;
    let lines = reply.lines();
    assert_eq!((&lines[0]["key64"], &lines[1]["key64"], lines[0].get("value64")), (&json!("YS8x"), &json!("YQ"), None));
    assert_eq!(lines[2], json!({"revision": 5, "count": 2}));
    let nothing = server.send("GET", "/v1/kv/default?prefix=zz", LINES, b"").await;
    assert_eq!(nothing.lines(), [json!({"revision": 5, "count": 0})]);
    for accept in ["text/html, Application/X-NDJSON;q=0.5", "application/x-ndjson"] {
        assert_eq!(server.send("GET", "/v1/kv/default", &[("Accept", accept)], b"").await.lines().len(), 5);
    }
    for accept in ["*/*", "application/json", "application/x-ndjsonx"] {
        assert_eq!(
            server.send("GET", "/v1/kv/default", &[("Accept", accept)], b"").await.header("content-type"),
            "application/json"
        );
    }
    let head = server.send("HEAD", "/v1/kv/default", LINES, b"").await;
    assert_eq!((head.status, head.header("content-type"), head.body.len()), (200, "application/x-ndjson", 0));
}

#[tokio::test]
async fn a_stream_is_of_one_revision_however_long_it_is() {
    let server = Server::start().await;
    server.store.fill("default", 50_000);
    let mut connection = server.connect().await;
    let request = b"GET /v1/kv/default?values HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n";
    connection.write(request).await;
    // The head is here, and what follows is too much for the sockets between.
    assert_eq!(connection.head().await, 200);
    assert_eq!(server.delete("/v1/kv/default?all=true").await.json()["deleted"], json!(50_000));
    let mut body = Vec::new();
    while let Some(chunk) = connection.chunk().await {
        body.extend(chunk);
    }
    let text = String::from_utf8(body).unwrap();
    assert_eq!(text.lines().count(), 50_001);
    assert_eq!(text.lines().last(), Some(r#"{"revision":2,"count":50000}"#));
    // The connection is good for more.
    let after = connection.send("GET", "/v1/kv/default?count_only", &[], b"").await;
    assert_eq!(after.json()["count"], json!(0));
}

#[tokio::test]
async fn what_has_no_meaning_together_is_refused() {
    let server = server(&["a"]).await;
    let json: &[(&str, &str)] = &[];
    for (query, headers) in [
        ("count_only&limit=5", json),
        ("count_only&values=true", json),
        ("count_only&reverse", json),
        ("count_only&delimiter=/", json),
        ("count_only&cursor=x", json),
        ("count_only&encoding=base64", json),
        ("count_only=maybe", json),
        ("delimiter=", json),
        ("delimiter64=", json),
        ("delimiter=/&separator=/", json),
        ("limit=5", LINES),
        ("cursor=x", LINES),
        ("delimiter=/", LINES),
    ] {
        let reply = server.send("GET", &format!("/v1/kv/default?{query}"), headers, b"").await;
        assert_eq!(reply.refusal(), (400, "bad_parameter".to_owned()), "{query}");
    }
    // A count is a count, whatever else the client would take.
    assert_eq!(server.send("GET", "/v1/kv/default?count_only", LINES, b"").await.json()["count"], json!(1));
    let missing = server.send("GET", "/v1/kv/nowhere", LINES, b"").await;
    assert_eq!(missing.refusal(), (404, "keyspace_not_found".to_owned()));
}
