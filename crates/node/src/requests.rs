//! Requests: those of this node's own clients, and those that peers forward here because this node leads.

use bytes::Bytes;
use quorate_api::peer::{Forward, ForwardReply, ForwardResult, Frame, Lane};
use quorate_keyspace::{Command, Outcome, RequestId};
use quorate_log::Disk;

use crate::io::{Answer, Effect, Failure, Request, RequestKind};
use crate::limits::MAX_FORWARD_FRAME_BYTES;
use crate::node::{LeaderWait, Node, no_leader};
use crate::outbox::{Done, Proposal};
use crate::pending::Place;
use crate::reads::{Read, Reader};
use crate::replica::Replica;

/// A forwarded write without an answer for this long is sent again; its request id keeps it from being applied twice.
pub(crate) const SILENT_MS: u64 = 1_000;

/// The token of this node's own writes: nobody waits for the answer.
const OWN: u64 = 0;

/// This node's own writes are given up after this long; who made them makes them again.
const OWN_WRITE_MS: u64 = 5_000;

impl<D: Disk> Node<D> {
    pub(crate) fn on_request(&mut self, request: Request) {
        let token = request.token;
        let request = match request.kind {
            RequestKind::Eventual(ask) => return self.on_eventual_ask(token, request.group.0, request.deadline, ask),
            kind => Request { kind, ..request },
        };
        let Some(replica) = self.replicas.get_mut(&request.group.0) else {
            return self.fail(token, Failure::NotHosted);
        };
        match request.kind {
            RequestKind::ReadIndex => {
                if replica.reads.len() >= self.config.max_pending_requests {
                    return self.fail(token, Failure::Overloaded);
                }
                replica.reads.add(Read { reader: Reader::Client(token), deadline: request.deadline });
                self.dirty.insert(request.group.0);
            }
            RequestKind::Leases(question) => self.on_lease_request(token, request.group.0, request.deadline, question),
            RequestKind::TransferLeader(to) => self.on_transfer_request(token, request.group.0, request.deadline, to),
            RequestKind::Write(write) => self.on_write(token, request.group.0, request.deadline, &write),
            RequestKind::Eventual(_) => unreachable!("was handed on"),
        }
    }

    fn on_write(&mut self, token: u64, group: u64, deadline: crate::Monotonic, write: &Bytes) {
        let is_full = self.pending.len() >= self.config.max_pending_requests
            || self.pending.bytes() + write.len() > self.config.max_pending_bytes;
        let leads_too_fast = self.replicas.get(&group).is_some_and(Replica::leads_too_fast);
        match () {
            () if self.is_disk_full => self.fail(token, Failure::DiskFull),
            () if is_full => self.fail(token, Failure::Overloaded),
            () if leads_too_fast => self.fail(token, Failure::StoreBusy),
            () if self.is_stopping() => self.fail(token, Failure::ShuttingDown),
            () => {
                let sequence = self.pending.add(token, quorate_log::GroupId(group), write, deadline);
                self.hand_over(sequence);
            }
        }
    }

    /// Writes in this node's own name, wherever the leader is. Nobody hears what comes of it but through the group itself.
    pub(crate) fn submit_own(&mut self, group: u64, write: &quorate_keyspace::Write) {
        let deadline = self.now.plus_ms(OWN_WRITE_MS);
        let sequence = self.pending.add(OWN, quorate_log::GroupId(group), &write.to_bytes(), deadline);
        self.hand_over(sequence);
    }

    fn on_transfer_request(&mut self, token: u64, group: u64, deadline: crate::Monotonic, to: Option<u64>) {
        let Some(replica) = self.replicas.get_mut(&group) else {
            return self.fail(token, Failure::NotHosted);
        };
        let leader = replica.leader();
        let target = match to {
            None if replica.is_leader() => replica.best_successor(),
            // Only the leader knows who is alive: any voter but it, and the leader gives up after a while if that one is not.
            None => replica.raft().prs().conf().to_conf_state().voters.into_iter().find(|voter| *voter != leader),
            Some(node) => {
                let voters = replica.raft().prs().conf().to_conf_state().voters;
                voters.into_iter().find(|voter| self.routes.get(&(group, *voter)) == Some(&node))
            }
        };
        match target {
            _ if leader == 0 => self.effects.push(no_leader(token)),
            Some(target) if target == leader => self.effects.push(Effect::Reply { token, answer: Answer::Transferred }),
            Some(target) => {
                replica.transfer_leader(target);
                self.dirty.insert(group);
                self.leader_waits.push(LeaderWait { token, group, from: leader, deadline });
            }
            None => self.fail(token, Failure::NoSuccessor),
        }
    }

