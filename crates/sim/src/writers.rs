//! Clients of eventual keyspaces: each writes, deletes and looks at keys through any node, and the nodes' wall clocks jump and
//! drift under them.
//!
//! What is checked is said in the reference, eventual-replication.md 6, as P2 to P6: replicas become equal; what was acknowledged
//! is not lost but for something newer, unless as many nodes lost what they had as had it; what a replica has for a key, or had,
//! is never older later on; and who goes from node to node in a session sees nothing older than it has seen.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_engine::Table;
use quorate_log::GroupId;
use quorate_node::eventual_replication::{Ack, Answer as Told, Body, Entry, Session, Version};
use quorate_node::{Answer, EventualAsk, Input, Mode, OptionValue, ReplicationSettings, Request, RequestKind};

use crate::host::HostId;
use crate::mutation::Mutation;
use crate::operator::Task;
use crate::queue::Event;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::simulation::{Asker, Simulation};
use crate::time::WallClock;
use crate::violation::{Step, Violation};

/// The keyspace.
pub(crate) const KEYSPACE: &str = "eventual";

/// Few, so that writers meet.
const KEYS: u64 = 6;

/// Many, where a write that is lost has to show: with few of them somebody writes the key again before the run is over.
const MANY_KEYS: u64 = 200;

/// What wall clocks show when the simulation begins.
const WALL_MS: u64 = 1_800_000_000_000;

/// How fast or slow wall clocks are at most, in parts in a million: a usual quartz, one in the heat, and a virtual machine that
/// is not given its time. With the last, two of them are further apart than `max_clock_offset` before the run is over.
const MAX_DRIFTS_PPM: [i64; 3] = [200, 2_000, 20_000];

/// Who is off by more than this by drift alone wins or loses against writes of another that came long after, or before.
const FAR_OFF_MS: u64 = 100;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    /// How the keyspace's replicas agree.
    pub(crate) replication: Option<ReplicationSettings>,
    /// And where they keep their pairs.
    pub(crate) engine: &'static str,
    is_durable: bool,
    under_way: Vec<Option<UnderWay>>,
    /// Of each writer.
    sessions: Vec<InSession>,
    next_value: u64,
    /// What was acknowledged, by key.
    acknowledged: BTreeMap<u64, Vec<Acknowledged>>,
    /// Values that somebody tried to write, by key.
    tried: BTreeMap<u64, BTreeSet<Bytes>>,
    /// Keys that somebody tried to delete without hearing what came of it, or for a time only.
    may_go: BTreeSet<u64>,
    /// The greatest version that was seen of a key at an instance, and how many losses there had been then.
    seen: BTreeMap<(u32, u64), (Version, u64)>,
    /// How often a node lost what it had for good, or a mirror got another source.
    losses: u64,
    /// The node that all others mirror, if they do.
    pub(crate) source: Option<HostId>,
    /// Whether it was always that one.
    is_source_fixed: bool,
}

#[derive(Debug)]
struct UnderWay {
    token: u64,
    host: HostId,
    what: What,
    /// Whether it says what it has seen.
    is_in_session: bool,
}

/// What a writer has seen.
#[derive(Debug, Default)]
struct InSession {
    session: Session,
    /// The greatest version of each key, and how many losses there had been then.
    seen: BTreeMap<u64, (Version, u64)>,
}

/// What is asked.
#[derive(Clone, Debug)]
enum What {
    Put { key: u64, value: Bytes, ttl_ms: Option<u64>, ack: Option<Ack> },
    Delete { key: u64, ack: Option<Ack> },
    Read(u64),
    Flush,
    Sync,
}

#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    version: Version,
    /// How many other members had it then.
    replicated: u64,
    /// How many losses there had been.
    losses: u64,
    is_delete: bool,
}

