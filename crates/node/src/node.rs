//! The loop of a node: inputs are taken in, every group that they touched carries out what it has ready, and what leaves is
//! put together, one frame per peer and lane, one write to the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use quorate_api::peer::{Forward, ForwardReply, Frame, Lane, RaftMessage, pack_messages};
use quorate_engine::Engines;
use quorate_keyspace::{LocalKeyspace, Revision, Shard, Write};
use quorate_log::{Disk, GroupId, Reader, Record};
use raft::eraftpb::{Message, MessageType};
use raft::prelude::ConfChangeType;

use crate::beats::Direction;
use crate::catalog::{Catalog, NodeState, ReplicaRole, SYSTEM_GROUP};
use crate::convert::{message_from_wire, message_to_wire};
use crate::eventual::Eventuals;
use crate::hosting::Retired;
use crate::housekeeping::{Dues, Steady};
use crate::io::{Answer, Effect, Input, Monotonic, PeerFrame, StopReason};
use crate::jobs::{Job, JobDone, JobResult};
use crate::lease_asks::LeaseAsks;
use crate::limits::{Config, PROMOTE_WITHIN_ENTRIES};
use crate::membership::{Step, next_step};
use crate::outbox::{Outbox, Proposal};
use crate::pending::Pending;
use crate::replica::Replica;
use crate::resting::Resting;
use crate::start::Identity;
use crate::status::{BeatCounts, Hosted, NodeStatus, ReplicaStatus};
use crate::transfer::Transfers;

/// Raft messages are put into frames of about this size at most; a larger one goes alone.
const MAX_RAFT_FRAME_BYTES: usize = 4 << 20;

/// A leader whose log write is not durable after this long hands over: raft-rs commits only what the leader itself has.
const SLOW_DISK_MS: u64 = 2_000;

/// A node that ends waits this long for others to take over what it leads.
const HAND_OVER_MS: u64 = 3_000;

/// One node.
///
/// *Life cycle*: [`Node::found`] or [`Node::join`] once in the life of a data folder, [`Node::open`] at every start, then
/// [`Node::poll`] until [`Effect::Stop`].
///
/// *Invariants*: all replicas share one log and one sequence of tickets; a token is answered once; frames of an older
/// connection, or of an older start of a peer, are not looked at.
pub struct Node<D: Disk> {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) log: Reader<D>,
    pub(crate) files: Arc<D>,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) seed: u64,
    pub(crate) now: Monotonic,
    pub(crate) steady: Steady,
    pub(crate) dues: Dues,
    pub(crate) next_tick: Monotonic,
    pub(crate) replicas: BTreeMap<u64, Replica<D>>,
    /// Groups that may have something ready.
    pub(crate) dirty: BTreeSet<u64>,
    /// Groups for which the next tick may have more to do than to let time pass.
    pub(crate) busy: BTreeSet<u64>,
    /// Groups that do not rest.
    pub(crate) awake: BTreeSet<u64>,
    /// Groups that do.
    pub(crate) resting: BTreeMap<u64, Resting>,
    /// How the replicas were at the last tick.
    pub(crate) statuses: BTreeMap<u64, Arc<ReplicaStatus>>,
    /// The same, as it was told.
    pub(crate) told: Arc<Vec<Arc<ReplicaStatus>>>,
    pub(crate) beat_counts: BeatCounts,
    pub(crate) catalog: Arc<Catalog>,
    /// The system keyspace's revision that the catalog was read at.
    pub(crate) catalog_revision: Option<u64>,
    pub(crate) hosted: Arc<Hosted>,
    /// Which node a replica is on, by group and replica.
    pub(crate) routes: BTreeMap<(u64, u64), u64>,
    pub(crate) links: Links,
    pub(crate) pending: Pending,
    pub(crate) forwards: BTreeMap<u64, Vec<Forward>>,
    pub(crate) forward_replies: BTreeMap<u64, Vec<ForwardReply>>,
    pub(crate) lease_asks: LeaseAsks,
    pub(crate) leader_waits: Vec<LeaderWait>,
    pub(crate) transfers: Transfers,
    /// What is removed from the disk once the log says that it serves no more.
    pub(crate) retired: Vec<Retired>,
    /// Keyspaces of this node alone, by the group that names their place.
    pub(crate) locals: BTreeMap<u64, Arc<LocalKeyspace>>,
    /// Replicas that take writes on their own.
    pub(crate) eventuals: Eventuals,
    /// The change of the catalog that this node asked for last: at which revision of it, and when.
    pub(crate) catalog_change: Option<(Revision, Monotonic)>,
    pub(crate) next_ticket: u64,
    /// What was handed to the log and is not durable yet.
    pub(crate) unsynced: VecDeque<Unsynced>,
    pub(crate) is_disk_full: bool,
    /// Since when what is led is handed over, before the end.
    pub(crate) draining_since: Option<Monotonic>,
    pub(crate) stopping: Option<Stopping>,
    /// What the groups want done; turned into effects once per round, so that all groups share messages and log writes.
    pub(crate) out: Outbox,
    pub(crate) effects: Vec<Effect>,
}

