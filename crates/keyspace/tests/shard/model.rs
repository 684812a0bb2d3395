//! A shard does what a sorted map with counters does.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::Direction;
use quorate_keyspace::{
    Command, Compare, Condition, Detail, Edit, KeyMeta, Keys, Limits, Op, OpResult, Outcome, Pairs, Patch, Put, Record, Relation,
    Removed, RequestId, Revision, Target, Transaction, TransactionResult, Unfit, Write,
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
        let before = (self.pairs.clone(), self.data_bytes(), self.limits);
        let done: Result<Vec<OpResult>, Outcome> = write.ops.iter().map(|op| self.change(op, &before.0, before.2)).collect();
        let max_bytes = before.2.max_bytes;
        let is_full = self.data_bytes() > max_bytes && self.data_bytes() > before.1;
        let done = done.and_then(|results| if is_full { Err(Outcome::Full { max_bytes }) } else { Ok(results) });
        match done {
            Ok(results) => {
                self.revision += u64::from(results.iter().any(is_change));
                Outcome::Applied { revision: Revision(self.revision), results }
            }
            Err(refused) => {
                (self.pairs, self.limits) = (before.0, before.2);
                refused
            }
        }
    }

    /// Does an operation of a write before which there was this, under these limits.
    fn change(&mut self, op: &Op, before_all: &BTreeMap<Bytes, Record>, limits: Limits) -> Result<OpResult, Outcome> {
        Ok(match op {
            Op::Put(put) => self.try_put(put, limits)?,
            Op::Patch(patch) => self.patch(patch, limits)?,
            Op::Delete { key } => OpResult { before: self.pairs.remove(key).map(|record| record.meta), ..OpResult::default() },
            Op::DeleteRange { range, max_keys } => {
                let mut keys: Vec<Bytes> = self.pairs.keys().filter(|key| range.contains(key)).cloned().collect();
                let left = keys.split_off(keys.len().min(*max_keys as usize));
                keys.iter().for_each(|key| drop(self.pairs.remove(key)));
                OpResult::of(Detail::Removed(Removed { keys: keys.len() as u64, next: left.first().cloned() }))
            }
            Op::Get { key } => {
                let items = self.pairs.get(key).map(|record| (key.clone(), record.clone())).into_iter().collect();
                OpResult::of(Detail::Read(Pairs { items, has_more: false }))
            }
            Op::List(listing) => {
                let within = self.pairs.iter().filter(|(key, _)| listing.range.contains(key));
                let mut items: Vec<(Bytes, Record)> = within.map(|(key, record)| (key.clone(), record.clone())).collect();
                if listing.direction == Direction::Reverse {
                    items.reverse();
                }
                let has_more = items.len() as u64 > listing.max_pairs;
                items.truncate(listing.max_pairs as usize);
                if !listing.is_with_values {
                    items.iter_mut().for_each(|(_, record)| record.value.clear());
                }
                OpResult::of(Detail::Read(Pairs { items, has_more }))
            }
            Op::Transaction(transaction) => {
                let Transaction { compares, then, otherwise } = &**transaction;
                let failed = compares.iter().position(|compare| !compare_holds(compare, before_all)).map(|at| at as u64);
                let ops = if failed.is_some() { otherwise } else { then };
                let results = ops.iter().map(|op| self.change(op, before_all, limits)).collect::<Result<_, _>>()?;
                OpResult::of(Detail::Transaction(TransactionResult { failed, results }))
            }
            Op::LeaseGrant { .. } | Op::LeaseRevoke { .. } | Op::LeaseExpire { .. } => unreachable!("see leases.rs"),
            Op::Configure(settings) => {
                self.limits = settings.limits;
                OpResult::default()
            }
            // Without history nothing but the present is there.
            Op::Compact { revision } if revision.0 <= self.revision => {
                return Err(Outcome::Compacted { compacted: Revision(self.revision) });
            }
            Op::Compact { .. } => return Err(Outcome::FutureRevision { present: Revision(self.revision) }),
        })
    }

    fn try_put(&mut self, put: &Put, limits: Limits) -> Result<OpResult, Outcome> {
        let Limits { max_key_bytes, max_value_bytes, .. } = limits;
        if max_key_bytes != 0 && put.key.len() as u64 > max_key_bytes {
            return Err(Outcome::KeyTooLong { max_bytes: max_key_bytes });
        }
        if max_value_bytes != 0 && put.value.len() as u64 > max_value_bytes {
            return Err(Outcome::ValueTooLarge { max_bytes: max_value_bytes });
        }
        let before = self.meta(&put.key);
        self.put(put);
        Ok(OpResult { before, after: self.meta(&put.key), detail: None })
    }

    /// A read and a put.
    fn patch(&mut self, patch: &Patch, limits: Limits) -> Result<OpResult, Outcome> {
        let Patch { key, edit, max_value_bytes, is_told, .. } = patch;
        let found = self.pairs.get(key);
        let unfit = |why| Outcome::Unfit { key: key.clone(), why };
        let value = match (edit, found) {
            (Edit::Increment { by, initial }, found) => {
                let number = match found.map(|record| String::from_utf8(record.value.to_vec())) {
                    None => i128::from(*initial),
                    Some(Ok(text)) if !text.starts_with('+') => {
                        let number = text.trim_matches([' ', '\t', '\n', '\r', '\x0c']).parse::<i64>();
                        number.map_err(|_| unfit(Unfit::NotANumber))?.into()
                    }
                    Some(_) => return Err(unfit(Unfit::NotANumber)),
                };
                let sum = i64::try_from(number + i128::from(*by)).map_err(|_| unfit(Unfit::Overflow))?;
                Bytes::from(sum.to_string())
            }
            (Edit::Append { value }, found) => [found.map_or(&[][..], |record| &record.value[..]), &value[..]].concat().into(),
            (Edit::Touch, None) => return Ok(OpResult::default()),
            (Edit::Touch, Some(record)) => record.value.clone(),
            (Edit::Merge { .. }, _) => unreachable!("not made up here"),
        };
        let max_bytes = if limits.max_value_bytes == 0 { u64::MAX } else { limits.max_value_bytes }.min(*max_value_bytes);
        if value.len() as u64 > max_bytes {
            return Err(Outcome::ValueTooLarge { max_bytes });
        }
        let new_type = matches!(edit, Edit::Increment { .. }).then(|| Bytes::from_static(b"text/plain"));
        let (content_type, user_meta) =
            found.map_or((new_type, Vec::new()), |record| (record.content_type.clone(), record.user_meta.clone()));
        let result = self.try_put(&Put { content_type, user_meta, ..Put::new(key.clone(), value) }, limits)?;
        let pairs = || Pairs { items: vec![(key.clone(), self.pairs[key].clone())], has_more: false };
        Ok(OpResult { detail: is_told.then(|| Box::new(Detail::Read(pairs()))), ..result })
    }

    fn put(&mut self, put: &Put) {
        let mod_revision = Revision(self.revision + 1);
        let (create_revision, version) =
            self.meta(&put.key).map_or((mod_revision, 1), |meta| (meta.create_revision, meta.version + 1));
        let meta = KeyMeta { create_revision, mod_revision, version };
        let Put { key, value, content_type, user_meta, ttl_ms: _, lease: _ } = put.clone();
        let record = Record { meta, content_type, user_meta, expires_at_ms: None, lease: None, value };
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
            Condition::Once(_) => unreachable!("not made up here"),
        }
    }

    fn meta(&self, key: &Bytes) -> Option<KeyMeta> {
        self.pairs.get(key).map(|record| record.meta)
    }

    fn data_bytes(&self) -> u64 {
        self.pairs.iter().map(|(key, record)| (key.len() + record.to_bytes().len()) as u64).sum()
    }
}

