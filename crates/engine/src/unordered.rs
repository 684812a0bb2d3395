//! Scans of what has no order: the keys of a range are gathered and sorted, a limited number at a time.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::vec;

use bytes::Bytes;

use crate::{Direction, KeyRange};

/// Keys of the first round. A page of a list needs no second one.
const FIRST_ROUND_LEN: usize = 1_024;

/// Each round is this many times the one before, up to `MAX_ROUND_LEN`, so that a scan of everything needs few.
const ROUND_GROWTH: usize = 8;

/// A bound on the memory of a scan, keys aside: half a million handles.
const MAX_ROUND_LEN: usize = FIRST_ROUND_LEN * 512;

/// What can be asked for a key, and can show all that it has.
pub(crate) trait Unordered {
    /// The value of a key. Not a use of it.
    fn value(&self, key: &[u8]) -> Option<Bytes>;

    /// Offers every key in the range that there is, in any order and as often as it likes. Others may be among them.
    fn offer_keys(&self, range: &KeyRange, keys: &mut NearKeys);
}

/// The pairs of a range, in rounds: each looks at every key once and takes the next few. So a scan of which little is taken
/// costs one look at every key, and memory for what is taken; one of everything costs a look for each half a million pairs.
pub(crate) struct Scan<'a, S> {
    source: &'a S,
    direction: Direction,
    /// Where the next round goes on; none after the last.
    rest: Option<KeyRange>,
    round_len: usize,
    /// Keys of the present round that are still to come, in the order of the scan. Some may not be there.
    round: vec::IntoIter<Box<[u8]>>,
}

impl<'a, S: Unordered> Scan<'a, S> {
    pub(crate) fn new(source: &'a S, range: KeyRange, direction: Direction) -> Self {
        Self { source, direction, rest: Some(range), round_len: FIRST_ROUND_LEN, round: Vec::new().into_iter() }
    }

    /// Gathers the keys of the next round.
    fn next_round(&mut self, range: KeyRange) {
        let mut keys = NearKeys { direction: self.direction, max_len: self.round_len, keys: BTreeSet::new() };
        self.source.offer_keys(&range, &mut keys);
        self.rest = keys.rest_of(range);
        self.round = keys.into_ordered().into_iter();
        self.round_len = (self.round_len * ROUND_GROWTH).min(MAX_ROUND_LEN);
    }
}

impl<S: Unordered> Iterator for Scan<'_, S> {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for key in self.round.by_ref() {
                if let Some(value) = self.source.value(&key) {
                    return Some((key.into(), value));
                }
            }
            let range = self.rest.take()?;
            self.next_round(range);
        }
    }
}

/// Of all keys offered, the first few in a direction.
pub(crate) struct NearKeys {
    direction: Direction,
    max_len: usize,
    keys: BTreeSet<Box<[u8]>>,
}

impl NearKeys {
    pub(crate) fn offer(&mut self, key: &[u8]) {
        if self.keys.len() >= self.max_len && !self.is_nearer_than_last(key) {
            return;
        }
        self.keys.insert(key.into());
        if self.keys.len() > self.max_len {
            match self.direction {
                Direction::Forward => self.keys.pop_last(),
                Direction::Reverse => self.keys.pop_first(),
            };
        }
    }

    fn last(&self) -> Option<&[u8]> {
        let last = match self.direction {
            Direction::Forward => self.keys.last(),
            Direction::Reverse => self.keys.first(),
        };
        last.map(|key| &**key)
    }

    fn is_nearer_than_last(&self, key: &[u8]) -> bool {
        self.last().is_some_and(|last| match self.direction {
            Direction::Forward => key < last,
            Direction::Reverse => key > last,
        })
    }

    /// What lies beyond these keys, if there was no room for more.
    fn rest_of(&self, range: KeyRange) -> Option<KeyRange> {
        if self.keys.len() < self.max_len {
            return None;
        }
        let last = Bound::Excluded(Bytes::copy_from_slice(self.last()?));
        Some(match self.direction {
            Direction::Forward => KeyRange { start: last, ..range },
            Direction::Reverse => KeyRange { end: last, ..range },
        })
    }

    fn into_ordered(self) -> Vec<Box<[u8]>> {
        match self.direction {
            Direction::Forward => self.keys.into_iter().collect(),
            Direction::Reverse => self.keys.into_iter().rev().collect(),
        }
    }
}
