//! Keyspaces on a cluster of real processes: made, changed and deleted through one node, used through the others at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Request, now, since, tell, until};

/// How long what one node did may take until it holds on the others.
const SPREAD_LIMIT: Duration = Duration::from_secs(10);

/// How long a cluster may take until every keyspace is served again.
const BACK_LIMIT: Duration = Duration::from_secs(30);

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Engines that replicas under raft can have, by their own list.
fn engines(connection: &mut Connection) -> Vec<String> {
    let engines: Value = connection.expect(200, &Request::new("GET", "/v1/engines")).json();
    // Stores outside need to be told where they are.
    let is_for_raft = |engine: &&Value| {
        engine["outside"].is_null() && engine["replication"].as_array().expect("modes").contains(&json!("raft"))
    };
    let items = engines["items"].as_array().expect("engines");
    items.iter().filter(is_for_raft).map(|engine| engine["type"].as_str().expect("a type").to_owned()).collect()
}

fn create(name: &str, settings: &Value) -> Request {
    Request::json("PUT", &format!("/v1/keyspaces/{name}"), settings.to_string())
}

fn on_pair(method: &'static str, keyspace: &str, key: &str) -> Request {
    Request::new(method, format!("/v1/kv/{keyspace}/{key}"))
}

fn put(keyspace: &str, key: &str, value: &str) -> Request {
    Request::json("PUT", &format!("/v1/kv/{keyspace}/{key}"), value)
}

fn code(body: &Value) -> &str {
    body["code"].as_str().unwrap_or_default()
}

