//! Replicas whose engines are damaged: log and vote stay, the content comes from the leader.

use quorate_engine::Engines;
use quorate_log::Disk;
use quorate_node::Config;

use crate::harness::{Cluster, DEFAULT};

/// On an engine that comes back by itself, flushed often.
fn often_flushed() -> Config {
    Config { default_engine: "btree".to_owned(), flush_log_bytes: 2 << 10, snapshot_chunk_bytes: 512, ..Config::default() }
}

fn fill(cluster: &mut Cluster, count: u64) {
    for number in 0..count {
        cluster.must_put(1, &format!("key {number}"), &"v".repeat(50));
    }
}

/// Crashes a node, damages what its engines kept, loses the snapshot files beside them, and starts it where nobody hears it.
fn lose_engine(cluster: &mut Cluster, id: u64) {
    cluster.crash(id);
    let engines = std::sync::Arc::clone(&cluster.host_mut(id).engines);
    let places = engines.places().unwrap();
    assert!(!places.is_empty(), "there is something to damage");
    places.into_iter().for_each(|place| engines.damage(place));
    let files = cluster.host_mut(id).file_disk.clone();
    let own = format!("{:016x}-", DEFAULT.0);
    files.list().unwrap().iter().filter(|name| name.starts_with(&own)).for_each(|name| files.remove(name).unwrap());
    files.sync_dir().unwrap();
    cluster.isolate(id);
    cluster.start(id);
}

/// Seed 146: a node that got its log by snapshot had its membership nowhere but in its engine. Without the engine it counted
/// only the changes since then, of which the last said that it votes: it took itself for the only voter.
#[test]
fn a_node_that_began_with_a_snapshot_knows_who_votes_without_its_engine() {
    let mut cluster = Cluster::with(1, often_flushed());
    fill(&mut cluster, 200);
    cluster.run_until("the log is purged", |cluster| cluster.replica(1, DEFAULT).unwrap().first_index > 100);
    cluster.join();
    cluster.join();
    cluster.run_until("all are voters", |cluster| (1..=3).all(|id| cluster.is_caught_up(id)));
    lose_engine(&mut cluster, 3);
    let alone = cluster.replica(3, DEFAULT).unwrap();
    assert!(alone.is_rebuilding, "its engine is gone");
    assert_eq!(alone.voters, [1, 2, 3]);
    cluster.run_for(10_000);
    assert_ne!(cluster.replica(3, DEFAULT).unwrap().role, "leader", "one of three leads nobody");
    cluster.heal();
    cluster.run_until("its engine is filled again", |cluster| cluster.is_caught_up(3) && cluster.agrees(DEFAULT));
    assert_eq!(cluster.must_read(3, "key 199"), Some("v".repeat(50)));
}

#[test]
fn a_lost_engine_is_filled_again_and_takes_in_what_came_meanwhile() {
    let mut cluster = Cluster::with(3, often_flushed());
    fill(&mut cluster, 200);
    lose_engine(&mut cluster, 3);
    for number in 200..220 {
        cluster.must_put(1, &format!("key {number}"), "later");
    }
    cluster.heal();
    cluster.run_until("its engine is filled again", |cluster| cluster.is_caught_up(3) && cluster.agrees(DEFAULT));
    assert_eq!(cluster.must_read(3, "key 199"), Some("v".repeat(50)));
    assert_eq!(cluster.must_read(3, "key 219").as_deref(), Some("later"));
    cluster.restart(3);
    assert!(!cluster.replica(3, DEFAULT).unwrap().is_rebuilding, "what it was given is durable");
}
