//! Modes, and single stories.

use bytes::Bytes;

use super::cluster::{Cluster, key};
use crate::io::{Answer, Refusal};
use crate::{Ack, Batching, Body, CopyWhen, Entry, MemberState, Options, Trigger};

pub(super) fn options(trigger: Trigger) -> Options {
    Options {
        sync_interval_ms: 0,
        report_interval_ms: 100,
        max_report_interval_ms: 1_600,
        digest_levels: 2,
        ..Options::new(trigger)
    }
}

pub(super) fn of_three(options: Options) -> Cluster {
    let mut cluster = Cluster::new(3, options, None);
    // The first write of a while waits for its clock's bound: not in these stories.
    for slot in 0..3 {
        cluster.delete(slot, 200);
    }
    cluster.run_ms(1_000);
    cluster
}

fn shown(cluster: &Cluster, slot: usize, at: u8) -> Option<Entry> {
    cluster.replica(slot).and_then(|replica| replica.get_durable(&key(at)))
}

fn is_shown(cluster: &Cluster, slot: usize, at: u8) -> bool {
    shown(cluster, slot, at).is_some_and(|entry| entry.is_live(cluster.wall_ms(slot)))
}

fn written(cluster: &Cluster, token: Option<u64>) -> (u32, bool) {
    match cluster.answers.get(&token.expect("it runs")) {
        Some(Answer::Written { replicated, is_met, .. }) => (*replicated, *is_met),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_push_reaches_everybody_within_a_round_trip() {
    let mut cluster = of_three(options(Trigger::push()));
    let token = cluster.put(0, 1, None);
    cluster.sync_disk(0);
    assert_eq!(written(&cluster, token), (0, true), "it waits for nobody");
    cluster.pass_ms(1);
    assert!(!is_shown(&cluster, 1, 1));
    cluster.deliver_all();
    (1..3).for_each(|slot| cluster.sync_disk(slot));
    assert!((0..3).all(|slot| is_shown(&cluster, slot, 1)));
    cluster.delete(2, 1);
    cluster.run_ms(1_000);
    assert!((0..3).all(|slot| shown(&cluster, slot, 1).is_none()), "the tombstone went, since everybody had it");
}

#[test]
fn a_write_waits_for_those_it_should_wait_for() {
    let mut cluster = of_three(Options { ack: Ack::Others(1), ..options(Trigger::push()) });
    let token = cluster.put(0, 1, None);
    cluster.sync_disk(0);
    cluster.pass_ms(1);
    assert_eq!(cluster.answers.get(&token.unwrap()), None);
    cluster.deliver_all();
    cluster.sync_disk(1);
    cluster.deliver_all();
    assert_eq!(written(&cluster, token), (1, true));
    // Nobody hears it: it is written all the same, and says so.
    cluster.partition(1);
    let token = cluster.put(0, 1, None);
    cluster.run_ms(600);
    assert_eq!(written(&cluster, token), (0, false));
}

/// What cannot come about was waited for until the time limit.
#[test]
fn a_write_that_asks_for_more_others_than_there_are_is_refused_at_once() {
    let mut cluster = of_three(options(Trigger::push()));
    let token = cluster.put_for(0, 1, Ack::Others(3)).unwrap();
    let refusal = Refusal::TooFewMembers { others: 2, wanted: 3 };
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(refusal)));
    cluster.run_ms(500);
    assert!((0..3).all(|slot| shown(&cluster, slot, 1).is_none()), "nothing was done");
    let token = cluster.put_for(0, 1, Ack::Others(2));
    cluster.run_ms(500);
    assert_eq!(written(&cluster, token), (2, true));
}

/// The keyspace asks for that in their place, and it was possible once: they are done.
#[test]
fn writes_that_say_nothing_are_answered_once_all_that_are_left_have_them() {
    let mut cluster = of_three(Options { ack: Ack::Others(2), ..options(Trigger::push()) });
    cluster.patience_ms = 60_000;
    cluster.remove(2);
    cluster.run_ms(1_000);
    let token = cluster.put(0, 1, None);
    cluster.sync_disk(0);
    assert_eq!(cluster.answers.get(&token.unwrap()), None, "one may have it yet");
    cluster.run_ms(500);
    assert_eq!(written(&cluster, token), (1, false));
    cluster.remove(1);
    cluster.run_ms(1_000);
    let token = cluster.put(0, 2, None);
    cluster.sync_disk(0);
    assert_eq!(written(&cluster, token), (0, false));
}

