//! The log time of a shard, as whoever reads from it can know it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::Monotonic;

/// How late it is for the pairs of a shard: the log time of what was applied last, and what has passed since by the node's clock.
///
/// It is a guess, and for people: a pair goes when an entry removes it, and not when this says so.
#[derive(Debug, Default)]
pub struct LogTime {
    applied_ms: AtomicU64,
    since_ms: AtomicU64,
}

impl LogTime {
    /// The log time now, in milliseconds.
    pub fn at(&self, now: Monotonic) -> u64 {
        // The two may be of two moments: then the guess is off by what passed between them.
        let since = Monotonic(self.since_ms.load(Ordering::Relaxed));
        self.applied_ms.load(Ordering::Relaxed) + now.since(since)
    }

    /// Takes note of the log time of what is applied now.
    pub(crate) fn set(&self, applied_ms: u64, now: Monotonic) {
        if self.applied_ms.load(Ordering::Relaxed) != applied_ms {
            self.since_ms.store(now.0, Ordering::Relaxed);
            self.applied_ms.store(applied_ms, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_between_entries() {
        let time = LogTime::default();
        time.set(1000, Monotonic(50));
        time.set(1000, Monotonic(60));
        assert_eq!(time.at(Monotonic(75)), 1025);
        time.set(1010, Monotonic(80));
        assert_eq!(time.at(Monotonic(80)), 1010);
    }
}
