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
    shard: Place,
    /// The snapshot that replaces everything once it is loaded.
    awaited: Option<SnapshotFile>,
    /// Up to here entries are read from the log again: they were applied, to content that is not there any more.
    replay_until: u64,
    /// The last entry that was taken in.
    taken_in: u64,
    /// Nothing more is applied until another engine has caught up.
    is_held: bool,
    backlog: VecDeque<Entry>,
    backlog_bytes: usize,
}

/// Where the shard is, and what is over: its numbers as they were before.
#[derive(Debug)]
enum Place {
    Here(Box<Shard>),
    /// With a job.
    Away(Arc<dyn Engine>, ShardHeader),
    /// The engine is there and its content is lost: a snapshot is to be had from the leader.
    Lost(Arc<dyn Engine>, ShardHeader),
    /// The engine failed, was given up, and is to be opened again.
    Closed(ShardHeader),
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
        let taken_in = shard.header().applied_index;
        Self::of(Place::Here(Box::new(shard)), taken_in, 0)
    }

    /// One whose engine lost its content; with the numbers that the log still tells. Nothing is applied, and nothing can be read,
    /// until a snapshot was loaded.
    pub(crate) fn lost(engine: Arc<dyn Engine>, header: ShardHeader) -> Self {
        let applied = header.applied_index;
        Self::of(Place::Lost(engine, header), applied, applied)
    }

    /// One whose engine cannot be opened now; with the numbers that the log tells.
    pub(crate) fn closed(header: ShardHeader) -> Self {
        let applied = header.applied_index;
        Self::of(Place::Closed(header), applied, applied)
    }

    fn of(shard: Place, taken_in: u64, replay_until: u64) -> Self {
        Self { shard, awaited: None, replay_until, taken_in, is_held: false, backlog: VecDeque::new(), backlog_bytes: 0 }
    }

    /// Whether the engine's content was lost, and is not there again.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.shard, Place::Lost(..))
    }

    /// Whether the engine is to be opened again.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.shard, Place::Closed(_))
    }

    /// Whether all that was applied once is there to be read.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_lost() && !self.is_closed() && self.header().applied_index >= self.replay_until
    }

    /// Gives up an engine that failed. What it had applied since its durable point is read from the log again, and so is what it
    /// failed at.
    pub(crate) fn close(&mut self) {
        let handed_out = self.backlog.front().map_or(self.taken_in, |next| next.index - 1);
        if self.awaited.is_none() {
            self.replay_until = self.replay_until.max(self.header().applied_index).max(handed_out);
        }
        self.shard = Place::Closed(self.header().clone());
        self.is_held = false;
    }

    /// The engine is open again, at its durable point or where it stood.
    pub(crate) fn reopen(&mut self, shard: Box<Shard>) {
        assert!(self.is_closed(), "what is opened again was closed");
        self.shard = Place::Here(shard);
    }

    /// The engine is open again, and without content that the log goes on from.
    pub(crate) fn lose(&mut self, engine: Arc<dyn Engine>) {
        assert!(self.is_closed(), "what is opened again was closed");
        self.shard = Place::Lost(engine, self.header().clone());
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
            Place::Away(_, header) | Place::Lost(_, header) | Place::Closed(header) => header,
        }
    }

    /// None while it is to be opened again.
    pub(crate) fn engine(&self) -> Option<&Arc<dyn Engine>> {
        match &self.shard {
            Place::Here(shard) => Some(shard.engine()),
            Place::Away(engine, _) | Place::Lost(engine, _) => Some(engine),
            Place::Closed(_) => None,
        }
    }

    /// The shard, while it is here.
    pub(crate) fn shard(&self) -> Option<&Shard> {
        match &self.shard {
            Place::Here(shard) => Some(shard),
            _ => None,
        }
    }

    /// Whether the engine may stall, and so is written to by jobs. Only such a one is ever closed.
    pub(crate) fn may_stall(&self) -> bool {
        self.engine().is_none_or(|engine| engine.capabilities().durable)
    }

    /// Whether other content shall replace the present one, or make up for it, also if it is yet to be had.
    pub(crate) fn is_loading(&self) -> bool {
        self.awaited.is_some() || self.is_lost() || self.is_closed()
    }

    /// Whether a snapshot that is here shall replace everything.
    pub(crate) fn awaits_snapshot(&self) -> bool {
        self.awaited.is_some()
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
            _ => unreachable!("work is handed out while the shard is here"),
        }
    }

    /// Gives the shard to a job.
    pub(crate) fn lend(&mut self) -> Box<Shard> {
        let shard = self.shard().expect("work is handed out while the shard is here");
        let away = Place::Away(Arc::clone(shard.engine()), shard.header().clone());
        match std::mem::replace(&mut self.shard, away) {
            Place::Here(shard) => shard,
            _ => unreachable!("it was here just now"),
        }
    }

    /// Takes the shard back. False if its engine was given up meanwhile.
    pub(crate) fn take_back(&mut self, shard: Box<Shard>) -> bool {
        assert!(self.shard().is_none(), "a shard is lent once");
        if self.is_closed() {
            return false;
        }
        self.shard = Place::Here(shard);
        true
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
        assert!(self.is_lost(), "only what was lost is fetched");
        self.awaited = Some(file);
    }

    /// Whether what makes up for the lost content is here, and to be loaded.
    pub(crate) fn has_fetched(&self) -> bool {
        self.is_lost() && self.awaited.is_some()
    }

    /// The snapshot that is awaited, once no job writes to the engine.
    pub(crate) fn awaited(&self) -> Option<SnapshotFile> {
        self.awaited.filter(|_| self.shard().is_some() || self.is_lost())
    }

    /// The engine holds the awaited snapshot now: `shard` is made from it. False if another is awaited, or the engine was given
    /// up.
    pub(crate) fn replace(&mut self, file: SnapshotFile, shard: Shard) -> bool {
        let is_awaited = !self.is_closed() && self.awaited.take_if(|awaited| *awaited == file).is_some();
        if is_awaited {
            self.shard = Place::Here(Box::new(shard));
        }
        is_awaited
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
