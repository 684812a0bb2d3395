//! One tree of files and memtables: batches into it, its durable point, its merges.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use lsm_tree::checksum::ChecksummedWriter;
use lsm_tree::compaction::filter::Context;
use lsm_tree::compaction::{CompactionFilter, Factory, ItemAccessor, Verdict};
use lsm_tree::config::PinningPolicy;
use lsm_tree::{
    AbstractTree as _, AnyTree, Config, InternalValue, SeqNo, SequenceNumberCounter, Slice, TableId, Tree, ValueType,
};

use super::buffer::{Buffer, KeyFilter, key_hash, shared_filter};
use super::lookups::Lookups;
use super::node::LsmNode;
use super::pin::{Full, Pin};
use super::shape;
use super::workers::Work;
use super::writing::Writing;
use crate::folder::Remains;
use crate::numbers::Numbers;
use crate::room::Room;
use crate::{Change, Direction, EngineError, KeyRange, ScanItem, Table, View};

/// Sealed memtables that wait for the disk. At so many, `apply` waits.
const MAX_SEALED: usize = 3;

/// Runs in level 0, each of which a read may have to ask. At so many, `apply` waits for a merge.
const MAX_L0_RUNS: usize = 32;

/// From so many on `apply` slows down, by this much per KiB and the cube of how many more there are: many short pauses instead of
/// one long one. Merges take up what came meanwhile, and are the longer for it.
const SLOWING_L0_RUNS: usize = 16;
const PAUSE_PER_KIB: Duration = Duration::from_nanos(100);

/// Level 1 has hardly more. A file of it, or of the levels below, overlaps fewer of the next: by how much that is larger.
const OVERLAPPED_FILES: usize = 16;

/// How soon who lacked room looks again.
const ROOM_POLL: Duration = Duration::from_millis(200);

/// lsm-tree's files are there.
const TABLES_FOLDER: &str = "tables";

/// Where the numbers are: no table has this tag.
const NUMBERS_KEY: [u8; 1] = [0xff];

/// lsm-tree keeps a key's length in 16 bits, and one byte is the table's tag.
pub(super) const MAX_KEY_BYTES: usize = u16::MAX as usize - 1;

/// A tree that is open.
pub(super) struct Store {
    tree: Tree,
    published: ArcSwap<Content>,
    writer: Mutex<Writer>,
    /// Held by the one who writes sealed memtables to files.
    flusher: Mutex<()>,
    durable_applied: AtomicU64,
    lag: Mutex<Lag>,
    /// `lag` became smaller, or there is a failure.
    has_caught_up: Condvar,
    /// The first failure: what is in memory may be half a batch since, or miss a file.
    failure: OnceLock<String>,
    is_seal_wanted: AtomicBool,
    is_closing: Arc<AtomicBool>,
    node: Arc<LsmNode>,
    room: Room,
    remains: Arc<Remains>,
}

#[derive(Debug, Default)]
struct Writer {
    /// Full memtables, the oldest first.
    sealed: Vec<Sealed>,
    /// Of memtables that are files of level 0 now.
    l0_filters: BTreeMap<TableId, Arc<KeyFilter>>,
    /// How often one was sealed.
    seals: u64,
    /// What was true when the last memtable was sealed.
    sealed_numbers: Numbers,
    /// A batch was begun and not ended.
    is_torn: bool,
}

struct Sealed {
    buffer: Arc<Buffer>,
    /// The durable point once this is in a file.
    applied: u64,
}

/// How far files are behind.
#[derive(Clone, Copy, Debug, Default)]
struct Lag {
    sealed: usize,
    l0_runs: usize,
}

impl Writer {
    fn full(&self) -> Full {
        let sealed = self.sealed.iter().map(|sealed| Arc::clone(&sealed.buffer)).collect();
        Full { sealed, l0_filters: self.l0_filters.clone() }
    }

    /// The oldest memtables are in these files now. Perhaps younger ones are too, that were sealed meanwhile.
    fn take_flushed(&mut self, count: usize, files: impl IntoIterator<Item = TableId>) -> Vec<Sealed> {
        if let Some(filter) = shared_filter(self.sealed.iter().map(|sealed| sealed.buffer.filter())) {
            self.l0_filters.extend(files.into_iter().map(|file| (file, Arc::clone(filter))));
        }
        self.sealed.drain(..count).collect()
    }
}

