//! Which hashes a bin covers.

/// Spans are not halved further than this: a route has no more bits, and nobody has room for four billion bins.
pub(super) const MAX_DEPTH: u32 = 32;

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
}
