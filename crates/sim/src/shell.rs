//! What the shell does around each node: starts it, polls it, carries out its effects.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_api::cluster::JoinAnswer;
use quorate_engine::{EngineError, Table};
use quorate_log::testing::MemoryDisk;
use quorate_log::{Batch, GroupId, Log, LogError};
use quorate_node::eventual_replication::ReplicaError;
use quorate_node::{Effect, Identity, Input, JobResult, Monotonic, Node, StopReason};

use crate::host::{Boot, Folder, HostId, Process, ProcessEnd, Shell};
use crate::journal::Journal;
use crate::mutation::{self, Mutation};
use crate::oracle::CLIENT_GROUP;
use crate::queue::Event;
use crate::retained::lose_version;
use crate::simulation::Simulation;
use crate::time::Clock;
use crate::violation::{Step, Violation};

impl Simulation {
    /// Makes the first node of the cluster on a host with empty disks.
    pub(crate) fn found(&mut self, id: HostId) -> Step {
        let identity = Identity { cluster: 0x5157, node: 1, name: id.to_string(), incarnation: 0 };
        let host = &mut self.hosts[id.0];
        let addresses = (&*id.client_address(), &*id.peer_address());
        let founded =
            Log::open(Arc::new(host.log_disk.clone()), self.scenario.log.clone()).map_err(|error| error.to_string()).and_then(
                |mut log| Node::found(&mut log, &identity, addresses, &self.scenario.node).map_err(|error| error.to_string()),
            );
        founded.map_err(|why| Violation::new("a cluster can be founded", why))?;
        host.folder = Some(Folder { identity, first_peers: Vec::new(), seen_incarnations: BTreeMap::new() });
        self.queue.schedule(self.now, Event::Start(id));
        Ok(())
    }

    /// Makes a node that was let into the cluster, on a host with empty disks.
    pub(crate) fn join(&mut self, id: HostId, answer: JoinAnswer) -> Step {
        let cluster = u64::from_str_radix(&answer.cluster_id, 16)
            .map_err(|error| Violation::new("join answers can be read", format!("{}: {error}", answer.cluster_id)))?;
        let identity = Identity { cluster, node: answer.node_id, name: id.to_string(), incarnation: 0 };
        let host = &mut self.hosts[id.0];
        let joined = Log::open(Arc::new(host.log_disk.clone()), self.scenario.log.clone())
            .map_err(|error| error.to_string())
            .and_then(|mut log| Node::join(&mut log, &answer).map_err(|error| error.to_string()));
        joined.map_err(|why| Violation::new("a node can join", format!("{id}: {why}")))?;
        host.folder = Some(Folder { identity, first_peers: answer.peers, seen_incarnations: BTreeMap::new() });
        self.queue.schedule(self.now, Event::Start(id));
        Ok(())
    }

    /// Starts the process of a host that has a data folder and no process.
    pub(crate) fn start(&mut self, id: HostId) -> Step {
        let host = &mut self.hosts[id.0];
        let Some(folder) = host.folder.as_mut().filter(|_| host.process.is_none()) else { return Ok(()) };
        folder.identity.incarnation += 1;
        let identity = folder.identity.clone();
        let first_peers = folder.first_peers.clone();
        self.next_boot += 1;
        let boot = Boot(self.next_boot);
        let drift_ppm = self.random.between(0, 20_000).cast_signed() - 10_000;
        let clock = Clock::new(self.now, self.random.below(1 << 40), drift_ppm);
        let seed = self.random.bits();
        let log = match Log::open(Arc::new(host.log_disk.clone()), self.scenario.log.clone()) {
            Ok(log) => log,
            Err(error) => return self.on_failed_start(id, &error),
        };
        let at = (seed, clock.read(self.now));
        let stores = (Arc::new(host.file_disk.clone()), Arc::clone(&host.engines) as _);
        let node = match Node::open(self.scenario.node.clone(), identity.clone(), log.reader(), stores, at) {
            Ok(node) => node,
            Err(error) => return self.on_failed_start(id, &error),
        };
        let lost = node.status().replicas.iter().filter(|replica| replica.is_rebuilding).count();
        self.coverage.add("replicas that lost their engines", lost as u64);
        self.trace.note(self.now, format_args!("{id} starts: node {} incarnation {}", identity.node, identity.incarnation));
        self.boots.insert(boot, identity.node);
        let shell = Shell::new(self.now, Journal::open(&log.reader()));
        self.hosts[id.0].process = Some(Process { boot, node, log, clock, shell });
        let addresses =
            first_peers.iter().filter_map(|peer| Some((peer.node_id, HostId::from_peer_address(&peer.peer_address)?)));
        self.on_addresses(id, addresses.collect());
        self.wake(id);
        Ok(())
    }

