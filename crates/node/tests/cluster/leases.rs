//! Times to live and leases in a cluster: who keeps the time, and what becomes of it when another leads.

use bytes::Bytes;
use quorate_api::peer::{Frame, Lane};
use quorate_node::keyspace::{LeaseId, Op, Outcome, Put, Write};
use quorate_node::{Answer, Failure, Input, LeaseQuestion, LeaseTime, RequestKind};

use crate::harness::{Cluster, DEFAULT};

const TTL_MS: u64 = 5000;

/// From the end of a time until the entry that says so is applied everywhere: a tick, and a beat for the followers.
const SOON_MS: u64 = 700;

fn put(key: &str) -> Put {
    Put::new(Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(b"v"))
}

fn must_write(cluster: &mut Cluster, id: u64, ops: Vec<Op>) {
    let write = Write { ops, ..Write::default() };
    let token = cluster.request(id, DEFAULT, RequestKind::Write(write.to_bytes()), 20_000);
    cluster.run_until("the write is answered", |cluster| cluster.answers.contains_key(&token));
    assert!(cluster.is_applied(token), "{:?}", cluster.answers[&token]);
}

/// A lease with a key, and a pair that lives as long by itself.
fn grant(cluster: &mut Cluster, id: u64, lease: u64, key: &str) {
    let leased = Op::Put(Put { lease: Some(LeaseId(lease)), ..put(key) });
    must_write(cluster, id, vec![Op::LeaseGrant { id: LeaseId(lease), ttl_ms: TTL_MS }, leased]);
}

fn ask(cluster: &mut Cluster, id: u64, leases: &[u64], keeps_alive: bool) -> u64 {
    let leases = leases.iter().copied().map(LeaseId).collect();
    cluster.request(id, DEFAULT, RequestKind::Leases(LeaseQuestion { leases, keeps_alive }), 10_000)
}

fn times(cluster: &mut Cluster, id: u64, leases: &[u64], keeps_alive: bool) -> Vec<Option<u64>> {
    let token = ask(cluster, id, leases, keeps_alive);
    cluster.run_until("the question is answered", |cluster| cluster.answers.contains_key(&token));
    match &cluster.answers[&token] {
        Answer::Leases(times) => times.iter().map(|time| time.map(|LeaseTime { left_ms, .. }| left_ms)).collect(),
        answer => panic!("{answer:?}"),
    }
}

fn keep_alive(cluster: &mut Cluster, id: u64, lease: u64) {
    assert_eq!(times(cluster, id, &[lease], true), [Some(TTL_MS)]);
}

fn is_there(cluster: &Cluster, key: &str) -> [bool; 3] {
    [1, 2, 3].map(|id| cluster.local(id, key).is_some())
}

#[test]
fn a_pair_goes_everywhere_when_its_time_is_up_and_wakes_a_group_at_rest() {
    let mut cluster = Cluster::of(3);
    must_write(&mut cluster, 2, vec![Op::Put(Put { ttl_ms: Some(TTL_MS), ..put("a") }), Op::Put(put("b"))]);
    let entries = cluster.replica(1, DEFAULT).unwrap().last_index;
    cluster.run_for(TTL_MS - 200);
    assert_eq!(is_there(&cluster, "a"), [true; 3]);
    assert_eq!(cluster.replica(1, DEFAULT).unwrap().last_index, entries, "nothing is proposed before it is time");
    cluster.run_for(200 + SOON_MS);
    assert_eq!((is_there(&cluster, "a"), is_there(&cluster, "b")), ([false; 3], [true; 3]));
    cluster.run_for(10_000);
    assert_eq!(cluster.replica(1, DEFAULT).unwrap().last_index, entries + 1, "one entry does it, and then there is rest");
    assert!(cluster.agrees(DEFAULT));
}

#[test]
fn thousands_of_pairs_go_without_waiting_for_ticks() {
    let mut cluster = Cluster::of(3);
    let ops = (0..5000).map(|number| Op::Put(Put { ttl_ms: Some(TTL_MS), ..put(&format!("{number:04}")) })).collect();
    must_write(&mut cluster, 1, ops);
    cluster.run_for(TTL_MS + SOON_MS);
    assert_eq!(cluster.replica(3, DEFAULT).unwrap().data_bytes, 0);
}

