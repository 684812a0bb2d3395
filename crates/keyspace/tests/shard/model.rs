//! A shard does what a sorted map with counters does.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_keyspace::{
    Command, Condition, KeyMeta, Limits, Op, OpResult, Outcome, Put, Record, Removed, RequestId, Revision, Write,
};

use crate::writes::{apply, counted_bytes, entries, limits, records, shard};

/// What a shard is, in the plainest form.
#[derive(Debug)]
struct Model {
    revision: u64,
    pairs: BTreeMap<Bytes, Record>,
    limits: Limits,
    outcomes: BTreeMap<RequestId, Outcome>,
    floors: BTreeMap<u64, u64>,
}

impl Model {
    fn new(limits: Limits) -> Self {
        Self { revision: 1, pairs: BTreeMap::new(), limits, outcomes: BTreeMap::new(), floors: BTreeMap::new() }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let id = command.id;
        if id.sequence == 0 {
            return self.execute(&command.write);
        }
        let floor = self.floors.get(&id.origin).copied().unwrap_or(0);
        if id.sequence < floor {
            return Outcome::Forgotten;
        }
        if let Some(outcome) = self.outcomes.get(&id) {
            return outcome.clone();
        }
        let outcome = self.execute(&command.write);
        self.outcomes.insert(id, outcome.clone());
        self.floors.insert(id.origin, floor.max(command.floor));
        outcome
    }

    fn execute(&mut self, write: &Write) -> Outcome {
        for (position, guard) in write.guards.iter().enumerate() {
            let current = self.meta(&guard.key);
            if !self.holds(&guard.key, &guard.condition) {
                return Outcome::ConditionFailed { revision: Revision(self.revision), guard: position as u64, current };
            }
        }
        if let Some(refused) = self.oversize(write) {
            return refused;
        }
        let before = (self.pairs.clone(), self.data_bytes(), self.limits);
        let results: Vec<OpResult> = write.ops.iter().map(|op| self.change(op)).collect();
        let max_bytes = before.2.max_bytes;
        if self.data_bytes() > max_bytes && self.data_bytes() > before.1 {
            (self.pairs, self.limits) = (before.0, before.2);
            return Outcome::Full { max_bytes };
        }
        let has_removed = |result: &OpResult| result.removed.as_ref().is_some_and(|removed| removed.keys > 0);
        let is_change = |result: &OpResult| result.before.is_some() || result.after.is_some() || has_removed(result);
        self.revision += u64::from(results.iter().any(is_change));
        Outcome::Applied { revision: Revision(self.revision), results }
    }

    /// The refusal of the first key or value that is over a limit.
    fn oversize(&self, write: &Write) -> Option<Outcome> {
        let Limits { max_key_bytes, max_value_bytes, .. } = self.limits;
        for op in &write.ops {
            let Op::Put(put) = op else { continue };
            if max_key_bytes != 0 && put.key.len() as u64 > max_key_bytes {
                return Some(Outcome::KeyTooLong { max_bytes: max_key_bytes });
            }
            if max_value_bytes != 0 && put.value.len() as u64 > max_value_bytes {
                return Some(Outcome::ValueTooLarge { max_bytes: max_value_bytes });
            }
        }
        None
    }

    fn change(&mut self, op: &Op) -> OpResult {
        match op {
            Op::Put(put) => {
                let before = self.meta(&put.key);
                self.put(put);
                OpResult { before, after: self.meta(&put.key), removed: None }
            }
            Op::Delete { key } => OpResult { before: self.pairs.remove(key).map(|record| record.meta), ..OpResult::default() },
            Op::DeleteRange { range, max_keys } => {
                let mut keys: Vec<Bytes> = self.pairs.keys().filter(|key| range.contains(key)).cloned().collect();
                let left = keys.split_off(keys.len().min(*max_keys as usize));
                keys.iter().for_each(|key| drop(self.pairs.remove(key)));
                let removed = Removed { keys: keys.len() as u64, next: left.first().cloned() };
                OpResult { removed: Some(Box::new(removed)), ..OpResult::default() }
            }
            Op::Configure(settings) => {
                self.limits = settings.limits;
                OpResult::default()
            }
        }
    }

    fn put(&mut self, put: &Put) {
        let mod_revision = Revision(self.revision + 1);
        let (create_revision, version) =
            self.meta(&put.key).map_or((mod_revision, 1), |meta| (meta.create_revision, meta.version + 1));
        let meta = KeyMeta { create_revision, mod_revision, version };
        let Put { key, value, content_type, user_meta, ttl_ms: _ } = put.clone();
        let record = Record { meta, content_type, user_meta, expires_at_ms: None, value };
        self.pairs.insert(key, record);
    }

    fn holds(&self, key: &Bytes, condition: &Condition) -> bool {
        let changed_at = self.meta(key).map(|meta| meta.mod_revision);
        let is_among = |revisions: &[Revision]| changed_at.is_some_and(|revision| revisions.contains(&revision));
        match condition {
            Condition::Exists => changed_at.is_some(),
            Condition::Absent => changed_at.is_none(),
            Condition::ModRevisionIn(revisions) => is_among(revisions),
            Condition::ModRevisionNotIn(revisions) => !is_among(revisions),
        }
    }

    fn meta(&self, key: &Bytes) -> Option<KeyMeta> {
        self.pairs.get(key).map(|record| record.meta)
    }

    fn data_bytes(&self) -> u64 {
        self.pairs.iter().map(|(key, record)| (key.len() + record.to_bytes().len()) as u64).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_does_what_a_sorted_map_does(entries in entries(1000), limits in limits()) {
        let mut shard = shard(limits);
        let mut model = Model::new(limits);
        let mut log_time_ms = 0;
        for (entry, index) in entries.iter().zip(1..) {
            let expected: Vec<_> = entry.commands.iter().map(|command| (command.id, model.apply(command))).collect();
            prop_assert_eq!(apply(&mut shard, std::slice::from_ref(entry)).outcomes, expected);

            log_time_ms = log_time_ms.max(entry.log_time_ms);
            let header = shard.header();
            prop_assert_eq!((header.applied_index, header.log_time_ms), (index, log_time_ms));
            prop_assert_eq!(header.revision, Revision(model.revision));
            prop_assert_eq!(shard.engine().view().revision(), model.revision);
            prop_assert_eq!(records(&shard), model.pairs.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(header.data_bytes, counted_bytes(&shard));
            prop_assert_eq!(header.limits, model.limits);
        }
    }
}
