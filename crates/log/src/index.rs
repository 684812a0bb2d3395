//! Where everything is: per group its hard state, its state, and the place of every live entry.
//!
//! The index is changed by [`Index::apply`] alone, both when a batch has become durable and when it is read at the start, so
//! that a node before and after a restart sees the same.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::batch::{Change, ENTRY_HEADER_BYTES, HARD_STATE_BYTES, POSITION_BYTES, Place, RECORD_HEADER_BYTES, Run};
use crate::segment::{IndexRange, Ordinal, Segments};
use crate::{GroupId, HardState, LogId, LogIndex, Term};

/// The index of all groups.
#[derive(Debug)]
pub(crate) struct Index<F> {
    groups: BTreeMap<GroupId, Group>,
    pub(crate) segments: Segments<F>,
    /// Segments kept for use again: how many, and their bytes.
    pub(crate) spare_count: usize,
    pub(crate) spare_bytes: u64,
    /// Bytes of the next segment that are there already.
    pub(crate) prepared_bytes: u64,
}

/// What is known of one group.
///
/// Invariants, after each write and once all is read (but not in between): the slots are those of the indexes after `purged`
/// without a gap; every item's segment is still there.
#[derive(Debug, Default)]
pub(crate) struct Group {
    hard_state: Item<HardState>,
    purged: Item<LogId>,
    state: Item<Bytes>,
    /// The index of the first slot, if there is one.
    first: LogIndex,
    slots: VecDeque<Slot>,
    live_bytes: u64,
}

/// A value and the segment that holds it.
#[derive(Debug, Default)]
struct Item<T> {
    value: T,
    segment: Ordinal,
    bytes: u64,
}

/// Where an entry is. There is one per live entry in memory, so it is small.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) term: Term,
    /// [`Ordinal::NONE`] while the entry has not been read yet.
    pub(crate) segment: Ordinal,
    /// Where the payload starts in the segment's file.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// Of the payload, checked whenever it is read.
    pub(crate) crc: u32,
}

const _: () = assert!(size_of::<Slot>() <= 32, "the memory for an entry is part of the contract");

impl Slot {
    pub(crate) fn bytes(self) -> u64 {
        ENTRY_HEADER_BYTES + u64::from(self.length)
    }
}

impl<F> Index<F> {
    pub(crate) fn new() -> Self {
        Self { groups: BTreeMap::new(), segments: Segments::new(), spare_count: 0, spare_bytes: 0, prepared_bytes: 0 }
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(&id, group)| (id, group))
    }

    /// Takes a change into account that stands in a batch at `batch_offset` of the segment that is written.
    pub(crate) fn apply(&mut self, id: GroupId, change: Change, batch_offset: u32) {
        if change == Change::Destroy {
            if let Some(mut group) = self.groups.remove(&id) {
                group.forget(&mut self.segments);
            }
            return;
        }
        let group = self.groups.entry(id).or_default();
        let mut tail = Tail { id, batch_offset, segments: &mut self.segments };
        match change {
            Change::Append(run) => group.append(run, &mut tail),
            Change::Move(run) => group.relocate(run, &mut tail),
            Change::HardState(hard_state) => group.set_hard_state(hard_state, &mut tail),
            Change::Purge(to) => group.purge(to, &mut tail),
            Change::Reset(to) => group.reset(to, &mut tail),
            Change::State(state) => group.set_state(state, &mut tail),
            Change::Destroy => {}
        }
    }

    /// Finds a group whose log has a gap: a sign of lost records. For when all is read.
    pub(crate) fn find_gap(&self) -> Option<(GroupId, LogIndex)> {
        self.groups().find_map(|(id, group)| group.first_gap().map(|index| (id, index)))
    }
}

/// The segment that is written, as seen from one group's change.
struct Tail<'a, F> {
    id: GroupId,
    batch_offset: u32,
    segments: &'a mut Segments<F>,
}

impl<F> Tail<'_, F> {
    fn credit(&mut self, range: IndexRange, bytes: u64) -> Ordinal {
        self.segments.credit(self.id, range, bytes)
    }

    fn slot(&mut self, place: Place, index: LogIndex) -> Slot {
        let Place { term, offset, length, crc } = place;
        let mut slot = Slot { term, segment: Ordinal::NONE, offset: self.batch_offset + offset, length, crc };
        slot.segment = self.credit(IndexRange { low: index, high: index }, slot.bytes());
        slot
    }
}

