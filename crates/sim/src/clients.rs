//! Clients: each sends one operation at a time to some node, and notes what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{KeyRange, View};
use quorate_keyspace::{
    Condition, Detail, KeyMeta, Op, OpResult, Outcome, Put, Removed, Revision, Transaction, TransactionResult, Write,
};
use quorate_log::GroupId;
use quorate_node::{Answer, Failure, Input, Request, RequestKind};

use crate::counters::{Counters, MAX_COUNTERS, increment};
use crate::history::{Action, Operation, Seen, Sent, Verdict, check};
use crate::host::{Boot, HostId};
use crate::model::KeyChange;
use crate::mutation::{Mutation, in_two};
use crate::oracle::CLIENT_GROUP;
use crate::queue::Event;
use crate::simulation::{Asker, Simulation};
use crate::time::SimTime;
use crate::transactions::{Ingredients, any_transaction, every_op, left_by, told_by, written_by};
use crate::values::{key_of, value_number, value_of};
use crate::violation::{Step, Violation};

/// All clients and what they saw.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    all: Vec<Client>,
    history: BTreeMap<u64, Vec<Operation>>,
    /// Transactions of which nobody knows what became of them, and when they were sent.
    unknown: Vec<(SimTime, Transaction)>,
    pub(crate) counters: Counters,
    next_value: u64,
}

/// A client.
#[derive(Debug)]
struct Client {
    host: HostId,
    under_way: Option<UnderWay>,
    /// What it saw last of each key, for conditions: value and revision of the last change.
    seen: BTreeMap<u64, (u64, u64)>,
    /// What it sends again: nobody knows whether it was done, and it is done once.
    again: Option<Kind>,
    mode: Mode,
}

/// What a client does next.
#[derive(Debug)]
enum Mode {
    /// Anything, for ever.
    Load,
    /// Nothing.
    Idle,
    /// These, in order, each at its host until it is done.
    Script(VecDeque<(HostId, Kind)>),
}

/// An operation that waits for its answer.
#[derive(Debug)]
struct UnderWay {
    token: u64,
    host: HostId,
    kind: Kind,
    called_at: SimTime,
    sent: Sent,
}

/// An operation. Keys and values by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put {
        keys: Vec<u64>,
        value: u64,
        bytes: usize,
    },
    Delete {
        key: u64,
    },
    /// The first of these, which are all keys of a range, in its order.
    DeleteRange {
        keys: Vec<u64>,
        max_keys: u64,
    },
    Create {
        key: u64,
        value: u64,
    },
    /// Replaces the value of this number, last changed at this revision.
    Swap {
        key: u64,
        from: (u64, u64),
        value: u64,
    },
    Transaction(Box<Transaction>),
    /// Of a counter, which is no other operation's key.
    Increment {
        counter: u64,
        by: u64,
        /// It is sent until it is known to be done, under this key.
        once: Option<u64>,
    },
    /// Lets go of what is older than this revision.
    Compact {
        revision: u64,
    },
    Get {
        key: u64,
    },
    LocalGet {
        key: u64,
    },
}

/// What a read found.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// The shard's revision, and of a key the revision of its last change and its value.
    Key { revision: u64, mod_revision: u64, value: Option<Bytes> },
    /// What a transaction that only reads came to.
    Transaction(Outcome),
}

/// Steps of the search for an order, per key.
const MAX_SEARCH_STEPS: u64 = 1_000_000;

impl Kind {
    /// The numbers of the values that it may write.
    fn values(&self) -> Vec<u64> {
        match self {
            Self::Put { value, .. } | Self::Create { value, .. } | Self::Swap { value, .. } => vec![*value],
            Self::Transaction(transaction) => {
                let mut values = Vec::new();
                every_op(transaction, &mut |op| values.extend(written_by(op).and_then(|(_, value)| value)));
                values
            }
            Self::Delete { .. }
            | Self::DeleteRange { .. }
            | Self::Increment { .. }
            | Self::Compact { .. }
            | Self::Get { .. }
            | Self::LocalGet { .. } => Vec::new(),
        }
    }

