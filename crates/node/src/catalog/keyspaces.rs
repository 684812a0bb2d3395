//! Changes to keyspaces: made, altered, deleted, and moved to another engine.

use quorate_api::key::{DEFAULT_KEYSPACE, is_keyspace_name};
use quorate_keyspace::Write;

use super::records::{
    EngineSettings, HOW_A_STORE_IS_ASKED, KeyspaceRecord, MoveRecord, NodeState, ReplicaRecord, ReplicaRole, ShardRecord,
};
use super::settings::{DEFAULT_ENGINE, KeyspaceSettings, SettingsError};
use super::{Catalog, CatalogError, SYSTEM_KEYSPACE};
use crate::limits::MAX_KEYSPACES;

impl Catalog {
    /// Makes a keyspace, with a replica on every member. Nothing to write if it is there with the same settings. `now_ms`
    /// counts from 1970, and is for people alone.
    pub fn plan_create(&self, name: &str, settings: &KeyspaceSettings, now_ms: u64) -> Result<Option<Write>, CatalogError> {
        check_name(name)?;
        settings.check()?;
        if let Some(keyspace) = self.keyspaces.get(name) {
            return match difference(&keyspace.settings(), settings) {
                None => Ok(None),
                Some(what) => Err(CatalogError::KeyspaceExists { name: name.to_owned(), what }),
            };
        }
        self.with_new(name, settings, now_ms, false).map(|next| Some(self.write_to(&next)))
    }

    /// Makes a keyspace that is to be filled from a backup, and that nobody can use until that has ended. One that a restore left
    /// behind is made anew; so is the one that always exists, if the caller has found it `default_is_empty`. Any other that is
    /// there is [`CatalogError::KeyspaceInUse`].
    pub fn plan_begin_restore(
        &self,
        name: &str,
        settings: &KeyspaceSettings,
        default_is_empty: bool,
        now_ms: u64,
    ) -> Result<Write, CatalogError> {
        check_name(name)?;
        settings.check()?;
        if settings.engine.outside.is_some() {
            let why = "engine: a backup cannot be restored into a store outside the nodes; import an export";
            return Err(SettingsError::Unsupported(why.to_owned()).into());
        }
        let mut without = self.clone();
        if let Some(there) = without.keyspaces.remove(name) {
            let may_go = there.is_restoring || (name == DEFAULT_KEYSPACE && default_is_empty);
            if !may_go {
                return Err(CatalogError::KeyspaceInUse(name.to_owned()));
            }
        }
        without.with_new(name, settings, now_ms, true).map(|next| self.write_to(&next))
    }

    /// Lets everybody use a keyspace that was filled, if it is still the one of this epoch.
    pub fn plan_end_restore(&self, name: &str, epoch: u64) -> Result<Write, CatalogError> {
        let mut next = self.clone();
        let keyspace = next.keyspaces.get_mut(name).filter(|keyspace| keyspace.is_restoring && keyspace.epoch == epoch);
        keyspace.ok_or_else(|| CatalogError::RestoreOver(name.to_owned()))?.is_restoring = false;
        Ok(self.write_to(&next))
    }

    /// Gives up filling a keyspace: it is gone, or empty if it always exists. Nothing to write if it is not the one of this
    /// epoch.
    pub fn plan_abandon_restore(&self, name: &str, epoch: u64, now_ms: u64) -> Result<Option<Write>, CatalogError> {
        let mut next = self.clone();
        let Some(there) = next.keyspaces.remove(name).filter(|keyspace| keyspace.is_restoring && keyspace.epoch == epoch) else {
            return Ok(None);
        };
        if name == DEFAULT_KEYSPACE {
            next = next.with_new(name, &there.settings(), now_ms, false)?;
        }
        Ok(Some(self.write_to(&next)))
    }