impl Store {
    /// Makes an empty tree, or opens the one in this folder at its durable point.
    pub(super) fn open(remains: Remains, is_new: bool, node: &Arc<LsmNode>) -> Result<Arc<Self>, EngineError> {
        let remains = Arc::new(remains);
        let folder = remains.path();
        if !is_new {
            check_list_of_files(folder)?;
            remove_unreadable_files(folder)?;
            remove_temporary_files(folder)?;
        }
        let is_closing = Arc::new(AtomicBool::new(false));
        let tree = open_tree(folder, node, &is_closing)?;
        let end = tree.get_highest_persisted_seqno().map_or(0, |highest| highest + 1);
        let pin = Arc::new(Pin::of(&tree, |first| Arc::new(Buffer::first(first)), Full::default()));
        let numbers = match pin.get(&NUMBERS_KEY, key_hash(&NUMBERS_KEY), end).map_err(corrupt)? {
            Some(bytes) => Numbers::decode(&bytes)?,
            None if end == 0 => Numbers::default(),
            None => return Err(EngineError::Corrupt("an lsm tree without numbers".to_owned())),
        };
        let lag = Lag { sealed: 0, l0_runs: pin.l0_runs };
        let store = Arc::new(Self {
            tree,
            published: ArcSwap::from_pointee(Content {
                pin,
                end,
                numbers,
                lookups: Arc::default(),
                _remains: Arc::clone(&remains),
            }),
            writer: Mutex::new(Writer { sealed_numbers: numbers, ..Writer::default() }),
            flusher: Mutex::default(),
            durable_applied: AtomicU64::new(numbers.applied),
            lag: Mutex::new(lag),
            has_caught_up: Condvar::new(),
            failure: OnceLock::new(),
            is_seal_wanted: AtomicBool::new(false),
            is_closing,
            node: Arc::clone(node),
            room: Room::under(folder),
            remains,
        });
        node.enter(&store);
        if !is_new {
            node.workers.ask(Work::Merge, &store)?;
        }
        Ok(store)
    }

