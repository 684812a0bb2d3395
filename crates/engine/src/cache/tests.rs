//! What the conformance suite cannot see: time, room, and that every pair that goes is counted once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

use super::part::PAIR_OVERHEAD_BYTES;
use super::{Cache, CacheOptions, MAX_FREED_BY_ADVANCE};
use crate::{Batch, CacheStats, Change, Direction, Engine, KeyRange, Table};

const ROOMY: CacheOptions = CacheOptions { max_bytes: 64 << 20, max_entries: None, idle_ms: None };

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn value_of(len: usize) -> Bytes {
    vec![7; len].into()
}

fn put(number: u64, value: Bytes) -> Change {
    Change::Put { table: Table::Current, key: key(number), value }
}

fn put_until(number: u64, value: Bytes, until_ms: u64) -> Change {
    Change::PutUntil { table: Table::Current, key: key(number), value, until_ms }
}

fn delete(number: u64) -> Change {
    Change::Delete { table: Table::Current, key: key(number) }
}

fn apply(cache: &Cache, changes: Vec<Change>) {
    let applied = cache.view().applied() + 1;
    cache.apply(Batch { applied, revision: applied, changes }).unwrap();
}

fn get(cache: &Cache, number: u64) -> Option<Bytes> {
    cache.view().get(Table::Current, &key(number)).unwrap()
}

fn peek(cache: &Cache, number: u64) -> Option<Bytes> {
    cache.view().peek(Table::Current, &key(number)).unwrap()
}

fn listed(cache: &Cache) -> Vec<(Bytes, Bytes)> {
    let view = cache.view();
    view.scan(Table::Current, &KeyRange::all(), Direction::Forward).collect::<Result<_, _>>().unwrap()
}

fn stats(cache: &Cache) -> CacheStats {
    cache.cache_stats().unwrap()
}

/// How many pairs went, whatever the cause.
fn gone(stats: &CacheStats) -> u64 {
    stats.evicted + stats.rejected + stats.expired + stats.idled + stats.replaced + stats.removed
}

#[test]
fn what_is_up_is_hidden_at_once_and_freed_bit_by_bit() {
    let cache = Cache::new(CacheOptions { max_bytes: 4 << 20, ..ROOMY }, 1);
    let count = 4 * MAX_FREED_BY_ADVANCE as u64;
    apply(&cache, (0..count).map(|number| put_until(number, value_of(10), 1_000)).collect());
    cache.advance(999);
    assert_eq!(listed(&cache).len() as u64, count);
    cache.advance(1_000);
    assert!((0..count).all(|number| peek(&cache, number).is_none()));
    assert!(listed(&cache).is_empty());
    assert_eq!(cache.view().pairs(Table::Current).count(), 0);
    for freed in 1..=4 {
        assert_eq!(stats(&cache).expired, freed * MAX_FREED_BY_ADVANCE as u64);
        cache.advance(1_000 + freed);
    }
    assert_eq!((stats(&cache).pairs, stats(&cache).weight_bytes, cache.stats().data_bytes), (0, 0, 0));
}

#[test]
fn a_get_is_a_use_and_a_look_is_none() {
    let cache = Cache::new(CacheOptions { idle_ms: Some(100), ..ROOMY }, 1);
    apply(&cache, vec![put(1, value_of(1)), put(2, value_of(1))]);
    cache.advance(60);
    assert!(get(&cache, 1).is_some() && peek(&cache, 2).is_some());
    assert_eq!(listed(&cache).len(), 2);
    cache.advance(100);
    assert!(peek(&cache, 1).is_some() && peek(&cache, 2).is_none());
    cache.advance(159);
    assert!(peek(&cache, 1).is_some());
    cache.advance(160);
    assert!(get(&cache, 1).is_none());
    assert_eq!((stats(&cache).idled, stats(&cache).hits, stats(&cache).misses), (2, 1, 1));
}

