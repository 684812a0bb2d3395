//! Eventual keyspaces: replicas that take writes on their own, come and go with nodes, and become equal.

use bytes::Bytes;
use quorate_engine::EngineSpec;
use quorate_log::GroupId;
use quorate_node::eventual_replication::{Ack, Answer as Told, Body, Entry, Refusal};
use quorate_node::{Answer, EventualAsk, Failure, Input, KeyspaceSettings, ReplicaRole, RequestKind};

use crate::harness::Cluster;

/// The first group after those of a new cluster.
const ORDERS: GroupId = GroupId(2);

fn settings(replication: &str) -> KeyspaceSettings {
    let replication = serde_json::from_str(replication).expect("settings of a mode");
    KeyspaceSettings::with_defaults(EngineSpec::of("trie").into(), replication, 1 << 30)
}

fn create(cluster: &mut Cluster, replication: &str) {
    cluster.change(|catalog| catalog.plan_create("orders", &settings(replication), 0).unwrap().unwrap());
    cluster.run_until("all have it", |cluster| cluster.hosts.keys().all(|id| cluster.is_hosted(*id, "orders")));
}

fn cluster_of(size: u64, replication: &str) -> Cluster {
    let mut cluster = Cluster::of(size);
    create(&mut cluster, replication);
    cluster
}

fn ask(cluster: &mut Cluster, id: u64, ask: EventualAsk) -> u64 {
    cluster.request(id, ORDERS, RequestKind::Eventual(ask), 5_000)
}

fn answer(cluster: &mut Cluster, token: u64) -> Answer {
    cluster.run_until("there is an answer", |cluster| cluster.answers.contains_key(&token));
    cluster.answers[&token].clone()
}

fn begin_put(cluster: &mut Cluster, id: u64, key: &str, value: &str, ack: Ack) -> u64 {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let body = Body::plain(Bytes::copy_from_slice(value.as_bytes()));
    ask(cluster, id, EventualAsk::Write { key, body, ttl_ms: None, ack: Some(ack), session: None })
}

/// Writes, and how many others had it when that was answered.
fn put(cluster: &mut Cluster, id: u64, key: &str, value: &str, ack: Ack) -> u32 {
    let token = begin_put(cluster, id, key, value, ack);
    match answer(cluster, token) {
        Answer::Eventual(Told::Written { replicated, is_met: true, .. }) => replicated,
        other => panic!("{other:?}"),
    }
}

fn value_of(entry: Option<Entry>) -> Option<String> {
    match entry.map(|entry| entry.body) {
        Some(Body::Value { value, .. }) => Some(String::from_utf8(value.to_vec()).unwrap()),
        _ => None,
    }
}

/// What a node has, whether it may serve it or not.
fn local(cluster: &Cluster, id: u64, key: &str) -> Option<String> {
    value_of(cluster.eventual(id, ORDERS)?.get(key.as_bytes()).unwrap())
}

fn all_have(cluster: &mut Cluster, ids: &[u64], key: &str, value: &str) {
    let what = format!("{ids:?} have {key}");
    cluster.run_until(&what, |cluster| ids.iter().all(|id| local(cluster, *id, key).as_deref() == Some(value)));
}

fn are_equal(cluster: &Cluster, ids: &[u64]) -> bool {
    let digests: Vec<u128> = ids.iter().filter_map(|id| Some(cluster.eventual(*id, ORDERS)?.status().digest)).collect();
    digests.len() == ids.len() && digests.windows(2).all(|pair| pair[0] == pair[1])
}

