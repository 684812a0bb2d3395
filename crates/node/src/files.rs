//! What a replica keeps on disk beside the log: snapshot files, and how far its engine comes back by itself.

use bytes::Bytes;
use quorate_log::LogId;

use crate::limits::Config;
use crate::snapshot::SnapshotFile;

/// A replica's own snapshot files, and its engine's durable point.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The newest whole one. For a memory engine it is the durable point.
    pub(crate) latest: Option<LocalSnapshot>,
    /// Older ones, to be removed once nobody is sent them.
    pub(crate) old: Vec<SnapshotFile>,
    /// The membership at the one that is being cut.
    pub(crate) cutting: Option<Bytes>,
    /// A follower needs one that is newer than the newest.
    pub(crate) is_wanted: bool,
    /// A durable engine comes back at this point, with this membership, or later.
    pub(crate) flushed: Option<(LogId, Bytes)>,
    /// What `flushed` will be.
    pub(crate) flushing: Option<(LogId, Bytes)>,
    /// Why the engine did not come back at the start and was made anew, or failed last; also when it is in order again.
    pub(crate) damage: Option<String>,
    /// Applied since the durable point was last moved.
    pub(crate) log_bytes: u64,
}

/// A whole snapshot file of this node.
#[derive(Clone, Debug)]
pub(crate) struct LocalSnapshot {
    pub(crate) file: SnapshotFile,
    pub(crate) size_bytes: u64,
    pub(crate) membership: Bytes,
}

impl LocalSnapshot {
    /// Where it was cut, and the membership there.
    pub(crate) fn point(&self) -> (LogId, Bytes) {
        (self.file.at, self.membership.clone())
    }
}

impl Files {
    /// A newer one is whole.
    pub(crate) fn take_in(&mut self, snapshot: LocalSnapshot) {
        let file = snapshot.file;
        if let Some(older) = self.latest.replace(snapshot).filter(|older| older.file != file) {
            self.old.push(older.file);
        }
    }

    /// The log begins after this entry: an older file serves nobody any more.
    pub(crate) fn drop_before(&mut self, purged: LogId) {
        let outdated = self.latest.take_if(|latest| latest.file.at.index < purged.index);
        self.old.extend(outdated.map(|outdated| outdated.file));
    }

    /// How much log is applied before the next file is cut: writing files shall cost at most as much as writing the log.
    pub(crate) fn cut_due_bytes(&self, config: &Config) -> u64 {
        self.latest.as_ref().map_or(0, |latest| latest.size_bytes).max(config.snapshot_log_bytes)
    }
}
