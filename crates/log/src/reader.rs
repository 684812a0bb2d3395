//! Reading what is durable, from any thread.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, DiskFile, read_fully};
use crate::error::{LogError, io_error};
use crate::index::{Group, Index, Slot};
use crate::segment::Ordinal;
use crate::{Entry, GroupId, HardState, LogId, LogIndex, Options, Term, Usage};

/// Reads the log of a [`crate::Log`]; it sees exactly what is durable, and stays usable after the log was dropped.
///
/// Positions are answered from memory, under a lock that the writer holds only while it enters a durable batch. Payloads are
/// read from the disk outside of it, and checked against their checksums.
pub struct Reader<D: Disk> {
    disk: Arc<D>,
    options: Arc<Options>,
    index: Arc<RwLock<Index<D::File>>>,
}

/// What the log knows of a group, but for its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The last hard state that was written; all zero if none was.
    pub hard_state: HardState,
    /// The entry before the first one: purged, or covered by a snapshot; 0 if nothing was ever purged.
    pub purged: LogId,
    /// The last entry; equal to `purged` if there are none.
    pub last: LogId,
    /// The last state that was written; empty if none was.
    pub state: Bytes,
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(disk: Arc<D>, options: Arc<Options>, index: Arc<RwLock<Index<D::File>>>) -> Self {
        Self { disk, options, index }
    }

    /// All groups that something was written of, and that were not destroyed; in ascending order.
    pub fn groups(&self) -> Vec<GroupId> {
        self.index().groups().map(|(id, _)| id).collect()
    }

    /// What is known of a group; `None` if nothing was ever written of it, or it was destroyed.
    pub fn group(&self, id: GroupId) -> Option<GroupState> {
        self.index().group(id).map(|group| GroupState {
            hard_state: group.hard_state(),
            purged: group.purged(),
            last: group.last(),
            state: group.state().clone(),
        })
    }

    /// The term of an entry, or of the purge position; `None` for anything before or after.
    pub fn term(&self, id: GroupId, index: LogIndex) -> Option<Term> {
        self.index().group(id)?.term(index)
    }

    /// Bytes of what a group has that is not purged.
    pub fn group_bytes(&self, id: GroupId) -> u64 {
        self.index().group(id).map_or(0, Group::live_bytes)
    }

    /// The entries from `low` up to, but not including, `high`, as many from the front as have payloads of `max_bytes`
    /// together; the first one in any case.
    ///
    /// Fails with [`LogError::Purged`] and [`LogError::Missing`] unless all of them exist, with [`LogError::Corrupt`] if the
    /// disk does not give back what was written. Entries of one call may share their memory.
    pub fn entries(&self, id: GroupId, low: LogIndex, high: LogIndex, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        if low >= high {
            return Ok(Vec::new());
        }
        let mut wanted = Wanted::default();
        {
            let index = self.index();
            let missing = |last| LogError::Missing { group: id, last };
            let group = index.group(id).ok_or_else(|| missing(LogIndex(0)))?;
            let first = LogIndex(group.purged().index.0 + 1);
            if low < first {
                return Err(LogError::Purged { group: id, first });
            }
            let last = group.last().index;
            if high.0 > last.0 + 1 {
                return Err(missing(last));
            }
            let mut bytes = 0;
            for index_wanted in (low.0..high.0).map(LogIndex) {
                let slot = *group.slot(index_wanted).ok_or_else(|| missing(last))?;
                bytes += u64::from(slot.length);
                if bytes > max_bytes && index_wanted > low {
                    break;
                }
                wanted.add(&index, index_wanted, slot);
            }
        }
        wanted.read()
    }

    /// What the log takes and holds.
    pub fn usage(&self) -> Usage {
        let available_bytes = self.disk.available_bytes().ok();
        let index = self.index();
        let missing_bytes = self.options.segment_bytes - index.prepared_bytes.min(self.options.segment_bytes);
        let next_segment_bytes = missing_bytes + self.options.reserve_bytes;
        let segments_bytes: u64 = index.segments.iter().map(|segment| segment.size_bytes).sum();
        Usage {
            log_bytes: segments_bytes + index.spare_bytes + index.prepared_bytes,
            live_bytes: index.segments.live_bytes(),
            segment_count: index.segments.len(),
            spare_count: index.spare_count,
            cap_bytes: self.options.max_log_bytes,
            available_bytes,
            is_below_reserve: index.spare_count == 0 && available_bytes.is_some_and(|bytes| bytes < next_segment_bytes),
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index<D::File>> {
        self.index.read().expect(INDEX_LOCK)
    }
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Self { disk: Arc::clone(&self.disk), options: Arc::clone(&self.options), index: Arc::clone(&self.index) }
    }
}

/// Entries to be read, with the files that have them: a segment is not used again while one of these holds its file.
pub(crate) struct Wanted<F> {
    slots: Vec<(LogIndex, Slot)>,
    files: BTreeMap<Ordinal, (Arc<F>, String)>,
}

impl<F> Default for Wanted<F> {
    fn default() -> Self {
        Self { slots: Vec::new(), files: BTreeMap::new() }
    }
}

impl<F: DiskFile> Wanted<F> {
    pub(crate) fn add(&mut self, index: &Index<F>, at: LogIndex, slot: Slot) {
        if let btree_map::Entry::Vacant(vacant) = self.files.entry(slot.segment) {
            let segment = index.segments.get(slot.segment);
            vacant.insert((Arc::clone(&segment.file), segment.name.clone()));
        }
        self.slots.push((at, slot));
    }

    /// The index after the last one added.
    pub(crate) fn next_index(&self) -> Option<LogIndex> {
        self.slots.last().map(|(index, _)| LogIndex(index.0 + 1))
    }

    /// Reads all, in few large reads where they stand close together.
    pub(crate) fn read(&self) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::with_capacity(self.slots.len());
        for run in self.slots.chunk_by(|(_, one), (_, next)| stand_close(*one, *next)) {
            self.read_run(run, &mut entries)?;
        }
        Ok(entries)
    }

    fn read_run(&self, run: &[(LogIndex, Slot)], entries: &mut Vec<Entry>) -> Result<(), LogError> {
        let [(_, first), ..] = run else { return Ok(()) };
        let (_, last) = run[run.len() - 1];
        let start = first.offset;
        let (file, name) = &self.files[&first.segment];
        let mut buffer = BytesMut::zeroed((last.offset + last.length - start) as usize);
        let read = read_fully(&**file, &mut buffer, u64::from(start)).map_err(io_error("read", name))?;
        let buffer = buffer.freeze();
        for &(index, slot) in run {
            let from = (slot.offset - start) as usize;
            let to = from + slot.length as usize;
            if to > read || crc32c::crc32c(&buffer[from..to]) != slot.crc {
                let detail = format!("the entry at index {} is not what was written", index.0);
                return Err(LogError::Corrupt { file: name.clone(), offset: u64::from(slot.offset), detail });
            }
            entries.push(Entry { id: LogId { term: slot.term, index }, payload: buffer.slice(from..to) });
        }
        Ok(())
    }
}

/// Whether reading on from one entry to the next is cheaper than a read of its own.
fn stand_close(one: Slot, next: Slot) -> bool {
    let one_end = one.offset + one.length;
    one.segment == next.segment && next.offset >= one_end && next.offset - one_end <= MAX_GAP_BYTES
}

/// Why taking the index's lock cannot fail.
pub(crate) const INDEX_LOCK: &str = "the index has no panic while it is changed";

/// How many bytes that nobody asked for are read along.
const MAX_GAP_BYTES: u32 = 4096;