#[test]
fn nobody_waits_for_who_is_not_heard_of() {
    let mut cluster = of_three(options(Trigger::push()));
    cluster.patience_ms = 60_000;
    cluster.partition(0b100);
    // Until then it may be no more than slow.
    let early = cluster.put_for(0, 1, Ack::AllUp);
    cluster.run_ms(300);
    assert_eq!(cluster.answers.get(&early.unwrap()), None);
    cluster.run_ms(5_000);
    assert_eq!(written(&cluster, early), (1, false), "once it should have been heard of");
    for ack in [Ack::AllUp, Ack::Others(2)] {
        let token = cluster.put_for(0, 2, ack);
        cluster.run_ms(300);
        assert_eq!(written(&cluster, token), (1, false), "as soon as the other has it: {ack:?}");
    }
    cluster.partition(0);
    cluster.run_ms(3_000);
    let token = cluster.put_for(0, 3, Ack::Others(2));
    cluster.run_ms(300);
    assert_eq!(written(&cluster, token), (2, true));
    assert!((1..4).all(|at| is_shown(&cluster, 2, at)), "they went on to it");
}

/// What one who is away for long lacks is not kept for it, however little it is, and reaches it all the same.
#[test]
fn an_outbox_is_kept_for_nobody_who_was_away_for_an_hour() {
    let mut cluster = of_three(options(Trigger::push()));
    cluster.partition(0b100);
    for _ in 0..5 {
        cluster.put(0, 1, None);
        cluster.run_ms(300);
    }
    let status = cluster.status(0);
    assert_eq!(status.outbox_entries, 5, "each was sent to the other, and so has a place of its own");
    cluster.run_in_steps(3_500_000, 5_000);
    assert_eq!((cluster.status(0).outbox_entries, cluster.status(0).counts.overflows), (5, 0));
    cluster.run_in_steps(200_000, 5_000);
    let status = cluster.status(0);
    assert_eq!((status.outbox_entries, status.outbox_bytes, status.counts.overflows), (0, 0, 1));
    let away = status.peers.iter().find(|peer| Some(peer.instance) == cluster.instance(2)).expect("it is a member");
    assert!(away.needs_sync && away.lag_entries.is_none() && away.lag_ms > 3_600_000, "{away:?}");
    cluster.put(0, 2, None);
    cluster.run_ms(500);
    assert_eq!(cluster.status(0).outbox_entries, 0, "nor is what is written later");
    cluster.partition(0);
    cluster.run_ms(6_000);
    assert!((1..3).all(|at| is_shown(&cluster, 2, at)));
    cluster.put(0, 3, None);
    cluster.run_ms(300);
    assert!(is_shown(&cluster, 2, 3), "it is sent again what is written");
    cluster.check_equal(&[0, 1, 2]);
}

#[test]
fn a_batch_travels_when_it_is_full_or_old_or_flushed() {
    let batching = Batching { interval_ms: 5_000, max_entries: 3, max_bytes: 100 };
    let mut cluster = of_three(options(Trigger::Write(batching)));
    cluster.flush(0);
    cluster.run_ms(200);
    cluster.put(0, 1, None);
    cluster.put(0, 2, None);
    cluster.run_ms(4_000);
    assert!(!is_shown(&cluster, 1, 1));
    cluster.run_ms(1_500);
    assert!(is_shown(&cluster, 1, 1) && is_shown(&cluster, 2, 2), "it is old");
    for at in 3..6 {
        cluster.put(0, at, None);
    }
    cluster.run_ms(200);
    assert!((3..6).all(|at| is_shown(&cluster, 1, at)), "it has three entries");
    cluster.write(0, &key(6), Body::plain(Bytes::from(vec![0; 100])), None);
    cluster.run_ms(200);
    assert!(is_shown(&cluster, 1, 6), "it has a hundred bytes");
    cluster.put(0, 7, None);
    let token = cluster.flush(0).unwrap();
    cluster.run_ms(200);
    assert!(is_shown(&cluster, 1, 7));
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Done { reached: 2, others: 2 }));
}

