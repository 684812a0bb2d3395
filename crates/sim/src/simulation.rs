//! One run: a cluster, its clients and its misfortunes, in simulated time, in one thread.
//!
//! Phases: the cluster is founded and its nodes join; then things go wrong while clients work; then everything is healed, and
//! the cluster must become whole and serve again within bounds; then nothing happens, and all replicas must be equal.

use std::collections::{BTreeMap, VecDeque};

use quorate_node::{Answer, Mode};

use crate::clients::{Clients, Found, Kind, UNDECIDED};
use crate::coverage::Coverage;
use crate::host::{Boot, Host, HostId};
use crate::leasers::Leasers;
use crate::network::Network;
use crate::operator::{Operator, Task};
use crate::oracle::Oracle;
use crate::queue::{Event, Queue};
use crate::random::Random;
use crate::scenario::Scenario;
use crate::time::SimTime;
use crate::trace::{Sink, Trace};
use crate::transport::Transport;
use crate::violation::{Step, Violation};
use crate::watchers::Watchers;
use crate::writers::Writers;

/// A run.
#[derive(Debug)]
pub(crate) struct Simulation {
    pub(crate) scenario: Scenario,
    pub(crate) now: SimTime,
    pub(crate) queue: Queue,
    pub(crate) trace: Trace,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) transport: Transport,
    pub(crate) hosts: Vec<Host>,
    pub(crate) clients: Clients,
    pub(crate) leasers: Leasers,
    pub(crate) watchers: Watchers,
    pub(crate) writers: Writers,
    pub(crate) operator: Operator,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    /// The node of every process there ever was.
    pub(crate) boots: BTreeMap<Boot, u64>,
    pub(crate) next_boot: u64,
    /// Who waits for which answer.
    pub(crate) askers: BTreeMap<u64, Asker>,
    next_token: u64,
    /// What reads found whose answers are on their way.
    pub(crate) reads: BTreeMap<u64, Found>,
    phase: Phase,
    phase_began: SimTime,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Client(usize),
    /// One with leases.
    Leaser(usize),
    /// One of an eventual keyspace.
    Writer(usize),
    /// The operator, through this host.
    Operator(HostId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nodes join.
    Founding,
    /// Things go wrong.
    Faulty,
    /// Everything is healed; the cluster becomes whole.
    Healing,
    /// The client with this number writes and reads through every node.
    Serving(usize),
    /// What has a time, and nobody keeps alive any more, goes.
    Going,
    /// Nothing happens.
    Quiet,
    Over,
}

/// Hosts that are not members at first.
const SPARE_HOSTS: usize = 1;

const WATCH_MS: u64 = 100;

/// How long a new cluster may take until all nodes have joined.
const MAX_FOUNDING_MS: u64 = 60_000;

/// How long a healed cluster may take until it is whole. Snapshots are on their way, changes of the membership begin anew.
const MAX_HEALING_MS: u64 = 60_000;

/// How long ten writes and ten reads may take after that.
const MAX_SERVING_MS: u64 = 10_000;

/// When nobody keeps anything alive, all that has a time goes within this long.
const MAX_GOING_MS: u64 = 12_000;

/// Ends of pairs and leases make entries when nothing else does: so long replicas may be a step apart.
const MAX_QUIET_MS: u64 = 10_000;

/// How long it takes at most until all followers have heard of the last commit.
const QUIET_MS: u64 = 3_000;

impl Simulation {
    pub(crate) fn new(scenario: Scenario, sink: Option<Sink>) -> Self {
        let mut random = Random::new(scenario.seed ^ 0x5157_5157);
        let network = Network::new(random.fork(), scenario.speed.network_us);
        let host_count = scenario.nodes + SPARE_HOSTS;
        let hosts = (0..host_count).map(|host| Host::new(HostId(host))).collect();
        Self {
            scenario,
            now: SimTime::default(),
            queue: Queue::default(),
            trace: Trace::new(sink),
            random,
            network,
            transport: Transport::default(),
            hosts,
            clients: Clients::default(),
            leasers: Leasers::default(),
            watchers: Watchers::default(),
            writers: Writers::default(),
            operator: Operator::default(),
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            boots: BTreeMap::new(),
            next_boot: 0,
            askers: BTreeMap::new(),
            next_token: 0,
            reads: BTreeMap::new(),
            phase: Phase::Founding,
            phase_began: SimTime::default(),
        }
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) -> Step {
        self.found(HostId(0))?;
        self.operator.members.insert(HostId(0));
        for host in 1..self.scenario.nodes {
            self.operator.add(Task::Join(HostId(host)));
        }
        self.operator.add(Task::Retain(self.scenario.retention));
        self.create_eventual();
        self.queue.schedule(self.now, Event::OperatorActs);
        self.queue.schedule(self.now, Event::Watch);
        while self.phase != Phase::Over {
            let Some((at, event)) = self.queue.pop() else { break };
            self.now = at;
            self.oracle.now = at;
            self.handle(event)?;
        }
        self.check_history()?;
        self.check_coverage()
    }