impl Writers {
    /// What the seed says of the keyspace.
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let mut random = Random::new(scenario.seed ^ 0xe7e7_e7e7);
        // Where nothing survives a restart it shows soonest who has a write and who has not.
        let is_volatile = scenario.mutation == Some(Mutation::ReplicatedOverstated);
        let is_durable = random.chance(700) && !is_volatile;
        let number = OptionValue::Number;
        let word = |word: &'static str| OptionValue::Word(word.into());
        let (mode, mut options) = match random.below(4) {
            0 => (Mode::Push, vec![("linger", number(random.below(20))), ("outbox_max", number(64 << 10))]),
            1 => {
                let interval = number(random.between(50, 3_000));
                (Mode::Batch, vec![("interval", interval), ("max_entries", number(random.between(1, 20)))])
            }
            2 => (Mode::ReadRepair, vec![("repair_others", word("async"))]),
            _ => (Mode::FullCopy, vec![("every", number(random.between(200, 3_000)))]),
        };
        options.extend([
            ("durability", word(if is_durable { "log" } else { "none" })),
            ("sync_interval", number(random.between(300, 2_000))),
            ("max_clock_offset", number(1_000)),
        ]);
        // Drawn last, so that all else is as it was before there were engines on disks, and then copies that are slowed down.
        let engine = if is_durable { *random.pick(&["trie", "btree", "lsm"]).expect("not empty") } else { "trie" };
        if mode == Mode::FullCopy && random.chance(500) {
            options.push(("copy_rate", number(64 << 10)));
        }
        // After that came mirrors. What they acknowledge their source has alone: nobody can overstate that.
        let is_mirror = mode == Mode::FullCopy && random.chance(500);
        let source = (is_mirror && scenario.mutation != Some(Mutation::ReplicatedOverstated)).then_some(HostId(0));
        options.extend(source.map(|_| ("variant", word("mirror"))));
        options.extend(source.map(|source| ("source", OptionValue::Word(source.to_string().into()))));
        let options = options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let replication = ReplicationSettings { options, ..ReplicationSettings::of(mode) };
        assert!(replication.check().is_ok(), "{replication:?} can be had");
        Self { replication: Some(replication), engine, is_durable, source, is_source_fixed: true, ..Self::default() }
    }

    /// All mirror another node from now on. What the one before was told and had not copied is lost, and the others may go back.
    pub(crate) fn on_other_source(&mut self, source: HostId) {
        self.source = Some(source);
        self.is_source_fixed = false;
        self.losses += 1;
    }

    /// Whether what was true after so many losses must still be: a mirror goes where its source goes.
    fn holds_since(&self, losses: u64) -> bool {
        self.source.is_none() || (self.is_source_fixed && losses == self.losses)
    }

    /// Whether a damaged disk takes away what a node had.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.is_durable && self.engine != "trie"
    }

    /// A node lost what it had for good.
    pub(crate) fn on_loss(&mut self) {
        self.losses += 1;
    }

    /// A process ended: it had what it had in memory alone.
    pub(crate) fn on_end(&mut self) {
        self.losses += u64::from(!self.is_durable);
    }
}

impl Simulation {
    /// Lets them begin.
    pub(crate) fn start_writers(&mut self) {
        self.let_wall_clocks_drift();
        for writer in 0..self.random.between(2, 4) as usize {
            self.writers.under_way.push(None);
            self.writers.sessions.push(InSession::default());
            self.schedule_writer(writer);
        }
    }

    fn schedule_writer(&mut self, writer: usize) {
        let think_us = self.random.skewed(100_000);
        self.queue.schedule(self.now.plus_us(think_us), Event::WriterActs(writer));
    }

    /// What a node's wall clock shows.
    pub(crate) fn wall_ms(&self, host: HostId) -> u64 {
        (WALL_MS + self.now.0 / 1000).saturating_add_signed(self.hosts[host.0].wall_clock.offset_ms(self.now))
    }