#[test]
fn a_jump_of_the_clock_ends_nothing() {
    let mut cluster = Cluster::of(3);
    must_write(&mut cluster, 2, vec![Op::Put(Put { ttl_ms: Some(TTL_MS), ..put("a") })]);
    grant(&mut cluster, 2, 7, "b");
    cluster.jump(60_000);
    cluster.run_for(TTL_MS - 1000);
    assert_eq!((is_there(&cluster, "a"), is_there(&cluster, "b")), ([true; 3], [true; 3]));
    cluster
        .run_until("both go in the end", |cluster| is_there(cluster, "a") == [false; 3] && is_there(cluster, "b") == [false; 3]);
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive_through_any_node() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 3, 7, "a");
    assert_eq!(times(&mut cluster, 2, &[7, 8], false).len(), 2);
    for id in [1, 2, 3, 1, 2, 3] {
        cluster.run_for(TTL_MS - 1000);
        keep_alive(&mut cluster, id, 7);
    }
    assert_eq!(times(&mut cluster, 3, &[8, 7], true), [None, Some(TTL_MS)]);
    cluster.run_for(TTL_MS - 200);
    assert_eq!(is_there(&cluster, "a"), [true; 3]);
    cluster.run_for(200 + SOON_MS);
    assert_eq!(is_there(&cluster, "a"), [false; 3]);
    assert_eq!(times(&mut cluster, 2, &[7], true), [None]);
    let entries = cluster.replica(1, DEFAULT).unwrap().last_index;
    cluster.run_for(3 * TTL_MS);
    assert_eq!(cluster.replica(1, DEFAULT).unwrap().last_index, entries, "its end is proposed once");
}

#[test]
fn a_new_leader_gives_each_lease_its_full_time() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 1, 7, "a");
    cluster.run_for(TTL_MS - 500);
    cluster.isolate(1);
    cluster.run_until("another leads", |cluster| cluster.leader(DEFAULT).is_some_and(|id| id != 1));
    cluster.run_for(TTL_MS - 300);
    assert_eq!(is_there(&cluster, "a"), [true; 3]);
    // The old one is not among those that agree any more: it can end nothing.
    cluster.run_for(300 + SOON_MS);
    assert_eq!(is_there(&cluster, "a"), [true, false, false]);
    cluster.heal();
    cluster.run_until("all agree", |cluster| cluster.is_caught_up(1) && cluster.agrees(DEFAULT));
    assert_eq!(is_there(&cluster, "a"), [false; 3]);
}

#[test]
fn a_leader_that_is_cut_off_keeps_nothing_alive() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 1, 7, "a");
    cluster.isolate(1);
    let token = ask(&mut cluster, 1, &[7], true);
    cluster.run_until("another leads", |cluster| cluster.leader(DEFAULT).is_some_and(|id| id != 1));
    cluster.run_for(TTL_MS + SOON_MS);
    assert_eq!(is_there(&cluster, "a"), [true, false, false]);
    cluster.run_until("time is up", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::Failed(Failure::Unknown));
}

#[test]
fn a_question_goes_on_to_the_next_leader() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 1, 7, "a");
    cluster.hold(1, 3, Lane::Request);
    let token = ask(&mut cluster, 3, &[7], true);
    cluster.settle();
    assert!(!cluster.answers.contains_key(&token));
    cluster.crash(1);
    cluster.run_until("the next leader answers", |cluster| cluster.answers.contains_key(&token));
    assert!(matches!(&cluster.answers[&token], Answer::Leases(times) if times[0].is_some()));
}

