//! The write-ahead log of a node, shared by all its groups. FORMAT.md has the bytes.
//!
//! It keeps, per group, a sequence of entries, a vote, and one opaque state blob. It does not know what any of them mean.
//! All I/O goes through [`Disk`], so that the simulator can lose, tear and refuse writes.
//!
//! [`Log`] is the one writer: whatever is passed to one [`Log::write`] becomes one batch on disk, written and synced once, and
//! is there wholly or not at all after a crash. [`Reader`]s share its index and may be cloned into any thread.
//!
//! The log never purges by itself and never refuses a write because of its cap: it reports [`Usage`], and the node decides. It
//! starts no thread and reads no clock; every call blocks for the I/O it needs.

mod batch;
mod cleaning;
mod disk;
mod error;
mod format;
mod index;
mod log;
mod options;
mod reader;
mod real_disk;
mod recovery;
mod segment;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use batch::MAX_BATCH_BYTES;
pub use disk::{Disk, DiskFile, read_whole, write_atomically};
pub use error::LogError;
pub use format::FORMAT_VERSION;
pub use log::{Batch, Log};
pub use options::{Options, Usage};
pub use reader::{GroupState, Reader};
pub use real_disk::{RealDisk, RealFile};

/// A Raft group's number in the cluster; 0 is the system keyspace's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// A position in a group's log; 1-based, 0 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

/// A Raft term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// An index and the term of its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term.
    pub term: Term,
    /// The index.
    pub index: LogIndex,
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub id: LogId,
    /// What it says; opaque here.
    pub payload: Bytes,
}

/// What must be durable before a vote, an acknowledgement or a heartbeat of the term leaves the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Who was voted for in it; 0 is nobody.
    pub vote: u64,
    /// A lower bound of the commit index.
    pub commit: LogIndex,
}

/// One change of one group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Adds consecutive entries, after dropping every entry at or after the first one's index. The first index must not leave a
    /// gap, and not be purged. Without entries it does nothing.
    Append(Vec<Entry>),
    /// Replaces the hard state.
    HardState(HardState),
    /// Drops all entries up to and including this one, which must exist. Ignored if it is already behind.
    Purge(LogId),
    /// Drops all entries; the log goes on after this one (a snapshot was installed).
    Reset(LogId),
    /// Replaces the group's opaque state.
    State(Bytes),
    /// Forgets the group: its entries, hard state and state. Ignored if there is none.
    Destroy,
}
