//! What a seed decides before anything happens: the cluster, its settings, its load, and what goes wrong.

use quorate_log::Options;
use quorate_node::{Config, RetentionRecord};

use crate::faults::FaultKind;
use crate::mutation::Mutation;
use crate::random::Random;

/// A run's settings. Everything in it follows from the seed, unless a test says otherwise.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Nodes to begin with.
    pub nodes: usize,
    /// How long things go wrong, in simulated milliseconds.
    pub safety_ms: u64,
    /// Settings of the nodes.
    pub node: Config,
    /// Settings of their logs.
    pub log: Options,
    /// The load.
    pub load: Load,
    /// How much of the past the clients' keyspace keeps.
    pub retention: RetentionRecord,
    /// How fast things are when nothing is wrong.
    pub speed: Speed,
    /// What goes wrong.
    pub faults: Vec<FaultKind>,
    /// Milliseconds between two faults, typically.
    pub fault_every_ms: u64,
    /// A bug that is planted, to see that it is found.
    pub mutation: Option<Mutation>,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients; each has one operation under way at most.
    pub clients: usize,
    /// Keys; few, so that clients meet.
    pub keys: u64,
    /// Milliseconds between two operations of a client, typically.
    pub think_ms: u64,
    /// How long a client waits for an answer.
    pub timeout_ms: u64,
    /// Values are this long at most.
    pub max_value_bytes: u64,
}

/// Typical durations, in microseconds; single ones differ widely.
#[derive(Clone, Debug)]
pub struct Speed {
    /// One way over the network.
    pub network_us: u64,
    /// A write to the log with its sync.
    pub sync_us: u64,
    /// A piece of work on snapshot files.
    pub job_us: u64,
    /// From an event to the node's loop looking at it.
    pub poll_us: u64,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = if random.chance(250) { 5 } else { 3 };
        let node = node_settings(&mut random);
        let log = log_settings(&mut random, &node);
        let load = Load {
            clients: random.between(2, 8) as usize,
            keys: random.between(1, 10),
            think_ms: *random.pick(&[5, 20, 50]).expect("not empty"),
            timeout_ms: *random.pick(&[500, 1500, 3000]).expect("not empty"),
            max_value_bytes: *random.pick(&[16, 200, 2000]).expect("not empty"),
        };
        let speed = Speed {
            network_us: *random.pick(&[100, 500, 5000, 20_000]).expect("not empty"),
            sync_us: *random.pick(&[200, 1000, 10_000]).expect("not empty"),
            job_us: *random.pick(&[500, 2000, 10_000]).expect("not empty"),
            poll_us: *random.pick(&[10, 100, 1000]).expect("not empty"),
        };
        // Each kind in half of the runs: what one fault hides, a run without it shows.
        let mut faults: Vec<FaultKind> = FaultKind::ALL.into_iter().filter(|_| random.chance(500)).collect();
        if faults.is_empty() {
            faults.push(FaultKind::KillLeader);
        }
        let fault_every_ms = *random.pick(&[300, 1000, 3000]).expect("not empty");
        // Drawn last, so that all else is as it was before there was history.
        let retention = RetentionRecord {
            max_revisions: *random.pick(&[1, 10, 100, 10_000]).expect("not empty"),
            max_age_ms: *random.pick(&[500, 5000, 3_600_000]).expect("not empty"),
            max_bytes: 1 << 30,
        };
        Self { seed, nodes, safety_ms: 30_000, node, log, load, retention, speed, faults, fault_every_ms, mutation: None }
    }
}

impl Scenario {
    /// The same with a planted bug, and with the faults in which it shows.
    #[must_use]
    pub fn planting(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        match mutation {
            Mutation::AckBeforeSync => {
                // Or the first thing to be found is that an entry cannot be read back that was never written.
                self.node.entry_cache_bytes = 16 << 20;
                self.faults = vec![FaultKind::PowerOne, FaultKind::PowerAll];
            }
            Mutation::VoteNotWritten => {
                self.fault_every_ms = 300;
                self.faults = vec![FaultKind::CrashLoop, FaultKind::KillMajority, FaultKind::IsolateLeader, FaultKind::SlowLinks];
            }
            Mutation::KeptAliveWithoutIndex | Mutation::LeaderKeepsOldTime => {
                self.fault_every_ms = 3000;
                self.faults = vec![FaultKind::IsolateLeader, FaultKind::Transfer];
            }
            Mutation::VersionLost | Mutation::VersionMisplaced => {
                self.retention = RetentionRecord { max_revisions: 10_000, max_age_ms: 3_600_000, max_bytes: 1 << 30 };
            }
            Mutation::WipedNodeKeepsId => self.faults = vec![FaultKind::Wipe, FaultKind::IsolateLeader, FaultKind::Split],
            Mutation::ReplicatedOverstated => {
                self.fault_every_ms = 1000;
                self.faults = vec![FaultKind::KillOne, FaultKind::KillMajority, FaultKind::IsolateLeader];
            }
            _ => {}
        }
        self
    }
}

/// The engines of the clients' keyspace: one in memory, one that comes back by itself.
pub(crate) const ENGINES: [&str; 2] = ["trie", "btree"];

/// Small limits, so that a short run meets them.
fn node_settings(random: &mut Random) -> Config {
    Config {
        default_engine: (*random.pick(&ENGINES).expect("not empty")).to_owned(),
        flush_log_bytes: *random.pick(&[2 << 10, 16 << 10, 128 << 10]).expect("not empty"),
        snapshot_log_bytes: *random.pick(&[2 << 10, 16 << 10, 128 << 10]).expect("not empty"),
        // A shard with its history is some tens of KiB: with smaller pieces a slow network would have them for minutes.
        snapshot_chunk_bytes: *random.pick(&[1 << 10, 4 << 10, 64 << 10]).expect("not empty"),
        max_entry_bytes: *random.pick(&[64, 1 << 10, 1 << 20]).expect("not empty"),
        max_pending_requests: *random.pick(&[2, 16 << 10]).expect("not empty"),
        max_pending_bytes: *random.pick(&[8 << 10, 64 << 20]).expect("not empty"),
        entry_cache_bytes: *random.pick(&[0, 4 << 10, 16 << 20]).expect("not empty"),
        ..Config::default()
    }
}

fn log_settings(random: &mut Random, node: &Config) -> Options {
    let segment_bytes = *random.pick(&[16 << 10, 64 << 10, 256 << 10]).expect("not empty");
    Options {
        segment_bytes,
        // Room for what two snapshots leave in the log, and for what cleaning leaves behind.
        max_log_bytes: 32 * segment_bytes + 8 * node.snapshot_log_bytes,
        reserve_bytes: *random.pick(&[0, 4 << 10, 64 << 10]).expect("not empty"),
        max_spare_segments: random.below(4) as usize,
    }
}
