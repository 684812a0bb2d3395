//! Own writes: stamped, merged, sent, acknowledged.

use crate::clock::BOUND_AHEAD_MS;
use crate::conflicts::MAX_CONFIRMED;
use crate::entry::{Body, Entry};
use crate::io::{Answer, MemberState, Refusal, Write};
use crate::message::{Pair, Payload};
use crate::options::{Ack, Batching, CopyWhen, MAX_INFLIGHT_FRAMES, MAX_MESSAGE_BYTES, MAX_MESSAGE_PAIRS, MAX_WAITING_WRITES};
use crate::options::{CacheOptions, MAX_KEPT_FOR_MS, Options, Trigger};
use crate::peer::{Peer, Stream};
use crate::record::Record;
use crate::replica::Replica;
use crate::session::Session;
use crate::version::{Hlc, InstanceId, Version};

/// A write that somebody waits for at other replicas waits no longer for company, nor does what waits with it: who asks for
/// that does not want to be told at the time limit that nobody has it.
const MAX_WAITED_FOR_MS: u64 = 1;

/// A write that is applied and not answered yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    token: u64,
    version: Version,
    replaced: bool,
    /// Its place in the outbox; 0 if it is in none.
    place: u64,
    /// Its position in the log.
    index: u64,
    ack: Ack,
    pub(crate) deadline_ms: u64,
    session: Option<Session>,
}

/// Which own writes may be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Release {
    /// All up to this place.
    upto: u64,
    /// Since when there are others.
    since_ms: Option<u64>,
    /// How many writes there were since then.
    writes: u64,
    bytes: u64,
    /// Whether somebody waits until others have one of them.
    is_waited_for: bool,
    /// When there was a write last.
    last_write_ms: Option<u64>,
    /// The same, if it was copied to nobody yet.
    written_ms: Option<u64>,
    /// When everything was copied last.
    copied_ms: Option<u64>,
}

impl Release {
    /// When more may be sent.
    pub(crate) fn due_ms(&self, options: &Options) -> Option<u64> {
        match &options.trigger {
            Trigger::Write(batching) => {
                let longest_ms = if self.is_waited_for { MAX_WAITED_FOR_MS } else { u64::MAX };
                self.since_ms.map(|since_ms| since_ms.saturating_add(batching.interval_ms.min(longest_ms)))
            }
            Trigger::Copy(CopyWhen::OnWrite { quiet_ms, min_interval_ms }) => {
                let earliest = self.copied_ms.map_or(0, |copied_ms| copied_ms + min_interval_ms);
                self.written_ms.map(|written_ms| (written_ms + quiet_ms).max(earliest))
            }
            Trigger::Copy(CopyWhen::Every(interval_ms)) => Some(self.copied_ms.unwrap_or_default() + interval_ms),
            Trigger::Copy(CopyWhen::Manual) | Trigger::Read { .. } => None,
        }
    }

    fn is_full(&self, batching: &Batching) -> bool {
        self.writes >= batching.max_entries || self.bytes >= batching.max_bytes
    }

    /// Lets everything up to a place go.
    pub(crate) fn all(&mut self, upto: u64) {
        *self = Self { upto, since_ms: None, writes: 0, bytes: 0, is_waited_for: false, ..*self };
    }

    pub(crate) fn copied(&mut self, now_ms: u64) {
        self.copied_ms = Some(now_ms);
        self.written_ms = None;
    }
}