/// Somebody waits for another leader.
#[derive(Debug)]
pub(crate) struct LeaderWait {
    pub(crate) token: u64,
    pub(crate) group: u64,
    pub(crate) from: u64,
    pub(crate) deadline: Monotonic,
}

/// What was handed to the log under one ticket.
#[derive(Debug)]
pub(crate) struct Unsynced {
    ticket: u64,
    since: Monotonic,
    /// Whose it is.
    groups: Vec<GroupId>,
}

/// The node hands over what it leads, and ends.
#[derive(Debug)]
pub(crate) struct Stopping {
    since: Monotonic,
    reason: StopReason,
}

/// The newest connection of each peer and lane.
#[derive(Debug, Default)]
pub(crate) struct Links {
    newest: BTreeMap<(u64, Lane), (u64, u64)>,
    incarnations: BTreeMap<u64, u64>,
}

impl Links {
    /// Whether a frame is of the newest start and connection that were seen of its sender.
    fn is_current(&mut self, frame: &PeerFrame) -> bool {
        let incarnation = self.incarnations.entry(frame.from).or_default();
        if frame.incarnation < *incarnation {
            return false;
        }
        *incarnation = frame.incarnation;
        let newest = self.newest.entry((frame.from, frame.lane)).or_default();
        let this = (frame.incarnation, frame.connection);
        if this < *newest {
            return false;
        }
        *newest = this;
        true
    }
}

impl<D: Disk> fmt::Debug for Node<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("identity", &self.identity).field("replicas", &self.replicas).finish_non_exhaustive()
    }
}

impl<D: Disk> Node<D> {
    /// Takes inputs in, and says what is to be done, in order. Never blocks but for reads of old log entries.
    pub fn poll(&mut self, now: Monotonic, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) {
        assert!(now >= self.now, "time does not go back");
        self.steady.advance(now.since(self.now));
        self.now = now;
        for input in inputs.drain(..) {
            self.on_input(input);
        }
        if now >= self.next_tick {
            // After a pause one tick must do: many at once would only make a paused leader doubt its followers.
            self.next_tick = now.plus_ms(self.config.tick_ms);
            self.on_tick();
        }
        self.settle();
        self.settle_eventuals();
        effects.append(&mut self.effects);
    }

