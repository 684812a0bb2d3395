//! A part of a cache: pairs, the order in which they go, and when their time is up.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashTable;

use super::queues::{Bound, Id, Loss, Queue, Queues};
use super::rehearsal::WINDOW_PERCENTS;
use crate::CacheStats;
use crate::key_hash::KeyHash;
use crate::pair::Pair;

/// What a pair takes beside key and value, about: nodes and indexes, the allocator's share, the sketch. Measured by
/// `cache_bench`. It counts towards the bound, so that the bound is what the memory is.
pub(super) const PAIR_OVERHEAD_BYTES: u64 = 128;

/// Of pairs whose time is up, this many at most are freed before a new one is put.
const MAX_FREED_BY_PUT: usize = 8;

/// What never goes by itself goes then.
pub(super) const NEVER: u64 = u64::MAX;

/// A key that is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) hash: KeyHash,
    pub(super) key: &'a [u8],
}

/// What time it is, and for how long a pair may go unused.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) now_ms: u64,
    idle_ms: Option<u64>,
    /// In milliseconds: pairs last used before this have gone unused for too long. It never goes back, whatever other idle time
    /// holds: what was gone once must not be there again.
    idle_before: u64,
}

impl Time {
    pub(super) fn new(idle_ms: Option<u64>) -> Self {
        Self { now_ms: 0, idle_ms, idle_before: 0 }
    }

    /// At a later time; an earlier one changes nothing.
    pub(super) fn at(self, now_ms: u64) -> Self {
        Self { now_ms: self.now_ms.max(now_ms), ..self }.count_idle()
    }

    /// With another idle time from now on.
    pub(super) fn with_idle(self, idle_ms: Option<u64>) -> Self {
        Self { idle_ms, ..self }.count_idle()
    }

    fn count_idle(self) -> Self {
        let by_now = self.idle_ms.map_or(0, |idle_ms| self.now_ms.saturating_add(1).saturating_sub(idle_ms));
        Self { idle_before: self.idle_before.max(by_now), ..self }
    }
}

/// Pairs, at most as many as the bound allows at any time.
pub(super) struct Part {
    queues: Queues,
    index: HashTable<Id>,
    /// By id; none where there is no pair.
    pairs: Vec<Option<Kept>>,
    /// The pairs whose time ends, by when.
    deadlines: BTreeSet<(u64, Id)>,
    /// Whether there was ever a pair for which there was no room.
    was_full: bool,
    pub(super) stats: CacheStats,
    pub(super) data_bytes: u64,
}

#[derive(Clone)]
pub(super) struct Kept {
    pair: Pair,
    until_ms: u64,
    used_ms: u64,
}

/// A pair on its way from one part to another.
#[derive(Clone, Copy)]
pub(super) struct Lot {
    id: Id,
    queue: Queue,
    pub(super) hash: KeyHash,
    pub(super) weight: u32,
}

impl Kept {
    fn has_expired(&self, time: Time) -> bool {
        self.until_ms <= time.now_ms
    }

    fn is_idle(&self, time: Time) -> bool {
        self.used_ms < time.idle_before
    }

    fn is_over(&self, time: Time) -> bool {
        self.has_expired(time) || self.is_idle(time)
    }
}

impl Part {
    pub(super) fn new(bound: Bound) -> Self {
        Self {
            queues: Queues::new(bound, WINDOW_PERCENTS[0]),
            index: HashTable::new(),
            pairs: Vec::new(),
            deadlines: BTreeSet::new(),
            was_full: false,
            stats: CacheStats::default(),
            data_bytes: 0,
        }
    }

    /// Sets how much there may be. What is too much goes by `shrink`; until then there is no more than now.
    pub(super) fn set_bound(&mut self, bound: Bound) {
        self.queues.set_bound(bound);
        self.was_full = false;
    }

    /// Takes away pairs that there is no room for any more, `max_count` at most. Whether that was all.
    pub(super) fn shrink(&mut self, max_count: usize) -> bool {
        let mut lost = Vec::new();
        let fits = self.queues.shrink(max_count, |id, loss| lost.push((id, loss)));
        self.lose(lost);
        fits
    }

