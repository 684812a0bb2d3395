//! Questions about leases: those of this node's own clients, wherever they are on their way, and those that this node answers
//! because it leads.
//!
//! A question is handed to the leader and answered after a read-index round, which makes sure that no other leads. It changes
//! nothing but the leader's own time, so it is asked again without a thought when the leader changes or stays silent.

use std::collections::{BTreeMap, VecDeque};

use quorate_api::peer::{self, Frame, Lane, LeaseAnswer, LeaseAsk, LeaseResult};
use quorate_keyspace::LeaseId;
use quorate_log::Disk;

use crate::io::{Answer, Effect, Failure, LeaseQuestion, LeaseTime, Monotonic};
use crate::limits::{MAX_ASKED_LEASES, MAX_WAITING_LEASES};
use crate::node::Node;
use crate::pending::Place;
use crate::reads::{Read, Reader};
use crate::replica::Replica;
use crate::requests::{SILENT_MS, in_batches};

/// A peer's question is forgotten after this long: it was asked again meanwhile.
const PEER_PATIENCE_MS: u64 = 5_000;

/// Questions that wait until more leases are read. Who asked asks again.
const MAX_CONFIRMED: usize = 16 << 10;

/// Questions of this node's own clients.
///
/// *Invariants*: numbers are given out once; `leases` is the sum of the questions' lengths.
#[derive(Debug, Default)]
pub(crate) struct LeaseAsks {
    next_number: u64,
    waiting: BTreeMap<u64, Waiting>,
    leases: usize,
    /// What is to be sent at the end of the poll, by node.
    asks: BTreeMap<u64, Vec<LeaseAsk>>,
    answers: BTreeMap<u64, Vec<LeaseAnswer>>,
}

#[derive(Debug)]
struct Waiting {
    token: u64,
    group: u64,
    question: LeaseQuestion,
    deadline: Monotonic,
    place: Place,
    /// Whether any leader had it: it may have kept leases alive.
    was_handed_over: bool,
}

/// Questions that a replica answers when a read index is confirmed for them.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    next_number: u64,
    waiting: BTreeMap<u64, Question>,
    /// Those that are confirmed, and are about leases that are not read yet; the oldest are forgotten if there are too many.
    confirmed: VecDeque<u64>,
}

#[derive(Debug)]
struct Question {
    question: LeaseQuestion,
    by: AskedBy,
}

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AskedBy {
    /// This node: the number of its question.
    Own(u64),
    Peer {
        node: u64,
        origin: u64,
        number: u64,
    },
}

impl LeaseAsks {
    fn add(&mut self, waiting: Waiting) -> u64 {
        self.next_number += 1;
        self.leases += waiting.question.leases.len();
        self.waiting.insert(self.next_number, waiting);
        self.next_number
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.leases -= waiting.question.leases.len();
        Some(waiting)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn those(&self, which: impl Fn(&Waiting) -> bool) -> Vec<u64> {
        self.waiting.iter().filter(|(_, waiting)| which(waiting)).map(|(number, _)| *number).collect()
    }

    fn lose(&mut self, number: u64) {
        self.waiting.entry(number).and_modify(|waiting| waiting.place = Place::Nowhere);
    }
}

impl Questions {
    fn add(&mut self, question: LeaseQuestion, by: AskedBy) -> u64 {
        self.next_number += 1;
        self.waiting.insert(self.next_number, Question { question, by });
        self.next_number
    }

    /// One is confirmed, and has to wait until more leases are read.
    fn wait(&mut self, number: u64) {
        self.confirmed.push_back(number);
        if self.confirmed.len() > MAX_CONFIRMED
            && let Some(oldest) = self.confirmed.pop_front()
        {
            self.waiting.remove(&oldest);
        }
    }

