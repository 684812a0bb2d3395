//! All of a cache's pairs, in parts, so that who uses one does not wait for who uses another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::CacheOptions;
use super::part::{Part, Time, Wanted, weight};
use super::queues::Bound;
use super::rehearsal::{Rehearsal, WINDOW_PERCENTS};
use crate::key_hash::{KeyHash, KeyHasher};
use crate::pair::Pair;
use crate::unordered::NearKeys;
use crate::{CacheStats, KeyRange};

/// A part has at least this much room, so that the largest value fits well and a part has a good view of what is wanted.
const MIN_PART_BYTES: u64 = 8 << 20;

/// A part has room for at least this many pairs.
const MIN_PART_LEN: u64 = 4_096;

const MAX_PART_COUNT: u64 = 64;

/// Places that are looked at under one lock, when all are.
const LOOK_LEN: usize = 512;

/// Stands for no sample.
const NO_SAMPLE: u64 = u64::MAX;

/// Pairs by hash, in parts of equal room.
pub(super) struct Parts {
    hasher: KeyHasher,
    /// For all pairs.
    bound: Bound,
    /// A power of two of them.
    list: Box<[Mutex<Part>]>,
    /// How much of each part is for what is new.
    window_percent: AtomicU64,
    /// Where that comes from: begun when a part is full. Only requests for keys in its sample lock it.
    rehearsal: Mutex<Option<Rehearsal>>,
    /// Which keys are in the sample; none before there is a rehearsal.
    sample: AtomicU64,
}

/// Another value for a key and when it goes, or none.
pub(super) struct KeyChange {
    pub(super) key: Bytes,
    pub(super) value: Option<(Bytes, u64)>,
}

impl Parts {
    pub(super) fn new(options: CacheOptions, seed: u64) -> Self {
        let max_len = options.max_entries.map_or(u32::MAX as usize, |max_entries| max_entries as usize);
        let wanted_count = (options.max_bytes / MIN_PART_BYTES).min(max_len as u64 / MIN_PART_LEN);
        let count = 1 << wanted_count.clamp(1, MAX_PART_COUNT).ilog2();
        let part_bound = Bound { max_weight: options.max_bytes / count, max_len: max_len / count as usize };
        Self {
            hasher: KeyHasher::new(seed),
            bound: Bound { max_weight: options.max_bytes, max_len },
            list: (0..count).map(|_| Mutex::new(Part::new(part_bound))).collect(),
            window_percent: AtomicU64::new(WINDOW_PERCENTS[0]),
            rehearsal: Mutex::new(None),
            sample: AtomicU64::new(NO_SAMPLE),
        }
    }

    pub(super) fn get(&self, key: &[u8], time: Time) -> Option<Bytes> {
        let (wanted, mut part) = self.part_of(key);
        let value = part.get(wanted, time);
        drop(part);
        self.rehearse(wanted.hash, |rehearsal| {
            let weight = value.as_ref().and_then(|value| weight(key, value));
            if let Some(percent) = rehearsal.request(wanted.hash, weight) {
                self.window_percent.store(percent, Ordering::Relaxed);
            }
        });
        value
    }

    pub(super) fn peek(&self, key: &[u8], time: Time) -> Option<Bytes> {
        let (wanted, part) = self.part_of(key);
        part.peek(wanted, time)
    }

    /// Makes changes in their order, and calls `publish` when all are made. Until it returns, nobody else gets at a part that
    /// they touch: who sees one of them sees all, and what was published. One caller at a time.
    pub(super) fn change(&self, changes: Vec<KeyChange>, time: Time, publish: impl FnOnce()) {
        let hashes: Vec<KeyHash> = changes.iter().map(|change| self.hasher.hash(&change.key)).collect();
        let places: BTreeSet<usize> = hashes.iter().map(|hash| self.place_of(*hash)).collect();
        let mut held: BTreeMap<usize, _> = places.into_iter().map(|place| (place, lock(&self.list[place]))).collect();
        let window_percent = self.window_percent.load(Ordering::Relaxed);
        let mut weights = Vec::with_capacity(changes.len());
        for (KeyChange { key, value }, hash) in changes.into_iter().zip(&hashes) {
            let wanted = Wanted { hash: *hash, key: &key };
            let part = held.get_mut(&self.place_of(*hash)).expect("the part of each key is held");
            weights.push(value.as_ref().map(|(value, _)| weight(&key, value)));
            match value {
                Some((value, until_ms)) => part.put(wanted, value, until_ms, time, window_percent),
                None => part.remove(wanted, time),
            }
        }
        publish();
        // Parts fill alike.
        let full_len = held.values().find(|part| part.was_full()).map(|part| part.len() * self.list.len());
        drop(held);
        if full_len.is_some() && self.sample.load(Ordering::Relaxed) == NO_SAMPLE {
            self.begin_rehearsal(full_len.unwrap_or_default());
        }
        for (hash, weight) in hashes.into_iter().zip(weights) {
            let is_outgrown = self.rehearse(hash, |rehearsal| {
                match weight {
                    Some(weight) => weight.into_iter().for_each(|weight| rehearsal.write(hash, weight)),
                    None => rehearsal.remove(hash),
                }
                full_len.is_some_and(|full_len| rehearsal.is_outgrown(full_len))
            });
            if is_outgrown == Some(true) {
                self.begin_rehearsal(full_len.unwrap_or_default());
            }
        }
    }

