//! How well the cache chooses, beside others: hit ratios on seeded traces, throughput, memory per pair.
//!
//! `cargo run --release -p quorate-engine --example cache_bench [CAPACITY...] [TRACE...]`; room for 10,000 and 100,000 pairs, and
//! all traces, without arguments. Ten to twenty minutes. Linux only: memory is what `/proc/self/statm` says is resident.
//!
//! Each trace is a list of keys that are asked for; a key that is not there is put. The others are used as their pages say, for
//! 16-byte keys and 64-byte values like ours; `lru` is the simplest thing that is called a cache.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use quorate_engine::{Batch, Cache, CacheOptions, Change, Engine as _, Table};

use self::traces::{Size, TRACES, Trace, scramble};

#[path = "../src/cache/traces.rs"]
mod traces;

const REQUEST_COUNT: usize = 4_000_000;
const DEFAULT_CAPACITIES: [usize; 2] = [10_000, 100_000];
const ZIPF_KEY_COUNT: usize = 1_000_000;
const VALUE_BYTES: usize = 64;
const KEY_BYTES: usize = 16;
const CACHES: [&str; 4] = ["quorate", "moka", "quick_cache", "lru"];
/// First argument of the processes that this program starts for itself.
const CASE: &str = "--case";

fn main() {
    let asked: Vec<String> = env::args().skip(1).collect();
    if let [case, cache, capacity] = &asked[..]
        && case == CASE
    {
        return measure_cost(cache, capacity.parse().expect("this program passes a number"));
    }
    let mut capacities: Vec<usize> = asked.iter().filter_map(|word| word.parse().ok()).collect();
    if capacities.is_empty() {
        capacities = DEFAULT_CAPACITIES.to_vec();
    }
    let is_all = TRACES.iter().all(|trace| !asked.iter().any(|word| word == trace.name));
    let is_asked = |trace: &Trace| is_all || asked.iter().any(|word| word == trace.name);
    for capacity in &capacities {
        println!("\nhits in percent of {REQUEST_COUNT} requests, room for {capacity} pairs");
        println!("trace           {}  ours to the best", CACHES.map(|name| format!("{name:>11}")).join(" "));
        for trace in TRACES.iter().filter(|trace| is_asked(trace)) {
            let keys = (trace.keys)(size(*capacity));
            let ratios = CACHES.map(|name| hit_percent(&*cache(name, *capacity), &keys));
            let best = ratios.into_iter().fold(0.0, f64::max);
            let columns = ratios.map(|ratio| format!("{ratio:>11.2}")).join(" ");
            println!("{:15} {columns}  {:>+16.2}", trace.name, ratios[0] - best);
        }
    }
    if !is_all {
        return;
    }
    println!("\nmillions of requests a second, Zipf 1.0; bytes of a pair beyond key and value");
    println!("cache        capacity  1 thread  2 threads  bytes");
    for (name, capacity) in CACHES.into_iter().flat_map(|name| capacities.iter().map(move |capacity| (name, capacity))) {
        // Memory that an earlier cache freed would hide what a later one takes.
        let program = env::current_exe().expect("the path of this program");
        let status = Command::new(program).args([CASE, name, &capacity.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "measuring {name} failed");
    }
}

fn size(capacity: usize) -> Size {
    Size { capacity, request_count: REQUEST_COUNT, zipf_key_count: ZIPF_KEY_COUNT }
}

fn hit_percent(cache: &dyn AnyCache, keys: &[u64]) -> f64 {
    let hits = keys.iter().filter(|number| request(cache, **number)).count();
    100.0 * hits as f64 / keys.len() as f64
}

fn request(cache: &dyn AnyCache, number: u64) -> bool {
    let key = [number.to_be_bytes(), scramble(number).to_be_bytes()].concat();
    let is_hit = cache.get(&key);
    if !is_hit {
        cache.put(key.into());
    }
    is_hit
}

fn measure_cost(name: &str, capacity: usize) {
    let keys = (TRACES[1].keys)(size(capacity));
    let before_bytes = resident_bytes();
    let cache = cache(name, capacity);
    for number in 0..2 * capacity as u64 {
        request(&*cache, number + (1 << 50));
    }
    let pair_bytes = resident_bytes().saturating_sub(before_bytes) / capacity;
    let [one, two] = [1, 2].map(|thread_count| {
        let began = Instant::now();
        thread::scope(|scope| {
            for thread in 0..thread_count {
                let (cache, keys) = (&*cache, &keys[thread * keys.len() / 2..]);
                scope.spawn(move || hit_percent(cache, keys.get(..REQUEST_COUNT / 2).unwrap_or_default()));
            }
        });
        (thread_count * REQUEST_COUNT / 2) as f64 / began.elapsed().as_secs_f64() / 1e6
    });
    println!("{name:12} {capacity:>8} {one:>9.2} {two:>10.2} {:>6}", pair_bytes.saturating_sub(KEY_BYTES + VALUE_BYTES));
}

/// What all caches have in common here.
trait AnyCache: Sync {
    fn get(&self, key: &[u8]) -> bool;
    fn put(&self, key: Bytes);
}

fn cache(name: &str, capacity: usize) -> Box<dyn AnyCache> {
    match name {
        "quorate" => {
            let options = CacheOptions { max_bytes: 1 << 40, max_entries: Some(capacity as u64), idle_ms: None };
            Box::new(Ours { cache: Cache::new(options, 7), applied: Mutex::new(0) })
        }
        "moka" => Box::new(Moka { cache: moka::sync::Cache::new(capacity as u64), put_count: Mutex::new(0) }),
        "quick_cache" => Box::new(quick_cache::sync::Cache::<Bytes, Bytes>::new(capacity)),
        "lru" => Box::new(Mutex::new(Lru { capacity, pairs: HashMap::new(), by_use: BTreeMap::new(), use_count: 0 })),
        _ => panic!("there is no cache {name}"),
    }
}

fn value() -> Bytes {
    vec![7; VALUE_BYTES].into()
}

/// As a replica uses it: one writer at a time, each put in a batch.
struct Ours {
    cache: Cache,
    applied: Mutex<u64>,
}

impl AnyCache for Ours {
    fn get(&self, key: &[u8]) -> bool {
        self.cache.view().get(Table::Current, key).expect("a healthy engine").is_some()
    }

    fn put(&self, key: Bytes) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        *applied += 1;
        let changes = vec![Change::Put { table: Table::Current, key, value: value() }];
        self.cache.apply(Batch { applied: *applied, revision: *applied, changes }).expect("a healthy engine");
    }
}