    pub(crate) fn fail(&mut self, token: u64, failure: Failure) {
        if token == OWN {
            return;
        }
        self.effects.push(Effect::Reply { token, answer: Answer::Failed(failure) });
    }

    /// Hands a waiting write to whoever leads, if anybody is known to.
    fn hand_over(&mut self, sequence: u64) {
        let Some(waiting) = self.pending.get(sequence) else {
            return;
        };
        let group = waiting.group.0;
        let command = waiting.command.clone();
        let id = RequestId { origin: self.pending.origin(), sequence };
        let Some(replica) = self.replicas.get_mut(&group) else {
            return;
        };
        if replica.is_leader() {
            replica.propose(Proposal { id, asked_by: None, command });
            self.dirty.insert(group);
            return self.pending.hand_over(sequence, Place::Here);
        }
        let Some(node) = self.routes.get(&(group, replica.leader())).copied() else {
            return;
        };
        if !self.pending.has_room_at(node, command.len()) {
            // Handed over when answers have made room, or at the next tick.
            return;
        }
        self.forwards.entry(node).or_default().push(Forward { group, origin: id.origin, sequence, command });
        self.pending.hand_over(sequence, Place::At { node, since: self.now });
    }

    /// raft-rs did not take these: they entered no log.
    pub(crate) fn on_not_proposed(&mut self, group: u64, refused: Vec<Proposal>) {
        if refused.is_empty() {
            return;
        }
        let replica = self.replicas.get(&group);
        let result = match replica {
            Some(replica) if replica.is_handing_over() => ForwardResult::NotLeader(0),
            Some(replica) if replica.is_leader() => ForwardResult::Overloaded,
            Some(replica) => ForwardResult::NotLeader(replica.leader()),
            None => ForwardResult::NotLeader(0),
        };
        for proposal in refused {
            match proposal.asked_by {
                // Tried again when there is a leader, or at the next tick.
                None => self.pending.on_refused(proposal.id.sequence),
                Some(node) => self.reply_to(node, group, proposal.id, result.clone()),
            }
        }
    }

    pub(crate) fn on_forward(&mut self, from: u64, forward: Forward) {
        let group = forward.group;
        let id = RequestId { origin: forward.origin, sequence: forward.sequence };
        // An entry with a command that cannot be read would stop every replica.
        if !Command::decode(forward.command.clone()).is_ok_and(|command| command.id == id) {
            return;
        }
        let leading = self.replicas.get_mut(&group).filter(|replica| replica.is_leader());
        match leading {
            Some(replica) if replica.leads_too_fast() => self.reply_to(from, group, id, ForwardResult::StoreBusy),
            Some(_) if self.is_disk_full => self.reply_to(from, group, id, ForwardResult::DiskFull),
            Some(replica) => {
                replica.propose(Proposal { id, asked_by: Some(from), command: forward.command });
                self.dirty.insert(group);
            }
            None => {
                let leader = self.replicas.get(&group).map_or(0, Replica::leader);
                self.reply_to(from, group, id, ForwardResult::NotLeader(leader));
            }
        }
    }

    pub(crate) fn on_forward_reply(&mut self, from: u64, reply: ForwardReply) {
        if reply.origin != self.pending.origin() {
            return;
        }
        let sequence = reply.sequence;
        let is_asked = |place| matches!(place, Place::At { node, .. } if node == from);
        match reply.result {
            ForwardResult::Outcome(outcome) => {
                if let Ok(outcome) = Outcome::decode(outcome) {
                    self.answer(sequence, outcome);
                }
            }
            // Tried again when the leader is known, or at the next tick.
            ForwardResult::NotLeader(_) => {
                if self.pending.get(sequence).is_some_and(|waiting| is_asked(waiting.place)) {
                    self.pending.on_refused(sequence);
                }
            }
            ForwardResult::Overloaded => self.refuse(sequence, Failure::Overloaded),
            ForwardResult::DiskFull => self.refuse(sequence, Failure::DiskFull),
            ForwardResult::StoreBusy => self.refuse(sequence, Failure::StoreBusy),
        }
    }

    /// The leader took it for a reason that will not go away in time: the client hears it, unless the write may be in a log
    /// from an earlier try.
    fn refuse(&mut self, sequence: u64, failure: Failure) {
        self.pending.on_refused(sequence);
        let is_certain = self.pending.get(sequence).is_some_and(|waiting| !waiting.may_be_logged());
        if is_certain && let Some(waiting) = self.pending.remove(sequence) {
            self.fail(waiting.token, failure);
        }
    }

