//! A cache in front of a store.
//!
//! What is in it is as old as [`CacheSpec::ttl`] at most: so long may another node's write, or another program's, stay unseen.
//! This node's own writes are seen at once: a write takes its key out of the cache when it is over, however it ended, and what
//! a read fetched meanwhile is not kept.
//!
//! A key that many ask for is fetched once. One that is older than `refresh_after` is served, and fetched again behind that. If
//! the store fails and cannot be reached, what is there is served for `max_stale` beyond its time, and counted as such: better an
//! old value than none. A value never outlives its own time to live.
//!
//! The pairs lie in the engine `cache`, which decides what goes when there is no room.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::Shared;
use quorate_engine::{Batch, Cache, CacheOptions, Change, Engine, Table};
use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::{
    Answer, Capabilities, Clock, Condition, ErrorKind, Meter, Page, Put, Scan, SpecError, Stamp, Store, StoreError, Stored, Tag,
    Written,
};

/// How the cache is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Room for pairs.
    pub max_bytes: u64,
    /// What is older is fetched again.
    pub ttl: Duration,
    /// For how long it is remembered that there is no such key; none: not at all.
    pub negative_ttl: Option<Duration>,
    /// What is older is fetched again behind the answer; none: it is waited for once it is older than `ttl`.
    pub refresh_after: Option<Duration>,
    /// For how long beyond `ttl` a value is served while the store fails; zero: not at all.
    pub max_stale: Duration,
}

const DEFAULT_MAX_BYTES: u64 = 64 << 20;
const DEFAULT_TTL: Duration = Duration::from_secs(10);
const MAX_TTL: Duration = Duration::from_hours(366 * 24);
const DEFAULT_MAX_STALE: Duration = Duration::from_hours(1);

impl CacheSpec {
    pub(crate) fn parse(object: &Map<String, Value>) -> Result<Self, SpecError> {
        let within = |error: SpecError| SpecError { field: format!("cache.{}", error.field), ..error };
        let mut fields = Fields::of("cache", object);
        let times = (Duration::from_millis(1), MAX_TTL);
        let spec = Self {
            max_bytes: fields.bytes("max_bytes", (64 << 10, 1 << 40)).map_err(within)?.unwrap_or(DEFAULT_MAX_BYTES),
            ttl: fields.duration("ttl", times).map_err(within)?.unwrap_or(DEFAULT_TTL),
            negative_ttl: fields.duration("negative_ttl", times).map_err(within)?,
            refresh_after: fields.duration("refresh_after", times).map_err(within)?,
            max_stale: fields.duration("max_stale", (Duration::ZERO, MAX_TTL)).map_err(within)?.unwrap_or(DEFAULT_MAX_STALE),
        };
        fields.finish().map_err(within)?;
        if spec.refresh_after.is_some_and(|refresh| refresh >= spec.ttl) {
            let problem = "must be shorter than ttl: what is older than that is not served";
            return Err(SpecError::new("cache.refresh_after", problem, r#""cache": {"ttl": "60s", "refresh_after": "30s"}"#));
        }
        Ok(spec)
    }
}

/// How a cache in front fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Reads that the cache answered, old values not counted.
    pub hits: u64,
    /// Reads that were answered with a value beyond its time because the store failed.
    pub stale: u64,
    /// Reads that went to the store.
    pub fetched: u64,
    /// Reads that waited for another's fetch.
    pub joined: u64,
}

/// A store with a cache in front. Clones share both.
#[derive(Clone, Debug)]
pub struct Cached<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    spec: CacheSpec,
    clock: Clock,
    cache: Cache,
    /// Held while the cache is written to, which has one writer, and while it is decided who fetches.
    flights: Mutex<Flights>,
    meter: Arc<Meter>,
}

#[derive(Default)]
struct Flights {
    by_key: HashMap<Bytes, Flight>,
    /// Numbers flights and batches.
    count: u64,
}

/// A fetch under way. Not among the flights any more once its key was written to: then what it finds is not kept.
struct Flight {
    number: u64,
    answer: Fetching,
}

type Fetched = Result<Option<Stored>, StoreError>;
type Fetching = Shared<Pin<Box<dyn Future<Output = Fetched> + Send>>>;

/// Counts for [`CacheFigures`].
#[derive(Debug, Default)]
pub(crate) struct CacheCounters {
    hits: AtomicU64,
    stale: AtomicU64,
    fetched: AtomicU64,
    joined: AtomicU64,
}