    /// Ends the work beside the writer. Views stay readable.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.node.leave(self);
    }

    /// Tells trees of this process apart.
    pub(super) fn id(&self) -> u64 {
        self.tree.id()
    }

    pub(super) fn content(&self) -> Arc<Content> {
        self.published.load_full()
    }

    pub(super) fn durable_applied(&self) -> u64 {
        self.durable_applied.load(Ordering::Acquire)
    }

    /// See [`Remains::set_obsolete`].
    pub(super) fn set_obsolete(&self, is_obsolete: bool) {
        self.remains.set_obsolete(is_obsolete);
    }

    /// Bytes of the memtable that is written to.
    pub(super) fn active_bytes(&self) -> u64 {
        self.published.load().pin.active.size()
    }

    /// Bytes of all memtables.
    pub(super) fn memtables_bytes(&self) -> u64 {
        let sealed_bytes: u64 = self.lock_writer().sealed.iter().map(|sealed| sealed.buffer.size()).sum();
        sealed_bytes + self.active_bytes()
    }

    /// Has the next flush write the youngest memtable too.
    pub(super) fn want_seal(&self) {
        self.is_seal_wanted.store(true, Ordering::Release);
    }

    /// Applies and publishes a batch. Waits if files are too far behind.
    pub(super) fn write(self: &Arc<Self>, changes: Vec<Change>, applied: u64, revision: u64) -> Result<(), EngineError> {
        self.wait_for_files(&changes)?;
        let mut writer = self.lock_writer();
        self.check_whole(&writer)?;
        let content = self.content();
        let active = &content.pin.active;
        let bytes_before = active.size();
        let limit = self.node.sizes.memtable_bytes(content.pin.file_bytes);
        let (numbers, found) = (content.numbers, content.lookups.take());
        let mut writing = Writing { pin: &content.pin, at: content.end, numbers, found, full_bytes: limit };
        writing.numbers.advance_to(applied, revision);
        writer.is_torn = true;
        let outcome = changes.into_iter().try_for_each(|change| writing.write(change));
        self.node.grow(active.size() - bytes_before);
        outcome?;
        writer.is_torn = false;
        self.publish(Content {
            end: content.end + 1,
            numbers: writing.numbers,
            lookups: Arc::default(),
            ..Content::clone(&content)
        });
        self.node.keep_within_bounds()?;
        if active.size() >= 2 * limit {
            // The flusher did not come to it: it writes other memtables.
            self.seal(&mut writer);
            self.node.workers.ask(Work::Flush, self)?;
        } else if active.size() >= limit && !self.is_seal_wanted.swap(true, Ordering::AcqRel) {
            self.node.workers.ask(Work::Flush, self)?;
        }
        Ok(())
    }

    /// Makes all that was written durable, if there is room; returns the durable point.
    pub(super) fn flush(self: &Arc<Self>) -> Result<u64, EngineError> {
        self.want_seal();
        self.flush_sealed()
    }

    /// What threads beside the writer do; a failure waits for the next write.
    pub(super) fn work(self: &Arc<Self>, work: Work) {
        let attempt = std::panic::AssertUnwindSafe(|| match work {
            Work::Flush => self.flush_beside(),
            Work::Merge => self.merge(),
        });
        match std::panic::catch_unwind(attempt) {
            Ok(Ok(())) => {}
            Ok(Err(_)) if self.is_closing.load(Ordering::Acquire) => {}
            Ok(Err(error)) => self.fail(error.to_string()),
            Err(_) => self.fail(format!("{work:?} panicked")),
        }
    }

    /// Flushes for a writer that goes on meanwhile; again later, if there is no room now.
    fn flush_beside(self: &Arc<Self>) -> Result<(), EngineError> {
        self.flush_sealed()?;
        if !self.lock_writer().sealed.is_empty() && !self.has_room() {
            std::thread::sleep(ROOM_POLL);
            self.node.workers.ask(Work::Flush, self)?;
        }
        Ok(())
    }

    /// Whether all memtables can be written to files. A flush that fails half-way leaves what it wrote until the tree is opened
    /// again.
    fn has_room(&self) -> bool {
        self.room.has(self.memtables_bytes())
    }

    /// Writes the sealed memtables to files, and the youngest one too if that is wanted. Does nothing without room.
    fn flush_sealed(self: &Arc<Self>) -> Result<u64, EngineError> {
        if !self.has_room() {
            return Ok(self.durable_applied());
        }
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
        // Sealing waits for a new list of files to be synced, if one is. Better here than with the writer's lock.
        drop(self.tree.get_version_history_lock());
        let (count, applied) = {
            let mut writer = self.lock_writer();
            self.check_whole(&writer)?;
            if self.is_seal_wanted.swap(false, Ordering::AcqRel) {
                self.seal(&mut writer);
            }
            match writer.sealed.last() {
                Some(last) => (writer.sealed.len(), last.applied),
                None => return Ok(self.durable_applied()),
            }
        };
        let before = self.tree.current_version();
        let outcome = self.tree.flush(&self.tree.get_flush_lock(), SeqNo::MAX);
        outcome.map_err(corrupt).inspect_err(|error| self.fail(error.to_string()))?;
        let mut new_files = self.tree.current_version().l0().list_ids();
        new_files.retain(|file| !before.l0().list_ids().contains(file));
        let flushed = self.lock_writer().take_flushed(count, new_files);
        self.durable_applied.store(applied, Ordering::Release);
        self.pin_anew();
        self.node.shrink(flushed.iter().map(|sealed| sealed.buffer.size()).sum());
        self.node.workers.ask(Work::Merge, self)?;
        drop(flusher);
        flushed.iter().for_each(|sealed| sealed.buffer.wait_for_readers());
        Ok(applied)
    }

    /// Does one merge, if one is due and there is room for it, and asks for the next.
    fn merge(self: &Arc<Self>) -> Result<(), EngineError> {
        let l0_runs = self.lock_lag().l0_runs;
        if !self.room.has(self.most_merged_bytes(l0_runs)) {
            if l0_runs >= SLOWING_L0_RUNS {
                std::thread::sleep(ROOM_POLL);
                self.node.workers.ask(Work::Merge, self)?;
            }
            return Ok(());
        }
        let before = self.tree.current_version().id();
        let merging = shape::merging(&self.tree, self.node.sizes.file_bytes);
        self.tree.compact(Arc::new(merging), SeqNo::MAX).map_err(corrupt)?;
        if self.tree.current_version().id() != before {
            self.pin_anew();
            self.node.workers.ask(Work::Merge, self)?;
        }
        Ok(())
    }

    /// What the next merge may write before it removes anything: all of level 0 and the files below that it overlaps, or one file
    /// and those. lsm-tree does not tell beforehand. A merge that fails half-way leaves what it wrote until the tree is opened
    /// again.
    fn most_merged_bytes(&self, l0_runs: usize) -> u64 {
        let files = fs::read_dir(self.remains.path().join(TABLES_FOLDER)).into_iter().flatten().flatten();
        let all_bytes: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        all_bytes.min((l0_runs + OVERLAPPED_FILES) as u64 * self.node.sizes.file_bytes)
    }

    /// Ends the youngest memtable with the numbers of the last batch, unless nothing happened since the one before.
    fn seal(&self, writer: &mut Writer) {
        let content = self.content();
        let numbers = content.numbers;
        if content.pin.active.is_empty() && writer.sealed_numbers == numbers {
            return;
        }
        let (active, bytes_before) = (&content.pin.active, content.pin.active.size());
        let full_bytes = self.node.sizes.memtable_bytes(content.pin.file_bytes);
        let record = InternalValue::from_components(NUMBERS_KEY, numbers.encode(), content.end, ValueType::Value);
        active.insert(record, key_hash(&NUMBERS_KEY), full_bytes);
        self.node.grow(active.size() - bytes_before);
        writer.sealed_numbers = numbers;
        writer.seals += 1;
        if self.tree.rotate_memtable().is_some() {
            writer.sealed.push(Sealed { buffer: Arc::clone(active), applied: numbers.applied });
        }
        let pin = Pin::of(&self.tree, |next| Arc::new(active.next(next, full_bytes)), writer.full());
        self.report_lag(writer, &pin);
        self.publish(Content { pin: Arc::new(pin), end: content.end + 1, ..Content::clone(&content) });
    }

    /// Publishes the same content in the files that there are now.
    fn pin_anew(&self) {
        loop {
            let (seals, full, active) = {
                let writer = self.lock_writer();
                (writer.seals, writer.full(), Arc::clone(&self.published.load().pin.active))
            };
            // It may wait for a list of files to be synced: not with the writer's lock.
            let pin = Pin::of(&self.tree, |_| active, full);
            let mut writer = self.lock_writer();
            if writer.seals == seals {
                let content = self.content();
                if pin.list >= content.pin.list {
                    writer.l0_filters.retain(|file, _| pin.is_in_l0(*file));
                    self.report_lag(&writer, &pin);
                    self.publish(Content { pin: Arc::new(pin), ..Content::clone(&content) });
                }
                return;
            }
        }
    }

    fn report_lag(&self, writer: &Writer, pin: &Pin) {
        *self.lock_lag() = Lag { sealed: writer.sealed.len(), l0_runs: pin.l0_runs };
        self.has_caught_up.notify_all();
    }

    /// Only under the writer's lock.
    fn publish(&self, content: Content) {
        self.published.store(Arc::new(content));
    }

    /// What is being rebuilt does not wait for room: nobody needs it as much as what it lies beside.
    fn wait_for_files(&self, changes: &[Change]) -> Result<(), EngineError> {
        let mut lag = self.lock_lag();
        while (lag.sealed >= MAX_SEALED || lag.l0_runs >= MAX_L0_RUNS) && self.failure.get().is_none() {
            let waited = self.has_caught_up.wait_timeout(lag, ROOM_POLL).unwrap_or_else(PoisonError::into_inner);
            lag = waited.0;
            if waited.1.timed_out() && self.remains.is_obsolete() {
                drop(lag);
                if !self.has_room() {
                    return Err(io::Error::from(io::ErrorKind::StorageFull).into());
                }
                lag = self.lock_lag();
            }
        }
        let excess_runs = (lag.l0_runs + 1).saturating_sub(SLOWING_L0_RUNS);
        drop(lag);
        if excess_runs > 0 {
            let kib = changes.iter().map(Change::pair_bytes).sum::<usize>() >> 10;
            std::thread::sleep(PAUSE_PER_KIB * (kib * excess_runs.pow(3)) as u32);
        }
        Ok(())
    }

    fn check_whole(&self, writer: &Writer) -> Result<(), EngineError> {
        match self.failure.get() {
            Some(failure) => Err(EngineError::Io(io::Error::other(failure.clone()))),
            None if writer.is_torn => Err(EngineError::Corrupt("a batch failed half-way".to_owned())),
            None => Ok(()),
        }
    }

    fn fail(&self, failure: String) {
        // A second failure follows from the first.
        let _ = self.failure.set(failure);
        // Under the lock, or who is about to wait would miss it.
        let _lag = self.lock_lag();
        self.has_caught_up.notify_all();
    }

    /// Who panicked holding it left `is_torn` behind if anything is not whole.
    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("content", &self.published.load())
            .field("lag", &self.lag)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// All tables at the end of one batch.
