//! Snapshot files.
//!
//! A snapshot file holds a shard at one applied index, in no engine's form: its state, then its pairs, in all tables, but for
//! rows that are made from the state. The same file is a memory engine's durable point on its own node and what a follower is
//! sent. Layout, integers little-endian:
//!
//! ```text
//! file   := magic "QRSN" | version u16 | zero u16 | block*
//! block  := tag u8 | zero u8[3] | length u32 | crc32c(tag, length, payload) u32 | payload
//! tag 1  := the shard's state (once, first)
//! tag 2  := pairs: (table u8 | key length u32 | value length u32 | key | value)*
//! tag 3  := end: number of pairs u64 | revision u64 (once, last)
//! ```
//!
//! A file is written under another name, synced, and renamed, so that a whole name means a whole file. Every block is checked
//! again whenever the file is read.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_engine::{Engine, EngineError, Table, View};
use quorate_keyspace::Shard;
use quorate_log::{Disk, DiskFile, GroupId, LogId, LogIndex, Term};

const MAGIC: &[u8; 4] = b"QRSN";
const VERSION: u16 = 1;
const PREAMBLE_BYTES: u64 = 8;
const BLOCK_HEADER_BYTES: usize = 12;

const TAG_STATE: u8 = 1;
const TAG_PAIRS: u8 = 2;
const TAG_END: u8 = 3;

/// Blocks of pairs are closed at this size, so a single pair decides the largest one.
const BLOCK_BYTES: usize = 64 << 10;

/// A longer block is damage, not data: values are far smaller.
const MAX_BLOCK_BYTES: usize = 256 << 20;

/// What is behind the name of a file that is not whole: not yet, or not any more.
const UNFINISHED: [&str; 2] = [".part", GONE];
const GONE: &str = ".gone";

/// A file that is removed is cut shorter by so much at a time.
const REMOVED_AT_ONCE_BYTES: u64 = 32 << 20;

/// The name of a snapshot file: which group, at which log id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotFile {
    /// The group.
    pub group: GroupId,
    /// The last entry applied in it.
    pub at: LogId,
}

impl fmt::Display for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}-{:016x}.snap", self.group.0, self.at.index.0, self.at.term.0)
    }
}

impl SnapshotFile {
    /// The file with this name, if it is one.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".snap")?.split('-');
        let mut number = || parts.next().filter(|part| part.len() == 16).and_then(|part| u64::from_str_radix(part, 16).ok());
        let (group, index, term) = (number()?, number()?, number()?);
        let file = Self { group: GroupId(group), at: LogId { term: Term(term), index: LogIndex(index) } };
        parts.next().is_none().then_some(file)
    }

    /// The group of a file, whole or in parts.
    pub(crate) fn group_of(name: &str) -> Option<GroupId> {
        Self::parse(UNFINISHED.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)).map(|file| file.group)
    }

    pub(crate) fn part(&self) -> String {
        format!("{self}.part")
    }
}

/// The snapshot files in a folder. What a crash left half written, or half removed, is removed.
pub(crate) fn find<D: Disk>(files: &D) -> io::Result<Vec<SnapshotFile>> {
    let names = files.list()?;
    let is_unfinished = |name: &&String| UNFINISHED.iter().any(|suffix| name.ends_with(suffix));
    for name in names.iter().filter(is_unfinished).filter(|name| SnapshotFile::group_of(name).is_some()) {
        files.remove(name)?;
    }
    Ok(names.iter().filter_map(|name| SnapshotFile::parse(name)).collect())
}

/// How much of a file is in the engine that is filled from it. Who fills tells, others look.
#[derive(Debug, Default)]
pub struct Filled(AtomicU32);

impl Filled {
    fn tell(&self, bytes: u64, of_bytes: u64) {
        let thousandths = (bytes * 1_000 / of_bytes.max(1)).min(1_000);
        self.0.store(thousandths as u32, Ordering::Relaxed);
    }

