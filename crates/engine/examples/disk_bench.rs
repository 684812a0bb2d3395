//! What the engines on disk do as data grows: writes, stalls, reads, scans, space, reopening.
//!
//! `cargo run --release -p quorate-engine --example disk_bench -- FOLDER KIND [GIB...] [flush=MIB] [many=COUNT] [OPTION=N...]`
//!
//! Writes batches of 64 puts of 256-byte values under random 16-byte keys into a new engine in FOLDER, until each of the sizes
//! (1 without arguments) is reached, and measures there. As a node does, another thread flushes after every `flush` MiB (64).
//! As a keyspace does, it looks each key up before it puts it; the figures are of both. Beside it a second engine of the kind
//! gets a put every few milliseconds: what it waits is what other keyspaces wait. At most
//! 40 minutes are written. With `many`, so many engines with 100 pairs each are made and opened again instead. FOLDER is removed
//! in the end. Linux only: memory, processor time and bytes written are what `/proc/self` says.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::env;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::{Batch, Change, Direction, Engine, EngineSpec, Engines as _, KeyRange, LocalEngines, Place, Table, View};

const BATCH_LEN: u64 = 64;
const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 256;
const PAIR_BYTES: u64 = (KEY_BYTES + VALUE_BYTES) as u64;
const MAX_WRITING: Duration = Duration::from_mins(40);
/// Each kind of read is measured for so long.
const READING: Duration = Duration::from_secs(4);
const SCAN_LEN: usize = 100;
const PLACE: Place = Place { group: 1, build: 0 };
const OTHER_PLACE: Place = Place { group: 2, build: 0 };
const OTHER_PAUSE: Duration = Duration::from_millis(5);

struct Options {
    folder: String,
    spec: EngineSpec,
    sizes_gib: Vec<u64>,
    flush_mib: u64,
    many: u64,
}

fn main() {
    let Some(options) = options() else {
        return println!("usage: disk_bench FOLDER KIND [GIB...] [flush=MIB] [OPTION=N...]");
    };
    let folder = Path::new(&options.folder);
    fs::create_dir_all(folder).expect("the folder can be made");
    assert!(fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()), "{} is not empty", options.folder);
    if options.many > 0 {
        measure_many(&options, folder);
    } else {
        measure(&options, folder);
    }
    fs::remove_dir_all(folder).expect("the folder can be removed");
}

fn options() -> Option<Options> {
    let mut arguments = env::args().skip(1);
    let (folder, kind) = (arguments.next()?, arguments.next()?);
    let mut options = Options { folder, spec: EngineSpec::of(&kind), sizes_gib: Vec::new(), flush_mib: 64, many: 0 };
    for argument in arguments {
        match argument.split_once('=') {
            Some(("flush", mib)) => options.flush_mib = mib.parse().ok()?,
            Some(("many", count)) => options.many = count.parse().ok()?,
            Some((option, value)) => drop(options.spec.options.insert(option.to_owned(), value.parse().ok()?)),
            None => options.sizes_gib.push(argument.parse().ok()?),
        }
    }
    if options.sizes_gib.is_empty() {
        options.sizes_gib.push(1);
    }
    Some(options)
}

fn measure(options: &Options, folder: &Path) {
    println!("{}, {VALUE_BYTES}-byte values, batches of {BATCH_LEN}, a flush every {} MiB", options.spec.kind, options.flush_mib);
    let mut written = 0;
    let deadline = Instant::now() + MAX_WRITING;
    for &gib in &options.sizes_gib {
        let engines = LocalEngines::new(folder, 7).expect("a folder");
        let began = Instant::now();
        let engine = engines.open(PLACE, &options.spec).expect("the engine opens");
        let opened = began.elapsed();
        let target = (gib << 30) / PAIR_BYTES;
        let other = engines.open(OTHER_PLACE, &options.spec).expect("the engine opens");
        write(&engine, &other, written, target, options.flush_mib << 20, deadline);
        written = engine.view().applied();
        let before = disk_bytes(folder);
        let began = Instant::now();
        engine.flush().expect("a flush");
        let flushed = began.elapsed();
        println!("  opened in {} ms; last flush {} ms", opened.as_millis(), flushed.as_millis());
        report_reads("at once", &*engine, written);
        settle(folder);
        report_reads("settled", &*engine, written);
        let (resident, peak) = (status_mib("VmRSS"), status_mib("VmHWM"));
        let data_bytes = engine.stats().data_bytes;
        let on_disk = disk_bytes(folder);
        println!(
            "  data {} MiB, on disk {} MiB ({} before the flush); resident {resident} MiB, at most {peak} MiB",
            data_bytes >> 20,
            on_disk >> 20,
            before >> 20
        );
        assert_eq!(engine.stats().keys, written, "every key was new");
        drop(other);
        let began = Instant::now();
        drop(engine);
        let closed = began.elapsed();
        let began = Instant::now();
        let engine = engines.open(PLACE, &options.spec).expect("the engine opens again");
        println!(
            "  closed in {} ms, reopened in {} ms at {}",
            closed.as_millis(),
            began.elapsed().as_millis(),
            engine.view().applied()
        );
        if Instant::now() >= deadline {
            return println!("  out of time");
        }
    }
}

