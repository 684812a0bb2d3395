//! Which keys the store outside does not have yet as the engine has them: in what order, and when again.
//!
//! No input, no output, no clock: the carrier asks what is next, and says what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use quorate_engine::BehindStats;

use crate::{ErrorKind, Outcome, StoreError};

/// What a key takes in memory while it waits, about, besides its own bytes: so that the bound on bytes bounds keys, too.
pub(crate) const KEY_OVERHEAD_BYTES: u64 = 256;

/// After a failure nothing is tried for this long, and twice as long after the next.
const FIRST_PAUSE_MS: u64 = 100;

/// Pauses are no longer.
const MAX_PAUSE_MS: u64 = 5_000;

/// When a key is tried again that the store refused; the next time after twice as long.
const FIRST_REFUSED_PAUSE_MS: u64 = 1_000;

/// These pauses are no longer.
const MAX_REFUSED_PAUSE_MS: u64 = 60_000;

/// So many refused keys do not count towards the bound on bytes. Beyond it something is wrong with all of them, and more are to
/// be held up.
const MAX_UNCOUNTED_REFUSED: u64 = 10_000;

/// The keys that wait.
///
/// *Invariants*: every key in here has its row in the engine. Of one key at most one attempt is under way. A key that was noted
/// while it was under way stays here.
#[derive(Debug)]
pub(crate) struct Queue {
    keys: HashMap<Bytes, Waiting>,
    /// Keys that no attempt is under way for, by when they may be tried, and in turn.
    turns: BTreeMap<(u64, u64), Bytes>,
    /// All keys, by the first note of them that is not settled.
    ages: BTreeSet<(u64, Bytes)>,
    bytes: u64,
    max_bytes: u64,
    /// Greatest number of a note, and of a turn.
    noted: u64,
    turn: u64,
    /// More keys have rows than are in here: the first note among them, and since when, if that is known.
    spilled_from: Option<u64>,
    spilled_since_ms: Option<u64>,
    /// Of the bytes, those of keys that were read from their rows.
    row_bytes: u64,
    /// Where the reading of rows goes on, and whether more were spilled since it began.
    read_until: Option<Bytes>,
    is_spilled_again: bool,
    under_way: usize,
    /// The store is one that can be written to, as far as is known.
    is_ready: bool,
    /// A write of unknown outcome may come about for this long.
    late_ms: u64,
    /// Until then one may come about of any key: of content that is not there any more.
    unsure_until_ms: u64,
    failures: u32,
    /// When the last of them was noted: others that had begun before say nothing new.
    failed_at_ms: u64,
    paused_until_ms: u64,
    written: u64,
    coalesced: u64,
    failed: u64,
    refused: u64,
    last_error: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    /// The first note that is not settled, and the last.
    first: u64,
    last: u64,
    since_ms: u64,
    bytes: u64,
    /// What of [`Queue::row_bytes`] is its.
    row_bytes: u64,
    /// None while an attempt is under way.
    turn: Option<(u64, u64)>,
    is_refused: bool,
    /// So often in a row.
    refusals: u32,
    /// Until then an attempt may still come about, and undo a later one: so the key is written once more afterwards.
    unsure_until_ms: u64,
}

/// A key to be written to the store as the engine has it now, or removed from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) key: Bytes,
    /// Bytes of key and value, and [`KEY_OVERHEAD_BYTES`].
    pub(crate) bytes: u64,
    /// All notes up to this one are settled by it.
    upto: u64,
    begun_ms: u64,
}

/// Rows that are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Those after this key; all if there is none.
    pub(crate) after: Option<Bytes>,
}

impl Queue {
    /// One that keeps so many bytes at most. Rows that are there already are to be read. `late_ms` is how long a write may take
    /// to come about that nobody waits for any longer.
    pub(crate) fn new(max_bytes: u64, late_ms: u64) -> Self {
        Self {
            keys: HashMap::new(),
            turns: BTreeMap::new(),
            ages: BTreeSet::new(),
            bytes: 0,
            max_bytes,
            noted: 1,
            turn: 0,
            spilled_from: Some(1),
            spilled_since_ms: None,
            row_bytes: 0,
            read_until: None,
            is_spilled_again: false,
            under_way: 0,
            is_ready: true,
            late_ms,
            unsure_until_ms: 0,
            failures: 0,
            failed_at_ms: 0,
            paused_until_ms: 0,
            written: 0,
            coalesced: 0,
            failed: 0,
            refused: 0,
            last_error: None,
        }
    }

