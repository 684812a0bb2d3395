//! When requests begin: in a closed loop when the answer to the last one is there, in an open loop when they are due.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::load::now;

/// Tells all clients of one load when to begin.
#[derive(Debug)]
pub(super) enum Pace {
    /// Each as soon as it can, until this moment.
    Closed {
        end: Instant,
    },
    Open(Schedule),
}

impl Pace {
    /// Waits for the next beginning. The latency counts from the moment returned, which in an open loop may long be past; `None`
    /// at the end.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { end } => Some(now()).filter(|now| now < end),
            Self::Open(schedule) => schedule.next().await,
        }
    }

    /// Requests that were due and for which no client was free until the end.
    pub(super) fn never_begun(&self) -> u64 {
        match self {
            Self::Closed { .. } => 0,
            Self::Open(schedule) => schedule.total - schedule.taken.get(),
        }
    }

    /// Requests that are due now and for which no client is free.
    pub(super) fn overdue(&self) -> Option<u64> {
        match self {
            Self::Closed { .. } => None,
            Self::Open(schedule) => Some(schedule.due.available_permits() as u64),
        }
    }
}

/// Requests at even distances. They wait in one line for any client that is free, and are late if none is: a server that stops
/// for a second is charged for all that should have been sent in that second, not for one request per client.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    rate: u64,
    total: u64,
    taken: Cell<u64>,
    due: Arc<Semaphore>,
    /// Ends by itself once all are due, or when nobody is left who waits for them.
    timer: Option<JoinHandle<()>>,
}

/// How often the timer looks at the clock at most, however high the rate: it shares the machine with what is measured.
const MIN_SLEEP: Duration = Duration::from_micros(50);

/// The timer looks up this often at least, to end soon if the load ends early.
const MAX_SLEEP: Duration = Duration::from_millis(100);

impl Schedule {
    /// Begins to count time: one request is due at `start`, and `rate` each second from then on until `end`.
    pub(super) fn start(start: Instant, end: Instant, rate: u64, clients: usize) -> io::Result<Self> {
        let total = due_within(end.saturating_duration_since(start), rate);
        let due = Arc::new(Semaphore::new(0));
        let released = Arc::downgrade(&due);
        let release = move || {
            let mut count = 0;
            while count < total {
                let Some(due) = released.upgrade() else { return };
                let until_now = due_within(now().saturating_duration_since(start), rate) + 1;
                let reached = if now() < start { 0 } else { until_now.min(total) };
                due.add_permits((reached - count) as usize);
                count = reached;
                drop(due);
                let next = moment(start, count, rate).saturating_duration_since(now());
                std::thread::sleep(next.clamp(MIN_SLEEP, MAX_SLEEP));
            }
            // Every client learns that there is nothing left.
            if let Some(due) = released.upgrade() {
                due.add_permits(clients);
            }
        };
        // The runtime's own timers are a millisecond wide, which is more than many a latency.
        let timer = std::thread::Builder::new().name("bench-timer".to_owned()).spawn(release)?;
        Ok(Self { start, rate, total, taken: Cell::new(0), due, timer: Some(timer) })
    }

    async fn next(&self) -> Option<Instant> {
        // Nobody closes it.
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.get();
        if number == self.total {
            return None;
        }
        self.taken.set(number + 1);
        Some(moment(self.start, number, self.rate))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        // The timer sees that the semaphore has gone.
        self.due = Arc::new(Semaphore::new(0));
        if let Some(timer) = self.timer.take() {
            let _ = timer.join();
        }
    }
}

/// How many whole distances between two requests a time has.
fn due_within(time: Duration, rate: u64) -> u64 {
    (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u64
}

/// When a request is due.
fn moment(start: Instant, number: u64, rate: u64) -> Instant {
    let (seconds, rest) = (number / rate, number % rate);
    start + Duration::from_secs(seconds) + Duration::from_nanos(rest * 1_000_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Pace, Schedule, moment};
    use crate::bench::load::now;

    #[test]
    fn moments_do_not_drift() {
        let start = now();
        assert_eq!(moment(start, 0, 3), start);
        assert_eq!(moment(start, 3_000_000, 3), start + Duration::from_secs(1_000_000));
        assert_eq!(moment(start, 1, 1_000_000), start + Duration::from_micros(1));
    }

    #[tokio::test]
    async fn every_request_has_its_moment_whoever_takes_it() {
        let start = now();
        let pace = Pace::Open(Schedule::start(start, start + Duration::from_millis(50), 1000, 2).unwrap());
        for number in 0..50 {
            let due = pace.next().await.unwrap();
            assert_eq!(due, moment(start, number, 1000));
            assert!(now() >= due, "not before it is due");
        }
        assert_eq!((pace.next().await, pace.next().await), (None, None), "both clients are told");
        assert_eq!(pace.never_begun(), 0);
    }

    #[tokio::test]
    async fn what_nobody_takes_is_counted_and_ends_with_the_schedule() {
        let start = now();
        let pace = Pace::Open(Schedule::start(start, start + Duration::from_hours(1), 1000, 1).unwrap());
        assert_eq!(pace.next().await, Some(start));
        assert_eq!(pace.never_begun(), 3_599_999);
        // Joins its timer, which would otherwise go on for an hour.
        drop(pace);
    }
}
