//! A node's data folder: who the node is, and what it has seen of others.
//!
//! ```text
//! node.json       identity; replaced at every start, for the incarnation
//! peers.json      the newest start seen of every peer (src/starts.rs)
//! formation.json  whom the node lets begin the cluster; from --expect until it is of one (src/formation.rs)
//! room            nothing; it is removed when the disk is full, so that the two above can be replaced even then
//! log/            the write-ahead log (crates/log/FORMAT.md)
//! snapshots/      snapshot files (crates/node/src/snapshot.rs)
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_engine::{Engines, LocalEngines};
use quorate_log::{Disk as _, RealDisk, read_whole, write_atomically};
use quorate_node::Identity;
use serde::{Deserialize, Serialize};

use crate::formation::Durable;
use crate::starts::Start;

const IDENTITY_FILE: &str = "node.json";
const PEERS_FILE: &str = "peers.json";
const FORMATION_FILE: &str = "formation.json";
const ROOM_FILE: &str = "room";
const FORMAT: u32 = 1;

/// How many starts an older state of a folder may have missed and be readmitted at once.
const MAX_MISSED_STARTS: u64 = 1_000;

/// The same for batches of the log: a thousand a second for thirty years.
const MAX_MISSED_BATCHES: u64 = 1 << 40;

/// More than both files will ever need, on a file system with large blocks.
const ROOM_BYTES: usize = 128 << 10;

/// An open data folder; no other process has it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    root: RealDisk,
}

/// What `node.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    format: u32,
    pub(crate) name: String,
    /// Sent with the request to join, so that its retry is recognised.
    pub(crate) join_token: String,
    /// Nothing until the node belongs to a cluster.
    pub(crate) member: Option<Member>,
}

/// What `formation.json` says.
#[derive(Serialize, Deserialize)]
struct FormationFile {
    format: u32,
    #[serde(flatten)]
    durable: Durable,
}

/// The node's place in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) cluster_id: String,
    pub(crate) node_id: u64,
    pub(crate) incarnation: u64,
    /// What a peer said when it refused this folder as a copy, or as older than what the node had: it is of no more use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outdated: Option<String>,
    /// What is added to the numbers of the log's batches before peers are told of them: so those that come after a readmission
    /// are greater than all that were said before.
    #[serde(default)]
    pub(crate) log_offset: u64,
    /// Drawn at the last start, so that a folder that another process has meanwhile is told from one's own.
    #[serde(default)]
    pub(crate) start_id: u64,
    /// Peers as the cluster gave them when the node joined; the catalog knows better once it is there.
    pub(crate) first_peers: BTreeMap<u64, String>,
}

/// Why a data folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made, read or locked.
    #[error("data folder {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something, but no node's data.
    #[error("data folder {0} is not empty and holds no Quorate node (there is no node.json): choose another folder")]
    Foreign(PathBuf),
    /// It is another node's.
    #[error("data folder {path} belongs to node {owner}, not to {name}: start it with --name {owner}, or choose another folder")]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who was to be started.
        name: String,
    },
    /// It was written by a newer version.
    #[error("data folder {path} was written by a newer Quorate (format {found}; this one knows up to {known})")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// `node.json` cannot be understood.
    #[error("data folder {path}: {file} cannot be read: {why}")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// The file.
        file: &'static str,
        /// Why.
        why: String,
    },
}

impl DataDir {
    /// Opens and locks the folder, making it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        check_ours(path)?;
        let root = RealDisk::open(path).map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// What `node.json` says, if there is one; it must be of this node.
    pub(crate) fn read(&self, name: &str) -> Result<Option<NodeFile>, DataDirError> {
        let Some(file) = self.read_versioned::<NodeFile>(IDENTITY_FILE)? else {
            return Ok(None);
        };
        if file.name != name {
            let path = self.path.clone();
            return Err(DataDirError::OtherNode { path, owner: file.name, name: name.to_owned() });
        }
        Ok(Some(file))
    }

    /// Replaces `node.json`, durably.
    pub(crate) fn write(&self, file: &NodeFile) -> Result<(), DataDirError> {
        self.write_json(IDENTITY_FILE, file)
    }

    /// What `formation.json` says, if there is one.
    pub(crate) fn read_formation(&self) -> Result<Option<Durable>, DataDirError> {
        Ok(self.read_versioned::<FormationFile>(FORMATION_FILE)?.map(|file| file.durable))
    }

    /// Replaces `formation.json`, durably.
    pub(crate) fn write_formation(&self, durable: &Durable) -> Result<(), DataDirError> {
        self.write_json(FORMATION_FILE, &FormationFile { format: FORMAT, durable: durable.clone() })
    }

