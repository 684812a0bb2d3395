//! Replicas from what a node's disks hold of them.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Engine, EngineError, EngineSpec, Engines, Place};
use quorate_keyspace::{Shard, ShardError, ShardHeader};
use quorate_log::{Disk, GroupId, LogId, LogIndex, Reader, Term};
use raft::prelude::{ConfChangeType, ConfChangeV2, ConfState};

use crate::catalog::SYSTEM_GROUP;
use crate::convert::{decode_conf_change, decode_membership, encode_membership, is_conf_change};
use crate::files::{Files, LocalSnapshot};
use crate::limits::{Config, MAX_APPLY_BYTES};
use crate::machine::Machine;
use crate::replica::Replica;
use crate::snapshot::{Filled, SnapshotFile, load};
use crate::start::{FOUNDED_AT, Founding, OpenError, ReplicaState};
use crate::storage::GroupLog;

/// What is needed to open a replica.
pub(crate) struct Opening<'a, D: Disk> {
    pub(crate) config: &'a Config,
    pub(crate) log: &'a Reader<D>,
    pub(crate) files: &'a D,
    pub(crate) engines: &'a dyn Engines,
    pub(crate) seed: u64,
    pub(crate) origin: u64,
}

impl<D: Disk> Opening<'_, D> {
    /// A replica as log, engine and snapshot files have it. Everything that is known to be committed is applied, unless the
    /// engine's content is lost.
    pub(crate) fn replica(&self, group: GroupId, state: ReplicaState, own: Vec<SnapshotFile>) -> Result<Replica<D>, OpenError> {
        let keyspace = state.keyspace.clone();
        let found = self.log.group(group).unwrap_or_default();
        let mut log = GroupLog::open(group, self.log.clone(), self.config.entry_cache_bytes, ConfState::default());
        let (durable, files) = self.durable_shard(group, &state, own)?;
        let commit = found.hard_state.commit.0;
        let machine = match durable {
            Durable::Here(mut shard) => match replay(&mut shard, &log, commit, &keyspace) {
                Ok(()) => Machine::new(*shard),
                Err(error) if is_for_want_of_room(&error) => Machine::closed(header_by_log(&log, &state, commit)?),
                Err(error) => return Err(error),
            },
            Durable::Lost(engine) => Machine::lost(engine, header_by_log(&log, &state, commit)?),
            Durable::Closed => Machine::closed(header_by_log(&log, &state, commit)?),
        };
        log.set_initial(log.initial_commit(), decode_membership(machine.header().membership.clone()).unwrap_or_default());
        let files = Files { log_bytes: log.bytes_on_disk(), ..files };
        self.assemble((group, state), log, machine, files)
    }

    /// The shard at its engine's durable point: what the engine itself came back with, or else the newest snapshot file, or
    /// else how the group began. If it is none of these, an empty engine.
    fn durable_shard(&self, group: GroupId, state: &ReplicaState, mut own: Vec<SnapshotFile>) -> Result<Found, OpenError> {
        let keyspace = &state.keyspace;
        let purged = self.log.group(group).unwrap_or_default().purged;
        let shard_error = |source| OpenError::Shard { keyspace: keyspace.clone(), source };
        let place = Place { group: group.0, build: state.build };
        let (engine, shard, damage) = match reopen(self.engines, place, &state.engine).map_err(shard_error) {
            Ok(reopened) => reopened,
            // What is there of files stays: nobody knows yet whether they serve.
            Err(error) if is_for_want_of_room(&error) => {
                return Ok((Durable::Closed, Files { damage: Some(error.to_string()), ..Files::default() }));
            }
            Err(error) => return Err(error),
        };
        // One that stands before the log was about to load a snapshot.
        if let Some(shard) = shard.filter(|shard| shard.header().applied_index >= purged.index.0) {
            let header = shard.header();
            let flushed = LogId { term: Term(header.applied_term), index: LogIndex(header.applied_index) };
            let flushed = Some((flushed, header.membership.clone()));
            return Ok((Durable::Here(Box::new(shard)), Files { old: own, flushed, ..Files::default() }));
        }
        // A file that the log does not know, by index and term, was staged for a snapshot that it had not accepted yet.
        let usable = |file: &SnapshotFile| match file.at.index {
            index if index == purged.index => file.at.term == purged.term,
            index => self.log.term(group, index) == Some(file.at.term),
        };
        let newest = own.iter().filter(|file| usable(file)).max().copied();
        own.retain(|file| Some(*file) != newest);
        let Some(file) = newest else {
            let files = Files { old: own, damage, ..Files::default() };
            if purged.index > FOUNDED_AT.index {
                check_membership(state, purged.index)?;
                return Ok((Durable::Lost(engine), files));
            }
            let shard = begin(engine, state.founding.as_ref(), group).map_err(shard_error)?;
            return Ok((Durable::Here(Box::new(shard)), files));
        };
        match load(self.files, &file, engine.as_ref(), &Filled::default()) {
            Ok((loaded, size_bytes)) => {
                let shard = Shard::restore(engine, loaded).map_err(shard_error)?;
                let latest = LocalSnapshot { file, size_bytes, membership: shard.header().membership.clone() };
                let flushed = Some(latest.point());
                Ok((
                    Durable::Here(Box::new(shard)),
                    Files { latest: Some(latest), old: own, flushed, damage, ..Files::default() },
                ))
            }
            Err(source) if source.kind() == io::ErrorKind::InvalidData && purged.index > FOUNDED_AT.index => {
                check_membership(state, purged.index)?;
                own.push(file);
                let damage = damage.or_else(|| Some(format!("{file}: {source}")));
                Ok((Durable::Lost(engine), Files { old: own, damage, ..Files::default() }))
            }
            Err(source) => Err(OpenError::Snapshot { file: file.to_string(), source }),
        }
    }

    /// A replica of a group that this node has no log of yet; its records are to be written.
    pub(crate) fn new_replica(&self, group: GroupId, state: ReplicaState) -> Result<Replica<D>, OpenError> {
        let keyspace = state.keyspace.clone();
        let engine = self.engine(group, &state)?;
        let shard = begin(engine, state.founding.as_ref(), group);
        let shard = shard.map_err(|source| OpenError::Shard { keyspace: keyspace.clone(), source })?;
        let membership = decode_membership(shard.header().membership.clone()).unwrap_or_default();
        let mut log = GroupLog::open(group, self.log.clone(), self.config.entry_cache_bytes, membership);
        if state.founding.is_some() {
            log.found(FOUNDED_AT);
        }
        self.assemble((group, state), log, Machine::new(shard), Files::default())
    }

    fn engine(&self, group: GroupId, state: &ReplicaState) -> Result<Arc<dyn Engine>, OpenError> {
        let opened = self.engines.open(Place { group: group.0, build: state.build }, &state.engine);
        opened.map_err(|source| OpenError::Engine { keyspace: state.keyspace.clone(), source })
    }

    fn assemble(
        &self,
        of: (GroupId, ReplicaState),
        log: GroupLog<D>,
        machine: Machine,
        files: Files,
    ) -> Result<Replica<D>, OpenError> {
        let keyspace = of.1.keyspace.clone();
        Replica::new(of, log, machine, files, (self.config, self.seed, self.origin))
            .map_err(|error| OpenError::Raft { keyspace, why: error.to_string() })
    }
}

