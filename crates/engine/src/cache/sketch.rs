//! How often keys were used of late, about, and of far more keys than are kept: a count-min sketch that forgets.

use crate::key_hash::KeyHash;

/// Counters of 4 bits in a word.
const COUNTERS_PER_WORD: u64 = 16;
const MAX_COUNT: u64 = 15;

/// Words of a block. All counters of a key lie in one block, so in one line of the processor's cache.
const BLOCK_LEN: usize = 8;

/// A key has this many counters; the smallest is the one that others disturb least.
const DEPTH: usize = 4;

/// Counts are halved after this many uses for each pair that is kept. Fewer forget too soon which keys return seldom but
/// surely; more hold on to what was popular once. Measured by `cache_bench`: of 7, 10, 12 and 15 the best compromise.
const USES_PER_PAIR: usize = 12;

/// Lowest bit of every counter cleared after a shift: what spilled over from the next one.
const HALVED: u64 = 0x7777_7777_7777_7777;

/// Frequencies by hash. Never less than what was counted since the last halving, rarely much more.
pub(super) struct Sketch {
    /// A power of two of blocks.
    words: Vec<u64>,
    addition_count: usize,
}

impl Sketch {
    pub(super) fn new() -> Self {
        Self { words: vec![0; BLOCK_LEN], addition_count: 0 }
    }

    /// Makes it large enough for this many pairs: at least 12 bytes for each. What was counted is kept, by both of the keys that
    /// shared a counter.
    pub(super) fn fit(&mut self, pair_count: usize) {
        while self.words.len() * 2 < pair_count * 3 {
            self.words.extend_from_within(..);
        }
    }

    /// For how many pairs it is large enough.
    pub(super) fn places(&self) -> usize {
        self.words.len() * 2 / 3
    }

    /// Counts a use; `pair_count` pairs are kept.
    pub(super) fn add(&mut self, hash: KeyHash, pair_count: usize) {
        let mut is_counted = false;
        for (word, shift) in self.counters(hash) {
            if self.words[word] >> shift & MAX_COUNT < MAX_COUNT {
                self.words[word] += 1 << shift;
                is_counted = true;
            }
        }
        self.addition_count += usize::from(is_counted);
        if self.addition_count >= USES_PER_PAIR * pair_count.max(BLOCK_LEN) {
            self.words.iter_mut().for_each(|word| *word = *word >> 1 & HALVED);
            self.addition_count /= 2;
        }
    }

    /// How often the key was used of late, at most 15.
    pub(super) fn count(&self, hash: KeyHash) -> u64 {
        let counts = self.counters(hash).map(|(word, shift)| self.words[word] >> shift & MAX_COUNT);
        counts.into_iter().min().unwrap_or_default()
    }

    /// The key's counters: each one's word, and where in it. In the block each has two words of its own.
    fn counters(&self, hash: KeyHash) -> [(usize, u64); DEPTH] {
        let block = (hash.0 as usize & (self.words.len() / BLOCK_LEN - 1)) * BLOCK_LEN;
        // Bits that did not choose the block.
        let choice = hash.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        std::array::from_fn(|row| {
            let choice = choice >> (8 * row);
            (block + 2 * row + (choice & 1) as usize, (choice >> 1) % COUNTERS_PER_WORD * 4)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_hash::KeyHasher;

    fn hash(number: u64) -> KeyHash {
        KeyHasher::new(1).hash(&number.to_be_bytes())
    }

    #[test]
    fn counts_up_to_fifteen() {
        let mut sketch = Sketch::new();
        sketch.fit(1_000);
        for expected in (1..=15).chain([15; 5]) {
            sketch.add(hash(1), 1_000);
            assert_eq!(sketch.count(hash(1)), expected);
        }
        assert_eq!(sketch.count(hash(2)), 0);
    }

    #[test]
    fn tells_the_often_used_from_the_rest() {
        let mut sketch = Sketch::new();
        sketch.fit(1_000);
        for number in 0..5_000 {
            sketch.add(hash(number), 1_000);
            sketch.add(hash(number % 100), 1_000);
        }
        let rare = (1_000..5_000).filter(|number| sketch.count(hash(*number)) >= 5).count();
        assert!((0..100).all(|number| sketch.count(hash(number)) >= 10));
        assert!(rare < 400, "{rare} of 4,000 are taken for popular");
    }

    #[test]
    fn forgets_by_halves() {
        let mut sketch = Sketch::new();
        sketch.fit(100);
        (0..12).for_each(|_| sketch.add(hash(1), 100));
        let others = (USES_PER_PAIR * 100) as u64 - 12;
        (0..others).for_each(|number| sketch.add(hash(1_000 + number), 100));
        assert!((6..=7).contains(&sketch.count(hash(1))), "{}", sketch.count(hash(1)));
    }

    #[test]
    fn growth_keeps_the_counts() {
        let mut sketch = Sketch::new();
        sketch.fit(10);
        (0..9).for_each(|_| sketch.add(hash(1), 100));
        sketch.fit(10_000);
        assert_eq!(sketch.count(hash(1)), 9);
        assert_eq!(sketch.count(hash(2)), 0);
    }
}
