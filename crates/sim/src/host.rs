//! Hosts and the processes on them: disks that outlive a process, and what a process is made of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use quorate_api::cluster::{JoinRequest, PeerAddress};
use quorate_api::peer::Lane;
use quorate_engine::View;
use quorate_engine::testing::SimulatedEngines;
use quorate_keyspace::watch::Feed;
use quorate_log::testing::{Fault, MemoryDisk};
use quorate_log::{Batch, GroupId, Log};
use quorate_node::{Catalog, Hosted, Identity, Input, Job, Monotonic, Node, NodeStatus};

use crate::journal::Journal;
use crate::node_watches::Told;
use crate::queue::Event;
use crate::random::Random;
use crate::time::{Clock, SimTime, WallClock};

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostId(pub(crate) usize);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0 + 1)
    }
}

impl HostId {
    /// The address of the peer transport on it.
    pub(crate) fn peer_address(self) -> String {
        format!("{self}:2380")
    }

    /// The address of the API on it.
    pub(crate) fn client_address(self) -> String {
        format!("{self}:2379")
    }

    /// The host with this address of the peer transport.
    pub(crate) fn from_peer_address(address: &str) -> Option<Self> {
        let number: usize = address.strip_prefix('n')?.strip_suffix(":2380")?.parse().ok()?;
        number.checked_sub(1).map(Self)
    }
}

/// Which start of a process; no two in a simulation are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Boot(pub(crate) u64);

/// A machine: its disks, what the shell keeps on them beside log and snapshots, and the process, if one runs.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) log_disk: MemoryDisk,
    pub(crate) file_disk: MemoryDisk,
    pub(crate) engines: Arc<SimulatedEngines>,
    /// None on an empty disk.
    pub(crate) folder: Option<Folder>,
    pub(crate) process: Option<Process>,
    /// Operations of its disks take this much longer, typically.
    pub(crate) slowed_us: u64,
    /// A disk of it is made to fail: what follows from that is no bug.
    pub(crate) has_disk_trouble: bool,
    pub(crate) wall_clock: WallClock,
    /// Drawn when it first asks to be let in.
    pub(crate) joining: Option<JoinRequest>,
}

/// What the shell keeps in the data folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) identity: Identity,
    /// Those that were there when the node was let in.
    pub(crate) first_peers: Vec<PeerAddress>,
    pub(crate) seen_incarnations: BTreeMap<u64, u64>,
}

/// A running process: the node and the shell around it.
pub(crate) struct Process {
    pub(crate) boot: Boot,
    pub(crate) node: Node<MemoryDisk>,
    pub(crate) log: Log<MemoryDisk>,
    pub(crate) clock: Clock,
    pub(crate) shell: Shell,
}

/// The state of the shell.
#[derive(Debug)]
pub(crate) struct Shell {
    /// What the node is to be told at its next poll.
    pub(crate) inbox: Vec<Input>,
    /// When that is, if it is decided.
    pub(crate) wakes_at: Option<SimTime>,
    /// Batches that wait for the log, with their tickets.
    pub(crate) unwritten: VecDeque<(u64, Batch)>,
    /// What the log is writing.
    pub(crate) writing: Option<(u64, Vec<Batch>)>,
    pub(crate) writing_since: SimTime,
    /// Jobs by group; the first of each is under way.
    pub(crate) jobs: BTreeMap<GroupId, VecDeque<Job>>,
    pub(crate) is_disk_full: bool,
    pub(crate) is_shutting_down: bool,
    pub(crate) paused: Option<Vec<Event>>,
    /// When it last went on after a pause, or began.
    pub(crate) runs_since: SimTime,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) hosted: Arc<Hosted>,
    pub(crate) status: Arc<NodeStatus>,
    /// Where peers are, by node.
    pub(crate) addresses: BTreeMap<u64, HostId>,
    /// The newest accepted connection of each peer and lane, and how many there were in all.
    pub(crate) accepted: BTreeMap<(u64, Lane), u64>,
    pub(crate) last_connection: u64,
    pub(crate) journal: Journal,
    /// The applied index and the revision that were seen last, by group.
    pub(crate) published: BTreeMap<u64, (u64, u64)>,
    pub(crate) answered: BTreeSet<u64>,
    /// What was applied lately, by group; of those that somebody watched.
    pub(crate) feeds: BTreeMap<u64, Feed>,
    /// What was told of replicas of eventual keyspaces, by group.
    pub(crate) told: BTreeMap<u64, Told>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("boot", &self.boot).field("identity", self.node.identity()).finish_non_exhaustive()
    }
}

