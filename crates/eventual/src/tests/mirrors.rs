//! Mirrors, in any order of events: an oracle of their own, for a copy may take things away.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::cluster::{Cluster, Fate, key};
use super::disks::simulated;
use super::mutations::Mutation;
use super::properties::copying;
use crate::io::{Answer, Refusal};
use crate::replica::Replica;
use crate::{Body, CopyWhen, Hlc, InstanceId, MemberState, Options, Trigger, Version};

/// Keys that are written.
const KEYS: u8 = 4;

/// What is served, by key.
type Content = BTreeMap<Bytes, Version>;

/// A copy: whose, its round, and its stamp.
type Taken = (InstanceId, u64, Hlc);

/// What must hold of mirrors.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    /// What each source had, by its clock.
    had: BTreeMap<(InstanceId, Hlc), Content>,
    /// The greatest stamp with which each source wrote a key.
    written: BTreeMap<(InstanceId, Bytes), Hlc>,
    /// What each had after each step as the source, and after each copy that it took; and the last of these copies.
    taken: BTreeMap<InstanceId, (Vec<Content>, Option<Taken>)>,
    were_sources: BTreeSet<InstanceId>,
    copies: u64,
    /// A copy may have keys as they were at different moments.
    are_mixed: bool,
    /// A copy may be seen before it has ended.
    are_seen_in_parts: bool,
}

fn content(of: impl Fn(&Bytes) -> Option<crate::Entry>) -> Content {
    let live = |key: Bytes| of(&key).filter(|entry| !entry.is_dead()).map(|entry| (key, entry.version));
    (0..KEYS).filter_map(|at| live(key(at))).collect()
}

impl Mirrors {
    /// What the options promise of copies.
    pub(super) fn new(options: &Options) -> Self {
        let [are_mixed, are_seen_in_parts] = [options.max_pinned_bytes, options.max_staged_bytes].map(|max| max < 1 << 20);
        Self { are_mixed, are_seen_in_parts, ..Self::default() }
    }

    /// Looks at a replica after a step.
    pub(super) fn look(&mut self, replica: &Replica) {
        replica.check();
        let instance = replica.status().instance;
        let now = content(|key| replica.get(key).expect("readable"));
        if replica.is_mirrored() {
            for (key, version) in (0..KEYS).filter_map(|at| Some((key(at), replica.get(&key(at)).ok()??.version))) {
                let known = self.written.entry((instance, key)).or_default();
                *known = (*known).max(version.hlc);
            }
            self.had.insert((instance, replica.clock.promised()), now.clone());
        }
        if !replica.is_read_only() {
            self.taken.entry(instance).or_default().0.push(now);
            self.were_sources.insert(instance);
            return;
        }
        let last = replica.taken_for_tests();
        let seen = content(|key| replica.get_durable(key));
        let (states, known) = self.taken.entry(instance).or_insert_with(|| (vec![seen.clone()], None));
        if self.were_sources.remove(&instance) {
            // It was the source until this step, and wrote in it.
            states.push(now.clone());
        }
        // One that started again tells of a copy from before, without its round: it may have been the source since then.
        if *known != last
            && let Some((from, 1.., at)) = last
        {
            *known = last;
            states.push(now.clone());
            self.copies += 1;
            self.check_copy(from, at, &now, replica);
        }
        if self.are_seen_in_parts {
            // Between copies it is as it is. What its copies are at their end is known, and what all are in the end.
            return;
        }
        let states = &self.taken[&instance].0;
        assert!(states.contains(&now), "M3: {instance:?} has {now:?}, which no copy brought: {states:?}");
        // M3: readers see what there was or what there is, and nothing between; after a crash, too.
        assert!(states.contains(&seen), "M3: {instance:?} shows {seen:?}, and never had that: {states:?}");
    }

