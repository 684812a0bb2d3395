//! One node's replica of an eventual keyspace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::Engine;

use crate::clock::Clock;
use crate::conflicts::Conflicts;
use crate::copying::Copies;
use crate::io::{Answer, Effect, Input, MemberState, Members, Time};
use crate::keeping::Keeping;
use crate::level::LevelWait;
use crate::lookup::Then;
use crate::message::{Known, Message, Pair, Payload};
use crate::mirror::{Inbound, MirrorEnd};
use crate::options::{Options, SILENT_INTERVALS};
use crate::outbox::Outbox;
use crate::peer::Peer;
use crate::reading::Reads;
use crate::reporting::{Report, Reporting};
use crate::round::{differing, pairs_with};
use crate::schedule::Scheduled;
use crate::skew::Skew;
use crate::status::Counts;
use crate::store::{Merged, ReplicaError, Store};
use crate::syncing::Wait;
use crate::version::{Hlc, InstanceId};
use crate::watermark::Watermark;
use crate::writing::{Release, Waiting};

/// One replica.
///
/// Inputs and the time go in, effects come out; it reads no clock, draws no random numbers but from its seed, and does no I/O but
/// to look up entries in its engine. One that is durable, and so may stall, it has others write to ([`Effect::Apply`]), and read
/// what goes to other replicas ([`Effect::LookUp`]).
///
/// *Life cycle*: [`Replica::open`] over an empty engine, or one that is durable and came back; if the replica is durable, and has
/// a log, [`Replica::begin_replay`], and [`Replica::replay`] for each record of it; then [`Replica::poll`] with
/// [`Input::Members`] first, and from then on whenever something happens, and at [`Replica::due_ms`] at the latest.
///
/// *Invariants*: a key's version never goes down, and a key goes only by the watermark; nothing leaves, neither an answer nor an
/// acknowledgement, before what it relies on is durable, and seen by readers of the engine; a token is answered once.
///
/// *Limits*: [`Options::outbox_max_bytes`]; writes and reads that wait, requests on their way, sizes of messages and records:
/// `options.rs`.
#[derive(Debug)]
pub struct Replica {
    pub(crate) instance: InstanceId,
    /// Which start of the replica: streams of a later one are greater.
    pub(crate) start: u64,
    pub(crate) options: Options,
    pub(crate) now: Time,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) peers: BTreeMap<InstanceId, Peer>,
    pub(crate) members: Members,
    /// The greatest instance that was ever a member, as far as is known here.
    pub(crate) newest: InstanceId,
    pub(crate) watermark: Watermark,
    /// What comes with a stamp at or below this is ignored: everything of that time is here.
    pub(crate) fence: Hlc,
    pub(crate) keeping: Keeping,
    pub(crate) release: Release,
    pub(crate) scheduled: Scheduled,
    /// Writes that wait for room in the outbox or for the clock's bound, with when they came.
    pub(crate) delayed: VecDeque<(crate::Write, u64)>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) levels: Vec<LevelWait>,
    pub(crate) reads: Reads,
    pub(crate) skew: Skew,
    pub(crate) next_round: u64,
    pub(crate) next_sync_ms: u64,
    pub(crate) reporting: Reporting,
    /// When this replica became a member of the epoch.
    pub(crate) joined_ms: u64,
    /// The stamp up to which others must have all own writes before this replica goes.
    pub(crate) leaves_at: Option<Hlc>,
    pub(crate) random: u64,
    pub(crate) counts: Counts,
    pub(crate) conflicts: Conflicts,
    pub(crate) inbound: Inbound,
    pub(crate) copies: Copies,
    /// Lookups under way, and what is done with what they find.
    pub(crate) lookups: BTreeMap<u64, Then>,
    pub(crate) next_lookup: u64,
    /// Messages and answers of this poll: they leave once what was appended in it is durable.
    pub(crate) out: Vec<Effect>,
}

/// What a replica begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who it is.
    pub instance: InstanceId,
    /// Greater at each start of this instance.
    pub start: u64,
    /// Its settings.
    pub options: Options,
    /// Decides whom it compares with when.
    pub seed: u64,
}

