//! A store outside that an engine's pairs are written to as well, behind the writer.

use std::sync::Arc;

use bytes::Bytes;

use crate::EngineError;

/// A store outside that an engine's pairs are written to as well. Nothing here waits for it.
pub trait StoreBehind: Send + Sync {
    /// How far it is. Costs little: who writes asks before each write.
    fn stats(&self) -> BehindStats;

    /// The engine serves from now on, with these settings of the store, in JSON. Until it is told so, nothing is written to the
    /// store, to which another engine may write whose place it is to take. Can be told again, with other settings, too: they are
    /// those of the same place. Settings that are not understood are told as an error of the store, and change nothing.
    fn serve(&self, settings: &str);

    /// Has all pairs written again to the store, which may have lost them. Returns when all of them wait, also after a crash;
    /// reads all keys.
    fn rewrite(&self) -> Result<(), EngineError>;

    /// Of keys that are in the store, has those removed from there that the engine has no value of. Returns when they wait, also
    /// after a crash, and says how many they are; looks up each. Nothing that is written meanwhile is lost.
    fn prune(&self, keys: &[Bytes]) -> Result<u64, EngineError>;
}

/// How far a store outside is behind an engine whose pairs are written to it as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BehindStats {
    /// Keys that are known to wait. There may be more on the disk, if `is_spilled`.
    pub waiting_keys: u64,
    /// Their bytes, with what remembering them takes.
    pub waiting_bytes: u64,
    /// The bound on these bytes.
    pub max_waiting_bytes: u64,
    /// More keys wait than are kept in memory.
    pub is_spilled: bool,
    /// For how long the first of them has waited, in milliseconds; 0 if none does.
    pub oldest_ms: u64,
    /// Counts writes to the engine, key by key: the greatest number given out.
    pub noted: u64,
    /// All that was noted up to this number is in the store.
    pub settled: u64,
    /// Values and removals that the store has taken.
    pub written: u64,
    /// Keys that waited when they were written again: the store never got what they were before.
    pub coalesced: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Keys that the store will not take as they are (too large, or not to be encoded), or that fail while it takes others (it
    /// does not allow them). They are tried again now and then.
    pub refused_keys: u64,
    /// Why the last attempt failed, if the one after it has not done better; for people.
    pub last_error: Option<Arc<str>>,
}

impl BehindStats {
    /// Whether so much waits that who writes must wait, too.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes >= self.max_waiting_bytes
    }
}
