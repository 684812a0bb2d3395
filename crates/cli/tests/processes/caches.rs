//! Caches on a cluster of real processes: made through one node, each node's own afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Request, until};

/// How long a node may take until it hears of a keyspace, or frees what is up.
const LIMIT: Duration = Duration::from_secs(20);

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn on_pair(method: &'static str, key: &str) -> Request {
    Request::new(method, format!("/v1/kv/sessions/{key}"))
}

fn stats(node: &mut Connection) -> Value {
    node.expect(200, &Request::new("GET", "/v1/keyspaces/sessions/stats")).json()
}

#[test]
fn every_node_has_a_cache_of_its_own() {
    let mut cluster = Cluster::ready(3);
    let made = ["keyspace", "create", "sessions", "--engine", "cache", "--option", "max_bytes=64MiB", "--mode", "none"];
    cluster.must_call("n1", &[&made[..], &["--ttl", "30m"]].concat());
    let mut nodes = NODES.map(|name| cluster.connection(name));
    let settings = json!({"engine": {"type": "cache", "max_bytes": "64MiB"}, "replication": {"mode": "none"}, "ttl": "30m"});
    nodes[1].expect(200, &Request::json("PUT", "/v1/keyspaces/sessions", settings.to_string()));

    for (node, name) in nodes.iter_mut().zip(NODES) {
        node.expect(404, &on_pair("GET", "user/1"));
        node.expect(201, &on_pair("PUT", "user/1").with_body(name));
        let found = node.expect(200, &on_pair("GET", "user/1"));
        assert_eq!(found.text(), name, "a cache is one node's own");
        let left: f64 = found.header("quorate-ttl").expect("a time to live").parse().expect("seconds");
        assert!((1_700.0..=1_800.0).contains(&left), "{left} s");
        let cache = stats(node)["cache"].clone();
        assert_eq!((&cache["hits"], &cache["misses"], &cache["hit_ratio"]), (&json!(1), &json!(1), &json!(0.5)));
        let metrics = node.expect(200, &Request::new("GET", "/metrics")).text();
        assert!(metrics.contains("quorate_cache_hits_total{keyspace=\"sessions\"} 1\n"), "{metrics}");
        assert!(metrics.contains("quorate_cache_gone_total{keyspace=\"sessions\",cause=\"size\"} 0\n"), "{metrics}");
        node.expect(200, &Request::new("GET", "/readyz"));
    }

    // Freed by the node's own clock, while nobody asks for it.
    nodes[0].expect(201, &on_pair("PUT", "user/2").with_query("ttl=50ms").with_body("v"));
    until("a pair whose time is up is freed", LIMIT, || {
        let stats = stats(&mut nodes[0]);
        if (&stats["cache"]["gone"]["expired"], &stats["keys"]) == (&json!(1), &json!(1)) {
            Ok(())
        } else {
            Err(stats.to_string())
        }
    });
    nodes[0].expect(404, &on_pair("GET", "user/2"));

    // One, those that begin alike, all.
    for key in ["user/2", "user/3", "team/1", "team/2"] {
        nodes[0].expect(201, &on_pair("PUT", key).with_body("v"));
    }
    nodes[0].expect(204, &on_pair("DELETE", "user/1"));
    let deleted = |node: &mut Connection, query: &str| {
        let answer: Value = node.expect(200, &Request::new("DELETE", "/v1/kv/sessions").with_query(query)).json();
        answer["deleted"].clone()
    };
    assert_eq!(deleted(&mut nodes[0], "prefix=user/"), json!(2));
    assert_eq!(deleted(&mut nodes[0], "all=true"), json!(2));
    assert_eq!(stats(&mut nodes[0])["cache"]["gone"]["explicit"], json!(5));
    assert_eq!(nodes[1].expect(200, &on_pair("GET", "user/1")).text(), "n2", "others keep theirs");

    // Other bounds, at all nodes, while they serve; and once more after a start.
    (0..40).for_each(|number| drop(nodes[0].expect(201, &on_pair("PUT", &format!("many/{number}")).with_body("v"))));
    let altered =
        cluster.must_call("n2", &["keyspace", "alter", "sessions", "--option", "max_entries=10", "--option", "max_bytes=1MiB"]);
    assert_eq!(String::from_utf8_lossy(&altered), "keyspace sessions altered\n");
    for (node, pairs) in nodes.iter_mut().zip([10, 1, 1]) {
        until("each keeps to it", LIMIT, || {
            let stats = stats(node);
            let room = (&stats["cache"]["max_bytes"], &stats["keys"]);
            if room == (&json!(1 << 20), &json!(pairs)) { Ok(()) } else { Err(stats.to_string()) }
        });
    }
    assert_eq!(nodes[1].expect(200, &on_pair("GET", "user/1")).text(), "n2", "what there is room for stays");

    cluster.node_mut("n2").kill();
    cluster.restart("n2");
    cluster.until_ready();
    let mut node = cluster.connection("n2");
    until("the cache is there again, empty", LIMIT, || match node.send(&on_pair("GET", "user/1")) {
        Ok(answer) if answer.status == 404 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    (0..20).for_each(|number| drop(node.expect(201, &on_pair("PUT", &format!("many/{number}")).with_body("v"))));
    assert_eq!(stats(&mut node)["keys"], json!(10));
}
