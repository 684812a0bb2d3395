//! What happens on the disk; every call here blocks.

use std::fs::File;
use std::hash::Hasher;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use siphasher::sip::SipHasher13;

use super::NAME;
use crate::key_encoding::OWN_PREFIX;
use crate::objects::content_tag;
use crate::{Clock, Condition, ErrorKind, StoreError, Written};

/// Writers of names that hash alike wait for each other.
const LOCKS: u64 = 64;

/// What is beside for longer was left by a crash.
const LEFTOVER_MS: u64 = 60 * 60 * 1000;

/// A folder may be removed between being made and being used, so often.
const MAX_RACES: usize = 8;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Says that a folder is one of ours; in the folder [`OWN_PREFIX`]. An empty file.
pub(super) const MARK: &str = "store";

/// The files below a folder.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    below: Vec<String>,
    /// So many of `below` are not made.
    must_exist: usize,
    /// Whether a folder without the mark is none of ours.
    is_marked: bool,
    clock: Clock,
    process: u64,
    written: AtomicU64,
    opened: Mutex<Option<Arc<Opened>>>,
}

/// Folders that are open.
#[derive(Debug)]
struct Opened {
    folder: OwnedFd,
    temporary: OwnedFd,
    locks: OwnedFd,
}

/// A path within the folder, at its last part.
struct Spot {
    parent: OwnedFd,
    file: String,
}

fn error(kind: ErrorKind, message: impl std::fmt::Display) -> StoreError {
    StoreError::new(NAME, kind, message)
}

/// What an error of the system means.
fn system(what: &str, errno: Errno) -> StoreError {
    let kind = match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::LOOP => return error(ErrorKind::Denied, format_args!("{what}: symbolic links are not followed")),
        Errno::NAMETOOLONG | Errno::FBIG => ErrorKind::TooLarge,
        Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY => {
            return error(ErrorKind::BadKey, format_args!("{what}: a folder is in the way, or a file where a folder should be"));
        }
        Errno::STALE | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::NOTCONN => ErrorKind::Unreachable,
        Errno::TIMEDOUT => ErrorKind::Timeout,
        _ => ErrorKind::Failing,
    };
    error(kind, format_args!("{what}: {errno}"))
}

impl Files {
    pub(super) fn new(root: PathBuf, below: Vec<String>, must_exist: usize, clock: Clock) -> Self {
        let process = getrandom::u64().unwrap_or_else(|_| clock.stamp().unix_us);
        let (written, opened) = (AtomicU64::new(0), Mutex::new(None));
        Self { root, below, must_exist, is_marked: false, clock, process, written, opened }
    }

    /// The same, if the folder has the mark.
    pub(super) fn marked(self) -> Self {
        Self { is_marked: true, ..self }
    }

