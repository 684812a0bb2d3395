//! Pairs and leases that end while nodes are killed: none too early, all in the end, and alike everywhere.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Request, now, pause, since, tell, until};

const TTL: Duration = Duration::from_secs(4);

/// From the end of a time until it is gone, with an election in between that takes its time.
const GONE_WITHIN: Duration = Duration::from_secs(30);

const LEASES: &str = "/v1/leases/default";

/// A batch of pairs that live for four seconds, with a lease that does and that holds as many.
fn put_all(node: &mut Connection, id: &str, count: usize) {
    node.expect(201, &Request::json("POST", LEASES, json!({"ttl": "4s", "id": id}).to_string()));
    let ops: Vec<Value> = (0..count)
        .flat_map(|number| {
            let timed = json!({"op": "put", "key": format!("timed/{id}/{number:04}"), "value": "v", "ttl": "4s"});
            let leased = json!({"op": "put", "key": format!("leased/{id}/{number:04}"), "value": "v", "lease": id});
            [timed, leased]
        })
        .collect();
    let done: Value = node.expect(200, &Request::json("POST", "/v1/batch/default", json!({"ops": ops}).to_string())).json();
    assert_eq!(done["failed"], json!(0));
}

fn count(node: &mut Connection, prefix: &str) -> u64 {
    let request = Request::new("GET", format!("/v1/kv/default?count_only&prefix={prefix}"));
    let counted: Value = node.expect(200, &request).json();
    counted["count"].as_u64().expect("a count")
}

#[test]
fn what_is_over_goes_though_nodes_are_killed_meanwhile() {
    let mut cluster = Cluster::ready(3);
    for round in 1..=3_u64 {
        let id = format!("{round:x}");
        let begin = now();
        put_all(&mut cluster.connection("n1"), &id, 1500);
        // Pairs go in steps from here on; the leader dies in the middle of it.
        pause((TTL.as_millis() as u64 + 100 * round).saturating_sub(since(begin).as_millis() as u64));
        let leader = cluster.leader();
        cluster.node_mut(&leader).kill();
        let other = cluster.other_than(&[&leader]);
        let mut node = cluster.connection(&other);
        until("all pairs and the lease's are gone", GONE_WITHIN, || {
            match [count(&mut node, &format!("timed/{id}/")), count(&mut node, &format!("leased/{id}/"))] {
                [0, 0] => Ok(()),
                // All keys of a lease go at once.
                [_, leased @ (0 | 1500)] => Err(format!("{leased} of the lease are left")),
                left => panic!("{left:?} are left: a lease went in parts"),
            }
        });
        tell(format_args!("round {round}: all gone {:?} after they were put, leader {leader} killed on the way", since(begin)));
        node.expect(404, &Request::new("GET", format!("{LEASES}/{id}")));
        cluster.restart(&leader);
        cluster.until_ready();
    }
    cluster.assert_same_everywhere();
}

#[test]
fn nothing_goes_early_though_all_nodes_are_killed() {
    let mut cluster = Cluster::ready(3);
    let mut node = cluster.connection("n2");
    node.expect(201, &Request::json("POST", LEASES, json!({"ttl": "10s", "id": "a"}).to_string()));
    node.expect(201, &Request::new("PUT", "/v1/kv/default/leased?lease=a").with_body("v"));
    node.expect(201, &Request::new("PUT", "/v1/kv/default/timed?ttl=10s").with_body("v"));
    pause(5000);
    for name in cluster.running() {
        cluster.node_mut(&name).begin_kill();
    }
    for name in ["n1", "n2", "n3"] {
        cluster.node_mut(name).end_kill();
        cluster.restart(name);
    }
    cluster.until_ready();
    let kept = now();
    let mut node = cluster.connection("n3");
    node.expect(200, &Request::new("POST", format!("{LEASES}/a/keepalive")));
    let still = |node: &mut Connection| count(node, "leased") == 1;
    while since(kept) < Duration::from_secs(8) {
        assert!(still(&mut node), "the lease ended {:?} after it was kept alive", since(kept));
        pause(500);
    }
    until("both go in the end", GONE_WITHIN, || match count(&mut node, "") {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
    cluster.assert_same_everywhere();
}
