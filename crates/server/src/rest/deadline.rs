//! The end of a time: of a request's, for requests of many steps, or until something is due.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// When a time is up, on the runtime's clock, which tests may hold still.
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

    /// Whether it is over.
    pub(super) fn is_over(self) -> bool {
        self.left().is_none()
    }

    /// Waits until it is over.
    pub(super) async fn over(self) {
        sleep_until(self.0).await;
    }
}
