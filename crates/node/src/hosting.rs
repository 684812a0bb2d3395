//! Which replicas a node has: it starts and retires them as the catalog says.

use std::sync::Arc;

use quorate_engine::Place;
use quorate_log::{Disk, GroupId, Record};

use crate::catalog::Catalog;
use crate::io::{Effect, Failure, StopReason};
use crate::jobs::Job;
use crate::node::Node;
use crate::opening::Opening;
use crate::snapshot::SnapshotFile;
use crate::start::{Founding, ReplicaState};
use crate::status::{Hosted, HostedKeyspace};

/// What a replica leaves behind when its keyspace is deleted.
#[derive(Debug)]
pub(crate) struct Retired {
    /// Once this is durable the log does not know the group any more.
    pub(crate) ticket: u64,
    pub(crate) place: Place,
    pub(crate) files: Vec<SnapshotFile>,
}

impl<D: Disk> Node<D> {
    /// Starts the replicas that the catalog gives this node and that are not there yet.
    pub(crate) fn start_replicas(&mut self, catalog: &Catalog) {
        for (name, keyspace, shard) in catalog.shards() {
            let Some(own) = shard.replica_on(self.identity.node) else {
                continue;
            };
            if self.replicas.contains_key(&shard.group) {
                continue;
            }
            let founding = shard.founding.contains(&own.replica).then(|| Founding {
                max_bytes: keyspace.max_bytes(),
                voters: shard.founding.clone(),
                entry: bytes::Bytes::new(),
            });
            let state = ReplicaState {
                replica: own.replica,
                epoch: keyspace.epoch,
                keyspace: name.to_owned(),
                engine: keyspace.engine.spec(),
                build: 0,
                founding,
            };
            let group = GroupId(shard.group);
            let records = state.records(group);
            let opening = Opening {
                config: &self.config,
                log: &self.log,
                files: self.files.as_ref(),
                engines: self.engines.as_ref(),
                seed: self.seed,
                origin: self.pending.origin(),
            };
            match opening.new_replica(group, state) {
                Ok(replica) => {
                    self.replicas.insert(group.0, replica);
                    self.dirty.insert(group.0);
                    self.persist(records);
                }
                Err(error) => self.effects.push(Effect::Stop(StopReason::Broken(error.to_string()))),
            }
        }
    }

    /// Takes out the replicas of groups that the catalog does not know any more: their keyspaces were deleted.
    pub(crate) fn retire_replicas(&mut self, catalog: &Catalog) {
        let gone: Vec<u64> = self.replicas.keys().copied().filter(|group| catalog.shard(*group).is_none()).collect();
        for group in gone {
            self.retire(group);
        }
    }

    fn retire(&mut self, group: u64) {
        let Some(mut replica) = self.replicas.remove(&group) else {
            return;
        };
        self.dirty.remove(&group);
        self.routes.retain(|(of, _), _| *of != group);
        for read in replica.reads.take_all() {
            self.fail(read.token, Failure::NotHosted);
        }
        let waits = self.leader_waits.extract_if(.., |wait| wait.group == group);
        let tokens: Vec<u64> = waits.map(|wait| wait.token).collect();
        tokens.into_iter().for_each(|token| self.fail(token, Failure::NotHosted));
        self.fail_writes_of(group);
        self.forget_transfers(group);
        let files = replica.files.all();
        self.retired.push(Retired { ticket: self.next_ticket, place: replica.place(), files });
        self.persist(vec![(GroupId(group), Record::Destroy)]);
    }

    /// Removes what retired replicas left, once the log has forgotten them.
    pub(crate) fn remove_retired(&mut self, ticket: u64) {
        for retired in self.retired.extract_if(.., |retired| retired.ticket <= ticket) {
            let Retired { place, files, .. } = retired;
            self.effects.push(Effect::Job(Job::Retire { place, files }));
        }
    }

    pub(crate) fn publish_hosted(&mut self, catalog: &Catalog) {
        let hosted = |(name, keyspace, shard): (&str, &crate::KeyspaceRecord, &crate::ShardRecord)| {
            let replica = self.replicas.get(&shard.group)?;
            let engine = Arc::clone(replica.engine());
            Some((name.to_owned(), HostedKeyspace { group: GroupId(shard.group), epoch: keyspace.epoch, engine }))
        };
        let keyspaces = catalog.shards().filter_map(hosted).collect();
        self.hosted = Arc::new(Hosted { keyspaces });
        self.effects.push(Effect::Hosted(Arc::clone(&self.hosted)));
    }
}