    fn is_read(&self) -> bool {
        match self {
            Self::Get { .. } | Self::LocalGet { .. } => true,
            Self::Transaction(transaction) => transaction.is_read_only(),
            Self::Put { .. }
            | Self::Delete { .. }
            | Self::DeleteRange { .. }
            | Self::Create { .. }
            | Self::Swap { .. }
            | Self::Increment { .. }
            | Self::Compact { .. } => false,
        }
    }

    /// What it asks of the state machine; none if it reads.
    fn write(&self) -> Option<Write> {
        let put = |key: u64, value: Bytes| Op::Put(Put::new(key_of(key), value));
        match self {
            Self::Put { keys, value, bytes } => {
                let ops = keys.iter().map(|key| put(*key, value_of(*value, *bytes))).collect();
                Some(Write { guards: Vec::new(), ops })
            }
            Self::Delete { key } => Some(Write::delete(key_of(*key))),
            Self::DeleteRange { keys, max_keys } => {
                let op = Op::DeleteRange { range: range_of(keys), max_keys: *max_keys };
                Some(Write { guards: Vec::new(), ops: vec![op] })
            }
            Self::Create { key, value } => {
                Some(Write::put(key_of(*key), value_of(*value, 0)).only_if(key_of(*key), Condition::Absent))
            }
            Self::Swap { key, from, value } => {
                let condition = Condition::ModRevisionIn(vec![Revision(from.1)]);
                Some(Write::put(key_of(*key), value_of(*value, 0)).only_if(key_of(*key), condition))
            }
            Self::Transaction(transaction) => Some(Write::transaction((**transaction).clone())),
            Self::Increment { counter, by, once } => Some(increment(*counter, *by, *once)),
            Self::Compact { revision } => {
                Some(Write { ops: vec![Op::Compact { revision: Revision(*revision) }], ..Write::default() })
            }
            Self::Get { .. } | Self::LocalGet { .. } => None,
        }
    }

    /// What it does to each key if it is done, or may do.
    fn actions(&self) -> Vec<(u64, Action)> {
        match self {
            Self::Put { keys, value, .. } => keys.iter().map(|key| (*key, Action::Write(Some(*value)))).collect(),
            Self::Delete { key } => vec![(*key, Action::Write(None))],
            Self::DeleteRange { keys, .. } => keys.iter().map(|key| (*key, Action::Write(None))).collect(),
            Self::Create { key, value } => vec![(*key, Action::Swap(None, Some(*value)))],
            Self::Swap { key, from, value } => vec![(*key, Action::Swap(Some(from.0), Some(*value)))],
            // What a transaction did is known from its answer, or from what it left; counters are added up at the end.
            Self::Transaction(_) | Self::Increment { .. } | Self::Compact { .. } | Self::Get { .. } | Self::LocalGet { .. } => {
                Vec::new()
            }
        }
    }
}

impl Simulation {
    /// Lets the clients begin.
    pub(crate) fn start_clients(&mut self) {
        for client in 0..self.scenario.load.clients {
            let host = HostId(self.random.below(self.scenario.nodes as u64) as usize);
            self.clients.all.push(Client { host, under_way: None, seen: BTreeMap::new(), again: None, mode: Mode::Load });
            self.schedule_client(client);
        }
    }

    /// No client begins anything new.
    pub(crate) fn stop_clients(&mut self) {
        self.clients.all.iter_mut().for_each(|client| client.mode = Mode::Idle);
    }

    /// One more client does these, each until it is done.
    pub(crate) fn start_script(&mut self, script: VecDeque<(HostId, Kind)>) -> usize {
        let client = Client { host: HostId(0), under_way: None, seen: BTreeMap::new(), again: None, mode: Mode::Script(script) };
        self.clients.all.push(client);
        self.schedule_client(self.clients.all.len() - 1);
        self.clients.all.len() - 1
    }

    /// How much a script has left to do.
    pub(crate) fn script_len(&self, client: usize) -> usize {
        match &self.clients.all[client].mode {
            Mode::Script(script) => script.len(),
            Mode::Load | Mode::Idle => 0,
        }
    }

    /// A number that no value has.
    pub(crate) fn next_value(&mut self) -> u64 {
        self.clients.next_value += 1;
        self.clients.next_value
    }