#[test]
fn a_write_that_waits_for_others_takes_its_batch_along() {
    let batching = Batching { interval_ms: u64::MAX, max_entries: 1_000, max_bytes: 1 << 20 };
    let mut cluster = of_three(Options { ack: Ack::Others(1), ..options(Trigger::Write(batching)) });
    let token = cluster.put(0, 1, None);
    cluster.run_ms(200);
    assert_eq!(written(&cluster, token), (1, true), "at the first that has it");
}

fn reading(min_answers: usize, repairs_others: bool) -> Options {
    options(Trigger::Read { fanout: usize::MAX, deadline_ms: 50, min_answers, repairs_others })
}

fn found(cluster: &Cluster, token: Option<u64>) -> (Option<Bytes>, u32) {
    match cluster.answers.get(&token.expect("it runs")) {
        Some(Answer::Found { entry, answered, .. }) => {
            let value = entry.clone().map(|entry| match entry.body {
                Body::Value { value, .. } => value,
                other => panic!("{other:?}"),
            });
            (value, *answered)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_takes_the_latest_of_all_and_keeps_it() {
    let mut cluster = of_three(reading(0, false));
    cluster.put(0, 1, None);
    cluster.sync_disk(0);
    let token = cluster.read(1, 1);
    assert!(!is_shown(&cluster, 1, 1), "a write goes nowhere by itself");
    cluster.exchange(4);
    assert_eq!(found(&cluster, token).1, 2);
    assert!(found(&cluster, token).0.is_some() && is_shown(&cluster, 1, 1) && !is_shown(&cluster, 2, 1));
    // A delete is found like anything else.
    cluster.delete(0, 1);
    cluster.sync_disk(0);
    let token = cluster.read(1, 1);
    cluster.exchange(4);
    assert_eq!(found(&cluster, token), (None, 2));
    assert!(!is_shown(&cluster, 1, 1));
}

#[test]
fn a_read_repairs_those_who_were_behind_if_it_should() {
    let mut cluster = of_three(reading(0, true));
    cluster.put(0, 1, None);
    cluster.sync_disk(0);
    cluster.read(1, 1);
    cluster.exchange(6);
    assert!(is_shown(&cluster, 2, 1));
}

#[test]
fn a_read_without_enough_answers_fails() {
    let mut cluster = of_three(reading(2, false));
    cluster.put(0, 1, None);
    cluster.crash(2);
    let token = cluster.read(0, 1).unwrap();
    cluster.run_ms(200);
    // One has answered, the other is not there.
    let refusal = Refusal::TooFewAnswers { answered: 1, needed: 2 };
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(refusal)));
}

#[test]
fn a_read_asks_who_is_there_and_waits_for_nobody_who_is_not() {
    let fanout_of = |fanout| Options {
        trigger: Trigger::Read { fanout, deadline_ms: 5_000, min_answers: 0, repairs_others: false },
        ..reading(0, false)
    };
    for fanout in [1, 2] {
        let mut cluster = of_three(fanout_of(fanout));
        cluster.run_ms(1_000);
        cluster.put(1, 1, None);
        cluster.sync_disk(1);
        cluster.crash(2);
        cluster.run_ms(10_000);
        for _ in 0..4 {
            let token = cluster.read(0, 1);
            cluster.run_ms(200);
            let (value, answered) = found(&cluster, token);
            assert!(value.is_some() && answered == 1, "of {fanout}: {answered} answered");
        }
    }
}

#[test]
fn a_copy_follows_a_quiet_moment_and_merges() {
    let when = CopyWhen::OnWrite { quiet_ms: 500, min_interval_ms: 1_000 };
    let mut cluster = of_three(options(Trigger::Copy(when)));
    cluster.put(1, 9, None);
    cluster.run_ms(1_500);
    assert!(is_shown(&cluster, 0, 9));
    cluster.put(0, 1, None);
    cluster.run_ms(300);
    assert!(!is_shown(&cluster, 1, 1));
    cluster.run_ms(1_500);
    assert!(is_shown(&cluster, 1, 1) && is_shown(&cluster, 1, 9), "a copy takes nothing away");
}

#[test]
fn a_peer_that_is_gone_for_longer_than_the_outbox_is_compared_with() {
    let mut cluster = of_three(Options { outbox_max_bytes: 2_000, ..options(Trigger::push()) });
    cluster.oracle.limit_outbox(2_000);
    cluster.crash(2);
    cluster.run_ms(1_000);
    for at in 0..100 {
        cluster.put(0, at, None);
        cluster.sync_disk(0);
    }
    cluster.run_ms(500);
    assert!((0..100).all(|at| is_shown(&cluster, 1, at)), "who is there gets everything");
    assert!(cluster.replica(0).unwrap().status().counts.overflows > 0);
    cluster.restart(2);
    cluster.run_ms(3_000);
    cluster.check_equal(&[0, 1, 2]);
    assert!((0..100).all(|at| is_shown(&cluster, 2, at)));
}

#[test]
fn a_full_replica_takes_deletes_and_what_others_took() {
    let mut cluster = of_three(Options { max_bytes: 30, ..options(Trigger::push()) });
    let token = cluster.put(0, 1, None);
    cluster.run_ms(200);
    assert!(written(&cluster, token).1);
    let value = || Body::plain(Bytes::from(vec![0; 16]));
    let token = cluster.write(0, &key(2), value(), None).unwrap();
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(Refusal::Full { max_bytes: 30 })));
    let token = cluster.write(0, &key(1), value(), None);
    cluster.run_ms(200);
    assert!(written(&cluster, token).1, "what is replaced makes room");
    // Both sides fill up on their own, and take what the other has afterwards.
    cluster.delete(0, 1);
    cluster.run_ms(500);
    cluster.partition(1);
    cluster.write(0, &key(3), value(), None);
    cluster.write(1, &key(4), value(), None);
    cluster.run_ms(200);
    cluster.partition(0);
    cluster.run_ms(3_000);
    assert!(is_shown(&cluster, 0, 3) && is_shown(&cluster, 0, 4));
    let token = cluster.delete(0, 3);
    cluster.run_ms(200);
    assert!(written(&cluster, token).1);
}

