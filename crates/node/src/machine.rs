//! What applies a group's committed entries: a shard, and what waits for it.
//!
//! An engine in memory is written to within the poll. One that keeps its pairs on a disk may stall (it compacts, or syncs): its
//! shard goes away with a job, one at a time, and comes back with what became of the entries. Meanwhile committed entries wait
//! here, and the replica votes, appends and leads as ever: an engine holds up its own group only.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::Engine;
use quorate_keyspace::{Applied, Shard, ShardError, ShardHeader};
use raft::eraftpb::{Entry, EntryType};

use crate::limits::{MAX_APPLY_BYTES, MAX_BACKLOG_BYTES};
use crate::snapshot::SnapshotFile;

/// A group's state machine on this node.
///
/// *Invariants*: entries in the backlog are consecutive, and begin right after what was applied or is being applied; nothing is
/// applied while a snapshot is on its way in.
#[derive(Debug)]
pub(crate) struct Machine {
    engine: Arc<dyn Engine>,
    shard: Place,
    /// The snapshot that replaces everything once it is loaded.
    awaited: Option<SnapshotFile>,
    /// The engine's content was lost: a snapshot is to be had from the leader.
    is_lost: bool,
    /// Up to here entries are read from the log again: they were applied, to content that is lost.
    replay_until: u64,
    /// The last entry that was taken in.
    taken_in: u64,
    /// Nothing more is applied until another engine has caught up.
    is_held: bool,
    backlog: VecDeque<Entry>,
    backlog_bytes: usize,
}

/// Where the shard is.
#[derive(Debug)]
enum Place {
    Here(Box<Shard>),
    /// With a job. Its numbers as they were before.
    Away(ShardHeader),
}

/// What can be applied at once.
#[derive(Debug)]
pub(crate) enum Work {
    /// Commands.
    Run(Vec<(u64, u64, Bytes)>),
    /// A change of the membership.
    Member(Entry),
}

/// What a shard applies.
#[derive(Debug)]
pub enum ShardWork {
    /// Entries, consecutive: index, term, payload.
    Entries(Vec<(u64, u64, Bytes)>),
    /// The membership after the change that stands at this index.
    Membership {
        /// The index.
        index: u64,
        /// Its term.
        term: u64,
        /// The membership, encoded.
        membership: Bytes,
    },
}

impl ShardWork {
    /// The index of the last entry in it; 0 if there is none.
    pub(crate) fn last_index(&self) -> u64 {
        match self {
            Self::Entries(entries) => entries.last().map_or(0, |(index, ..)| *index),
            Self::Membership { index, .. } => *index,
        }
    }

    /// Applies it. Blocks for as long as the engine does.
    pub(crate) fn apply_to(self, shard: &mut Shard) -> Result<Applied, ShardError> {
        match self {
            Self::Entries(entries) => shard.apply(&entries),
            Self::Membership { index, term, membership } => {
                shard.set_membership(index, term, membership).map(|()| Applied::default())
            }
        }
    }
}

impl Machine {
    pub(crate) fn new(shard: Shard) -> Self {
        Self {
            engine: Arc::clone(shard.engine()),
            taken_in: shard.header().applied_index,
            shard: Place::Here(Box::new(shard)),
            awaited: None,
            is_lost: false,
            replay_until: 0,
            is_held: false,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
        }
    }

    /// One whose engine lost its content; with the numbers that the log still tells. Nothing is applied, and nothing can be read,
    /// until a snapshot was loaded.
    pub(crate) fn lost(engine: Arc<dyn Engine>, header: ShardHeader) -> Self {
        Self {
            engine,
            replay_until: header.applied_index,
            taken_in: header.applied_index,
            shard: Place::Away(header),
            awaited: None,
            is_lost: true,
            is_held: false,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
        }
    }

    /// Whether the engine's content was lost, and is not there again.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// The entries to be read from the log again, if that comes next: the first, and the one after the last.
    pub(crate) fn replay(&self) -> Option<(u64, u64)> {
        let next = self.header().applied_index + 1;
        let can_apply = self.shard().is_some() && !self.is_loading() && !self.is_held;
        (can_apply && next <= self.replay_until).then_some((next, self.replay_until + 1))
    }

    /// How far raft-rs can be told that all is applied: what it has handed out.
    pub(crate) fn applied_of_taken(&self) -> u64 {
        self.header().applied_index.min(self.taken_in)
    }