#[test]
fn a_later_put_sets_the_time_anew() {
    let cache = Cache::new(ROOMY, 1);
    apply(&cache, vec![put_until(1, value_of(1), 10), put_until(2, value_of(1), 10), put_until(3, value_of(1), 10)]);
    apply(&cache, vec![put(1, value_of(2)), put_until(2, value_of(2), 20), put_until(3, value_of(2), 5)]);
    cache.advance(5);
    assert_eq!([1, 2, 3].map(|number| get(&cache, number).is_some()), [true, true, false]);
    cache.advance(10);
    assert_eq!([1, 2, 3].map(|number| get(&cache, number).is_some()), [true, true, false]);
    cache.advance(1_000_000);
    assert_eq!([1, 2, 3].map(|number| get(&cache, number).is_some()), [true, false, false]);
}

#[test]
fn time_that_is_up_already_removes_what_was_there() {
    let cache = Cache::new(ROOMY, 1);
    cache.advance(50);
    apply(&cache, vec![put(1, value_of(1))]);
    apply(&cache, vec![put_until(1, value_of(1), 50)]);
    assert_eq!(get(&cache, 1), None);
    assert_eq!((stats(&cache).expired, stats(&cache).replaced, stats(&cache).pairs), (1, 1, 0));
}

#[test]
fn what_is_larger_than_all_the_room_is_refused_and_its_key_is_gone() {
    let cache = Cache::new(CacheOptions { max_bytes: 64 << 10, ..ROOMY }, 1);
    apply(&cache, vec![put(1, value_of(10)), put(2, value_of(10))]);
    apply(&cache, vec![put(1, value_of(65 << 10))]);
    assert_eq!((get(&cache, 1), get(&cache, 2)), (None, Some(value_of(10))));
    assert_eq!((stats(&cache).rejected, stats(&cache).evicted), (1, 0));
}

#[test]
fn what_is_used_often_outlives_a_flood() {
    let cache = Cache::new(CacheOptions { max_entries: Some(1_000), ..ROOMY }, 1);
    apply(&cache, (0..500).map(|number| put(number, value_of(10))).collect());
    (0..5).for_each(|_| (0..500).for_each(|number| assert!(get(&cache, number).is_some())));
    for number in 1_000..20_000 {
        apply(&cache, vec![put(number, value_of(10))]);
        assert!(peek(&cache, number).is_some(), "what was just put is there");
    }
    let kept = (0..500).filter(|number| peek(&cache, *number).is_some()).count();
    assert!(kept >= 475, "{kept} of 500 are left");
    assert_eq!(stats(&cache).pairs, 1_000);
}

#[test]
fn the_last_minute_is_counted_by_the_time_told() {
    let cache = Cache::new(ROOMY, 1);
    apply(&cache, vec![put(1, value_of(1))]);
    for second in 0..100 {
        cache.advance(second * 1_000);
        let number = if second < 50 { 2 } else { 1 };
        get(&cache, number);
    }
    let stats = stats(&cache);
    assert_eq!((stats.hits, stats.misses), (50, 50));
    assert_eq!((stats.recent_hits, stats.recent_misses), (50, 11));
    assert_eq!(stats.hit_ratio(), Some(0.5));
}

#[test]
fn a_rebuild_replaces_the_pairs_and_counts_on() {
    let cache = Cache::new(ROOMY, 1);
    apply(&cache, (0..100).map(|number| put(number, value_of(1))).collect());
    get(&cache, 1);
    let mut rebuild = cache.rebuild().unwrap();
    rebuild.put(Table::Current, key(1_000), value_of(3)).unwrap();
    rebuild.commit(7, 7).unwrap();
    assert_eq!(listed(&cache), [(key(1_000), value_of(3))]);
    assert_eq!((stats(&cache).hits, stats(&cache).pairs, stats(&cache).removed), (1, 1, 100));
}

/// As a node does when options are altered.
fn alter(cache: &Cache, options: &[(&str, u64)]) {
    if cache.alter(&options.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()) {
        cache.fit();
    }
}

