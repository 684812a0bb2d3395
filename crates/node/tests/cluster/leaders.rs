//! Leaders that change, or are cut off: writes on their way, and reads.

use quorate_api::peer::Lane;
use quorate_node::{Answer, Failure, RequestKind};

use crate::harness::{Cluster, DEFAULT};

fn revision(cluster: &Cluster, id: u64) -> u64 {
    cluster.replica(id, DEFAULT).unwrap().revision
}

#[test]
fn a_write_that_the_old_leader_committed_and_could_not_answer_is_applied_once() {
    let mut cluster = Cluster::of(3);
    let before = revision(&cluster, 1);
    cluster.hold(1, 3, Lane::Append);
    cluster.hold(1, 3, Lane::Request);
    let token = cluster.put(3, "key", "value");
    cluster.settle();
    assert_eq!(cluster.local(1, "key").as_deref(), Some("value"));
    assert!(!cluster.answers.contains_key(&token));

    cluster.isolate(1);
    cluster.run_until("the next leader answers", |cluster| cluster.is_applied(token));
    assert_eq!(cluster.leader(DEFAULT), Some(2), "node 3 does not have the entry");
    cluster.heal();
    cluster.run_until("all have it", |cluster| cluster.is_caught_up(1) && cluster.agrees(DEFAULT));
    assert_eq!(revision(&cluster, 1), before + 1);
}

#[test]
fn a_write_that_only_the_old_leader_logged_is_applied_once() {
    let mut cluster = Cluster::of(3);
    let before = revision(&cluster, 1);
    for follower in [2, 3] {
        cluster.hold(1, follower, Lane::Append);
    }
    let token = cluster.put(3, "key", "value");
    cluster.settle();
    let last_index = cluster.replica(1, DEFAULT).unwrap().last_index;
    assert!(last_index > cluster.replica(2, DEFAULT).unwrap().last_index);

    cluster.isolate(1);
    cluster.run_until("the next leader answers", |cluster| cluster.is_applied(token));
    cluster.heal();
    cluster.run_until("all have it", |cluster| cluster.is_caught_up(1) && cluster.agrees(DEFAULT));
    assert_eq!(revision(&cluster, 1), before + 1);
}

#[test]
fn a_write_is_answered_when_its_leader_is_gone_for_good() {
    let mut cluster = Cluster::of(3);
    cluster.hold(3, 1, Lane::Request);
    let token = cluster.put(3, "key", "value");
    cluster.crash(1);
    cluster.run_until("the next leader answers", |cluster| cluster.is_applied(token));
    assert!(cluster.agrees(DEFAULT));
}

#[test]
fn what_no_leader_took_fails_as_not_done_and_what_one_took_as_unknown() {
    let mut cluster = Cluster::of(3);
    let write = || RequestKind::Write(quorate_node::keyspace::Write::delete("key".into()).to_bytes());
    cluster.crash(2);
    cluster.crash(3);
    let taken = cluster.request(1, DEFAULT, write(), 1000);
    cluster.run_until("it is answered", |cluster| cluster.answers.contains_key(&taken));
    assert_eq!(cluster.answers[&taken], Answer::Failed(Failure::Unknown));

    cluster.run_until("node 1 gives up", |cluster| cluster.replica(1, DEFAULT).unwrap().role != "leader");
    let refused = cluster.request(1, DEFAULT, write(), 1000);
    cluster.run_until("it is answered", |cluster| cluster.answers.contains_key(&refused));
    assert_eq!(cluster.answers[&refused], Answer::Failed(Failure::NoLeader));
}

#[test]
fn an_answer_to_the_life_before_is_no_answer_to_this_one() {
    let mut cluster = Cluster::of(3);
    for follower in [2, 3] {
        cluster.hold(follower, 1, Lane::Append);
    }
    let lost = cluster.put(3, "key", "of the life before");
    cluster.settle();
    cluster.restart(3);
    cluster.hold(3, 1, Lane::Request);
    cluster.run_until("node 3 knows the leader", |cluster| cluster.replica(3, DEFAULT).unwrap().leader == Some(1));
    let token = cluster.put(3, "key", "of this life");
    cluster.settle();
    cluster.let_go(2, 1, Lane::Append);
    cluster.run_until("the older write is committed", |cluster| cluster.local(1, "key").is_some());
    cluster.settle();
    assert!(!cluster.answers.contains_key(&lost), "nobody waits for it any more");
    assert!(!cluster.answers.contains_key(&token), "it did not even leave node 3");

    cluster.heal();
    cluster.run_until("the newer write is answered", |cluster| cluster.is_applied(token));
    assert_eq!(cluster.must_read(2, "key").as_deref(), Some("of this life"));
}

