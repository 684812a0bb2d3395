//! An engine that fails while the node runs: its disk is full, or does not answer as it should. It is given up, opened again at
//! its durable point, and brought back to where it was from the log, which is purged behind that point only. The group goes on:
//! it votes and appends meanwhile. What cannot be read here until then is not hosted.
//!
//! One that comes back without what the log goes on from gets it from the leader. What an engine says is damaged while it applies
//! is not mended by opening it again: the node stops, and its next start rebuilds it.

use std::io;
use std::sync::Arc;

use quorate_engine::{EngineError, Place};
use quorate_keyspace::{Shard, ShardError};
use quorate_log::Disk;

use crate::jobs::Job;
use crate::outbox::Outbox;
use crate::replica::Replica;

const EMPTY: &str = "its engine came back without what the log goes on from";

/// After a failure the next try waits for this many ticks.
const PAUSE_TICKS: u32 = 10;

/// The next try to get an engine to hold what it should.
#[derive(Debug, Default)]
pub(crate) struct Reopening {
    /// Until then; 0 if none is to come.
    pause_ticks: u32,
}

impl Reopening {
    /// A try is to come.
    pub(crate) fn after_pause() -> Self {
        Self { pause_ticks: PAUSE_TICKS }
    }

    /// Whether one is to come.
    pub(crate) fn is_to_come(&self) -> bool {
        self.pause_ticks > 0
    }

    /// Whether it is time.
    fn is_due(&mut self) -> bool {
        let was_waiting = self.pause_ticks > 0;
        self.pause_ticks = self.pause_ticks.saturating_sub(1);
        was_waiting && self.pause_ticks == 0
    }
}

impl<D: Disk> Replica<D> {
    /// The engine failed: what it holds from its durable point on is of no use any more.
    pub(crate) fn on_engine_failed(&mut self, error: &ShardError, out: &mut Outbox) {
        if !is_passing(error) || !self.machine.may_stall() {
            return self.break_down(error, out);
        }
        if self.machine.is_closed() {
            return;
        }
        self.abort_move(error.to_string(), out);
        self.machine.close();
        self.files.flushing = None;
        self.files.damage = Some(error.to_string());
        self.hand_over();
        // Who reads it lets go of it first.
        self.reopening = Reopening::after_pause();
        self.go_on(out);
    }

    /// Time passes.
    pub(crate) fn go_on_reopening(&mut self, out: &mut Outbox) {
        if !self.reopening.is_due() {
            return;
        }
        // A successor may not have been there the last time. A leader that lost its content can have it from nobody.
        self.hand_over();
        if self.is_leader() && self.machine.is_lost() {
            self.reopening = Reopening::after_pause();
        }
        if self.machine.is_closed() {
            let (place, spec, founding) = (self.place(), self.state.engine.clone(), self.state.founding.clone());
            out.jobs.push(Job::Reopen { place, spec, founding });
        }
        self.maybe_load(out);
    }

    /// Who cannot read should not lead.
    fn hand_over(&mut self) {
        if self.is_leader()
            && let Some(successor) = self.best_successor()
        {
            self.transfer_leader(successor);
        }
    }

    /// The engine was opened again, or could not be.
    pub(crate) fn on_reopened(&mut self, place: Place, shard: Result<Box<Shard>, ShardError>, out: &mut Outbox) {
        if place != self.place() {
            return;
        }
        match shard {
            Ok(shard) if shard.header().applied_index >= self.log().purged().index.0 => {
                // How far it is durable is not known after a failure: the log is purged behind what was before, until a flush.
                self.machine.reopen(shard);
                self.counters.reopened += 1;
                self.maybe_load(out);
                self.go_on(out);
            }
            Ok(shard) if self.machine.awaits_snapshot() || self.members().len() > 1 => {
                self.files.damage = Some(EMPTY.to_owned());
                self.machine.lose(Arc::clone(shard.engine()));
                self.reopening = Reopening::after_pause();
                self.maybe_load(out);
            }
            // Nobody else has it. A start looks at what else this node has.
            Ok(_) => self.break_down(&EMPTY, out),
            Err(error) if is_passing(&error) => {
                self.files.damage = Some(error.to_string());
                self.reopening = Reopening::after_pause();
            }
            Err(error) => self.break_down(&error, out),
        }
    }

    /// A snapshot could not be loaded. What its file says is trusted, or the node stops.
    pub(crate) fn on_load_failed(&mut self, error: io::Error, out: &mut Outbox) {
        if error.kind() == io::ErrorKind::InvalidData {
            return self.break_down(&error, out);
        }
        self.loadable = true;
        self.on_engine_failed(&ShardError::Engine(error.into()), out);
    }
}

/// Whether an engine may be in order after it is opened again.
fn is_passing(error: &ShardError) -> bool {
    matches!(error, ShardError::Engine(EngineError::Io(_)))
}