#[test]
fn other_bounds_hold_from_then_on_and_what_is_wanted_most_stays() {
    let cache = Cache::new(ROOMY, 1);
    apply(&cache, (0..2_000).map(|number| put(number, value_of(100))).collect());
    (0..3).for_each(|_| (0..100).for_each(|number| assert!(get(&cache, number).is_some())));
    // The parts that there are serve; then two take their place, and then one, which serves from then on.
    for (options, max_bytes, pairs) in [
        (&[("max_bytes", 1 << 30)][..], 1 << 30, 2_000),
        (&[("max_entries", 9_000)], 64 << 20, 2_000),
        (&[("max_entries", 500), ("max_bytes", 1 << 30)], 1 << 30, 500),
        (&[("max_bytes", 64 << 10)], 64 << 10, (64 << 10) / (100 + 8 + PAIR_OVERHEAD_BYTES)),
        (&[("max_bytes", 1 << 30)], 1 << 30, (64 << 10) / (100 + 8 + PAIR_OVERHEAD_BYTES)),
    ] {
        alter(&cache, options);
        assert_eq!((stats(&cache).max_bytes, stats(&cache).pairs), (max_bytes, pairs), "{options:?}");
        assert_eq!(listed(&cache).len() as u64, pairs, "{options:?}");
        assert!((0..100).all(|number| peek(&cache, number) == Some(value_of(100))), "{options:?}: the most wanted");
        assert_eq!((stats(&cache).hits, 2_000), (300, pairs + gone(&stats(&cache))), "{options:?}: counted on");
    }
    apply(&cache, (2_000..9_000).map(|number| put(number, value_of(100))).collect());
    assert!(stats(&cache).pairs > 7_000, "the room is used");
}

#[test]
fn an_altered_cache_takes_the_values_that_a_new_one_takes() {
    for (before, after) in [(64 << 20, 17 << 20), (512 << 20, 40 << 20), (64 << 20, 9 << 20)] {
        let cache = Cache::new(CacheOptions { max_bytes: before, ..ROOMY }, 1);
        alter(&cache, &[("max_bytes", after)]);
        for number in 0..32 {
            apply(&cache, vec![put(number, value_of(8_000_000))]);
            assert!(peek(&cache, number).is_some(), "{number}, of {before} bytes {after} are left");
        }
    }
}

#[test]
fn one_pair_can_be_all_that_is_left() {
    let cache = Cache::new(CacheOptions { max_bytes: 1 << 30, ..ROOMY }, 1);
    apply(&cache, (0..500).map(|number| put_until(number, value_of(40_000), 1_000)).collect());
    alter(&cache, &[("max_entries", 1), ("max_bytes", 64 << 10)]);
    assert_eq!(stats(&cache).pairs, 1);
    assert_eq!(listed(&cache).pop().unwrap().1, value_of(40_000));
    cache.advance(1_000);
    assert_eq!((stats(&cache).pairs, stats(&cache).expired), (0, 1), "when its time is up went along");
}

#[test]
fn another_idle_time_counts_at_once() {
    let cache = Cache::new(ROOMY, 1);
    apply(&cache, vec![put(1, value_of(1)), put(2, value_of(1))]);
    cache.advance(60);
    get(&cache, 1);
    alter(&cache, &[("idle", 50)]);
    assert_eq!([1, 2].map(|number| peek(&cache, number).is_some()), [true, false]);
    alter(&cache, &[]);
    cache.advance(1_000_000);
    assert!(peek(&cache, 1).is_some());
}

#[test]
fn what_was_idle_for_too_long_does_not_come_back_with_another_idle_time() {
    let count = 4 * MAX_FREED_BY_ADVANCE as u64;
    for idle in [&[][..], &[("idle", 1_000)]] {
        let cache = Cache::new(CacheOptions { max_bytes: 4 << 20, idle_ms: Some(50), ..ROOMY }, 1);
        apply(&cache, (0..count).map(|number| put(number, value_of(1))).collect());
        cache.advance(30);
        get(&cache, 0);
        cache.advance(60);
        alter(&cache, idle);
        assert!(get(&cache, 0).is_some());
        assert!((1..count).all(|number| peek(&cache, number).is_none()), "{idle:?}");
        assert_eq!((stats(&cache).pairs, stats(&cache).idled), (1, count - 1), "{idle:?}: the memory is given back");
        apply(&cache, vec![put(1, value_of(2))]);
        cache.advance(1_059);
        assert_eq!(peek(&cache, 1), Some(value_of(2)), "{idle:?}: what is put from then on stays as long as it says");
        cache.advance(1_060);
        assert_eq!([0, 1].map(|number| peek(&cache, number).is_some()), [idle.is_empty(); 2]);
    }
}