#[test]
fn equal_replicas_exchange_one_sum() {
    let mut cluster = of_three(options(Trigger::push()));
    for at in 0..50 {
        cluster.put(0, at, None);
    }
    cluster.run_ms(1_000);
    let before = cluster.replica(1).unwrap().status().counts;
    let token = cluster.sync(1).unwrap();
    cluster.run_ms(200);
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Done { reached: 2, others: 2 }));
    let after = cluster.replica(1).unwrap().status().counts;
    assert_eq!((after.pulled, after.put, after.rounds), (before.pulled, before.put, before.rounds + 2));
}

/// Three replicas that have nothing to do, and how often they are polled and how many messages they send, each, in a minute.
fn idle(max_report_interval_ms: u64) -> (Cluster, u64, u64) {
    let mut cluster = of_three(Options { max_report_interval_ms, ..Options::new(Trigger::push()) });
    cluster.put(0, 1, None);
    cluster.run_in_steps(90_000, 50);
    let (polls, messages) = (cluster.polls, cluster.messages);
    cluster.run_in_steps(600_000, 50);
    let (polls, messages) = ((cluster.polls - polls) / 30, (cluster.messages - messages) / 30);
    (cluster, polls, messages)
}

#[test]
fn idle_replicas_hardly_cost_anything_and_are_awake_at_once() {
    let (_, polls, messages) = idle(1_000);
    assert!((150..200).contains(&polls) && (100..130).contains(&messages), "{polls} polls and {messages} messages");
    let (mut cluster, polls, messages) = idle(16_000);
    assert!((5..16).contains(&polls) && (5..11).contains(&messages), "{polls} polls and {messages} messages");
    // Nobody is taken for being away meanwhile.
    let is_heard = |slot: usize| cluster.replica(slot).unwrap().status().peers.iter().all(|peer| peer.is_reachable);
    assert!((0..3).all(is_heard));
    cluster.delete(0, 1);
    cluster.run_in_steps(2_500, 50);
    assert!((0..3).all(|slot| shown(&cluster, slot, 1).is_none()), "the tombstone has gone");
}

