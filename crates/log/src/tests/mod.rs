//! The log as a whole: against a model, across crashes, on failing disks. What they share is here.

mod crash;
mod faults;
mod limits;
mod model;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::testing::MemoryDisk;
use crate::{Batch, Disk, Entry, GroupId, HardState, Log, LogError, LogId, LogIndex, Options, Reader, Record, Term};

/// What a log should hold: the plainest implementation of the records' meaning.
#[derive(Clone, Default, PartialEq)]
struct Model(BTreeMap<GroupId, ModelGroup>);

#[derive(Clone, Default, PartialEq)]
struct ModelGroup {
    hard_state: HardState,
    purged: LogId,
    entries: Vec<Entry>,
    state: Bytes,
}

/// Without the payloads, which fill screens.
impl fmt::Debug for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, group) in &self.0 {
            let entries = group.entries.iter().map(|entry| format!("{}:{}", entry.id.index.0, entry.id.term.0));
            let entries: Vec<_> = entries.collect();
            write!(formatter, "\n  {}: {:?}, after {:?}: {entries:?}", id.0, group.hard_state, group.purged)?;
        }
        Ok(())
    }
}

impl Model {
    fn apply(&mut self, batches: &[Batch]) {
        for (group, record) in batches.iter().flatten() {
            self.apply_record(*group, record);
        }
    }

    fn apply_record(&mut self, id: GroupId, record: &Record) {
        let last_purged = self.0.get(&id).map_or(LogIndex(0), |group| group.purged.index);
        match record {
            Record::Append(entries) if entries.is_empty() => return,
            Record::Purge(to) if to.index <= last_purged => return,
            Record::Destroy => {
                self.0.remove(&id);
                return;
            }
            _ => {}
        }
        let group = self.0.entry(id).or_default();
        match record {
            Record::Append(entries) => {
                group.entries.retain(|entry| entry.id.index < entries[0].id.index);
                group.entries.extend_from_slice(entries);
            }
            Record::HardState(hard_state) => group.hard_state = *hard_state,
            Record::Purge(to) => {
                group.entries.retain(|entry| entry.id.index > to.index);
                group.purged = *to;
            }
            Record::Reset(to) => {
                group.entries.clear();
                group.purged = *to;
            }
            Record::State(state) => group.state = state.clone(),
            Record::Destroy => {}
        }
    }

    /// What the reader tells.
    fn of<D: Disk>(reader: &Reader<D>) -> Self {
        Self(reader.groups().into_iter().map(|id| (id, ModelGroup::of(reader, id))).collect())
    }

    fn last(&self, id: GroupId) -> u64 {
        self.0.get(&id).map_or(0, |group| group.entries.last().map_or(group.purged.index.0, |entry| entry.id.index.0))
    }

    fn purged(&self, id: GroupId) -> u64 {
        self.0.get(&id).map_or(0, |group| group.purged.index.0)
    }

    fn term(&self, id: GroupId, index: u64) -> Term {
        let Some(group) = self.0.get(&id) else { return Term(0) };
        let entry = group.entries.iter().find(|entry| entry.id.index.0 == index);
        entry.map_or(group.purged.term, |entry| entry.id.term)
    }
}

impl ModelGroup {
    fn of<D: Disk>(reader: &Reader<D>, id: GroupId) -> Self {
        let group = reader.group(id).expect("a listed group");
        let (low, high) = (LogIndex(group.purged.index.0 + 1), LogIndex(group.last.index.0 + 1));
        let entries = reader.entries(id, low, high, u64::MAX).unwrap();
        assert_eq!(reader.term(id, group.purged.index), Some(group.purged.term));
        assert_eq!(reader.term(id, high), None);
        for entry in &entries {
            assert_eq!(reader.term(id, entry.id.index), Some(entry.id.term));
        }
        assert!(reader.group_bytes(id) >= entries.iter().map(|entry| entry.payload.len() as u64).sum());
        Self { hard_state: group.hard_state, purged: group.purged, entries, state: group.state }
    }
}

/// Small segments, so that few writes fill many.
fn small_segments() -> Options {
    Options { segment_bytes: 4096, max_log_bytes: 64 << 10, reserve_bytes: 8192, max_spare_segments: 2 }
}

fn open(disk: &MemoryDisk) -> Result<Log<MemoryDisk>, LogError> {
    Log::open(Arc::new(disk.clone()), small_segments())
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

/// `count` entries from `first`, each with a payload of its own.
fn append(term: u64, first: u64, count: u64, payload_bytes: usize) -> Record {
    let entry = |index: u64| {
        let seed = (term * 31 + index * 7) as u8;
        let payload = (0..payload_bytes).map(|at| seed.wrapping_add(at as u8)).collect();
        Entry { id: log_id(term, index), payload }
    };
    Record::Append((first..first + count).map(entry).collect())
}

fn hard_state(term: u64, vote: u64, commit: u64) -> Record {
    Record::HardState(HardState { term: Term(term), vote, commit: LogIndex(commit) })
}

fn state(text: &str) -> Record {
    Record::State(Bytes::copy_from_slice(text.as_bytes()))
}

/// A workload that rolls segments, purges, truncates, resets, destroys, and leaves cold groups behind that have to be moved;
/// and the model before its first write and after each.
fn workload() -> (Vec<Batch>, Vec<Model>) {
    let (cold, hot, other) = (GroupId(1), GroupId(2), GroupId(3));
    let mut writes = vec![
        vec![(cold, hard_state(1, 1, 0)), (cold, append(1, 1, 3, 40)), (cold, state("cold"))],
        vec![(other, Record::Reset(log_id(4, 10))), (other, append(5, 11, 4, 60))],
        vec![(other, append(6, 13, 2, 30)), (other, hard_state(6, 2, 12))],
    ];
    for round in 0..14 {
        let first = round * 3 + 1;
        let mut batch = vec![(hot, append(2, first, 3, 300)), (hot, hard_state(2, 1, first))];
        if round % 2 == 1 {
            batch.push((hot, Record::Purge(log_id(2, first + 1))));
        }
        if round == 6 {
            batch.push((other, Record::Destroy));
        }
        if round == 9 {
            batch.push((cold, append(2, 3, 2, 20)));
            batch.push((other, append(1, 1, 1, 5)));
        }
        writes.push(batch);
    }
    // The last segment shall hold several batches.
    writes.extend((0..3).map(|round| vec![(hot, hard_state(3, 1, round))]));
    let mut model = Model::default();
    let mut models = vec![model.clone()];
    for batch in &writes {
        model.apply(std::slice::from_ref(batch));
        models.push(model.clone());
    }
    (writes, models)
}

/// Small, seeded, and the same everywhere.
fn chooser(seed: u64) -> impl FnMut(u64) -> u64 {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    let mut generator = SmallRng::seed_from_u64(seed);
    move |below| generator.random_range(0..below)
}
