//! Keyspaces whose replicas have a part each of a store outside behind them: what is written comes there, whatever happens to
//! nodes and store meanwhile; who writes waits only when too much has not come there yet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quorate_proxy::{ANYBODY, Link, Proxy};
use quorate_test_servers::{Server, moto, redis};
use serde_json::{Value, json};

use crate::outside::{LIMIT, NODES, allowances, cluster_with, keys, on, problem, put, undisturbed};
use crate::support::{Cluster, Connection, Request, tell, until};

fn create(cluster: &Cluster, keyspace: &str, settings: &Value) {
    let target = format!("/v1/keyspaces/{keyspace}");
    cluster.connection("n1").expect(201, &Request::json("PUT", &target, settings.to_string()));
    cluster.until_keyspace(keyspace);
}

fn stats(node: &mut Connection, keyspace: &str) -> Value {
    node.expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}/stats"))).json()
}

/// Waits until a node's part of the store has what its replica has.
fn flush(node: &mut Connection, keyspace: &str) {
    flush_with(node, keyspace, "rewrite=false");
}

fn flush_with(node: &mut Connection, keyspace: &str, query: &str) {
    let request = Request::new("POST", format!("/v1/keyspaces/{keyspace}/flush"));
    let request = request.with_query(query).with_query("timeout=20s");
    let done: Value = node.expect(200, &request).json();
    assert_eq!(done["stored"], true, "{done}");
}

/// The files below a folder that hold pairs, by key.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = entry.strip_prefix(folder).expect("it lies below").to_string_lossy().into_owned();
            match entry.is_dir() {
                _ if name.starts_with(".quorate") => {}
                true => folders.push(entry),
                false => drop(found.insert(name, fs::read_to_string(entry).expect("text"))),
            }
        }
    }
    found
}

/// What a keyspace holds, through one node.
fn pairs(node: &mut Connection, keyspace: &str) -> BTreeMap<String, String> {
    let all = keys(node, keyspace, "limit=1000");
    all.into_iter().map(|key| (key.clone(), node.expect(200, &on("GET", keyspace, &key)).text())).collect()
}

/// Three nodes, and a keyspace with a folder for each of them.
struct Folders {
    cluster: Cluster,
    root: tempfile::TempDir,
}

impl Folders {
    fn begin(more: &Value) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let cluster = cluster_with(root.path());
        let mut settings = json!({"engine": {
            "type": "fs", "folder": root.path().join("{node}/pairs"), "key_encoding": "path", "envelope": "none",
        }});
        for part in ["engine", "replication"] {
            for (name, value) in more[part].as_object().into_iter().flatten() {
                settings[part][name] = value.clone();
            }
        }
        create(&cluster, "pairs", &settings);
        Self { cluster, root }
    }

    fn folder(&self, node: &str) -> PathBuf {
        self.root.path().join(node).join("pairs")
    }

    fn nodes(&self) -> [Connection; 3] {
        NODES.map(|name| self.cluster.connection(name))
    }

    /// Each node's folder has what its replica has, and that is the same at all.
    fn assert_equal(&self) -> BTreeMap<String, String> {
        let mut all = self.nodes();
        let expected = pairs(&mut all[0], "pairs");
        for (name, node) in NODES.into_iter().zip(&mut all) {
            until("every replica has it", LIMIT, || {
                let own = pairs(node, "pairs");
                if own == expected { Ok(()) } else { Err(format!("{own:?}")) }
            });
            flush(node, "pairs");
            assert_eq!(files(&self.folder(name)), expected, "the folder of {name}");
        }
        expected
    }
}