impl Replica {
    /// A replica that knows nobody yet, over an engine: an empty one in memory, or one that is durable, and all that it came back
    /// with. Of that everything is read once; blocks for as long as it takes.
    pub fn open(setup: Setup, engine: Arc<dyn Engine>) -> Result<Self, ReplicaError> {
        let Setup { instance, start, options, seed } = setup;
        let is_kept = engine.capabilities().durable;
        assert!(options.cache.is_none() || !options.is_durable, "what a cache forgets no log brings back");
        assert!(options.is_durable || !is_kept, "who begins anew at each start has nothing on a disk");
        let store = match options.cache {
            Some(_) => Store::cache(engine),
            None if is_kept => Store::open(engine, options.digest_seed, options.digest_levels)?,
            None => Store::new(engine, options.digest_seed, options.digest_levels),
        };
        let mut clock = Clock::default();
        clock.observe(store.last_stamp());
        if !options.is_durable {
            // After a restart it is another instance: nobody can be promised what that one stamps.
            clock.resume_unbounded();
        }
        Ok(Self {
            instance,
            start,
            now: Time::default(),
            clock,
            store,
            outbox: Outbox::default(),
            peers: BTreeMap::new(),
            members: Members::default(),
            newest: instance,
            watermark: Watermark::default(),
            fence: Hlc::ZERO,
            keeping: Keeping::new(options.is_durable),
            release: Release::default(),
            scheduled: Scheduled::default(),
            delayed: VecDeque::new(),
            waiting: Vec::new(),
            waits: Vec::new(),
            levels: Vec::new(),
            reads: Reads::default(),
            skew: Skew::default(),
            next_round: start << 32,
            next_sync_ms: 0,
            reporting: Reporting::default(),
            joined_ms: 0,
            leaves_at: None,
            random: seed ^ u64::from(instance.0).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            counts: Counts::default(),
            conflicts: Conflicts::default(),
            inbound: Inbound::default(),
            copies: Copies::default(),
            lookups: BTreeMap::new(),
            next_lookup: 0,
            out: Vec::new(),
            options,
        })
    }

    /// Takes inputs in, and says what is to be done, in order. After an error it is not called again.
    pub fn poll(&mut self, now: Time, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) -> Result<(), ReplicaError> {
        assert!(now.mono_ms >= self.now.mono_ms, "time does not go back");
        self.now = now;
        self.store.begin_telling();
        // What a cache has forgotten, it does not take in again. In all else nothing is forgotten here.
        self.fence = self.fence.max(self.store.advance(now));
        for input in inputs.drain(..) {
            self.on_input(input)?;
        }
        self.retry_delayed();
        self.follow_reads()?;
        self.keep_members();
        self.give_up_streams();
        self.keep_mirror();
        self.keep_schedule();
        self.keep_rounds()?;
        self.send_windows();
        self.send_acks();
        self.keep_clean()?;
        self.answer_writes();
        self.answer_waits();
        self.answer_levels();
        self.finish(effects)
    }

    /// When it wants to be polled at the latest, in monotonic milliseconds.
    pub fn due_ms(&self) -> u64 {
        let now_ms = self.now.mono_ms;
        let mut due = now_ms + self.options.max_report_interval_ms;
        let mut at = |ms: Option<u64>| due = due.min(ms.unwrap_or(u64::MAX));
        at(self.report_due_ms());
        at(self.release.due_ms(&self.options));
        at(self.reads.due_ms());
        at(self.levels.iter().map(|wait| wait.deadline_ms).min());
        // What waits for the log, and not for room, goes on when the log says so.
        at(self.delayed.front().map(|(_, since_ms)| since_ms + self.options.throttle_ms).filter(|ms| *ms > now_ms));
        at(self.rounds_due_ms());
        at(self.waiting.iter().map(|waiting| waiting.deadline_ms).min().filter(|ms| *ms > now_ms));
        at(self.away_due_ms());
        at(self.cleaning_due_ms());
        due.max(now_ms)
    }

