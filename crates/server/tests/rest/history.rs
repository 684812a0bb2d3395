//! Reads of the past, the versions of a key, and compactions.

use serde_json::{Value, json};

use crate::server::{Reply, Server};

/// Keyspace `default` at revision 7: a, b and c were set; a and b once more; c was deleted.
async fn server() -> Server {
    let server = Server::start().await;
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("b", "2")] {
        server.put(&format!("/v1/kv/default/{key}"), value.as_bytes()).await;
    }
    server.delete("/v1/kv/default/c").await;
    assert_eq!(server.store.revision("default"), 7);
    server
}

fn pairs(reply: &Reply) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let body = reply.json();
    body["items"].as_array().unwrap().iter().map(|item| (text(&item["key"]), text(&item["value"]))).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_key_is_read_as_it_was() {
    let server = server().await;
    for (key, revision, value) in [("a", 2, "1"), ("a", 4, "1"), ("a", 5, "2"), ("a", 7, "2"), ("c", 4, "1"), ("c", 6, "1")] {
        let reply = server.get(&format!("/v1/kv/default/{key}?revision={revision}")).await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, value.as_bytes()), "{key} at {revision}");
        assert_eq!(reply.header("quorate-revision"), revision.to_string());
    }
    for (key, revision) in [("a", 1), ("b", 2), ("c", 7), ("none", 5)] {
        let reply = server.get(&format!("/v1/kv/default/{key}?revision={revision}")).await;
        assert_eq!(reply.refusal(), (404, "key_not_found".to_owned()), "{key} at {revision}");
    }
    let old = server.get("/v1/kv/default/a?revision=4&format=json").await;
    assert_eq!((&old.json()["mod_revision"], &old.json()["value"]), (&json!(2), &json!("1")));
    let head = server.send("HEAD", "/v1/kv/default/a?revision=4", &[], b"").await;
    assert_eq!((head.status, head.header("etag")), (200, old.header("etag")));
    let same = server.send("GET", "/v1/kv/default/a?revision=4", &[("If-None-Match", old.header("etag"))], b"").await;
    assert_eq!(same.status, 304);
    assert_eq!(server.get("/v1/kv/default?key64=YQ&revision=2").await.body, b"1");
}