    /// All pairs, those that are wanted most first.
    pub(super) fn wanted_first(&self) -> impl Iterator<Item = Lot> {
        self.queues.wanted_first().map(|(id, queue)| Lot {
            id,
            queue,
            hash: self.queues.hash(id),
            weight: self.queues.weight_of(id),
        })
    }

    /// Takes over a pair of another part, whose key is not here and for which there is room. It goes after those of its queue
    /// that were taken over before.
    pub(super) fn adopt(&mut self, other: &Self, lot: &Lot) {
        let kept = other.kept(lot.id).clone();
        let id = self.queues.adopt(lot.hash, lot.weight, lot.queue, other.queues.uses(lot.id));
        if kept.until_ms != NEVER {
            self.deadlines.insert((kept.until_ms, id));
        }
        self.data_bytes += kept.pair.data_bytes() as u64;
        self.place(lot.hash, id, kept);
    }

    /// The value of a key, which is thereby used.
    pub(super) fn get(&mut self, wanted: Wanted<'_>, time: Time) -> Option<Bytes> {
        let mut found = self.find(wanted);
        if let Some(id) = found.filter(|id| self.kept(*id).is_over(time)) {
            self.end(id, time);
            found = None;
        }
        let Some(id) = found else {
            self.stats.misses += 1;
            return None;
        };
        self.stats.hits += 1;
        self.queues.touch(id);
        let kept = self.pairs[id as usize].as_mut()?;
        kept.used_ms = time.now_ms;
        Some(kept.pair.value())
    }

    /// The value of a key, which is not thereby used.
    pub(super) fn peek(&self, wanted: Wanted<'_>, time: Time) -> Option<Bytes> {
        let kept = self.kept(self.find(wanted)?);
        (!kept.is_over(time)).then(|| kept.pair.value())
    }

    /// Sets a value, unless it is larger than all the room or its time is up. What was there before goes in any case.
    pub(super) fn put(&mut self, wanted: Wanted<'_>, value: Bytes, until_ms: u64, time: Time, window_percent: u64) {
        let mut found = self.find(wanted);
        if let Some(id) = found.filter(|id| self.kept(*id).is_over(time)) {
            self.end(id, time);
            found = None;
        }
        let weight = weight(wanted.key, &value).filter(|weight| self.queues.accepts(*weight));
        let has_time = until_ms > time.now_ms;
        let Some(weight) = weight.filter(|_| has_time) else {
            self.stats.expired += u64::from(!has_time);
            self.stats.rejected += u64::from(has_time);
            if let Some(id) = found {
                self.stats.replaced += 1;
                self.forget(id);
            }
            return;
        };
        if !self.queues.has_room(u64::from(weight)) {
            self.free_ended(time, MAX_FREED_BY_PUT);
            self.was_full = true;
        }
        self.queues.set_window_percent(window_percent);
        let kept = Kept { pair: Pair::new(wanted.key, value), until_ms, used_ms: time.now_ms };
        self.data_bytes += kept.pair.data_bytes() as u64;
        let id = match found {
            Some(id) => self.replace(id, kept, weight),
            None => self.add(wanted.hash, kept, weight),
        };
        if until_ms != NEVER && self.pairs[id as usize].is_some() {
            self.deadlines.insert((until_ms, id));
        }
    }

    /// Removes a key because its owner says so.
    pub(super) fn remove(&mut self, wanted: Wanted<'_>, time: Time) {
        if let Some(id) = self.find(wanted) {
            if self.kept(id).is_over(time) {
                self.end(id, time);
            } else {
                self.stats.removed += 1;
                self.forget(id);
            }
        }
    }

    /// Frees pairs whose time is up, `max_count` at most.
    pub(super) fn free_ended(&mut self, time: Time, max_count: usize) {
        let mut count = 0;
        while count < max_count
            && let Some((until_ms, id)) = self.deadlines.first().copied()
            && until_ms <= time.now_ms
        {
            self.end(id, time);
            count += 1;
        }
        while count < max_count
            && let Some(id) = self.queues.oldest().into_iter().flatten().find(|id| self.kept(*id).is_idle(time))
        {
            self.end(id, time);
            count += 1;
        }
    }

