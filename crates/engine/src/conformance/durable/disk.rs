//! A disk that keeps what was synced, and of the rest what it likes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::script::Progress;
use super::trace::{Call, Done};

/// Data is torn at multiples of this.
const SECTOR_BYTES: usize = 512;

/// How much is lost with the power.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// All that was not synced.
    All,
    /// Any part of it.
    Some {
        /// Says which.
        seed: u64,
    },
}

/// The folder as its process sees it, and what of it is synced.
pub(super) struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: Names,
    synced_names: Names,
    /// In order; each belongs to one folder.
    unsynced_names: Vec<NameChange>,
    /// Calls so far.
    now: usize,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Debug, Default)]
struct File {
    data: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<(usize, DataChange)>,
}

#[derive(Clone, Debug)]
enum DataChange {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug)]
struct NameChange {
    done_at: usize,
    folder: PathBuf,
    kind: NameChangeKind,
}

#[derive(Clone, Debug)]
enum NameChangeKind {
    Make(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Disk {
    /// An empty folder that is there for good.
    pub(super) fn new(root: &Path) -> Self {
        let names = Names::from([(root.to_owned(), Node::Folder)]);
        let synced_names = names.clone();
        Self { root: root.to_owned(), files: Vec::new(), names, synced_names, unsynced_names: Vec::new(), now: 0 }
    }

    /// Takes in a call that has ended.
    pub(super) fn apply(&mut self, call: &Call, progress: &mut Progress) {
        self.now += 1;
        match &call.done {
            Done::Said(line) => progress.hear(line),
            Done::Opened { path, is_cut } => self.open(path, *is_cut),
            Done::MadeFolder(path) => self.change_names(path, NameChangeKind::Make(path.clone(), Node::Folder)),
            Done::Removed(path) => self.change_names(path, NameChangeKind::Remove(path.clone())),
            Done::Renamed(from, to) => self.change_names(to, NameChangeKind::Rename(from.clone(), to.clone())),
            Done::Wrote { path, at, bytes } => {
                self.change_data(path, DataChange::Write { at: *at, bytes: bytes.clone() });
            }
            Done::SetLen { path, len } => self.change_data(path, DataChange::SetLen(*len)),
            Done::Synced(path) => self.sync(path, call.begun_at),
        }
    }

    fn open(&mut self, path: &Path, is_cut: bool) {
        if !self.names.contains_key(path) {
            self.files.push(File::default());
            self.change_names(path, NameChangeKind::Make(path.to_owned(), Node::File(self.files.len() - 1)));
        } else if is_cut {
            self.change_data(path, DataChange::SetLen(0));
        }
    }

    fn change_names(&mut self, path: &Path, kind: NameChangeKind) {
        apply_names(&mut self.names, &kind);
        let folder = path.parent().expect("below the root").to_owned();
        self.unsynced_names.push(NameChange { done_at: self.now, folder, kind });
    }

    /// What is written to a file that has no name any more is of no interest.
    fn change_data(&mut self, path: &Path, change: DataChange) {
        if let Some(Node::File(file)) = self.names.get(path) {
            let file = &mut self.files[*file];
            apply_data(&mut file.data, &change);
            file.unsynced.push((self.now, change));
        }
    }

    /// Only what was done before the sync began is certain to be in it.
    fn sync(&mut self, path: &Path, begun_at: usize) {
        match self.names.get(path) {
            Some(Node::File(file)) => {
                let file = &mut self.files[*file];
                let later = file.unsynced.iter().position(|(done_at, _)| *done_at > begun_at).unwrap_or(file.unsynced.len());
                for (_, change) in file.unsynced.drain(..later) {
                    apply_data(&mut file.synced, &change);
                }
            }
            Some(Node::Folder) => {
                let synced_names = &mut self.synced_names;
                self.unsynced_names.retain(|change| {
                    let is_synced = change.folder == path && change.done_at <= begun_at;
                    if is_synced {
                        apply_names(synced_names, &change.kind);
                    }
                    !is_synced
                });
            }
            None => {}
        }
    }

    /// Writes what is left into a new folder.
    pub(super) fn lose_power(&self, loss: Loss, target: &Path) {
        let mut chance = Chance::new(loss);
        let mut names = self.synced_names.clone();
        // A folder's changes survive up to some point.
        let mut ended = Vec::new();
        for change in &self.unsynced_names {
            if ended.contains(&&change.folder) {
                continue;
            }
            if chance.keeps() { apply_names(&mut names, &change.kind) } else { ended.push(&change.folder) }
        }
        for (path, node) in &names {
            let Ok(below) = path.strip_prefix(&self.root) else { continue };
            // What is in a folder that was lost is lost.
            let has_parents = path.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.root));
            if !has_parents.into_iter().all(|parent| names.get(parent) == Some(&Node::Folder)) {
                continue;
            }
            match node {
                Node::Folder => fs::create_dir_all(target.join(below)).expect("a folder"),
                Node::File(file) => fs::write(target.join(below), chance.data(&self.files[*file])).expect("a file"),
            }
        }
    }
}

fn apply_names(names: &mut Names, change: &NameChangeKind) {
    match change {
        NameChangeKind::Make(path, node) => drop(names.insert(path.clone(), *node)),
        NameChangeKind::Remove(path) => drop(names.remove(path)),
        NameChangeKind::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn apply_data(data: &mut Vec<u8>, change: &DataChange) {
    match change {
        DataChange::Write { at, bytes } => {
            let end = at + bytes.len();
            if data.len() < end {
                data.resize(end, 0);
            }
            data[*at..end].copy_from_slice(bytes);
        }
        DataChange::SetLen(len) => data.resize(*len, 0),
    }
}

/// Decides what is kept.
struct Chance {
    loss: Loss,
    state: u64,
    /// Of sixteen changes so many are kept.
    kept: u64,
}

impl Chance {
    fn new(loss: Loss) -> Self {
        let seed = if let Loss::Some { seed } = loss { seed } else { 0 };
        let mut chance = Self { loss, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, kept: 0 };
        // Some losses are small, some great, some none.
        chance.kept = chance.next() % 17;
        chance
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 8
    }

    fn keeps(&mut self) -> bool {
        matches!(self.loss, Loss::Some { .. }) && self.next() % 16 < self.kept
    }

    fn data(&mut self, file: &File) -> Vec<u8> {
        let mut data = file.synced.clone();
        for (_, change) in &file.unsynced {
            match change {
                _ if self.keeps() => apply_data(&mut data, change),
                DataChange::Write { at, bytes } if self.keeps() => {
                    for (sector, piece) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if self.keeps() {
                            apply_data(&mut data, &DataChange::Write { at: at + sector * SECTOR_BYTES, bytes: piece.to_vec() });
                        }
                    }
                }
                _ => {}
            }
        }
        data
    }
}