    fn schedule_client(&mut self, client: usize) {
        let think_ms = if matches!(self.clients.all[client].mode, Mode::Load) { self.scenario.load.think_ms } else { 1 };
        let think_us = self.random.skewed(think_ms * 1000);
        self.queue.schedule(self.now.plus_us(think_us), Event::ClientActs(client));
    }

    /// A client begins its next operation.
    pub(crate) fn on_client_acts(&mut self, index: usize) {
        let (host, kind) = match &self.clients.all[index].mode {
            Mode::Idle => return,
            Mode::Script(script) => match script.front() {
                Some((host, kind)) => (*host, kind.clone()),
                None => return,
            },
            Mode::Load if self.clients.all[index].again.is_some() => {
                let again = self.clients.all[index].again.take();
                (self.clients.all[index].host, again.expect("it is there"))
            }
            Mode::Load => {
                if self.random.chance(100) {
                    let host = HostId(self.random.below(self.hosts.len() as u64) as usize);
                    self.clients.all[index].host = host;
                }
                (self.clients.all[index].host, self.any_operation(index))
            }
        };
        let token = self.next_token(Asker::Client(index));
        let sent = self.oracle.on_sent();
        self.trace.note(self.now, format_args!("c{index} asks {host} #{token}: {kind:?}"));
        self.clients.all[index].under_way = Some(UnderWay { token, host, kind, called_at: self.now, sent });
        self.ask(host, token, self.scenario.load.timeout_ms + 2500);
    }

    fn any_operation(&mut self, index: usize) -> Kind {
        let key = self.random.below(self.scenario.load.keys);
        match self.random.below(100) {
            0..30 => {
                let mut keys = vec![key];
                if self.scenario.load.keys > 1 && self.random.chance(150) {
                    keys.push((key + 1) % self.scenario.load.keys);
                }
                let bytes = self.random.below(self.scenario.load.max_value_bytes) as usize;
                Kind::Put { keys, value: self.next_value(), bytes }
            }
            30..33 => Kind::Delete { key },
            33 => {
                // Some were compacted before, some are to come.
                let (present, back) = (self.oracle.clients_revision(), self.random.below(60));
                Kind::Compact { revision: (present + 2).saturating_sub(back) }
            }
            34..36 => self.any_range(key),
            36..42 => Kind::Create { key, value: self.next_value() },
            42..60 => match self.clients.all[index].seen.get(&key).copied() {
                Some(from) => Kind::Swap { key, from, value: self.next_value() },
                None => Kind::Get { key },
            },
            60..75 => Kind::Get { key },
            75..90 => self.a_transaction(index, key),
            90..95 => {
                let once = self.random.chance(500).then(|| self.next_value());
                Kind::Increment { counter: key % MAX_COUNTERS, by: self.random.between(1, 5), once }
            }
            _ => Kind::LocalGet { key },
        }
    }

    /// A transaction over this key and up to two others.
    fn a_transaction(&mut self, index: usize, key: u64) -> Kind {
        let count = self.scenario.load.keys;
        let keys: Vec<u64> = (0..self.random.between(1, 4).min(count)).map(|next| (key + next) % count).collect();
        let Clients { all, next_value: last_value, .. } = &mut self.clients;
        let transaction = any_transaction(&mut self.random, Ingredients { keys: &keys, seen: &all[index].seen, last_value });
        assert_eq!(transaction.check(), Ok(()), "clients ask for what can be");
        Kind::Transaction(Box::new(transaction))
    }

    /// A delete of some or all of the keys between a key and another one.
    fn any_range(&mut self, key: u64) -> Kind {
        let other = self.random.below(self.scenario.load.keys);
        let (low, high) = (key_of(key).min(key_of(other)), key_of(key).max(key_of(other)));
        let mut keys: Vec<u64> =
            (0..self.scenario.load.keys).filter(|key| (low.clone()..=high.clone()).contains(&key_of(*key))).collect();
        keys.sort_by_key(|key| key_of(*key));
        Kind::DeleteRange { max_keys: self.random.between(1, 4), keys }
    }