    /// The numbers after what was last applied.
    pub(crate) fn header(&self) -> &ShardHeader {
        match &self.shard {
            Place::Here(shard) => shard.header(),
            Place::Away(header) => header,
        }
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The shard, while no job has it.
    pub(crate) fn shard(&self) -> Option<&Shard> {
        match &self.shard {
            Place::Here(shard) => Some(shard),
            Place::Away(_) => None,
        }
    }

    /// Whether the engine may stall, and so is written to by jobs.
    pub(crate) fn may_stall(&self) -> bool {
        self.engine.capabilities().durable
    }

    /// Whether a snapshot shall replace everything, also if it is yet to be had.
    pub(crate) fn is_loading(&self) -> bool {
        self.awaited.is_some() || self.is_lost
    }

    /// Whether so much waits that no more is taken in.
    pub(crate) fn has_full_backlog(&self) -> bool {
        self.backlog_bytes >= MAX_BACKLOG_BYTES
    }

    /// Takes in committed entries.
    pub(crate) fn take_in(&mut self, committed: Vec<Entry>) {
        self.taken_in = committed.last().map_or(self.taken_in, |last| last.index);
        self.backlog_bytes += committed.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.backlog.extend(committed);
    }

    /// The next work, if there is any and the shard is here. It is to be applied, or given to a job together with the shard.
    pub(crate) fn next_work(&mut self) -> Option<Work> {
        if self.shard().is_none() || self.is_loading() || self.is_held {
            return None;
        }
        let applied = self.header().applied_index;
        let mut run = Vec::new();
        let mut run_bytes = 0;
        while let Some(entry) = self.backlog.pop_front_if(|entry| {
            let is_normal = entry.get_entry_type() == EntryType::EntryNormal;
            let fits = run_bytes + entry.data.len() as u64 <= MAX_APPLY_BYTES;
            run.is_empty() || (is_normal && fits)
        }) {
            self.backlog_bytes -= entry.data.len();
            if entry.get_entry_type() != EntryType::EntryNormal {
                return Some(Work::Member(entry));
            }
            if entry.index <= applied {
                // The snapshot that made up for a lost engine was newer.
                continue;
            }
            run_bytes += entry.data.len() as u64;
            run.push((entry.index, entry.term, entry.data));
        }
        (!run.is_empty()).then_some(Work::Run(run))
    }

    /// Applies work that the engine does not stall at.
    pub(crate) fn apply(&mut self, work: ShardWork) -> Result<Applied, ShardError> {
        match &mut self.shard {
            Place::Here(shard) => work.apply_to(shard),
            Place::Away(_) => unreachable!("work is handed out while the shard is here"),
        }
    }

    /// Gives the shard to a job.
    pub(crate) fn lend(&mut self) -> Box<Shard> {
        let header = self.header().clone();
        match std::mem::replace(&mut self.shard, Place::Away(header)) {
            Place::Here(shard) => shard,
            Place::Away(_) => unreachable!("work is handed out while the shard is here"),
        }
    }

    /// Takes the shard back.
    pub(crate) fn take_back(&mut self, shard: Box<Shard>) {
        assert!(self.shard().is_none(), "a shard is lent once");
        self.shard = Place::Here(shard);
    }

    /// Stops applying, or goes on.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Goes on with the same content in another engine.
    pub(crate) fn switch(&mut self, shard: Box<Shard>) {
        assert!(self.shard().is_some(), "no job has the shard that is given up");
        self.engine = Arc::clone(shard.engine());
        self.shard = Place::Here(shard);
        self.is_held = false;
    }

    /// A snapshot shall replace everything: what waits lies before it.
    pub(crate) fn await_snapshot(&mut self, file: SnapshotFile) {
        self.awaited = Some(file);
        self.replay_until = 0;
        self.taken_in = file.at.index.0;
        self.backlog.clear();
        self.backlog_bytes = 0;
    }

    /// A snapshot makes up for the lost content. What was committed since goes on from there.
    pub(crate) fn await_fetched(&mut self, file: SnapshotFile) {
        assert!(self.is_lost, "only what was lost is fetched");
        self.awaited = Some(file);
    }

    /// Whether what makes up for the lost content is here, and to be loaded.
    pub(crate) fn has_fetched(&self) -> bool {
        self.is_lost && self.awaited.is_some()
    }

    /// The snapshot that is awaited, once no job writes to the engine.
    pub(crate) fn awaited(&self) -> Option<SnapshotFile> {
        self.awaited.filter(|_| self.shard().is_some() || self.is_lost)
    }

    /// The engine holds the awaited snapshot now: `shard` is made from it. False if another is awaited.
    pub(crate) fn replace(&mut self, file: SnapshotFile, shard: Shard) -> bool {
        if self.awaited.take_if(|awaited| *awaited == file).is_none() {
            return false;
        }
        self.engine = Arc::clone(shard.engine());
        self.shard = Place::Here(Box::new(shard));
        self.is_lost = false;
        true
    }
}

impl fmt::Display for ShardWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(entries) => {
                let first = entries.first().map_or(0, |(index, ..)| *index);
                write!(f, "{} entries from {first}", entries.len())
            }
            Self::Membership { index, .. } => write!(f, "the membership at {index}"),
        }
    }
}
