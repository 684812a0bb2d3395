//! A part of a cache: pairs, the order in which they go, and when their time is up.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashTable;

use super::queues::{Bound, Id, Loss, Queues};
use super::rehearsal::WINDOW_PERCENTS;
use crate::CacheStats;
use crate::key_hash::KeyHash;
use crate::pair::Pair;

/// What a pair takes beside key and value, about: nodes and indexes, the allocator's share, the sketch. Measured by
/// `cache_bench`. It counts towards the bound, so that the bound is what the memory is.
pub(super) const PAIR_OVERHEAD_BYTES: u64 = 128;

/// Of pairs whose time is up, this many at most are freed before a new one is put.
const MAX_FREED_BY_PUT: usize = 8;

/// While a part takes the place of others, this many of their pairs at most make room for one more.
const MAX_EVICTED_BY_PUT: usize = 64;

/// Memory for fewer pairs than this is not given back.
const MIN_SPARSE_PLACES: usize = 1_024;

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
    data_bytes: u64,
    /// Those in whose place this one is. Their pairs come over bit by bit, those that are wanted most first, or when somebody
    /// asks for them; none has others before it.
    former: VecDeque<Box<Self>>,
    /// How many times this part took the place of others. Pairs are at other places then.
    generation: u64,
}

struct Kept {
    pair: Pair,
    until_ms: u64,
    used_ms: u64,
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
            former: VecDeque::new(),
            generation: 0,
        }
    }

    /// Sets how much there may be. What is too much goes by `shrink`; until then there is no more than now.
    pub(super) fn set_bound(&mut self, bound: Bound) {
        self.queues.set_bound(bound);
        self.was_full = false;
    }

    /// Takes away pairs that there is no room for any more, `max_count` at most and not much more than `max_bytes`. Whether that
    /// was all.
    pub(super) fn shrink(&mut self, max_count: usize, max_bytes: u64) -> bool {
        let mut lost = Vec::new();
        let fits = self.queues.shrink(max_count, max_bytes, |id, loss| lost.push((id, loss)));
        self.lose(lost);
        fits
    }

    /// Takes the place of this part and of others, which it gets: costs the same however many pairs they have. They come over by
    /// [`Part::take_over`].
    pub(super) fn renew(&mut self, bound: Bound, others: Vec<Self>) {
        let generation = self.generation + 1;
        let before = std::mem::replace(self, Self { generation, ..Self::new(bound) });
        for mut part in [before].into_iter().chain(others) {
            self.former.append(&mut part.former);
            self.former.push_back(Box::new(part));
        }
        self.queues.expect(self.len().min(bound.max_len));
    }

    /// Takes memory for all that is to come at once: to grow bit by bit, all that is there already would move again and again.
    fn reserve(&mut self, count: usize) {
        self.queues.reserve(count);
        self.pairs.reserve(count.saturating_sub(self.pairs.len()));
        let Self { index, queues, .. } = self;
        index.reserve(count.saturating_sub(index.len()), |id| queues.hash(*id).0);
    }

    /// What this part is, for another to take its place. This one is empty then.
    pub(super) fn leave(&mut self) -> Self {
        let empty = Self { generation: self.generation + 1, ..Self::new(self.queues.present_bound()) };
        std::mem::replace(self, empty)
    }

    /// Takes over pairs of those in whose place this part is, `max_count` at most: as many of each, those that are wanted most
    /// first. Those that there is no room for go. Whether that was all.
    pub(super) fn take_over(&mut self, max_count: usize) -> bool {
        let count = self.len().min(self.queues.present_bound().max_len);
        if !self.former.is_empty() && self.pairs.capacity() < count {
            self.reserve(count);
            return false;
        }
        for _ in 0..max_count {
            let Some(mut former) = self.former.pop_front() else { break };
            match former.queues.most_wanted() {
                Some((id, _)) => {
                    self.adopt(&mut former, id);
                    self.former.push_back(former);
                }
                // To give its memory back is enough for now.
                None => {
                    add(&mut self.stats, &former.stats);
                    break;
                }
            }
        }
        if self.former.is_empty() {
            self.queues.expect(0);
        }
        self.former.is_empty()
    }

    /// Takes over a pair. It goes before those of its queue that were taken over before.
    fn adopt(&mut self, former: &mut Self, id: Id) {
        let (hash, weight) = (former.queues.hash(id), former.queues.weight_of(id));
        let (queue, uses) = (former.queues.queue_of(id), former.queues.uses(id));
        former.queues.remove(id);
        let kept = former.take_pair(id);
        if !self.queues.has_room(u64::from(weight)) {
            self.stats.evicted += 1;
            return;
        }
        let id = self.queues.adopt(hash, weight, queue, uses);
        if kept.until_ms != NEVER {
            self.deadlines.insert((kept.until_ms, id));
        }
        self.data_bytes += kept.pair.data_bytes() as u64;
        self.place(hash, id, kept);
    }

    /// Takes over a pair that somebody asks for, if it did not come yet.
    fn bring(&mut self, wanted: Wanted<'_>) {
        let place = self.former.iter().enumerate().find_map(|(place, former)| Some((place, former.find(wanted)?)));
        let Some((place, id)) = place else { return };
        if let Some(mut former) = self.former.remove(place) {
            self.make_room(u64::from(former.queues.weight_of(id)));
            self.adopt(&mut former, id);
            self.former.push_front(former);
        }
    }

    /// Lets pairs go that did not come over yet, as far as there is no room for them beside one more.
    fn make_room(&mut self, weight: u64) {
        let Bound { max_weight, max_len } = self.queues.present_bound();
        for _ in 0..MAX_EVICTED_BY_PUT {
            if self.len() < max_len && self.weight() + weight <= max_weight {
                break;
            }
            let Some(former) = self.former.iter_mut().max_by_key(|former| former.queues.len()) else { break };
            let Some(id) = former.queues.evict() else { break };
            former.lose(vec![(id, Loss::Evicted)]);
        }
    }

    /// Whether most of its memory is for pairs that are gone.
    pub(super) fn is_sparse(&self) -> bool {
        let places = self.places();
        places > MIN_SPARSE_PLACES && self.len() < places / 4
    }

    /// For how many pairs there is memory.
    pub(super) fn places(&self) -> usize {
        self.pairs.capacity().max(self.index.capacity()).max(self.queues.places())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The value of a key, which is thereby used.
    pub(super) fn get(&mut self, wanted: Wanted<'_>, time: Time) -> Option<Bytes> {
        self.bring(wanted);
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
        let Some(id) = self.find(wanted) else {
            return self.former.iter().find_map(|former| former.peek(wanted, time));
        };
        let kept = self.kept(id);
        (!kept.is_over(time)).then(|| kept.pair.value())
    }

    /// Sets a value, unless it is larger than all the room or its time is up. What was there before goes in any case.
    pub(super) fn put(&mut self, wanted: Wanted<'_>, value: Bytes, until_ms: u64, time: Time, window_percent: u64) {
        self.bring(wanted);
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
        self.make_room(u64::from(weight));
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
        self.bring(wanted);
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
        self.former.iter_mut().for_each(|former| former.free_ended(time, max_count));
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
        self.queues.len() + self.former.iter().map(|former| former.len()).sum::<usize>()
    }

    pub(super) fn weight(&self) -> u64 {
        self.queues.weight() + self.former.iter().map(|former| former.weight()).sum::<u64>()
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes + self.former.iter().map(|former| former.data_bytes()).sum::<u64>()
    }

    pub(super) fn add_stats(&self, sum: &mut CacheStats) {
        add(sum, &self.stats);
        self.former.iter().for_each(|former| former.add_stats(sum));
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
            self.take_pair(id);
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
        self.take_pair(id);
    }

    /// Takes out a pair that is in the queues no more.
    fn take_pair(&mut self, id: Id) -> Kept {
        let kept = self.pairs[id as usize].take().expect("an id in use has a pair");
        self.data_bytes -= kept.pair.data_bytes() as u64;
        self.forget_deadline(kept.until_ms, id);
        if let Ok(entry) = self.index.find_entry(self.queues.hash(id).0, |other| *other == id) {
            entry.remove();
        }
        kept
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