    /// Removes `formation.json`, if there is one: the node is of a cluster.
    pub(crate) fn remove_formation(&self) -> Result<(), DataDirError> {
        match self.root.remove(FORMATION_FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    /// The newest start seen of every peer.
    pub(crate) fn peer_starts(&self) -> Result<BTreeMap<u64, Start>, DataDirError> {
        Ok(self.read_json(PEERS_FILE)?.unwrap_or_default())
    }

    /// Replaces what [`DataDir::peer_starts`] says, durably.
    /// What is not urgent leaves the room alone that is kept for a full disk.
    pub(crate) fn write_peer_starts(&self, starts: &BTreeMap<u64, Start>, is_urgent: bool) -> Result<(), DataDirError> {
        if is_urgent {
            return self.write_json(PEERS_FILE, starts);
        }
        let bytes = serde_json::to_vec_pretty(starts).map_err(|error| self.damaged(PEERS_FILE, &error))?;
        write_atomically(&self.root, PEERS_FILE, &bytes).map_err(|source| self.failed(source))
    }

    /// Notes that peers refuse this folder, unless another process has started with it since. Durable.
    pub(crate) fn mark_outdated(&self, name: &str, start_id: u64, why: &str) -> Result<(), DataDirError> {
        let Some(mut file) = self.read(name)? else { return Ok(()) };
        let Some(member) = file.member.as_mut().filter(|member| member.start_id == start_id) else { return Ok(()) };
        member.outdated = Some(why.to_owned());
        self.write(&file)
    }

    /// The log's folder.
    pub(crate) fn log(&self) -> Result<Arc<RealDisk>, DataDirError> {
        self.folder("log")
    }

    /// The snapshots' folder.
    pub(crate) fn snapshots(&self) -> Result<Arc<RealDisk>, DataDirError> {
        self.folder("snapshots")
    }

    /// Where the engines are. They hash keys by this seed.
    pub(crate) fn engines(&self, hash_seed: u64) -> Result<Arc<dyn Engines>, DataDirError> {
        let path = self.path.join("engines");
        match LocalEngines::new(&path, hash_seed) {
            Ok(engines) => Ok(Arc::new(engines)),
            Err(source) => Err(DataDirError::Io { path, source }),
        }
    }

    /// Takes back what [`DataDir::mark_outdated`] noted, durably: peers let the next starts in, whatever they knew. The node's
    /// name, or nothing if no peer had refused the folder.
    pub(crate) fn readmit(&self) -> Result<Option<String>, DataDirError> {
        let Some(mut file) = self.read_versioned::<NodeFile>(IDENTITY_FILE)? else { return Ok(None) };
        let Some(member) = file.member.as_mut().filter(|member| member.outdated.is_some()) else { return Ok(None) };
        member.outdated = None;
        member.incarnation += MAX_MISSED_STARTS;
        member.log_offset += MAX_MISSED_BATCHES;
        self.write(&file)?;
        Ok(Some(file.name))
    }

    fn folder(&self, name: &str) -> Result<Arc<RealDisk>, DataDirError> {
        let path = self.path.join(name);
        RealDisk::open(&path).map(Arc::new).map_err(|source| DataDirError::Io { path, source })
    }

    fn read_versioned<T: for<'a> Deserialize<'a>>(&self, file: &'static str) -> Result<Option<T>, DataDirError> {
        let Some(value) = self.read_json::<serde_json::Value>(file)? else {
            return Ok(None);
        };
        let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
        if found > FORMAT {
            return Err(DataDirError::Newer { path: self.path.clone(), found, known: FORMAT });
        }
        serde_json::from_value(value).map(Some).map_err(|error| self.damaged(file, &error))
    }

    fn read_json<T: for<'a> Deserialize<'a>>(&self, file: &'static str) -> Result<Option<T>, DataDirError> {
        match read_whole(&self.root, file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| self.damaged(file, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn write_json<T: Serialize>(&self, file: &'static str, value: &T) -> Result<(), DataDirError> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| self.damaged(file, &error))?;
        let written = match write_atomically(&self.root, file, &bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.root.remove(ROOM_FILE).is_ok() => {
                write_atomically(&self.root, file, &bytes)
            }
            written => written,
        };
        self.keep_room();
        written.map_err(|source| self.failed(source))
    }

    /// Takes the room for later, unless it is there. As long as it cannot be had, this folder does without it.
    fn keep_room(&self) {
        let path = self.path.join(ROOM_FILE);
        if path.metadata().is_ok_and(|room| room.len() == ROOM_BYTES as u64) {
            return;
        }
        // Not zeros: some file systems keep those in no room at all.
        let bytes: Vec<u8> = (0..ROOM_BYTES).map(|index| (index % 251) as u8).collect();
        if std::fs::write(&path, bytes).is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }

    fn failed(&self, source: io::Error) -> DataDirError {
        DataDirError::Io { path: self.path.clone(), source }
    }

    fn damaged(&self, file: &'static str, why: &dyn std::fmt::Display) -> DataDirError {
        DataDirError::Damaged { path: self.path.clone(), file, why: why.to_string() }
    }
}

/// Refuses a folder with something else in it, before anything is put there. What a start leaves that was cut short before
/// `node.json` is ours.
fn check_ours(path: &Path) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name());
    }
    let is_ours = |name: &std::ffi::OsString| ["LOCK", "node.json.tmp", "lost+found"].iter().any(|ours| name == ours);
    if names.iter().all(is_ours) || names.iter().any(|name| name == IDENTITY_FILE) {
        return Ok(());
    }
    Err(DataDirError::Foreign(path.to_owned()))
}

impl NodeFile {
    /// For a folder that was empty.
    pub(crate) fn new(name: &str, join_token: String) -> Self {
        Self { format: FORMAT, name: name.to_owned(), join_token, member: None }
    }
}

impl Member {
    /// A place that was just given.
    pub(crate) fn new(cluster_id: String, node_id: u64, first_peers: BTreeMap<u64, String>) -> Self {
        Self { cluster_id, node_id, incarnation: 0, outdated: None, log_offset: 0, start_id: 0, first_peers }
    }

    /// The identity of the next start.
    pub(crate) fn identity(&self, name: &str) -> Option<Identity> {
        let cluster = u64::from_str_radix(&self.cluster_id, 16).ok()?;
        Some(Identity { cluster, node: self.node_id, name: name.to_owned(), incarnation: self.incarnation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formation::Promise;

    #[test]
    fn a_folder_is_checked_before_it_is_touched() {
        let parent = tempfile::tempdir().unwrap();
        let foreign = parent.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("holiday.jpg"), b"x").unwrap();
        assert!(matches!(DataDir::open(&foreign), Err(DataDirError::Foreign(_))));
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
    }

    #[test]
    fn identity_belongs_to_one_name_and_one_process() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("n1");
        let folder = DataDir::open(&path).unwrap();
        assert_eq!(folder.read("n1").unwrap(), None);
        folder.write(&NodeFile::new("n1", "t".to_owned())).unwrap();
        assert!(folder.read("n1").unwrap().is_some());
        assert!(matches!(folder.read("n2"), Err(DataDirError::OtherNode { .. })));
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Io { .. })));
    }