impl Group {
    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state.value
    }

    pub(crate) fn purged(&self) -> LogId {
        self.purged.value
    }

    pub(crate) fn state(&self) -> &Bytes {
        &self.state.value
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The last entry's id, or the purge position if there is none.
    pub(crate) fn last(&self) -> LogId {
        match self.slots.back() {
            Some(slot) => LogId { term: slot.term, index: LogIndex(self.end() - 1) },
            None => self.purged(),
        }
    }

    pub(crate) fn slot(&self, index: LogIndex) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.0.checked_sub(self.first.0)?).ok()?)
    }

    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.purged().index { Some(self.purged().term) } else { self.slot(index).map(|slot| slot.term) }
    }

    /// The hard state, the purge position and the state, as far as the segment holds them.
    pub(crate) fn items_in(&self, segment: Ordinal) -> (Option<HardState>, Option<LogId>, Option<Bytes>) {
        let hard_state = (self.hard_state.segment == segment).then(|| self.hard_state());
        let purged = (self.purged.segment == segment).then(|| self.purged());
        let state = (self.state.segment == segment).then(|| self.state().clone());
        (hard_state, purged, state)
    }

    /// The part of a range that has slots.
    pub(crate) fn clip(&self, range: IndexRange) -> IndexRange {
        if self.slots.is_empty() {
            return IndexRange::NONE;
        }
        IndexRange { low: range.low.max(self.first), high: range.high.min(LogIndex(self.end() - 1)) }
    }

    /// The index after the last slot's.
    fn end(&self) -> u64 {
        self.first.0 + self.slots.len() as u64
    }

    fn append<F>(&mut self, run: Run, tail: &mut Tail<'_, F>) {
        while self.end() > run.first.0
            && let Some(slot) = self.slots.pop_back()
        {
            self.release(slot, tail.segments);
        }
        self.relocate(run, tail);
    }

    fn relocate<F>(&mut self, run: Run, tail: &mut Tail<'_, F>) {
        for (index, place) in (run.first.0..).zip(run.places) {
            self.put(LogIndex(index), tail.slot(place, LogIndex(index)), tail.segments);
        }
    }

    /// Puts a slot at its index. While the log is read, moved entries may come before or after their neighbours: the slots
    /// between are left empty, to be filled later. There are never more of them than entries were live when it was written.
    fn put<F>(&mut self, index: LogIndex, slot: Slot, segments: &mut Segments<F>) {
        self.live_bytes += slot.bytes();
        if self.slots.is_empty() {
            self.first = index;
        }
        while index < self.first {
            self.slots.push_front(Slot::default());
            self.first.0 -= 1;
        }
        let position = (index.0 - self.first.0) as usize;
        if position >= self.slots.len() {
            self.slots.resize(position, Slot::default());
            self.slots.push_back(slot);
            return;
        }
        let replaced = std::mem::replace(&mut self.slots[position], slot);
        self.release(replaced, segments);
    }

    fn set_hard_state<F>(&mut self, hard_state: HardState, tail: &mut Tail<'_, F>) {
        self.live_bytes -= self.hard_state.replace(hard_state, HARD_STATE_BYTES, tail);
        self.live_bytes += HARD_STATE_BYTES;
    }

    fn set_state<F>(&mut self, state: Bytes, tail: &mut Tail<'_, F>) {
        let bytes = RECORD_HEADER_BYTES + state.len() as u64;
        self.live_bytes -= self.state.replace(state, bytes, tail);
        self.live_bytes += bytes;
    }

    fn set_purged<F>(&mut self, to: LogId, tail: &mut Tail<'_, F>) {
        self.live_bytes -= self.purged.replace(to, POSITION_BYTES, tail);
        self.live_bytes += POSITION_BYTES;
    }

    fn purge<F>(&mut self, to: LogId, tail: &mut Tail<'_, F>) {
        if to.index < self.purged().index {
            return;
        }
        while !self.slots.is_empty() && self.first <= to.index {
            self.drop_first(tail.segments);
        }
        self.shrink();
        self.set_purged(to, tail);
    }

    fn reset<F>(&mut self, to: LogId, tail: &mut Tail<'_, F>) {
        self.clear(tail.segments);
        self.set_purged(to, tail);
    }

    /// Counts everything the group has as dead.
    fn forget<F>(&mut self, segments: &mut Segments<F>) {
        self.clear(segments);
        segments.debit(self.hard_state.segment, self.hard_state.bytes);
        segments.debit(self.purged.segment, self.purged.bytes);
        segments.debit(self.state.segment, self.state.bytes);
    }

    fn clear<F>(&mut self, segments: &mut Segments<F>) {
        while let Some(slot) = self.slots.pop_back() {
            self.release(slot, segments);
        }
        self.shrink();
    }

    fn drop_first<F>(&mut self, segments: &mut Segments<F>) {
        if let Some(slot) = self.slots.pop_front() {
            self.first.0 += 1;
            self.release(slot, segments);
        }
    }

    fn release<F>(&mut self, slot: Slot, segments: &mut Segments<F>) {
        if slot.segment != Ordinal::NONE {
            self.live_bytes -= slot.bytes();
            segments.debit(slot.segment, slot.bytes());
        }
    }

    /// Gives memory back once most of it is unused; amortised over the entries that were dropped.
    fn shrink(&mut self) {
        if self.slots.capacity() > MIN_SHRUNK_SLOTS && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// The first index at which an entry should be, but is not.
    fn first_gap(&self) -> Option<LogIndex> {
        let expected = LogIndex(self.purged().index.0 + 1);
        if !self.slots.is_empty() && self.first != expected {
            return Some(expected);
        }
        let position = self.slots.iter().position(|slot| slot.segment == Ordinal::NONE)?;
        Some(LogIndex(self.first.0 + position as u64))
    }
}

impl<T> Item<T> {
    /// Takes a new value, which stands at the tail, and returns the bytes of the one before.
    fn replace<F>(&mut self, value: T, bytes: u64, tail: &mut Tail<'_, F>) -> u64 {
        tail.segments.debit(self.segment, self.bytes);
        self.value = value;
        self.segment = tail.credit(IndexRange::NONE, bytes);
        std::mem::replace(&mut self.bytes, bytes)
    }
}

/// Fewer slots than this are not worth giving back.
const MIN_SHRUNK_SLOTS: usize = 1024;
