//! `fs`: files in a folder.
//!
//! A value is written to a file beside (`.quorate/tmp` in the store's folder), synced, and renamed to its place, and the folder
//! is synced: after a crash there is the old value or the new one, whole, and what was acknowledged is there. What a crash left
//! beside is removed when it is an hour old.
//!
//! Only folders below those that the node was given (`--fs-root`) are used. Paths are walked from there part by part, and a
//! symbolic link among them is refused, so that nobody leads out of the folder; this includes links within it.
//!
//! An unmounted disk leaves the empty folder where it was mounted. So a folder that has values in envelopes is marked when its
//! keyspace is made, and a node's own folder when the node first has it open, by a file [`files::MARK`], and one without it is no
//! store. A folder that other programs fill is not marked: with `envelope` `none` it is used as it is found.
//!
//! All writers of Quorate hold a lock while they change a file, so that conditions hold among nodes that share the folder, where
//! the file system honours `flock`. Other programs know nothing of it.
//!
//! A call that hangs in a dead network disk holds one of [`THREADS`] threads of this store, and nothing else.

mod files;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use self::files::Files;
use crate::blocking::Threads;
use crate::fields::Fields;
use crate::objects::{Abilities, Listing, Names, Object, Objects};
use crate::registry::{Kind, Opening, Settings, capabilities_of};
use crate::spec::{NODE, PathMode};
use crate::walk::{Folders, Smallest, walk};
use crate::{
    Answer, Comparing, Condition, Envelope, ErrorKind, KeyEncoding, MAX_KEY_BYTES, SpecError, Store, StoreError, Written,
};

const NAME: &str = "fs";

/// Calls that run at once, and that may hang.
const THREADS: usize = 8;

const ABILITIES: Abilities = Abilities {
    writable: true,
    listable: true,
    comparing: Comparing::AmongNodes,
    max_object_bytes: 256 << 20,
    // The path of a long key is a name per 240 bytes, and the system takes paths of 4,096 bytes.
    max_name_bytes: MAX_KEY_BYTES * 3 / 4,
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "files in a folder of a local, external or network disk",
    example: r#"{"type": "fs", "folder": "/srv/quorate/archive", "path": "shared"}"#,
    options: &[(
        "folder",
        "an absolute path below a folder that the nodes were given with --fs-root; `{node}` for the node's name",
    )],
    credentials: &[],
    names: Some(KeyEncoding::Bytes),
    envelope: Some(Envelope::Quorate),
    capabilities: || capabilities_of(ABILITIES, Envelope::Quorate),
    read: |fields| Ok(Arc::new(FsSettings::read(fields)?)),
};

#[derive(Debug)]
struct FsSettings {
    folder: String,
}

impl FsSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let folder = absolute_path(fields, "folder", "/srv/quorate/archive")?;
        Ok(Self { folder: folder.to_owned() })
    }
}

impl Settings for FsSettings {
    fn place(&self) -> &str {
        &self.folder
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let (root, folder) = below_roots(NAME, opening, &self.folder)?;
        // What has the node's name is made here; what has not must be there: a disk that is not mounted is not to be replaced
        // by an empty folder.
        let named = Path::new(&self.folder).components().take_while(|part| !part.as_os_str().to_string_lossy().contains(NODE));
        let must_exist = named.count().saturating_sub(root.components().count());
        let below: Vec<String> = folder
            .strip_prefix(&root)
            .unwrap_or(&folder)
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        // What is a node's own is of no other program, whatever lies around values.
        let is_own = opening.spec.path == PathMode::PerNode;
        let is_marked = is_own || (must_exist == below.len() && opening.spec.envelope == Envelope::Quorate);
        let files = Files::new(root, below, must_exist, opening.surroundings.clock.clone());
        let files = if is_marked { files.marked() } else { files };
        let threads = Threads::start(NAME, THREADS)?;
        Ok(opening.named(Fs { files: Arc::new(files), threads, keys: opening.spec.key_encoding }))
    }
}

/// A field that holds an absolute path.
pub(crate) fn absolute_path<'a>(fields: &mut Fields<'a>, field: &'static str, example: &str) -> Result<&'a str, SpecError> {
    let path = fields.needed(field, example)?;
    if !path.contains('\0') && is_plain(Path::new(path)) {
        return Ok(path);
    }
    Err(SpecError::new(field, "must be an absolute path without . and .. in it", format!("\"{field}\": \"{example}\"")))
}

/// A path with the node's name in it, and the folder of `--fs-root` below which it lies.
pub(crate) fn below_roots(store: &'static str, opening: &Opening<'_>, path: &str) -> Result<(PathBuf, PathBuf), StoreError> {
    let denied = |message: String| StoreError::new(store, ErrorKind::Denied, message);
    let path = PathBuf::from(opening.place(path));
    // A name of a node may hold anything.
    if !is_plain(&path) {
        return Err(denied(format!("{} would lead elsewhere", path.display())));
    }
    let roots = &opening.surroundings.fs_roots;
    match roots.iter().find(|root| path.starts_with(root)) {
        Some(root) => Ok((root.clone(), path)),
        None if roots.is_empty() => Err(denied("this node was given no folder with --fs-root".to_owned())),
        None => Err(denied(format!("{} lies below none of the folders given with --fs-root", path.display()))),
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Files of one folder.
#[derive(Debug)]
struct Fs {
    files: Arc<Files>,
    threads: Threads,
    keys: KeyEncoding,
}

impl Objects for Fs {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> Abilities {
        ABILITIES
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Object>> {
        let (files, path) = (self.files.clone(), self.keys.path_of(name));
        Box::pin(self.threads.run(false, move || {
            let bytes = files.read(&path, ABILITIES.max_object_bytes)?;
            Ok(bytes.map(|bytes| Object { bytes, tag: None }))
        }))
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, condition: &'a Condition) -> Answer<'a, Written> {
        let (files, path, condition) = (self.files.clone(), self.keys.path_of(name), condition.clone());
        Box::pin(self.threads.run(true, move || files.write(&path, &bytes, &condition)))
    }

    fn remove<'a>(&'a self, name: &'a str, condition: &'a Condition) -> Answer<'a, Written> {
        let (files, path, condition) = (self.files.clone(), self.keys.path_of(name), condition.clone());
        Box::pin(self.threads.run(true, move || files.remove(&path, &condition)))
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Answer<'a, Names> {
        Box::pin(walk(self, self.keys, listing))
    }

    fn check(&self) -> Answer<'_, ()> {
        let files = self.files.clone();
        Box::pin(self.threads.run(false, move || files.check()))
    }

    fn prepare(&self) -> Answer<'_, ()> {
        let files = self.files.clone();
        Box::pin(self.threads.run(false, move || files.prepare()))
    }
}

impl Folders for Fs {
    fn children(&self, folder: String, mut children: Smallest) -> Answer<'_, Smallest> {
        let files = self.files.clone();
        Box::pin(self.threads.run(false, move || {
            files.children(&folder, &mut |name, is_folder| children.offer(name, is_folder))?;
            Ok(children)
        }))
    }
}
