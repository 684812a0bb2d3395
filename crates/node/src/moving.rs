//! A replica moves to another engine while it serves.
//!
//! The new engine is built beside the present one, from a snapshot file, at a place of its own. What was applied since is
//! applied to it from the log, in jobs, until it is close; then the present engine is held for a moment, the rest is applied,
//! and one log record says which engine serves. Before that record is durable a crash leaves the old engine, whole; after it,
//! the new one. The log keeps what either would need.

use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{EngineSpec, Place};
use quorate_keyspace::Shard;
use quorate_log::{Disk, GroupId, Record};

use crate::files::LocalSnapshot;
use crate::jobs::{Held, Job};
use crate::limits::{MAX_APPLY_BYTES, MAX_REPLAY_ROUNDS, MOVE_PAUSE_TICKS};
use crate::machine::ShardWork;
use crate::opening::changed_membership;
use crate::outbox::Outbox;
use crate::replica::Replica;
use crate::snapshot::{Filled, SnapshotFile};

/// A replica on its way to another engine.
#[derive(Debug)]
pub(crate) struct Move {
    target: EngineSpec,
    place: Place,
    phase: Phase,
    /// The snapshot that the new engine is built from, once it is cut. The log is kept from here on.
    from: Option<SnapshotFile>,
    /// Where the job says how much of it is in the new engine; and what it said at the last tick: between ticks nothing changes
    /// by itself.
    filled: Arc<Filled>,
    filled_thousandths: u32,
    rounds: u32,
}

/// How far a move is.
#[derive(Debug)]
enum Phase {
    /// A snapshot is cut.
    Cutting,
    /// The new engine is filled from it.
    Building,
    /// The new engine's shard is here: the next run of entries can be given to it.
    Behind(Box<Shard>),
    /// A job applies entries to it.
    Replaying,
}

/// What a replica tells about its move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveStatus {
    /// The engine that it moves to.
    pub to: String,
    /// `cutting`, `building` or `replaying`; `pausing` between a try that failed and the next.
    pub phase: &'static str,
    /// How much of the snapshot is in the new engine, in thousandths.
    pub filled_thousandths: u32,
    /// The index up to which the new engine has applied.
    pub applied_index: u64,
    /// Why the last try ended, if this is not the first.
    pub last_error: Option<String>,
}

/// A try that failed.
#[derive(Clone, Debug)]
struct Failed {
    to: String,
    why: String,
}

/// What a replica remembers of its moves.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    current: Option<Move>,
    last_failure: Option<Failed>,
    /// After a failure the next try waits for this many ticks.
    pause_ticks: u32,
    /// Places that were begun, so that none is used twice.
    tries: u64,
}

impl Moves {
    /// The index from which on a move needs the log.
    pub(crate) fn needs_log_from(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.from.map_or(0, |from| from.at.index.0))
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.current.is_some()
    }

    /// Whether nothing is under way, and nothing waits for time to pass.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.current.is_none() && self.pause_ticks == 0
    }

    /// Time passes.
    pub(crate) fn tick(&mut self) {
        self.pause_ticks = self.pause_ticks.saturating_sub(1);
        if let Some(current) = &mut self.current {
            current.filled_thousandths = current.filled.thousandths();
        }
    }

    /// Whether the file is what a new engine is built from.
    pub(crate) fn needs_file(&self, file: SnapshotFile) -> bool {
        self.current.as_ref().is_some_and(|current| current.from == Some(file))
    }

    pub(crate) fn status(&self, applied_index: u64) -> Option<MoveStatus> {
        let last_error = self.last_failure.as_ref().map(|failed| failed.why.clone());
        let Some(current) = &self.current else {
            let to = self.last_failure.as_ref().filter(|_| self.pause_ticks > 0)?.to.clone();
            return Some(MoveStatus { to, phase: "pausing", filled_thousandths: 0, applied_index: 0, last_error });
        };
        let (phase, applied_index) = match &current.phase {
            Phase::Cutting => ("cutting", 0),
            Phase::Building => ("building", 0),
            Phase::Behind(shard) => ("replaying", shard.header().applied_index),
            Phase::Replaying => ("replaying", applied_index),
        };
        let (to, filled_thousandths) = (current.target.name().to_owned(), current.filled_thousandths);
        Some(MoveStatus { to, phase, filled_thousandths, applied_index, last_error })
    }
}

impl<D: Disk> Replica<D> {
    /// Begins to move to another engine, unless it is on its way already, or there, or a try failed just now.
    pub(crate) fn begin_move(&mut self, target: &EngineSpec, out: &mut Outbox) {
        if self.moves.current.is_some() || self.state.engine == *target || self.moves.pause_ticks > 0 || self.is_loading() {
            return;
        }
        self.moves.tries += 1;
        let place = Place { group: self.spec.group.0, build: self.state.build + self.moves.tries };
        let phase = Phase::Cutting;
        let (target, filled) = (target.clone(), Arc::default());
        self.moves.current = Some(Move { target, place, phase, from: None, filled, filled_thousandths: 0, rounds: 0 });
        self.go_on_cutting(out);
    }

    /// Gives a move up. Nothing of it is left.
    pub(crate) fn abort_move(&mut self, why: String, out: &mut Outbox) {
        if let Some(current) = self.moves.current.take() {
            self.machine.hold(false);
            self.moves.last_failure = Some(Failed { to: current.target.name().to_owned(), why });
            self.moves.pause_ticks = MOVE_PAUSE_TICKS;
            out.jobs.push(Job::Retire { place: current.place, engine: None });
            if let Phase::Behind(shard) = current.phase {
                out.jobs.push(Job::Release { group: GroupId(current.place.group), held: Held::Shard(shard) });
            }
            self.go_on(out);
        }
    }