/// An engine, the shard that it came back with, and why it had to be made anew.
type Reopened = (Arc<dyn Engine>, Option<Shard>, Option<String>);

/// Opens an engine, with the shard that it came back with, if it did. One that is damaged is made anew, empty.
pub(crate) fn reopen(engines: &dyn Engines, place: Place, spec: &EngineSpec) -> Result<Reopened, ShardError> {
    let came_back = match engines.open(place, spec) {
        Ok(engine) if engine.capabilities().durable => Shard::open(Arc::clone(&engine)).map(|shard| (engine, shard)),
        Ok(engine) => return Ok((engine, None, None)),
        Err(error) => Err(ShardError::Engine(error)),
    };
    match came_back {
        Ok((engine, shard)) => Ok((engine, shard, None)),
        // No new start would read it either.
        Err(error @ (ShardError::Engine(EngineError::Corrupt(_)) | ShardError::Decode(_))) => {
            engines.remove(place).map_err(EngineError::Io)?;
            Ok((engines.open(place, spec)?, None, Some(error.to_string())))
        }
        Err(error) => Err(error),
    }
}

/// What is there at the durable point.
enum Durable {
    Here(Box<Shard>),
    /// An empty engine: there is nothing to fill it with but what the leader has.
    Lost(Arc<dyn Engine>),
    /// The disk is too full to open it.
    Closed,
}

/// What is there, and what is beside it.
type Found = (Durable, Files);

