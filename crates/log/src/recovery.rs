//! Opening: every batch is read and checked, in the order in which it was written.
//!
//! Batch n+1 is written after batch n was synced. So whatever a crash may have left half done is the last batch of the last
//! segment, and damage before it is told by a valid batch that comes later. FORMAT.md has the cases.

use std::sync::Arc;

use crate::batch::decode_body;
use crate::disk::{Disk, DiskFile, read_fully, remove_if_present};
use crate::error::{LogError, io_error};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, FORMAT_VERSION, HeaderError, SECTOR_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader,
    body_checksum,
};
use crate::index::Index;
use crate::log::Spare;
use crate::segment::{FileKind, PREPARED_NAME, Segment, file_kind, segment_name};
use crate::{GroupId, Options};

/// What was found.
pub(crate) struct Recovered<F> {
    pub(crate) index: Index<F>,
    pub(crate) spares: Vec<Spare<F>>,
    /// The number of the next batch.
    pub(crate) next_sequence: u64,
}

/// Reads the log. Changes nothing on disk unless all of it is in order.
pub(crate) fn recover<D: Disk>(disk: &D, options: &Options) -> Result<Recovered<D::File>, LogError> {
    let names = disk.list().map_err(io_error("list", "the log's directory"))?;
    let mut epochs: Vec<_> = names.iter().filter_map(|name| segment_epoch(name)).collect();
    epochs.sort_unstable();

    let mut index = Index::new();
    let mut next_sequence = epochs.first().copied().unwrap_or(1);
    let mut last_batch = None;
    for (position, &epoch) in epochs.iter().enumerate() {
        if epoch != next_sequence {
            return Err(lost_batch(&index, next_sequence, epoch));
        }
        let mut scan = Scan::open(disk, epoch)?;
        index.segments.push(scan.segment());
        last_batch = scan.replay(&mut index)?;
        next_sequence = scan.next_sequence;
        if position + 1 == epochs.len() {
            scan.refuse_later_batches()?;
        }
    }
    if let Some((group, at)) = index.find_gap() {
        return Err(missing_entry(&index, group, at.0));
    }

    if let Some(active) = index.segments.active() {
        make_durable(active, last_batch)?;
    }
    let spares = tidy_files(disk, options, &names)?;
    Ok(Recovered { index, spares, next_sequence })
}

fn segment_epoch(name: &str) -> Option<u64> {
    match file_kind(name)? {
        FileKind::Segment { epoch } => Some(epoch),
        FileKind::Spare => None,
    }
}

/// A segment while it is read.
struct Scan<F> {
    window: Window<F>,
    epoch: u64,
    /// Where the next batch should be.
    offset: u64,
    /// The number that it should have.
    next_sequence: u64,
}

impl<F: DiskFile> Scan<F> {
    fn open<D: Disk<File = F>>(disk: &D, epoch: u64) -> Result<Self, LogError> {
        let name = segment_name(epoch);
        let file = disk.open(&name).map_err(io_error("open", &name))?;
        let len = file.len().map_err(io_error("measure", &name))?;
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        read_fully(&file, &mut header, 0).map_err(io_error("read", &name))?;
        let window = Window { file: Arc::new(file), name, len, start: 0, bytes: Vec::new() };
        match SegmentHeader::decode(&header) {
            Ok(header) if header.epoch == epoch => Ok(Self { window, epoch, offset: SEGMENT_HEADER_BYTES, next_sequence: epoch }),
            Ok(header) => Err(window.corrupt(0, format!("the header is that of segment {}", header.epoch))),
            Err(HeaderError::Damaged) => Err(window.corrupt(0, "the segment's header is damaged".to_owned())),
            Err(HeaderError::Newer { version }) => {
                Err(LogError::NewerVersion { file: window.name, version, supported: FORMAT_VERSION })
            }
        }
    }

    fn segment(&self) -> Segment<F> {
        let Window { file, name, len, .. } = &self.window;
        Segment::new(self.epoch, name.clone(), Arc::clone(file), *len, SEGMENT_HEADER_BYTES)
    }

    /// Applies batches up to the first that is not intact; returns where the last intact one is.
    fn replay(&mut self, index: &mut Index<F>) -> Result<Option<Extent>, LogError> {
        let mut last = None;
        while let Some(header) = self.intact_batch(self.offset)?.filter(|header| header.sequence == self.next_sequence) {
            let body = self.window.get(self.offset + BATCH_HEADER_BYTES as u64, header.body_bytes as usize)?;
            let Some(changes) = decode_body(body, header.record_count) else {
                return Err(self.window.corrupt(self.offset, format!("batch {} is malformed", header.sequence)));
            };
            let extent_bytes = header.extent_bytes();
            let active = index.segments.active_mut().expect("the segment was added before it is read");
            active.used_bytes += extent_bytes;
            let Ok(batch_offset) = u32::try_from(self.offset) else {
                return Err(self.window.corrupt(self.offset, "the segment is larger than 4 GiB".to_owned()));
            };
            for (group, change) in changes {
                index.apply(group, change, batch_offset);
            }
            last = Some(Extent { offset: self.offset, bytes: extent_bytes });
            self.offset += extent_bytes;
            self.next_sequence += 1;
        }
        Ok(last)
    }

    /// What stands after the last intact batch may be a batch that a crash cut short: the one that was being written. It was
    /// durable, and is damaged, if there is an intact one of this epoch behind it.
    fn refuse_later_batches(&mut self) -> Result<(), LogError> {
        // A torn batch whose header is intact says how far it goes, so that nothing in its payloads is taken for a batch.
        let torn = self.header(self.offset)?.filter(|header| header.sequence == self.next_sequence);
        let mut offset = self.offset + torn.map_or(0, BatchHeader::extent_bytes);
        while offset < self.window.len {
            if let Some(later) = self.intact_batch(offset)?
                && later.sequence >= self.next_sequence
            {
                let detail = format!("batch {} is damaged, for batch {} comes after it", self.next_sequence, later.sequence);
                return Err(self.window.corrupt(self.offset, detail));
            }
            offset += SECTOR_BYTES;
        }
        Ok(())
    }

