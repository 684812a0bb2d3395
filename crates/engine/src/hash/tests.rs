//! What the conformance suite cannot see: growth, what is kept for open views and for how long.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use super::Hash;
use super::bin::MAX_BIN_LEN;
use super::bins::Walk;
use super::version::Version;
use crate::{Batch, Change, Direction, Engine, KeyRange, Table, View};

/// Enough for several splits.
const KEY_COUNT: u64 = 5 * MAX_BIN_LEN as u64;

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn puts(numbers: impl Iterator<Item = u64>, value: &'static str) -> Vec<Change> {
    let put = |number| Change::Put { table: Table::Current, key: key(number), value: Bytes::from_static(value.as_bytes()) };
    numbers.map(put).collect()
}

fn deletes(numbers: impl Iterator<Item = u64>) -> Vec<Change> {
    numbers.map(|number| Change::Delete { table: Table::Current, key: key(number) }).collect()
}

fn apply(engine: &Hash, changes: Vec<Change>) {
    let applied = engine.view().applied() + 1;
    engine.apply(Batch { applied, revision: applied, changes }).unwrap();
}

fn published(engine: &Hash) -> Arc<Version> {
    engine.shared.published.load_full()
}

/// How many before-images there are.
fn image_count(engine: &Hash) -> usize {
    bins(engine, super::bin::Bin::image_count).iter().sum()
}

fn bins<R>(engine: &Hash, look: impl Fn(&super::bin::Bin) -> R) -> Vec<R> {
    let version = published(engine);
    let mut walk = Walk::new(version.bins());
    std::iter::from_fn(|| walk.next_bin().map(|bin| look(&bin))).collect()
}

fn numbers(view: &dyn View, range: &KeyRange, direction: Direction) -> Vec<u64> {
    let keys = view.scan(Table::Current, range, direction).map(|item| item.unwrap().0);
    keys.map(|key| u64::from_be_bytes(key[..].try_into().unwrap())).collect()
}

#[test]
fn grows_bin_by_bin_and_keeps_everything() {
    let engine = Hash::new(1);
    for first in (0..KEY_COUNT).step_by(100) {
        apply(&engine, puts(first..first + 100, "1"));
    }
    let lens = bins(&engine, super::bin::Bin::len);
    assert!(lens.len() > 4 && lens.iter().all(|len| *len <= MAX_BIN_LEN), "{lens:?}");
    assert_eq!(engine.stats().keys, lens.iter().sum::<usize>() as u64);
    let view = engine.view();
    assert!((0..KEY_COUNT).all(|number| view.get(Table::Current, &key(number)).unwrap().is_some()));
    assert_eq!(view.get(Table::Current, &key(KEY_COUNT + 100)).unwrap(), None);
}

/// Places that removals leave behind are used again; a table never doubles because of them.
#[test]
fn churn_grows_nothing() {
    let engine = Hash::new(1);
    let window = MAX_BIN_LEN as u64 - 100;
    apply(&engine, puts(0..window, "1"));
    for first in (0..20 * window).step_by(50) {
        apply(&engine, deletes(first..first + 50));
        apply(&engine, puts(first + window..first + window + 50, "1"));
    }
    assert!(bins(&engine, super::bin::Bin::place_count).iter().all(|count| *count <= 4_096));
    assert!(bins(&engine, |_| ()).len() <= 2);
}

#[test]
fn gives_places_back() {
    let engine = Hash::new(1);
    apply(&engine, puts(0..KEY_COUNT, "1"));
    apply(&engine, deletes(0..KEY_COUNT));
    assert!(bins(&engine, super::bin::Bin::place_count).iter().sum::<usize>() < 1_000);
    assert_eq!(engine.stats().keys, 0);
}

#[test]
fn keeps_the_past_for_open_views_only() {
    let engine = Hash::new(1);
    apply(&engine, puts(0..1_000, "1"));
    apply(&engine, puts(0..1_000, "2"));
    assert_eq!(image_count(&engine), 0);
    let (early, same) = (engine.view(), engine.view());
    for _ in 0..10 {
        apply(&engine, puts(0..500, "3"));
    }
    assert_eq!(image_count(&engine), 500);
    let late = engine.view();
    apply(&engine, deletes(400..600));
    apply(&engine, puts(400..700, "4"));
    assert_eq!(image_count(&engine), 500 + 100 + 100 + 100);
    for (view, expected) in [(&early, "2"), (&late, "3")] {
        assert_eq!(view.get(Table::Current, &key(450)).unwrap().unwrap(), expected);
        assert_eq!(numbers(&**view, &KeyRange::all(), Direction::Forward).len(), 1_000);
    }
    drop(early);
    assert_eq!(image_count(&engine), 800);
    drop(same);
    assert_eq!(image_count(&engine), 300);
    drop(late);
    assert_eq!(image_count(&engine), 0);
}

/// A view that stays open for long does not make those that come and go beside it cost more and more.
#[test]
fn a_key_has_at_most_one_image_for_each_open_view() {
    let engine = Hash::new(1);
    apply(&engine, puts(0..10, "1"));
    let long = engine.view();
    for _ in 0..100 {
        let short = engine.view();
        apply(&engine, puts(0..10, "2"));
        drop(short);
    }
    assert!(image_count(&engine) <= 2 * 10, "{} images", image_count(&engine));
    assert_eq!(long.get(Table::Current, &key(3)).unwrap().unwrap(), "1");
}

#[test]
fn images_move_with_their_keys() {
    let engine = Hash::new(1);
    apply(&engine, puts(0..2_000, "1"));
    let view = engine.view();
    apply(&engine, deletes(0..1_000));
    apply(&engine, puts(1_000..KEY_COUNT, "2"));
    assert!(bins(&engine, |_| ()).len() > 4);
    assert_eq!(numbers(&*view, &KeyRange::all(), Direction::Forward), (0..2_000).collect::<Vec<_>>());
    assert_eq!(view.pairs(Table::Current).count(), 2_000);
    drop(view);
    assert_eq!(image_count(&engine), 0);
}

/// More keys than one round of a scan takes, both ways and from the middle.
#[test]
fn a_scan_goes_on_over_its_rounds() {
    let engine = Hash::new(1);
    apply(&engine, puts(0..KEY_COUNT, "1"));
    let view = engine.view();
    assert_eq!(numbers(&*view, &KeyRange::all(), Direction::Forward), (0..KEY_COUNT).collect::<Vec<_>>());
    let from = KeyRange { start: std::ops::Bound::Excluded(key(700)), ..KeyRange::all() };
    assert_eq!(numbers(&*view, &from, Direction::Reverse), (701..KEY_COUNT).rev().collect::<Vec<_>>());
}

/// Bins split under the feet of readers that walk over all of them.
#[test]
fn a_walk_meets_each_pair_once_while_bins_split() {
    let engine = Hash::new(1);
    apply(&engine, puts(0..MAX_BIN_LEN as u64, "1"));
    thread::scope(|scope| {
        let view = engine.view();
        let reader = scope.spawn(move || {
            for _ in 0..20 {
                let found: Vec<Bytes> = view.pairs(Table::Current).map(|item| item.unwrap().0).collect();
                let distinct: BTreeSet<&Bytes> = found.iter().collect();
                assert_eq!((found.len(), distinct.len()), (MAX_BIN_LEN, MAX_BIN_LEN));
            }
        });
        for first in (0..4 * KEY_COUNT).step_by(500) {
            apply(&engine, puts(first..first + 500, "2"));
        }
        reader.join().unwrap();
    });
    assert_eq!(image_count(&engine), 0);
}
