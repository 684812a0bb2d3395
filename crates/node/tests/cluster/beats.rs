//! Heartbeats that do not go through raft-rs: they do what those do that go.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use quorate_api::peer::{Beat, Frame, Lane, RaftMessage};
use quorate_engine::EngineSpec;
use quorate_log::GroupId;
use quorate_node::{KeyspaceSettings, Mode, ReplicationSettings, RequestKind};
use raft::eraftpb::MessageType;

use crate::harness::{Cluster, DEFAULT, SYSTEM};

/// Makes keyspaces, which get the groups from 2 on.
fn create(cluster: &mut Cluster, count: u64) {
    let settings = KeyspaceSettings::with_defaults(EngineSpec::of("trie").into(), ReplicationSettings::of(Mode::Raft), 1 << 30);
    for number in 0..count {
        let leader = cluster.leader(SYSTEM).unwrap();
        let write = cluster.catalog(leader).plan_create(&format!("k{number}"), &settings, 0).unwrap().unwrap();
        let token = cluster.request(leader, SYSTEM, RequestKind::Write(write.to_bytes()), 5_000);
        cluster.run_until("it is made", |cluster| cluster.is_applied(token));
    }
}

fn is_led(cluster: &Cluster, group: u64) -> bool {
    (1..=3).all(|id| cluster.replica(id, GroupId(group)).is_some_and(|own| own.leader.is_some()))
}

#[test]
fn groups_at_rest_say_nothing_but_one_frame_of_beats_and_one_of_answers() {
    let mut cluster = Cluster::of(3);
    create(&mut cluster, 20);
    cluster.run_for(3_000);
    cluster.sent.clear();
    cluster.run_for(1_000);
    let mut frames: BTreeMap<(u64, u64, bool), (usize, usize)> = BTreeMap::new();
    for sent in &cluster.sent {
        let (is_answer, beats) = match &sent.frame {
            Frame::Beats(beats) => (false, beats),
            Frame::BeatAnswers(beats) => (true, beats),
            other => panic!("node {} says {other:?}", sent.from),
        };
        let sum = frames.entry((sent.from, sent.to, is_answer)).or_default();
        *sum = (sum.0 + 1, sum.1 + beats.len());
    }
    assert!(frames.values().all(|(frames, _)| *frames <= 10), "one per tick: {frames:?}");
    let beats = |is_answer| frames.iter().filter(|(key, _)| key.2 == is_answer).map(|(_, sum)| sum.1).sum::<usize>();
    let pairs = 22 * 2;
    assert!((3 * pairs..=4 * pairs).contains(&beats(false)), "each group to each follower, at each third tick: {frames:?}");
    assert_eq!(beats(false), beats(true), "and all are answered: {frames:?}");
}

#[test]
fn a_leader_that_misses_a_follower_beats_at_each_tick() {
    let mut cluster = Cluster::of(3);
    cluster.crash(3);
    cluster.run_for(2_000);
    cluster.sent.clear();
    cluster.run_for(1_000);
    let to_follower = cluster.sent.iter().filter(|sent| (sent.from, sent.to) == (1, 2));
    let beats = to_follower.filter_map(|sent| match &sent.frame {
        Frame::Beats(beats) => Some(beats.iter().filter(|beat| beat.group == DEFAULT.0).count()),
        _ => None,
    });
    assert_eq!(beats.sum::<usize>(), 10);
}

#[test]
fn a_group_that_begins_is_led_before_a_leader_could_have_been_missed() {
    let mut cluster = Cluster::of(3);
    for number in 0..6 {
        let leader = cluster.leader(SYSTEM).unwrap();
        let settings =
            KeyspaceSettings::with_defaults(EngineSpec::of("trie").into(), ReplicationSettings::of(Mode::Raft), 1 << 30);
        let write = cluster.catalog(leader).plan_create(&format!("k{number}"), &settings, 0).unwrap().unwrap();
        cluster.request(leader, SYSTEM, RequestKind::Write(write.to_bytes()), 5_000);
        let group = 2 + number;
        assert!(cluster.is_reached(300, |cluster| is_led(cluster, group)), "group {group} has no leader");
    }
    let leaders: std::collections::BTreeSet<_> = (2..8).map(|group| cluster.leader(GroupId(group))).collect();
    assert_eq!(leaders.len(), 3, "each node leads some: {leaders:?}");
}