    /// One begins its next request.
    pub(crate) fn on_writer_acts(&mut self, index: usize) {
        if !self.is_faulty_phase() {
            return;
        }
        let host = HostId(self.random.below(self.hosts.len() as u64) as usize);
        if self.random.chance(15) {
            self.move_wall_clock(host);
        }
        if self.writers.source.is_some() && self.random.chance(4) {
            self.operator.add(Task::Mirror(host));
        }
        let what = self.any_write();
        match &what {
            What::Put { key, value, ttl_ms, .. } => {
                self.writers.tried.entry(*key).or_default().insert(value.clone());
                if ttl_ms.is_some() {
                    self.writers.may_go.insert(*key);
                }
            }
            What::Delete { key, .. } => drop(self.writers.may_go.insert(*key)),
            What::Read(_) | What::Flush | What::Sync => {}
        }
        let token = self.next_token(Asker::Writer(index));
        self.trace.note(self.now, format_args!("w{index} asks {host} #{token}: {what:?}"));
        // Not drawn, so that all else is as it was before there were sessions; and who brings writes along hides who lost them.
        let is_overstated = self.scenario.mutation == Some(Mutation::ReplicatedOverstated);
        let is_in_session = !is_overstated && !token.is_multiple_of(3);
        self.writers.under_way[index] = Some(UnderWay { token, host, what, is_in_session });
        self.ask(host, token, self.scenario.load.timeout_ms + 2500);
    }

    /// Clocks are a little off at all times, and now and then very much so.
    fn move_wall_clock(&mut self, host: HostId) {
        let offset_ms = match self.random.below(4) {
            0 => 3_600_000,
            1 => -3_600_000,
            _ => self.random.between(0, 400).cast_signed() - 200,
        };
        self.coverage.count("wall clocks moved");
        self.hosts[host.0].wall_clock.set(self.now, offset_ms);
    }

    /// Each goes at a speed of its own from now on.
    fn let_wall_clocks_drift(&mut self) {
        if self.scenario.mutation.is_some() {
            // Beside planted bugs, which chance shows, all is as it was.
            return;
        }
        // Drawn elsewhere, so that all else is as it was before they drifted.
        let mut random = Random::new(self.scenario.seed ^ 0xc10c_c10c);
        for host in &mut self.hosts {
            let max_ppm = *random.pick(&MAX_DRIFTS_PPM).expect("not empty");
            let drift_ppm = random.between(0, 2 * max_ppm.cast_unsigned()).cast_signed() - max_ppm;
            host.wall_clock.drift(self.now, drift_ppm);
        }
    }

    /// All clocks are right again, and stay so; they drifted for so long.
    pub(crate) fn heal_wall_clocks(&mut self, lasted_ms: u64) {
        for host in &mut self.hosts {
            let drifted_ms = lasted_ms * host.wall_clock.drift_ppm().unsigned_abs() / 1_000_000;
            self.coverage.add("wall clocks that drifted far", u64::from(drifted_ms > FAR_OFF_MS));
            host.wall_clock = WallClock::default();
        }
    }

    fn eventual_keys(&self) -> u64 {
        if self.scenario.mutation == Some(Mutation::ReplicatedOverstated) { MANY_KEYS } else { KEYS }
    }

    fn any_write(&mut self) -> What {
        let key = self.random.below(self.eventual_keys());
        let ack = match self.random.below(4) {
            0 => Some(Ack::Others(1)),
            1 => Some(Ack::AllUp),
            2 => Some(Ack::Local),
            _ => None,
        };
        match self.random.below(100) {
            0..45 => {
                self.writers.next_value += 1;
                let mut value = format!("value {}", self.writers.next_value);
                // Few of them fill an outbox. Beside planted bugs, which chance shows, all is as it was.
                if self.scenario.seed.is_multiple_of(3) && self.scenario.mutation.is_none() {
                    value.extend(std::iter::repeat_n('.', 8 << 10));
                }
                let value = Bytes::from(value);
                let ttl_ms = self.random.chance(100).then(|| self.random.between(200, 3_000));
                What::Put { key, value, ttl_ms, ack }
            }
            45..65 => What::Delete { key, ack },
            65..92 => What::Read(key),
            92..96 => What::Flush,
            _ => What::Sync,
        }
    }

