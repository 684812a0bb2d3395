//! [`MemoryDisk`]: a disk in memory that loses, tears and refuses writes when it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};
use crate::format::SECTOR_BYTES;

/// A disk in memory, for tests and the simulator. Clones share it.
///
/// It keeps apart what is durable and what is only written. [`MemoryDisk::restart`] is the end of a process: everything
/// written is there. [`MemoryDisk::power_loss`] is the end of the machine: of what was not synced, each sector of each write is
/// kept, lost or torn, and a prefix of the directory's changes is kept.
///
/// Operations that change something are counted; one of them can be made to fail, or to be the last. A failed write or
/// preallocation does nothing. After a failed sync what was written reads as before, but a later sync does not make it durable:
/// that is what Linux does.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// What happens instead of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with an error of this kind; later ones succeed.
    Error(io::ErrorKind),
    /// It and all later ones fail: the machine is about to lose power. If it is a write,
    /// [`MemoryDisk::power_loss`] may let a part of it through.
    Halt,
}

/// Draws a number below the given one; the source of all chance.
pub type Choose<'a> = &'a mut dyn FnMut(u64) -> u64;

impl MemoryDisk {
    /// An empty disk without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the bytes of all files together; files that are there already may exceed it. `None` takes the limit away.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// How many operations that change something were tried so far.
    pub fn operation_count(&self) -> u64 {
        self.state().operation_count
    }

    /// Makes the operation with this number, counted from 0 over the disk's life, go wrong.
    pub fn inject(&self, operation: u64, fault: Fault) {
        self.state().fault = Some((operation, fault));
    }

    /// How many bytes the write has that was halted; 0 if it was no write.
    pub fn halted_bytes(&self) -> usize {
        self.state().halted_write.as_ref().map_or(0, |(_, _, bytes)| bytes.len())
    }

    /// The disk as the next process finds it, when this one ends and the machine goes on. Handles of this one do not reach it.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut next = self.state().clone();
        next.fault = None;
        next.is_halted = false;
        next.halted_write = None;
        for file in next.files.values_mut() {
            file.handle_count = 0;
        }
        Self { state: Arc::new(Mutex::new(next)) }
    }

    /// The disk after a loss of power. Of a halted write, the first `halted_bytes` were still written before.
    #[must_use]
    pub fn power_loss(&self, halted_bytes: usize, choose: Choose<'_>) -> Self {
        let mut before = self.state().clone();
        if let Some((id, offset, bytes)) = before.halted_write.take() {
            let written = bytes[..halted_bytes.min(bytes.len())].to_vec();
            before.file_mut(id).write(offset, written);
        }
        let kept_changes = choose(before.unsynced_changes.len() as u64 + 1) as usize;
        let mut directory = before.durable_directory.clone();
        for change in before.unsynced_changes.iter().take(kept_changes) {
            change.apply(&mut directory);
        }
        let mut files = BTreeMap::new();
        for &id in directory.values() {
            files.insert(id, before.file_mut(id).after_power_loss(choose));
        }
        let next = State {
            durable_directory: directory.clone(),
            directory,
            files,
            next_file: before.next_file,
            capacity_bytes: before.capacity_bytes,
            operation_count: before.operation_count,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(next)) }
    }

    /// What a read of the whole file gives.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let id = state.directory.get(name)?;
        Some(state.files[id].written.clone())
    }

    /// Flips one bit of a file, as a failing medium does.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let id = state.directory[name];
        let file = state.file_mut(id);
        for bytes in [&mut file.written, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= 1 << bit;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no operation of the disk panics while it holds the lock")
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check_power()?;
        Ok(state.directory.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = self.state();
        state.begin_operation()?;
        if state.directory.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileState::default());
        state.change_directory(DirectoryChange::Add { name: name.to_owned(), id });
        Ok(MemoryFile::new(self, &mut state, id))
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = self.state();
        state.check_power()?;
        let &id = state.directory.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemoryFile::new(self, &mut state, id))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin_operation()?;
        if !state.directory.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_directory(DirectoryChange::Remove { name: name.to_owned() });
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin_operation()?;
        if !state.directory.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_directory(DirectoryChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.begin_operation()?;
        let before = std::mem::take(&mut state.durable_directory);
        state.durable_directory = state.directory.clone();
        state.unsynced_changes.clear();
        for id in before.into_values() {
            state.forget_unreachable(id);
        }
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        state.check_power()?;
        Ok(state.available_bytes())
    }
}

/// An open file of a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
}

