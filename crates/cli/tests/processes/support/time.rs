//! Waiting with a limit, and telling what was measured.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks at something that will come.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "tests of real processes live in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// Sleeps.
pub(crate) fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Looks until there is something. Panics with what was seen last if it does not come within the limit.
#[track_caller]
pub(crate) fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(since(start) < limit, "{what}: not within {limit:?}; last seen: {seen}"),
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// A line for whoever watches the tests; shown when one fails, too.
#[expect(clippy::print_stdout, reason = "what a test prints is caught by its harness")]
pub(crate) fn tell(line: impl Display) {
    println!("{line}");
}
