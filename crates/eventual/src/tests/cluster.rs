//! A cluster of replicas under a test's control.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Batch, Cache, CacheOptions, Engine, EngineSpec, Engines, Place, Trie};

use super::caches::Caches;
use super::mirrors::Mirrors;
use super::mutations::Mutation;
use super::oracle::Oracle;
use super::sessions::Sessions;
use super::watching::Watching;
use crate::io::{Answer, Effect, Input, MemberState, Members, Time, Write};
use crate::lookup::{Lookup, MAX_LOOKUPS};
use crate::message::{Message, Payload};
use crate::replica::{Replica, Setup};
use crate::version::Hlc;
use crate::{Ack, Body, InstanceId, Options, Session};

/// Messages under way at most; beyond it the oldest is lost.
const MAX_BAG: usize = 4_000;

/// A step of [`Cluster::run_ms`].
const STEP_MS: u64 = 100;

/// A place where a replica may be: its disk, its clock, its part of the network.
#[derive(Debug, Default)]
struct Slot {
    instance: Option<InstanceId>,
    replica: Option<Replica>,
    inputs: Vec<Input>,
    /// Records with their positions.
    log: Vec<(u64, Bytes)>,
    synced: u64,
    purged: u64,
    disk: Option<Disk>,
    starts: u64,
    clock_offset_ms: i64,
    /// Slots with the same number hear each other.
    side: u8,
}

/// A disk with an engine, and what the engine is to do.
#[derive(Debug)]
struct Disk {
    engines: Arc<dyn Engines>,
    kind: &'static str,
    engine: Option<Arc<dyn Engine>>,
    to_apply: Option<Batch>,
    is_to_flush: bool,
    to_look_up: Vec<Lookup>,
}

/// Makes the disk of a slot that begins: empty, and the kind of the engine on it.
pub(super) type NewDisk = fn() -> (Arc<dyn Engines>, &'static str);

/// The cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    slots: Vec<Slot>,
    options: Options,
    bag: Vec<Message>,
    /// What the cluster has agreed on.
    pub(super) members: Members,
    next_instance: u32,
    now_ms: u64,
    next_token: u64,
    pub(super) answers: BTreeMap<u64, Answer>,
    pub(super) oracle: Oracle,
    /// Looks instead of it, where one replica is mirrored by the others.
    pub(super) mirrors: Mirrors,
    /// Or where the engines evict.
    pub(super) caches: Caches,
    pub(super) sessions: Sessions,
    pub(super) watching: Watching,
    mutation: Option<Mutation>,
    /// What a slot's disk is, where engines are on disks.
    new_disk: Option<NewDisk>,
    /// Pairs that a cache has room for.
    pub(super) max_cached: Option<u64>,
    /// How long writes wait for others.
    pub(super) patience_ms: u64,
    /// Bytes of keys and values that others were sent, by who they are.
    pub(super) sent_bytes: BTreeMap<InstanceId, u64>,
    /// So often a replica was polled, and so many messages were sent.
    pub(super) polls: u64,
    pub(super) messages: u64,
    /// A wall clock was moved: what one replica takes for over, another may serve for as long as it jumped.
    pub(super) has_jumped: bool,
}

pub(super) fn key(at: u8) -> Bytes {
    Bytes::from(format!("key-{at}"))
}

impl Cluster {
    /// Replicas that begin together, all of them up. The bug that is planted, if any, is outside of them.
    pub(super) fn new(slots: usize, options: Options, mutation: Option<Mutation>) -> Self {
        Self::over(None, slots, options, mutation)
    }

