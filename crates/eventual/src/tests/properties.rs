//! P1 to P12 under anything that may happen, in any order.

use proptest::prelude::*;
use proptest::test_runner::{Config, FailurePersistence, FileFailurePersistence, RngSeed};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::cluster::{Cluster, Fate};
use super::disks::simulated;
use super::mutations::Mutation;
use crate::{Ack, Batching, CopyWhen, Options, Trigger};

/// What a case begins with.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) slots: usize,
    pub(super) options: Options,
}

/// Something that happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(usize, u8, Option<u64>),
    Delete(usize, u8),
    Read(usize, u8),
    /// A client, where, which key, and whether it deletes.
    SessionWrite(u8, usize, u8, bool),
    SessionRead(u8, usize, u8),
    SessionList(u8, usize),
    Network(u16, Fate),
    DeliverAll,
    SyncDisk(usize),
    Pass(u64),
    Run(u64),
    Crash(usize),
    Restart(usize),
    Adopt(usize),
    Remove(usize),
    Jump(usize, i64),
    Partition(u8),
    Flush(usize),
    Sync(usize),
}

pub(super) fn start() -> impl Strategy<Value = Start> {
    let trigger = prop_oneof![
        3 => Just(Trigger::push()),
        1 => Just(Trigger::Write(Batching { interval_ms: 700, max_entries: 3, max_bytes: 1 << 20 })),
        2 => (any::<bool>(), 0..3_usize).prop_map(|(repairs_others, min_answers)| Trigger::Read {
            fanout: usize::MAX,
            deadline_ms: 1_000,
            min_answers,
            repairs_others,
        }),
        1 => prop_oneof![
            Just(CopyWhen::OnWrite { quiet_ms: 100, min_interval_ms: 400 }),
            Just(CopyWhen::Every(900)),
            Just(CopyWhen::Manual),
        ]
        .prop_map(Trigger::Copy),
    ];
    let ack = prop_oneof![2 => Just(Ack::Local), 1 => Just(Ack::Others(1)), 1 => Just(Ack::AllUp)];
    let small = prop_oneof![2 => Just(64_u64 << 20), 1 => Just(450)];
    (2..6_usize, trigger, any::<bool>(), ack, small, copying()).prop_map(
        |(slots, trigger, is_durable, ack, outbox_max_bytes, copying)| {
            let (copy_rate, copy_piece_bytes) = copying;
            let options = Options {
                copy_rate,
                copy_piece_bytes,
                is_durable,
                ack,
                outbox_max_bytes,
                sync_interval_ms: 2_000,
                report_interval_ms: 200,
                max_report_interval_ms: 3_200,
                digest_levels: 1,
                checkpoint_bytes: 400,
                ..Options::new(trigger)
            };
            Start { slots, options }
        },
    )
}

/// How fast copies leave, and how large their pieces are: mostly of one pair, so that much can happen between two of them.
pub(super) fn copying() -> impl Strategy<Value = (Option<u64>, u64)> {
    (prop_oneof![2 => Just(None), 1 => (1_000..4_000_u64).prop_map(Some)], prop_oneof![3 => Just(1), 1 => Just(512 << 10)])
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (slot, key) = (0..5_usize, 0..3_u8);
    let ttl = prop_oneof![4 => Just(None), 1 => (1..3_000_u64).prop_map(Some)];
    let fate = prop_oneof![4 => Just(Fate::Arrives), 1 => Just(Fate::ComesTwice), 1 => Just(Fate::IsLost)];
    let jump = prop_oneof![Just(0_i64), -400..400_i64, Just(3_600_000_i64), Just(-3_600_000_i64)];
    prop_oneof![
        6 => (slot.clone(), key.clone(), ttl).prop_map(|(slot, key, ttl)| Op::Put(slot, key, ttl)),
        4 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Op::Delete(slot, key)),
        6 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Op::Read(slot, key)),
        3 => (0..2_u8, slot.clone(), key.clone(), any::<bool>())
            .prop_map(|(client, slot, key, deletes)| Op::SessionWrite(client, slot, key, deletes)),
        5 => (0..2_u8, slot.clone(), key).prop_map(|(client, slot, key)| Op::SessionRead(client, slot, key)),
        1 => (0..2_u8, slot.clone()).prop_map(|(client, slot)| Op::SessionList(client, slot)),
        12 => (any::<u16>(), fate).prop_map(|(pick, fate)| Op::Network(pick, fate)),
        3 => Just(Op::DeliverAll),
        6 => slot.clone().prop_map(Op::SyncDisk),
        5 => prop_oneof![1..30_u64, 200..1_500_u64].prop_map(Op::Pass),
        4 => (50..1_500_u64).prop_map(Op::Run),
        2 => slot.clone().prop_map(Op::Crash),
        3 => slot.clone().prop_map(Op::Restart),
        3 => slot.clone().prop_map(Op::Adopt),
        1 => slot.clone().prop_map(Op::Remove),
        1 => (slot.clone(), jump).prop_map(|(slot, ms)| Op::Jump(slot, ms)),
        1 => any::<u8>().prop_map(Op::Partition),
        1 => slot.clone().prop_map(Op::Flush),
        1 => slot.prop_map(Op::Sync),
    ]
}

pub(super) fn begin(start: &Start, mutation: Option<Mutation>) -> Cluster {
    let mut cluster = Cluster::new(start.slots, start.options.clone(), mutation);
    cluster.oracle.limit_outbox(start.options.outbox_max_bytes);
    cluster
}

