//! Scripts that once ended in a panic, in lost data, or in a group without a leader for ever.

use quorate_log::GroupId;
use quorate_node::keyspace::Write;
use quorate_node::{Answer, Config, Failure, RequestKind};

use crate::harness::{Cluster, DEFAULT, SYSTEM};

fn soon_cut() -> Config {
    Config { default_engine: "trie".to_owned(), snapshot_log_bytes: 2 << 10, snapshot_chunk_bytes: 512, ..Config::default() }
}

fn never_cut() -> Config {
    Config { default_engine: "trie".to_owned(), snapshot_log_bytes: 1 << 30, ..Config::default() }
}

/// A keyspace of its own, with one key; its group.
fn with_one_more_keyspace(cluster: &mut Cluster) -> GroupId {
    let leader = cluster.leader(SYSTEM).expect("there is a leader");
    let catalog = cluster.catalog(leader);
    let group = GroupId(catalog.cluster.next_group);
    let write = catalog.plan_create("orders", &catalog.keyspaces["default"].settings(), 0).unwrap().unwrap();
    let put = Write::put("key".into(), "value".into());
    for (group, write) in [(SYSTEM, write), (group, put)] {
        cluster.run_until("the group leads", |cluster| cluster.leader(group).is_some());
        let token = cluster.request(leader, group, RequestKind::Write(write.to_bytes()), 30_000);
        cluster.run_until("the write is answered", |cluster| cluster.answers.contains_key(&token));
        assert!(cluster.is_applied(token), "{:?}", cluster.answers[&token]);
    }
    group
}

/// What is known to be committed is not synced, so after a restart the catalog may be behind for a moment. Nodes took the groups
/// that it did not know yet for deleted ones, and removed them; with all nodes restarted at once, every pair was gone.
#[test]
fn a_catalog_that_is_behind_after_a_restart_deletes_nothing() {
    let mut cluster = Cluster::of(3);
    let group = with_one_more_keyspace(&mut cluster);
    let before = cluster.states(group);
    for id in 1..=3 {
        cluster.crash(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    let is_behind = |id| cluster.catalog(id).shard(group.0).is_none();
    assert!((1..=3).all(is_behind), "this is what it is about");
    cluster.run_until("all know the keyspace again", |cluster| {
        (1..=3).all(|id| cluster.catalog(id).shard(group.0).is_some() && cluster.replica(id, group).is_some())
    });
    cluster.run_until("all have the key", |cluster| {
        (1..=3).all(|id| cluster.replica(id, group).is_some_and(|replica| replica.revision == 2 && replica.is_caught_up))
    });
    assert_eq!((before.len(), cluster.states(group).len()), (3, 3));
}

fn two_voters() -> Cluster {
    let mut cluster = Cluster::of(2);
    cluster.run_until("both are voters", |cluster| {
        [SYSTEM, DEFAULT].into_iter().all(|group| cluster.replica(1, group).is_some_and(|replica| replica.voters == [1, 2]))
    });
    cluster
}

#[test]
fn a_replica_whose_leader_falls_silent_while_it_loads_a_snapshot_goes_on() {
    let mut cluster = Cluster::with(3, soon_cut());
    cluster.isolate(3);
    for number in 0..200 {
        cluster.must_put(1, &format!("key {number}"), &"v".repeat(50));
    }
    cluster.run_for(3000);
    cluster.host_mut(3).holds_loads = true;
    cluster.heal();
    cluster.run_until("node 3 has a snapshot to load", |cluster| cluster.is_about_to_load(3));
    cluster.isolate(3);
    cluster.run_for(5000);
    cluster.host_mut(3).holds_loads = false;
    cluster.heal();
    cluster.run_until("node 3 is caught up", |cluster| cluster.is_caught_up(3));
}

#[test]
fn an_only_voter_says_nothing_in_a_term_that_is_not_durable() {
    let mut cluster = Cluster::of(1);
    cluster.must_put(1, "base", "x");
    assert_eq!(cluster.join(), 2);
    while cluster.local(2, "base").is_none() {
        if !cluster.round() {
            cluster.run_for(100);
        }
    }
    for number in 0..5 {
        cluster.must_put(1, "more", &number.to_string());
    }
    let replica = cluster.replica(1, DEFAULT).unwrap();
    assert_eq!((replica.voters, replica.learners), (vec![1], vec![2]), "node 2 still learns");

    cluster.crash(1);
    cluster.host_mut(1).holds_log = true;
    cluster.start(1);
    cluster.run_for(200);
    let token = cluster.put(1, "key", "of a life that left no trace");
    cluster.settle();
    assert!(!cluster.is_applied(token));

    cluster.restart(1);
    cluster.run_until("node 1 leads again", |cluster| cluster.leader(DEFAULT) == Some(1));
    cluster.must_put(1, "key", "kept");
    cluster.run_until("node 2 is caught up", |cluster| cluster.is_caught_up(2) && cluster.agrees(DEFAULT));
    assert_eq!(cluster.local(2, "key").as_deref(), Some("kept"));
}

#[test]
fn a_founder_that_comes_back_alone_leads_nobody() {
    let mut cluster = Cluster::of(3);
    for id in 1..=3 {
        cluster.crash(id);
    }
    cluster.start(1);
    let token = cluster.request(1, DEFAULT, RequestKind::Write(Write::delete("key".into()).to_bytes()), 8000);
    cluster.run_for(10_000);
    assert_eq!((cluster.leader(SYSTEM), cluster.leader(DEFAULT)), (None, None));
    assert_eq!(cluster.answers[&token], Answer::Failed(Failure::NoLeader));
    cluster.start(2);
    cluster.run_until("two of three are enough", |cluster| cluster.leader(DEFAULT).is_some());
}

#[test]
fn one_of_two_nodes_can_be_removed() {
    let mut cluster = two_voters();
    cluster.remove(2);
    cluster.run_for(5000);
    cluster.must_put(1, "key", "value");
}

#[test]
fn the_leader_of_two_nodes_can_be_removed() {
    let mut cluster = two_voters();
    cluster.remove(1);
    cluster.run_for(5000);
    cluster.must_put(2, "key", "value");
}

#[test]
fn large_writes_at_once_make_no_frame_that_is_too_long() {
    let mut cluster = Cluster::with(3, never_cut());
    let value = "v".repeat(1 << 20);
    let tokens: Vec<u64> = (0..40).map(|number| cluster.put(1, &format!("key {number}"), &value)).collect();
    cluster.run_until("all are answered", |cluster| tokens.iter().all(|token| cluster.is_applied(*token)));
    assert_eq!(cluster.too_long, 0);
}