    /// A request reaches a process.
    pub(crate) fn on_writer_request(&mut self, index: usize, host: HostId, token: u64) -> Step {
        let Some(under_way) = self.writers.under_way[index].as_ref().filter(|under_way| under_way.token == token) else {
            return Ok(());
        };
        let what = under_way.what.clone();
        let is_forgotten = self.scenario.mutation == Some(Mutation::SessionForgotten);
        let has_seen = if is_forgotten { Session::default() } else { self.writers.sessions[index].session.clone() };
        let session = under_way.is_in_session.then_some(has_seen);
        let Some(group) = self.eventual_group(host) else {
            self.on_writer_expired(index, token);
            return Ok(());
        };
        let deadline = self.deadline(host, self.scenario.load.timeout_ms);
        let key_of = |key: u64| Bytes::from(format!("key {key}"));
        let ask = match what {
            What::Put { key, value, ttl_ms, ack } => {
                EventualAsk::Write { key: key_of(key), body: Body::plain(value), ttl_ms, ack, session }
            }
            What::Delete { key, ack } => {
                EventualAsk::Write { key: key_of(key), body: Body::Tombstone, ttl_ms: None, ack, session }
            }
            What::Read(key) => {
                self.look_at(host, key)?;
                EventualAsk::Read { key: key_of(key), session }
            }
            What::Flush => EventualAsk::Flush,
            What::Sync => EventualAsk::Sync,
        };
        self.tell(host, Input::Request(Request { token, group, deadline, kind: RequestKind::Eventual(ask) }));
        Ok(())
    }

    /// The keyspace's group, if it can be read at a host.
    fn eventual_group(&self, host: HostId) -> Option<GroupId> {
        let process = self.hosts[host.0].process.as_ref()?;
        process.shell.hosted.keyspaces.get(KEYSPACE).map(|hosted| hosted.group)
    }

    /// Which instance of the keyspace's replica a host has.
    fn eventual_instance(&self, host: HostId) -> Option<u32> {
        let process = self.hosts[host.0].process.as_ref()?;
        let hosted = process.shell.hosted.keyspaces.get(KEYSPACE)?;
        Some(process.node.eventual_replica(hosted.group)?.instance().0)
    }

    /// Reads a key where readers do. What was there once, or something newer, is there for ever; or nothing, once everybody has
    /// the news that it went.
    fn look_at(&mut self, host: HostId, key: u64) -> Step {
        let Some(process) = self.hosts[host.0].process.as_ref() else { return Ok(()) };
        let Some(hosted) = process.shell.hosted.keyspaces.get(KEYSPACE) else { return Ok(()) };
        let Some(replica) = process.node.eventual_replica(hosted.group) else { return Ok(()) };
        let (instance, max_bytes) = (replica.instance().0, replica.options().outbox_max_bytes);
        if replica.status().outbox_bytes > max_bytes {
            return Err(Violation::new("outboxes keep to their bound", format!("{host}: {:?}", replica.status())));
        }
        let found = hosted.engine.view().peek(Table::Current, format!("key {key}").as_bytes());
        let found = found.map_err(|error| Violation::new("entries can be read", format!("{host}: {error}")))?;
        let Some(encoded) = found else { return Ok(()) };
        let entry = Entry::decode(encoded).map_err(|error| Violation::new("entries can be read", format!("{host}: {error}")))?;
        let (seen, losses) = self.writers.seen.get(&(instance, key)).copied().unwrap_or_default();
        if entry.version < seen && self.writers.holds_since(losses) {
            let detail = format!("{host}: key {key} has {:?}, and had {seen:?}", entry.version);
            return Err(Violation::new("what a replica has for a key is never older later on", detail));
        }
        self.writers.seen.insert((instance, key), (entry.version, self.writers.losses));
        self.coverage.count("entries seen in the eventual keyspace");
        self.check_was_tried(host, key, &entry)
    }

    fn check_was_tried(&self, host: HostId, key: u64, entry: &Entry) -> Step {
        let Body::Value { value, .. } = &entry.body else { return Ok(()) };
        if self.writers.tried.get(&key).is_some_and(|tried| tried.contains(value)) {
            return Ok(());
        }
        Err(Violation::new("values were written by somebody", format!("{host}: key {key} holds {value:?}")))
    }