    fn check_copy(&mut self, from: InstanceId, at: Hlc, now: &Content, replica: &Replica) {
        // A source that was not looked at between its start and its copy.
        let Some(had) = self.had.get(&(from, at)) else { return };
        let instance = replica.status().instance;
        for key in (0..KEYS).map(key) {
            let (source, own) = (had.get(&key), now.get(&key));
            match own {
                // M1: nothing of the copy's time is there that the source had not.
                Some(version) if version.hlc <= at => {
                    assert_eq!(source, Some(version), "M1: {instance:?} has {key:?}, and {from:?} had not at {at:?}");
                }
                Some(_) => {}
                // M2: what the source had is there, unless another deleted it later; or, where a copy may be of several moments,
                // the source wrote the key again meanwhile.
                None => {
                    let is_written = self.are_mixed && self.written.get(&(from, key.clone())).is_some_and(|hlc| *hlc > at);
                    let is_newer = replica.get(&key).expect("readable").is_some_and(|entry| entry.version.hlc > at);
                    assert!(
                        source.is_none() || is_written || is_newer,
                        "M2: {instance:?} has not {key:?}, and {from:?} had at {at:?}"
                    );
                }
            }
        }
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    Put(usize, u8),
    Delete(usize, u8),
    Network(u16, Fate),
    DeliverAll,
    SyncDisk(usize),
    Pass(u64),
    Run(u64),
    Crash(usize),
    Restart(usize),
    Adopt(usize),
    Remove(usize),
    Partition(u8),
    Flush(usize),
    Source(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (slot, key) = (0..4_usize, 0..KEYS);
    let fate = prop_oneof![6 => Just(Fate::Arrives), 1 => Just(Fate::ComesTwice), 1 => Just(Fate::IsLost)];
    prop_oneof![
        8 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Op::Put(slot, key)),
        5 => (slot.clone(), key).prop_map(|(slot, key)| Op::Delete(slot, key)),
        12 => (any::<u16>(), fate).prop_map(|(pick, fate)| Op::Network(pick, fate)),
        3 => Just(Op::DeliverAll),
        6 => slot.clone().prop_map(Op::SyncDisk),
        5 => prop_oneof![1..30_u64, 200..1_500_u64].prop_map(Op::Pass),
        4 => (50..1_500_u64).prop_map(Op::Run),
        2 => slot.clone().prop_map(Op::Crash),
        3 => slot.clone().prop_map(Op::Restart),
        3 => slot.clone().prop_map(Op::Adopt),
        1 => slot.clone().prop_map(Op::Remove),
        1 => any::<u8>().prop_map(Op::Partition),
        1 => Just(Op::Run(11_000)),
        2 => slot.clone().prop_map(Op::Flush),
        1 => slot.prop_map(Op::Source),
    ]
}

pub(super) fn options(when: CopyWhen, is_durable: bool) -> Options {
    Options {
        is_durable,
        mirror_of: Some(InstanceId(1)),
        report_interval_ms: 200,
        max_report_interval_ms: 3_200,
        digest_levels: 1,
        checkpoint_bytes: 400,
        ..Options::new(Trigger::Copy(when))
    }
}

/// Whoever was the source and is gone is followed by another that is up.
fn follow_source(cluster: &mut Cluster) {
    let states = &cluster.members.states;
    let is_there = (0..cluster.slots()).filter_map(|slot| cluster.instance(slot)).any(|id| Some(id) == cluster.source());
    if !is_there || !states.keys().any(|id| Some(*id) == cluster.source()) {
        let up = states.iter().find(|(_, state)| **state == MemberState::Up).or_else(|| states.iter().next());
        if let Some((next, _)) = up.map(|(id, state)| (*id, *state)) {
            cluster.set_source(next);
        }
    }
}

fn apply(cluster: &mut Cluster, op: &Op) {
    let slots = cluster.slots();
    match *op {
        Op::Put(slot, key) => _ = cluster.put(slot % slots, key, None),
        Op::Delete(slot, key) => _ = cluster.delete(slot % slots, key),
        Op::Network(pick, fate) => cluster.network(pick, fate),
        Op::DeliverAll => cluster.deliver_all(),
        Op::SyncDisk(slot) => cluster.sync_disk(slot % slots),
        Op::Pass(ms) => cluster.pass_ms(ms),
        Op::Run(ms) => cluster.run_ms(ms),
        Op::Crash(slot) => cluster.crash(slot % slots),
        Op::Restart(slot) => cluster.restart(slot % slots),
        Op::Adopt(slot) => cluster.adopt(slot % slots),
        Op::Remove(slot) => cluster.remove(slot % slots),
        Op::Partition(sides) => cluster.partition(sides),
        Op::Flush(slot) => _ = cluster.flush(slot % slots),
        Op::Source(slot) => {
            let id = cluster.instance(slot % slots);
            if let Some(id) = id.filter(|id| cluster.members.states.get(id) == Some(&MemberState::Up)) {
                cluster.set_source(id);
            }
        }
    }
    follow_source(cluster);
}

/// Everything is well again: all have what the source has, and nothing else.
fn end(cluster: &mut Cluster) {
    cluster.partition(0);
    for slot in 0..cluster.slots() {
        cluster.restart(slot);
        follow_source(cluster);
    }
    cluster.run_in_steps(20_000, 200);
    let of = |slot: usize| content(|key| cluster.replica(slot).expect("all are back").get_durable(key));
    let source = (0..cluster.slots()).find(|slot| cluster.instance(*slot) == cluster.source()).expect("there is a source");
    for slot in 0..cluster.slots() {
        let status = cluster.status(slot);
        assert!(status.is_up, "{:?} has not come up: {:?}", status.instance, cluster.members);
        assert_eq!(of(slot), of(source), "M4: {:?} has not what {:?} has", status.instance, cluster.source());
        assert_eq!(status.tombstones, 0, "{status:#?}");
    }
}

fn run(cluster: &mut Cluster, ops: &[Op]) {
    ops.iter().for_each(|op| apply(cluster, op));
    end(cluster);
}

fn config() -> Config {
    let asked: Option<u32> = std::env::var("QUORATE_EVENTUAL_CASES").ok().and_then(|cases| cases.parse().ok());
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    Config { cases: asked.unwrap_or(600), rng_seed, failure_persistence: Some(super::properties::kept()), ..Config::default() }
}

fn when() -> impl Strategy<Value = CopyWhen> {
    prop_oneof![Just(CopyWhen::OnWrite { quiet_ms: 100, min_interval_ms: 400 }), Just(CopyWhen::Every(900))]
}

/// How copies are made: rate and size of pieces, how much may change for them to be of one moment, and how much they may change
/// to take their place at once.
type How = ((Option<u64>, u64), [u64; 2]);

fn how() -> impl Strategy<Value = How> {
    let limit = || prop_oneof![3 => Just(64_u64 << 20), 1 => 0..300_u64];
    (copying(), [limit(), limit()])
}

fn with(((copy_rate, copy_piece_bytes), [max_pinned_bytes, max_staged_bytes]): How, options: Options) -> Options {
    Options { copy_rate, copy_piece_bytes, max_pinned_bytes, max_staged_bytes, ..options }
}

/// A property that holds because nothing happens is none.
#[test]
fn copies_take_the_place_of_what_was_there() {
    let mut cluster = Cluster::new(3, options(CopyWhen::Manual, true), None);
    let read = |cluster: &Cluster, slot: usize| content(|key| cluster.replica(slot).unwrap().get_durable(key));
    cluster.run_ms(1_000);
    let token = cluster.put(1, 0, None).unwrap();
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(Refusal::ReadOnly { source: InstanceId(1) })));
    cluster.put(0, 0, None);
    cluster.put(0, 1, None);
    cluster.run_ms(1_000);
    assert!(read(&cluster, 1).is_empty(), "nothing travels by itself");
    let token = cluster.flush(0).unwrap();
    cluster.run_ms(500);
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Done { reached: 2, others: 2 }));
    assert_eq!((read(&cluster, 1), read(&cluster, 0).len()), (read(&cluster, 0), 2));
    // The third is not told of another source in time, and of no copy of the first.
    cluster.partition(0b100);
    cluster.delete(0, 0);
    cluster.put(0, 2, None);
    cluster.flush(0);
    cluster.run_ms(500);
    assert!(!read(&cluster, 1).contains_key(&key(0)) && read(&cluster, 2).contains_key(&key(0)));
    // The source writes once more, and another one takes its place that never hears of that.
    cluster.put(0, 3, None);
    cluster.run_ms(100);
    cluster.set_source(InstanceId(2));
    cluster.partition(0);
    cluster.run_ms(3_000);
    for slot in [0, 2] {
        assert_eq!(read(&cluster, slot), read(&cluster, 1), "it has what the new source has, and nothing else");
    }
    assert_eq!(read(&cluster, 1).len(), 2);
    let counts = [0, 2].map(|slot| cluster.status(slot).counts);
    assert!(counts.iter().all(|counts| counts.mirrored > 0) && counts[0].vanished > 0, "{counts:?}");
    assert!(cluster.mirrors.copies > 4);
    // What one has is still there after it starts again.
    cluster.crash(0);
    cluster.restart(0);
    assert_eq!(read(&cluster, 0), read(&cluster, 1));
}