/// Its bound is kept by tasks that somebody must run; now and then, as a batch would.
struct Moka {
    cache: moka::sync::Cache<Bytes, Bytes>,
    put_count: Mutex<u64>,
}

impl AnyCache for Moka {
    fn get(&self, key: &[u8]) -> bool {
        self.cache.get(key).is_some()
    }

    fn put(&self, key: Bytes) {
        self.cache.insert(key, value());
        let mut put_count = self.put_count.lock().unwrap_or_else(PoisonError::into_inner);
        *put_count += 1;
        if put_count.is_multiple_of(64) {
            self.cache.run_pending_tasks();
        }
    }
}

impl AnyCache for quick_cache::sync::Cache<Bytes, Bytes> {
    fn get(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    fn put(&self, key: Bytes) {
        self.insert(key, value());
    }
}

struct Lru {
    capacity: usize,
    pairs: HashMap<Bytes, (u64, Bytes)>,
    by_use: BTreeMap<u64, Bytes>,
    use_count: u64,
}

impl AnyCache for Mutex<Lru> {
    fn get(&self, key: &[u8]) -> bool {
        let mut lru = self.lock().unwrap_or_else(PoisonError::into_inner);
        let Lru { pairs, by_use, use_count, .. } = &mut *lru;
        let Some((last_use, _)) = pairs.get_mut(key) else { return false };
        *use_count += 1;
        let key = by_use.remove(last_use).expect("each pair was used once at least");
        *last_use = *use_count;
        by_use.insert(*use_count, key);
        true
    }

    fn put(&self, key: Bytes) {
        let mut lru = self.lock().unwrap_or_else(PoisonError::into_inner);
        let Lru { capacity, pairs, by_use, use_count } = &mut *lru;
        if pairs.len() == *capacity
            && let Some((_, oldest)) = by_use.pop_first()
        {
            pairs.remove(&oldest);
        }
        *use_count += 1;
        by_use.insert(*use_count, key.clone());
        pairs.insert(key, (*use_count, value()));
    }
}

fn resident_bytes() -> usize {
    const PAGE_BYTES: usize = 4096;
    let pages = fs::read_to_string("/proc/self/statm").ok().and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * PAGE_BYTES
}
