//! Own writes that a peer has not confirmed.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;

use crate::entry::Entry;
use crate::message::Pair;
use crate::version::Hlc;

/// What a slot takes besides key and value, for the bound.
pub(crate) const SLOT_BYTES: u64 = 128;

/// Own writes by place, 1 and up.
///
/// A write of a key that has a slot that was sent to nobody yet takes that slot: only the newest version travels, and whoever has
/// the slot has a version at least as great as each that was ever in it. Slots that were sent stay as they are, and so do those
/// that somebody passes by who listens from a later place on ([`Outbox::seal`]).
///
/// *Invariants*: `first_hlc` increases with the place, and is at most that of all writes of the slot and of later ones; `bytes`
/// is what the slots take.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    slots: BTreeMap<u64, Slot>,
    /// The slot of each key that may be taken again.
    unsent: HashMap<Bytes, u64>,
    last: u64,
    bytes: u64,
}

/// A place in the outbox.
#[derive(Debug)]
struct Slot {
    key: Bytes,
    entry: Entry,
    /// The stamp of the first write that was here.
    first_hlc: Hlc,
    /// When that came.
    since_ms: u64,
}

impl Slot {
    fn size_bytes(&self) -> u64 {
        (self.key.len() + self.entry.body.size_bytes()) as u64 + SLOT_BYTES
    }
}

/// What is sent at once: places, and what was written there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) bytes: u64,
}

impl Outbox {
    /// The last place that was given to a write.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// What the slots take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds a write, and says where it is.
    pub(crate) fn add(&mut self, key: &Bytes, entry: Entry, now_ms: u64) -> u64 {
        if let Some(place) = self.unsent.get(key)
            && let Some(slot) = self.slots.get_mut(place)
        {
            self.bytes -= slot.size_bytes();
            slot.entry = entry;
            self.bytes += slot.size_bytes();
            return *place;
        }
        self.last += 1;
        let slot = Slot { key: key.clone(), first_hlc: entry.version.hlc, since_ms: now_ms, entry };
        self.bytes += slot.size_bytes();
        self.slots.insert(self.last, slot);
        self.unsent.insert(key.clone(), self.last);
        self.last
    }

    /// Says the last place, after which somebody begins to listen: no later write takes a slot at or before it.
    pub(crate) fn seal(&mut self) -> u64 {
        self.unsent.clear();
        self.last
    }

    /// What comes after a place, up to another and up to these bounds; at least one slot, if there is one. Its slots are sent
    /// from now on.
    pub(crate) fn window(&mut self, after: u64, upto: u64, max_bytes: u64, max_pairs: usize) -> Option<Window> {
        let mut window = Window { first: after + 1, last: after, pairs: Vec::new(), bytes: 0 };
        for (place, slot) in
            self.slots.range((Excluded(after), Included(upto.max(after + 1)))).filter(|(place, _)| **place <= upto)
        {
            if !window.pairs.is_empty() && (window.bytes + slot.size_bytes() > max_bytes || window.pairs.len() >= max_pairs) {
                break;
            }
            window.last = *place;
            window.bytes += slot.size_bytes();
            window.pairs.push(Pair { key: slot.key.clone(), entry: slot.entry.clone() });
            if self.unsent.get(&slot.key) == Some(place) {
                self.unsent.remove(&slot.key);
            }
        }
        (!window.pairs.is_empty()).then_some(window)
    }

    /// The stamp up to which all own writes are at or before this place; none if there is nothing after it.
    pub(crate) fn complete_to(&self, place: u64) -> Option<Hlc> {
        self.slots.range(place + 1..).next().map(|(_, slot)| slot.first_hlc.before())
    }

    /// Since when the oldest write after a place has been here.
    pub(crate) fn oldest_ms(&self, place: u64) -> Option<u64> {
        self.slots.range(place + 1..).next().map(|(_, slot)| slot.since_ms)
    }