    #[test]
    fn room_is_kept_for_a_full_disk() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, room) = (DataDir::open(parent.path()).unwrap(), parent.path().join(ROOM_FILE));
        folder.write(&NodeFile::new("n1", "t".to_owned())).unwrap();
        assert_eq!(room.metadata().unwrap().len(), ROOM_BYTES as u64);
        // What is half there is of no use.
        std::fs::write(&room, b"x").unwrap();
        folder.write_peer_starts(&BTreeMap::new(), true).unwrap();
        assert_eq!(room.metadata().unwrap().len(), ROOM_BYTES as u64);
    }

    #[test]
    fn a_folder_that_is_refused_is_marked_and_can_be_readmitted() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataDir::open(parent.path()).unwrap();
        let member = Member { start_id: 7, ..Member::new("0c".to_owned(), 1, BTreeMap::new()) };
        let file = NodeFile { member: Some(member.clone()), ..NodeFile::new("n1", "t".to_owned()) };
        folder.write(&file).unwrap();
        folder.mark_outdated("n1", 8, "of a process that has the folder no more").unwrap();
        assert_eq!((folder.readmit().unwrap(), folder.read("n1").unwrap()), (None, Some(file)));
        folder.mark_outdated("n1", 7, "why").unwrap();
        let marked = folder.read("n1").unwrap().and_then(|file| file.member).unwrap();
        assert_eq!(marked, Member { outdated: Some("why".to_owned()), ..member.clone() });
        assert_eq!(folder.readmit().unwrap().as_deref(), Some("n1"));
        let readmitted = folder.read("n1").unwrap().and_then(|file| file.member).unwrap();
        assert_eq!(readmitted, Member { incarnation: MAX_MISSED_STARTS, log_offset: MAX_MISSED_BATCHES, ..member });
    }

    /// As every version that knows format 1 must read it.
    #[test]
    fn promises_are_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataDir::open(parent.path()).unwrap();
        assert_eq!(folder.read_formation().unwrap(), None);
        let promised = Some(Promise { id: "0b".to_owned(), round: 3 });
        let durable = Durable { id: "0a".to_owned(), round: 4, promised, founds: None };
        folder.write_formation(&durable).unwrap();
        assert_eq!(folder.read_formation().unwrap(), Some(durable.clone()));
        let text = r#"{"format": 1, "id": "0a", "round": 4, "promised": {"id": "0b", "round": 3}, "founds": null}"#;
        std::fs::write(parent.path().join(FORMATION_FILE), text).unwrap();
        assert_eq!(folder.read_formation().unwrap(), Some(durable));
        std::fs::write(parent.path().join(FORMATION_FILE), text.replacen('1', "2", 1)).unwrap();
        assert!(matches!(folder.read_formation(), Err(DataDirError::Newer { found: 2, .. })));
        folder.remove_formation().unwrap();
        folder.remove_formation().unwrap();
        assert_eq!(folder.read_formation().unwrap(), None);
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataDir::open(parent.path()).unwrap();
        std::fs::write(parent.path().join(IDENTITY_FILE), br#"{"format": 9, "shape": "unknown"}"#).unwrap();
        assert!(matches!(folder.read("n1"), Err(DataDirError::Newer { found: 9, .. })));
    }
}