#[test]
fn a_read_on_a_follower_sees_what_was_acknowledged_before_it() {
    let mut cluster = Cluster::of(3);
    cluster.hold(1, 3, Lane::Append);
    cluster.must_put(1, "key", "value");
    let token = cluster.read_index(3, 10_000);
    cluster.run_for(2000);
    assert!(!cluster.answers.contains_key(&token), "node 3 does not have it yet");
    cluster.heal();
    cluster.run_until("the read is answered", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::ReadReady);
    assert_eq!(cluster.local(3, "key").as_deref(), Some("value"));
}

#[test]
fn a_leader_that_is_cut_off_serves_no_reads() {
    let mut cluster = Cluster::of(3);
    cluster.must_put(1, "key", "old");
    cluster.isolate(1);
    let mut reads = vec![cluster.read_index(1, 1500)];
    cluster.run_until("another leads", |cluster| {
        [2, 3].into_iter().any(|id| cluster.replica(id, DEFAULT).is_some_and(|replica| replica.role == "leader"))
    });
    cluster.must_put(2, "key", "new");
    for _ in 0..10 {
        reads.push(cluster.read_index(1, 1500));
        cluster.run_for(100);
    }
    cluster.run_for(1500);
    for token in reads {
        assert_eq!(cluster.answers[&token], Answer::Failed(Failure::NoLeader));
    }
    assert_eq!(cluster.local(1, "key").as_deref(), Some("old"));
    cluster.heal();
    assert_eq!(cluster.must_read(1, "key").as_deref(), Some("new"));
}

#[test]
fn a_read_waits_for_the_first_commit_of_a_new_leader() {
    let mut cluster = Cluster::of(3);
    cluster.must_put(1, "key", "value");
    cluster.crash(1);
    let token = cluster.read_index(2, 20_000);
    cluster.run_until("the read is answered", |cluster| cluster.answers.contains_key(&token));
    assert_eq!(cluster.answers[&token], Answer::ReadReady);
    assert_eq!(cluster.local(2, "key").as_deref(), Some("value"));
}

#[test]
fn leadership_goes_where_it_is_asked_to_go() {
    let mut cluster = Cluster::of(3);
    for (asked, to) in [(1, 3), (1, 2), (3, 1)] {
        let token = cluster.request(asked, DEFAULT, RequestKind::TransferLeader(Some(to)), 5000);
        cluster.run_until("it is answered", |cluster| cluster.answers.contains_key(&token));
        assert_eq!(cluster.answers[&token], Answer::Transferred, "asked of node {asked}");
        assert_eq!(cluster.leader(DEFAULT), Some(to));
    }
}

#[test]
fn a_node_that_ends_hands_over_first() {
    let mut cluster = Cluster::of(3);
    cluster.tell(1, quorate_node::Input::ShutDown);
    let token = cluster.put(2, "key", "value");
    cluster.run_until("node 1 ended", |cluster| !cluster.hosts[&1].is_running());
    assert!(cluster.is_applied(token));
    assert!(cluster.leader(DEFAULT).is_some_and(|leader| leader != 1), "nobody waited for a timeout");
}

/// Before it ends, a node is drained: it leads nothing any more where others can, and goes on serving through those who do.
#[test]
fn a_node_that_is_drained_goes_on_serving() {
    let mut cluster = Cluster::of(3);
    cluster.tell(1, quorate_node::Input::Drain);
    let token = cluster.put(1, "key", "value");
    cluster.run_until("node 1 is drained", |cluster| cluster.status(1).is_drained);
    cluster.run_until("its write is done", |cluster| cluster.answers.contains_key(&token));
    assert!(cluster.is_applied(token));
    assert!(cluster.leader(DEFAULT).is_some_and(|leader| leader != 1));
    assert_eq!(cluster.must_read(1, "key").as_deref(), Some("value"));
    assert!(cluster.hosts[&1].is_running() && cluster.status(1).is_stopping);
}