    /// A client gives up waiting.
    pub(crate) fn on_writer_expired(&mut self, index: usize, token: u64) {
        if self.writers.under_way[index].take_if(|under_way| under_way.token == token).is_some() {
            self.askers.remove(&token);
            self.schedule_writer(index);
        }
    }

    /// A client has its answer.
    pub(crate) fn on_writer_answer(&mut self, index: usize, token: u64, answer: &Answer) -> Step {
        let Some(under_way) = self.writers.under_way[index].take_if(|under_way| under_way.token == token) else {
            return Ok(());
        };
        self.trace.note(self.now, format_args!("w{index} is told by {} #{token}: {answer:?}", under_way.host));
        match (&under_way.what, answer) {
            (
                What::Put { key, .. } | What::Delete { key, .. },
                Answer::Eventual(Told::Written { version, replicated, is_met, session, .. }),
            ) => {
                self.check_session_write(index, *key, *version, session.as_deref())?;
                self.coverage.count("eventual writes acknowledged");
                self.coverage.add("eventual writes that others had", u64::from(*replicated > 0));
                self.coverage.add("eventual writes not met in time", u64::from(!is_met));
                let is_overstated = self.scenario.mutation == Some(Mutation::ReplicatedOverstated);
                let write = Acknowledged {
                    version: *version,
                    replicated: if is_overstated { u64::MAX } else { u64::from(*replicated) },
                    losses: self.writers.losses,
                    is_delete: matches!(under_way.what, What::Delete { .. }),
                };
                self.writers.acknowledged.entry(*key).or_default().push(write);
            }
            (What::Read(key), Answer::Eventual(Told::Found { answered, entry, session, .. })) => {
                self.check_session_read(index, *key, entry.as_ref(), session.as_deref())?;
                self.coverage.add("eventual reads that others answered", u64::from(*answered > 0));
                self.look_at(under_way.host, *key)?;
            }
            (What::Flush | What::Sync, Answer::Eventual(Told::Done { reached, .. })) => {
                self.coverage.add("flushes and comparisons that reached others", u64::from(*reached > 0));
            }
            (_, Answer::Eventual(Told::Refused(_)) | Answer::Failed(_)) => self.coverage.count("eventual requests refused"),
            (what, answer) => {
                return Err(Violation::new("requests get answers of their kind", format!("{what:?} got {answer:?}")));
            }
        }
        self.schedule_writer(index);
        Ok(())
    }

    /// A write of a session stands over all that it has seen.
    fn check_session_write(&mut self, index: usize, key: u64, version: Version, session: Option<&Session>) -> Step {
        let (losses, own) = (self.writers.losses, &mut self.writers.sessions[index]);
        let Some(session) = session else { return Ok(()) };
        if let Some((seen, _)) = own.seen.values().find(|(seen, _)| *seen >= version) {
            let detail = format!("w{index}: {version} of key {key} is not above {seen}");
            return Err(Violation::new("a session writes above all that it has seen", detail));
        }
        own.session.join(session);
        own.seen.insert(key, (version, losses));
        Ok(())
    }

    /// A read of a session finds nothing older than it has seen; or nothing, once everybody has the news that it went.
    fn check_session_read(&mut self, index: usize, key: u64, entry: Option<&Entry>, session: Option<&Session>) -> Step {
        let (losses, may_go) = (self.writers.losses, self.writers.may_go.contains(&key));
        let is_kept = self.writers.holds_since(losses);
        let own = &mut self.writers.sessions[index];
        let Some(session) = session else { return Ok(()) };
        let found = entry.map(|entry| entry.version);
        if let Some((seen, losses_then)) = own.seen.get(&key) {
            let is_there = found.map_or(may_go, |found| found >= *seen);
            if !is_there && *losses_then == losses && is_kept {
                let detail = format!("w{index}: had seen {seen} of key {key}, and finds {found:?}");
                return Err(Violation::new("a session sees nothing older than it has seen", detail));
            }
            self.coverage.add("session reads of what was seen before", u64::from(is_there));
        }
        own.session.join(session);
        if let Some(found) = found {
            own.seen.insert(key, (found, losses));
        }
        Ok(())
    }

