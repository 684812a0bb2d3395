//! Keyspaces, engines and jobs.

use quorate_api::keyspace::{EngineBody, JobBody, JobState, MoveState, ReplicaMove};
use quorate_engine::KINDS;
use serde_json::{Value, json};

use crate::server::Server;

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn a_keyspace_is_made_once() {
    let server = Server::start().await;
    let asked = json!({"engine": {"type": "lsm"}, "replication": {"mode": "raft"}, "limits": {"max_bytes": "1MiB"}});
    let made = server.put_json("/v1/keyspaces/app?timeout=2s", &asked).await;
    assert_eq!(made.status, 201);
    let told = made.json();
    assert_eq!(
        (&told["name"], &told["engine"], &told["replication"], &told["ttl"], &told["limits"], &told["state"]),
        (
            &json!("app"),
            &json!({"type": "lsm"}),
            &json!({"mode": "raft"}),
            &Value::Null,
            &json!({"max_bytes": 1 << 20}),
            &json!("ready")
        )
    );
    assert_eq!((&told["created_at"], &told["move"]), (&json!("2027-01-15T08:00:00.000Z"), &Value::Null));
    assert_eq!(server.put_json("/v1/keyspaces/app", &asked).await.status, 200);
    let same = json!({"limits": {"max_bytes": 1 << 20}});
    assert_eq!(server.put_json("/v1/keyspaces/app", &same).await.status, 200, "defaults are settings like any other");
    let other = server.put_json("/v1/keyspaces/app", &json!({"limits": {"max_bytes": "2MiB"}})).await;
    assert_eq!(other.refusal(), refused(409, "conflict"));
    assert_eq!(server.get("/v1/keyspaces/app").await.json(), told);
    assert_eq!(server.store.calls()[..2], ["create app 2000ms", "create app 5000ms"]);
    assert_eq!(server.put("/v1/kv/app/k", b"v").await.status, 201, "it takes pairs");
}

#[tokio::test]
async fn what_is_told_can_be_sent_back() {
    let server = Server::start().await;
    for asked in [json!({}), json!({"replication": {"mode": "none"}, "limits": {"max_key_bytes": 64, "max_value_bytes": "1KiB"}})]
    {
        let told = server.put_json("/v1/keyspaces/app", &asked).await.json();
        let again = json!({
            "engine": told["engine"], "replication": told["replication"], "ttl": told["ttl"], "limits": told["limits"],
        });
        assert_eq!(server.put_json("/v1/keyspaces/app", &again).await.status, 200);
        assert_eq!(server.delete("/v1/keyspaces/app").await.status, 204);
    }
}

#[tokio::test]
async fn a_body_is_not_needed() {
    let server = Server::start_with(|config| config.max_keyspace_bytes = 7 << 20).await;
    let made = server.put("/v1/keyspaces/app", b"").await;
    assert_eq!((made.status, &made.json()["limits"]), (201, &json!({})));
    let in_memory = server.put_json("/v1/keyspaces/small", &json!({"engine": {"type": "trie"}})).await;
    assert_eq!((in_memory.status, &in_memory.json()["limits"]), (201, &json!({"max_bytes": 7 << 20})), "memory has a bound");
}

