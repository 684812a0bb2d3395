//! What a cache counted of late.

use std::collections::VecDeque;

use crate::CacheStats;

/// How long is of late.
const WINDOW_SECONDS: u64 = 60;

/// What had been counted at the beginning of each of the last seconds in which the time was told.
#[derive(Default)]
pub(super) struct Recent {
    samples: VecDeque<Sample>,
}

struct Sample {
    second: u64,
    hits: u64,
    misses: u64,
}

impl Recent {
    /// The time is told. What was counted is asked for once a second at most.
    pub(super) fn advance(&mut self, now_ms: u64, stats: impl FnOnce() -> CacheStats) {
        let second = now_ms / 1_000;
        if self.samples.back().is_some_and(|last| last.second >= second) {
            return;
        }
        let CacheStats { hits, misses, .. } = stats();
        self.samples.push_back(Sample { second, hits, misses });
        let begin = second.saturating_sub(WINDOW_SECONDS);
        // The newest that is not within the window is where it begins.
        while self.samples.get(1).is_some_and(|next| next.second <= begin) {
            self.samples.pop_front();
        }
    }

    /// Hits and misses since the window began.
    pub(super) fn since(&self, stats: &CacheStats) -> (u64, u64) {
        let (hits, misses) = self.samples.front().map_or((0, 0), |first| (first.hits, first.misses));
        // A rebuild may lose a get that is under way.
        (stats.hits.saturating_sub(hits), stats.misses.saturating_sub(misses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_back_a_minute() {
        let mut recent = Recent::default();
        let counted = |hits| CacheStats { hits, ..CacheStats::default() };
        assert_eq!(recent.since(&counted(5)), (5, 0));
        for second in 0..200 {
            // Ten in each second; told twice in each.
            recent.advance(second * 1_000, || counted(second * 10));
            recent.advance(second * 1_000 + 500, || panic!("asked twice in a second"));
        }
        assert_eq!(recent.since(&counted(2_000)), (610, 0));
        assert!(recent.samples.len() <= WINDOW_SECONDS as usize + 1);
    }

    #[test]
    fn a_time_that_is_told_seldom_widens_the_window() {
        let mut recent = Recent::default();
        for (second, hits) in [(0, 0), (100, 50), (130, 70)] {
            recent.advance(second * 1_000, || CacheStats { hits, ..CacheStats::default() });
        }
        assert_eq!(recent.since(&CacheStats { hits: 75, ..CacheStats::default() }), (75, 0));
    }
}
