//! All of a cache's pairs, in parts, so that who uses one does not wait for who uses another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

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

/// Before pairs are moved to fewer parts, each part lets go of what there is no room for, but keeps this share of the least room:
/// for large pairs, and to choose from.
const KEPT_SHARE: u64 = 4;

/// So many pairs go, or move, under one lock when bounds are altered.
const PIECE_LEN: usize = 128;

/// So much goes under one lock at most, and one pair: to give the memory of large values back takes its time.
const PIECE_BYTES: u64 = 16 << 20;

/// Between two pieces of work on a part nobody holds it for so long: who unlocks a mutex and locks it again at once gets it
/// before those who waited.
const PAUSE: Duration = Duration::from_micros(50);

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
    /// At least as many as are in use.
    list: Box<[Mutex<Part>]>,
    /// How many are in use, the first ones: a power of two. Set while all are held.
    count: AtomicUsize,
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
        let count = count_for(bound);
        let part_bound = bound.shared_by(count);
        Self {
            hasher: KeyHasher::new(seed),
            bound: Mutex::new(bound),
            list: (0..count).map(|_| Mutex::new(Part::new(part_bound))).collect(),
            count: AtomicUsize::new(count as usize),
            window_percent: AtomicU64::new(WINDOW_PERCENTS[0]),
            rehearsal: Mutex::new(None),
            sample: AtomicU64::new(NO_SAMPLE),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether parts as many as these serve within a bound, too: new ones would be as many, or more. So no value is too large
    /// that others take.
    fn serve_within(&self, bound: Bound) -> bool {
        self.count() as u64 <= count_for(bound)
    }

    /// Whether these are the bounds, and the parts serve within them.
    pub(super) fn are_within(&self, options: CacheOptions) -> bool {
        *self.lock_bound() == options.bound() && self.serve_within(options.bound())
    }

    /// Keeps to other bounds from now on, as far as there is not more already: that goes by [`Parts::shrink`]. Where these
    /// parts do not serve, down to what they do. By the one who makes changes.
    pub(super) fn set_bounds(&self, options: CacheOptions) {
        let bound = options.bound();
        let mut part_bound = bound.shared_by(self.count() as u64);
        if !self.serve_within(bound) {
            part_bound.max_weight = part_bound.max_weight.max(MIN_PART_BYTES / KEPT_SHARE);
            part_bound.max_len = part_bound.max_len.max((MIN_PART_LEN / KEPT_SHARE) as usize);
        }
        *self.lock_bound() = bound;
        self.used().iter().for_each(|part| lock(part).set_bound(part_bound));
        // It was for another room. The next full part begins a new one.
        let mut rehearsal = self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner);
        self.sample.store(NO_SAMPLE, Ordering::Relaxed);
        *rehearsal = None;
    }

    /// Takes away the pairs that there is no room for any more. Others get at each part in between.
    pub(super) fn shrink(&self) {
        self.used().iter().for_each(|part| in_pieces(part, |part| part.shrink(PIECE_LEN, PIECE_BYTES)));
    }

    /// Makes the parts fewer, if the bounds need that: each takes the place of several, whose pairs move by [`Parts::settle`]. By
    /// the one who makes changes.
    pub(super) fn merge(&self) {
        let (bound, before) = (*self.lock_bound(), self.count());
        if self.serve_within(bound) {
            return;
        }
        let count = count_for(bound) as usize;
        let part_bound = bound.shared_by(count as u64);
        let mut held: Vec<_> = self.list.iter().map(lock).collect();
        for place in 0..count {
            let others = (place + count..before).step_by(count);
            let others = others.map(|other| held[other].leave()).collect();
            held[place].renew(part_bound, others);
        }
        self.count.store(count, Ordering::Release);
    }

    /// Moves the pairs of parts that others took the place of, and those of parts that have memory for many more. Others get at
    /// each part in between.
    pub(super) fn settle(&self) {
        let part_bound = self.lock_bound().shared_by(self.count() as u64);
        for part in self.used() {
            in_pieces(part, |part| part.take_over(PIECE_LEN));
            let mut held = lock(part);
            if held.is_sparse() {
                held.renew(part_bound, Vec::new());
            }
            drop(held);
            in_pieces(part, |part| part.take_over(PIECE_LEN));
        }
    }

    /// For how many pairs there is memory.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.list.iter().map(|part| lock(part).places()).sum()
    }

    fn used(&self) -> &[Mutex<Part>] {
        &self.list[..self.count()]
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
        let full_len = held.values().find(|part| part.was_full()).map(|part| part.len() * self.count());
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
            in_pieces(part, |part| {
                let has_more = part.free_ended_at(at..at + LOOK_LEN, time);
                at += LOOK_LEN;
                !has_more
            });
        }
    }

    /// Offers the keys in a range of all pairs whose time is not up.
    pub(super) fn offer_keys(&self, range: &KeyRange, keys: &mut NearKeys, time: Time) {
        let mut spot = Spot::last_of(self);
        let mut offer = |pair: &Pair| {
            if range.contains(pair.key()) {
                keys.offer(pair.key());
            }
        };
        while self.look(&mut spot, time, &mut offer) {}
    }

    /// The pairs whose time is not up, in no order. One that moves to another part meanwhile may come twice.
    pub(super) fn into_pairs(self: Arc<Self>, time: Time) -> impl Iterator<Item = (Bytes, Bytes)> {
        let mut spot = Spot::last_of(&self);
        let looks = std::iter::from_fn(move || {
            let mut found = Vec::new();
            let mut add = |pair: &Pair| found.push((Bytes::copy_from_slice(pair.key()), pair.value()));
            self.look(&mut spot, time, &mut add).then_some(found)
        });
        looks.flatten()
    }

    /// Looks at the pairs at the next places. Whether there may be more. From the last part to the first, and again at a part
    /// that took the place of others meanwhile: pairs move to earlier parts only, so that none is missed.
    fn look(&self, spot: &mut Spot, time: Time, see: &mut dyn FnMut(&Pair)) -> bool {
        let Some(part) = spot.parts_left.checked_sub(1).map(|place| &self.list[place]) else { return false };
        let part = settled(part);
        if part.generation() != spot.generation {
            (spot.generation, spot.at) = (part.generation(), 0);
        }
        match part.pairs_at(spot.at..spot.at + LOOK_LEN, time) {
            Some(pairs) => {
                pairs.for_each(see);
                spot.at += LOOK_LEN;
            }
            None => *spot = Spot { parts_left: spot.parts_left - 1, generation: 0, at: 0 },
        }
        true
    }

    /// Sums over all parts.
    pub(super) fn stats(&self) -> CacheStats {
        let mut sum = CacheStats::default();
        for part in &self.list {
            let part = lock(part);
            part.add_stats(&mut sum);
            sum.pairs += part.len() as u64;
            sum.weight_bytes += part.weight();
        }
        sum
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.list.iter().map(|part| lock(part).data_bytes()).sum()
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
        loop {
            let place = self.place_of(hash);
            let part = lock(&self.list[place]);
            // There may be fewer by now.
            if place == self.place_of(hash) {
                return (Wanted { hash, key }, part);
            }
        }
    }

    fn place_of(&self, hash: KeyHash) -> usize {
        hash.route() as usize & (self.count() - 1)
    }
}

/// How far one is who looks at all pairs.
struct Spot {
    /// The last of them is the present one.
    parts_left: usize,
    /// Of the part, when its first place was looked at.
    generation: u64,
    at: usize,
}

impl Spot {
    fn last_of(parts: &Parts) -> Self {
        Self { parts_left: parts.list.len(), generation: 0, at: 0 }
    }
}

/// How many parts a bound needs.
fn count_for(bound: Bound) -> u64 {
    let wanted_count = (bound.max_weight / MIN_PART_BYTES).min(bound.max_len as u64 / MIN_PART_LEN);
    1 << wanted_count.clamp(1, MAX_PART_COUNT).ilog2()
}

/// Works on a part until that is done, and lets others at it in between.
fn in_pieces(part: &Mutex<Part>, mut piece: impl FnMut(&mut Part) -> bool) {
    while !piece(&mut lock(part)) {
        thread::sleep(PAUSE);
    }
}

/// A part that has all its pairs at places of its own.
fn settled(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    loop {
        let mut held = lock(part);
        if held.take_over(PIECE_LEN) {
            return held;
        }
        drop(held);
        thread::sleep(PAUSE);
    }
}

/// Who panicked left every pair whole, or the process with it.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
