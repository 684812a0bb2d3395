//! kill -9, at any node and at all at once, under load.

use std::time::Duration;

use crate::support::{Cluster, Load, now, pause, since, tell};

/// What is promised is 3 s; the rest is for machines that do something else too.
const BACK_WITHIN: Duration = Duration::from_secs(6);

/// From the start of all nodes: reading the log, electing a leader.
const BACK_AFTER_ALL_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn leaders_and_followers_die_under_load() {
    let mut cluster = Cluster::ready(3);
    let load = Load::start(&cluster);
    for round in 1..=3 {
        let leader = cluster.leader();
        cluster.node_mut(&leader).kill();
        let back = load.until_acknowledged_after(now(), BACK_WITHIN);
        tell(format_args!("round {round}: leader {leader} killed, service back after {back:?}"));
        pause(300);
        cluster.restart(&leader);
        cluster.until_ready();

        let follower = cluster.other_than(&[&cluster.leader()]);
        cluster.node_mut(&follower).kill();
        let back = load.until_acknowledged_after(now(), BACK_WITHIN);
        tell(format_args!("round {round}: follower {follower} killed, next write acknowledged after {back:?}"));
        pause(300);
        cluster.restart(&follower);
        cluster.until_ready();
    }
    load.finish(&cluster);
}

#[test]
fn all_nodes_die_at_once_under_load() {
    let mut cluster = Cluster::ready(3);
    let load = Load::start(&cluster);
    for round in 1..=3 {
        pause(500);
        let names = cluster.running();
        for name in &names {
            cluster.node_mut(name).begin_kill();
        }
        for name in &names {
            cluster.node_mut(name).end_kill();
        }
        let start = now();
        for name in &names {
            cluster.restart(name);
        }
        let back = load.until_acknowledged_after(start, BACK_AFTER_ALL_WITHIN);
        tell(format_args!("round {round}: all nodes killed, service back {back:?} after they were started again"));
    }
    cluster.until_ready();
    load.finish(&cluster);
}

/// Without a quorum nothing is acknowledged, and what is refused says so; with it, all goes on.
#[test]
fn a_minority_acknowledges_nothing() {
    use crate::support::Request;
    let mut cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"k", "before"));
    for name in ["n2", "n3"] {
        cluster.node_mut(name).kill();
    }
    let mut alone = cluster.connection("n1");
    let start = now();
    let write = alone.send(&Request::put(b"k", "alone").with_query("timeout=2s")).expect("an answer");
    let read = alone.send(&Request::get(b"k").with_query("timeout=2s")).expect("an answer");
    assert!(matches!((write.status, read.status), (503 | 504, 503 | 504)), "{write:?} {read:?}");
    assert!(since(start) < Duration::from_secs(8), "time limits are kept");
    let local = alone.expect(200, &Request::get(b"k").with_query("consistency=local"));
    assert_eq!(local.body, b"before");
    let outcome = write.json::<serde_json::Value>()["outcome"].clone();

    cluster.restart("n2");
    cluster.restart("n3");
    cluster.until_ready();
    let after = cluster.connection("n2").expect(200, &Request::get(b"k")).body;
    let was_applied = after == b"alone";
    assert!(after == b"before" || was_applied && outcome == "unknown", "told {outcome}, found {after:?}");
}