#[test]
fn who_starts_among_the_idle_is_heard_and_hears_at_once() {
    let mut cluster = of_three(Options { sync_interval_ms: 0, ..Options::new(Trigger::push()) });
    cluster.run_in_steps(120_000, 50);
    cluster.crash(2);
    cluster.run_in_steps(500, 50);
    cluster.put(0, 1, None);
    cluster.run_in_steps(300, 50);
    cluster.restart(2);
    cluster.run_in_steps(1_500, 50);
    assert!(is_shown(&cluster, 2, 1));
    assert!(cluster.replica(2).unwrap().status().peers.iter().all(|peer| peer.is_reachable && peer.rounds > 0));
}

#[test]
fn a_clock_that_is_off_stops_its_own_writes_only() {
    let mut cluster = of_three(options(Trigger::push()));
    cluster.jump(0, 3_600_000);
    cluster.run_ms(1_000);
    let token = cluster.put(0, 1, None).unwrap();
    assert!(matches!(
        cluster.answers.get(&token),
        Some(Answer::Refused(Refusal::ClockSkew { offset_ms })) if (3_599_000..3_601_000).contains(offset_ms)
    ));
    let token = cluster.put(1, 1, None);
    cluster.run_ms(200);
    assert!(written(&cluster, token).1);
    cluster.jump(0, 0);
    cluster.run_ms(1_000);
    let token = cluster.put(0, 1, None);
    cluster.run_ms(200);
    assert!(written(&cluster, token).1);
}

#[test]
fn who_lost_everything_comes_back_as_another_and_is_filled() {
    let mut cluster = of_three(Options { is_durable: false, ..options(Trigger::push()) });
    for at in 0..50 {
        cluster.put(0, at, None);
    }
    cluster.run_ms(300);
    cluster.crash(0);
    cluster.restart(0);
    let own = cluster.replica(0).unwrap();
    assert!(!own.is_up());
    let token = cluster.put(0, 1, None).unwrap();
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(Refusal::NotUp)));
    cluster.run_ms(2_000);
    cluster.check_equal(&[0, 1, 2]);
    assert!((0..50).all(|at| is_shown(&cluster, 0, at)));
}

/// Found by a search: two joined at once, and compared what they had, which was nothing. Once one of them had come up, the other
/// took that for a comparison with one who is up, and came up with nothing.
#[test]
fn who_joins_is_filled_by_one_who_has_everything() {
    let mut cluster = of_three(options(Trigger::push()));
    cluster.put(0, 1, None);
    cluster.run_ms(500);
    // Two others take the places of the second and third, while the first is away.
    cluster.crash(0);
    (1..3).for_each(|slot| {
        cluster.remove(slot);
        cluster.restart(slot);
    });
    cluster.run_ms(1_000);
    cluster.restart(0);
    cluster.partition(0b100);
    cluster.run_ms(1_500);
    assert!(cluster.replica(1).unwrap().is_up() && is_shown(&cluster, 1, 1));
    let instance = cluster.replica(2).unwrap().status().instance;
    assert_eq!(cluster.members.states[&instance], MemberState::Joining);
    // It hears only the one that has come up.
    cluster.crash(0);
    cluster.partition(0);
    cluster.run_ms(1_500);
    assert!(cluster.replica(2).unwrap().is_up() && is_shown(&cluster, 2, 1));
}