    /// Time is up for one.
    pub(crate) fn forget(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// Forgets all: another leads, or this replica leads anew. No number is used again.
    pub(crate) fn forget_all(&mut self) {
        self.waiting.clear();
        self.confirmed.clear();
    }
}

impl<D: Disk> Replica<D> {
    /// The answer to a question that is confirmed; none if it has to wait until more leases are read, or is forgotten.
    fn answer_question(&mut self, number: u64, now: Monotonic) -> Option<(AskedBy, Vec<Option<LeaseTime>>)> {
        let LeaseQuestion { leases, keeps_alive } = &self.questions.waiting.get(&number)?.question;
        if !leases.iter().all(|id| self.leases.knows(*id)) {
            self.questions.wait(number);
            return None;
        }
        let time = |id: &LeaseId| if *keeps_alive { self.leases.keep_alive(*id, now) } else { self.leases.time_of(*id, now) };
        let times = leases.iter().map(time).collect();
        self.questions.waiting.remove(&number).map(|question| (question.by, times))
    }
}

impl<D: Disk> Node<D> {
    pub(crate) fn on_lease_request(&mut self, token: u64, group: u64, deadline: Monotonic, question: LeaseQuestion) {
        let is_full = self.lease_asks.len() >= self.config.max_pending_requests
            || self.lease_asks.leases + question.leases.len() > MAX_WAITING_LEASES;
        if is_full || question.leases.len() > MAX_ASKED_LEASES {
            return self.fail(token, Failure::Overloaded);
        }
        let waiting = Waiting { token, group, question, deadline, place: Place::Nowhere, was_handed_over: false };
        let number = self.lease_asks.add(waiting);
        self.hand_over_ask(number);
    }

    /// Hands a question to whoever leads, if anybody is known to.
    fn hand_over_ask(&mut self, number: u64) {
        let Some(waiting) = self.lease_asks.waiting.get_mut(&number) else { return };
        let group = waiting.group;
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        if replica.is_leader() {
            waiting.place = Place::Here;
            waiting.was_handed_over = true;
            let (question, deadline) = (waiting.question.clone(), waiting.deadline);
            let asked = replica.questions.add(question, AskedBy::Own(number));
            replica.reads.add(Read { reader: Reader::Leases(asked), deadline });
            self.dirty.insert(group);
            return;
        }
        let Some(node) = self.routes.get(&(group, replica.leader())).copied() else { return };
        waiting.place = Place::At { node, since: self.now };
        waiting.was_handed_over = true;
        let LeaseQuestion { leases, keeps_alive } = &waiting.question;
        let ids = leases.iter().map(|id| id.0).collect();
        let ask = LeaseAsk { group, origin: self.pending.origin(), number, keeps_alive: *keeps_alive, ids };
        self.lease_asks.asks.entry(node).or_default().push(ask);
    }

    /// A peer asks about leases of a group that this node leads.
    pub(crate) fn on_lease_ask(&mut self, from: u64, ask: LeaseAsk) {
        let LeaseAsk { group, origin, number, keeps_alive, ids } = ask;
        let refusal = match self.replicas.get_mut(&group) {
            Some(replica) if replica.is_leader() => {
                if replica.reads.len() < self.config.max_pending_requests && ids.len() <= MAX_ASKED_LEASES {
                    let question = LeaseQuestion { leases: ids.into_iter().map(LeaseId).collect(), keeps_alive };
                    let asked = replica.questions.add(question, AskedBy::Peer { node: from, origin, number });
                    let deadline = self.now.plus_ms(PEER_PATIENCE_MS);
                    replica.reads.add(Read { reader: Reader::Leases(asked), deadline });
                    self.dirty.insert(group);
                    return;
                }
                LeaseResult::Overloaded
            }
            Some(replica) => LeaseResult::NotLeader(replica.leader()),
            None => LeaseResult::NotLeader(0),
        };
        let answer = LeaseAnswer { group, origin, number, result: refusal };
        self.lease_asks.answers.entry(from).or_default().push(answer);
    }

    /// A peer answers.
    pub(crate) fn on_lease_answer(&mut self, from: u64, answer: LeaseAnswer) {
        if answer.origin != self.pending.origin() {
            return;
        }
        let number = answer.number;
        match answer.result {
            LeaseResult::Times(times) => {
                let time = |peer::LeaseTime { ttl_ms, left_ms }| (ttl_ms > 0).then_some(LeaseTime { ttl_ms, left_ms });
                self.answer_about_leases(number, times.into_iter().map(time).collect());
            }
            // Asked again when the leader is known, or at the next tick.
            LeaseResult::NotLeader(_) => {
                let waiting = self.lease_asks.waiting.get_mut(&number);
                if let Some(waiting) = waiting.filter(|it| matches!(it.place, Place::At { node, .. } if node == from)) {
                    waiting.place = Place::Nowhere;
                }
            }
            LeaseResult::Overloaded => {
                if let Some(waiting) = self.lease_asks.remove(number) {
                    self.fail(waiting.token, Failure::Overloaded);
                }
            }
        }
    }