    /// When something is due; the shell polls then at the latest.
    pub fn next_due(&self) -> Monotonic {
        self.eventuals.next_due().map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// The catalog as this node has applied it.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What can be read here.
    pub fn hosted(&self) -> &Arc<Hosted> {
        &self.hosted
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node that leads a group, if known.
    pub fn leader_of(&self, group: GroupId) -> Option<u64> {
        let replica = self.replicas.get(&group.0)?;
        self.node_of(group.0, replica.leader())
    }

    /// The encoded state of a group's shard, for comparison between nodes.
    pub fn shard_state(&self, group: GroupId) -> Option<bytes::Bytes> {
        self.replicas.get(&group.0)?.machine().shard().map(Shard::state_bytes)
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Request(request) => self.on_request(request),
            Input::Frame(frame) => self.on_frame(frame),
            Input::Unreachable { node, lane } => self.on_unreachable(node, lane),
            Input::LogDurable { ticket } => self.on_durable(ticket),
            Input::JobDone(done) => self.on_job_done(done),
            Input::DiskFull(is_full) => self.is_disk_full = is_full,
            Input::Removed => self.stop(StopReason::Removed),
            // At once: what it would hand over it does not have.
            Input::Outdated(why) => self.effects.push(Effect::Stop(StopReason::Outdated(why))),
            Input::Drain => self.drain(),
            Input::ShutDown => self.stop(StopReason::ShutDown),
        }
    }

    fn on_frame(&mut self, frame: PeerFrame) {
        if !self.links.is_current(&frame) {
            return;
        }
        let from = frame.from;
        match frame.frame {
            Frame::Raft(messages) => messages.into_iter().for_each(|message| self.on_raft(from, message)),
            Frame::Forward(forwards) => forwards.into_iter().for_each(|forward| self.on_forward(from, forward)),
            Frame::ForwardReply(replies) => replies.into_iter().for_each(|reply| self.on_forward_reply(from, reply)),
            Frame::Snapshot(part) => self.on_snapshot_part(from, part),
            Frame::SnapshotAck(ack) => self.on_snapshot_ack(from, &ack),
            Frame::SnapshotAsk(ask) => self.on_snapshot_ask(from, &ask),
            Frame::Beats(beats) => self.on_beats(from, Direction::Out, beats),
            Frame::BeatAnswers(beats) => self.on_beats(from, Direction::Back, beats),
            Frame::LeaseAsks(asks) => asks.into_iter().for_each(|ask| self.on_lease_ask(from, ask)),
            Frame::LeaseAnswers(answers) => answers.into_iter().for_each(|answer| self.on_lease_answer(from, answer)),
            // The transport keeps it.
            Frame::LogEnd(_) => {}
            Frame::Eventual(messages) => messages.into_iter().for_each(|message| self.on_eventual_message(from, message)),
        }
    }

    fn on_raft(&mut self, from: u64, wire: RaftMessage) {
        let group = wire.group;
        self.wake(group);
        let Some(replica) = self.replicas.get_mut(&group).filter(|replica| replica.spec.id == wire.to) else {
            return;
        };
        let Some(message) = message_from_wire(wire) else {
            return;
        };
        // Its data would have come over the bulk lane.
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return;
        }
        // What cannot be stored is as good as not received; heartbeats still are.
        let is_stuck = self.is_disk_full || replica.has_full_backlog();
        if is_stuck && message.get_msg_type() == MessageType::MsgAppend && !message.get_entries().is_empty() {
            return;
        }
        if message.get_msg_type() != MessageType::MsgTransferLeader {
            self.routes.entry((group, message.from)).or_insert(from);
        }
        replica.step(message);
        self.dirty.insert(group);
    }

    fn on_unreachable(&mut self, node: u64, lane: Lane) {
        match lane {
            Lane::Control => {}
            Lane::Append => self.report_unreachable(node),
            Lane::Request => self.on_requests_lost(node),
            Lane::Bulk => self.on_copies_lost(node),
        }
    }

    fn report_unreachable(&mut self, node: u64) {
        let routes = &self.routes;
        let on_node = routes.iter().filter(|(_, on)| **on == node).map(|((group, replica), _)| (*group, *replica));
        for (group, replica) in on_node {
            if let Some(own) = self.replicas.get_mut(&group) {
                own.report_unreachable(replica);
            }
        }
    }

