//! Caches, in any order of events: what they have may go, and must never be what it should not be.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::cluster::{Cluster, key};
use super::properties::{Op, apply, config, op};
use crate::io::Answer;
use crate::replica::Replica;
use crate::{Body, CacheOptions, InstanceId, Options, Trigger, Version};

/// Values live this long.
const TTL_MS: u64 = 20_000;

/// Keys that are written.
const KEYS: u8 = 3;

/// What must hold of caches.
#[derive(Debug, Default)]
pub(super) struct Caches {
    writes: BTreeMap<u64, (Bytes, Body)>,
    /// The newest version of a key that was acknowledged, and whether it is a value.
    newest: BTreeMap<Bytes, (Version, bool)>,
    /// The newest version of which an instance knew that it was gone.
    gone: BTreeMap<(InstanceId, Bytes), Version>,
    shown: u64,
}

impl Caches {
    pub(super) fn on_write(&mut self, token: u64, key: &Bytes, body: &Body) {
        self.writes.insert(token, (key.clone(), body.clone()));
    }

    pub(super) fn on_answer(&mut self, token: u64, answer: &Answer) {
        let Answer::Written { version, .. } = answer else { return };
        let (key, body) = &self.writes[&token];
        if *body == Body::Tombstone {
            let gone = self.gone.entry((version.instance, key.clone())).or_insert(*version);
            *gone = (*gone).max(*version);
        }
        let newest = self.newest.entry(key.clone()).or_insert((*version, false));
        if *version >= newest.0 {
            *newest = (*version, matches!(body, Body::Value { .. }));
        }
    }

    /// Looks at a replica after a step.
    pub(super) fn look(&mut self, replica: &Replica, wall_ms: u64) {
        let instance = replica.status().instance;
        for key in (0..KEYS).map(key) {
            let at = (instance, key.clone());
            if let Some(entry) = replica.get_durable(&key) {
                // C1: only what somebody wrote, and it ends in time.
                let is_written = self.writes.values().any(|(of, body)| *of == key && *body == entry.body);
                assert!(is_written, "C1: nobody wrote {entry:?}");
                let ends_ms = entry.version.hlc.ms() + TTL_MS;
                assert!(entry.deadline_ms != 0 && entry.deadline_ms <= ends_ms, "C1: {entry:?} does not end in time");
                // C2: nothing comes back that is older than what was known to be gone, however late it comes.
                let gone = self.gone.get(&at);
                assert!(gone.is_none_or(|gone| entry.version >= *gone), "C2: {key:?} is back, {entry:?}, after {gone:?}");
                self.shown += u64::from(entry.is_live(wall_ms));
            }
            if let Some(version) = replica.gone_for_tests(&key) {
                let gone = self.gone.entry(at).or_insert(version);
                *gone = (*gone).max(version);
            }
        }
    }

    /// C3: nobody shows anything older than the newest.
    fn check_fresh(&self, replica: &Replica, wall_ms: u64) {
        for (key, (newest, is_value)) in &self.newest {
            let entry = replica.get_durable(key).filter(|entry| entry.is_live(wall_ms));
            let shown = entry.map(|entry| entry.version);
            let is_fresh = shown.is_none_or(|shown| *is_value && shown == *newest || shown > *newest);
            assert!(is_fresh, "C3: {:?} shows {shown:?} of {key:?}, and the newest is {newest}", replica.status().instance);
        }
    }
}

fn options(trigger: Trigger, invalidates: bool) -> Options {
    Options {
        is_durable: false,
        cache: Some(CacheOptions { ttl_ms: TTL_MS, invalidates }),
        report_interval_ms: 200,
        max_report_interval_ms: 3_200,
        digest_levels: 1,
        ..Options::new(trigger)
    }
}

fn is_shown(cluster: &Cluster, slot: usize, at: u8) -> bool {
    let entry = cluster.replica(slot).and_then(|replica| replica.get_durable(&key(at)));
    entry.is_some_and(|entry| entry.is_live(cluster.wall_ms(slot)))
}