#[tokio::test]
async fn keyspaces_are_listed_by_name() {
    let server = Server::start().await;
    let all = server.get("/v1/keyspaces").await.json();
    let names: Vec<&str> = all["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["_system", "default", "narrow", "orders", "tiny"]);
    assert_eq!(server.get("/v1/keyspaces?consistency=local&timeout=1s").await.json(), all);
    assert_eq!(server.get("/v1/keyspaces/_system").await.json(), all["items"][0]);
    assert_eq!(server.store.calls(), ["keyspaces true", "keyspaces false"]);
    for target in ["/v1/keyspaces?prefix=a", "/v1/keyspaces/app?min_revision=3", "/v1/engines?x", "/v1/jobs?x"] {
        assert_eq!(server.get(target).await.refusal(), refused(400, "unknown_parameter"), "{target}");
    }
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let server = Server::start().await;
    server.put_json("/v1/keyspaces/app", &json!({"limits": {"max_bytes": "1MiB", "max_key_bytes": 64}})).await;
    let altered =
        server.patch_json("/v1/keyspaces/app", &json!({"limits": {"max_key_bytes": null, "max_value_bytes": 100}})).await;
    let limits = json!({"max_bytes": 1 << 20, "max_value_bytes": 100});
    assert_eq!((altered.status, &altered.json()["limits"]), (200, &limits));
    let told = altered.json()["capabilities"].clone();
    assert_eq!((&told["max_key"], &told["max_value"]), (&json!(4096), &json!(100)));
    let merge = [("Content-Type", "application/merge-patch+json; charset=utf-8")];
    assert_eq!(server.send("PATCH", "/v1/keyspaces/app", &merge, b"{}").await.json()["limits"], limits);
    assert_eq!(server.patch_json("/v1/keyspaces/none", &json!({})).await.refusal(), refused(404, "keyspace_not_found"));
}

#[tokio::test]
async fn settings_that_cannot_be_had_are_refused_with_what_can() {
    let server = Server::start().await;
    let cases = [
        (json!({"engine": {"type": "abacus"}}), "invalid_settings", "known: hash, trie, cache, btree, lsm, fs, s3, "),
        (json!({"engine": {"type": "trie", "beads": 3}}), "invalid_settings", "has no option \"beads\""),
        (json!({"engine": {"max_bytes": 3}}), "invalid_settings", "missing field `type`"),
        (json!({"engine": "trie"}), "invalid_settings", "invalid type"),
        (json!({"engines": {"type": "trie"}}), "invalid_settings", "unknown field `engines`"),
        (json!({"replication": {"mode": "paxos"}}), "invalid_settings", "known: raft, push, read-repair"),
        (json!({"replication": {"mode": "push", "speed": 3}}), "invalid_settings", "known: ack, linger"),
        (json!({"replication": {"mode": "batch", "interval": 5}}), "invalid_settings", "interval: a time between"),
        (
            json!({"engine": {"type": "lsm"}, "replication": {"mode": "none"}}),
            "unsupported_settings",
            "lsm does not go with replication none",
        ),
        (
            json!({"engine": {"type": "lsm"}, "replication": {"mode": "push", "durability": "none"}}),
            "unsupported_settings",
            "replication.durability: the engine lsm keeps its pairs on a disk",
        ),
        (json!({"ttl": "soon"}), "invalid_settings", "like 500ms or 2s"),
        (json!({"ttl": "0s"}), "invalid_settings", "1ms to 36500d"),
        (json!({"ttl": 30}), "invalid_settings", "write 30s or 30ms"),
        (json!({"limits": {"max_bytes": 0}}), "invalid_settings", "limits.max_bytes: must be 1 or more"),
        (json!({"limits": {"max_bytes": "lots"}}), "invalid_settings", "`lots` is no amount of bytes"),
        (json!({"limits": {"max_bytes": -1}}), "invalid_settings", "a whole number"),
        (json!({"limits": {"max_key_bytes": 4097}}), "invalid_settings", "between 1 and 4096"),
    ];
    for (settings, code, told) in cases {
        let put = server.put_json("/v1/keyspaces/app", &settings).await;
        assert_eq!(put.refusal(), refused(422, code), "{settings}");
        assert!(put.problem().detail.contains(told), "{settings}: {}", put.problem().detail);
        assert_eq!(server.patch_json("/v1/keyspaces/orders", &settings).await.refusal(), refused(422, code), "{settings}");
    }
    assert_eq!(server.get("/v1/keyspaces/app").await.refusal(), refused(404, "keyspace_not_found"));
    for patch in [json!({"engine": null}), json!({"replication": null}), json!({"name": "other"}), json!({"epoch": null})] {
        assert_eq!(
            server.patch_json("/v1/keyspaces/orders", &patch).await.refusal(),
            refused(422, "invalid_settings"),
            "{patch}"
        );
    }
}

#[tokio::test]
async fn bodies_are_json_objects() {
    let server = Server::start().await;
    for (method, body) in [("PUT", "{"), ("PUT", "[]"), ("PUT", "null"), ("PATCH", ""), ("PATCH", "7"), ("PATCH", "{\"a\"}")] {
        let reply = server.send(method, "/v1/keyspaces/app", &[("Content-Type", "application/json")], body.as_bytes()).await;
        assert_eq!(reply.refusal(), refused(400, "bad_body"), "{method} {body}");
    }
    let merge = [("Content-Type", "application/merge-patch+json")];
    for (method, headers) in [("PUT", [].as_slice()), ("PATCH", &[]), ("PUT", &merge)] {
        let reply = server.send(method, "/v1/keyspaces/app", headers, b"{}").await;
        assert_eq!(reply.refusal(), refused(415, "unsupported_media_type"), "{method} {headers:?}");
    }
    assert_eq!(server.store.calls(), [""; 0]);
}

#[tokio::test]
async fn names_are_checked() {
    let server = Server::start().await;
    let long = "a".repeat(64);
    for name in ["App", "-a", "_a", "a.b", "%ff", "a%2Fb", "a%20b", long.as_str()] {
        let target = format!("/v1/keyspaces/{name}");
        for reply in [server.get(&target).await, server.put(&target, b"").await, server.delete(&target).await] {
            assert_eq!(reply.refusal(), refused(400, "bad_keyspace_name"), "{name}");
        }
    }
    assert_eq!(server.put("/v1/keyspaces/_system", b"").await.refusal(), refused(403, "keyspace_read_only"));
    assert_eq!(server.patch_json("/v1/keyspaces/_system", &json!({})).await.refusal(), refused(403, "keyspace_read_only"));
    assert_eq!(server.put(&format!("/v1/keyspaces/{}", &long[1..]), b"").await.status, 201);
    let post = server.post_json("/v1/keyspaces/app", "{}").await;
    assert_eq!((post.refusal(), post.header("allow")), (refused(405, "method_not_allowed"), "GET,HEAD,PUT,PATCH,DELETE"));
}

#[tokio::test]
async fn a_deleted_keyspace_is_gone() {
    let server = Server::start().await;
    server.put("/v1/keyspaces/app", b"").await;
    let gone = server.delete("/v1/keyspaces/app?timeout=1s").await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    assert_eq!(server.delete("/v1/keyspaces/app").await.refusal(), refused(404, "keyspace_not_found"));
    assert_eq!(server.get("/v1/keyspaces/app/stats").await.refusal(), refused(404, "keyspace_not_found"));
}

#[tokio::test]
async fn what_a_keyspace_can_do_follows_from_its_settings() {
    let server = Server::start().await;
    let raft = server.get("/v1/keyspaces/orders").await.json()["capabilities"].clone();
    assert_eq!(raft["consistency"], json!(["linearizable", "local"]));
    assert_eq!(["ordered", "cas", "ttl_per_key", "txn", "leases"].map(|name| &raft[name]), [&json!(true); 5]);
    let local = server.put_json("/v1/keyspaces/local", &json!({"replication": {"mode": "none"}})).await.json();
    assert_eq!(local["capabilities"]["consistency"], json!(["local"]));
    assert_eq!(["ttl_per_key", "leases"].map(|name| &local["capabilities"][name]), [&json!(false); 2]);
    let timed = json!({"replication": {"mode": "none"}, "ttl": "30m"});
    let refused = server.put_json("/v1/keyspaces/timed", &timed).await.problem();
    assert!(refused.detail.contains("not possible with the engine trie and replication none"), "{}", refused.detail);
}

#[tokio::test]
async fn a_read_is_as_fresh_as_its_keyspace_can_be() {
    let server = Server::start().await;
    server.put_json("/v1/keyspaces/local", &json!({"replication": {"mode": "none"}})).await;
    server.put("/v1/kv/local/k", b"v").await;
    for (target, consistency) in [
        ("/v1/kv/local/k", "local"),
        ("/v1/kv/local", "local"),
        ("/v1/kv/local/k?consistency=local", "local"),
        ("/v1/kv/orders", "linearizable"),
    ] {
        let read = server.get(target).await;
        assert_eq!((read.status, read.header("quorate-consistency")), (200, consistency), "{target}");
    }
    for target in ["/v1/kv/local/k?consistency=linearizable", "/v1/kv/local?consistency=consistent"] {
        let read = server.get(target).await;
        assert_eq!(read.refusal(), refused(422, "unsupported_capability"), "{target}");
        assert!(read.problem().detail.contains("the capability linearizable"));
    }
}

#[tokio::test]
async fn engines_tell_their_options() {
    let server = Server::start().await;
    let engines = server.get("/v1/engines").await.json();
    let items = engines["items"].as_array().unwrap();
    assert_eq!(items.len(), KINDS.len() + quorate_external::KINDS.len());
    for (item, kind) in items[KINDS.len()..].iter().zip(quorate_external::KINDS) {
        let can = (kind.capabilities)();
        let modes = item["replication"].as_array().unwrap();
        assert_eq!((item["type"].as_str(), modes.contains(&json!("none"))), (Some(kind.name), true));
        // Behind replicas there stands what can be written to.
        assert_eq!(["raft", "push", "full-copy"].map(|mode| modes.contains(&json!(mode))), [can.writable; 3], "{modes:?}");
        assert_eq!(item["outside"]["writes"], json!(can.writable));
        assert_eq!(item["outside"]["conditions"], json!(can.comparing.name()));
        let names: Vec<&str> = item["options"].as_array().unwrap().iter().filter_map(|option| option["name"].as_str()).collect();
        assert!(names.contains(&"cache") && names.contains(&kind.options[0].0), "{names:?}");
    }
    for (item, kind) in items.iter().zip(KINDS) {
        assert_eq!((item["type"].as_str(), item["summary"].as_str()), (Some(kind.name), Some(kind.summary)));
        assert_eq!(item["capabilities"]["ordered"], json!(kind.capabilities.ordered));
        assert_eq!(item["capabilities"]["evicts"], json!(kind.capabilities.evicts));
        let options = item["options"].as_array().unwrap();
        assert_eq!(options.len(), kind.options.len(), "{}", kind.name);
        for (told, option) in options.iter().zip(kind.options) {
            assert_eq!((told["name"].as_str(), told["help"].as_str()), (Some(option.name), Some(option.help)));
        }
        let modes = item["replication"].as_array().unwrap();
        assert_eq!(modes.contains(&json!("raft")), !kind.capabilities.evicts);
        assert_eq!(modes.contains(&json!("none")), !kind.capabilities.durable);
    }
    assert_eq!(items.iter().filter(|item| item["is_default"] == json!(true)).count(), 1);
}

#[tokio::test]
async fn a_move_is_seen_from_its_keyspace() {
    let server = Server::start().await;
    server.store.begin_move("orders");
    let told = server.get("/v1/keyspaces/orders").await.json()["move"].clone();
    let engine = json!({"type": "trie"});
    assert_eq!(told, json!({"job": 7, "from": engine, "to": engine, "replicas": 3, "done_replicas": 1}));
}

#[tokio::test]
async fn jobs_are_shown_by_number() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/jobs").await.json(), json!({"items": []}));
    let engine = |kind: &str| EngineBody { kind: kind.to_owned(), ..EngineBody::default() };
    let replica = |node: &str, state| ReplicaMove { node: node.to_owned(), state, phase: None, copied: None, last_error: None };
    let job = JobBody {
        id: 12,
        kind: "move".to_owned(),
        keyspace: "orders".to_owned(),
        state: JobState::Running,
        progress: 0.5,
        from: engine("trie"),
        to: engine("hash"),
        started_at: None,
        replicas: vec![replica("n1", MoveState::Done), replica("n2", MoveState::Waiting)],
    };
    server.store.set_jobs(vec![job]);
    let told = server.get("/v1/jobs/12?consistency=local").await.json();
    assert_eq!((&told["state"], &told["progress"]), (&json!("running"), &json!(0.5)));
    assert_eq!(told["replicas"][1], json!({"node": "n2", "state": "waiting"}));
    assert_eq!(server.get("/v1/jobs").await.json(), json!({"items": [told]}));
    for id in ["1", "012", "x", "%ff"] {
        assert_eq!(server.get(&format!("/v1/jobs/{id}")).await.refusal(), refused(404, "job_not_found"), "{id}");
    }
}

#[tokio::test]
async fn stats_are_those_of_the_node_that_answers() {
    let server = Server::start().await;
    let stats = server.get("/v1/keyspaces/orders/stats").await.json();
    let wanted = json!({"name": "orders", "served_by": "n1", "engine": "trie", "keys": 3, "data_bytes": 30, "replicas": []});
    assert_eq!(stats, wanted);
}

#[tokio::test]
async fn lists_are_no_settings() {
    let server = Server::start().await;
    for body in [json!({"retention": [null, null]}), json!({"limits": [1, 2, 3]})] {
        let refused = (422, "invalid_settings".to_owned());
        assert_eq!(server.patch_json("/v1/keyspaces/default", &body).await.refusal(), refused, "{body}");
        assert_eq!(server.put_json("/v1/keyspaces/new", &body).await.refusal(), refused, "{body}");
    }
}
