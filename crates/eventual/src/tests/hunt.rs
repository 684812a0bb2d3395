//! A search for what nobody has seen yet: cases of a harder kind than those that each run tries.
//!
//! `QUORATE_EVENTUAL_HUNT=<first seed>:<cases> cargo test -p quorate-eventual hunt -- --ignored --nocapture`. What fails is
//! printed with its seed, and written with its whole input to `target/eventual-failures/`, before anything else is tried.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::cluster::Fate;
use super::properties::{Op, Start, apply, begin, end, start};

/// Fewer keys and more that goes wrong: most of it while entries travel.
fn hard_op() -> impl Strategy<Value = Op> {
    let (slot, key) = (0..5_usize, 0..2_u8);
    let ttl = prop_oneof![6 => Just(None), 1 => (1..3_000_u64).prop_map(Some)];
    let fate = prop_oneof![6 => Just(Fate::Arrives), 2 => Just(Fate::ComesTwice), 2 => Just(Fate::IsLost)];
    let jump = prop_oneof![Just(0_i64), -400..400_i64, Just(3_600_000_i64), Just(-3_600_000_i64)];
    prop_oneof![
        8 => (slot.clone(), key.clone(), ttl).prop_map(|(slot, key, ttl)| Op::Put(slot, key, ttl)),
        6 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Op::Delete(slot, key)),
        3 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Op::Read(slot, key)),
        4 => (0..2_u8, slot.clone(), key.clone(), any::<bool>())
            .prop_map(|(client, slot, key, deletes)| Op::SessionWrite(client, slot, key, deletes)),
        6 => (0..2_u8, slot.clone(), key).prop_map(|(client, slot, key)| Op::SessionRead(client, slot, key)),
        2 => (0..2_u8, slot.clone()).prop_map(|(client, slot)| Op::SessionList(client, slot)),
        16 => (any::<u16>(), fate).prop_map(|(pick, fate)| Op::Network(pick, fate)),
        4 => Just(Op::DeliverAll),
        6 => slot.clone().prop_map(Op::SyncDisk),
        6 => prop_oneof![1..30_u64, 200..1_500_u64].prop_map(Op::Pass),
        5 => (50..1_500_u64).prop_map(Op::Run),
        4 => slot.clone().prop_map(Op::Crash),
        6 => slot.clone().prop_map(Op::Restart),
        5 => slot.clone().prop_map(Op::Adopt),
        3 => slot.clone().prop_map(Op::Remove),
        1 => (slot.clone(), jump).prop_map(|(slot, ms)| Op::Jump(slot, ms)),
        2 => any::<u8>().prop_map(Op::Partition),
        2 => slot.clone().prop_map(Op::Flush),
        2 => slot.prop_map(Op::Sync),
    ]
}

/// The case of a seed.
fn case(seed: u64) -> (Start, Vec<Op>, Option<usize>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let cut_off = prop_oneof![Just(None), Just(Some(1))];
    let all = (start(), proptest::collection::vec(hard_op(), 20..300), cut_off).new_tree(&mut runner).expect("a case").current();
    let cut_off = all.2.filter(|_| all.0.slots > 2);
    (all.0, all.1, cut_off)
}

fn fails((start, ops, cut_off): &(Start, Vec<Op>, Option<usize>)) -> Option<String> {
    let run = || {
        let mut cluster = begin(start, None);
        ops.iter().for_each(|op| apply(&mut cluster, op));
        end(&mut cluster, *cut_off);
    };
    let payload = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}

/// Leaves out what it fails without: by halves, then one by one.
fn shrink(mut case: (Start, Vec<Op>, Option<usize>)) -> (Start, Vec<Op>, Option<usize>) {
    let mut size = case.1.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < case.1.len() {
            let mut less = case.clone();
            less.1.drain(at..(at + size).min(less.1.len()));
            if fails(&less).is_some() { case = less } else { at += size }
        }
        size /= 2;
    }
    case
}

#[test]
#[ignore = "a search, for those who ask for one"]
fn hunt() {
    let asked = std::env::var("QUORATE_EVENTUAL_HUNT").unwrap_or_else(|_| "1:100".to_owned());
    let (first, count) = asked.split_once(':').expect("<first seed>:<cases>");
    let (first, count): (u64, u64) = (first.parse().expect("a seed"), count.parse().expect("a number of cases"));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/eventual-failures");
    let mut failed = 0;
    for seed in first..first + count {
        let case = case(seed);
        let Some(message) = fails(&case) else { continue };
        failed += 1;
        let mut told = format!("seed {seed}: {message}\n{case:#?}\n");
        std::fs::create_dir_all(folder).expect("a folder for failures");
        std::fs::write(format!("{folder}/hunt-{seed}.txt"), &told).expect("what failed is kept");
        if failed <= 3 {
            let less = shrink(case);
            write!(told, "\nand as little as this: {:?}\n{less:#?}\n", fails(&less)).expect("text");
            std::fs::write(format!("{folder}/hunt-{seed}.txt"), &told).expect("what failed is kept");
        }
        println!("seed {seed}: {message}");
    }
    assert_eq!(failed, 0, "their inputs are in {folder}");
}