/// The oracle finds a copy that never was.
#[test]
fn a_copy_that_is_lost_and_said_to_be_done_is_found() {
    let run = || {
        let mut cluster = Cluster::new(2, options(CopyWhen::Every(900), true), Some(Mutation::CopyLost));
        cluster.put(0, 1, None);
        end(&mut cluster);
    };
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
}

/// A mirror that became the source, deleted what a copy had brought, and starts again, has no copy but that one: found by a
/// search, in the oracle.
#[test]
fn a_copy_from_before_is_no_new_one() {
    let on_write = CopyWhen::OnWrite { quiet_ms: 100, min_interval_ms: 400 };
    let mut cluster = Cluster::new(4, options(on_write, true), None);
    let ops = [
        Op::Put(0, 1),
        Op::Run(101),
        Op::Source(1),
        Op::Run(50),
        Op::Delete(1, 1),
        Op::Run(201),
        Op::Crash(2),
        Op::Source(2),
        Op::Run(50),
        Op::Crash(1),
    ];
    run(&mut cluster, &ops);
}

/// A copy of many records, of which a crash leaves some: it counts as a whole or not at all. (The general test has small copies.)
#[test]
fn a_copy_whose_records_are_cut_off_never_was() {
    let options = Options { checkpoint_bytes: 1 << 30, ..options(CopyWhen::Manual, true) };
    cut_off_copies(&mut Cluster::new(2, options, None));
}

