//! What every store must do, by what its capabilities say.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_engine::KeyRange;

use crate::{
    Capabilities, Clock, Comparing, Condition, Entry, ErrorKind, Expiry, MAX_PAGE_BYTES, Page, Put, Scan, Store, StoreError,
    Stored, Tag, Written,
};

/// The system's time, which can be put forward.
#[derive(Clone, Debug)]
pub(super) struct Time {
    ahead_ms: Arc<AtomicU64>,
    pub(super) clock: Clock,
}

impl Time {
    pub(super) fn real() -> Self {
        let ahead_ms = Arc::new(AtomicU64::new(0));
        let shown = ahead_ms.clone();
        #[expect(clippy::disallowed_methods, reason = "Redis goes by it too")]
        let unix = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let unix_ms = move || u64::try_from(unix().as_millis()).unwrap() + shown.load(Ordering::Relaxed);
        Self { ahead_ms, clock: Clock::new(getrandom::u64().unwrap(), unix_ms) }
    }

    pub(super) fn pass(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Takes back what passed, to see what was hidden and what is gone.
    fn go_back(&self, ms: u64) {
        self.ahead_ms.fetch_sub(ms, Ordering::Relaxed);
    }
}

/// A store under test, empty at first.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) store: Arc<dyn Store>,
    pub(super) time: Time,
    /// Whether every key can be a key; else only paths.
    pub(super) takes_any_key: bool,
    /// The longest value that is worth the time.
    pub(super) large: usize,
}

impl Subject {
    fn can(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn put_of(&self, value: &[u8], condition: Condition) -> Put {
        let stamp = self.time.clock.stamp();
        Put { value: Bytes::copy_from_slice(value), expires_at_ms: None, condition, stamp }
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Option<Tag> {
        self.put_if(key, value, Condition::Always).await.unwrap_or_else(|error| panic!("{key:?}: {error}")).done(key)
    }

    async fn put_if(&self, key: &[u8], value: &[u8], condition: Condition) -> Result<Written, StoreError> {
        self.store.put(key, &self.put_of(value, condition)).await
    }

    async fn get(&self, key: &[u8]) -> Option<Stored> {
        self.store.get(key).await.unwrap_or_else(|error| panic!("{key:?}: {error}"))
    }

    async fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.get(key).await.map(|stored| stored.value)
    }

    async fn delete(&self, key: &[u8]) {
        self.store.delete(key, &Condition::Always).await.unwrap().done(key);
    }

    /// All pages of a range.
    async fn all(&self, scan: Scan) -> Vec<Entry> {
        let (mut entries, mut scan) = (Vec::new(), scan);
        for _ in 0..10_000 {
            let Page { entries: more, next } = self.store.scan(&scan).await.unwrap();
            assert!(more.len() <= scan.max_entries, "a page holds more than was asked for");
            entries.extend(more);
            scan.cursor = next;
            if scan.cursor.is_none() {
                return entries;
            }
        }
        panic!("the pages have no end");
    }

    async fn clear(&self) {
        if self.can().listable && self.can().writable {
            for entry in self.all(Scan::of(KeyRange::all())).await {
                self.delete(&entry.key).await;
            }
        }
    }
}

impl Written {
    fn done(self, key: &[u8]) -> Option<Tag> {
        match self {
            Self::Done(tag) => tag,
            Self::ConditionFailed => panic!("{key:?}: a condition failed"),
        }
    }
}

/// Runs the suite.
pub(super) async fn check(subject: &Subject) {
    subject.store.prepare().await.unwrap();
    subject.store.check().await.unwrap();
    values_come_back(subject).await;
    keys_come_back(subject).await;
    too_much_is_refused(subject).await;
    conditions_hold(subject).await;
    counters_lose_nothing(subject).await;
    time_to_live_ends(subject).await;
    what_is_over_is_swept(subject).await;
    if subject.can().listable {
        lists_are_whole(subject).await;
        pages_end_when_they_are_long(subject).await;
    } else {
        let error = subject.store.scan(&Scan::of(KeyRange::all())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
    }
}

async fn values_come_back(subject: &Subject) {
    let key = b"values/one";
    assert_eq!(subject.get(key).await, None, "the store is not empty");
    subject.delete(key).await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    for value in [&b"first"[..], b"", b"\0\xff", &all_bytes, &vec![7; subject.large]] {
        let tag = subject.put(key, value).await;
        let found = subject.get(key).await.expect("a value");
        assert_eq!(found.value, value);
        assert!(tag.is_none_or(|tag| tag == found.tag), "the tag of a put is not that of the value");
        assert_eq!(found.expires_at_ms, None);
        assert_eq!(subject.get(key).await, Some(found), "two reads differ");
    }
    let put = subject.put_of(b"stamped", Condition::Always);
    subject.store.put(key, &put).await.unwrap();
    assert!(subject.get(key).await.unwrap().stamp.is_none_or(|stamp| stamp == put.stamp));
    subject.delete(key).await;
    assert_eq!(subject.get(key).await, None);
    subject.delete(key).await;
}

async fn keys_come_back(subject: &Subject) {
    let long = "long/".to_owned() + &"x".repeat(subject.can().max_key_bytes.min(200));
    let mut keys: Vec<Vec<u8>> =
        [&b"a"[..], b"a-b", b"a.b", b"A", b"b\xc3\xbccher/x y", b"50% & more?#", long.as_bytes()].map(<[u8]>::to_vec).to_vec();
    if subject.takes_any_key {
        keys.extend([b"".to_vec(), b"/".to_vec(), b"..".to_vec(), b"a//b".to_vec(), b" ".to_vec(), b"a/".to_vec()]);
        keys.extend(b"\x00\x09\n !\"#%+,-./09:;=?@AZ[\\]^_`az{|}~\x7f\x80\xc3\xfe\xff".iter().map(|byte| vec![b'k', *byte]));
        // The longest there may be, of bytes that take the most room, and of those that take the least.
        keys.extend([0xff, b'a'].map(|byte| vec![byte; subject.can().max_key_bytes]));
    }
    for (number, key) in keys.iter().enumerate() {
        subject.put(key, &number.to_le_bytes()).await;
    }
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(subject.value(key).await.as_deref(), Some(&number.to_le_bytes()[..]), "{:?}", key.escape_ascii().to_string());
    }
    if subject.can().listable {
        let listed: BTreeSet<Bytes> = subject.all(Scan::of(KeyRange::all())).await.into_iter().map(|entry| entry.key).collect();
        assert_eq!(listed, keys.iter().cloned().map(Bytes::from).collect());
    }
    for key in &keys {
        subject.delete(key).await;
        assert_eq!(subject.get(key).await, None);
    }
}

async fn too_much_is_refused(subject: &Subject) {
    for len in [crate::MAX_KEY_BYTES + 1, 100_000] {
        let key = vec![b'k'; len];
        for error in [
            subject.store.get(&key).await.unwrap_err(),
            subject.put_if(&key, b"", Condition::Always).await.unwrap_err(),
            subject.store.delete(&key, &Condition::Always).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind, ErrorKind::TooLarge | ErrorKind::BadKey), "{error}");
            assert_eq!(error.outcome, crate::Outcome::NotApplied);
        }
    }
}