    /// The folder itself; opened again if another is of that name by now, or none: it was moved, or a disk was mounted over it.
    fn opened(&self) -> Result<Arc<Opened>, StoreError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = opened.as_ref().filter(|there| self.is_in_place(&there.folder)) {
            return Ok(there.clone());
        }
        let fresh = Arc::new(self.open()?);
        *opened = Some(fresh.clone());
        Ok(fresh)
    }

    fn is_in_place(&self, folder: &OwnedFd) -> bool {
        let path = self.root.join(self.below.join("/"));
        match (rustix::fs::fstat(folder), rustix::fs::stat(&path)) {
            (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
            _ => false,
        }
    }

    fn open(&self) -> Result<Opened, StoreError> {
        let folder = self.open_folder()?;
        if self.is_marked && !has_mark(&folder)? {
            let place = self.root.join(self.below.join("/"));
            let way_out = "a disk that is not mounted? A keyspace marks its folder when it is made; making it again does, too";
            return Err(error(ErrorKind::NoContainer, format_args!("{} has no {OWN_PREFIX}/{MARK}: {way_out}", place.display())));
        }
        let own = open_or_make(&folder, OWN_PREFIX)?;
        let (temporary, locks) = (open_or_make(&own, "tmp")?, open_or_make(&own, "locks")?);
        self.remove_leftovers(&temporary);
        Ok(Opened { folder, temporary, locks })
    }

    /// The folder, made as far as it may be.
    fn open_folder(&self) -> Result<OwnedFd, StoreError> {
        let missing = |what: &str, errno| match errno {
            Errno::NOENT => error(ErrorKind::NoContainer, format_args!("there is no folder {what}")),
            errno => system(what, errno),
        };
        // The folder that the operator named may be a link.
        let root = self.root.to_string_lossy();
        let open_root = rustix::fs::openat(CWD, &self.root, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty());
        let mut folder = open_root.map_err(|errno| missing(&root, errno))?;
        for (at, part) in self.below.iter().enumerate() {
            folder = match rustix::fs::openat(&folder, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if at >= self.must_exist => make_folder(&folder, part)?,
                Err(errno) => return Err(missing(&format!("{root}/{}", self.below.join("/")), errno)),
                Ok(folder) => folder,
            };
        }
        Ok(folder)
    }

    /// Marks the folder, durably.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        if !self.is_marked {
            return Ok(());
        }
        let own = open_or_make(&self.open_folder()?, OWN_PREFIX)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let marked = rustix::fs::openat(&own, MARK, flags, mode).and_then(|_| rustix::fs::fsync(&own));
        marked.map_err(|errno| system(MARK, errno))
    }

    /// What a crash left; what cannot be removed stays.
    fn remove_leftovers(&self, temporary: &OwnedFd) {
        let Ok(entries) = Dir::read_from(temporary) else { return };
        for entry in entries.flatten() {
            let Ok(stat) = rustix::fs::statat(temporary, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let written_ms = u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1000);
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && written_ms.saturating_add(LEFTOVER_MS) < self.clock.unix_ms() {
                rustix::fs::unlinkat(temporary, entry.file_name(), AtFlags::empty()).ok();
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.opened().map(|_| ())
    }

    /// The content of a file; none if there is no such file, or a folder of that name.
    pub(super) fn read(&self, path: &str, max_bytes: u64) -> Result<Option<Bytes>, StoreError> {
        let opened = self.opened()?;
        match spot(&opened.folder, path, false)? {
            Some(spot) => spot.read(path, max_bytes),
            None => Ok(None),
        }
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8], condition: &Condition) -> Result<Written, StoreError> {
        let opened = self.opened()?;
        let temporary = Temporary::write(&opened.temporary, self.next_name(), bytes)?;
        let _lock = lock(&opened.locks, path)?;
        for _ in 0..MAX_RACES {
            let Some(spot) = spot(&opened.folder, path, true)? else { continue };
            if let Condition::Matches(tag) = condition
                && spot.read(path, u64::MAX)?.is_none_or(|there| content_tag(&there) != *tag)
            {
                return Ok(Written::ConditionFailed);
            }
            let placed = match condition {
                Condition::Absent => temporary.place_anew(&spot),
                _ => temporary.place(&spot),
            };
            match placed {
                Ok(()) => {}
                Err(Errno::EXIST) if *condition == Condition::Absent => {
                    // A folder of that name is none of ours to replace, and no value.
                    return match spot.read(path, u64::MAX)? {
                        Some(_) => Ok(Written::ConditionFailed),
                        None => Err(system(path, Errno::ISDIR)),
                    };
                }
                // The folder went as it became empty.
                Err(Errno::NOENT) => continue,
                Err(errno @ (Errno::IO | Errno::TIMEDOUT)) => return Err(system(path, errno).unknown()),
                Err(errno) => return Err(system(path, errno)),
            }
            rustix::fs::fsync(&spot.parent).map_err(|errno| system(path, errno).unknown())?;
            return Ok(Written::Done(None));
        }
        Err(error(ErrorKind::Failing, format_args!("{path}: its folder is removed again and again")))
    }

    pub(super) fn remove(&self, path: &str, condition: &Condition) -> Result<Written, StoreError> {
        let opened = self.opened()?;
        let _lock = lock(&opened.locks, path)?;
        let gone = if *condition == Condition::Always { Written::Done(None) } else { Written::ConditionFailed };
        let Some(spot) = spot(&opened.folder, path, false)? else {
            return Ok(gone);
        };
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => false,
            Condition::Matches(tag) => spot.read(path, u64::MAX)?.is_some_and(|there| content_tag(&there) == *tag),
        };
        if !holds {
            return Ok(Written::ConditionFailed);
        }
        match rustix::fs::unlinkat(&spot.parent, &spot.file, AtFlags::empty()) {
            Ok(()) => {}
            // A folder of that name is no value.
            Err(Errno::NOENT | Errno::ISDIR) => return Ok(gone),
            Err(errno) => return Err(system(path, errno)),
        }
        rustix::fs::fsync(&spot.parent).map_err(|errno| system(path, errno).unknown())?;
        remove_empty_folders(&opened.folder, path);
        Ok(Written::Done(None))
    }

    /// Names each child of a folder, and says whether it is a folder; neither links nor what is no text.
    pub(super) fn children(&self, path: &str, offer: &mut dyn FnMut(&str, bool)) -> Result<(), StoreError> {
        let opened = self.opened()?;
        let folder = match path {
            "" => rustix::fs::openat(&opened.folder, ".", FOLDER, Mode::empty()).map_err(|errno| system(path, errno))?,
            path => match spot(&opened.folder, path, false)? {
                Some(spot) => match rustix::fs::openat(&spot.parent, &spot.file, FOLDER, Mode::empty()) {
                    Ok(folder) => folder,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                    Err(errno) => return Err(system(path, errno)),
                },
                None => return Ok(()),
            },
        };
        let entries = Dir::read_from(&folder).map_err(|errno| system(path, errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| system(path, errno))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let Ok(stat) = rustix::fs::statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            match kind {
                FileType::RegularFile => offer(name, false),
                FileType::Directory if name != "." && name != ".." => offer(name, true),
                _ => {}
            }
        }
        Ok(())
    }

    fn next_name(&self) -> String {
        format!("{:016x}-{}", self.process, self.written.fetch_add(1, Ordering::Relaxed))
    }
}

