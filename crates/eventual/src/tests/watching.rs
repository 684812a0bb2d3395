//! Who watches a replica from its start on holds what its engine holds, after every step of every test in which replicas run.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::Table;

use super::cluster::{Cluster, key};
use super::mirrors::options;
use crate::options::MAX_MEMORY_BATCH_BYTES;
use crate::{Body, Cause, Changes, CopyWhen, Entry, Event, Options, Replica, Version};

/// With more keys than that, not every step is looked at.
const MAX_KEYS_LOOKED_AT: usize = 64;

/// What is told of each slot's replica, taken in.
#[derive(Debug, Default)]
pub(super) struct Watching {
    by_slot: BTreeMap<usize, Watched>,
    /// So many events of each cause were told, and so many revisions without any.
    pub(super) told: [u64; 4],
    steps: u64,
}

#[derive(Debug)]
struct Watched {
    at: u64,
    /// Values as they lie in the engine.
    held: BTreeMap<Bytes, Bytes>,
    /// The newest version that was told, by key.
    versions: BTreeMap<Bytes, Version>,
    has: Kind,
}

/// What the replica is.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// What is evicted is not told, and may come again, as it was or older.
    evicts: bool,
    /// A copy may bring what is older, too.
    is_mirror: bool,
    /// What was there before is told.
    has_before: bool,
}

fn decoded(bytes: &Bytes) -> Entry {
    Entry::decode(bytes.clone()).expect("what was encoded can be decoded")
}

/// The values that an engine holds, and its revision.
fn values(replica: &Replica) -> (u64, BTreeMap<Bytes, Bytes>) {
    let view = replica.engine().view();
    let pairs = view.pairs(Table::Current).map(|pair| pair.expect("readable"));
    (view.revision(), pairs.filter(|(_, bytes)| !decoded(bytes).is_dead()).collect())
}

impl Watching {
    /// A replica starts.
    pub(super) fn begin(&mut self, slot: usize, replica: &Replica) {
        let (at, held) = values(replica);
        let has = Kind {
            evicts: replica.is_cache(),
            is_mirror: replica.options().mirror_of.is_some(),
            has_before: !replica.engine().capabilities().durable,
        };
        self.by_slot.insert(slot, Watched { at, held, versions: BTreeMap::new(), has });
    }

    /// It tells of what changed.
    pub(super) fn on_changes(&mut self, slot: usize, changes: &Changes) {
        let own = self.by_slot.get_mut(&slot).expect("it has started");
        assert_eq!(changes.revision, own.at + 1, "revisions have no gaps, and none comes twice");
        own.at = changes.revision;
        let events = changes.events.as_ref().expect("tests write less than that");
        if events.is_empty() {
            self.told[3] += 1;
        }
        for event in events {
            self.told[event.cause as usize] += 1;
            own.take(event);
        }
    }

    /// The revision up to which a slot's replica told everything.
    fn at(&self, slot: usize) -> u64 {
        self.by_slot[&slot].at
    }

    /// After a step.
    pub(super) fn look(&mut self, slot: usize, replica: &Replica) {
        self.steps += 1;
        let own = &self.by_slot[&slot];
        if own.held.len() > MAX_KEYS_LOOKED_AT && !self.steps.is_multiple_of(1_000) {
            return;
        }
        let (at, values) = values(replica);
        assert_eq!(own.at, at, "all is told that readers see");
        if own.has.evicts {
            for (key, value) in values {
                assert_eq!(own.held.get(&key), Some(&value), "of what is there, it was told");
            }
        } else {
            assert_eq!(own.held, values, "who watches holds what the engine holds");
        }
    }
}

impl Watched {
    fn take(&mut self, Event { key, cause, after, before }: &Event) {
        if let Some(version) = after.as_ref().map(|after| decoded(after).version)
            && let Some(known) = self.versions.insert(key.clone(), version)
        {
            let may_fall = self.has.is_mirror || self.has.evicts;
            assert!(may_fall || version > known || (version == known && *cause == Cause::Expire), "versions rise");
        }
        assert!(after.is_some() || self.has.is_mirror, "only a copy takes a key away without a version");
        let value = after.as_ref().filter(|_| *cause == Cause::Put);
        assert_eq!(value.is_some(), after.as_ref().is_some_and(|after| !decoded(after).is_dead()), "{cause:?} says what it is");
        let held = match value {
            Some(value) => self.held.insert(key.clone(), value.clone()),
            None => self.held.remove(key),
        };
        if self.has.evicts {
            assert!(before.is_none() || *before == held, "what was before was told");
        } else {
            assert!(value.is_some() || held.is_some(), "what nobody sees is no event");
            assert_eq!(*before, held.filter(|_| self.has.has_before), "what was before is said");
        }
    }
}

/// Who watches is told in one message what one revision changed: much of it is several revisions. A copy is one, for those who
/// read see it at once.
#[test]
fn what_is_much_is_told_in_several_revisions_and_a_copy_in_one() {
    let options = Options { checkpoint_bytes: 1 << 30, ..options(CopyWhen::Manual, true) };
    let mut cluster = Cluster::new(2, options, None);
    cluster.run_ms(1_000);
    let before = [0, 1].map(|slot| cluster.watching.at(slot));
    for at in 0..3 {
        let value = Bytes::from(vec![at; MAX_MEMORY_BATCH_BYTES / 2]);
        cluster.write(0, &key(at), Body::plain(value), None).expect("it runs");
    }
    // The clock's bound, and then the writes.
    cluster.sync_disk(0);
    cluster.sync_disk(0);
    assert_eq!(cluster.watching.at(0), before[0] + 2, "two fill a batch");
    cluster.flush(0).expect("it runs");
    cluster.run_ms(2_000);
    assert_eq!(cluster.watching.at(1), before[1] + 1);
    assert_eq!(cluster.watching.by_slot[&1].held.len(), 3);
}
