//! Leases: granted, kept alive, looked at, revoked; and pairs that hang on them or have a time of their own.

use quorate_server::rest::StoreError;
use serde_json::{Value, json};

use crate::server::{Reply, Server};

const LEASES: &str = "/v1/leases/default";

async fn grant(server: &Server, body: Value) -> Reply {
    server.post_json(LEASES, &body.to_string()).await
}

async fn post(server: &Server, path: &str) -> Reply {
    server.send("POST", path, &[], b"").await
}

#[tokio::test]
async fn a_lease_is_granted_kept_alive_and_revoked_with_its_keys() {
    let server = Server::start().await;
    let granted = grant(&server, json!({"ttl": "60s", "id": "ABC"})).await;
    let body = json!({"id": "0000000000000abc", "ttl": 60.0, "remaining": 60.0});
    assert_eq!((granted.status, granted.json(), granted.header("quorate-revision")), (201, body.clone(), "1"));
    for key in ["b", "a", "%FF"] {
        assert_eq!(server.put(&format!("/v1/kv/default/{key}?lease=abc"), b"v").await.status, 201);
    }
    let read = server.get("/v1/kv/default/a?format=json").await;
    assert_eq!((&read.json()["lease"], read.header("quorate-lease")), (&json!("0000000000000abc"), "0000000000000abc"));

    let shown = server.get(&format!("{LEASES}/abc?keys")).await.json();
    let expected =
        json!({"id": "0000000000000abc", "ttl": 60.0, "remaining": 59.0, "key_count": 3, "keys": ["a", "b"], "keys64": ["_w"]});
    assert_eq!(shown, expected);
    assert_eq!(server.get(&format!("{LEASES}/0000000000000abc")).await.json().get("keys"), None);
    assert_eq!(post(&server, &format!("{LEASES}/abc/keepalive")).await.json(), body);

    let revoked = server.send("DELETE", &format!("{LEASES}/abc"), &[], b"").await;
    assert_eq!((revoked.status, revoked.json()), (200, json!({"deleted": 3, "revision": 5})));
    assert_eq!(server.get("/v1/kv/default/a").await.refusal(), (404, "key_not_found".to_owned()));
    for (method, path) in [("GET", "abc"), ("DELETE", "abc"), ("POST", "abc/keepalive"), ("GET", "0"), ("GET", "x")] {
        let reply = server.send(method, &format!("{LEASES}/{path}"), &[], b"").await;
        assert_eq!(reply.refusal(), (404, "lease_not_found".to_owned()), "{method} {path}");
    }
    let reply = server.put("/v1/kv/default/a?lease=abc", b"v").await;
    assert_eq!(reply.refusal(), (404, "lease_not_found".to_owned()));
    assert_eq!(reply.json()["outcome"], json!("not_applied"));
}

#[tokio::test]
async fn ids_are_drawn_and_short_lives_are_raised() {
    let server = Server::start().await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let body = grant(&server, json!({"ttl": "1ms"})).await.json();
        assert_eq!(body["ttl"], json!(2.0));
        ids.insert(body["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 20);
    let taken = grant(&server, json!({"ttl": "5s", "id": ids.first().unwrap()})).await;
    assert_eq!(taken.refusal(), (409, "lease_exists".to_owned()));
}

#[tokio::test]
async fn leases_are_listed_by_id_page_by_page() {
    let server = Server::start().await;
    for id in ["3", "1", "2", "7fffffffffffffff"] {
        grant(&server, json!({"ttl": "10s", "id": id})).await;
    }
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("{LEASES}?limit=3{cursor}")).await.json();
        for item in page["items"].as_array().unwrap() {
            assert_eq!((&item["ttl"], &item["remaining"]), (&json!(10.0), &json!(9.0)));
            ids.push(u64::from_str_radix(item["id"].as_str().unwrap(), 16).unwrap());
        }
        let Some(next) = page.get("next_cursor") else { break };
        cursor = format!("&cursor={}", next.as_str().unwrap());
    }
    assert_eq!(ids, [1, 2, 3, u64::MAX >> 1]);
    let local = server.get(&format!("{LEASES}?consistency=local&limit=1")).await.json();
    assert_eq!(local["items"], json!([{"id": "0000000000000001", "ttl": 10.0}]));
    let other = local["next_cursor"].as_str().unwrap();
    let foreign = server.get(&format!("/v1/leases/orders?cursor={other}")).await;
    assert_eq!(foreign.refusal(), (400, "bad_cursor".to_owned()));
}