#[test]
fn writes_that_knew_nothing_of_each_other_are_logged_where_asked_for() {
    let mut cluster = of_three(Options { logs_conflicts: true, ..options(Trigger::push()) });
    // One after the other, wherever: no conflict.
    for slot in [0, 1, 2, 0] {
        cluster.put(slot, 1, None);
        cluster.run_ms(300);
    }
    // All three of them wrote the key that they begin with.
    let of = |cluster: &Cluster, slot: usize| -> Vec<crate::Conflict> {
        cluster.replica(slot).unwrap().conflicts().filter(|conflict| conflict.key != key(200)).cloned().collect()
    };
    assert!((0..3).all(|slot| of(&cluster, slot).is_empty()));
    cluster.partition(1);
    let lost = cluster.put(0, 1, None);
    cluster.run_ms(300);
    let won = cluster.put(1, 1, None);
    cluster.run_ms(300);
    cluster.partition(0);
    cluster.run_ms(3_000);
    let version = |token: Option<u64>| match cluster.answers.get(&token.unwrap()) {
        Some(Answer::Written { version, .. }) => *version,
        other => panic!("{other:?}"),
    };
    for slot in [0, 1] {
        let [conflict] = &of(&cluster, slot)[..] else { panic!("{:?}", of(&cluster, slot)) };
        assert_eq!((&conflict.key, conflict.won, conflict.lost), (&key(1), version(won), version(lost)));
    }
    assert!(of(&cluster, 2).is_empty(), "it wrote neither");
    // The log is bounded.
    cluster.partition(1);
    for at in 0..200 {
        cluster.put(0, at, None);
    }
    cluster.run_ms(300);
    for at in 0..200 {
        cluster.put(1, at, None);
    }
    cluster.run_ms(300);
    cluster.partition(0);
    cluster.run_ms(3_000);
    assert_eq!((of(&cluster, 1).len(), of(&cluster, 1).last().map(|last| last.key.clone())), (128, Some(key(199))));
    // And kept only if somebody wants it.
    let mut cluster = of_three(options(Trigger::push()));
    cluster.partition(1);
    cluster.put(0, 1, None);
    cluster.put(1, 1, None);
    cluster.run_ms(300);
    cluster.partition(0);
    cluster.run_ms(3_000);
    let counted = |slot: usize| cluster.replica(slot).unwrap().status().counts.conflicts;
    assert!(counted(0) > 0 && (0..3).all(|slot| cluster.replica(slot).unwrap().conflicts().count() == 0));
}

#[test]
fn figures_say_what_each_peer_lacks_and_got() {
    let mut cluster = of_three(Options { outbox_max_bytes: 2_000, ..options(Trigger::push()) });
    let of = |cluster: &Cluster, other: u32| cluster.status(0).peers.into_iter().find(|peer| peer.instance.0 == other).unwrap();
    cluster.run_ms(1_000);
    let idle = of(&cluster, 3);
    assert!(idle.lag_ms == 0 && !idle.needs_sync && idle.compared_wall_ms.is_some() && idle.copied_wall_ms.is_none());
    cluster.partition(0b100);
    cluster.put(0, 1, None);
    cluster.run_ms(1_000);
    let (near, far) = (of(&cluster, 2), of(&cluster, 3));
    assert_eq!((near.lag_ms, near.lag_entries), (0, Some(0)));
    assert!((900..=1_000).contains(&far.lag_ms) && far.lag_entries == Some(1) && !far.needs_sync, "{far:?}");
    assert!(near.pushed_bytes > idle.pushed_bytes);
    // Too much for the outbox.
    (0..40).for_each(|at| {
        cluster.put(0, at, None);
        cluster.sync_disk(0);
    });
    cluster.run_ms(1_000);
    let far = of(&cluster, 3);
    assert!((1_900..=2_100).contains(&far.lag_ms) && far.needs_sync, "{far:?}");
    cluster.partition(0);
    cluster.run_ms(3_000);
    let back = of(&cluster, 3);
    assert!(back.lag_ms == 0 && !back.needs_sync && back.put >= 40 && back.put_bytes > 40 * 10, "{back:?}");
    assert!(back.compared_wall_ms > idle.compared_wall_ms);
    // What comes by a round from the other side.
    let pulled = cluster.replica(2).unwrap().status().peers.iter().map(|peer| (peer.pulled, peer.pulled_bytes)).max();
    assert!(pulled.is_some_and(|(entries, bytes)| bytes >= entries), "{pulled:?}");
}

