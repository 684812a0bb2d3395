//! How well the cache chooses must not get worse unseen: hit ratios on small traces, held against those of an LRU and of moka.

use std::collections::{BTreeMap, HashMap};

use super::traces::{Size, TRACES, scramble};
use super::{Cache, CacheOptions};
use crate::{Batch, Change, Engine as _, Table};

const SIZE: Size = Size { capacity: 1_000, request_count: 200_000, zipf_key_count: 100_000 };

/// The farthest behind the better of the two, in points. Of the traces below that is the mixed one, where moka is 1.2 ahead; in
/// each of the others ours is within half a point of the better one, or ahead of both.
const MAX_BEHIND: f64 = 1.5;

/// What ours once had it keeps, but for so many points: where it is far ahead of others, to fall back to them would be a loss,
/// too.
const MAX_LOST: f64 = 1.0;

/// Hits in percent, as they were measured: those of ours are the same at every run, those of moka 0.12, which hashes by chance,
/// lay within half a point of these. A change of policy that is meant to change them changes them here, and in the table of
/// `cache`.
const KNOWN: [(&str, Known); 8] = [
    ("zipf 0.8", Known { ours: 30.9, moka: 28.6 }),
    ("zipf 1.0", Known { ours: 59.3, moka: 58.3 }),
    ("zipf 1.2", Known { ours: 83.5, moka: 83.3 }),
    ("loop of 1.2x", Known { ours: 82.1, moka: 80.0 }),
    ("scans", Known { ours: 38.7, moka: 37.3 }),
    ("shifting", Known { ours: 50.3, moka: 49.1 }),
    ("mixed", Known { ours: 30.9, moka: 32.1 }),
    ("recency", Known { ours: 49.7, moka: 9.6 }),
];

struct Known {
    ours: f64,
    moka: f64,
}

#[test]
fn hit_ratios_stay_within_a_point_or_so_of_the_best() {
    for trace in &TRACES {
        let (_, known) = KNOWN.iter().find(|(name, _)| *name == trace.name).expect("each trace was measured");
        let keys = (trace.keys)(SIZE);
        let (ours, lru) = (ours(&keys), lru(&keys));
        let best = lru.max(known.moka);
        println!("{:15} {ours:.1}, the better of LRU and moka {best:.1}", trace.name);
        assert!(ours >= best - MAX_BEHIND, "{}: {ours:.1} %, and LRU or moka {best:.1} %", trace.name);
        assert!(ours >= known.ours - MAX_LOST, "{}: {ours:.1} %, and it was {:.1} %", trace.name, known.ours);
    }
}

/// As a replica uses it.
fn ours(keys: &[u64]) -> f64 {
    let options = CacheOptions { max_bytes: 1 << 40, max_entries: Some(SIZE.capacity as u64), idle_ms: None };
    let (cache, mut applied) = (Cache::new(options, 7), 0);
    percent(keys, |number| {
        let key = [number.to_be_bytes(), scramble(number).to_be_bytes()].concat();
        let is_hit = cache.view().get(Table::Current, &key).unwrap().is_some();
        if !is_hit {
            applied += 1;
            let changes = vec![Change::Put { table: Table::Current, key: key.into(), value: vec![7; 64].into() }];
            cache.apply(Batch { applied, revision: applied, changes }).unwrap();
        }
        is_hit
    })
}

/// The simplest thing that is called a cache.
fn lru(keys: &[u64]) -> f64 {
    let (mut last_uses, mut by_use) = (HashMap::new(), BTreeMap::new());
    let mut at = 0_u64;
    percent(keys, |number| {
        at += 1;
        let last_use = last_uses.insert(number, at);
        by_use.insert(at, number);
        match last_use {
            Some(last_use) => drop(by_use.remove(&last_use)),
            None if by_use.len() > SIZE.capacity => drop(by_use.pop_first().map(|(_, oldest)| last_uses.remove(&oldest))),
            None => {}
        }
        last_use.is_some()
    })
}

/// Hits in percent; all of the trace counts, the beginning with an empty cache, too.
fn percent(keys: &[u64], mut request: impl FnMut(u64) -> bool) -> f64 {
    let hits = keys.iter().filter(|number| request(**number)).count();
    100.0 * hits as f64 / keys.len() as f64
}