    /// The engine that it moves to, if it does.
    pub(crate) fn moves_to(&self) -> Option<&EngineSpec> {
        self.moves.current.as_ref().map(|current| &current.target)
    }

    /// Cuts the snapshot, or goes on with the newest if that is of now.
    pub(crate) fn go_on_cutting(&mut self, out: &mut Outbox) {
        let Some(Move { phase: Phase::Cutting, from: None, .. }) = &self.moves.current else {
            return;
        };
        match self.files.latest.as_ref().map(|latest| latest.file) {
            Some(file) if file.at.index.0 == self.header().applied_index => self.begin_build(file, out),
            _ => self.cut_snapshot(out),
        }
    }

    /// A snapshot file was cut: what the move waits for.
    pub(crate) fn begin_build(&mut self, file: SnapshotFile, out: &mut Outbox) {
        let Some(current) = self.moves.current.as_mut().filter(|current| matches!(current.phase, Phase::Cutting)) else {
            return;
        };
        current.from = Some(file);
        current.phase = Phase::Building;
        let (spec, filled) = (current.target.clone(), Arc::clone(&current.filled));
        out.jobs.push(Job::Build { file, place: current.place, spec, filled });
    }

    /// The new engine was filled, or has applied what it was given.
    pub(crate) fn on_moved_on(&mut self, place: Place, shard: Result<Box<Shard>, String>, out: &mut Outbox) {
        let Some(current) = self.moves.current.as_mut().filter(|current| current.place == place) else {
            out.jobs.extend(shard.ok().map(|shard| Job::Release { group: GroupId(place.group), held: Held::Shard(shard) }));
            return;
        };
        match shard {
            Ok(shard) => {
                current.phase = Phase::Behind(shard);
                self.go_on_moving(out);
            }
            Err(why) => self.abort_move(why, out),
        }
    }

    /// Gives the new engine the next run of entries, or switches if it has them all.
    fn go_on_moving(&mut self, out: &mut Outbox) {
        let applied = self.header().applied_index;
        let is_held = self.machine.is_held();
        let Some(current) = &mut self.moves.current else { return };
        let Phase::Behind(shard) = std::mem::replace(&mut current.phase, Phase::Replaying) else {
            return;
        };
        let next = shard.header().applied_index + 1;
        if next > applied {
            // Nothing is applied between here and the switch: this is the loop.
            if self.machine.shard().is_some() {
                return self.switch(shard, out);
            }
            // A run is with a job: the new engine gets it when it comes back.
            current.phase = Phase::Behind(shard);
            return self.machine.hold(true);
        }
        current.rounds += 1;
        let is_late = current.rounds >= MAX_REPLAY_ROUNDS;
        let place = current.place;
        let work = self.log().replay(next, applied + 1, MAX_APPLY_BYTES).map_err(|error| error.to_string());
        let work = work.and_then(|entries| next_work(entries, &shard));
        match work {
            Ok(work) => {
                // What is left fits into this run, or never will: what comes after waits for the new engine.
                self.machine.hold(is_held || is_late || work.last_index() == applied);
                out.jobs.push(Job::Replay { place, shard, work });
            }
            Err(why) => self.abort_move(why, out),
        }
    }

    /// The present engine took something in: if the new one waits for that, it goes on.
    pub(crate) fn after_apply(&mut self, out: &mut Outbox) {
        if self.moves.current.as_ref().is_some_and(|current| matches!(current.phase, Phase::Behind(_))) {
            self.go_on_moving(out);
        }
    }

    /// Both engines hold the same: from now on the new one serves.
    fn switch(&mut self, shard: Box<Shard>, out: &mut Outbox) {
        let Some(Move { target, place, from, .. }) = self.moves.current.take() else {
            return;
        };
        assert_eq!(shard.header(), self.header(), "both engines hold the same");
        out.retired.push((self.place(), self.engine().cloned()));
        self.state.engine = target;
        self.state.build = place.build;
        out.records.push((self.spec.group, Record::State(self.state.to_bytes())));
        self.machine.switch(shard);
        self.moves = Moves::default();
        // What the new engine has made durable by itself is the snapshot that it was built from.
        self.files.flushing = None;
        self.files.flushed = self.files.latest.as_ref().filter(|latest| Some(latest.file) == from).map(LocalSnapshot::point);
        out.has_switched = true;
        self.go_on(out);
    }
}

/// The first run of entries, or the first membership change, as the shard shall apply it.
pub(crate) fn next_work(entries: Vec<(u64, u64, Bytes)>, shard: &Shard) -> Result<ShardWork, String> {
    let is_member = |payload: &Bytes| crate::convert::is_conf_change(payload);
    let run = entries.iter().take_while(|(_, _, payload)| !is_member(payload)).count();
    if run > 0 {
        return Ok(ShardWork::Entries(entries.into_iter().take(run).collect()));
    }
    let Some((index, term, payload)) = entries.into_iter().next() else {
        return Err("the log does not have what was applied".to_owned());
    };
    let membership = changed_membership(shard, payload).ok_or("the log holds a membership change that cannot be read")?;
    Ok(ShardWork::Membership { index, term, membership })
}
