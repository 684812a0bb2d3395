//! Clients: each sends one operation at a time to some node, and notes what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use quorate_engine::KeyRange;
use quorate_keyspace::{Condition, KeyMeta, Op, OpResult, Outcome, Put, Removed, Revision, Write};
use quorate_log::GroupId;
use quorate_node::{Answer, Failure, Input, Request, RequestKind};

use crate::history::{Action, Operation, Seen, Sent, Verdict, check};
use crate::host::{Boot, HostId};
use crate::model::KeyChange;
use crate::mutation::Mutation;
use crate::oracle::CLIENT_GROUP;
use crate::queue::Event;
use crate::simulation::{Asker, Simulation};
use crate::time::SimTime;
use crate::values::{key_of, value_number, value_of};
use crate::violation::{Step, Violation};

/// All clients and what they saw.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    all: Vec<Client>,
    history: BTreeMap<u64, Vec<Operation>>,
    next_value: u64,
}

/// A client.
#[derive(Debug)]
struct Client {
    host: HostId,
    under_way: Option<UnderWay>,
    /// What it saw last of each key, for conditions: value and revision of the last change.
    seen: BTreeMap<u64, (u64, u64)>,
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
    Get {
        key: u64,
    },
    LocalGet {
        key: u64,
    },
}

/// What a read found: the shard's revision, and the key's value.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    revision: u64,
    mod_revision: u64,
    value: Option<Bytes>,
}

/// Steps of the search for an order, per key.
const MAX_SEARCH_STEPS: u64 = 1_000_000;

impl Kind {
    /// The number of the value that it writes.
    fn value(&self) -> Option<u64> {
        match self {
            Self::Put { value, .. } | Self::Create { value, .. } | Self::Swap { value, .. } => Some(*value),
            Self::Delete { .. } | Self::DeleteRange { .. } | Self::Get { .. } | Self::LocalGet { .. } => None,
        }
    }

    fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::LocalGet { .. })
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
            Self::Get { .. } | Self::LocalGet { .. } => Vec::new(),
        }
    }
}

impl Simulation {
    /// Lets the clients begin.
    pub(crate) fn start_clients(&mut self) {
        for client in 0..self.scenario.load.clients {
            let host = HostId(self.random.below(self.scenario.nodes as u64) as usize);
            self.clients.all.push(Client { host, under_way: None, seen: BTreeMap::new(), mode: Mode::Load });
            self.schedule_client(client);
        }
    }

    /// No client begins anything new.
    pub(crate) fn stop_clients(&mut self) {
        self.clients.all.iter_mut().for_each(|client| client.mode = Mode::Idle);
    }