/// Whether an engine could be opened, or brought to where it stood, if only the disk had room.
fn is_for_want_of_room(error: &OpenError) -> bool {
    let (OpenError::Engine { source: EngineError::Io(error), .. }
    | OpenError::Shard { source: ShardError::Engine(EngineError::Io(error)), .. }) = error
    else {
        return false;
    };
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A replica whose engine is lost votes only if it knows who else does: a state of version 1 does not tell, once the group's
/// beginning is purged.
fn check_membership(state: &ReplicaState, purged: LogIndex) -> Result<(), OpenError> {
    if state.membership.is_empty() {
        return Err(OpenError::SnapshotMissing { keyspace: state.keyspace.clone(), index: purged.0 });
    }
    Ok(())
}

/// What the log still tells of a shard whose engine is not there: who votes after what is known to be committed. raft-rs begins
/// with that, and hands out what comes after.
fn header_by_log<D: Disk>(log: &GroupLog<D>, state: &ReplicaState, commit: u64) -> Result<ShardHeader, OpenError> {
    let mut members = match decode_membership(state.membership.clone()).filter(|members| !members.voters.is_empty()) {
        Some(members) => members,
        None if log.purged().index > FOUNDED_AT.index => return Err(OpenError::BadState { group: log.group().0 }),
        None => state.founding.as_ref().map(founding_membership).unwrap_or_default(),
    };
    let mut next = log.purged().index.0 + 1;
    while next <= commit {
        for (index, _, payload) in log.replay(next, commit + 1, MAX_APPLY_BYTES)? {
            if let Some(change) = decode_conf_change(payload) {
                change_membership(&mut members, &change);
            }
            next = index + 1;
        }
    }
    let applied_index = commit.max(log.purged().index.0);
    Ok(ShardHeader { applied_index, membership: encode_membership(&members), ..ShardHeader::default() })
}

fn founding_membership(founding: &Founding) -> ConfState {
    ConfState { voters: founding.voters.clone(), ..ConfState::default() }
}

/// The shard of a group that begins: with its founding entry, or, on a later replica, with nothing at all.
pub(crate) fn begin(engine: Arc<dyn Engine>, founding: Option<&Founding>, group: GroupId) -> Result<Shard, ShardError> {
    let Some(founding) = founding else {
        return Shard::found(engine, ShardHeader::default());
    };
    let membership = encode_membership(&founding_membership(founding));
    let settings = founding.settings;
    let mut shard = Shard::found(engine, ShardHeader { settings, membership, ..ShardHeader::default() })?;
    assert!(group.0 == SYSTEM_GROUP || founding.entry.is_empty(), "only the catalog begins with content");
    shard.apply(&[(FOUNDED_AT.index.0, FOUNDED_AT.term.0, founding.entry.clone())])?;
    Ok(shard)
}

/// Applies what the log says is committed. Done before raft-rs begins, which so starts with the membership as it is.
fn replay<D: Disk>(shard: &mut Shard, log: &GroupLog<D>, commit: u64, keyspace: &str) -> Result<(), OpenError> {
    let shard_error = |source| OpenError::Shard { keyspace: keyspace.to_owned(), source };
    while shard.header().applied_index < commit {
        let low = shard.header().applied_index + 1;
        for (index, term, payload) in log.replay(low, commit + 1, MAX_APPLY_BYTES)? {
            if is_conf_change(&payload) {
                let membership = changed_membership(shard, payload).ok_or(OpenError::BadState { group: 0 })?;
                shard.set_membership(index, term, membership).map_err(shard_error)?;
            } else {
                shard.apply(&[(index, term, payload)]).map_err(shard_error)?;
            }
        }
    }
    Ok(())
}

/// The membership of a shard after a change that stands in the log.
pub(crate) fn changed_membership(shard: &Shard, payload: Bytes) -> Option<Bytes> {
    let mut state = decode_membership(shard.header().membership.clone())?;
    change_membership(&mut state, &decode_conf_change(payload)?);
    Some(encode_membership(&state))
}

/// What raft-rs does to a membership for a change of one member.
fn change_membership(state: &mut ConfState, change: &ConfChangeV2) {
    for single in change.get_changes() {
        let id = single.node_id;
        state.voters.retain(|voter| *voter != id);
        state.learners.retain(|learner| *learner != id);
        match single.get_change_type() {
            ConfChangeType::AddNode => state.voters.push(id),
            ConfChangeType::AddLearnerNode => state.learners.push(id),
            ConfChangeType::RemoveNode => {}
        }
    }
}