/// The same, where readers see what an engine on a disk has, which is flushed all the time.
#[test]
fn a_copy_on_a_disk_whose_records_are_cut_off_never_was() {
    let options = Options { checkpoint_bytes: 1, ..options(CopyWhen::Manual, true) };
    cut_off_copies(&mut Cluster::over(Some(simulated), 2, options, None));
}

fn cut_off_copies(cluster: &mut Cluster) {
    cluster.run_ms(1_000);
    let fill = |cluster: &mut Cluster, with: u8| {
        for at in 0..KEYS {
            cluster.write(0, &key(at), Body::plain(Bytes::from(vec![with; 700_000])), None);
            cluster.exchange_disk(0);
        }
    };
    let read = |cluster: &Cluster, slot: usize| content(|key| cluster.replica(slot).unwrap().get_durable(key));
    let mut seen = BTreeSet::new();
    for keeps in 0..6 {
        let before = read(cluster, 1);
        fill(cluster, keeps);
        cluster.flush(0);
        // The disk of the mirror is slow from the moment on when the copy is there as a whole.
        let copies = cluster.status(1).counts.mirrored;
        for _ in 0..40 {
            cluster.exchange_disk(1);
            cluster.exchange_disk(0);
            cluster.pass_ms(10);
            cluster.deliver_all();
            if cluster.status(1).counts.mirrored > copies {
                break;
            }
        }
        assert_eq!(cluster.status(1).counts.mirrored, copies + 1);
        assert_eq!(read(cluster, 1), before, "none of them is durable");
        cluster.sync_some(1, usize::from(keeps));
        (0..2).for_each(|_| cluster.run_engine(1));
        let shown = read(cluster, 1);
        cluster.crash(1);
        cluster.restart(1);
        let (now, source) = (read(cluster, 1), read(cluster, 0));
        assert!(now == before || now == source, "a part of it: {keeps} records");
        seen.insert(now == source);
        assert_eq!(now, shown, "readers saw what is there after the crash");
        assert!(keeps > 0 || now == before);
        // And a later one counts, though it follows a part of another in the log.
        cluster.run_ms(4_000);
        cluster.crash(1);
        cluster.restart(1);
        assert_eq!(read(cluster, 1), source, "it is copied again");
    }
    assert_eq!(seen.len(), 2, "both were there");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn mirrors_have_what_the_source_has_whatever_happens(
        slots in 2..5_usize,
        when in when(),
        is_durable in any::<bool>(),
        how in how(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        run(&mut Cluster::new(slots, with(how, options(when, is_durable)), None), &ops);
    }

    #[test]
    fn mirrors_on_disks_have_what_the_source_has_whatever_happens(
        slots in 2..5_usize,
        when in when(),
        how in how(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        run(&mut Cluster::over(Some(simulated), slots, with(how, options(when, true)), None), &ops);
    }
}