impl Host {
    /// A machine with empty disks.
    pub(crate) fn new(id: HostId) -> Self {
        Self {
            id,
            log_disk: MemoryDisk::new(),
            file_disk: MemoryDisk::new(),
            engines: Arc::default(),
            folder: None,
            process: None,
            slowed_us: 0,
            has_disk_trouble: false,
            wall_clock: WallClock::default(),
            joining: None,
        }
    }

    /// The process, if it is this one.
    pub(crate) fn process_of(&mut self, boot: Boot) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.boot == boot)
    }

    /// Whether a process runs, and is not paused.
    pub(crate) fn is_awake(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.shell.paused.is_none())
    }

    /// The node that runs here.
    pub(crate) fn node_id(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.node.identity().node)
    }

    /// Ends the process. What it was writing gets as far as chance has it.
    pub(crate) fn end_process(&mut self, end: ProcessEnd, random: &mut Random) -> Option<Boot> {
        let mut process = self.process.take()?;
        if let Some((_, batches)) = process.shell.writing.take() {
            halt_soon(&self.log_disk, random);
            // Whether it got there does not matter: nobody is told any more.
            let _ = process.log.write(&batches);
        }
        for (_, mut jobs) in std::mem::take(&mut process.shell.jobs) {
            if let Some(job) = jobs.pop_front() {
                halt_soon(&self.file_disk, random);
                job.run(&self.file_disk, self.engines.as_ref());
            }
        }
        for disk in [&mut self.log_disk, &mut self.file_disk] {
            *disk = match end {
                ProcessEnd::Killed => disk.restart(),
                ProcessEnd::PowerLost => {
                    let halted_bytes = random.below(disk.halted_bytes() as u64 + 1) as usize;
                    disk.power_loss(halted_bytes, &mut |bound| random.below(bound))
                }
            };
        }
        Some(process.boot)
    }

    /// Takes everything that was stored away.
    pub(crate) fn wipe(&mut self) {
        assert!(self.process.is_none(), "a disk is not taken from a running process");
        self.log_disk = MemoryDisk::new();
        self.file_disk = MemoryDisk::new();
        self.engines = Arc::default();
        self.folder = None;
        self.joining = None;
    }
}

/// Makes one of the next operations the last.
fn halt_soon(disk: &MemoryDisk, random: &mut Random) {
    disk.inject(disk.operation_count() + random.below(4), Fault::Halt);
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// The machine goes on: what was written is there.
    Killed,
    /// What was not synced may be lost or torn.
    PowerLost,
}

impl Shell {
    /// The shell of a process that starts.
    pub(crate) fn new(now: SimTime, journal: Journal) -> Self {
        Self {
            inbox: Vec::new(),
            wakes_at: None,
            unwritten: VecDeque::new(),
            writing: None,
            writing_since: now,
            jobs: BTreeMap::new(),
            is_disk_full: false,
            is_shutting_down: false,
            paused: None,
            runs_since: now,
            catalog: Arc::default(),
            hosted: Arc::default(),
            status: Arc::default(),
            addresses: BTreeMap::new(),
            accepted: BTreeMap::new(),
            last_connection: 0,
            journal,
            published: BTreeMap::new(),
            answered: BTreeSet::new(),
            feeds: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// What can be read of a group here, with the keyspace's name.
    pub(crate) fn view(&self, group: u64) -> Option<Arc<dyn View>> {
        self.hosted.keyspaces.values().find(|keyspace| keyspace.group.0 == group).map(|keyspace| keyspace.engine.view())
    }
}

impl Process {
    /// What the process' clock shows.
    pub(crate) fn local_time(&self, now: SimTime) -> Monotonic {
        self.clock.read(now)
    }
}