    fn on_failed_start(&mut self, id: HostId, error: &dyn std::fmt::Display) -> Step {
        if !self.hosts[id.0].has_disk_trouble {
            return Err(Violation::new("a node starts again", format!("{id}: {error}")));
        }
        self.coverage.count("starts that failed with the disk");
        self.queue.schedule(self.now.plus_ms(1000), Event::Start(id));
        Ok(())
    }

    /// Ends the process of a host without a word to it.
    pub(crate) fn crash(&mut self, id: HostId, end: ProcessEnd) {
        if let Some(process) = &self.hosts[id.0].process {
            self.oracle.on_end(&process.shell.journal);
            self.writers.on_end();
            if self.hosts[id.0].has_disk_trouble {
                self.writers.on_loss();
            }
        }
        if let Some(boot) = self.hosts[id.0].end_process(end, &mut self.random) {
            self.trace.note(self.now, format_args!("{id} ends: {end:?}"));
            self.drop_links(id, boot);
        }
    }

    /// Hands an input to the process of a host, if there is one.
    pub(crate) fn tell(&mut self, id: HostId, input: Input) {
        if let Some(process) = &mut self.hosts[id.0].process {
            process.shell.inbox.push(input);
            self.wake(id);
        }
    }

    /// Lets the loop of a process run soon, if that is not decided already.
    pub(crate) fn wake(&mut self, id: HostId) {
        let delay_us = self.random.skewed(self.scenario.speed.poll_us);
        self.wake_at(id, self.now.plus_us(delay_us));
    }

    fn wake_at(&mut self, id: HostId, at: crate::time::SimTime) {
        let Some(process) = &mut self.hosts[id.0].process else { return };
        if process.shell.wakes_at.is_none_or(|earlier| earlier > at) {
            process.shell.wakes_at = Some(at);
            self.queue.schedule(at, Event::Wake(id, process.boot));
        }
    }

    /// Whether an event is for a process that is gone, or must wait because the process is paused.
    pub(crate) fn is_deferred(&mut self, id: HostId, boot: Boot, event: impl FnOnce() -> Event) -> bool {
        match self.hosts[id.0].process_of(boot) {
            None => true,
            Some(process) => match &mut process.shell.paused {
                None => false,
                Some(deferred) => {
                    deferred.push(event());
                    true
                }
            },
        }
    }

    pub(crate) fn on_wake(&mut self, id: HostId, boot: Boot) -> Step {
        if self.is_deferred(id, boot, || Event::Wake(id, boot)) {
            return Ok(());
        }
        let wall_ms = self.wall_ms(id);
        let process = self.hosts[id.0].process.as_mut().expect("not deferred");
        // Another wake was scheduled earlier than this one, and has polled.
        if process.shell.wakes_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        process.shell.wakes_at = None;
        let local_time = process.local_time(self.now);
        let mut effects = Vec::new();
        process.node.tell_wall_clock(wall_ms);
        process.node.poll(local_time, &mut process.shell.inbox, &mut effects);
        for effect in &effects {
            if let Effect::Persist { ticket, records } = effect {
                self.oracle.on_persist(id, &mut process.shell.journal, *ticket, records)?;
            }
            if let Effect::Hosted(hosted) = effect {
                process.shell.hosted = Arc::clone(hosted);
            }
        }
        self.oracle.on_polled(id, process)?;
        for effect in effects {
            self.carry_out(id, effect)?;
        }
        self.wake_for_tick(id);
        Ok(())
    }

    fn wake_for_tick(&mut self, id: HostId) {
        let Some(process) = &self.hosts[id.0].process else { return };
        let at = process.clock.when(self.now, process.node.next_due());
        self.wake_at(id, at.max(self.now.plus_us(1)));
    }