#[derive(Clone)]
pub(super) struct Content {
    pin: Arc<Pin>,
    /// What was written from this sequence number on came later.
    end: SeqNo,
    pub(super) numbers: Numbers,
    /// By those who are about to change it.
    lookups: Arc<Lookups>,
    /// Dropped last: files are closed before they are removed.
    _remains: Arc<Remains>,
}

impl Content {
    fn find(&self, stored_key: &[u8]) -> Result<Option<Slice>, EngineError> {
        self.pin.get(stored_key, key_hash(stored_key), self.end).map_err(corrupt)
    }
}

impl View for Content {
    fn applied(&self) -> u64 {
        self.numbers.applied
    }

    fn revision(&self) -> u64 {
        self.numbers.revision
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if key.len() > MAX_KEY_BYTES {
            return Ok(None);
        }
        Ok(self.find(&stored_key(table, key))?.map(Bytes::from))
    }

    fn peek(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if key.len() > MAX_KEY_BYTES {
            return Ok(None);
        }
        let stored_key = stored_key(table, key);
        let found = self.find(&stored_key)?;
        self.lookups.note(stored_key, found.as_ref().map(|value| value.len()));
        Ok(found.map(Bytes::from))
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let start = match &range.start {
            Bound::Unbounded => Bound::Included(stored_key(table, &[])),
            // Longer than any key: the longest that it begins with lies before it.
            Bound::Included(key) | Bound::Excluded(key) if key.len() > MAX_KEY_BYTES => {
                Bound::Excluded(stored_key(table, &key[..MAX_KEY_BYTES]))
            }
            bound => bound.as_ref().map(|key| stored_key(table, key)),
        };
        let end = match &range.end {
            Bound::Unbounded => Bound::Excluded(Slice::from([table as u8 + 1])),
            Bound::Included(key) | Bound::Excluded(key) if key.len() > MAX_KEY_BYTES => {
                Bound::Included(stored_key(table, &key[..MAX_KEY_BYTES]))
            }
            bound => bound.as_ref().map(|key| stored_key(table, key)),
        };
        // Cut, a range that held nothing may seem to end before it begins.
        if let (Bound::Excluded(start), Bound::Included(end)) = (&start, &end)
            && start >= end
        {
            return Box::new(std::iter::empty());
        }
        let bounds = (start.as_ref().map(|key| &key[..]), end.as_ref().map(|key| &key[..]));
        let mut pairs = self.pin.range(bounds, self.end);
        Box::new(std::iter::from_fn(move || {
            let pair = match direction {
                Direction::Forward => pairs.next()?,
                Direction::Reverse => pairs.next_back()?,
            };
            Some(pair.map_err(corrupt).map(|pair| (Bytes::from(pair.key.user_key).slice(1..), Bytes::from(pair.value))))
        }))
    }
}

