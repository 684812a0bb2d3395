//! The messages of a watch, written out.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_api::entry::{Encoding, Entry};
use quorate_api::etag::EntityTag;
use quorate_api::problem::Problem;
use quorate_api::user_meta::UserMeta;
use quorate_api::watch::{EventType, WatchEvent, WatchMessage};
use quorate_node::keyspace::watch::Told;
use quorate_node::keyspace::{Cause, Event, Record, Revision, ShardError};

use super::super::list::put_line;
use super::super::one_key::entry_of;
use super::super::refusal::Refusal;
use crate::eventual_view::record_in;

/// How a browser that lost its connection waits before it comes back.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// Keeps a connection open that has nothing to tell.
const COMMENT: &[u8] = b": nothing yet\n\n";

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As server-sent events.
    Events,
    /// As lines of JSON.
    Lines,
}

/// What events say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) has_values: bool,
    pub(super) has_prev: bool,
    pub(super) encoding: Encoding,
}

/// Writes the messages of one watch.
#[derive(Debug)]
pub(super) struct Messages {
    pub(super) form: Form,
    pub(super) epoch: u64,
    /// It is told what one node changed of an eventual keyspace.
    pub(super) is_of_node: bool,
    pub(super) shown: Shown,
    /// The names of the selections, where they have any.
    pub(super) names: Vec<Option<String>>,
}

/// An event, before it is written out.
struct Plain<'a> {
    kind: EventType,
    entry: Entry,
    prev: Option<Entry>,
    of: Cow<'a, [usize]>,
}

impl Messages {
    /// What a stream begins with.
    pub(super) fn begin(&self) -> BytesMut {
        match self.form {
            Form::Events => RETRY.into(),
            Form::Lines => BytesMut::new(),
        }
    }

    /// Something that says nothing.
    pub(super) fn comment(&self) -> BytesMut {
        match self.form {
            Form::Events => COMMENT.into(),
            Form::Lines => b"\n"[..].into(),
        }
    }

    /// What a revision changed, told at `now_ms`.
    pub(super) fn put_change(&self, told: &Told, now_ms: u64, out: &mut BytesMut) -> Result<(), ShardError> {
        let plain: Result<Vec<Plain<'_>>, ShardError> =
            told.events().map(|(event, of)| self.plain(event, of, (told.revision(), now_ms))).collect();
        let plain = plain?;
        let events = plain.iter().map(|event| self.event(event)).collect();
        let revision = told.revision().0;
        self.put("change", Some(revision), &WatchMessage::Change { revision, events }, out);
        Ok(())
    }

    /// Keys that are there, with the selections that they are of, told at `now_ms`.
    pub(super) fn put_snapshot(
        &self,
        (revision, now_ms): (Revision, u64),
        pairs: Vec<(Bytes, Record, Vec<usize>)>,
        out: &mut BytesMut,
    ) {
        let plain: Vec<Plain<'_>> = pairs
            .into_iter()
            .map(|(key, record, of)| {
                let entry = self.shown_of(entry_of(key, record, now_ms));
                Plain { kind: EventType::Put, entry, prev: None, of: Cow::Owned(of) }
            })
            .collect();
        let events = plain.iter().map(|event| self.event(event)).collect();
        // Without an id: who comes back in the middle begins anew.
        self.put("snapshot", None, &WatchMessage::Snapshot { revision: revision.0, events }, out);
    }

    /// That was all that is there.
    pub(super) fn put_sync(&self, revision: Revision, out: &mut BytesMut) {
        self.put("sync", Some(revision.0), &WatchMessage::Sync { revision: revision.0 }, out);
    }

    /// Nothing else happened.
    pub(super) fn put_progress(&self, revision: Revision, out: &mut BytesMut) {
        self.put("progress", Some(revision.0), &WatchMessage::Progress { revision: revision.0 }, out);
    }

    /// The watch ends.
    pub(super) fn put_error(&self, revision: Revision, problem: Problem, out: &mut BytesMut) {
        self.put("error", None, &WatchMessage::Error { revision: revision.0, problem: Box::new(problem) }, out);
    }

    fn put(&self, name: &str, id: Option<u64>, message: &WatchMessage<'_>, out: &mut BytesMut) {
        if self.form == Form::Lines {
            return put_line(out, message);
        }
        if let Some(revision) = id {
            out.extend_from_slice(
                format!("id: {}\n", EntityTag { epoch: self.epoch, mod_revision: revision, instance: 0 }).as_bytes(),
            );
        }
        out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        // JSON has no line breaks of its own.
        put_line(out, message);
        out.put_u8(b'\n');
    }

    /// What it is when revisions are those of another count.
    pub(super) fn compacted_by_other(&self) -> Refusal {
        other_epoch(self.is_of_node)
    }