    fn handle(&mut self, event: Event) -> Step {
        match event {
            Event::Wake(host, boot) => self.on_wake(host, boot),
            Event::LogWritten(host, boot) => self.on_log_written(host, boot),
            Event::JobEnded(host, boot, group) => self.on_job_ended(host, boot, group),
            Event::Start(host) => self.start(host),
            Event::Dial(link) => {
                self.on_dial(link);
                Ok(())
            }
            Event::Dialled(link) => self.on_dialled(link),
            Event::DialExpired(link) => {
                self.on_link_failed(link);
                Ok(())
            }
            Event::Deliver(connection) => self.on_deliver(connection),
            Event::ClientActs(client) => {
                self.on_client_acts(client);
                Ok(())
            }
            Event::RequestArrives(host, token) => match self.askers.get(&token).copied() {
                Some(Asker::Client(client)) => self.on_client_request(client, host, token),
                Some(Asker::Leaser(leaser)) => {
                    self.on_leaser_request(leaser, host, token);
                    Ok(())
                }
                Some(Asker::Writer(writer)) => self.on_writer_request(writer, host, token),
                Some(Asker::Operator(_)) | None => Ok(()),
            },
            Event::RequestExpires(token) => match self.askers.remove(&token) {
                Some(Asker::Client(client)) => self.on_client_expired(client, token),
                Some(Asker::Leaser(leaser)) => {
                    self.on_leaser_expired(leaser, token);
                    Ok(())
                }
                Some(Asker::Writer(writer)) => {
                    self.on_writer_expired(writer, token);
                    Ok(())
                }
                Some(Asker::Operator(_)) => self.on_operator_expired(token),
                None => Ok(()),
            },
            Event::ReadIsMade(host, boot, token) => self.on_read_is_made(host, boot, token),
            Event::AnswerArrives(token, answer) => self.on_answer_arrives(token, &answer),
            Event::LeaserActs(leaser) => {
                self.on_leaser_acts(leaser);
                Ok(())
            }
            Event::WriterActs(writer) => {
                self.on_writer_acts(writer);
                Ok(())
            }
            Event::OperatorActs => {
                self.on_operator_acts();
                Ok(())
            }
            Event::FaultBegins => self.on_fault_begins(),
            Event::FaultContinues(step) => {
                self.continue_fault(step);
                Ok(())
            }
            Event::Watch => self.on_watch(),
        }
    }

    fn on_read_is_made(&mut self, host: HostId, boot: Boot, token: u64) -> Step {
        if self.is_deferred(host, boot, || Event::ReadIsMade(host, boot, token)) {
            return Ok(());
        }
        match self.askers.get(&token).copied() {
            Some(Asker::Client(client)) => self.on_client_read(client, host, token),
            Some(Asker::Operator(host)) => self.on_operator_read(host, token),
            Some(Asker::Leaser(leaser)) => self.on_leaser_read(leaser, host, token),
            Some(Asker::Writer(_)) | None => Ok(()),
        }
    }

    fn on_answer_arrives(&mut self, token: u64, answer: &Answer) -> Step {
        match self.askers.remove(&token) {
            Some(Asker::Client(client)) => self.on_client_answer(client, token, answer),
            Some(Asker::Leaser(leaser)) => self.on_leaser_answer(leaser, token, answer),
            Some(Asker::Writer(writer)) => self.on_writer_answer(writer, token, answer),
            Some(Asker::Operator(_)) => self.on_operator_answer(token, answer),
            None => Ok(()),
        }
    }

    /// A number for a request whose answer nobody waits for.
    pub(crate) fn unasked_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// A number for a new request.
    pub(crate) fn next_token(&mut self, asker: Asker) -> u64 {
        self.next_token += 1;
        self.askers.insert(self.next_token, asker);
        self.next_token
    }

    /// Whether things may go wrong.
    pub(crate) fn is_faulty_phase(&self) -> bool {
        self.phase == Phase::Faulty
    }