    fn carry_out(&mut self, id: HostId, effect: Effect) -> Step {
        // An effect before this one may have ended the process.
        let Some(process) = &mut self.hosts[id.0].process else { return Ok(()) };
        match effect {
            Effect::Send { to, lane, frame } => {
                self.oracle.on_send(id, &process.shell.journal, &frame)?;
                let frame = self.mutated(frame);
                self.send(id, to, lane, &frame)
            }
            Effect::Persist { ticket, records } => {
                self.persist(id, ticket, records);
                Ok(())
            }
            Effect::Reply { token, answer } => {
                if !process.shell.answered.insert(token) {
                    return Err(Violation::new("requests are answered once", format!("{id}: request {token} twice")));
                }
                self.on_reply(id, token, answer);
                Ok(())
            }
            Effect::Job(job) => {
                let group = job.group();
                let jobs = process.shell.jobs.entry(group).or_default();
                jobs.push_back(job);
                if jobs.len() == 1 {
                    self.begin_job(id, group);
                }
                Ok(())
            }
            Effect::Catalog(catalog) => {
                process.shell.catalog = catalog;
                self.refresh_addresses(id);
                Ok(())
            }
            Effect::Hosted(hosted) => {
                let groups: Vec<u64> = hosted.keyspaces.values().map(|keyspace| keyspace.group.0).collect();
                process.shell.feeds.retain(|group, _| groups.contains(group));
                process.follow_watches(&hosted).map_err(|why| Violation::new("entries can be read", why))
            }
            Effect::Changes { group, watch_epoch: None, revision, changes } => self.on_changes(id, group, revision, changes),
            Effect::Changes { group, watch_epoch: Some(epoch), revision, changes } => {
                self.on_own_changes(id, (group, epoch), revision, changes)
            }
            Effect::Status(status) => self.on_status(id, status),
            Effect::Stop(reason) => self.on_stop(id, &reason),
        }
    }

    fn on_status(&mut self, id: HostId, status: Arc<quorate_node::NodeStatus>) -> Step {
        if status.is_drained {
            self.tell(id, Input::ShutDown);
        }
        let process = self.hosts[id.0].process.as_mut().expect("its effects are carried out");
        for replica in status.replicas.iter() {
            let group = replica.group.0;
            if replica.role == "leader" {
                let at = (group, replica.term);
                let own =
                    process.shell.catalog.shard(group).and_then(|(_, _, shard)| shard.replica_on(process.node.identity().node));
                if let Some(own) = own {
                    self.oracle.on_leader(id, &process.shell.journal, at, own.replica)?;
                }
            }
            let is_applied = process.shell.view(group).is_some_and(|view| view.applied() == replica.applied_index);
            if let Some(state) = process.node.shard_state(replica.group).filter(|_| is_applied) {
                self.oracle.on_state(id, group, replica.applied_index, &state)?;
            }
        }
        let (beats, before) = (status.beats, process.shell.status.beats);
        self.coverage.add("beats that were noted", beats.noted - before.noted);
        self.coverage.add("beats that raft-rs had to see", beats.stepped - before.stepped);
        process.shell.status = status;
        self.refresh_addresses(id);
        self.look_at_disk(id);
        Ok(())
    }

    /// A process talks to the members of its catalog; to those that were taken out, as long as a group here counts on them; and
    /// to those that its catalog does not know yet, once they have called.
    fn refresh_addresses(&mut self, id: HostId) {
        let process = self.hosts[id.0].process.as_ref().expect("its effects are carried out");
        let shell = &process.shell;
        let own = process.node.identity().node;
        let members = Node::<MemoryDisk>::peer_addresses(&shell.catalog, own);
        let mut addresses: BTreeMap<u64, HostId> =
            members.iter().filter_map(|(node, address)| Some((*node, HostId::from_peer_address(address)?))).collect();
        let counted = |node: u64| shell.status.replicas.iter().any(|r| r.voters.contains(&node) || r.learners.contains(&node));
        for (node, host) in &shell.addresses {
            if counted(*node) || *node >= shell.catalog.cluster.next_node {
                addresses.entry(*node).or_insert(*host);
            }
        }
        if addresses != shell.addresses {
            self.on_addresses(id, addresses);
        }
    }

