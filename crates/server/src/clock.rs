//! The real clock. The only place of this crate that reads it for the node.

#![expect(clippy::disallowed_methods, reason = "this is where the node's time comes from")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_node::Monotonic;

/// Milliseconds since the process began. A suspended machine's time may be missing: that only makes waits longer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    /// Begins at 0.
    pub(crate) fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// Now.
    pub(crate) fn now(&self) -> Monotonic {
        Monotonic(self.began.elapsed().as_millis() as u64)
    }

    /// Milliseconds since 1970 by the system's clock, which may be wrong and go back: for people, and for the stamps of eventual
    /// keyspaces, which are made for that.
    pub(crate) fn calendar_ms() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    /// How long it is until `then`; nothing if that is past.
    pub(crate) fn until(&self, then: Monotonic) -> Duration {
        let target = Duration::from_millis(then.0);
        target.saturating_sub(self.began.elapsed())
    }
}
