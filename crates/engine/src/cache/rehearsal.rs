//! Which share the window should have, tried out beside the cache.
//!
//! A small window is best where popularity lasts, a large one where what is new is what is wanted next. So the cache is
//! simulated with a window of each size, on a sample of the keys and as much smaller as the sample is, and takes the size that
//! found most (after Waldspurger and others, "Cache Modeling and Optimization using Miniature Simulations", 2017). Unlike a
//! search that moves the window and looks what happens, this compares sizes on the same requests.

use hashbrown::HashTable;

use super::queues::{Bound, Id, Queues};
use crate::key_hash::KeyHash;

/// The sizes that are tried. The first is the one to begin with.
pub(super) const WINDOW_PERCENTS: [u64; 3] = [1, 30, 90];

/// A simulated cache has room for about this many pairs, so that chance evens out.
const SIMULATED_LEN: usize = 1_024;

/// At most one key in this many is in the sample: then all simulations together cost some percent of the cache.
const MAX_SAMPLE_RATE: u64 = 64;

/// A decision is taken after as many requests of the sample as half the pairs that a simulation keeps, this many at least.
const MIN_ROUND_LEN: u64 = 256;

/// In one hundred thousandths of the requests: how much more another size must have found. Each change costs a part of what is in
/// the cache.
const MARGIN: u64 = 500;

/// Of each decision's figures, this much is left for the next, in percent.
const REMEMBERED_PERCENT: u64 = 95;

/// Simulations of one cache, and what came of them.
pub(super) struct Rehearsal {
    /// One key in so many is in the sample; a power of two.
    rate: u64,
    simulations: [Simulation; WINDOW_PERCENTS.len()],
    /// Requests in the sample since the last decision.
    request_count: u64,
    round_len: u64,
    /// In thousandths, faded with each decision.
    weighed_requests: u64,
    chosen: usize,
}

/// A cache of hashes.
struct Simulation {
    queues: Queues,
    index: HashTable<Id>,
    /// In thousandths, faded with each decision.
    weighed_hits: u64,
}

impl Rehearsal {
    /// For a cache that is full with `pair_count` pairs.
    pub(super) fn new(bound: Bound, pair_count: usize) -> Self {
        let rate = Self::rate_for(pair_count);
        let bound = Bound { max_weight: bound.max_weight / rate, max_len: (bound.max_len / rate as usize).max(1) };
        let simulations = WINDOW_PERCENTS.map(|percent| Simulation {
            queues: Queues::new(bound, percent),
            index: HashTable::new(),
            weighed_hits: 0,
        });
        let round_len = (pair_count as u64 / rate / 2).max(MIN_ROUND_LEN);
        Self { rate, simulations, request_count: 0, round_len, weighed_requests: 0, chosen: 0 }
    }

    /// Whether it was made for another number of pairs than are there now.
    pub(super) fn is_outgrown(&self, pair_count: usize) -> bool {
        let rate = Self::rate_for(pair_count);
        rate > 2 * self.rate || 2 * rate < self.rate
    }

    /// Which keys are in the sample, for [`Rehearsal::is_sampled`].
    pub(super) fn sample(&self) -> u64 {
        self.rate - 1
    }

    /// Whether a key is in a sample. By bits that choose neither a place nor a part.
    pub(super) fn is_sampled(sample: u64, hash: KeyHash) -> bool {
        hash.0 >> 48 & sample == 0
    }

    /// A request for a sampled key; its weight is known if the cache has it. Answers which share the window should have from now
    /// on, if that is another.
    pub(super) fn request(&mut self, hash: KeyHash, weight: Option<u32>) -> Option<u64> {
        for simulation in &mut self.simulations {
            if let Some(id) = simulation.find(hash) {
                simulation.queues.touch(id);
                simulation.weighed_hits += 1_000;
            } else if let Some(weight) = weight {
                simulation.insert(hash, weight);
            }
        }
        self.weighed_requests += 1_000;
        self.request_count += 1;
        if self.request_count < self.round_len { None } else { self.decide() }
    }

    /// A sampled key is written.
    pub(super) fn write(&mut self, hash: KeyHash, weight: u32) {
        for simulation in &mut self.simulations {
            if simulation.find(hash).is_none() {
                simulation.insert(hash, weight);
            }
        }
    }

