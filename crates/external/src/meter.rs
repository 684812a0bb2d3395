//! What is asked of a store, counted: how often, for how long, and how it ended.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::cached::CacheCounters;
use crate::clock::after;
use crate::{Answer, CacheFigures, Capabilities, Condition, ErrorKind, Outcome, Page, Put, Scan, Store, Stored, Written};

/// Counts what a node asks of one store. It outlives the store, which is opened anew when credentials change.
#[derive(Debug, Default)]
pub struct Meter {
    calls: [CallCounters; Call::ALL.len()],
    pub(crate) cache: CacheCounters,
}

/// What a store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Store::get`].
    Get,
    /// [`Store::put`].
    Put,
    /// [`Store::delete`].
    Delete,
    /// [`Store::scan`]: one page.
    Scan,
    /// [`Store::check`].
    Check,
}

/// A call that took no longer is in the bucket of this number; the last bucket has no bound.
pub const LATENCY_BOUNDS: [Duration; 9] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// How calls of one sort fared. Retries are within a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallFigures {
    /// Those that ended, well or not.
    pub ended: u64,
    /// Those that run, or wait until they may.
    pub in_flight: u64,
    /// How long those that ended took together, in microseconds.
    pub total_us: u64,
    /// How many of them took how long: one number more than [`LATENCY_BOUNDS`], each for itself.
    pub by_latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// Those that failed, by what to do about it, where that is known not to have changed anything. One that nobody waited for
    /// any longer is among [`ErrorKind::Timeout`].
    pub failed: Vec<(ErrorKind, u64)>,
    /// Writes of which nobody knows whether they happened.
    pub unknown: u64,
}

#[derive(Debug, Default)]
struct CallCounters {
    ended: AtomicU64,
    in_flight: AtomicU64,
    total_us: AtomicU64,
    by_latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    failed: [AtomicU64; ERRORS.len()],
    unknown: AtomicU64,
}

/// The sorts of errors, as they are counted.
const ERRORS: [ErrorKind; 11] = [
    ErrorKind::Unreachable,
    ErrorKind::Timeout,
    ErrorKind::Throttled { retry_after: None },
    ErrorKind::Failing,
    ErrorKind::Denied,
    ErrorKind::NoContainer,
    ErrorKind::TooLarge,
    ErrorKind::BadKey,
    ErrorKind::BadData,
    ErrorKind::Unsupported,
    ErrorKind::Unexpected,
];

impl Call {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Delete, Self::Scan, Self::Check];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Scan => "scan",
            Self::Check => "check",
        }
    }

    fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

impl Meter {
    /// How calls of this sort fared so far.
    pub fn figures(&self, call: Call) -> CallFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.calls[call as usize];
        let failed = ERRORS.iter().zip(&counters.failed).map(|(kind, count)| (*kind, read(count)));
        CallFigures {
            ended: read(&counters.ended),
            in_flight: read(&counters.in_flight),
            total_us: read(&counters.total_us),
            by_latency: counters.by_latency.each_ref().map(read),
            failed: failed.filter(|(_, count)| *count > 0).collect(),
            unknown: read(&counters.unknown),
        }
    }

    /// How the cache in front fares; zeros without one.
    pub fn cache_figures(&self) -> CacheFigures {
        self.cache.figures()
    }

    fn begin(&self, call: Call) -> Running<'_> {
        let counters = &self.calls[call as usize];
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Running { counters, call, began: after(Duration::ZERO), error: Some(Error::GivenUp) }
    }
}

/// A call under way. Counted when it goes, also if it is given up in the middle.
struct Running<'a> {
    counters: &'a CallCounters,
    call: Call,
    began: Instant,
    error: Option<Error>,
}

enum Error {
    GivenUp,
    Told(ErrorKind, Outcome),
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        let took = after(Duration::ZERO).saturating_duration_since(self.began);
        let bucket = LATENCY_BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        add(&self.counters.by_latency[bucket], 1);
        add(&self.counters.total_us, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        match self.error {
            None => {}
            Some(Error::Told(_, Outcome::Unknown)) => drop(add(&self.counters.unknown, 1)),
            Some(Error::GivenUp) if self.call.is_write() => drop(add(&self.counters.unknown, 1)),
            Some(Error::GivenUp) => drop(add(&self.counters.failed[number_of(ErrorKind::Timeout)], 1)),
            Some(Error::Told(kind, Outcome::NotApplied)) => drop(add(&self.counters.failed[number_of(kind)], 1)),
        }
        add(&self.counters.ended, 1);
        self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn number_of(kind: ErrorKind) -> usize {
    let is_alike = |other: &ErrorKind| std::mem::discriminant(other) == std::mem::discriminant(&kind);
    ERRORS.iter().position(is_alike).expect("all sorts are in the table")
}

/// A store with a meter.
pub(crate) struct Metered<S> {
    store: S,
    meter: Arc<Meter>,
}

impl<S: Store> Metered<S> {
    pub(crate) fn new(store: S, meter: Arc<Meter>) -> Self {
        Self { store, meter }
    }

    fn count<'a, T: Send + 'a>(&'a self, call: Call, answer: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            let mut running = self.meter.begin(call);
            let answer = answer.await;
            running.error = answer.as_ref().err().map(|error| Error::Told(error.kind, error.outcome));
            answer
        })
    }
}