    /// The same, with engines on disks.
    pub(super) fn over(new_disk: Option<NewDisk>, slots: usize, options: Options, mutation: Option<Mutation>) -> Self {
        let mirrors = Mirrors::new(&options);
        let mut cluster = Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            options,
            bag: Vec::new(),
            members: Members { epoch: 1, states: BTreeMap::new() },
            next_instance: 1,
            now_ms: 10_000,
            next_token: 1,
            answers: BTreeMap::new(),
            oracle: Oracle::default(),
            mirrors,
            caches: Caches::default(),
            sessions: Sessions::default(),
            watching: Watching::default(),
            mutation,
            new_disk,
            max_cached: None,
            patience_ms: 500,
            sent_bytes: BTreeMap::new(),
            polls: 0,
            messages: 0,
            has_jumped: false,
        };
        for slot in 0..slots {
            let instance = cluster.new_instance();
            cluster.members.states.insert(instance, MemberState::Up);
            cluster.slots[slot].instance = Some(instance);
        }
        (0..slots).for_each(|slot| cluster.start(slot));
        cluster
    }

    fn new_instance(&mut self) -> InstanceId {
        self.next_instance += 1;
        InstanceId(self.next_instance - 1)
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn replica(&self, slot: usize) -> Option<&Replica> {
        self.slots[slot].replica.as_ref()
    }

    pub(super) fn status(&self, slot: usize) -> crate::Status {
        self.slots[slot].replica.as_ref().expect("it runs").status_at(self.time(slot))
    }

    pub(super) fn is_running(&self, slot: usize) -> bool {
        self.slots[slot].replica.is_some()
    }

    /// Opens a slot's replica from its log.
    fn start(&mut self, slot: usize) {
        let Some(instance) = self.slots[slot].instance else { return };
        let engine = self.engine(slot);
        let own = &mut self.slots[slot];
        own.starts += 1;
        let setup = Setup { instance, start: own.starts, options: self.options.clone(), seed: 7 };
        let mut replica = Replica::open(setup, engine).expect("what was written can be read");
        if self.options.is_durable {
            let last = own.log.last().map_or(own.purged, |(last, _)| *last);
            replica.begin_replay(own.purged, last).expect("engine and log go together");
        }
        for (index, record) in &own.log {
            replica.replay(*index, record.clone()).expect("what was written can be read");
        }
        self.watching.begin(slot, &replica);
        own.replica = Some(replica);
        own.inputs = vec![Input::Members(self.members.clone())];
        self.poll(slot);
    }

    /// The engine that a slot's replica begins with.
    fn engine(&mut self, slot: usize) -> Arc<dyn Engine> {
        let Some(new_disk) = self.new_disk else {
            let room = CacheOptions { max_bytes: 1 << 20, max_entries: self.max_cached, idle_ms: None };
            return if self.options.cache.is_some() { Arc::new(Cache::new(room, 7)) } else { Arc::new(Trie::new()) };
        };
        let disk = self.slots[slot].disk.get_or_insert_with(|| {
            let (engines, kind) = new_disk();
            Disk { engines, kind, engine: None, to_apply: None, is_to_flush: false, to_look_up: Vec::new() }
        });
        let opened = disk.engines.open(Place { group: 1, build: 0 }, &EngineSpec::of(disk.kind)).expect("a disk that works");
        disk.engine = Some(Arc::clone(&opened));
        opened
    }

    /// What the slot's engine was to do is done.
    pub(super) fn run_engine(&mut self, slot: usize) {
        let own = &mut self.slots[slot];
        let Some(disk) = own.disk.as_mut() else { return };
        let Some(engine) = &disk.engine else { return };
        if std::mem::take(&mut disk.is_to_flush) {
            let index = engine.flush().expect("a disk that works");
            own.inputs.push(Input::Flushed { index });
        }
        if let Some(batch) = disk.to_apply.take() {
            engine.apply(batch).expect("a disk that works");
            own.inputs.push(Input::Applied);
        }
        // In another order than they were asked for.
        for lookup in std::mem::take(&mut disk.to_look_up).into_iter().rev() {
            own.inputs.push(Input::LookedUp(lookup.run().expect("a disk that works")));
        }
        if !own.inputs.is_empty() {
            self.poll(slot);
        }
    }

    fn time(&self, slot: usize) -> Time {
        let wall_ms = (1_000_000_000 + self.now_ms).saturating_add_signed(self.slots[slot].clock_offset_ms);
        Time { mono_ms: self.now_ms, wall_ms }
    }

    /// The slot's wall clock.
    pub(super) fn wall_ms(&self, slot: usize) -> u64 {
        self.time(slot).wall_ms
    }

    pub(super) fn poll(&mut self, slot: usize) {
        let time = self.time(slot);
        let own = &mut self.slots[slot];
        let Some(replica) = own.replica.as_mut() else { return };
        self.polls += 1;
        let mut effects = Vec::new();
        replica.poll(time, &mut own.inputs, &mut effects).expect("an engine that works");
        for effect in effects {
            self.carry_out(slot, effect);
        }
        if let Some(replica) = self.slots[slot].replica.as_ref() {
            self.watching.look(slot, replica);
        }
        self.look(slot);
    }

    fn carry_out(&mut self, slot: usize, effect: Effect) {
        let own = &mut self.slots[slot];
        let instance = own.instance.expect("who runs is somebody");
        match effect {
            Effect::Append { index, record } => {
                assert_eq!(
                    own.log.last().map_or_else(|| own.synced.min(index - 1), |(last, _)| *last),
                    index - 1,
                    "the log has no gaps"
                );
                own.log.push((index, record));
                if self.mutation == Some(Mutation::AckBeforeSync) {
                    own.inputs.push(Input::Durable { index });
                }
            }
            Effect::Purge { upto } => {
                assert!(upto >= own.purged && upto < own.synced, "only what stands elsewhere is purged");
                own.log.retain(|(index, _)| *index > upto);
                own.purged = upto;
            }
            Effect::Apply { batch } => {
                let disk = own.disk.as_mut().expect("only an engine on a disk is written to here");
                assert!(batch.applied <= own.synced, "an engine has nothing that the log has not");
                assert_eq!(disk.to_apply.replace(batch), None, "one batch at a time");
            }
            Effect::Changes(mut changes) => {
                if self.mutation == Some(Mutation::ChangeUntold) {
                    changes.events.iter_mut().for_each(|events| drop(events.pop()));
                }
                self.watching.on_changes(slot, &changes);
            }
            Effect::LookUp(lookup) => {
                let disk = own.disk.as_mut().expect("in memory things are looked up at once");
                disk.to_look_up.push(lookup);
                assert!(disk.to_look_up.len() <= MAX_LOOKUPS);
            }
            Effect::Flush => {
                let disk = own.disk.as_mut().expect("only an engine on a disk is flushed");
                assert!(!std::mem::replace(&mut disk.is_to_flush, true), "one flush at a time");
            }
            Effect::Send(message) => {
                self.send(message);
            }
            Effect::Reply { token, answer } => {
                let at = self.slots[slot].replica.as_ref().expect("it answers");
                if self.options.cache.is_some() {
                    self.caches.on_answer(token, &answer);
                } else if self.options.mirror_of.is_none() {
                    self.oracle.on_answer(token, &answer, at);
                }
                let up = |id: &InstanceId| self.members.states.get(id) == Some(&MemberState::Up);
                let is_held = |key: &Bytes, version| self.oracle.is_held(key, version, up);
                self.sessions.on_answer(token, &answer, (at, self.oracle.fence().max(at.fence_for_tests())), is_held);
                assert!(self.answers.insert(token, answer).is_none(), "a token is answered once");
            }
            Effect::Joined => {
                if self.members.states.get(&instance) == Some(&MemberState::Joining) {
                    self.members.states.insert(instance, MemberState::Up);
                }
            }
            Effect::Drained => {
                if self.members.states.remove(&instance).is_some() {
                    self.members.epoch += 1;
                    self.end(slot);
                }
            }
        }
    }

    fn send(&mut self, message: Message) {
        self.messages += 1;
        *self.sent_bytes.entry(message.to).or_default() += carried_bytes(&message.payload);
        if self.bag.len() >= MAX_BAG {
            self.bag.remove(0);
        }
        self.bag.push(message);
    }

    /// What everybody can see of a slot goes to the oracle, which complains if it should not be.
    fn look(&mut self, slot: usize) {
        if self.options.cache.is_some() {
            let wall_ms = self.time(slot).wall_ms;
            self.slots[slot].replica.iter().for_each(|replica| self.caches.look(replica, wall_ms));
            return;
        }
        if self.options.mirror_of.is_some() {
            if let Some(replica) = self.slots[slot].replica.as_ref() {
                self.mirrors.look(replica);
            }
            return;
        }
        let replicas: Vec<&Replica> = self.slots.iter().filter_map(|slot| slot.replica.as_ref()).collect();
        if let Some(replica) = self.slots[slot].replica.as_ref() {
            self.oracle.look(replica, &replicas, self.time(slot).wall_ms);
        }
    }

    pub(super) fn write(&mut self, slot: usize, key: &Bytes, body: Body, ttl_ms: Option<u64>) -> Option<u64> {
        self.write_in(None, slot, key, (body, ttl_ms, None))
    }

    /// A write that says itself whom it waits for.
    pub(super) fn put_for(&mut self, slot: usize, at: u8, ack: Ack) -> Option<u64> {
        let value = Bytes::from(format!("value-{}", self.next_token));
        self.write_in(None, slot, &key(at), (Body::plain(value), None, Some(ack)))
    }

    fn write_in(
        &mut self,
        client: Option<u8>,
        slot: usize,
        key: &Bytes,
        (body, ttl_ms, ack): (Body, Option<u64>, Option<Ack>),
    ) -> Option<u64> {
        self.slots[slot].replica.as_ref()?;
        let token = self.next_token;
        self.next_token += 1;
        let replica = self.slots[slot].replica.as_ref()?;
        self.oracle.on_write(token, key, (&body, ttl_ms), replica);
        self.caches.on_write(token, key, &body);
        let deadline_ms = self.now_ms + self.patience_ms;
        let session = client.map(|client| self.begin_in(client, token, Some(key)));
        let write = Write { token, key: key.clone(), body, ttl_ms, ack, deadline_ms, session };
        self.slots[slot].inputs.push(Input::Write(write));
        self.poll(slot);
        Some(token)
    }

    /// What a client has seen, which it asks with.
    fn begin_in(&mut self, client: u8, token: u64, key: Option<&Bytes>) -> Session {
        self.sessions.on_ask(token, client, key);
        let is_forgotten = self.mutation == Some(Mutation::SessionForgotten);
        if is_forgotten { Session::default() } else { self.sessions.session(client) }
    }

    /// A client writes, or deletes, where it may not have been before.
    pub(super) fn session_write(&mut self, client: u8, slot: usize, at: u8, deletes: bool) -> Option<u64> {
        let value = Bytes::from(format!("value-{}", self.next_token));
        let body = if deletes { Body::Tombstone } else { Body::plain(value) };
        self.write_in(Some(client), slot, &key(at), (body, None, None))
    }

    /// It reads.
    pub(super) fn session_read(&mut self, client: u8, slot: usize, at: u8) -> Option<u64> {
        self.read_in(Some(client), slot, at)
    }

    /// A write of a value that no other write has.
    pub(super) fn put(&mut self, slot: usize, at: u8, ttl_ms: Option<u64>) -> Option<u64> {
        let value = Bytes::from(format!("value-{}", self.next_token));
        self.write(slot, &key(at), Body::plain(value), ttl_ms)
    }

    pub(super) fn delete(&mut self, slot: usize, at: u8) -> Option<u64> {
        self.write(slot, &key(at), Body::Tombstone, None)
    }

    pub(super) fn read(&mut self, slot: usize, at: u8) -> Option<u64> {
        self.read_in(None, slot, at)
    }

    fn read_in(&mut self, client: Option<u8>, slot: usize, at: u8) -> Option<u64> {
        self.slots[slot].replica.as_ref()?;
        let session = client.map(|client| self.begin_in(client, self.next_token, Some(&key(at))));
        self.ask(slot, |token, deadline_ms| Input::Read { token, key: key(at), session, deadline_ms }).inspect(|token| {
            let replicas: Vec<&Replica> = self.slots.iter().filter_map(|slot| slot.replica.as_ref()).collect();
            let reader = self.slots[slot].replica.as_ref().expect("it runs");
            self.oracle.on_read(*token, &key(at), reader, &replicas);
            self.poll(slot);
        })
    }

    /// It reads everything, once its replica has all that it has seen.
    pub(super) fn session_list(&mut self, client: u8, slot: usize) -> Option<u64> {
        self.slots[slot].replica.as_ref()?;
        let session = self.begin_in(client, self.next_token, None);
        self.ask(slot, |token, deadline_ms| Input::Level { token, session, deadline_ms }).inspect(|_| self.poll(slot))
    }

    /// A cache forgets what it has for a key.
    pub(super) fn evict(&mut self, slot: usize, at: u8) {
        let replica = self.slots[slot].replica.as_mut().expect("it runs");
        replica.evict_for_tests(&key(at));
    }

    /// Nothing that is under way arrives.
    pub(super) fn lose_all(&mut self) {
        self.bag.clear();
    }

    pub(super) fn flush(&mut self, slot: usize) -> Option<u64> {
        self.ask(slot, |token, deadline_ms| Input::Flush { token, deadline_ms }).inspect(|_| self.poll(slot))
    }

    pub(super) fn sync(&mut self, slot: usize) -> Option<u64> {
        self.ask(slot, |token, deadline_ms| Input::Sync { token, deadline_ms }).inspect(|_| self.poll(slot))
    }

    fn ask(&mut self, slot: usize, input: impl FnOnce(u64, u64) -> Input) -> Option<u64> {
        self.slots[slot].replica.as_ref()?;
        let token = self.next_token;
        self.next_token += 1;
        self.slots[slot].inputs.push(input(token, self.now_ms + 5_000));
        Some(token)
    }

    /// Everything that the slot wrote is on its disk. What is for its engine, the engine gets the next time.
    pub(super) fn sync_disk(&mut self, slot: usize) {
        self.run_engine(slot);
        let own = &mut self.slots[slot];
        let Some((last, _)) = own.log.last().filter(|(last, _)| *last > own.synced) else { return };
        own.synced = *last;
        own.inputs.push(Input::Durable { index: own.synced });
        self.poll(slot);
    }

    /// The slot's log is to be kept short.
    pub(super) fn shorten(&mut self, slot: usize) {
        self.slots[slot].inputs.push(Input::ShortenLog);
        self.poll(slot);
    }

    /// Everything that the slot wrote is on its disk, and in its engine.
    pub(super) fn exchange_disk(&mut self, slot: usize) {
        self.sync_disk(slot);
        self.run_engine(slot);
    }

    /// So many of the records that the slot wrote since then are on its disk.
    pub(super) fn sync_some(&mut self, slot: usize, records: usize) {
        let own = &mut self.slots[slot];
        let next = own.log.iter().map(|(index, _)| *index).filter(|index| *index > own.synced).take(records).last();
        if let Some(index) = next {
            own.synced = index;
            own.inputs.push(Input::Durable { index });
            self.poll(slot);
        }
    }

    /// The process ends, and what was not synced is lost. One that is not durable loses everything, and is replaced by another
    /// instance, which joins when the slot starts again.
    pub(super) fn crash(&mut self, slot: usize) {
        let own = &mut self.slots[slot];
        if own.replica.take().is_none() {
            return;
        }
        own.inputs.clear();
        if let Some(disk) = &mut own.disk {
            // What a process had begun may be done all the same, and an engine comes back with what it had, or with less.
            let engine = disk.engine.take().expect("it was open");
            disk.to_look_up.clear();
            if let Some(batch) = disk.to_apply.take().filter(|_| self.polls.is_multiple_of(2)) {
                engine.apply(batch).expect("a disk that works");
            }
            if std::mem::take(&mut disk.is_to_flush) || self.polls.is_multiple_of(3) {
                engine.flush().expect("a disk that works");
            }
        }
        let synced = own.synced;
        own.log.retain(|(index, _)| *index <= synced);
        let is_lost = !self.options.is_durable && self.mutation != Some(Mutation::InstanceUsedAgain);
        if let Some(instance) = own.instance.filter(|_| is_lost) {
            own.instance = None;
            self.oracle.on_gone(instance);
        }
    }

    fn running(&self) -> Vec<&Replica> {
        self.slots.iter().filter_map(|slot| slot.replica.as_ref()).collect()
    }

    /// Starts what crashed or what has never been there.
    pub(super) fn restart(&mut self, slot: usize) {
        if self.slots[slot].replica.is_some() {
            return;
        }
        if self.slots[slot].instance.is_none() {
            self.join(slot);
        }
        self.start(slot);
    }

    fn join(&mut self, slot: usize) {
        let instance = self.new_instance();
        // The old instance in this slot is retired in the same entry.
        let taken: BTreeSet<InstanceId> = self.slots.iter().filter_map(|slot| slot.instance).collect();
        self.members.states.retain(|id, _| taken.contains(id));
        let is_early = self.mutation == Some(Mutation::JoinerServesAtOnce) || self.members.states.is_empty();
        self.members.states.insert(instance, if is_early { MemberState::Up } else { MemberState::Joining });
        self.members.epoch += 1;
        let own = &mut self.slots[slot];
        *own = Slot { instance: Some(instance), side: own.side, clock_offset_ms: own.clock_offset_ms, ..Slot::default() };
    }

    /// Takes a slot's replica out of the cluster, whatever it has that others lack. Its disk is lost with it.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(instance) = self.slots[slot].instance else { return };
        let up = |id: &InstanceId| self.members.states.get(id) == Some(&MemberState::Up);
        if self.slots.iter().filter_map(|slot| slot.instance).filter(|id| up(id) && *id != instance).count() == 0 {
            return;
        }
        self.members.states.remove(&instance);
        self.members.epoch += 1;
        self.end(slot);
    }

    fn end(&mut self, slot: usize) {
        let own = &mut self.slots[slot];
        let instance = own.instance.take();
        *own = Slot { side: own.side, clock_offset_ms: own.clock_offset_ms, ..Slot::default() };
        if let Some(instance) = instance {
            self.oracle.on_gone(instance);
        }
    }

    pub(super) fn instance(&self, slot: usize) -> Option<InstanceId> {
        self.slots[slot].instance
    }

    pub(super) fn source(&self) -> Option<InstanceId> {
        self.options.mirror_of
    }

    /// The cluster agrees on another source. Each slot hears of it when it hears of its members.
    pub(super) fn set_source(&mut self, source: InstanceId) {
        self.options.mirror_of = Some(source);
    }

    /// A slot hears what the cluster has agreed on.
    pub(super) fn adopt(&mut self, slot: usize) {
        let mirror_of = self.options.mirror_of;
        if let Some(replica) = self.slots[slot].replica.as_mut().filter(|replica| replica.options.mirror_of != mirror_of) {
            replica.options.mirror_of = mirror_of;
            self.poll(slot);
        }
        let members = self.members.clone();
        if self.slots[slot].replica.as_ref().is_some_and(|replica| *replica.members() != members) {
            self.slots[slot].inputs.push(Input::Members(members));
            self.poll(slot);
        }
    }

    pub(super) fn jump(&mut self, slot: usize, ms: i64) {
        self.has_jumped |= ms != 0;
        self.slots[slot].clock_offset_ms = ms;
    }

    /// What the slot's log takes.
    pub(super) fn log_bytes(&self, slot: usize) -> usize {
        self.slots[slot].log.iter().map(|(_, record)| record.len()).sum()
    }

    /// Slots of one side hear only each other.
    pub(super) fn partition(&mut self, sides: u8) {
        self.slots.iter_mut().enumerate().for_each(|(at, slot)| slot.side = sides >> at & 1);
    }

    /// Time passes, and who wants to be polled is.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.now_ms += ms;
        for slot in 0..self.slots() {
            let due_ms = self.slots[slot].replica.as_ref().map(Replica::due_ms);
            if due_ms.is_some_and(|due_ms| due_ms <= self.now_ms) {
                self.poll(slot);
            } else {
                self.look(slot);
            }
        }
    }

    /// One message arrives, or comes again, or never.
    pub(super) fn network(&mut self, pick: u16, fate: Fate) {
        if self.bag.is_empty() {
            return;
        }
        let at = usize::from(pick) % self.bag.len();
        let message = match fate {
            Fate::Arrives => self.bag.remove(at),
            Fate::ComesTwice => self.bag[at].clone(),
            Fate::IsLost => return drop(self.bag.remove(at)),
        };
        self.deliver(&message);
    }

    /// Everything that is under way arrives, in order.
    pub(super) fn deliver_all(&mut self) {
        for message in std::mem::take(&mut self.bag) {
            self.deliver(&message);
        }
    }

    fn deliver(&mut self, message: &Message) {
        let slot_of = |id| self.slots.iter().position(|slot| slot.instance == Some(id));
        let (from, to) = (slot_of(message.from), slot_of(message.to));
        let Some(to) = to else { return };
        if from.is_some_and(|from| self.slots[from].side != self.slots[to].side) {
            return;
        }
        let mut message = Message::decode(message.to_bytes()).expect("what was encoded can be decoded");
        if let Some(mutation) = self.mutation {
            let receiver = self.slots[to].replica.as_ref();
            let present = receiver.and_then(|replica| replica.members().states.keys().find(|id| **id != message.to).copied());
            if !mutation.apply(&mut message, present) {
                // It is lost, and said to be done.
                let answer = match message.payload {
                    Payload::Put { round, number, .. } => Some(Payload::PutDone { round, number }),
                    Payload::MirrorEnd { round, number, .. } => {
                        Some(Payload::MirrorDone { round, number, is_taken: true, has_newer: false })
                    }
                    _ => None,
                };
                if let Some(payload) = answer {
                    self.bag.push(Message { from: message.to, to: message.from, clock: Hlc::ZERO, payload, ..message });
                }
                return;
            }
        }
        if self.slots[to].replica.is_some() {
            self.slots[to].inputs.push(Input::Message(message));
            self.poll(to);
        }
    }

    /// The network and the disks do what they have to do, so many times, within no time.
    pub(super) fn exchange(&mut self, times: usize) {
        for _ in 0..times {
            self.deliver_all();
            (0..self.slots()).for_each(|slot| self.exchange_disk(slot));
        }
    }

    /// Time passes with a network and disks that work.
    pub(super) fn run_ms(&mut self, ms: u64) {
        self.run_in_steps(ms, STEP_MS);
    }

    pub(super) fn run_in_steps(&mut self, ms: u64, step_ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            (0..self.slots()).for_each(|slot| self.adopt(slot));
            self.exchange(3);
            self.pass_ms(step_ms);
        }
    }

    /// Everybody is back, and hears everybody.
    pub(super) fn heal(&mut self) {
        self.partition(0);
        for slot in 0..self.slots() {
            self.jump(slot, 0);
            self.restart(slot);
        }
    }

    /// All replicas that are up hold the same, and books that are right. `slots`: those that count.
    pub(super) fn check_equal(&self, slots: &[usize]) {
        let replicas: Vec<&Replica> = slots.iter().filter_map(|slot| self.replica(*slot)).collect();
        for replica in &replicas {
            assert!(replica.is_up(), "{:?} has not come up: {:?}", replica.status().instance, self.members);
        }
        self.oracle.check_equal(&replicas);
    }

    /// Nothing is lost that was acknowledged, and nobody holds a tombstone any more, nor anything that waits to be sent.
    pub(super) fn check_clean(&self) {
        self.oracle.check_nothing_lost(&self.running());
        Oracle::check_digests(&self.running());
        for replica in self.running() {
            let status = replica.status();
            assert_eq!((status.tombstones, status.outbox_entries), (0, 0), "{status:#?}");
        }
    }
}

/// Keys and values in a message.
fn carried_bytes(payload: &Payload) -> u64 {
    let (Payload::Push { pairs, .. }
    | Payload::Put { pairs, .. }
    | Payload::Give { pairs, .. }
    | Payload::Mirror { pairs, .. }
    | Payload::Repair { pairs }) = payload
    else {
        return 0;
    };
    pairs.iter().map(|pair| (pair.key.len() + pair.entry.body.size_bytes()) as u64).sum()
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Arrives,
    ComesTwice,
    IsLost,
}