    /// The header of the batch at an offset, if a batch of this epoch that fits the file starts there.
    fn header(&mut self, offset: u64) -> Result<Option<BatchHeader>, LogError> {
        let header = BatchHeader::decode(self.window.get(offset, BATCH_HEADER_BYTES)?, self.epoch);
        Ok(header.filter(|header| offset + header.extent_bytes() <= self.window.len))
    }

    /// The same, if its body is as it was written.
    fn intact_batch(&mut self, offset: u64) -> Result<Option<BatchHeader>, LogError> {
        let Some(header) = self.header(offset)? else { return Ok(None) };
        let body = self.window.get(offset + BATCH_HEADER_BYTES as u64, header.body_bytes as usize)?;
        let is_intact = body_checksum(self.epoch, header.sequence, body) == header.body_crc;
        Ok(is_intact.then_some(header))
    }
}

/// A part of a segment's file.
#[derive(Clone, Copy, Debug)]
struct Extent {
    offset: u64,
    bytes: u64,
}

/// A file that is read from front to back, in large steps.
struct Window<F> {
    file: Arc<F>,
    name: String,
    /// The length of the file.
    len: u64,
    /// Where in the file `bytes` starts.
    start: u64,
    bytes: Vec<u8>,
}

impl<F: DiskFile> Window<F> {
    /// The bytes at an offset; fewer at the end of the file.
    fn get(&mut self, offset: u64, len: usize) -> Result<&[u8], LogError> {
        let rest = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(rest);
        let is_inside = offset >= self.start && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !is_inside {
            self.bytes.resize(len.max(WINDOW_BYTES.min(rest)), 0);
            let read = read_fully(&*self.file, &mut self.bytes, offset).map_err(io_error("read", &self.name))?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        // The file may have become shorter since it was measured; then what is missing is missing.
        Ok(&self.bytes[from..(from + len).min(self.bytes.len())])
    }

    fn corrupt(&self, offset: u64, detail: String) -> LogError {
        LogError::Corrupt { file: self.name.clone(), offset, detail }
    }
}

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Makes what was read durable, and what stands behind it gone, before anyone acts on it.
///
/// The process may have ended before, or because, the last batch's sync did. It is then in the page cache at best, perhaps
/// marked as clean after a failed sync: so it is written again. Behind the last batch there may be parts of a torn one, of the
/// same epoch as what will be written there, or batches from before the file was used again: they are overwritten with zeros.
fn make_durable<F: DiskFile>(active: &Segment<F>, last_batch: Option<Extent>) -> Result<(), LogError> {
    let Segment { file, name, size_bytes, used_bytes, .. } = active;
    let mut buffer = Vec::new();
    if let Some(Extent { offset, bytes }) = last_batch {
        buffer.resize(bytes as usize, 0);
        let read = read_fully(&**file, &mut buffer, offset).map_err(io_error("read", name))?;
        file.write_at(&buffer[..read], offset).map_err(io_error("write", name))?;
    }
    let mut offset = *used_bytes;
    while offset < *size_bytes {
        buffer.resize((size_bytes - offset).min(WINDOW_BYTES as u64) as usize, 0);
        read_fully(&**file, &mut buffer, offset).map_err(io_error("read", name))?;
        if buffer.iter().any(|&byte| byte != 0) {
            buffer.fill(0);
            file.write_at(&buffer, offset).map_err(io_error("write", name))?;
        }
        offset += buffer.len() as u64;
    }
    file.sync_data().map_err(io_error("sync", name))
}

/// Removes what an interrupted step left, opens the spare segments, and makes all renames so far durable.
fn tidy_files<D: Disk>(disk: &D, options: &Options, names: &[String]) -> Result<Vec<Spare<D::File>>, LogError> {
    remove_if_present(disk, PREPARED_NAME).map_err(io_error("remove", PREPARED_NAME))?;
    let mut spares = Vec::new();
    for name in names.iter().filter(|name| file_kind(name) == Some(FileKind::Spare)) {
        let file = disk.open(name).map_err(io_error("open", name))?;
        let has_usual_size = file.len().map_err(io_error("measure", name))? == options.segment_bytes;
        if has_usual_size && spares.len() < options.max_spare_segments {
            spares.push(Spare { name: name.clone(), file: Arc::new(file) });
        } else {
            disk.remove(name).map_err(io_error("remove", name))?;
        }
    }
    disk.sync_dir().map_err(io_error("sync", "the log's directory"))?;
    Ok(spares)
}

/// The next segment starts later than the last one ended.
fn lost_batch<F>(index: &Index<F>, expected: u64, found: u64) -> LogError {
    let (file, offset) = end_of(index);
    let detail = format!("batch {expected} is damaged or its segment is missing, for the next segment starts with batch {found}");
    LogError::Corrupt { file, offset, detail }
}

fn missing_entry<F>(index: &Index<F>, group: GroupId, at: u64) -> LogError {
    let (file, offset) = end_of(index);
    LogError::Corrupt { file, offset, detail: format!("no segment has the entry {at} of group {}", group.0) }
}

/// Where reading stopped.
fn end_of<F>(index: &Index<F>) -> (String, u64) {
    index.segments.active().map_or_else(Default::default, |segment| (segment.name.clone(), segment.used_bytes))
}
