//! Eventual keyspaces on disks: engines that come back with what they have, fail, are damaged, and go.

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::peer::Lane;
use quorate_engine::{EngineSpec, Engines, Place};
use quorate_log::GroupId;
use quorate_node::eventual_replication::{Ack, Answer as Told, Body};
use quorate_node::{Answer, Config, EventualAsk, Failure, KeyspaceSettings, RequestKind};

use crate::harness::Cluster;

/// The first group after those of a new cluster.
const ORDERS: GroupId = GroupId(2);

const PUSH: &str = r#"{"mode":"push"}"#;

/// Nothing is sent by itself: what one has, it has from its own disk.
const LATER: &str = r#"{"mode":"batch","interval":86400000,"sync_interval":3600000}"#;

fn cluster_of(size: u64, replication: &str) -> Cluster {
    let config = Config { default_engine: "trie".to_owned(), flush_log_bytes: 2 << 10, ..Config::default() };
    let mut cluster = Cluster::with(size, config);
    let replication = serde_json::from_str(replication).unwrap();
    let settings = KeyspaceSettings::with_defaults(EngineSpec::of("lsm").into(), replication, 1 << 30);
    cluster.change(|catalog| catalog.plan_create("orders", &settings, 0).unwrap().unwrap());
    cluster.run_until("all have it", |cluster| cluster.hosts.keys().all(|id| cluster.is_hosted(*id, "orders")));
    cluster
}

fn begin_put(cluster: &mut Cluster, id: u64, key: &str, value: &str, ack: Ack) -> u64 {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    let ask = EventualAsk::Write { key, body: Body::plain(value), ttl_ms: None, ack: Some(ack), session: None };
    cluster.request(id, ORDERS, RequestKind::Eventual(ask), 5_000)
}

fn put(cluster: &mut Cluster, id: u64, key: &str, value: &str, ack: Ack) {
    let token = begin_put(cluster, id, key, value, ack);
    cluster.run_until("there is an answer", |cluster| cluster.answers.contains_key(&token));
    let answer = &cluster.answers[&token];
    assert!(matches!(answer, Answer::Eventual(Told::Written { is_met: true, .. })), "{answer:?}");
}

fn fill(cluster: &mut Cluster, id: u64, range: std::ops::Range<u64>) {
    range.for_each(|number| put(cluster, id, &format!("key {number}"), &"v".repeat(100), Ack::Local));
}

fn count(cluster: &Cluster, id: u64) -> Option<u64> {
    cluster.eventual(id, ORDERS).map(|replica| replica.status().keys)
}

fn places(cluster: &Cluster, id: u64) -> Vec<Place> {
    let places = cluster.hosts[&id].engines.places().unwrap();
    places.into_iter().filter(|place| place.group == ORDERS.0).collect()
}

/// Crashes a node, and damages what its engines kept.
fn damage(cluster: &mut Cluster, id: u64) {
    cluster.crash(id);
    let engines = Arc::clone(&cluster.host_mut(id).engines);
    let places = places(cluster, id);
    assert!(!places.is_empty(), "there is something to damage");
    places.into_iter().for_each(|place| engines.damage(place));
}

#[test]
fn a_replica_comes_back_from_its_disk_and_the_rest_of_its_log() {
    let mut cluster = cluster_of(3, LATER);
    let before = cluster.replica_id(2, ORDERS);
    // Nobody compares with it: what it has it had from nobody else.
    for (from, to) in [(1, 2), (3, 2), (2, 1), (2, 3)] {
        cluster.hold(from, to, Lane::Bulk);
    }
    // Crashes at every distance from a flush and a purge.
    for round in 0..12 {
        fill(&mut cluster, 2, round * 13..(round + 1) * 13);
        cluster.restart(2);
        cluster.run_until("it is there", |cluster| count(cluster, 2).is_some());
        assert_eq!(count(&cluster, 2), Some((round + 1) * 13));
    }
    let (purged, last) = cluster.log_of(2, ORDERS);
    assert!(purged > 60 && last - purged < 100, "purged up to {purged} of {last}");
    assert_eq!((cluster.replica_id(2, ORDERS), count(&cluster, 1)), (before, Some(0)), "it is who it was");
    assert_eq!(places(&cluster, 2), [Place { group: ORDERS.0, build: before }]);
    cluster.heal();
    cluster.run_until("all have it", |cluster| (1..=3).all(|id| count(cluster, id) == Some(156)));
}