#[tokio::test]
async fn what_is_to_come_and_what_is_gone_is_refused() {
    let server = server().await;
    let future = server.get("/v1/kv/default/a?revision=8").await;
    assert_eq!((future.refusal(), future.header("quorate-revision")), ((400, "future_revision".to_owned()), "7"));
    assert_eq!(server.get("/v1/kv/default?revision=8").await.refusal().1, "future_revision");
    // A node that is asked for its own state may just not have it yet.
    let local = server.get("/v1/kv/default/a?revision=8&consistency=local&timeout=50ms").await;
    assert_eq!(local.refusal(), (503, "revision_not_reached".to_owned()));
    let compacted = server.post_json("/v1/keyspaces/default/compact", r#"{"revision": 5, "physical": true}"#).await;
    assert_eq!(compacted.json(), json!({"compacted_revision": 5, "revision": 7, "is_swept": true}));
    for target in ["/v1/kv/default/a?revision=4", "/v1/kv/default?revision=4", "/v1/kv/default?revision=4&count_only"] {
        let gone = server.get(target).await;
        assert_eq!((gone.refusal(), gone.problem().compacted_revision), ((410, "compacted".to_owned()), Some(5)), "{target}");
    }
    assert_eq!(server.get("/v1/kv/default/a?revision=5").await.body, b"2");
    for (body, refusal) in [
        (r#"{"revision": 5}"#, (410, "compacted")),
        (r#"{"revision": 8}"#, (400, "future_revision")),
        (r#"{"revision": -1}"#, (400, "bad_body")),
        ("{}", (400, "bad_body")),
        (r#"{"revision": 6, "all": true}"#, (400, "bad_body")),
    ] {
        let reply = server.post_json("/v1/keyspaces/default/compact", body).await;
        assert_eq!(reply.refusal(), (refusal.0, refusal.1.to_owned()), "{body}");
    }
    let quick = server.post_json("/v1/keyspaces/default/compact", r#"{"revision": 7}"#).await;
    assert_eq!(quick.json()["is_swept"], json!(false), "nobody looked");
    assert_eq!(server.post_json("/v1/keyspaces/_system/compact", r#"{"revision": 1}"#).await.refusal().0, 403);
    for target in ["/v1/kv/default/a?revision=0", "/v1/kv/default?revision=x", "/v1/kv/default/a?revision=2&revision=3"] {
        assert_eq!(server.get(target).await.refusal(), (400, "bad_parameter".to_owned()), "{target}");
    }
}

#[tokio::test]
async fn a_list_is_of_one_revision_from_its_first_page_to_its_last() {
    let server = server().await;
    let at = |revision: u64| format!("/v1/kv/default?values=true&revision={revision}");
    assert_eq!(pairs(&server.get(&at(4)).await), owned(&[("a", "1"), ("b", "1"), ("c", "1")]));
    let old = server.get(&at(5)).await;
    assert_eq!((pairs(&old), &old.json()["revision"]), (owned(&[("a", "2"), ("b", "1"), ("c", "1")]), &json!(5)));
    assert_eq!(old.header("quorate-revision"), "5");
    assert_eq!(pairs(&server.get(&format!("{}&reverse", at(6))).await), owned(&[("c", "1"), ("b", "2"), ("a", "2")]));
    assert_eq!(
        server.get(&format!("{}&count_only", "/v1/kv/default?revision=6")).await.json(),
        json!({"count": 3, "revision": 6})
    );
    let lines = server.send("GET", &at(4), &[("Accept", "application/x-ndjson")], b"").await;
    let text = String::from_utf8(lines.body).unwrap();
    assert_eq!(text.lines().last(), Some(r#"{"revision":4,"count":3}"#));

    let first = server.get("/v1/kv/default?limit=1&values=true").await;
    assert_eq!(pairs(&first), owned(&[("a", "2")]));
    server.put("/v1/kv/default/aa", b"new").await;
    server.put("/v1/kv/default/b", b"3").await;
    let next = first.find("link").unwrap().trim_start_matches('<').split('>').next().unwrap().to_owned();
    let second = server.get(&next).await;
    assert_eq!((pairs(&second), second.json().get("next_cursor")), (owned(&[("b", "2")]), None));
    assert_eq!((second.json().get("revision_changed"), &second.json()["revision"]), (None, &json!(7)));
    // The revision belongs to the list: another one is another list.
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
    let other = server.get(&format!("/v1/kv/default?revision=7&cursor={cursor}")).await;
    assert_eq!(other.refusal(), (400, "bad_cursor".to_owned()));
    server.post_json("/v1/keyspaces/default/compact", r#"{"revision": 8}"#).await;
    assert_eq!(server.get(&next).await.refusal(), (410, "compacted".to_owned()));
}

#[tokio::test]
async fn the_versions_of_a_key_come_newest_first() {
    let server = server().await;
    server.put("/v1/kv/default/c", b"again").await;
    let all = server.get("/v1/kv/default/c?history=true&values=true").await.json();
    let items = all["items"].as_array().unwrap();
    let told: Vec<(u64, &str, &str)> = items
        .iter()
        .map(|item| {
            let value = item["entry"]["value"].as_str().unwrap_or_default();
            (item["revision"].as_u64().unwrap(), item["type"].as_str().unwrap(), value)
        })
        .collect();
    assert_eq!(told, [(8, "put", "again"), (7, "delete", ""), (4, "put", "1")]);
    assert_eq!((&all["revision"], &all["compacted_revision"], all.get("next_before")), (&json!(8), &json!(1), None));
    assert_eq!((&items[0]["entry"]["version"], &items[0]["entry"]["create_revision"]), (&json!(1), &json!(8)));
    assert_eq!(items[1].get("entry"), None);

    let first = server.get("/v1/kv/default/c?history&limit=2").await.json();
    assert_eq!((first["items"].as_array().unwrap().len(), &first["next_before"]), (2, &json!(7)));
    assert_eq!(first["items"][0]["entry"].get("value"), None, "only where it is asked for");
    let second = server.get("/v1/kv/default?key64=Yw&history&limit=2&before=7").await.json();
    assert_eq!((&second["items"][0]["revision"], second.get("next_before")), (&json!(4), None));

    server.post_json("/v1/keyspaces/default/compact", r#"{"revision": 7}"#).await;
    server.store.advance(2500);
    let left = server.get("/v1/kv/default/c?history").await.json();
    assert_eq!(left["items"][0]["age"], json!(2.5), "by the log's time");
    assert_eq!((left["items"].as_array().unwrap().len(), &left["compacted_revision"]), (1, &json!(7)));
    let kept = server.get("/v1/kv/default/b?history").await.json();
    assert_eq!(kept["items"][0]["revision"], json!(6), "the version that was there then");
    assert_eq!(server.get("/v1/kv/default/none?history").await.json()["items"], json!([]));
    for (query, code) in
        [("history&revision=3", "unknown_parameter"), ("history=2", "bad_parameter"), ("history&limit=0", "bad_parameter")]
    {
        assert_eq!(server.get(&format!("/v1/kv/default/c?{query}")).await.refusal(), (400, code.to_owned()), "{query}");
    }
    assert_eq!(server.get("/v1/kv/default/c?history=false").await.body, b"again");
}

#[tokio::test]
async fn a_keyspace_without_history_says_so() {
    let server = server().await;
    for (name, settings) in [
        ("unordered", json!({"engine": {"type": "hash"}})),
        ("off", json!({"engine": {"type": "trie"}, "retention": {"revisions": 0}})),
        ("alone", json!({"replication": {"mode": "none"}})),
    ] {
        let made = server.put_json(&format!("/v1/keyspaces/{name}"), &settings).await.json();
        assert_eq!((&made["capabilities"]["history"], made.get("retention")), (&json!(false), None), "{name}");
        server.put(&format!("/v1/kv/{name}/a"), b"1").await;
        for target in
            [format!("/v1/kv/{name}/a?revision=1"), format!("/v1/kv/{name}?revision=1"), format!("/v1/kv/{name}/a?history")]
        {
            let refused = server.get(&target).await;
            assert_eq!(refused.refusal(), (422, "unsupported_capability".to_owned()), "{target}");
            assert!(refused.problem().detail.contains("history"));
        }
        let compacted = server.post_json(&format!("/v1/keyspaces/{name}/compact"), r#"{"revision": 1}"#).await;
        assert_eq!(compacted.refusal(), (422, "unsupported_capability".to_owned()));
    }
    let made = server.put_json("/v1/keyspaces/little", &json!({"engine": {"type": "trie"}, "retention": {"revisions": 2}})).await;
    assert_eq!(made.json()["retention"], json!({"revisions": 2, "age": "1h", "bytes": 64 << 20}));
    assert_eq!(made.json()["capabilities"]["history"], json!(true));
    for value in ["1", "2", "3", "4"] {
        server.put("/v1/kv/little/a", value.as_bytes()).await;
    }
    assert_eq!(server.get("/v1/kv/little/a?revision=3").await.body, b"2");
    assert_eq!(server.get("/v1/kv/little/a?revision=2").await.refusal().0, 410);
    let refused = server.put_json("/v1/keyspaces/x", &json!({"engine": {"type": "hash"}, "retention": {"age": "1h"}})).await;
    assert_eq!(refused.refusal(), (422, "unsupported_settings".to_owned()));
}
