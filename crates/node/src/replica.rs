//! One group's replica: raft-rs, its log, the shard, and what waits for them.
//!
//! The duties towards raft-rs (its `Ready` contract), held by [`Replica::handle_ready`]:
//!
//! 1. A leader's messages may leave at once; all others leave only after everything handed out before them is durable.
//! 2. Entries can be read back from the storage before the ready is advanced.
//! 3. Term and vote are durable before any answer that follows from them; a change of the commit index alone costs no sync.
//! 4. Readies become durable in order; raft-rs is told so in order.
//! 5. A snapshot is in place (its file whole and durable) before its ready is persisted, and loaded before entries after it
//!    are applied.
//! 6. Committed entries are applied once, in order.
//! 7. Only a leader proposes; what was proposed and whose fate is unknown is not proposed again without its request id.
//! 8. A node that starts uses the membership at its logged commit index (raft-rs changes it when the entry is applied, not when
//!    it is appended). So the commit index is logged with every write: whoever has a membership change in its log has logged that
//!    the one before is committed, is behind by one change at most, and shares a voter with every later majority. Without it a
//!    founder that comes back alone would take itself for the only voter.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Engine, Place, StoreBehind};
use quorate_keyspace::{Applied, EntryHeader, RequestId, Shard, ShardHeader, encode_entry};
use quorate_log::{Disk, GroupId, HardState, LogId, LogIndex, Record, Term};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::prelude::ConfChangeType;
use raft::{RawNode, Ready, SnapshotStatus, StateRole};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::convert::{
    conf_change, decode_conf_change, decode_membership, encode_conf_change, encode_membership, entry_from_log, entry_to_log,
};
use crate::election::MAX_RAFT_DRAW;
use crate::files::{Files, LocalSnapshot};
use crate::housekeeping::{House, LogClock};
use crate::io::Monotonic;
use crate::jobs::Job;
use crate::lease_asks::Questions;
use crate::leases::Leases;
use crate::limits::{Config, MAX_APPLY_BYTES, MAX_INFLIGHT_MESSAGES, MAX_UNCOMMITTED_BYTES};
use crate::log_time::LogTime;
use crate::machine::{Machine, ShardWork, Work};
use crate::moving::{Moves, next_work};
use crate::outbox::{Done, Outbox, Proposal};
use crate::reads::{Read, Reader, Reads};
use crate::reopening::Reopening;
use crate::snapshot::SnapshotFile;
use crate::start::ReplicaState;
use crate::status::ReplicaStatus;
use crate::storage::GroupLog;

/// What identifies a replica.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaSpec {
    pub(crate) group: GroupId,
    pub(crate) id: u64,
    pub(crate) keyspace: String,
}

/// One group's replica.
///
/// *Invariants*: `awaiting` is in the order of tickets and ready numbers; raft-rs' applied index is what the shard has applied,
/// or had, before its content was lost or its engine given up.
pub(crate) struct Replica<D: Disk> {
    pub(crate) spec: ReplicaSpec,
    /// As the log has it.
    pub(crate) state: ReplicaState,
    pub(crate) raw: RawNode<GroupLog<D>>,
    pub(crate) machine: Machine,
    pub(crate) moves: Moves,
    /// The log says that the snapshot which is awaited shall be loaded.
    pub(crate) loadable: bool,
    pub(crate) reads: Reads,
    pub(crate) proposals: Vec<Proposal>,
    asked_by: BTreeMap<RequestId, u64>,
    awaiting: VecDeque<Awaiting>,
    /// Term and vote as they were last handed to the log.
    logged_vote: (u64, u64),
    pub(crate) election_rng: SmallRng,
    pub(crate) election_ticks: usize,
    /// For so many ticks it stands for election again and again: see [`Replica::found`].
    pub(crate) founding_ticks: usize,
    pub(crate) clock: LogClock,
    pub(crate) house: House,
    pub(crate) leases: Leases,
    pub(crate) questions: Questions,
    pub(crate) log_time: Arc<LogTime>,
    pub(crate) files: Files,
    /// Replicas that shall go, as the catalog says: none of them is a successor.
    pub(crate) leaving: Vec<u64>,
    /// The leader and term last told to the node.
    seen_leader: (u64, u64),
    /// It saw, since it started, all that was committed before.
    is_confirmed: bool,
    /// What [`Machine::is_whole`] said when the node last heard of it.
    is_whole: bool,
    pub(crate) reopening: Reopening,
    pub(crate) counters: Counters,
}

