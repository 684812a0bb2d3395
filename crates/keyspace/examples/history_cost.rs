//! What history costs a shard: writes that replace values, with and without it, and reads of now and of then.
//!
//! `cargo run --release -p quorate-keyspace --example history_cost -- FOLDER [KIND...]`
//!
//! For each kind of engine (`trie` and `lsm` without arguments), 100,000 keys of 16 bytes get values of 256 bytes, 300,000 times,
//! in entries of 1 and of 64 puts; then without history, with one of 10,000 revisions, which sweeps as it goes, and with one that
//! keeps everything. FOLDER is made, and removed in the end. Linux only: processor time is what `/proc/self` says.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::env;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate_engine::{EngineSpec, Engines as _, LocalEngines, Place};
use quorate_keyspace::{
    Command, EntryHeader, Limits, RequestId, Retention, Revision, Settings, Shard, ShardHeader, Write, encode_entry, get, get_at,
};

const KEYS: u64 = 100_000;
const PUTS: u64 = 300_000;
const VALUE_BYTES: usize = 256;
const READS: u64 = 200_000;

fn main() {
    let mut arguments = env::args().skip(1);
    let Some(folder) = arguments.next() else {
        return println!("usage: history_cost FOLDER [KIND...]");
    };
    let kinds: Vec<String> = arguments.collect();
    let kinds = if kinds.is_empty() { vec!["trie".to_owned(), "lsm".to_owned()] } else { kinds };
    let folder = Path::new(&folder);
    for kind in kinds {
        for puts_per_entry in [1, 64] {
            for (name, max_revisions) in [("none", 0), ("10,000 revisions", 10_000), ("everything", 1 << 40)] {
                fs::create_dir_all(folder).expect("the folder can be made");
                measure(folder, &kind, (name, max_revisions), puts_per_entry);
                fs::remove_dir_all(folder).expect("the folder can be removed");
            }
        }
    }
}

fn measure(folder: &Path, kind: &str, (name, max_revisions): (&str, u64), puts_per_entry: u64) {
    let engines = LocalEngines::new(folder, 7).expect("a folder");
    let engine = engines.open(Place { group: 1, build: 0 }, &EngineSpec::of(kind)).expect("the engine opens");
    let limits = Limits { max_bytes: u64::MAX, ..Limits::default() };
    let settings = Settings { retention: Retention { max_revisions, ..Retention::default() }, ..Settings::of(limits) };
    let mut shard = Shard::found(Arc::clone(&engine), ShardHeader { settings, ..ShardHeader::default() }).expect("a new shard");
    // Every key once, so that all that is measured replaces.
    for first in (0..KEYS).step_by(100) {
        apply(&mut shard, first..first + 100, |key| key);
    }
    let (began, began_ms) = (Instant::now(), processor_ms());
    for first in (0..PUTS).step_by(puts_per_entry as usize) {
        apply(&mut shard, first..first + puts_per_entry, |put| mixed(put) % KEYS);
    }
    let (ms, wall) = (processor_ms() - began_ms, began.elapsed());
    let header = shard.header();
    let view = engine.view();
    let oldest = header.history.begun.map_or(header.revision, |_| header.history.compacted);
    let reads = |read: &dyn Fn(&[u8])| {
        let began = Instant::now();
        (0..READS).for_each(|number| read(&key_of(mixed(number) % KEYS)));
        began.elapsed().as_nanos() as u64 / READS
    };
    let now_ns = reads(&|key| drop(get(&*view, key).expect("it can be read")));
    let span = header.revision.0 - oldest.0 + 1;
    let then_ns = reads(&|key| {
        let revision = Revision(oldest.0 + mixed(u64::from(key[15])) % span);
        drop(get_at(&*view, key, revision).expect("it is kept"));
    });
    println!(
        "{kind}, entries of {puts_per_entry}, history of {name}: {:.1} us of processor and {:.1} us a put; a read {now_ns} ns, of \
         then {then_ns} ns; history {} MiB, data {} MiB",
        ms as f64 * 1000.0 / PUTS as f64,
        wall.as_micros() as f64 / PUTS as f64,
        header.history.bytes >> 20,
        header.data_bytes >> 20,
    );
}

fn apply(shard: &mut Shard, numbers: std::ops::Range<u64>, key: impl Fn(u64) -> u64) {
    let command = |number: u64| {
        let value = Bytes::from(vec![number as u8; VALUE_BYTES]);
        let write = Write::put(key_of(key(number)).to_vec().into(), value);
        Command { id: RequestId::default(), floor: 0, write }.to_bytes()
    };
    let commands: Vec<Bytes> = numbers.map(command).collect();
    let index = shard.header().applied_index + 1;
    let entry = encode_entry(EntryHeader { log_time_ms: index }, commands.iter());
    shard.apply(&[(index, 1, entry)]).expect("the engine takes it");
}

fn key_of(number: u64) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[8..].copy_from_slice(&mixed(number).to_be_bytes());
    key
}

/// Spreads numbers; none comes out twice.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Of all threads: the engine's own too.
fn processor_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name stands first").split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
    ticks * 10
}