    fn plain<'a>(&self, event: &Event, of: &'a [usize], (revision, now_ms): (Revision, u64)) -> Result<Plain<'a>, ShardError> {
        let before = match &event.before {
            Some(entry) if self.shown.has_prev && self.is_of_node => record_in(entry.clone())?.ok(),
            _ if self.shown.has_prev => event.record_before()?,
            _ => None,
        };
        let prev = before.map(|record| self.shown_of(timeless(event.key.clone(), record)));
        let now = match &event.after {
            Some(entry) if self.is_of_node => record_in(entry.clone())?.map_err(Some),
            None if self.is_of_node => Err(Some(0.to_string())),
            _ => event.record()?.ok_or(None),
        };
        let entry = match now {
            Ok(record) => self.shown_of(entry_of(event.key.clone(), record, now_ms)),
            Err(stamp) => gone(event.key.clone(), revision, stamp),
        };
        Ok(Plain {
            kind: match event.cause {
                Cause::Put => EventType::Put,
                Cause::Delete => EventType::Delete,
                Cause::Expire => EventType::Expire,
            },
            entry,
            prev,
            of: Cow::Borrowed(of),
        })
    }

    fn shown_of(&self, entry: Entry) -> Entry {
        Entry { value: entry.value.filter(|_| self.shown.has_values), ..entry }
    }

    fn event<'a>(&'a self, plain: &'a Plain<'_>) -> WatchEvent<'a> {
        let encoding = self.shown.encoding;
        WatchEvent {
            kind: plain.kind,
            entry: plain.entry.to_body(encoding),
            prev: plain.prev.as_ref().map(|prev| Box::new(prev.to_body(encoding))),
            watches: plain.of.iter().filter_map(|of| self.names[*of].as_deref()).map(Cow::Borrowed).collect(),
        }
    }
}

/// The entry of a record that is not there any more.
fn timeless(key: Bytes, record: Record) -> Entry {
    Entry { ttl_ms: None, ..entry_of(key, record, 0) }
}

/// The refusal to go on where revisions are of another count than those that a client knows.
pub(super) fn other_epoch(is_of_node: bool) -> Refusal {
    let detail = if is_of_node {
        "what was seen last was told by another node, or by this one before it started its replica anew: in this keyspace each \
         node tells what it changed itself; read what is there (initial=true), and go on from that"
    } else {
        "the event that was seen last is of a keyspace that was made anew since"
    };
    Refusal::compacted(Revision::FIRST, detail)
}

/// A key that is not there since a revision; in an eventual keyspace with the stamp of what took it away.
fn gone(key: Bytes, since: Revision, stamp: Option<String>) -> Entry {
    Entry {
        key,
        value: None,
        content_type: None,
        meta: UserMeta::default(),
        create_revision: 0,
        mod_revision: since.0,
        version: 0,
        stamp,
        ttl_ms: None,
        lease: None,
    }
}

#[cfg(test)]
mod tests {
    use quorate_api::entry::Encoding;
    use quorate_node::eventual_replication::{Body, Entry as Stored, Hlc, InstanceId, Version};
    use quorate_node::keyspace::watch::{Causes, Piece, Selection, Watch};
    use quorate_node::keyspace::{Changes, Keys};

    use super::*;

    fn stored(hlc: u64, deadline_ms: u64, body: Body) -> Bytes {
        let version = Version { hlc: Hlc(hlc), instance: InstanceId(7) };
        Stored { version, deadline_ms, body }.to_bytes()
    }

    fn told(events: Vec<Event>) -> Vec<Told> {
        let keys = Keys::Range(quorate_engine::KeyRange::all());
        let mut watch = Watch::new(vec![Selection { keys, causes: Causes::ALL }], Revision(4));
        let changes = vec![std::sync::Arc::new(Changes { revision: Revision(5), events })];
        watch.take(Piece { changes, upto: Revision(5) }, usize::MAX)
    }

    #[test]
    fn what_a_node_of_an_eventual_keyspace_changed_is_told_with_stamps() {
        let event = |key: &'static str, cause, entries: Option<(Bytes, Bytes)>| {
            let (before, after) = entries.unzip();
            Event { key: Bytes::from_static(key.as_bytes()), cause, after, before }
        };
        let value = |text: &'static str| Body::plain(Bytes::from_static(text.as_bytes()));
        let told = told(vec![
            event("a", Cause::Put, Some((stored(8, 0, value("old")), stored(9, 1_500, value("new"))))),
            event("b", Cause::Delete, Some((stored(8, 0, Body::Tombstone), stored(9, 0, Body::Tombstone)))),
            event("c", Cause::Expire, Some((stored(6, 70, value("over")), stored(6, 70, Body::Expired)))),
            // A copy took its place, and had no such key.
            event("d", Cause::Delete, None),
        ]);
        let shown = Shown { has_values: true, has_prev: true, encoding: Encoding::Text };
        let messages = Messages { form: Form::Lines, epoch: 1, is_of_node: true, shown, names: vec![None] };
        let mut out = BytesMut::new();
        messages.put_change(&told[0], 500, &mut out).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!({"event": "change", "revision": 5, "events": [
            {"type": "put", "key": "a", "value": "new", "stamp": "9.7", "ttl": 1.0,
             "prev": {"key": "a", "value": "old", "stamp": "8.7"}},
            {"type": "delete", "key": "b", "stamp": "9.7"},
            {"type": "expire", "key": "c", "stamp": "6.7", "prev": {"key": "c", "value": "over", "stamp": "6.7"}},
            {"type": "delete", "key": "d", "stamp": "0"},
        ]});
        assert_eq!(line, expected);
    }
}