impl MemoryFile {
    fn new(disk: &MemoryDisk, state: &mut State, id: u64) -> Self {
        state.file_mut(id).handle_count += 1;
        Self { disk: disk.clone(), id }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // A disk whose lock a panic poisoned is not looked at again.
        if let Ok(mut state) = self.disk.state.lock() {
            state.file_mut(self.id).handle_count -= 1;
            state.forget_unreachable(self.id);
        }
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.check_power()?;
        let written = &state.files[&self.id].written;
        let rest = written.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Err(error) = state.begin_operation() {
            let is_first_halted = state.is_halted && state.halted_at == state.operation_count;
            if is_first_halted {
                state.halted_write = Some((self.id, offset, bytes.to_vec()));
            }
            return Err(error);
        }
        state.check_room(self.id, offset + bytes.len() as u64)?;
        state.file_mut(self.id).write(offset, bytes.to_vec());
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin_operation()?;
        state.check_room(self.id, len)?;
        let file = state.file_mut(self.id);
        let old_len = file.written.len() as u64;
        if old_len < len {
            file.write(old_len, vec![0; (len - old_len) as usize]);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let result = state.begin_operation();
        let is_halted = state.is_halted;
        let file = state.file_mut(self.id);
        match result {
            Ok(()) => {
                for write in std::mem::take(&mut file.unsynced) {
                    write.apply(&mut file.durable);
                }
                Ok(())
            }
            Err(error) => {
                if !is_halted {
                    file.unsynced.clear();
                }
                Err(error)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check_power()?;
        Ok(state.files[&self.id].written.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin_operation()?;
        state.check_room(self.id, len)?;
        let file = state.file_mut(self.id);
        let change = FileChange::Resize { len };
        change.apply(&mut file.written);
        file.unsynced.push(change);
        Ok(())
    }
}

/// Everything behind one lock.
#[derive(Clone, Debug, Default)]
struct State {
    /// Names and files as they read.
    directory: BTreeMap<String, u64>,
    durable_directory: BTreeMap<String, u64>,
    /// What made the one from the other.
    unsynced_changes: Vec<DirectoryChange>,
    /// By number; those without a name too, for their handles.
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    capacity_bytes: Option<u64>,
    operation_count: u64,
    fault: Option<(u64, Fault)>,
    is_halted: bool,
    /// `operation_count` after the operation that was halted.
    halted_at: u64,
    halted_write: Option<(u64, u64, Vec<u8>)>,
}

impl State {
    /// Counts an operation and lets it fail if it should.
    fn begin_operation(&mut self) -> io::Result<()> {
        let number = self.operation_count;
        self.operation_count += 1;
        self.check_power()?;
        match self.fault.take_if(|(at, _)| *at == number) {
            None => Ok(()),
            Some((_, Fault::Error(kind))) => Err(kind.into()),
            Some((_, Fault::Halt)) => {
                self.is_halted = true;
                self.halted_at = self.operation_count;
                self.check_power()
            }
        }
    }

    fn check_power(&self) -> io::Result<()> {
        if self.is_halted { Err(io::Error::other("the disk was halted")) } else { Ok(()) }
    }

    fn check_room(&self, id: u64, len: u64) -> io::Result<()> {
        let growth = len.saturating_sub(self.files[&id].written.len() as u64);
        if growth > self.available_bytes() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn available_bytes(&self) -> u64 {
        let used: u64 = self.directory.values().map(|id| self.files[id].written.len() as u64).sum();
        self.capacity_bytes.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(used))
    }

    fn change_directory(&mut self, change: DirectoryChange) {
        change.apply(&mut self.directory);
        self.unsynced_changes.push(change);
    }

    /// Drops a file that has no handle, no name, and no name that a power loss could give it back.
    fn forget_unreachable(&mut self, id: u64) {
        let is_added = |change: &DirectoryChange| matches!(change, DirectoryChange::Add { id: added, .. } if *added == id);
        let has_name = self.directory.values().chain(self.durable_directory.values()).any(|&named| named == id);
        let is_open = self.files.get(&id).is_some_and(|file| file.handle_count > 0);
        if !is_open && !has_name && !self.unsynced_changes.iter().any(is_added) {
            self.files.remove(&id);
        }
    }

    fn file_mut(&mut self, id: u64) -> &mut FileState {
        self.files.get_mut(&id).expect("a file lives as long as a name or a handle of it")
    }
}

#[derive(Clone, Debug)]
enum DirectoryChange {
    Add { name: String, id: u64 },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl DirectoryChange {
    fn apply(&self, directory: &mut BTreeMap<String, u64>) {
        match self {
            Self::Add { name, id } => {
                directory.insert(name.clone(), *id);
            }
            Self::Remove { name } => {
                directory.remove(name);
            }
            Self::Rename { from, to } => {
                if let Some(id) = directory.remove(from) {
                    directory.insert(to.clone(), id);
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct FileState {
    /// The content as it reads.
    written: Vec<u8>,
    /// The content that survives a power loss.
    durable: Vec<u8>,
    /// What was done since the last sync.
    unsynced: Vec<FileChange>,
    handle_count: usize,
}

impl FileState {
    fn write(&mut self, offset: u64, bytes: Vec<u8>) {
        let change = FileChange::Write { offset, bytes };
        change.apply(&mut self.written);
        self.unsynced.push(change);
    }

    fn after_power_loss(&self, choose: Choose<'_>) -> Self {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            change.apply_in_part(&mut content, choose);
        }
        Self { durable: content.clone(), written: content, ..Self::default() }
    }
}

#[derive(Clone, Debug)]
enum FileChange {
    Write { offset: u64, bytes: Vec<u8> },
    Resize { len: u64 },
}

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(content, *offset, bytes),
            Self::Resize { len } => content.resize(*len as usize, 0),
        }
    }

    /// Each sector on its own is kept, lost, or kept up to some byte.
    fn apply_in_part(&self, content: &mut Vec<u8>, choose: Choose<'_>) {
        let Self::Write { offset, bytes } = self else {
            if choose(2) == 0 {
                self.apply(content);
            }
            return;
        };
        let mut at = *offset;
        let end = offset + bytes.len() as u64;
        while at < end {
            let sector_end = (at + 1).next_multiple_of(SECTOR_BYTES).min(end);
            let sector = &bytes[(at - offset) as usize..(sector_end - offset) as usize];
            match choose(5) {
                0 | 1 => put(content, at, sector),
                2 | 3 => {}
                _ => put(content, at, &sector[..choose(sector.len() as u64) as usize]),
            }
            at = sector_end;
        }
    }
}

/// Overwrites and extends as needed.
fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = offset as usize;
    let end = offset + bytes.len();
    if bytes.is_empty() {
        return;
    }
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