fn of_three(options: Options) -> Cluster {
    let mut cluster = Cluster::new(3, options, None);
    cluster.run_ms(1_000);
    cluster
}

#[test]
fn values_travel_end_and_are_deleted_everywhere() {
    let mut cluster = of_three(options(Trigger::push(), false));
    cluster.put(0, 0, None);
    cluster.put(0, 1, Some(5_000));
    cluster.put(0, 2, Some(10 * TTL_MS));
    cluster.run_ms(200);
    assert!((0..3).all(|slot| (0..3).all(|at| is_shown(&cluster, slot, at))));
    cluster.delete(1, 0);
    cluster.run_ms(200);
    assert!((0..3).all(|slot| !is_shown(&cluster, slot, 0)));
    cluster.run_ms(6_000);
    assert!((0..3).all(|slot| !is_shown(&cluster, slot, 1) && is_shown(&cluster, slot, 2)));
    cluster.run_ms(TTL_MS);
    for slot in 0..3 {
        assert!(!is_shown(&cluster, slot, 2), "the keyspace's time is the longest");
        assert_eq!(cluster.status(slot).keys, 0, "their memory is free again");
        assert_eq!(cluster.status(slot).tombstones, 1);
    }
    cluster.run_ms(70_000);
    assert!((0..3).all(|slot| cluster.status(slot).tombstones == 0));
    assert!((0..3).all(|slot| cluster.status(slot).counts.rounds == 0), "nobody is compared with");
}

#[test]
fn what_one_evicts_the_others_keep_and_nobody_brings_back() {
    let mut cluster = of_three(options(Trigger::push(), false));
    cluster.max_cached = Some(8);
    cluster.crash(2);
    cluster.restart(2);
    cluster.run_ms(1_000);
    assert!(cluster.replica(2).unwrap().is_up(), "it has nothing to wait for");
    for at in 0..40 {
        cluster.put(0, at, None);
    }
    cluster.run_ms(300);
    assert_eq!([0, 1].map(|slot| cluster.status(slot).keys), [40, 40]);
    assert!(cluster.status(2).keys <= 8);
    let messages = cluster.messages;
    cluster.run_ms(5_000);
    assert!(cluster.status(2).keys <= 8 && cluster.status(2).tombstones == 0);
    assert!(cluster.messages - messages < 60, "nothing but reports");
}

#[test]
fn invalidations_carry_no_value_and_take_the_old_one_away() {
    let mut cluster = of_three(options(Trigger::push(), true));
    let pushed = |cluster: &Cluster| cluster.status(0).counts.pushed_bytes;
    cluster.put(0, 0, None);
    cluster.run_ms(200);
    assert!(is_shown(&cluster, 0, 0) && !is_shown(&cluster, 1, 0), "who wants it writes it");
    cluster.put(1, 0, None);
    cluster.run_ms(200);
    assert!(!is_shown(&cluster, 0, 0) && is_shown(&cluster, 1, 0), "one wrote a newer one");
    let before = pushed(&cluster);
    cluster.write(0, &key(1), Body::plain(Bytes::from(vec![0; 50_000])), None);
    cluster.run_ms(200);
    assert!((1..1_000).contains(&(pushed(&cluster) - before)));
}

#[test]
fn reads_fill_a_cache_from_others_and_learn_what_is_gone() {
    let trigger = Trigger::Read { fanout: usize::MAX, deadline_ms: 50, min_answers: 0, repairs_others: false };
    let mut cluster = of_three(options(trigger, false));
    cluster.put(0, 0, None);
    let token = cluster.read(1, 0).unwrap();
    cluster.exchange(4);
    assert!(matches!(&cluster.answers[&token], Answer::Found { entry: Some(_), answered: 2, .. }));
    assert!(is_shown(&cluster, 1, 0));
    cluster.delete(0, 0);
    assert!(is_shown(&cluster, 1, 0), "it goes nowhere by itself");
    let token = cluster.read(1, 0).unwrap();
    cluster.exchange(4);
    assert!(matches!(&cluster.answers[&token], Answer::Found { entry: None, answered: 2, .. }), "{:?}", cluster.answers[&token]);
    assert!(!is_shown(&cluster, 1, 0));
}

