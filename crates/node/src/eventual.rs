//! Replicas that take writes on their own: opened, fed, and carried out for.
//!
//! A replica is a value with inputs and effects of its own (crate `eventual`); the node gives it what came for it, once per poll
//! and whenever it is due, and turns its effects into those of the node: replicas share frames and log writes with all groups.
//!
//! An instance is a replica id of the catalog. Which one this node has, and which epoch of its members it goes by, is noted in
//! the log before it says anything that follows from it: so a start finds its records, or, where nothing was to survive, knows
//! that the instance ended with the process, and asks for a new one; and a catalog that is behind then is waited for.
//!
//! Engines on disks: `eventual_engines.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_api::peer::{EventualMessage, Frame, Lane, MAX_FRAME_BYTES};
use quorate_engine::Engine;
use quorate_eventual::{
    Ack, Body, Conflict, Effect as Told, InstanceId, MemberState, Members, Message, Options, Payload, Replica, ReplicaError,
    Session, Setup, Status, Time, Trigger, Write as OwnWrite,
};
use quorate_log::{Disk, Entry, GroupId, LogId, LogIndex, Record, Term};

use crate::catalog::{Catalog, KeyspaceRecord, ReplicaRecord, ReplicaRole, SYSTEM_GROUP, ShardRecord};
use crate::eventual_engines::{Openings, is_on_disk};
use crate::eventual_state::EventualState;
use crate::eventual_watch::changed;
use crate::hosting::Retired;
use crate::housekeeping::Dues;
use crate::io::{Answer, Effect, Failure, Monotonic, StopReason};
use crate::jobs::{Held, Job};
use crate::node::Node;

/// Records are read back in pieces of about this size.
const REPLAY_BYTES: u64 = 4 << 20;

/// Messages are put into frames of about this size at most; a larger one goes alone.
const MAX_EVENTUAL_FRAME_BYTES: usize = 4 << 20;

/// All records of a replica have this term: there is no leader who could change it.
const TERM: Term = Term(1);

/// The token of what the node asks of its own replicas.
const OWN: u64 = 0;

/// How long a node that ends lets replicas send what they collected. Who is not there gets it by comparison.
const FLUSH_MS: u64 = 1_000;

/// Statuses of replicas that do nothing are renewed this often: who is reachable changes by itself.
const STATUS_MS: u64 = 1_000;

/// A replica that shall go and is not heard of for this long is taken out without having sent what it wrote.
const GONE_MS: u64 = 10_000;

/// What a client asks of a replica that takes writes on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventualAsk {
    /// To write one key.
    Write {
        /// The key.
        key: Bytes,
        /// A value, or a tombstone.
        body: Body,
        /// How long the value lives, in milliseconds.
        ttl_ms: Option<u64>,
        /// Whom it waits for; none: whom the keyspace says.
        ack: Option<Ack>,
        /// What the client has seen, if it is in a session.
        session: Option<Session>,
    },
    /// To read a key, where others are asked for it, or in a session.
    Read {
        /// The key.
        key: Bytes,
        /// What the client has seen, if it is in a session.
        session: Option<Session>,
    },
    /// To wait until all is here that a client has seen.
    Level(Session),
    /// To send what was collected, or to copy.
    Flush,
    /// To compare with all others.
    Sync,
}

/// How a replica that takes writes on its own is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventualStatus {
    /// The group.
    pub group: GroupId,
    /// The keyspace.
    pub keyspace: String,
    /// All that it tells.
    pub replica: Status,
    /// The nodes of its instances, as far as they are known.
    pub nodes: BTreeMap<InstanceId, u64>,
    /// The newest own writes that gave way to others, where that is noted.
    pub conflicts: Vec<Conflict>,
}