    /// Whether the engine has to be given a row for a key that changes.
    pub(crate) fn needs_row(&self, key: &Bytes) -> bool {
        !self.keys.contains_key(key)
    }

    /// A key has changed in the engine, and has its row there. One that is new where all room is taken is left to its row.
    pub(crate) fn note(&mut self, key: &Bytes, value_bytes: u64, now_ms: u64) {
        self.noted += 1;
        let bytes = KEY_OVERHEAD_BYTES + key.len() as u64 + value_bytes;
        if let Some(waiting) = self.keys.get_mut(key) {
            self.bytes = self.bytes - waiting.bytes + bytes;
            (waiting.bytes, waiting.last) = (bytes, self.noted);
            self.coalesced += u64::from(waiting.turn.is_some());
            // It may be one that the store takes now.
            self.refused -= u64::from(std::mem::take(&mut waiting.is_refused));
            if waiting.turn.is_some_and(|(at_ms, _)| at_ms > now_ms) {
                self.put_off(key, now_ms);
            }
        } else if self.bytes >= self.max_bytes {
            self.spilled_from.get_or_insert(self.noted);
            self.spilled_since_ms.get_or_insert(now_ms);
            self.is_spilled_again = true;
        } else {
            self.insert(key, bytes, self.noted, now_ms);
        }
    }

    fn insert(&mut self, key: &Bytes, bytes: u64, first: u64, now_ms: u64) {
        self.hold(key, bytes, first, now_ms);
        self.put_off(key, now_ms);
    }

    /// Keeps a key as one that an attempt is under way for.
    fn hold(&mut self, key: &Bytes, bytes: u64, first: u64, now_ms: u64) {
        let waiting = Waiting {
            first,
            last: self.noted,
            since_ms: now_ms,
            bytes,
            row_bytes: 0,
            turn: None,
            is_refused: false,
            refusals: 0,
            unsure_until_ms: 0,
        };
        self.bytes += bytes;
        self.ages.insert((first, key.clone()));
        self.keys.insert(key.clone(), waiting);
    }

    /// Gives a key that no attempt is under way for its turn, at this time or later.
    fn put_off(&mut self, key: &Bytes, until_ms: u64) {
        let Some(waiting) = self.keys.get_mut(key) else { return };
        self.turn += 1;
        if let Some(old) = waiting.turn.replace((until_ms, self.turn)) {
            self.turns.remove(&old);
        }
        self.turns.insert((until_ms, self.turn), key.clone());
    }

    /// Whether the store is open, and the one that it should be.
    pub(crate) fn set_ready(&mut self, is_ready: bool) {
        self.is_ready = is_ready;
    }

