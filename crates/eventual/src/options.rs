//! How a replica behaves, and its limits with their reasons.

use crate::schedule::Schedule;
use crate::version::InstanceId;

/// Settings of a keyspace's replicas; the same at all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// When entries travel.
    pub trigger: Trigger,
    /// Makes a keyspace that is copied a mirror: this instance is written to, and the others, which refuse writes, have what it
    /// has. A copy takes the place of what was there, instead of being merged. Of no effect with other triggers.
    pub mirror_of: Option<InstanceId>,
    /// The engine is a cache: see [`CacheOptions`]. Such replicas are not durable, and are not copied as a whole.
    pub cache: Option<CacheOptions>,
    /// When, beside that, what was collected is sent, or everything copied. A time that a durable replica missed, because it was
    /// away, it makes up for when it is back. Of no effect where reads ask others.
    pub schedule: Option<Schedule>,
    /// Whether what is merged is kept in the log. Without it a replica that starts is empty, and another instance.
    pub is_durable: bool,
    /// Most bytes per second of copies that leave this replica, to all others together; none: no bound. Bytes are those of keys
    /// and of what is there, with some for each pair. Comparisons are not bounded.
    pub copy_rate: Option<u64>,
    /// A piece of a copy carries about so much at most, in bytes, or one entry that is larger. As many of them as may be on their
    /// way to a peer have room in a peer's queue.
    pub copy_piece_bytes: u64,
    /// What may be changed during a mirror's copy for the copy to be of one moment, in bytes: about so much is kept beside what
    /// there is. Beyond it the rest is copied as it is when it is sent.
    pub max_pinned_bytes: u64,
    /// What a mirror keeps aside of a copy that comes in, in bytes, beside its keys: one that changes no more than that takes its
    /// place at once. Of a larger change readers see parts before it has ended.
    pub max_staged_bytes: u64,
    /// Whom a write waits for that does not say so itself.
    pub ack: Ack,
    /// Two replicas compare what they have at least this often, on average, in milliseconds; 0: only when there is a reason to.
    pub sync_interval_ms: u64,
    /// Members tell each other how far they are this often while that changes, in milliseconds.
    pub report_interval_ms: u64,
    /// And this often at least while nothing does, in milliseconds.
    pub max_report_interval_ms: u64,
    /// Most bytes of keys and values. Beyond it own values are refused; what others took is kept, and deletes are always
    /// possible.
    pub max_bytes: u64,
    /// Own writes that a peer has not confirmed, in bytes. Beyond it writers are held up, and after `throttle_ms` the slowest
    /// peer gets no more of them: it is compared with later. So is one that was not heard of for an hour, but for caches.
    pub outbox_max_bytes: u64,
    /// How long a write waits for room in the outbox, in milliseconds.
    pub throttle_ms: u64,
    /// A wall clock that is further than this from the median of the others stops writes, in milliseconds.
    pub max_clock_offset_ms: u64,
    /// Whether the newest conflicts are kept, for people to look at: [`crate::Replica::conflicts`].
    pub logs_conflicts: bool,
    /// Levels of the digest below its root: 1 to 4. Replicas that are compared have the same.
    pub digest_levels: u8,
    /// Decides where keys lie in the digest. The same at all replicas, and unknown to clients.
    pub digest_seed: u64,
    /// A checkpoint begins once the log has grown by this much since the last one, or by as much as there are data. An engine
    /// that is durable is flushed instead, once the log has grown by this much.
    pub checkpoint_bytes: u64,
}

/// How a cache is kept. What it evicts is gone here and nowhere else; nobody brings it back but a reader who asks others, or
/// writes it again. So replicas are never compared, and a value may be stale or come back after its key was deleted for as long
/// as it lives: that is why all of them end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Values live this long at most, in milliseconds, and so long if their writer says nothing.
    pub ttl_ms: u64,
    /// Whether others are told only that there is a newer value, and not which.
    pub invalidates: bool,
}

/// When entries travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// After each write, or each batch of them.
    Write(Batching),
    /// When they are asked for: a read asks others which version they have, and keeps the greatest.
    Read {
        /// How many are asked: as many of the others as this.
        fanout: usize,
        /// How long a read waits for them, in milliseconds.
        deadline_ms: u64,
        /// A read that got fewer answers fails.
        min_answers: usize,
        /// Whether those who were behind are told what was found.
        repairs_others: bool,
    },
    /// All at once.
    Copy(CopyWhen),
}

/// When collected writes are sent; whichever comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Since the first of them, in milliseconds; `u64::MAX`: never for that reason.
    pub interval_ms: u64,
    /// So many writes of this node.
    pub max_entries: u64,
    /// So many bytes of them.
    pub max_bytes: u64,
}

/// When everything is copied to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyWhen {
    /// After a write, once there was none for `quiet_ms`, and not more often than `min_interval_ms`.
    OnWrite {
        /// Milliseconds without a write.
        quiet_ms: u64,
        /// Milliseconds from one copy to the next.
        min_interval_ms: u64,
    },
    /// Every so many milliseconds.
    Every(u64),
    /// When somebody asks for it.
    Manual,
}

/// Whom a write waits for, besides the own log: until its deadline, or until all that are heard of have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Nobody.
    Local,
    /// So many other members. A write that asks for more than there are itself is refused.
    Others(u32),
    /// All other members that are up, whether or not they can be reached.
    AllUp,
}