/// Replicas of eventual keyspaces on this node.
#[derive(Debug, Default)]
pub(crate) struct Eventuals {
    pub(crate) replicas: BTreeMap<u64, Eventual>,
    /// What the log has of those that are not open.
    pub(crate) found: BTreeMap<u64, EventualState>,
    /// Those whose engines are being opened, or are to be.
    pub(crate) openings: Openings,
    /// Those that are to be polled.
    pub(crate) dirty: BTreeSet<u64>,
    /// When the others want to be.
    pub(crate) dues: Dues,
    /// Those whose status may be another than told.
    pub(crate) changed: BTreeSet<u64>,
    /// When the statuses of all were renewed.
    all_told_at: Monotonic,
    statuses: BTreeMap<u64, Arc<EventualStatus>>,
    /// The same, as it was told.
    told: Arc<Vec<Arc<EventualStatus>>>,
    /// Since when replicas that shall go were not heard of.
    silent: BTreeMap<(u64, u64), Monotonic>,
    /// Messages of this poll.
    out: BTreeMap<(u64, Lane), Vec<EventualMessage>>,
    /// The wall clock.
    wall_ms: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Eventual {
    keyspace: String,
    pub(crate) replica: Replica,
    pub(crate) instance: u64,
    /// The newest epoch that the log knows of, or will.
    pub(crate) epoch: u64,
    inputs: Vec<quorate_eventual::Input>,
    /// Requests that wait for an answer.
    pub(crate) tokens: BTreeSet<u64>,
    /// What it handed to the log: tickets, and the last position of each.
    unsynced: VecDeque<(u64, u64)>,
    /// It is not polled before this is durable: the log says who it is.
    opens_at: Option<u64>,
    /// Since when it sends what it collected, before the node ends.
    flushes_since: Option<Monotonic>,
}

/// What a replica wants of the catalog.
enum Wish {
    Joined,
    Drained,
}

impl Eventuals {
    /// With what the log has.
    pub(crate) fn new(found: BTreeMap<u64, EventualState>) -> Self {
        Self { found, ..Self::default() }
    }

    /// Where the pairs of a group are that can be read here.
    pub(crate) fn engine(&self, group: u64) -> Option<&Arc<dyn Engine>> {
        self.replicas.get(&group).map(|own| own.replica.engine())
    }

    /// When one of them wants to be polled at the latest.
    pub(crate) fn next_due(&self) -> Option<Monotonic> {
        self.dues.first()
    }

    /// How they are, as of the last tick.
    pub(crate) fn told(&self) -> Arc<Vec<Arc<EventualStatus>>> {
        Arc::clone(&self.told)
    }

    pub(crate) fn tell(&mut self, group: u64, input: quorate_eventual::Input) {
        if let Some(own) = self.replicas.get_mut(&group) {
            own.inputs.push(input);
            self.dirty.insert(group);
        }
    }
}

impl<D: Disk> Node<D> {
    /// Tells the wall clock, in milliseconds since 1970; it may jump. To be called before each poll: stamps and deadlines of
    /// eventual keyspaces go by it.
    pub fn tell_wall_clock(&mut self, ms: u64) {
        self.eventuals.wall_ms = ms;
    }

    /// The replica of an eventual keyspace, for comparison between nodes.
    pub fn eventual_replica(&self, group: GroupId) -> Option<&Replica> {
        self.eventuals.replicas.get(&group.0).map(|own| &own.replica)
    }

    /// Opens, follows and gives up replicas of eventual keyspaces as the catalog says.
    pub(crate) fn follow_eventuals(&mut self, catalog: &Catalog) {
        let known = self.eventuals.replicas.keys().chain(self.eventuals.found.keys()).copied();
        let known: BTreeSet<u64> = known.chain(self.eventuals.openings.groups()).collect();
        for group in known.into_iter().filter(|group| catalog.is_deleted(*group)) {
            self.retire_eventual(group);
        }
        let node = self.identity.node;
        for (name, keyspace, shard) in catalog.shards().filter(|(_, keyspace, _)| keyspace.replication.is_eventual()) {
            let Some(own) = shard.replica_on(node) else { continue };
            let present = self.eventuals.replicas.get(&shard.group).map(|present| present.instance);
            let is_there = match present {
                Some(instance) if instance == own.replica => true,
                _ => match self.open_eventual((name, keyspace, shard), own) {
                    Ok(is_open) => is_open,
                    Err(why) => {
                        let reason = StopReason::Broken(format!("keyspace {name}: {why}"));
                        return self.effects.push(Effect::Stop(reason));
                    }
                },
            };
            if is_there {
                self.tell_members(keyspace, shard);
            }
        }
    }

