//! Transactions: what clients make up, and what must come of it, by a second, simple reading of what a transaction is.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::{Direction, KeyRange};
use quorate_keyspace::{
    Compare, Detail, Edit, KeyMeta, Keys, Listing, Op, OpResult, Pairs, Patch, Put, Record, Relation, Removed, Revision, Target,
    Transaction, TransactionResult,
};

use crate::history::Action;
use crate::model::KeyChange;
use crate::random::Random;
use crate::values::{COUNTER_TYPE, count_in, is_counter, key_number, key_of, value_number, value_of};

/// What a shard holds.
pub(crate) type Content = BTreeMap<Bytes, (KeyMeta, Bytes)>;

/// A key, and what it holds from then on.
type Change = (Bytes, Option<(KeyMeta, Bytes)>);

/// What operations change of what was there `before` them, by a revision.
pub(crate) fn changes(ops: &[Op], before: &Content, revision: u64) -> Vec<Change> {
    let mut trial = Trial::new(before, revision);
    ops.iter().for_each(|op| drop(trial.op(op)));
    trial.changes
}

/// What must come of a transaction on what was there `before` it, by a revision: what it says, and what it changes.
pub(crate) fn expected(transaction: &Transaction, before: &Content, revision: u64) -> (TransactionResult, Vec<KeyChange>) {
    let mut trial = Trial::new(before, revision);
    let result = trial.transaction(transaction);
    let change = |(key, pair): Change| KeyChange { key, value: pair.map(|(_, value)| value) };
    (result, trial.changes.into_iter().map(change).collect())
}

/// What a key is like after a put.
pub(crate) fn meta_after(before: Option<KeyMeta>, mod_revision: Revision) -> KeyMeta {
    match before {
        Some(before) => KeyMeta { mod_revision, version: before.version + 1, ..before },
        None => KeyMeta { create_revision: mod_revision, mod_revision, version: 1 },
    }
}

/// A result without what the model does not know of pairs: when they go, and with which lease.
pub(crate) fn without_times(mut result: TransactionResult) -> TransactionResult {
    for detail in result.results.iter_mut().filter_map(|result| result.detail.as_deref_mut()) {
        match detail {
            Detail::Read(pairs) => {
                for (_, record) in &mut pairs.items {
                    (record.expires_at_ms, record.lease) = (None, None);
                }
            }
            Detail::Transaction(within) => *within = without_times(std::mem::take(within)),
            Detail::Removed(_) => {}
        }
    }
    result
}

struct Trial<'a> {
    before: &'a Content,
    now: Content,
    revision: u64,
    changes: Vec<Change>,
}

impl<'a> Trial<'a> {
    fn new(before: &'a Content, revision: u64) -> Self {
        Self { before, now: before.clone(), revision, changes: Vec::new() }
    }

    fn transaction(&mut self, transaction: &Transaction) -> TransactionResult {
        let failed = transaction.compares.iter().position(|compare| !holds(compare, self.before)).map(|at| at as u64);
        let ops = if failed.is_some() { &transaction.otherwise } else { &transaction.then };
        TransactionResult { failed, results: ops.iter().map(|op| self.op(op)).collect() }
    }

    fn op(&mut self, op: &Op) -> OpResult {
        match op {
            Op::Put(put) => self.set(&put.key, put.value.clone()),
            Op::Patch(patch) => self.patch(patch),
            Op::Delete { key } => OpResult { before: self.remove(key), ..OpResult::default() },
            Op::DeleteRange { range, max_keys } => {
                let mut keys = self.keys_in(range);
                let left = keys.split_off(keys.len().min(*max_keys as usize));
                for key in &keys {
                    self.remove(key);
                }
                OpResult::of(Detail::Removed(Removed { keys: keys.len() as u64, next: left.into_iter().next() }))
            }
            Op::Get { key } => {
                let items = self.now.get(key).map(|pair| (key.clone(), record_of(key, pair))).into_iter().collect();
                OpResult::of(Detail::Read(Pairs { items, has_more: false }))
            }
            Op::List(listing) => OpResult::of(Detail::Read(self.list(listing))),
            Op::Transaction(within) => OpResult::of(Detail::Transaction(self.transaction(within))),
            Op::Configure(_) | Op::Compact { .. } | Op::LeaseGrant { .. } | Op::LeaseRevoke { .. } | Op::LeaseExpire { .. } => {
                OpResult::default()
            }
        }
    }

    fn set(&mut self, key: &Bytes, value: Bytes) -> OpResult {
        let mod_revision = Revision(self.revision);
        let before = self.now.get(key).map(|(meta, _)| *meta);
        let meta = match before {
            Some(before) => KeyMeta { mod_revision, version: before.version + 1, ..before },
            None => KeyMeta { create_revision: mod_revision, mod_revision, version: 1 },
        };
        self.now.insert(key.clone(), (meta, value.clone()));
        self.changes.push((key.clone(), Some((meta, value))));
        OpResult { before, after: Some(meta), detail: None }
    }

