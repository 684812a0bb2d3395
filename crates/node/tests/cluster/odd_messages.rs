//! What no peer says unless something is wrong with it: it is refused, and does no harm.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use quorate_api::peer::{
    Beat, Forward, ForwardReply, ForwardResult, Frame, Lane, RaftEntry, RaftMessage, SnapshotAck, SnapshotMeta, SnapshotPart,
};
use raft::eraftpb::MessageType;

use crate::harness::{Cluster, DEFAULT};

/// What must not change by what is refused.
fn standing(cluster: &Cluster, id: u64) -> (&'static str, u64, u64, u64, Option<u64>) {
    let replica = cluster.replica(id, DEFAULT).unwrap();
    (replica.role, replica.term, replica.last_index, replica.commit_index, replica.leader)
}

/// A message that is as it should be, but for its kind's own fields.
fn message(cluster: &Cluster, kind: MessageType, from: u64, to: u64) -> RaftMessage {
    let receiver = cluster.replica(to, DEFAULT).unwrap();
    RaftMessage {
        group: DEFAULT.0,
        kind: kind as u8,
        from: cluster.replica_id(from, DEFAULT),
        to: cluster.replica_id(to, DEFAULT),
        term: receiver.term,
        log_term: receiver.term,
        index: receiver.last_index,
        ..RaftMessage::default()
    }
}

fn entry(term: u64, index: u64) -> RaftEntry {
    RaftEntry { kind: 0, term, index, data: Bytes::new(), context: Bytes::new() }
}

fn say(cluster: &mut Cluster, from: u64, to: u64, message: RaftMessage) {
    cluster.say(from, to, Lane::Control, Frame::Raft(vec![message]));
}

/// Has it said, and asserts that it is not followed.
fn assert_refused(cluster: &mut Cluster, from: u64, to: u64, odd: RaftMessage) {
    let before = standing(cluster, to);
    let text = format!("{odd:?}");
    say(cluster, from, to, odd);
    cluster.settle();
    assert_eq!(standing(cluster, to), before, "{text}");
}

fn assert_is_well(cluster: &mut Cluster) {
    cluster.must_put(2, "after", "all");
    cluster.run_until("all agree", |cluster| cluster.agrees(DEFAULT));
    assert_eq!(cluster.must_read(3, "after").as_deref(), Some("all"));
}

#[test]
fn what_says_it_is_from_nobody_or_from_oneself_is_refused() {
    let mut cluster = Cluster::of(3);
    let own = cluster.replica_id(2, DEFAULT);
    for from in [0, own] {
        for kind in [MessageType::MsgHeartbeat, MessageType::MsgAppend, MessageType::MsgTimeoutNow, MessageType::MsgRequestVote] {
            let odd = RaftMessage { from, ..message(&cluster, kind, 1, 2) };
            assert_refused(&mut cluster, 1, 2, odd);
        }
    }
    assert_is_well(&mut cluster);
}

#[test]
fn what_has_no_term_or_one_that_cannot_be_is_refused() {
    let mut cluster = Cluster::of(3);
    for kind in [MessageType::MsgHeartbeat, MessageType::MsgAppend, MessageType::MsgRequestVote, MessageType::MsgTimeoutNow] {
        for term in [0, u64::MAX / 2, u64::MAX] {
            let odd = RaftMessage { term, ..message(&cluster, kind, 1, 2) };
            assert_refused(&mut cluster, 1, 2, odd);
        }
    }
    let entries = vec![entry(0, 0)];
    let read_index = RaftMessage { term: 1, entries, ..message(&cluster, MessageType::MsgReadIndex, 2, 1) };
    assert_refused(&mut cluster, 2, 1, read_index);
    assert_is_well(&mut cluster);
}