    /// What the replica of a shard runs with.
    fn options_of(&self, keyspace: &KeyspaceRecord, shard: &ShardRecord) -> Option<Options> {
        let seed = digest_seed(self.catalog.cluster.id, GroupId(shard.group));
        let options = keyspace.eventual_options(seed, source_of(&self.catalog, keyspace, shard))?;
        let flush_bytes = is_on_disk(keyspace).then_some(self.config.flush_log_bytes);
        Some(Options { checkpoint_bytes: flush_bytes.unwrap_or(options.checkpoint_bytes), ..options })
    }

    /// Opens a replica. Whether it is there now: one that lost what it had needs another id first, and an engine on a disk takes
    /// a while.
    fn open_eventual(
        &mut self,
        (name, keyspace, shard): (&str, &KeyspaceRecord, &ShardRecord),
        own: &ReplicaRecord,
    ) -> Result<bool, ReplicaError> {
        let group = GroupId(shard.group);
        let Some(options) = self.options_of(keyspace, shard) else {
            return Ok(false);
        };
        let found = self.eventuals.found.get(&group.0).copied();
        let state = EventualState { replica: own.replica, epoch: shard.members_epoch, is_durable: options.is_durable };
        if found.is_some_and(|found| found.replica > state.replica || found.epoch > state.epoch) {
            // The catalog is behind, as it may be after a start.
            return Ok(false);
        }
        if found.is_some_and(|found| found.replica == state.replica && !(state.is_durable && found.is_durable)) {
            return Ok(false);
        }
        let setup = Setup {
            instance: InstanceId(u32::try_from(own.replica).expect("the catalog gives out fewer ids than that")),
            start: self.eventuals.openings.start(self.identity.incarnation),
            options,
            seed: self.seed ^ group.0,
        };
        let (place, spec) = (state.place(group), keyspace.engine.eventual_spec());
        if is_on_disk(keyspace) {
            self.begin_opening(place, spec, setup);
            return Ok(false);
        }
        let replica = Replica::open(setup, self.engines.open(place, &spec)?)?;
        self.begin_eventual(name, group, state, replica)?;
        Ok(true)
    }

    /// Goes on with a replica over what its engine had when it was opened: by its log, if that has records of this instance.
    pub(crate) fn begin_eventual(
        &mut self,
        name: &str,
        group: GroupId,
        state: EventualState,
        mut replica: Replica,
    ) -> Result<(), ReplicaError> {
        let found = self.eventuals.found.get(&group.0).copied();
        let is_known = found.is_some_and(|found| found.replica == state.replica);
        let opens_at = if is_known {
            self.replay_eventual(group, &mut replica)?;
            None
        } else {
            let had_records = found.is_some() || self.eventuals.replicas.contains_key(&group.0);
            let mut records = vec![(group, Record::State(state.to_bytes()))];
            if had_records {
                records.insert(0, (group, Record::Destroy));
            }
            self.persist(records);
            Some(self.next_ticket - 1)
        };
        self.eventuals.found.remove(&group.0);
        self.eventuals.replicas.insert(
            group.0,
            Eventual {
                keyspace: name.to_owned(),
                replica,
                instance: state.replica,
                epoch: if is_known { 0 } else { state.epoch },
                inputs: Vec::new(),
                tokens: BTreeSet::new(),
                unsynced: VecDeque::new(),
                opens_at,
                flushes_since: None,
            },
        );
        Ok(())
    }

    fn replay_eventual(&self, group: GroupId, replica: &mut Replica) -> Result<(), ReplicaError> {
        let state = self.log.group(group).unwrap_or_default();
        replica.begin_replay(state.purged.index.0, state.last.index.0)?;
        let mut next = state.purged.index.0 + 1;
        while next <= state.last.index.0 {
            let entries = self.log.entries(group, LogIndex(next), LogIndex(state.last.index.0 + 1), REPLAY_BYTES);
            let entries =
                entries.map_err(|error| std::io::Error::other(error.to_string())).map_err(quorate_engine::EngineError::Io)?;
            for entry in entries {
                replica.replay(entry.id.index.0, entry.payload)?;
                next = entry.id.index.0 + 1;
            }
        }
        Ok(())
    }