/// Also of content that takes the place of the present one.
#[test]
fn a_rebuild_that_was_begun_before_keeps_to_the_bound_of_after() {
    let cache = Cache::new(ROOMY, 1);
    let mut rebuild = cache.rebuild().unwrap();
    (0..1_000).for_each(|number| rebuild.put(Table::Current, key(number), value_of(1)).unwrap());
    alter(&cache, &[("max_entries", 10)]);
    rebuild.commit(7, 7).unwrap();
    assert_eq!((stats(&cache).pairs, listed(&cache).len()), (10, 10));
}

#[test]
fn the_memory_of_what_is_gone_is_given_back() {
    let cache = Cache::new(CacheOptions { max_bytes: 8 << 20, ..ROOMY }, 1);
    apply(&cache, (0..40_000).map(|number| put(number, value_of(1))).collect());
    (0..100).for_each(|number| assert!(get(&cache, number).is_some()));
    assert!(cache.shared.parts.load().places() >= 40_000);
    alter(&cache, &[("max_bytes", 8 << 20), ("max_entries", 5_000)]);
    let places = cache.shared.parts.load().places();
    assert!((5_000..20_000).contains(&places), "memory for {places} pairs");
    assert_eq!((stats(&cache).pairs, stats(&cache).evicted, stats(&cache).hits), (5_000, 35_000, 100));
    assert!((0..100).all(|number| peek(&cache, number).is_some()), "what is wanted most stays");
    assert_eq!(cache.stats().data_bytes, listed(&cache).len() as u64 * 9);
}

/// Before the first of them has moved, and with each piece.
#[test]
fn pairs_that_move_are_there_all_the_time() {
    const COUNT: u64 = 3_000;
    let cache = Cache::new(ROOMY, 1);
    apply(&cache, (0..COUNT).map(|number| put_until(number, value_of(1), 1_000 + number)).collect());
    let parts = cache.shared.parts.load_full();
    let options = CacheOptions { max_bytes: 9 << 20, ..ROOMY };
    parts.set_bounds(options);
    parts.shrink();
    parts.merge();
    assert_eq!((stats(&cache).pairs, stats(&cache).weight_bytes), (COUNT, COUNT * (9 + PAIR_OVERHEAD_BYTES)));
    assert!((0..COUNT).all(|number| peek(&cache, number) == Some(value_of(1))));
    assert!((0..100).all(|number| get(&cache, number) == Some(value_of(1))));
    apply(&cache, (100..200).map(|number| put(number, value_of(2))).collect());
    apply(&cache, (200..300).map(delete).collect());
    assert!((100..200).all(|number| peek(&cache, number) == Some(value_of(2))));
    assert!((200..300).all(|number| peek(&cache, number).is_none()));
    [1_050, 1_310].into_iter().for_each(|now_ms| cache.advance(now_ms));
    assert!((300..=310).all(|number| peek(&cache, number).is_none()));
    parts.settle();
    let found: Vec<_> = listed(&cache).into_iter().map(|(key, _)| key).collect();
    let expected: Vec<_> = (100..200).chain(311..COUNT).map(key).collect();
    assert_eq!(found, expected);
    let CacheStats { pairs, hits, replaced, removed, expired, evicted, .. } = stats(&cache);
    assert_eq!((pairs, hits, replaced, removed, expired, evicted), (expected.len() as u64, 100, 100, 100, 111, 0));
    assert!(parts.are_within(options));
}

/// The key and a number that grows with each write.
fn versioned(number: u64, version: u64) -> Bytes {
    [number.to_be_bytes(), version.to_be_bytes()].concat().into()
}