#[test]
fn a_commit_index_beyond_the_log_is_refused() {
    let mut cluster = Cluster::of(3);
    let heartbeat = message(&cluster, MessageType::MsgHeartbeat, 1, 2);
    for commit in [heartbeat.index + 1, u64::MAX] {
        assert_refused(&mut cluster, 1, 2, RaftMessage { commit, ..heartbeat.clone() });
    }
    assert_is_well(&mut cluster);
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    let mut cluster = Cluster::of(3);
    cluster.must_put(1, "key", "value");
    cluster.run_for(500);
    let append = message(&cluster, MessageType::MsgAppend, 1, 2);
    let (term, last) = (append.term, append.index);
    let gap = vec![entry(term, last + 2)];
    let hole_within = vec![entry(term, last + 1), entry(term, last + 3)];
    let later_than_the_message = vec![entry(term + 1, last + 1)];
    let earlier_than_the_one_before = vec![entry(term - 1, last + 1)];
    for entries in [gap, hole_within, later_than_the_message, earlier_than_the_one_before] {
        assert_refused(&mut cluster, 1, 2, RaftMessage { entries, ..append.clone() });
    }
    let beyond_the_log = RaftMessage { index: last + 2, log_term: 0, commit: last + 1, ..append.clone() };
    assert_refused(&mut cluster, 1, 2, beyond_the_log.clone());
    assert_refused(&mut cluster, 1, 2, RaftMessage { entries: vec![entry(term, last + 3)], ..beyond_the_log });
    let like_a_change = RaftEntry { data: Bytes::from_static(b"\xc2"), ..entry(term, last + 1) };
    let change_of_nothing = RaftEntry { kind: 2, ..entry(term, last + 1) };
    for odd in [like_a_change, change_of_nothing] {
        assert_refused(&mut cluster, 1, 2, RaftMessage { entries: vec![odd], ..append.clone() });
    }
    let at_the_end_of_numbers = RaftMessage { index: u64::MAX, entries: vec![entry(term, 0)], ..append.clone() };
    assert_refused(&mut cluster, 1, 2, at_the_end_of_numbers);
    let (commit_index, overwriting) = (standing(&cluster, 2).3, term + 1);
    let of_committed =
        RaftMessage { term: overwriting, index: commit_index - 1, entries: vec![entry(overwriting, commit_index)], ..append };
    assert_refused(&mut cluster, 1, 2, of_committed);
    assert_is_well(&mut cluster);
}

#[test]
fn progress_beyond_the_leaders_log_is_refused() {
    let mut cluster = Cluster::of(3);
    let answer = message(&cluster, MessageType::MsgAppendResponse, 2, 1);
    for index in [answer.index + 1, u64::MAX] {
        assert_refused(&mut cluster, 2, 1, RaftMessage { index, ..answer.clone() });
    }
    assert_is_well(&mut cluster);
}

#[test]
fn questions_for_a_leader_are_refused_by_others() {
    let mut cluster = Cluster::of(3);
    let since = cluster.sent.len();
    let entries = vec![entry(0, 0)];
    let read_index = RaftMessage { term: 0, entries, ..message(&cluster, MessageType::MsgReadIndex, 3, 2) };
    let transfer = message(&cluster, MessageType::MsgTransferLeader, 3, 2);
    for odd in [read_index, transfer] {
        assert_refused(&mut cluster, 3, 2, odd);
    }
    assert!(cluster.sent[since..].iter().all(|sent| sent.from != 2), "they are not passed on");
    assert_is_well(&mut cluster);
}

#[test]
fn read_indexes_without_their_context_are_refused() {
    let mut cluster = Cluster::of(3);
    for entries in [Vec::new(), vec![entry(0, 0), entry(0, 0)]] {
        let question = RaftMessage { term: 0, entries: entries.clone(), ..message(&cluster, MessageType::MsgReadIndex, 2, 1) };
        assert_refused(&mut cluster, 2, 1, question);
        let answer = RaftMessage { entries, ..message(&cluster, MessageType::MsgReadIndexResp, 1, 2) };
        assert_refused(&mut cluster, 1, 2, answer);
    }
    assert_is_well(&mut cluster);
}

#[test]
fn what_a_node_says_to_itself_alone_is_refused_from_others() {
    let mut cluster = Cluster::of(3);
    let local = [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
    ];
    for kind in local {
        for to in [1, 2] {
            let odd = RaftMessage { entries: vec![entry(0, 0)], ..message(&cluster, kind, 3, to) };
            assert_refused(&mut cluster, 3, to, odd);
        }
    }
    let unknown = RaftMessage { kind: 77, ..message(&cluster, MessageType::MsgAppend, 1, 2) };
    assert_refused(&mut cluster, 1, 2, unknown);
    assert_is_well(&mut cluster);
}

