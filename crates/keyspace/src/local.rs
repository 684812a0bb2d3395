//! A keyspace that no other node has: replication mode `none`.
//!
//! It is a shard without a log: each write is applied at once, by whoever makes it. Nothing of it survives the process.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_engine::{Engine, View};

use crate::Settings;
use crate::command::{Command, EntryHeader, Op, RequestId, Write, encode_entry};
use crate::limits::Limits;
use crate::outcome::Outcome;
use crate::shard::{Shard, ShardError, ShardHeader};

/// One node's own pairs, on an engine in memory.
///
/// Time is the caller's, in milliseconds, and never goes back: it decides when pairs of an engine that evicts go.
#[derive(Debug)]
pub struct LocalKeyspace {
    engine: Arc<dyn Engine>,
    /// One writer at a time; held for as long as a batch in memory takes.
    shard: Mutex<Shard>,
}

impl LocalKeyspace {
    /// Over an empty engine. Pairs live for `ttl_ms` unless they say otherwise, if the engine evicts.
    pub fn new(engine: Arc<dyn Engine>, limits: Limits, ttl_ms: Option<u64>) -> Result<Self, ShardError> {
        let header = ShardHeader { limits, ..ShardHeader::default() };
        let shard = Shard::found(Arc::clone(&engine), header)?.expiring_after(ttl_ms);
        Ok(Self { engine, shard: Mutex::new(shard) })
    }

    /// Where the pairs are.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Gives it these settings. Nothing happens if it has them.
    pub fn configure(&self, limits: Limits, ttl_ms: Option<u64>) -> Result<(), ShardError> {
        {
            let mut shard = self.shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.set_ttl(ttl_ms);
            if shard.header().limits == limits {
                return Ok(());
            }
        }
        let write = Write { ops: vec![Op::Configure(Settings { limits })], ..Write::default() };
        self.write(0, write).map(|_| ())
    }

    /// Tells the time: what is due goes, also while nobody asks for it.
    pub fn advance(&self, now_ms: u64) {
        self.engine.advance(now_ms);
    }

    /// Does what the write says, or nothing. What was written before is visible to it.
    pub fn write(&self, now_ms: u64, write: Write) -> Result<Outcome, ShardError> {
        self.engine.advance(now_ms);
        let command = Command { id: RequestId::default(), floor: 0, write }.to_bytes();
        let entry = encode_entry(EntryHeader { log_time_ms: now_ms }, [command].iter());
        // A writer that panicked has left what it did before, whole.
        let mut shard = self.shard.lock().unwrap_or_else(PoisonError::into_inner);
        let index = shard.header().applied_index + 1;
        let mut applied = shard.apply(&[(index, 1, entry)])?;
        let (_, outcome) = applied.outcomes.pop().expect("one command has one outcome");
        Ok(outcome)
    }

    /// What is there now.
    pub fn view(&self, now_ms: u64) -> Arc<dyn View> {
        self.engine.advance(now_ms);
        self.engine.view()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_engine::Trie;

    use super::*;
    use crate::{Condition, Revision};

    fn put(key: &'static str, value: &'static str) -> Write {
        Write::put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
    }

    fn value(keyspace: &LocalKeyspace, key: &str) -> Option<Bytes> {
        crate::get(keyspace.view(0).as_ref(), key.as_bytes()).unwrap().map(|record| record.value)
    }

    #[test]
    fn it_keeps_conditions_revisions_and_limits() {
        let limits = Limits { max_bytes: 40, ..Limits::default() };
        let keyspace = LocalKeyspace::new(Arc::new(Trie::new()), limits, None).unwrap();
        let outcome = keyspace.write(1, put("a", "1")).unwrap();
        assert!(matches!(outcome, Outcome::Applied { revision: Revision(2), .. }), "{outcome:?}");
        let only_new = put("a", "2").only_if(Bytes::from_static(b"a"), Condition::Absent);
        assert!(matches!(keyspace.write(2, only_new).unwrap(), Outcome::ConditionFailed { .. }));
        assert_eq!(value(&keyspace, "a").as_deref(), Some(&b"1"[..]));
        let large = put("b", "a value of more than forty bytes is too much here");
        assert_eq!(keyspace.write(3, large.clone()).unwrap(), Outcome::Full { max_bytes: 40 });
        keyspace.configure(Limits { max_bytes: 400, ..Limits::default() }, None).unwrap();
        assert!(matches!(keyspace.write(4, large).unwrap(), Outcome::Applied { revision: Revision(3), .. }));
    }
}
