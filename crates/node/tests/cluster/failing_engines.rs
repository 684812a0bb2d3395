//! Engines that fail while their node runs: they are opened again, and nothing is lost.

use std::sync::Arc;

use quorate_engine::Engines;
use quorate_node::Config;

use crate::harness::{Cluster, DEFAULT};

/// On an engine that comes back by itself at a flush.
fn flushed_after(bytes: u64) -> Config {
    Config { default_engine: "btree".to_owned(), flush_log_bytes: bytes, ..Config::default() }
}

fn fill(cluster: &mut Cluster, range: std::ops::Range<u64>) {
    for number in range {
        cluster.must_put(1, &format!("key {number}"), &"v".repeat(50));
    }
}

/// The engines of a node fail, and so many attempts to open them again.
fn fail_engines(cluster: &mut Cluster, id: u64, failing_opens: u32) {
    let engines = Arc::clone(&cluster.host_mut(id).engines);
    let places = engines.places().unwrap();
    assert!(!places.is_empty(), "there is something to fail");
    places.into_iter().for_each(|place| engines.fail(place, failing_opens));
}

fn is_rebuilding(cluster: &Cluster, id: u64) -> bool {
    cluster.replica(id, DEFAULT).unwrap().is_rebuilding
}

#[test]
fn an_only_node_brings_its_engine_back_from_the_log() {
    // The first flush is far away: the engine comes back with nothing at all. Then it comes back with a part.
    for flush_log_bytes in [1 << 20, 2 << 10] {
        let mut cluster = Cluster::with(1, flushed_after(flush_log_bytes));
        fill(&mut cluster, 0..100);
        fail_engines(&mut cluster, 1, 2);
        let token = cluster.put(1, "key 100", "taken in before it is applied");
        cluster.run_until("the engine is given up", |cluster| is_rebuilding(cluster, 1));
        cluster.run_until("the write is answered", |cluster| cluster.answers.contains_key(&token));
        assert!(cluster.is_applied(token), "{:?}", cluster.answers[&token]);
        assert!(!is_rebuilding(&cluster, 1), "what was applied before is there too");
        assert_eq!(cluster.replica(1, DEFAULT).unwrap().engines_reopened, 1);
        for number in [0, 50, 99] {
            assert_eq!(cluster.must_read(1, &format!("key {number}")), Some("v".repeat(50)));
        }
    }
}

#[test]
fn a_leader_whose_engine_fails_hands_over_and_agrees_again() {
    let mut cluster = Cluster::with(3, flushed_after(2 << 10));
    fill(&mut cluster, 0..100);
    let leader = cluster.leader(DEFAULT).unwrap();
    // It cannot be opened for 20 seconds.
    fail_engines(&mut cluster, leader, 20);
    cluster.put(leader, "key 100", "later");
    cluster.run_until("another leads", |cluster| cluster.leader(DEFAULT).is_some_and(|other| other != leader));
    let other = cluster.leader(DEFAULT).unwrap();
    for number in 101..120 {
        cluster.must_put(other, &format!("key {number}"), "later");
    }
    assert!(is_rebuilding(&cluster, leader));
    cluster.run_until("all agree", |cluster| cluster.is_caught_up(leader) && cluster.agrees(DEFAULT));
    assert_eq!(cluster.must_read(leader, "key 119").as_deref(), Some("later"));
}

#[test]
fn a_node_whose_engine_fails_can_be_restarted_meanwhile() {
    let mut cluster = Cluster::with(1, flushed_after(2 << 10));
    fill(&mut cluster, 0..100);
    fail_engines(&mut cluster, 1, 3);
    cluster.put(1, "key 100", "later");
    cluster.run_until("the engine is given up", |cluster| is_rebuilding(cluster, 1));
    // There is no room for it at the start either, nor once after that.
    cluster.restart(1);
    assert!(is_rebuilding(&cluster, 1));
    cluster.run_until("it is back", |cluster| !is_rebuilding(cluster, 1) && cluster.leader(DEFAULT) == Some(1));
    assert_eq!(cluster.must_read(1, "key 99"), Some("v".repeat(50)));
}