    fn on_watch(&mut self) -> Step {
        self.queue.schedule(self.now.plus_ms(WATCH_MS), Event::Watch);
        self.watchers_act()?;
        let lasted_ms = self.now.since(self.phase_began) / 1000;
        match self.phase {
            Phase::Founding if self.is_whole() => {
                self.start_clients();
                self.start_leasers();
                self.start_watchers();
                self.start_writers();
                self.queue.schedule(self.now, Event::FaultBegins);
                self.enter(Phase::Faulty);
            }
            Phase::Founding => self.within(lasted_ms, MAX_FOUNDING_MS, "a cluster forms")?,
            Phase::Faulty if lasted_ms >= self.scenario.safety_ms => {
                self.stop_clients();
                self.enter(Phase::Healing);
                self.heal_all();
                self.heal_wall_clocks(lasted_ms);
                self.end_dead_connections();
            }
            Phase::Healing if self.is_whole() => {
                self.coverage.at_least("longest way back to a whole cluster, ms", lasted_ms);
                let client = self.start_closing_script();
                self.enter(Phase::Serving(client));
            }
            Phase::Healing => self.within(lasted_ms, MAX_HEALING_MS, "a healed cluster becomes whole")?,
            Phase::Serving(client) if self.script_len(client) == 0 => {
                self.coverage.at_least("longest ten writes and reads, ms", lasted_ms);
                self.enter(Phase::Going);
            }
            Phase::Serving(_) => self.within(lasted_ms, MAX_SERVING_MS, "a healed cluster serves")?,
            Phase::Going if !self.oracle.is_anything_timed() => self.enter(Phase::Quiet),
            Phase::Going => self.within(lasted_ms, MAX_GOING_MS, "what nobody keeps alive goes")?,
            Phase::Quiet if lasted_ms >= QUIET_MS && (self.is_level() || lasted_ms >= MAX_QUIET_MS) => {
                self.check_replicas_are_equal()?;
                self.check_eventual()?;
                self.check_watchers_know_all()?;
                self.enter(Phase::Over);
            }
            Phase::Faulty | Phase::Quiet | Phase::Over => {}
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.trace.note(self.now, format_args!("phase {phase:?}"));
        self.phase = phase;
        self.phase_began = self.now;
    }

    fn within(&self, lasted_ms: u64, max_ms: u64, promise: &'static str) -> Step {
        if lasted_ms <= max_ms {
            return Ok(());
        }
        let states: Vec<String> = self.hosts.iter().map(state_text).collect();
        let detail = format!("not within {max_ms} ms; {:?}\n  {}", self.operator, states.join("\n  "));
        Err(Violation::new(promise, detail))
    }

    /// Whether every member runs and has caught up, nobody else runs, and there is nothing left to do.
    fn is_whole(&self) -> bool {
        let runs_as_it_should = |host: &Host| {
            let is_member = self.operator.members.contains(&host.id);
            is_member == host.process.is_some()
                && host.process.as_ref().is_none_or(|process| {
                    let replicas = &process.shell.status.replicas;
                    let shards = process.shell.catalog.shards();
                    replicas.len() == shards.filter(|(_, keyspace, _)| keyspace.replication.is_raft()).count()
                        && !replicas.is_empty()
                        && replicas
                            .iter()
                            .all(|replica| replica.is_caught_up && replica.applied_index >= self.oracle.applied(replica.group.0))
                })
        };
        self.operator.is_idle() && self.is_settled() && self.is_eventual_up() && self.hosts.iter().all(runs_as_it_should)
    }

    fn start_closing_script(&mut self) -> usize {
        let members: Vec<HostId> = self.operator.members.iter().copied().collect();
        let mut script = VecDeque::new();
        for (key, host) in (0..10).zip(members.iter().cycle()) {
            let value = self.next_value();
            script.push_back((*host, Kind::Put { keys: vec![key], value, bytes: 10 }));
            script.push_back((*host, Kind::Get { key }));
        }
        self.start_script(script)
    }

    /// Whether every member has applied all that any has.
    fn is_level(&self) -> bool {
        let processes = self.operator.members.iter().filter_map(|host| self.hosts[host.0].process.as_ref());
        let keyspaces = processes.flat_map(|process| process.shell.hosted.keyspaces.values());
        let mut replicated = keyspaces.filter(|keyspace| keyspace.mode == Mode::Raft);
        replicated.all(|keyspace| keyspace.engine.view().applied() == self.oracle.applied(keyspace.group.0))
            && self.is_eventual_equal()
    }

    fn check_replicas_are_equal(&mut self) -> Step {
        for host in self.operator.members.clone() {
            let Some(process) = &self.hosts[host.0].process else {
                return Err(Violation::new("a healed cluster becomes whole", format!("{host} does not run")));
            };
            for keyspace in process.shell.hosted.keyspaces.values().filter(|keyspace| keyspace.mode == Mode::Raft) {
                let (applied, latest) = (keyspace.engine.view().applied(), self.oracle.applied(keyspace.group.0));
                if applied != latest {
                    let detail = format!("{host}: group {} is at index {applied}, others are at {latest}", keyspace.group.0);
                    return Err(Violation::new("replicas become equal", detail));
                }
                let state = process.node.shard_state(keyspace.group).unwrap_or_default();
                self.oracle.on_state(host, keyspace.group.0, applied, &state)?;
            }
        }
        Ok(())
    }

    /// A run in which nothing was done proves nothing.
    fn check_coverage(&mut self) -> Step {
        self.coverage.add("terms with a leader", self.oracle.led_terms());
        let acknowledged = self.coverage.of("writes acknowledged");
        if acknowledged < 10 {
            return Err(Violation::new("a run counts only if work was done", format!("{acknowledged} writes were acknowledged")));
        }
        match self.coverage.of(UNDECIDED) {
            0 => Ok(()),
            count => Err(Violation::new("a run counts only if it could be judged", format!("{count} keys could not"))),
        }
    }
}

fn state_text(host: &Host) -> String {
    let Some(process) = &host.process else {
        return format!("{}: no process, folder: {}", host.id, host.folder.is_some());
    };
    let replicas: Vec<String> = process.shell.status.replicas.iter().map(|replica| format!("{replica:?}")).collect();
    format!("{}: node {} {}", host.id, process.node.identity().node, replicas.join("\n    "))
}
