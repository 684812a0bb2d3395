//! Cluster administration, health, metrics, help.

use quorate_api::problem::Code;
use quorate_server::rest::Check;
use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn the_cluster_is_shown() {
    let server = Server::start().await;
    let cluster = server.get("/v1/cluster").await.json();
    assert_eq!((&cluster["served_by"], &cluster["leader"]), (&json!("n1"), &json!("n3")));
    assert_eq!(server.get("/v1/cluster/nodes").await.json(), json!({"items": cluster["nodes"]}));
    assert_eq!(server.get("/v1/cluster/nodes/n3").await.json(), cluster["nodes"][2]);
    assert_eq!(server.get("/v1/cluster/nodes/n%33").await.json(), cluster["nodes"][2]);
    for target in ["/v1/cluster/nodes/n9", "/v1/cluster/nodes/%ff"] {
        assert_eq!(server.get(target).await.refusal(), (404, "node_not_found".to_owned()), "{target}");
    }
    let leaders = json!({"items": [{"keyspace": "default", "leader": "n2"}]});
    assert_eq!(server.get("/v1/cluster/leader").await.json(), leaders);
}

#[tokio::test]
async fn nodes_join_and_leave() {
    let server = Server::start().await;
    let request = r#"{"name": "n4", "client_address": "127.0.0.1:32379", "peer_address": "127.0.0.1:32380", "token": "t"}"#;
    let joined = server.post_json("/v1/cluster/nodes?timeout=2s", request).await;
    assert_eq!((joined.status, &joined.json()["node_id"]), (200, &json!(4)));
    assert_eq!(server.delete("/v1/cluster/nodes/n3?timeout=1s").await.status, 204);
    assert_eq!(server.delete("/v1/cluster/nodes/n9").await.refusal(), (404, "node_not_found".to_owned()));
    let calls = ["join n4 127.0.0.1:32379 127.0.0.1:32380", "remove n3 1000ms", "remove n9 5000ms"];
    assert_eq!(server.store.calls(), calls);
}