    /// A sampled key is removed by its owner.
    pub(super) fn remove(&mut self, hash: KeyHash) {
        for simulation in &mut self.simulations {
            if let Some(id) = simulation.find(hash) {
                simulation.forget(id);
                simulation.queues.remove(id);
            }
        }
    }

    fn decide(&mut self) -> Option<u64> {
        self.request_count = 0;
        let hits = |at: usize| self.simulations[at].weighed_hits;
        // The first of equals: the smaller window.
        let best = (0..self.simulations.len()).rev().max_by_key(|at| hits(*at)).unwrap_or_default();
        let is_better = hits(best) > hits(self.chosen) + self.weighed_requests * MARGIN / 100_000;
        for simulation in &mut self.simulations {
            simulation.weighed_hits = simulation.weighed_hits * REMEMBERED_PERCENT / 100;
        }
        self.weighed_requests = self.weighed_requests * REMEMBERED_PERCENT / 100;
        if best == self.chosen || !is_better {
            return None;
        }
        self.chosen = best;
        Some(WINDOW_PERCENTS[best])
    }

    fn rate_for(pair_count: usize) -> u64 {
        (1 << (pair_count / SIMULATED_LEN).max(1).ilog2()).min(MAX_SAMPLE_RATE)
    }
}

impl Simulation {
    fn find(&self, hash: KeyHash) -> Option<Id> {
        self.index.find(hash.0, |id| self.queues.hash(*id) == hash).copied()
    }

    fn insert(&mut self, hash: KeyHash, weight: u32) {
        let Self { queues, index, .. } = self;
        if !queues.accepts(weight) {
            return;
        }
        let mut lost = Vec::new();
        let id = queues.insert(hash, weight, |id, _| lost.push(id));
        index.insert_unique(hash.0, id, |id| queues.hash(*id).0);
        for id in lost {
            self.forget(id);
        }
    }

    /// Takes a pair out of the index that may be in the queues no more; its hash is still known.
    fn forget(&mut self, id: Id) {
        if let Ok(entry) = self.index.find_entry(self.queues.hash(id).0, |other| *other == id) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_hash::KeyHasher;

    const BOUND: Bound = Bound { max_weight: 1_000, max_len: 1_000 };

    /// The size in the end, for a cache that has nothing: each request is followed by a write.
    fn chosen(requests: impl Iterator<Item = u64>) -> u64 {
        let hasher = KeyHasher::new(1);
        let mut rehearsal = Rehearsal::new(BOUND, 1_000);
        for number in requests {
            let hash = hasher.hash(&number.to_be_bytes());
            rehearsal.request(hash, None);
            rehearsal.write(hash, 1);
        }
        WINDOW_PERCENTS[rehearsal.chosen]
    }

    #[test]
    fn what_comes_again_soon_or_never_wants_a_wide_window() {
        // Each number comes twice, 300 new ones apart.
        assert_eq!(chosen((300..50_000).flat_map(|number| [number, number - 300])), 90);
    }

    #[test]
    fn what_lasts_wants_a_small_one() {
        let requests = (0..50_000_u64).map(|at| if at % 2 == 0 { at / 2 % 1_100 } else { 1_000_000 + at });
        assert_eq!(chosen(requests), 1);
    }

    #[test]
    fn the_sample_shrinks_as_the_cache_grows() {
        assert_eq!([10, 1_024, 10_000, 100_000, 10_000_000].map(Rehearsal::rate_for), [1, 1, 8, 64, 64]);
        let rehearsal = Rehearsal::new(BOUND, 10_000);
        assert!(!rehearsal.is_outgrown(20_000) && rehearsal.is_outgrown(40_000) && rehearsal.is_outgrown(2_000));
    }

    #[test]
    fn a_removed_key_is_found_no_more() {
        let hash = KeyHasher::new(1).hash(b"key");
        let mut rehearsal = Rehearsal::new(BOUND, 10);
        rehearsal.write(hash, 1);
        assert!(rehearsal.simulations.iter().all(|simulation| simulation.find(hash).is_some()));
        rehearsal.remove(hash);
        assert!(rehearsal.simulations.iter().all(|simulation| simulation.find(hash).is_none() && simulation.queues.len() == 0));
    }
}