    fn on_input(&mut self, input: Input) -> Result<(), ReplicaError> {
        match input {
            Input::Write(write) => self.on_write(write),
            Input::Read { token, key, session, deadline_ms } => {
                return self.on_read(token, key, session, deadline_ms);
            }
            Input::Message(message) => return self.on_message(message),
            Input::Durable { index } => self.on_durable(index),
            Input::Applied => self.on_applied(),
            Input::Flushed { index } => self.on_flushed(index),
            Input::LookedUp(found) => self.on_looked_up(found),
            Input::ShortenLog => self.keeping.shorten(),
            Input::Members(members) => self.on_members(members),
            Input::Level { token, session, deadline_ms } => self.on_level(token, session, deadline_ms),
            Input::Flush { token, deadline_ms } => self.on_flush(token, deadline_ms),
            Input::Sync { token, deadline_ms } => self.on_sync(token, deadline_ms),
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message) -> Result<(), ReplicaError> {
        let Message { from, to, epoch, clock, wall_ms, payload } = message;
        if to != self.instance {
            return Ok(());
        }
        // What a member that is gone wrote comes in rounds with those who stay, and in no other way: the watermark waits for
        // those rounds, and for nothing else.
        let now_ms = self.now.mono_ms;
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        peer.heard_ms = Some(now_ms);
        peer.epoch = peer.epoch.max(epoch);
        self.clock.observe(clock);
        match payload {
            Payload::Push { stream, base, first, last, pairs } => {
                self.on_push(from, (stream, base, first, last), &pairs);
            }
            Payload::PushAck { stream, applied } => self.on_push_ack(from, (stream, applied), clock),
            Payload::Report { rows, interval_ms, wants_answer } => {
                self.on_report(from, epoch, wall_ms, &Report { rows, interval_ms, wants_answer });
            }
            // All else carries what anybody wrote: it counts among those who agree on the members.
            _ if epoch != self.members.epoch => {}
            payload => return self.on_exchange(from, payload),
        }
        Ok(())
    }

    fn on_exchange(&mut self, from: InstanceId, payload: Payload) -> Result<(), ReplicaError> {
        let now_ms = self.now.mono_ms;
        match payload {
            Payload::Ask { round, number, nodes } => {
                let (looked_at, parts) = differing(&nodes, &self.store);
                self.send(from, Payload::Tell { round, number, looked_at, parts });
            }
            Payload::Want { round, number, hashes } if self.store.is_durable() => self.give(from, (round, number), hashes),
            Payload::Want { round, number, hashes } => {
                let (looked_at, pairs) = pairs_with(&hashes, &self.store)?;
                self.send(from, Payload::Give { round, number, looked_at: looked_at as u32, pairs });
            }
            Payload::Put { round, number, pairs } => {
                self.merge_all(&pairs);
                self.send(from, Payload::PutDone { round, number });
            }
            Payload::Repair { pairs } => self.merge_all(&pairs),
            Payload::Tell { round, number, looked_at, parts } => {
                let peer = self.peers.get_mut(&from).and_then(|peer| peer.round.as_mut());
                if let Some(own) = peer.filter(|own| own.is(round)) {
                    own.on_tell(number, looked_at, &parts, (&self.store, self.fence), now_ms);
                }
            }
            Payload::Give { round, number, looked_at, pairs } => {
                let is_answer = self.round_of(from, round).is_some_and(|own| own.on_give(number, looked_at, &pairs, now_ms));
                if is_answer {
                    self.merge_all(&pairs);
                }
            }
            Payload::PutDone { round, number } => {
                if let Some(own) = self.round_of(from, round) {
                    own.on_put_done(number, now_ms);
                }
            }
            Payload::Mirror { round, number, pairs } => self.on_mirror(from, (round, number), pairs),
            Payload::MirrorEnd { round, number, at, pieces, digest } => {
                self.on_mirror_end(from, round, number, MirrorEnd { at, pieces, digest });
            }
            Payload::MirrorDone { round, number, is_taken, has_newer } => {
                if let Some(peer) = self.peers.get_mut(&from)
                    && let Some(own) = peer.round.as_mut().filter(|own| own.is(round))
                    && own.on_mirror_done(number, is_taken, now_ms)
                {
                    peer.wants_copy |= has_newer;
                }
            }
            Payload::VersionAsk { read, key } => {
                let is_filled = self.members.states.get(&self.instance).is_some_and(|state| *state != MemberState::Joining);
                let known = match (is_filled, self.store.version(&key)) {
                    (false, _) => Known::Nothing,
                    (true, None) => Known::Absent,
                    (true, Some(version)) => Known::Version(version),
                };
                self.send(from, Payload::VersionTell { read, known });
            }
            Payload::EntryAsk { read, key } if self.store.is_durable() => self.tell_entry(from, read, &key),
            Payload::EntryAsk { read, key } => {
                let entry = self.store.told(&key)?;
                self.send(from, Payload::EntryTell { read, entry });
            }
            Payload::VersionTell { read, known } => return self.on_version_told(from, read, known),
            Payload::EntryTell { read, entry } => return self.on_entry_told(from, read, entry),
            Payload::Push { .. } | Payload::PushAck { .. } | Payload::Report { .. } => {}
        }
        Ok(())
    }

    /// Merges what somebody else sent. What the fence keeps out is here already, or was overtaken by what is.
    pub(crate) fn merge_all(&mut self, pairs: &[Pair]) {
        self.merge_from(pairs, false);
    }

    /// As [`Replica::merge_all`]. `is_first`: they come from who wrote them, for the first time.
    pub(crate) fn merge_from(&mut self, pairs: &[Pair], is_first: bool) {
        if !self.merges() {
            return;
        }
        for Pair { key, entry } in pairs {
            let key = &Self::key_of(key);
            self.clock.observe(entry.version.hlc);
            if entry.version.hlc <= self.fence {
                self.counts.fenced += 1;
                self.store.evict_older(key, entry.version);
                continue;
            }
            let index = self.keeping.index_of_next();
            match self.store.merge(key, entry, index) {
                Merged::Won(old) => {
                    self.counts.merged += 1;
                    if let Some(own) = old.filter(|old| old.instance == self.instance) {
                        self.on_superseded(key, entry, own);
                    }
                    self.keeping.merged(key, entry);
                }
                Merged::Lost if is_first => self.on_lost(key, entry.version),
                Merged::Lost | Merged::Same => {}
            }
        }
    }

    pub(crate) fn send(&mut self, to: InstanceId, payload: Payload) {
        let message = Message {
            from: self.instance,
            to,
            epoch: self.members.epoch,
            clock: self.clock.promised(),
            wall_ms: self.now.wall_ms,
            payload,
        };
        self.out.push(Effect::Send(message));
    }

    pub(crate) fn reply(&mut self, token: u64, answer: Answer) {
        self.out.push(Effect::Reply { token, answer });
    }

    /// Who it is.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Which start of it this is.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How it is set.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Sets it otherwise from now on. What cannot change, because others or the log rely on it, stays: durability, and where keys
    /// lie in the digest.
    pub fn configure(&mut self, options: Options) {
        let Options { is_durable, digest_levels, digest_seed, cache, .. } = self.options;
        // How long values live may change; whether they may be evicted is the engine's.
        let cache = cache.map(|cache| options.cache.unwrap_or(cache));
        let had_streams = self.options.batching().is_some();
        self.options = Options { cache, is_durable, digest_levels, digest_seed, ..options };
        if had_streams != self.options.batching().is_some() {
            self.end_streams();
        }
    }

    /// Whether its engine is a cache.
    pub(crate) fn is_cache(&self) -> bool {
        self.options.cache.is_some()
    }

    /// Whether what is merged is kept in the log.
    pub fn is_durable(&self) -> bool {
        self.options.is_durable
    }

    /// Where its pairs are.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        self.store.engine()
    }

