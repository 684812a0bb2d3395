//! Keyspaces whose pairs are in stores outside, shared by a cluster of real processes: a folder, and Redis.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use quorate_test_servers::redis;
use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Request, free_ports, pause, until};

pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// How long a node may take until it hears of a keyspace, or finds a store again.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn on(method: &'static str, keyspace: &str, key: &str) -> Request {
    Request::new(method, format!("/v1/kv/{keyspace}/{key}"))
}

pub(crate) fn put(keyspace: &str, key: &str, value: &str) -> Request {
    on("PUT", keyspace, key).with_body(value)
}

/// What lets a node use a folder, for pairs and for credentials.
pub(crate) fn allowances(folder: &Path) -> [&str; 4] {
    let folder = folder.to_str().expect("temporary folders have plain names");
    ["--fs-root", folder, "--credentials-dir", folder]
}

/// Three nodes that may use a folder.
pub(crate) fn cluster_with(folder: &Path) -> Cluster {
    Cluster::ready_with(3, &allowances(folder))
}

pub(crate) fn create(cluster: &Cluster, keyspace: &str, engine: &Value) {
    let settings = json!({"engine": engine}).to_string();
    cluster.connection("n1").expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{keyspace}"), settings));
    for name in NODES {
        let mut node = cluster.connection(name);
        until("every node has heard of it", LIMIT, || {
            let told: Value = node.expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}"))).json();
            if told["state"] == "ready" { Ok(()) } else { Err(told.to_string()) }
        });
    }
}

pub(crate) fn problem(node: &mut Connection, status: u16, request: &Request) -> (String, Value, String) {
    let problem: Value = node.expect(status, request).json();
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    (text("code"), problem["outcome"].clone(), text("detail"))
}

pub(crate) fn keys(node: &mut Connection, keyspace: &str, query: &str) -> Vec<String> {
    let page: Value = node.expect(200, &Request::new("GET", format!("/v1/kv/{keyspace}")).with_query(query)).json();
    let items = page["items"].as_array().expect("a list").iter();
    items.map(|item| item["key"].as_str().expect("a text").to_owned()).collect()
}