/// The same, over engines that come back with what they had flushed.
fn begin_on_disks(start: &Start) -> Cluster {
    let mut cluster = Cluster::over(Some(simulated), start.slots, start.options.clone(), None);
    cluster.oracle.limit_outbox(start.options.outbox_max_bytes);
    cluster
}

pub(super) fn apply(cluster: &mut Cluster, op: &Op) {
    let slots = cluster.slots();
    match *op {
        Op::Put(slot, key, ttl) => _ = cluster.put(slot % slots, key, ttl),
        Op::Delete(slot, key) => _ = cluster.delete(slot % slots, key),
        Op::Read(slot, key) => _ = cluster.read(slot % slots, key),
        Op::SessionWrite(client, slot, key, deletes) => _ = cluster.session_write(client, slot % slots, key, deletes),
        Op::SessionList(client, slot) => _ = cluster.session_list(client, slot % slots),
        Op::SessionRead(client, slot, key) => _ = cluster.session_read(client, slot % slots, key),
        Op::Network(pick, fate) => cluster.network(pick, fate),
        Op::DeliverAll => cluster.deliver_all(),
        Op::SyncDisk(slot) => cluster.sync_disk(slot % slots),
        Op::Pass(ms) => cluster.pass_ms(ms),
        Op::Run(ms) => cluster.run_ms(ms),
        Op::Crash(slot) => cluster.crash(slot % slots),
        Op::Restart(slot) => cluster.restart(slot % slots),
        Op::Adopt(slot) => cluster.adopt(slot % slots),
        Op::Remove(slot) => cluster.remove(slot % slots),
        Op::Jump(slot, ms) => cluster.jump(slot % slots, ms),
        Op::Partition(sides) => cluster.partition(sides),
        Op::Flush(slot) => _ = cluster.flush(slot % slots),
        Op::Sync(slot) => _ = cluster.sync(slot % slots),
    }
}

/// Everything is well again: the replicas become equal, and nothing is left of what was deleted. Before that, one may be cut
/// off for good, and the others become equal without it.
pub(super) fn end(cluster: &mut Cluster, cut_off: Option<usize>) {
    cluster.heal();
    if let Some(cut_off) = cut_off {
        cluster.run_ms(2_000);
        if cluster.has_jumped {
            cluster.pass_ms(2 * 3_600_000);
        }
        cluster.partition(1 << cut_off);
        cluster.run_in_steps(15_000, 200);
        let others: Vec<usize> = (0..cluster.slots()).filter(|slot| *slot != cut_off).collect();
        cluster.check_equal(&others);
        cluster.partition(0);
    }
    if cluster.has_jumped {
        cluster.pass_ms(2 * 3_600_000);
    }
    cluster.run_in_steps(20_000, 200);
    let all: Vec<usize> = (0..cluster.slots()).collect();
    cluster.check_equal(&all);
    cluster.check_clean();
}

/// Replicas that lose what they have when they end.
const VOLATILE: u8 = 0;

/// Replicas that have it in the log, and in memory.
const LOGGED: u8 = 1;

/// Replicas that have it in the log, and on a disk.
const ON_DISK: u8 = 2;

/// Any order of events. Replicas of one of these kinds.
#[derive(Debug)]
struct AnyOrder<const KIND: u8>;

impl<const KIND: u8> ReferenceStateMachine for AnyOrder<KIND> {
    type State = Start;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Start> {
        let with = |start: Start| Start { options: Options { is_durable: KIND != VOLATILE, ..start.options }, ..start };
        start().prop_map(with).boxed()
    }

    fn transitions(_: &Start) -> BoxedStrategy<Op> {
        op().boxed()
    }

    fn apply(state: Start, _: &Op) -> Start {
        state
    }
}

#[derive(Debug)]
struct Replicas<const KIND: u8> {
    cluster: Cluster,
    steps: usize,
}

impl<const KIND: u8> StateMachineTest for Replicas<KIND> {
    type SystemUnderTest = Self;
    type Reference = AnyOrder<KIND>;

    fn init_test(start: &Start) -> Self {
        let cluster = if KIND == ON_DISK { begin_on_disks(start) } else { begin(start, None) };
        Self { cluster, steps: 0 }
    }

    fn apply(mut state: Self, _: &Start, op: Op) -> Self {
        apply(&mut state.cluster, &op);
        state.steps += 1;
        state
    }

    fn teardown(mut state: Self, _: Start) {
        let cut_off = (state.steps.is_multiple_of(5) && state.cluster.slots() > 2).then_some(1);
        end(&mut state.cluster, cut_off);
    }
}

/// 3,000 cases in the three tests together, the same at each run; or half as many in each as `QUORATE_EVENTUAL_CASES` says,
/// others each time, to look for what nobody has seen yet.
pub(super) fn config() -> Config {
    let asked: Option<u32> = std::env::var("QUORATE_EVENTUAL_CASES").ok().and_then(|cases| cases.parse().ok());
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    let (cases, max_shrink_iters) = (asked.unwrap_or(2_000) / 2, 1_500);
    Config { cases, max_shrink_iters, rng_seed, failure_persistence: Some(kept()), ..Config::default() }
}

/// What failed once is tried first from then on, and its input stands beside its seed.
pub(super) fn kept() -> Box<dyn FailurePersistence> {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/properties.txt");
    Box::new(FileFailurePersistence::Direct(kept))
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn durable_replicas_become_equal_whatever_happens(sequential 1..120 => Replicas<LOGGED>);
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn volatile_replicas_become_equal_whatever_happens(sequential 1..120 => Replicas<VOLATILE>);
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn replicas_on_disks_become_equal_whatever_happens(sequential 1..120 => Replicas<ON_DISK>);
}
