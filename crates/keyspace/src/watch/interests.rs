//! Who is interested in which keys.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_engine::KeyRange;

use crate::Keys;

/// Interests in keys, each with a name, found by key.
///
/// Cost: to find those of a key takes a lookup for the key, one for every length that a prefix has, and a look at each range that
/// is no prefix.
#[derive(Clone, Debug)]
pub struct Interests<N> {
    keys: BTreeMap<Bytes, BTreeSet<N>>,
    /// By length.
    prefixes: BTreeMap<usize, BTreeMap<Bytes, BTreeSet<N>>>,
    ranges: Vec<(Keys, N)>,
}

/// Where an interest is kept.
enum Kept<'a> {
    Key(&'a Bytes),
    Prefix(Bytes),
    Range,
}

impl<N> Default for Interests<N> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), prefixes: BTreeMap::new(), ranges: Vec::new() }
    }
}

impl<N: Ord + Clone> Interests<N> {
    /// Notes an interest. The same twice is once.
    pub fn add(&mut self, keys: &Keys, name: N) {
        match kept(keys) {
            Kept::Key(key) => add_name(&mut self.keys, key.clone(), name),
            Kept::Prefix(prefix) => add_name(self.prefixes.entry(prefix.len()).or_default(), prefix, name),
            Kept::Range if self.ranges.iter().any(|(of, by)| (of, by) == (keys, &name)) => {}
            Kept::Range => self.ranges.push((keys.clone(), name)),
        }
    }

    /// Forgets an interest, if it was noted.
    pub fn remove(&mut self, keys: &Keys, name: &N) {
        match kept(keys) {
            Kept::Key(key) => remove_name(&mut self.keys, key, name),
            Kept::Prefix(prefix) => {
                if let Some(of_length) = self.prefixes.get_mut(&prefix.len()) {
                    remove_name(of_length, &prefix, name);
                    if of_length.is_empty() {
                        self.prefixes.remove(&prefix.len());
                    }
                }
            }
            Kept::Range => self.ranges.retain(|(of, by)| (of, by) != (keys, name)),
        }
    }

    /// Calls `each` with the name of every interest in a key; with a name that has several, perhaps several times.
    pub fn each(&self, key: &Bytes, mut each: impl FnMut(&N)) {
        self.keys.get(key).into_iter().flatten().for_each(&mut each);
        for (length, of_length) in self.prefixes.range(..=key.len()) {
            of_length.get(&key[..*length]).into_iter().flatten().for_each(&mut each);
        }
        self.ranges.iter().filter(|(keys, _)| keys.contains(key)).for_each(|(_, name)| each(name));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty() && self.ranges.is_empty()
    }
}

fn kept(keys: &Keys) -> Kept<'_> {
    match keys {
        Keys::One(key) => Kept::Key(key),
        Keys::Range(range) => as_prefix(range).map_or(Kept::Range, Kept::Prefix),
    }
}

/// The prefix that all keys of the range have, and no others.
fn as_prefix(range: &KeyRange) -> Option<Bytes> {
    use std::ops::Bound::{Included, Unbounded};
    match &range.start {
        Unbounded => (range.end == Unbounded).then(Bytes::new),
        Included(start) => (*range == KeyRange::prefix(start)).then(|| start.clone()),
        std::ops::Bound::Excluded(_) => None,
    }
}

fn add_name<N: Ord>(names: &mut BTreeMap<Bytes, BTreeSet<N>>, key: Bytes, name: N) {
    names.entry(key).or_default().insert(name);
}

fn remove_name<N: Ord>(names: &mut BTreeMap<Bytes, BTreeSet<N>>, key: &Bytes, name: &N) {
    if let Some(of_key) = names.get_mut(key) {
        of_key.remove(name);
        if of_key.is_empty() {
            names.remove(key);
        }
    }
}