/// Another keyspace, and the node.
pub(crate) fn undisturbed(node: &mut Connection) {
    node.expect(201, &Request::put(b"elsewhere", "v"));
    node.expect(204, &Request::new("DELETE", "/v1/kv/default/elsewhere"));
    // Beside other tests a node may have to catch up for a moment, whatever stores do.
    until("it is ready", LIMIT, || match node.send(&Request::new("GET", "/readyz")) {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// All keys, page by page.
pub(crate) fn paged(node: &mut Connection, keyspace: &str, query: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let query = if cursor.is_empty() { query.to_owned() } else { format!("{query}&cursor={cursor}") };
        let page: Value = node.expect(200, &Request::new("GET", format!("/v1/kv/{keyspace}")).with_query(&query)).json();
        found.extend(
            page["items"].as_array().expect("a list").iter().map(|item| item["key"].as_str().expect("a text").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return found,
        }
    }
}

/// Exports a keyspace through a node, and imports that into it again: the keys, by line.
fn exported(cluster: &Cluster, node: &str, keyspace: &str) -> Vec<String> {
    let file = cluster.folder().join("export.ndjson").display().to_string();
    cluster.must_call(node, &["export", &file, "-k", keyspace]);
    cluster.must_call(node, &["import", &file, "-k", keyspace]);
    let text = fs::read_to_string(file).expect("it was written");
    let key = |line: &str| serde_json::from_str::<Value>(line).expect("lines of JSON")["key"].as_str().map(str::to_owned);
    text.lines().map(|line| key(line).expect("a key")).collect()
}

/// What every shared store does, whatever it is.
pub(crate) fn use_from_all_nodes(cluster: &Cluster, keyspace: &str) {
    let mut nodes = NODES.map(|name| cluster.connection(name));
    // Written through one, read through the others, conditionally.
    let made = nodes[0].expect(201, &put(keyspace, "a", "1").with_header("if-none-match", "*"));
    let first = made.header("etag").expect("the store says what it wrote").to_owned();
    for node in &mut nodes {
        let found = node.expect(200, &on("GET", keyspace, "a"));
        assert_eq!((found.text().as_str(), found.header("etag")), ("1", Some(first.as_str())));
        let refused: Value = node.expect(412, &put(keyspace, "a", "2").with_header("if-none-match", "*")).json();
        assert_eq!((&refused["current"]["etag"], &refused["outcome"]), (&json!(first), &json!("not_applied")));
    }
    nodes[1].expect(204, &put(keyspace, "a", "2").with_header("if-match", first.clone()));
    nodes[2].expect(412, &put(keyspace, "a", "3").with_header("if-match", first.clone()));
    nodes[2].expect(412, &on("DELETE", keyspace, "a").with_header("if-match", first));
    assert_eq!(nodes[2].expect(200, &on("GET", keyspace, "a")).text(), "2");

    // Without a condition nobody looks whether there was a value.
    for (number, node) in nodes.iter_mut().enumerate() {
        node.expect(204, &put(keyspace, &format!("list/{number}/x"), "v"));
        node.expect(204, &put(keyspace, &format!("list/{number}/y"), "v"));
    }
    let all: Vec<String> = ["0/x", "0/y", "1/x", "1/y", "2/x", "2/y"].map(|key| format!("list/{key}")).into();
    for node in &mut nodes {
        assert_eq!(keys(node, keyspace, "prefix=list/"), all);
        assert_eq!(paged(node, keyspace, "prefix=list/&limit=2"), all);
        assert_eq!(paged(node, keyspace, "prefix=list/&limit=4&values=true"), all);
        let reversed: Vec<String> = all.iter().rev().cloned().collect();
        assert_eq!(paged(node, keyspace, "prefix=list/&limit=4&reverse=true&values=true"), reversed);
        assert_eq!(keys(node, keyspace, "start=list/0/y&end=list/2/"), all[1..4]);
        let folders: Value =
            node.expect(200, &Request::new("GET", format!("/v1/kv/{keyspace}")).with_query("prefix=list/&delimiter=/")).json();
        assert_eq!(folders["prefixes"], json!(["list/0/", "list/1/", "list/2/"]), "{folders}");
        let counted: Value =
            node.expect(200, &Request::new("GET", format!("/v1/kv/{keyspace}")).with_query("count_only=true")).json();
        assert_eq!(counted["count"], json!(7));
    }

    let found: BTreeSet<String> = exported(cluster, "n2", keyspace).into_iter().collect();
    assert_eq!(found, all.iter().cloned().chain(["a".to_owned()]).collect());

    let ops = json!({"ops": [
        {"op": "put", "key": "batch", "value": "b"}, {"op": "get", "key": "a"}, {"op": "delete", "key": "nothing"},
    ]});
    let done: Value = nodes[0].expect(200, &Request::json("POST", &format!("/v1/batch/{keyspace}"), ops.to_string())).json();
    let statuses: Vec<&Value> = done["results"].as_array().expect("results").iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, [&json!(204), &json!(200), &json!(204)], "{done}");
    assert_eq!(done["results"][2]["deleted"], json!(0));

    // Deleted one by one, and by range.
    let gone = nodes[1].expect(204, &on("DELETE", keyspace, "batch"));
    assert_eq!(gone.header("quorate-deleted"), Some("1"));
    assert_eq!(nodes[1].expect(204, &on("DELETE", keyspace, "batch")).header("quorate-deleted"), Some("0"));
    let deleted: Value =
        nodes[2].expect(200, &Request::new("DELETE", format!("/v1/kv/{keyspace}")).with_query("prefix=list/")).json();
    assert_eq!(deleted["deleted"], json!(6));
    assert_eq!(keys(&mut nodes[0], keyspace, "limit=10"), ["a"]);

    refuse_what_cannot_be(&mut nodes[0], keyspace);
}

fn refuse_what_cannot_be(node: &mut Connection, keyspace: &str) {
    let refused = [
        (put(keyspace, "x", "v").with_header("idempotency-key", "\"k\""), "idempotency"),
        (put(keyspace, "x", "v").with_query("lease=1"), "leases"),
        (put(keyspace, "x", "v").with_query("ack=1"), "ack"),
        (on("GET", keyspace, "x").with_query("consistency=linearizable"), "linearizable"),
        (Request::new("GET", format!("/v1/kv/{keyspace}")).with_query("wait=1s&index=1"), "watch"),
        (on("GET", keyspace, "x").with_query("revision=1"), "history"),
        (Request::new("GET", format!("/v1/watch/{keyspace}")), "watch"),
        (Request::json("POST", &format!("/v1/txn?ks={keyspace}"), r#"{"then":[]}"#), "txn"),
        (Request::json("POST", &format!("/v1/batch/{keyspace}"), r#"{"ops":[]}"#).with_query("atomic=true"), "atomic_batch"),
        (on("PATCH", keyspace, "x").with_header("content-type", "application/merge-patch+json").with_body("{}"), "counters"),
        (Request::new("GET", "/v1/snapshot".to_owned()).with_query(&format!("ks={keyspace}")), "snapshot"),
    ];
    for (request, capability) in refused {
        let answer = node.send(&request).expect("an answer");
        let text = answer.text();
        assert!(answer.status == 422 && text.contains(capability), "{capability}: {} {text}", answer.status);
    }
    let told: Value = node.expect(422, &put(keyspace, "x", "v").with_header("quorate-meta-by", "me")).json();
    assert_eq!(told["code"], "store_unfit");
}

#[test]
fn a_folder_is_shared_by_all_nodes_and_by_other_programs() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for name in ["pairs", "reports"] {
        fs::create_dir(folder.path().join(name)).expect("a folder can be made");
    }
    let mut cluster = cluster_with(folder.path());
    create(&cluster, "pairs", &json!({"type": "fs", "path": "shared", "folder": folder.path().join("pairs")}));
    use_from_all_nodes(&cluster, "pairs");

    // A time to live, in the envelope.
    let mut nodes = NODES.map(|name| cluster.connection(name));
    nodes[0].expect(204, &put("pairs", "short", "v").with_query("ttl=1h"));
    assert!(nodes[1].expect(200, &on("GET", "pairs", "short")).header("quorate-ttl").is_some());
    nodes[0].expect(204, &put("pairs", "short", "v").with_query("ttl=1ms"));
    until("it is over", LIMIT, || match nodes[2].send(&on("GET", "pairs", "short")) {
        Ok(answer) if answer.status == 404 => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // Other programs write there, and read what is written here.
    let reports = folder.path().join("reports");
    let engine = json!({"type": "fs", "path": "shared", "folder": reports, "envelope": "none", "key_encoding": "path"});
    create(&cluster, "reports", &engine);
    fs::create_dir(reports.join("2026")).expect("a folder can be made");
    fs::write(reports.join("2026/may.txt"), "42 pages").expect("a file can be written");
    for node in &mut nodes {
        assert_eq!(node.expect(200, &on("GET", "reports", "2026/may.txt")).text(), "42 pages");
    }
    nodes[2].expect(204, &put("reports", "2026/june.txt", "7 pages"));
    assert_eq!(fs::read_to_string(reports.join("2026/june.txt")).expect("it is there"), "7 pages");
    assert_eq!(keys(&mut nodes[1], "reports", "prefix=2026/"), ["2026/june.txt", "2026/may.txt"]);
    nodes[0].expect(422, &put("reports", "x", "v").with_query("ttl=1h"));

    // A node that is killed takes nothing along, and finds all of it again.
    cluster.node_mut("n2").kill();
    nodes[0].expect(204, &put("reports", "alone.txt", "v"));
    assert_eq!(nodes[2].expect(200, &on("GET", "reports", "alone.txt")).text(), "v");
    cluster.node_mut("n2").start_with(&allowances(folder.path()));
    cluster.until_ready();
    let mut again = cluster.connection("n2");
    until("it has its keyspaces again", LIMIT, || match again.send(&on("GET", "reports", "alone.txt")) {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // A folder that is not there is missed, not made.
    let lost = folder.path().join("lost");
    create(&cluster, "lost", &json!({"type": "fs", "path": "shared", "folder": lost}));
    let (code, outcome, detail) = problem(&mut again, 502, &put("lost", "x", "v"));
    assert_eq!((code.as_str(), outcome), ("store_missing", json!("not_applied")), "{detail}");
    assert!(detail.contains("fs") && detail.contains("lost"), "{detail}");
    assert_eq!(problem(&mut again, 502, &on("GET", "lost", "x")).0, "store_missing");
    assert!(!lost.exists());
    // Nor is the empty folder taken for it that a disk leaves which is not mounted, until somebody says that it is the one.
    fs::create_dir(&lost).expect("a folder can be made");
    let (code, _, detail) = problem(&mut again, 502, &put("lost", "x", "v"));
    assert!(code == "store_missing" && detail.contains(".quorate/store"), "{detail}");
    let settings = json!({"engine": {"type": "fs", "path": "shared", "folder": lost}}).to_string();
    again.expect(200, &Request::json("PUT", "/v1/keyspaces/lost", settings));
    nodes[1] = cluster.connection("n2");
    for node in &mut nodes {
        node.expect(204, &put("lost", "x", "v"));
    }
    let away = folder.path().join("away");
    fs::rename(&lost, &away).expect("a folder can be moved");
    fs::create_dir(&lost).expect("a folder can be made");
    for node in &mut nodes {
        assert_eq!(problem(node, 502, &on("GET", "lost", "x")).0, "store_missing");
        assert_eq!(problem(node, 502, &put("lost", "x", "w")).0, "store_missing");
    }
    assert_eq!(fs::read_dir(&lost).expect("it is there").count(), 0);
    again.expect(200, &on("GET", "pairs", "a"));

    // The keyspace goes, and what is in the folder stays.
    again.expect(204, &Request::new("DELETE", "/v1/keyspaces/pairs"));
    until("it is gone", LIMIT, || match again.send(&on("GET", "pairs", "a")) {
        Ok(answer) if answer.status == 404 && answer.text().contains("keyspace_not_found") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(fs::read_dir(folder.path().join("pairs")).expect("it is there").next().is_some());
    create(&cluster, "anew", &json!({"type": "fs", "path": "shared", "folder": folder.path().join("pairs")}));
    assert_eq!(again.expect(200, &on("GET", "anew", "a")).text(), "2");
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_way_out() {
    let cluster = Cluster::ready_with(1, &["--credentials-env", "OTHER,QUORATE_TEST_*", "--credentials-dir", "/etc/quorate"]);
    let mut node = cluster.connection("n1");
    let redis = |more: Value| {
        let mut engine = json!({"type": "redis", "url": "redis://127.0.0.1:1/0", "path": "shared"});
        let more = more.as_object().expect("an object").clone();
        engine.as_object_mut().expect("an object").extend(more);
        json!({ "engine": engine })
    };
    let raft = json!({"engine": redis(json!({}))["engine"], "replication": {"mode": "raft"}});
    let cases = [
        (json!({"engine": {"type": "fs", "path": "shared", "folder": "/srv/x"}}), 422, "--fs-root"),
        (raft, 422, "redis does not go with replication raft"),
        (json!({"engine": {"type": "redis", "url": "redis://127.0.0.1:1/0"}}), 422, "\"path\": \"shared\""),
        (redis(json!({"prefix": "{node}/"})), 422, "{node}"),
        (redis(json!({"credentials": {"password": "hush-hush"}})), 422, "\"env\""),
        (redis(json!({"password": "hush-hush"})), 422, "credentials"),
        (redis(json!({"credentials": {"env": {"password": "QUORATE_TEST_NOT_SET"}}})), 422, "QUORATE_TEST_NOT_SET"),
        // Whoever may make keyspaces has nothing else of a node sent to where he likes.
        (redis(json!({"credentials": {"env": {"password": "HOME"}}})), 422, "--credentials-env"),
        (redis(json!({"credentials": {"file": "/etc/passwd"}})), 422, "--credentials-dir"),
        (redis(json!({"credentials": {"file": "/etc/quorate/../passwd"}})), 422, "--credentials-dir"),
        (redis(json!({"cache": {"ttl": "soon"}})), 422, "cache.ttl"),
        (redis(json!({"wobble": 1})), 422, "known: "),
        (json!({"engine": {"type": "abacus"}}), 422, "abacus"),
    ];
    for (settings, status, told) in cases {
        let answer = node.expect(status, &Request::json("PUT", "/v1/keyspaces/k", settings.to_string()));
        let text = answer.text();
        let detail = answer.json::<Value>()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(told) && !text.contains("hush"), "{settings}: {text}");
        node.expect(404, &Request::new("GET", "/v1/keyspaces/k"));
    }
    // A store that is down is no reason to refuse: it may be up later. Meanwhile it is 503.
    let asked = redis(json!({"timeout": "500ms"})).to_string();
    node.expect(201, &Request::json("PUT", "/v1/keyspaces/down", asked.clone()));
    node.expect(200, &Request::json("PUT", "/v1/keyspaces/down", asked));
    assert_eq!(problem(&mut node, 503, &on("GET", "down", "k")).0, "store_unreachable");
    let told: Value = node.expect(200, &Request::new("GET", "/v1/keyspaces/down")).json();
    assert_eq!((&told["replication"]["mode"], &told["capabilities"]["ordered"]), (&json!("none"), &json!(false)));
    assert_eq!((&told["capabilities"]["cas"], &told["engine"]["timeout"]), (&json!(true), &json!("500ms")));
    let stats: Value = node.expect(200, &Request::new("GET", "/v1/keyspaces/down/stats")).json();
    assert_eq!((&stats["outside"]["is_open"], &stats["outside"]["is_reachable"]), (&json!(true), &json!(false)), "{stats}");
}

/// Each node decides for itself what of its own it gives away.
#[test]
fn a_node_that_does_not_allow_it_hands_no_credentials_to_a_store() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let credentials = folder.path().join("redis.json");
    fs::write(&credentials, r#"{"password": "open sesame"}"#).expect("a file can be written");
    let mut cluster = Cluster::ready_with(1, &allowances(folder.path()));
    cluster.add("n2");
    let first = cluster.node("n1").client_address.clone();
    cluster.node_mut("n2").start(&[&first]);
    cluster.until_ready();
    let url = format!("redis://127.0.0.1:{}/0", free_ports(1)[0]);
    let engine = json!({"type": "redis", "url": url, "path": "shared", "credentials": {"file": credentials}, "timeout": "500ms"});
    let settings = json!({"engine": engine}).to_string();
    let [mut allows, mut denies] = ["n1", "n2"].map(|name| cluster.connection(name));
    // Nobody answers there.
    allows.expect(201, &Request::json("PUT", "/v1/keyspaces/k", settings.clone()));
    assert_eq!(problem(&mut allows, 503, &put("k", "a", "1")).0, "store_unreachable");
    let (code, outcome, detail) = problem(&mut denies, 502, &put("k", "a", "1"));
    assert_eq!((code.as_str(), outcome), ("store_denied", json!("not_applied")), "{detail}");
    assert!(detail.contains("--credentials-dir") && !detail.contains("sesame"), "{detail}");
    let told: Value = denies.expect(422, &Request::json("PUT", "/v1/keyspaces/other", settings)).json();
    assert!(told["detail"].as_str().expect("a detail").contains("--credentials-dir"), "{told}");
    let stats: Value = denies.expect(200, &Request::new("GET", "/v1/keyspaces/k/stats")).json();
    assert_eq!(stats["outside"]["is_open"], false, "{stats}");
}

#[test]
fn redis_is_shared_and_may_be_down_for_a_while() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let Some(mut redis) = redis("open sesame") else { return };
    let credentials = folder.path().join("redis.json");
    fs::write(&credentials, r#"{"password": "sesame, please"}"#).expect("a file can be written");
    let mut cluster = cluster_with(folder.path());
    let url = format!("redis://127.0.0.1:{}/0", redis.port);
    let engine = json!({
        "type": "redis", "url": url, "path": "shared", "credentials": {"file": credentials}, "timeout": "2s",
    });
    create(&cluster, "shared", &engine);

    // Wrong credentials, put right while the nodes run.
    let mut node = cluster.connection("n1");
    let (code, outcome, detail) = problem(&mut node, 502, &put("shared", "a", "1"));
    assert_eq!((code.as_str(), outcome), ("store_denied", json!("not_applied")), "{detail}");
    assert!(!detail.contains("sesame"), "{detail}");
    fs::write(&credentials, r#"{"password": "open sesame"}"#).expect("a file can be written");
    for name in NODES {
        let mut node = cluster.connection(name);
        until("the credentials are read anew", LIMIT, || match node.send(&on("GET", "shared", "a")) {
            Ok(answer) if answer.status == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    use_from_all_nodes(&cluster, "shared");

    // In front of it, a cache on each node: its own writes are seen at once, those of others after a while.
    let mut cached = engine.clone();
    cached["cache"] = json!({"ttl": "300ms", "max_stale": "0ms"});
    cached["prefix"] = json!("cached/");
    create(&cluster, "cached", &cached);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    nodes[0].expect(204, &put("cached", "k", "1"));
    assert_eq!(nodes[1].expect(200, &on("GET", "cached", "k")).text(), "1");
    nodes[0].expect(204, &put("cached", "k", "2"));
    assert_eq!(nodes[0].expect(200, &on("GET", "cached", "k")).text(), "2");
    until("the others see it too", LIMIT, || match nodes[1].expect(200, &on("GET", "cached", "k")).text() {
        text if text == "2" => Ok(()),
        text => Err(text),
    });
    let stats: Value = nodes[1].expect(200, &Request::new("GET", "/v1/keyspaces/cached/stats")).json();
    assert!(stats["outside"]["cache"]["fetched"].as_u64() >= Some(2), "{stats}");
    let metrics = nodes[1].expect(200, &Request::new("GET", "/metrics")).text();
    let fetched = metrics.lines().find_map(|line| line.strip_prefix("quorate_store_cache_fetched_total{keyspace=\"cached\"} "));
    assert_eq!(fetched, Some(stats["outside"]["cache"]["fetched"].to_string().as_str()), "{metrics}");

    // A node dies: the others go on.
    cluster.node_mut("n3").kill();
    nodes[1].expect(204, &put("shared", "b", "1"));
    assert_eq!(nodes[0].expect(200, &on("GET", "shared", "b")).text(), "1");

    // The store dies: that is said, and other keyspaces do not notice.
    redis.kill();
    for node in &mut nodes[..2] {
        let (code, _, detail) = problem(node, 503, &on("GET", "shared", "b"));
        assert_eq!(code, "store_unreachable", "{detail}");
        assert!(detail.contains("redis") && !detail.contains("sesame"), "{detail}");
        let (code, outcome, detail) = problem(node, 503, &put("shared", "b", "2"));
        assert_eq!((code.as_str(), outcome), ("store_unreachable", json!("not_applied")), "{detail}");
        assert_eq!(problem(node, 503, &Request::new("GET", "/v1/kv/shared")).0, "store_unreachable");
        undisturbed(node);
    }
    // One that starts while the store is down finds it later.
    cluster.node_mut("n3").start_with(&allowances(folder.path()));
    cluster.until_ready();
    nodes[2] = cluster.connection("n3");
    assert_eq!(problem(&mut nodes[2], 503, &on("GET", "shared", "b")).0, "store_unreachable");
    redis.begin();
    for node in &mut nodes {
        until("the store is found again", LIMIT, || match node.send(&on("GET", "shared", "b")) {
            Ok(answer) if answer.status == 200 && answer.text() == "1" => Ok(()),
            other => {
                pause(50);
                Err(format!("{other:?}"))
            }
        });
    }
    nodes[2].expect(204, &put("shared", "b", "3"));
    assert_eq!(nodes[0].expect(200, &on("GET", "shared", "b")).text(), "3");
}