fn has_mark(folder: &OwnedFd) -> Result<bool, StoreError> {
    match rustix::fs::statat(folder, format!("{OWN_PREFIX}/{MARK}"), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(system(MARK, errno)),
    }
}

/// Finds the folder of a path, without following links, and makes it if `make` says so. None if it is not there.
fn spot(folder: &OwnedFd, path: &str, make: bool) -> Result<Option<Spot>, StoreError> {
    let again = |errno| system(path, errno);
    let (folders, file) = path.rsplit_once('/').map_or(("", path), |(folders, file)| (folders, file));
    let mut parent = rustix::fs::openat(folder, ".", FOLDER, Mode::empty()).map_err(again)?;
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        parent = match rustix::fs::openat(&parent, part, FOLDER, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) if make => match make_folder(&parent, part) {
                Ok(folder) => folder,
                // The parent itself went as it became empty.
                Err(_) if rustix::fs::fstat(&parent).is_ok_and(|stat| stat.st_nlink == 0) => return Ok(None),
                Err(error) => return Err(error),
            },
            Err(Errno::NOENT) => return Ok(None),
            // With NOFOLLOW, a link is no folder.
            Err(Errno::NOTDIR | Errno::LOOP) if is_link(&parent, part) => return Err(system(path, Errno::LOOP)),
            Err(Errno::NOTDIR) if !make => return Ok(None),
            Err(errno) => return Err(again(errno)),
        };
    }
    Ok(Some(Spot { parent, file: file.to_owned() }))
}

fn is_link(folder: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

impl Spot {
    fn read(&self, path: &str, max_bytes: u64) -> Result<Option<Bytes>, StoreError> {
        // NONBLOCK: a pipe of that name would wait for somebody who writes.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.parent, &self.file, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(system(path, errno)),
        };
        let failed = |e: std::io::Error| error(ErrorKind::Failing, format_args!("{path}: {e}"));
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        if metadata.len() > max_bytes {
            let message = format!("{path} is of {} bytes, {max_bytes} bytes are read at most", metadata.len());
            return Err(error(ErrorKind::TooLarge, message));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > max_bytes {
            return Err(error(ErrorKind::TooLarge, format_args!("{path} is of more than {max_bytes} bytes")));
        }
        Ok(Some(bytes.into()))
    }
}

/// A file that is not in its place yet, and is removed if it does not get there.
struct Temporary<'a> {
    folder: &'a OwnedFd,
    name: String,
}

impl<'a> Temporary<'a> {
    fn write(folder: &'a OwnedFd, name: String, bytes: &[u8]) -> Result<Self, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let file = rustix::fs::openat(folder, &name, flags, mode).map_err(|errno| system("a new file", errno))?;
        let temporary = Self { folder, name };
        let mut file = File::from(file);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
                _ => ErrorKind::Failing,
            };
            error(kind, format_args!("a new file: {e}"))
        })?;
        Ok(temporary)
    }

    /// Replaces what is there.
    fn place(&self, spot: &Spot) -> Result<(), Errno> {
        rustix::fs::renameat(self.folder, &self.name, &spot.parent, &spot.file)
    }

    /// Takes a place where nothing is. Network file systems have no renaming with that condition, and have links.
    fn place_anew(&self, spot: &Spot) -> Result<(), Errno> {
        match rustix::fs::renameat_with(self.folder, &self.name, &spot.parent, &spot.file, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(self.folder, &self.name, &spot.parent, &spot.file, AtFlags::empty())
            }
            placed => placed,
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty()).ok();
    }
}

/// Excludes other writers of this path until it is dropped. Blocks.
fn lock(locks: &OwnedFd, path: &str) -> Result<OwnedFd, StoreError> {
    let mut hasher = SipHasher13::new();
    hasher.write(path.as_bytes());
    let name = format!("{:02}", hasher.finish() % LOCKS);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    let file = rustix::fs::openat(locks, &name, flags, mode).map_err(|errno| system("a lock", errno))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(system("a lock", errno)),
        }
    }
}

/// Makes a folder, durably, and opens it; it may be there by now.
fn make_folder(parent: &OwnedFd, name: &str) -> Result<OwnedFd, StoreError> {
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) => rustix::fs::fsync(parent.as_fd()).map_err(|errno| system(name, errno))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(system(name, errno)),
    }
    rustix::fs::openat(parent, name, FOLDER, Mode::empty()).map_err(|errno| system(name, errno))
}

fn open_or_make(parent: &OwnedFd, name: &str) -> Result<OwnedFd, StoreError> {
    match rustix::fs::openat(parent, name, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => make_folder(parent, name),
        opened => opened.map_err(|errno| system(name, errno)),
    }
}

/// A folder without anything in it says nothing, and would be in the way of a key of its name. Those that are not empty stay.
fn remove_empty_folders(folder: &OwnedFd, path: &str) {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('/') {
        let Ok(Some(spot)) = spot(folder, parent, false) else { return };
        if rustix::fs::unlinkat(&spot.parent, &spot.file, AtFlags::REMOVEDIR).is_err() {
            return;
        }
        path = parent;
    }
}