impl Options {
    /// The defaults of a keyspace with this trigger.
    pub fn new(trigger: Trigger) -> Self {
        Self {
            trigger,
            mirror_of: None,
            cache: None,
            schedule: None,
            is_durable: true,
            copy_rate: None,
            copy_piece_bytes: 512 << 10,
            max_pinned_bytes: 64 << 20,
            max_staged_bytes: 128 << 20,
            ack: Ack::Local,
            sync_interval_ms: 60_000,
            report_interval_ms: 1_000,
            max_report_interval_ms: 16_000,
            max_bytes: u64::MAX,
            outbox_max_bytes: 64 << 20,
            throttle_ms: 100,
            max_clock_offset_ms: 500,
            logs_conflicts: false,
            digest_levels: 4,
            digest_seed: 0,
            checkpoint_bytes: 64 << 20,
        }
    }

    /// How writes are collected, if they are sent by themselves.
    pub(crate) fn batching(&self) -> Option<&Batching> {
        match &self.trigger {
            Trigger::Write(batching) => Some(batching),
            Trigger::Read { .. } | Trigger::Copy(_) => None,
        }
    }
}

impl Trigger {
    /// On each write: after a millisecond, or 256 KiB.
    pub fn push() -> Self {
        Self::Write(Batching { interval_ms: 1, max_entries: u64::MAX, max_bytes: 256 << 10 })
    }
}

/// A message carries about this much at most; one entry that is larger goes alone. Small enough not to hold up what follows on
/// the lane.
pub(crate) const MAX_MESSAGE_BYTES: u64 = 256 << 10;

/// What a pair takes in a message or record, besides its key and what is there; about.
pub(crate) const PAIR_BYTES: u64 = 32;

/// Entries of a message at most.
pub(crate) const MAX_MESSAGE_PAIRS: usize = 4096;

/// An engine that may stall is given about so much at once; what belongs together is one batch, however much it is.
pub(crate) const MAX_BATCH_BYTES: usize = 4 << 20;

/// Any other is given about so much at once, so that what is told of one batch stays small.
pub(crate) const MAX_MEMORY_BATCH_BYTES: usize = 1 << 20;

/// Keys and entries of a batch of which watchers are told; they are told all of it in one message. More than any batch has but
/// that of a copy, which takes its place at once.
pub(crate) const MAX_TOLD_BYTES: usize = 8 << 20;

const _: () = assert!(MAX_MEMORY_BATCH_BYTES <= MAX_BATCH_BYTES && 2 * MAX_BATCH_BYTES <= MAX_TOLD_BYTES);

/// What waits for an engine that may stall. Beyond it writes are refused, and what peers send is not taken in: they send it
/// again.
pub(crate) const MAX_BACKLOG_BYTES: usize = 64 << 20;

/// Frames of own writes on their way to a peer: enough to fill a round trip, few enough for a slow peer to slow its sender down.
pub(crate) const MAX_INFLIGHT_FRAMES: usize = 8;

/// Requests of a round on their way at once.
pub(crate) const MAX_OPEN_REQUESTS: usize = 8;

/// Parts in one request of a round: the answer is at most sixteen sums of each.
pub(crate) const MAX_ASKED_NODES: usize = 256;

/// Hashes in one request of a round.
pub(crate) const MAX_WANTED_HASHES: usize = 4096;

/// What was not answered is sent again after this long.
pub(crate) const RESEND_MS: u64 = 1_000;

/// A round without progress for this long is given up.
pub(crate) const ROUND_STALL_MS: u64 = 10_000;

/// A copy that is to take the place of what there is, and is broken off, goes on for so long if the other side is heard of again;
/// then it begins anew.
pub(crate) const MAX_PAUSED_MS: u64 = 10 * 60 * 1_000;

/// No source has more pieces of a copy on their way at once, whatever its version: who got one that is further ahead than that
/// has lost some that it had confirmed.
pub(crate) const MAX_PIECES_AHEAD: u64 = 64;

const _: () = assert!(MAX_OPEN_REQUESTS as u64 <= MAX_PIECES_AHEAD, "what is on its way is not lost");

/// After a round that was given up the next one waits this long.
pub(crate) const ROUND_PAUSE_MS: u64 = 1_000;

/// Who was not heard of for so many report intervals, and for twice the time that it said itself, counts as unreachable.
pub(crate) const SILENT_INTERVALS: u64 = 2;

/// What a member has not confirmed is kept for it in the outbox while it has been away for less than this. Each change of a key
/// that another member was sent has a place of its own there, so that after long a comparison brings less, and costs no memory.
pub(crate) const MAX_KEPT_FOR_MS: u64 = 60 * 60 * 1_000;

/// A member that was never heard of is waited for this long: a node that starts reads its log first.
pub(crate) const MAX_STARTING_MS: u64 = 10_000;

/// So many reports in a row with a clock that is off stop writes: one late message is no proof.
pub(crate) const SKEWED_REPORTS: u32 = 3;

/// Writes that wait: for room, for the log, for peers. Beyond it they are refused.
pub(crate) const MAX_WAITING_WRITES: usize = 16 << 10;

/// How long a read waits for those who may have later what its session has seen.
pub(crate) const SESSION_WAIT_MS: u64 = 1_000;

/// Reads that wait for others. Beyond it they are refused.
pub(crate) const MAX_WAITING_READS: usize = 16 << 10;

/// Flushes and comparisons that somebody waits for; more are refused. People and jobs ask for them, not each request.
pub(crate) const MAX_WAITS: usize = 1024;

/// Between two pieces of a checkpoint, if nothing else happens: at most some 50 MB/s, so that it leaves the log to others, too.
pub(crate) const CHECKPOINT_PAUSE_MS: u64 = 20;

/// Expired values and stable tombstones that one poll takes care of: so that it stays short.
pub(crate) const MAX_SWEPT: usize = 1_000;

/// One record of the log takes about this much at most.
pub(crate) const MAX_RECORD_BYTES: usize = 1 << 20;