#[test]
fn a_value_that_comes_late_does_not_bring_a_key_back() {
    for late_ms in [100, 50_000, 70_000] {
        let mut cluster = of_three(options(Trigger::push(), false));
        // On its way, while another deletes the key.
        cluster.put(0, 0, Some(TTL_MS));
        cluster.pass_ms(5);
        cluster.delete(1, 0);
        cluster.put(1, 1, None);
        cluster.pass_ms(late_ms);
        cluster.jump(1, -i64::try_from(late_ms).unwrap());
        cluster.deliver_all();
        assert!(!is_shown(&cluster, 1, 0), "{late_ms}");
        cluster.run_ms(1_000);
        assert!(!is_shown(&cluster, 1, 0), "{late_ms}");
    }
}

#[test]
fn too_much_for_a_peer_is_left_out_and_the_rest_goes_on() {
    let mut cluster = of_three(Options { outbox_max_bytes: 2_000, ..options(Trigger::push(), false) });
    cluster.partition(0b100);
    for at in 0..100 {
        cluster.put(0, at, None);
    }
    cluster.write(0, &key(200), Body::plain(Bytes::from(vec![0; 5_000])), None);
    cluster.run_ms(2_000);
    assert!(is_shown(&cluster, 0, 200) && cluster.status(0).counts.overflows > 0);
    cluster.partition(0);
    cluster.run_ms(6_000);
    cluster.put(0, 1, None);
    cluster.run_ms(1_000);
    let newest = cluster.replica(0).unwrap().get_durable(&key(1));
    assert_eq!(cluster.replica(2).unwrap().get_durable(&key(1)), newest);
    assert_eq!(cluster.status(0).outbox_entries, 0);
}

fn start() -> impl Strategy<Value = (usize, Options, Option<u64>)> {
    let trigger = prop_oneof![
        2 => Just(Trigger::push()),
        1 => Just(Trigger::Read { fanout: usize::MAX, deadline_ms: 1_000, min_answers: 0, repairs_others: true }),
    ];
    let room = prop_oneof![Just(None), Just(Some(2))];
    (2..5_usize, trigger, any::<bool>(), room)
        .prop_map(|(slots, trigger, invalidates, room)| (slots, options(trigger, invalidates), room))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn caches_show_nothing_that_they_should_not((slots, options, room) in start(), ops in prop::collection::vec(op(), 1..120)) {
        let is_pushed = options.batching().is_some();
        let mut cluster = Cluster::new(slots, options, None);
        cluster.max_cached = room;
        ops.iter().for_each(|op| apply(&mut cluster, op));
        let has_lost = ops.iter().any(|op| matches!(op, Op::Crash(_) | Op::Remove(_) | Op::Jump(..)));
        cluster.heal();
        cluster.run_in_steps(8_000, 200);
        for slot in 0..cluster.slots() {
            let replica = cluster.replica(slot).expect("all are back");
            assert!(replica.is_up() && replica.status().outbox_entries == 0);
            if is_pushed && !has_lost {
                cluster.caches.check_fresh(replica, cluster.wall_ms(slot));
            }
        }
        // C4: in the end nothing is left.
        cluster.pass_ms(3 * 3_600_000);
        cluster.run_in_steps(1_000, 200);
        for slot in 0..cluster.slots() {
            prop_assert!((0..KEYS).all(|at| !is_shown(&cluster, slot, at)), "C4: something did not end");
        }
    }
}