    fn answer_about_leases(&mut self, number: u64, times: Vec<Option<LeaseTime>>) {
        let is_whole = |waiting: &Waiting| waiting.question.leases.len() == times.len();
        if self.lease_asks.waiting.get(&number).is_some_and(is_whole)
            && let Some(waiting) = self.lease_asks.remove(number)
        {
            self.effects.push(Effect::Reply { token: waiting.token, answer: Answer::Leases(times) });
        }
    }

    /// A question is confirmed: nobody else led when it was asked.
    pub(crate) fn on_question_confirmed(&mut self, group: u64, number: u64) {
        let now = self.steady.now();
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        match replica.answer_question(number, now) {
            Some((AskedBy::Own(number), times)) => self.answer_about_leases(number, times),
            Some((AskedBy::Peer { node, origin, number }, times)) => {
                let time = |time: Option<LeaseTime>| {
                    time.map_or_else(Default::default, |LeaseTime { ttl_ms, left_ms }| peer::LeaseTime { ttl_ms, left_ms })
                };
                let result = LeaseResult::Times(times.into_iter().map(time).collect());
                self.lease_asks.answers.entry(node).or_default().push(LeaseAnswer { group, origin, number, result });
            }
            None => {}
        }
    }

    /// More leases were read: what waited for that is looked at again.
    pub(crate) fn answer_confirmed(&mut self, group: u64) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        for number in std::mem::take(&mut replica.questions.confirmed) {
            self.on_question_confirmed(group, number);
        }
    }

    /// Another leads, or the term changed: what was with the old leader goes to the new one.
    pub(crate) fn ask_new_leader(&mut self, group: u64) {
        for number in self.lease_asks.those(|waiting| waiting.group == group) {
            self.lease_asks.lose(number);
            self.hand_over_ask(number);
        }
    }

    /// What was sent to this node may be lost.
    pub(crate) fn on_asks_lost(&mut self, node: u64) {
        for number in self.lease_asks.those(|waiting| matches!(waiting.place, Place::At { node: at, .. } if at == node)) {
            self.lease_asks.lose(number);
        }
    }

    /// Asks again what nobody has, and what a leader is silent about; and answers those whose time is up.
    pub(crate) fn drive_asks(&mut self) {
        let now = self.now;
        for number in self.lease_asks.those(|waiting| waiting.deadline <= now) {
            if let Some(waiting) = self.lease_asks.remove(number) {
                self.fail(waiting.token, if waiting.was_handed_over { Failure::Unknown } else { Failure::NoLeader });
            }
        }
        let is_silent = |waiting: &Waiting| match waiting.place {
            Place::Nowhere => true,
            Place::Here => false,
            Place::At { since, .. } => now.since(since) >= SILENT_MS,
        };
        for number in self.lease_asks.those(is_silent) {
            self.hand_over_ask(number);
        }
    }

    /// The group is no more.
    pub(crate) fn fail_asks_of(&mut self, group: u64) {
        for number in self.lease_asks.those(|waiting| waiting.group == group) {
            if let Some(waiting) = self.lease_asks.remove(number) {
                self.fail(waiting.token, Failure::NotHosted);
            }
        }
    }

    /// Sends what gathered for each peer, in as few frames as it takes.
    pub(crate) fn send_asks(&mut self) {
        let mut frames = Vec::new();
        for (to, asks) in std::mem::take(&mut self.lease_asks.asks) {
            let batches = in_batches(asks, |ask| 32 + 9 * ask.ids.len());
            frames.extend(batches.into_iter().map(|batch| (to, Frame::LeaseAsks(batch))));
        }
        for (to, answers) in std::mem::take(&mut self.lease_asks.answers) {
            let size_bytes = |answer: &LeaseAnswer| match &answer.result {
                LeaseResult::Times(times) => 32 + 12 * times.len(),
                LeaseResult::NotLeader(_) | LeaseResult::Overloaded => 32,
            };
            frames.extend(in_batches(answers, size_bytes).into_iter().map(|batch| (to, Frame::LeaseAnswers(batch))));
        }
        self.effects.extend(frames.into_iter().map(|(to, frame)| Effect::Send { to, lane: Lane::Request, frame }));
    }
}
