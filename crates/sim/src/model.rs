//! A second, simple state machine, against which the real one is compared: every committed entry is executed here once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_engine::{Direction, KeyRange, Table, View};
use quorate_keyspace::{Command, Condition, KeyMeta, LeaseId, Op, Record, Revision, Write, decode_entry, extent};

use crate::fingerprint::Fingerprint;
use crate::retained::Retained;
use crate::timed::Timed;
use crate::transactions::{Content as Pairs, changes, meta_after};

/// What one group's shard must hold.
///
/// *Invariants*: `revisions` has a fingerprint for every index that was executed; `past` has what each key was at every revision
/// since the model began.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// That of what the shard held when the model began.
    first: u64,
    revision: u64,
    pairs: Pairs,
    content: u64,
    past: BTreeMap<Bytes, BTreeMap<u64, Option<(KeyMeta, Bytes)>>>,
    changes: BTreeMap<u64, Vec<KeyChange>>,
    origins: BTreeMap<u64, Origin>,
    /// Keys of writes that are done once. No run lasts so long that one is forgotten.
    once: BTreeSet<Bytes>,
    retained: Retained,
    at_index: BTreeMap<u64, Content>,
    timed: Timed,
    /// Values that went because their time was up, since this was last asked.
    expired: Vec<Bytes>,
}

/// What a shard holds at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) revision: u64,
    pub(crate) fingerprint: u64,
    /// The oldest revision that can be read.
    pub(crate) compacted: u64,
}

/// A key that was changed, and its value after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyChange {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// Requests of one start of one node that were executed.
#[derive(Debug, Default)]
struct Origin {
    floor: u64,
    executed: BTreeSet<u64>,
}

impl Model {
    /// The model of a shard that holds something already.
    pub(crate) fn of(view: &dyn View) -> Result<Self, String> {
        let mut model = Self { first: view.revision(), revision: view.revision(), ..Self::default() };
        for (key, record) in records(view)? {
            model.set(view.revision(), key, Some((record.meta, record.value)));
        }
        model.changes.clear();
        model.retained = Retained::of(view)?;
        model.at_index.insert(view.applied(), model.present());
        Ok(model)
    }

    /// Executes an entry. What a configuration change says does not matter here.
    pub(crate) fn apply(&mut self, index: u64, payload: &Bytes, is_conf_change: bool) -> Result<(), String> {
        if !is_conf_change {
            let (header, commands) = decode_entry(payload.clone()).map_err(|error| error.to_string())?;
            self.retained.begin_entry(header.log_time_ms);
            let revision = self.revision + 1;
            for key in self.timed.begin(header.log_time_ms, revision) {
                self.expired.extend(self.pairs.get(&key).map(|(_, value)| value.clone()));
                self.set(revision, key, None);
            }
            self.retained.note(self.revision);
            commands.iter().for_each(|command| self.execute(command, index));
            self.retained.end_entry(self.revision);
        }
        self.at_index.insert(index, self.present());
        Ok(())
    }

    /// What a shard holds that has applied everything up to an index; none if the model has not, or began later.
    pub(crate) fn at(&self, index: u64) -> Option<Content> {
        self.at_index.get(&index).copied()
    }

    /// What a key held at a revision.
    pub(crate) fn get(&self, key: &[u8], revision: u64) -> Option<&(KeyMeta, Bytes)> {
        self.past.get(key)?.range(..=revision).next_back()?.1.as_ref()
    }