/// The numbers, not the pairs: there may be millions.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("pin", &self.pin)
            .field("end", &self.end)
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

pub(super) fn stored_key(table: Table, key: &[u8]) -> Slice {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(table as u8);
    stored.extend_from_slice(key);
    stored.into()
}

fn open_tree(folder: &Path, node: &LsmNode, is_closing: &Arc<AtomicBool>) -> Result<Tree, EngineError> {
    // lsm-tree numbers its own steps with these; ours are in the store.
    let config = Config::new(folder, SequenceNumberCounter::default(), SequenceNumberCounter::default())
        .use_cache(Arc::clone(&node.cache))
        .use_descriptor_table(Some(Arc::clone(&node.open_files)))
        // Below level 0 indexes and filters are in blocks of their own, which come and go in the cache: what stays in memory is
        // a few KiB per file. A filter of level 1 is one block: it is always in use, and found at once.
        .index_block_partitioning_policy(PinningPolicy::new([false, true]))
        .filter_block_partitioning_policy(PinningPolicy::new([false, false, true]))
        .index_block_pinning_policy(PinningPolicy::new([true, false]))
        .filter_block_pinning_policy(PinningPolicy::new([true, false]))
        .with_compaction_filter_factory(Some(Arc::new(UntilClosing(Arc::clone(is_closing)))));
    match config.open().map_err(corrupt)? {
        AnyTree::Standard(tree) => Ok(tree),
        AnyTree::Blob(_) => Err(EngineError::Corrupt("an lsm tree of another type".to_owned())),
    }
}