#[test]
fn each_replica_has_a_folder_that_other_programs_can_read() {
    let mut run = Folders::begin(&json!({}));
    let mut nodes = run.nodes();
    // All that replicas do, they do here too.
    for (number, node) in nodes.iter_mut().enumerate() {
        for key in 0..20 {
            node.expect(201, &put("pairs", &format!("dir-{number}/{key}"), "1"));
        }
    }
    let tag = nodes[0].expect(200, &on("GET", "pairs", "dir-1/7")).header("etag").expect("a tag").to_owned();
    nodes[1].expect(204, &put("pairs", "dir-1/7", "2").with_header("if-match", tag.clone()));
    nodes[2].expect(412, &put("pairs", "dir-1/7", "3").with_header("if-match", tag));
    nodes[2].expect(204, &on("DELETE", "pairs", "dir-2/3"));
    let txn = json!({"then": [{"op": "put", "key": "t", "value": "x"}, {"op": "delete_range", "prefix": "dir-0/1"}]});
    nodes[0].expect(200, &Request::json("POST", "/v1/txn?ks=pairs", txn.to_string()));
    let told: Value = nodes[1].expect(200, &Request::new("GET", "/v1/keyspaces/pairs")).json();
    assert_eq!((&told["replication"]["mode"], &told["capabilities"]["flush"]), (&json!("raft"), &json!(true)), "{told}");
    assert_eq!((&told["capabilities"]["watch"], &told["capabilities"]["sync"]), (&json!(true), &json!(false)), "{told}");
    let all = run.assert_equal();
    assert_eq!((all.len(), all["dir-1/7"].as_str(), all["t"].as_str()), (20 * 3 - 1 - 11 + 1, "2", "x"));
    let told = String::from_utf8(run.cluster.must_call("n1", &["keyspace", "stats", "pairs"])).expect("text");
    assert!(told.contains("waiting for the store") && told.contains("0 keys"), "{told}");

    // A node dies in the middle of it, misses more, and comes back.
    nodes[0].expect(204, &put("pairs", "dir-1/7", "4"));
    run.cluster.node_mut("n2").kill();
    for key in 0..20 {
        nodes[0].expect(204, &on("DELETE", "pairs", &format!("dir-1/{key}")));
        nodes[2].expect(201, &put("pairs", &format!("later/{key}"), "5"));
    }
    run.cluster.node_mut("n2").start_with(&allowances(run.root.path()));
    run.cluster.until_ready();
    let all = run.assert_equal();
    assert!(all.contains_key("later/19") && !all.contains_key("dir-1/7"));

    // What is in the folder stays when the keyspace goes; and is not taken for a new one's.
    let backup = run.root.path().join("pairs.backup");
    let backup = backup.to_str().expect("temporary folders have plain names");
    run.cluster.must_call("n1", &["backup", backup]);
    let mut node = run.cluster.connection("n1");
    node.expect(204, &Request::new("DELETE", "/v1/keyspaces/pairs"));
    assert_eq!(files(&run.folder("n1")), all);
    let engine = json!({"type": "fs", "folder": run.root.path().join("{node}/pairs"), "envelope": "none"});
    let again = Request::json("PUT", "/v1/keyspaces/again", json!({ "engine": engine }).to_string());
    let (code, _, detail) = problem(&mut node, 422, &again);
    assert!(code == "unsupported_settings" && detail.contains("\"path\": \"shared\""), "{detail}");
    let restore = ["restore", backup, "--only", "pairs"];
    let refused = run.cluster.call("n1", &restore);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("name a place that is empty"), "{told}");
    NODES.iter().for_each(|name| fs::remove_dir_all(run.root.path().join(name)).expect("it can be removed"));
    run.cluster.must_call("n1", &restore);
    run.cluster.until_keyspace("pairs");
    assert_eq!(run.assert_equal(), all);
}