    /// Tells a replica who its members are, and how it is set.
    pub(crate) fn tell_members(&mut self, keyspace: &KeyspaceRecord, shard: &ShardRecord) {
        let state = |role| match role {
            ReplicaRole::Learner => MemberState::Joining,
            ReplicaRole::Voter => MemberState::Up,
            ReplicaRole::Leaving => MemberState::Leaving,
        };
        let states = shard.replicas.iter().map(|replica| (InstanceId(replica.replica as u32), state(replica.role)));
        let members = Members { epoch: shard.members_epoch, states: states.collect() };
        let options = self.options_of(keyspace, shard);
        let Some(own) = self.eventuals.replicas.get_mut(&shard.group) else { return };
        if let Some(options) = options {
            own.replica.configure(options);
        }
        if *own.replica.members() == members {
            return;
        }
        if members.epoch > own.epoch {
            own.epoch = members.epoch;
            // Not polled, and so not by these members, before that is durable.
            own.opens_at = Some(self.next_ticket);
            let state = EventualState { replica: own.instance, epoch: own.epoch, is_durable: own.replica.is_durable() };
            self.persist(vec![(GroupId(shard.group), Record::State(state.to_bytes()))]);
        }
        self.eventuals.tell(shard.group, quorate_eventual::Input::Members(members));
    }

    fn retire_eventual(&mut self, group: u64) {
        self.eventuals.found.remove(&group);
        self.eventuals.openings.forget(group);
        self.eventuals.dirty.remove(&group);
        self.eventuals.dues.set(group, None);
        self.eventuals.changed.insert(group);
        self.routes.retain(|(of, _), _| *of != group);
        if let Some(own) = self.eventuals.replicas.remove(&group) {
            own.tokens.into_iter().for_each(|token| self.fail(token, Failure::NotHosted));
            // What is on a disk is closed before it is removed.
            if !own.replica.engine().capabilities().durable {
                let held = Held::Eventual(Box::new(own.replica));
                self.retired.push(Retired { ticket: self.next_ticket, job: Job::Release { group: GroupId(group), held } });
            }
        }
        self.retired.push(Retired { ticket: self.next_ticket, job: Job::Forget { group: GroupId(group) } });
        self.persist(vec![(GroupId(group), Record::Destroy)]);
    }

    /// A client asks.
    pub(crate) fn on_eventual_ask(&mut self, token: u64, group: u64, deadline: Monotonic, ask: EventualAsk) {
        let is_write = matches!(ask, EventualAsk::Write { .. });
        let Some(own) = self.eventuals.replicas.get_mut(&group) else {
            return self.fail(token, Failure::NotHosted);
        };
        let is_durable = own.replica.is_durable();
        match () {
            () if is_write && is_durable && self.is_disk_full => return self.fail(token, Failure::DiskFull),
            () if is_write && self.stopping.is_some() => return self.fail(token, Failure::ShuttingDown),
            () => {}
        }
        own.tokens.insert(token);
        let deadline_ms = deadline.0;
        let input = match ask {
            EventualAsk::Write { key, body, ttl_ms, ack, session } => {
                quorate_eventual::Input::Write(OwnWrite { token, key, body, ttl_ms, ack, deadline_ms, session })
            }
            EventualAsk::Read { key, session } => quorate_eventual::Input::Read { token, key, session, deadline_ms },
            EventualAsk::Level(session) => quorate_eventual::Input::Level { token, session, deadline_ms },
            EventualAsk::Flush => quorate_eventual::Input::Flush { token, deadline_ms },
            EventualAsk::Sync => quorate_eventual::Input::Sync { token, deadline_ms },
        };
        self.eventuals.tell(group, input);
    }

