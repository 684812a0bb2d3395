//! What is done beside the loop, because it takes long: reading and writing snapshot files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Batch, Engine, EngineError, EngineSpec, Engines, Place, View};
use quorate_eventual::{LookedUp, Lookup, Replica as EventualReplica, ReplicaError, Setup};
use quorate_keyspace::{Applied, Lease, LeaseId, LocalKeyspace, Shard, ShardError, leases};
use quorate_log::{Disk, GroupId};

use crate::leases::MAX_READ_LEASES;
use crate::machine::ShardWork;
use crate::opening::{begin, reopen};
use crate::snapshot::{Filled, SnapshotFile, cut, load, read_piece, remove, stage};
use crate::start::Founding;

/// What a deleted keyspace had in memory.
#[derive(Debug)]
pub enum Held {
    /// An engine.
    Engine(Arc<dyn Engine>),
    /// A replica of an eventual keyspace, with its engine.
    Eventual(Box<EventualReplica>),
    /// A keyspace that was a node's alone.
    Local(Arc<LocalKeyspace>),
    /// What was built for a move that was given up.
    Shard(Box<Shard>),
}

/// Work beside the loop.
#[derive(Debug)]
pub enum Job {
    /// Write a file.
    Cut {
        /// The file.
        file: SnapshotFile,
        /// The pairs.
        view: Arc<dyn View>,
        /// The shard's state at the view.
        state: Bytes,
    },
    /// Apply to a shard whose engine may stall.
    Apply {
        /// The group.
        group: GroupId,
        /// The shard; it comes back.
        shard: Box<Shard>,
        /// What to apply.
        work: ShardWork,
    },
    /// Open the engine of a replica of an eventual keyspace, and read all of it.
    OpenEventual {
        /// Where it is.
        place: Place,
        /// Which engine.
        spec: EngineSpec,
        /// What the replica begins with.
        setup: Box<Setup>,
    },
    /// Let such an engine take in a batch.
    ApplyBatch {
        /// Where it is.
        place: Place,
        /// Which start of its replica; comes back.
        start: u64,
        /// The engine.
        engine: Arc<dyn Engine>,
        /// The batch.
        batch: Batch,
    },
    /// Look up in such an engine what its replica is to send.
    LookUp {
        /// Where it is.
        place: Place,
        /// Which start of its replica; comes back.
        start: u64,
        /// What.
        lookup: Lookup,
    },
    /// Make a new engine, from a file.
    Build {
        /// The file.
        file: SnapshotFile,
        /// Where.
        place: Place,
        /// Which engine.
        spec: EngineSpec,
        /// Where the job says how far it is.
        filled: Arc<Filled>,
    },
    /// Apply to the shard over a new engine what the present one has applied.
    Replay {
        /// Where the new engine is.
        place: Place,
        /// The shard; it comes back.
        shard: Box<Shard>,
        /// What to apply.
        work: ShardWork,
    },
    /// Open an engine again that failed.
    Reopen {
        /// Where it is.
        place: Place,
        /// Which engine.
        spec: EngineSpec,
        /// How the group began, if nothing was durable yet.
        founding: Option<Founding>,
    },
    /// Read leases, as a view has them.
    ReadLeases {
        /// The group.
        group: GroupId,
        /// The view.
        view: Arc<dyn View>,
        /// Those behind this one.
        after: Option<LeaseId>,
        /// Comes back.
        round: u64,
    },
    /// Have an engine keep to the options that it was given.
    Fit {
        /// The group.
        group: GroupId,
        /// The engine.
        engine: Arc<dyn Engine>,
    },
    /// Make durable what an engine holds.
    Flush {
        /// Where the engine is.
        place: Place,
        /// The engine.
        engine: Arc<dyn Engine>,
    },
    /// Replace an engine's content by a file's.
    Load {
        /// The file.
        file: SnapshotFile,
        /// The engine.
        engine: Arc<dyn Engine>,
    },
    /// Read a piece of a file that is being sent.
    Read {
        /// The transfer.
        transfer: u64,
        /// The file.
        file: SnapshotFile,
        /// Where.
        offset: u64,
        /// How much at most.
        max_bytes: u64,
    },
    /// Write a piece of a file that is being received. With the last piece the file is checked, synced and renamed.
    Stage {
        /// The sender's transfer.
        transfer: u64,
        /// The file.
        file: SnapshotFile,
        /// Where.
        offset: u64,
        /// The length of the whole file.
        total_bytes: u64,
        /// The piece.
        data: Bytes,
    },
    /// Remove what was received of a file that will not become whole.
    Discard {
        /// The file.
        file: SnapshotFile,
    },
    /// Remove an engine that serves no more.
    Retire {
        /// Where it is.
        place: Place,
        /// Dropped by the job: that may take as long as the engine is large.
        engine: Option<Arc<dyn Engine>>,
    },
    /// Drop what serves no more and has nothing on a disk.
    Release {
        /// The group.
        group: GroupId,
        /// Dropped by the job: that may take as long as it is large.
        held: Held,
    },
    /// Remove all that a group has on this node: engines, also unfinished ones, and snapshot files.
    Forget {
        /// The group.
        group: GroupId,
    },
    /// Remove files that no longer serve.
    Remove {
        /// The group.
        group: GroupId,
        /// The files.
        files: Vec<SnapshotFile>,
    },
}

