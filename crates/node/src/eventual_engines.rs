//! Replicas of eventual keyspaces whose engines are on disks.
//!
//! Such an engine may stall, so all that takes long is done by jobs: it is opened and read once, which makes the replica's index;
//! it takes in batches, one at a time; what goes to other replicas is looked up; and it is flushed, behind which the replica's
//! log is purged. What it came back with and the rest of the log are the replica.
//!
//! One that fails while the node runs is given up, and opened again as at a start. One that is damaged, or came back without what
//! the log goes on from, has lost what this instance had, and the instance ends: the node asks for another id, as if nothing had
//! been kept, and the others fill it. Where there are no others nobody could, and the node stops instead.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use quorate_engine::{EngineError, EngineSpec, Place};
use quorate_eventual::{Input, LookedUp, Replica, ReplicaError, Setup};
use quorate_log::{Disk, GroupId};

use crate::catalog::{KeyspaceRecord, ReplicaRole, ShardRecord};
use crate::eventual::Eventual;
use crate::eventual_state::EventualState;
use crate::hosting::Retired;
use crate::io::{Effect, Failure, Monotonic, StopReason};
use crate::jobs::Job;
use crate::node::Node;

/// An engine that failed, or could not be opened, is tried again after this long.
const PAUSE_MS: u64 = 1_000;

/// Engines can be opened so often within one start of the node: beyond it the next start is needed, or numbers of starts meet.
const MAX_OPENINGS: u64 = 1 << 10;

/// Engines that are being opened, or are to be.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    /// The instance for which a job opens one, by group.
    under_way: BTreeMap<u64, u64>,
    /// When the next try is, by group.
    paused: BTreeMap<u64, Monotonic>,
    /// So often one was given up since the node started.
    given_up: u64,
}

impl Openings {
    /// The number of a replica's start: greater than of all before.
    pub(crate) fn start(&self, incarnation: u64) -> u64 {
        incarnation * MAX_OPENINGS + self.given_up.min(MAX_OPENINGS - 1)
    }

    /// Whose they are.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u64> {
        self.under_way.keys().chain(self.paused.keys()).copied()
    }

    pub(crate) fn forget(&mut self, group: u64) {
        self.under_way.remove(&group);
        self.paused.remove(&group);
    }
}

/// Whether the pairs of a keyspace are on disks, and come back by themselves.
pub(crate) fn is_on_disk(keyspace: &KeyspaceRecord) -> bool {
    keyspace.engine.replica_kind().is_some_and(|kind| kind.capabilities.durable)
}

impl Eventual {
    /// Where its engine is.
    pub(crate) fn place(&self, group: u64) -> Place {
        Place { group, build: self.instance }
    }
}

impl<D: Disk> Node<D> {
    /// Has an engine opened for a replica, unless that is under way, or not to be tried yet.
    pub(crate) fn begin_opening(&mut self, place: Place, spec: EngineSpec, setup: Setup) {
        let (group, now) = (place.group, self.now);
        if self.eventuals.openings.under_way.get(&group) == Some(&place.build) {
            return;
        }
        // What was handed to the log is read back from it.
        let is_early = self.is_unsynced(group);
        let paused = &mut self.eventuals.openings.paused;
        if is_early || paused.get(&group).is_some_and(|until| *until > now) {
            paused.entry(group).or_insert_with(|| now.plus_ms(PAUSE_MS));
            return;
        }
        paused.remove(&group);
        if let Some(state) = self.close_eventual(group) {
            // That instance is over, as the catalog has it.
            let job = Job::Retire { place: state.place(GroupId(group)), engine: None };
            self.retired.push(Retired { ticket: self.next_ticket, job });
        }
        self.eventuals.openings.under_way.insert(group, place.build);
        self.effects.push(Effect::Job(Job::OpenEventual { place, spec, setup: Box::new(setup) }));
    }

    /// An engine was opened and read, or could not be.
    pub(crate) fn on_eventual_opened(&mut self, place: Place, replica: Result<Box<Replica>, ReplicaError>) {
        let under_way = &mut self.eventuals.openings.under_way;
        if under_way.get(&place.group) != Some(&place.build) {
            // Its keyspace was deleted meanwhile, or this node has another instance: what is there goes with the rest of it.
            return self.effects.push(Effect::Job(Job::Retire { place, engine: None }));
        }
        under_way.remove(&place.group);
        let catalog = Arc::clone(&self.catalog);
        let known = catalog.shard(place.group).filter(|(_, keyspace, _)| is_on_disk(keyspace));
        let Some((name, keyspace, shard)) = known else { return };
        if shard.replica_on(self.identity.node).is_none_or(|own| own.replica != place.build) {
            // The next look at the catalog opens another.
            return self.effects.push(Effect::Job(Job::Retire { place, engine: None }));
        }
        let state = EventualState { replica: place.build, epoch: shard.members_epoch, is_durable: true };
        match replica.and_then(|replica| self.begin_eventual(name, GroupId(place.group), state, *replica)) {
            Ok(()) => {
                self.tell_members(keyspace, shard);
                self.eventuals.dirty.insert(place.group);
                self.publish_hosted(&catalog);
            }
            Err(error) => self.on_not_opened(name, shard, place, &error),
        }
    }

