//! Time and names of writes, for stores.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Tells the time, and names writes. Clones share what was named.
#[derive(Clone)]
pub struct Clock {
    unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    writer: u64,
    last_us: Arc<AtomicU64>,
}

/// Names one write: no other has the same. The time is for people; order follows from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When, in microseconds since 1970 by the writer's clock; each of one writer's is greater than those before.
    pub unix_us: u64,
    /// Who: drawn at random once per start of a node.
    pub writer: u64,
}

impl Clock {
    /// A clock by a function that gives milliseconds since 1970, and a number that no other process has.
    pub fn new(writer: u64, unix_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { unix_ms: Arc::new(unix_ms), writer, last_us: Arc::default() }
    }

    /// Now, in milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        (self.unix_ms)()
    }

    /// A name for a write.
    pub fn stamp(&self) -> Stamp {
        let now_us = self.unix_ms().saturating_mul(1000);
        let next = |last: u64| Some(now_us.max(last + 1));
        let last = self.last_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_else(|last| last);
        Stamp { unix_us: now_us.max(last + 1), writer: self.writer }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("unix_ms", &self.unix_ms()).field("writer", &self.writer).finish_non_exhaustive()
    }
}

/// The moment after a time has passed, by tokio's timers: for deadlines.
pub(crate) fn after(time: Duration) -> Instant {
    tokio::time::sleep(time).deadline()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_differ_while_the_clock_stands_still_and_when_it_goes_back() {
        let time = Arc::new(AtomicU64::new(1_000));
        let shown = time.clone();
        let clock = Clock::new(7, move || shown.load(Ordering::Relaxed));
        let first = clock.stamp();
        assert_eq!(first, Stamp { unix_us: 1_000_000, writer: 7 });
        let second = clock.clone().stamp();
        time.store(1, Ordering::Relaxed);
        let third = clock.stamp();
        assert!(first.unix_us < second.unix_us && second.unix_us < third.unix_us);
    }
}
