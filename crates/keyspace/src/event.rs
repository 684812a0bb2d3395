//! What happened to keys: that of which watchers are told.

use bytes::Bytes;

use crate::{Record, Revision};
use quorate_engine::codec::DecodeError;

/// All that one revision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// One per key, in the order in which a write changed them. None, if it took back itself what it did.
    pub events: Vec<Event>,
}

/// What one revision changed about one key.
///
/// Records are as they lie in the engine: an event in memory shares them with an engine in memory. Of an eventual keyspace they
/// are entries, which its host can decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// Why.
    pub cause: Cause,
    /// The encoded record after; none if the key was removed, but of an eventual keyspace the entry that says so.
    pub after: Option<Bytes>,
    /// The encoded record before; none if there was none, or if it is not known any more.
    pub before: Option<Bytes>,
}

/// Why a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was set.
    Put,
    /// It was removed.
    Delete,
    /// Its time was up, or that of its lease.
    Expire,
}

impl Cause {
    /// What stands for it in what is stored.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Delete => 2,
            Self::Expire => 3,
        }
    }

    pub(crate) fn of_tag(tag: u8) -> Result<Self, DecodeError> {
        match tag {
            1 => Ok(Self::Put),
            2 => Ok(Self::Delete),
            3 => Ok(Self::Expire),
            tag => Err(DecodeError::UnknownTag { what: "cause", tag }),
        }
    }
}

impl Event {
    /// The record after.
    pub fn record(&self) -> Result<Option<Record>, DecodeError> {
        self.after.clone().map(Record::decode).transpose()
    }

    /// The record before.
    pub fn record_before(&self) -> Result<Option<Record>, DecodeError> {
        self.before.clone().map(Record::decode).transpose()
    }

    /// Bytes of key and records.
    pub fn bytes(&self) -> usize {
        let records = [&self.after, &self.before];
        self.key.len() + records.into_iter().flatten().map(Bytes::len).sum::<usize>()
    }
}

impl Changes {
    /// What a write did, as it did it: of a key that it changed more than once, the last change stands, with the record before
    /// the first.
    pub(crate) fn of(revision: Revision, mut events: Vec<Event>) -> Self {
        if events.len() > 1 {
            events = without_repeats(events);
        }
        Self { revision, events }
    }
}

fn without_repeats(events: Vec<Event>) -> Vec<Event> {
    let mut places = std::collections::BTreeMap::new();
    let mut last: Vec<Event> = Vec::with_capacity(events.len());
    for event in events {
        match places.get(&event.key) {
            None => {
                places.insert(event.key.clone(), last.len());
                last.push(event);
            }
            Some(place) => {
                let earlier: &mut Event = &mut last[*place];
                *earlier = Event { before: earlier.before.take(), ..event };
            }
        }
    }
    last.retain(|event| event.after.is_some() || event.before.is_some());
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &'static str, before: Option<&'static str>, after: Option<&'static str>) -> Event {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let cause = if after.is_some() { Cause::Put } else { Cause::Delete };
        Event { key: bytes(key), cause, after: after.map(bytes), before: before.map(bytes) }
    }

    #[test]
    fn a_key_has_one_event_a_revision() {
        let events = vec![
            event("a", Some("0"), Some("1")),
            event("b", None, Some("1")),
            event("c", None, Some("1")),
            event("a", Some("1"), Some("2")),
            event("c", Some("1"), None),
            event("b", Some("1"), None),
            event("b", None, Some("2")),
        ];
        let changes = Changes::of(Revision(7), events);
        assert_eq!(changes.events, [event("a", Some("0"), Some("2")), event("b", None, Some("2"))]);
    }
}