    /// Clients ask for increments alone, and want to know the sum.
    fn patch(&mut self, patch: &Patch) -> OpResult {
        let Edit::Increment { by, initial } = patch.edit else { unreachable!("no client asks for {patch:?}") };
        let number = self.now.get(&patch.key).map_or(Some(initial), |(_, value)| count_in(value));
        let sum = number.expect("counters hold numbers") + by;
        let result = self.set(&patch.key, sum.to_string().into());
        let items = vec![(patch.key.clone(), record_of(&patch.key, &self.now[&patch.key]))];
        OpResult { detail: Some(Box::new(Detail::Read(Pairs { items, has_more: false }))), ..result }
    }

    fn remove(&mut self, key: &Bytes) -> Option<KeyMeta> {
        let (meta, _) = self.now.remove(key)?;
        self.changes.push((key.clone(), None));
        Some(meta)
    }

    fn list(&self, listing: &Listing) -> Pairs {
        let mut keys = self.keys_in(&listing.range);
        if listing.direction == Direction::Reverse {
            keys.reverse();
        }
        let has_more = keys.len() as u64 > listing.max_pairs;
        keys.truncate(listing.max_pairs as usize);
        let item = |key: Bytes| {
            let mut record = record_of(&key, &self.now[&key]);
            if !listing.is_with_values {
                record.value.clear();
            }
            (key, record)
        };
        Pairs { items: keys.into_iter().map(item).collect(), has_more }
    }

    fn keys_in(&self, range: &KeyRange) -> Vec<Bytes> {
        self.now.keys().filter(|key| range.contains(key)).cloned().collect()
    }
}

/// Clients note nothing beside values; what comes to be by an increment has its media type.
fn record_of(key: &Bytes, (meta, value): &(KeyMeta, Bytes)) -> Record {
    let content_type = is_counter(key).then(|| Bytes::from_static(COUNTER_TYPE.as_bytes()));
    Record { meta: *meta, content_type, user_meta: Vec::new(), expires_at_ms: None, lease: None, value: value.clone() }
}

fn holds(compare: &Compare, content: &Content) -> bool {
    let found: Vec<Option<&(KeyMeta, Bytes)>> = match &compare.keys {
        Keys::One(key) => vec![content.get(key)],
        Keys::Range(range) => content.iter().filter(|(key, _)| range.contains(key)).map(|(_, pair)| Some(pair)).collect(),
    };
    let number = |pair: Option<&(KeyMeta, Bytes)>, of: fn(&KeyMeta) -> u64| pair.map_or(0, |(meta, _)| of(meta));
    let holds = |pair: Option<&(KeyMeta, Bytes)>| {
        let ordering = match &compare.target {
            Target::Version(told) => number(pair, |meta| meta.version).cmp(told),
            Target::CreateRevision(told) => number(pair, |meta| meta.create_revision.0).cmp(&told.0),
            Target::ModRevision(told) => number(pair, |meta| meta.mod_revision.0).cmp(&told.0),
            Target::Lease(told) => 0.cmp(&told.0),
            Target::Value(_) if pair.is_none() => return false,
            Target::Value(told) => pair.map(|(_, value)| value).cmp(&Some(told)),
        };
        match compare.relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Less => ordering.is_lt(),
            Relation::Greater => ordering.is_gt(),
        }
    };
    if found.is_empty() { holds(None) } else { found.into_iter().all(holds) }
}

/// Every operation that it may do, those of transactions within too.
pub(crate) fn every_op(transaction: &Transaction, each: &mut impl FnMut(&Op)) {
    for op in transaction.then.iter().chain(&transaction.otherwise) {
        each(op);
        if let Op::Transaction(within) = op {
            every_op(within, each);
        }
    }
}

/// The number of the key that an operation sets or deletes, and that of the value it gives it.
pub(crate) fn written_by(op: &Op) -> Option<(u64, Option<u64>)> {
    match op {
        Op::Put(put) => Some((key_number(&put.key)?, Some(value_number(&put.value)?))),
        Op::Delete { key } => Some((key_number(key)?, None)),
        _ => None,
    }
}

/// What a transaction may have written, by number, of which no answer came: each put has a value of its own, and leaves it where
/// it was done.
pub(crate) fn left_by(transaction: &Transaction, is_written: &impl Fn(u64) -> bool) -> Vec<(u64, Option<u64>)> {
    let mut left = Vec::new();
    let written_in = |ops: &[Op]| ops.iter().filter_map(written_by).collect::<Vec<_>>();
    let is_left = |written: &[(u64, Option<u64>)]| written.iter().any(|(_, value)| value.is_some_and(is_written));
    for (ops, others) in [(&transaction.then, &transaction.otherwise), (&transaction.otherwise, &transaction.then)] {
        let written = written_in(ops);
        let has_puts = written.iter().any(|(_, value)| value.is_some());
        if (has_puts && !is_left(&written)) || is_left(&written_in(others)) {
            continue;
        }
        left.extend(written);
        for op in ops {
            if let Op::Transaction(within) = op {
                left.extend(left_by(within, is_written));
            }
        }
    }
    left
}