async fn conditions_hold(subject: &Subject) {
    let (key, there, gone) = (b"condition", Written::ConditionFailed, Written::ConditionFailed);
    if subject.can().comparing == Comparing::Unconditional {
        let other = Condition::Matches(Tag("x".to_owned()));
        for error in [
            subject.put_if(key, b"1", Condition::Absent).await.unwrap_err(),
            subject.put_if(key, b"1", other.clone()).await.unwrap_err(),
            subject.store.delete(key, &other).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Unsupported);
        }
        assert_eq!(subject.get(key).await, None);
        return;
    }
    subject.put_if(key, b"1", Condition::Absent).await.unwrap().done(key);
    assert_eq!(subject.put_if(key, b"2", Condition::Absent).await.unwrap(), there);
    let first = subject.get(key).await.unwrap();
    assert_eq!(first.value, "1");

    let second = subject.put_if(key, b"2", Condition::Matches(first.tag.clone())).await.unwrap().done(key);
    let found = subject.get(key).await.unwrap();
    assert!(found.value == "2" && found.tag != first.tag && second.is_none_or(|tag| tag == found.tag));
    assert_eq!(subject.put_if(key, b"3", Condition::Matches(first.tag.clone())).await.unwrap(), there);
    let strange = Condition::Matches(Tag("\"elsewhere\"".to_owned()));
    assert_eq!(subject.put_if(key, b"3", strange.clone()).await.unwrap_or(Written::ConditionFailed), there);
    assert_eq!(subject.value(key).await.unwrap(), "2");

    assert_eq!(subject.store.delete(key, &Condition::Matches(first.tag.clone())).await.unwrap(), there);
    assert_eq!(subject.store.delete(key, &Condition::Absent).await.unwrap(), there);
    assert_eq!(subject.value(key).await.unwrap(), "2");
    subject.store.delete(key, &Condition::Matches(found.tag.clone())).await.unwrap().done(key);
    assert_eq!(subject.get(key).await, None);

    assert_eq!(subject.put_if(key, b"4", Condition::Matches(found.tag.clone())).await.unwrap(), gone);
    assert_eq!(subject.store.delete(key, &Condition::Matches(found.tag)).await.unwrap(), gone);
    assert_eq!(subject.store.delete(key, &Condition::Absent).await.unwrap(), gone);
    assert_eq!(subject.get(key).await, None);
}