    /// In thousandths of the file.
    pub(crate) fn thousandths(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Puts a file's pairs into an engine, and returns the shard's state and the file's length. Tells meanwhile how far it is.
pub(crate) fn load<D: Disk>(files: &D, file: &SnapshotFile, engine: &dyn Engine, filled: &Filled) -> io::Result<(Bytes, u64)> {
    let mut blocks = Blocks::open(files, &file.to_string())?;
    let state = blocks.expect(TAG_STATE)?;
    let mut rebuild = engine.rebuild().map_err(io_error)?;
    if engine.capabilities().durable {
        for (key, value) in Shard::state_rows(state.clone()).map_err(|error| damaged(&error.to_string()))? {
            rebuild.put(Table::Meta, key, value).map_err(io_error)?;
        }
    }
    let mut pairs = 0_u64;
    loop {
        let (tag, mut payload) = blocks.next()?;
        match tag {
            TAG_PAIRS => {
                while !payload.is_empty() {
                    let (table, key, value) = take_pair(&mut payload)?;
                    rebuild.put(table, key, value).map_err(io_error)?;
                    pairs += 1;
                }
                filled.tell(blocks.offset, blocks.len);
            }
            TAG_END => {
                let revision = check_end(payload, pairs)?;
                rebuild.commit(file.at.index.0, revision).map_err(io_error)?;
                return Ok((state, blocks.len));
            }
            _ => return Err(damaged("unknown block")),
        }
    }
}

/// The system's errors stay what they are.
fn io_error(error: EngineError) -> io::Error {
    match error {
        EngineError::Io(error) => error,
        EngineError::Corrupt(why) => io::Error::new(io::ErrorKind::InvalidData, why),
    }
}

pub(crate) fn cut<D: Disk>(files: &D, file: &SnapshotFile, view: &dyn View, state: &Bytes) -> io::Result<u64> {
    assert_eq!(view.applied(), file.at.index.0, "a snapshot's view is at the index in its name");
    let part = file.part();
    remove_if_there(files, &part)?;
    // A half file would keep the room that the disk lacks. If it cannot be removed either, the next try does it.
    write(files, file, view, state).inspect_err(|_| drop(remove_if_there(files, &part)))
}

fn write<D: Disk>(files: &D, file: &SnapshotFile, view: &dyn View, state: &Bytes) -> io::Result<u64> {
    let part = file.part();
    let mut writer = Writer { file: files.create(&part)?, offset: 0, unsynced_bytes: 0, buffer: BytesMut::new() };
    writer.buffer.put_slice(MAGIC);
    writer.buffer.put_u16_le(VERSION);
    writer.buffer.put_u16_le(0);
    writer.put_block(TAG_STATE, state)?;
    let mut pairs = 0_u64;
    let mut block = BytesMut::with_capacity(BLOCK_BYTES + 1024);
    for table in Table::ALL {
        for item in view.pairs(table) {
            let (key, value) = item.map_err(io::Error::other)?;
            if table == Table::Meta && !Shard::is_snapshot_row(&key) {
                continue;
            }
            put_pair(&mut block, table, &key, &value);
            pairs += 1;
            if block.len() >= BLOCK_BYTES {
                writer.put_block(TAG_PAIRS, &block)?;
                block.clear();
            }
        }
    }
    if !block.is_empty() {
        writer.put_block(TAG_PAIRS, &block)?;
    }
    let mut end = BytesMut::with_capacity(16);
    end.put_u64_le(pairs);
    end.put_u64_le(view.revision());
    writer.put_block(TAG_END, &end)?;
    let size_bytes = writer.finish()?;
    files.rename(&part, &file.to_string())?;
    files.sync_dir()?;
    Ok(size_bytes)
}

pub(crate) fn read_piece<D: Disk>(files: &D, file: &SnapshotFile, offset: u64, max_bytes: u64) -> io::Result<(u64, Bytes)> {
    let handle = files.open(&file.to_string())?;
    let total_bytes = handle.len()?;
    let mut piece = vec![0; max_bytes.min(total_bytes.saturating_sub(offset)) as usize];
    read_exact(&handle, &mut piece, offset)?;
    Ok((total_bytes, piece.into()))
}

pub(crate) fn stage<D: Disk>(
    files: &D,
    file: &SnapshotFile,
    offset: u64,
    total_bytes: u64,
    data: &Bytes,
) -> io::Result<(u64, bool)> {
    let part = file.part();
    let handle = if offset == 0 {
        remove_if_there(files, &part)?;
        files.create(&part)?
    } else {
        files.open(&part)?
    };
    handle.write_at(data, offset)?;
    let next_offset = offset + data.len() as u64;
    if next_offset < total_bytes {
        return Ok((next_offset, false));
    }
    handle.sync_data()?;
    verify(files, &part, file)?;
    files.rename(&part, &file.to_string())?;
    files.sync_dir()?;
    Ok((next_offset, true))
}

pub(crate) fn remove<D: Disk>(files: &D, names: impl IntoIterator<Item = String>) {
    for name in names {
        // A file that stays behind costs room, and is removed at the next start.
        let _ = remove_in_steps(files, &name);
    }
}

/// A file system that gives back a large file at once holds up everybody's syncs meanwhile, those of the log among them.
fn remove_in_steps<D: Disk>(files: &D, name: &str) -> io::Result<()> {
    let file = files.open(name)?;
    let mut len = file.len()?;
    if len <= REMOVED_AT_ONCE_BYTES {
        return files.remove(name);
    }
    // A whole name means a whole file.
    let gone = format!("{}{GONE}", UNFINISHED.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name));
    files.rename(name, &gone)?;
    files.sync_dir()?;
    while len > REMOVED_AT_ONCE_BYTES {
        len -= REMOVED_AT_ONCE_BYTES;
        file.truncate(len)?;
    }
    files.remove(&gone)
}

/// Reads a whole file and checks that it is what its name says.
fn verify<D: Disk>(files: &D, name: &str, file: &SnapshotFile) -> io::Result<()> {
    let mut blocks = Blocks::open(files, name)?;
    let header = Shard::decode_header(blocks.expect(TAG_STATE)?).map_err(io::Error::other)?;
    if (header.applied_index, header.applied_term) != (file.at.index.0, file.at.term.0) {
        return Err(damaged("it holds another state than its name says"));
    }
    let mut pairs = 0_u64;
    loop {
        let (tag, mut payload) = blocks.next()?;
        match tag {
            TAG_PAIRS => {
                while !payload.is_empty() {
                    take_pair(&mut payload)?;
                    pairs += 1;
                }
            }
            TAG_END => return check_end(payload, pairs).map(|_| ()),
            _ => return Err(damaged("unknown block")),
        }
    }
}

fn put_pair(block: &mut BytesMut, table: Table, key: &[u8], value: &[u8]) {
    block.put_u8(table as u8);
    block.put_u32_le(key.len() as u32);
    block.put_u32_le(value.len() as u32);
    block.put_slice(key);
    block.put_slice(value);
}

fn take_pair(payload: &mut Bytes) -> io::Result<(Table, Bytes, Bytes)> {
    if payload.len() < 9 {
        return Err(damaged("a pair is cut"));
    }
    let table = Table::from_tag(payload.get_u8()).ok_or_else(|| damaged("unknown table"))?;
    let key_bytes = payload.get_u32_le() as usize;
    let value_bytes = payload.get_u32_le() as usize;
    if payload.len() < key_bytes.saturating_add(value_bytes) {
        return Err(damaged("a pair is cut"));
    }
    // Copies: the engine shall not keep whole blocks alive.
    let key = Bytes::copy_from_slice(&payload.split_to(key_bytes));
    let value = Bytes::copy_from_slice(&payload.split_to(value_bytes));
    Ok((table, key, value))
}

fn check_end(mut payload: Bytes, pairs: u64) -> io::Result<u64> {
    if payload.len() != 16 || payload.get_u64_le() != pairs {
        return Err(damaged("it does not hold the number of pairs that its end says"));
    }
    Ok(payload.get_u64_le())
}

/// A file is synced as it is written: a sync of all of it at the end would hold up those of the log.
const SYNCED_AT_ONCE_BYTES: u64 = 8 << 20;

struct Writer<F> {
    file: F,
    offset: u64,
    unsynced_bytes: u64,
    buffer: BytesMut,
}

impl<F: DiskFile> Writer<F> {
    fn put_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
        self.buffer.put_u8(tag);
        self.buffer.put_bytes(0, 3);
        self.buffer.put_u32_le(payload.len() as u32);
        self.buffer.put_u32_le(block_checksum(tag, payload));
        self.buffer.put_slice(payload);
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.unsynced_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced_bytes >= SYNCED_AT_ONCE_BYTES {
            self.unsynced_bytes = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<u64> {
        self.file.sync_data()?;
        Ok(self.offset)
    }
}

fn block_checksum(tag: u8, payload: &[u8]) -> u32 {
    let mut head = [0; 5];
    head[0] = tag;
    head[1..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// The blocks of a file, each checked.
struct Blocks<F> {
    file: F,
    offset: u64,
    len: u64,
}

impl<F: DiskFile> Blocks<F> {
    fn open<D: Disk<File = F>>(files: &D, name: &str) -> io::Result<Self> {
        let file = files.open(name)?;
        let len = file.len()?;
        let mut preamble = [0; PREAMBLE_BYTES as usize];
        read_exact(&file, &mut preamble, 0)?;
        if preamble[..4] != MAGIC[..] {
            return Err(damaged("it is no snapshot file"));
        }
        let version = u16::from_le_bytes([preamble[4], preamble[5]]);
        if version != VERSION {
            let what = format!("snapshot format {version} is not known here ({VERSION} is): written by another Quorate?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self { file, offset: PREAMBLE_BYTES, len })
    }

    fn next(&mut self) -> io::Result<(u8, Bytes)> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        read_exact(&self.file, &mut header, self.offset)?;
        let mut fields = &header[..];
        let tag = fields.get_u8();
        fields.advance(3);
        let length = fields.get_u32_le() as usize;
        let checksum = fields.get_u32_le();
        let start = self.offset + BLOCK_HEADER_BYTES as u64;
        if length > MAX_BLOCK_BYTES || start + length as u64 > self.len {
            return Err(damaged("a block is cut"));
        }
        let mut payload = vec![0; length];
        read_exact(&self.file, &mut payload, start)?;
        if block_checksum(tag, &payload) != checksum {
            return Err(damaged("a block's checksum is wrong"));
        }
        self.offset = start + length as u64;
        Ok((tag, payload.into()))
    }

    fn expect(&mut self, tag: u8) -> io::Result<Bytes> {
        match self.next()? {
            (found, payload) if found == tag => Ok(payload),
            _ => Err(damaged("a block is missing")),
        }
    }
}

fn read_exact<F: DiskFile>(file: &F, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => return Err(damaged("it ends too early")),
            read => done += read,
        }
    }
    Ok(())
}

fn remove_if_there<D: Disk>(files: &D, name: &str) -> io::Result<()> {
    match files.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot file is damaged: {what}"))
}

#[cfg(test)]
mod tests;