/// lsm-tree trusts its list of files, whose checksum it writes beside the list's name and does not compare.
fn check_list_of_files(folder: &Path) -> Result<(), EngineError> {
    let damaged = || EngineError::Corrupt("the list of an lsm tree's files is damaged".to_owned());
    let current = fs::read(folder.join("current")).map_err(|error| corrupt(error.into()))?;
    let (id, rest) = current.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (stored, _) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
    let list = folder.join(format!("v{}", u64::from_le_bytes(*id)));
    let list = fs::read(list).map_err(|error| corrupt(error.into()))?;
    let mut hasher = ChecksummedWriter::new(io::sink());
    hasher.write_all(&list)?;
    if hasher.checksum().into_u128() == u128::from_le_bytes(*stored) { Ok(()) } else { Err(damaged()) }
}

/// lsm-tree makes room for as many entries as a file's table of contents claims, before it compares the checksum: a wrong number
/// ends the process. Such a file is of no use to anybody. If it is in the list, lsm-tree misses it; otherwise a crash left it.
fn remove_unreadable_files(folder: &Path) -> Result<(), EngineError> {
    for entry in fs::read_dir(folder.join(TABLES_FOLDER)).map_err(|error| corrupt(error.into()))? {
        let path = entry?.path();
        if !has_whole_contents(&mut File::open(&path)?)? {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The contents stand between the position that the last bytes name and these: four magic bytes, two of versions, the checksum,
/// the position, a length.
fn has_whole_contents(file: &mut File) -> io::Result<bool> {
    const TRAILER_LEN: u64 = 38;
    const MAX_CONTENTS_LEN: u64 = 64 << 10;
    let len = file.metadata()?.len();
    let Some(end) = len.checked_sub(TRAILER_LEN) else { return Ok(false) };
    let mut trailer = [0; TRAILER_LEN as usize];
    file.read_exact_at(&mut trailer, end)?;
    let (Some(checksum), Some(begin)) = (trailer[6..].first_chunk::<16>(), trailer[22..].first_chunk::<8>()) else {
        return Ok(false);
    };
    let begin = u64::from_le_bytes(*begin);
    let Some(contents_len) = end.checked_sub(begin).filter(|len| *len <= MAX_CONTENTS_LEN) else { return Ok(false) };
    let mut contents = vec![0; contents_len as usize];
    file.read_exact_at(&mut contents, begin)?;
    let mut hasher = ChecksummedWriter::new(io::sink());
    hasher.write_all(&contents)?;
    Ok(hasher.checksum().into_u128() == u128::from_le_bytes(*checksum))
}

/// lsm-tree replaces its pointer by way of such a file, which a crash may leave.
fn remove_temporary_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Ends a merge early if its engine is being closed.
struct UntilClosing(Arc<AtomicBool>);

impl Factory for UntilClosing {
    fn name(&self) -> &'static str {
        "until closing"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl CompactionFilter for UntilClosing {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        if self.0.load(Ordering::Relaxed) {
            Err(io::Error::other("the engine is being closed").into())
        } else {
            Ok(Verdict::Keep)
        }
    }
}

/// lsm-tree's errors in our words: the system's own ones stay what they are, everything else means that a file is not as it was
/// written.
pub(super) fn corrupt(error: lsm_tree::Error) -> EngineError {
    match error {
        lsm_tree::Error::Io(error) if !is_of_damage(&error) => EngineError::Io(error),
        error => EngineError::Corrupt(error.to_string()),
    }
}

/// What reading a file that was cut, removed or overwritten ends in.
fn is_of_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}
