//! Writing: the one place where batches are made durable, and where segments come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::batch::{BatchBuffer, MAX_BATCH_BYTES, encoded_bytes};
use crate::cleaning::{Budget, Moves};
use crate::disk::{Disk, DiskFile, is_full, remove_if_present};
use crate::error::{LogError, io_error};
use crate::format::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, to_sectors};
use crate::index::{Group, Index};
use crate::reader::{INDEX_LOCK, Reader};
use crate::recovery::{Recovered, recover};
use crate::segment::{PREPARED_NAME, Segment, segment_name, spare_name};
use crate::{Entry, GroupId, LogIndex, Options, Record, Usage};

/// Changes of any groups, in the order in which they happen.
pub type Batch = Vec<(GroupId, Record)>;

/// The writer of a log; there is one per directory.
///
/// *Life cycle.* Opened by the node's shell and moved into its log thread, which calls [`Log::write`] with everything that
/// waits. Everyone else has a [`Reader`]. Dropping it does nothing to the disk.
///
/// *Durability.* When `write` returns `Ok`, all it was given is durable, and readers see it. Until then they see nothing of it.
/// After a crash in between it is there wholly or not at all.
///
/// *Invariants.* A batch is written only after the one before is durable. Segments hold batches of consecutive sequence
/// numbers, and so do they among each other. After a failed write nothing is written any more, and no sync is tried twice.
pub struct Log<D: Disk> {
    disk: Arc<D>,
    options: Arc<Options>,
    index: Arc<RwLock<Index<D::File>>>,
    buffer: BatchBuffer,
    spares: Vec<Spare<D::File>>,
    /// The segment after the one in use, as far as it is made.
    prepared: Option<Prepared<D::File>>,
    /// The number of the next batch.
    next_sequence: u64,
    is_poisoned: bool,
}

/// A file that is to become a segment, under [`PREPARED_NAME`].
struct Prepared<F> {
    file: Arc<F>,
    /// How long it is so far, durably.
    made_bytes: u64,
}

/// A segment without content, of the usual size.
pub(crate) struct Spare<F> {
    pub(crate) name: String,
    pub(crate) file: Arc<F>,
}

impl<D: Disk> Log<D> {
    /// Opens the log in a directory, reading and checking all of it; an empty directory is an empty log.
    ///
    /// A batch that a crash cut short is taken off the end, durably. Fails with [`LogError::Corrupt`] on damage anywhere else,
    /// and with [`LogError::NewerVersion`] on files of a later program; neither changes anything on disk. No other log may be
    /// open in the directory ([`crate::RealDisk`] sees to that). Takes as long as reading the files. The index takes 24
    /// bytes per live entry, and up to twice that as it grows; reading needs memory for the largest batch.
    pub fn open(disk: Arc<D>, options: Options) -> Result<Self, LogError> {
        options.validate()?;
        let Recovered { mut index, spares, next_sequence } = recover(&*disk, &options)?;
        index.spare_count = spares.len();
        index.spare_bytes = spares.len() as u64 * options.segment_bytes;
        Ok(Self {
            disk,
            options: Arc::new(options),
            index: Arc::new(RwLock::new(index)),
            buffer: BatchBuffer::default(),
            spares,
            prepared: None,
            next_sequence,
            is_poisoned: false,
        })
    }

    /// Makes everything passed durable: one batch, one write, one sync. Blocks for them.
    ///
    /// Fails with [`LogError::Full`], [`LogError::TooLarge`] or [`LogError::Invalid`] before anything is written; the log can
    /// be used as before. Any other error poisons it, and says nothing about whether the batch is durable: see [`LogError`].
    /// May do a bounded amount of cleaning along the way, make a part of the next segment, and drop a segment.
    pub fn write(&mut self, batches: &[Batch]) -> Result<(), LogError> {
        if self.is_poisoned {
            return Err(LogError::Poisoned);
        }
        let result = self.write_records(batches);
        self.is_poisoned = result.as_ref().is_err_and(|error| !error.is_harmless());
        result
    }

