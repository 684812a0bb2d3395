//! Simulated time, and the clocks that processes read.

use std::fmt;

use quorate_node::Monotonic;

/// Microseconds since the simulation began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimTime(pub u64);

impl SimTime {
    /// This, so many microseconds later.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// This, so many milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        self.plus_us(ms.saturating_mul(1000))
    }

    /// Microseconds from `earlier` to this; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A process' clock: begins anywhere, runs a little fast or slow, may jump forward; never back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: SimTime,
    offset_us: u64,
    /// Parts in a million that it is fast; negative if slow.
    drift_ppm: i64,
}

impl Clock {
    /// A clock that shows `offset_us` at `began`.
    pub(crate) fn new(began: SimTime, offset_us: u64, drift_ppm: i64) -> Self {
        assert!(drift_ppm.abs() < 500_000, "a clock runs about as fast as the others");
        Self { began, offset_us, drift_ppm }
    }

    /// What it shows.
    pub(crate) fn read(&self, now: SimTime) -> Monotonic {
        // In one product: rounded in two steps, a slow clock would go back by a little at each of them.
        let per_million = u128::from((1_000_000 + self.drift_ppm).cast_unsigned());
        let shown_us = u128::from(now.since(self.began)) * per_million / 1_000_000;
        Monotonic((self.offset_us + shown_us as u64) / 1000)
    }

    /// Jumps forward.
    pub(crate) fn jump(&mut self, ms: u64) {
        self.offset_us += ms * 1000;
    }

    /// When it will show `at`, or a little after; `now` if it does already.
    pub(crate) fn when(&self, now: SimTime, at: Monotonic) -> SimTime {
        let wait_us = at.since(self.read(now)).cast_signed() * 1000;
        now.plus_us((wait_us - wait_us / 1000 * self.drift_ppm / 1000).max(0).cast_unsigned())
    }
}

/// A machine's wall clock: set by somebody, now and then, and further off with each second after that.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WallClock {
    set_at: SimTime,
    /// By how much it was ahead then.
    offset_ms: i64,
    /// Parts in a million that it is fast; negative if slow.
    drift_ppm: i64,
}

impl WallClock {
    /// By how much it is ahead; negative if it is behind.
    pub(crate) fn offset_ms(&self, now: SimTime) -> i64 {
        let since_ms = i64::try_from(now.since(self.set_at) / 1000).expect("a simulation lasts minutes");
        self.offset_ms + since_ms * self.drift_ppm / 1_000_000
    }

    /// Somebody sets it; it goes as fast as before.
    pub(crate) fn set(&mut self, now: SimTime, offset_ms: i64) {
        (self.set_at, self.offset_ms) = (now, offset_ms);
    }

    /// It goes at another speed from now on.
    pub(crate) fn drift(&mut self, now: SimTime, drift_ppm: i64) {
        self.set(now, self.offset_ms(now));
        self.drift_ppm = drift_ppm;
    }

    /// Parts in a million that it is fast; negative if slow.
    pub(crate) fn drift_ppm(&self) -> i64 {
        self.drift_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clocks_go_on_from_where_they_were_set() {
        let at = |ms: u64| SimTime::default().plus_ms(ms);
        let mut clock = WallClock::default();
        assert_eq!(clock.offset_ms(at(60_000)), 0);
        clock.drift(at(60_000), -20_000);
        assert_eq!([60_000, 61_000, 90_000].map(|ms| clock.offset_ms(at(ms))), [0, -20, -600]);
        clock.set(at(90_000), 3_600_000);
        assert_eq!([90_000, 91_000].map(|ms| clock.offset_ms(at(ms))), [3_600_000, 3_599_980]);
        clock.drift(at(100_000), 200);
        assert_eq!([100_000, 105_000].map(|ms| clock.offset_ms(at(ms))), [3_599_800, 3_599_801]);
    }

    #[test]
    fn clocks_drift_and_jump_but_never_go_back() {
        for drift_ppm in [-50_000, 0, 50_000] {
            let mut clock = Clock::new(SimTime(500), 7_000_000, drift_ppm);
            let mut last = clock.read(SimTime(500));
            assert_eq!(last, Monotonic(7000));
            for step in 1..2000 {
                if step == 1000 {
                    clock.jump(5000);
                }
                let shown = clock.read(SimTime(500 + step * 1700));
                assert!(shown >= last);
                last = shown;
            }
            let expected = 12_000 + 3398 + 3398 * drift_ppm / 1_000_000;
            assert!((last.0.cast_signed() - expected).abs() <= 5, "{last:?} is not about {expected}");
        }
    }

    #[test]
    fn clocks_do_not_go_back_from_one_microsecond_to_the_next() {
        for drift_ppm in [-9_999, 9_999] {
            let clock = Clock::new(SimTime(0), 995_003, drift_ppm);
            let shown: Vec<Monotonic> = (0..50_000).map(|us| clock.read(SimTime(us))).collect();
            assert!(shown.is_sorted(), "drift {drift_ppm}");
        }
    }

    #[test]
    fn waiting_until_a_clock_shows_a_time_comes_close() {
        for drift_ppm in [-50_000, 0, 50_000] {
            let clock = Clock::new(SimTime(0), 0, drift_ppm);
            let at = clock.when(SimTime(1_000_000), Monotonic(3000));
            assert!((2990..3010).contains(&clock.read(at).0), "{:?}", clock.read(at));
        }
    }
}
