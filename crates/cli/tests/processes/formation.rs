//! From empty folders to a cluster that answers the same from every node.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_api::cluster::ClusterStatus;
use serde_json::{Value, json};

use crate::support::{Cluster, Request, now, pause, since, tell};

/// The first to start joins a node that joins another one that is not there yet.
#[test]
fn nodes_start_in_any_order() {
    let mut cluster = Cluster::empty();
    for name in ["n1", "n2", "n3"] {
        cluster.add(name);
    }
    let [first, second] = ["n1", "n2"].map(|name| cluster.node(name).client_address.clone());
    let nobody = "127.0.0.1:1";
    cluster.node_mut("n3").start(&[nobody, &second]);
    cluster.node_mut("n2").start(&[nobody, &first]);
    pause(700);
    for name in ["n2", "n3"] {
        assert_waits(&mut cluster, name);
    }
    let start = now();
    cluster.node_mut("n1").start(&[]);
    cluster.until_ready();
    tell(format_args!("three nodes ready {:?} after the first of the cluster started", since(start)));
    assert_one_cluster(&cluster);
    assert_any_node_takes_any_request(&cluster);
    assert_compat_routes(&cluster);
    assert_program(&cluster);
    cluster.assert_same_everywhere();
}

/// `--join` is for empty folders: a node that has data needs nobody to tell it where it belongs.
#[test]
fn a_used_folder_goes_on_where_it_was() {
    let mut cluster = Cluster::ready(3);
    let before = cluster.status("n1");
    cluster.connection("n2").expect(201, &Request::put(b"kept", "value"));
    cluster.node_mut("n2").kill();
    cluster.node_mut("n2").start(&["127.0.0.1:1"]);
    cluster.until_ready();
    assert_eq!(cluster.connection("n2").expect(200, &Request::get(b"kept")).body, b"value");
    let after = cluster.status("n2");
    assert_eq!((after.id, after.nodes.len()), (before.id, 3));
}

/// kill -9 at many moments of the first start: the next one goes on from there, and nobody joins twice.
#[test]
fn first_starts_are_cut_short() {
    let mut cluster = Cluster::empty();
    cluster.add("n1");
    cluster.add("n2");
    let first = cluster.node("n1").client_address.clone();
    for (name, join) in [("n1", [].as_slice()), ("n2", &[first.as_str()])] {
        let node = cluster.node_mut(name);
        for millis in (0..160).step_by(10) {
            node.start(join);
            pause(millis);
            assert_eq!(node.unexpected_end(), None, "{name} after {millis} ms: {}", node.log_tail());
            node.kill();
        }
        node.start(join);
        cluster.until_ready();
    }
    cluster.until_status("n2", "two voters", |status| {
        status.nodes.len() == 2 && status.shards.iter().all(|shard| shard.voters == ["n1", "n2"] && shard.learners.is_empty())
    });
    cluster.connection("n2").expect(201, &Request::put(b"k", "v"));
    assert_eq!(cluster.connection("n1").expect(200, &Request::get(b"k")).body, b"v");
}

/// Alive, not ready, and honest about it.
#[track_caller]
fn assert_waits(cluster: &mut Cluster, name: &str) {
    assert_eq!(cluster.node_mut(name).unexpected_end(), None, "{name} waits for those it shall join");
    let mut connection = cluster.connection(name);
    connection.expect(200, &Request::new("GET", "/livez"));
    let readiness = connection.expect(503, &Request::new("GET", "/readyz")).text();
    assert!(readiness.contains("[-]joined"), "{readiness}");
    let refused = connection.expect(503, &Request::put(b"early", "x").with_query("timeout=100ms"));
    assert_eq!(refused.json::<Value>()["outcome"], "not_applied");
}

#[track_caller]
fn assert_one_cluster(cluster: &Cluster) {
    let all: BTreeSet<String> = ["n1", "n2", "n3"].map(str::to_owned).into();
    for name in &all {
        cluster.until_status(name, "three voters, connected, one leader", |status| {
            let has_all = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>() == all;
            let shards = status.shards.iter();
            status.nodes.len() == 3
                && status.nodes.iter().all(|node| node.role == "voter" && node.is_connected)
                && shards.clone().count() == 2
                && shards.clone().all(|shard| has_all(&shard.voters) && shard.learners.is_empty() && shard.leader.is_some())
        });
    }
    let statuses: Vec<ClusterStatus> = all.iter().map(|name| cluster.status(name)).collect();
    for (name, status) in all.iter().zip(&statuses) {
        assert_eq!((&status.served_by, &status.id, &status.leader), (name, &statuses[0].id, &statuses[0].leader));
        for node in &status.nodes {
            assert_eq!((&node.client_address, &node.peer_address), {
                let started = cluster.node(&node.name);
                (&started.client_address, &started.peer_address)
            });
        }
    }
}