    /// A reader of this log; cheap, and cheap to clone.
    pub fn reader(&self) -> Reader<D> {
        Reader::new(Arc::clone(&self.disk), Arc::clone(&self.options), Arc::clone(&self.index))
    }

    /// What the log takes and holds.
    pub fn usage(&self) -> Usage {
        self.reader().usage()
    }

    /// The number of the last batch, which is durable; 0 before the first. It never falls, also over restarts: a log that ends
    /// before a number that it has had lost something durable.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Whether segments in which nothing holds any more are there to be dropped. `write` drops one each time, and all on a disk
    /// that is nearly full.
    pub fn has_leftovers(&self) -> bool {
        !self.is_poisoned && self.index().segments.has_dead()
    }

    /// Drops one such segment: for a writer that has nothing else to do. Blocks for as long as the file system takes to give
    /// a file's room back; fails as `write` does.
    pub fn drop_leftover(&mut self) -> Result<(), LogError> {
        if self.is_poisoned {
            return Err(LogError::Poisoned);
        }
        let result = self.drop_dead_segments(1);
        self.is_poisoned = result.is_err();
        result
    }

    fn write_records(&mut self, batches: &[Batch]) -> Result<(), LogError> {
        let demand = Demand::of(&self.index(), batches)?;
        if demand.records.is_empty() {
            return Ok(());
        }
        let room = self.index().segments.active().map_or(0, |active| active.size_bytes - active.used_bytes);
        let is_rolling = to_sectors(demand.bytes) > room;
        let moves = self.plan_moves(&demand, if is_rolling { None } else { Some(room) });
        self.buffer.clear();
        moves.encode(&mut self.buffer)?;
        for (group, record) in demand.records {
            self.buffer.push(*group, record);
        }
        if is_rolling {
            self.add_segment(self.buffer.extent_bytes(), demand.has_growth)?;
        }
        self.write_buffer()?;
        moves.note_progress(&mut self.index_mut().segments);
        self.prepare_ahead()?;
        self.drop_leftovers()
    }