    /// Whether so much waits for its engine that it takes no writes, and should be told nothing that it would have to keep.
    pub fn has_full_backlog(&self) -> bool {
        self.store.has_full_backlog()
    }

    /// Whether another member was heard of lately, and knows who the members are: one that shall go has to know it.
    pub fn hears(&self, member: InstanceId) -> bool {
        let is_heard = |peer: &Peer| peer.is_reachable(self.now.mono_ms, self.silent_ms()) && peer.epoch >= self.members.epoch;
        self.peers.get(&member).is_some_and(is_heard)
    }

    /// Whether this replica serves.
    pub fn is_up(&self) -> bool {
        self.members.states.get(&self.instance) == Some(&MemberState::Up)
    }

    /// How much longer than promised a peer may be silent before it counts as unreachable.
    pub(crate) fn silent_ms(&self) -> u64 {
        self.options.report_interval_ms * SILENT_INTERVALS
    }

    pub(crate) fn other_members(&self) -> BTreeSet<InstanceId> {
        self.peers.keys().copied().collect()
    }

    /// A number that follows from the seed alone.
    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        // SplitMix64: enough to spread work, and three lines.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    /// What there is for a key, whether it is served or not.
    pub fn get(&self, key: &[u8]) -> Result<Option<crate::Entry>, ReplicaError> {
        self.store.get(key)
    }

    /// The members as this replica knows them.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What readers of the engine see for a key; for tests.
    #[cfg(test)]
    pub(crate) fn get_durable(&self, key: &[u8]) -> Option<crate::Entry> {
        self.store.get_durable(key)
    }

    /// Whether all books agree; for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.store.check();
    }

    /// The version of a key that was deleted or invalidated, in a cache that remembers it; for tests.
    #[cfg(test)]
    pub(crate) fn gone_for_tests(&self, key: &Bytes) -> Option<crate::Version> {
        self.store.recent_version(key)
    }

    /// The version of a key, for tests.
    #[cfg(test)]
    pub(crate) fn version_for_tests(&self, key: &Bytes) -> Option<crate::Version> {
        self.store.version(key)
    }

    /// The engine evicts a key; for tests.
    #[cfg(test)]
    pub(crate) fn evict_for_tests(&mut self, key: &Bytes) {
        let greatest = crate::Version { hlc: Hlc(u64::MAX), instance: InstanceId(u32::MAX) };
        self.store.evict_older(key, greatest);
    }

    /// What is ignored; for tests.
    #[cfg(test)]
    pub(crate) fn fence_for_tests(&self) -> Hlc {
        self.fence
    }

    pub(crate) fn key_of(key: &Bytes) -> Bytes {
        // Keys are slices of what came off the wire; kept for long they would keep all of it alive.
        Bytes::copy_from_slice(key)
    }
}