    /// The same.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The next key to be tried, if there is one now. While the store fails, one at a time.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Work> {
        if !self.is_ready || now_ms < self.paused_until_ms || (self.failures > 0 && self.under_way > 0) {
            return None;
        }
        let turn = *self.turns.first_key_value().filter(|((at_ms, _), _)| *at_ms <= now_ms)?.0;
        let key = self.turns.remove(&turn)?;
        let waiting = self.keys.get_mut(&key)?;
        waiting.turn = None;
        self.under_way += 1;
        Some(Work { bytes: waiting.bytes, upto: waiting.last, begun_ms: now_ms, key })
    }

    /// When there may be a key to be tried, if nothing else happens before.
    pub(crate) fn next_at_ms(&self) -> Option<u64> {
        if !self.is_ready || (self.failures > 0 && self.under_way > 0) {
            return None;
        }
        let ((at_ms, _), _) = self.turns.first_key_value()?;
        Some((*at_ms).max(self.paused_until_ms))
    }

    /// What came of an attempt. Whether the store has now what the engine has: then the key is not here any more, and its row is
    /// to go.
    pub(crate) fn done(&mut self, work: &Work, result: &Result<(), StoreError>, now_ms: u64) -> bool {
        self.under_way -= 1;
        match result {
            Ok(()) => {
                (self.failures, self.last_error) = (0, None);
                self.written += 1;
            }
            Err(error) => self.note_failure(work, error, now_ms),
        }
        let Some(waiting) = self.keys.get_mut(&work.key) else { return false };
        if result.is_ok() {
            self.refused -= u64::from(std::mem::take(&mut waiting.is_refused));
            waiting.refusals = 0;
        }
        let mut until_ms = now_ms;
        let unsure_until_ms = waiting.unsure_until_ms.max(self.unsure_until_ms);
        match result {
            Ok(()) if waiting.last == work.upto && unsure_until_ms <= work.begun_ms => {
                self.bytes -= waiting.bytes;
                self.row_bytes -= waiting.row_bytes;
                self.ages.remove(&(waiting.first, work.key.clone()));
                self.keys.remove(&work.key);
                return true;
            }
            Ok(()) if waiting.last == work.upto => until_ms = unsure_until_ms,
            Ok(()) => {
                self.ages.remove(&(waiting.first, work.key.clone()));
                (waiting.first, waiting.since_ms) = (work.upto + 1, now_ms);
                self.ages.insert((waiting.first, work.key.clone()));
            }
            Err(error) => {
                if error.outcome == Outcome::Unknown {
                    waiting.unsure_until_ms = now_ms + self.late_ms;
                }
                // What was noted since may be taken.
                if is_refusal(error.kind) && waiting.last == work.upto {
                    if self.refused < MAX_UNCOUNTED_REFUSED {
                        // The store will not get it, and nobody is to wait for that.
                        self.bytes -= std::mem::take(&mut waiting.bytes);
                        self.row_bytes -= std::mem::take(&mut waiting.row_bytes);
                    }
                    self.refused += u64::from(!std::mem::replace(&mut waiting.is_refused, true));
                    until_ms = now_ms + (FIRST_REFUSED_PAUSE_MS << waiting.refusals.min(10)).min(MAX_REFUSED_PAUSE_MS);
                    waiting.refusals += 1;
                }
            }
        }
        self.put_off(&work.key, until_ms);
        false
    }

    fn note_failure(&mut self, work: &Work, error: &StoreError, now_ms: u64) {
        if is_refusal(error.kind) {
            self.last_error = Some(format!("key {:?}: {error}", String::from_utf8_lossy(&work.key)));
            self.failed += 1;
        } else if self.failures > 0 && work.begun_ms <= self.failed_at_ms {
            self.failed += 1;
        } else {
            self.fail(error, now_ms);
        }
    }

    /// The store does not do what it is asked for, whatever that is: it is left alone for a while.
    pub(crate) fn fail(&mut self, error: &StoreError, now_ms: u64) {
        let pause_ms = (FIRST_PAUSE_MS << self.failures.min(10)).min(MAX_PAUSE_MS);
        self.failures = self.failures.saturating_add(1);
        (self.failed_at_ms, self.paused_until_ms) = (now_ms, now_ms + pause_ms);
        self.failed += 1;
        self.last_error = Some(error.to_string());
    }

    /// The rows that are to be read, if there are more than keys in here, and room for them.
    pub(crate) fn wants_rows(&mut self) -> Option<Wanted> {
        // Keys that wait in their rows have a share of the room, however much is written meanwhile.
        let has_room = self.bytes <= self.max_bytes / 2 || self.row_bytes < self.max_bytes / 8;
        if self.spilled_from.is_none() || !has_room {
            return None;
        }
        if self.read_until.is_none() {
            self.is_spilled_again = false;
        }
        Some(Wanted { after: self.read_until.clone() })
    }

    /// A row was read: its key waits. False if there is no more room, and it was not taken in.
    pub(crate) fn take_row(&mut self, key: Bytes, value_bytes: u64, now_ms: u64) -> bool {
        if self.bytes >= self.max_bytes && self.row_bytes >= self.max_bytes / 8 {
            return false;
        }
        if self.needs_row(&key) {
            let bytes = KEY_OVERHEAD_BYTES + key.len() as u64 + value_bytes;
            self.insert(&key, bytes, self.spilled_from.unwrap_or(self.noted), now_ms);
            self.row_bytes += bytes;
            self.keys.get_mut(&key).into_iter().for_each(|waiting| waiting.row_bytes = bytes);
        }
        self.read_until = Some(key);
        true
    }

    /// There was no row after those that were taken in.
    pub(crate) fn end_rows(&mut self) {
        self.read_until = None;
        if !self.is_spilled_again {
            (self.spilled_from, self.spilled_since_ms) = (None, None);
        }
    }

    /// The engine has other content now, with rows for all that may differ from what the store has.
    pub(crate) fn begin_anew(&mut self, now_ms: u64) {
        self.noted += 1;
        self.turns.clear();
        let unsure = self.keys.values().map(|waiting| waiting.unsure_until_ms).max();
        self.unsure_until_ms = self.unsure_until_ms.max(unsure.unwrap_or(0));
        let under_way: Vec<(Bytes, u64)> =
            self.keys.drain().filter(|(_, it)| it.turn.is_none()).map(|(k, it)| (k, it.bytes)).collect();
        self.ages.clear();
        (self.bytes, self.row_bytes, self.refused) = (0, 0, 0);
        for (key, bytes) in under_way {
            // Its attempt is of the old content, and counts for nothing.
            self.hold(&key, bytes, self.noted, now_ms);
        }
        (self.spilled_from, self.spilled_since_ms) = (Some(self.noted), Some(now_ms));
        (self.read_until, self.is_spilled_again) = (None, true);
    }

    /// How it stands.
    pub(crate) fn stats(&self, now_ms: u64) -> BehindStats {
        let since_ms = self.ages.first().and_then(|(_, key)| self.keys.get(key)).map(|waiting| waiting.since_ms);
        let first_open = [self.ages.first().map(|(first, _)| *first), self.spilled_from].into_iter().flatten().min();
        BehindStats {
            waiting_keys: self.keys.len() as u64,
            waiting_bytes: self.bytes,
            max_waiting_bytes: self.max_bytes,
            is_spilled: self.spilled_from.is_some(),
            oldest_ms: now_ms.saturating_sub(since_ms.into_iter().chain(self.spilled_since_ms).min().unwrap_or(now_ms)),
            noted: self.noted,
            settled: first_open.map_or(self.noted, |first| first - 1),
            written: self.written,
            coalesced: self.coalesced,
            failed: self.failed,
            refused_keys: self.refused,
            last_error: self.last_error.clone(),
        }
    }
}

