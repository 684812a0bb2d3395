//! What engines cost: memory per pair beyond key and value, point reads and writes at 10 thousand, 1 million and 10 million
//! keys, listing a prefix, walking over everything.
//!
//! `cargo run --release -p quorate-engine --example engine_bench [KIND...] [VALUE_BYTES]`; all kinds and 64 bytes without
//! arguments. Linux only: memory is what `/proc/self/statm` says is resident. Ten million pairs take up to 4 GiB.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::env;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Batch, Change, Direction, Engine, EngineSpec, Engines as _, KINDS, KeyRange, LocalEngines, Place, Table};
use rustix::time::{ClockId, clock_gettime};

const BATCH_LEN: usize = 64;
const DEFAULT_VALUE_BYTES: usize = 64;
const KEY_COUNTS: [usize; 3] = [10_000, 1_000_000, 10_000_000];
const READ_COUNT: usize = 500_000;
const LISTING_COUNT: usize = 5_000;
/// An engine without order looks at every key for a listing: this many fewer are made then.
const LISTING_TIME: Duration = Duration::from_secs(2);
/// First argument of the processes that this program starts for itself.
const CASE: &str = "--case";
/// Keys under each prefix that is listed.
const GROUP_LEN: usize = 100;

/// From one path to the next. Shares no factor with any of the counts.
const PATH_STEP: usize = 7_368_787;

const SHAPES: [&str; 2] = ["random", "paths"];

fn main() {
    let asked: Vec<String> = env::args().skip(1).collect();
    if let [case, kind, shape, key_count, value_bytes] = &asked[..]
        && case == CASE
    {
        let number = |text: &str| text.parse().expect("this program passes numbers");
        return measure(kind, &Keys { is_paths: shape == "paths", count: number(key_count) }, number(value_bytes));
    }
    let value_bytes = asked.iter().find_map(|word| word.parse().ok()).unwrap_or(DEFAULT_VALUE_BYTES);
    let mut chosen: Vec<String> = asked.into_iter().filter(|word| word.parse::<usize>().is_err()).collect();
    if chosen.is_empty() {
        chosen = KINDS.iter().map(|kind| kind.name.to_owned()).collect();
    }
    println!(
        "values of {value_bytes} bytes, batches of {BATCH_LEN}; bytes per pair beyond key and value; ns of processor time each"
    );
    println!("engine   keys        count  overhead  insert  slowest batch  overwrite    get  list {GROUP_LEN}  walk");
    for kind in &chosen {
        for (key_count, shape) in KEY_COUNTS.into_iter().flat_map(|count| SHAPES.map(|shape| (count, shape))) {
            measure_in_own_process(&[kind, shape, &key_count.to_string(), &value_bytes.to_string()]);
        }
    }
}

/// Memory that an earlier case freed would hide what a later one takes.
fn measure_in_own_process(case: &[&str]) {
    let program = env::current_exe().expect("the path of this program");
    let status = Command::new(program).arg(CASE).args(case).status();
    assert!(status.is_ok_and(|status| status.success()), "measuring {case:?} failed");
}

fn measure(kind: &str, keys: &Keys, value_bytes: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engines = LocalEngines::new(folder.path(), 7).expect("a temporary folder");
    let engine = match engines.open(Place { group: 1, build: 0 }, &EngineSpec::of(kind)) {
        Ok(engine) => engine,
        Err(error) => return println!("{error}"),
    };
    let scattered: Vec<Bytes> = Scatter::new().take(READ_COUNT).map(|at| keys.at(at as usize % keys.count)).collect();
    let before_bytes = resident_bytes();
    let (insert_ns, slowest_ns) = write(&*engine, (0..keys.count).map(|at| keys.at(at)), value_bytes);
    let used_bytes = resident_bytes().saturating_sub(before_bytes);
    let overhead_bytes = (used_bytes as f64 - engine.stats().data_bytes as f64) / keys.count as f64;
    let (overwrite_ns, _) = write(&*engine, scattered.iter().cloned(), value_bytes);
    let get_ns = read(&engine, &scattered, value_bytes);
    let list_ns = if keys.is_paths { list(&engine, &scattered).to_string() } else { "-".to_owned() };
    let walk_ns = walk(&engine, keys.count);
    let (shape, count, slowest_us) = (if keys.is_paths { "paths" } else { "random" }, keys.count, slowest_ns / 1_000);
    println!(
        "{kind:8} {shape:8} {count:>8} {overhead_bytes:>9.0} {insert_ns:>7} {slowest_us:>11} us {overwrite_ns:>10} {get_ns:>6} \
         {list_ns:>9} {walk_ns:>5}"
    );
}