    pub(crate) fn on_applied(&mut self, done: Done) {
        if done.id.origin == self.pending.origin() {
            return self.answer(done.id.sequence, done.outcome);
        }
        if let Some(node) = done.asked_by {
            let result = ForwardResult::Outcome(done.outcome.to_bytes());
            self.reply_to(node, done.group.0, done.id, result);
        }
    }

    /// The group is no more: nobody will answer what waits for it.
    pub(crate) fn fail_writes_of(&mut self, group: u64) {
        self.fail_asks_of(group);
        for sequence in self.pending.lost(|waiting| waiting.group.0 == group) {
            let Some(waiting) = self.pending.remove(sequence) else { continue };
            let failure = if waiting.may_be_logged() { Failure::Unknown } else { Failure::NotHosted };
            self.fail(waiting.token, failure);
        }
    }

    fn answer(&mut self, sequence: u64, outcome: Outcome) {
        if let Some(waiting) = self.pending.remove(sequence).filter(|waiting| waiting.token != OWN) {
            self.effects.push(Effect::Reply { token: waiting.token, answer: Answer::Written(outcome) });
        }
    }

    fn reply_to(&mut self, node: u64, group: u64, id: RequestId, result: ForwardResult) {
        let reply = ForwardReply { group, origin: id.origin, sequence: id.sequence, result };
        self.forward_replies.entry(node).or_default().push(reply);
    }

    /// Another leads, or the term changed: what was with the old leader goes to the new one.
    pub(crate) fn on_new_leader(&mut self, group: u64) {
        let lost = self.pending.lost(|waiting| waiting.group.0 == group);
        for sequence in lost {
            self.pending.on_lost(sequence);
            self.hand_over(sequence);
        }
        self.ask_new_leader(group);
        let leader = self.replicas.get(&group).map_or(0, Replica::leader);
        let arrived = self.leader_waits.extract_if(.., |wait| wait.group == group && leader != 0 && leader != wait.from);
        let tokens: Vec<u64> = arrived.map(|wait| wait.token).collect();
        self.effects.extend(tokens.into_iter().map(|token| Effect::Reply { token, answer: Answer::Transferred }));
    }

    /// What was forwarded to this node may be lost.
    pub(crate) fn on_requests_lost(&mut self, node: u64) {
        self.on_asks_lost(node);
        for sequence in self.pending.lost(|waiting| matches!(waiting.place, Place::At { node: at, .. } if at == node)) {
            self.pending.on_lost(sequence);
        }
    }

    /// Hands over again what nobody has, and what a leader is silent about.
    pub(crate) fn resend_silent(&mut self) {
        let now = self.now;
        let is_silent = |place| match place {
            Place::Nowhere => true,
            Place::Here => false,
            Place::At { since, .. } => now.since(since) >= SILENT_MS,
        };
        for sequence in self.pending.lost(|waiting| is_silent(waiting.place)) {
            // What got no answer takes up no room where it was sent.
            self.pending.on_lost(sequence);
            self.hand_over(sequence);
        }
    }

    /// Answers the requests whose time is up.
    pub(crate) fn expire_requests(&mut self) {
        for (waiting, failure) in self.pending.take_expired(self.now) {
            self.fail(waiting.token, failure);
        }
        let now = self.now;
        let expired: Vec<u64> = self.leader_waits.extract_if(.., |wait| wait.deadline <= now).map(|wait| wait.token).collect();
        // The leader may still hand over.
        expired.into_iter().for_each(|token| self.fail(token, Failure::Unknown));
    }

    /// Sends what gathered for each peer, in as few frames as it takes. Replies are a few bytes each, and there are no more than
    /// requests.
    pub(crate) fn send_forwards(&mut self) {
        for (to, forwards) in std::mem::take(&mut self.forwards) {
            for batch in in_batches(forwards, |forward| forward.command.len()) {
                self.effects.push(Effect::Send { to, lane: Lane::Request, frame: Frame::Forward(batch) });
            }
        }
        for (to, replies) in std::mem::take(&mut self.forward_replies) {
            self.effects.push(Effect::Send { to, lane: Lane::Request, frame: Frame::ForwardReply(replies) });
        }
    }
}

/// Splits what is to be sent into batches of about [`MAX_FORWARD_FRAME_BYTES`]; a larger item goes alone.
pub(crate) fn in_batches<T>(items: Vec<T>, size_bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut batch_bytes = 0;
    for item in items {
        let item_bytes = size_bytes(&item);
        match batches.last_mut().filter(|_| batch_bytes + item_bytes <= MAX_FORWARD_FRAME_BYTES) {
            Some(batch) => batch.push(item),
            None => {
                batch_bytes = 0;
                batches.push(vec![item]);
            }
        }
        batch_bytes += item_bytes;
    }
    batches
}
