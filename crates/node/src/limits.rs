//! Limits and times of a node, with reasons.

/// Settings of a node; the same on all nodes of a cluster unless said otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    /// One tick: the interval of heartbeats.
    pub tick_ms: u64,
    /// A follower waits between one and two times this many ticks for its leader.
    pub election_ticks: usize,
    /// A local snapshot is cut once as much log as this was applied since the last one, or as the last one's size, if that
    /// is more: so that writing snapshots costs at most as much as writing the log.
    pub snapshot_log_bytes: u64,
    /// A durable engine is flushed once as much log as this was applied since the last flush: what it holds back in memory, and
    /// what is applied again at a start.
    pub flush_log_bytes: u64,
    /// A piece of a snapshot on the bulk lane.
    pub snapshot_chunk_bytes: u64,
    /// Commands are packed into entries of at most this size; a larger command gets an entry of its own.
    pub max_entry_bytes: usize,
    /// Requests that wait on this node. Beyond it: [`crate::Failure::Overloaded`].
    pub max_pending_requests: usize,
    /// Bytes of waiting writes. Beyond it: [`crate::Failure::Overloaded`].
    pub max_pending_bytes: usize,
    /// Most bytes of keys and records in a keyspace on a memory engine, unless its settings say otherwise.
    pub default_max_bytes: u64,
    /// The engine of keyspace `default` in a new cluster.
    pub default_engine: String,
    /// The log entries kept in memory per group, for followers that are a little behind.
    pub entry_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tick_ms: 100,
            election_ticks: 10,
            snapshot_log_bytes: 64 << 20,
            flush_log_bytes: 64 << 20,
            snapshot_chunk_bytes: 256 << 10,
            max_entry_bytes: 1 << 20,
            max_pending_requests: 16 << 10,
            max_pending_bytes: 64 << 20,
            default_max_bytes: 1 << 30,
            default_engine: crate::catalog::DEFAULT_ENGINE.to_owned(),
            entry_cache_bytes: 16 << 20,
        }
    }
}

/// The shortest life of a lease, unless an election takes longer.
const MIN_LEASE_TTL_MS: u64 = 2_000;

impl Config {
    /// The shortest life of a lease, in milliseconds. Whoever keeps one alive must live through the election of a leader.
    pub fn min_lease_ttl_ms(&self) -> u64 {
        let election_ms = self.tick_ms * self.election_ticks as u64;
        MIN_LEASE_TTL_MS.max((election_ms * 3).div_ceil(2))
    }
}

/// Voters of a group at most: more make every write slower and hardly anything safer.
pub(crate) const MAX_VOTERS: usize = 5;

/// Keyspaces at most, the system keyspace among them. A node that joins a cluster of twenty gets a replica of each in one write
/// to the catalog, which so stays below what fits into one.
pub(crate) const MAX_KEYSPACES: usize = 10_000;

/// Raft messages on their way to one follower. With 1 MiB each they are what the append lane's queue holds; of larger ones (a
/// command above 1 MiB goes alone) the queue refuses some, and raft-rs probes again.
pub(crate) const MAX_INFLIGHT_MESSAGES: usize = 64;

/// Entries handed to the state machine at once: one engine batch.
pub(crate) const MAX_APPLY_BYTES: u64 = 4 << 20;

/// Runs of entries that a new engine is given beside the one that serves. After them the present engine is held until the new
/// one has caught up: it may be too slow to do so otherwise.
pub(crate) const MAX_REPLAY_ROUNDS: u32 = 1000;

/// Ticks before a move to another engine that failed is tried again.
pub(crate) const MOVE_PAUSE_TICKS: u32 = 100;

/// Bytes of committed entries that wait to be applied. Beyond it a follower takes no more in, and a leader proposes no more.
pub(crate) const MAX_BACKLOG_BYTES: usize = 64 << 20;

/// Proposed and not yet committed, per group. Beyond it proposals are refused as overload.
pub(crate) const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;

/// Read-index rounds on their way at once, per group: one more can gather while one travels.
pub(crate) const MAX_READ_ROUNDS: usize = 2;

/// Leases in one question.
pub const MAX_ASKED_LEASES: usize = 10_000;

/// Leases in all questions that wait on this node. Beyond it: [`crate::Failure::Overloaded`].
pub(crate) const MAX_WAITING_LEASES: usize = 1 << 20;

/// Snapshot pieces on their way to one follower before it must acknowledge.
pub(crate) const SNAPSHOT_WINDOW_CHUNKS: u64 = 4;

/// Snapshots that a node sends at once; a further follower waits for its turn.
pub(crate) const MAX_SNAPSHOT_SENDS: usize = 2;

/// A transfer that makes no progress for this long is given up, and begun again where it stopped.
pub(crate) const SNAPSHOT_STALL_MS: u64 = 10_000;

/// Forwarded writes are put into frames of about this size; a larger one goes alone.
pub(crate) const MAX_FORWARD_FRAME_BYTES: usize = 1 << 20;

/// Forwarded writes on their way to one node, without an answer. Beyond it writes wait here: the request lane must never refuse
/// what would be sent again and again. A larger one goes alone.
pub(crate) const MAX_FORWARDED_BYTES: usize = 4 << 20;

/// What was received of a snapshot is kept this long for the sender to go on with, then removed.
pub(crate) const RECEIVE_KEPT_MS: u64 = 60_000;

/// A learner this close to the leader's log is promoted.
pub(crate) const PROMOTE_WITHIN_ENTRIES: u64 = 1000;

const _: () = assert!(MAX_UNCOMMITTED_BYTES >= (MAX_INFLIGHT_MESSAGES as u64) << 20);