#[test]
fn what_is_for_another_group_or_replica_is_refused() {
    let mut cluster = Cluster::of(3);
    let vote = message(&cluster, MessageType::MsgTimeoutNow, 1, 2);
    assert_refused(&mut cluster, 1, 2, RaftMessage { group: 99, ..vote.clone() });
    assert_refused(&mut cluster, 1, 2, RaftMessage { to: vote.from, ..vote });
    assert_is_well(&mut cluster);
}

#[test]
fn a_snapshot_whose_data_did_not_come_is_refused() {
    let mut cluster = Cluster::of(3);
    let append = message(&cluster, MessageType::MsgSnapshot, 1, 2);
    let voters = (1..=3).map(|id| cluster.replica_id(id, DEFAULT)).collect();
    let meta = SnapshotMeta { index: append.index + 10, term: append.term, voters, ..SnapshotMeta::default() };
    assert_refused(&mut cluster, 1, 2, RaftMessage { snapshot: Some(meta), ..append.clone() });
    assert_refused(&mut cluster, 1, 2, append);
    assert_is_well(&mut cluster);
}

#[test]
fn a_demand_for_a_snapshot_is_refused() {
    let mut cluster = Cluster::of(3);
    let answer = message(&cluster, MessageType::MsgAppendResponse, 2, 1);
    assert_refused(&mut cluster, 2, 1, RaftMessage { request_snapshot: answer.index + 5, reject: true, ..answer });
    assert_is_well(&mut cluster);
}

#[test]
fn pieces_of_snapshots_that_are_not_one_are_refused() {
    let mut cluster = Cluster::of(3);
    let before = standing(&cluster, 2);
    let voters: Vec<u64> = (1..=3).map(|id| cluster.replica_id(id, DEFAULT)).collect();
    let meta = SnapshotMeta { index: before.2 + 10, term: before.1, voters, ..SnapshotMeta::default() };
    let joint = SnapshotMeta { voters_outgoing: meta.voters.clone(), ..meta.clone() };
    let plain = message(&cluster, MessageType::MsgSnapshot, 1, 2);
    let messages = [
        None,
        Some(plain.clone()),
        Some(RaftMessage { snapshot: Some(meta.clone()), ..plain.clone() }),
        Some(RaftMessage { snapshot: Some(joint), ..plain.clone() }),
        Some(RaftMessage { snapshot: Some(meta.clone()), to: 99, ..plain.clone() }),
        Some(RaftMessage { snapshot: Some(meta), group: 0, ..plain }),
    ];
    for (message, transfer) in messages.into_iter().zip(1..) {
        for (group, offset, total_bytes) in [(1, 0, 4), (1, 4, 4), (1, 0, u64::MAX), (1, u64::MAX, 0), (99, 0, 0)] {
            let message = message.clone().map(Box::new);
            let data = Bytes::from_static(b"data");
            let part = SnapshotPart { group, transfer, offset, total_bytes, data, message };
            cluster.say(1, 2, Lane::Bulk, Frame::Snapshot(part));
            cluster.settle();
            assert_eq!(standing(&cluster, 2), before);
        }
    }
    cluster.run_for(90_000);
    let files = quorate_log::Disk::list(&cluster.host_mut(2).file_disk).unwrap();
    assert!(files.iter().all(|name| !name.contains(".part")), "what will not become whole is removed: {files:?}");
    assert_is_well(&mut cluster);
}

#[test]
fn answers_that_nobody_waits_for_are_refused() {
    let mut cluster = Cluster::of(3);
    let outcomes = [&b""[..], b"\x09", b"\x04"].map(|bytes| ForwardResult::Outcome(Bytes::from_static(bytes)));
    let results = [ForwardResult::NotLeader(9), ForwardResult::Overloaded, ForwardResult::DiskFull].into_iter().chain(outcomes);
    let replies = results.map(|result| ForwardReply { group: 1, origin: (1 << 40) | 1, sequence: 1000, result }).collect();
    cluster.say(2, 1, Lane::Request, Frame::ForwardReply(replies));
    for transfer in [0, 1, u64::MAX] {
        let ack = SnapshotAck { group: 1, transfer, next_offset: u64::MAX, failed: false, done: false };
        cluster.say(2, 1, Lane::Bulk, Frame::SnapshotAck(ack));
    }
    cluster.settle();
    assert_is_well(&mut cluster);
}