impl CacheCounters {
    pub(crate) fn figures(&self) -> CacheFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Self { hits, stale, fetched, joined } = self;
        CacheFigures { hits: read(hits), stale: read(stale), fetched: read(fetched), joined: read(joined) }
    }
}

/// What the cache knows about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// When it was fetched, in milliseconds since 1970.
    fetched_ms: u64,
    /// What there was.
    stored: Option<Stored>,
}

impl<S: Store + 'static> Cached<S> {
    /// A store with an empty cache in front, whose figures the meter keeps.
    pub fn new(store: S, spec: CacheSpec, clock: Clock, meter: Arc<Meter>) -> Self {
        let options = CacheOptions { max_bytes: spec.max_bytes, max_entries: None, idle_ms: None };
        let seed = getrandom::u64().unwrap_or_else(|_| clock.stamp().unix_us);
        let (cache, flights) = (Cache::new(options, seed), Mutex::default());
        Self { inner: Arc::new(Inner { store, spec, clock, cache, flights, meter }) }
    }

    async fn read(&self, key: &[u8]) -> Fetched {
        let inner = &self.inner;
        let now_ms = inner.clock.unix_ms();
        let known = inner.known(key, now_ms);
        if let Some(known) = &known {
            let age = Duration::from_millis(now_ms.saturating_sub(known.fetched_ms));
            let ttl = if known.stored.is_some() { inner.spec.ttl } else { inner.spec.negative_ttl.unwrap_or(Duration::ZERO) };
            if age < ttl {
                inner.meter.cache.hits.fetch_add(1, Ordering::Relaxed);
                if known.stored.is_some() && inner.spec.refresh_after.is_some_and(|after| age >= after) {
                    // It flies on by itself.
                    drop(self.fetch(key));
                }
                return Ok(known.stored.clone());
            }
        }
        match self.fetch(key).await {
            Err(error) if error.kind.is_passing() => match known.and_then(|known| known.stored) {
                Some(stored) if inner.spec.max_stale > Duration::ZERO => {
                    inner.meter.cache.stale.fetch_add(1, Ordering::Relaxed);
                    Ok(Some(stored))
                }
                _ => Err(error),
            },
            answer => answer,
        }
    }

    /// Fetches a key, or waits for who does. The fetch goes on though nobody waits any more: it ends by the store's deadline.
    fn fetch(&self, key: &[u8]) -> Fetching {
        let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.by_key.get(key) {
            self.inner.meter.cache.joined.fetch_add(1, Ordering::Relaxed);
            return flight.answer.clone();
        }
        self.inner.meter.cache.fetched.fetch_add(1, Ordering::Relaxed);
        flights.count += 1;
        let (key, number, inner) = (Bytes::copy_from_slice(key), flights.count, self.inner.clone());
        let fetched_key = key.clone();
        let task = tokio::spawn(async move {
            // As of before it was asked for: what is found is at least as new.
            let asked_ms = inner.clock.unix_ms();
            let answer = inner.store.get(&fetched_key).await;
            inner.land(&fetched_key, number, asked_ms, &answer);
            answer
        });
        let kind = self.inner.store.kind();
        let fetching = task.map(move |ended| {
            ended.unwrap_or_else(|error| Err(StoreError::new(kind, ErrorKind::Failing, format_args!("the fetch ended: {error}"))))
        });
        let fetching: Fetching = (Box::pin(fetching) as Pin<Box<dyn Future<Output = Fetched> + Send>>).shared();
        flights.by_key.insert(key, Flight { number, answer: fetching.clone() });
        fetching
    }
}

impl<S: Store> Inner<S> {
    /// What the cache holds, values beyond their time included.
    fn known(&self, key: &[u8], now_ms: u64) -> Option<Known> {
        self.cache.advance(now_ms);
        let bytes = self.cache.view().get(Table::Current, key).ok()??;
        Known::decode(bytes)
    }