#[test]
fn copies_are_dated_and_what_waits_for_one_lags() {
    let mut cluster = of_three(options(Trigger::Copy(CopyWhen::Manual)));
    cluster.sync(0);
    cluster.run_ms(500);
    cluster.put(0, 1, None);
    cluster.run_ms(2_000);
    let of = |cluster: &Cluster| cluster.status(0).peers.remove(0);
    assert!(of(&cluster).copied_wall_ms.is_none() && (1_900..=2_000).contains(&of(&cluster).lag_ms), "{:?}", of(&cluster));
    cluster.flush(0);
    cluster.run_ms(500);
    assert!(of(&cluster).copied_wall_ms.is_some() && of(&cluster).lag_ms == 0, "{:?}", of(&cluster));
}

#[test]
fn schedules_are_kept_and_what_was_missed_is_made_up_for_once() {
    let batching = Batching { interval_ms: u64::MAX, max_entries: u64::MAX, max_bytes: u64::MAX };
    let schedule = Some("*/10 * * * *".parse().unwrap());
    let mut cluster = of_three(Options { schedule, ..options(Trigger::Write(batching)) });
    let runs = |cluster: &Cluster, slot| cluster.replica(slot).unwrap().status().counts.scheduled;
    // Ten minutes before the next time.
    let until = |cluster: &Cluster| 600_000 - cluster.wall_ms(0) % 600_000;
    cluster.run_in_steps(until(&cluster), 500);
    cluster.run_in_steps(1_000, 500);
    cluster.put(0, 1, None);
    cluster.run_in_steps(until(&cluster) - 1_000, 500);
    assert!(!is_shown(&cluster, 1, 1) && runs(&cluster, 0) == 1);
    cluster.run_in_steps(2_000, 500);
    assert!(is_shown(&cluster, 1, 1) && is_shown(&cluster, 2, 1) && runs(&cluster, 0) == 2);
    // A clock that goes back by an hour, and comes again to times that were.
    cluster.jump(0, -3_600_000);
    cluster.run_in_steps(1_800_000, 500);
    assert_eq!(runs(&cluster, 0), 2);
    cluster.jump(0, 0);
    cluster.run_in_steps(1_000, 500);
    assert_eq!(runs(&cluster, 0), 3, "three times passed meanwhile");
    // Away for an hour.
    cluster.crash(0);
    cluster.run_in_steps(3_600_000, 5_000);
    cluster.restart(0);
    cluster.run_in_steps(2_000, 500);
    assert_eq!(runs(&cluster, 0), 1, "since it started");
    cluster.crash(0);
    cluster.restart(0);
    cluster.run_in_steps(2_000, 500);
    assert_eq!(runs(&cluster, 0), 0, "nothing was missed");
}

#[test]
fn copies_are_made_by_schedule_too() {
    let schedule = Some("* * * * *".parse().unwrap());
    let mut cluster = of_three(Options { schedule, ..options(Trigger::Copy(CopyWhen::Manual)) });
    cluster.run_in_steps(60_000 - cluster.wall_ms(0) % 60_000 + 1_000, 500);
    cluster.put(0, 1, None);
    cluster.run_in_steps(50_000, 500);
    assert!(!is_shown(&cluster, 1, 1));
    cluster.run_in_steps(15_000, 500);
    assert!(is_shown(&cluster, 1, 1) && is_shown(&cluster, 2, 1));
}

#[test]
fn who_leaves_goes_once_the_others_have_what_it_wrote() {
    let batching = Batching { interval_ms: 600_000, max_entries: u64::MAX, max_bytes: u64::MAX };
    let mut cluster = of_three(options(Trigger::Write(batching)));
    cluster.put(0, 1, None);
    cluster.run_ms(500);
    let instance = cluster.replica(0).unwrap().status().instance;
    cluster.members.states.insert(instance, MemberState::Leaving);
    cluster.run_ms(500);
    assert!(!cluster.is_running(0) && is_shown(&cluster, 1, 1) && is_shown(&cluster, 2, 1));
}