    /// A client's operation reaches a process.
    pub(crate) fn on_client_request(&mut self, index: usize, host: HostId, token: u64) -> Step {
        let Some(under_way) = self.clients.all[index].under_way.as_ref().filter(|under_way| under_way.token == token) else {
            return Ok(());
        };
        let kind = under_way.kind.clone();
        let Some(process) = &self.hosts[host.0].process else {
            return self.finish(index, token, &Answer::Failed(Failure::ShuttingDown), None);
        };
        let boot = process.boot;
        let deadline = self.deadline(host, self.scenario.load.timeout_ms);
        let request = |kind| Request { token, group: GroupId(CLIENT_GROUP), deadline, kind };
        match kind {
            Kind::LocalGet { .. } => self.queue.schedule(self.now, Event::ReadIsMade(host, boot, token)),
            kind if kind.is_read() && self.scenario.mutation == Some(Mutation::ReadWithoutIndex) => {
                self.queue.schedule(self.now, Event::ReadIsMade(host, boot, token));
            }
            kind if kind.is_read() => self.tell(host, Input::Request(request(RequestKind::ReadIndex))),
            kind => {
                let mut write = kind.write().expect("it does not read");
                match self.scenario.mutation {
                    Some(Mutation::ConditionsDropped) => write.guards.clear(),
                    Some(Mutation::ComparesDropped) => drop_compares(&mut write),
                    Some(Mutation::OnceUnderAnotherKey) => self.under_another_key(&mut write),
                    Some(Mutation::IncrementByPut) => self.increment_by_put(host, &mut write),
                    Some(Mutation::TransactionInTwo) => {
                        if let Some(first) = first_of_two(&mut write) {
                            let token = self.unasked_token();
                            let kind = RequestKind::Write(first.to_bytes());
                            self.tell(host, Input::Request(Request { token, ..request(kind) }));
                        }
                    }
                    _ => {}
                }
                self.tell(host, Input::Request(request(RequestKind::Write(write.to_bytes()))));
            }
        }
        Ok(())
    }

    /// A client's read is made: locally, or after the node said that it may.
    pub(crate) fn on_client_read(&mut self, index: usize, host: HostId, token: u64) -> Step {
        let Some(under_way) = self.clients.all[index].under_way.as_ref().filter(|under_way| under_way.token == token) else {
            return Ok(());
        };
        let kind = under_way.kind.clone();
        let Some(view) = self.view_of(host) else {
            return self.finish(index, token, &Answer::Failed(Failure::NotHosted), None);
        };
        let unreadable = |error| Violation::new("records can be read", format!("{host}: {error}"));
        let found = match kind {
            Kind::Get { key } | Kind::LocalGet { key } => {
                let record = quorate_keyspace::get(view.as_ref(), &key_of(key)).map_err(unreadable)?;
                let mod_revision = record.as_ref().map_or(0, |record| record.meta.mod_revision.0);
                let value = record.map(|record| record.value);
                self.oracle.check_read(view.revision(), &key_of(key), value.as_ref())?;
                Found::Key { revision: view.revision(), mod_revision, value }
            }
            Kind::Transaction(transaction) => {
                let write = Write::transaction(*transaction);
                let mut outcome = quorate_keyspace::read_only(view, &write).map_err(unreadable)?;
                if self.scenario.mutation == Some(Mutation::TransactionReadsElsewhere) {
                    let elsewhere = (0..self.hosts.len()).filter_map(|other| self.view_of(HostId(other)));
                    for other in elsewhere.collect::<Vec<_>>() {
                        let other = quorate_keyspace::read_only(other, &write).map_err(unreadable)?;
                        mix_reads(&mut outcome, other);
                    }
                }
                Found::Transaction(outcome)
            }
            _ => return Ok(()),
        };
        self.reads.insert(token, found);
        self.answer_later(token, Answer::ReadReady);
        Ok(())
    }

    /// What a process shows of the clients' keyspace, once it has any of it.
    pub(crate) fn view_of(&self, host: HostId) -> Option<Arc<dyn View>> {
        let process = self.hosts[host.0].process.as_ref()?;
        process.shell.view(CLIENT_GROUP).filter(|view| view.applied() > 0)
    }

    /// A client has its answer.
    pub(crate) fn on_client_answer(&mut self, index: usize, token: u64, answer: &Answer) -> Step {
        let found = self.reads.remove(&token);
        self.finish(index, token, answer, found)
    }

