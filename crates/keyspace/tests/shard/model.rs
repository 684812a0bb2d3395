//! A shard does what a sorted map with counters does.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_keyspace::{Command, Condition, KeyMeta, Op, OpResult, Outcome, Record, RequestId, Revision, Write};

use crate::writes::{apply, counted_bytes, entries, max_bytes, records, shard};

/// What a shard is, in the plainest form.
#[derive(Debug)]
struct Model {
    revision: u64,
    pairs: BTreeMap<Bytes, Record>,
    max_bytes: u64,
    outcomes: BTreeMap<RequestId, Outcome>,
    floors: BTreeMap<u64, u64>,
}

impl Model {
    fn new(max_bytes: u64) -> Self {
        Self { revision: 1, pairs: BTreeMap::new(), max_bytes, outcomes: BTreeMap::new(), floors: BTreeMap::new() }
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
        let before = (self.revision, self.pairs.clone(), self.data_bytes());
        let mut results = Vec::new();
        for op in &write.ops {
            let before = self.meta(op.key());
            self.change(op);
            results.push(OpResult { before, after: self.meta(op.key()) });
        }
        if self.data_bytes() > self.max_bytes && self.data_bytes() > before.2 {
            (self.revision, self.pairs) = (before.0, before.1);
            return Outcome::Full { max_bytes: self.max_bytes };
        }
        self.revision += u64::from(results.iter().any(|result| *result != OpResult::default()));
        Outcome::Applied { revision: Revision(self.revision), results }
    }

    fn change(&mut self, op: &Op) {
        let Op::Put(put) = op else {
            self.pairs.remove(op.key());
            return;
        };
        let mod_revision = Revision(self.revision + 1);
        let (create_revision, version) =
            self.meta(&put.key).map_or((mod_revision, 1), |meta| (meta.create_revision, meta.version + 1));
        let meta = KeyMeta { create_revision, mod_revision, version };
        let record = Record { meta, content_type: put.content_type.clone(), value: put.value.clone() };
        self.pairs.insert(put.key.clone(), record);
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
    fn a_shard_does_what_a_sorted_map_does(entries in entries(1000), max_bytes in max_bytes()) {
        let mut shard = shard(max_bytes);
        let mut model = Model::new(max_bytes);
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
            prop_assert!(header.data_bytes <= max_bytes);
        }
    }
}
