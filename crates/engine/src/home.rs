//! Where a node's engines live: one folder for each, named after its group and the how-manieth build for it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::folder::InUse;
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
/// 3. After `remove` nothing is at the place once the engine and all views of it are closed; they go on until then. After a crash
///    before that `places` names it, and it is removed again. A place that was removed is opened again only after that.
pub trait Engines: Send + Sync + fmt::Debug {
    /// Opens the engine at a place. Blocks for as long as its recovery takes. [`EngineError::Corrupt`]: it cannot come back, and
    /// is to be removed and built anew.
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError>;

    /// Removes what is at a place; nothing happens if nothing is.
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
    /// Who has what open; of memory engines nobody.
    in_use: Mutex<BTreeMap<Place, Weak<InUse>>>,
}

impl LocalEngines {
    /// Below this folder, which is made if it is not there. Engines that hash keys do so by this seed: it should be drawn at
    /// every start, so that no client can know which keys get into each other's way.
    pub fn new(root: &Path, hash_seed: u64) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned(), resources: Resources::default(), hash_seed, in_use: Mutex::default() })
    }

    /// Notes that a place is opened.
    fn take(&self, place: Place) -> io::Result<Arc<InUse>> {
        let mut places = self.lock();
        if places.get(&place).is_some_and(|in_use| in_use.strong_count() > 0) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("the engine at {place} is open already")));
        }
        let in_use = Arc::new(InUse::of(self.folder(place)));
        places.insert(place, Arc::downgrade(&in_use));
        Ok(in_use)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Weak<InUse>>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, place: Place) -> PathBuf {
        self.root.join(place.to_string())
    }
}

impl Engines for LocalEngines {
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError> {
        let kind = spec.check().map_err(|error| EngineError::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        assert!(spec.behind.is_none(), "who opens an engine with a store behind it opens the store, too");
        let in_use = self.take(place)?;
        (kind.open)(&Opening { spec, in_use: &in_use, resources: &self.resources, hash_seed: self.hash_seed })
    }

    fn remove(&self, place: Place) -> io::Result<()> {
        let in_use = self.lock().get(&place).and_then(Weak::upgrade);
        if let Some(in_use) = in_use {
            // Somebody reads a view of it, for a while. Until then it stays noted, lest a new engine is opened here.
            in_use.doom();
            return Ok(());
        }
        self.lock().remove(&place);
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
    use crate::{Batch, Change, Direction, KINDS, KeyRange, Table};

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

    /// A replica moves to another engine, or its keyspace is deleted, while somebody streams all of it.
    #[test]
    fn a_view_goes_on_when_its_engine_is_removed() {
        for kind in KINDS.iter().filter(|kind| kind.capabilities.durable) {
            let folder = tempfile::tempdir().unwrap();
            let engines = LocalEngines::new(folder.path(), 7).unwrap();
            let place = Place { group: 1, build: 0 };
            let engine = engines.open(place, &EngineSpec::of(kind.name)).unwrap();
            for run in 0..8_u64 {
                let put =
                    |at: u64| Change::Put { table: Table::Current, key: format!("{at:05}").into(), value: vec![7; 300].into() };
                let changes = (run * 500..run * 500 + 500).map(put).collect();
                engine.apply(Batch { applied: run + 1, revision: run + 1, changes }).unwrap();
                engine.flush().unwrap();
            }
            let view = engine.view();
            drop(engine);
            engines.remove(place).unwrap();
            let error = engines.open(place, &EngineSpec::of(kind.name)).unwrap_err();
            assert!(error.to_string().contains("is open already"), "its last reader would take the new one away: {error}");
            let read = view.scan(Table::Current, &KeyRange::all(), Direction::Forward).flatten().count();
            assert_eq!(read, 4_000, "{}", kind.name);
            drop(view);
            // A thread that merges files may hold the folder for a moment more.
            for _ in 0..1_000 {
                if engines.places().unwrap().is_empty() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(engines.places().unwrap().is_empty(), "{}: nothing is left once nobody reads", kind.name);
        }
    }
}