/// Who count at once, and how often.
const WRITERS: usize = 4;
const ROUNDS: usize = 5;

/// Of all who add to a number at once, each adds once.
async fn counters_lose_nothing(subject: &Subject) {
    if subject.can().comparing == Comparing::Unconditional {
        return;
    }
    let key = b"counter";
    subject.put_if(key, b"0", Condition::Absent).await.unwrap().done(key);
    let count = async |_| {
        for _ in 0..ROUNDS {
            loop {
                let there = subject.get(key).await.unwrap();
                let number: usize = std::str::from_utf8(&there.value).unwrap().parse().unwrap();
                let next = (number + 1).to_string();
                if subject.put_if(key, next.as_bytes(), Condition::Matches(there.tag)).await.unwrap() != Written::ConditionFailed
                {
                    break;
                }
            }
        }
    };
    futures_util::future::join_all((0..WRITERS).map(count)).await;
    assert_eq!(subject.value(key).await.unwrap(), (WRITERS * ROUNDS).to_string());
    subject.delete(key).await;

    // Of all who create a key at once, one does.
    let create = |number: usize| async move {
        let value = number.to_string();
        subject.put_if(b"created", value.as_bytes(), Condition::Absent).await.unwrap() != Written::ConditionFailed
    };
    let created = futures_util::future::join_all((0..WRITERS).map(create)).await;
    assert_eq!(created.iter().filter(|did| **did).count(), 1);
    let winner = created.iter().position(|did| *did).unwrap();
    assert_eq!(subject.value(b"created").await.unwrap(), winner.to_string());
    subject.delete(b"created").await;
}