#[track_caller]
fn assert_any_node_takes_any_request(cluster: &Cluster) {
    let names = cluster.running();
    let keys: [&[u8]; 6] = [b"plain", b"/", b"a//b/../c/.", b"\0\xff\xfe", b" +%25?#", &[b'k'; 4096]];
    let every_byte: Vec<u8> = (0..=255).collect();
    let values: [&[u8]; 3] = [b"", b"text", &every_byte];
    for (number, key) in keys.iter().enumerate() {
        let value = values[number % values.len()];
        let writer = &names[number % names.len()];
        let put = Request::put(key, value).with_header("content-type", "text/plain");
        let written = cluster.connection(writer).expect(201, &put);
        for reader in &names {
            let read = cluster.connection(reader).expect(200, &Request::get(key));
            assert_eq!(read.body, value, "{key:?} put at {writer}, read at {reader}");
            assert_eq!((read.header("etag"), read.header("content-type")), (written.header("etag"), Some("text/plain")));
            assert_eq!(read.header("quorate-node"), Some(reader.as_str()));
        }
        let stale = Request::put(key, "x").with_header("if-none-match", "*");
        cluster.connection(&names[(number + 1) % names.len()]).expect(412, &stale);
        let deleter = &names[(number + 2) % names.len()];
        cluster.connection(deleter).expect(204, &Request::on_key("DELETE", key));
        for reader in &names {
            cluster.connection(reader).expect(404, &Request::get(key));
        }
    }
    let limit = Request::put(b"large", vec![7; 3 << 19]);
    cluster.connection(&names[1]).expect(201, &limit);
    assert_eq!(cluster.connection(&names[2]).expect(200, &Request::get(b"large")).body, vec![7; 3 << 19]);
    cluster.connection(&names[0]).expect(413, &Request::put(b"large", vec![8; (3 << 19) + 1]));
}

#[track_caller]
fn assert_compat_routes(cluster: &Cluster) {
    let message = |text: &str| json!({ "message": text });
    let [mut one, mut two, mut three] = ["n1", "n2", "n3"].map(|name| cluster.connection(name));
    let post = |body: &str| Request::json("POST", "/key", body);
    assert_eq!(one.expect(200, &post(r#"{"colour": "green"}"#)).json::<Value>(), json!({"colour": "green"}));
    assert_eq!(two.expect(200, &Request::new("GET", "/key/colour")).json::<Value>(), json!({"colour": "green"}));
    assert_eq!(three.expect(409, &post(r#"{"colour": "red"}"#)).json::<Value>(), message("key colour already exists"));
    assert_eq!(two.expect(400, &post("")).json::<Value>(), message("empty request body"));
    assert_eq!(three.expect(200, &Request::new("GET", "/v1/kv/default/colour")).text(), "green");
    assert_eq!(two.expect(200, &Request::new("DELETE", "/key/colour")).json::<Value>(), message("key deleted successfully"));
    assert_eq!(one.expect(404, &Request::new("GET", "/key/colour")).json::<Value>(), message("key colour not found"));
    assert_eq!(three.expect(404, &Request::new("DELETE", "/key/colour")).json::<Value>(), message("key colour not found"));
    for (name, mut connection) in [("n1", one), ("n2", two), ("n3", three)] {
        assert_eq!(connection.expect(200, &Request::new("GET", "/health")).json::<Value>(), json!({"status": "ok"}));
        let status: Value = connection.expect(200, &Request::new("GET", "/status")).json();
        let address = |name: &str| cluster.node(name).client_address.clone();
        assert_eq!(status["me"], json!({"id": name, "address": address(name)}));
        let leader = cluster.leader();
        assert_eq!(status["leader"], json!({"id": leader, "address": address(&leader)}));
        let mut followers: Vec<String> = ["n1", "n2", "n3"].map(str::to_owned).into();
        followers.retain(|name| *name != leader);
        let expected: Vec<Value> = followers.iter().map(|name| json!({"id": name, "address": address(name)})).collect();
        assert_eq!(status["followers"], json!(expected));
    }
}

/// The program itself, as a client of any node.
#[track_caller]
fn assert_program(cluster: &Cluster) {
    cluster.must_call("n1", &["put", "greeting", "hello"]);
    assert_eq!(cluster.must_call("n2", &["get", "greeting"]), b"hello");
    assert_eq!(cluster.call("n3", &["put", "greeting", "hi", "--if-absent"]).status.code(), Some(4));
    cluster.must_call("n3", &["del", "greeting"]);
    assert_eq!(cluster.call("n1", &["get", "greeting"]).status.code(), Some(3));
    let status: ClusterStatus =
        serde_json::from_slice(&cluster.must_call("n2", &["cluster", "status", "-o", "json"])).expect("JSON");
    assert_eq!(status.served_by, "n2");
    let target = cluster.other_than(&[&cluster.leader()]);
    cluster.must_call("n1", &["cluster", "transfer-leader", &target]);
    cluster.until_status(&target, "leads", |status| status.leader.as_deref() == Some(&target));
    cluster.until_serving("n3", Duration::from_secs(5));
}