impl<S: Store> Store for Metered<S> {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        self.count(Call::Get, self.store.get(key))
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        self.count(Call::Put, self.store.put(key, put))
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        self.count(Call::Delete, self.store.delete(key, condition))
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        self.count(Call::Scan, self.store.scan(scan))
    }

    fn check(&self) -> Answer<'_, ()> {
        self.count(Call::Check, self.store.check())
    }

    fn prepare(&self) -> Answer<'_, ()> {
        self.store.prepare()
    }
}

impl<S: fmt::Debug> fmt::Debug for Metered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{Clock, Memory, Stamp, StoreError};

    /// Answers once it may, and then as it is told.
    #[derive(Debug)]
    struct Told {
        memory: Memory,
        gate: Semaphore,
        error: Option<StoreError>,
    }

    impl Told {
        fn metered(error: Option<StoreError>) -> (Metered<Self>, Arc<Meter>) {
            let meter = Arc::<Meter>::default();
            let memory = Memory::new(Clock::new(1, || 0));
            (Metered::new(Self { memory, gate: Semaphore::new(1), error }, meter.clone()), meter)
        }
    }

    impl Store for Told {
        fn kind(&self) -> &'static str {
            "told"
        }

        fn capabilities(&self) -> Capabilities {
            self.memory.capabilities()
        }

        fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
            Box::pin(async move {
                let _may = self.gate.acquire().await.unwrap();
                self.error.clone().map_or(Ok(()), Err)?;
                self.memory.get(key).await
            })
        }

        fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
            Box::pin(async move {
                let _may = self.gate.acquire().await.unwrap();
                self.error.clone().map_or(Ok(()), Err)?;
                self.memory.put(key, put).await
            })
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

    fn put() -> Put {
        let (value, stamp) = (Bytes::from_static(b"v"), Stamp { unix_us: 1, writer: 1 });
        Put { value, expires_at_ms: None, condition: Condition::Always, stamp }
    }

    #[tokio::test]
    async fn calls_are_counted_by_how_long_they_took() {
        let (store, meter) = Told::metered(None);
        store.put(b"a", &put()).await.unwrap();
        let held = store.store.gate.acquire().await.unwrap();
        let get = async { store.get(b"a").await.unwrap() };
        let release = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!((meter.figures(Call::Get).in_flight, meter.figures(Call::Get).ended), (1, 0));
            drop(held);
        };
        tokio::join!(get, release);
        let figures = meter.figures(Call::Get);
        assert_eq!((figures.ended, figures.in_flight, figures.unknown, &figures.failed), (1, 0, 0, &Vec::new()));
        assert!(figures.total_us >= 20_000, "{}", figures.total_us);
        // How much longer it took is the machine's affair.
        let bucket = LATENCY_BOUNDS.iter().position(|bound| Duration::from_micros(figures.total_us) <= *bound).unwrap();
        assert!(bucket >= 4 && figures.by_latency[bucket] == 1 && figures.by_latency.iter().sum::<u64>() == 1, "{figures:?}");
        assert_eq!(meter.figures(Call::Put).by_latency.iter().sum::<u64>(), 1);
        assert_eq!(meter.figures(Call::Delete), CallFigures::default());
    }

    #[tokio::test]
    async fn failures_are_counted_by_what_they_are() {
        let throttled = StoreError::new("told", ErrorKind::Throttled { retry_after: Some(Duration::from_secs(1)) }, "planted");
        let (store, meter) = Told::metered(Some(throttled.clone()));
        store.get(b"a").await.unwrap_err();
        store.get(b"a").await.unwrap_err();
        assert_eq!(meter.figures(Call::Get).failed, [(ErrorKind::Throttled { retry_after: None }, 2)]);
        let (store, meter) = Told::metered(Some(throttled.unknown()));
        store.put(b"a", &put()).await.unwrap_err();
        let figures = meter.figures(Call::Put);
        assert_eq!((figures.ended, figures.unknown, figures.failed), (1, 1, Vec::new()));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_longer_is_counted() {
        let (store, meter) = Told::metered(None);
        let _held = store.store.gate.acquire().await.unwrap();
        let limit = Duration::from_millis(30);
        tokio::time::timeout(limit, store.get(b"a")).await.unwrap_err();
        tokio::time::timeout(limit, store.put(b"a", &put())).await.unwrap_err();
        let (get, put) = (meter.figures(Call::Get), meter.figures(Call::Put));
        assert_eq!((get.ended, get.in_flight, get.failed), (1, 0, vec![(ErrorKind::Timeout, 1)]));
        assert_eq!((put.ended, put.in_flight, put.unknown, put.failed), (1, 0, 1, Vec::new()));
    }

    #[test]
    fn every_kind_of_error_has_its_counter() {
        for (number, kind) in ERRORS.into_iter().enumerate() {
            assert_eq!(number_of(kind), number);
        }
    }
}