fn version_of(number: u64, value: &Bytes) -> u64 {
    assert_eq!(value[..8], number.to_be_bytes(), "the value of this key");
    u64::from_be_bytes(value[8..].try_into().unwrap())
}

/// Waits until something was done 50 times, or it is over.
fn wait_for_more(count: &AtomicU64, is_over: impl Fn() -> bool) {
    let before = count.load(Ordering::Acquire);
    while count.load(Ordering::Acquire) < before + 50 && !is_over() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bounds_are_altered_beside_readers_and_the_writer() {
    const STABLE: u64 = 1_000;
    const WRITTEN: u64 = 299;
    let stable = || (WRITTEN..WRITTEN + STABLE).map(key);
    let cache = Cache::new(CacheOptions { max_bytes: 1 << 30, ..ROOMY }, 1);
    let (is_over, is_roomy, write_count) = (AtomicBool::new(false), AtomicBool::new(true), AtomicU64::new(0));
    apply(&cache, (WRITTEN..WRITTEN + STABLE).map(|number| put(number, versioned(number, 0))).collect());
    let read = || {
        let mut seen = vec![0; WRITTEN as usize];
        while !is_over.load(Ordering::Acquire) {
            for number in 0..WRITTEN {
                let version = get(&cache, number).map(|value| version_of(number, &value));
                let before = &mut seen[number as usize];
                assert!(version.is_none_or(|version| version >= *before), "{number}: {version:?} after {before}");
                *before = version.unwrap_or(*before);
            }
            let found = listed(&cache);
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "each key once, in order");
            let copied: BTreeMap<_, _> = cache.view().pairs(Table::Current).collect::<Result<_, _>>().unwrap();
            if is_roomy.load(Ordering::Acquire) {
                assert!(found.iter().map(|pair| pair.0.clone()).filter(|found| *found >= key(WRITTEN)).eq(stable()));
                assert!(stable().all(|key| copied.contains_key(&key)), "what nobody touches is there all the time");
            }
        }
    };
    let write = || {
        let mut put_count = 0;
        for version in 1_u64.. {
            let number = version * 7 % WRITTEN;
            if version % 5 == 0 {
                apply(&cache, vec![delete(number)]);
                assert_eq!(peek(&cache, number), None);
            } else {
                apply(&cache, vec![put(number, versioned(number, version))]);
                let found = peek(&cache, number);
                let is_lost = found.is_none() && !is_roomy.load(Ordering::Acquire);
                assert!(is_lost || found == Some(versioned(number, version)), "what was just put is there: {found:?}");
                put_count += 1;
            }
            write_count.store(version, Ordering::Release);
            if is_over.load(Ordering::Acquire) {
                break;
            }
        }
        put_count
    };
    thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        let writer = scope.spawn(write);
        let wait_for_writes = || wait_for_more(&write_count, || writer.is_finished());
        // Each is half as many parts as the one before.
        for max_bytes in [512, 256, 128, 64, 32, 16, 8].map(|mib| mib << 20) {
            alter(&cache, &[("max_bytes", max_bytes)]);
            wait_for_writes();
        }
        is_roomy.store(false, Ordering::Release);
        let pairs = [900, 1_200, 200, 50, 2_000, 1].map(|max_entries| {
            alter(&cache, &[("max_entries", max_entries)]);
            wait_for_writes();
            (stats(&cache).pairs, max_entries)
        });
        // Before anything is asserted: the others would go on for ever.
        is_over.store(true, Ordering::Release);
        assert!(pairs.iter().all(|(pairs, max_entries)| pairs <= max_entries), "{pairs:?}");
        let put_count = STABLE + writer.join().unwrap();
        assert_eq!(stats(&cache).pairs + gone(&stats(&cache)), put_count, "each pair is there, or went for one reason");
        assert!(stats(&cache).replaced > 0 && stats(&cache).removed > 0 && stats(&cache).evicted > 0);
    });
    assert_eq!(cache.stats().keys, listed(&cache).len() as u64);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, usize),
    PutFor(u64, usize, u64),
    Delete(u64),
    Get(u64),
    Peek(u64),
    List,
    Advance(u64),
    /// Other bounds, where there are any.
    Alter(u64, Option<u64>),
}