    fn on_not_opened(&mut self, name: &str, shard: &ShardRecord, place: Place, error: &ReplicaError) {
        let stop = |why: &str| Effect::Stop(StopReason::Broken(format!("keyspace {name}: {error}{why}")));
        let group = place.group;
        match error {
            ReplicaError::Engine(EngineError::Io(io)) if is_passing(io.kind()) => {
                self.eventuals.openings.paused.insert(group, self.now.plus_ms(PAUSE_MS));
            }
            ReplicaError::Engine(EngineError::Corrupt(_)) | ReplicaError::Decode(_) | ReplicaError::Behind { .. } => {
                let mut others = shard.replicas.iter().filter(|other| other.replica != place.build);
                if others.all(|other| other.role != ReplicaRole::Voter) {
                    return self.effects.push(stop("; no other node has what was there"));
                }
                self.effects.push(Effect::Job(Job::Retire { place, engine: None }));
                match self.eventuals.found.get_mut(&group).filter(|found| found.replica == place.build) {
                    // What it had ended with it: a tick asks for another id.
                    Some(found) => found.is_durable = false,
                    None => drop(self.eventuals.openings.paused.insert(group, self.now.plus_ms(PAUSE_MS))),
                }
            }
            ReplicaError::Engine(EngineError::Io(_)) | ReplicaError::Ahead { .. } => self.effects.push(stop("")),
        }
    }

    /// The engine of a replica has taken in a batch, or could not.
    pub(crate) fn on_batch_applied(&mut self, place: Place, start: u64, applied: Result<(), EngineError>) {
        let own = self.eventuals.replicas.get(&place.group);
        if own.is_none_or(|own| own.place(place.group) != place || own.replica.start() != start) {
            return;
        }
        match applied {
            Ok(()) => self.eventuals.tell(place.group, Input::Applied),
            Err(error) => self.on_eventual_failed(place.group, &error.into()),
        }
    }

    /// What a replica is to send was looked up, or could not be.
    pub(crate) fn on_looked_up(&mut self, place: Place, start: u64, found: Result<LookedUp, ReplicaError>) {
        let own = self.eventuals.replicas.get(&place.group);
        if own.is_none_or(|own| own.place(place.group) != place || own.replica.start() != start) {
            return;
        }
        match found {
            Ok(found) => self.eventuals.tell(place.group, Input::LookedUp(found)),
            Err(error) => self.on_eventual_failed(place.group, &error),
        }
    }

    /// The engine of a replica was flushed, or could not be.
    pub(crate) fn on_eventual_flushed(&mut self, place: Place, durable_index: Result<u64, EngineError>) {
        if self.eventuals.replicas.get(&place.group).is_none_or(|own| own.place(place.group) != place) {
            return;
        }
        match durable_index {
            Ok(index) => self.eventuals.tell(place.group, Input::Flushed { index }),
            Err(error) => self.on_eventual_failed(place.group, &error.into()),
        }
    }

    /// A replica cannot go on. If it is for its engine's disk, it is opened again; until then it is not hosted here.
    pub(crate) fn on_eventual_failed(&mut self, group: u64, error: &ReplicaError) {
        let may_pass = matches!(error, ReplicaError::Engine(EngineError::Io(_)));
        let is_on_disk = self.eventuals.engine(group).is_some_and(|engine| engine.capabilities().durable);
        self.eventuals.openings.given_up += 1;
        if !may_pass || !is_on_disk || self.eventuals.openings.given_up >= MAX_OPENINGS {
            let reason = StopReason::Broken(format!("group {group}: {error}"));
            return self.effects.push(Effect::Stop(reason));
        }
        self.close_eventual(group);
        self.eventuals.openings.paused.insert(group, self.now.plus_ms(PAUSE_MS));
        // Who reads it lets go of it first.
        let catalog = Arc::clone(&self.catalog);
        self.publish_hosted(&catalog);
    }

    /// Takes a replica out that may be opened again, by what the log has of it.
    fn close_eventual(&mut self, group: u64) -> Option<EventualState> {
        let own = self.eventuals.replicas.remove(&group)?;
        self.eventuals.dirty.remove(&group);
        self.eventuals.dues.set(group, None);
        self.eventuals.changed.insert(group);
        let state = EventualState { replica: own.instance, epoch: own.epoch, is_durable: own.replica.is_durable() };
        self.eventuals.found.insert(group, state);
        // A write may be in the log already.
        own.tokens.into_iter().for_each(|token| self.fail(token, Failure::Unknown));
        Some(state)
    }

    /// Tries again what could not be opened.
    pub(crate) fn go_on_opening(&mut self) {
        let now = self.now;
        if self.eventuals.openings.paused.values().any(|until| *until <= now) {
            let catalog = Arc::clone(&self.catalog);
            self.follow_eventuals(&catalog);
        }
    }

    /// Has engines flushed, if the node's log has become too long.
    pub(crate) fn shorten_eventuals(&mut self, is_forced: bool) {
        if !is_forced {
            return;
        }
        let replicas = self.eventuals.replicas.iter();
        let on_disks = replicas.filter(|(_, own)| own.replica.engine().capabilities().durable).map(|(group, _)| *group);
        for group in on_disks.collect::<Vec<_>>() {
            self.eventuals.tell(group, Input::ShortenLog);
        }
    }
}

/// Whether an engine may be opened if only the disk had room, or those who read it had let go of it.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ResourceBusy)
}