/// What small keyspaces cost.
fn measure_many(options: &Options, folder: &Path) {
    let engines = LocalEngines::new(folder, 7).expect("a folder");
    let open = |group| engines.open(Place { group, build: 0 }, &options.spec).expect("the engine opens");
    let before = status_kib("VmRSS");
    let began = Instant::now();
    let made: Vec<_> = (0..options.many)
        .map(|group| {
            let engine = open(group);
            engine.apply(Batch { applied: 1, revision: 1, changes: (0..100).map(put).collect() }).expect("a batch");
            engine.flush().expect("a flush");
            engine
        })
        .collect();
    println!("{} of {}: made in {} ms", options.many, options.spec.kind, began.elapsed().as_millis());
    drop(made);
    let began = Instant::now();
    let opened: Vec<_> = (0..options.many).map(open).collect();
    let took = began.elapsed();
    let kib = (status_kib("VmRSS") - before) / options.many;
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    println!("  opened again in {} ms; {kib} KiB of memory each; {open_files} files open, {threads} threads", took.as_millis());
    println!("  on disk {} KiB each", (disk_bytes(folder) >> 10) / options.many);
    drop(opened);
}

/// Counts keys in the engine's `applied`: it is what the next key's number follows from.
fn write(engine: &Arc<dyn Engine>, other: &Arc<dyn Engine>, from: u64, to: u64, flush_bytes: u64, deadline: Instant) {
    let (is_over, written, other_waits) = (AtomicBool::new(false), AtomicU64::new(from), Mutex::new(Vec::new()));
    let other_waits = &other_waits;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut applied = other.view().applied();
            while !is_over.load(Ordering::Acquire) {
                applied += 1;
                let began = Instant::now();
                let changes = vec![put(applied % 1000)];
                other.apply(Batch { applied, revision: applied, changes }).expect("a batch");
                other_waits.lock().expect("no panic").push(began.elapsed());
                thread::sleep(OTHER_PAUSE);
            }
        });
        scope.spawn(|| {
            let mut flushed = from;
            while !is_over.load(Ordering::Acquire) {
                let now = written.load(Ordering::Acquire);
                if (now - flushed) * PAIR_BYTES >= flush_bytes {
                    flushed = now;
                    engine.flush().expect("a flush");
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut next = from;
        let mut slice = Slice::begin(next);
        while next < to && Instant::now() < deadline {
            let changes: Vec<Change> = (next..next + BATCH_LEN).map(put).collect();
            next += BATCH_LEN;
            let began = Instant::now();
            look_up(&*engine.view(), &changes);
            engine.apply(Batch { applied: next, revision: next, changes }).expect("a batch");
            slice.add(began.elapsed());
            written.store(next, Ordering::Release);
            if (next - slice.from) * PAIR_BYTES >= 1 << 29 || next >= to {
                slice.report(next, std::mem::take(&mut *other_waits.lock().expect("no panic")));
                slice = Slice::begin(next);
            }
        }
        is_over.store(true, Ordering::Release);
    });
}

/// What a keyspace does before each put: it must know what was there.
fn look_up(view: &dyn View, changes: &[Change]) {
    for change in changes {
        let Change::Put { table, key, .. } = change else { continue };
        assert!(view.peek(*table, key).expect("a read").is_none(), "every key is new");
    }
}

/// Half a GiB of writes.
struct Slice {
    from: u64,
    began: Instant,
    cpu_ms: u64,
    writer_cpu_us: u64,
    disk_bytes: u64,
    stalls: Vec<Duration>,
}

impl Slice {
    fn begin(from: u64) -> Self {
        Self {
            from,
            began: Instant::now(),
            cpu_ms: cpu_ms(),
            writer_cpu_us: thread_cpu_us(),
            disk_bytes: written_bytes(),
            stalls: Vec::new(),
        }
    }

    fn add(&mut self, took: Duration) {
        self.stalls.push(took);
    }

    fn report(mut self, to: u64, mut other_waits: Vec<Duration>) {
        let rate = (to - self.from) as f64 / self.began.elapsed().as_secs_f64();
        let count = to - self.from;
        let cpu_us = (cpu_ms() - self.cpu_ms) as f64 * 1000.0 / count as f64;
        let writer_cpu_us = (thread_cpu_us() - self.writer_cpu_us) as f64 / count as f64;
        let amplification = (written_bytes() - self.disk_bytes) as f64 / (count * PAIR_BYTES) as f64;
        self.stalls.sort_unstable();
        let at = |thousandths: usize| self.stalls[(self.stalls.len() - 1) * thousandths / 1000].as_micros();
        let long = self.stalls.iter().filter(|took| took.as_millis() >= 100).count();
        print!(
            "  {:>6} MiB: {rate:>7.0} puts/s; {cpu_us:.1} us of processor each, {writer_cpu_us:.1} of them the writer's, ",
            (to * PAIR_BYTES) >> 20
        );
        print!("{amplification:.1} bytes written per byte; a batch takes {} us, p99 {}, ", at(500), at(990));
        print!("p99.9 {}, at most {} ms; {long} over 100 ms; ", at(999), at(1000) / 1000);
        other_waits.sort_unstable();
        let other_at = |thousandths: usize| other_waits.get(other_waits.len().saturating_sub(1) * thousandths / 1000);
        let other_at = |thousandths| other_at(thousandths).map_or(0, Duration::as_micros);
        println!("a put elsewhere p99 {} us, at most {} ms", other_at(990), other_at(1000) / 1000);
    }
}

fn report_reads(when: &str, engine: &dyn Engine, count: u64) {
    let view = engine.view();
    let get = |at: u64| view.get(Table::Current, &key(at)).expect("a read").is_some();
    let found = rate(|at| assert!(get(mix(at) % count), "a key that was written"));
    let missing = rate(|at| assert!(!get(count + at), "a key that was not written"));
    let scans = rate(|at| {
        let range = KeyRange { start: std::ops::Bound::Included(key(u64::MAX - at)), ..KeyRange::all() };
        let pairs = view.scan(Table::Current, &range, Direction::Forward).take(SCAN_LEN);
        pairs.for_each(|pair| drop(pair.expect("a read")));
    });
    let began = Instant::now();
    let pairs = view.scan(Table::Current, &KeyRange::all(), Direction::Forward);
    let scanned = pairs
        .take_while(|_| began.elapsed() < READING)
        .filter(|pair| pair.as_ref().is_ok_and(|(_, value)| value.len() == VALUE_BYTES))
        .count();
    let scan_rate = scanned as f64 / began.elapsed().as_secs_f64();
    println!("  {when}: gets {found:.0}/s, of missing keys {missing:.0}/s");
    println!("  {when}: scans of {SCAN_LEN} {scans:.0}/s, one long scan {scan_rate:.0} pairs/s");
}

/// Waits for merges to end.
fn settle(folder: &Path) {
    let began = Instant::now();
    let mut before = 0;
    while disk_bytes(folder) != before && began.elapsed() < Duration::from_mins(2) {
        before = disk_bytes(folder);
        thread::sleep(Duration::from_secs(3));
    }
    println!("  settled after {} s", began.elapsed().as_secs());
}

fn rate(mut read: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < READING {
        for _ in 0..16 {
            read(count);
            count += 1;
        }
    }
    count as f64 / began.elapsed().as_secs_f64()
}

fn put(at: u64) -> Change {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    for word in 0..VALUE_BYTES as u64 / 8 {
        value.extend_from_slice(&mix(at ^ (word << 48)).to_le_bytes());
    }
    Change::Put { table: Table::Current, key: key(at), value: value.into() }
}

/// Random, and different for each number.
fn key(at: u64) -> Bytes {
    Bytes::from([mix(at).to_be_bytes(), at.to_be_bytes()].concat())
}

/// The steps of `SplitMix64`.
fn mix(at: u64) -> u64 {
    let mut z = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            // Blocks that are there, not the length: files may have holes.
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Processor time of all threads, in the kernel too.
fn cpu_ms() -> u64 {
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * TICK_MS
}

/// Processor time of the calling thread.
fn thread_cpu_us() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) / 1000
}

fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn status_mib(field: &str) -> u64 {
    status_kib(field) >> 10
}

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok());
    kib.unwrap_or(0)
}