    /// A peer's replica says something.
    pub(crate) fn on_eventual_message(&mut self, from: u64, wire: EventualMessage) {
        let EventualMessage { group, message } = wire;
        let Some(own) = self.eventuals.replicas.get(&group) else { return };
        // What cannot be read is as good as lost: it comes again, or a comparison finds what it said.
        let Ok(message) = Message::decode(message) else { return };
        let is_stuck = (self.is_disk_full && own.replica.is_durable()) || own.replica.has_full_backlog();
        if is_stuck && brings_pairs(&message.payload) {
            return;
        }
        // A replica speaks for itself alone.
        if self.node_of(group, u64::from(message.from.0)).is_some_and(|node| node == from) {
            self.eventuals.tell(group, quorate_eventual::Input::Message(message));
        }
    }

    pub(crate) fn on_eventual_durable(&mut self, group: u64, ticket: u64) {
        let Some(own) = self.eventuals.replicas.get_mut(&group) else { return };
        if own.opens_at.is_some_and(|opens_at| opens_at <= ticket) {
            own.opens_at = None;
            self.eventuals.dirty.insert(group);
        }
        let mut durable = None;
        while let Some((_, index)) = own.unsynced.pop_front_if(|(at, _)| *at <= ticket) {
            durable = Some(index);
        }
        if let Some(index) = durable {
            self.eventuals.tell(group, quorate_eventual::Input::Durable { index });
        }
    }

    /// Polls every replica for which something came, or that is due, and sends what they say.
    pub(crate) fn settle_eventuals(&mut self) {
        let due = self.eventuals.dues.at(self.now);
        self.eventuals.dirty.extend(due);
        let dirty = std::mem::take(&mut self.eventuals.dirty);
        let mut records = Vec::new();
        let mut wishes = Vec::new();
        for group in dirty {
            match self.poll_eventual(group, &mut records) {
                Ok(wish) => wishes.extend(wish.map(|wish| (group, wish))),
                Err(error) => self.on_eventual_failed(group, &error),
            }
        }
        self.persist(records);
        for ((to, lane), messages) in std::mem::take(&mut self.eventuals.out) {
            for frame in packed(messages) {
                self.effects.push(Effect::Send { to, lane, frame });
            }
        }
        for (group, wish) in wishes {
            self.make_true(group, &wish);
        }
    }

    fn poll_eventual(&mut self, group: u64, records: &mut Vec<(GroupId, Record)>) -> Result<Option<Wish>, ReplicaError> {
        let Some(own) = self.eventuals.replicas.get_mut(&group).filter(|own| own.opens_at.is_none()) else { return Ok(None) };
        let time = Time { mono_ms: self.now.0, wall_ms: self.eventuals.wall_ms };
        let mut effects = Vec::new();
        own.replica.poll(time, &mut own.inputs, &mut effects)?;
        self.eventuals.dues.set(group, Some(Monotonic(own.replica.due_ms())));
        self.eventuals.changed.insert(group);
        let mut appended = Vec::new();
        let mut wish = None;
        for effect in effects {
            match effect {
                Told::Append { index, record } => {
                    appended.push(Entry { id: LogId { term: TERM, index: LogIndex(index) }, payload: record });
                }
                Told::Purge { upto } => {
                    records.push((GroupId(group), Record::Purge(LogId { term: TERM, index: LogIndex(upto) })));
                }
                Told::Apply { batch } => {
                    let (place, engine) = (own.place(group), Arc::clone(own.replica.engine()));
                    self.effects.push(Effect::Job(Job::ApplyBatch { place, start: own.replica.start(), engine, batch }));
                }
                Told::Changes(changes) => self.effects.push(changed(GroupId(group), &own.replica, changes)),
                Told::LookUp(lookup) => {
                    let (place, start) = (own.place(group), own.replica.start());
                    self.effects.push(Effect::Job(Job::LookUp { place, start, lookup }));
                }
                Told::Flush => {
                    let (place, engine) = (own.place(group), Arc::clone(own.replica.engine()));
                    self.effects.push(Effect::Job(Job::Flush { place, engine }));
                }
                Told::Send(message) => {
                    let to = self.routes.get(&(group, u64::from(message.to.0)));
                    let Some(to) = to.copied().filter(|to| *to != self.identity.node) else { continue };
                    let wire = EventualMessage { group, message: message.to_bytes() };
                    self.eventuals.out.entry((to, lane_of(&message.payload))).or_default().push(wire);
                }
                Told::Reply { token: OWN, .. } => own.flushes_since = None,
                Told::Reply { token, answer } => {
                    own.tokens.remove(&token);
                    self.effects.push(Effect::Reply { token, answer: Answer::Eventual(answer) });
                }
                Told::Joined => wish = Some(Wish::Joined),
                Told::Drained => wish = Some(Wish::Drained),
            }
        }
        if let Some(last) = appended.last() {
            own.unsynced.push_back((self.next_ticket, last.id.index.0));
            records.push((GroupId(group), Record::Append(appended)));
        }
        Ok(wish)
    }