#[test]
fn all_groups_are_led_and_caught_up_soon_after_all_nodes_restart() {
    let mut cluster = Cluster::of(3);
    create(&mut cluster, 20);
    cluster.run_for(1_000);
    (1..=3).for_each(|id| cluster.crash(id));
    (1..=3).for_each(|id| cluster.start(id));
    let is_ready = |cluster: &Cluster| {
        (0..22).all(|group| (1..=3).all(|id| cluster.replica(id, GroupId(group)).is_some_and(|own| own.is_caught_up)))
    };
    assert!(cluster.is_reached(5_000, is_ready), "two election timeouts are enough");
}

#[test]
fn a_leader_whose_beats_arrive_and_are_not_heard_to_gives_up() {
    let mut cluster = Cluster::of(3);
    cluster.run_for(2_000);
    for follower in [2, 3] {
        cluster.hold(follower, 1, Lane::Control);
        cluster.hold(follower, 1, Lane::Append);
    }
    let term = cluster.replica(1, DEFAULT).unwrap().term;
    cluster.run_until("another leads", |cluster| cluster.leader(DEFAULT).is_some_and(|leader| leader != 1));
    assert!(cluster.replica(1, DEFAULT).unwrap().role != "leader");
    cluster.heal();
    cluster.must_put(1, "key", "value");
    assert!(cluster.replica(1, DEFAULT).unwrap().term > term);
}

#[test]
fn followers_that_hear_beats_stay_and_those_that_do_not_stand() {
    let mut cluster = Cluster::of(3);
    cluster.run_for(2_000);
    let term = cluster.replica(1, DEFAULT).unwrap().term;
    cluster.run_for(60_000);
    assert_eq!(cluster.replica(1, DEFAULT).unwrap().term, term, "nobody stood");
    cluster.crash(1);
    // Two timeouts at most, and the votes.
    assert!(cluster.is_reached(4_500, |cluster| cluster.leader(DEFAULT).is_some()), "nobody took over");
}

#[test]
fn a_beat_brings_the_commit_index_that_an_append_did_not() {
    let mut cluster = Cluster::of(3);
    cluster.run_for(2_000);
    let before = cluster.replica(3, DEFAULT).unwrap().commit_index;
    cluster.must_put(1, "key", "value");
    cluster.run_for(300);
    assert_eq!(cluster.replica(3, DEFAULT).unwrap().commit_index, before + 1);

    // The entry arrives; that it is committed is said in an append that is lost.
    cluster.hold(2, 1, Lane::Append);
    let token = cluster.put(1, "key", "other");
    cluster.settle();
    cluster.hold(1, 3, Lane::Append);
    cluster.hold(1, 2, Lane::Append);
    cluster.let_go(2, 1, Lane::Append);
    cluster.run_until("it is written", |cluster| cluster.is_applied(token));
    cluster.run_until("a beat says so", |cluster| cluster.replica(3, DEFAULT).unwrap().commit_index == before + 2);
    assert_eq!(cluster.local(3, "key").as_deref(), Some("other"));
}

/// What a node said since its frames were last forgotten, with beats as the messages that they stand for.
fn said(cluster: &Cluster, id: u64) -> Vec<(u64, RaftMessage)> {
    let mut said = Vec::new();
    for sent in cluster.sent.iter().filter(|sent| sent.from == id) {
        match &sent.frame {
            Frame::Raft(messages) => said.extend(messages.iter().map(|message| (sent.to, message.clone()))),
            Frame::Beats(beats) => said.extend(beats.iter().map(|beat| (sent.to, message(*beat, MessageType::MsgHeartbeat)))),
            Frame::BeatAnswers(beats) => {
                said.extend(beats.iter().map(|beat| (sent.to, message(*beat, MessageType::MsgHeartbeatResponse))));
            }
            _ => {}
        }
    }
    said.sort_by_key(|(to, message)| (*to, message.group, message.kind));
    said
}