    fn on_stop(&mut self, id: HostId, reason: &StopReason) -> Step {
        self.trace.note(self.now, format_args!("{id} stops: {reason:?}"));
        let process = self.hosts[id.0].process.as_ref().expect("its effects are carried out");
        let node = process.node.identity().node;
        match reason {
            StopReason::ShutDown if process.shell.is_shutting_down => self.coverage.count("graceful stops"),
            StopReason::Removed if self.operator.was_removed(node) => {
                self.coverage.count("removed nodes that stopped");
                self.crash(id, ProcessEnd::Killed);
                self.hosts[id.0].wipe();
                self.writers.on_loss();
                return Ok(());
            }
            StopReason::Broken(_) if self.hosts[id.0].has_disk_trouble => self.coverage.count("stops because of the disk"),
            StopReason::ShutDown | StopReason::Removed | StopReason::Outdated(_) | StopReason::Broken(_) => {
                return Err(Violation::new("nodes stop only for a reason", format!("{id}: {reason:?}")));
            }
        }
        self.crash(id, ProcessEnd::Killed);
        let rest_ms = self.random.between(100, 2000);
        self.queue.schedule(self.now.plus_ms(rest_ms), Event::Start(id));
        Ok(())
    }

    fn persist(&mut self, id: HostId, ticket: u64, records: Batch) {
        let process = self.hosts[id.0].process.as_mut().expect("its effects are carried out");
        let records = match self.scenario.mutation {
            Some(Mutation::VoteNotWritten) => mutation::without_votes(records),
            _ => records,
        };
        process.shell.unwritten.push_back((ticket, records));
        if process.shell.writing.is_none() {
            self.begin_write(id);
        }
        if self.scenario.mutation == Some(Mutation::AckBeforeSync) {
            self.tell_durable(id, ticket);
        }
    }

    /// The log takes everything that waits.
    fn begin_write(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        let slowed_us = host.slowed_us;
        let Some(process) = &mut host.process else { return };
        let Some((ticket, _)) = process.shell.unwritten.back() else { return };
        let ticket = *ticket;
        let batches = process.shell.unwritten.drain(..).map(|(_, batch)| batch).collect();
        process.shell.writing = Some((ticket, batches));
        process.shell.writing_since = self.now;
        let boot = process.boot;
        let us = self.random.skewed(self.scenario.speed.sync_us) + self.random.skewed(slowed_us);
        self.queue.schedule(self.now.plus_us(us), Event::LogWritten(id, boot));
    }

    pub(crate) fn on_log_written(&mut self, id: HostId, boot: Boot) -> Step {
        if self.is_deferred(id, boot, || Event::LogWritten(id, boot)) {
            return Ok(());
        }
        let process = self.hosts[id.0].process.as_mut().expect("not deferred");
        let Some((ticket, batches)) = process.shell.writing.take() else { return Ok(()) };
        if let Err(error) = process.log.write(&batches) {
            return self.on_log_failed(id, &error);
        }
        self.look_at_disk(id);
        if self.scenario.mutation != Some(Mutation::AckBeforeSync) {
            self.tell_durable(id, ticket);
        }
        self.begin_write(id);
        Ok(())
    }

    /// Tells the node whether its disk is full, if that changed. Also without a write: a full node may write nothing any more.
    fn look_at_disk(&mut self, id: HostId) {
        let Some(process) = &mut self.hosts[id.0].process else { return };
        let usage = process.log.usage();
        let is_full = usage.is_below_reserve;
        if is_full != process.shell.is_disk_full {
            process.shell.is_disk_full = is_full;
            self.trace.note(self.now, format_args!("{id} disk full: {is_full} {usage:?}"));
            self.coverage.count(if is_full { "disk became full" } else { "disk had room again" });
            self.tell(id, Input::DiskFull(is_full));
        }
    }

    fn tell_durable(&mut self, id: HostId, ticket: u64) {
        if let Some(process) = &mut self.hosts[id.0].process {
            process.shell.journal.on_durable(ticket);
        }
        self.tell(id, Input::LogDurable { ticket });
    }

    /// A failed write ends the process; it comes back, for the disk may be read again.
    fn on_log_failed(&mut self, id: HostId, error: &LogError) -> Step {
        self.trace.note(self.now, format_args!("{id} log: {error}"));
        if !self.hosts[id.0].has_disk_trouble {
            return Err(Violation::new("the log takes what it is given", format!("{id}: {error}")));
        }
        self.coverage.count(if matches!(error, LogError::Full { .. }) { "log writes without room" } else { "log writes failed" });
        let end = if self.random.chance(500) { ProcessEnd::PowerLost } else { ProcessEnd::Killed };
        self.crash(id, end);
        let rest_ms = self.random.between(100, 3000);
        self.queue.schedule(self.now.plus_ms(rest_ms), Event::Start(id));
        Ok(())
    }

