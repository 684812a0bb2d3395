//! Which replicas a node has, and on which engines: it starts, moves and retires them as the catalog says.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_engine::Place;
use quorate_keyspace::{LocalKeyspace, Op, Settings, Write};
use quorate_log::{Disk, GroupId, Record};

use crate::catalog::{Catalog, ReplicaRole, SYSTEM_GROUP};
use crate::eventual_watch::watch_epoch;
use crate::io::{Effect, Failure, StopReason};
use crate::jobs::{Held, Job};
use crate::node::Node;
use crate::opening::Opening;
use crate::outbox::Proposal;
use crate::reads::Reader;
use crate::start::{Founding, ReplicaState};
use crate::status::{Hosted, HostedKeyspace};

/// How long this node waits for a change of the catalog that it asked for.
const CATALOG_CHANGE_MS: u64 = 2_000;

/// What serves no more, and is removed from the disk.
#[derive(Debug)]
pub(crate) struct Retired {
    /// Once this is durable the log does not name it any more.
    pub(crate) ticket: u64,
    pub(crate) job: Job,
}

impl<D: Disk> Node<D> {
    /// Starts the replicas that the catalog gives this node and that are not there yet.
    pub(crate) fn start_replicas(&mut self, catalog: &Catalog) {
        for (name, keyspace, shard) in catalog.shards().filter(|(_, keyspace, _)| keyspace.replication.is_raft()) {
            let Some(own) = shard.replica_on(self.identity.node) else {
                continue;
            };
            if self.replicas.contains_key(&shard.group) {
                continue;
            }
            let founding = shard.founding.contains(&own.replica).then(|| Founding {
                settings: shard.begun_with.map_or_else(|| keyspace.shard_settings(), Into::into),
                voters: shard.founding.clone(),
                entry: bytes::Bytes::new(),
            });
            let state = ReplicaState {
                replica: own.replica,
                epoch: keyspace.epoch,
                keyspace: name.to_owned(),
                engine: keyspace.engine.spec(),
                build: 0,
                membership: bytes::Bytes::new(),
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
                Ok(mut replica) => {
                    replica.found();
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
        let gone: Vec<u64> = self.replicas.keys().copied().filter(|group| catalog.is_deleted(*group)).collect();
        for group in gone {
            self.retire(group);
        }
    }

    fn retire(&mut self, group: u64) {
        let Some(mut replica) = self.replicas.remove(&group) else {
            return;
        };
        self.dirty.remove(&group);
        self.resting.remove(&group);
        self.dues.set(group, None);
        self.routes.retain(|(of, _), _| *of != group);
        for read in replica.reads.take_all() {
            if let Reader::Client(token) = read.reader {
                self.fail(token, Failure::NotHosted);
            }
        }
        let waits = self.leader_waits.extract_if(.., |wait| wait.group == group);
        let tokens: Vec<u64> = waits.map(|wait| wait.token).collect();
        tokens.into_iter().for_each(|token| self.fail(token, Failure::NotHosted));
        self.fail_writes_of(group);
        self.forget_transfers(group);
        // What is on a disk is closed before it is removed.
        if let Some(engine) = replica.engine().filter(|engine| !engine.capabilities().durable) {
            let held = Held::Engine(Arc::clone(engine));
            // Only once nobody is shown it any more: whoever has it last frees it.
            self.retired.push(Retired { ticket: self.next_ticket, job: Job::Release { group: GroupId(group), held } });
        }
        self.retired.push(Retired { ticket: self.next_ticket, job: Job::Forget { group: GroupId(group) } });
        self.persist(vec![(GroupId(group), Record::Destroy)]);
    }

    /// Removes what serves no more, once the log says so.
    pub(crate) fn remove_retired(&mut self, ticket: u64) {
        let retired = self.retired.extract_if(.., |retired| retired.ticket <= ticket);
        self.effects.extend(retired.map(|retired| Effect::Job(retired.job)));
    }

    /// Lets those of these groups that this node leads know their keyspaces' settings, by an entry in their logs.
    pub(crate) fn drive_settings(&mut self, busy: &BTreeSet<u64>) {
        let catalog = Arc::clone(&self.catalog);
        let driven = busy.iter().filter_map(|group| catalog.shard(*group));
        // Whoever restores a keyspace gives it its settings, as the last thing before everybody sees it.
        for (_, keyspace, shard) in driven.filter(|(_, keyspace, _)| !keyspace.is_restoring) {
            let wanted = keyspace.shard_settings();
            let leading = self.replicas.get_mut(&shard.group).filter(|replica| replica.is_leader());
            if let Some(replica) = leading.filter(|replica| replica.header().settings != wanted && !replica.is_loading()) {
                let write = Write { ops: vec![Op::Configure(wanted)], ..Write::default() };
                // Proposed again at each tick until it is applied: the last one says the same as the first.
                replica.propose(Proposal::nameless(&write));
                self.dirty.insert(shard.group);
            }
        }
    }

    /// Takes the replica of each of these groups a step towards its keyspace's engine. One replica of a shard moves at a time,
    /// and says in the catalog when it has arrived.
    pub(crate) fn drive_moves(&mut self, busy: &BTreeSet<u64>) {
        let catalog = Arc::clone(&self.catalog);
        let node = self.identity.node;
        let mut change = None;
        let busy_shards = busy.iter().filter_map(|group| catalog.shard(*group));
        for (_, keyspace, shard) in busy_shards.filter(|(_, _, shard)| shard.group != SYSTEM_GROUP) {
            let (Some(own), Some(replica)) = (shard.replica_on(node), self.replicas.get_mut(&shard.group)) else {
                continue;
            };
            let has_arrived = keyspace.engine.is(&replica.state.engine);
            if has_arrived && !own.has_to_move() && !replica.moves.is_moving() {
                continue;
            }
            self.busy.insert(shard.group);
            if replica.moves_to().is_some_and(|target| !keyspace.engine.is(target)) {
                replica.abort_move("the keyspace was given another engine meanwhile".to_owned(), &mut self.out);
            }
            if has_arrived {
                change = change.or_else(|| catalog.plan_moved(shard.group, own.replica, &keyspace.engine));
            } else if own.is_moving {
                replica.begin_move(&keyspace.engine.spec(), &mut self.out);
                replica.go_on_cutting(&mut self.out);
                self.dirty.insert(shard.group);
            } else {
                change = change.or_else(|| catalog.plan_claim_move(shard.group, own.replica).ok().flatten());
            }
        }
        if let Some(write) = change {
            self.change_catalog(&write);
        }
    }

    /// Writes to the catalog in this node's own name. The next change waits until this one is seen, or lost.
    pub(crate) fn change_catalog(&mut self, write: &Write) {
        let asked = (self.catalog.changed_at, self.now);
        let is_waiting =
            self.catalog_change.is_some_and(|(of, since)| of == asked.0 && self.now.since(since) < CATALOG_CHANGE_MS);
        if is_waiting {
            return;
        }
        self.catalog_change = Some(asked);
        self.submit_own(SYSTEM_GROUP, write);
    }

    /// Makes and drops the keyspaces that are this node's alone, and gives them their settings.
    pub(crate) fn follow_locals(&mut self, catalog: &Catalog) {
        let gone: Vec<u64> = self.locals.keys().copied().filter(|group| catalog.is_deleted(*group)).collect();
        for group in gone {
            let local = self.locals.remove(&group);
            self.effects.push(Effect::Job(Job::Forget { group: GroupId(group) }));
            self.effects.extend(local.map(|local| {
                let held = Held::Local(local);
                Effect::Job(Job::Release { group: GroupId(group), held })
            }));
        }
        let node = self.identity.node;
        let own =
            catalog.shards().filter(|(_, keyspace, shard)| keyspace.replication.is_alone() && shard.replica_on(node).is_some());
        for (name, keyspace, shard) in own {
            let Settings { limits, ttl_ms, .. } = keyspace.shard_settings();
            let result = match self.locals.get(&shard.group) {
                Some(local) => local.configure(limits, ttl_ms),
                None => {
                    let opened = self.engines.open(Place { group: shard.group, build: 0 }, &keyspace.engine.spec());
                    let made = opened.map_err(Into::into).and_then(|engine| LocalKeyspace::new(engine, limits, ttl_ms));
                    made.map(|local| drop(self.locals.insert(shard.group, Arc::new(local))))
                }
            };
            if let Err(error) = result {
                self.effects.push(Effect::Stop(StopReason::Broken(format!("keyspace {name}: {error}"))));
            }
        }
    }

    /// Lets engines know the options of their keyspaces, where these can be altered while they serve.
    pub(crate) fn alter_engines(&mut self, catalog: &Catalog) {
        for (_, keyspace, shard) in catalog.shards().filter(|(_, keyspace, _)| !keyspace.replication.is_raft()) {
            let kind = keyspace.engine.replica_kind();
            if kind.is_none_or(|kind| kind.options.iter().all(|option| !option.is_alterable)) {
                continue;
            }
            let local = self.locals.get(&shard.group).map(|local| local.engine());
            let Some(engine) = local.or_else(|| self.eventuals.engine(shard.group)) else { continue };
            if engine.alter(&keyspace.engine.spec().options) {
                let (group, engine) = (GroupId(shard.group), Arc::clone(engine));
                self.effects.push(Effect::Job(Job::Fit { group, engine }));
            }
        }
    }

    pub(crate) fn publish_hosted(&mut self, catalog: &Catalog) {
        let hosted = |(name, keyspace, shard): (&str, &crate::KeyspaceRecord, &crate::ShardRecord)| {
            let local = self.locals.get(&shard.group);
            let own = shard.replica_on(self.identity.node);
            let eventual = self.eventuals.engine(shard.group).filter(|_| own.is_some_and(|own| own.role == ReplicaRole::Voter));
            let (engine, log_time, spec) = match (local, eventual, self.replicas.get(&shard.group)) {
                (Some(local), ..) => (Arc::clone(local.engine()), Arc::default(), None),
                (None, Some(engine), _) => (Arc::clone(engine), Arc::default(), None),
                (None, None, replica) => {
                    let replica = replica.filter(|replica| replica.machine.is_whole())?;
                    (Arc::clone(replica.engine()?), Arc::clone(&replica.log_time), Some(&replica.state.engine))
                }
            };
            // One that has to move yet has a store of its own, or none.
            let behind = match spec.filter(|spec| !keyspace.engine.is(spec)) {
                Some(spec) => spec.behind.as_ref().map(|behind| behind.settings.as_str().into()),
                None => keyspace.engine.local.as_ref().map(|_| keyspace.engine.json().into()),
            };
            let (group, epoch, local) = (GroupId(shard.group), keyspace.epoch, local.map(Arc::clone));
            let mode = keyspace.replication.known_mode()?;
            let counts = mode.is_eventual().then(|| self.eventuals.replicas.get(&shard.group)).flatten();
            let watch_epoch = counts.map(|own| watch_epoch(&own.replica));
            Some((name.to_owned(), HostedKeyspace { group, epoch, mode, engine, behind, local, log_time, watch_epoch }))
        };
        let keyspaces = catalog.shards().filter_map(hosted).collect();
        self.hosted = Arc::new(Hosted { keyspaces });
        self.effects.push(Effect::Hosted(Arc::clone(&self.hosted)));
    }
}
