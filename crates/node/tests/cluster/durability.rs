//! What must be on disk before anything is said, and what a crash leaves.

use quorate_api::peer::{Frame, Lane};
use quorate_log::GroupId;
use quorate_node::{Answer, Failure, Input};
use raft::eraftpb::MessageType;

use crate::harness::{Cluster, DEFAULT};

/// Kinds of the Raft messages that a node sent since the given frame.
fn kinds_sent(cluster: &Cluster, id: u64, group: GroupId, since: usize) -> Vec<u8> {
    let frames = cluster.sent[since..].iter().filter(|sent| sent.from == id);
    let messages = frames.filter_map(|sent| match &sent.frame {
        Frame::Raft(messages) => Some(messages),
        _ => None,
    });
    messages.flatten().filter(|message| message.group == group.0).map(|message| message.kind).collect()
}

fn has_sent(cluster: &Cluster, id: u64, kind: MessageType, since: usize) -> bool {
    kinds_sent(cluster, id, DEFAULT, since).contains(&(kind as u8))
}

#[test]
fn a_write_is_acknowledged_once_a_quorum_has_it_on_disk() {
    let mut cluster = Cluster::of(3);
    cluster.host_mut(2).holds_log = true;
    cluster.host_mut(3).holds_log = true;
    let token = cluster.put(1, "key", "value");
    cluster.settle();
    assert!(!cluster.answers.contains_key(&token), "the leader alone is no quorum");
    cluster.host_mut(3).holds_log = false;
    cluster.settle();
    assert!(cluster.is_applied(token), "with one follower it is");
}

#[test]
fn a_follower_says_nothing_of_entries_that_are_not_on_its_disk() {
    let mut cluster = Cluster::of(3);
    cluster.host_mut(2).holds_log = true;
    let since = cluster.sent.len();
    cluster.must_put(1, "key", "value");
    cluster.run_for(500);
    assert!(!has_sent(&cluster, 2, MessageType::MsgAppendResponse, since));
    assert!(has_sent(&cluster, 3, MessageType::MsgAppendResponse, since));
    cluster.host_mut(2).holds_log = false;
    cluster.settle();
    assert!(has_sent(&cluster, 2, MessageType::MsgAppendResponse, since));
}

#[test]
fn nobody_votes_or_asks_for_votes_before_that_is_on_disk() {
    let mut cluster = Cluster::of(3);
    cluster.isolate(1);
    for id in [2, 3] {
        cluster.host_mut(id).holds_log = true;
    }
    let since = cluster.sent.len();
    cluster.run_for(10_000);
    for id in [2, 3] {
        assert!(!has_sent(&cluster, id, MessageType::MsgRequestVote, since));
        assert!(!has_sent(&cluster, id, MessageType::MsgRequestVoteResponse, since));
    }
    assert!([2, 3].into_iter().any(|id| has_sent(&cluster, id, MessageType::MsgRequestPreVote, since)), "they did try");

    for id in [2, 3] {
        cluster.host_mut(id).holds_log = false;
    }
    cluster.run_until("another leads", |cluster| [2, 3].map(Some).contains(&cluster.leader(DEFAULT)));
}

#[test]
fn a_vote_is_remembered_through_a_crash() {
    let mut cluster = Cluster::of(3);
    let term = cluster.replica(1, DEFAULT).unwrap().term;
    cluster.crash(1);
    cluster.run_until("another leads", |cluster| cluster.leader(DEFAULT).is_some());
    for id in [2, 3] {
        cluster.restart(id);
        assert!(cluster.replica(id, DEFAULT).unwrap().term > term);
    }
}

