//! A keyspace that no other node has: replication mode `none`.
//!
//! It is a shard without a log: each write is applied at once, by whoever makes it. Nothing of it survives the process.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_engine::{Engine, KeyRange, View};

use crate::command::{Command, EntryHeader, Op, RequestId, Write, encode_entry};
use crate::limits::{Limits, Settings};
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
        let header = ShardHeader { settings: Settings::of(limits), ..ShardHeader::default() };
        let mut shard = Shard::found(Arc::clone(&engine), header)?;
        shard.expire_after(ttl_ms);
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
            shard.expire_after(ttl_ms);
            if shard.header().settings.limits == limits {
                return Ok(());
            }
        }
        let write = Write { ops: vec![Op::Configure(Settings::of(limits))], ..Write::default() };
        self.write(0, write).map(|_| ())
    }

    /// Tells the time: what is due goes, also while nobody asks for it.
    pub fn advance(&self, now_ms: u64) {
        self.engine.advance(now_ms);
    }

    /// Does what the write says, or nothing. What was written before is visible to it. To remove everything from an engine that
    /// evicts is cheap, whatever the bound that the operation names.
    pub fn write(&self, now_ms: u64, write: Write) -> Result<Outcome, ShardError> {
        self.engine.advance(now_ms);
        if is_all(&write) && self.engine.capabilities().evicts {
            return self.shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
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

/// Whether a write removes all that there is, and does nothing else.
fn is_all(write: &Write) -> bool {
    matches!(&write.ops[..], [Op::DeleteRange { range, .. }] if *range == KeyRange::all()) && write.guards.is_empty()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_engine::{Cache, CacheOptions, Trie};

    use super::*;
    use crate::{Condition, Detail, OpResult, Put, Removed, Revision};

    fn put(key: &'static str, value: &'static str) -> Write {
        Write::put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
    }

    fn removed_by(result: &OpResult) -> Removed {
        match result.detail.as_deref() {
            Some(Detail::Removed(removed)) => removed.clone(),
            detail => panic!("{detail:?}"),
        }
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

    fn cached(max_entries: Option<u64>, ttl_ms: Option<u64>) -> LocalKeyspace {
        let options = CacheOptions { max_bytes: 1 << 20, max_entries, idle_ms: None };
        let limits = Limits { max_bytes: u64::MAX, ..Limits::default() };
        LocalKeyspace::new(Arc::new(Cache::new(options, 1)), limits, ttl_ms).unwrap()
    }

    fn value_at(keyspace: &LocalKeyspace, now_ms: u64, key: &str) -> Option<Bytes> {
        crate::get(keyspace.view(now_ms).as_ref(), key.as_bytes()).unwrap().map(|record| record.value)
    }

    fn end(keyspace: &LocalKeyspace, now_ms: u64, key: &str) -> Option<u64> {
        let record = crate::get(keyspace.view(now_ms).as_ref(), key.as_bytes()).unwrap();
        record.and_then(|record| record.expires_at_ms).map(Into::into)
    }

    fn put_for(key: &'static str, ttl_ms: u64) -> Write {
        let put = Put { ttl_ms: Some(ttl_ms), ..Put::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(b"v")) };
        Write { ops: vec![Op::Put(put)], ..Write::default() }
    }

    #[test]
    fn pairs_go_when_their_time_is_up() {
        let keyspace = cached(None, Some(100));
        keyspace.write(1_000, put("default", "v")).unwrap();
        keyspace.write(1_000, put_for("short", 10)).unwrap();
        keyspace.write(1_000, put_for("long", 500)).unwrap();
        assert_eq!(["default", "short", "long"].map(|key| end(&keyspace, 1_000, key)), [Some(1_100), Some(1_010), Some(1_500)]);
        let there = |now_ms| ["short", "default", "long"].map(|key| value_at(&keyspace, now_ms, key).is_some());
        assert_eq!(there(1_009), [true, true, true]);
        assert_eq!(there(1_010), [false, true, true]);
        assert_eq!(there(1_100), [false, false, true]);
        // A condition sees what readers see.
        let only_new = put("short", "again").only_if(Bytes::from_static(b"short"), Condition::Absent);
        assert!(matches!(keyspace.write(1_100, only_new).unwrap(), Outcome::Applied { .. }));
        keyspace.configure(Limits { max_bytes: u64::MAX, ..Limits::default() }, None).unwrap();
        keyspace.write(1_100, put("forever", "v")).unwrap();
        assert_eq!(end(&keyspace, 1_100, "forever"), None);
        assert_eq!(there(1_500), [false, false, false]);
        assert!(value_at(&keyspace, u64::MAX - 1, "forever").is_some());
    }

    #[test]
    fn an_engine_that_keeps_everything_sets_no_end() {
        let keyspace =
            LocalKeyspace::new(Arc::new(Trie::new()), Limits { max_bytes: 400, ..Limits::default() }, Some(5)).unwrap();
        keyspace.write(1, put_for("a", 5)).unwrap();
        assert_eq!((value_at(&keyspace, 100, "a").is_some(), end(&keyspace, 100, "a")), (true, None));
    }

    #[test]
    fn what_a_write_looks_at_is_neither_hit_nor_miss() {
        let keyspace = cached(None, None);
        (0..3).for_each(|_| drop(keyspace.write(1, put("a", "v")).unwrap()));
        value_at(&keyspace, 1, "a");
        value_at(&keyspace, 1, "b");
        let stats = keyspace.engine().cache_stats().unwrap();
        assert_eq!((stats.hits, stats.misses, stats.replaced), (1, 1, 2));
    }

    #[test]
    fn everything_goes_at_once() {
        let keyspace = cached(None, None);
        for key in ["a", "b", "c"] {
            keyspace.write(1, put(key, "v")).unwrap();
        }
        let all = Op::DeleteRange { range: KeyRange::all(), max_keys: 1 };
        let write = || Write { ops: vec![all.clone()], ..Write::default() };
        let removed = |outcome| match outcome {
            Outcome::Applied { revision, results } => (revision, removed_by(&results[0])),
            other => panic!("{other:?}"),
        };
        let (revision, what) = removed(keyspace.write(2, write()).unwrap());
        assert_eq!((revision, what.keys, what.next), (Revision(5), 3, None));
        assert_eq!(removed(keyspace.write(2, write()).unwrap()).0, Revision(5), "nothing was left to remove");
        assert_eq!((keyspace.engine().stats().keys, keyspace.engine().cache_stats().unwrap().removed), (0, 3));
        keyspace.write(3, put("a", "v")).unwrap();
        assert_eq!((keyspace.view(3).revision(), value_at(&keyspace, 3, "a").is_some()), (6, true));
    }

    #[test]
    fn a_range_goes_in_steps_that_say_where_to_go_on() {
        let keyspace = cached(None, None);
        for key in ["a/1", "a/2", "a/3", "b/1"] {
            keyspace.write(1, put(key, "v")).unwrap();
        }
        let op = Op::DeleteRange { range: KeyRange::prefix(b"a/"), max_keys: 2 };
        let Outcome::Applied { results, .. } = keyspace.write(1, Write { ops: vec![op], ..Write::default() }).unwrap() else {
            panic!("refused")
        };
        let removed = removed_by(&results[0]);
        assert_eq!((removed.keys, removed.next.as_deref()), (2, Some(&b"a/3"[..])));
        assert_eq!(["a/1", "a/3", "b/1"].map(|key| value_at(&keyspace, 1, key).is_some()), [false, true, true]);
    }

    #[test]
    fn what_made_room_can_be_put_again_and_removed() {
        let keyspace = cached(Some(2), None);
        for _ in 0..3 {
            for key in ["a", "b", "c", "d"] {
                keyspace.write(1, put(key, "v")).unwrap();
            }
        }
        assert_eq!(keyspace.engine().stats().keys, 2);
        for key in ["a", "b", "c", "d"] {
            keyspace.write(1, Write::delete(Bytes::from_static(key.as_bytes()))).unwrap();
        }
        assert_eq!(keyspace.engine().stats().keys, 0);
    }
}
