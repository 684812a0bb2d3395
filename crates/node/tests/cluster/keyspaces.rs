//! Keyspaces that are deleted, and those that move to another engine.

use quorate_engine::{EngineSpec, Engines};
use quorate_log::{Disk, GroupId};
use quorate_node::keyspace::{LeaseId, Op, Put, Write};
use quorate_node::{Config, KeyspaceSettings, Mode, ReplicationSettings, RequestKind};

use crate::harness::{Cluster, DEFAULT};

/// The first group after those of a new cluster.
const ORDERS: GroupId = GroupId(2);

fn often_flushed() -> Config {
    Config { default_engine: "trie".to_owned(), flush_log_bytes: 2 << 10, snapshot_log_bytes: 2 << 10, ..Config::default() }
}

fn settings(engine: &str) -> KeyspaceSettings {
    KeyspaceSettings::with_defaults(EngineSpec::of(engine).into(), ReplicationSettings::of(Mode::Raft), 1 << 30)
}

fn create(cluster: &mut Cluster, engine: &str) {
    cluster.change(|catalog| catalog.plan_create("orders", &settings(engine), 0).unwrap().unwrap());
    cluster.run_until("all have it", |cluster| (1..=3).all(|id| cluster.replica(id, ORDERS).is_some_and(|own| own.is_caught_up)));
}

fn put(cluster: &mut Cluster, number: u64) {
    let write = Write::put(format!("key {number}").into(), "v".repeat(50).into());
    let token = cluster.request(1 + number % 3, ORDERS, RequestKind::Write(write.to_bytes()), 5_000);
    cluster.run_until("it is written", |cluster| cluster.is_applied(token));
}

/// What a node keeps of the keyspace beside its log.
fn left_over(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let host = cluster.host_mut(id);
    let places = host.engines.places().unwrap().into_iter().filter(|place| place.group == ORDERS.0);
    let own = format!("{:016x}-", ORDERS.0);
    let files = host.file_disk.list().unwrap().into_iter().filter(|name| name.starts_with(&own));
    places.map(|place| place.to_string()).chain(files).collect()
}

#[test]
fn a_keyspace_that_is_deleted_while_it_moves_leaves_nothing() {
    let mut cluster = Cluster::with(3, often_flushed());
    create(&mut cluster, "btree");
    (0..60).for_each(|number| put(&mut cluster, number));
    (1..=3).for_each(|id| cluster.host_mut(id).holds_builds = true);
    cluster.change(|catalog| catalog.plan_alter("orders", &settings("lsm"), 0).unwrap().unwrap());
    let is_building = |cluster: &Cluster, id| {
        cluster.replica(id, ORDERS).is_some_and(|own| own.moving.is_some_and(|moving| moving.phase == "building"))
    };
    cluster.run_until("a replica builds its new engine", |cluster| (1..=3).any(|id| is_building(cluster, id)));
    cluster.change(|catalog| catalog.plan_delete("orders").unwrap());
    cluster.run_until("it is gone", |cluster| (1..=3).all(|id| cluster.replica(id, ORDERS).is_none()));
    (1..=3).for_each(|id| cluster.host_mut(id).holds_builds = false);
    cluster.run_for(3_000);
    for id in 1..=3 {
        assert_eq!(left_over(&mut cluster, id), [""; 0], "node {id}");
    }
    cluster.restart(1);
    cluster.must_put(1, "key", "value");
    assert!(cluster.replica(1, ORDERS).is_none(), "it does not come back");
    assert!(cluster.replica(1, DEFAULT).is_some());
}

#[test]
fn a_keyspace_moves_while_it_is_written_to_one_replica_at_a_time() {
    let mut cluster = Cluster::with(3, often_flushed());
    create(&mut cluster, "trie");
    (0..60).for_each(|number| put(&mut cluster, number));
    cluster.change(|catalog| catalog.plan_alter("orders", &settings("btree"), 0).unwrap().unwrap());
    let mut number = 60;
    while (1..=3).any(|id| cluster.replica(id, ORDERS).unwrap().engine != "btree") {
        assert!(number < 2_000, "the move does not end");
        put(&mut cluster, number);
        cluster.run_for(20);
        number += 1;
        let moving = (1..=3).filter(|id| cluster.replica(*id, ORDERS).unwrap().moving.is_some()).count();
        assert!(moving <= 1, "{moving} replicas move at once");
    }
    cluster.run_until("the catalog knows", |cluster| !cluster.catalog(1).keyspaces["orders"].is_moving());
    cluster.run_until("all agree", |cluster| cluster.agrees(ORDERS));
    (1..=3).for_each(|id| cluster.restart(id));
    cluster.run_until("all agree again", |cluster| cluster.agrees(ORDERS));
    assert_eq!(cluster.replica(2, ORDERS).unwrap().revision, number + 1, "every write is there");
}