fn none_or(numbers: Range<u64>) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), numbers.prop_map(Some)]
}

fn step(max_value_bytes: usize) -> impl Strategy<Value = Step> {
    let number = || 0..24_u64;
    let len = move || 0..max_value_bytes;
    prop_oneof![
        3 => (number(), len()).prop_map(|(number, len)| Step::Put(number, len)),
        4 => (number(), len(), 0..60_u64).prop_map(|(number, len, for_ms)| Step::PutFor(number, len, for_ms)),
        1 => number().prop_map(Step::Delete),
        4 => number().prop_map(Step::Get),
        1 => number().prop_map(Step::Peek),
        1 => Just(Step::List),
        4 => (0..25_u64).prop_map(Step::Advance),
        1 => (64_u64..1_024, none_or(1..12)).prop_map(|(kib, max_entries)| Step::Alter(kib << 10, max_entries)),
    ]
}

/// A cache with room for everything, written down as simply as possible.
#[derive(Default)]
struct Model {
    now_ms: u64,
    idle_ms: Option<u64>,
    pairs: BTreeMap<u64, ModelPair>,
    stats: CacheStats,
}

struct ModelPair {
    value_bytes: usize,
    until_ms: u64,
    used_ms: u64,
}

impl Model {
    /// Drops what is up, by cause: what is up in both ways counts as expired.
    fn settle(&mut self) {
        let (now_ms, idle_ms) = (self.now_ms, self.idle_ms);
        let has_expired = |pair: &ModelPair| pair.until_ms <= now_ms;
        let is_idle = |pair: &ModelPair| idle_ms.is_some_and(|idle_ms| pair.used_ms + idle_ms <= now_ms);
        self.stats.expired += self.pairs.values().filter(|pair| has_expired(pair)).count() as u64;
        self.stats.idled += self.pairs.values().filter(|pair| is_idle(pair) && !has_expired(pair)).count() as u64;
        self.pairs.retain(|_, pair| !has_expired(pair) && !is_idle(pair));
    }

    fn put(&mut self, number: u64, value_bytes: usize, until_ms: u64) {
        let pair = ModelPair { value_bytes, until_ms, used_ms: self.now_ms };
        self.stats.replaced += u64::from(self.pairs.insert(number, pair).is_some());
        self.settle();
    }

    fn get(&mut self, number: u64) -> Option<usize> {
        let found = self.pairs.get_mut(&number);
        self.stats.hits += u64::from(found.is_some());
        self.stats.misses += u64::from(found.is_none());
        found.map(|pair| {
            pair.used_ms = self.now_ms;
            pair.value_bytes
        })
    }
}