/// What a transaction's answer says of single keys: what it wrote, and what it read that it had not written itself.
pub(crate) fn told_by(transaction: &Transaction, result: &TransactionResult) -> Vec<(u64, Action)> {
    let mut told = Vec::new();
    tell(transaction, result, &mut told);
    told
}

fn tell(transaction: &Transaction, result: &TransactionResult, told: &mut Vec<(u64, Action)>) {
    let ops = if result.failed.is_some() { &transaction.otherwise } else { &transaction.then };
    for (op, result) in ops.iter().zip(&result.results) {
        match (op, result.detail.as_deref()) {
            (Op::Transaction(within), Some(Detail::Transaction(result))) => tell(within, result, told),
            (Op::Get { key }, Some(Detail::Read(pairs))) => {
                let Some(key) = key_number(key) else { continue };
                let number = pairs.items.first().and_then(|(_, record)| value_number(&record.value));
                if !told.iter().any(|(other, action)| *other == key && matches!(action, Action::Write(_))) {
                    told.push((key, Action::Saw(number)));
                }
            }
            _ => told.extend(written_by(op).map(|(key, value)| (key, Action::Write(value)))),
        }
    }
}

/// What a transaction is made of. Each put in it has a value of its own.
pub(crate) struct Ingredients<'a> {
    /// Keys, by number, all different.
    pub(crate) keys: &'a [u64],
    /// What the client saw last of some of them: number of the value, and revision of the last change.
    pub(crate) seen: &'a BTreeMap<u64, (u64, u64)>,
    /// The number of the value before the first that it may write.
    pub(crate) last_value: &'a mut u64,
}

/// A transaction over these keys: some of them only read, some written or deleted, some compared before.
pub(crate) fn any_transaction(random: &mut Random, ingredients: Ingredients<'_>) -> Transaction {
    let Ingredients { keys, seen, last_value } = ingredients;
    let mut put = |key: u64| {
        *last_value += 1;
        Op::Put(Put::new(key_of(key), value_of(*last_value, 0)))
    };
    let compares = keys.iter().filter_map(|key| any_compare(random, *key, seen.get(key))).collect();
    if random.chance(250) {
        let mut then: Vec<Op> = keys.iter().map(|key| Op::Get { key: key_of(*key) }).collect();
        then.push(any_list(random));
        return Transaction { compares, then, otherwise: vec![any_list(random)] };
    }
    // What is put first tells whether all of it was done, also where no answer does.
    let mut then: Vec<Op> = keys.iter().take(1).map(|key| put(*key)).collect();
    then.extend(keys.iter().skip(1).map(|key| any_op(random, *key, &mut put)));
    if let [first, .., last] = keys[..]
        && random.chance(300)
    {
        // The compare must not see what the operations before it do.
        let within = Transaction {
            compares: any_compare(random, first, None).into_iter().collect(),
            then: vec![Op::Get { key: key_of(first) }, then.pop().expect("one per key")],
            otherwise: vec![put(last)],
        };
        then.push(Op::Transaction(Box::new(within)));
    }
    let at = random.below(then.len() as u64 + 1) as usize;
    then.insert(at, any_list(random));
    let mut otherwise: Vec<Op> = keys.iter().map(|key| Op::Get { key: key_of(*key) }).collect();
    if random.chance(300) {
        otherwise.extend(keys.first().map(|key| put(*key)));
    }
    Transaction { compares, then, otherwise }
}

fn any_op(random: &mut Random, key: u64, put: &mut impl FnMut(u64) -> Op) -> Op {
    match random.below(10) {
        0 => Op::Delete { key: key_of(key) },
        1..4 => Op::Get { key: key_of(key) },
        _ => put(key),
    }
}

fn any_list(random: &mut Random) -> Op {
    let direction = if random.chance(500) { Direction::Forward } else { Direction::Reverse };
    let max_pairs = if random.chance(300) { random.below(4) } else { u64::MAX };
    Op::List(Listing { range: KeyRange::all(), max_pairs, direction, is_with_values: random.chance(700) })
}

fn any_compare(random: &mut Random, key: u64, seen: Option<&(u64, u64)>) -> Option<Compare> {
    let one = Keys::One(key_of(key));
    let (keys, relation, target) = match (random.below(10), seen) {
        (0..5, Some((_, revision))) => (one, Relation::Equal, Target::ModRevision(Revision(*revision))),
        (5, Some((_, revision))) => (Keys::Range(KeyRange::all()), Relation::Less, Target::ModRevision(Revision(revision + 1))),
        (6, _) => (one, Relation::Greater, Target::Version(0)),
        (7, _) => (one, Relation::Equal, Target::CreateRevision(Revision(0))),
        (8, Some((value, _))) => (one, Relation::Less, Target::Value(value_of(*value, 0))),
        _ => return None,
    };
    Some(Compare { keys, relation, target })
}
