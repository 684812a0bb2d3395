//! The deterministic state machine of a Raft shard.
//!
//! Committed entries go in, an engine batch and one [`Outcome`] per command come out. What a command does depends on the
//! commands before it and on nothing else: no clock, no randomness, no I/O but the engine, no iteration over unordered
//! maps. Time arrives inside entries.

mod command;
mod event;
mod execute;
mod expiry;
mod history;
mod lease;
mod limits;
mod local;
mod lock;
mod merge_patch;
mod once;
mod outcome;
mod patch;
mod read;
mod record;
mod rows;
mod session;
mod shard;
mod stored_state;
mod transaction;
pub mod watch;

pub use command::{Command, Condition, EntryHeader, Guard, Op, Put, RequestId, Write, decode_entry, encode_entry};
pub use event::{Cause, Changes, Event};
pub use execute::read_only;
pub use history::{
    ChangesAfter, Extent, HistoryHeader, PastError, Version, changes_after, check_revision, compacted, extent, get_at,
    history_of, keys_at, list_at, log_time_of, pairs_at,
};
pub use lease::{Lease, LeaseChange, LeaseId, MAX_LEASE_KEYS, lease, lease_keys, leases};
pub use limits::{Limits, Retention, Settings};
pub use local::LocalKeyspace;
pub use lock::{CLAIM_KEY_BYTES, Claim, OwnClaim, Standing, claim_key, claims, is_claim, standing};
pub use merge_patch::{JsonError, MAX_JSON_BYTES, MAX_JSON_DEPTH, check_merge_patch};
pub use once::{Fingerprint, MAX_ONCE_BYTES, MAX_ONCE_KEYS, ONCE_MS};
pub use outcome::{Detail, KeyMeta, OpResult, Outcome, Pairs, Removed, TransactionResult};
pub use patch::{Edit, Patch, Unfit};
pub use quorate_engine::codec::DecodeError;
pub use read::{Folding, ListQuery, Offered, Page, PageBuilder, Place, get, keys, list, pairs};
pub use record::Record;
pub use shard::{Applied, Shard, ShardError, ShardHeader};
pub use transaction::{
    Compare, Keys, Listing, MAX_TRANSACTION_DEPTH, MAX_TRANSACTION_KEYS, MAX_TRANSACTION_OPS, MAX_TRANSACTION_READ_BYTES,
    Relation, Target, Transaction, TransactionError,
};

/// A position in a shard's history. An empty shard is at 1; each mutating command adds 1, and all its writes carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// An empty shard's.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
