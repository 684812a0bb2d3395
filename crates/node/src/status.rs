//! What a node tells about itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_engine::{Engine, View};
use quorate_keyspace::{LocalKeyspace, Revision};
use quorate_log::GroupId;

use crate::catalog::Mode;
use crate::eventual::EventualStatus;
use crate::eventual_watch::revision_of;
use crate::log_time::LogTime;
use crate::moving::MoveStatus;

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its replicas, by group.
    pub replicas: Arc<Vec<Arc<ReplicaStatus>>>,
    /// Its replicas that take writes on their own, by group.
    pub eventuals: Arc<Vec<Arc<EventualStatus>>>,
    /// Requests that wait.
    pub pending_requests: usize,
    /// How long the oldest write to the log has not been durable.
    pub unsynced_ms: u64,
    /// Whether writes are refused because the disk is full.
    pub is_disk_full: bool,
    /// Whether the node hands over what it leads, to end.
    pub is_stopping: bool,
    /// Whether it has handed over all that another voter can lead, or has tried for long enough.
    pub is_drained: bool,
    /// The beats that came in.
    pub beats: BeatCounts,
}

/// What was done with beats, and with answers to beats, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BeatCounts {
    /// Nothing but to note that they came.
    pub noted: u64,
    /// They were given to raft-rs as the messages that they stand for.
    pub stepped: u64,
}

impl BeatCounts {
    pub(crate) fn count(&mut self, is_done: bool) {
        *(if is_done { &mut self.noted } else { &mut self.stepped }) += 1;
    }
}

/// How a replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The group.
    pub group: GroupId,
    /// The keyspace.
    pub keyspace: String,
    /// `leader`, `follower`, `candidate` or `pre_candidate`.
    pub role: &'static str,
    /// The node that leads, if known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The commit index.
    pub commit_index: u64,
    /// The applied index.
    pub applied_index: u64,
    /// The first index in the log.
    pub first_index: u64,
    /// The last.
    pub last_index: u64,
    /// The revision.
    pub revision: u64,
    /// Keys and records, in bytes.
    pub data_bytes: u64,
    /// Bytes of history.
    pub history_bytes: u64,
    /// The oldest revision that can be read; the revision, if there is no history.
    pub compacted: u64,
    /// Nodes with a voting replica.
    pub voters: Vec<u64>,
    /// Nodes with a learning replica.
    pub learners: Vec<u64>,
    /// It knows its leader, belongs to the group in the role that the catalog gives it, and applied all it knows to be
    /// committed.
    pub is_caught_up: bool,
    /// Entries applied since the process started.
    pub applied_entries: u64,
    /// Commands applied since the process started.
    pub applied_commands: u64,
    /// Snapshots cut, sent and loaded since the process started.
    pub snapshots_cut: u64,
    /// See above.
    pub snapshots_sent: u64,
    /// See above.
    pub snapshots_loaded: u64,
    /// The engine that serves.
    pub engine: String,
    /// How far it is on its way to another engine.
    pub moving: Option<MoveStatus>,
    /// Its engine was damaged or lost or failed, and is filled again: it cannot be read now.
    pub is_rebuilding: bool,
    /// How often an engine that failed was opened again since the process started.
    pub engines_reopened: u64,
    /// Why its engine did not come back when the process started, or failed since: it was filled again, or is being.
    pub damage: Option<String>,
}

/// The keyspaces that can be read on this node.
#[derive(Clone, Debug, Default)]
pub struct Hosted {
    /// By name.
    pub keyspaces: BTreeMap<String, HostedKeyspace>,
}

/// Where a keyspace can be read.
#[derive(Clone, Debug)]
pub struct HostedKeyspace {
    /// Its group.
    pub group: GroupId,
    /// Part of each `ETag`.
    pub epoch: u64,
    /// How its replicas agree.
    pub mode: Mode,
    /// Its pairs.
    pub engine: Arc<dyn Engine>,
    /// The settings of the store behind it, in JSON, if there is one.
    pub behind: Option<Arc<str>>,
    /// It is this node's alone, and written to right here. None where replicas agree.
    pub local: Option<Arc<LocalKeyspace>>,
    /// How late it is for its pairs, where replicas agree.
    pub log_time: Arc<LogTime>,
    /// Names the revisions of a replica that counts on its own what it changes, from its start on: they mean nothing at another
    /// one, nor after another start. None where all have revisions in common.
    pub watch_epoch: Option<u64>,
}

impl HostedKeyspace {
    /// What watches go by: the epoch that names the revisions, and the one of a view of its pairs.
    pub fn watched_at(&self, view: &dyn View) -> (u64, Revision) {
        match self.watch_epoch {
            None => (self.epoch, Revision(view.revision())),
            Some(watch_epoch) => (watch_epoch, revision_of(view.revision())),
        }
    }
}