    /// `room` is what is left of the segment in use, if the batch goes there.
    fn plan_moves(&self, demand: &Demand<'_>, room: Option<u64>) -> Moves<D::File> {
        let index = self.index();
        if !index.segments.needs_cleaning(self.options.segment_bytes) {
            return Moves::none();
        }
        let max_bytes = match room {
            Some(room) => room.saturating_sub(demand.bytes),
            // Something that fits in no segment of the usual size gets one of its own, as long as the disk is not full.
            None if self.available_bytes() > self.options.reserve_bytes + MAX_BATCH_BYTES => MAX_BATCH_BYTES,
            None => self.options.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES + demand.bytes),
        };
        let bytes = (demand.bytes * MOVED_PER_WRITTEN).max(MIN_MOVED_BYTES).min(max_bytes);
        Moves::plan(&index, Budget { bytes, max_bytes })
    }

    /// Writes the batch in the buffer into the segment in use, syncs, and lets the readers see it.
    fn write_buffer(&mut self) -> Result<(), LogError> {
        let (file, name, epoch, offset) = {
            let index = self.index();
            let active = index.segments.active().expect("a batch is written after its segment was added");
            (Arc::clone(&active.file), active.name.clone(), active.epoch, active.used_bytes)
        };
        let bytes = self.buffer.seal(epoch, self.next_sequence);
        let extent = bytes.len() as u64;
        file.write_at(bytes, offset).map_err(io_error("write", &name))?;
        file.sync_data().map_err(io_error("sync", &name))?;
        self.next_sequence += 1;

        let mut index = self.index.write().expect(INDEX_LOCK);
        let active = index.segments.active_mut().expect("the segment that was just written");
        active.used_bytes += extent;
        let batch_offset = u32::try_from(offset).expect("a segment is smaller than 4 GiB");
        for (group, change) in self.buffer.drain_changes() {
            index.apply(group, change, batch_offset);
        }
        Ok(())
    }

    /// Adds a segment with room for a batch of `extent_bytes`. Its header and its name are durable on return.
    fn add_segment(&mut self, extent_bytes: u64, has_growth: bool) -> Result<(), LogError> {
        if self.spares.is_empty() {
            self.drop_leftovers()?;
        }
        let size_bytes = self.options.segment_bytes.max(SEGMENT_HEADER_BYTES + extent_bytes);
        let epoch = self.next_sequence;
        let name = segment_name(epoch);
        let spare = if size_bytes == self.options.segment_bytes { self.spares.pop() } else { None };
        let (prepared_name, file) = match spare {
            Some(spare) => self.prepare_spare(spare, epoch)?,
            None => self.prepare_file(size_bytes, epoch, has_growth)?,
        };
        self.disk.rename(&prepared_name, &name).map_err(io_error("rename", &prepared_name))?;
        self.disk.sync_dir().map_err(io_error("sync the directory of", &name))?;
        let (spare_count, spare_bytes) = self.spare_usage();
        let prepared_bytes = self.prepared_bytes();
        let mut index = self.index_mut();
        index.segments.push(Segment::new(epoch, name, file, size_bytes, SEGMENT_HEADER_BYTES));
        index.spare_count = spare_count;
        index.spare_bytes = spare_bytes;
        index.prepared_bytes = prepared_bytes;
        Ok(())
    }

    /// Gives a spare segment its new header.
    fn prepare_spare(&mut self, spare: Spare<D::File>, epoch: u64) -> Result<(String, Arc<D::File>), LogError> {
        let written = spare.file.write_at(&SegmentHeader { epoch }.encode(), 0).and_then(|()| spare.file.sync_data());
        match written {
            Ok(()) => Ok((spare.name, spare.file)),
            Err(error) if is_full(&error) => {
                self.spares.push(spare);
                Err(LogError::Full { needed_bytes: self.options.segment_bytes, reserve_bytes: 0 })
            }
            Err(error) => Err(io_error("write the header of", &spare.name)(error)),
        }
    }

    /// Makes a new file with a header, or what is missing of the one that is prepared.
    fn prepare_file(&mut self, size_bytes: u64, epoch: u64, has_growth: bool) -> Result<(String, Arc<D::File>), LogError> {
        let reserve_bytes = if has_growth { self.options.reserve_bytes } else { 0 };
        let missing_bytes = size_bytes - self.prepared_bytes();
        let needed_bytes = missing_bytes.saturating_add(reserve_bytes);
        if self.available_bytes() < needed_bytes {
            self.drop_dead_segments(usize::MAX)?;
        }
        if self.available_bytes() < needed_bytes {
            return Err(LogError::Full { needed_bytes: missing_bytes, reserve_bytes });
        }
        let header = SegmentHeader { epoch }.encode();
        let written = self.grow_prepared(size_bytes, |file| file.write_at(&header, 0));
        match written {
            Ok(file) => {
                self.prepared = None;
                Ok((PREPARED_NAME.to_owned(), file))
            }
            Err(error) if is_full(&error) => {
                self.abandon_prepared()?;
                Err(LogError::Full { needed_bytes: size_bytes, reserve_bytes: 0 })
            }
            Err(error) => Err(io_error("prepare", PREPARED_NAME)(error)),
        }
    }

    /// Makes a part of the next segment while the second half of the one in use is filled: the batch that needs it would wait
    /// for the zeros of all of it. Nothing is promised by it; without room it is left.
    fn prepare_ahead(&mut self) -> Result<(), LogError> {
        let usual_bytes = self.options.segment_bytes;
        let step_bytes = usual_bytes / PREPARED_STEPS;
        let used_bytes = self.index().segments.active().map_or(0, |active| active.used_bytes);
        let due_bytes = (PREPARED_PER_WRITTEN * used_bytes.saturating_sub(usual_bytes / 2)).min(usual_bytes);
        let due_bytes = due_bytes / step_bytes * step_bytes;
        let made_bytes = self.prepared_bytes();
        if !self.spares.is_empty() || self.has_leftovers() || due_bytes <= made_bytes {
            return Ok(());
        }
        if self.available_bytes() < usual_bytes - made_bytes + self.options.reserve_bytes {
            return Ok(());
        }
        match self.grow_prepared(due_bytes, |_| Ok(())) {
            Ok(_) => {}
            Err(error) if is_full(&error) => self.abandon_prepared()?,
            Err(error) => return Err(io_error("prepare", PREPARED_NAME)(error)),
        }
        self.index_mut().prepared_bytes = self.prepared_bytes();
        Ok(())
    }

    /// Makes the prepared file so long, if it is shorter, and syncs it after a last change.
    fn grow_prepared(&mut self, len: u64, change: impl FnOnce(&D::File) -> std::io::Result<()>) -> std::io::Result<Arc<D::File>> {
        let file = match &self.prepared {
            Some(prepared) => Arc::clone(&prepared.file),
            None => {
                remove_if_present(&*self.disk, PREPARED_NAME)?;
                Arc::new(self.disk.create(PREPARED_NAME)?)
            }
        };
        file.preallocate(len)?;
        change(&file)?;
        file.sync_data()?;
        let made_bytes = len.max(self.prepared_bytes());
        self.prepared = Some(Prepared { file: Arc::clone(&file), made_bytes });
        Ok(file)
    }

    fn abandon_prepared(&mut self) -> Result<(), LogError> {
        self.prepared = None;
        self.index_mut().prepared_bytes = 0;
        remove_if_present(&*self.disk, PREPARED_NAME).map_err(io_error("remove", PREPARED_NAME))
    }

    fn prepared_bytes(&self) -> u64 {
        self.prepared.as_ref().map_or(0, |prepared| prepared.made_bytes)
    }

    /// Drops one segment in which nothing holds any more. A purge may leave many at once, and each takes the file system some
    /// milliseconds: too long for the next batch to wait, unless it lacks the room.
    fn drop_leftovers(&mut self) -> Result<(), LogError> {
        if !self.has_leftovers() {
            return Ok(());
        }
        let is_room_short = self.available_bytes() < self.options.segment_bytes + self.options.reserve_bytes;
        self.drop_dead_segments(if is_room_short { usize::MAX } else { 1 })
    }

    /// Takes segments in which nothing holds off the front, so many at most, and keeps some of them for use again.
    fn drop_dead_segments(&mut self, max_count: usize) -> Result<(), LogError> {
        let mut dropped_count = 0;
        while dropped_count < max_count {
            let Some(segment) = self.index_mut().segments.pop_dead() else { break };
            self.drop_segment(segment)?;
            dropped_count += 1;
        }
        if dropped_count > 0 {
            // A spare is overwritten only after its old name is gone for good.
            self.disk.sync_dir().map_err(io_error("sync the directory of", "the log"))?;
            let (spare_count, spare_bytes) = self.spare_usage();
            let mut index = self.index_mut();
            index.spare_count = spare_count;
            index.spare_bytes = spare_bytes;
        }
        Ok(())
    }

    fn drop_segment(&mut self, segment: Segment<D::File>) -> Result<(), LogError> {
        let Segment { epoch, name, file, size_bytes, .. } = segment;
        // The segment is out of the index, so nobody starts to read it any more; but someone may still be at it. An open
        // file that was removed keeps its content.
        let is_being_read = Arc::strong_count(&file) > 1;
        let has_usual_size = size_bytes == self.options.segment_bytes;
        if is_being_read || !has_usual_size || self.spares.len() >= self.options.max_spare_segments {
            return self.disk.remove(&name).map_err(io_error("remove", &name));
        }
        let spare_name = spare_name(epoch);
        self.disk.rename(&name, &spare_name).map_err(io_error("rename", &name))?;
        self.spares.push(Spare { name: spare_name, file });
        Ok(())
    }

    fn spare_usage(&self) -> (usize, u64) {
        (self.spares.len(), self.spares.len() as u64 * self.options.segment_bytes)
    }

    /// Free bytes of the disk; if it does not tell, preallocation has the word.
    fn available_bytes(&self) -> u64 {
        self.disk.available_bytes().unwrap_or(u64::MAX)
    }

    #[cfg(test)]
    pub(crate) fn with_index(&self, look: impl FnOnce(&Index<D::File>)) {
        look(&self.index());
    }

    fn index(&self) -> RwLockReadGuard<'_, Index<D::File>> {
        self.index.read().expect(INDEX_LOCK)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index<D::File>> {
        self.index.write().expect(INDEX_LOCK)
    }
}