    fn begin_job(&mut self, id: HostId, group: GroupId) {
        let host = &self.hosts[id.0];
        let Some(process) = &host.process else { return };
        let (boot, slowed_us) = (process.boot, host.slowed_us);
        let us = self.random.skewed(self.scenario.speed.job_us) + self.random.skewed(slowed_us);
        self.queue.schedule(self.now.plus_us(us), Event::JobEnded(id, boot, group));
    }

    pub(crate) fn on_job_ended(&mut self, id: HostId, boot: Boot, group: GroupId) -> Step {
        if self.is_deferred(id, boot, || Event::JobEnded(id, boot, group)) {
            return Ok(());
        }
        let host = &mut self.hosts[id.0];
        let process = host.process.as_mut().expect("not deferred");
        let jobs = process.shell.jobs.entry(group).or_default();
        let Some(job) = jobs.pop_front() else { return Ok(()) };
        let has_more = !jobs.is_empty();
        self.trace.note(self.now, format_args!("{id} job g{} {}", group.0, job_name(&job)));
        let mut done = job.run(&host.file_disk, host.engines.as_ref());
        if let (JobResult::LeasesRead { leases: Ok(leases), .. }, Some(Mutation::LeaderKeepsOldTime)) =
            (&mut done.result, self.scenario.mutation)
        {
            leases.iter_mut().for_each(|lease| lease.ttl_ms /= 4);
        }
        eventual_outcome(&done.result).into_iter().for_each(|what| self.coverage.count(what));
        match &done.result {
            result if eventual_outcome(result).is_some() => {}
            JobResult::Cut { size_bytes: Ok(_), .. } => {
                self.coverage.count("snapshots cut");
                if let Some(mutation @ (Mutation::VersionLost | Mutation::VersionMisplaced)) = self.scenario.mutation
                    && let Some(engine) =
                        process.shell.hosted.keyspaces.values().find(|keyspace| keyspace.group.0 == CLIENT_GROUP)
                {
                    lose_version(engine.engine.as_ref(), mutation == Mutation::VersionMisplaced);
                }
            }
            JobResult::Loaded { state: Ok(_), .. } => {
                self.coverage.count("snapshots loaded");
                if self.scenario.mutation == Some(Mutation::SnapshotLosesKey) {
                    lose_key(process, group);
                }
                if self.scenario.mutation == Some(Mutation::SnapshotLosesEnds) {
                    lose_ends(process, group);
                }
            }
            JobResult::Staged { progress: Ok(_), .. } => self.coverage.count("snapshot pieces staged"),
            JobResult::Applied { applied: Ok(_) } => self.coverage.count("runs applied by jobs"),
            JobResult::Reopened { shard: Ok(_), .. } => self.coverage.count("engines opened again"),
            JobResult::MovedOn { shard: Ok(_), .. } => self.coverage.count("steps of moves"),
            JobResult::Flushed { durable_index: Ok(_), .. } => self.coverage.count("engines flushed"),
            JobResult::Retired => self.coverage.count("replicas retired"),
            JobResult::LeasesRead { leases: Ok(leases), .. } => {
                self.coverage.add("leases read by new leaders", leases.len() as u64);
            }
            JobResult::Read { piece: Ok(_), .. } | JobResult::Removed | JobResult::Fitted => {}
            JobResult::Applied { .. }
            | JobResult::MovedOn { .. }
            | JobResult::Reopened { .. }
            | JobResult::EventualOpened { .. }
            | JobResult::BatchApplied { .. }
            | JobResult::LookedUp { .. }
            | JobResult::Flushed { .. }
            | JobResult::Cut { .. }
            | JobResult::Loaded { .. }
            | JobResult::Staged { .. }
            | JobResult::LeasesRead { .. }
            | JobResult::Read { .. } => {
                self.coverage.count("jobs that failed");
                self.trace.note(self.now, format_args!("{id} {:?}", done.result));
            }
        }
        // A job that applies publishes before the node hears of it.
        self.oracle.on_polled(id, process)?;
        self.tell(id, Input::JobDone(done));
        if has_more {
            self.begin_job(id, group);
        }
        Ok(())
    }

