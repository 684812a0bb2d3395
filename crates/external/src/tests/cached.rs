//! The cache in front: what it serves, how often it asks, what it does when the store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::conformance::{Subject, Time, check};
use crate::{
    Answer, CacheFigures, CacheSpec, Cached, Capabilities, Condition, ErrorKind, Memory, Meter, Page, Put, Scan, Store,
    StoreError, Stored, Written,
};

/// A store in memory that counts reads, fails when it is told to, and answers only while it may.
#[derive(Clone, Debug)]
struct Slow {
    memory: Memory,
    reads: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    gate: Arc<Semaphore>,
}

/// So many reads pass at once; none while somebody holds all.
const GATE: u32 = 1000;

impl Slow {
    fn new(time: &Time) -> Self {
        let gate = Arc::new(Semaphore::new(GATE as usize));
        Self { memory: Memory::new(time.clock.clone()), reads: Arc::default(), fails: Arc::default(), gate }
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }
}

impl Store for Slow {
    fn kind(&self) -> &'static str {
        "slow"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let found = self.memory.get(key).await;
            let _may = self.gate.acquire().await.unwrap();
            if self.fails.load(Ordering::SeqCst) {
                return Err(StoreError::new("slow", ErrorKind::Unreachable, "planted"));
            }
            found
        })
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        self.memory.put(key, put)
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        self.memory.delete(key, condition)
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        self.memory.scan(scan)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.memory.check()
    }
}

const SPEC: CacheSpec = CacheSpec {
    max_bytes: 1 << 20,
    ttl: Duration::from_secs(10),
    negative_ttl: Some(Duration::from_secs(2)),
    refresh_after: None,
    max_stale: Duration::from_mins(1),
};

struct Bench {
    time: Time,
    slow: Slow,
    cached: Cached<Slow>,
    meter: Arc<Meter>,
}

impl Bench {
    fn new(spec: CacheSpec) -> Self {
        let time = Time::real();
        let slow = Slow::new(&time);
        let meter = Arc::<Meter>::default();
        Self { cached: Cached::new(slow.clone(), spec, time.clock.clone(), meter.clone()), time, slow, meter }
    }

    /// By another node: past the cache.
    async fn write_elsewhere(&self, value: &str) {
        self.slow.put(b"k", &self.put(value)).await.unwrap();
    }

    fn put(&self, value: &str) -> Put {
        let (value, stamp) = (Bytes::copy_from_slice(value.as_bytes()), self.time.clock.stamp());
        Put { value, expires_at_ms: None, condition: Condition::Always, stamp }
    }

    async fn get(&self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.cached.get(b"k").await?.map(|stored| stored.value))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_a_cache_conforms() {
    let time = Time::real();
    let guarded = crate::guarded::Guarded::new(Memory::new(time.clock.clone()), Duration::from_secs(10), 64, Vec::new());
    let store = Arc::new(Cached::new(guarded, SPEC, time.clock.clone(), Arc::default()));
    check(&Subject { store, time, takes_any_key: true, large: 3 << 20 }).await;
}

#[tokio::test]
async fn values_are_as_old_as_their_time_allows() {
    let bench = Bench::new(SPEC);
    bench.write_elsewhere("1").await;
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    bench.write_elsewhere("2").await;
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    bench.time.pass(11_000);
    assert_eq!(bench.get().await.unwrap().unwrap(), "2");
    assert_eq!(bench.slow.reads(), 2);
    let figures = bench.meter.cache_figures();
    assert_eq!(figures, CacheFigures { hits: 1, stale: 0, fetched: 2, joined: 0 });
}

#[tokio::test]
async fn own_writes_are_seen_at_once() {
    let bench = Bench::new(SPEC);
    assert_eq!(bench.get().await.unwrap(), None);
    bench.cached.put(b"k", &bench.put("1")).await.unwrap();
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    bench.cached.delete(b"k", &Condition::Always).await.unwrap();
    assert_eq!(bench.get().await.unwrap(), None);
}

/// What a read fetched before a write is not kept after it.
#[tokio::test]
async fn a_write_overtakes_a_fetch_that_is_under_way() {
    let bench = Bench::new(SPEC);
    bench.write_elsewhere("old").await;
    let closed = bench.slow.gate.acquire_many(GATE).await.unwrap();
    let fetch = tokio::spawn({
        let cached = bench.cached.clone();
        async move { cached.get(b"k").await }
    });
    while bench.slow.reads() == 0 {
        tokio::task::yield_now().await;
    }
    bench.cached.put(b"k", &bench.put("new")).await.unwrap();
    drop(closed);
    assert_eq!(fetch.await.unwrap().unwrap().unwrap().value, "old");
    assert_eq!(bench.get().await.unwrap().unwrap(), "new");
    assert_eq!(bench.get().await.unwrap().unwrap(), "new");
    assert_eq!(bench.slow.reads(), 2);
}

#[tokio::test]
async fn a_key_that_many_ask_for_is_fetched_once() {
    let bench = Bench::new(SPEC);
    bench.write_elsewhere("1").await;
    let answers = futures_util::future::join_all((0..50).map(|_| bench.get())).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().unwrap() == "1"));
    assert_eq!(bench.slow.reads(), 1);
    assert_eq!(bench.meter.cache_figures().joined, 49);
}

