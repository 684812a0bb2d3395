//! Nodes that come and go while the cluster works.

use std::fs;
use std::time::Duration;

use quorate_api::cluster::ClusterStatus;

use crate::support::{Cluster, Load, NodeProcess, Request, now, pause, since, tell};

/// How long a node may take to notice that it was removed, and end.
const END_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn nodes_come_and_go_under_load() {
    let mut cluster = Cluster::ready(3);
    let load = Load::start(&cluster);

    let start = now();
    join(&mut cluster, "n4");
    let took = since(start);
    cluster.until_status("n1", "four voters", |status| has_voters(status, &["n1", "n2", "n3", "n4"]));
    let silence = load.longest_silence(start, now());
    tell(format_args!("n4 joined under load, ready after {took:?}, longest silence {silence:?}"));
    load.use_nodes_of(&cluster);
    pause(500);

    let follower = cluster.other_than(&[&cluster.leader(), "n4"]);
    remove(&mut cluster, &follower, "n4");
    let leader = cluster.leader();
    let asked = cluster.other_than(&[&leader]);
    let start = now();
    remove(&mut cluster, &leader, &asked);
    load.until_acknowledged_after(now(), Duration::from_secs(6));
    pause(1000);
    let silence = load.longest_silence(start, now());
    tell(format_args!("leader {leader} removed under load, longest silence {silence:?}"));
    assert!(silence < Duration::from_secs(6), "nobody took over for {silence:?}");

    cluster.until_ready();
    let left = cluster.running();
    for name in &left {
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        cluster.until_status(name, "two voters", |status| has_voters(status, &left));
    }
    load.finish(&cluster);
}

/// Down to one and on: who leaves must not take the quorum along.
#[test]
fn a_cluster_shrinks_to_one_node() {
    let mut cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"k", "v"));
    for _ in 0..2 {
        let leader = cluster.leader();
        let asked = cluster.other_than(&[&leader]);
        remove(&mut cluster, &leader, &asked);
        cluster.until_ready();
        let back = cluster.until_serving(&asked, Duration::from_secs(6));
        tell(format_args!("{} of three nodes left, service back after {back:?}", cluster.running().len()));
    }
    let last = cluster.running().remove(0);
    cluster.until_status(&last, "one voter", |status| has_voters(status, &[&last]));
    assert_eq!(cluster.connection(&last).expect(200, &Request::get(b"k")).body, b"v");
}

/// A removed name may come back with an empty folder; the old folder is of no more use.
#[test]
fn a_removed_node_comes_back_only_as_a_new_one() {
    let mut cluster = Cluster::ready(3);
    cluster.connection("n3").expect(201, &Request::put(b"k", "v"));
    cluster.node_mut("n2").kill();
    cluster.must_call("n1", &["cluster", "remove", "n2"]);
    cluster.until_status("n1", "two voters", |status| has_voters(status, &["n1", "n3"]));
    assert_eq!(cluster.call("n1", &["cluster", "remove", "n2"]).status.code(), Some(3), "it is gone already");

    // It was down, and learns from its peers that it is no member any more.
    cluster.restart("n2");
    let status = cluster.node_mut("n2").wait(END_LIMIT);
    let log = cluster.node("n2").log_tail();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.lines().last().is_some_and(|line| line.starts_with("quorate: ") && line.contains("removed")), "{log}");

    empty(&cluster, "n2");
    let first = cluster.node("n1").client_address.clone();
    cluster.node_mut("n2").start(&[&first]);
    cluster.until_ready();
    for name in ["n1", "n2", "n3"] {
        cluster.until_status(name, "three voters", |status| has_voters(status, &["n1", "n2", "n3"]));
    }
    assert_eq!(cluster.connection("n2").expect(200, &Request::get(b"k").with_query("consistency=local")).body, b"v");
}

/// A member that lost its disk is another node: it may not vote as if it remembered.
#[test]
fn a_wiped_disk_under_a_members_name_is_refused() {
    let mut cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"k", "v"));
    cluster.node_mut("n2").kill();
    empty(&cluster, "n2");
    let first = cluster.node("n1").client_address.clone();
    let output = cluster.node("n2").command().args(["--join", &first]).output().expect("the program can be called");
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains("quorate cluster remove n2"), "{line}");
    assert!(cluster.status("n1").nodes.iter().any(|node| node.name == "n2"), "it is still a member");

    // The line that it was told to run, and the same start once more.
    cluster.must_call("n3", &["cluster", "remove", "n2"]);
    cluster.node_mut("n2").start(&[&first]);
    cluster.until_ready();
    assert_eq!(cluster.connection("n2").expect(200, &Request::get(b"k")).body, b"v");
}

/// The last voter cannot be removed, and nobody takes another's name or address, not even that of a node that will come.
#[test]
fn members_are_told_apart() {
    let mut cluster = Cluster::ready(1);
    let refused = cluster.call("n1", &["cluster", "remove", "n1"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");

    cluster.add("n3");
    let expected = cluster.node("n3").peer_address.clone();
    let announcement = format!(r#"{{"id": "n3", "addr": "{expected}"}}"#);
    let answer = cluster.connection("n1").expect(200, &Request::json("POST", "/join", announcement)).text();
    assert_eq!(answer, r#"{"message":"Added node to cluster"}"#);

    let first = cluster.node("n1").client_address.clone();
    let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
    let twin = NodeProcess::new("n1", elsewhere.path());
    let mut squatter = NodeProcess::new("n2", elsewhere.path());
    squatter.peer_address = expected;
    for (node, told) in [(&twin, "a node named n1 is a member already"), (&squatter, "belongs to node n3")] {
        let output = node.command().args(["--join", &first]).output().expect("the program can be called");
        let line = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains(told), "{line}");
    }

    cluster.node_mut("n3").start(&[&first]);
    cluster.until_ready();
    cluster.until_status("n3", "two voters", |status| has_voters(status, &["n1", "n3"]) && status.nodes.len() == 2);
}

fn join(cluster: &mut Cluster, name: &str) {
    let members = cluster.addresses();
    cluster.add(name);
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    cluster.node_mut(name).start(&members);
    cluster.until_ready();
}

/// Removes a running node by a word to another one, and holds that its process ends and says why.
#[track_caller]
fn remove(cluster: &mut Cluster, name: &str, asked: &str) {
    cluster.must_call(asked, &["cluster", "remove", name]);
    let start = now();
    let status = cluster.node_mut(name).wait(END_LIMIT);
    let log = cluster.node(name).log_tail();
    assert_eq!(status.code(), Some(1), "{log}");
    let last_line = log.lines().last().unwrap_or_default();
    assert!(last_line.contains("this node was removed from the cluster"), "{log}");
    tell(format_args!("{name} was removed and has ended after {:?}", since(start)));
    cluster.until_status(asked, &format!("without {name}"), |status| status.nodes.iter().all(|node| node.name != *name));
}

fn empty(cluster: &Cluster, name: &str) {
    fs::remove_dir_all(&cluster.node(name).data_dir).expect("the folder is there");
}

fn has_voters(status: &ClusterStatus, names: &[&str]) -> bool {
    let is_right = |voters: &[String]| {
        let mut voters: Vec<&str> = voters.iter().map(String::as_str).collect();
        voters.sort_unstable();
        voters == names
    };
    status.shards.iter().all(|shard| is_right(&shard.voters) && shard.learners.is_empty())
}