/// What a write asks for, checked against the index.
struct Demand<'a> {
    /// The records that have an effect.
    records: Vec<&'a (GroupId, Record)>,
    /// Their encoded size, with the batch's header.
    bytes: u64,
    /// Whether they add entries or states.
    has_growth: bool,
}

impl<'a> Demand<'a> {
    fn of<F>(index: &Index<F>, batches: &'a [Batch]) -> Result<Self, LogError> {
        let mut demand = Self { records: Vec::new(), bytes: BATCH_HEADER_BYTES as u64, has_growth: false };
        let mut bounds = BTreeMap::new();
        for item @ (group, record) in batches.iter().flatten() {
            let bounds = bounds.entry(*group).or_insert_with(|| Bounds::of(index.group(*group)));
            let has_effect = bounds.step(record).map_err(|reason| LogError::Invalid { group: *group, reason })?;
            if has_effect {
                demand.bytes += encoded_bytes(record);
                demand.has_growth |= matches!(record, Record::Append(_) | Record::State(_));
                demand.records.push(item);
            }
        }
        if demand.bytes > MAX_BATCH_BYTES {
            return Err(LogError::TooLarge { bytes: demand.bytes, max_bytes: MAX_BATCH_BYTES });
        }
        Ok(demand)
    }
}

/// Where a group's log begins and ends while the records of one write are checked.
struct Bounds {
    exists: bool,
    purged: LogIndex,
    last: LogIndex,
}