fn run_beside_model(idle_ms: Option<u64>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let cache = Cache::new(CacheOptions { idle_ms, ..ROOMY }, 1);
    let mut model = Model { idle_ms, ..Model::default() };
    for step in steps {
        match step {
            Step::Put(number, len) => {
                apply(&cache, vec![put(number, value_of(len))]);
                model.put(number, len, u64::MAX);
            }
            Step::PutFor(number, len, for_ms) => {
                apply(&cache, vec![put_until(number, value_of(len), model.now_ms + for_ms)]);
                model.put(number, len, model.now_ms + for_ms);
            }
            Step::Delete(number) => {
                apply(&cache, vec![delete(number)]);
                model.stats.removed += u64::from(model.pairs.remove(&number).is_some());
            }
            Step::Get(number) => prop_assert_eq!(get(&cache, number).map(|value| value.len()), model.get(number)),
            Step::Peek(number) => {
                let expected = model.pairs.get(&number).map(|pair| pair.value_bytes);
                prop_assert_eq!(peek(&cache, number).map(|value| value.len()), expected);
            }
            Step::List => {
                let found: Vec<_> = listed(&cache).into_iter().map(|(key, value)| (key, value.len())).collect();
                let expected: Vec<_> = model.pairs.iter().map(|(number, pair)| (key(*number), pair.value_bytes)).collect();
                prop_assert_eq!(found, expected);
            }
            Step::Advance(by_ms) => {
                model.now_ms += by_ms;
                cache.advance(model.now_ms);
                model.settle();
            }
            // Here is room for everything.
            Step::Alter(_, idle_ms) => {
                let idle_ms = idle_ms.map(|idle_ms| 5 * idle_ms);
                alter(&cache, &idle_ms.map(|idle_ms| ("idle", idle_ms)).into_iter().collect::<Vec<_>>());
                model.idle_ms = idle_ms;
                model.settle();
            }
        }
    }
    let CacheStats { hits, misses, replaced, removed, .. } = stats(&cache);
    prop_assert_eq!((hits, misses), (model.stats.hits, model.stats.misses));
    prop_assert_eq!((replaced, removed), (model.stats.replaced, model.stats.removed));
    // Pairs that have an end, and with an idle time all, are freed in the end without being asked for.
    let has_no_end = |pair: &&ModelPair| model.idle_ms.is_none() && pair.until_ms == u64::MAX;
    let left = model.pairs.values().filter(has_no_end).count() as u64;
    cache.advance(model.now_ms + 10_000);
    model.now_ms += 10_000;
    model.settle();
    prop_assert_eq!(stats(&cache).pairs, left);
    prop_assert_eq!(stats(&cache).expired + stats(&cache).idled, model.stats.expired + model.stats.idled);
    Ok(())
}

/// A cache that is far too small, and how many pairs were put into it.
fn run_in_little_room(mut max_entries: Option<u64>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let cache = Cache::new(CacheOptions { max_bytes: 64 << 10, max_entries, idle_ms: Some(200) }, 1);
    let (mut now_ms, mut put_count) = (0, 0);
    for step in steps {
        let change = match step {
            Step::Put(number, len) => Some(put(number, value_of(len))),
            Step::PutFor(number, len, for_ms) => Some(put_until(number, value_of(len), now_ms + for_ms)),
            Step::Delete(number) => Some(delete(number)),
            Step::Get(number) => get(&cache, number).and(None),
            Step::Peek(number) => peek(&cache, number).and(None),
            Step::List => None,
            Step::Advance(by_ms) => {
                now_ms += by_ms;
                cache.advance(now_ms);
                None
            }
            Step::Alter(max_bytes, entries) => {
                max_entries = entries;
                let entries = entries.map(|entries| ("max_entries", entries));
                let options = [("max_bytes", max_bytes), ("idle", 200)].into_iter().chain(entries);
                alter(&cache, &options.collect::<Vec<_>>());
                None
            }
        };
        put_count += u64::from(change.as_ref().is_some_and(|change| !matches!(change, Change::Delete { .. })));
        apply(&cache, change.into_iter().collect());
        let (stats, data) = (stats(&cache), cache.stats());
        prop_assert!(stats.weight_bytes <= stats.max_bytes, "{} bytes of {}", stats.weight_bytes, stats.max_bytes);
        prop_assert!(max_entries.is_none_or(|max_entries| stats.pairs <= max_entries), "{} pairs", stats.pairs);
        prop_assert_eq!(stats.weight_bytes, data.data_bytes + stats.pairs * PAIR_OVERHEAD_BYTES);
        prop_assert_eq!(put_count, stats.pairs + gone(&stats), "each pair that was put is there, or went for one reason");
    }
    let view = cache.view();
    prop_assert!(view.pairs(Table::Current).count() as u64 <= stats(&cache).pairs);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_served_after_its_time(idle_ms in none_or(1..80), steps in vec(step(100), 1..120)) {
        run_beside_model(idle_ms, steps)?;
    }

    #[test]
    fn there_is_never_more_than_the_bound(max_entries in none_or(1..12), steps in vec(step(70_000), 1..120)) {
        run_in_little_room(max_entries, steps)?;
    }
}