#[test]
fn a_forwarded_command_that_cannot_be_read_enters_no_log() {
    let mut cluster = Cluster::of(3);
    let last_index = standing(&cluster, 1).2;
    let put = quorate_node::keyspace::Write::put("key".into(), "value".into()).to_bytes();
    let forwards =
        [Bytes::new(), Bytes::from_static(b"\xff\xff"), put].map(|command| Forward { group: 1, origin: 7, sequence: 9, command });
    cluster.say(2, 1, Lane::Request, Frame::Forward(forwards.to_vec()));
    cluster.settle();
    assert_eq!(standing(&cluster, 1).2, last_index);
    assert_is_well(&mut cluster);
}

#[test]
fn frames_of_an_earlier_life_are_not_looked_at() {
    let mut cluster = Cluster::of(3);
    let vote = message(&cluster, MessageType::MsgTimeoutNow, 1, 2);
    cluster.restart(1);
    cluster.run_until("there is a leader", |cluster| cluster.is_caught_up(1));
    let term = cluster.replica(2, DEFAULT).unwrap().term;
    let leader = cluster.leader(DEFAULT);
    // On one lane the new life was heard already, on the other it was not.
    for lane in [Lane::Control, Lane::Bulk] {
        cluster.say_as_of(1, (1, 2), lane, Frame::Raft(vec![RaftMessage { term, ..vote.clone() }]));
        cluster.run_for(500);
        assert_eq!((cluster.replica(2, DEFAULT).unwrap().term, cluster.leader(DEFAULT)), (term, leader));
    }
}

/// Numbers around those that matter, and far from them.
fn number(near: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => near.saturating_sub(3)..near + 4,
        1 => Just(0),
        1 => Just(u64::MAX),
        1 => Just(u64::MAX / 2 - 1),
    ]
}

fn any_message(kind: u8, replica: u64, (term, last_index): (u64, u64)) -> impl Strategy<Value = RaftMessage> {
    let entry = (0..3_u8, number(term), number(last_index)).prop_map(|(kind, term, index)| RaftEntry {
        kind,
        term,
        index,
        data: Bytes::new(),
        context: Bytes::new(),
    });
    let numbers = (number(term), number(term), number(last_index), number(last_index), number(last_index));
    let context = select(vec![&b""[..], b"CampaignTransfer", b"0123456789abcdef"]);
    (select(vec![0, 2, 4, 6, 99]), numbers, prop::collection::vec(entry, 0..3), any::<bool>(), context).prop_map(
        move |(from, (term, log_term, index, commit, reject_hint), entries, reject, context)| RaftMessage {
            group: DEFAULT.0,
            kind,
            to: replica,
            from,
            term,
            log_term,
            index,
            entries,
            commit,
            reject,
            reject_hint,
            context: Bytes::from_static(context),
            ..RaftMessage::default()
        },
    )
}

/// A node that was lied to may believe it, and be of no use any more; but it does not panic.
#[test]
fn whatever_is_said_to_a_node_it_does_not_panic() {
    let mut runner = TestRunner::deterministic();
    for round in 0..60 {
        let mut cluster = Cluster::of(3);
        let to = 1 + round % 3;
        let replica = cluster.replica_id(to, DEFAULT);
        cluster.isolate(to);
        for kind in (3..19_u8).cycle().take(200) {
            let (_, term, last_index, ..) = standing(&cluster, to);
            let message = any_message(kind, replica, (term, last_index)).new_tree(&mut runner).unwrap().current();
            let RaftMessage { group, to: receiver, from, term, commit, .. } = message;
            let beat = Beat { group, to: receiver, from, term, commit };
            match kind {
                8 => cluster.say(1 + to % 3, to, Lane::Control, Frame::Beats(vec![beat; 2])),
                9 => cluster.say(1 + to % 3, to, Lane::Control, Frame::BeatAnswers(vec![beat; 2])),
                _ => {}
            }
            say(&mut cluster, 1 + to % 3, to, message);
            cluster.round();
            if !cluster.hosts[&to].is_running() {
                break;
            }
        }
        cluster.run_for(3000);
    }
}