    /// What was changed by a revision.
    pub(crate) fn changes(&self, revision: u64) -> &[KeyChange] {
        self.changes.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// The first revision that it knows anything of: not what changed then.
    pub(crate) fn first_revision(&self) -> u64 {
        self.first
    }

    /// The oldest revision that can be read now.
    pub(crate) fn compacted(&self) -> u64 {
        self.retained.compacted(self.revision)
    }

    /// The latest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The latest change.
    pub(crate) fn changes_after(&self, revision: u64) -> impl Iterator<Item = (u64, &KeyChange)> {
        let later = self.changes.range(revision + 1..);
        later.flat_map(|(revision, changes)| changes.iter().map(|change| (*revision, change)))
    }

    fn present(&self) -> Content {
        let compacted = self.retained.compacted(self.revision);
        Content { revision: self.revision, fingerprint: self.content, compacted }
    }

    /// Values and leases that ended because their time was up, since this was last asked.
    pub(crate) fn take_expired(&mut self) -> (Vec<Bytes>, Vec<LeaseId>) {
        (std::mem::take(&mut self.expired), self.timed.take_expired_leases())
    }

    /// Whether a revision was made by time, and not by a client.
    pub(crate) fn is_expiry(&self, revision: u64) -> bool {
        self.timed.is_expiry(revision)
    }

    /// Whether anything is there that is to go.
    pub(crate) fn is_anything_timed(&self) -> bool {
        !self.timed.is_empty() || self.retained.is_ageing(self.revision)
    }

    fn execute(&mut self, command: &Command, index: u64) {
        let id = command.id;
        if id.sequence != 0 {
            let origin = self.origins.entry(id.origin).or_default();
            if id.sequence < origin.floor || !origin.executed.insert(id.sequence) {
                return;
            }
            origin.floor = origin.floor.max(command.floor);
        }
        if let Some(key) = once(&command.write)
            && !self.once.insert(key.clone())
        {
            return;
        }
        if command.write.guards.iter().all(|guard| holds(&guard.condition, self.pairs.get(&guard.key).map(|(meta, _)| *meta))) {
            self.write(&command.write, index);
        }
    }

    /// All that was there at a revision.
    pub(crate) fn content_at(&self, revision: u64) -> Pairs {
        let pair = |key: &Bytes| Some((key.clone(), self.get(key, revision)?.clone()));
        self.past.keys().filter_map(pair).collect()
    }

    fn write(&mut self, write: &Write, index: u64) {
        let revision = self.revision + 1;
        if Timed::is_about(write) {
            for (key, value) in self.timed.execute(write, index, revision) {
                let before = self.pairs.get(&key).map(|(meta, _)| *meta);
                if value.is_some() || before.is_some() {
                    let pair = value.map(|value| (meta_after(before, Revision(revision)), value));
                    self.set(revision, key, pair);
                }
            }
            self.retained.note(self.revision);
            return;
        }
        for (key, pair) in changes(&write.ops, &self.pairs, revision) {
            self.set(revision, key, pair);
        }
        match write.ops[..] {
            [Op::Configure(settings)] => self.retained.retain(settings.retention),
            [Op::Compact { revision }] => self.retained.compact(revision.0, self.revision),
            _ => {}
        }
    }

    fn set(&mut self, revision: u64, key: Bytes, pair: Option<(KeyMeta, Bytes)>) {
        self.revision = revision;
        self.retained.note(revision);
        let before = match pair.clone() {
            Some(pair) => self.pairs.insert(key.clone(), pair),
            None => self.pairs.remove(&key),
        };
        for (meta, value) in before.iter().chain(&pair) {
            self.content ^= fingerprint(&key, *meta, value);
        }
        let value = pair.as_ref().map(|(_, value)| value.clone());
        self.past.entry(key.clone()).or_default().insert(revision, pair);
        self.changes.entry(revision).or_default().push(KeyChange { key, value });
    }
}

/// What a view holds, to be compared with [`Model::at`] its index.
pub(crate) fn content_of(view: &dyn View) -> Result<Content, String> {
    let pairs = records(view)?;
    let fingerprint = pairs.iter().fold(0, |all, (key, record)| all ^ fingerprint(key, record.meta, &record.value));
    let compacted = extent(view).map_err(|error| error.to_string())?.compacted.0;
    Ok(Content { revision: view.revision(), fingerprint, compacted })
}

fn records(view: &dyn View) -> Result<Vec<(Bytes, Record)>, String> {
    let mut records = Vec::new();
    for item in view.scan(Table::Current, &KeyRange::all(), Direction::Forward) {
        let (key, bytes) = item.map_err(|error| error.to_string())?;
        records.push((key, Record::decode(bytes).map_err(|error| error.to_string())?));
    }
    Ok(records)
}

fn fingerprint(key: &[u8], meta: KeyMeta, value: &[u8]) -> u64 {
    let counters = [meta.create_revision.0, meta.mod_revision.0, meta.version, key.len() as u64];
    counters.into_iter().fold(Fingerprint::of(key).with(value), Fingerprint::with_number).0
}

fn holds(condition: &Condition, present: Option<KeyMeta>) -> bool {
    let is_at = |revisions: &[Revision]| present.is_some_and(|meta| revisions.contains(&meta.mod_revision));
    match condition {
        Condition::Exists => present.is_some(),
        Condition::Absent => present.is_none(),
        Condition::ModRevisionIn(revisions) => is_at(revisions),
        Condition::ModRevisionNotIn(revisions) => !is_at(revisions),
        Condition::Once(_) => true,
    }
}

fn once(write: &Write) -> Option<&Bytes> {
    write.guards.iter().find(|guard| matches!(guard.condition, Condition::Once(_))).map(|guard| &guard.key)
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use quorate_engine::Engine;
    use quorate_keyspace::{EntryHeader, Limits, Op, RequestId, Settings, Shard, ShardHeader, encode_entry};

    use super::*;
    use crate::random::Random;
    use crate::transactions::{Ingredients, any_transaction};

    /// The model and the real state machine agree on random commands: this is what makes a difference in a run worth a look.
    #[test]
    fn the_model_agrees_with_the_state_machine() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let engine: std::sync::Arc<dyn Engine> = std::sync::Arc::new(quorate_engine::Trie::new());
            let settings = Settings::of(Limits { max_bytes: 1 << 30, ..Limits::default() });
            let header = ShardHeader { settings, ..ShardHeader::default() };
            let mut shard = Shard::found(engine, header).unwrap();
            let mut model = Model::of(shard.engine().view().as_ref()).unwrap();
            for index in 1..200 {
                let commands: Vec<Bytes> = (0..random.below(4)).map(|_| command(&mut random, index).to_bytes()).collect();
                let payload = encode_entry(EntryHeader::default(), commands.iter());
                shard.apply(&[(index, 1, payload.clone())]).unwrap();
                model.apply(index, &payload, false).unwrap();
                assert_eq!(
                    model.at(index),
                    Some(content_of(shard.engine().view().as_ref()).unwrap()),
                    "seed {seed} index {index}"
                );
            }
        }
    }

    fn command(random: &mut Random, index: u64) -> Command {
        let key = |random: &mut Random| Bytes::from(format!("k{}", random.below(3)));
        let write = match random.below(10) {
            7..10 => {
                let seen = (0..3).map(|key| (key, (index, random.between(1, index)))).collect();
                let keys = [[0, 1, 2], [2, 0, 1], [1, 2, 0]][random.below(3) as usize];
                let ingredients = Ingredients { keys: &keys, seen: &seen, last_value: &mut random.bits() };
                Write::transaction(any_transaction(random, ingredients))
            }
            0 => {
                let range = KeyRange { start: Bound::Included(key(random)), end: Bound::Excluded(key(random)) };
                Write { guards: Vec::new(), ops: vec![Op::DeleteRange { range, max_keys: random.below(3) }] }
            }
            1 | 2 => Write::delete(key(random)),
            _ => Write::put(key(random), Bytes::from(format!("v{}", random.bits()))),
        };
        let condition = match random.below(8) {
            0 => Some(Condition::Absent),
            1 => Some(Condition::Exists),
            2 => Some(Condition::ModRevisionIn(vec![Revision(random.between(1, index))])),
            3 => Some(Condition::ModRevisionNotIn(vec![Revision(random.between(1, index))])),
            _ => None,
        };
        let guarded = key(random);
        let write = condition.into_iter().fold(write, |write, condition| write.only_if(guarded.clone(), condition));
        let sequence = random.between(index.saturating_sub(5), index + 1);
        let id = RequestId { origin: random.below(2), sequence };
        Command { id, floor: sequence.saturating_sub(random.below(4)), write }
    }

    #[test]
    fn the_past_is_kept() {
        let engine: std::sync::Arc<dyn Engine> = std::sync::Arc::new(quorate_engine::Trie::new());
        let shard = Shard::found(engine, ShardHeader::default()).unwrap();
        let mut model = Model::of(shard.engine().view().as_ref()).unwrap();
        for (index, value) in (1..).zip(["a", "b"]) {
            let write = Write::put(Bytes::from_static(b"k"), Bytes::from_static(value.as_bytes()));
            let command = Command { id: RequestId::default(), floor: 0, write }.to_bytes();
            model.apply(index, &encode_entry(EntryHeader::default(), [command].iter()), false).unwrap();
        }
        let value_at = |revision| model.get(b"k", revision).map(|(_, value)| value.as_ref());
        assert_eq!([1, 2, 3].map(value_at), [None, Some(&b"a"[..]), Some(&b"b"[..])]);
        assert_eq!(model.changes(3)[0].value.as_deref(), Some(&b"b"[..]));
        assert!(model.changes(1).is_empty());
    }
}