    /// Keeps what a fetch found, unless its key was written to meanwhile.
    fn land(&self, key: &Bytes, number: u64, asked_ms: u64, answer: &Fetched) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.by_key.get(key).is_none_or(|flight| flight.number != number) {
            return;
        }
        flights.by_key.remove(key);
        let Ok(stored) = answer else { return };
        let kept_for = match stored {
            Some(_) => self.spec.ttl + self.spec.max_stale,
            None => self.spec.negative_ttl.unwrap_or(Duration::ZERO),
        };
        let until_ms = asked_ms.saturating_add(u64::try_from(kept_for.as_millis()).unwrap_or(u64::MAX));
        let until_ms = stored.as_ref().and_then(|stored| stored.expires_at_ms).map_or(until_ms, |at| at.min(until_ms));
        let known = Known { fetched_ms: asked_ms, stored: stored.clone() };
        let change = if kept_for.is_zero() {
            Change::Delete { table: Table::Current, key: key.clone() }
        } else {
            Change::PutUntil { table: Table::Current, key: key.clone(), value: known.encode(), until_ms }
        };
        self.apply(&mut flights, change);
    }

    /// Takes a key out, and what is being fetched for it is not kept.
    fn forget(&self, key: &[u8]) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.by_key.remove(key);
        self.apply(&mut flights, Change::Delete { table: Table::Current, key: Bytes::copy_from_slice(key) });
    }

    fn apply(&self, flights: &mut Flights, change: Change) {
        flights.count += 1;
        let batch = Batch { applied: flights.count, revision: flights.count, changes: vec![change] };
        // Memory does not fail; and a cache that did would be one that holds less.
        self.cache.apply(batch).ok();
    }
}

const HAS_VALUE: u8 = 1;
const HAS_STAMP: u8 = 2;
const HAS_EXPIRY: u8 = 4;

impl Known {
    /// Only in memory, and so without a version.
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.fetched_ms);
        let Some(stored) = &self.stored else {
            bytes.put_u8(0);
            return bytes.freeze();
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let (has_stamp, has_expiry) = (stored.stamp.is_some(), stored.expires_at_ms.is_some());
        bytes.put_u8(HAS_VALUE | flag(has_stamp, HAS_STAMP) | flag(has_expiry, HAS_EXPIRY));
        if let Some(Stamp { unix_us, writer }) = stored.stamp {
            bytes.put_u64(unix_us);
            bytes.put_u64(writer);
        }
        if let Some(at) = stored.expires_at_ms {
            bytes.put_u64(at);
        }
        bytes.put_u32(u32::try_from(stored.tag.0.len()).unwrap_or(0));
        bytes.put_slice(stored.tag.0.as_bytes());
        bytes.put_slice(&stored.value);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        let fetched_ms = bytes.try_get_u64().ok()?;
        let flags = bytes.try_get_u8().ok()?;
        if flags & HAS_VALUE == 0 {
            return Some(Self { fetched_ms, stored: None });
        }
        let mut stamp = None;
        if flags & HAS_STAMP != 0 {
            stamp = Some(Stamp { unix_us: bytes.try_get_u64().ok()?, writer: bytes.try_get_u64().ok()? });
        }
        let mut expires_at_ms = None;
        if flags & HAS_EXPIRY != 0 {
            expires_at_ms = Some(bytes.try_get_u64().ok()?);
        }
        let len = bytes.try_get_u32().ok()? as usize;
        if bytes.remaining() < len {
            return None;
        }
        let tag = Tag(String::from_utf8(bytes.split_to(len).to_vec()).ok()?);
        Some(Self { fetched_ms, stored: Some(Stored { value: bytes, tag, stamp, expires_at_ms }) })
    }
}

/// Forgets a key when it goes: also if the write is given up in the middle.
struct Forgetting<'a, S: Store> {
    inner: &'a Inner<S>,
    key: &'a [u8],
}

impl<S: Store> Drop for Forgetting<'_, S> {
    fn drop(&mut self) {
        self.inner.forget(self.key);
    }
}

impl<S: Store + 'static> Store for Cached<S> {
    fn kind(&self) -> &'static str {
        self.inner.store.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.store.capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(self.read(key))
    }

    fn get_uncached<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        self.inner.store.get_uncached(key)
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        Box::pin(async move {
            let _forgets = Forgetting { inner: &self.inner, key };
            self.inner.store.put(key, put).await
        })
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move {
            let _forgets = Forgetting { inner: &self.inner, key };
            self.inner.store.delete(key, condition).await
        })
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        self.inner.store.scan(scan)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.inner.store.check()
    }

    fn prepare(&self) -> Answer<'_, ()> {
        self.inner.store.prepare()
    }
}

impl<S: fmt::Debug> fmt::Debug for Inner<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("store", &self.store).field("spec", &self.spec).finish_non_exhaustive()
    }
}