fn message(beat: Beat, kind: MessageType) -> RaftMessage {
    let Beat { group, to, from, term, commit } = beat;
    RaftMessage { group, kind: kind as u8, to, from, term, commit, ..RaftMessage::default() }
}

/// A beat, and when it comes.
#[derive(Clone, Debug)]
struct Case {
    is_answer: bool,
    from: u64,
    to: u64,
    /// For so long the receiver has heard of nobody.
    alone_ms: u64,
    terms_ahead: i64,
    commits_ahead: i64,
    /// Its log is not written meanwhile, and the beat comes together with a write.
    is_busy: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let nodes = (1..=3_u64, 1..=2_u64).prop_map(|(to, further)| (1 + (to - 1 + further) % 3, to));
    let alone_ms = prop_oneof![Just(0), Just(600), 0..5_000_u64];
    let ahead = || prop_oneof![3 => Just(0), 1 => -2..=2_i64];
    (any::<bool>(), nodes, alone_ms, ahead(), ahead(), any::<bool>()).prop_map(
        |(is_answer, (from, to), alone_ms, terms_ahead, commits_ahead, is_busy)| Case {
            is_answer,
            from,
            to,
            alone_ms,
            terms_ahead,
            commits_ahead,
            is_busy,
        },
    )
}

/// What a node that is alone does after it heard something.
struct Aftermath {
    was_leader: bool,
    /// Tick by tick.
    log: Vec<String>,
    /// Whether it leads, its term, commit index and last index.
    end: (bool, u64, u64, u64),
}

fn aftermath(case: &Case, is_beat: bool) -> Aftermath {
    let Case { is_answer, from, to, alone_ms, terms_ahead, commits_ahead, is_busy } = *case;
    let mut cluster = Cluster::of(3);
    cluster.must_put(1, "key", "value");
    cluster.run_for(1_000);
    cluster.isolate(to);
    cluster.run_for(alone_ms);
    let own = cluster.replica(to, DEFAULT).unwrap();
    let beat = Beat {
        group: DEFAULT.0,
        to: cluster.replica_id(to, DEFAULT),
        from: cluster.replica_id(from, DEFAULT),
        term: own.term.saturating_add_signed(terms_ahead),
        commit: own.commit_index.saturating_add_signed(commits_ahead),
    };
    let (kind, beats) = if is_answer {
        (MessageType::MsgHeartbeatResponse, Frame::BeatAnswers(vec![beat]))
    } else {
        (MessageType::MsgHeartbeat, Frame::Beats(vec![beat]))
    };
    cluster.sent.clear();
    cluster.host_mut(to).holds_log = is_busy;
    if is_busy {
        cluster.put(to, "key", "other");
    }
    cluster.say(from, to, Lane::Control, if is_beat { beats } else { Frame::Raft(vec![message(beat, kind)]) });
    let mut log = Vec::new();
    for tick in 0..40 {
        cluster.host_mut(to).holds_log = is_busy && tick < 3;
        cluster.settle();
        log.push(format!("{tick}: {:?}, says {:?}", cluster.replica(to, DEFAULT), said(&cluster, to)));
        cluster.sent.clear();
        cluster.run_for(100);
    }
    let end = cluster.replica(to, DEFAULT).unwrap();
    let end = (end.role == "leader", end.term, end.commit_index, end.last_index);
    Aftermath { was_leader: own.role == "leader", log, end }
}

/// A node does the same, at the same time, whether it hears a beat or the message that the beat stands for. Only a leader that
/// hears what it expects goes on to rest, where its next beats are due at another tick: it comes to the same.
#[test]
fn a_beat_does_what_a_heartbeat_does() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..60 {
        let case = case().new_tree(&mut runner).unwrap().current();
        let (by_beat, by_message) = (aftermath(&case, true), aftermath(&case, false));
        let is_expected = case.is_answer && by_beat.was_leader;
        assert_eq!(by_beat.end, by_message.end, "{case:?}");
        let difference = by_beat.log.iter().zip(&by_message.log).find(|(beat, message)| beat != message);
        assert!(is_expected || difference.is_none(), "{case:?}: {difference:?}");
    }
}
