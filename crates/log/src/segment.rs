//! The log's files by name, and what the index knows of each.
//!
//! Segments form a queue: written at the back, dropped at the front only. So the records that are left are always the latest
//! ones, and whatever an older one said that still holds has been written again behind it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{GroupId, LogIndex};

/// A new segment's name until it has its size and its header.
pub(crate) const PREPARED_NAME: &str = "prepare.tmp";

/// What a file of the log is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A segment.
    Segment { epoch: u64 },
    /// A segment kept for use again.
    Spare,
}

/// The name of a segment.
pub(crate) fn segment_name(epoch: u64) -> String {
    format!("segment-{epoch:020}.log")
}

/// The name of a spare segment that had the epoch.
pub(crate) fn spare_name(epoch: u64) -> String {
    format!("spare-{epoch:020}.log")
}

/// `None` if the log did not write it.
pub(crate) fn file_kind(name: &str) -> Option<FileKind> {
    let (kind, number) = name.strip_suffix(".log")?.split_once('-')?;
    let is_number = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    let epoch = if is_number { number.parse().ok()? } else { return None };
    match kind {
        "segment" => Some(FileKind::Segment { epoch }),
        "spare" => Some(FileKind::Spare),
        _ => None,
    }
}

/// A segment as the index knows it.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    /// The sequence number of its first batch.
    pub(crate) epoch: u64,
    pub(crate) name: String,
    pub(crate) file: Arc<F>,
    /// The length of the file.
    pub(crate) size_bytes: u64,
    /// Where the next batch goes: the end of the last one.
    pub(crate) used_bytes: u64,
    /// Bytes of all items that were ever written here.
    item_bytes: u64,
    /// Bytes of the items here that still hold.
    live_bytes: u64,
    /// Which groups may have live items here, and with which indexes.
    pub(crate) touched: BTreeMap<GroupId, IndexRange>,
}

/// Indexes from `low` to `high`, both included; none if `low` is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexRange {
    pub(crate) low: LogIndex,
    pub(crate) high: LogIndex,
}

impl IndexRange {
    pub(crate) const NONE: Self = Self { low: LogIndex(u64::MAX), high: LogIndex(0) };

    fn widen(&mut self, other: Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }
}

impl<F> Segment<F> {
    pub(crate) fn new(epoch: u64, name: String, file: Arc<F>, size_bytes: u64, used_bytes: u64) -> Self {
        Self { epoch, name, file, size_bytes, used_bytes, item_bytes: 0, live_bytes: 0, touched: BTreeMap::new() }
    }

    /// Whether nothing here holds any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.live_bytes == 0
    }

    /// The disk space that the live items take with their share of headers and padding.
    fn live_disk_bytes(&self) -> u64 {
        let share = u128::from(self.used_bytes) * u128::from(self.live_bytes) / u128::from(self.item_bytes.max(1));
        share as u64
    }
}

/// The number of a segment while the process runs; 0 is none. Smaller than an epoch, for there is one in every index slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ordinal(pub(crate) u32);

impl Ordinal {
    pub(crate) const NONE: Self = Self(0);
}

/// All segments, oldest first, and what of them is live.
///
/// Invariants: ordinals are consecutive from front to back; the bytes of a live item are counted in exactly one segment.
#[derive(Debug)]
pub(crate) struct Segments<F> {
    queue: VecDeque<Segment<F>>,
    /// The ordinal of the front, or of the next segment if there is none.
    front: Ordinal,
}