    /// Frees the pairs at places within this range whose time is up. Whether there are further places.
    pub(super) fn free_ended_at(&mut self, places: Range<usize>, time: Time) -> bool {
        let is_over = |id: &Id| self.pairs.get(*id as usize).and_then(Option::as_ref).is_some_and(|kept| kept.is_over(time));
        let ended: Vec<Id> = (places.start as Id..places.end as Id).filter(is_over).collect();
        ended.into_iter().for_each(|id| self.end(id, time));
        places.end < self.pairs.len()
    }

    /// Pairs whose time is not up, at places within this range. None if there are no further places.
    pub(super) fn pairs_at(&self, places: Range<usize>, time: Time) -> Option<impl Iterator<Item = &Pair>> {
        let kept = self.pairs.get(places.start..places.end.min(self.pairs.len()))?;
        let there = kept.iter().flatten().filter(move |kept| !kept.is_over(time)).map(|kept| &kept.pair);
        (!kept.is_empty()).then_some(there)
    }

    pub(super) fn was_full(&self) -> bool {
        self.was_full
    }

    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.queues.weight()
    }

    fn find(&self, Wanted { hash, key }: Wanted<'_>) -> Option<Id> {
        let is_it = |id: &Id| self.queues.hash(*id) == hash && self.kept(*id).pair.key() == key;
        self.index.find(hash.0, is_it).copied()
    }

    fn kept(&self, id: Id) -> &Kept {
        self.pairs[id as usize].as_ref().expect("an id in use has a pair")
    }

    fn add(&mut self, hash: KeyHash, kept: Kept, weight: u32) -> Id {
        let mut lost = Vec::new();
        let id = self.queues.insert(hash, weight, |id, loss| lost.push((id, loss)));
        self.place(hash, id, kept);
        self.lose(lost);
        id
    }

    /// Puts a pair where its id says.
    fn place(&mut self, hash: KeyHash, id: Id, kept: Kept) {
        if self.pairs.len() <= id as usize {
            self.pairs.resize_with(id as usize + 1, || None);
        }
        self.pairs[id as usize] = Some(kept);
        let Self { index, queues, .. } = self;
        index.insert_unique(hash.0, id, |id| queues.hash(*id).0);
    }

    fn replace(&mut self, id: Id, kept: Kept, weight: u32) -> Id {
        let before = self.pairs[id as usize].replace(kept).expect("an id in use has a pair");
        self.stats.replaced += 1;
        self.data_bytes -= before.pair.data_bytes() as u64;
        self.forget_deadline(before.until_ms, id);
        let mut lost = Vec::new();
        self.queues.touch(id);
        self.queues.reweigh(id, weight, |id, loss| lost.push((id, loss)));
        self.lose(lost);
        id
    }

    /// Drops pairs that the queues gave up.
    fn lose(&mut self, lost: Vec<(Id, Loss)>) {
        for (id, loss) in lost {
            match loss {
                Loss::Evicted => self.stats.evicted += 1,
                Loss::Rejected => self.stats.rejected += 1,
            }
            self.drop_pair(id);
        }
    }

    /// Drops a pair whose time is up.
    fn end(&mut self, id: Id, time: Time) {
        let has_expired = self.kept(id).has_expired(time);
        self.stats.expired += u64::from(has_expired);
        self.stats.idled += u64::from(!has_expired);
        self.forget(id);
    }

    fn forget(&mut self, id: Id) {
        self.queues.remove(id);
        self.drop_pair(id);
    }

    /// Drops a pair that is in the queues no more.
    fn drop_pair(&mut self, id: Id) {
        let kept = self.pairs[id as usize].take().expect("an id in use has a pair");
        self.data_bytes -= kept.pair.data_bytes() as u64;
        self.forget_deadline(kept.until_ms, id);
        if let Ok(entry) = self.index.find_entry(self.queues.hash(id).0, |other| *other == id) {
            entry.remove();
        }
    }

    fn forget_deadline(&mut self, until_ms: u64, id: Id) {
        if until_ms != NEVER {
            self.deadlines.remove(&(until_ms, id));
        }
    }
}

/// What a pair counts towards the bound; none if it is larger than any.
pub(super) fn weight(key: &[u8], value: &[u8]) -> Option<u32> {
    u32::try_from(key.len() as u64 + value.len() as u64 + PAIR_OVERHEAD_BYTES).ok()
}
