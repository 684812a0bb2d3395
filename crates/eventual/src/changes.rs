//! What watchers of one replica are told: what each batch of its engine changed.
//!
//! Revisions are the replica's own count of batches, and mean nothing at another replica, nor after another start of this one.
//! What is told is what readers of the engine see change: a tombstone where nothing was served, or the end of one, is a batch
//! without an event. A key that one batch changes more than once has one event, with what was there before the first.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use bytes::Bytes;
use quorate_engine::{Table, View};

use crate::options::MAX_TOLD_BYTES;

/// What one batch changed. It is in the engine: who reads there sees it, or what came later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The engine's revision with it; one more than that of the batch before.
    pub revision: u64,
    /// By key, each once. None if they are too much to be told: a copy took the place of more than 8 MiB. Who watches reads anew.
    pub events: Option<Vec<Event>>,
}

/// What a batch changed about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// Why.
    pub cause: Cause,
    /// The encoded entry after; where the engine is in memory, the very bytes that it holds. None if a copy took the key away: of
    /// that there is no version.
    pub after: Option<Bytes>,
    /// The encoded entry before, if a value was there, and the engine is in memory: of another it would have to be read.
    pub before: Option<Bytes>,
}

/// Why a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A value was written.
    Put,
    /// It was deleted.
    Delete,
    /// Its time was up; or, in a cache, somebody said that what is here is old.
    Expire,
}

/// What a change is to those who watch.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) cause: Cause,
    /// There was a value, or there may have been: what a cache evicts is not told.
    pub(crate) was_there: bool,
    /// The entry, where the engine keeps nothing of it.
    pub(crate) entry: Option<Bytes>,
}

/// The events of one batch, as they come together.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    events: Vec<(Event, bool)>,
    /// Where each key is among them; made when the first one comes again.
    places: Option<HashMap<Bytes, usize>>,
    bytes: usize,
}

impl Shown {
    /// There is a value now.
    pub(crate) fn put(was_there: bool) -> Self {
        Self { cause: Cause::Put, was_there, entry: None }
    }

    /// There is none any more.
    pub(crate) fn gone(cause: Cause, was_there: bool) -> Self {
        Self { cause, was_there, entry: None }
    }
}

impl Gathered {
    /// One more change, after which the engine has this value. `comes_again`: the batch may have changed the key before.
    pub(crate) fn add(&mut self, key: &Bytes, value: Option<&Bytes>, shown: Shown, comes_again: bool) {
        let Shown { cause, was_there, entry } = shown;
        let after = entry.or_else(|| value.cloned());
        self.bytes += key.len() + after.as_ref().map_or(0, Bytes::len);
        if self.bytes > MAX_TOLD_BYTES {
            return self.events.clear();
        }
        if let Some((event, _)) = self.place(key, comes_again).map(|place| &mut self.events[place]) {
            // What was gone already changes nothing.
            if was_there || cause == Cause::Put {
                (event.cause, event.after) = (cause, after);
            }
            return;
        }
        self.events.push((Event { key: key.clone(), cause, after, before: None }, was_there));
    }

    /// Where the key is already. Otherwise it is what is pushed next.
    fn place(&mut self, key: &Bytes, comes_again: bool) -> Option<usize> {
        if comes_again && self.places.is_none() {
            let places = self.events.iter().enumerate().map(|(place, (event, _))| (event.key.clone(), place));
            self.places = Some(places.collect());
        }
        match self.places.as_mut()?.entry(key.clone()) {
            Place::Occupied(place) => Some(*place.get()),
            Place::Vacant(place) => {
                place.insert(self.events.len());
                None
            }
        }
    }

    /// What the batch of this revision changed, with what the view before it has.
    pub(crate) fn into_changes(self, revision: u64, before: Option<&dyn View>) -> Changes {
        let Self { events, mut bytes, .. } = self;
        if bytes > MAX_TOLD_BYTES {
            return Changes { revision, events: None };
        }
        let seen = events.into_iter().filter(|(event, was_there)| *was_there || event.cause == Cause::Put);
        let told = seen.map(|(mut event, was_there)| {
            if let Some(view) = before.filter(|_| was_there && bytes <= MAX_TOLD_BYTES) {
                // What cannot be read is not known any more.
                event.before = view.peek(Table::Current, &event.key).ok().flatten();
                bytes += event.before.as_ref().map_or(0, Bytes::len);
            }
            event
        });
        Changes { revision, events: Some(told.collect()) }
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::{Batch, Change, Engine, Trie};

    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_key_has_one_event_a_batch_and_none_if_nobody_sees_it() {
        let engine = Trie::new();
        let was = |key| Change::Put { table: Table::Current, key: bytes(key), value: bytes("was") };
        engine.apply(Batch { applied: 1, revision: 1, changes: vec![was("a"), was("c")] }).unwrap();
        let mut gathered = Gathered::default();
        gathered.add(&bytes("a"), Some(&bytes("1")), Shown::put(true), false);
        gathered.add(&bytes("b"), Some(&bytes("1")), Shown::put(false), false);
        gathered.add(&bytes("a"), Some(&bytes("2")), Shown::put(true), true);
        gathered.add(&bytes("b"), Some(&bytes("gone")), Shown::gone(Cause::Delete, true), true);
        gathered.add(&bytes("c"), None, Shown::gone(Cause::Delete, true), false);
        gathered.add(&bytes("c"), None, Shown::gone(Cause::Expire, false), true);
        gathered.add(&bytes("d"), Some(&bytes("gone")), Shown::gone(Cause::Delete, false), true);
        let Changes { revision, events } = gathered.into_changes(7, Some(&*engine.view()));
        let a = Event { key: bytes("a"), cause: Cause::Put, after: Some(bytes("2")), before: Some(bytes("was")) };
        let c = Event { key: bytes("c"), cause: Cause::Delete, after: None, before: Some(bytes("was")) };
        assert_eq!((revision, events), (7, Some(vec![a, c])));
    }

    #[test]
    fn what_is_too_much_is_not_told_and_what_was_before_is_left_out_first() {
        let large = Bytes::from(vec![7; MAX_TOLD_BYTES / 2]);
        let engine = Trie::new();
        let keys = ["a", "b", "c", "d"].map(bytes);
        let was = |key: &Bytes| Change::Put { table: Table::Current, key: key.clone(), value: large.clone() };
        engine.apply(Batch { applied: 1, revision: 1, changes: keys.iter().map(was).collect() }).unwrap();
        let mut gathered = Gathered::default();
        keys.iter().for_each(|key| gathered.add(key, Some(&bytes("small")), Shown::put(true), false));
        let told = gathered.into_changes(2, Some(&*engine.view())).events.unwrap();
        assert_eq!(told.iter().map(|event| event.before.is_some()).collect::<Vec<_>>(), [true, true, false, false]);
        let mut gathered = Gathered::default();
        keys.iter().for_each(|key| gathered.add(key, Some(&large), Shown::put(true), false));
        assert_eq!(gathered.into_changes(3, None), Changes { revision: 3, events: None });
    }
}