/// One run of the property tests once ended with replicas that differed for good, and its input was lost. This is how that
/// comes about: a write took the place of an older one of its key that was not sent to anybody yet; but the newest member
/// listened only from the place after it on, and was told of what came before by a comparison that had ended. So it was thought
/// to have what it never got, and its fence kept that out for ever.
#[test]
fn who_begins_to_listen_gets_what_is_written_again() {
    let batching = Batching { interval_ms: 600_000, max_entries: u64::MAX, max_bytes: u64::MAX };
    let mut cluster = of_three(options(Trigger::Write(batching)));
    cluster.put(0, 1, None);
    cluster.remove(2);
    cluster.restart(2);
    cluster.run_ms(2_000);
    assert!(is_shown(&cluster, 2, 1) && !is_shown(&cluster, 1, 200), "it was compared with");
    let token = cluster.put(0, 1, None);
    cluster.delete(0, 2);
    cluster.run_ms(200);
    assert!(written(&cluster, token).1);
    cluster.flush(1);
    let token = cluster.flush(0).unwrap();
    cluster.run_ms(2_000);
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Done { reached: 2, others: 2 }));
    // Too late: what is deleted meanwhile is gone everywhere.
    cluster.sync(0);
    cluster.run_ms(1_000);
    cluster.check_equal(&[0, 1, 2]);
}

#[test]
fn who_has_only_begun_to_listen_confirms_nothing_that_came_before() {
    let batching = Batching { interval_ms: 600_000, max_entries: u64::MAX, max_bytes: u64::MAX };
    let mut cluster = of_three(Options { ack: Ack::Others(1), ..options(Trigger::Write(batching)) });
    let token = cluster.put(0, 1, None);
    cluster.sync_disk(0);
    // Another member takes the place of the third, and nobody hears the first.
    cluster.partition(1);
    cluster.remove(2);
    cluster.restart(2);
    cluster.adopt(0);
    let flush = cluster.flush(0).unwrap();
    cluster.run_ms(400);
    assert_eq!(cluster.answers.get(&token.unwrap()), None);
    assert_eq!(cluster.answers.get(&flush), None);
    cluster.run_ms(200);
    assert_eq!(written(&cluster, token), (0, false));
    cluster.run_ms(5_000);
    assert_eq!(cluster.answers.get(&flush), Some(&Answer::Done { reached: 0, others: 1 }));
}

#[test]
fn checkpoints_keep_the_log_short_and_lose_nothing() {
    let mut cluster = of_three(Options { checkpoint_bytes: 4_000, ..options(Trigger::push()) });
    for round in 0..40 {
        for at in 0..10 {
            if (round + at) % 7 == 0 {
                cluster.delete(0, at);
            } else {
                cluster.put(0, at, None);
            }
        }
        cluster.run_ms(100);
    }
    assert!(cluster.replica(0).unwrap().status().counts.checkpoints > 2);
    assert!(cluster.log_bytes(0) < 12_000, "{} bytes of log", cluster.log_bytes(0));
    let before: Vec<Option<Entry>> = (0..10).map(|at| shown(&cluster, 0, at)).collect();
    cluster.crash(0);
    cluster.restart(0);
    let after: Vec<Option<Entry>> = (0..10).map(|at| shown(&cluster, 0, at)).collect();
    assert_eq!(before, after);
}

#[test]
fn who_does_not_know_the_members_is_not_heard() {
    let mut cluster = of_three(options(Trigger::push()));
    let [first, last] = [0, 2].map(|slot| cluster.instance(slot).unwrap());
    cluster.members.states.insert(last, MemberState::Leaving);
    cluster.members.epoch += 1;
    (0..2).for_each(|slot| cluster.adopt(slot));
    for _ in 0..20 {
        cluster.exchange(2);
        cluster.pass_ms(100);
    }
    let hears = |cluster: &Cluster, slot: usize, of| cluster.replica(slot).unwrap().hears(of);
    assert!(hears(&cluster, 1, first) && !hears(&cluster, 1, last), "it reports, and does not know that it shall go");
    cluster.adopt(2);
    cluster.exchange(2);
    assert!(hears(&cluster, 1, last));
}