#[test]
fn a_store_that_is_away_holds_up_writes_only_when_too_much_waits() {
    let run = Folders::begin(&json!({"engine": {"queue_max": "64KiB", "timeout": "500ms"}}));
    let mut nodes = run.nodes();
    nodes[0].expect(201, &put("pairs", "a", "1"));
    run.assert_equal();
    // The disks are not mounted.
    let away = |name: &str| run.root.path().join(format!("{name}-away"));
    for name in NODES {
        fs::rename(run.root.path().join(name), away(name)).expect("a folder can be moved");
    }
    let value = "v".repeat(1000);
    let mut written = Vec::new();
    let refused = loop {
        let key = format!("many/{}", written.len());
        let answer = nodes[written.len() % 3].send(&put("pairs", &key, &value)).expect("an answer");
        match answer.status {
            201 => written.push(key),
            503 => break answer,
            other => panic!("{other}: {}", answer.text()),
        }
        assert!(written.len() < 500, "nothing holds the writes up");
    };
    tell(format_args!("{} writes were taken", written.len()));
    let told: Value = refused.json();
    assert_eq!((told["code"].as_str(), told["outcome"].as_str()), (Some("store_busy"), Some("not_applied")), "{told}");
    let detail = told["detail"].as_str().expect("a detail");
    assert!(detail.contains("the store fs behind this node's replica") && detail.contains("last error"), "{detail}");
    assert!(written.len() >= 40, "64 KiB hold more than {}", written.len());
    for node in &mut nodes {
        // Reads, and other keyspaces, do not notice.
        assert_eq!(node.expect(200, &on("GET", "pairs", "many/0")).text(), value);
        node.expect(404, &on("GET", "pairs", &format!("many/{}", written.len())));
        undisturbed(node);
        let behind = &stats(node, "pairs")["behind"];
        assert!(behind["failed"].as_u64() > Some(0) && behind["error"].is_string(), "{behind}");
        assert!(behind["oldest_ms"].as_u64() > Some(0) && behind["waiting_keys"].as_u64() > Some(0), "{behind}");
        let metrics = node.expect(200, &Request::new("GET", "/metrics")).text();
        assert!(metrics.contains("quorate_behind_waiting_keys{keyspace=\"pairs\"} "), "{metrics}");
        let flush = Request::new("POST", "/v1/keyspaces/pairs/flush").with_query("timeout=300ms");
        assert_eq!(problem(node, 503, &flush).0, "store_busy");
    }
    for name in NODES {
        // Nothing was written to what is where the disk was.
        let there = run.root.path().join(name);
        if there.exists() {
            assert_eq!(files(&there), BTreeMap::new());
            fs::remove_dir_all(there).expect("it can be removed");
        }
        fs::rename(away(name), run.root.path().join(name)).expect("a folder can be moved");
    }
    until("writes go on", LIMIT, || match nodes[0].send(&put("pairs", "b", "1")) {
        Ok(answer) if answer.status == 201 || answer.status == 204 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let all = run.assert_equal();
    assert!(written.iter().all(|key| all[key] == value), "nothing that was taken is lost");
}

#[test]
fn a_leader_whose_store_is_behind_says_so_through_every_node() {
    let run = Folders::begin(&json!({"engine": {"queue_max": "64KiB", "timeout": "500ms"}}));
    let mut nodes = run.nodes();
    nodes[0].expect(201, &put("pairs", "a", "1"));
    run.assert_equal();
    let status: Value = nodes[0].expect(200, &Request::new("GET", "/v1/cluster")).json();
    let shard = status["shards"].as_array().expect("shards").iter().find(|shard| shard["keyspace"] == "pairs");
    let leader = shard.expect("that of the keyspace")["leader"].as_str().expect("a leader").to_owned();
    let away = run.root.path().join("away");
    fs::rename(run.root.path().join(&leader), &away).expect("a folder can be moved");
    let other = NODES.iter().position(|name| *name != leader).expect("another");
    let mut written = 0;
    let refused = loop {
        let answer = nodes[other].send(&put("pairs", &format!("many/{written}"), &"v".repeat(1000))).expect("an answer");
        match answer.status {
            201 if written < 500 => written += 1,
            _ => break answer,
        }
    };
    let told: Value = refused.json();
    assert_eq!((told["code"].as_str(), told["outcome"].as_str()), (Some("store_busy"), Some("not_applied")), "{told}");
    assert!(told["detail"].as_str().expect("a detail").contains("the leader's replica"), "{told}");
    let there = run.root.path().join(leader);
    if there.exists() {
        assert_eq!(files(&there), BTreeMap::new());
        fs::remove_dir_all(&there).expect("it can be removed");
    }
    fs::rename(away, there).expect("a folder can be moved");
    assert_eq!(run.assert_equal().len(), written + 1);
}

#[test]
fn keys_that_a_store_denies_hold_up_no_other() {
    let run = Folders::begin(&json!({"engine": {"queue_max": "64KiB"}}));
    let mut nodes = run.nodes();
    nodes[0].expect(201, &put("pairs", "a", "1"));
    run.assert_equal();
    // Nothing below it is allowed: it leads out of the folder.
    let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
    let link = run.folder("n1").join("linked");
    std::os::unix::fs::symlink(elsewhere.path(), &link).expect("a link can be made");
    let value = "v".repeat(1000);
    for key in 0..100 {
        nodes[key % 3].expect(201, &put("pairs", &format!("linked/{key}"), &value));
        nodes[key % 3].expect(201, &put("pairs", &format!("others/{key}"), "2"));
    }
    until("all others are there", LIMIT, || {
        let found = files(&run.folder("n1").join("others")).len();
        if found == 100 { Ok(()) } else { Err(format!("{found} of 100")) }
    });
    until("the others are known to fail alone", LIMIT, || {
        // Seen by what is taken meanwhile.
        nodes[0].send(&put("pairs", "a", "2")).expect("an answer");
        let behind = stats(&mut nodes[0], "pairs")["behind"].clone();
        if behind["refused_keys"] == 100 { Ok(()) } else { Err(behind.to_string()) }
    });
    let behind = &stats(&mut nodes[0], "pairs")["behind"];
    assert!(behind["error"].as_str().expect("an error").contains("symbolic links"), "{behind}");
    assert!(behind["waiting_bytes"].as_u64() < Some(2_000), "nobody waits for them: {behind}");
    let flush = Request::new("POST", "/v1/keyspaces/pairs/flush").with_query("timeout=300ms");
    assert_eq!(problem(&mut nodes[0], 503, &flush).0, "store_busy");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("a folder").count(), 0);
    fs::remove_file(link).expect("a link can be removed");
    // They are tried again, after a while that grows.
    assert_eq!(run.assert_equal().len(), 201);
}

/// A node's part is what its replica wrote, and the replica went with the disk.
#[test]
fn what_is_left_in_the_part_of_a_lost_disk_is_removed() {
    let mut run = Folders::begin(&json!({}));
    let mut nodes = run.nodes();
    for key in 0..30 {
        nodes[key % 3].expect(201, &put("pairs", &format!("dir-{key}/k"), "1"));
    }
    let before = run.assert_equal();
    run.cluster.node_mut("n2").kill();
    fs::remove_dir_all(&run.cluster.node("n2").data_dir).expect("the folder is there");
    run.cluster.must_call("n1", &["cluster", "remove", "n2"]);
    for key in 0..10 {
        nodes[0].expect(204, &on("DELETE", "pairs", &format!("dir-{key}/k")));
    }
    nodes[2].expect(204, &put("pairs", "dir-20/k", "2"));
    fs::write(run.folder("n2").join("stray"), "3").expect("a file can be written");
    let first = run.cluster.node("n1").client_address.clone();
    let arguments = [&["--join", &first], allowances(run.root.path()).as_slice()].concat();
    run.cluster.node_mut("n2").start_with(&arguments);
    run.cluster.until_ready();
    let mut node = run.cluster.connection("n2");
    until("it has its replica again", LIMIT, || match pairs(&mut node, "pairs") {
        own if own.len() == 20 => Ok(()),
        own => Err(format!("{own:?}")),
    });
    flush_with(&mut node, "pairs", "rewrite");
    let left = files(&run.folder("n2"));
    assert_eq!((left.len(), left["dir-20/k"].as_str(), left["stray"].as_str()), (31, "2", "3"), "nobody knows of the others");
    run.cluster.must_call("n2", &["keyspace", "flush", "pairs", "--rewrite", "--prune"]);
    let after = run.assert_equal();
    assert_eq!((before.len(), after.len()), (30, 20));
    flush_with(&mut run.cluster.connection("n1"), "pairs", "prune=true");
    assert_eq!(run.assert_equal(), after);

    // Nobody knows what is in a store that cannot be listed.
    let service = json!({"engine": {"type": "service", "url": "http://127.0.0.1:9/{node}/{key}", "timeout": "200ms"}});
    create(&run.cluster, "service", &service);
    let prune = Request::new("POST", "/v1/keyspaces/service/flush").with_query("prune");
    let (code, _, detail) = problem(&mut node, 422, &prune);
    assert!(code == "unsupported_capability" && detail.contains("lists"), "{detail}");
}

#[test]
fn replicas_move_to_a_store_and_away_from_it() {
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let cluster = cluster_with(root.path());
    create(&cluster, "pairs", &json!({"engine": {"type": "trie"}}));
    let mut run = Folders { cluster, root };
    let mut nodes = run.nodes();
    for key in 0..50 {
        nodes[key % 3].expect(201, &put("pairs", &format!("k{key}"), "1"));
    }
    let moves = |run: &Folders, engine: &Value, name: &str| {
        let patch = json!({ "engine": engine }).to_string();
        run.cluster.connection("n1").expect(200, &Request::json("PATCH", "/v1/keyspaces/pairs", patch));
        let mut node = run.cluster.connection("n1");
        until("all have moved", LIMIT, || {
            let jobs: Value = node.expect(200, &Request::new("GET", "/v1/jobs")).json();
            let job = &jobs["items"][0];
            if job["state"] == "done" && job["to"]["type"] == name { Ok(()) } else { Err(jobs.to_string()) }
        });
    };
    let folder = run.root.path().join("{node}/pairs");
    moves(&run, &json!({"type": "fs", "folder": folder, "key_encoding": "path", "envelope": "none", "local": "btree"}), "fs");
    nodes[0].expect(204, &put("pairs", "k0", "2"));
    let all = run.assert_equal();
    assert_eq!((all.len(), all["k0"].as_str()), (50, "2"));
    // One engine in the place of another, with the same store behind both, would write over what the other wrote.
    let elsewhere = run.root.path().join("{node}/elsewhere");
    for other in [json!({"folder": elsewhere}), json!({"envelope": "quorate"}), json!({"local": "lsm"})] {
        let patch = json!({"engine": other}).to_string();
        let (code, _, detail) = problem(&mut nodes[0], 422, &Request::json("PATCH", "/v1/keyspaces/pairs", patch));
        assert!(code == "unsupported_settings" && detail.contains("move it to lsm first"), "{detail}");
    }
    // How it is asked is another matter, and no move.
    let patch = json!({"engine": {"timeout": "3s", "queue_max": "1MiB"}}).to_string();
    let told: Value = nodes[0].expect(200, &Request::json("PATCH", "/v1/keyspaces/pairs", patch)).json();
    assert_eq!(told["engine"]["queue_max"], "1MiB", "{told}");
    let is_set = |node: &mut Connection| {
        until("the node asks it so", LIMIT, || match &stats(node, "pairs")["behind"] {
            behind if behind["max_waiting_bytes"] == 1 << 20 => Ok(()),
            behind => Err(behind.to_string()),
        });
    };
    nodes.iter_mut().for_each(is_set);
    let jobs: Value = nodes[0].expect(200, &Request::new("GET", "/v1/jobs")).json();
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(1), "{jobs}");
    run.cluster.node_mut("n3").kill();
    nodes[0].expect(204, &put("pairs", "k1", "2"));
    run.cluster.node_mut("n3").start_with(&allowances(run.root.path()));
    run.cluster.until_ready();
    nodes[2] = run.cluster.connection("n3");
    is_set(&mut nodes[2]);
    let all = run.assert_equal();
    assert_eq!(all["k1"].as_str(), "2");
    moves(&run, &json!({"type": "lsm"}), "lsm");
    nodes[0].expect(204, &put("pairs", "k0", "3"));
    assert!(stats(&mut nodes[0], "pairs")["behind"].is_null());
    assert_eq!(files(&run.folder("n1")), all, "what is there stays, as it was");
    let back = json!({"engine": {"type": "fs", "folder": folder, "envelope": "none"}}).to_string();
    let (code, _, detail) = problem(&mut nodes[0], 422, &Request::json("PATCH", "/v1/keyspaces/pairs", back));
    assert!(code == "unsupported_settings" && detail.contains("name a place that is empty"), "{detail}");
}