/// Whoever looks between two tries sees why the first one ended.
#[test]
fn a_move_that_was_given_up_says_why_until_it_is_tried_again() {
    let mut cluster = Cluster::with(3, often_flushed());
    create(&mut cluster, "btree");
    (0..60).for_each(|number| put(&mut cluster, number));
    (1..=3).for_each(|id| cluster.host_mut(id).holds_builds = true);
    cluster.change(|catalog| catalog.plan_alter("orders", &settings("lsm"), 0).unwrap().unwrap());
    let moving = |cluster: &Cluster, id| cluster.replica(id, ORDERS).and_then(|own| own.moving);
    let mover = |cluster: &Cluster| (1..=3).find(|id| moving(cluster, *id).is_some_and(|moving| moving.phase == "building"));
    cluster.run_until("a replica builds its new engine", |cluster| mover(cluster).is_some());
    let id = mover(&cluster).unwrap();
    cluster.change(|catalog| catalog.plan_alter("orders", &settings("trie"), 0).unwrap().unwrap());
    cluster.run_for(300);
    let pausing = moving(&cluster, id).expect("it says so");
    let why = pausing.last_error.as_deref().unwrap_or_default();
    assert!((&*pausing.to, pausing.phase) == ("lsm", "pausing") && why.contains("another engine meanwhile"), "{pausing:?}");
    (1..=3).for_each(|id| cluster.host_mut(id).holds_builds = false);
    cluster.run_until("all have moved", |cluster| !cluster.catalog(1).keyspaces["orders"].is_moving());
    cluster.run_for(1_000);
    assert_eq!([1, 2, 3].map(|id| moving(&cluster, id)), [None, None, None]);
    assert_eq!([1, 2, 3].map(|id| cluster.replica(id, ORDERS).unwrap().engine), ["trie"; 3].map(str::to_owned));
}

#[test]
fn no_lease_ends_while_its_keyspace_is_restored() {
    const TTL_MS: u64 = 5_000;
    let mut cluster = Cluster::of(3);
    cluster.change(|catalog| catalog.plan_begin_restore("orders", &settings("trie"), false, 0).unwrap());
    cluster.run_until("all have it", |cluster| (1..=3).all(|id| cluster.replica(id, ORDERS).is_some_and(|own| own.is_caught_up)));
    let leased = Op::Put(Put { lease: Some(LeaseId(7)), ..Put::new("a".into(), "v".into()) });
    let write = Write { ops: vec![Op::LeaseGrant { id: LeaseId(7), ttl_ms: TTL_MS }, leased], ..Write::default() };
    let token = cluster.request(2, ORDERS, RequestKind::Write(write.to_bytes()), 5_000);
    cluster.run_until("it is written", |cluster| cluster.is_applied(token));
    let is_there = |cluster: &Cluster| (1..=3).all(|id| cluster.replica(id, ORDERS).is_some_and(|own| own.data_bytes > 0));
    cluster.run_for(2 * TTL_MS);
    assert!(is_there(&cluster));
    let leader = cluster.leader(ORDERS).expect("there is a leader");
    cluster.restart(leader);
    cluster.run_for(3 * TTL_MS);
    assert!(is_there(&cluster), "whoever leads next holds it, too");
    let epoch = cluster.catalog(1).keyspaces["orders"].epoch;
    // As a restore ends: the settings are there before anybody sees it, so the group is at rest when that happens.
    let settings = quorate_node::KeyspaceRecord { is_restoring: false, ..cluster.catalog(1).keyspaces["orders"].clone() };
    let configure = Write { ops: vec![Op::Configure(settings.shard_settings())], ..Write::default() };
    let token = cluster.request(2, ORDERS, RequestKind::Write(configure.to_bytes()), 5_000);
    cluster.run_until("it is configured", |cluster| cluster.is_applied(token));
    cluster.run_for(2_000);
    cluster.change(|catalog| catalog.plan_end_restore("orders", epoch).unwrap());
    cluster.run_for(TTL_MS - 1_000);
    assert!(is_there(&cluster), "its time begins when the keyspace is whole");
    cluster.run_until("its time is up", |cluster| {
        (1..=3).all(|id| cluster.replica(id, ORDERS).is_some_and(|own| own.data_bytes == 0))
    });
}

/// A founder that was away from the beginning found the group with what the keyspace had become meanwhile, and refused what the
/// others had applied.
#[test]
fn a_founder_that_begins_late_begins_with_what_the_others_did() {
    let mut cluster = Cluster::of(3);
    cluster.isolate(3);
    cluster.change(|catalog| catalog.plan_create("orders", &settings("trie"), 0).unwrap().unwrap());
    cluster.run_until("two have it", |cluster| (1..=2).all(|id| cluster.replica(id, ORDERS).is_some_and(|own| own.is_caught_up)));
    let large = Write::put("large".into(), "v".repeat(5_000).into());
    let token = cluster.request(1, ORDERS, RequestKind::Write(large.to_bytes()), 5_000);
    cluster.run_until("it is written", |cluster| cluster.is_applied(token));
    let mut others = settings("trie");
    others.ttl_ms = Some(60_000);
    others.limits.max_value_bytes = Some(1_024);
    cluster.change(|catalog| catalog.plan_alter("orders", &others, 0).unwrap().unwrap());
    cluster.run_for(1_000);
    cluster.heal();
    cluster.run_until("the third has it", |cluster| cluster.replica(3, ORDERS).is_some_and(|own| own.is_caught_up));
    cluster.run_until("all are level", |cluster| {
        let indexes = (1..=3).map(|id| cluster.replica(id, ORDERS).map(|own| own.applied_index));
        let indexes: std::collections::BTreeSet<_> = indexes.collect();
        indexes.len() == 1
    });
    assert!(cluster.agrees(ORDERS), "{:?}", cluster.states(ORDERS));
}
