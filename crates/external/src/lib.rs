//! Stores outside the node as engines: files, object stores, Redis, SQL, search engines, HTTP services.
//!
//! A [`Store`] keeps pairs where other programs may see, change or lose them. What it can promise differs from store to store,
//! and it says so in its [`Capabilities`]; the suite in `tests/conformance.rs` holds each to what it says. This crate
//! knows nothing of Raft, replication or the REST API. Only it names `OpenDAL` and the clients of stores.
//!
//! From the outside in: [`Spec`] is what a keyspace's settings say, checked; [`open`] makes of it a store with retries and
//! deadlines (`guarded`), counted (`meter`), and with a cache in front if the settings say so (`cached`). Below stands one file
//! per store. Those that keep objects under names (`objects`) share the encoding of keys (`key_encoding`) and of values
//! (`envelope`); the others (`redis`, `postgres`, `sqlite`, `opensearch`) have columns of their own for that. A store may also
//! stand behind the engine of a replica (`write_behind`).
//!
//! Time is an input: a [`Clock`] is handed in. Timeouts go by tokio's timers.

mod blocking;
mod cached;
mod capabilities;
mod clock;
mod credentials;
mod envelope;
mod error;
mod fields;
mod fs;
mod guarded;
mod http_client;
mod key_encoding;
mod memory;
mod meter;
mod objects;
mod opendal;
mod opensearch;
mod postgres;
mod redis;
mod registry;
mod service;
mod spec;
mod sql;
mod sqlite;
mod sweep;
mod tls;
mod walk;
mod write_behind;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::hash::Hasher as _;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::KeyRange;
use siphasher::sip::SipHasher13;

pub use cached::{CacheFigures, CacheSpec, Cached};
pub use capabilities::{Capabilities, Comparing, Expiry};
pub use clock::{Clock, Stamp};
pub use credentials::{AllowedCredentials, Credentials, Secret};
pub use error::{ErrorKind, Outcome, StoreError};
pub use key_encoding::{KeyEncoding, MAX_KEY_BYTES};
pub use memory::Memory;
pub use meter::{Call, CallFigures, LATENCY_BOUNDS, Meter};
pub use registry::{KINDS, Kind, Surroundings, capability_table, common_options, kind, open, open_metered};
pub use spec::{DEFAULT_LOCAL, Envelope, PathMode, Spec, SpecError};
pub use write_behind::{Behind, OpenStore, Setup, SetupOf, SteadyMs, ValueOf, WriteBehind};

/// What a store answers, some time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Pairs kept outside of the node.
///
/// Obligations of an implementation:
/// 1. When a write is answered with [`Written::Done`], a read that begins afterwards sees it or a later one, unless
///    [`Capabilities::comparing`] or the store's documentation say that others write as they like; and it is as durable as the
///    store makes it.
/// 2. A write that ends in an error says what became of it. `NotApplied` is said only if nobody can ever see it.
/// 3. A condition decides as the capabilities say. A condition that did not hold changes nothing.
/// 4. Nothing is held in memory beyond one value and one page per call that runs.
/// 5. Values come back whole or not at all: half a body is an error.
/// 6. A call that is dropped leaves nothing behind but, perhaps, the write.
pub trait Store: Send + Sync + fmt::Debug {
    /// The name in a keyspace's settings.
    fn kind(&self) -> &'static str;

    /// What it can do, with the settings that it was opened with.
    fn capabilities(&self) -> Capabilities;

    /// The value of a key; none if there is none, or if its time is up.
    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>>;

    /// The same, as the store has it now, whatever a cache in front knows: to compare before a write.
    fn get_uncached<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        self.get(key)
    }

    /// Writes a value, if the condition holds.
    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written>;

    /// Removes a key, if the condition holds. [`Condition::Absent`] never does. Whether there was something to remove is not
    /// said: object stores do not know.
    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written>;

    /// Some pairs of a range, and where to go on.
    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page>;

    /// Whether it can be reached, lets us in, and has the bucket, folder or table. Costs a request or two.
    fn check(&self) -> Answer<'_, ()>;

    /// Makes what is made once, when a keyspace is, and by which its store is known ever after: so that the empty folder where
    /// a disk was mounted is not taken for it. Can be done again. Nothing where the store itself says what it is.
    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Names one state of one key in a store: if it is the same, so is the value. Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub String);

impl Tag {
    /// A number that stands for it, the same on all nodes and in all versions, and never 0: where a tag of any length has
    /// no room.
    pub fn number(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(self.0.as_bytes());
        hasher.finish().max(1)
    }
}

/// A value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Bytes,
    /// What to compare it by.
    pub tag: Tag,
    /// Who wrote it and when; none if the store keeps bare bytes.
    pub stamp: Option<Stamp>,
    /// When its time is up, in milliseconds since 1970; none if it stays.
    pub expires_at_ms: Option<u64>,
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is no such key, or its time is up.
    Absent,
    /// The key is as it was when this tag was read.
    Matches(Tag),
}

/// A value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The value.
    pub value: Bytes,
    /// When its time is up, in milliseconds since 1970. Refused by a store without [`Expiry`].
    pub expires_at_ms: Option<u64>,
    /// What must hold.
    pub condition: Condition,
    /// Told apart by this: the same in every attempt at the same write, and in no other write. [`Clock::stamp`] makes one.
    pub stamp: Stamp,
}

/// What became of a write that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is done. With what to compare the new value by, where the store says so.
    Done(Option<Tag>),
    /// The condition did not hold, and nothing was changed.
    ConditionFailed,
}

/// Where a scan goes on; only the store that made it understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// Which pairs are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The keys.
    pub range: KeyRange,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
    /// As many pairs at most; [`MAX_PAGE_ENTRIES`] at most. A page may hold fewer, or none, and not be the last.
    pub max_entries: usize,
    /// Whether values are wanted too. Without them, keys whose time is up may be among those of a store with
    /// [`Expiry::Hidden`].
    pub with_values: bool,
}

/// One pair of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// What is there, if values were wanted.
    pub stored: Option<Stored>,
}

/// Some pairs: in key order, after all of the page before, if the store is [`Capabilities::ordered`]; else in no order, and a
/// key may come twice if there are writes meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The pairs.
    pub entries: Vec<Entry>,
    /// Where to go on; none if this was the last page.
    pub next: Option<Cursor>,
}

/// A page holds no more pairs than this. Object stores list a thousand names at once.
pub const MAX_PAGE_ENTRIES: usize = 1000;

/// A page with values ends once they are this long: what a page costs in memory is this and one value.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

impl Scan {
    /// The first page of a range.
    pub fn of(range: KeyRange) -> Self {
        Self { range, cursor: None, max_entries: MAX_PAGE_ENTRIES, with_values: false }
    }

    /// The same with values.
    #[must_use]
    pub fn with_values(self) -> Self {
        Self { with_values: true, ..self }
    }

    /// The bound on pairs that holds.
    fn limit(&self) -> usize {
        self.max_entries.clamp(1, MAX_PAGE_ENTRIES)
    }
}

/// A store behind a pointer is that store.
impl<S: Store + ?Sized> Store for Arc<S> {
    fn kind(&self) -> &'static str {
        self.as_ref().kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.as_ref().capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        self.as_ref().get(key)
    }

    fn get_uncached<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        self.as_ref().get_uncached(key)
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        self.as_ref().put(key, put)
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        self.as_ref().delete(key, condition)
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        self.as_ref().scan(scan)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.as_ref().check()
    }

    fn prepare(&self) -> Answer<'_, ()> {
        self.as_ref().prepare()
    }
}