#[test]
fn an_engine_that_fails_is_opened_again_and_nothing_is_lost() {
    let mut cluster = cluster_of(3, LATER);
    fill(&mut cluster, 2, 0..50);
    let before = cluster.replica_id(2, ORDERS);
    let engines = Arc::clone(&cluster.host_mut(2).engines);
    places(&cluster, 2).into_iter().for_each(|place| engines.fail(place, 2));
    let token = begin_put(&mut cluster, 2, "key 50", "in the log before it failed", Ack::Local);
    cluster.run_until("it is given up", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::Failed(Failure::Unknown), "it may have been done");
    assert!(!cluster.is_hosted(2, "orders"), "what cannot be read is not hosted");
    let token = begin_put(&mut cluster, 2, "key 51", "refused", Ack::Local);
    cluster.run_until("it is refused", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::Failed(Failure::NotHosted));
    cluster.run_until("it is back", |cluster| cluster.is_hosted(2, "orders"));
    assert_eq!((count(&cluster, 2), cluster.replica_id(2, ORDERS)), (Some(51), before), "with all that its log has");
    fill(&mut cluster, 2, 51..60);
    let token = cluster.request(2, ORDERS, RequestKind::Eventual(EventualAsk::Flush), 5_000);
    cluster.run_until("it is sent", |cluster| cluster.answers.contains_key(&token));
    assert_eq!([1, 2, 3].map(|id| count(&cluster, id)), [Some(60); 3]);
}

#[test]
fn a_replica_whose_disk_is_damaged_begins_anew_with_nothing_and_is_filled() {
    let mut cluster = cluster_of(3, PUSH);
    fill(&mut cluster, 2, 0..50);
    cluster.run_until("all have it", |cluster| (1..=3).all(|id| count(cluster, id) == Some(50)));
    let before = cluster.replica_id(2, ORDERS);
    damage(&mut cluster, 2);
    fill(&mut cluster, 1, 50..60);
    cluster.start(2);
    assert!(!cluster.is_hosted(2, "orders"));
    cluster.run_until("it serves again", |cluster| cluster.is_hosted(2, "orders"));
    let now = cluster.replica_id(2, ORDERS);
    assert!(now > before, "it is another instance");
    assert_eq!(count(&cluster, 2), Some(60));
    assert_eq!(places(&cluster, 2), [Place { group: ORDERS.0, build: now }], "nothing is left of the one before");
    cluster.restart(2);
    cluster.run_until("it is there", |cluster| count(cluster, 2).is_some());
    assert_eq!((count(&cluster, 2), cluster.replica_id(2, ORDERS)), (Some(60), now));
}

/// Its folder is gone, or is an old one: the log goes on from what is not there.
#[test]
fn a_replica_that_came_back_without_what_its_log_goes_on_from_begins_anew() {
    let mut cluster = cluster_of(3, PUSH);
    fill(&mut cluster, 2, 0..50);
    cluster.run_until("all have it", |cluster| (1..=3).all(|id| count(cluster, id) == Some(50)));
    assert!(cluster.log_of(2, ORDERS).0 > 0, "its log was purged");
    let before = cluster.replica_id(2, ORDERS);
    cluster.crash(2);
    let engines = Arc::clone(&cluster.host_mut(2).engines);
    places(&cluster, 2).into_iter().for_each(|place| engines.remove(place).unwrap());
    cluster.start(2);
    cluster.run_until("it serves again", |cluster| cluster.is_hosted(2, "orders"));
    assert!(cluster.replica_id(2, ORDERS) > before);
    assert_eq!(count(&cluster, 2), Some(50));
}

#[test]
fn an_only_replica_whose_disk_is_damaged_stops_its_node_rather_than_beginning_empty() {
    let mut cluster = cluster_of(1, PUSH);
    fill(&mut cluster, 1, 0..50);
    damage(&mut cluster, 1);
    cluster.start(1);
    cluster.is_reached(5_000, |cluster| cluster.hosts[&1].stopped.is_some());
    let why = format!("{:?}", cluster.hosts[&1].stopped);
    assert!(why.contains("keyspace orders") && why.contains("no other node has what was there"), "{why}");
}

#[test]
fn nothing_is_left_of_a_keyspace_that_was_deleted() {
    let mut cluster = cluster_of(3, PUSH);
    fill(&mut cluster, 1, 0..50);
    cluster.crash(3);
    cluster.change(|catalog| catalog.plan_delete("orders").unwrap());
    cluster.run_until("it is gone", |cluster| [1, 2].iter().all(|id| places(cluster, *id).is_empty()));
    cluster.start(3);
    cluster.run_until("it is gone there, too", |cluster| places(cluster, 3).is_empty());
    assert!(cluster.eventual(3, ORDERS).is_none());
}