#[tokio::test]
async fn many_are_kept_alive_at_once() {
    let server = Server::start().await;
    for id in ["1", "2"] {
        grant(&server, json!({"ttl": "10s", "id": id})).await;
    }
    let reply = server.post_json(&format!("{LEASES}/keepalive"), &json!({"ids": ["2", "9", "1"]}).to_string()).await.json();
    let ids: Vec<&Value> = reply["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, [&json!("0000000000000002"), &json!("0000000000000001")]);
    assert_eq!(reply["missing"], json!(["0000000000000009"]));
    assert!(server.store.calls().contains(&"keep alive 3 leases of default 5000ms".to_owned()));
    let many = json!({"ids": vec!["1"; 3000]}).to_string();
    assert_eq!(server.post_json(&format!("{LEASES}/keepalive"), &many).await.status, 200);
    for bad in [json!({"ids": ["0"]}), json!({"ids": vec!["1"; 3001]}), json!({}), json!({"ids": [1]})] {
        let reply = server.post_json(&format!("{LEASES}/keepalive"), &bad.to_string()).await;
        assert_eq!(reply.refusal(), (400, "bad_body".to_owned()));
    }
}

#[tokio::test]
async fn what_is_no_grant_is_refused() {
    let server = Server::start().await;
    let bodies =
        [json!({}), json!({"ttl": "never"}), json!({"ttl": 5}), json!({"ttl": "5s", "id": 7}), json!({"ttl": "5s", "x": 1})];
    for body in bodies.into_iter().chain([json!({"ttl": "5s", "id": "8000000000000000"}), json!({"ttl": "36501d"})]) {
        assert_eq!(grant(&server, body.clone()).await.refusal(), (400, "bad_body".to_owned()), "{body}");
    }
    assert_eq!(post(&server, LEASES).await.refusal(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(server.get(&format!("{LEASES}?limit=0")).await.refusal(), (400, "bad_parameter".to_owned()));
    assert_eq!(server.put("/v1/kv/default/a?lease=0", b"v").await.refusal(), (400, "bad_parameter".to_owned()));
    assert_eq!(
        server.post_json("/v1/leases/_system", "{\"ttl\": \"5s\"}").await.refusal(),
        (403, "keyspace_read_only".to_owned())
    );
    let alone = json!({"engine": {"type": "trie"}, "replication": {"mode": "none"}});
    server.put_json("/v1/keyspaces/alone", &alone).await;
    for path in ["/v1/leases/alone", "/v1/leases/alone/1"] {
        assert_eq!(server.get(path).await.refusal(), (422, "unsupported_capability".to_owned()));
    }
    assert_eq!(server.put("/v1/kv/alone/a?lease=1", b"v").await.refusal(), (422, "unsupported_capability".to_owned()));
    server.store.fail_with(StoreError::NoLeader);
    assert_eq!(post(&server, &format!("{LEASES}/1/keepalive")).await.refusal(), (503, "no_leader".to_owned()));
}

#[tokio::test]
async fn pairs_under_raft_have_an_end_in_the_time_of_the_log() {
    let server = Server::start().await;
    server.store.advance(10_000);
    assert_eq!(server.put("/v1/kv/default/a?ttl=1500ms", b"v").await.status, 201);
    server.store.advance(10_600);
    assert_eq!(server.get("/v1/kv/default/a").await.header("quorate-ttl"), "0.9");
    let get = json!({"then": [{"op": "get", "key": "a"}]});
    let read = server.post_json("/v1/txn", &get.to_string()).await.json();
    assert_eq!(read["results"][0]["entry"]["ttl"], json!(0.9));
    server.store.advance(11_499);
    assert_eq!(server.put("/v1/kv/default/b", b"v").await.status, 201);
    assert_eq!(server.get("/v1/kv/default/a").await.header("quorate-ttl"), "0.001");
    server.store.advance(11_500);
    assert_eq!(server.get("/v1/kv/default/a").await.header("quorate-ttl"), "0", "its end is applied with the next entry");
    assert_eq!(server.put("/v1/kv/default/b", b"v").await.status, 204);
    assert_eq!(server.get("/v1/kv/default/a").await.refusal(), (404, "key_not_found".to_owned()));
}

#[tokio::test]
async fn batches_and_transactions_hang_keys_on_leases() {
    let server = Server::start().await;
    grant(&server, json!({"ttl": "10s", "id": "1"})).await;
    let ops = json!({"ops": [
        {"op": "put", "key": "a", "value": "v", "lease": "1"},
        {"op": "put", "key": "b", "value": "v", "lease": "2"},
        {"op": "put", "key": "c", "value": "v", "lease": "x"},
        {"op": "get", "key": "a"},
        {"op": "get", "key": "a", "lease": "1"},
    ]});
    let results = server.post_json("/v1/batch/default", &ops.to_string()).await.json()["results"].clone();
    let codes: Vec<&Value> = results.as_array().unwrap().iter().map(|result| &result["problem"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("lease_not_found"), &json!("bad_operation"), &Value::Null, &json!("bad_operation")]);
    assert_eq!(results[3]["entry"]["lease"], json!("0000000000000001"));
    let txn = json!({
        "if": [{"key": "a", "lease": "1"}, {"key": "b", "lease": "0"}, {"key": "a", "lease": {"!=": "2"}}],
        "then": [{"op": "put", "key": "d", "value": "v", "lease": "1"}],
    });
    let done = server.post_json("/v1/txn", &txn.to_string()).await.json();
    assert_eq!(done["succeeded"], json!(true), "{done}");
    assert_eq!(server.get(&format!("{LEASES}/1?keys=true")).await.json()["keys"], json!(["a", "d"]));
    let unknown = json!({"then": [{"op": "put", "key": "e", "value": "v", "lease": "5"}]});
    assert_eq!(server.post_json("/v1/txn", &unknown.to_string()).await.refusal(), (404, "lease_not_found".to_owned()));
    let odd = json!({"if": [{"key": "a", "lease": "zz"}], "then": []});
    assert_eq!(server.post_json("/v1/txn", &odd.to_string()).await.refusal(), (400, "bad_transaction".to_owned()));
}
