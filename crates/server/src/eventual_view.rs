//! Pairs of an eventual keyspace, read as those of any other.
//!
//! Entries have no revisions: what names the content of a key there is its version. A record stands for an entry with its version
//! in the counters ([`meta_of`]), told apart by a revision of creation that no record of a state machine has.

use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Direction, EngineError, KeyRange, ScanItem, Table, View};
use quorate_node::eventual_replication::{Body, DecodeError, Entry, Hlc, InstanceId, Version};
use quorate_node::keyspace::{KeyMeta, Record, Revision};

/// Entries that are served at one time, as records.
#[derive(Debug)]
pub(crate) struct EntryView {
    entries: Arc<dyn View>,
    now_ms: u64,
}

impl EntryView {
    /// What is served at this time, in milliseconds since 1970.
    pub(crate) fn new(entries: Arc<dyn View>, now_ms: u64) -> Self {
        Self { entries, now_ms }
    }

    fn record(&self, encoded: Bytes) -> Result<Option<Bytes>, EngineError> {
        let entry = Entry::decode(encoded).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Some(entry).filter(|entry| entry.is_live(self.now_ms)).and_then(record_of).map(|record| record.to_bytes()))
    }

    fn item(&self, item: ScanItem) -> Option<ScanItem> {
        let (key, encoded) = match item {
            Ok(pair) => pair,
            Err(error) => return Some(Err(error)),
        };
        self.record(encoded).map(|record| record.map(|record| (key, record))).transpose()
    }
}

impl View for EntryView {
    fn applied(&self) -> u64 {
        0
    }

    /// None: replicas of an eventual keyspace have no revision in common.
    fn revision(&self) -> u64 {
        0
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.entries.get(table, key)?.map_or(Ok(None), |encoded| self.record(encoded))
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        Box::new(self.entries.scan(table, range, direction).filter_map(|item| self.item(item)))
    }

    fn pairs<'a>(&'a self, table: Table) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        Box::new(self.entries.pairs(table).filter_map(|item| self.item(item)))
    }
}

/// The record that stands for an entry, if that is a value.
pub(crate) fn record_of(entry: Entry) -> Option<Record> {
    let Entry { version, deadline_ms, body } = entry;
    let Body::Value { content_type, user_meta, value } = body else { return None };
    let expires_at_ms = std::num::NonZeroU64::new(deadline_ms);
    Some(Record { meta: meta_of(version), content_type, user_meta, expires_at_ms, lease: None, value })
}

/// The record that stands for an encoded entry, or, if that is no value, its version as clients see it.
pub(crate) fn record_in(encoded: Bytes) -> Result<Result<Record, String>, DecodeError> {
    let entry = Entry::decode(encoded)?;
    let version = entry.version;
    Ok(record_of(entry).ok_or_else(|| stamp_text(version)))
}

/// The counters that stand for a version.
pub(crate) fn meta_of(version: Version) -> KeyMeta {
    let Version { hlc, instance } = version;
    KeyMeta { create_revision: Revision(0), mod_revision: Revision(hlc.0), version: instance.0.into() }
}

/// The version that counters stand for, if they stand for one.
pub(crate) fn version_in(meta: &KeyMeta) -> Option<Version> {
    let instance = u32::try_from(meta.version).ok().filter(|_| meta.create_revision == Revision(0))?;
    Some(Version { hlc: Hlc(meta.mod_revision.0), instance: InstanceId(instance) })
}

/// A version as clients see it; opaque to them.
pub(crate) fn stamp_text(version: Version) -> String {
    format!("{}.{}", version.hlc.0, version.instance.0)
}

#[cfg(test)]
mod tests {
    use quorate_engine::{Batch, Change, Engine, Trie};
    use quorate_node::keyspace::{ListQuery, get, keys, list};

    use super::*;

    fn version(number: u64) -> Version {
        Version { hlc: Hlc(number), instance: InstanceId(7) }
    }

    fn view(now_ms: u64) -> EntryView {
        let engine = Trie::new();
        let value = |text: &'static str| Body::plain(Bytes::from_static(text.as_bytes()));
        let entries = [
            ("deleted", 0, Body::Tombstone),
            ("ends", 100, value("soon")),
            ("gone", 1, Body::Expired),
            ("stays", 0, value("for ever")),
        ];
        let put = |(number, (key, deadline_ms, body)): (usize, (&'static str, u64, Body))| {
            let entry = Entry { version: version(number as u64), deadline_ms, body };
            Change::Put { table: Table::Current, key: Bytes::from_static(key.as_bytes()), value: entry.to_bytes() }
        };
        let changes = entries.into_iter().enumerate().map(put).collect();
        engine.apply(Batch { applied: 4, revision: 5, changes }).unwrap();
        EntryView::new(engine.view(), now_ms)
    }

    #[test]
    fn what_is_dead_or_over_is_not_there() {
        for (now_ms, there) in [(99, &["ends", "stays"][..]), (100, &["stays"][..])] {
            let view = view(now_ms);
            let found: Vec<Bytes> = keys(&view, &KeyRange::all()).map(Result::unwrap).collect();
            assert_eq!(found, there);
            for key in ["deleted", "ends", "gone", "stays"] {
                assert_eq!(get(&view, key.as_bytes()).unwrap().is_some(), there.contains(&key), "{key} at {now_ms}");
            }
        }
    }

    #[test]
    fn a_record_has_the_version_of_its_entry_and_no_revision() {
        let view = view(0);
        let record = get(&view, b"ends").unwrap().unwrap();
        assert_eq!((version_in(&record.meta), record.expires_at_ms.map(Into::into)), (Some(version(1)), Some(100_u64)));
        assert_eq!((view.revision(), &record.value[..]), (0, &b"soon"[..]));
        let real = KeyMeta { create_revision: Revision(2), mod_revision: Revision(3), version: 4 };
        assert_eq!(version_in(&real), None);
    }

    #[test]
    fn lists_are_read_in_both_directions() {
        let query = ListQuery {
            range: KeyRange::all(),
            direction: Direction::Reverse,
            max_items: 1,
            max_bytes: 1000,
            is_with_values: true,
            folding: None,
        };
        let page = list(&view(0), &query).unwrap();
        assert_eq!((&page.items[0].0[..], page.next.is_some()), (&b"stays"[..], true));
    }
}