#[test]
fn what_is_made_through_one_node_is_used_through_the_others_at_once() {
    let mut cluster = Cluster::ready(3);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    let engines = engines(&mut nodes[0]);
    assert!(engines.len() >= 3, "{engines:?}");
    for (position, engine) in engines.iter().cycle().take(2 * engines.len()).enumerate() {
        let name = format!("ks-{position}");
        let settings = json!({"engine": {"type": engine}});
        let [maker, writer, reader] = [position % 3, (position + 1) % 3, (position + 2) % 3];
        nodes[writer].expect(404, &on_pair("GET", &name, "k"));
        let start = now();
        let made: Value = nodes[maker].expect(201, &create(&name, &settings)).json();
        tell(format_args!("{name} on {engine} made after {:?}", since(start)));
        assert_eq!((&made["engine"]["type"], &made["state"]), (&json!(engine), &json!("ready")));
        nodes[writer].expect(201, &put(&name, "k", engine));
        assert_eq!(nodes[reader].expect(200, &on_pair("GET", &name, "k")).text(), *engine);
        nodes[reader].expect(200, &create(&name, &settings));
        let other = json!({"engine": {"type": engine}, "limits": {"max_bytes": 77}});
        assert_eq!(code(&nodes[writer].expect(409, &create(&name, &other)).json()), "conflict");
        assert_eq!(nodes[reader].expect(404, &on_pair("GET", "default", "k")).status, 404, "keyspaces share no keys");
    }
    let lists = nodes.each_mut().map(names);
    assert_eq!(lists[0].len(), 2 + 2 * engines.len());
    assert!(lists.iter().all(|list| *list == lists[0]), "{lists:?}");

    NODES.iter().for_each(|name| cluster.node_mut(name).kill());
    NODES.iter().for_each(|name| cluster.restart(name));
    cluster.until_ready();
    let mut nodes = NODES.map(|name| cluster.connection(name));
    for (position, engine) in engines.iter().cycle().take(2 * engines.len()).enumerate() {
        let read = on_pair("GET", &format!("ks-{position}"), "k");
        let found = until(&format!("{engine} comes back"), BACK_LIMIT, || match nodes[position % 3].send(&read) {
            Ok(answer) if answer.status == 200 => Ok(answer.text()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(found, *engine);
    }
    assert_eq!(names(&mut nodes[2]), lists[0]);
}

fn names(node: &mut Connection) -> Vec<String> {
    let list: Value = node.expect(200, &Request::new("GET", "/v1/keyspaces")).json();
    list["items"].as_array().expect("keyspaces").iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_full_keyspace_refuses_until_its_limit_is_raised() {
    let cluster = Cluster::ready(3);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    nodes[0].expect(201, &create("small", &json!({"limits": {"max_bytes": "16KiB", "max_value_bytes": "2KiB"}})));
    let value = "v".repeat(1024);
    let refused = (0..).find_map(|number| {
        assert!(number < 20, "16 KiB hold no 20 KiB");
        let answer = nodes[1].send(&put("small", &format!("k{number}"), &value)).expect("an answer");
        (answer.status != 201).then_some(answer)
    });
    let refused = refused.expect("it is full at some time");
    let problem: Value = refused.json();
    assert_eq!((refused.status, code(&problem), &problem["outcome"]), (507, "keyspace_full", &json!("not_applied")));
    assert_eq!(nodes[2].expect(200, &on_pair("GET", "small", "k0")).text(), value, "reads go on");
    nodes[2].expect(204, &on_pair("DELETE", "small", "k0"));
    nodes[0].expect(201, &put("small", "k0", &value));
    nodes[0].expect(507, &put("small", "more", &value));

    cluster.must_call("n2", &["keyspace", "alter", "small", "--max-bytes", "1MiB"]);
    let shown: Value = nodes[2].expect(200, &Request::new("GET", "/v1/keyspaces/small")).json();
    assert_eq!(shown["limits"], json!({"max_bytes": 1 << 20, "max_value_bytes": 2048}));
    until("there is room", SPREAD_LIMIT, || match nodes[2].send(&put("small", "more", &value)) {
        Ok(answer) if answer.status == 201 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let large: Value = nodes[0].expect(413, &put("small", "large", &"v".repeat(4096))).json();
    assert_eq!(code(&large), "value_too_large");

    // A node knows how much there is as of its last look.
    let smaller = json!({"engine": {"type": "hash"}, "limits": {"max_bytes": "4KiB"}});
    let move_into = |settings: &Value| Request::json("PATCH", "/v1/keyspaces/small", settings.to_string());
    until("a move to where it would be full is refused", SPREAD_LIMIT, || {
        let answer = nodes[1].send(&move_into(&smaller)).map_err(|error| format!("{error:?}"))?;
        let is_refused = answer.status == 422 && answer.text().contains("limits.max_bytes");
        if is_refused { Ok(()) } else { Err(answer.text()) }
    });
    let shown: Value = nodes[2].expect(200, &Request::new("GET", "/v1/keyspaces/small")).json();
    assert_eq!((&shown["engine"]["type"], &shown["limits"]["max_bytes"]), (&json!("lsm"), &json!(1 << 20)));
}

#[test]
fn a_deleted_keyspace_takes_its_pairs_and_tags_along() {
    let cluster = Cluster::ready(3);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    for round in 0..3 {
        let [first, second, third] = [round % 3, (round + 1) % 3, (round + 2) % 3];
        let epoch = |body: &Value| body["epoch"].as_u64().expect("an epoch");
        let old: Value = nodes[first].expect(201, &create("app", &json!({}))).json();
        let tag = nodes[second].expect(201, &put("app", "k", "old")).header("etag").expect("a tag").to_owned();

        cluster.must_call(NODES[second], &["keyspace", "delete", "app", "--yes"]);
        let gone: Value = nodes[second].expect(404, &on_pair("GET", "app", "k")).json();
        assert_eq!(code(&gone), "keyspace_not_found");
        assert_eq!(code(&nodes[second].expect(404, &Request::new("DELETE", "/v1/keyspaces/app")).json()), "keyspace_not_found");

        let new: Value = nodes[third].expect(201, &create("app", &json!({}))).json();
        assert!(epoch(&new) > epoch(&old), "{old} {new}");
        for node in &mut nodes {
            let missing: Value = node.expect(404, &on_pair("GET", "app", "k")).json();
            assert_eq!(code(&missing), "key_not_found", "the name is there, and nothing of before");
        }
        // At the same revision, with the old one's tag.
        let again = nodes[first].expect(201, &put("app", "k", "new"));
        assert_ne!(again.header("etag"), Some(tag.as_str()));
        for node in &mut nodes {
            node.expect(412, &put("app", "k", "late").with_header("if-match", tag.as_str()));
            node.expect(412, &on_pair("DELETE", "app", "k").with_header("if-match", tag.as_str()));
            assert_eq!(node.expect(200, &on_pair("GET", "app", "k").with_header("if-none-match", tag.as_str())).text(), "new");
        }
        cluster.must_call(NODES[first], &["keyspace", "delete", "app", "--yes"]);
    }
    for name in ["default", "_system"] {
        nodes[0].expect(409, &Request::new("DELETE", format!("/v1/keyspaces/{name}")));
    }
}

#[test]
fn a_keyspace_moves_from_engine_to_engine() {
    let cluster = Cluster::ready(3);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    let engines = engines(&mut nodes[0]);
    nodes[0].expect(201, &create("orders", &json!({"engine": {"type": engines[0]}})));
    (0..100).for_each(|number| drop(nodes[1].expect(201, &put("orders", &format!("k{number}"), "v"))));
    for (position, engine) in engines.iter().cycle().skip(1).take(engines.len()).enumerate() {
        let start = now();
        let told = cluster.must_call(NODES[position % 3], &["keyspace", "alter", "orders", "--engine", engine]);
        tell(format_args!("{} after {:?}", String::from_utf8_lossy(&told).trim_end(), since(start)));
        for node in &mut nodes {
            let shown: Value = node.expect(200, &Request::new("GET", "/v1/keyspaces/orders")).json();
            assert_eq!((&shown["engine"]["type"], &shown["move"]), (&json!(engine), &Value::Null));
            let list: Value = node.expect(200, &Request::new("GET", "/v1/kv/orders?limit=1000")).json();
            assert_eq!(list["items"].as_array().map(Vec::len), Some(100 + position), "on {engine}");
            until("its replica has arrived", SPREAD_LIMIT, || {
                let stats: Value = node.expect(200, &Request::new("GET", "/v1/keyspaces/orders/stats")).json();
                if stats["engine"] == json!(engine) { Ok(()) } else { Err(stats.to_string()) }
            });
        }
        nodes[2].expect(201, &put("orders", &format!("after-{position}"), "v"));
        let jobs: Value = nodes[1].expect(200, &Request::new("GET", "/v1/jobs")).json();
        let job = &jobs["items"][0];
        assert_eq!((&job["keyspace"], &job["state"], &job["progress"]), (&json!("orders"), &json!("done"), &json!(1.0)));
        assert_eq!(job["id"].as_u64(), Some(position as u64 + 1));
    }
}

#[test]
fn a_keyspace_without_replication_is_each_nodes_own() {
    let cluster = Cluster::ready(3);
    let mut nodes = NODES.map(|name| cluster.connection(name));
    nodes[0].expect(201, &create("local", &json!({"replication": {"mode": "none"}})));
    for (node, value) in nodes.iter_mut().zip(NODES) {
        node.expect(201, &put("local", "k", value));
    }
    for (node, value) in nodes.iter_mut().zip(NODES) {
        let read = node.expect(200, &on_pair("GET", "local", "k"));
        assert_eq!((read.text().as_str(), read.header("quorate-consistency")), (value, Some("local")));
        let linearizable = on_pair("GET", "local", "k").with_query("consistency=linearizable");
        assert_eq!(code(&node.expect(422, &linearizable).json()), "unsupported_capability");
    }
    cluster.must_call("n3", &["keyspace", "delete", "local", "--yes"]);
    for node in &mut nodes {
        until("it is gone", SPREAD_LIMIT, || match node.send(&on_pair("GET", "local", "k")) {
            Ok(answer) if answer.status == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}
