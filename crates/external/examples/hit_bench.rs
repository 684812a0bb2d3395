//! What a hit costs in a cache in front of a store, beside a read of the engine `cache` itself, in turns in one run.
//!
//! `cargo run --release -p quorate-external --example hit_bench [KEYS] [VALUE_BYTES]`; 20,000 keys and 256 bytes without
//! arguments. Nanoseconds of processor time each, of the middle one of seven rounds.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::env;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Batch, Cache, CacheOptions, Change, Engine, Table};
use quorate_external::{CacheSpec, Cached, Clock, Condition, Memory, Meter, Put, Store};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 7;
const READS: usize = 300_000;
const ROOM_BYTES: u64 = 1 << 30;

/// From one key to the next; a prime that no number of keys here is a multiple of.
const STEP: usize = 7_368_787;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let asked: Vec<usize> = env::args().skip(1).map(|word| word.parse().expect("a number")).collect();
    let key_count = asked.first().copied().unwrap_or(20_000).max(1);
    let value = Bytes::from(vec![b'v'; asked.get(1).copied().unwrap_or(256)]);
    let keys: Vec<Bytes> = (0..key_count).map(|number| Bytes::from(format!("key/{number:012}"))).collect();

    let engine = Cache::new(CacheOptions { max_bytes: ROOM_BYTES, max_entries: None, idle_ms: None }, 7);
    for (number, key) in (1..).zip(&keys) {
        let change = Change::Put { table: Table::Current, key: key.clone(), value: value.clone() };
        engine.apply(Batch { applied: number, revision: number, changes: vec![change] }).expect("memory does not fail");
    }
    let (clock, meter) = (Clock::new(1, || 1_000_000), Arc::<Meter>::default());
    let spec = CacheSpec {
        max_bytes: ROOM_BYTES,
        ttl: Duration::from_hours(1),
        negative_ttl: None,
        refresh_after: None,
        max_stale: Duration::ZERO,
    };
    let cached = Cached::new(Memory::new(clock.clone()), spec, clock.clone(), meter.clone());
    for key in &keys {
        let put = Put { value: value.clone(), expires_at_ms: None, condition: Condition::Always, stamp: clock.stamp() };
        cached.put(key, &put).await.expect("memory does not fail");
        cached.get(key).await.expect("memory does not fail").expect("it was written");
    }

    let (mut plain, mut fronted) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = cpu_time();
        for number in 0..READS {
            let view = engine.view();
            let found = view.get(Table::Current, &keys[number * STEP % key_count]).expect("memory does not fail");
            assert_eq!(found.expect("there is room").len(), value.len());
        }
        plain.push(nanoseconds_each(began));
        let began = cpu_time();
        for number in 0..READS {
            let found = cached.get(&keys[number * STEP % key_count]).await.expect("memory does not fail");
            assert_eq!(found.expect("there is room").value.len(), value.len());
        }
        fronted.push(nanoseconds_each(began));
    }
    let figures = meter.cache_figures();
    assert_eq!((figures.hits, figures.fetched), ((ROUNDS * READS) as u64, key_count as u64), "not all were hits");
    let (plain, fronted) = (middle(plain), middle(fronted));
    println!("{key_count} keys, values of {} bytes: a get of the engine cache {plain:.0} ns,", value.len());
    println!("a hit in front of a store {fronted:.0} ns, {:.2} of it", fronted / plain);
}

/// Of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

fn nanoseconds_each(began: Duration) -> f64 {
    cpu_time().saturating_sub(began).as_nanos() as f64 / READS as f64
}

fn middle(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}