/// What became durable together with a ticket.
#[derive(Debug)]
struct Awaiting {
    ticket: u64,
    number: u64,
    /// The term or the vote changed with it.
    has_vote: bool,
    last_entry: Option<LogId>,
    snapshot: Option<LogId>,
    messages: Vec<Message>,
}

/// What it did since the process started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    entries: u64,
    commands: u64,
    pub(crate) cut: u64,
    sent: u64,
    loaded: u64,
    pub(crate) reopened: u64,
}

impl<D: Disk> fmt::Debug for Replica<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raft = &self.raw.raft;
        f.debug_struct("Replica")
            .field("spec", &self.spec)
            .field("role", &role_name(raft.state))
            .field("term", &raft.term)
            .field("shard", self.machine.header())
            .finish_non_exhaustive()
    }
}

impl<D: Disk> Replica<D> {
    /// A replica over its log and a shard that has applied what the log says is committed.
    pub(crate) fn new(
        (group, state): (GroupId, ReplicaState),
        mut log: GroupLog<D>,
        machine: Machine,
        files: Files,
        (config, seed, origin): (&Config, u64, u64),
    ) -> raft::Result<Self> {
        let spec = ReplicaSpec { group, id: state.replica, keyspace: state.keyspace.clone() };
        let conf_state = decode_membership(machine.header().membership.clone()).unwrap_or_default();
        let applied = machine.header().applied_index;
        log.set_initial(log.initial_commit().max(applied), conf_state);
        if let Some(latest) = &files.latest {
            log.set_snapshot(latest.file.at, decode_membership(latest.membership.clone()).unwrap_or_default());
        }
        let raft_config = raft::Config {
            id: spec.id,
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            min_election_tick: config.election_ticks,
            max_election_tick: MAX_RAFT_DRAW,
            applied,
            max_size_per_msg: config.max_entry_bytes as u64,
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_APPLY_BYTES,
            check_quorum: true,
            pre_vote: true,
            // Messages are put together by size, one frame per peer and poll; raft-rs would merge them without any limit.
            batch_append: false,
            ..raft::Config::default()
        };
        let raw = RawNode::new(&raft_config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
        let logged_vote = (raw.raft.term, raw.raft.vote);
        let mut replica = Self {
            raw,
            logged_vote,
            moves: Moves::default(),
            loadable: false,
            reads: Reads::new(origin),
            proposals: Vec::new(),
            asked_by: BTreeMap::new(),
            awaiting: VecDeque::new(),
            election_rng: SmallRng::seed_from_u64(seed ^ spec.id.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            election_ticks: config.election_ticks,
            founding_ticks: 0,
            clock: LogClock::default(),
            house: House::default(),
            leases: Leases::default(),
            questions: Questions::default(),
            log_time: Arc::default(),
            files,
            leaving: Vec::new(),
            seen_leader: (0, 0),
            is_confirmed: false,
            is_whole: machine.is_whole(),
            reopening: if machine.is_closed() { Reopening::after_pause() } else { Reopening::default() },
            machine,
            counters: Counters::default(),
            state,
            spec,
        };
        replica.reads.add(Read { reader: Reader::Itself, deadline: Monotonic(u64::MAX) });
        if replica.raw.raft.prs().conf().to_conf_state().voters == [replica.spec.id] && replica.is_whole {
            // Nobody else could lead: there is nothing to wait for.
            replica.raw.campaign()?;
        }
        replica.draw_election_timeout();
        Ok(replica)
    }

    pub(crate) fn header(&self) -> &ShardHeader {
        self.machine.header()
    }

    /// Where its engine is.
    pub(crate) fn place(&self) -> Place {
        Place { group: self.spec.group.0, build: self.state.build }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn engine(&self) -> Option<&Arc<dyn Engine>> {
        self.machine.engine()
    }

    /// Whether it leads, and a store behind its engine has so much to get yet that no more is to be proposed.
    pub(crate) fn leads_too_fast(&self) -> bool {
        let behind = || self.engine().and_then(|engine| engine.behind()).map(StoreBehind::stats);
        self.is_leader() && behind().is_some_and(|behind| behind.is_full())
    }

    pub(crate) fn log(&self) -> &GroupLog<D> {
        self.raw.store()
    }

    pub(crate) fn raft(&self) -> &raft::Raft<GroupLog<D>> {
        &self.raw.raft
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Voters and learners of the applied configuration.
    pub(crate) fn members(&self) -> Vec<u64> {
        let state = self.raw.raft.prs().conf().to_conf_state();
        state.voters.into_iter().chain(state.learners).collect()
    }

    /// The leading replica; 0 if none is known.
    pub(crate) fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    /// Whether leadership is being handed over: nothing is proposed until it is, or is not.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Whether so much waits to be applied that no more is taken in.
    pub(crate) fn has_full_backlog(&self) -> bool {
        self.machine.has_full_backlog()
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.machine.is_loading()
    }

    /// Whether it has seen, since it started, all that was committed before.
    pub(crate) fn was_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// Whether the leader or the term changed since this was last asked.
    pub(crate) fn take_leader_change(&mut self, now: Monotonic) -> bool {
        let present = (self.leader(), self.raw.raft.term);
        let is_changed = std::mem::replace(&mut self.seen_leader, present) != present;
        if is_changed {
            self.on_new_leader(now);
        }
        is_changed
    }

    /// Whether all that was handed out is durable: what is said now may leave at once.
    pub(crate) fn is_durable(&self) -> bool {
        self.awaiting.is_empty()
    }

    /// Whether there is something that only the next ticks bring forward.
    pub(crate) fn is_restless(&self) -> bool {
        let waits = self.reads.len() > 0 || !self.proposals.is_empty() || self.is_handing_over();
        let has_work = self.files.is_wanted || !self.files.old.is_empty() || !self.moves.is_at_rest();
        waits || has_work || self.is_loading() || self.machine.is_lost() || self.reopening.is_to_come()
    }

    /// Takes in a peer's message.
    pub(crate) fn step(&mut self, message: Message) {
        if !self.is_acceptable(&message) {
            return;
        }
        // What raft-rs refuses (an answer from a replica that is gone) is no event for us.
        let _ = self.raw.step(message);
        self.draw_election_timeout();
    }

    /// Whether raft-rs can be given the message. It takes for granted what its own peers never break, and panics otherwise.
    fn is_acceptable(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let kind = message.get_msg_type();
        let last = raft.raft_log.last_index();
        let is_asking_leader = matches!(kind, MessageType::MsgReadIndex | MessageType::MsgTransferLeader);
        let has_sane_sender = message.from != 0 && (message.from != raft.id || kind == MessageType::MsgTransferLeader);
        // raft-rs sends a read index without a term, and everything else with one.
        let has_sane_term = (message.term == 0) == (kind == MessageType::MsgReadIndex) && message.term < u64::MAX / 2;
        let fits = match kind {
            MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => message.get_entries().len() == 1,
            MessageType::MsgHeartbeat => message.commit <= last,
            MessageType::MsgAppend => self.is_appendable(message),
            MessageType::MsgAppendResponse => message.index <= last || message.reject,
            // It would campaign: see `tick`.
            MessageType::MsgTimeoutNow => !self.is_loading(),
            _ => true,
        };
        has_sane_sender && has_sane_term && fits && (!is_asking_leader || self.is_leader()) && message.request_snapshot == 0
    }

    /// Entries are consecutive, their terms ascend, none is of a later term than the message, and none that is committed would
    /// be replaced by another.
    fn is_appendable(&self, message: &Message) -> bool {
        let log = &self.raw.raft.raft_log;
        let purged = self.log().purged().index.0;
        // raft-rs takes the term of what lies beyond its log for 0: it must not match.
        if (message.index == 0) != (message.log_term == 0) {
            return false;
        }
        let mut previous = (message.index, message.log_term);
        for entry in message.get_entries() {
            let is_next =
                previous.0.checked_add(1) == Some(entry.index) && entry.term >= previous.1 && entry.term <= message.term;
            // Up to the purged index nothing is known, and raft-rs does not look.
            let is_known = entry.index > purged && entry.index <= log.committed;
            // What the log keeps of it must read back as the same entry, or replicas would differ after a restart.
            let is_lasting = entry_from_log(entry_to_log(entry)) == *entry;
            if !is_next || !is_lasting || (is_known && log.term(entry.index).is_ok_and(|term| term != entry.term)) {
                return false;
            }
            previous = (entry.index, entry.term);
        }
        true
    }

    pub(crate) fn report_unreachable(&mut self, replica: u64) {
        self.raw.report_unreachable(replica);
    }

    pub(crate) fn report_snapshot(&mut self, replica: u64, is_sent: bool) {
        self.counters.sent += u64::from(is_sent);
        self.raw.report_snapshot(replica, if is_sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    pub(crate) fn transfer_leader(&mut self, replica: u64) {
        self.raw.transfer_leader(replica);
        self.draw_election_timeout();
    }

    /// The voter besides this one whose log is furthest, among those heard of lately.
    pub(crate) fn best_successor(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        let state = raft.prs().conf().to_conf_state();
        let others = state.voters.iter().filter(|id| **id != raft.id);
        let staying = others.filter(|id| !self.leaving.contains(id));
        let alive =
            staying.filter_map(|id| raft.prs().get(*id).filter(|progress| progress.recent_active).map(|p| (p.matched, *id)));
        alive.max().map(|(_, id)| id)
    }

    /// Takes a command to be proposed at the end of the poll.
    pub(crate) fn propose(&mut self, proposal: Proposal) {
        self.proposals.push(proposal);
    }

    /// Proposes what waits, many commands to an entry. Returns what raft-rs did not take: it entered no log.
    pub(crate) fn pack(&mut self, now: Monotonic, max_entry_bytes: usize) -> Vec<Proposal> {
        let mut refused = Vec::new();
        let mut waiting = std::mem::take(&mut self.proposals).into_iter().peekable();
        while let Some(first) = waiting.next() {
            let mut size_bytes = first.command.len();
            let mut packed = vec![first];
            while let Some(next) = waiting.next_if(|next| size_bytes + next.command.len() <= max_entry_bytes) {
                size_bytes += next.command.len();
                packed.push(next);
            }
            let header = EntryHeader { log_time_ms: self.clock.at(now) };
            let data = encode_entry(header, packed.iter().map(|proposal| &proposal.command));
            if self.propose_entry(data) {
                let forwarded = packed.iter().filter_map(|proposal| proposal.asked_by.map(|node| (proposal.id, node)));
                self.asked_by.extend(forwarded);
            } else {
                refused.append(&mut packed);
            }
        }
        self.house.on_packed(self.raw.raft.raft_log.last_index(), refused.is_empty());
        refused
    }

    fn propose_entry(&mut self, data: Bytes) -> bool {
        if !self.is_leader() || self.has_full_backlog() {
            return false;
        }
        let entry = Entry { data, ..Default::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(vec![entry].into());
        self.raw.step(message).is_ok()
    }

    /// Proposes a change of one member, unless another is on its way.
    pub(crate) fn propose_member(&mut self, kind: ConfChangeType, replica: u64) {
        if self.raw.raft.has_pending_conf() || !self.raw.raft.commit_to_current_term() {
            return;
        }
        let context = encode_conf_change(kind, replica).to_vec();
        // Refused while leadership is handed over: tried again at the next tick.
        let _ = self.raw.propose_conf_change(context, conf_change(kind, replica));
    }

    /// Begins a read-index round for the reads that wait, if there is a place. Returns whether it did.
    pub(crate) fn begin_reads(&mut self, now: Monotonic) -> bool {
        // raft-rs drops what it cannot serve yet, and who dropped it does not say so.
        if !self.reads.has_waiting() || self.leader() == 0 || !self.raw.raft.commit_to_current_term() {
            return false;
        }
        let context = self.reads.begin_round(now);
        if let Some(context) = &context {
            self.raw.read_index(context.to_vec());
        }
        context.is_some()
    }

    /// Asks again for the confirmation of reads that wait for it since `patience_ms` or longer.
    pub(crate) fn repeat_reads(&mut self, now: Monotonic, patience_ms: u64) {
        if self.leader() == 0 || !self.raw.raft.commit_to_current_term() {
            return;
        }
        if let Some(context) = self.reads.overdue(now, patience_ms) {
            self.raw.read_index(context.to_vec());
        }
    }

    /// Carries out everything raft-rs has ready, under one ticket.
    pub(crate) fn handle_ready(&mut self, ticket: u64, out: &mut Outbox) {
        while self.raw.has_ready() && out.broken.is_none() {
            let ready = self.raw.ready();
            self.handle_one_ready(ready, ticket, out);
        }
        self.files.is_wanted |= self.raw.mut_store().wants_snapshot.take();
        if self.files.is_wanted {
            self.cut_snapshot(out);
        }
    }

    fn handle_one_ready(&mut self, mut ready: Ready, ticket: u64, out: &mut Outbox) {
        let group = self.spec.group;
        let mut messages = ready.take_messages();
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        let snapshot = self.accept_snapshot(&ready, out);
        let last_entry = self.append_entries(&ready, out);
        let mut has_vote = false;
        if ready.must_sync() {
            // The commit index goes along with every write, changed or not: see duty 8.
            let state = self.hard_state();
            let vote = (state.term.0, state.vote);
            has_vote = std::mem::replace(&mut self.logged_vote, vote) != vote;
            out.records.push((group, Record::HardState(state)));
        }
        // An only voter leads the moment it campaigns: raft-rs lets its messages go before its term is durable, and after a crash
        // it would lead in the same term again, with other entries.
        if !has_vote && !self.awaiting.iter().any(|awaiting| awaiting.has_vote) {
            out.messages.extend(messages.drain(..).map(|message| (group, message)));
        }
        messages.extend(ready.take_persisted_messages());
        let committed = ready.take_committed_entries();
        let number = ready.number();
        let ticket = if ready.must_sync() { Some(ticket) } else { self.awaiting.back().map(|awaiting| awaiting.ticket) };
        self.raw.advance_append_async(ready);
        match ticket {
            Some(ticket) => self.awaiting.push_back(Awaiting { ticket, number, has_vote, last_entry, snapshot, messages }),
            None => {
                out.messages.extend(messages.into_iter().map(|message| (group, message)));
                self.raw.on_persist_ready(number);
            }
        }
        self.apply(committed, out);
    }

    fn hard_state(&self) -> HardState {
        let state = self.raw.raft.hard_state();
        HardState { term: Term(state.term), vote: state.vote, commit: LogIndex(state.commit) }
    }

    fn accept_snapshot(&mut self, ready: &Ready, out: &mut Outbox) -> Option<LogId> {
        if ready.snapshot().is_empty() {
            return None;
        }
        let metadata = ready.snapshot().get_metadata();
        let at = LogId { term: Term(metadata.term), index: LogIndex(metadata.index) };
        self.raw.mut_store().reset(at);
        self.raw.mut_store().set_snapshot(at, metadata.get_conf_state().clone());
        // With the reset, in one batch: if the engine is lost, only this tells who votes.
        self.state.membership = encode_membership(metadata.get_conf_state());
        out.records.push((self.spec.group, Record::State(self.state.to_bytes())));
        out.records.push((self.spec.group, Record::Reset(at)));
        let file = SnapshotFile { group: self.spec.group, at };
        // Entries after the snapshot wait until it is loaded, also while the log is not durable yet.
        self.abort_move("a snapshot came from the leader".to_owned(), out);
        self.machine.await_snapshot(file);
        Some(at)
    }

    fn append_entries(&mut self, ready: &Ready, out: &mut Outbox) -> Option<LogId> {
        let last = ready.entries().last()?;
        let entries = ready.entries().iter().map(entry_to_log).collect();
        out.records.push((self.spec.group, Record::Append(entries)));
        self.raw.mut_store().append(ready.entries());
        Some(LogId { term: Term(last.term), index: LogIndex(last.index) })
    }

    /// Everything up to the ticket is durable: lets go what waited for it.
    pub(crate) fn on_durable(&mut self, ticket: u64, out: &mut Outbox) {
        while let Some(awaiting) = self.awaiting.pop_front_if(|awaiting| awaiting.ticket <= ticket) {
            let group = self.spec.group;
            out.messages.extend(awaiting.messages.into_iter().map(|message| (group, message)));
            self.raw.on_persist_ready(awaiting.number);
            if let Some(entry) = awaiting.last_entry {
                self.raw.mut_store().on_durable(entry);
            }
            if awaiting.snapshot.is_some() {
                self.loadable = true;
                self.maybe_load(out);
            }
        }
    }

    /// Loads the snapshot that is awaited, once the log says that it is, and no job writes to the engine any more.
    pub(crate) fn maybe_load(&mut self, out: &mut Outbox) {
        let Some((file, engine)) = self.machine.awaited().zip(self.engine().map(Arc::clone)) else {
            return;
        };
        if std::mem::take(&mut self.loadable) {
            out.jobs.push(Job::Load { file, engine });
        }
    }

    /// A snapshot was loaded into the engine: the shard is what its file says.
    pub(crate) fn on_loaded(&mut self, file: SnapshotFile, state: Bytes, size_bytes: u64, out: &mut Outbox) {
        let Some(engine) = self.engine().map(Arc::clone) else {
            // It was given up meanwhile.
            self.loadable = true;
            return;
        };
        let shard = match Shard::restore(engine, state) {
            Ok(shard) => shard,
            Err(error) => return self.break_down(&error, out),
        };
        let membership = shard.header().membership.clone();
        if !self.machine.replace(file, shard) {
            return;
        }
        self.counters.loaded += 1;
        out.changes.push((self.spec.group, self.header().revision, Vec::new()));
        self.files.flushed = Some((file.at, membership.clone()));
        self.files.take_in(LocalSnapshot { file, size_bytes, membership });
        self.go_on(out);
    }

    fn apply(&mut self, committed: Vec<Entry>, out: &mut Outbox) {
        self.machine.take_in(committed);
        self.go_on(out);
    }

    /// Applies what waits, as far as the shard is here.
    pub(crate) fn go_on(&mut self, out: &mut Outbox) {
        if let Some((low, high)) = self.machine.replay() {
            self.replay(low, high, out);
        }
        while out.broken.is_none()
            && let Some(work) = self.machine.next_work()
        {
            match work {
                Work::Run(entries) => {
                    self.files.log_bytes += entries.iter().map(|(_, _, payload)| payload.len() as u64).sum::<u64>();
                    self.counters.entries += entries.len() as u64;
                    self.carry_out(ShardWork::Entries(entries), out);
                }
                Work::Member(entry) => self.apply_member(&entry, out),
            }
        }
        self.on_applied_index();
        let is_whole = self.machine.is_whole();
        out.has_switched |= std::mem::replace(&mut self.is_whole, is_whole) != is_whole;
        let readable = if is_whole { self.header().applied_index } else { 0 };
        for read in self.reads.take_ready(readable) {
            match read.reader {
                Reader::Itself => self.is_confirmed = true,
                Reader::Client(token) => out.ready_reads.push(token),
                Reader::Leases(number) => out.ready_questions.push((self.spec.group, number)),
            }
        }
    }

    fn on_applied_index(&mut self) {
        let applied = self.machine.applied_of_taken();
        if applied > self.raw.raft.raft_log.applied && !self.is_loading() {
            self.raw.advance_apply_to(applied);
        }
    }

    /// Applies again what the lost engine had applied after the snapshot that made up for it: by jobs, also where the engine does
    /// not stall, for it may be as much as the log holds.
    fn replay(&mut self, low: u64, high: u64, out: &mut Outbox) {
        let Some(shard) = self.machine.shard() else { return };
        let entries = self.log().replay(low, high, MAX_APPLY_BYTES).map_err(|error| error.to_string());
        match entries.and_then(|entries| next_work(entries, shard)) {
            Ok(work) => self.hand_out(work, out),
            Err(why) => self.break_down(&why, out),
        }
    }

    fn carry_out(&mut self, work: ShardWork, out: &mut Outbox) {
        if self.machine.may_stall() {
            return self.hand_out(work, out);
        }
        match self.machine.apply(work) {
            Ok(applied) => self.on_outcomes(applied, out),
            Err(error) => self.break_down(&error, out),
        }
    }

    fn hand_out(&mut self, work: ShardWork, out: &mut Outbox) {
        let group = self.spec.group;
        out.jobs.push(Job::Apply { group, shard: self.machine.lend(), work });
    }

    /// A job has applied what it was given.
    pub(crate) fn on_applied(&mut self, shard: Box<Shard>, applied: Applied, out: &mut Outbox) {
        if !self.machine.take_back(shard) {
            return;
        }
        self.on_outcomes(applied, out);
        self.maybe_load(out);
        self.go_on_cutting(out);
        self.go_on(out);
        self.after_apply(out);
    }

    fn on_outcomes(&mut self, applied: Applied, out: &mut Outbox) {
        self.counters.commands += applied.outcomes.len() as u64;
        if self.is_leader() {
            self.leases.hear(applied.leases);
        }
        let group = self.spec.group;
        if !applied.changes.is_empty() {
            out.changes.push((group, self.header().revision, applied.changes));
        }
        for (id, outcome) in applied.outcomes {
            let asked_by = self.asked_by.remove(&id);
            out.outcomes.push(Done { group, id, outcome, asked_by });
        }
    }

    fn apply_member(&mut self, entry: &Entry, out: &mut Outbox) {
        let Some(change) = decode_conf_change(entry.context.clone()) else {
            return self.break_down(&"the log holds a configuration change that this version does not know", out);
        };
        let membership = match self.raw.apply_conf_change(&change) {
            Ok(state) => encode_membership(&state),
            Err(error) => return self.break_down(&error, out),
        };
        if entry.index <= self.header().applied_index {
            // The snapshot that made up for a lost engine was newer: only raft-rs had to hear of this.
            return;
        }
        if self.is_leader() && self.raw.raft.prs().get(self.spec.id).is_none() {
            // It leads because it was elected before the entry that takes it out was committed. raft-rs would go on as leader,
            // and panic when it looks for its own progress.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.draw_election_timeout();
        }
        self.carry_out(ShardWork::Membership { index: entry.index, term: entry.term, membership }, out);
        out.records.push((self.spec.group, Record::HardState(self.hard_state())));
    }

    pub(crate) fn break_down(&self, why: &dyn fmt::Display, out: &mut Outbox) {
        out.broken = Some(format!("keyspace {}: {why}", self.spec.keyspace));
    }

    /// The leader or the term changed: the group's time runs on from where the log stands, and who waits for a proposal of
    /// the term before is told by its own replica.
    fn on_new_leader(&mut self, now: Monotonic) {
        self.asked_by.clear();
        self.clock = LogClock::new(self.header().log_time_ms, now);
        self.house = House::default();
        self.leases.begin_anew();
        self.questions.forget_all();
    }

    /// How it is; nodes are filled in by who knows which replica is where.
    pub(crate) fn status(&self) -> ReplicaStatus {
        let raft = &self.raw.raft;
        let header = self.header();
        ReplicaStatus {
            group: self.spec.group,
            keyspace: self.spec.keyspace.clone(),
            role: role_name(raft.state),
            term: raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: header.applied_index,
            first_index: self.log().purged().index.0 + 1,
            last_index: raft.raft_log.last_index(),
            revision: header.revision.0,
            data_bytes: header.data_bytes,
            history_bytes: header.history.bytes,
            compacted: header.history.begun.map_or(header.revision, |_| header.history.compacted).0,
            applied_entries: self.counters.entries,
            applied_commands: self.counters.commands,
            snapshots_cut: self.counters.cut,
            snapshots_sent: self.counters.sent,
            snapshots_loaded: self.counters.loaded,
            engine: self.state.engine.kind.clone(),
            moving: self.moves.status(header.applied_index),
            is_rebuilding: !self.machine.is_whole(),
            engines_reopened: self.counters.reopened,
            damage: self.files.damage.clone(),
            ..ReplicaStatus::default()
        }
    }
}

fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Leader => "leader",
        StateRole::Follower => "follower",
        StateRole::Candidate => "candidate",
        StateRole::PreCandidate => "pre_candidate",
    }
}