    /// The catalog with one more keyspace, which has a replica on every member.
    fn with_new(&self, name: &str, settings: &KeyspaceSettings, now_ms: u64, is_restoring: bool) -> Result<Self, CatalogError> {
        if self.keyspaces.len() >= MAX_KEYSPACES {
            return Err(CatalogError::TooManyKeyspaces);
        }
        self.check_source(settings)?;
        if !is_restoring {
            // A backup may come back in a smaller cluster.
            let members = self.nodes.iter().filter(|(_, node)| node.state == NodeState::Member);
            check_ack(settings, &members.map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
        }
        let mut next = self.clone();
        let group = next.cluster.next_group;
        next.cluster.next_group += 1;
        let shard = next.new_shard(group, settings);
        let mut keyspace = KeyspaceRecord {
            epoch: epoch_of(group),
            engine: settings.engine.clone(),
            replication: settings.replication.clone(),
            ttl_ms: settings.ttl_ms,
            limits: settings.limits.clone(),
            retention: settings.retention,
            is_restoring,
            created_ms: now_ms,
            last_move: None,
            shards: vec![shard],
        };
        if settings.replication.is_raft() {
            let begun_with = keyspace.shard_settings().into();
            keyspace.shards.iter_mut().for_each(|shard| shard.begun_with = Some(begun_with));
        }
        next.keyspaces.insert(name.to_owned(), keyspace);
        Ok(next)
    }

    /// Gives a keyspace other settings. With another engine, its replicas have to move there. Nothing to write if it has these
    /// settings. `now_ms` counts from 1970, and is for people alone.
    pub fn plan_alter(&self, name: &str, settings: &KeyspaceSettings, now_ms: u64) -> Result<Option<Write>, CatalogError> {
        settings.check()?;
        self.check_source(settings)?;
        self.plan_alter_checked(name, settings, now_ms)
    }

    fn plan_alter_checked(&self, name: &str, settings: &KeyspaceSettings, now_ms: u64) -> Result<Option<Write>, CatalogError> {
        let mut next = self.clone();
        let keyspace = next.keyspace_to_change(name)?;
        let present = keyspace.settings();
        if *settings == present {
            return Ok(None);
        }
        if settings.replication.waits_for() != present.replication.waits_for() {
            let stays = |id: u64| keyspace.staying_replicas().any(|replica| replica.node == id);
            let staying = self.nodes.iter().filter(|(_, node)| stays(node.id));
            check_ack(settings, &staying.map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
        }
        if settings.replication.mode != present.replication.mode {
            let why = format!("replication: {name} was made with {}, which cannot be changed", present.replication.mode);
            return Err(SettingsError::Unsupported(why).into());
        }
        if present.replication.is_eventual() && settings.replication.is_durable() != present.replication.is_durable() {
            let why = format!("replication.durability: {name} was made with the other, which cannot be changed");
            return Err(SettingsError::Unsupported(why).into());
        }
        // Which options a replica has is part of what its log says of it, so there they are altered by a move.
        let is_alterable = !present.replication.is_raft() && present.engine.is_alterable_to(&settings.engine);
        let is_same_engine = settings.engine.is_same(&present.engine) || settings.engine.is_same_place(&present.engine);
        let has_other_engine = !is_same_engine && !is_alterable;
        if has_other_engine && !present.replication.is_raft() {
            let why = "engine: only keyspaces with replication raft can be moved to another; delete this one and make it anew";
            return Err(SettingsError::Unsupported(why.to_owned()).into());
        }
        let are_behind = present.engine.local.is_some() && settings.engine.local.is_some();
        if has_other_engine && are_behind && settings.engine.kind == present.engine.kind {
            let why = format!(
                "engine: {name} has a store {} behind it, which two engines would write to while one takes the other's place; \
                 only {} can be changed there: move it to {DEFAULT_ENGINE} first, and from there to an empty place of the store",
                present.engine.kind,
                HOW_A_STORE_IS_ASKED.join(", ")
            );
            return Err(SettingsError::Unsupported(why).into());
        }
        if has_other_engine {
            keyspace.move_to(settings.engine.clone(), self.cluster.jobs + 1, now_ms);
        } else if !settings.engine.is_same(&present.engine) {
            // Who has it keeps to other options, or asks its store in another way, from now on.
            keyspace.engine = settings.engine.clone();
        }
        keyspace.replication = settings.replication.clone();
        keyspace.ttl_ms = settings.ttl_ms;
        keyspace.limits = settings.limits.clone();
        keyspace.retention = settings.retention;
        next.cluster.jobs += u64::from(has_other_engine);
        Ok(Some(self.write_to(&next)))
    }

    /// Whether the node is there that a mirror is to be of.
    fn check_source(&self, settings: &KeyspaceSettings) -> Result<(), CatalogError> {
        let is_member = |name: &str| self.nodes.get(name).is_some_and(|node| node.state == NodeState::Member);
        match settings.replication.source() {
            Some(name) if !is_member(name) => {
                let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
                let why = format!("replication.source: there is no node {name:?}; known: {}", known.join(", "));
                Err(SettingsError::Invalid(why).into())
            }
            _ => Ok(()),
        }
    }

    /// Deletes a keyspace with all its pairs.
    pub fn plan_delete(&self, name: &str) -> Result<Write, CatalogError> {
        if name == SYSTEM_KEYSPACE || name == DEFAULT_KEYSPACE {
            return Err(CatalogError::KeyspaceStays(name.to_owned()));
        }
        let mut next = self.clone();
        next.keyspaces.remove(name).ok_or_else(|| CatalogError::KeyspaceNotFound(name.to_owned()))?;
        Ok(self.write_to(&next))
    }

    /// Lets a replica move to its keyspace's engine, if no other of its shard is on the way. Nothing to write if it was let
    /// before. [`CatalogError::NothingToMove`]: it is not known to have another engine, or is gone.
    pub fn plan_claim_move(&self, group: u64, replica: u64) -> Result<Option<Write>, CatalogError> {
        let Some((name, _, shard)) = self.shard(group) else {
            return Err(CatalogError::NothingToMove { group, replica });
        };
        let own = shard.replicas.iter().find(|own| own.replica == replica && own.has_to_move());
        let own = own.ok_or(CatalogError::NothingToMove { group, replica })?;
        if own.is_moving {
            return Ok(None);
        }
        if shard.replicas.iter().any(|other| other.is_moving) {
            return Err(CatalogError::OtherMoves(name.to_owned()));
        }
        Ok(self.write_replica(group, replica, |own| own.is_moving = true))
    }

    /// Takes note of the engine that a replica has, durably, and lets the next one move. Nothing to write if that is known, or
    /// the replica is gone.
    pub fn plan_moved(&self, group: u64, replica: u64, engine: &EngineSettings) -> Option<Write> {
        let (_, keyspace, _) = self.shard(group)?;
        let engine = Some(engine).filter(|engine| **engine != keyspace.engine).cloned();
        self.write_replica(group, replica, |own| {
            own.engine = engine;
            own.is_moving = false;
        })
    }

    /// Lets a replica serve that has all that it should have. Nothing to write if it does, or is gone, or shall go.
    pub fn plan_joined(&self, group: u64, replica: u64) -> Option<Write> {
        self.write_replica(group, replica, |own| {
            if own.role == ReplicaRole::Learner {
                own.role = ReplicaRole::Voter;
            }
        })
    }

    /// Takes a replica out that shall go and wrote nothing that others lack, or is gone for good. Nothing to write if it is out
    /// already, or is not to go.
    pub fn plan_drained(&self, group: u64, replica: u64) -> Option<Write> {
        let is_it = |own: &ReplicaRecord| own.replica == replica && own.role == ReplicaRole::Leaving;
        self.write_shard(group, |shard| {
            let before = shard.replicas.len();
            shard.replicas.retain(|own| !is_it(own));
            shard.members_epoch += u64::from(shard.replicas.len() < before);
        })
    }

    /// Gives a replica that lost what it had another id: it begins anew, as one that joins. Nothing to write if the replica has
    /// another id by now, or is gone.
    pub fn plan_reborn(&self, group: u64, replica: u64) -> Option<Write> {
        let mut next = self.clone();
        next.cluster.next_replica += 1;
        let shard = next.shard_to_change(group)?;
        let own = shard.replicas.iter_mut().find(|own| own.replica == replica)?;
        own.replica = self.cluster.next_replica;
        if own.role == ReplicaRole::Voter {
            own.role = ReplicaRole::Learner;
        }
        shard.members_epoch += 1;
        Some(self.write_to(&next))
    }

    /// The write for a change of a shard's record, if there is such a shard and it changes.
    fn write_shard(&self, group: u64, change: impl FnOnce(&mut ShardRecord)) -> Option<Write> {
        let mut next = self.clone();
        change(next.shard_to_change(group)?);
        (next != *self).then(|| self.write_to(&next))
    }

    fn shard_to_change(&mut self, group: u64) -> Option<&mut ShardRecord> {
        let mut shards = self.keyspaces.values_mut().flat_map(|keyspace| &mut keyspace.shards);
        shards.find(|shard| shard.group == group)
    }

    /// The write for a change of one replica's record, if there is such a replica and it changes.
    fn write_replica(&self, group: u64, replica: u64, change: impl FnOnce(&mut ReplicaRecord)) -> Option<Write> {
        self.write_shard(group, |shard| {
            if let Some(own) = shard.replicas.iter_mut().find(|own| own.replica == replica) {
                change(own);
            }
        })
    }

    /// A shard with a replica on every member, oldest first; with none if the pairs are in a store outside.
    fn new_shard(&mut self, group: u64, settings: &KeyspaceSettings) -> ShardRecord {
        let replication = &settings.replication;
        let mut members: Vec<u64> =
            self.nodes.values().filter(|node| node.state == NodeState::Member).map(|node| node.id).collect();
        members.sort_unstable();
        let mut shard = ShardRecord { group, founding: Vec::new(), begun_with: None, members_epoch: 0, replicas: Vec::new() };
        for node in members.into_iter().filter(|_| settings.engine.outside.is_none()) {
            let replica = self.cluster.next_replica;
            self.cluster.next_replica += 1;
            shard.add(node, replica, replication);
        }
        if replication.is_eventual() {
            shard.found_members();
        }
        if replication.is_raft() {
            let voters = shard.replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter);
            shard.founding = voters.map(|replica| replica.replica).collect();
        }
        shard
    }

    fn keyspace_to_change(&mut self, name: &str) -> Result<&mut KeyspaceRecord, CatalogError> {
        if name == SYSTEM_KEYSPACE {
            return Err(CatalogError::SystemKeyspace);
        }
        self.keyspaces.get_mut(name).ok_or_else(|| CatalogError::KeyspaceNotFound(name.to_owned()))
    }
}

impl KeyspaceRecord {
    /// From now on this is the engine to have. Replicas that have it already need not move, whatever they were asked before.
    fn move_to(&mut self, engine: EngineSettings, job: u64, now_ms: u64) {
        let from = std::mem::replace(&mut self.engine, engine);
        for replica in self.shards.iter_mut().flat_map(|shard| &mut shard.replicas) {
            let present = replica.engine.take().unwrap_or_else(|| from.clone());
            replica.engine = Some(present).filter(|present| *present != self.engine);
        }
        self.last_move = Some(MoveRecord { job, from, started_ms: now_ms });
    }
}

/// Groups are never used again, and so neither are these.
pub(super) fn epoch_of(group: u64) -> u64 {
    group + 1
}

fn check_name(name: &str) -> Result<(), CatalogError> {
    match name {
        SYSTEM_KEYSPACE => Err(CatalogError::SystemKeyspace),
        name if is_keyspace_name(name) => Ok(()),
        name => Err(CatalogError::BadKeyspaceName(name.to_owned())),
    }
}

/// Whether there are so many others as each write is to wait for, among the nodes with a replica.
fn check_ack(settings: &KeyspaceSettings, nodes: &[&str]) -> Result<(), SettingsError> {
    let others = nodes.len().saturating_sub(1) as u64;
    match settings.replication.waits_for().filter(|wanted| *wanted > others) {
        None => Ok(()),
        Some(wanted) => Err(SettingsError::Unsupported(format!(
            "replication.ack: writes would wait for {wanted} others, and with replicas at {} at most {others} can have one: \
             say all_up, or let more nodes join before",
            nodes.join(", ")
        ))),
    }
}

/// What is otherwise than asked, for people.
fn difference(present: &KeyspaceSettings, asked: &KeyspaceSettings) -> Option<String> {
    let parts = [
        ("engine", !present.engine.is_same(&asked.engine)),
        ("replication", present.replication != asked.replication),
        ("ttl", present.ttl_ms != asked.ttl_ms),
        ("limits", present.limits != asked.limits),
        ("retention", present.retention != asked.retention),
    ];
    let differing: Vec<&str> = parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    (!differing.is_empty()).then(|| differing.join(", "))
}

#[cfg(test)]
mod tests;
