//! Lists and their pages.

use quorate_api::text64;
use serde_json::{Value, json};

use crate::server::{Reply, Server};

async fn server(keys: &[&str]) -> Server {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for key in keys {
        let reply =
            connection.send("PUT", &format!("/v1/kv/default/{key}"), &[("Content-Type", "text/plain")], key.as_bytes()).await;
        assert_eq!(reply.status, 201);
    }
    server
}

fn keys(reply: &Reply) -> Vec<String> {
    let body = reply.json();
    let items = body["items"].as_array().unwrap_or_else(|| panic!("no items in {reply:?}"));
    items.iter().map(|item| item["key"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Follows the `Link` headers to the end, and checks that they agree with the cursors.
async fn pages(server: &Server, target: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut target = target.to_owned();
    loop {
        let reply = server.get(&target).await;
        assert_eq!(reply.status, 200, "{target}");
        pages.push(keys(&reply));
        let cursor = reply.json()["next_cursor"].as_str().map(str::to_owned);
        let Some(link) = reply.find("link") else {
            assert_eq!(cursor, None);
            return pages;
        };
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("a link to the next page");
        assert!(next.ends_with(&format!("cursor={}", cursor.expect("a cursor beside the link"))));
        next.clone_into(&mut target);
    }
}

#[tokio::test]
async fn selections_pick_keys_in_order() {
    let server = server(&["a", "a/1", "a/2", "a/3", "b", "b%2F1", "c"]).await;
    let cases: [(&str, &[&str]); 18] = [
        ("", &["a", "a/1", "a/2", "a/3", "b", "b/1", "c"]),
        ("?reverse", &["c", "b/1", "b", "a/3", "a/2", "a/1", "a"]),
        ("?prefix=a/", &["a/1", "a/2", "a/3"]),
        ("?prefix=a%2F&reverse=true", &["a/3", "a/2", "a/1"]),
        ("?prefix64=Yi8", &["b/1"]),
        ("?prefix64=Yi8%3D", &["b/1"]),
        ("?prefix=", &["a", "a/1", "a/2", "a/3", "b", "b/1", "c"]),
        ("?prefix=zz", &[]),
        ("?start=a/2&end=b", &["a/2", "a/3"]),
        ("?start64=YS8y&end64=Yg", &["a/2", "a/3"]),
        ("?start=b", &["b", "b/1", "c"]),
        ("?end=a/1", &["a"]),
        ("?start=&end=", &["a", "a/1", "a/2", "a/3", "b", "b/1", "c"]),
        ("?prefix=a&start=a/2&end=z", &["a/2", "a/3"]),
        ("?prefix=a/&start=b", &[]),
        ("?start=c&end=a", &[]),
        ("?start=c&end=a&reverse=1", &[]),
        ("?reverse=false&limit=2", &["a", "a/1"]),
    ];
    for (query, expected) in cases {
        let reply = server.get(&format!("/v1/kv/default{query}")).await;
        assert_eq!((reply.status, keys(&reply)), (200, expected.iter().map(|key| (*key).to_owned()).collect()), "{query}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps() {
    let all = ["a", "a/1", "a/2", "a/3", "b", "b/1", "c"];
    let server = server(&all).await;
    for limit in 1..=8 {
        for (query, mut expected) in
            [("", all.to_vec()), ("prefix=a/&", vec!["a/1", "a/2", "a/3"]), ("start=a/2&end=c&", all[2..6].to_vec())]
        {
            for order in ["", "&reverse=true"] {
                let target = format!("/v1/kv/default?{query}limit={limit}{order}");
                let pages = pages(&server, &target).await;
                assert_eq!(pages.concat(), expected, "{target}");
                assert!(
                    pages.iter().all(|page| page.len() <= limit) && pages.len() == expected.len().div_ceil(limit),
                    "{target}"
                );
                expected.reverse();
            }
        }
    }
}

#[tokio::test]
async fn values_come_if_asked_for() {
    let server = server(&["a"]).await;
    let item = |reply: &Reply| reply.json()["items"][0].clone();
    let without = server.get("/v1/kv/default").await;
    let meta = json!({"key": "a", "content_type": "text/plain", "create_revision": 2, "mod_revision": 2, "version": 1});
    assert_eq!(item(&without), meta);
    assert_eq!(without.json(), json!({"items": [meta], "revision": 2}));
    assert_eq!((without.header("quorate-revision"), without.header("quorate-consistency")), ("2", "linearizable"));
    let with = item(&server.get("/v1/kv/default?values=true&consistency=local").await);
    assert_eq!((&with["value"], &with["key"]), (&json!("a"), &json!("a")));
    let base64 = item(&server.get("/v1/kv/default?values=1&encoding=base64").await);
    assert_eq!((&base64["value64"], &base64["key64"], base64.get("value")), (&json!("YQ"), &json!("YQ"), None));
    server.put("/v1/kv/default/%ff", b"\xff").await;
    let binary: Value = server.get("/v1/kv/default?values=true&start64=_w").await.json();
    assert_eq!((&binary["items"][0]["key64"], &binary["items"][0]["value64"]), (&json!("_w"), &json!("_w")));
}

#[tokio::test]
async fn without_history_a_page_says_if_something_changed_since_the_first() {
    let server = server(&[]).await;
    server.put_json("/v1/keyspaces/plain", &json!({"engine": {"type": "hash"}})).await;
    for key in ["a", "b", "c"] {
        server.put(&format!("/v1/kv/plain/{key}"), b"old").await;
    }
    let first = server.get("/v1/kv/plain?limit=1").await.json();
    let next = format!("/v1/kv/plain?limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(server.get(&next).await.json().get("revision_changed"), None);
    server.put("/v1/kv/plain/a", b"new").await;
    let second = server.get(&next).await;
    assert_eq!(
        (keys(&second), second.json()["revision_changed"].clone(), second.json()["revision"].clone()),
        (vec!["b".to_owned()], json!(true), json!(5))
    );
    // The page after that still differs from the first, though nothing changed since the second.
    let third = format!("/v1/kv/plain?limit=1&cursor={}", second.json()["next_cursor"].as_str().unwrap());
    assert_eq!(server.get(&third).await.json()["revision_changed"], json!(true));
}

#[tokio::test]
async fn a_page_ends_once_it_is_large() {
    let server = Server::start().await;
    let value = vec![b'x'; 1 << 20];
    for key in 0..12 {
        server.put(&format!("/v1/kv/default/{key:02}"), &value).await;
    }
    let first = server.get("/v1/kv/default?values=true").await;
    assert!(first.body.len() < 11 << 20 && first.find("link").is_some());
    assert_eq!(pages(&server, "/v1/kv/default?values=true").await.concat().len(), 12);
    assert_eq!(keys(&server.get("/v1/kv/default").await).len(), 12);
}

#[tokio::test]
async fn foreign_cursors_are_refused() {
    let server = server(&["a", "b", "c", "d"]).await;
    let cursor = server.get("/v1/kv/default?limit=2").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let whole = text64::decode(&cursor).unwrap();
    let cut = text64::encode(&whole[..whole.len() - 1]);
    let targets = [
        "/v1/kv/default?cursor=".to_owned(),
        "/v1/kv/default?cursor=%21".to_owned(),
        "/v1/kv/default?cursor=AAAA".to_owned(),
        format!("/v1/kv/default?cursor={cut}"),
        format!("/v1/kv/default?cursor=%ff{cursor}"),
        format!("/v1/kv/orders?cursor={cursor}"),
        format!("/v1/kv/default?cursor={cursor}&reverse=true"),
        format!("/v1/kv/default?cursor={cursor}&prefix=a"),
        format!("/v1/kv/default?cursor={cursor}&end=c"),
    ];
    for target in targets {
        assert_eq!(server.get(&target).await.refusal(), (400, "bad_cursor".to_owned()), "{target}");
    }
    // The size of a page, and what is shown of each pair, may change on the way.
    let next = server.get(&format!("/v1/kv/default?cursor={cursor}&limit=1&values=true")).await;
    assert_eq!(keys(&next), ["c"]);
}

#[tokio::test]
async fn bad_selections_are_refused() {
    let server = server(&[]).await;
    let long = "x".repeat(4097);
    let cases = [
        ("limit=0", "bad_parameter"),
        ("limit=10001", "bad_parameter"),
        ("limit=-1", "bad_parameter"),
        ("limit=", "bad_parameter"),
        ("limit=1&limit=2", "bad_parameter"),
        ("prefix=a&prefix64=YQ", "bad_parameter"),
        ("start=a&start=b", "bad_parameter"),
        ("reverse=yes", "bad_parameter"),
        ("values=2", "bad_parameter"),
        ("encoding=hex", "bad_parameter"),
        ("consistency=eventual", "bad_parameter"),
        ("min_revision=x", "bad_parameter"),
        ("timeout=0s", "bad_parameter"),
        ("prefix=%zz", "malformed_key"),
        ("prefix64=%3F", "malformed_key"),
        ("end64=a", "malformed_key"),
        ("recurse=true", "unknown_parameter"),
        ("Prefix=a", "unknown_parameter"),
        ("=a", "unknown_parameter"),
    ];
    for (query, code) in cases {
        assert_eq!(server.get(&format!("/v1/kv/default?{query}")).await.refusal(), (400, code.to_owned()), "{query}");
    }
    assert_eq!(server.get(&format!("/v1/kv/default?prefix={long}")).await.refusal(), (400, "key_too_long".to_owned()));
    let unknown = server.get("/v1/kv/default?recurse=true").await.problem();
    assert!(unknown.detail.contains("prefix, prefix64, start"), "{}", unknown.detail);
    assert_eq!(server.get("/v1/kv/default?limit=10000&&").await.status, 200);
}

#[tokio::test]
async fn other_methods_are_told_the_right_ones() {
    let server = server(&["a"]).await;
    for method in ["PUT", "POST"] {
        let reply = server.send(method, "/v1/kv/default", &[], b"").await;
        let refusal = (405, "method_not_allowed".to_owned());
        assert_eq!((reply.refusal(), reply.header("allow")), (refusal, "GET, HEAD, DELETE"), "{method}");
    }
    let head = server.send("HEAD", "/v1/kv/default", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(server.store.revision("default"), 2);
}
