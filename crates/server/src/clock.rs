//! The real clock. The only place of this crate that reads it for the node.

#![expect(clippy::disallowed_methods, reason = "this is where the node's time comes from")]

use std::time::{Duration, Instant};

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

    /// How long it is until `then`; nothing if that is past.
    pub(crate) fn until(&self, then: Monotonic) -> Duration {
        let target = Duration::from_millis(then.0);
        target.saturating_sub(self.began.elapsed())
    }
}
