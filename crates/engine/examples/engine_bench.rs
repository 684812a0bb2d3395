//! What engines cost: memory per pair, point reads and writes at 10 thousand and 1 million keys, listing a prefix.
//!
//! `cargo run --release -p quorate-engine --example engine_bench [KIND...]`; all kinds without arguments. Linux only: memory is
//! what `/proc/self/statm` says is resident.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::env;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate_engine::{Batch, Change, Direction, Engine, EngineSpec, Engines as _, KINDS, KeyRange, LocalEngines, Place, Table};

const BATCH_LEN: usize = 64;
const VALUE_BYTES: usize = 64;
const KEY_COUNTS: [usize; 2] = [10_000, 1_000_000];
const READ_COUNT: usize = 500_000;
const LISTING_COUNT: usize = 5_000;
/// First argument of the processes that this program starts for itself.
const CASE: &str = "--case";
/// Keys under each prefix that is listed.
const GROUP_LEN: usize = 100;

const SHAPES: [&str; 2] = ["random", "paths"];

fn main() {
    let asked: Vec<String> = env::args().skip(1).collect();
    if let [case, kind, shape, key_count] = &asked[..]
        && case == CASE
    {
        return measure(kind, shape, key_count.parse().expect("this program passes a number"));
    }
    let chosen = if asked.is_empty() { KINDS.iter().map(|kind| kind.name.to_owned()).collect() } else { asked };
    println!("values of {VALUE_BYTES} bytes, batches of {BATCH_LEN}; times in ns each");
    println!("engine   keys        count  bytes/pair  insert  overwrite     get  list {GROUP_LEN}");
    for kind in &chosen {
        for (key_count, shape) in KEY_COUNTS.into_iter().flat_map(|count| SHAPES.map(|shape| (count, shape))) {
            measure_in_own_process(kind, shape, key_count);
        }
    }
}

/// Memory that an earlier case freed would hide what a later one takes.
fn measure_in_own_process(kind: &str, shape: &str, key_count: usize) {
    let program = env::current_exe().expect("the path of this program");
    let status = Command::new(program).args([CASE, kind, shape, &key_count.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "measuring {kind} with {key_count} {shape} keys failed");
}

fn measure(kind: &str, shape: &str, key_count: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engines = LocalEngines::new(folder.path()).expect("a temporary folder");
    let engine = match engines.open(Place { group: 1, build: 0 }, &EngineSpec::of(kind)) {
        Ok(engine) => engine,
        Err(error) => return println!("{error}"),
    };
    let keys = if shape == "paths" { path_keys(key_count) } else { random_keys(key_count) };
    let before_bytes = resident_bytes();
    let insert_ns = write(&*engine, keys.iter());
    let pair_bytes = resident_bytes().saturating_sub(before_bytes) / key_count;
    let scattered: Vec<&Bytes> = Scatter::new().take(READ_COUNT).map(|at| &keys[at as usize % key_count]).collect();
    let overwrite_ns = write(&*engine, scattered.iter().copied());
    let get_ns = read(&engine, &scattered);
    let list_ns = if shape == "paths" { list(&engine, &scattered).to_string() } else { "-".to_owned() };
    println!("{kind:8} {shape:8} {key_count:>8} {pair_bytes:>11} {insert_ns:>7} {overwrite_ns:>10} {get_ns:>7} {list_ns:>9}");
}

fn write<'a>(engine: &dyn Engine, keys: impl Iterator<Item = &'a Bytes>) -> u128 {
    let changes: Vec<Change> = keys.map(|key| put(key.clone())).collect();
    let count = changes.len() as u128;
    let mut applied = engine.view().applied();
    let mut changes = changes.into_iter();
    let began = Instant::now();
    while changes.len() > 0 {
        applied += 1;
        let changes = changes.by_ref().take(BATCH_LEN).collect();
        engine.apply(Batch { applied, revision: applied, changes }).expect("a healthy engine");
    }
    began.elapsed().as_nanos() / count
}

fn put(key: Bytes) -> Change {
    Change::Put { table: Table::Current, key, value: vec![7; VALUE_BYTES].into() }
}

fn read(engine: &Arc<dyn Engine>, keys: &[&Bytes]) -> u128 {
    let began = Instant::now();
    for key in keys {
        let value = engine.view().get(Table::Current, key).expect("a healthy engine");
        assert_eq!(value.map(|value| value.len()), Some(VALUE_BYTES));
    }
    began.elapsed().as_nanos() / keys.len() as u128
}

fn list(engine: &Arc<dyn Engine>, keys: &[&Bytes]) -> u128 {
    let began = Instant::now();
    for key in &keys[..LISTING_COUNT] {
        let view = engine.view();
        let last_slash = key.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
        let count = view.scan(Table::Current, &KeyRange::prefix(&key[..=last_slash]), Direction::Forward).count();
        assert_eq!(count, GROUP_LEN);
    }
    began.elapsed().as_nanos() / LISTING_COUNT as u128
}

fn random_keys(count: usize) -> Vec<Bytes> {
    let mut source = Scatter::new();
    let mut next = || source.next().unwrap_or_default().to_be_bytes();
    (0..count).map(|_| [next(), next()].concat().into()).collect()
}

/// About 50 bytes each, in random order, [`GROUP_LEN`] under each prefix.
fn path_keys(count: usize) -> Vec<Bytes> {
    let path = |at: usize| {
        let group = at / GROUP_LEN;
        format!("/registry/services/tenant-{:04}/host-{:04}/{at:08}", group / 100, group % 100)
    };
    let mut order: Vec<(u64, usize)> = Scatter::new().zip(0..count).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, at)| path(at).into()).collect()
}

/// Xorshift: the same numbers at every run.
struct Scatter(u64);

impl Scatter {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Iterator for Scatter {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0)
    }
}

fn resident_bytes() -> usize {
    const PAGE_BYTES: usize = 4096;
    let pages = fs::read_to_string("/proc/self/statm").ok().and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * PAGE_BYTES
}