    /// When a process' clock will show a time that is so far away.
    pub(crate) fn deadline(&self, id: HostId, ms: u64) -> Monotonic {
        self.hosts[id.0].process.as_ref().map_or_else(Monotonic::default, |process| process.local_time(self.now).plus_ms(ms))
    }
}

/// What a job has done for a replica of an eventual keyspace; none if it failed, or was for another.
fn eventual_outcome(result: &JobResult) -> Option<&'static str> {
    match result {
        JobResult::EventualOpened { replica: Ok(_), .. } => Some("engines of eventual replicas opened"),
        JobResult::EventualOpened { replica: Err(ReplicaError::Engine(EngineError::Corrupt(_))), .. } => {
            Some("eventual replicas that lost their engines")
        }
        JobResult::BatchApplied { applied: Ok(()), .. } => Some("eventual batches applied by jobs"),
        JobResult::LookedUp { found: Ok(_), .. } => Some("eventual values looked up by jobs"),
        _ => None,
    }
}

fn job_name(job: &quorate_node::Job) -> String {
    use quorate_node::Job;
    match job {
        Job::Cut { file, .. } => format!("cut {file}"),
        Job::Load { file, .. } => format!("load {file}"),
        Job::Read { file, offset, .. } => format!("read {file} at {offset}"),
        Job::Stage { file, offset, .. } => format!("stage {file} at {offset}"),
        Job::Discard { file } => format!("discard what was received of {file}"),
        Job::Apply { work, .. } => format!("apply {work}"),
        Job::OpenEventual { place, .. } => format!("open {place}"),
        Job::LookUp { place, .. } => format!("look up at {place}"),
        Job::ApplyBatch { place, batch, .. } => format!("apply up to {} at {place}", batch.applied),
        Job::Build { file, place, .. } => format!("build {place} from {file}"),
        Job::Replay { place, work, .. } => format!("replay {work} at {place}"),
        Job::Reopen { place, .. } => format!("reopen {place}"),
        Job::Flush { .. } => "flush".to_owned(),
        Job::Fit { .. } => "fit an engine to its options".to_owned(),
        Job::ReadLeases { after, .. } => format!("read leases behind {after:?}"),
        Job::Retire { place, .. } => format!("retire {place}"),
        Job::Release { .. } => "release".to_owned(),
        Job::Forget { .. } => "forget all".to_owned(),
        Job::Remove { files, .. } => format!("remove {} files", files.len()),
    }
}

/// The planted bug of [`Mutation::SnapshotLosesEnds`].
fn lose_ends(process: &Process, group: GroupId) {
    let hosted = process.shell.hosted.keyspaces.values().find(|keyspace| keyspace.group == group && group.0 == CLIENT_GROUP);
    let Some(hosted) = hosted else { return };
    let view = hosted.engine.view();
    let rows = view.scan(Table::Meta, &quorate_engine::KeyRange::prefix(b"ttl/"), quorate_engine::Direction::Forward);
    let changes = rows.filter_map(|row| Some(quorate_engine::Change::Delete { table: Table::Meta, key: row.ok()?.0 })).collect();
    let batch = quorate_engine::Batch { applied: view.applied(), revision: view.revision(), changes };
    // The planted bug is in the engine's content; that the engine takes the batch is no part of it.
    hosted.engine.apply(batch).expect("a healthy engine takes any batch");
}

/// The planted bug of [`Mutation::SnapshotLosesKey`].
fn lose_key(process: &Process, group: GroupId) {
    let hosted = process.shell.hosted.keyspaces.values().find(|keyspace| keyspace.group == group && group.0 == CLIENT_GROUP);
    let Some(hosted) = hosted else { return };
    let view = hosted.engine.view();
    let mut batch = quorate_engine::Batch { applied: view.applied(), revision: view.revision(), changes: Vec::new() };
    let all = quorate_engine::KeyRange::all();
    if let Some(Ok((key, _))) = view.scan(Table::Current, &all, quorate_engine::Direction::Forward).next() {
        batch.changes.push(quorate_engine::Change::Delete { table: Table::Current, key });
        // The planted bug is in the engine's content; that the engine takes the batch is no part of it.
        hosted.engine.apply(batch).expect("a memory engine takes any batch");
    }
}
