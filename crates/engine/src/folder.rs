//! The folder of a durable engine, and which of the contents in it is the one.
//!
//! A content is a file or a folder named by its number. The file `content` says which is in force; it is replaced whole, so
//! that a rebuild is there entirely or not at all. Everything else in the folder is left over from a crash. FORMAT.md has the
//! bytes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::EngineError;

const POINTER: &str = "content";
const POINTER_PART: &str = "content.part";
/// Stands in the file `content`, and ends with the format version.
const MAGIC: &[u8; 8] = b"QUORENG1";
const POINTER_LEN: usize = 20;

/// A durable engine's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The number of the next content.
    next: AtomicU64,
    in_use: Arc<InUse>,
}

impl Folder {
    /// Makes the folder if it is not there, removes what a crash left in it, and says which content is in force: none in a new
    /// folder, where nothing was durable yet.
    pub(crate) fn open(in_use: &Arc<InUse>) -> Result<(Self, Option<u64>), EngineError> {
        let path = &*in_use.folder;
        fs::create_dir_all(path)?;
        if let Some(parent) = path.parent() {
            sync_folder(parent)?;
        }
        let in_force = match fs::read(path.join(POINTER)) {
            Ok(bytes) => Some(decode(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            if name != POINTER && in_force.is_none_or(|number| *name != *content_name(number)) {
                remove(&path.join(name))?;
            }
        }
        let next = AtomicU64::new(in_force.map_or(0, |number| number + 1));
        Ok((Self { path: path.to_owned(), next, in_use: Arc::clone(in_use) }, in_force))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A number that no content had since the folder was opened.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The content of this number, for whoever opens it.
    pub(crate) fn content(&self, number: u64) -> Remains {
        let path = self.path.join(content_name(number));
        Remains { path, is_obsolete: AtomicBool::new(false), _in_use: Some(Arc::clone(&self.in_use)) }
    }

    /// Makes a content the one in force, durably. Its bytes must be synced; its name need not be.
    pub(crate) fn put_in_force(&self, number: u64) -> io::Result<()> {
        let part = self.path.join(POINTER_PART);
        let mut file = File::create(&part)?;
        file.write_all(&encode(number))?;
        file.sync_all()?;
        // The content's name must be durable before the pointer to it can be.
        sync_folder(&self.path)?;
        fs::rename(&part, self.path.join(POINTER))?;
        sync_folder(&self.path)
    }
}

/// What a content's files are removed by, once nobody reads them: closed first, then dropped with this.
#[derive(Debug)]
pub(crate) struct Remains {
    path: PathBuf,
    is_obsolete: AtomicBool,
    /// Dropped last: the folder goes after what is in it.
    _in_use: Option<Arc<InUse>>,
}

/// Whether anybody has an engine's folder open, readers of views included: each content that is open holds this.
#[derive(Debug)]
pub(crate) struct InUse {
    folder: PathBuf,
    is_doomed: AtomicBool,
}

impl InUse {
    /// Nothing is removed unless it is doomed.
    pub(crate) fn of(folder: PathBuf) -> Self {
        Self { folder, is_doomed: AtomicBool::new(false) }
    }

    /// The folder goes when the last one lets go of it.
    pub(crate) fn doom(&self) {
        self.is_doomed.store(true, Ordering::Release);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.is_doomed.load(Ordering::Acquire) {
            // What cannot be removed now is removed when the node starts the next time.
            let _ = remove(&self.folder);
        }
    }
}

impl Remains {
    /// Where the content is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is to be removed.
    pub(crate) fn is_obsolete(&self) -> bool {
        self.is_obsolete.load(Ordering::Acquire)
    }

    /// The content is not in force any more, or never was.
    pub(crate) fn set_obsolete(&self, is_obsolete: bool) {
        self.is_obsolete.store(is_obsolete, Ordering::Release);
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if self.is_obsolete.load(Ordering::Acquire) {
            // What cannot be removed now is removed when the folder is opened the next time.
            let _ = remove(&self.path);
        }
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn content_name(number: u64) -> String {
    format!("{number:08x}")
}

fn encode(number: u64) -> [u8; POINTER_LEN] {
    let mut bytes = [0; POINTER_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<u64, EngineError> {
    let damaged = || EngineError::Corrupt(format!("the file {POINTER} is damaged"));
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    let number = body.strip_prefix(MAGIC).ok_or_else(damaged)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    Ok(u64::from_le_bytes(number.try_into().map_err(|_| damaged())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_force_is_found_and_the_rest_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("place");
        let (folder, in_force) = Folder::open(&Arc::new(InUse::of(path.clone()))).unwrap();
        assert_eq!(in_force, None);
        let (one, other) = (folder.next_number(), folder.next_number());
        fs::write(folder.content(one).path(), "1").unwrap();
        fs::create_dir(folder.content(other).path()).unwrap();
        folder.put_in_force(one).unwrap();
        folder.put_in_force(other).unwrap();
        fs::write(path.join(POINTER_PART), "half").unwrap();

        let (folder, in_force) = Folder::open(&Arc::new(InUse::of(path.clone()))).unwrap();
        assert_eq!(in_force, Some(other));
        assert!(
            folder.content(other).path().exists() && !folder.content(one).path().exists() && !path.join(POINTER_PART).exists()
        );
        assert!(folder.next_number() > other);
    }

    #[test]
    fn a_content_that_was_never_in_force_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, _) = Folder::open(&Arc::new(InUse::of(scratch.path().to_owned()))).unwrap();
        let number = folder.next_number();
        fs::write(folder.content(number).path(), "1").unwrap();
        assert_eq!(Folder::open(&Arc::new(InUse::of(scratch.path().to_owned()))).unwrap().1, None);
        assert!(!folder.content(number).path().exists());
    }

    #[test]
    fn format_1_is_as_documented_and_any_damage_to_it_is_seen() {
        let bytes = encode(0x0102);
        assert_eq!(bytes[..16], *b"QUORENG1\x02\x01\0\0\0\0\0\0");
        assert_eq!(decode(&bytes).unwrap(), 0x0102);
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1 << bit;
                assert!(decode(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn remains_go_only_if_they_are_obsolete() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, _) = Folder::open(&Arc::new(InUse::of(scratch.path().to_owned()))).unwrap();
        let path = folder.content(0).path().to_owned();
        fs::create_dir(&path).unwrap();
        drop(folder.content(0));
        assert!(path.exists());
        let remains = folder.content(0);
        remains.set_obsolete(true);
        drop(remains);
        assert!(!path.exists());
    }
}
