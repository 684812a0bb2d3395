//! All of a cache's pairs, in parts, so that who uses one does not wait for who uses another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::CacheOptions;
use super::part::{Lot, Part, Time, Wanted, weight};
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

/// Before pairs are moved to fewer parts, each part lets go of what there is no room for, but keeps this share of the least room:
/// for large pairs, and to choose from.
const KEPT_SHARE: u64 = 4;

/// So many pairs go under one lock when bounds are altered.
const SHRINK_LEN: usize = 256;

const MAX_PART_COUNT: u64 = 64;

/// Places that are looked at under one lock, when all are.
const LOOK_LEN: usize = 512;

/// Stands for no sample.
const NO_SAMPLE: u64 = u64::MAX;

/// Pairs by hash, in parts of equal room.
pub(super) struct Parts {
    hasher: KeyHasher,
    /// For all pairs.
    bound: Mutex<Bound>,
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
        let bound = options.bound();
        let wanted_count = (bound.max_weight / MIN_PART_BYTES).min(bound.max_len as u64 / MIN_PART_LEN);
        let count = 1 << wanted_count.clamp(1, MAX_PART_COUNT).ilog2();
        let part_bound = bound.shared_by(count);
        Self {
            hasher: KeyHasher::new(seed),
            bound: Mutex::new(bound),
            list: (0..count).map(|_| Mutex::new(Part::new(part_bound))).collect(),
            window_percent: AtomicU64::new(WINDOW_PERCENTS[0]),
            rehearsal: Mutex::new(None),
            sample: AtomicU64::new(NO_SAMPLE),
        }
    }

    /// Whether parts as many as these serve within these bounds, too: new ones would be as many, or more. So no value is too large
    /// that others take.
    pub(super) fn serve_within(&self, options: CacheOptions) -> bool {
        let count = self.list.len() as u64;
        let Bound { max_weight, max_len } = options.bound().shared_by(count);
        count == 1 || (max_weight >= MIN_PART_BYTES && max_len as u64 >= MIN_PART_LEN)
    }

    /// Whether these are the bounds.
    pub(super) fn are_within(&self, options: CacheOptions) -> bool {
        *self.lock_bound() == options.bound()
    }

    /// Keeps to other bounds from now on, as far as there is not more already: that goes by [`Parts::shrink`]. Where these
    /// parts do not serve, down to what they do. By the one who makes changes.
    pub(super) fn set_bounds(&self, options: CacheOptions) {
        let bound = options.bound();
        let mut part_bound = bound.shared_by(self.list.len() as u64);
        if !self.serve_within(options) {
            part_bound.max_weight = part_bound.max_weight.max(MIN_PART_BYTES / KEPT_SHARE);
            part_bound.max_len = part_bound.max_len.max((MIN_PART_LEN / KEPT_SHARE) as usize);
        }
        *self.lock_bound() = bound;
        self.list.iter().for_each(|part| lock(part).set_bound(part_bound));
        // It was for another room. The next full part begins a new one.
        let mut rehearsal = self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner);
        self.sample.store(NO_SAMPLE, Ordering::Relaxed);
        *rehearsal = None;
    }

    /// Takes away the pairs that there is no room for any more. Others get at each part in between.
    pub(super) fn shrink(&self) {
        for part in &self.list {
            while !lock(part).shrink(SHRINK_LEN) {}
        }
    }

    /// The same pairs in as many parts as other bounds need: those that are wanted most, if there is no room for all. What was
    /// counted goes along. Nobody gets at a pair meanwhile. By the one who makes changes.
    pub(super) fn within(&self, options: CacheOptions, seed: u64) -> Self {
        let new = Self::new(options, seed);
        let held: Vec<_> = self.list.iter().map(lock).collect();
        let mut parts: Vec<_> = new.list.iter().map(lock).collect();
        let chosen = new.choose(options.bound().shared_by(parts.len() as u64), &held);
        // What goes last comes last.
        for (place, lot) in chosen.iter().rev() {
            parts[new.place_of(lot.hash)].adopt(&held[*place], lot);
        }
        let mut stats = CacheStats::default();
        held.iter().for_each(|part| add(&mut stats, &part.stats));
        stats.evicted += (held.iter().map(|part| part.len()).sum::<usize>() - chosen.len()) as u64;
        parts[0].stats = stats;
        drop(parts);
        new
    }

    /// Of the pairs of other parts, with where each is, those that there is room for here: from every part those that are wanted
    /// most.
    fn choose(&self, part_bound: Bound, others: &[MutexGuard<'_, Part>]) -> Vec<(usize, Lot)> {
        let ranked =
            others.iter().enumerate().flat_map(|(place, part)| part.wanted_first().map(move |lot| (place, lot)).enumerate());
        let mut ranked: Vec<(usize, (usize, Lot))> = ranked.collect();
        ranked.sort_by_key(|(rank, (place, _))| (*rank, *place));
        let mut rooms = vec![part_bound; self.list.len()];
        let mut chosen: Vec<(usize, Lot)> = ranked.into_iter().map(|(_, lot)| lot).collect();
        chosen.retain(|(_, lot)| {
            let room = &mut rooms[self.place_of(lot.hash)];
            let fits = room.max_len > 0 && room.max_weight >= u64::from(lot.weight);
            if fits {
                room.max_len -= 1;
                room.max_weight -= u64::from(lot.weight);
            }
            fits
        });
        chosen
    }

    fn lock_bound(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Frees all pairs whose time is up. Others get at each part in between.
    pub(super) fn free_all_ended(&self, time: Time) {
        for part in &self.list {
            let mut at = 0;
            while lock(part).free_ended_at(at..at + LOOK_LEN, time) {
                at += LOOK_LEN;
            }
        }
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
        let mut stats = others.stats();
        stats.removed += stats.pairs;
        for (part, stats) in self.list.iter().zip([stats].into_iter().chain(std::iter::repeat(CacheStats::default()))) {
            lock(part).stats = stats;
        }
    }

    /// Begins to try out which window is best for this many pairs.
    fn begin_rehearsal(&self, pair_count: usize) {
        let rehearsal = Rehearsal::new(*self.lock_bound(), pair_count);
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
