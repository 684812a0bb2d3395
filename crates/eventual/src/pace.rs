//! How fast copies leave a replica, where that is bounded.

/// What was not sent may be sent later, but no more than of so long: so a poll that comes late slows nothing down, and a pause is
/// not followed by a flood.
const MAX_SAVED_MS: u64 = 100;

/// Thousandths of a byte in a byte: a rate is in bytes per second, and time in milliseconds.
const PARTS: i64 = 1_000;

/// A piece of a copy takes this part of a second of the rate, so that it leaves evenly.
const PIECES_PER_SECOND: u64 = 8;

/// A piece is not made smaller than this for that.
const MIN_PIECE_BYTES: u64 = 16 << 10;

/// What may be sent of copies by now.
///
/// *Invariant*: within any time, what is sent is at most what the rate gives for it and [`MAX_SAVED_MS`] more, and the last
/// message: one is sent if there is any room, and what it takes beyond that is waited for before the next one. Where values are
/// looked up elsewhere, that is the last message to each of those who get copies.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes per second; none: no bound.
    rate: Option<i64>,
    /// Room, in parts of bytes; below 0: more than there was has been sent.
    room: i64,
    now_ms: u64,
    /// How often time has passed.
    turns: usize,
}

impl Pace {
    /// Time has passed. `rate` in bytes per second.
    pub(crate) fn advance(&mut self, rate: Option<u64>, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.now_ms);
        self.now_ms = now_ms;
        self.turns = self.turns.wrapping_add(1);
        self.rate = rate.map(|rate| i64::try_from(rate.max(1)).unwrap_or(i64::MAX));
        if let Some(rate) = self.rate {
            let of = |ms: u64| rate.saturating_mul(i64::try_from(ms).unwrap_or(i64::MAX));
            self.room = self.room.saturating_add(of(passed_ms)).min(of(MAX_SAVED_MS));
        }
    }

    /// Whether there is a rate.
    pub(crate) fn is_bounded(&self) -> bool {
        self.rate.is_some()
    }

    /// Whether a message may be sent now.
    pub(crate) fn has_room(&self) -> bool {
        self.rate.is_none() || self.room > 0
    }

    /// One of so many bytes was.
    pub(crate) fn took(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.room = self.room.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(PARTS));
        }
    }

    /// When the next one may be sent.
    pub(crate) fn due_ms(&self) -> u64 {
        match self.rate {
            Some(rate) if self.room <= 0 => self.now_ms.saturating_add((self.room.unsigned_abs() / rate.unsigned_abs()) + 1),
            _ => self.now_ms,
        }
    }

    /// Whose turn it is first, of so many that share the rate: everybody's comes.
    pub(crate) fn first_of(&self, count: usize) -> usize {
        self.rate.and_then(|_| self.turns.checked_rem(count)).unwrap_or(0)
    }

    /// How much a message is to carry, of so much at most.
    pub(crate) fn piece_bytes(&self, max_bytes: u64) -> u64 {
        self.rate.map_or(max_bytes, |rate| (rate.unsigned_abs() / PIECES_PER_SECOND).max(MIN_PIECE_BYTES).min(max_bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever sends as soon as it may keeps to the rate in each stretch of time, and makes use of all of it.
        #[test]
        fn what_leaves_within_any_time_is_bounded(
            rate in 1..1_u64 << 32,
            steps in prop::collection::vec((prop_oneof![0..5_u64, 0..3_000_u64], 0..1_u64 << 20), 1..60),
        ) {
            let mut pace = Pace::default();
            let mut now_ms = 1_000;
            // When, and how much.
            let mut sent: Vec<(u64, u64)> = Vec::new();
            for (late_ms, bytes) in steps {
                now_ms = pace.due_ms().max(now_ms) + late_ms;
                pace.advance(Some(rate), now_ms);
                prop_assert!(pace.has_room(), "it is due");
                pace.took(bytes);
                sent.push((now_ms, bytes));
                if !pace.has_room() {
                    let due_ms = pace.due_ms();
                    prop_assert!(due_ms > now_ms);
                    let mut early = Pace { rate: pace.rate, room: pace.room, now_ms, turns: 0 };
                    early.advance(Some(rate), due_ms - 1);
                    prop_assert!(!early.has_room(), "it is not due before");
                }
            }
            for (first, (from_ms, _)) in sent.iter().enumerate() {
                let mut total = 0_u128;
                for (to_ms, bytes) in &sent[first..] {
                    let allowed = u128::from(rate) * u128::from(to_ms - from_ms + MAX_SAVED_MS);
                    prop_assert!(total * 1_000 <= allowed, "{total} bytes before the last message, {allowed} allowed");
                    total += u128::from(*bytes);
                }
            }
        }
    }

    #[test]
    fn all_of_the_rate_is_used() {
        let mut pace = Pace::default();
        let (mut now_ms, mut total) = (0, 0);
        while now_ms < 60_000 {
            pace.advance(Some(1 << 20), now_ms);
            while pace.has_room() {
                pace.took(100_000);
                total += 100_000_u64;
            }
            now_ms = pace.due_ms() + 7;
        }
        assert!((60_u64 << 20..=61 << 20).contains(&total), "{total}");
    }

    #[test]
    fn without_a_rate_there_is_no_bound_and_pieces_are_as_large_as_they_may_be() {
        let mut pace = Pace::default();
        pace.advance(None, 10);
        pace.took(u64::MAX);
        assert!(pace.has_room() && pace.due_ms() == 10 && pace.piece_bytes(500_000) == 500_000);
        pace.advance(Some(u64::MAX), 20);
        assert!(pace.has_room() && pace.piece_bytes(500_000) == 500_000);
        pace.advance(Some(64 << 10), 1_000);
        assert_eq!(pace.piece_bytes(500_000), 16 << 10);
    }
}
