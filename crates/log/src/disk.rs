//! The seam for I/O, and two operations on small files that are made of it.
//!
//! A disk is one directory of flat files. Nothing here knows of segments.

use std::io;

/// One directory of files, named by flat names (no separators).
///
/// Obligations of an implementation:
/// - what [`DiskFile::sync_data`] covered survives a power loss; what it did not cover may be lost or kept, sector by sector;
/// - changes of the directory survive a power loss once [`Disk::sync_dir`] has returned, and before that in the order in which
///   they were made: none is kept without those before it;
/// - a handle stays usable after its file was renamed or removed;
/// - a full disk is reported as [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`].
///
/// All calls block.
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// The names of all files, in ascending order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file, open for reading and writing. Fails with [`io::ErrorKind::AlreadyExists`] if there is one.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file; one that has the name `to` already is replaced, atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes all creations, renames and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// How many more bytes can be stored, in all files together.
    fn available_bytes(&self) -> io::Result<u64>;
}

/// An open file of a [`Disk`]; shared between threads, positions are always given.
#[expect(clippy::len_without_is_empty, reason = "emptiness of a preallocated file says nothing")]
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes from `offset`. Fewer are read at the end of the file, or on a whim; 0 means the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, extending the file as needed. Not durable before [`DiskFile::sync_data`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file `len` bytes long and allocates them, so that writes within `len` can neither run out of space nor change
    /// what the file system has to record about the file. Bytes that were not there before read as zero.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// Makes everything written through any handle of this file durable, its length included. After an error nothing is known
    /// about what was written since the last success: it must be written again, a second sync proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts, or extends with zeros, to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// Replaces the file `name` by `bytes`, durably and at once: after a crash it has the old or the new content. Uses the name
/// with `.tmp` appended on the way.
pub fn write_atomically<D: Disk>(disk: &D, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    remove_if_present(disk, &temporary)?;
    let file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}

/// The whole content of a file; for small ones.
pub fn read_whole<D: Disk>(disk: &D, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let read = read_fully(&file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Fills `buffer` from `offset`, or as much of it as the file has; returns how much.
pub(crate) fn read_fully<F: DiskFile>(file: &F, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Removes a file that may not exist.
pub(crate) fn remove_if_present<D: Disk>(disk: &D, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the error says that the disk, or the user's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
