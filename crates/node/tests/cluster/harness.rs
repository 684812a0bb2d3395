//! A cluster of nodes in one thread: frames, log writes and jobs happen when a script says so, or at once.
//!
//! Time stands still while anything is left to do, and then goes on to the next tick of any node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use quorate_api::cluster::JoinRequest;
use quorate_api::peer::{Frame, Lane, frame_bytes};
use quorate_engine::Engines;
use quorate_engine::testing::SimulatedEngines;
use quorate_log::testing::MemoryDisk;
use quorate_log::{GroupId, Log, Options, Record};
use quorate_node::eventual_replication::Replica;
use quorate_node::keyspace::{Outcome, Write, get};
use quorate_node::{
    Answer, Catalog, Config, Effect, Hosted, HostedKeyspace, Identity, Input, Job, Monotonic, Node, NodeStatus, PeerFrame,
    ReplicaStatus, Request, RequestKind, SYSTEM_GROUP, StopReason,
};

/// The group of the keyspace `default`.
pub(crate) const DEFAULT: GroupId = GroupId(1);

/// The system keyspace's.
pub(crate) const SYSTEM: GroupId = GroupId(SYSTEM_GROUP);

/// What wall clocks show when time begins.
const WALL_MS: u64 = 1_800_000_000_000;

/// How long a script waits for what must happen.
const PATIENCE_MS: u64 = 30_000;

/// Rounds without progress of time before the harness takes it for a livelock.
const MAX_ROUNDS: usize = 10_000;

/// A node and everything that its shell would have.
pub(crate) struct Host {
    pub(crate) identity: Identity,
    process: Option<Process>,
    log_disk: MemoryDisk,
    pub(crate) file_disk: MemoryDisk,
    pub(crate) engines: Arc<SimulatedEngines>,
    /// What is handed to the log stays there until this is taken back.
    pub(crate) holds_log: bool,
    /// Snapshots are not loaded, nor is any job after that, until this is taken back.
    pub(crate) holds_loads: bool,
    /// No engine is built, nor anything done after that.
    pub(crate) holds_builds: bool,
    /// Why it ended itself.
    pub(crate) stopped: Option<StopReason>,
}

struct Process {
    node: Node<MemoryDisk>,
    log: Log<MemoryDisk>,
    inbox: Vec<Input>,
    unwritten: VecDeque<(u64, Vec<(GroupId, Record)>)>,
    jobs: VecDeque<Job>,
    hosted: Arc<Hosted>,
    catalog: Arc<Catalog>,
    status: Arc<NodeStatus>,
}

/// A frame that left a node.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: u64,
    pub(crate) incarnation: u64,
    pub(crate) to: u64,
    pub(crate) lane: Lane,
    pub(crate) frame: Frame,
}

/// All of it.
pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) hosts: BTreeMap<u64, Host>,
    now: u64,
    in_flight: VecDeque<Sent>,
    /// Every frame that left a node, in order, whether it arrived or not.
    pub(crate) sent: Vec<Sent>,
    cut: BTreeSet<(u64, u64)>,
    held: BTreeSet<(u64, u64, Lane)>,
    connections: BTreeMap<(u64, u64, Lane), u64>,
    /// Answers, by token; each came once.
    pub(crate) answers: BTreeMap<u64, Answer>,
    next_token: u64,
    /// Frames that are too long to be sent at all.
    pub(crate) too_long: usize,
}

impl Cluster {
    /// Nodes 1 to `size`, each a voter of every group and caught up.
    pub(crate) fn of(size: u64) -> Self {
        Self::with(size, Config::default())
    }