/// Who gave up does not take the answer away from the others.
#[tokio::test]
async fn a_fetch_goes_on_without_who_began_it() {
    let bench = Bench::new(SPEC);
    bench.write_elsewhere("1").await;
    {
        let mut first = bench.cached.get(b"k");
        assert!(futures_util::poll!(&mut first).is_pending());
    }
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    assert_eq!(bench.slow.reads(), 1);
}

#[tokio::test]
async fn that_there_is_none_is_remembered_for_a_while() {
    let bench = Bench::new(SPEC);
    for _ in 0..3 {
        assert_eq!(bench.get().await.unwrap(), None);
    }
    assert_eq!(bench.slow.reads(), 1);
    bench.write_elsewhere("1").await;
    assert_eq!(bench.get().await.unwrap(), None);
    bench.time.pass(2_100);
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");

    let without = Bench::new(CacheSpec { negative_ttl: None, ..SPEC });
    for _ in 0..3 {
        assert_eq!(without.get().await.unwrap(), None);
    }
    assert_eq!(without.slow.reads(), 3);
}

#[tokio::test]
async fn old_values_stand_in_while_the_store_fails() {
    let bench = Bench::new(SPEC);
    bench.write_elsewhere("1").await;
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    bench.slow.fail(true);
    bench.time.pass(11_000);
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    assert_eq!(bench.meter.cache_figures().stale, 1);
    bench.time.pass(60_000);
    assert_eq!(bench.get().await.unwrap_err().kind, ErrorKind::Unreachable);
    bench.slow.fail(false);
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");

    let without = Bench::new(CacheSpec { max_stale: Duration::ZERO, ..SPEC });
    without.write_elsewhere("1").await;
    without.get().await.unwrap();
    without.slow.fail(true);
    without.time.pass(11_000);
    assert_eq!(without.get().await.unwrap_err().kind, ErrorKind::Unreachable);
}

#[tokio::test]
async fn values_are_refreshed_behind_an_answer() {
    let bench = Bench::new(CacheSpec { refresh_after: Some(Duration::from_secs(5)), ..SPEC });
    bench.write_elsewhere("1").await;
    bench.get().await.unwrap();
    bench.write_elsewhere("2").await;
    bench.time.pass(6_000);
    assert_eq!(bench.get().await.unwrap().unwrap(), "1");
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.get().await.unwrap().unwrap(), "2");
    assert_eq!(bench.slow.reads(), 2);
}

/// A value's own end is kept to, whatever the cache would allow.
#[tokio::test]
async fn no_value_outlives_its_own_time() {
    let bench = Bench::new(CacheSpec { ttl: Duration::from_mins(10), ..SPEC });
    let ends_at = bench.time.clock.unix_ms() + 3_000;
    bench.cached.put(b"k", &Put { expires_at_ms: Some(ends_at), ..bench.put("1") }).await.unwrap();
    assert_eq!(bench.cached.get(b"k").await.unwrap().unwrap().expires_at_ms, Some(ends_at));
    assert_eq!(bench.cached.get(b"k").await.unwrap().unwrap().expires_at_ms, Some(ends_at));
    assert_eq!(bench.slow.reads(), 1);
    bench.slow.fail(true);
    bench.time.pass(4_000);
    assert!(bench.get().await.is_err());
}