    /// A client gives up waiting.
    pub(crate) fn on_client_expired(&mut self, index: usize, token: u64) -> Step {
        let Some(under_way) = self.clients.all[index].under_way.as_ref().filter(|under_way| under_way.token == token) else {
            return Ok(());
        };
        self.check_answered_in_time(under_way.host, under_way.called_at, token)?;
        self.coverage.count("operations without an answer");
        self.finish(index, token, &Answer::Failed(Failure::Unknown), None)
    }

    /// A node that ran all the time since a request was sent has answered it by now.
    fn check_answered_in_time(&self, host: HostId, called_at: SimTime, token: u64) -> Step {
        let Some(process) = self.hosts[host.0].process.as_ref() else { return Ok(()) };
        let has_run = process.shell.paused.is_none() && process.shell.runs_since < called_at;
        if !has_run || process.shell.answered.contains(&token) || self.hosts[host.0].slowed_us > 0 {
            return Ok(());
        }
        Err(Violation::new("requests are answered in time", format!("{host}: request {token} is not")))
    }

    fn finish(&mut self, index: usize, token: u64, answer: &Answer, found: Option<Found>) -> Step {
        let client = &mut self.clients.all[index];
        let Some(under_way) = client.under_way.take_if(|under_way| under_way.token == token) else { return Ok(()) };
        self.askers.remove(&token);
        let answer = match (answer, self.scenario.mutation) {
            (Answer::Failed(Failure::Unknown), Some(Mutation::UnknownIsNotDone)) => &Answer::Failed(Failure::NoLeader),
            _ => answer,
        };
        let is_done = match answer {
            Answer::ReadReady => self.on_read(index, &under_way, found)?,
            Answer::Written(outcome) => self.on_written(index, &under_way, outcome)?,
            Answer::Failed(Failure::Unknown) => {
                self.on_unknown(&under_way);
                false
            }
            Answer::Failed(_) => {
                self.coverage.count("operations refused");
                under_way.kind.values().into_iter().try_for_each(|value| self.oracle.on_refused(value))?;
                false
            }
            Answer::Transferred | Answer::Leases(_) | Answer::Eventual(_) => false,
        };
        let is_once = matches!(under_way.kind, Kind::Increment { once: Some(_), .. });
        let Client { mode, seen, again, .. } = &mut self.clients.all[index];
        if is_once && !is_done {
            *again = Some(under_way.kind);
        }
        match mode {
            Mode::Script(script) if is_done => drop(script.pop_front()),
            Mode::Script(script) => {
                // A write that may have been done is not sent again: its value would be written twice.
                self.clients.next_value += 1;
                let value = self.clients.next_value;
                if let Some((_, Kind::Put { value: number, .. })) = script.front_mut() {
                    *number = value;
                }
            }
            Mode::Load if !is_done => {
                seen.clear();
                self.clients.all[index].host = HostId(self.random.below(self.hosts.len() as u64) as usize);
            }
            Mode::Load | Mode::Idle => {}
        }
        self.schedule_client(index);
        Ok(())
    }

    fn on_unknown(&mut self, under_way: &UnderWay) {
        if !under_way.kind.is_read() {
            self.coverage.count("writes with unknown outcome");
        }
        if let Kind::Increment { counter, by, once: None } = under_way.kind {
            self.clients.counters.on_unknown(counter, by);
        }
        if let Kind::Transaction(transaction) = &under_way.kind {
            self.clients.unknown.push((under_way.called_at, (**transaction).clone()));
        }
        let claims_done = self.scenario.mutation == Some(Mutation::UnknownIsDone);
        for (key, action) in under_way.kind.actions() {
            let end = claims_done.then_some(self.now.0);
            self.note(key, Operation { call: under_way.called_at.0, end, action });
        }
    }