    /// The same, with other settings.
    pub(crate) fn with(size: u64, config: Config) -> Self {
        let mut cluster = Self {
            config,
            hosts: BTreeMap::new(),
            now: 0,
            in_flight: VecDeque::new(),
            sent: Vec::new(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            connections: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_token: 1,
            too_long: 0,
        };
        cluster.found();
        cluster.run_until("node 1 leads", |cluster| cluster.leader(DEFAULT) == Some(1) && cluster.leader(SYSTEM) == Some(1));
        for _ in 1..size {
            let id = cluster.join();
            cluster.run_until("the new node is caught up", |cluster| cluster.is_caught_up(id));
        }
        cluster
    }

    fn found(&mut self) {
        let host = Host::new(1);
        let mut log = host.open_log();
        Node::found(&mut log, &host.identity, ("n1:1", "n1:2"), &self.config).unwrap();
        self.hosts.insert(1, host);
        self.start(1);
    }

    /// Lets one more node in, through the leader of the system keyspace, and starts it.
    pub(crate) fn join(&mut self) -> u64 {
        let leader = self.leader(SYSTEM).expect("there is a leader");
        let number = self.hosts.len() + 1;
        let request = JoinRequest {
            name: format!("n{number}"),
            client_address: format!("n{number}:1"),
            peer_address: format!("n{number}:2"),
            token: format!("token {number}"),
        };
        let (write, answer) = self.catalog(leader).plan_join(&request).unwrap();
        let write = write.expect("it is not in yet");
        let token = self.request(leader, SYSTEM, RequestKind::Write(write.to_bytes()), PATIENCE_MS);
        self.run_until("the catalog lets it in", |cluster| cluster.answers.contains_key(&token));
        let id = answer.node_id;
        let host = Host::new(id);
        Node::join(&mut host.open_log(), &answer).unwrap();
        self.hosts.insert(id, host);
        self.start(id);
        id
    }

    /// Takes a node out of the catalog.
    pub(crate) fn remove(&mut self, id: u64) {
        let leader = self.leader(SYSTEM).expect("there is a leader");
        let write = self.catalog(leader).plan_remove(&format!("n{id}")).unwrap().unwrap();
        let token = self.request(leader, SYSTEM, RequestKind::Write(write.to_bytes()), PATIENCE_MS);
        self.run_until("the catalog takes it out", |cluster| cluster.answers.contains_key(&token));
    }

    /// Starts the process of a node on what its disks hold.
    pub(crate) fn start(&mut self, id: u64) {
        let now = Monotonic(self.now);
        let host = self.host_mut(id);
        assert!(host.process.is_none(), "it runs");
        host.identity.incarnation += 1;
        host.stopped = None;
        let log = host.open_log();
        let files = Arc::new(host.file_disk.clone());
        let engines = Arc::clone(&host.engines) as Arc<dyn Engines>;
        let identity = host.identity.clone();
        let config = self.config.clone();
        let node =
            Node::open(config, identity, log.reader(), (files, engines), (id * 7919, now)).expect("it starts on its own disks");
        self.host_mut(id).process = Some(Process {
            node,
            log,
            inbox: Vec::new(),
            unwritten: VecDeque::new(),
            jobs: VecDeque::new(),
            hosted: Arc::default(),
            catalog: Arc::default(),
            status: Arc::default(),
        });
        self.poll(id);
    }

    /// Cuts a node's power: what was not synced is gone.
    pub(crate) fn crash(&mut self, id: u64) {
        let host = self.host_mut(id);
        host.process = None;
        host.log_disk = host.log_disk.power_loss(0, &mut |_| 0);
        host.file_disk = host.file_disk.power_loss(0, &mut |_| 0);
        host.holds_log = false;
        host.holds_loads = false;
        self.in_flight.retain(|sent| sent.from != id && sent.to != id);
    }

    /// Crash, and start again.
    pub(crate) fn restart(&mut self, id: u64) {
        self.crash(id);
        self.start(id);
    }

    /// Nothing goes between this node and any other.
    pub(crate) fn isolate(&mut self, id: u64) {
        for other in self.hosts.keys().copied().filter(|other| *other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    /// All can talk to all again, and what was held goes on.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.held.clear();
    }

    /// Frames of one lane wait on their way.
    pub(crate) fn hold(&mut self, from: u64, to: u64, lane: Lane) {
        self.held.insert((from, to, lane));
    }

    /// What was held goes on.
    pub(crate) fn let_go(&mut self, from: u64, to: u64, lane: Lane) {
        self.held.remove(&(from, to, lane));
    }

    /// Says something in a node's name that the node did not say.
    pub(crate) fn say(&mut self, from: u64, to: u64, lane: Lane, frame: Frame) {
        let incarnation = self.hosts[&from].identity.incarnation;
        self.say_as_of(incarnation, (from, to), lane, frame);
    }

    /// The same, in the name of one life of the node.
    pub(crate) fn say_as_of(&mut self, incarnation: u64, (from, to): (u64, u64), lane: Lane, frame: Frame) {
        let connection = self.connections.get(&(from, to, lane)).copied().unwrap_or_default();
        self.tell(to, Input::Frame(PeerFrame { from, incarnation, connection, lane, frame }));
    }

    /// Breaks the connections of a lane, both ways: what is on its way is lost, and both nodes are told.
    pub(crate) fn break_lane(&mut self, one: u64, other: u64, lane: Lane) {
        self.in_flight
            .retain(|sent| sent.lane != lane || (sent.from, sent.to) != (one, other) && (sent.from, sent.to) != (other, one));
        for (from, to) in [(one, other), (other, one)] {
            *self.connections.entry((from, to, lane)).or_default() += 1;
            self.held.remove(&(from, to, lane));
            self.tell(from, Input::Unreachable { node: to, lane });
        }
    }

    /// Loses what is on its way on a lane, in one direction: only who sent it is told.
    pub(crate) fn lose(&mut self, from: u64, to: u64, lane: Lane) {
        self.in_flight.retain(|sent| (sent.from, sent.to, sent.lane) != (from, to, lane));
        self.held.remove(&(from, to, lane));
        self.tell(from, Input::Unreachable { node: to, lane });
    }

    /// Hands an input to a node that runs.
    pub(crate) fn tell(&mut self, id: u64, input: Input) {
        if let Some(process) = &mut self.host_mut(id).process {
            process.inbox.push(input);
        }
    }

    /// Asks a node for something; returns the token of the answer.
    pub(crate) fn request(&mut self, id: u64, group: GroupId, kind: RequestKind, timeout_ms: u64) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let deadline = Monotonic(self.now).plus_ms(timeout_ms);
        self.tell(id, Input::Request(Request { token, group, deadline, kind }));
        token
    }

    /// Changes the catalog through the leader of the system keyspace; planned anew if something else changed it meanwhile.
    pub(crate) fn change(&mut self, plan: impl Fn(&Catalog) -> Write) {
        for _ in 0..20 {
            let leader = self.leader(SYSTEM).expect("there is a leader");
            let write = plan(&self.catalog(leader));
            let token = self.request(leader, SYSTEM, RequestKind::Write(write.to_bytes()), 5_000);
            self.run_until("there is an answer", |cluster| cluster.answers.contains_key(&token));
            if self.is_applied(token) {
                return;
            }
        }
        panic!("the catalog does not stand still");
    }

    /// The replica of an eventual keyspace on a node.
    pub(crate) fn eventual(&self, id: u64, group: GroupId) -> Option<&Replica> {
        self.process(id)?.node.eventual_replica(group)
    }

    /// Up to where a node's log of a group is purged, and where it ends.
    pub(crate) fn log_of(&self, id: u64, group: GroupId) -> (u64, u64) {
        let state = self.process(id).expect("it runs").log.reader().group(group).expect("the log has the group");
        (state.purged.index.0, state.last.index.0)
    }

    /// Where a keyspace can be read on a node, if it can.
    pub(crate) fn hosted(&self, id: u64, keyspace: &str) -> Option<&HostedKeyspace> {
        self.process(id)?.hosted.keyspaces.get(keyspace)
    }

    /// Whether a keyspace can be read on a node.
    pub(crate) fn is_hosted(&self, id: u64, keyspace: &str) -> bool {
        self.hosted(id, keyspace).is_some()
    }

    /// Asks a node to set a key of `default`.
    pub(crate) fn put(&mut self, id: u64, key: &str, value: &str) -> u64 {
        let write = Write::put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        self.request(id, DEFAULT, RequestKind::Write(write.to_bytes()), PATIENCE_MS)
    }

    /// Sets a key and waits until that is acknowledged.
    pub(crate) fn must_put(&mut self, id: u64, key: &str, value: &str) {
        let token = self.put(id, key, value);
        self.run_until("the write is answered", |cluster| cluster.answers.contains_key(&token));
        assert!(self.is_applied(token), "{:?}", self.answers[&token]);
    }

    /// Asks a node to be told when a read of `default` sees all that was acknowledged before.
    pub(crate) fn read_index(&mut self, id: u64, timeout_ms: u64) -> u64 {
        self.request(id, DEFAULT, RequestKind::ReadIndex, timeout_ms)
    }

    /// Reads a key of `default` as any client could, after a read index.
    pub(crate) fn must_read(&mut self, id: u64, key: &str) -> Option<String> {
        let token = self.read_index(id, PATIENCE_MS);
        self.run_until("the read is answered", |cluster| cluster.answers.contains_key(&token));
        assert_eq!(self.answers[&token], Answer::ReadReady);
        self.local(id, key)
    }

    /// What a node's engine holds now.
    pub(crate) fn local(&self, id: u64, key: &str) -> Option<String> {
        let hosted = &self.process(id)?.hosted;
        let view = hosted.keyspaces.get("default")?.engine.view();
        let record = get(view.as_ref(), key.as_bytes()).unwrap()?;
        Some(String::from_utf8(record.value.to_vec()).unwrap())
    }

    /// Whether the write was answered, and done.
    pub(crate) fn is_applied(&self, token: u64) -> bool {
        matches!(self.answers.get(&token), Some(Answer::Written(Outcome::Applied { .. })))
    }

    /// The node that leads a group, if exactly one that runs thinks so in the newest term.
    pub(crate) fn leader(&self, group: GroupId) -> Option<u64> {
        let leads = |id: &u64| {
            let status = self.replica(*id, group)?;
            (status.role == "leader").then_some((status.term, *id))
        };
        self.hosts.keys().filter_map(leads).max().map(|(_, id)| id)
    }

    /// Whether a node has a snapshot to load.
    pub(crate) fn is_about_to_load(&self, id: u64) -> bool {
        self.process(id).is_some_and(|process| matches!(process.jobs.front(), Some(Job::Load { .. })))
    }

    /// How a replica is.
    pub(crate) fn replica(&self, id: u64, group: GroupId) -> Option<ReplicaStatus> {
        let status = self.process(id)?.node.status();
        status.replicas.iter().find(|replica| replica.group == group).map(|replica| ReplicaStatus::clone(replica))
    }

    /// How a node is.
    pub(crate) fn status(&self, id: u64) -> NodeStatus {
        self.process(id).expect("it runs").node.status()
    }

    /// Whether every replica on the node belongs to its group and has what is committed.
    pub(crate) fn is_caught_up(&self, id: u64) -> bool {
        let Some(process) = self.process(id) else { return false };
        let status = process.node.status();
        status.replicas.len() == 2 && status.replicas.iter().all(|replica| replica.is_caught_up)
    }

    /// The id of a node's replica in a group.
    pub(crate) fn replica_id(&self, id: u64, group: GroupId) -> u64 {
        let catalog = self.catalog(id);
        let (_, _, shard) = catalog.shard(group.0).expect("the catalog knows the group");
        shard.replica_on(id).expect("the node has a replica").replica
    }

    /// The catalog as a node knows it.
    pub(crate) fn catalog(&self, id: u64) -> Arc<Catalog> {
        Arc::clone(self.process(id).expect("it runs").node.catalog())
    }

    /// The encoded state of a shard on every node that runs.
    pub(crate) fn states(&self, group: GroupId) -> Vec<Bytes> {
        self.hosts.values().filter_map(|host| host.process.as_ref()?.node.shard_state(group)).collect()
    }

    /// Whether all nodes that run have the same state of the group.
    pub(crate) fn agrees(&self, group: GroupId) -> bool {
        let states = self.states(group);
        states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Lets everything happen that can, tick by tick, until `is_done`.
    pub(crate) fn run_until(&mut self, what: &str, mut is_done: impl FnMut(&Self) -> bool) {
        assert!(self.is_reached(PATIENCE_MS, &mut is_done), "not within {PATIENCE_MS} ms: {what}\n{}", self.describe());
    }

    /// Whether it comes to that within a time.
    pub(crate) fn is_reached(&mut self, max_ms: u64, mut is_done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + max_ms;
        loop {
            self.settle();
            if is_done(self) {
                return true;
            }
            match self.next_tick().filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => {
                    self.now = end;
                    return false;
                }
            }
        }
    }

    /// One poll of every node that has something to do, or, if none has, the next tick.
    pub(crate) fn step(&mut self) {
        if !self.round()
            && let Some(next) = self.next_tick()
        {
            self.now = self.now.max(next);
        }
    }

    fn next_tick(&self) -> Option<u64> {
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        processes.map(|process| process.node.next_due().0).min()
    }

    /// All clocks jump.
    pub(crate) fn jump(&mut self, ms: u64) {
        self.now += ms;
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, ms: u64) {
        self.is_reached(ms, |_| false);
    }

    /// Lets everything happen that needs no time.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            if !self.round() {
                return;
            }
        }
        panic!("the cluster does not come to rest\n{}", self.describe());
    }

    /// One poll of every node that has something to do; whether there was any.
    pub(crate) fn round(&mut self) -> bool {
        self.deliver();
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let mut has_moved = false;
        for id in ids {
            has_moved |= self.run_disk(id);
            has_moved |= self.poll_if_due(id);
        }
        has_moved || self.in_flight.iter().any(|sent| !self.is_held(sent))
    }

    /// Writes what a node handed to its log, and runs its jobs.
    fn run_disk(&mut self, id: u64) -> bool {
        let host = self.host_mut(id);
        let (holds_log, holds_loads, holds_builds) = (host.holds_log, host.holds_loads, host.holds_builds);
        let (files, engines) = (host.file_disk.clone(), Arc::clone(&host.engines));
        let Some(process) = &mut host.process else { return false };
        let mut has_moved = false;
        if !holds_log && let Some(&(ticket, _)) = process.unwritten.back() {
            let batches: Vec<_> = process.unwritten.drain(..).map(|(_, batch)| batch).collect();
            process.log.write(&batches).expect("the log takes what it is given");
            process.inbox.push(Input::LogDurable { ticket });
            has_moved = true;
        }
        let is_held = |job: &mut Job| match job {
            Job::Load { .. } => holds_loads,
            Job::Build { .. } => holds_builds,
            _ => false,
        };
        if let Some(job) = process.jobs.pop_front_if(|job| !is_held(job)) {
            process.inbox.push(Input::JobDone(job.run(&files, engines.as_ref())));
            has_moved = true;
        }
        has_moved
    }

    fn poll_if_due(&mut self, id: u64) -> bool {
        let Some(process) = self.process(id) else { return false };
        let is_due = !process.inbox.is_empty() || process.node.next_due().0 <= self.now;
        if is_due {
            self.poll(id);
        }
        is_due
    }

    fn poll(&mut self, id: u64) {
        let now = Monotonic(self.now);
        let Some(process) = &mut self.host_mut(id).process else { return };
        let mut inputs = std::mem::take(&mut process.inbox);
        let mut effects = Vec::new();
        process.node.tell_wall_clock(WALL_MS + now.0);
        process.node.poll(now, &mut inputs, &mut effects);
        for effect in effects {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: u64, effect: Effect) {
        let incarnation = self.hosts[&id].identity.incarnation;
        let Some(process) = &mut self.host_mut(id).process else { return };
        match effect {
            Effect::Send { to, lane, frame } => self.send(Sent { from: id, incarnation, to, lane, frame }),
            Effect::Changes { .. } => {}
            Effect::Persist { ticket, records } => process.unwritten.push_back((ticket, records)),
            Effect::Reply { token, answer } => {
                let earlier = self.answers.insert(token, answer);
                assert_eq!(earlier, None, "request {token} was answered twice");
            }
            Effect::Job(job) => process.jobs.push_back(job),
            Effect::Catalog(catalog) => process.catalog = catalog,
            Effect::Hosted(hosted) => process.hosted = hosted,
            Effect::Status(status) => process.status = status,
            Effect::Stop(reason) => {
                self.crash(id);
                self.host_mut(id).stopped = Some(reason);
            }
        }
    }

    fn send(&mut self, sent: Sent) {
        self.sent.push(sent.clone());
        let is_too_long = frame_bytes(&sent.frame).is_err();
        self.too_long += usize::from(is_too_long);
        let is_lost = self.cut.contains(&(sent.from, sent.to)) || self.process(sent.to).is_none();
        if is_lost || is_too_long {
            let (from, node, lane) = (sent.from, sent.to, sent.lane);
            return self.tell(from, Input::Unreachable { node, lane });
        }
        self.in_flight.push_back(sent);
    }

    fn deliver(&mut self) {
        for sent in std::mem::take(&mut self.in_flight) {
            if self.is_held(&sent) {
                self.in_flight.push_back(sent);
                continue;
            }
            let key = (sent.from, sent.to, sent.lane);
            let connection = self.connections.get(&key).copied().unwrap_or_default();
            let Sent { from, incarnation, to, lane, frame } = sent;
            if !self.cut.contains(&(from, to)) {
                self.tell(to, Input::Frame(PeerFrame { from, incarnation, connection, lane, frame }));
            }
        }
    }

    fn is_held(&self, sent: &Sent) -> bool {
        self.held.contains(&(sent.from, sent.to, sent.lane))
    }

    fn process(&self, id: u64) -> Option<&Process> {
        self.hosts.get(&id)?.process.as_ref()
    }

    pub(crate) fn host_mut(&mut self, id: u64) -> &mut Host {
        self.hosts.get_mut(&id).expect("the node is there")
    }

    fn describe(&self) -> String {
        let mut text = format!("at {} ms\n", self.now);
        for (id, host) in &self.hosts {
            let replicas = host.process.as_ref().map(|process| process.node.status().replicas);
            let stopped = &host.stopped;
            writeln!(text, "node {id}: stopped {stopped:?}, {replicas:#?}").expect("strings take what is written");
        }
        text
    }
}

impl Host {
    fn new(id: u64) -> Self {
        Self {
            identity: Identity { cluster: 7, node: id, name: format!("n{id}"), incarnation: 0 },
            process: None,
            log_disk: MemoryDisk::new(),
            file_disk: MemoryDisk::new(),
            engines: Arc::default(),
            holds_log: false,
            holds_loads: false,
            holds_builds: false,
            stopped: None,
        }
    }

    fn open_log(&self) -> Log<MemoryDisk> {
        let options = Options { segment_bytes: 64 << 10, max_log_bytes: 1 << 30, reserve_bytes: 0, max_spare_segments: 2 };
        Log::open(Arc::new(self.log_disk.clone()), options).expect("the log opens")
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }
}