impl<F> Segments<F> {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::new(), front: Ordinal(1) }
    }

    /// Adds the segment that is written from now on. It replaces the one before if that has the same epoch: then nothing was
    /// written there, and its file has just been replaced too.
    pub(crate) fn push(&mut self, segment: Segment<F>) {
        self.queue.pop_back_if(|last| last.epoch == segment.epoch);
        self.queue.push_back(segment);
    }

    /// Whether nothing in the oldest segment holds, and it is not the one that is written.
    pub(crate) fn has_dead(&self) -> bool {
        self.queue.len() > 1 && self.queue.front().is_some_and(Segment::is_dead)
    }

    /// Takes that segment out, if so.
    pub(crate) fn pop_dead(&mut self) -> Option<Segment<F>> {
        if !self.has_dead() {
            return None;
        }
        self.front.0 += 1;
        self.queue.pop_front()
    }

    /// The oldest segment, unless it is the one that is written.
    pub(crate) fn oldest(&self) -> Option<(Ordinal, &Segment<F>)> {
        let front = self.queue.front().filter(|_| self.queue.len() > 1)?;
        Some((self.front, front))
    }

    pub(crate) fn oldest_mut(&mut self) -> Option<&mut Segment<F>> {
        self.queue.front_mut()
    }

    /// The segment that is written.
    pub(crate) fn active(&self) -> Option<&Segment<F>> {
        self.queue.back()
    }

    pub(crate) fn active_mut(&mut self) -> Option<&mut Segment<F>> {
        self.queue.back_mut()
    }

    pub(crate) fn get(&self, ordinal: Ordinal) -> &Segment<F> {
        let position = ordinal.0.checked_sub(self.front.0).expect("an item in a dropped segment is not live");
        &self.queue[position as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment<F>> {
        self.queue.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of all items that hold.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.queue.iter().map(|segment| segment.live_bytes).sum()
    }

    /// Counts a live item of a group in the segment that is written; returns that segment's number.
    pub(crate) fn credit(&mut self, group: GroupId, range: IndexRange, bytes: u64) -> Ordinal {
        let ordinal = Ordinal(self.front.0 + self.queue.len() as u32 - 1);
        let active = self.queue.back_mut().expect("a batch is applied after its segment was added");
        active.item_bytes += bytes;
        active.live_bytes += bytes;
        active.touched.entry(group).or_insert(IndexRange::NONE).widen(range);
        ordinal
    }

    /// Counts an item as dead; of no effect for [`Ordinal::NONE`].
    pub(crate) fn debit(&mut self, ordinal: Ordinal, bytes: u64) {
        if ordinal == Ordinal::NONE {
            return;
        }
        let position = ordinal.0.checked_sub(self.front.0).expect("an item in a dropped segment is not live");
        let segment = &mut self.queue[position as usize];
        segment.live_bytes = segment.live_bytes.checked_sub(bytes).expect("an item dies once");
    }

    /// Whether the full segments hold so much that is dead that it is worth moving what is live.
    ///
    /// Dead space is let grow to the size of what is live, so that each byte moved frees one, and to a few segments more, so
    /// that entries which are soon purged anyway are not moved.
    pub(crate) fn needs_cleaning(&self, segment_bytes: u64) -> bool {
        let full = self.queue.iter().take(self.queue.len().saturating_sub(1));
        let (size, live) = full.fold((0, 0), |(size, live), segment| {
            (size + segment.size_bytes, live + segment.live_disk_bytes().min(segment.size_bytes))
        });
        size - live > live + SLACK_SEGMENTS * segment_bytes
    }
}

/// How many segments' worth of dead bytes are left alone.
const SLACK_SEGMENTS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(segment_name(7), "segment-00000000000000000007.log");
        assert_eq!(file_kind(&segment_name(7)), Some(FileKind::Segment { epoch: 7 }));
        assert_eq!(file_kind(&spare_name(u64::MAX)), Some(FileKind::Spare));
        for foreign in
            ["segment-7.log", "segment-+0000000000000000007.log", "LOCK", "other-00000000000000000007.log", PREPARED_NAME]
        {
            assert_eq!(file_kind(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn only_the_dead_front_is_dropped_and_never_the_active_segment() {
        let mut segments = Segments::new();
        let none = IndexRange::NONE;
        segments.push(Segment::new(1, segment_name(1), Arc::new(()), 4096, 512));
        let first = segments.credit(GroupId(1), none, 10);
        assert!(segments.pop_dead().is_none());
        segments.push(Segment::new(2, segment_name(2), Arc::new(()), 4096, 512));
        let second = segments.credit(GroupId(1), none, 10);
        assert!(segments.pop_dead().is_none());
        segments.debit(second, 10);
        assert!(segments.pop_dead().is_none());
        segments.debit(first, 10);
        assert_eq!(segments.pop_dead().map(|segment| segment.epoch), Some(1));
        assert!(segments.pop_dead().is_none());
        assert_eq!(segments.get(second).epoch, 2);
    }
}