    /// Whether every member has a replica that serves, and all of them are equal.
    pub(crate) fn is_eventual_equal(&self) -> bool {
        let digest = |host: &HostId| {
            let process = self.hosts[host.0].process.as_ref()?;
            let hosted = process.shell.hosted.keyspaces.get(KEYSPACE)?;
            let status = process.node.eventual_replica(hosted.group)?.status();
            status.is_up.then_some(status.digest)
        };
        let digests: Vec<Option<u128>> = self.operator.members.iter().map(digest).collect();
        digests.iter().all(|digest| digest.is_some() && *digest == digests[0])
    }

    /// Whether every member's replica serves.
    pub(crate) fn is_eventual_up(&self) -> bool {
        self.operator.members.iter().all(|host| self.eventual_group(*host).is_some())
    }

    /// Nothing happens any more: all replicas are equal, and have what was acknowledged, or something newer.
    pub(crate) fn check_eventual(&mut self) -> Step {
        if !self.is_eventual_equal() {
            let tell = |host: &HostId| {
                let process = self.hosts[host.0].process.as_ref()?;
                let hosted = process.shell.hosted.keyspaces.get(KEYSPACE)?;
                Some(format!("{host}: {:?}", process.node.eventual_replica(hosted.group)?.status()))
            };
            let told: Vec<String> = self.operator.members.iter().filter_map(tell).collect();
            return Err(Violation::new("eventual replicas become equal", told.join("\n  ")));
        }
        for host in self.operator.members.clone() {
            for key in 0..self.eventual_keys() {
                self.look_at(host, key)?;
                self.check_not_lost(host, key)?;
            }
            self.count_eventual(host);
        }
        Ok(())
    }

    fn count_eventual(&mut self, host: HostId) {
        let Some(process) = self.hosts[host.0].process.as_ref() else { return };
        let Some(hosted) = process.shell.hosted.keyspaces.get(KEYSPACE) else { return };
        let counts = process.node.eventual_replica(hosted.group).map(|replica| replica.status().counts).unwrap_or_default();
        self.coverage.add("copies that took a mirror's place", counts.mirrored);
        self.coverage.add("peers whose outbox was full", counts.overflows);
    }

    fn check_not_lost(&mut self, host: HostId, key: u64) -> Step {
        let losses = self.writers.losses;
        let acknowledged = self.writers.acknowledged.get(&key).map_or(&[][..], Vec::as_slice);
        // Of a mirror's writes those count that its last source took, and has not lost since.
        let source = self.writers.source.and_then(|source| self.eventual_instance(source));
        let is_safe = |write: &&Acknowledged| match source {
            None => losses - write.losses <= write.replicated,
            Some(source) => losses == write.losses && write.version.instance.0 == source,
        };
        let Some(newest) = acknowledged.iter().filter(is_safe).max_by_key(|write| write.version) else { return Ok(()) };
        let process = self.hosts[host.0].process.as_ref().expect("the cluster is whole");
        let hosted = &process.shell.hosted.keyspaces[KEYSPACE];
        let view = hosted.engine.view();
        let found = view.peek(Table::Current, format!("key {key}").as_bytes());
        let found = found.ok().flatten().and_then(|encoded| Entry::decode(encoded).ok());
        let is_there = found.as_ref().is_some_and(|entry| entry.version >= newest.version);
        let may_be_gone = found.is_none() && (newest.is_delete || self.writers.may_go.contains(&key));
        if is_there || may_be_gone {
            self.coverage.count("acknowledged eventual writes found again");
            return Ok(());
        }
        let detail = format!("{host}: key {key} has {found:?}; acknowledged was {newest:?}, losses {losses}");
        Err(Violation::new("acknowledged eventual writes are not lost", detail))
    }

    /// Makes the keyspace, once nodes have begun to join.
    pub(crate) fn create_eventual(&mut self) {
        self.writers = Writers::of(&self.scenario);
        self.operator.add(Task::CreateEventual);
    }
}
