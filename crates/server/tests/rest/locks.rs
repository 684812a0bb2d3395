//! Locks and elections: taken, waited for, given up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Reply, Server};

const JOBS: &str = "/v1/locks/default/jobs/night";

async fn take(server: &Server, query: &str, body: Value) -> Reply {
    server.post_json(&format!("{JOBS}{query}"), &body.to_string()).await
}

async fn give_up(server: &Server, lease: &str) -> Reply {
    server.send("DELETE", &format!("{JOBS}?lease={lease}"), &[], b"").await
}

async fn with_leases(ids: &[&str]) -> Server {
    let server = Server::start().await;
    for id in ids {
        let granted = server.post_json("/v1/leases/default", &json!({"ttl": "60s", "id": id}).to_string()).await;
        assert_eq!(granted.status, 201);
    }
    server
}

/// The holder's lease, and how many wait.
async fn standing(server: &Server) -> (String, u64) {
    let state = server.get(JOBS).await.json();
    (state["holder"]["lease"].as_str().unwrap_or_default().to_owned(), state["waiting"].as_u64().unwrap())
}

async fn leases(server: &Server) -> usize {
    server.get("/v1/leases/default").await.json()["items"].as_array().unwrap().len()
}

const FIRST: &str = "0000000000000001";
const SECOND: &str = "0000000000000002";
const THIRD: &str = "0000000000000003";

#[tokio::test]
async fn a_lock_is_tried_shown_and_given_up() {
    let server = with_leases(&[]).await;
    assert_eq!(server.get(JOBS).await.refusal(), (404, "lock_not_found".to_owned()));
    let taken = take(&server, "", json!({"ttl": "30s", "value": "n1"})).await;
    let body = taken.json();
    let lease = body["lease"].as_str().unwrap().to_owned();
    let key = format!("jobs/night/{}", lease.trim_start_matches('0'));
    assert_eq!((taken.status, &body), (200, &json!({"lease": lease, "key": key, "token": 2, "value": "n1", "ttl": 30.0})));
    assert_eq!(server.get(&format!("/v1/kv/default/{key}")).await.text(), "n1");

    let shown = server.get(JOBS).await;
    let holder = json!({"lease": lease, "key": key, "token": 2, "value": "n1"});
    assert_eq!((shown.json(), shown.header("quorate-revision")), (json!({"holder": holder, "waiting": 0, "revision": 2}), "2"));
    let other = take(&server, "", json!({"ttl": "30s"})).await;
    assert!(
        other.json()["detail"].as_str().unwrap().contains(&format!("held by lease {lease}, with token 2")),
        "{}",
        other.text()
    );
    assert_eq!((other.refusal(), leases(&server).await), ((409, "lock_held".to_owned()), 1), "nothing is left of it");

    let given_up = give_up(&server, &lease).await;
    assert_eq!((given_up.status, given_up.header("quorate-revision")), (204, "3"));
    assert_eq!(give_up(&server, &lease).await.refusal(), (404, "lock_not_found".to_owned()));
    let again = server.send("POST", JOBS, &[], b"").await.json();
    assert_eq!((&again["token"], &again["ttl"], &again["value"]), (&json!(4), &json!(60.0), &json!("")));
}