impl Bounds {
    fn of(group: Option<&Group>) -> Self {
        match group {
            Some(group) => Self { exists: true, purged: group.purged().index, last: group.last().index },
            None => Self { exists: false, purged: LogIndex(0), last: LogIndex(0) },
        }
    }

    /// Whether the record has an effect; or what is wrong with it.
    fn step(&mut self, record: &Record) -> Result<bool, String> {
        match record {
            Record::Append(entries) if entries.is_empty() => return Ok(false),
            Record::Append(entries) => self.append(entries)?,
            Record::Purge(to) if to.index <= self.purged => return Ok(false),
            Record::Purge(to) if to.index > self.last => {
                return Err(format!("a purge to {} is beyond the last entry, {}", to.index.0, self.last.0));
            }
            Record::Purge(to) => self.purged = to.index,
            Record::Reset(to) => (self.purged, self.last) = (to.index, to.index),
            Record::Destroy if !self.exists => return Ok(false),
            Record::HardState(_) | Record::State(_) | Record::Destroy => {}
        }
        self.exists = true;
        if *record == Record::Destroy {
            *self = Self::of(None);
        }
        Ok(true)
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        let first = entries[0].id.index;
        if first <= self.purged || first.0 > self.last.0 + 1 {
            let (purged, last) = (self.purged.0, self.last.0);
            return Err(format!("an append at {} does not fit a log purged to {purged} that ends at {last}", first.0));
        }
        for (expected, entry) in (first.0..).zip(entries) {
            if entry.id.index.0 != expected {
                return Err(format!("an append has index {} where {expected} should be", entry.id.index.0));
            }
            self.last = entry.id.index;
        }
        Ok(())
    }
}

/// How many bytes of the next segment are made for each byte written, once the segment in use is half full: it is done before
/// that is full.
const PREPARED_PER_WRITTEN: u64 = 2;
/// In how many parts the next segment is made, each with a sync: of the usual segments, 1 MiB each.
const PREPARED_STEPS: u64 = 32;
/// How many bytes are moved for each byte written, where cleaning is due. At one, the log would just keep its size when half
/// of what is cleaned is live; two makes it shrink.
const MOVED_PER_WRITTEN: u64 = 2;
/// How many bytes are moved with even the smallest batch, where cleaning is due.
const MIN_MOVED_BYTES: u64 = 64 << 10;