impl Replica {
    pub(crate) fn on_write(&mut self, write: Write) {
        let refusal = if let Some(refusal) = self.takes_no_writes() {
            Some(refusal)
        } else if let Some(offset_ms) = self.skew.judged() {
            Some(Refusal::ClockSkew { offset_ms })
        } else if self.waiting.len() + self.delayed.len() >= MAX_WAITING_WRITES || self.store.has_full_backlog() {
            Some(Refusal::Overloaded)
        } else if self.is_full_for(&write) {
            Some(Refusal::Full { max_bytes: self.options.max_bytes })
        } else {
            self.asks_for_too_many(&write)
        };
        if let Some(refusal) = refusal {
            self.reply(write.token, Answer::Refused(refusal));
            return;
        }
        // Writers do not overtake each other.
        if !self.delayed.is_empty() || !self.has_room(&write) {
            self.delayed.push_back((write, self.now.mono_ms));
            return;
        }
        if let Some(write) = self.try_write(write) {
            self.delayed.push_back((write, self.now.mono_ms));
        }
    }

    /// Why nobody can write here, if so.
    fn takes_no_writes(&self) -> Option<Refusal> {
        let source = self.source().filter(|_| self.is_read_only());
        if self.is_up() { source.map(|source| Refusal::ReadOnly { source }) } else { Some(Refusal::NotUp) }
    }

    /// Lets writes go on that waited for room or for the clock's bound. Who waited too long for room makes it: the peers that are
    /// furthest behind are compared with later, instead of being sent what they have not got.
    pub(crate) fn retry_delayed(&mut self) {
        while let Some((write, since_ms)) = self.delayed.pop_front() {
            // That may have changed meanwhile.
            if let Some(refusal) = self.takes_no_writes() {
                self.reply(write.token, Answer::Refused(refusal));
                continue;
            }
            let has_waited = self.now.mono_ms.saturating_sub(since_ms) >= self.options.throttle_ms;
            while !self.has_room(&write) && (has_waited || self.is_held_by_the_silent()) && self.drop_slowest() {}
            if !self.has_room(&write) {
                self.delayed.push_front((write, since_ms));
                return;
            }
            if let Some(write) = self.try_write(write) {
                self.delayed.push_front((write, since_ms));
                return;
            }
        }
    }

    /// What a write takes in the outbox.
    fn size_of(&self, write: &Write) -> u64 {
        let body_bytes = if self.is_hidden(&write.key, &write.body) { 0 } else { write.body.size_bytes() };
        (write.key.len() + body_bytes) as u64 + crate::outbox::SLOT_BYTES
    }

    /// Whether of a value only the version travels: in a cache that only invalidates, or if it is larger than the outbox.
    fn is_hidden(&self, key: &[u8], body: &Body) -> bool {
        let is_large = (key.len() + body.size_bytes()) as u64 + crate::outbox::SLOT_BYTES > self.options.outbox_max_bytes;
        self.options.cache.is_some_and(|cache| cache.invalidates || is_large)
    }

    fn is_full_for(&self, write: &Write) -> bool {
        let bytes = (write.key.len() + write.body.size_bytes()) as u64;
        let replaced_bytes = self.store.kept(&write.key).map_or(0, |kept| kept.size_bytes);
        !self.is_cache()
            && matches!(write.body, Body::Value { .. })
            && (self.store.data_bytes() - replaced_bytes).saturating_add(bytes) > self.options.max_bytes
    }

    fn has_streams(&self) -> bool {
        self.peers.values().any(|peer| peer.stream.is_some())
    }

    /// Whether there were writes lately, or there are some that wait for a stamp.
    pub(crate) fn is_writing(&self) -> bool {
        let lately = |written_ms| self.now.mono_ms.saturating_sub(written_ms) < BOUND_AHEAD_MS;
        !self.delayed.is_empty() || self.release.last_write_ms.is_some_and(lately)
    }

    /// Whether the outbox can take it. Where nobody is sent anything, nothing goes into it: a write that is larger than the
    /// outbox comes to that, and reaches others by comparison.
    fn has_room(&self, write: &Write) -> bool {
        !self.has_streams() || self.outbox.bytes() + self.size_of(write) <= self.options.outbox_max_bytes
    }

    /// The peer that is furthest behind in the outbox.
    fn slowest(&self) -> Option<InstanceId> {
        let streams = self.peers.iter().filter_map(|(id, peer)| Some((peer.stream.as_ref()?.acked, *id)));
        streams.min().map(|(_, id)| id)
    }