#[tokio::test]
async fn who_waits_gets_it_in_turn_and_a_greater_token() {
    let server = with_leases(&["1", "2", "3"]).await;
    let first = take(&server, "", json!({"lease": "1"})).await.json();
    assert_eq!((first["token"].clone(), first.get("ttl")), (json!(2), None));
    let wait = |lease: &'static str| take(&server, "?wait=30s", json!({"lease": lease}));
    let (second, third, ()) = tokio::join!(wait("2"), wait("3"), async {
        while standing(&server).await != (FIRST.to_owned(), 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(give_up(&server, "1").await.status, 204);
        // Whoever is next holds it, and not the other.
        let (next, waiting) = standing(&server).await;
        assert_eq!(waiting, 1);
        let revoked = server.send("DELETE", &format!("/v1/leases/default/{next}"), &[], b"").await;
        assert_eq!(revoked.status, 200, "the lock goes with its lease");
    });
    let tokens = [&second, &third].map(|taken| (taken.status, taken.json()["token"].as_u64().unwrap()));
    assert!(tokens.iter().all(|(status, token)| *status == 200 && *token > 2) && tokens[0].1 != tokens[1].1, "{tokens:?}");
}

#[tokio::test]
async fn a_lease_that_waited_in_vain_keeps_its_place() {
    let server = with_leases(&["1", "2", "3"]).await;
    take(&server, "", json!({"lease": "1"})).await;
    // Taken again it is the same, and says what it was given.
    let again = take(&server, "", json!({"lease": "1", "value": "x"})).await.json();
    assert_eq!((&again["token"], &again["value"]), (&json!(2), &json!("x")));
    assert_eq!(take(&server, "", json!({"lease": "1"})).await.json()["value"], json!("x"));
    for _ in 0..2 {
        assert_eq!(take(&server, "?wait=20ms", json!({"lease": "2"})).await.refusal(), (409, "lock_held".to_owned()));
        assert_eq!(standing(&server).await, (FIRST.to_owned(), 1));
    }
    assert_eq!(take(&server, "", json!({"lease": "3"})).await.status, 409);
    assert_eq!(standing(&server).await, (FIRST.to_owned(), 1), "who only tries does not stand in line");
    assert_eq!(take(&server, "", json!({"lease": "2"})).await.status, 409);
    assert_eq!(standing(&server).await, (FIRST.to_owned(), 1), "and does not lose the place that it had");
    take(&server, "?wait=20ms", json!({"lease": "3"})).await;
    give_up(&server, "1").await;
    assert_eq!(standing(&server).await, (SECOND.to_owned(), 1));
    give_up(&server, "2").await;
    assert_eq!(standing(&server).await, (THIRD.to_owned(), 0));

    let before = leases(&server).await;
    assert_eq!(take(&server, "?wait=20ms", json!({"ttl": "5s"})).await.status, 409);
    assert_eq!((leases(&server).await, standing(&server).await.1), (before, 0), "a lease of the request's own goes with it");
}

#[tokio::test]
async fn who_goes_away_while_it_waits_leaves_nothing() {
    let server = with_leases(&["1"]).await;
    take(&server, "", json!({"lease": "1"})).await;
    let mut connection = server.connect().await;
    let head = format!("POST {JOBS}?wait=5m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    connection.write(head.as_bytes()).await;
    while standing(&server).await.1 != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(connection);
    while (leases(&server).await, standing(&server).await.1) != (1, 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_lease_that_is_granted_for_it_lives_as_long_as_it_waits() {
    let server = Server::start_with(|config| config.min_lease_ttl_ms = 30).await;
    server.post_json("/v1/leases/default", &json!({"ttl": "60s", "id": "1"}).to_string()).await;
    take(&server, "", json!({"lease": "1"})).await;
    let (waited, ()) = tokio::join!(take(&server, "?wait=30s", json!({"ttl": "30ms"})), async {
        while server.store.calls().iter().filter(|call| call.starts_with("keep alive 1 leases")).count() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        give_up(&server, "1").await;
    });
    assert_eq!((waited.status, &waited.json()["ttl"]), (200, &json!(0.03)));
}

#[tokio::test]
async fn a_key_in_the_way_of_a_claim_is_named() {
    let server = with_leases(&["1"]).await;
    server.put("/v1/kv/default/jobs/night/1", b"mine").await;
    let taken = take(&server, "?wait=1s", json!({"lease": "1"})).await;
    assert_eq!(taken.refusal(), (409, "conflict".to_owned()));
    assert!(taken.json()["detail"].as_str().unwrap().contains("jobs/night/1 is there"), "{}", taken.text());
}

#[tokio::test]
async fn a_lease_that_ends_while_it_waits_is_told() {
    let server = with_leases(&["1", "2"]).await;
    take(&server, "", json!({"lease": "1"})).await;
    let (waited, ()) = tokio::join!(take(&server, "?wait=30s", json!({"lease": "2"})), async {
        while standing(&server).await.1 != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.send("DELETE", "/v1/leases/default/2", &[], b"").await;
    });
    assert_eq!(waited.refusal(), (404, "lease_not_found".to_owned()));
}

#[tokio::test]
async fn whoever_looks_can_wait_for_a_change() {
    let server = with_leases(&["1"]).await;
    let target = format!("{JOBS}?wait=30s&index=1");
    let (seen, ()) = tokio::join!(server.get(&target), async {
        take(&server, "", json!({"lease": "1", "value64": "_w"})).await;
    });
    assert_eq!(seen.json()["holder"]["value64"], json!("_w"));
    assert_eq!(server.get(&format!("{JOBS}?wait=20ms&index=2")).await.status, 304);
    assert_eq!(server.get(&format!("{JOBS}?wait=20ms&index=1")).await.status, 200, "that has happened already");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let server = with_leases(&["1"]).await;
    let long = format!("/v1/locks/default/{}", "n".repeat(4096));
    for (method, path, body, status, code) in [
        ("POST", JOBS, r#"{"lease": "2"}"#, 404, "lease_not_found"),
        ("POST", JOBS, r#"{"lease": "x"}"#, 400, "bad_body"),
        ("POST", JOBS, r#"{"lease": "1", "ttl": "1s"}"#, 400, "bad_body"),
        ("POST", JOBS, r#"{"ttl": "0s"}"#, 400, "bad_body"),
        ("POST", JOBS, r#"{"value": "a", "value64": "YQ"}"#, 400, "bad_body"),
        ("POST", JOBS, r#"{"name": "a"}"#, 400, "bad_body"),
        ("POST", "/v1/locks/default/jobs?wait=0s", "{}", 400, "bad_parameter"),
        ("POST", "/v1/locks/default/jobs?wait=6m", "{}", 400, "bad_parameter"),
        ("POST", "/v1/locks/default/jobs?index=1", "{}", 400, "unknown_parameter"),
        ("POST", "/v1/locks/default/", "{}", 400, "empty_key"),
        ("POST", "/v1/locks/default/%zz", "{}", 400, "malformed_key"),
        ("POST", &long, "{}", 414, "key_too_long"),
        ("POST", "/v1/locks/default", "{}", 404, "not_found"),
        ("POST", "/v1/locks/none/jobs", "{}", 404, "keyspace_not_found"),
        ("POST", "/v1/locks/_system/jobs", "{}", 403, "keyspace_read_only"),
        ("PUT", JOBS, "{}", 405, "method_not_allowed"),
        ("DELETE", JOBS, "", 400, "bad_parameter"),
        ("DELETE", "/v1/locks/default/jobs?lease=0", "", 400, "bad_parameter"),
        ("GET", "/v1/locks/default/jobs?lease=1", "", 400, "unknown_parameter"),
    ] {
        let reply = server.send(method, path, &[("Content-Type", "application/json")], body.as_bytes()).await;
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{method} {path} {body}");
    }
    let text = server.send("POST", JOBS, &[("Content-Type", "text/plain")], b"{}").await;
    assert_eq!(text.refusal(), (415, "unsupported_media_type".to_owned()));
    assert_eq!((leases(&server).await, server.get("/v1/kv/default").await.json()["items"].as_array().unwrap().len()), (1, 0));
}