async fn time_to_live_ends(subject: &Subject) {
    let key = b"mortal";
    let ends_at = subject.time.clock.unix_ms() + 400;
    let put = Put { expires_at_ms: Some(ends_at), ..subject.put_of(b"v", Condition::Always) };
    if subject.can().expiry == Expiry::None {
        assert_eq!(subject.store.put(key, &put).await.unwrap_err().kind, ErrorKind::Unsupported);
        return;
    }
    subject.store.put(key, &put).await.unwrap().done(key);
    let there = subject.get(key).await.unwrap().expires_at_ms.unwrap();
    assert!(there.abs_diff(ends_at) < 50, "{there} is not {ends_at}");
    if subject.can().expiry == Expiry::Removed {
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    subject.time.pass(600);
    assert_eq!(subject.get(key).await, None);
    if subject.can().listable {
        assert_eq!(subject.all(Scan::of(KeyRange::all()).with_values()).await, []);
    }
    // What is over is not there.
    if subject.can().comparing != Comparing::Unconditional {
        subject.put_if(key, b"again", Condition::Absent).await.unwrap().done(key);
        assert_eq!(subject.put_if(key, b"twice", Condition::Absent).await.unwrap(), Written::ConditionFailed);
        assert_eq!(subject.get(key).await.map(|stored| (stored.value, stored.expires_at_ms)), Some(("again".into(), None)));
    }
    // A put without an end takes an end away.
    let put = Put { expires_at_ms: Some(subject.time.clock.unix_ms() + 60_000), ..subject.put_of(b"v", Condition::Always) };
    subject.store.put(key, &put).await.unwrap().done(key);
    subject.put(key, b"stays").await;
    assert_eq!(subject.get(key).await.unwrap().expires_at_ms, None);
    subject.delete(key).await;
    subject.clear().await;
}

/// What a store only hides is removed by who comes across it, if nobody can lose anything by that.
async fn what_is_over_is_swept(subject: &Subject) {
    if subject.can().expiry != Expiry::Hidden {
        return;
    }
    let compares = subject.can().comparing != Comparing::Unconditional;
    let is_left = async |key: &[u8]| {
        subject.time.go_back(60_000);
        let is_left = subject.get(key).await.is_some();
        subject.time.pass(60_000);
        is_left
    };
    let mortal = async |key: &[u8]| {
        let put = Put { expires_at_ms: Some(subject.time.clock.unix_ms() + 30_000), ..subject.put_of(b"v", Condition::Always) };
        subject.store.put(key, &put).await.unwrap().done(key);
    };
    mortal(b"read").await;
    mortal(b"left").await;
    subject.put(b"stays", b"v").await;
    subject.time.pass(60_000);
    assert!(is_left(b"read").await && is_left(b"left").await);
    assert_eq!(subject.get(b"read").await, None);
    assert_eq!((is_left(b"read").await, is_left(b"left").await), (!compares, true));
    if subject.can().listable {
        let listed = subject.all(Scan::of(KeyRange::all()).with_values()).await;
        assert_eq!(listed.iter().map(|entry| &entry.key[..]).collect::<Vec<_>>(), [b"stays"]);
        // A search leaves out what is over, and so does not come across it.
        assert_eq!(is_left(b"left").await, !compares || subject.store.kind() == "opensearch");
    }
    subject.time.go_back(60_000);
    for key in [&b"read"[..], b"left", b"stays"] {
        subject.delete(key).await;
    }
}

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

async fn lists_are_whole(subject: &Subject) {
    let mut numbers = Numbers(7);
    let mut model = BTreeMap::new();
    for number in 0..60 {
        let len = 1 + numbers.below(4);
        let letters = b"ab./-_ \xff";
        let mut key: Vec<u8> = (0..len).map(|_| letters[numbers.below(8) as usize]).collect();
        if !subject.takes_any_key {
            key = format!("{}/{}{number}", ["x", "y", "y/z"][numbers.below(3) as usize], numbers.below(4)).into_bytes();
        }
        let value = number.to_string();
        subject.put(&key, value.as_bytes()).await;
        model.insert(Bytes::from(key), Bytes::from(value));
    }
    let key = |number: u64| model.keys().nth(number as usize % model.len()).unwrap().clone();
    let mut ranges =
        vec![KeyRange::all(), KeyRange::prefix(b""), KeyRange::prefix(b"a"), KeyRange::prefix(b"y/"), KeyRange::prefix(b"zz")];
    for _ in 0..6 {
        let (a, b) = (key(numbers.below(60)), key(numbers.below(60)));
        let (a, b) = (a.clone().min(b.clone()), a.max(b));
        ranges.push(KeyRange::prefix(&a[..a.len() - 1]));
        ranges.push(KeyRange { start: Bound::Included(a.clone()), end: Bound::Included(b.clone()) });
        ranges.push(KeyRange { start: Bound::Excluded(a.clone()), end: Bound::Excluded(b.clone()) });
        ranges.push(KeyRange { start: Bound::Unbounded, end: Bound::Excluded(b) });
        ranges.push(KeyRange { start: Bound::Excluded(a), end: Bound::Unbounded });
    }
    for (number, range) in ranges.into_iter().enumerate() {
        let max_entries = [3, 1000, 20][number % 3];
        let scan = Scan { max_entries, with_values: number % 2 == 0, ..Scan::of(range.clone()) };
        let mut found: Vec<(Bytes, Option<Bytes>)> = subject
            .all(scan.clone())
            .await
            .into_iter()
            .map(|entry| (entry.key, entry.stored.map(|stored| stored.value)))
            .collect();
        if !subject.can().ordered {
            found.sort();
        }
        let within = model.iter().filter(|(key, _)| range.contains(key));
        let expected: Vec<_> = within.map(|(key, value)| (key.clone(), scan.with_values.then(|| value.clone()))).collect();
        assert_eq!(found, expected, "{scan:?}");
    }
    subject.clear().await;
    assert_eq!(subject.all(Scan::of(KeyRange::all())).await, []);
}

async fn pages_end_when_they_are_long(subject: &Subject) {
    let value = vec![1; MAX_PAGE_BYTES / 3];
    for number in 0..8 {
        subject.put(format!("long-{number}").as_bytes(), &value).await;
    }
    let page = subject.store.scan(&Scan::of(KeyRange::prefix(b"long-")).with_values()).await.unwrap();
    assert!((1..=4).contains(&page.entries.len()), "{} values of a third of a page", page.entries.len());
    assert!(page.next.is_some());
    assert_eq!(subject.all(Scan::of(KeyRange::prefix(b"long-")).with_values()).await.len(), 8);
    subject.clear().await;
}
