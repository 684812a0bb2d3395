//! Where a node's engines live: one folder for each, named after its group and the how-manieth build for it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::registry::{Opening, Resources};
use crate::{Engine, EngineError, EngineSpec};

/// Names one engine of a node. A group's engine that is built anew, beside the one that serves, has a later build number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The group whose pairs it holds.
    pub group: u64,
    /// Counts the group's engines on this node, from 0.
    pub build: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.group, self.build)
    }
}

impl Place {
    /// The place of this name, if it is one.
    pub fn parse(name: &str) -> Option<Self> {
        let (group, build) = name.split_once('-')?;
        let place = Self { group: u64::from_str_radix(group, 16).ok()?, build: u64::from_str_radix(build, 16).ok()? };
        (place.to_string() == name).then_some(place)
    }
}

/// Opens and removes a node's engines: the seam between a node and where pairs really are. The simulator has its own.
///
/// Obligations of an implementation:
/// 1. `open` at a place where nothing is makes an empty engine there; at one where a durable engine was, that engine comes back
///    (see [`Engine`]). A memory engine is always empty.
/// 2. A place is open once at most.
/// 3. After `remove` nothing is at the place, also after a crash in the middle: `places` names it then, and it is removed again.
pub trait Engines: Send + Sync + fmt::Debug {
    /// Opens the engine at a place. Blocks for as long as its recovery takes. [`EngineError::Corrupt`]: it cannot come back, and
    /// is to be removed and built anew.
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError>;

    /// Removes what is at a place; nothing happens if nothing is. The engine must be closed: nobody holds it or a view of it.
    fn remove(&self, place: Place) -> io::Result<()>;

    /// The places where something is.
    fn places(&self) -> io::Result<Vec<Place>>;
}

/// Engines in folders below one folder of a local disk.
#[derive(Debug)]
pub struct LocalEngines {
    root: PathBuf,
    resources: Resources,
    hash_seed: u64,
}

impl LocalEngines {
    /// Below this folder, which is made if it is not there. Engines that hash keys do so by this seed: it should be drawn at
    /// every start, so that no client can know which keys get into each other's way.
    pub fn new(root: &Path, hash_seed: u64) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned(), resources: Resources::default(), hash_seed })
    }

    fn folder(&self, place: Place) -> PathBuf {
        self.root.join(place.to_string())
    }
}

impl Engines for LocalEngines {
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError> {
        let kind = spec.check().map_err(|error| EngineError::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let (folder, resources) = (self.folder(place), &self.resources);
        (kind.open)(&Opening { spec, folder: &folder, resources, hash_seed: self.hash_seed })
    }

    fn remove(&self, place: Place) -> io::Result<()> {
        match std::fs::remove_dir_all(self.folder(place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn places(&self) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            places.extend(entry?.file_name().to_str().and_then(Place::parse));
        }
        places.sort_unstable();
        Ok(places)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    /// Engines in a folder that is removed in the end.
    pub(crate) struct Scratch {
        engines: LocalEngines,
        next: Cell<u64>,
        _folder: tempfile::TempDir,
    }

    pub(crate) fn scratch() -> Scratch {
        let folder = tempfile::tempdir().unwrap();
        Scratch { engines: LocalEngines::new(folder.path(), 7).unwrap(), next: Cell::new(0), _folder: folder }
    }

    impl Scratch {
        /// A new, empty engine.
        pub(crate) fn open_next(&self, spec: &EngineSpec) -> Arc<dyn Engine> {
            let build = self.next.replace(self.next.get() + 1);
            self.engines.open(Place { group: 7, build }, spec).unwrap()
        }
    }

    #[test]
    fn places_have_names() {
        let place = Place { group: 0x1f, build: 3 };
        assert_eq!(place.to_string(), "000000000000001f-00000003");
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for name in ["", "1f-3", "000000000000001F-00000003", "000000000000001f-00000003.part", "lost+found"] {
            assert_eq!(Place::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_can_be_removed_and_other_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let engines = LocalEngines::new(folder.path(), 7).unwrap();
        let (one, other) = (Place { group: 1, build: 0 }, Place { group: 1, build: 1 });
        engines.remove(one).unwrap();
        for name in [other.to_string(), one.to_string(), "notes".to_owned()] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(engines.places().unwrap(), [one, other]);
        engines.remove(one).unwrap();
        assert_eq!(engines.places().unwrap(), [other]);
        assert!(folder.path().join("notes").exists());
    }
}
