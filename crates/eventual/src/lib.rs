//! The core of eventual replication: replicas that take writes on their own, and become equal.
//!
//! A [`Replica`] is a value: messages, writes and the time go in, messages, answers and records for the log come out. Which of
//! two entries for a key stays is decided by their [`Version`]s alone, so replicas that have seen the same entries hold the
//! same, in whatever order they saw them. The modes differ only in *when* entries travel ([`Trigger`]); under all of them
//! replicas compare digests now and then, and tombstones go once every member is known to have them (`watermark.rs`), never by
//! a timer.
//!
//! What it must not know: I/O, clocks, randomness, threads, Raft, the network, HTTP.

mod acking;
mod changes;
mod clock;
mod conflicts;
mod copying;
mod digest;
mod entry;
mod io;
mod keeping;
mod level;
mod lookup;
mod message;
mod mirror;
mod options;
mod outbox;
mod pace;
mod peer;
mod reading;
mod recent;
mod record;
mod replica;
mod reporting;
mod round;
mod schedule;
mod session;
mod skew;
mod status;
mod store;
mod syncing;
#[cfg(test)]
mod tests;
mod version;
mod watermark;
mod writing;

pub use changes::{Cause, Changes, Event};
pub use conflicts::Conflict;
pub use digest::{Digest, Node};
pub use entry::{Body, Entry};
pub use io::{Answer, Effect, Input, MemberState, Members, Refusal, Time, Write};
pub use lookup::{LookedUp, Lookup};
pub use message::{Known, Message, Pair, Part, Payload};
pub use options::{Ack, Batching, CacheOptions, CopyWhen, Options, Trigger};
pub use quorate_engine::codec::DecodeError;
pub use replica::{Replica, Setup};
pub use schedule::{Schedule, ScheduleError};
pub use session::{MAX_SESSION_STAMPS, Session};
pub use status::{Counts, PeerStatus, Status};
pub use store::ReplicaError;
pub use version::{Hlc, InstanceId, Version};
