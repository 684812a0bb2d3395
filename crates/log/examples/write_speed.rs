//! How fast the log takes batches on a real disk.
//!
//!     cargo run --release -p quorate-log --example write_speed -- DIRECTORY
//!
//! Each run writes batches of one shape, purging as a node does, and prints batches per second and how long a write took. Then
//! it opens a log of a gigabyte.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_log::{Entry, GroupId, Log, LogId, LogIndex, Options, RealDisk, Record, Term};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: write_speed DIRECTORY")?;
    for (entries, payload_bytes, count) in [(1, 300, 20_000), (1, 16 << 10, 20_000), (8, 4 << 10, 10_000), (1, 1 << 20, 1000)] {
        measure_writes(&directory, entries, payload_bytes, count)?;
    }
    measure_open(&directory)
}

fn measure_writes(parent: &Path, entries: u64, payload_bytes: usize, count: u64) -> Result<(), Box<dyn Error>> {
    let directory = parent.join("write-speed");
    let mut log = Log::open(Arc::new(RealDisk::open(&directory)?), Options::default())?;
    let mut times = Vec::new();
    let mut unpurged_bytes = 0;
    let start = Instant::now();
    for round in 0..count {
        let mut batch = vec![(GroupId(1), append(round * entries + 1, entries, payload_bytes))];
        unpurged_bytes += entries * payload_bytes as u64;
        if unpurged_bytes > PURGE_EVERY_BYTES {
            batch.push((GroupId(1), Record::Purge(LogId { term: Term(1), index: LogIndex(round * entries) })));
            unpurged_bytes = 0;
        }
        let begin = Instant::now();
        log.write(&[batch])?;
        times.push(begin.elapsed());
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    println!(
        "{entries} x {payload_bytes} B: {rate:.0} batches/s, p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}; {:?}",
        at(500),
        at(990),
        at(999),
        at(1000),
        log.usage()
    );
    drop(log);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

fn measure_open(parent: &Path) -> Result<(), Box<dyn Error>> {
    let directory = parent.join("open-speed");
    let mut log = Log::open(Arc::new(RealDisk::open(&directory)?), Options::default())?;
    for round in 0..1024 {
        log.write(&[vec![(GroupId(1), append(round * 1024 + 1, 1024, 1000))]])?;
    }
    drop(log);
    let start = Instant::now();
    let log = Log::open(Arc::new(RealDisk::open(&directory)?), Options::default())?;
    let took: Duration = start.elapsed();
    println!("opening {} entries, {:?}: {took:?}", 1024 * 1024, log.usage());
    let start = Instant::now();
    let entries = log.reader().entries(GroupId(1), LogIndex(500_000), LogIndex(501_000), u64::MAX)?;
    println!("reading {} entries of 1000 B: {:?}", entries.len(), start.elapsed());
    drop(log);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

fn append(first: u64, count: u64, payload_bytes: usize) -> Record {
    let payload = Bytes::from(vec![7; payload_bytes]);
    let entry = |index| Entry { id: LogId { term: Term(1), index: LogIndex(index) }, payload: payload.clone() };
    Record::Append((first..first + count).map(entry).collect())
}

const PURGE_EVERY_BYTES: u64 = 64 << 20;
