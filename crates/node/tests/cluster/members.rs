//! Nodes that come and go.

use quorate_api::peer::{Frame, Lane, RaftMessage};
use quorate_node::{Input, ReplicaStatus, StopReason};
use raft::eraftpb::MessageType;

use crate::harness::{Cluster, DEFAULT, SYSTEM};

fn replica(cluster: &Cluster, id: u64) -> ReplicaStatus {
    cluster.replica(id, DEFAULT).unwrap()
}

#[test]
fn the_sixth_node_learns_until_a_voter_goes() {
    let mut cluster = Cluster::of(6);
    assert_eq!((replica(&cluster, 1).voters, replica(&cluster, 1).learners), (vec![1, 2, 3, 4, 5], vec![6]));
    cluster.must_put(6, "key", "value");
    cluster.remove(2);
    cluster.run_until("node 6 votes in its place", |cluster| {
        [DEFAULT, SYSTEM].into_iter().all(|group| cluster.replica(1, group).unwrap().voters == [1, 3, 4, 5, 6])
    });
    cluster.run_until("node 2 is forgotten", |cluster| cluster.catalog(1).is_removed(2));
    cluster.crash(2);
    cluster.run_until("all others agree", |cluster| cluster.agrees(DEFAULT));
    assert_eq!(cluster.local(6, "key").as_deref(), Some("value"));
}

#[test]
fn a_node_that_was_removed_ends_when_it_hears_of_it() {
    let mut cluster = Cluster::of(3);
    cluster.remove(3);
    cluster.run_until("node 3 is forgotten", |cluster| cluster.catalog(1).is_removed(3));
    cluster.tell(3, Input::Removed);
    cluster.run_until("node 3 ended", |cluster| !cluster.hosts[&3].is_running());
    assert_eq!(cluster.hosts[&3].stopped, Some(StopReason::Removed));
    cluster.must_put(2, "key", "value");
}

#[test]
fn a_node_that_was_removed_and_hears_of_nothing_disturbs_nobody() {
    let mut cluster = Cluster::of(3);
    cluster.isolate(3);
    cluster.remove(3);
    cluster.run_until("node 3 is forgotten", |cluster| cluster.catalog(1).is_removed(3));
    let term = replica(&cluster, 1).term;
    cluster.heal();
    cluster.run_for(10_000);
    assert_eq!((replica(&cluster, 1).term, cluster.leader(DEFAULT)), (term, Some(1)));
    let token = cluster.read_index(3, 3000);
    cluster.run_for(3000);
    assert_ne!(cluster.answers[&token], quorate_node::Answer::ReadReady, "it serves no reads");
}

#[test]
fn a_node_comes_while_another_is_down() {
    let mut cluster = Cluster::of(3);
    cluster.crash(3);
    let id = cluster.join();
    cluster.run_until("node 4 votes", |cluster| cluster.is_caught_up(id) && replica(cluster, 1).voters == [1, 2, 3, 4]);
    cluster.must_put(id, "key", "value");
    cluster.start(3);
    cluster.run_until("node 3 is back", |cluster| cluster.is_caught_up(3) && cluster.agrees(DEFAULT));
}

#[test]
fn a_node_that_stops_while_it_joins_goes_on_when_it_starts_again() {
    let mut cluster = Cluster::of(1);
    for number in 0..20 {
        cluster.must_put(1, &format!("key {number}"), "value");
    }
    let id = cluster.join();
    for _ in 0..5 {
        for _ in 0..3 {
            cluster.round();
        }
        cluster.restart(id);
    }
    cluster.run_until("it has all", |cluster| cluster.is_caught_up(id) && cluster.agrees(DEFAULT));
}

#[test]
fn a_leader_elected_before_its_own_removal_was_committed_steps_down() {
    let mut cluster = Cluster::of(3);
    let (old_leader, removed) = (cluster.replica_id(1, DEFAULT), cluster.replica_id(2, DEFAULT));
    cluster.remove(2);
    for follower in [2, 3] {
        cluster.hold(follower, 1, Lane::Append);
    }
    let last_index = replica(&cluster, 1).last_index;
    cluster.run_until("both have the entry that takes node 2 out", |cluster| {
        [2, 3].into_iter().all(|id| replica(cluster, id).last_index > last_index)
    });
    assert_eq!(replica(&cluster, 2).voters, [1, 2, 3], "it is not committed");
    cluster.isolate(1);
    let term = replica(&cluster, 2).term;
    let message = RaftMessage {
        group: DEFAULT.0,
        kind: MessageType::MsgTimeoutNow as u8,
        from: old_leader,
        to: removed,
        term,
        ..RaftMessage::default()
    };
    cluster.say(1, 2, Lane::Control, Frame::Raft(vec![message]));
    let mut has_led = false;
    cluster.run_until("node 2 is taken out", |cluster| {
        has_led |= replica(cluster, 2).term > term;
        replica(cluster, 2).voters == [1, 3]
    });
    assert!(has_led);
    assert_ne!(replica(&cluster, 2).role, "leader");
    cluster.heal();
    cluster.run_until("another leads", |cluster| {
        [1, 3].into_iter().any(|id| replica(cluster, id).role == "leader") && replica(cluster, 2).role != "leader"
    });
    cluster.must_put(3, "key", "value");
    cluster.run_until("node 2 is forgotten", |cluster| cluster.catalog(3).is_removed(2));
}
