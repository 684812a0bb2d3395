//! Replicas from what a node's disks hold of them.

use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Engine, Engines, Place};
use quorate_keyspace::{Shard, ShardError, ShardHeader};
use quorate_log::{Disk, GroupId, LogId, LogIndex, Reader, Term};
use raft::prelude::{ConfChangeType, ConfChangeV2, ConfState};

use crate::catalog::SYSTEM_GROUP;
use crate::convert::{decode_conf_change, decode_membership, encode_membership, is_conf_change};
use crate::files::{Files, LocalSnapshot};
use crate::limits::{Config, MAX_APPLY_BYTES};
use crate::replica::Replica;
use crate::snapshot::{SnapshotFile, load};
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
    /// A replica as log, engine and snapshot files have it. Everything that is known to be committed is applied.
    pub(crate) fn replica(&self, group: GroupId, state: ReplicaState, own: Vec<SnapshotFile>) -> Result<Replica<D>, OpenError> {
        let keyspace = state.keyspace.clone();
        let found = self.log.group(group).unwrap_or_default();
        let (mut shard, files) = self.durable_shard(group, &state, own)?;
        let membership = decode_membership(shard.header().membership.clone()).unwrap_or_default();
        let log = GroupLog::open(group, self.log.clone(), self.config.entry_cache_bytes, membership);
        let files = Files { log_bytes: log.bytes_on_disk(), ..files };
        replay(&mut shard, &log, found.hard_state.commit.0, &keyspace)?;
        self.assemble((group, state), log, shard, files)
    }

    /// The shard at its engine's durable point: what the engine itself came back with, or else the newest snapshot file, or
    /// else how the group began.
    fn durable_shard(
        &self,
        group: GroupId,
        state: &ReplicaState,
        mut own: Vec<SnapshotFile>,
    ) -> Result<(Shard, Files), OpenError> {
        let keyspace = &state.keyspace;
        let found = self.log.group(group).unwrap_or_default();
        let engine = self.engine(group, state)?;
        let shard_error = |source| OpenError::Shard { keyspace: keyspace.clone(), source };
        if engine.capabilities().durable {
            let shard = Shard::open(Arc::clone(&engine)).map_err(shard_error)?;
            // One that stands before the log was about to load a snapshot.
            if let Some(shard) = shard.filter(|shard| shard.header().applied_index >= found.purged.index.0) {
                let header = shard.header();
                let flushed = LogId { term: Term(header.applied_term), index: LogIndex(header.applied_index) };
                let files = Files { old: own, flushed: Some(flushed), ..Files::default() };
                return Ok((shard, files));
            }
        }
        // A file that the log does not know, by index and term, was staged for a snapshot that it had not accepted yet.
        let usable = |file: &SnapshotFile| match file.at.index {
            index if index == found.purged.index => file.at.term == found.purged.term,
            index => self.log.term(group, index) == Some(file.at.term),
        };
        let newest = own.iter().filter(|file| usable(file)).max().copied();
        own.retain(|file| Some(*file) != newest);
        let Some(file) = newest else {
            if found.purged.index > FOUNDED_AT.index {
                return Err(OpenError::SnapshotMissing { keyspace: keyspace.clone(), index: found.purged.index.0 });
            }
            let shard = begin(engine, state.founding.as_ref(), group).map_err(shard_error)?;
            return Ok((shard, Files { old: own, ..Files::default() }));
        };
        let bad_file = |source| OpenError::Snapshot { file: file.to_string(), source };
        let (loaded, size_bytes) = load(self.files, &file, engine.as_ref()).map_err(bad_file)?;
        let shard = Shard::restore(engine, loaded).map_err(shard_error)?;
        let membership = shard.header().membership.clone();
        let latest = Some(LocalSnapshot { file, size_bytes, membership });
        Ok((shard, Files { latest, old: own, flushed: Some(file.at), ..Files::default() }))
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
        self.assemble((group, state), log, shard, Files::default())
    }

    fn engine(&self, group: GroupId, state: &ReplicaState) -> Result<Arc<dyn Engine>, OpenError> {
        let opened = self.engines.open(Place { group: group.0, build: state.build }, &state.engine);
        opened.map_err(|source| OpenError::Engine { keyspace: state.keyspace.clone(), source })
    }

    fn assemble(
        &self,
        of: (GroupId, ReplicaState),
        log: GroupLog<D>,
        shard: Shard,
        files: Files,
    ) -> Result<Replica<D>, OpenError> {
        let keyspace = of.1.keyspace.clone();
        Replica::new(of, log, shard, files, (self.config, self.seed, self.origin))
            .map_err(|error| OpenError::Raft { keyspace, why: error.to_string() })
    }
}

/// The shard of a group that begins: with its founding entry, or, on a later replica, with nothing at all.
fn begin(engine: Arc<dyn Engine>, founding: Option<&Founding>, group: GroupId) -> Result<Shard, ShardError> {
    let Some(founding) = founding else {
        return Shard::found(engine, ShardHeader::default());
    };
    let conf_state = ConfState { voters: founding.voters.clone(), ..ConfState::default() };
    let membership = encode_membership(&conf_state);
    let limits = founding.limits;
    let mut shard = Shard::found(engine, ShardHeader { limits, membership, ..ShardHeader::default() })?;
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