/// What a node hears before it is of a cluster, and what a member is told: from anybody, so nothing of it is taken unread.
#[tokio::test]
async fn nodes_tell_how_they_stand_and_where_they_are() {
    let server = Server::start().await;
    let told = |name: &str, id: &str, promised: &str| {
        format!(r#"{{"name": "{name}", "id": "{id}", "client_address": "a:1", "round": 2, "expect": 3, "promised": {promised}}}"#)
    };
    let id = "0123456789abcdef";
    for promised in ["null", r#"{"id": "fedcba9876543210", "round": 1}"#] {
        let answer = server.post_json("/v1/cluster/formation", &told("n4", id, promised)).await;
        assert_eq!((answer.status, &answer.json()["cluster_id"]), (200, &json!("00000000000000c1")));
    }
    let long = "0".repeat(60_000);
    let cases = [
        told("n 4", id, "null"),
        told("n4", "0123", "null"),
        told("n4", &long, "null"),
        told("n4", id, r#"{"id": "x", "round": 1}"#),
        told("n4", id, r#"{"id": "fedcba9876543210", "round": -1}"#),
        r#"{"name": "n4"}"#.to_owned(),
        "[]".to_owned(),
    ];
    for body in cases {
        assert_eq!(server.post_json("/v1/cluster/formation", &body).await.refusal(), (400, "bad_body".to_owned()), "{body:.100}");
    }
    let place =
        |address: &str| format!(r#"{{"cluster_id": "c1", "node_id": 3, "client_address": "{address}", "peer_address": "b:2"}}"#);
    let json = [("content-type", "application/json")];
    let path = "/v1/cluster/nodes/n3/addresses";
    assert_eq!(server.send("PUT", &format!("{path}?timeout=1s"), &json, place("b:1").as_bytes()).await.status, 204);
    for body in [place("nowhere"), place(""), "{}".to_owned()] {
        assert_eq!(server.send("PUT", path, &json, body.as_bytes()).await.refusal(), (400, "bad_body".to_owned()), "{body}");
    }
    assert_eq!(server.store.calls(), ["readdress n3 c1 3 b:1 b:2 1000ms"]);
}

#[tokio::test]
async fn leadership_is_handed_over() {
    let server = Server::start().await;
    let answer = server.post_json("/v1/cluster/leader", r#"{"to": "n3", "keyspace": "default"}"#).await;
    assert_eq!(answer.json(), json!({"items": [{"keyspace": "default", "leader": "n3"}]}));
    assert_eq!(server.send("POST", "/v1/cluster/leader", &[], b"").await.status, 200);
    assert_eq!(server.post_json("/v1/cluster/leader", "{}").await.status, 200);
    assert_eq!(server.store.calls(), [r#"transfer Some("n3") Some("default")"#, "transfer None None", "transfer None None"]);
}

#[tokio::test]
async fn bad_administration_is_refused() {
    let server = Server::start().await;
    let cases = [
        ("", "bad_body"),
        ("{", "bad_body"),
        ("[]", "bad_body"),
        (r#"{"name": "n4"}"#, "bad_body"),
        (r#"{"name": "n4", "client_address": "a:1", "peer_address": "a:2", "role": "voter"}"#, "bad_body"),
        (r#"{"name": "n 4", "client_address": "a:1", "peer_address": "a:2"}"#, "bad_body"),
        (r#"{"name": "", "client_address": "a:1", "peer_address": "a:2"}"#, "bad_body"),
        (r#"{"name": "n4", "client_address": "a", "peer_address": "a:2"}"#, "bad_body"),
        (r#"{"name": "n4", "client_address": "a:1", "peer_address": "a:0"}"#, "bad_body"),
    ];
    for (body, code) in cases {
        assert_eq!(server.post_json("/v1/cluster/nodes", body).await.refusal(), (400, code.to_owned()), "{body}");
    }
    assert_eq!(server.post_json("/v1/cluster/leader", r#"{"id": "n2"}"#).await.refusal(), (400, "bad_body".to_owned()));
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for headers in [[].as_slice(), &form] {
        let reply = server.send("POST", "/v1/cluster/leader", headers, b"{}").await;
        assert_eq!(reply.refusal(), (415, "unsupported_media_type".to_owned()));
    }
    let large = format!("\"{}\"", "x".repeat(65_536));
    assert_eq!(server.post_json("/v1/cluster/nodes", &large).await.refusal(), (413, "body_too_large".to_owned()));
    for target in ["/v1/cluster?x", "/v1/node?timeout=1s", "/?x", "/readyz?exclude=system", "/v1/cluster/leader?to=n2"] {
        assert_eq!(server.get(target).await.refusal(), (400, "unknown_parameter".to_owned()), "{target}");
    }
    assert_eq!(server.delete("/v1/cluster/nodes/n1?force=true").await.refusal(), (400, "unknown_parameter".to_owned()));
    assert_eq!(server.store.calls(), [""; 0]);
}

#[tokio::test]
async fn a_node_tells_its_limits() {
    let server = Server::start_with(|config| config.max_value_bytes = 1000).await;
    let node = server.get("/v1/node").await.json();
    assert_eq!(
        (&node["name"], &node["limits"]["max_value_bytes"], &node["limits"]["max_key_bytes"]),
        (&json!("n1"), &json!(1000), &json!(4096))
    );
    assert_eq!(server.get("/").await.json()["name"], json!("quorate"));
}

#[tokio::test]
async fn health_is_readiness_in_lines() {
    let server = Server::start().await;
    let (live, ready) = (server.get("/livez").await, server.get("/readyz").await);
    assert_eq!((live.status, live.text().as_str(), ready.status, ready.text().as_str()), (200, "ok\n", 200, "ok\n"));
    assert_eq!(server.get("/readyz?verbose").await.text(), "[+]system ok\nok\n");
    let check = |name, is_ok, detail: &str| Check { name, is_ok, detail: detail.to_owned() };
    server.store.report(vec![check("system", true, ""), check("default", false, "3 entries behind")]);
    let not_ready = server.get("/readyz").await;
    let lines = "[+]system ok\n[-]default failed: 3 entries behind\nnot ok\n";
    assert_eq!((not_ready.status, not_ready.text().as_str()), (503, lines));
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.send("HEAD", "/readyz", &[], b"").await.status, 503);
}

#[tokio::test]
async fn metrics_count_requests() {
    let server = Server::start().await;
    server.put("/v1/kv/default/k", b"").await;
    server.put("/v1/kv/default?key64=YQ", b"").await;
    server.get("/v1/kv/default/missing").await;
    server.get("/v1/kv/default").await;
    server.get("/key/k").await;
    let reply = server.get("/metrics").await;
    let metrics = reply.text();
    assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"));
    for (route, class, count) in
        [("key_put", "2xx", 2), ("key_get", "4xx", 1), ("list", "2xx", 1), ("compat", "2xx", 1), ("key_delete", "2xx", 0)]
    {
        let line = format!("quorate_rest_requests_total{{route=\"{route}\",class=\"{class}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(
        metrics.ends_with("quorate_test_metric 7\n") && metrics.contains("\nquorate_rest_connections_total 6\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn every_problem_has_a_page() {
    let server = Server::start().await;
    let index = server.get("/problems").await.text();
    for code in Code::ALL {
        let page = server.get(&code.type_path()).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/plain; charset=utf-8"), "{code}");
        assert!(page.text().contains(code.facts().help) && index.contains(code.facts().code), "{code}");
    }
}
