//! A directory of the real file system as a [`Disk`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};

/// A directory, owned by this process alone while the value lives.
///
/// Also for the node's other files (snapshots, small state files): nothing in it is particular to the log.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    /// An open handle of the directory, for syncing it.
    handle: File,
    /// Holds the exclusive lock; the operating system gives it up when the process ends, however it ends.
    _lock: File,
}

impl RealDisk {
    /// Opens a directory, making it and its parents if need be, and locks it by the file `LOCK` in it.
    ///
    /// Fails with [`io::ErrorKind::ResourceBusy`] if another process (or another `RealDisk` of this one) has it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        create_durably(directory)?;
        let lock_path = directory.join(LOCK);
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("the directory {} is in use by another process", directory.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let handle = File::open(directory)?;
        handle.sync_all()?;
        Ok(Self { directory: directory.to_owned(), handle, _lock: lock })
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let is_flat = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".." && name != LOCK;
        if is_flat {
            Ok(self.directory.join(name))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no plain file name")))
        }
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // A name that is not UTF-8 was not written by us.
            if let Ok(name) = entry.file_name().into_string()
                && name != LOCK
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path(name)?).map(RealFile)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new().read(true).write(true).open(self.path(name)?).map(RealFile)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let statistics = rustix::fs::fstatvfs(&self.handle)?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }
}

/// An open file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    /// Writes zeros rather than reserving blocks: a block that was only reserved is marked as written when it first is, and
    /// syncing that change of the file's metadata is what preallocation is to avoid.
    fn preallocate(&self, len: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = self.0.metadata()?.len();
        while offset < len {
            let step = (len - offset).min(ZEROS_BYTES as u64);
            self.0.write_all_at(&zeros[..step as usize], offset)?;
            offset += step;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// The file whose lock says that the directory is taken; not listed, and not to be used otherwise.
const LOCK: &str = "LOCK";

/// How many zeros are written at once.
const ZEROS_BYTES: usize = 1 << 20;

/// Makes a directory and its missing parents, each durable in its parent.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_durably(parent)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