#[test]
fn a_leader_whose_disk_is_slow_hands_over_and_the_write_is_applied_once() {
    let mut cluster = Cluster::of(3);
    let revision = cluster.replica(1, DEFAULT).unwrap().revision;
    cluster.host_mut(1).holds_log = true;
    let token = cluster.put(1, "key", "value");
    cluster.settle();
    assert!(!cluster.answers.contains_key(&token), "the leader applies what it has on disk itself");
    cluster.run_until("another leader answers", |cluster| cluster.is_applied(token));
    assert_ne!(cluster.leader(DEFAULT), Some(1));

    cluster.host_mut(1).holds_log = false;
    cluster.run_until("all have it", |cluster| cluster.is_caught_up(1) && cluster.agrees(DEFAULT));
    assert_eq!(cluster.replica(1, DEFAULT).unwrap().revision, revision + 1);
}

#[test]
fn a_follower_that_lost_power_goes_on_from_its_disk() {
    let mut cluster = Cluster::of(3);
    cluster.must_put(1, "before", "x");
    cluster.must_put(1, "last", "y");
    cluster.crash(3);
    cluster.must_put(1, "meanwhile", "z");
    cluster.start(3);
    assert_eq!(cluster.local(3, "before").as_deref(), Some("x"), "with the last entry it logged that this one is committed");
    cluster.run_until("node 3 is caught up", |cluster| cluster.is_caught_up(3) && cluster.agrees(DEFAULT));
    assert_eq!(cluster.local(3, "last").as_deref(), Some("y"));
    assert_eq!(cluster.local(3, "meanwhile").as_deref(), Some("z"));
    assert_eq!(cluster.replica(3, DEFAULT).unwrap().snapshots_loaded, 0);
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_power_of_all() {
    let mut cluster = Cluster::of(3);
    for number in 0..20 {
        cluster.must_put(1 + number % 3, &format!("key {number}"), &number.to_string());
    }
    for id in 1..=3 {
        cluster.crash(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    for number in 0..20 {
        assert_eq!(cluster.must_read(1 + number % 3, &format!("key {number}")), Some(number.to_string()));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let mut cluster = Cluster::of(3);
    cluster.must_put(1, "key", "before");
    cluster.tell(1, Input::DiskFull(true));
    for id in [1, 2] {
        let token = cluster.put(id, "key", "after");
        cluster.settle();
        assert_eq!(cluster.answers[&token], Answer::Failed(Failure::DiskFull), "asked of node {id}");
        assert_eq!(cluster.must_read(id, "key").as_deref(), Some("before"));
    }
    cluster.tell(1, Input::DiskFull(false));
    cluster.must_put(2, "key", "after");
}

#[test]
fn a_follower_without_room_takes_nothing_in_until_there_is_some() {
    let mut cluster = Cluster::of(3);
    cluster.tell(3, Input::DiskFull(true));
    let last_index = cluster.replica(3, DEFAULT).unwrap().last_index;
    cluster.must_put(1, "key", "value");
    cluster.run_for(3000);
    let replica = cluster.replica(3, DEFAULT).unwrap();
    assert_eq!((replica.last_index, replica.leader), (last_index, Some(1)), "it follows, and stores nothing");
    cluster.tell(3, Input::DiskFull(false));
    cluster.run_until("node 3 has it", |cluster| cluster.local(3, "key").is_some());
}

#[test]
fn writes_that_come_together_travel_in_one_message_per_follower() {
    let mut cluster = Cluster::of(3);
    cluster.run_for(1000);
    let since = cluster.sent.len();
    let tokens: Vec<u64> = (0..50).map(|number| cluster.put(1, &format!("key {number}"), "value")).collect();
    cluster.settle();
    assert!(tokens.iter().all(|token| cluster.is_applied(*token)));
    let is_append = |sent: &&crate::harness::Sent| sent.from == 1 && sent.lane == Lane::Append;
    let with_entries = |frame: &Frame| match frame {
        Frame::Raft(messages) => messages.iter().any(|message| !message.entries.is_empty()),
        _ => false,
    };
    let appends = cluster.sent[since..].iter().filter(is_append).filter(|sent| with_entries(&sent.frame)).count();
    assert_eq!(appends, 2);
}
