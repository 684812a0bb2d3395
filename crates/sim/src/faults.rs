//! What goes wrong, and how it ends.

use std::collections::BTreeSet;
use std::io;

use quorate_api::cluster::{JoinAnswer, PeerAddress};
use quorate_engine::Engines;
use quorate_log::testing::Fault;
use quorate_node::{Input, SYSTEM_GROUP};

use crate::host::{Boot, Host, HostId, Process, ProcessEnd};
use crate::mutation::Mutation;
use crate::network::{DisturbanceId, Way, between};
use crate::operator::{Task, member_hosts};
use crate::oracle::CLIENT_GROUP;
use crate::queue::Event;
use crate::scenario::ENGINES;
use crate::simulation::Simulation;
use crate::violation::Step;

macro_rules! fault_kinds {
    ($($(#[doc = $doc:literal])* $kind:ident => $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[doc = $doc])* $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind),*];

            /// Its name in figures and on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

fault_kinds! {
    /// One host hears nobody, and nobody hears it.
    IsolateOne => "fault: isolate one",
    /// The same, for the leader.
    IsolateLeader => "fault: isolate leader",
    /// Two halves that do not hear each other.
    Split => "fault: split",
    /// Every host hears a majority, no two hear the same.
    MajoritiesRing => "fault: majorities ring",
    /// A host is heard, but hears nobody; or the other way round.
    OneWay => "fault: one-way partition",
    /// Links are stopped one after the other, and released in any order.
    Swizzle => "fault: swizzle",
    /// Messages take long.
    SlowLinks => "fault: slow links",
    /// A link with little bandwidth.
    NarrowLink => "fault: narrow link",
    /// Connections are reset.
    Reset => "fault: reset connections",
    /// A bit is flipped on the way.
    Garble => "fault: garble a frame",
    /// A process is killed.
    KillOne => "fault: kill one",
    /// The leader's is.
    KillLeader => "fault: kill leader",
    /// More than half of them are.
    KillMajority => "fault: kill majority",
    /// A machine loses power.
    PowerOne => "fault: power loss of one",
    /// All do.
    PowerAll => "fault: power loss of all",
    /// A process is killed again and again, soon after it has started.
    CrashLoop => "fault: crash loop",
    /// A process stands still for a while.
    PauseOne => "fault: pause one",
    /// The leader's does.
    PauseLeader => "fault: pause leader",
    /// A clock jumps forward.
    ClockJump => "fault: clock jump",
    /// Writes and syncs take long.
    SlowDisk => "fault: slow disk",
    /// An operation of the log's disk fails.
    FailDisk => "fault: failing log disk",
    /// An operation on snapshot files fails.
    FailFiles => "fault: failing snapshot disk",
    /// A disk has no room.
    FullDisk => "fault: full disk",
    /// A process is asked to end.
    ShutDown => "fault: graceful stop",
    /// A disk is lost; the node is taken out, and comes back as another one.
    Wipe => "fault: wiped disk",
    /// A node is taken out.
    Remove => "fault: remove node",
    /// A node comes in.
    Grow => "fault: add node",
    /// Leadership is handed over.
    Transfer => "fault: leader transfer",
    /// The clients' keyspace moves to another engine.
    Move => "fault: move to another engine",
    /// A machine loses power, and what its engines kept is damaged.
    Damage => "fault: damaged engine",
    /// Engines fail while their node runs.
    FailEngines => "fault: failing engines",
}

/// How a fault goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FaultStep {
    Lift(DisturbanceId),
    /// A host is cut off for so many milliseconds.
    CutOff(HostId, u64),
    /// A process ends again; so many times more after this.
    CrashAgain(HostId, u32),
    Resume(HostId, Boot),
    HealDisk(HostId),
}

impl Simulation {
    /// A fault begins, and the next one is scheduled.
    pub(crate) fn on_fault_begins(&mut self) -> Step {
        if !self.is_faulty_phase() {
            return Ok(());
        }
        let kind = self.random.pick(&self.scenario.faults).copied();
        if let Some(kind) = kind
            && self.begin_fault(kind)?
        {
            self.coverage.count(kind.name());
        }
        let us = self.random.skewed(self.scenario.fault_every_ms * 1000);
        self.queue.schedule(self.now.plus_us(us), Event::FaultBegins);
        Ok(())
    }

    /// False if there is nothing to do it to.
    fn begin_fault(&mut self, kind: FaultKind) -> Step<bool> {
        let target = match kind {
            FaultKind::IsolateLeader | FaultKind::KillLeader | FaultKind::PauseLeader => self.leading_host(),
            _ => self.any_running_host(),
        };
        let Some(target) = target else { return Ok(false) };
        self.trace.note(self.now, format_args!("{} {target}", kind.name()));
        match kind {
            FaultKind::IsolateOne | FaultKind::IsolateLeader => self.cut_off(target),
            FaultKind::Split => self.split(),
            FaultKind::MajoritiesRing => self.ring(),
            FaultKind::OneWay => self.one_way(target),
            FaultKind::Swizzle => self.swizzle(),
            FaultKind::SlowLinks | FaultKind::NarrowLink => self.slow_links(target, kind),
            FaultKind::Reset => self.reset_some(target),
            FaultKind::Garble => return Ok(self.garble_some(target)),
            FaultKind::KillOne | FaultKind::KillLeader => self.crash_and_restart(target, ProcessEnd::Killed),
            FaultKind::PowerOne => self.crash_and_restart(target, ProcessEnd::PowerLost),
            FaultKind::KillMajority => self.crash_many(self.hosts.len() / 2 + 1, ProcessEnd::Killed),
            FaultKind::PowerAll => self.crash_many(self.hosts.len(), ProcessEnd::PowerLost),
            FaultKind::CrashLoop => self.continue_fault(FaultStep::CrashAgain(target, 3)),
            FaultKind::PauseOne | FaultKind::PauseLeader => self.pause(target),
            FaultKind::ClockJump => {
                let ms = self.random.between(50, 4000);
                self.hosts[target.0].process.iter_mut().for_each(|process| process.clock.jump(ms));
                self.oracle.promises.on_jump(self.now);
                self.wake(target);
            }
            FaultKind::SlowDisk | FaultKind::FailDisk | FaultKind::FailFiles | FaultKind::FullDisk => {
                self.trouble_disk(target, kind);
            }
            FaultKind::ShutDown => {
                self.hosts[target.0].process.iter_mut().for_each(|process| process.shell.is_shutting_down = true);
                // Once it is drained, it is told to end: see `on_status`.
                self.tell(target, Input::Drain);
            }
            FaultKind::Wipe => return self.wipe(target),
            FaultKind::Damage => return Ok(self.damage(target)),
            FaultKind::FailEngines => return Ok(self.fail_engines(target)),
            FaultKind::Move => {
                let engine = *self.random.pick(&ENGINES).expect("not empty");
                self.operator.add(Task::Move(engine));
                return Ok(true);
            }
            FaultKind::Remove | FaultKind::Grow | FaultKind::Transfer => return Ok(self.change_members(target, kind)),
        }
        Ok(true)
    }

    /// A fault goes on, or ends.
    pub(crate) fn continue_fault(&mut self, step: FaultStep) {
        match step {
            FaultStep::Lift(id) => self.network.lift(id),
            FaultStep::CutOff(host, ms) if self.is_faulty_phase() => {
                let others = self.others(host);
                let id = self.network.block(between(&[host], &others));
                self.later(ms, FaultStep::Lift(id));
            }
            FaultStep::CrashAgain(host, left) if self.is_faulty_phase() => {
                self.crash(host, ProcessEnd::Killed);
                self.queue.schedule(self.now.plus_ms(50), Event::Start(host));
                if left > 0 {
                    let ms = self.random.between(100, 700);
                    self.later(ms, FaultStep::CrashAgain(host, left - 1));
                }
            }
            FaultStep::CutOff(..) | FaultStep::CrashAgain(..) => {}
            FaultStep::Resume(host, boot) => self.resume(host, boot),
            FaultStep::HealDisk(host) => self.heal_disk(host),
        }
    }

    /// Ends everything that is wrong.
    pub(crate) fn heal_all(&mut self) {
        self.network.heal();
        for id in (0..self.hosts.len()).map(HostId) {
            self.heal_disk(id);
            if let Some(boot) = self.hosts[id.0].process.as_ref().map(|process| process.boot) {
                self.resume(id, boot);
            }
            self.queue.schedule(self.now.plus_ms(10), Event::Start(id));
        }
    }

    fn later(&mut self, ms: u64, step: FaultStep) {
        self.queue.schedule(self.now.plus_ms(ms), Event::FaultContinues(step));
    }

    /// How long a fault lasts: short ones are as telling as those that outlast every timeout.
    fn duration_ms(&mut self) -> u64 {
        if self.random.chance(300) { self.random.between(20, 500) } else { self.random.between(500, 8000) }
    }

    fn any_running_host(&mut self) -> Option<HostId> {
        let running: Vec<HostId> = self.hosts.iter().filter(|host| host.process.is_some()).map(|host| host.id).collect();
        self.random.pick(&running).copied()
    }

    /// The host that leads the clients' keyspace, as far as can be told.
    pub(crate) fn leading_host(&self) -> Option<HostId> {
        let of = |host: &Host| {
            let replicas = &host.process.as_ref()?.shell.status.replicas;
            let leading = replicas.iter().find(|replica| replica.group.0 == CLIENT_GROUP && replica.role == "leader")?;
            Some((leading.term, host.id))
        };
        self.hosts.iter().filter_map(of).max().map(|(_, host)| host)
    }

    fn others(&self, host: HostId) -> Vec<HostId> {
        self.hosts.iter().map(|other| other.id).filter(|other| *other != host).collect()
    }

    fn cut_off(&mut self, host: HostId) {
        let others = self.others(host);
        self.block_for_a_while(between(&[host], &others));
    }

    fn block_for_a_while(&mut self, ways: BTreeSet<Way>) {
        let id = self.network.block(ways);
        let ms = self.duration_ms();
        self.later(ms, FaultStep::Lift(id));
    }

    fn split(&mut self) {
        let mut hosts: Vec<HostId> = self.hosts.iter().map(|host| host.id).collect();
        self.random.shuffle(&mut hosts);
        let middle = self.random.between(1, hosts.len() as u64 - 1) as usize;
        let (one, other) = hosts.split_at(middle);
        self.block_for_a_while(between(one, other));
    }

    fn ring(&mut self) {
        let members: Vec<HostId> = self.operator.members.iter().copied().collect();
        let reach = members.len() / 4 + 1;
        let mut ways = BTreeSet::new();
        for (position, host) in members.iter().enumerate() {
            for (other_position, other) in members.iter().enumerate() {
                let distance = position.abs_diff(other_position).min(members.len() - position.abs_diff(other_position));
                // In a ring of three, all are neighbours: one link of it is cut.
                let is_cut = distance > reach
                    || members.len() == 3
                        && position.min(other_position) == 0
                        && distance == 1
                        && position.max(other_position) == 2;
                if is_cut {
                    ways.insert((*host, *other));
                }
            }
        }
        self.block_for_a_while(ways);
    }

    fn one_way(&mut self, host: HostId) {
        let is_deaf = self.random.chance(500);
        let ways = self.others(host).into_iter().map(|other| if is_deaf { (other, host) } else { (host, other) });
        let ways = ways.collect();
        self.block_for_a_while(ways);
    }

    fn swizzle(&mut self) {
        for id in (0..self.hosts.len()).map(HostId) {
            if self.random.chance(600) {
                let (begins_ms, lasts_ms) = (self.random.below(2000), self.random.between(500, 4000));
                self.later(begins_ms, FaultStep::CutOff(id, lasts_ms));
            }
        }
    }

    fn slow_links(&mut self, host: HostId, kind: FaultKind) {
        let others = self.others(host);
        let ways = between(&[host], &others);
        let id = if kind == FaultKind::SlowLinks {
            let typical_us = self.random.between(20_000, 300_000);
            self.network.slow(ways, typical_us)
        } else {
            let bytes_per_ms = self.random.between(2, 200);
            self.network.narrow(ways, bytes_per_ms)
        };
        let ms = self.duration_ms();
        self.later(ms, FaultStep::Lift(id));
    }

    fn reset_some(&mut self, host: HostId) {
        for other in self.others(host) {
            if self.random.chance(600) {
                self.reset_connections(host, other);
            }
            if self.random.chance(600) {
                self.reset_connections(other, host);
            }
        }
    }

    fn garble_some(&mut self, host: HostId) -> bool {
        let others = self.others(host);
        others.iter().map(|other| self.garble(host, *other)).fold(false, |any, one| any | one)
    }

    fn crash_and_restart(&mut self, host: HostId, end: ProcessEnd) {
        self.crash(host, end);
        let ms = self.duration_ms();
        self.queue.schedule(self.now.plus_ms(ms), Event::Start(host));
    }

    fn crash_many(&mut self, count: usize, end: ProcessEnd) {
        let mut running: Vec<HostId> = self.hosts.iter().filter(|host| host.process.is_some()).map(|host| host.id).collect();
        self.random.shuffle(&mut running);
        for host in running.into_iter().take(count) {
            self.crash_and_restart(host, end);
        }
    }

    fn pause(&mut self, host: HostId) {
        let Some(process) = &mut self.hosts[host.0].process else { return };
        if process.shell.paused.is_none() {
            process.shell.paused = Some(Vec::new());
            let boot = process.boot;
            let ms = self.duration_ms();
            self.later(ms, FaultStep::Resume(host, boot));
        }
    }

    /// What happened to the process meanwhile happens now, all at once.
    fn resume(&mut self, host: HostId, boot: Boot) {
        let Some(process) = self.hosts[host.0].process_of(boot) else { return };
        let Some(deferred) = process.shell.paused.take() else { return };
        process.shell.runs_since = self.now;
        process.shell.wakes_at = None;
        for event in deferred {
            self.queue.schedule(self.now, event);
        }
        self.trace.note(self.now, format_args!("{host} goes on"));
        self.wake(host);
    }

    fn trouble_disk(&mut self, id: HostId, kind: FaultKind) {
        let ms = self.duration_ms();
        let used_bytes = self.hosts[id.0].process.as_ref().map_or(0, |process| process.log.usage().log_bytes);
        let slow_us = self.random.between(20_000, 400_000);
        let nth = self.random.below(6);
        let spare_bytes = self.random.below(3 * self.scenario.log.segment_bytes);
        let host = &mut self.hosts[id.0];
        match kind {
            FaultKind::SlowDisk => host.slowed_us = slow_us,
            FaultKind::FailDisk => {
                host.has_disk_trouble = true;
                host.log_disk.inject(host.log_disk.operation_count() + nth, Fault::Error(io::ErrorKind::Other));
            }
            FaultKind::FullDisk => {
                host.has_disk_trouble = true;
                host.log_disk.set_capacity(Some(used_bytes + spare_bytes));
            }
            _ => {
                host.has_disk_trouble = true;
                host.file_disk.inject(host.file_disk.operation_count() + nth, Fault::Error(io::ErrorKind::Other));
            }
        }
        self.later(ms, FaultStep::HealDisk(id));
    }

    fn heal_disk(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        host.slowed_us = 0;
        host.has_disk_trouble = false;
        for disk in [&host.log_disk, &host.file_disk] {
            disk.set_capacity(None);
            // Far beyond any operation: what was to fail and has not, no longer does.
            disk.inject(u64::MAX, Fault::Halt);
        }
    }

    /// A change of the membership must be over, or the next one could leave too few of those who know what was acknowledged.
    fn can_lose_a_disk(&self) -> bool {
        let has_it_durable = |host: &HostId| {
            let host = &self.hosts[host.0];
            let is_written = |process: &Process| {
                let shell = &process.shell;
                shell.writing.is_none() || shell.writing_since > self.operator.idle_since
            };
            host.folder.is_some() && host.process.as_ref().is_some_and(is_written)
        };
        self.operator.is_idle() && self.is_settled() && self.operator.members.iter().all(has_it_durable)
    }

    /// The log stays: only what the engines kept is gone. Others must have it.
    fn damage(&mut self, host: HostId) -> bool {
        let is_rebuilding = |host: &Host| {
            let status = host.process.as_ref().map(|process| &process.shell.status.replicas);
            status.is_none_or(|replicas| replicas.iter().any(|replica| replica.is_rebuilding))
        };
        let are_others_whole = self.operator.members.iter().all(|member| !is_rebuilding(&self.hosts[member.0]));
        if !self.can_lose_a_disk()
            || !are_others_whole
            || (self.writers.is_on_disk() && !self.is_eventual_up())
            || self.operator.members.len() < 3
            || !self.operator.members.contains(&host)
        {
            return false;
        }
        self.crash(host, ProcessEnd::PowerLost);
        let engines = &self.hosts[host.0].engines;
        let places = engines.places().unwrap_or_default();
        places.iter().for_each(|place| engines.damage(*place));
        if self.writers.is_on_disk() {
            self.writers.on_loss();
        }
        self.queue.schedule(self.now.plus_ms(500), Event::Start(host));
        !places.is_empty()
    }

    /// What is durable stays, and the log is whole: nobody else is needed.
    fn fail_engines(&mut self, host: HostId) -> bool {
        let places = self.hosts[host.0].engines.places().unwrap_or_default();
        for place in &places {
            let failing_opens = self.random.below(3) as u32;
            self.hosts[host.0].engines.fail(*place, failing_opens);
        }
        !places.is_empty()
    }

    fn wipe(&mut self, host: HostId) -> Step<bool> {
        if !self.can_lose_a_disk() || self.operator.members.len() < 3 || !self.operator.members.contains(&host) {
            return Ok(false);
        }
        self.crash(host, ProcessEnd::PowerLost);
        if self.scenario.mutation == Some(Mutation::WipedNodeKeepsId) {
            return self.wipe_but_keep_id(host);
        }
        self.hosts[host.0].wipe();
        self.writers.on_loss();
        self.operator.add(Task::Remove(host));
        self.operator.add(Task::Join(host));
        Ok(true)
    }

    fn wipe_but_keep_id(&mut self, host: HostId) -> Step<bool> {
        let Some(catalog) = self.latest_catalog() else { return Ok(false) };
        let Some(folder) = self.hosts[host.0].folder.take() else { return Ok(false) };
        let node = folder.identity.node;
        let replica_of =
            |node| catalog.shard(SYSTEM_GROUP).and_then(|(_, _, shard)| shard.replica_on(node)).map_or(0, |own| own.replica);
        let others = member_hosts(&catalog).into_iter().filter(|(other, _)| *other != node);
        let peers = others.map(|(node_id, other)| PeerAddress {
            node_id,
            system_replica: replica_of(node_id),
            peer_address: other.peer_address(),
        });
        let answer = JoinAnswer {
            cluster_id: format!("{:016x}", folder.identity.cluster),
            node_id: node,
            system_replica: replica_of(node),
            peers: peers.collect(),
        };
        self.hosts[host.0].wipe();
        self.writers.on_loss();
        self.join(host, answer)?;
        self.hosts[host.0].folder.iter_mut().for_each(|new| new.identity.incarnation = folder.identity.incarnation);
        Ok(true)
    }

    fn change_members(&mut self, host: HostId, kind: FaultKind) -> bool {
        if kind == FaultKind::Transfer {
            let group = if self.random.chance(700) { CLIENT_GROUP } else { SYSTEM_GROUP };
            self.operator.add(Task::Transfer(group, host));
            return true;
        }
        if !self.can_lose_a_disk() {
            return false;
        }
        if kind == FaultKind::Remove {
            let is_member = self.operator.members.contains(&host) && self.operator.members.len() > 1;
            if is_member {
                self.operator.add(Task::Remove(host));
            }
            return is_member;
        }
        let outside = self.hosts.iter().find(|host| host.folder.is_none() && host.process.is_none()).map(|host| host.id);
        if let Some(outside) = outside {
            self.operator.add(Task::Join(outside));
        }
        outside.is_some()
    }
}
