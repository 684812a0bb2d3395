//! kill -9, at any node and at all at once, under load.

use std::time::Duration;

use quorate_api::cluster::ClusterStatus;
use rustix::process::Signal;

use crate::support::{Cluster, Load, Request, now, pause, since, tell};

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
    let mut cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"k", "before"));
    for name in ["n2", "n3"] {
        cluster.node_mut(name).kill();
    }
    assert_alone(&cluster, "n1");
    let local = cluster.connection("n1").expect(200, &Request::get(b"k").with_query("consistency=local"));
    assert_eq!(local.body, b"before");
    cluster.restart("n2");
    cluster.restart("n3");
    cluster.until_ready();
    // The write that was not acknowledged may have been done all the same.
    let found = cluster.connection("n2").expect(200, &Request::get(b"k")).body;
    assert!(found == b"before" || found == b"alone", "{found:?}");
    cluster.assert_same_everywhere();
}

/// The node that began as a cluster of one remembers, once it is started again, that it is none any more: it waits for the
/// others, though it cannot know yet that the entries at the end of its log, which made them voters, were committed.
#[test]
fn a_founder_that_comes_back_alone_leads_nobody() {
    let mut cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"k", "before"));
    cluster.node_mut("n1").kill();
    cluster.until_serving("n2", Duration::from_secs(6));
    cluster.connection("n2").expect(204, &Request::put(b"k", "since"));

    for name in ["n2", "n3"] {
        cluster.node(name).signal(Signal::STOP);
    }
    cluster.restart("n1");
    let start = now();
    while since(start) < Duration::from_millis(2500) {
        if let Ok(answer) = cluster.connection("n1").send(&Request::new("GET", "/v1/cluster")) {
            let status: ClusterStatus = answer.json();
            assert!(status.shards.iter().all(|shard| shard.role != "leader"), "n1 elected itself: {status:?}");
        }
        pause(20);
    }
    for name in ["n2", "n3"] {
        cluster.node(name).signal(Signal::CONT);
    }
    cluster.until_ready();
    assert_eq!(cluster.connection("n1").expect(200, &Request::get(b"k")).body, b"since");
    cluster.assert_same_everywhere();
}

/// A node without a quorum answers neither writes nor linearizable reads, and keeps to the time limits.
#[track_caller]
fn assert_alone(cluster: &Cluster, name: &str) {
    let mut connection = cluster.connection(name);
    let requests = [Request::put(b"k", "alone"), Request::get(b"k")];
    for request in requests.iter().cycle().take(4) {
        let start = now();
        let answer = connection.send(&request.clone().with_query("timeout=1s")).expect("it answers, of whatever kind");
        assert!(matches!(answer.status, 503 | 504), "{name} alone: {answer:?}");
        assert!(since(start) < Duration::from_secs(3), "time limits are kept");
    }
}
