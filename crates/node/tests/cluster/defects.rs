use quorate_api::peer::Lane;
use quorate_node::Config;

use crate::harness::{Cluster, DEFAULT, SYSTEM};

fn small() -> Config {
    Config { snapshot_log_bytes: 2 << 10, snapshot_chunk_bytes: 512, ..Config::default() }
}

#[test]
fn smoke() {
    let mut c = Cluster::of(3);
    c.must_put(1, "a", "1");
    c.must_put(2, "b", "2");
    assert_eq!(c.read(3, "b"), Some(Some("2".into())));
    c.run_for(500);
    assert!(c.agrees(DEFAULT) && c.agrees(SYSTEM));
}

#[test]
fn s1_election_while_loading() {
    let mut c = Cluster::with(3, small());
    c.isolate(3);
    for n in 0..200 {
        c.must_put(1, &format!("k{n}"), &"v".repeat(50));
    }
    c.run_for(3000);
    c.host_mut(3).holds_loads = true;
    c.heal();
    c.run_until("a snapshot to load", |c| c.is_about_to_load(3));
    c.isolate(3);
    c.run_for(5000);
    c.host_mut(3).holds_loads = false;
    c.heal();
    c.run_until("3 caught up", |c| c.is_caught_up(3));
}

#[test]
fn s2_single_voter_and_learner() {
    let mut c = Cluster::of(1);
    c.must_put(1, "base", "x");
    let id = c.join();
    assert_eq!(id, 2);
    // until the learner has the data, but is no voter yet
    let mut rounds = 0;
    while c.local(2, "base").is_none() {
        if !c.round() {
            c.run_for(1);
            let t = c.replica(1, DEFAULT).unwrap();
            let _ = t;
            c.run_for(99);
        }
        rounds += 1;
        assert!(rounds < 10000);
    }
    let r = c.replica(1, DEFAULT).unwrap();
    println!("{:?} {:?}", r.voters, r.learners);
    assert_eq!((r.voters.clone(), r.learners.clone()), (vec![1], vec![2]));
    for n in 0..5 {
        c.must_put(1, "more", &n.to_string());
    }
    c.settle();
    let r = c.replica(1, DEFAULT).unwrap();
    assert_eq!((r.voters.clone(), r.learners.clone()), (vec![1], vec![2]));
    // first life: nothing becomes durable
    c.crash(1);
    c.host_mut(1).holds_log = true;
    c.start(1);
    c.settle();
    println!("1: {:?}", c.replica(1, DEFAULT).map(|r| (r.role, r.term, r.last_index, r.voters, r.learners)));
    println!("2: {:?}", c.replica(2, DEFAULT).map(|r| (r.role, r.term, r.last_index)));
    c.run_for(100);
    println!("2: {:?}", c.replica(2, DEFAULT).map(|r| (r.role, r.term, r.last_index)));
    let t = c.put(1, "k", "lost");
    c.settle();
    println!("2: {:?}", c.replica(2, DEFAULT).map(|r| (r.role, r.term, r.last_index)));
    assert!(!c.is_applied(t));
    c.crash(1);
    c.start(1);
    c.run_until("leads again", |c| c.leader(DEFAULT) == Some(1));
    c.must_put(1, "k", "kept");
    c.run_for(2000);
    println!("1 {:?}  2 {:?}", c.local(1, "k"), c.local(2, "k"));
    println!("1: {:?}", c.replica(1, DEFAULT).map(|r| (r.role, r.term, r.last_index, r.applied_index)));
    println!("2: {:?}", c.replica(2, DEFAULT).map(|r| (r.role, r.term, r.last_index, r.applied_index)));
    assert_eq!(c.local(1, "k"), c.local(2, "k"));
    assert!(c.agrees(DEFAULT));
}

#[test]
fn s3a_remove_second_of_two() {
    let mut c = Cluster::of(2);
    c.run_until("2 is a voter", |c| {
        c.replica(1, DEFAULT).unwrap().voters == [1, 2] && c.replica(1, SYSTEM).unwrap().voters == [1, 2]
    });
    c.remove(2);
    c.run_for(5000);
    c.must_put(1, "a", "b");
}

#[test]
fn s3b_remove_leader_of_two() {
    let mut c = Cluster::of(2);
    c.run_until("2 is a voter", |c| {
        c.replica(1, DEFAULT).unwrap().voters == [1, 2] && c.replica(1, SYSTEM).unwrap().voters == [1, 2]
    });
    c.remove(1);
    c.run_for(5000);
    c.must_put(2, "a", "b");
}

#[test]
fn s4_catch_up_of_much() {
    let mut c = Cluster::with(3, Config { snapshot_log_bytes: 1 << 30, ..Config::default() });
    c.isolate(3);
    let big = "v".repeat(1 << 20);
    for n in 0..40 {
        c.must_put(1, &format!("k{n}"), &big);
    }
    c.sent.clear();
    c.heal();
    c.is_reached(30_000, |c| c.is_caught_up(3));
    println!("too long {}", c.too_long);
    assert_eq!(c.too_long, 0);
}

#[test]
fn s4b_burst() {
    let mut c = Cluster::with(3, Config { snapshot_log_bytes: 1 << 30, ..Config::default() });
    let big = "v".repeat(1 << 20);
    let tokens: Vec<u64> = (0..40).map(|n| c.put(1, &format!("k{n}"), &big)).collect();
    c.is_reached(30_000, |c| tokens.iter().all(|t| c.answers.contains_key(t)));
    println!("too long {}", c.too_long);
    assert!(tokens.iter().all(|t| c.is_applied(*t)));
    assert_eq!(c.too_long, 0);
}

#[test]
fn s6_staged_file_before_a_log_that_conflicts() {
    let mut c = Cluster::with(3, small());
    c.isolate(1);
    for n in 0..600 {
        c.put(1, &format!("u{n}"), "u");
        c.round();
    }
    c.settle();
    println!("1: {:?}", c.replica(1, DEFAULT).map(|r| (r.role, r.term, r.last_index)));
    c.run_until("new leader", |c| c.leader(DEFAULT).is_some_and(|l| l != 1));
    let l = c.leader(DEFAULT).unwrap();
    for n in 0..100 {
        c.must_put(l, &format!("k{n}"), &"v".repeat(50));
    }
    c.run_for(3000);
    let l = c.leader(DEFAULT).unwrap();
    println!("leader {l}: {:?}", c.replica(l, DEFAULT).map(|r| (r.role, r.term, r.first_index, r.last_index)));
    c.hold(2, 1, Lane::Bulk);
    c.hold(3, 1, Lane::Bulk);
    c.cut_clear();
    c.run_for(1000);
    println!("1: {:?}", c.replica(1, DEFAULT).map(|r| (r.role, r.term, r.first_index, r.last_index)));
    c.host_mut(1).holds_log = true;
    c.heal();
    c.run_for(500);
    c.crash(1);
    println!("files {:?}", quorate_log::Disk::list(&c.host_mut(1).file_disk));
    c.start(1);
    c.run_for(20_000);
    println!(
        "1: {:?}",
        c.replica(1, DEFAULT).map(|r| (r.role, r.term, r.first_index, r.last_index, r.commit_index, r.applied_index))
    );
    println!("leader {l}: {:?}", c.replica(l, DEFAULT).map(|r| (r.role, r.term, r.first_index, r.last_index)));
    c.must_put(l, "last", "one");
    c.run_for(5_000);
    assert_eq!(c.local(1, "last").as_deref(), Some("one"));
}