    fn on_read(&mut self, index: usize, under_way: &UnderWay, found: Option<Found>) -> Step<bool> {
        let (key, revision, mod_revision, value) = match (found, &under_way.kind) {
            (Some(Found::Key { revision, mod_revision, value }), Kind::Get { key } | Kind::LocalGet { key }) => {
                (key, revision, mod_revision, value)
            }
            (Some(Found::Transaction(outcome)), Kind::Transaction(_)) => {
                self.coverage.count("transactions that only read");
                return self.on_written(index, under_way, &outcome);
            }
            _ => return Ok(false),
        };
        let number = value.as_deref().and_then(value_number);
        if let Some(number) = number {
            self.clients.all[index].seen.insert(*key, (number, mod_revision));
        }
        if matches!(under_way.kind, Kind::LocalGet { .. }) {
            self.coverage.count("local reads");
            return Ok(true);
        }
        self.coverage.count("linearizable reads");
        self.oracle.on_answer(under_way.sent, Seen::Read(revision))?;
        self.note_ended(*key, under_way, Action::Saw(number));
        Ok(true)
    }

    fn on_written(&mut self, index: usize, under_way: &UnderWay, outcome: &Outcome) -> Step<bool> {
        match outcome {
            Outcome::Applied { revision, results } => {
                match under_way.kind {
                    Kind::Compact { .. } => self.coverage.count("compactions"),
                    ref kind if !kind.is_read() => self.coverage.count("writes acknowledged"),
                    _ => {}
                }
                let detail = match &results[..] {
                    [OpResult { detail, .. }] => detail.as_deref(),
                    _ => None,
                };
                match (&under_way.kind, detail) {
                    (Kind::DeleteRange { keys, .. }, Some(Detail::Removed(removed))) => {
                        self.on_removed(under_way, keys, revision.0, removed)?;
                    }
                    (Kind::Transaction(transaction), Some(Detail::Transaction(result))) => {
                        self.on_transaction(index, under_way, transaction, (revision.0, result))?;
                    }
                    (Kind::Increment { counter, by, .. }, detail) => {
                        self.on_incremented(Some(under_way.sent), (*counter, *by), revision.0, detail)?;
                    }
                    _ => self.on_applied(index, under_way, revision.0, results)?,
                }
                Ok(true)
            }
            Outcome::ConditionFailed { revision, current, .. } => {
                self.coverage.count("conditions that failed");
                self.oracle.on_answer(under_way.sent, Seen::Read(revision.0))?;
                self.on_condition_failed(index, under_way, revision.0, *current)?;
                Ok(true)
            }
            Outcome::Forgotten => {
                self.coverage.count("outcomes that were forgotten");
                self.on_unknown(under_way);
                Ok(false)
            }
            Outcome::Repeated(earlier) => {
                self.coverage.count("increments answered again");
                self.on_repeated(&under_way.kind, earlier)
            }
            Outcome::Compacted { .. } | Outcome::FutureRevision { .. } if matches!(under_way.kind, Kind::Compact { .. }) => {
                self.coverage.count("compactions refused");
                Ok(true)
            }
            Outcome::Full { .. }
            | Outcome::KeyTooLong { .. }
            | Outcome::ValueTooLarge { .. }
            | Outcome::TooMuch { .. }
            | Outcome::LeaseNotFound { .. }
            | Outcome::LeaseExists { .. }
            | Outcome::LeaseFull { .. }
            | Outcome::Unfit { .. }
            | Outcome::OtherRequest
            | Outcome::TooManyOnce => Err(Violation::new("there is room", format!("a write was refused: {outcome:?}"))),
            Outcome::Compacted { .. } | Outcome::FutureRevision { .. } => {
                Err(Violation::new("only compactions are refused for their revision", format!("{outcome:?}")))
            }
        }
    }

    fn on_applied(&mut self, index: usize, under_way: &UnderWay, revision: u64, results: &[OpResult]) -> Step {
        if results.iter().any(OpResult::is_change) {
            self.oracle.check_written(revision, &changes_of(&under_way.kind))?;
            self.oracle.on_answer(under_way.sent, Seen::Changed(revision))?;
        } else {
            self.oracle.on_answer(under_way.sent, Seen::Read(revision))?;
        }
        for (key, action) in under_way.kind.actions() {
            self.note_ended(key, under_way, action);
            if let Some(value) = under_way.kind.values().first() {
                self.clients.all[index].seen.insert(key, (*value, revision));
            }
        }
        Ok(())
    }