#[test]
fn an_end_that_was_decided_stays_decided() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 1, 7, "a");
    // The end is proposed, and nobody else hears of it.
    for follower in [2, 3] {
        cluster.hold(1, follower, Lane::Append);
    }
    let before = cluster.replica(1, DEFAULT).unwrap().last_index;
    assert!(cluster.is_reached(TTL_MS + SOON_MS, |cluster| cluster.replica(1, DEFAULT).unwrap().last_index > before));
    let token = ask(&mut cluster, 1, &[7], true);
    for follower in [2, 3] {
        cluster.let_go(1, follower, Lane::Append);
    }
    cluster.run_until("it is answered", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::Leases(vec![None]));
    cluster.run_until("it is gone", |cluster| is_there(cluster, "a") == [false; 3]);
}

#[test]
fn an_end_that_is_late_does_not_end_the_next_lease_of_that_name() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 1, 7, "a");
    cluster.run_for(TTL_MS - 200);
    must_write(&mut cluster, 2, vec![Op::LeaseRevoke { id: LeaseId(7) }]);
    grant(&mut cluster, 2, 7, "b");
    cluster.run_for(TTL_MS - 500);
    assert_eq!((is_there(&cluster, "a"), is_there(&cluster, "b")), ([false; 3], [true; 3]));
    cluster.run_for(500 + SOON_MS);
    assert_eq!(is_there(&cluster, "b"), [false; 3]);
}

#[test]
fn leases_survive_restarts_at_full_length() {
    let mut cluster = Cluster::of(3);
    for lease in 1..=40 {
        grant(&mut cluster, 1, lease, &format!("key {lease}"));
    }
    cluster.run_for(TTL_MS - 1000);
    for id in [1, 2, 3] {
        cluster.crash(id);
    }
    for id in [1, 2, 3] {
        cluster.start(id);
    }
    cluster.run_until("one leads", |cluster| cluster.leader(DEFAULT).is_some());
    let all: Vec<u64> = (1..=41).collect();
    let found = times(&mut cluster, 2, &all, false);
    assert!(found[..40].iter().all(|left_ms| left_ms.is_some_and(|left_ms| left_ms > TTL_MS - 500)), "{found:?}");
    assert_eq!(found[40], None);
    cluster.run_for(TTL_MS + SOON_MS);
    assert_eq!(is_there(&cluster, "key 40"), [false; 3]);
    assert!(cluster.agrees(DEFAULT));
}

#[test]
fn odd_questions_and_answers_do_no_harm() {
    let mut cluster = Cluster::of(3);
    grant(&mut cluster, 1, 7, "a");
    let asks =
        |origin, ids| Frame::LeaseAsks(vec![quorate_api::peer::LeaseAsk { group: 1, origin, number: 1, keeps_alive: true, ids }]);
    cluster.say(2, 1, Lane::Request, asks(9, vec![7; 20_000]));
    cluster.say(2, 1, Lane::Request, asks(9, vec![]));
    cluster.say(2, 3, Lane::Request, asks(9, vec![7]));
    let answer = |group, number| quorate_api::peer::LeaseAnswer {
        group,
        origin: 0,
        number,
        result: quorate_api::peer::LeaseResult::Times(Vec::new()),
    };
    cluster.say(1, 2, Lane::Request, Frame::LeaseAnswers(vec![answer(1, 1), answer(99, 7)]));
    cluster.settle();
    let token = ask(&mut cluster, 1, &vec![7; 10_001], true);
    cluster.settle();
    assert_eq!(cluster.answers[&token], Answer::Failed(Failure::Overloaded));
    keep_alive(&mut cluster, 3, 7);
    cluster.tell(3, Input::Unreachable { node: 1, lane: Lane::Request });
    keep_alive(&mut cluster, 3, 7);
}

#[test]
fn a_lease_of_a_write_that_was_refused_is_none() {
    let mut cluster = Cluster::of(3);
    let write = Write { ops: vec![Op::Put(Put { lease: Some(LeaseId(9)), ..put("a") })], ..Write::default() };
    let token = cluster.request(2, DEFAULT, RequestKind::Write(write.to_bytes()), 5000);
    cluster.run_until("it is answered", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::Written(Outcome::LeaseNotFound { lease: LeaseId(9) }));
    assert_eq!(times(&mut cluster, 2, &[9], true), [None]);
}