    fn make_true(&mut self, group: u64, wish: &Wish) {
        let Some(instance) = self.eventuals.replicas.get(&group).map(|own| own.instance) else { return };
        let catalog = Arc::clone(&self.catalog);
        let write = match wish {
            Wish::Joined => catalog.plan_joined(group, instance),
            Wish::Drained => catalog.plan_drained(group, instance),
        };
        if let Some(write) = write {
            self.change_catalog(&write);
        }
    }

    /// What a tick does for them: engines are flushed, if the log must become shorter, and opened again; new ids are asked for,
    /// replicas that are gone for good taken out, statuses renewed.
    pub(crate) fn on_eventuals_tick(&mut self, is_forced: bool) {
        if self.now.since(self.eventuals.all_told_at) >= STATUS_MS {
            self.eventuals.all_told_at = self.now;
            self.eventuals.changed.extend(self.eventuals.replicas.keys());
        }
        self.shorten_eventuals(is_forced);
        self.go_on_opening();
        self.ask_for_new_instances();
        self.take_out_the_gone();
        self.renew_statuses();
    }

    /// Replicas whose pairs ended with the last process begin anew.
    fn ask_for_new_instances(&mut self) {
        if self.eventuals.found.is_empty() {
            return;
        }
        let catalog = Arc::clone(&self.catalog);
        let node = self.identity.node;
        let spent = self.eventuals.found.iter().find_map(|(group, found)| {
            let (_, _, shard) = catalog.shard(*group)?;
            let own = shard.replica_on(node).filter(|own| own.replica == found.replica && !found.is_durable)?;
            catalog.plan_reborn(*group, own.replica)
        });
        if let Some(write) = spent {
            self.change_catalog(&write);
        }
    }

    /// Who shall go and does not come back cannot say that it has nothing that the others lack. Done by the node that leads the
    /// system keyspace.
    fn take_out_the_gone(&mut self) {
        let leads = self.replicas.get(&SYSTEM_GROUP).is_some_and(crate::replica::Replica::is_leader);
        if !leads || !self.catalog.has_leaving() {
            self.eventuals.silent.clear();
            return;
        }
        let catalog = Arc::clone(&self.catalog);
        let (now, node) = (self.now, self.identity.node);
        let mut silent = BTreeMap::new();
        let mut gone = None;
        for (_, _, shard) in catalog.shards().filter(|(_, keyspace, _)| keyspace.replication.is_eventual()) {
            let leaving = shard.replicas.iter().filter(|own| own.role == ReplicaRole::Leaving && own.node != node);
            for leaving in leaving {
                let own = self.eventuals.replicas.get(&shard.group);
                let is_heard = own.is_some_and(|own| own.replica.hears(InstanceId(leaving.replica as u32)));
                if is_heard {
                    continue;
                }
                let key = (shard.group, leaving.replica);
                let since = *self.eventuals.silent.get(&key).unwrap_or(&now);
                silent.insert(key, since);
                if now.since(since) >= GONE_MS {
                    gone = gone.or_else(|| catalog.plan_drained(shard.group, leaving.replica));
                }
            }
        }
        self.eventuals.silent = silent;
        if let Some(write) = gone {
            self.change_catalog(&write);
        }
    }

    /// Lets replicas send what they collected, before the end.
    pub(crate) fn flush_eventuals(&mut self) {
        let deadline_ms = self.now.plus_ms(FLUSH_MS).0;
        for (group, own) in &mut self.eventuals.replicas {
            if matches!(own.replica.options().trigger, Trigger::Write(_)) && own.opens_at.is_none() {
                own.flushes_since = Some(self.now);
                own.inputs.push(quorate_eventual::Input::Flush { token: OWN, deadline_ms });
                self.eventuals.dirty.insert(*group);
            }
        }
    }