    /// What a transaction came to must be what it comes to on what was there before its revision; what it says of single keys
    /// goes into their histories, with what it did not do.
    fn on_transaction(
        &mut self,
        index: usize,
        under_way: &UnderWay,
        transaction: &Transaction,
        (revision, result): (u64, &TransactionResult),
    ) -> Step {
        self.coverage.count(if result.failed.is_none() { "transactions done then" } else { "transactions done otherwise" });
        let is_changed = result.results.iter().any(OpResult::is_change);
        self.oracle.check_transaction(transaction, (revision, is_changed), result)?;
        let seen = if is_changed { Seen::Changed(revision) } else { Seen::Read(revision) };
        self.oracle.on_answer(under_way.sent, seen)?;
        let told = told_by(transaction, result);
        for value in under_way.kind.values() {
            if !told.iter().any(|(_, action)| *action == Action::Write(Some(value))) {
                self.oracle.on_refused(value)?;
            }
        }
        for (key, action) in told {
            self.note_ended(key, under_way, action);
            match action {
                Action::Write(Some(value)) => drop(self.clients.all[index].seen.insert(key, (value, revision))),
                Action::Write(None) => drop(self.clients.all[index].seen.remove(&key)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Some keys of a range are gone: those before the first one that is said to be left.
    fn on_removed(&mut self, under_way: &UnderWay, keys: &[u64], revision: u64, removed: &Removed) -> Step {
        self.coverage.count("range deletes acknowledged");
        let is_gone = |key: &u64| removed.next.as_ref().is_none_or(|next| key_of(*key) < next);
        let gone: Vec<u64> = keys.iter().copied().filter(is_gone).collect();
        let gone_keys: Vec<Bytes> = gone.iter().map(|key| key_of(*key)).collect();
        self.oracle.check_removed(revision, &range_of(keys), removed, &gone_keys)?;
        let seen = if removed.keys > 0 { Seen::Changed(revision) } else { Seen::Read(revision) };
        self.oracle.on_answer(under_way.sent, seen)?;
        gone.into_iter().for_each(|key| self.note_ended(key, under_way, Action::Write(None)));
        Ok(())
    }

    fn on_condition_failed(&mut self, index: usize, under_way: &UnderWay, revision: u64, current: Option<KeyMeta>) -> Step {
        let (key, refused) = match &under_way.kind {
            Kind::Create { key, .. } => (*key, None),
            Kind::Swap { key, from, .. } => (*key, Some(*from)),
            kind => return Err(Violation::new("conditions are those asked for", format!("{kind:?} has none that can fail"))),
        };
        if current.map(|meta| meta.mod_revision.0) == refused.map(|(_, revision)| revision) {
            let detail = format!("{:?} failed, but the key is as it should be: {current:?}", under_way.kind);
            return Err(Violation::new("conditions are those asked for", detail));
        }
        self.oracle.check_condition(revision, &key_of(key), current.map(|meta| meta.mod_revision.0))?;
        under_way.kind.values().into_iter().try_for_each(|value| self.oracle.on_refused(value))?;
        self.clients.all[index].seen.remove(&key);
        self.note_ended(key, under_way, Action::SawOther(refused.map(|(value, _)| value)));
        Ok(())
    }

    fn note_ended(&mut self, key: u64, under_way: &UnderWay, action: Action) {
        self.note(key, Operation { call: under_way.called_at.0, end: Some(self.now.0), action });
    }

    fn note(&mut self, key: u64, operation: Operation) {
        self.clients.history.entry(key).or_default().push(operation);
    }

    /// Looks for an order of the operations on each key.
    pub(crate) fn check_history(&mut self) -> Step {
        // What is still under way may have happened too.
        let under_way: Vec<UnderWay> = self.clients.all.iter_mut().filter_map(|client| client.under_way.take()).collect();
        under_way.iter().for_each(|under_way| self.on_unknown(under_way));
        // Nobody waits any more for what was still to be sent again.
        let left: Vec<Kind> = self.clients.all.iter_mut().filter_map(|client| client.again.take()).collect();
        let under_way = under_way.into_iter().map(|under_way| under_way.kind);
        for kind in left.into_iter().chain(under_way) {
            if let Kind::Increment { counter, by, once: Some(_) } = kind {
                self.clients.counters.on_unknown(counter, by);
            }
        }
        self.check_counters()?;
        for (called_at, transaction) in std::mem::take(&mut self.clients.unknown) {
            for (key, value) in left_by(&transaction, &|value| self.oracle.is_written(value)) {
                self.note(key, Operation { call: called_at.0, end: None, action: Action::Write(value) });
            }
        }
        for (key, operations) in &self.clients.history {
            let settled: Vec<Operation> =
                operations.iter().filter(|operation| self.oracle.may_have_happened(operation)).copied().collect();
            match check(&settled, MAX_SEARCH_STEPS) {
                Verdict::Linearizable => self.coverage.add("operations in checked histories", settled.len() as u64),
                Verdict::Undecided => self.coverage.count(UNDECIDED),
                Verdict::Violated(blocked) => {
                    let detail = format!("no order explains k{key}; in the way: {blocked:?}");
                    return Err(Violation::new("linearizability", detail));
                }
            }
        }
        Ok(())
    }
}

/// Counts keys whose history could not be judged.
pub(crate) const UNDECIDED: &str = "histories that could not be judged";

/// The range that holds these keys, which are in its order.
fn range_of(keys: &[u64]) -> KeyRange {
    let bound = |key: Option<&u64>| key.map_or(Bound::Unbounded, |key| Bound::Included(key_of(*key)));
    KeyRange { start: bound(keys.first()), end: bound(keys.last()) }
}

/// What a write does to single keys if it is done.
fn changes_of(kind: &Kind) -> Vec<KeyChange> {
    let write = kind.write().unwrap_or_default();
    let change = |op: Op| match op {
        Op::Put(put) => Some(KeyChange { key: put.key, value: Some(put.value) }),
        Op::Delete { key } => Some(KeyChange { key, value: None }),
        _ => None,
    };
    write.ops.into_iter().filter_map(change).collect()
}

/// The planted bug of [`Mutation::ComparesDropped`].
fn drop_compares(write: &mut Write) {
    if let [Op::Transaction(transaction)] = &mut write.ops[..] {
        transaction.compares.clear();
    }
}

/// The planted bug of [`Mutation::TransactionInTwo`]: what is sent before the rest.
fn first_of_two(write: &mut Write) -> Option<Write> {
    let [Op::Transaction(transaction)] = &mut write.ops[..] else { return None };
    let [first, second] = in_two(transaction);
    **transaction = second;
    Some(Write::transaction(first))
}

/// The planted bug of [`Mutation::TransactionReadsElsewhere`]: every other read is that of another replica.
fn mix_reads(outcome: &mut Outcome, mut other: Outcome) {
    let (Some(results), Some(others)) = (results_of(outcome), results_of(&mut other)) else { return };
    for (result, other) in results.iter_mut().zip(others.drain(..)).step_by(2) {
        *result = other;
    }
}

fn results_of(outcome: &mut Outcome) -> Option<&mut Vec<OpResult>> {
    let Outcome::Applied { results, .. } = outcome else { return None };
    match results.first_mut()?.detail.as_deref_mut()? {
        Detail::Transaction(result) => Some(&mut result.results),
        Detail::Removed(_) | Detail::Read(_) => None,
    }
}

impl Simulation {
    /// Whether a process is there to be asked. An answer takes its time, on the network that clients use.
    pub(crate) fn ask(&mut self, host: HostId, token: u64, patience_ms: u64) {
        let travel_us = self.random.skewed(200);
        self.queue.schedule(self.now.plus_us(travel_us), Event::RequestArrives(host, token));
        self.queue.schedule(self.now.plus_ms(patience_ms), Event::RequestExpires(token));
    }

    /// Sends an answer on its way to who asked.
    pub(crate) fn answer_later(&mut self, token: u64, answer: Answer) {
        let travel_us = self.random.skewed(200);
        self.queue.schedule(self.now.plus_us(travel_us), Event::AnswerArrives(token, Box::new(answer)));
    }

    /// A node answers a request.
    pub(crate) fn on_reply(&mut self, host: HostId, token: u64, answer: Answer) {
        let boot: Boot = self.hosts[host.0].process.as_ref().expect("it just answered").boot;
        if answer == Answer::ReadReady {
            let delay_us = self.random.skewed(50);
            self.queue.schedule(self.now.plus_us(delay_us), Event::ReadIsMade(host, boot, token));
        } else {
            self.answer_later(token, answer);
        }
    }
}