/// A job that has ended.
#[derive(Debug)]
pub struct JobDone {
    /// The group.
    pub group: GroupId,
    /// What came of it.
    pub result: JobResult,
}

/// What came of a job.
#[derive(Debug)]
pub enum JobResult {
    /// The file is durable.
    Cut {
        /// The file.
        file: SnapshotFile,
        /// Its length, or why there is none.
        size_bytes: Result<u64, String>,
    },
    /// The work was applied.
    Applied {
        /// The shard, and what became of the entries; or why its engine is of no use any more.
        applied: Result<(Box<Shard>, Applied), ShardError>,
    },
    /// An engine of a replica of an eventual keyspace was opened and read.
    EventualOpened {
        /// Where it is.
        place: Place,
        /// The replica over it, which has yet to read its log; or why there is none.
        replica: Result<Box<EventualReplica>, ReplicaError>,
    },
    /// Such an engine has taken in a batch.
    BatchApplied {
        /// Where it is.
        place: Place,
        /// Which start of its replica.
        start: u64,
        /// Or why the engine is of no use any more.
        applied: Result<(), EngineError>,
    },
    /// It was looked up.
    LookedUp {
        /// Where the engine is.
        place: Place,
        /// Which start of its replica.
        start: u64,
        /// What was found, or why the engine is of no use any more.
        found: Result<LookedUp, ReplicaError>,
    },
    /// A new engine was filled, or has applied more.
    MovedOn {
        /// Where it is.
        place: Place,
        /// The shard over it, or why there is none.
        shard: Result<Box<Shard>, String>,
    },
    /// An engine was opened again.
    Reopened {
        /// Where it is.
        place: Place,
        /// The shard that it came back with, or why there is none.
        shard: Result<Box<Shard>, ShardError>,
    },
    /// Leases were read.
    LeasesRead {
        /// As given.
        round: u64,
        /// The leases, in the order of their ids; or why they could not be read.
        leases: Result<Vec<Lease>, ShardError>,
    },
    /// The engine was flushed.
    Flushed {
        /// Where it is.
        place: Place,
        /// The log index that would survive a power loss, or why the engine is of no use any more.
        durable_index: Result<u64, EngineError>,
    },
    /// The engine holds what the file does.
    Loaded {
        /// The file.
        file: SnapshotFile,
        /// The shard's state and the file's length, or why the engine does not.
        state: Result<(Bytes, u64), io::Error>,
    },
    /// A piece was read.
    Read {
        /// The transfer.
        transfer: u64,
        /// Where it belongs.
        offset: u64,
        /// The length of the whole file and the piece, or why there is none.
        piece: Result<(u64, Bytes), String>,
    },
    /// A piece was written.
    Staged {
        /// The sender's transfer.
        transfer: u64,
        /// The file.
        file: SnapshotFile,
        /// Where the next one goes, and whether the file is whole, checked and durable; or why not.
        progress: Result<(u64, bool), String>,
    },
    /// The engine keeps to its options.
    Fitted,
    /// Files were removed, as far as they were there.
    Removed,
    /// What serves no more was removed. What could not be is removed at the next start.
    Retired,
}

impl Job {
    /// The group that the job is for.
    pub fn group(&self) -> GroupId {
        match self {
            Self::Cut { file, .. }
            | Self::Load { file, .. }
            | Self::Read { file, .. }
            | Self::Stage { file, .. }
            | Self::Discard { file } => file.group,
            Self::Build { place, .. }
            | Self::Replay { place, .. }
            | Self::Reopen { place, .. }
            | Self::OpenEventual { place, .. }
            | Self::ApplyBatch { place, .. }
            | Self::LookUp { place, .. }
            | Self::Flush { place, .. }
            | Self::Retire { place, .. } => GroupId(place.group),
            Self::Apply { group, .. }
            | Self::ReadLeases { group, .. }
            | Self::Release { group, .. }
            | Self::Fit { group, .. }
            | Self::Forget { group }
            | Self::Remove { group, .. } => *group,
        }
    }