    /// One more client does these, each until it is done.
    pub(crate) fn start_script(&mut self, script: VecDeque<(HostId, Kind)>) -> usize {
        let client = Client { host: HostId(0), under_way: None, seen: BTreeMap::new(), mode: Mode::Script(script) };
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
            30..34 => Kind::Delete { key },
            34..36 => self.any_range(key),
            36..42 => Kind::Create { key, value: self.next_value() },
            42..60 => match self.clients.all[index].seen.get(&key).copied() {
                Some(from) => Kind::Swap { key, from, value: self.next_value() },
                None => Kind::Get { key },
            },
            60..90 => Kind::Get { key },
            _ => Kind::LocalGet { key },
        }
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
            Kind::Get { .. } if self.scenario.mutation == Some(Mutation::ReadWithoutIndex) => {
                self.queue.schedule(self.now, Event::ReadIsMade(host, boot, token));
            }
            Kind::Get { .. } => self.tell(host, Input::Request(request(RequestKind::ReadIndex))),
            kind => {
                let mut write = kind.write().expect("it does not read");
                if self.scenario.mutation == Some(Mutation::ConditionsDropped) {
                    write.guards.clear();
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
        let (Kind::Get { key } | Kind::LocalGet { key }) = under_way.kind else { return Ok(()) };
        let process = self.hosts[host.0].process.as_ref().expect("the read was not deferred");
        let Some(view) = process.shell.view(CLIENT_GROUP).filter(|view| view.applied() > 0) else {
            return self.finish(index, token, &Answer::Failed(Failure::NotHosted), None);
        };
        let record = quorate_keyspace::get(view.as_ref(), &key_of(key))
            .map_err(|error| Violation::new("records can be read", format!("{host}: {error}")))?;
        let mod_revision = record.as_ref().map_or(0, |record| record.meta.mod_revision.0);
        let found = Found { revision: view.revision(), mod_revision, value: record.map(|record| record.value) };
        self.oracle.check_read(found.revision, &key_of(key), found.value.as_ref())?;
        self.reads.insert(token, found);
        self.answer_later(token, Answer::ReadReady);
        Ok(())
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
                under_way.kind.value().map_or(Ok(()), |value| self.oracle.on_refused(value))?;
                false
            }
            Answer::Transferred => false,
        };
        let Client { mode, seen, .. } = &mut self.clients.all[index];
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
        let claims_done = self.scenario.mutation == Some(Mutation::UnknownIsDone);
        for (key, action) in under_way.kind.actions() {
            let end = claims_done.then_some(self.now.0);
            self.note(key, Operation { call: under_way.called_at.0, end, action });
        }
    }

    fn on_read(&mut self, index: usize, under_way: &UnderWay, found: Option<Found>) -> Step<bool> {
        let (Some(found), Kind::Get { key } | Kind::LocalGet { key }) = (found, &under_way.kind) else { return Ok(false) };
        let number = found.value.as_deref().and_then(value_number);
        if let Some(number) = number {
            self.clients.all[index].seen.insert(*key, (number, found.mod_revision));
        }
        if matches!(under_way.kind, Kind::LocalGet { .. }) {
            self.coverage.count("local reads");
            return Ok(true);
        }
        self.coverage.count("linearizable reads");
        self.oracle.on_answer(under_way.sent, Seen::Read(found.revision))?;
        self.note_ended(*key, under_way, Action::Saw(number));
        Ok(true)
    }

    fn on_written(&mut self, index: usize, under_way: &UnderWay, outcome: &Outcome) -> Step<bool> {
        match outcome {
            Outcome::Applied { revision, results } => {
                let is_changed = results.iter().any(OpResult::is_change);
                self.coverage.count("writes acknowledged");
                if let (Kind::DeleteRange { keys, .. }, [OpResult { removed: Some(removed), .. }]) =
                    (&under_way.kind, &results[..])
                {
                    self.on_removed(under_way, keys, revision.0, removed)?;
                    return Ok(true);
                }
                if is_changed {
                    self.oracle.check_written(revision.0, &changes_of(&under_way.kind))?;
                    self.oracle.on_answer(under_way.sent, Seen::Changed(revision.0))?;
                } else {
                    self.oracle.on_answer(under_way.sent, Seen::Read(revision.0))?;
                }
                for (key, action) in under_way.kind.actions() {
                    self.note_ended(key, under_way, action);
                    if let Some(value) = under_way.kind.value() {
                        self.clients.all[index].seen.insert(key, (value, revision.0));
                    }
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
            Outcome::Full { .. } | Outcome::KeyTooLong { .. } | Outcome::ValueTooLarge { .. } => {
                Err(Violation::new("there is room", format!("a write was refused: {outcome:?}")))
            }
        }
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
        if let Some(value) = under_way.kind.value() {
            self.oracle.on_refused(value)?;
        }
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
        Op::DeleteRange { .. } | Op::Configure(_) => None,
    };
    write.ops.into_iter().filter_map(change).collect()
}

impl Simulation {
    /// Whether a process is there to be asked. An answer takes its time, on the network that clients use.
    fn ask(&mut self, host: HostId, token: u64, patience_ms: u64) {
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