    fn on_durable(&mut self, ticket: u64) {
        while let Some(unsynced) = self.unsynced.pop_front_if(|oldest| oldest.ticket <= ticket) {
            for GroupId(group) in unsynced.groups {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_durable(ticket, &mut self.out);
                    self.dirty.insert(group);
                }
                self.on_eventual_durable(group, ticket);
            }
        }
        self.remove_retired(ticket);
    }

    fn on_job_done(&mut self, done: JobDone) {
        let group = done.group.0;
        self.dirty.insert(group);
        let out = &mut self.out;
        match done.result {
            JobResult::Cut { file, size_bytes } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_cut(file, size_bytes, out);
                    replica.maybe_purge(false, out);
                }
            }
            JobResult::Applied { applied } => match (self.replicas.get_mut(&group), applied) {
                (Some(replica), Ok((shard, applied))) => replica.on_applied(shard, applied, out),
                (Some(replica), Err(error)) => replica.on_engine_failed(&error, out),
                (None, _) => {}
            },
            JobResult::Reopened { place, shard } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_reopened(place, shard, out);
                }
            }
            JobResult::MovedOn { place, shard } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_moved_on(place, shard, out);
                }
            }
            JobResult::Flushed { place, durable_index } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_flushed(place, durable_index, out);
                    replica.maybe_purge(false, out);
                } else {
                    self.on_eventual_flushed(place, durable_index);
                }
            }
            JobResult::EventualOpened { place, replica } => self.on_eventual_opened(place, replica),
            JobResult::BatchApplied { place, start, applied } => self.on_batch_applied(place, start, applied),
            JobResult::LookedUp { place, start, found } => self.on_looked_up(place, start, found),
            JobResult::Loaded { file, state } => match (self.replicas.get_mut(&group), state) {
                (Some(replica), Ok((state, size_bytes))) => replica.on_loaded(file, state, size_bytes, out),
                (Some(replica), Err(error)) => replica.on_load_failed(error, out),
                (None, _) => {}
            },
            JobResult::LeasesRead { round, leases } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_leases_read(round, leases, self.steady.now(), out);
                }
                self.answer_confirmed(group);
            }
            JobResult::Read { transfer, offset, piece } => self.on_piece_read(transfer, offset, piece),
            JobResult::Staged { transfer, file, progress } => self.on_staged(transfer, file, &progress),
            JobResult::Removed | JobResult::Retired | JobResult::Fitted => {}
        }
    }

    /// Lets every dirty group carry out what it has ready, until none has anything.
    fn settle(&mut self) {
        loop {
            let mut new_leaders = Vec::new();
            while let Some(group) = self.dirty.pop_first() {
                if self.settle_group(group) {
                    new_leaders.push(group);
                }
            }
            self.flush();
            new_leaders.into_iter().for_each(|group| self.on_new_leader(group));
            self.refresh_catalog();
            if self.dirty.is_empty() {
                break;
            }
        }
        self.send_forwards();
        self.send_asks();
    }

    /// Returns whether the group has another leader, or another term.
    fn settle_group(&mut self, group: u64) -> bool {
        self.wake(group);
        let Some(replica) = self.replicas.get_mut(&group) else {
            return false;
        };
        self.busy.insert(group);
        let now = self.steady.now();
        let mut has_new_leader = replica.take_leader_change(now);
        replica.keep_house(now);
        let mut refused = replica.pack(now, self.config.max_entry_bytes);
        replica.begin_reads(self.now);
        replica.handle_ready(self.next_ticket, &mut self.out);
        // A round that was confirmed just now makes room for the next.
        if replica.begin_reads(self.now) {
            replica.handle_ready(self.next_ticket, &mut self.out);
        }
        // What was applied just now may have left more to do.
        if replica.keep_house(now) {
            refused.extend(replica.pack(now, self.config.max_entry_bytes));
            replica.handle_ready(self.next_ticket, &mut self.out);
        }
        has_new_leader |= replica.take_leader_change(now);
        replica.follow_leases(now, &mut self.out);
        replica.log_time.set(replica.header().log_time_ms, self.now);
        self.dues.set(group, replica.due());
        self.on_not_proposed(group, refused);
        has_new_leader
    }

    /// Turns what the groups want done into effects.
    fn flush(&mut self) {
        let out = std::mem::take(&mut self.out);
        if let Some(why) = out.broken {
            self.effects.push(Effect::Stop(StopReason::Broken(why)));
        }
        if out.has_switched {
            // Before any answer: a read that is confirmed now must find the engine that serves now.
            let catalog = Arc::clone(&self.catalog);
            self.publish_hosted(&catalog);
        }
        self.send_messages(out.messages);
        let ticket = self.next_ticket;
        self.retired
            .extend(out.retired.into_iter().map(|(place, engine)| Retired { ticket, job: Job::Retire { place, engine } }));
        self.persist(out.records);
        let told = out.changes.into_iter();
        self.effects.extend(told.map(|(group, revision, changes)| Effect::Changes {
            group,
            watch_epoch: None,
            revision,
            changes,
        }));
        for done in out.outcomes {
            self.on_applied(done);
        }
        for token in out.ready_reads {
            self.effects.push(Effect::Reply { token, answer: Answer::ReadReady });
        }
        for (group, number) in out.ready_questions {
            self.on_question_confirmed(group.0, number);
        }
        self.effects.extend(out.jobs.into_iter().map(Effect::Job));
    }

    /// Whether something of a group was handed to the log and is not durable yet.
    pub(crate) fn is_unsynced(&self, group: u64) -> bool {
        self.unsynced.iter().any(|unsynced| unsynced.groups.contains(&GroupId(group)))
    }

    pub(crate) fn persist(&mut self, records: Vec<(GroupId, Record)>) {
        if records.is_empty() {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let mut groups: Vec<GroupId> = records.iter().map(|(group, _)| *group).collect();
        groups.dedup();
        self.unsynced.push_back(Unsynced { ticket, since: self.now, groups });
        self.effects.push(Effect::Persist { ticket, records });
    }

    /// Puts messages together by peer and lane.
    fn send_messages(&mut self, messages: Vec<(GroupId, Message)>) {
        let mut by_lane: BTreeMap<(u64, Lane), Vec<RaftMessage>> = BTreeMap::new();
        for (group, message) in messages {
            let Some(node) = self.node_of(group.0, message.to) else {
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    self.report_snapshot(group, message.to, false);
                }
                continue;
            };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(group, node, message);
                continue;
            }
            let lane = lane_of(message.get_msg_type());
            by_lane.entry((node, lane)).or_default().push(message_to_wire(group.0, message));
        }
        for ((to, lane), batch) in by_lane {
            let frames = pack_messages(batch, MAX_RAFT_FRAME_BYTES).into_iter();
            self.effects.extend(frames.map(|frame| Effect::Send { to, lane, frame }));
        }
    }

    pub(crate) fn node_of(&self, group: u64, replica: u64) -> Option<u64> {
        self.routes.get(&(group, replica)).copied()
    }

    /// Reads the catalog again if the system keyspace changed, and starts the replicas that it gives this node.
    fn refresh_catalog(&mut self) {
        let Some(system) = self.replicas.get(&SYSTEM_GROUP).filter(|system| !system.is_loading()) else {
            return;
        };
        let revision = system.header().revision.0;
        if self.catalog_revision == Some(revision) {
            return;
        }
        let Some(engine) = system.engine() else { return };
        let catalog = match Catalog::read(engine.view().as_ref()) {
            Ok(catalog) => Arc::new(catalog),
            Err(error) => return self.effects.push(Effect::Stop(StopReason::Broken(error.to_string()))),
        };
        self.catalog_revision = Some(revision);
        if catalog.nodes.is_empty() {
            // This node has joined, and the catalog has not arrived yet: what it was told when it joined goes on.
            return;
        }
        self.catalog = Arc::clone(&catalog);
        for (_, _, shard) in catalog.shards() {
            self.routes.extend(shard.replicas.iter().map(|replica| ((shard.group, replica.replica), replica.node)));
        }
        self.routes.retain(|_, node| !catalog.is_removed(*node));
        self.retire_replicas(&catalog);
        self.follow_locals(&catalog);
        self.follow_eventuals(&catalog);
        self.alter_engines(&catalog);
        self.start_replicas(&catalog);
        for (_, keyspace, shard) in catalog.shards() {
            if let Some(replica) = self.replicas.get_mut(&shard.group) {
                if replica.leases.hold(keyspace.is_restoring) {
                    // A group at rest has to read them, too.
                    self.dirty.insert(shard.group);
                }
                let leaving = shard.replicas.iter().filter(|replica| replica.role == ReplicaRole::Leaving);
                replica.leaving = leaving.map(|replica| replica.replica).collect();
            }
        }
        self.wake_all();
        self.busy.extend(self.replicas.keys());
        self.publish_hosted(&catalog);
        self.effects.push(Effect::Catalog(Arc::clone(&catalog)));
        if catalog.is_removed(self.identity.node) {
            self.stop(StopReason::Removed);
        }
    }

    /// Takes each of these groups that this node leads one step towards its descriptor.
    pub(crate) fn drive_members(&mut self, busy: &BTreeSet<u64>) {
        let catalog = Arc::clone(&self.catalog);
        for (_, _, shard) in busy.iter().filter_map(|group| catalog.shard(*group)) {
            // The system keyspace last: only through it does a node that leads another group hear that it shall go.
            let is_needed = shard.group == SYSTEM_GROUP && self.has_leaving_elsewhere(&catalog);
            let Some(replica) = self.replicas.get_mut(&shard.group).filter(|replica| replica.is_leader()) else {
                continue;
            };
            let raft = replica.raft();
            let present = raft.prs().conf().to_conf_state();
            let is_caught_up = |id| {
                let progress = raft.prs().get(id);
                progress.is_some_and(|p| {
                    p.recent_active && p.matched + PROMOTE_WITHIN_ENTRIES >= raft.raft_log.committed && p.matched > 0
                })
            };
            let step = next_step(shard, &present, raft.id, is_caught_up);
            if step.is_none() && next_step(shard, &present, raft.id, |_| true).is_none() {
                continue;
            }
            self.busy.insert(shard.group);
            match step {
                None => continue,
                Some(Step::Remove(_)) if is_needed => continue,
                Some(Step::AddLearner(id)) => replica.propose_member(ConfChangeType::AddLearnerNode, id),
                Some(Step::Promote(id)) => replica.propose_member(ConfChangeType::AddNode, id),
                Some(Step::Remove(id)) => replica.propose_member(ConfChangeType::RemoveNode, id),
                Some(Step::HandOver) => {
                    if let Some(successor) = replica.best_successor() {
                        replica.transfer_leader(successor);
                    }
                }
            }
            self.dirty.insert(shard.group);
        }
    }

    /// Whether a node that shall go is still in a group besides the system keyspace's, as far as the replicas here know.
    fn has_leaving_elsewhere(&self, catalog: &Catalog) -> bool {
        let mut others = catalog.shards().filter(|(_, _, shard)| shard.group != SYSTEM_GROUP);
        others.any(|(_, _, shard)| {
            let mut leaving = shard.replicas.iter().filter(|replica| replica.role == ReplicaRole::Leaving);
            let members = self.replicas.get(&shard.group).map(Replica::members);
            leaving.any(|replica| members.as_ref().is_none_or(|members| members.contains(&replica.replica)))
        })
    }

    /// Takes nodes out of the catalog that shall go and are in no group any more. Done by the node that leads the system
    /// keyspace, which has a replica of every group.
    pub(crate) fn forget_nodes(&mut self) {
        if !self.replicas.get(&SYSTEM_GROUP).is_some_and(Replica::is_leader) {
            return;
        }
        let catalog = Arc::clone(&self.catalog);
        for (name, node) in catalog.nodes.iter().filter(|(_, node)| node.state == NodeState::Leaving) {
            let is_in_a_group = catalog.shards().any(|(_, _, shard)| {
                let own = shard.replica_on(node.id).map(|replica| replica.replica);
                let members = self.replicas.get(&shard.group).map(Replica::members);
                own.is_some_and(|own| members.is_none_or(|members| members.contains(&own)))
            });
            if !is_in_a_group && let Some(write) = catalog.plan_forget(name) {
                self.propose_system(&write);
            }
        }
    }

    /// Proposes a change of the catalog in this node's own name. Its guard makes a second one harmless.
    fn propose_system(&mut self, write: &Write) {
        if let Some(system) = self.replicas.get_mut(&SYSTEM_GROUP) {
            system.propose(Proposal::nameless(write));
            self.dirty.insert(SYSTEM_GROUP);
        }
    }

    pub(crate) fn hand_over_if_slow(&mut self) {
        if self.unsynced.front().is_some_and(|oldest| self.now.since(oldest.since) >= SLOW_DISK_MS) {
            self.hand_over_all();
        }
    }

    fn hand_over_all(&mut self) {
        for (group, replica) in self.replicas.iter_mut().filter(|(_, replica)| replica.is_leader()) {
            if let Some(successor) = replica.best_successor() {
                replica.transfer_leader(successor);
                self.dirty.insert(*group);
            }
        }
    }

    fn drain(&mut self) {
        if self.draining_since.is_none() {
            self.draining_since = Some(self.now);
            self.hand_over_all();
            self.flush_eventuals();
        }
    }

    /// Hands over again what came back, or what nobody took.
    pub(crate) fn go_on_draining(&mut self) {
        if self.draining_since.is_some() && self.stopping.is_none() {
            self.hand_over_all();
        }
    }

    fn leads_others(&self) -> bool {
        self.replicas.values().any(|replica| replica.is_leader() && replica.best_successor().is_some())
    }

    /// Whether nothing more is to be handed over before the end, or that took too long.
    fn is_handed_over(&self, since: Monotonic) -> bool {
        (!self.leads_others() && !self.flushes()) || self.now.since(since) >= HAND_OVER_MS
    }

    fn stop(&mut self, reason: StopReason) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { since: self.now, reason });
            self.hand_over_all();
            if self.draining_since.is_none() {
                self.flush_eventuals();
            }
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn finish_stopping(&mut self) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        if self.is_handed_over(stopping.since) {
            let reason = stopping.reason.clone();
            self.effects.push(Effect::Stop(reason));
        } else {
            self.hand_over_all();
        }
    }

    /// How the node is.
    pub fn status(&self) -> NodeStatus {
        let replicas = self.replicas.values().map(|replica| Arc::new(self.replica_status(replica))).collect();
        self.status_of(Arc::new(replicas), self.replicas.values().map(|replica| replica.reads.len()).sum())
    }

    pub(crate) fn status_of(&self, replicas: Arc<Vec<Arc<ReplicaStatus>>>, reads: usize) -> NodeStatus {
        NodeStatus {
            replicas,
            eventuals: self.eventuals.told(),
            pending_requests: self.pending.len() + self.lease_asks.len() + reads,
            unsynced_ms: self.unsynced.front().map_or(0, |oldest| self.now.since(oldest.since)),
            is_disk_full: self.is_disk_full,
            is_stopping: self.draining_since.is_some() || self.is_stopping(),
            is_drained: self.draining_since.is_some_and(|since| self.is_handed_over(since)),
            beats: self.beat_counts,
        }
    }

    pub(crate) fn replica_status(&self, replica: &Replica<D>) -> ReplicaStatus {
        let group = replica.spec.group.0;
        let raft = replica.raft();
        let conf = raft.prs().conf().to_conf_state();
        let nodes = |ids: &[u64]| {
            let mut nodes: Vec<u64> = ids.iter().filter_map(|id| self.node_of(group, *id)).collect();
            nodes.sort_unstable();
            nodes
        };
        let wanted = self.catalog.shard(group).and_then(|(_, _, shard)| shard.replica_on(self.identity.node));
        let is_in_role = wanted.is_some_and(|own| match own.role {
            ReplicaRole::Voter => conf.voters.contains(&own.replica),
            ReplicaRole::Learner => conf.learners.contains(&own.replica),
            ReplicaRole::Leaving => false,
        });
        let has_applied = replica.header().applied_index >= raft.raft_log.committed && !replica.is_loading();
        ReplicaStatus {
            leader: self.node_of(group, replica.leader()),
            voters: nodes(&conf.voters),
            learners: nodes(&conf.learners),
            is_caught_up: is_in_role && has_applied && replica.leader() != 0 && replica.was_confirmed(),
            ..replica.status()
        }
    }

    /// Peers' addresses, for the shell.
    pub fn peer_addresses(catalog: &Catalog, own: u64) -> BTreeMap<u64, String> {
        let members = catalog.nodes.values().filter(|node| node.state != NodeState::Announced && node.id != own);
        members.map(|node| (node.id, node.peer_address.clone())).collect()
    }
}

/// The answer when time is up and nothing was done.
pub(crate) fn no_leader(token: u64) -> Effect {
    Effect::Reply { token, answer: Answer::Failed(crate::Failure::NoLeader) }
}

fn lane_of(kind: MessageType) -> Lane {
    match kind {
        MessageType::MsgAppend | MessageType::MsgAppendResponse => Lane::Append,
        _ => Lane::Control,
    }
}