fn is_change(result: &OpResult) -> bool {
    let is_change = match result.detail.as_deref() {
        Some(Detail::Removed(removed)) => removed.keys > 0,
        Some(Detail::Transaction(within)) => within.results.iter().any(is_change),
        Some(Detail::Read(_)) | None => false,
    };
    is_change || result.before.is_some() || result.after.is_some()
}

/// As etcd's description has it, not as the state machine does.
fn compare_holds(compare: &Compare, pairs: &BTreeMap<Bytes, Record>) -> bool {
    let keys: Vec<Option<&Record>> = match &compare.keys {
        Keys::One(key) => vec![pairs.get(key)],
        Keys::Range(range) => {
            let within: Vec<_> = pairs.iter().filter(|(key, _)| range.contains(key)).map(|(_, record)| Some(record)).collect();
            if within.is_empty() { vec![None] } else { within }
        }
    };
    let number = |record: Option<&Record>, of: fn(&KeyMeta) -> u64| record.map_or(0, |record| of(&record.meta));
    keys.into_iter().all(|record| {
        let (is_less, is_equal) = match &compare.target {
            Target::Version(told) => {
                let found = number(record, |meta| meta.version);
                (found < *told, found == *told)
            }
            Target::ModRevision(told) => {
                let found = number(record, |meta| meta.mod_revision.0);
                (found < told.0, found == told.0)
            }
            Target::CreateRevision(told) => {
                let found = number(record, |meta| meta.create_revision.0);
                (found < told.0, found == told.0)
            }
            Target::Lease(told) => {
                let found = record.and_then(|record| record.lease).unwrap_or_default();
                (found < *told, found == *told)
            }
            Target::Value(told) => match record {
                Some(record) => (record.value < told, record.value == told),
                None => return false,
            },
        };
        match compare.relation {
            Relation::Equal => is_equal,
            Relation::NotEqual => !is_equal,
            Relation::Less => is_less,
            Relation::Greater => !is_less && !is_equal,
        }
    })
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
            prop_assert_eq!(header.settings.limits, model.limits);
        }
    }
}