/// Nanoseconds of a put and of the slowest batch, the making of the batches not counted.
fn write(engine: &dyn Engine, mut keys: impl ExactSizeIterator<Item = Bytes>, value_bytes: usize) -> (u128, u128) {
    let count = keys.len() as u128;
    let mut applied = engine.view().applied();
    let (mut total_ns, mut slowest_ns) = (0, 0);
    while keys.len() > 0 {
        applied += 1;
        let put = |key| Change::Put { table: Table::Current, key, value: vec![7; value_bytes].into() };
        let batch = Batch { applied, revision: applied, changes: keys.by_ref().take(BATCH_LEN).map(put).collect() };
        let began = CpuTime::now();
        engine.apply(batch).expect("a healthy engine");
        let batch_ns = began.elapsed().as_nanos();
        total_ns += batch_ns;
        slowest_ns = slowest_ns.max(batch_ns);
    }
    (total_ns / count, slowest_ns)
}

fn read(engine: &Arc<dyn Engine>, keys: &[Bytes], value_bytes: usize) -> u128 {
    let began = CpuTime::now();
    for key in keys {
        let value = engine.view().get(Table::Current, key).expect("a healthy engine");
        assert_eq!(value.map(|value| value.len()), Some(value_bytes));
    }
    began.elapsed().as_nanos() / keys.len() as u128
}

fn list(engine: &Arc<dyn Engine>, keys: &[Bytes]) -> u128 {
    let began = CpuTime::now();
    let mut listing_count = 0;
    for key in &keys[..LISTING_COUNT] {
        let view = engine.view();
        let last_slash = key.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
        let count = view.scan(Table::Current, &KeyRange::prefix(&key[..=last_slash]), Direction::Forward).count();
        assert_eq!(count, GROUP_LEN);
        listing_count += 1;
        if began.elapsed() > LISTING_TIME {
            break;
        }
    }
    began.elapsed().as_nanos() / listing_count
}

/// Everything once, as for a snapshot.
fn walk(engine: &Arc<dyn Engine>, key_count: usize) -> u128 {
    let began = CpuTime::now();
    assert_eq!(engine.view().pairs(Table::Current).count(), key_count);
    began.elapsed().as_nanos() / key_count as u128
}

/// Made when they are needed: ten million in memory would be a good part of what is measured.
struct Keys {
    is_paths: bool,
    count: usize,
}

impl Keys {
    /// Key number `at`: 16 bytes that look random, or a path of about 50 bytes, [`GROUP_LEN`] of which share all but the last
    /// part. Neighbours in number are far apart in order.
    fn at(&self, at: usize) -> Bytes {
        if !self.is_paths {
            let half = |seed: u64| {
                (at as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xff51_afd7_ed55_8ccd)
            };
            return [half(0).to_be_bytes(), half(1 << 60).to_be_bytes()].concat().into();
        }
        let number = at * PATH_STEP % self.count;
        let group = number / GROUP_LEN;
        format!("/registry/services/tenant-{:04}/host-{:04}/{number:08}", group / 100, group % 100).into()
    }
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

/// What this thread has of the processor from here on: another program on the machine counts only by what it pushes out of the
/// caches.
struct CpuTime(Duration);

impl CpuTime {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

fn resident_bytes() -> usize {
    const PAGE_BYTES: usize = 4096;
    let pages = fs::read_to_string("/proc/self/statm").ok().and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * PAGE_BYTES
}