    fn is_held_by_the_silent(&self) -> bool {
        let slowest = self.slowest().and_then(|id| self.peers.get(&id));
        slowest.is_some_and(|peer| !peer.is_reachable(self.now.mono_ms, self.silent_ms()))
    }

    /// Sends the slowest peer no more of what is in the outbox. Whether there was one.
    fn drop_slowest(&mut self) -> bool {
        let Some(slowest) = self.slowest() else { return false };
        if self.is_cache() {
            // It misses what it was not sent; that ends with what it has.
            let last = self.outbox.seal();
            self.peers.get_mut(&slowest).into_iter().for_each(|peer| peer.stream = Some(Stream::after(last)));
            self.counts.overflows += 1;
            self.trim_outbox();
            return self.outbox.len() > 0;
        }
        self.end_stream(slowest);
        true
    }

    /// Sends a peer no more of what is in the outbox: it is compared with later.
    fn end_stream(&mut self, id: InstanceId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let acked = peer.stream.take().map_or(0, |stream| stream.acked);
            self.outbox.oldest_ms(acked).into_iter().for_each(|since_ms| peer.figures.is_owed(since_ms));
            peer.is_synced = false;
            peer.sync_due_ms = Some(self.now.mono_ms);
            self.counts.overflows += 1;
        }
        self.trim_outbox();
    }

    /// Keeps nothing any longer for those who have been away for long. A cache is compared with nobody: it misses nothing that
    /// fits.
    pub(crate) fn give_up_streams(&mut self) {
        if self.is_cache() || self.outbox.len() == 0 {
            return;
        }
        let now_ms = self.now.mono_ms;
        let is_kept_for = |peer: &Peer| peer.stream.as_ref().is_some_and(|stream| stream.acked < self.outbox.last());
        let given_up = self.peers.iter().filter(|(_, peer)| peer.unheard_ms(now_ms) >= MAX_KEPT_FOR_MS && is_kept_for(peer));
        let given_up: Vec<InstanceId> = given_up.map(|(id, _)| *id).collect();
        given_up.into_iter().for_each(|id| self.end_stream(id));
    }

    /// Writes, unless there is no stamp to be had yet: then the write comes back.
    fn try_write(&mut self, write: Write) -> Option<Write> {
        let old = self.store.kept(&write.key);
        let stored = old.map_or(Hlc::ZERO, |kept| kept.version.hlc);
        write.session.iter().for_each(|session| self.clock.observe(session.latest().hlc));
        let hlc = self.clock.stamp(self.now.wall_ms, stored);
        let Some(hlc) = hlc else { return Some(write) };
        assert!(hlc > self.fence, "the fence is what this replica promised to stamp above");
        let Write { token, key, body, ttl_ms, ack, deadline_ms, session } = write;
        let key = Self::key_of(&key);
        let ttl_ms = match self.options.cache {
            Some(CacheOptions { ttl_ms: max_ms, .. }) => Some(ttl_ms.unwrap_or(max_ms).min(max_ms)),
            None => ttl_ms,
        };
        let version = Version { hlc, instance: self.instance };
        let deadline_at = match (&body, ttl_ms) {
            // By the wall clock, and not by the stamp, which may be ahead of it because somebody's clock once was.
            (Body::Value { .. }, Some(ttl_ms)) => self.now.wall_ms.saturating_add(ttl_ms),
            _ => 0,
        };
        let entry = Entry { version, deadline_ms: deadline_at, body };
        let index = self.keeping.index_of_next();
        self.store.merge(&key, &entry, index);
        self.keeping.wrote(hlc);
        self.keeping.merged(&key, &entry);
        self.counts.written += 1;
        self.release.last_write_ms = Some(self.now.mono_ms);
        self.release.written_ms = Some(self.now.mono_ms);
        let ack = ack.unwrap_or(self.options.ack);
        let mut place = 0;
        if self.has_streams() {
            self.release.is_waited_for |= ack != Ack::Local;
            self.release.since_ms.get_or_insert(self.now.mono_ms);
            self.release.writes += 1;
            self.release.bytes += (key.len() + entry.body.size_bytes()) as u64;
            let is_hidden = !entry.is_dead() && self.is_hidden(&key, &entry.body);
            let entry = if is_hidden { Entry { body: Body::Expired, ..entry } } else { entry };
            place = self.outbox.add(&key, entry, self.now.mono_ms);
        }
        let unsent = self.peers.values_mut().filter(|peer| peer.stream.is_none());
        unsent.for_each(|peer| peer.figures.is_owed(self.now.mono_ms));
        let replaced = old.is_some_and(|kept| kept.is_live(self.now.wall_ms));
        self.waiting.push(Waiting { token, version, replaced, place, index, ack, deadline_ms, session });
        None
    }

    /// What the schedule says is done when it is time.
    pub(crate) fn keep_schedule(&mut self) {
        let is_due_here = self.is_up() && !self.is_read_only();
        let Some(schedule) = self.options.schedule.as_ref().filter(|_| is_due_here) else { return };
        let known_ms = self.scheduled.done_ms();
        if self.scheduled.is_time(schedule, self.now.wall_ms) {
            self.counts.scheduled += 1;
            match self.options.trigger {
                Trigger::Write(_) => self.release.all(self.outbox.last()),
                Trigger::Copy(_) => self.copy_to_all(),
                Trigger::Read { .. } => {}
            }
        }
        let done_ms = self.scheduled.done_ms().filter(|done_ms| Some(*done_ms) != known_ms);
        done_ms.into_iter().for_each(|done_ms| self.keeping.append(&Record::Scheduled(done_ms)));
    }

    /// Sends what may be sent, as far as each peer's window goes.
    pub(crate) fn send_windows(&mut self) {
        let now_ms = self.now.mono_ms;
        if let Some(batching) = self.options.batching() {
            let is_due = self.release.due_ms(&self.options).is_some_and(|due_ms| due_ms <= now_ms);
            if is_due || self.release.is_full(batching) {
                self.release.all(self.outbox.last());
            }
        }
        for id in self.other_members() {
            self.send_window(id);
        }
    }

    fn send_window(&mut self, id: InstanceId) {
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        loop {
            let upto = self.release.upto;
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let is_reachable = peer.is_reachable(now_ms, silent_ms);
            let Some(stream) = &mut peer.stream else { return };
            // Who is away hears nothing: when it is heard of again is soon enough.
            if is_reachable && stream.resend_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
                stream.sent = stream.acked;
                stream.inflight.clear();
            }
            if stream.inflight.len() >= MAX_INFLIGHT_FRAMES || stream.sent >= upto {
                return;
            }
            let window = self.outbox.window(stream.sent, upto, MAX_MESSAGE_BYTES, MAX_MESSAGE_PAIRS);
            let Some(window) = window else { return };
            if stream.inflight.is_empty() {
                stream.since_ms = now_ms;
            }
            stream.inflight.push_back(window.last);
            stream.sent = window.last;
            let base = stream.acked;
            self.counts.pushed += window.pairs.len() as u64;
            self.counts.pushed_bytes += window.bytes;
            peer.figures.pushed_bytes += window.bytes;
            let stream = self.start;
            self.send(id, Payload::Push { stream, base, first: window.first, last: window.last, pairs: window.pairs });
        }
    }

    /// A peer's own writes.
    pub(crate) fn on_push(&mut self, from: InstanceId, (stream, base, first, last): (u64, u64, u64, u64), pairs: &[Pair]) {
        let Some((known, applied)) = self.peers.get(&from).map(|peer| peer.inbound) else { return };
        self.merge_from(pairs, stream > known || (stream == known && first > applied));
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if stream < known {
            return;
        }
        // What is before the base the peer knows to be here.
        let mut applied = if stream == known { applied.max(base) } else { base };
        if first <= applied + 1 {
            applied = applied.max(last);
        }
        peer.inbound = (stream, applied);
        peer.owes_ack = true;
    }

    /// Confirms what came in this poll.
    pub(crate) fn send_acks(&mut self) {
        for id in self.other_members() {
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.owes_ack) else { continue };
            peer.owes_ack = false;
            let (stream, applied) = peer.inbound;
            self.send(id, Payload::PushAck { stream, applied });
        }
    }

    pub(crate) fn on_push_ack(&mut self, from: InstanceId, (stream, applied): (u64, u64), clock: Hlc) {
        let (start, last, now_ms) = (self.start, self.outbox.last(), self.now.mono_ms);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(own) = peer.stream.as_mut().filter(|own| stream == start && applied > own.acked && applied <= last) else {
            return;
        };
        own.acked = applied;
        own.sent = own.sent.max(applied);
        own.since_ms = now_ms;
        while own.inflight.pop_front_if(|last| *last <= applied).is_some() {}
        if peer.confirmed.len() >= MAX_CONFIRMED {
            peer.confirmed.pop_front();
        }
        peer.confirmed.push_back((self.outbox.complete_to(applied).unwrap_or_else(|| self.clock.last()), clock));
        self.trim_outbox();
    }

    pub(crate) fn trim_outbox(&mut self) {
        let streams = self.peers.values().filter_map(|peer| peer.stream.as_ref());
        let upto = streams.map(|stream| stream.acked).min().unwrap_or_else(|| self.outbox.last());
        self.outbox.trim(upto);
    }

    /// Sends nobody what is in the outbox: others are compared with instead, and, if they are to be sent what is written later,
    /// from then on.
    pub(crate) fn end_streams(&mut self) {
        let now_ms = self.now.mono_ms;
        for peer in self.peers.values_mut() {
            peer.stream = None;
            peer.is_synced = false;
            peer.sync_due_ms = Some(now_ms);
        }
        self.trim_outbox();
        self.release.all(self.outbox.last());
    }

    /// Begins to send a peer what is written from now on.
    pub(crate) fn begin_stream(&mut self, id: InstanceId) {
        if self.options.batching().is_none() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.stream.is_none()) {
            peer.stream = Some(Stream::after(self.outbox.seal()));
            // A cache may lack what came before.
            peer.is_synced = self.options.cache.is_some();
        }
    }

    /// Answers writes that have what they wait for, or that waited long enough, or in vain.
    pub(crate) fn answer_writes(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for write in waiting {
            if !self.keeping.is_at(write.index) {
                self.waiting.push(write);
                continue;
            }
            let replicated = self.acks_of(write.place, |_| true);
            let is_met = match write.ack {
                Ack::Local => true,
                Ack::Others(wanted) => replicated >= wanted,
                Ack::AllUp => {
                    let up = self.peers.values().filter(|peer| peer.state == MemberState::Up).count() as u32;
                    self.acks_of(write.place, |state| state == MemberState::Up) >= up
                }
            };
            if is_met || self.now.mono_ms >= write.deadline_ms || !self.may_reach_more(write.place, write.ack) {
                let Waiting { token, version, replaced, session, .. } = write;
                let session = session.map(|session| Box::new(self.seen_in(session, Some(version))));
                self.reply(token, Answer::Written { version, replaced, replicated, is_met, session });
            } else {
                self.waiting.push(write);
            }
        }
    }

    /// How many peers in such a state have a place of the outbox.
    fn acks_of(&self, place: u64, is_asked: impl Fn(MemberState) -> bool) -> u32 {
        let has = |stream: &Stream| stream.has(place);
        let peers = self.peers.values().filter(|peer| is_asked(peer.state));
        peers.filter(|peer| peer.stream.as_ref().is_some_and(has)).count() as u32
    }
}