/// Stores on a network, under modes of every sort: seen through keyspaces that share what is a node's own part.
#[test]
fn stores_on_a_network_stand_behind_replicas_of_every_mode() {
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let cluster = cluster_with(root.path());
    let credentials = root.path().join("credentials.json");
    let mut stores: Vec<(Server, Value)> = Vec::new();
    if let Some(server) = moto() {
        let endpoint = format!("http://127.0.0.1:{}", server.port);
        fs::write(&credentials, r#"{"access_key_id": "x", "secret_access_key": "y"}"#).expect("a file can be written");
        let engine = json!({
            "type": "s3", "url": "s3://bucket/{node}/pairs", "endpoint": endpoint, "credentials": {"file": credentials},
        });
        stores.push((server, engine));
    }
    if let Some(server) = redis("open sesame") {
        let file = root.path().join("redis.json");
        fs::write(&file, r#"{"password": "open sesame"}"#).expect("a file can be written");
        let url = format!("redis://127.0.0.1:{}/0", server.port);
        stores.push((server, json!({"type": "redis", "url": url, "prefix": "{node}/", "credentials": {"file": file}})));
    }
    let modes = [
        json!({"mode": "raft"}),
        json!({"mode": "push"}),
        json!({"mode": "batch", "interval": "100ms"}),
        json!({"mode": "read-repair"}),
    ];
    for (number, (server, engine)) in stores.iter_mut().enumerate() {
        for (which, mode) in modes.iter().enumerate() {
            let keyspace = format!("k-{number}-{which}");
            // Each keyspace has a place of its own.
            let text = engine.to_string().replace("{node}", &format!("{keyspace}/{{node}}"));
            let engine: Value = serde_json::from_str(&text).expect("the same with another place");
            behind(&cluster, &keyspace, &engine, mode, server);
        }
    }
}

/// Links to stores that are cut, that hang, and that turn bits: the stores get everything once they are whole.
#[test]
fn bad_links_to_stores_behind_replicas_disturb_nobody_else() {
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let cluster = cluster_with(root.path());
    let through = |server: &Server| {
        let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Proxy::of_server(at(0), at(server.port)).expect("a proxy can be started")
    };
    if let Some(server) = moto() {
        let proxy = through(&server);
        let file = root.path().join("credentials.json");
        fs::write(&file, r#"{"access_key_id": "x", "secret_access_key": "y"}"#).expect("a file can be written");
        let endpoint = format!("http://{}", proxy.address());
        let engine = json!({
            "type": "s3", "url": "s3://bucket/{node}/links", "endpoint": endpoint, "credentials": {"file": file},
        });
        over_bad_links(&cluster, "links-s3", &engine, &proxy);
    }
    if let Some(server) = redis("open sesame") {
        let proxy = through(&server);
        let file = root.path().join("redis.json");
        fs::write(&file, r#"{"password": "open sesame"}"#).expect("a file can be written");
        let url = format!("redis://{}/0", proxy.address());
        let engine = json!({"type": "redis", "url": url, "prefix": "{node}/", "credentials": {"file": file}});
        over_bad_links(&cluster, "links-redis", &engine, &proxy);
    }
}

fn over_bad_links(cluster: &Cluster, keyspace: &str, engine: &Value, proxy: &Proxy) {
    let mut settings = json!({ "engine": engine });
    settings["engine"]["timeout"] = json!("500ms");
    settings["engine"]["queue_max"] = json!("64KiB");
    create(cluster, keyspace, &settings);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    let mut expected = BTreeMap::new();
    for (round, link) in [Link::Cut, Link::Held, Link::Slow(50), Link::Damaged(700)].into_iter().enumerate() {
        proxy.set(ANYBODY, link);
        // More than the queue takes. Some of it is refused when it is full.
        let mut refused = 0;
        for key in 0..30 {
            let (key, value) = (format!("{}/{key}", key % 2 * round), format!("{round} ").repeat(1500));
            let answer = nodes[expected.len() % 3].send(&put(keyspace, &key, &value)).expect("an answer");
            match answer.status {
                201 | 204 => drop(expected.insert(key, value)),
                503 => refused += 1,
                other => panic!("{other}: {}", answer.text()),
            }
            if refused == 2 {
                break;
            }
        }
        for node in &mut nodes {
            undisturbed(node);
            let behind = &stats(node, keyspace)["behind"];
            let waiting = behind["waiting_bytes"].as_u64().expect("a number");
            // An eighth more for rows that are read again, and the pair that goes beyond.
            assert!(waiting < (64 << 10) * 9 / 8 + 4_000, "more waits than may: {behind}");
        }
        tell(format_args!("{keyspace}, {link:?}: {} keys by now, {refused} refused", expected.len()));
        proxy.heal();
        for node in &mut nodes {
            flush(node, keyspace);
        }
    }
    // What came through damaged was another value, or another key.
    for (name, node) in NODES.into_iter().zip(&mut nodes) {
        flush_with(node, keyspace, "rewrite&prune");
        let seen = show_part(node, keyspace, (engine, name));
        let target = format!("/v1/keyspaces/{seen}");
        assert_eq!(pairs(node, &seen), expected, "the part of {name}");
        node.expect(204, &Request::new("DELETE", target));
    }
}

/// Has a node's part of a store seen as a keyspace of its own; its name.
fn show_part(node: &mut Connection, keyspace: &str, (engine, name): (&Value, &str)) -> String {
    let text = engine.to_string().replace("{node}", name);
    let mut shared: Value = serde_json::from_str(&text).expect("the same with a name in it");
    shared["path"] = json!("shared");
    let seen = format!("{keyspace}-{name}");
    node.expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{seen}"), json!({ "engine": shared }).to_string()));
    seen
}

fn behind(cluster: &Cluster, keyspace: &str, engine: &Value, mode: &Value, server: &mut Server) {
    tell(format_args!("--- {mode} {engine}"));
    let mut settings = json!({ "engine": engine, "replication": mode });
    settings["engine"]["timeout"] = json!("1s");
    create(cluster, keyspace, &settings);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    let patch = json!({"engine": {"queue_max": "1MiB"}}).to_string();
    nodes[0].expect(200, &Request::json("PATCH", &format!("/v1/keyspaces/{keyspace}"), patch));
    for node in &mut nodes {
        until("the node keeps to it", LIMIT, || match &stats(node, keyspace)["behind"] {
            behind if behind["max_waiting_bytes"] == 1 << 20 => Ok(()),
            behind => Err(behind.to_string()),
        });
    }
    let is_done = |status: u16| [200, 201, 204].contains(&status);
    let write = |node: &mut Connection, request: &Request| {
        let answer = node.send(request).expect("an answer");
        assert!(is_done(answer.status), "{}: {}", answer.status, answer.text());
    };
    for key in 0..12 {
        write(&mut nodes[key % 3], &put(keyspace, &format!("dir/{key}"), &format!("v{key}")));
    }
    // The store goes, and comes back.
    server.kill();
    write(&mut nodes[0], &put(keyspace, "dir/1", "later"));
    write(&mut nodes[0], &on("DELETE", keyspace, "dir/0"));
    assert_eq!(nodes[0].expect(200, &on("GET", keyspace, "dir/1")).text(), "later");
    server.begin();
    let mut expected: BTreeMap<String, String> = (1..12).map(|key| (format!("dir/{key}"), format!("v{key}"))).collect();
    expected.insert("dir/1".to_owned(), "later".to_owned());
    for (name, node) in NODES.into_iter().zip(&mut nodes) {
        until("every replica has it", LIMIT, || {
            if mode["mode"] == "read-repair" {
                // Nobody sends what nobody asks for.
                node.expect(200, &Request::new("POST", format!("/v1/keyspaces/{keyspace}/sync")));
            }
            let own = pairs(node, keyspace);
            if own == expected { Ok(()) } else { Err(format!("{own:?}")) }
        });
        // A store that was killed has lost what it had, and is told again.
        flush_with(node, keyspace, "rewrite");
        let seen = show_part(node, keyspace, (engine, name));
        let target = format!("/v1/keyspaces/{seen}");
        assert_eq!(pairs(node, &seen), expected, "the part of {name}");
        // What others write there is left alone, unless that is asked for.
        node.send(&put(&seen, "stray", "1")).expect("an answer");
        flush(node, keyspace);
        assert!(pairs(node, &seen).contains_key("stray"));
        flush_with(node, keyspace, "prune");
        assert_eq!(pairs(node, &seen), expected, "the part of {name}");
        node.expect(204, &Request::new("DELETE", target));
    }
    nodes[0].expect(204, &Request::new("DELETE", format!("/v1/keyspaces/{keyspace}")));
}