/// Whether it is the key or the value that the store does not take: others may fare better.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TooLarge | ErrorKind::BadKey | ErrorKind::BadData | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 4 * (KEY_OVERHEAD_BYTES + 11);

    /// A queue that has read its rows, of which there are none.
    fn queue() -> Queue {
        let mut queue = Queue::new(MAX, 1_000);
        assert_eq!(queue.wants_rows(), Some(Wanted { after: None }));
        queue.end_rows();
        queue
    }

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn error(kind: ErrorKind) -> Result<(), StoreError> {
        Err(StoreError::new("memory", kind, "planted"))
    }

    #[test]
    fn keys_are_tried_in_turn_and_settled_as_they_were_last_noted() {
        let mut queue = queue();
        queue.note(&key("a"), 10, 0);
        queue.note(&key("b"), 10, 0);
        queue.note(&key("a"), 10, 1);
        let a = queue.next(1).unwrap();
        assert_eq!(a.key, key("a"));
        queue.note(&key("a"), 10, 2);
        assert!(!queue.done(&a, &Ok(()), 3), "it was noted again since");
        let b = queue.next(3).unwrap();
        assert!(b.key == key("b") && queue.done(&b, &Ok(()), 4) && queue.needs_row(&b.key));
        let a = queue.next(4).unwrap();
        assert!(a.key == key("a") && queue.done(&a, &Ok(()), 5));
        let stats = queue.stats(5);
        assert_eq!((stats.waiting_keys, stats.waiting_bytes, stats.written, stats.coalesced), (0, 0, 3, 1));
        assert_eq!((queue.next(1_000_000), stats.noted), (None, stats.settled));
    }

    #[test]
    fn what_is_settled_goes_by_the_oldest_note() {
        let mut queue = queue();
        let before = queue.stats(0).noted;
        queue.note(&key("a"), 10, 0);
        queue.note(&key("b"), 10, 5);
        let (a, b) = (queue.next(5).unwrap(), queue.next(5).unwrap());
        assert!(queue.done(&b, &Ok(()), 6));
        assert_eq!((queue.stats(9).settled, queue.stats(9).oldest_ms), (before, 9));
        queue.note(&key("a"), 10, 7);
        assert!(!queue.done(&a, &Ok(()), 8));
        assert_eq!((queue.stats(9).settled, queue.stats(9).oldest_ms), (before + 1, 1), "its first note is settled");
    }

    #[test]
    fn a_store_that_fails_is_left_alone_for_longer_and_longer_and_tried_with_one_key() {
        let mut queue = queue();
        queue.note(&key("a"), 10, 0);
        queue.note(&key("b"), 10, 0);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..9 {
            let work = queue.next(now).unwrap();
            assert!(pauses.is_empty() || queue.next(now).is_none(), "one at a time");
            assert!(!queue.done(&work, &error(ErrorKind::Unreachable), now));
            let at = queue.next_at_ms().unwrap();
            assert_eq!(queue.next(at - 1), None);
            pauses.push(at - now);
            now = at;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert!(queue.stats(now).last_error.unwrap().contains("planted"));
        let work = queue.next(now).unwrap();
        assert!(queue.done(&work, &Ok(()), now) && queue.stats(now).last_error.is_none() && queue.next(now).is_some());
    }

    #[test]
    fn a_key_that_is_refused_holds_up_nobody_and_is_tried_when_it_changes() {
        let mut queue = queue();
        queue.note(&key("a"), 10, 0);
        queue.note(&key("b"), 10, 0);
        let a = queue.next(0).unwrap();
        assert!(!queue.done(&a, &error(ErrorKind::TooLarge), 0));
        assert_eq!((queue.stats(0).refused_keys, queue.next(0).unwrap().key), (1, key("b")));
        let b = queue.next(FIRST_REFUSED_PAUSE_MS - 1);
        assert_eq!((b, queue.next_at_ms()), (None, Some(FIRST_REFUSED_PAUSE_MS)));
        queue.note(&key("a"), 1, 1);
        assert_eq!((queue.next(1).unwrap().key, queue.stats(1).refused_keys), (key("a"), 0));
    }

    #[test]
    fn what_may_still_come_about_is_written_over_once_it_cannot_any_more() {
        let mut queue = queue();
        queue.note(&key("a"), 10, 0);
        let work = queue.next(0).unwrap();
        let unknown = Err(StoreError::new("memory", ErrorKind::Timeout, "planted").unknown());
        assert!(!queue.done(&work, &unknown, 0));
        let work = queue.next(100).unwrap();
        assert!(!queue.done(&work, &Ok(()), 100), "the first attempt may undo it yet");
        assert_eq!((queue.next(999), queue.next_at_ms()), (None, Some(1_000)));
        queue.note(&key("a"), 10, 200);
        let work = queue.next(200).unwrap();
        assert!(!queue.done(&work, &Ok(()), 300) && queue.next(999).is_none(), "a change is written at once, and once more");
        let work = queue.next(1_000).unwrap();
        assert!(queue.done(&work, &Ok(()), 1_100));
    }

    #[test]
    fn what_has_no_room_is_left_to_its_row_and_read_again() {
        let mut queue = queue();
        let names = ["a", "b", "c", "d", "e", "f"];
        names.iter().for_each(|name| queue.note(&key(name), 10, 0));
        let stats = queue.stats(0);
        assert_eq!((stats.waiting_keys, stats.is_full(), stats.is_spilled), (4, true, true));
        assert!(queue.needs_row(&key("e")));
        // There is always room for some of those, whatever else waits; for no more than that.
        assert!(queue.wants_rows().is_some() && queue.take_row(key("e"), 10, 0));
        assert!(queue.wants_rows().is_none() && !queue.take_row(key("f"), 10, 0));
        let mut written = Vec::new();
        for _ in 0..20 {
            if let Some(Wanted { after }) = queue.wants_rows() {
                // What is settled has no row any more.
                let rows = names.iter().filter(|name| !written.contains(&key(name)));
                let mut rows = rows.filter(|name| after.as_ref().is_none_or(|after| key(name) > *after));
                if rows.all(|name| queue.take_row(key(name), 10, 0)) {
                    queue.end_rows();
                }
            }
            let Some(work) = queue.next(0) else { break };
            assert!(queue.done(&work, &Ok(()), 0));
            written.push(work.key);
        }
        written.sort();
        assert_eq!(written, names.map(key));
        let stats = queue.stats(0);
        assert_eq!((stats.waiting_keys, stats.is_spilled, stats.settled), (0, false, stats.noted));
    }

    #[test]
    fn attempts_of_old_content_settle_nothing() {
        let mut queue = queue();
        queue.note(&key("a"), 10, 0);
        queue.note(&key("b"), 10, 0);
        let work = queue.next(0).unwrap();
        queue.begin_anew(0);
        assert!(queue.stats(0).settled < queue.stats(0).noted && !queue.done(&work, &Ok(()), 0));
        assert_eq!(queue.wants_rows(), Some(Wanted { after: None }));
        assert!(queue.take_row(key("a"), 10, 0) && queue.take_row(key("c"), 10, 0));
        queue.end_rows();
        for name in ["a", "c"] {
            let work = queue.next(0).unwrap();
            assert!(work.key == key(name) && queue.done(&work, &Ok(()), 0));
        }
        assert_eq!((queue.next(0), queue.stats(0).settled), (None, queue.stats(0).noted));
    }
}
