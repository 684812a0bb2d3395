//! Hashes of keys, and which of their bits serve what.

use siphasher::sip::SipHasher13;

/// Spans are not halved further than this; nobody has room for four billion bins.
pub(super) const MAX_DEPTH: u32 = 32;

/// Hashes keys. With `SipHash`, because clients choose the keys: who does not know the seed cannot make many of them meet.
#[derive(Clone, Copy)]
pub(super) struct KeyHasher {
    sip: SipHasher13,
}

impl KeyHasher {
    pub(super) fn new(seed: u64) -> Self {
        Self { sip: SipHasher13::new_with_keys(seed, seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15) }
    }

    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.sip.hash(key))
    }
}

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash(pub(super) u64);

impl KeyHash {
    /// The bits that lead to a bin. The table within a bin uses others: the lowest for places, the highest seven for tags.
    pub(super) fn route(self) -> u64 {
        self.0 >> 16 & ((1 << MAX_DEPTH) - 1)
    }
}

/// The hashes that a bin covers: those whose route ends in `bits`, the lowest `depth` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) bits: u64,
    pub(super) depth: u32,
}

impl Span {
    /// Every hash.
    pub(super) const ALL: Self = Self { bits: 0, depth: 0 };

    pub(super) fn covers(self, route: u64) -> bool {
        (route ^ self.bits) & ((1 << self.depth) - 1) == 0
    }

    /// The two halves; the lower one first, which has this span's bits.
    pub(super) fn halves(self) -> [Self; 2] {
        let depth = self.depth + 1;
        [Self { bits: self.bits, depth }, Self { bits: self.bits | 1 << self.depth, depth }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_share_a_span() {
        let mut spans = vec![Span::ALL];
        for _ in 0..5 {
            spans = spans.into_iter().flat_map(Span::halves).collect();
        }
        for route in 0..1_000 {
            let holders: Vec<u64> = spans.iter().filter(|span| span.covers(route)).map(|span| span.bits).collect();
            assert_eq!(holders, [route % 32]);
        }
    }

    #[test]
    fn a_seed_decides_the_hashes() {
        let hash = |seed: u64| KeyHasher::new(seed).hash(b"key");
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }
}