    /// Whether one of them still sends what it collected.
    pub(crate) fn flushes(&self) -> bool {
        let is_waited_for = |since: Monotonic| self.now.since(since) < FLUSH_MS;
        self.eventuals.replicas.values().any(|own| own.flushes_since.is_some_and(is_waited_for))
    }

    fn renew_statuses(&mut self) {
        if self.eventuals.changed.is_empty() {
            return;
        }
        for group in std::mem::take(&mut self.eventuals.changed) {
            match self.eventuals.replicas.get(&group) {
                None => self.eventuals.statuses.remove(&group),
                Some(own) => {
                    let of_group = self.routes.range((group, 0)..=(group, u64::MAX));
                    let nodes = of_group.map(|((_, replica), node)| (InstanceId(*replica as u32), *node)).collect();
                    let time = Time { mono_ms: self.now.0, wall_ms: self.eventuals.wall_ms };
                    let (keyspace, replica) = (own.keyspace.clone(), own.replica.status_at(time));
                    let conflicts = own.replica.conflicts().cloned().collect();
                    let status = EventualStatus { group: GroupId(group), keyspace, replica, nodes, conflicts };
                    self.eventuals.statuses.insert(group, Arc::new(status))
                }
            };
        }
        self.eventuals.told = Arc::new(self.eventuals.statuses.values().cloned().collect());
    }
}

/// The instance that is written to, where one is copied to all others as it is. None of that name: nobody is written to.
fn source_of(catalog: &Catalog, keyspace: &KeyspaceRecord, shard: &ShardRecord) -> Option<InstanceId> {
    let node = catalog.nodes.get(keyspace.replication.source()?).map(|node| node.id);
    let replica = node.and_then(|node| shard.replica_on(node)).map_or(0, |own| own.replica);
    Some(InstanceId(replica as u32))
}

/// The same for all replicas of a keyspace; it decides where keys lie in their digests.
fn digest_seed(cluster: u64, group: GroupId) -> u64 {
    cluster.rotate_left(17) ^ group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What was written travels as log entries do; what is asked for with a client waiting, as requests do; comparisons and copies
/// so that they hold up neither.
fn lane_of(payload: &Payload) -> Lane {
    match payload {
        Payload::Push { .. } | Payload::PushAck { .. } | Payload::Report { .. } => Lane::Append,
        Payload::VersionAsk { .. } | Payload::VersionTell { .. } | Payload::EntryAsk { .. } | Payload::EntryTell { .. } => {
            Lane::Request
        }
        Payload::Ask { .. }
        | Payload::Tell { .. }
        | Payload::Want { .. }
        | Payload::Give { .. }
        | Payload::Put { .. }
        | Payload::PutDone { .. }
        | Payload::Mirror { .. }
        | Payload::MirrorEnd { .. }
        | Payload::MirrorDone { .. }
        | Payload::Repair { .. } => Lane::Bulk,
    }
}

/// Whether what is said has to be kept in the log.
fn brings_pairs(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::Push { .. }
            | Payload::Put { .. }
            | Payload::Give { .. }
            | Payload::Repair { .. }
            | Payload::Mirror { .. }
            | Payload::MirrorEnd { .. }
            | Payload::EntryTell { entry: Some(_), .. }
    )
}

/// Frames of about the same size, in order.
fn packed(messages: Vec<EventualMessage>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let (mut open, mut open_bytes) = (Vec::new(), 0);
    for message in messages {
        let bytes = message.message.len() + 16;
        debug_assert!(bytes < MAX_FRAME_BYTES, "replicas keep their messages small");
        if open_bytes + bytes > MAX_EVENTUAL_FRAME_BYTES && !open.is_empty() {
            frames.push(Frame::Eventual(std::mem::take(&mut open)));
            open_bytes = 0;
        }
        open_bytes += bytes;
        open.push(message);
    }
    if !open.is_empty() {
        frames.push(Frame::Eventual(open));
    }
    frames
}
