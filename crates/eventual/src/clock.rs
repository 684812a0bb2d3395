//! The hybrid logical clock of a replica, with the bound that keeps it from going back over a restart.

use crate::version::Hlc;

/// How far ahead a bound is noted, in milliseconds: one small log record per two seconds or so of writing.
pub(crate) const BOUND_AHEAD_MS: u64 = 3_000;

/// A new bound is noted when less than this is left of the last one, so that writers hardly ever wait for it.
const BOUND_LEFT_MS: u64 = 1_500;

/// Makes stamps.
///
/// *Invariants*: stamps strictly increase; none is above `bound`, which is durable; after a restart the clock begins at the bound
/// that was durable last, and so above all that was ever stamped, sent, or promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    last: Hlc,
    /// The durable bound.
    bound: Hlc,
    /// The bound that was handed to the log last.
    noted: Hlc,
}

impl Clock {
    /// The last stamp that was made or seen.
    pub(crate) fn last(&self) -> Hlc {
        self.last
    }

    /// The bound that was handed to the log last.
    pub(crate) fn noted(&self) -> Hlc {
        self.noted
    }

    /// What may be promised: that all later stamps are greater. Never above the bound, or a restart could break the promise.
    pub(crate) fn promised(&self) -> Hlc {
        self.last.min(self.bound)
    }

    /// Takes note of somebody else's time. However far ahead it is: refusing it would keep replicas from becoming equal.
    pub(crate) fn observe(&mut self, remote: Hlc) {
        self.last = self.last.max(remote);
    }

    /// Goes on from a bound that was found in the log.
    pub(crate) fn resume(&mut self, bound: Hlc) {
        self.bound = self.bound.max(bound);
        self.noted = self.noted.max(bound);
        self.last = self.last.max(bound);
    }

    /// Needs no bound: whoever restarts it is another instance.
    pub(crate) fn resume_unbounded(&mut self) {
        self.bound = Hlc(u64::MAX);
        self.noted = Hlc(u64::MAX);
    }

    /// The next stamp that may be made at this time, if the bound allows one. `stored` is what the key has now.
    pub(crate) fn stamp(&mut self, now_ms: u64, stored: Hlc) -> Option<Hlc> {
        let stamp = Hlc::at_ms(now_ms).max(self.last.next()).max(stored.next());
        if stamp > self.bound {
            return None;
        }
        self.last = stamp;
        Some(stamp)
    }

    /// The bound that should be noted now, if any: above what a stamp needs soon, if there are writers; above what others
    /// stamped in any case, or nothing could be promised about that time.
    pub(crate) fn wanted_bound(&mut self, now_ms: u64, is_writing: bool) -> Option<Hlc> {
        let next = Hlc::at_ms(now_ms).max(self.last.next());
        let is_short = is_writing && next.ms() + BOUND_LEFT_MS > self.noted.ms();
        if !(is_short || self.last > self.noted) || self.noted == Hlc(u64::MAX) {
            return None;
        }
        self.noted = Hlc::at_ms(next.ms() + BOUND_AHEAD_MS);
        Some(self.noted)
    }

    /// A bound is durable.
    pub(crate) fn on_bound_durable(&mut self, bound: Hlc) {
        self.bound = self.bound.max(bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(now_ms: u64) -> Clock {
        let mut clock = Clock::default();
        let bound = clock.wanted_bound(now_ms, true).unwrap();
        clock.on_bound_durable(bound);
        clock
    }

    #[test]
    fn stamps_increase_whatever_the_wall_clock_does() {
        let mut clock = ready(10_000);
        let first = clock.stamp(10_000, Hlc::ZERO).unwrap();
        let second = clock.stamp(2_000, Hlc::ZERO).unwrap();
        assert!(second > first);
        let third = clock.stamp(10_001, Hlc::ZERO).unwrap();
        assert_eq!(third, Hlc::at_ms(10_001));
        let stored = Hlc::at_ms(10_500);
        assert_eq!(clock.stamp(10_002, stored), Some(stored.next()));
    }

    #[test]
    fn no_stamp_is_above_the_durable_bound() {
        let mut clock = Clock::default();
        assert_eq!(clock.stamp(5, Hlc::ZERO), None);
        let bound = clock.wanted_bound(5, true).unwrap();
        assert_eq!(clock.wanted_bound(5, true), None, "it was asked for already");
        assert_eq!(clock.stamp(5, Hlc::ZERO), None, "it is not durable yet");
        clock.on_bound_durable(bound);
        assert!(clock.stamp(5, Hlc::ZERO).is_some());
        clock.observe(Hlc::at_ms(1 << 40));
        assert_eq!(clock.stamp(6, Hlc::ZERO), None, "who hears of the future needs another bound");
        assert_eq!(clock.promised(), bound);
        let next = clock.wanted_bound(6, false).unwrap();
        clock.on_bound_durable(next);
        assert!(clock.stamp(6, Hlc::ZERO).unwrap() > Hlc::at_ms(1 << 40));
    }

    #[test]
    fn a_restart_begins_above_all_that_was_stamped() {
        let mut clock = ready(10_000);
        let bound = clock.promised().max(clock.bound);
        let last = clock.stamp(11_000, Hlc::ZERO).unwrap();
        let mut again = Clock::default();
        again.resume(bound);
        let bound = again.wanted_bound(1, true).unwrap();
        again.on_bound_durable(bound);
        assert!(again.stamp(1, Hlc::ZERO).unwrap() > last, "the wall clock went back by ten seconds");
    }
}
