//! The end of a request's time, for requests of many steps.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// When a request's time is up, on the runtime's clock, which tests may hold still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub(super) fn after(timeout: Duration) -> Self {
        Self(sleep(timeout).deadline())
    }

    /// What is left; none once it is over.
    pub(super) fn left(self) -> Option<Duration> {
        let now = sleep(Duration::ZERO).deadline();
        Some(self.0.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}