    /// Calls `publish` while nobody gets at a pair.
    pub(super) fn hold_while<R>(&self, publish: impl FnOnce() -> R) -> R {
        let held: Vec<_> = self.list.iter().map(lock).collect();
        let result = publish();
        drop(held);
        result
    }

    /// Frees pairs whose time is up, at most so many of each part.
    pub(super) fn free_ended(&self, time: Time, max_count: usize) {
        self.list.iter().for_each(|part| lock(part).free_ended(time, max_count));
    }

    /// Offers the keys in a range of all pairs whose time is not up.
    pub(super) fn offer_keys(&self, range: &KeyRange, keys: &mut NearKeys, time: Time) {
        for part in &self.list {
            let mut at = 0;
            while let Some(pairs) = lock(part).pairs_at(at..at + LOOK_LEN, time) {
                pairs.map(Pair::key).filter(|key| range.contains(key)).for_each(|key| keys.offer(key));
                at += LOOK_LEN;
            }
        }
    }

    /// The pairs whose time is not up, in no order.
    pub(super) fn into_pairs(self: Arc<Self>, time: Time) -> impl Iterator<Item = (Bytes, Bytes)> {
        let (mut part, mut at) = (0, 0);
        let looks = std::iter::from_fn(move || {
            loop {
                let found = lock(self.list.get(part)?)
                    .pairs_at(at..at + LOOK_LEN, time)
                    .map(|pairs| pairs.map(|pair| (Bytes::copy_from_slice(pair.key()), pair.value())).collect::<Vec<_>>());
                match found {
                    Some(_) => at += LOOK_LEN,
                    None => (part, at) = (part + 1, 0),
                }
                if found.is_some() {
                    return found;
                }
            }
        });
        looks.flatten()
    }

    /// Sums over all parts.
    pub(super) fn stats(&self) -> CacheStats {
        let mut sum = CacheStats::default();
        for part in &self.list {
            let part = lock(part);
            add(&mut sum, &part.stats);
            sum.pairs += part.len() as u64;
            sum.weight_bytes += part.weight();
        }
        sum
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.list.iter().map(|part| lock(part).data_bytes).sum()
    }

    /// Takes over what others counted, in place of what was counted here. Their pairs are thereby removed.
    pub(super) fn count_on_from(&self, others: &Self) {
        for (part, other) in self.list.iter().zip(&others.list) {
            let other = lock(other);
            lock(part).stats = CacheStats { removed: other.stats.removed + other.len() as u64, ..other.stats };
        }
    }

    /// Begins to try out which window is best for this many pairs.
    fn begin_rehearsal(&self, pair_count: usize) {
        let rehearsal = Rehearsal::new(self.bound, pair_count);
        self.window_percent.store(WINDOW_PERCENTS[0], Ordering::Relaxed);
        let mut present = self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner);
        self.sample.store(rehearsal.sample(), Ordering::Relaxed);
        *present = Some(rehearsal);
    }

    /// Lets the rehearsal know, if there is one and the key is in its sample.
    fn rehearse<R>(&self, hash: KeyHash, tell: impl FnOnce(&mut Rehearsal) -> R) -> Option<R> {
        let sample = self.sample.load(Ordering::Relaxed);
        if sample == NO_SAMPLE || !Rehearsal::is_sampled(sample, hash) {
            return None;
        }
        self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(tell)
    }

    fn part_of<'k>(&self, key: &'k [u8]) -> (Wanted<'k>, MutexGuard<'_, Part>) {
        let hash = self.hasher.hash(key);
        (Wanted { hash, key }, lock(&self.list[self.place_of(hash)]))
    }

    fn place_of(&self, hash: KeyHash) -> usize {
        hash.route() as usize & (self.list.len() - 1)
    }
}

/// Who panicked left every pair whole, or the process with it.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(sum: &mut CacheStats, stats: &CacheStats) {
    sum.hits += stats.hits;
    sum.misses += stats.misses;
    sum.evicted += stats.evicted;
    sum.rejected += stats.rejected;
    sum.expired += stats.expired;
    sum.idled += stats.idled;
    sum.replaced += stats.replaced;
    sum.removed += stats.removed;
}
