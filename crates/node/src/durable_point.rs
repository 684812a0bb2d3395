//! How far a replica comes back without its log, and how it is filled again when it does not: flushes and snapshot files, the
//! purge of the log behind them, and what a lost engine gets from the leader.
use bytes::Bytes;
use quorate_engine::{EngineError, Place};
use quorate_keyspace::ShardError;
use quorate_log::{Disk, LogId, LogIndex, Record, Term};
use raft::eraftpb::{Message, MessageType};

use crate::convert::decode_membership;
use crate::files::LocalSnapshot;
use crate::jobs::Job;
use crate::limits::Config;
use crate::outbox::Outbox;
use crate::replica::Replica;
use crate::snapshot::SnapshotFile;

impl<D: Disk> Replica<D> {
    /// Moves the engine's durable point forward if as much log was applied as makes it worth it, or if `is_forced`: a memory
    /// engine's is a snapshot file.
    pub(crate) fn maybe_make_durable(&mut self, config: &Config, is_forced: bool, out: &mut Outbox) {
        let (applied_index, may_stall) = (self.header().applied_index, self.machine.may_stall());
        let due_bytes = if may_stall { config.flush_log_bytes } else { self.files.cut_due_bytes(config) };
        let is_new = applied_index > self.durable_point().map_or(0, |(at, _)| at.index.0);
        if !is_new || (self.files.log_bytes < due_bytes && !is_forced) {
            return;
        }
        if may_stall { self.flush(out) } else { self.cut_snapshot(out) }
    }

    /// Everything up to here comes back after a power loss without the log.
    fn durable_point(&self) -> Option<(LogId, &Bytes)> {
        if self.machine.may_stall() {
            return self.files.flushed.as_ref().map(|(at, membership)| (*at, membership));
        }
        self.files.latest.as_ref().map(|latest| (latest.file.at, &latest.membership))
    }

    fn flush(&mut self, out: &mut Outbox) {
        let Some(engine) = self.engine().cloned().filter(|_| self.files.flushing.is_none() && !self.is_loading()) else {
            return;
        };
        let header = self.header();
        let at = LogId { term: Term(header.applied_term), index: LogIndex(header.applied_index) };
        self.files.flushing = Some((at, header.membership.clone()));
        self.files.log_bytes = 0;
        out.jobs.push(Job::Flush { place: self.place(), engine });
    }

    /// The engine was flushed. If it had no room for that, more log has to do.
    pub(crate) fn on_flushed(&mut self, place: Place, durable_index: Result<u64, EngineError>, out: &mut Outbox) {
        let own = self.place();
        let Some((at, membership)) = self.files.flushing.take_if(|_| place == own) else {
            return;
        };
        let durable_index = match durable_index {
            Ok(durable_index) => durable_index,
            Err(why) => return self.on_engine_failed(&ShardError::Engine(why), out),
        };
        // A snapshot that was loaded meanwhile has made a later point durable.
        if durable_index >= at.index.0 && self.files.flushed.as_ref().is_none_or(|(flushed, _)| flushed.index < at.index) {
            self.files.flushed = Some((at, membership));
        }
    }

    pub(crate) fn cut_snapshot(&mut self, out: &mut Outbox) {
        let Some(shard) = self.machine.shard().filter(|_| self.files.cutting.is_none() && !self.is_loading()) else {
            return;
        };
        let header = shard.header();
        let at = LogId { term: Term(header.applied_term), index: LogIndex(header.applied_index) };
        if header.applied_index == 0 || self.files.latest.as_ref().is_some_and(|latest| latest.file.at == at) {
            return;
        }
        let job = Job::Cut {
            file: SnapshotFile { group: self.spec.group, at },
            view: shard.engine().view(),
            state: shard.state_bytes(),
        };
        self.files.cutting = Some(header.membership.clone());
        self.files.is_wanted = false;
        if !self.machine.may_stall() {
            self.files.log_bytes = 0;
        }
        out.jobs.push(job);
    }

    /// A snapshot was cut, or could not be: then more log has to do.
    pub(crate) fn on_cut(&mut self, file: SnapshotFile, size_bytes: Result<u64, String>, out: &mut Outbox) {
        let Some(membership) = self.files.cutting.take() else { return };
        let size_bytes = match size_bytes {
            Ok(size_bytes) => size_bytes,
            Err(why) => return self.abort_move(why, out),
        };
        self.counters.cut += 1;
        if file.at.index < self.raw.store().purged().index {
            // A newer one was installed from the leader meanwhile, or the log went on without it.
            return self.files.old.push(file);
        }
        let conf_state = decode_membership(membership.clone()).unwrap_or_default();
        self.files.take_in(LocalSnapshot { file, size_bytes, membership });
        self.raw.mut_store().set_snapshot(file.at, conf_state);
        self.begin_build(file, out);
    }

    /// Purges the log behind the engine's durable point. A leader keeps what followers that are there still need, unless
    /// `is_forced`.
    pub(crate) fn maybe_purge(&mut self, is_forced: bool, out: &mut Outbox) {
        let Some((durable, _)) = self.durable_point() else {
            return;
        };
        let mut index = self.moves.needs_log_from().map_or(durable.index.0, |needed| needed.min(durable.index.0));
        if self.is_leader() && !is_forced {
            let followers =
                self.raw.raft.prs().iter().filter(|(id, progress)| **id != self.raw.raft.id && progress.recent_active);
            let needed = followers.map(|(_, progress)| progress.matched.max(progress.pending_snapshot)).min();
            index = index.min(needed.unwrap_or(index));
        }
        if index <= self.raw.store().purged().index.0 || self.is_loading() {
            return;
        }
        let Ok(term) = raft::Storage::term(self.raw.store(), index) else {
            return;
        };
        let upto = LogId { term: Term(term), index: LogIndex(index) };
        let membership = self.durable_point().map(|(_, membership)| membership.clone()).unwrap_or_default();
        if self.state.membership != membership {
            // If the engine is lost, only this tells who votes.
            self.state.membership = membership;
            out.records.push((self.spec.group, Record::State(self.state.to_bytes())));
        }
        self.raw.mut_store().purge(upto);
        out.records.push((self.spec.group, Record::Purge(upto)));
        // A follower that loaded it would need what is purged now.
        self.files.drop_before(upto);
    }

    /// Why it has no content now: its engine was damaged or lost. It asks its leader for a snapshot from this index on.
    pub(crate) fn asks_for(&self) -> Option<u64> {
        let is_asking = self.machine.is_lost() && !self.machine.has_fetched();
        is_asking.then(|| self.log().purged().index.0)
    }

    /// A snapshot came that raft-rs has no use for: it may make up for a lost engine.
    pub(crate) fn take_fetched(&mut self, file: SnapshotFile, out: &mut Outbox) -> bool {
        if self.asks_for().is_none_or(|min_index| file.at.index.0 < min_index) {
            return false;
        }
        self.machine.await_fetched(file);
        self.loadable = true;
        self.maybe_load(out);
        true
    }

    /// The message with which a leader sends a replica a snapshot; none if there is no such snapshot yet.
    pub(crate) fn snapshot_for(&mut self, replica: u64, min_index: u64) -> Option<Message> {
        if !self.is_leader() {
            return None;
        }
        let snapshot = raft::Storage::snapshot(self.raw.store(), min_index, replica).ok()?;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (self.spec.id, replica, self.raw.raft.term);
        message.set_snapshot(snapshot);
        Some(message)
    }
}