#[test]
fn what_is_written_at_one_node_is_at_all_at_once() {
    let mut cluster = cluster_of(3, r#"{"mode":"push"}"#);
    assert_eq!(put(&mut cluster, 1, "a", "1", Ack::AllUp), 2);
    assert_eq!([2, 3].map(|id| local(&cluster, id, "a")), [Some("1".to_owned()), Some("1".to_owned())]);
    put(&mut cluster, 2, "a", "2", Ack::Local);
    all_have(&mut cluster, &[1, 2, 3], "a", "2");
}

#[test]
fn both_sides_of_a_cut_take_writes_and_are_equal_afterwards() {
    let mut cluster = cluster_of(3, r#"{"mode":"push"}"#);
    put(&mut cluster, 1, "both", "before", Ack::AllUp);
    cluster.isolate(3);
    put(&mut cluster, 1, "both", "here", Ack::Local);
    put(&mut cluster, 3, "alone", "there", Ack::Local);
    let token = begin_put(&mut cluster, 3, "both", "there", Ack::Others(1));
    match answer(&mut cluster, token) {
        Answer::Eventual(Told::Written { replicated: 0, is_met: false, .. }) => {}
        other => panic!("{other:?}"),
    }
    cluster.heal();
    all_have(&mut cluster, &[1, 2, 3], "both", "there");
    all_have(&mut cluster, &[1, 2, 3], "alone", "there");
    assert!(are_equal(&cluster, &[1, 2, 3]));
}

#[test]
fn a_durable_replica_has_after_a_crash_what_it_acknowledged() {
    let mut cluster = cluster_of(3, r#"{"mode":"batch","interval":60000}"#);
    for number in 0..50 {
        put(&mut cluster, 2, &format!("key {number}"), "v", Ack::Local);
    }
    let before = cluster.replica_id(2, ORDERS);
    cluster.crash(2);
    cluster.run_for(1_000);
    assert_eq!(local(&cluster, 1, "key 49"), None, "nothing was sent");
    cluster.start(2);
    cluster.run_until("it is there", |cluster| local(cluster, 2, "key 49").is_some());
    assert_eq!(cluster.replica_id(2, ORDERS), before, "it is who it was");
    all_have(&mut cluster, &[1, 2, 3], "key 0", "v");
    cluster.run_until("they are equal", |cluster| are_equal(cluster, &[1, 2, 3]));
    put(&mut cluster, 2, "after", "w", Ack::Local);
    cluster.restart(2);
    cluster.run_until("it is there", |cluster| local(cluster, 2, "after").is_some());
}

#[test]
fn a_volatile_replica_begins_anew_under_another_id() {
    let mut cluster = cluster_of(3, r#"{"mode":"push","durability":"none"}"#);
    put(&mut cluster, 2, "key", "v", Ack::AllUp);
    let before = cluster.replica_id(2, ORDERS);
    cluster.crash(2);
    put(&mut cluster, 1, "meanwhile", "w", Ack::Local);
    cluster.start(2);
    assert!(!cluster.is_hosted(2, "orders"), "an empty replica does not look like one that serves");
    cluster.run_until("it serves again", |cluster| cluster.is_hosted(2, "orders"));
    assert_ne!(cluster.replica_id(2, ORDERS), before);
    assert_eq!([local(&cluster, 2, "key"), local(&cluster, 2, "meanwhile")], [Some("v".to_owned()), Some("w".to_owned())]);
    put(&mut cluster, 2, "key", "again", Ack::AllUp);
    all_have(&mut cluster, &[1, 2, 3], "key", "again");
}

#[test]
fn all_volatile_replicas_that_end_at_once_begin_empty() {
    let mut cluster = cluster_of(3, r#"{"mode":"push","durability":"none"}"#);
    put(&mut cluster, 1, "key", "v", Ack::AllUp);
    (1..=3).for_each(|id| cluster.crash(id));
    (1..=3).for_each(|id| cluster.start(id));
    cluster.run_until("they serve again", |cluster| (1..=3).all(|id| cluster.is_hosted(id, "orders")));
    assert_eq!(local(&cluster, 1, "key"), None);
    assert_eq!(put(&mut cluster, 3, "key", "w", Ack::AllUp), 2);
}

#[test]
fn a_node_that_joins_gets_everything_before_it_serves() {
    let mut cluster = cluster_of(2, r#"{"mode":"push"}"#);
    for number in 0..200 {
        put(&mut cluster, 1 + number % 2, &format!("key {number}"), "v", Ack::Local);
    }
    let id = cluster.join();
    let role = |cluster: &Cluster| cluster.catalog(1).shard(ORDERS.0).and_then(|(_, _, shard)| Some(shard.replica_on(id)?.role));
    cluster.run_until("it is named", |cluster| role(cluster).is_some());
    assert_eq!(role(&cluster), Some(ReplicaRole::Learner));
    cluster.run_until("it serves", |cluster| cluster.is_hosted(id, "orders"));
    assert!(are_equal(&cluster, &[1, 2, id]));
    assert_eq!(put(&mut cluster, id, "key 7", "w", Ack::AllUp), 2);
}

#[test]
fn a_node_that_leaves_leaves_what_it_wrote() {
    let mut cluster = cluster_of(3, r#"{"mode":"batch","interval":60000}"#);
    put(&mut cluster, 3, "key", "v", Ack::Local);
    cluster.remove(3);
    cluster.run_until("it is gone", |cluster| !cluster.catalog(1).nodes.contains_key("n3"));
    assert_eq!([1, 2].map(|id| local(&cluster, id, "key")), [Some("v".to_owned()), Some("v".to_owned())]);
    let (_, _, shard) = cluster
        .catalog(1)
        .shard(ORDERS.0)
        .map(|(name, keyspace, shard)| (name.to_owned(), keyspace.clone(), shard.clone()))
        .unwrap();
    assert!(shard.replica_on(3).is_none());
}

#[test]
fn a_node_that_is_gone_for_good_is_taken_out_without_what_it_wrote() {
    let mut cluster = cluster_of(3, r#"{"mode":"batch","interval":60000}"#);
    put(&mut cluster, 3, "lost", "v", Ack::Local);
    cluster.crash(3);
    cluster.remove(3);
    cluster.run_until("it is gone", |cluster| !cluster.catalog(1).nodes.contains_key("n3"));
    assert_eq!(local(&cluster, 1, "lost"), None);
    put(&mut cluster, 1, "key", "v", Ack::Local);
    let token = ask(&mut cluster, 1, EventualAsk::Flush);
    assert_eq!(answer(&mut cluster, token), Answer::Eventual(Told::Done { reached: 1, others: 1 }));
    assert_eq!(local(&cluster, 2, "key").as_deref(), Some("v"));
}

#[test]
fn what_was_collected_is_sent_before_the_end() {
    let mut cluster = cluster_of(3, r#"{"mode":"batch","interval":60000}"#);
    put(&mut cluster, 2, "key", "v", Ack::Local);
    assert_eq!(local(&cluster, 1, "key"), None);
    cluster.tell(2, Input::Drain);
    cluster.run_until("it is drained", |cluster| cluster.status(2).is_drained);
    assert_eq!([1, 3].map(|id| local(&cluster, id, "key")), [Some("v".to_owned()), Some("v".to_owned())]);
}

#[test]
fn a_read_asks_the_others_and_keeps_the_newest() {
    let mut cluster = cluster_of(3, r#"{"mode":"read-repair"}"#);
    put(&mut cluster, 1, "key", "v", Ack::Local);
    assert_eq!(local(&cluster, 2, "key"), None);
    let token = ask(&mut cluster, 2, EventualAsk::Read { key: Bytes::from_static(b"key"), session: None });
    match answer(&mut cluster, token) {
        Answer::Eventual(Told::Found { entry, answered: 2, asked: 2, .. }) => assert_eq!(value_of(entry).as_deref(), Some("v")),
        other => panic!("{other:?}"),
    }
    assert_eq!(local(&cluster, 2, "key").as_deref(), Some("v"));
    assert_eq!(local(&cluster, 3, "key"), None, "nobody asked there");
}

#[test]
fn everything_is_copied_when_it_is_asked_for() {
    let mut cluster = cluster_of(3, r#"{"mode":"full-copy","trigger":"manual","sync_interval":86400000}"#);
    for number in 0..20 {
        put(&mut cluster, 1, &format!("key {number}"), "v", Ack::Local);
    }
    put(&mut cluster, 2, "other", "w", Ack::Local);
    cluster.run_for(5_000);
    assert_eq!(local(&cluster, 3, "key 0"), None);
    let token = ask(&mut cluster, 1, EventualAsk::Flush);
    assert_eq!(answer(&mut cluster, token), Answer::Eventual(Told::Done { reached: 2, others: 2 }));
    assert_eq!((local(&cluster, 3, "key 19").as_deref(), local(&cluster, 1, "other")), (Some("v"), None));
    let token = ask(&mut cluster, 3, EventualAsk::Sync);
    assert!(matches!(answer(&mut cluster, token), Answer::Eventual(Told::Done { reached: 2, others: 2 })));
    assert_eq!(local(&cluster, 3, "other").as_deref(), Some("w"));
}

#[test]
fn a_keyspace_that_is_deleted_is_gone_and_who_waits_is_told() {
    let mut cluster = cluster_of(3, r#"{"mode":"push"}"#);
    cluster.isolate(2);
    let token = begin_put(&mut cluster, 1, "key", "v", Ack::AllUp);
    cluster.settle();
    assert!(!cluster.answers.contains_key(&token));
    cluster.change(|catalog| catalog.plan_delete("orders").unwrap());
    assert_eq!(answer(&mut cluster, token), Answer::Failed(Failure::NotHosted));
    cluster.heal();
    cluster.run_until("it is gone", |cluster| (1..=3).all(|id| cluster.eventual(id, ORDERS).is_none()));
    cluster.restart(3);
    cluster.run_for(1_000);
    assert!(cluster.eventual(3, ORDERS).is_none() && !cluster.is_hosted(3, "orders"));
}

#[test]
fn one_that_was_deleted_while_a_node_was_away_is_gone_there_too() {
    let mut cluster = cluster_of(3, r#"{"mode":"push"}"#);
    put(&mut cluster, 3, "key", "v", Ack::AllUp);
    cluster.crash(3);
    cluster.change(|catalog| catalog.plan_delete("orders").unwrap());
    cluster.start(3);
    cluster.run_for(2_000);
    assert!(cluster.eventual(3, ORDERS).is_none());
    create(&mut cluster, r#"{"mode":"push"}"#);
    assert!((1..=3).all(|id| local(&cluster, id, "key").is_none()));
}

#[test]
fn settings_change_while_it_is_written_to() {
    let mut cluster = cluster_of(3, r#"{"mode":"batch","interval":60000}"#);
    put(&mut cluster, 1, "key", "v", Ack::Local);
    cluster.run_for(2_000);
    assert_eq!(local(&cluster, 2, "key"), None);
    let often = settings(r#"{"mode":"batch","interval":100}"#);
    cluster.change(|catalog| catalog.plan_alter("orders", &often, 0).unwrap().unwrap());
    all_have(&mut cluster, &[1, 2, 3], "key", "v");
    for other in [r#"{"mode":"push"}"#, r#"{"mode":"batch","durability":"none"}"#] {
        assert!(cluster.catalog(1).plan_alter("orders", &settings(other), 0).is_err(), "{other}");
    }
}

/// The engine serves on, with what it has.
#[test]
fn the_bounds_of_a_cache_change_while_it_serves() {
    let with = |max_entries: Option<u64>, replication: &str| {
        let options = max_entries.into_iter().map(|max_entries| ("max_entries".to_owned(), max_entries)).collect();
        let spec = EngineSpec { options, ..EngineSpec::of("cache") };
        let replication = serde_json::from_str(replication).expect("settings of a mode");
        let settings = KeyspaceSettings::with_defaults(spec.into(), replication, 1 << 30);
        KeyspaceSettings { ttl_ms: Some(600_000), ..settings }
    };
    let push = r#"{"mode":"push"}"#;
    let mut cluster = Cluster::of(2);
    cluster.change(|catalog| catalog.plan_create("orders", &with(None, push), 0).unwrap().unwrap());
    cluster.change(|catalog| catalog.plan_create("alone", &with(Some(5), r#"{"mode":"none"}"#), 0).unwrap().unwrap());
    cluster.run_until("all have it", |cluster| [1, 2].iter().all(|id| cluster.is_hosted(*id, "orders")));
    for number in 0..50 {
        put(&mut cluster, 1, &format!("key {number}"), "v", Ack::AllUp);
    }
    let figures = |cluster: &Cluster, id, name: &str| {
        let hosted = cluster.hosted(id, name).expect("it is hosted");
        let stats = hosted.engine.cache_stats().expect("a cache");
        (stats.pairs, stats.max_bytes)
    };
    let roomy = figures(&cluster, 1, "orders");
    assert_eq!(roomy.0, 50);
    cluster.change(|catalog| catalog.plan_alter("orders", &with(Some(20), push), 0).unwrap().unwrap());
    cluster.run_until("both keep to it", |cluster| [1, 2].iter().all(|id| figures(cluster, *id, "orders") == (20, roomy.1)));
    put(&mut cluster, 2, "another", "v", Ack::AllUp);
    assert_eq!([1, 2].map(|id| figures(&cluster, id, "orders").0), [20, 20]);
    all_have(&mut cluster, &[1, 2], "another", "v");

    let large = |mut settings: KeyspaceSettings| {
        let larger = EngineSpec { options: [("max_bytes".to_owned(), 1 << 20)].into(), ..EngineSpec::of("cache") };
        settings.engine = larger.into();
        settings
    };
    let altered = large(with(None, r#"{"mode":"none"}"#));
    cluster.change(|catalog| catalog.plan_alter("alone", &altered, 0).unwrap().unwrap());
    cluster.run_until("it has more room", |cluster| [1, 2].iter().all(|id| figures(cluster, *id, "alone") == (0, 1 << 20)));
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let mut cluster = cluster_of(3, r#"{"mode":"push"}"#);
    put(&mut cluster, 1, "key", "v", Ack::AllUp);
    cluster.tell(1, Input::DiskFull(true));
    let token = begin_put(&mut cluster, 1, "key", "w", Ack::Local);
    assert_eq!(answer(&mut cluster, token), Answer::Failed(Failure::DiskFull));
    put(&mut cluster, 2, "key", "x", Ack::Local);
    all_have(&mut cluster, &[2, 3], "key", "x");
    cluster.run_for(3_000);
    assert_eq!(local(&cluster, 1, "key").as_deref(), Some("v"), "what cannot be kept is not taken");
    cluster.tell(1, Input::DiskFull(false));
    all_have(&mut cluster, &[1], "key", "x");
}

#[test]
fn a_keyspace_that_is_full_refuses_values_and_takes_deletes() {
    let mut cluster = Cluster::of(2);
    let mut small = settings(r#"{"mode":"push"}"#);
    small.limits.max_bytes = Some(100);
    cluster.change(|catalog| catalog.plan_create("orders", &small, 0).unwrap().unwrap());
    cluster.run_until("all have it", |cluster| (1..=2).all(|id| cluster.is_hosted(id, "orders")));
    put(&mut cluster, 1, "key", &"v".repeat(80), Ack::Local);
    let token = begin_put(&mut cluster, 1, "other", &"v".repeat(80), Ack::Local);
    assert_eq!(answer(&mut cluster, token), Answer::Eventual(Told::Refused(Refusal::Full { max_bytes: 100 })));
    let delete =
        EventualAsk::Write { key: Bytes::from_static(b"key"), body: Body::Tombstone, ttl_ms: None, ack: None, session: None };
    let token = ask(&mut cluster, 1, delete);
    assert!(matches!(answer(&mut cluster, token), Answer::Eventual(Told::Written { replaced: true, .. })));
    put(&mut cluster, 1, "other", &"v".repeat(80), Ack::Local);
}

#[test]
fn a_cache_is_told_what_is_new_or_only_that_what_it_has_is_old() {
    for (sends, there) in [("values", Some("w")), ("invalidations", None)] {
        let mut cluster = Cluster::of(3);
        let replication = format!(r#"{{"mode":"push","sends":"{sends}"}}"#);
        let engine = EngineSpec { kind: "cache".to_owned(), options: [("max_bytes".to_owned(), 1 << 20)].into(), behind: None };
        let replication = serde_json::from_str(&replication).expect("settings of a mode");
        let mut cached = KeyspaceSettings::with_defaults(engine.into(), replication, 1 << 30);
        cached.ttl_ms = Some(60_000);
        cluster.change(|catalog| catalog.plan_create("orders", &cached, 0).unwrap().unwrap());
        cluster.run_until("all have it", |cluster| (1..=3).all(|id| cluster.is_hosted(id, "orders")));
        put(&mut cluster, 2, "key", "v", Ack::AllUp);
        assert_eq!(put(&mut cluster, 1, "key", "w", Ack::AllUp), 2);
        assert_eq!(local(&cluster, 1, "key").as_deref(), Some("w"));
        assert_eq!([2, 3].map(|id| local(&cluster, id, "key")), [there, there].map(|value| value.map(str::to_owned)), "{sends}");
        cluster.restart(1);
        cluster.run_until("it serves again", |cluster| cluster.is_hosted(1, "orders"));
        put(&mut cluster, 1, "key", "x", Ack::AllUp);
    }
}