    /// Does it. Blocks for as long as the disk takes.
    pub fn run<D: Disk>(self, files: &D, engines: &dyn Engines) -> JobDone {
        let group = self.group();
        let text = |error: io::Error| error.to_string();
        let result = match self {
            Self::Cut { file, view, state } => {
                JobResult::Cut { file, size_bytes: cut(files, &file, view.as_ref(), &state).map_err(text) }
            }
            Self::Apply { mut shard, work, .. } => {
                let applied = work.apply_to(&mut shard).map(|applied| (shard, applied));
                JobResult::Applied { applied }
            }
            Self::OpenEventual { place, spec, setup } => {
                let opened = engines.open(place, &spec).map_err(ReplicaError::Engine);
                let replica = opened.and_then(|engine| EventualReplica::open(*setup, engine));
                JobResult::EventualOpened { place, replica: replica.map(Box::new) }
            }
            Self::ApplyBatch { place, start, engine, batch } => {
                JobResult::BatchApplied { place, start, applied: engine.apply(batch) }
            }
            Self::LookUp { place, start, lookup } => JobResult::LookedUp { place, start, found: lookup.run() },
            Self::Build { file, place, spec, filled } => {
                let shard = build(files, engines, &file, (place, &spec), &filled);
                JobResult::MovedOn { place, shard: shard.map(Box::new) }
            }
            Self::Replay { place, mut shard, work } => {
                let applied = work.apply_to(&mut shard).map(|_| shard);
                JobResult::MovedOn { place, shard: applied.map_err(|error| error.to_string()) }
            }
            Self::Reopen { place, spec, founding } => {
                JobResult::Reopened { place, shard: reopened(engines, place, &spec, founding.as_ref()).map(Box::new) }
            }
            Self::ReadLeases { view, after, round, .. } => {
                JobResult::LeasesRead { round, leases: leases(view.as_ref(), after, MAX_READ_LEASES) }
            }
            Self::Fit { engine, .. } => {
                engine.fit();
                JobResult::Fitted
            }
            Self::Flush { place, engine } => JobResult::Flushed { place, durable_index: engine.flush() },
            Self::Load { file, engine } => JobResult::Loaded { file, state: loaded(files, &file, engine.as_ref()) },
            Self::Read { transfer, file, offset, max_bytes } => {
                JobResult::Read { transfer, offset, piece: read_piece(files, &file, offset, max_bytes).map_err(text) }
            }
            Self::Stage { transfer, file, offset, total_bytes, data } => {
                let progress = stage(files, &file, offset, total_bytes, &data).map_err(text);
                JobResult::Staged { transfer, file, progress }
            }
            Self::Discard { file } => {
                remove(files, [file.part()]);
                JobResult::Removed
            }
            Self::Retire { place, engine } => {
                let _ = engines.remove(place);
                drop(engine);
                JobResult::Retired
            }
            Self::Release { held, .. } => {
                drop(held);
                JobResult::Retired
            }
            Self::Forget { group } => {
                forget(files, engines, group);
                JobResult::Retired
            }
            Self::Remove { files: names, .. } => {
                remove(files, names.iter().map(SnapshotFile::to_string));
                JobResult::Removed
            }
        };
        JobDone { group, result }
    }
}

fn forget<D: Disk>(files: &D, engines: &dyn Engines, group: GroupId) {
    for place in engines.places().unwrap_or_default().into_iter().filter(|place| place.group == group.0) {
        let _ = engines.remove(place);
    }
    let names = files.list().unwrap_or_default();
    remove(files, names.into_iter().filter(|name| SnapshotFile::group_of(name) == Some(group)));
}

/// What a file holds, put into an engine; nobody looks how far that is.
fn loaded<D: Disk>(files: &D, file: &SnapshotFile, engine: &dyn Engine) -> io::Result<(Bytes, u64)> {
    load(files, file, engine, &Filled::default())
}

/// The shard that an engine comes back with: at its durable point, or as the group began.
fn reopened(engines: &dyn Engines, place: Place, spec: &EngineSpec, founding: Option<&Founding>) -> Result<Shard, ShardError> {
    let (engine, shard, _) = reopen(engines, place, spec)?;
    shard.map_or_else(|| begin(engine, founding, GroupId(place.group)), Ok)
}

/// A shard over a new engine with what a file holds.
fn build<D: Disk>(
    files: &D,
    engines: &dyn Engines,
    file: &SnapshotFile,
    (place, spec): (Place, &EngineSpec),
    filled: &Filled,
) -> Result<Shard, String> {
    engines.remove(place).map_err(|error| error.to_string())?;
    let engine = engines.open(place, spec).map_err(|error| error.to_string())?;
    let (state, _) = load(files, file, engine.as_ref(), filled).map_err(|error| error.to_string())?;
    Shard::restore(engine, state).map_err(|error| error.to_string())
}