    /// Everybody who listens has what is at or before this place.
    pub(crate) fn trim(&mut self, upto: u64) {
        while let Some(first) = self.slots.first_entry().filter(|slot| *slot.key() <= upto) {
            let (place, slot) = first.remove_entry();
            self.bytes -= slot.size_bytes();
            if self.unsent.get(&slot.key) == Some(&place) {
                self.unsent.remove(&slot.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Body;
    use crate::version::{InstanceId, Version};

    fn entry(hlc: u64) -> Entry {
        let version = Version { hlc: Hlc(hlc), instance: InstanceId(1) };
        Entry { version, deadline_ms: 0, body: Body::plain(Bytes::from(vec![0; 10])) }
    }

    fn add(outbox: &mut Outbox, key: &'static str, hlc: u64) -> u64 {
        outbox.add(&Bytes::from_static(key.as_bytes()), entry(hlc), 10 * hlc)
    }

    fn stamps(window: &Window) -> Vec<u64> {
        window.pairs.iter().map(|pair| pair.entry.version.hlc.0).collect()
    }

    #[test]
    fn only_the_newest_of_a_window_travels() {
        let mut outbox = Outbox::default();
        assert_eq!([add(&mut outbox, "a", 1), add(&mut outbox, "b", 2), add(&mut outbox, "a", 3)], [1, 2, 1]);
        let window = outbox.window(0, 9, u64::MAX, 9).unwrap();
        assert_eq!((window.first, window.last, stamps(&window)), (1, 2, vec![3, 2]));
        // What was sent stays: a lost frame is sent again as it was.
        assert_eq!(add(&mut outbox, "a", 4), 3);
        assert_eq!(stamps(&outbox.window(0, 9, u64::MAX, 9).unwrap()), [3, 2, 4]);
        assert_eq!(stamps(&outbox.window(2, 9, u64::MAX, 9).unwrap()), [4]);
        assert_eq!(outbox.window(3, 9, u64::MAX, 9), None);
    }

    #[test]
    fn a_slot_that_a_listener_passes_by_stays_as_it_is() {
        let mut outbox = Outbox::default();
        assert_eq!([add(&mut outbox, "a", 1), outbox.seal(), add(&mut outbox, "a", 2)], [1, 1, 2]);
        assert_eq!(stamps(&outbox.window(1, 9, u64::MAX, 9).unwrap()), [2]);
        assert_eq!(stamps(&outbox.window(0, 9, u64::MAX, 9).unwrap()), [1, 2]);
    }

    #[test]
    fn windows_keep_to_their_bounds_but_for_one_large_slot() {
        let mut outbox = Outbox::default();
        for (key, at) in [("a", 1), ("b", 2), ("c", 3)] {
            add(&mut outbox, key, at);
        }
        assert_eq!(outbox.window(0, 9, 1, 9).unwrap().last, 1);
        assert_eq!(outbox.window(0, 9, u64::MAX, 2).unwrap().last, 2);
        assert_eq!(outbox.window(0, 9, 2 * (SLOT_BYTES + 11), 9).unwrap().last, 2);
    }

    #[test]
    fn what_is_complete_follows_from_the_first_slot_that_is_left() {
        let mut outbox = Outbox::default();
        add(&mut outbox, "a", 5);
        add(&mut outbox, "b", 7);
        add(&mut outbox, "a", 9);
        assert_eq!([0, 1, 2].map(|place| outbox.complete_to(place)), [Some(Hlc(4)), Some(Hlc(6)), None]);
        assert_eq!([0, 1, 2].map(|place| outbox.oldest_ms(place)), [Some(50), Some(70), None]);
    }

    #[test]
    fn trimmed_slots_take_nothing() {
        let mut outbox = Outbox::default();
        add(&mut outbox, "a", 1);
        add(&mut outbox, "b", 2);
        outbox.trim(1);
        assert_eq!((outbox.bytes(), outbox.len()), (SLOT_BYTES + 11, 1));
        assert_eq!(add(&mut outbox, "a", 3), 3, "its slot is gone");
        outbox.trim(9);
        assert_eq!((outbox.bytes(), outbox.len(), outbox.unsent.len(), outbox.last()), (0, 0, 0, 3));
    }
}
