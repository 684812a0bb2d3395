//! Which lines are done: they end in another order than they began.

use std::collections::BTreeSet;

use super::source::Line;

/// Counts lines, and knows up to where none is missing.
#[derive(Debug)]
pub(super) struct Done {
    skipped: u64,
    /// All up to this one are done.
    without_gap: u64,
    /// Those beyond; no more than are under way at the same time.
    beyond: BTreeSet<u64>,
    lines: u64,
    bytes: u64,
}

impl Done {
    /// The first lines are left out.
    pub(super) fn after(skipped: u64) -> Self {
        Self { skipped, without_gap: skipped, beyond: BTreeSet::new(), lines: 0, bytes: 0 }
    }

    /// A line that is left out.
    pub(super) fn skip(&mut self, line: &Line) {
        debug_assert!(line.number <= self.skipped, "only the first lines are left out");
        self.bytes += line.bytes();
    }

    /// A line that is done.
    pub(super) fn insert(&mut self, number: u64, bytes: u64) {
        self.lines += 1;
        self.bytes += bytes;
        self.beyond.insert(number);
        while self.beyond.first() == Some(&(self.without_gap + 1)) {
            self.beyond.pop_first();
            self.without_gap += 1;
        }
    }

    /// How many lines are done, without those that were left out.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Bytes of all lines that are done or were left out.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many lines at the beginning are done for certain, those included that were left out.
    pub(super) fn first_missing(&self) -> u64 {
        self.without_gap
    }
}

#[cfg(test)]
mod tests {
    use super::Done;

    #[test]
    fn a_gap_is_kept_in_mind() {
        let mut done = Done::after(2);
        done.insert(4, 10);
        done.insert(5, 10);
        assert_eq!((done.first_missing(), done.lines(), done.bytes()), (2, 2, 20));
        done.insert(3, 1);
        assert_eq!((done.first_missing(), done.lines(), done.bytes()), (5, 3, 21));
        assert!(done.beyond.is_empty());
    }
}
